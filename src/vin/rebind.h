/*
 * vin/rebind - another open file under the descriptors of programs that know nothing of it
 *
 * Theory of operation
 *   The programs are stopped (vin/tree). Each is given the new description through a socket that it
 *   makes for that, by calls made in its name (vin/rcall), at a number that is free; its old one is
 *   kept at another. When all have both, each makes dup3(2): number and close-on-exec stay. What an
 *   epoll of that process watched by this number is taken out before and put in again after. Then
 *   the two spare numbers are closed. If anything fails, those that were done get the old one back
 *   the same way: nobody has run meanwhile, so nobody has seen it.
 *
 *   Who was waiting in a call (read, poll, epoll_wait) makes it again when he goes on, and finds the
 *   new one: a stop starts calls again (vin/task).
 * Limits: a process loses its POSIX locks on the old file, as by close(2). What it had mapped stays
 * mapped. An epoll that only others have, and descriptions on their way through sockets, keep the
 * old one. Sources: dup(2), unix(7), epoll_ctl(2).
 */
#ifndef VIN_REBIND_H
#define VIN_REBIND_H

#include "vin/fdinfo.h"
#include "vin/tree.h"

struct vin_end {
	pid_t pid; /* here */
	int number;
};

/**
 * vin_rebind() - put @fresh in place of @old
 * @tree: stopped; has all of @ends
 * @ends: ordered by pid
 * Return: 0; -ESTALE (one of @ends does not lead to @old), -EMFILE (one has no two free numbers),
 *         -ENOEXEC, -EACCES (as vin_post_open()), or another negative errno; all have the old one then
 */
int vin_rebind(const struct vin_tree *tree, const struct vin_end *ends, size_t count, int old,
	       int fresh, struct fvm_error *err);

/**
 * vin_polled_each() - @fn of each item that an epoll of process @pid has under @number
 * It may be of a description that had this number before: the kernel does not tell.
 * Return: 0, what @fn did, or negative errno; an epoll that is closed meanwhile is passed over
 */
typedef int (*vin_polled_fn)(void *arg, int epoll, const struct vin_epoll_item *item);
int vin_polled_each(pid_t pid, int number, vin_polled_fn fn, void *arg, struct fvm_error *err);

/** vin_leads_to() - whether descriptor @number of process @pid and our @fd are one description */
bool vin_leads_to(pid_t pid, int number, int fd);

#endif
