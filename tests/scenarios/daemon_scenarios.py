"""A long life: in the background, with signals, a pidfile, syslog, reports meanwhile, files that rotate, a disk that fills up."""

import fcntl
import json
import os
import pty
import re
import signal
import socket
import stat
import termios

from daemon import Daemon, Syslogd
from report import Report, expected_text, follow_line
from scenario import Scenario
from traffic import different_ports
from waiting import wait_for


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def open_files(pid):
    try:
        return [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return []


class Background(Scenario):
    def setUp(self):
        super().setUp()
        self.network.activate()
        self.syslogd = Syslogd(self.path("log"))
        self.addCleanup(self.syslogd.close)

    def daemon(self, *options, **more):
        return Daemon(self, *options, **more).wait_until_started()


class Life(Background):
    def test_detaches_when_all_is_in_place(self):
        daemon = self.daemon("-o", self.path("report"), stdout=None)
        self.assertEqual(daemon.caller.errors(), "")
        self.assertEqual(stat.S_IMODE(os.stat(self.path("pid")).st_mode), 0o600)
        self.assertIn("capturing", self.syslogd.texts())
        with open(f"/proc/{daemon.pid}/stat", encoding="ascii") as file:
            _, _, session, terminal = file.read().rpartition(")")[2].split()[1:5]
        self.assertNotEqual(int(session), daemon.pid)
        self.assertEqual(terminal, "0")
        self.assertEqual(os.readlink(f"/proc/{daemon.pid}/cwd"), "/")
        for number in range(3):
            self.assertEqual(os.readlink(f"/proc/{daemon.pid}/fd/{number}"), "/dev/null")
        flow = self.traffic.udp(4)
        daemon.stop()
        self.assertEqual(read(self.path("report")), expected_text([flow]))
        self.assertFalse(os.path.exists(self.path("pid")))
        self.syslogd.wait_for("complete: 1 flows, 1 new")
        self.assertEqual({pid for _, pid, _ in self.syslogd.read()}, {daemon.pid})
        self.assertEqual({priority for priority, _, _ in self.syslogd.read()}, {30})

    def test_relative_names_are_those_of_the_caller(self):
        daemon = self.daemon("-o", "report", "--record", "recording", "--status", "numbers")
        flow = self.traffic.udp(4)
        daemon.stop()
        self.assertEqual(read(self.path("report")), expected_text([flow]))
        self.assertGreater(os.path.getsize(self.path("recording")), 100)

    def test_a_start_that_fails_is_the_callers_status_and_one_line(self):
        for options, word in (
            (("-o", self.path("no/such/folder")), "folder"),
            (("-o", self.path("report"), "-t", "--trace-rung", "legacy", "--record", self.path("no/recording")), "recording"),
            (("-o", self.path("report"), "--status", self.path("no/numbers")), "numbers"),
        ):
            with self.subTest(options=options):
                line = Daemon(self, *options).wait_until_refused()
                self.assertIn(word, line)
                self.assertFalse(os.path.exists(self.path("pid")))
        self.assert_visible_files("log")

    def test_a_second_one_is_refused_with_the_firsts_pid(self):
        first = self.daemon("-o", self.path("report"))
        line = Daemon(self, "-o", self.path("other"), pidfile="other-pid").wait_until_refused()
        self.assertIn(f"process {first.pid}", line)
        line = Daemon(self, "-o", self.path("other"), side="client").wait_until_refused()
        self.assertIn(f"process {first.pid}", line)
        self.assertIn("--pidfile", line)
        self.assertEqual(read(self.path("pid")), f"{first.pid}\n")
        self.assertTrue(first.is_running())
        self.daemon("-o", self.path("other"), pidfile="other-pid", side="client")

    def test_the_pidfile_is_locked_and_a_stale_one_taken_over(self):
        with open(self.path("pid"), "w", encoding="ascii") as file:
            file.write("1\n")
        daemon = self.daemon("-o", self.path("report"))
        with open(self.path("pid"), encoding="ascii") as file:
            self.assertEqual(int(file.read()), daemon.pid)
            with self.assertRaises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        daemon.send(signal.SIGKILL)
        daemon.wait()
        again = self.daemon("-o", self.path("report"))
        self.assertNotEqual(again.pid, daemon.pid)

    def test_traces_and_cleans_up(self):
        self.network.run("router", "nft", "add table inet fw; add chain inet fw c { type filter hook forward priority 0; }")
        before = self.network.run("router", "nft", "-s", "list", "ruleset")
        daemon = self.daemon("-te", "-o", self.path("report"))
        self.assertNotEqual(self.network.run("router", "nft", "-s", "list", "ruleset"), before)
        flow = self.traffic.udp(4)
        daemon.stop()
        self.assertIn("chain: c, type: policy", read(self.path("report")))
        self.assertEqual(self.network.run("router", "nft", "-s", "list", "ruleset"), before)
        self.assertEqual(daemon.caller.watchdogs(), [])

    def test_ends_if_the_caller_is_gone_before_it_is_ready(self):
        """The daemon waits for a lock that the test holds, its caller is killed, the lock is free: nobody would know of it."""
        namespace = self.network.run("router", "readlink", "/proc/self/ns/net").strip().removeprefix("net:[").removesuffix("]")
        lock = f"/run/conntracker-{namespace}.lock"
        with open(lock, "w", encoding="ascii") as file:
            self.addCleanup(lambda: os.path.exists(lock) and os.unlink(lock))
            os.chmod(lock, 0o600)
            fcntl.flock(file, fcntl.LOCK_EX)
            daemon = Daemon(self, "-o", self.path("report"))
            inode = f":{os.fstat(file.fileno()).st_ino}"

            def waiting():
                """The process that has the lock's file open and is neither the test nor the caller."""
                for pid in map(int, self.network.processes("router")):
                    if pid != daemon.caller.pid and any(lock in target for target in open_files(pid)):
                        return pid
                return None

            daemon.pid = wait_for(waiting, f"the daemon to wait for {lock} ({inode})")
            daemon.caller.kill()
        daemon.wait()
        self.assertFalse(os.path.exists(self.path("pid")))
        self.syslogd.wait_for("detaching from the caller: it is gone")


class Signals(Background):
    def flows(self, path):
        return Report(read(path)).flows()

    def wait_for_flows(self, path, flows):
        wait_for(lambda: os.path.exists(path) and self.flows(path) == flows, lambda: f"{flows} in {path}")

    def test_usr1_writes_the_report_and_goes_on(self):
        daemon = self.daemon("-o", self.path("report"), "--format", "json")
        first = self.traffic.udp(4)
        daemon.send(signal.SIGUSR1)
        self.wait_for_flows(self.path("report"), [first])
        stats = [json.loads(line) for line in read(self.path("report")).splitlines()][-1]
        self.assertEqual(stats["type"], "stats")
        second = self.traffic.udp(4, port=1053)
        os.unlink(self.path("report"))
        daemon.send(signal.SIGUSR1)
        wait_for(lambda: os.path.exists(self.path("report")), "the report")
        self.assertCountEqual(self.flows(self.path("report")), [first, second])
        daemon.stop()
        self.assertEqual(len(self.flows(self.path("report"))), 2)
        self.assert_visible_files("log", "report")

    def test_usr1_has_the_kernels_counters(self):
        self.network.run("router", "sysctl", "-qw", "net.netfilter.nf_conntrack_acct=1")
        daemon = self.daemon("-o", self.path("report"), "--format", "json")
        self.traffic.udp(4)
        daemon.send(signal.SIGUSR1)
        wait_for(lambda: os.path.exists(self.path("report")), "the report")
        flow = json.loads(read(self.path("report")).splitlines()[0])
        self.assertEqual(flow["original"]["packets"], 1)

    def test_usr1_beside_what_is_followed(self):
        daemon = self.daemon("-o", self.path("report"), "--follow")
        flow = self.traffic.udp(4)
        daemon.send(signal.SIGUSR1)
        wait_for(lambda: os.path.exists(self.path("report.report")), "the report")
        self.assertEqual(read(self.path("report.report")), expected_text([flow]))
        wait_for(lambda: read(self.path("report")) == follow_line("NEW", flow, 0) + "\n", "the flow")

    def test_hup_opens_a_new_file_and_never_ends(self):
        daemon = self.daemon("-o", self.path("report"), "--follow")
        first = self.traffic.udp(4)
        wait_for(lambda: read(self.path("report")), "the flow")
        os.rename(self.path("report"), self.path("old"))
        daemon.send(signal.SIGHUP)
        wait_for(lambda: os.path.exists(self.path("report")), "a new file")
        second = self.traffic.udp(4, port=1053)
        wait_for(lambda: read(self.path("report")) == follow_line("NEW", second, 1) + "\n", lambda: read(self.path("report")))
        self.assertEqual(read(self.path("old")), follow_line("NEW", first, 0) + "\n")
        for _ in range(20):
            daemon.send(signal.SIGHUP)
        daemon.send(signal.SIGUSR2)
        self.syslogd.wait_for("status: ")
        self.assertTrue(daemon.is_running())

    def test_usr2_says_how_it_goes(self):
        daemon = self.daemon("-o", self.path("report"))
        self.traffic.udp(4)
        daemon.send(signal.SIGUSR2)
        self.syslogd.wait_for("status: ")
        (text,) = [text for text in self.syslogd.texts() if text.startswith("status: ")]
        self.assertRegex(
            text,
            r"status: \d+ s, 1 of 65536 flows, 1 events, 0 lost, [1-9]\d+ KiB, capture ctnetlink, activation \S.*",
        )

    def test_reports_at_intervals(self):
        daemon = self.daemon("-o", self.path("report"), "--every", "1")
        flow = self.traffic.udp(4)
        for _ in range(3):
            wait_for(lambda: os.path.exists(self.path("report")), "the report")
            self.assertEqual(read(self.path("report")), expected_text([flow]))
            os.unlink(self.path("report"))
        self.assertTrue(daemon.is_running())

    def test_each_signal_that_ends(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            with self.subTest(number=number):
                self.network.run("router", "conntrack", "-F")
                daemon = self.daemon("-o", self.path("report"))
                flow = self.traffic.udp(4)
                daemon.stop(number)
                self.assertEqual(read(self.path("report")), expected_text([flow]))

    def test_in_the_foreground_too(self):
        tool = self.start("-o", self.path("report")).wait_until_capturing()
        flow = self.traffic.udp(4)
        tool.send(signal.SIGHUP)
        tool.send(signal.SIGUSR2)
        tool.wait_for_error_line("conntracker: status: ")
        tool.send(signal.SIGUSR1)
        wait_for(lambda: os.path.exists(self.path("report")), "the report")
        self.assertEqual(read(self.path("report")), expected_text([flow]))
        self.stop_complete(tool)


class Files(Background):
    def test_goes_on_with_the_file_of_before(self):
        with open(self.path("report"), "w", encoding="ascii") as file:
            file.write("old\n")
        os.chmod(self.path("report"), 0o600)
        daemon = self.daemon("-o", self.path("report"), "--follow")
        flow = self.traffic.udp(4)
        daemon.stop()
        self.assertEqual(read(self.path("report")), "old\n" + follow_line("NEW", flow, 0) + "\n")

    def parts(self):
        names = [f"report.{number}" for number in range(9, 0, -1)] + ["report"]
        return [self.path(name) for name in names if os.path.exists(self.path(name))]

    def test_rotates_by_size(self):
        daemon = self.daemon("-o", self.path("report"), "--follow", "--rotate", "128k,3", "--format", "json")
        self.traffic.discard()
        flows = [flow for port in (2000, 3000, 4000) for flow in self.traffic.many_udp(different_ports(300, first_port=port))]
        wait_for(lambda: sum(read(path).count("\n") for path in self.parts()) == len(flows), lambda: f"all lines: {[(path, os.path.getsize(path), read(path).count(chr(10))) for path in self.parts()]} {self.syslogd.texts()}")
        daemon.stop()
        self.assertGreater(len(self.parts()), 2)
        for path in self.parts():
            self.assertLessEqual(os.path.getsize(path), 128 << 10)
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        lines = [json.loads(line) for path in self.parts() for line in read(path).splitlines()]
        self.assertEqual([line["type"] for line in lines], ["flow"] * len(flows) + ["stats"])

    def test_keeps_so_many_and_no_more(self):
        with open(self.path("report.3"), "w", encoding="ascii") as file:
            file.write("somebody's")
        self.daemon("-o", self.path("report"), "--follow", "--rotate", "128k,2", "--format", "json")
        self.traffic.discard()
        for port in range(2000, 8000, 1000):
            self.traffic.many_udp(different_ports(300, first_port=port))
        wait_for(lambda: len(self.parts()) == 4 and os.path.getsize(self.path("report.2")) > 100 << 10, "two files of before")
        self.assertEqual(read(self.path("report.3")), "somebody's")

    def test_a_name_that_is_taken_suspends(self):
        os.mkdir(self.path("report.1"))
        daemon = self.daemon("-o", self.path("report"), "--follow", "--rotate", "128k", "--format", "json")
        self.traffic.discard()
        self.traffic.many_udp(different_ports(500))
        self.syslogd.wait_for("(nothing is written until it can be again")
        self.assertLessEqual(os.path.getsize(self.path("report")), 128 << 10)
        os.rmdir(self.path("report.1"))
        wait_for(lambda: self.traffic.udp(4, port=1053) and any("goes on" in text for text in self.syslogd.texts()), "writing to go on")
        daemon.stop()

    def test_a_full_disk_suspends_is_said_once_and_counted(self):
        os.mkdir(self.path("small"))
        options = ("-o", self.path("small/report"), "--follow", "--format", "json")
        daemon = self.daemon(*options, small=(self.path("small"), "128k"))
        folder = f"/proc/{daemon.pid}/root{self.path('small')}"
        filler = os.path.join(folder, "filler")
        with open(filler, "wb") as file:
            with self.assertRaises(OSError):
                while True:
                    os.write(file.fileno(), b"x" * 4096)
        self.traffic.discard()
        self.traffic.many_udp(different_ports(200))
        self.syslogd.wait_for("No space left")
        self.traffic.many_udp(different_ports(200, first_port=3000))
        os.unlink(filler)
        wait_for(lambda: self.traffic.udp(4, port=1053) and any("goes on" in text for text in self.syslogd.texts()), "writing to go on")
        (said,) = [text for text in self.syslogd.texts() if "No space left" in text]
        (again,) = [text for text in self.syslogd.texts() if "goes on" in text]
        kept = os.open(os.path.join(folder, "report"), os.O_RDONLY)
        self.addCleanup(os.close, kept)
        daemon.stop()
        unwritten = int(re.search(r"(\d+) lines could not be written", again)[1])
        self.assertGreaterEqual(unwritten, 200)
        lines = [json.loads(line) for line in os.read(kept, 1 << 20).decode().splitlines()]
        stats = lines.pop()
        self.assertEqual(stats["lost"]["unwritten"], unwritten)
        self.assertEqual(len(lines) + unwritten, stats["events"]["new"] + stats["events"]["destroy"])
        self.syslogd.wait_for(f"incomplete: {unwritten} lines of what is followed not written")

    def test_a_full_disk_leaves_the_report_of_before(self):
        os.mkdir(self.path("small"))
        daemon = self.daemon("-o", self.path("small/report"), small=(self.path("small"), "64k"))
        folder = f"/proc/{daemon.pid}/root{self.path('small')}"
        flow = self.traffic.udp(4)
        daemon.send(signal.SIGUSR1)
        wait_for(lambda: os.listdir(folder) == ["report"], "the report")
        self.traffic.discard()
        self.traffic.many_udp(different_ports(1500))
        for count in (1, 2, 3):
            daemon.send(signal.SIGUSR1)
            daemon.send(signal.SIGUSR2)
            self.syslogd.wait_for("status: ", count)
        self.syslogd.wait_for("No space left")
        wait_for(lambda: os.listdir(folder) == ["report"], "only the report of before")
        self.assertEqual(read(os.path.join(folder, "report")), expected_text([flow]))
        self.network.run("router", "conntrack", "-F")
        self.assertEqual(sum("No space left" in text for text in self.syslogd.texts()), 1)

    def test_numbers_for_prometheus(self):
        daemon = self.daemon("-o", self.path("report"), "--status", self.path("numbers"), "--net", "10.77.0.0/16")
        self.traffic.udp(4)
        self.traffic.tcp(4).close()
        wait_for(lambda: os.path.exists(self.path("numbers")) and 'protocol="udp"' in read(self.path("numbers")), "the numbers")
        text = read(self.path("numbers"))
        self.assertEqual(stat.S_IMODE(os.stat(self.path("numbers")).st_mode), 0o644)  # node_exporter is not root
        samples = samples_of(text)
        self.assertEqual(samples['conntracker_flows{family="ipv4",protocol="udp",state="live"}'], 1)
        self.assertEqual(samples['conntracker_flows{family="ipv4",protocol="tcp",state="live"}'], 1)
        self.assertEqual(samples['conntracker_events_total{event="new"}'], 2)
        self.assertEqual(samples["conntracker_flow_capacity"], 65536)
        self.assertEqual(samples["conntracker_complete"], 1)
        self.assertGreater(samples["conntracker_resident_memory_bytes"], 100000)
        self.assertEqual(samples['conntracker_lost_total{what="events"}'], 0)
        self.assertIn('capture="ctnetlink"', text)
        self.assertNotRegex(text, r"10\.77\.|:: ")
        daemon.stop()
        self.assertFalse(os.path.exists(self.path("numbers")))


    def test_hits_by_rule(self):
        self.network.run("router", "nft", "add table inet fw")
        self.network.run("router", "nft", "add chain inet fw c { type filter hook forward priority 10; }")
        self.network.run("router", "nft", r'add rule inet fw c udp dport 9 counter comment "a\b=1,{c}"')
        listed = json.loads(self.network.run("router", "nft", "-j", "list", "chain", "inet", "fw", "c"))
        (handle,) = [each["rule"]["handle"] for each in listed["nftables"] if "rule" in each]
        self.daemon("-t", "-o", self.path("report"), "--status", self.path("numbers"))
        self.traffic.discard()
        self.traffic.many_udp(different_ports(7))
        counted = self.network.run("router", "nft", "list", "chain", "inet", "fw", "c")
        self.assertIn("counter packets 7", counted)

        def hits():
            samples = samples_of(read(self.path("numbers"))) if os.path.exists(self.path("numbers")) else {}
            return {series: count for series, count in samples.items() if f'handle="{handle}"' in series and "inet fw" in series}

        ((series, count),) = wait_for(hits, "the hits").items()
        self.assertEqual(count, 7)
        self.assertIn('firewall="nft",table="inet fw",chain="c",kind="rule"', series)
        self.assertIn(r'comment="a\\b=1,{c}"', series)


SAMPLE = re.compile(r'(conntracker_[a-z_]+(?:\{[a-z]+="(?:[^"\\\n]|\\["\\n])*"(?:,[a-z]+="(?:[^"\\\n]|\\["\\n])*")*\})?) (\d+)')


def samples_of(text):
    """What Prometheus would read: each series once, behind the line that says what it is."""
    samples, typed = {}, set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            typed.add(line.split()[2])
        elif not line.startswith("# HELP "):
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match[1] not in samples, line
            assert match[1].split("{")[0] in typed, line
            samples[match[1]] = int(match[2])
    return samples


class Log(Background):
    def test_is_kept_while_no_syslogd_is_there(self):
        self.syslogd.close()
        daemon = self.daemon("-o", self.path("report"))
        daemon.send(signal.SIGUSR2)
        syslogd = Syslogd(self.path("log"))
        self.addCleanup(syslogd.close)
        syslogd.wait_for("capturing")
        syslogd.wait_for("status: ")
        syslogd.close()
        syslogd = Syslogd(self.path("log"))  # started anew
        self.addCleanup(syslogd.close)
        daemon.send(signal.SIGUSR2)
        syslogd.wait_for("status: ")

    def test_one_that_stalls_does_not_stop_the_capture(self):
        daemon = self.daemon("-o", self.path("report"), "--follow")
        count = 1500
        for number in range(count):
            daemon.send(signal.SIGUSR2)
            if number % 100 == 0:  # signals that are pending are one
                flow = self.traffic.udp(4, port=1053 + number)
                line = follow_line("NEW", flow, number // 100) + "\n"
                wait_for(lambda line=line: line in read(self.path("report")), "a flow meanwhile")
        said = [0]

        def all_said():
            said[0] = len([text for text in self.syslogd.texts() if text.startswith("status: ")])
            return any("messages were not kept" in text for text in self.syslogd.texts()) or said[0] >= 10

        wait_for(all_said, "the messages")
        self.assertTrue(daemon.is_running())

    def test_what_found_no_room_is_counted(self):
        self.syslogd.close()
        daemon = self.daemon("-o", self.path("report"))
        with open(f"/proc/{daemon.pid}/status", encoding="ascii") as file:
            self.assertIn("VmRSS", file.read())
        sent = 0
        for sent in range(1, 401):
            daemon.send(signal.SIGUSR2)
            pending = lambda: int(re.search(r"ShdPnd:\s+(\S+)", read(f"/proc/{daemon.pid}/status"))[1], 16)  # noqa: E731
            wait_for(lambda: not pending() & (1 << (signal.SIGUSR2 - 1)), "the signal to be taken")
        syslogd = Syslogd(self.path("log"))
        self.addCleanup(syslogd.close)
        syslogd.wait_for("messages were not kept")
        (text,) = [text for text in syslogd.texts() if "messages were not kept" in text]
        said = len([text for text in syslogd.texts() if text.startswith("status: ")])
        self.assertEqual(said + int(text.split()[0]), sent)


class Systemd(Background):
    def notified(self):
        try:
            while True:
                self.notes += self.socket.recv(65536).decode().splitlines()
        except BlockingIOError:
            return self.notes

    def test_is_told(self):
        self.notes = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.addCleanup(self.socket.close)
        self.socket.bind(self.path(".notify"))
        env = {**os.environ, "NOTIFY_SOCKET": self.path(".notify"), "WATCHDOG_USEC": "400000"}
        tool = self.start("-f", "-o", self.path("report"), env=env)
        wait_for(lambda: "READY=1" in self.notified(), "READY=1")
        self.assertIn("conntracker: capturing", tool.errors())
        wait_for(lambda: self.notified().count("WATCHDOG=1") > 3, "WATCHDOG=1")
        self.assertTrue(any(note.startswith("STATUS=") and "flows" in note for note in self.notes), self.notes)
        self.stop_complete(tool)
        self.assertEqual(self.notified()[-1], "STOPPING=1")


class Terminal(Background):
    def test_one_that_goes_away_ends_the_capture(self):
        controller, terminal = pty.openpty()

        def own_terminal():
            os.setsid()
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

        tool = self.start("-o", self.path("report"), preexec_fn=own_terminal, pass_fds=(terminal,)).wait_until_capturing()
        os.close(terminal)
        flow = self.traffic.udp(4)
        tool.send(signal.SIGHUP)
        tool.send(signal.SIGUSR2)
        tool.wait_for_error_line("conntracker: status: ")
        self.assertTrue(tool.is_running())
        os.close(controller)
        self.assertEqual(tool.wait(), 0, tool.errors())
        self.assertEqual(read(self.path("report")), expected_text([flow]))
