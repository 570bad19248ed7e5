/* SPDX-License-Identifier: GPL-2.0 */
/*
 * This file holds what the TCP friends selftests share: a connection in a network namespace
 * of its own, over the wire or over friends, and the module's counters, which show which of
 * the two carried the data.
 *
 * Each test body is written once and runs over both. At its end, it states with
 * EXPECT_CARRIED() how many bytes it sent. Friends must have carried these bytes, or the
 * test was vacuous; on the wire, friends must have carried none. A test that states nothing
 * fails.
 *
 * With FRIENDS_REQUIRED=1 a missing module is a failure instead of a skip.
 *
 * With FRIENDS_CONTAINERS=1 the two ends are in namespaces of their own, connected by veth
 * and a bridge in a third namespace, and net.ipv4.tcp_friends_cross must be 1. This works
 * only for IPv4: 127.0.0.1 is then the address of the server's veth device.
 */
#ifndef _TCP_FRIENDS_SELFTEST_H
#define _TCP_FRIENDS_SELFTEST_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "kselftest_harness.h"
#include "module.h"
#include "stream.h"

#define TALK_SEED	0x74616c6bULL

/* AT_ONCE is longer than any scheduling delay, and shorter than a probe or a delayed ACK takes. */
#define AT_ONCE		150
/* QUIET is longer than anything under way takes to arrive. */
#define QUIET		50

/* Return the counter @name of TcpExt in this namespace, or 0 if there is none. */
static inline uint64_t tcp_ext(const char *name)
{
	static char names[8192], values[8192];
	char *key, *value, *k, *v;
	uint64_t found = 0;
	FILE *f;

	f = fopen("/proc/thread-self/net/netstat", "r");
	while (f && fgets(names, sizeof(names), f) &&
	       fgets(values, sizeof(values), f)) {
		key = strtok_r(names, " \n", &k);
		value = strtok_r(values, " \n", &v);
		if (!key || strcmp(key, "TcpExt:"))
			continue;
		while ((key = strtok_r(NULL, " \n", &k)) &&
		       (value = strtok_r(NULL, " \n", &v))) {
			if (!strcmp(key, name))
				found = strtoull(value, NULL, 10);
		}
	}
	if (f)
		fclose(f);
	return found;
}

/*
 * Return how often friends fell back for @reason. Between containers, most reasons are
 * counted as wire_path.
 */
static inline uint64_t fell_for(const char *reason)
{
	return friends_stat(reason) +
	       (getenv("FRIENDS_CONTAINERS") ? friends_stat("wire_path") : 0);
}

struct witness {
	bool friends;
	bool told;
	uint64_t bytes;
	uint64_t pairs_total;
};

static inline void witness_begin(struct witness *w)
{
	w->bytes = friends_stat("bytes");
	w->pairs_total = friends_stat("pairs_total");
}

/*
 * Check how many of the @sent bytes friends carried. The wire may have taken a
 * few of them. No byte may be counted twice.
 */
static inline void expect_carried(struct __test_metadata *_metadata,
				  struct witness *w, uint64_t sent)
{
	uint64_t least = w->friends ? sent - sent / 4 : 0;
	uint64_t most = w->friends ? sent : 0;
	uint64_t end = now_ms() + patience(1000);
	uint64_t carried;

	w->told = true;
	while ((carried = friends_stat("bytes") - w->bytes) < least &&
	       now_ms() < end)
		sleep_ms(1);
	if (carried < least) {
		TH_LOG("vacuous: friends carried %" PRIu64 " of %" PRIu64
		       " bytes; the counters:", carried, sent);
		friends_print();
	}
	EXPECT_GE(carried, least);
	EXPECT_LE(carried, most);
}

#define EXPECT_CARRIED(sent) expect_carried(_metadata, &self->witness, sent)

/* This is for tests in which data takes the wire even between friends. */
#define EXPECT_CARRIED_ANY() (self->witness.told = true)

/* ---- namespaces and connections ---- */

static inline void lo_up(struct __test_metadata *_metadata)
{
	struct ifreq ifr = { .ifr_name = "lo" };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, ioctl(fd, SIOCGIFFLAGS, &ifr));
	ifr.ifr_flags |= IFF_UP;
	ASSERT_EQ(0, ioctl(fd, SIOCSIFFLAGS, &ifr));
	close(fd);
}

/* Run a shell command in the namespace @ns. */
static inline void run_in(struct __test_metadata *_metadata, int ns,
			  const char *command)
{
	int status = -1;
	pid_t pid = fork();

	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(!enter_container(ns) || system(command));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status) TH_LOG("failed: %s", command);
}

/*
 * Connect the namespace @ns to the bridge of the current namespace. @own is its address,
 * 02:00:00:00:00:@own_mac is its MAC address, and @other is the address across the bridge.
 */
static inline void settle_in(struct __test_metadata *_metadata, int ns,
			     const char *own, const char *other, int own_mac,
			     int other_mac)
{
	char command[1024];

	snprintf(command, sizeof(command),
		 "ip link add name eth0 address 02:00:00:00:00:%02x type veth "
		 "peer name to_%d netns %d && "
		 "ip route del table local local 127.0.0.0/8 dev lo && "
		 "ip address flush dev lo && "
		 "sysctl -q -w net.ipv4.conf.all.route_localnet=1 && "
		 "ip link set eth0 up && "
		 "ip address add %s/32 dev eth0 && "
		 "ip route add %s dev eth0 src %s && "
		 "ip neighbour replace %s lladdr 02:00:00:00:00:%02x dev eth0 nud permanent",
		 own_mac, own_mac, getpid(), own, other, own, other, other_mac);
	run_in(_metadata, ns, command);
	snprintf(command, sizeof(command), "ip link set to_%d master br0 up",
		 own_mac);
	run_in(_metadata, -1, command);
}

/* Create two namespaces at a bridge in a third one, and enter the client's. */
static inline void enter_containers(struct __test_metadata *_metadata)
{
	int ns[3], i;

	/* The last namespace is the bridge's. Its descriptor keeps it alive. */
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, unshare(CLONE_NEWNET));
		lo_up(_metadata);
		ns[i] = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
		ASSERT_GE(ns[i], 0);
	}
	run_in(_metadata, -1, "ip link add name br0 type bridge forward_delay 0 && "
			      "ip link set br0 up");
	settle_in(_metadata, ns[0], "127.0.0.2", "127.0.0.1", 1, 2);
	settle_in(_metadata, ns[1], "127.0.0.1", "127.0.0.2", 2, 1);
	/* The shortest interval of all namespaces on the path counts, the bridge's included. */
	if (friends_loaded())
		ASSERT_EQ(0, sysctl_set(FRIENDS_SYSCTL "_revalidate_ms", "0"));
	/* A bridge's port needs a moment until it forwards. */
	run_in(_metadata, ns[0],
	       "for i in $(seq 100); do "
	       "ping -q -c 1 -W 0.2 127.0.0.1 >/dev/null && exit 0; done; exit 1");
	ASSERT_TRUE(enter_container(ns[0]));
	container_of_client = ns[0];
	container_of_server = ns[1];
}

/* Enter a new network namespace. Return false after a skip. */
static inline bool enter_netns(struct __test_metadata *_metadata, bool friends)
{
	if (friends && !friends_loaded()) {
		ASSERT_NULL(getenv("FRIENDS_REQUIRED"))
			TH_LOG("the module tcp_friends is not loaded");
		SKIP(return false, "the module tcp_friends is not loaded");
	}
	if (getenv("FRIENDS_CONTAINERS")) {
		enter_containers(_metadata);
	} else {
		ASSERT_EQ(0, unshare(CLONE_NEWNET));
		lo_up(_metadata);
	}
	if (friends) {
		ASSERT_EQ(0, friends_set("1"));
		/* Nothing is revalidated, so data that friends did not carry is a fault. */
		ASSERT_EQ(0, revalidate_set("0"));
	}
	return true;
}

/* Run this thread, and the threads that it creates from now on, on @cpu. */
static inline void run_on(struct __test_metadata *_metadata, int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(set), &set));
}

/*
 * A thread that writes or reads blocks of @size bytes, much faster than a half can, until it
 * has passed @left bytes or there is an error. The stream repeats itself every 64 KiB.
 */
struct stream {
	int fd;
	bool out, wrong, over;
	bool check;		/* a reader compares, which makes it slower */
	size_t size;
	uint64_t left;
	int late;		/* calls that took longer than AT_ONCE */
	int err;
	pthread_t thread;
};

static inline void *stream_thread(void *arg)
{
	const size_t period = 65536;
	struct stream *s = arg;
	char *sent = malloc(2 * period), *got = malloc(period);
	uint64_t pos = 0, start;
	size_t size;
	ssize_t n;

	if (!sent || !got)
		abort();
	pattern_fill(sent, period, TALK_SEED, 0);
	memcpy(sent + period, sent, period);
	while (s->left) {
		start = now_ms();
		size = s->left < s->size ? s->left : s->size;
		n = s->out ? send(s->fd, sent + pos, size, MSG_NOSIGNAL) :
			     recv(s->fd, got, size, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			s->err = n ? errno : 0;
			break;
		}
		s->late += now_ms() - start > AT_ONCE;
		s->wrong |= s->check && memcmp(got, sent + pos, n);
		pos = (pos + n) % period;
		s->left -= n;
	}
	free(sent);
	free(got);
	__atomic_store_n(&s->over, true, __ATOMIC_RELEASE);
	return NULL;
}

static inline void stream_start(struct stream *s, int fd, bool out, size_t size,
				uint64_t left)
{
	s->fd = fd;
	s->out = out;
	s->size = size;
	s->left = left;
	if (pthread_create(&s->thread, NULL, stream_thread, s))
		abort();
}

static inline bool stream_over(const struct stream *s)
{
	return __atomic_load_n(&s->over, __ATOMIC_ACQUIRE);
}

static inline void stream_join(struct __test_metadata *_metadata, struct stream *s)
{
	EXPECT_EQ(0, pthread_join(s->thread, NULL));
}

/* A thread that always wants the processor */
struct spinner {
	bool stop;
	pthread_t thread;
};

static inline void *spin(void *arg)
{
	const struct spinner *s = arg;

	while (!__atomic_load_n(&s->stop, __ATOMIC_RELAXED))
		;
	return NULL;
}

static inline void spinner_start(struct spinner *s)
{
	s->stop = false;
	if (pthread_create(&s->thread, NULL, spin, s))
		abort();
}

static inline void spinner_stop(struct spinner *s)
{
	__atomic_store_n(&s->stop, true, __ATOMIC_RELAXED);
	pthread_join(s->thread, NULL);
}

enum ends { IPV4, IPV6, MAPPED };

/* Return the address of localhost in the client's family. */
static inline const char *localhost(enum ends ends)
{
	return ends == IPV6 ? "::1" : "127.0.0.1";
}

static inline int family_of(enum ends ends)
{
	return ends == IPV6 ? AF_INET6 : AF_INET;
}

union address {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};

struct connect_options {
	int sndbuf, rcvbuf;
};

static inline socklen_t address_of(union address *a, int family,
				   const char *host, int port)
{
	memset(a, 0, sizeof(*a));
	a->sa.sa_family = family;
	if (family == AF_INET) {
		a->in.sin_port = htons(port);
		inet_pton(AF_INET, host, &a->in.sin_addr);
		return sizeof(a->in);
	}
	a->in6.sin6_port = htons(port);
	inet_pton(AF_INET6, host, &a->in6.sin6_addr);
	return sizeof(a->in6);
}

/* sin_port and sin6_port are at the same place. */
static inline int port_of(int fd)
{
	union address a;
	socklen_t len = sizeof(a);

	return getsockname(fd, &a.sa, &len) ? -1 : ntohs(a.in.sin_port);
}

static inline void set_int(struct __test_metadata *_metadata, int fd, int level,
			   int name, int value)
{
	ASSERT_EQ(0, setsockopt(fd, level, name, &value, sizeof(value)))
		TH_LOG("option %d of level %d: %m", name, level);
}

static inline void set_buffers(struct __test_metadata *_metadata, int fd,
			       const struct connect_options *o)
{
	if (o && o->sndbuf)
		set_int(_metadata, fd, SOL_SOCKET, SO_SNDBUF, o->sndbuf);
	if (o && o->rcvbuf)
		set_int(_metadata, fd, SOL_SOCKET, SO_RCVBUF, o->rcvbuf);
}

static inline int listen_at(struct __test_metadata *_metadata, int family,
			    const char *host, const struct connect_options *o)
{
	union address a;
	socklen_t len = address_of(&a, family, host, 0);
	int fd;

	ASSERT_TRUE(enter_container(container_of_server));
	fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ASSERT_TRUE(enter_container(container_of_client));
	ASSERT_GE(fd, 0);
	set_buffers(_metadata, fd, o);
	ASSERT_EQ(0, bind(fd, &a.sa, len)) TH_LOG("bind to %s: %m", host);
	ASSERT_EQ(0, listen(fd, 128));
	return fd;
}

static inline int connect_to(struct __test_metadata *_metadata, int family,
			     const char *host, int port,
			     const struct connect_options *o)
{
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	union address a;
	socklen_t len = address_of(&a, family, host, port);

	ASSERT_GE(fd, 0);
	set_buffers(_metadata, fd, o);
	ASSERT_EQ(0, connect(fd, &a.sa, len))
		TH_LOG("connect to %s port %d: %m", host, port);
	return fd;
}

static inline int listener_for(struct __test_metadata *_metadata,
			       enum ends ends, const struct connect_options *o)
{
	if (ends == IPV4)
		return listen_at(_metadata, AF_INET, "127.0.0.1", o);
	return listen_at(_metadata, AF_INET6, ends == IPV6 ? "::1" : "::", o);
}

static inline int client_for(struct __test_metadata *_metadata, enum ends ends,
			     int listener, const struct connect_options *o)
{
	return connect_to(_metadata, family_of(ends), localhost(ends),
			  port_of(listener), o);
}

/* If @o is given, the buffer sizes of both ends are set before the handshake. */
static inline void open_connection(struct __test_metadata *_metadata,
				   enum ends ends,
				   const struct connect_options *o,
				   int *client, int *server)
{
	int listener = listener_for(_metadata, ends, o);

	*client = client_for(_metadata, ends, listener, o);
	*server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	ASSERT_GE(*server, 0);
	close(listener);
}

/* Close @fd with a reset instead of an orderly end. */
static inline void abort_connection(int fd)
{
	struct linger l = { .l_onoff = 1, .l_linger = 0 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	close(fd);
}

/* Return the pending error of the socket (SO_ERROR), which clears it, or -1 if the call fails. */
static inline int so_error(int fd)
{
	int err = -1;
	socklen_t len = sizeof(err);

	getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len);
	return err;
}

/*
 * CONNECTION_FIXTURE(name) defines a fixture for tests of one connection
 * between self->client and self->server. Its variants are {IPv4, IPv6, IPv4 to
 * a dual-stack listener} x {wire, friends}. A test that has closed an end sets
 * it to -1.
 */
#define CONNECTION_FIXTURE(name)					\
	FIXTURE(name) {							\
		int client;						\
		int server;						\
		struct witness witness;					\
	};								\
	FIXTURE_VARIANT(name) {						\
		enum ends ends;						\
		bool friends;						\
	};								\
	FIXTURE_VARIANT_ADD(name, ipv4_wire)				\
		{ .ends = IPV4 };					\
	FIXTURE_VARIANT_ADD(name, ipv4_friends)				\
		{ .ends = IPV4, .friends = true };			\
	FIXTURE_VARIANT_ADD(name, ipv6_wire)				\
		{ .ends = IPV6 };					\
	FIXTURE_VARIANT_ADD(name, ipv6_friends)				\
		{ .ends = IPV6, .friends = true };			\
	FIXTURE_VARIANT_ADD(name, mapped_wire)				\
		{ .ends = MAPPED };					\
	FIXTURE_VARIANT_ADD(name, mapped_friends)			\
		{ .ends = MAPPED, .friends = true };			\
	FIXTURE_SETUP(name)						\
	{								\
		connection_setup(_metadata, variant->ends,		\
				 variant->friends, &self->client,	\
				 &self->server, &self->witness);	\
	}								\
	FIXTURE_TEARDOWN(name)						\
	{								\
		connection_teardown(_metadata, self->client,		\
				    self->server, &self->witness);	\
	}								\
	struct __test_metadata

static inline void connection_setup(struct __test_metadata *_metadata,
				    enum ends ends, bool friends, int *client,
				    int *server, struct witness *w)
{
	*client = -1;
	*server = -1;
	w->friends = friends;
	w->told = false;
	if (!enter_netns(_metadata, friends))
		return;
	witness_begin(w);
	open_connection(_metadata, ends, NULL, client, server);
	ASSERT_EQ((uint64_t)friends, friends_stat_becomes("pairs", friends))
		friends_print();
	ASSERT_EQ(w->pairs_total + friends, friends_stat("pairs_total"));
}

static inline void connection_teardown(struct __test_metadata *_metadata,
				       int client, int server,
				       struct witness *w)
{
	if (client >= 0)
		close(client);
	if (server >= 0)
		close(server);
	if (w->friends)
		friends_tell();
	if (_metadata->exit_code)
		return;
	EXPECT_TRUE(w->told)
		TH_LOG("the test did not say what friends should carry");
	EXPECT_EQ(0, friends_stat_becomes("pairs", 0))
		TH_LOG("pairs are left when both ends are closed");
}

/* ---- pieces of tests ---- */

/* Wait until exactly @len bytes can be read. */
static inline void wait_readable(struct __test_metadata *_metadata, int fd,
				 int len)
{
	uint64_t end = now_ms() + patience(1000);
	int n = -1;

	do {
		ASSERT_EQ(0, ioctl(fd, SIOCINQ, &n));
		if (n == len)
			return;
		sleep_ms(1);
	} while (now_ms() < end);
	ASSERT_EQ(len, n);
}

/*
 * Check that nothing is in flight. While something is in flight and its ACK is
 * late, the tail loss probe of the wire sends more data, corked or not.
 */
static inline void expect_acked(struct __test_metadata *_metadata, int fd)
{
	uint64_t end = now_ms() + patience(1000);
	int n = -1;

	do {
		ASSERT_EQ(0, ioctl(fd, SIOCOUTQ, &n));
	} while (n && now_ms() < end);
	EXPECT_EQ(0, n);
}

/* Return those of @events that come to @fd within @ms, or 0 if none does. */
static inline int wait_for(int fd, int events, int ms)
{
	struct pollfd p = { .fd = fd, .events = events };
	int n;

	do {
		n = poll(&p, 1, ms);
	} while (n < 0 && errno == EINTR);
	return n > 0 ? p.revents : 0;
}

static inline void send_pattern(struct __test_metadata *_metadata, int fd,
				uint64_t seed, uint64_t pos, size_t len,
				int flags)
{
	char *buf = malloc(len);
	size_t at = 0;
	ssize_t n;

	ASSERT_NE(NULL, buf);
	pattern_fill(buf, len, seed, pos);
	while (at < len) {
		n = send(fd, buf + at, len - at, flags | MSG_NOSIGNAL);
		ASSERT_GT(n, 0) TH_LOG("send: %m");
		at += n;
	}
	free(buf);
}

/* Receive exactly @len bytes, which must be right. */
static inline void recv_pattern(struct __test_metadata *_metadata, int fd,
				uint64_t seed, uint64_t pos, size_t len)
{
	char *buf = malloc(len);
	size_t at = 0;
	ssize_t n;

	ASSERT_NE(NULL, buf);
	while (at < len) {
		n = recv(fd, buf + at, len - at, 0);
		ASSERT_GT(n, 0)
			TH_LOG("recv at %zu of %zu: %zd, %m", at, len, n);
		at += n;
	}
	ASSERT_EQ(-1, pattern_check(buf, len, seed, pos));
	free(buf);
}

/* Send a little both ways. Return the number of bytes sent. */
static inline uint64_t talk(struct __test_metadata *_metadata, int client,
			    int server)
{
	send_pattern(_metadata, client, TALK_SEED, 0, 1000, 0);
	recv_pattern(_metadata, server, TALK_SEED, 0, 1000);
	send_pattern(_metadata, server, TALK_SEED, 0, 3000, 0);
	recv_pattern(_metadata, client, TALK_SEED, 0, 3000);
	return 4000;
}

/* Return the window that @fd may send into, in bytes. */
static inline uint32_t send_window(struct __test_metadata *_metadata, int fd)
{
	struct tcp_info info = {};
	socklen_t len = sizeof(info);

	EXPECT_EQ(0, getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len));
	return info.tcpi_snd_wnd;
}

/*
 * Send small messages from @client to @server until less than @least of the window is left,
 * or until 60,000 bytes were sent, since the window does not shrink on the wire. Return the
 * number of bytes.
 */
static inline uint64_t wear_window(struct __test_metadata *_metadata,
				   int client, int server, uint64_t seed,
				   uint32_t least)
{
	uint64_t at;

	for (at = 0; at < 60000; at += 1000) {
		if (send_window(_metadata, client) < least)
			break;
		send_pattern(_metadata, client, seed, at, 1000, 0);
		recv_pattern(_metadata, server, seed, at, 1000);
	}
	return at;
}

/* Check that the stream is at its end, and stays there. */
static inline void expect_eof(struct __test_metadata *_metadata, int fd)
{
	char c;

	EXPECT_EQ(POLLIN, wait_for(fd, POLLIN, patience(1000)) & POLLIN);
	EXPECT_EQ(0, recv(fd, &c, 1, MSG_DONTWAIT));
	EXPECT_EQ(0, recv(fd, &c, 1, MSG_DONTWAIT));
}

/* Initialize both directions of a connection: client out, server in, server out, client in. */
static inline void halves_init(struct half h[4], int client, int server,
			       uint64_t seed, uint64_t size)
{
	half_init(&h[0], client, true, seed, size);
	half_init(&h[1], server, false, seed, size);
	half_init(&h[2], server, true, mix(seed), size);
	half_init(&h[3], client, false, mix(seed), size);
	h[0].peer = server;
	h[1].peer = client;
	h[2].peer = client;
	h[3].peer = server;
}

static inline void halves_check(struct __test_metadata *_metadata,
				const struct half h[4])
{
	int i;

	for (i = 0; i < 4; i += 2) {
		EXPECT_EQ(0, h[i].err) TH_LOG("send: %s", strerror(h[i].err));
		EXPECT_EQ(0, h[i + 1].err)
			TH_LOG("recv: %s", strerror(h[i + 1].err));
		EXPECT_EQ(h[i].done, h[i + 1].done);
		EXPECT_EQ(-1, h[i + 1].wrong);
	}
}

/* Wait for @n halves. If they stand still, print where they stand. */
static inline void halves_watch(struct __test_metadata *_metadata,
				const struct half *h, int n)
{
	uint64_t seen = 0, since = now_ms(), done;
	int i, live;

	for (;;) {
		for (i = 0, live = 0, done = 0; i < n; i++) {
			live += !half_over(&h[i]);
			done += half_done(&h[i]);
		}
		if (!live)
			return;
		if (done != seen) {
			seen = done;
			since = now_ms();
		}
		if (now_ms() - since > patience(10000))
			break;
		sleep_ms(5);
	}
	for (i = 0; i < n; i++) {
		if (half_over(&h[i]))
			continue;
		TH_LOG("half %d, %s, stands at %" PRIu64, i,
		       h[i].out ? "a writer" : "a reader", half_done(&h[i]));
		stream_print(stdout, "this end", h[i].fd);
		stream_print(stdout, "the other", h[i].peer);
	}
	friends_print();
	ASSERT_EQ(0, live) TH_LOG("the connection stands still");
}

static inline void halves_free(struct half h[4])
{
	int i;

	for (i = 0; i < 4; i++)
		half_free(&h[i]);
}

/* Return whether the test @name shall run. FRIENDS_TESTS lists names, or globs over names. */
static inline bool wanted(const char *name)
{
	const char *tests = getenv("FRIENDS_TESTS");
	char *copy, *p, *save;
	bool found = false;

	if (!tests || !*tests)
		return true;
	copy = strdup(tests);
	for (p = strtok_r(copy, " ", &save); p; p = strtok_r(NULL, " ", &save))
		found |= !fnmatch(p, name, 0);
	free(copy);
	return found;
}

/*
 * Run the harness with two additions: FRIENDS_TESTS, and --list, which only
 * prints the names of the tests.
 */
static inline int friends_main(int argc, char **argv)
{
	struct __fixture_variant_metadata none = { .name = "" }, *v;
	bool list = argc > 1 && !strcmp(argv[1], "--list");
	struct __fixture_metadata *f;
	struct __test_metadata *t;
	char *args[2050], name[256];
	int n = 0;

	args[n++] = argv[0];
	for (f = __fixture_list; f; f = f->next) {
		for (v = f->variant ?: &none; v; v = v->next) {
			for (t = f->tests; t; t = t->next) {
				snprintf(name, sizeof(name), "%s%s%s.%s",
					 f->name, *v->name ? "." : "", v->name,
					 t->name);
				if (!wanted(name))
					continue;
				if (list)
					puts(name);
				if (n > 2046)
					return KSFT_FAIL;
				args[n++] = "-r";
				args[n++] = strdup(name);
			}
		}
	}
	args[n] = NULL;
	if (list || n == 1)
		return KSFT_PASS;
	if (slow()) {
		for (f = __fixture_list; f; f = f->next) {
			for (t = f->tests; t; t = t->next)
				t->timeout *= 6;
		}
	}
	if (argc > 1)
		return test_harness_run(argc, argv);
	return test_harness_run(n, args);
}

#endif
