#!/bin/sh
# 64 MiB, and nothing but busybox: a capture with the defaults, beside what little there is.
# shellcheck disable=SC2154,SC2119 # names of ground.sh, and by eval
# shellcheck source=tests/kernels/ground.sh
. "$here/ground.sh"

talk() { # over lo; nobody is there, which the kernel says
	for port in $1; do
		echo x | nc -w 1 127.0.0.1 "$port"
		ping -c 1 -W 1 127.0.0.1
		ping6 -c 1 -W 1 ::1
	done
}

must "more than 64 MiB" [ "$(awk '/MemTotal/ { print $2 }' /proc/meminfo)" -lt 65536 ]
"$conntracker" check >/tmp/check.txt || fail "check says that it would not work: $(tail -n 1 /tmp/check.txt)"
"$conntracker" -b -o "$report" 2>"$said" &
capture=$!
wait_for "a capture" capturing
talk "1 2 3"
peak=$(awk '/VmHWM/ { print $2 }' "/proc/$capture/status")
stop_capture
must "flows are missing" [ "$(grep -c '127.0.0.1\|::1' "$report")" -ge 5 ]
must "no ICMP" grep -q 'ICMPv4.*127.0.0.1' "$report"
must "no ICMPv6" grep -q 'ICMPv6.*::1' "$report"
must "a process was killed for memory" [ -z "$(dmesg | grep -i 'out of memory')" ]
ok "$peak KiB at most; $(grep MemAvailable /proc/meminfo | tr -s ' ') at the end"
