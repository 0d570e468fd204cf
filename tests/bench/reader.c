/* The least that a reader of netlink can do: it receives, and counts the messages by their headers.
 *
 *   reader events [REST [KEPT]]  new flows' events (group 1), 64 datagrams at a time; after a batch that was
 *                                not full it rests for so many microseconds
 *   reader trace [REST [KEPT]]   trace messages of nf_tables (group 9), likewise
 *   reader dump [0 [KEPT]]       the conntrack table, once; the kernel fills 32 KiB at a time
 *
 * It keeps so many bytes of each message, one behind the other: what anybody pays who keeps something.
 * SIGTERM ends it. The last line says how many messages there were. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 64
#define DATAGRAM_LEN 4096
#define DUMP_DATAGRAM_LEN 65536
#define BUFFER_LEN (512 << 20)
#define KEPT_LEN_MAX (1ul << 30)

static volatile sig_atomic_t ended;
static char *kept;
static size_t kept_len;

static void end(int signal)
{
	(void)signal;
	ended = 1;
}

static unsigned long count(struct nlmsghdr *message, unsigned len, int *done)
{
	unsigned long found = 0;
	for (; NLMSG_OK(message, len); message = NLMSG_NEXT(message, len)) {
		*done |= message->nlmsg_type == NLMSG_DONE || message->nlmsg_type == NLMSG_ERROR;
		found += message->nlmsg_type >= NLMSG_MIN_TYPE;
		if (kept_len) { /* of a short one what lies behind it, too: the buffers are longer than what comes */
			memcpy(kept, message, kept_len);
			kept += kept_len;
		}
	}
	return found;
}

static unsigned long dump(int fd)
{
	static char buffer[DUMP_DATAGRAM_LEN];
	struct {
		struct nlmsghdr header;
		struct nfgenmsg netfilter;
	} request = { { sizeof request, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP, 1, 0 }, { 0 } };
	unsigned long found = 0;
	int done = 0;
	if (send(fd, &request, sizeof request, 0) < 0)
		return perror("send"), 0;
	while (!done && !ended) {
		ssize_t len = recv(fd, buffer, sizeof buffer, 0);
		if (len < 0)
			return perror("recv"), 0;
		found += count((struct nlmsghdr *)buffer, len, &done);
	}
	return found;
}

static unsigned long follow(int fd, int group, useconds_t rest)
{
	static char buffers[BATCH][DATAGRAM_LEN];
	static struct iovec parts[BATCH];
	static struct mmsghdr messages[BATCH];
	struct pollfd readable = { fd, POLLIN, 0 };
	int buffer = BUFFER_LEN, done;
	unsigned long found = 0;
	for (int i = 0; i < BATCH; i++) {
		parts[i] = (struct iovec){ buffers[i], DATAGRAM_LEN };
		messages[i].msg_hdr = (struct msghdr){ .msg_iov = &parts[i], .msg_iovlen = 1 };
	}
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer)
		|| setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group))
		return perror("setsockopt"), 0;
	while (!ended) {
		if (poll(&readable, 1, -1) < 0)
			continue;
		int received = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, 0);
		for (int i = 0; i < received; i++)
			found += count((struct nlmsghdr *)buffers[i], messages[i].msg_len, &done);
		if (rest && received < BATCH)
			usleep(rest);
	}
	return found;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = end };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	struct sockaddr_nl any = { .nl_family = AF_NETLINK };
	sigaction(SIGTERM, &action, 0);
	if (argc < 2 || fd < 0 || bind(fd, (struct sockaddr *)&any, sizeof any))
		return 2;
	kept_len = argc > 3 ? atoi(argv[3]) : 0;
	kept = mmap(0, KEPT_LEN_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (kept == MAP_FAILED)
		return perror("mmap"), 1;
	useconds_t rest = argc > 2 ? atoi(argv[2]) : 0;
	if (!strcmp(argv[1], "dump"))
		printf("%lu\n", dump(fd));
	else
		printf("%lu\n", follow(fd, strcmp(argv[1], "trace") ? NFNLGRP_CONNTRACK_NEW : 9, rest));
	return 0;
}
