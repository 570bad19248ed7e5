// SPDX-License-Identifier: GPL-2.0
/*
 * These tests cover urgent data: the byte, the mark, and the stream around it.
 */

#include <linux/sockios.h>
#include <signal.h>

#include "lib/friends.h"

#define SEED	0x75726765ULL

CONNECTION_FIXTURE(urgent);

static int at_mark(int fd)
{
	int n = -1;

	return ioctl(fd, SIOCATMARK, &n) ? -1 : n;
}

static void send_text(struct __test_metadata *_metadata, int fd,
		      const char *text, int flags)
{
	ASSERT_EQ((ssize_t)strlen(text), send(fd, text, strlen(text), flags));
}

/* Check that one recv() returns exactly @text. */
static void expect_text(struct __test_metadata *_metadata, int fd,
			const char *text)
{
	char buf[100] = {};

	EXPECT_EQ(POLLIN, wait_for(fd, POLLIN, patience(1000)));
	EXPECT_EQ((ssize_t)strlen(text), recv(fd, buf, sizeof(buf) - 1, 0));
	EXPECT_STREQ(text, buf);
}

/*
 * Wait until everything that was sent is there, and the urgent byte is known.
 */
static void settle(struct __test_metadata *_metadata, int fd, int len)
{
	uint64_t end = now_ms() + patience(1000);
	int n = -1;

	EXPECT_EQ(POLLPRI, wait_for(fd, POLLPRI, patience(1000)));
	do {
		/* SIOCINQ stops at the mark, so it cannot see all bytes. */
		ASSERT_EQ(0, ioctl(fd, SIOCINQ, &n));
	} while (n < len && now_ms() < end);
	sleep_ms(QUIET);
}

TEST_F(urgent, out_of_line)
{
	char c = 0;

	send_text(_metadata, self->client, "abc", 0);
	send_text(_metadata, self->client, "d", MSG_OOB);
	send_text(_metadata, self->client, "ef", 0);
	settle(_metadata, self->server, 3);
	EXPECT_EQ(0, at_mark(self->server));
	expect_text(_metadata, self->server, "abc");
	EXPECT_EQ(1, at_mark(self->server));
	EXPECT_EQ(1, recv(self->server, &c, 1, MSG_OOB));
	EXPECT_EQ('d', c);
	expect_text(_metadata, self->server, "ef");
	EXPECT_EQ(0, at_mark(self->server));
	EXPECT_EQ(-1, recv(self->server, &c, 1, MSG_OOB));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_CARRIED_ANY();
}

TEST_F(urgent, in_line)
{
	char c = 0;

	set_int(_metadata, self->server, SOL_SOCKET, SO_OOBINLINE, 1);
	send_text(_metadata, self->client, "abc", 0);
	send_text(_metadata, self->client, "d", MSG_OOB);
	send_text(_metadata, self->client, "ef", 0);
	settle(_metadata, self->server, 3);
	EXPECT_EQ(-1, recv(self->server, &c, 1, MSG_OOB));
	EXPECT_EQ(EINVAL, errno);
	expect_text(_metadata, self->server, "abc");
	EXPECT_EQ(1, at_mark(self->server));
	expect_text(_metadata, self->server, "def");
	EXPECT_EQ(0, at_mark(self->server));
	EXPECT_CARRIED_ANY();
}

/* The urgent byte is not read, and the stream goes on without it. */
TEST_F(urgent, ignored)
{
	send_text(_metadata, self->client, "abc", 0);
	send_text(_metadata, self->client, "d", MSG_OOB);
	send_text(_metadata, self->client, "ef", 0);
	settle(_metadata, self->server, 3);
	expect_text(_metadata, self->server, "abc");
	expect_text(_metadata, self->server, "ef");
	EXPECT_CARRIED_ANY();
}

/* A later urgent byte replaces the first, which joins the stream. */
TEST_F(urgent, twice)
{
	char c = 0;

	send_text(_metadata, self->client, "ab", MSG_OOB);
	settle(_metadata, self->server, 1);
	send_text(_metadata, self->client, "cd", MSG_OOB);
	sleep_ms(QUIET);
	EXPECT_EQ(1, recv(self->server, &c, 1, MSG_OOB));
	EXPECT_EQ('d', c);
	EXPECT_CARRIED_ANY();
}

TEST_F(urgent, signal)
{
	struct timespec ts = { .tv_sec = patience(1000) / 1000 };
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGURG);
	ASSERT_EQ(0, sigprocmask(SIG_BLOCK, &set, NULL));
	ASSERT_EQ(0, fcntl(self->server, F_SETOWN, getpid()));
	send_text(_metadata, self->client, "a", MSG_OOB);
	EXPECT_EQ(SIGURG, sigtimedwait(&set, &info, &ts));
	EXPECT_CARRIED_ANY();
}

/* Urgent bytes are in a stream of others. Each mark is at its place. */
TEST_F(urgent, in_a_stream)
{
	uint64_t state = SEED, pos = 0;
	int i, n = scaled(200);
	size_t len;
	char c;

	for (i = 0; i < n; i++) {
		len = random_size(&state, 5000);
		send_pattern(_metadata, self->client, SEED, pos, len, 0);
		send_text(_metadata, self->client, "!", MSG_OOB);
		send_pattern(_metadata, self->client, SEED, pos + len, 100, 0);
		ASSERT_EQ(POLLPRI, wait_for(self->server, POLLPRI,
					    patience(1000)));
		recv_pattern(_metadata, self->server, SEED, pos, len);
		ASSERT_EQ(1, at_mark(self->server));
		ASSERT_EQ(1, recv(self->server, &c, 1, MSG_OOB));
		ASSERT_EQ('!', c);
		recv_pattern(_metadata, self->server, SEED, pos + len, 100);
		pos += len + 100;
	}
	EXPECT_CARRIED_ANY();
}

/* After urgent data, what follows is ordinary again. */
TEST_F(urgent, and_back_to_normal)
{
	const size_t size = scaled(4 << 20);
	struct half h[4];
	char c = 0;

	send_text(_metadata, self->client, "x", MSG_OOB);
	EXPECT_EQ(POLLPRI, wait_for(self->server, POLLPRI, patience(1000)));
	EXPECT_EQ(1, recv(self->server, &c, 1, MSG_OOB));
	halves_init(h, self->client, self->server, SEED, size);
	halves_poll(h, 4);
	halves_check(_metadata, h);
	halves_free(h);
	EXPECT_CARRIED(2 * size);
}

int main(int argc, char **argv)
{
	return friends_main(argc, argv);
}
