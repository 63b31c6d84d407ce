/*
 * vin/files - open files of a process tree: found, checked, written down, and opened anew
 *
 * Theory of operation
 *   What programs share is the open file description (position, flags, locks), which descriptors of
 *   any process of the tree lead to. The way of the data:
 *
 *     look     /proc/PID/fd names the numbers; pidfd_getfd(2) brings each description here, once:
 *              those that we hold lie sorted by device, inode and the order that kcmp(2) gives, so
 *              that a further descriptor finds its own in log n steps. Where kcmp is refused, two
 *              are the same if a mark on one (F_SETSIG) is seen on the other.
 *              Descriptions of one inode are twins: one of them has what belongs to the inode (a
 *              pipe's queue, the content of a file without a name).
 *              A queue may carry descriptions (vin/unix.h), which perhaps nobody has open: its kind
 *              brings them here, and they are looked at as if somebody had. Queues are looked into
 *              only when the processes are stopped.
 *     check    each kind says what of it can't be captured. No process need be stopped for that.
 *     capture  a record that counts them, then for each description FILE (what all have, then what
 *              its kind has), with DATA behind it for content that no name leads to, and for each
 *              process FDS: number, close-on-exec and description, and its POSIX locks.
 *     begin, take    in the new world: each FILE is opened when it comes, its first twin before it
 *              at numbers above all that the programs have (the pool), so that whoever is forked
 *              inherits them there and needs dup3() only (vin_reopen_table())
 *     finish   what needs all the others (epoll) or must come last (times, seals, leases); makers
 *              are closed: the second way into a pipe or file that filled it
 *     people   between these two, when processes are born: what leads to one of them is opened
 *              then, at the number where a placeholder lay; and who gets signals is said at the end
 *     inside   system calls that each process must make itself, once its descriptors are in place:
 *              POSIX locks are their process's, leases and O_ASYNC tell their number in signals
 *
 *   One file per kind, behind one table (kinds.h).
 *   A record may come from anybody. Files are opened below a root directory that no name leads out
 *   of, and only what the record says it is is opened for more than a look: no device but
 *   those of memory, no FIFO in a file's place. Whoever opens has the VM's rights and no others:
 *   begin to finish run in the VM's namespaces.
 *
 *   Watched files (inotify) have no names that the kernel would tell, nor have files that lost the
 *   one they were opened by and still have another; they are searched for when all descriptions are
 *   there (vin/search), and what was found is kept for the next look.
 *
 * Limits: files with names are found by them in the new world, which has the VM's files. An
 * edge-triggered epoll may tell once more of what it had told while others of its items wait to be
 * told.
 * Events that an inotify has queued become IN_Q_OVERFLOW. What leads to a process can't be on its
 * way through a socket. Directories with an owner are refused: they may send signals (dnotify).
 * Pipes that lead out of the tree are refused if their other end is not in it at all; a process
 * outside that has the same end too is not seen.
 * Sources: pidfd_getfd(2), kcmp(2), fcntl(2), proc(5), tee(2), epoll(7).
 */
#ifndef VIN_FILES_H
#define VIN_FILES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "vin/fdinfo.h"
#include "vin/image.h"
#include "vin/object.h"

#define VIN_FILES_MAX (1U << 20) /* descriptions of a tree, numbers of descriptors */

struct vin_kind;
struct vin_netlock;
struct vin_sought_list;
struct vin_moved;
struct vin_namespaces;

/* A description that is on its way through another one. */
struct vin_carried {
	int fd; /* here, until it is found among the others; then -1 */
	size_t file; /* id */
};

/* An open file description of the tree. */
struct vin_open {
	const struct vin_kind *kind; /* NULL: of no kind that we know */
	pid_t pid;		     /* a descriptor that leads to it: whose (table's via) */
	int number;		     /* negative: its current directory */
	int fd; /* the same description, here */
	struct stat st;
	char *link; /* as /proc/PID/fd tells it */
	struct vin_fdinfo info;
	size_t id;    /* in the image; twins stand together, readers before writers */
	size_t twin;  /* id of the first description of the same inode; its own if it is that */
	bool in_flight; /* no process has it: pid and number are of who carries it */
	void *its;    /* what the kind has seen */
	struct vin_carried *carried; /* in the order in which they will come out */
	size_t carried_count;
};

/* A way to ask the kernel about the sockets of a network namespace. */
struct vin_asker {
	uint64_t net; /* cookie of the namespace */
	int fd;	      /* sock_diag(7) */
};

struct vin_entry {
	int number;
	bool cloexec;
	bool unsure; /* whether cloexec is right: see vin/cloexec */
	size_t file; /* id */
};

/* A system call that a process must make itself. */
struct vin_inside {
	uint64_t nr;
	uint64_t args[6];
	int data_arg; /* the argument that is the address of @data */
	unsigned char data[64];
	size_t data_len;
};

struct vin_posix_lock {
	int number;
	struct vin_lock lock;
};

/* The descriptors of one process. */
struct vin_table {
	pid_t pid; /* in the image: as its own namespace counts */
	pid_t via; /* a thread that lives: /proc shows nothing of a leader that ended */
	struct vin_entry *entries;
	size_t count;
	struct vin_posix_lock *locks;
	size_t lock_count;
	size_t current; /* directory, id + 1; 0: it has a name and is entered by that (vin/dirs) */
	struct vin_inside *late; /* in the new world: what else it has to do itself */
	size_t late_count;
};

/* The other end of it is with somebody outside, who gives one in the new world, too (given.c). */
struct vin_given {
	int fd;		  /* of the same inode; at replay: of the new one */
	const char *name; /* by which the two are the same */
};

struct vin_files { /* starts as { .root = -1 } */
	int root;     /* where links begin: a directory, the caller's; < 0: our own root */
	const struct vin_namespaces *own; /* whose mounts some are of: the caller's; may be NULL */
	const struct vin_given *given; /* the caller's; may be NULL */
	size_t given_count;
	bool no_kcmp; /* do as if kcmp(2) were refused; for tests */
	bool stopped; /* the processes are: queues may be looked into. Needed by vin_files_capture() */
	/* names of what is watched, as an earlier look found them (its .sought, taken from it before
	 * it was freed): the caller's, may be NULL. Saves a walk while the programs stand still */
	const struct vin_sought_list *before;
	struct vin_sought_list *sought; /* NULL: nothing is watched */
	struct vin_open *opens; /* by id */
	size_t count;
	struct vin_table *tables;
	size_t table_count;
	struct vin_asker *askers;
	size_t asker_count;
	struct vin_netlock *netlock; /* NULL: the network is not cut */
};

void vin_files_free(struct vin_files *f);
#define scoped_files __attribute__((cleanup(vin_files_free))) struct vin_files

/**
 * vin_files_look() - find all descriptions that @pids lead to
 * @pids: parents before children; may run, and what they open and close meanwhile may be left out
 * Our own limit of descriptors is raised as far as it goes.
 * Return: 0, -EMFILE (more than we may hold), -EPERM, -ESRCH, or another negative errno
 */
int vin_files_look(const pid_t *pids, size_t count, struct vin_files *ret, struct fvm_error *err);

/** vin_files_sought() - take what was found of watched files away from @f, for the next look
 *  Return: to vin_files_sought_free(); may be NULL */
struct vin_sought_list *vin_files_sought(struct vin_files *f);
void vin_files_sought_free(struct vin_sought_list *s);

/** vin_refusal_fn - told of each description that can't be captured; the text has which and why */
typedef void (*vin_refusal_fn)(void *arg, const struct vin_open *o, const struct fvm_error *why);

/**
 * vin_files_check() - whether all can be captured; changes nothing
 * @fn: told of each that can not; may be NULL
 * Return: 0, or the first refusal: -EOPNOTSUPP
 */
int vin_files_check(const struct vin_files *f, vin_refusal_fn fn, void *arg, struct fvm_error *err);

/**
 * vin_files_outside() - tell of each TCP connection whose peer is not of the tree
 * vin_outside_fn - @pid, @number: somebody who has it; @peer: "ADDRESS:PORT"
 */
typedef void (*vin_outside_fn)(void *arg, pid_t pid, int number, const char *peer);
void vin_files_outside(const struct vin_files *f, vin_outside_fn fn, void *arg);

/** vin_files_share() - tell those of @objects that a description of @f leads to which it is */
void vin_files_share(const struct vin_files *f, struct vin_objects *objects);

/** vin_files_ready() - whether all can be captured at this moment; the processes are stopped
 *  Return: 0, -EAGAIN (they should go on for a moment), or another negative errno */
int vin_files_ready(const struct vin_files *f, struct fvm_error *err);

/** vin_files_capture() - all records of @f, whose processes are stopped. Return: 0 or -errno */
int vin_files_capture(const struct vin_files *f, struct vin_out *out, struct fvm_error *err);

/* ---- the new world ---- */

struct vin_reopen;

/**
 * vin_reopen_begin() - get ready to open the files of an image
 * @root: directory that names are looked up in; stays the caller's
 * @p:    payload of VIN_TAG_FILES
 * Return: 0, -EBADMSG, -EMFILE (the programs' numbers leave no room for ours), or another errno
 */
int vin_reopen_begin(int root, struct vin_payload *p, struct vin_reopen **ret,
		     struct fvm_error *err);

/** vin_reopen_given() - what there is in the new world; the caller's, to be kept until the end */
void vin_reopen_given(struct vin_reopen *r, const struct vin_given *given, size_t count);

/**
 * vin_reopen_moved() - addresses that are others here than they were; @m stays the caller's
 * @outside_gone: no TCP connection with a peer outside can go on (vin/lost)
 */
void vin_reopen_moved(struct vin_reopen *r, const struct vin_moved *m, bool outside_gone);

/** vin_reopen_own() - namespaces that some of the files are of; the caller's, to be kept */
void vin_reopen_own(struct vin_reopen *r, const struct vin_namespaces *own);

/** vin_reopen_apart() - TCP sockets are made by somebody else than the other files, who has rights over
 *  their network: FILE records of which vin_reopen_ours() says so, and at the end vin_reopen_settle() */
void vin_reopen_apart(struct vin_reopen *r);
bool vin_reopen_ours(const struct vin_payload *p);
/** vin_reopen_settle() - after vin_reopen_finish(), which leaves them out. Return: 0 or -errno */
int vin_reopen_settle(struct vin_reopen *r, struct fvm_error *err);

/** vin_reopen_lost() - tell of each TCP connection that came back as one that was reset; @fn gets
 *  pids as the image has them */
void vin_reopen_lost(const struct vin_reopen *r, vin_outside_fn fn, void *arg);

/** vin_reopen_within() - who makes a file and is remembered by it (a socket's peer) is born in the
 *  namespaces of @first, where nobody has the programs' numbers yet. Without it: among our children.
 *  Return: 0 or negative errno */
int vin_reopen_within(struct vin_reopen *r, pid_t first, struct fvm_error *err);

/** vin_reopen_share() - what is mapped, too, is opened by what was made of that; @objects stay the
 *  caller's, until vin_reopen_finish() */
void vin_reopen_share(struct vin_reopen *r, const struct vin_objects *objects);

/** vin_reopen_take() - what a record of FILE, DATA or FDS says. Return: 0, -EBADMSG, or what
 *  opening the file came to */
int vin_reopen_take(struct vin_reopen *r, enum vin_tag tag, struct vin_payload *p,
		    struct fvm_error *err);

/** vin_reopen_fill() - when all files are there: their queues. Before the programs' processes are
 *  born, so that a sender's number is free; vin_reopen_finish() does it otherwise */
int vin_reopen_fill(struct vin_reopen *r, struct fvm_error *err);

/**
 * vin_who_fn - who is who in the new world
 * @number: of a process or thread, as the programs count
 * Return: its number as this process counts; 0: there is none
 */
typedef pid_t (*vin_who_fn)(void *arg, pid_t number);

/**
 * vin_reopen_people() - open what leads to processes: pidfds, files of /proc/PID
 * When all processes and threads are born, with their numbers, and before vin_reopen_finish().
 * Return: 0, -ESRCH (one is not there), or another negative errno
 */
int vin_reopen_people(struct vin_reopen *r, vin_who_fn who, void *arg, struct fvm_error *err);

/** vin_reopen_late() - numbers in the pool at which something else lies since vin_reopen_people():
 *  whoever was forked before that has to be given it anew.
 *  Return: how many; @ret: to free(); or -ENOMEM */
ssize_t vin_reopen_late(const struct vin_reopen *r, int **ret);

/**
 * vin_reopen_owners() - say who gets the signals of files
 * When processes have their groups, and have made their calls (vin_reopen_inside()).
 */
int vin_reopen_owners(const struct vin_reopen *r, vin_who_fn who, void *arg,
		      struct fvm_error *err);

/** vin_reopen_finish() - when all records are there. Return: 0, -EBADMSG (some are not), or another
 *  negative errno */
int vin_reopen_finish(struct vin_reopen *r, struct fvm_error *err);

/** vin_reopen_close() - forget all, and close what is ours of it */
void vin_reopen_close(struct vin_reopen *r);

/** vin_reopen_table() - the descriptors of process @pid, as its own namespace counts; or NULL */
const struct vin_table *vin_reopen_table(const struct vin_reopen *r, pid_t pid);

/** vin_reopen_fd() - where description @id lies, here and in whoever was forked since; or -1 */
int vin_reopen_fd(const struct vin_reopen *r, size_t id);

/** vin_reopen_pool() - where all of them lie: numbers of ours from the one returned on
 *  @ret: to free(), @ret_count of them. Return: the first number of the pool, or -ENOMEM */
int vin_reopen_pool(const struct vin_reopen *r, int **ret, size_t *ret_count);

/** vin_dir_nameless() - whether the current directory of a process was deleted */
bool vin_dir_nameless(pid_t pid);

/** vin_reopen_inside() - the calls of a process whose descriptors are in place, and its pool closed
 *  @ret: to free(). Return: how many, or -ENOMEM */
ssize_t vin_reopen_inside(const struct vin_table *table, struct vin_inside **ret);

#endif
