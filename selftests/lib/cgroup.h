/* SPDX-License-Identifier: GPL-2.0 */
/* This file creates cgroups for tests. */
#ifndef _TCP_FRIENDS_CGROUP_H
#define _TCP_FRIENDS_CGROUP_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CGROUPS	"/sys/fs/cgroup"

static inline bool write_file(const char *dir, const char *name, const char *text)
{
	char path[512];
	bool written;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	written = write(fd, text, strlen(text)) > 0;
	close(fd);
	return written;
}

struct group {
	char dir[256];
};

/* Create a group and enter it. Return false if memory is not accounted. */
static inline bool group_make(struct group *g, const char *name)
{
	char path[512];

	snprintf(g->dir, sizeof(g->dir), CGROUPS "/tcp-friends-%s-%d", name,
		 getpid());
	snprintf(path, sizeof(path), "%s/memory.stat", g->dir);
	write_file(CGROUPS, "cgroup.subtree_control", "+memory");
	return !mkdir(g->dir, 0755) && !access(path, R_OK) &&
	       write_file(g->dir, "cgroup.procs", "0");
}

static inline void group_end(const struct group *g)
{
	write_file(CGROUPS, "cgroup.procs", "0");
	rmdir(g->dir);
}

#endif
