"""Translated flows: the way leads through the nat tables, and a denied flow is still named by what its client asked for."""

import dataclasses

import witness
from firewalls import IptablesNft, Legacy, Nft
from network import CLIENT, ROUTER_CLIENT_SIDE, ROUTER_SERVER_SIDE, SERVER
from report import UDP
from rules import FORWARDED, TO_ROUTER, Match, Packet, established, travel
from tracing import Tracing, chain_of, chains_in_order

TWICE = 2


@dataclasses.dataclass(frozen=True)
class Asked:
    """A packet to this port of the router or the server."""

    port: int
    to_router: bool
    hooks: tuple
    verdict: str


FLOWS = (
    Asked(8053, True, FORWARDED, "accept"),      # to the server's port 53, masqueraded
    Asked(8054, True, FORWARDED, "drop"),        # to the server's port 54, which forward drops
    Asked(8055, True, FORWARDED, "reject"),
    Asked(8056, True, TO_ROUTER, "accept"),      # to the router's own port 56
    Asked(8057, True, TO_ROUTER, "drop"),        # to the router's own port 57, which input drops
    Asked(58, False, FORWARDED, "accept"),       # with the source's address changed
    Asked(59, False, FORWARDED, "policy drop"),  # denied before its source would have been changed
)


class Translated(Tracing):
    def place_rules(self, kind):
        firewall = kind(self.network)
        ruleset = firewall.ruleset
        arriving, leaving = ruleset.base("nat", "prerouting"), ruleset.base("nat", "postrouting")
        forward, entering = ruleset.base("filter", "forward", "drop"), ruleset.base("filter", "input")
        for version in (4, 6):
            server, router = SERVER[version], ROUTER_SERVER_SIDE[version]
            shown = server if version == 4 else f"[{server}]"

            def on(port, version=version):
                return Match(version, UDP, (port, port))

            ruleset.add(forward, established(version), "accept")
            for port in (53, 54, 55):
                ruleset.add(arriving, on(8000 + port), "dnat", f"{shown}:{port}")
            for port in (56, 57):
                ruleset.add(arriving, on(8000 + port), "redirect", str(port))
            for port, action in ((53, "accept"), (54, "drop"), (55, "reject"), (58, "accept")):
                ruleset.add(forward, on(port), action)
            ruleset.add(entering, on(57), "drop")
            ruleset.add(leaving, on(53), "masquerade")
            ruleset.add(leaving, Match(version, UDP, (58, 59)), "snat", router)
        return self.use(firewall)

    def packet_of(self, version, asked):
        to = (ROUTER_CLIENT_SIDE if asked.to_router else SERVER)[version]
        return Packet(version, UDP, CLIENT[version], to, 5000, asked.port)

    def check_nat(self, kind):
        # Nobody listens; what the ends would answer must not reach the rules.
        silent = "table inet silent { chain sent { type filter hook output priority 0; meta l4proto { icmp, ipv6-icmp } drop; }; }"
        self.network.nft(silent, "server")
        firewalls = self.place_rules(kind)
        tool = self.trace()
        sent = [(self.packet_of(version, asked), asked) for version in (4, 6) for asked in FLOWS]
        for packet, _ in sent:
            self.traffic.send(packet, TWICE)
        # Only the first packet of a flow passes the nat tables, and again that of a flow that was never confirmed.
        ways = [(self.counted_steps(firewalls, packet, asked), TWICE) for packet, asked in sent]
        ways += [(self.steps_in_nat(firewalls, packet, asked), 1 if asked.verdict == "accept" else TWICE) for packet, asked in sent]
        self.check_counters(firewalls, ways)
        self.check_translations()
        report = self.stop_traced(tool)
        for packet, asked in sent:
            with self.subTest(packet=packet):
                flow = self.assert_flow(report, packet, TWICE, firewalls, asked.hooks)
                self.assertEqual(flow["verdict"], asked.verdict)
                if asked.port in (8054, 8055):  # denied behind the translation of their destination
                    self.assertEqual((flow["reply"]["src"], flow["reply"]["sport"]), (SERVER[packet.version], asked.port - 8000), flow)
                if asked.verdict == "accept" and asked.hooks == FORWARDED:
                    self.assert_order(flow["path"]["original"], firewalls[0], packet.version)

    def counted_steps(self, firewalls, packet, asked):
        return [step for step in travel(firewalls, packet, asked.hooks) if step.chain.table != "nat"]

    def steps_in_nat(self, firewalls, packet, asked):
        return [step for step in travel(firewalls, packet, asked.hooks) if step.chain.table == "nat"]

    def check_translations(self):
        """The table has the three accepted flows of each family, translated as meant."""
        found = {(entry.flow.original[3], entry.flow.reply[0], entry.flow.reply[1]) for entry in witness.listed(self.network)
                 if entry.flow.original[0] in CLIENT.values()}
        expected = set()
        for version in (4, 6):
            expected |= {
                (8053, SERVER[version], ROUTER_SERVER_SIDE[version]), (58, SERVER[version], ROUTER_SERVER_SIDE[version]),
                (8056, ROUTER_CLIENT_SIDE[version], CLIENT[version]),
            }
        self.assertEqual(found, expected)

    def assert_order(self, path, firewall, version):
        """First nat where it arrives, then the filter, then nat where it leaves."""
        chains = [firewall.ruleset.chains[name] for name in ("nat_prerouting", "filter_forward", "nat_postrouting")]
        wanted = [(firewall.name, *firewall.shown(version, chain)) for chain in chains]
        self.assertEqual([each for each in chains_in_order(path) if each in wanted], wanted, path)
        self.assertEqual(len({chain_of(step) for step in path if chain_of(step) in wanted}), len(wanted))

    def test_in_iptables_legacy(self):
        self.need_legacy_tables()
        self.check_nat(Legacy)

    def test_in_iptables_nft(self):
        self.check_nat(IptablesNft)

    def test_in_nft(self):
        self.check_nat(Nft)
