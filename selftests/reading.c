// SPDX-License-Identifier: GPL-2.0
/* These tests cover the many ways to read, and what they report about unread data. */

#include <linux/sockios.h>

#include "lib/friends.h"

#define SEED	0x72656164ULL

CONNECTION_FIXTURE(reading);

TEST_F(reading, peek)
{
	char buf[3000];

	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	wait_readable(_metadata, self->server, 1000);
	EXPECT_EQ(1000, recv(self->server, buf, 3000, MSG_PEEK));
	EXPECT_EQ(-1, pattern_check(buf, 1000, SEED, 0));
	send_pattern(_metadata, self->client, SEED, 1000, 1000, 0);
	send_pattern(_metadata, self->client, SEED, 2000, 1000, 0);
	wait_readable(_metadata, self->server, 3000);
	EXPECT_EQ(3000, recv(self->server, buf, 3000, MSG_PEEK));
	EXPECT_EQ(-1, pattern_check(buf, 3000, SEED, 0));
	EXPECT_EQ(500, recv(self->server, buf, 500, MSG_PEEK));
	recv_pattern(_metadata, self->server, SEED, 0, 1500);
	EXPECT_EQ(1500, recv(self->server, buf, 3000, MSG_PEEK));
	EXPECT_EQ(-1, pattern_check(buf, 1500, SEED, 1500));
	recv_pattern(_metadata, self->server, SEED, 1500, 1500);
	EXPECT_EQ(-1, recv(self->server, buf, 1, MSG_PEEK | MSG_DONTWAIT));
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_CARRIED(3000);
}

/* A message of no bytes is no end of file, and leaves nothing in the queue. */
TEST_F(reading, nothing_written)
{
	char c;

	EXPECT_EQ(0, send(self->client, "", 0, 0));
	EXPECT_EQ(-1, recv(self->server, &c, 1, MSG_DONTWAIT));
	EXPECT_EQ(EAGAIN, errno);
	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	EXPECT_EQ(0, send(self->client, "", 0, 0));
	wait_readable(_metadata, self->server, 1000);
	recv_pattern(_metadata, self->server, SEED, 0, 1000);
	EXPECT_EQ(-1, recv(self->server, &c, 1, MSG_DONTWAIT));
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_CARRIED(1000);
}

/* A message that the kernel cannot read leaves the stream unchanged. */
TEST_F(reading, bad_pointer)
{
	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	EXPECT_EQ(-1, send(self->client, (void *)8, 100, 0));
	EXPECT_EQ(EFAULT, errno);
	send_pattern(_metadata, self->client, SEED, 1000, 1000, 0);
	wait_readable(_metadata, self->server, 2000);
	recv_pattern(_metadata, self->server, SEED, 0, 2000);
	EXPECT_CARRIED(2000);
}

/* Neither the source nor the destination of the data is in memory yet. */
TEST_F(reading, absent_pages)
{
	const size_t size = 300000, piece = 50000;
	int fd = memfd_create("reading", MFD_CLOEXEC);
	char *buf = malloc(size), *from, *to;
	size_t at, got;
	ssize_t n;

	ASSERT_NE(NULL, buf);
	pattern_fill(buf, size, SEED, 0);
	ASSERT_EQ((ssize_t)size, pwrite(fd, buf, size, 0));
	from = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	to = mmap(NULL, size, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, from);
	ASSERT_NE(MAP_FAILED, to);
	for (at = 0; at < size; at += piece) {
		ASSERT_EQ((ssize_t)piece, send(self->client, from + at, piece, 0));
		for (got = 0; got < piece; got += n) {
			n = recv(self->server, to + at + got, piece - got, 0);
			ASSERT_GT(n, 0);
		}
	}
	EXPECT_EQ(-1, pattern_check(to, size, SEED, 0));
	munmap(from, size);
	munmap(to, size);
	free(buf);
	close(fd);
	EXPECT_CARRIED(size);
}

/* One read takes data of both paths. A paced sender takes the wire. */
TEST_F(reading, wire_among_friends)
{
	unsigned int rate = 1U << 30, none = ~0U;
	char buf[4000];

	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	ASSERT_EQ(0, setsockopt(self->client, SOL_SOCKET, SO_MAX_PACING_RATE,
				&rate, sizeof(rate)));
	send_pattern(_metadata, self->client, SEED, 1000, 1000, 0);
	wait_readable(_metadata, self->server, 2000);
	expect_acked(_metadata, self->client);
	ASSERT_EQ(0, setsockopt(self->client, SOL_SOCKET, SO_MAX_PACING_RATE,
				&none, sizeof(none)));
	send_pattern(_metadata, self->client, SEED, 2000, 1000, 0);
	wait_readable(_metadata, self->server, 3000);
	EXPECT_EQ(3000, recv(self->server, buf, sizeof(buf), 0));
	EXPECT_EQ(-1, pattern_check(buf, 3000, SEED, 0));
	EXPECT_CARRIED(2000);
}

struct late {
	int fd;
	unsigned int ms;
};

static void *write_late(void *arg)
{
	struct late *l = arg;

	sleep_ms(l->ms);
	return (void *)send(l->fd, "x", 1, 0);
}

/* A reader that polls busily still sleeps in the end, and its time-outs work. */
TEST_F(reading, busy_poll)
{
	struct late late[] = { { self->client, 1 }, { self->client, 100 } };
	struct timeval tv = { .tv_usec = 50000 };
	uint64_t start;
	pthread_t t;
	int us = 2000;
	size_t i;
	char c;

	if (setsockopt(self->server, SOL_SOCKET, SO_BUSY_POLL, &us, sizeof(us))) {
		self->witness.told = true;
		SKIP(return, "this kernel has no SO_BUSY_POLL");
	}
	for (i = 0; i < ARRAY_SIZE(late); i++) {
		ASSERT_EQ(0, pthread_create(&t, NULL, write_late, &late[i]));
		EXPECT_EQ(1, recv(self->server, &c, 1, 0));
		EXPECT_EQ('x', c);
		pthread_join(t, NULL);
	}
	EXPECT_EQ(-1, recv(self->server, &c, 1, MSG_DONTWAIT));
	EXPECT_EQ(EAGAIN, errno);
	ASSERT_EQ(0, setsockopt(self->server, SOL_SOCKET, SO_RCVTIMEO, &tv,
				sizeof(tv)));
	start = now_ms();
	EXPECT_EQ(-1, recv(self->server, &c, 1, 0));
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_LE(45, now_ms() - start);
	EXPECT_CARRIED(2);
}

TEST_F(reading, peek_at_end)
{
	char buf[2000];

	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	EXPECT_EQ(0, shutdown(self->client, SHUT_WR));
	EXPECT_EQ(POLLIN | POLLRDHUP,
		  wait_for(self->server, POLLIN | POLLRDHUP, patience(1000)) |
		  wait_for(self->server, POLLRDHUP, patience(1000)));
	EXPECT_EQ(1000, recv(self->server, buf, 2000, MSG_PEEK));
	recv_pattern(_metadata, self->server, SEED, 0, 1000);
	EXPECT_EQ(0, recv(self->server, buf, 2000, MSG_PEEK));
	expect_eof(_metadata, self->server);
	EXPECT_CARRIED(1000);
}

TEST_F(reading, peek_off)
{
	int off = 0;
	socklen_t len = sizeof(off);
	char buf[1000];

	if (setsockopt(self->server, SOL_SOCKET, SO_PEEK_OFF, &off,
		       sizeof(off))) {
		self->witness.told = true;
		SKIP(return, "this kernel has no SO_PEEK_OFF for TCP");
	}
	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	wait_readable(_metadata, self->server, 1000);
	EXPECT_EQ(400, recv(self->server, buf, 400, MSG_PEEK));
	EXPECT_EQ(400, recv(self->server, buf + 400, 400, MSG_PEEK));
	EXPECT_EQ(200, recv(self->server, buf + 800, 400, MSG_PEEK));
	EXPECT_EQ(-1, pattern_check(buf, 1000, SEED, 0));
	recv_pattern(_metadata, self->server, SEED, 0, 600);
	EXPECT_EQ(0, getsockopt(self->server, SOL_SOCKET, SO_PEEK_OFF, &off,
				&len));
	EXPECT_EQ(400, off);
	recv_pattern(_metadata, self->server, SEED, 600, 400);
	EXPECT_CARRIED(1000);
}

struct slow_send {
	int fd;
	int count;
	size_t len;
	bool shut;
};

static void *slow_sender(void *arg)
{
	struct slow_send *s = arg;
	char buf[1000];
	int i;

	for (i = 0; i < s->count; i++) {
		sleep_ms(20);
		pattern_fill(buf, s->len, SEED, i * s->len);
		if (send(s->fd, buf, s->len, MSG_NOSIGNAL) != (ssize_t)s->len)
			break;
	}
	if (s->shut)
		shutdown(s->fd, SHUT_WR);
	return NULL;
}

TEST_F(reading, waitall)
{
	struct slow_send s = { self->client, 10, 1000, false };
	pthread_t thread;
	char buf[10000];

	ASSERT_EQ(0, pthread_create(&thread, NULL, slow_sender, &s));
	EXPECT_EQ(9500, recv(self->server, buf, 9500, MSG_WAITALL));
	EXPECT_EQ(-1, pattern_check(buf, 9500, SEED, 0));
	recv_pattern(_metadata, self->server, SEED, 9500, 500);
	pthread_join(thread, NULL);
	EXPECT_CARRIED(10000);
}

/* The read wants more than the receive buffer holds. */
TEST_F(reading, waitall_large)
{
	const struct connect_options o = { .sndbuf = 65536, .rcvbuf = 65536 };
	const ssize_t size = scaled(4 << 20);
	char *buf = malloc(size);
	struct half out;

	ASSERT_NE(NULL, buf);
	close(self->client);
	close(self->server);
	open_connection(_metadata, variant->ends, &o, &self->client,
			&self->server);
	half_init(&out, self->client, true, SEED, size);
	half_start(&out);
	EXPECT_EQ(size, recv(self->server, buf, size, MSG_WAITALL));
	EXPECT_EQ(-1, pattern_check(buf, size, SEED, 0));
	half_join(&out);
	half_free(&out);
	free(buf);
	EXPECT_CARRIED(size);
}

TEST_F(reading, waitall_ends_at_eof)
{
	struct slow_send s = { self->client, 3, 1000, true };
	pthread_t thread;
	char buf[10000];

	ASSERT_EQ(0, pthread_create(&thread, NULL, slow_sender, &s));
	EXPECT_EQ(3000, recv(self->server, buf, sizeof(buf), MSG_WAITALL));
	EXPECT_EQ(-1, pattern_check(buf, 3000, SEED, 0));
	pthread_join(thread, NULL);
	expect_eof(_metadata, self->server);
	EXPECT_CARRIED(3000);
}

TEST_F(reading, lowat)
{
	char buf[2000];

	set_int(_metadata, self->server, SOL_SOCKET, SO_RCVLOWAT, 1000);
	send_pattern(_metadata, self->client, SEED, 0, 999, 0);
	wait_readable(_metadata, self->server, 999);
	EXPECT_EQ(0, wait_for(self->server, POLLIN, QUIET));
	send_pattern(_metadata, self->client, SEED, 999, 1, 0);
	EXPECT_EQ(POLLIN, wait_for(self->server, POLLIN, patience(AT_ONCE)));
	recv_pattern(_metadata, self->server, SEED, 0, 1000);

	/* Non-blocking calls take what there is, also below the low-water mark. */
	send_pattern(_metadata, self->client, SEED, 1000, 500, 0);
	wait_readable(_metadata, self->server, 500);
	EXPECT_EQ(500, recv(self->server, buf, sizeof(buf), MSG_DONTWAIT));
	EXPECT_EQ(-1, pattern_check(buf, 500, SEED, 1000));

	/* The end of the stream is always reported. */
	send_pattern(_metadata, self->client, SEED, 1500, 10, 0);
	EXPECT_EQ(0, shutdown(self->client, SHUT_WR));
	EXPECT_EQ(POLLIN, wait_for(self->server, POLLIN, patience(AT_ONCE)));
	recv_pattern(_metadata, self->server, SEED, 1500, 10);
	expect_eof(_metadata, self->server);
	EXPECT_CARRIED(1510);
}

TEST_F(reading, lowat_blocks)
{
	struct slow_send s = { self->client, 5, 400, false };
	pthread_t thread;
	char buf[2000];
	ssize_t n;

	set_int(_metadata, self->server, SOL_SOCKET, SO_RCVLOWAT, 1000);
	ASSERT_EQ(0, pthread_create(&thread, NULL, slow_sender, &s));
	n = recv(self->server, buf, sizeof(buf), 0);
	EXPECT_GE(n, 1000);
	EXPECT_EQ(-1, pattern_check(buf, n, SEED, 0));
	pthread_join(thread, NULL);
	if (n < 2000)
		recv_pattern(_metadata, self->server, SEED, n, 2000 - n);
	EXPECT_CARRIED(2000);
}

/* MSG_TRUNC discards the bytes that it counts, and only these. */
TEST_F(reading, trunc)
{
	send_pattern(_metadata, self->client, SEED, 0, 10000, 0);
	wait_readable(_metadata, self->server, 10000);
	recv_pattern(_metadata, self->server, SEED, 0, 1000);
	EXPECT_EQ(5000, recv(self->server, NULL, 5000, MSG_TRUNC));
	recv_pattern(_metadata, self->server, SEED, 6000, 1000);
	EXPECT_EQ(3000, recv(self->server, NULL, 5000, MSG_TRUNC));
	EXPECT_EQ(-1, recv(self->server, NULL, 1, MSG_TRUNC | MSG_DONTWAIT));
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_CARRIED(10000);
}

TEST_F(reading, nothing_there)
{
	char c;

	EXPECT_EQ(-1, recv(self->server, &c, 1, MSG_DONTWAIT));
	EXPECT_EQ(EAGAIN, errno);
	/* A buffer of no size gets EAGAIN, too. */
	EXPECT_EQ(-1, recv(self->server, &c, 0, MSG_DONTWAIT));
	EXPECT_EQ(EAGAIN, errno);
	fcntl(self->server, F_SETFL, O_NONBLOCK);
	EXPECT_EQ(-1, recv(self->server, &c, 1, 0));
	EXPECT_EQ(EAGAIN, errno);
	send_pattern(_metadata, self->client, SEED, 0, 1, 0);
	EXPECT_EQ(POLLIN, wait_for(self->server, POLLIN, patience(AT_ONCE)));
	recv_pattern(_metadata, self->server, SEED, 0, 1);
	EXPECT_CARRIED(1);
}

TEST_F(reading, timeout)
{
	struct timeval tv = { .tv_usec = 100000 };
	uint64_t start, took;
	char c;

	ASSERT_EQ(0, setsockopt(self->server, SOL_SOCKET, SO_RCVTIMEO, &tv,
				sizeof(tv)));
	start = now_ms();
	EXPECT_EQ(-1, recv(self->server, &c, 1, 0));
	EXPECT_EQ(EAGAIN, errno);
	took = now_ms() - start;
	EXPECT_GE(took, 50U);
	EXPECT_LE(took, (uint64_t)patience(1000));
	send_pattern(_metadata, self->client, SEED, 0, 100, 0);
	recv_pattern(_metadata, self->server, SEED, 0, 100);
	EXPECT_CARRIED(100);
}

TEST_F(reading, inq_and_outq)
{
	uint64_t end = now_ms() + patience(1000);
	int n = -1;

	send_pattern(_metadata, self->client, SEED, 0, 5000, 0);
	wait_readable(_metadata, self->server, 5000);
	recv_pattern(_metadata, self->server, SEED, 0, 2000);
	wait_readable(_metadata, self->server, 3000);
	recv_pattern(_metadata, self->server, SEED, 2000, 3000);
	wait_readable(_metadata, self->server, 0);
	/* On the wire this takes an ACK, which may be a delayed one. */
	do {
		EXPECT_EQ(0, ioctl(self->client, SIOCOUTQ, &n));
	} while (n && now_ms() < end);
	EXPECT_EQ(0, n);
	EXPECT_EQ(0, ioctl(self->client, SIOCOUTQNSD, &n));
	EXPECT_EQ(0, n);
	EXPECT_CARRIED(5000);
}

TEST_F(reading, tcp_inq)
{
	char buf[1000], control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { buf, sizeof(buf) };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *c;

	set_int(_metadata, self->server, IPPROTO_TCP, TCP_INQ, 1);
	send_pattern(_metadata, self->client, SEED, 0, 3000, 0);
	wait_readable(_metadata, self->server, 3000);
	EXPECT_EQ(1000, recvmsg(self->server, &msg, 0));
	c = CMSG_FIRSTHDR(&msg);
	ASSERT_NE(NULL, c);
	EXPECT_EQ(TCP_CM_INQ, c->cmsg_type);
	EXPECT_EQ(2000, *(int *)CMSG_DATA(c));
	recv_pattern(_metadata, self->server, SEED, 1000, 2000);
	EXPECT_CARRIED(3000);
}

/* Two readers read at once, and each byte goes to one of them. */
TEST_F(reading, two_readers)
{
	struct slow_send s = { self->client, 20, 1000, true };
	uint64_t total = 0;
	pthread_t thread;
	char buf[300];
	int fd[2], status, i;
	pid_t pid[2];
	ssize_t n;

	ASSERT_EQ(0, pipe(fd));
	for (i = 0; i < 2; i++) {
		pid[i] = fork();
		ASSERT_GE(pid[i], 0);
		if (pid[i])
			continue;
		close(self->client);
		while ((n = recv(self->server, buf, sizeof(buf), 0)) > 0)
			total += n;
		n = write(fd[1], &total, sizeof(total));
		_exit(n != sizeof(total));
	}
	ASSERT_EQ(0, pthread_create(&thread, NULL, slow_sender, &s));
	pthread_join(thread, NULL);
	for (i = 0; i < 2; i++) {
		uint64_t part = 0;

		EXPECT_EQ((ssize_t)sizeof(part),
			  read(fd[0], &part, sizeof(part)));
		total += part;
		EXPECT_EQ(pid[i], waitpid(pid[i], &status, 0));
		EXPECT_EQ(0, status);
	}
	EXPECT_EQ(20000, total);
	EXPECT_CARRIED(20000);
}

int main(int argc, char **argv)
{
	return friends_main(argc, argv);
}
