#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
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

/* ---- calls on the stub, or on an instruction of the program's own ---- */

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

/* From where the thread stands, or is in the stub, to the end of its next call. */
static int to_call_end(struct vin_thread *t, int64_t *ret_result)
{
	struct vin_regs regs;
	int r = to_syscall_stop(t);
	if (r == 0)
		r = to_syscall_stop(t);
	if (r == 0)
		r = vin_arch_get(t->tid, &regs);
	if (r == 0)
		*ret_result = vin_arch_result(&regs);
	return r;
}

static int mask_calls(struct vin_thread *t, uint64_t mask)
{
	t->moved = true;
	return ptrace(PTRACE_SETSIGMASK, t->tid, sizeof(mask), &mask) < 0 ? -errno : 0;
}

/* To the stub, or to an instruction that makes calls. The frame, which is written, holds the mask
 * as well: nobody else would give that back. */
static int stand_at(const struct vin_post *post, struct vin_thread *t, unsigned int slot,
		    const struct vin_call *call, uint64_t at)
{
	struct vin_regs regs = t->regs;
	vin_arch_plain(&regs, call, at);
	if (post->frame.keep)
		vin_arch_framed(&regs, post->frame.at[slot], post->frame.keep);
	t->moved = true;
	t->calls = false;
	int r = vin_arch_set(t->tid, &regs);
	return r < 0 ? r : mask_calls(t, ~0ULL);
}

/* All that a thread without a controller does there is to clean up, if that is its own, and go. */
static int stand_at_home(const struct vin_post *post, struct vin_thread *t, unsigned int slot)
{
	static const struct vin_call none;
	return stand_at(post, t, slot, &none, post->frame.home);
}

static int call_at(const struct vin_post *post, struct vin_thread *t, const struct vin_call *call,
		   uint64_t at, int64_t *ret_result)
{
	int r = stand_at(post, t, post->slot, call, at);
	return r < 0 ? r : to_call_end(t, ret_result);
}

static int failed(const struct vin_thread *t, const char *name, int r, int64_t result,
		  struct fvm_error *err)
{
	if (r == 0 && result < 0 && result > -4096)
		r = (int)result;
	if (r < 0)
		return fvm_error_set(err, -r, "have process %d call %s", t->pid, name);
	return 0;
}

/* As call_at(), where a failure of the call is one of ours. */
static int bare(const struct vin_post *post, struct vin_thread *t, const char *name,
		const struct vin_call *call, struct fvm_error *err)
{
	int64_t result = 0;
	const uint64_t at =
		call->nr & VIN_CALL_32 ? post->place.code + vin_arch_gate_at() : post->bare;
	int r = call_at(post, t, call, at, &result);
	return failed(t, name, r, result, err);
}

static bool works(struct vin_thread *t, uint64_t at)
{
	const struct vin_post none = { 0 };
	struct vin_call call = { .nr = SYS_getppid };
	int64_t result;
	return call_at(&none, t, &call, at, &result) == 0 && result >= 0;
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

/* Where it is, and what the program is. */
static uint64_t vdso_of(struct vin_thread *t, bool *ret_narrow)
{
	char path[40];
	scoped_free char *auxv = NULL;
	size_t len;
	uint64_t pair[2];
	*ret_narrow = false;
	snprintf(path, sizeof(path), "/proc/%d/auxv", t->tid);
	if (fvm_read_file(AT_FDCWD, path, PAGE, &auxv, &len) < 0)
		return 0;
	*ret_narrow = vin_arch_is_narrow(auxv, len);
	const size_t half = *ret_narrow ? sizeof(uint32_t) : sizeof(uint64_t);
	for (size_t at = 0; at + 2 * half <= len; at += 2 * half) {
		memset(pair, 0, sizeof(pair));
		memcpy(&pair[0], auxv + at, half);
		memcpy(&pair[1], auxv + at + half, half);
		if (pair[0] == AT_SYSINFO_EHDR)
			return pair[1];
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
		.handler =
			post->place.code + vin_arch_rescue_at(post->frame.keep != 0, post->narrow),
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
	if (post->frame.keep) {
		post->place.action = post->frame.keep + offsetof(struct vin_keep, own);
		post->place.home = post->frame.home;
		post->place.keep = post->frame.keep;
		post->place.frame = post->frame.at[post->slot];
	}
	post->place.stack = at += PAGE + STACK_SIZE;
	post->table = at;
	post->data = at + TABLE_SIZE;
}

/* A tracer writes where nobody else may, word by word. */
static int poke_code(const struct vin_post *post, const struct vin_thread *t)
{
	size_t len;
	const char *code = vin_arch_code(&len);
	for (size_t at = 0; at < len; at += sizeof(long)) {
		long word = 0;
		memcpy(&word, code + at, len - at < sizeof(word) ? len - at : sizeof(word));
		if (ptrace(PTRACE_POKEDATA, t->tid, post->place.code + at, word) < 0)
			return -errno;
	}
	return 0;
}

/* What was written to may not be run by all (PR_SET_MDWE): they have code in a new page. */
static int make_runnable(const struct vin_post *post, struct vin_thread *t, struct fvm_error *err)
{
	struct vin_call protect = { SYS_mprotect, { post->base, PAGE, PROT_READ | PROT_EXEC } };
	struct vin_call map = { SYS_mmap,
				{ post->base, PAGE, PROT_READ | PROT_EXEC,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, ~0ULL, 0 } };
	struct fvm_error first = { 0 };
	int r = bare(post, t, "mprotect", &protect, &first);
	if (r == 0)
		return 0;
	if (r != -EACCES) {
		if (err)
			*err = first;
		return r;
	}
	r = bare(post, t, "mmap", &map, err);
	if (r < 0)
		return r;
	r = poke_code(post, t);
	return r < 0 ? fvm_error_set(err, -r, "write to the memory of process %d", t->pid) : 0;
}

int vin_post_keep_action(struct vin_post *post, const struct vin_sigaction *a)
{
	const struct vin_sigaction_32 narrow = vin_arch_action_32(a);
	post->action = *a;
	return post->narrow ? vin_mem_write(post->pid, post->place.action, &narrow, sizeof(narrow))
			    : vin_mem_write(post->pid, post->place.action, a, sizeof(*a));
}

/* Told as it is in 64 bits, as any other, and kept as it is given back. */
static int keep_narrow(struct vin_post *post, struct vin_thread *t, struct fvm_error *err)
{
	const uint64_t at = post->data + sizeof(struct vin_sigaction);
	struct vin_call ask = { SYS_rt_sigaction, { SIGTRAP, 0, at, 8 } };
	struct vin_sigaction own;
	int r = bare(post, t, "rt_sigaction", &ask, err);
	if (r < 0)
		return r;
	r = vin_mem_read(post->pid, at, &own, sizeof(own));
	if (r == 0)
		r = vin_post_keep_action(post, &own);
	return r < 0 ? fvm_error_set(err, -r, "reach the memory of process %d", t->pid) : 0;
}

/* The handler is put there by the trampoline itself: with the next instruction it is in force, and
 * that is the breakpoint. */
static int set_handler(struct vin_post *post, struct vin_thread *t, struct fvm_error *err)
{
	struct vin_call action = {
		SYS_rt_sigaction, { SIGTRAP, post->data, post->narrow ? 0 : post->place.action, 8 }
	};
	int r = post->narrow ? keep_narrow(post, t, err) : 0;
	if (r < 0)
		return r;
	r = mask_calls(t, MASK_IN_CALLS);
	if (r < 0)
		return fvm_error_set(err, -r, "block the signals of thread %d", t->tid);
	r = vin_call(post, t, "rt_sigaction", &action, NULL, err);
	if (r < 0)
		return r;
	post->ready = true;
	t->calls = true;
	if (!post->narrow)
		r = vin_mem_read(post->pid, post->place.action, &post->action,
				 sizeof(post->action));
	return r < 0 ? fvm_error_set(err, -r, "read the memory of process %d", t->pid) : 0;
}

static int furnish(struct vin_post *post, struct vin_thread *t, struct fvm_error *err)
{
	const uint64_t where = post->base, low = post->narrow ? MAP_32BIT : 0,
		       fixed = where ? MAP_FIXED_NOREPLACE : low;
	struct vin_call map = { SYS_mmap,
				{ where, post->size, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | fixed, ~0ULL, 0 } };
	int64_t base = 0;
	post->base = 0;
	int r = call_at(post, t, &map, post->frame.keep ? post->frame.map : post->bare, &base);
	r = failed(t, "mmap", r, base, err);
	if (r < 0)
		return r;
	post->base = (uint64_t)base;
	lay_out(post);
	/* who dies before has it written by the stub */
	if (post->frame.keep)
		r = vin_frame_keep(&post->frame, t, offsetof(struct vin_keep, base), post->base);
	if (r == 0)
		r = write_code(post, t);
	if (r < 0)
		return fvm_error_set(err, -r, "write to the memory of process %d", t->pid);
	r = make_runnable(post, t, err);
	return r < 0 ? r : set_handler(post, t, err);
}

/* A call of the stub's own, from one of its stops to the next. */
static int home_call(struct vin_thread *t, const char *name, bool matters, struct fvm_error *err)
{
	int64_t result = 0;
	int r = to_call_end(t, &result);
	return failed(t, name, r, matters ? result : 0, err);
}

/* The thread cleans up as it would without us, so that it is done once whoever dies meanwhile. */
static int clean_up(struct vin_post *post, struct vin_thread *t, struct fvm_error *err)
{
	int r = stand_at_home(post, t, post->slot);
	if (r < 0)
		return fvm_error_set(err, -r, "move thread %d", t->tid);
	r = home_call(t, "rt_sigaction", true, err);
	return r < 0 ? r : home_call(t, "munmap", post->base != 0, err);
}

static int unmap(struct vin_post *post, struct vin_thread *t, struct fvm_error *err)
{
	struct vin_call action = { post->narrow ? VIN_32_SIGACTION : SYS_rt_sigaction,
				   { SIGTRAP, post->place.action, 0, 8 } };
	struct vin_call munmap = { SYS_munmap, { post->base, post->size } };
	int r = 0;
	if (post->frame.keep)
		return clean_up(post, t, err);
	if (post->ready)
		r = bare(post, t, "rt_sigaction", &action, err);
	if (r == 0 && post->base)
		r = bare(post, t, "munmap", &munmap, err);
	return r;
}

/* The frames are of no more use. */
static int park_from(struct vin_post *post, struct vin_thread *t, struct fvm_error *err)
{
	int r = vin_thread_park(t, err);
	if (r == 0)
		vin_frame_clear(&post->frame, t);
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
			  : bare(post, t, "rt_sigqueueinfo", &call, err);
		if (r == 0)
			t->trap_owed[shared] = false;
	}
	return r;
}

int vin_post_leave(struct vin_post *post, struct vin_thread *t, struct fvm_error *err)
{
	int r = give_traps_back(post, t, err);
	if (post->frame.keep && post->owner == t) {
		int home = stand_at_home(post, t, post->slot);
		return r < 0 || home == 0 ? r : fvm_error_set(err, -home, "move thread %d", t->tid);
	}
	if (post->blank && r == 0) {
		r = vin_thread_leave(t);
		return r < 0 ? fvm_error_set(err, -r, "move thread %d", t->tid) : 0;
	}
	int parked = vin_thread_park(t, r < 0 ? NULL : err);
	return r < 0 ? r : parked;
}

int vin_post_open(struct vin_post *ret, struct vin_thread *t, struct fvm_error *err)
{
	return vin_post_open_at(ret, t, 0, 2 * PAGE + STACK_SIZE + TABLE_SIZE + VIN_DATA_SIZE, err);
}

/* It works when SIGTRAP's action could be asked for, which then is known to who cleans up. */
static void find_frame(struct vin_post *post, struct vin_thread *t)
{
	struct vin_post try = *post;
	if (vin_frame_find(t, post->narrow, &try.frame) < 0)
		return;
	const uint64_t own = try.frame.keep + offsetof(struct vin_keep, own);
	const struct vin_call ask = { SYS_rt_sigaction, { SIGTRAP, 0, own, 8 } };
	try.bare = try.frame.call;
	try.place.action = own;
	if (bare(&try, t, "rt_sigaction", &ask, NULL) == 0 &&
	    vin_mem_read(post->pid, own, &try.action, sizeof(try.action)) == 0 &&
	    vin_post_keep_action(&try, &try.action) == 0 &&
	    vin_frame_keep(&try.frame, t, offsetof(struct vin_keep, action), own) == 0 &&
	    vin_frame_keep(&try.frame, t, offsetof(struct vin_keep, size), post->size) == 0) {
		*post = try;
		post->owner = t;
	} else if (vin_thread_park(t, NULL) == 0) {
		vin_frame_clear(&try.frame, t);
	}
}

int vin_post_open_at(struct vin_post *ret, struct vin_thread *t, uint64_t base, size_t size,
		     struct fvm_error *err)
{
	struct vin_post post = { .pid = t->tid, .base = base, .size = size, .blank = base != 0 };
	const uint64_t vdso = vdso_of(t, &post.narrow);
	find_traps(t);
	/* a blank has nothing to lose, and others' memory where its stack was */
	if (!post.blank)
		find_frame(&post, t);
	if (!post.bare && vdso)
		post.bare = find_in(t, vdso, PAGE);
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
		(void)park_from(&post, t, NULL);
		return r;
	}
	t->calls = true;
	*ret = post;
	return 0;
}

/* Who is on the way to be parked, by the frame that is not the owner's. */
static int await_last(struct vin_post *post, struct fvm_error *err)
{
	struct vin_thread *last = post->last;
	post->last = NULL;
	return last ? vin_thread_park(last, err) : 0;
}

int vin_post_close(struct vin_post *post, struct vin_thread *t, struct fvm_error *err)
{
	if (post->owner)
		t = post->owner;
	int last = await_last(post, err);
	int given = post->ready ? give_traps_back(post, t, last < 0 ? NULL : err) : 0;
	if (last < 0)
		given = last;
	int r = unmap(post, t, given < 0 ? NULL : err);
	int parked = park_from(post, t, r < 0 || given < 0 ? NULL : err);
	return given < 0 ? given : r < 0 ? r : parked;
}

int vin_post_inherit(struct vin_post *ret, const struct vin_post *parent, struct vin_thread *t,
		     struct fvm_error *err)
{
	*ret = *parent;
	ret->pid = t->tid;
	return vin_post_move(ret, t, err);
}

static int move_plainly(const struct vin_post *post, struct vin_thread *t)
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
	return r < 0 ? r : mask_calls(t, MASK_IN_CALLS);
}

/* The last owner goes when there is another one, who does not wait for that. */
static int own(struct vin_post *post, struct vin_thread *t)
{
	const unsigned int slot = 1 - post->slot;
	int r = await_last(post, NULL);
	if (r == 0)
		r = vin_frame_write(&post->frame, slot, t);
	if (r == 0)
		r = stand_at_home(post, t, slot);
	if (r == 0)
		r = vin_frame_keep(&post->frame, t, offsetof(struct vin_keep, owner),
				   vin_arch_owner(post->frame.at[slot]));
	if (r < 0)
		return r;
	post->last = post->owner;
	post->slot = slot;
	post->owner = t;
	post->place.frame = post->frame.at[slot];
	return vin_thread_leave(post->last);
}

/* On the trampoline the breakpoint's signal must not be blocked, so from the stub, which can do
 * with any mask. */
static int move_home(struct vin_post *post, struct vin_thread *t)
{
	struct vin_regs regs = t->regs;
	const struct vin_call nothing = { .nr = SYS_getppid };
	int r = t == post->owner ? stand_at_home(post, t, post->slot) : own(post, t);
	if (r == 0)
		r = mask_calls(t, MASK_IN_CALLS);
	vin_arch_single(&regs, &nothing, &post->place);
	return r < 0 ? r : vin_arch_set(t->tid, &regs);
}

int vin_post_move(struct vin_post *post, struct vin_thread *t, struct fvm_error *err)
{
	if (t->calls)
		return 0;
	int r = post->frame.keep ? move_home(post, t) : move_plainly(post, t);
	t->calls = r == 0;
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
	const uint64_t from = *vin_arch_ip(regs);
	int r = vin_arch_set(t->tid, regs);
	/* one that waited from a former controller's breakpoint comes before anything has run */
	while (r == 0 && *vin_arch_ip(regs) == from) {
		r = to_breakpoint(t);
		if (r == 0)
			r = vin_arch_get(t->tid, regs);
	}
	return r;
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

/* ---- descriptors ---- */

/* The number that the next descriptor gets: /proc has them in order. */
static int lowest_free(pid_t pid)
{
	char path[40];
	int number = 0;
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	scoped_dir d = opendir(path);
	if (!d)
		return -errno;
	for (struct dirent *e; (e = fvm_dir_next(d)) && strtol(e->d_name, NULL, 10) == number;)
		number++;
	return number;
}

/* At the end of the table's first call, which the program has not heard of yet. */
static int stop_behind_first(const struct vin_post *post, struct vin_thread *t, size_t count,
			     int64_t *ret_result)
{
	struct vin_regs regs = t->regs;
	vin_arch_batch(&regs, post->table, count, true, &post->place);
	int r = vin_arch_set(t->tid, &regs);
	return r < 0 ? r : to_call_end(t, ret_result);
}

int vin_pull(const struct vin_post *post, struct vin_thread *t, const char *name,
	     const struct vin_call *call, int *ret_fd, struct fvm_error *err)
{
	const int number = lowest_free(t->pid);
	const struct vin_call calls[] = { *call, { SYS_close, { (uint64_t)number } } };
	int64_t result = 0;
	scoped_fd pidfd = pidfd_open(t->pid, 0), fd = -1;
	if (number < 0 || pidfd < 0)
		return fvm_error_set(err, number < 0 ? -number : errno,
				     "look at the descriptors of process %d", t->pid);
	int r = vin_mem_write(post->pid, post->table, calls, sizeof(calls));
	if (r == 0)
		r = stop_behind_first(post, t, 2, &result);
	if (r == 0 && result >= 0) {
		fd = fvm_nerr(pidfd_getfd(pidfd, (int)result, 0));
		r = fd < 0 ? fd : 0;
	}
	/* the close that follows is of the number that was foreseen, or of none */
	int ended = to_breakpoint(t);
	r = failed(t, name, r < 0 ? r : ended, result, err);
	if (r == 0 && result != number)
		r = fvm_error_set(err, EBADF, "take a descriptor of process %d", t->pid);
	if (r == 0)
		*ret_fd = fvm_fd_take(&fd);
	return r;
}
