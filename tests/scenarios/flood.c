/* Makes new UDP flows as fast as it can, or at a rate: flood SOURCE DESTINATION COUNT [PER_SECOND].
 * SOURCE is a /16 whose addresses may all be used; every datagram has another source and port. The
 * last line says how many were sent. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 64

struct packet {
	struct iphdr ip;
	struct udphdr udp;
	char payload[4];
} __attribute__((packed));

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	unsigned source = ntohl(inet_addr(argv[1])) & 0xffff0000;
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = inet_addr(argv[2]) };
	unsigned long count = strtoul(argv[3], 0, 10), sent = 0;
	double rate = argc > 4 ? atof(argv[4]) : 0, began = now();
	int fd = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
	static struct packet packets[BATCH];
	static struct iovec parts[BATCH];
	static struct mmsghdr messages[BATCH];
	if (fd < 0)
		return perror("socket"), 1;
	for (int i = 0; i < BATCH; i++) {
		packets[i].ip = (struct iphdr){ .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP,
			.tot_len = htons(sizeof packets[i]), .daddr = to.sin_addr.s_addr };
		packets[i].udp = (struct udphdr){ .dest = htons(9), .len = htons(sizeof packets[i] - sizeof(struct iphdr)) };
		parts[i] = (struct iovec){ &packets[i], sizeof packets[i] };
		messages[i].msg_hdr = (struct msghdr){ .msg_name = &to, .msg_namelen = sizeof to,
			.msg_iov = &parts[i], .msg_iovlen = 1 };
	}
	while (sent < count) {
		unsigned long batch = count - sent < BATCH ? count - sent : BATCH;
		for (unsigned long i = 0; i < batch; i++) {
			unsigned long n = sent + i;
			packets[i].ip.saddr = htonl(source | (1 + n / 60000 % 65000));
			packets[i].udp.source = htons(1024 + n % 60000);
		}
		int done = sendmmsg(fd, messages, batch, 0);
		if (done < 0 && errno != EPERM && errno != ENOBUFS)
			return perror("sendmmsg"), 1;
		sent += done > 0 ? done : 0;
		while (rate > 0 && sent > (now() - began) * rate) {
			struct timespec pause = { 0, 500000 };
			nanosleep(&pause, 0);
		}
	}
	printf("%lu\n", sent);
	return 0;
}
