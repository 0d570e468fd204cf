"""-b leaves nothing behind and touches nothing; without it nothing is loaded; what cannot work says so in one line."""

import os
import random
import re
import shutil
import signal

import bpf
import witness
from network import ROUTER_SERVER_SIDE, SERVER
from owners import LOOPBACK, RUNGS, Owners
from report import UDP
from traffic import DISCARD_PORT
from waiting import pass_time, wait_for

KILLED_TIMES = 20
LATEST_INSTANT_MS = 250
HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
# What a network says of itself (multicast listener reports) is not the tool's.
COUNTING = "".join(
    f"add table {table}\nadd chain {table} {name} {{ type filter hook {hook} priority -400; }}\n"
    f"add rule {table} {name} meta l4proto {{ tcp, udp, icmp }} counter\n"
    for table, name, hook in [("inet counting", hook, hook) for hook in HOOKS]
    + [("netdev counting", device, f"ingress device {device}") for device in ("rc", "rs", "lo")]
)


def mounts(pid="self"):
    """What is mounted, but for the namespaces of tests."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8") as file:
        fields = [line.split() for line in file]
    return sorted((each[4], each[each.index("-") + 1]) for each in fields if not each[4].startswith("/run/netns"))


class Harm(Owners):
    def assert_nothing_left(self, pid):
        """No program, map or link in the kernel that this run of the tool has made, no process, and no note."""
        wait_for(lambda: not bpf.maps_of(pid), lambda: f"the maps of {pid} to go: {bpf.maps_of(pid)}", deadline_s=5)
        wait_for(lambda: not self.network.processes("router"), "the processes to go", deadline_s=5)
        self.assertEqual(mounts(), self.mounts)
        self.assertEqual([note for note in self.network.notes() if note.endswith(".state")], [])

    def setUp(self):
        super().setUp()
        self.mounts = mounts()


class Killed(Harm):
    def test_at_many_instants(self):
        """While it starts and while it captures."""
        chance = random.Random(KILLED_TIMES)
        slice_ms = LATEST_INSTANT_MS / KILLED_TIMES
        had_programs = 0
        for index in range(KILLED_TIMES):
            instant = (index + chance.random()) * slice_ms / 1000
            with self.subTest(instant=instant):
                tool = self.start("-b", "--owner", "cgroup", "-o", self.path("report"))
                pass_time(instant)
                had_programs += bool(bpf.maps_of(tool.pid))
                tool.kill()
                self.assert_nothing_left(tool.pid)
        self.assertGreater(had_programs, 0, "it was never killed while it had programs")

    def test_while_it_captures(self):
        local = self.actor("local")
        self.traffic.discard()
        tool = self.attribute("cgroup")
        self.assertNotEqual(bpf.maps_of(tool.pid), [], "the witness sees nothing")
        local.do(["make", "x", 4, "udp"], ["send_to", "x", SERVER[4], DISCARD_PORT])
        tool.kill()
        local.end()
        self.assert_nothing_left(tool.pid)

    def test_the_next_run_is_as_good(self):
        self.traffic.discard()
        local = self.actor("local")
        self.attribute("cgroup").kill()
        tool = self.attribute("cgroup")
        port = local.do(["make", "x", 4, "udp"], ["send_to", "x", SERVER[4], DISCARD_PORT])[1]
        report = self.stop_attributed(tool)
        self.assert_owners(report, UDP, (ROUTER_SERVER_SIDE[4], SERVER[4], port, DISCARD_PORT), local.who())


class Ended(Harm):
    def test_each_signal(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            for rung in RUNGS:
                with self.subTest(signal=number.name, rung=rung):
                    tool = self.attribute(rung)
                    self.assertEqual(bool(bpf.maps_of(tool.pid)), rung == "cgroup")
                    self.assertEqual(tool.stop(number), 0, tool.errors())
                    self.assert_nothing_left(tool.pid)
                    self.assertEqual(self.network.notes(), [])

    def test_it_stays_in_its_namespaces(self):
        """The namespace of the self-test is gone before the capture begins: no task is in it and no descriptor holds it."""
        with self.network.inside("router"):
            here = os.stat("/proc/thread-self/ns/net").st_ino
        tool = self.attribute("cgroup")
        spaces = {os.stat(f"/proc/{tool.pid}/task/{task}/ns/net").st_ino for task in os.listdir(f"/proc/{tool.pid}/task")}
        self.assertEqual(spaces, {here})
        held = [os.readlink(f"/proc/{tool.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{tool.pid}/fd")]
        self.assertEqual([each for each in held if each.startswith(("net:", "mnt:"))], [])
        self.assertEqual(mounts(tool.pid), self.mounts)
        self.stop_complete(tool)


class Untouched(Harm):
    def test_nobodys_packets(self):
        """The self-test's connection passes no hook and no loopback device of this network."""
        self.network.nft(COUNTING)
        loopback = self.loopback()
        for rung in (*RUNGS, "auto"):
            with self.subTest(rung=rung):
                tool = self.capture_json("-b", "--owner", rung)
                report = self.stop_complete(tool).report()
                self.assertEqual(report.objects, [])
                counters = re.findall(r"\} counter packets (\d+)", witness.nft_ruleset(self.network))
                self.assertEqual(len(counters), len(HOOKS) + 3)
                self.assertEqual(set(counters), {"0"})
                self.assertEqual(self.loopback(), loopback)
        local = self.actor("local")
        local.do(["make", "x", 4, "udp"], ["send_to", "x", LOOPBACK[4], DISCARD_PORT])
        self.assertNotEqual(self.loopback(), loopback, "the witness sees nothing")
        self.assertRegex(witness.nft_ruleset(self.network), r"\} counter packets [1-9]", "nor does this one")

    def loopback(self):
        """The counters of the device."""
        with self.network.inside("router"), open("/proc/thread-self/net/dev", encoding="ascii") as file:
            return [line for line in file if line.lstrip().startswith("lo:")]

    def test_what_is_dropped_stays_dropped_and_what_passes_passes(self):
        """The programs allow all and change nothing: the rules' counters are what they are without."""
        self.network.nft("""
            table inet fw {
                chain out {
                    type filter hook output priority 0; policy accept;
                    udp dport 666 counter drop
                    udp dport 9 counter accept
                }
            }""")
        local = self.actor("local")
        self.traffic.discard()
        tool = self.attribute("cgroup")
        for version in (4, 6):
            for port in (666, DISCARD_PORT):
                for _ in range(50):
                    local.do(["make", "x", version, "udp"], ["send_to", "x", SERVER[version], port])
        self.stop_attributed(tool)
        counters = re.findall(r"dport \d+ counter packets (\d+)", witness.nft_ruleset(self.network))
        self.assertEqual(counters, ["100", "100"])


class WithoutIt(Harm):
    def test_nothing_is_loaded(self):
        if shutil.which("strace") is None:
            self.skipTest("there is no strace")
        for options, loads in (((), False), (("-t", "-e"), False), (("-b", "--owner", "procfs"), False), (("-b", "--owner", "cgroup"), True)):
            with self.subTest(options=options):
                trace = self.path(".tool-strace")
                tool = self.start(*options, "--for", "0.2", "-o", "-", wrapper=("strace", "-f", "-e", "trace=bpf", "-o", trace))
                self.assertEqual(tool.wait(), 0, tool.errors())
                with open(trace, encoding="utf-8", errors="replace") as file:
                    calls = [line for line in file if "bpf(" in line]
                self.assertEqual(bool(calls), loads, calls[:3])


class Refused(Harm):
    """Rungs that this kernel does not have, and rights that the user does not have."""

    def one_line(self, tool, code):
        self.assertEqual(tool.process.returncode, code, tool.errors())
        lines = [line for line in tool.errors().splitlines() if line.startswith("conntracker: ")]
        self.assertEqual(len(lines), 1, tool.errors())
        return lines[0]

    def works(self, rung):
        """Whether auto takes this rung, or another one worse."""
        tool = self.run_to_end("-b", "--owner", rung, "--for", "0.05", "-o", self.path(".tool-report"))
        self.assert_nothing_left(tool.pid)
        return tool if tool.process.returncode else None

    def test_forced_rungs(self):
        """Each works, or says in a line why not, and leaves nothing."""
        refused = []
        for rung in ("trace", "kprobe", "legacy", "cgroup"):
            with self.subTest(rung=rung):
                tool = self.works(rung)
                if tool is not None:
                    line = self.one_line(tool, 1)
                    self.assertRegex(line, rf"finding the processes behind flows.*\b{rung}: .+")
                    self.assertLess(len(line), 500)
                    refused.append(rung)
        tool = self.attribute_auto()
        self.assertNotIn(tool, refused)

    def attribute_auto(self):
        """What auto takes; all that it did not take before it is told of, in the log line and in the report."""
        tool = self.capture_json("-b")
        report = self.stop_complete(tool).report()
        (line,) = re.findall(r"^conntracker: owners: .*$", tool.errors(), re.MULTILINE)
        owners = report.stats["owners"]
        self.assertTrue(line.startswith(f"conntracker: owners: {owners['rung']}"), line)
        before = ("trace", "cgroup", "kprobe", "procfs")
        for better in before[:before.index(owners["rung"])]:
            self.assertIn(f"{better}: ", line)
            self.assertIn(f"{better}: ", owners["reason"])
        return owners["rung"]

    def test_types_that_are_none(self):
        tool = self.run_to_end("-b", "--owner", "trace", "--btf", "/etc/passwd", "-o", self.path("report"))
        self.assertRegex(self.one_line(tool, 1), r"trace: .*(BTF|/etc/passwd)")
        tool = self.run_to_end("-b", "--owner", "trace", "--btf", "/nonexistent", "-o", self.path("report"))
        self.assertRegex(self.one_line(tool, 1), r"trace: no BTF at /nonexistent")
        self.assert_visible_files()

    def test_without_the_rights(self):
        """The next rung, and why."""
        if shutil.which("setpriv") is None:
            self.skipTest("there is no setpriv")
        one, two = self.actors("one", "two")
        wrapper = ("setpriv", "--bounding-set=-cap_39,-sys_admin,-cap_38")
        tool = self.capture_json("-b", wrapper=wrapper)
        name = "datagram"
        there = two.do(["make", name, 4, "udp"], ["bind", name, LOOPBACK[4]])
        here = one.do(["make", name, 4, "udp"], ["bind", name, LOOPBACK[4]], ["send_to", name, *there])
        report = self.stop_complete(tool).report()
        owners = report.stats["owners"]
        self.assertEqual(owners["rung"], "procfs")
        self.assertRegex(owners["reason"], r"cgroup: .+")
        self.assertIn("conntracker: owners: procfs", tool.errors())
        self.assert_owners(report, UDP, (here[0], there[0], here[1], there[1]), one.who())
        forced = self.run_to_end("-b", "--owner", "cgroup", "-o", self.path("report"), wrapper=wrapper)
        self.assertRegex(self.one_line(forced, 1), r"cgroup: .+")

    def test_words_that_are_none(self):
        for options in (("-b", "--owner", "best"), ("--owner", "cgroup"), ("--btf", "/x")):
            with self.subTest(options=options):
                tool = self.run_to_end(*options, "-o", self.path("report"))
                self.assertEqual(tool.process.returncode, 2, tool.errors())
