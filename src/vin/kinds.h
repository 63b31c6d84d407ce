/*
 * vin/kinds - the kinds of open files: one file each, behind one table
 *
 * Theory of operation
 *   A new kind is a file with a struct vin_kind, a value of enum vin_kind_nr and a line in
 *   kinds.c. What all descriptions have is kept and brought back by files_out.c and reopen.c:
 *   status flags, position (if the kind seeks), locks of the description, owner of signals.
 *   A kind does the rest. At the source it works on the description as it is pulled here; it
 *   changes nothing that the program could see. In the new world it gets what its parse() made of
 *   the payload, which trusts nothing, and returns a new descriptor.
 */
#ifndef VIN_KINDS_H
#define VIN_KINDS_H

#include "vin/files.h"

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL /* Linux 6.9 */
#endif

/* Values stand in images and are never used again for something else. */
enum vin_kind_nr {
	VIN_KIND_FILE = 1,
	VIN_KIND_DIRECTORY = 2,
	VIN_KIND_DEVICE = 3,
	VIN_KIND_PATH = 4,
	VIN_KIND_PIPE = 5,
	VIN_KIND_EVENTFD = 6,
	VIN_KIND_TIMERFD = 7,
	VIN_KIND_SIGNALFD = 8,
	VIN_KIND_MEMFD = 9,
	VIN_KIND_EPOLL = 10,
	VIN_KIND_PTY = 11,
	VIN_KIND_UNIX = 12,
	VIN_KIND_TCP = 13,
	VIN_KIND_UDP = 14,
	VIN_KIND_RAW = 15,
	VIN_KIND_PACKET = 16,
	VIN_KIND_NETLINK = 17,
	VIN_KIND_INOTIFY = 18,
	VIN_KIND_FANOTIFY = 19,
	VIN_KIND_PIDFD = 20,
	VIN_KIND_TTY = 21,
	VIN_KIND_MQUEUE = 22,
	/* 23: userfaultfd, 24: io_uring */
	VIN_KIND_GIVEN = 25,
	VIN_KIND_PROCFILE = 26,
	VIN_KIND_NAMESPACE = 27,
	VIN_KIND_TUN = 28,
	VIN_KINDS
};

/* A description in the new world. */
struct vin_file {
	const struct vin_kind *kind; /* NULL: no record of it yet */
	size_t id, twin;
	unsigned int flags;
	int64_t pos;
	struct vin_lock *locks;
	size_t lock_count;
	int owner_type; /* F_OWNER_*; -1: none */
	pid_t owner;
	int owner_signal;
	void *its; /* what the kind has parsed */
	bool late, met; /* open() has made a placeholder; meet() has opened it */
	int fd;	   /* in the pool; -1: not open */
	int maker; /* a second way in, until the end; -1: none */
};

struct vin_reopen {
	int root;
	int self; /* /proc/self/fd */
	int base; /* of the pool */
	int within; /* pidfd of the programs' PID 1; -1: none */
	const struct vin_objects *objects; /* shared memory that is there; NULL: none */
	struct vin_file *files;
	size_t count; /* as announced */
	size_t taken; /* records of FILE */
	bool filled;
	struct vin_table *tables;
	size_t table_count;
	const struct vin_namespaces *own; /* the caller's; NULL: all are of the world's */
	const struct vin_moved *moved; /* the caller's; NULL: no address is another */
	bool outside_gone;	       /* see vin_reopen_moved() */
	bool apart;		       /* see vin_reopen_ours() */
	const struct vin_given *given; /* the caller's */
	size_t given_count;
};

/* Who is who: what vin_reopen_people() was told. */
struct vin_who {
	vin_who_fn fn;
	void *arg;
};

struct vin_kind {
	const char *name; /* for messages: "a pipe" */
	enum vin_kind_nr nr;
	bool seeks; /* has a position that lseek(2) sets */
	/* probe: is it one of ours? */
	bool (*matches)(const struct vin_open *o);
	/* whether it has no twins, whatever stat(2) says, and comes before all others; may be NULL */
	bool (*apart)(const struct vin_open *o);
	/* what else is to be known of it, in o->its, and what it carries; NULL: nothing */
	int (*look)(struct vin_files *all, struct vin_open *o, struct fvm_error *err);
	void (*unlook)(void *its); /* frees what look() has left */
	/* 0, or why it can't be captured; NULL: always can */
	int (*check)(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err);
	/* at the stop: 0, or -EAGAIN when it can't be captured at this moment, but may be in the
	 * next; NULL: always can */
	int (*ready)(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err);
	int (*capture)(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		       struct fvm_error *err);
	/* whether DATA is to follow; NULL: never */
	bool (*has_content)(const struct vin_files *all, const struct vin_open *o);
	size_t size; /* of what parse() fills */
	/* 0, -EBADMSG or -ENOMEM; @first: it is its own twin. NULL: has no payload */
	int (*parse)(struct vin_payload *p, bool first, void *ret);
	void (*forget)(void *its); /* frees what is in it, after parse() failed, too; may be NULL */
	/* a new descriptor, which becomes the pool's, or negative errno; may set f->maker */
	int (*open)(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err);
	/* of one that open() said is late: a descriptor of what it is, when processes are there */
	int (*meet)(struct vin_reopen *r, struct vin_file *f, const struct vin_who *who,
		    struct fvm_error *err);
	/* when all are open: what is queued in it; NULL: nothing */
	int (*fill)(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err);
	/* when all are open and have their content; NULL: nothing to do */
	int (*finish)(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err);
	/* add calls that a process has to make itself (vin_late_add()); NULL: none */
	int (*plan)(struct vin_reopen *r, const struct vin_file *f);
	/* when all are finished and makers are closed; NULL: nothing to do */
	int (*settle)(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err);
};

extern const struct vin_kind vin_kind_file, vin_kind_directory, vin_kind_device, vin_kind_path,
	vin_kind_pipe, vin_kind_eventfd, vin_kind_timerfd, vin_kind_signalfd, vin_kind_memfd,
	vin_kind_epoll, vin_kind_pty, vin_kind_inotify, vin_kind_unix, vin_kind_mqueue, vin_kind_tcp,
	vin_kind_given, vin_kind_udp, vin_kind_raw, vin_kind_packet, vin_kind_netlink,
	vin_kind_pidfd, vin_kind_tty, vin_kind_procfile, vin_kind_namespace,
	vin_kind_fanotify, vin_kind_tun;

/** vin_kind_find() - the kind of a description, or NULL */
const struct vin_kind *vin_kind_find(const struct vin_open *o);

/** vin_given_find() - what was said to be given of @o's inode, or NULL */
const struct vin_given *vin_given_find(const struct vin_files *all, const struct vin_open *o);

/** vin_given_fd() - what is given under a name in the new world; stays the caller's. -1: nothing */
int vin_given_fd(const struct vin_reopen *r, const char *name);

/** vin_kind_number() - the kind that an image means, or NULL */
const struct vin_kind *vin_kind_number(uint64_t nr);

/** vin_file_parse() - the payload of VIN_TAG_FILE
 *  @count: how many files were announced. Return: 0, -EBADMSG or -ENOMEM */
int vin_file_parse(struct vin_payload *p, size_t count, struct vin_file *ret);

/** vin_file_free() - forget what was parsed, and close its descriptors */
void vin_file_free(struct vin_file *f);

/* What fcntl(F_SETFL) can change; the rest comes from how it is opened. */
#define VIN_SETTABLE (O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME | O_ASYNC)

/** vin_file_set() - status flags and position, of what is open. Return: 0 or negative errno */
int vin_file_set(const struct vin_file *f);

/** vin_file_lock() - locks of the description; not its leases. Return: 0 or negative errno */
int vin_file_lock(const struct vin_file *f, struct fvm_error *err);

/** vin_late_plan() - leave to processes what remembers the number it was said by */
int vin_late_plan(struct vin_reopen *r, struct fvm_error *err);

/** vin_late_open() - what open() returns of a late one: a placeholder. Return: or negative errno */
int vin_late_open(struct vin_file *f, struct fvm_error *err);

/** vin_table_parse() - the payload of VIN_TAG_FDS. Return: as vin_file_parse() */
int vin_table_parse(struct vin_payload *p, size_t count, struct vin_table *ret);

void vin_table_free(struct vin_table *t);

/* ---- what kinds share ---- */

/** vin_late_holder() - the table of a process that has file @file, and its number; NULL: nobody */
struct vin_table *vin_late_holder(const struct vin_reopen *r, size_t file, int *ret_number);

/** vin_late_add() - a call for that process. Return: 0 or -ENOMEM */
int vin_late_add(struct vin_table *t, const struct vin_inside *call);

/**
 * vin_number_of() - the number of a process or thread as the programs of @o count
 * Return: 0 when it is neither of the tree nor PID 1 above it
 */
pid_t vin_number_of(const struct vin_files *all, const struct vin_open *o, pid_t task);

/* of a slave's device number: the terminal's number; whether the tree has its master */
uint64_t vin_pty_number(dev_t device);
bool vin_pty_has_master(const struct vin_files *all, dev_t device);

/** vin_pty_open_slave() - in the new world, whose masters are open. Return: descriptor or -errno */
int vin_pty_open_slave(const struct vin_reopen *r, uint64_t number);

/** vin_same_inode() - whether both are of one file system and have one number there */
static inline bool vin_same_inode(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/** vin_link_is() - whether an anonymous inode is one of @name, "[eventfd]" */
bool vin_link_is(const struct vin_open *o, const char *name);

/** vin_name_look() - at the source: hold what @name leads to below the root of @all (O_PATH), a
 *  symlink itself. Return: descriptor, or negative errno */
int vin_name_look(const struct vin_files *all, const char *name);

/** vin_link_open() - hold what its name leads to now, below the root of @all (O_PATH). Return:
 *  descriptor, or negative errno */
int vin_link_open(const struct vin_files *all, const struct vin_open *o);

/** vin_unknown_say() - why a description of no kind that we know can't be captured: -EOPNOTSUPP */
int vin_unknown_say(const struct vin_open *o, struct fvm_error *err);

/** vin_place_check() - whether what looks like a file or directory is one, of a mount that the
 *  programs have. Return: 0 or -EOPNOTSUPP */
int vin_place_check(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err);

/** vin_link_leads() - whether its name still leads to it */
bool vin_link_leads(const struct vin_files *all, const struct vin_open *o);

/** vin_link_deleted() - whether the kernel says " (deleted)" of its name, or the name ends so */
bool vin_link_deleted(const struct vin_open *o);

/** vin_link_name() - its name without the kernel's " (deleted)"; to free(), NULL without memory */
char *vin_link_name(const struct vin_open *o);

/** vin_name_open() - hold what @name leads to below the root of @r (O_PATH), a symlink itself.
 *  Return: descriptor, or negative errno */
int vin_name_open(const struct vin_reopen *r, const char *name);

/**
 * vin_nameless() - make a file, directory or FIFO that no name leads to
 * @name: what it was called; the nearest directory on the way that there still is holds it
 * @type: S_IFREG, S_IFDIR or S_IFIFO
 * Return: descriptor (of a file and a FIFO for both ways), or negative errno
 */
int vin_nameless(const struct vin_reopen *r, const char *name, mode_t type);

/** vin_inner_ids() - owner of a file as the process at @o counts; what it has no id for is -1 */
void vin_inner_ids(const struct vin_open *o, uint64_t *ret_uid, uint64_t *ret_gid);

/** vin_inner_pair() - the same of any user and group */
void vin_inner_pair(pid_t pid, uint64_t uid, uint64_t gid, uint64_t *ret_uid, uint64_t *ret_gid);

/** vin_again() - open the inode of a descriptor of ours once more. Return: descriptor or -errno */
int vin_again(const struct vin_reopen *r, int fd, unsigned int flags);

/** vin_again_here() - the same at the source */
int vin_again_here(int fd, unsigned int flags);

/** vin_maker_of() - the second way into what @f and its twins are of; -1: there is none */
int vin_maker_of(const struct vin_reopen *r, const struct vin_file *f);

/** vin_shared_maker() - a descriptor of the memory that @f is mapped as. Return: it, or -ENOENT, or
 *  another negative errno */
int vin_shared_maker(const struct vin_reopen *r, const struct vin_file *f);

/** vin_content_capture() - records of DATA for all that is in a file, without its holes */
int vin_content_capture(const struct vin_open *o, struct vin_out *out, struct fvm_error *err);

/** vin_content_take() - write a record of DATA to the maker of its file. Return: 0, -EBADMSG, or
 *  another negative errno */
int vin_content_take(struct vin_reopen *r, struct vin_payload *p, struct fvm_error *err);

#endif
