"""The firewall after the tool is the firewall before it: rules, counters and settings of others, on every way out."""

import fcntl
import re
import signal
import sys

import processes
import witness
from scenario import Scenario
from waiting import pass_time, wait_for

OWN_TABLE = "table inet conntracker"
OWN_CHAIN = "CONNTRACKER"
SAVES = ("iptables-legacy-save", "ip6tables-legacy-save")


class Firewall(Scenario):
    """What all scenarios here compare before and after."""

    def state_of_firewall(self):
        state = {"nft": witness.nft_ruleset(self.network), "sysctls": witness.sysctls(self.network), "loaded": self.loaded_tables()}
        for save in SAVES:
            state[save] = witness.legacy_rules(self.network, save)
        return state

    def loaded_tables(self):
        """Looking at a legacy table loads it, so this looks at the list of those that are loaded."""
        found = []
        for name in ("ip_tables_names", "ip6_tables_names"):
            with self.network.inside("router"), open(f"/proc/self/net/{name}", encoding="ascii") as file:
                found.append(sorted(file.read().split()))
        return found

    def rule_counters(self):
        """Of the rules only: the counts of the chains' policies also see the router's own multicast."""
        return [line for save in SAVES for line in witness.legacy_rules(self.network, save, "-c") if line.startswith("[")]

    def make_one_of_each_family(self):
        return sorted([self.traffic.udp(4), self.traffic.udp(6)])


class OwnedTable(Firewall):
    """Conntrack is not active: the tool switches it on by a table that the kernel removes with it."""

    NOT_CONNTRACK = "table inet somebody { chain forward { type filter hook forward priority 0; udp dport 53 counter accept; }; }"

    def setUp(self):
        super().setUp()
        self.network.nft(self.NOT_CONNTRACK)
        self.before = self.state_of_firewall()

    def is_there(self):
        return OWN_TABLE in witness.nft_tables(self.network)

    def assert_as_before(self):
        after = self.state_of_firewall()
        after["nft"] = re.sub(r"counter packets \d+ bytes \d+", "counter packets 0 bytes 0", after["nft"])
        self.assertEqual(after, self.before)

    def test_is_there_while_it_runs_and_nobody_else_may_touch_it(self):
        self.traffic.udp(4)
        self.assertEqual(witness.flow_count(self.network), 0, "conntrack was active from the start")
        tool = self.capture_json()
        self.assertIn("not active for IPv4 and IPv6", tool.errors())
        self.assertIn(OWN_TABLE, tool.errors())
        self.assertTrue(self.is_there())
        self.assertFalse(self.network.succeeds("router", "nft", "delete", *OWN_TABLE.split()), "the table has no owner")
        made = self.make_one_of_each_family()
        self.assertEqual(witness.flows_in_table(self.network), made)
        report = self.stop_complete(tool).report()
        self.assertEqual(report.flows(), made)
        self.assertEqual(report.stats["rungs"]["activation"], "nft-owned")
        self.assert_as_before()

    def test_is_gone_after_each_way_out(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            with self.subTest(signal=number.name):
                tool = self.capture()
                self.assertTrue(self.is_there())
                self.assertEqual(tool.stop(number), 0, tool.errors())
                self.assert_as_before()

    def test_is_gone_after_the_time_is_over(self):
        tool = self.capture("--for", "0.3")
        self.assertEqual(tool.wait(), 0, tool.errors())
        self.assert_as_before()

    def test_is_gone_after_kill_9(self):
        tool = self.capture()
        self.assertTrue(self.is_there())
        tool.kill()
        wait_for(lambda: not self.is_there(), "the kernel to remove the table of the killed process")
        self.assert_as_before()

    def test_starts_again_after_kill_9(self):
        self.capture().kill()
        tool = self.capture_json()
        made = self.make_one_of_each_family()
        self.assertEqual(self.stop_complete(tool).report().flows(), made)
        self.assert_as_before()

    def test_kill_9_while_starting(self):
        for instant_ms in range(0, 30):
            tool = self.start("-o", self.path("report"))
            pass_time(instant_ms / 1000)
            tool.kill()
            wait_for(lambda: not self.is_there(), "the kernel to remove the table of the killed process")
        self.assert_as_before()

    def test_signal_at_any_instant(self):
        """Between the start of the process and the capture: ended, with or without a report, and clean."""
        for instant_ms in range(0, 30):
            tool = self.start("-o", self.path("report"))
            pass_time(instant_ms / 1000)
            tool.send(signal.SIGTERM)
            self.assertIn(tool.wait(), (0, 1, -signal.SIGTERM), tool.errors())
            self.assertFalse(self.is_there())
        self.assert_as_before()

    def test_flush_ruleset_by_somebody_else_does_not_stop_it(self):
        tool = self.capture_json()
        self.network.run("router", "nft", "flush", "ruleset")
        self.assertTrue(self.is_there())
        made = self.make_one_of_each_family()
        report = self.stop_complete(tool).report()
        self.assertEqual(report.flows(), made)
        self.assertEqual(witness.nft_ruleset(self.network), "")

    def test_only_the_family_that_is_not_active(self):
        self.network.nft("table ip partly { chain c { type filter hook forward priority 0; ct state new accept; }; }")
        before = witness.nft_tables(self.network)
        tool = self.capture_json()
        made = self.make_one_of_each_family()
        self.assertEqual(witness.flows_in_table(self.network), made, "IPv6 is not tracked")
        self.assertEqual(self.stop_complete(tool).report().flows(), made)
        self.assertEqual(witness.nft_tables(self.network), before)

    def test_notrack_is_no_use_of_conntrack(self):
        """-j CT takes no reference where it says --notrack."""
        for command in ("iptables-legacy", "ip6tables-legacy"):
            self.network.run("router", command, "-w", "-t", "raw", "-A", "PREROUTING", "-p", "udp", "--dport", "9", "-j", "CT", "--notrack")
        tool = self.capture_json()
        made = self.make_one_of_each_family()
        self.assertEqual(witness.flows_in_table(self.network), made)
        self.assertEqual(self.stop_complete(tool).report().flows(), made)

    def test_nat_of_one_family_in_a_table_of_both(self):
        self.network.nft("table inet partly { chain c { type nat hook prerouting priority 0; tcp dport 9 dnat ip to 10.77.2.2; }; }")
        tool = self.capture_json()
        made = self.make_one_of_each_family()
        self.assertEqual(witness.flows_in_table(self.network), made, "IPv6 is not tracked")
        self.assertEqual(self.stop_complete(tool).report().flows(), made)

    def test_activate_off_adds_nothing(self):
        tool = self.capture_json("--activate", "off")
        self.assert_as_before()
        self.traffic.udp(4)
        report = self.stop_complete(tool).report()
        self.assertEqual(report.objects, [])
        self.assertEqual(report.stats["rungs"]["activation"], "off")
        self.assert_as_before()

    def test_activate_nft(self):
        tool = self.capture_json("--activate", "nft")
        self.assertTrue(self.is_there())
        made = self.make_one_of_each_family()
        self.assertEqual(self.stop_complete(tool).report().flows(), made)
        self.assert_as_before()


class ActiveAlready(Firewall):
    """Conntrack is active by a rule of the user: nothing is added at all."""

    def check_nothing_added(self):
        before = self.state_of_firewall()
        counters = self.rule_counters()
        tool = self.capture_json()
        self.assertIn("conntracker: conntrack is active; left as it is", tool.errors().splitlines())
        self.assertEqual(self.state_of_firewall(), before)
        self.assertEqual(self.stop_complete(tool).report().stats["rungs"]["activation"], "active")
        self.assertEqual(self.state_of_firewall(), before)
        self.assertEqual(self.rule_counters(), counters)

    def test_by_an_nft_rule(self):
        self.network.activate()
        self.make_one_of_each_family()
        self.check_nothing_added()

    def test_by_iptables_legacy_rules(self):
        self.need_legacy_tables()
        for command in ("iptables-legacy", "ip6tables-legacy"):
            self.network.run("router", command, "-w", "20", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT")
        self.make_one_of_each_family()
        self.check_nothing_added()

    def test_where_loopback_is_not_tracked(self):
        """A common rule of busy machines."""
        self.network.activate()
        self.network.nft("""table inet somebody {
            chain early { type filter hook prerouting priority -300; iifname lo notrack; }
            chain early_out { type filter hook output priority -300; oifname lo notrack; }
        }""")
        self.check_nothing_added()

    def test_where_ipv6_is_disabled(self):
        self.network.set("router", "net.ipv6.conf.all.disable_ipv6", 1)
        self.network.activate()
        self.check_nothing_added()

    def test_where_loopback_is_down(self):
        self.network.run("router", "ip", "link", "set", "lo", "down")
        self.network.activate()
        self.check_nothing_added()

    def test_where_loopback_is_dropped(self):
        self.network.activate()
        self.network.nft("table inet somebody { chain sent { type filter hook output priority 0; policy drop; }; }")
        self.check_nothing_added()

    def test_no_rule_counts_a_packet_of_the_tool(self):
        self.network.nft("""table inet somebody {
            chain arriving { type filter hook prerouting priority -300; meta l4proto { tcp, udp } counter; }
            chain sent { type filter hook output priority 0; ct state new meta l4proto { tcp, udp } counter; }
        }""")
        self.check_nothing_added()

    def test_by_a_rule_that_has_seen_no_flow_yet(self):
        self.network.activate()
        self.check_nothing_added()


class LegacyRules(Firewall):
    """--activate legacy, for kernels without nf_tables: a chain of the tool's own among somebody's rules."""

    TABLES = ("raw", "mangle", "filter")

    def setUp(self):
        super().setUp()
        self.need_legacy_tables()
        # Whatever a killed run wrote down for the next one is given back, also when a test fails.
        self.addCleanup(lambda: self.run_to_end("-o", "-", "--for", "0.01"))

    def add_rules_of_somebody(self):
        """Rules without conntrack, in every table, with counters that are not zero."""
        for command in ("iptables-legacy", "ip6tables-legacy"):
            for table in self.TABLES:
                chain = "PREROUTING" if table == "raw" else "FORWARD"
                base = [command, "-w", "20", "-t", table]
                self.network.run("router", *base, "-N", "SOMEBODY")
                self.network.run("router", *base, "-A", chain, "-p", "udp", "-j", "SOMEBODY")
                self.network.run("router", *base, "-A", "SOMEBODY", "-p", "udp", "--dport", "9")
                self.network.run("router", *base, "-A", chain, "-p", "tcp", "-m", "comment", "--comment", "two words", "-j", "ACCEPT")
        self.make_one_of_each_family()

    def chains(self):
        lines = [line for save in SAVES for line in witness.legacy_rules(self.network, save)]
        return [line for line in lines if OWN_CHAIN in line]

    def capture_with_chain(self, *options):
        tool = self.capture(*options, "--activate", "legacy")
        self.assertNotEqual(self.chains(), [], "the chain is not there")
        return tool


class LegacyChain(LegacyRules):
    def test_is_there_while_it_runs_and_gone_after(self):
        self.add_rules_of_somebody()
        before, counters = self.state_of_firewall(), self.rule_counters()
        tool = self.capture_with_chain("--format", "json")
        self.assertNotIn(OWN_TABLE, witness.nft_tables(self.network))
        made = self.make_one_of_each_family()
        self.assertEqual(witness.flows_in_table(self.network), made)
        report = self.stop_complete(tool).report()
        self.assertEqual(report.flows(), made)
        self.assertEqual(report.stats["rungs"]["activation"], "legacy")
        self.assertEqual(self.state_of_firewall(), before)
        self.assertEqual(len(self.rule_counters()), len(counters))

    def test_counters_of_others_are_untouched(self):
        self.add_rules_of_somebody()
        before, counters = self.state_of_firewall(), self.rule_counters()
        self.assertTrue(any(not line.startswith("[0:0]") for line in counters))
        for _ in range(3):
            self.stop_complete(self.capture_with_chain())
        self.assertEqual(self.rule_counters(), counters)
        self.assertEqual(self.state_of_firewall(), before)

    def test_leaves_no_rule_where_no_table_was_loaded(self):
        """The kernel keeps a table loaded once it was used; it must be empty then."""
        self.assertEqual(self.loaded_tables(), [[], []])
        self.stop_complete(self.capture_with_chain())
        for save in SAVES:
            lines = witness.legacy_rules(self.network, save)
            empty = re.compile(r"[*]|COMMIT$|:(PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING) ACCEPT$")
            self.assertEqual([line for line in lines if not empty.match(line)], [])

    def test_the_next_run_sweeps_what_kill_9_left(self):
        self.add_rules_of_somebody()
        before, counters = self.state_of_firewall(), self.rule_counters()
        self.capture_with_chain().kill()
        self.assertNotEqual(self.chains(), [], "kill -9 cannot be undone by the killed")
        tool = self.capture_json()
        made = self.make_one_of_each_family()
        self.assertEqual(self.stop_complete(tool).report().flows(), made)
        self.assertEqual(self.state_of_firewall(), before)
        self.assertEqual(len(self.rule_counters()), len(counters))

    def test_ended_at_any_instant(self):
        """By SIGTERM it is clean at once, by kill -9 after the next run."""
        self.add_rules_of_somebody()
        before = self.state_of_firewall()
        for instant_ms in range(0, 60, 3):
            tool = self.start("-o", self.path("report"), "--activate", "legacy")
            pass_time(instant_ms / 1000)
            tool.send(signal.SIGTERM)
            tool.wait()
            self.assertEqual(self.chains(), [])
            tool = self.start("-o", self.path("report"), "--activate", "legacy")
            pass_time(instant_ms / 1000)
            tool.kill()
            wait_for(lambda: not self.network.processes("router"), "the iptables that the killed run had started")
            self.stop_complete(self.capture())
            self.assertEqual(self.chains(), [])
        self.assertEqual(self.state_of_firewall(), before)

    def test_what_a_held_lock_kept_is_swept_by_the_next_run(self):
        """Somebody's iptables never lets go: the report is written, the chain is named, and not forgotten."""
        self.add_rules_of_somebody()
        before = self.state_of_firewall()
        tool = self.capture_with_chain()
        with open("/run/xtables.lock", "a", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.assertEqual(tool.stop(), 1, tool.errors())
        self.assertIn("xtables.lock", tool.errors())
        self.assertNotEqual(self.chains(), [])
        tool = self.capture()
        self.assertIn("removed what an earlier run left behind", tool.errors())
        self.stop_complete(tool)
        self.assertEqual(self.state_of_firewall(), before)

    def test_a_chain_of_somebody_with_our_name_stays(self):
        self.network.run("router", "iptables-legacy", "-w", "20", "-t", "filter", "-N", OWN_CHAIN)
        before = self.state_of_firewall()
        tool = self.run_to_end("-o", "-", "--for", "0.1", "--activate", "legacy")
        self.assertEqual(tool.process.returncode, 1, tool.errors())
        self.assertIn("not ours", tool.errors())
        self.assertEqual(self.state_of_firewall()["iptables-legacy-save"], before["iptables-legacy-save"])

    def test_nothing_is_added_where_conntrack_is_active(self):
        self.network.activate()
        before = self.state_of_firewall()
        tool = self.capture("--activate", "legacy")
        self.assertEqual(self.chains(), [])
        self.stop_complete(tool)
        self.assertEqual(self.state_of_firewall(), before)


class LegacyChainUnderTraffic(LegacyRules):
    """Others count and change their rules while the tool comes and goes."""

    ROUNDS = 5
    SENDER = """
import socket, sys, time, select
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sent = 0
while not select.select([sys.stdin], [], [], 0.0002)[0]:
    out.sendto(b"counted", ("10.77.2.2", 9))
    sent += 1
print(sent)
"""

    def come_and_go(self, between=lambda: None):
        for number in range(self.ROUNDS):
            tool = self.capture_with_chain()
            between()
            if number == 1:
                tool.kill()
            else:
                self.stop_complete(tool)
            between()

    def test_every_packet_is_counted_once(self):
        self.traffic.discard()
        for table in self.TABLES:
            chain = "PREROUTING" if table == "raw" else "FORWARD"
            self.network.run("router", "iptables-legacy", "-w", "20", "-t", table, "-A", chain, "-p", "udp", "--dport", "9")
        with self.network.inside("client"):
            sender = processes.start([sys.executable, "-c", self.SENDER], stdin=-1, stdout=-1)
        self.addCleanup(processes.end, sender)
        wait_for(lambda: not self.rule_counters()[0].startswith("[0:0]"), "the first packets")
        self.come_and_go()
        sent = int(sender.communicate(b"stop\n", timeout=20)[0])
        counted = [int(re.match(r"\[(\d+):", line)[1]) for line in self.rule_counters() if "--dport 9" in line]
        self.assertEqual(counted, [sent] * len(self.TABLES))

    def test_rules_added_meanwhile_survive(self):
        added = []

        def add_rules():
            for _ in range(5):
                added.append(f"-A FORWARD -p udp -m udp --dport {len(added) + 1} -j ACCEPT")
                self.network.run("router", "iptables-legacy", "-w", "20", *added[-1].split())

        self.come_and_go(add_rules)
        kept = [line for line in witness.legacy_rules(self.network, "iptables-legacy-save") if line.startswith("-A FORWARD")]
        self.assertEqual(kept, added)
        self.assertEqual(self.chains(), [])

    def test_rules_added_at_the_same_instant_survive(self):
        script = "for k in $(seq 1 600); do iptables-legacy -w 20 -A FORWARD -p udp -m udp --dport $k -j ACCEPT || exit 1; done"
        with self.network.inside("router"):
            rival = processes.start(["sh", "-c", script])
        self.addCleanup(processes.end, rival)
        rounds = 0
        while rival.poll() is None:
            self.stop_complete(self.capture_with_chain())
            rounds += 1
        self.assertEqual(rival.returncode, 0)
        self.assertGreater(rounds, 2)
        kept = [line for line in witness.legacy_rules(self.network, "iptables-legacy-save") if line.startswith("-A FORWARD")]
        self.assertEqual(kept, [f"-A FORWARD -p udp -m udp --dport {number} -j ACCEPT" for number in range(1, 601)])
        self.assertEqual(self.chains(), [])
