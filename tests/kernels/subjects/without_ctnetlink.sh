#!/bin/sh
# Without ctnetlink nothing works, which is said so that it can be mended.
# shellcheck disable=SC2154,SC2119 # names of ground.sh, and by eval
# shellcheck source=tests/kernels/ground.sh
. "$here/ground.sh"

if conntrack -L 2>/dev/null; then fail "ctnetlink is there"; fi
if check; then fail "check says that it would work"; fi
must "ctnetlink is $(checked ctnetlink state)" [ "$(checked ctnetlink state)" = missing ]
must "no advice" [ "$(checked ctnetlink advice)" != none ]
must "works, because" [ "$(jq -c 'select(.type == "summary").because' /tmp/check.json)" = '["ctnetlink"]' ]
timeout 20 "$conntracker" --for 1 -o "$report" 2>"$said"
status=$?
must "exit status $status" [ $status = 1 ]
must "not a word of it: $(cat "$said")" grep -q nf_conntrack_netlink "$said"
if "$conntracker" -d --follow -o /tmp/flows 2>"$said"; then fail "a daemon says that it has started"; fi
must "of the daemon not a word of it: $(cat "$said")" grep -q nf_conntrack_netlink "$said"
ok "$(tail -n 1 "$said")"
