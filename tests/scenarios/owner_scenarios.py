"""The process behind each local flow: pid, name and user as the test itself started them."""

import itertools
import os
import re
import shutil
import signal
import subprocess

import witness
from network import CLIENT, ROUTER_CLIENT_SIDE, ROUTER_SERVER_SIDE, SERVER
from owners import ANY, LOOPBACK, NAMELESS, RUNGS, Owners, Who, tuple_of, turned, wait_until_gone
from report import ICMP, ICMPV6, TCP, UDP, Report
from tool import NOBODY
from traffic import DISCARD_PORT, echo_packet, udp_packet
from waiting import wait_for

_serial = itertools.count()


def new_name(kind):
    return f"{kind}{next(_serial)}"


class Flows(Owners):
    """Makers of flows between actors. Their sockets stay open."""

    def tcp(self, client, server, version, to, port=0):
        """An open connection over which bytes went both ways; its original tuple."""
        name = new_name("tcp")
        there = server.do(["make", "listener", version, "tcp"], ["listen", "listener", to, port])
        here = client.do(["make", name, version, "tcp"], ["connect", name, *there], ["send", name], ["local", name])
        server.do(["accept", "listener", name], ["close", "listener"], ["answer_on", name, 8])
        client.do(["receive", name])
        return tuple_of(here, there)

    def udp(self, client, server, version, to, port=0, connected=False, bound=None):
        """A datagram that is answered."""
        name = new_name("udp")
        there = server.do(["make", name, version, "udp"], ["bind", name, to, port])
        client.do(["make", name, version, "udp"])
        if bound:
            client.do(["bind", name, bound])
        if connected:
            here = client.do(["connect", name, *there], ["send", name], ["local", name])
        else:
            here = client.do(["send_to", name, *there])
        came_from = server.do(["answer", name])
        client.do(["receive", name])
        self.assertEqual(came_from[1], here[1])
        return tuple_of(came_from, there)

    def on_rungs(self, make, protocol, rungs=RUNGS):
        """make() yields (tuple, original, reply); every one must be reported so, on each rung."""
        for rung in rungs:
            tool = self.attribute(rung)
            made = list(make())
            report = self.stop_attributed(tool)
            for tuple_, original, reply in made:
                with self.subTest(rung=rung, tuple=tuple_):
                    self.assert_owners(report, protocol, tuple_, original, reply)


class Connections(Flows):
    """TCP, of which one end is here or both are."""

    def test_out_of_the_router_and_into_it(self):
        local, remote, far = self.actors("local", ("remote", "client"), ("far", "server"))

        def make():
            for version in (4, 6):
                yield self.tcp(local, far, version, SERVER[version]), local.who(), None
                yield self.tcp(remote, local, version, ROUTER_CLIENT_SIDE[version]), None, local.who()

        self.on_rungs(make, TCP)

    def test_text_of_both_ends(self):
        """Each direction's line shows the process that sends in it, and the only one where the other end is elsewhere."""
        one, two, far = self.actors("one", ("two", "router", NOBODY), ("far", "server"))
        for rung in RUNGS:
            tool = self.capture("-b", "--owner", rung)
            here = [self.tcp(one, two, version, LOOPBACK[version]) for version in (4, 6)]
            out = [self.tcp(two, far, version, SERVER[version]) for version in (4, 6)]
            self.stop_complete(tool)
            first, second = f"(one,pid:{one.pid},uid:root)", f"(two,pid:{two.pid},uid:nobody)"
            shown = {**{each: first for each in here}, **{turned(each): second for each in here + out}, **{each: second for each in out}}
            for tuple_, suffix in shown.items():
                with self.subTest(rung=rung, tuple=tuple_):
                    self.assertEqual(self.line_of(tool.output(), tuple_), suffix)

    def test_every_field(self):
        one, two = self.actors("one", ("two words", "router", NOBODY))
        whos = [one.who().look(), two.who().look()]
        for rung in RUNGS:
            tool = self.attribute(rung)
            made = [self.tcp(one, two, version, LOOPBACK[version]) for version in (4, 6)]
            report = self.stop_attributed(tool)
            for tuple_ in made:
                owner = self.owner_of(report, TCP, tuple_)
                for side, who in zip(("original", "reply"), whos):
                    with self.subTest(rung=rung, tuple=tuple_, side=side):
                        found = dict(owner[side])
                        how, by = found.pop("how"), found.pop("by")
                        self.assertEqual(found, who.full())
                        # Who has accepted a connection is asked for: the probe has only seen who listens.
                        by_probe = rung == "cgroup" and side == "original"
                        self.assertEqual((how, by), (rung, "connect") if by_probe else ("procfs", "socket"))

    def test_real_programs(self):
        """What was executed last is who it is."""
        for rung in RUNGS:
            tool = self.attribute(rung)
            made = []
            for version in (4, 6):
                port = 7000 + next(_serial)
                address = LOOPBACK[version] if version == 4 else f"[{LOOPBACK[version]}]"
                _, listens = self.run_program("socat", f"TCP{version}-LISTEN:{port},reuseaddr", "PIPE")
                self.wait_for_listener(port)
                _, calls = self.run_program("socat", "-", f"TCP{version}:{address}:{port}", stdin=subprocess.PIPE)
                made.append((self.established(version, port), calls, listens))
            report = self.stop_attributed(tool)
            for tuple_, calls, listens in made:
                with self.subTest(rung=rung, tuple=tuple_):
                    self.assert_owners(report, TCP, tuple_, calls, listens)
                    owner = self.owner_of(report, TCP, tuple_)
                    for side, who in (("original", calls), ("reply", listens)):
                        self.assertEqual((owner[side]["command_line"], owner[side]["executable"]), (" ".join(who.argv), os.path.realpath(shutil.which("socat"))))

    def wait_for_listener(self, port):
        def listens():
            return self.network.run("router", "ss", "-Hltn", f"sport = :{port}").strip()

        wait_for(listens, f"somebody to listen on port {port}")

    def established(self, version, port):
        """The original tuple of the connection to this port."""
        def found():
            return [each.flow.original for each in witness.listed(self.network, "-f", f"ipv{version}", "-p", "tcp", "--dport", str(port))
                    if each.tcp_state == "ESTABLISHED"]

        return wait_for(found, f"a connection to port {port}")[0]


class Datagrams(Flows):
    def test_unconnected_and_connected(self):
        local, remote, far = self.actors("local", ("remote", "client"), ("far", "server"))

        def make():
            for version in (4, 6):
                for connected in (False, True):
                    yield self.udp(local, far, version, SERVER[version], connected=connected), local.who(), None
                    yield self.udp(remote, local, version, ROUTER_CLIENT_SIDE[version], connected=connected), None, local.who()
                yield self.udp(local, far, version, SERVER[version], bound=ROUTER_SERVER_SIDE[version]), local.who(), None
                yield self.udp(remote, local, version, ROUTER_CLIENT_SIDE[version], port=5000 + next(_serial)), None, local.who()

        self.on_rungs(make, UDP)

    def test_a_server_for_any_address(self):
        local, remote = self.actors("local", ("remote", "client"))

        def make():
            for version in (4, 6):
                name = new_name("any")
                _, port = local.do(["make", name, version, "udp"], ["bind", name, ANY[version]])[:2]
                here = remote.do(["make", name, version, "udp"], ["send_to", name, ROUTER_CLIENT_SIDE[version], port])
                came_from = local.do(["answer", name])
                self.assertEqual(here[1], came_from[1])
                yield tuple_of((CLIENT[version], here[1]), (ROUTER_CLIENT_SIDE[version], port)), None, local.who()

        self.on_rungs(make, UDP)

    def test_both_ends_here(self):
        one, two = self.actors("one", ("two", "router", NOBODY))

        def make():
            for version in (4, 6):
                for connected in (False, True):
                    yield self.udp(one, two, version, LOOPBACK[version], connected=connected), one.who(), two.who()

        self.on_rungs(make, UDP)

    def test_one_datagram_in_parts(self):
        local = self.actor("parts")
        self.traffic.discard()

        def make():
            for version in (4, 6):
                name, other = new_name("parts"), new_name("parts")
                port = local.do(["make", name, version, "udp"], ["send_in_parts", name, SERVER[version], DISCARD_PORT])[1]
                yield (ROUTER_SERVER_SIDE[version], SERVER[version], port, DISCARD_PORT), local.who(), None
                port = local.do(["make", other, version, "udp"], ["connect", other, SERVER[version], DISCARD_PORT], ["send_parts_connected", other])[1]
                yield (ROUTER_SERVER_SIDE[version], SERVER[version], port, DISCARD_PORT), local.who(), None

        self.on_rungs(make, UDP)

    def test_one_datagram_of_a_process_that_ends(self):
        """It is gone before anybody can look: only the probes know it."""
        local = self.actor("parent")
        self.traffic.discard()
        for rung in RUNGS:
            tool = self.attribute(rung)
            made = []
            for version in (4, 6):
                steps = ["rename", "one shot"], ["make", "x", version, "udp"], ["send_to", "x", SERVER[version], DISCARD_PORT]
                pid, here = local.do(["child", *steps])
                self.assertFalse(os.path.exists(f"/proc/{pid}"))
                made.append(((ROUTER_SERVER_SIDE[version], SERVER[version], here[1], DISCARD_PORT), Who(pid, "one shot", 0)))
            report = self.stop_attributed(tool)
            for tuple_, who in made:
                with self.subTest(rung=rung, tuple=tuple_):
                    check = self.assert_owners if rung == "cgroup" else self.assert_never_wrong
                    check(report, UDP, tuple_, who)

    def test_ipv4_by_ipv6_sockets(self):
        """The flow is one of IPv4, whatever the socket is."""
        dual, remote, far = self.actors("dual", ("remote", "client"), ("far", "server"))

        def make_udp():
            for connected in (False, True):
                name = new_name("mapped")
                there = far.do(["make", name, 4, "udp"], ["bind", name, SERVER[4]])
                mapped = "::ffff:" + SERVER[4]
                if connected:
                    dual.do(["make", name, 6, "udp"], ["connect", name, mapped, there[1]], ["send", name])
                else:
                    dual.do(["make", name, 6, "udp"], ["send_to", name, mapped, there[1]])
                here = far.do(["answer", name])
                self.assertEqual(here[0], ROUTER_SERVER_SIDE[4])
                yield tuple_of(here, there), dual.who(), None
            name = new_name("mapped")
            port = dual.do(["make", name, 6, "udp"], ["bind", name, "::"])[1]
            here = remote.do(["make", name, 4, "udp"], ["connect", name, ROUTER_CLIENT_SIDE[4], port], ["send", name], ["local", name])
            dual.do(["answer", name])
            yield tuple_of(here, (ROUTER_CLIENT_SIDE[4], port)), None, dual.who()

        def make_tcp():
            name = new_name("mapped")
            there = far.do(["make", "listener", 4, "tcp"], ["listen", "listener", SERVER[4]])
            port = dual.do(["make", name, 6, "tcp"], ["connect", name, "::ffff:" + SERVER[4], there[1]])[1]
            far.do(["accept", "listener", name])
            yield tuple_of((ROUTER_SERVER_SIDE[4], port), there), dual.who(), None
            other = new_name("mapped")
            port = dual.do(["make", other + "l", 6, "tcp"], ["listen", other + "l", "::"])[1]
            here = remote.do(["make", other, 4, "tcp"], ["connect", other, ROUTER_CLIENT_SIDE[4], port])
            dual.do(["accept", other + "l", other])
            yield tuple_of(here, (ROUTER_CLIENT_SIDE[4], port)), None, dual.who()

        self.on_rungs(make_udp, UDP)
        self.on_rungs(make_tcp, TCP)


class OtherProtocols(Flows):
    ECHO = {4: (ICMP, 8), 6: (ICMPV6, 128)}

    def echo_tuple(self, report, version, to, ident=None):
        """The one echo flow to an address, by its id where several go there."""
        protocol, request = self.ECHO[version]
        found = [each for each in report.objects if each["proto_number"] == protocol and each["original"]["dst"] == to
                 and ident in (None, each["original"]["icmp_id"])]
        self.assertEqual(len(found), 1, found)
        side = found[0]["original"]
        return protocol, (side["src"], to, request, 0, side["icmp_id"])

    def test_ping(self):
        """It is gone at the end, and was there long enough for nobody but the probes."""
        made = []
        tool = self.attribute("cgroup")
        for version, to in ((4, "10.88.0.1"), (6, "fd88::1")):
            ping, who = self.run_program("ping", "-n", "-c", "1", f"-{version}", to)
            self.assertEqual(ping.wait(20), 0)
            made.append((version, to, who))
        report = self.stop_attributed(tool)
        for version, to, who in made:
            with self.subTest(version=version):
                self.assert_owners(report, *self.echo_tuple(report, version, to), who)

    def test_ping_sockets_of_users(self):
        self.network.set("router", "net.ipv4.ping_group_range", f"0 {NAMELESS}")
        pinger = self.actor("pinger", uid=NAMELESS)
        for rung in RUNGS:
            tool = self.attribute(rung)
            made = []
            for version in (4, 6):
                name = new_name("ping")
                kind = self.ECHO[version][1]
                pinger.do(["make", name, version, "ping"], ["bind", name, ROUTER_SERVER_SIDE[version]],
                          ["send_bytes", name, SERVER[version], f"{kind:02x}00000000000001"], ["receive", name])
                made.append((version, pinger.do(["local", name])[1]))
            report = self.stop_attributed(tool)
            for version, ident in made:
                with self.subTest(rung=rung, version=version):
                    self.assert_owners(report, *self.echo_tuple(report, version, SERVER[version], ident), pinger.who())

    def test_echo_by_a_raw_socket(self):
        raw = self.actor("raw")
        for rung in RUNGS:
            tool = self.attribute(rung)
            made = []
            for version, protocol in ((4, ICMP), (6, ICMPV6)):
                name, ident = new_name("raw"), 3000 + next(_serial)
                packet = echo_packet(version, ROUTER_SERVER_SIDE[version], SERVER[version], ident)[20 if version == 4 else 40:]
                raw.do(["make", name, version, "raw", protocol], ["send_bytes", name, SERVER[version], packet.hex()])
                made.append((version, ident))
            report = self.stop_attributed(tool)
            for version, ident in made:
                with self.subTest(rung=rung, version=version):
                    self.assert_owners(report, *self.echo_tuple(report, version, SERVER[version], ident), raw.who())

    def test_datagrams_by_raw_sockets(self):
        """Hand-made UDP, with its IP header (IPPROTO_RAW) and without (IPPROTO_UDP); the port is nobody's. Only the probes see who sends."""
        raw = self.actor("raw")
        self.traffic.discard()
        for rung in RUNGS:
            tool = self.attribute(rung)
            made = []
            for version in (4, 6):
                port = 4000 + next(_serial)
                ends = ROUTER_SERVER_SIDE[version], SERVER[version]
                whole = udp_packet(version, *ends, port, DISCARD_PORT)
                name = new_name("raw")
                raw.do(["make", name, version, "raw", 255], *([["headers_included", name]] if version == 6 else []),
                       ["send_bytes", name, SERVER[version], whole.hex()])
                made.append((*ends, port, DISCARD_PORT))
                port = 4000 + next(_serial)
                segment = udp_packet(version, *ends, port, DISCARD_PORT)[20 if version == 4 else 40:]
                name = new_name("raw")
                raw.do(["make", name, version, "raw", UDP], ["send_bytes", name, SERVER[version], segment.hex()])
                made.append((*ends, port, DISCARD_PORT))
            report = self.stop_attributed(tool)
            for tuple_ in made:
                with self.subTest(rung=rung, tuple=tuple_):
                    check = self.assert_owners if rung == "cgroup" else self.assert_never_wrong
                    check(report, UDP, tuple_, raw.who())

    def test_icmp_in_text(self):
        """As of old, no suffix."""
        raw = self.actor("raw")
        tool = self.capture("-b", "--owner", "cgroup")
        packet = echo_packet(4, ROUTER_SERVER_SIDE[4], SERVER[4], 77)[20:]
        raw.do(["make", "raw", 4, "raw", ICMP], ["send_bytes", "raw", SERVER[4], packet.hex()])
        self.stop_complete(tool)
        self.assertIn("(type=8 | code=0)\n", tool.output())


class Processes(Flows):
    """Who it is, where that is not simple."""

    def test_a_process_that_is_gone(self):
        far = self.actor("far", "server")
        for rung in RUNGS:
            tool = self.attribute(rung)
            made = []
            for version in (4, 6):
                name = new_name("short")
                there = far.do(["make", name + "l", version, "tcp"], ["listen", name + "l", SERVER[version]])
                short = self.actor(name[:15])
                here = short.do(["make", name, version, "tcp"], ["connect", name, *there], ["send", name], ["local", name])
                short.end()
                wait_until_gone(short.pid)
                far.do(["accept", name + "l", name], ["receive_end", name], ["close", name])
                made.append((tuple_of(here, there), short.who()))
            report = self.stop_attributed(tool)
            for tuple_, who in made:
                with self.subTest(rung=rung, tuple=tuple_):
                    check = self.assert_owners if rung == "cgroup" else self.assert_never_wrong
                    check(report, TCP, tuple_, who)

    def test_other_users(self):
        nobody, nameless, far = self.actors(("nobody's", "router", NOBODY), ("nameless", "router", NAMELESS), ("far", "server"))
        for rung in RUNGS:
            tool = self.capture("-b", "--owner", rung)
            lines = {}
            for version in (4, 6):
                lines[self.tcp(nobody, far, version, SERVER[version])] = f"(nobody's,pid:{nobody.pid},uid:nobody)"
                lines[self.udp(nameless, far, version, SERVER[version])] = f"(nameless,pid:{nameless.pid},uid:{NAMELESS})"
            self.stop_complete(tool)
            for tuple_, suffix in lines.items():
                with self.subTest(rung=rung, tuple=tuple_):
                    self.assertEqual(self.line_of(tool.output(), tuple_), suffix)

    def test_a_child_that_uses_its_parents_sockets(self):
        """Who sends a datagram is its owner; who makes a connection is, whoever writes into it."""
        parent, far = self.actors("parent", ("far", "server"))
        self.traffic.discard()
        tool = self.attribute("cgroup")
        made = []
        for version in (4, 6):
            local = ROUTER_SERVER_SIDE[version]
            name = new_name("unconnected")
            parent.do(["make", name, version, "udp"])
            pid, here = parent.do(["child", ["send_to", name, SERVER[version], DISCARD_PORT]])
            made.append((UDP, (local, SERVER[version], here[1], DISCARD_PORT), parent.child(pid)))
            name = new_name("connected")
            here = parent.do(["make", name, version, "udp"], ["connect", name, SERVER[version], DISCARD_PORT])
            pid, _ = parent.do(["child", ["send", name]])
            made.append((UDP, (local, SERVER[version], here[1], DISCARD_PORT), parent.child(pid)))
            name = new_name("tcp")
            there = far.do(["make", name + "l", version, "tcp"], ["listen", name + "l", SERVER[version]])
            here = parent.do(["make", name, version, "tcp"], ["connect", name, *there])
            parent.do(["child", ["send", name]])
            far.do(["accept", name + "l", name], ["receive", name])
            made.append((TCP, tuple_of(here, there), parent.who()))
        report = self.stop_attributed(tool)
        for protocol, tuple_, who in made:
            with self.subTest(tuple=tuple_):
                self.assert_owners(report, protocol, tuple_, who)

    def test_a_server_whose_children_accept(self):
        """The child is told once it has closed the connection."""
        parent, remote = self.actors("parent", ("remote", "client"))
        tool = self.attribute("cgroup")
        made = []
        for version in (4, 6):
            name = new_name("forked")
            there = parent.do(["make", name, version, "tcp"], ["listen", name, ROUTER_CLIENT_SIDE[version]])
            here = remote.do(["make", name, version, "tcp"], ["connect", name, *there], ["send", name], ["local", name])
            pid, _ = parent.do(["child", ["accept", name, "x"], ["answer_on", "x", 8], ["close", "x"]])
            made.append((tuple_of(here, there), parent.child(pid)))
        report = self.stop_attributed(tool)
        for tuple_, who in made:
            with self.subTest(tuple=tuple_):
                self.assert_owners(report, TCP, tuple_, None, who)

    def test_a_server_whose_children_accept_while_they_serve(self):
        """The child, or where that cannot be known yet the parent, and then it says so."""
        parent, remote = self.actors("parent", ("remote", "client"))
        for rung in RUNGS:
            tool = self.attribute(rung)
            made = []
            for version in (4, 6):
                name = new_name("serving")
                there = parent.do(["make", name, version, "tcp"], ["listen", name, ROUTER_CLIENT_SIDE[version]])
                here = remote.do(["make", name, version, "tcp"], ["connect", name, *there], ["send", name], ["local", name])
                pid, _ = parent.do(["lasting_child", name, ["accept", name, "x"], ["answer_on", "x", 8]])
                made.append((tuple_of(here, there), pid))
            report = self.stop_attributed(tool)
            for tuple_, pid in made:
                with self.subTest(rung=rung, tuple=tuple_):
                    owner = self.owner_of(report, TCP, tuple_)["reply"]
                    if owner["pid"] != pid:
                        self.assertEqual((owner["pid"], owner.get("shared")), (parent.pid, True))

    def test_a_pid_that_comes_again(self):
        """Two processes, one after the other, under one number: neither is taken for the other, also where they are heard of late."""
        first, second = self.actors("first", "second")
        self.traffic.discard()
        tool = self.attribute("cgroup")
        made = []
        for turn in range(12):
            version, is_late = (4, 6)[turn % 2], turn >= 6
            if is_late:
                self.pause(tool)
            steps = ["make", "x", version, "udp"], ["send_to", "x", SERVER[version], DISCARD_PORT]
            pid, here = first.do(["child", *steps])
            again = second.do(["child_with_pid", pid, *steps])
            if is_late:
                tool.send(signal.SIGCONT)
            if again is None:
                continue
            for parent, port in ((first, here[1]), (second, again[1][1])):
                made.append(((ROUTER_SERVER_SIDE[version], SERVER[version], port, DISCARD_PORT), parent.child(pid)))
        self.assertGreater(len(made), 6, "others took the pids")
        report = self.stop_attributed(tool)
        for tuple_, who in made:
            with self.subTest(tuple=tuple_):
                self.assert_owners(report, UDP, tuple_, who)
                owner = self.owner_of(report, UDP, tuple_)["original"]
                self.assertIn(owner.get("command_line"), (None, " ".join(who.argv)))
                self.assertIn(owner.get("ppid"), (None, who.parent))

    def pause(self, tool):
        def stopped():
            with open(f"/proc/{tool.pid}/stat", encoding="utf-8") as file:
                return file.read().rpartition(")")[2].split()[0] == "T"

        tool.send(signal.SIGSTOP)
        wait_for(stopped, "the tool to stop")

    def test_hostile_names(self):
        """Text has no control characters, and JSON is JSON."""
        far = self.actor("far", "server")
        names = ("\x1b[31mred\x07", "a\"b\\c\nd", "x,pid:1,uid:0)", "(-)", "\udcff\udcfe\u00e9", "t\ta\rb", "\u202egnp.exe")
        actors = self.actors(*(f"hostile{index}" for index, _ in enumerate(names)))
        for index, (actor, name) in enumerate(zip(actors, names)):
            actor.do(["rename" if index % 2 else "rename_by_prctl", name])
        for rung in RUNGS:
            text = self.capture("-b", "--owner", rung)
            tuples = [self.tcp(actor, far, 4, SERVER[4]) for actor in actors]
            self.stop_complete(text)
            self.assertNotRegex(text.output().replace("\n", ""), r"[\x00-\x1f\x7f-\x9f\u2028-\u202e]")
            for actor, tuple_ in zip(actors, tuples):
                self.assertRegex(self.line_of(text.output(), tuple_), rf"^\(.*,pid:{actor.pid},uid:root\)$")
            tool = self.attribute(rung)
            tuples = [self.udp(actor, far, 6, SERVER[6]) for actor in actors]
            report = self.stop_attributed(tool)
            for actor, tuple_, name in zip(actors, tuples, names):
                with self.subTest(rung=rung, name=name):
                    owner = self.owner_of(report, UDP, tuple_)["original"]
                    expected = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                    self.assertEqual((owner["pid"], owner["comm"]), (actor.pid, expected))


class Namespaces(Flows):
    """The same addresses and ports elsewhere are others."""

    def test_the_same_ends_in_another_namespace(self):
        here, there = self.actors("here", ("here too", "router"))
        others = self.actors(("elsewhere", "client"), ("elsewhere too", "client"))
        for rung in RUNGS:
            tool = self.attribute(rung)
            made = []
            for version in (4, 6):
                for turn in ("first", "last"):
                    port, source = 9000 + next(_serial), 20_000 + next(_serial)
                    order = [(here, there), others]
                    for one, two in order if turn == "first" else reversed(order):
                        self.fixed(one, two, version, source, port)
                    made.append((LOOPBACK[version], LOOPBACK[version], source, port))
            report = self.stop_attributed(tool)
            for tuple_ in made:
                for protocol in (TCP, UDP):
                    with self.subTest(rung=rung, tuple=tuple_, protocol=protocol):
                        self.assert_owners(report, protocol, tuple_, here.who(), there.who())

    def fixed(self, client, server, version, source, port):
        """A connection and datagrams over the loopback device with these very ports."""
        to, name = LOOPBACK[version], new_name("fixed")
        server.do(["make", "listener", version, "tcp"], ["listen", "listener", to, port], ["make", name + "u", version, "udp"], ["bind", name + "u", to, port])
        client.do(["make", name, version, "tcp"], ["bind", name, to, source], ["connect", name, to, port], ["send", name])
        server.do(["accept", "listener", name], ["close", "listener"], ["answer_on", name, 8])
        client.do(["make", name + "u", version, "udp"], ["bind", name + "u", to, source], ["send_to", name + "u", to, port])
        server.do(["answer", name + "u"])
        client.do(["receive", name], ["receive", name + "u"])

    def test_what_is_forwarded_is_nobodys(self):
        """Processes of other namespaces of this machine claim the very flows that pass through here."""
        remote, far = self.actors(("remote", "client"), ("far", "server"))

        def make(maker):
            for version in (4, 6):
                yield maker(remote, far, version, SERVER[version]), None, None

        self.on_rungs(lambda: make(self.tcp), TCP)
        self.on_rungs(lambda: make(self.udp), UDP)

    def test_flows_of_all_namespaces(self):
        """Only those of our own have owners, where others are heard, too."""
        self.network.add_namespace("beside")
        self.network.activate("beside")
        self.network.run("router", "ip", "netns", "set", self.network.names["beside"], "7")
        one, two = self.actors("one", "two")
        others = self.actors(("other", "beside"), ("another", "beside"))
        for rung in RUNGS:
            tool = self.attribute(rung, "--all-netns")
            made = [self.udp(one, two, version, LOOPBACK[version]) for version in (4, 6)]
            elsewhere = [self.udp(*others, version, LOOPBACK[version]) for version in (4, 6)]
            report = self.stop_attributed(tool)
            for tuple_ in elsewhere:
                (flow,) = [each for each in report.objects if each.get("netns") == 7 and each["original"].get("sport") == tuple_[2]
                           and each["family"] == ("ipv4" if tuple_[0] == LOOPBACK[4] else "ipv6")]
                self.assertNotIn("owner", flow)
            for tuple_ in made:
                own = [each for each in report.objects if "netns" not in each and each["original"].get("sport") == tuple_[2]]
                self.assertEqual([(each["owner"]["original"]["pid"], each["owner"]["reply"]["pid"]) for each in own], [(one.pid, two.pid)])


class Unconfirmed(Flows):
    """What OUTPUT drops has a process, too."""

    def check(self, rung):
        local = self.actor("denied")
        tool = self.attribute(rung, "-t", "-e", "--trace-rate", "100000")
        made = []
        for version in (4, 6):
            local_address = ROUTER_SERVER_SIDE[version]
            name = new_name("tcp")
            port = local.do(["make", name, version, "tcp"], ["begin_connect", name, SERVER[version], 666])[1]
            made.append((TCP, (local_address, SERVER[version], port, 666)))
            name = new_name("udp")
            port = local.do(["make", name, version, "udp"], ["bind", name, local_address])[1]
            local.do(["send_to", name, SERVER[version], 666])
            made.append((UDP, (local_address, SERVER[version], port, 666)))
            name = new_name("connected")
            port = local.do(["make", name, version, "udp"], ["connect", name, SERVER[version], 666], ["send", name], ["local", name])[1]
            made.append((UDP, (local_address, SERVER[version], port, 666)))
        report = self.stop_attributed(tool)
        for protocol, tuple_ in made:
            with self.subTest(rung=rung, protocol=protocol, tuple=tuple_):
                flow = report.by_original(protocol, tuple_)
                self.assertEqual((flow["state"], flow["verdict"]), ("unconfirmed", "drop"))
                self.assert_owners(report, protocol, tuple_, local.who())

    def nft_rules(self):
        self.network.nft("""
            table inet fw {
                chain out {
                    type filter hook output priority 0; policy accept;
                    meta l4proto { tcp, udp } th dport 666 drop
                }
            }""")

    def test_under_nft(self):
        self.nft_rules()
        for rung in RUNGS:
            self.check(rung)

    def test_of_processes_that_are_gone(self):
        """No packet of theirs has left: they are known by what they asked for."""
        self.nft_rules()
        parent = self.actor("parent")
        tool = self.attribute("cgroup", "-t", "-e", "--trace-rate", "100000")
        made = []
        for version in (4, 6):
            for protocol, kind, step in ((TCP, "tcp", "begin_connect"), (UDP, "udp", "send_to")):
                steps = ["bind", "x", ROUTER_SERVER_SIDE[version]], [step, "x", SERVER[version], 666], ["local", "x"]
                pid, (_, port) = parent.do(["child", ["rename", "gone"], ["make", "x", version, kind], *steps])
                made.append((protocol, (ROUTER_SERVER_SIDE[version], SERVER[version], port, 666), Who(pid, "gone", 0)))
        report = self.stop_attributed(tool)
        for protocol, tuple_, who in made:
            with self.subTest(protocol=protocol, tuple=tuple_):
                self.assertEqual(report.by_original(protocol, tuple_)["state"], "unconfirmed")
                self.assert_owners(report, protocol, tuple_, who)

    def test_under_iptables_legacy(self):
        self.need_legacy_tables()
        for command in ("iptables-legacy", "ip6tables-legacy"):
            for protocol in ("tcp", "udp"):
                self.network.run("router", command, "-w", "20", "-A", "OUTPUT", "-p", protocol, "--dport", "666", "-j", "DROP")
        for rung in RUNGS:
            self.check(rung)


class OlderSockets(Flows):
    """Sockets that were open before the start."""

    def test_connections_and_servers(self):
        local, remote, far = self.actors("local", ("remote", "client"), ("far", "server"))
        older = []
        for version in (4, 6):
            older.append((TCP, self.tcp(local, far, version, SERVER[version]), local.who(), None))
            older.append((TCP, self.tcp(remote, local, version, ROUTER_CLIENT_SIDE[version]), None, local.who()))
            older.append((UDP, self.udp(local, far, version, SERVER[version], connected=True), local.who(), None))
            older.append((UDP, self.udp(remote, local, version, ROUTER_CLIENT_SIDE[version]), None, local.who()))
        servers = {}
        for version in (4, 6):
            at = ROUTER_CLIENT_SIDE[version]
            servers[version] = local.do(["make", f"l{version}", version, "tcp"], ["listen", f"l{version}", at]), local.do(
                ["make", f"u{version}", version, "udp"], ["bind", f"u{version}", ANY[version]])[1]
        for rung in RUNGS:
            tool = self.attribute(rung)
            made = list(older)
            for version in (4, 6):
                name, ((address, port), datagram_port) = new_name("later"), servers[version]
                here = remote.do(["make", name, version, "tcp"], ["connect", name, address, port])
                local.do(["accept", f"l{version}", name])
                made.append((TCP, tuple_of(here, (address, port)), None, local.who()))
                remote.do(["make", name + "u", version, "udp"], ["send_to", name + "u", address, datagram_port])
                came_from = local.do(["answer", f"u{version}"])
                made.append((UDP, tuple_of(came_from, (address, datagram_port)), None, local.who()))
            report = self.stop_attributed(tool)
            for protocol, tuple_, original, reply in made:
                with self.subTest(rung=rung, protocol=protocol, tuple=tuple_):
                    self.assert_owners(report, protocol, tuple_, original, reply)


class Translated(Flows):
    RULES = """
    table inet translation {
        chain arriving {
            type nat hook prerouting priority -100; policy accept;
            ip daddr 10.77.1.1 tcp dport 8080 redirect to :8081
            ip6 daddr fd77:1::1 tcp dport 8080 redirect to :8081
            ip daddr 10.77.1.1 udp dport 8080 dnat ip to 10.77.2.1:8082
            ip6 daddr fd77:1::1 udp dport 8080 dnat ip6 to [fd77:2::1]:8082
        }
        chain here {
            type nat hook output priority -100; policy accept;
            ip daddr 10.99.0.1 meta l4proto { tcp, udp } dnat ip to 10.77.2.2
            ip6 daddr fd99::1 meta l4proto { tcp, udp } dnat ip6 to fd77:2::2
        }
        chain leaving {
            type nat hook postrouting priority 100; policy accept;
            oifname rs tcp dport 99 masquerade to :30000-30010
            oifname rs udp dport 99 masquerade to :30000-30010
        }
    }
    """
    NOWHERE = {4: "10.99.0.1", 6: "fd99::1"}

    def setUp(self):
        super().setUp()
        self.network.nft(self.RULES)
        self.network.run("router", "ip", "route", "add", "10.99.0.0/16", "via", "10.77.2.2")
        self.network.run("router", "ip", "route", "add", "fd99::/64", "via", "fd77:2::2")

    def test_connections_of_ours(self):
        local, far = self.actors("local", ("far", "server"))
        for rung in RUNGS:
            tool = self.attribute(rung)
            made = []
            for version in (4, 6):
                for to, port in ((self.NOWHERE[version], 98), (SERVER[version], 99)):
                    name = new_name("nat")
                    far.do(["make", "listener", version, "tcp"], ["listen", "listener", SERVER[version], port])
                    here = local.do(["make", name, version, "tcp"], ["connect", name, to, port], ["send", name], ["local", name])
                    far.do(["accept", "listener", name], ["close", "listener"], ["answer_on", name, 8])
                    local.do(["receive", name])
                    made.append((TCP, tuple_of(here, (to, port))))
                    for connected in (False, True):
                        name = new_name("nat")
                        far.do(["make", "server", version, "udp"], ["bind", "server", SERVER[version], port])
                        local.do(["make", name, version, "udp"], ["bind", name, ROUTER_SERVER_SIDE[version]])
                        if connected:
                            local.do(["connect", name, to, port], ["send", name])
                        else:
                            local.do(["send_to", name, to, port])
                        far.do(["answer", "server"], ["close", "server"])
                        local.do(["receive", name])
                        made.append((UDP, tuple_of(local.do(["local", name]), (to, port))))
            report = self.stop_attributed(tool)
            for protocol, tuple_ in made:
                with self.subTest(rung=rung, protocol=protocol, tuple=tuple_):
                    flow = report.by_original(protocol, tuple_)
                    self.assertTrue({"snat", "dnat"} & set(flow["status"]), flow)
                    self.assert_owners(report, protocol, tuple_, local.who())

    def test_servers_of_ours(self):
        local, remote = self.actors("local", ("remote", "client"))
        for rung in RUNGS:
            tool = self.attribute(rung)
            made, servers = [], []
            for version in (4, 6):
                called = ROUTER_CLIENT_SIDE[version]
                name = new_name("nat")
                local.do(["make", "listener", version, "tcp"], ["listen", "listener", ANY[version], 8081])
                here = remote.do(["make", name, version, "tcp"], ["connect", name, called, 8080], ["send", name], ["local", name])
                local.do(["accept", "listener", name], ["close", "listener"], ["answer_on", name, 8])
                remote.do(["receive", name])
                made.append((TCP, tuple_of(here, (called, 8080))))
                server = new_name("server")
                local.do(["make", server, version, "udp"], ["bind", server, ROUTER_SERVER_SIDE[version], 8082])
                remote.do(["make", name + "u", version, "udp"], ["send_to", name + "u", called, 8080])
                came_from = local.do(["answer", server])
                remote.do(["receive", name + "u"])
                servers.append(server)
                made.append((UDP, tuple_of(came_from, (called, 8080))))
            report = self.stop_attributed(tool)
            for protocol, tuple_ in made:
                with self.subTest(rung=rung, protocol=protocol, tuple=tuple_):
                    self.assertIn("dnat", report.by_original(protocol, tuple_)["status"])
                    self.assert_owners(report, protocol, tuple_, None, local.who())
            local.do(*(["close", server] for server in servers))


class Output(Flows):
    """The other forms of the report."""

    def test_following(self):
        """A flow whose process becomes known later is told again."""
        one, two = self.actors("one", "two")
        tool = self.start("-b", "--owner", "procfs", "--follow", "-o", "-").wait_until_capturing()
        tuple_ = self.tcp(one, two, 4, LOOPBACK[4])
        source, destination, sport, dport = tuple_
        ends = f"src = {source} (port={sport}) to dst = {destination} (port={dport}) (one,pid:{one.pid},uid:root)"
        told = re.compile(rf"^OWN  TCPv4 \[ +\d+\] {re.escape(ends)}$", re.MULTILINE)
        wait_for(lambda: told.search(tool.output()), lambda: f"{told.pattern} in {tool.output()}")
        self.stop_complete(tool)

    def test_following_in_json(self):
        one, two = self.actors("one", "two")
        tool = self.start("-b", "--owner", "procfs", "--follow", "--format", "json", "-o", "-").wait_until_capturing()
        tuple_ = self.udp(one, two, 6, LOOPBACK[6])
        wait_for(lambda: '"event":"owned"' in tool.output(), lambda: f"a flow that is told again, in {tool.output()}")
        self.stop_complete(tool)
        report = Report(tool.output())
        told = [each for each in report.objects if each["original"].get("sport") == tuple_[2]]
        self.assertEqual(([each["event"] for each in told[:2]], "owner" in told[0]), (["new", "owned"], False))
        last = told[-1]
        self.assertEqual((last["owner"]["original"]["pid"], last["owner"]["reply"]["pid"]), (one.pid, two.pid))

    def test_a_recording(self):
        one, two, far = self.actors("one", ("two", "router", NOBODY), ("far", "server"))
        for rung in RUNGS:
            for form in ("text", "json"):
                with self.subTest(rung=rung, form=form):
                    file = self.path(f"{rung}.{form}")
                    tool = self.capture("-b", "--owner", rung, "--format", form, "--record", file)
                    self.tcp(one, two, 4, LOOPBACK[4])
                    self.udp(two, far, 6, SERVER[6])
                    one.do(["child", ["make", "x", 4, "udp"], ["send_to", "x", SERVER[4], DISCARD_PORT]])
                    self.stop_complete(tool)
                    replay = self.run_to_end("replay", file, "--format", form, "-o", "-")
                    self.assertEqual(replay.process.returncode, 0, replay.errors())
                    if form == "text":
                        self.assertIn(f"(one,pid:{one.pid},uid:root)", tool.output())
                        self.assertEqual(replay.output(), tool.output())
                        continue
                    first, second = tool.report(), replay.report()
                    self.assertEqual(second.flow_lines, first.flow_lines)
                    for name in ("rung", "ends", "known", "records"):
                        self.assertEqual(second.stats["owners"][name], first.stats["owners"][name], name)

    def test_filters(self):
        one, two = self.actors("one", "two")
        for rung in RUNGS:
            tool = self.attribute(rung, "--proto", "udp", "-4")
            made = self.udp(one, two, 4, LOOPBACK[4])
            self.udp(one, two, 6, LOOPBACK[6])
            self.tcp(one, two, 4, LOOPBACK[4])
            report = self.stop_attributed(tool)
            self.assert_owners(report, UDP, made, one.who(), two.who())
            self.assertEqual({(each["proto"], each["family"]) for each in report.objects}, {("udp", "ipv4")})

    def test_without_it_nothing_is_known(self):
        one, two = self.actors("one", "two")
        tool = self.capture_json()
        self.udp(one, two, 4, LOOPBACK[4])
        report = self.stop_complete(tool).report()
        self.assertNotIn("owners", report.stats)
        self.assertEqual([each for each in report.objects if "owner" in each], [])
