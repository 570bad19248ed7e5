// SPDX-License-Identifier: GPL-2.0
/*
 * The bench of tools/bench/native, which runs in a kernel that is a process of
 * the real processor (User Mode Linux). There, system calls and switches
 * between processes go through the host, and cost more than what is measured.
 * Switches between kernel threads do not, so two kernel threads talk through
 * sockets here.
 *
 * A line written to /proc/native_bench makes one measurement:
 *
 *	TRANSPORT TEST SIZE COUNT WARMUP CPU1 CPU2
 *
 * TRANSPORT is tcp or unix, TEST is rr, stream or crr. The write returns when
 * the measurement has ended. The file then reads as the number of ticks of the
 * processor's time stamp counter that COUNT operations took.
 */
#include <linux/completion.h>
#include <linux/in.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/net.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/tcp.h>
#include <linux/uio.h>
#include <linux/un.h>
#include <net/net_namespace.h>
#include <net/sock.h>
#include <net/tcp.h>

#define MAX_SIZE (1 << 20)
#define MAX_COUNT (1 << 24)

enum test { RR, STREAM, CRR, TESTS };

static const char * const test_names[TESTS] = { "rr", "stream", "crr" };

/* One measurement. */
static struct run {
	enum test test;
	bool tcp;
	size_t size;
	unsigned int count;
	unsigned int warmup;
	int cpu[2];

	struct socket *listener;
	/* The address of the listener. */
	struct sockaddr_storage addr;
	int addr_len;
	/* The second side has done its part of what is not timed. */
	struct completion warm;
	u64 begin;
} run;

/* A thread, and its end of the connection. */
struct side {
	/* The first one writes first. */
	bool first;
	struct socket *sock;
	char *buf;
	struct task_struct *task;
	struct completion done;
	u64 end;
	int err;
};

static DEFINE_MUTEX(lock);
/* The ticks of the last measurement. */
static u64 ticks;

static u64 stamp(void)
{
	u32 low, high;

	asm volatile("lfence\n\trdtsc" : "=a" (low), "=d" (high) : : "memory");
	return (u64)high << 32 | low;
}

static int put(struct side *s, size_t len)
{
	size_t done = 0;

	while (done < len) {
		struct kvec vec = { .iov_base = s->buf + done, .iov_len = len - done };
		struct msghdr msg = {};
		int n = kernel_sendmsg(s->sock, &msg, &vec, 1, vec.iov_len);

		if (n <= 0)
			return n ? n : -EPIPE;
		done += n;
	}
	return 0;
}

/* Reads at most len bytes: what one call returns. */
static int get_some(struct side *s, size_t len)
{
	struct kvec vec = { .iov_base = s->buf, .iov_len = len };
	struct msghdr msg = {};
	int n = kernel_recvmsg(s->sock, &msg, &vec, 1, len, 0);

	return n ? n : -EPIPE;
}

static int get(struct side *s, u64 left)
{
	while (left) {
		int n = get_some(s, min_t(u64, left, run.size));

		if (n < 0)
			return n;
		left -= n;
	}
	return 0;
}

static int rr(struct side *s, unsigned int n)
{
	int err = 0;

	while (n-- && !err) {
		err = s->first ? put(s, run.size) : get(s, run.size);
		if (!err)
			err = s->first ? get(s, run.size) : put(s, run.size);
	}
	return err;
}

static int stream(struct side *s, unsigned int n)
{
	int err = 0;

	if (!s->first)
		return get(s, (u64)n * run.size);
	while (n-- && !err)
		err = put(s, run.size);
	return err;
}

static int new_socket(struct socket **sock)
{
	int family = run.tcp ? AF_INET : AF_UNIX;

	return sock_create_kern(&init_net, family, SOCK_STREAM, 0, sock);
}

static int dial(struct side *s)
{
	int err = new_socket(&s->sock);

	if (err)
		return err;
	err = kernel_connect(s->sock, (struct sockaddr_unsized *)&run.addr, run.addr_len, 0);
	if (!err && run.tcp)
		tcp_sock_set_nodelay(s->sock->sk);
	return err;
}

static int answer(struct side *s)
{
	int err = kernel_accept(run.listener, &s->sock, 0);

	if (!err && run.tcp)
		tcp_sock_set_nodelay(s->sock->sk);
	return err;
}

static void hang_up(struct side *s)
{
	if (s->sock)
		sock_release(s->sock);
	s->sock = NULL;
}

/* Connects, exchanges a byte each way, and closes. */
static int crr(struct side *s, unsigned int n)
{
	int err = 0;

	while (n-- && !err) {
		err = s->first ? dial(s) : answer(s);
		if (!err)
			err = rr(s, 1);
		hang_up(s);
	}
	return err;
}

static int operate(struct side *s, unsigned int n)
{
	switch (run.test) {
	case RR:
		return rr(s, n);
	case STREAM:
		return stream(s, n);
	default:
		return crr(s, n);
	}
}

/* Ends the wait of the other side for this one. */
static void give_up(struct side *s)
{
	if (s->sock)
		kernel_sock_shutdown(s->sock, SHUT_RDWR);
	kernel_sock_shutdown(run.listener, SHUT_RDWR);
}

static int thread(void *arg)
{
	struct side *s = arg;

	/* Friends read for programs otherwise than for threads of the kernel. */
	current->flags &= ~PF_KTHREAD;
	if (run.test != CRR)
		s->err = s->first ? dial(s) : answer(s);
	if (!s->err)
		s->err = operate(s, run.warmup);
	if (s->err)
		give_up(s);
	/* Otherwise a writer would be ahead of its reader when the clock starts. */
	if (s->first) {
		wait_for_completion(&run.warm);
		run.begin = stamp();
	} else {
		complete(&run.warm);
	}
	if (!s->err) {
		s->err = operate(s, run.count);
		if (s->err)
			give_up(s);
	}
	s->end = stamp();
	current->flags |= PF_KTHREAD;
	kthread_complete_and_exit(&s->done, 0);
}

static int listen_somewhere(void)
{
	int err = new_socket(&run.listener);

	if (err)
		return err;
	memset(&run.addr, 0, sizeof(run.addr));
	if (run.tcp) {
		struct sockaddr_in *in = (struct sockaddr_in *)&run.addr;

		in->sin_family = AF_INET;
		in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		run.addr_len = sizeof(*in);
	} else {
		struct sockaddr_un *un = (struct sockaddr_un *)&run.addr;

		/* An abstract address, which no file has. */
		un->sun_family = AF_UNIX;
		strscpy(un->sun_path + 1, "native_bench", sizeof(un->sun_path) - 1);
		run.addr_len = offsetof(struct sockaddr_un, sun_path) + 1 + strlen("native_bench");
	}
	err = kernel_bind(run.listener, (struct sockaddr_unsized *)&run.addr, run.addr_len);
	if (!err)
		err = kernel_listen(run.listener, 16);
	if (!err && run.tcp)
		err = min(0, kernel_getsockname(run.listener, (struct sockaddr *)&run.addr));
	if (err) {
		sock_release(run.listener);
		run.listener = NULL;
	}
	return err;
}

static int measure(void)
{
	struct side sides[2] = { { .first = true } };
	int err, i;

	err = listen_somewhere();
	if (err)
		return err;
	init_completion(&run.warm);
	for (i = 0; i < 2 && !err; i++) {
		struct side *s = &sides[i];

		init_completion(&s->done);
		s->buf = kvmalloc(run.size, GFP_KERNEL);
		if (!s->buf) {
			err = -ENOMEM;
			break;
		}
		memset(s->buf, 'x', run.size);
		s->task = kthread_create(thread, s, "native_bench/%d", i);
		if (IS_ERR(s->task)) {
			err = PTR_ERR(s->task);
			s->task = NULL;
			break;
		}
		kthread_bind(s->task, run.cpu[i]);
	}
	for (i = 0; i < 2 && !err; i++)
		wake_up_process(sides[i].task);
	for (i = 0; i < 2; i++) {
		struct side *s = &sides[i];

		if (err && s->task)
			kthread_stop(s->task);
		else if (!err)
			wait_for_completion(&s->done);
	}
	for (i = 0; i < 2; i++) {
		if (!err)
			err = sides[i].err;
		hang_up(&sides[i]);
		kvfree(sides[i].buf);
	}
	sock_release(run.listener);
	if (!err)
		ticks = max(sides[0].end, sides[1].end) - run.begin;
	return err;
}

static int parse(char *line)
{
	char transport[8], test[8];

	if (sscanf(line, "%7s %7s %zu %u %u %d %d", transport, test, &run.size, &run.count,
		   &run.warmup, &run.cpu[0], &run.cpu[1]) != 7)
		return -EINVAL;
	run.tcp = !strcmp(transport, "tcp");
	run.test = match_string(test_names, TESTS, test);
	if ((!run.tcp && strcmp(transport, "unix")) || (int)run.test < 0 || !run.size ||
	    run.size > MAX_SIZE || !run.count || run.count > MAX_COUNT ||
	    run.warmup > MAX_COUNT || run.cpu[0] < 0 || run.cpu[0] >= nr_cpu_ids ||
	    run.cpu[1] < 0 || run.cpu[1] >= nr_cpu_ids || !cpu_online(run.cpu[0]) ||
	    !cpu_online(run.cpu[1]))
		return -EINVAL;
	return 0;
}

static ssize_t native_write(struct file *file, const char __user *from, size_t len, loff_t *pos)
{
	char line[128];
	int err;

	if (len >= sizeof(line))
		return -EINVAL;
	if (copy_from_user(line, from, len))
		return -EFAULT;
	line[len] = 0;

	mutex_lock(&lock);
	err = parse(line);
	if (!err)
		err = measure();
	mutex_unlock(&lock);
	return err ? err : len;
}

static int native_show(struct seq_file *m, void *unused)
{
	seq_printf(m, "%llu\n", ticks);
	return 0;
}

static int native_open(struct inode *inode, struct file *file)
{
	return single_open(file, native_show, NULL);
}

static const struct proc_ops native_ops = {
	.proc_open = native_open,
	.proc_read = seq_read,
	.proc_write = native_write,
	.proc_lseek = seq_lseek,
	.proc_release = single_release,
};

static int __init native_init(void)
{
	return proc_create("native_bench", 0600, NULL, &native_ops) ? 0 : -ENOMEM;
}
module_init(native_init);

static void __exit native_exit(void)
{
	remove_proc_entry("native_bench", NULL);
}
module_exit(native_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Bench of sockets between two kernel threads");
