/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What every probe sends: who uses which socket, at which moment. The parser is src/wire/probe.rs; a
 * test compares the two sides. Numbers are in the machine's byte order, addresses in the network's.
 */
#ifndef CONNTRACKER_RECORD_H
#define CONNTRACKER_RECORD_H

typedef unsigned char record_u8;
typedef unsigned short record_u16;
typedef unsigned int record_u32;
typedef unsigned long long record_u64;

/* record.source: which programs sent it */
#define SOURCE_PROBE 1	 /* the programs of the rung that is in use */
#define SOURCE_SOCKETS 2 /* an iterator over the sockets that there are */
#define SOURCE_DIAG 3	 /* sock_diag and /proc, in user space */
#define SOURCE_LOG 4	 /* the uid that a traced packet came with, in user space */

/* record.moment: what the process did, or what there is */
#define MOMENT_CONNECT 1    /* connects, before the first packet leaves */
#define MOMENT_SEND 2	    /* sends a datagram, before it leaves; the local address may be zero */
#define MOMENT_ACCEPT 3	    /* took a connection */
#define MOMENT_RECEIVE 4    /* took a datagram; the remote end may be zero */
#define MOMENT_PACKET_OUT 5 /* the first packet of a flow leaves, with its addresses on the wire */
#define MOMENT_PACKET_IN 6  /* the first packet of a flow arrives, likewise */
#define MOMENT_CONFIRM 7    /* conntrack confirms a flow: its original tuple */
#define MOMENT_SOCKET 8	    /* has this socket; the remote end is zero where it is not connected */
#define MOMENT_RELEASE 9    /* closes the socket of a flow */

/* record.flags */
#define RECORD_IPV6 1	   /* the addresses are IPv6 (IPv4-mapped ones too) */
#define RECORD_NO_UID 2	   /* the uid is not known */
#define RECORD_INHERITED 4 /* the process made the listening socket; another one may have accepted */

struct record {
	record_u64 at_ns;	/* CLOCK_MONOTONIC */
	record_u64 cookie;	/* of the socket; 0: unknown */
	record_u64 netns;	/* of the socket: one value for one namespace, whatever it stands for; 0: unknown */
	record_u32 pid;		/* process (thread group) in the first pid namespace; 0: unknown */
	record_u32 uid;		/* effective user */
	record_u8 source;	/* SOURCE_* */
	record_u8 moment;	/* MOMENT_* */
	record_u8 proto;	/* IPPROTO_* */
	record_u8 flags;	/* RECORD_* */
	record_u16 local_port;	/* port, or ICMP id, or zero */
	record_u16 remote_port; /* port, or ICMP type << 8 | code as this end sends it, or zero */
	record_u8 local[16];	/* IPv4: the first four bytes; all zero: any */
	record_u8 remote[16];	/* likewise */
	char comm[16];		/* name of the task */
};

_Static_assert(__builtin_offsetof(struct record, cookie) == 8, "cookie");
_Static_assert(__builtin_offsetof(struct record, netns) == 16, "netns");
_Static_assert(__builtin_offsetof(struct record, pid) == 24, "pid");
_Static_assert(__builtin_offsetof(struct record, uid) == 28, "uid");
_Static_assert(__builtin_offsetof(struct record, source) == 32, "source");
_Static_assert(__builtin_offsetof(struct record, moment) == 33, "moment");
_Static_assert(__builtin_offsetof(struct record, proto) == 34, "proto");
_Static_assert(__builtin_offsetof(struct record, flags) == 35, "flags");
_Static_assert(__builtin_offsetof(struct record, local_port) == 36, "local_port");
_Static_assert(__builtin_offsetof(struct record, remote_port) == 38, "remote_port");
_Static_assert(__builtin_offsetof(struct record, local) == 40, "local");
_Static_assert(__builtin_offsetof(struct record, remote) == 56, "remote");
_Static_assert(__builtin_offsetof(struct record, comm) == 72, "comm");
_Static_assert(sizeof(struct record) == 88, "record");

#endif
