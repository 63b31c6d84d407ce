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
 *   vin_capture_resume() or vin_capture_kill() ends it. Without either, vin_capture_close() resumes.
 *
 *   Order of records, as replay needs them:
 *     OBJECT PAGES ..       shared memory
 *     TREE                  all processes
 *     for each process      MAPS, THREAD .., PAGES
 *     END
 *   Places for others: descriptions of files before TREE (FILES, FILE); descriptors (FDS), and what
 *   the kernel remembers of a process (PROCESS) between THREAD and PAGES.
 */
#ifndef VIN_CAPTURE_H
#define VIN_CAPTURE_H

#include "vin/image.h"
#include "vin/tree.h"

struct vin_capture;

/**
 * vin_capture_open() - get ready to capture @roots and all their descendants
 * Return: 0, -EOPNOTSUPP (something of them can't be captured), -ESRCH, or another negative errno
 */
int vin_capture_open(const pid_t *roots, size_t count, struct vin_capture **ret,
		     struct fvm_error *err);

/** vin_capture_stop() - Return: as vin_tree_seize() and vin_capture_open(); all run then */
int vin_capture_stop(struct vin_capture *c, unsigned int timeout_ms, struct fvm_error *err);

/** vin_capture_write() - the whole image but its end; @out was just opened. Return: 0 or -errno */
int vin_capture_write(struct vin_capture *c, struct vin_out *out, struct fvm_error *err);

/** vin_capture_resume() - let all go as they were */
void vin_capture_resume(struct vin_capture *c);

/** vin_capture_kill() - end all; they live on in the image only */
void vin_capture_kill(struct vin_capture *c);

/** vin_capture_tree() - who was stopped */
const struct vin_tree *vin_capture_tree(const struct vin_capture *c);

void vin_capture_close(struct vin_capture *c);

#endif
