"""The system calls of each way of working are those of Linux 4.4, or named exceptions; without what is newer, the same flows are seen.

Each way runs three times: watched by strace, which says what is called; as on Linux 4.4, where everything newer is refused; and as
on 3.10, as far as that can do it.
"""

import os
import platform
import re
import shutil
import signal
import socket
import unittest

import calls
import older
import tool as tool_module
from daemon import Daemon, Syslogd
from network import SERVER
from owner_scenarios import Flows
from report import TCP, Report, expected_text, flow_of, read_object
from scenario import Scenario
from traffic import different_ports
from waiting import wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
SUPPORTED = platform.machine() == "x86_64"
ARM64 = "conntracker-aarch64"
LISTED = os.path.join(HERE, "../../src/sys/seccomp/calls.rs")
# What seccomp lets pass though Linux 4.4 does not have it: where it is used, ENOSYS must come back and not EPERM.
LISTED_THOUGH_NEWER = {"statx"}  # std on glibc asks it first

# What EachMissing takes away: of a capture, which loses nothing by it but Landlock; and of -b, with whether the rung cgroup is left.
OF_CAPTURE = ("landlock", "auxv", "insecure_random", "spec_allow", "madv_free", "populate", "capabilities")
OF_OWNERS = {
    "faccessat2": True, "noexec_seal": True, "detached_mount": False, "bpf": False,
    # BTF_LOAD, MAP_FREEZE, LINK_CREATE, ITER_CREATE, PROG_BIND_MAP, TOKEN_CREATE
    "bpf:0:18": False, "bpf:0:22": False, "bpf:0:28": False, "bpf:0:33": True, "bpf:0:35": True, "bpf:0:36": True,
}

CALL = re.compile(r"(\d+) +(\w+)\((.*)")
RESULT = re.compile(r" = (-?\w+)(?: (E[A-Z]+) .*)?$")
RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>")
FORKS = ("fork", "vfork", "clone", "clone3")


class Ways(Flows):
    """Each way of working, with what it must have seen. `runner` is what runs the program."""

    of_all_namespaces = ("--all-netns",)

    def setUp(self):
        super().setUp()
        if not SUPPORTED:
            self.skipTest("the tables are those of x86_64")

    def runner(self):
        raise NotImplementedError

    def works(self, *options, **popen):
        return self.start(*options, wrapper=self.runner(), **popen).wait_until_capturing()

    def runs(self, *options, status=0, **popen):
        tool = self.run_to_end(*options, wrapper=self.runner(), **popen)
        self.assertEqual(tool.process.returncode, status, tool.errors())
        return tool

    def some_flows(self):
        return sorted([
            self.traffic.udp(4), self.traffic.udp(6), self.traffic.tcp(4).close(), self.traffic.tcp(6).flow,
            self.traffic.echo(4, ident=7), self.traffic.echo(6, ident=8),
        ])

    def sees(self, *options, status=0):
        """A capture into a pipe: the flows, all of them."""
        self.network.run("router", "conntrack", "-F")
        tool = self.works("--format", "json", "-o", "-", *options)
        flows = self.some_flows()
        self.assertEqual(tool.stop(), status, tool.errors())
        report = tool.report()
        self.assertEqual(report.flows(), flows)
        return tool, report

    def capture_ways(self):
        tool, report = self.sees()
        self.assertTrue(report.stats["complete"])
        self.network.run("router", "conntrack", "-F")
        recorded = self.works("-o", self.path("report"), "--record", self.path("recording"), *self.of_all_namespaces)
        flows = self.some_flows()
        recorded.send(signal.SIGUSR2)
        recorded.wait_for_error_line("status: ")
        self.stop_complete(recorded)
        self.runs("replay", self.path("recording"), "-o", self.path("again"))
        for name in ("report", "again"):
            with open(self.path(name), encoding="ascii") as file:
                self.assertEqual(file.read(), expected_text(flows), name)
        return tool

    def follow_ways(self):
        """Written on, in parts; a report of all that there is now, by a child; the file anew."""
        file, report = self.path("flows"), self.path("flows.report")
        tool = self.works("--follow", "--rotate", "128k,2", "--format", "json", "-o", file)
        self.traffic.discard()
        self.traffic.many_udp(different_ports(500))
        tool.send(signal.SIGUSR1)
        wait_for(lambda: os.path.exists(report), "the report of SIGUSR1")
        wait_for(lambda: os.path.exists(file + ".1"), "the first part to be full")
        os.rename(file, self.path("taken"))
        tool.send(signal.SIGHUP)
        wait_for(lambda: os.path.exists(file), "the file to be made anew")
        self.stop_complete(tool)
        objects = []
        for name in ("flows.1", "taken", "flows"):
            with open(self.path(name), encoding="ascii") as part:
                objects += map(read_object, part)
        new = {flow_of(each) for each in objects if each.get("event") == "new"}
        self.assertEqual(len(new), 500)
        with open(report, encoding="ascii") as part:
            self.assertEqual(set(Report(part.read()).flows()), new)

    def daemon_ways(self):
        syslogd = Syslogd(self.path("log"))
        self.addCleanup(syslogd.close)
        daemon = Daemon(
            self, "--status", self.path("numbers"), "--every", "1", "-o", self.path("daily"), runner=self.runner()).wait_until_started()
        with open(self.path("numbers"), encoding="ascii") as file:
            self.assertIn("conntracker_", file.read())
        flow = self.traffic.udp(4)
        wait_for(lambda: os.path.exists(self.path("daily")), "the report of --every")
        daemon.stop()
        syslogd.wait_for("complete: ")
        with open(self.path("daily"), encoding="ascii") as file:
            self.assertEqual(file.read(), expected_text([flow]))
        return syslogd.texts()

    def trace_ways(self):
        for rung in ("nft-owned", "nft"):
            _, report = self.sees("-t", "-e", "--trace-rung", rung)
            self.assertEqual(report.stats["trace"]["rung"], rung)
            self.assertEqual({each["verdict"] for each in report.objects}, {"accept"})
        blame = self.works("blame", "-o", "-")
        self.network.nft("insert rule inet somebody forward udp dport 666 drop")
        with self.network.inside("client"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"dropped", (SERVER[4], 666))
        self.stop_complete(blame)
        self.assertIn("drop by nft inet somebody forward rule 1", blame.output())

    def legacy_ways(self):
        """The legacy tables and iptables, which run as children."""
        self.need_legacy_tables()
        self.network.run("router", "nft", "flush ruleset")
        for rung in ("legacy", "nft"):
            _, report = self.sees("--activate", rung)
            self.assertTrue(report.stats["rungs"]["activation"].startswith(rung), report.stats["rungs"])
        self.network.run("router", "iptables-legacy", "-w", "20", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT")
        self.network.run("router", "ip6tables-legacy", "-w", "20", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT")
        _, report = self.sees("-t", "-e", "--trace-rung", "legacy")
        self.assertEqual(report.stats["trace"]["rung"], "legacy")
        self.assertEqual({each["path"]["original"][0]["firewall"] for each in report.objects}, {"iptables-legacy"})

    def owner_way(self, rung, *options):
        """The owner of a connection that stays open; the rung that it was found on. None: not on this machine."""
        tool = self.start("-b", "--owner", rung, "--format", "json", "-o", "-", *options, wrapper=self.runner())
        wait_for(lambda: tool_module.READY in tool.errors() or not tool.is_running(), tool.errors)
        if not tool.is_running():
            self.assertEqual(tool.process.returncode, 1, tool.errors())
            self.assertIn("finding the processes behind flows", tool.errors())
            return None
        local, far = self.actors("local", ("far", "server"))
        tuple_ = self.tcp(local, far, 4, SERVER[4])
        report = self.stop_attributed(tool)
        self.assert_owners(report, TCP, tuple_, local.who(), None)
        return report.stats["owners"]

    def looking_ways(self):
        """What works here, what would be done, and mistakes."""
        self.assertIn("a capture works here", self.runs("check").output())
        self.assertIn("would capture", self.runs("--dry-run", "-t", "-b", "-o", self.path("report")).output())
        self.runs("--help")
        self.runs("--nonsense", status=2)
        self.runs("-o", self.path("no/such/folder"), status=1)


class Watched(Ways):
    """By strace, with all arguments as numbers."""

    KNOWN_AT_LEAST = 20

    def setUp(self):
        super().setUp()
        if shutil.which("strace") is None:
            self.skipTest("there is no strace")
        self.traces = []

    def runner(self):
        self.traces.append(self.path(f".tool-trace{len(self.traces)}"))
        return ("strace", "-D", "-f", "-q", "-o", self.traces[-1], "-e", "raw=!execve")

    def called(self, path):
        """(call, its arguments, the error) of the program's own processes, once they have ended; of the programs that it runs nothing."""
        wait_for(lambda: self.lines_if_ended(path), f"the end of {path}")
        ours, begun = {}, {}
        for line in self.lines_if_ended(path):
            pid, _, _ = line.partition(" ")
            match, resumed = CALL.match(line), RESUMED.match(line)
            result = RESULT.search(line)
            if resumed and pid in begun:
                name, arguments = begun.pop(pid)
            elif match:
                name, arguments = match[2], match[3]
                if "<unfinished ...>" in line:
                    begun[pid] = name, arguments
                    continue
            else:
                continue
            if name == "execve" and result and result[1] == "0":
                ours[pid] = tool_module.BINARY in arguments.partition(",")[0]
            elif name in FORKS and result and result[2] is None:
                ours.setdefault(str(int(result[1], 0)), ours.get(pid, True))
            if ours.get(pid, True) and name != "execve":
                numbers = [int(each, 16) for each in re.findall(r"0x[0-9a-f]+|\b0\b", arguments.partition(")")[0])]
                yield pid, name, numbers + [0] * (6 - len(numbers)), result and result[2]

    def lines_if_ended(self, path):
        with open(path, encoding="ascii", errors="replace") as file:
            lines = file.read().splitlines()
        seen = {line.partition(" ")[0] for line in lines}
        ended = {line.partition(" ")[0] for line in lines if " +++ " in line}
        return lines if seen and seen == ended else None

    def check_calls(self, seen_in=None):
        """Of all that was called since the last time: it is in the table, or has a name and is in use."""
        names, unnamed, exceptions = set(), set(), set()
        for path in self.traces:
            confined = set()
            for pid, name, arguments, error in self.called(path):
                names.add(name)
                for what in calls.newer(name, arguments):
                    entry = calls.named(what)
                    if entry is None:
                        unnamed.add(what)
                    else:
                        exceptions.add(entry.name)
                if name == "seccomp" and error is None:
                    confined.add(pid)
                elif pid in confined and error == "EPERM":
                    self.fail(f"our own filter refuses {name}({arguments})")
        self.assertEqual(unnamed, set(), "newer than Linux 4.4: find out what happens without it, then name it in calls.py")
        self.assertGreater(len(names), self.KNOWN_AT_LEAST, names)
        self.assertLessEqual({entry.name for entry in calls.NEWER if entry.seen_in == seen_in}, exceptions, "not used any more")

    def test_capture(self):
        self.capture_ways()
        self.check_calls("capture")

    def test_writing(self):
        self.follow_ways()
        self.check_calls()

    def test_daemon(self):
        self.daemon_ways()
        self.check_calls()

    def test_tracing(self):
        self.trace_ways()
        self.check_calls()

    def test_legacy(self):
        self.legacy_ways()
        self.check_calls()

    def test_owners(self):
        found = {rung for rung in ("trace", "cgroup", "kprobe", "legacy", "procfs") if self.owner_way(rung)}
        self.assertLessEqual({"cgroup", "procfs"}, found)
        self.check_calls("owners")

    def test_looking(self):
        self.looking_ways()
        self.check_calls()


class Older(Ways):
    """This kernel, made to look like an older one."""

    def runner(self):
        return older.wrapper(self.kernel)

    def confined(self, errors):
        (line,) = [line for line in errors.splitlines() if "confined by " in line]
        return line.partition("confined by ")[2]


class Linux44(Older):
    """All of it works; nothing that is not there is used."""

    kernel = "4.4"
    CONFINED = "capabilities (NET_ADMIN), bounding set, no_new_privs, seccomp; not by Landlock (this kernel has none: Linux 5.13 can)"

    def test_capture(self):
        self.assertEqual(self.confined(self.capture_ways().errors()), self.CONFINED)

    def test_writing(self):
        self.follow_ways()

    def test_daemon(self):
        self.assertEqual(self.confined("\n".join(self.daemon_ways())), self.CONFINED)

    def test_tracing(self):
        self.trace_ways()

    def test_legacy(self):
        self.legacy_ways()

    def test_owners(self):
        owners = self.owner_way("auto")
        self.assertIn(owners["rung"], ("legacy", "procfs"))
        self.assertIn("trace: ", owners["reason"])
        self.assertIn("cgroup: ", owners["reason"])

    def test_looking(self):
        self.looking_ways()


class EachMissing(Older):
    """The newer ones, one by one: each has a way around it of its own."""

    def test_of_a_capture(self):
        expected = "capabilities (NET_ADMIN), bounding set, no_new_privs, Landlock, seccomp"
        for self.kernel in OF_CAPTURE:
            with self.subTest(without=self.kernel):
                tool, _ = self.sees()
                self.assertEqual(self.confined(tool.errors()), Linux44.CONFINED if self.kernel == "landlock" else expected)

    def test_of_owners(self):
        """Of the commands of bpf(2) some are a favour, and some what a rung is made of."""
        for self.kernel, is_left in OF_OWNERS.items():
            with self.subTest(without=self.kernel):
                on_cgroup = self.owner_way("cgroup")
                self.assertEqual(on_cgroup is not None, is_left)
                if self.kernel in ("detached_mount", "bpf"):
                    self.assertNotEqual(self.owner_way("auto")["rung"], "cgroup")

    def test_all_are_tested(self):
        self.assertEqual({entry.name for entry in calls.NEWER if entry.seen_in == "capture"}, set(OF_CAPTURE))
        self.assertLessEqual({entry.name for entry in calls.NEWER if entry.seen_in == "owners"}, set(OF_OWNERS))


class Linux310(Older):
    """The main job alone."""

    kernel = "3.10"
    of_all_namespaces = ()

    def test_capture(self):
        self.assertEqual(self.confined(self.capture_ways().errors()), Linux44.CONFINED)

    def test_all_namespaces_are_of_4_2(self):
        tool = self.runs("--all-netns", "-o", "-", status=1)
        self.assertIn("listening to all network namespaces: ", tool.errors())
        self.assertIn("needs Linux 4.2", tool.errors())

    def test_writing(self):
        self.follow_ways()

    def test_daemon(self):
        self.assertEqual(self.confined("\n".join(self.daemon_ways())), Linux44.CONFINED)


class Arm64(Scenario):
    """The other binary makes the calls of its own architecture's table; of what is newer, only what is named."""

    def test_replay(self):
        binary = os.path.join(os.path.dirname(tool_module.BINARY), ARM64)
        if not os.path.exists(binary) or shutil.which("qemu-aarch64-static") is None:
            self.skipTest(f"there is no {ARM64} beside the program, or no qemu-aarch64-static")
        recording = os.path.join(HERE, "../fixtures/everything.ctrecord")
        trace = self.path(".tool-trace")
        for options in (("--help",), ("replay", recording, "-o", self.path("report")), ("--nonsense",)):
            tool = self.run_to_end(*options, binary=binary, wrapper=("qemu-aarch64-static", "-D", trace, "-strace"))
            self.assertEqual(tool.process.returncode, 2 if options == ("--nonsense",) else 0, tool.errors())
            with open(trace, encoding="utf-8", errors="replace") as file:
                names = {match[1] for match in re.finditer(r"^\d+ (\w+)\(", file.read(), re.MULTILINE)}
            self.assertGreater(len(names), 8)
            self.assertEqual({name for name in names - set(calls.ARM64) if not calls.named((name,))}, set())


class Listed(unittest.TestCase):
    """What is allowed once confined, read from the source."""

    def listed(self):
        with open(LISTED, encoding="utf-8") as file:
            source = re.sub(r'#\[cfg\(target_arch = "arm"\)\]\n.*;\n', "", file.read())
        everywhere, _, here = source.partition('#[cfg(target_arch = "x86_64")]\npub(super) const OLDER_CALLS')
        here, _, _ = here.partition("];")
        return [set(re.findall(r"libc::SYS_(\w+)", text)) for text in (everywhere, here)]

    def test_is_of_linux_4_4(self):
        everywhere, of_x86_64 = self.listed()
        self.assertGreater(len(everywhere), 50)
        self.assertGreater(len(of_x86_64), 10)
        self.assertEqual((everywhere | of_x86_64) - set(calls.X86_64), LISTED_THOUGH_NEWER)
        self.assertEqual(everywhere - set(calls.ARM64), LISTED_THOUGH_NEWER)
        self.assertEqual(of_x86_64 & set(calls.ARM64), set())
