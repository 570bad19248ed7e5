/* SPDX-License-Identifier: GPL-2.0 */
/* These BPF programs are so small that they are written by hand. */
#ifndef _TCP_FRIENDS_BPF_H
#define _TCP_FRIENDS_BPF_H

#include <linux/bpf.h>
#include <sys/syscall.h>

#include "friends.h"

#define INSN(...)	((struct bpf_insn){ __VA_ARGS__ })

static inline int sys_bpf(int cmd, union bpf_attr *attr)
{
	return syscall(__NR_bpf, cmd, attr, sizeof(*attr));
}

/* Load @n instructions, a program for @role. Return its descriptor. */
static inline int bpf_load(struct __test_metadata *_metadata,
			   enum bpf_prog_type type, enum bpf_attach_type role,
			   const struct bpf_insn *insns, int n)
{
	static char log[65536];
	union bpf_attr attr = {
		.prog_type = type,
		.expected_attach_type = role,
		.insns = (uintptr_t)insns,
		.insn_cnt = n,
		.license = (uintptr_t)"GPL",
		.log_buf = (uintptr_t)log,
		.log_size = sizeof(log),
		.log_level = 1,
	};
	int prog = sys_bpf(BPF_PROG_LOAD, &attr);

	ASSERT_LE(0, prog) TH_LOG("BPF_PROG_LOAD: %m: %s", log);
	return prog;
}

/* Attach @prog as @role to @to, which is a map or a cgroup. */
static inline void bpf_attach(struct __test_metadata *_metadata, int to,
			      enum bpf_attach_type role, int prog)
{
	union bpf_attr attr = {
		.target_fd = to,
		.attach_bpf_fd = prog,
		.attach_type = role,
	};

	ASSERT_EQ(0, sys_bpf(BPF_PROG_ATTACH, &attr))
		TH_LOG("BPF_PROG_ATTACH: %m");
}

/* Detach @prog again. */
static inline void bpf_detach(struct __test_metadata *_metadata, int from,
			      enum bpf_attach_type role, int prog)
{
	union bpf_attr attr = {
		.target_fd = from,
		.attach_bpf_fd = prog,
		.attach_type = role,
	};

	ASSERT_EQ(0, sys_bpf(BPF_PROG_DETACH, &attr))
		TH_LOG("BPF_PROG_DETACH: %m");
}

/* Load a program that returns @value. */
static inline int bpf_load_constant(struct __test_metadata *_metadata,
				    enum bpf_prog_type type,
				    enum bpf_attach_type role, int value)
{
	const struct bpf_insn insns[] = {
		INSN(.code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = value),
		INSN(.code = BPF_JMP | BPF_EXIT),
	};

	return bpf_load(_metadata, type, role, insns, 2);
}

#endif
