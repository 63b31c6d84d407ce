#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "vin/rcall.h"
#include "vin/status.h"

#define PAGE	     4096ULL
#define STACK_SIZE   (32 * 1024ULL) /* the frame of a signal has all of the extended state */
#define TABLE_SIZE   (VIN_BATCH_MAX * sizeof(struct vin_call))
#define WAIT_MS	     10000
#define SYSCALL_STOP (SIGTRAP | 0x80)
/* all but the breakpoint's; a signal that is blocked when a breakpoint forces it loses its action
 */
#define MASK_IN_CALLS (~(1ULL << (SIGTRAP - 1)))

/* ---- calls on an instruction of the program's own ---- */

/* Nobody can block a SIGSTOP: one that comes meanwhile is sent again when the thread is parked. */
static bool keep_stop(struct vin_thread *t, int status)
{
	if (WSTOPSIG(status) != SIGSTOP)
		return false;
	t->stop_owed = true;
	return true;
}

/* To the next stop of a system call; -ENOEXEC when something else comes of the instruction. */
static int to_syscall_stop(struct vin_thread *t)
{
	for (;;) {
		int status;
		if (ptrace(PTRACE_SYSCALL, t->tid, 0, 0) < 0)
			return -errno;
		int r = vin_thread_wait(t->tid, WAIT_MS, &status);
		if (r < 0)
			return r;
		if (WSTOPSIG(status) == SYSCALL_STOP)
			return 0;
		if (status >> 16 == 0 && !keep_stop(t, status))
			return WSTOPSIG(status) == SIGSYS ? -EACCES : -ENOEXEC;
	}
}

static int mask_calls(struct vin_thread *t, uint64_t mask)
{
	t->moved = true;
	return ptrace(PTRACE_SETSIGMASK, t->tid, sizeof(mask), &mask) < 0 ? -errno : 0;
}

static int bare_call(struct vin_thread *t, uint64_t at, const struct vin_call *call,
		     int64_t *ret_result)
{
	struct vin_regs regs = t->regs;
	vin_arch_plain(&regs, call, at);
	int r = mask_calls(t, ~0ULL);
	if (r == 0)
		r = vin_arch_set(t->tid, &regs);
	if (r == 0)
		r = to_syscall_stop(t);
	if (r == 0)
		r = to_syscall_stop(t);
	if (r == 0)
		r = vin_arch_get(t->tid, &regs);
	if (r == 0)
		*ret_result = vin_arch_result(&regs);
	return r;
}

/* As bare_call(), where a failure of the call is one of ours. */
static int bare(struct vin_thread *t, uint64_t at, const char *name, const struct vin_call *call,
		uint64_t *ret, struct fvm_error *err)
{
	int64_t result = 0;
	int r = bare_call(t, at, call, &result);
	if (r == 0 && result < 0 && result > -4096)
		r = (int)result;
	if (r < 0)
		return fvm_error_set(err, -r, "have process %d call %s", t->pid, name);
	if (ret)
		*ret = (uint64_t)result;
	return 0;
}

static bool works(struct vin_thread *t, uint64_t at)
{
	struct vin_call call = { .nr = SYS_getppid };
	int64_t result;
	return bare_call(t, at, &call, &result) == 0 && result >= 0;
}

/* The first instruction in @len bytes at @at that makes a system call; bytes of it may be part of
 * others, so each is tried. */
static uint64_t find_in(struct vin_thread *t, uint64_t at, size_t len)
{
	scoped_free unsigned char *text = malloc(len);
	if (!text || vin_mem_read(t->tid, at, text, len) < 0)
		return 0;
	for (size_t done = 0; done < len;) {
		ssize_t found = vin_arch_find_syscall(text + done, len - done);
		if (found < 0)
			break;
		if (works(t, at + done + (size_t)found))
			return at + done + (size_t)found;
		done += (size_t)found + 1;
	}
	return 0;
}

static uint64_t find_in_vdso(struct vin_thread *t)
{
	char path[40];
	uint64_t pair[2];
	snprintf(path, sizeof(path), "/proc/%d/auxv", t->tid);
	scoped_fd auxv = open(path, O_RDONLY | O_CLOEXEC);
	while (auxv >= 0 && fvm_read_full(auxv, pair, sizeof(pair)) == sizeof(pair)) {
		if (pair[0] == AT_SYSINFO_EHDR)
			return find_in(t, pair[1], PAGE);
	}
	return 0;
}

/* Programs without a vdso make calls somewhere else. */
static uint64_t find_in_maps(struct vin_thread *t)
{
	char path[40], line[4400];
	uint64_t found = 0;
	snprintf(path, sizeof(path), "/proc/%d/maps", t->tid);
	FILE *maps = fopen(path, "re");
	while (maps && !found && fgets(line, sizeof(line), maps)) {
		unsigned long long from, to;
		char flags[5];
		if (sscanf(line, "%llx-%llx %4s", &from, &to, flags) == 3 && flags[0] == 'r' &&
		    flags[2] == 'x' && to - from <= 64 << 20)
			found = find_in(t, from, (size_t)(to - from));
	}
	if (maps)
		fclose(maps);
	return found;
}

/* ---- the post ---- */

static int write_code(const struct vin_post *post, const struct vin_thread *t)
{
	size_t len;
	const void *code = vin_arch_code(&len);
	struct vin_rescue rescue;
	vin_arch_rescue(&t->regs, t->mask, &rescue);
	struct vin_sigaction handler = {
		.handler = post->place.code + vin_arch_rescue_at(),
		.flags = VIN_SA_RESTORER | SA_SIGINFO,
		.restorer = post->place.code,
		.mask = ~0ULL,
	};
	int r = vin_mem_write(post->pid, post->place.code, code, len);
	if (r == 0)
		r = vin_mem_write(post->pid, post->place.rescue, &rescue, sizeof(rescue));
	return r < 0 ? r : vin_mem_write(post->pid, post->data, &handler, sizeof(handler));
}

static void lay_out(struct vin_post *post)
{
	uint64_t at = post->base;
	post->place.code = at;
	post->place.rescue = at += PAGE;
	post->place.action = at + sizeof(struct vin_rescue);
	post->place.stack = at += PAGE + STACK_SIZE;
	post->table = at;
	post->data = at + TABLE_SIZE;
}

/* The order matters: until the handler is there, our death is the program's. */
static int furnish(struct vin_post *post, struct vin_thread *t, struct fvm_error *err)
{
	const uint64_t where = post->base, fixed = where ? MAP_FIXED_NOREPLACE : 0;
	struct vin_call map = { SYS_mmap,
				{ where, post->size, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | fixed, ~0ULL, 0 } };
	post->base = 0;
	int r = bare(t, post->bare, "mmap", &map, &post->base, err);
	if (r < 0)
		return r;
	lay_out(post);
	r = write_code(post, t);
	if (r < 0)
		return fvm_error_set(err, -r, "write to the memory of process %d", t->pid);
	struct vin_call protect = { SYS_mprotect, { post->base, PAGE, PROT_READ | PROT_EXEC } };
	struct vin_call action = { SYS_rt_sigaction,
				   { SIGTRAP, post->data, post->place.action, 8 } };
	r = bare(t, post->bare, "mprotect", &protect, NULL, err);
	if (r == 0)
		r = bare(t, post->bare, "rt_sigaction", &action, NULL, err);
	if (r < 0)
		return r;
	post->ready = true;
	r = vin_mem_read(post->pid, post->place.action, &post->action, sizeof(post->action));
	if (r == 0)
		r = mask_calls(t, MASK_IN_CALLS);
	return r < 0 ? fvm_error_set(err, -r, "read the memory of process %d", t->pid) : 0;
}

static int unmap(struct vin_post *post, struct vin_thread *t, struct fvm_error *err)
{
	struct vin_call action = { SYS_rt_sigaction, { SIGTRAP, post->place.action, 0, 8 } };
	struct vin_call munmap = { SYS_munmap, { post->base, post->size } };
	int r = 0;
	if (post->ready)
		r = bare(t, post->bare, "rt_sigaction", &action, NULL, err);
	if (r == 0 && post->base)
		r = bare(t, post->bare, "munmap", &munmap, NULL, err);
	if (r == 0)
		*post = (struct vin_post){ 0 };
	return r;
}

_Static_assert(2 * PAGE + STACK_SIZE + TABLE_SIZE + VIN_DATA_SIZE <= VIN_POST_SIZE, "size");

/* Of each queue at most one waits: it is no real-time signal. */
static void find_traps(struct vin_thread *t)
{
	for (int shared = 0; shared < 2; shared++) {
		struct __ptrace_peeksiginfo_args args = {
			.flags = shared ? PTRACE_PEEKSIGINFO_SHARED : 0, .nr = 1
		};
		siginfo_t info;
		while (ptrace(PTRACE_PEEKSIGINFO, t->tid, &args, &info) == 1) {
			args.off++;
			if (info.si_signo != SIGTRAP)
				continue;
			t->trap_owed[shared] = true;
			t->traps[shared] = info;
		}
	}
}

/* The thread sends them to itself, as nobody else may; they stay blocked until it is parked. */
static int give_traps_back(const struct vin_post *post, struct vin_thread *t, struct fvm_error *err)
{
	scoped_status status = { 0 };
	int r = t->trap_owed[0] || t->trap_owed[1] ? vin_status_read(t->pid, t->tid, &status, err)
						   : 0;
	for (int shared = 0; r == 0 && shared < 2; shared++) {
		if (!t->trap_owed[shared])
			continue;
		uint64_t pid = (uint64_t)status.leaders[status.depth - 1];
		uint64_t tid = (uint64_t)status.pids[status.depth - 1];
		struct vin_call call = { SYS_rt_tgsigqueueinfo, { pid, tid, SIGTRAP, post->data } };
		if (shared)
			call = (struct vin_call){ SYS_rt_sigqueueinfo,
						  { pid, SIGTRAP, post->data } };
		r = vin_mem_write(t->pid, post->data, &t->traps[shared], sizeof(siginfo_t));
		r = r < 0 ? fvm_error_set(err, -r, "reach the memory of process %d", t->pid)
			  : bare(t, post->bare, "rt_sigqueueinfo", &call, NULL, err);
		if (r == 0)
			t->trap_owed[shared] = false;
	}
	return r;
}

int vin_post_leave(const struct vin_post *post, struct vin_thread *t, struct fvm_error *err)
{
	int r = give_traps_back(post, t, err);
	int parked = vin_thread_park(t, r < 0 ? NULL : err);
	return r < 0 ? r : parked;
}

int vin_post_open(struct vin_post *ret, struct vin_thread *t, struct fvm_error *err)
{
	return vin_post_open_at(ret, t, 0, 2 * PAGE + STACK_SIZE + TABLE_SIZE + VIN_DATA_SIZE, err);
}

int vin_post_open_at(struct vin_post *ret, struct vin_thread *t, uint64_t base, size_t size,
		     struct fvm_error *err)
{
	struct vin_post post = { .pid = t->tid, .base = base, .size = size };
	if (!vin_arch_is_64bit(&t->regs))
		return fvm_error_say(err, ENOEXEC, "process %d runs 32-bit code", t->pid);
	find_traps(t);
	post.bare = find_in_vdso(t);
	if (!post.bare)
		post.bare = find_in_maps(t);
	int r = post.bare
			? furnish(&post, t, err)
			: fvm_error_say(err, ENOEXEC,
					"process %d has no instruction that makes system calls, or "
					"a filter that forbids them",
					t->pid);
	if (r < 0) {
		(void)unmap(&post, t, NULL);
		(void)vin_thread_park(t, NULL);
		return r;
	}
	*ret = post;
	return 0;
}

int vin_post_close(struct vin_post *post, struct vin_thread *t, struct fvm_error *err)
{
	int given = post->ready ? give_traps_back(post, t, err) : 0;
	int r = unmap(post, t, given < 0 ? NULL : err);
	int parked = vin_thread_park(t, r < 0 || given < 0 ? NULL : err);
	return given < 0 ? given : r < 0 ? r : parked;
}

int vin_post_inherit(struct vin_post *ret, const struct vin_post *parent, struct vin_thread *t,
		     struct fvm_error *err)
{
	*ret = *parent;
	ret->pid = t->tid;
	return vin_post_move(ret, t, err);
}

/* Registers first: if we die between the two, the thread runs into the breakpoint, and its handler
 * brings it back; its mask alone, nobody would give back. */
int vin_post_move(struct vin_post *post, struct vin_thread *t, struct fvm_error *err)
{
	struct vin_rescue rescue;
	struct vin_regs regs = t->regs;
	const struct vin_call nothing = { .nr = SYS_getppid };
	vin_arch_rescue(&t->regs, t->mask, &rescue);
	vin_arch_single(&regs, &nothing, &post->place);
	int r = vin_mem_write(post->pid, post->place.rescue, &rescue, sizeof(rescue));
	t->moved = true;
	if (r == 0)
		r = vin_arch_set(t->tid, &regs);
	if (r == 0)
		r = mask_calls(t, MASK_IN_CALLS);
	return r < 0 ? fvm_error_set(err, -r, "move thread %d", t->tid) : 0;
}

/* ---- calls on the trampoline ---- */

/* A SIGTRAP that somebody sent is the program's; the breakpoint's comes from the kernel. */
static bool is_breakpoint(struct vin_thread *t)
{
	siginfo_t info;
	if (ptrace(PTRACE_GETSIGINFO, t->tid, 0, &info) < 0)
		return true;
	return info.si_code == SI_KERNEL;
}

/* Those that waited when we came are known with their queue; another one is the thread's. */
static void keep_trap(struct vin_thread *t)
{
	if (t->trap_owed[0] || t->trap_owed[1])
		return;
	t->trap_owed[0] = ptrace(PTRACE_GETSIGINFO, t->tid, 0, &t->traps[0]) == 0;
}

static int to_breakpoint(struct vin_thread *t)
{
	for (;;) {
		int status;
		if (ptrace(PTRACE_CONT, t->tid, 0, 0) < 0)
			return -errno;
		int r = vin_thread_wait(t->tid, WAIT_MS, &status);
		if (r < 0)
			return r;
		if (status >> 16)
			continue;
		if (keep_stop(t, status))
			continue;
		if (WSTOPSIG(status) != SIGTRAP)
			return WSTOPSIG(status) == SIGSYS ? -EACCES : -EFAULT;
		if (is_breakpoint(t))
			return 0;
		keep_trap(t);
	}
}

static int run(struct vin_thread *t, struct vin_regs *regs)
{
	int r = vin_arch_set(t->tid, regs);
	if (r == 0)
		r = to_breakpoint(t);
	return r < 0 ? r : vin_arch_get(t->tid, regs);
}

int vin_call(const struct vin_post *post, struct vin_thread *t, const char *name,
	     const struct vin_call *call, int64_t *ret, struct fvm_error *err)
{
	struct vin_regs regs = t->regs;
	vin_arch_single(&regs, call, &post->place);
	int r = run(t, &regs);
	if (r < 0)
		return fvm_error_set(err, -r, "have process %d call %s", t->pid, name);
	int64_t result = vin_arch_result(&regs);
	if (ret)
		*ret = result;
	else if (result < 0 && result > -4096)
		return fvm_error_set(err, (int)-result, "have process %d call %s", t->pid, name);
	return 0;
}

int vin_bare(const struct vin_post *post, struct vin_thread *t, const char *name,
	     const struct vin_call *call, struct fvm_error *err)
{
	int r = bare(t, post->bare, name, call, NULL, err);
	if (r == 0 && mask_calls(t, MASK_IN_CALLS) < 0)
		r = fvm_error_set(err, errno, "have process %d call %s", t->pid, name);
	return r;
}

/* To the event that tells the child's number, or to the breakpoint when there is no child. */
static int to_birth(struct vin_thread *t, pid_t *ret)
{
	int status;
	unsigned long child;
	if (ptrace(PTRACE_CONT, t->tid, 0, 0) < 0)
		return -errno;
	int r = vin_thread_wait(t->tid, WAIT_MS, &status);
	if (r < 0 || status >> 16 == 0)
		return r;
	if (ptrace(PTRACE_GETEVENTMSG, t->tid, 0, &child) < 0)
		return -errno;
	*ret = (pid_t)child;
	return to_breakpoint(t);
}

int vin_clone(const struct vin_post *post, struct vin_thread *t, uint64_t flags, int exit_signal,
	      pid_t number, pid_t *ret, struct fvm_error *err)
{
	struct {
		struct clone_args args;
		pid_t number;
	} clone = { .args = { .flags = flags, .exit_signal = (uint64_t)exit_signal },
		    .number = number };
	const uint64_t at = post->data + VIN_DATA_SIZE - sizeof(clone);
	if (number) {
		clone.args.set_tid = at + offsetof(__typeof__(clone), number);
		clone.args.set_tid_size = 1;
	}
	struct vin_call call = { SYS_clone3, { at, sizeof(clone.args) } };
	struct vin_regs regs = t->regs;
	pid_t child = 0;
	int r = vin_mem_write(post->pid, at, &clone, sizeof(clone));
	vin_arch_single(&regs, &call, &post->place);
	if (r == 0)
		r = vin_arch_set(t->tid, &regs);
	if (r == 0)
		r = to_birth(t, &child);
	if (r == 0)
		r = vin_arch_get(t->tid, &regs);
	if (r == 0 && vin_arch_result(&regs) < 0)
		r = (int)vin_arch_result(&regs);
	if (r < 0 || child == 0)
		return fvm_error_set(err, r < 0 ? -r : EIO, "have process %d make task %d", t->pid,
				     number);
	*ret = child;
	return 0;
}

static int read_results(const struct vin_post *post, struct vin_call *calls, size_t count,
			size_t *ret_done)
{
	struct vin_call here[VIN_BATCH_MAX];
	int r = vin_mem_read(post->pid, post->table, here, count * sizeof(*here));
	size_t done = 0;
	while (r == 0 && done < count && here[done].result != VIN_NOT_MADE) {
		calls[done].result = here[done].result;
		done++;
	}
	*ret_done = done;
	return r;
}

static int first_failure(const struct vin_call *calls, size_t done)
{
	for (size_t i = 0; i < done; i++) {
		if (calls[i].result < 0 && calls[i].result > -4096)
			return (int)calls[i].result;
	}
	return 0;
}

int vin_batch(const struct vin_post *post, struct vin_thread *t, struct vin_call *calls,
	      size_t count, bool whole, size_t *ret_done, struct fvm_error *err)
{
	struct vin_regs regs = t->regs;
	if (count == 0 || count > VIN_BATCH_MAX)
		return fvm_error_set(err, EINVAL, "make a batch of %zu calls", count);
	for (size_t i = 0; i < count; i++)
		calls[i].result = VIN_NOT_MADE;
	int r = vin_mem_write(post->pid, post->table, calls, count * sizeof(*calls));
	vin_arch_batch(&regs, post->table, count, whole, &post->place);
	if (r == 0)
		r = run(t, &regs);
	if (r == 0)
		r = read_results(post, calls, count, ret_done);
	if (r < 0)
		return fvm_error_set(err, -r, "have process %d make %zu calls", t->pid, count);
	r = whole ? 0 : first_failure(calls, *ret_done);
	if (r < 0)
		return fvm_error_set(err, -r, "have process %d make call %zu of %zu", t->pid,
				     *ret_done, count);
	return 0;
}
