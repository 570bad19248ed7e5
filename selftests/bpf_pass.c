// SPDX-License-Identifier: GPL-2.0
/*
 * A BPF program that lets all pass, for as long as this process lives:
 *
 * bpf_pass driver|generic DEVICE: XDP, in the device's driver or in the stack
 * bpf_pass egress|ingress DIR: of what the sockets of a cgroup send or receive
 *
 * Says "attached" when it is there.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct way {
	const char *name;
	int type, role, pass, flags;
} ways[] = {
	{ "driver", BPF_PROG_TYPE_XDP, BPF_XDP, XDP_PASS, XDP_FLAGS_DRV_MODE },
	{ "generic", BPF_PROG_TYPE_XDP, BPF_XDP, XDP_PASS, XDP_FLAGS_SKB_MODE },
	{ "egress", BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_EGRESS, 1, 0 },
	{ "ingress", BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_INGRESS, 1, 0 },
	{},
};

static int bpf(int cmd, union bpf_attr *attr)
{
	return syscall(__NR_bpf, cmd, attr, sizeof(*attr));
}

static int load(const struct way *way)
{
	const struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = way->pass },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr attr = {
		.prog_type = way->type,
		.expected_attach_type = way->role,
		.insns = (uintptr_t)insns,
		.insn_cnt = 2,
		.license = (uintptr_t)"GPL",
	};

	return bpf(BPF_PROG_LOAD, &attr);
}

static int attach(const struct way *way, int prog, int to)
{
	union bpf_attr attr = {
		.link_create = {
			.prog_fd = prog,
			.target_fd = to,
			.attach_type = way->role,
			.flags = way->flags,
		},
	};

	return bpf(BPF_LINK_CREATE, &attr);
}

int main(int argc, char **argv)
{
	const struct way *way = ways;
	int prog, to;

	while (argc == 3 && way->name && strcmp(way->name, argv[1]))
		way++;
	if (argc != 3 || !way->name) {
		fprintf(stderr, "usage: bpf_pass driver|generic DEVICE\n"
			"       bpf_pass egress|ingress CGROUP\n");
		return 2;
	}
	if (way->role == BPF_XDP) {
		to = if_nametoindex(argv[2]);
		if (!to)
			to = -1;
	} else {
		to = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (to < 0) {
		fprintf(stderr, "bpf_pass: %s: %s\n", argv[2], strerror(errno));
		return 1;
	}
	prog = load(way);
	if (prog < 0 || attach(way, prog, to) < 0) {
		fprintf(stderr, "bpf_pass: not attached to %s: %s\n", argv[2],
			strerror(errno));
		return 1;
	}
	puts("attached");
	fflush(stdout);
	pause();
	return 0;
}
