"""The three firewalls of Linux: rules put into each, and read back with their counters as its own programs list them."""

import dataclasses
import json
import re
import shlex

from rules import Ruleset, protocol_name

FAMILIES = {4: "ip", 6: "ip6"}
ORDER_OF_TABLES = ("raw", "mangle", "nat", "filter")
COUNTER_STATE = re.compile(r"\bcounter packets \d+ bytes \d+")
OWN_CHAIN = "CONNTRACKER"
COMMENT_OF_NFT = re.compile(r'\s*comment "[^"]*"')


@dataclasses.dataclass(frozen=True)
class Listed:
    """A rule or the policy of a chain, as listed. `texts`: what may stand for it in a report."""

    firewall: str
    table: str
    chain: str
    kind: str
    position: int | None = None
    handle: int | None = None
    texts: tuple = ()
    comment: str = ""
    packets: int | None = None

    def names(self):
        """What a step of a report must say, its texts aside."""
        return (self.firewall, self.table, self.chain, self.kind, self.position, self.handle)


class Firewall:
    """`ruleset` is what was placed; `listed()` is what is really there."""

    name = None

    def __init__(self, network, ruleset=None, side="router"):
        self._network = network
        self._side = side
        self.ruleset = ruleset or Ruleset()

    def _run(self, *argv, text=None):
        return self._network.run(self._side, *argv, text=text)

    def find(self, listing, version, step):
        """The listed rule or policy that a step of rules.travel() means."""
        table, chain = self.shown(version, step.chain)
        position = None if step.rule is None else self._rules_of(version, step.chain).index(step.rule) + 1
        wanted = (table, chain, "rule" if step.rule else "policy", position)
        return next(each for each in listing if (each.table, each.chain, each.kind, each.position) == wanted)

    def counters(self, version):
        """{rule of the ruleset: packets}"""
        found = {(each.table, each.chain, each.position): each.packets for each in self.listed(version) if each.kind == "rule"}
        counted = {}
        for chain in self.ruleset.chains.values():
            for index, rule in enumerate(self._rules_of(version, chain)):
                counted[rule] = found[(*self.shown(version, chain), index + 1)]
        return counted


class Iptables(Firewall):
    """Both that are told the iptables way."""

    def command(self, version, what):
        """Its save or restore of a family."""
        return ("iptables" if version == 4 else "ip6tables") + self.name.removeprefix("iptables") + f"-{what}"

    def _rules_of(self, version, chain):
        return [rule for rule in chain.rules if rule.match.version == version]

    def _chain_name(self, chain):
        return chain.hook.upper() if chain.hook else chain.name

    def place(self):
        """In place of whatever those tables held."""
        for version in (4, 6):
            self._run(self.command(version, "restore"), text=self.restore_text(version))
        return self

    def restore_text(self, version):
        lines = []
        for table in ORDER_OF_TABLES:
            chains = [chain for chain in self.ruleset.chains.values() if chain.table == table]
            if not chains:
                continue
            lines.append(f"*{table}")
            lines += [f":{self._chain_name(each)} {each.policy.upper() if each.hook else '-'} [0:0]" for each in chains]
            for each in chains:
                lines += [self.rule_text(each, rule) for rule in self._rules_of(version, each)]
            lines.append("COMMIT")
        return "".join(line + "\n" for line in lines)

    def rule_text(self, chain, rule):
        words = ["-A", self._chain_name(chain), *_iptables_match(rule.match)]
        if rule.comment:
            words += ["-m", "comment", "--comment", f'"{rule.comment}"']
        return " ".join(words + _iptables_action(rule))

    def _saved(self, version):
        """(table, chain, kind, position, text, packets) of `-save -c`, in its order. What the tool added is passed over, also in the positions."""
        table, positions, found = None, {}, []
        for line in self._run(self.command(version, "save"), "-c").splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith(":"):
                chain, policy, counters = line[1:].split()
                if policy != "-":
                    found.append((table, chain, "policy", None, "", _packets(counters)))
            elif line.startswith("[") and OWN_CHAIN not in line:
                counters, _, text = line.partition(" ")
                chain = text.split()[1]
                positions[table, chain] = positions.get((table, chain), 0) + 1
                found.append((table, chain, "rule", positions[table, chain], text, _packets(counters)))
        return found


def _packets(counters):
    return int(counters.strip("[]").partition(":")[0])


def _comment_of(text):
    words = shlex.split(text)
    return words[words.index("--comment") + 1] if "--comment" in words else ""


def _iptables_match(match):
    words = []
    if match.source:
        words += ["-s", match.source]
    if match.destination:
        words += ["-d", match.destination]
    if match.protocol is not None:
        words += ["-p", protocol_name(match.protocol)]
    if match.dports:
        low, high = match.dports
        words += ["-m", protocol_name(match.protocol), "--dport", str(low) if low == high else f"{low}:{high}"]
    if match.states:
        words += ["-m", "conntrack", "--ctstate", ",".join(match.states).upper()]
    return words


def _iptables_action(rule):
    return {
        "accept": ["-j", "ACCEPT"],
        "drop": ["-j", "DROP"],
        "reject": ["-j", "REJECT"],
        "reset": ["-j", "REJECT", "--reject-with", "tcp-reset"],
        "return": ["-j", "RETURN"],
        "jump": ["-j", rule.to],
        "goto": ["-g", rule.to],
        "count": [],
        "notrack": ["-j", "CT", "--notrack"],
        "dnat": ["-j", "DNAT", "--to-destination", rule.to],
        "snat": ["-j", "SNAT", "--to-source", rule.to],
        "masquerade": ["-j", "MASQUERADE"],
        "redirect": ["-j", "REDIRECT", "--to-ports", rule.to],
    }[rule.action]


class Legacy(Iptables):
    name = "iptables-legacy"

    def shown(self, version, chain):
        return chain.table, self._chain_name(chain)

    def listed(self, version):
        return [
            Listed(self.name, table, chain, kind, position, None, (text,), _comment_of(text), packets)
            for table, chain, kind, position, text, packets in self._saved(version)
        ]


class IptablesNft(Iptables):
    name = "iptables-nft"

    def shown(self, version, chain):
        return f"{FAMILIES[version]} {chain.table}", self._chain_name(chain)

    def listed(self, version):
        """Handles, and the other form of the text, come from nft."""
        of_nft = {(each.table, each.chain, each.position): each for each in nft_rules(self._network, self._side) if each.kind == "rule"}
        found = []
        for table, chain, kind, position, text, packets in self._saved(version):
            table = f"{FAMILIES[version]} {table}"
            if kind == "policy":
                found.append(Listed(self.name, table, chain, kind))
                continue
            other = of_nft[table, chain, position]
            comment = _comment_of(text)
            without = re.sub(r" -m comment --comment (\"[^\"]*\"|\S+)", "", text)
            found.append(Listed(self.name, table, chain, kind, position, other.handle, (text, without, *other.texts, *_with_comment(other.texts, comment)), comment, packets))
        return found


class Nft(Firewall):
    """One table of family inet."""

    name = "nft"
    table = "fw"

    def shown(self, version, chain):
        return f"inet {self.table}", chain.name

    def _rules_of(self, version, chain):
        return chain.rules

    def place(self):
        """In place of what this table held, in one transaction: the handles begin again."""
        self._run("nft", "-f", "-", text=self.text())
        return self

    def text(self):
        lines = [f"table inet {self.table}", f"delete table inet {self.table}", f"table inet {self.table} {{"]
        for chain in sorted(self.ruleset.chains.values(), key=lambda each: each.hook is not None):
            lines.append(f"chain {chain.name} {{")
            if chain.hook:
                kind = "nat" if chain.table == "nat" else "filter"
                lines.append(f"type {kind} hook {chain.hook} priority {chain.priority}; policy {chain.policy};")
            lines.append("}")
        for chain in self.ruleset.chains.values():
            lines.append(f"chain {chain.name} {{")
            lines += [self.rule_text(rule) for rule in chain.rules]
            lines.append("}")
        return "\n".join(lines) + "\n}\n"

    def rule_text(self, rule):
        comment = [f'comment "{rule.comment}"'] if rule.comment else []
        return " ".join([*_nft_match(rule.match), "counter", _nft_action(rule), *comment])

    def counters(self, version):
        return {rule: packets for rule, packets in super().counters(version).items() if rule.match.version == version}

    def listed(self, version):
        del version  # both families are in the one table
        return [each for each in nft_rules(self._network, self._side) if each.table == f"inet {self.table}"]


def _nft_match(match):
    family = FAMILIES[match.version]
    words = []
    if match.source:
        words.append(f"{family} saddr {match.source}")
    if match.destination:
        words.append(f"{family} daddr {match.destination}")
    if not words:
        words.append(f"meta nfproto ipv{match.version}")
    if match.dports:
        low, high = match.dports
        words.append(f"{protocol_name(match.protocol)} dport {low if low == high else f'{low}-{high}'}")
    elif match.protocol is not None:
        words.append(f"meta l4proto {protocol_name(match.protocol)}")
    if match.states:
        words.append(f"ct state {','.join(match.states)}")
    return words


def _nft_action(rule):
    family = FAMILIES[rule.match.version]
    return {
        "accept": "accept", "drop": "drop", "reject": "reject", "reset": "reject with tcp reset", "return": "return",
        "jump": f"jump {rule.to}", "goto": f"goto {rule.to}", "count": "", "notrack": "notrack",
        "dnat": f"dnat {family} to {rule.to}", "snat": f"snat {family} to {rule.to}", "masquerade": "masquerade",
        "redirect": f"redirect to :{rule.to}",
    }[rule.action]


def nft_rules(network, side="router", what=("ruleset",)):
    """Every rule and every policy of nf_tables, with the counters of the rules that have one; or those of `nft list WHAT`."""
    texts = _nft_texts(network.run(side, "nft", "-s", "-a", "list", *what))
    found, positions = [], {}
    for entry in _nft_objects(network, side, what):
        if "chain" in entry and "policy" in entry["chain"]:
            chain = entry["chain"]
            found.append(Listed("nft", f"{chain['family']} {chain['table']}", chain["name"], "policy"))
        if "rule" not in entry:
            continue
        rule = entry["rule"]
        table, chain, handle = f"{rule['family']} {rule['table']}", rule["chain"], rule["handle"]
        positions[table, chain] = positions.get((table, chain), 0) + 1
        counters = [each["counter"]["packets"] for each in rule["expr"] if isinstance(each.get("counter"), dict)]
        text = texts[table, chain, handle]
        both = (text, COMMENT_OF_NFT.sub("", text))
        found.append(Listed("nft", table, chain, "rule", positions[table, chain], handle, both, rule.get("comment", ""), (counters or [None])[0]))
    return found


def _nft_objects(network, side, what):
    """Of the whole ruleset one table after the other, and not the tool's: nft 1.0.6 writes no sound JSON for an owned table."""
    tables = [line.split() for line in network.run(side, "nft", "list", "tables").splitlines()] if what == ("ruleset",) else None
    asked = [what] if tables is None else [tuple(words[:3]) for words in tables if not words[2].startswith("conntracker")]
    for each in asked:
        yield from json.loads(network.run(side, "nft", "-j", "list", *each))["nftables"]


def _with_comment(texts, comment):
    """As nft would write the comment that iptables-nft keeps in a match."""
    return tuple(f'{text} comment "{comment}"' for text in texts) if comment else ()


def _nft_texts(listing):
    """(table, chain, handle) -> the rule as nft writes it, without the handle. Elements of sets are passed over."""
    texts, table, chain = {}, None, None
    for line in listing.splitlines():
        words = line.split()
        if line.startswith("table "):
            table = " ".join(words[1:3])
        elif line.startswith("\tchain "):
            chain = words[1]
        elif line.startswith("\t}"):
            chain = None
        elif chain and " # handle " in line:
            text, _, handle = line.strip().rpartition(" # handle ")
            texts[table, chain, int(handle)] = text
    return texts


def same_text(reported, listed):
    """Is this one of the texts that may stand for the rule? Runs of blanks and the counts of a counter do not matter."""
    plain = {_plain(each) for each in listed.texts}
    return _plain(reported) in plain or (XT.search(reported) is not None and _same_but_for_extensions(_plain(reported), plain))


def _same_but_for_extensions(reported, texts):
    """A rule of iptables-nft whose matches and targets are shown under their own names: these stand in the saved line, and
    what comes before them in nft's."""
    words = " ".join(texts).split()
    names = [{"icmp6": "ipv6-icmp"}.get(name, name) for _, name in XT.findall(reported)]
    return all(name in words for name in names) and all(word in words for word in XT.split(reported)[0].split())


def _plain(text):
    return " ".join(COUNTER_STATE.sub("counter", text).split())


XT = re.compile(r"xt (match|target) (\S+)")
ALL = (Legacy, IptablesNft, Nft)
