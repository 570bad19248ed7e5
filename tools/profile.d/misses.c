// SPDX-License-Identifier: GPL-2.0
/*
 * A qemu plugin that counts what misses a second-level cache.
 *
 * A model has one cache for each virtual processor, with eight ways, lines of 64
 * bytes, and the least recently used line replaced. Loads and stores go through
 * it by physical address; instructions do not. A store takes the line away from
 * all other caches. "kib=N:M" makes two models, with caches of N and of M KiB.
 *
 * Counting starts and stops each time the guest calls the function at
 * "toggle=ADDRESS". Each time that it stops, the plugin writes a line to
 * "out=FILE", with the misses of each model.
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
#define MODELS 4
#define WAYS 8
#define LINE_BITS 6

/* The lines of a set, the most recently used one first. A line is never 0: it has a bit above. */
struct set {
	uint64_t line[WAYS];
};

struct model {
	uint64_t sets;
	struct set *caches[CPUS];
	uint64_t misses;
};

static struct model models[MODELS];
static int nr_models;
static uint64_t toggle_at;
static FILE *out;
static bool counting;

static struct set *set_of(const struct model *model, unsigned int vcpu, uint64_t line)
{
	return &model->caches[vcpu % CPUS][line % model->sets];
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

static void go_through(struct model *model, unsigned int vcpu, uint64_t line, bool store)
{
	if (!touch(set_of(model, vcpu, line), line))
		model->misses++;
	if (store)
		for (unsigned int other = 0; other < CPUS; other++)
			if (other != vcpu % CPUS)
				forget(set_of(model, other, line), line);
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
	for (int i = 0; i < nr_models; i++)
		go_through(&models[i], vcpu, line, qemu_plugin_mem_is_store(info));
}

static void on_toggle(unsigned int vcpu, void *udata)
{
	(void)vcpu;
	(void)udata;
	counting = !counting;
	for (int i = 0; i < nr_models; i++) {
		if (!counting)
			fprintf(out, "%" PRIu64 "%c", models[i].misses,
				i + 1 < nr_models ? ' ' : '\n');
		models[i].misses = 0;
	}
	fflush(out);
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

static bool add_models(char *sizes)
{
	for (char *kib = strtok(sizes, ":"); kib; kib = strtok(NULL, ":")) {
		struct model *model = &models[nr_models];

		if (nr_models == MODELS)
			return false;
		nr_models++;
		model->sets = (strtoull(kib, NULL, 10) << 10 >> LINE_BITS) / WAYS;
		if (!model->sets)
			return false;
		for (int cpu = 0; cpu < CPUS; cpu++) {
			model->caches[cpu] = calloc(model->sets, sizeof(struct set));
			if (!model->caches[cpu])
				return false;
		}
	}
	return nr_models;
}

int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
	bool complete = false;

	(void)info;
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "toggle=", 7))
			toggle_at = strtoull(argv[i] + 7, NULL, 16);
		else if (!strncmp(argv[i], "kib=", 4))
			complete = add_models(argv[i] + 4);
		else if (!strncmp(argv[i], "out=", 4))
			out = fopen(argv[i] + 4, "w");
	}
	if (!toggle_at || !out || !complete)
		return -1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
	return 0;
}
