"""Which flows are reported: exactly those that were made, in JSON and in text."""

import random

import witness
from network import CLIENT, SERVER
from report import ECHO, ESP, GRE, SCTP, TCP, UDPLITE, expected_text
from scenario import Scenario
from traffic import gre_of_pptp, sctp_init, udplite_segment
from waiting import wait_for

UNNAMED_PROTOCOL = 99


class EveryFlow(Scenario):
    def setUp(self):
        super().setUp()
        self.network.activate()

    def make_six_kinds(self):
        made = []
        for version in (4, 6):
            made.append(self.traffic.tcp(version).close())
            made.append(self.traffic.tcp(version, port=8080).flow)
            made.append(self.traffic.udp(version))
            made.append(self.traffic.udp(version, port=5353, answered=False))
            made.append(self.traffic.echo(version, 0x0102))
            made.append(self.traffic.echo(version, 0xFFFE, count=2))
        return sorted(made)

    def test_json_has_exactly_the_flows_made(self):
        tool = self.capture_json()
        made = self.make_six_kinds()
        self.assertEqual(witness.flows_in_table(self.network), made, "the witness disagrees with the test")
        report = self.stop_complete(tool).report()
        self.assertEqual(report.flows(), made)
        self.assertEqual(report.folded(), [])
        self.assertTrue(report.stats["complete"])
        self.assertEqual(report.stats["events"]["new"], len(made))
        self.assertEqual(report.stats["table"]["flows"], len(made))

    def test_json_details_equal_those_of_conntrack(self):
        tool = self.capture_json()
        self.make_six_kinds()
        listed = witness.listed(self.network)
        report = self.stop_complete(tool).report()
        for entry in listed:
            reported = report.of(entry.flow)
            self.assertEqual(reported["id"], entry.id)
            self.assertEqual(reported["state"], "live")
            self.assertEqual("seen_reply" in reported["status"], entry.flow.replied)
            self.assertEqual("assured" in reported["status"], "ASSURED" in entry.words)
            self.assertEqual(reported.get("tcp_state"), entry.tcp_state if entry.flow.protocol == TCP else None)
            self.assertNotIn("snat", reported["status"])
            self.assertNotIn("dnat", reported["status"])
            self.assertNotIn("netns", reported)
            self.assertLessEqual(reported["first_seen"], reported["last_seen"])

    def test_text_is_what_was_sent_byte_for_byte(self):
        tool = self.capture()
        made = self.make_six_kinds()
        self.stop_complete(tool)
        self.assertEqual(tool.output(), expected_text(made))

    def test_text_sorts_addresses_and_ports_as_numbers(self):
        tool = self.capture()
        made = []
        for address in ("10.88.10.1", "10.88.9.1", "10.88.100.1"):
            for client_port in (9999, 10000):
                made.append(self.traffic.udp(4, client_port=client_port, arrives_at=address))
        for address in ("fd88::10", "fd88::9", "fd88::a"):
            made.append(self.traffic.udp(6, client_port=10000, port=443, arrives_at=address))
        self.stop_complete(tool)
        self.assertEqual(tool.output(), expected_text(made))

    def test_echoes_of_many_ids_are_one_line_of_text(self):
        tool = self.capture()
        made = [self.traffic.echo(4, ident) for ident in (1, 2, 3)]
        self.stop_complete(tool)
        self.assertEqual(tool.output().count("\n"), 1)
        self.assertEqual(tool.output(), expected_text(made))

    def test_a_flow_that_ended_and_began_again_is_reported(self):
        tool = self.capture_json()
        flow = self.traffic.udp(4, client_port=4000)
        self.network.run("router", "conntrack", "-D", "-p", "udp")
        self.assertEqual(self.traffic.udp(4, client_port=4000), flow)
        report = self.stop_complete(tool).report()
        self.assertEqual(set(report.flows()), {flow})
        self.assertEqual(report.stats["events"]["new"], 2)
        self.assertEqual(report.stats["events"]["destroy"], 1)
        self.assertIn("live", [each["state"] for each in report.objects])

    def test_a_mix_of_beginnings_and_ends(self):
        """Two hundred steps in an order of chance (always the same); the witness hears each beginning and each end."""
        chance = random.Random(7)
        tool = self.capture_json()
        watcher = self.watching(witness.Watching(self.network, "-o", "id,extended"))
        steps = (
            lambda: self.traffic.tcp(chance.choice((4, 6))).close(),
            lambda: self.traffic.udp(chance.choice((4, 6)), answered=chance.random() < 0.5),
            lambda: self.traffic.echo(chance.choice((4, 6)), chance.randrange(65536)),
            lambda: self.network.succeeds("router", "conntrack", "-D", "-p", chance.choice(("tcp", "udp", "icmp", "icmpv6"))),
        )
        for _ in range(200):
            chance.choices(steps, weights=(5, 5, 5, 1))[0]()
        last = self.traffic.udp(4, port=1)
        wait_for(lambda: any(f"dport={last.original[3]} " in line and "[NEW]" in line for line in watcher.lines()), "the last flow")
        heard = [witness.Listed(line) for line in watcher.lines()]
        ended = {entry.id for entry in heard if entry.event == "DESTROY"}
        expected = {entry.id: "ended" if entry.id in ended else "live" for entry in heard if entry.event == "NEW"}
        self.assertEqual(set(expected.values()), {"ended", "live"})
        report = self.stop_complete(tool).report()
        self.assertEqual({each["id"]: each["state"] for each in report.objects}, expected)
        self.assertEqual(len(report.objects), len(expected))

    def test_nothing_passed(self):
        tool = self.capture_json()
        report = self.stop_complete(tool).report()
        self.assertEqual(report.objects, [])
        tool = self.capture()
        self.stop_complete(tool)
        self.assertEqual(tool.output(), "")

    def test_mark_and_zone(self):
        self.network.nft("""table inet somebody {
            chain early { type filter hook prerouting priority -300; ct zone set 7; }
            chain later { type filter hook forward priority 1; ct mark set 0xbeef; }
        }""")
        tool = self.capture_json()
        flow = self.traffic.udp(4)
        (entry,) = witness.listed(self.network)
        self.assertEqual((entry.fields["zone"], entry.fields["mark"]), ("7", str(0xBEEF)))
        reported = self.stop_complete(tool).report().of(flow)
        self.assertEqual((reported["zone"], reported["mark"]), (7, 0xBEEF))
        self.assertNotIn("zone_direction", reported)

    def test_zone_of_one_direction(self):
        for direction in ("original", "reply"):
            with self.subTest(direction=direction):
                self.network.run("router", "nft", "flush", "ruleset")
                self.network.run("router", "conntrack", "-F")
                self.network.activate()
                self.network.nft(f"""table inet somebody {{
                    chain early {{ type filter hook prerouting priority -300; ct {direction} zone set 5; }}
                }}""")
                tool = self.capture_json()
                flow = self.traffic.udp(4)
                self.assertIn(f"zone-{direction[:4]}=5", self.network.run("router", "conntrack", "-L").replace("zone-reply", "zone-repl"))
                reported = self.stop_complete(tool).report().of(flow)
                self.assertEqual((reported["zone"], reported["zone_direction"]), (5, direction))

    def test_the_last_line_tells_what_was_seen(self):
        tool = self.capture()
        self.traffic.udp(4)
        self.traffic.echo(6, 9)
        self.network.run("router", "conntrack", "-D", "-p", "udp")
        self.stop_complete(tool)
        self.assertEqual(tool.errors().splitlines()[-1], "conntracker: complete: 2 flows, 2 new, 1 destroyed, 0 lost")


class OtherProtocols(Scenario):
    def setUp(self):
        super().setUp()
        self.network.activate()
        # Linux 6.18 takes every UDP-Lite packet for one with a bad checksum, its own included.
        self.network.set("router", "net.netfilter.nf_conntrack_checksum", 0)

    def send_one_of_each(self):
        for version in (4, 6):
            self.traffic.raw(version, SCTP, sctp_init(5000, 5001))
            self.traffic.raw(version, UDPLITE, udplite_segment(version, 6000, 6001))
            self.traffic.raw(version, ESP, b"\0\0\1\1\0\0\0\1" + b"sealed")
            self.traffic.raw(version, UNNAMED_PROTOCOL, b"anything")
        self.traffic.raw(4, GRE, gre_of_pptp(0x77))
        return witness.flows_in_table(self.network)

    def test_json_equals_the_table(self):
        tool = self.capture_json()
        self.traffic.udp(4)
        in_table = self.send_one_of_each()
        self.assertEqual({flow.protocol for flow in in_table}, {17, SCTP, UDPLITE, ESP, GRE, UNNAMED_PROTOCOL})
        self.assertIn((CLIENT[4], SERVER[4], 0, 0x77), [flow.original for flow in in_table])
        report = self.stop_complete(tool).report()
        self.assertEqual(report.flows(), in_table)
        ids = sorted(entry.id for entry in witness.listed(self.network))
        self.assertEqual(sorted(each["id"] for each in report.objects), ids)

    def test_text_has_them_behind_the_six_sections(self):
        tool = self.capture()
        for version in (4, 6):
            self.traffic.udp(version)
            self.traffic.echo(version, 1)
        in_table = self.send_one_of_each()
        self.assertEqual(len(in_table), 13)
        self.assertTrue(all(flow.replied for flow in in_table if flow.protocol in ECHO))
        self.stop_complete(tool)
        self.assertEqual(tool.output(), expected_text(in_table))
