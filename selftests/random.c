// SPDX-License-Identifier: GPL-2.0
/*
 * This program runs random programs of socket calls, each over the wire and
 * over friends.
 *
 * A program follows from its seed alone: the steps of a writer, a reader and a
 * tinkerer at each end of one connection, how that connection ends, and, over
 * friends, when net.ipv4.tcp_friends is switched. Each end's stream is known
 * beforehand, so every byte is checked where it arrives. A program runs in a
 * process of its own, which reports the result through shared memory.
 *
 * This file is the parent process. What a program does in its own process is in
 * lib/random_run.c, lib/random_steps.c and lib/random_end.c.
 *
 * The wire itself leaves the following open, which is therefore not compared:
 *  - how many bytes a call takes or returns, and whether a call with
 *    MSG_DONTWAIT finds anything. This depends on which thread runs first. A
 *    writer goes on until a step's bytes are taken, so the totals are equal in
 *    spite of this.
 *  - how much of a stream was sent before shutdown() or close() cut it short.
 *    All of this must arrive unless there was a reset.
 *  - whether closing an end to which the peer still writes resets the
 *    connection (only if a byte was unread, or comes later), what a reset
 *    destroys, and which of the peer's calls reports the reset. At most one
 *    call does.
 *  - whether SO_LINGER 0 resets after a FIN that is not yet acknowledged. An
 *    end that will be reset in this way sends no FIN.
 *  - when a completion of a MSG_ZEROCOPY call comes, and for how many calls.
 *  - whether a reader meets an urgent byte before or after it is known to be
 *    urgent. The reader never reads across the mark.
 */

#define _GNU_SOURCE
#include <getopt.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "lib/module.h"
#include "lib/program.h"
#include "lib/random.h"
#include "lib/stream.h"

#define JOBS_MAX	16
#define SHRINK_STALL	5000
#define SHRINK_MS	60000

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

struct options opt = {
	.jobs = 2,
	.steps = 60,
	.family = AF_INET,
};

static const char *const path_name[] = { "the wire", "friends" };

/*
 * A job has two namespaces, one for each path, and a program at work in one of
 * them.
 */
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

/* Return whether the program is over. A failure is in its outcome. */
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
	/* The program's own watchdog is much quicker. */
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

/* Run @p again, over @from or both paths. Return what fails, or NULL. */
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

/* This is what the last program that failed while shrinking reported. */
static char last_why[8192];

/* Return whether @p fails in one of @runs runs. */
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

/* Drop steps while the rest still fails, many at a time at first. */
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

/* One program may be inconclusive, and a few of many, but never all. */
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

/* A program has ended over a path. Start the other path, or judge both. */
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
	/*
	 * There is no result to compare with: the wire's probes can be minutes
	 * apart.
	 */
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
