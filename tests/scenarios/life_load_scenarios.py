"""A long life at high speed: ten million flows, signals in a flood, one kill -9 after the other."""

import json
import os
import re
import signal
import subprocess

import processes
from daemon import Daemon, Syslogd
from report import Report
from scenario import Scenario
from waiting import wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCES = "10.99.0.0"
CONNTRACK_MAX = 262_144
COUNTING = """
table inet witness {
    chain c {
        type filter hook postrouting priority 50; policy accept;
        ct state new counter
    }
}
"""


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


class Flood(Scenario):
    def setUp(self):
        super().setUp()
        self.flood_program = self.path(".flood")
        subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-o", self.flood_program, os.path.join(HERE, "flood.c")], check=True)
        self.network.run("router", "nft", COUNTING)
        self.network.run("router", "ip", "route", "add", "10.99.0.0/16", "via", "10.77.1.2")
        self.network.run("router", "sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=1")
        self.traffic.discard()
        self.syslogd = Syslogd(self.path("log"))
        self.addCleanup(self.syslogd.close)

    def flood(self, count, per_second):
        with self.network.inside("client"):
            argv = [self.flood_program, SOURCES, "10.77.2.2", str(count), str(per_second)]
            process = processes.start(argv, stdout=subprocess.PIPE)
        self.addCleanup(process.stdout.close)
        self.addCleanup(processes.end, process)
        return process

    def new_flows(self):
        """As a rule of the firewall has counted them."""
        text = self.network.run("router", "nft", "list", "table", "inet", "witness")
        return int(re.search(r"counter packets (\d+)", text)[1])

    def stats_of(self, path):
        return json.loads(read(path).splitlines()[-1])


def resident_kib(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", read(f"/proc/{pid}/status"))[1])


def cpu_ticks(pid):
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


class TenMillion(Flood):
    FLOWS = 10_000_000
    STEP = 1_000_000

    def test_memory_descriptors_and_cpu_stay_flat(self):
        daemon = Daemon(
            self,
            *("-o", self.path("report"), "--follow", "--rotate", "1m,2", "--format", "json"),
            *("--status", self.path("numbers"), "--every", "5"),
        ).wait_until_started()
        samples = []
        for _ in range(self.FLOWS // self.STEP):
            ticks, flows = cpu_ticks(daemon.pid), self.new_flows()
            process = self.flood(self.STEP, 90_000)
            self.assertEqual(process.wait(120), 0)
            made = self.new_flows() - flows
            descriptors = len(os.listdir(f"/proc/{daemon.pid}/fd"))
            samples.append((resident_kib(daemon.pid), descriptors, (cpu_ticks(daemon.pid) - ticks) / made * 1e4))
        total = self.new_flows()
        daemon.stop()
        stats = self.stats_of(self.path("report"))
        self.assertGreater(total, self.FLOWS * 0.95)
        events, lost = stats["events"], stats["lost"]["events"]
        self.assertTrue(stats["lost"]["exact"])
        self.assertLessEqual(events["new"], total)
        self.assertGreaterEqual(events["new"] + events["destroy"] + lost, 2 * total - CONNTRACK_MAX)  # those live
        self.assertLessEqual(events["new"] + events["destroy"] + lost, 2 * total)
        if lost == 0:
            self.assertEqual(events["new"], total)
        print(f"     | {lost} events lost of {2 * total}; KiB, descriptors, us of CPU for each flow: {samples}", flush=True)
        memory, descriptors, cpu = zip(*samples)
        self.assertLessEqual(max(memory[2:]), memory[1] * 1.02 + 64, samples)
        self.assertLessEqual(max(descriptors) - min(descriptors), 4, samples)  # a report under way has some
        self.assertLess(sorted(cpu[5:])[2], sorted(cpu[:5])[2] * 1.5, samples)
        disk = sum(os.path.getsize(self.path(name)) for name in os.listdir(self.folder) if re.fullmatch(r"report(\.\d)?", name))
        self.assertLessEqual(disk, 3 << 20)
        self.assertNotIn("could not", "".join(self.syslogd.texts()))


class Signals(Flood):
    def test_a_thousand_of_each_lose_nothing_that_is_not_counted(self):
        options = ("-o", self.path("report"), "--follow", "--format", "json", "--capacity", "200000")
        daemon = Daemon(self, *options).wait_until_started()
        process = self.flood(300_000, 30_000)
        for _ in range(1000):
            daemon.send(signal.SIGUSR1)
            daemon.send(signal.SIGHUP)
            self.syslogd.read()
        self.assertEqual(process.wait(120), 0)
        made = self.new_flows()
        wait_for(lambda: os.path.exists(self.path("report.report")), "a report")
        self.assertGreater(len(Report(read(self.path("report.report"))).objects), 0)
        daemon.stop()
        lines = read(self.path("report")).splitlines()
        stats = json.loads(lines.pop())
        lost = stats["lost"]
        self.assertTrue(lost["exact"])
        seen = sum('"event":"new"' in line or '"event":"existing"' in line for line in lines)
        self.assertGreaterEqual(stats["events"]["new"] + lost["events"], made)
        self.assertLessEqual(stats["events"]["new"], made)
        if lost["events"] == 0:
            self.assertEqual(stats["events"]["new"], made)
            self.assertEqual(seen + stats["table"]["refused"] + stats["table"]["folded"], made)
        for line in lines:
            json.loads(line)


class Killed(Flood):
    def test_a_hundred_times(self):
        before = self.network.run("router", "nft", "-s", "list", "ruleset")
        sysctls = [self.network.run("router", "sysctl", "-n", f"net.netfilter.nf_log.{family}") for family in (2, 10)]
        self.flood(10_000_000, 5_000)
        for number in range(100):
            daemon = Daemon(self, "-o", self.path("report"), "-te" if number % 2 else "-4").wait_until_started()
            daemon.send(signal.SIGKILL)
            daemon.wait()
            self.syslogd.read()
        wait_for(lambda: not daemon.caller.watchdogs(), "the watchdogs to end")
        last = Daemon(self, "-o", self.path("report"), "-te").wait_until_started()
        last.stop()
        self.assertEqual(self.network.run("router", "nft", "-s", "list", "ruleset"), before)
        self.assertEqual(
            [self.network.run("router", "sysctl", "-n", f"net.netfilter.nf_log.{family}") for family in (2, 10)], sysctls
        )
        namespace = self.network.run("router", "readlink", "/proc/self/ns/net").strip().strip("net:[]")
        self.assertEqual([name for name in os.listdir("/run") if namespace in name], [])
        self.assertFalse(os.path.exists(self.path("pid")))
        self.assertEqual([name for name in os.listdir(self.folder) if not name.startswith(".tool")].count("report"), 1)
