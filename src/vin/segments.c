/*
 * Segments of the processor, which 32-bit code finds its variables by: a thread's own three
 * (set_thread_area(2)), which are read and written by ptrace(2), and the process's table
 * (modify_ldt(2)), which it is asked for. Selectors in registers need them. A thread that may use
 * ports of the machine (ioperm(2)) is refused; iopl(2) is shown to nobody.
 */
#include <asm/ldt.h>
#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "vin/traits.h"

#define OWN_FIRST	12 /* of the kernel's table */
#define OWN_COUNT	3
#define GET_THREAD_AREA 25
#define SET_THREAD_AREA 26
#define LDT_READ	0
#define LDT_WRITE	0x11
#define LDT_SIZE	((size_t)LDT_ENTRIES * LDT_ENTRY_SIZE)

/* ---- of a thread ---- */

/* What is not set is told like this. */
static struct user_desc nothing(unsigned int number)
{
	return (struct user_desc){ .entry_number = number,
				   .read_exec_only = 1,
				   .seg_not_present = 1 };
}

/* As one call tells it, another one takes it. */
static bool same(const struct user_desc *a, const struct user_desc *b)
{
	uint32_t x[sizeof(*a) / 4], y[sizeof(*b) / 4];
	memcpy(x, a, sizeof(x));
	memcpy(y, b, sizeof(y));
	return memcmp(x, y, sizeof(x)) == 0;
}

static void read_own(pid_t tid, unsigned int i, struct user_desc *ret)
{
	if (ptrace(GET_THREAD_AREA, tid, OWN_FIRST + i, ret) < 0)
		*ret = nothing(OWN_FIRST + i);
}

static bool has_ports(pid_t tid)
{
	unsigned long bits[1024];
	struct iovec iov = { bits, sizeof(bits) };
	return ptrace(PTRACE_GETREGSET, tid, NT_386_IOPERM, &iov) == 0 && iov.iov_len > 0;
}

static int put_own(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
		   struct fvm_error *err)
{
	(void)told;
	if (has_ports(s->t->tid))
		return fvm_error_say(
			err, ENOTSUP,
			"thread %d of process %d may use ports of the machine (ioperm)", s->t->tid,
			s->t->pid);
	for (unsigned int i = 0; i < OWN_COUNT; i++) {
		struct user_desc d;
		read_own(s->t->tid, i, &d);
		vin_put_blob(to, &d, sizeof(d));
	}
	return 0;
}

static int replay_own(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from,
		      struct fvm_error *err)
{
	(void)told;
	for (unsigned int i = 0; i < OWN_COUNT; i++) {
		struct user_desc want, now;
		size_t len;
		const void *blob = vin_get_blob(from, &len);
		if (!blob || len != sizeof(want))
			return -EBADMSG;
		memcpy(&want, blob, sizeof(want));
		if (want.entry_number != OWN_FIRST + i)
			return -EBADMSG;
		if (!s->post)
			continue;
		read_own(s->t->tid, i, &now);
		if (!same(&now, &want) &&
		    ptrace(SET_THREAD_AREA, s->t->tid, OWN_FIRST + i, &want) < 0)
			return fvm_error_set(err, errno, "give thread %d a segment", s->t->tid);
	}
	return 0;
}

const struct vin_trait vin_segments = { .name = "segments", .put = put_own, .replay = replay_own };

/* ---- of the process ---- */

/* Told with as many bytes as are asked for, if there is a table. */
static int ask(struct vin_steps *s, struct fvm_error *err)
{
	(void)err;
	uint64_t at = vin_steps_data(s, NULL, LDT_ENTRY_SIZE);
	VIN_STEP(s, NULL, SYS_modify_ldt, LDT_READ, at, LDT_ENTRY_SIZE);
	return 0;
}

static int one_call(struct vin_steps *s, const char *name, struct vin_call call, int64_t *ret,
		    struct fvm_error *err)
{
	vin_steps_rewind(s);
	vin_steps_add(s, name, &call);
	int r = vin_steps_run(s, err);
	if (r == 0)
		*ret = s->ran ? s->calls[s->ran - 1].result : 0;
	vin_steps_rewind(s);
	return r;
}

/* All of it, which is as much as our room: into pages of its own. */
static int read_table(struct vin_steps *s, uint64_t *table, struct fvm_error *err)
{
	int64_t at = 0, told;
	int r = one_call(s, "mmap",
			 (struct vin_call){ SYS_mmap,
					    { 0, LDT_SIZE, PROT_READ | PROT_WRITE,
					      MAP_PRIVATE | MAP_ANONYMOUS, UINT64_MAX, 0 } },
			 &at, err);
	if (r < 0)
		return r;
	r = one_call(s, "modify_ldt",
		     (struct vin_call){ SYS_modify_ldt, { LDT_READ, (uint64_t)at, LDT_SIZE } },
		     &told, err);
	if (r == 0 && vin_mem_read(s->post->pid, (uint64_t)at, table, LDT_SIZE) < 0)
		r = fvm_error_set(err, EIO, "read the segments of process %d", s->t->pid);
	int gone =
		one_call(s, "munmap", (struct vin_call){ SYS_munmap, { (uint64_t)at, LDT_SIZE } },
			 &told, r < 0 ? NULL : err);
	return r < 0 ? r : gone;
}

static int put_table(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
		     struct fvm_error *err)
{
	uint64_t count = 0;
	scoped_free uint64_t *table = told->result > 0 ? calloc(1, LDT_SIZE) : NULL;
	if (told->result <= 0) {
		vin_put_u64(to, 0);
		return 0;
	}
	if (!table)
		return fvm_error_set(err, ENOMEM, "read the segments of process %d", s->t->pid);
	int r = read_table(s, table, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < LDT_ENTRIES; i++)
		count += table[i] != 0;
	vin_put_u64(to, count);
	for (uint64_t i = 0; i < LDT_ENTRIES; i++) {
		if (table[i]) {
			vin_put_u64(to, i);
			vin_put_u64(to, table[i]);
		}
	}
	return 0;
}

/* A descriptor as the processor has it, and as the call wants it. */
static struct user_desc describe(uint64_t number, uint64_t d)
{
	return (struct user_desc){
		.entry_number = (unsigned int)number,
		.base_addr = (unsigned int)((d >> 16 & 0xffffff) | (d >> 56 & 0xff) << 24),
		.limit = (unsigned int)((d & 0xffff) | (d >> 48 & 0xf) << 16),
		.seg_32bit = d >> 54 & 1,
		.contents = d >> 42 & 3,
		.read_exec_only = !(d >> 41 & 1),
		.limit_in_pages = d >> 55 & 1,
		.seg_not_present = !(d >> 47 & 1),
		.useable = d >> 52 & 1,
	};
}

static int replay_table(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from,
			struct fvm_error *err)
{
	(void)told;
	(void)err;
	const uint64_t count = vin_get_u64(from);
	if (from->failed || count > LDT_ENTRIES)
		return -EBADMSG;
	for (uint64_t i = 0; i < count; i++) {
		const uint64_t number = vin_get_u64(from), d = vin_get_u64(from);
		if (from->failed || number >= LDT_ENTRIES)
			return -EBADMSG;
		const struct user_desc want = describe(number, d);
		uint64_t at = vin_steps_data(s, &want, sizeof(want));
		VIN_STEP(s, "modify_ldt", SYS_modify_ldt, LDT_WRITE, at, sizeof(want));
	}
	return 0;
}

const struct vin_trait vin_ldt = {
	.name = "table of segments", .ask = ask, .put = put_table, .replay = replay_table
};
