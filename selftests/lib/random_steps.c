// SPDX-License-Identifier: GPL-2.0
/*
 * This part does the steps of a program: it writes, reads and tinkers at an
 * end of the connection, and checks each byte where it arrives.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/errqueue.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#include "module.h"
#include "program.h"
#include "random.h"
#include "stream.h"

#define PIPE_SIZE	65536
#define URGENT_ROOM	30000		/* the urgent pointer has 16 bits */

int told(struct end *e, int err)
{
	if (err == ECONNRESET &&
	    __atomic_add_fetch(&e->resets, 1, __ATOMIC_SEQ_CST) > 1)
		fail("the %s was told of a reset twice", end_name[e->id]);
	return err;
}

void set_option(struct end *e, int level, int name, int value)
{
	if (setsockopt(e->fd, level, name, &value, sizeof(value)) && !cut(prog))
		fail("option %d of level %d, %d: %s", name, level, value,
		     strerror(errno));
}

/* ---- writing ---- */

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
		/*
		 * Bytes that the socket refuses are read from the file again.
		 */
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

/* Write all bytes of the step. Return false when no more can be written. */
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
 * Return whether an urgent byte may be sent now. There is only one mark at a
 * time: TCP knows only one, and the fate of an earlier mark depends on how far
 * the reader is. The mark is never so far ahead that the urgent pointer cannot
 * reach it, or TCP would point to an earlier byte.
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

bool write_step(struct end *e, const struct step *s)
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

void end_writer(struct end *e)
{
	struct end *x = &ends[prog->who];

	while (!cut(prog) && (completions(e), e->zc_done < e->zc_calls))
		sleep_ms(1);
	if (idle(prog))
		return;
	/* After a FIN, SO_LINGER 0 may end a socket without a reset. */
	if (prog->ending == CUT_RESET && e == x)
		return;
	/* After SHUT_RD and SHUT_WR, data is answered with a reset. */
	while (prog->ending == CUT_RD && e == x &&
	       !LOAD(over[THREAD(e->id, READER)]))
		sleep_ms(1);
	if (shutdown(e->fd, SHUT_WR) && !cut(prog))
		die("SHUT_WR");
}

/* ---- reading ---- */

void take(struct end *e, const char *buf, size_t n, bool peeked)
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

/* If the next byte is the urgent one, check that the reader can see this. */
static void look_at_mark(struct end *e)
{
	struct pollfd p = { .fd = e->fd, .events = POLLPRI };
	uint64_t mark = LOAD(e->peer->mark);
	int here = 0;
	char c, want;

	/* A read that began here may have passed the urgent byte unseen. */
	if (e->received != mark || e->marked == mark || e->tried == mark)
		return;
	e->marked = mark;
	while (!(p.revents & (POLLPRI | POLLHUP))) {
		/* poll() reports completions as an error. */
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
 * Lower SO_RCVLOWAT before the last bytes. A waker knows SO_RCVLOWAT, but not
 * how much the reader still wants. The last bytes would therefore wake nobody,
 * on the wire as well.
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

bool read_step(struct end *e, struct step s)
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
	/* One of the bytes may be urgent, and would be awaited in vain. */
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
		/*
		 * A read may be short at the stream's end, or before the mark.
		 */
		if (s.flags & MSG_WAITALL && n < (ssize_t)want && !cut(prog) &&
		    e->received != LOAD(e->peer->mark))
			fail("MSG_WAITALL of %zu bytes gave %zd", want, n);
		return true;
	}
	if (n < 0 && errno == EAGAIN && s.flags & MSG_DONTWAIT) {
		/* The urgent byte may be the only one. */
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
		/* TCP still delivers, but makes no reader wait for data. */
		sleep_ms(1);
		return true;
	}
	if (s.op == SPLICE_OUT)
		return true;
	e->eof = true;
	return false;
}

void drain(struct end *e)
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
	/* The SYN and the FIN count, too. */
	if (info.tcpi_bytes_received > e->peer->total + 1 ||
	    info.tcpi_bytes_acked > e->total + 2)
		fail("TCP_INFO of the %s: %llu bytes received, %llu acked",
		     end_name[e->id],
		     (unsigned long long)info.tcpi_bytes_received,
		     (unsigned long long)info.tcpi_bytes_acked);
	*last = info;
}

void tinker_step(struct end *e, const struct step *s, struct tcp_info *last)
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

bool all_over(void)
{
	int i;

	for (i = 0; i < SWITCH; i++) {
		if (i % ROLES != TINKER && !LOAD(over[i]))
			return false;
	}
	return true;
}

/* The threads may be inside a call. The last call closes the file. */
static void close_under_way(struct end *e)
{
	int dead = socket(opt.family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	STORE(e->gone, true);
	if (dead < 0 || dup2(dead, e->fd) < 0)
		die("dup2");
	close(dead);
}

void set_linger(struct end *e, int seconds)
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

void end_tinker(struct end *e, bool rcvbuf, bool sndbuf)
{
	/* The rest must not take forever. */
	set_option(e, IPPROTO_TCP, TCP_CORK, 0);
	if (rcvbuf)
		set_option(e, SOL_SOCKET, SO_RCVBUF, 262144);
	if (sndbuf)
		set_option(e, SOL_SOCKET, SO_SNDBUF, 262144);
	if (cut(prog) && e == &ends[prog->who])
		cut_short(e);
}
