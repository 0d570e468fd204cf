"""While it traces the tool has rules of its own among somebody's; on every way out the firewall is as it was."""

import contextlib
import os
import random
import re
import signal
import socket
import struct
import threading

import witness
from firewalls import IptablesNft, Legacy, Nft
from network import CLIENT, SERVER
from report import UDP
from rules import Match, Packet, guilty, travel
from tool import WATCHDOG, name_of
from tracing import EVERYTHING, Tracing
from traffic import DISCARD_PORT
from waiting import pass_time, wait_for

SAVES = ("iptables-legacy-save", "ip6tables-legacy-save", "iptables-nft-save", "ip6tables-nft-save")
RUNGS = ("nft-owned", "nft", "legacy")
KILLED_TIMES = 100
LATEST_INSTANT_MS = 60


class RulesOfAll(Tracing):
    """Each firewall drops a port of its own."""

    PORTS = ((Legacy, 61, 0), (IptablesNft, 62, 0), (Nft, 63, 10))

    def setUp(self):
        super().setUp()
        self.need_legacy_tables()
        made = []
        for kind, port, priority in self.PORTS:
            firewall = kind(self.network)
            ruleset = firewall.ruleset
            forward, raw = ruleset.base("filter", "forward", priority=priority), ruleset.base("raw", "prerouting", priority=priority - 300)
            for version in (4, 6):
                ruleset.add(forward, Match(version, UDP, (port, port)), "drop", comment="two words")
                ruleset.add(raw, Match(version, UDP, (1, 1)), "count")
            made.append(firewall)
        legacy, iptables_nft, nft = self.use(*made)
        # Of equal priorities the last that came has its turn first.
        self.firewalls = {"legacy": legacy, "iptables-nft": iptables_nft, "nft": nft}
        self.in_order = [iptables_nft, legacy, nft]
        self.network.activate()
        self.before = self.state()

    def state(self):
        """With all counters: what the tool does is not counted, and nobody else sends anything in the scenarios that compare this."""
        state = {"nft": witness.nft_ruleset(self.network), "sysctls": witness.sysctls(self.network)}
        for save in SAVES:
            state[save] = witness.legacy_rules(self.network, save)
            state[f"{save} -c"] = [line for line in witness.legacy_rules(self.network, save, "-c") if line.startswith("[")]
        return state

    def without_elements(self, state):
        """The tool's own sets remember the packets that it had traced."""
        return {name: re.sub(r"\s*elements = \{[^}]*\}", "", str(text)) for name, text in state.items()}

    def without_counts(self, state):
        return {name: value for name, value in state.items() if not name.endswith("-c")} | {
            "nft": "\n".join(line.partition("counter")[0] for line in state["nft"].splitlines())}

    def is_clean(self):
        return self.state() == self.before and not self.network.processes("router") and not self.notes_of_state()

    def notes_of_state(self):
        return [path for path in self.network.notes() if path.endswith(".state")]

    def wait_until_clean(self, deadline_s=1.0):
        """A process that is being killed may need a moment; the watchdog has one second."""
        wait_for(self.is_clean, self.difference, deadline_s)

    def difference(self):
        now = self.state()
        changed = {name: (self.before[name], now[name]) for name in now if now[name] != self.before[name]}
        names = [name_of(pid) for pid in self.network.processes("router")]
        return f"the firewall as it was: {changed}; processes: {names}; notes: {self.network.notes()}"

    def assert_clean(self):
        self.assertEqual(self.state(), self.before)
        self.assertEqual(([name_of(pid) for pid in self.network.processes("router")], self.network.notes()), ([], []))

    def dropped(self, version, port):
        return Packet(version, UDP, CLIENT[version], SERVER[version], 5000, port)

    def check_blamed(self, report, packets):
        for packet in packets:
            with self.subTest(packet=packet):
                steps = travel(self.in_order, packet)
                flow = report.by_original(UDP, packet.tuple)
                self.assertEqual(flow["verdict"], "drop")
                self.assert_blamed(flow["blame"], self.listed_step(packet.version, guilty(steps)))

    def send_dropped(self, ports=(61, 62, 63)):
        packets = [self.dropped(version, port) for version in (4, 6) for port in ports]
        for packet in packets:
            self.traffic.send(packet, 2)
        return packets


class CleanEnd(RulesOfAll):
    def test_after_each_signal(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            with self.subTest(signal=number.name):
                tool = self.trace()
                self.assertNotEqual(self.state(), self.before, "it has no rules")
                self.assertNotEqual(tool.watchdogs(), [], f"no {WATCHDOG}")
                self.assertEqual(tool.stop(number), 0, tool.errors())
                self.assert_clean()

    def test_after_the_time_is_over(self):
        tool = self.run_to_end(*EVERYTHING, "-o", "-", "--for", "0.3")
        self.assertEqual(tool.process.returncode, 0, tool.errors())
        self.assert_clean()

    def test_after_a_second_signal(self):
        for instant_ms in range(0, 10, 2):
            tool = self.trace()
            tool.send(signal.SIGTERM)
            pass_time(instant_ms / 1000)
            tool.send(signal.SIGTERM)
            tool.wait()
            self.wait_until_clean()

    def test_after_a_signal_at_any_instant(self):
        for instant_ms in range(0, LATEST_INSTANT_MS, 3):
            tool = self.start(*EVERYTHING, "-o", self.path("report"))
            pass_time(instant_ms / 1000)
            tool.send(signal.SIGTERM)
            self.assertIn(tool.wait(), (0, 1, -signal.SIGTERM), tool.errors())
            self.wait_until_clean()

    def test_after_a_start_that_fails(self):
        tool = self.run_to_end(*EVERYTHING, "-o", self.path("missing/report"))
        self.assertEqual(tool.process.returncode, 1, tool.errors())
        self.assert_clean()

    def test_a_second_run_in_the_same_place_is_refused_and_harms_nothing(self):
        tool = self.trace()
        while_tracing = self.without_elements(self.state())
        processes = sorted(self.network.processes("router"))
        other = self.run_to_end(*EVERYTHING, "-o", self.path("report"))
        self.assertEqual(other.process.returncode, 1, other.errors())
        self.assertEqual(sorted(self.network.processes("router")), processes, "it has left a process")
        self.assertEqual(self.without_elements(self.state()), while_tracing)
        packets = self.send_dropped()
        self.check_blamed(self.stop_traced(tool), packets)

    def test_with_traffic(self):
        """The same rules, whatever they counted."""
        tool = self.trace()
        packets = self.send_dropped()
        self.check_counters(self.in_order, [(travel(self.in_order, packet), 2) for packet in packets])
        self.check_blamed(self.stop_traced(tool), packets)
        self.assertEqual(self.without_counts(self.state()), self.without_counts(self.before))
        self.check_counters(self.in_order, [(travel(self.in_order, packet), 2) for packet in packets])
        self.assertEqual(self.network.notes(), [])


class Killed(RulesOfAll):
    def instants(self):
        """Seconds, spread over the start of the tool: one in each slice, at a place of chance."""
        chance = random.Random(KILLED_TIMES)
        slice_ms = LATEST_INSTANT_MS / KILLED_TIMES
        return [(index + chance.random()) * slice_ms / 1000 for index in range(KILLED_TIMES)]

    def test_at_many_instants(self):
        """The watchdog puts everything right within a second."""
        for index, instant in enumerate(self.instants()):
            rung = ("auto", *RUNGS)[index % 4]
            with self.subTest(instant=instant, rung=rung):
                tool = self.start(*EVERYTHING, "--trace-rung", rung, "-o", self.path("report"))
                pass_time(instant)
                tool.kill()
                self.wait_until_clean()

    def test_while_it_traces(self):
        self.traffic.discard()
        for rung in ("auto", *RUNGS):
            with self.subTest(rung=rung):
                tool = self.trace("--trace-rung", rung)
                self.assertNotEqual(self.state(), self.before)
                for version in (4, 6):  # packets that no rule counts and nobody answers
                    self.traffic.send(self.dropped(version, DISCARD_PORT), 2)
                tool.kill()
                self.wait_until_clean()

    def test_together_with_its_watchdog(self):
        """Then the next run puts everything right, at its own clean end at the latest."""
        for rung in ("auto", *RUNGS):
            with self.subTest(rung=rung):
                tool = self.trace("--trace-rung", rung)
                watchdogs = tool.watchdogs()
                self.assertEqual(len(watchdogs), 1)
                tool.send(signal.SIGSTOP)
                os.kill(watchdogs[0], signal.SIGKILL)
                tool.kill()
                wait_for(lambda: not self.network.processes("router"), "both to be gone")
                self.stop_traced(self.trace())
                self.assert_clean()

    def test_the_watchdog_alone(self):
        """The capture goes on, or says that it cannot; its clean end needs no watchdog."""
        tool = self.trace()
        (watchdog,) = tool.watchdogs()
        os.kill(watchdog, signal.SIGKILL)
        packets = self.send_dropped()
        self.check_counters(self.in_order, [(travel(self.in_order, packet), 2) for packet in packets])
        self.assertIn(tool.stop(), (0, 3), tool.errors())
        self.check_blamed(tool.report(), packets)
        self.assertEqual(self.without_counts(self.state()), self.without_counts(self.before))
        self.assertEqual((self.network.processes("router"), self.network.notes()), ([], []))


class Others(RulesOfAll):
    def test_flush_ruleset_by_somebody_else(self):
        """Its own table goes, or stays, as the rung has it; the capture ends well, and nothing comes back that was flushed."""
        for rung in ("auto", "nft"):
            with self.subTest(rung=rung):
                for firewall in self.firewalls.values():
                    firewall.place()
                tool = self.trace("--trace-rung", rung)
                self.network.run("router", "nft", "flush", "ruleset")
                packet = self.dropped(4, 61)
                self.traffic.send(packet, 2)
                self.assertEqual(tool.stop(), 0 if rung == "auto" else 3, tool.errors())
                self.assertEqual(witness.nft_ruleset(self.network), "")
                self.assertEqual(self.network.notes(), [])
                if rung == "nft":
                    self.assertIn("somebody removed our nf_tables table", tool.summary())
                    self.assertIn("somebody removed our nf_tables table", tool.report().stats["trace"]["ended"])
                    continue
                flow = tool.report().by_original(UDP, packet.tuple)
                self.assert_blamed(flow["blame"], self.listed_step(4, guilty(travel([self.firewalls["legacy"]], packet))))

    def test_a_rule_of_somebody_else_in_the_tools_table(self):
        """That rule stays, with its table; nothing is traced any more."""
        for end in ("stop", "kill"):
            with self.subTest(end=end):
                tool = self.trace("--trace-rung", "nft")
                self.network.nft("add rule inet conntracker_trace pre udp dport 7 accept")
                if end == "kill":
                    tool.kill()
                    wait_for(lambda: not self.network.processes("router"), "the watchdog to be done")
                else:
                    self.assertEqual(tool.stop(), 1, tool.errors())
                ruleset = witness.nft_ruleset(self.network)
                self.assertIn("udp dport 7 accept", ruleset)
                self.assertNotIn("nftrace", ruleset)
                self.network.nft("delete table inet conntracker_trace")
                self.assert_clean()

    def test_lines_that_somebody_elses_rule_gathers(self):
        """The kernel puts many into one message, before a line of ours."""
        log = ("NFLOG", "--nflog-threshold", "50")
        self.network.run("router", "iptables-legacy", "-w", "20", "-t", "mangle", "-A", "FORWARD", "-p", "udp", "-j", *log)
        tool = self.trace("-4")
        packet = self.dropped(4, 61)
        self.traffic.send(packet, 70)
        self.check_blamed(self.stop_traced(tool), [packet])

    def test_somebody_else_has_the_log_group(self):
        """Without it the legacy tables cannot be traced: said, and the rest goes on."""
        rival = self.bind_log_group()
        tool = self.trace()
        denied = self.send_dropped((62, 63))
        unseen = self.send_dropped((61,))
        self.check_counters(self.in_order, [(travel(self.in_order, packet), 2) for packet in denied + unseen])
        self.assertIn(tool.stop(), (0, 3), tool.errors())
        report = tool.report()
        self.assertNotIn(report.stats["trace"]["legacy"], ("on", ""))
        self.assertRegex(report.stats["trace"]["legacy"], r"(?i)nflog|\bgroup\b|in use|busy|not permitted")
        self.check_blamed(report, denied)
        steps = [step for each in report.objects for way in each.get("path", {}).values() for step in way]
        self.assertNotIn("iptables-legacy", {step["firewall"] for step in steps})
        self.assertEqual(self.without_counts(self.state()), self.without_counts(self.before))
        with self.assertRaises(OSError, msg="the rival has lost its group"):
            self.bind_log_group()
        rival.close()

    def bind_log_group(self, group=0):
        """As a log daemon does it: NFULNL_MSG_CONFIG with NFULNL_CFG_CMD_BIND, acknowledged."""
        with self.network.inside("router"):
            rival = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, witness.NETLINK_NETFILTER)
        self.addCleanup(rival.close)
        rival.settimeout(20)
        rival.bind((0, 0))
        body = struct.pack("!BBH", 0, 0, group) + struct.pack("=HHB3x", 5, 1, 1)
        rival.send(struct.pack("=IHHII", 16 + len(body), 4 << 8 | 1, 5, 1, 0) + body)
        (error,) = struct.unpack("=i", rival.recv(4096)[16:20])
        if error:
            raise OSError(-error, os.strerror(-error))
        return rival

    def test_rules_added_meanwhile_stay(self):
        tool = self.trace()
        for command in ("iptables-legacy", "iptables-nft"):
            for table, chain in (("raw", "PREROUTING"), ("filter", "FORWARD")):
                self.network.run("router", command, "-w", "20", "-t", table, "-I", chain, "-p", "udp", "-m", "udp", "--dport", "7", "-j", "ACCEPT")
        self.network.nft("insert rule inet fw filter_forward udp dport 7 accept")
        self.stop_traced(tool)
        added = "-p udp -m udp --dport 7 -j ACCEPT"
        for save in ("iptables-legacy-save", "iptables-nft-save"):
            lines = [line for line in witness.legacy_rules(self.network, save) if added in line]
            self.assertEqual(sorted(lines), [f"-A FORWARD {added}", f"-A PREROUTING {added}"])
        self.assertIn("udp dport 7 accept", witness.nft_ruleset(self.network))
        self.assertEqual([line for save in SAVES for line in witness.legacy_rules(self.network, save) if "CONNTRACKER" in line], [])
        self.assertNotIn("conntracker", witness.nft_ruleset(self.network))


class Rungs(RulesOfAll):
    def check_rung(self, rung):
        tool = self.trace("--trace-rung", rung)
        self.assertRegex(tool.errors(), rf"(?m)^conntracker: tracing: .*\b{rung}\b")
        # Without rules of nf_tables that set nftrace only the legacy tables are traced.
        self.assertEqual("nf_tables tells of its rules only while" in tool.errors(), rung == "legacy", tool.errors())
        packets = self.send_dropped((61,) if rung == "legacy" else (61, 62, 63))
        self.check_counters(self.in_order, [(travel(self.in_order, packet), 2) for packet in packets])
        report = self.stop_legacy(tool) if rung == "legacy" else self.stop_traced(tool)
        self.assertEqual(report.stats["trace"]["rung"], rung)
        self.check_blamed(report, packets)
        self.assertEqual(self.without_counts(self.state()), self.without_counts(self.before))
        self.assertEqual((self.network.processes("router"), self.network.notes()), ([], []))

    def stop_legacy(self, tool):
        """There are rules of nf_tables here, which this rung does not hear of: the report is not complete, and says so."""
        self.assertEqual(tool.stop(), 3, tool.errors())
        self.assertIn("rules of nf_tables may not be told of", tool.summary())
        return tool.report()

    def test_nft_owned(self):
        self.check_rung("nft-owned")

    def test_nft(self):
        self.check_rung("nft")

    def test_legacy(self):
        self.check_rung("legacy")

    def test_legacy_that_ends_amid_traffic(self):
        """Lines that are queued while its own rules go number the others with these among them."""
        tool = self.trace("--trace-rung", "legacy")
        with self.new_flows() as sent:
            wait_for(lambda: len(sent) >= 100, "traffic")
            trace = self.stop_legacy(tool).stats["trace"]
        self.assertGreater(trace["packets"], 50)
        self.assertEqual((trace["unresolved"], trace["lost"]), (0, 0), trace)

    @contextlib.contextmanager
    def new_flows(self):
        """One each millisecond, from before until after."""
        over, sent = threading.Event(), []
        with self.network.inside("client"):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

        def send():
            for port in range(1024, 65536):
                if over.wait(0.001):
                    break
                sender.sendto(b"x", (SERVER[4], port))
                sent.append(port)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield sent
        finally:
            over.set()
            thread.join()
            sender.close()

    def test_legacy_where_the_end_of_children_is_ignored(self):
        """As some programs start theirs: then the kernel does not say how a program has ended."""
        tool = self.trace("--trace-rung", "legacy", preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
        packets = self.send_dropped((61,))
        self.check_counters(self.in_order, [(travel(self.in_order, packet), 2) for packet in packets])
        self.check_blamed(self.stop_legacy(tool), packets)
        self.assertEqual(self.network.notes(), [])
