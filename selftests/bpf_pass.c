// SPDX-License-Identifier: GPL-2.0
/*
 * This program attaches a BPF program that passes everything, for as long as this process
 * lives:
 *
 * bpf_pass driver|generic DEVICE: XDP, in the device's driver or in the stack
 * bpf_pass egress|ingress DIR: for what the sockets of a cgroup send or receive
 *
 * Or it attaches an XDP program in the stack that sends incoming packets to other devices:
 *
 * bpf_pass spread DEVICE TO...
 *
 * It prints "attached" when the BPF program is attached.
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
	{ "spread", BPF_PROG_TYPE_XDP, BPF_XDP, XDP_REDIRECT, XDP_FLAGS_SKB_MODE },
	{ "egress", BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_EGRESS, 1, 0 },
	{ "ingress", BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_INGRESS, 1, 0 },
	{},
};

static int bpf(int cmd, union bpf_attr *attr)
{
	return syscall(__NR_bpf, cmd, attr, sizeof(*attr));
}

static int load_insns(const struct way *way, const struct bpf_insn *insns, int n)
{
	union bpf_attr attr = {
		.prog_type = way->type,
		.expected_attach_type = way->role,
		.insns = (uintptr_t)insns,
		.insn_cnt = n,
		.license = (uintptr_t)"GPL",
	};

	return bpf(BPF_PROG_LOAD, &attr);
}

static int load(const struct way *way)
{
	const struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = way->pass },
		{ .code = BPF_JMP | BPF_EXIT },
	};

	return load_insns(way, insns, 2);
}

/* Create a map of the @n devices with those @names. Return its descriptor, or -1. */
static int devices(char **names, int n)
{
	union bpf_attr new = {
		.map_type = BPF_MAP_TYPE_DEVMAP,
		.key_size = 4,
		.value_size = 4,
		.max_entries = n,
	};
	int map = bpf(BPF_MAP_CREATE, &new);

	for (uint32_t i = 0; map >= 0 && i < (uint32_t)n; i++) {
		uint32_t index = if_nametoindex(names[i]);
		union bpf_attr set = {
			.map_fd = map,
			.key = (uintptr_t)&i,
			.value = (uintptr_t)&index,
		};

		if (!index || bpf(BPF_MAP_UPDATE_ELEM, &set))
			return -1;
	}
	return map;
}

/* The program is: return bpf_redirect_map(map, 0, BPF_F_BROADCAST) */
static int load_spread(const struct way *way, int map)
{
	const struct bpf_insn insns[] = {
		{ .code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = 1,
		  .src_reg = BPF_PSEUDO_MAP_FD, .imm = map },
		{},
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 2 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3, .imm = BPF_F_BROADCAST },
		{ .code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_redirect_map },
		{ .code = BPF_JMP | BPF_EXIT },
	};

	return map < 0 ? -1 : load_insns(way, insns, 6);
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

	while (argc >= 3 && way->name && strcmp(way->name, argv[1]))
		way++;
	if (argc < 3 || !way->name || (argc > 3) != (way->pass == XDP_REDIRECT)) {
		fprintf(stderr, "usage: bpf_pass driver|generic DEVICE\n"
			"       bpf_pass egress|ingress CGROUP\n"
			"       bpf_pass spread DEVICE TO...\n");
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
	prog = argc > 3 ? load_spread(way, devices(argv + 3, argc - 3)) : load(way);
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
