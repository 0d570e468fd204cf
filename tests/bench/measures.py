"""What is measured, each a function from a Bench to the rows of the table. Consumers take turns, round by round, so that
what else the machine does meets them all."""

import calendar
import collections
import json
import os
import time

from consumers import Conntrack, Conntracker, NftMonitor, Reader, Ulogd, number_in, run_to_end
from established import establish
from figures import Figure, Row, at_most, at_most_times, beside, times_less
from ground import Failed, cpu_ns, memory_kib, waited_s
from waiting import wait_for

COALESCE_US = 5000  # as src/limits.rs
KEPT_LEN = 156  # what a flow takes: a process that keeps so much of each has to have the memory for it
RULES = """
table inet fw {
    chain checks { udp dport 7 counter; udp dport { 1, 2, 3 } counter drop; counter return; };
    chain forward { type filter hook forward priority 0; policy accept; ct state established accept; jump checks; counter accept; };
}
"""
TRACER = "table inet tracer { chain c { type filter hook prerouting priority -190; policy accept; ct state new meta nftrace set 1; }; }"
LEGACY_RULES = ["-N checks", "-A checks -p udp --dport 7", "-A checks -p udp --dport 99 -j DROP", "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT",
                "-A FORWARD -j checks", "-A FORWARD -p udp -j ACCEPT"]
FLAT_KIB = 64  # what memory may grow by and still be called flat


def rounds(bench, kinds, measure):
    """{name of a kind: what `measure` gave for it in each round}"""
    found = collections.defaultdict(list)
    for turn in range(bench.rounds):
        for name, start in kinds.items():
            bench.say(f"{name}, round {turn + 1}")
            found[name].append(measure(start))
    return found


def drained(bench, start, count, send):
    """Nanoseconds of CPU that a consumer takes for what waits for it, halted while that comes, and how much it read."""
    consumer = start().ready()
    consumer.halt()
    send()
    if consumer.lost():
        raise Failed(f"{consumer.name}: {consumer.lost()} did not find room in its queue")
    before = cpu_ns(consumer.pid)
    consumer.resume()
    took = cpu_ns(consumer.settled().pid) - before
    read = consumer.stop()
    if count is not None and read != count:
        raise Failed(f"{consumer.name} read {read} of {count}")
    return took, read, consumer


def floor(work, ours, keeping):
    """Where a goal is below what the kernel costs who keeps anything of what it reads: within a tenth of that."""
    return at_most_times(work, ours, keeping, f"bare reader that keeps {KEPT_LEN} bytes of each", 1.1)


def drain(bench):
    count = 50_000 if bench.quick else 300_000
    ground = bench.ground

    def measure(start):
        ground.room_for(count)
        return drained(bench, start, count, lambda: ground.new_flows(count))[0] / count / 1000

    kinds = {
        "conntracker": lambda: Conntracker(ground, "--capacity", str(count), "--buffer", "512m"),
        "bare reader": lambda: Reader(ground),
        "bare reader that keeps": lambda: Reader(ground, "events", kept_len=KEPT_LEN),
        "conntrack -E": lambda: Conntrack(ground),
        "ulogd2 JSON": lambda: Ulogd(ground),
    }
    found = {name: Figure(values, " us") for name, values in rounds(bench, kinds, measure).items()}
    ours, work = found["conntracker"], f"CPU of one of {count:,} NEW events that wait, into the table (`--capacity {count} --buffer 512m`)"
    return [
        at_most_times(work, ours, found["bare reader"], "bare reader", 1.25),
        floor(work, ours, found["bare reader that keeps"]),
        times_less(work, ours, found["conntrack -E"], "`conntrack -E -e NEW`", 2.5),
        times_less(work, ours, found["ulogd2 JSON"], "ulogd2 NFCT to JSON", 7),
    ]


def live_cost(bench, start, count, per_second):
    """Microseconds of CPU of an event that comes while the consumer runs, the generator's of a packet, and what was lost."""
    bench.ground.room_for(count)
    consumer = start().ready()
    before = cpu_ns(consumer.pid)
    packet_ns = bench.ground.new_flows(count, per_second)
    took = cpu_ns(consumer.settled().pid) - before
    lost = consumer.lost()
    read = consumer.stop()
    if read + lost != count or (lost and not isinstance(consumer, Conntracker)):
        raise Failed(f"{consumer.name} read {read} of {count}, and lost {lost}")
    return took / read / 1000, packet_ns / 1000, lost


def live(bench):
    seconds = 2 if bench.quick else 10
    rows = []
    for per_second in (50_000, 110_000):
        count = per_second * seconds
        kinds = {
            "conntracker": lambda count=count: Conntracker(bench.ground, "--capacity", str(count)),
            "bare reader": lambda: Reader(bench.ground, "events", COALESCE_US),
            "conntrack -E": lambda: Conntrack(bench.ground),
        }
        found = rounds(bench, kinds, lambda start, count=count, rate=per_second: live_cost(bench, start, count, rate))
        lost = Figure([each[2] for each in found["conntracker"]])
        ours, bare, other = (Figure([each[0] for each in found[name]], " us") for name in kinds)
        work = f"{per_second:,} new flows/s for {seconds} s (`--capacity {count}`)"
        rows.append(Row(f"events lost of {work}", str(lost), "", "", "0", lost.values[-1] == 0))
        # 1.5 us where conntrack -E costs 5
        rows.append(times_less(f"CPU of an event of {work}", ours, other, "`conntrack -E -e NEW`", 3.3))
        rows.append(beside(f"CPU of an event of {work}", ours, bare, f"bare reader that rests {COALESCE_US // 1000} ms"))
    return rows


def path(bench):
    count = 50_000 if bench.quick else 200_000
    kinds = {
        "conntracker": lambda: Conntracker(bench.ground, "--capacity", str(count), "--buffer", "512m"),
        "bare reader": lambda: Reader(bench.ground, "events", COALESCE_US),
    }
    found = rounds(bench, kinds, lambda start: live_cost(bench, start, count, 0)[1])
    ours, bare = (Figure(found[name], " us") for name in kinds)
    work = f"what the packet of a new flow costs the kernel, as fast as {count:,} can be sent"
    # "not above": within what one round differs from the next
    spread = bare.values[-1] / bare.median
    return [at_most_times(work, ours, bare, f"bare reader that rests {COALESCE_US // 1000} ms", round(max(1.02, spread), 2))]


def follow(bench):
    per_second, seconds = 50_000, 2 if bench.quick else 10
    count = per_second * seconds

    def ours():
        output = bench.ground.path("flows.json")
        return Conntracker(bench.ground, "--follow", "--format", "json", "--capacity", str(count), output=output)

    kinds = {"conntracker": ours, "ulogd2 JSON": lambda: Ulogd(bench.ground)}
    found = rounds(bench, kinds, lambda start: live_cost(bench, start, count, per_second)[0])
    ours, other = (Figure(found[name], " us") for name in kinds)
    work = f"CPU of an event, `--follow --format json` to a file, {per_second:,} new flows/s for {seconds} s (`--capacity {count}`)"
    return [times_less(work, ours, other, "ulogd2 NFCT to JSON", 5)]


def entries(bench):
    return 100_000 if bench.quick else 1_000_000


def fill(bench, count):
    """Many entries in conntrack, that stay."""
    bench.ground.settings.raise_to("net.netfilter.nf_conntrack_buckets", 262_144 if bench.quick else 1_048_576)
    bench.ground.room_for(count)
    bench.ground.new_flows(count)


def start(bench):
    count = entries(bench)
    fill(bench, count)

    def ours():
        consumer = Conntracker(bench.ground, "--capacity", str(2 * count)).ready()
        took = consumer.still - consumer.began - waited_s(consumer.pid)
        consumer.stop()
        if consumer.flows() != count:
            raise Failed(f"conntracker has {consumer.flows()} of {count} entries")
        return took

    def other(argv, pattern):
        took, said = run_to_end(bench.ground, argv)
        if number_in(pattern, said) != count:
            raise Failed(f"{argv}: {said} of {count} entries")
        return took

    kinds = {
        "conntracker": ours,
        "bare reader": lambda: other([bench.ground.built.reader, "dump"], r"^(\d+)"),
        "bare reader that keeps": lambda: other([bench.ground.built.reader, "dump", "0", str(KEPT_LEN)], r"^(\d+)"),
        "conntrack -L": lambda: other(["conntrack", "-L"], r"(\d+) flow entries have been shown"),
    }
    found = {name: Figure(values, " s") for name, values in rounds(bench, kinds, lambda take: take()).items()}
    ours, work = found["conntracker"], f"from the start until {count:,} entries are in the table (`--capacity {2 * count}`)"
    return [
        at_most_times(work, ours, found["bare reader"], "bare reader", 1.15),
        floor(work, ours, found["bare reader that keeps"]),
        times_less(work, ours, found["conntrack -L"], "`conntrack -L`", 1.8),
    ]


def report(bench):
    count = entries(bench)
    bench.ground.room_for(count)
    idle = Conntracker(bench.ground, "--capacity", str(count)).ready()
    size = memory_kib(idle.pid, "VmHWM") * 1024
    idle.stop()
    fill(bench, count)
    rows = []
    for output in ("/dev/null", bench.ground.path("report")):
        times, memory, table = [], [], []
        for turn in range(bench.rounds):
            bench.say(f"a report to {os.path.basename(output)}, round {turn + 1}")
            consumer = Conntracker(bench.ground, "--capacity", str(count), output=output)
            consumer.ready()
            before = memory_kib(consumer.pid, "VmHWM")
            seen = watch_report(consumer)
            consumer.read()
            if consumer.flows() != count:
                raise Failed(f"conntracker reports {consumer.flows()} of {count} flows")
            times.append(seen["Finished capturing"] - seen["Dumping internal data"])
            memory.append((consumer.usage.ru_maxrss - before) * 1024 / count)
            table.append((before * 1024 - size) / count)
        where = "/dev/null" if output == "/dev/null" else "a file in memory"
        limit = 1.0 * count / 1_000_000
        rows.append(at_most(f"report of {count:,} flows, sorted, text, to {where}", Figure(times, " s"), limit, " s"))
        rows.append(at_most(f"memory that a report to {where} takes above the table, a flow", Figure(memory, " bytes"), 16, " bytes"))
    each = Figure(table, " bytes")
    rows.append(at_most(f"memory of a flow, {count:,} in the table", each, 160, " bytes"))
    return rows


def watch_report(consumer):
    """Ends it; when each line of its standard output came."""
    consumer.process.terminate()
    seen = {}
    while True:
        pid, status, usage = os.wait4(consumer.pid, os.WNOHANG)
        now = time.monotonic()
        with open(consumer.output, encoding="utf-8") as file:
            said = file.read()
        for line in ("Dumping internal data", "Finished capturing"):
            if line in said:
                seen.setdefault(line, now)
        if pid:
            break
        time.sleep(0.001)
    consumer.process.returncode, consumer.usage = os.waitstatus_to_exitcode(status), usage
    if len(seen) != 2:
        raise Failed(f"conntracker wrote no report: {consumer.said()}")
    return seen


def traced(bench, start, flows):
    bench.ground.room_for(flows)
    return drained(bench, start, None, lambda: bench.ground.new_flows(flows))


def trace(bench):
    flows = 500 if bench.quick else 2000
    ground, network = bench.ground, bench.ground.network
    options = ("-t", "-e", "--trace-rate", "1000000", "--format", "json")

    def ours():
        return Conntracker(ground, *options, output=ground.path("traced.json"))

    def measure():
        took, _, consumer = traced(bench, ours, flows)
        said = consumer.stats()["trace"]
        if said["packets"] != flows or said["lost"] or said["untraced"] or said["unresolved"]:
            raise Failed(f"{flows} packets were to be traced: {said}")
        return took / said["messages"] / 1000

    def monitor():
        network.nft(TRACER)
        _, expected, _ = traced(bench, lambda: Reader(ground, "trace"), flows)
        took, read, _ = traced(bench, lambda: NftMonitor(ground), flows)
        network.run("router", "nft", "delete", "table", "inet", "tracer")
        # The ends of chains are messages that it shows nothing of: as many for each packet.
        if read % flows or expected % flows or not flows * 3 <= read <= expected:
            raise Failed(f"nft monitor trace shows {read} of {expected} messages about {flows} packets")
        return took / expected / 1000

    network.nft(RULES)
    found = rounds(bench, {"conntracker, nft": measure, "nft monitor trace": monitor}, lambda take: take())
    network.run("router", "nft", "delete", "table", "inet", "fw")
    for rule in LEGACY_RULES:
        network.run("router", "iptables-legacy", *rule.split())
    found |= rounds(bench, {"conntracker, legacy": measure}, lambda take: take())
    network.run("router", "iptables-legacy", "-F")
    network.run("router", "iptables-legacy", "-X")
    found = {name: Figure(values, " us") for name, values in found.items()}
    rows = []
    for kind in ("nft", "legacy"):
        ours, work = found[f"conntracker, {kind}"], f"CPU of a trace message of {kind} rules, resolved, {flows:,} packets that wait"
        rows.append(at_most(work, ours, 2, " us"))
        rows.append(times_less(work, ours, found["nft monitor trace"], "`nft monitor trace`", 20))
    return rows


def memory(bench):
    first, more = (70_000, 140_000) if bench.quick else (300_000, 900_000)
    idle, grown = [], []
    for turn in range(bench.rounds):
        bench.say(f"memory, round {turn + 1}")
        bench.ground.room_for(first)
        consumer = Conntracker(bench.ground).ready()
        idle.append(memory_kib(consumer.pid, "VmHWM"))
        bench.ground.new_flows(first, 50_000)
        before = memory_kib(consumer.settled().pid, "VmHWM")
        sent = first
        while sent < more:
            bench.ground.room_for(first)
            sent += first
            bench.ground.new_flows(first, 50_000)
            consumer.settled()
        grown.append(memory_kib(consumer.pid, "VmHWM") - before)
        consumer.stop()
    return [
        at_most("resident when idle", Figure(idle, " KiB"), 3 * 1024 - 1, " KiB"),
        at_most(f"that the {first + 1:,}th to the {sent:,}th flow add to it", Figure(grown, " KiB"), FLAT_KIB, " KiB"),
    ]


def first_event(bench):
    """The flow that conntracker heard of first, of those that begin all the time."""
    per_second, output, times = 5000, bench.ground.path("first.json"), []
    for turn in range(bench.rounds):
        bench.say(f"the first event, round {turn + 1}")
        bench.ground.room_for(per_second)
        tool = bench.ground.later(0.2, lambda: Conntracker(bench.ground, "--follow", "--format", "json", output=output))
        bench.ground.new_flows(per_second, per_second)
        consumer = tool().ready()
        consumer.stop()
        began = consumer.began + time.time() - time.monotonic()
        with open(output, encoding="utf-8") as file:
            flows = [json.loads(line) for line in file]
        first = min(each["first_seen"] for each in flows if each.get("event") == "new")
        times.append((seconds_of(first) - began) * 1000)
    return [at_most("from the start to the first event read", Figure(times, " ms"), 10, " ms")]


def seconds_of(rfc3339):
    whole, _, fraction = rfc3339.rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float("0." + (fraction or "0"))


def size(bench):
    full = os.path.getsize(bench.ground.built.binary)
    rows = [at_most("binary, x86_64, with everything", Figure([full], " bytes"), 1_048_576, " bytes")]
    lean = bench.built_lean()
    if lean is None:
        rows.append(Row("binary, x86_64, `--no-default-features`", "left out by --quick", "", "", "at most 327680 bytes"))
    else:
        rows.append(at_most("binary, x86_64, `--no-default-features`", Figure([os.path.getsize(lean)], " bytes"), 327_680, " bytes"))
    return rows


def established(bench):
    count = 100_000 if bench.quick else 1_000_000
    ground = bench.ground
    ground.network.nft(RULES)
    ground.room_for(1)
    port = establish(ground.network)

    def measure(start):
        consumer = start() if start else None
        if consumer:
            consumer.ready()
        cost = ground.send("established", count, 0, port)
        if consumer:
            consumer.stop()
            said = consumer.stats()["trace"]
            if said["packets"]:
                raise Failed(f"packets of an established flow were traced: {said}")
        return cost

    traced_one = lambda: Conntracker(ground, "-t", "--format", "json", output=ground.path("established.json"))  # noqa: E731
    found = rounds(bench, {"without": None, "with -t": traced_one}, measure)
    ground.network.run("router", "nft", "delete", "table", "inet", "fw")
    without, ours = (Figure(found[name], " ns") for name in ("without", "with -t"))
    return [at_most_times("a packet of an established flow, with `-t`", ours, without, "the same firewall without", 1.15)]


ALL = {each.__name__.replace("_", "-"): each for each in (drain, live, path, follow, start, report, trace, memory, first_event, size, established)}
