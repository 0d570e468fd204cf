#!/bin/sh
# Where no rule uses conntrack, each way of switching it on: flows are seen, and nothing of it stays.
# shellcheck disable=SC2154,SC2119 # names of ground.sh, and by eval
# shellcheck source=tests/kernels/ground.sh
. "$here/ground.sh"

activate_by() { # activate_by RUNG
	rung=$1 subject=activation-$1
	no_rules
	nft list ruleset >/tmp/nft.before
	asked=${rung%-owned}
	# nft is what the program falls back to; where tables can be owned, only an owned one is seen
	check --activate "$asked"
	if [ "$(checked activation rung)" != "$rung" ]; then
		no "check says $(checked activation rung): $(checked owned_table detail)"
		return
	fi
	start_capture --activate "$asked"
	for family in 4 6; do
		eval "server=\$server_$family"
		echo x | in_client /tmp/asker -$family -u -q 0 -p 5${family}1$number "$server" 9
	done
	wait_for "an echo" in_client ping -c 1 -W 1 "$server_4"
	stop_capture
	must "$rung: it was $(stats .rungs.activation)" [ "$(stats .rungs.activation)" = "$rung" ]
	must "$rung: UDP flows are missing" [ "$(count_flows ".proto == \"udp\" and (.original.sport == 541$number or .original.sport == 561$number)")" = 2 ]
	nft list ruleset >/tmp/nft.after
	must "$rung: something stayed: $(diff /tmp/nft.before /tmp/nft.after)" cmp -s /tmp/nft.before /tmp/nft.after
	if iptables-legacy-save 2>/dev/null | grep CONNTRACKER; then fail "a legacy chain stayed"; fi
	ok
}

network_up
number=0 # a port that is new on each: what it left in the table may still be there
for each in nft-owned nft legacy; do
	number=$((number + 1))
	(activate_by $each)
done
