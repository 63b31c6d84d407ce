/*
 * vin/namespaces - namespaces that some of the programs have to themselves, below those of the world
 *
 * Theory of operation
 *   The world (vin/spaces) has one namespace of each sort. A program that has called unshare(2) is in
 *   another one, with whom it has made since. Each of these is written down once, in NAMESPACE
 *   records, behind those of the world and before files; user namespaces, which own them, come
 *   before (USERS, vin/users):
 *
 *     list      of each namespace its sort and whose it is: the world's user namespace, or one of
 *               the list of these; and which process is in which of them
 *     setting   of one of them: what a SPACE record has of the world's
 *     mount     of a mount namespace: what a MOUNT record has of the world's. A copy of these is what
 *               it begins with
 *     files     which of the open files that come are sockets of one of them, or of one's mounts;
 *               that does not change, whoever has them
 *
 *   Replay has a holder for each: a child of ours that enters the user namespace that is to own it,
 *   makes it, and waits until the programs are built. What is set in it is set by visitors, as
 *   anywhere (vin_space_visit()). Processes enter when they are born, before they have anything of
 *   it: their memory and descriptors come later.
 *
 *   Looking for them costs nothing: that a process is in the world's namespaces is asked of each
 *   anyway, and only who is not is looked at closer.
 *
 * Limits: mount namespaces are those of the world's user namespace, and whose root is the world's.
 * All threads of a process are in the same. Namespaces that nobody is in, as what is bound to
 * a file or held by a descriptor, are refused with that file.
 * Sources: namespaces(7), ioctl_ns(2), unshare(2), setns(2).
 */
#ifndef VIN_NAMESPACES_H
#define VIN_NAMESPACES_H

#include <sys/types.h>

#include "vin/files.h"
#include "vin/image.h"
#include "vin/mounts.h"
#include "vin/opener.h"
#include "vin/users.h"

/* Values stand in images and are never used again for something else. */
enum vin_namespace_sort {
	VIN_NAMESPACE_UTS = 1,
	VIN_NAMESPACE_IPC = 2,
	VIN_NAMESPACE_NET = 3,
	VIN_NAMESPACE_MOUNT = 4,
	VIN_NAMESPACE_SORTS
};

struct vin_namespace {
	enum vin_namespace_sort sort;
	uint64_t owner; /* 0: the world's user namespace; else 1 + which of struct vin_users */
	ino_t ino;
	pid_t via; /* somebody in it: a program, or at replay its holder. 0: nobody yet */
	int fd;	   /* at replay: of the namespace; -1: not made */
	int root;  /* of a mount namespace: its root directory; -1: not opened */
	int *mounts; /* and at the source: the numbers of its mounts, sorted */
	size_t mount_count;
	struct vin_mounts_new made; /* and at replay: its mounts */
};

struct vin_namespace_member {
	pid_t pid;    /* at the source: a thread of it that lives */
	pid_t number; /* inside */
	size_t which;
};

struct vin_namespace_file {
	uint64_t id; /* of a description: vin/files */
	size_t which;
};

struct vin_namespaces { /* starts as zeros */
	struct vin_namespace *list;
	size_t count;
	struct vin_namespace_member *members;
	size_t member_count;
	struct vin_namespace_file *files; /* by id */
	size_t file_count;
};

/** vin_namespaces_free() - forget them; holders end */
void vin_namespaces_free(struct vin_namespaces *n);

/* ---- at the source ---- */

/** vin_namespaces_held() - whether one of sort @flag (CLONE_NEW*) can be captured at all */
bool vin_namespaces_held(int flag);

/** vin_namespaces_add() - thread @tid, and so its process, is in one of sort @flag that is not the
 *  world's. Return: 0, -ESRCH (it ended), -EOPNOTSUPP (said), or another negative errno */
int vin_namespaces_add(struct vin_namespaces *n, pid_t tid, int flag, struct fvm_error *err);

/** vin_namespaces_check() - whether what is set in them can be captured, and who owns them is known
 *  @world: a process in the world's
 *  Return: 0, -EOPNOTSUPP (process and reason are said), or another negative errno */
int vin_namespaces_check(struct vin_namespaces *n, pid_t world, struct fvm_error *err);

/** vin_namespaces_has() - whether process @tid was added to one of sort @flag */
bool vin_namespaces_has(const struct vin_namespaces *n, pid_t tid, int flag);

/** vin_namespaces_names_of() - where names begin for thread @tid. Return: descriptor, which stays the
 *  list's; @world: it has no mount namespace of its own */
int vin_namespaces_names_of(const struct vin_namespaces *n, pid_t tid, int world);

/** vin_namespaces_root() - where names of files begin that are of mount @id. Return: descriptor, which
 *  stays the list's; -1: in the world's root */
int vin_namespaces_root(const struct vin_namespaces *n, int id);

/**
 * vin_namespaces_files() - find the files of @f that are of one of them; those found before are
 * forgotten
 * @world: a process in the world's
 * Return: 0, -EOPNOTSUPP (one is of a network namespace that nobody is in), or another -errno
 */
int vin_namespaces_files(struct vin_namespaces *n, const struct vin_files *f, pid_t world,
			 struct fvm_error *err);

/** vin_namespaces_owners() - add who owns them to @u, of the same programs */
int vin_namespaces_owners(struct vin_namespaces *n, struct vin_users *u, struct fvm_error *err);

/** vin_namespaces_capture() - NAMESPACE records, @world as above; members have their numbers, and all
 *  have their owners */
int vin_namespaces_capture(const struct vin_namespaces *n, pid_t world, struct vin_out *out,
			   struct fvm_error *err);

/* ---- in the new world ---- */

/** vin_namespaces_put() - the payload of a list */
void vin_namespaces_put(struct fvm_buf *to, const struct vin_namespaces *n);

/** vin_namespaces_get_files() - behind a list, of what is in it. Return: 0, -EBADMSG or -ENOMEM */
int vin_namespaces_get_files(struct vin_payload *p, struct vin_namespaces *n);
void vin_namespaces_put_files(struct fvm_buf *to, const struct vin_namespaces *n);

/** vin_namespaces_get() - a list, and nothing made. Return: 0, -EBADMSG (@ret is unchanged), -ENOMEM */
int vin_namespaces_get(struct vin_payload *p, struct vin_namespaces *ret);

/**
 * vin_namespaces_take() - make what a NAMESPACE record tells
 * @first: a process in the world's namespaces; @u: its user namespaces, made already
 * @opener: who is root of the world's user namespace
 * Return: 0, -EBADMSG, or another negative errno
 */
int vin_namespaces_take(struct vin_namespaces *n, pid_t first, const struct vin_users *u,
			struct vin_opener *opener, struct vin_payload *p, struct fvm_error *err);

/** vin_namespaces_of() - the next place in n->members, from @from on, of a process
 *  Return: it; n->member_count: there is none */
size_t vin_namespaces_of(const struct vin_namespaces *n, pid_t number, size_t from);

/** vin_namespaces_file() - the one that a file of the image is of, a socket or a mount's. Return: or
 *  NULL: the world's */
const struct vin_namespace *vin_namespaces_file(const struct vin_namespaces *n, uint64_t file);

/** vin_namespaces_names() - where names begin for a process: the root of its mount namespace. Return:
 *  descriptor, which stays the list's; @world: it has none of its own */
int vin_namespaces_names(const struct vin_namespaces *n, pid_t number, int world);

/** vin_namespace_flag() - CLONE_NEW* of its sort */
int vin_namespace_flag(const struct vin_namespace *n);

#endif
