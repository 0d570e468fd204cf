// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Who uses which socket, told by programs at functions of the kernel, which libbpf fits to the kernel
 * that runs by means of its BTF. Linux 5.5 and later by fentry (arm64: 6.4), older ones by kprobes, and
 * preemptible ones, where fentry leaves out what a second task does on the same CPU meanwhile.
 *
 * Each hook is there as fe_NAME and as kp_NAME; a loader takes all of the one kind or of the other.
 * Those with "may" in their name may fail to load or to attach: a kernel can lack what they hook.
 *
 * What is told is the task that runs. So only such functions are hooked as the task calls that uses
 * the socket, inside its own system call. Interrupts send for others: no function is hooked that they
 * call with a socket of a process (all of TCP but connecting and accepting). What the kernel itself
 * sends meanwhile (replies, resets) comes from sockets that no file belongs to.
 */
#include "types.h"
#include "kernel.h"
#include "registers.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include "record.h"

#define AGAIN_NS 5000000000ULL /* who goes on sending or receiving the same is told again after this */

/* What tells one record from another, in the middle of it: from the namespace to the remote end. */
#define RECORD_KEY_SIZE (__builtin_offsetof(struct record, comm) - __builtin_offsetof(struct record, netns))

struct ipv4_header {
	__u8 version_ihl;
	__u8 unread[11];
	__u8 source[4];
	__u8 destination[4];
};

struct ipv6_header {
	__u8 unread[8];
	__u8 source[16];
	__u8 destination[16];
};

/* The beginning of what lies above IP. */
union transport {
	struct {
		__be16 source;
		__be16 destination;
	} port;
	struct {
		__u8 type;
		__u8 code;
		__be16 checksum;
		__be16 id;
	} icmp;
};

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

/* When a record was sent last. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__uint(key_size, RECORD_KEY_SIZE);
	__type(value, __u64);
} told_lately SEC(".maps");

/* The raw socket, by its inode, that a task has sent through last. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} raw_senders SEC(".maps");

static __always_inline bool is_news(struct record *record)
{
	__u64 *told = bpf_map_lookup_elem(&told_lately, &record->netns);

	if (told && record->at_ns - *told < AGAIN_NS)
		return false;
	bpf_map_update_elem(&told_lately, &record->netns, &record->at_ns, BPF_ANY);
	return true;
}

/* Sends a record of the current task, unless that is the kernel's own. */
static __always_inline int tell(void *ctx, struct record *record, __u8 moment)
{
	const struct task_struct *task = (const void *)bpf_get_current_task();
	unsigned int flags = BPF_CORE_READ(task, flags);

	if (flags & PF_KTHREAD)
		return 0;
	record->at_ns = bpf_ktime_get_ns();
	record->pid = bpf_get_current_pid_tgid() >> 32;
	record->source = SOURCE_PROBE;
	record->moment = moment;
	if ((moment == MOMENT_SEND || moment == MOMENT_RECEIVE) && !is_news(record))
		return 0;
	record->uid = BPF_CORE_READ(task, cred, euid.val);
	if (flags & PF_IO_WORKER) /* a thread of the process, but with a name that the kernel gave it */
		BPF_CORE_READ_INTO(&record->comm, task, group_leader, comm);
	else
		bpf_get_current_comm(record->comm, sizeof(record->comm));
	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, record, sizeof(*record));
	return 0;
}

/* Whether a process has it open. The kernel has sockets of its own, for replies and for services. */
static __always_inline bool is_of_process(const struct sock *sk)
{
	return BPF_CORE_READ(sk, sk_socket, file);
}

/* One byte among other bits before 5.6, two bytes since: MPTCP does not fit into one. */
static __always_inline __u16 protocol_of(const struct sock *sk)
{
	return BPF_CORE_READ_BITFIELD_PROBED(sk, sk_protocol);
}

static __always_inline void begin(struct record *record, const struct sock *sk)
{
	__builtin_memset(record, 0, sizeof(*record));
	record->cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	record->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
}

static __always_inline void put_ip4(__u8 *to, __be32 address)
{
	__builtin_memcpy(to, &address, sizeof(address));
}

/* The ends of a TCP connection. Returns whether it has both of them. */
static __always_inline bool connection_ends(struct record *record, const struct sock *sk)
{
	const struct inet_sock *inet = (const struct inet_sock *)sk;
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	begin(record, sk);
	record->proto = IPPROTO_TCP;
	if (family == AF_INET) {
		put_ip4(record->local, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
		put_ip4(record->remote, BPF_CORE_READ(sk, __sk_common.skc_daddr));
	} else if (family == AF_INET6) {
		record->flags = RECORD_IPV6;
		BPF_CORE_READ_INTO(&record->local, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&record->remote, sk, __sk_common.skc_v6_daddr);
	} else {
		return false;
	}
	/* skc_num is zero where the connection was reset before somebody accepts it. */
	record->local_port = bpf_ntohs(BPF_CORE_READ(inet, inet_sport));
	record->remote_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	return record->local_port && record->remote_port;
}

/* The transport header is found by its own offset: options and extension headers do not matter. */
static __always_inline void read_transport(struct record *record, const struct sk_buff *skb, bool leaves)
{
	const unsigned char *head = BPF_CORE_READ(skb, head);
	union transport transport = {};

	bpf_probe_read_kernel(&transport, sizeof(transport), head + BPF_CORE_READ(skb, transport_header));
	switch (record->proto) {
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		record->local_port = bpf_ntohs(transport.icmp.id);
		record->remote_port = transport.icmp.type << 8 | transport.icmp.code;
		break;
	case IPPROTO_TCP: /* by a raw socket */
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_DCCP:
	case IPPROTO_SCTP:
		record->local_port = bpf_ntohs(leaves ? transport.port.source : transport.port.destination);
		record->remote_port = bpf_ntohs(leaves ? transport.port.destination : transport.port.source);
		break;
	}
}

/* The ends of a datagram, from its headers. */
static __always_inline void datagram_ends(struct record *record, const struct sock *sk,
					  const struct sk_buff *skb, bool leaves)
{
	const unsigned char *at = BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, network_header);
	struct ipv4_header ip4 = {};
	struct ipv6_header ip6 = {};

	begin(record, sk);
	record->proto = protocol_of(sk);
	bpf_probe_read_kernel(&ip4, sizeof(ip4), at);
	if (ip4.version_ihl >> 4 == 4) {
		__builtin_memcpy(leaves ? record->local : record->remote, ip4.source, 4);
		__builtin_memcpy(leaves ? record->remote : record->local, ip4.destination, 4);
	} else {
		bpf_probe_read_kernel(&ip6, sizeof(ip6), at);
		record->flags = RECORD_IPV6;
		__builtin_memcpy(leaves ? record->local : record->remote, ip6.source, 16);
		__builtin_memcpy(leaves ? record->remote : record->local, ip6.destination, 16);
	}
	read_transport(record, skb, leaves);
}

/* One more way of an MPTCP connection: a daemon may open it, for whatever process. */
static __always_inline bool is_further_way(const struct sock *sk)
{
	const struct inet_connection_sock *connection = (const struct inet_connection_sock *)sk;
	const struct tcp_sock *tcp = (const struct tcp_sock *)sk;
	const struct mptcp_subflow_context *way;

	if (!bpf_core_field_exists(struct tcp_sock, is_mptcp) ||
	    !bpf_core_field_exists(struct mptcp_subflow_context, request_join))
		return false;
	if (!BPF_CORE_READ_BITFIELD_PROBED(tcp, is_mptcp))
		return false;
	way = BPF_CORE_READ(connection, icsk_ulp_data);
	return BPF_CORE_READ_BITFIELD_PROBED(way, request_join);
}

/* Before the SYN leaves, with the ends decided on. */
static __always_inline int on_connect(void *ctx, const struct sock *sk)
{
	struct record record;

	if (is_further_way(sk) || !connection_ends(&record, sk))
		return 0;
	return tell(ctx, &record, MOMENT_CONNECT);
}

/* The socket of a connection is handed to the process that accepts it. */
static __always_inline int on_accept(void *ctx, const struct sock *sk, const struct socket *parent)
{
	__u16 protocol = protocol_of(sk);
	struct record record;

	if (protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP)
		return 0;
	if (!BPF_CORE_READ(parent, file) || !connection_ends(&record, sk))
		return 0;
	return tell(ctx, &record, MOMENT_ACCEPT);
}

/*
 * A finished datagram leaves a socket. The kernel's replies for TCP can name the socket of a process,
 * or what is left of one, in place of their own.
 */
static __always_inline int on_send_skb(void *ctx, const struct sk_buff *skb)
{
	const struct sock *sk = BPF_CORE_READ(skb, sk);
	struct record record;
	__u8 state;

	if (!sk)
		return 0;
	state = BPF_CORE_READ(sk, __sk_common.skc_state);
	if (state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV)
		return 0;
	if (protocol_of(sk) == IPPROTO_TCP || !is_of_process(sk))
		return 0;
	datagram_ends(&record, sk, skb, true);
	return tell(ctx, &record, MOMENT_SEND);
}

/*
 * What a ping socket or a raw one sends over IPv4, about to be finished: some compilers leave no call
 * of ip_send_skb() for these. The header of IP is not written yet, but its addresses are known.
 */
static __always_inline int on_push4(void *ctx, const struct sock *sk, const struct flowi4 *flow)
{
	const struct sk_buff *skb = BPF_CORE_READ(sk, sk_write_queue.next);
	struct record record;

	if (!is_of_process(sk) || BPF_CORE_READ(skb, sk) != sk) /* nothing waits: it is no packet */
		return 0;
	begin(&record, sk);
	record.proto = protocol_of(sk);
	put_ip4(record.local, BPF_CORE_READ(flow, saddr));
	put_ip4(record.remote, BPF_CORE_READ(flow, daddr));
	read_transport(&record, skb, true);
	return tell(ctx, &record, MOMENT_SEND);
}

/* A process takes a datagram out of its socket. */
static __always_inline int on_receive(void *ctx, const struct sock *sk, const struct sk_buff *skb)
{
	struct record record;

	if (!is_of_process(sk))
		return 0;
	datagram_ends(&record, sk, skb, false);
	return tell(ctx, &record, MOMENT_RECEIVE);
}

/* A number that no other socket has had, in contrast to an address. 0: not a process's. */
static __always_inline __u64 inode_of(const struct sock *sk)
{
	return BPF_CORE_READ(sk, sk_socket, file, f_inode, i_ino);
}

static __always_inline int on_raw(const struct sock *sk)
{
	__u32 thread = bpf_get_current_pid_tgid();
	__u64 socket = inode_of(sk);

	bpf_map_update_elem(&raw_senders, &thread, &socket, BPF_ANY);
	return 0;
}

/*
 * Conntrack confirms a flow. Only this shows the flow of a packet whose IP header the process wrote
 * itself. It runs for forwarded packets, in interrupts, and for what a queue in user space gives back,
 * too: the task has sent through this very raw socket, or it is not told.
 */
static __always_inline int on_confirm(void *ctx, const struct sk_buff *skb)
{
	__u32 thread = bpf_get_current_pid_tgid();
	__u64 *sends_through = bpf_map_lookup_elem(&raw_senders, &thread);
	const struct sock *sk;
	const struct nf_conn *ct;
	struct record record;
	__u8 state;

	if (!sends_through || !*sends_through)
		return 0;
	sk = BPF_CORE_READ(skb, sk);
	ct = (const void *)(BPF_CORE_READ(skb, _nfct) & ~7UL); /* the lower bits are its state */
	if (!sk || !ct)
		return 0;
	state = BPF_CORE_READ(sk, __sk_common.skc_state);
	if (state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV)
		return 0;
	if (inode_of(sk) != *sends_through)
		return 0;
	begin(&record, sk);
	if (BPF_CORE_READ(ct, tuplehash[0].tuple.src.l3num) == AF_INET6)
		record.flags = RECORD_IPV6;
	record.proto = BPF_CORE_READ(ct, tuplehash[0].tuple.dst.protonum);
	record.local_port = bpf_ntohs(BPF_CORE_READ(ct, tuplehash[0].tuple.src.u.all));
	record.remote_port = bpf_ntohs(BPF_CORE_READ(ct, tuplehash[0].tuple.dst.u.all));
	BPF_CORE_READ_INTO(&record.local, ct, tuplehash[0].tuple.src.u3);
	BPF_CORE_READ_INTO(&record.remote, ct, tuplehash[0].tuple.dst.u3);
	return tell(ctx, &record, MOMENT_CONFIRM);
}

/* Both programs of a hook. A program of fentry finds the arguments as an array of numbers. */
#define HOOK(name, function, of_fentry, of_kprobe)                       \
	SEC("fentry/" #function) int fe_##name(__u64 *ctx)              \
	{                                                                \
		return of_fentry;                                        \
	}                                                                \
	SEC("kprobe/" #function) int kp_##name(struct pt_regs *ctx)     \
	{                                                                \
		return of_kprobe;                                        \
	}

#define FIRST(ctx) ((const void *)(ctx)[0])
#define SECOND(ctx) ((const void *)(ctx)[1])

HOOK(connect, tcp_connect,
     on_connect(ctx, FIRST(ctx)),
     on_connect(ctx, FIRST_ARGUMENT(ctx)))

HOOK(accept, security_sock_graft,
     on_accept(ctx, FIRST(ctx), SECOND(ctx)),
     on_accept(ctx, FIRST_ARGUMENT(ctx), SECOND_ARGUMENT(ctx)))

HOOK(send4, ip_send_skb,
     on_send_skb(ctx, SECOND(ctx)),
     on_send_skb(ctx, SECOND_ARGUMENT(ctx)))

HOOK(push4, ip_push_pending_frames,
     on_push4(ctx, FIRST(ctx), SECOND(ctx)),
     on_push4(ctx, FIRST_ARGUMENT(ctx), SECOND_ARGUMENT(ctx)))

HOOK(may_send6, ip6_send_skb,
     on_send_skb(ctx, FIRST(ctx)),
     on_send_skb(ctx, FIRST_ARGUMENT(ctx)))

HOOK(receive, skb_consume_udp,
     on_receive(ctx, FIRST(ctx), SECOND(ctx)),
     on_receive(ctx, FIRST_ARGUMENT(ctx), SECOND_ARGUMENT(ctx)))

HOOK(may_raw4, raw_sendmsg,
     on_raw(FIRST(ctx)),
     on_raw(FIRST_ARGUMENT(ctx)))

HOOK(may_raw6, rawv6_sendmsg,
     on_raw(FIRST(ctx)),
     on_raw(FIRST_ARGUMENT(ctx)))

HOOK(may_confirm, __nf_conntrack_confirm,
     on_confirm(ctx, FIRST(ctx)),
     on_confirm(ctx, FIRST_ARGUMENT(ctx)))
