/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel's structures, as far as they are read: names and types of fields. Where a field lies,
 * libbpf finds out from the BTF of the kernel that runs.
 */
#ifndef CONNTRACKER_KERNEL_H
#define CONNTRACKER_KERNEL_H

#define PF_IO_WORKER 0x00000010
#define PF_KTHREAD 0x00200000

#define TCP_TIME_WAIT 6
#define TCP_NEW_SYN_RECV 12

#define IPPROTO_DCCP 33
#define IPPROTO_SCTP 132
#define IPPROTO_UDPLITE 136

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	__u32 val;
} kuid_t;

struct cred {
	kuid_t euid;
};

struct task_struct {
	unsigned int flags;
	struct task_struct *group_leader;
	const struct cred *cred;
	char comm[16];
};

struct in6_addr {
	__u8 in6_u[16];
};

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

typedef struct {
	__s64 counter;
} atomic64_t;

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
	atomic64_t skc_cookie;
};

struct sk_buff {
	struct sk_buff *next;
	struct sock *sk;
	unsigned long _nfct;
	__u16 transport_header;
	__u16 network_header;
	unsigned char *head;
};

struct sk_buff_head {
	struct sk_buff *next;
};

struct inode {
	unsigned long i_ino;
};

struct file {
	struct inode *f_inode;
};

struct socket {
	struct file *file;
};

struct sock {
	struct sock_common __sk_common;
	struct sk_buff_head sk_write_queue;
	struct socket *sk_socket;
	__u16 sk_protocol;
};

struct inet_sock {
	__be16 inet_sport;
};

struct inet_connection_sock {
	void *icsk_ulp_data; /* struct mptcp_subflow_context, where is_mptcp */
};

struct tcp_sock {
	bool is_mptcp;
};

struct mptcp_subflow_context {
	__u32 request_join : 1;
};

struct flowi4 {
	__be32 saddr;
	__be32 daddr;
};

union nf_inet_addr {
	__u8 all[16];
};

union nf_conntrack_man_proto {
	__be16 all; /* port, or id of ICMP */
};

struct nf_conntrack_man {
	union nf_inet_addr u3;
	union nf_conntrack_man_proto u;
	__u16 l3num;
};

struct nf_conntrack_tuple {
	struct nf_conntrack_man src;
	struct {
		union nf_inet_addr u3;
		union {
			__be16 all; /* port, or type and code of ICMP */
		} u;
		__u8 protonum;
	} dst;
};

struct nf_conntrack_tuple_hash {
	struct nf_conntrack_tuple tuple;
};

struct nf_conn {
	struct nf_conntrack_tuple_hash tuplehash[2];
};

#pragma clang attribute pop

#endif
