#!/bin/sh
# A kernel that has all, on a system that shows little of it: each piece hidden by itself.
# shellcheck disable=SC2154,SC2119 # names of ground.sh, and by eval
# shellcheck source=tests/kernels/ground.sh
. "$here/ground.sh"

local_flow() { # local_flow PORT: its socket stays for a moment
	({ echo word; sleep 2; } | exec /tmp/asker -4 -u -p "$1" "$server_4" 53) &
	wait_for "the flow" listed_udp "$1"
	sleep 0.5
}
listed_udp() { conntrack -L -p udp --sport "$1" 2>/dev/null | grep -q .; }

owned() { # owned PORT PIECE RUNGS: by one of these
	start_capture -b
	local_flow "$1"
	stop_capture
	case " $3 " in
	*" $(stats .owners.rung) "*) ;;
	*) fail "rung $(stats .owners.rung)" "$2" ;;
	esac
	found=$(flows ".original.sport == $1" | jq -r .owner.original.comm)
	[ "$found" = asker ] || fail "owner: $found" "$2"
	ok "owners by $(stats .owners.rung)" "$2"
}

network_up
in_server nc.openbsd -4 -u -l -k 53 &
wait_for "a socket on port 53" receives_there 4 53
nft -f - <<-RULES
	table inet use {
		chain output {
			type filter hook output priority 0; policy accept;
			ct state established accept
		}
	}
RULES

mount -t tmpfs none /sys/kernel/btf
check -b
must "BTF is $(checked btf state)" [ "$(checked btf state)" = missing ]
(owned 5801 without-btf cgroup)
umount -l /sys/kernel/btf

umount /sys/kernel/tracing
umount /sys/fs/cgroup
umount /sys/kernel/debug
(owned 5802 without-tracefs-cgroup2 "trace cgroup kprobe legacy")
mount -t tmpfs none /sys/kernel/btf
(owned 5803 without-btf-tracefs-cgroup2 "cgroup kprobe legacy")
umount -l /sys/kernel/btf

# iptables was there when the rules were made
iptables-legacy -A FORWARD -p udp --dport 1001 -j DROP
iptables-nft -A FORWARD -p udp --dport 1002 -j DROP
mkdir /tmp/away
mv /usr/sbin/*tables* /usr/sbin/xtables* /tmp/away/
check -t
must "iptables is $(checked iptables state)" [ "$(checked iptables state)" != ok ]
start_capture -t -e
for port in 1001 1002; do
	echo x | in_client /tmp/asker -4 -u -q 0 -p 5804 "$server_4" $port
done
sleep 1
kill -TERM "$capture"
wait "$capture"
status=$? # incomplete is right, where a rule's text is missing
for each in 'iptables-legacy 1001' 'iptables-nft 1002'; do
	port=${each#* }
	must "the drop by ${each% *} was not seen" \
		[ "$(count_flows ".original.dport == $port and (.verdict | contains(\"drop\")) and .blame.firewall == \"${each% *}\" and .blame.chain == \"FORWARD\"")" = 1 ]
done
ok "exit status $status, legacy: $(stats .trace.legacy), rule: $(flows '.original.dport == 1001' | jq -r '.blame.rule // "by its position"')" without-iptables
ok "each by itself"
