"""Rules and flows of chance, over three firewalls at once: every verdict and every blamed rule is what the counters say."""

import collections
import ipaddress
import os
import random

from firewalls import IptablesNft, Legacy, Nft
from report import TCP, UDP
from rules import Match, Packet, guilty, outcome, travel
from tracing import Tracing, names_of

RULES = 200
FLOWS = 500
BATCH = 50
SEED = "CONNTRACKER_SEED"
HOSTS = 40


class Chance(Tracing):
    def setUp(self):
        super().setUp()
        self.need_legacy_tables()
        self.seed = int(os.environ.get(SEED) or random.SystemRandom().randrange(10**9))
        print(f"     trace_random: {SEED}={self.seed}", flush=True)
        self.chance = random.Random(self.seed)
        # A reset that finds nobody makes the router tell so, and with that packet conntrack confirms the denied flow.
        for host in range(2, 2 + HOSTS):
            for address in (f"10.77.1.{host}", f"fd77:1::{host:x}"):
                self.network.run("router", "ip", "neigh", "replace", address, "lladdr", "02:77:01:00:00:02", "dev", "rc", "nud", "permanent")
        # What arrives is not answered.
        for side in ("client", "server"):
            self.network.nft("table inet silent { chain arrived { type filter hook input priority 0; policy drop; }; }", side)

    def address(self, version, side):
        host = self.chance.randrange(2, 2 + HOSTS)
        if side == "source":
            return f"10.77.1.{host}" if version == 4 else f"fd77:1::{host:x}"
        return f"10.88.0.{host}" if version == 4 else f"fd88::{host:x}"

    def network_of(self, version):
        """A part of the client's network, of a size of chance."""
        address = self.address(version, "source")
        bits = self.chance.choice((27, 28, 30, 32)) if version == 4 else self.chance.choice((123, 124, 126, 128))
        return str(ipaddress.ip_network(f"{address}/{bits}", strict=False))

    def match(self):
        version = self.chance.choice((4, 6))
        protocol = self.chance.choice((UDP, UDP, TCP))
        dports = None
        if self.chance.random() < 0.8:
            low = self.chance.randrange(1, 250)
            dports = (low, min(255, low + self.chance.choice((0, 1, 5, 20))))
        source = self.network_of(version) if dports is None or self.chance.random() < 0.4 else None
        return Match(version, protocol, dports, source)

    def add_rule(self, ruleset, chains, users):
        """Into a chain of chance. User chains jump only to later ones, so no packet goes round in a circle."""
        chain = self.chance.choice(chains + users)
        later = users[users.index(chain) + 1:] if chain in users else users
        later = [each for each in later if each.table == chain.table]
        actions = ["accept", "drop", "drop", "count", "return"]
        if chain.table == "filter":
            actions += ["reject", "reset"]
        if later:
            actions += ["jump", "jump", "goto"]
        match, action = self.match(), self.chance.choice(actions)
        if action == "reset":
            match = Match(match.version, TCP, match.dports, match.source)
        to = self.chance.choice(later).name if action in ("jump", "goto") else ""
        ruleset.add(chain, match, action, to, comment=f"rule {self.chance.randrange(1000)}" if self.chance.random() < 0.2 else "")

    def make_rules(self):
        firewalls = []
        for kind, late in ((IptablesNft, 0), (Legacy, 0), (Nft, 10)):
            firewall = kind(self.network)
            ruleset = firewall.ruleset
            chains = [ruleset.base("filter", "forward", priority=late)] * 3 + [ruleset.base("raw", "prerouting", priority=late - 300)]
            users = [ruleset.user("filter", name) for name in ("first", "second", "third")]
            for _ in range(RULES // 3 + (kind is Nft) * (RULES % 3)):
                self.add_rule(ruleset, chains, users)
            firewalls.append(firewall)
        # Of equal priorities the last that came has its turn first.
        self.use(firewalls[1], firewalls[0], firewalls[2])
        return firewalls

    def make_flows(self):
        flows = {}
        while len(flows) < FLOWS:
            version, protocol = self.chance.choice((4, 6)), self.chance.choice((UDP, UDP, UDP, TCP))
            source, destination = self.address(version, "source"), self.address(version, "destination")
            packet = Packet(version, protocol, source, destination, self.chance.randrange(1024, 60000), self.chance.randrange(1, 256))
            flows[protocol, packet.tuple] = packet
        return list(flows.values())

    def test_two_hundred_rules_five_hundred_flows(self):
        firewalls = self.make_rules()
        self.assertEqual(sum(len(chain.rules) for each in firewalls for chain in each.ruleset.chains.values()), RULES)
        flows = self.make_flows()
        ways = {packet: travel(firewalls, packet) for packet in flows}
        tool = self.trace()
        for first in range(0, FLOWS, BATCH):
            for packet in flows[first:first + BATCH]:
                self.traffic.send(packet)
            self.check_counters(firewalls, [(ways[packet], 1) for packet in flows[:first + BATCH]])
        denied = [packet for packet in flows if guilty(ways[packet])]
        self.assertTrue(FLOWS / 10 < len(denied) < FLOWS, f"seed {self.seed}: {len(denied)} of {FLOWS} flows denied")
        self.check_not_in_table(denied)
        report = self.stop_traced(tool)
        for packet in flows:
            with self.subTest(seed=self.seed, packet=packet):
                self.assertEqual(report.by_original(packet.protocol, packet.tuple)["verdict"], outcome(ways[packet]))
                self.assert_flow(report, packet, 1, firewalls)
        self.check_totals(report, ways, firewalls)

    def check_totals(self, report, ways, firewalls):
        """For each denying rule: as many flows are laid to its charge as it counted packets."""
        blamed = collections.Counter((int(each["family"][-1]), names_of(each["blame"])) for each in report.objects if "blame" in each)
        guilty_rules = {(packet.version, guilty(steps)) for packet, steps in ways.items() if guilty(steps)}
        counted = {}
        for firewall in firewalls:
            for version in (4, 6):
                listing, counters = firewall.listed(version), firewall.counters(version)
                for of_version, step in guilty_rules:
                    if (of_version, step.firewall) == (version, firewall):
                        counted[version, firewall.find(listing, version, step).names()] = counters[step.rule]
        self.assertEqual(blamed, counted)
