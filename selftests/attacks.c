// SPDX-License-Identifier: GPL-2.0
/*
 * These tests do what an attacker, or several threads at once, could do to a connection of
 * friends and not to one on the wire. Each test runs over both paths. Over friends, it
 * first checks that they carry data.
 *
 * A connection into which segments are forged has only this guarantee: the kernel survives,
 * and no byte is read that neither the peer nor the forger has sent.
 */

#include <signal.h>

#include "lib/cgroup.h"
#include "lib/friends.h"
#include "lib/hostile.h"

#define SEED	0x61747461636bULL
#define MIB	1048576UL

FIXTURE(attacks) {
	int client;
	int server;
	int right;			/* descriptor of /dev/userfaultfd, or -1 */
	int raw;
	uint32_t isn[2];
	union endpoint at[2];
	uint64_t sent[2];
	struct witness witness;
};

FIXTURE_VARIANT(attacks) {
	enum ends ends;
	bool friends;
};

FIXTURE_VARIANT_ADD(attacks, ipv4_wire) { .ends = IPV4 };
FIXTURE_VARIANT_ADD(attacks, ipv4_friends) { .ends = IPV4, .friends = true };
FIXTURE_VARIANT_ADD(attacks, ipv6_wire) { .ends = IPV6 };
FIXTURE_VARIANT_ADD(attacks, ipv6_friends) { .ends = IPV6, .friends = true };

FIXTURE_SETUP(attacks)
{
	self->client = -1;
	self->server = -1;
	self->raw = -1;
	self->sent[0] = 0;
	self->sent[1] = 0;
	self->witness.friends = variant->friends;
	self->witness.told = false;
	self->right = faults_right();
	if (variant->friends && !friends_loaded()) {
		ASSERT_NULL(getenv("FRIENDS_REQUIRED"))
			TH_LOG("the module tcp_friends is not loaded");
		SKIP(return, "the module tcp_friends is not loaded");
	}
}

FIXTURE_TEARDOWN(attacks)
{
	connection_teardown(_metadata, self->client, self->server, &self->witness);
	if (self->raw >= 0)
		close(self->raw);
	if (self->right >= 0)
		close(self->right);
}

#define self_t		FIXTURE_DATA(attacks)
#define variant_t	const FIXTURE_VARIANT(attacks)

#define NEEDS_FAULTS()							\
	do {								\
		if (self->right < 0) {					\
			EXPECT_CARRIED_ANY();				\
			SKIP(return, "this kernel has no userfaultfd");	\
		}							\
	} while (0)

/* Enter a network namespace of root's, in which friends are on or off. */
static void as_root(struct __test_metadata *_metadata, self_t *self)
{
	ASSERT_TRUE(enter_netns(_metadata, self->witness.friends));
	witness_begin(&self->witness);
}

/* Enter a network namespace of the user nobody, in a user namespace of its own. */
static void as_nobody(struct __test_metadata *_metadata, self_t *self)
{
	ASSERT_TRUE(become_nobody()) TH_LOG("no user namespace: %m");
	lo_up(_metadata);
	if (self->witness.friends) {
		ASSERT_EQ(0, friends_set("1"));
		ASSERT_EQ(0, revalidate_set("0"));
	}
	witness_begin(&self->witness);
}

/* Send from the client until friends carry the data. Nothing is left to read. */
static void prove_carried(struct __test_metadata *_metadata, self_t *self)
{
	uint64_t end = now_ms() + patience(2000), before = friends_stat("bytes");

	do {
		send_pattern(_metadata, self->client, SEED, self->sent[0], 1000, 0);
		recv_pattern(_metadata, self->server, SEED, self->sent[0], 1000);
		self->sent[0] += 1000;
		if (!self->witness.friends)
			break;
		ASSERT_LT(now_ms(), end) friends_print();
	} while (friends_stat("bytes") == before);
}

/* Open the connection that is attacked, and learn its sequence numbers. */
static void open_victim(struct __test_metadata *_metadata, self_t *self, variant_t *variant,
			const struct connect_options *o)
{
	int family = family_of(variant->ends);
	socklen_t len = sizeof(union endpoint);
	int packets;

	packets = tap();
	ASSERT_LE(0, packets);
	open_connection(_metadata, variant->ends, o, &self->client, &self->server);
	ASSERT_EQ(0, getsockname(self->client, &self->at[0].sa, &len));
	len = sizeof(union endpoint);
	ASSERT_EQ(0, getpeername(self->client, &self->at[1].sa, &len));
	ASSERT_TRUE(learn_sequences(packets, family, &self->at[0], self->isn));
	self->raw = forger(family);
	ASSERT_LE(0, self->raw) TH_LOG("a raw socket: %m");
	self->sent[0] = 0;
	self->sent[1] = 0;
	/* Urgent bytes are read in line, so that they do not shift the bytes behind them. */
	set_int(_metadata, self->server, SOL_SOCKET, SO_OOBINLINE, 1);
	prove_carried(_metadata, self);
}

/* Close both ends by resets, because ends that disagree would send their FINs for a long time. */
static void close_victim(self_t *self)
{
	abort_connection(self->client);
	abort_connection(self->server);
	close(self->raw);
	self->client = -1;
	self->server = -1;
	self->raw = -1;
}

/* Send a segment as if from the client, @ahead bytes ahead of what the client has sent. */
static void forge_to_server(struct __test_metadata *_metadata, self_t *self, int flags,
			    int32_t ahead, const void *data, size_t len)
{
	const struct segment s = {
		.from = &self->at[0], .to = &self->at[1],
		.seq = self->isn[0] + 1 + self->sent[0] + ahead,
		.ack = self->isn[1] + 1 + self->sent[1],
		.flags = flags, .window = 1000, .urgent = flags & URG ? len : 0,
		.data = data, .len = len,
	};

	ASSERT_TRUE(forge(self->raw, &s)) TH_LOG("forge: %m");
}

/* ---- a forged segment into a receiver that is owned by user ---- */

#define FORGED		1000
#define FORGED_BYTE	'F'

struct owner {
	int fd;
	void *to;
	size_t len;
	bool stop;
	pthread_t thread;
};

/* Keep the socket owned by user until the fault is over. */
static void *own_by_fault(void *arg)
{
	struct owner *o = arg;

	recv(o->fd, o->to, o->len, MSG_PEEK);
	return NULL;
}

/* Keep the socket owned by user most of the time. */
static void *own_by_peeking(void *arg)
{
	struct owner *o = arg;

	while (!__atomic_load_n(&o->stop, __ATOMIC_RELAXED))
		recv(o->fd, o->to, o->len, MSG_PEEK | MSG_DONTWAIT);
	return NULL;
}

static int readable(struct __test_metadata *_metadata, int fd)
{
	int n = 0;

	EXPECT_EQ(0, ioctl(fd, SIOCINQ, &n));
	ASSERT_LE(0, n) TH_LOG("FIONREAD is negative");
	return n;
}

/* Read all bytes that are there. Each is the peer's byte for its position, or the forger's. */
static void read_what_is_there(struct __test_metadata *_metadata, int fd, uint64_t *pos)
{
	static char buf[MIB], right[MIB];
	ssize_t n, i;

	for (;;) {
		readable(_metadata, fd);
		n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
		if (n <= 0)
			break;
		pattern_fill(right, n, SEED, *pos);
		for (i = 0; i < n; i++) {
			ASSERT_TRUE(buf[i] == right[i] || buf[i] == FORGED_BYTE)
				TH_LOG("byte %" PRIu64 " is nobody's: 0x%02x",
				       *pos + i, (uint8_t)buf[i]);
		}
		*pos += n;
	}
	readable(_metadata, fd);
}

/* Receive without a copy, with lengths that are sound, and with one that is not. */
static void receive_without_copy(struct __test_metadata *_metadata, int fd)
{
	static char copy[65536];
	struct tcp_zerocopy_receive zc;
	socklen_t len = sizeof(zc);
	void *map = mmap(NULL, sizeof(copy), PROT_READ, MAP_SHARED, fd, 0);
	int i;

	ASSERT_NE(MAP_FAILED, map);
	for (i = 0; i < 2; i++) {
		readable(_metadata, fd);
		zc = (struct tcp_zerocopy_receive){
			.address = (uintptr_t)map, .length = sizeof(copy),
			.copybuf_address = (uintptr_t)copy,
			.copybuf_len = i ? -2147483647 : (int)sizeof(copy),
		};
		len = sizeof(zc);
		getsockopt(fd, IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE, &zc, &len);
	}
	munmap(map, sizeof(copy));
	readable(_metadata, fd);
}

/* Use the server's end in many ways after the attack, whatever was forged. */
static void look_over(struct __test_metadata *_metadata, self_t *self, uint64_t pos)
{
	int i;

	read_what_is_there(_metadata, self->server, &pos);
	receive_without_copy(_metadata, self->server);
	for (i = 0; i < 20; i++) {
		if (send(self->client, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			break;
		readable(_metadata, self->server);
		sleep_ms(1);
	}
	receive_without_copy(_metadata, self->server);
	while (recv(self->server, &i, 1, MSG_DONTWAIT) > 0)
		readable(_metadata, self->server);
	readable(_metadata, self->server);
}

/*
 * Forge a segment that waits in the backlog of a receiver that is owned by user. The
 * friend's bytes come before the segment, after it, or both.
 */
static void forge_into_owned(struct __test_metadata *_metadata, self_t *self,
			     variant_t *variant, int flags, int32_t ahead, size_t len)
{
	static const int before[] = { 0, 100, 70000 }, behind[] = { 100, 0, 70000, 1 };
	static char forged[FORGED];
	struct owner owner;
	struct faults f;
	uint64_t pos;
	size_t i, k;
	char c;

	NEEDS_FAULTS();
	as_nobody(_metadata, self);
	memset(forged, FORGED_BYTE, sizeof(forged));
	for (i = 0; i < 3; i++) {
		for (k = 0; k < 4; k++) {
			open_victim(_metadata, self, variant, NULL);
			pos = self->sent[0];
			ASSERT_TRUE(faults_begin(&f, self->right, 1)) TH_LOG("faults: %m");
			pattern_fill(&c, 1, SEED, self->sent[0]++);
			ASSERT_EQ(1, send(self->client, &c, 1, 0));
			owner = (struct owner){
				.fd = self->server, .to = f.pages, .len = 1,
			};
			ASSERT_EQ(0, pthread_create(&owner.thread, NULL, own_by_fault, &owner));
			ASSERT_NE(NULL, faults_next(&f, patience(2000)));

			if (before[i])
				send_pattern(_metadata, self->client, SEED, self->sent[0],
					     before[i], MSG_DONTWAIT);
			self->sent[0] += before[i];
			forge_to_server(_metadata, self, flags, ahead, forged, len);
			if (behind[k])
				send_pattern(_metadata, self->client, SEED, self->sent[0],
					     behind[k], MSG_DONTWAIT);
			faults_let_go(&f);
			pthread_join(owner.thread, NULL);
			faults_end(&f);
			sleep_ms(20);
			look_over(_metadata, self, pos);
			close_victim(self);
		}
	}
	EXPECT_CARRIED_ANY();
}

TEST_F(attacks, forged_data)
{
	forge_into_owned(_metadata, self, variant, ACK | PSH, 0, FORGED);
}

/* There is a gap before the forged bytes. */
TEST_F(attacks, forged_ahead)
{
	forge_into_owned(_metadata, self, variant, ACK | PSH, 50, FORGED);
}

TEST_F(attacks, forged_again)
{
	forge_into_owned(_metadata, self, variant, ACK | PSH, -500, FORGED);
}

TEST_F(attacks, forged_urgent)
{
	forge_into_owned(_metadata, self, variant, ACK | URG, 0, FORGED);
}

TEST_F(attacks, forged_end)
{
	forge_into_owned(_metadata, self, variant, ACK | FIN, 0, FORGED);
}

TEST_F(attacks, forged_reset)
{
	forge_into_owned(_metadata, self, variant, RST, 0, 0);
}

TEST_F(attacks, forged_syn)
{
	forge_into_owned(_metadata, self, variant, SYN, 0, 0);
}

/* The receiver is not always owned by user, so that the race has all its outcomes. */
TEST_F_TIMEOUT(attacks, forged_beside_peeking, 60)
{
	const struct connect_options o = { .rcvbuf = 4 * MIB };
	static char peeked[2 * MIB], forged[FORGED];
	const uint64_t rounds = slow() ? 3 : 10;
	struct owner owner;
	uint64_t pos, i;

	as_nobody(_metadata, self);
	memset(forged, FORGED_BYTE, sizeof(forged));
	for (i = 0; i < rounds; i++) {
		open_victim(_metadata, self, variant, &o);
		pos = self->sent[0];
		send_pattern(_metadata, self->client, SEED, self->sent[0], 2 * MIB, 0);
		self->sent[0] += 2 * MIB;
		owner = (struct owner){
			.fd = self->server, .to = peeked, .len = sizeof(peeked),
		};
		ASSERT_EQ(0, pthread_create(&owner.thread, NULL, own_by_peeking, &owner));
		sleep_ms(20);
		forge_to_server(_metadata, self, ACK | PSH, 0, forged, FORGED);
		send_pattern(_metadata, self->client, SEED, self->sent[0], 100, MSG_DONTWAIT);
		sleep_ms(20);
		__atomic_store_n(&owner.stop, true, __ATOMIC_RELAXED);
		pthread_join(owner.thread, NULL);
		look_over(_metadata, self, pos);
		close_victim(self);
	}
	EXPECT_CARRIED_ANY();
}

/* ---- memory of receivers that are owned by user ---- */

#define OWNED		32
#define OWNED_BYTES	MIB

/* This is what one measurement found, in bytes. */
struct account {
	int64_t sender, receiver, tcp, most;
};

static int64_t number_in(struct __test_metadata *_metadata, const char *dir, const char *name)
{
	char path[512];
	int64_t value = -1;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "r");
	ASSERT_NE(NULL, f) TH_LOG("%s: %m", path);
	EXPECT_EQ(1, fscanf(f, "%" SCNd64, &value));
	fclose(f);
	return value;
}

/* Return how many bytes all TCP sockets of the host are charged. */
static int64_t tcp_memory(void)
{
	FILE *f = fopen("/proc/net/sockstat", "r");
	int64_t pages = -1;
	char line[256];
	char *mem;

	while (f && fgets(line, sizeof(line), f)) {
		mem = strstr(line, " mem ");
		if (!strncmp(line, "TCP:", 4) && mem)
			pages = atoll(mem + 5);
	}
	if (f)
		fclose(f);
	return pages * (int64_t)PAGE;
}

/* Return the most bytes that @g is charged within @ms, while the owners release their sockets. */
static int64_t most_charged(struct __test_metadata *_metadata, const struct group *g, int ms)
{
	uint64_t end = now_ms() + ms;
	int64_t most = 0, now;

	do {
		now = number_in(_metadata, g->dir, "memory.current");
		most = now > most ? now : most;
		sleep_ms(2);
	} while (now_ms() < end);
	return most;
}

/*
 * Measure what both cgroups and TCP are charged for bytes that go to receivers that are
 * owned by user, and the most that the receivers' cgroup is charged when their owners
 * release them.
 */
static void measure(struct __test_metadata *_metadata, self_t *self, variant_t *variant,
		    bool friends, struct account *a)
{
	struct group sends, receives;
	int client[OWNED], server[OWNED], listener, i;
	struct owner owner[OWNED];
	uint64_t before;
	struct faults f;
	int64_t limit;
	char max[32];

	ASSERT_TRUE(enter_netns(_metadata, friends));
	ASSERT_TRUE(group_make(&receives, "receives"));
	listener = listener_for(_metadata, variant->ends, NULL);
	set_int(_metadata, listener, SOL_SOCKET, SO_RCVBUFFORCE, 8 * MIB);
	ASSERT_TRUE(group_make(&sends, "sends"));
	for (i = 0; i < OWNED; i++) {
		client[i] = client_for(_metadata, variant->ends, listener, NULL);
		set_int(_metadata, client[i], SOL_SOCKET, SO_SNDBUFFORCE, 8 * MIB);
	}
	ASSERT_TRUE(write_file(receives.dir, "cgroup.procs", "0"));
	for (i = 0; i < OWNED; i++) {
		server[i] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		ASSERT_LE(0, server[i]);
	}
	/* Neither cgroup is charged for the memory of this process. */
	ASSERT_TRUE(write_file(CGROUPS, "cgroup.procs", "0"));
	close(listener);

	before = friends_stat("bytes");
	for (i = 0; i < OWNED; i++)
		talk(_metadata, client[i], server[i]);
	if (friends)
		ASSERT_LT(before, friends_stat("bytes")) friends_print();
	ASSERT_TRUE(faults_begin(&f, self->right, OWNED)) TH_LOG("faults: %m");
	for (i = 0; i < OWNED; i++) {
		send_pattern(_metadata, client[i], SEED, 0, 1, 0);
		owner[i] = (struct owner){
			.fd = server[i], .to = f.pages + i * PAGE, .len = 1,
		};
		ASSERT_EQ(0, pthread_create(&owner[i].thread, NULL, own_by_fault, &owner[i]));
		ASSERT_NE(NULL, faults_next(&f, patience(2000)));
	}

	*a = (struct account){
		.sender = -number_in(_metadata, sends.dir, "memory.current"),
		.receiver = -number_in(_metadata, receives.dir, "memory.current"),
		.tcp = -tcp_memory(),
	};
	for (i = 0; i < OWNED; i++)
		send_pattern(_metadata, client[i], SEED, 1, OWNED_BYTES - 1, 0);
	a->sender += number_in(_metadata, sends.dir, "memory.current");
	a->receiver += number_in(_metadata, receives.dir, "memory.current");
	a->tcp += tcp_memory();

	limit = number_in(_metadata, receives.dir, "memory.current") + 8 * MIB;
	snprintf(max, sizeof(max), "%" PRId64, limit);
	EXPECT_TRUE(write_file(receives.dir, "memory.max", max));
	faults_let_go(&f);
	a->most = most_charged(_metadata, &receives, slow() ? 3000 : 500) - limit;
	for (i = 0; i < OWNED; i++)
		pthread_join(owner[i].thread, NULL);
	EXPECT_TRUE(write_file(receives.dir, "memory.max", "max"));
	for (i = 0; i < OWNED; i++) {
		recv_pattern(_metadata, server[i], SEED, 0, OWNED_BYTES);
		close(client[i]);
		close(server[i]);
	}
	faults_end(&f);
	group_end(&receives);
	group_end(&sends);
}

static bool within(int64_t a, int64_t b, int64_t of)
{
	return llabs(a - b) <= of / 20;
}

/*
 * Both cgroups and TCP are charged for the bytes as on the wire, within a twentieth of what
 * was written. When the owners release their sockets, the data exceeds memory.max by no
 * more than on the wire. The wire also charges by force where it cannot wait, and mostly
 * exceeds memory.max by all bytes for which there was no room. Other sockets use TCP's
 * memory, too, so only one of a few measurements has to be right.
 */
TEST_F_TIMEOUT(attacks, memory_of_owned, 120)
{
	const int64_t written = OWNED * OWNED_BYTES;
	struct account wire = {}, here = {};
	struct group probe;
	int64_t most = 0;
	int i;

	NEEDS_FAULTS();
	if (!group_make(&probe, "probe")) {
		group_end(&probe);
		EXPECT_CARRIED_ANY();
		SKIP(return, "no cgroups with memory at " CGROUPS);
	}
	group_end(&probe);
	/* Each CPU keeps some pages of TCP's memory. */
	run_on(_metadata, sched_getcpu());
	for (i = 0; i < 3; i++) {
		measure(_metadata, self, variant, false, &wire);
		measure(_metadata, self, variant, variant->friends, &here);
		/* The excess of the wire itself differs from run to run. */
		most = wire.most > most ? wire.most : most;
		if (within(wire.tcp, here.tcp, written) && here.most <= most + written / 8)
			break;
	}
	TH_LOG("of %" PRId64 " KiB written, on the wire: sender %" PRId64 ", receiver %" PRId64
	       ", TCP %" PRId64 " KiB; here: %" PRId64 ", %" PRId64 ", %" PRId64
	       "; beyond memory.max by %" PRId64 " and %" PRId64, written >> 10,
	       wire.sender >> 10, wire.receiver >> 10, wire.tcp >> 10, here.sender >> 10,
	       here.receiver >> 10, here.tcp >> 10, wire.most >> 10, here.most >> 10);
	EXPECT_TRUE(within(wire.sender, here.sender, written));
	EXPECT_TRUE(within(wire.receiver, here.receiver, written));
	EXPECT_TRUE(within(wire.tcp, here.tcp, written));
	EXPECT_GE(most + written / 8, here.most);
	EXPECT_CARRIED_ANY();
}

/* ---- memory of receivers that do not read ---- */

#define UNREAD		24
#define UNREAD_ROOM	(16 * (int64_t)MIB)

/* Write to each socket in turn, until none takes more for a while. Nothing is read. */
static uint64_t fill_all(const int *fds, int n)
{
	static char buf[32 * 1024];
	uint64_t sent = 0, before;
	int i, idle = 0;
	ssize_t ret;

	memset(buf, 'u', sizeof(buf));
	while (idle < 20) {
		before = sent;
		for (i = 0; i < n; i++) {
			ret = send(fds[i], buf, sizeof(buf), MSG_DONTWAIT | MSG_NOSIGNAL);
			sent += ret > 0 ? ret : 0;
		}
		idle = sent == before ? idle + 1 : 0;
		if (idle)
			sleep_ms(5);
	}
	return sent;
}

/*
 * Data that friends move to receivers that do not read exceeds the memory.max of their
 * cgroup by less than 128 KiB for each receiver, although all data is charged by force,
 * with bottom halves off. On the wire, the excess is all data that was offered as a window.
 */
TEST_F_TIMEOUT(attacks, memory_of_unread, 120)
{
	int client[UNREAD], server[UNREAD], listener, i;
	struct group sends, receives;
	int64_t limit, beyond;
	uint64_t before, sent;
	char max[32];

	if (!group_make(&receives, "unread")) {
		group_end(&receives);
		EXPECT_CARRIED_ANY();
		SKIP(return, "no cgroups with memory at " CGROUPS);
	}
	ASSERT_TRUE(enter_netns(_metadata, variant->friends));
	listener = listener_for(_metadata, variant->ends, NULL);
	set_int(_metadata, listener, SOL_SOCKET, SO_RCVBUFFORCE, 4 * MIB);
	ASSERT_TRUE(group_make(&sends, "sends"));
	for (i = 0; i < UNREAD; i++)
		client[i] = client_for(_metadata, variant->ends, listener, NULL);
	ASSERT_TRUE(write_file(receives.dir, "cgroup.procs", "0"));
	before = friends_stat("bytes");
	for (i = 0; i < UNREAD; i++) {
		server[i] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		ASSERT_LE(0, server[i]);
		talk(_metadata, client[i], server[i]);
	}
	/* Neither cgroup is charged for the memory of this process. */
	ASSERT_TRUE(write_file(CGROUPS, "cgroup.procs", "0"));
	close(listener);
	if (variant->friends)
		ASSERT_LT(before, friends_stat("bytes")) friends_print();

	limit = number_in(_metadata, receives.dir, "memory.current") + UNREAD_ROOM;
	snprintf(max, sizeof(max), "%" PRId64, limit);
	ASSERT_TRUE(write_file(receives.dir, "memory.max", max));
	before = friends_stat("bytes");
	sent = fill_all(client, UNREAD);
	beyond = number_in(_metadata, receives.dir, "memory.peak") - limit;
	TH_LOG("of %" PRIu64 " KiB written %" PRId64 " are beyond memory.max", sent >> 10,
	       beyond >> 10);
	/* The test is vacuous if memory.max is not reached. */
	EXPECT_LT(0, beyond);
	if (variant->friends) {
		EXPECT_GT(UNREAD * 128 * 1024, beyond);
		EXPECT_LT(before + UNREAD_ROOM / 2, friends_stat("bytes")) friends_print();
	}
	for (i = 0; i < UNREAD; i++) {
		close(client[i]);
		close(server[i]);
	}
	group_end(&receives);
	group_end(&sends);
	EXPECT_CARRIED_ANY();
}

/* ---- a reset in the middle of a call ---- */

#define LARGE	(32 * MIB)

struct cutter {
	int fd;
	size_t after;
	bool unread;		/* close with bytes unread, else SO_LINGER 0 */
	pthread_t thread;
};

static void *cut_reader(void *arg)
{
	static char buf[256 * 1024];
	struct cutter *c = arg;
	size_t got = 0;
	ssize_t n;

	while (got < c->after && (n = recv(c->fd, buf, sizeof(buf), 0)) > 0)
		got += n;
	if (c->unread)
		close(c->fd);
	else
		abort_connection(c->fd);
	return NULL;
}

static void *cut_writer(void *arg)
{
	static char buf[256 * 1024];
	struct cutter *c = arg;
	size_t sent = 0;
	ssize_t n;

	while (sent < c->after && (n = send(c->fd, buf, sizeof(buf), MSG_NOSIGNAL)) > 0)
		sent += n;
	abort_connection(c->fd);
	return NULL;
}

/* Return the error of the next call, one of three that can report it. No later call may. */
static int told_next(int fd, int who)
{
	char c;

	switch (who % 3) {
	case 0:
		return so_error(fd);
	case 1:
		return recv(fd, &c, 1, MSG_DONTWAIT) < 0 ? errno : 0;
	default:
		return send(fd, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? errno : 0;
	}
}

static void expect_over(struct __test_metadata *_metadata, int fd)
{
	char c;

	EXPECT_EQ(0, so_error(fd));
	EXPECT_EQ(0, recv(fd, &c, 1, MSG_DONTWAIT));
	EXPECT_EQ(-1, send(fd, "x", 1, MSG_NOSIGNAL));
	EXPECT_EQ(EPIPE, errno);
	EXPECT_EQ(0, so_error(fd));
}

/* Bytes that the client has not sent make the server acknowledge more than there is. The
 * client therefore refuses whatever the server sends then, and friends must not move it
 * either.
 */
TEST_F(attacks, ack_of_nothing)
{
	char forged[FORGED], c;

	as_nobody(_metadata, self);
	open_victim(_metadata, self, variant, NULL);
	memset(forged, FORGED_BYTE, sizeof(forged));
	forge_to_server(_metadata, self, ACK, 0, forged, sizeof(forged));
	sleep_ms(patience(50));
	EXPECT_EQ(FORGED, readable(_metadata, self->server));
	EXPECT_EQ(1, send(self->server, "x", 1, MSG_NOSIGNAL));
	sleep_ms(patience(100));
	EXPECT_EQ(-1, recv(self->client, &c, 1, MSG_DONTWAIT));
	EXPECT_EQ(EAGAIN, errno);
	close_victim(self);
	EXPECT_CARRIED_ANY();
}

/*
 * A write() that has sent some bytes returns their number, and the next call reports why
 * there were not more. An end that closes with bytes unread may have none at that moment.
 * Its FIN then comes first, and the error is EPIPE.
 */
TEST_F_TIMEOUT(attacks, reset_in_a_write, 90)
{
	const uint64_t rounds = slow() ? 30 : 100;
	uint64_t state = SEED, i, partial = 0, lost = 0;
	struct cutter c;
	char *buf;
	int err;
	ssize_t n;

	as_root(_metadata, self);
	buf = mmap(NULL, LARGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	ASSERT_NE(MAP_FAILED, buf);
	for (i = 0; i < rounds; i++) {
		open_connection(_metadata, variant->ends, NULL, &self->client, &self->server);
		self->sent[0] = 0;
		prove_carried(_metadata, self);
		c = (struct cutter){
			.fd = self->server, .after = prng(&state) % (LARGE / 2),
			.unread = i % 2,
		};
		ASSERT_EQ(0, pthread_create(&c.thread, NULL, cut_reader, &c));
		n = send(self->client, buf, LARGE, MSG_NOSIGNAL);
		pthread_join(c.thread, NULL);
		self->server = -1;
		/* Everything that was under way has arrived then. */
		sleep_ms(patience(2));
		if (n > 0 && n < (ssize_t)LARGE) {
			partial++;
			err = told_next(self->client, c.unread ? 0 : i / 2);
			if (c.unread ? err != ECONNRESET && err != EPIPE :
				       err != ECONNRESET)
				lost++;
			else
				expect_over(_metadata, self->client);
		}
		close(self->client);
		self->client = -1;
	}
	EXPECT_LT(0, partial);
	EXPECT_EQ(0, lost)
		TH_LOG("of %" PRIu64 " writes that were cut, %" PRIu64 " told nobody why",
		       partial, lost);
	munmap(buf, LARGE);
	EXPECT_CARRIED_ANY();
}

/* A read() that has got some bytes returns them, and the next call reports the reset. */
TEST_F_TIMEOUT(attacks, reset_in_a_read, 90)
{
	const uint64_t rounds = slow() ? 30 : 100;
	uint64_t state = SEED, i, partial = 0, lost = 0, told;
	struct cutter c;
	char *buf;
	ssize_t n;
	int err;

	as_root(_metadata, self);
	buf = mmap(NULL, LARGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	ASSERT_NE(MAP_FAILED, buf);
	for (i = 0; i < rounds; i++) {
		open_connection(_metadata, variant->ends, NULL, &self->client, &self->server);
		self->sent[0] = 0;
		prove_carried(_metadata, self);
		c = (struct cutter){
			.fd = self->client, .after = prng(&state) % (LARGE / 4),
		};
		ASSERT_EQ(0, pthread_create(&c.thread, NULL, cut_writer, &c));
		/* This read waits for more bytes than will come. */
		n = recv(self->server, buf, LARGE, MSG_WAITALL);
		err = n < 0 ? errno : 0;
		pthread_join(c.thread, NULL);
		self->client = -1;
		sleep_ms(patience(2));
		partial += n > 0;
		told = err == ECONNRESET;
		/* More bytes may have come after a read that was cut short. */
		while (!told && (n = recv(self->server, buf, LARGE, MSG_DONTWAIT)) > 0)
			;
		if (!told && n < 0 && errno == ECONNRESET)
			told = 1;
		lost += !told;
		if (told)
			expect_over(_metadata, self->server);
		close(self->server);
		self->server = -1;
	}
	EXPECT_LT(0, partial);
	EXPECT_EQ(0, lost)
		TH_LOG("%" PRIu64 " of %" PRIu64 " resets were told to nobody", lost, rounds);
	munmap(buf, LARGE);
	EXPECT_CARRIED_ANY();
}

/* ---- calls that must not be torn ---- */

#define RECORD	(512 * 1024)

/* This is what makes a call slow in its middle. */
enum trouble { NONE, FRESH_PAGES, SLOW_PAGES, SIGNALS };

struct writer {
	int fd, id, memory;
	uint64_t rounds;
	enum trouble trouble;
	struct faults faults;
	pthread_barrier_t *go;
	uint64_t refused, torn;
	pthread_t thread, helper;
	bool stop;
};

static void ignore(int signal)
{
	(void)signal;
}

static void begin_signals(void)
{
	struct sigaction sa = { .sa_handler = ignore, .sa_flags = SA_RESTART };

	sigaction(SIGUSR1, &sa, NULL);
}

/* Supply pages late, and only when they are asked for. */
static void *supply(void *arg)
{
	struct writer *w = arg;
	char page[PAGE], *at;

	memset(page, 'a' + w->id, sizeof(page));
	while (!__atomic_load_n(&w->stop, __ATOMIC_RELAXED)) {
		at = faults_next(&w->faults, 20);
		if (at)
			faults_supply(&w->faults, at, page);
	}
	return NULL;
}

/* In each group of SLOW_OF pages, the first one comes late. */
#define SLOW_OF		16

/* Return the record, in pages that no access has touched yet where the trouble asks for it. */
static char *fresh(struct writer *w)
{
	size_t at;

	if (w->trouble == SLOW_PAGES) {
		/* The fault is in the middle of a call, not at its start. */
		for (at = PAGE; at < RECORD; at += SLOW_OF * PAGE)
			madvise(w->faults.pages + at, PAGE, MADV_DONTNEED);
		return w->faults.pages;
	}
	return mmap(NULL, RECORD, PROT_READ, MAP_SHARED, w->memory, 0);
}

static void *write_records(void *arg)
{
	struct writer *w = arg;
	uint64_t i;
	ssize_t n;
	char *buf;

	buf = fresh(w);
	for (i = 0; i < w->rounds; i++) {
		pthread_barrier_wait(w->go);
		n = send(w->fd, buf, RECORD, MSG_NOSIGNAL);
		w->torn += n > 0 && n < RECORD;
		w->refused += n < 0;
		pthread_barrier_wait(w->go);
		if (w->trouble == FRESH_PAGES)
			munmap(buf, RECORD);
		if (w->trouble == FRESH_PAGES || w->trouble == SLOW_PAGES)
			buf = fresh(w);
	}
	return NULL;
}

static void writer_begin(struct __test_metadata *_metadata, self_t *self, struct writer *w)
{
	char *map, page[PAGE];
	size_t at;

	w->memory = memfd_create("record", MFD_CLOEXEC);
	ASSERT_LE(0, w->memory);
	ASSERT_EQ(0, ftruncate(w->memory, RECORD));
	map = mmap(NULL, RECORD, PROT_READ | PROT_WRITE, MAP_SHARED, w->memory, 0);
	ASSERT_NE(MAP_FAILED, map);
	memset(map, 'a' + w->id, RECORD);
	munmap(map, RECORD);
	if (w->trouble == SLOW_PAGES) {
		ASSERT_TRUE(faults_begin(&w->faults, self->right, RECORD / PAGE));
		memset(page, 'a' + w->id, sizeof(page));
		for (at = 0; at < RECORD; at += PAGE)
			ASSERT_TRUE(faults_supply(&w->faults, w->faults.pages + at, page));
		ASSERT_EQ(0, pthread_create(&w->helper, NULL, supply, w));
	}
	ASSERT_EQ(0, pthread_create(&w->thread, NULL, write_records, w));
}

static void writer_end(struct writer *w)
{
	pthread_join(w->thread, NULL);
	__atomic_store_n(&w->stop, true, __ATOMIC_RELAXED);
	if (w->trouble == SLOW_PAGES) {
		pthread_join(w->helper, NULL);
		faults_end(&w->faults);
	}
	close(w->memory);
}

/* Open a connection whose send buffer takes all that the threads write at once. */
static void open_roomy(struct __test_metadata *_metadata, self_t *self, variant_t *variant)
{
	open_connection(_metadata, variant->ends, NULL, &self->client, &self->server);
	set_int(_metadata, self->client, SOL_SOCKET, SO_SNDBUFFORCE, 16 * MIB);
	self->sent[0] = 0;
	prove_carried(_metadata, self);
}

static uint64_t rounds_of(enum trouble trouble)
{
	uint64_t rounds = trouble == SLOW_PAGES ? 20 : 100;

	return slow() ? rounds / 5 : rounds;
}

/*
 * Two threads write records at once. There is room for both, so TCP does not release the
 * socket before it has taken a whole record. Each record therefore arrives in one piece.
 */
static void write_at_once(struct __test_metadata *_metadata, self_t *self, variant_t *variant,
			  enum trouble trouble)
{
	static char buf[2 * RECORD];
	const uint64_t rounds = rounds_of(trouble);
	struct writer w[2] = {};
	pthread_barrier_t go;
	uint64_t i, torn = 0;
	int k, changes;

	as_root(_metadata, self);
	open_roomy(_metadata, self, variant);
	begin_signals();
	ASSERT_EQ(0, pthread_barrier_init(&go, NULL, 3));
	for (k = 0; k < 2; k++) {
		w[k] = (struct writer){
			.fd = self->client, .id = k, .rounds = rounds, .go = &go,
			.trouble = trouble,
		};
		writer_begin(_metadata, self, &w[k]);
	}
	for (i = 0; i < rounds; i++) {
		pthread_barrier_wait(&go);
		for (k = 0; trouble == SIGNALS && k < 20; k++) {
			pthread_kill(w[k % 2].thread, SIGUSR1);
			sched_yield();
		}
		pthread_barrier_wait(&go);
		for (changes = 0, k = 0; k < 2 * RECORD;) {
			ssize_t n = recv(self->server, buf + k, sizeof(buf) - k, 0);

			ASSERT_LT(0, n);
			k += n;
		}
		for (k = 1; k < 2 * RECORD; k++)
			changes += buf[k] != buf[k - 1];
		torn += changes > 1;
	}
	for (k = 0; k < 2; k++) {
		writer_end(&w[k]);
		EXPECT_EQ(0, w[k].refused);
		EXPECT_EQ(0, w[k].torn);
	}
	EXPECT_EQ(0, torn)
		TH_LOG("a write was torn in %" PRIu64 " of %" PRIu64 " rounds", torn, rounds);
	EXPECT_CARRIED_ANY();
}

TEST_F_TIMEOUT(attacks, writes_at_once, 60)
{
	write_at_once(_metadata, self, variant, NONE);
}

TEST_F_TIMEOUT(attacks, writes_with_fresh_pages, 60)
{
	write_at_once(_metadata, self, variant, FRESH_PAGES);
}

TEST_F_TIMEOUT(attacks, writes_with_slow_pages, 60)
{
	NEEDS_FAULTS();
	write_at_once(_metadata, self, variant, SLOW_PAGES);
}

TEST_F_TIMEOUT(attacks, writes_with_signals, 60)
{
	write_at_once(_metadata, self, variant, SIGNALS);
}

struct shutter {
	int fd;
	unsigned int us;
	pthread_barrier_t *go;
};

static void *shut(void *arg)
{
	struct shutter *s = arg;
	uint64_t end;
	struct timespec ts;

	pthread_barrier_wait(s->go);
	/* No sleep is that short. */
	clock_gettime(CLOCK_MONOTONIC, &ts);
	end = ts.tv_sec * 1000000ULL + ts.tv_nsec / 1000 + s->us;
	do {
		clock_gettime(CLOCK_MONOTONIC, &ts);
	} while (ts.tv_sec * 1000000ULL + ts.tv_nsec / 1000 < end);
	shutdown(s->fd, SHUT_WR);
	pthread_barrier_wait(s->go);
	return NULL;
}

/* The end of a stream must come before or after a write, not inside it. */
static void shut_beside_write(struct __test_metadata *_metadata, self_t *self,
			      variant_t *variant, enum trouble trouble)
{
	static char buf[RECORD];
	const uint64_t rounds = rounds_of(trouble);
	uint64_t state = SEED, i, torn = 0, whole = 0;
	struct shutter s;
	pthread_barrier_t go;
	struct writer w;
	pthread_t thread;
	ssize_t n, got;

	as_root(_metadata, self);
	ASSERT_EQ(0, pthread_barrier_init(&go, NULL, 2));
	for (i = 0; i < rounds; i++) {
		open_roomy(_metadata, self, variant);
		w = (struct writer){
			.fd = self->client, .rounds = 1, .go = &go, .trouble = trouble,
		};
		writer_begin(_metadata, self, &w);
		s = (struct shutter){
			.fd = self->client, .go = &go,
			.us = prng(&state) % (trouble == SLOW_PAGES ? 30000 : 1000),
		};
		ASSERT_EQ(0, pthread_create(&thread, NULL, shut, &s));
		for (got = 0; (n = recv(self->server, buf, sizeof(buf), 0)) > 0;)
			got += n;
		EXPECT_EQ(0, n);
		pthread_join(thread, NULL);
		writer_end(&w);
		whole += got == RECORD;
		torn += w.torn || (got && got != RECORD) || (got ? 0 : 1) != w.refused;
		close(self->client);
		close(self->server);
		self->client = -1;
		self->server = -1;
	}
	EXPECT_LT(0, whole);
	EXPECT_EQ(0, torn)
		TH_LOG("the end was inside a write in %" PRIu64 " of %" PRIu64 " rounds", torn,
		       rounds);
	EXPECT_CARRIED_ANY();
}

TEST_F_TIMEOUT(attacks, end_beside_a_write, 60)
{
	shut_beside_write(_metadata, self, variant, NONE);
}

TEST_F_TIMEOUT(attacks, end_beside_a_slow_write, 60)
{
	NEEDS_FAULTS();
	shut_beside_write(_metadata, self, variant, SLOW_PAGES);
}

/*
 * Return the byte at @pos of a stream of numbered bytes. Four bytes are a number of 28
 * bits, and only the first of them has its highest bit set, so the bytes show their
 * position.
 */
static uint8_t numbered(uint64_t pos)
{
	uint32_t number = pos / 4;

	return (number >> 7 * (3 - pos % 4) & 0x7f) | (pos % 4 ? 0 : 0x80);
}

/* Return the position of the first byte, or -1 if @buf is too short to tell. */
static int64_t position_of(const uint8_t *buf, size_t len)
{
	uint64_t number = 0;
	size_t at, i;

	for (at = 0; at < 4 && at < len && !(buf[at] & 0x80); at++)
		;
	if (at + 4 > len)
		return -1;
	for (i = 0; i < 4; i++)
		number = number << 7 | (buf[at + i] & 0x7f);
	return 4 * number - at;
}

struct taker {
	int fd;
	size_t least, most;
	enum trouble trouble;
	const struct faults *faults;
	uint64_t state, got, calls, mixed, *all;
	pthread_t thread;
};

static void *take_numbered(void *arg)
{
	struct taker *t = arg;
	uint8_t *buf = malloc(t->most), *to;
	int64_t start;
	size_t want;
	ssize_t n, i;

	if (!buf)
		abort();
	for (;;) {
		want = t->least + prng(&t->state) % (t->most - t->least + 1);
		to = buf;
		if (t->trouble == FRESH_PAGES)
			to = mmap(NULL, t->most, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (to == MAP_FAILED)
			abort();
		n = recv(t->fd, to, want, 0);
		if (n > 0) {
			t->calls++;
			t->got += n;
			__atomic_add_fetch(t->all, n, __ATOMIC_RELAXED);
			start = position_of(to, n);
			for (i = 0; start >= 0 && i < n; i++) {
				if (to[i] != numbered(start + i)) {
					t->mixed++;
					break;
				}
			}
		}
		if (to != buf)
			munmap(to, t->most);
		if (n <= 0 && !(n < 0 && errno == EINTR))
			break;
	}
	free(buf);
	return NULL;
}

struct feeder {
	int fd;
	uint64_t size, state;
	bool failed;
	pthread_t thread;
};

static void *feed_numbered(void *arg)
{
	static uint8_t buf[300000];
	struct feeder *f = arg;
	uint64_t pos = 0;
	size_t len, i;
	ssize_t n;

	while (pos < f->size) {
		len = random_size(&f->state, sizeof(buf));
		len = len < f->size - pos ? len : f->size - pos;
		for (i = 0; i < len; i++)
			buf[i] = numbered(pos + i);
		for (i = 0; i < len; i += n) {
			n = send(f->fd, buf + i, len - i, MSG_NOSIGNAL);
			if (n <= 0) {
				f->failed = true;
				return NULL;
			}
		}
		pos += len;
	}
	shutdown(f->fd, SHUT_WR);
	return NULL;
}

/* Two threads read at once. Each call returns contiguous bytes, and together they get all. */
static void read_at_once(struct __test_metadata *_metadata, self_t *self, variant_t *variant,
			 size_t least, size_t most, enum trouble trouble)
{
	const uint64_t size = scaled(most > 10000 ? 64 * MIB : 8 * MIB);
	uint64_t all = 0, before = 0, i;
	struct feeder f = { .size = size, .state = SEED };
	struct taker t[2];
	int k;

	as_root(_metadata, self);
	open_connection(_metadata, variant->ends, NULL, &self->client, &self->server);
	self->sent[0] = 0;
	prove_carried(_metadata, self);
	begin_signals();
	f.fd = self->client;
	for (k = 0; k < 2; k++) {
		t[k] = (struct taker){
			.fd = self->server, .least = least, .most = most, .state = k,
			.trouble = trouble, .all = &all,
		};
		ASSERT_EQ(0, pthread_create(&t[k].thread, NULL, take_numbered, &t[k]));
	}
	ASSERT_EQ(0, pthread_create(&f.thread, NULL, feed_numbered, &f));
	for (i = 0; trouble == SIGNALS && before < size; i++) {
		pthread_kill(t[i % 2].thread, SIGUSR1);
		if (i % 16 == 0)
			sleep_ms(1);
		before = __atomic_load_n(&all, __ATOMIC_RELAXED);
	}
	pthread_join(f.thread, NULL);
	for (k = 0; k < 2; k++) {
		pthread_join(t[k].thread, NULL);
		EXPECT_EQ(0, t[k].mixed)
			TH_LOG("%" PRIu64 " of %" PRIu64 " reads are not contiguous",
			       t[k].mixed, t[k].calls);
	}
	EXPECT_FALSE(f.failed);
	EXPECT_EQ(size, t[0].got + t[1].got);
	EXPECT_CARRIED_ANY();
}

TEST_F_TIMEOUT(attacks, small_reads_at_once, 60)
{
	read_at_once(_metadata, self, variant, 5, 3000, NONE);
}

TEST_F_TIMEOUT(attacks, large_reads_at_once, 60)
{
	read_at_once(_metadata, self, variant, 100000, MIB, NONE);
}

TEST_F_TIMEOUT(attacks, reads_with_fresh_pages, 60)
{
	read_at_once(_metadata, self, variant, 20000, 400000, FRESH_PAGES);
}

TEST_F_TIMEOUT(attacks, reads_with_signals, 60)
{
	read_at_once(_metadata, self, variant, 20000, MIB, SIGNALS);
}

/* ---- what a friend leaves behind ---- */

/* Create a namespace that veth joins to ours. */
static int remote_host(struct __test_metadata *_metadata)
{
	int here, there;
	char command[256];

	here = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, here);
	ASSERT_EQ(0, unshare(CLONE_NEWNET));
	there = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, there);
	ASSERT_EQ(0, setns(here, CLONE_NEWNET));
	close(here);
	snprintf(command, sizeof(command),
		 "ip link add name v0 type veth peer name v0 netns %d && "
		 "ip link set v0 up && ip address add 192.0.2.2/24 dev v0 && "
		 "ip address add 2001:db8::2/64 dev v0 nodad", getpid());
	run_in(_metadata, there, command);
	run_in(_metadata, -1,
	       "ip link set v0 up && ip address add 192.0.2.1/24 dev v0 && "
	       "ip address add 2001:db8::1/64 dev v0 nodad && "
	       "for i in $(seq 100); do "
	       "ping -q -c 1 -W 0.2 192.0.2.2 >/dev/null && "
	       "ping -q -c 1 -W 0.2 2001:db8::2 >/dev/null && exit 0; done; exit 1");
	return there;
}

static const char *address_at(enum ends ends, bool remote)
{
	if (ends == IPV6)
		return remote ? "2001:db8::2" : "2001:db8::1";
	return remote ? "192.0.2.2" : "192.0.2.1";
}

/*
 * Check that data with an ACK that is older than the largest window is refused (RFC 5961,
 * section 5.2). @here is the connection's end in our namespace, and @there the other end.
 * @isn are the initial sequence numbers, that of @here first. Nothing has been sent yet.
 */
static void expect_old_ack_refused(struct __test_metadata *_metadata, int raw, int here,
				   int there, const uint32_t isn[2])
{
	const uint32_t sent = MIB;
	char data[100] = {};
	union endpoint from, to;
	socklen_t len = sizeof(to);
	struct segment s = {
		.from = &from, .to = &to, .flags = ACK | PSH, .window = 1000,
		.data = data, .len = sizeof(data),
	};
	struct half in, out;
	int n;

	ASSERT_EQ(0, getsockname(here, &to.sa, &len));
	len = sizeof(from);
	ASSERT_EQ(0, getpeername(here, &from.sa, &len));
	half_init(&out, here, true, SEED, sent);
	half_init(&in, there, false, SEED, sent);
	in.chunk = 4096;
	half_start(&out);
	half_start(&in);
	half_join(&out);
	half_join(&in);
	EXPECT_EQ(sent, in.done);
	half_free(&out);
	half_free(&in);
	expect_acked(_metadata, here);

	s.seq = isn[1] + 1;
	/* This number was acknowledged once, and is far older than the window. */
	s.ack = isn[0] + 1 + 1000;
	ASSERT_TRUE(forge(raw, &s)) TH_LOG("forge: %m");
	sleep_ms(patience(200));
	ASSERT_EQ(0, ioctl(here, SIOCINQ, &n));
	EXPECT_EQ(0, n) TH_LOG("data with an ACK of long ago was accepted");
	/* With a current ACK the data is accepted, so only the old ACK was the reason. */
	s.ack = isn[0] + 1 + sent;
	s.seq += n;
	ASSERT_TRUE(forge(raw, &s)) TH_LOG("forge: %m");
	sleep_ms(patience(200));
	ASSERT_EQ(0, ioctl(here, SIOCINQ, &n));
	EXPECT_LE((int)sizeof(data), n);
}

/* Pair a socket, and disconnect it. Return the socket, which has no friend any more. */
static int had_a_friend(struct __test_metadata *_metadata, self_t *self, variant_t *variant)
{
	struct sockaddr none = { .sa_family = AF_UNSPEC };
	int fd;

	open_connection(_metadata, variant->ends, NULL, &self->client, &self->server);
	self->sent[0] = 0;
	prove_carried(_metadata, self);
	fd = self->client;
	self->client = -1;
	close(self->server);
	self->server = -1;
	ASSERT_EQ(0, connect(fd, &none, sizeof(none)));
	EXPECT_EQ(0, friends_stat_becomes("pairs", 0));
	return fd;
}

/* Check that no socket of this namespace has a friend. */
static void expect_no_lines(struct __test_metadata *_metadata)
{
	FILE *f = fopen("/proc/thread-self/net/tcp_friends", "r");
	int lines = 0;
	char line[512];

	while (f && fgets(line, sizeof(line), f)) {
		if (lines++)
			TH_LOG("a pair is left: %s", line);
	}
	if (f)
		fclose(f);
	EXPECT_GE(1, lines);
	EXPECT_EQ(0, friends_stat("pairs"));
}

struct remote {
	int ns, packets, raw, listener;
};

static void remote_begin(struct __test_metadata *_metadata, variant_t *variant,
			 struct remote *r)
{
	const struct connect_options small = { .rcvbuf = 8192 };
	int family = family_of(variant->ends), here;

	here = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	r->ns = remote_host(_metadata);
	ASSERT_EQ(0, setns(r->ns, CLONE_NEWNET));
	r->packets = tap();
	r->raw = forger(family);
	r->listener = listen_at(_metadata, family, address_at(variant->ends, true), &small);
	ASSERT_LE(0, r->packets);
	ASSERT_LE(0, r->raw);
	ASSERT_EQ(0, setns(here, CLONE_NEWNET));
	close(here);
}

static void remote_end(struct remote *r)
{
	close(r->raw);
	close(r->listener);
	close(r->ns);
}

TEST_F(attacks, disconnected_friend)
{
	int family = family_of(variant->ends), fd, there;
	union endpoint from;
	union address a;
	socklen_t len;
	uint32_t isn[2] = {};
	struct remote r;

	as_root(_metadata, self);
	remote_begin(_metadata, variant, &r);
	fd = had_a_friend(_metadata, self, variant);
	len = address_of(&a, family, address_at(variant->ends, true), port_of(r.listener));
	ASSERT_EQ(0, connect(fd, &a.sa, len)) TH_LOG("connect: %m");
	there = accept4(r.listener, NULL, NULL, SOCK_CLOEXEC);
	ASSERT_LE(0, there);
	len = sizeof(from);
	ASSERT_EQ(0, getsockname(fd, &from.sa, &len));
	ASSERT_TRUE(learn_sequences(r.packets, family, &from, isn));
	expect_no_lines(_metadata);
	expect_old_ack_refused(_metadata, r.raw, fd, there, isn);
	close(fd);
	close(there);
	remote_end(&r);
	EXPECT_CARRIED_ANY();
}

/* A socket that had a friend listens. The socket that it accepts is a copy of it. */
TEST_F(attacks, child_of_a_friend)
{
	const struct connect_options small = { .rcvbuf = 8192 };
	int family = family_of(variant->ends), fd, child, there, here;
	uint32_t isn[2] = {}, turned[2];
	union endpoint from;
	union address a;
	socklen_t len;
	struct remote r;

	as_root(_metadata, self);
	remote_begin(_metadata, variant, &r);
	here = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	fd = had_a_friend(_metadata, self, variant);
	len = address_of(&a, family, address_at(variant->ends, false), 0);
	ASSERT_EQ(0, bind(fd, &a.sa, len)) TH_LOG("bind: %m");
	ASSERT_EQ(0, listen(fd, 8));
	ASSERT_EQ(0, setns(r.ns, CLONE_NEWNET));
	there = connect_to(_metadata, family, address_at(variant->ends, false), port_of(fd),
			   &small);
	ASSERT_EQ(0, setns(here, CLONE_NEWNET));
	child = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	ASSERT_LE(0, child);
	len = sizeof(from);
	ASSERT_EQ(0, getsockname(there, &from.sa, &len));
	ASSERT_TRUE(learn_sequences(r.packets, family, &from, isn));
	turned[0] = isn[1];
	turned[1] = isn[0];
	expect_no_lines(_metadata);
	expect_old_ack_refused(_metadata, r.raw, child, there, turned);
	close(child);
	close(there);
	close(fd);
	close(here);
	remote_end(&r);
	EXPECT_CARRIED_ANY();
}

int main(int argc, char **argv)
{
	return friends_main(argc, argv);
}
