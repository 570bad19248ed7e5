// SPDX-License-Identifier: GPL-2.0
/* These tests stream much data both ways at once. Each byte must arrive once, and in order. */

#include <signal.h>
#include <sys/time.h>
#include <sys/uio.h>

#include "lib/friends.h"

#define SEED	0x62756c6bULL
#define MIB	1048576ULL

CONNECTION_FIXTURE(bulk);

/* Run a thread for each direction at each end. */
static void run_threads(struct __test_metadata *_metadata, struct half *h,
			int n)
{
	int i;

	for (i = 0; i < n; i++)
		half_start(&h[i]);
	halves_watch(_metadata, h, n);
	for (i = 0; i < n; i++)
		half_join(&h[i]);
}

TEST_F(bulk, both_ways)
{
	uint64_t size = scaled(16 * MIB);
	struct half h[4];

	halves_init(h, self->client, self->server, SEED, size);
	run_threads(_metadata, h, 4);
	halves_check(_metadata, h);
	halves_free(h);
	EXPECT_CARRIED(2 * size);
}

TEST_F(bulk, small_writes)
{
	/*
	 * A write that finds a lock taken falls back, and so do the writes behind it until
	 * its ACK.
	 */
	uint64_t size = scaled(4 * MIB);
	struct half h[4];
	int i;

	halves_init(h, self->client, self->server, SEED, size);
	for (i = 0; i < 4; i++)
		h[i].chunk = i % 2 ? 65536 : 200;
	run_threads(_metadata, h, 4);
	halves_check(_metadata, h);
	halves_free(h);
	EXPECT_CARRIED(2 * size);
}

static void *poll_thread(void *arg)
{
	halves_poll(arg, 2);
	return NULL;
}

TEST_F(bulk, nonblocking)
{
	uint64_t size = scaled(16 * MIB);
	struct half h[4], end[2][2];
	pthread_t thread[2];
	int i;

	halves_init(h, self->client, self->server, SEED, size);
	/* One thread polls both halves of an end. */
	end[0][0] = h[0];
	end[0][1] = h[3];
	end[1][0] = h[2];
	end[1][1] = h[1];
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, poll_thread,
					    end[i]));
	halves_watch(_metadata, end[0], 4);
	for (i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	h[0] = end[0][0];
	h[3] = end[0][1];
	h[2] = end[1][0];
	h[1] = end[1][1];
	halves_check(_metadata, h);
	halves_free(h);
	EXPECT_CARRIED(2 * size);
}

TEST_F(bulk, one_thread)
{
	uint64_t size = scaled(16 * MIB);
	struct half h[4];

	halves_init(h, self->client, self->server, SEED, size);
	halves_poll(h, 4);
	halves_check(_metadata, h);
	halves_free(h);
	EXPECT_CARRIED(2 * size);
}

TEST_F(bulk, many_connections)
{
	uint64_t size = scaled(2 * MIB);
	int client[8], server[8], i;
	struct half h[32];

	for (i = 0; i < 8; i++) {
		open_connection(_metadata, variant->ends, NULL, &client[i],
				&server[i]);
		halves_init(h + 4 * i, client[i], server[i], SEED + i, size);
	}
	run_threads(_metadata, h, 32);
	for (i = 0; i < 8; i++) {
		halves_check(_metadata, h + 4 * i);
		halves_free(h + 4 * i);
		close(client[i]);
		close(server[i]);
	}
	EXPECT_CARRIED(8 * 2 * size);
}

/* This is slow on the wire, because windows this small bring SWS avoidance to life. */
TEST_F(bulk, tiny_buffers)
{
	const struct connect_options tiny = { .sndbuf = 4096, .rcvbuf = 4096 };
	uint64_t size = scaled(256 * 1024);
	struct half h[4];

	close(self->client);
	close(self->server);
	open_connection(_metadata, variant->ends, &tiny, &self->client,
			&self->server);
	halves_init(h, self->client, self->server, SEED, size);
	run_threads(_metadata, h, 4);
	halves_check(_metadata, h);
	halves_free(h);
	EXPECT_CARRIED(2 * size);
}

/* The sizes of the buffers change under way. */
TEST_F(bulk, changing_buffers)
{
	uint64_t size = scaled(16 * MIB), state = SEED;
	struct half h[4];
	int i, fd, value;

	halves_init(h, self->client, self->server, SEED, size);
	for (i = 0; i < 4; i++)
		half_start(&h[i]);
	while (!half_over(&h[1]) || !half_over(&h[3])) {
		fd = prng(&state) % 2 ? self->client : self->server;
		value = 2048 << prng(&state) % 10;
		set_int(_metadata, fd, SOL_SOCKET,
			prng(&state) % 2 ? SO_SNDBUF : SO_RCVBUF, value);
		sleep_ms(1);
	}
	for (i = 0; i < 4; i++)
		half_join(&h[i]);
	halves_check(_metadata, h);
	halves_free(h);
	EXPECT_CARRIED(2 * size);
}

/*
 * Several writers share a socket. Their writes may interleave at any byte, but
 * the bytes of each writer stay in order. A byte is its writer's number and a
 * counter.
 */
#define WRITERS		8
#define WRITER_SHIFT	5

struct writer {
	int fd;
	int id;
	uint64_t size;
	pthread_t thread;
};

static void *write_numbered(void *arg)
{
	uint64_t state = SEED, done = 0;
	struct writer *w = arg;
	static const size_t max = 100000;
	uint8_t *buf = malloc(max);
	size_t len, at, i;
	ssize_t n;

	state += w->id;
	while (buf && done < w->size) {
		len = random_size(&state, max);
		len = len < w->size - done ? len : w->size - done;
		for (i = 0; i < len; i++)
			buf[i] = w->id << WRITER_SHIFT |
				 ((done + i) & ((1 << WRITER_SHIFT) - 1));
		for (at = 0; at < len; at += n) {
			n = send(w->fd, buf + at, len - at, MSG_NOSIGNAL);
			if (n <= 0)
				return NULL;
		}
		done += len;
	}
	free(buf);
	return NULL;
}

static void read_numbered(struct __test_metadata *_metadata, int fd,
			  uint64_t size)
{
	uint64_t seen[WRITERS] = {}, total = 0;
	static uint8_t buf[65536];
	uint8_t id, count;
	ssize_t n, i;

	while (total < WRITERS * size) {
		n = recv(fd, buf, sizeof(buf), 0);
		ASSERT_GT(n, 0);
		for (i = 0; i < n; i++) {
			id = buf[i] >> WRITER_SHIFT;
			count = seen[id]++ & ((1 << WRITER_SHIFT) - 1);
			ASSERT_EQ(count, buf[i] & ((1 << WRITER_SHIFT) - 1))
				TH_LOG("byte %" PRIu64 " of writer %d",
				       seen[id] - 1, id);
		}
		total += n;
	}
	for (i = 0; i < WRITERS; i++)
		EXPECT_EQ(size, seen[i]);
}

TEST_F(bulk, threads_on_one_socket)
{
	uint64_t size = scaled(MIB);
	struct writer w[WRITERS];
	int i;

	for (i = 0; i < WRITERS; i++) {
		w[i] = (struct writer){ self->client, i, size, 0 };
		ASSERT_EQ(0, pthread_create(&w[i].thread, NULL, write_numbered,
					    &w[i]));
	}
	read_numbered(_metadata, self->server, size);
	for (i = 0; i < WRITERS; i++)
		pthread_join(w[i].thread, NULL);
	EXPECT_CARRIED(WRITERS * size);
}

TEST_F(bulk, forks_on_one_socket)
{
	uint64_t size = scaled(MIB);
	pid_t pid[WRITERS];
	struct writer w;
	int i;

	for (i = 0; i < WRITERS; i++) {
		pid[i] = fork();
		ASSERT_GE(pid[i], 0);
		if (!pid[i]) {
			close(self->server);
			w = (struct writer){ self->client, i, size, 0 };
			write_numbered(&w);
			_exit(0);
		}
	}
	/* The last child that ends closes the connection. */
	close(self->client);
	self->client = -1;
	read_numbered(_metadata, self->server, size);
	for (i = 0; i < WRITERS; i++)
		EXPECT_EQ(pid[i], waitpid(pid[i], NULL, 0));
	expect_eof(_metadata, self->server);
	EXPECT_CARRIED(WRITERS * size);
}

static void nothing(int sig __maybe_unused)
{
}

/* Signals cut calls short, or end them with EINTR. */
TEST_F(bulk, interrupted)
{
	struct itimerval tick = { { 0, 2000 }, { 0, 2000 } };
	struct sigaction sa = { .sa_handler = nothing };
	struct itimerval none = {};
	uint64_t size = scaled(16 * MIB);
	struct half h[4];

	if (slow())
		tick.it_interval.tv_usec = 50000;
	/* SA_RESTART is not set. */
	ASSERT_EQ(0, sigaction(SIGALRM, &sa, NULL));
	halves_init(h, self->client, self->server, SEED, size);
	ASSERT_EQ(0, setitimer(ITIMER_REAL, &tick, NULL));
	run_threads(_metadata, h, 4);
	setitimer(ITIMER_REAL, &none, NULL);
	halves_check(_metadata, h);
	halves_free(h);
	EXPECT_CARRIED(2 * size);
}

/* A pointer becomes invalid within a buffer. The bytes that were accepted arrive. */
TEST_F(bulk, bad_pointer)
{
	const size_t page = getpagesize(), good = 8 * page;
	uint64_t state = SEED, pos = 0;
	ssize_t n, lead, i;
	char *map;

	map = mmap(NULL, good + page, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, map);
	ASSERT_EQ(0, mprotect(map + good, page, PROT_NONE));

	EXPECT_EQ(-1, send(self->client, map + good, 100, 0));
	EXPECT_EQ(EFAULT, errno);
	for (i = 0; i < 50; i++) {
		lead = random_size(&state, good);
		pattern_fill(map + good - lead, lead, SEED, pos);
		n = send(self->client, map + good - lead, lead + 100, 0);
		EXPECT_LE(n, lead);
		if (n < 0)
			EXPECT_EQ(EFAULT, errno);
		if (n > 0) {
			recv_pattern(_metadata, self->server, SEED, pos, n);
			pos += n;
		}
		send_pattern(_metadata, self->client, SEED, pos, 1000, 0);
		/* A bad pointer of the reader's loses no bytes either. */
		EXPECT_EQ(POLLIN, wait_for(self->server, POLLIN,
					   patience(1000)));
		EXPECT_EQ(-1, recv(self->server, map + good, 100, 0));
		EXPECT_EQ(EFAULT, errno);
		recv_pattern(_metadata, self->server, SEED, pos, 1000);
		pos += 1000;
	}
	EXPECT_EQ(-1, recv(self->server, map, 1, MSG_DONTWAIT));
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_CARRIED(pos);
}

TEST_F(bulk, vectors)
{
	uint64_t state = SEED, pos = 0, size = scaled(4 * MIB);
	struct iovec iov[16];
	char *buf = malloc(size);
	ssize_t n, len;
	int i, count;

	ASSERT_NE(NULL, buf);
	pattern_fill(buf, size, SEED, 0);
	while (pos < size) {
		count = 1 + prng(&state) % 16;
		for (i = 0, len = 0; i < count && pos + len < size; i++) {
			iov[i].iov_base = buf + pos + len;
			iov[i].iov_len = random_size(&state, 10000);
			if (iov[i].iov_len > size - pos - len)
				iov[i].iov_len = size - pos - len;
			len += iov[i].iov_len;
		}
		n = writev(self->client, iov, i);
		ASSERT_GT(n, 0);
		recv_pattern(_metadata, self->server, SEED, pos, n);
		pos += n;
	}
	free(buf);
	EXPECT_CARRIED(size);
}

/* A request and a response alternate, one small message at a time. */
TEST_F(bulk, ping_pong)
{
	uint64_t state = SEED, pos = 0, size;
	int i, n = scaled(2000);

	for (i = 0; i < n; i++) {
		size = random_size(&state, 3000);
		send_pattern(_metadata, self->client, SEED, pos, size, 0);
		recv_pattern(_metadata, self->server, SEED, pos, size);
		send_pattern(_metadata, self->server, ~SEED, pos, size, 0);
		recv_pattern(_metadata, self->client, ~SEED, pos, size);
		pos += size;
	}
	EXPECT_CARRIED(2 * pos);
}

int main(int argc, char **argv)
{
	return friends_main(argc, argv);
}
