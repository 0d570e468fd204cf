// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The sockets that every process has at this moment, by an iterator over all descriptors of all tasks.
 * Linux 5.11 and later, with BTF: of the kernel's types only what is read is declared, and libbpf
 * finds where it lies. An object of its own, as without BTF nothing of it loads. Everything is read
 * through pointers that the verifier knows: helpers that read memory are refused under lockdown.
 */
#include "types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "record.h"

#define KERNEL_TYPE __attribute__((preserve_access_index))

typedef struct {
	__u32 val;
} KERNEL_TYPE kuid_t;

struct ns_common {
	__u32 inum;
} KERNEL_TYPE;

struct net {
	struct ns_common ns;
} KERNEL_TYPE;

typedef struct {
	struct net *net;
} KERNEL_TYPE possible_net_t;

struct in6_addr {
	__u8 bytes[16];
};

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
} KERNEL_TYPE;

struct sock {
	struct sock_common __sk_common;
	__u16 sk_type;
	__u16 sk_protocol;
} KERNEL_TYPE;

struct socket {
	struct sock *sk;
} KERNEL_TYPE;

struct file {
} KERNEL_TYPE;

struct cred {
	kuid_t euid;
} KERNEL_TYPE;

struct task_struct {
	int tgid;
	struct task_struct *group_leader;
	const struct cred *cred;
	char comm[16];
} KERNEL_TYPE;

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
} KERNEL_TYPE;

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
} KERNEL_TYPE;

char LICENSE[] SEC("license") = "GPL";

static __always_inline void read_owner(struct record *record, struct task_struct *task)
{
	record->pid = task->tgid;
	record->uid = task->cred->euid.val;
	__builtin_memcpy(record->comm, task->group_leader->comm, sizeof(record->comm));
}

/* A raw socket has its protocol for a port; a listening one has no other end. */
static __always_inline void read_ends(struct record *record, struct sock *sk)
{
	bool connected = sk->__sk_common.skc_state != TCP_LISTEN;
	__u32 word;

	if (sk->sk_type != SOCK_RAW) {
		record->local_port = sk->__sk_common.skc_num;
		if (connected)
			record->remote_port = bpf_ntohs(sk->__sk_common.skc_dport);
	}
	if (record->flags & RECORD_IPV6) {
		__builtin_memcpy(record->local, &sk->__sk_common.skc_v6_rcv_saddr, sizeof(record->local));
		if (connected)
			__builtin_memcpy(record->remote, &sk->__sk_common.skc_v6_daddr,
					 sizeof(record->remote));
		return;
	}
	word = sk->__sk_common.skc_rcv_saddr;
	__builtin_memcpy(record->local, &word, sizeof(word));
	word = connected ? sk->__sk_common.skc_daddr : 0;
	__builtin_memcpy(record->remote, &word, sizeof(word));
}

SEC("iter/task_file")
int sockets(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct record record = {};
	struct socket *socket;
	struct sock *sk;
	__u16 family;
	__u16 proto;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk)
		return 0;
	family = sk->__sk_common.skc_family;
	if (family != AF_INET && family != AF_INET6)
		return 0;
	proto = sk->sk_protocol;
	record.at_ns = bpf_ktime_get_ns();
	record.cookie = bpf_get_socket_cookie(sk);
	record.netns = sk->__sk_common.skc_net.net->ns.inum;
	record.source = SOURCE_SOCKETS;
	record.moment = MOMENT_SOCKET;
	record.proto = proto == IPPROTO_MPTCP ? IPPROTO_TCP : proto;
	record.flags = family == AF_INET6 ? RECORD_IPV6 : 0;
	read_owner(&record, task);
	read_ends(&record, sk);
	bpf_seq_write(ctx->meta->seq, &record, sizeof(record));
	return 0;
}
