// SPDX-License-Identifier: GPL-2.0
/*
 * These tests cover TCP_CORK, MSG_MORE and Nagle: what is held back, for how long, and what
 * releases it.
 */

#include <sys/sendfile.h>

#include "lib/friends.h"

#define SEED	0x636f726bULL

CONNECTION_FIXTURE(cork);

/* Corked data is held back for so many ms. */
#define CORK_LIMIT	200

static void set_cork(struct __test_metadata *_metadata, int fd, int value)
{
	set_int(_metadata, fd, IPPROTO_TCP, TCP_CORK, value);
}

/*
 * Check that there is nothing to read for 100 ms. If this machine slept through
 * the limit, which counts from @since, a byte proves nothing.
 */
static void expect_held(struct __test_metadata *_metadata, int fd,
			uint64_t since)
{
	if (!wait_for(fd, POLLIN, 100))
		return;
	if (now_ms() - since >= CORK_LIMIT - 20)
		return;
	EXPECT_TRUE(false)
		TH_LOG("the peer saw it %" PRIu64 " ms after the first byte",
		       now_ms() - since);
}

static int readable(int fd)
{
	int n = 0;

	return ioctl(fd, FIONREAD, &n) ? -1 : n;
}

/* Receive exactly @len bytes, @pos of the stream, which are there at once. */
static void expect_at_once(struct __test_metadata *_metadata, int fd,
			   uint64_t pos, int len)
{
	uint64_t start = now_ms();

	while (readable(fd) < len && now_ms() < start + patience(AT_ONCE))
		wait_for(-1, 0, 1);
	EXPECT_EQ(len, readable(fd))
		TH_LOG("after %" PRIu64 " ms", now_ms() - start);
	recv_pattern(_metadata, fd, SEED, pos, len);
}

TEST_F(cork, held_until_uncorked)
{
	uint64_t since;
	int i;

	for (i = 0; i < 3; i++) {
		expect_acked(_metadata, self->client);
		set_cork(_metadata, self->client, 1);
		since = now_ms();
		send_pattern(_metadata, self->client, SEED, i * 200, 100, 0);
		send_pattern(_metadata, self->client, SEED, i * 200 + 100, 100,
			     0);
		expect_held(_metadata, self->server, since);
		set_cork(_metadata, self->client, 0);
		expect_at_once(_metadata, self->server, i * 200, 200);
	}
	EXPECT_CARRIED(600);
}

/* A reader that waits in recv() does not get the corked bytes, either. */
static void *slow_uncork(void *arg)
{
	int fd = *(int *)arg, zero = 0;

	sleep_ms(100);
	setsockopt(fd, IPPROTO_TCP, TCP_CORK, &zero, sizeof(zero));
	return NULL;
}

TEST_F(cork, held_from_blocked_reader)
{
	int sent = 0, moved = 0, rounds;
	pthread_t thread;
	uint64_t start, took;
	char buf[1000];

	/* On a slow machine the limit may come first, by the probe timer. */
	for (rounds = 0; rounds < 10 && !moved; rounds++) {
		set_cork(_metadata, self->client, 1);
		start = now_ms();
		send_pattern(_metadata, self->client, SEED, sent, 100, 0);
		ASSERT_EQ(0, pthread_create(&thread, NULL, slow_uncork,
					    &self->client));
		EXPECT_EQ(100, recv(self->server, buf, sizeof(buf), 0));
		took = now_ms() - start;
		EXPECT_GE(took, 95U);
		EXPECT_EQ(-1, pattern_check(buf, 100, SEED, sent));
		pthread_join(thread, NULL);
		sent += 100;
		if (took < CORK_LIMIT - 20)
			moved = 100;
	}
	EXPECT_EQ(100, moved)
		TH_LOG("%d rounds, and each reached the cork's limit", rounds);
	if (rounds == 1) {
		EXPECT_CARRIED(sent);
		return;
	}
	/* Friends carried the bytes of the last round, at least. */
	if (self->witness.friends)
		EXPECT_LE(100, friends_stat("bytes") - self->witness.bytes);
	EXPECT_CARRIED_ANY();
}

/* A read of data from before the cork does not pull corked data. */
TEST_F(cork, held_from_active_reader)
{
	uint64_t since;
	char c;

	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	expect_acked(_metadata, self->client);
	set_cork(_metadata, self->client, 1);
	since = now_ms();
	send_pattern(_metadata, self->client, SEED, 1000, 100, 0);
	recv_pattern(_metadata, self->server, SEED, 0, 1000);
	if (now_ms() - since < CORK_LIMIT - 20) {
		EXPECT_EQ(-1, recv(self->server, &c, 1, MSG_DONTWAIT));
		EXPECT_EQ(EAGAIN, errno);
	}
	expect_held(_metadata, self->server, since);
	set_cork(_metadata, self->client, 0);
	expect_at_once(_metadata, self->server, 1000, 100);
	EXPECT_CARRIED(1100);
}

TEST_F(cork, limit)
{
	uint64_t start, took;

	set_cork(_metadata, self->client, 1);
	start = now_ms();
	send_pattern(_metadata, self->client, SEED, 0, 100, 0);
	EXPECT_EQ(POLLIN, wait_for(self->server, POLLIN, patience(2000)));
	took = now_ms() - start;
	EXPECT_GE(took, CORK_LIMIT - 20U);
	EXPECT_LE(took, (uint64_t)patience(2 * CORK_LIMIT));
	recv_pattern(_metadata, self->server, SEED, 0, 100);
	/* The probe timer sends the data, and may take the wire. */
	EXPECT_CARRIED_ANY();
}

/* Full segments pass, and the rest waits. */
TEST_F(cork, full_segments_pass)
{
	const int len = 200000;
	int seen;

	set_cork(_metadata, self->client, 1);
	send_pattern(_metadata, self->client, SEED, 0, len, 0);
	EXPECT_EQ(POLLIN, wait_for(self->server, POLLIN, patience(AT_ONCE)));
	sleep_ms(20);
	seen = readable(self->server);
	EXPECT_GT(seen, 0);
	EXPECT_LT(seen, len);
	set_cork(_metadata, self->client, 0);
	recv_pattern(_metadata, self->server, SEED, 0, len);
	EXPECT_CARRIED(len);
}

TEST_F(cork, many_writes_in_one)
{
	int i;

	set_cork(_metadata, self->client, 1);
	for (i = 0; i < 100; i++)
		send_pattern(_metadata, self->client, SEED, i * 10, 10, 0);
	set_cork(_metadata, self->client, 0);
	expect_at_once(_metadata, self->server, 0, 1000);
	EXPECT_CARRIED(1000);
}

TEST_F(cork, then_shutdown)
{
	set_cork(_metadata, self->client, 1);
	send_pattern(_metadata, self->client, SEED, 0, 100, 0);
	EXPECT_EQ(0, shutdown(self->client, SHUT_WR));
	expect_at_once(_metadata, self->server, 0, 100);
	expect_eof(_metadata, self->server);
	EXPECT_CARRIED(100);
}

TEST_F(cork, then_close)
{
	set_cork(_metadata, self->client, 1);
	send_pattern(_metadata, self->client, SEED, 0, 100, 0);
	close(self->client);
	self->client = -1;
	expect_at_once(_metadata, self->server, 0, 100);
	expect_eof(_metadata, self->server);
	EXPECT_CARRIED(100);
}

/* TCP_NODELAY pushes what is corked now. The cork holds back later data. */
TEST_F(cork, then_nodelay)
{
	uint64_t since;

	set_cork(_metadata, self->client, 1);
	send_pattern(_metadata, self->client, SEED, 0, 100, 0);
	set_int(_metadata, self->client, IPPROTO_TCP, TCP_NODELAY, 1);
	expect_at_once(_metadata, self->server, 0, 100);
	expect_acked(_metadata, self->client);
	since = now_ms();
	send_pattern(_metadata, self->client, SEED, 100, 100, 0);
	expect_held(_metadata, self->server, since);
	set_cork(_metadata, self->client, 0);
	expect_at_once(_metadata, self->server, 100, 100);
	EXPECT_CARRIED(200);
}

TEST_F(cork, msg_more)
{
	uint64_t since;
	int i;

	for (i = 0; i < 3; i++) {
		expect_acked(_metadata, self->client);
		since = now_ms();
		send_pattern(_metadata, self->client, SEED, i * 300, 100,
			     MSG_MORE);
		send_pattern(_metadata, self->client, SEED, i * 300 + 100, 100,
			     MSG_MORE);
		expect_held(_metadata, self->server, since);
		send_pattern(_metadata, self->client, SEED, i * 300 + 200, 100,
			     0);
		expect_at_once(_metadata, self->server, i * 300, 300);
	}
	EXPECT_CARRIED(900);
}

TEST_F(cork, msg_more_limit)
{
	uint64_t start = now_ms(), took;

	send_pattern(_metadata, self->client, SEED, 0, 100, MSG_MORE);
	EXPECT_EQ(POLLIN, wait_for(self->server, POLLIN, patience(2000)));
	took = now_ms() - start;
	EXPECT_GE(took, CORK_LIMIT - 20U);
	EXPECT_LE(took, (uint64_t)patience(2 * CORK_LIMIT));
	recv_pattern(_metadata, self->server, SEED, 0, 100);
	EXPECT_CARRIED_ANY();
}

/* A file follows a header. */
TEST_F(cork, msg_more_and_sendfile)
{
	FILE *f = tmpfile();
	char body[5000];
	uint64_t since;
	off_t at = 0;

	ASSERT_NE(NULL, f);
	pattern_fill(body, sizeof(body), SEED, 100);
	ASSERT_EQ(1U, fwrite(body, sizeof(body), 1, f));
	ASSERT_EQ(0, fflush(f));
	since = now_ms();
	send_pattern(_metadata, self->client, SEED, 0, 100, MSG_MORE);
	expect_held(_metadata, self->server, since);
	EXPECT_EQ((ssize_t)sizeof(body), sendfile(self->client, fileno(f), &at,
						  sizeof(body)));
	expect_at_once(_metadata, self->server, 0, 100 + sizeof(body));
	fclose(f);
	EXPECT_CARRIED(100 + sizeof(body));
}

TEST_F(cork, nodelay_goes_at_once)
{
	int i;

	set_int(_metadata, self->client, IPPROTO_TCP, TCP_NODELAY, 1);
	for (i = 0; i < 20; i++)
		send_pattern(_metadata, self->client, SEED, i * 100, 100, 0);
	expect_at_once(_metadata, self->server, 0, 2000);
	EXPECT_CARRIED(2000);
}

/* Nagle may hold back a small write until the last one is acknowledged, no longer. */
TEST_F(cork, nagle)
{
	int i;

	for (i = 0; i < 20; i++)
		send_pattern(_metadata, self->client, SEED, i * 100, 100, 0);
	recv_pattern(_metadata, self->server, SEED, 0, 2000);
	EXPECT_CARRIED(2000);
}

/* Autocorking may gather small writes while others are sent, and holds none back. */
TEST_F(cork, autocorking)
{
	int i, k, on, fd;

	for (on = 0; on <= 1; on++) {
		fd = open("/proc/sys/net/ipv4/tcp_autocorking", O_WRONLY);
		ASSERT_LE(0, fd);
		ASSERT_EQ(1, write(fd, on ? "1" : "0", 1));
		close(fd);
		for (i = 0; i < 10; i++) {
			for (k = 0; k < 20; k++)
				send_pattern(_metadata, self->client, SEED,
					     (i * 20 + k) * 100, 100, 0);
			expect_at_once(_metadata, self->server, i * 2000, 2000);
		}
	}
	EXPECT_CARRIED(2 * 20000);
}

int main(int argc, char **argv)
{
	return friends_main(argc, argv);
}
