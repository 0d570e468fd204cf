// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Who uses which socket, told by programs of the control group's root: no kernel symbols, no kernel
 * layouts, no BTF. Linux 5.8 and later.
 *
 * The owner of a socket lies in the socket's own storage: whoever made it, replaced by whoever binds
 * it, connects it, or names an address when sending or receiving through it. A connection that is
 * taken gets a copy of what its listening socket has.
 *
 * The firewall is never harmed: every program allows, whatever happens to it.
 */
#include "types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "record.h"

#define ALLOW 1

#define SECOND 1000000000ULL
#define SEND_AGAIN (5 * SECOND)	   /* the same datagrams, by the same process, are told again */
#define PACKET_AGAIN (10 * SECOND) /* a flow that goes on is told again: a record may have been lost */

#define EXTENSION_HEADERS_MAX 4
#define IPPROTO_HOPOPTS 0
#define IPPROTO_ROUTING 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_DSTOPTS 60

/* A flow as its socket here sees it. */
struct ends {
	__u8 local[16];
	__u8 remote[16];
	__u16 local_port;
	__u16 remote_port;
	__u8 proto; /* 0: not known */
	__u8 flags; /* RECORD_IPV6 */
	__u8 sends; /* in a key: what somebody sends, in contrast to packets */
	__u8 padding;
};

struct owner {
	__u64 cookie; /* the socket that this was written for: a connection's own differs from it */
	__u64 netns;
	__u64 told_ns; /* when the flow of a connected TCP socket was told */
	__u32 pid;     /* 0: the socket is older than we are */
	__u32 uid;
	char comm[16];
	struct ends ends; /* of a connection that was taken, for its release */
};

struct told_key {
	struct ends ends;
	__u64 cookie;
};

struct told {
	__u64 at_ns;
	__u32 pid;
	__u32 padding;
};

char LICENSE[] SEC("license") = "GPL";

/* Our own process: it learns the cookie of its network namespace from a socket of its own. */
const volatile __u32 own_pid = 0;

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct owner);
} owners SEC(".maps");

/* What was told lately, and whose it was said to be. The loader sets how many. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct told_key);
	__type(value, struct told);
} flows_told SEC(".maps");

/*
 * A field of the context can only be read at a fixed place. The empty assembly keeps clang from
 * making one read at a place that varies out of two in two branches.
 */
#define COPY_IP4(to, from)                              \
	do {                                            \
		__u32 word = from;                      \
		__asm__ volatile("" : "+r"(word));      \
		__builtin_memcpy((to), &word, 4);       \
	} while (0)

#define COPY_IP6(to, from)                          \
	do {                                        \
		COPY_IP4((to), (from)[0]);          \
		COPY_IP4((to) + 4, (from)[1]);      \
		COPY_IP4((to) + 8, (from)[2]);      \
		COPY_IP4((to) + 12, (from)[3]);     \
	} while (0)

static __always_inline void take(struct owner *owner, __u64 cookie)
{
	owner->cookie = cookie;
	owner->pid = bpf_get_current_pid_tgid() >> 32;
	owner->uid = bpf_get_current_uid_gid();
	bpf_get_current_comm(owner->comm, sizeof(owner->comm));
}

static __always_inline void fill(struct record *record, __u8 moment, const struct ends *ends,
				 const struct owner *owner, __u64 cookie)
{
	__builtin_memset(record, 0, sizeof(*record));
	record->at_ns = bpf_ktime_get_ns();
	record->cookie = cookie;
	record->source = SOURCE_PROBE;
	record->moment = moment;
	record->proto = ends->proto;
	record->flags = ends->flags;
	record->local_port = ends->local_port;
	record->remote_port = ends->remote_port;
	__builtin_memcpy(record->local, ends->local, sizeof(record->local));
	__builtin_memcpy(record->remote, ends->remote, sizeof(record->remote));
	if (!owner || !owner->pid)
		record->flags |= RECORD_NO_UID;
	if (!owner)
		return;
	record->netns = owner->netns;
	record->pid = owner->pid;
	record->uid = owner->uid;
	__builtin_memcpy(record->comm, owner->comm, sizeof(record->comm));
	if (owner->cookie != cookie)
		record->flags |= RECORD_INHERITED;
}

#define TELL(ctx, record) bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &(record), sizeof(record))

/* Whether it is worth telling: it was not told lately, or not of this process. */
static __always_inline bool is_news(const struct told_key *key, __u32 pid, __u64 again, bool begins)
{
	struct told now = { .at_ns = bpf_ktime_get_ns(), .pid = pid };
	struct told *told = bpf_map_lookup_elem(&flows_told, key);

	if (told && !begins && told->pid == pid && now.at_ns - told->at_ns < again)
		return false;
	bpf_map_update_elem(&flows_told, key, &now, BPF_ANY);
	return true;
}

/* A process makes or binds a socket. */
static __always_inline int have(struct bpf_sock *sk)
{
	struct owner *owner = bpf_sk_storage_get(&owners, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (!owner)
		return ALLOW;
	owner->netns = bpf_get_netns_cookie(sk);
	take(owner, bpf_get_socket_cookie(sk));
	return ALLOW;
}

SEC("cgroup/sock_create")
int cg_create(struct bpf_sock *sk)
{
	return have(sk);
}

/* The listening socket behind one of MPTCP is the kernel's own, and nobody made it. */
SEC("cgroup/post_bind4")
int cg_bind4(struct bpf_sock *sk)
{
	return have(sk);
}

SEC("cgroup/post_bind6")
int cg_bind6(struct bpf_sock *sk)
{
	return have(sk);
}

/* The process that closes the last descriptor of a connection is the one that has served it. */
SEC("cgroup/sock_release")
int cg_may_release(struct bpf_sock *sk)
{
	struct owner *owner = bpf_sk_storage_get(&owners, sk, NULL, 0);
	__u64 cookie = bpf_get_socket_cookie(sk);
	struct record record;
	struct ends ends;

	if (!owner || owner->cookie == cookie || !owner->ends.proto)
		return ALLOW;
	take(owner, cookie);
	owner->netns = bpf_get_netns_cookie(sk);
	ends = owner->ends;
	fill(&record, MOMENT_RELEASE, &ends, owner, cookie);
	TELL(sk, record);
	return ALLOW;
}

/*
 * The process that names an address to a socket is the one that uses it. Tells whether it was taken to
 * be another one before.
 */
static __always_inline struct owner *use(struct bpf_sock_addr *ctx, __u64 cookie, bool *is_new)
{
	struct bpf_sock *sk = ctx->sk;
	struct owner *owner;
	__u32 before;

	if (!sk)
		return NULL;
	owner = bpf_sk_storage_get(&owners, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!owner)
		return NULL;
	if (!owner->netns)
		owner->netns = bpf_get_netns_cookie(ctx);
	before = owner->pid;
	take(owner, cookie);
	*is_new = owner->pid != before;
	return owner;
}

/* What passes through an IPv6 socket to an IPv4-mapped address comes to the programs for IPv4. */
static __always_inline void address_ends(struct bpf_sock_addr *ctx, bool ipv6, struct ends *ends)
{
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return;
	ends->proto = ctx->protocol;
	ends->remote_port = bpf_ntohs(ctx->user_port);
	ends->local_port = sk->src_port;
	if (ipv6) {
		ends->flags = RECORD_IPV6;
		COPY_IP6(ends->local, sk->src_ip6);
		COPY_IP6(ends->remote, ctx->user_ip6);
	} else {
		COPY_IP4(ends->local, sk->src_ip4);
		COPY_IP4(ends->remote, ctx->user_ip4);
	}
}

static __always_inline int connects(struct bpf_sock_addr *ctx, bool ipv6)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	bool is_new = false;
	struct owner *owner = use(ctx, cookie, &is_new);
	struct ends ends = {};
	struct record record;

	if (!owner || owner->pid != own_pid || ctx->type != SOCK_DGRAM)
		return ALLOW;
	address_ends(ctx, ipv6, &ends);
	fill(&record, MOMENT_CONNECT, &ends, owner, cookie);
	TELL(ctx, record);
	return ALLOW;
}

static __always_inline int sends(struct bpf_sock_addr *ctx, bool ipv6)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	bool is_new = false;
	struct owner *owner = use(ctx, cookie, &is_new);
	struct told_key key = {};
	struct record record;

	if (!owner)
		return ALLOW;
	address_ends(ctx, ipv6, &key.ends);
	key.ends.sends = 1;
	key.cookie = cookie;
	if (!is_news(&key, owner->pid, SEND_AGAIN, false))
		return ALLOW;
	fill(&record, MOMENT_SEND, &key.ends, owner, cookie);
	TELL(ctx, record);
	return ALLOW;
}

/* Its first datagram was told as somebody else's where another process has made the socket. */
static __always_inline int receives(struct bpf_sock_addr *ctx, bool ipv6)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	bool is_new = false;
	struct owner *owner = use(ctx, cookie, &is_new);
	struct ends ends = {};
	struct record record;

	if (!owner || !is_new)
		return ALLOW;
	address_ends(ctx, ipv6, &ends);
	fill(&record, MOMENT_RECEIVE, &ends, owner, cookie);
	TELL(ctx, record);
	return ALLOW;
}

SEC("cgroup/connect4")
int cg_connect4(struct bpf_sock_addr *ctx)
{
	return connects(ctx, false);
}

SEC("cgroup/connect6")
int cg_connect6(struct bpf_sock_addr *ctx)
{
	return connects(ctx, true);
}

SEC("cgroup/sendmsg4")
int cg_sendmsg4(struct bpf_sock_addr *ctx)
{
	return sends(ctx, false);
}

SEC("cgroup/sendmsg6")
int cg_sendmsg6(struct bpf_sock_addr *ctx)
{
	return sends(ctx, true);
}

SEC("cgroup/recvmsg4")
int cg_recvmsg4(struct bpf_sock_addr *ctx)
{
	return receives(ctx, false);
}

SEC("cgroup/recvmsg6")
int cg_recvmsg6(struct bpf_sock_addr *ctx)
{
	return receives(ctx, true);
}

static __always_inline void tcp_ends(struct bpf_sock_ops *ctx, struct ends *ends)
{
	ends->proto = IPPROTO_TCP;
	ends->local_port = ctx->local_port;
	ends->remote_port = bpf_ntohl(ctx->remote_port);
	if (ctx->family == AF_INET6) {
		/* An IPv4 connection of an IPv6 socket has its local end in the IPv4 field alone. */
		if (ctx->remote_ip6[0] || ctx->remote_ip6[1] ||
		    ctx->remote_ip6[2] != bpf_htonl(0x0000ffff)) {
			ends->flags = RECORD_IPV6;
			COPY_IP6(ends->local, ctx->local_ip6);
			COPY_IP6(ends->remote, ctx->remote_ip6);
			return;
		}
	}
	COPY_IP4(ends->local, ctx->local_ip4);
	COPY_IP4(ends->remote, ctx->remote_ip4);
}

/* Called with the connection's ends decided on and before its SYN, also where a rule drops that. */
static __always_inline void tcp_connects(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct owner *owner = bpf_sk_storage_get(&owners, sk, NULL, 0);
	struct ends ends = {};
	struct record record;

	if (owner)
		owner->told_ns = 0; /* a socket can connect anew */
	tcp_ends(ctx, &ends);
	fill(&record, MOMENT_CONNECT, &ends, owner, bpf_get_socket_cookie(ctx));
	TELL(ctx, record);
}

static __always_inline void tcp_is_taken(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	/* Where the listening socket is older than we are, there is nothing yet. */
	struct owner *owner = bpf_sk_storage_get(&owners, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	struct ends ends = {};

	if (!owner)
		return;
	tcp_ends(ctx, &ends);
	owner->ends = ends;
}

SEC("sockops")
int cg_tcp(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return ALLOW;
	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		tcp_connects(ctx, sk);
	else if (ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		tcp_is_taken(ctx, sk);
	return ALLOW;
}

struct ipv4_header {
	__u8 version_ihl;
	__u8 tos;
	__be16 len;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 proto;
	__u16 checksum;
	__u8 source[4];
	__u8 destination[4];
};

struct ipv6_header {
	__be32 version_flow;
	__be16 len;
	__u8 next;
	__u8 hops;
	__u8 source[16];
	__u8 destination[16];
};

struct extension_header {
	__u8 next;
	__u8 len; /* in units of eight bytes, the first one not counted */
	__be16 fragment;
};

struct icmp_header {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be16 id;
};

#define LOAD(skb, offset, header) (bpf_skb_load_bytes(skb, offset, &(header), sizeof(header)) == 0)

/* Reads the IPv4 header. Returns how long it is, or 0 where the packet tells no flow. */
static __always_inline __u32 read_ipv4(struct __sk_buff *skb, bool leaves, struct ends *ends)
{
	struct ipv4_header ip;

	if (!LOAD(skb, 0, ip) || (ip.fragment & bpf_htons(0x1fff)))
		return 0;
	ends->proto = ip.proto;
	__builtin_memcpy(leaves ? ends->local : ends->remote, ip.source, 4);
	__builtin_memcpy(leaves ? ends->remote : ends->local, ip.destination, 4);
	return (ip.version_ihl & 15) * 4;
}

/* Likewise, with the extension headers that conntrack looks behind. */
static __always_inline __u32 read_ipv6(struct __sk_buff *skb, bool leaves, struct ends *ends)
{
	__u32 offset = sizeof(struct ipv6_header);
	struct extension_header extension;
	struct ipv6_header ip;
	__u8 next;
	int i;

	if (!LOAD(skb, 0, ip))
		return 0;
	next = ip.next;
	for (i = 0; i < EXTENSION_HEADERS_MAX; i++) {
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING &&
		    next != IPPROTO_FRAGMENT && next != IPPROTO_DSTOPTS)
			break;
		if (!LOAD(skb, offset, extension))
			return 0;
		if (next != IPPROTO_FRAGMENT)
			offset += (extension.len + 1) * 8;
		else if (extension.fragment & bpf_htons(0xfff8))
			return 0;
		else
			offset += 8;
		next = extension.next;
	}
	ends->proto = next;
	ends->flags = RECORD_IPV6;
	__builtin_memcpy(leaves ? ends->local : ends->remote, ip.source, 16);
	__builtin_memcpy(leaves ? ends->remote : ends->local, ip.destination, 16);
	return offset;
}

/* What the other end of an ICMP flow sends; 0xff for messages that make no flow. */
static __always_inline __u8 opposite(__u8 proto, __u8 type)
{
	if (proto == IPPROTO_ICMPV6) {
		if (type == 128 || type == 139) /* echo, node information */
			return type + 1;
		return type == 129 || type == 140 ? type - 1 : 0xff;
	}
	switch (type) {
	case 0: /* echo */
		return 8;
	case 8:
		return 0;
	case 13: /* timestamp, information, address mask */
	case 15:
	case 17:
		return type + 1;
	case 14:
	case 16:
	case 18:
		return type - 1;
	}
	return 0xff;
}

static __always_inline bool read_icmp(struct __sk_buff *skb, __u32 offset, bool leaves, struct ends *ends)
{
	struct icmp_header icmp;
	__u8 type;

	if (!LOAD(skb, offset, icmp))
		return false;
	type = opposite(ends->proto, icmp.type);
	if (type == 0xff)
		return false;
	if (leaves)
		type = icmp.type;
	ends->local_port = bpf_ntohs(icmp.id);
	ends->remote_port = type << 8 | icmp.code;
	return true;
}

/* The flow of a packet. `begins`: it is a TCP connection's first. */
static __always_inline bool read_packet(struct __sk_buff *skb, bool leaves, struct ends *ends, bool *begins)
{
	__be16 ports[2] = {};
	__u32 offset = 0;
	__u8 version = 0;
	__u8 flags = 0;

	if (!LOAD(skb, 0, version))
		return false;
	if (version >> 4 == 4)
		offset = read_ipv4(skb, leaves, ends);
	else if (version >> 4 == 6)
		offset = read_ipv6(skb, leaves, ends);
	if (!offset)
		return false;
	if (ends->proto == IPPROTO_ICMP || ends->proto == IPPROTO_ICMPV6)
		return read_icmp(skb, offset, leaves, ends);
	if (ends->proto != IPPROTO_TCP && ends->proto != IPPROTO_UDP)
		return true;
	if (!LOAD(skb, offset, ports))
		return false;
	ends->local_port = bpf_ntohs(ports[leaves ? 0 : 1]);
	ends->remote_port = bpf_ntohs(ports[leaves ? 1 : 0]);
	if (ends->proto == IPPROTO_TCP && LOAD(skb, offset + 13, flags))
		*begins = (flags & 0x12) == 0x02; /* SYN without ACK */
	return true;
}

/* Raw sockets get copies of what others own, whatever they do with them. */
static __always_inline bool is_copy(const struct bpf_sock *sk, __u8 proto)
{
	return sk->type == SOCK_RAW && (proto == IPPROTO_TCP || proto == IPPROTO_UDP ||
					proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6);
}

/* The kernel answers by raw sockets of its own: a reset from a closed port, the reply to an echo. */
static __always_inline bool is_kernels(const struct bpf_sock *sk, const struct ends *ends)
{
	__u8 type = ends->remote_port >> 8;

	return sk->type == SOCK_RAW && (ends->proto == IPPROTO_TCP ||
					(ends->proto == IPPROTO_ICMP && type == 0) ||
					(ends->proto == IPPROTO_ICMPV6 && type == 129));
}

/*
 * The task that runs sends the packet, by a socket that need not be its own: a child may use what its
 * parent has connected. It is not so where the kernel sends for others, as TCP and tunnels do: those
 * of UDP are not connected, and a socket that is not was told by the address that was named to it.
 */
static __always_inline bool is_sender(const struct bpf_sock *sk, const struct owner *owner)
{
	if (sk->protocol == IPPROTO_TCP || (sk->protocol == IPPROTO_UDP && !sk->dst_port))
		return false;
	return bpf_get_current_pid_tgid() >> 32 && (__u32)bpf_get_current_uid_gid() == owner->uid;
}

/* The first packet of a flow. */
static __always_inline int packet(struct __sk_buff *skb, bool leaves, bool by_current)
{
	struct bpf_sock *sk = skb->sk;
	struct told_key key = {};
	struct record record;
	struct owner *owner;
	bool begins = false;
	bool has_one_flow;
	__u64 now;

	if (!sk)
		return ALLOW;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return ALLOW;
	owner = bpf_sk_storage_get(&owners, sk, NULL, 0);
	now = bpf_ktime_get_ns();
	has_one_flow = owner && sk->protocol == IPPROTO_TCP && sk->type == SOCK_STREAM && sk->state != TCP_LISTEN;
	if (has_one_flow && owner->told_ns && now - owner->told_ns < PACKET_AGAIN)
		return ALLOW;
	if (!read_packet(skb, leaves, &key.ends, &begins))
		return ALLOW;
	if (leaves ? !owner && is_kernels(sk, &key.ends) : is_copy(sk, key.ends.proto))
		return ALLOW;
	key.cookie = bpf_get_socket_cookie(skb);
	if (by_current && owner && is_sender(sk, owner))
		take(owner, key.cookie);
	if (has_one_flow)
		owner->told_ns = now;
	else if (!is_news(&key, owner ? owner->pid : 0, PACKET_AGAIN, begins))
		return ALLOW;
	fill(&record, leaves ? MOMENT_PACKET_OUT : MOMENT_PACKET_IN, &key.ends, owner, key.cookie);
	if (sk->state == TCP_LISTEN)
		record.flags |= RECORD_INHERITED;
	TELL(skb, record);
	return ALLOW;
}

SEC("cgroup_skb/ingress")
int cg_ingress(struct __sk_buff *skb)
{
	return packet(skb, false, false);
}

SEC("cgroup_skb/egress")
int cg_egress(struct __sk_buff *skb)
{
	return packet(skb, true, false);
}

/* Where programs for packets may ask for the task that runs (Linux 6.18 does, 6.12 does not). */
SEC("cgroup_skb/egress")
int cg_egress_current(struct __sk_buff *skb)
{
	return packet(skb, true, true);
}
