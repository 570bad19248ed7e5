// SPDX-License-Identifier: GPL-2.0
/*
 * A qemu plugin that counts what misses a second-level cache.
 *
 * The model has one cache for each virtual processor, "kib=N" large, with eight
 * ways, lines of 64 bytes, and the least recently used line replaced. Loads and
 * stores go through it by physical address; instructions do not. A store takes
 * the line away from all other caches.
 *
 * Counting starts and stops each time the guest calls the function at
 * "toggle=ADDRESS". Each time that it stops, the plugin writes a line "accesses
 * misses" to "out=FILE".
 *
 * Debian ships no header for qemu's plugin interface, so the parts in use are
 * declared here (qemu's documentation: "QEMU TCG Plugins").
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_hwaddr;

/* enum qemu_plugin_mem_rw: loads and stores */
#define MEM_RW 3

typedef void (*tb_trans_cb)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);
typedef void (*udata_cb)(unsigned int vcpu, void *udata);
typedef void (*mem_cb)(unsigned int vcpu, qemu_plugin_meminfo_t info, uint64_t vaddr,
		       void *udata);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, tb_trans_cb cb);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, udata_cb cb,
					  int flags, void *udata);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn, mem_cb cb, int flags,
				      int rw, void *udata);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t idx);
bool qemu_plugin_mem_is_store(qemu_plugin_meminfo_t info);
struct qemu_plugin_hwaddr *qemu_plugin_get_hwaddr(qemu_plugin_meminfo_t info, uint64_t vaddr);
bool qemu_plugin_hwaddr_is_io(const struct qemu_plugin_hwaddr *addr);
uint64_t qemu_plugin_hwaddr_phys_addr(const struct qemu_plugin_hwaddr *addr);

/* This is the oldest version that has all functions in use. */
EXPORT int qemu_plugin_version = 2;
EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv);

#define CPUS 8
#define WAYS 8
#define LINE_BITS 6

/* The lines of a set, the most recently used one first. A line is never 0: it has a bit above. */
struct set {
	uint64_t line[WAYS];
};

static struct set *caches[CPUS];
static uint64_t sets;
static uint64_t toggle_at;
static FILE *out;
static bool counting;
static uint64_t accesses, misses;

static struct set *set_of(unsigned int vcpu, uint64_t line)
{
	return &caches[vcpu % CPUS][line % sets];
}

/* Makes a line the most recently used one. Returns whether it was there. */
static bool touch(struct set *set, uint64_t line)
{
	int at = 0;
	bool hit;

	while (at < WAYS - 1 && set->line[at] != line)
		at++;
	hit = set->line[at] == line;
	memmove(&set->line[1], &set->line[0], at * sizeof(line));
	set->line[0] = line;
	return hit;
}

static void forget(struct set *set, uint64_t line)
{
	for (int at = 0; at < WAYS; at++)
		if (set->line[at] == line)
			set->line[at] = 0;
}

static void on_access(unsigned int vcpu, qemu_plugin_meminfo_t info, uint64_t vaddr, void *udata)
{
	struct qemu_plugin_hwaddr *addr;
	uint64_t line;

	(void)udata;
	if (!counting)
		return;
	addr = qemu_plugin_get_hwaddr(info, vaddr);
	if (!addr || qemu_plugin_hwaddr_is_io(addr))
		return;
	line = qemu_plugin_hwaddr_phys_addr(addr) >> LINE_BITS | 1ull << 63;
	accesses++;
	if (!touch(set_of(vcpu, line), line))
		misses++;
	if (qemu_plugin_mem_is_store(info))
		for (unsigned int other = 0; other < CPUS; other++)
			if (other != vcpu % CPUS)
				forget(set_of(other, line), line);
}

static void on_toggle(unsigned int vcpu, void *udata)
{
	(void)vcpu;
	(void)udata;
	counting = !counting;
	if (!counting) {
		fprintf(out, "%" PRIu64 " %" PRIu64 "\n", accesses, misses);
		fflush(out);
	}
	accesses = 0;
	misses = 0;
}

static void translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	(void)id;
	if (qemu_plugin_tb_vaddr(tb) == toggle_at)
		qemu_plugin_register_vcpu_tb_exec_cb(tb, on_toggle, 0, NULL);
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++)
		qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i), on_access, 0,
						 MEM_RW, NULL);
}

int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
	uint64_t kib = 1024;

	(void)info;
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "toggle=", 7))
			toggle_at = strtoull(argv[i] + 7, NULL, 16);
		else if (!strncmp(argv[i], "kib=", 4))
			kib = strtoull(argv[i] + 4, NULL, 10);
		else if (!strncmp(argv[i], "out=", 4))
			out = fopen(argv[i] + 4, "w");
	}
	sets = (kib << 10 >> LINE_BITS) / WAYS;
	if (!toggle_at || !out || !sets)
		return -1;
	for (int cpu = 0; cpu < CPUS; cpu++) {
		caches[cpu] = calloc(sets, sizeof(struct set));
		if (!caches[cpu])
			return -1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
	return 0;
}
