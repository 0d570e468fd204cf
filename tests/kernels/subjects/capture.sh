#!/bin/sh
# TCP, UDP and ICMP, both families, translated at either end: what is reported is what conntrack(8) lists.
# shellcheck disable=SC2154,SC2119 # names of ground.sh, and by eval
# shellcheck source=tests/kernels/ground.sh
. "$here/ground.sh"

# Both directions of what conntrack(8) lists of the client, one line each.
listed() {
	for family in ipv4 ipv6; do
		conntrack -L -f $family 2>/dev/null
	done | awk '{
		tuple = $1
		for (i = 2; i <= NF; i++)
			if ($i ~ /^(src|dst|sport|dport|type|code|id)=/) { sub(/^[a-z]*=/, "", $i); tuple = tuple " " $i }
		print tuple
	}' | sort
}
reported() {
	jq -r 'select(.type == "flow") | [.proto] + [.original, .reply |
		if has("sport") then [.src, .dst, .sport, .dport] else [.src, .dst, .icmp_type, .icmp_code, .icmp_id] end | .[]] | join(" ")' "$report" | sort
}

translate() {
	for family in ip ip6; do
		if [ $family = ip ]; then to=$server_4 here=$router_4; else to="[$server_6]" here=$router_6; fi
		nft -f - <<-RULES
			table $family translation {
				chain source { type nat hook postrouting priority 100; oif to-server masquerade; }
				chain destination { type nat hook prerouting priority -100; $family daddr $here tcp dport 8080 dnat to $to:80; }
			}
		RULES
	done
}

network_up
must "no translation" translate
conntrack -F
serve_tcp 80
start_capture
for family in 4 6; do
	eval "server=\$server_$family router=\$router_$family"
	serve_udp $family 53
	ask_tcp $family 5${family}01 "$server" 80 || fail "no TCP over IPv$family"
	ask_tcp $family 5${family}02 "$router" 8080 || fail "no translated TCP over IPv$family"
	ask_udp $family 5${family}03 "$server" 53 || fail "no UDP over IPv$family"
	in_client ping -c 1 -W 2 "$server" || fail "no ICMP over IPv$family"
done
listed >/tmp/listed
stop_capture
reported >/tmp/reported
grep -E '10.0.1.2|fd00:1::2' /tmp/listed >/tmp/of_client
while read -r flow; do
	grep -qxF "$flow" /tmp/reported || fail "not reported: $flow"
done </tmp/of_client
for each in 'tcp 10.0.1.2 10.0.2.2 5401 80 10.0.2.2 10.0.2.1 80 5401' 'tcp 10.0.1.2 10.0.1.1 5402 8080 10.0.2.2 10.0.2.1 80 5402' \
	'udp 10.0.1.2 10.0.2.2 5403 53 10.0.2.2 10.0.2.1 53 5403' 'tcp fd00:1::2 fd00:2::2 5601 80 fd00:2::2 fd00:2::1 80 5601' \
	'tcp fd00:1::2 fd00:1::1 5602 8080 fd00:2::2 fd00:2::1 80 5602' 'udp fd00:1::2 fd00:2::2 5603 53 fd00:2::2 fd00:2::1 53 5603'; do
	grep -qxF "$each" /tmp/reported || fail "missing: $each"
done
must "an ICMP flow is missing" [ "$(grep -cE '^icmp(v6)? (10.0.1.2|fd00:1::2) ' /tmp/reported)" = 2 ]
must "TCP was not seen to end well" [ "$(count_flows '.proto == "tcp" and (.original.sport == 5401 or .original.sport == 5601) and (.status | index("assured")) and .original.packets >= 4')" = 2 ]
ok "$(wc -l </tmp/of_client) flows as conntrack(8) lists them; events: $(stats .rungs.loss)"
no_rules
