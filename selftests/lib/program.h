/* SPDX-License-Identifier: GPL-2.0 */
/*
 * This file generates random programs of socket calls. A program consists of the steps of a
 * writer, a reader and a tinkerer at each end of one connection, how that connection ends,
 * and when net.ipv4.tcp_friends is switched. A program follows from its seed alone. The
 * test that runs a program decides what to expect of it.
 */
#ifndef _TCP_FRIENDS_PROGRAM_H
#define _TCP_FRIENDS_PROGRAM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "module.h"
#include "stream.h"

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY	60
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY	0x4000000
#endif

#define STEPS_MAX	1000
#define TOTAL_MAX	(4 << 20)	/* bytes of a stream, about */

static const char *const end_name[] = { "client", "server" };

/* Each end has these three threads. One more thread is for the switch. */
enum role { WRITER, READER, TINKER, ROLES };

#define THREAD(end, role)	((end) * ROLES + (role))
#define SWITCH			(2 * ROLES)
#define THREADS			(SWITCH + 1)

static const char *const thread_name[THREADS] = {
	"client writes", "client reads", "client tinkers",
	"server writes", "server reads", "server tinkers",
	"switch",
};

enum op {
	/* steps of a writer */
	SEND, WRITEV, SENDFILE, SPLICE_IN, URGENT,
	/* steps of a reader */
	RECV, READV, SPLICE_OUT, READ_POLLED, LOWAT,
	/* steps of a tinkerer */
	CORK, NODELAY, SNDBUF, RCVBUF, NOTSENT, POLL, INFO,
	/* steps of the switch */
	TOGGLE,
	/* steps of any thread */
	PAUSE,
};

static const char *const op_name[] = {
	"send", "writev", "sendfile", "splice in", "send MSG_OOB",
	"recv", "readv", "splice out", "poll and recv", "SO_RCVLOWAT",
	"TCP_CORK", "TCP_NODELAY", "SO_SNDBUF", "SO_RCVBUF",
	"TCP_NOTSENT_LOWAT", "poll", "TCP_INFO",
	"net.ipv4.tcp_friends",
	"sleep, us",
};

struct step {
	uint8_t thread, op;
	int flags;
	uint32_t value;
};

enum ending {
	/* Each writer ends with SHUT_WR, and each reader at the end of the stream. */
	AT_END,
	/* One end does something after all is sent and read. */
	IDLE_CLOSE, IDLE_RESET, IDLE_SHUT, CLOSE_UNREAD, WRITE_CLOSE, LINGER,
	/* One end does something while bytes are under way. */
	CUT_RD, CUT_WR, CUT_BOTH, CUT_CLOSE, CUT_RESET,
	ENDINGS,
};

static const char *const ending_name[] = {
	"SHUT_WR by both, in their time",
	"close when idle", "reset when idle", "SHUT_RDWR when idle",
	"close with unread data", "write and close",
	"write and close with SO_LINGER",
	"SHUT_RD under way", "SHUT_WR under way", "SHUT_RDWR under way",
	"close under way", "reset under way",
};

struct program {
	uint64_t seed;
	enum ending ending;
	int who;		/* the end that does it */
	int after;		/* after so many thousandths of all bytes */
	uint32_t last;		/* bytes for an ending that sends some */
	int buffers;		/* initial SO_SNDBUF and SO_RCVBUF, or 0 */
	bool urgent, in_line, zerocopy, switched;
	bool asked;		/* revalidate every 20 ms, or 400 ms if slow() */
	bool bare;		/* net.ipv4.tcp_timestamps 0: no TCP options */
	int n;
	struct step step[STEPS_MAX];
};

static inline bool idle(const struct program *p)
{
	return p->ending >= IDLE_CLOSE && p->ending <= LINGER;
}

static inline bool cut(const struct program *p)
{
	return p->ending >= CUT_RD;
}

static inline bool writes(const struct step *s)
{
	return s->op <= URGENT;
}

/* Return one of @n numbers. The first is as likely as all others together. */
static inline int one_of(uint64_t *state, int n)
{
	return prng(state) % 2 ? 0 : prng(state) % n;
}

static inline void generate_write(struct program *p, struct step *s, uint64_t *state)
{
	static const int flags[] = { 0, MSG_MORE, MSG_DONTWAIT, MSG_EOR,
				     MSG_MORE | MSG_DONTWAIT };
	static const uint8_t ops[] = { SEND, WRITEV, SENDFILE, SPLICE_IN };

	s->op = ops[one_of(state, 4)];
	s->flags = flags[one_of(state, 5)];
	s->value = random_size(state, p->buffers ? 8192 : CHUNK_MAX);
	if (p->zerocopy && s->op == SEND && prng(state) % 2)
		s->flags |= MSG_ZEROCOPY;
	if (p->urgent && !(prng(state) % 8)) {
		s->op = URGENT;
		s->flags = 0;
		s->value = 1;
	}
	/* sendfile() and splice() know only one flag, which says that more data follows. */
	if (s->op == SENDFILE || s->op == SPLICE_IN)
		s->flags &= MSG_MORE;
	if (s->op == SENDFILE || s->op == WRITEV)
		s->flags &= ~MSG_ZEROCOPY;
}

static inline void generate_read(struct program *p, struct step *s, uint64_t *state)
{
	static const uint8_t ops[] = { RECV, READV, SPLICE_OUT, READ_POLLED,
				       LOWAT, PAUSE };
	static const int flags[] = { 0, MSG_DONTWAIT, MSG_WAITALL, MSG_PEEK,
				     MSG_PEEK | MSG_DONTWAIT, MSG_TRUNC,
				     MSG_TRUNC | MSG_WAITALL,
				     MSG_TRUNC | MSG_DONTWAIT };

	s->op = ops[one_of(state, 6)];
	s->flags = s->op == RECV ? flags[one_of(state, 8)] : 0;
	s->value = random_size(state, CHUNK_MAX);
	/* splice() takes the mark for the end of the stream. */
	if (p->urgent && s->op == SPLICE_OUT)
		s->op = READV;
	if (s->op == LOWAT)
		s->value = random_size(state, 100000);
	if (s->op == PAUSE)
		s->value = random_size(state, 20000);
}

static inline void generate_tinker(struct step *s, uint64_t *state)
{
	static const uint8_t ops[] = { PAUSE, CORK, NODELAY, SNDBUF, RCVBUF,
				       NOTSENT, POLL, INFO };

	s->op = ops[prng(state) % 8];
	s->flags = 0;
	switch (s->op) {
	case CORK:
	case NODELAY:
		s->value = prng(state) % 2;
		break;
	case POLL:
		s->value = prng(state) % 10;
		break;
	case PAUSE:
		s->value = random_size(state, 20000);
		break;
	default:
		s->value = 2048 << prng(state) % 10;
		break;
	}
}

static inline void generate(struct program *p, uint64_t seed, int n)
{
	/* The switch comes last, so that programs without it can leave it out. */
	static const uint8_t turns[] = {
		THREAD(0, WRITER), THREAD(0, WRITER), THREAD(0, READER),
		THREAD(0, READER), THREAD(0, TINKER), THREAD(1, WRITER),
		THREAD(1, WRITER), THREAD(1, READER), THREAD(1, READER),
		THREAD(1, TINKER), SWITCH,
	};
	uint64_t state = mix(seed), total[2] = {};
	struct step *s;
	int end;

	memset(p, 0, sizeof(*p));
	p->seed = seed;
	p->ending = one_of(&state, ENDINGS);
	p->who = prng(&state) % 2;
	p->after = prng(&state) % 1000;
	if (!(prng(&state) % 6))
		p->buffers = 2048 << prng(&state) % 6;
	p->last = random_size(&state, p->buffers ? 1000 : 30000);
	p->urgent = !(prng(&state) % 5);
	p->in_line = prng(&state) % 2;
	p->zerocopy = !(prng(&state) % 3);
	p->switched = !(prng(&state) % 4);
	p->bare = !(prng(&state) % 3);
	/* This is not drawn, so that the seed still gives the rest of its program. */
	p->asked = p->seed % 2;

	while (p->n < n) {
		s = &p->step[p->n++];
		s->thread = turns[prng(&state) %
				  (sizeof(turns) - !p->switched)];
		end = s->thread / ROLES;
		if (s->thread == SWITCH) {
			s->op = TOGGLE;
			s->value = random_size(&state, 20000);
		} else if (s->thread % ROLES == WRITER) {
			generate_write(p, s, &state);
			if (total[end] + s->value > TOTAL_MAX)
				s->value = random_size(&state, 1000);
			total[end] += s->value;
		} else if (s->thread % ROLES == READER) {
			generate_read(p, s, &state);
		} else {
			generate_tinker(s, &state);
		}
	}
}

static inline void print_step(FILE *f, const struct step *s)
{
	static const struct {
		int flag;
		const char *name;
	} names[] = {
		{ MSG_MORE, "MORE" }, { MSG_DONTWAIT, "DONTWAIT" },
		{ MSG_EOR, "EOR" }, { MSG_ZEROCOPY, "ZEROCOPY" },
		{ MSG_PEEK, "PEEK" }, { MSG_WAITALL, "WAITALL" },
		{ MSG_TRUNC, "TRUNC" },
	};
	unsigned int i;

	fprintf(f, "%s %u", op_name[s->op], s->value);
	for (i = 0; i < sizeof(names) / sizeof(*names); i++) {
		if (s->flags & names[i].flag)
			fprintf(f, " %s", names[i].name);
	}
}

static inline void print_program(const struct program *p, int family)
{
	int thread, i;

	printf("#   IPv%d, ending: %s, by the %s",
	       family == AF_INET ? 4 : 6, ending_name[p->ending], end_name[p->who]);
	if (cut(p))
		printf(", after %d/1000 of the bytes", p->after);
	if (p->ending == CLOSE_UNREAD || p->ending == WRITE_CLOSE ||
	    p->ending == LINGER)
		printf(", %u bytes", p->last);
	if (p->buffers)
		printf("; buffers of %d", p->buffers);
	if (p->urgent)
		printf("; urgent bytes %s line", p->in_line ? "in" : "out of");
	if (p->zerocopy)
		printf("; SO_ZEROCOPY");
	if (p->asked)
		printf("; the wire asked every %d ms", patience(20));
	if (p->bare)
		printf("; no time stamps");
	printf("\n");
	for (thread = 0; thread < THREADS; thread++) {
		printf("#   %s:", thread_name[thread]);
		for (i = 0; i < p->n; i++) {
			if (p->step[i].thread != thread)
				continue;
			printf(" ");
			print_step(stdout, &p->step[i]);
			printf(";");
		}
		printf("\n");
	}
	fflush(stdout);
}

#endif
