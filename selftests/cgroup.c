// SPDX-License-Identifier: GPL-2.0
/* These tests use cgroups whose BPF programs judge the packets of the sockets in them, or
 * keep these sockets from using friends.
 */

#include <stddef.h>

#include "lib/bpf.h"
#include "lib/cgroup.h"

#define SEED	0x6367726fULL

CONNECTION_FIXTURE(cgroup);

/* This is a connection whose two ends belong to a group of their own. */
struct judged {
	struct group group;
	int dir;
	int client;
	int server;
};

/* Load a program that gives each connection, when it is established, a maximum pacing rate:
 * the largest one that there is.
 */
static int load_pacer(struct __test_metadata *_metadata)
{
	const struct bpf_insn insns[] = {
		/* r2 is the callback's number, which is 4 or 5 */
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

/*
 * Open a connection in a new group. @prog, unless it is 0, is attached first, to callbacks
 * of sockets.
 */
static bool judged_begin(struct __test_metadata *_metadata, struct judged *j,
			 enum ends ends, bool friends, int prog)
{
	uint64_t before = friends_stat("pairs_total");
	int listener;

	if (!group_make(&j->group, "judges")) {
		group_end(&j->group);
		return false;
	}
	j->dir = open(j->group.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ASSERT_LE(0, j->dir);
	if (prog)
		bpf_attach(_metadata, j->dir, BPF_CGROUP_SOCK_OPS, prog);
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

/* Friends carry data only while no program judges it on the wire. */
static void judged(struct __test_metadata *_metadata, enum ends ends,
		   bool friends, enum bpf_attach_type role)
{
	struct pollfd readable = { .events = POLLIN };
	uint64_t bytes, left;
	struct judged j;
	int prog;

	if (!judged_begin(_metadata, &j, ends, friends, 0))
		SKIP(return, "no cgroups with memory at " CGROUPS);

	bytes = friends_stat("bytes");
	left = fell_for("wire_cgroup");
	prog = judge(_metadata, &j, role, 1);
	talk(_metadata, j.client, j.server);
	EXPECT_EQ(bytes, friends_stat("bytes"));
	if (friends)
		EXPECT_LT(left, fell_for("wire_cgroup"));
	acquit(_metadata, &j, role, prog);

	/* Data that is dropped comes once it no longer is. */
	prog = judge(_metadata, &j, role, 0);
	send_pattern(_metadata, j.client, SEED, 0, 1000, 0);
	readable.fd = j.server;
	EXPECT_EQ(0, poll(&readable, 1, 500));
	acquit(_metadata, &j, role, prog);
	recv_pattern(_metadata, j.server, SEED, 0, 1000);
	EXPECT_EQ(bytes, friends_stat("bytes"));

	/* The last ACK may still be on the wire. */
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

/* A program of the cgroup keeps the connections of the cgroup on the wire. */
TEST_F(cgroup, opts_out)
{
	uint64_t bytes = friends_stat("bytes"), paced = friends_stat("wire_paced");
	unsigned int rate = 0;
	socklen_t len = sizeof(rate);
	struct judged j;

	if (!judged_begin(_metadata, &j, variant->ends, variant->friends,
			  load_pacer(_metadata)))
		SKIP(return, "no cgroups with memory at " CGROUPS);
	talk(_metadata, j.client, j.server);
	EXPECT_EQ(bytes, friends_stat("bytes"));
	if (variant->friends)
		EXPECT_LT(paced, friends_stat("wire_paced"));
	EXPECT_EQ(0, getsockopt(j.server, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, &len));
	EXPECT_EQ(-2U, rate);

	/* Without the pacing rate, friends carry data again. */
	set_int(_metadata, j.client, SOL_SOCKET, SO_MAX_PACING_RATE, -1);
	set_int(_metadata, j.server, SOL_SOCKET, SO_MAX_PACING_RATE, -1);
	sleep_ms(patience(100));
	bytes = friends_stat("bytes");
	paced = talk(_metadata, j.client, j.server);
	EXPECT_EQ(bytes + (variant->friends ? paced : 0), friends_stat("bytes"));
	judged_end(&j);
	EXPECT_CARRIED_ANY();
}

/*
 * One end is in the group. It sends, or it receives if the program judges what is sent. The
 * program therefore judges only ACKs, which friends do not send.
 */
static void judged_acks(struct __test_metadata *_metadata, enum ends ends,
			bool friends, enum bpf_attach_type role)
{
	uint64_t before = friends_stat("pairs"), fell;
	bool sends = role == BPF_CGROUP_INET_INGRESS;
	int listener = listener_for(_metadata, ends, NULL);
	int from, to, n = -1, prog;
	struct judged j = {};
	union address a;
	socklen_t len;

	/* The listener is outside the group, and so are the sockets that it accepts. */
	if (!group_make(&j.group, "acks")) {
		group_end(&j.group);
		SKIP(return, "no cgroups with memory at " CGROUPS);
	}
	j.dir = open(j.group.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ASSERT_LE(0, j.dir);
	j.client = socket(family_of(ends), SOCK_STREAM | SOCK_CLOEXEC, 0);
	ASSERT_LE(0, j.client);
	len = address_of(&a, family_of(ends), localhost(ends), port_of(listener));
	ASSERT_EQ(0, connect(j.client, &a.sa, len));
	write_file(CGROUPS, "cgroup.procs", "0");
	j.server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	ASSERT_LE(0, j.server);
	close(listener);
	ASSERT_EQ(before + friends, friends_stat_becomes("pairs", before + friends));
	talk(_metadata, j.client, j.server);
	sleep_ms(QUIET);

	from = sends ? j.client : j.server;
	to = sends ? j.server : j.client;
	fell = fell_for("wire_cgroup");
	prog = judge(_metadata, &j, role, 0);
	send_pattern(_metadata, from, SEED, 0, 1000, 0);
	recv_pattern(_metadata, to, SEED, 0, 1000);
	sleep_ms(300);
	ASSERT_EQ(0, ioctl(from, SIOCOUTQ, &n));
	EXPECT_EQ(1000, n);
	acquit(_metadata, &j, role, prog);
	if (friends)
		EXPECT_LT(fell, fell_for("wire_cgroup"));
	expect_acked(_metadata, from);
	judged_end(&j);
}

TEST_F(cgroup, judges_acks_received)
{
	judged_acks(_metadata, variant->ends, variant->friends, BPF_CGROUP_INET_INGRESS);
	EXPECT_CARRIED_ANY();
}

TEST_F(cgroup, judges_acks_sent)
{
	judged_acks(_metadata, variant->ends, variant->friends, BPF_CGROUP_INET_EGRESS);
	EXPECT_CARRIED_ANY();
}

/* Calls of programs are counted for so many callbacks. */
#define CALLBACKS	32

/* The headers may be too old for these constants. */
#define TSTAMP_ACK_CB		19	/* BPF_SOCK_OPS_TSTAMP_ACK_CB */
#define TSTAMP_SENDMSG_CB	20	/* BPF_SOCK_OPS_TSTAMP_SENDMSG_CB */
#define CB_FLAGS		1009	/* SK_BPF_CB_FLAGS */
#define CB_TX_TIMESTAMPING	1	/* SK_BPF_CB_TX_TIMESTAMPING */

static int map_of_calls(struct __test_metadata *_metadata)
{
	union bpf_attr attr = {
		.map_type = BPF_MAP_TYPE_ARRAY,
		.key_size = sizeof(int),
		.value_size = sizeof(uint64_t),
		.max_entries = CALLBACKS,
	};
	int fd = sys_bpf(BPF_MAP_CREATE, &attr);

	ASSERT_LE(0, fd) TH_LOG("BPF_MAP_CREATE: %m");
	return fd;
}

static uint64_t calls(struct __test_metadata *_metadata, int map, int callback)
{
	uint64_t value = 0;
	union bpf_attr attr = {
		.map_fd = map,
		.key = (uintptr_t)&callback,
		.value = (uintptr_t)&value,
	};

	EXPECT_EQ(0, sys_bpf(BPF_MAP_LOOKUP_ELEM, &attr));
	return value;
}

#define R(n)		BPF_REG_##n
#define MOV(d, s)	INSN(.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = (d), .src_reg = (s))
#define MOV_K(d, k)	INSN(.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = (d), .imm = (k))
#define ADD_K(d, k)	INSN(.code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = (d), .imm = (k))
#define STORE_K(o, k)	INSN(.code = BPF_ST | BPF_MEM | BPF_W, .dst_reg = R(10), .off = (o), .imm = (k))
#define JEQ(r, k, o)	INSN(.code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = (r), .off = (o), .imm = (k))
#define JNE(r, k, o)	INSN(.code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = (r), .off = (o), .imm = (k))
#define CALL(f)		INSN(.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_##f)

/*
 * Load a program that counts its calls in @map. It asks for the callbacks @flags, and for
 * one at each write if @writes. It asks when a connection is established, or otherwise at
 * its first call, whatever that is. It writes an option of four bytes, if it asked for
 * that.
 */
static int load_listener(struct __test_metadata *_metadata, int map, int flags,
			 bool writes, bool established)
{
	const struct bpf_insn insns[] = {
		MOV(R(6), R(1)),
		INSN(.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = R(7), .src_reg = R(6),
		     .off = offsetof(struct bpf_sock_ops, op)),
		/* 2: count */
		INSN(.code = BPF_STX | BPF_MEM | BPF_W, .dst_reg = R(10), .src_reg = R(7),
		     .off = -4),
		MOV(R(2), R(10)),
		ADD_K(R(2), -4),
		INSN(.code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = R(1),
		     .src_reg = BPF_PSEUDO_MAP_FD, .imm = map),
		INSN(.imm = 0),
		CALL(map_lookup_elem),
		JEQ(R(0), 0, 2),
		MOV_K(R(1), 1),
		INSN(.code = BPF_STX | BPF_ATOMIC | BPF_DW, .dst_reg = R(0),
		     .src_reg = R(1), .imm = BPF_ADD),
		/* 11: ask */
		established ? JEQ(R(7), BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, 1) :
			      MOV(R(0), R(0)),
		established ? JNE(R(7), BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, 11) :
			      MOV(R(0), R(0)),
		MOV(R(1), R(6)),
		MOV_K(R(2), flags),
		CALL(sock_ops_cb_flags_set),
		STORE_K(-8, writes ? CB_TX_TIMESTAMPING : 0),
		MOV(R(1), R(6)),
		MOV_K(R(2), SOL_SOCKET),
		MOV_K(R(3), CB_FLAGS),
		MOV(R(4), R(10)),
		ADD_K(R(4), -8),
		MOV_K(R(5), 4),
		CALL(setsockopt),
		/* 24: room for an option */
		JNE(R(7), BPF_SOCK_OPS_HDR_OPT_LEN_CB, 4),
		MOV(R(1), R(6)),
		MOV_K(R(2), 4),
		MOV_K(R(3), 0),
		CALL(reserve_hdr_opt),
		/* 29: write it: an experimental one (RFC 6994) */
		JNE(R(7), BPF_SOCK_OPS_WRITE_HDR_OPT_CB, 7),
		STORE_K(-8, (int)htonl(0xfe04abcd)),
		MOV(R(1), R(6)),
		MOV(R(2), R(10)),
		ADD_K(R(2), -8),
		MOV_K(R(3), 4),
		MOV_K(R(4), 0),
		CALL(store_hdr_opt),
		/* 37 */
		MOV_K(R(0), 1),
		INSN(.code = BPF_JMP | BPF_EXIT),
	};

	return bpf_load(_metadata, BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS, insns,
			sizeof(insns) / sizeof(*insns));
}

/*
 * A program asks for the callbacks @flags at both ends. Both then take the wire, and each
 * of @expected is called at least @least times. When the program asks no more, friends
 * carry data again.
 */
static void called_back(struct __test_metadata *_metadata, enum ends ends,
			bool friends, int flags, const int *expected, int least)
{
	uint64_t bytes = friends_stat("bytes"), fell = fell_for("wire_bpf"), sent;
	int map = map_of_calls(_metadata);
	struct judged j;
	int i;

	if (!judged_begin(_metadata, &j, ends, friends,
			  load_listener(_metadata, map, flags, false, true)))
		SKIP(return, "no cgroups with memory at " CGROUPS);
	for (i = 0; i < 5; i++)
		talk(_metadata, j.client, j.server);
	EXPECT_EQ(bytes, friends_stat("bytes"));
	if (friends)
		EXPECT_LT(fell, fell_for("wire_bpf"));
	for (; *expected; expected++) {
		EXPECT_LE(least, calls(_metadata, map, *expected))
			TH_LOG("callback %d", *expected);
	}

	/* This program replaces the other one. It is called at least once more at each end. */
	bpf_attach(_metadata, j.dir, BPF_CGROUP_SOCK_OPS,
		   load_listener(_metadata, map, 0, false, false));
	talk(_metadata, j.client, j.server);
	sleep_ms(patience(100));
	bytes = friends_stat("bytes");
	sent = talk(_metadata, j.client, j.server);
	EXPECT_EQ(bytes + (friends ? sent : 0), friends_stat("bytes"));
	judged_end(&j);
	close(map);
}

TEST_F(cgroup, called_for_round_trips)
{
	called_back(_metadata, variant->ends, variant->friends, BPF_SOCK_OPS_RTT_CB_FLAG,
		    (const int[]){ BPF_SOCK_OPS_RTT_CB, 0 }, 5);
	EXPECT_CARRIED_ANY();
}

/* TCP calls the program where it parses options, which it does not for predicted segments. */
TEST_F(cgroup, called_to_parse_options)
{
	called_back(_metadata, variant->ends, variant->friends,
		    BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG |
		    BPF_SOCK_OPS_RTT_CB_FLAG,
		    (const int[]){ BPF_SOCK_OPS_PARSE_HDR_OPT_CB, 0 }, 1);
	EXPECT_CARRIED_ANY();
}

/* One end writes an option. The other end, which does not know it, is asked to parse it. */
TEST_F(cgroup, called_to_write_options)
{
	called_back(_metadata, variant->ends, variant->friends,
		    BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG |
		    BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG,
		    (const int[]){ BPF_SOCK_OPS_HDR_OPT_LEN_CB,
				   BPF_SOCK_OPS_WRITE_HDR_OPT_CB,
				   BPF_SOCK_OPS_PARSE_HDR_OPT_CB, 0 }, 10);
	EXPECT_CARRIED_ANY();
}

/* A program may ask for callbacks that only come on the wire. Friends still carry data. */
TEST_F(cgroup, called_for_states)
{
	uint64_t bytes = friends_stat("bytes"), sent;
	int map = map_of_calls(_metadata);
	struct judged j;

	if (!judged_begin(_metadata, &j, variant->ends, variant->friends,
			  load_listener(_metadata, map,
					BPF_SOCK_OPS_RTO_CB_FLAG |
					BPF_SOCK_OPS_RETRANS_CB_FLAG |
					BPF_SOCK_OPS_STATE_CB_FLAG, false, true)))
		SKIP(return, "no cgroups with memory at " CGROUPS);
	sent = 4000 + talk(_metadata, j.client, j.server);
	if (variant->friends)
		EXPECT_LE(bytes + sent - sent / 4, friends_stat("bytes"));
	EXPECT_LE(1, calls(_metadata, map, BPF_SOCK_OPS_TCP_LISTEN_CB));
	EXPECT_EQ(1, calls(_metadata, map, BPF_SOCK_OPS_TCP_CONNECT_CB));
	EXPECT_EQ(1, calls(_metadata, map, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB));
	EXPECT_EQ(1, calls(_metadata, map, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB));
	close(j.client);
	EXPECT_EQ(POLLIN, wait_for(j.server, POLLIN, patience(1000)));
	/* FIN-WAIT-1 and -2 come at the client, and CLOSE-WAIT at the server. */
	sleep_ms(patience(100));
	EXPECT_LE(3, calls(_metadata, map, BPF_SOCK_OPS_STATE_CB));
	j.client = -1;
	judged_end(&j);
	close(map);
	EXPECT_CARRIED_ANY();
}

/* A program that sees each write asks for no time stamp, so friends still carry data. */
TEST_F(cgroup, called_for_writes)
{
	uint64_t bytes = friends_stat("bytes"), sent = 4000, before;
	int map = map_of_calls(_metadata);
	struct judged j;
	int i;

	if (!judged_begin(_metadata, &j, variant->ends, variant->friends,
			  load_listener(_metadata, map, 0, true, true)))
		SKIP(return, "no cgroups with memory at " CGROUPS);
	before = calls(_metadata, map, TSTAMP_SENDMSG_CB);
	EXPECT_EQ(2, before);
	for (i = 0; i < 5; i++)
		sent += talk(_metadata, j.client, j.server);
	EXPECT_EQ(before + 10, calls(_metadata, map, TSTAMP_SENDMSG_CB));
	EXPECT_EQ(0, calls(_metadata, map, TSTAMP_ACK_CB));
	if (variant->friends)
		EXPECT_LE(bytes + sent - sent / 4, friends_stat("bytes"));
	judged_end(&j);
	close(map);
	EXPECT_CARRIED_ANY();
}

int main(int argc, char **argv)
{
	return friends_main(argc, argv);
}
