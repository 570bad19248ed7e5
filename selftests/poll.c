// SPDX-License-Identifier: GPL-2.0
/*
 * These tests cover poll states, edges and wake-ups. None may be missing, and
 * none too many.
 */

#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>

#include "lib/friends.h"

#define SEED	0x706f6c6cULL

CONNECTION_FIXTURE(poll);

#define ALL_EVENTS	(POLLIN | POLLOUT | POLLPRI | POLLRDHUP)

/* Check that the poll state of @fd settles to exactly @want. */
static void expect_state(struct __test_metadata *_metadata, int fd, int want)
{
	uint64_t end = now_ms() + patience(1000);
	int state;

	do {
		state = wait_for(fd, ALL_EVENTS, 0);
		if (state == want)
			return;
		sleep_ms(1);
	} while (now_ms() < end);
	EXPECT_EQ(want, state);
}

static uint64_t fill(int fd, uint64_t sent)
{
	static char buf[65536];
	ssize_t n;

	do {
		for (;;) {
			pattern_fill(buf, sizeof(buf), SEED, sent);
			n = send(fd, buf, sizeof(buf), MSG_DONTWAIT);
			if (n < 0)
				break;
			sent += n;
		}
	} while (wait_for(fd, POLLOUT, QUIET));
	return sent;
}

static void half_closed_by(struct __test_metadata *_metadata, int first,
			   int second)
{
	expect_state(_metadata, first, POLLOUT);
	expect_state(_metadata, second, POLLOUT);
	send_pattern(_metadata, first, SEED, 0, 100, 0);
	expect_state(_metadata, second, POLLIN | POLLOUT);
	recv_pattern(_metadata, second, SEED, 0, 100);
	expect_state(_metadata, second, POLLOUT);

	EXPECT_EQ(0, shutdown(first, SHUT_WR));
	expect_state(_metadata, first, POLLOUT);
	expect_state(_metadata, second, POLLIN | POLLOUT | POLLRDHUP);
	EXPECT_EQ(0, shutdown(second, SHUT_WR));
	expect_state(_metadata, second,
		     POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
	expect_state(_metadata, first,
		     POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
}

TEST_F(poll, states_closed_by_client)
{
	half_closed_by(_metadata, self->client, self->server);
	EXPECT_CARRIED(100);
}

TEST_F(poll, states_closed_by_server)
{
	half_closed_by(_metadata, self->server, self->client);
	EXPECT_CARRIED(100);
}

TEST_F(poll, state_full)
{
	uint64_t sent = fill(self->client, 0);

	expect_state(_metadata, self->client, 0);
	expect_state(_metadata, self->server, POLLIN | POLLOUT);
	recv_pattern(_metadata, self->server, SEED, 0, sent);
	expect_state(_metadata, self->client, POLLOUT);
	expect_state(_metadata, self->server, POLLOUT);
	EXPECT_CARRIED(sent);
}

TEST_F(poll, state_shut_for_reading)
{
	EXPECT_EQ(0, shutdown(self->server, SHUT_RD));
	expect_state(_metadata, self->server, POLLIN | POLLOUT | POLLRDHUP);
	expect_state(_metadata, self->client, POLLOUT);
	EXPECT_CARRIED(0);
}

TEST_F(poll, state_reset)
{
	abort_connection(self->client);
	self->client = -1;
	expect_state(_metadata, self->server,
		     POLLIN | POLLOUT | POLLRDHUP | POLLHUP | POLLERR);
	EXPECT_CARRIED(0);
}

static int epoll_on(struct __test_metadata *_metadata, int fd, uint32_t events)
{
	struct epoll_event ev = { .events = events };
	int ep = epoll_create1(0);

	ASSERT_GE(ep, 0);
	ASSERT_EQ(0, epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
	return ep;
}

/* Return the events that come within @ms, or 0 if there are none. */
static uint32_t epoll_events(int ep, int ms)
{
	struct epoll_event ev = {};

	return epoll_wait(ep, &ev, 1, ms) == 1 ? ev.events : 0;
}

/* There is one edge for each arrival, whether or not the last data was read. */
TEST_F(poll, edge_in)
{
	int ep, i;

	ep = epoll_on(_metadata, self->server, EPOLLIN | EPOLLET);
	EXPECT_EQ(0U, epoll_events(ep, QUIET));
	for (i = 0; i < 5; i++) {
		send_pattern(_metadata, self->client, SEED, i * 100, 100, 0);
		EXPECT_EQ((uint32_t)EPOLLIN,
			  epoll_events(ep, patience(AT_ONCE)));
		EXPECT_EQ(0U, epoll_events(ep, 20));
	}
	recv_pattern(_metadata, self->server, SEED, 0, 500);
	EXPECT_EQ(0U, epoll_events(ep, QUIET));
	send_pattern(_metadata, self->client, SEED, 500, 100, 0);
	EXPECT_EQ((uint32_t)EPOLLIN, epoll_events(ep, patience(AT_ONCE)));
	recv_pattern(_metadata, self->server, SEED, 500, 100);
	EXPECT_CARRIED(600);
}

/* A full socket gives no edge. A drained one gives an edge. */
TEST_F(poll, edge_out)
{
	uint64_t sent;
	int ep, i, tries;

	ep = epoll_on(_metadata, self->client, EPOLLOUT | EPOLLET);
	EXPECT_EQ((uint32_t)EPOLLOUT, epoll_events(ep, patience(AT_ONCE)));
	EXPECT_EQ(0U, epoll_events(ep, QUIET));
	witness_begin(&self->witness);
	for (i = 0; i < 3; i++) {
		/* An edge only comes with room for more. */
		sent = 0;
		tries = 0;
		do {
			sent = fill(self->client, sent);
			while (epoll_events(ep, 0))
				;
		} while (epoll_events(ep, QUIET) && ++tries < 10);
		EXPECT_GT(10, tries);
		recv_pattern(_metadata, self->server, SEED, 0, sent);
		EXPECT_EQ((uint32_t)EPOLLOUT,
			  epoll_events(ep, patience(AT_ONCE)));
		while (epoll_events(ep, QUIET))
			;
		EXPECT_CARRIED(sent);
		witness_begin(&self->witness);
	}
}

/* Reading a little of much data gives the reader no edge. */
TEST_F(poll, edge_needs_arrival)
{
	int ep;

	ep = epoll_on(_metadata, self->server, EPOLLIN | EPOLLET);
	send_pattern(_metadata, self->client, SEED, 0, 20000, 0);
	EXPECT_EQ((uint32_t)EPOLLIN, epoll_events(ep, patience(AT_ONCE)));
	recv_pattern(_metadata, self->server, SEED, 0, 10000);
	EXPECT_EQ(0U, epoll_events(ep, QUIET));
	recv_pattern(_metadata, self->server, SEED, 10000, 10000);
	EXPECT_CARRIED(20000);
}

TEST_F(poll, edge_of_the_end)
{
	const uint32_t end = EPOLLIN | EPOLLRDHUP;
	int ep;

	ep = epoll_on(_metadata, self->server, end | EPOLLET);
	EXPECT_EQ(0, shutdown(self->client, SHUT_WR));
	EXPECT_EQ(end, epoll_events(ep, patience(AT_ONCE)));
	EXPECT_EQ(0U, epoll_events(ep, QUIET));
	abort_connection(self->client);
	self->client = -1;
	EXPECT_EQ(end | EPOLLHUP | EPOLLERR,
		  epoll_events(ep, patience(AT_ONCE)));
	EXPECT_CARRIED(0);
}

TEST_F(poll, level)
{
	int ep, i;

	ep = epoll_on(_metadata, self->server, EPOLLIN);
	send_pattern(_metadata, self->client, SEED, 0, 1000, 0);
	EXPECT_EQ((uint32_t)EPOLLIN, epoll_events(ep, patience(AT_ONCE)));
	for (i = 0; i < 10; i++) {
		EXPECT_EQ((uint32_t)EPOLLIN, epoll_events(ep, 0));
		recv_pattern(_metadata, self->server, SEED, i * 100, 100);
	}
	EXPECT_EQ(0U, epoll_events(ep, QUIET));
	EXPECT_CARRIED(1000);
}

TEST_F(poll, oneshot)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLONESHOT };
	int ep;

	ep = epoll_on(_metadata, self->server, EPOLLIN | EPOLLONESHOT);
	send_pattern(_metadata, self->client, SEED, 0, 100, 0);
	EXPECT_EQ((uint32_t)EPOLLIN, epoll_events(ep, patience(AT_ONCE)));
	send_pattern(_metadata, self->client, SEED, 100, 100, 0);
	EXPECT_EQ(0U, epoll_events(ep, QUIET));
	ASSERT_EQ(0, epoll_ctl(ep, EPOLL_CTL_MOD, self->server, &ev));
	EXPECT_EQ((uint32_t)EPOLLIN, epoll_events(ep, patience(AT_ONCE)));
	recv_pattern(_metadata, self->server, SEED, 0, 200);
	EXPECT_CARRIED(200);
}

TEST_F(poll, selected)
{
	struct timeval tv = { .tv_usec = QUIET * 1000 };
	fd_set in, out;

	FD_ZERO(&in);
	FD_SET(self->server, &in);
	EXPECT_EQ(0, select(self->server + 1, &in, NULL, NULL, &tv));
	send_pattern(_metadata, self->client, SEED, 0, 100, 0);
	FD_ZERO(&in);
	FD_ZERO(&out);
	FD_SET(self->server, &in);
	FD_SET(self->client, &out);
	tv = (struct timeval){ .tv_sec = patience(1000) / 1000 };
	EXPECT_EQ(1, select(self->server + 1, &in, NULL, NULL, &tv));
	EXPECT_EQ(1, select(self->client + 1, NULL, &out, NULL, &tv));
	recv_pattern(_metadata, self->server, SEED, 0, 100);
	EXPECT_CARRIED(100);
}

TEST_F(poll, sigio)
{
	struct timespec ts = { .tv_sec = patience(1000) / 1000 };
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGIO);
	ASSERT_EQ(0, sigprocmask(SIG_BLOCK, &set, NULL));
	ASSERT_EQ(0, fcntl(self->server, F_SETOWN, getpid()));
	ASSERT_EQ(0, fcntl(self->server, F_SETFL, O_ASYNC));
	send_pattern(_metadata, self->client, SEED, 0, 100, 0);
	EXPECT_EQ(SIGIO, sigtimedwait(&set, &info, &ts));
	recv_pattern(_metadata, self->server, SEED, 0, 100);
	EXPECT_CARRIED(100);
}

/*
 * One small message wakes a reader that sleeps in each kind of wait, and the
 * answer wakes the writer. A lost wake-up shows as a time-out.
 */
static void *echo(void *arg)
{
	int fd = *(int *)arg;
	char buf[100];
	int i = 0, ep;
	ssize_t n;
	struct epoll_event ev = { .events = EPOLLIN | EPOLLET };

	ep = epoll_create1(0);
	epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
	for (;;) {
		switch (i++ % 3) {
		case 0:
			break;
		case 1:
			wait_for(fd, POLLIN, 20000);
			break;
		case 2:
			epoll_wait(ep, &ev, 1, 20000);
			break;
		}
		/* The edge may be that of a message that was already read. */
		n = recv(fd, buf, sizeof(buf), 0);
		if (n <= 0)
			break;
		if (send(fd, buf, n, MSG_NOSIGNAL) != n)
			break;
	}
	close(ep);
	return NULL;
}

TEST_F(poll, wakes_every_time)
{
	int i, n = scaled(1000);
	uint64_t state = SEED, start, worst = 0, took;
	pthread_t thread;

	ASSERT_EQ(0, pthread_create(&thread, NULL, echo, &self->server));
	for (i = 0; i < n; i++) {
		if (i % 50 == 0)
			sleep_ms(prng(&state) % 3);
		start = now_ms();
		send_pattern(_metadata, self->client, SEED, i * 10, 10, 0);
		ASSERT_EQ(POLLIN, wait_for(self->client, POLLIN, 20000))
			TH_LOG("message %d", i);
		recv_pattern(_metadata, self->client, SEED, i * 10, 10);
		took = now_ms() - start;
		worst = took > worst ? took : worst;
	}
	if (worst > AT_ONCE)
		TH_LOG("the slowest of %d took %" PRIu64 " ms", n, worst);
	EXPECT_LE(worst, 2000U + patience(1000));
	EXPECT_EQ(0, shutdown(self->client, SHUT_WR));
	pthread_join(thread, NULL);
	EXPECT_CARRIED(20ULL * n);
}

int main(int argc, char **argv)
{
	return friends_main(argc, argv);
}
