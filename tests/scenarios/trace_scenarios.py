"""-t and -e: the way of every packet through the rules, and the rule that denied it. The same cases in each firewall."""

import dataclasses
import re

import witness
from firewalls import IptablesNft, Legacy, Nft, nft_rules, same_text
from network import CLIENT, ROUTER_CLIENT_SIDE, SERVER
from report import ICMP, ICMPV6, TCP, UDP, original_of
from rules import FROM_ROUTER, TO_ROUTER, Match, Packet, established, guilty, outcome, travel
from tracing import Tracing, chain_of
from traffic import DISCARD_PORT
from waiting import wait_for

TIMES = 3


@dataclasses.dataclass(frozen=True)
class Case:
    """`rules`: (chain, action, further arguments); the chains `forward` and `raw` are base chains, others belong to the case.

    `guilty`: the index of the rule that denies, or the policy's verdict; None: nothing denies."""

    name: str
    rules: tuple
    guilty: object = None
    verdict: str = "drop"
    kind: str = "udp"
    sent: int = TIMES


POLICY = "policy"

CASES = (
    Case("accepted", (("forward", "accept"),), None, "accept"),
    Case("dropped", (("forward", "drop"),), 0),
    Case("rejected", (("forward", "reject"),), 0, "reject"),
    Case("reset", (("forward", "reset"),), 0, "reject", "syn"),
    Case("by_the_policy", (), POLICY, "policy drop"),
    Case("in_raw", (("raw", "drop"),), 0),
    Case("two_deep", (("forward", "jump", "first"), ("first", "jump", "second"), ("second", "drop"), ("first", "accept")), 2),
    Case("by_goto", (("forward", "goto", "there"), ("there", "drop"), ("forward", "accept")), 1),
    Case("goto_never_returns", (("forward", "goto", "there"), ("there", "count"), ("forward", "accept")), POLICY, "policy drop"),
    Case("after_return", (("forward", "jump", "there"), ("there", "return"), ("there", "accept"), ("forward", "drop")), 3),
    Case("after_falling_through", (("forward", "jump", "there"), ("there", "count"), ("forward", "drop")), 2),
    Case("returned_to_the_policy", (("forward", "return"), ("forward", "accept")), POLICY, "policy drop"),
    Case("untracked", (("raw", "notrack"), ("forward", "accept")), None, "accept"),
    Case("untracked_dropped", (("raw", "notrack"), ("forward", "drop")), 1),
    Case("invalid", (("forward", "drop", "", "", ("invalid",)),), 0, "drop", "ack"),
    Case("one_packet", (("forward", "drop"),), 0, sent=1),
    Case("syn", (("forward", "drop"),), 0, "drop", "syn"),
    Case("echo_accepted", (("forward", "accept"),), None, "accept", "echo", 1),
    Case("echo_dropped", (("forward", "drop"),), 0, "drop", "echo"),
    Case("echo_rejected", (("forward", "reject"),), 0, "reject", "echo"),
    Case("commented", (("forward", "drop", "", "ticket 4711: no; (really)"),), 0),
    Case("commented_reject", (("forward", "count", "", "seen"), ("forward", "reject", "", "not today")), 1, "reject"),
)
PROTOCOLS = {"udp": (UDP, UDP), "syn": (TCP, TCP), "ack": (TCP, TCP), "echo": (ICMP, ICMPV6)}


def packet_of(case, version):
    """Each case has a destination of its own."""
    host = 10 + CASES.index(case)
    destination = f"10.88.0.{host}" if version == 4 else f"fd88::{host:x}"
    protocol = PROTOCOLS[case.kind][version == 6]
    state, flags = ("invalid", "A") if case.kind == "ack" else ("new", "S")
    if case.kind == "echo":
        return Packet(version, protocol, CLIENT[version], destination, dport=0x77)
    return Packet(version, protocol, CLIENT[version], destination, 5000, DISCARD_PORT, flags, state)


class Forwarded(Tracing):
    """All cases at once in one firewall, both families, one capture."""

    def place_cases(self, kind):
        firewall = kind(self.network)
        ruleset = firewall.ruleset
        bases = {"forward": ruleset.base("filter", "forward", "drop"), "raw": ruleset.base("raw", "prerouting")}
        self.added = {}
        for version in (4, 6):
            ruleset.add(bases["forward"], established(version), "accept")
            for case in CASES:
                self.added[case, version] = [self.add_rule(ruleset, bases, case, version, *each) for each in case.rules]
        return self.use(firewall)

    def add_rule(self, ruleset, bases, case, version, chain, action, to="", comment="", states=()):
        where = bases.get(chain) or ruleset.user("filter", f"{case.name}_{chain}")
        packet = packet_of(case, version)
        # A reset needs a match on TCP; a port in some of the matches is for the sake of their text.
        narrow = (packet.protocol, (DISCARD_PORT, DISCARD_PORT)) if action in ("drop", "reset") and case.kind != "echo" else (None, None)
        match = Match(version, *narrow, destination=packet.destination, states=states)
        if to:
            ruleset.user("filter", f"{case.name}_{to}")
            to = f"{case.name}_{to}"
        return ruleset.add(where, match, action, to, comment)

    def send_cases(self, firewalls):
        self.network.set("router", "net.netfilter.nf_conntrack_tcp_loose", 0)
        self.traffic.discard()
        ways = []
        for case in CASES:
            for version in (4, 6):
                packet = packet_of(case, version)
                self.traffic.send(packet, case.sent)
                ways.append((travel(firewalls, packet), case.sent))
        self.check_counters(firewalls, ways)
        self.check_not_in_table([packet_of(case, version) for case in CASES for version in (4, 6)
                                 if case.guilty is not None or case.name == "untracked"])

    def check_meaning(self, firewalls):
        """The evaluator finds guilty what the case says."""
        for case in CASES:
            for version in (4, 6):
                steps = travel(firewalls, packet_of(case, version))
                last = guilty(steps)
                rule = self.added[case, version][case.guilty] if isinstance(case.guilty, int) else None
                self.assertEqual(outcome(steps), case.verdict, case)
                self.assertEqual((last is None, last and last.rule), (case.guilty is None, rule), case)

    def check_cases(self, kind):
        firewalls = self.place_cases(kind)
        self.check_meaning(firewalls)
        tool = self.trace()
        self.assertRegex(tool.errors(), r"(?m)^conntracker: tracing: .*$(\n.*)*\nconntracker: capturing$")
        self.send_cases(firewalls)
        report = self.stop_traced(tool)
        for case in CASES:
            for version in (4, 6):
                with self.subTest(case=case.name, version=version):
                    flow = self.assert_flow(report, packet_of(case, version), case.sent, firewalls)
                    confirmed = case.guilty is None and case.name != "untracked"
                    self.assertEqual(flow["state"], "live" if confirmed else "unconfirmed")
        expected = {packet_of(case, version).tuple for case in CASES for version in (4, 6) if case.name not in ("accepted", "echo_accepted")}
        self.assertEqual({original_of(each) for each in report.unconfirmed() if each["original"]["src"] in CLIENT.values()}, expected)
        return report

    def test_in_iptables_legacy(self):
        self.need_legacy_tables()
        report = self.check_cases(Legacy)
        self.assertEqual(report.stats["trace"]["legacy"], "on")
        self.check_ends_of_user_chains(report)

    def test_in_iptables_nft(self):
        self.check_cases(IptablesNft)

    def test_in_nft(self):
        report = self.check_cases(Nft)
        self.assertEqual(report.stats["trace"]["rung"], "nft-owned")

    def check_ends_of_user_chains(self, report):
        """The legacy tables tell of the end of a user chain."""
        (case,) = (each for each in CASES if each.name == "after_falling_through")
        for version in (4, 6):
            path = report.by_original(UDP, packet_of(case, version).tuple)["path"]["original"]
            ends = [(step["table"], step["chain"]) for step in path if step["kind"] == "return"]
            self.assertEqual(ends, [("filter", "after_falling_through_there")])

    def test_without_e_only_flows_that_conntrack_has(self):
        firewalls = self.place_cases(Nft)
        tool = self.capture_json("-t", "--trace-rate", "100000")
        self.send_cases(firewalls)
        report = self.stop_traced(tool)
        self.assertEqual(report.unconfirmed(), [])
        self.assertEqual(report.flows(), witness.flows_in_table(self.network))
        for case in CASES:
            if case.name in ("accepted", "echo_accepted"):
                for version in (4, 6):
                    flow = report.by_original(packet_of(case, version).protocol, packet_of(case, version).tuple)
                    self.assertEqual(flow["verdict"], "accept")
                    self.assertNotIn("blame", flow)
                    # Tracing begins behind conntrack here: the chains at the priority of raw come before.
                    steps = travel(firewalls, packet_of(case, version))
                    behind = [step for step in steps if step.chain.table != "raw"]
                    self.assert_path(flow["path"]["original"], version, behind, firewalls)

    def test_without_t_nothing_is_traced(self):
        firewalls = self.place_cases(Nft)
        tool = self.capture_json()
        self.assertNotIn("conntracker: tracing:", tool.errors())
        self.send_cases(firewalls)
        report = self.stop_complete(tool).report()
        self.assertEqual(report.unconfirmed(), [])
        self.assertFalse(any({"path", "verdict", "blame", "attempts"} & set(each) for each in report.objects))

    def test_filters_hold_for_denied_flows(self):
        firewalls = self.place_cases(Nft)
        (case,) = (each for each in CASES if each.name == "two_deep")
        packet = packet_of(case, 6)
        tool = self.trace("-6", "--proto", "udp", "--net", packet.destination)
        self.send_cases(firewalls)
        report = self.stop_traced(tool)
        self.assertEqual([original_of(each) for each in report.objects], [packet.tuple])
        self.assert_flow(report, packet, case.sent, firewalls)


class Text(Tracing):
    """The lines under a flow's line."""

    LINE = re.compile(
        r"\t{4}table: (?P<table>[^,]+), chain: (?P<chain>[^,]+), type: (?P<kind>rule|policy|return)"
        r"(, position: (?P<position>\d+))?(, verdict: (?P<verdict>[^,]+))?(, rule: (?P<rule>.+))?"
    )

    def read(self, output):
        """[(line of a flow, [step])]"""
        flows = []
        for line in output.splitlines():
            if not line.startswith("\t"):
                flows.append((line, []))
                continue
            match = self.LINE.fullmatch(line)
            self.assertIsNotNone(match, line)
            flows[-1][1].append(match)
        return flows

    def check_text(self, kind):
        firewall = kind(self.network)
        ruleset = firewall.ruleset
        forward = ruleset.base("filter", "forward", "drop")
        ruleset.add(forward, established(4), "accept")
        ruleset.add(forward, Match(4, UDP, (53, 53)), "accept")
        ruleset.add(forward, Match(4, UDP, (54, 54)), "drop", comment="no 54")
        self.use(firewall)
        tool = self.capture("-t", "-e", "-4", "--proto", "udp")
        passed = self.traffic.udp(4, port=53, client_port=5000)
        dropped, by_policy = (Packet(4, UDP, CLIENT[4], SERVER[4], 5000, port) for port in (54, 55))
        for packet in (dropped, by_policy):
            self.traffic.send(packet)
        self.check_counters([firewall], [(travel([firewall], Packet(4, UDP, *passed.original)), 1), (travel([firewall], dropped), 1)])
        self.stop_complete(tool)
        shown = self.read(tool.output())
        ways = [(UDP, passed.original, ""), (UDP, dropped.tuple, " (verdict=drop, attempts=1)"),
                (UDP, by_policy.tuple, " (verdict=policy drop, attempts=1)"), (UDP, passed.reply, "")]
        self.assertEqual([line for line, _ in shown], [
            f" UDPv4 [{index:>12}] src = {way[0]} (port={way[2]}) to dst = {way[1]} (port={way[3]}) (-){tail}"
            for index, (_, way, tail) in enumerate(ways)
        ])
        table, chain = firewall.shown(4, forward)
        listed = [each for each in firewall.listed(4) if each.kind == "rule"]
        for (_, steps), position in zip(shown, (2, 3, None, 1)):
            self.check_step([each for each in steps if (each["table"], each["chain"]) == (table, chain)], position, listed)

    def check_step(self, steps, position, listed):
        """The packet met one rule of the chain, or its policy."""
        (step,) = steps
        if position is None:
            self.assertEqual((step["kind"], step["position"], step["verdict"], step["rule"]), ("policy", None, "drop", None))
            return
        rule = listed[position - 1]
        self.assertEqual((step["kind"], step["position"]), ("rule", str(position)))
        self.assertEqual(step["verdict"], "drop" if position == 3 else "accept")
        text, handle = step["rule"], None
        if rule.handle is not None:
            text, _, handle = text.rpartition(" # handle ")
            self.assertEqual(handle, str(rule.handle))
        self.assertTrue(same_text(text, rule), (step, rule))

    def test_of_iptables_legacy(self):
        self.need_legacy_tables()
        self.check_text(Legacy)

    def test_of_iptables_nft(self):
        self.check_text(IptablesNft)

    def test_of_nft(self):
        self.check_text(Nft)


class Local(Tracing):
    """The router itself is one end, or both."""

    def place_local(self, kind):
        """UDP: port 60 is dropped on the way in, port 61 on the way out; the rest passes."""
        firewall = kind(self.network)
        ruleset = firewall.ruleset
        for hook, port in (("input", 60), ("output", 61)):
            chain = ruleset.base("filter", hook)
            for version in (4, 6):
                ruleset.add(chain, established(version), "accept")
                ruleset.add(chain, Match(version, UDP, (port, port)), "drop")
                ruleset.add(chain, Match(version, UDP, (62, 62)), "accept")
        return self.use(firewall)

    def check_local(self, kind):
        firewalls = self.place_local(kind)
        tool = self.trace()
        sent = []
        for version in (4, 6):
            loopback = {4: "127.0.0.1", 6: "::1"}[version]
            sent += [
                ("client", Packet(version, UDP, CLIENT[version], ROUTER_CLIENT_SIDE[version], 5000, 60), TO_ROUTER),
                ("client", Packet(version, UDP, CLIENT[version], ROUTER_CLIENT_SIDE[version], 5000, 62), TO_ROUTER),
                ("router", Packet(version, UDP, ROUTER_CLIENT_SIDE[version], CLIENT[version], 5000, 61), FROM_ROUTER),
                ("router", Packet(version, UDP, ROUTER_CLIENT_SIDE[version], CLIENT[version], 5000, 62), FROM_ROUTER),
                ("router", Packet(version, UDP, loopback, loopback, 5000, 60), FROM_ROUTER + TO_ROUTER),
                ("router", Packet(version, UDP, loopback, loopback, 5000, 61), FROM_ROUTER + TO_ROUTER),
                ("router", Packet(version, UDP, loopback, loopback, 5000, 62), FROM_ROUTER + TO_ROUTER),
            ]
        for side, packet, _ in sent:
            self.traffic.send(packet, 2, side)
        self.check_counters(firewalls, [(travel(firewalls, packet, hooks), 2) for _, packet, hooks in sent])
        report = self.stop_traced(tool)
        for side, packet, hooks in sent:
            with self.subTest(side=side, packet=packet):
                self.assert_flow(report, packet, 2, firewalls, hooks)

    def test_in_iptables_legacy(self):
        self.need_legacy_tables()
        self.check_local(Legacy)

    def test_in_iptables_nft(self):
        self.check_local(IptablesNft)

    def test_in_nft(self):
        self.check_local(Nft)


class Directions(Tracing):
    """The reply has a path of its own."""

    def check_replies(self, kind):
        firewall = kind(self.network)
        ruleset = firewall.ruleset
        forward = ruleset.base("filter", "forward", "drop")
        rules = {}
        for version in (4, 6):
            rules[version] = [
                ruleset.add(forward, established(version), "accept"),
                ruleset.add(forward, Match(version, UDP, (53, 53)), "accept"),
                ruleset.add(forward, Match(version, TCP, (80, 80)), "accept"),
            ]
        firewalls = self.use(firewall)
        tool = self.trace()
        flows = [(version, index, self.made(version, index)) for version in (4, 6) for index in (1, 2)]
        report = self.stop_traced(tool)
        for version, index, flow in flows:
            with self.subTest(flow=flow):
                reported = report.of(flow)
                self.assertEqual((reported["verdict"], reported["state"]), ("accept", "live"))
                there = Packet(version, flow.protocol, *flow.original)
                back = Packet(version, flow.protocol, *flow.reply, state="established")
                for direction, packet, rule in (("original", there, rules[version][index]), ("reply", back, rules[version][0])):
                    steps = travel(firewalls, packet)
                    self.assertEqual([step.rule for step in steps], [rule])
                    self.assert_path(reported["path"][direction], version, steps, firewalls)

    def made(self, version, index):
        return self.traffic.udp(version) if index == 1 else self.traffic.tcp(version).flow

    def test_in_iptables_legacy(self):
        self.need_legacy_tables()
        self.check_replies(Legacy)

    def test_in_iptables_nft(self):
        self.check_replies(IptablesNft)

    def test_in_nft(self):
        self.check_replies(Nft)

    def test_input_drops_what_an_accepted_flow_sends_on(self):
        """A flow that conntrack has, whose later packets are denied: it stays confirmed, and the denial is told."""
        self.network.activate()
        tool = self.trace()
        flow = self.traffic.udp(4, port=53, client_port=5000)
        self.network.nft("table inet late { chain forward { type filter hook forward priority 10; ip saddr 10.77.1.2 counter drop; }; }")
        packet = Packet(4, UDP, *flow.original)
        self.traffic.send(packet, 2)
        rule = wait_for(self.counted_twice, "the rule to count")
        report = self.stop_traced(tool)
        reported = report.of(flow)
        self.assertEqual(reported["state"], "live")
        self.assertEqual((reported["verdict"], reported["blame"]["chain"], reported["blame"]["handle"]), ("drop", rule.chain, rule.handle))

    def counted_twice(self):
        return next((each for each in nft_rules(self.network) if each.table == "inet late" and each.packets == 2), None)


class Rejections(Tracing):
    """What the rule answered did reach the client, as the report says."""

    def check_rejections(self, kind):
        firewall = kind(self.network)
        forward = firewall.ruleset.base("filter", "forward")
        for version in (4, 6):
            firewall.ruleset.add(forward, Match(version, TCP, (60, 60)), "reset")
            firewall.ruleset.add(forward, Match(version, UDP, (61, 61)), "reject")
        firewalls = self.use(firewall)
        tool = self.trace()
        asked = [Packet(version, protocol, *self.traffic.refused(version, protocol, port))
                 for version in (4, 6) for protocol, port in ((TCP, 60), (UDP, 61))]
        self.check_counters(firewalls, [(travel(firewalls, packet), 1) for packet in asked])
        report = self.stop_traced(tool)
        for packet in asked:
            with self.subTest(packet=packet):
                self.assertEqual(self.assert_flow(report, packet, 1, firewalls)["verdict"], "reject")

    def test_in_iptables_legacy(self):
        self.need_legacy_tables()
        self.check_rejections(Legacy)

    def test_in_iptables_nft(self):
        self.check_rejections(IptablesNft)

    def test_in_nft(self):
        self.check_rejections(Nft)


class Quirks(Tracing):
    """What the kernel's own trace of the legacy tables calls by another name."""

    def test_a_last_rule_without_match_is_no_policy(self):
        self.need_legacy_tables()
        for version, command in ((4, "iptables-legacy"), (6, "ip6tables-legacy")):
            self.network.run("router", f"{command}-restore", text=(
                "*filter\n:FORWARD ACCEPT [0:0]\n:INPUT DROP [0:0]\n:INNER - [0:0]\n"
                "-A FORWARD -p udp -m udp --dport 60 -j INNER\n-A FORWARD -p udp -m udp --dport 61 -j ACCEPT\n-A FORWARD -j DROP\n"
                "-A INNER -p tcp -j ACCEPT\n-A INNER -j DROP\nCOMMIT\n"
            ))
        tool = self.trace()
        expected = []
        for version in (4, 6):
            inner, last = (Packet(version, UDP, CLIENT[version], SERVER[version], 5000, port) for port in (60, 62))
            policy = Packet(version, UDP, CLIENT[version], ROUTER_CLIENT_SIDE[version], 5000, 60)
            expected += [(inner, "drop", ("INNER", "rule", 2), "-A INNER -j DROP"), (last, "drop", ("FORWARD", "rule", 3), "-A FORWARD -j DROP"),
                         (policy, "policy drop", ("INPUT", "policy", None), "")]
        for packet, *_ in expected:
            self.traffic.send(packet, 2)
        for version in (4, 6):
            wait_for(lambda: self.counted(version) == {"-A INNER -j DROP": 2, "-A FORWARD -j DROP": 2}, lambda: self.counted(version))
        report = self.stop_traced(tool)
        for packet, verdict, place, text in expected:
            with self.subTest(packet=packet):
                flow = report.by_original(UDP, packet.tuple)
                blame = flow["blame"]
                self.assertEqual(flow["verdict"], verdict)
                self.assertEqual((blame["chain"], blame["kind"], blame.get("position")), place)
                self.assertEqual(blame.get("rule", ""), text)
                last = flow["path"]["original"][-1]
                self.assertEqual((last["chain"], last["kind"], last.get("position")), place)

    def counted(self, version):
        return {each.texts[0]: each.packets for each in Legacy(self.network).listed(version) if each.texts[0].endswith("-j DROP")}

    def test_a_user_chain_that_ends_in_return(self):
        """An unconditional RETURN at the end of a user chain is a rule, too."""
        self.need_legacy_tables()
        self.network.run("router", "iptables-legacy-restore", text=(
            "*filter\n:FORWARD ACCEPT [0:0]\n:INNER - [0:0]\n-A FORWARD -p udp -j INNER\n-A FORWARD -p udp -m udp --dport 60 -j DROP\n"
            "-A INNER -j RETURN\nCOMMIT\n"
        ))
        tool = self.trace()
        packet = Packet(4, UDP, CLIENT[4], SERVER[4], 5000, 60)
        self.traffic.send(packet, 2)
        wait_for(lambda: self.counted(4) == {"-A FORWARD -p udp -m udp --dport 60 -j DROP": 2}, lambda: self.counted(4))
        flow = self.stop_traced(tool).by_original(UDP, packet.tuple)
        steps = [(step["chain"], step["kind"], step.get("position")) for step in flow["path"]["original"] if step["table"] == "filter"]
        self.assertEqual(steps, [("FORWARD", "rule", 1), ("INNER", "rule", 1), ("FORWARD", "rule", 2)])


class Mixtures(Tracing):
    """More than one firewall at work: the way is told in the order of travel over all of them."""

    def chain_with(self, firewall, priority, *rules):
        forward = firewall.ruleset.base("filter", "forward", priority=priority)
        for version in (4, 6):
            for port, action in rules:
                firewall.ruleset.add(forward, Match(version, UDP, (port, port)), action)
        return firewall

    def check_mixture(self, *firewalls):
        self.need_legacy_tables()
        self.use(*firewalls)
        tool = self.trace()
        self.traffic.discard()
        packets = [Packet(version, UDP, CLIENT[version], SERVER[version], 5000, port) for version in (4, 6) for port in (9, 60, 61, 62)]
        for packet in packets:
            self.traffic.send(packet, 2)
        self.check_counters(firewalls, [(travel(firewalls, packet), 2) for packet in packets])
        report = self.stop_traced(tool)
        for packet in packets:
            with self.subTest(packet=packet):
                flow = self.assert_flow(report, packet, 2, firewalls)
                met = [step["firewall"] for step in flow["path"]["original"] if step["kind"] == "rule"]
                self.assertEqual(sorted(met), sorted(step.firewall.name for step in travel(firewalls, packet) if step.rule))
        return report, packets

    def test_nft_after_legacy(self):
        """Port 60: legacy accepts, nft drops. Port 61: legacy drops."""
        legacy = self.chain_with(Legacy(self.network), 0, (9, "accept"), (60, "accept"), (61, "drop"))
        nft = self.chain_with(Nft(self.network), 10, (9, "accept"), (60, "drop"), (61, "drop"))
        self.check_mixture(legacy, nft)

    def test_nft_before_legacy(self):
        """Port 60: nft accepts, legacy drops. Port 61: nft drops."""
        nft = self.chain_with(Nft(self.network), -10, (9, "accept"), (60, "accept"), (61, "drop"))
        legacy = self.chain_with(Legacy(self.network), 0, (9, "accept"), (60, "drop"), (61, "accept"))
        self.check_mixture(nft, legacy)

    def test_all_three(self):
        """The tables of both iptables have one priority: the kernel asks the one that came last first."""
        early = self.chain_with(Nft(self.network), -10, (9, "accept"), (60, "accept"), (61, "count"), (62, "drop"))
        legacy = self.chain_with(Legacy(self.network), 0, (9, "accept"), (60, "drop"), (61, "reject"))
        late = self.chain_with(IptablesNft(self.network), 0, (9, "accept"), (60, "accept"), (61, "accept"))
        self.need_legacy_tables()
        self.use(legacy, late)
        self.check_mixture(early, late, legacy)


class Older(Tracing):
    def test_what_was_settled_before_the_start_is_let_go(self):
        """A connection that both ends have acknowledged costs nothing; one that nobody has answered is still traced."""
        firewall = Nft(self.network)
        forward = firewall.ruleset.base("filter", "forward")
        firewall.ruleset.add(forward, established(4), "accept")
        self.use(firewall)
        connection = self.traffic.tcp(4)
        tool = self.trace()
        connection.close()
        reported = self.stop_traced(tool).of(connection.flow)
        self.assertEqual(reported["status"][:3], ["seen_reply", "assured", "confirmed"])
        self.assertNotIn("path", reported)
        self.assertNotIn("verdict", reported)
