/* SPDX-License-Identifier: GPL-2.0 */
/*
 * This file holds the module's switch and counters, and how patient a test is.
 *
 * FRIENDS_SLOW=1 stands for the debug kernel: tests use less data, and have
 * more patience.
 *
 * This file needs no test harness, because programs without one use it too.
 */
#ifndef _TCP_FRIENDS_MODULE_H
#define _TCP_FRIENDS_MODULE_H

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stream.h"

#define FRIENDS_PROC	"/proc/thread-self/net/tcp_friends_stat"
#define FRIENDS_SYSCTL	"/proc/sys/net/ipv4/tcp_friends"

static inline bool slow(void)
{
	const char *s = getenv("FRIENDS_SLOW");

	return s && *s == '1';
}

/* Return an amount of work, which is reduced on the debug kernel. */
static inline uint64_t scaled(uint64_t n)
{
	return slow() ? (n + 15) / 16 : n;
}

/*
 * Return the longest time that something may take that should be over in @ms.
 */
static inline int patience(int ms)
{
	return slow() ? 20 * ms : ms;
}

static inline bool friends_loaded(void)
{
	return !access(FRIENDS_PROC, R_OK);
}

/* Write @value to a file under /proc/sys. Return 0 or -errno. */
static inline int sysctl_set(const char *file, const char *value)
{
	int fd = open(file, O_WRONLY), err = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, value, strlen(value)) < 0)
		err = -errno;
	close(fd);
	return err;
}

/*
 * These namespaces hold the server's and the client's sockets. Both are -1 if
 * there is only one.
 */
static int container_of_server = -1, container_of_client = -1;

static inline bool enter_container(int ns)
{
	return ns < 0 || !setns(ns, CLONE_NEWNET);
}

/* Write @value in both containers, if there are two. */
static inline int friends_sysctl_set(const char *file, const char *value)
{
	int err = sysctl_set(file, value);

	if (!err && container_of_server >= 0) {
		enter_container(container_of_server);
		err = sysctl_set(file, value);
		enter_container(container_of_client);
	}
	return err;
}

static inline int friends_set(const char *value)
{
	return friends_sysctl_set(FRIENDS_SYSCTL, value);
}

/* Set how often pairs revalidate, in ms. */
static inline int revalidate_set(const char *ms)
{
	return friends_sysctl_set(FRIENDS_SYSCTL "_revalidate_ms", ms);
}

static inline int friends_get(void)
{
	FILE *f = fopen(FRIENDS_SYSCTL, "r");
	int value = -1;

	if (!f)
		return -1;
	if (fscanf(f, "%d", &value) != 1)
		value = -1;
	fclose(f);
	return value;
}

/* Return the counter @name of this namespace, or 0 if there is none. */
static inline uint64_t friends_stat_here(const char *name)
{
	FILE *f = fopen(FRIENDS_PROC, "r");
	uint64_t value, found = 0;
	char line[64];

	if (!f)
		return 0;
	while (fscanf(f, "%63s %" SCNu64, line, &value) == 2) {
		if (!strcmp(line, name))
			found = value;
	}
	fclose(f);
	return found;
}

/*
 * Return the counter @name. If there are two containers, it is summed over
 * both, except for pairs, which are counted in each.
 */
static inline uint64_t friends_stat(const char *name)
{
	uint64_t value = friends_stat_here(name);

	if (container_of_server < 0 || !strncmp(name, "pairs", 5))
		return value;
	enter_container(container_of_server);
	value += friends_stat_here(name);
	enter_container(container_of_client);
	return value;
}

/*
 * Wait until the counter @name is @want, since counters lag for a moment.
 * Return its value.
 */
static inline uint64_t friends_stat_becomes(const char *name, uint64_t want)
{
	uint64_t end = now_ms() + patience(1000), value;

	while ((value = friends_stat(name)) != want && now_ms() < end)
		sleep_ms(1);
	return value;
}

/*
 * Append this namespace's counters to the file FRIENDS_COUNTERS, if there is
 * one. selftests/run adds them up.
 */
static inline void friends_tell(void)
{
	const char *to = getenv("FRIENDS_COUNTERS");
	char buf[4096];
	ssize_t n;
	int in, out;

	in = to ? open(FRIENDS_PROC, O_RDONLY | O_CLOEXEC) : -1;
	if (in < 0)
		return;
	n = read(in, buf, sizeof(buf));
	close(in);
	out = open(to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	/* Use one write, because other programs append at the same time. */
	if (out >= 0 && write(out, buf, n > 0 ? n : 0) < 0)
		perror(to);
	if (out >= 0)
		close(out);
}

/* Print every counter of the module that is not 0. */
static inline void friends_print_counters(void)
{
	FILE *f = fopen(FRIENDS_PROC, "r");
	uint64_t number;
	char line[128];

	while (f && fscanf(f, "%63s %" SCNu64, line, &number) == 2) {
		if (number)
			printf("#   %s %" PRIu64 "\n", line, number);
	}
	if (f)
		fclose(f);
}

/* Print the module's and the namespace's counters, to explain a failure. */
static inline void friends_print(void)
{
	static char names[8192], values[8192];
	char *name, *value, *n, *v;
	FILE *f;

	friends_print_counters();
	f = fopen("/proc/thread-self/net/netstat", "r");
	while (f && fgets(names, sizeof(names), f) &&
	       fgets(values, sizeof(values), f)) {
		name = strtok_r(names, " \n", &n);
		value = strtok_r(values, " \n", &v);
		if (!name || strcmp(name, "TcpExt:"))
			continue;
		printf("#  ");
		while ((name = strtok_r(NULL, " \n", &n)) &&
		       (value = strtok_r(NULL, " \n", &v))) {
			if (strcmp(value, "0"))
				printf(" %s %s", name, value);
		}
		printf("\n");
	}
	if (f)
		fclose(f);
}

#endif
