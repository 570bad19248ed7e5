// SPDX-License-Identifier: GPL-2.0
/*
 * These tests dissolve a pair in the middle of something, by the sysctl or by
 * unloading the module. The connection must go on over the wire as if nothing
 * had happened.
 */

#include <sys/syscall.h>

#include "lib/friends.h"

#define SEED	0x73776974ULL
#define MIB	1048576ULL

FIXTURE(switching) {
	int client;
	int server;
	struct witness witness;
};

FIXTURE_VARIANT(switching) {
	enum ends ends;
	bool module;
};

FIXTURE_VARIANT_ADD(switching, ipv4_sysctl) {
	.ends = IPV4,
};
FIXTURE_VARIANT_ADD(switching, ipv4_module) {
	.ends = IPV4,
	.module = true,
};
FIXTURE_VARIANT_ADD(switching, ipv6_sysctl) {
	.ends = IPV6,
};
FIXTURE_VARIANT_ADD(switching, ipv6_module) {
	.ends = IPV6,
	.module = true,
};
FIXTURE_VARIANT_ADD(switching, mapped_sysctl) {
	.ends = MAPPED,
};
FIXTURE_VARIANT_ADD(switching, mapped_module) {
	.ends = MAPPED,
	.module = true,
};

FIXTURE_SETUP(switching)
{
	if (variant->module && !getenv("FRIENDS_KO"))
		SKIP(return, "FRIENDS_KO does not say where the module is");
	connection_setup(_metadata, variant->ends, true, &self->client,
			 &self->server, &self->witness);
}

FIXTURE_TEARDOWN(switching)
{
	connection_teardown(_metadata, self->client, self->server,
			    &self->witness);
}

static void load(struct __test_metadata *_metadata)
{
	const char *ko = getenv("FRIENDS_KO");
	int fd = open(ko, O_RDONLY | O_CLOEXEC);

	ASSERT_GE(fd, 0) TH_LOG("%s: %m", ko);
	ASSERT_EQ(0, syscall(__NR_finit_module, fd, "", 0))
		TH_LOG("insmod %s: %m", ko);
	close(fd);
}

static void unload(struct __test_metadata *_metadata)
{
	ASSERT_EQ(0, syscall(__NR_delete_module, "tcp_friends", O_NONBLOCK))
		TH_LOG("rmmod: %m");
}

static void part(struct __test_metadata *_metadata, bool module)
{
	if (module) {
		unload(_metadata);
		EXPECT_FALSE(friends_loaded());
		return;
	}
	EXPECT_EQ(0, friends_set("0"));
	EXPECT_EQ(0, friends_stat("pairs"));
}

/* Wait for a new module's first pair, which begins to move data a moment after it was formed. */
static void meet(struct __test_metadata *_metadata)
{
	uint64_t end = now_ms() + patience(2000);
	int client, server;

	open_connection(_metadata, IPV4, NULL, &client, &server);
	do {
		send_pattern(_metadata, client, SEED, 0, 1, 0);
		recv_pattern(_metadata, server, SEED, 0, 1);
		sleep_ms(1);
	} while (!friends_stat("bytes") && now_ms() < end);
	EXPECT_LT(0, friends_stat("bytes"));
	close(client);
	close(server);
	EXPECT_EQ(0, friends_stat_becomes("pairs", 0));
}

/* Switch friends on again. Only new connections become friends. */
static void allow(struct __test_metadata *_metadata, bool module)
{
	if (module) {
		load(_metadata);
		EXPECT_EQ(0, friends_get());
	}
	EXPECT_EQ(0, friends_set("1"));
	if (module)
		meet(_metadata);
	EXPECT_EQ(0, friends_stat("pairs"));
}

/* Check that the old connection has no friend now, and that a new one has. */
static void check_after(struct __test_metadata *_metadata, enum ends ends)
{
	uint64_t bytes = friends_stat("bytes");
	int client, server;

	EXPECT_EQ(0, friends_stat("pairs"));
	open_connection(_metadata, ends, NULL, &client, &server);
	EXPECT_EQ(1, friends_stat_becomes("pairs", 1));
	send_pattern(_metadata, client, SEED, 0, 10000, 0);
	recv_pattern(_metadata, server, SEED, 0, 10000);
	EXPECT_LE(bytes + 7500, friends_stat("bytes"));
	close(client);
	close(server);
}

#define PART()	part(_metadata, variant->module)
#define ALLOW()	allow(_metadata, variant->module)
#define CHECK_AFTER()	check_after(_metadata, variant->ends)

/* Wait until each direction has moved @more. */
static void progress(struct __test_metadata *_metadata, struct half h[4],
		     uint64_t more)
{
	uint64_t a = half_done(&h[1]) + more, b = half_done(&h[3]) + more;
	uint64_t end = now_ms() + patience(10000);

	while ((half_done(&h[1]) < a || half_done(&h[3]) < b) &&
	       now_ms() < end)
		sleep_ms(1);
	ASSERT_GE(half_done(&h[1]), a);
	ASSERT_GE(half_done(&h[3]), b);
}

TEST_F(switching, mid_stream)
{
	const uint64_t more = scaled(MIB);
	bool stop = false;
	struct half h[4];
	uint64_t bytes;
	int i;

	halves_init(h, self->client, self->server, SEED, ENDLESS);
	for (i = 0; i < 4; i++) {
		h[i].stop = &stop;
		h[i].shut = true;
		h[i].chunk = 100000;
		half_start(&h[i]);
	}
	progress(_metadata, h, more);
	EXPECT_LE(more, friends_stat("bytes") - self->witness.bytes);
	PART();
	bytes = friends_stat("bytes");
	progress(_metadata, h, more);
	EXPECT_EQ(bytes, friends_stat("bytes"));
	ALLOW();
	bytes = friends_stat("bytes");
	progress(_metadata, h, more);
	EXPECT_EQ(bytes, friends_stat("bytes"));
	EXPECT_EQ(0, friends_stat("pairs"));
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < 4; i++)
		half_join(&h[i]);
	halves_check(_metadata, h);
	halves_free(h);
	CHECK_AFTER();
	EXPECT_CARRIED_ANY();
}

/* Many connections are friends, each for a part of its life. */
TEST_F_TIMEOUT(switching, again_and_again, 120)
{
	enum { N = 6 };
	int client[N], server[N], i, k;
	const uint64_t more = scaled(MIB / 4);
	struct half h[N][4];
	bool stop = false;

	for (i = 0; i < N; i++) {
		open_connection(_metadata, variant->ends, NULL, &client[i],
				&server[i]);
		EXPECT_EQ(1U + !i, friends_stat_becomes("pairs", 1 + !i));
		halves_init(h[i], client[i], server[i], SEED + i, ENDLESS);
		for (k = 0; k < 4; k++) {
			h[i][k].stop = &stop;
			h[i][k].shut = true;
			half_start(&h[i][k]);
		}
		progress(_metadata, h[i], more);
		PART();
		for (k = 0; k <= i; k++)
			progress(_metadata, h[k], more / 4);
		ALLOW();
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < N; i++) {
		for (k = 0; k < 4; k++)
			half_join(&h[i][k]);
		halves_check(_metadata, h[i]);
		halves_free(h[i]);
		close(client[i]);
		close(server[i]);
	}
	CHECK_AFTER();
	EXPECT_CARRIED_ANY();
}

TEST_F(switching, idle)
{
	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	recv_pattern(_metadata, self->server, SEED, 0, 1000);
	EXPECT_CARRIED(1000);
	PART();
	send_pattern(_metadata, self->client, SEED, 1000, 1000, 0);
	recv_pattern(_metadata, self->server, SEED, 1000, 1000);
	send_pattern(_metadata, self->server, SEED, 0, 1000, 0);
	recv_pattern(_metadata, self->client, SEED, 0, 1000);
	ALLOW();
	CHECK_AFTER();
}

/* Unread data of a size that fits is in the queues of both directions. */
TEST_F(switching, with_unread_data)
{
	send_pattern(_metadata, self->client, SEED, 0, 30000, 0);
	send_pattern(_metadata, self->server, ~SEED, 0, 30000, 0);
	PART();
	send_pattern(_metadata, self->client, SEED, 30000, 10000, 0);
	recv_pattern(_metadata, self->server, SEED, 0, 40000);
	ALLOW();
	recv_pattern(_metadata, self->client, ~SEED, 0, 30000);
	CHECK_AFTER();
	EXPECT_CARRIED_ANY();
}

/* The queues are full, and a reader that comes later finds everything. */
TEST_F(switching, with_full_receiver)
{
	static char buf[65536];
	uint64_t sent = 0;
	ssize_t n;

	do {
		for (;;) {
			pattern_fill(buf, sizeof(buf), SEED, sent);
			n = send(self->client, buf, sizeof(buf), MSG_DONTWAIT);
			if (n < 0)
				break;
			sent += n;
		}
	} while (wait_for(self->client, POLLOUT, QUIET));
	PART();
	EXPECT_EQ(0, wait_for(self->client, POLLOUT, QUIET));
	recv_pattern(_metadata, self->server, SEED, 0, sent);
	/* The wire may need a zero-window probe to find the room. */
	EXPECT_EQ(POLLOUT, wait_for(self->client, POLLOUT, patience(3000)));
	ALLOW();
	CHECK_AFTER();
	EXPECT_CARRIED_ANY();
}

/* Little is left of the window that the wire offered last. */
TEST_F(switching, with_worn_window)
{
	const size_t large = 60000;
	uint64_t at = wear_window(_metadata, self->client, self->server,
				  SEED, large / 2);
	int unsent = -1;

	EXPECT_GT(large / 2, send_window(_metadata, self->client));
	EXPECT_CARRIED(at);
	PART();
	send_pattern(_metadata, self->client, SEED, at, large, 0);
	ASSERT_EQ(0, ioctl(self->client, SIOCOUTQNSD, &unsent));
	EXPECT_EQ(0, unsent);
	recv_pattern(_metadata, self->server, SEED, at, large);
	ALLOW();
	CHECK_AFTER();
}

/*
 * The receiver is full, and its buffer was made smaller than a segment and large again.
 * Without window scaling, TCP opens a window by whole segments, up to the size that it aims
 * at.
 */
TEST_F(switching, with_shrunk_buffer)
{
	const int segment = 20000, small = 2500, large = 100000;
	static char buf[65536];
	int client, server;
	uint64_t sent;
	ssize_t n;

	ASSERT_EQ(0, sysctl_set("/proc/sys/net/ipv4/tcp_window_scaling", "0"));
	open_connection(_metadata, variant->ends, NULL, &client, &server);
	EXPECT_EQ(2, friends_stat_becomes("pairs", 2));

	/* This segment takes the wire, so that the receiver sees one of that size. */
	set_int(_metadata, client, SOL_SOCKET, SO_MAX_PACING_RATE, -2);
	send_pattern(_metadata, client, SEED, 0, segment, 0);
	recv_pattern(_metadata, server, SEED, 0, segment);
	expect_acked(_metadata, client);
	set_int(_metadata, client, SOL_SOCKET, SO_MAX_PACING_RATE, -1);

	set_int(_metadata, server, SOL_SOCKET, SO_RCVBUF, small);
	sent = segment;
	do {
		for (;;) {
			pattern_fill(buf, sizeof(buf), SEED, sent);
			n = send(client, buf, sizeof(buf), MSG_DONTWAIT);
			if (n < 0)
				break;
			sent += n;
		}
	} while (wait_for(client, POLLOUT, QUIET));
	EXPECT_CARRIED_ANY();
	set_int(_metadata, server, SOL_SOCKET, SO_RCVBUF, large);
	PART();
	recv_pattern(_metadata, server, SEED, segment, sent - segment);
	EXPECT_EQ(POLLOUT, wait_for(client, POLLOUT, patience(3000)));
	ALLOW();
	close(client);
	close(server);
}

TEST_F(switching, with_blocked_writer)
{
	struct half out, in;

	half_init(&out, self->client, true, SEED, 8 * MIB);
	half_init(&in, self->server, false, SEED, 8 * MIB);
	half_start(&out);
	sleep_ms(100);
	EXPECT_FALSE(half_over(&out));
	PART();
	sleep_ms(20);
	half_start(&in);
	half_join(&in);
	half_join(&out);
	EXPECT_EQ(0, out.err);
	EXPECT_EQ(0, in.err);
	EXPECT_EQ(-1, in.wrong);
	EXPECT_EQ(8 * MIB, in.done);
	half_free(&in);
	half_free(&out);
	ALLOW();
	CHECK_AFTER();
	EXPECT_CARRIED_ANY();
}

TEST_F(switching, with_blocked_reader)
{
	struct half in;

	half_init(&in, self->server, false, SEED, 1000);
	half_start(&in);
	sleep_ms(50);
	PART();
	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	half_join(&in);
	EXPECT_EQ(-1, in.wrong);
	EXPECT_EQ(1000, in.done);
	half_free(&in);
	ALLOW();
	CHECK_AFTER();
	EXPECT_CARRIED_ANY();
}

TEST_F(switching, with_corked_data)
{
	set_int(_metadata, self->client, IPPROTO_TCP, TCP_CORK, 1);
	send_pattern(_metadata, self->client, SEED, 0, 100, 0);
	PART();
	send_pattern(_metadata, self->client, SEED, 100, 100, 0);
	set_int(_metadata, self->client, IPPROTO_TCP, TCP_CORK, 0);
	recv_pattern(_metadata, self->server, SEED, 0, 200);
	ALLOW();
	CHECK_AFTER();
	EXPECT_CARRIED_ANY();
}

TEST_F(switching, half_closed)
{
	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	EXPECT_EQ(0, shutdown(self->client, SHUT_WR));
	PART();
	send_pattern(_metadata, self->server, SEED, 0, 100000, 0);
	recv_pattern(_metadata, self->client, SEED, 0, 100000);
	recv_pattern(_metadata, self->server, SEED, 0, 1000);
	expect_eof(_metadata, self->server);
	EXPECT_EQ(0, shutdown(self->server, SHUT_WR));
	expect_eof(_metadata, self->client);
	ALLOW();
	CHECK_AFTER();
	EXPECT_CARRIED_ANY();
}

TEST_F(switching, then_reset)
{
	char c;

	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	EXPECT_EQ(POLLIN, wait_for(self->server, POLLIN, patience(1000)));
	PART();
	close(self->server);
	self->server = -1;
	EXPECT_NE(0, wait_for(self->client, POLLIN, patience(1000)));
	EXPECT_EQ(-1, recv(self->client, &c, 1, MSG_DONTWAIT));
	EXPECT_EQ(ECONNRESET, errno);
	ALLOW();
	CHECK_AFTER();
	EXPECT_CARRIED_ANY();
}

/* One end is closed, and its last bytes are unread. */
TEST_F(switching, orphan)
{
	send_pattern(_metadata, self->client, SEED, 0, 50000, 0);
	close(self->client);
	self->client = -1;
	PART();
	recv_pattern(_metadata, self->server, SEED, 0, 50000);
	expect_eof(_metadata, self->server);
	ALLOW();
	CHECK_AFTER();
	EXPECT_CARRIED_ANY();
}

/* Connections come, talk and close while the switch is thrown. */
struct visitors {
	struct __test_metadata *metadata;
	enum ends ends;
	int listener;
	bool stop;
	int n;
};

static void *visit(void *arg)
{
	struct visitors *v = arg;
	int client, server, n = 0;

	while (!__atomic_load_n(&v->stop, __ATOMIC_RELAXED)) {
		client = client_for(v->metadata, v->ends, v->listener, NULL);
		server = accept(v->listener, NULL, NULL);
		send_pattern(v->metadata, client, SEED, 0, 2000, 0);
		recv_pattern(v->metadata, server, SEED, 0, 2000);
		if (n % 3)
			close(client);
		else
			abort_connection(client);
		close(server);
		__atomic_store_n(&v->n, ++n, __ATOMIC_RELAXED);
	}
	return NULL;
}

TEST_F(switching, while_others_come_and_go)
{
	struct visitors v = { _metadata, variant->ends, -1, false, 0 };
	int i, seen, rounds = scaled(variant->module ? 10 : 50);
	pthread_t thread;

	v.listener = listener_for(_metadata, variant->ends, NULL);
	ASSERT_EQ(0, pthread_create(&thread, NULL, visit, &v));
	for (i = 0; i < rounds; i++) {
		seen = __atomic_load_n(&v.n, __ATOMIC_RELAXED);
		while (__atomic_load_n(&v.n, __ATOMIC_RELAXED) < seen + 2)
			sched_yield();
		if (variant->module)
			unload(_metadata);
		else
			EXPECT_EQ(0, friends_set("0"));
		seen = __atomic_load_n(&v.n, __ATOMIC_RELAXED);
		while (__atomic_load_n(&v.n, __ATOMIC_RELAXED) < seen + 1)
			sched_yield();
		if (variant->module)
			load(_metadata);
		EXPECT_EQ(0, friends_set("1"));
	}
	__atomic_store_n(&v.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	close(v.listener);
	EXPECT_EQ(0, friends_stat_becomes("pairs", 0));
	CHECK_AFTER();
	EXPECT_CARRIED_ANY();
}

int main(int argc, char **argv)
{
	return friends_main(argc, argv);
}
