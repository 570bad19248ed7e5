// SPDX-License-Identifier: GPL-2.0
/*
 * xdp DEVICE driver|generic: a program that lets all pass, in the device's driver or
 * in the stack, for as long as this process lives. Says "attached" when it is there.
 */

#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int bpf(int cmd, union bpf_attr *attr)
{
	return syscall(__NR_bpf, cmd, attr, sizeof(*attr));
}

static int load(void)
{
	static const struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = XDP_PASS },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr attr = {
		.prog_type = BPF_PROG_TYPE_XDP,
		.insns = (uintptr_t)insns,
		.insn_cnt = 2,
		.license = (uintptr_t)"GPL",
	};

	return bpf(BPF_PROG_LOAD, &attr);
}

static int attach(int prog, int ifindex, int mode)
{
	union bpf_attr attr = {
		.link_create = {
			.prog_fd = prog,
			.target_ifindex = ifindex,
			.attach_type = BPF_XDP,
			.flags = mode,
		},
	};

	return bpf(BPF_LINK_CREATE, &attr);
}

int main(int argc, char **argv)
{
	int prog, ifindex, mode;

	if (argc == 3 && !strcmp(argv[2], "driver")) {
		mode = XDP_FLAGS_DRV_MODE;
	} else if (argc == 3 && !strcmp(argv[2], "generic")) {
		mode = XDP_FLAGS_SKB_MODE;
	} else {
		fprintf(stderr, "usage: xdp DEVICE driver|generic\n");
		return 2;
	}
	ifindex = if_nametoindex(argv[1]);
	if (!ifindex) {
		fprintf(stderr, "xdp: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	prog = load();
	if (prog < 0 || attach(prog, ifindex, mode) < 0) {
		fprintf(stderr, "xdp: not attached to %s: %s\n", argv[1],
			strerror(errno));
		return 1;
	}
	puts("attached");
	fflush(stdout);
	pause();
	return 0;
}
