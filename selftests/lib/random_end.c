// SPDX-License-Identifier: GPL-2.0
/*
 * This part runs when the threads of a program have ended. It ends the
 * connection if they have not, judges the result at each end, and records what
 * must be equal over both paths.
 */

#define _GNU_SOURCE
#include <stdarg.h>

#include "module.h"
#include "program.h"
#include "random.h"
#include "stream.h"

/* Record a result that must be equal over both paths. */
static __attribute__((format(printf, 1, 2))) void tell(const char *format, ...)
{
	size_t len = strlen(out->end);
	va_list args;

	va_start(args, format);
	vsnprintf(out->end + len, sizeof(out->end) - len, format, args);
	va_end(args);
	STORE(stage, stage + 1);
}

/* Wait for one of @events, and return the events of @e. */
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

/* Send some last bytes, which are not part of the total. */
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

/* Record the counters of an idle connection, which follow from its stream. */
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
		/* The other end is closed, so a reset comes back. */
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

/* Check that all bytes of one direction were sent and read. */
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
 * Return whether all that was sent has been read. Nothing announces a last byte
 * that is urgent and out of line.
 */
static bool whole(const struct end *from, const struct end *to)
{
	return to->received == from->sent ||
	       (!prog->in_line && to->received == from->mark &&
		from->sent == from->mark + 1);
}

/* Check the error that an end reports, whether or not it was reset. */
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
	 * An end of the stream without a reset must come after all bytes. A
	 * sendfile() or splice() that took some bytes does not report
	 * ECONNRESET. The next call then reports EPIPE.
	 */
	if (y->eof && !y->resets && !y->write_err && !whole(x, y))
		fail("the %s sent %" PRIu64 " bytes, and an end was seen after %"
		     PRIu64, end_name[x->id], x->sent, y->received);
	if (send(y->fd, "x", 1, MSG_NOSIGNAL) != -1 || errno != EPIPE)
		fail("a send after the end: %s", strerror(errno));
}

void judge(void)
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
