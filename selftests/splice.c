// SPDX-License-Identifier: GPL-2.0
/*
 * These tests cover pages that enter or leave a connection: sendfile, splice
 * and zero-copy.
 */

#include <time.h>
#include <linux/errqueue.h>
#include <linux/sock_diag.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#include "lib/friends.h"

#define SEED	0x73706c69ULL

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY	60
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY	0x4000000
#endif

CONNECTION_FIXTURE(splice);

static int pattern_file(struct __test_metadata *_metadata, size_t size)
{
	int fd = memfd_create("pattern", MFD_ALLOW_SEALING);
	char *map;

	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, ftruncate(fd, size));
	map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	pattern_fill(map, size, SEED, 0);
	munmap(map, size);
	return fd;
}

TEST_F(splice, sendfile)
{
	const size_t size = scaled(4 << 20);
	int file = pattern_file(_metadata, size);
	uint64_t state = SEED;
	struct half in;
	off_t at = 0;
	ssize_t n;

	half_init(&in, self->server, false, SEED, size);
	half_start(&in);
	while ((size_t)at < size) {
		n = sendfile(self->client, file, &at,
			     random_size(&state, 300000));
		ASSERT_GT(n, 0);
	}
	half_join(&in);
	EXPECT_EQ(0, in.err);
	EXPECT_EQ(size, in.done);
	EXPECT_EQ(-1, in.wrong);
	half_free(&in);
	EXPECT_CARRIED(size);
}

TEST_F(splice, sendfile_to_full_receiver)
{
	const size_t size = 16 << 20;
	int file = pattern_file(_metadata, size);
	size_t total = 0;
	off_t at = 0;
	ssize_t n;

	fcntl(self->client, F_SETFL, O_NONBLOCK);
	do {
		for (;;) {
			n = sendfile(self->client, file, &at, 65536);
			if (n <= 0)
				break;
			total += n;
		}
		ASSERT_LT(total, size);
		EXPECT_EQ(-1, n);
		EXPECT_EQ(EAGAIN, errno);
	} while (wait_for(self->client, POLLOUT, QUIET));
	EXPECT_GE(total, 65536U);
	recv_pattern(_metadata, self->server, SEED, 0, total);
	EXPECT_EQ(POLLOUT, wait_for(self->client, POLLOUT, patience(AT_ONCE)));
	EXPECT_CARRIED(total);
}

/* Data goes from a file to a pipe, a socket, a pipe and a file. */
struct splice_in {
	int file;
	int sock;
	size_t size;
};

static void *splice_in_thread(void *arg)
{
	struct splice_in *s = arg;
	uint64_t state = SEED;
	loff_t at = 0;
	int p[2];
	ssize_t n, m;

	if (pipe(p))
		return NULL;
	while ((size_t)at < s->size) {
		n = splice(s->file, &at, p[1], NULL,
			   random_size(&state, 100000), SPLICE_F_MOVE);
		while (n > 0) {
			m = splice(p[0], NULL, s->sock, NULL, n,
				   prng(&state) % 2 ? SPLICE_F_MORE : 0);
			if (m <= 0)
				return NULL;
			n -= m;
		}
	}
	shutdown(s->sock, SHUT_WR);
	close(p[0]);
	close(p[1]);
	return NULL;
}

TEST_F(splice, in_and_out)
{
	const size_t size = scaled(4 << 20);
	struct splice_in in = {
		pattern_file(_metadata, size), self->client, size
	};
	int out = memfd_create("out", 0), p[2];
	uint64_t state = ~SEED;
	size_t total = 0;
	pthread_t thread;
	ssize_t n, m;
	char *map;

	ASSERT_GE(out, 0);
	ASSERT_EQ(0, pipe(p));
	ASSERT_EQ(0, pthread_create(&thread, NULL, splice_in_thread, &in));
	for (;;) {
		n = splice(self->server, NULL, p[1], NULL,
			   random_size(&state, 100000), SPLICE_F_MOVE);
		ASSERT_GE(n, 0);
		if (!n)
			break;
		while (n) {
			m = splice(p[0], NULL, out, NULL, n, 0);
			ASSERT_GT(m, 0);
			n -= m;
			total += m;
		}
	}
	pthread_join(thread, NULL);
	ASSERT_EQ(size, total);
	map = mmap(NULL, size, PROT_READ, MAP_SHARED, out, 0);
	ASSERT_NE(MAP_FAILED, map);
	EXPECT_EQ(-1, pattern_check(map, size, SEED, 0));
	EXPECT_CARRIED(size);
}

TEST_F(splice, out_of_nothing)
{
	int p[2];

	ASSERT_EQ(0, pipe(p));
	/* SPLICE_F_NONBLOCK concerns only the pipe. */
	fcntl(self->server, F_SETFL, O_NONBLOCK);
	EXPECT_EQ(-1, splice(self->server, NULL, p[1], NULL, 1000, 0));
	EXPECT_EQ(EAGAIN, errno);
	fcntl(self->server, F_SETFL, 0);
	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	EXPECT_EQ(POLLIN, wait_for(self->server, POLLIN, patience(AT_ONCE)));
	EXPECT_EQ(400, splice(self->server, NULL, p[1], NULL, 400, 0));
	/* The rest is still in the socket. */
	recv_pattern(_metadata, self->server, SEED, 400, 600);
	EXPECT_EQ(0, shutdown(self->client, SHUT_WR));
	EXPECT_EQ(0, splice(self->server, NULL, p[1], NULL, 1000, 0));
	EXPECT_CARRIED(1000);
}

/* Data that was spliced out does not change while the stream goes on. */
static void out_keeps(struct __test_metadata *_metadata, FIXTURE_DATA(splice) *self, int size)
{
	char *buf = malloc(size);
	int p[2], i;

	ASSERT_NE(NULL, buf);
	ASSERT_EQ(0, pipe(p));
	ASSERT_LE(size, fcntl(p[1], F_SETPIPE_SZ, 4 * size));
	send_pattern(_metadata, self->client, SEED, 0, size, 0);
	EXPECT_EQ(POLLIN, wait_for(self->server, POLLIN, patience(AT_ONCE)));
	EXPECT_EQ(size, splice(self->server, NULL, p[1], NULL, size, 0));
	for (i = 1; i < 50; i++) {
		send_pattern(_metadata, self->client, SEED, i * size, size, 0);
		recv_pattern(_metadata, self->server, SEED, i * size, size);
	}
	EXPECT_EQ(size, read(p[0], buf, size));
	EXPECT_EQ(-1, pattern_check(buf, size, SEED, 0));
	EXPECT_CARRIED(50 * size);
	free(buf);
}

TEST_F(splice, out_keeps_its_bytes)
{
	out_keeps(_metadata, self, 4096);
}

/* The pipe has references to pages that the module would reuse. */
TEST_F(splice, out_keeps_its_pages)
{
	out_keeps(_metadata, self, 65536);
}

TEST_F(splice, vmsplice)
{
	const size_t page = getpagesize();
	struct iovec iov;
	int p[2], i;
	char *map;

	map = mmap(NULL, 8 * page, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, map);
	ASSERT_EQ(0, pipe(p));
	for (i = 0; i < 8; i++) {
		pattern_fill(map + i * page, page, SEED, i * page);
		iov = (struct iovec){ map + i * page, page };
		EXPECT_EQ((ssize_t)page, vmsplice(p[1], &iov, 1, 0));
		EXPECT_EQ((ssize_t)page, splice(p[0], NULL, self->client, NULL,
						page, 0));
	}
	recv_pattern(_metadata, self->server, SEED, 0, 8 * page);
	EXPECT_CARRIED(8 * page);
}

/* Read one completion, which is for the calls @lo to @hi. */
static int completion(int fd, uint32_t *lo, uint32_t *hi)
{
	char control[256];
	struct msghdr msg = {
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct sock_extended_err *err;
	struct cmsghdr *c;

	if (recvmsg(fd, &msg, MSG_ERRQUEUE) < 0)
		return -errno;
	c = CMSG_FIRSTHDR(&msg);
	if (!c)
		return -ENOMSG;
	err = (void *)CMSG_DATA(c);
	if (err->ee_origin != SO_EE_ORIGIN_ZEROCOPY)
		return -EPROTO;
	*lo = err->ee_info;
	*hi = err->ee_data;
	return 0;
}

/* Let the socket send without a copy, and return memory to send from. */
static char *begin_zerocopy(struct __test_metadata *_metadata, int fd, size_t len)
{
	char *buf = mmap(NULL, len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, buf);
	set_int(_metadata, fd, SOL_SOCKET, SO_ZEROCOPY, 1);
	return buf;
}

/*
 * Each call completes once, and not before its bytes may be changed. On
 * loopback the pages are copied on the way. The completion therefore comes
 * before the data is read, and later changes to the pages are not seen.
 */
TEST_F(splice, zerocopy)
{
	const size_t len = 20000;
	const uint32_t calls = 50;
	uint32_t next = 0, lo, hi, i;
	uint64_t end;
	char *buf;

	buf = begin_zerocopy(_metadata, self->client, len);
	for (i = 0; i < calls; i++) {
		pattern_fill(buf, len, SEED, i * len);
		ASSERT_EQ((ssize_t)len,
			  send(self->client, buf, len, MSG_ZEROCOPY));
		end = now_ms() + patience(2000);
		while (next <= i && now_ms() < end) {
			if (completion(self->client, &lo, &hi)) {
				sleep_ms(1);
				continue;
			}
			EXPECT_EQ(next, lo);
			EXPECT_GE(i, hi);
			next = hi + 1;
		}
		ASSERT_EQ(i + 1, next);
		memset(buf, 0, len);
		recv_pattern(_metadata, self->server, SEED, i * len, len);
	}
	EXPECT_EQ(-EAGAIN, completion(self->client, &lo, &hi));
	EXPECT_CARRIED(calls * len);
}

/*
 * The writer sends more than the receiver takes at once. The rest follows when
 * it reads.
 */
TEST_F(splice, zerocopy_to_full_receiver)
{
	const size_t len = 1000000;
	uint32_t next = 0, lo, hi, i;
	uint64_t sent = 0, end;
	ssize_t n;
	char *buf;

	buf = begin_zerocopy(_metadata, self->client, len);
	pattern_fill(buf, len, SEED, 0);
	for (i = 0; sent < len; i++) {
		n = send(self->client, buf + sent, len - sent,
			 MSG_ZEROCOPY | MSG_DONTWAIT);
		if (n < 0) {
			ASSERT_EQ(EAGAIN, errno);
			break;
		}
		sent += n;
	}
	recv_pattern(_metadata, self->server, SEED, 0, sent);
	end = now_ms() + patience(2000);
	while (next < i && now_ms() < end) {
		if (completion(self->client, &lo, &hi)) {
			sleep_ms(1);
			continue;
		}
		EXPECT_EQ(next, lo);
		next = hi + 1;
	}
	EXPECT_EQ(i, next);
	EXPECT_CARRIED(sent);
}

static uint32_t receive_memory(struct __test_metadata *_metadata, int sock)
{
	uint32_t mem[SK_MEMINFO_VARS];
	socklen_t size = sizeof(mem);

	EXPECT_EQ(0, getsockopt(sock, SOL_SOCKET, SO_MEMINFO, mem, &size));
	return mem[SK_MEMINFO_RMEM_ALLOC];
}

/*
 * Pages that were moved out of one connection and into another are not taken for
 * the module's own, whose owner is charged for all of them.
 */
TEST_F(splice, out_and_in_again)
{
	const size_t len = 65536;
	int from, to, through[2];
	char bytes[2];
	cpu_set_t one, all;

	/* What was read is used again on the same processor. */
	ASSERT_EQ(0, sched_getaffinity(0, sizeof(all), &all));
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(one), &one));
	ASSERT_EQ(0, pipe(through));
	open_connection(_metadata, variant->ends, NULL, &from, &to);

	send_pattern(_metadata, self->client, SEED, 0, len, 0);
	ASSERT_EQ(1, splice(self->server, NULL, through[1], NULL, 1, 0));
	recv_pattern(_metadata, self->server, SEED, 1, len / 2 - 1);
	ASSERT_EQ(1, splice(self->server, NULL, through[1], NULL, 1, 0));
	recv_pattern(_metadata, self->server, SEED, len / 2 + 1, len / 2 - 1);
	ASSERT_EQ(2, splice(through[0], NULL, from, NULL, 2, 0));
	wait_readable(_metadata, to, 2);
	ASSERT_EQ(2, recv(to, bytes, 2, 0));

	send_pattern(_metadata, from, SEED, 0, len, 0);
	wait_readable(_metadata, to, len);
	EXPECT_LE(len, receive_memory(_metadata, to));
	recv_pattern(_metadata, to, SEED, 0, len);
	EXPECT_CARRIED(2 * len + 2);
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(all), &all));
	close(from);
	close(to);
}

/* Send @len bytes of @file from @at on, in pieces of up to @most bytes. */
static void send_pieces(struct __test_metadata *_metadata, int sock, int file, off_t at,
			size_t len, size_t most)
{
	const off_t end = at + len;
	uint64_t state = SEED;
	size_t size;

	while (at < end) {
		size = random_size(&state, most);
		if (size > (size_t)(end - at))
			size = end - at;
		ASSERT_LT(0, sendfile(sock, file, &at, size));
	}
}

/*
 * Small pieces of a file share skbs. Each piece is charged, can be peeked at, and is read
 * once. A piece for half of which an skb has room goes into the next skb as a whole.
 */
TEST_F(splice, small_pieces)
{
	const size_t len = 50000, some = 7001, page = sysconf(_SC_PAGESIZE);
	int file = pattern_file(_metadata, 2 * len), pieces = 0;
	uint64_t skbs = friends_stat("skbs");
	char *buf = malloc(len);
	off_t at;

	ASSERT_NE(NULL, buf);
	send_pieces(_metadata, self->client, file, 0, len, 5000);
	wait_readable(_metadata, self->server, len);
	if (variant->friends)
		EXPECT_GE(5U, friends_stat("skbs") - skbs);
	EXPECT_LE(len, receive_memory(_metadata, self->server));
	ASSERT_EQ((ssize_t)len, recv(self->server, buf, len, MSG_PEEK | MSG_WAITALL));
	EXPECT_EQ(-1, pattern_check(buf, len, SEED, 0));

	/* More is added to the skb of which a part has been read. */
	recv_pattern(_metadata, self->server, SEED, 0, some);
	send_pieces(_metadata, self->client, file, len, len, 300);
	recv_pattern(_metadata, self->server, SEED, some, 2 * len - some);
	EXPECT_EQ(0U, receive_memory(_metadata, self->server));

	/* Each of these is in two pages, and an skb has an odd number of fragments. */
	for (at = page - 100; at < (off_t)(2 * len) - 100; at += 2 * page) {
		off_t from = at;

		ASSERT_EQ(200, sendfile(self->client, file, &from, 200));
		pieces++;
	}
	wait_readable(_metadata, self->server, 200 * pieces);
	for (at = page - 100; at < (off_t)(2 * len) - 100; at += 2 * page)
		recv_pattern(_metadata, self->server, SEED, at, 200);
	EXPECT_LT(17 / 2, pieces);
	EXPECT_EQ(0U, receive_memory(_metadata, self->server));

	EXPECT_CARRIED(2 * len + 200 * pieces);
	free(buf);
}

/* Return whether nobody but the page cache has a reference to a page of @file, which is sealed then. */
static bool seal(struct __test_metadata *_metadata, int file)
{
	if (!fcntl(file, F_ADD_SEALS, F_SEAL_WRITE))
		return true;
	EXPECT_EQ(EBUSY, errno);
	return false;
}

/*
 * The pages of a file are let go when they have been read. What is written next, by copying or from
 * another file, is not mixed up with them.
 */
TEST_F(splice, lets_pages_go)
{
	const size_t len = 40000, page = sysconf(_SC_PAGESIZE);
	int i, file, other = pattern_file(_metadata, len + page);
	uint64_t end;
	bool sealed;

	run_on(_metadata, sched_getcpu());
	for (i = 0; i < 3; i++) {
		off_t at = 0;

		file = pattern_file(_metadata, len);
		send_pieces(_metadata, self->client, file, 0, len, page);
		wait_readable(_metadata, self->server, len);
		EXPECT_FALSE(seal(_metadata, file));
		recv_pattern(_metadata, self->server, SEED, 0, len);
		end = now_ms() + patience(2000);
		do {
			sealed = seal(_metadata, file);
		} while (variant->friends && !sealed && now_ms() < end);
		/* The processor that allocated an skb of the wire frees it, at its next softirq. */
		EXPECT_TRUE(sealed || !variant->friends);
		close(file);

		/* Whoever gets the skb next is not charged with these pages. */
		send_pattern(_metadata, self->client, SEED, 7, 1000, 0);
		if (variant->friends)
			EXPECT_GE(page, receive_memory(_metadata, self->server));
		ASSERT_EQ((ssize_t)page, sendfile(self->client, other, &at, page));
		send_pattern(_metadata, self->client, SEED, page, 1000, 0);
		recv_pattern(_metadata, self->server, SEED, 7, 1000);
		recv_pattern(_metadata, self->server, SEED, 0, page + 1000);
	}
	EXPECT_EQ(0U, receive_memory(_metadata, self->server));
	close(other);
	EXPECT_CARRIED(i * (len + page + 2000));
}

/* If there is no memory for a notice, nothing is written, and the next writes are as ever. */
TEST_F(splice, zerocopy_without_memory)
{
	const size_t len = 20000;
	uint32_t lo, hi;
	uint64_t end;
	char *buf;

	buf = begin_zerocopy(_metadata, self->client, len);
	pattern_fill(buf, len, SEED, 0);
	ASSERT_EQ(0, sysctl_set("/proc/sys/net/core/optmem_max", "1"));
	EXPECT_EQ(-1, send(self->client, buf, len, MSG_ZEROCOPY));
	EXPECT_EQ(ENOBUFS, errno);
	ASSERT_EQ(0, sysctl_set("/proc/sys/net/core/optmem_max", "131072"));

	send_pattern(_metadata, self->client, SEED, 0, 40000, MSG_DONTWAIT);
	recv_pattern(_metadata, self->server, SEED, 0, 40000);
	pattern_fill(buf, len, SEED, 40000);
	ASSERT_EQ((ssize_t)len, send(self->client, buf, len, MSG_ZEROCOPY));
	recv_pattern(_metadata, self->server, SEED, 40000, len);
	end = now_ms() + patience(2000);
	while (completion(self->client, &lo, &hi) && now_ms() < end)
		sleep_ms(1);
	EXPECT_EQ(0, lo);
	EXPECT_EQ(0, hi);
	EXPECT_CARRIED(40000 + len);
}

int main(int argc, char **argv)
{
	return friends_main(argc, argv);
}
