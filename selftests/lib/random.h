/* SPDX-License-Identifier: GPL-2.0 */
/*
 * This is what the parts of random share: random.c is the parent process, and
 * random_run.c, random_steps.c and random_end.c are one program in its process.
 */
#ifndef _TCP_FRIENDS_RANDOM_H
#define _TCP_FRIENDS_RANDOM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "program.h"

#define NOWHERE		UINT64_MAX

#define STANDS_STILL	"the connection stands still"

#define LOAD(x)		__atomic_load_n(&(x), __ATOMIC_SEQ_CST)
#define STORE(x, v)	__atomic_store_n(&(x), v, __ATOMIC_SEQ_CST)

struct options {
	uint64_t seed;
	int seconds;
	int jobs;
	int steps;
	int family;
	bool wire_only;
	bool keep_going;
};

extern struct options opt;

enum path { WIRE, FRIENDS, PATHS };

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

extern const struct program *prog;
extern struct outcome *out;
extern struct end ends[2];
extern bool over[THREADS];
extern int stage;		/* of the ending */
extern int stall_ms;

/* random_run.c */

/* The first failure is told, and ends the process. */
__attribute__((noreturn, format(printf, 1, 2)))
void fail(const char *format, ...);
__attribute__((noreturn)) void die(const char *what);
/* In the child process; @ns is the network namespace. */
void run_program(const struct program *p, enum path path, int ns, struct outcome *o);

/* random_steps.c */

int told(struct end *e, int err);
void set_option(struct end *e, int level, int name, int value);
bool write_step(struct end *e, const struct step *s);
void end_writer(struct end *e);
/*
 * @n bytes were read, or peeked at, or discarded (@buf is NULL). An urgent
 * byte that stands first and is not in line has been left out.
 */
void take(struct end *e, const char *buf, size_t n, bool peeked);
/* False when nothing more will come. */
bool read_step(struct end *e, struct step s);
/* What the steps have left, and the end of the stream. */
void drain(struct end *e);
void tinker_step(struct end *e, const struct step *s, struct tcp_info *last);
bool all_over(void);
void set_linger(struct end *e, int seconds);
void end_tinker(struct end *e, bool rcvbuf, bool sndbuf);

/* random_end.c */

void judge(void);

#endif
