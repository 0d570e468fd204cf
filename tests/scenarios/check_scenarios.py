"""`check` and --dry-run change nothing, and what they promise is what a capture started right after does."""

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys

import processes
import tool as tool_module
import witness
from scenario import Scenario
from tool import NOBODY
from waiting import wait_for

STATES = ("ok", "degraded", "missing", "unknown")
ALL_NAMES = [
    "kernel", "root", "capabilities", "memory", "seccomp", "landlock",
    "ctnetlink", "buffer", "activation", "events", "accounting", "timestamps", "table",
    "nf_tables", "owned_table", "legacy_ipv4", "legacy_ipv6", "iptables", "ip6tables", "flowtables",
    "trace", "trace_legacy", "nflog_group_0", "nf_log",
    "owners", "btf", "bpf", "kprobes", "lockdown", "cgroup2", "procfs", "sock_diag",
    "instance", "leftovers", "run_folder", "output", "syslog",
]
VITAL = {"root", "memory", "ctnetlink", "activation"}
NFNLGRP_NFTABLES = 7
PLAIN_RULES = "table ip plain {\n chain f { type filter hook forward priority 0; udp dport 666 counter drop; }\n}"
FLOWTABLE = """
table inet fast {
    flowtable swift { hook ingress priority 0; devices = { rc, rs }; }
    chain forward { type filter hook forward priority 0; ct state established flow add @swift;
    }
}
"""
# A listener of NFLOG group 0 whose name would clear a terminal. It ends with its standard input.
RIVAL = r"""
import ctypes, os, socket, struct, sys
ctypes.CDLL(None).prctl(15, b"\x1b[2Jevil", 0, 0, 0)
rival = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
rival.bind((0, 0))
body = struct.pack("!BBH", 0, 0, 0) + struct.pack("=HHB3x", 5, 1, 1)
rival.send(struct.pack("=IHHII", 16 + len(body), 4 << 8 | 1, 5, 1, 0) + body)
print(struct.unpack("=i", rival.recv(4096)[16:20])[0], flush=True)
sys.stdin.read()
"""
# System calls that change something for others, whatever their arguments are.
FORBIDDEN_CALLS = (
    "creat", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "link", "linkat", "symlink",
    "symlinkat", "truncate", "ftruncate", "chmod", "fchmod", "fchmodat", "chown", "fchown", "fchownat", "mknod", "mknodat",
    "mount", "fsopen", "fsmount", "move_mount", "umount2", "unshare", "setns", "flock", "kill", "init_module", "finit_module",
    "perf_event_open", "setxattr", "utimensat", "sethostname", "reboot",
)


class Checking(Scenario):
    def state(self):
        """All that somebody could notice. A legacy table is looked at only where it is loaded: looking loads it."""
        rules = re.sub(r"\s*elements = \{[^}]*\}", "", witness.nft_ruleset(self.network))  # these have a time to live
        state = {"nft": rules, "sysctls": witness.sysctls(self.network), "notes": sorted(self.notes())}
        for listing, save in (("ip_tables_names", "iptables-legacy-save"), ("ip6_tables_names", "ip6tables-legacy-save")):
            with self.network.inside("router"), open(f"/proc/thread-self/net/{listing}", encoding="ascii") as file:
                state[listing] = sorted(file.read().split())
            for table in state[listing]:
                state[save, table] = witness.legacy_rules(self.network, save, "-t", table)
        with open("/proc/mounts", encoding="utf-8") as file:
            state["mounts"] = [line for line in file if "/run/netns" not in line]
        state["modules"] = modules()
        state["processes"] = self.network.processes("router")
        return state

    def notes(self):
        """What is in the files under /run of this namespace."""
        for path in self.network.notes():
            with open(path, encoding="utf-8") as file:
                yield path, file.read(), os.stat(path).st_mtime_ns

    def run_unchanged(self, *options, **popen):
        """Run it, and nothing has changed."""
        before = self.state()
        tool = self.run_to_end(*options, **popen)
        self.assertEqual(self.state(), before)
        self.assertNotIn("panicked", tool.errors())
        self.assertEqual(tool.errors(), "")
        return tool

    def check(self, *options, code=0, **popen):
        """The lines by their name."""
        tool = self.run_unchanged("check", "--format", "json", *options, **popen)
        objects = [json.loads(line) for line in tool.output().splitlines()]
        lines, summary = objects[:-1], objects[-1]
        self.assertEqual([line["name"] for line in lines], ALL_NAMES)
        for line in lines:
            self.assertLessEqual({"v", "type", "name", "state", "detail"}, set(line))
            self.assertLessEqual(set(line), {"v", "type", "name", "state", "rung", "detail", "advice"})
            self.assertEqual((line["v"], line["type"]), (1, "check"))
            self.assertIn(line["state"], STATES)
            self.assertTrue(line["detail"])
            if line["state"] == "missing" and line["name"] not in ("nf_tables", "bpf", "trace_legacy", "nf_log", "owned_table", "activation", "ctnetlink"):
                self.assertTrue(line.get("advice"), line)
        self.assertEqual((summary["v"], summary["type"]), (1, "summary"))
        for state in STATES:
            self.assertEqual(summary[state], sum(line["state"] == state for line in lines))
        self.assertEqual(tool.process.returncode, code, tool.output())
        self.assertEqual(summary["works"], code == 0, summary)
        self.assert_same_text(lines, self.run_unchanged("check", *options, **popen).output(), code)
        return {line["name"]: line for line in lines}

    def assert_same_text(self, lines, text, code):
        """The table says the same, and steers no terminal."""
        self.assertNotRegex(text, r"[^\n -~]", "a control character, or more than ASCII")
        rows = text.splitlines()
        found = [tuple(row.split()[:2]) for row in rows[:-1] if row.split()[0] != "->"]
        self.assertEqual(found, [(line["state"], line["name"]) for line in lines])
        self.assertEqual(rows[-1].startswith("a capture works here"), code == 0, rows[-1])
        self.assertEqual(sum(row.strip().startswith("-> ") for row in rows), sum("advice" in line for line in lines))

    def promised(self, *options, code=0, **popen):
        """The rungs that `check` and --dry-run name; both name the same."""
        lines = self.check(*options, code=code, **popen)
        rungs = {name: lines[name].get("rung") for name in ("activation", "trace", "owners")}
        told = self.dry_run("-t", "-b", "-o", "-", *options, code=code, **popen)
        self.assertEqual(rung_after(told, "would have packets traced: rung "), rungs["trace"], told)
        self.assertEqual(rung_after(told, "would find processes by "), rungs["owners"], told)
        expected = rungs["activation"] if rungs["activation"] not in ("active", "off") else None
        self.assertEqual(rung_after(told, "would switch conntrack on: rung "), expected, told)
        return rungs, lines

    def dry_run(self, *options, code=0, **popen):
        tool = self.run_unchanged("--dry-run", *options, **popen)
        self.assertEqual(tool.process.returncode, code, tool.output())
        self.assertNotRegex(tool.output(), r"[^\n -~]")
        fails = [line for line in tool.output().splitlines() if line.startswith("would fail: ")]
        self.assertEqual(bool(fails), code == 1, tool.output())
        return tool.output()

    def assert_kept(self, *options, same_reason=True, **popen):
        """What was promised is what a capture right after says of itself."""
        rungs, lines = self.promised(*options, **popen)
        tool = self.capture_json("-t", "-b", *options, **popen)
        self.assertIn(tool.stop(), (0, 3), tool.errors())
        stats = tool.report().stats
        real = {"activation": stats["rungs"]["activation"], "trace": stats["trace"]["rung"], "owners": stats["owners"]["rung"]}
        self.assertEqual(rungs, real, tool.errors())
        self.assertEqual(lines["trace_legacy"]["detail"].startswith("expected"), stats["trace"]["legacy"] == "on", stats["trace"])
        if same_reason:
            self.assertIn(stats["trace"].get("reason", ""), lines["trace"]["detail"])
        bytes_promised = re.search(r"the kernel makes it (\d+)", lines["buffer"]["detail"])[1]
        self.assertEqual(int(bytes_promised), stats["rungs"]["buffer_bytes"])
        return lines, stats


def rung_after(text, words):
    found = re.findall(rf"(?m)^{re.escape(words)}([a-z-]+)", text)
    assert len(found) <= 1, found
    return found[0] if found else None


def modules():
    try:
        with open("/proc/modules", encoding="ascii") as file:
            return sorted(line.split()[0] for line in file)
    except FileNotFoundError:
        return []


class Promises(Checking):
    """With each kind of rules."""

    def test_without_rules(self):
        lines, stats = self.assert_kept()
        self.assertEqual(lines["activation"]["state"], "ok")
        self.assertIn("not active for IPv4 and IPv6", lines["activation"]["detail"])
        self.assertNotEqual(stats["rungs"]["activation"], "active")

    def test_with_rules_that_use_conntrack(self):
        self.network.activate()
        lines, _ = self.assert_kept()
        self.assertEqual(lines["activation"]["rung"], "active")
        self.assertIn("with rules in this namespace", lines["nf_tables"]["detail"])

    def test_with_rules_that_do_not(self):
        self.network.nft(PLAIN_RULES)
        lines, _ = self.assert_kept()
        self.assertNotEqual(lines["activation"]["rung"], "active")

    def test_one_family(self):
        self.network.run("router", "iptables-nft", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
        self.assertIn("not active for IPv6 in", self.assert_kept()[0]["activation"]["detail"])
        self.assertEqual(self.assert_kept("-4")[0]["activation"]["rung"], "active")

    def test_with_legacy_rules(self):
        self.need_legacy_tables()
        self.network.run("router", "iptables-legacy", "-w", "20", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
        lines, _ = self.assert_kept()
        self.assertEqual(lines["legacy_ipv4"]["detail"], "loaded in this namespace: filter")
        self.assertIn("no table loaded", lines["legacy_ipv6"]["detail"])
        self.assertIn("not active for IPv6 in", lines["activation"]["detail"])

    def test_with_all_rungs_that_can_be_asked_for(self):
        self.need_legacy_tables()
        for options in (
            ("--activate", "nft"), ("--activate", "legacy"), ("--activate", "off"),
            ("--trace-rung", "nft-owned"), ("--trace-rung", "nft"), ("--trace-rung", "legacy"), ("-e",), ("--owner", "procfs"),
        ):
            with self.subTest(options=options):
                lines, stats = self.assert_kept(*self.needed(options))
                if options[0] == "--trace-rung":
                    self.assertEqual(lines["trace"]["rung"], options[1])

    @staticmethod
    def needed(options):
        """`check` takes them with -t or -b, as a capture does."""
        return ("-t", "-b", *options)

    def test_owner_rungs_that_are_asked_for(self):
        """Each is refused by all three, or by none: what can be seen beforehand is all that there is on this kernel."""
        for rung in ("trace", "kprobe", "legacy", "cgroup"):
            with self.subTest(rung=rung):
                line = self.check("-b", "--owner", rung)["owners"]
                real = self.run_to_end("-b", "--owner", rung, "--for", "0.05", "-o", self.path("report"))
                self.assertEqual(line["state"] == "missing", real.process.returncode == 1, (line, real.errors()))
                self.dry_run("-b", "--owner", rung, "-o", self.path("report"), code=real.process.returncode)

    def test_a_rival_has_the_log_group(self):
        self.need_legacy_tables()
        rival = self.rival()
        lines, stats = self.assert_kept()
        self.assertEqual(lines["nflog_group_0"]["state"], "degraded")
        self.assertIn(f"process {rival.pid} (\x1b[2Jevil)", lines["nflog_group_0"]["detail"])
        self.assertNotEqual(stats["trace"]["legacy"], "on")
        text = self.run_unchanged("check").output()
        self.assertIn(rf"process {rival.pid} (\u{{1b}}[2Jevil)", text)
        rival.stdin.close()
        rival.wait()
        self.assertEqual(self.assert_kept()[0]["nflog_group_0"]["detail"], "free")

    def rival(self):
        with self.network.inside("router"):
            rival = processes.start([sys.executable, "-c", RIVAL], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(rival.stdout.close)
        self.addCleanup(processes.end, rival)
        self.assertEqual(rival.stdout.readline(), b"0\n")
        return rival

    def test_a_run_folder_that_cannot_be_written(self):
        """What would have to be written down first is not done; an owned table needs no note."""
        self.need_legacy_tables()
        wrapper = {"wrapper": ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o ro none /run && exec "$@"', "sh")}
        lines, _ = self.assert_kept(same_reason=False, **wrapper)  # iptables has its own words
        self.assertEqual((lines["activation"]["rung"], lines["trace"]["rung"], lines["run_folder"]["state"]), ("nft-owned", "none", "degraded"))
        self.assertIn("go on without a lock", self.dry_run("-o", "-", **wrapper))
        options = ("--activate", "legacy", "-o", "-")
        self.dry_run(*options, code=1, **wrapper)
        self.assertEqual(self.run_to_end(*options, **wrapper).process.returncode, 1)

    def test_somebody_has_tables_of_our_names(self):
        """They are left alone, and the next rung is promised and taken."""
        self.need_legacy_tables()
        self.network.nft("table inet conntracker { chain theirs { udp dport 7 accept; }; }\n"
                         "table inet conntracker_trace { chain theirs { udp dport 7 accept; }; }")
        lines, _ = self.assert_kept()
        self.assertEqual((lines["activation"]["rung"], lines["trace"]["rung"]), ("legacy", "legacy"))
        self.assertIn("there is one already", lines["trace"]["detail"])
        self.assertIn("there is one already", lines["owned_table"]["detail"])
        self.dry_run("--activate", "nft", "-o", "-", code=1)
        self.assertEqual(self.check("--activate", "nft", code=1)["activation"]["state"], "missing")

    def test_somebody_has_chains_of_our_names_too(self):
        self.need_legacy_tables()
        self.network.nft("table inet conntracker_trace { chain theirs { udp dport 7 accept; }; }")
        for command in ("iptables-legacy", "ip6tables-legacy"):
            self.network.run("router", command, "-w", "20", "-t", "raw", "-N", "CONNTRACKER_TRACE")
        self.assertEqual(self.assert_kept()[0]["trace"]["rung"], "none")


class Left(Checking):
    """What a run left behind that could not clean up: it is named and left, and no hindrance to what comes next."""

    def kill_with_its_watchdog(self, tool):
        tool.send(signal.SIGSTOP)
        for pid in tool.watchdogs():
            os.kill(pid, signal.SIGKILL)
        tool.kill()
        wait_for(lambda: not self.network.processes("router"), "all to be gone")

    def check_left(self, options, *names):
        self.kill_with_its_watchdog(self.capture(*options))
        lines = self.check()
        self.assertEqual((lines["leftovers"]["state"], lines["instance"]["state"]), ("degraded", "ok"))
        told = self.dry_run("-o", "-")
        for name in names:
            self.assertIn(name, lines["leftovers"]["detail"])
            self.assertIn(f"would remove what an earlier run left behind: {name}", told)
        lines, _ = self.assert_kept()
        self.assertEqual((lines["activation"]["rung"], lines["trace"]["rung"]), ("nft-owned", "nft-owned"))
        self.assertEqual(self.check()["leftovers"]["state"], "ok")

    def test_a_table(self):
        self.check_left(("-t", "--trace-rung", "nft"), "nf_tables table conntracker_trace")

    def test_chains(self):
        self.need_legacy_tables()
        names = [f"chain {chain} in the legacy {family} table raw" for chain in ("CONNTRACKER", "CONNTRACKER_TRACE") for family in ("IPv4", "IPv6")]
        self.check_left(("-t", "--trace-rung", "legacy", "--activate", "legacy"), *names)


class Told(Checking):
    """Lines that say how things are."""

    def setUp(self):
        super().setUp()
        self.network.activate()

    def test_settings_that_are_off_and_on(self):
        for value, state in (("0", "degraded"), ("1", "ok")):
            for name in ("events", "acct", "timestamp"):
                self.network.set("router", f"net.netfilter.nf_conntrack_{name}", value)
            lines = self.check()
            for name, setting in (("events", "events"), ("accounting", "acct"), ("timestamps", "timestamp")):
                with self.subTest(name=name, value=value):
                    self.assertEqual(lines[name]["state"], state)
                    self.assertIn(f"net.netfilter.nf_conntrack_{setting}={value}", lines[name]["detail"])
                    self.assertEqual("advice" in lines[name], value == "0")
                    if value == "0":
                        self.assertIn(f"sysctl -w net.netfilter.nf_conntrack_{setting}=1", lines[name]["advice"])

    def test_flows_in_the_table(self):
        for port in range(200, 220):
            self.traffic.udp(4, port=port)
        count = witness.flow_count(self.network)
        self.assertGreaterEqual(count, 20)
        self.assertIn(f"{count} of ", self.check()["table"]["detail"])
        line = self.check("--capacity", "16")["table"]
        self.assertEqual((line["state"], line["advice"]), ("degraded", "a larger --capacity"))

    def test_a_flowtable(self):
        """A kernel may have none; then there is nothing to tell of."""
        self.assertEqual(self.check()["flowtables"]["state"], "ok")
        with self.network.inside("router"):
            made = subprocess.run(["nft", "-f", "-"], input=FLOWTABLE, text=True, capture_output=True, timeout=60)
        line = self.check()["flowtables"]
        self.assertEqual(line["state"], "degraded" if made.returncode == 0 else "ok", made.stderr)
        self.assertEqual("swift in table fast: " in line["detail"], made.returncode == 0, line)
        self.assertNotIn("hardware", line["detail"])

    def test_another_instance(self):
        first = self.capture()
        line = self.check()["instance"]
        self.assertEqual(line["state"], "degraded")
        self.assertIn(f"process {first.pid} (", line["detail"])
        self.assertIn(f"process {first.pid} (", self.dry_run("-o", "-", code=1))
        self.assertTrue(first.is_running())
        self.stop_complete(first)
        self.assertEqual(self.check()["instance"]["state"], "ok")

    def test_a_lock_that_nobody_holds(self):
        self.capture().kill()
        self.assertEqual([path for path in self.network.notes() if path.endswith(".lock")], self.network.notes())
        self.assertEqual(self.check()["instance"]["state"], "ok")

    def test_where_the_report_goes(self):
        os.symlink("/etc/hostname", self.path("link"))
        for name in ("missing/report", "link", "."):
            path = os.path.join(self.folder, name)
            with self.subTest(path=path):
                self.assertEqual(self.check("-o", path, code=1)["output"]["state"], "missing")
                self.dry_run("-o", path, code=1)
                self.assertEqual(self.run_to_end("-o", path, "--for", "0.1").process.returncode, 1)
        path = self.path("report")
        self.assertEqual(self.check("-o", path)["output"]["state"], "ok")
        self.dry_run("-o", path)
        self.assert_visible_files("link")


class DryRun(Checking):
    def test_what_it_says_is_what_is_done(self):
        """The tables and settings that it names are those that the capture has, and those that it gives back."""
        self.need_legacy_tables()
        told = self.dry_run("-t", "-o", "-")
        before = witness.sysctls(self.network)
        tool = self.capture("-t")
        tables = {line.split()[-1] for line in witness.nft_tables(self.network)}
        self.assertEqual(set(re.findall(r"nf_tables table inet (\w+)", told)), tables)
        now = witness.sysctls(self.network)
        changed = {(name, value, before[name]) for name, value in now.items() if value != before[name]}
        self.assertEqual(set(re.findall(r"would set (\S+)=(\S+), which is (\S+)", told)), changed)
        self.assertEqual({name for name in re.findall(r"at the end: (net\.\S+)=", told)}, {name for name, _, _ in changed})
        notes = self.network.notes()
        for path in notes:
            self.assertIn(path, told)
        self.stop_complete(tool)
        self.assertEqual(witness.sysctls(self.network), before)

    def test_each_step_only_where_it_is_asked_for(self):
        self.network.activate()
        plain = self.dry_run("-o", "-")
        for word in ("trace", "processes by", "recording", "syslog", "pid", "numbers", "switch conntrack on"):
            self.assertNotIn(word, plain.replace("its process id in it", ""))
        path = self.path("report")
        daemon = self.dry_run("-d", "-o", path, "--status", self.path("status"), "--pidfile", self.path("pid"))
        for word in ("in the background", "syslog", self.path("status"), self.path("pid"), f"beside {path} and renamed over"):
            self.assertIn(word, daemon)
        self.assertIn(self.path("recording"), self.dry_run("--record", self.path("recording"), "-o", "-"))
        self.assertIn("at the end", plain)
        self.assert_visible_files()

    def test_a_recording_that_exists(self):
        with open(self.path("recording"), "wb"):
            pass
        self.dry_run("--record", self.path("recording"), "-o", "-", code=1)
        self.assertEqual(self.run_to_end("--record", self.path("recording"), "-o", "-").process.returncode, 1)

    def test_nothing_follows_a_refusal(self):
        told = self.dry_run("-o", self.path("missing/report"), code=1).splitlines()
        first = next(index for index, line in enumerate(told) if line.startswith("would fail: "))
        self.assertEqual([line for line in told[first:] if not line.startswith("would fail: ")], [])

    def test_blame(self):
        self.assertIn("would have packets traced: rung ", self.dry_run("blame"))


class Rights(Checking):
    """Without this or that: what is promised is still what is done, or both say no."""

    def setUp(self):
        super().setUp()
        if shutil.which("setpriv") is None:
            self.skipTest("there is no setpriv")

    def without(self, *names):
        return {"wrapper": ("setpriv", "--bounding-set=" + ",".join(f"-{name}" for name in names))}

    def test_without_net_admin(self):
        for network in ("idle", "active"):
            lines = self.check(code=1, **self.without("net_admin"))
            self.assertEqual(lines["ctnetlink"]["state"], "missing")
            self.assertIn("CAP_NET_ADMIN", lines["ctnetlink"]["detail"])
            self.assertIn("CAP_NET_ADMIN", lines["capabilities"]["detail"])
            self.assertEqual(lines["buffer"]["state"], "degraded", network)
            self.dry_run("-o", "-", code=1, **self.without("net_admin"))
            self.assertEqual(self.run_to_end("-o", "-", **self.without("net_admin")).process.returncode, 1)
            self.network.activate()

    def test_without_one_of_the_others(self):
        self.need_legacy_tables()
        for name in ("sys_admin", "net_raw", "sys_ptrace", "dac_override", "cap_39", "cap_38", "net_broadcast", "sys_module", "sys_resource"):
            with self.subTest(without=name):
                self.assert_kept(**self.without(name))

    def test_without_programs_in_the_kernel(self):
        lines, _ = self.assert_kept(**self.without("sys_admin", "cap_39", "cap_38"))
        self.assertEqual(lines["owners"]["rung"], "procfs")
        self.assertEqual(lines["owners"]["state"], "degraded")

    def test_legacy_needs_its_rights(self):
        self.need_legacy_tables()
        rights = self.without("net_raw")
        options = ("-t", "--trace-rung", "legacy", "-o", "-")
        self.dry_run(*options, code=1, **rights)
        self.assertEqual(self.run_to_end(*options, **rights).process.returncode, 1)

    def test_as_a_user(self):
        """It says as much as can be seen, and why there is no capture."""
        self.network.activate()
        binary = self.path(".tool-copy")
        shutil.copy(tool_module.BINARY, binary)
        os.chmod(binary, 0o755)
        nobody = {"binary": binary, "user": NOBODY, "group": NOBODY, "extra_groups": []}
        lines = self.check(code=1, **nobody)
        self.assertEqual(lines["root"]["state"], "missing")
        self.assertIn("root", lines["root"]["detail"])
        self.assertEqual(lines["activation"]["state"], "unknown")
        for name in ("kernel", "memory", "btf", "accounting", "table"):
            self.assertIn(lines[name]["state"], ("ok", "degraded"), lines[name])
        self.dry_run("-o", "-", code=1, **nobody)
        self.assertIn("it needs root", self.dry_run("-o", "-", code=1, **nobody))


class Untouched(Checking):
    COMMANDS = (("check",), ("check", "-t", "-b", "--format", "json"), ("--dry-run", "-t", "-e", "-b", "-o", "-"), ("--dry-run", "-b", "--record", "r", "-o", "x"))

    def test_nothing_is_opened_for_writing_or_attached(self):
        if shutil.which("strace") is None:
            self.skipTest("there is no strace")
        for options in self.COMMANDS:
            with self.subTest(options=options):
                trace = self.path(".tool-strace")
                tool = self.run_unchanged(*options, wrapper=("strace", "-f", "-o", trace))
                self.assertEqual(tool.process.returncode, 0, tool.output())
                with open(trace, encoding="utf-8", errors="replace") as file:
                    lines = [line.split(None, 1)[1] for line in file]
                self.assertEqual([line for line in lines if changes(line)], [])
                self.assertTrue([line for line in lines if line.startswith(("openat(", "open("))], "the witness sees nothing")
                self.assertTrue([line for line in lines if line.startswith("bpf(BPF_PROG_LOAD") or "nft" in line])
                self.assert_visible_files()

    def test_the_witness_sees_a_capture(self):
        if shutil.which("strace") is None:
            self.skipTest("there is no strace")
        trace = self.path(".tool-strace")
        tool = self.run_to_end("-b", "-o", self.path("report"), "--for", "0.1", wrapper=("strace", "-f", "-o", trace))
        self.assertEqual(tool.process.returncode, 0, tool.errors())
        with open(trace, encoding="utf-8", errors="replace") as file:
            found = {name_of_call(line.split(None, 1)[1]) for line in file if changes(line.split(None, 1)[1])}
        self.assertLessEqual({"flock", "renameat"}, found)

    def test_nobody_hears_of_a_change_of_rules(self):
        """The table that the kernel is asked about is never there: no notification, and no other generation."""
        with self.network.inside("router"):
            ear = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, witness.NETLINK_NETFILTER)
        self.addCleanup(ear.close)
        ear.bind((0, 0))
        ear.setsockopt(270, 1, NFNLGRP_NFTABLES)
        before = self.generation()
        for options in self.COMMANDS:
            self.run_unchanged(*options)
        with self.assertRaises(BlockingIOError):
            ear.recv(65536)
        self.assertEqual(self.generation(), before)
        self.network.nft("table ip x")
        self.assertTrue(ear.recv(65536))
        self.assertNotEqual(self.generation(), before, "the witness sees nothing")

    def generation(self):
        with self.network.inside("router"), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, witness.NETLINK_NETFILTER) as asker:
            asker.bind((0, 0))
            asker.settimeout(20)
            asker.send(struct.pack("=IHHII", 20, 10 << 8 | 16, 1, 1, 0) + struct.pack("!BBH", 0, 0, 0))
            answer = asker.recv(4096)
        return struct.unpack("!I", answer[24:28])[0]

    def test_conntrack_is_not_switched_on(self):
        for options in self.COMMANDS:
            self.run_unchanged(*options)
        self.traffic.udp(4)
        self.assertEqual(witness.flow_count(self.network), 0)

    def test_a_reader_that_goes_away(self):
        reader, writer = os.pipe()
        os.close(reader)
        tool = self.start("check", stdout=writer)
        os.close(writer)
        self.assertEqual(tool.wait(), 1)
        self.assertIn("writing to stdout", tool.errors())


def name_of_call(line):
    return line.split("(", 1)[0]


def changes(line):
    """Whether a line of strace changes something that others see. Programs that it runs have /dev/null to read from."""
    name = name_of_call(line)
    if name in FORBIDDEN_CALLS:
        return True
    if name == "bpf":
        return bool(re.match(r"bpf\(BPF_(LINK_CREATE|PROG_ATTACH|RAW_TRACEPOINT_OPEN|OBJ_PIN|ITER_CREATE)", line))
    if name == "setsockopt":
        return "IPT_SO" in line or "SOL_IP, " in line
    if name in ("open", "openat", "openat2") and re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TMPFILE|O_TRUNC", line):
        return '"/dev/null"' not in line
    return False
