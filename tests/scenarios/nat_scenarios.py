"""Translated flows: both tuples, and which end was translated."""

import witness
from network import CLIENT, ROUTER_CLIENT_SIDE, ROUTER_SERVER_SIDE, SERVER
from report import ECHO, expected_text
from scenario import Scenario

NFT_NAT = """
table inet translation {
    chain arriving {
        type nat hook prerouting priority -100; policy accept;
        ip daddr 10.77.1.1 tcp dport 8080 dnat ip to 10.77.2.2:80
        ip6 daddr fd77:1::1 tcp dport 8080 dnat ip6 to [fd77:2::2]:80
        ip daddr 10.77.1.1 udp dport 8053 dnat ip to 10.77.2.2:53
    }
    chain leaving {
        type nat hook postrouting priority 100; policy accept;
        oifname rs meta l4proto tcp masquerade
        oifname rs ip daddr 10.77.2.2 meta l4proto icmp masquerade
        oifname rs udp dport 5353 masquerade to :7000
    }
}
"""


class Translated(Scenario):
    """The same traffic under nf_tables and under iptables-legacy rules."""

    def rules_of_nft(self):
        self.network.nft(NFT_NAT)

    def rules_of_iptables_legacy(self):
        self.need_legacy_tables()
        for command, version in (("iptables-legacy", 4), ("ip6tables-legacy", 6)):
            here, there = ROUTER_CLIENT_SIDE[version], SERVER[version]
            target = f"{there}:80" if version == 4 else f"[{there}]:80"
            arriving = [command, "-w", "20", "-t", "nat", "-A", "PREROUTING", "-d", here]
            leaving = [command, "-w", "20", "-t", "nat", "-A", "POSTROUTING", "-o", "rs"]
            self.network.run("router", *arriving, "-p", "tcp", "--dport", "8080", "-j", "DNAT", "--to-destination", target)
            self.network.run("router", *leaving, "-p", "tcp", "-j", "MASQUERADE")
            self.network.run("router", *leaving, "-p", "udp", "--dport", "5353", "-j", "MASQUERADE", "--to-ports", "7000")
            if version == 4:
                self.network.run("router", *arriving, "-p", "udp", "--dport", "8053", "-j", "DNAT", "--to-destination", "10.77.2.2:53")
                self.network.run("router", *leaving, "-p", "icmp", "-j", "MASQUERADE")

    def make_translated_flows(self):
        made = []
        for version in (4, 6):
            made.append(self.traffic.tcp(version, port=80, to=(ROUTER_CLIENT_SIDE[version], 8080)).close())
            made.append(self.traffic.udp(version, port=5353, client_port=6000))
            made.append(self.traffic.udp(version, port=123, client_port=6000))
        made.append(self.traffic.udp(4, port=53, to=(ROUTER_CLIENT_SIDE[4], 8053)))
        self.traffic.echo(4, 0x55)
        return made

    def check_what_the_witness_says(self, made):
        """Both ends of the TCP flow really are translated, as its two sockets tell."""
        self.assertEqual(made[0].original[:2], (CLIENT[4], ROUTER_CLIENT_SIDE[4]))
        self.assertEqual(made[0].reply[:2], (SERVER[4], ROUTER_SERVER_SIDE[4]))
        self.assertEqual(made[1].reply, (SERVER[4], ROUTER_SERVER_SIDE[4], 5353, 7000))
        in_table = witness.flows_in_table(self.network)
        self.assertLessEqual(set(made), set(in_table))
        self.assertEqual(len(in_table), len(made) + 1)
        return in_table

    def check_json(self):
        tool = self.capture_json()
        in_table = self.check_what_the_witness_says(self.make_translated_flows())
        report = self.stop_complete(tool).report()
        self.assertEqual(report.flows(), in_table)
        for option, word in (("--src-nat", "snat"), ("--dst-nat", "dnat")):
            # conntrack(8) takes the type of a translated echo for a translated port, so echoes are checked below.
            translated = {entry.id for entry in witness.listed(self.network, option) if entry.protocol not in ECHO}
            self.assertTrue(0 < len(translated) < len(in_table))
            self.assertEqual({each["id"] for each in report.objects if word in each["status"] and each["proto_number"] not in ECHO}, translated)
        (echo,) = (each for each in report.objects if each["proto_number"] in ECHO)
        self.assertEqual(echo["reply"]["dst"], ROUTER_SERVER_SIDE[4])
        self.assertEqual(("snat" in echo["status"], "dnat" in echo["status"]), (True, False))

    def check_text(self):
        tool = self.capture()
        in_table = self.check_what_the_witness_says(self.make_translated_flows())
        self.stop_complete(tool)
        self.assertEqual(tool.output(), expected_text(in_table))

    def test_json_under_nft(self):
        self.rules_of_nft()
        self.check_json()

    def test_text_under_nft(self):
        self.rules_of_nft()
        self.check_text()

    def test_json_under_iptables_legacy(self):
        self.rules_of_iptables_legacy()
        self.check_json()

    def test_text_under_iptables_legacy(self):
        self.rules_of_iptables_legacy()
        self.check_text()
