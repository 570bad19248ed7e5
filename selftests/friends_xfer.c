// SPDX-License-Identifier: GPL-2.0
/*
 * This program runs connections with checked streams both ways, for the shell
 * tests. Both ends belong to this process, in one network namespace or in two.
 * It exits with 0 only if each connection ended well and each byte arrived.
 */

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "lib/stream.h"

#define CONNECTIONS_MAX	64
/* Of the time between two looks at the streams, at most this much counts. */
#define OWN_MS_MAX	100

static const char usage_text[] =
"usage: friends_xfer [options]\n"
"Streams both ways until SIGTERM, or for -b bytes each way, or -r rounds of\n"
"request and response.\n"
"  -6            IPv6 (default IPv4)\n"
"  -a ADDR       the server's address (default localhost)\n"
"  -A ADDR       where clients connect to, if that leads to the server's address\n"
"  -p PORT       the server's port (default: any; printed as 'port N')\n"
"  -n N          connections (default 1)\n"
"  -b BYTES      each way on each connection\n"
"  -r ROUNDS     of request and response instead, 0 for until SIGTERM\n"
"  -z BYTES      the size of a request and a response (default 1)\n"
"  -i MS         between rounds\n"
"  -s SEED\n"
"  -t SECONDS    without a byte are a stall (default 20), of those in which this\n"
"                process could run\n"
"  -f            nobody reads until all ends have written what goes in\n"
"  -F            the kernel may inject faults into the threads that stream, and\n"
"                they go on after the errors of those\n"
"  -S FILE       the server's network namespace\n"
"  -C FILE       the client's network namespace\n"
"  -L LABEL      the server's label, as the security module has it\n"
"  -M LABEL      the client's\n";

static struct {
	int family;
	const char *address, *published;
	int port;
	int connections;
	uint64_t bytes;
	bool rounds_only;
	uint64_t rounds;
	size_t request;
	int pause;
	uint64_t seed;
	int stall;
	bool fill;
	bool faults;
	const char *server_ns, *client_ns;
	const char *server_label, *client_label;
} opt = {
	.family = AF_INET,
	.connections = 1,
	.bytes = ENDLESS,
	.request = 1,
	.seed = 1,
	.stall = 20,
};

static bool stop;

static void on_signal(int sig)
{
	(void)sig;
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
}

static void die(const char *what)
{
	fprintf(stderr, "friends_xfer: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void enter(const char *ns)
{
	int fd;

	if (!ns)
		return;
	fd = open(ns, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET))
		die(ns);
	close(fd);
}

/* Give the label @label to all that this thread creates from here on. */
static void take(const char *label)
{
	static const char file[] = "/proc/thread-self/attr/current";
	size_t len;
	int fd;

	if (!label)
		return;
	len = strlen(label);
	fd = open(file, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, label, len) != (ssize_t)len)
		die(file);
	close(fd);
}

/*
 * This is a connection: client out, client in, server out, server in.
 * Connections alternate between one thread for both halves of an end, which
 * polls, and a thread for each half, which blocks.
 */
struct connection {
	int client, server;
	struct half h[4];
	pthread_t poller[2];
};

static struct connection connections[CONNECTIONS_MAX];

static socklen_t address_of(struct sockaddr_storage *ss, const char *address)
{
	struct sockaddr_in6 *in6 = (void *)ss;
	struct sockaddr_in *in = (void *)ss;
	void *to = &in->sin_addr;

	if (!address)
		address = opt.family == AF_INET ? "127.0.0.1" : "::1";
	memset(ss, 0, sizeof(*ss));
	ss->ss_family = opt.family;
	if (opt.family == AF_INET6)
		to = &in6->sin6_addr;
	if (inet_pton(opt.family, address, to) != 1) {
		fprintf(stderr, "friends_xfer: %s is no address\n", address);
		exit(1);
	}
	/* sin_port and sin6_port are at the same place. */
	in->sin_port = htons(opt.port);
	return opt.family == AF_INET ? sizeof(*in) : sizeof(*in6);
}

static void connect_all(void)
{
	int listener, i, one = 1;
	struct sockaddr_storage ss;
	socklen_t len = address_of(&ss, opt.address);

	enter(opt.server_ns);
	take(opt.server_label);
	listener = socket(opt.family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0)
		die("socket");
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (void *)&ss, len))
		die("bind");
	if (listen(listener, CONNECTIONS_MAX))
		die("listen");
	if (getsockname(listener, (void *)&ss, &len))
		die("getsockname");
	opt.port = ntohs(((struct sockaddr_in *)&ss)->sin_port);
	if (opt.published)
		len = address_of(&ss, opt.published);

	enter(opt.client_ns);
	take(opt.client_label);
	for (i = 0; i < opt.connections; i++) {
		struct connection *c = &connections[i];

		c->client = socket(opt.family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (c->client < 0)
			die("socket");
		if (connect(c->client, (void *)&ss, len))
			die("connect");
		c->server = accept(listener, NULL, NULL);
		if (c->server < 0)
			die("accept");
	}
	close(listener);
	printf("port %d\n", opt.port);
	fflush(stdout);
}

/*
 * From here on, the kernel may inject faults into this thread, while injection is switched
 * on. The threads that start and watch this one must not fail.
 */
static void make_it_fail(void)
{
	static const char file[] = "/proc/thread-self/make-it-fail";
	int fd;

	if (!opt.faults)
		return;
	fd = open(file, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "1", 1) != 1)
		die(file);
	close(fd);
}

static void *poll_thread(void *arg)
{
	make_it_fail();
	halves_poll(arg, 2);
	return NULL;
}

static void *blocking_thread(void *arg)
{
	make_it_fail();
	return half_thread(arg);
}

static void init_streams(struct connection *c, int i)
{
	uint64_t there = mix(opt.seed + 2 * i), back = mix(opt.seed + 2 * i + 1);
	int k;

	half_init(&c->h[0], c->client, true, there, opt.bytes);
	half_init(&c->h[1], c->client, false, back, ENDLESS);
	half_init(&c->h[2], c->server, true, back, opt.bytes);
	half_init(&c->h[3], c->server, false, there, ENDLESS);
	for (k = 0; k < 4; k++) {
		c->h[k].stop = &stop;
		c->h[k].shut = true;
		c->h[k].stubborn = opt.faults;
		/* Copied pages and split skbs need memory as well. */
		c->h[k].zerocopy = opt.faults && i % 4 == 1;
		c->h[k].more = opt.faults && (i % 4 == 0 || i % 4 == 3);
		/* Some connections use large writes, and some small ones. */
		if (i % 4 >= 2)
			c->h[k].chunk = 4096;
	}
}

static const char *const half_name[4] = {
	"client writes", "client reads", "server writes", "server reads",
};

static void start_streams(struct connection *c, int i)
{
	pthread_t *thread;
	char name[16];
	int k, err;

	for (k = 0; k < 4; k++) {
		if (i % 2) {
			thread = &c->h[k].thread;
			err = pthread_create(thread, NULL, blocking_thread,
					     &c->h[k]);
			snprintf(name, sizeof(name), "%d %.12s", i % 100,
				 half_name[k]);
		} else if (k % 2) {
			thread = &c->poller[k / 2];
			err = pthread_create(thread, NULL, poll_thread,
					     &c->h[k - 1]);
			snprintf(name, sizeof(name), "%d %s polls", i % 100,
				 k / 2 ? "server" : "client");
		} else {
			continue;
		}
		if (err) {
			errno = err;
			die("thread");
		}
		pthread_setname_np(*thread, name);
	}
}

static void join_streams(struct connection *c, int i)
{
	int k;

	for (k = 0; k < 4; k++) {
		if (i % 2)
			half_join(&c->h[k]);
		else if (k % 2)
			pthread_join(c->poller[k / 2], NULL);
	}
}

/* Read the first @max characters of @file of the thread @task of this process. */
static void read_of_task(const char *task, const char *file, char *to, int max)
{
	char path[64];
	FILE *from;

	*to = '\0';
	snprintf(path, sizeof(path), "/proc/self/task/%.20s/%s", task, file);
	from = fopen(path, "r");
	if (!from)
		return;
	if (!fgets(to, max, from))
		*to = '\0';
	fclose(from);
}

/*
 * Print what each thread does. A thread that waits for the processor (R) is no
 * fault of a connection. A thread that sleeps (S) beside bytes to be read is
 * one.
 */
static void print_threads(FILE *f)
{
	DIR *tasks = opendir("/proc/self/task");
	char stat[64], wchan[64], *behind;
	const struct dirent *d;

	while (tasks && (d = readdir(tasks))) {
		if (d->d_name[0] == '.')
			continue;
		read_of_task(d->d_name, "stat", stat, sizeof(stat));
		read_of_task(d->d_name, "wchan", wchan, sizeof(wchan));
		/* Keep all up to the state, which is behind the name. */
		behind = strrchr(stat, ')');
		if (behind)
			behind[3] = '\0';
		fprintf(f, "#   thread %s in %s\n", stat, wchan);
	}
	if (tasks)
		closedir(tasks);
}

/*
 * Return the milliseconds that this process could have used. This leaves out the time in
 * which the process was stopped, or in which not even this thread, which seldom runs, had a
 * processor.
 */
static uint64_t own_ms(void)
{
	static uint64_t last, own;
	uint64_t now = now_ms();

	if (last)
		own += now - last < OWN_MS_MAX ? now - last : OWN_MS_MAX;
	last = now;
	return own;
}

/* Return true while a half is not over. Exit on a stall. */
static bool watch_streams(void)
{
	static uint64_t seen[CONNECTIONS_MAX][4], since[CONNECTIONS_MAX][4];
	uint64_t now = own_ms(), done;
	bool live = false;
	int i, k;

	for (i = 0; i < opt.connections; i++) {
		for (k = 0; k < 4; k++) {
			const struct half *h = &connections[i].h[k];

			if (half_over(h))
				continue;
			live = true;
			done = half_done(h);
			if (done != seen[i][k] || !since[i][k]) {
				seen[i][k] = done;
				since[i][k] = now;
			}
			if (now - since[i][k] < opt.stall * 1000ULL)
				continue;
			fprintf(stderr,
				"friends_xfer: stalled: connection %d, %s, at %"
				PRIu64 "\n", i, half_name[k], done);
			stream_print(stderr, "client", connections[i].client);
			stream_print(stderr, "server", connections[i].server);
			print_threads(stderr);
			exit(3);
		}
	}
	return live;
}

/* Return the number of faults of one direction. */
static int judge(int i, const struct half *out, const struct half *in)
{
	int faults = 0;

	if (out->err || in->err) {
		fprintf(stderr,
			"friends_xfer: connection %d: write: %s, read: %s\n",
			i, strerror(out->err), strerror(in->err));
		faults++;
	}
	if (out->done != in->done) {
		fprintf(stderr, "friends_xfer: connection %d: %" PRIu64
			" bytes written, %" PRIu64 " read\n",
			i, out->done, in->done);
		faults++;
	}
	if (in->wrong >= 0) {
		fprintf(stderr, "friends_xfer: connection %d: byte %" PRId64
			" is wrong\n", i, in->wrong);
		faults++;
	}
	if (!in->eof) {
		fprintf(stderr, "friends_xfer: connection %d: no end\n", i);
		faults++;
	}
	return faults;
}

/* Write without a thread, so that what fits does not depend on which thread runs when. */
static void fill(struct half *h)
{
	uint64_t before;

	do {
		before = h->done;
		half_write(h, MSG_DONTWAIT);
	} while (!h->over && h->done != before);
}

static int run_streams(void)
{
	uint64_t moved = 0, refused = 0;
	int i, k, faults = 0, one = 1;

	for (i = 0; i < opt.connections && opt.faults; i++) {
		if (i % 4 != 1)
			continue;
		if (setsockopt(connections[i].client, SOL_SOCKET, SO_ZEROCOPY,
			       &one, sizeof(one)) ||
		    setsockopt(connections[i].server, SOL_SOCKET, SO_ZEROCOPY,
			       &one, sizeof(one)))
			die("SO_ZEROCOPY");
	}
	for (i = 0; i < opt.connections; i++) {
		init_streams(&connections[i], i);
		if (!opt.fill)
			continue;
		fill(&connections[i].h[0]);
		fill(&connections[i].h[2]);
	}
	for (i = 0; i < opt.connections; i++)
		start_streams(&connections[i], i);
	while (watch_streams())
		sleep_ms(5);
	for (i = 0; i < opt.connections; i++) {
		struct connection *c = &connections[i];

		join_streams(c, i);
		faults += judge(i, &c->h[0], &c->h[3]);
		faults += judge(i, &c->h[2], &c->h[1]);
		moved += c->h[1].done + c->h[3].done;
		for (k = 0; k < 4; k++)
			refused += c->h[k].refused;
		close(c->client);
		close(c->server);
	}
	printf("connections %d bytes %" PRIu64 " faults %d refused %" PRIu64
	       "\n", opt.connections, moved, faults, refused);
	return faults;
}

/* Pass one message of @len bytes from @from to @to, and check it. */
static int pass(int from, int to, uint64_t seed, uint64_t pos, size_t len)
{
	static char buf[CHUNK_MAX];
	size_t at = 0;
	ssize_t n;

	pattern_fill(buf, len, seed, pos);
	if (send(from, buf, len, MSG_NOSIGNAL) != (ssize_t)len) {
		perror("friends_xfer: send");
		return 1;
	}
	memset(buf, 0, len);
	while (at < len) {
		struct pollfd p = { .fd = to, .events = POLLIN };

		if (!poll(&p, 1, opt.stall * 1000)) {
			fprintf(stderr, "friends_xfer: stalled at %" PRIu64
				"\n", pos + at);
			exit(3);
		}
		n = recv(to, buf + at, len - at, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n <= 0) {
			fprintf(stderr, "friends_xfer: recv: %s\n",
				n ? strerror(errno) : "the end");
			return 1;
		}
		at += n;
	}
	if (pattern_check(buf, len, seed, pos) >= 0) {
		fprintf(stderr, "friends_xfer: wrong bytes at %" PRIu64 "\n",
			pos);
		return 1;
	}
	return 0;
}

static int run_rounds(void)
{
	uint64_t done = 0, pos = 0;
	int i, faults = 0;

	while (!faults && !__atomic_load_n(&stop, __ATOMIC_RELAXED) &&
	       (!opt.rounds || done < opt.rounds)) {
		for (i = 0; i < opt.connections; i++) {
			struct connection *c = &connections[i];

			faults += pass(c->client, c->server, opt.seed, pos,
				       opt.request);
			faults += pass(c->server, c->client, ~opt.seed, pos,
				       opt.request);
		}
		pos += opt.request;
		done++;
		if (opt.pause)
			sleep_ms(opt.pause);
	}
	for (i = 0; i < opt.connections; i++) {
		struct connection *c = &connections[i];
		char b;

		/* Close in a fixed order, so that the segments do not vary. */
		close(c->client);
		if (recv(c->server, &b, 1, 0))
			faults++;
		close(c->server);
	}
	printf("connections %d rounds %" PRIu64 " faults %d\n",
	       opt.connections, done, faults);
	return faults;
}

static void parse(int argc, char **argv)
{
	int c;

	while ((c = getopt(argc, argv, "6a:A:p:n:b:r:z:i:s:t:fFS:C:L:M:h")) != -1) {
		switch (c) {
		case '6':
			opt.family = AF_INET6;
			break;
		case 'a':
			opt.address = optarg;
			break;
		case 'A':
			opt.published = optarg;
			break;
		case 'p':
			opt.port = atoi(optarg);
			break;
		case 'n':
			opt.connections = atoi(optarg);
			break;
		case 'b':
			opt.bytes = strtoull(optarg, NULL, 0);
			break;
		case 'r':
			opt.rounds_only = true;
			opt.rounds = strtoull(optarg, NULL, 0);
			break;
		case 'z':
			opt.request = strtoul(optarg, NULL, 0);
			break;
		case 'i':
			opt.pause = atoi(optarg);
			break;
		case 's':
			opt.seed = strtoull(optarg, NULL, 0);
			break;
		case 't':
			opt.stall = atoi(optarg);
			break;
		case 'f':
			opt.fill = true;
			break;
		case 'F':
			opt.faults = true;
			break;
		case 'S':
			opt.server_ns = optarg;
			break;
		case 'C':
			opt.client_ns = optarg;
			break;
		case 'L':
			opt.server_label = optarg;
			break;
		case 'M':
			opt.client_label = optarg;
			break;
		default:
			fputs(usage_text, c == 'h' ? stdout : stderr);
			exit(c == 'h' ? 0 : 2);
		}
	}
	if (optind < argc || opt.connections < 1 ||
	    opt.connections > CONNECTIONS_MAX || opt.request < 1 ||
	    opt.request > CHUNK_MAX || (opt.faults && opt.rounds_only)) {
		fputs(usage_text, stderr);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	/* No call has to be interrupted, because the flag is enough. */
	struct sigaction sa = { .sa_handler = on_signal,
				.sa_flags = SA_RESTART };

	parse(argc, argv);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	connect_all();
	return (opt.rounds_only ? run_rounds() : run_streams()) ? 1 : 0;
}
