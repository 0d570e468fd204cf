/* Sends UDP packets to 10.77.2.2 out of a packet socket, past the sender's own network stack, so that what
 * they cost is their way through the router: over veth that runs in the sender's time.
 *
 *   generator flows       DEVICE MAC COUNT PER_SECOND FIRST   COUNT packets, each of another flow to port 9;
 *                                                             two runs do not meet if FIRST sets them apart
 *   generator established DEVICE MAC COUNT PER_SECOND PORT    COUNT packets from 10.77.1.2:PORT to port 7
 *
 * PER_SECOND 0 is as fast as it can. The last line: packets, nanoseconds, nanoseconds of CPU. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 32
#define PORTS 64000 /* of one source address */

struct packet {
	struct ether_header ether;
	struct iphdr ip;
	struct udphdr udp;
	char payload[18];
} __attribute__((packed));

static uint64_t nanoseconds(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint16_t checksum(const void *header, size_t len)
{
	const uint8_t *bytes = header;
	uint32_t sum = 0;
	for (size_t i = 0; i < len; i += 2)
		sum += bytes[i] << 8 | bytes[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons(~sum);
}

static void address(struct packet *packet, uint32_t source, uint16_t port)
{
	packet->ip.saddr = htonl(source);
	packet->udp.source = htons(port);
	packet->ip.check = 0;
	packet->ip.check = checksum(&packet->ip, sizeof packet->ip);
}

int main(int argc, char **argv)
{
	static struct packet packets[BATCH];
	static struct iovec parts[BATCH];
	static struct mmsghdr messages[BATCH];
	struct packet model = { 0 };
	if (argc != 7)
		return 2;
	int established = !strcmp(argv[1], "established");
	uint64_t count = strtoull(argv[4], 0, 10), first = strtoull(argv[6], 0, 10), sent = 0;
	double per_second = atof(argv[5]);
	struct sockaddr_ll device = { .sll_family = AF_PACKET, .sll_ifindex = if_nametoindex(argv[2]) };
	uint8_t *mac = model.ether.ether_dhost;
	if (sscanf(argv[3], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", mac, mac + 1, mac + 2, mac + 3, mac + 4, mac + 5) != 6)
		return 2;
	int fd = socket(AF_PACKET, SOCK_RAW, 0), one = 1;
	if (fd < 0 || bind(fd, (struct sockaddr *)&device, sizeof device))
		return perror("a packet socket"), 1;
	setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one);

	model.ether.ether_type = htons(ETHERTYPE_IP);
	model.ip = (struct iphdr){ .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP, .frag_off = htons(0x4000),
		.tot_len = htons(sizeof model - sizeof model.ether), .daddr = inet_addr("10.77.2.2") };
	model.udp.dest = htons(established ? 7 : 9);
	model.udp.len = htons(sizeof model.udp + sizeof model.payload);
	for (int i = 0; i < BATCH; i++) {
		packets[i] = model;
		address(&packets[i], 10u << 24 | 77 << 16 | 1 << 8 | 2, first);
		parts[i] = (struct iovec){ &packets[i], sizeof packets[i] };
		messages[i].msg_hdr = (struct msghdr){ .msg_iov = &parts[i], .msg_iovlen = 1 };
	}

	uint64_t began = nanoseconds(CLOCK_MONOTONIC), cpu = nanoseconds(CLOCK_PROCESS_CPUTIME_ID);
	while (sent < count) {
		unsigned batch = count - sent < BATCH ? count - sent : BATCH, done = 0;
		for (unsigned i = 0; i < batch && !established; i++) {
			uint64_t n = first + sent + i;
			address(&packets[i], (10u << 24 | 96 << 16) + 1 + n / PORTS, 1024 + n % PORTS);
		}
		while (done < batch) {
			int taken = sendmmsg(fd, messages + done, batch - done, 0);
			if (taken < 0 && errno != ENOBUFS && errno != EAGAIN && errno != EINTR)
				return perror("sendmmsg"), 1;
			done += taken > 0 ? taken : 0;
		}
		sent += done;
		if (per_second > 0) {
			uint64_t due = began + sent / per_second * 1e9;
			struct timespec until = { due / 1000000000, due % 1000000000 };
			clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, 0);
		}
	}
	cpu = nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	printf("%llu %llu %llu\n", (unsigned long long)sent,
		(unsigned long long)(nanoseconds(CLOCK_MONOTONIC) - began), (unsigned long long)cpu);
	return 0;
}
