# fish completion for conntracker(8)

set -l commands blame replay check
set -l bare "not __fish_seen_subcommand_from $commands"
set -l capture "not __fish_seen_subcommand_from replay"

complete -c conntracker -n "$bare" -f -a blame -d 'Which rules deny flows'
complete -c conntracker -n "$bare" -f -a replay -d 'The flows again, from a recording'
complete -c conntracker -n "$bare" -f -a check -d 'What would work here'

complete -c conntracker -s o -l output -r -F -d 'Where the report goes; - is standard output'
complete -c conntracker -l format -x -a 'text json' -d 'How it is written'
complete -c conntracker -l follow -d 'Write each flow as it starts and ends'
complete -c conntracker -l capacity -x -a '16384 65536 262144' -d 'Flows to keep in memory'
complete -c conntracker -l proto -x -a 'tcp udp icmp icmpv6 sctp dccp udplite gre esp ah igmp ospf ipencap ipv6' -d 'Protocols'
complete -c conntracker -l net -x -d 'Networks that take part'
complete -c conntracker -l not-net -x -d 'Networks that take no part'
complete -c conntracker -l port -x -d 'Ports that take part'
complete -c conntracker -s 4 -l ipv4 -d 'IPv4 only'
complete -c conntracker -s 6 -l ipv6 -d 'IPv6 only'
complete -c conntracker -s h -l help -d 'The help'
complete -c conntracker -s V -l version -d 'The version'

complete -c conntracker -n "$capture" -l for -x -a '10s 1m 5m 1h' -d 'Stop after a time'
complete -c conntracker -n "$capture" -l every -x -a '1m 5m 1h' -d 'Write the report that often, too'
complete -c conntracker -n "$capture" -s d -l daemon -d 'In the background'
complete -c conntracker -n "$capture" -s f -l foreground -d 'Stay in the foreground'
complete -c conntracker -n "$capture" -l pidfile -r -F -d 'Where the pid of the daemon is written'
complete -c conntracker -n "$capture" -l status -r -F -d 'Where numbers for Prometheus are written'
complete -c conntracker -n "$capture" -l rotate -x -a '1m 1m,2 10m,4' -d 'Size of a file, and how many of before are kept'
complete -c conntracker -n "$capture" -l dry-run -d 'Say what would be done to the system'
complete -c conntracker -n "$capture" -l all-netns -d 'Hear every network namespace that has an id'
complete -c conntracker -n "$capture" -l buffer -x -a '1m 8m 64m' -d 'Receive buffer to ask for'
complete -c conntracker -n "$capture" -l activate -x -a 'auto nft legacy off' -d 'How conntrack is switched on where nothing uses it'
complete -c conntracker -n "$capture" -l record -r -F -d 'Write what the kernel sent'
complete -c conntracker -n "$capture" -s t -l trace -d 'Show the chains and rules that each flow passed'
complete -c conntracker -n "$capture" -s e -l everything -d 'With --trace, what was dropped, rejected, invalid or untracked, too'
complete -c conntracker -n "$capture" -l trace-rate -x -a '500 2000 10000' -d 'Packets to trace in a second'
complete -c conntracker -n "$capture" -l trace-rung -x -a 'auto nft-owned nft legacy' -d 'How packets are traced'
complete -c conntracker -n "$capture" -s b -l bpf -d 'Show the process at each end that is on this machine'
complete -c conntracker -n "$capture" -l owner -x -a 'auto trace cgroup kprobe legacy procfs' -d 'How processes are found'
complete -c conntracker -n "$capture" -l btf -r -F -d 'Types of the kernel'
