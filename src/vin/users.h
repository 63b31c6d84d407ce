/*
 * vin/users - user namespaces below that of the programs' world, and who is in which
 *
 * Theory of operation
 *   The world is the user namespace that owns the programs' pid namespace: a VM's, or the
 *   machine's. A program may be in another one below: a browser's sandbox, or the one in which the
 *   only id of an ordinary user's VM has another number.
 *
 *     capture   each namespace between a program and the world is told once: its parent, its maps
 *               as one reads them in it, and whether groups may be set
 *     replay    all are made anew, parents first, by a child of ours that has entered the parent;
 *               a process enters its own when its memory is done, before its second thread is born
 *               (setns(2) refuses later), and with it loses every right in the world. So the
 *               numbers of its threads can't be chosen any more: the pid namespace is told the
 *               last number that was given (ns_last_pid), and what comes next is looked at.
 *
 * Limits: processes that share memory or directories with others can't enter one (setns(2)). Who
 * reads an image makes namespaces as the world's root: what they map, the kernel judges.
 * Sources: user_namespaces(7), ioctl_ns(2), setns(2), pid_namespaces(7).
 */
#ifndef VIN_USERS_H
#define VIN_USERS_H

#include <sys/types.h>

#include "vin/image.h"

struct vin_userns {
	ino_t ino;
	uint64_t parent; /* 0: the world; else 1 + which of the list, an earlier one */
	char *maps[3];	 /* uid_map, gid_map, setgroups */
	int fd;
};

struct vin_userns_user {
	pid_t number; /* inside */
	size_t which; /* of the list */
};

struct vin_users { /* starts as zeros */
	struct vin_userns *list;
	size_t count;
	struct vin_userns_user *users;
	size_t user_count;
	int world, pids; /* at replay: the world's user and pid namespace; only with a list */
};

/** vin_users_check() - whether the user namespace of a running process can be made again
 *  Return: 0, -EOPNOTSUPP (said), or -ESRCH */
int vin_users_check(pid_t pid, struct fvm_error *err);

/** vin_users_add() - a process, and the namespaces it is in. @number: inside */
int vin_users_add(struct vin_users *u, pid_t pid, pid_t number, struct fvm_error *err);

/** vin_users_owner() - add the user namespace that namespace @fd of @pid belongs to
 *  @u: NULL: only look. Return: 1 + its place; 0: it is the world's; or negative errno */
int vin_users_owner(struct vin_users *u, pid_t pid, int fd);

/** vin_users_put() - the payload of a record; only for a list that is not empty */
void vin_users_put(struct fvm_buf *to, const struct vin_users *u);

/** vin_users_get() - Return: 0, -EBADMSG (@ret is unchanged) or -ENOMEM */
int vin_users_get(struct vin_payload *p, struct vin_users *ret);

/** vin_users_make() - make all of them in the world that @first, a process of ours, is in
 *  @there: descriptors of some that lie right below it already: who maps the same is taken */
int vin_users_make(struct vin_users *u, pid_t first, const int *there, size_t count,
		   struct fvm_error *err);

/** vin_users_open() - the user namespace that a process is in. Return: descriptor or -errno */
int vin_users_open(pid_t pid);

/** vin_users_enter() - this process enters a user namespace, and may be looked at as before; fine
 *  when it is there, or @userns is negative. Return: 0 or negative errno */
int vin_users_enter(int userns);

/** vin_users_find() - descriptor of the one that a process is in, or -1 */
int vin_users_find(const struct vin_users *u, pid_t number);

/** vin_users_next() - let @number be the next one that the pid namespace gives, unless somebody
 *  else makes a process now. Return: 0 or negative errno */
int vin_users_next(const struct vin_users *u, pid_t number, struct fvm_error *err);

void vin_users_free(struct vin_users *u);

#endif
