// SPDX-License-Identifier: GPL-2.0
/*
 * This program measures what one operation costs between two processes of this host,
 * over TCP, an AF_UNIX stream or a pipe (or UDP, for rr alone). The two processes use
 * blocking I/O and one connection.
 *
 * Tests, and what one operation is:
 *
 *   rr       size bytes there, size bytes back
 *   stream   one write of size bytes; the reader reads with a size byte buffer,
 *            and the time ends when the reader has everything
 *   crr      connect, size bytes there, size bytes back, close
 *   connect  connect, accept, close
 *
 * The server closes first in crr and connect, and the client reads the end of
 * file before it closes, as with HTTP/1.0. So TIME_WAIT is always on the
 * server's side, where it takes no ephemeral port: the next SYN from the same
 * port is accepted (RFC 6191). No port runs out, and nothing has to be set on the
 * sockets (SO_LINGER would turn the close into a reset, which is another thing).
 *
 * TCP_NODELAY is set for rr over TCP, as programs do that send requests, and
 * for a stream with --nodelay. Nothing else is set on a socket unless an option
 * asks for it. A stream without --nodelay sets TCP_NODELAY after its last write,
 * which flushes what Nagle still holds, as a program's close() would. Otherwise
 * the tail of one run in four would wait 40 ms for a delayed acknowledgement, and
 * the mean over all writes would show that wait.
 *
 * A repetition has some messages whose every byte is checked, the warm-up, the
 * timed part, and checked messages again. A byte that is lost in the timed part
 * leaves its reader waiting (see --timeout). A byte too many shows in the messages
 * after it. The result is the median over the repetitions.
 *
 * A repetition has its own connection (a pipe is kept), and the timed part of a
 * stream has a fresh one. The program is warmed up on another connection, so the
 * timed part runs from its first byte to its last without a pause. A pause in
 * mid-stream finds the receive buffer grown. By chance TCP then either cuts a
 * segment for each write, for as long as the connection lives, or gathers the
 * writes: 17,000 or 10,500 instructions for a write of 16 KiB.
 *
 * With --time the program finds the count itself, so that the timed part takes
 * about that long. On a busy machine an operation can cost a thousand times what
 * it costs on an idle one, by the clock.
 *
 * With --pairs, so many pairs of processes run at once. The figure is the time
 * from the beginning of the first to the end of the last, divided by the
 * operations of all.
 *
 * With --netns the two sides are in network namespaces of their own. The client
 * finds the server at --address, or at --published, which NAT makes into --address.
 *
 * Under qemu's -icount shift=0 with one vCPU, a nanosecond is an instruction of
 * the guest, and the figure includes both processes and the kernel. --mode insn
 * says so in the unit, and changes nothing else.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <linux/errqueue.h>
#include <linux/io_uring.h>

#define MAX_REPS	101
#define MAX_SIZE	(64UL << 20)
#define CHECKED		16	/* messages checked at each end of a repetition */

enum transport { TCP, TCP6, UNIX, PIPE, UDP };
enum test { RR, STREAM, CRR, CONNECT };

static const char * const transport_names[] = { "tcp", "tcp6", "unix", "pipe", "udp", NULL };
static const char * const test_names[] = { "rr", "stream", "crr", "connect", NULL };

/* How a message is written. */
enum by { WRITE, MORE, CORK, SENDFILE, SPLICE, ZEROCOPY, URING, URING_ZEROCOPY };

static const char * const by_names[] = {
	"write", "more", "cork", "sendfile", "splice", "zerocopy", "uring", "uring-zerocopy", NULL
};

static struct {
	enum transport transport;
	enum test test;
	size_t size;
	uint64_t count;
	uint64_t warmup;
	uint64_t time_ns;	/* 0: the count is given */
	int port;
	int reps;
	int idle;	/* connections that are open meanwhile, without data */
	int pairs;	/* of processes, each with a connection, at once */
	int busy_poll;	/* SO_BUSY_POLL, in microseconds; 0: not set */
	enum by by;
	int cpu[2];	/* of the client, of the server; -1: anywhere */
	int nodelay;	/* -1: the test decides */
	bool insn;
	bool json;
	const char *netns[2];	/* of the client, of the server; NULL: the caller's */
	struct in_addr address;	/* of the server */
	struct in_addr published; /* NAT makes it into the address; 0: not used */
} opt = {
	.size = 1,
	.count = 1000,
	.warmup = UINT64_MAX,
	.reps = 5,
	.pairs = 1,
	.cpu = { -1, -1 },
	.nodelay = -1,
	.address.s_addr = INADDR_ANY,
};

/* One side of the bench: the client is the parent, and the server is its child. */
struct side {
	bool client;
	int ctl_in, ctl_out;	/* barriers, never in the timed part */
	int in, out;		/* the connection; the same number for a socket */
	char *buf;
	uint64_t sent, got;	/* positions in the checked messages */
};

static union {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	struct sockaddr_un un;
} addr;
static socklen_t addr_len;
static int listener = -1;
static pid_t child;
static int datagram[2] = { -1, -1 };	/* UDP: the client's end, the server's */

/* One side writes this, and the other side reads it after a barrier. */
static volatile struct {
	uint64_t stream_end;	/* when the reader of a stream had everything */
	uint64_t count;		/* calibration: operations of the next round */
} *shared;

static uint64_t operations;	/* of this side, timed or not */
static long idle_kib;		/* the memory that the idle connections take */

static int file = -1;		/* a message, for sendfile() and splice() */
static int through[2];		/* the pipe that splice() goes through */

/* With --pairs, the clients tell each other these times, by the number of their pair. */
static struct {
	uint64_t start[MAX_REPS], end[MAX_REPS];
} *team;
static int member;		/* the number of this pair */
static pid_t first;		/* the process that reports */
static int team_there[2], team_back[2][2];

static void __attribute__((noreturn, format(printf, 1, 2)))
die(const char *fmt, ...)
{
	va_list ap;

	fputs("friends-bench: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	if (child > 0)
		kill(child, SIGKILL);
	if (member && child > 0)
		kill(first, SIGTERM);
	_exit(1);
}

static void on_alarm(int sig)
{
	static const char msg[] = "friends-bench: the time is up and data is missing.\n";

	(void)sig;
	if (child > 0) {
		if (write(STDERR_FILENO, msg, sizeof(msg) - 1) < 0)
			_exit(2);
		kill(child, SIGKILL);
	}
	_exit(1);
}

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static void put(int fd, const char *buf, size_t len)
{
	while (len) {
		ssize_t n = write(fd, buf, len);

		if (n < 0)
			die("write: %s.", strerror(errno));
		buf += n;
		len -= n;
	}
}

static void get(int fd, char *buf, size_t len)
{
	while (len) {
		ssize_t n = read(fd, buf, len);

		if (n < 0)
			die("read: %s.", strerror(errno));
		if (!n)
			die("the other side closed too early.");
		buf += n;
		len -= n;
	}
}

static void expect_eof(int fd)
{
	char c;
	ssize_t n = read(fd, &c, 1);

	if (n < 0)
		die("read: %s.", strerror(errno));
	if (n)
		die("a byte came where the end of file was due.");
}

/* Wait until both sides are here. */
static void barrier(struct side *s)
{
	char c = 0;

	put(s->ctl_out, &c, 1);
	get(s->ctl_in, &c, 1);
}

/* The io_uring of this process, which has one request at a time */
static struct {
	int fd;
	struct io_uring_sqe *sqe;	/* of slot 0, as every request */
	struct io_uring_cqe *cqes;
	uint32_t *sq_tail, *cq_head, *cq_tail, cq_mask;
} ring;

static void *ring_map(off_t at, size_t size)
{
	void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd,
			 at);

	if (map == MAP_FAILED)
		die("io_uring: %s.", strerror(errno));
	return map;
}

static void ring_open(void)
{
	struct io_uring_params p = {};
	size_t sq, cq;
	char *map;

	ring.fd = syscall(SYS_io_uring_setup, 1, &p);
	if (ring.fd < 0)
		die("io_uring_setup: %s.", strerror(errno));
	sq = p.sq_off.array + p.sq_entries * sizeof(uint32_t);
	cq = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
	map = ring_map(IORING_OFF_SQ_RING, sq > cq ? sq : cq);
	ring.sqe = ring_map(IORING_OFF_SQES, p.sq_entries * sizeof(*ring.sqe));
	ring.cqes = (void *)(map + p.cq_off.cqes);
	ring.sq_tail = (void *)(map + p.sq_off.tail);
	ring.cq_head = (void *)(map + p.cq_off.head);
	ring.cq_tail = (void *)(map + p.cq_off.tail);
	ring.cq_mask = *(uint32_t *)(map + p.cq_off.ring_mask);
	*(uint32_t *)(map + p.sq_off.array) = 0;
}

/* Wait for a completion, and take it. */
static struct io_uring_cqe ring_next(unsigned int submit)
{
	struct io_uring_cqe cqe;
	uint32_t head = *ring.cq_head;

	if (syscall(SYS_io_uring_enter, ring.fd, submit, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		die("io_uring_enter: %s.", strerror(errno));
	if (head == __atomic_load_n(ring.cq_tail, __ATOMIC_ACQUIRE))
		die("io_uring has completed nothing.");
	cqe = ring.cqes[head & ring.cq_mask];
	__atomic_store_n(ring.cq_head, head + 1, __ATOMIC_RELEASE);
	return cqe;
}

/* Send or receive by io_uring, as send() and recv() do. */
static ssize_t ring_call(int opcode, int fd, char *buf, size_t len)
{
	struct io_uring_cqe cqe;

	if (!ring.sqe)
		ring_open();
	*ring.sqe = (struct io_uring_sqe){
		.opcode = opcode, .fd = fd, .addr = (uintptr_t)buf, .len = len,
	};
	__atomic_store_n(ring.sq_tail, *ring.sq_tail + 1, __ATOMIC_RELEASE);
	cqe = ring_next(1);
	/* A second completion says that the pages are free again. */
	if (cqe.flags & IORING_CQE_F_MORE)
		ring_next(0);
	if (cqe.res < 0) {
		errno = -cqe.res;
		return -1;
	}
	return cqe.res;
}

static bool by_uring(void)
{
	return opt.by == URING || opt.by == URING_ZEROCOPY;
}

/* Read what is there, in the way of --by. */
static ssize_t read_by(int fd, char *buf, size_t len)
{
	return by_uring() ? ring_call(IORING_OP_RECV, fd, buf, len) : read(fd, buf, len);
}

/*
 * In the checked messages, every byte tells its position.
 */

static char pattern(uint64_t pos)
{
	return (pos * 0x9e3779b97f4a7c15ULL) >> 56;
}

static void put_checked(struct side *s)
{
	for (size_t i = 0; i < opt.size; i++)
		s->buf[i] = pattern(s->sent++);
	put(s->out, s->buf, opt.size);
}

static void get_checked(struct side *s)
{
	memset(s->buf, 0, opt.size);
	get(s->in, s->buf, opt.size);
	for (size_t i = 0; i < opt.size; i++, s->got++)
		if (s->buf[i] != pattern(s->got))
			die("wrong data: byte %llu of the checked messages.",
			    (unsigned long long)s->got);
}

/*
 * These are the operations. A checked one is never timed.
 */

static void set_nodelay(struct side *s, int on)
{
	if (setsockopt(s->out, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0)
		die("TCP_NODELAY: %s.", strerror(errno));
}

/* Send what Nagle holds back for want of a full segment. */
static void flush(struct side *s)
{
	if (opt.nodelay || (opt.transport != TCP && opt.transport != TCP6))
		return;
	set_nodelay(s, 1);
	set_nodelay(s, 0);
}

/* Repeat a call until all of it is done, or the call fails. */
#define WHOLE(call, done, len, what)					\
	for (done = 0; done < (len);) {					\
		ssize_t _n = call;					\
									\
		if (_n < 0)						\
			die(what ": %s.", strerror(errno));		\
		done += _n;						\
	}

static void send_all(struct side *s, size_t from, size_t len, int flags)
{
	size_t done;

	WHOLE(send(s->out, s->buf + from + done, len - done, flags), done, len, "send");
}

static void set_cork(struct side *s, int on)
{
	if (setsockopt(s->out, IPPROTO_TCP, TCP_CORK, &on, sizeof(on)) < 0)
		die("TCP_CORK: %s.", strerror(errno));
}

/* Read the notices of pages that are free again. With wait, read one at least. */
static void reap(struct side *s, bool wait)
{
	struct pollfd p = { .fd = s->out };
	char control[128];
	struct msghdr msg = { .msg_control = control };

	if (wait && poll(&p, 1, -1) < 0)
		die("poll: %s.", strerror(errno));
	do {
		msg.msg_controllen = sizeof(control);
	} while (recvmsg(s->out, &msg, MSG_ERRQUEUE | MSG_DONTWAIT) >= 0);
	if (errno != EAGAIN)
		die("the notices of MSG_ZEROCOPY: %s.", strerror(errno));
}

static void send_zerocopy(struct side *s)
{
	size_t done = 0;

	while (done < opt.size) {
		ssize_t n = send(s->out, s->buf + done, opt.size - done, MSG_ZEROCOPY);

		if (n < 0 && errno == ENOBUFS)
			reap(s, true);
		else if (n < 0)
			die("send: %s.", strerror(errno));
		else
			done += n;
	}
}

/* Write a message in the way of --by. The two halves are a head and a body. */
static void put_by(struct side *s, uint64_t number)
{
	size_t half = opt.size / 2, done, piped;
	off_t pos = 0;

	switch (opt.by) {
	case WRITE:
		put(s->out, s->buf, opt.size);
		break;
	case MORE:
		send_all(s, 0, half, MSG_MORE);
		send_all(s, half, opt.size - half, 0);
		break;
	case CORK:
		set_cork(s, 1);
		send_all(s, 0, half, 0);
		send_all(s, half, opt.size - half, 0);
		set_cork(s, 0);
		break;
	case SENDFILE:
		WHOLE(sendfile(s->out, file, &pos, opt.size - done), done, opt.size, "sendfile");
		break;
	case SPLICE:
		while ((size_t)pos < opt.size) {
			ssize_t n = splice(file, &pos, through[1], NULL, opt.size - pos, 0);

			if (n < 0)
				die("splice: %s.", strerror(errno));
			piped = n;
			WHOLE(splice(through[0], NULL, s->out, NULL, piped - done, 0),
			      done, piped, "splice");
		}
		break;
	case ZEROCOPY:
		send_zerocopy(s);
		if (number % 16 == 0)
			reap(s, false);
		break;
	case URING:
		WHOLE(ring_call(IORING_OP_SEND, s->out, s->buf + done, opt.size - done),
		      done, opt.size, "send");
		break;
	case URING_ZEROCOPY:
		WHOLE(ring_call(IORING_OP_SEND_ZC, s->out, s->buf + done, opt.size - done),
		      done, opt.size, "send");
		break;
	}
}

static void put_one(struct side *s, bool checked)
{
	if (checked)
		put_checked(s);
	else
		put_by(s, 0);
}

static void get_one(struct side *s, bool checked)
{
	size_t done;

	if (checked)
		get_checked(s);
	else if (by_uring())
		WHOLE(ring_call(IORING_OP_RECV, s->in, s->buf + done, opt.size - done),
		      done, opt.size, "recv")
	else
		get(s->in, s->buf, opt.size);
}

static void rr(struct side *s, uint64_t n, bool checked)
{
	while (n--) {
		if (s->client)
			put_one(s, checked);
		get_one(s, checked);
		if (!s->client)
			put_one(s, checked);
	}
}

static void stream_write(struct side *s, uint64_t n, bool checked)
{
	while (n--) {
		if (checked)
			put_checked(s);
		else
			put_by(s, n);
	}
	flush(s);
}

static void stream_read(struct side *s, uint64_t n, bool checked)
{
	uint64_t left = n * opt.size;

	while (checked && n--)
		get_checked(s);
	while (!checked && left) {
		size_t len = left < opt.size ? left : opt.size;
		ssize_t got = read_by(s->in, s->buf, len);

		if (got < 0)
			die("read: %s.", strerror(errno));
		if (!got)
			die("the other side closed too early.");
		left -= got;
	}
	shared->stream_end = now();
}

/* Use another address for each 10,000 connections, since ports are searched one by one. */
static void from_another_address(int fd, int number)
{
	struct sockaddr_in from = { .sin_family = AF_INET };
	int one = 1;

	from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + number / 10000);
	if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one)) < 0 ||
	    bind(fd, (struct sockaddr *)&from, sizeof(from)) < 0)
		die("bind: %s.", strerror(errno));
}

/* Connect. idle is the number of an idle connection, or -1. */
static int do_connect(int idle)
{
	int fd = socket(addr.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket: %s.", strerror(errno));
	if (idle >= 0 && opt.transport == TCP)
		from_another_address(fd, idle);
	if (connect(fd, &addr.sa, addr_len) < 0)
		die("connect: %s.", strerror(errno));
	return fd;
}

static int do_accept(void)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		die("accept: %s.", strerror(errno));
	return fd;
}

static void crr(struct side *s, uint64_t n, bool checked)
{
	bool data = opt.test == CRR;

	while (n--) {
		int fd = s->client ? do_connect(-1) : do_accept();

		s->in = fd;
		s->out = fd;
		if (data)
			rr(s, 1, checked);
		if (s->client)
			expect_eof(fd);
		close(fd);
	}
}

static void run(struct side *s, uint64_t n, bool checked)
{
	operations += n;
	switch (opt.test) {
	case RR:
		rr(s, n, checked);
		break;
	case STREAM:
		if (s->client)
			stream_write(s, n, checked);
		else
			stream_read(s, n, checked);
		break;
	case CRR:
	case CONNECT:
		crr(s, n, checked);
		break;
	}
}

static bool has_connection(void)
{
	return opt.transport != PIPE && opt.transport != UDP && opt.test != CRR &&
	       opt.test != CONNECT;
}

static void set_socket(struct side *s, int option, int value, const char *what)
{
	if (setsockopt(s->in, SOL_SOCKET, option, &value, sizeof(value)) < 0)
		die("%s: %s.", what, strerror(errno));
}

static void open_connection(struct side *s)
{
	s->sent = 0;
	s->got = 0;
	if (has_connection()) {
		s->in = s->client ? do_connect(-1) : do_accept();
		s->out = s->in;
		if (opt.transport != UNIX && opt.nodelay)
			set_nodelay(s, 1);
		if (opt.busy_poll)
			set_socket(s, SO_BUSY_POLL, opt.busy_poll, "SO_BUSY_POLL");
		if (opt.by == ZEROCOPY)
			set_socket(s, SO_ZEROCOPY, 1, "SO_ZEROCOPY");
	}
	barrier(s);
}

static void close_connection(struct side *s)
{
	barrier(s);
	if (has_connection())
		close(s->in);
}

/*
 * Wait until the clients of all pairs are here. The pipe back alternates: with a single
 * pipe, a fast client would take the byte that a slow client has not read yet.
 */
static void team_barrier(void)
{
	static unsigned int turn;
	int *back = team_back[turn++ % 2];
	char c = 0;

	for (int i = 1; i < opt.pairs && !member; i++)
		get(team_there[0], &c, 1);
	for (int i = 1; i < opt.pairs && !member; i++)
		put(back[1], &c, 1);
	if (member) {
		put(team_there[1], &c, 1);
		get(back[0], &c, 1);
	}
}

/* Return the time from the first pair's beginning to the last one's end, per pair. */
static uint64_t team_time(int rep)
{
	uint64_t start = UINT64_MAX, end = 0;

	team_barrier();
	for (int i = 0; i < opt.pairs; i++) {
		if (team[i].start[rep] < start)
			start = team[i].start[rep];
		if (team[i].end[rep] > end)
			end = team[i].end[rep];
	}
	return (end - start) / opt.pairs;
}

/* Do n operations between two barriers. Returns nanoseconds, to the client. */
static uint64_t timed(struct side *s, uint64_t n, int rep)
{
	uint64_t start, end;

	if (rep >= 0 && s->client)
		team_barrier();
	barrier(s);
	start = now();
	run(s, n, false);
	end = now();
	barrier(s);
	if (opt.test == STREAM)
		end = shared->stream_end;
	if (rep < 0 || !s->client)
		return end - start;
	team[member].start[rep] = start;
	team[member].end[rep] = end;
	return team_time(rep);
}

/*
 * Find the count that takes opt.time_ns, by rounds that grow until one is long
 * enough to tell. The count is at most --count.
 */
static void calibrate(struct side *s)
{
	const uint64_t enough = opt.time_ns / 4;
	uint64_t ns, n, most = opt.count;

	for (n = 16; ; n *= 4) {
		ns = timed(s, n, -1);
		if (s->client) {
			uint64_t count = n * (double)opt.time_ns / (ns ? ns : 1);

			if (ns < enough && n * 4 < most)
				shared->count = 0;
			else
				shared->count = count ? count : 1;
		}
		barrier(s);
		if (shared->count)
			break;
	}
	opt.count = shared->count < 16 ? 16 : shared->count;
	if (opt.count > most)
		opt.count = most;
	opt.time_ns = 0;
}

/* Return the machine's memory that nobody uses, in KiB. */
static long unused_memory(void)
{
	char line[256];
	long kib = -1;
	FILE *f = fopen("/proc/meminfo", "r");

	if (!f)
		die("/proc/meminfo: %s.", strerror(errno));
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %ld", &kib) == 1)
			break;
	fclose(f);
	return kib;
}

/* Open idle connections, which stay open until the end. Each has sent and got a byte. */
static void open_idle(struct side *s)
{
	long before = unused_memory();

	for (int i = 0; i < opt.idle; i++) {
		struct side one = *s;
		char c = 'i';

		one.in = s->client ? do_connect(i) : do_accept();
		if (s->client)
			put(one.in, &c, 1);
		get(one.in, &c, 1);
		if (!s->client)
			put(one.in, &c, 1);
	}
	barrier(s);
	idle_kib = before - unused_memory();
}

/* Do one repetition. Both sides walk through it together. Returns nanoseconds. */
static uint64_t repetition(struct side *s, int rep)
{
	uint64_t ns;

	open_connection(s);
	run(s, CHECKED, true);
	if (opt.time_ns)
		calibrate(s);
	barrier(s);
	run(s, opt.warmup, false);
	if (opt.test == STREAM) {
		close_connection(s);
		open_connection(s);
	}
	ns = timed(s, opt.count, rep);
	run(s, CHECKED, true);
	close_connection(s);
	return ns;
}

static void pin(int cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		die("cannot run on CPU %d: %s.", cpu, strerror(errno));
}

static char *buffer(void)
{
	char *p = mmap(NULL, opt.size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		die("no memory for a buffer of %zu bytes.", opt.size);
	memset(p, 'f', opt.size);
	return p;
}

/* What is opened after this is in that network namespace. */
static void enter(const char *netns)
{
	int fd;

	if (!netns)
		return;
	fd = open(netns, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET) < 0)
		die("network namespace %s: %s.", netns, strerror(errno));
	close(fd);
}

/* Make both ends of a UDP conversation, connected to each other. */
static void make_datagrams(void)
{
	struct sockaddr_in client;
	socklen_t len = sizeof(client);
	int i;

	for (i = 1; i >= 0; i--) {
		enter(opt.netns[i]);
		datagram[i] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (datagram[i] < 0)
			die("socket: %s.", strerror(errno));
		if (i && (bind(datagram[i], &addr.sa, addr_len) < 0 ||
			  getsockname(datagram[i], &addr.sa, &addr_len) < 0))
			die("bind: %s.", strerror(errno));
	}
	if (connect(datagram[0], &addr.sa, addr_len) < 0 ||
	    getsockname(datagram[0], (struct sockaddr *)&client, &len) < 0 ||
	    connect(datagram[1], (struct sockaddr *)&client, len) < 0)
		die("connect: %s.", strerror(errno));
}

static void do_listen(void)
{
	switch (opt.transport) {
	case TCP:
	case UDP:
		addr.in.sin_family = AF_INET;
		addr.in.sin_port = htons(opt.port);
		addr.in.sin_addr = opt.address;
		if (opt.address.s_addr == INADDR_ANY)
			addr.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		addr_len = sizeof(addr.in);
		break;
	case TCP6:
		addr.in6.sin6_family = AF_INET6;
		addr.in6.sin6_port = htons(opt.port);
		addr.in6.sin6_addr = in6addr_loopback;
		addr_len = sizeof(addr.in6);
		break;
	case UNIX:
		/* This is an abstract name: the first byte is a zero. */
		addr.un.sun_family = AF_UNIX;
		addr_len = offsetof(struct sockaddr_un, sun_path) + 1 +
			   sprintf(addr.un.sun_path + 1, "friends-bench.%d", getpid());
		break;
	case PIPE:
		return;
	}
	if (opt.transport == UDP) {
		make_datagrams();
		return;
	}
	enter(opt.netns[1]);
	listener = socket(addr.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0)
		die("socket: %s.", strerror(errno));
	if (opt.port) {
		int one = 1;

		setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	}
	if (bind(listener, &addr.sa, addr_len) < 0)
		die("bind: %s.", strerror(errno));
	if (listen(listener, 128) < 0)
		die("listen: %s.", strerror(errno));
	if (opt.transport != UNIX && getsockname(listener, &addr.sa, &addr_len) < 0)
		die("getsockname: %s.", strerror(errno));
	if (opt.published.s_addr)
		addr.in.sin_addr = opt.published;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Return the bytes that both sides gave to the transport, timed or not. */
static uint64_t payload(void)
{
	uint64_t bytes = operations * opt.size;

	switch (opt.test) {
	case STREAM:
		return bytes;
	case CONNECT:
		return 0;
	default:
		return 2 * bytes;
	}
}

static void report(double *values)
{
	const char *unit = opt.insn ? "insn/op" : "ns/op";
	double sorted[MAX_REPS], median;
	int i;

	memcpy(sorted, values, opt.reps * sizeof(*values));
	qsort(sorted, opt.reps, sizeof(*sorted), by_value);
	median = (sorted[(opt.reps - 1) / 2] + sorted[opt.reps / 2]) / 2;

	if (!opt.json) {
		printf("%s %s %zu: %.1f %s (", transport_names[opt.transport],
		       test_names[opt.test], opt.size, median, unit);
		for (i = 0; i < opt.reps; i++)
			printf("%s%.1f", i ? " " : "", values[i]);
		printf(")\n");
		return;
	}
	printf("{\"transport\": \"%s\", \"test\": \"%s\", \"size\": %zu, "
	       "\"count\": %llu, \"warmup\": %llu, \"payload\": %llu, "
	       "\"idle_kib\": %ld, \"value\": %.1f, \"unit\": \"%s\", \"reps\": [",
	       transport_names[opt.transport], test_names[opt.test], opt.size,
	       (unsigned long long)opt.count, (unsigned long long)opt.warmup,
	       (unsigned long long)payload(), idle_kib, median, unit);
	for (i = 0; i < opt.reps; i++)
		printf("%s%.1f", i ? ", " : "", values[i]);
	printf("]}\n");
}

static void usage(FILE *f)
{
	fputs("usage: friends-bench --transport tcp|tcp6|unix|pipe|udp --test rr|stream|crr|connect\n"
	      "                     [--size BYTES] [--count OPERATIONS] [--warmup OPERATIONS]\n"
	      "                     [--time MILLISECONDS] [--reps N] [--port PORT] [--nodelay]\n"
	      "                     [--cpus CLIENT,SERVER] [--mode insn|wall] [--timeout SECONDS]\n"
	      "                     [--netns CLIENT,SERVER --address IPV4 [--published IPV4]]\n"
	      "                     [--idle CONNECTIONS]\n"
	      "                     [--pairs N] [--busy-poll MICROSECONDS] [--json]\n"
	      "                     [--by write|more|cork|sendfile|splice|zerocopy|\n"
	      "                           uring|uring-zerocopy]\n"
	      "\n"
	      "Prints nanoseconds per operation, the median over the repetitions. Defaults:\n"
	      "1 byte, 1000 operations, a quarter of them before as a warm-up (but 64 at\n"
	      "least), 5 repetitions, any port, any CPU, 600 seconds. With --time, as many\n"
	      "operations as take that long, --count at most. --netns takes two files. --by\n"
	      "is for stream, and uring for rr, too: more and cork write a message as two\n"
	      "halves, uring sends and receives with one request of io_uring at a time.\n", f);
}

static int name_of(const char *arg, const char * const *names, const char *what)
{
	for (int i = 0; names[i]; i++)
		if (!strcmp(arg, names[i]))
			return i;
	die("there is no %s '%s'.", what, arg);
}

static uint64_t number(const char *arg, uint64_t min, uint64_t max, const char *what)
{
	unsigned long long n;
	char *end;

	errno = 0;
	n = strtoull(arg, &end, 10);
	if (errno || end == arg || *end || *arg == '-' || n < min || n > max)
		die("%s must be a number from %llu to %llu, not '%s'.", what,
		    (unsigned long long)min, (unsigned long long)max, arg);
	return n;
}

static void parse(int argc, char **argv)
{
	static const struct option options[] = {
		{ "transport", required_argument, NULL, 't' },
		{ "test", required_argument, NULL, 'T' },
		{ "size", required_argument, NULL, 's' },
		{ "count", required_argument, NULL, 'n' },
		{ "warmup", required_argument, NULL, 'w' },
		{ "time", required_argument, NULL, 'i' },
		{ "reps", required_argument, NULL, 'r' },
		{ "port", required_argument, NULL, 'p' },
		{ "cpus", required_argument, NULL, 'c' },
		{ "mode", required_argument, NULL, 'm' },
		{ "nodelay", no_argument, NULL, 'd' },
		{ "timeout", required_argument, NULL, 'a' },
		{ "netns", required_argument, NULL, 'N' },
		{ "idle", required_argument, NULL, 'I' },
		{ "address", required_argument, NULL, 'A' },
		{ "published", required_argument, NULL, 'Q' },
		{ "pairs", required_argument, NULL, 'P' },
		{ "busy-poll", required_argument, NULL, 'B' },
		{ "by", required_argument, NULL, 'b' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	static const char * const modes[] = { "wall", "insn", NULL };
	bool transport = false, test = false;
	unsigned int timeout = 600;
	char *comma;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 't':
			opt.transport = name_of(optarg, transport_names, "transport");
			transport = true;
			break;
		case 'T':
			opt.test = name_of(optarg, test_names, "test");
			test = true;
			break;
		case 's':
			opt.size = number(optarg, 1, MAX_SIZE, "--size");
			break;
		case 'n':
			opt.count = number(optarg, 1, 1ULL << 32, "--count");
			break;
		case 'w':
			opt.warmup = number(optarg, 0, 1ULL << 32, "--warmup");
			break;
		case 'i':
			opt.time_ns = number(optarg, 1, 600000, "--time") * 1000000;
			break;
		case 'r':
			opt.reps = number(optarg, 1, MAX_REPS, "--reps");
			break;
		case 'p':
			opt.port = number(optarg, 0, 65535, "--port");
			break;
		case 'c':
			comma = strchr(optarg, ',');
			if (comma)
				*comma++ = '\0';
			opt.cpu[0] = number(optarg, 0, CPU_SETSIZE - 1, "--cpus");
			opt.cpu[1] = comma ? (int)number(comma, 0, CPU_SETSIZE - 1, "--cpus")
					   : opt.cpu[0];
			break;
		case 'm':
			opt.insn = name_of(optarg, modes, "mode");
			break;
		case 'd':
			opt.nodelay = 1;
			break;
		case 'a':
			timeout = number(optarg, 1, 86400, "--timeout");
			break;
		case 'N':
			comma = strchr(optarg, ',');
			if (!comma)
				die("--netns takes two files, with a comma between.");
			*comma++ = '\0';
			opt.netns[0] = optarg;
			opt.netns[1] = comma;
			break;
		case 'I':
			opt.idle = number(optarg, 0, 1000000, "--idle");
			break;
		case 'A':
			if (inet_pton(AF_INET, optarg, &opt.address) != 1)
				die("'%s' is no IPv4 address.", optarg);
			break;
		case 'Q':
			if (inet_pton(AF_INET, optarg, &opt.published) != 1)
				die("'%s' is no IPv4 address.", optarg);
			break;
		case 'P':
			opt.pairs = number(optarg, 1, 1024, "--pairs");
			break;
		case 'B':
			opt.busy_poll = number(optarg, 0, 1000000, "--busy-poll");
			break;
		case 'b':
			opt.by = name_of(optarg, by_names, "way to write");
			break;
		case 'j':
			opt.json = true;
			break;
		case 'h':
			usage(stdout);
			exit(0);
		default:
			usage(stderr);
			exit(2);
		}
	}
	if (!transport || !test || optind != argc) {
		usage(stderr);
		exit(2);
	}
	if (opt.transport == PIPE && opt.test != RR && opt.test != STREAM)
		die("a pipe cannot be connected to: rr and stream only.");
	if (opt.idle && (opt.transport == PIPE || opt.transport == UDP))
		die("--idle is for connections.");
	if (opt.transport == UDP && opt.test != RR)
		die("UDP loses what does not fit: rr only.");
	if (opt.by != WRITE && (opt.transport == PIPE || opt.transport == UDP))
		die("--by %s is for connections.", by_names[opt.by]);
	if (opt.by != WRITE && opt.test != STREAM && !(by_uring() && opt.test == RR))
		die("--by %s is for a stream, or for rr with io_uring.", by_names[opt.by]);
	if ((opt.by == CORK || opt.by == ZEROCOPY || opt.by == URING_ZEROCOPY) &&
	    opt.transport == UNIX)
		die("AF_UNIX knows no %s.", opt.by == CORK ? "TCP_CORK" : "zero-copy");
	if ((opt.by == MORE || opt.by == CORK) && opt.size < 2)
		die("--by %s needs two bytes at least.", by_names[opt.by]);
	if (opt.busy_poll && !has_connection())
		die("--busy-poll is for connections.");
	if (opt.pairs > 1 && opt.time_ns)
		die("--pairs needs a count that is the same for all: --count, not --time.");
	if (opt.nodelay < 0)
		opt.nodelay = opt.test == RR;
	if (opt.warmup == UINT64_MAX)
		opt.warmup = opt.count / 4 > 64 && !opt.time_ns ? opt.count / 4 : 64;
	signal(SIGALRM, on_alarm);
	signal(SIGPIPE, SIG_IGN);
	alarm(timeout);
}

static void make_pipe(int fds[2])
{
	if (pipe2(fds, O_CLOEXEC) < 0)
		die("pipe: %s.", strerror(errno));
}

static void *shared_memory(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		die("mmap: %s.", strerror(errno));
	return p;
}

/* Become as many processes as there are pairs. Each makes a server for itself. */
static void make_team(void)
{
	first = getpid();
	team = shared_memory(opt.pairs * sizeof(*team));
	make_pipe(team_there);
	make_pipe(team_back[0]);
	make_pipe(team_back[1]);
	for (int i = 1; i < opt.pairs; i++) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork: %s.", strerror(errno));
		if (pid)
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		member = i;
		return;
	}
}

/* Make a message in memory, and a pipe that holds it or a part of it. */
static void make_file(void)
{
	char buf[4096];
	size_t done;

	memset(buf, 'f', sizeof(buf));
	file = memfd_create("message", MFD_CLOEXEC);
	if (file < 0)
		die("memfd_create: %s.", strerror(errno));
	WHOLE(write(file, buf, opt.size - done < sizeof(buf) ? opt.size - done : sizeof(buf)),
	      done, opt.size, "write");
	make_pipe(through);
}

int main(int argc, char **argv)
{
	int there[2], back[2], ctl_there[2], ctl_back[2];
	double values[MAX_REPS];
	struct side s = { };
	int status;

	parse(argc, argv);
	make_team();
	if (opt.by == SENDFILE || opt.by == SPLICE)
		make_file();
	do_listen();
	make_pipe(ctl_there);
	make_pipe(ctl_back);
	if (opt.transport == PIPE) {
		make_pipe(there);
		make_pipe(back);
	}
	shared = shared_memory(sizeof(*shared));

	child = fork();
	if (child < 0)
		die("fork: %s.", strerror(errno));
	s.client = child > 0;

	/* Keep only this side's ends, so that a dead other side is an end of file. */
	s.ctl_in = s.client ? ctl_back[0] : ctl_there[0];
	s.ctl_out = s.client ? ctl_there[1] : ctl_back[1];
	close(s.client ? ctl_back[1] : ctl_there[1]);
	close(s.client ? ctl_there[0] : ctl_back[0]);
	if (opt.transport == PIPE) {
		s.in = s.client ? back[0] : there[0];
		s.out = s.client ? there[1] : back[1];
		close(s.client ? back[1] : there[1]);
		close(s.client ? there[0] : back[0]);
	}
	if (opt.transport == UDP) {
		s.in = datagram[!s.client];
		s.out = s.in;
		close(datagram[s.client]);
	}
	if (s.client)
		enter(opt.netns[0]);
	s.buf = buffer();
	pin(opt.cpu[s.client ? 0 : 1]);

	if (!s.client) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		open_idle(&s);
		for (int i = 0; i < opt.reps; i++)
			repetition(&s, i);
		_exit(0);
	}
	if (listener >= 0)
		close(listener);
	open_idle(&s);
	for (int i = 0; i < opt.reps; i++)
		values[i] = (double)repetition(&s, i) / opt.count;
	if (waitpid(child, &status, 0) < 0 || status)
		die("the other side failed.");
	if (member)
		return 0;
	for (int i = 1; i < opt.pairs; i++)
		if (wait(&status) < 0 || status)
			die("another pair failed.");
	operations *= opt.pairs;
	report(values);
	return 0;
}
