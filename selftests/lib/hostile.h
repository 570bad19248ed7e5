/* SPDX-License-Identifier: GPL-2.0 */
/*
 * This file holds what an attacker on the same host has: a user namespace of its own, in
 * which raw sockets forge segments of a connection, and pages whose faults last for as long
 * as the attacker likes, so that a system call keeps its socket owned by user for that
 * time.
 *
 * This file needs no test harness, because the fuzzer uses it too.
 */
#ifndef _TCP_FRIENDS_HOSTILE_H
#define _TCP_FRIENDS_HOSTILE_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/tcp.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOBODY		65534
#define PAGE		4096UL

/*
 * Become the user nobody, who is root of a new user namespace, with a network namespace
 * that belongs to it. The process must have one thread.
 */
static inline bool become_nobody(void)
{
	bool mapped;
	int fd;

	if (syscall(SYS_setgroups, 0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
	    setresuid(NOBODY, NOBODY, NOBODY))
		return false;
	/* Without this, /proc/self would belong to root. */
	if (prctl(PR_SET_DUMPABLE, 1) || unshare(CLONE_NEWUSER | CLONE_NEWNET))
		return false;
	fd = open("/proc/self/uid_map", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	mapped = write(fd, "0 65534 1", 9) == 9;
	close(fd);
	return mapped;
}

/* ---- forged segments ---- */

enum {
	FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16, URG = 32,
};

union endpoint {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};

/* This is a segment as it will be on the wire. */
struct segment {
	const union endpoint *from, *to;
	uint32_t seq, ack;
	uint8_t flags;
	uint16_t window, urgent;
	bool stamped;
	uint32_t stamp, echo;
	const void *data;
	size_t len;
};

static inline uint32_t checksum(uint32_t sum, const void *from, size_t len)
{
	const uint8_t *p = from;
	uint16_t word;

	for (; len > 1; len -= 2, p += 2) {
		memcpy(&word, p, 2);
		sum += word;
		/* Fold the sum here, so that a long segment does not overflow it. */
		sum = (sum & 0xffff) + (sum >> 16);
	}
	if (len)
		sum += *p;
	return (sum & 0xffff) + (sum >> 16);
}

static inline uint16_t checksum_end(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Open a socket that sends packets with headers of the caller's, and receives nothing. */
static inline int forger(int family)
{
	return socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
}

/* Send the segment @s. Return whether the kernel took it. */
static inline bool forge(int raw, const struct segment *s)
{
	static __thread char packet[65535];
	bool v4 = s->from->sa.sa_family == AF_INET;
	size_t ip_len = v4 ? sizeof(struct iphdr) : sizeof(struct ip6_hdr);
	struct tcphdr *th = (void *)(packet + ip_len);
	union endpoint to = *s->to;
	size_t options = s->stamped ? 12 : 0;
	size_t len = sizeof(*th) + options + s->len;
	uint32_t sum, words[2];
	uint8_t *opt = (void *)(th + 1);

	if (ip_len + len > sizeof(packet))
		return false;
	memset(packet, 0, ip_len + sizeof(*th));
	th->source = s->from->in.sin_port;
	th->dest = s->to->in.sin_port;
	th->seq = htonl(s->seq);
	th->ack_seq = htonl(s->ack);
	th->doff = (sizeof(*th) + options) / 4;
	((uint8_t *)th)[13] = s->flags;
	th->window = htons(s->window);
	th->urg_ptr = htons(s->urgent);
	if (options) {
		/* Two bytes of padding precede the option of ten bytes. */
		memcpy(opt, "\1\1\10\12", 4);
		words[0] = htonl(s->stamp);
		words[1] = htonl(s->echo);
		memcpy(opt + 4, words, 8);
	}
	if (s->len)
		memcpy(opt + options, s->data, s->len);

	sum = htons(IPPROTO_TCP) + htons(len);
	if (v4) {
		struct iphdr *ip = (void *)packet;

		*ip = (struct iphdr){
			.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_TCP,
			.saddr = s->from->in.sin_addr.s_addr,
			.daddr = s->to->in.sin_addr.s_addr,
		};
		sum = checksum(sum, &ip->saddr, 8);
	} else {
		struct ip6_hdr *ip = (void *)packet;

		ip->ip6_flow = htonl(6U << 28);
		ip->ip6_plen = htons(len);
		ip->ip6_nxt = IPPROTO_TCP;
		ip->ip6_hlim = 64;
		ip->ip6_src = s->from->in6.sin6_addr;
		ip->ip6_dst = s->to->in6.sin6_addr;
		sum = checksum(sum, &ip->ip6_src, 32);
	}
	th->check = checksum_end(checksum(sum, th, len));
	/* The raw socket would take a port for the protocol. */
	to.in.sin_port = 0;
	return sendto(raw, packet, ip_len + len, MSG_DONTWAIT, &to.sa,
		      v4 ? sizeof(to.in) : sizeof(to.in6)) >= 0;
}

/* Open a socket that sees what its namespace sends and receives from now on. */
static inline int tap(void)
{
	return socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_ALL));
}

/*
 * Learn the initial sequence numbers of a connection, that of the end that connected first,
 * from the SYNs that @packets has seen, a tap from before connect(). The tap is closed,
 * because friends move nothing while it is open.
 */
static inline bool learn_sequences(int packets, int family, const union endpoint *client,
				   uint32_t isn[2])
{
	size_t ip_len = family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ip6_hdr);
	bool found[2] = {};
	struct tcphdr th;
	char buf[128];
	ssize_t n;

	while (!found[0] || !found[1]) {
		n = recv(packets, buf, sizeof(buf), MSG_DONTWAIT);
		if (n < 0)
			break;
		if ((size_t)n < ip_len + sizeof(th) ||
		    buf[0] >> 4 != (family == AF_INET ? 4 : 6))
			continue;
		memcpy(&th, buf + ip_len, sizeof(th));
		if (!th.syn)
			continue;
		if (!th.ack && th.source == client->in.sin_port) {
			isn[0] = ntohl(th.seq);
			found[0] = true;
		} else if (th.ack && th.dest == client->in.sin_port) {
			isn[1] = ntohl(th.seq);
			found[1] = true;
		}
	}
	close(packets);
	return found[0] && found[1];
}

/* ---- faults that last ---- */

/*
 * Open /dev/userfaultfd, whose descriptor lets faults of the kernel's own accesses last,
 * too. The descriptor is opened as root, and stays valid when the process becomes another
 * user. An attacker without it uses the pages of a FUSE file.
 */
static inline int faults_right(void)
{
	return open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
}

struct faults {
	int fd;
	char *pages;
	size_t len;
};

/* Map @n pages, which are absent until they are supplied or faults_end() is called. */
static inline bool faults_begin(struct faults *f, int right, size_t n)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };

	f->len = n * PAGE;
	f->fd = ioctl(right, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	if (f->fd < 0)
		return false;
	f->pages = mmap(NULL, f->len, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (f->pages == MAP_FAILED)
		return false;
	reg.range.start = (uintptr_t)f->pages;
	reg.range.len = f->len;
	return !ioctl(f->fd, UFFDIO_API, &api) && !ioctl(f->fd, UFFDIO_REGISTER, &reg);
}

/* Return the address of a page that a task waits for now, or NULL after @ms. */
static inline char *faults_next(const struct faults *f, int ms)
{
	struct pollfd p = { .fd = f->fd, .events = POLLIN };
	struct uffd_msg msg;

	while (poll(&p, 1, ms) > 0) {
		if (read(f->fd, &msg, sizeof(msg)) == sizeof(msg) &&
		    msg.event == UFFD_EVENT_PAGEFAULT)
			return (char *)(uintptr_t)(msg.arg.pagefault.address & ~(PAGE - 1));
	}
	return NULL;
}

/* Supply @page with the contents of @from. */
static inline bool faults_supply(const struct faults *f, char *page, const void *from)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)page, .src = (uintptr_t)from, .len = PAGE,
	};

	return !ioctl(f->fd, UFFDIO_COPY, &copy) || errno == EEXIST;
}

/* Let the tasks that wait go on, with pages of zeroes. */
static inline void faults_let_go(struct faults *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
}

static inline void faults_end(struct faults *f)
{
	faults_let_go(f);
	munmap(f->pages, f->len);
}

#endif
