/*
 * vin/replay - an image made into running programs again
 *
 * Theory of operation
 *   vin_replay_build() reads an image from its first to its last record and makes everything, in
 *   the order in which the image has it; nobody runs yet:
 *
 *     EARLY         pages that KEPT will name; where they are is remembered (vin/early)
 *     OBJECT PAGES  memory that is shared, held by us
 *     FILE DATA FDS open files, held by us (vin/files)
 *     TREE          PID 1 of a new pid namespace (vin/blank); by it all processes, with their old
 *                   numbers, parents and sessions, each an empty one that has all of the files
 *     MAPS          of one process: its blank's own memory goes, its areas are mapped
 *     PROCESS       kept until the end, as THREAD is
 *     KEPT PAGES    filled in, or left where they are until END, and perhaps longer (vin/lazy)
 *     END           all is there: names of memory, protections, threads, descriptors, groups,
 *                   zombies; what the kernel remembers of each (vin/traits); then the registers.
 *                   Everybody stands where the image has him
 *
 *   vin_replay_go() lets them run. Until it is done, failure and our death alike leave nothing: all
 *   are ended (vin_replay_close), those that were let go already, too (vin/guard). PID 1 goes last;
 *   it ends when all others have, as the last one did.
 *
 *   Sessions. A process is born in the session its parent has then. So a leader makes those of its
 *   children that stayed in its parent's session before it calls setsid(2), the others after. Where
 *   the leader of a session or group is gone, a blank takes its number, makes the session or group,
 *   and ends when the others are in it. Who was adopted by a subreaper is born by somebody of its
 *   session who ends at once, while its parent alone is a subreaper.
 * Limits: who reads an image does with it what it says, as the caller: files are opened below @root.
 * Of a bare image programs come back without descriptors and with the blank's traits. Who was
 * adopted from a session whose leader lives, but not below its parent, is refused (-EOPNOTSUPP).
 */
#ifndef VIN_REPLAY_H
#define VIN_REPLAY_H

#include "vin/blank.h"
#include "vin/files.h"
#include "vin/image.h"
#include "vin/lazy.h"

struct vin_replay_options {
	int root;  /* directory that paths of programs begin at */
	bool user; /* in a user namespace of its own: for who is not root */
	int spaces; /* CLONE_NEW*: namespaces of this process that are the programs', too */
	bool outer_net; /* only we, not the programs' root, have rights over the network namespace */
	bool outside_gone; /* connections out of the world can't go on, whatever its address is */
	vin_outside_fn lost; /* told of each that came back as one that was reset; may be NULL */
	void *lost_arg;
	bool ipc;  /* this process's IPC namespace is empty, and to be the programs' */
	/* into a pid namespace that there is already, as children of its PID 1 (vin/blank); NULL:
	 * into one of their own */
	vin_start_fn start;
	void *arg;
	const struct vin_given *given; /* by the names that the image has (vin/files); may be NULL */
	size_t given_count;
	/* memory may come when they run, if the image is a file (vin/lazy); NULL: it is there before */
	const struct vin_lazy_options *lazy;
	const int *users; /* user namespaces that the world has already (vin/users); may be NULL */
	size_t user_count;
};

struct vin_replay;

/**
 * vin_replay_build() - all of @in, which was just opened
 * Return: 0, -EBADMSG (damaged), -EOPNOTSUPP (needs what this machine has not), -ESTALE (a file has
 *         changed), or another negative errno; nothing is left then
 */
int vin_replay_build(struct vin_in *in, const struct vin_replay_options *options,
		     struct vin_replay **ret, struct fvm_error *err);

/** vin_replay_init() - PID 1 of the programs, while they are built and when they run: a child of
 *  ours, which is not reaped by us. Not to be asked of guests, whose PID 1 is somebody else's */
pid_t vin_replay_init(const struct vin_replay *r);

/** vin_replay_go() - let them run. Return: 0, or negative errno (then none is left) */
int vin_replay_go(struct vin_replay *r, struct fvm_error *err);

/** vin_replay_close() - forget; ends them all unless they run */
void vin_replay_close(struct vin_replay *r);

#endif
