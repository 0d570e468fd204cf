"""Begin and end of flows: older than the capture, ended during it, counted, and timed by the kernel."""

import time

import witness
from report import counters_of, nanoseconds
from scenario import Scenario

EVENTS = "net.netfilter.nf_conntrack_events"
ACCOUNTING = "net.netfilter.nf_conntrack_acct"
TIMESTAMPS = "net.netfilter.nf_conntrack_timestamp"


class OlderFlows(Scenario):
    def setUp(self):
        super().setUp()
        self.network.activate()

    def make_without_events(self):
        """A flow that will never report anything, as one from before the first listener: its entry has no room for events."""
        self.assertEqual(self.network.get("router", EVENTS), "2")
        self.network.set("router", EVENTS, 0)
        flow = self.traffic.tcp(4).flow
        self.network.set("router", EVENTS, 2)
        return flow

    def test_is_reported_with_its_id(self):
        flows = [self.make_without_events(), self.traffic.udp(6), self.traffic.echo(4, 7)]
        ids = {entry.flow: entry.id for entry in witness.listed(self.network)}
        report = self.stop_complete(self.capture_json()).report()
        self.assertEqual(report.flows(), sorted(flows))
        for flow in flows:
            self.assertEqual(report.of(flow)["id"], ids[flow])
            self.assertEqual(report.of(flow)["state"], "live")
            self.assertNotIn("end", report.of(flow))
        self.assertEqual(report.stats["events"]["new"], 0)
        self.assertGreaterEqual(report.stats["events"]["dumped"], 3)

    def test_is_gone_when_it_ended_without_an_event(self):
        flow = self.make_without_events()
        tool = self.capture_json()
        watcher = self.watching(witness.Watching(self.network, "-e", "DESTROY", "-o", "id,extended"))
        self.network.run("router", "conntrack", "-D", "-p", "tcp")
        marker = self.traffic.udp(4)
        self.network.run("router", "conntrack", "-D", "-p", "udp")
        seen = [witness.Listed(line).flow for line in watcher.wait_for_lines(1)]
        self.assertEqual(seen, [marker], "the kernel did send the end of the older flow")
        report = self.stop_complete(tool).report()
        self.assertEqual(report.of(flow)["state"], "gone")
        self.assertNotIn("end", report.of(flow))
        self.assertEqual(report.of(marker)["state"], "ended")

    def test_the_kernel_sends_no_events_at_all(self):
        """Then only dumps show flows, and the tool says so."""
        self.network.set("router", EVENTS, 0)
        tool = self.capture_json()
        self.assertIn("nf_conntrack_events", tool.errors())
        flow = self.traffic.udp(4)
        tool.stop()
        self.assertEqual(tool.report().flows(), [flow])
        self.assertEqual(tool.report().stats["events"]["new"], 0)
        self.assertEqual(self.network.get("router", EVENTS), "0")

    def test_has_ended_when_the_kernel_says_so(self):
        self.network.set("router", EVENTS, 1)
        flow = self.traffic.udp(4)
        tool = self.capture_json()
        self.network.run("router", "conntrack", "-D", "-p", "udp")
        report = self.stop_complete(tool).report()
        self.assertEqual(report.of(flow)["state"], "ended")
        self.assertEqual(report.stats["events"]["destroy"], 1)


class EndedFlows(Scenario):
    def setUp(self):
        super().setUp()
        self.network.activate()

    def end_all_flows(self, *kinds):
        for kind in kinds:
            self.network.run("router", "conntrack", "-D", "-p", kind)

    def make_and_end(self):
        flows = [self.traffic.tcp(4).close(), self.traffic.udp(6), self.traffic.echo(4, 77, count=3), self.traffic.udp(4, answered=False)]
        self.end_all_flows("tcp", "icmp", "udp")
        self.assertEqual(witness.flow_count(self.network), 0)
        return flows

    def capture_ended_flows(self):
        tool = self.capture_json()
        watcher = self.watching(witness.Watching(self.network, "-e", "DESTROY", "-o", "id,extended"))
        flows = self.make_and_end()
        ended = {entry.flow: entry for entry in map(witness.Listed, watcher.wait_for_lines(len(flows)))}
        self.assertEqual(set(ended), set(flows))
        return ended, self.stop_complete(tool).report()

    def test_counters_are_those_of_the_last_event(self):
        self.network.set("router", ACCOUNTING, 1)
        ended, report = self.capture_ended_flows()
        self.assertEqual(report.flows(), sorted(ended))
        for flow, entry in ended.items():
            reported = report.of(flow)
            self.assertEqual(reported["state"], "ended")
            self.assertEqual(reported["id"], entry.id)
            self.assertIsNotNone(entry.counters())
            self.assertEqual(counters_of(reported), entry.counters())
        self.assertEqual(counters_of(report.of(next(flow for flow in ended if flow.protocol == 1)))[0][0], 3)

    def test_no_counters_where_the_kernel_did_not_count(self):
        self.network.set("router", ACCOUNTING, 0)
        ended, report = self.capture_ended_flows()
        for flow, entry in ended.items():
            self.assertIsNone(entry.counters())
            self.assertIsNone(counters_of(report.of(flow)))

    def test_counters_of_a_live_flow_are_those_of_the_table(self):
        self.network.set("router", ACCOUNTING, 1)
        tool = self.capture_json()
        connection = self.traffic.tcp(4)
        connection.say(b"x" * 3000)
        (entry,) = witness.listed(self.network)
        report = self.stop_complete(tool).report()
        self.assertEqual(counters_of(report.of(connection.flow)), entry.counters())

    def test_ends_after_it_started_and_within_the_capture(self):
        before = time.time_ns()
        tool = self.capture_json()
        flow = self.traffic.udp(4)
        self.end_all_flows("udp")
        reported = self.stop_complete(tool).report().of(flow)
        after = time.time_ns()
        self.assertEqual(reported["state"], "ended")
        moments = [nanoseconds(reported[name]) for name in ("first_seen", "last_seen", "end")]
        self.assertEqual(moments[0], min(moments))
        self.assertTrue(before <= moments[0] and max(moments) <= after, (before, reported, after))


class KernelTimes(Scenario):
    def setUp(self):
        super().setUp()
        self.network.activate()

    def test_start_and_end_are_the_kernels(self):
        self.network.set("router", TIMESTAMPS, 1)
        tool = self.capture_json()
        watcher = self.watching(witness.Watching(self.network, "-e", "DESTROY", "-o", "xml,id,ktimestamp"))
        ended, living = self.traffic.udp(4), self.traffic.tcp(6).flow
        self.network.run("router", "conntrack", "-D", "-p", "udp")
        watcher.wait_for_lines(3)  # two of XML's own
        started = witness.kernel_times(self.network.run("router", "conntrack", "-L", "-o", "xml,id,ktimestamp"))
        report = self.stop_complete(tool).report()

        (times,) = witness.kernel_times(watcher.text()).values()
        self.assertIsNotNone(times[1])
        reported = report.of(ended)
        self.assertEqual((nanoseconds(reported["start"]), nanoseconds(reported["end"])), times)
        reported = report.of(living)
        self.assertEqual(nanoseconds(reported["start"]), started[reported["id"]][0])
        self.assertNotIn("end", reported)

    def test_start_of_an_older_flow_is_the_kernels(self):
        self.network.set("router", TIMESTAMPS, 1)
        flow = self.traffic.udp(4)
        ((start, _),) = witness.kernel_times(self.network.run("router", "conntrack", "-L", "-o", "xml,id,ktimestamp")).values()
        reported = self.stop_complete(self.capture_json()).report().of(flow)
        self.assertEqual(nanoseconds(reported["start"]), start)
        self.assertGreater(nanoseconds(reported["first_seen"]), start)

    def test_start_is_absent_where_nobody_knows_it(self):
        flow = self.traffic.udp(4)
        reported = self.stop_complete(self.capture_json()).report().of(flow)
        self.assertNotIn("start", reported)
        self.assertNotIn("end", reported)
