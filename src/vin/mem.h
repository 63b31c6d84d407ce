/*
 * vin/mem - the memory of a process: written down, and made again
 *
 * Theory of operation
 *   Way of the data:
 *
 *     smaps -> vin_mem_look() -> struct vin_mem -> MAPS record -> struct vin_mem -> mmap() in a blank
 *     pages -> warm buffer    -> PAGES record                 -> warm buffer    -> /proc/PID/mem
 *
 *   struct vin_mem is what both ends know: areas, the files and objects behind them, and the
 *   numbers that the kernel keeps of a program (where its code, heap, arguments are). Every area is
 *   of one of five kinds:
 *     anon     nobody else's: heap, stack, malloc. Its own pages are all there is
 *     file     a file that has a name still. Mapped again; own pages of a private map are laid over
 *     object   shared memory: nameless, memfd, deleted files. Found by device and inode, made again
 *              once (vin/object), and mapped by all who had it
 *     kernel   vvar and vdso: moved from where the blank has them; those of a 32-bit program are
 *              mapped by arch_prctl(2) instead
 *     ring     of asynchronous I/O: made by io_setup(2), and moved (vin/aio)
 *
 *   Pages never collect anywhere: they go through one buffer that stays in the processor's cache. A
 *   PAGES record lists the runs, and their bytes follow (vin/blocks), so that nobody needs to seek.
 *   What an area had is given back in this order: mapping, pages, then what would be in the way of
 *   either: the protection, madvise(2), traps, locks.
 *
 *   What can't be captured is said by vin_mem_look(), which stops nobody, with its address and the
 *   reason. Who reads a record trusts nothing in it: addresses are those of user programs, in order,
 *   whole pages, outside of the hole; files are opened below a directory that the caller gives.
 *   A program of 32 bits is made in a blank of 64: all that is below 4 GiB stays there, as the kernel
 *   chooses addresses by how a call is made. What it would notice: a [vsyscall] in its maps, and
 *   that a core of it is written in the format of 64 bits.
 * Limits: no protection keys, userfaultfd, shadow stacks,
 * devices' memory, secret memory: refused. A file must be the same as it was (size and time).
 * Sources: proc(5), mmap(2), prctl(2) PR_SET_MM_MAP, madvise(2).
 */
#ifndef VIN_MEM_H
#define VIN_MEM_H

#include "vin/blank.h"
#include "vin/image.h"
#include "vin/maps.h"
#include "vin/object.h"
#include "vin/pages.h"
#include "vin/tree.h"

enum vin_area_kind {
	VIN_AREA_ANON,
	VIN_AREA_FILE,
	VIN_AREA_OBJECT,
	VIN_AREA_KERNEL,
	VIN_AREA_RING,
	VIN_AREA_KINDS
};

struct vin_area {
	enum vin_area_kind kind;
	uint64_t start, end, offset;
	int prot;
	bool shared;
	uint64_t flags; /* bits of enum vin_vma_flag */
	size_t source;	/* in struct vin_mem's, unless anon or a ring */
	uint64_t huge_kb; /* size of its pages, if that is no ordinary one */
	bool late; /* its pages are taken from the process itself, later; not in its record */
};

#define VIN_POLICY_WORDS 16 /* 1024 nodes */

/* Of an area, as mbind(2) has it. */
struct vin_policy {
	uint64_t start, end;
	uint32_t mode; /* with its flags */
	uint64_t nodes[VIN_POLICY_WORDS];
};

/* Of an area that is one: what was not fetched from it yet. */
struct vin_ring {
	uint64_t start;
	bool live; /* not the copy that a fork's child has, which is none for it */
	uint32_t head, count; /* of events, whose first is at head */
	struct io_event *events;
};

/* What stands behind areas. */
struct vin_source {
	char *path;	 /* file: of the program's root; kernel: name of the mapping */
	uint64_t size;	 /* file */
	uint64_t mtime;	 /* file: nanoseconds */
	uint64_t object; /* object: number of it in the image */
	bool write;	 /* somebody maps it shared and may write to it */
};

enum vin_mem_number {
	VIN_MEM_CODE_START,
	VIN_MEM_CODE_END,
	VIN_MEM_DATA_START,
	VIN_MEM_DATA_END,
	VIN_MEM_BRK_START,
	VIN_MEM_BRK,
	VIN_MEM_STACK,
	VIN_MEM_ARGS_START,
	VIN_MEM_ARGS_END,
	VIN_MEM_ENV_START,
	VIN_MEM_ENV_END,
	VIN_MEM_NUMBERS
};

struct vin_mem { /* starts as { 0 } */
	struct vin_area *areas;
	size_t area_count;
	struct vin_source *sources;
	size_t source_count;
	uint64_t numbers[VIN_MEM_NUMBERS];
	char *exe; /* of the program's root; "" when it has no name any more */
	char *auxv;
	size_t auxv_len;
	uint64_t vdso_sum;
	struct vin_runs guards;
	struct vin_policy *policies;
	size_t policy_count;
	struct vin_ring *rings;
	size_t ring_count;
};

void vin_mem_free(struct vin_mem *m);
#define scoped_mem __attribute__((cleanup(vin_mem_free))) struct vin_mem

/**
 * vin_mem_look() - what a process has mapped; it may be running
 * @root: directory that names of files begin at; < 0: ours
 * @maps: detailed
 * @objects: those that are new are added
 * Return: 0, -EOPNOTSUPP (something can't be captured; @err has process, what, and why), or another
 *         negative errno
 */
int vin_mem_look(pid_t pid, int root, const struct vin_maps *maps, struct vin_objects *objects,
		 struct vin_mem *ret, struct fvm_error *err);

/** vin_mem_ask() - the rest, of a stopped process: numbers, traps, policies, the sum of its vdso */
int vin_mem_ask(const struct vin_post *post, struct vin_thread *t, struct vin_mem *m,
		struct fvm_error *err);

/** vin_mem_is_narrow() - whether it is a program of 32 bits */
bool vin_mem_is_narrow(const struct vin_mem *m);

/** vin_mem_may_be_late() - whether pages of an area may come when the program runs; for less than
 *  VIN_LATE_LEAST bytes it is not worth a wait */
bool vin_mem_may_be_late(const struct vin_area *a);

/** vin_mem_mark_late() - those that may, and of which @maps has that much */
void vin_mem_mark_late(struct vin_mem *m, const struct vin_maps *maps);
#define VIN_LATE_LEAST (256ULL * 1024)

/** vin_mem_find() - append the runs of one sort in the areas that are wanted. Return: 0 or -errno */
typedef bool vin_wanted_fn(const struct vin_area *a);
int vin_mem_find(int pagemap, const struct vin_mem *m, vin_wanted_fn *wanted, enum vin_pages what,
		 struct vin_runs *ret);

/** vin_mem_put() - the MAPS record's part of a payload; vin_mem_get() takes it apart
 *  Return of the latter: 0, -EBADMSG (@hole, or anything else, does not fit), -ENOMEM */
void vin_mem_put(struct fvm_buf *to, const struct vin_mem *m);
int vin_mem_get(struct vin_payload *p, uint64_t hole, struct vin_mem *ret);

/** vin_mem_write_pages() - the PAGES record of process @number, a stopped one; and one of those areas
 *  that are late, if there are any */
int vin_mem_write_pages(pid_t pid, pid_t number, const struct vin_mem *m, struct vin_out *out,
			struct fvm_error *err);

/** vin_mem_write_runs() - the same of these pages only */
int vin_mem_write_runs(pid_t pid, pid_t number, const struct vin_runs *runs, struct vin_out *out,
		       struct fvm_error *err);

/** vin_mem_write_late() - the LATE record of areas that are, if there are any */
int vin_mem_write_late(pid_t number, const struct vin_mem *m, struct vin_out *out,
		       struct fvm_error *err);

/** vin_mem_has_own() - whether an area may hold pages of the process's own */
bool vin_mem_has_own(const struct vin_area *a);

/**
 * vin_mem_map() - make a blank's memory: all but its hole is gone, areas are there, without pages
 * @root: directory that paths are of
 * Return: 0, -ESTALE (a file is not what it was), or another negative errno
 */
int vin_mem_map(const struct vin_nest *nest, struct vin_blank *b, const struct vin_mem *m,
		const struct vin_objects *objects, int root, struct fvm_error *err);

/** vin_mem_read_pages() - the rest of the present PAGES record, behind the number */
int vin_mem_read_pages(pid_t pid, const struct vin_mem *m, struct vin_in *in,
		       struct fvm_error *err);

/** vin_mem_leave_pages() - the runs of the present PAGES record, behind the number; their bytes stay
 *  in the file, and are those of @blocks from @ret_at on. Return: also as vin_blocks_take() */
struct vin_blocks;
int vin_mem_leave_pages(const struct vin_mem *m, struct vin_in *in, struct vin_blocks *blocks,
			struct vin_runs *ret, uint64_t *ret_at, struct fvm_error *err);

/** vin_mem_get_kept() - what a KEPT record's payload, behind the number, names. Return: 0, -EBADMSG or
 *  -ENOMEM */
int vin_mem_get_kept(struct vin_payload *p, const struct vin_mem *m, struct vin_runs *ret);

/** vin_mem_fetch_pages() - pages that came early: @pieces of @from (vin/pieces) */
struct vin_pieces;
int vin_mem_fetch_pages(pid_t pid, const struct vin_mem *m, const struct vin_runs *runs,
			struct vin_blocks *from, const struct vin_pieces *pieces,
			struct fvm_error *err);

/** vin_mem_finish() - protections, advice, traps, locks, seals: when the pages are there */
int vin_mem_finish(struct vin_blank *b, const struct vin_mem *m, struct fvm_error *err);

/** vin_mem_name() - heap, stack, arguments and program file as /proc shows them */
int vin_mem_name(const struct vin_nest *nest, struct vin_blank *b, const struct vin_mem *m,
		 int root, struct fvm_error *err);

/* Memory policies of areas (policy.c): asked for, into a record and out of it, and set */
int vin_policies_ask(const struct vin_post *post, struct vin_thread *t, struct vin_mem *m,
		     struct fvm_error *err);
void vin_policies_put(struct fvm_buf *to, const struct vin_mem *m);
int vin_policies_get(struct vin_payload *from, struct vin_mem *m);
int vin_policies_set(struct vin_blank *b, const struct vin_mem *m, struct fvm_error *err);

/** vin_ring_why_not() - why what is named as a ring can't be captured, or NULL */
const char *vin_ring_why_not(pid_t pid, const struct vin_vma *v);

/** vin_rings_settle() - wait until no request is in flight in a stopped process
 *  Return: 0, -EOPNOTSUPP (some do not end), or another negative errno */
int vin_rings_settle(const struct vin_mem *m, struct vin_thread *t, struct fvm_error *err);

/* As with policies; vin_rings_make() when all areas are there */
int vin_rings_ask(const struct vin_post *post, struct vin_thread *t, struct vin_mem *m,
		  struct fvm_error *err);
void vin_rings_put(struct fvm_buf *to, const struct vin_mem *m);
int vin_rings_get(struct vin_payload *from, struct vin_mem *m);
int vin_rings_make(struct vin_blank *b, const struct vin_mem *m, struct fvm_error *err);
void vin_rings_free(struct vin_mem *m);

typedef bool vin_allowed_fn(const void *arg, uint64_t start, uint64_t end);

/** vin_stream_out() - a PAGES record: @number and the runs; and their bytes in BLOCK records
 *  @pid: whose memory; 0: @fd is a file, and runs are offsets from @base. @fd: a /proc/PID/mem, or
 *  that file
 *  @gone: the program runs, and the record is an EARLY one: pages that could not be read are listed
 *  here, and zeros stand for them. NULL: it stands still */
struct vin_bytes {
	pid_t pid;
	int fd;
	uint64_t base;
	struct vin_runs *gone;
	int pidfd; /* with @gone: of @pid, which may be another's before all is read */
	/* to write to: whether zeros are there already, as nobody wrote to it; NULL: nobody knows */
	vin_allowed_fn *zeros;
	const void *zeros_arg;
};
int vin_stream_out(const struct vin_bytes *s, uint64_t number, const struct vin_runs *runs,
		   struct vin_out *out, struct fvm_error *err);

/** vin_stream_in() - the reverse, behind the number, to its end
 *  @allowed: whether a run may be written to; it is of whole pages and above the one before */
int vin_stream_in(const struct vin_bytes *s, vin_allowed_fn *allowed, const void *arg, struct vin_in *in,
		  struct fvm_error *err);

/** vin_stream_table() - only the runs, behind the number */
int vin_stream_table(struct vin_in *in, vin_allowed_fn *allowed, const void *arg,
		     struct vin_runs *ret, struct fvm_error *err);

/** vin_stream_fetch() - as vin_stream_in(), from wherever @fetch has them; it is asked in order */
typedef int vin_fetch_fn(void *arg, uint64_t at, void *to, size_t len);
int vin_stream_fetch(const struct vin_bytes *s, const struct vin_runs *runs, vin_fetch_fn *fetch,
		     void *arg, struct fvm_error *err);

#endif
