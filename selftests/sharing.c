// SPDX-License-Identifier: GPL-2.0
/*
 * These tests cover sockets in which other processes have a part: they are
 * passed to others, many wait for them, a cgroup is charged for them, or they
 * are destroyed from outside.
 */

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#include "lib/cgroup.h"
#include "lib/friends.h"

#define SEED	0x73686172ULL
#define MIB	1048576ULL

CONNECTION_FIXTURE(sharing);

/* ---- SCM_RIGHTS ---- */

static void pass(struct __test_metadata *_metadata, int over, int fd)
{
	char control[CMSG_SPACE(sizeof(fd))] = {};
	struct iovec iov = { "x", 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	ASSERT_EQ(1, sendmsg(over, &msg, 0));
}

static int passed(int over)
{
	char control[CMSG_SPACE(sizeof(int))], x;
	struct iovec iov = { &x, 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	int fd;

	if (recvmsg(over, &msg, 0) != 1 || !CMSG_FIRSTHDR(&msg))
		return -1;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

/* No other process has the socket open while it is under way. */
TEST_F(sharing, passed_to_another)
{
	const uint64_t size = scaled(MIB);
	struct half in, out;
	int over[2], status;
	pid_t pid;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, over));
	send_pattern(_metadata, self->client, SEED, 0, 30000, 0);
	recv_pattern(_metadata, self->server, SEED, 0, 10000);
	pass(_metadata, over[0], self->server);
	close(self->server);
	self->server = -1;
	send_pattern(_metadata, self->client, SEED, 30000, 10000, 0);

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close(self->client);
		half_init(&in, passed(over[1]), false, SEED, size);
		half_init(&out, in.fd, true, ~SEED, size);
		in.done = 10000;
		half_start(&in);
		half_start(&out);
		half_join(&in);
		half_join(&out);
		_exit(in.err || out.err || in.done != size || in.wrong >= 0);
	}
	close(over[1]);
	half_init(&out, self->client, true, SEED, size);
	half_init(&in, self->client, false, ~SEED, size);
	out.done = 40000;
	half_start(&out);
	half_start(&in);
	half_join(&out);
	half_join(&in);
	EXPECT_EQ(0, out.err);
	EXPECT_EQ(0, in.err);
	EXPECT_EQ(size, in.done);
	EXPECT_EQ(-1, in.wrong);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	half_free(&in);
	half_free(&out);
	close(over[0]);
	EXPECT_CARRIED(2 * size);
}

/*
 * Only a message holds the socket, with bytes unread, and the message is never
 * received.
 */
TEST_F(sharing, passed_to_nobody)
{
	uint64_t sent = talk(_metadata, self->client, self->server);
	int over[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, over));
	send_pattern(_metadata, self->client, SEED, 0, 10000, 0);
	wait_readable(_metadata, self->server, 10000);
	EXPECT_CARRIED(sent + 10000);
	pass(_metadata, over[0], self->server);
	close(self->server);
	self->server = -1;
	EXPECT_EQ(0, wait_for(self->client, POLLIN, QUIET) & POLLIN);
	close(over[0]);
	close(over[1]);
	/* The socket is closed with unread bytes, which causes a reset. */
	EXPECT_LE(POLLERR, wait_for(self->client, POLLIN, patience(1000)));
	EXPECT_EQ(-1, recv(self->client, over, 1, 0));
	EXPECT_EQ(ECONNRESET, errno);
}

/* ---- EPOLLEXCLUSIVE: many wait, one is woken ---- */

struct waiter {
	int fd, epoll;
	uint64_t *taken, *in_vain;
	bool *stop;
	pthread_t thread;
};

static void *waiter(void *arg)
{
	struct waiter *w = arg;
	struct epoll_event ev;
	char c;

	while (!__atomic_load_n(w->stop, __ATOMIC_RELAXED)) {
		if (epoll_wait(w->epoll, &ev, 1, 100) != 1)
			continue;
		if (recv(w->fd, &c, 1, MSG_DONTWAIT) == 1)
			__atomic_add_fetch(w->taken, 1, __ATOMIC_RELEASE);
		else
			__atomic_add_fetch(w->in_vain, 1, __ATOMIC_RELEASE);
	}
	return NULL;
}

TEST_F(sharing, exclusive_waiters)
{
	enum { N = 3, ROUNDS = 30 };
	uint64_t taken = 0, in_vain = 0, end;
	struct epoll_event ev = { .events = EPOLLIN | EPOLLEXCLUSIVE };
	struct waiter w[N];
	bool stop = false;
	int i;

	for (i = 0; i < N; i++) {
		w[i] = (struct waiter){
			.fd = self->server,
			.epoll = epoll_create1(EPOLL_CLOEXEC),
			.taken = &taken,
			.in_vain = &in_vain,
			.stop = &stop,
		};
		ASSERT_LE(0, w[i].epoll);
		ASSERT_EQ(0, epoll_ctl(w[i].epoll, EPOLL_CTL_ADD, self->server,
				       &ev));
		ASSERT_EQ(0, pthread_create(&w[i].thread, NULL, waiter, &w[i]));
	}
	for (i = 0; i < ROUNDS; i++) {
		sleep_ms(1 + i % 3);
		send_pattern(_metadata, self->client, SEED, i, 1, 0);
		end = now_ms() + patience(3000);
		while (__atomic_load_n(&taken, __ATOMIC_ACQUIRE) <= i) {
			ASSERT_LT(now_ms(), end)
				TH_LOG("nobody was woken in round %d", i);
			sched_yield();
		}
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < N; i++) {
		pthread_join(w[i].thread, NULL);
		close(w[i].epoll);
	}
	EXPECT_EQ(ROUNDS, taken);
	/*
	 * A waiter that has just taken a byte may find the next byte before the
	 * woken waiter does.
	 */
	EXPECT_GT(ROUNDS, in_vain);
	EXPECT_CARRIED(ROUNDS);
}

/* ---- SOCK_DESTROY, which is what `ss -K` asks for ---- */

static int destroy(struct __test_metadata *_metadata, int fd)
{
	struct {
		struct nlmsghdr h;
		struct inet_diag_req_v2 r;
	} req = {
		.h.nlmsg_len = sizeof(req),
		.h.nlmsg_type = SOCK_DESTROY,
		.h.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK,
		.r.sdiag_protocol = IPPROTO_TCP,
		.r.idiag_states = -1,
		.r.id.idiag_cookie = {
			INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE
		},
	};
	struct {
		struct nlmsghdr h;
		struct nlmsgerr e;
		char rest[1024];
	} answer;
	socklen_t len = sizeof(union address);
	union address to, from;
	int nl;

	ASSERT_EQ(0, getsockname(fd, &from.sa, &len));
	ASSERT_EQ(0, getpeername(fd, &to.sa, &len));
	req.r.sdiag_family = from.sa.sa_family;
	req.r.id.idiag_sport = from.in.sin_port;
	req.r.id.idiag_dport = to.in.sin_port;
	if (from.sa.sa_family == AF_INET) {
		memcpy(req.r.id.idiag_src, &from.in.sin_addr, 4);
		memcpy(req.r.id.idiag_dst, &to.in.sin_addr, 4);
	} else {
		memcpy(req.r.id.idiag_src, &from.in6.sin6_addr, 16);
		memcpy(req.r.id.idiag_dst, &to.in6.sin6_addr, 16);
	}
	nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	ASSERT_LE(0, nl);
	ASSERT_EQ(sizeof(req), send(nl, &req, sizeof(req), 0));
	ASSERT_LT(0, recv(nl, &answer, sizeof(answer), 0));
	close(nl);
	ASSERT_EQ(NLMSG_ERROR, answer.h.nlmsg_type);
	return answer.e.error;
}

#define NO_DESTROY()							\
	do {								\
		EXPECT_CARRIED_ANY();					\
		SKIP(return, "this kernel has no INET_DIAG_DESTROY");	\
	} while (0)

static void expect_error(struct __test_metadata *_metadata, int fd, int error)
{
	int err = -1;
	socklen_t len = sizeof(err);

	EXPECT_LE(POLLERR, wait_for(fd, POLLIN, patience(1000)));
	EXPECT_EQ(0, getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len));
	EXPECT_EQ(error, err);
}

TEST_F(sharing, destroyed)
{
	uint64_t sent = talk(_metadata, self->client, self->server);
	int err;

	EXPECT_CARRIED(sent);
	err = destroy(_metadata, self->server);
	if (err == -EOPNOTSUPP)
		NO_DESTROY();
	ASSERT_EQ(0, err);
	expect_error(_metadata, self->server, ECONNABORTED);
	expect_error(_metadata, self->client, ECONNRESET);
	EXPECT_EQ(-1, send(self->client, "x", 1, MSG_NOSIGNAL));
	EXPECT_EQ(EPIPE, errno);
	EXPECT_EQ(-1, send(self->server, "x", 1, MSG_NOSIGNAL));
	EXPECT_EQ(EPIPE, errno);
	EXPECT_EQ(0, friends_stat_becomes("pairs", 0));
}

/* Data that had arrived may be read before the error is reported. */
TEST_F(sharing, destroyed_with_data_unread)
{
	uint64_t sent = talk(_metadata, self->client, self->server);
	int err;
	char c;

	send_pattern(_metadata, self->client, SEED, 0, 5000, 0);
	send_pattern(_metadata, self->server, ~SEED, 0, 5000, 0);
	wait_readable(_metadata, self->server, 5000);
	wait_readable(_metadata, self->client, 5000);
	EXPECT_CARRIED(sent + 10000);
	err = destroy(_metadata, self->client);
	if (err == -EOPNOTSUPP)
		NO_DESTROY();
	ASSERT_EQ(0, err);
	EXPECT_LE(POLLERR, wait_for(self->server, POLLRDHUP, patience(1000)));
	recv_pattern(_metadata, self->server, SEED, 0, 5000);
	recv_pattern(_metadata, self->client, ~SEED, 0, 5000);
	EXPECT_EQ(-1, recv(self->client, &c, 1, 0));
	EXPECT_EQ(ECONNABORTED, errno);
	EXPECT_EQ(-1, recv(self->server, &c, 1, 0));
	EXPECT_EQ(ECONNRESET, errno);
	EXPECT_EQ(0, recv(self->client, &c, 1, 0));
	EXPECT_EQ(0, recv(self->server, &c, 1, 0));
}

/* Two tasks wait at the other end, one for room and one for data. */
TEST_F(sharing, destroyed_while_blocked)
{
	struct half out, in;
	uint64_t sent;
	int err;

	half_init(&out, self->client, true, SEED, 64 * MIB);
	half_init(&in, self->client, false, SEED, 1);
	half_start(&out);
	half_start(&in);
	sleep_ms(100);
	EXPECT_FALSE(half_over(&out));
	err = destroy(_metadata, self->server);
	if (err)
		shutdown(self->client, SHUT_RDWR);
	half_join(&out);
	half_join(&in);
	if (err == -EOPNOTSUPP)
		NO_DESTROY();
	ASSERT_EQ(0, err);
	/* One of them gets the reset, and the other finds the end. */
	EXPECT_TRUE(out.err == ECONNRESET || out.err == EPIPE)
		TH_LOG("writer: %s", strerror(out.err));
	EXPECT_TRUE(in.err == ECONNRESET || in.eof)
		TH_LOG("reader: %s", strerror(in.err));
	/* Some of the bytes that were written had no room yet. */
	sent = friends_stat("bytes") - self->witness.bytes;
	EXPECT_LE(variant->friends, sent);
	EXPECT_LE(sent, out.done);
	half_free(&out);
	half_free(&in);
	EXPECT_CARRIED_ANY();
}

/* ---- memory.stat of the cgroup in which a socket was made or accepted ---- */

/* Return how many bytes of kernel memory the group's sockets take. */
static uint64_t sock_memory(struct __test_metadata *_metadata, const char *dir)
{
	char path[512], key[64];
	uint64_t value, found = UINT64_MAX;
	FILE *f;

	snprintf(path, sizeof(path), "%s/memory.stat", dir);
	f = fopen(path, "r");
	ASSERT_NE(NULL, f) TH_LOG("%s: %m", path);
	while (fscanf(f, "%63s %" SCNu64, key, &value) == 2) {
		if (!strcmp(key, "sock"))
			found = value;
	}
	fclose(f);
	ASSERT_NE(UINT64_MAX, found);
	return found;
}

/*
 * Wait for a value between @least and @most. Statistics follow within two
 * seconds.
 */
static uint64_t sock_memory_settles(struct __test_metadata *_metadata,
				    const struct group *g, uint64_t least,
				    uint64_t most)
{
	uint64_t end = now_ms() + patience(4000), bytes;

	do {
		bytes = sock_memory(_metadata, g->dir);
		if (bytes >= least && bytes <= most)
			break;
		sleep_ms(10);
	} while (now_ms() < end);
	return bytes;
}

/* Unread bytes are charged to the receiver, and no longer to the sender. */
TEST_F(sharing, charged_to_the_receiver)
{
	const uint64_t unread = 4 * MIB;
	const int size = 16 * MIB;
	int listener, client, server, n;
	uint64_t bytes, before = friends_stat("pairs_total");
	struct group sends, receives;

	if (!group_make(&receives, "receives")) {
		group_end(&receives);
		EXPECT_CARRIED_ANY();
		SKIP(return, "no cgroups with memory at " CGROUPS);
	}
	listener = listener_for(_metadata, variant->ends, NULL);
	set_int(_metadata, listener, SOL_SOCKET, SO_RCVBUFFORCE, size);
	ASSERT_TRUE(group_make(&sends, "sends"));
	client = client_for(_metadata, variant->ends, listener, NULL);
	set_int(_metadata, client, SOL_SOCKET, SO_SNDBUFFORCE, size);
	ASSERT_TRUE(write_file(receives.dir, "cgroup.procs", "0"));
	server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	ASSERT_LE(0, server);
	EXPECT_EQ(before + variant->friends,
		  friends_stat_becomes("pairs_total",
				       before + variant->friends));

	bytes = talk(_metadata, client, server);
	send_pattern(_metadata, client, SEED, 0, unread, 0);
	wait_readable(_metadata, server, unread);
	EXPECT_CARRIED(bytes + unread);
	bytes = sock_memory_settles(_metadata, &receives, unread / 2,
				    4 * unread);
	EXPECT_LE(unread / 2, bytes);
	EXPECT_GE(4 * unread, bytes);
	bytes = sock_memory_settles(_metadata, &sends, 0, unread / 4);
	EXPECT_GE(unread / 4, bytes);

	recv_pattern(_metadata, server, SEED, 0, unread);
	bytes = sock_memory_settles(_metadata, &receives, 0, unread / 4);
	EXPECT_GE(unread / 4, bytes);
	for (n = 0; n < 4; n++) {
		send_pattern(_metadata, client, SEED, n * unread / 4,
			     unread / 4, 0);
		wait_readable(_metadata, server, (n + 1) * unread / 4);
	}
	/* Neither group is charged for anything when both ends are closed. */
	close(server);
	close(client);
	close(listener);
	bytes = sock_memory_settles(_metadata, &receives, 0, 65536);
	EXPECT_GE(65536, bytes);
	bytes = sock_memory_settles(_metadata, &sends, 0, 65536);
	EXPECT_GE(65536, bytes);
	group_end(&receives);
	group_end(&sends);
}

int main(int argc, char **argv)
{
	return friends_main(argc, argv);
}
