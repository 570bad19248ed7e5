// SPDX-License-Identifier: GPL-2.0
/*
 * These tests check which sockets become friends, which never do, and what the
 * switch does.
 */

#include "lib/friends.h"

#define SEED	0x7061697273ULL

/*
 * Each variant says where the two ends are. Both are on this host and in this
 * namespace, so each connection is paired if friends are on.
 */
FIXTURE(pairing) {
	struct witness witness;
	int listener;
	int client;
	int server;
};

FIXTURE_VARIANT(pairing) {
	bool friends;
	bool device;		/* the address is on a device that is not lo */
	int listen_family;
	const char *listen;
	int connect_family;
	const char *connect;
};

#define PAIRING_VARIANTS(name, _device, lfamily, _listen, cfamily, _connect)	\
	FIXTURE_VARIANT_ADD(pairing, name##_wire) {				\
		.device = _device,						\
		.listen_family = lfamily, .listen = _listen,			\
		.connect_family = cfamily, .connect = _connect,			\
	};									\
	FIXTURE_VARIANT_ADD(pairing, name##_friends) {				\
		.friends = true, .device = _device,				\
		.listen_family = lfamily, .listen = _listen,			\
		.connect_family = cfamily, .connect = _connect,			\
	}

PAIRING_VARIANTS(ipv4, false, AF_INET, "127.0.0.1", AF_INET, "127.0.0.1");
PAIRING_VARIANTS(ipv4_any, false, AF_INET, "0.0.0.0", AF_INET, "127.0.0.1");
PAIRING_VARIANTS(ipv4_127_0_0_2, false, AF_INET, "127.0.0.2",
		 AF_INET, "127.0.0.2");
PAIRING_VARIANTS(ipv4_device, true, AF_INET, "192.0.2.1",
		 AF_INET, "192.0.2.1");
PAIRING_VARIANTS(ipv6, false, AF_INET6, "::1", AF_INET6, "::1");
PAIRING_VARIANTS(ipv6_any, false, AF_INET6, "::", AF_INET6, "::1");
PAIRING_VARIANTS(ipv6_device, true, AF_INET6, "2001:db8::1",
		 AF_INET6, "2001:db8::1");
PAIRING_VARIANTS(mapped_server, false, AF_INET6, "::", AF_INET, "127.0.0.1");
PAIRING_VARIANTS(mapped_client, false, AF_INET, "127.0.0.1",
		 AF_INET6, "::ffff:127.0.0.1");
PAIRING_VARIANTS(mapped_both, false, AF_INET6, "::ffff:127.0.0.1",
		 AF_INET6, "::ffff:127.0.0.1");

static bool add_device(struct __test_metadata *_metadata)
{
	if (system("ip link add dummy0 type dummy 2>/dev/null"))
		SKIP(return false, "this kernel has no dummy devices");
	ASSERT_EQ(0, system("ip address add 192.0.2.1/24 dev dummy0"));
	ASSERT_EQ(0, system("ip address add 2001:db8::1/64 dev dummy0 nodad"));
	ASSERT_EQ(0, system("ip link set dummy0 up"));
	return true;
}

FIXTURE_SETUP(pairing)
{
	self->client = -1;
	self->server = -1;
	self->witness.friends = variant->friends;
	if (!enter_netns(_metadata, variant->friends))
		return;
	if (variant->device && !add_device(_metadata))
		return;
	witness_begin(&self->witness);
	self->listener = listen_at(_metadata, variant->listen_family,
				   variant->listen, NULL);
}

FIXTURE_TEARDOWN(pairing)
{
	close(self->listener);
	if (self->client >= 0)
		close(self->client);
	if (self->server >= 0)
		close(self->server);
	EXPECT_EQ(0, friends_stat_becomes("pairs", 0));
	friends_tell();
}

TEST_F(pairing, both_ways)
{
	uint64_t total = self->witness.pairs_total, sent;

	EXPECT_EQ(0, friends_stat("pairs"));
	self->client = connect_to(_metadata, variant->connect_family,
				  variant->connect, port_of(self->listener),
				  NULL);
	self->server = accept(self->listener, NULL, NULL);
	ASSERT_GE(self->server, 0);
	EXPECT_EQ((uint64_t)variant->friends,
		  friends_stat_becomes("pairs", variant->friends));

	sent = talk(_metadata, self->client, self->server);
	EXPECT_CARRIED(sent);

	/* After one end has closed, the other may still be a friend, or not. */
	close(self->client);
	self->client = -1;
	expect_eof(_metadata, self->server);
	close(self->server);
	self->server = -1;
	EXPECT_EQ(0, friends_stat_becomes("pairs", 0));
	EXPECT_EQ(total + variant->friends, friends_stat("pairs_total"));
}

TEST_F(pairing, written_before_accept)
{
	const size_t len = 20000;

	self->client = connect_to(_metadata, variant->connect_family,
				  variant->connect, port_of(self->listener),
				  NULL);
	send_pattern(_metadata, self->client, SEED, 0, len, 0);
	sleep_ms(10);
	send_pattern(_metadata, self->client, SEED, len, len, 0);
	self->server = accept(self->listener, NULL, NULL);
	ASSERT_GE(self->server, 0);
	send_pattern(_metadata, self->client, SEED, 2 * len, len, 0);
	recv_pattern(_metadata, self->server, SEED, 0, 3 * len);
	EXPECT_CARRIED(3 * len);
}

/* These tests cover the switch, and connections on which it has no effect. */
FIXTURE(rules) {
	struct witness witness;
};

FIXTURE_VARIANT(rules) {
	enum ends ends;
	bool friends;
};

FIXTURE_VARIANT_ADD(rules, ipv4_wire) {
	.ends = IPV4,
};
FIXTURE_VARIANT_ADD(rules, ipv4_friends) {
	.ends = IPV4,
	.friends = true,
};
FIXTURE_VARIANT_ADD(rules, ipv6_wire) {
	.ends = IPV6,
};
FIXTURE_VARIANT_ADD(rules, ipv6_friends) {
	.ends = IPV6,
	.friends = true,
};

FIXTURE_SETUP(rules)
{
	self->witness.friends = variant->friends;
	if (!enter_netns(_metadata, variant->friends))
		return;
	witness_begin(&self->witness);
}

FIXTURE_TEARDOWN(rules)
{
	EXPECT_EQ(0, friends_stat_becomes("pairs", 0));
	friends_tell();
}

/* Bind a socket to localhost. Return it, and its address in @a. */
static int bound_socket(struct __test_metadata *_metadata, enum ends ends,
			int flags, union address *a, socklen_t *len)
{
	int fd = socket(family_of(ends), SOCK_STREAM | flags, 0);

	ASSERT_GE(fd, 0);
	*len = address_of(a, family_of(ends), localhost(ends), 0);
	ASSERT_EQ(0, bind(fd, &a->sa, *len));
	ASSERT_EQ(0, getsockname(fd, &a->sa, len));
	return fd;
}

/* TCP connects a socket to itself if a program asks for this. */
TEST_F(rules, self_connect)
{
	union address a;
	socklen_t len;
	int fd;

	fd = bound_socket(_metadata, variant->ends, 0, &a, &len);
	ASSERT_EQ(0, connect(fd, &a.sa, len));
	EXPECT_EQ(0, friends_stat("pairs"));

	talk(_metadata, fd, fd);
	EXPECT_EQ(0, friends_stat("pairs"));
	EXPECT_EQ(self->witness.pairs_total, friends_stat("pairs_total"));
	EXPECT_EQ(self->witness.bytes, friends_stat("bytes"));

	EXPECT_EQ(0, shutdown(fd, SHUT_WR));
	expect_eof(_metadata, fd);
	close(fd);
}

/* Two sockets connect to each other, and neither listens. */
TEST_F(rules, simultaneous_open)
{
	union address a, b;
	socklen_t alen, blen;
	int x, y;

	if (system("tc qdisc add dev lo root netem delay 100ms 2>/dev/null"))
		SKIP(return, "this kernel has no netem");
	x = bound_socket(_metadata, variant->ends, SOCK_NONBLOCK, &a, &alen);
	y = bound_socket(_metadata, variant->ends, SOCK_NONBLOCK, &b, &blen);
	EXPECT_EQ(-1, connect(x, &b.sa, blen));
	EXPECT_EQ(EINPROGRESS, errno);
	EXPECT_EQ(-1, connect(y, &a.sa, alen));
	EXPECT_EQ(EINPROGRESS, errno);
	ASSERT_EQ(POLLOUT, wait_for(x, POLLOUT, patience(2000)));
	ASSERT_EQ(POLLOUT, wait_for(y, POLLOUT, patience(2000)));
	EXPECT_EQ(0, system("tc qdisc del dev lo root"));

	fcntl(x, F_SETFL, 0);
	fcntl(y, F_SETFL, 0);
	talk(_metadata, x, y);
	EXPECT_EQ(0, friends_stat("pairs"));
	EXPECT_EQ(self->witness.pairs_total, friends_stat("pairs_total"));
	abort_connection(x);
	abort_connection(y);
}

TEST_F(rules, never_accepted)
{
	int listener = listener_for(_metadata, variant->ends, NULL);
	int client = client_for(_metadata, variant->ends, listener, NULL);
	char c;

	send_pattern(_metadata, client, SEED, 0, 1000, 0);
	close(listener);
	EXPECT_NE(0, wait_for(client, POLLIN, patience(1000)));
	EXPECT_EQ(-1, recv(client, &c, 1, MSG_DONTWAIT));
	EXPECT_EQ(ECONNRESET, errno);
	close(client);
}

TEST_F(rules, connect_close_many)
{
	int listener = listener_for(_metadata, variant->ends, NULL);
	unsigned int n = scaled(2000), i;
	int client, server;
	uint64_t sent = 0;

	for (i = 0; i < n; i++) {
		client = client_for(_metadata, variant->ends, listener, NULL);
		server = accept(listener, NULL, NULL);
		ASSERT_GE(server, 0);
		if (i % 2)
			sent += talk(_metadata, client, server);
		switch (i % 4) {
		case 0:
			close(client);
			close(server);
			break;
		case 1:
			close(server);
			close(client);
			break;
		case 2:
			abort_connection(client);
			close(server);
			break;
		case 3:
			abort_connection(server);
			abort_connection(client);
			break;
		}
	}
	close(listener);
	EXPECT_EQ(0, friends_stat_becomes("pairs", 0));
	EXPECT_EQ(self->witness.pairs_total + (variant->friends ? n : 0),
		  friends_stat("pairs_total"));
	EXPECT_CARRIED(sent);
}

TEST_F(rules, many_at_once)
{
	int listener = listener_for(_metadata, variant->ends, NULL);
	int client[100], server[100], i;
	const int n = 100;
	uint64_t sent = 0;

	for (i = 0; i < n; i++) {
		client[i] = client_for(_metadata, variant->ends, listener,
				       NULL);
		server[i] = accept(listener, NULL, NULL);
		ASSERT_GE(server[i], 0);
	}
	EXPECT_EQ(variant->friends ? n : 0U,
		  friends_stat_becomes("pairs", variant->friends ? n : 0));
	for (i = 0; i < n; i++)
		sent += talk(_metadata, client[i], server[i]);
	for (i = 0; i < n; i++) {
		close(client[(i * 37) % n]);
		close(server[(i * 73) % n]);
	}
	close(listener);
	EXPECT_CARRIED(sent);
}

/* Equal addresses and ports in two namespaces are two connections. */
TEST_F(rules, per_namespace)
{
	int client[2], server[2], ns[2], i;
	uint64_t total[2];

	for (i = 0; i < 2; i++) {
		if (i) {
			ASSERT_EQ(0, unshare(CLONE_NEWNET));
			lo_up(_metadata);
		}
		ns[i] = open("/proc/thread-self/ns/net", O_RDONLY);
		ASSERT_GE(ns[i], 0);
		total[i] = friends_stat("pairs_total");
		/* In a fresh namespace the first port is predictable. */
		open_connection(_metadata, variant->ends, NULL, &client[i],
				&server[i]);
	}
	for (i = 0; i < 2; i++) {
		/* Friends were only switched on in the first namespace. */
		bool paired = variant->friends && !i;

		ASSERT_EQ(0, setns(ns[i], CLONE_NEWNET));
		EXPECT_EQ((uint64_t)paired,
			  friends_stat_becomes("pairs", paired));
		EXPECT_EQ(total[i] + paired, friends_stat("pairs_total"));
		talk(_metadata, client[i], server[i]);
		EXPECT_EQ(paired ? 4000 : 0, friends_stat("bytes"));
	}
	for (i = 0; i < 2; i++) {
		close(client[i]);
		close(server[i]);
	}
	ASSERT_EQ(0, setns(ns[0], CLONE_NEWNET));
}

/* These tests cover net.ipv4.tcp_friends. */
FIXTURE(sysctl) {
};

FIXTURE_SETUP(sysctl)
{
	enter_netns(_metadata, true);
}

FIXTURE_TEARDOWN(sysctl)
{
}

TEST_F(sysctl, default_is_off)
{
	ASSERT_EQ(0, unshare(CLONE_NEWNET));
	EXPECT_EQ(0, friends_get());
}

TEST_F(sysctl, takes_0_and_1)
{
	EXPECT_EQ(0, friends_set("0"));
	EXPECT_EQ(0, friends_get());
	EXPECT_EQ(0, friends_set("1\n"));
	EXPECT_EQ(1, friends_get());
	EXPECT_EQ(0, friends_set("1"));
	EXPECT_EQ(1, friends_get());
}

TEST_F(sysctl, rejects_the_rest)
{
	static const char *const bad[] = {
		"3", "-1", "x", "10", "256", "4294967296", "4294967297", "0x",
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		EXPECT_EQ(0, friends_set("1"));
		EXPECT_EQ(-EINVAL, friends_set(bad[i]))
			TH_LOG("the value was '%s'", bad[i]);
		EXPECT_EQ(1, friends_get());
		EXPECT_EQ(0, friends_set("0"));
		EXPECT_EQ(-EINVAL, friends_set(bad[i]));
		EXPECT_EQ(0, friends_get());
	}
}

TEST_F(sysctl, off_pairs_nobody)
{
	uint64_t total = friends_stat("pairs_total");
	uint64_t bytes = friends_stat("bytes");
	int client, server;

	EXPECT_EQ(0, friends_set("0"));
	open_connection(_metadata, IPV4, NULL, &client, &server);
	talk(_metadata, client, server);
	EXPECT_EQ(0, friends_stat("pairs"));
	EXPECT_EQ(total, friends_stat("pairs_total"));
	EXPECT_EQ(bytes, friends_stat("bytes"));
}

TEST_F(sysctl, on_is_for_new_ones)
{
	uint64_t bytes = friends_stat("bytes");
	int client[2], server[2];

	EXPECT_EQ(0, friends_set("0"));
	open_connection(_metadata, IPV4, NULL, &client[0], &server[0]);
	EXPECT_EQ(0, friends_set("1"));
	talk(_metadata, client[0], server[0]);
	EXPECT_EQ(0, friends_stat("pairs"));
	EXPECT_EQ(bytes, friends_stat("bytes"));

	open_connection(_metadata, IPV4, NULL, &client[1], &server[1]);
	EXPECT_EQ(1, friends_stat_becomes("pairs", 1));
	talk(_metadata, client[1], server[1]);
	EXPECT_EQ(bytes + 4000, friends_stat("bytes"));
}

TEST_F(sysctl, counters)
{
	static const char *const names[] = {
		"pairs", "pairs_total", "bytes", "skbs",
	};
	char line[128], name[64];
	unsigned int seen = 0, i;
	uint64_t value;
	FILE *f;

	f = fopen(FRIENDS_PROC, "r");
	ASSERT_NE(NULL, f);
	while (fgets(line, sizeof(line), f)) {
		ASSERT_EQ(2, sscanf(line, "%63s %" SCNu64, name, &value))
			TH_LOG("odd line: %s", line);
		for (i = 0; i < ARRAY_SIZE(names); i++) {
			if (!strcmp(name, names[i]))
				seen |= 1 << i;
		}
		if (i == ARRAY_SIZE(names) && !seen)
			TH_LOG("another counter first: %s", name);
	}
	fclose(f);
	EXPECT_EQ(0xfU, seen);
}

int main(int argc, char **argv)
{
	return friends_main(argc, argv);
}
