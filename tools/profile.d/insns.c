// SPDX-License-Identifier: GPL-2.0
/*
 * A qemu plugin that counts the guest's instructions by translation block.
 *
 * Counting starts and stops each time the guest calls the function at
 * "toggle=ADDRESS". At the end the plugin writes a line "address instructions" for
 * each block that ran to "out=FILE".
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
struct qemu_plugin_tb;

typedef void (*tb_trans_cb)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);
typedef void (*udata_cb)(unsigned int vcpu, void *udata);
typedef void (*atexit_cb)(qemu_plugin_id_t id, void *udata);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, tb_trans_cb cb);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, udata_cb cb,
					  int flags, void *udata);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, atexit_cb cb,
				    void *udata);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);

/* This is the oldest version that has all functions in use. */
EXPORT int qemu_plugin_version = 2;
EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc,
			       char **argv);

struct block {
	struct block *next;
	uint64_t vaddr;
	uint64_t insns;
	uint64_t runs;
};

static struct block *blocks;
static uint64_t toggle_at;
static const char *out_name;
static bool counting;

static void count_block(unsigned int vcpu, void *udata)
{
	struct block *b = udata;

	(void)vcpu;
	if (b->vaddr == toggle_at)
		counting = !counting;
	b->runs += counting;
}

static void add_block(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	struct block *b = calloc(1, sizeof(*b));

	(void)id;
	if (!b)
		return;
	b->vaddr = qemu_plugin_tb_vaddr(tb);
	b->insns = qemu_plugin_tb_n_insns(tb);
	b->next = blocks;
	blocks = b;
	qemu_plugin_register_vcpu_tb_exec_cb(tb, count_block, 0, b);
}

static void at_end(qemu_plugin_id_t id, void *udata)
{
	FILE *f = fopen(out_name, "w");

	(void)id;
	(void)udata;
	if (!f)
		return;
	for (struct block *b = blocks; b; b = b->next)
		if (b->runs)
			fprintf(f, "%" PRIx64 " %" PRIu64 "\n", b->vaddr,
				b->runs * b->insns);
	fclose(f);
}

int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc,
			char **argv)
{
	(void)info;
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "toggle=", 7))
			toggle_at = strtoull(argv[i] + 7, NULL, 16);
		else if (!strncmp(argv[i], "out=", 4))
			out_name = strdup(argv[i] + 4);
	}
	if (!toggle_at || !out_name)
		return -1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, add_block);
	qemu_plugin_register_atexit_cb(id, at_end, NULL);
	return 0;
}
