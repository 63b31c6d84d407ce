/*
 * fvm/notify - one call of a VM's task, as the supervisor sees it; what its files share
 */
#ifndef FVM_NOTIFY_H
#define FVM_NOTIFY_H

#include <linux/seccomp.h>
#include <sys/stat.h>

#include "fvm/idmap.h"
#include "fvm/idmap_user.h"
#include "fvm/ids.h"
#include "fvm/root_user.h"

struct nests;
struct liars;
struct copy;
struct fvm_recorder;
struct stat_records;
struct net_waiting;
struct fvm_owner;

/* What lives as long as the supervisor. Its working directory is the host's /proc. */
struct supervisor {
	int socket; /* brings listeners, one of each session */
	int *listeners;
	size_t listener_count;
	int root;	    /* the VM's "/" as PID 1 saw it */
	int own_root, proc; /* root of our own mount namespace; the host's /proc */
	int epoll, guard, log, owners;
	uint64_t root_mnt, root_ino; /* of that */
	ino_t userns;		     /* of the VM's root */
	const struct fvm_trees *trees;
	const struct fvm_user_ids *ids;
	const char *owned; /* see supervisor.h */
	size_t owned_len;
	bool one_id;		      /* one uid is all there is: the kernel knows no owners */
	struct stat_records *records; /* notify_stat.c */
	const struct fvm_idmap *map;  /* root's (supervisor.h), else NULL */
	const dev_t *devs;	      /* root's: overlays of unmapped bases */
	size_t dev_count;
	struct nests *nests;
	struct liars *liars;
	struct copy *copies;
	struct fvm_recorder *recorder; /* NULL: not traced */
	int net;		       /* notify_net.c; -1: nothing to wait for */
	bool net_asked;
	struct net_waiting *net_waiting;
	size_t net_count;
	unsigned int said;	       /* lines written to the log, which a VM could fill */
	struct adopted {	       /* notify_old.c: the last ones, as a ring */
		dev_t dev, new_dev;
		ino_t ino, new_ino;
	} adopted[32];
	unsigned int adopted_count;
};

/* What to answer. */
enum verdict {
	GO_ON,	  /* the kernel shall do the call */
	ANSWER,	  /* with value, or error */
	ANSWERED, /* it was */
	LATER,	  /* kept; it will be looked at again */
};

struct call {
	struct supervisor *sup;
	int listener; /* whence it came */
	const struct seccomp_notif *req;
	uint64_t args[6];
	bool no_adopt; /* tried already, and it failed */
	int64_t value;
	int error; /* positive errno, or 0 */
};

/* How a call names its file: indices of arguments, or -1. */
enum naming {
	BY_NAME, /* a symlink itself is meant */
	BY_FOLLOWING,
	BY_NOFOLLOW_FLAG, /* AT_SYMLINK_NOFOLLOW among the flags */
	BY_FOLLOW_FLAG,
};

struct file_call {
	int8_t dir, path, flags;
	uint8_t how; /* enum naming; for ids enum fvm_id_call or fvm_id_kind */
};

struct notify_entry {
	short nr;
	enum verdict (*handle)(struct call *c, const struct file_call *f);
	struct file_call file;
};

static inline enum verdict answer(struct call *c, int64_t result)
{
	c->value = result < 0 ? 0 : result;
	c->error = result < 0 ? (int)-result : 0;
	return ANSWER;
}

/* ---- notify_table.c ---- */

/** notify_find() - how a call is handled, or NULL. @arch: AUDIT_ARCH_* */
const struct notify_entry *notify_find(uint32_t arch, int nr);
const struct notify_entry *notify_find_i386(int nr);

/* ---- supervisor.c ---- */

/** notify_valid() - whether the task still waits for us: what its pid named was its own */
bool notify_valid(const struct call *c);

/** notify_send() - answer a call now */
int notify_send(const struct call *c, enum verdict v);

void notify_log(struct supervisor *sup, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/** notify_take_owner() - root's: what we make from now on belongs to whom the file belongs to, as
 *  the VM knows him; until notify_be_root() */
void notify_take_owner(const struct supervisor *sup, const struct stat *st);
void notify_be_root(const struct supervisor *sup);

/* ---- notify_path.c ---- */

struct target {
	int fd; /* O_PATH, or -1 */
	struct stat st;
	bool by_fd; /* named by way of a descriptor, which keeps the old file after an adoption */
	bool old;   /* it does: what the call is to do, the kernel would do to the old file */
};

enum follow { FOLLOW, NO_FOLLOW };

/** notify_read() - read @len bytes of the task's memory. Return: 0 or -EFAULT */
int notify_read(const struct call *c, uint64_t at, void *to, size_t len);

/** notify_write() - write to a task that we trace, which nobody can take the pid from */
int notify_write(const struct call *c, uint64_t at, const void *from, size_t len);

/** notify_give() - write to the task that waits, and to no other: one that was killed while we
 *  looked may have left its pid to a process of the host's, to which the address is nothing */
int notify_give(const struct call *c, uint64_t at, const void *from, size_t len);

/** notify_string() - read a path from the task's memory. Return: its length, or -EFAULT, ... */
int notify_string(const struct call *c, uint64_t at, char *to, size_t size);

/**
 * notify_resolve() - look a path up as the task would
 * @dir: its descriptor, AT_FDCWD, or ignored
 * Return: 0 with ret->fd to be closed, or negative errno
 */
int notify_resolve(const struct call *c, int dir, const char *path, enum follow follow,
		   struct target *ret);

/** notify_at_home() - whether the task's root and mounts are the VM's */
bool notify_at_home(const struct call *c);

/** notify_descriptor() - the file that the task's descriptor @fd is open on */
int notify_descriptor(const struct call *c, int fd, struct target *ret);

/** notify_parent() - the directory a target lies in, by its present name
 *  @name: NAME_MAX + 1 bytes. Return: descriptor, -ESTALE when that name is another file now */
int notify_parent(const struct call *c, const struct target *t, char *name);

/** notify_fs() - f_type of the file system, and whether it is read-only */
long notify_fs(const struct target *t, bool *ret_read_only);

/* ---- notify_file.c ---- */

enum follow notify_follows(const struct call *c, const struct file_call *f);

/** notify_target() - what a call names. Return: 0 with ret->fd to be closed, or negative errno */
int notify_target(const struct call *c, const struct file_call *f, struct target *ret);

/** notify_is_nobodys() - whether no id of ours owns it */
bool notify_is_nobodys(const struct call *c, const struct target *t);

/** notify_host_owner() - whom the host's file @path belongs to. Return: whether the skeleton's list
 *  names it; otherwise it is root's */
struct fvm_skeleton_owned;
bool notify_host_owner(const struct supervisor *sup, const char *path,
		       struct fvm_skeleton_owned *ret);

/** notify_tree() - the overlay that an absolute path lies in; @ret_rel: the path in it */
const struct fvm_tree *notify_tree(const struct supervisor *sup, const char *path,
				   const char **ret_rel);

/* Whose the host's file is that is adopted. */
struct fvm_host_owner {
	uid_t uid;
	gid_t gid;
	bool known; /* else no list tells, and the ids are 0 */
};

/** notify_give_back() - a copy of the host's file gets the owner that the file has: for real, or
 *  on record (owners.h) */
void notify_give_back(struct supervisor *sup, const struct target *t,
		      const struct fvm_host_owner *o);

enum verdict on_adopt(struct call *c, const struct file_call *f);
enum verdict on_open(struct call *c, const struct file_call *f);
enum verdict on_openat2(struct call *c, const struct file_call *f);
enum verdict on_access(struct call *c, const struct file_call *f);
enum verdict on_chown(struct call *c, const struct file_call *f);
enum verdict on_chmod(struct call *c, const struct file_call *f);
enum verdict on_mknod(struct call *c, const struct file_call *f);
enum verdict on_rename(struct call *c, const struct file_call *f);
enum verdict on_renameat2(struct call *c, const struct file_call *f);

/* ---- notify_old.c ---- */

/** notify_adopted() - remember that the file of @old is that of @t now */
void notify_adopted(struct supervisor *sup, const struct stat *old, const struct target *t);

/** notify_follow_old() - when a descriptor of VM root's names a file that was adopted since it was
 *  opened, take the file in its place: systemd-tmpfiles changes owner and mode by one descriptor */
void notify_follow_old(const struct call *c, struct target *t);

/* ---- notify_stat.c ---- */

enum verdict on_stat(struct call *c, const struct file_call *f);
enum verdict on_statx(struct call *c, const struct file_call *f);

/** notify_owner() - whom the target belongs to, as its VM knows it
 *  Return: false when the kernel says it as well as we do, or better */
bool notify_owner(const struct call *c, const struct target *t, struct fvm_owner *ret);

/** notify_owners_change() - a file was given away, or moved: who was found may be wrong */
void notify_owners_change(struct supervisor *sup);

int notify_records_make(struct supervisor *sup);

/** notify_remember() - what was just recorded of @path in the list (owners.h) */
void notify_remember(struct supervisor *sup, const char *path, ino_t ino,
		     const struct fvm_owner *owner);

/* ---- notify_ids.c ---- */

enum verdict on_set_uid(struct call *c, const struct file_call *f);
enum verdict on_set_gid(struct call *c, const struct file_call *f);
enum verdict on_setgroups(struct call *c, const struct file_call *f);
enum verdict on_get_uid(struct call *c, const struct file_call *f);
enum verdict on_get_gid(struct call *c, const struct file_call *f);
enum verdict on_getres_uid(struct call *c, const struct file_call *f);
enum verdict on_getres_gid(struct call *c, const struct file_call *f);

/** notify_kernel_uid() - the task's effective uid as the VM's own namespace numbers it */
uint32_t notify_kernel_uid(const struct call *c);

/** notify_is_root() - whether the task is in the VM's own user namespace, and believes to be root
 */
bool notify_is_root(const struct call *c);

/* ---- notify_net.c ---- */

enum verdict on_socket(struct call *c, const struct file_call *f);

/** notify_net_ready() - sup->net has something to say: let go whoever waits for the network */
void notify_net_ready(struct supervisor *sup);

#endif
