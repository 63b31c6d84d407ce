#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <unistd.h>

#include "vin/frame.h"

#define PLACES 8
#define PLACE  (2 * VIN_FRAME_SIZE) /* two frames, struct vin_keep at the end of the first */
#define PAGE   4096ULL
#define KEEP   (VIN_FRAME_SIZE - sizeof(struct vin_keep))

struct ends {
	uint64_t vdso; /* where it ends */
	uint64_t stack, stack_end;
};

static int find_ends(pid_t tid, struct ends *ret)
{
	char path[40], line[4400];
	snprintf(path, sizeof(path), "/proc/%d/maps", tid);
	FILE *maps = fopen(path, "re");
	if (!maps)
		return -errno;
	*ret = (struct ends){ 0 };
	while (fgets(line, sizeof(line), maps)) {
		unsigned long long from, to;
		char flags[5];
		int name = 0;
		if (sscanf(line, "%llx-%llx %4s %*s %*s %*s %n", &from, &to, flags, &name) < 3)
			continue;
		if (strcmp(line + name, "[vdso]\n") == 0 && strcmp(flags, "r-xp") == 0) {
			ret->vdso = to;
		} else if (strcmp(line + name, "[stack]\n") == 0 && flags[1] == 'w') {
			ret->stack = from;
			ret->stack_end = to;
		}
	}
	(void)fclose(maps);
	return ret->vdso && ret->stack ? 0 : -ENOENT;
}

/* Not writable for the program: as a debugger writes its breakpoints. */
static int write_stub(pid_t tid, bool narrow, uint64_t at)
{
	static const unsigned char zero[VIN_STUB_SIZE];
	unsigned char now[VIN_STUB_SIZE];
	size_t call, home;
	long words[VIN_STUB_SIZE / sizeof(long)];
	int r = vin_mem_read(tid, at, now, sizeof(now));
	const void *stub = vin_arch_stub(narrow, &call, &home);
	if (r < 0 || memcmp(now, stub, sizeof(now)) == 0)
		return r;
	if (memcmp(now, zero, sizeof(now)) != 0)
		return -EEXIST;
	memcpy(words, stub, sizeof(words));
	for (size_t i = 0; i < VIN_STUB_SIZE / sizeof(long); i++) {
		if (ptrace(PTRACE_POKETEXT, tid, at + i * sizeof(long), words[i]) < 0)
			return -errno;
	}
	return 0;
}

static bool all_zero(const unsigned char *bytes, size_t len)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, len - 1) == 0;
}

/* Whose stack it is may have anything above its pointer, zeros too. */
static bool in_use(const struct vin_thread *t, const struct ends *ends, uint64_t at)
{
	const uint64_t sp = vin_arch_sp(&t->regs);
	return sp >= ends->stack && sp < ends->stack_end && sp < at + PLACE + VIN_FRAME_SIZE;
}

/* Zeros first; else what one who died has made, the oldest. @ret_turn: the last turn until now. */
static uint64_t find_room(const struct vin_thread *t, const struct ends *ends, uint64_t stub,
			  uint64_t *ret_turn)
{
	unsigned char bytes[PLACE];
	uint64_t old = 0, old_turn = UINT64_MAX, free = 0;
	*ret_turn = 0;
	for (uint64_t i = 0; i < PLACES; i++) {
		const uint64_t at = ends->stack + i * PLACE;
		struct vin_keep keep;
		uint64_t first;
		if (at + 2ULL * PLACE > ends->stack_end || in_use(t, ends, at) ||
		    vin_mem_read(t->tid, at, bytes, sizeof(bytes)) < 0)
			break;
		if (!free && all_zero(bytes, sizeof(bytes)))
			free = at;
		memcpy(&first, bytes, sizeof(first));
		memcpy(&keep, bytes + KEEP, sizeof(keep));
		if (first != stub || !keep.turn)
			continue;
		if (keep.turn > *ret_turn)
			*ret_turn = keep.turn;
		if (keep.turn < old_turn) {
			old = at;
			old_turn = keep.turn;
		}
	}
	return free ? free : old;
}

/* The frame would lack the mark that the processor wants to see on the other stack. */
static bool has_shadow_stack(pid_t tid)
{
	uint64_t pointer;
	struct iovec iov = { &pointer, sizeof(pointer) };
	return ptrace(PTRACE_GETREGSET, tid, VIN_ARCH_SHADOW, &iov) == 0;
}

static int furnish(struct vin_frame *frame, uint64_t at, uint64_t turn, const struct vin_thread *t)
{
	const struct vin_keep keep = {
		.owner = vin_arch_owner(at), .base = 1, .turn = turn, .home = frame->home
	};
	frame->at[0] = at;
	frame->at[1] = at + VIN_FRAME_SIZE;
	frame->keep = at + KEEP;
	int r = vin_frame_write(frame, 0, t);
	return r < 0 ? r : vin_mem_write(t->tid, frame->keep, &keep, sizeof(keep));
}

int vin_frame_find(struct vin_thread *t, bool narrow, struct vin_frame *ret)
{
	struct ends ends;
	size_t call, home;
	uint64_t turn;
	if (has_shadow_stack(t->tid))
		return -EOPNOTSUPP;
	int r = find_ends(t->tid, &ends);
	if (r < 0)
		return r;
	const uint64_t stub = ends.vdso - VIN_STUB_SIZE;
	r = write_stub(t->tid, narrow, stub);
	if (r < 0)
		return r;
	(void)vin_arch_stub(narrow, &call, &home);
	struct vin_frame frame = { .map = stub, .call = stub + call, .home = stub + home };
	const uint64_t at = find_room(t, &ends, stub, &turn);
	r = at ? furnish(&frame, at, turn + 1, t) : -ENOMEM;
	if (r == 0)
		*ret = frame;
	return r;
}

int vin_frame_write(const struct vin_frame *frame, unsigned int slot, const struct vin_thread *t)
{
	_Alignas(64) unsigned char bytes[VIN_FRAME_SIZE];
	const uint64_t at = frame->at[slot];
	size_t len;
	int r = vin_arch_frame(t->tid, &t->regs, t->mask, at, frame->map, bytes, &len);
	return r < 0 ? r : vin_mem_write(t->tid, at, bytes, len);
}

int vin_frame_keep(const struct vin_frame *frame, const struct vin_thread *t, size_t field,
		   uint64_t value)
{
	return vin_mem_write(t->tid, frame->keep + field, &value, sizeof(value));
}

void vin_frame_clear(const struct vin_frame *frame, const struct vin_thread *t)
{
	static const unsigned char zero[PLACE];
	if (frame->keep)
		(void)vin_mem_write(t->tid, frame->at[0], zero, sizeof(zero));
}

/* By where it is in a page, and what else is there. */
static bool is_on_its_way(struct vin_thread *t)
{
	const uint64_t ip = *vin_arch_ip(&t->regs), page = ip & ~(PAGE - 1);
	unsigned char there[PAGE];
	size_t call, home, len;
	const void *code = vin_arch_code(&len);
	bool is = false;
	if (ip - page <= len)
		return vin_mem_read(t->tid, page, there, len) == 0 && memcmp(there, code, len) == 0;
	if (ip - page < PAGE - VIN_STUB_SIZE)
		return false;
	if (vin_mem_read(t->tid, page + PAGE - VIN_STUB_SIZE, there, VIN_STUB_SIZE) < 0)
		return false;
	for (int narrow = 0; narrow < 2; narrow++)
		is |= memcmp(there, vin_arch_stub(narrow, &call, &home), VIN_STUB_SIZE) == 0;
	return is;
}

int vin_frame_go_home(struct vin_thread *t, struct fvm_error *err)
{
	for (int tries = 0; tries < 1000 && is_on_its_way(t); tries++) {
		if (ptrace(PTRACE_CONT, t->tid, 0, 0) < 0)
			return fvm_error_set(err, errno, "continue thread %d", t->tid);
		usleep(50);
		if (ptrace(PTRACE_INTERRUPT, t->tid, 0, 0) < 0)
			return fvm_error_set(err, errno, "interrupt thread %d", t->tid);
		int r = vin_thread_settle(t->pid, t->tid, 1000, t, err);
		if (r < 0)
			return r;
	}
	return 0;
}
