"""Independent witnesses: conntrack(8), the kernel's netlink socket list, and the rulesets as their own tools print them."""

import os
import re
import signal
import subprocess
import tempfile

import processes
from report import Flow
from waiting import wait_for

NETLINK_NETFILTER = 12
PROTOCOL_LINE = re.compile(r"(?:\[(?P<event>NEW|UPDATE|DESTROY)\] )?(?P<family>ipv[46])\s+\d+ (?P<name>\S+)\s+(?P<number>\d+) (?P<rest>.*)")
NUMBERS_OF_A_TUPLE = ("sport", "dport", "srckey", "dstkey", "type", "code", "id")


class Listed:
    """One line of conntrack(8), as printed with `-o id,extended`."""

    def __init__(self, line):
        match = PROTOCOL_LINE.match(line.strip())
        if match is None:
            raise ValueError(f"not a line of conntrack(8): {line!r}")
        self.event = match["event"]
        self.family = match["family"]
        self.protocol = int(match["number"])
        self.id = None
        self.words = []
        self.fields = {}
        self.sides = []
        for word in match["rest"].split():
            self._take(word)

    def _take(self, word):
        name, equals, value = word.partition("=")
        if not equals:
            self.words.append(word.strip("[]"))
        elif name == "src":
            self.sides.append({"src": value})
        elif name == "id" and (not self.sides or "type" not in self.sides[-1] or "id" in self.sides[-1]):
            self.id = int(value)
        elif name in ("mark", "use", "delta-time", "zone", "portid"):
            self.fields[name] = value
        else:
            self.sides[-1][name] = value

    def _tuple(self, side):
        numbers = (int(side[name], 0) for name in NUMBERS_OF_A_TUPLE if name in side)
        return (side["src"], side["dst"], *numbers)

    @property
    def flow(self):
        original, reply = self.sides
        return Flow(self.family, self.protocol, self._tuple(original), self._tuple(reply), replied="UNREPLIED" not in self.words)

    def counters(self):
        """(packets, bytes) of both directions, or None where the kernel did not count."""
        if "packets" not in self.sides[0]:
            return None
        return tuple((int(side["packets"]), int(side["bytes"])) for side in self.sides)

    @property
    def tcp_state(self):
        return next((word for word in self.words if word.replace("_", "").isupper() and word not in ("UNREPLIED", "ASSURED", "USERSPACE")), None)


def listed(network, *filters, side="router"):
    """The conntrack table of a namespace."""
    lines = network.run(side, "conntrack", "-L", "-o", "id,extended", *filters).splitlines()
    return [Listed(line) for line in lines if line.strip()]


def flows_in_table(network, side="router"):
    return sorted(entry.flow for entry in listed(network, side=side))


def flow_count(network, side="router"):
    return int(network.get(side, "net.netfilter.nf_conntrack_count"))


def kernel_times(xml_text):
    """id -> (start, stop) in nanoseconds, from `-o xml,id`; None for what is not there."""
    times = {}
    for flow in re.findall(r"<flow.*?</flow>", xml_text):
        start, stop = (re.search(rf"<{name}>(\d+)</{name}>", flow) for name in ("start", "stop"))
        ident = int(re.search(r"<id>(\d+)</id>", flow)[1])
        times[ident] = (int(start[1]) if start else None, int(stop[1]) if stop else None)
    return times


class Watching:
    """`conntrack -E` in a namespace, from begin() to end()."""

    def __init__(self, network, *options, side="router"):
        self._file = tempfile.TemporaryFile()
        with network.inside(side):
            self._process = processes.start(["conntrack", "-E", *options], stdout=self._file, stderr=subprocess.DEVNULL)
        wait_for(lambda: netlink_sockets(self._process.pid), "conntrack -E to listen")

    def text(self):
        return os.pread(self._file.fileno(), os.fstat(self._file.fileno()).st_size, 0).decode()

    def lines(self):
        return self.text().splitlines()

    def wait_for_lines(self, count):
        wait_for(lambda: len(self.lines()) >= count, lambda: f"{count} lines of conntrack -E, have {self.lines()}")
        return self.lines()

    def end(self):
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        processes.end(self._process)
        text = self.text()
        self._file.close()
        return text


def netlink_sockets(pid):
    """The process' netfilter sockets that have joined a group: [{"inode", "groups", "rmem", "drops"}]."""
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[len("socket:["):-1])
    found = []
    with open(f"/proc/{pid}/net/netlink", encoding="ascii") as table:
        for line in table.readlines()[1:]:
            _, family, _, groups, rmem, _, _, _, drops, inode = line.split()
            if int(family) == NETLINK_NETFILTER and inode in inodes and int(groups, 16):
                found.append({"inode": inode, "groups": int(groups, 16), "rmem": int(rmem), "drops": int(drops)})
    return found


def nft_ruleset(network, side="router"):
    return network.run(side, "nft", "list", "ruleset")


def nft_tables(network, side="router"):
    return network.run(side, "nft", "list", "tables").splitlines()


def legacy_rules(network, command, *options, side="router"):
    """The lines of iptables-legacy-save or ip6tables-legacy-save without comments; without counters unless `-c` is given."""
    lines = network.run(side, command, *options).splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    if "-c" in options:
        return lines
    return [re.sub(r" \[\d+:\d+\]$", "", line) for line in lines]


def sysctls(network, side="router"):
    """Every setting of netfilter in a namespace, except the counts that change by themselves."""
    values = {}
    for folder in ("net.netfilter", "net.netfilter.nf_log"):
        with network.inside(side):
            names = os.listdir("/proc/sys/" + folder.replace(".", "/"))
        for name in sorted(names):
            path = f"{folder}.{name}"
            if name not in ("nf_conntrack_count", "nf_log"):
                values[path] = network.get(side, path)
    return values
