#!/bin/sh
# kill -9 in the middle of everything: nothing of it stays, or the next start removes it.
# shellcheck disable=SC2154,SC2119 # names of ground.sh, and by eval
# shellcheck source=tests/kernels/ground.sh
. "$here/ground.sh"

state() {
	{
		nft list ruleset
		iptables-legacy-save
		ip6tables-legacy-save
		sed '' /proc/sys/net/netfilter/nf_log/2 /proc/sys/net/netfilter/nf_log/10
		cat /sys/kernel/tracing/kprobe_events
	} 2>/dev/null | sed 's/\[[0-9]*:[0-9]*\]//; /^#/d'
}
clean() {
	state >/tmp/state.after
	cmp -s /tmp/state.before /tmp/state.after
}

watchdog_gone() { ! grep -qsx conntracker-dog /proc/[0-9]*/comm; } # busybox's pidof does not find 15 letters

network_up
no_rules
must "rules" iptables-legacy -A FORWARD -p udp --dport 1001 -j DROP
must "rules" ip6tables-legacy -A FORWARD -p udp --dport 1001 -j DROP
iptables-legacy -t raw -L -n >/dev/null # loaded, as it stays
ip6tables-legacy -t raw -L -n >/dev/null
state >/tmp/state.before
kill_it() { # kill_it TRACE_RUNG OWNER_RUNG
	trace=$1 owner=$2 subject=killed-$1-$2
	check -t -b --trace-rung "$trace" --owner "$owner"
	if [ "$(checked trace rung) $(checked owners rung)" != "$trace $owner" ]; then
		no "check says $(checked trace rung), $(checked owners rung)"
		return
	fi
	start_capture -t -e -b --trace-rung "$trace" --owner "$owner"
	if clean; then fail "there is nothing to be removed"; fi
	kill -9 "$capture"
	wait "$capture"
	left=
	wait_for "its watchdog" watchdog_gone # which cleans up, and until then no other one starts
	if [ "$owner" = legacy ]; then # the names stay until the next start, as the manual says
		left="names in kprobe_events until the next start"
		start_capture -b --owner legacy
		stop_capture
	fi
	wait_for "nothing left: $(diff /tmp/state.before /tmp/state.after | head -n 5)" clean
	ok "$left"
}

set -- 'nft-owned trace' 'nft-owned cgroup' 'nft kprobe' 'legacy legacy'
check -b
case $(checked bpf detail) in
*"built without"*) set -- "$@" 'nft-owned procfs' 'nft procfs' 'legacy procfs' ;;
esac
for each; do
	# shellcheck disable=SC2086 # two words
	(kill_it $each)
done
no_rules
