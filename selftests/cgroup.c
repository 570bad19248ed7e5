// SPDX-License-Identifier: GPL-2.0
/* Cgroups whose BPF programs judge the packets of the sockets in them. */

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

static bool judged_begin(struct __test_metadata *_metadata, struct judged *j,
			 enum ends ends, bool friends)
{
	uint64_t before = friends_stat("pairs_total");
	int listener;

	if (!group_make(&j->group, "judges")) {
		group_end(&j->group);
		return false;
	}
	j->dir = open(j->group.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ASSERT_LE(0, j->dir);
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

	if (!judged_begin(_metadata, &j, ends, friends))
		SKIP(return, "no cgroups with memory at " CGROUPS);

	bytes = friends_stat("bytes");
	left = friends_stat("wire_cgroup");
	prog = judge(_metadata, &j, role, 1);
	talk(_metadata, j.client, j.server);
	EXPECT_EQ(bytes, friends_stat("bytes"));
	if (friends)
		EXPECT_LT(left, friends_stat("wire_cgroup"));
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

int main(int argc, char **argv)
{
	return friends_main(argc, argv);
}
