// SPDX-License-Identifier: GPL-2.0
/*
 * These tests cover half-close, close, reset and death. No last byte may be lost, and none
 * invented.
 */

#include <signal.h>

#include "lib/friends.h"

#define SEED	0x656e64ULL
#define MIB	1048576ULL

CONNECTION_FIXTURE(close);

/*
 * @first ends its stream in mid-connection. @second reads to the very end of
 * that stream, and still sends.
 */
static uint64_t half_close(struct __test_metadata *_metadata, int first,
			   int second)
{
	uint64_t size = scaled(4 * MIB);
	struct half in, out;
	char c = 0;

	send_pattern(_metadata, first, SEED, 0, 50000, 0);
	EXPECT_EQ(0, shutdown(first, SHUT_WR));
	EXPECT_EQ(-1, send(first, &c, 1, MSG_NOSIGNAL));
	EXPECT_EQ(EPIPE, errno);
	recv_pattern(_metadata, second, SEED, 0, 50000);
	expect_eof(_metadata, second);

	half_init(&out, second, true, ~SEED, size);
	out.shut = true;
	half_init(&in, first, false, ~SEED, ENDLESS);
	half_start(&out);
	half_start(&in);
	half_join(&out);
	half_join(&in);
	EXPECT_EQ(0, out.err);
	EXPECT_EQ(0, in.err);
	EXPECT_EQ(size, in.done);
	EXPECT_EQ(-1, in.wrong);
	EXPECT_TRUE(in.eof);
	half_free(&out);
	half_free(&in);
	expect_eof(_metadata, first);
	return size + 50000;
}

TEST_F(close, half_close_by_client)
{
	uint64_t sent = half_close(_metadata, self->client, self->server);

	EXPECT_CARRIED(sent);
}

TEST_F(close, half_close_by_server)
{
	uint64_t sent = half_close(_metadata, self->server, self->client);

	EXPECT_CARRIED(sent);
}

/* SHUT_WR comes behind more data than fits into the receiver. */
TEST_F(close, half_close_with_data_queued)
{
	static char buf[65536];
	uint64_t sent = 0;
	ssize_t n;

	for (;;) {
		pattern_fill(buf, sizeof(buf), SEED, sent);
		n = send(self->client, buf, sizeof(buf), MSG_DONTWAIT);
		if (n < 0)
			break;
		sent += n;
	}
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_EQ(0, shutdown(self->client, SHUT_WR));
	recv_pattern(_metadata, self->server, SEED, 0, sent);
	expect_eof(_metadata, self->server);
	EXPECT_CARRIED(sent);
}

TEST_F(close, both_shut_down)
{
	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	send_pattern(_metadata, self->server, SEED, 0, 2000, 0);
	EXPECT_EQ(0, shutdown(self->client, SHUT_WR));
	EXPECT_EQ(0, shutdown(self->server, SHUT_WR));
	recv_pattern(_metadata, self->client, SEED, 0, 2000);
	recv_pattern(_metadata, self->server, SEED, 0, 1000);
	expect_eof(_metadata, self->client);
	expect_eof(_metadata, self->server);
	EXPECT_CARRIED(3000);
}

TEST_F(close, shut_down_by_both_at_once)
{
	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	EXPECT_EQ(0, shutdown(self->client, SHUT_RDWR));
	recv_pattern(_metadata, self->server, SEED, 0, 1000);
	expect_eof(_metadata, self->server);
	EXPECT_EQ(0, shutdown(self->server, SHUT_RDWR));
	EXPECT_CARRIED(1000);
}

static void expect_reset(struct __test_metadata *_metadata, int fd)
{
	char c = 0;

	EXPECT_EQ(POLLIN | POLLERR | POLLHUP,
		  wait_for(fd, POLLIN, patience(1000)));
	EXPECT_EQ(-1, recv(fd, &c, 1, MSG_DONTWAIT));
	EXPECT_EQ(ECONNRESET, errno);
	/* The error is reported once. After that, the stream is at its end. */
	EXPECT_EQ(0, recv(fd, &c, 1, MSG_DONTWAIT));
	EXPECT_EQ(-1, send(fd, &c, 1, MSG_NOSIGNAL));
	EXPECT_EQ(EPIPE, errno);
}

TEST_F(close, reset_by_linger_0)
{
	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	recv_pattern(_metadata, self->server, SEED, 0, 1000);
	abort_connection(self->client);
	self->client = -1;
	expect_reset(_metadata, self->server);
	EXPECT_CARRIED(1000);
}

/* The server resets the connection, with data that will never be read. */
TEST_F(close, reset_by_linger_0_with_data)
{
	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	send_pattern(_metadata, self->server, SEED, 0, 1000, 0);
	EXPECT_EQ(POLLIN, wait_for(self->client, POLLIN, patience(1000)));
	abort_connection(self->server);
	self->server = -1;
	EXPECT_EQ(POLLERR | POLLHUP, wait_for(self->client, 0, patience(1000)));
	EXPECT_CARRIED_ANY();
}

TEST_F(close, reset_by_unread_data)
{
	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	EXPECT_EQ(POLLIN, wait_for(self->server, POLLIN, patience(1000)));
	close(self->server);
	self->server = -1;
	expect_reset(_metadata, self->client);
	EXPECT_CARRIED(1000);
}

TEST_F(close, reset_by_partly_read_data)
{
	send_pattern(_metadata, self->server, SEED, 0, 100000, 0);
	recv_pattern(_metadata, self->client, SEED, 0, 99999);
	close(self->client);
	self->client = -1;
	expect_reset(_metadata, self->server);
	EXPECT_CARRIED(100000);
}

/* The peer's queue and our own are full when the peer closes. */
TEST_F(close, reset_of_blocked_writer)
{
	struct half out;

	half_init(&out, self->client, true, SEED, ENDLESS);
	half_start(&out);
	sleep_ms(100);
	EXPECT_FALSE(half_over(&out));
	close(self->server);
	self->server = -1;
	half_join(&out);
	EXPECT_EQ(ECONNRESET, out.err);
	half_free(&out);
	EXPECT_CARRIED_ANY();
}

/* SO_ERROR reports the reset once. */
TEST_F(close, reset_in_so_error)
{
	abort_connection(self->client);
	self->client = -1;
	EXPECT_EQ(POLLERR | POLLHUP, wait_for(self->server, 0, patience(1000)));
	EXPECT_EQ(ECONNRESET, so_error(self->server));
	EXPECT_EQ(0, so_error(self->server));
	EXPECT_CARRIED_ANY();
}

static int pipes;

static void count_pipe(int sig __maybe_unused)
{
	pipes++;
}

TEST_F(close, epipe_and_sigpipe)
{
	char c = 0;

	ASSERT_NE(SIG_ERR, signal(SIGPIPE, count_pipe));
	close(self->server);
	self->server = -1;
	EXPECT_EQ(POLLIN, wait_for(self->client, POLLIN, patience(1000)));
	/* Only the answer to the first write shows that the peer has closed. */
	EXPECT_EQ(1, send(self->client, &c, 1, 0));
	EXPECT_EQ(POLLERR | POLLHUP, wait_for(self->client, 0, patience(1000)));
	EXPECT_EQ(-1, send(self->client, &c, 1, 0));
	EXPECT_EQ(EPIPE, errno);
	EXPECT_EQ(1, pipes);
	EXPECT_EQ(-1, send(self->client, &c, 1, MSG_NOSIGNAL));
	EXPECT_EQ(EPIPE, errno);
	EXPECT_EQ(1, pipes);
	EXPECT_CARRIED_ANY();
}

/* Count sockets in TIME_WAIT, which the end that closed first keeps. */
static int in_time_wait_here(int port)
{
	static const char *const tables[] = {
		"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6",
	};
	unsigned int local, state, i;
	char line[256];
	int n = 0;
	FILE *f;

	for (i = 0; i < ARRAY_SIZE(tables); i++) {
		f = fopen(tables[i], "r");
		if (!f)
			continue;
		while (fgets(line, sizeof(line), f)) {
			if (sscanf(line, "%*s %*[^:]:%x %*s %x", &local,
				   &state) == 2 &&
			    local == (unsigned int)port && state == 6)
				n++;
		}
		fclose(f);
	}
	return n;
}

/* Count them in both containers, if there are two. */
static int in_time_wait(int port)
{
	int n = in_time_wait_here(port);

	if (container_of_server >= 0) {
		enter_container(container_of_server);
		n += in_time_wait_here(port);
		enter_container(container_of_client);
	}
	return n;
}

static void time_wait(struct __test_metadata *_metadata, int first, int second)
{
	int port = port_of(first), other = port_of(second);
	uint64_t end = now_ms() + patience(1000);

	close(first);
	expect_eof(_metadata, second);
	close(second);
	while (!in_time_wait(port) && now_ms() < end)
		sleep_ms(1);
	EXPECT_EQ(1, in_time_wait(port));
	EXPECT_EQ(0, in_time_wait(other));
}

TEST_F(close, time_wait_at_client)
{
	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	recv_pattern(_metadata, self->server, SEED, 0, 1000);
	time_wait(_metadata, self->client, self->server);
	self->client = -1;
	self->server = -1;
	EXPECT_CARRIED(1000);
}

TEST_F(close, time_wait_at_server)
{
	send_pattern(_metadata, self->server, SEED, 0, 1000, 0);
	recv_pattern(_metadata, self->client, SEED, 0, 1000);
	time_wait(_metadata, self->server, self->client);
	self->client = -1;
	self->server = -1;
	EXPECT_CARRIED(1000);
}

static uint32_t segments_out(struct __test_metadata *_metadata, int fd)
{
	struct tcp_info info = {};
	socklen_t len = sizeof(info);

	EXPECT_EQ(0, getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len));
	return info.tcpi_segs_out;
}

/* An end that ends its stream acknowledges the other end's FIN by its own. */
TEST_F(close, fin_carries_the_ack)
{
	uint32_t before, segments, least = UINT32_MAX;
	uint64_t sent = 0;
	int i;

	/* On a busy machine, the ACK may not wait for the FIN. */
	for (i = 0; i < 8 && least != 1; i++) {
		if (i) {
			close(self->server);
			close(self->client);
			open_connection(_metadata, variant->ends, NULL,
					&self->client, &self->server);
		}
		sent += talk(_metadata, self->client, self->server);
		before = segments_out(_metadata, self->server);
		EXPECT_EQ(0, shutdown(self->client, SHUT_WR));
		expect_eof(_metadata, self->server);
		EXPECT_EQ(0, shutdown(self->server, SHUT_WR));
		segments = segments_out(_metadata, self->server) - before;
		if (segments < least)
			least = segments;
	}
	EXPECT_EQ(1, least);
	EXPECT_CARRIED(sent);
}

struct last_words {
	int fd;
	size_t size;
	bool linger;
};

static void *write_and_close(void *arg)
{
	struct linger l = { .l_onoff = 1, .l_linger = 5 };
	struct last_words *w = arg;
	struct half h;

	if (w->linger)
		setsockopt(w->fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	half_init(&h, w->fd, true, w->size, w->size);
	while (!h.over)
		half_step(&h, 0);
	close(w->fd);
	half_free(&h);
	return NULL;
}

/* write() and close() lose nothing, however late the reader comes. */
static uint64_t write_close(struct __test_metadata *_metadata, enum ends ends,
			    int n, bool linger)
{
	int listener = listener_for(_metadata, ends, NULL);
	uint64_t sent = 0, state = SEED;
	struct last_words w;
	pthread_t thread;
	int i, server;

	for (i = 0; i < n; i++) {
		w.size = random_size(&state, MIB);
		w.linger = linger;
		w.fd = client_for(_metadata, ends, listener, NULL);
		ASSERT_EQ(0, pthread_create(&thread, NULL, write_and_close,
					    &w));
		if (i % 3 == 0)
			sleep_ms(prng(&state) % 4);
		server = accept(listener, NULL, NULL);
		ASSERT_GE(server, 0);
		if (i % 3 == 1)
			sleep_ms(prng(&state) % 4);
		recv_pattern(_metadata, server, w.size, 0, w.size);
		expect_eof(_metadata, server);
		close(server);
		pthread_join(thread, NULL);
		sent += w.size;
	}
	close(listener);
	return sent;
}

TEST_F(close, write_and_close)
{
	EXPECT_CARRIED(write_close(_metadata, variant->ends, scaled(500),
				   false));
}

TEST_F(close, write_and_close_with_linger)
{
	EXPECT_CARRIED(write_close(_metadata, variant->ends, scaled(100),
				   true));
}

struct closer {
	int fd;
	bool closed;
	pthread_t thread;
};

static void *closer(void *arg)
{
	struct closer *c = arg;

	close(c->fd);
	__atomic_store_n(&c->closed, true, __ATOMIC_RELEASE);
	return NULL;
}

/* Write more than the reader takes, then let close() begin to wait. */
static void close_slowly(struct __test_metadata *_metadata, struct closer *c,
			 int fd, int seconds)
{
	struct linger l = { .l_onoff = 1, .l_linger = seconds };

	*c = (struct closer){ .fd = fd };
	ASSERT_EQ(0, setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l)));
	set_int(_metadata, fd, SOL_SOCKET, SO_SNDBUFFORCE, 8 * MIB);
	send_pattern(_metadata, fd, SEED, 0, 2 * MIB, 0);
	ASSERT_EQ(0, pthread_create(&c->thread, NULL, closer, c));
	sleep_ms(100);
	EXPECT_FALSE(__atomic_load_n(&c->closed, __ATOMIC_ACQUIRE));
}

/* close() returns when the slow reader's end has all data. */
TEST_F(close, linger_for_slow_reader)
{
	struct closer c;
	int i;

	close_slowly(_metadata, &c, self->client, 60);
	self->client = -1;
	for (i = 0; i < 16; i++) {
		recv_pattern(_metadata, self->server, SEED, i * MIB / 8,
			     MIB / 8);
		sleep_ms(3);
	}
	expect_eof(_metadata, self->server);
	pthread_join(c.thread, NULL);
	EXPECT_CARRIED(2 * MIB);
}

/* close() also returns when its time is over, and the rest of the data follows. */
TEST_F(close, linger_runs_out)
{
	uint64_t start = now_ms(), took;
	struct closer c;

	close_slowly(_metadata, &c, self->client, 1);
	self->client = -1;
	pthread_join(c.thread, NULL);
	took = now_ms() - start;
	EXPECT_LE(1000, took);
	EXPECT_GE(patience(3000), took);
	recv_pattern(_metadata, self->server, SEED, 0, 2 * MIB);
	expect_eof(_metadata, self->server);
	EXPECT_CARRIED(2 * MIB);
}

/* Data that is sent to an end that was shut down for reading is not refused. */
TEST_F(close, sent_to_shut_reader)
{
	char c;

	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	EXPECT_EQ(0, shutdown(self->server, SHUT_RD));
	send_pattern(_metadata, self->client, SEED, 1000, 1000, 0);
	recv_pattern(_metadata, self->server, SEED, 0, 1000);
	sleep_ms(QUIET);
	recv_pattern(_metadata, self->server, SEED, 1000, 1000);
	EXPECT_EQ(0, recv(self->server, &c, 1, 0));
	send_pattern(_metadata, self->client, SEED, 2000, 1000, 0);
	sleep_ms(QUIET);
	recv_pattern(_metadata, self->server, SEED, 2000, 1000);
	EXPECT_EQ(0, recv(self->server, &c, 1, 0));
	send_pattern(_metadata, self->server, ~SEED, 0, 1000, 0);
	recv_pattern(_metadata, self->client, ~SEED, 0, 1000);
	EXPECT_CARRIED(4000);
}

/* An end that has also ended its own stream answers data with a reset. */
TEST_F(close, sent_to_shut_down_end)
{
	socklen_t len = sizeof(int);
	char c = 0;
	int err;

	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	recv_pattern(_metadata, self->server, SEED, 0, 1000);
	EXPECT_EQ(0, shutdown(self->server, SHUT_RDWR));
	expect_eof(_metadata, self->client);
	EXPECT_EQ(1, send(self->client, &c, 1, MSG_NOSIGNAL));
	EXPECT_LE(POLLERR, wait_for(self->client, 0, patience(1000)));
	EXPECT_EQ(0, getsockopt(self->client, SOL_SOCKET, SO_ERROR, &err,
				&len));
	EXPECT_EQ(EPIPE, err);
	EXPECT_EQ(-1, send(self->client, &c, 1, MSG_NOSIGNAL));
	EXPECT_EQ(EPIPE, errno);
	EXPECT_EQ(-1, recv(self->server, &c, 1, 0));
	EXPECT_EQ(ECONNRESET, errno);
	EXPECT_CARRIED(1000);
}

/* The process that wrote has exited when the reader begins. */
TEST_F(close, write_and_exit)
{
	pid_t pid = fork();
	struct half in;

	ASSERT_GE(pid, 0);
	if (!pid) {
		close(self->server);
		send_pattern(_metadata, self->client, SEED, 0, 60000, 0);
		_exit(0);
	}
	close(self->client);
	self->client = -1;
	EXPECT_EQ(pid, waitpid(pid, NULL, 0));
	sleep_ms(20);
	half_init(&in, self->server, false, SEED, ENDLESS);
	half_thread(&in);
	EXPECT_EQ(0, in.err);
	EXPECT_EQ(-1, in.wrong);
	EXPECT_EQ(60000, in.done);
	half_free(&in);
	EXPECT_CARRIED(60000);
}

/* Fork a child that sends, or receives, until it is killed. */
static pid_t spawn_half(struct __test_metadata *_metadata, int fd, int other,
			bool out)
{
	pid_t pid = fork();
	struct half h;

	ASSERT_GE(pid, 0);
	if (!pid) {
		close(other);
		half_init(&h, fd, out, SEED, ENDLESS);
		half_thread(&h);
		_exit(0);
	}
	close(fd);
	return pid;
}

TEST_F(close, killed_writer)
{
	uint64_t state = SEED;
	struct half in;
	pid_t pid;

	pid = spawn_half(_metadata, self->client, self->server, true);
	self->client = -1;
	half_init(&in, self->server, false, SEED, ENDLESS);
	half_start(&in);
	while (half_done(&in) < scaled(4 * MIB) && !half_over(&in))
		sleep_ms(1);
	sleep_ms(prng(&state) % 10);
	kill(pid, SIGKILL);
	EXPECT_EQ(pid, waitpid(pid, NULL, 0));
	half_join(&in);
	EXPECT_TRUE(in.eof);
	EXPECT_EQ(0, in.err);
	EXPECT_EQ(-1, in.wrong);
	EXPECT_CARRIED(in.done);
	half_free(&in);
}

TEST_F(close, killed_reader)
{
	struct half out;
	pid_t pid;

	pid = spawn_half(_metadata, self->client, self->server, false);
	self->client = -1;
	half_init(&out, self->server, true, SEED, ENDLESS);
	half_start(&out);
	while (half_done(&out) < scaled(4 * MIB) && !half_over(&out))
		sleep_ms(1);
	kill(pid, SIGKILL);
	EXPECT_EQ(pid, waitpid(pid, NULL, 0));
	half_join(&out);
	/* The writer gets a reset, or EPIPE if the FIN comes first. */
	if (out.err != EPIPE)
		EXPECT_EQ(ECONNRESET, out.err);
	half_free(&out);
	EXPECT_CARRIED_ANY();
}

/* An idle peer that lives answers a keepalive probe, so nothing ends here. */
TEST_F(close, not_by_keepalive)
{
	struct tcp_info info = {};
	socklen_t len = sizeof(info);
	uint64_t sent;

	sent = talk(_metadata, self->client, self->server);
	set_int(_metadata, self->client, IPPROTO_TCP, TCP_KEEPIDLE, 1);
	set_int(_metadata, self->client, IPPROTO_TCP, TCP_KEEPINTVL, 100);
	set_int(_metadata, self->client, SOL_SOCKET, SO_KEEPALIVE, 1);
	sleep_ms(1500);
	EXPECT_LE(1, tcp_ext("TCPKeepAlive"));
	ASSERT_EQ(0, getsockopt(self->client, IPPROTO_TCP, TCP_INFO, &info,
				&len));
	EXPECT_EQ(0, info.tcpi_probes);
	EXPECT_LE(info.tcpi_last_ack_recv, 1000U);
	sent += talk(_metadata, self->client, self->server);
	EXPECT_CARRIED(sent);
}

/* End the connection of @client, so that the socket may be used again. */
static void disconnect(struct __test_metadata *_metadata, int client)
{
	struct sockaddr none = { .sa_family = AF_UNSPEC };

	EXPECT_EQ(0, connect(client, &none, sizeof(none)));
}

/* Connect @client again. Return the socket of its server. */
static int connect_again(struct __test_metadata *_metadata, int client, enum ends ends)
{
	int listener = listener_for(_metadata, ends, NULL), server;
	union address a;

	address_of(&a, ends == IPV6 ? AF_INET6 : AF_INET,
		   ends == IPV6 ? "::1" : "127.0.0.1", port_of(listener));
	EXPECT_EQ(0, connect(client, &a.sa, sizeof(a)));
	server = accept(listener, NULL, NULL);
	EXPECT_LE(0, server);
	close(listener);
	return server;
}

/* connect(AF_UNSPEC) ends a connection, and the socket may be used again. */
TEST_F(close, disconnected)
{
	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	recv_pattern(_metadata, self->server, SEED, 0, 1000);
	disconnect(_metadata, self->client);
	expect_reset(_metadata, self->server);
	close(self->server);
	EXPECT_EQ(0, friends_stat_becomes("pairs", 0));

	self->server = connect_again(_metadata, self->client, variant->ends);
	send_pattern(_metadata, self->server, SEED, 0, 1000, 0);
	recv_pattern(_metadata, self->client, SEED, 0, 1000);
	EXPECT_CARRIED(2000);
}

struct read_once {
	int fd, err, tid;
	ssize_t got;
	pthread_t thread;
};

static void *read_once(void *arg)
{
	struct read_once *r = arg;
	char buf[100];

	__atomic_store_n(&r->tid, gettid(), __ATOMIC_RELEASE);
	r->got = recv(r->fd, buf, sizeof(buf), 0);
	r->err = errno;
	return NULL;
}

/* Return whether a thread begins to wait within @ms. Copy into @where what it waits in.
 *
 * A thread that is about to wait has the state of one that waits already. Until it has given
 * up its CPU, wchan names no function, but says "0".
 */
static bool waits_within(const int *tid, int64_t ms, char *where, size_t size)
{
	int64_t end = now_ms() + ms;
	bool waits = false;
	char path[64];
	FILE *f;

	do {
		sleep_ms(1);
		snprintf(path, sizeof(path), "/proc/self/task/%d/wchan",
			 __atomic_load_n(tid, __ATOMIC_ACQUIRE));
		f = fopen(path, "r");
		if (!f || !fgets(where, size, f))
			where[0] = '\0';
		if (f)
			fclose(f);
		waits = where[0] && strcmp(where, "0");
	} while (!waits && now_ms() < end);
	return waits;
}

/* A reader that waits for data of one connection gets none of the next one. It does not
 * take the error that the socket keeps for SO_ERROR, either.
 */
TEST_F(close, disconnected_under_a_reader)
{
	struct read_once r = { .fd = self->client };
	char where[100];

	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	recv_pattern(_metadata, self->server, SEED, 0, 1000);
	ASSERT_EQ(0, pthread_create(&r.thread, NULL, read_once, &r));
	EXPECT_TRUE(waits_within(&r.tid, patience(1000), where, sizeof(where)));
	if (variant->friends)
		EXPECT_NE(NULL, strstr(where, "tcp_friends")) TH_LOG("it waits in %s", where);
	disconnect(_metadata, self->client);
	pthread_join(r.thread, NULL);
	EXPECT_EQ(-1, r.got);
	EXPECT_EQ(EPIPE, r.err);
	EXPECT_EQ(ECONNRESET, so_error(self->client));
	close(self->server);

	self->server = connect_again(_metadata, self->client, variant->ends);
	send_pattern(_metadata, self->server, SEED, 0, 1000, 0);
	recv_pattern(_metadata, self->client, SEED, 0, 1000);
	EXPECT_CARRIED(2000);
}

/* A large write that fails at once leaves nothing behind that changes what the socket's
 * next connection does.
 */
TEST_F(close, disconnected_after_a_write)
{
	struct iovec iov = { .iov_base = "x", .iov_len = 1 };
	char control[CMSG_SPACE(sizeof(int))] = {};
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			      .msg_controllen = sizeof(control) };
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	static const char large[65536];

	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	recv_pattern(_metadata, self->server, SEED, 0, 1000);
	ASSERT_EQ(0, shutdown(self->client, SHUT_WR));
	EXPECT_EQ(-1, send(self->client, large, sizeof(large), MSG_NOSIGNAL));
	EXPECT_EQ(EPIPE, errno);
	disconnect(_metadata, self->client);
	close(self->server);
	EXPECT_EQ(0, friends_stat_becomes("pairs", 0));

	/* This connection has no friends, so that the write is TCP's alone. */
	ASSERT_EQ(0, friends_set("0"));
	self->server = connect_again(_metadata, self->client, variant->ends);
	/* This control message does not exist. */
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = 9999;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	EXPECT_EQ(-1, sendmsg(self->client, &msg, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_CARRIED(1000);
}

/*
 * End connections by @end while a writer has much to write, and a reader on the same processor
 * reads, so that the writer often waits for room. The writer ends with an error at once.
 */
static void end_under_a_writer(struct __test_metadata *_metadata, enum ends ends, bool friends,
			       void (*end)(struct __test_metadata *_metadata, int client,
					   int server))
{
	int i, client, server, rounds = scaled(20);
	uint64_t waited = friends_stat("waited");
	uint64_t state = SEED, start;
	struct stream out, in;

	run_on(_metadata, sched_getcpu());
	for (i = 0; i < rounds; i++) {
		open_connection(_metadata, ends, NULL, &client, &server);
		out = (struct stream){};
		in = (struct stream){ .check = i % 2 };
		stream_start(&out, client, true, 65536, ENDLESS);
		stream_start(&in, server, false, 65536, ENDLESS);
		usleep(20000 + prng(&state) % 5000);
		start = now_ms();
		end(_metadata, client, server);
		stream_join(_metadata, &out);
		EXPECT_GT((uint64_t)patience(1000), now_ms() - start);
		EXPECT_NE(0, out.err);
		stream_join(_metadata, &in);
		EXPECT_FALSE(in.wrong);
		close(client);
		close(server);
	}
	if (friends && !slow())
		EXPECT_LT(0U, friends_stat("waited") - waited);
}

static void end_by_reset(struct __test_metadata *_metadata, int client __maybe_unused,
			 int server)
{
	disconnect(_metadata, server);
}

static void end_by_shutdown(struct __test_metadata *_metadata, int client,
			    int server __maybe_unused)
{
	EXPECT_EQ(0, shutdown(client, SHUT_WR));
}

TEST_F(close, reset_under_a_writer)
{
	end_under_a_writer(_metadata, variant->ends, variant->friends, end_by_reset);
	EXPECT_CARRIED_ANY();
}

TEST_F(close, shut_down_under_a_writer)
{
	end_under_a_writer(_metadata, variant->ends, variant->friends, end_by_shutdown);
	EXPECT_CARRIED_ANY();
}

/* Write until a write does not write all. */
static void *write_on(void *arg)
{
	static const char buf[16384];
	struct read_once *w = arg;

	do {
		w->got = send(w->fd, buf, sizeof(buf), MSG_NOSIGNAL);
		w->err = errno;
	} while (w->got == sizeof(buf));
	return NULL;
}

/* What a writer of one connection still has to write does not go to the next one. */
TEST_F(close, disconnected_under_a_writer)
{
	const uint64_t before = friends_stat("waited");
	int i, client, server, went_on = 0, rounds = scaled(20);
	struct spinner spinner;
	struct read_once w;
	uint64_t waited, end;

	run_on(_metadata, sched_getcpu());
	for (i = 0; i < rounds; i++) {
		open_connection(_metadata, variant->ends, NULL, &client, &server);
		send_pattern(_metadata, client, SEED, 0, 65536, 0);
		wait_readable(_metadata, server, 65536);
		recv_pattern(_metadata, server, SEED, 0, 65536);
		waited = friends_stat("waited");
		spinner_start(&spinner);
		w = (struct read_once){ .fd = client };
		ASSERT_EQ(0, pthread_create(&w.thread, NULL, write_on, &w));
		end = now_ms() + patience(50);
		while (friends_stat("waited") == waited && now_ms() < end)
			usleep(200);
		disconnect(_metadata, client);
		close(server);
		server = connect_again(_metadata, client, variant->ends);
		spinner_stop(&spinner);
		went_on += wait_for(server, POLLIN, 20) != 0;
		close(server);
		pthread_join(w.thread, NULL);
		if (w.got < 0)
			EXPECT_TRUE(w.err == EPIPE || w.err == ECONNRESET);
		close(client);
	}
	/* A write may have begun just then, or waited for the socket's lock. */
	EXPECT_LE(went_on, 1 + rounds / 4);
	if (variant->friends && !slow())
		EXPECT_LT(0U, friends_stat("waited") - before);
	EXPECT_CARRIED_ANY();
}

int main(int argc, char **argv)
{
	return friends_main(argc, argv);
}
