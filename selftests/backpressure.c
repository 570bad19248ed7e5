// SPDX-License-Identifier: GPL-2.0
/*
 * These tests fill receivers and senders, and check which calls wait, how much fits, and
 * what is woken.
 */

#include <linux/sock_diag.h>

#include "lib/friends.h"

#define SEED	0x666c6f77ULL

CONNECTION_FIXTURE(backpressure);

/* Replace the connection by one with the options @o. */
static void connect_anew(struct __test_metadata *_metadata, enum ends ends,
			 const struct connect_options *o, int *client, int *server)
{
	close(*client);
	close(*server);
	open_connection(_metadata, ends, o, client, server);
}

/* Write until nothing more fits, not even @quiet ms later. Return the position. */
static uint64_t fill(struct __test_metadata *_metadata, int fd, uint64_t seed,
		     uint64_t pos, size_t chunk, int quiet)
{
	char *buf = malloc(chunk);
	uint64_t state = pos;
	size_t len;
	ssize_t n;

	ASSERT_NE(NULL, buf);
	do {
		for (;;) {
			len = random_size(&state, chunk);
			pattern_fill(buf, len, seed, pos);
			n = send(fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
			if (n < 0)
				break;
			pos += n;
		}
		ASSERT_EQ(EAGAIN, errno);
	} while (wait_for(fd, POLLOUT, quiet));
	free(buf);
	return pos;
}

static uint32_t meminfo(struct __test_metadata *_metadata, int fd, int what)
{
	uint32_t info[SK_MEMINFO_VARS];
	socklen_t len = sizeof(info);

	ASSERT_EQ(0, getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &len));
	return info[what];
}

/*
 * If both buffers have a known size, at least what the sender asked for fits,
 * and not many times as much.
 */
static void eagain(struct __test_metadata *_metadata, int client, int server,
		   uint64_t least, uint64_t most, size_t chunk, uint64_t *sent)
{
	uint64_t first, second;

	first = fill(_metadata, client, SEED, 0, chunk, QUIET);
	TH_LOG("%" PRIu64 " bytes fit in", first);
	EXPECT_GE(first, least);
	EXPECT_LE(first, most);
	EXPECT_LE(meminfo(_metadata, server, SK_MEMINFO_RMEM_ALLOC),
		  2 * meminfo(_metadata, server, SK_MEMINFO_RCVBUF) + 262144);
	EXPECT_LE(meminfo(_metadata, client, SK_MEMINFO_WMEM_QUEUED),
		  2 * meminfo(_metadata, client, SK_MEMINFO_SNDBUF) + 262144);

	recv_pattern(_metadata, server, SEED, 0, first);
	EXPECT_EQ(POLLOUT, wait_for(client, POLLOUT, patience(AT_ONCE)));

	/* The result must not change later in the life of the sockets. */
	second = fill(_metadata, client, SEED, first, chunk, QUIET);
	EXPECT_GE(second - first, least);
	recv_pattern(_metadata, server, SEED, first, second - first);
	EXPECT_EQ(POLLOUT, wait_for(client, POLLOUT, patience(AT_ONCE)));
	EXPECT_EQ(0, wait_for(server, POLLIN, QUIET));
	*sent = second;
}

TEST_F(backpressure, eagain_64k_buffers)
{
	const struct connect_options o = { .sndbuf = 65536, .rcvbuf = 65536 };
	uint64_t sent;

	connect_anew(_metadata, variant->ends, &o, &self->client, &self->server);
	eagain(_metadata, self->client, self->server, 65536, 1 << 20, 8192,
	       &sent);
	EXPECT_CARRIED(sent);
}

TEST_F(backpressure, eagain_large_writes)
{
	const struct connect_options o = { .sndbuf = 65536, .rcvbuf = 65536 };
	uint64_t sent;

	connect_anew(_metadata, variant->ends, &o, &self->client, &self->server);
	eagain(_metadata, self->client, self->server, 65536, 1 << 20, CHUNK_MAX,
	       &sent);
	EXPECT_CARRIED(sent);
}

TEST_F(backpressure, eagain_default_buffers)
{
	uint64_t sent;

	eagain(_metadata, self->client, self->server, 65536, 32 << 20, 65536,
	       &sent);
	EXPECT_CARRIED(sent);
}

/* The sender sends many messages, each of which may cost far more than its bytes. */
TEST_F(backpressure, eagain_small_writes)
{
	const struct connect_options o = { .sndbuf = 65536, .rcvbuf = 65536 };
	uint64_t sent;

	connect_anew(_metadata, variant->ends, &o, &self->client, &self->server);
	set_int(_metadata, self->client, IPPROTO_TCP, TCP_NODELAY, 1);
	eagain(_metadata, self->client, self->server, 4096, 1 << 20, 50, &sent);
	EXPECT_CARRIED(sent);
}

/* Both ends write until neither can, then both read. There must be no deadlock. */
TEST_F(backpressure, both_full)
{
	uint64_t there, back;

	there = fill(_metadata, self->client, SEED, 0, 65536, QUIET);
	back = fill(_metadata, self->server, ~SEED, 0, 65536, QUIET);
	EXPECT_GE(there, 65536U);
	EXPECT_GE(back, 65536U);
	recv_pattern(_metadata, self->server, SEED, 0, there);
	recv_pattern(_metadata, self->client, ~SEED, 0, back);
	EXPECT_EQ(POLLOUT, wait_for(self->client, POLLOUT, patience(AT_ONCE)));
	EXPECT_EQ(POLLOUT, wait_for(self->server, POLLOUT, patience(AT_ONCE)));
	EXPECT_CARRIED(there + back);
}

struct blocked {
	int fd;
	uint64_t pos;
	uint64_t woken;
	ssize_t result;
};

static void *blocked_write(void *arg)
{
	struct blocked *b = arg;
	char buf[1000];

	pattern_fill(buf, sizeof(buf), SEED, b->pos);
	b->result = send(b->fd, buf, sizeof(buf), MSG_NOSIGNAL);
	b->woken = now_ms();
	return NULL;
}

/*
 * Return how many rounds may take longer than AT_ONCE. A lost wake-up waits for
 * the probe timer, 200 ms. However, this machine may have been busy with
 * something else, and the wire itself is late when it had to drop a segment
 * that found no room.
 */
static int late_allowed(bool friends, int rounds)
{
	if (!friends)
		return rounds;
	return slow() ? rounds / 5 : 1 + rounds / 100;
}

/* A blocked writer goes on as soon as the reader has made room, not later. */
TEST_F(backpressure, blocked_writer_wakes)
{
	const struct connect_options o = { .sndbuf = 65536, .rcvbuf = 65536 };
	int i, rounds = scaled(100), late = 0;
	uint64_t state = SEED, pos = 0, end, piece, start;
	struct blocked b;
	pthread_t thread;

	connect_anew(_metadata, variant->ends, &o, &self->client, &self->server);
	for (i = 0; i < rounds; i++) {
		end = fill(_metadata, self->client, SEED, pos, 16384, 5);
		b = (struct blocked){ .fd = self->client, .pos = end };
		ASSERT_EQ(0, pthread_create(&thread, NULL, blocked_write, &b));
		sleep_ms(prng(&state) % 10);
		/* Read all in one piece, or a little first. */
		if (prng(&state) % 2) {
			piece = random_size(&state, end - pos);
			recv_pattern(_metadata, self->server, SEED, pos, piece);
			pos += piece;
			sleep_ms(prng(&state) % 5);
		}
		if (pos < end)
			recv_pattern(_metadata, self->server, SEED, pos,
				     end - pos);
		start = now_ms();
		pthread_join(thread, NULL);
		ASSERT_EQ(1000, b.result);
		if (b.woken > start + AT_ONCE) {
			TH_LOG("round %d: woken after %" PRIu64 " ms", i,
			       b.woken - start);
			late++;
		}
		recv_pattern(_metadata, self->server, SEED, end, 1000);
		pos = end + 1000;
	}
	EXPECT_LE(late, late_allowed(variant->friends, rounds));
	EXPECT_CARRIED(pos);
}

/*
 * Read until the queue is empty, and return true. Return false once so much was
 * read that the writer must be keeping up, because the round then proves
 * nothing.
 */
static bool drain(struct __test_metadata *_metadata, int fd, uint64_t *pos)
{
	static char buf[CHUNK_MAX];
	uint64_t end = *pos + (8 << 20);
	ssize_t n;

	while (*pos < end) {
		n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
		if (n < 0) {
			ASSERT_EQ(EAGAIN, errno);
			return true;
		}
		if (!n)
			return true;
		ASSERT_EQ(-1, pattern_check(buf, n, SEED, *pos));
		*pos += n;
	}
	return false;
}

/*
 * The writer always has more data, but rests now and then, or it might keep up
 * with any reader. The reader sleeps and drains at random. Whenever the reader
 * has emptied its queue there is room everywhere, so more data must come at
 * once.
 */
static uint64_t random_drain(struct __test_metadata *_metadata, int client,
			     int server, bool friends, int rounds)
{
	uint64_t state = SEED, pos = 0, start, took;
	int i, late = 0, empty = 0;
	bool stop = false;
	struct half out;
	size_t len;

	half_init(&out, client, true, SEED, ENDLESS);
	out.stop = &stop;
	out.shut = true;
	out.pause = 8;
	half_start(&out);
	for (i = 0; i < rounds; i++) {
		sleep_ms(prng(&state) % 15);
		/* Sometimes read only a little, so that the window may stay shut. */
		if (prng(&state) % 2) {
			len = random_size(&state, 20000);
			recv_pattern(_metadata, server, SEED, pos, len);
			pos += len;
			sleep_ms(prng(&state) % 5);
		}
		if (!drain(_metadata, server, &pos))
			continue;
		empty++;
		start = now_ms();
		ASSERT_EQ(POLLIN, wait_for(server, POLLIN, 20000));
		took = now_ms() - start;
		if (took > AT_ONCE) {
			TH_LOG("round %d: nothing for %" PRIu64 " ms", i, took);
			late++;
		}
	}
	EXPECT_GT(empty, 0);
	EXPECT_LE(late, late_allowed(friends, rounds));
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	while (!half_over(&out) || half_done(&out) > pos) {
		wait_for(server, POLLIN, 10);
		drain(_metadata, server, &pos);
	}
	half_join(&out);
	EXPECT_EQ(0, out.err);
	expect_eof(_metadata, server);
	half_free(&out);
	return pos;
}

TEST_F(backpressure, random_drain)
{
	EXPECT_CARRIED(random_drain(_metadata, self->client, self->server,
				    variant->friends,
				    variant->friends ? scaled(40) : 10));
}

TEST_F(backpressure, random_drain_64k_buffers)
{
	const struct connect_options o = { .sndbuf = 65536, .rcvbuf = 65536 };

	connect_anew(_metadata, variant->ends, &o, &self->client, &self->server);
	EXPECT_CARRIED(random_drain(_metadata, self->client, self->server,
				    variant->friends, scaled(200)));
}

/* With SO_SNDTIMEO, a write to a full receiver ends with EAGAIN in time. */
TEST_F(backpressure, send_timeout)
{
	struct timeval tv = { .tv_usec = 100000 };
	char *buf = malloc(CHUNK_MAX);
	uint64_t start, sent = 0;
	ssize_t n;

	ASSERT_NE(NULL, buf);
	ASSERT_EQ(0, setsockopt(self->client, SOL_SOCKET, SO_SNDTIMEO, &tv,
				sizeof(tv)));
	for (;;) {
		pattern_fill(buf, CHUNK_MAX, SEED, sent);
		start = now_ms();
		n = send(self->client, buf, CHUNK_MAX, MSG_NOSIGNAL);
		if (n < 0)
			break;
		sent += n;
		ASSERT_LT(sent, 64U << 20);
	}
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_GE(now_ms() - start, 95U);
	EXPECT_LE(now_ms() - start, (uint64_t)patience(1000));
	free(buf);
	recv_pattern(_metadata, self->server, SEED, 0, sent);
	EXPECT_CARRIED(sent);
}

/* TCP_USER_TIMEOUT gives up on a reader that never reads. */
TEST_F(backpressure, user_timeout)
{
	const struct connect_options o = { .sndbuf = 65536, .rcvbuf = 65536 };
	uint64_t start, took;

	connect_anew(_metadata, variant->ends, &o, &self->client, &self->server);
	set_int(_metadata, self->client, IPPROTO_TCP, TCP_USER_TIMEOUT, 1000);
	start = now_ms();
	fill(_metadata, self->client, SEED, 0, 65536, QUIET);
	EXPECT_EQ(POLLERR | POLLHUP, wait_for(self->client, 0, 20000));
	took = now_ms() - start;
	EXPECT_GE(took, 900U);
	EXPECT_EQ(-1, send(self->client, &start, 1, MSG_NOSIGNAL));
	EXPECT_EQ(ETIMEDOUT, errno);
	EXPECT_CARRIED_ANY();
}

struct pour {
	int fd;
	uint64_t until, sent;
};

static void *pour(void *arg)
{
	static char buf[4 << 20];
	struct pour *p = arg;
	ssize_t n;

	while (now_ms() < p->until) {
		n = send(p->fd, buf, sizeof(buf), MSG_DONTWAIT);
		if (n > 0)
			p->sent += n;
		else
			wait_for(p->fd, POLLOUT, 10);
	}
	shutdown(p->fd, SHUT_WR);
	return NULL;
}

/*
 * Large writes go to a reader that keeps up. No ACK may come so late that it is
 * taken for a forged one (RFC 5961, section 5.2) and ignored. A writer that
 * waits for the room that such an ACK announces would wait for the probe timer.
 */
TEST_F(backpressure, acks_are_heard)
{
	struct pour p = { .fd = self->client, .until = now_ms() + 1000 };
	static char buf[65536];
	uint64_t got = 0;
	pthread_t thread;
	ssize_t n;

	ASSERT_EQ(0, pthread_create(&thread, NULL, pour, &p));
	while ((n = recv(self->server, buf, sizeof(buf), 0)) > 0)
		got += n;
	pthread_join(thread, NULL);
	EXPECT_EQ(0, n);
	EXPECT_EQ(p.sent, got);
	EXPECT_EQ(0, tcp_ext("TCPChallengeACK"));
	EXPECT_CARRIED(got);
}

/*
 * Requests and responses are sent under Nagle's algorithm. Twenty times a second, one of
 * them takes the wire. Data that friends move carries no ACK. If no ACK were sent, the next
 * request would wait for a delayed one, 40 ms.
 */
TEST_F(backpressure, requests_do_not_wait_for_acks)
{
	const uint64_t end = now_ms() + 2000;
	uint64_t at, began, late = 0;

	if (variant->friends)
		ASSERT_EQ(0, revalidate_set("50"));
	for (at = 0; now_ms() < end; at += 100) {
		began = now_ms();
		send_pattern(_metadata, self->client, SEED, at, 100, 0);
		recv_pattern(_metadata, self->server, SEED, at, 100);
		send_pattern(_metadata, self->server, SEED, at, 100, 0);
		recv_pattern(_metadata, self->client, SEED, at, 100);
		late += now_ms() - began >= 35;
	}
	/* If no ACK were sent, forty of the few remaining rounds would be late. */
	if (variant->friends) {
		EXPECT_GE(slow() ? 20 : 5, late);
		EXPECT_LT(5, friends_stat("wire_revalidate"));
		EXPECT_LT(0, friends_stat("bytes"));
	}
	EXPECT_CARRIED_ANY();
}

/*
 * A sender that returns to the wire finds a window for all that the receiver can take,
 * however much friends have used of the window that the wire offered last.
 */
TEST_F(backpressure, wire_finds_a_window)
{
	const size_t large = 60000;
	uint64_t at = wear_window(_metadata, self->client, self->server,
				  SEED, large / 2);
	int unsent = -1;
	uint64_t end;

	if (variant->friends)
		EXPECT_GT(large / 2, send_window(_metadata, self->client));
	set_int(_metadata, self->client, SOL_SOCKET, SO_MAX_PACING_RATE, -2);
	send_pattern(_metadata, self->client, SEED, at, large, 0);
	end = now_ms() + 100;
	/* The congestion window and pacing need a few ACKs. A probe timer takes 200 ms. */
	do {
		ASSERT_EQ(0, ioctl(self->client, SIOCOUTQNSD, &unsent));
		usleep(1000);
	} while (unsent && now_ms() < end);
	EXPECT_EQ(0, unsent);
	recv_pattern(_metadata, self->server, SEED, at, large);
	if (variant->friends)
		EXPECT_LT(0, friends_stat("wire_paced"));
	EXPECT_CARRIED_ANY();
}

/* Return for how many ms the processor @cpu has been idle. */
static uint64_t idle_ms(struct __test_metadata *_metadata, int cpu)
{
	uint64_t idle = 0, wait = 0;
	char line[256], name[16];
	FILE *f = fopen("/proc/stat", "r");

	ASSERT_NE(NULL, f);
	snprintf(name, sizeof(name), "cpu%d ", cpu);
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, name, strlen(name)))
			sscanf(line, "%*s %*u %*u %*u %" SCNu64 " %" SCNu64, &idle, &wait);
	}
	fclose(f);
	return (idle + wait) * 1000 / sysconf(_SC_CLK_TCK);
}

/*
 * A writer that fills its friend waits for a reader on the same processor. The reader wakes
 * it at once: with a wake-up by the timer, the processor would be idle most of the time. The
 * receive buffer then stays small.
 *
 * Other work on this processor may make readers late, so one good run in three is enough.
 */
TEST_F(backpressure, waits_for_the_reader)
{
	const uint64_t all = scaled(256 << 20);
	uint64_t waited, start, took, idle;
	int cpu = sched_getcpu(), runs = 0;
	struct stream out, in;
	bool good = false;

	run_on(_metadata, cpu);
	do {
		if (runs++)
			connect_anew(_metadata, variant->ends, NULL, &self->client, &self->server);
		waited = friends_stat("waited");
		start = now_ms();
		idle = idle_ms(_metadata, cpu);
		in = (struct stream){};
		out = (struct stream){};
		stream_start(&in, self->server, false, 65536, all);
		stream_start(&out, self->client, true, 65536, all);
		stream_join(_metadata, &out);
		stream_join(_metadata, &in);
		EXPECT_EQ(0, out.err);
		EXPECT_EQ(0U, in.left);
		idle = idle_ms(_metadata, cpu) - idle;
		took = now_ms() - start;
		waited = friends_stat("waited") - waited;
		TH_LOG("waited %" PRIu64 " times; idle for %" PRIu64 " of %" PRIu64 " ms; buffer %u",
		       waited, idle, took, meminfo(_metadata, self->server, SK_MEMINFO_RCVBUF));
		good = waited > 50 && idle < took / 2 &&
		       meminfo(_metadata, self->server, SK_MEMINFO_RCVBUF) <= 2 << 20;
	} while (variant->friends && !slow() && !good && runs < 3);
	if (!variant->friends)
		EXPECT_EQ(0U, waited);
	if (variant->friends && !slow())
		EXPECT_TRUE(good);
	EXPECT_CARRIED(runs * all);
}

/* Write a block, unless there is no room for it. Return how many bytes were written. */
static size_t write_block(struct __test_metadata *_metadata, int fd)
{
	static const char buf[16384];

	if (!wait_for(fd, POLLOUT, 0))
		return 0;
	EXPECT_EQ((ssize_t)sizeof(buf), send(fd, buf, sizeof(buf), MSG_NOSIGNAL));
	return sizeof(buf);
}

/* Write blocks until a writer has waited, or nothing more fits. Return how many bytes were written. */
static uint64_t until_waited(struct __test_metadata *_metadata, int fd)
{
	uint64_t waited = friends_stat("waited"), sent = 0;
	size_t n = 1;

	while (n && friends_stat("waited") == waited) {
		n = write_block(_metadata, fd);
		sent += n;
	}
	return sent;
}

/* Read a large block from @server on this processor. */
static void read_here(struct __test_metadata *_metadata, int client, int server)
{
	static char buf[65536];

	ASSERT_EQ((ssize_t)sizeof(buf), send(client, buf, sizeof(buf), 0));
	wait_readable(_metadata, server, sizeof(buf));
	ASSERT_EQ((ssize_t)sizeof(buf), recv(server, buf, sizeof(buf), 0));
}

/* Read what is there. Return how many bytes. */
static uint64_t read_all(struct __test_metadata *_metadata, int fd, uint64_t sent)
{
	static char buf[65536];
	uint64_t got = 0;
	ssize_t n;

	while (got < sent) {
		EXPECT_EQ(POLLIN, wait_for(fd, POLLIN, patience(1000)));
		n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
		ASSERT_LT(0, n);
		got += n;
	}
	return got;
}

/*
 * A reader on this processor that reads only when nothing more fits holds up a few writes, and
 * then none for a second. Until then, writes take what room there is.
 *
 * On a slow kernel not each round need hold up a write: a write that finds a socket's lock taken is
 * left to TCP, and so are all writes after it until the reader has made room for what is in flight.
 */
TEST_F(backpressure, nobody_reads)
{
	uint64_t waited = friends_stat("waited"), start, sent, n;
	struct spinner spinner;
	int i;

	run_on(_metadata, sched_getcpu());
	spinner_start(&spinner);
	read_here(_metadata, self->client, self->server);
	start = now_ms();
	for (i = 0; i < 8; i++) {
		sent = until_waited(_metadata, self->client);
		if (variant->friends && !slow() && !i)
			EXPECT_EQ(1U, friends_stat("waited") - waited);
		while ((n = write_block(_metadata, self->client)))
			sent += n;
		read_all(_metadata, self->server, sent);
	}
	if (variant->friends)
		EXPECT_LE(1U, friends_stat("waited") - waited);
	if (variant->friends && now_ms() - start < 1000)
		EXPECT_GE(4U, friends_stat("waited") - waited);
	waited = friends_stat("waited");
	sleep_ms(1100);
	for (i = 0; i < (slow() ? 3 : 1) && friends_stat("waited") == waited; i++) {
		sent = until_waited(_metadata, self->client);
		read_all(_metadata, self->server, sent);
	}
	if (variant->friends)
		EXPECT_EQ(1U, friends_stat("waited") - waited);
	spinner_stop(&spinner);
	EXPECT_CARRIED_ANY();
}

/*
 * Many readers that do not read hold up one writer a few times in a second, not once each. Their
 * buffers are small, so that all of them together stay below TCP's limits of memory.
 */
TEST_F(backpressure, many_do_not_read)
{
	const struct connect_options o = { .sndbuf = 131072, .rcvbuf = 131072 };
	const int most = 8, n = 8 * most;
	uint64_t waited = friends_stat("waited"), start;
	int client[n], server[n], i;
	struct spinner spinner;

	run_on(_metadata, sched_getcpu());
	spinner_start(&spinner);
	for (i = 0; i < n; i++) {
		open_connection(_metadata, variant->ends, &o, &client[i], &server[i]);
		read_here(_metadata, client[i], server[i]);
	}
	start = now_ms();
	for (i = 0; i < n; i++)
		until_waited(_metadata, client[i]);
	spinner_stop(&spinner);
	TH_LOG("waited %" PRIu64 " times in %" PRIu64 " ms", friends_stat("waited") - waited,
	       now_ms() - start);
	EXPECT_GE(most * (2 + (now_ms() - start) / 1000), friends_stat("waited") - waited);
	if (variant->friends)
		EXPECT_LE(4U, friends_stat("waited") - waited);
	for (i = 0; i < n; i++) {
		close(client[i]);
		close(server[i]);
	}
	EXPECT_CARRIED_ANY();
}

static void ignore(int sig __maybe_unused)
{
}

/* A signal ends the wait of a writer, and no byte is lost or written twice. */
TEST_F(backpressure, signal_while_waiting)
{
	const struct sigaction action = { .sa_handler = ignore };
	const uint64_t all = scaled(64 << 20);
	uint64_t waited = friends_stat("waited");
	struct stream out = {}, in = { .check = true };

	ASSERT_EQ(0, sigaction(SIGUSR1, &action, NULL));
	run_on(_metadata, sched_getcpu());
	read_here(_metadata, self->client, self->server);
	stream_start(&in, self->server, false, 65536, all);
	stream_start(&out, self->client, true, 65536, all);
	while (!stream_over(&in) && !stream_over(&out)) {
		pthread_kill(out.thread, SIGUSR1);
		usleep(300);
	}
	stream_join(_metadata, &out);
	stream_join(_metadata, &in);
	EXPECT_EQ(0, out.err);
	EXPECT_EQ(0, in.err);
	EXPECT_FALSE(in.wrong);
	EXPECT_EQ(0U, in.left);
	if (variant->friends && !slow())
		EXPECT_LT(0U, friends_stat("waited") - waited);
	EXPECT_CARRIED(65536 + all);
}

/* Several writers of one socket wait together, and all go on. */
TEST_F(backpressure, writers_wait_together)
{
	const uint64_t each = scaled(32 << 20);
	uint64_t waited = friends_stat("waited");
	struct stream out[4] = {}, in = {};
	int i, late = 0;

	run_on(_metadata, sched_getcpu());
	read_here(_metadata, self->client, self->server);
	stream_start(&in, self->server, false, 65536, 4 * each);
	for (i = 0; i < 4; i++)
		stream_start(&out[i], self->client, true, 32768, each);
	for (i = 0; i < 4; i++) {
		stream_join(_metadata, &out[i]);
		EXPECT_EQ(0U, out[i].left);
		EXPECT_EQ(0, out[i].err);
		late += out[i].late;
	}
	stream_join(_metadata, &in);
	EXPECT_EQ(0U, in.left);
	EXPECT_LE(late, late_allowed(variant->friends, 4 * each / 32768));
	if (variant->friends && !slow())
		EXPECT_LT(0U, friends_stat("waited") - waited);
	EXPECT_CARRIED(65536 + 4 * each);
}

int main(int argc, char **argv)
{
	return friends_main(argc, argv);
}
