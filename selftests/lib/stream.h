/* SPDX-License-Identifier: GPL-2.0 */
/*
 * This file generates streams that can be checked. Each byte follows from a
 * seed and its position, so a receiver finds the first lost, doubled or changed
 * byte and reports where it is.
 *
 * This file needs no test harness, because friends_xfer uses it too.
 */
#ifndef _TCP_FRIENDS_STREAM_H
#define _TCP_FRIENDS_STREAM_H

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#define CHUNK_MAX	1048576
#define ENDLESS		UINT64_MAX
#define GOLDEN_RATIO	0x9e3779b97f4a7c15ULL

static inline uint64_t mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

/* This is splitmix64, for which every seed is a good one. */
static inline uint64_t prng(uint64_t *state)
{
	*state += GOLDEN_RATIO;
	return mix(*state);
}

/* Return 1 to @max. Each order of magnitude is as likely as the others. */
static inline size_t random_size(uint64_t *state, size_t max)
{
	int orders = 65 - __builtin_clzl(max);
	size_t size = 1 + prng(state) % (1UL << prng(state) % orders);

	return size < max ? size : max;
}

static inline uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ULL + ts.tv_nsec / 1000000;
}

static inline void sleep_ms(unsigned int ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000L };

	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}

static inline uint64_t pattern_word(uint64_t seed, uint64_t index)
{
	return mix(seed ^ (index + 1) * GOLDEN_RATIO);
}

/* Fill @to with the bytes [@pos, @pos + @len) of the stream @seed. */
static inline void pattern_fill(void *to, size_t len, uint64_t seed,
				uint64_t pos)
{
	char *p = to;

	while (len) {
		uint64_t word = pattern_word(seed, pos / 8);
		size_t skip = pos % 8, n = 8 - skip;

		if (n == 8 && len >= 8) {
			memcpy(p, &word, 8);
		} else {
			n = n < len ? n : len;
			memcpy(p, (char *)&word + skip, n);
		}
		p += n;
		pos += n;
		len -= n;
	}
}

/* Return the offset in @from of the first wrong byte, or -1. */
static inline ssize_t pattern_check(const void *from, size_t len, uint64_t seed,
				    uint64_t pos)
{
	const char *start = from, *p = from;

	while (len) {
		uint64_t word = pattern_word(seed, pos / 8);
		size_t skip = pos % 8, n = 8 - skip, i;

		n = n < len ? n : len;
		for (i = 0; i < n; i++) {
			if (n == 8 && !memcmp(p, &word, 8))
				break;
			if (p[i] != ((char *)&word)[skip + i])
				return p - start + i;
		}
		p += n;
		pos += n;
		len -= n;
	}
	return -1;
}

/*
 * This is one direction of a connection, as one of its ends sees it. Other
 * threads may read @done at any time, and the other fields when the half is
 * over.
 */
struct half {
	int fd;
	int peer;		/* the other end, if it is ours, for messages */
	bool out;		/* writes, else reads */
	bool shut;		/* a writer ends with SHUT_WR */
	uint64_t seed;
	uint64_t size;		/* an ENDLESS reader ends with the stream */
	const bool *stop;	/* ends an ENDLESS writer, or another one early */
	size_t chunk;		/* the largest write or read, CHUNK_MAX at most */
	unsigned int pause;	/* a writer sleeps after one in so many writes */
	bool more;		/* every other write has MSG_MORE */
	bool zerocopy;		/* writes have MSG_ZEROCOPY */
	bool stubborn;		/* goes on after the errors of injected faults */

	uint64_t done;
	int64_t wrong;		/* position of the first wrong byte, or -1 */
	int err;
	bool eof;
	bool over;
	uint64_t refused;	/* calls that an injected fault ended */

	uint64_t state;
	char *buf, *pages;
	size_t at, left;
	pthread_t thread;
};

static inline void half_init(struct half *h, int fd, bool out, uint64_t seed,
			     uint64_t size)
{
	memset(h, 0, sizeof(*h));
	h->fd = fd;
	h->peer = -1;
	h->out = out;
	h->seed = seed;
	h->size = size;
	h->chunk = CHUNK_MAX;
	h->wrong = -1;
	h->state = mix(seed + out + 1);
	h->buf = malloc(CHUNK_MAX);
	if (!h->buf)
		abort();
}

static inline void half_free(struct half *h)
{
	free(h->buf);
	h->buf = NULL;
}

static inline uint64_t half_done(const struct half *h)
{
	return __atomic_load_n(&h->done, __ATOMIC_RELAXED);
}

static inline void half_advance(struct half *h, size_t n)
{
	__atomic_store_n(&h->done, h->done + n, __ATOMIC_RELAXED);
}

static inline void half_end(struct half *h)
{
	if (h->out && h->shut && !h->err && shutdown(h->fd, SHUT_WR))
		h->err = errno;
	__atomic_store_n(&h->over, true, __ATOMIC_RELEASE);
}

/* Return whether @err comes from an injected fault, and the half goes on after it. */
static inline bool half_bears(struct half *h, int err)
{
	if (!h->stubborn ||
	    (err != EFAULT && err != ENOMEM && err != ENOBUFS))
		return false;
	h->refused++;
	return true;
}

static inline void half_fail(struct half *h, int err)
{
	if (err == EINTR || err == EAGAIN || half_bears(h, err))
		return;
	h->err = err;
	half_end(h);
}

static inline size_t half_next(struct half *h)
{
	size_t n;

	if (h->out && h->stop && __atomic_load_n(h->stop, __ATOMIC_RELAXED))
		return 0;
	n = random_size(&h->state, h->chunk);
	return n < h->size - h->done ? n : h->size - h->done;
}

/*
 * Map other pages for the next write. The kernel may still read the pages of
 * the last write, so they are never written again.
 */
static inline bool half_new_pages(struct half *h)
{
	void *pages = mmap(NULL, CHUNK_MAX, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (pages == MAP_FAILED) {
		half_fail(h, errno);
		return false;
	}
	if (h->pages)
		munmap(h->pages, CHUNK_MAX);
	h->pages = pages;
	return true;
}

static inline void half_write(struct half *h, int flags)
{
	const char *from;
	ssize_t n;

	if (!h->left) {
		h->left = half_next(h);
		if (!h->left) {
			half_end(h);
			return;
		}
		h->at = 0;
		if (h->zerocopy && !half_new_pages(h)) {
			h->left = 0;
			return;
		}
		pattern_fill(h->zerocopy ? h->pages : h->buf, h->left,
			     h->seed, h->done);
	}
	from = h->zerocopy ? h->pages : h->buf;
	if (h->zerocopy)
		flags |= MSG_ZEROCOPY;
	if (h->more && prng(&h->state) % 2)
		flags |= MSG_MORE;
	n = send(h->fd, from + h->at, h->left, flags | MSG_NOSIGNAL);
	if (n < 0) {
		half_fail(h, errno);
		return;
	}
	/* Completions are not awaited, but they must not pile up. */
	if (h->zerocopy)
		recv(h->fd, NULL, 0, MSG_ERRQUEUE | MSG_DONTWAIT);
	h->at += n;
	h->left -= n;
	half_advance(h, n);
	if (h->done == h->size)
		half_end(h);
	else if (h->pause && !(prng(&h->state) % h->pause))
		sleep_ms(1);
}

static inline void half_read(struct half *h, int flags)
{
	size_t want = half_next(h);
	ssize_t n, bad;

	if (!want) {
		half_end(h);
		return;
	}
	n = recv(h->fd, h->buf, want, flags);
	if (n < 0) {
		half_fail(h, errno);
		return;
	}
	if (!n) {
		h->eof = true;
		half_end(h);
		return;
	}
	bad = pattern_check(h->buf, n, h->seed, h->done);
	if (bad >= 0 && h->wrong < 0)
		h->wrong = h->done + bad;
	half_advance(h, n);
	if (h->done == h->size)
		half_end(h);
}

static inline void half_step(struct half *h, int flags)
{
	if (h->out)
		half_write(h, flags);
	else
		half_read(h, flags);
}

static inline bool half_over(const struct half *h)
{
	return __atomic_load_n(&h->over, __ATOMIC_ACQUIRE);
}

/* Run a half by blocking calls, in a thread of its own. */
static inline void *half_thread(void *arg)
{
	struct half *h = arg;

	while (!h->over)
		half_step(h, 0);
	return NULL;
}

static inline void half_start(struct half *h)
{
	if (pthread_create(&h->thread, NULL, half_thread, h))
		abort();
}

static inline void half_join(struct half *h)
{
	pthread_join(h->thread, NULL);
}

/* Run @n halves by poll() and non-blocking calls, all in this thread. */
static inline void halves_poll(struct half *h, unsigned int n)
{
	struct pollfd p[8];
	unsigned int i, live;

	if (n > 8)
		abort();
	for (;;) {
		live = 0;
		for (i = 0; i < n; i++) {
			p[i].fd = h[i].over ? -1 : h[i].fd;
			p[i].events = h[i].out ? POLLOUT : POLLIN;
			p[i].revents = 0;
			live += !h[i].over;
		}
		if (!live)
			return;
		if (poll(p, n, -1) < 0 && errno != EINTR &&
		    !half_bears(h, errno))
			abort();
		for (i = 0; i < n; i++) {
			if (p[i].revents)
				half_step(&h[i], MSG_DONTWAIT);
		}
	}
}

/* Print what an end of a connection that stands still is waiting for. */
static inline void stream_print(FILE *f, const char *name, int fd)
{
	struct tcp_info info = {};
	socklen_t len = sizeof(info);
	int in = -1, out = -1, unsent = -1;

	ioctl(fd, SIOCINQ, &in);
	ioctl(fd, SIOCOUTQ, &out);
	ioctl(fd, SIOCOUTQNSD, &unsent);
	getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len);
	fprintf(f, "#   %s: state %d; bytes to read %d, unacked %d, unsent %d;",
		name, info.tcpi_state, in, out, unsent);
	fprintf(f, " segments in flight %u, lost %u;",
		info.tcpi_unacked, info.tcpi_lost);
	fprintf(f, " windows %u to send, %u to receive;",
		info.tcpi_snd_wnd, info.tcpi_rcv_wnd);
	fprintf(f, " rto %u us, backoff %d, probes %d, retransmits %d;",
		info.tcpi_rto, info.tcpi_backoff, info.tcpi_probes,
		info.tcpi_retransmits);
	fprintf(f, " last sent %u, received %u, acked %u ms ago\n",
		info.tcpi_last_data_sent, info.tcpi_last_data_recv,
		info.tcpi_last_ack_recv);
}

#endif
