// SPDX-License-Identifier: GPL-2.0
/*
 * These tests cover code of the kernel that reads a socket's queue by itself:
 * TLS, pages that are mapped to the reader, and pipes.
 */

#include <linux/tls.h>
#include <sys/mman.h>

#include "lib/friends.h"

#define SEED	0x75736572ULL

#ifndef SOL_TLS
#define SOL_TLS		282
#endif
#ifndef TCP_ULP
#define TCP_ULP		31
#endif
#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY	60
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY	0x4000000
#endif

CONNECTION_FIXTURE(kernel_users);

/* Begin to use TLS. Return false if the kernel has none. */
static bool tls_begin(struct __test_metadata *_metadata, int fd)
{
	if (!setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")))
		return true;
	ASSERT_EQ(ENOENT, errno) TH_LOG("TCP_ULP: %m");
	return false;
}

/*
 * Set a key. @direction is TLS_TX or TLS_RX, and @key must be that of the other
 * end.
 */
static void tls_key(struct __test_metadata *_metadata, int fd, int direction,
		    int version, char key)
{
	struct tls12_crypto_info_aes_gcm_128 info = {
		.info.version = version,
		.info.cipher_type = TLS_CIPHER_AES_GCM_128,
	};

	memset(info.key, key, sizeof(info.key));
	memset(info.iv, key + 1, sizeof(info.iv));
	memset(info.salt, key + 2, sizeof(info.salt));
	ASSERT_EQ(0, setsockopt(fd, SOL_TLS, direction, &info, sizeof(info)))
		TH_LOG("a key for direction %d: %m", direction);
}

/* Stream some data both ways at once. */
static void stream_both_ways(struct __test_metadata *_metadata, int client,
			     int server, uint64_t size)
{
	struct half h[4];
	int i;

	halves_init(h, client, server, SEED, size);
	for (i = 0; i < 4; i++) {
		h[i].chunk = 50000;
		half_start(&h[i]);
	}
	halves_watch(_metadata, h, 4);
	for (i = 0; i < 4; i++)
		half_join(&h[i]);
	halves_check(_metadata, h);
	halves_free(h);
}

#define NO_TLS()						\
	do {							\
		EXPECT_CARRIED_ANY();				\
		SKIP(return, "this kernel has no TLS");		\
	} while (0)

/*
 * When each end begins to encrypt, plain bytes from before are still unread. An
 * end begins to decrypt when it has read them. IPv6 uses TLS 1.3, and IPv4 uses
 * 1.2.
 */
TEST_F(kernel_users, tls)
{
	static const int versions[] = { TLS_1_2_VERSION, TLS_1_3_VERSION };
	const int version = versions[variant->ends == IPV6];
	uint64_t sent = talk(_metadata, self->client, self->server);

	send_pattern(_metadata, self->client, SEED, 0, 5000, 0);
	send_pattern(_metadata, self->server, ~SEED, 0, 5000, 0);
	wait_readable(_metadata, self->server, 5000);
	wait_readable(_metadata, self->client, 5000);
	EXPECT_CARRIED(sent + 10000);

	if (!tls_begin(_metadata, self->client))
		NO_TLS();
	EXPECT_EQ(0, friends_stat("pairs"));
	tls_begin(_metadata, self->server);
	tls_key(_metadata, self->client, TLS_TX, version, 'c');
	tls_key(_metadata, self->server, TLS_TX, version, 's');
	send_pattern(_metadata, self->client, SEED, 5000, 20000, 0);
	send_pattern(_metadata, self->server, ~SEED, 5000, 20000, 0);
	recv_pattern(_metadata, self->server, SEED, 0, 5000);
	recv_pattern(_metadata, self->client, ~SEED, 0, 5000);
	tls_key(_metadata, self->client, TLS_RX, version, 's');
	tls_key(_metadata, self->server, TLS_RX, version, 'c');
	recv_pattern(_metadata, self->server, SEED, 5000, 20000);
	recv_pattern(_metadata, self->client, ~SEED, 5000, 20000);
	stream_both_ways(_metadata, self->client, self->server,
			 scaled(1 << 20));
	EXPECT_EQ(0, friends_stat("pairs"));
	EXPECT_CARRIED(sent + 10000);
}

/* Only one end uses TLS. It decrypts what its friend moved as plain bytes. */
TEST_F(kernel_users, tls_of_what_is_there)
{
	const int plain = 40000;
	uint64_t state = SEED;
	int from, to, len = 0, at, n;
	static char text[50000];

	/* Another connection creates the records. */
	open_connection(_metadata, variant->ends, NULL, &from, &to);
	if (!tls_begin(_metadata, from))
		NO_TLS();
	tls_key(_metadata, from, TLS_TX, TLS_1_2_VERSION, 'c');
	send_pattern(_metadata, from, SEED, 0, plain, 0);
	shutdown(from, SHUT_WR);
	while ((n = recv(to, text + len, sizeof(text) - len, 0)) > 0)
		len += n;
	ASSERT_LT(plain, len);
	close(from);
	close(to);

	for (at = 0; at < len; at += n) {
		n = random_size(&state, 5000);
		n = n < len - at ? n : len - at;
		ASSERT_EQ(n, send(self->client, text + at, n, 0));
	}
	wait_readable(_metadata, self->server, len);
	EXPECT_CARRIED(len);
	ASSERT_TRUE(tls_begin(_metadata, self->server));
	EXPECT_EQ(0, friends_stat_becomes("pairs", 0));
	tls_key(_metadata, self->server, TLS_RX, TLS_1_2_VERSION, 'c');
	recv_pattern(_metadata, self->server, SEED, 0, plain);
	/* The other direction stays plain. */
	send_pattern(_metadata, self->server, SEED, 0, 1000, 0);
	recv_pattern(_metadata, self->client, SEED, 0, 1000);
}

/*
 * Receive by TCP_ZEROCOPY_RECEIVE. Whole pages may be mapped, and the rest
 * comes in a buffer or is left for recv(). Return how many bytes were mapped.
 */
static uint64_t receive_mapped(struct __test_metadata *_metadata, int fd,
			       uint64_t len)
{
	const size_t size = 16 * getpagesize();
	static char buf[65536], copy[2000];
	struct tcp_zerocopy_receive zc;
	uint64_t at = 0, mapped = 0;
	socklen_t optlen;
	ssize_t n;
	char *map;

	map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map) TH_LOG("a socket cannot be mapped: %m");
	while (at < len) {
		ASSERT_EQ(POLLIN, wait_for(fd, POLLIN, patience(3000)));
		zc = (struct tcp_zerocopy_receive){
			.address = (uintptr_t)map,
			.length = size,
			.copybuf_address = (uintptr_t)copy,
			.copybuf_len = sizeof(copy),
		};
		optlen = sizeof(zc);
		ASSERT_EQ(0, getsockopt(fd, IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE,
					&zc, &optlen))
			TH_LOG("TCP_ZEROCOPY_RECEIVE: %m");
		ASSERT_EQ(0, zc.err);
		ASSERT_EQ(-1, pattern_check(map, zc.length, SEED, at));
		at += zc.length;
		mapped += zc.length;
		ASSERT_LE(0, zc.copybuf_len);
		ASSERT_EQ(-1, pattern_check(copy, zc.copybuf_len, SEED, at));
		at += zc.copybuf_len;
		if (!zc.recv_skip_hint)
			continue;
		n = zc.recv_skip_hint < sizeof(buf) ? zc.recv_skip_hint :
						      sizeof(buf);
		n = recv(fd, buf, n, MSG_DONTWAIT);
		ASSERT_LT(0, n);
		ASSERT_EQ(-1, pattern_check(buf, n, SEED, at));
		at += n;
	}
	EXPECT_EQ(len, at);
	munmap(map, size);
	return mapped;
}

TEST_F(kernel_users, zerocopy_receive)
{
	const uint64_t size = scaled(1 << 20);
	struct half out;

	half_init(&out, self->client, true, SEED, size);
	half_start(&out);
	receive_mapped(_metadata, self->server, size);
	half_join(&out);
	EXPECT_EQ(0, out.err);
	half_free(&out);
	EXPECT_CARRIED(size);
}

/*
 * Over the wire, the bytes are copied for the receiver into single pages, which
 * can be mapped. A friend copies them into larger pages, which cannot.
 */
TEST_F(kernel_users, zerocopy_receive_of_pages)
{
	const size_t page = getpagesize(), len = 16 * page;
	uint64_t mapped;
	char *buf;

	buf = mmap(NULL, len, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, buf);
	set_int(_metadata, self->client, SOL_SOCKET, SO_ZEROCOPY, 1);
	set_int(_metadata, self->client, IPPROTO_TCP, TCP_NODELAY, 1);
	pattern_fill(buf, len, SEED, 0);
	ASSERT_EQ((ssize_t)len, send(self->client, buf, len, MSG_ZEROCOPY));
	wait_readable(_metadata, self->server, len);
	/* Mapped or not, the received bytes are the receiver's own. */
	memset(buf, 0, len);
	mapped = receive_mapped(_metadata, self->server, len);
	if (!variant->friends)
		EXPECT_LT(0, mapped);
	EXPECT_CARRIED(len);
}

/* Two pipes hold the same bytes while the stream goes on. */
TEST_F(kernel_users, tee)
{
	int one[2], two[2], i;
	char buf[4096];

	ASSERT_EQ(0, pipe(one));
	ASSERT_EQ(0, pipe(two));
	send_pattern(_metadata, self->client, SEED, 0, 4096, 0);
	wait_readable(_metadata, self->server, 4096);
	EXPECT_EQ(4096, splice(self->server, NULL, one[1], NULL, 4096, 0));
	EXPECT_EQ(4096, tee(one[0], two[1], 4096, 0));
	for (i = 1; i < 20; i++) {
		send_pattern(_metadata, self->client, SEED, i * 4096, 4096, 0);
		recv_pattern(_metadata, self->server, SEED, i * 4096, 4096);
	}
	EXPECT_EQ(4096, read(one[0], buf, sizeof(buf)));
	EXPECT_EQ(-1, pattern_check(buf, 4096, SEED, 0));
	/* The bytes of the second pipe go back over the connection. */
	EXPECT_EQ(4096, splice(two[0], NULL, self->server, NULL, 4096, 0));
	recv_pattern(_metadata, self->client, SEED, 0, 4096);
	EXPECT_CARRIED(21 * 4096);
}

int main(int argc, char **argv)
{
	return friends_main(argc, argv);
}
