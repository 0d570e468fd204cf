// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Who uses which socket, told by kprobes that know nothing of the running kernel but the head of
 * struct sock_common, which is the same on every 64-bit kernel with network namespaces since 3.13.
 * For kernels from 4.4 on that have neither BTF nor programs of control groups. Where the layout is
 * another one after all, what is told at start about a connection of our own is wrong, and the loader
 * takes these programs off again.
 *
 * Verifiers before 4.16 refuse global data, strings, loops and functions, those before 4.10 an LRU
 * map, and 4.4 delivers nothing to BPF_F_CURRENT_CPU and wants all memory set that a helper writes to.
 * tests/kprobe_lint.rs holds the object to that.
 *
 * Every function that is hooked here is called by the task that uses the socket, never by an
 * interrupt. A kernel thread that does so is told as what it is: there is no way here to tell.
 *
 * kp_NAME has to attach, kp_may_NAME may fail: a kernel can lack what it hooks.
 */
#include "types.h"
#include "registers.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "record.h"

#define AGAIN_NS 2000000000ULL /* who goes on sending or receiving the same is told again after this */
#define SLOTS 1024
#define SLOT_BITS 10

#define ICMP_ECHO_REQUEST (8 << 8)
#define ICMPV6_ECHO_REQUEST (128 << 8)

/* The head of struct sock_common. */
struct sock_head {
	__u8 daddr[4];
	__u8 rcv_saddr[4];
	__u32 hash;
	__be16 dport;
	__u16 num; /* local port, id of a ping socket, protocol of a raw one */
	__u16 family;
	__u8 state;
	__u8 reuse;
	__u32 bound_dev_if;
	__u64 bind_node[2];
	__u64 prot;
	__u64 net;
	__u8 v6_daddr[16];
	__u8 v6_rcv_saddr[16];
};

_Static_assert(__builtin_offsetof(struct sock_head, dport) == 12, "skc_dport");
_Static_assert(__builtin_offsetof(struct sock_head, num) == 14, "skc_num");
_Static_assert(__builtin_offsetof(struct sock_head, family) == 16, "skc_family");
_Static_assert(__builtin_offsetof(struct sock_head, net) == 48, "skc_net");
_Static_assert(__builtin_offsetof(struct sock_head, v6_daddr) == 56, "skc_v6_daddr");
_Static_assert(__builtin_offsetof(struct sock_head, v6_rcv_saddr) == 72, "skc_v6_rcv_saddr");

/* struct sockaddr_in and struct sockaddr_in6 */
struct name {
	__u16 family;
	__be16 port;
	__u8 ip4[4];
	__u8 ip6[16];
};

_Static_assert(__builtin_offsetof(struct name, ip4) == 4, "sin_addr");
_Static_assert(__builtin_offsetof(struct name, ip6) == 8, "sin6_addr");

struct told {
	__u64 what; /* hash of it */
	__u64 at_ns;
};

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

/* What was told lately, each in a slot of its own; another one that falls there pushes it out. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, struct told);
} slots SEC(".maps");

static __always_inline void read_sock(struct sock_head *head, const void *sk)
{
	__builtin_memset(head, 0, sizeof(*head));
	bpf_probe_read(head, sizeof(*head), sk);
}

/* The ends as the socket has them. Returns whether it is one of IP. */
static __always_inline bool socket_ends(struct record *record, const struct sock_head *head)
{
	__builtin_memset(record, 0, sizeof(*record));
	record->netns = head->net;
	record->local_port = head->num;
	record->remote_port = bpf_ntohs(head->dport);
	if (head->family == AF_INET) {
		__builtin_memcpy(record->local, head->rcv_saddr, 4);
		__builtin_memcpy(record->remote, head->daddr, 4);
		return true;
	}
	if (head->family == AF_INET6) {
		record->flags = RECORD_IPV6;
		__builtin_memcpy(record->local, head->v6_rcv_saddr, 16);
		__builtin_memcpy(record->remote, head->v6_daddr, 16);
		return true;
	}
	return false;
}

/* Where a message goes to, if it says so itself. msg_name is the first field of struct msghdr. */
static __always_inline bool read_name(struct name *name, const void *message)
{
	const void *at = NULL;

	__builtin_memset(name, 0, sizeof(*name));
	bpf_probe_read(&at, sizeof(at), message);
	if (!at)
		return false;
	bpf_probe_read(name, sizeof(*name), at);
	return true;
}

static __always_inline __u64 mixed(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
	return hash ^ hash >> 32;
}

static __always_inline __u64 hash_of(const struct record *record)
{
	const __u64 *local = (const __u64 *)record->local;
	const __u64 *remote = (const __u64 *)record->remote;
	__u64 hash = mixed(record->netns, record->pid);

	hash = mixed(hash, local[0]);
	hash = mixed(hash, local[1]);
	hash = mixed(hash, remote[0]);
	hash = mixed(hash, remote[1]);
	hash = mixed(hash, (__u64)record->local_port << 16 | record->remote_port);
	return mixed(hash, record->moment << 16 | record->proto << 8 | record->flags);
}

static __always_inline bool is_news(const struct record *record)
{
	__u64 hash = hash_of(record);
	__u32 slot = hash >> (64 - SLOT_BITS);
	struct told *told = bpf_map_lookup_elem(&slots, &slot);

	if (!told)
		return true;
	if (told->what == hash && record->at_ns - told->at_ns < AGAIN_NS)
		return false;
	told->what = hash;
	told->at_ns = record->at_ns;
	return true;
}

/* Sends a record of the current task. */
static __always_inline int tell(struct pt_regs *ctx, struct record *record, __u8 moment, __u8 proto)
{
	record->at_ns = bpf_ktime_get_ns();
	record->pid = bpf_get_current_pid_tgid() >> 32;
	record->source = SOURCE_PROBE;
	record->moment = moment;
	record->proto = proto;
	if ((moment == MOMENT_SEND || moment == MOMENT_RECEIVE) && !is_news(record))
		return 0;
	record->uid = bpf_get_current_uid_gid();
	bpf_get_current_comm(record->comm, sizeof(record->comm));
	bpf_perf_event_output(ctx, &events, bpf_get_smp_processor_id(), record, sizeof(*record));
	return 0;
}

SEC("kprobe/tcp_connect")
int kp_connect(struct pt_regs *ctx)
{
	struct sock_head head;
	struct record record;

	read_sock(&head, FIRST_ARGUMENT(ctx));
	if (!socket_ends(&record, &head))
		return 0;
	return tell(ctx, &record, MOMENT_CONNECT, IPPROTO_TCP);
}

/*
 * The socket of a connection is handed to the process that accepts it. Without
 * CONFIG_SECURITY_NETWORK there is no such function; who listens is told by kp_may_listen then.
 */
SEC("kprobe/security_sock_graft")
int kp_may_accept(struct pt_regs *ctx)
{
	struct sock_head head;
	struct record record;

	read_sock(&head, FIRST_ARGUMENT(ctx));
	if (!socket_ends(&record, &head) || !record.local_port || !record.remote_port)
		return 0;
	return tell(ctx, &record, MOMENT_ACCEPT, IPPROTO_TCP);
}

/*
 * The port is there unless nobody asked for a certain one. Who listens may leave it to others to
 * accept.
 */
SEC("kprobe/inet_csk_listen_start")
int kp_may_listen(struct pt_regs *ctx)
{
	struct sock_head head;
	struct record record;

	read_sock(&head, FIRST_ARGUMENT(ctx));
	if (!socket_ends(&record, &head) || !record.local_port)
		return 0;
	record.flags |= RECORD_INHERITED;
	return tell(ctx, &record, MOMENT_SOCKET, IPPROTO_TCP);
}

/*
 * Whether the record, with an IPv4 socket's ends in it, has a remote end. The socket can be one of
 * IPv6 that sends to an IPv4-mapped address: what comes to the functions for IPv4 is IPv4, and the
 * socket has its addresses in that form, too.
 */
static __always_inline bool sends_ip4(struct record *record, const struct sock_head *head, const void *message)
{
	struct name name;

	__builtin_memset(record, 0, sizeof(*record));
	record->netns = head->net;
	record->local_port = head->num;
	record->remote_port = bpf_ntohs(head->dport);
	__builtin_memcpy(record->local, head->rcv_saddr, 4);
	__builtin_memcpy(record->remote, head->daddr, 4);
	if (read_name(&name, message)) {
		record->remote_port = bpf_ntohs(name.port);
		__builtin_memcpy(record->remote, name.ip4, 4);
	}
	return *(__u32 *)record->remote;
}

/* Likewise for IPv6. What goes to an IPv4-mapped address passes the functions for IPv4 thereafter. */
static __always_inline bool sends_ip6(struct record *record, const struct sock_head *head, const void *message)
{
	const __u64 *remote = (const __u64 *)record->remote;
	struct name name;

	if (!socket_ends(record, head) || head->family != AF_INET6)
		return false;
	if (read_name(&name, message)) {
		if (name.family == AF_INET)
			return false;
		if (name.family == AF_INET6) {
			record->remote_port = bpf_ntohs(name.port);
			__builtin_memcpy(record->remote, name.ip6, 16);
		}
	}
	if (!remote[0])
		return remote[1] && (__u32)remote[1] != bpf_htonl(0xffff);
	return true;
}

SEC("kprobe/udp_sendmsg")
int kp_send_udp4(struct pt_regs *ctx)
{
	struct sock_head head;
	struct record record;

	read_sock(&head, FIRST_ARGUMENT(ctx));
	if (!sends_ip4(&record, &head, SECOND_ARGUMENT(ctx)))
		return 0;
	return tell(ctx, &record, MOMENT_SEND, IPPROTO_UDP);
}

/* A kernel without IPv6 lacks it, and misses nothing. */
SEC("kprobe/udpv6_sendmsg")
int kp_may_send_udp6(struct pt_regs *ctx)
{
	struct sock_head head;
	struct record record;

	read_sock(&head, FIRST_ARGUMENT(ctx));
	if (!sends_ip6(&record, &head, SECOND_ARGUMENT(ctx)))
		return 0;
	return tell(ctx, &record, MOMENT_SEND, IPPROTO_UDP);
}

SEC("kprobe/ping_v4_sendmsg")
int kp_may_ping4(struct pt_regs *ctx)
{
	struct sock_head head;
	struct record record;

	read_sock(&head, FIRST_ARGUMENT(ctx));
	if (!sends_ip4(&record, &head, SECOND_ARGUMENT(ctx)))
		return 0;
	record.remote_port = ICMP_ECHO_REQUEST;
	return tell(ctx, &record, MOMENT_SEND, IPPROTO_ICMP);
}

SEC("kprobe/ping_v6_sendmsg")
int kp_may_ping6(struct pt_regs *ctx)
{
	struct sock_head head;
	struct record record;

	read_sock(&head, FIRST_ARGUMENT(ctx));
	if (!sends_ip6(&record, &head, SECOND_ARGUMENT(ctx)))
		return 0;
	record.remote_port = ICMPV6_ECHO_REQUEST;
	return tell(ctx, &record, MOMENT_SEND, IPPROTO_ICMPV6);
}

/* What a raw socket sends: of its payload, ports or an id, nothing is known. */
static __always_inline int tell_raw(struct pt_regs *ctx, struct record *record, const struct sock_head *head)
{
	record->local_port = 0;
	record->remote_port = 0;
	return tell(ctx, record, MOMENT_SEND, head->num);
}

SEC("kprobe/raw_sendmsg")
int kp_may_raw4(struct pt_regs *ctx)
{
	struct sock_head head;
	struct record record;

	read_sock(&head, FIRST_ARGUMENT(ctx));
	if (!sends_ip4(&record, &head, SECOND_ARGUMENT(ctx)))
		return 0;
	return tell_raw(ctx, &record, &head);
}

SEC("kprobe/rawv6_sendmsg")
int kp_may_raw6(struct pt_regs *ctx)
{
	struct sock_head head;
	struct record record;

	read_sock(&head, FIRST_ARGUMENT(ctx));
	if (!sends_ip6(&record, &head, SECOND_ARGUMENT(ctx)))
		return 0;
	return tell_raw(ctx, &record, &head);
}

/*
 * A process takes a datagram, which has ends that the socket does not know unless it is connected.
 *
 * skb_consume_udp() is there from 4.10 on; before, there is only the call itself, which may still
 * wait. A loader attaches all of these that there are: on a newer kernel both tell the same, and the
 * second time it is no news.
 */
static __always_inline int receives(struct pt_regs *ctx)
{
	struct sock_head head;
	struct record record;

	read_sock(&head, FIRST_ARGUMENT(ctx));
	if (!socket_ends(&record, &head) || !record.local_port)
		return 0;
	return tell(ctx, &record, MOMENT_RECEIVE, IPPROTO_UDP);
}

SEC("kprobe/skb_consume_udp")
int kp_may_recv_new(struct pt_regs *ctx)
{
	return receives(ctx);
}

SEC("kprobe/udp_recvmsg")
int kp_may_recv_old4(struct pt_regs *ctx)
{
	return receives(ctx);
}

SEC("kprobe/udpv6_recvmsg")
int kp_may_recv_old6(struct pt_regs *ctx)
{
	return receives(ctx);
}
