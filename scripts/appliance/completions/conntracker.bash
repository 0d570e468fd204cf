# bash completion for conntracker(8)

_conntracker() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} word command='' values='' head=''
	local of_reports='-o --output --format --follow --capacity --proto --net --not-net --port -4 --ipv4 -6 --ipv6
		-h --help -V --version'
	local of_captures='--for --every -f --foreground -d --daemon --pidfile --status --rotate --dry-run --all-netns
		--buffer --activate --record -t --trace -e --everything --trace-rate --trace-rung -b --bpf --owner --btf'
	COMPREPLY=()
	# --format=json comes as three words
	if [[ $cur == = ]]; then
		cur=''
	elif [[ $prev == = ]]; then
		prev=${COMP_WORDS[COMP_CWORD-2]}
	fi
	for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
		case $word in
		replay | blame | check) command=$word && break ;;
		esac
	done

	case $prev in
	-o | --output | --status | --pidfile | --record | --btf)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	--format) values='text json' ;;
	--activate) values='auto nft legacy off' ;;
	--trace-rung) values='auto nft-owned nft legacy' ;;
	--owner) values='auto trace cgroup kprobe legacy procfs' ;;
	--for | --every) values='10s 1m 5m 1h' ;;
	--rotate) values='1m 1m,2 10m,4' ;;
	--buffer) values='1m 8m 64m' ;;
	--capacity) values='16384 65536 262144' ;;
	--trace-rate) values='500 2000 10000' ;;
	--proto) # a list: the last of it
		[[ $cur != *,* ]] || head=${cur%,*},
		values='tcp udp icmp icmpv6 sctp dccp udplite gre esp ah igmp ospf ipencap ipv6'
		;;
	--net | --not-net | --port) return ;;
	*)
		if [[ $cur == -* && $command == replay ]]; then
			values=$of_reports
		elif [[ $cur == -* ]]; then
			values="$of_reports $of_captures"
		elif [[ $command == replay || $command == blame ]]; then
			compopt -o filenames 2>/dev/null
			mapfile -t COMPREPLY < <(compgen -f -- "$cur")
			return
		elif [[ -z $command ]]; then
			values='blame replay check'
		fi
		;;
	esac
	mapfile -t COMPREPLY < <(compgen -P "$head" -W "$values" -- "${cur#"$head"}")
}
complete -F _conntracker conntracker
