// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel's selftests are linked with this in place of unshare(2). A network
 * namespace that a test makes gets a name, through the guest's 'ip'. That 'ip'
 * switches friends on or off in the namespace, and keeps it until they are counted.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int __real_unshare(int flags);
int __wrap_unshare(int flags);

int __wrap_unshare(int flags)
{
	static int n;
	char cmd[64];
	int ret = __real_unshare(flags);

	if (ret || !(flags & CLONE_NEWNET))
		return ret;
	snprintf(cmd, sizeof(cmd), "ip netns attach unshared-%d-%d %d", getpid(), n++, gettid());
	if (system(cmd)) {
		fprintf(stderr, "'%s' failed\n", cmd);
		_exit(1);
	}
	return 0;
}
