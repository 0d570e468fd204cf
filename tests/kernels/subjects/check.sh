#!/bin/sh
# What `conntracker check` says of this kernel; its lines are handed on, for the table.
# shellcheck disable=SC2154,SC2119 # names of ground.sh, and by eval
# shellcheck source=tests/kernels/ground.sh
. "$here/ground.sh"
modules() { cut -d' ' -f1 /proc/modules | sort; }

modules >/tmp/modules.before
"$conntracker" check -t -e -b --format json >/tmp/check.json || fail "says that a capture would not work: $(jq -c 'select(.type == "summary").because' /tmp/check.json)"
must "says nothing of the kernel" grep -q "$(uname -r)" /tmp/check.json
modules >/tmp/modules.after
must "it loaded modules: $(comm -13 /tmp/modules.before /tmp/modules.after | tr '\n' ' ')" cmp -s /tmp/modules.before /tmp/modules.after
while read -r said; do
	echo "$kernel $arch @check $said" >>"$results"
done </tmp/check.json
ok "$(jq -r 'select(.type == "summary") | "\(.ok) ok, \(.degraded) degraded, \(.missing) missing, \(.unknown) unknown"' /tmp/check.json)"
