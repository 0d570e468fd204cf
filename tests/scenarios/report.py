"""Flows as the tests speak of them, the tool's JSON Lines read strictly, and the text report computed from flows."""

import dataclasses
import datetime
import ipaddress
import json
import re

ICMP, TCP, UDP, GRE, ESP, ICMPV6, SCTP, UDPLITE = 1, 6, 17, 47, 50, 58, 132, 136
PROTOCOL_NAMES = {
    ICMP: "icmp", 2: "igmp", TCP: "tcp", UDP: "udp", 33: "dccp", GRE: "gre", ESP: "esp", 51: "ah",
    ICMPV6: "icmpv6", SCTP: "sctp", UDPLITE: "udplite",
}
WITH_PORTS = (TCP, UDP, 33, GRE, SCTP, UDPLITE)
ECHO = (ICMP, ICMPV6)
FIRST_SECTIONS = (("ipv4", TCP), ("ipv4", UDP), ("ipv4", ICMP), ("ipv6", TCP), ("ipv6", UDP), ("ipv6", ICMPV6))

FLOW_KEYS = {
    "v", "type", "event", "family", "proto", "proto_number", "original", "reply", "id", "mark", "zone", "zone_direction", "netns",
    "status", "status_bits", "tcp_state", "state", "start", "first_seen", "last_seen", "end", "folded", "flows",
    "path", "verdict", "reject_with", "attempts", "blame", "owner",
}
# What only conntrack's entry of a flow has; a flow that it never confirmed may be without.
KEYS_OF_CONFIRMED = {"reply", "status"}
BLAME_KEYS = {"firewall", "table", "chain", "kind", "position", "handle", "rule", "comment", "generation"}
STEP_KEYS = BLAME_KEYS | {"verdict", "reject_with", "target"}
FIREWALLS = ("iptables-legacy", "iptables-nft", "nft")
STEP_VERDICTS = ("accept", "drop", "reject", "continue", "jump", "goto", "return", "queue", "stolen")
SIDE_KEYS = {"src", "dst", "sport", "dport", "icmp_type", "icmp_code", "icmp_id", "packets", "bytes"}
OWNER_KEYS = {
    "pid", "ppid", "uid", "user", "comm", "command_line", "executable", "cgroup", "netns", "how", "by", "shared",
}
OWNERS_KNOWN_BY = ("connect", "send", "accept", "receive", "packet", "conntrack", "socket", "close")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")


@dataclasses.dataclass(frozen=True, order=True)
class Flow:
    """Both tuples of a flow. A tuple is (src, dst), with ports (src, dst, sport, dport), of an echo (src, dst, type, code, id)."""

    family: str
    protocol: int
    original: tuple
    reply: tuple
    replied: bool = dataclasses.field(default=True, compare=False)


# JSON Lines


class Report:
    """A whole JSON report: flows in order, and the statistics that must be its last line."""

    def __init__(self, text):
        if not text.endswith("\n"):
            raise AssertionError(f"the report does not end with a line end: {text[-200:]!r}")
        objects = [read_object(line) for line in text.splitlines()]
        kinds = [each["type"] for each in objects]
        if kinds.count("stats") != 1 or kinds[-1] != "stats":
            raise AssertionError(f"not exactly one stats object at the end: {kinds[-5:]}")
        self.objects = objects[:-1]
        self.stats = objects[-1]
        self.flow_lines = text.splitlines()[:-1]

    def flows(self):
        """The single (not folded) flows that conntrack confirmed, sorted."""
        return sorted(flow_of(each) for each in self.objects if is_single(each))

    def unconfirmed(self):
        return [each for each in self.objects if each["state"] == "unconfirmed"]

    def by_original(self, protocol, tuple_):
        """The one object of this protocol with this original tuple, confirmed or not."""
        matching = [each for each in self.objects if each["proto_number"] == protocol and original_of(each) == tuple_]
        if len(matching) != 1:
            raise AssertionError(f"{len(matching)} objects for {tuple_} in {matching or self.flow_lines[:20]}")
        return matching[0]

    def folded(self):
        return [each for each in self.objects if each.get("folded")]

    def of(self, flow):
        """The one object that reports this flow."""
        matching = [each for each in self.objects if is_single(each) and flow_of(each) == flow]
        if len(matching) != 1:
            raise AssertionError(f"{len(matching)} objects for {flow} in {self.flow_lines[:20]}")
        return matching[0]


def read_object(line):
    """One line of JSON, checked against the published form."""
    value = json.loads(line, object_pairs_hook=_no_key_twice)
    problem = _problem_of(value)
    if problem:
        raise AssertionError(f"{problem}: {line}")
    return value


def _no_key_twice(pairs):
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise AssertionError(f"a key twice: {keys}")
    return dict(pairs)


def _problem_of(value):
    if value.get("v") != 1:
        return "not version 1"
    if value.get("type") == "stats":
        return None
    if value.get("type") != "flow":
        return "unknown type"
    if set(value) - FLOW_KEYS:
        return f"unknown keys {set(value) - FLOW_KEYS}"
    for side in ("original", "reply"):
        if side in value and set(value[side]) - SIDE_KEYS:
            return f"unknown keys {set(value[side]) - SIDE_KEYS} in {side}"
    number = value["proto_number"]
    if value["proto"] != PROTOCOL_NAMES.get(number, str(number)):
        return f"protocol {number} is called {value['proto']}"
    if value["state"] not in ("live", "ended", "gone", "unconfirmed"):
        return "unknown state"
    if value["state"] != "unconfirmed" and KEYS_OF_CONFIRMED - set(value):
        return f"without {KEYS_OF_CONFIRMED - set(value)}"
    for name in ("start", "first_seen", "last_seen", "end"):
        if name in value and not TIME.fullmatch(value[name]):
            return f"{name} is no time"
    return _problem_of_owner(value.get("owner")) or _problem_of_trace(value)


def _problem_of_owner(owner):
    if owner is None:
        return None
    if not owner or set(owner) - {"original", "reply"}:
        return f"no owners, or of unknown ends: {set(owner)}"
    for each in owner.values():
        if set(each) - OWNER_KEYS or {"how", "by"} - set(each):
            return f"unknown keys {set(each) - OWNER_KEYS} of an owner, or none of how it is known"
        if each["by"] not in OWNERS_KNOWN_BY or each.get("shared", True) is not True:
            return f"unknown words: {each}"
    return None


def _problem_of_trace(value):
    if set(value.get("path", {})) - {"original", "reply"}:
        return f"unknown directions of the path: {set(value['path'])}"
    if [] in value.get("path", {}).values():
        return "a direction without a step"
    steps = [step for way in value.get("path", {}).values() for step in way]
    for step in steps:
        problem = problem_of_step(step, STEP_KEYS)
        if problem:
            return problem
        if step.get("verdict", "accept") not in STEP_VERDICTS:
            return f"unknown verdict {step['verdict']}"
    return problem_of_step(value["blame"], BLAME_KEYS) if "blame" in value else None


def problem_of_step(step, keys):
    """Of a step of a path, or of the guilty one."""
    if set(step) - keys:
        return f"unknown keys {set(step) - keys} in a step"
    if step["firewall"] not in FIREWALLS or step["kind"] not in ("rule", "policy", "return"):
        return f"unknown firewall or kind: {step}"
    if (step["kind"] == "rule") != ("position" in step) and step["kind"] != "return":
        return f"a position for a policy, or none for a rule: {step}"
    if "generation" in step and step["firewall"] == "iptables-legacy":
        return f"a generation without nf_tables: {step}"
    return None


def is_single(value):
    return not value.get("folded") and value["state"] != "unconfirmed"


def original_of(value):
    """As Flow.original. What conntrack never confirmed may be anything, and have no such numbers: they are None."""
    side = value["original"]
    names = ("icmp_type", "icmp_code", "icmp_id") if value["proto_number"] in ECHO else ("sport", "dport")
    return (side["src"], side["dst"], *(side.get(name) for name in names))


def flow_of(value):
    protocol = value["proto_number"]
    return Flow(value["family"], protocol, _side(value["original"], protocol), _side(value["reply"], protocol), "seen_reply" in value["status"])


def _side(side, protocol):
    names = ()
    if protocol in WITH_PORTS:
        names = ("sport", "dport")
    elif protocol in ECHO:
        names = ("icmp_type", "icmp_code", "icmp_id")
    unexpected = {"sport", "dport", "icmp_type", "icmp_code", "icmp_id"} & set(side) - set(names)
    if unexpected:
        raise AssertionError(f"{unexpected} in a tuple of protocol {protocol}: {side}")
    return (side["src"], side["dst"], *(side[name] for name in names))


def counters_of(value):
    """As witness.Listed.counters()."""
    sides = (value["original"], value["reply"])
    present = [name in side for side in sides for name in ("packets", "bytes")]
    if not any(present):
        return None
    if not all(present):
        raise AssertionError(f"some counters but not all: {value}")
    return tuple((side["packets"], side["bytes"]) for side in sides)


def nanoseconds(time_text):
    """A time of the report as nanoseconds since 1970, without going through a float."""
    whole, _, fraction = time_text.rstrip("Z").partition(".")
    day, _, clock = whole.partition("T")
    year, month, day_of_month = (int(part) for part in day.split("-"))
    hour, minute, second = (int(part) for part in clock.split(":"))
    days = (datetime.date(year, month, day_of_month) - datetime.date(1970, 1, 1)).days
    return (days * 86400 + hour * 3600 + minute * 60 + second) * 10**9 + int((fraction + "0" * 9)[:9])


# Text


def expected_text(flows, netns=None):
    """The text report for these flows, byte for byte. `netns`: the id that every line ends with."""
    sections = {}
    for flow in flows:
        lines = sections.setdefault((flow.family, flow.protocol), set())
        lines.add(flow.original)
        if flow.replied and flow.protocol not in ECHO:
            lines.add(flow.reply)
    text = []
    for section in sorted(sections, key=_section_order):
        shown = sorted({_visible(tuple_, section[1]) for tuple_ in sections[section]}, key=_line_order)
        text += [_line(section, index, each, netns) for index, each in enumerate(shown)]
    return "".join(line + "\n" for line in text)


def _section_order(section):
    family, protocol = section
    if section in FIRST_SECTIONS:
        return (0, FIRST_SECTIONS.index(section), "")
    return (1, protocol, family)


def _visible(tuple_, protocol):
    """The id of an echo is not shown in the text."""
    return tuple_[:4] if protocol in ECHO else tuple_


def _line_order(tuple_):
    return (ipaddress.ip_address(tuple_[0]).packed, ipaddress.ip_address(tuple_[1]).packed, *tuple_[2:])


def _line(section, index, tuple_, netns):
    family, protocol = section
    name = "ICMP" if protocol in ECHO else PROTOCOL_NAMES.get(protocol, str(protocol)).upper()
    label = name + ("v4" if family == "ipv4" else "v6")
    tail = "" if netns is None else f" (netns={netns})"
    return f"{label:>6} [{index:>12}] {_ways(tuple_, protocol)}{tail}"


def _ways(tuple_, protocol):
    source, destination, *numbers = tuple_
    if protocol in ECHO:
        return f"src = {source} to dst = {destination} (type={numbers[0]} | code={numbers[1]})"
    if numbers:
        return f"src = {source} (port={numbers[0]}) to dst = {destination} (port={numbers[1]}) (-)"
    return f"src = {source} to dst = {destination} (-)"


def follow_line(word, flow, index):
    """One line of `--follow` in text."""
    return f"{word} " + _line((flow.family, flow.protocol), index, _visible(flow.original, flow.protocol), None)
