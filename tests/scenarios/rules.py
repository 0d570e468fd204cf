"""Rules without any firewall's syntax, and a small evaluator: which of them a packet meets, and what becomes of it.

The evaluator is the tests' own idea of netfilter. Before a report is compared with it, the counters of the real rules are.
"""

import collections
import dataclasses
import ipaddress

from report import ECHO, ICMP, ICMPV6, TCP, UDP

HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
FORWARDED = ("prerouting", "forward", "postrouting")
TO_ROUTER = ("prerouting", "input")
FROM_ROUTER = ("output", "postrouting")
PRIORITIES = {"raw": -300, "mangle": -150, "nat": -100, "filter": 0}
SOURCE_NAT_PRIORITY = 100
DENIALS = ("drop", "reject", "reset")
# What a step with this action decides, as the report calls it.
VERDICTS = {
    "accept": "accept", "drop": "drop", "reject": "reject", "reset": "reject", "jump": "jump", "goto": "goto", "return": "return",
    "count": "continue", "notrack": "continue", "dnat": "accept", "snat": "accept", "masquerade": "accept", "redirect": "accept",
}


@dataclasses.dataclass(frozen=True)
class Packet:
    """The first packet of a flow. `dport` of an echo is its id."""

    version: int
    protocol: int
    source: str
    destination: str
    sport: int = 0
    dport: int = 0
    flags: str = "S"
    state: str = "new"

    @property
    def tuple(self):
        """As report.Flow.original."""
        if self.protocol in ECHO:
            return (self.source, self.destination, 8 if self.version == 4 else 128, 0, self.dport)
        return (self.source, self.destination, self.sport, self.dport)


@dataclasses.dataclass(frozen=True)
class Match:
    version: int
    protocol: int | None = None
    dports: tuple | None = None
    source: str | None = None
    destination: str | None = None
    states: tuple = ()

    def fits(self, packet):
        return (
            self.version == packet.version
            and self.protocol in (None, packet.protocol)
            and (self.dports is None or self.dports[0] <= packet.dport <= self.dports[1])
            and _within(packet.source, self.source)
            and _within(packet.destination, self.destination)
            and (not self.states or packet.state in self.states)
        )


def _within(address, network):
    return network is None or ipaddress.ip_address(address) in ipaddress.ip_network(network)


@dataclasses.dataclass(frozen=True, eq=False)
class Rule:
    """`to`: the chain of a jump or goto, the address and port of a translation."""

    match: Match
    action: str
    to: str = ""
    comment: str = ""


@dataclasses.dataclass(eq=False)
class Chain:
    """A base chain has a hook and a policy; a user chain has neither."""

    name: str
    table: str
    hook: str | None = None
    policy: str = "accept"
    priority: int = 0
    rules: list = dataclasses.field(default_factory=list)


class Ruleset:
    """What one firewall has. The rules of both families stand in the same chains here."""

    def __init__(self):
        self.chains = {}

    def base(self, table, hook, policy="accept", priority=None):
        """`priority` is for nft only: the tables of iptables have theirs."""
        if priority is None:
            late = table == "nat" and hook in ("input", "postrouting")
            priority = SOURCE_NAT_PRIORITY if late else PRIORITIES[table]
        return self._chain(f"{table}_{hook}", table, hook, policy, priority)

    def user(self, table, name):
        return self._chain(name, table, None, "accept", 0)

    def _chain(self, name, *content):
        return self.chains.setdefault(name, Chain(name, *content))

    def add(self, chain, match, action, to="", comment=""):
        rule = Rule(match, action, to, comment)
        chain.rules.append(rule)
        return rule


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the way. `rule` is None for the policy and for the end of a user chain."""

    firewall: object
    chain: Chain
    kind: str
    rule: Rule | None = None

    @property
    def verdict(self):
        if self.kind == "return":
            return "return"
        return VERDICTS[self.rule.action if self.rule else self.chain.policy]

    @property
    def denies(self):
        action = self.rule.action if self.kind == "rule" else self.chain.policy
        return self.kind != "return" and action in DENIALS


def travel(firewalls, packet, hooks=FORWARDED):
    """The steps of a packet through all firewalls. At equal priorities the earlier in `firewalls` has its turn first."""
    steps = []
    for hook in hooks:
        bases = [(chain.priority, place, firewall, chain) for place, firewall in enumerate(firewalls)
                 for chain in firewall.ruleset.chains.values() if chain.hook == hook]
        for _, _, firewall, chain in sorted(bases, key=lambda each: each[:2]):
            denied, packet = _walk(steps, firewall, chain, packet)
            if denied:
                return steps
    return steps


def _walk(steps, firewall, chain, packet):
    """Through one base chain: whether the packet was denied there, and how it goes on."""
    base, stack, index = chain, [], 0
    while True:
        if index == len(chain.rules):
            if chain is base:
                break
            steps.append(Step(firewall, chain, "return"))
            if not stack:
                break
            chain, index = stack.pop()
            continue
        rule = chain.rules[index]
        index += 1
        if not rule.match.fits(packet):
            continue
        steps.append(Step(firewall, chain, "rule", rule))
        packet = _changed(packet, rule)
        if rule.action in ("jump", "goto"):
            if rule.action == "jump":
                stack.append((chain, index))
            chain, index = firewall.ruleset.chains[rule.to], 0
        elif rule.action == "return" and stack:
            chain, index = stack.pop()
        elif rule.action == "return":
            break
        elif rule.action not in ("count", "notrack"):
            return steps[-1].denies, packet
    steps.append(Step(firewall, base, "policy"))
    return steps[-1].denies, packet


def _changed(packet, rule):
    if rule.action == "notrack":
        return dataclasses.replace(packet, state="untracked")
    if rule.action == "dnat":
        address, port = address_and_port(rule.to)
        return dataclasses.replace(packet, destination=address, dport=port)
    if rule.action == "redirect":
        return dataclasses.replace(packet, dport=int(rule.to))
    return packet


def address_and_port(text):
    address, _, port = text.rpartition(":")
    return address.strip("[]"), int(port)


def guilty(steps):
    """The step that denied the packet, or None."""
    return steps[-1] if steps and steps[-1].denies else None


def outcome(steps):
    """The verdict of the flow, as the report calls it."""
    last = guilty(steps)
    if last is None:
        return "accept"
    return "policy drop" if last.kind == "policy" else last.verdict


def hits(ways):
    """How often each rule was met: [(steps, packets)] -> {(firewall, rule): packets}."""
    counted = collections.Counter()
    for steps, packets in ways:
        for step in steps:
            if step.kind == "rule":
                counted[step.firewall, step.rule] += packets
    return counted


def established(version):
    return Match(version, states=("established", "related"))


def protocol_name(protocol):
    return {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMPV6: "ipv6-icmp"}[protocol]
