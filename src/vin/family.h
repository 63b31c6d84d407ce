/*
 * vin/family - who is whose child, of which session and group: the TREE record
 *
 * Theory of operation
 *   Numbers are those of the programs' own pid namespace, as replay gives them again. A parent, a
 *   session or a group that is not of the tree is 0: whoever has one of these gets PID 1 as parent,
 *   and its session and group. A session or group whose leader has ended keeps its number.
 *   A leader of a session that has a terminal says which of the image's files leads to it.
 *   Parents come before their children. The hole is where nobody of the tree has anything mapped.
 * Limits: one pid namespace; PID 1 itself is not captured but made anew.
 */
#ifndef VIN_FAMILY_H
#define VIN_FAMILY_H

#include "vin/image.h"
#include "vin/sharing.h"

struct vin_member {
	pid_t number, parent, group, session;
	bool zombie;
	bool leader_gone; /* the first thread ended before the others */
	int exit_code;	  /* of a zombie, as of waitpid(2) */
	size_t threads;	  /* alive */
	size_t terminal;  /* of a session's leader: id of a file plus 1; 0: none */
	pid_t foreground; /* group that has it; 0: none of the tree */
	unsigned shares; /* enum vin_shares: what it has together with its parent */
};

struct vin_family { /* starts as { 0 } */
	struct vin_member *members;
	size_t count;
	uint64_t hole;
	pid_t highest; /* number of a task, session or group */
};

void vin_family_free(struct vin_family *f);

/** vin_family_find() - a member by its number, or NULL */
const struct vin_member *vin_family_find(const struct vin_family *f, pid_t number);

void vin_family_put(struct fvm_buf *to, const struct vin_family *f);

/** vin_family_get() - Return: 0, -EBADMSG (it makes no family), or -ENOMEM */
int vin_family_get(struct vin_payload *p, struct vin_family *ret);

#endif
