/*
 * fvm/idmap_user - which ids the ids of a rootless VM are
 *
 * Theory of operation
 *   VM root is always the user himself: what it writes into the store is his. With nothing else,
 *   that is the only id there is. Where /etc/subuid and /etc/subgid give him ranges, and shadow's
 *   newuidmap and newgidmap are installed, ids 1 and up are those of the first range:
 *
 *     0 UID 1        VM root is the user
 *     1 SUB COUNT    services' ids are real: ownership, signals, SO_PEERCRED
 *
 *   Who is root of a user namespace with many ids (of a container, or of a VM of ours) needs no
 *   helper: he has ids 1 and up of his own, and they stay what they are.
 *
 *   Inside, his own number is still given by the supervisor (nest.h), as its files must be his.
 *   The helpers are set-user-id programs; they run with an empty environment, their paths fixed,
 *   and map only the process that we make. If they refuse, one id it is.
 *   A command that reads or writes layers from outside maps each id to itself instead (subids.h).
 */
#ifndef FVM_IDMAP_USER_H
#define FVM_IDMAP_USER_H

#include <stdbool.h>
#include <sys/types.h>

#include "common/common.h"

struct fvm_user_ids {
	uid_t uid;
	gid_t gid;
	uint32_t sub_uid, sub_gid; /* first of the range */
	uint32_t count;		   /* ids in both; 0: none, one id is all there is */
	bool same;		   /* to fvm_user_ids_enter(): inside they have their own numbers */
	bool own;		   /* of the caller's own namespace: no helper is needed */
};

/**
 * fvm_subid_parse() - the largest range of a user in the text of subuid(5) (bytes from outside)
 * @name, @uid: a line names the user by either. Return: ids in it, 0 when there is none
 */
uint32_t fvm_subid_parse(const char *text, const char *name, uid_t uid, uint32_t *ret_first);

/** fvm_user_ids_maps() - append what owners.h wants at the top of a layer's list */
void fvm_user_ids_maps(const struct fvm_user_ids *ids, struct fvm_buf *ret);

/** fvm_user_ids_find() - what the caller has */
void fvm_user_ids_find(struct fvm_user_ids *ret);

/**
 * fvm_user_ids_enter() - make a user namespace with these ids, and enter it
 * @ids: count becomes 0 when the helpers refuse
 * Return: 0 or negative errno with @err
 */
int fvm_user_ids_enter(struct fvm_user_ids *ids, struct fvm_error *err);

/* The helpers, while they are at work. */
struct fvm_user_mapping {
	const struct fvm_user_ids *ids;
	pid_t pid, target;
	int go;
	void *stack;
};

/**
 * fvm_user_ids_begin() - the same in two steps: what needs capabilities in the namespace alone, and
 * no id, can be done between the two
 * @ret: may not move until fvm_user_ids_end(), which has to follow also after a failure
 */
int fvm_user_ids_begin(struct fvm_user_ids *ids, struct fvm_user_mapping *ret,
		       struct fvm_error *err);
int fvm_user_ids_end(struct fvm_user_ids *ids, struct fvm_user_mapping *m, struct fvm_error *err);

#endif
