#!/bin/sh
# A drop of each firewall, both families, on each way of tracing: the rule that dropped is the one blamed,
# as often as its own counter says. By the legacy way nf_tables cannot be made to tell, so there is none then.
# shellcheck disable=SC2154,SC2119 # names of ground.sh, and by eval
# shellcheck source=tests/kernels/ground.sh
. "$here/ground.sh"

settings() { sed '' /proc/sys/net/netfilter/nf_log/2 /proc/sys/net/netfilter/nf_log/10; }

drop_rules() {
	for family in '' 6; do
		"ip${family}tables-legacy" -A FORWARD -p udp --dport 1001 -m comment --comment "by legacy" -j DROP || return
		[ "$rung" = legacy ] ||
			"ip${family}tables-nft" -A FORWARD -p udp --dport 1002 -m comment --comment "by iptables-nft" -j DROP || return
	done
	[ "$rung" = legacy ] || nft -f - <<-RULES
		table inet guard {
			chain deeper {
				meta nfproto ipv4 udp dport 1003 counter drop comment "by nft"
				meta nfproto ipv6 udp dport 1003 counter drop comment "by nft"
			}
			chain forward {
				type filter hook forward priority 10; policy accept;
				ct state established accept
				jump deeper
			}
		}
	RULES
}

# Packets that the rule of a port has dropped so far.
dropped() { # dropped FAMILY PORT
	six=${1#4}
	case $2 in
	1001) "ip${six}tables-legacy-save" -c -t filter | sed -n 's/^\[\([0-9]*\):.*--dport 1001 .*/\1/p' ;;
	1002) "ip${six}tables-nft-save" -c -t filter | sed -n 's/^\[\([0-9]*\):.*--dport 1002 .*/\1/p' ;;
	1003) nft list chain inet guard deeper | sed -n "s/.*ipv$1 udp dport 1003 counter packets \([0-9]*\) .*/\1/p" ;;
	esac
}

dropped_two() { [ "$(dropped "$1" "$2")" = 2 ]; }

check_blame() { # check_blame PORT FIREWALL CHAIN TEXT
	flows ".proto == \"udp\" and .original.dport == $1" >"/tmp/of.$1"
	must "$rung: not two flows to port $1" [ "$(wc -l <"/tmp/of.$1")" = 2 ]
	must "$rung: the wrong rule for port $1: $(jq -c .blame "/tmp/of.$1" | head -n 1)" \
		[ "$(jq -r "select(.verdict == \"drop\" and .blame.firewall == \"$2\" and .blame.chain == \"$3\" and (.blame.rule | contains(\"$4\"))) | .attempts" "/tmp/of.$1" | tr '\n' ' ')" = "2 2 " ]
}

trace_on() { # trace_on RUNG
	rung=$1 subject=trace-$1 ports='1001 1002 1003' firewalls=3
	[ "$rung" != legacy ] || ports=1001 firewalls=1
	no_rules
	must "$rung: rules" drop_rules
	check -t -e --trace-rung "$rung"
	if [ "$(checked trace rung)" != "$rung" ]; then
		no "$(checked trace detail)"
		return
	fi
	settings >/tmp/settings.before
	start_capture -t -e --trace-rung "$rung"
	for family in 4 6; do
		eval "server=\$server_$family"
		for port in $ports; do
			for _ in 1 2; do
				echo x | in_client /tmp/asker -$family -u -q 0 -p "5${family}20" "$server" "$port"
			done
			wait_for "$rung: the counter of port $port" dropped_two "$family" "$port"
		done
	done
	ask_udp 4 "$port_passed" "$server_4" 53 || fail "$rung: what nobody drops did not come through"
	stop_capture
	must "$rung: it was $(stats .trace.rung), legacy tables $(stats .trace.legacy)" [ "$(stats '.trace.rung + " " + .trace.legacy')" = "$rung on" ]
	check_blame 1001 iptables-legacy FORWARD '--dport 1001'
	[ "$rung" = legacy ] || check_blame 1002 iptables-nft FORWARD 'dport 1002' # since 1.8.9 that is no xt match
	[ "$rung" = legacy ] || check_blame 1003 nft deeper 'udp dport 1003'
	must "$rung: the flow that passed has no way through the rules" \
		[ "$(count_flows ".original.sport == $port_passed and .verdict == \"accept\" and ([.path.original[].firewall] | unique | length) == $firewalls")" = 1 ]
	settings >/tmp/settings.after
	must "$rung: nf_log was not given back" cmp -s /tmp/settings.before /tmp/settings.after
	if { nft list ruleset; iptables-legacy-save; ip6tables-legacy-save; } | grep -i conntracker; then
		fail "$rung: something of it stayed"
	fi
	ok "$(stats '"\(.trace.packets) packets, \(.trace.messages) messages"')"
}

network_up
port_passed=5420
for each in nft-owned nft legacy; do
	port_passed=$((port_passed + 1)) # a connection that is new on each
	serve_udp 4 53
	(trace_on $each)
	killall nc.openbsd
done
no_rules
