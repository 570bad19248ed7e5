// SPDX-License-Identifier: GPL-2.0
/*
 * This program runs random programs of socket calls between friends. Meanwhile, segments
 * are forged for the same connection, and sockets are kept owned by user by calls that peek
 * in a loop and by page faults that last.
 *
 * All of this happens as the user nobody, in a user namespace. Such a connection is only
 * promised what is checked here:
 *  - no byte is read that neither the peer nor the forger wrote. Two bits of each byte tell
 *    whose it is, and the other six tell its place in the stream;
 *  - no call is stuck: each comes back within its time, and a process whose calls own
 *    sockets can be killed;
 *  - when all sockets are closed, TCP's memory, its sockets and the slabs are what they
 *    were;
 *  - the kernel has not warned.
 *
 * The seed determines what one program does, but not which thread runs first.
 */

#define _GNU_SOURCE
#include <getopt.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "lib/hostile.h"
#include "lib/module.h"
#include "lib/program.h"
#include "lib/stream.h"

#define JOBS_MAX	8
/* Streams repeat after so many bytes. */
#define STREAM		(512UL * 1024)
#define FORGED_MAX	16000
#define IN_PAGES	32
#define OUT_PAGES	(STREAM / PAGE)

/* A call comes back in this time, in ms, unless it meets page faults. */
#define CALL_MS		150
/*
 * With page faults and on a busy host, a call comes back, and a killed process dies, in
 * this time.
 */
#define STUCK_MS	30000

#define LOAD(x)		__atomic_load_n(&(x), __ATOMIC_SEQ_CST)
#define STORE(x, v)	__atomic_store_n(&(x), v, __ATOMIC_SEQ_CST)
#define ADD(x, v)	__atomic_add_fetch(&(x), v, __ATOMIC_SEQ_CST)

static const char usage_text[] =
"usage: fuzz [options]\n"
"Random programs of socket calls, and forged segments between them.\n"
"  -s SEED       default: from the clock\n"
"  -t SECONDS    go on with SEED + 1, SEED + 2, ... for so long (default 10)\n"
"  -j N          connections that are attacked at once (default 2)\n"
"  -n STEPS      of a program (default 60)\n"
"  -6            IPv6 (default IPv4)\n"
"  -w            over the wire\n"
"  -k            go on when the kernel has warned\n"
"  -v            tell of each program\n";

static struct {
	uint64_t seed;
	int seconds;
	int jobs;
	int steps;
	int family;
	bool wire;
	bool keep_going;
	bool verbose;
} opt = {
	.seconds = 10,
	.jobs = 2,
	.steps = 60,
	.family = AF_INET,
};

/* These are the forger, the two that keep sockets owned, and the supplier of pages. */
enum { FORGER = THREADS, HOLDER, HOLDER_2, SUPPLIER, ALL_THREADS };

static const char *thread_called(int thread)
{
	static const char *const name[] = {
		"forger", "client is held", "server is held", "pages",
	};

	return thread < THREADS ? thread_name[thread] : name[thread - THREADS];
}

/* This is what a job reports to the parent process, in shared memory. */
struct job {
	pid_t worker, program;		/* the worker is the parent of the program */
	uint64_t seed, since;
	bool over;			/* all threads but the supplier of pages are over */
	uint64_t programs, killed, idle;
	uint64_t moved, forged, held;
	char why[4096];
	/* For the program that runs: since when a thread is in a call, and in which. */
	uint64_t call_since[ALL_THREADS];
	const char *call[ALL_THREADS];
	pid_t tid[ALL_THREADS];
};

static struct all {
	bool stop;
	uint64_t next_seed;
	struct job job[JOBS_MAX];
} *all;

static struct job *jobs;
static int right = -1;			/* descriptor of /dev/userfaultfd, or -1 */

static int stuck_ms(void)
{
	return slow() ? 4 * STUCK_MS : STUCK_MS;
}

static void give_up(const char *what)
{
	fprintf(stderr, "fuzz: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* ---- one program, in its process ---- */

/* This tells whose a byte is. */
enum { NOBODYS, CLIENTS, SERVERS, FORGERS };

struct end {
	int id, fd;
	struct end *peer;
	union endpoint at;
	uint32_t isn;
	int file;			/* holds its stream */
	uint8_t *map;			/* the mapped file */
	uint8_t *forged;		/* what is forged in place of the stream */
	struct faults out;		/* the stream in pages that come late */
	struct faults in;		/* room to read into, in pages that come late */
	int in_pipe[2], out_pipe[2];
	uint8_t *buf;
	uint64_t sent, received;
	bool dead;			/* nothing more will come */
};

static const struct program *prog;
static struct job *job;
static struct end ends[2];
static uint64_t deadline;		/* when the program ends, in ms */
static bool stopped, no_supply;
static uint64_t temper;			/* the ways that the forger uses */
static struct faults held[2];
static pthread_mutex_t failing = PTHREAD_MUTEX_INITIALIZER;

/* Report the first failure, and end the process. */
static __attribute__((noreturn, format(printf, 1, 2)))
void fail(const char *format, ...)
{
	va_list args;

	pthread_mutex_lock(&failing);
	va_start(args, format);
	vsnprintf(job->why, sizeof(job->why), format, args);
	va_end(args);
	_exit(1);
}

static void die(const char *what)
{
	fail("%s: %s", what, strerror(errno));
}

static bool over(void)
{
	return LOAD(stopped) || now_ms() >= deadline;
}

static void call_begins(int thread, const char *name)
{
	job->call[thread] = name;
	STORE(job->call_since[thread], now_ms());
}

static void call_ends(int thread)
{
	STORE(job->call_since[thread], 0);
}

static void pause_us(uint32_t us)
{
	struct timespec ts = { us / 1000000, us % 1000000 * 1000L };

	nanosleep(&ts, NULL);
}

/* Fill a stream with bytes of @whose. */
static void fill_stream(uint8_t *map, uint64_t seed, int whose)
{
	size_t i;

	pattern_fill(map, STREAM, seed, 0);
	for (i = 0; i < STREAM; i++)
		map[i] = (map[i] & ~3) | whose;
}

/*
 * Check what @e has read at @pos. Urgent bytes that are not in line leave gaps, and a
 * thread that peeks does not know where the reader is. In these cases, a byte only tells
 * whose it is.
 */
static void check_bytes(struct end *e, const uint8_t *buf, size_t len, uint64_t pos,
			bool placed, const char *how)
{
	const uint8_t *peer = e->peer->map, *forged = e->peer->forged;
	int whose = e->peer->id ? SERVERS : CLIENTS;
	size_t i, at;

	for (i = 0; i < len; i++) {
		at = (pos + i) % STREAM;
		if (placed && prog->in_line ? buf[i] == peer[at] || buf[i] == forged[at] :
				    (buf[i] & 3) == whose || (buf[i] & 3) == FORGERS)
			continue;
		fail("byte %" PRIu64 " that the %s %s is neither its peer's nor forged: 0x%02x, not 0x%02x or 0x%02x; byte %zu of %zu",
		     pos + i, end_name[e->id], how, buf[i], peer[at], forged[at], i, len);
	}
}

static void set_option(struct end *e, int level, int name, int value)
{
	setsockopt(e->fd, level, name, &value, sizeof(value));
}

/* Look at a result, which may end this direction. */
static void look_at(struct end *e, ssize_t n)
{
	if (n < 0 && (errno == EPIPE || errno == ECONNRESET || errno == ETIMEDOUT ||
		      errno == ECONNABORTED))
		STORE(e->dead, true);
	if (LOAD(ends[0].dead) && LOAD(ends[1].dead))
		STORE(stopped, true);
}

static void new_pipe(int pipes[2])
{
	close(pipes[0]);
	close(pipes[1]);
	if (pipe2(pipes, O_CLOEXEC | O_NONBLOCK))
		die("pipe");
}

static void write_step(struct end *e, const struct step *s, uint64_t *state)
{
	int thread = THREAD(e->id, WRITER), flags = s->flags | MSG_NOSIGNAL;
	size_t at = e->sent % STREAM, len = s->value, i;
	const uint8_t *from = e->map + at;
	struct msghdr msg = {};
	struct iovec iov[8];
	off_t off = at;
	loff_t loff = at;
	ssize_t n;

	if (len > STREAM - at)
		len = STREAM - at;
	call_begins(thread, op_name[s->op]);
	switch (s->op) {
	case WRITEV:
		for (i = 0; i < 8; i++) {
			iov[i].iov_base = (void *)(from + len * i / 8);
			iov[i].iov_len = len * (i + 1) / 8 - len * i / 8;
		}
		msg.msg_iov = iov;
		msg.msg_iovlen = 8;
		n = sendmsg(e->fd, &msg, flags);
		break;
	case SENDFILE:
		n = sendfile(e->fd, e->file, &off, len);
		break;
	case SPLICE_IN:
		n = splice(e->file, &loff, e->in_pipe[1], NULL, len, SPLICE_F_NONBLOCK);
		if (n <= 0)
			fail("splice from a file: %zd, %s", n, strerror(errno));
		len = n;
		n = splice(e->in_pipe[0], NULL, e->fd, NULL, len,
			   s->flags & MSG_MORE ? SPLICE_F_MORE : 0);
		if (n < (ssize_t)len) {
			i = errno;
			new_pipe(e->in_pipe);
			errno = i;
		}
		break;
	case URGENT:
		n = send(e->fd, from, 1, flags | MSG_OOB);
		break;
	default:
		/* Every fourth call finds that its pages are absent. */
		if (right >= 0 && prng(state) % 4 == 0 && !(flags & MSG_ZEROCOPY)) {
			len = len < 16 * PAGE ? len : 16 * PAGE;
			madvise(e->out.pages + at / PAGE * PAGE,
				at % PAGE + len, MADV_DONTNEED);
			from = (uint8_t *)e->out.pages + at;
		}
		n = send(e->fd, from, len, flags);
		break;
	}
	look_at(e, n);
	call_ends(thread);
	if (n > 0)
		STORE(e->sent, e->sent + n);
	if (flags & MSG_ZEROCOPY)
		recv(e->fd, NULL, 0, MSG_ERRQUEUE | MSG_DONTWAIT);
}

static void read_step(struct end *e, const struct step *s, uint64_t *state)
{
	struct pollfd p = { .fd = e->fd, .events = POLLIN };
	int thread = THREAD(e->id, READER), flags = s->flags;
	size_t want = s->value < STREAM ? s->value : STREAM, i;
	uint8_t *to = e->buf;
	struct iovec iov[8];
	ssize_t n, m, done;

	call_begins(thread, op_name[s->op]);
	switch (s->op) {
	case READV:
		for (i = 0; i < 8; i++) {
			iov[i].iov_base = to + want * i / 8;
			iov[i].iov_len = want * (i + 1) / 8 - want * i / 8;
		}
		n = readv(e->fd, iov, 8);
		break;
	case SPLICE_OUT:
		n = splice(e->fd, NULL, e->out_pipe[1], NULL,
			   want < 65536 ? want : 65536, 0);
		for (done = 0; done < n; done += m) {
			m = read(e->out_pipe[0], to + done, n - done);
			if (m <= 0)
				die("read from a pipe");
		}
		break;
	case READ_POLLED:
		poll(&p, 1, 10);
		flags |= MSG_DONTWAIT;
		/* fall through */
	default:
		if (right >= 0 && prng(state) % 4 == 0) {
			want = want < IN_PAGES * PAGE ? want : IN_PAGES * PAGE;
			madvise(e->in.pages, want, MADV_DONTNEED);
			to = (uint8_t *)e->in.pages;
		}
		n = recv(e->fd, to, want, flags);
		break;
	}
	if (n > (ssize_t)want)
		fail("%s of %zu bytes gave %zd", op_name[s->op], want, n);
	look_at(e, n);
	call_ends(thread);
	if (n <= 0) {
		/* There may be nothing to read for a while. */
		if (n < 0 && errno != EAGAIN)
			pause_us(1000);
		if (!n && s->op != SPLICE_OUT)
			pause_us(1000);
		return;
	}
	if (!(flags & MSG_TRUNC))
		check_bytes(e, to, n, e->received, true, flags & MSG_PEEK ? "peeked at" : "read");
	if (!(flags & MSG_PEEK))
		STORE(e->received, e->received + n);
}

static void tinker_step(struct end *e, const struct step *s)
{
	struct pollfd p = {
		.fd = e->fd, .events = POLLIN | POLLOUT | POLLPRI | POLLRDHUP,
	};
	struct tcp_info info;
	socklen_t len = sizeof(info);
	int thread = THREAD(e->id, TINKER), n;

	call_begins(thread, op_name[s->op]);
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
		getsockopt(e->fd, IPPROTO_TCP, TCP_INFO, &info, &len);
		n = 0;
		/* In a state without a stream, there are no bytes to count. */
		if (!ioctl(e->fd, SIOCINQ, &n) && n < 0)
			fail("FIONREAD of the %s is %d", end_name[e->id], n);
		ioctl(e->fd, SIOCOUTQ, &n);
		break;
	}
	call_ends(thread);
}

/* End the connection before its time, while some of the bytes are under way. */
static void cut_short(struct end *e)
{
	static const struct linger reset = { .l_onoff = 1 };
	int thread = THREAD(e->id, TINKER), how = SHUT_RDWR, dead;

	while (!over() && now_ms() + 100 < deadline)
		pause_us(5000);
	call_begins(thread, ending_name[prog->ending]);
	switch (prog->ending) {
	case CUT_RD:
	case CUT_WR:
		how = prog->ending == CUT_RD ? SHUT_RD : SHUT_WR;
		/* fall through */
	case CUT_BOTH:
		shutdown(e->fd, how);
		break;
	case CUT_RESET:
		setsockopt(e->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		/* fall through */
	case CUT_CLOSE:
		dead = socket(opt.family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (dead < 0 || dup2(dead, e->fd) < 0)
			die("dup2");
		close(dead);
		break;
	default:
		break;
	}
	call_ends(thread);
}

static void run_thread(int thread)
{
	struct end *e = &ends[thread / ROLES % 2];
	uint64_t state = mix(prog->seed + thread);
	bool on = true;
	int i = 0, none = 0;

	while (!over()) {
		const struct step *s = &prog->step[i % prog->n];

		i++;
		if (s->thread != thread) {
			/* There may be no steps for this thread. */
			if (++none > prog->n)
				pause_us(10000);
			continue;
		}
		none = 0;
		if (s->op == PAUSE)
			pause_us(s->value);
		else if (s->op == LOWAT)
			set_option(e, SOL_SOCKET, SO_RCVLOWAT, s->value);
		else if (thread == SWITCH)
			pause_us(s->value), on = !on, friends_set(on ? "1" : "0");
		else if (thread % ROLES == WRITER)
			write_step(e, s, &state);
		else if (thread % ROLES == READER)
			read_step(e, s, &state);
		else
			tinker_step(e, s);
		/* All steps are done, and only the ending is left. */
		if (thread % ROLES == TINKER && i > prog->n && cut(prog) &&
		    e == &ends[prog->who]) {
			cut_short(e);
			return;
		}
	}
}

/* ---- the forger ---- */

/* These are the ways of the forger. In each program it keeps to a few of them. */
enum {
	DATA = 1, DATA_AHEAD = 2, DATA_AGAIN = 4, OLD_ACKS = 8, FUTURE_ACKS = 16,
	WINDOWS = 32, URGENTS = 64, STAMPS = 128, OUTSIDE = 256, FINS = 512, RSTS = 1024,
	SYNS = 2048, WAYS = 12,
};

/* Return a place in or near the window of @to, for data from @from. */
static uint64_t random_place(const struct end *from, const struct end *to, uint64_t *state)
{
	uint64_t next = LOAD(from->sent);

	if (temper & OUTSIDE && prng(state) % 8 == 0)
		return next + (prng(state) & UINT32_MAX);
	if (temper & DATA_AHEAD && prng(state) % 4 == 0)
		return next + random_size(state, 100000);
	if (temper & DATA_AGAIN && prng(state) % 4 == 0) {
		uint64_t back = random_size(state, 100000);

		return next > back ? next - back : LOAD(to->received);
	}
	return next;
}

static bool forge_one(int raw, uint64_t *state)
{
	static const uint16_t windows[] = { 0, 0, 1, 100, 1000, 65535 };
	static __thread uint8_t data[FORGED_MAX];
	struct end *from = &ends[prng(state) % 2], *to = from->peer;
	uint64_t place = random_place(from, to, state), way, i;
	struct segment s = {
		.from = &from->at, .to = &to->at,
		.ack = to->isn + 1 + LOAD(to->sent),
		.flags = ACK, .window = 1000, .data = data,
	};
	/* The ways that end a connection have to wait, or the others would have no effect. */
	bool late = now_ms() + 200 > deadline;

	do {
		way = 1 << prng(state) % WAYS;
	} while (!(temper & way) || (way >= FINS && !late && prng(state) % 512));
	if (way & (DATA | DATA_AHEAD | DATA_AGAIN | URGENTS)) {
		s.len = random_size(state, FORGED_MAX);
		s.flags |= prng(state) % 2 ? PSH : 0;
	}
	if (way & URGENTS) {
		s.flags |= URG;
		s.urgent = random_size(state, 20000);
	}
	if (way & OLD_ACKS)
		s.ack -= random_size(state, 1 << 22);
	if (way & FUTURE_ACKS)
		s.ack += random_size(state, 1 << 22);
	if (way & WINDOWS || prng(state) % 8 == 0)
		s.window = windows[prng(state) % 6];
	if (way & STAMPS || (temper & STAMPS && prng(state) % 8 == 0)) {
		s.stamped = true;
		s.stamp = prng(state);
		s.echo = prng(state);
	}
	if (way & FINS)
		s.flags |= FIN;
	if (way & RSTS)
		s.flags = prng(state) % 2 ? RST : RST | ACK;
	if (way & SYNS)
		s.flags = prng(state) % 2 ? SYN : SYN | ACK;
	if (prng(state) % 64 == 0)
		s.flags = prng(state) & (late ? 63 : 63 & ~(SYN | RST | FIN));
	s.seq = from->isn + 1 + place;
	for (i = 0; i < s.len; i++)
		data[i] = from->forged[(place + i) % STREAM];
	return forge(raw, &s);
}

static void run_forger(void)
{
	uint64_t state = mix(prog->seed ^ 0x666f72676572ULL);
	int raw = forger(opt.family), burst;
	unsigned int pace = 1 << prng(&state) % 13;

	if (raw < 0)
		die("a raw socket");
	/* Some programs are attacked all the time, and some only later. */
	if (prng(&state) % 4 == 0)
		pause_us(random_size(&state, 300000));
	while (!over()) {
		call_begins(FORGER, "forge");
		for (burst = random_size(&state, 8); burst; burst--)
			ADD(job->forged, forge_one(raw, &state));
		call_ends(FORGER);
		pause_us(prng(&state) % pace);
	}
	close(raw);
}

/* ---- threads that keep sockets owned ---- */

static void run_holder(int id)
{
	int thread = HOLDER + id;
	struct end *e = &ends[id];
	uint64_t state = mix(prog->seed ^ (0x686f6c64 + id));
	uint8_t *buf = malloc(STREAM);
	unsigned int pace = 1 << prng(&state) % 15;
	int kind = prng(&state) % 4, i;
	ssize_t n = 0;

	if (!buf)
		die("malloc");
	while (!over()) {
		call_begins(thread, "recv MSG_PEEK");
		if (kind % 2 || right < 0) {
			for (i = random_size(&state, 50); i && !over(); i--) {
				n = recv(e->fd, buf, STREAM, MSG_PEEK | MSG_DONTWAIT);
				if (n > 0)
					check_bytes(e, buf, n, 0, false, "peeked at");
			}
		} else {
			madvise(held[id].pages, PAGE, MADV_DONTNEED);
			n = recv(e->fd, held[id].pages, PAGE, MSG_PEEK | MSG_DONTWAIT);
		}
		call_ends(thread);
		ADD(job->held, n > 0);
		pause_us(prng(&state) % pace);
	}
	free(buf);
}

/* Supply the pages that other threads wait for: late, but at once when all is over. */
static void run_supplier(void)
{
	static uint8_t zeroes[PAGE];
	struct faults *f[] = {
		&held[0], &held[1], &ends[0].out, &ends[0].in, &ends[1].out, &ends[1].in,
	};
	uint64_t state = mix(prog->seed ^ 0x7061676573ULL);
	unsigned int pace = 1 << prng(&state) % 16;
	const void *page;
	struct pollfd p[6];
	char *at;
	int i;

	for (i = 0; i < 6; i++)
		p[i] = (struct pollfd){ .fd = f[i]->fd, .events = POLLIN };
	while (!LOAD(job->over)) {
		if (poll(p, 6, 20) <= 0)
			continue;
		for (i = 0; i < 6; i++) {
			if (!(p[i].revents & POLLIN))
				continue;
			at = faults_next(f[i], 0);
			if (!at)
				continue;
			if (!over())
				pause_us(prng(&state) % pace);
			while (LOAD(no_supply))
				pause_us(10000);
			page = zeroes;
			if (f[i] == &ends[0].out || f[i] == &ends[1].out)
				page = ends[f[i] == &ends[1].out].map + (at - f[i]->pages);
			if (!faults_supply(f[i], at, page))
				die("UFFDIO_COPY");
		}
	}
}

/* ---- setting up ---- */

static void new_namespace(void)
{
	struct ifreq ifr = { .ifr_name = "lo" };
	int fd;

	if (!become_nobody())
		give_up("a user namespace");
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &ifr))
		give_up("lo");
	ifr.ifr_flags |= IFF_UP;
	if (ioctl(fd, SIOCSIFFLAGS, &ifr))
		give_up("lo");
	close(fd);
	if (!opt.wire && friends_set("1"))
		give_up(FRIENDS_SYSCTL);
	/* Sockets that no process owns any more are closed soon. */
	sysctl_set("/proc/sys/net/ipv4/tcp_orphan_retries", "1");
	sysctl_set("/proc/sys/net/ipv4/tcp_fin_timeout", "1");
}

static int new_socket(void)
{
	struct timeval time = { .tv_usec = CALL_MS * 1000 };
	int fd = socket(opt.family, SOCK_STREAM | SOCK_CLOEXEC, 0), size = prog->buffers;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time)))
		die("socket");
	if (size && (setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) ||
		     setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size))))
		die("buffers");
	return fd;
}

static void connect_ends(void)
{
	socklen_t len = opt.family == AF_INET ? sizeof(struct sockaddr_in) :
						sizeof(struct sockaddr_in6);
	union endpoint a = { .sa.sa_family = opt.family };
	struct timeval none = {};
	int listener, packets;
	uint32_t isn[2] = {};

	if (opt.family == AF_INET)
		a.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else
		a.in6.sin6_addr = in6addr_loopback;
	packets = tap();
	listener = new_socket();
	/* The handshake may take as long as it needs. */
	setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof(none));
	if (bind(listener, &a.sa, len) || listen(listener, 1) ||
	    getsockname(listener, &a.sa, &len))
		die("listen");
	ends[0].fd = new_socket();
	setsockopt(ends[0].fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof(none));
	if (connect(ends[0].fd, &a.sa, len))
		die("connect");
	none.tv_usec = CALL_MS * 1000;
	setsockopt(ends[0].fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof(none));
	ends[1].fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (ends[1].fd < 0)
		die("accept");
	setsockopt(ends[1].fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof(none));
	setsockopt(ends[1].fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof(none));
	close(listener);
	ends[1].at = a;
	if (getsockname(ends[0].fd, &ends[0].at.sa, &len))
		die("getsockname");
	if (!learn_sequences(packets, opt.family, &ends[0].at, isn))
		fail("the handshake was not seen");
	ends[0].isn = isn[0];
	ends[1].isn = isn[1];
}

static void set_up_end(int id)
{
	struct end *e = &ends[id];

	e->id = id;
	e->peer = &ends[!id];
	e->file = memfd_create("stream", MFD_CLOEXEC);
	if (e->file < 0 || ftruncate(e->file, STREAM))
		die("memfd");
	e->map = mmap(NULL, STREAM, PROT_READ | PROT_WRITE, MAP_SHARED, e->file, 0);
	e->forged = malloc(STREAM);
	e->buf = malloc(STREAM);
	if (e->map == MAP_FAILED || !e->forged || !e->buf ||
	    pipe2(e->in_pipe, O_CLOEXEC | O_NONBLOCK) ||
	    pipe2(e->out_pipe, O_CLOEXEC | O_NONBLOCK))
		die("memory");
	fill_stream(e->map, mix(prog->seed + id), id ? SERVERS : CLIENTS);
	fill_stream(e->forged, mix(prog->seed + 2 + id), FORGERS);
	if (right >= 0 &&
	    (!faults_begin(&e->out, right, OUT_PAGES) ||
	     !faults_begin(&e->in, right, IN_PAGES) || !faults_begin(&held[id], right, 1)))
		die("userfaultfd");
	if (prog->zerocopy)
		set_option(e, SOL_SOCKET, SO_ZEROCOPY, 1);
	if (prog->in_line)
		set_option(e, SOL_SOCKET, SO_OOBINLINE, 1);
}

/* Check that friends carry the first bytes, before the connection is attacked. */
static void meet(void)
{
	uint64_t end = now_ms() + patience(2000), before = friends_stat("bytes");
	uint8_t buf[100];
	ssize_t n;
	int i;

	do {
		for (i = 0; i < 2; i++) {
			n = send(ends[i].fd, ends[i].map + ends[i].sent, sizeof(buf),
				 MSG_NOSIGNAL);
			if (n <= 0)
				die("send");
			ends[i].sent += n;
			/* Where the host is busy, a time-out may come first. */
			while (ends[!i].received < ends[i].sent) {
				n = recv(ends[!i].fd, buf,
					 ends[i].sent - ends[!i].received, 0);
				if (n < 0 && errno == EAGAIN && now_ms() < end)
					continue;
				if (n <= 0)
					die("recv");
				check_bytes(&ends[!i], buf, n, ends[!i].received, true, "read");
				ends[!i].received += n;
			}
		}
		if (now_ms() > end)
			fail("vacuous: there are no friends to attack");
	} while (!opt.wire && friends_stat("bytes") < before + 2 * sizeof(buf) &&
		 ends[0].sent < STREAM - sizeof(buf));
}

static void *begin_thread(void *arg)
{
	int thread = (intptr_t)arg;

	STORE(job->tid[thread], syscall(SYS_gettid));
	if (thread == FORGER)
		run_forger();
	else if (thread == SUPPLIER)
		run_supplier();
	else if (thread >= HOLDER)
		run_holder(thread - HOLDER);
	else
		run_thread(thread);
	return NULL;
}

static void run_program(const struct program *p, bool to_be_killed)
{
	uint64_t state = mix(p->seed ^ 0x74656d706572ULL), before;
	static const struct linger reset = { .l_onoff = 1 };
	pthread_t thread[ALL_THREADS];
	int i, n, ms;

	prog = p;
	signal(SIGPIPE, SIG_IGN);
	/* The program does not outlive its worker. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	STORE(job->over, false);
	memset(job->call_since, 0, sizeof(job->call_since));
	if (!opt.wire) {
		friends_set("1");
		revalidate_set("0");
	}
	sysctl_set("/proc/sys/net/ipv4/tcp_timestamps", p->bare ? "0" : "1");
	connect_ends();
	set_up_end(0);
	set_up_end(1);
	meet();
	/*
	 * On a busy host a round trip may take longer than this, so it waits until friends
	 * carry data.
	 */
	if (!opt.wire && p->asked)
		revalidate_set("20");

	ms = 200 + prng(&state) % 800;
	ms = slow() ? 3 * ms : ms;
	temper = prng(&state) & ((1 << WAYS) - 1);
	/* Half of the programs keep to the ways that do not end the connection. */
	if (prng(&state) % 2)
		temper &= FINS - 1;
	temper |= DATA | OLD_ACKS;
	deadline = now_ms() + ms;
	before = friends_stat("bytes");
	for (i = 0; i < ALL_THREADS; i++) {
		if ((i == SWITCH && (!p->switched || opt.wire)) ||
		    (i == SUPPLIER && right < 0)) {
			thread[i] = 0;
			continue;
		}
		if (pthread_create(&thread[i], NULL, begin_thread, (void *)(intptr_t)i))
			die("threads");
	}
	if (to_be_killed) {
		/* A thread that waits for a page then waits until it is killed. */
		while (!over())
			pause_us(5000);
		STORE(no_supply, true);
		job->moved += friends_stat("bytes") - before;
		STORE(deadline, UINT64_MAX);
		for (;;)
			pause();
	}
	for (i = 0; i < ALL_THREADS; i++) {
		if (i == SUPPLIER)
			continue;
		if (thread[i])
			pthread_join(thread[i], NULL);
	}
	STORE(job->over, true);
	if (thread[SUPPLIER])
		pthread_join(thread[SUPPLIER], NULL);
	before = friends_stat("bytes") - before;
	job->moved += before;
	job->idle += !before;

	/* Check what is left to read. Then close each end in its way. */
	for (i = 0; i < 2; i++) {
		while ((n = recv(ends[i].fd, ends[i].buf, STREAM, MSG_DONTWAIT)) > 0) {
			check_bytes(&ends[i], ends[i].buf, n, ends[i].received, true, "read");
			ends[i].received += n;
		}
		if (prng(&state) % 4)
			setsockopt(ends[i].fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(ends[i].fd);
	}
	_exit(0);
}

/* ---- the parent of the programs ---- */

/* Wait until @pid has ended. Return its status, or -1 if it does not end within @ms. */
static int ends_within(pid_t pid, int ms)
{
	uint64_t end = now_ms() + ms;
	int status;
	pid_t got;

	do {
		got = waitpid(pid, &status, WNOHANG);
		if (got)
			return got == pid ? status : 0;
		sleep_ms(2);
	} while (now_ms() < end);
	return -1;
}

/* Run programs one after the other, in a namespace of their own, until all is over. */
static void run_worker(void)
{
	struct program *p = malloc(sizeof(*p));
	int status, killed;
	pid_t pid;

	if (!p)
		give_up("malloc");
	/* The descriptor of /dev/userfaultfd was opened as root. The programs run as nobody. */
	new_namespace();
	while (!LOAD(all->stop) && !*job->why) {
		job->seed = ADD(all->next_seed, 1) - 1;
		generate(p, job->seed, opt.steps);
		killed = mix(job->seed) % 8 == 0;
		STORE(job->since, now_ms());
		pid = fork();
		if (pid < 0)
			give_up("fork");
		if (!pid)
			run_program(p, killed);
		STORE(job->program, pid);
		if (killed) {
			/* Kill the program some time after its end was due. */
			sleep_ms(slow() ? 5000 : 1800);
			kill(pid, SIGKILL);
			STORE(job->since, now_ms());
			job->killed++;
		}
		/* The parent of all jobs watches how long this takes. */
		if (waitpid(pid, &status, 0) != pid)
			give_up("waitpid");
		STORE(job->since, 0);
		STORE(job->program, 0);
		job->programs++;
		if (!*job->why && status && !(killed && WIFSIGNALED(status) &&
					      WTERMSIG(status) == SIGKILL))
			snprintf(job->why, sizeof(job->why),
				 "the program died, status 0x%x", status);
	}
	if (!opt.wire)
		friends_tell();
	_exit(!!*job->why);
}

/* This is TCP's memory in pages, its sockets, and KiB of slab that cannot be reclaimed. */
struct memory {
	long pages, sockets, orphans, slab;
};

static struct memory memory_now(void)
{
	struct memory m = {};
	char line[256], *at;
	FILE *f;

	f = fopen("/proc/net/sockstat", "r");
	while (f && fgets(line, sizeof(line), f)) {
		if (strncmp(line, "TCP:", 4))
			continue;
		at = strstr(line, " mem ");
		m.pages = at ? atol(at + 5) : 0;
		at = strstr(line, " alloc ");
		m.sockets = at ? atol(at + 7) : 0;
		at = strstr(line, " orphan ");
		m.orphans = at ? atol(at + 8) : 0;
	}
	if (f)
		fclose(f);
	f = fopen("/proc/meminfo", "r");
	while (f && fgets(line, sizeof(line), f))
		sscanf(line, "SUnreclaim: %ld", &m.slab);
	if (f)
		fclose(f);
	return m;
}

/* Empty the module's skb cache, which is no leak. */
static void drop_spent(void)
{
	sysctl_set("/proc/sys/vm/drop_caches", "2");
}

/*
 * Return whether the memory of @before is there again. Each CPU may hold some of TCP's
 * pages back. The slabs of the debug kernel also hold what KASAN keeps from being reused,
 * and what kmemleak notes of each object; kmemleak looks for leaks by itself.
 */
static bool memory_is_back(const struct memory *before, uint64_t programs)
{
	uint64_t end = now_ms() + (slow() ? 240000 : 90000);
	long more = slow() ? 524288 : 8192 + (programs < 100000 ? programs / 4 : 25000);
	int cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct memory m;

	do {
		drop_spent();
		m = memory_now();
		if (m.pages <= before->pages + 256 * cpus && m.sockets <= before->sockets &&
		    m.orphans <= before->orphans &&
		    m.slab <= before->slab + more)
			break;
		sleep_ms(500);
	} while (now_ms() < end);
	printf("# pages of TCP %ld -> %ld, sockets %ld -> %ld, orphans %ld -> %ld, KiB of slab %ld -> %ld\n",
	       before->pages, m.pages, before->sockets, m.sockets, before->orphans, m.orphans,
	       before->slab, m.slab);
	return now_ms() < end;
}

/* Return the flags of what the kernel has complained about. */
static unsigned long tainted(void)
{
	FILE *f = fopen("/proc/sys/kernel/tainted", "r");
	unsigned long flags = 0;

	if (f && fscanf(f, "%lu", &flags) != 1)
		flags = 0;
	if (f)
		fclose(f);
	/* These are a bad page, an oops, a warning and a lockup. */
	return flags & (1 << 5 | 1 << 7 | 1 << 9 | 1 << 14);
}

static void show_file(pid_t pid, pid_t tid, const char *name)
{
	char path[128], line[256];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", pid, tid, name);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		printf("#     %s%s", line, strchr(line, '\n') ? "" : "\n");
	if (f)
		fclose(f);
}

/* Print where the threads of the program are. */
static void show_threads(struct job *j)
{
	int i;

	for (i = 0; i < ALL_THREADS; i++) {
		if (!j->tid[i])
			continue;
		printf("#   %s", thread_called(i));
		if (LOAD(j->call_since[i]))
			printf(": %s, for %" PRIu64 " ms", j->call[i],
			       now_ms() - LOAD(j->call_since[i]));
		printf("\n");
		show_file(j->program, j->tid[i], "stack");
	}
}

/* Return what is wrong with the job, or NULL. */
static const char *complaint(struct job *j)
{
	uint64_t since = LOAD(j->since), begun;
	int i;

	if (*j->why)
		return j->why;
	for (i = 0; since && i < ALL_THREADS; i++) {
		begun = LOAD(j->call_since[i]);
		if (begun && now_ms() > begun && now_ms() - begun > (uint64_t)stuck_ms())
			return "a call is stuck";
	}
	if (since && now_ms() > since && now_ms() - since > 2 * (uint64_t)stuck_ms())
		return "the program does not end";
	return NULL;
}

static void report(struct job *j, const char *why)
{
	struct program *p = malloc(sizeof(*p));

	printf("# seed %" PRIu64 " (fuzz -s %" PRIu64 " -n %d%s%s): %s\n", j->seed, j->seed,
	       opt.steps, opt.family == AF_INET ? "" : " -6", opt.wire ? " -w" : "", why);
	show_threads(j);
	if (p) {
		generate(p, j->seed, opt.steps);
		print_program(p, opt.family);
	}
	free(p);
	fflush(stdout);
}

/* Kill the job, which must die at once, whatever its threads own or wait for. */
static void kill_job(struct job *j)
{
	pid_t program = LOAD(j->program);

	if (program)
		kill(program, SIGKILL);
	kill(j->worker, SIGKILL);
	if (ends_within(j->worker, stuck_ms()) == -1)
		printf("# a worker cannot be killed\n");
	/* The program's parent is dead, so this process is its parent now. */
	if (program && ends_within(program, stuck_ms()) == -1) {
		printf("# a program cannot be killed; its threads:\n");
		show_threads(j);
	}
}

static bool run_jobs(void)
{
	uint64_t end = now_ms() + opt.seconds * 1000ULL, told[JOBS_MAX] = {};
	unsigned long before = tainted();
	const char *why;
	bool good = true;
	int i, status;
	pid_t pid;

	for (i = 0; i < opt.jobs; i++) {
		job = &jobs[i];
		fflush(stdout);
		pid = fork();
		if (pid < 0)
			give_up("fork");
		if (!pid)
			run_worker();
		job->worker = pid;
	}
	while (good && now_ms() < end) {
		sleep_ms(20);
		for (i = 0; i < opt.jobs && good; i++) {
			why = complaint(&jobs[i]);
			if (why)
				report(&jobs[i], why);
			good = !why;
			if (opt.verbose && told[i] != jobs[i].programs) {
				told[i] = jobs[i].programs;
				printf("# seed %" PRIu64 " runs; so far %" PRIu64
				       " programs, %" PRIu64 " bytes by friends, %" PRIu64
				       " segments forged\n", jobs[i].seed, told[i],
				       jobs[i].moved, jobs[i].forged);
				fflush(stdout);
			}
		}
		if (good && tainted() != before && !opt.keep_going) {
			printf("# the kernel has complained; one of these seeds did it, or one before them:\n");
			for (i = 0; i < opt.jobs; i++)
				report(&jobs[i], "runs");
			good = false;
		}
	}
	STORE(all->stop, true);
	/* A job that has failed may not end by itself. */
	for (i = 0; i < opt.jobs && !good; i++)
		kill_job(&jobs[i]);
	for (i = 0; i < opt.jobs && good; i++) {
		status = ends_within(jobs[i].worker, 3 * stuck_ms());
		if (!status)
			continue;
		why = complaint(&jobs[i]);
		report(&jobs[i], why ? why : "the worker did not end well");
		kill_job(&jobs[i]);
		good = false;
	}
	return good && tainted() == before;
}

static void parse(int argc, char **argv)
{
	int c;

	opt.seed = time(NULL) % 1000000000;
	while ((c = getopt(argc, argv, "s:t:j:n:6wkvh")) != -1) {
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
			opt.wire = true;
			break;
		case 'k':
			opt.keep_going = true;
			break;
		case 'v':
			opt.verbose = true;
			break;
		default:
			fputs(usage_text, c == 'h' ? stdout : stderr);
			exit(c == 'h' ? 0 : 2);
		}
	}
	if (optind < argc || opt.seconds < 1 || opt.jobs < 1 || opt.jobs > JOBS_MAX ||
	    opt.steps < 1 || opt.steps > STEPS_MAX) {
		fputs(usage_text, stderr);
		exit(2);
	}
}

static void *shared(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		give_up("memory");
	return p;
}

int main(int argc, char **argv)
{
	uint64_t programs = 0, killed = 0, idle = 0, moved = 0, forged = 0, held_calls = 0;
	struct memory before;
	bool good, back;
	int i;

	parse(argc, argv);
	if (!opt.wire && !friends_loaded()) {
		fprintf(stderr, "fuzz: the module tcp_friends is not loaded (-w does without)\n");
		return 1;
	}
	all = shared(sizeof(*all));
	all->next_seed = opt.seed;
	jobs = all->job;
	right = faults_right();
	/* Programs whose worker was killed become children of this process. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	printf("# fuzz -s %" PRIu64 "%s%s%s\n", opt.seed, opt.family == AF_INET ? "" : " -6",
	       opt.wire ? " -w" : "", right < 0 ? "; no page faults, for want of userfaultfd" : "");
	fflush(stdout);
	drop_spent();
	before = memory_now();
	good = run_jobs();
	for (i = 0; i < opt.jobs; i++) {
		programs += jobs[i].programs;
		killed += jobs[i].killed;
		idle += jobs[i].idle;
		moved += jobs[i].moved;
		forged += jobs[i].forged;
		held_calls += jobs[i].held;
	}
	printf("# %" PRIu64 " programs from seed %" PRIu64 " on, %" PRIu64
	       " of them killed; %" PRIu64 " segments forged, owners held %" PRIu64 " times\n",
	       programs, opt.seed, killed, forged, held_calls);
	if (!opt.wire)
		printf("# friends moved %" PRIu64 " bytes while they were attacked; nothing in %"
		       PRIu64 " programs\n", moved, idle);
	/* A program that is stuck keeps its memory. */
	back = !good || memory_is_back(&before, programs);
	if (!back)
		printf("# memory is missing when all sockets are closed\n");
	if (!opt.wire && !moved)
		printf("# vacuous: friends moved nothing\n");
	return !good || !back || (!opt.wire && !moved);
}
