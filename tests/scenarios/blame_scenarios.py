"""conntracker blame: the guilty rules, the biggest first; live and from a report that was written before."""

import collections
import json
import os
import re
import shutil

import tool as tool_module
from firewalls import IptablesNft, Legacy, Nft, same_text
from network import CLIENT, SERVER
from report import BLAME_KEYS, TIME, TCP, UDP, original_of, problem_of_step
from rules import Match, Packet, established, guilty, outcome, travel
from tool import NOBODY, Tool
from tracing import EVERYTHING, PORT_UNREACHABLE, Tracing, names_of

KEYS = {"v", "type", "flows", "attempts", "sources", "destinations", "ports", "first", "last", "verdict", "reject_with", "blame"}
TIME_IN_TEXT = r"\S+( \S+)?"
LINE = re.compile(
    r"(?P<flows>\d+) flows?, (?P<attempts>\d+) attempts?, from (?P<sources>\S+) to (?P<destinations>\S+)( port (?P<ports>\S+))?, "
    rf"{TIME_IN_TEXT} to {TIME_IN_TEXT}: (?P<verdict>drop|reject \([a-z0-9 -]+\)|policy drop) by (?P<guilty>.+)"
)


def rules_in(output):
    """The guilty rules; the line of statistics that a capture ends with is sound."""
    objects = [json.loads(line) for line in output.splitlines()]
    for each in objects:
        assert each["type"] == "blame" or (each is objects[-1] and each["type"] == "stats" and "trace" in each), each
    return [each for each in objects if each["type"] == "blame"]


class Guilt(Tracing):
    """Every rule of every firewall denies another number of flows, so that the order of the report is known."""

    # (firewall, port, protocol, action, flows, packets of each flow)
    DENIED = (
        (Legacy, 61, UDP, "drop", 9, 2),
        (Nft, 62, TCP, "reset", 8, 1),
        (IptablesNft, 63, UDP, "reject", 7, 1),
        (Nft, 64, UDP, "drop", 6, 2),
        (Legacy, 65, TCP, "reset", 5, 1),
        (Nft, 66, UDP, "policy", 4, 1),
        (IptablesNft, 67, UDP, "drop", 3, 2),
    )

    def setUp(self):
        super().setUp()
        self.need_legacy_tables()
        self.firewalls = {kind: kind(self.network) for kind in (Nft, Legacy, IptablesNft)}
        for kind, policy, priority in ((Legacy, "accept", 0), (IptablesNft, "accept", 0), (Nft, "drop", 10)):
            ruleset = self.firewalls[kind].ruleset
            forward = ruleset.base("filter", "forward", policy, priority)
            ruleset.add(forward, established(4), "accept")
            for owner, port, protocol, action, _, _ in self.DENIED:
                if owner is kind and action != "policy":
                    ruleset.add(forward, Match(4, protocol, (port, port)), action, comment=f"no {port}")
        nft = self.firewalls[Nft].ruleset
        nft.add(nft.chains["filter_forward"], Match(4, UDP, (53, 53)), "accept")
        # In the order of travel: of equal priorities the last that came has its turn first.
        self.in_order = [self.firewalls[kind] for kind in (IptablesNft, Legacy, Nft)]
        self.use(self.firewalls[Legacy], self.firewalls[IptablesNft], self.firewalls[Nft])

    def packets(self):
        """[(packet, times)]: from two sources each, and to as many ports of the source as there are flows."""
        made = []
        for _, port, protocol, _, flows, times in self.DENIED:
            for index in range(flows):
                source = CLIENT[4] if index % 2 == 0 else "10.77.1.30"
                made.append((Packet(4, protocol, source, SERVER[4], 5000 + index, port), times))
        return made

    def send_denied(self):
        """And one flow that passes."""
        self.traffic.udp(4, port=53)
        sent = self.packets()
        for packet, times in sent:
            self.traffic.send(packet, times)
        self.check_counters(self.in_order[:2], [(travel(self.in_order, packet), times) for packet, times in sent])
        self.check_not_in_table([packet for packet, _ in sent])
        for packet, _ in sent:
            self.assertIsNotNone(guilty(travel(self.in_order, packet)))

    def expected(self):
        """[(flows, sent, sources, port, verdict, step)], the biggest first."""
        groups = collections.defaultdict(list)
        for packet, times in self.packets():
            steps = travel(self.in_order, packet)
            groups[guilty(steps).chain, guilty(steps).rule].append((packet, times, steps))
        found = []
        for members in sorted(groups.values(), key=len, reverse=True):
            packet, _, steps = members[0]
            port = f"{'tcp' if packet.protocol == TCP else 'udp'}/{packet.dport}"
            sources = sorted({each.source for each, _, _ in members})
            found.append((len(members), sum(times for _, times, _ in members), sources, port, outcome(steps), guilty(steps)))
        return found

    def check_objects(self, output):
        objects = rules_in(output)
        expected = self.expected()
        self.assertEqual([each["flows"] for each in objects], [flows for flows, *_ in expected], output)
        for each, (flows, sent, sources, port, verdict, step) in zip(objects, expected):
            with self.subTest(port=port):
                self.assertEqual((each["v"], each["type"], set(each) - KEYS), (1, "blame", set()))
                self.assertIsNone(problem_of_step(each["blame"], BLAME_KEYS))
                self.assertTrue(flows <= each["attempts"] <= sent, each)
                self.assertEqual((sorted(each["sources"]), each["destinations"], each["ports"]), (sources, [SERVER[4]], [port]))
                self.assertEqual(each["verdict"], verdict)
                self.assert_blamed(each["blame"], self.listed_step(4, step))
                self.assert_reject(each, step)
                self.assertTrue(TIME.fullmatch(each["first"]) and TIME.fullmatch(each["last"]), each)
                self.assertLessEqual(each["first"], each["last"])
        return objects

    def check_lines(self, output):
        expected = self.expected()
        lines = output.splitlines()
        self.assertEqual(len(lines), len(expected), output)
        for line, (flows, sent, sources, port, verdict, step) in zip(lines, expected):
            with self.subTest(line=line):
                match = LINE.fullmatch(line)
                self.assertIsNotNone(match, line)
                self.assertEqual((int(match["flows"]), sorted(match["sources"].split(",")), match["destinations"]), (flows, sources, SERVER[4]))
                self.assertTrue(flows <= int(match["attempts"]) <= sent, line)
                self.assertEqual(match["ports"], port)
                self.check_verdict(match["verdict"], verdict, step)
                self.check_guilty(match["guilty"], self.listed_step(4, step))

    def check_verdict(self, shown, verdict, step):
        if step.rule is None or step.rule.action == "drop":
            self.assertEqual(shown, verdict)
        elif step.rule.action == "reset":
            self.assertEqual(shown, "reject (tcp reset)")
        else:
            self.assertRegex(shown, rf"^reject \({PORT_UNREACHABLE.pattern}\)$")

    def check_guilty(self, shown, listed):
        place = f"{listed.firewall} {listed.table} {listed.chain} "
        if listed.kind == "policy":
            self.assertEqual(shown, place + "policy")
            return
        handle = f" (handle {listed.handle})" if listed.handle is not None else ""
        head = f"{place}rule {listed.position}{handle}: "
        self.assertTrue(shown.startswith(head), (shown, head))
        self.assertTrue(same_text(shown.removeprefix(head), listed), (shown, listed))


class Live(Guilt):
    def blame(self, *options):
        return self.start("blame", *options, "--trace-rate", "100000").wait_until_capturing()

    def test_lines(self):
        tool = self.blame()
        self.send_denied()
        self.stop_complete(tool)
        self.check_lines(tool.output())

    def test_objects(self):
        tool = self.blame("--format", "json")
        self.send_denied()
        self.stop_complete(tool)
        self.check_objects(tool.output())

    def test_filters(self):
        for options, ports in (
            (("--port", "61"), ["udp/61"]),
            (("--proto", "tcp"), ["tcp/62", "tcp/65"]),
            (("--net", "10.77.1.30", "--port", "63-64"), ["udp/63", "udp/64"]),
            (("-6",), []),
        ):
            with self.subTest(options=options):
                tool = self.blame("--format", "json", *options)
                for packet, times in self.packets():
                    self.traffic.send(packet, times)
                self.stop_complete(tool)
                found = rules_in(tool.output())
                self.assertEqual(sorted(port for each in found for port in each["ports"]), ports)
                if "--net" in options:
                    self.assertEqual([(each["sources"], each["flows"]) for each in found], [(["10.77.1.30"], 3)] * 2)

    def test_ends_by_itself(self):
        tool = self.run_to_end("blame", "--for", "0.3")
        self.assertEqual((tool.process.returncode, tool.output()), (0, "no flow was denied\n"), tool.errors())


class FromFile(Guilt):
    def write_report(self):
        tool = self.trace()
        self.send_denied()
        report = self.stop_traced(tool)
        with open(self.path("report"), "w", encoding="utf-8") as file:
            file.write(tool.output())
        return report

    def test_is_the_same_as_live(self):
        self.write_report()
        for options, check in (((), self.check_lines), (("--format", "json"), self.check_objects)):
            with self.subTest(options=options):
                tool = self.run_to_end("blame", *options, self.path("report"))
                self.assertEqual(tool.process.returncode, 0, tool.errors())
                check(tool.output())

    def test_adds_up_what_the_report_says(self):
        report = self.write_report()
        tool = self.run_to_end("blame", "--format", "json", self.path("report"))
        found = {names_of(each["blame"]): each for each in self.check_objects(tool.output())}
        groups = collections.defaultdict(list)
        for flow in (each for each in report.objects if "blame" in each):
            groups[names_of(flow["blame"])].append(flow)
        self.assertEqual(set(groups), set(found))
        for names, flows in groups.items():
            with self.subTest(guilty=names):
                each = found[names]
                self.assertEqual((each["flows"], each["attempts"]), (len(flows), sum(flow["attempts"] for flow in flows)))
                self.assertEqual(set(each["sources"]), {original_of(flow)[0] for flow in flows})
                self.assertEqual(each["first"], min(flow["first_seen"] for flow in flows))
                self.assertEqual(each["last"], max(flow["last_seen"] for flow in flows))
                self.assertEqual(each["blame"], flows[0]["blame"])

    def test_standard_input_without_rights(self):
        self.write_report()
        with open(self.path("report"), "rb") as file:
            tool = Tool(self.network, self.folder, "blame", "-", stdin=file, side="client")
        self.addCleanup(tool.end)
        self.assertEqual(tool.wait(), 0, tool.errors())
        self.check_lines(tool.output())


class Refused(Tracing):
    def refused(self, code, *options):
        tool = self.run_to_end(*options)
        self.assertEqual(tool.process.returncode, code, tool.errors())
        lines = tool.errors().splitlines()
        self.assertEqual(lines[1:], [line for line in lines[1:] if "--help" in line], lines)
        self.assertEqual(tool.output(), "")
        self.assertNotIn("panicked", tool.errors())
        return lines[0]

    def test_file_is_missing(self):
        self.assertIn("missing", self.refused(1, "blame", self.path("missing")))

    def test_file_is_no_json(self):
        for content in ("nonsense\n", "{\"v\":1,\n", "\0" * 100, "[" * 100_000, json.dumps({"v": 1, "type": "unheard of"}) + "\n"):
            with self.subTest(content=content[:20]):
                with open(self.path("report"), "w", encoding="ascii") as file:
                    file.write(content)
                self.assertIn("report", self.refused(1, "blame", self.path("report")))

    def test_options_that_are_wrong(self):
        for options, word in (
            (("-e",), "-t"),
            (("--everything",), "-t"),
            (("-t", "--trace-rate", "0"), "trace-rate"),
            (("-t", "--trace-rate", "abc"), "abc"),
            (("-t", "--trace-rate", "-5"), "-5"),
            (("-t", "--trace-rate"), "--trace-rate"),
            (("-t", "--trace-rung", "nonsense"), "nonsense"),
            (("blame", "--trace-rate", "0"), "trace-rate"),
            (("blame", "--trace-rung", "perhaps"), "perhaps"),
            (("blame", "--port", "70000"), "70000"),
            (("blame", "one", "two"), "two"),
        ):
            with self.subTest(options=options):
                self.assertIn(word, self.refused(2, *options))
                self.assertEqual(self.network.notes(), [])

    def test_needs_rights(self):
        """Without them nothing starts, and nothing is left."""
        readable = self.path("conntracker")
        shutil.copy(tool_module.BINARY, readable)
        os.chmod(readable, 0o755)
        tool = self.start(*EVERYTHING, "-o", "-", binary=readable, user=NOBODY, group=NOBODY, extra_groups=())
        self.assertEqual(tool.wait(), 1, tool.errors())
        self.assertEqual((tool.output(), tool.watchdogs(), self.network.notes()), ("", [], []))
