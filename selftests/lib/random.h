/* SPDX-License-Identifier: GPL-2.0 */
/*
 * This is what the parts of random share. random.c is the parent process.
 * random_run.c, random_steps.c and random_end.c run one program in a process of
 * its own.
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
	char end[2048];		/* results that must be equal over both paths */
	uint64_t moved;		/* bytes that the sockets took, both ways */
	uint64_t carried;	/* how many of these friends carried */
};

/* Three threads share an end. Fields that others read are LOADed. */
struct end {
	int id, fd;
	struct end *peer;
	uint64_t seed;
	int file;		/* holds the whole stream */
	char *map;		/* the mapped file: zero-copy needs pages that stay */
	uint64_t total;
	bool gone;		/* closed here, so that results of its calls are void */
	bool shut_rd;		/* shut down for reading here */

	uint64_t sent;
	uint64_t mark;		/* position of the last urgent byte it sent */
	int write_err;
	uint32_t zc_calls, zc_done;
	int in[2];		/* pipes for splice() */

	uint64_t received;
	uint64_t tried;		/* position where a read began */
	uint64_t marked;	/* the mark that was checked */
	uint32_t lowat;
	int read_err;
	bool eof;
	char *buf;
	int out[2];

	int resets;		/* how often ECONNRESET was reported */
};

extern const struct program *prog;
extern struct outcome *out;
extern struct end ends[2];
extern bool over[THREADS];
extern int stage;		/* steps of the ending that are done */
extern int stall_ms;

/* random_run.c */

/* Report the first failure, and end the process. */
__attribute__((noreturn, format(printf, 1, 2)))
void fail(const char *format, ...);
__attribute__((noreturn)) void die(const char *what);
/* Run a program in the child process. @ns is the network namespace. */
void run_program(const struct program *p, enum path path, int ns, struct outcome *o);

/* random_steps.c */

int told(struct end *e, int err);
void set_option(struct end *e, int level, int name, int value);
bool write_step(struct end *e, const struct step *s);
void end_writer(struct end *e);
/*
 * Check @n bytes that were read, peeked at, or discarded (@buf is NULL). An
 * urgent byte that comes first and is not in line has been left out.
 */
void take(struct end *e, const char *buf, size_t n, bool peeked);
/* Return false when nothing more will come. */
bool read_step(struct end *e, struct step s);
/* Read what the steps have left, and the end of the stream. */
void drain(struct end *e);
void tinker_step(struct end *e, const struct step *s, struct tcp_info *last);
bool all_over(void);
void set_linger(struct end *e, int seconds);
void end_tinker(struct end *e, bool rcvbuf, bool sndbuf);

/* random_end.c */

void judge(void);

#endif
