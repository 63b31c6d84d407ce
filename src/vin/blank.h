/*
 * vin/blank - empty processes with the right numbers, to be made into what an image tells
 *
 * Theory of operation
 *   vin_nest_open() forks, in a pid namespace of its own (for an ordinary user in a user namespace
 *   of his own, too), and executes a program of two hundred bytes without libc, which lies in a
 *   memfd. It is PID 1 there: it will reap whatever comes to it, and ends as its last child did.
 *   Before it runs it is a tracee, stands on a post (vin/rcall) at an address that is free in all
 *   programs of the image (the hole), and makes the others by remote clone3(2) with set_tid: each
 *   is born with its number, post and all, and needs no exec.
 *
 *     hole   | post: trampoline, table, data | parked vvar, vdso |
 *
 *   The kernel's pages (vvar, vdso) are moved into the hole once, before the first fork, so that
 *   a process may unmap everything but the hole and then move them to where its program had them.
 *
 *   In a namespace that there is already, a VM's, the first process is not PID 1 but a guest that
 *   somebody else starts (vin/become); it ends when it has made the others, who become PID 1's then.
 *
 *   Descriptors reach a blank through a socket that all of them inherit: vin_blank_give(). It is
 *   descriptor VIN_LINE there. All inherit besides what vin_nest_open() was told to keep.
 *
 *   Who dies takes his blanks with him: all are traced with PTRACE_O_EXITKILL, and when PID 1 goes
 *   the kernel ends its namespace. vin_nest_release() is the point from which they live alone.
 * Sources: clone(2), ptrace(2), pid_namespaces(7), vdso(7).
 */
#ifndef VIN_BLANK_H
#define VIN_BLANK_H

#include "vin/become.h"
#include "vin/rcall.h"

#define VIN_HOLE_SIZE (VIN_POST_SIZE + 64 * 1024)
#define VIN_GIVE_MAX  32
#define VIN_PARKED    4

struct vin_blank {
	struct vin_thread thread; /* its first */
	struct vin_post post;
	int line; /* number of the socket in it; -1: closed */
};

/* A mapping of the kernel's, where it is parked in every blank. */
struct vin_parked {
	char name[24];
	uint64_t at, size;
};

struct vin_nest { /* starts as { .line = -1 } */
	struct vin_blank init;
	bool guest; /* in a namespace that has its own PID 1 */
	uint64_t hole;
	int line; /* our end */
	struct vin_parked parked[VIN_PARKED];
	size_t parked_count;
	uint64_t vdso_sum; /* of the kernel's code: XXH3, 0 without one */
	pid_t *made;	   /* tracees: all that were born here */
	size_t made_count;
};

/* Descriptors of ours that all blanks have, by the same numbers. */
struct vin_kept {
	const int *fds;
	size_t count;
};

/* Have a process call vin_become() with @line, which it gets a copy of, and the given number if it
 * is not in a pid namespace of its own. */
typedef int (*vin_start_fn)(void *arg, int line, pid_t number, struct fvm_error *err);

struct vin_nest_options {
	bool user;	   /* in a new user namespace, where the caller's ids stay what they are */
	vin_start_fn start; /* NULL: PID 1 of a new namespace; otherwise it is a guest in one */
	void *arg;
	pid_t number; /* a free one, for start() */
	struct vin_kept kept; /* none may be VIN_LINE */
};

/** vin_nest_begin() - a first process that waits for vin_nest_open(): whoever has to be somebody of
 *  the programs for a moment, before they are, can be born beside it (vin_reopen_within()).
 *  Nothing is kept of @options. Return: as that one */
int vin_nest_begin(const struct vin_nest_options *options, struct vin_nest *ret,
		   struct fvm_error *err);

/**
 * vin_nest_open() - a first process, stopped; that of @ret if it was begun
 * @hole: where VIN_HOLE_SIZE bytes are free in all programs to come
 * Return: 0, -EPERM (no right to make namespaces), or another negative errno
 */
int vin_nest_open(uint64_t hole, const struct vin_nest_options *options, struct vin_nest *ret,
		  struct fvm_error *err);

/** vin_nest_leave() - all others are born: a guest ends, so that its children are PID 1's; PID 1
 *  itself stays. Return: 0 or negative errno */
int vin_nest_leave(struct vin_nest *nest, struct fvm_error *err);

/** vin_nest_release() - all others are released already: PID 1 goes on alone. Return: 0 or -errno */
int vin_nest_release(struct vin_nest *nest, struct fvm_error *err);

/** vin_nest_kill() - end PID 1, and with it everybody in its namespace; one of zeros is fine */
void vin_nest_kill(struct vin_nest *nest);

/** vin_blank_fork() - a child of @parent, number @number in the innermost namespace
 *  @flags: CLONE_FILES, CLONE_FS: what it has together with its parent */
int vin_blank_fork(struct vin_nest *nest, struct vin_blank *parent, uint64_t flags, pid_t number,
		   struct vin_blank *ret, struct fvm_error *err);

/** vin_blank_ghost() - the same, but nobody is told of its end: for one that ends soon */
int vin_blank_ghost(struct vin_nest *nest, struct vin_blank *parent, pid_t number,
		    struct vin_blank *ret, struct fvm_error *err);

/** vin_blank_end() - it ends; its parent has to wait for it with __WALL */
int vin_blank_end(struct vin_nest *nest, struct vin_blank *blank, struct fvm_error *err);

/** vin_blank_thread() - one more thread of @blank, moved to the post */
int vin_blank_thread(struct vin_nest *nest, struct vin_blank *blank, pid_t number,
		     struct vin_thread *ret, struct fvm_error *err);

/**
 * vin_blank_threads() - many of them, born by one batch of calls
 * @numbers: of each, none 0; @ret: as many
 * Return: 0, -ENOTTY (nobody was born: this kernel does not tell which of them is which), or another
 *         negative errno
 */
int vin_blank_threads(struct vin_nest *nest, struct vin_blank *blank, const pid_t *numbers,
		      size_t count, struct vin_thread *ret, struct fvm_error *err);

/**
 * vin_blank_give() - copy descriptors of ours into a blank
 * @count: at most VIN_GIVE_MAX; @ret: their numbers there, close-on-exec
 */
int vin_blank_give(const struct vin_nest *nest, struct vin_blank *blank, const int *fds,
		   size_t count, int *ret, struct fvm_error *err);

/** vin_vdso_sum() - XXH3 of the vdso that a process has at @at. Return: 0 or negative errno */
int vin_vdso_sum(pid_t pid, uint64_t at, uint64_t size, uint64_t *ret);

#endif
