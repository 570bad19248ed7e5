// SPDX-License-Identifier: GPL-2.0
/*
 * A module of the guest, for qemu without KVM and with more than one processor.
 *
 * To patch an instruction while other processors may run it, the kernel puts a breakpoint (int3)
 * over its first byte, changes the rest, and takes the breakpoint away again. With qemu 10.0 and
 * 11.1, another processor now and then meets a breakpoint that memory no longer has, when the
 * kernel is done with it, and the kernel dies of "Oops: int3". The vanilla kernel did so within
 * seconds when one processor wrote 1024 and 0 to net.core.rps_sock_flow_entries in turn, which
 * switches two static keys, and the other sent UDP to itself. Probably qemu drops its translation
 * of the old instruction before it carries out the store, and the other processor translates the
 * old byte once more in between.
 *
 * This module does for such a breakpoint what the instruction in memory says.
 */
#include <linux/kdebug.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/unaligned.h>

#include <asm/text-patching.h>

/*
 * Handles the instructions that static keys, static calls and the function tracer put into the
 * kernel's code. The kernel reports all other breakpoints, also those that memory still has. This
 * is called as in an NMI: with interrupts off, and whatever this processor was doing.
 */
static int emulate(struct notifier_block *nb, unsigned long event, void *data)
{
	static const u8 nop2[] = { 0x66, 0x90 }, nop5[] = { 0x0f, 0x1f, 0x44, 0x00, 0x00 };
	/* xor %eax, %eax, which stands for a static call that returns 0 */
	static const u8 return0[] = { 0x2e, 0x2e, 0x2e, 0x31, 0xc0 };
	struct pt_regs *regs = ((struct die_args *)data)->regs;
	unsigned long ip = regs->ip - INT3_INSN_SIZE;
	const u8 *insn = (const u8 *)ip;

	if (event != DIE_INT3 || user_mode(regs))
		return NOTIFY_DONE;

	if (!memcmp(insn, nop2, sizeof(nop2))) {
		int3_emulate_jmp(regs, ip + sizeof(nop2));
	} else if (!memcmp(insn, nop5, sizeof(nop5))) {
		int3_emulate_jmp(regs, ip + sizeof(nop5));
	} else if (!memcmp(insn, return0, sizeof(return0))) {
		regs->ax = 0;
		int3_emulate_jmp(regs, ip + sizeof(return0));
	} else if (*insn == RET_INSN_OPCODE) {
		int3_emulate_ret(regs);
	} else if (*insn == JMP8_INSN_OPCODE) {
		int3_emulate_jmp(regs, ip + JMP8_INSN_SIZE + (s8)insn[1]);
	} else if (*insn == JMP32_INSN_OPCODE) {
		int3_emulate_jmp(regs, ip + JMP32_INSN_SIZE + get_unaligned((s32 *)(insn + 1)));
	} else if (*insn == CALL_INSN_OPCODE) {
		int3_emulate_call(regs, ip + CALL_INSN_SIZE,
				  ip + CALL_INSN_SIZE + get_unaligned((s32 *)(insn + 1)));
	} else {
		return NOTIFY_DONE;
	}

	pr_notice_once("qemu met a breakpoint at %pS that memory no longer has\n", (void *)ip);
	return NOTIFY_STOP;
}
NOKPROBE_SYMBOL(emulate);

static struct notifier_block notifier = { .notifier_call = emulate };

static int __init tcg_int3_init(void)
{
	return register_die_notifier(&notifier);
}

static void __exit tcg_int3_exit(void)
{
	unregister_die_notifier(&notifier);
}

module_init(tcg_int3_init);
module_exit(tcg_int3_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Survives a race of qemu's translator with the kernel's patching of code");
