/*
 * vin/spaces - the namespaces that programs are in
 *
 * Theory of operation
 *   Programs are made again in the namespaces of a new world (a VM that was just started), one of
 *   each sort. What was changed in these is captured and made again: objects of IPC (vin/ipc).
 *   So are (SPACE records, before all others; one file per sort, behind one table):
 *
 *     uts.c     host and domain name
 *     sysctl.c  what the files below /proc/sys/net say. All of them are written down, and in the new
 *               world those written that say something else
 *     links.c, routes.c, tables.c    devices, addresses, routes, nftables: vin/rtnl
 *     ipc.c     (the world's has records of its own: vin/ipc)
 *
 *   A process in another namespace than the others is found by the names that /proc/PID/ns shows,
 *   while it runs, and told to vin/namespaces, if that holds its sort. Otherwise it is refused, as is
 *   one that will put its children into another, and a thread in another than its process.
 *
 *   Mounts that were made inside have records of their own: vin/mounts.
 * Sources: namespaces(7), proc(5).
 */
#ifndef VIN_SPACES_H
#define VIN_SPACES_H

#include <sys/types.h>

#include "common/common.h"
#include "vin/image.h"

struct vin_namespaces;

/**
 * vin_spaces_check() - whether all threads of @pids are in the namespaces of @within
 * @within: a process; 0: the first of @pids
 * @own: gets those of sorts that vin/namespaces holds
 * Who has ended meanwhile is not looked at.
 * Return: 0, -EOPNOTSUPP (process and namespace are said), or another negative errno
 */
int vin_spaces_check(const pid_t *pids, size_t count, pid_t within, struct vin_namespaces *own,
		     struct fvm_error *err);

/** vin_spaces_apart() - which of the namespaces @spaces (CLONE_NEW*) of @pid are not ours */
int vin_spaces_apart(pid_t pid, int spaces);

/** vin_spaces_settings_check() - whether what is set in namespaces @spaces of @within, by others
 *  than who made them, can be captured. @own: they are not the world's, and nobody gives a new one
 *  anything. Return: 0, -EOPNOTSUPP, or another negative errno */
int vin_spaces_settings_check(pid_t within, int spaces, bool own, struct fvm_error *err);

/**
 * vin_spaces_capture() - SPACE records of what is set in namespaces that @within is in
 * @spaces: CLONE_NEW* of those to look at
 */
int vin_spaces_capture(pid_t within, int spaces, struct vin_out *out, struct fvm_error *err);

/** vin_spaces_tell() - the payload of each such record to @fn */
typedef int (*vin_space_piece_fn)(void *arg, const struct fvm_buf *piece, struct fvm_error *err);
int vin_spaces_tell(pid_t within, int spaces, vin_space_piece_fn fn, void *arg,
		    struct fvm_error *err);

/* Addresses of the world's own device (vin/rtnl), one of each family: what they were and are. */
struct vin_moved {
	struct {
		size_t len; /* bytes; 0: there is no such */
		unsigned char was[16], is[16];
	} of[2];
};

/**
 * vin_space_take() - make it so in the namespaces of this process
 * @spaces: CLONE_NEW* of those that are to be the programs'
 * @moved: is filled in by the record that knows of it
 * Return: 0, -EBADMSG, -EOPNOTSUPP (not in @spaces, or not to be had here), or another -errno
 */
int vin_space_take(struct vin_payload *p, int spaces, struct vin_moved *moved,
		   struct fvm_error *err);

/* ---- what the files of this share ---- */

/** vin_space_visit() - have @fn run in namespaces @spaces of @pid, by a child of ours
 *  @ret: what @fn added; may be NULL. Return: what @fn did, or negative errno */
typedef int (*vin_space_fn)(void *arg, struct fvm_buf *to, struct fvm_error *err);
int vin_space_visit(pid_t pid, int spaces, vin_space_fn fn, void *arg, struct fvm_buf *ret,
		    struct fvm_error *err);

/* One that tells much, piece by piece, while we take it. */
struct vin_space_teller {
	vin_space_fn tell; /* there; adds nothing to its buffer */
	void *arg;	   /* of it, with .. */
	int *line;	   /* .. where it is to send, which is said here before */
	vin_space_piece_fn take;
	void *take_arg;
};

/** vin_space_stream() - Return: 0, what either did, or negative errno */
int vin_space_stream(pid_t pid, int spaces, const struct vin_space_teller *t,
		     struct fvm_error *err);

/** vin_space_send() - Return: 0 or negative errno */
int vin_space_send(int line, const struct fvm_buf *piece);

struct vin_space_kind {
	int space; /* CLONE_NEW* */
	/* adds nothing; arg: NULL of the world's, not of programs' own. NULL: all can be captured */
	vin_space_fn check;
	vin_space_fn capture; /* arg is NULL */
	int (*make)(struct vin_payload *p, struct vin_moved *moved, struct fvm_error *err);
};
extern const struct vin_space_kind vin_space_uts, vin_space_sysctls, vin_space_links,
	vin_space_routes, vin_space_tables, vin_space_ipc;

#endif
