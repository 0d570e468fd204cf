"""After the start the tool has given up what it needs no more: the kernel says so, and refuses what it tries all the same."""

import errno
import os
import re
import shutil
import signal
import socket
import stat

import older
import processes
import tool as tool_module
import witness
from harm_scenarios import LegacyRules, SAVES
from injection import Injection, SUPPORTED
from scenario import Scenario
from tool import WATCHDOG, name_of
from waiting import wait_for

# linux/capability.h
NAMES = (
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service net_broadcast net_admin net_raw "
    "ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod "
    "lease audit_write audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore"
).split()
FOR_IPTABLES = {"net_admin", "net_raw"}
FOR_OWNERS = {"net_admin", "dac_read_search", "sys_ptrace"}
FOR_OTHERS_FOLDERS = {"net_admin", "dac_override", "fowner"}
STRACE = ("strace", "-f", "-o")


def status(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        return dict(line.split(":", 1) for line in file.read().splitlines())


def capabilities(fields, name):
    bits = int(fields[name], 16)
    return {each for number, each in enumerate(NAMES) if bits >> number & 1} | {number for number in range(len(NAMES), 64) if bits >> number & 1}


class Privileges(Scenario):
    def assert_keeps(self, pid, kept, seccomp=True):
        fields = status(pid)
        sets = {name: capabilities(fields, name) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        self.assertEqual(sets, {"CapInh": set(), "CapPrm": kept, "CapEff": kept, "CapBnd": kept, "CapAmb": set()})
        self.assertEqual((fields["NoNewPrivs"].strip(), fields["Seccomp"].strip()), ("1", "2" if seccomp else "0"))
        self.assertEqual(fields["Umask"].strip(), "0077")

    def confined(self, tool):
        """The line that says so."""
        (line,) = [line for line in tool.errors().splitlines() if line.startswith("conntracker: confined by ")]
        return line

    def assert_watchdogs_keep_little(self, tool, count):
        watchdogs = tool.watchdogs()
        self.assertEqual(len(watchdogs), count)
        for watchdog in watchdogs:
            self.assert_keeps(watchdog, FOR_IPTABLES, seccomp=False)

    def assert_nothing_is_left(self):
        tables = witness.nft_tables(self.network)
        self.assertNotIn("conntracker", str(tables))
        for save in SAVES:
            self.assertNotIn("CONNTRACKER", str(witness.legacy_rules(self.network, save)))
        wait_for(lambda: not self.network.processes("router"), "the watchdog to end")
        self.assertEqual(self.network.notes(), [])


class Kept(Privileges):
    """What is left on each rung."""

    def check(self, kept, *options, watchdogs=0, landlock=True):
        tool = self.capture(*options)
        self.assert_keeps(tool.pid, kept)
        self.assert_watchdogs_keep_little(tool, watchdogs)
        names = " ".join(name.upper() for name in ("net_admin", "dac_override", "dac_read_search", "fowner", "sys_ptrace") if name in kept)
        expected = f"conntracker: confined by capabilities ({names}), bounding set, no_new_privs, "
        expected += "Landlock, seccomp" if landlock else "seccomp; not by Landlock (it would hide the processes that -b looks for)"
        self.assertEqual(self.confined(tool), expected)
        self.assertIn(tool.stop(), (0, 3), tool.errors())
        self.assert_nothing_is_left()
        return tool

    def test_plain(self):
        self.network.activate()
        self.check({"net_admin"})

    def test_switched_on(self):
        for rung in ("nft", "auto"):
            with self.subTest(rung=rung):
                self.check({"net_admin"}, "--activate", rung)

    def test_switched_on_by_a_legacy_chain(self):
        self.need_legacy_tables()
        self.check({"net_admin"}, "--activate", "legacy", watchdogs=1)

    def test_tracing(self):
        self.need_legacy_tables()
        self.network.activate()
        for rung in ("nft-owned", "nft", "legacy"):
            with self.subTest(rung=rung):
                self.check({"net_admin"}, "-t", "-e", "--trace-rung", rung, watchdogs=1)

    def test_tracing_and_switched_on_by_a_legacy_chain(self):
        """One child is enough."""
        self.need_legacy_tables()
        self.check({"net_admin"}, "-t", "--activate", "legacy", watchdogs=1)

    def test_owners(self):
        self.network.activate()
        for rung in ("trace", "cgroup", "kprobe", "legacy", "procfs"):
            with self.subTest(rung=rung):
                tool = self.start("-b", "--owner", rung, "-o", self.path("report"), "--for", "0.01")
                if tool.wait() == 1 and rung not in ("cgroup", "procfs"):
                    self.assertIn("finding the processes behind flows", tool.errors())
                    continue  # not on this kernel
                self.check(FOR_OWNERS, "-b", "--owner", rung, landlock=False)

    def test_all_namespaces(self):
        self.network.activate()
        self.check({"net_admin"}, "--all-netns")

    def test_a_folder_that_its_owner_may_not_write(self):
        """Only with CAP_DAC_OVERRIDE a report can be written there."""
        self.network.activate()
        folder = self.path("closed")
        os.mkdir(folder, 0o500)
        tool = self.check(FOR_OTHERS_FOLDERS, "-o", os.path.join(folder, "report"))
        self.assertEqual(tool.process.returncode, 0, tool.errors())
        self.assertEqual(os.listdir(folder), ["report"])

    def test_files_are_for_their_owner_alone(self):
        self.network.activate()
        tool = self.capture("-o", self.path("report"), "--record", self.path("recording"), umask=0)
        self.stop_complete(tool)
        for name in ("report", "recording"):
            self.assertEqual(stat.S_IMODE(os.stat(self.path(name)).st_mode), 0o600, name)


class Refused(Privileges):
    """What the kernel says to a tool that somebody has taken over."""

    READ, EXECVE, KILL, PTRACE, UNSHARE, SOCKET, MMAP, CLONE, PRCTL, OPENAT, UNLINK, RENAME, CLOSE, GETPID = (
        0, 59, 62, 101, 272, 41, 9, 56, 157, 257, 87, 82, 3, 39)
    X32 = 0x40000000
    NEW_USER_THREAD = 0x10010000  # CLONE_NEWUSER | CLONE_THREAD, which no kernel would do
    ANONYMOUS = 0x22

    def setUp(self):
        super().setUp()
        if not SUPPORTED:
            self.skipTest("calls are injected on x86_64 only")

    def test_the_witness(self):
        """A process that is not confined gets an answer to the same questions."""
        free = processes.start(["sleep", "60"])
        self.addCleanup(processes.kill, free)
        wait_for(lambda: name_of(free.pid) == "sleep" and "S (sleeping)" in status(free.pid)["State"], "sleep to sleep")
        with Injection(free.pid) as injection:
            self.assertEqual(injection.call(self.EXECVE, 0, 0, 0), -errno.EFAULT)
            for number, arguments in self.harmless(free.pid):
                self.assertGreaterEqual(injection.call(number, *arguments), 0, (number, arguments))

    def harmless(self, pid):
        """What any process may do, if it may do it at all."""
        return (
            (self.KILL, (pid, 0)),
            (self.UNSHARE, (0,)),
            (self.MMAP, (0, 4096, 5, self.ANONYMOUS, -1, 0)),
            (self.SOCKET, (socket.AF_PACKET, socket.SOCK_RAW, 0)),
            (self.PRCTL, (3, 0, 0, 0, 0)),
        )

    def test_calls(self):
        self.need_legacy_tables()
        self.network.activate()
        for options in ((), ("-t", "-e"), ("-t", "--trace-rung", "legacy"), ("-b",)):
            with self.subTest(options=options):
                tool = self.capture(*options)
                with Injection(tool.pid) as injection:
                    self.assertEqual(injection.call(self.GETPID), tool.pid)
                    for number, arguments in (
                        *self.harmless(tool.pid),
                        (self.EXECVE, (0, 0, 0)),
                        (self.EXECVE, ("/bin/true", 0, 0)),
                        (self.PTRACE, (0, 0, 0, 0)),
                        (self.CLONE, (self.NEW_USER_THREAD, 0, 0, 0, 0)),
                        (self.X32 | self.GETPID, ()),
                    ):
                        self.assertEqual(injection.call(number, *arguments), -errno.EPERM, (number, arguments))
                self.assertIn(tool.stop(), (0, 3), tool.errors())

    def write(self, injection, path):
        done = injection.call(self.OPENAT, -100, path, os.O_WRONLY | os.O_CREAT, 0o600)
        if done >= 0:
            self.assertEqual(injection.call(self.CLOSE, done), 0)
        return min(done, 0)

    def test_files(self):
        """They can be made where the report goes, and nowhere else."""
        self.network.activate()
        for name in ("ours", "theirs"):
            os.mkdir(self.path(name))
        with open(self.path("theirs/precious"), "w", encoding="ascii") as file:
            file.write("precious")
        tool = self.capture("-o", self.path("ours/report"))
        with Injection(tool.pid) as injection:
            self.assertEqual(self.write(injection, self.path("ours/other")), 0)
            self.assertEqual(injection.call(self.RENAME, self.path("ours/other"), self.path("ours/third")), 0)
            self.assertEqual(injection.call(self.UNLINK, self.path("ours/third")), 0)
            for path in (self.path("theirs/new"), self.path("theirs/precious"), "/run/new", "/etc/new", "/proc/sys/net/ipv4/ip_forward"):
                self.assertEqual(self.write(injection, path), -errno.EACCES, path)
            self.assertEqual(injection.call(self.UNLINK, self.path("theirs/precious")), -errno.EACCES)
        self.stop_complete(tool)
        self.assertEqual((os.listdir(self.path("ours")), os.listdir(self.path("theirs"))), (["report"], ["precious"]))


class Taken(Privileges):
    """What it does not get in the first place."""

    def start_without(self, name, *options):
        number = NAMES.index(name)
        wrapper = ("setpriv", f"--bounding-set=-cap_{number}", f"--inh-caps=-cap_{number}")
        tool = self.start("-o", self.path("report"), *options, wrapper=wrapper)
        return tool, tool.wait()

    def test_each_capability(self):
        """It captures, or one line says why not; nothing is left half-done."""
        self.need_legacy_tables()
        with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
            known = NAMES[:int(file.read()) + 1]
        for name in known:
            for options in ((), ("-t", "-e", "-b"), ("-t", "--trace-rung", "legacy")):
                with self.subTest(without=name, options=options):
                    tool, code = self.start_without(name, *options, "--for", "0.05")
                    if code == 1:
                        (line,) = [line for line in tool.errors().splitlines() if line.startswith("conntracker: ")]
                        self.assertRegex(line, r"[Pp]ermi|CAP_|not permitted|root|raw")
                    else:
                        self.assertIn(code, (0, 3), tool.errors())
                        self.assertIn("conntracker: capturing", tool.errors())
                        self.assertIn("confined by capabilities", self.confined(tool))
                        os.unlink(self.path("report"))
                    self.assert_visible_files()
                    self.assert_nothing_is_left()

    def test_what_it_cannot_do_without(self):
        tool, code = self.start_without("net_admin", "--for", "0.05")
        self.assertEqual(code, 1)
        self.assertIn("permitted", tool.errors())

    def test_the_bounding_set(self):
        tool, code = self.start_without("setpcap", "--for", "0.05")
        self.assertEqual(code, 0, tool.errors())
        self.assertRegex(self.confined(tool), r"not by bounding set \(.*not permitted.*\)")


class Missing(Privileges):
    """A kernel without what confines: it is named, and the capture goes on."""

    def check(self, inject, *named):
        self.network.activate()
        wrapper = (*STRACE, "/dev/null", *(f"-einject={each}" for each in inject))
        tool = self.run_to_end("-o", self.path("report"), "--for", "0.1", wrapper=wrapper)
        self.assertEqual(tool.process.returncode, 0, tool.errors())
        by, _, not_by = self.confined(tool).partition("; not by ")
        for each in named:
            self.assertRegex(not_by, each)
            self.assertNotRegex(by, each.partition(" ")[0])
        return not_by

    def test_landlock(self):
        for error, word in (("ENOSYS", "this kernel has none"), ("EOPNOTSUPP", "it is switched off")):
            with self.subTest(error=error):
                not_by = self.check((f"landlock_create_ruleset:error={error}",), f"Landlock \\({word}")
                self.assertNotIn("seccomp", not_by)

    def test_seccomp(self):
        self.assertNotIn("Landlock", self.check(("seccomp:error=EINVAL",), r"seccomp \(this kernel has no filters"))

    def test_seccomp_before_3_17(self):
        """There was prctl(2) for it, which is found out by asking; before 3.5 there was nothing."""
        self.network.activate()
        for missing, found, filters in (
            ("seccomp", ", Landlock, seccomp", 2), ("seccomp+prctl:0:22", ", Landlock; not by seccomp (this kernel has no filters)", 1),
        ):
            with self.subTest(missing=missing):
                tool = self.capture(wrapper=older.wrapper(missing))
                line = self.confined(tool)
                self.assertTrue(line.endswith(found), line)
                # One of them is what makes the kernel look old. (The field is of Linux 5.9.)
                self.assertEqual(int(status(tool.pid).get("Seccomp_filters", filters)), filters)
                self.stop_complete(tool)

    def test_all(self):
        self.check(
            ("prctl:error=EINVAL", "capset:error=EPERM", "landlock_create_ruleset:error=ENOSYS", "seccomp:error=ENOSYS"),
            "capabilities", "bounding set", "no_new_privs", "Landlock", "seccomp")

    def test_old_landlock(self):
        """Version 1 knows less, and what it does not know cannot be asked of it."""
        self.assertEqual(self.check(("landlock_create_ruleset:retval=1:when=1",)), "")


class Watchdog(LegacyRules, Privileges):
    """It runs iptables for a process that may not."""

    def test_nobody_else_runs_programs(self):
        """Before the filter stands the tool itself may, after that its watchdog alone does."""
        trace = self.path(".tool-trace")
        wrapper = (*STRACE, trace, "-e", "trace=execve,seccomp")
        self.network.run("router", "iptables-legacy", "-w", "20", "-A", "FORWARD", "-p", "udp", "-j", "ACCEPT")
        tool = self.start("-t", "--activate", "legacy", "--trace-rung", "legacy", "-o", self.path("report"), "--for", "0.5", wrapper=wrapper)
        self.assertIn(tool.wait(), (0, 3), tool.errors())
        with open(trace, encoding="utf-8", errors="replace") as file:
            calls = [line.split(None, 1) for line in file if re.match(r"\d+ +(execve|seccomp)\(", line)]
        (own,) = [pid for pid, call in calls if call.startswith("seccomp")]
        before = [call for pid, call in calls[:calls.index(next(each for each in calls if each[1].startswith("seccomp")))]]
        after = [(pid, call) for pid, call in calls[len(before) + 1:]]
        self.assertTrue(any('"CONNTRACKER"' in call for call in before))
        removing = [call for _, call in after if '"-X"' in call]
        self.assertEqual(len(removing), 4, after)  # two chains in each of two families
        self.assertNotIn(own, {pid for pid, _ in after})
        self.assertEqual(self.chains(), [])

    def test_killed(self):
        """Then the tool says what it leaves, and the next start removes it."""
        before = self.state_of_firewall()
        tool = self.capture_with_chain()
        before["loaded"] = self.loaded_tables()
        (watchdog,) = tool.watchdogs()
        os.kill(watchdog, signal.SIGKILL)
        self.assertEqual(tool.stop(), 1, tool.errors())
        self.assertRegex(tool.errors(), r"asking the watchdog.* to remove .*CONNTRACKER|asking the watchdog.*the next start cleans up")
        self.assertNotEqual(self.chains(), [])
        self.assertEqual(self.run_to_end("-o", "-", "--for", "0.01").process.returncode, 0)
        self.assertEqual(self.chains(), [])

    def test_comes_only_where_it_is_needed(self):
        self.network.activate()
        tool = self.capture("--activate", "legacy")
        self.assertEqual(tool.watchdogs(), [], WATCHDOG)
        self.stop_complete(tool)


class Environment(Privileges):
    """No variable changes what the tool does."""

    HOSTILE = {
        "TZ": "Asia/Kathmandu", "RUST_BACKTRACE": "full", "RUST_LOG": "trace", "RUST_MIN_STACK": "1", "LIBBPF_LOG_LEVEL": "debug",
        "LANG": "xx_XX", "LC_ALL": "xx_XX", "HOME": "/nowhere", "TMPDIR": "/nowhere", "XTABLES_LIBDIR": "/nowhere", "XTABLES_LOCKFILE": "/nowhere/lock",
        "LD_LIBRARY_PATH": "/nowhere", "LD_PRELOAD": "/nowhere/evil.so", "MALLOC_TRACE": "/nowhere/trace",
    }

    def setUp(self):
        super().setUp()
        self.need_legacy_tables()
        self.network.activate()
        self.network.run("router", "iptables-legacy", "-w", "20", "-A", "FORWARD", "-p", "udp", "-j", "ACCEPT")

    def run_with(self, variables):
        """Exit status, report and the programs that were run, with how many variables."""
        trace = self.path(".tool-trace")
        named = [f"-E{name}={value}" for name, value in variables.items()]
        wrapper = (*STRACE, trace, "-etrace=execve", *named)
        tool = self.run_to_end("-t", "-b", "--trace-rung", "legacy", "-o", "-", "--for", "0.3", wrapper=wrapper)
        with open(trace, encoding="utf-8", errors="replace") as file:
            calls = re.findall(r'execve\("([^"]*)", \[(.*)\], \S+ /\* (\d+) vars? \*/\) = (-?\d+)', file.read())
        return tool.process.returncode, tool.output(), calls[1:]

    def test_changes_nothing(self):
        self.traffic.udp(4)
        self.traffic.tcp(6)
        evil = self.path("evil")
        os.mkdir(evil)
        for name in ("iptables", "iptables-legacy", "iptables-legacy-save", "ip6tables", "ip6tables-legacy", "ip6tables-legacy-save"):
            shutil.copy("/bin/false", os.path.join(evil, name))
        plain = self.run_with({})
        hostile = self.run_with({**self.HOSTILE, "PATH": evil})
        self.assertEqual(plain[0], hostile[0])
        self.assertTrue(plain[1].startswith(" UDPv4 ["), plain[1])
        self.assertEqual(plain[1], hostile[1])
        self.assertTrue(plain[2], "no program was run")
        self.assertEqual(set(plain[2]), set(hostile[2]))  # how often rules are looked at depends on time
        self.assertEqual({variables for _, _, variables, _ in hostile[2]}, {"0"})
