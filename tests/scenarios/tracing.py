"""What the scenarios of -t, -e and blame have in common: a report compared with what the firewalls list, and with their counters."""

import re

import witness
from firewalls import same_text
from report import FIREWALLS
from rules import FORWARDED, guilty, hits, outcome, travel
from scenario import Scenario
from waiting import wait_for

EVERYTHING = ("-t", "-e", "--trace-rate", "100000")
OWN_NAMES = ("conntracker", "CONNTRACKER")
BUILT_IN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
# What a reject without further words answers.
PORT_UNREACHABLE = re.compile(r"icmp(v6|6|x)? port-unreachable")


class Tracing(Scenario):
    def setUp(self):
        super().setUp()
        self._listings = {}

    def trace(self, *options, **popen):
        return self.capture_json(*EVERYTHING, *options, **popen)

    def stop_traced(self, tool):
        """End it; nothing was lost and nothing left out."""
        report = self.stop_complete(tool).report()
        trace = report.stats["trace"]
        self.assertEqual((trace["lost"], trace["untraced"]), (0, 0), trace)
        return report

    def use(self, *firewalls):
        """Put the rules in, in this order."""
        self._listings.clear()
        for firewall in firewalls:
            firewall.place()
        return list(firewalls)

    def listing(self, firewall, version):
        """What the firewall lists, read once after its rules were put in; its counts may be older than the packets."""
        if (firewall, version) not in self._listings:
            self._listings[firewall, version] = firewall.listed(version)
        return self._listings[firewall, version]

    # What really happened

    def check_counters(self, firewalls, ways):
        """The rules counted what the evaluator says: `ways` as for rules.hits(). Rules for replies are not looked at."""
        expected = hits(ways)
        for firewall in firewalls:
            for version in (4, 6):
                wanted = {rule: expected[firewall, rule] for rule in firewall.counters(version)
                          if "established" not in rule.match.states and rule.match.version == version}
                self._wait_for_counters(firewall, version, wanted)

    def _wait_for_counters(self, firewall, version, wanted):
        def counted():
            return {rule: packets for rule, packets in firewall.counters(version).items() if rule in wanted}

        def difference():
            now = counted()
            return [(rule, {"expected": wanted[rule], "counted": now[rule]}) for rule in wanted if wanted[rule] != now[rule]]

        wait_for(lambda: counted() == wanted, lambda: f"the counters of {firewall.name} IPv{version}: {difference()}")

    def check_not_in_table(self, packets):
        """Conntrack knows none of these flows."""
        known = {entry.flow.original for entry in witness.listed(self.network)}
        self.assertEqual(known & {packet.tuple for packet in packets}, set())

    # What the report says

    def assert_flow(self, report, packet, sent, firewalls, hooks=FORWARDED):
        """Verdict, blame, attempts and path of the flow that this packet began."""
        steps = travel(firewalls, packet, hooks)
        flow = report.by_original(packet.protocol, packet.tuple)
        self.assertEqual(flow["verdict"], outcome(steps), flow)
        last = guilty(steps)
        if last is None:
            self.assertNotIn("blame", flow)
            self.assertNotIn("reject_with", flow)
        else:
            self.assert_denied(flow, sent, confirmed=last.chain.hook == "input" and "postrouting" in hooks)
            self.assert_blamed(flow["blame"], self.listed_step(packet.version, last))
            self.assert_reject(flow, last)
        self.assert_path(flow["path"]["original"], packet.version, steps, firewalls)
        return flow

    def assert_denied(self, flow, sent, confirmed=False):
        """What a host sends to itself is confirmed when it leaves, before it arrives."""
        self.assertEqual(flow["state"], "live" if confirmed else "unconfirmed", flow)
        self.assertTrue(min(sent, 2) <= flow["attempts"] <= sent, flow)
        if flow["verdict"] != "reject":  # the answer of a reject may count as one of this flow
            self.assertNotIn("reply", flow["path"])

    def listed_step(self, version, step):
        """The line of the firewall's own listing that a step means."""
        return step.firewall.find(self.listing(step.firewall, version), version, step)

    def assert_blamed(self, blame, listed):
        self.assertEqual(names_of(blame), listed.names())
        if listed.kind == "rule":
            self.assertTrue(same_text(blame["rule"], listed), (blame, listed))
            self.assertEqual(blame.get("comment", ""), listed.comment)
        self.assertEqual("generation" in blame, listed.firewall != "iptables-legacy", blame)

    def assert_reject(self, flow, step):
        if step.rule is None or step.rule.action == "drop":
            self.assertNotIn("reject_with", flow)
        elif step.rule.action == "reset":
            self.assertEqual(flow["reject_with"], "tcp reset")
        else:
            self.assertRegex(flow["reject_with"], f"^{PORT_UNREACHABLE.pattern}$")

    def assert_path(self, reported, version, steps, firewalls):
        """The steps in our own chains are these and no others, in this order; what else there is, is an empty built-in chain.

        The end of a user chain is compared where it is reported: nf_tables does not tell of each."""
        expected = [(self.listed_step(version, step), step.verdict) for step in steps if step.kind != "return"]
        ours = {(firewall.name, *firewall.shown(version, chain)) for firewall in firewalls for chain in firewall.ruleset.chains.values()}
        mine = [step for step in reported if chain_of(step) in ours and step["kind"] != "return"]
        wanted = [listed.names() for listed, _ in expected]
        sizes = station_sizes([step for step in steps if step.kind != "return"])
        self.assertEqual(legacy_last([names_of(step) for step in mine], sizes), legacy_last(wanted, sizes), reported)
        if guilty(steps) is not None:
            self.assertEqual(names_of(mine[-1]), wanted[-1], reported)
        listings = {listed.names(): (listed, verdict) for listed, verdict in expected}
        for step in mine:
            listed, verdict = listings[names_of(step)]
            if step["kind"] == "rule":
                self.assertTrue(same_text(step["rule"], listed), (step, listed))
            self.assertEqual(step.get("verdict", verdict), verdict, step)
        self.assert_only_empty_chains([step for step in reported if chain_of(step) not in ours])

    def assert_only_empty_chains(self, steps):
        for step in steps:
            self.assertFalse(any(name in step["table"] or name in step["chain"] for name in OWN_NAMES), f"a rule of the tool itself: {step}")
            self.assertEqual((step["kind"], step["chain"] in BUILT_IN, step.get("verdict", "accept")), ("policy", True, "accept"), step)


def station_sizes(steps):
    """How many steps in a row were at one hook and priority. A chain that was jumped to is where its caller is."""
    sizes, last = [], None
    for step in steps:
        station = (step.chain.hook, step.chain.priority) if step.chain.hook else last
        if station != last:
            sizes.append(0)
        sizes[-1] += 1
        last = station
    return sizes


def legacy_last(names, sizes):
    """The same steps with those of the legacy tables last at each hook and priority: nobody tells which firewall comes first
    there, so the order of both is compared apart."""
    ordered = []
    for size in sizes:
        part, names = names[:size], names[size:]
        ordered += sorted(part, key=lambda each: each[0] == "iptables-legacy")
    return ordered + names


def names_of(step):
    """As firewalls.Listed.names()."""
    assert step["firewall"] in FIREWALLS
    position = step.get("position") if step["kind"] == "rule" else None
    return (step["firewall"], step["table"], step["chain"], step["kind"], position, step.get("handle") if step["kind"] == "rule" else None)


def chain_of(step):
    return (step["firewall"], step["table"], step["chain"])


def chains_in_order(steps):
    """The (firewall, table, chain) that a path goes through, each time it enters one."""
    found = []
    for step in steps:
        if not found or found[-1] != chain_of(step):
            found.append(chain_of(step))
    return found
