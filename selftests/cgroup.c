// SPDX-License-Identifier: GPL-2.0
/* Cgroups whose BPF programs judge the packets of the sockets in them, or keep them
 * from using friends.
 */

#include <stddef.h>

#include "bpf.h"
#include "cgroup.h"

#define SEED	0x6367726fULL

CONNECTION_FIXTURE(cgroup);

/* A connection both of whose ends belong to a group of their own. */
struct judged {
	struct group group;
	int dir;
	int client;
	int server;
};

/* A program that gives each connection, as it is established, a rate that is not to
 * be exceeded: the largest there is.
 */
static int load_pacer(struct __test_metadata *_metadata)
{
	const struct bpf_insn insns[] = {
		/* r2 = the callback's number, which is 4 or 5 */
		INSN(.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = BPF_REG_2,
		     .src_reg = BPF_REG_1, .off = offsetof(struct bpf_sock_ops, op)),
		INSN(.code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = BPF_REG_2, .off = 1,
		     .imm = BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB),
		INSN(.code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = BPF_REG_2, .off = 7,
		     .imm = BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB),
		INSN(.code = BPF_ST | BPF_MEM | BPF_W, .dst_reg = BPF_REG_10, .off = -4,
		     .imm = -2),
		INSN(.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_2,
		     .imm = SOL_SOCKET),
		INSN(.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_3,
		     .imm = SO_MAX_PACING_RATE),
		INSN(.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = BPF_REG_4,
		     .src_reg = BPF_REG_10),
		INSN(.code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = BPF_REG_4, .imm = -4),
		INSN(.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_5, .imm = 4),
		INSN(.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_setsockopt),
		INSN(.code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = 1),
		INSN(.code = BPF_JMP | BPF_EXIT),
	};

	return bpf_load(_metadata, BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS, insns,
			sizeof(insns) / sizeof(*insns));
}

/* Paced: with that program, attached before. */
static bool judged_begin(struct __test_metadata *_metadata, struct judged *j,
			 enum ends ends, bool friends, bool paced)
{
	uint64_t before = friends_stat("pairs_total");
	int listener;

	if (!group_make(&j->group, "judges")) {
		group_end(&j->group);
		return false;
	}
	j->dir = open(j->group.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ASSERT_LE(0, j->dir);
	if (paced)
		bpf_attach(_metadata, j->dir, BPF_CGROUP_SOCK_OPS,
			   load_pacer(_metadata));
	listener = listener_for(_metadata, ends, NULL);
	j->client = client_for(_metadata, ends, listener, NULL);
	j->server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	ASSERT_LE(0, j->server);
	close(listener);
	ASSERT_EQ(before + friends,
		  friends_stat_becomes("pairs_total", before + friends));
	talk(_metadata, j->client, j->server);
	return true;
}

static void judged_end(struct judged *j)
{
	close(j->client);
	close(j->server);
	close(j->dir);
	group_end(&j->group);
}

static int judge(struct __test_metadata *_metadata, struct judged *j,
		 enum bpf_attach_type role, int verdict)
{
	int prog = bpf_load_constant(_metadata, BPF_PROG_TYPE_CGROUP_SKB, role,
				     verdict);

	bpf_attach(_metadata, j->dir, role, prog);
	return prog;
}

static void acquit(struct __test_metadata *_metadata, struct judged *j,
		   enum bpf_attach_type role, int prog)
{
	bpf_detach(_metadata, j->dir, role, prog);
	close(prog);
}

/* Friends carry what the wire's judges do not see, and only that. */
static void judged(struct __test_metadata *_metadata, enum ends ends,
		   bool friends, enum bpf_attach_type role)
{
	struct pollfd readable = { .events = POLLIN };
	uint64_t bytes, left;
	struct judged j;
	int prog;

	if (!judged_begin(_metadata, &j, ends, friends, false))
		SKIP(return, "no cgroups with memory at " CGROUPS);

	bytes = friends_stat("bytes");
	left = fell_for("wire_cgroup");
	prog = judge(_metadata, &j, role, 1);
	talk(_metadata, j.client, j.server);
	EXPECT_EQ(bytes, friends_stat("bytes"));
	if (friends)
		EXPECT_LT(left, fell_for("wire_cgroup"));
	acquit(_metadata, &j, role, prog);

	/* What is dropped comes once it no longer is. */
	prog = judge(_metadata, &j, role, 0);
	send_pattern(_metadata, j.client, SEED, 0, 1000, 0);
	readable.fd = j.server;
	EXPECT_EQ(0, poll(&readable, 1, 500));
	acquit(_metadata, &j, role, prog);
	recv_pattern(_metadata, j.server, SEED, 0, 1000);
	EXPECT_EQ(bytes, friends_stat("bytes"));

	/* The wire's last ACK may be on its way. */
	sleep_ms(patience(100));
	bytes = friends_stat("bytes");
	left = talk(_metadata, j.client, j.server);
	EXPECT_EQ(bytes + (friends ? left : 0), friends_stat("bytes"));
	judged_end(&j);
}

TEST_F(cgroup, judges_what_is_sent)
{
	judged(_metadata, variant->ends, variant->friends,
	       BPF_CGROUP_INET_EGRESS);
	EXPECT_CARRIED_ANY();
}

TEST_F(cgroup, judges_what_is_received)
{
	judged(_metadata, variant->ends, variant->friends,
	       BPF_CGROUP_INET_INGRESS);
	EXPECT_CARRIED_ANY();
}

/* A program of the cgroup keeps its connections off the friend path. */
TEST_F(cgroup, opts_out)
{
	uint64_t bytes = friends_stat("bytes"), paced = friends_stat("wire_paced");
	unsigned int rate = 0;
	socklen_t len = sizeof(rate);
	struct judged j;

	if (!judged_begin(_metadata, &j, variant->ends, variant->friends, true))
		SKIP(return, "no cgroups with memory at " CGROUPS);
	talk(_metadata, j.client, j.server);
	EXPECT_EQ(bytes, friends_stat("bytes"));
	if (variant->friends)
		EXPECT_LT(paced, friends_stat("wire_paced"));
	EXPECT_EQ(0, getsockopt(j.server, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, &len));
	EXPECT_EQ(-2U, rate);

	/* Taken back, it is off no more. */
	set_int(_metadata, j.client, SOL_SOCKET, SO_MAX_PACING_RATE, -1);
	set_int(_metadata, j.server, SOL_SOCKET, SO_MAX_PACING_RATE, -1);
	sleep_ms(patience(100));
	bytes = friends_stat("bytes");
	paced = talk(_metadata, j.client, j.server);
	EXPECT_EQ(bytes + (variant->friends ? paced : 0), friends_stat("bytes"));
	judged_end(&j);
	EXPECT_CARRIED_ANY();
}

int main(int argc, char **argv)
{
	return friends_main(argc, argv);
}
