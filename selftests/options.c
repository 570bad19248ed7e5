// SPDX-License-Identifier: GPL-2.0
/* These tests cover socket options, and the numbers that sockets report. */

#include <time.h>
#include <linux/errqueue.h>
#include <linux/filter.h>
#include <linux/net_tstamp.h>
#include <linux/sock_diag.h>
#include <linux/xfrm.h>

#include "lib/friends.h"

#define SEED	0x6f7074696f6eULL
#define MIB	1048576ULL

/* This is TCP_ESTABLISHED, whose header does not go with linux/tcp.h. */
#define ESTABLISHED	1

CONNECTION_FIXTURE(options);

static int get_int(struct __test_metadata *_metadata, int fd, int level,
		   int name)
{
	socklen_t len = sizeof(int);
	int value = -1;

	EXPECT_EQ(0, getsockopt(fd, level, name, &value, &len))
		TH_LOG("option %d of level %d: %m", name, level);
	return value;
}

static struct tcp_info info_of(int fd)
{
	struct tcp_info info = {};
	socklen_t len = sizeof(info);

	getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len);
	return info;
}

/* Wait until all is acknowledged. On the wire this takes an ACK, which may be a delayed one. */
static void wait_acked(struct __test_metadata *_metadata, int fd)
{
	uint64_t end = now_ms() + patience(1000);
	int n = -1;

	do {
		ASSERT_EQ(0, ioctl(fd, SIOCOUTQ, &n));
		if (!n)
			return;
		sleep_ms(1);
	} while (now_ms() < end);
	EXPECT_EQ(0, n);
}

static uint32_t meminfo(int fd, int which)
{
	uint32_t info[SK_MEMINFO_VARS] = {};
	socklen_t len = sizeof(info);

	getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &len);
	return info[which];
}

/* This is a connection that is opened again, with options set before the handshake. */
struct ends_anew {
	int listener;
	int client;
	union address a;
	socklen_t len;
};

static void close_ends(struct __test_metadata *_metadata, int *client,
		       int *server, struct witness *w)
{
	close(*client);
	close(*server);
	*client = -1;
	*server = -1;
	ASSERT_EQ(0, friends_stat_becomes("pairs", 0));
	witness_begin(w);
}

static struct ends_anew begin_anew(struct __test_metadata *_metadata,
				   enum ends ends)
{
	struct ends_anew e;

	e.listener = listener_for(_metadata, ends, NULL);
	e.client = socket(family_of(ends), SOCK_STREAM | SOCK_CLOEXEC, 0);
	ASSERT_GE(e.client, 0);
	e.len = address_of(&e.a, family_of(ends), localhost(ends),
			   port_of(e.listener));
	return e;
}

static void end_anew(struct __test_metadata *_metadata, struct ends_anew *e,
		     int *client, int *server)
{
	*client = e->client;
	ASSERT_EQ(0, connect(e->client, &e->a.sa, e->len));
	*server = accept4(e->listener, NULL, NULL, SOCK_CLOEXEC);
	ASSERT_GE(*server, 0);
	close(e->listener);
}

/* Stream @size bytes from @from to @to by large writes and reads at the same time. */
static void stream(struct __test_metadata *_metadata, int from, int to,
		   uint64_t size)
{
	struct half h[2];

	half_init(&h[0], from, true, SEED, size);
	half_init(&h[1], to, false, SEED, size);
	h[0].peer = to;
	h[1].peer = from;
	half_start(&h[0]);
	half_start(&h[1]);
	halves_watch(_metadata, h, 2);
	half_join(&h[0]);
	half_join(&h[1]);
	EXPECT_EQ(0, h[0].err);
	EXPECT_EQ(0, h[1].err);
	EXPECT_EQ(size, h[1].done);
	EXPECT_EQ(-1, h[1].wrong);
	half_free(&h[0]);
	half_free(&h[1]);
}

/* Write until neither end takes any more for a while. Return the number of bytes. */
static uint64_t fill(int fd, size_t chunk)
{
	static char buf[65536];
	uint64_t sent = 0;
	ssize_t n;

	do {
		for (;;) {
			pattern_fill(buf, chunk, SEED, sent);
			n = send(fd, buf, chunk, MSG_DONTWAIT | MSG_NOSIGNAL);
			if (n < 0)
				break;
			sent += n;
		}
	} while (wait_for(fd, POLLOUT, patience(AT_ONCE)));
	return sent;
}

TEST_F(options, info_counts)
{
	const struct tcp_info c0 = info_of(self->client);
	const struct tcp_info s0 = info_of(self->server);
	uint64_t there = 100 * 1000 + 300000, back = 50000;
	struct tcp_info c, s;
	int i;

	for (i = 0; i < 100; i++) {
		send_pattern(_metadata, self->client, SEED, i * 1000, 1000, 0);
		recv_pattern(_metadata, self->server, SEED, i * 1000, 1000);
	}
	stream(_metadata, self->client, self->server, 300000);
	stream(_metadata, self->server, self->client, back);
	wait_acked(_metadata, self->client);
	wait_acked(_metadata, self->server);
	c = info_of(self->client);
	s = info_of(self->server);
	if (!variant->friends && (c.tcpi_total_retrans || s.tcpi_total_retrans)) {
		TH_LOG("the wire sent segments again: its numbers say nothing");
		EXPECT_CARRIED(there + back);
		return;
	}

	EXPECT_EQ(ESTABLISHED, c.tcpi_state);
	EXPECT_EQ(ESTABLISHED, s.tcpi_state);
	EXPECT_EQ(there, c.tcpi_bytes_sent - c0.tcpi_bytes_sent);
	EXPECT_EQ(there, c.tcpi_bytes_acked - c0.tcpi_bytes_acked);
	EXPECT_EQ(there, s.tcpi_bytes_received - s0.tcpi_bytes_received);
	EXPECT_EQ(back, s.tcpi_bytes_sent - s0.tcpi_bytes_sent);
	EXPECT_EQ(back, s.tcpi_bytes_acked - s0.tcpi_bytes_acked);
	EXPECT_EQ(back, c.tcpi_bytes_received - c0.tcpi_bytes_received);
	EXPECT_EQ(0, c.tcpi_bytes_retrans);
	EXPECT_EQ(0, s.tcpi_bytes_retrans);
	EXPECT_EQ(0, c.tcpi_notsent_bytes);
	EXPECT_EQ(0, s.tcpi_notsent_bytes);
	EXPECT_EQ(0, c.tcpi_unacked);
	EXPECT_EQ(0, s.tcpi_unacked);

	/* The client writes a hundred times, and waits for the reader. */
	EXPECT_LE(100, c.tcpi_data_segs_out);
	EXPECT_LE(c.tcpi_data_segs_out, c.tcpi_segs_out);
	EXPECT_LE(s.tcpi_data_segs_in, s.tcpi_segs_in);
	EXPECT_EQ(c.tcpi_data_segs_out, s.tcpi_data_segs_in);
	EXPECT_EQ(s.tcpi_data_segs_out, c.tcpi_data_segs_in);
	EXPECT_LE(c.tcpi_data_segs_out - c0.tcpi_data_segs_out,
		  c.tcpi_delivered - c0.tcpi_delivered);
	EXPECT_LT(0, c.tcpi_snd_wnd);
	EXPECT_LT(0, c.tcpi_rcv_wnd);
	EXPECT_LT(0, c.tcpi_rtt);
	EXPECT_LT(0, s.tcpi_rtt);
	EXPECT_CARRIED(there + back);
}

/* Check which times are long ago, and which no longer are after @len bytes. */
static void info_times(struct __test_metadata *_metadata, int client,
		       int server, uint64_t pos, size_t len)
{
	struct tcp_info c, s;

	sleep_ms(300);
	c = info_of(client);
	s = info_of(server);
	EXPECT_LE(250, c.tcpi_last_data_sent);
	EXPECT_LE(250, c.tcpi_last_ack_recv);
	EXPECT_LE(250, s.tcpi_last_data_recv);

	send_pattern(_metadata, client, SEED, pos, len, 0);
	recv_pattern(_metadata, server, SEED, pos, len);
	wait_acked(_metadata, client);
	c = info_of(client);
	s = info_of(server);
	EXPECT_GE(patience(200), c.tcpi_last_data_sent);
	EXPECT_GE(patience(200), c.tcpi_last_ack_recv);
	EXPECT_GE(patience(200), s.tcpi_last_data_recv);
	/* Data was sent in one direction only. */
	EXPECT_LE(250, s.tcpi_last_data_sent);
	EXPECT_LE(250, c.tcpi_last_data_recv);
}

TEST_F(options, info_times)
{
	info_times(_metadata, self->client, self->server, 0, 1);
	info_times(_metadata, self->client, self->server, 1, 60000);
	EXPECT_CARRIED(60001);
}

/* A receiver that does not read limits the sender, and the sender reports this. */
TEST_F(options, info_limited)
{
	struct tcp_info before, after;
	uint64_t sent;

	sent = fill(self->client, 65536);
	before = info_of(self->client);
	sleep_ms(300);
	after = info_of(self->client);
	EXPECT_LE(200000, after.tcpi_busy_time - before.tcpi_busy_time);
	EXPECT_LE(200000, after.tcpi_rwnd_limited - before.tcpi_rwnd_limited);
	EXPECT_LE(after.tcpi_rwnd_limited, after.tcpi_busy_time);

	recv_pattern(_metadata, self->server, SEED, 0, sent);
	wait_acked(_metadata, self->client);
	before = info_of(self->client);
	sleep_ms(300);
	after = info_of(self->client);
	EXPECT_EQ(before.tcpi_busy_time, after.tcpi_busy_time);
	EXPECT_EQ(before.tcpi_rwnd_limited, after.tcpi_rwnd_limited);
	EXPECT_CARRIED(sent);
}

/* After a stream, the numbers from which programs choose sizes and rates are known. */
TEST_F(options, info_learnt)
{
	const uint64_t end = now_ms() + 700;
	struct tcp_info c, s;
	uint64_t sent = 0;

	do {
		stream(_metadata, self->client, self->server, MIB);
		sent += MIB;
	} while (now_ms() < end);
	c = info_of(self->client);
	s = info_of(self->server);
	EXPECT_LT(0, c.tcpi_delivery_rate);
	EXPECT_LT(0, c.tcpi_busy_time);
	EXPECT_LE(c.tcpi_busy_time, 1000ULL * patience(10000));
	EXPECT_LT(0, s.tcpi_rcv_rtt);
	/* This is the size of a segment that came, or the largest one that may come. */
	EXPECT_LE(s.tcpi_advmss < 4096 ? s.tcpi_advmss - 100 : 4096, s.tcpi_rcv_mss);
	EXPECT_CARRIED(sent);
}

/* A reader that takes 128 KiB every 20 ms gets no buffer for all that it could read in between. */
TEST_F(options, buffer_of_slow_reader)
{
	static char buf[128 * 1024];
	uint64_t sent = 0, got = 0;
	ssize_t n;
	int i;

	for (i = 0; i < 100; i++) {
		while ((n = send(self->client, buf, 65536, MSG_DONTWAIT)) > 0)
			sent += n;
		ASSERT_EQ(EAGAIN, errno);
		n = recv(self->server, buf, sizeof(buf), MSG_WAITALL);
		ASSERT_EQ((ssize_t)sizeof(buf), n);
		got += n;
		sleep_ms(20);
	}
	EXPECT_GE(8 * MIB, sent - got);
	EXPECT_GT(6 * (int)MIB, get_int(_metadata, self->server, SOL_SOCKET, SO_RCVBUF));
	EXPECT_CARRIED_ANY();
}

/* Buffers whose sizes were not set grow with their use. */
TEST_F(options, buffers_autotuned)
{
	const uint64_t size = scaled(64 * MIB);
	int rcv = get_int(_metadata, self->server, SOL_SOCKET, SO_RCVBUF);
	int snd = get_int(_metadata, self->client, SOL_SOCKET, SO_SNDBUF);

	stream(_metadata, self->client, self->server, size);
	EXPECT_LT(rcv, get_int(_metadata, self->server, SOL_SOCKET, SO_RCVBUF));
	EXPECT_LE(snd, get_int(_metadata, self->client, SOL_SOCKET, SO_SNDBUF));
	EXPECT_CARRIED(size);
}

/* Buffers whose sizes were set stay as they are, also on live connections. */
TEST_F(options, buffers_set)
{
	const uint64_t size = scaled(16 * MIB);

	set_int(_metadata, self->server, SOL_SOCKET, SO_RCVBUF, 60000);
	set_int(_metadata, self->client, SOL_SOCKET, SO_SNDBUF, 50000);
	stream(_metadata, self->client, self->server, size);
	EXPECT_EQ(120000, get_int(_metadata, self->server, SOL_SOCKET,
				  SO_RCVBUF));
	EXPECT_EQ(100000, get_int(_metadata, self->client, SOL_SOCKET,
				  SO_SNDBUF));
	EXPECT_EQ(120000, meminfo(self->server, SK_MEMINFO_RCVBUF));
	EXPECT_EQ(100000, meminfo(self->client, SK_MEMINFO_SNDBUF));
	EXPECT_CARRIED(size);
}

/* The end that has the data is charged for it. */
TEST_F(options, meminfo)
{
	send_pattern(_metadata, self->client, SEED, 0, 30000, 0);
	EXPECT_EQ(POLLIN, wait_for(self->server, POLLIN, patience(1000)));
	wait_acked(_metadata, self->client);
	EXPECT_LE(30000, meminfo(self->server, SK_MEMINFO_RMEM_ALLOC));
	EXPECT_GE(meminfo(self->server, SK_MEMINFO_RCVBUF),
		  meminfo(self->server, SK_MEMINFO_RMEM_ALLOC));
	EXPECT_EQ(0, meminfo(self->server, SK_MEMINFO_WMEM_QUEUED));
	EXPECT_EQ(0, meminfo(self->client, SK_MEMINFO_WMEM_QUEUED));
	EXPECT_EQ(0, meminfo(self->client, SK_MEMINFO_RMEM_ALLOC));
	EXPECT_EQ(0, meminfo(self->client, SK_MEMINFO_DROPS));
	EXPECT_EQ(0, meminfo(self->server, SK_MEMINFO_DROPS));
	recv_pattern(_metadata, self->server, SEED, 0, 30000);
	EXPECT_EQ(0, meminfo(self->server, SK_MEMINFO_RMEM_ALLOC));
	EXPECT_EQ(0, meminfo(self->server, SK_MEMINFO_BACKLOG));
	EXPECT_CARRIED(30000);
}

/* Receive 1000 bytes. Return the time that message @type of SOL_SOCKET gives for them, or 0. */
static time_t received_at(struct __test_metadata *_metadata, int fd,
			  uint64_t pos, int type)
{
	char buf[1000], control[256];
	struct iovec iov = { buf, sizeof(buf) };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *c;

	EXPECT_EQ(1000, recvmsg(fd, &msg, MSG_WAITALL));
	EXPECT_EQ(-1, pattern_check(buf, 1000, SEED, pos));
	for (c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == type)
			return *(time_t *)CMSG_DATA(c);
	}
	return 0;
}

/* Only the wire stamps data. Without the option, friends carry data again. */
static void timestamps(struct __test_metadata *_metadata, int client,
		       int server, int option, int value)
{
	uint64_t bytes = friends_stat("bytes"), pos = 0;
	uint64_t end = now_ms() + patience(2000);
	time_t at;
	int i;

	set_int(_metadata, server, SOL_SOCKET, option, value);
	/* The kernel begins to stamp a moment after the option is set. */
	do {
		send_pattern(_metadata, client, SEED, pos, 1000, 0);
		at = received_at(_metadata, server, pos, option);
		pos += 1000;
	} while (!at && now_ms() < end);
	for (i = 0; i < 5; i++, pos += 1000) {
		send_pattern(_metadata, client, SEED, pos, 1000, 0);
		at = received_at(_metadata, server, pos, option);
		/* time() is late by a tick. */
		EXPECT_LE(at, time(NULL) + 1);
		EXPECT_GE(at, time(NULL) - 60);
	}
	EXPECT_EQ(bytes, friends_stat("bytes"));
	set_int(_metadata, server, SOL_SOCKET, option, 0);
	wait_acked(_metadata, client);
}

TEST_F(options, timestamp)
{
	uint64_t sent = 0;

	timestamps(_metadata, self->client, self->server, SO_TIMESTAMP, 1);
	sent += talk(_metadata, self->client, self->server);
	timestamps(_metadata, self->client, self->server, SO_TIMESTAMPNS, 1);
	sent += talk(_metadata, self->client, self->server);
	EXPECT_CARRIED(sent);
}

TEST_F(options, timestamping_received)
{
	uint64_t sent;

	timestamps(_metadata, self->client, self->server, SO_TIMESTAMPING,
		   SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE);
	sent = talk(_metadata, self->client, self->server);
	EXPECT_CARRIED(sent);
}

/* Return the kind (SCM_TSTAMP_*) of the next stamp in the error queue, and its key. */
static int next_stamp(struct __test_metadata *_metadata, int fd, uint32_t *key)
{
	struct sock_extended_err *err = NULL;
	char control[512];
	struct msghdr msg = {
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *c;

	EXPECT_EQ(POLLERR, wait_for(fd, POLLERR, patience(1000)));
	if (recvmsg(fd, &msg, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
		return -1;
	for (c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if ((c->cmsg_level == IPPROTO_IP &&
		     c->cmsg_type == IP_RECVERR) ||
		    (c->cmsg_level == IPPROTO_IPV6 &&
		     c->cmsg_type == IPV6_RECVERR))
			err = (void *)CMSG_DATA(c);
	}
	ASSERT_NE(NULL, err);
	EXPECT_EQ(SO_EE_ORIGIN_TIMESTAMPING, err->ee_origin);
	*key = err->ee_data;
	return err->ee_info;
}

TEST_F(options, timestamping_sent)
{
	uint32_t key, last;
	uint64_t sent;
	int i, kinds;

	set_int(_metadata, self->client, SOL_SOCKET, SO_TIMESTAMPING,
		SOF_TIMESTAMPING_TX_SCHED | SOF_TIMESTAMPING_TX_SOFTWARE |
		SOF_TIMESTAMPING_TX_ACK | SOF_TIMESTAMPING_SOFTWARE |
		SOF_TIMESTAMPING_OPT_ID | SOF_TIMESTAMPING_OPT_TSONLY);
	for (last = 999; last < 5000; last += 1000) {
		send_pattern(_metadata, self->client, SEED, last - 999, 1000,
			     0);
		recv_pattern(_metadata, self->server, SEED, last - 999, 1000);
		for (i = kinds = 0; i < 3; i++) {
			kinds |= 1 << next_stamp(_metadata, self->client, &key);
			EXPECT_EQ(last, key);
		}
		EXPECT_EQ(1 << SCM_TSTAMP_SND | 1 << SCM_TSTAMP_SCHED |
			  1 << SCM_TSTAMP_ACK, kinds);
	}
	EXPECT_EQ(self->witness.bytes, friends_stat("bytes"));
	set_int(_metadata, self->client, SOL_SOCKET, SO_TIMESTAMPING, 0);
	wait_acked(_metadata, self->client);
	sent = talk(_metadata, self->client, self->server);
	EXPECT_CARRIED(sent);
}

/* The option is the CPU that the last data came from. On lo, this is the sender's CPU. */
TEST_F(options, incoming_cpu)
{
	int cpu;

	if (sysconf(_SC_NPROCESSORS_ONLN) < 2) {
		self->witness.told = true;
		SKIP(return, "needs two processors");
	}
	for (cpu = 0; cpu < 4; cpu++) {
		run_on(_metadata, cpu % 2);
		send_pattern(_metadata, self->client, SEED, cpu * 1000, 1000,
			     0);
		run_on(_metadata, !(cpu % 2));
		recv_pattern(_metadata, self->server, SEED, cpu * 1000, 1000);
		EXPECT_EQ(cpu % 2, get_int(_metadata, self->server, SOL_SOCKET,
					   SO_INCOMING_CPU));
	}
	EXPECT_CARRIED(4000);
}

TEST_F(options, busy_poll)
{
	uint64_t sent;

	set_int(_metadata, self->client, SOL_SOCKET, SO_BUSY_POLL, 100);
	set_int(_metadata, self->server, SOL_SOCKET, SO_BUSY_POLL, 100);
	EXPECT_EQ(100, get_int(_metadata, self->server, SOL_SOCKET,
			       SO_BUSY_POLL));
	EXPECT_EQ(0, get_int(_metadata, self->server, SOL_SOCKET,
			     SO_INCOMING_NAPI_ID));
	sent = talk(_metadata, self->client, self->server);
	stream(_metadata, self->server, self->client, MIB);
	EXPECT_CARRIED(sent + MIB);
}

/* Both ends keep to the smaller of the two sizes, also in their counters. */
TEST_F(options, maxseg)
{
	struct tcp_info before, after;
	struct ends_anew e;

	close_ends(_metadata, &self->client, &self->server, &self->witness);
	e = begin_anew(_metadata, variant->ends);
	set_int(_metadata, e.client, IPPROTO_TCP, TCP_MAXSEG, 1000);
	end_anew(_metadata, &e, &self->client, &self->server);
	EXPECT_GE(1000, get_int(_metadata, self->client, IPPROTO_TCP,
				TCP_MAXSEG));
	EXPECT_LE(900, get_int(_metadata, self->client, IPPROTO_TCP,
			       TCP_MAXSEG));
	EXPECT_EQ(get_int(_metadata, self->client, IPPROTO_TCP, TCP_MAXSEG),
		  get_int(_metadata, self->server, IPPROTO_TCP, TCP_MAXSEG));

	before = info_of(self->client);
	stream(_metadata, self->client, self->server, MIB);
	wait_acked(_metadata, self->client);
	after = info_of(self->client);
	EXPECT_LE(MIB / 1000, after.tcpi_data_segs_out -
		  before.tcpi_data_segs_out);
	EXPECT_EQ(after.tcpi_data_segs_out,
		  info_of(self->server).tcpi_data_segs_in);
	EXPECT_CARRIED(MIB);
}

/* The first window is no larger than the clamp. Data may then make TCP forget the clamp. */
TEST_F(options, window_clamp)
{
	struct ends_anew e;

	close_ends(_metadata, &self->client, &self->server, &self->witness);
	e = begin_anew(_metadata, variant->ends);
	set_int(_metadata, e.listener, IPPROTO_TCP, TCP_WINDOW_CLAMP, 16384);
	end_anew(_metadata, &e, &self->client, &self->server);
	EXPECT_EQ(16384, get_int(_metadata, self->server, IPPROTO_TCP,
				 TCP_WINDOW_CLAMP));
	EXPECT_GE(16384, info_of(self->server).tcpi_rcv_wnd);
	EXPECT_GE(16384, info_of(self->client).tcpi_snd_wnd);
	stream(_metadata, self->client, self->server, MIB);
	stream(_metadata, self->server, self->client, MIB);
	EXPECT_CARRIED(2 * MIB);
}

/*
 * The clamp is set on a live connection. It bounds what is under way, which makes the wire
 * slow. Between friends nothing is under way. In both cases, unread data grows until the
 * buffer is full.
 */
TEST_F(options, window_clamp_set_later)
{
	uint64_t sent;
	int n = -1;

	/* These buffers are small enough for a small window. */
	set_int(_metadata, self->client, SOL_SOCKET, SO_SNDBUF, 50000);
	set_int(_metadata, self->server, SOL_SOCKET, SO_RCVBUF, 100000);
	stream(_metadata, self->client, self->server, MIB);
	set_int(_metadata, self->server, IPPROTO_TCP, TCP_WINDOW_CLAMP, 16384);
	/* The window that was offered before is still open. */
	stream(_metadata, self->client, self->server, 200000);
	EXPECT_EQ(16384, get_int(_metadata, self->server, IPPROTO_TCP,
				 TCP_WINDOW_CLAMP));
	sent = fill(self->client, 1000);
	sleep_ms(patience(1000));
	ASSERT_EQ(0, ioctl(self->server, SIOCINQ, &n));
	EXPECT_LE(50000, n);
	EXPECT_GE(200000, n);
	recv_pattern(_metadata, self->server, SEED, 0, sent);
	EXPECT_CARRIED(MIB + 200000 + sent);
}

TEST_F(options, quickack)
{
	uint64_t sent = 0;
	int i;

	for (i = 0; i < 10; i++)
		sent += talk(_metadata, self->client, self->server);
	EXPECT_EQ(0, get_int(_metadata, self->server, IPPROTO_TCP,
			     TCP_QUICKACK));
	set_int(_metadata, self->server, IPPROTO_TCP, TCP_QUICKACK, 1);
	EXPECT_EQ(1, get_int(_metadata, self->server, IPPROTO_TCP,
			     TCP_QUICKACK));
	set_int(_metadata, self->server, IPPROTO_TCP, TCP_QUICKACK, 0);
	EXPECT_EQ(0, get_int(_metadata, self->server, IPPROTO_TCP,
			     TCP_QUICKACK));
	sent += talk(_metadata, self->client, self->server);
	EXPECT_CARRIED(sent);
}

static void set_congestion(struct __test_metadata *_metadata, int fd,
			   const char *control)
{
	char name[16] = "";
	socklen_t len = sizeof(name);

	ASSERT_EQ(0, setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, control,
				strlen(control)))
		TH_LOG("%s: %m", control);
	EXPECT_EQ(0, getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len));
	/* dctcp has another name where ECN was not agreed on. */
	EXPECT_EQ(0, strncmp(control, name, strlen(control)))
		TH_LOG("%s is %s", control, name);
}

/* Use each algorithm of this kernel in mid-stream at both ends, and the first one again. */
TEST_F(options, congestion)
{
	const uint64_t size = scaled(4 * MIB);
	char names[512], *name, *save;
	unsigned int set = 0;
	FILE *f;

	f = fopen("/proc/sys/net/ipv4/tcp_available_congestion_control", "r");
	ASSERT_NE(NULL, f);
	ASSERT_NE(NULL, fgets(names, sizeof(names) - 10, f));
	fclose(f);
	strcpy(strchrnul(names, '\n'), " reno");
	for (name = strtok_r(names, " ", &save); name;
	     name = strtok_r(NULL, " ", &save)) {
		set_congestion(_metadata, self->client, name);
		set_congestion(_metadata, self->server, name);
		stream(_metadata, self->client, self->server, size);
		stream(_metadata, self->server, self->client, 100000);
		set++;
	}
	EXPECT_LE(3, set);
	EXPECT_CARRIED(set * (size + 100000));
}

/* A paced sender limits itself. */
TEST_F(options, pacing_rate)
{
	uint64_t start;

	set_int(_metadata, self->client, SOL_SOCKET, SO_MAX_PACING_RATE, MIB);
	start = now_ms();
	stream(_metadata, self->client, self->server, MIB);
	EXPECT_LE(500, now_ms() - start);
	if (variant->friends)
		EXPECT_LT(0, friends_stat("wire_paced"));
	EXPECT_CARRIED_ANY();
}

/* The server returns the SYN that created it, once. */
TEST_F(options, saved_syn)
{
	unsigned char syn[256];
	socklen_t len = sizeof(syn);
	struct ends_anew e;
	uint64_t sent;
	int at;

	EXPECT_EQ(0, getsockopt(self->server, IPPROTO_TCP, TCP_SAVED_SYN, syn,
				&len));
	EXPECT_EQ(0, len);
	close_ends(_metadata, &self->client, &self->server, &self->witness);
	e = begin_anew(_metadata, variant->ends);
	set_int(_metadata, e.listener, IPPROTO_TCP, TCP_SAVE_SYN, 1);
	end_anew(_metadata, &e, &self->client, &self->server);
	sent = talk(_metadata, self->client, self->server);

	at = variant->ends == IPV6 ? 40 : 20;
	len = sizeof(syn);
	EXPECT_EQ(0, getsockopt(self->server, IPPROTO_TCP, TCP_SAVED_SYN, syn,
				&len));
	EXPECT_LE(at + 20, len);
	EXPECT_EQ(port_of(self->client), syn[at] << 8 | syn[at + 1]);
	EXPECT_EQ(port_of(self->server), syn[at + 2] << 8 | syn[at + 3]);
	len = sizeof(syn);
	EXPECT_EQ(0, getsockopt(self->server, IPPROTO_TCP, TCP_SAVED_SYN, syn,
				&len));
	EXPECT_EQ(0, len);
	EXPECT_CARRIED(sent);
}

/* Data that a filter drops comes again when the filter is removed. */
TEST_F(options, filter)
{
	struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
	struct sock_fprog prog = { .len = 1, .filter = &drop };
	int zero = 0;

	send_pattern(_metadata, self->client, 7, 0, 1000, 0);
	recv_pattern(_metadata, self->server, 7, 0, 1000);
	ASSERT_EQ(0, setsockopt(self->server, SOL_SOCKET, SO_ATTACH_FILTER,
				&prog, sizeof(prog)));
	send_pattern(_metadata, self->client, 7, 1000, 100, 0);
	EXPECT_FALSE(wait_for(self->server, POLLIN, 100));
	ASSERT_EQ(0, setsockopt(self->server, SOL_SOCKET, SO_DETACH_FILTER,
				&zero, sizeof(zero)));
	recv_pattern(_metadata, self->server, 7, 1000, 100);
	if (self->witness.friends)
		EXPECT_LT(0, fell_for("wire_filter"));
	EXPECT_CARRIED_ANY();
}

/* The server inherits the mark of the SYN. A mark that is set later is the socket's own. */
TEST_F(options, mark)
{
	struct ends_anew e;
	uint64_t sent;

	close_ends(_metadata, &self->client, &self->server, &self->witness);
	ASSERT_EQ(0, system("echo 1 >/proc/sys/net/ipv4/tcp_fwmark_accept"));
	e = begin_anew(_metadata, variant->ends);
	set_int(_metadata, e.client, SOL_SOCKET, SO_MARK, 7);
	end_anew(_metadata, &e, &self->client, &self->server);
	EXPECT_EQ(7, get_int(_metadata, self->server, SOL_SOCKET, SO_MARK));
	sent = talk(_metadata, self->client, self->server);
	set_int(_metadata, self->client, SOL_SOCKET, SO_MARK, 8);
	sent += talk(_metadata, self->client, self->server);
	EXPECT_EQ(7, get_int(_metadata, self->server, SOL_SOCKET, SO_MARK));
	EXPECT_EQ(8, get_int(_metadata, self->client, SOL_SOCKET, SO_MARK));
	EXPECT_CARRIED(sent);
}

struct option {
	int level, name, value;
};

/*
 * After an end has set @value, its data takes the wire until the end has a route again.
 * Return the number of bytes.
 */
static uint64_t new_route(struct __test_metadata *_metadata, int fd, int other,
			  bool friends, int level, int name, int value)
{
	uint64_t before = fell_for("wire_route"), sent = 0;
	int i;

	set_int(_metadata, fd, level, name, value);
	for (i = 0; i < 10; i++)
		sent += talk(_metadata, fd, other);
	if (friends)
		EXPECT_LT(before, fell_for("wire_route"))
			TH_LOG("option %d of level %d", name, level);
	return sent;
}

/* Data that is sent next has the new mark, and takes the route that the mark leads to. */
TEST_F(options, mark_set_later)
{
	uint64_t sent = talk(_metadata, self->client, self->server);

	sent += new_route(_metadata, self->client, self->server, variant->friends,
			  SOL_SOCKET, SO_MARK, 9);
	sent += new_route(_metadata, self->server, self->client, variant->friends,
			  SOL_SOCKET, SO_MARK, 10);
	EXPECT_CARRIED(sent);
}

/* Each other option that may change the route makes data take the wire, too. */
TEST_F(options, route_set_later)
{
	const struct option set[] = {
		{ SOL_SOCKET, SO_BINDTOIFINDEX, if_nametoindex("lo") },
		{ SOL_SOCKET, SO_BINDTOIFINDEX, 0 },
		{ SOL_SOCKET, SO_DONTROUTE, 1 },
		{ IPPROTO_IP, IP_TOS, 0x20 },
		{ IPPROTO_IPV6, IPV6_TCLASS, 0x20 },
	};
	uint64_t sent = talk(_metadata, self->client, self->server);
	unsigned int i, end;

	for (i = 0; i < ARRAY_SIZE(set); i++) {
		if (set[i].level == (variant->ends == IPV6 ? IPPROTO_IP : IPPROTO_IPV6))
			continue;
		for (end = 0; end < 2; end++)
			sent += new_route(_metadata, end ? self->server : self->client,
					  end ? self->client : self->server,
					  variant->friends, set[i].level, set[i].name,
					  set[i].value);
	}
	EXPECT_CARRIED(sent);
}

/* Segments that come in on lo do not find a socket that is bound to another device later. */
static void bound_later(struct __test_metadata *_metadata, int bound, int other)
{
	char c;

	ASSERT_EQ(0, system("ip link add name other type dummy && "
			    "ip link set other up"));
	ASSERT_EQ(0, setsockopt(bound, SOL_SOCKET, SO_BINDTODEVICE, "other", 6));
	send_pattern(_metadata, other, SEED, 0, 1000, 0);
	EXPECT_EQ(POLLIN | POLLERR | POLLHUP,
		  wait_for(other, POLLIN, patience(3000)));
	EXPECT_EQ(-1, recv(other, &c, 1, MSG_DONTWAIT));
	EXPECT_EQ(ECONNRESET, errno);
	EXPECT_EQ(0, wait_for(bound, POLLIN, 0));
}

TEST_F(options, receiver_bound_later)
{
	uint64_t sent = talk(_metadata, self->client, self->server);

	bound_later(_metadata, self->server, self->client);
	EXPECT_CARRIED(sent);
}

TEST_F(options, client_bound_later)
{
	uint64_t sent = talk(_metadata, self->client, self->server);

	bound_later(_metadata, self->client, self->server);
	EXPECT_CARRIED(sent);
}

/* Set an option at both ends, unless it is for another family. Each result must be @error. */
static void set_both(struct __test_metadata *_metadata, int client, int server,
		     enum ends ends, const struct option *o, int error)
{
	int end, err;

	if (o->level == (ends == IPV6 ? IPPROTO_IP : IPPROTO_IPV6))
		return;
	for (end = 0; end < 2; end++) {
		err = setsockopt(end ? server : client, o->level, o->name, &o->value,
				 sizeof(int)) ? errno : 0;
		EXPECT_EQ(error, err)
			TH_LOG("option %d of level %d: %s", o->name, o->level,
			       strerror(err));
	}
}

/* These options do not change the stream, or are refused. */
TEST_F(options, without_effect)
{
	static const struct option set[] = {
		{ SOL_SOCKET, SO_DEBUG, 1 },
		{ SOL_SOCKET, SO_REUSEADDR, 1 },
		{ SOL_SOCKET, SO_BROADCAST, 1 },
		{ SOL_SOCKET, SO_NO_CHECK, 1 },
		{ SOL_SOCKET, SO_PRIORITY, 5 },
		{ SOL_SOCKET, SO_BSDCOMPAT, 1 },
		{ SOL_SOCKET, SO_RXQ_OVFL, 1 },
		{ SOL_SOCKET, SO_WIFI_STATUS, 1 },
		{ SOL_SOCKET, SO_NOFCS, 1 },
		{ SOL_SOCKET, SO_SELECT_ERR_QUEUE, 1 },
		{ SOL_SOCKET, SO_INCOMING_CPU, 0 },
		{ SOL_SOCKET, SO_CNX_ADVICE, 1 },
		{ SOL_SOCKET, SO_PREFER_BUSY_POLL, 1 },
		{ SOL_SOCKET, SO_BUSY_POLL_BUDGET, 8 },
		{ SOL_SOCKET, SO_BUF_LOCK, SOCK_SNDBUF_LOCK | SOCK_RCVBUF_LOCK },
		{ SOL_SOCKET, 74 /* SO_TXREHASH */, 1 },
		{ SOL_SOCKET, 75 /* SO_RCVMARK */, 1 },
		{ SOL_SOCKET, 82 /* SO_RCVPRIORITY */, 1 },
		{ IPPROTO_TCP, TCP_MAXSEG, 1000 },
		{ IPPROTO_TCP, TCP_SYNCNT, 3 },
		{ IPPROTO_TCP, TCP_LINGER2, 10 },
		{ IPPROTO_TCP, TCP_DEFER_ACCEPT, 1 },
		{ IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 1 },
		{ IPPROTO_TCP, TCP_THIN_DUPACK, 1 },
		{ IPPROTO_TCP, 37 /* TCP_TX_DELAY */, 100000 },
		{ IPPROTO_TCP, 44 /* TCP_RTO_MAX_MS */, 2000 },
		{ IPPROTO_TCP, 45 /* TCP_RTO_MIN_US */, 100000 },
		{ IPPROTO_TCP, 46 /* TCP_DELACK_MAX_US */, 50000 },
		{ IPPROTO_IP, IP_TTL, 3 },
		{ IPPROTO_IP, IP_RECVERR, 1 },
		{ IPPROTO_IP, IP_FREEBIND, 1 },
		{ IPPROTO_IP, IP_TRANSPARENT, 1 },
		{ IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT },
		{ IPPROTO_IP, IP_PKTINFO, 1 },
		{ IPPROTO_IP, IP_RECVOPTS, 1 },
		{ IPPROTO_IP, IP_RETOPTS, 1 },
		{ IPPROTO_IP, IP_RECVTTL, 1 },
		{ IPPROTO_IP, IP_RECVTOS, 1 },
		{ IPPROTO_IP, IP_RECVORIGDSTADDR, 1 },
		{ IPPROTO_IP, IP_CHECKSUM, 1 },
		{ IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1 },
		{ IPPROTO_IP, IP_MULTICAST_ALL, 0 },
		{ IPPROTO_IPV6, IPV6_UNICAST_HOPS, 3 },
		{ IPPROTO_IPV6, IPV6_RECVERR, 1 },
		{ IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DONT },
		{ IPPROTO_IPV6, IPV6_MTU, 1400 },
		{ IPPROTO_IPV6, IPV6_DONTFRAG, 1 },
		{ IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, 1 },
		{ IPPROTO_IPV6, 33 /* IPV6_FLOWINFO_SEND */, 1 },
	};
	static const struct option unsupported[] = {
		{ SOL_SOCKET, SO_PASSCRED, 1 },
	};
	static const struct option invalid[] = {
		{ IPPROTO_TCP, TCP_FASTOPEN, 1 },
		{ IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1 },
		{ IPPROTO_IP, IP_MULTICAST_TTL, 3 },
		{ IPPROTO_IP, IP_RECVFRAGSIZE, 1 },
	};
	static const struct option unknown[] = {
		{ IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 3 },
	};
	uint64_t sent = talk(_metadata, self->client, self->server);
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(set); i++) {
		set_both(_metadata, self->client, self->server, variant->ends, &set[i], 0);
		sent += talk(_metadata, self->client, self->server);
	}
	for (i = 0; i < ARRAY_SIZE(unsupported); i++)
		set_both(_metadata, self->client, self->server, variant->ends,
			 &unsupported[i], EOPNOTSUPP);
	for (i = 0; i < ARRAY_SIZE(invalid); i++)
		set_both(_metadata, self->client, self->server, variant->ends,
			 &invalid[i], EINVAL);
	for (i = 0; i < ARRAY_SIZE(unknown); i++)
		set_both(_metadata, self->client, self->server, variant->ends,
			 &unknown[i], ENOPROTOOPT);
	sent += talk(_metadata, self->client, self->server);
	EXPECT_CARRIED(sent);
}

/* A receiver that asks for a larger TTL than the peer sends gets nothing, until it asks no more. */
TEST_F(options, least_ttl)
{
	const int large = 255, none = 0;
	uint64_t before;
	int fd = self->server;

	talk(_metadata, self->client, fd);
	before = friends_stat("wire_headers");
	/* One of the two options applies, or both where addresses are mapped. */
	setsockopt(fd, IPPROTO_IPV6, IPV6_MINHOPCOUNT, &large, sizeof(large));
	setsockopt(fd, IPPROTO_IP, IP_MINTTL, &large, sizeof(large));
	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	EXPECT_FALSE(wait_for(fd, POLLIN, 300));
	setsockopt(fd, IPPROTO_IPV6, IPV6_MINHOPCOUNT, &none, sizeof(none));
	setsockopt(fd, IPPROTO_IP, IP_MINTTL, &none, sizeof(none));
	recv_pattern(_metadata, fd, SEED, 0, 1000);
	if (variant->friends)
		EXPECT_LT(before, friends_stat("wire_headers"));
	EXPECT_CARRIED_ANY();
}

/*
 * Data from @from arrives. If @from is @deaf, the ACKs for the data do not reach it. Later,
 * they do.
 */
static void without_acks(struct __test_metadata *_metadata, int from, int to,
			 bool deaf)
{
	int n = -1;

	if (deaf) {
		send_pattern(_metadata, from, SEED, 0, 1000, 0);
		recv_pattern(_metadata, to, SEED, 0, 1000);
		sleep_ms(300);
		ASSERT_EQ(0, ioctl(from, SIOCOUTQ, &n));
		EXPECT_EQ(1000, n);
	} else {
		wait_acked(_metadata, from);
		sleep_ms(QUIET);
	}
}

/* A sender that asks for a larger TTL gets no ACKs meanwhile. */
TEST_F(options, least_ttl_of_sender)
{
	const int large = 255, none = 0;
	uint64_t before, sent;
	int fd = self->client;

	sent = talk(_metadata, fd, self->server);
	before = fell_for("wire_sender");
	setsockopt(fd, IPPROTO_IPV6, IPV6_MINHOPCOUNT, &large, sizeof(large));
	setsockopt(fd, IPPROTO_IP, IP_MINTTL, &large, sizeof(large));
	without_acks(_metadata, fd, self->server, true);
	setsockopt(fd, IPPROTO_IPV6, IPV6_MINHOPCOUNT, &none, sizeof(none));
	setsockopt(fd, IPPROTO_IP, IP_MINTTL, &none, sizeof(none));
	without_acks(_metadata, fd, self->server, false);
	if (variant->friends)
		EXPECT_LT(before, fell_for("wire_sender"));
	stream(_metadata, fd, self->server, MIB);
	EXPECT_CARRIED(sent + MIB);
}

/* A filter of the sender drops the ACKs. */
TEST_F(options, filter_of_sender)
{
	struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
	struct sock_fprog prog = { .len = 1, .filter = &drop };
	uint64_t before, sent;
	int fd = self->client, zero = 0;

	sent = talk(_metadata, fd, self->server);
	before = fell_for("wire_sender");
	ASSERT_EQ(0, setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog,
				sizeof(prog)));
	without_acks(_metadata, fd, self->server, true);
	ASSERT_EQ(0, setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &zero,
				sizeof(zero)));
	without_acks(_metadata, fd, self->server, false);
	if (variant->friends)
		EXPECT_LT(before, fell_for("wire_sender"));
	stream(_metadata, fd, self->server, MIB);
	EXPECT_CARRIED(sent + MIB);
}

/*
 * Set IP options that no receiver takes. For IPv4 this is a loose source route, which
 * nobody has allowed. For IPv6 it is a destination option that makes a receiver drop the
 * packet if it does not know the option.
 */
static void set_refused(struct __test_metadata *_metadata, int fd, enum ends ends,
			bool on)
{
	static const unsigned char route[] = { 0x83, 7, 4, 127, 0, 0, 1, 1 };
	static const unsigned char unknown[] = { 0, 0, 0x5e, 4, 0, 0, 0, 0 };

	const int level = ends == IPV6 ? IPPROTO_IPV6 : IPPROTO_IP;
	const int name = ends == IPV6 ? IPV6_DSTOPTS : IP_OPTIONS;

	ASSERT_EQ(0, setsockopt(fd, level, name, ends == IPV6 ? unknown : route,
				on ? sizeof(route) : 0));
}

/* Data that is sent with the options does not come, until it is sent without them. */
TEST_F(options, options_of_ip_refused)
{
	uint64_t sent = talk(_metadata, self->client, self->server);
	uint64_t before = fell_for("wire_sender");

	set_refused(_metadata, self->client, variant->ends, true);
	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	EXPECT_FALSE(wait_for(self->server, POLLIN, 300));
	set_refused(_metadata, self->client, variant->ends, false);
	recv_pattern(_metadata, self->server, SEED, 0, 1000);
	wait_acked(_metadata, self->client);
	if (variant->friends)
		EXPECT_LT(before, fell_for("wire_sender"));
	stream(_metadata, self->client, self->server, MIB);
	EXPECT_CARRIED(sent + MIB);
}

/* The receiver skips this option. Data takes the wire for as long as the option is sent. */
TEST_F(options, options_of_ip)
{
	static const unsigned char nothing[] = { 1, 1, 1, 1 };
	static const unsigned char padding[] = { 0, 0, 1, 4, 0, 0, 0, 0 };
	uint64_t sent = talk(_metadata, self->client, self->server), bytes;
	uint64_t before = fell_for("wire_sender"), heard = fell_for("wire_headers");
	bool v6 = variant->ends == IPV6;
	int i;

	for (i = 0; i < 2; i++) {
		const int fd = i ? self->server : self->client;
		const int level = v6 ? IPPROTO_IPV6 : IPPROTO_IP;
		const int name = v6 ? IPV6_DSTOPTS : IP_OPTIONS;

		ASSERT_EQ(0, setsockopt(fd, level, name, v6 ? padding : nothing,
					v6 ? sizeof(padding) : sizeof(nothing)));
		bytes = friends_stat("bytes");
		talk(_metadata, self->client, self->server);
		talk(_metadata, self->client, self->server);
		EXPECT_EQ(bytes, friends_stat("bytes"));
		ASSERT_EQ(0, setsockopt(fd, level, name, NULL, 0));
		wait_acked(_metadata, self->client);
		wait_acked(_metadata, self->server);
	}
	if (variant->friends) {
		EXPECT_LT(before, fell_for("wire_sender"));
		EXPECT_LT(heard, fell_for("wire_headers"));
	}
	sleep_ms(QUIET);
	stream(_metadata, self->client, self->server, MIB);
	EXPECT_CARRIED(sent + MIB);
}

/* Set an IPsec policy for this socket alone, which lets nothing pass, or remove the policy. */
static void set_policy(struct __test_metadata *_metadata, int fd, enum ends ends,
		       int direction, bool on)
{
	const struct xfrm_userpolicy_info block = {
		.lft = { XFRM_INF, XFRM_INF, XFRM_INF, XFRM_INF },
		.sel.family = family_of(ends),
		.dir = direction,
		.action = XFRM_POLICY_BLOCK,
	};
	const int level = ends == IPV6 ? IPPROTO_IPV6 : IPPROTO_IP;
	const int name = ends == IPV6 ? IPV6_XFRM_POLICY : IP_XFRM_POLICY;

	ASSERT_EQ(0, setsockopt(fd, level, name, on ? &block : NULL,
				on ? sizeof(block) : 0)) TH_LOG("XFRM_POLICY: %m");
}

TEST_F(options, ipsec_set_later)
{
	uint64_t sent = talk(_metadata, self->client, self->server);
	/* An IPv6 socket has no policy for what comes over IPv4. */
	const int ends = variant->ends == MAPPED ? 1 : 2;
	int i;

	for (i = 0; i < ends; i++) {
		const int fd = i ? self->server : self->client;
		const int direction = i ? XFRM_POLICY_IN : XFRM_POLICY_OUT;

		set_policy(_metadata, fd, variant->ends, direction, true);
		send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
		EXPECT_FALSE(wait_for(self->server, POLLIN, 300));
		set_policy(_metadata, fd, variant->ends, direction, false);
		recv_pattern(_metadata, self->server, SEED, 0, 1000);
		wait_acked(_metadata, self->client);
		sleep_ms(QUIET);
	}
	talk(_metadata, self->client, self->server);
	sleep_ms(QUIET);
	stream(_metadata, self->client, self->server, MIB);
	if (variant->friends)
		EXPECT_LE(self->witness.bytes + sent + MIB / 2, friends_stat("bytes"));
	EXPECT_CARRIED_ANY();
}

/* Return the number in control message @type of @level that option @name of @fd returns. */
static int told(struct __test_metadata *_metadata, int fd, int level, int name,
		int type)
{
	char control[512];
	struct msghdr msg = { .msg_control = control };
	socklen_t len = sizeof(control);
	struct cmsghdr *c;

	EXPECT_EQ(0, getsockopt(fd, level, name, control, &len))
		TH_LOG("option %d of level %d: %m", name, level);
	msg.msg_controllen = len;
	for (c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level == level && c->cmsg_type == type)
			return *(int *)CMSG_DATA(c);
	}
	return -1;
}

/*
 * IPv6 reports the hop limit and the traffic class of the last packet. At a sender, this
 * packet is the last ACK.
 */
static void told_of_last(struct __test_metadata *_metadata, int fd, int other,
			 bool friends)
{
	uint64_t bytes;
	int i, hops;

	set_int(_metadata, fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
	set_int(_metadata, fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
	bytes = friends_stat("bytes");
	for (i = 0; i < 3; i++) {
		hops = 70 + i;
		set_int(_metadata, other, IPPROTO_IPV6, IPV6_UNICAST_HOPS, hops);
		set_int(_metadata, other, IPPROTO_IPV6, IPV6_TCLASS, 0x10 + 8 * i);
		if (i < 2) {
			send_pattern(_metadata, other, SEED, 0, 1000, 0);
			recv_pattern(_metadata, fd, SEED, 0, 1000);
		} else {
			send_pattern(_metadata, fd, SEED, 0, 1000, 0);
			recv_pattern(_metadata, other, SEED, 0, 1000);
			wait_acked(_metadata, fd);
		}
		EXPECT_EQ(hops, told(_metadata, fd, IPPROTO_IPV6,
				     IPV6_2292PKTOPTIONS, IPV6_HOPLIMIT));
		EXPECT_EQ(0x10 + 8 * i, told(_metadata, fd, IPPROTO_IPV6,
					     IPV6_2292PKTOPTIONS, IPV6_TCLASS));
	}
	talk(_metadata, fd, other);
	talk(_metadata, fd, other);
	EXPECT_EQ(bytes, friends_stat("bytes"));
	set_int(_metadata, fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 0);
	set_int(_metadata, fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 0);
	if (friends) {
		EXPECT_LT(0, fell_for("wire_headers"));
		EXPECT_LT(0, fell_for("wire_sender"));
	}
}

/* IPv4 reports the TTL and the TOS of the SYN, whatever comes later. */
static void told_of_syn(struct __test_metadata *_metadata, int fd, int other)
{
	int i;

	set_int(_metadata, fd, IPPROTO_IP, IP_RECVTTL, 1);
	set_int(_metadata, fd, IPPROTO_IP, IP_RECVTOS, 1);
	for (i = 0; i < 3; i++) {
		set_int(_metadata, other, IPPROTO_IP, IP_TTL, 70 + i);
		set_int(_metadata, other, IPPROTO_IP, IP_TOS, 0x10 + 8 * i);
		send_pattern(_metadata, other, SEED, 0, 1000, 0);
		recv_pattern(_metadata, fd, SEED, 0, 1000);
		EXPECT_EQ(64, told(_metadata, fd, IPPROTO_IP, IP_PKTOPTIONS, IP_TTL));
		EXPECT_EQ(0, told(_metadata, fd, IPPROTO_IP, IP_PKTOPTIONS, IP_TOS));
	}
}

TEST_F(options, headers_told)
{
	uint64_t sent = talk(_metadata, self->client, self->server);

	if (variant->ends == IPV6) {
		told_of_last(_metadata, self->server, self->client, variant->friends);
		told_of_last(_metadata, self->client, self->server, variant->friends);
		wait_acked(_metadata, self->client);
		wait_acked(_metadata, self->server);
		sleep_ms(QUIET);
	} else {
		told_of_syn(_metadata, self->server, self->client);
	}
	stream(_metadata, self->client, self->server, MIB);
	/* No option has an effect after it is switched off. */
	EXPECT_CARRIED(sent + MIB + (variant->ends == IPV6 ? 0 : 3000));
}

/* An IPv6 socket that is connected over IPv4 can become an IPv4 socket. */
TEST_F(options, address_form)
{
	const int inet = AF_INET;
	union address a;
	socklen_t len = sizeof(a);
	uint64_t sent;

	sent = talk(_metadata, self->client, self->server);
	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	EXPECT_EQ(variant->ends == MAPPED ? 0 : -1,
		  setsockopt(self->server, IPPROTO_IPV6, IPV6_ADDRFORM, &inet,
			     sizeof(inet)));
	recv_pattern(_metadata, self->server, SEED, 0, 1000);
	ASSERT_EQ(0, getsockname(self->server, &a.sa, &len));
	EXPECT_EQ(variant->ends == IPV6 ? AF_INET6 : AF_INET, a.sa.sa_family);
	stream(_metadata, self->client, self->server, MIB);
	stream(_metadata, self->server, self->client, MIB);
	EXPECT_CARRIED(sent + 1000 + 2 * MIB);
}

/* A raw socket for TCP gets all segments, for IPv4 and IPv6. */
TEST_F(options, raw_listener)
{
	static char packet[65536];
	uint64_t before = 0;
	int raw, seen = 0;

	talk(_metadata, self->client, self->server);
	raw = socket(family_of(variant->ends), SOCK_RAW | SOCK_NONBLOCK, IPPROTO_TCP);
	ASSERT_LE(0, raw);
	before = friends_stat("wire_raw");
	talk(_metadata, self->client, self->server);
	while (recv(raw, packet, sizeof(packet), 0) > 0)
		seen++;
	/* There is at least one segment each way. */
	EXPECT_LE(2, seen);
	if (variant->friends)
		EXPECT_LE(before + 2, friends_stat("wire_raw"));
	close(raw);
	before = friends_stat("bytes");
	stream(_metadata, self->client, self->server, MIB);
	if (variant->friends)
		EXPECT_LT(before, friends_stat("bytes"));
	EXPECT_CARRIED_ANY();
}

static void set_keepalive(struct __test_metadata *_metadata, int fd)
{
	set_int(_metadata, fd, IPPROTO_TCP, TCP_KEEPIDLE, 1);
	set_int(_metadata, fd, IPPROTO_TCP, TCP_KEEPINTVL, 1);
	set_int(_metadata, fd, IPPROTO_TCP, TCP_KEEPCNT, 2);
	set_int(_metadata, fd, SOL_SOCKET, SO_KEEPALIVE, 1);
}

/* An idle peer that is alive answers. */
TEST_F(options, keepalive_idle)
{
	uint64_t sent = talk(_metadata, self->client, self->server);

	set_keepalive(_metadata, self->client);
	sleep_ms(3500);
	EXPECT_EQ(0, wait_for(self->client, POLLIN, 0));
	EXPECT_LE(2, tcp_ext("TCPKeepAlive"));
	EXPECT_GE(patience(1500), info_of(self->client).tcpi_last_ack_recv);
	EXPECT_EQ(0, info_of(self->client).tcpi_probes);
	sent += talk(_metadata, self->client, self->server);
	EXPECT_CARRIED(sent);
}

/* On a connection that is not idle no probe is sent, whichever way the data flows. */
TEST_F(options, keepalive_busy)
{
	int i;

	set_keepalive(_metadata, self->client);
	set_keepalive(_metadata, self->server);
	for (i = 0; i < 25; i++) {
		send_pattern(_metadata, self->client, SEED, i * 10, 10, 0);
		recv_pattern(_metadata, self->server, SEED, i * 10, 10);
		sleep_ms(100);
	}
	EXPECT_EQ(0, tcp_ext("TCPKeepAlive"));
	EXPECT_CARRIED(250);
}

/* A peer that does not answer is given up after 1 + 2 * 1 s. */
TEST_F(options, keepalive_dead)
{
	uint64_t sent, start;
	char c;

	sent = talk(_metadata, self->client, self->server);
	wait_acked(_metadata, self->server);
	if (system("tc qdisc add dev lo root netem loss 100% 2>/dev/null")) {
		self->witness.told = true;
		SKIP(return, "this kernel has no netem");
	}
	start = now_ms();
	set_keepalive(_metadata, self->client);
	EXPECT_EQ(POLLIN | POLLERR | POLLHUP,
		  wait_for(self->client, POLLIN, patience(8000)));
	EXPECT_LE(2500, now_ms() - start);
	EXPECT_EQ(-1, recv(self->client, &c, 1, MSG_DONTWAIT));
	EXPECT_EQ(ETIMEDOUT, errno);
	EXPECT_EQ(0, wait_for(self->server, POLLIN, 0));
	ASSERT_EQ(0, system("tc qdisc del dev lo root"));
	EXPECT_CARRIED(sent);
}

/* A peer that is alive but full is not given up, however few probes may fail. */
TEST_F(options, full_receiver_lives)
{
	uint64_t sent;

	ASSERT_EQ(0, system("echo 2 >/proc/sys/net/ipv4/tcp_retries2"));
	/* With this size, the receiver is full of the data. */
	set_int(_metadata, self->client, SOL_SOCKET, SO_SNDBUF, 50000);
	sent = fill(self->client, 65536);
	sleep_ms(4000);
	EXPECT_EQ(0, wait_for(self->client, POLLIN | POLLOUT, 0));
	EXPECT_LE(2, tcp_ext("TCPWinProbe"));
	recv_pattern(_metadata, self->server, SEED, 0, sent);
	sent += talk(_metadata, self->client, self->server);
	EXPECT_CARRIED(sent);
}

/* A little unsent data is enough to stop a writer. */
TEST_F(options, notsent_lowat)
{
	uint64_t sent;
	int n = -1;

	/* By default, the buffer has what fits the congestion window, which friends do not open. */
	set_int(_metadata, self->client, SOL_SOCKET, SO_SNDBUF, 400000);
	set_int(_metadata, self->client, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 8192);
	sent = fill(self->client, 1000);
	EXPECT_EQ(0, wait_for(self->client, POLLOUT, 0));
	ASSERT_EQ(0, ioctl(self->client, SIOCOUTQNSD, &n));
	EXPECT_LE(8192, n);
	/* TCP fills up the last skb. */
	EXPECT_GE(8192 + 65536, n);
	EXPECT_EQ(n, info_of(self->client).tcpi_notsent_bytes);
	/* With a larger limit, this data no longer stops the writer. */
	set_int(_metadata, self->client, IPPROTO_TCP, TCP_NOTSENT_LOWAT,
		1 << 20);
	EXPECT_EQ(POLLOUT, wait_for(self->client, POLLOUT, patience(AT_ONCE)));
	set_int(_metadata, self->client, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 8192);
	EXPECT_EQ(0, wait_for(self->client, POLLOUT, 0));
	recv_pattern(_metadata, self->server, SEED, 0, sent);
	EXPECT_EQ(POLLOUT, wait_for(self->client, POLLOUT, patience(1000)));
	ASSERT_EQ(0, ioctl(self->client, SIOCOUTQNSD, &n));
	EXPECT_EQ(0, n);
	EXPECT_CARRIED(sent);
}

/* The end of a record concerns only the sender. */
TEST_F(options, eor)
{
	uint64_t state = SEED, sent = 0, read = 0;
	size_t len;
	int i;

	for (i = 0; i < 200; i++) {
		len = random_size(&state, 20000);
		send_pattern(_metadata, self->client, SEED, sent, len,
			     i % 2 ? MSG_EOR : i % 5 ? 0 : MSG_MORE);
		sent += len;
		if (i % 8 != 7)
			continue;
		recv_pattern(_metadata, self->server, SEED, read, sent - read);
		read = sent;
	}
	EXPECT_CARRIED(sent);
}

#define MESSAGES	16

TEST_F(options, many_messages)
{
	struct mmsghdr msg[MESSAGES] = {};
	struct iovec iov[MESSAGES];
	char buf[MESSAGES * 700];
	int i, n;

	pattern_fill(buf, sizeof(buf), SEED, 0);
	for (i = 0; i < MESSAGES; i++) {
		iov[i].iov_base = buf + 700 * i;
		iov[i].iov_len = 700;
		msg[i].msg_hdr.msg_iov = &iov[i];
		msg[i].msg_hdr.msg_iovlen = 1;
	}
	EXPECT_EQ(MESSAGES, sendmmsg(self->client, msg, MESSAGES, 0));
	for (i = 0; i < MESSAGES; i++)
		EXPECT_EQ(700, msg[i].msg_len);
	memset(buf, 0, sizeof(buf));
	/* Receive all messages but the last, then what there is, which is one message. */
	EXPECT_EQ(MESSAGES - 1, recvmmsg(self->server, msg, MESSAGES - 1,
					 MSG_WAITALL, NULL));
	n = recvmmsg(self->server, msg + MESSAGES - 1, 1, MSG_WAITFORONE, NULL);
	EXPECT_EQ(1, n);
	for (i = 0; i < MESSAGES; i++)
		EXPECT_EQ(700, msg[i].msg_len);
	EXPECT_EQ(-1, pattern_check(buf, sizeof(buf), SEED, 0));
	EXPECT_EQ(-1, recvmmsg(self->server, msg, MESSAGES, MSG_DONTWAIT,
			       NULL));
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_CARRIED(sizeof(buf));
}

/* Set a key for what @fd exchanges with localhost. */
static int set_md5(int fd, enum ends ends, bool listener, const char *key)
{
	struct tcp_md5sig md5 = { .tcpm_keylen = strlen(key) };
	const char *host = localhost(ends);
	int family = family_of(ends);
	union address a;
	socklen_t len;

	if (ends == MAPPED && listener) {
		host = "::ffff:127.0.0.1";
		family = AF_INET6;
	}
	len = address_of(&a, family, host, 0);
	memcpy(&md5.tcpm_addr, &a, len);
	memcpy(md5.tcpm_key, key, strlen(key));
	return setsockopt(fd, IPPROTO_TCP, TCP_MD5SIG, &md5, sizeof(md5));
}

/* Signed segments take the wire. */
TEST_F(options, md5)
{
	struct ends_anew e;

	close_ends(_metadata, &self->client, &self->server, &self->witness);
	e = begin_anew(_metadata, variant->ends);
	if (set_md5(e.listener, variant->ends, true, "secret")) {
		self->witness.told = true;
		SKIP(return, "this kernel has no TCP_MD5SIG");
	}
	ASSERT_EQ(0, set_md5(e.client, variant->ends, false, "secret"));
	end_anew(_metadata, &e, &self->client, &self->server);
	talk(_metadata, self->client, self->server);
	stream(_metadata, self->server, self->client, MIB);
	EXPECT_EQ(self->witness.pairs_total, friends_stat("pairs_total"));
	EXPECT_CARRIED(0);
}

/* A peer that does not know the key of a live connection is ignored. */
TEST_F(options, md5_set_later)
{
	uint64_t sent = talk(_metadata, self->client, self->server);

	if (set_md5(self->server, variant->ends, true, "secret")) {
		self->witness.told = true;
		SKIP(return, "this kernel has no TCP_MD5SIG");
	}
	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	EXPECT_EQ(0, wait_for(self->server, POLLIN, patience(AT_ONCE)));
	ASSERT_EQ(0, set_md5(self->client, variant->ends, false, "secret"));
	/* The next retransmission is signed. */
	recv_pattern(_metadata, self->server, SEED, 0, 1000);
	stream(_metadata, self->server, self->client, MIB);
	EXPECT_CARRIED(sent);
}

enum { NO_QUEUE, RECV_QUEUE, SEND_QUEUE };

static uint32_t queue_seq(struct __test_metadata *_metadata, int fd, int queue)
{
	set_int(_metadata, fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, queue);
	return get_int(_metadata, fd, IPPROTO_TCP, TCP_QUEUE_SEQ);
}

static struct tcp_repair_window repair_window(struct __test_metadata *_metadata,
					      int fd)
{
	struct tcp_repair_window w = {};
	socklen_t len = sizeof(w);

	EXPECT_EQ(0, getsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, &len));
	return w;
}

/* Check that the numbers that both ends report agree. */
static void compare_ends(struct __test_metadata *_metadata, int a, int b)
{
	struct tcp_repair_window w = repair_window(_metadata, a);
	struct tcp_repair_window v = repair_window(_metadata, b);
	uint32_t nxt = queue_seq(_metadata, b, SEND_QUEUE);

	EXPECT_EQ(nxt, queue_seq(_metadata, a, RECV_QUEUE));
	EXPECT_GE(0, (int32_t)(w.rcv_wup - nxt));
	/* The sender assumes no more window than the receiver offers. */
	EXPECT_GE(0, (int32_t)(nxt + v.snd_wnd - w.rcv_wup - w.rcv_wnd));
	EXPECT_LT(0, v.snd_wnd);
	EXPECT_LE(v.snd_wnd, v.max_window);
}

/* TCP_REPAIR looks into a live connection, which goes on after this. */
TEST_F(options, repair)
{
	uint64_t sent = talk(_metadata, self->client, self->server);
	char buf[3000];

	send_pattern(_metadata, self->server, SEED, 0, 2000, 0);
	EXPECT_EQ(POLLIN, wait_for(self->client, POLLIN, patience(1000)));
	wait_acked(_metadata, self->server);
	EXPECT_CARRIED(sent + 2000);

	if (setsockopt(self->client, IPPROTO_TCP, TCP_REPAIR, &(int){ 1 },
		       sizeof(int)))
		SKIP(return, "this kernel has no TCP_REPAIR");
	set_int(_metadata, self->server, IPPROTO_TCP, TCP_REPAIR, 1);
	compare_ends(_metadata, self->client, self->server);
	compare_ends(_metadata, self->server, self->client);
	set_int(_metadata, self->client, IPPROTO_TCP, TCP_REPAIR_QUEUE,
		RECV_QUEUE);
	EXPECT_EQ(2000, recv(self->client, buf, sizeof(buf),
			     MSG_PEEK | MSG_DONTWAIT));
	EXPECT_EQ(-1, pattern_check(buf, 2000, SEED, 0));
	set_int(_metadata, self->server, IPPROTO_TCP, TCP_REPAIR, -1);
	set_int(_metadata, self->client, IPPROTO_TCP, TCP_REPAIR, 0);

	recv_pattern(_metadata, self->client, SEED, 0, 2000);
	talk(_metadata, self->client, self->server);
	stream(_metadata, self->client, self->server, MIB);
	stream(_metadata, self->server, self->client, MIB);
	EXPECT_EQ(0, friends_stat("pairs"));
}

struct checkpoint {
	union address local;
	union address remote;
	socklen_t len;
	uint32_t seq[3];
	struct tcp_repair_window window;
	struct tcp_repair_opt option[4];
	int stamp;
	char unread[3000];
	ssize_t left;
};

/* Take the connection off @fd, without a segment to the other end. */
static void checkpoint(struct __test_metadata *_metadata, int fd,
		       struct checkpoint *c)
{
	struct tcp_info info = info_of(fd);
	const struct tcp_repair_opt option[4] = {
		/* MSS, window scale, SACK, time stamps */
		{ 2, get_int(_metadata, fd, IPPROTO_TCP, TCP_MAXSEG) },
		{ 3, info.tcpi_snd_wscale | info.tcpi_rcv_wscale << 16 },
		{ 4, 0 },
		{ 8, 0 },
	};

	memcpy(c->option, option, sizeof(option));
	set_int(_metadata, fd, IPPROTO_TCP, TCP_REPAIR, 1);
	c->len = sizeof(c->local);
	ASSERT_EQ(0, getsockname(fd, &c->local.sa, &c->len));
	ASSERT_EQ(0, getpeername(fd, &c->remote.sa, &c->len));
	c->seq[SEND_QUEUE] = queue_seq(_metadata, fd, SEND_QUEUE);
	c->seq[RECV_QUEUE] = queue_seq(_metadata, fd, RECV_QUEUE);
	c->window = repair_window(_metadata, fd);
	c->stamp = get_int(_metadata, fd, IPPROTO_TCP, TCP_TIMESTAMP);
	c->left = recv(fd, c->unread, sizeof(c->unread),
		       MSG_PEEK | MSG_DONTWAIT);
	ASSERT_GE(c->left, 0);
	close(fd);
}

static int restore(struct __test_metadata *_metadata,
		   const struct checkpoint *c)
{
	int fd = socket(c->local.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ASSERT_GE(fd, 0);
	set_int(_metadata, fd, IPPROTO_TCP, TCP_REPAIR, 1);
	ASSERT_EQ(0, bind(fd, &c->local.sa, c->len));
	set_int(_metadata, fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, SEND_QUEUE);
	set_int(_metadata, fd, IPPROTO_TCP, TCP_QUEUE_SEQ, c->seq[SEND_QUEUE]);
	set_int(_metadata, fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, RECV_QUEUE);
	set_int(_metadata, fd, IPPROTO_TCP, TCP_QUEUE_SEQ,
		c->seq[RECV_QUEUE] - c->left);
	ASSERT_EQ(0, connect(fd, &c->remote.sa, c->len));
	ASSERT_EQ(0, setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, c->option,
				sizeof(c->option)));
	set_int(_metadata, fd, IPPROTO_TCP, TCP_TIMESTAMP, c->stamp);
	ASSERT_EQ(c->left, send(fd, c->unread, c->left, 0));
	ASSERT_EQ(0, setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &c->window,
				sizeof(c->window)));
	set_int(_metadata, fd, IPPROTO_TCP, TCP_REPAIR, 0);
	return fd;
}

/* The connection moves to another socket, and the other end does not see this. */
TEST_F(options, repair_and_restore)
{
	uint64_t sent = talk(_metadata, self->client, self->server);
	struct checkpoint c;

	send_pattern(_metadata, self->server, SEED, 0, 2000, 0);
	EXPECT_EQ(POLLIN, wait_for(self->client, POLLIN, patience(1000)));
	wait_acked(_metadata, self->server);
	wait_acked(_metadata, self->client);
	EXPECT_CARRIED(sent + 2000);

	checkpoint(_metadata, self->client, &c);
	EXPECT_EQ(2000, c.left);
	self->client = restore(_metadata, &c);
	EXPECT_EQ(0, wait_for(self->server, POLLIN, QUIET));
	recv_pattern(_metadata, self->client, SEED, 0, 2000);
	talk(_metadata, self->client, self->server);
	stream(_metadata, self->client, self->server, MIB);
	stream(_metadata, self->server, self->client, MIB);
	EXPECT_EQ(0, friends_stat("pairs"));
}

int main(int argc, char **argv)
{
	return friends_main(argc, argv);
}
