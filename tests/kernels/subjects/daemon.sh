#!/bin/sh
# By its init script: start, report, log, stop; messages to busybox's syslogd.
# shellcheck disable=SC2154,SC2119 # names of ground.sh, and by eval
# shellcheck source=tests/kernels/ground.sh
. "$here/ground.sh"
log=/var/log/conntracker.log messages=/tmp/messages

script() { must "the init script: $1" /etc/init.d/conntracker "$1"; }
told() { grep -q "conntracker\[$daemon\]: .*$1" $messages; }
in_file() { grep -q "$1" "$2" 2>/dev/null; }

network_up
no_rules
nft list ruleset >/tmp/nft.before
busybox syslogd -O $messages -S
wait_for syslogd [ -S /dev/log ]
script start
daemon=$(cat /run/conntracker.pid)
must "it does not run" [ "$(readlink "/proc/$daemon/exe")" = "$(readlink -f "$conntracker")" ]
script status
for family in 4 6; do
	eval "server=\$server_$family"
	echo x | in_client /tmp/asker -$family -u -q 0 -p 5${family}30 "$server" 9
done
wait_for "the flow in the log" in_file 'fd00:1::2 (port=5630)' $log
kill -USR1 "$daemon"
wait_for "the report" in_file '10.0.1.2 (port=5430)' $log.report
kill -USR2 "$daemon"
wait_for "the line of numbers" told 'flows'
mv $log $log.old
script reload
echo x | in_client /tmp/asker -4 -u -q 0 -p 5431 "$server_4" 9
wait_for "the flow in the new log" in_file 'port=5431' $log
script stop
must "it still runs" gone "$daemon"
must "the pidfile stayed" [ ! -e /run/conntracker.pid ]
must "it was not complete: $(tail -n 1 $messages)" told 'complete: '
nft list ruleset >/tmp/nft.after
must "rules stayed" cmp -s /tmp/nft.before /tmp/nft.after
killall syslogd
ok "$(sed -n "s/.*conntracker\[$daemon\]: //p" $messages | tail -n 1)"
