"""Only the flows that match are reported, in both formats."""

import ipaddress

from report import ICMP, ICMPV6, TCP, UDP, expected_text
from scenario import Scenario


def within(*networks):
    """Is either end in one of the networks?"""
    parsed = [ipaddress.ip_network(each) for each in networks]

    def matches(flow):
        ends = [ipaddress.ip_address(each) for each in flow.original[:2]]
        return any(end in network for end in ends for network in parsed if end.version == network.version)

    return matches


def with_port(*ranges):
    """Is either port in one of the ranges? Echoes have no ports."""

    def matches(flow):
        ports = flow.original[2:4] if flow.protocol in (TCP, UDP) else ()
        return any(low <= port <= high for port in ports for low, high in ranges)

    return matches


CASES = (
    (("--proto", "tcp"), lambda flow: flow.protocol == TCP),
    (("--proto", "udp,icmpv6"), lambda flow: flow.protocol in (UDP, ICMPV6)),
    (("--proto", "1"), lambda flow: flow.protocol == ICMP),
    (("--net", "10.88.0.0/16"), within("10.88.0.0/16")),
    (("--net", "10.88.1.7"), within("10.88.1.7/32")),
    (("--net", "10.77.1.0/24"), within("10.77.1.0/24")),
    (("--net", "fd88::/64"), within("fd88::/64")),
    (("--net", "10.88.1.0/24", "--net", "fd88::/64"), within("10.88.1.0/24", "fd88::/64")),
    (("--net", "0.0.0.0/0"), lambda flow: flow.family == "ipv4"),
    (("--not-net", "10.88.0.0/16"), lambda flow: not within("10.88.0.0/16")(flow)),
    (("--not-net", "10.77.0.0/16", "--not-net", "fd77:1::/64"), lambda flow: False),
    (("--net", "10.77.1.0/24", "--not-net", "10.88.1.0/24"), lambda flow: within("10.77.1.0/24")(flow) and not within("10.88.1.0/24")(flow)),
    (("--port", "80"), with_port((80, 80))),
    (("--port", "53,443,1000-2000"), with_port((53, 53), (443, 443), (1000, 2000))),
    (("--port", "40002"), with_port((40002, 40002))),
    (("-4",), lambda flow: flow.family == "ipv4"),
    (("--ipv6",), lambda flow: flow.family == "ipv6"),
    (("-6", "--proto", "tcp", "--port", "1500"), lambda flow: flow.family == "ipv6" and flow.protocol == TCP and with_port((1500, 1500))(flow)),
)


class Filters(Scenario):
    def setUp(self):
        super().setUp()
        self.network.activate()

    def make_flows(self):
        near, far, further = (None, None), ("10.88.1.7", "fd88::7"), ("10.88.2.7", "fd88::1:0:0:7")
        made = []
        for index, version in enumerate((4, 6)):
            for number, (place, port) in enumerate(((near, 80), (far, 443), (further, 1500), (near, 2001))):
                client_port = 40000 + number
                made.append(self.traffic.tcp(version, port=port, client_port=client_port, arrives_at=place[index]).flow)
                made.append(self.traffic.udp(version, port=port - 27, client_port=client_port, arrives_at=place[index]))
            made.append(self.traffic.echo(version, 80))
        made.append(self.traffic.echo(4, 81, to="10.88.1.9"))
        return made

    def test_each_in_both_formats(self):
        """The flows are there from before; each capture reports those that its options let through."""
        made = self.make_flows()
        for options, matches in CASES:
            with self.subTest(options=options):
                expected = [flow for flow in made if matches(flow)]
                report = self.stop_complete(self.capture_json(*options)).report()
                self.assertEqual(report.flows(), sorted(expected))
                if options[0] not in ("-4", "--ipv6", "-6"):  # the kernel itself leaves out a family
                    self.assertEqual(report.stats["filtered"] > 0, len(expected) < len(made), report.stats)
                tool = self.stop_complete(self.capture(*options))
                self.assertEqual(tool.output(), expected_text(expected))

    def test_flows_made_during_the_capture(self):
        tool = self.capture_json("--proto", "tcp,icmp", "--not-net", "10.88.1.0/24", "-4")
        excluded = within("10.88.1.0/24")
        made = self.make_flows()
        expected = sorted(flow for flow in made if flow.family == "ipv4" and flow.protocol in (TCP, ICMP) and not excluded(flow))
        self.assertEqual(len(expected), 4)
        self.assertEqual(self.stop_complete(tool).report().flows(), expected)

    def test_the_table_is_kept_for_what_matches(self):
        """Flows that are filtered out take no room."""
        tool = self.capture_json("--capacity", "8", "--proto", "icmpv6")
        made = self.make_flows()
        report = self.stop_complete(tool).report()
        self.assertEqual(report.flows(), [flow for flow in made if flow.protocol == ICMPV6])
