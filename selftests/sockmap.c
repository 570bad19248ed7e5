// SPDX-License-Identifier: GPL-2.0
/*
 * In these tests, sockets are put into a map for BPF programs and taken out of
 * it again in mid-stream. Programs pass received data on to the socket's
 * reader, or to another socket.
 *
 * Data that is in a socket's map when the socket is taken out is lost, on the
 * wire as well. These tests therefore read all data before.
 */

#include "lib/bpf.h"

#define SEED	0x6d617070ULL

CONNECTION_FIXTURE(sockmap);

static int map_of_sockets(struct __test_metadata *_metadata)
{
	union bpf_attr attr = {
		.map_type = BPF_MAP_TYPE_SOCKMAP,
		.key_size = sizeof(int),
		.value_size = sizeof(int),
		.max_entries = 4,
	};
	int fd = sys_bpf(BPF_MAP_CREATE, &attr);

	ASSERT_LE(0, fd) TH_LOG("BPF_MAP_CREATE: %m");
	return fd;
}

static void put(struct __test_metadata *_metadata, int map, int key, int fd)
{
	union bpf_attr attr = {
		.map_fd = map,
		.key = (uintptr_t)&key,
		.value = (uintptr_t)&fd,
	};

	ASSERT_EQ(0, sys_bpf(BPF_MAP_UPDATE_ELEM, &attr))
		TH_LOG("BPF_MAP_UPDATE_ELEM: %m");
}

static void take(struct __test_metadata *_metadata, int map, int key)
{
	union bpf_attr attr = { .map_fd = map, .key = (uintptr_t)&key };

	ASSERT_EQ(0, sys_bpf(BPF_MAP_DELETE_ELEM, &attr))
		TH_LOG("BPF_MAP_DELETE_ELEM: %m");
}

/* Return the type of programs of @role, for the verifier. */
static enum bpf_prog_type type_of(enum bpf_attach_type role)
{
	return role == BPF_SK_MSG_VERDICT ? BPF_PROG_TYPE_SK_MSG :
					    BPF_PROG_TYPE_SK_SKB;
}

static void attach_constant(struct __test_metadata *_metadata, int map,
			    enum bpf_attach_type role, int value)
{
	int prog = bpf_load_constant(_metadata, type_of(role), 0, value);

	bpf_attach(_metadata, map, role, prog);
	close(prog);
}

static void attach_pass(struct __test_metadata *_metadata, int map,
			enum bpf_attach_type role)
{
	attach_constant(_metadata, map, role, SK_PASS);
}

/* Attach a parser of messages of @size bytes. */
static void attach_parser(struct __test_metadata *_metadata, int map, int size)
{
	attach_constant(_metadata, map, BPF_SK_SKB_STREAM_PARSER, size);
}

/*
 * Attach a program that redirects data to the socket with key 0 in @to, which sends the
 * data, or has it read if @ingress.
 */
static void attach_redirect(struct __test_metadata *_metadata, int map,
			    enum bpf_attach_type role, int to, bool ingress)
{
	const struct bpf_insn insns[] = {
		INSN(.code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = 2,
		     .src_reg = BPF_PSEUDO_MAP_FD, .imm = to),
		INSN(.imm = 0),
		INSN(.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3),
		INSN(.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 4,
		     .imm = ingress ? BPF_F_INGRESS : 0),
		INSN(.code = BPF_JMP | BPF_CALL,
		     .imm = role == BPF_SK_MSG_VERDICT ?
			    BPF_FUNC_msg_redirect_map :
			    BPF_FUNC_sk_redirect_map),
		INSN(.code = BPF_JMP | BPF_EXIT),
	};
	int prog = bpf_load(_metadata, type_of(role), 0, insns, 6);

	bpf_attach(_metadata, map, role, prog);
	close(prog);
}

/* Read by poll(), because recv() of a socket in a map may return EAGAIN although it should wait. */
static void receive(struct __test_metadata *_metadata, int fd, uint64_t seed,
		    uint64_t pos, uint64_t len)
{
	uint64_t end = now_ms() + patience(5000);
	char buf[10000];
	ssize_t n;

	while (len) {
		ASSERT_LT(now_ms(), end) {
			TH_LOG("%" PRIu64 " bytes are missing at %" PRIu64,
			       len, pos);
			stream_print(stdout, "the reader", fd);
			friends_print();
		}
		if (!wait_for(fd, POLLIN, 100))
			continue;
		n = recv(fd, buf, len < sizeof(buf) ? len : sizeof(buf),
			 MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN)
			continue;
		ASSERT_LT(0, n) TH_LOG("recv: %zd, %m", n);
		ASSERT_EQ(-1, pattern_check(buf, n, seed, pos));
		pos += n;
		len -= n;
	}
}

/* Write @size bytes to @from, and read them from @to. */
static void stream(struct __test_metadata *_metadata, int from, int to,
		   uint64_t size)
{
	struct half out;

	half_init(&out, from, true, SEED, size);
	out.chunk = 60000;
	half_start(&out);
	receive(_metadata, to, SEED, 0, size);
	half_join(&out);
	EXPECT_EQ(0, out.err);
	half_free(&out);
}

/* Write @size bytes in whole messages, and read each before the next is written. */
static void messages(struct __test_metadata *_metadata, int from, int to,
		     uint64_t size)
{
	uint64_t state = SEED, at, n;

	for (at = 0; at < size; at += n) {
		n = 1000 * random_size(&state, 20);
		n = n < size - at ? n : size - at;
		send_pattern(_metadata, from, SEED, at, n, 0);
		receive(_metadata, to, SEED, at, n);
	}
}

/*
 * Put both ends into a map that passes all data on, and take them out again,
 * twice. When this begins, data is unread. Return the number of bytes sent.
 */
static uint64_t in_and_out(struct __test_metadata *_metadata, int map,
			   int client, int server, bool in_messages)
{
	const uint64_t size = scaled(400 * 1000);
	uint64_t sent = talk(_metadata, client, server);
	int i;

	for (i = 0; i < 2; i++) {
		send_pattern(_metadata, client, SEED, 0, 5000, 0);
		send_pattern(_metadata, server, ~SEED, 0, 5000, 0);
		EXPECT_EQ(POLLIN, wait_for(server, POLLIN, patience(1000)));
		EXPECT_EQ(POLLIN, wait_for(client, POLLIN, patience(1000)));
		put(_metadata, map, 0, client);
		put(_metadata, map, 1, server);
		send_pattern(_metadata, client, SEED, 5000, 3000, 0);
		send_pattern(_metadata, server, ~SEED, 5000, 3000, 0);
		receive(_metadata, server, SEED, 0, 8000);
		receive(_metadata, client, ~SEED, 0, 8000);
		if (in_messages) {
			messages(_metadata, client, server, size);
			messages(_metadata, server, client, size);
		} else {
			stream(_metadata, client, server, size);
			stream(_metadata, server, client, size);
		}
		take(_metadata, map, 0);
		take(_metadata, map, 1);
		sent += 16000 + 2 * size + talk(_metadata, client, server);
	}
	return sent;
}

TEST_F(sockmap, without_program)
{
	int map = map_of_sockets(_metadata);

	EXPECT_CARRIED(in_and_out(_metadata, map, self->client, self->server,
				  false));
}

TEST_F(sockmap, pass)
{
	int map = map_of_sockets(_metadata);

	attach_pass(_metadata, map, BPF_SK_SKB_VERDICT);
	EXPECT_CARRIED(in_and_out(_metadata, map, self->client, self->server,
				  false));
}

/*
 * The messages are whole, because the parser may stand still when only a part
 * of one is there, on the wire as well.
 */
TEST_F(sockmap, parse_and_pass)
{
	int map = map_of_sockets(_metadata);

	attach_parser(_metadata, map, 1000);
	attach_pass(_metadata, map, BPF_SK_SKB_STREAM_VERDICT);
	EXPECT_CARRIED(in_and_out(_metadata, map, self->client, self->server,
				  true));
}

TEST_F(sockmap, pass_what_is_sent)
{
	int map = map_of_sockets(_metadata);

	attach_pass(_metadata, map, BPF_SK_MSG_VERDICT);
	EXPECT_CARRIED(in_and_out(_metadata, map, self->client, self->server,
				  false));
}

/* A reader that comes late finds all data, and the writer goes on. */
TEST_F(sockmap, full)
{
	int map = map_of_sockets(_metadata);
	static char buf[20000];
	uint64_t sent = 0;
	ssize_t n;

	attach_pass(_metadata, map, BPF_SK_SKB_VERDICT);
	put(_metadata, map, 0, self->server);
	do {
		for (;;) {
			pattern_fill(buf, sizeof(buf), SEED, sent);
			n = send(self->client, buf, sizeof(buf), MSG_DONTWAIT);
			if (n < 0)
				break;
			sent += n;
		}
	} while (wait_for(self->client, POLLOUT, QUIET));
	receive(_metadata, self->server, SEED, 0, sent);
	EXPECT_EQ(POLLOUT, wait_for(self->client, POLLOUT, patience(3000)));
	take(_metadata, map, 0);
	EXPECT_CARRIED(sent + talk(_metadata, self->client, self->server));
}

/* A client sends what the server receives on to its own server. */
TEST_F(sockmap, send_on)
{
	const uint64_t size = scaled(512 * 1000);
	int from = map_of_sockets(_metadata);
	int to = map_of_sockets(_metadata);
	int client, server;
	uint64_t sent;

	open_connection(_metadata, variant->ends, NULL, &client, &server);
	EXPECT_EQ(2 * variant->friends,
		  friends_stat_becomes("pairs", 2 * variant->friends));
	sent = talk(_metadata, self->client, self->server);
	attach_redirect(_metadata, from, BPF_SK_SKB_VERDICT, to, false);
	put(_metadata, to, 0, client);
	put(_metadata, from, 0, self->server);
	stream(_metadata, self->client, server, size);
	/* Nothing changes in the other direction. */
	stream(_metadata, self->server, self->client, size);
	take(_metadata, from, 0);
	take(_metadata, to, 0);
	sent += 3 * size + talk(_metadata, self->client, self->server) +
		talk(_metadata, client, server);
	EXPECT_CARRIED(sent);
	close(client);
	close(server);
}

/*
 * The receiver is full when it is put into the map, and its client has more to send. Each
 * byte that is sent on makes room for another one, and none may overtake. The receiver's
 * own reader begins, because data from before is passed on when more comes.
 */
static void send_on_from_full(struct __test_metadata *_metadata, enum ends ends,
			      int via, int to_read, int rcvbuf)
{
	const struct connect_options small = { .rcvbuf = rcvbuf };
	const uint64_t size = scaled(4000 * 1000);
	int from = map_of_sockets(_metadata);
	int to = map_of_sockets(_metadata);
	uint64_t pos = 0, end;
	int client, server;
	struct half out;
	char buf[4000];
	ssize_t n;

	open_connection(_metadata, ends, &small, &client, &server);
	talk(_metadata, client, server);
	attach_redirect(_metadata, from, BPF_SK_SKB_VERDICT, to, false);
	half_init(&out, client, true, SEED, size);
	half_start(&out);
	/* By then, everything that can be full is full. */
	sleep_ms(100);
	put(_metadata, to, 0, via);
	put(_metadata, from, 0, server);
	end = now_ms() + patience(5000);
	while (!wait_for(to_read, POLLIN, 10)) {
		ASSERT_LT(now_ms(), end) TH_LOG("nothing is sent on");
		n = recv(server, buf, sizeof(buf), MSG_DONTWAIT);
		if (n <= 0)
			continue;
		ASSERT_EQ(-1, pattern_check(buf, n, SEED, pos));
		pos += n;
	}
	EXPECT_LT(pos, size);
	receive(_metadata, to_read, SEED, pos, size - pos);
	half_join(&out);
	EXPECT_EQ(0, out.err);
	half_free(&out);
	take(_metadata, from, 0);
	take(_metadata, to, 0);
	close(client);
	close(server);
	close(from);
	close(to);
}

TEST_F(sockmap, send_on_in_order)
{
	const uint64_t size = 3 * scaled(4000 * 1000);
	int i;

	for (i = 0; i < 3; i++)
		send_on_from_full(_metadata, variant->ends, self->client, self->server,
				  16384 << 2 * i);
	if (variant->friends)
		EXPECT_LT(self->witness.bytes + size, friends_stat("bytes"));
	EXPECT_CARRIED_ANY();
}

/*
 * Each piece must be there before it is read. The kernel's worker that hands it
 * over changes sk_forward_alloc without the socket's lock. A reader at the same
 * time leaves the account wrong, and inet_sock_destruct() warns of this, on the
 * wire as well.
 */
static void in_turns(struct __test_metadata *_metadata, int from, int to,
		     uint64_t size)
{
	uint64_t at, n;

	for (at = 0; at < size; at += n) {
		n = size - at < 50000 ? size - at : 50000;
		send_pattern(_metadata, from, SEED, at, n, 0);
		wait_readable(_metadata, to, n);
		recv_pattern(_metadata, to, SEED, at, n);
	}
}

/* Data that the server receives is read from another connection's socket. */
TEST_F(sockmap, hand_over)
{
	const uint64_t size = scaled(512 * 1000);
	int from = map_of_sockets(_metadata);
	int to = map_of_sockets(_metadata);
	int client, server;
	uint64_t sent;

	open_connection(_metadata, variant->ends, NULL, &client, &server);
	sent = talk(_metadata, client, server);
	attach_redirect(_metadata, from, BPF_SK_SKB_VERDICT, to, true);
	put(_metadata, to, 0, server);
	put(_metadata, from, 0, self->server);
	in_turns(_metadata, self->client, server, size);
	stream(_metadata, client, server, size);
	in_turns(_metadata, self->client, server, size);
	take(_metadata, from, 0);
	take(_metadata, to, 0);
	sent += 3 * size + talk(_metadata, self->client, self->server) +
		talk(_metadata, client, server);
	EXPECT_CARRIED(sent);
	close(client);
	close(server);
}

/* Written data is in the peer's map at once. It takes neither the wire nor friends. */
TEST_F(sockmap, short_cut)
{
	const uint64_t size = scaled(512 * 1000);
	int from = map_of_sockets(_metadata);
	int to = map_of_sockets(_metadata);
	uint64_t sent = talk(_metadata, self->client, self->server);

	attach_redirect(_metadata, from, BPF_SK_MSG_VERDICT, to, true);
	put(_metadata, to, 0, self->server);
	put(_metadata, from, 0, self->client);
	stream(_metadata, self->client, self->server, size);
	stream(_metadata, self->server, self->client, size);
	take(_metadata, from, 0);
	take(_metadata, to, 0);
	sent += talk(_metadata, self->client, self->server) + size;
	EXPECT_CARRIED(sent);
}

/* The end of the stream comes behind the last bytes. */
TEST_F(sockmap, end)
{
	int map = map_of_sockets(_metadata);

	attach_pass(_metadata, map, BPF_SK_SKB_VERDICT);
	put(_metadata, map, 0, self->server);
	send_pattern(_metadata, self->client, SEED, 0, 30000, 0);
	close(self->client);
	self->client = -1;
	receive(_metadata, self->server, SEED, 0, 30000);
	expect_eof(_metadata, self->server);
	EXPECT_CARRIED(30000);
}

int main(int argc, char **argv)
{
	return friends_main(argc, argv);
}
