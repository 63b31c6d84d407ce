/*
 * vin/capture - programs written into an image, and let go or ended
 *
 * Theory of operation
 *   vin_capture_open()   looks at running programs: what can't be captured is said now, with
 *                        process, resource and reason, and nobody was stopped. smaps is read.
 *   vin_capture_stop()   stops them all (vin/tree). maps is read again, smaps only where it changed;
 *                        what is new since then is refused now, and the programs go on.
 *   vin_capture_write()  writes the image. They are stopped, but as they were: between any two
 *                        steps a failure, or our death, lets them go on.
 *   vin_capture_track()  at another stop before that one, if most of their memory is to be copied
 *                        while they run (vin/precopy).
 *   vin_capture_resume() or vin_capture_kill() ends it. Without either, vin_capture_close() resumes.
 *
 *   Order of records, as replay needs them:
 *     EARLY ..                memory that was copied before (vin/precopy)
 *     SPACE ..                what is set in their namespaces (vin/spaces)
 *     MOUNT ..                mounts that were made in it (vin/mounts)
 *     USERS NAMESPACE ..      namespaces that only some are in (vin/namespaces)
 *     IPC ..                  of their IPC namespace, if it is not ours (vin/ipc)
 *     OBJECT PAGES ..         shared memory
 *     FILES FILE DATA FDS ..  open files, and who has which (vin/files)
 *     TREE                    all processes
 *     USERS                   in other user namespaces than the world's (vin/users), if not above
 *     for each process        MAPS, PROCESS (vin/traits), THREAD .., KEPT .., PAGES
 *     END
 */
#ifndef VIN_CAPTURE_H
#define VIN_CAPTURE_H

#include "vin/files.h"
#include "vin/image.h"
#include "vin/precopy.h"
#include "vin/tree.h"

struct vin_capture;

struct vin_capture_options {
	int root;  /* directory that paths of programs begin at; < 0: ours */
	bool bare; /* memory and threads only: replay gives no descriptors and the blank's traits */
	const struct vin_given *given; /* what others give in the new world (vin/files); may be NULL */
	size_t given_count;
	/* PID 1 of a world that was built by somebody with more rights, as the new one will be: all
	 * are in its namespaces. 0: all are in those of the first of them */
	pid_t within;
	int spaces; /* CLONE_NEW*: whose settings are written down (vin/spaces) */
	bool late; /* large private memory is not in the image: who replays it (vin/lazy) takes it from
		    * the programs themselves, who have to be there, and still, until it did */
	uint64_t filters; /* seccomp filters that all programs have of their world, the oldest ones:
			   * they are no part of the image, and a new world gives its own */
	const struct vin_precopy *precopy; /* what the image has already; may be NULL */
};

/**
 * vin_capture_open() - get ready to capture @roots and all their descendants
 * Return: 0, -EOPNOTSUPP (something of them can't be captured), -ESRCH, or another negative errno
 */
int vin_capture_open(const pid_t *roots, size_t count, const struct vin_capture_options *options,
		     struct vin_capture **ret, struct fvm_error *err);

/** vin_capture_stop() - stopped at a moment at which all can be captured, if one comes soon
 *  Return: as vin_tree_seize() and vin_capture_open(), or -EAGAIN (none came); all run then */
int vin_capture_stop(struct vin_capture *c, unsigned int timeout_ms, struct fvm_error *err);

/** vin_capture_worth() - whether somebody has so much memory that it is to be copied early */
bool vin_capture_worth(const struct vin_capture *c);

/** vin_capture_track() - who was stopped, and has much memory, is tracked from now on
 *  @ret: of other captures, too; the caller closes it. Return: 0 or -ENOMEM */
int vin_capture_track(struct vin_capture *c, struct vin_precopy *ret, struct fvm_error *err);

/** vin_capture_write() - the whole image but its end; @out was just opened. Return: 0 or -errno */
int vin_capture_write(struct vin_capture *c, struct vin_out *out, struct fvm_error *err);

/** vin_capture_resume() - let all go as they were */
void vin_capture_resume(struct vin_capture *c);

/** vin_capture_kill() - end all; they live on in the image only. Connections hold their addresses,
 *  silent and deaf, until vin_capture_close() */
void vin_capture_kill(struct vin_capture *c);

/** vin_capture_outside() - tell of each TCP connection that running programs have with somebody
 *  outside. Return: 0, or as vin_files_look() */
int vin_capture_outside(struct vin_capture *c, vin_outside_fn fn, void *arg, struct fvm_error *err);

/** vin_capture_mounted() - whether those who were stopped have made mounts (vin/mounts) */
bool vin_capture_mounted(const struct vin_capture *c);

/** vin_capture_tree() - who was stopped */
const struct vin_tree *vin_capture_tree(const struct vin_capture *c);

void vin_capture_close(struct vin_capture *c);

#endif
