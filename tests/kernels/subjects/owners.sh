#!/bin/sh
# Who has the sockets of flows, found by each rung; and each way of attaching.
# shellcheck disable=SC2154,SC2119 # names of ground.sh, and by eval
# shellcheck source=tests/kernels/ground.sh
. "$here/ground.sh"

# A client and a server here whose sockets stay until the capture has ended: what is asked of /proc
# must find them, too.
talk() { # talk FAMILY PORT_BASE
	eval "server=\$server_$1 router=\$router_$1"
	(sleep 60 | exec /tmp/asker "-$1" -p "$(($2 + 1))" "$server" 80 >/dev/null) &
	({ echo word; sleep 60; } | exec /tmp/asker "-$1" -u -p "$(($2 + 2))" "$server" 53 >/dev/null) &
	/tmp/answerer "-$1" -l -k "$(($2 + 3))" >/dev/null &
	wait_for "a listener" grep -q "$(printf ':%04X ' $(($2 + 3)))" /proc/net/tcp /proc/net/tcp6
	(sleep 60 | in_client nc.openbsd "-$1" "$router" "$(($2 + 3))" >/dev/null) &
	echo word | /tmp/asker "-$1" -u -q 0 -p "$(($2 + 4))" "$server" 54
}

established() { # both connections of both families, as the kernel has them
	[ "$(cat /proc/net/tcp /proc/net/tcp6 | awk '$4 == "01"' | grep -cE ":($(printf '%04X|%04X|%04X|%04X' $((base + 1)) $((base + 3)) $((base + 11)) $((base + 13)))) ")" -ge 4 ]
}

end_talk() {
	for name in asker answerer; do
		killall $name
	done
	killall sleep
}

check_owner() { # check_owner PORT FIELD SIDE NAME PROTO
	found=$(flows ".proto == \"$5\" and .original.$2 == $1" | jq -r ".owner.$3.comm // \"nobody\"")
	[ "$found" = "$4" ] || wrong="$wrong $5:$1=${found:-no-flow}"
}

own_on() { # own_on RUNG
	rung=$1 subject=owner-$1
	check -b --owner "$rung"
	if [ "$(checked owners rung)" != "$rung" ]; then
		no "$(checked owners detail)"
		return
	fi
	base=$((base + 100)) wrong=
	start_capture -b --owner "$rung"
	talk 4 $base
	talk 6 $((base + 10))
	wait_for "$rung: the connections" established
	sleep 0.5 # the client's ends and what is asked of /proc
	stop_capture
	end_talk
	for each in $base $((base + 10)); do
		check_owner $((each + 1)) sport original asker tcp
		check_owner $((each + 2)) sport original asker udp
		check_owner $((each + 3)) dport reply answerer tcp
		# gone at once: only what is told of as it happens has it
		[ "$rung" = procfs ] || check_owner $((each + 4)) sport original asker udp
	done
	must "$rung: it was $(stats .owners.rung)" [ "$(stats .owners.rung)" = "$rung" ]
	[ -z "$wrong" ] || fail "wrong owners:$wrong"
	must "$rung: names stay in kprobe_events" [ -z "$(cat /sys/kernel/tracing/kprobe_events 2>/dev/null)" ]
	ok "$(stats '.owners.reason // ""' | cut -c 1-150)"
}

network_up
nft -f - <<-RULES
	table inet use {
		chain input {
			type filter hook input priority 0; policy accept;
			ct state established accept
		}
	}
RULES
serve_tcp 80
for family in 4 6; do # somebody has to be there, or the client is refused and ends
	in_server nc.openbsd -$family -u -l -k 53 &
	wait_for "a socket on port 53" receives_there $family 53
done
base=6000
for each in ${rungs:-trace cgroup kprobe legacy procfs}; do
	(own_on "$each") || end_talk
	base=$((base + 100))
done
no_rules
