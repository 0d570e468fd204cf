#!/bin/sh
# A kernel before nf_tables, or a small one: all is done by iptables.
# shellcheck disable=SC2154,SC2119 # names of ground.sh, and by eval
# shellcheck source=tests/kernels/ground.sh
. "$here/ground.sh"

network_up
if nft list ruleset 2>/dev/null; then fail "nf_tables is there"; fi
check -t -e
must "nf_tables is $(checked nf_tables state)" [ "$(checked nf_tables state)" != ok ]
must "activation by $(checked activation rung)" [ "$(checked activation rung)" = legacy ]
must "tracing by $(checked trace rung)" [ "$(checked trace rung)" = legacy ]
for family in '' 6; do
	must "rules" "ip${family}tables-legacy" -A FORWARD -p udp --dport 1001 -j DROP
done
start_capture -t -e
for family in 4 6; do
	eval "server=\$server_$family"
	echo x | in_client /tmp/asker -$family -u -q 0 -p 5${family}40 "$server" 1001
	echo x | in_client /tmp/asker -$family -u -q 0 -p 5${family}41 "$server" 1002
done
sleep 1
stop_capture
must "it was by $(stats '.rungs.activation + ", " + .trace.rung')" [ "$(stats '.rungs.activation + " " + .trace.rung')" = "legacy legacy" ]
must "not two drops by the right rule" \
	[ "$(count_flows '.original.dport == 1001 and .verdict == "drop" and .blame.firewall == "iptables-legacy" and (.blame.rule | contains("--dport 1001"))')" = 2 ]
must "not two flows that passed" [ "$(count_flows '.original.dport == 1002 and .verdict == "accept"')" = 2 ]
if { iptables-legacy-save; ip6tables-legacy-save; } | grep CONNTRACKER; then fail "something of it stayed"; fi
ok "activation and tracing by legacy"
