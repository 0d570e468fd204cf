#!/bin/sh
# Booted without a clock that runs, as routers are: a daemon that begins in 1970 sees the time come, and
# be set back an hour, and goes on telling of each flow, its way and its process, with the time it is.
# shellcheck disable=SC2154,SC2119 # names of ground.sh, and by eval
# shellcheck source=tests/kernels/ground.sh
. "$here/ground.sh"
log=/var/log/flows

# A flow of this moment is told of, soon: its process, its way, its time.
told_now() { # told_now PORT WHEN
	now=$(date +%s)
	echo word | /tmp/asker -4 -u -q 0 -p "$1" "$server_4" 53
	wait_for "$2: its process" told "$1" '.owner.original.comm == "asker"'
	wait_for "$2: its way" told "$1" '[.path.original[]?.chain] | index("output")'
	must "$2: told after $(($(date +%s) - now)) s" [ $(($(date +%s) - now)) -le 5 ]
	seen=$(flow "$1" | jq -r '.first_seen | sub("\\.[0-9]+Z$"; "Z") | fromdateiso8601' | sort -u | head -n 1)
	must "$2: first seen at ${seen:-no time}, at $now" [ $((seen - now)) -ge -3 ]
	must "$2: first seen at $seen, at $now" [ $((seen - now)) -le 10 ]
}
flow() { grep -F "\"sport\":$1," $log; }
told() { flow "$1" | jq -e -s "any(.[]; $2)" >/dev/null; }
alive() { [ -r "/proc/$daemon/stat" ] && ! gone "$daemon"; }

must "not booted in 1970" [ "$(date +%Y)" = 1970 ]
network_up
nft -f - <<-RULES
	table inet use {
		chain output {
			type filter hook output priority 0; policy accept;
			ct state established accept
		}
	}
RULES
in_server nc.openbsd -4 -u -l -k 53 &
wait_for "a socket on port 53" receives_there 4 53
must "the daemon does not start" "$conntracker" -d --follow --format json -t -b -o $log
daemon=$(cat /run/conntracker.pid)
told_now 5701 "in 1970"
must "no time can be set" date -s '2026-11-22 12:00:00'
told_now 5702 "the time came"
must "no time can be set" date -s "@$(($(date +%s) - 3600))"
told_now 5703 "an hour back"
sleep 3 # its patience, and what it does each second
told_now 5704 "an hour back, and after a while"
must "it is gone" alive
used=$(awk '{ print $14 + $15 }' "/proc/$daemon/stat")
sleep 2
used=$(($(awk '{ print $14 + $15 }' "/proc/$daemon/stat") - used))
must "it spins: $used ticks in 2 s" [ $used -lt 40 ]
kill -USR1 "$daemon"
wait_for "a report" [ -s $log.report ]
kill -TERM "$daemon"
wait_for "its end" gone "$daemon"
must "not complete: $(tail -n 1 $log)" [ "$(tail -n 1 $log | jq '.complete')" = true ]
ok "told in time in 1970, after the time came, after an hour back"
