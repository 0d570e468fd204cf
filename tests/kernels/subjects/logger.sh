#!/bin/sh
# Without nf_tables, and with a modprobe that knows no soft dependencies, the target TRACE lacks its logger:
# what is to be done about it is said beforehand, and by a capture; once it is done, tracing works.
# shellcheck disable=SC2154,SC2119 # names of ground.sh, and by eval
# shellcheck source=tests/kernels/ground.sh
. "$here/ground.sh"
advice='modprobe nf_log_syslog'

must "modprobe is not busybox's" [ "$(basename "$(readlink -f "$(cat /proc/sys/kernel/modprobe)")")" = busybox ]
must "nf_log_syslog is loaded already" [ ! -e /sys/module/nf_log_syslog ]
check -t
must "check says trace: $(checked trace state), $(checked trace advice)" [ "$(checked trace state) $(checked trace advice)" = "missing $advice" ]
check -t --trace-rung legacy
must "check says of the rung: $(checked trace state), $(checked trace advice)" [ "$(checked trace state) $(checked trace advice)" = "missing $advice" ]
"$conntracker" -t --trace-rung legacy --for 1 -o "$report" 2>"$said"
status=$?
must "exit status $status" [ $status = 1 ]
must "a capture does not say it" grep -qF "$advice" "$said"
must "a chain stayed" [ -z "$(iptables-legacy-save -t raw 2>/dev/null | grep CONNTRACKER)" ]
eval "$advice"
check -t
must "it does not help: $(checked trace rung), $(checked trace detail)" [ "$(checked trace rung)" = legacy ]
start_capture -t --trace-rung legacy
stop_capture
must "it was $(stats .trace.rung)" [ "$(stats .trace.rung)" = legacy ]
ok "said by check and by a capture"
