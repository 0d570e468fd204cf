"""Several namespaces heard from one."""

import sys

import witness
from network import CLIENT, SERVER
from report import UDP, Flow, expected_text
from scenario import Scenario


class AllNamespaces(Scenario):
    """A fourth namespace, without any link, hears the router and the server through ids that it gave them."""

    IDS = {"router": 7, "server": 11}

    def setUp(self):
        super().setUp()
        self.network.add_namespace("watcher")
        for side, ident in self.IDS.items():
            self.network.activate(side)
            self.network.run("watcher", "ip", "netns", "set", self.network.names[side], str(ident))
        self.network.activate("watcher")

    def make_flows(self):
        """One flow that both namespaces see, one that only the server sees, one in the watcher itself."""
        through = self.traffic.udp(4)
        inside = self.traffic_on_loopback("server")
        own = self.traffic_on_loopback("watcher")
        for side, flows in (("router", [through]), ("server", [inside, through]), ("watcher", [own])):
            self.assertEqual(witness.flows_in_table(self.network, side), sorted(flows))
        return through, inside, own

    def traffic_on_loopback(self, side):
        self.network.run(side, sys.executable, "-c", """
import socket
a, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
a.bind(("127.0.0.1", 1000))
b.bind(("127.0.0.1", 2000))
b.sendto(b"question", ("127.0.0.1", 1000))
a.recv(64)
a.sendto(b"answer", ("127.0.0.1", 2000))
b.recv(64)
""")
        there, back = ("127.0.0.1", "127.0.0.1", 2000, 1000), ("127.0.0.1", "127.0.0.1", 1000, 2000)
        return Flow("ipv4", UDP, there, back)

    def test_flows_carry_the_id_of_their_namespace(self):
        tool = self.capture_json("--all-netns", side="watcher")
        through, inside, own = self.make_flows()
        report = self.stop_complete(tool).report()
        self.assertEqual(report.flows(), sorted([through, through, inside, own]))
        found = sorted((each.get("netns", -1), each["original"]["src"]) for each in report.objects)
        self.assertEqual(found, [(-1, "127.0.0.1"), (7, CLIENT[4]), (11, CLIENT[4]), (11, "127.0.0.1")])
        self.assertEqual(through.original[1], SERVER[4])

    def test_ends_of_flows_elsewhere_are_seen(self):
        tool = self.capture_json("--all-netns", side="watcher")
        self.make_flows()
        self.network.run("router", "conntrack", "-D", "-p", "udp")
        states = [(each.get("netns"), each["state"]) for each in self.stop_complete(tool).report().objects]
        self.assertIn((7, "ended"), states)
        self.assertEqual(sorted(states, key=str), sorted([(7, "ended"), (11, "live"), (11, "live"), (None, "live")], key=str))

    def test_text_names_other_namespaces(self):
        tool = self.capture("--all-netns", side="watcher")
        through, inside, own = self.make_flows()
        self.stop_complete(tool)
        lines = tool.output().splitlines()
        for flows, ident in (([own], None), ([through], 7), ([through, inside], 11)):
            for line in expected_text(flows, ident).splitlines():
                without_index = line.partition("]")[2]
                self.assertEqual(sum(each.partition("]")[2] == without_index for each in lines), 1, (line, lines))
        self.assertEqual(len(lines), 8)
        self.assertEqual([each[:22] for each in lines], [f" UDPv4 [{index:>12}] " for index in range(8)])

    def test_without_the_option_only_the_own_namespace(self):
        tool = self.capture_json(side="watcher")
        _, _, own = self.make_flows()
        self.assertEqual(self.stop_complete(tool).report().flows(), [own])
