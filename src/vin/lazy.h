/*
 * vin/lazy - programs that go on before their memory has come
 *
 * Theory of operation
 *   Memory that may be late is mapped, left empty and registered with a userfaultfd of the process
 *   it is of. Who touches a page of it waits, whether program or kernel, until a helper has put the
 *   page there: at once for who waits, and all others one after the other meanwhile.
 *
 *     PAGES record -> vin_lazy_take()   where its bytes are in the file; none is read
 *     KEPT         -> vin_lazy_keep()   the same of what came early (vin/early)
 *     END          -> vin_lazy_begin()  what may not be late is read, the rest registered, and the
 *                                       helper begins: from here on, the kernel may touch what it
 *                                       wants (rseq, robust lists), and so may we
 *
 *   From one process into another (vin_capture_options.late) large areas are not in the image at all:
 *
 *     LATE record  -> vin_lazy_expect() the areas; their pages are those of the old process, which
 *                                       stands still until all has come
 *
 *   Which of them there are at all nobody has asked before: the helper does, a part at a time.
 *
 *   Late may be private memory without a file, if it is a lot (LEAST). Not: shared memory, what is
 *   locked, wiped in a child or droppable, stacks that grow, huge pages, own pages of mapped files.
 *
 *   What a program does to such memory meanwhile is told to the helper, while it waits for it: a
 *   child (which gets a userfaultfd of its own), mremap(2), madvise(2) that drops, munmap(2). The
 *   kernel refuses to fill in until that was read (EAGAIN), so nothing comes to the wrong place. It
 *   tells of children only to who has CAP_SYS_PTRACE in the first user namespace.
 *
 *   If a userfaultfd is closed, what has not come is zeros for ever. So the helper is never alone:
 *   a second process has the same table of descriptors (CLONE_FILES), in which those of children
 *   are, too. When the helper dies, who waits goes on waiting, and the second ends PID 1 of the
 *   programs, and itself when nobody of them is left. When the second dies, the helper makes
 *   another one. Both are outside of the programs' namespaces, and give all capabilities away but
 *   CAP_KILL.
 *
 *   The memory counts for the programs' cgroup. When all has come the userfaultfds are closed, and
 *   nothing is left of it. Until then nobody can capture the programs (vin/mem refuses): who wants
 *   to waits for the end of vin_lazy_options.held.
 *
 *   Bytes of the file are given to nobody unless the sum of their block is right (vin/blocks). If it
 *   is not, or they can't be read, the helper ends, and PID 1 of the programs with it.
 * Limits: blocks of formats 1 and 2 have no sums: who asks for it has looked at the whole file.
 * Unseen by the kernel's events, for as long as pages are late: MADV_WIPEONFORK,
 * and MADV_GUARD_INSTALL with the guard taken away again; both are of pages that were never touched
 * since. Who ends helper and second at the same instant makes zeros. userfaultfd of a program's own
 * on such an area fails with EBUSY until its pages are there.
 * Sources: userfaultfd(2), ioctl_userfaultfd(2), Linux's admin-guide/mm/userfaultfd.
 */
#ifndef VIN_LAZY_H
#define VIN_LAZY_H

#include "vin/blank.h"
#include "vin/blocks.h"
#include "vin/image.h"
#include "vin/mem.h"
#include "vin/pieces.h"

struct vin_lazy_options {
	int ends; /* pidfd of PID 1 of the programs if that is not ours; or -1 */
	int held; /* a descriptor that stays open until all has come; or -1 */
	/* whose pages those areas are that the image only lists (vin_capture_options.late): a process
	 * that stands still until all has come. NULL: they can't be had */
	pid_t (*source)(void *arg, pid_t number);
	void *arg;
	int after; /* a pipe: what nobody asks for comes only after its end. For tests; else -1 */
	bool entered; /* this process is in network, IPC and UTS namespaces of the programs' */
};

/** vin_lazy_can() - whether this process can have it. Return: 0, or -EOPNOTSUPP and why */
int vin_lazy_can(struct fvm_error *err);

struct vin_lazy;

/** vin_lazy_new() - @blocks: where the bytes of PAGES records are; the caller's, for longer than this
 *  Return: or NULL */
struct vin_lazy *vin_lazy_new(struct vin_blocks *blocks);

/** vin_lazy_expect() - a LATE record of process @number, behind the number
 *  Return: 0, -EBADMSG (no such areas, or none that may be late), -EOPNOTSUPP (no source), .. */
int vin_lazy_expect(struct vin_lazy *l, pid_t number, const struct vin_mem *m,
		    const struct vin_lazy_options *options, struct vin_payload *p,
		    struct fvm_error *err);

/** vin_lazy_free() - forget what has not begun; NULL is fine */
void vin_lazy_free(struct vin_lazy *l);

/** vin_lazy_take() - the rest of the present PAGES record, behind the @number of its process
 *  What an earlier one says of the same pages is forgotten. Return: as vin_mem_read_pages() */
int vin_lazy_take(struct vin_lazy *l, pid_t number, const struct vin_mem *m, struct vin_in *in,
		  struct fvm_error *err);

/** vin_lazy_keep() - the same of pages that came early (vin/early); @pieces are of the same blocks */
int vin_lazy_keep(struct vin_lazy *l, pid_t number, const struct vin_pieces *pieces,
		  struct fvm_error *err);

/** vin_lazy_fill() - of process @number, whose memory is mapped in @b: what has to be there, is;
 *  for the rest there is a userfaultfd */
int vin_lazy_fill(struct vin_lazy *l, const struct vin_nest *nest, pid_t number,
		  struct vin_blank *b, const struct vin_mem *m, struct fvm_error *err);

/** vin_lazy_begin() - the helper is at work, if anything is left to come
 *  @init: PID 1 of the programs, if options->ends does not say. Return: 0 or negative errno */
int vin_lazy_begin(struct vin_lazy *l, pid_t init, const struct vin_lazy_options *options,
		   struct fvm_error *err);

/** vin_lazy_left() - bytes that were not there when it began */
uint64_t vin_lazy_left(const struct vin_lazy *l);

#endif
