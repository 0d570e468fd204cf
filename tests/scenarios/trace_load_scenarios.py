"""Much at once: a flood of new flows, very many rules and elements, and rules that change while packets pass."""

import ipaddress
import signal
import time

from firewalls import Legacy, Nft, nft_rules, same_text
from network import CLIENT, SERVER
from report import UDP
from rules import Match, Packet, guilty, travel
from tracing import EVERYTHING, Tracing
from traffic import DISCARD_PORT
from waiting import pass_time, wait_for

FLOOD = 200_000
RATE = 200
ELEMENTS = 100_000
MANY_RULES = 20_000
LONELY = 60
ROUNDS = 5
# The kernel does not tell that a legacy table was replaced: how long it may take until that is noticed.
NOTICED_AFTER_S = 1.5


def flood():
    """Half over IPv4, half over IPv6, to four addresses each."""
    places = [(CLIENT[version], address.format(number)) for version, address in ((4, "10.88.0.{}"), (6, "fd88::{}")) for number in range(1, 5)]
    return [(*ends, port, DISCARD_PORT) for ends in places for port in range(2000, 2000 + FLOOD // len(places))]


class Flood(Tracing):
    def test_is_capped_and_what_was_left_out_is_said(self):
        firewall = Nft(self.network)
        forward = firewall.ruleset.base("filter", "forward")
        for version in (4, 6):
            firewall.ruleset.add(forward, Match(version, UDP, states=("new",)), "accept")
        self.use(firewall)
        self.traffic.discard()
        tool = self.capture_json("-t", "-e", "--trace-rate", str(RATE), "--capacity", str(FLOOD + 10_000))
        made = self.traffic.many_udp(flood())
        self.assertEqual(tool.stop(), 3, tool.errors())
        report = tool.report()
        trace = report.stats["trace"]
        self.assertLessEqual(trace["packets"], RATE * (report.stats["duration_s"] + 2), trace)
        self.assertGreater(trace["packets"], 0, trace)
        self.assertGreater(trace["untraced"], 0, trace)
        self.assertFalse(report.stats["complete"])
        self.assertTrue(tool.summary().startswith("conntracker: incomplete: "), tool.errors())
        self.assertRegex(tool.summary(), rf"\b{trace['untraced']}\b.*(untraced|not traced)")
        self.assertEqual(report.flows(), sorted(made), "the cap holds for the traced packets, not for the flows")
        traced = [each for each in report.objects if "path" in each]
        self.assertTrue(0 < len(traced) <= trace["packets"], (len(traced), trace))


class Large(Tracing):
    def dropped(self, port, sport=5000):
        return Packet(4, UDP, CLIENT[4], SERVER[4], sport, port)

    def check_one(self, rules_of, packet, text):
        """The rule that counts the packet is found among all, and blamed."""
        began = time.monotonic()
        tool = self.start("-o", "-", "--format", "json", *EVERYTHING)
        wait_for(lambda: "conntracker: capturing" in tool.errors().splitlines() or not tool.is_running(), tool.errors, deadline_s=120)
        took_ms = (time.monotonic() - began) * 1000
        with open(f"/proc/{tool.pid}/status", encoding="ascii") as status:
            (memory,) = (line.split()[1] for line in status if line.startswith("VmHWM:"))
        print(f"     {self.id()}: captures after {took_ms:.0f} ms, {memory} kB resident at most", flush=True)
        self.traffic.send(packet, 2)

        def counted():
            found = [each for each in rules_of() if each.packets and any(text in one for one in each.texts)]
            return found if [each.packets for each in found] == [2] else None

        (rule,) = wait_for(counted, f"a rule with {text} to count two packets", deadline_s=60)
        tool.send(signal.SIGTERM)
        self.assertEqual(tool.wait(60), 0, tool.errors())
        flow = tool.report().by_original(UDP, packet.tuple)
        self.assertEqual((flow["verdict"], flow["state"]), ("drop", "unconfirmed"))
        self.assert_blamed(flow["blame"], rule)
        return rule

    def test_nft_rules_and_a_set(self):
        base = int(ipaddress.ip_address("172.16.0.0"))
        elements = ", ".join(str(ipaddress.ip_address(base + index)) for index in range(ELEMENTS - 1))
        rules = "\n".join(f"ip daddr 10.99.{index // 250}.{index % 250} udp dport {index % 60000 + 1} counter drop" for index in range(MANY_RULES))
        self.network.nft(f"""table inet big {{
            set known {{ type ipv4_addr; elements = {{ {elements}, {CLIENT[4]} }}; }}
            chain forward {{
                type filter hook forward priority 0; policy accept;
                {rules}
                ip saddr @known udp dport 61 counter drop
            }}
        }}""")
        rule = self.check_one(lambda: nft_rules(self.network, what=("chain", "inet", "big", "forward")), self.dropped(61), "@known")
        self.assertEqual(rule.position, MANY_RULES + 1)

    def test_legacy_rules(self):
        self.need_legacy_tables()
        self.network.run("router", "iptables-legacy-restore", text=legacy_rules("", "FORWARD"))
        rule = self.check_one(lambda: Legacy(self.network).listed(4), self.dropped(61), "--dport 61 ")
        self.assertEqual(rule.position, MANY_RULES + 1)

    def test_lines_that_wait_until_large_legacy_tables_are_read(self):
        """What nf_tables tells of a packet is read at once, long before the lines are: it is one packet all the same."""
        self.need_legacy_tables()
        text = legacy_rules(":ELSEWHERE - [0:0]\n", "ELSEWHERE")
        self.network.run("router", "iptables-legacy-restore", text=text)
        self.network.nft("table inet before { chain forward { type filter hook forward priority -10; counter; }; }")
        tool = self.trace()
        packets = [self.dropped(61, 5000 + number) for number in range(LONELY)]
        for packet in packets:
            self.traffic.send(packet)
            pass_time(0.033)  # so that they come at every moment of the pause between two reads
        report = self.stop_traced(tool)
        found = [(each["original"]["sport"], each["verdict"], each.get("attempts")) for each in report.objects
                 if each["type"] == "flow" and each["original"]["dport"] == 61]
        self.assertEqual(sorted(found), [(packet.sport, "drop", 1) for packet in packets])


def legacy_rules(chains, chain):
    """MANY_RULES in a chain, which let UDP to port 61 pass that is dropped in FORWARD."""
    rules = "".join(f"-A {chain} -d 10.99.{index // 250}.{index % 250}/32 -p udp -j DROP\n" for index in range(MANY_RULES))
    return f"*filter\n:FORWARD ACCEPT [0:0]\n{chains}{rules}-A FORWARD -p udp -m udp --dport 61 -j DROP\nCOMMIT\n"


class Reloaded(Tracing):
    """The whole ruleset is replaced in the middle of the capture; its handles and positions begin again, on other rules."""

    def firewall_of_round(self, kind, number):
        """The rule that drops port 60 has another comment and another place in each round."""
        firewall = kind(self.network)
        forward = firewall.ruleset.base("filter", "forward")
        for filler in range(number):
            firewall.ruleset.add(forward, Match(4, UDP, (100 + filler, 100 + filler)), "drop", comment=f"filler of round {number}")
        firewall.ruleset.add(forward, Match(4, UDP, (60, 60)), "drop", comment=f"round {number}")
        firewall.ruleset.add(forward, Match(4, UDP, (200, 200)), "drop", comment=f"last of round {number}")
        return firewall

    def check_reload(self, kind, count, pause_s):
        """Each round has a flow of its own, and what the firewall listed at that time."""
        rounds = []
        tool = None
        for number in range(count):
            firewall = self.firewall_of_round(kind, number)
            firewall.place()
            tool = tool or self.trace()
            pass_time(pause_s)
            packet = Packet(4, UDP, CLIENT[4], SERVER[4], 5000 + number, 60)
            self.traffic.send(packet, 2)
            self.check_counters([firewall], [(travel([firewall], packet), 2)])
            rounds.append((packet, firewall.find(firewall.listed(4), 4, guilty(travel([firewall], packet)))))
            pass_time(pause_s)
        report = self.stop_traced(tool)
        generations = []
        for number, (packet, listed) in enumerate(rounds):
            with self.subTest(round=number):
                flow = report.by_original(UDP, packet.tuple)
                self.assertEqual(flow["verdict"], "drop")
                self.assertEqual(listed.comment, f"round {number}")
                self.assert_blamed(flow["blame"], listed)
                last = flow["path"]["original"][-1]
                self.assertTrue(same_text(last["rule"], listed), (last, listed))
                generations.append(flow["blame"].get("generation"))
        return generations

    def test_of_nft(self):
        generations = self.check_reload(Nft, ROUNDS, 0)
        self.assertEqual(len(set(generations)), ROUNDS, generations)
        self.assertEqual(generations, sorted(generations))

    def test_of_iptables_legacy(self):
        self.need_legacy_tables()
        self.assertEqual(self.check_reload(Legacy, 3, NOTICED_AFTER_S), [None] * 3)

    def test_handles_are_used_again(self):
        """What the scenarios above stand on: the same handle, another rule."""
        found = {}
        for number in (0, 1):
            firewall = self.firewall_of_round(Nft, number)
            firewall.place()
            for each in firewall.listed(4):
                if each.kind == "rule":
                    found.setdefault(each.handle, set()).add(each.comment)
        self.assertTrue(any({"round 0", "filler of round 1"} <= comments for comments in found.values()), found)
