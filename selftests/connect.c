// SPDX-License-Identifier: GPL-2.0
/*
 * These tests cover the many ways to become connected. Each ends with two ends
 * that talk.
 */

#include "lib/friends.h"

#define SEED	0x7365747570ULL

FIXTURE(connect) {
	struct witness witness;
};

FIXTURE_VARIANT(connect) {
	enum ends ends;
	bool friends;
};

FIXTURE_VARIANT_ADD(connect, ipv4_wire) {
	.ends = IPV4,
};
FIXTURE_VARIANT_ADD(connect, ipv4_friends) {
	.ends = IPV4,
	.friends = true,
};
FIXTURE_VARIANT_ADD(connect, ipv6_wire) {
	.ends = IPV6,
};
FIXTURE_VARIANT_ADD(connect, ipv6_friends) {
	.ends = IPV6,
	.friends = true,
};

FIXTURE_SETUP(connect)
{
	self->witness.friends = variant->friends;
	self->witness.told = false;
	if (!enter_netns(_metadata, variant->friends))
		return;
	witness_begin(&self->witness);
}

FIXTURE_TEARDOWN(connect)
{
	if (self->witness.friends)
		friends_tell();
	if (_metadata->exit_code)
		return;
	EXPECT_TRUE(self->witness.told)
		TH_LOG("the test did not say what friends should carry");
	EXPECT_EQ(0, friends_stat_becomes("pairs", 0))
		TH_LOG("pairs are left when all is closed");
}

/* Check that there are @n pairs, or none on the wire. */
static void expect_pairs(struct __test_metadata *_metadata,
			 const struct witness *w, uint64_t n)
{
	EXPECT_EQ(w->friends ? n : 0,
		  friends_stat_becomes("pairs", w->friends ? n : 0))
		friends_print();
}

#define EXPECT_PAIRS(n) expect_pairs(_metadata, &self->witness, n)

static uint64_t talk_often(struct __test_metadata *_metadata, int client,
			   int server, int n)
{
	uint64_t sent = 0;

	while (n--)
		sent += talk(_metadata, client, server);
	return sent;
}

static int accept_one(struct __test_metadata *_metadata, int listener)
{
	int fd;

	EXPECT_EQ(POLLIN, wait_for(listener, POLLIN, patience(5000)));
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	ASSERT_GE(fd, 0) TH_LOG("accept: %m");
	return fd;
}

static int socket_for(struct __test_metadata *_metadata, enum ends ends)
{
	int fd = socket(family_of(ends), SOCK_STREAM | SOCK_CLOEXEC, 0);

	ASSERT_GE(fd, 0);
	return fd;
}

static int connect_again(int fd, enum ends ends, int port)
{
	union address a;
	socklen_t len = address_of(&a, family_of(ends), localhost(ends), port);

	return connect(fd, &a.sa, len);
}

/* Begin to connect a client, and do not wait for the connection. */
static int begin_connect(struct __test_metadata *_metadata, enum ends ends,
			 int port)
{
	int fd = socket_for(_metadata, ends);

	fcntl(fd, F_SETFL, O_NONBLOCK);
	EXPECT_EQ(-1, connect_again(fd, ends, port));
	EXPECT_EQ(EINPROGRESS, errno);
	return fd;
}

static void end_connect(struct __test_metadata *_metadata, int fd)
{
	socklen_t len = sizeof(int);
	int err = -1;

	EXPECT_EQ(POLLOUT, wait_for(fd, POLLIN | POLLOUT, patience(5000)));
	EXPECT_EQ(0, getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len));
	EXPECT_EQ(0, err);
	fcntl(fd, F_SETFL, 0);
}

static void set_sysctl(struct __test_metadata *_metadata, const char *name,
		       const char *value)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/net/%s", name);
	fd = open(path, O_WRONLY);
	ASSERT_GE(fd, 0) TH_LOG("%s: %m", path);
	ASSERT_EQ((ssize_t)strlen(value), write(fd, value, strlen(value)));
	close(fd);
}

/*
 * Delay lo by @ms, so that things that otherwise coincide happen one after the
 * other. Return false for a skip.
 */
static bool slow_lo(int ms)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd),
		 "tc qdisc add dev lo root netem delay %dms 2>/dev/null", ms);
	return !system(cmd);
}

static void fast_lo(struct __test_metadata *_metadata)
{
	ASSERT_EQ(0, system("tc qdisc del dev lo root"));
}

TEST_F(connect, connect_without_waiting)
{
	int listener = listener_for(_metadata, variant->ends, NULL);
	int port = port_of(listener), client, server;
	uint64_t sent;

	client = begin_connect(_metadata, variant->ends, port);
	EXPECT_EQ(POLLOUT, wait_for(client, POLLOUT, patience(1000)));
	EXPECT_EQ(0, connect_again(client, variant->ends, port));
	EXPECT_EQ(-1, connect_again(client, variant->ends, port));
	EXPECT_EQ(EISCONN, errno);
	end_connect(_metadata, client);
	server = accept_one(_metadata, listener);
	EXPECT_PAIRS(1);
	sent = talk(_metadata, client, server);
	EXPECT_CARRIED(sent);
	close(client);
	close(server);
	close(listener);
}

/* A writer waits for the end of the handshake, or gets EAGAIN. */
TEST_F(connect, write_while_connecting)
{
	int listener = listener_for(_metadata, variant->ends, NULL);
	int client, server;
	uint64_t sent;

	if (!slow_lo(100)) {
		self->witness.told = true;
		SKIP(return, "this kernel has no netem");
	}
	client = begin_connect(_metadata, variant->ends, port_of(listener));
	EXPECT_EQ(-1, connect_again(client, variant->ends, port_of(listener)));
	EXPECT_EQ(EALREADY, errno);
	EXPECT_EQ(-1, send(client, "", 1, MSG_NOSIGNAL));
	EXPECT_EQ(EAGAIN, errno);
	fcntl(client, F_SETFL, 0);
	send_pattern(_metadata, client, SEED, 0, 1000, 0);
	server = accept_one(_metadata, listener);
	fast_lo(_metadata);
	recv_pattern(_metadata, server, SEED, 0, 1000);
	EXPECT_PAIRS(1);
	sent = 1000 + talk_often(_metadata, client, server, 5);
	EXPECT_CARRIED(sent);
	close(client);
	close(server);
	close(listener);
}

/* A socket that was refused once may try again. */
TEST_F(connect, refused)
{
	int listener = listener_for(_metadata, variant->ends, NULL);
	int nobody = port_of(listener), client, server;
	socklen_t len = sizeof(int);
	uint64_t sent;
	int err = 0;

	close(listener);
	client = begin_connect(_metadata, variant->ends, nobody);
	EXPECT_EQ(POLLOUT | POLLERR | POLLHUP,
		  wait_for(client, POLLOUT, patience(1000)));
	EXPECT_EQ(0, getsockopt(client, SOL_SOCKET, SO_ERROR, &err, &len));
	EXPECT_EQ(ECONNREFUSED, err);
	EXPECT_EQ(0, getsockopt(client, SOL_SOCKET, SO_ERROR, &err, &len));
	EXPECT_EQ(0, err);

	listener = listener_for(_metadata, variant->ends, NULL);
	/* The first call returns the rest of the first attempt. */
	EXPECT_EQ(-1, connect_again(client, variant->ends, port_of(listener)));
	EXPECT_EQ(ECONNABORTED, errno);
	EXPECT_EQ(-1, connect_again(client, variant->ends, port_of(listener)));
	EXPECT_EQ(EINPROGRESS, errno);
	end_connect(_metadata, client);
	server = accept_one(_metadata, listener);
	EXPECT_PAIRS(1);
	sent = talk(_metadata, client, server);
	EXPECT_CARRIED(sent);
	close(client);
	close(server);
	close(listener);
}

/* A backlog of 1 has room for two. The third SYN has to come again. */
TEST_F(connect, full_backlog)
{
	int listener = listener_for(_metadata, variant->ends, NULL);
	int client[3], server[3], i;
	uint64_t sent = 0;

	ASSERT_EQ(0, listen(listener, 1));
	for (i = 0; i < 2; i++) {
		client[i] = client_for(_metadata, variant->ends, listener,
				       NULL);
		send_pattern(_metadata, client[i], SEED, 0, 1000, 0);
	}
	client[2] = begin_connect(_metadata, variant->ends, port_of(listener));
	EXPECT_EQ(0, wait_for(client[2], POLLOUT, QUIET));
	EXPECT_PAIRS(2);
	for (i = 0; i < 3; i++) {
		server[i] = accept_one(_metadata, listener);
		if (i < 2)
			recv_pattern(_metadata, server[i], SEED, 0, 1000);
		else
			end_connect(_metadata, client[i]);
		sent += i < 2 ? 1000 : 0;
	}
	EXPECT_PAIRS(3);
	for (i = 0; i < 3; i++)
		sent += talk(_metadata, client[i], server[i]);
	EXPECT_CARRIED(sent);
	for (i = 0; i < 3; i++) {
		close(client[i]);
		close(server[i]);
	}
	close(listener);
}

static int peer_port(int fd)
{
	union address a;
	socklen_t len = sizeof(a);

	return getpeername(fd, &a.sa, &len) ? -1 : ntohs(a.in.sin_port);
}

/*
 * Three handshakes run at once, for a backlog of one. All clients are
 * connected, but two servers are not, and take no data until there is room for
 * them.
 */
TEST_F(connect, overflowing_backlog)
{
	int listener = listener_for(_metadata, variant->ends, NULL);
	int client[3], server[3], i, j;
	uint64_t sent = 0;

	if (!slow_lo(100)) {
		self->witness.told = true;
		SKIP(return, "this kernel has no netem");
	}
	ASSERT_EQ(0, listen(listener, 0));
	for (i = 0; i < 3; i++)
		client[i] = begin_connect(_metadata, variant->ends,
					  port_of(listener));
	for (i = 0; i < 3; i++) {
		end_connect(_metadata, client[i]);
		send_pattern(_metadata, client[i], SEED + i, 0, 1000, 0);
		sent += 1000;
	}
	/*
	 * The last segments of the handshakes, and the data, have come by now,
	 * or not.
	 */
	sleep_ms(300);
	fast_lo(_metadata);
	EXPECT_LE(1, tcp_ext("ListenOverflows"));
	EXPECT_PAIRS(1);

	for (i = 0; i < 3; i++) {
		server[i] = accept_one(_metadata, listener);
		for (j = 0; j < 3; j++) {
			if (peer_port(server[i]) == port_of(client[j]))
				break;
		}
		ASSERT_LT(j, 3);
		recv_pattern(_metadata, server[i], SEED + j, 0, 1000);
		sent += talk_often(_metadata, client[j], server[i], 6);
	}
	EXPECT_PAIRS(3);
	EXPECT_CARRIED(sent);
	for (i = 0; i < 3; i++) {
		close(client[i]);
		close(server[i]);
	}
	close(listener);
}

/* The client has connected and closed before it is accepted. */
TEST_F(connect, closed_before_accept)
{
	int listener = listener_for(_metadata, variant->ends, NULL);
	int client, server;

	client = client_for(_metadata, variant->ends, listener, NULL);
	send_pattern(_metadata, client, SEED, 0, 20000, 0);
	close(client);
	sleep_ms(QUIET);
	server = accept_one(_metadata, listener);
	recv_pattern(_metadata, server, SEED, 0, 20000);
	expect_eof(_metadata, server);
	EXPECT_CARRIED(20000);
	close(server);
	close(listener);
}

/* Data from before the reset can be read. Then the error comes, once. */
TEST_F(connect, reset_before_accept)
{
	int listener = listener_for(_metadata, variant->ends, NULL);
	int client, server;
	char c;

	client = client_for(_metadata, variant->ends, listener, NULL);
	send_pattern(_metadata, client, SEED, 0, 1000, 0);
	abort_connection(client);
	sleep_ms(QUIET);
	server = accept_one(_metadata, listener);
	recv_pattern(_metadata, server, SEED, 0, 1000);
	EXPECT_EQ(-1, recv(server, &c, 1, MSG_DONTWAIT));
	EXPECT_EQ(ECONNRESET, errno);
	EXPECT_EQ(0, recv(server, &c, 1, MSG_DONTWAIT));
	EXPECT_CARRIED(1000);
	close(server);
	close(listener);
}

/* No socket exists for a connection without data. */
TEST_F(connect, defer_accept)
{
	int listener = listener_for(_metadata, variant->ends, NULL);
	int client, server;
	char buf[2000];
	uint64_t sent;

	set_int(_metadata, listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, 30);
	client = client_for(_metadata, variant->ends, listener, NULL);
	EXPECT_EQ(0, wait_for(listener, POLLIN, QUIET));
	EXPECT_PAIRS(0);
	send_pattern(_metadata, client, SEED, 0, 1000, 0);
	server = accept_one(_metadata, listener);
	EXPECT_PAIRS(1);
	EXPECT_EQ(1000, recv(server, buf, sizeof(buf), MSG_DONTWAIT));
	EXPECT_EQ(-1, pattern_check(buf, 1000, SEED, 0));
	sent = 1000 + talk_often(_metadata, client, server, 5);
	EXPECT_CARRIED(sent);
	close(client);
	close(server);
	close(listener);
}

/* A socket exists in the end, even without data. */
TEST_F(connect, defer_accept_timeout)
{
	int listener = listener_for(_metadata, variant->ends, NULL);
	int client, server;
	uint64_t sent;

	set_int(_metadata, listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, 1);
	client = client_for(_metadata, variant->ends, listener, NULL);
	EXPECT_EQ(0, wait_for(listener, POLLIN, QUIET));
	server = accept_one(_metadata, listener);
	EXPECT_PAIRS(1);
	sent = talk(_metadata, client, server);
	EXPECT_CARRIED(sent);
	close(client);
	close(server);
	close(listener);
}

static int fast_listener(struct __test_metadata *_metadata, enum ends ends)
{
	int fd = listener_for(_metadata, ends, NULL);

	set_sysctl(_metadata, "ipv4/tcp_fastopen", "3");
	set_int(_metadata, fd, IPPROTO_TCP, TCP_FASTOPEN, 16);
	return fd;
}

/*
 * Connect, with @len bytes of SEED in the SYN if the server's cookie is known.
 * Wait for the answer unless @flags say otherwise.
 */
static int fast_client(struct __test_metadata *_metadata, enum ends ends,
		       int listener, size_t len, int flags)
{
	int fd = socket_for(_metadata, ends);
	char buf[1000];
	union address a;
	socklen_t alen = address_of(&a, family_of(ends), localhost(ends),
				    port_of(listener));

	pattern_fill(buf, len, SEED, 0);
	EXPECT_EQ((ssize_t)len, sendto(fd, buf, len, flags | MSG_FASTOPEN,
				       &a.sa, alen)) TH_LOG("sendto: %m");
	return fd;
}

/* Return whether the SYN carried data. */
static bool syn_had_data(int fd)
{
	struct tcp_info info = {};
	socklen_t len = sizeof(info);

	getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len);
	return info.tcpi_options & TCPI_OPT_SYN_DATA;
}

static void get_cookie(struct __test_metadata *_metadata, enum ends ends,
		       int listener)
{
	int client = fast_client(_metadata, ends, listener, 1000, 0);
	int server = accept_one(_metadata, listener);

	recv_pattern(_metadata, server, SEED, 0, 1000);
	EXPECT_FALSE(syn_had_data(client));
	close(client);
	expect_eof(_metadata, server);
	close(server);
	EXPECT_EQ(0, friends_stat_becomes("pairs", 0));
}

TEST_F(connect, fastopen)
{
	int listener = fast_listener(_metadata, variant->ends);
	int client[2], server[2], i;
	uint64_t sent = 0;

	for (i = 0; i < 2; i++) {
		client[i] = fast_client(_metadata, variant->ends, listener,
					1000, 0);
		server[i] = accept_one(_metadata, listener);
		recv_pattern(_metadata, server[i], SEED, 0, 1000);
		EXPECT_EQ(i, syn_had_data(client[i]));
		EXPECT_EQ(i, syn_had_data(server[i]));
		EXPECT_PAIRS(i + 1);
		sent += talk_often(_metadata, client[i], server[i], 5);
	}
	/* The first bytes went with the SYN, or when it was answered. */
	EXPECT_CARRIED(sent + 1000);
	for (i = 0; i < 2; i++) {
		close(client[i]);
		close(server[i]);
	}
	close(listener);
}

/* The client uses connect() and write(), and the SYN waits for the write. */
TEST_F(connect, fastopen_connect)
{
	int listener = fast_listener(_metadata, variant->ends);
	int client, server;
	uint64_t sent;

	get_cookie(_metadata, variant->ends, listener);
	witness_begin(&self->witness);
	client = socket_for(_metadata, variant->ends);
	set_int(_metadata, client, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1);
	EXPECT_EQ(0, connect_again(client, variant->ends, port_of(listener)));
	EXPECT_EQ(0, wait_for(listener, POLLIN, QUIET));
	send_pattern(_metadata, client, SEED, 0, 1000, 0);
	server = accept_one(_metadata, listener);
	recv_pattern(_metadata, server, SEED, 0, 1000);
	EXPECT_TRUE(syn_had_data(client));
	EXPECT_PAIRS(1);
	sent = talk_often(_metadata, client, server, 5);
	EXPECT_CARRIED(sent);
	close(client);
	close(server);
	close(listener);
}

/* The server reads and answers before it knows that the client exists. */
TEST_F(connect, fastopen_answer_in_handshake)
{
	int listener = fast_listener(_metadata, variant->ends);
	int client, server;
	uint64_t sent;

	get_cookie(_metadata, variant->ends, listener);
	if (!slow_lo(200)) {
		self->witness.told = true;
		SKIP(return, "this kernel has no netem");
	}
	witness_begin(&self->witness);
	client = fast_client(_metadata, variant->ends, listener, 1000,
			     MSG_DONTWAIT);
	server = accept_one(_metadata, listener);
	send_pattern(_metadata, server, SEED, 0, 3000, 0);
	recv_pattern(_metadata, server, SEED, 0, 1000);
	send_pattern(_metadata, server, SEED, 3000, 3000, 0);
	recv_pattern(_metadata, client, SEED, 0, 6000);
	fast_lo(_metadata);
	EXPECT_TRUE(syn_had_data(client));
	EXPECT_PAIRS(1);
	/* Slow ACKs may still be under way. */
	sleep_ms(300);
	sent = talk_often(_metadata, client, server, 8);
	/* Nagle may have kept the rest of the answer until the ACKs came. */
	EXPECT_CARRIED(sent + 6000);
	close(client);
	close(server);
	close(listener);
}

/* The client connects, writes and closes at once. */
TEST_F(connect, fastopen_and_close)
{
	int listener = fast_listener(_metadata, variant->ends);
	unsigned int n = scaled(200), i;
	int client, server;

	get_cookie(_metadata, variant->ends, listener);
	for (i = 0; i < n; i++) {
		client = fast_client(_metadata, variant->ends, listener,
				     1 + i % 1000, i % 2 ? MSG_DONTWAIT : 0);
		if (i % 3 == 1)
			send_pattern(_metadata, client, SEED, 1 + i % 1000,
				     5000, 0);
		close(client);
		server = accept_one(_metadata, listener);
		recv_pattern(_metadata, server, SEED, 0,
			     1 + i % 1000 + (i % 3 == 1 ? 5000 : 0));
		expect_eof(_metadata, server);
		close(server);
	}
	/* The SYNs carried most of the data. */
	EXPECT_CARRIED_ANY();
	close(listener);
}

/* The server's socket is created by the handshake's last segment alone. */
TEST_F(connect, syn_cookies)
{
	int listener = listener_for(_metadata, variant->ends, NULL);
	uint64_t sent = 0, cookies = tcp_ext("SyncookiesRecv");
	int client[10], server[10], i;

	set_sysctl(_metadata, "ipv4/tcp_syncookies", "2");
	for (i = 0; i < 10; i++) {
		client[i] = client_for(_metadata, variant->ends, listener,
				       NULL);
		if (i % 2) {
			send_pattern(_metadata, client[i], SEED, 0, 1000, 0);
			sent += 1000;
		}
		server[i] = accept_one(_metadata, listener);
		if (i % 2)
			recv_pattern(_metadata, server[i], SEED, 0, 1000);
		sent += talk(_metadata, client[i], server[i]);
	}
	EXPECT_EQ(cookies + 10, tcp_ext("SyncookiesRecv"));
	EXPECT_PAIRS(10);
	EXPECT_CARRIED(sent);
	for (i = 0; i < 10; i++) {
		close(client[i]);
		close(server[i]);
	}
	close(listener);
}

/*
 * Whichever listener of a group gets a connection, the right two ends become
 * friends.
 */
TEST_F(connect, reuseport)
{
	int listener[3], client[40], server[40], got[3] = {}, i, j;
	uint64_t sent = 0;
	union address a;
	socklen_t len;

	len = address_of(&a, family_of(variant->ends),
			 localhost(variant->ends), 0);
	for (i = 0; i < 3; i++) {
		listener[i] = socket_for(_metadata, variant->ends);
		set_int(_metadata, listener[i], SOL_SOCKET, SO_REUSEPORT, 1);
		ASSERT_EQ(0, bind(listener[i], &a.sa, len));
		ASSERT_EQ(0, listen(listener[i], 128));
		ASSERT_EQ(0, getsockname(listener[i], &a.sa, &len));
	}
	for (i = 0; i < 40; i++) {
		client[i] = client_for(_metadata, variant->ends, listener[0],
				       NULL);
		for (j = 0; j < 3; j++) {
			if (wait_for(listener[j], POLLIN, 0))
				break;
		}
		ASSERT_LT(j, 3);
		server[i] = accept_one(_metadata, listener[j]);
		EXPECT_EQ(port_of(client[i]), peer_port(server[i]));
		got[j]++;
		sent += talk(_metadata, client[i], server[i]);
	}
	for (i = 0; i < 3; i++)
		EXPECT_LT(0, got[i]);
	EXPECT_PAIRS(40);
	/* All connections send at once. */
	for (i = 0; i < 40; i++) {
		send_pattern(_metadata, client[i], SEED + i, 0, 1000, 0);
		send_pattern(_metadata, server[i], ~SEED - i, 0, 1000, 0);
		sent += 2000;
	}
	for (i = 0; i < 40; i++) {
		recv_pattern(_metadata, server[i], SEED + i, 0, 1000);
		recv_pattern(_metadata, client[i], ~SEED - i, 0, 1000);
	}
	EXPECT_CARRIED(sent);
	for (i = 0; i < 40; i++) {
		close(client[i]);
		close(server[i]);
	}
	for (i = 0; i < 3; i++)
		close(listener[i]);
}

static void bind_to_device(struct __test_metadata *_metadata, int fd,
			   const char *name)
{
	ASSERT_EQ(0, setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name,
				strlen(name))) TH_LOG("%s: %m", name);
}

/*
 * The listener is bound, the client, or both; or both later, once they are
 * connected.
 */
TEST_F(connect, bound_to_lo)
{
	int listener, client[4], server[4], i;
	uint64_t sent = 0;

	for (i = 0; i < 4; i++) {
		listener = listener_for(_metadata, variant->ends, NULL);
		client[i] = socket_for(_metadata, variant->ends);
		if (i == 0 || i == 2)
			bind_to_device(_metadata, listener, "lo");
		if (i == 1 || i == 2)
			bind_to_device(_metadata, client[i], "lo");
		ASSERT_EQ(0, connect_again(client[i], variant->ends,
					   port_of(listener)));
		server[i] = accept_one(_metadata, listener);
		EXPECT_PAIRS(i + 1);
		if (i == 3) {
			bind_to_device(_metadata, client[i], "lo");
			bind_to_device(_metadata, server[i], "lo");
		}
		close(listener);
		sent += talk(_metadata, client[i], server[i]);
	}
	EXPECT_CARRIED(sent);
	for (i = 0; i < 4; i++) {
		close(client[i]);
		close(server[i]);
	}
}

/*
 * A socket that is bound to a device connects to an address of this device.
 * Both ends are bound if the address is a link-local one. The segments go over
 * lo.
 */
TEST_F(connect, bound_to_device)
{
	union address a = { .in6.sin6_family = AF_INET6 };
	socklen_t len = sizeof(a.in6);
	int listener, client, server;

	if (system("ip link add dummy0 type dummy 2>/dev/null")) {
		self->witness.told = true;
		SKIP(return, "this kernel has no dummy devices");
	}
	ASSERT_EQ(0, system("ip address add 192.0.2.1/24 dev dummy0 &&"
			    "ip address add fe80::1/64 dev dummy0 nodad &&"
			    "ip link set dummy0 up"));
	if (variant->ends == IPV4) {
		len = address_of(&a, AF_INET, "192.0.2.1", 0);
	} else {
		inet_pton(AF_INET6, "fe80::1", &a.in6.sin6_addr);
		a.in6.sin6_scope_id = if_nametoindex("dummy0");
	}
	listener = socket_for(_metadata, variant->ends);
	ASSERT_EQ(0, bind(listener, &a.sa, len)) TH_LOG("bind: %m");
	ASSERT_EQ(0, listen(listener, 1));
	ASSERT_EQ(0, getsockname(listener, &a.sa, &len));
	client = socket_for(_metadata, variant->ends);
	bind_to_device(_metadata, client, "dummy0");
	ASSERT_EQ(0, connect(client, &a.sa, len)) TH_LOG("connect: %m");
	server = accept_one(_metadata, listener);
	talk_often(_metadata, client, server, 3);
	/* Friends look for each other on lo, and do not find these two. */
	EXPECT_CARRIED_ANY();
	close(client);
	close(server);
	close(listener);
}

static const struct {
	enum ends ends;
	const char *client;
	const char *server;
} routes[] = {
	{ IPV4, "127.0.0.1", "127.0.0.2" },
	{ IPV4, "127.1.2.3", "127.255.255.254" },
	{ IPV4, "127.0.0.1", "192.0.2.1" },
	{ IPV4, "192.0.2.1", "127.0.0.1" },
	{ IPV4, "192.0.2.1", "192.0.2.2" },
	{ IPV4, "198.51.100.1", "192.0.2.1" },
	{ IPV6, "::1", "2001:db8::1" },
	{ IPV6, "2001:db8::1", "::1" },
	{ IPV6, "2001:db8::1", "2001:db8::2" },
	{ IPV6, "2001:db8:1::1", "2001:db8::1" },
};

/* Connect from any address of the host to any other. */
TEST_F(connect, own_addresses)
{
	static const char add_addresses[] =
		"ip link add dummy1 type dummy &&"
		"ip address add 192.0.2.1/24 dev dummy0 &&"
		"ip address add 192.0.2.2/24 dev dummy0 &&"
		"ip address add 198.51.100.1/24 dev dummy1 &&"
		"ip address add 2001:db8::1/64 dev dummy0 nodad &&"
		"ip address add 2001:db8::2/64 dev dummy0 nodad &&"
		"ip address add 2001:db8:1::1/64 dev dummy1 nodad &&"
		"ip link set dummy0 up && ip link set dummy1 up";
	int family = family_of(variant->ends), listener, client, server;
	uint64_t sent = 0, pairs = 0;
	union address a;
	socklen_t len;
	unsigned int i;

	if (system("ip link add dummy0 type dummy 2>/dev/null")) {
		self->witness.told = true;
		SKIP(return, "this kernel has no dummy devices");
	}
	ASSERT_EQ(0, system(add_addresses));
	for (i = 0; i < ARRAY_SIZE(routes); i++) {
		if (routes[i].ends != variant->ends)
			continue;
		listener = listen_at(_metadata, family, routes[i].server, NULL);
		client = socket_for(_metadata, variant->ends);
		len = address_of(&a, family, routes[i].client, 0);
		ASSERT_EQ(0, bind(client, &a.sa, len));
		len = address_of(&a, family, routes[i].server,
				 port_of(listener));
		ASSERT_EQ(0, connect(client, &a.sa, len))
			TH_LOG("%s to %s: %m", routes[i].client,
			       routes[i].server);
		server = accept_one(_metadata, listener);
		EXPECT_PAIRS(1);
		pairs++;
		sent += talk(_metadata, client, server);
		close(client);
		close(server);
		close(listener);
		EXPECT_EQ(0, friends_stat_becomes("pairs", 0));
	}
	EXPECT_EQ(self->witness.pairs_total + (variant->friends ? pairs : 0),
		  friends_stat("pairs_total"));
	EXPECT_CARRIED(sent);
}

/* Connect a client from @port of localhost, which may have been used before. */
static int client_from(struct __test_metadata *_metadata, enum ends ends,
		       int port, int listener, const char *device)
{
	int fd = socket_for(_metadata, ends);
	union address a;
	socklen_t len = address_of(&a, family_of(ends), localhost(ends), port);

	set_int(_metadata, fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (device)
		bind_to_device(_metadata, fd, device);
	ASSERT_EQ(0, bind(fd, &a.sa, len)) TH_LOG("port %d: %m", port);
	ASSERT_EQ(0, connect_again(fd, ends, port_of(listener)))
		TH_LOG("port %d: %m", port);
	return fd;
}

/* Addresses and ports are used again, whatever the last connection has left. */
TEST_F(connect, same_ports_again)
{
	int listener = listener_for(_metadata, variant->ends, NULL);
	unsigned int n = 20, i;
	int client, server;
	uint64_t sent = 0;

	for (i = 0; i < n; i++) {
		client = client_from(_metadata, variant->ends, 20000, listener,
				     NULL);
		server = accept_one(_metadata, listener);
		EXPECT_EQ(20000, peer_port(server));
		EXPECT_PAIRS(1);
		sent += talk(_metadata, client, server);
		if (i % 2) {
			/* TIME_WAIT is at the server. */
			close(server);
			expect_eof(_metadata, client);
			close(client);
			/* Give the next SYN a newer time stamp. */
			sleep_ms(5);
		} else {
			abort_connection(client);
			EXPECT_NE(0, wait_for(server, POLLIN, patience(1000)));
			close(server);
		}
		EXPECT_EQ(0, friends_stat_becomes("pairs", 0));
	}
	close(listener);
	EXPECT_EQ(self->witness.pairs_total + (variant->friends ? n : 0),
		  friends_stat("pairs_total"));
	EXPECT_CARRIED(sent);
}

#define MANY	8

/* Each namespace uses equal addresses and ports. */
TEST_F(connect, many_namespaces)
{
	int client[MANY], server[MANY], ns[MANY], i, listener, round;
	struct witness w[MANY];
	uint64_t sent[MANY];
	union address a;
	socklen_t len;

	for (i = 0; i < MANY; i++) {
		if (i && !enter_netns(_metadata, variant->friends))
			return;
		ns[i] = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
		ASSERT_GE(ns[i], 0);
		w[i] = self->witness;
		witness_begin(&w[i]);
		listener = socket_for(_metadata, variant->ends);
		len = address_of(&a, family_of(variant->ends),
				 localhost(variant->ends), 20001);
		ASSERT_EQ(0, bind(listener, &a.sa, len));
		ASSERT_EQ(0, listen(listener, 1));
		client[i] = client_from(_metadata, variant->ends, 20000,
					listener, NULL);
		/* One in three is accepted after all others exist. */
		server[i] = i % 3 ? accept_one(_metadata, listener) : listener;
		if (i % 3)
			close(listener);
		sent[i] = 0;
	}
	for (i = 0; i < MANY; i += 3) {
		listener = server[i];
		server[i] = accept_one(_metadata, listener);
		close(listener);
	}
	for (round = 0; round < 3; round++) {
		for (i = 0; i < MANY; i++) {
			send_pattern(_metadata, client[i], SEED + i,
				     round * 1000, 1000, 0);
			send_pattern(_metadata, server[i], ~SEED - i,
				     round * 1000, 1000, 0);
			sent[i] += 2000;
		}
		for (i = MANY - 1; i >= 0; i--) {
			recv_pattern(_metadata, server[i], SEED + i,
				     round * 1000, 1000);
			recv_pattern(_metadata, client[i], ~SEED - i,
				     round * 1000, 1000);
		}
	}
	for (i = 0; i < MANY; i++) {
		ASSERT_EQ(0, setns(ns[i], CLONE_NEWNET));
		EXPECT_PAIRS(1);
		expect_carried(_metadata, &w[i], sent[i]);
		close(client[i]);
		close(server[i]);
		EXPECT_EQ(0, friends_stat_becomes("pairs", 0));
	}
	ASSERT_EQ(0, setns(ns[0], CLONE_NEWNET));
	self->witness.told = true;
}

/*
 * The addresses and ports are used once more, in a VRF of this namespace. The
 * two connections differ only in their device.
 */
TEST_F(connect, vrf)
{
	int listener[2], client[2], server[2], i;
	uint64_t sent = 0;
	union address a;
	socklen_t len;
	char cmd[128];

	if (system("ip link add vrf0 type vrf table 10 2>/dev/null")) {
		self->witness.told = true;
		SKIP(return, "this kernel has no VRF");
	}
	ASSERT_EQ(0, system("ip address add 127.0.0.1/8 dev vrf0 &&"
			    "ip address add ::1/128 dev vrf0 nodad &&"
			    "ip link set vrf0 up"));
	/* The VRF's own table must come before that of the host. */
	for (i = 4; i <= 6; i += 2) {
		snprintf(cmd, sizeof(cmd),
			 "ip -%d rule add pref 32765 table local &&"
			 "ip -%d rule del pref 0", i, i);
		ASSERT_EQ(0, system(cmd));
	}
	for (i = 0; i < 2; i++) {
		listener[i] = socket_for(_metadata, variant->ends);
		if (i)
			bind_to_device(_metadata, listener[i], "vrf0");
		set_int(_metadata, listener[i], SOL_SOCKET, SO_REUSEADDR, 1);
		len = address_of(&a, family_of(variant->ends),
				 localhost(variant->ends), 20001);
		ASSERT_EQ(0, bind(listener[i], &a.sa, len));
		ASSERT_EQ(0, listen(listener[i], 1));
	}
	for (i = 0; i < 2; i++)
		client[i] = client_from(_metadata, variant->ends, 20000,
					listener[i], i ? "vrf0" : NULL);
	for (i = 0; i < 2; i++) {
		server[i] = accept_one(_metadata, listener[i]);
		EXPECT_EQ(20000, peer_port(server[i]));
	}
	for (i = 0; i < 2; i++) {
		send_pattern(_metadata, client[i], SEED + i, 0, 3000, 0);
		send_pattern(_metadata, server[i], ~SEED - i, 0, 3000, 0);
	}
	for (i = 1; i >= 0; i--) {
		recv_pattern(_metadata, server[i], SEED + i, 0, 3000);
		recv_pattern(_metadata, client[i], ~SEED - i, 0, 3000);
	}
	/*
	 * The connection in the VRF does not come in on lo, and stays on the
	 * wire.
	 */
	EXPECT_PAIRS(1);
	sent = 6000 + talk(_metadata, client[0], server[0]);
	talk(_metadata, client[1], server[1]);
	EXPECT_CARRIED(sent);
	for (i = 0; i < 2; i++) {
		close(client[i]);
		close(server[i]);
		close(listener[i]);
	}
}

int main(int argc, char **argv)
{
	return friends_main(argc, argv);
}
