// SPDX-License-Identifier: GPL-2.0
/*
 * This part runs one program in its process. It sets up the ends, starts their
 * threads, watches whether the connection stands still, and reports the result
 * to the parent process through shared memory.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/mman.h>

#include "module.h"
#include "program.h"
#include "random.h"
#include "stream.h"

/*
 * A connection that has neither a byte nor a step for STALL ms stands still.
 * The wire needs time to send again what it lost in a buffer that became too
 * small, and it probes a window that such a buffer shut ever more seldom. In
 * that case the limit is longer by the factor STALL_LOSS. Where the wire only
 * serves for comparison, the limit is never longer.
 */
#define STALL		15000
#define STALL_LOSS	6

const struct program *prog;
struct outcome *out;
struct end ends[2];
static int at[THREADS];		/* the index of each thread's step */
bool over[THREADS];
int stage;
int stall_ms = STALL;
static pthread_mutex_t failing = PTHREAD_MUTEX_INITIALIZER;

void fail(const char *format, ...)
{
	va_list args;

	pthread_mutex_lock(&failing);
	va_start(args, format);
	vsnprintf(out->why, sizeof(out->why), format, args);
	va_end(args);
	_exit(1);
}

void die(const char *what)
{
	fail("%s: %s", what, strerror(errno));
}

/* ---- threads ---- */

static void pause_us(uint32_t us)
{
	struct timespec ts = { us / 1000000, us % 1000000 * 1000L };

	nanosleep(&ts, NULL);
}

/* Return the step of @thread after index @i, which is -1 at first. */
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

	/* The first byte is for friends. The last byte pushes all others. */
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

/* Switch friends off and on, after they have moved some data. */
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

/* Return the timer of @e: 1 to retransmit, 4 to probe a window, 0 for none. */
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
 * Return whether the wire may carry all bytes, because urgent bytes open a
 * short program that revalidates often.
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

void run_program(const struct program *p, enum path path, int ns, struct outcome *o)
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
