"""Flows written as they come and go, and recordings replayed."""

import os
import signal

import witness
from report import Report, expected_text, flow_of, follow_line, read_object
from scenario import Scenario
from traffic import different_ports
from waiting import wait_for


class Follow(Scenario):
    """The tool writes into a pipe that is read while it runs."""

    def setUp(self):
        super().setUp()
        self.network.activate()
        self.received = b""

    def follow(self, *options):
        self.reader, writer = os.pipe()
        self.addCleanup(os.close, self.reader)
        os.set_blocking(self.reader, False)
        tool = self.capture("--follow", *options, stdout=writer)
        os.close(writer)
        return tool

    def lines(self):
        """The whole lines that have arrived."""
        try:
            while chunk := os.read(self.reader, 65536):
                self.received += chunk
        except BlockingIOError:
            pass
        return self.received.decode().split("\n")[:-1]

    def wait_for_events(self, tool, count):
        wait_for(lambda: len(self.lines()) >= count, lambda: f"{count} lines while it runs, have {self.lines()}")
        self.assertTrue(tool.is_running())
        return self.lines()

    def test_json_tells_of_each_flow_while_it_runs(self):
        older = self.traffic.udp(4, port=1053)
        tool = self.follow("--format", "json")
        (line,) = self.wait_for_events(tool, 1)
        self.assertEqual((read_object(line)["event"], flow_of(read_object(line))), ("existing", older))
        flow = self.traffic.tcp(6).close()
        line = self.wait_for_events(tool, 2)[1]
        self.assertEqual((read_object(line)["event"], flow_of(read_object(line))), ("new", flow))
        self.network.run("router", "conntrack", "-D", "-p", "tcp")
        line = self.wait_for_events(tool, 3)[2]
        self.assertEqual((read_object(line)["event"], flow_of(read_object(line))), ("end", flow))
        self.assertEqual(read_object(line)["state"], "ended")
        self.stop_complete(tool)
        self.assertEqual(read_object(self.lines()[-1])["type"], "stats")
        self.assertEqual(len(self.lines()), 4)

    def test_json_has_each_flow_once_as_new_and_once_as_end(self):
        tool = self.follow("--format", "json")
        self.traffic.discard()
        made = self.traffic.many_udp(different_ports(200))
        self.wait_for_events(tool, 200)
        self.network.run("router", "conntrack", "-D", "-p", "udp")
        self.wait_for_events(tool, 400)
        self.stop_complete(tool)
        report = Report("".join(line + "\n" for line in self.lines()))
        for word in ("new", "end"):
            self.assertEqual(sorted(flow_of(each) for each in report.objects if each["event"] == word), sorted(made))
        self.assertEqual(len(report.objects), 400)

    def test_text(self):
        older = self.traffic.udp(4, port=1053)
        tool = self.follow()
        self.wait_for_events(tool, 1)
        flows = []
        for make in (lambda: self.traffic.udp(4), lambda: self.traffic.echo(6, 5), lambda: self.traffic.tcp(4).close()):
            flows.append(make())
            self.wait_for_events(tool, 1 + len(flows))
        self.network.run("router", "conntrack", "-D", "-p", "tcp")
        self.wait_for_events(tool, 5)
        self.stop_complete(tool)
        first, echo, connection = flows
        self.assertEqual(self.lines(), [
            follow_line("OLD", older, 0), follow_line("NEW", first, 1), follow_line("NEW", echo, 0),
            follow_line("NEW", connection, 0), follow_line("END", connection, 1),
        ])

    def test_gone_is_told_at_the_end(self):
        self.network.set("router", "net.netfilter.nf_conntrack_events", 0)
        flow = self.traffic.udp(4)
        self.network.set("router", "net.netfilter.nf_conntrack_events", 2)
        tool = self.follow("--format", "json")
        self.wait_for_events(tool, 1)
        self.network.run("router", "conntrack", "-D", "-p", "udp")
        self.stop_complete(tool)
        objects = Report("".join(line + "\n" for line in self.lines())).objects
        self.assertEqual([(each["event"], flow_of(each)) for each in objects], [("existing", flow), ("gone", flow)])

    def test_each_signal_ends_it(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(signal=number.name):
                self.received = b""
                tool = self.follow("--format", "json")
                self.assertEqual(tool.stop(number), 0, tool.errors())
                self.assertEqual(read_object(self.lines()[-1])["type"], "stats")


class Recording(Scenario):
    """What is replayed from a recording equals what the capture itself reported."""

    def setUp(self):
        super().setUp()
        self.network.activate()
        self.network.set("router", "net.netfilter.nf_conntrack_acct", 1)
        self.network.set("router", "net.netfilter.nf_conntrack_timestamp", 1)

    def record(self, *options):
        """A capture with older, living and ended flows, and one that is gone."""
        self.network.set("router", "net.netfilter.nf_conntrack_events", 0)
        self.traffic.echo(4, 50)
        self.network.set("router", "net.netfilter.nf_conntrack_events", 2)
        self.traffic.udp(6, port=1053)
        tool = self.capture("--record", self.path("recording"), *options)
        for version in (4, 6):
            self.traffic.tcp(version).close()
            self.traffic.udp(version)
            self.traffic.echo(version, 51)
        for kind in ("tcp", "icmp"):
            self.network.run("router", "conntrack", "-D", "-p", kind)
        self.living = witness.flows_in_table(self.network)
        return self.stop_complete(tool)

    def replay(self, *options):
        tool = self.run_to_end("replay", self.path("recording"), "-o", "-", *options)
        self.assertEqual(tool.process.returncode, 0, tool.errors())
        return tool

    def test_text_is_the_same_byte_for_byte(self):
        recorded = self.record()
        self.assertEqual(recorded.output().count("\n"), 12)
        self.assertEqual(self.replay().output(), recorded.output())

    def test_json_flows_are_the_same_byte_for_byte(self):
        report = self.record("--format", "json").report()
        self.assertEqual({each["state"] for each in report.objects}, {"live", "ended", "gone"})
        self.assertEqual(sorted(flow_of(each) for each in report.objects if each["state"] == "live"), self.living)
        replayed = self.replay("--format", "json").report()
        self.assertEqual(replayed.flow_lines, report.flow_lines)
        self.assertEqual(replayed.stats["events"], report.stats["events"])

    def test_format_and_filters_are_chosen_at_replay(self):
        report = self.record("--format", "json").report()
        self.assertEqual(self.replay().output(), expected_text(report.flows()))
        only = [flow for flow in report.flows() if flow.protocol == 17 and flow.family == "ipv6"]
        self.assertEqual(len(only), 2)
        self.assertEqual(self.replay("--proto", "udp", "-6").output(), expected_text(only))

    def test_into_a_file(self):
        recorded = self.record()
        self.replay("-o", self.path("report"))
        with open(self.path("report"), encoding="ascii") as file:
            self.assertEqual(file.read(), recorded.output())
        self.assert_visible_files("recording", "report")

    def test_recording_is_for_its_owner_only(self):
        self.record()
        self.assertEqual(os.stat(self.path("recording")).st_mode & 0o077, 0)

    def test_follow_is_the_same(self):
        recorded = self.record("--follow", "--format", "json")
        self.assertEqual(self.replay("--follow", "--format", "json").report().flow_lines, recorded.report().flow_lines)
