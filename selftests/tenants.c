// SPDX-License-Identifier: GPL-2.0
/*
 * This program opens many short connections of several tenants at once, whose addresses are
 * equal. Each connection must reach its own tenant's server.
 *
 * Each tenant has one namespace for its server and one for its client. The server reports
 * its own name and repeats what it was sent, and the client checks both.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define TENANTS_MAX	16
#define PORT		5001
/* Each tenant has so many connections at once, each in a thread of its own. */
#define CONNECTIONS_AT_ONCE	4

static const char usage_text[] =
"usage: tenants [--hold] ADDRESS CONNECTIONS SERVER-NS CLIENT-NS [SERVER-NS CLIENT-NS]...\n"
"Prints how many connections were made, and fails when one was not right. With --hold\n"
"all are kept until the end of standard input.\n";

struct message {
	uint64_t tenant;
	uint64_t nonce;
};

struct tenant {
	const char *server_ns, *client_ns;
	uint64_t name;
	int listener;
	pthread_t server, client[CONNECTIONS_AT_ONCE];
};

static struct tenant tenants[TENANTS_MAX];
static struct sockaddr_in address = { .sin_family = AF_INET };
static long wanted;
static long begun, made, wrong;
static bool hold;

static void die(const char *what)
{
	fprintf(stderr, "tenants: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void enter(const char *ns)
{
	int fd = open(ns, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || setns(fd, CLONE_NEWNET))
		die(ns);
	close(fd);
}

static bool get(int fd, struct message *m)
{
	return recv(fd, m, sizeof(*m), MSG_WAITALL) == sizeof(*m);
}

static bool put(int fd, const struct message *m)
{
	return send(fd, m, sizeof(*m), MSG_NOSIGNAL) == sizeof(*m);
}

static void *serve(void *arg)
{
	struct tenant *t = arg;
	struct message m;
	int fd;

	for (;;) {
		fd = accept4(t->listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			return NULL;
		if (get(fd, &m)) {
			/* The client must be one of this server's tenant. */
			if (m.tenant != t->name)
				__atomic_fetch_add(&wrong, 1, __ATOMIC_RELAXED);
			m.tenant = t->name;
			put(fd, &m);
		}
		if (!hold)
			close(fd);
	}
}

/* Make a connection. A reset at its end keeps no port. */
static void visit(struct tenant *t, uint64_t nonce)
{
	struct linger reset = { .l_onoff = 1, .l_linger = 0 };
	struct message m = { .tenant = t->name, .nonce = nonce };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
		die("connect");
	if (!put(fd, &m) || !get(fd, &m))
		die("a connection broke");
	if (m.tenant != t->name || m.nonce != nonce)
		__atomic_fetch_add(&wrong, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&made, 1, __ATOMIC_RELAXED);
	if (hold)
		return;
	if (nonce & 1)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(fd);
}

static void *connect_thread(void *arg)
{
	struct tenant *t = arg;
	uint64_t nonce = (uintptr_t)&nonce;

	enter(t->client_ns);
	while (__atomic_fetch_add(&begun, 1, __ATOMIC_RELAXED) < wanted) {
		nonce = nonce * 6364136223846793005ULL + 1442695040888963407ULL;
		if (!(nonce >> 60))
			sched_yield();
		visit(t, nonce >> 8);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct rlimit limit = { 1 << 20, 1 << 20 };
	int n, i, k;

	if (argc > 1 && !strcmp(argv[1], "--hold")) {
		hold = true;
		argv++;
		argc--;
		if (setrlimit(RLIMIT_NOFILE, &limit))
			die("setrlimit");
	}
	n = (argc - 3) / 2;

	if (argc < 5 || argc % 2 == 0 || n > TENANTS_MAX ||
	    inet_pton(AF_INET, argv[1], &address.sin_addr) != 1) {
		fputs(usage_text, stderr);
		return 2;
	}
	wanted = atol(argv[2]);
	address.sin_port = htons(PORT);
	for (i = 0; i < n; i++) {
		struct tenant *t = &tenants[i];
		int one = 1;

		t->server_ns = argv[3 + 2 * i];
		t->client_ns = argv[4 + 2 * i];
		t->name = 0x74656e616e740000ULL + i;
		enter(t->server_ns);
		t->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (t->listener < 0)
			die("socket");
		setsockopt(t->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (bind(t->listener, (struct sockaddr *)&address, sizeof(address)))
			die("bind");
		if (listen(t->listener, 128))
			die("listen");
		if (pthread_create(&t->server, NULL, serve, t))
			die("pthread_create");
	}
	for (i = 0; i < n; i++) {
		for (k = 0; k < CONNECTIONS_AT_ONCE; k++) {
			if (pthread_create(&tenants[i].client[k], NULL,
					   connect_thread, &tenants[i]))
				die("pthread_create");
		}
	}
	for (i = 0; i < n; i++) {
		for (k = 0; k < CONNECTIONS_AT_ONCE; k++)
			pthread_join(tenants[i].client[k], NULL);
	}
	printf("made %ld wrong %ld\n", made, wrong);
	fflush(stdout);
	if (hold) {
		while (read(STDIN_FILENO, &i, sizeof(i)) > 0)
			;
	}
	return wrong || made != wanted;
}
