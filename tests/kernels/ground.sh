#!/bin/sh
# What the subjects stand on: a network of three, captures, and words for what was found. Read by each.
#
#   client 10.0.1.2, fd00:1::2  --  the guest itself, a router: .1, ::1  --  server 10.0.2.2, fd00:2::2
# shellcheck disable=SC2154,SC2120 # kernel, arch, subject, results: of tests/kernels/guest

# shellcheck disable=SC2034 # for the subjects
client_4=10.0.1.2 client_6=fd00:1::2 router_4=10.0.1.1 router_6=fd00:1::1 server_4=10.0.2.2 server_6=fd00:2::2
conntracker=/usr/local/sbin/conntracker
report=/tmp/report said=/tmp/said
patience=600 # tenths of a second; a guest is slow, and slower where the machine has other work

# ---------------------------------------------------------------- words

line() { # line NAME WORD DETAIL
	echo "$kernel $arch $1 $2 $3" | tee -a "$results"
}
ok() { line "${2:-$subject}" ok "${1:-}"; }
no() { line "${2:-$subject}" no "$1"; }
fail() {
	line "${2:-$subject}" FAIL "$1"
	[ ! -f "$said" ] || sed 's/^/said: /' "$said"
	exit 1
}
must() { # must WHAT COMMAND...
	what=$1
	shift
	"$@" || fail "$what"
}

wait_for() { # wait_for WHAT COMMAND...: until that succeeds
	what=$1 waited=0
	shift
	until "$@"; do
		[ $waited -lt $patience ] || fail "waited in vain for $what"
		waited=$((waited + 1))
		sleep 0.1
	done
}
gone() { ! grep -qs '^State:.[^ZX]' "/proc/$1/status"; } # one look: it may go between two

# ---------------------------------------------------------------- the network

in_client() { ip netns exec client "$@"; }
in_server() { ip netns exec server "$@"; }

network_up() {
	[ ! -e /run/netns/client ] || return 0
	for side in client server; do
		ip netns add $side
		ip link add to-$side type veth peer name eth0 netns $side
		ip link set to-$side up
		ip -n $side link set lo up
		ip -n $side link set eth0 up
	done
	link client 1
	link server 2
	echo 1 >/proc/sys/net/ipv4/ip_forward
	echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
	modprobe -q nf_conntrack
	modprobe -q nf_log_syslog # which the target TRACE wants, and busybox does not load with it: see logger.sh
	echo 1 >/proc/sys/net/netfilter/nf_conntrack_acct
	wait_for "the network" in_client ping -c 1 -W 1 $server_6
	in_client ping -c 1 -W 1 $server_4
	cp /bin/nc.openbsd /tmp/asker # a name that nobody else has
	cp /bin/nc.openbsd /tmp/answerer
}

link() { # link SIDE NUMBER
	ip addr add "10.0.$2.1/24" dev "to-$1"
	ip addr add "fd00:$2::1/64" dev "to-$1" nodad
	ip -n "$1" addr add "10.0.$2.2/24" dev eth0
	ip -n "$1" addr add "fd00:$2::2/64" dev eth0 nodad
	ip -n "$1" route add default via "10.0.$2.1"
	ip -n "$1" route add default via "fd00:$2::1"
}

# Takes all rules away, of each firewall that is loaded.
no_rules() {
	nft flush ruleset 2>/dev/null
	for ip in ip ip6; do
		[ -r /proc/net/${ip}_tables_names ] || continue
		while read -r table; do
			${ip}tables-legacy -t "$table" -F
			${ip}tables-legacy -t "$table" -X
		done <"/proc/net/${ip}_tables_names"
	done
}

# ---------------------------------------------------------------- traffic

serve_tcp() { # serve_tcp PORT: in the server, both families, echoes
	in_server busybox nc -ll -p "$1" -e cat &
	wait_for "a listener on port $1" listens_there "$1"
}
listens_there() { in_server grep -q "$(printf ':%04X ' "$1")" /proc/net/tcp /proc/net/tcp6; }

serve_udp() { # serve_udp FAMILY PORT: in the server, answers the first that asks
	rm -f "/tmp/udp-$1-$2"
	mkfifo "/tmp/udp-$1-$2"
	# shellcheck disable=SC2094 # it is a fifo
	in_server nc.openbsd "-$1" -u -l "$2" <"/tmp/udp-$1-$2" | cat >"/tmp/udp-$1-$2" &
	wait_for "a socket on port $2" receives_there "$1" "$2"
}
receives_there() { in_server grep -q "$(printf ':%04X ' "$2")" "/proc/net/udp$(echo "$1" | tr -d 4)"; }

# Asks and gets its own words back, from a port that is given. Prefix it with in_client.
ask_tcp() { # ask_tcp FAMILY SOURCE_PORT TO PORT
	[ "$(echo word | in_client /tmp/asker "-$1" -N -w 5 -p "$2" "$3" "$4")" = word ]
}
ask_udp() { # ask_udp FAMILY SOURCE_PORT TO PORT
	[ "$(echo word | in_client /tmp/asker "-$1" -u -w 1 -W 1 -p "$2" "$3" "$4")" = word ]
}

# ---------------------------------------------------------------- captures

# What the program says of its ways on this kernel: check OPTION...; checked NAME FIELD
check() { "$conntracker" check --format json "$@" >/tmp/check.json; }
checked() { jq -r "select(.name == \"$1\") | .$2 // \"none\"" /tmp/check.json; }

start_capture() { # start_capture OPTION...: sets capture; ready when this returns
	rm -f "$report" "$said"
	"$conntracker" --format json -o "$report" "$@" 2>"$said" &
	capture=$!
	wait_for "a capture with $*" capturing
}
capturing() {
	! gone "$capture" || fail "it ended by itself: $(tail -n 1 "$said")"
	grep -q '^conntracker: capturing' "$said"
}

stop_capture() { # its report must be there, and complete
	kill -TERM "$capture"
	wait "$capture"
	status=$?
	[ $status = 0 ] && return
	jq -c 'select(.type == "stats"), (.. | objects | select(.kind == "rule" and (has("rule") | not)))' "$report" # what is missing in it
	fail "exit status $status: $(tail -n 1 "$said")"
}

stats() { jq -r "select(.type == \"stats\") | $1" "$report"; }

# The flows that a filter of jq chooses.
flows() { jq -c "select(.type == \"flow\") | select($1)" "$report"; }
count_flows() { flows "$1" | wc -l; }
