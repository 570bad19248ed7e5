// SPDX-License-Identifier: GPL-2.0
/*
 * Random programs of socket calls, each over the wire and over friends.
 *
 * A program follows from its seed alone: the steps of a writer, a reader and a
 * tinkerer at each end of one connection, how that connection ends, and, over
 * friends, when net.ipv4.tcp_friends is thrown. Each end's stream is known
 * beforehand, so every byte is checked where it arrives. A program runs in a
 * process of its own, which tells by shared memory how it went.
 *
 * What the wire itself leaves open, and is therefore not compared:
 *  - how many bytes a call takes or gives, and whether one with MSG_DONTWAIT
 *    finds anything: it depends on who runs first. A writer goes on until a
 *    step's bytes are taken, so the totals are the same in spite of that.
 *  - how much of a stream that shutdown() or close() cuts short was sent
 *    before; it must arrive all the same unless there was a reset.
 *  - whether the close of an end that is still written to resets the
 *    connection (only if a byte was unread, or comes later), what a reset
 *    destroys, and which of the peer's calls is told of it. One is, at most.
 *  - whether SO_LINGER 0 resets behind a FIN that is not yet acknowledged. An
 *    end that will be reset so sends none.
 *  - when a completion of a MSG_ZEROCOPY call comes, and for how many calls.
 *  - whether a reader meets an urgent byte before or after it is known to be
 *    one. It never reads across the mark.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <getopt.h>
#include <linux/errqueue.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "module.h"
#include "program.h"
#include "stream.h"

#define JOBS_MAX	16
#define PIPE_SIZE	65536
#define URGENT_ROOM	30000		/* the urgent pointer has 16 bits */
#define NOWHERE		UINT64_MAX

/*
 * Without a byte or a step for so long, a connection stands still. What the
 * wire has lost, in a buffer that became too small, it takes its time to send
 * again, and at a window that such a buffer shut it knocks ever more seldom:
 * then it may be longer by the factor. Where the wire is only there to compare
 * with, nobody waits for that.
 */
#define STALL		15000
#define STALL_LOSS	6
#define STANDS_STILL	"the connection stands still"
#define SHRINK_STALL	5000
#define SHRINK_MS	60000

#define LOAD(x)		__atomic_load_n(&(x), __ATOMIC_SEQ_CST)
#define STORE(x, v)	__atomic_store_n(&(x), v, __ATOMIC_SEQ_CST)

static const char usage_text[] =
"usage: random [options]\n"
"A random program of socket calls over the wire and over friends.\n"
"  -s SEED       default: from the clock\n"
"  -t SECONDS    go on with SEED + 1, SEED + 2, ... for so long\n"
"  -j N          pairs of endpoints at work at once (default 2)\n"
"  -n STEPS      of a program (default 60)\n"
"  -6            IPv6 (default IPv4)\n"
"  -w            over the wire only\n"
"  -k            go on after a failure, and shrink nothing\n";

static struct {
	uint64_t seed;
	int seconds;
	int jobs;
	int steps;
	int family;
	bool wire_only;
	bool keep_going;
} opt = {
	.jobs = 2,
	.steps = 60,
	.family = AF_INET,
};

enum path { WIRE, FRIENDS, PATHS };

static const char *const path_name[] = { "the wire", "friends" };

/* ---- one program in its process ---- */

struct outcome {
	bool done;
	char why[4096];		/* what went wrong, or empty */
	char end[2048];		/* what must be the same over both paths */
	uint64_t moved;		/* bytes that the sockets took, both ways */
	uint64_t carried;	/* of these, by friends */
};

/* An end, which three threads share. What others look at is LOADed. */
struct end {
	int id, fd;
	struct end *peer;
	uint64_t seed;
	int file;		/* its whole stream, */
	char *map;		/* mapped: zero-copy needs pages that stay */
	uint64_t total;
	bool gone;		/* closed here: what its calls say is void */
	bool shut_rd;		/* cut here */

	uint64_t sent;
	uint64_t mark;		/* of the last urgent byte it sent */
	int write_err;
	uint32_t zc_calls, zc_done;
	int in[2];		/* pipes for splice() */

	uint64_t received;
	uint64_t tried;		/* a read began here */
	uint64_t marked;	/* the mark that was looked at */
	uint32_t lowat;
	int read_err;
	bool eof;
	char *buf;
	int out[2];

	int resets;		/* how often ECONNRESET was told */
};

static const struct program *prog;
static struct outcome *out;
static struct end ends[2];
static int at[THREADS];		/* the index of each thread's step */
static bool over[THREADS];
static int stage;		/* of the ending */
static int stall_ms = STALL;
static pthread_mutex_t failing = PTHREAD_MUTEX_INITIALIZER;

/* The first failure is told, and ends the process. */
static __attribute__((noreturn, format(printf, 1, 2)))
void fail(const char *format, ...)
{
	va_list args;

	pthread_mutex_lock(&failing);
	va_start(args, format);
	vsnprintf(out->why, sizeof(out->why), format, args);
	va_end(args);
	_exit(1);
}

static void die(const char *what)
{
	fail("%s: %s", what, strerror(errno));
}

/* A result that must be the same over both paths. */
static __attribute__((format(printf, 1, 2))) void tell(const char *format, ...)
{
	size_t len = strlen(out->end);
	va_list args;

	va_start(args, format);
	vsnprintf(out->end + len, sizeof(out->end) - len, format, args);
	va_end(args);
	STORE(stage, stage + 1);
}

static int told(struct end *e, int err)
{
	if (err == ECONNRESET &&
	    __atomic_add_fetch(&e->resets, 1, __ATOMIC_SEQ_CST) > 1)
		fail("the %s was told of a reset twice", end_name[e->id]);
	return err;
}

static void set_option(struct end *e, int level, int name, int value)
{
	if (setsockopt(e->fd, level, name, &value, sizeof(value)) && !cut(prog))
		fail("option %d of level %d, %d: %s", name, level, value,
		     strerror(errno));
}

/* Each call with MSG_ZEROCOPY that took bytes completes once. */
static void completions(struct end *e)
{
	struct sock_extended_err *err;
	char control[256];
	struct cmsghdr *c;
	struct msghdr msg;

	while (e->zc_done < e->zc_calls) {
		memset(&msg, 0, sizeof(msg));
		msg.msg_control = control;
		msg.msg_controllen = sizeof(control);
		if (recvmsg(e->fd, &msg, MSG_ERRQUEUE) < 0)
			return;
		c = CMSG_FIRSTHDR(&msg);
		if (!c)
			fail("a message without a completion");
		err = (void *)CMSG_DATA(c);
		if (err->ee_origin != SO_EE_ORIGIN_ZEROCOPY)
			fail("an error of origin %u", err->ee_origin);
		if (err->ee_info > err->ee_data || err->ee_data >= e->zc_calls)
			fail("completion of calls %u to %u, of %u",
			     err->ee_info, err->ee_data, e->zc_calls);
		e->zc_done += err->ee_data - err->ee_info + 1;
	}
	if (e->zc_done > e->zc_calls)
		fail("%u completions of %u calls", e->zc_done, e->zc_calls);
}

static ssize_t write_some(struct end *e, const struct step *s, size_t len)
{
	char *from = e->map + e->sent;
	off_t off = e->sent;
	loff_t loff = off;
	struct iovec iov[8];
	struct msghdr msg = { .msg_iov = iov };
	ssize_t n;
	size_t i;

	switch (s->op) {
	case WRITEV:
		for (i = 0; i < 8; i++) {
			iov[i].iov_base = from + len * i / 8;
			iov[i].iov_len = len * (i + 1) / 8 - len * i / 8;
		}
		msg.msg_iovlen = 8;
		return sendmsg(e->fd, &msg, s->flags | MSG_NOSIGNAL);
	case SENDFILE:
		return sendfile(e->fd, e->file, &off, len);
	case SPLICE_IN:
		/* What the socket does not take is read from the file again. */
		n = splice(e->file, &loff, e->in[1], NULL,
			   len < PIPE_SIZE ? len : PIPE_SIZE, 0);
		if (n <= 0)
			fail("splice from a file: %zd, %s", n, strerror(errno));
		len = n;
		n = splice(e->in[0], NULL, e->fd, NULL, len,
			   s->flags & MSG_MORE ? SPLICE_F_MORE : 0);
		if (n < (ssize_t)len) {
			i = errno;
			close(e->in[0]);
			close(e->in[1]);
			if (pipe(e->in))
				die("pipe");
			errno = i;
		}
		return n;
	default:
		return send(e->fd, from, len, s->flags | MSG_NOSIGNAL);
	}
}

/* The step's bytes, all of them; false when there will be no more. */
static bool write_all(struct end *e, struct step s)
{
	struct pollfd p = { .fd = e->fd, .events = POLLOUT };
	size_t left = s.value;
	ssize_t n;

	while (left) {
		if (s.flags & MSG_ZEROCOPY)
			completions(e);
		n = write_some(e, &s, left);
		if (n > 0) {
			if ((size_t)n > left)
				fail("%s took %zd bytes of %zu",
				     op_name[s.op], n, left);
			left -= n;
			e->zc_calls += !!(s.flags & MSG_ZEROCOPY);
			STORE(e->sent, e->sent + n);
		} else if (!n) {
			fail("%s of %zu bytes took none", op_name[s.op], left);
		} else if (errno == EAGAIN && s.flags & MSG_DONTWAIT) {
			completions(e);
			poll(&p, 1, 100);
		} else if (errno == ENOBUFS && s.flags & MSG_ZEROCOPY) {
			s.flags &= ~MSG_ZEROCOPY;
		} else {
			e->write_err = LOAD(e->gone) ? EPIPE : told(e, errno);
			return false;
		}
	}
	return true;
}

/*
 * One mark at a time: TCP knows but one, and what becomes of an earlier one
 * depends on how far the reader is. And never so far ahead that the urgent
 * pointer cannot reach it: TCP's would then point to a byte before it.
 */
static bool may_mark(struct end *e)
{
	uint64_t end = now_ms() + 50;
	int unacked;

	do {
		if (ioctl(e->fd, SIOCOUTQ, &unacked))
			return false;
		if (unacked < URGENT_ROOM &&
		    (e->mark == NOWHERE ||
		     LOAD(e->peer->received) > e->mark + 1))
			return true;
		sleep_ms(1);
	} while (now_ms() < end);
	return false;
}

static bool write_step(struct end *e, const struct step *s)
{
	struct step send = *s;

	if (s->op == URGENT) {
		send.op = SEND;
		if (may_mark(e)) {
			STORE(e->mark, e->sent);
			send.flags = MSG_OOB;
		}
	}
	return write_all(e, send);
}

static void end_writer(struct end *e)
{
	struct end *x = &ends[prog->who];

	while (!cut(prog) && (completions(e), e->zc_done < e->zc_calls))
		sleep_ms(1);
	if (idle(prog))
		return;
	/* Behind its FIN, SO_LINGER 0 may end a socket without a reset. */
	if (prog->ending == CUT_RESET && e == x)
		return;
	/* After SHUT_RD and SHUT_WR data is answered with a reset. */
	while (prog->ending == CUT_RD && e == x &&
	       !LOAD(over[THREAD(e->id, READER)]))
		sleep_ms(1);
	if (shutdown(e->fd, SHUT_WR) && !cut(prog))
		die("SHUT_WR");
}

/* ---- reading ---- */

/*
 * @n bytes were read, or peeked at, or discarded (@buf is NULL). An urgent
 * byte that stands first and is not in line has been left out.
 */
static void take(struct end *e, const char *buf, size_t n, bool peeked)
{
	uint64_t mark = LOAD(e->peer->mark), start = e->received;
	ssize_t bad;

	if (start == mark && !prog->in_line)
		start++;
	if (mark != NOWHERE && start < mark && start + n > mark)
		fail("the %s read %zu bytes at %" PRIu64
		     ", across the mark at %" PRIu64,
		     end_name[e->id], n, start, mark);
	if (start + n > LOAD(e->peer->total) + prog->last)
		fail("the %s read beyond the end: %zu bytes at %" PRIu64,
		     end_name[e->id], n, start);
	bad = buf ? pattern_check(buf, n, e->peer->seed, start) : -1;
	if (bad >= 0)
		fail("byte %" PRIu64 " is wrong, in %zu bytes that the %s %s at %"
		     PRIu64, start + bad, n, end_name[e->id],
		     peeked ? "peeked at" : "read", start);
	if (!peeked)
		STORE(e->received, start + n);
}

/* Where the next byte is the urgent one, that must be seen. */
static void look_at_mark(struct end *e)
{
	struct pollfd p = { .fd = e->fd, .events = POLLPRI };
	uint64_t mark = LOAD(e->peer->mark);
	int here = 0;
	char c, want;

	/* A read that began here may have passed it unseen. */
	if (e->received != mark || e->marked == mark || e->tried == mark)
		return;
	e->marked = mark;
	while (!(p.revents & (POLLPRI | POLLHUP))) {
		/* Completions are an error to poll(). */
		if (poll(&p, 1, 100) > 0 && !(p.revents & POLLPRI))
			sleep_ms(1);
	}
	if (!(p.revents & POLLPRI) || cut(prog))
		return;
	if (ioctl(e->fd, SIOCATMARK, &here) || !here)
		fail("the %s is not at the mark at %" PRIu64, end_name[e->id],
		     mark);
	if (prog->in_line) {
		if (recv(e->fd, &c, 1, MSG_OOB) != -1 || errno != EINVAL)
			fail("MSG_OOB of a byte that is in line");
		return;
	}
	pattern_fill(&want, 1, e->peer->seed, mark);
	if (recv(e->fd, &c, 1, MSG_OOB) != 1)
		fail("MSG_OOB at %" PRIu64 ": %s", mark, strerror(errno));
	if (c != want)
		fail("the urgent byte at %" PRIu64 " is wrong", mark);
	STORE(e->received, mark + 1);
}

/*
 * Wakers know of SO_RCVLOWAT and not of what the reader still wants, so what
 * comes last would wake nobody: neither on the wire.
 */
static void lower_lowat(struct end *e, uint64_t left, size_t want, int flags)
{
	int one = 1;

	if (e->lowat <= 1 || flags & MSG_DONTWAIT)
		return;
	if (!(flags & MSG_PEEK) && left > want + e->lowat)
		return;
	setsockopt(e->fd, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof(one));
	e->lowat = 1;
}

static ssize_t read_some(struct end *e, const struct step *s, size_t want)
{
	struct iovec iov[8];
	ssize_t n, m, done;
	size_t i;

	switch (s->op) {
	case READV:
		for (i = 0; i < 8; i++) {
			iov[i].iov_base = e->buf + want * i / 8;
			iov[i].iov_len = want * (i + 1) / 8 - want * i / 8;
		}
		return readv(e->fd, iov, 8);
	case SPLICE_OUT:
		n = splice(e->fd, NULL, e->out[1], NULL,
			   want < PIPE_SIZE ? want : PIPE_SIZE, 0);
		for (done = 0; done < n; done += m) {
			m = read(e->out[0], e->buf + done, n - done);
			if (m <= 0)
				die("read from a pipe");
		}
		return n;
	default:
		return recv(e->fd, e->buf, want, s->flags);
	}
}

/* False when nothing more will come. */
static bool read_step(struct end *e, struct step s)
{
	struct pollfd p = { .fd = e->fd, .events = POLLIN };
	uint64_t left;
	size_t want;
	ssize_t n;
	bool due = false;

	look_at_mark(e);
	left = e->peer->total - e->received;
	if (!left)
		return true;
	want = s.value < left ? s.value : left;
	/* Perhaps an urgent byte, which nobody waits for. */
	if (s.flags & MSG_WAITALL && prog->urgent && want == left && want > 1)
		want--;
	if (s.op == READ_POLLED) {
		due = poll(&p, 1, 10) > 0 && p.revents & POLLIN;
		s.flags = MSG_DONTWAIT;
	}
	lower_lowat(e, left, want, s.flags);
	e->tried = e->received;
	n = read_some(e, &s, want);
	if (n > (ssize_t)want)
		fail("%s of %zu bytes gave %zd", op_name[s.op], want, n);
	if (n > 0) {
		take(e, s.flags & MSG_TRUNC ? NULL : e->buf, n,
		     s.flags & MSG_PEEK);
		/* Short is the last that comes, or what is before the mark. */
		if (s.flags & MSG_WAITALL && n < (ssize_t)want && !cut(prog) &&
		    e->received != LOAD(e->peer->mark))
			fail("MSG_WAITALL of %zu bytes gave %zd", want, n);
		return true;
	}
	if (n < 0 && errno == EAGAIN && s.flags & MSG_DONTWAIT) {
		/* The urgent byte may be all there was. */
		if (due && !prog->urgent)
			fail("POLLIN, and nothing to read at %" PRIu64,
			     e->received);
		return true;
	}
	if (n < 0) {
		e->read_err = LOAD(e->gone) ? EPIPE : told(e, errno);
		return false;
	}
	if (LOAD(e->shut_rd) && prog->ending == CUT_RD) {
		/* TCP delivers still, but nobody is made to wait for it. */
		sleep_ms(1);
		return true;
	}
	if (s.op == SPLICE_OUT)
		return true;
	e->eof = true;
	return false;
}

/* What the steps have left, and the end of the stream. */
static void drain(struct end *e)
{
	uint64_t state = prog->seed + e->id;
	struct step s = { .op = RECV };
	ssize_t n;

	while (e->received < e->peer->total) {
		s.value = random_size(&state, CHUNK_MAX);
		if (!read_step(e, s))
			return;
	}
	if (idle(prog) || (prog->ending == CUT_RD && e == &ends[prog->who]))
		return;
	n = recv(e->fd, e->buf, 1, 0);
	if (n > 0)
		fail("a byte behind the end");
	e->eof = !n;
	if (n < 0)
		e->read_err = LOAD(e->gone) ? EPIPE : told(e, errno);
}

/* ---- tinkering ---- */

static void look_at_info(struct end *e, struct tcp_info *last)
{
	struct tcp_info info = {};
	socklen_t len = sizeof(info);
	int queued = 0;

	if (getsockopt(e->fd, IPPROTO_TCP, TCP_INFO, &info, &len))
		return;
	if (ioctl(e->fd, SIOCOUTQ, &queued) || ioctl(e->fd, SIOCINQ, &queued))
		return;
	if (info.tcpi_bytes_received < last->tcpi_bytes_received ||
	    info.tcpi_bytes_acked < last->tcpi_bytes_acked ||
	    info.tcpi_bytes_sent < last->tcpi_bytes_sent)
		fail("TCP_INFO of the %s goes back", end_name[e->id]);
	/* The SYN and the FIN count. */
	if (info.tcpi_bytes_received > e->peer->total + 1 ||
	    info.tcpi_bytes_acked > e->total + 2)
		fail("TCP_INFO of the %s: %llu bytes received, %llu acked",
		     end_name[e->id],
		     (unsigned long long)info.tcpi_bytes_received,
		     (unsigned long long)info.tcpi_bytes_acked);
	*last = info;
}

static void tinker_step(struct end *e, const struct step *s,
			struct tcp_info *last)
{
	struct pollfd p = {
		.fd = e->fd,
		.events = POLLIN | POLLOUT | POLLPRI | POLLRDHUP,
	};

	switch (s->op) {
	case CORK:
		set_option(e, IPPROTO_TCP, TCP_CORK, s->value);
		break;
	case NODELAY:
		set_option(e, IPPROTO_TCP, TCP_NODELAY, s->value);
		break;
	case SNDBUF:
		set_option(e, SOL_SOCKET, SO_SNDBUF, s->value);
		break;
	case RCVBUF:
		set_option(e, SOL_SOCKET, SO_RCVBUF, s->value);
		break;
	case NOTSENT:
		set_option(e, IPPROTO_TCP, TCP_NOTSENT_LOWAT, s->value);
		break;
	case POLL:
		poll(&p, 1, s->value);
		break;
	case INFO:
		look_at_info(e, last);
		break;
	}
}

static bool all_over(void)
{
	int i;

	for (i = 0; i < SWITCH; i++) {
		if (i % ROLES != TINKER && !LOAD(over[i]))
			return false;
	}
	return true;
}

/* The threads may be inside a call: the file goes with the last of them. */
static void close_under_way(struct end *e)
{
	int dead = socket(opt.family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	STORE(e->gone, true);
	if (dead < 0 || dup2(dead, e->fd) < 0)
		die("dup2");
	close(dead);
}

static void set_linger(struct end *e, int seconds)
{
	struct linger l = { .l_onoff = 1, .l_linger = seconds };

	if (setsockopt(e->fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l)))
		die("SO_LINGER");
}

static void cut_short(struct end *e)
{
	uint64_t all = e->total + e->peer->total;

	while ((LOAD(e->received) + LOAD(e->peer->received)) * 1000 <
	       all * prog->after && !all_over())
		sleep_ms(1);
	switch (prog->ending) {
	case CUT_RD:
		STORE(e->shut_rd, true);
		shutdown(e->fd, SHUT_RD);
		break;
	case CUT_WR:
		shutdown(e->fd, SHUT_WR);
		break;
	case CUT_BOTH:
		STORE(e->shut_rd, true);
		shutdown(e->fd, SHUT_RDWR);
		break;
	case CUT_RESET:
		set_linger(e, 0);
		close_under_way(e);
		break;
	default:
		close_under_way(e);
		break;
	}
}

static void end_tinker(struct end *e, bool rcvbuf, bool sndbuf)
{
	/* What is left must not take forever. */
	set_option(e, IPPROTO_TCP, TCP_CORK, 0);
	if (rcvbuf)
		set_option(e, SOL_SOCKET, SO_RCVBUF, 262144);
	if (sndbuf)
		set_option(e, SOL_SOCKET, SO_SNDBUF, 262144);
	if (cut(prog) && e == &ends[prog->who])
		cut_short(e);
}

/* ---- threads ---- */

static void pause_us(uint32_t us)
{
	struct timespec ts = { us / 1000000, us % 1000000 * 1000L };

	nanosleep(&ts, NULL);
}

/* The next step of @thread behind the one of index @i, or -1 for the first. */
static const struct step *next_step(int thread, int *i)
{
	while (++*i < prog->n) {
		if (prog->step[*i].thread != thread)
			continue;
		STORE(at[thread], *i);
		return &prog->step[*i];
	}
	STORE(at[thread], prog->n);
	return NULL;
}

static void run_writer(struct end *e)
{
	const struct step *s, plain = { .op = SEND, .value = 1 };
	int i = -1, thread = THREAD(e->id, WRITER);

	/* The first byte is for friends, the last one pushes all others. */
	if (!write_step(e, &plain))
		return;
	while ((s = next_step(thread, &i))) {
		if (s->op == PAUSE)
			pause_us(s->value);
		else if (!write_step(e, s))
			return;
	}
	if (write_step(e, &plain))
		end_writer(e);
}

static void run_reader(struct end *e)
{
	int i = -1, thread = THREAD(e->id, READER);
	const struct step *s;

	while ((s = next_step(thread, &i))) {
		if (s->op == PAUSE) {
			pause_us(s->value);
		} else if (s->op == LOWAT) {
			set_option(e, SOL_SOCKET, SO_RCVLOWAT, s->value);
			e->lowat = s->value;
		} else if (!read_step(e, *s)) {
			return;
		}
	}
	drain(e);
}

static void run_tinker(struct end *e)
{
	int i = -1, thread = THREAD(e->id, TINKER);
	bool rcvbuf = false, sndbuf = false;
	struct tcp_info last = {};
	const struct step *s;

	while ((s = next_step(thread, &i))) {
		if (s->op == PAUSE)
			pause_us(s->value);
		else
			tinker_step(e, s, &last);
		rcvbuf |= s->op == RCVBUF;
		sndbuf |= s->op == SNDBUF;
	}
	end_tinker(e, rcvbuf, sndbuf);
}

/* Off and on, when friends have had their share. */
static void run_switch(uint64_t carried)
{
	const struct step *s;
	bool on = true;
	int i = -1;

	while (friends_stat("bytes") == carried && !all_over())
		sleep_ms(1);
	while ((s = next_step(SWITCH, &i)) && !all_over()) {
		pause_us(s->value);
		on = !on;
		if (friends_set(on ? "1" : "0"))
			die(FRIENDS_SYSCTL);
	}
}

static void *run_thread(void *arg)
{
	int thread = (int *)arg - at;
	struct end *e = &ends[thread / ROLES % 2];

	switch (thread % ROLES) {
	case WRITER:
		run_writer(e);
		break;
	case READER:
		run_reader(e);
		break;
	case TINKER:
		run_tinker(e);
		break;
	}
	STORE(over[thread], true);
	return NULL;
}

static void *run_switch_thread(void *arg)
{
	run_switch(*(uint64_t *)arg);
	STORE(over[SWITCH], true);
	return NULL;
}

static uint64_t progress(void)
{
	uint64_t sum = LOAD(stage);
	int i;

	for (i = 0; i < THREADS; i++)
		sum += LOAD(at[i]) + LOAD(over[i]);
	for (i = 0; i < 2; i++)
		sum += LOAD(ends[i].sent) + LOAD(ends[i].received);
	return sum;
}

union address {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};

/* sin_port and sin6_port are at the same place. */
static unsigned int port_of(const struct end *e)
{
	union address a = {};
	socklen_t len = sizeof(a);

	getsockname(e->fd, &a.sa, &len);
	return ntohs(a.in.sin_port);
}

/* The timer of @e: 1 to retransmit, 4 to probe a window, 0 for none. */
static unsigned int timer_of(const struct end *e)
{
	const char *name = opt.family == AF_INET ? "/proc/thread-self/net/tcp" :
						   "/proc/thread-self/net/tcp6";
	unsigned int local, remote, timer, found = 0;
	char line[256];
	FILE *f;

	f = fopen(name, "r");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*s %*[^:]:%x %*[^:]:%x %*s %*s %x:", &local,
			   &remote, &timer) == 3 &&
		    local == port_of(e) && remote == port_of(e->peer))
			found = timer;
	}
	if (f)
		fclose(f);
	return found;
}

static void report_stall(void)
{
	FILE *f;
	int i;

	pthread_mutex_lock(&failing);
	f = fmemopen(out->why, sizeof(out->why), "w");
	if (!f)
		_exit(1);
	fprintf(f, STANDS_STILL "\n");
	for (i = 0; i < 2; i++) {
		fprintf(f, "#   %s: sent %" PRIu64 " of %" PRIu64
			", received %" PRIu64 ", low-water mark %u",
			end_name[i], LOAD(ends[i].sent), ends[i].total,
			LOAD(ends[i].received), ends[i].lowat);
		if (LOAD(ends[i].mark) != NOWHERE)
			fprintf(f, ", mark at %" PRIu64, LOAD(ends[i].mark));
		fprintf(f, "\n");
		stream_print(f, end_name[i], ends[i].fd);
		fprintf(f, "#   %s: timer %u\n", end_name[i],
			timer_of(&ends[i]));
	}
	for (i = 0; i < THREADS; i++) {
		if (LOAD(over[i]))
			continue;
		fprintf(f, "#   %s: ", thread_name[i]);
		if (at[i] < prog->n)
			print_step(f, &prog->step[at[i]]);
		else
			fprintf(f, "behind its last step");
		fprintf(f, "\n");
	}
	for (i = 0; i < 2; i++) {
		if (ends[i].zc_calls)
			fprintf(f, "#   %s: %u of %u zero-copy calls completed\n",
				end_name[i], ends[i].zc_done, ends[i].zc_calls);
	}
	fprintf(f, "#   steps of the ending done: %d", LOAD(stage));
	fclose(f);
	_exit(1);
}

static void *watch(void *arg)
{
	uint64_t seen = 0, since = now_ms(), limit = patience(stall_ms), now;
	const enum path *path = arg;
	uint64_t lost = limit * STALL_LOSS;

	if (*path == WIRE && !opt.wire_only)
		lost = limit;
	for (;;) {
		now = progress();
		if (now != seen) {
			seen = now;
			since = now_ms();
		} else if (now_ms() - since > lost ||
			   (now_ms() - since > limit &&
			    friends_stat("pairs") &&
			    timer_of(&ends[0]) != 1 &&
			    timer_of(&ends[1]) != 1)) {
			report_stall();
		}
		sleep_ms(20);
	}
	return NULL;
}

/* ---- endings ---- */

/* The events of @e when one of @events has come. */
static int await(struct end *e, int events)
{
	struct pollfd p = { .fd = e->fd, .events = events };
	int n = poll(&p, 1, patience(10000));

	if (n <= 0)
		fail("the %s waits for events 0x%x in vain", end_name[e->id],
		     events);
	return p.revents;
}

static void tell_call(struct end *e, const char *what, long rc)
{
	if (rc < 0)
		told(e, errno);
	tell("%s: %s %ld%s%s; ", end_name[e->id], what, rc,
	     rc < 0 ? " " : "", rc < 0 ? strerror(errno) : "");
}

static void tell_recv(struct end *e)
{
	tell_call(e, "recv", recv(e->fd, e->buf, 1, MSG_DONTWAIT));
}

static void tell_send(struct end *e)
{
	tell_call(e, "send", send(e->fd, "x", 1, MSG_NOSIGNAL));
}

static int pending_error(struct end *e)
{
	socklen_t len = sizeof(int);
	int err = 0;

	if (getsockopt(e->fd, SOL_SOCKET, SO_ERROR, &err, &len))
		die("SO_ERROR");
	return err;
}

static void tell_reset(struct end *e)
{
	tell("%s: events 0x%x; ", end_name[e->id],
	     await(e, 0) & (POLLERR | POLLHUP));
	tell_recv(e);
	tell_recv(e);
	tell_send(e);
	tell("SO_ERROR %d; ", pending_error(e));
}

static void close_end(struct end *e)
{
	if (close(e->fd))
		die("close");
	e->gone = true;
	STORE(stage, stage + 1);
}

/* Some last bytes, which are not part of the total. */
static void send_last(struct end *e)
{
	char *buf = malloc(prog->last);
	uint32_t done = 0;
	ssize_t n;

	if (!buf)
		die("malloc");
	pattern_fill(buf, prog->last, e->seed, e->sent);
	while (done < prog->last) {
		n = send(e->fd, buf + done, prog->last - done, MSG_NOSIGNAL);
		if (n <= 0)
			die("send");
		done += n;
	}
	e->sent += done;
	free(buf);
}

static void recv_last(struct end *e)
{
	ssize_t n;

	while ((n = recv(e->fd, e->buf, CHUNK_MAX, 0)) > 0) {
		take(e, e->buf, n, false);
		STORE(stage, stage + 1);
	}
	tell_call(e, "the end", n);
	tell("%s: received %" PRIu64 "; ", end_name[e->id], e->received);
}

static void *recv_last_thread(void *arg)
{
	recv_last(arg);
	return NULL;
}

/* The counters of a connection that is idle are what the stream was. */
static void tell_info(struct end *e)
{
	uint64_t end = now_ms() + patience(5000);
	struct tcp_info info = {};
	socklen_t len = sizeof(info);
	int queued = -1;

	while (!ioctl(e->fd, SIOCOUTQ, &queued) && queued) {
		if (now_ms() > end)
			fail("%d bytes of the %s stay unacknowledged", queued,
			     end_name[e->id]);
		sleep_ms(1);
	}
	if (getsockopt(e->fd, IPPROTO_TCP, TCP_INFO, &info, &len))
		die("TCP_INFO");
	tell("%s: state %d, received %llu, acked %llu, sent %llu; ",
	     end_name[e->id], info.tcpi_state,
	     (unsigned long long)info.tcpi_bytes_received,
	     (unsigned long long)info.tcpi_bytes_acked,
	     (unsigned long long)(info.tcpi_bytes_sent -
				  info.tcpi_bytes_retrans));
}

static void wait_unread(struct end *e, int want)
{
	uint64_t end = now_ms() + patience(5000);
	int n = -1;

	while (!ioctl(e->fd, SIOCINQ, &n) && n < want) {
		if (now_ms() > end)
			fail("SIOCINQ of the %s is %d, not %d",
			     end_name[e->id], n, want);
		sleep_ms(1);
	}
}

static void end_idle(struct end *x, struct end *y)
{
	pthread_t thread;

	tell_info(&ends[0]);
	tell_info(&ends[1]);
	switch (prog->ending) {
	case IDLE_CLOSE:
		close_end(x);
		tell("events 0x%x; ", await(y, POLLIN | POLLRDHUP));
		tell_recv(y);
		tell_recv(y);
		/* To a socket without an owner: a reset comes back. */
		tell_send(y);
		tell("%s: events 0x%x; ", end_name[y->id],
		     await(y, 0) & (POLLERR | POLLHUP));
		tell_send(y);
		tell_send(y);
		tell_recv(y);
		break;
	case IDLE_RESET:
		set_linger(x, 0);
		close_end(x);
		tell_reset(y);
		break;
	case CLOSE_UNREAD:
		send_last(y);
		wait_unread(x, prog->last);
		close_end(x);
		tell_reset(y);
		break;
	case IDLE_SHUT:
		tell_call(x, "SHUT_RDWR", shutdown(x->fd, SHUT_RDWR));
		tell("events 0x%x; ", await(y, POLLIN | POLLRDHUP));
		tell_recv(y);
		tell_recv(x);
		tell_call(y, "SHUT_RDWR", shutdown(y->fd, SHUT_RDWR));
		tell_send(x);
		tell_send(y);
		tell_recv(x);
		tell_recv(y);
		break;
	case WRITE_CLOSE:
		send_last(x);
		close_end(x);
		recv_last(y);
		break;
	default:
		if (pthread_create(&thread, NULL, recv_last_thread, y))
			die("thread");
		send_last(x);
		set_linger(x, 10);
		close_end(x);
		pthread_join(thread, NULL);
		break;
	}
}

/* One direction, all of it. */
static void judge_whole(const struct end *from, const struct end *to)
{
	if (from->write_err)
		fail("the %s's writer: %s", end_name[from->id],
		     strerror(from->write_err));
	if (to->read_err)
		fail("the %s's reader: %s", end_name[to->id],
		     strerror(to->read_err));
	if (from->sent != from->total || to->received != from->total)
		fail("the %s sent %" PRIu64 " of %" PRIu64
		     " bytes, and %" PRIu64 " arrived", end_name[from->id],
		     from->sent, from->total, to->received);
	tell("from the %s: %" PRIu64 " bytes; ", end_name[from->id],
	     to->received);
}

static void judge_eof(const struct end *e)
{
	if (!e->eof)
		fail("the %s has not seen the end", end_name[e->id]);
}

/*
 * Whether all that was sent has been read. Nothing tells of a last byte that
 * is urgent and out of line.
 */
static bool whole(const struct end *from, const struct end *to)
{
	return to->received == from->sent ||
	       (!prog->in_line && to->received == from->mark &&
		from->sent == from->mark + 1);
}

/* What is told to an end that was reset, or to one that was not. */
static void judge_error(const struct end *e, const char *what, int err)
{
	if (err && err != EPIPE && err != ECONNRESET)
		fail("the %s's %s: %s", end_name[e->id], what, strerror(err));
}

static void judge_cut(struct end *x, struct end *y)
{
	int i;

	if (prog->ending == CUT_RD) {
		judge_whole(x, y);
		judge_whole(y, x);
		judge_eof(y);
		return;
	}
	if (prog->ending == CUT_WR) {
		judge_whole(y, x);
		judge_eof(x);
		judge_eof(y);
		if (x->write_err && x->write_err != EPIPE)
			fail("the writer after SHUT_WR: %s",
			     strerror(x->write_err));
		if (!whole(x, y))
			fail("%" PRIu64 " bytes before SHUT_WR, %" PRIu64
			     " arrived", x->sent, y->received);
		return;
	}
	for (i = 0; i < 2; i++) {
		judge_error(&ends[i], "writer", ends[i].write_err);
		judge_error(&ends[i], "reader", ends[i].read_err);
		if (ends[i].gone)
			continue;
		judge_error(&ends[i], "SO_ERROR",
			    told(&ends[i], pending_error(&ends[i])));
	}
	if (y->received > x->sent || x->received > y->sent)
		fail("more was received than sent");
	/*
	 * An end without a reset is one behind all the bytes. sendfile() and
	 * splice() that took some bytes keep ECONNRESET to themselves: then
	 * the next call is told EPIPE.
	 */
	if (y->eof && !y->resets && !y->write_err && !whole(x, y))
		fail("the %s sent %" PRIu64 " bytes, and an end was seen after %"
		     PRIu64, end_name[x->id], x->sent, y->received);
	if (send(y->fd, "x", 1, MSG_NOSIGNAL) != -1 || errno != EPIPE)
		fail("a send after the end: %s", strerror(errno));
}

static void judge(void)
{
	struct end *x = &ends[prog->who], *y = x->peer;

	STORE(stage, 1);
	if (cut(prog)) {
		judge_cut(x, y);
		return;
	}
	judge_whole(&ends[0], &ends[1]);
	judge_whole(&ends[1], &ends[0]);
	if (prog->ending == AT_END) {
		judge_eof(x);
		judge_eof(y);
		tell("SO_ERROR %d %d; ", pending_error(x), pending_error(y));
		tell_recv(x);
		tell_send(x);
		tell_recv(y);
		tell_send(y);
		close_end(x);
		close_end(y);
	} else {
		end_idle(x, y);
	}
}

/* ---- setting up ---- */

static int new_socket(void)
{
	int fd = socket(opt.family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int size = prog->buffers;

	if (fd < 0)
		die("socket");
	if (size &&
	    (setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) ||
	     setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size))))
		die("buffers");
	return fd;
}

static void set_timestamps(bool on)
{
	static const char name[] = "/proc/sys/net/ipv4/tcp_timestamps";
	int fd = open(name, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, on ? "1" : "0", 1) != 1)
		die(name);
	close(fd);
}

static void connect_ends(void)
{
	union address a = { .sa.sa_family = opt.family };
	socklen_t len = opt.family == AF_INET ? sizeof(a.in) : sizeof(a.in6);
	int listener;

	if (opt.family == AF_INET)
		a.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else
		a.in6.sin6_addr = in6addr_loopback;
	listener = new_socket();
	if (bind(listener, &a.sa, len) || listen(listener, 1) ||
	    getsockname(listener, &a.sa, &len))
		die("listen");
	ends[0].fd = new_socket();
	if (connect(ends[0].fd, &a.sa, len))
		die("connect");
	ends[1].fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (ends[1].fd < 0)
		die("accept");
	close(listener);
}

static void set_up_end(int id)
{
	struct end *e = &ends[id];
	int i;

	e->id = id;
	e->peer = &ends[!id];
	e->seed = mix(prog->seed + id);
	e->mark = NOWHERE;
	e->tried = NOWHERE;
	e->marked = NOWHERE;
	e->total = 2;
	for (i = 0; i < prog->n; i++) {
		if (prog->step[i].thread == THREAD(id, WRITER) &&
		    writes(&prog->step[i]))
			e->total += prog->step[i].value;
	}
	e->file = memfd_create("stream", MFD_CLOEXEC);
	if (e->file < 0 || ftruncate(e->file, e->total))
		die("memfd");
	e->map = mmap(NULL, e->total, PROT_READ | PROT_WRITE, MAP_SHARED,
		      e->file, 0);
	e->buf = malloc(CHUNK_MAX);
	if (e->map == MAP_FAILED || !e->buf ||
	    pipe(e->in) || pipe(e->out))
		die("memory");
	pattern_fill(e->map, e->total, e->seed, 0);
	if (prog->zerocopy)
		set_option(e, SOL_SOCKET, SO_ZEROCOPY, 1);
	if (prog->in_line)
		set_option(e, SOL_SOCKET, SO_OOBINLINE, 1);
}

/*
 * Urgent bytes that open a short program, while the wire is asked so often, can
 * have it carry all.
 */
static bool wire_may_carry_all(const struct program *p)
{
	int i;

	for (i = 0; i < p->n; i++) {
		if (p->step[i].op == URGENT)
			return p->asked;
	}
	return false;
}

/* In the child process; @ns is the network namespace. */
static void run_program(const struct program *p, enum path path, int ns,
			struct outcome *o)
{
	uint64_t carried = 0, pairs = 0;
	pthread_t thread[THREADS], watchdog;
	int i, err = 0;

	prog = p;
	out = o;
	if (setns(ns, CLONE_NEWNET))
		die("setns");
	if (path == FRIENDS) {
		if (friends_set("1") ||
		    revalidate_set(!p->asked ? "1000" : slow() ? "400" : "20"))
			die(FRIENDS_SYSCTL);
		carried = friends_stat("bytes");
		pairs = friends_stat("pairs_total");
	}
	set_timestamps(!p->bare);
	connect_ends();
	if (path == FRIENDS && friends_stat("pairs_total") == pairs)
		fail("vacuous: no friends");
	set_up_end(0);
	set_up_end(1);

	for (i = 0; i < SWITCH; i++)
		err |= pthread_create(&thread[i], NULL, run_thread, &at[i]);
	if (path == FRIENDS && p->switched)
		err |= pthread_create(&thread[SWITCH], NULL, run_switch_thread,
				      &carried);
	else
		over[SWITCH] = true;
	err |= pthread_create(&watchdog, NULL, watch, &path);
	if (err)
		fail("threads");
	for (i = 0; i < SWITCH; i++)
		pthread_join(thread[i], NULL);
	if (!over[SWITCH])
		pthread_join(thread[SWITCH], NULL);
	judge();

	o->moved = ends[0].sent + ends[1].sent;
	if (path == FRIENDS) {
		o->carried = friends_stat("bytes") - carried;
		if (!o->carried && !wire_may_carry_all(p))
			fail("vacuous: friends carried nothing");
	}
	o->done = true;
	_exit(0);
}

/* ---- the programs' father ---- */

/* Two namespaces, one for each path, and a program at work in one of them. */
struct job {
	int ns[PATHS];
	pid_t pid;
	enum path path;
	uint64_t since;
	struct program program;
	struct outcome *outcome;	/* of each path, in shared memory */
};

static struct job jobs[JOBS_MAX];

static void give_up(const char *what)
{
	fprintf(stderr, "random: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int new_namespace(void)
{
	struct ifreq ifr = { .ifr_name = "lo" };
	int fd;

	if (unshare(CLONE_NEWNET))
		give_up("unshare");
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &ifr))
		give_up("lo");
	ifr.ifr_flags |= IFF_UP;
	if (ioctl(fd, SIOCSIFFLAGS, &ifr))
		give_up("lo");
	close(fd);
	fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		give_up("/proc/self/ns/net");
	return fd;
}

static void set_up_jobs(void)
{
	int i, path;

	for (i = 0; i < opt.jobs; i++) {
		for (path = WIRE; path < PATHS - opt.wire_only; path++)
			jobs[i].ns[path] = new_namespace();
		jobs[i].outcome = mmap(NULL, PATHS * sizeof(struct outcome),
				       PROT_READ | PROT_WRITE,
				       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (jobs[i].outcome == MAP_FAILED)
			give_up("memory");
	}
}

static void start(struct job *j, enum path path)
{
	struct outcome *o = &j->outcome[path];

	memset(o, 0, sizeof(*o));
	j->path = path;
	j->since = now_ms();
	fflush(stdout);
	j->pid = fork();
	if (j->pid < 0)
		give_up("fork");
	if (!j->pid)
		run_program(&j->program, path, j->ns[path], o);
}

/* Whether the program is over; a failure is in its outcome. */
static bool ended(struct job *j)
{
	struct outcome *o = &j->outcome[j->path];
	int status;

	if (waitpid(j->pid, &status, WNOHANG) == j->pid) {
		j->pid = 0;
		if (!o->done && !*o->why)
			snprintf(o->why, sizeof(o->why),
				 "the program died, status 0x%x", status);
		return true;
	}
	/* Its own watchdog is much quicker. */
	if (now_ms() - j->since > (uint64_t)patience(300000)) {
		kill(j->pid, SIGKILL);
		snprintf(o->why, sizeof(o->why), "the program does not end");
	}
	return false;
}

static const char *compare(const struct outcome *o)
{
	static char why[2 * sizeof(o->end) + 100];

	if (!strcmp(o[WIRE].end, o[FRIENDS].end))
		return NULL;
	snprintf(why, sizeof(why),
		 "the ends differ\n#   wire:    %s\n#   friends: %s",
		 o[WIRE].end, o[FRIENDS].end);
	return why;
}

/* Run @p again, over @from or both paths: what fails, or NULL. */
static const char *run_again(struct job *j, const struct program *p,
			     enum path from, bool both)
{
	int path;

	j->program = *p;
	for (path = both ? WIRE : from; path <= (int)from; path++) {
		start(j, path);
		while (!ended(j))
			sleep_ms(2);
		if (*j->outcome[path].why)
			return j->outcome[path].why;
	}
	return both ? compare(j->outcome) : NULL;
}

/* What the last program that failed while shrinking said. */
static char last_why[8192];

/* Whether @p fails in one of a few runs. */
static bool fails(struct job *j, const struct program *p, bool both, int runs,
		  uint64_t end)
{
	enum path path = both ? FRIENDS : j->path;
	const char *why;

	while (runs-- && now_ms() < end) {
		why = run_again(j, p, path, both);
		if (why) {
			snprintf(last_why, sizeof(last_why), "%s", why);
			return true;
		}
	}
	return false;
}

/* Drop steps, many at a time at first, while the rest still fails. */
static void shrink(struct job *j, struct program *p, bool both)
{
	uint64_t end = now_ms() + patience(SHRINK_MS);
	struct program try;
	int chunk, i;

	stall_ms = SHRINK_STALL;
	if (!fails(j, p, both, 5, end)) {
		printf("# not seen again in 5 runs; the whole program:\n");
		return;
	}
	for (chunk = (p->n + 1) / 2; chunk; chunk /= 2) {
		for (i = 0; i < p->n;) {
			try = *p;
			try.n = i + chunk < p->n ? p->n - chunk : i;
			memmove(&try.step[i], &p->step[i + chunk],
				(try.n - i) * sizeof(*p->step));
			if (fails(j, &try, both, 3, end))
				*p = try;
			else
				i += chunk;
		}
	}
	printf("# this much of the program is enough%s, for: %s\n",
	       now_ms() < end ? "" : " (or less, there was no more time)",
	       last_why);
}

static void print_counters(struct job *j)
{
	if (opt.wire_only || setns(j->ns[FRIENDS], CLONE_NEWNET))
		return;
	friends_print();
}

static void report(struct job *j, const char *why, bool both)
{
	struct program p = j->program;
	int i, status;

	printf("# seed %" PRIu64 " (random -s %" PRIu64 " -n %d%s), over %s: %s\n",
	       p.seed, p.seed, opt.steps, opt.family == AF_INET ? "" : " -6",
	       both ? "both" : path_name[j->path], why);
	if (opt.keep_going) {
		print_program(&p, opt.family);
		return;
	}
	for (i = 0; i < opt.jobs; i++) {
		if (!jobs[i].pid)
			continue;
		kill(jobs[i].pid, SIGKILL);
		waitpid(jobs[i].pid, &status, 0);
		jobs[i].pid = 0;
	}
	printf("# the counters of its namespace:\n");
	print_counters(j);
	fflush(stdout);
	shrink(j, &p, both);
	print_program(&p, opt.family);
}

struct total {
	uint64_t programs, failed, stood, vacuous, bytes[PATHS], carried;
};

/* One program may say nothing, and few of many, but never all. */
static bool says_something(const struct total *t)
{
	uint64_t nothing = t->stood + t->vacuous;

	return nothing < t->programs && nothing <= 1 + t->programs / 100;
}

static void print_totals(const struct total *t)
{
	int i;

	printf("# %" PRIu64 " programs from seed %" PRIu64 " on, %" PRIu64
	       " failed; %" PRIu64 " bytes over the wire\n", t->programs,
	       opt.seed, t->failed, t->bytes[WIRE]);
	if (t->stood)
		printf("# %" PRIu64 " stood still on the wire, and say nothing\n",
		       t->stood);
	if (opt.wire_only)
		return;
	if (t->vacuous)
		printf("# %" PRIu64 " were carried by the wire only\n",
		       t->vacuous);
	if (!says_something(t))
		printf("# vacuous: too few programs say anything\n");
	printf("# %" PRIu64 " bytes over friends, who carried %" PRIu64
	       " (%.1f %%)\n", t->bytes[FRIENDS], t->carried,
	       100.0 * t->carried / (t->bytes[FRIENDS] ?: 1));
	for (i = 0; i < opt.jobs; i++) {
		if (setns(jobs[i].ns[FRIENDS], CLONE_NEWNET))
			give_up("setns");
		printf("# endpoints %d:\n", i + 1);
		friends_print_counters();
		friends_tell();
	}
}

/* A program has ended over a path: the other one, or the verdict. */
static bool go_on(struct job *j, struct total *t)
{
	const char *why = j->outcome[j->path].why;
	bool both = false;

	if (!*why) {
		t->bytes[j->path] += j->outcome[j->path].moved;
		t->carried += j->outcome[j->path].carried;
		if (j->path == FRIENDS && !j->outcome[FRIENDS].carried)
			t->vacuous++;
		if (j->path == WIRE && !opt.wire_only) {
			start(j, FRIENDS);
			return true;
		}
		why = opt.wire_only ? NULL : compare(j->outcome);
		both = true;
	}
	t->programs++;
	if (!why || !*why)
		return true;
	/* Nothing to compare with: the wire's probes can be minutes apart. */
	if (!both && j->path == WIRE && !opt.wire_only &&
	    !strncmp(why, STANDS_STILL, strlen(STANDS_STILL))) {
		t->stood++;
		return true;
	}
	t->failed++;
	report(j, why, both);
	return opt.keep_going;
}

static void run_jobs(struct total *t)
{
	uint64_t end = now_ms() + opt.seconds * 1000ULL, seed = opt.seed;
	bool more = true;
	int i, busy;

	do {
		sleep_ms(2);
		for (i = 0, busy = 0; i < opt.jobs; i++) {
			struct job *j = &jobs[i];

			if (j->pid && ended(j) && !go_on(j, t))
				return;
			if (!j->pid && more) {
				generate(&j->program, seed++, opt.steps);
				start(j, WIRE);
				more = now_ms() < end;
			}
			busy += !!j->pid;
		}
	} while (busy);
}

static void parse(int argc, char **argv)
{
	int c;

	opt.seed = time(NULL) % 1000000000;
	while ((c = getopt(argc, argv, "s:t:j:n:6wkh")) != -1) {
		switch (c) {
		case 's':
			opt.seed = strtoull(optarg, NULL, 0);
			break;
		case 't':
			opt.seconds = atoi(optarg);
			break;
		case 'j':
			opt.jobs = atoi(optarg);
			break;
		case 'n':
			opt.steps = atoi(optarg);
			break;
		case '6':
			opt.family = AF_INET6;
			break;
		case 'w':
			opt.wire_only = true;
			break;
		case 'k':
			opt.keep_going = true;
			break;
		default:
			fputs(usage_text, c == 'h' ? stdout : stderr);
			exit(c == 'h' ? 0 : 2);
		}
	}
	if (optind < argc || opt.seconds < 0 || opt.jobs < 1 ||
	    opt.jobs > JOBS_MAX || opt.steps < 0 || opt.steps > STEPS_MAX) {
		fputs(usage_text, stderr);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	struct total total = {};

	parse(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	if (!opt.wire_only && !friends_loaded()) {
		fprintf(stderr,
			"random: the module tcp_friends is not loaded (-w does without)\n");
		return 1;
	}
	printf("# random -s %" PRIu64 "\n", opt.seed);
	set_up_jobs();
	run_jobs(&total);
	print_totals(&total);
	return total.failed || (!opt.wire_only && !says_something(&total));
}
