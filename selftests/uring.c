// SPDX-License-Identifier: GPL-2.0
/* These tests cover the socket calls of io_uring. */

#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "lib/friends.h"

#define SEED	0x7572696eULL
#define ENTRIES	64

/* The ring holds requests to the kernel, and completions from it. */
struct ring {
	int fd;
	uint32_t *sq_tail, *sq_array, sq_mask;
	uint32_t *cq_head, *cq_tail, cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
	uint32_t tail;
};

CONNECTION_FIXTURE(uring);

#define NO_URING()						\
	do {							\
		EXPECT_CARRIED_ANY();				\
		SKIP(return, "this kernel has no io_uring");	\
	} while (0)

/* Open a ring. Return false if there is no io_uring. */
static bool ring_open(struct __test_metadata *_metadata, struct ring *r)
{
	struct io_uring_params p = {};
	size_t sq, cq;
	char *map;

	r->fd = syscall(__NR_io_uring_setup, ENTRIES, &p);
	if (r->fd < 0 && (errno == ENOSYS || errno == EPERM))
		return false;
	ASSERT_LE(0, r->fd) TH_LOG("io_uring_setup: %m");
	ASSERT_TRUE(p.features & IORING_FEAT_SINGLE_MMAP);
	sq = p.sq_off.array + p.sq_entries * sizeof(uint32_t);
	cq = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
	map = mmap(NULL, sq > cq ? sq : cq, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_SQ_RING);
	ASSERT_NE(MAP_FAILED, map);
	r->sqes = mmap(NULL, p.sq_entries * sizeof(*r->sqes),
		       PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
		       r->fd, IORING_OFF_SQES);
	ASSERT_NE(MAP_FAILED, r->sqes);
	r->sq_tail = (void *)(map + p.sq_off.tail);
	r->sq_mask = *(uint32_t *)(map + p.sq_off.ring_mask);
	r->sq_array = (void *)(map + p.sq_off.array);
	r->cq_head = (void *)(map + p.cq_off.head);
	r->cq_tail = (void *)(map + p.cq_off.tail);
	r->cq_mask = *(uint32_t *)(map + p.cq_off.ring_mask);
	r->cqes = (void *)(map + p.cq_off.cqes);
	r->tail = *r->sq_tail;
	return true;
}

/* Submit a request. */
static void submit(struct __test_metadata *_metadata, struct ring *r,
		   struct io_uring_sqe sqe)
{
	uint32_t at = r->tail++ & r->sq_mask;

	r->sqes[at] = sqe;
	r->sq_array[at] = at;
	__atomic_store_n(r->sq_tail, r->tail, __ATOMIC_RELEASE);
	ASSERT_EQ(1, syscall(__NR_io_uring_enter, r->fd, 1, 0, 0, NULL, 0))
		TH_LOG("io_uring_enter: %m");
}

static bool reap(struct ring *r, struct io_uring_cqe *cqe)
{
	uint32_t head = *r->cq_head;

	/* The kernel posts what is ready when it is entered. */
	syscall(__NR_io_uring_enter, r->fd, 0, 0, IORING_ENTER_GETEVENTS, NULL,
		0);
	if (head == __atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE))
		return false;
	*cqe = r->cqes[head & r->cq_mask];
	__atomic_store_n(r->cq_head, head + 1, __ATOMIC_RELEASE);
	return true;
}

/* Return the next completion, which must come. */
static void next(struct __test_metadata *_metadata, struct ring *r,
		 struct io_uring_cqe *cqe)
{
	uint64_t end = now_ms() + patience(3000);

	while (!reap(r, cqe)) {
		ASSERT_LT(now_ms(), end) {
			TH_LOG("no completion comes");
			friends_print();
		}
		wait_for(r->fd, POLLIN, 10);
	}
}

static struct io_uring_sqe request(int opcode, int fd, void *buf, int len,
				   uint64_t data)
{
	return (struct io_uring_sqe){
		.opcode = opcode,
		.fd = fd,
		.addr = (uintptr_t)buf,
		.len = len,
		.user_data = data,
	};
}

TEST_F(uring, send_and_recv)
{
	enum { N = 20, LEN = 30000 };
	static char out[LEN], in[LEN];
	struct io_uring_cqe cqe;
	struct io_uring_sqe sqe;
	struct ring r;
	int i, got;

	if (!ring_open(_metadata, &r))
		NO_URING();
	for (i = 0; i < N; i++) {
		pattern_fill(out, LEN, SEED, i * LEN);
		sqe = request(IORING_OP_RECV, self->server, in, LEN, 1);
		sqe.msg_flags = MSG_WAITALL;
		/* In every second round, the reader waits first. */
		if (i % 2)
			submit(_metadata, &r, sqe);
		submit(_metadata, &r, request(IORING_OP_SEND, self->client,
					      out, LEN, 2));
		if (!(i % 2))
			submit(_metadata, &r, sqe);
		for (got = 0; got != 3; got |= cqe.user_data) {
			next(_metadata, &r, &cqe);
			ASSERT_EQ(0, cqe.user_data & got);
			ASSERT_EQ(LEN, cqe.res);
		}
		ASSERT_EQ(-1, pattern_check(in, LEN, SEED, i * LEN));
	}
	close(r.fd);
	EXPECT_CARRIED(N * LEN);
}

/* The request has more bytes than fit, and its rest waits for room. */
TEST_F(uring, send_to_full_receiver)
{
	const int len = 8 << 20;
	struct io_uring_cqe cqe;
	struct io_uring_sqe sqe;
	char *buf = malloc(len);
	struct half in;
	struct ring r;

	ASSERT_NE(NULL, buf);
	if (!ring_open(_metadata, &r))
		NO_URING();
	pattern_fill(buf, len, SEED, 0);
	sqe = request(IORING_OP_SEND, self->client, buf, len, 1);
	sqe.msg_flags = MSG_WAITALL;
	submit(_metadata, &r, sqe);
	sleep_ms(QUIET);
	EXPECT_FALSE(reap(&r, &cqe));
	half_init(&in, self->server, false, SEED, len);
	half_start(&in);
	next(_metadata, &r, &cqe);
	EXPECT_EQ(len, cqe.res);
	half_join(&in);
	EXPECT_EQ(0, in.err);
	EXPECT_EQ(-1, in.wrong);
	half_free(&in);
	close(r.fd);
	free(buf);
	EXPECT_CARRIED(len);
}

/*
 * One request gives a completion for each arrival, in buffers that were
 * provided.
 */
TEST_F(uring, recv_multishot)
{
	enum { N = 8, LEN = 4096, ROUNDS = 40 };
	struct io_uring_buf_reg reg = { .ring_entries = N, .bgid = 1 };
	uint64_t state = SEED, sent = 0, got = 0, end;
	struct io_uring_buf_ring *bufs;
	struct io_uring_cqe cqe;
	struct io_uring_sqe sqe;
	uint16_t tail = 0, id;
	struct ring r;
	char *mem;
	int i, n;

	if (!ring_open(_metadata, &r))
		NO_URING();
	bufs = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, bufs);
	mem = malloc(N * LEN);
	ASSERT_NE(NULL, mem);
	reg.ring_addr = (uintptr_t)bufs;
	ASSERT_EQ(0, syscall(__NR_io_uring_register, r.fd,
			     IORING_REGISTER_PBUF_RING, &reg, 1))
		TH_LOG("IORING_REGISTER_PBUF_RING: %m");
	for (i = 0; i < N; i++) {
		bufs->bufs[i].addr = (uintptr_t)mem + i * LEN;
		bufs->bufs[i].len = LEN;
		bufs->bufs[i].bid = i;
		tail++;
	}
	__atomic_store_n(&bufs->tail, tail, __ATOMIC_RELEASE);

	sqe = request(IORING_OP_RECV, self->server, NULL, 0, 1);
	sqe.ioprio = IORING_RECV_MULTISHOT;
	sqe.flags = IOSQE_BUFFER_SELECT;
	sqe.buf_group = 1;
	submit(_metadata, &r, sqe);
	for (i = 0; i < ROUNDS; i++) {
		/* Sometimes send more than all the buffers hold. */
		n = random_size(&state, 2 * N * LEN);
		send_pattern(_metadata, self->client, SEED, sent, n, 0);
		sent += n;
		end = now_ms() + patience(3000);
		while (got < sent) {
			ASSERT_LT(now_ms(), end);
			next(_metadata, &r, &cqe);
			ASSERT_EQ(1, cqe.user_data);
			if (cqe.res != -ENOBUFS) {
				ASSERT_LT(0, cqe.res);
				id = cqe.flags >> IORING_CQE_BUFFER_SHIFT;
				ASSERT_GT(N, id);
				ASSERT_EQ(-1, pattern_check(mem + id * LEN,
							    cqe.res, SEED,
							    got));
				got += cqe.res;
				bufs->bufs[tail % N].addr =
					(uintptr_t)mem + id * LEN;
				bufs->bufs[tail % N].len = LEN;
				bufs->bufs[tail % N].bid = id;
				__atomic_store_n(&bufs->tail, ++tail,
						 __ATOMIC_RELEASE);
			}
			if (!(cqe.flags & IORING_CQE_F_MORE))
				submit(_metadata, &r, sqe);
		}
	}
	/* The end of the stream ends the request. */
	EXPECT_EQ(0, shutdown(self->client, SHUT_WR));
	next(_metadata, &r, &cqe);
	EXPECT_EQ(0, cqe.res);
	EXPECT_EQ(0, cqe.flags & IORING_CQE_F_MORE);
	close(r.fd);
	EXPECT_CARRIED(sent);
}

/* A second completion reports that the pages are the sender's again. */
TEST_F(uring, send_zerocopy)
{
	enum { N = 10, LEN = 60000 };
	struct io_uring_cqe cqe;
	struct io_uring_sqe sqe;
	struct ring r;
	char *buf;
	int i;

	if (!ring_open(_metadata, &r))
		NO_URING();
	buf = mmap(NULL, LEN, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, buf);
	for (i = 0; i < N; i++) {
		pattern_fill(buf, LEN, SEED, i * LEN);
		sqe = request(IORING_OP_SEND_ZC, self->client, buf, LEN, i);
		sqe.ioprio = IORING_SEND_ZC_REPORT_USAGE;
		sqe.msg_flags = MSG_WAITALL;
		submit(_metadata, &r, sqe);
		next(_metadata, &r, &cqe);
		ASSERT_EQ(i, cqe.user_data);
		ASSERT_EQ(LEN, cqe.res);
		ASSERT_EQ(IORING_CQE_F_MORE, cqe.flags & IORING_CQE_F_MORE);
		/*
		 * The data is unread: a receiver on this host has pages of its
		 * own.
		 */
		next(_metadata, &r, &cqe);
		ASSERT_EQ(i, cqe.user_data);
		ASSERT_EQ(IORING_CQE_F_NOTIF, cqe.flags & IORING_CQE_F_NOTIF);
		EXPECT_EQ(IORING_NOTIF_USAGE_ZC_COPIED, (uint32_t)cqe.res);
		memset(buf, 0, LEN);
		recv_pattern(_metadata, self->server, SEED, i * LEN, LEN);
	}
	EXPECT_FALSE(reap(&r, &cqe));
	close(r.fd);
	EXPECT_CARRIED(N * LEN);
}

/* There is a completion for each arrival, and none if nothing comes. */
TEST_F(uring, poll_multishot)
{
	enum { N = 20 };
	struct io_uring_cqe cqe;
	struct io_uring_sqe sqe;
	struct ring r;
	int i;

	if (!ring_open(_metadata, &r))
		NO_URING();
	sqe = request(IORING_OP_POLL_ADD, self->server, NULL,
		      IORING_POLL_ADD_MULTI, 1);
	sqe.poll32_events = POLLIN;
	submit(_metadata, &r, sqe);
	EXPECT_FALSE(reap(&r, &cqe));
	for (i = 0; i < N; i++) {
		send_pattern(_metadata, self->client, SEED, i * 1000, 1000, 0);
		next(_metadata, &r, &cqe);
		ASSERT_EQ(POLLIN, cqe.res);
		ASSERT_EQ(IORING_CQE_F_MORE, cqe.flags & IORING_CQE_F_MORE);
		recv_pattern(_metadata, self->server, SEED, i * 1000, 1000);
	}
	sleep_ms(QUIET);
	EXPECT_FALSE(reap(&r, &cqe));
	/* Data in the other direction gives no completion. */
	send_pattern(_metadata, self->server, SEED, 0, 1000, 0);
	recv_pattern(_metadata, self->client, SEED, 0, 1000);
	sleep_ms(QUIET);
	EXPECT_FALSE(reap(&r, &cqe));
	close(r.fd);
	EXPECT_CARRIED((N + 1) * 1000);
}

int main(int argc, char **argv)
{
	return friends_main(argc, argv);
}
