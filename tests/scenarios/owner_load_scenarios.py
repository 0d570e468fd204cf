"""Many processes, many flows, the same ends again and again: attributed as far as can be, and never to the wrong one."""

import collections
import socket
import threading

from network import CLIENT, ROUTER_CLIENT_SIDE, ROUTER_SERVER_SIDE, SERVER
from owners import RUNGS, Owners
from report import TCP, UDP, nanoseconds
from traffic import DISCARD_PORT, FAMILIES

PROCESSES, EACH = 200, 10
PORT = 80


def pid_of(flow):
    return flow.get("owner", {}).get("original", {}).get("pid")


class Load(Owners):
    def setUp(self):
        super().setUp()
        self.network.set("router", "net.netfilter.nf_conntrack_timestamp", 1)

    def accepting(self, side, version, address, port=PORT):
        """A server that takes connections, reads them to their end, and closes them, in a thread of this process."""
        with self.network.inside(side):
            server = socket.socket(FAMILIES[version], socket.SOCK_STREAM)
        self.addCleanup(server.close)
        server.bind((address, port))
        server.listen(1000)

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(20)
                    try:
                        while connection.recv(64):
                            pass
                    except OSError:
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()

        def end():
            server.shutdown(socket.SHUT_RDWR)
            thread.join(20)

        self.addCleanup(end)

    def check(self, report, truth, share):
        """`truth`: (protocol, original tuple) -> pids and names of those who used it. At least this share is known."""
        known = 0
        for (protocol, tuple_), users in truth.items():
            owner = self.owner_of_many(report)[protocol, tuple_]
            if owner is None or owner.get("pid") is None:
                continue
            known += 1
            self.assertIn((owner["pid"], owner["comm"]), users, tuple_)
        self.assertGreaterEqual(known, len(truth) * share, f"{known} of {len(truth)}")
        return known

    def owner_of_many(self, report):
        """(protocol, original tuple) -> the owner at the original end, for all flows."""
        if getattr(report, "owned", None) is None:
            names = ("src", "dst", "sport", "dport")
            report.owned = {
                (each["proto_number"], tuple(each["original"].get(name) for name in names)): each.get("owner", {}).get("original")
                for each in report.objects
            }
            self.assertEqual(len(report.owned), len(report.objects), "a tuple twice")
        return report.owned


class ManyProcesses(Load):
    def test_two_thousand_short_connections(self):
        for version in (4, 6):
            self.accepting("server", version, SERVER[version])
        parent = self.actor("parent")
        tool = self.attribute("cgroup", "--buffer", "16m")
        truth = self.connections(parent, "w", PROCESSES)
        report = self.stop_attributed(tool)
        self.assertEqual(len(truth), PROCESSES * EACH)
        known = self.check(report, truth, 0.99)
        owners = report.stats["owners"]
        self.assertEqual((owners["ends"], owners["known"]), (len(truth), known))

    def test_on_procfs_none_is_wrong(self):
        for version in (4, 6):
            self.accepting("server", version, SERVER[version])
        parent = self.actor("parent")
        tool = self.attribute("procfs", "--buffer", "16m")
        truth = self.connections(parent, "w", PROCESSES // 4)
        report = self.stop_attributed(tool)
        self.check(report, truth, 0)

    def connections(self, parent, names, count):
        """Short ones, of that many processes at once, half of them over IPv6."""
        truth = collections.defaultdict(set)
        for version in (4, 6):
            step = ["connect_many", EACH, version, SERVER[version], PORT]
            answers = parent.do(["children_at_once", count // 2, step, f"{names}{version}-"])
            for index, (pid, ports) in enumerate(answers):
                for port in ports:
                    truth[TCP, (ROUTER_SERVER_SIDE[version], SERVER[version], port, PORT)].add((pid, f"{names}{version}-{index}"))
        return truth

    def test_datagrams_of_many_processes(self):
        """One socket for each datagram: nothing is left to look at."""
        self.traffic.discard()
        parent = self.actor("parent")
        for rung, share in (("cgroup", 0.99), ("procfs", 0)):
            tool = self.attribute(rung, "--buffer", "16m")
            truth = collections.defaultdict(set)
            for version in (4, 6):
                step = ["send_many", EACH, version, SERVER[version], DISCARD_PORT]
                for index, (pid, ports) in enumerate(parent.do(["children_at_once", 30, step, f"d{version}-"])):
                    for port in ports:
                        truth[UDP, (ROUTER_SERVER_SIDE[version], SERVER[version], port, DISCARD_PORT)].add((pid, f"d{version}-{index}"))
            report = self.stop_attributed(tool)
            with self.subTest(rung=rung):
                self.check(report, truth, share)
            self.network.run("router", "conntrack", "-D", "-p", "udp")  # ports come again on the next rung

    def test_processes_that_stay(self):
        """What is open at the end is known on procfs, too."""
        self.traffic.discard()
        actors = self.actors(*(f"stays{index}" for index in range(8)))
        for rung in RUNGS:
            tool = self.attribute(rung)
            truth = collections.defaultdict(set)
            for index in range(5):
                for actor in actors:
                    for version in (4, 6):
                        name = f"{rung}{index}-{version}"
                        port = actor.do(["make", name, version, "udp"], ["send_to", name, SERVER[version], DISCARD_PORT])[1]
                        truth[UDP, (ROUTER_SERVER_SIDE[version], SERVER[version], port, DISCARD_PORT)].add((actor.pid, actor.name))
            report = self.stop_attributed(tool)
            with self.subTest(rung=rung):
                self.check(report, truth, 1)


class TheSameEndsAgain(Load):
    PORTS = (40_001, 40_002, 40_003)
    TURNS = 40

    def test_connections_from_fixed_ports(self):
        """Alternating processes connect from the same few ports; every connection is reported, in its order."""
        self.check_fixed_ports()

    def test_where_the_kernel_does_not_say_when_a_flow_began(self):
        """Then the report does not tell the order either; but nobody has more connections than it made."""
        self.network.set("router", "net.netfilter.nf_conntrack_timestamp", 0)
        self.check_fixed_ports(self.check_numbers_of_each)

    def check_fixed_ports(self, check=None):
        self.accepting("server", 4, SERVER[4])
        actors = self.actors("one", "two")
        for rung in RUNGS:
            tool = self.attribute(rung)
            truth = {port: [] for port in self.PORTS}
            for turn in range(self.TURNS):
                for at, port in enumerate(self.PORTS):
                    actor = actors[(turn + at) % 2]
                    actor.do(["connect_from", port, SERVER[4], PORT])
                    truth[port].append(actor)
            report = self.stop_attributed(tool)
            for port, expected in truth.items():
                with self.subTest(rung=rung, port=port):
                    (check or self.check_in_order)(self.flows_from(report, port), rung, expected)
            self.network.run("router", "conntrack", "-D", "-p", "tcp")

    @staticmethod
    def flows_from(report, port):
        return [each for each in report.objects if each["original"].get("sport") == port and each["proto_number"] == TCP]

    def check_numbers_of_each(self, flows, _rung, expected):
        self.assertEqual(len(flows), len(expected))
        found = collections.Counter(pid_of(each) for each in flows)
        made = collections.Counter(actor.pid for actor in expected)
        del found[None]
        self.assertLessEqual(found, made)

    def check_in_order(self, flows, rung, expected):
        flows.sort(key=lambda each: nanoseconds(each["start"]))
        self.assertEqual(len(flows), len(expected))
        pids = [pid_of(each) for each in flows]
        wrong = [(index, pid, actor.pid) for index, (pid, actor) in enumerate(zip(pids, expected)) if pid not in (None, actor.pid)]
        self.assertEqual(wrong, [])
        if rung == "cgroup":
            self.assertGreaterEqual(len([pid for pid in pids if pid]), len(pids) * 0.99)


class TooLittleRoom(Load):
    def test_folded_entries_are_nobodys(self):
        """They stand for flows of several processes; what is still single is right."""
        self.traffic.discard()
        parent = self.actor("parent")
        for rung in RUNGS:
            tool = self.attribute(rung, "--capacity", "100")
            truth = collections.defaultdict(set)
            for index, (pid, ports) in enumerate(parent.do(["children_at_once", 30, ["send_many", EACH, 4, SERVER[4], DISCARD_PORT], "f"])):
                for port in ports:
                    truth[ROUTER_SERVER_SIDE[4], SERVER[4], port, DISCARD_PORT].add((pid, f"f{index}"))
            self.assertEqual(tool.stop(), 3, tool.errors())
            report = tool.report()
            self.assertGreater(len(report.folded()), 0)
            for each in report.objects:
                with self.subTest(rung=rung, flow=each["original"]):
                    owner = each.get("owner", {}).get("original")
                    if each.get("folded"):
                        self.assertIsNone(owner)
                    elif owner and "pid" in owner:
                        original = each["original"]
                        self.assertIn((owner["pid"], owner["comm"]), truth[original["src"], original["dst"], original["sport"], original["dport"]])
            self.network.run("router", "conntrack", "-D", "-p", "udp")

    def test_servers_of_one_port_after_the_other(self):
        """The same datagrams to one port, which processes have in turn: the flow is of whoever answered."""
        clients = self.actor("client", "client")
        servers = self.actors("first", "second", "third")
        for rung in RUNGS:
            for version in (4, 6):
                tool = self.attribute(rung)
                made = []
                for turn, server in enumerate(servers):
                    at = ROUTER_CLIENT_SIDE[version], 6000
                    name = f"{rung}{version}{turn}"
                    server.do(["make", "s", version, "udp"], ["bind", "s", *at])
                    port = clients.do(["make", name, version, "udp"], ["bind", name, CLIENT[version]], ["send_to", name, *at])[1]
                    server.do(["answer", "s"])
                    clients.do(["receive", name])
                    server.do(["close", "s"])
                    made.append(((CLIENT[version], at[0], port, at[1]), server.who()))
                report = self.stop_attributed(tool)
                for tuple_, who in made:
                    with self.subTest(rung=rung, tuple=tuple_):
                        check = self.assert_owners if rung == "cgroup" else self.assert_never_wrong
                        check(report, UDP, tuple_, None, who)
