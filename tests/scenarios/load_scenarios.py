"""Many flows at once, a table that is too small, and a receive buffer that is too small."""

import collections
import signal

import witness
from scenario import Scenario
from traffic import both_families, different_destinations, different_ports
from waiting import wait_for

MANY = 10_000
FEW_DESTINATIONS = ("10.77.2.2", "10.88.0.1", "10.88.0.2", "10.88.0.3")


class ManyFlows(Scenario):
    def setUp(self):
        super().setUp()
        self.network.activate()
        self.traffic.discard()

    def send(self, tuples):
        made = self.traffic.many_udp(tuples)
        self.assertEqual(witness.flow_count(self.network), len(made))
        return sorted(made)

    def assert_folded_entries_are_true(self, report, made):
        """Each folded entry stands for flows that were made, and not for more than were made."""
        made_to = collections.Counter((flow.original[0], flow.original[1], flow.original[3]) for flow in made)
        single_to = collections.Counter((flow.original[0], flow.original[1], flow.original[3]) for flow in report.flows())
        self.assertLessEqual(set(report.flows()), set(made))
        for entry in report.folded():
            original = entry["original"]
            key = (original["src"], original["dst"], original["dport"])
            self.assertNotIn("sport", original)
            self.assertNotIn("id", entry)
            self.assertGreaterEqual(entry["flows"], 1)
            self.assertLessEqual(entry["flows"] + single_to[key], made_to[key], entry)


class EnoughRoom(ManyFlows):
    def test_ten_thousand_flows_at_once(self):
        tool = self.capture_json()
        made = self.send(both_families(MANY))
        self.assertEqual(witness.flows_in_table(self.network), made)
        report = self.stop_complete(tool).report()
        self.assertEqual(report.flows(), made)
        self.assertEqual(report.stats["events"]["new"], MANY)
        self.assertEqual(report.stats["lost"]["events"], 0)
        self.assertEqual(report.stats["table"]["flows"], MANY)

    def test_no_allocation_while_capturing(self):
        tool = self.capture_json()
        self.send(different_ports(MANY))
        self.network.run("router", "conntrack", "-D", "-p", "udp", "-d", FEW_DESTINATIONS[0])
        report = self.stop_complete(tool).report()
        self.assertEqual(report.stats["allocations"], 0)
        self.assertEqual(report.stats["events"], {**report.stats["events"], "new": MANY, "destroy": MANY})
        self.assertEqual({each["state"] for each in report.objects}, {"ended"})

    def test_a_table_of_exactly_the_right_size(self):
        tool = self.capture_json("--capacity", "1000")
        made = self.send(different_ports(1000))
        report = self.stop_complete(tool).report()
        self.assertEqual(report.flows(), made)
        self.assertEqual(report.stats["table"]["capacity"], 1000)

    def test_flows_from_before_the_start(self):
        made = self.send(both_families(MANY))
        report = self.stop_complete(self.capture_json()).report()
        self.assertEqual(report.flows(), made)
        self.assertEqual(report.stats["allocations"], 0)


class TooLittleRoom(ManyFlows):
    def test_client_ports_are_folded_and_the_numbers_add_up(self):
        tool = self.capture_json("--capacity", "500")
        made = self.send(different_ports(MANY, FEW_DESTINATIONS))
        self.assertEqual(tool.stop(), 3, tool.errors())
        report = tool.report()
        self.assert_folded_entries_are_true(report, made)
        self.assertGreater(len(report.folded()), 0)
        self.assertLessEqual(len(report.objects), 500)
        table = report.stats["table"]
        folded = sum(entry["flows"] for entry in report.folded())
        self.assertEqual(len(report.flows()) + folded + table["evicted"] + table["refused"], MANY, table)
        self.assertFalse(report.stats["complete"])
        self.assertTrue(tool.summary().startswith("conntracker: incomplete: "), tool.errors())

    def test_folded_entries_in_text(self):
        tool = self.capture("--capacity", "500")
        self.send(different_ports(MANY, FEW_DESTINATIONS))
        self.assertEqual(tool.stop(), 3, tool.errors())
        folded = [line for line in tool.output().splitlines() if "(flows=" in line]
        self.assertGreater(len(folded), 0)
        for line in folded:
            self.assertRegex(line, r"^ UDPv4 \[ {1,11}\d+\] src = 10\.77\.1\.2 \(port=\*\) to dst = [0-9.]+ \(port=9\) \(-\) \(flows=\d+\)$")

    def test_finished_flows_make_room_first(self):
        tool = self.capture_json("--capacity", "500")
        first = different_ports(400)
        self.send(first)
        self.network.run("router", "conntrack", "-D", "-p", "udp")
        living = self.send(different_ports(400, first_port=20_000))
        self.assertEqual(tool.stop(), 3, tool.errors())
        report = tool.report()
        self.assertEqual([flow for flow in report.flows() if report.of(flow)["state"] == "live"], living)
        self.assertEqual(report.folded(), [])
        self.assertEqual(len(report.flows()) + report.stats["table"]["evicted"], 800)

    def test_what_cannot_be_folded_is_refused_and_said(self):
        tool = self.capture_json("--capacity", "100")
        made = self.send(different_destinations(5000))
        self.assertEqual(tool.stop(), 3, tool.errors())
        report = tool.report()
        self.assert_folded_entries_are_true(report, made)
        refused = report.stats["table"]["refused"]
        self.assertGreater(refused, 0)
        self.assertRegex(tool.summary(), rf"\b{refused}\b.* refused")


class TooSmallBuffer(ManyFlows):
    SENT = 5000

    def overflow(self, tool):
        """Stop the tool, send more than its socket holds, and let it go on. Returns the kernel's own count of what it dropped."""
        tool.send(signal.SIGSTOP)
        wait_for(lambda: self.state_of(tool) == "T", "the tool to stop")
        made = self.send(different_ports(self.SENT))
        dropped = sum(each["drops"] for each in witness.netlink_sockets(tool.pid))
        tool.send(signal.SIGCONT)
        self.assertTrue(0 < dropped < self.SENT, dropped)
        return made, dropped

    @staticmethod
    def state_of(tool):
        with open(f"/proc/{tool.pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0]

    def test_loss_is_counted_exactly_and_made_good_by_a_dump(self):
        """With --follow, to see the flows arrive while the tool still runs."""
        tool = self.capture_json("--buffer", "4k", "--follow")
        made, dropped = self.overflow(tool)
        wait_for(lambda: tool.output().count("\n") >= self.SENT, lambda: f"all flows, have {tool.output().count(chr(10))}")
        self.assertEqual(tool.stop(), 3, tool.errors())
        report = tool.report()
        lost = report.stats["lost"]
        self.assertEqual(lost["events"], dropped)
        self.assertTrue(lost["exact"])
        self.assertGreaterEqual(lost["resyncs"], 1)
        self.assertEqual(report.stats["events"]["new"] + lost["events"], self.SENT)
        self.assertEqual(report.flows(), made)
        self.assertTrue(tool.summary().startswith(f"conntracker: incomplete: {dropped} events lost"), tool.errors())

    def test_loss_just_before_the_end(self):
        tool = self.capture_json("--buffer", "4k")
        tool.send(signal.SIGSTOP)
        wait_for(lambda: self.state_of(tool) == "T", "the tool to stop")
        made = self.send(different_ports(self.SENT))
        dropped = sum(each["drops"] for each in witness.netlink_sockets(tool.pid))
        tool.send(signal.SIGTERM)
        tool.send(signal.SIGCONT)
        self.assertEqual(tool.wait(), 3, tool.errors())
        report = tool.report()
        self.assertEqual(report.stats["lost"]["events"], dropped)
        self.assertEqual(report.flows(), made)

    def test_a_large_buffer_loses_nothing(self):
        tool = self.capture_json("--buffer", "64m")
        tool.send(signal.SIGSTOP)
        wait_for(lambda: self.state_of(tool) == "T", "the tool to stop")
        made = self.send(different_ports(self.SENT))
        self.assertEqual(sum(each["drops"] for each in witness.netlink_sockets(tool.pid)), 0)
        tool.send(signal.SIGCONT)
        report = self.stop_complete(tool).report()
        self.assertEqual(report.flows(), made)
        self.assertEqual(report.stats["lost"]["events"], 0)
