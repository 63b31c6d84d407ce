/*
 * vin/unix - unix sockets: what the kernel tells of them, and how they are made again
 *
 * Theory of operation
 *   At the source each socket is described by what getsockopt(2) and sock_diag(7) tell (its peer, the
 *   inode of its name, what it has shut down, who waits to be accepted), and by its queue. A queue is
 *   read with MSG_PEEK at a moving offset (SO_PEEK_OFF) and with SO_PASSCRED, so that each message
 *   is seen once, with its sender and what it carries; both settings are put back. That is done by a
 *   child that shares our memory and descriptors and is not ended with us: whatever becomes of the
 *   controller, the program finds its socket as it was. It is born in the programs' pid namespace and
 *   so is told their numbers, those of who has ended, too. Descriptions that messages carry are files
 *   of the image like others.
 *
 *   In the new world:
 *     open   two that are connected are made together, by socketpair(2) or, when one of them has
 *            the name of a listener, by a listener of that name that ends at once. One whose other
 *            end was closed gets a ghost for it, which lives until the queue is there.
 *     fill   when all descriptions are open: names, listeners and who waits at them, messages,
 *            datagram sockets' peers, then what was shut down, ghosts' ends, options.
 *   A name is what was given to bind(2), word for word: the socket is bound to it in a directory of
 *   our own, which is the root of the child that does it, and what appeared there is moved to where
 *   the file was, if it had not lost its name. Others reach it through the inode that we hold.
 *   Whoever the kernel remembers (SO_PEERCRED, SCM_CREDENTIALS) is made anew the only way there is:
 *   a child with that number and those ids does the call, and ends before the process whose number it
 *   is comes, in the namespaces that the programs will be in (vin_reopen_within()).
 *
 * Limits: a peer outside is refused, and what is in no peer's sight: an error that waits before
 * messages, a byte out of band, filters of eBPF. Data of a connection that nobody has accepted, and
 * one whose maker has left since, are not captured at that moment: the listener will accept it. A number
 * of somebody who has ended, or who is not in the VM's namespace, or that is in use where the
 * socket is made, is lost (the maker's stands there), and SO_PEERPIDFD finds nobody. Groups
 * (SO_PEERGROUPS), security labels and times of arrival are not kept. Datagrams of no bytes are seen
 * once: a second capture of the same queue misses those that are not the first message.
 * A sender outside, of datagrams, that we are not connected to is not seen.
 * Sources: unix(7), socket(7), cmsg(3), sock_diag(7).
 */
#ifndef VIN_UNIX_H
#define VIN_UNIX_H

#include <sys/socket.h>
#include <sys/un.h>

#include "vin/kinds.h"

#define UNIX_OPTIONS_MAX 48
#define UNIX_OPTION_SIZE 16
#define UNIX_FILTER_MAX	 4096 /* instructions */
#define UNIX_QUEUE_MAX	 (12U << 20) /* has to fit a record */
#define UNIX_FDS_MAX	 253	     /* that a message carries */
#define UNIX_NAME_MAX	 sizeof(((struct sockaddr_un *)0)->sun_path)

struct unix_name {
	size_t len; /* of sun_path; 0: none */
	char bytes[UNIX_NAME_MAX + 1];
};

/* Somebody, as the programs count; pid 0: nobody is known. */
struct unix_who {
	uint64_t pid, uid, gid;
};

struct unix_option {
	uint64_t nr; /* SO_* */
	size_t len;
	unsigned char value[UNIX_OPTION_SIZE];
};

struct unix_message {
	struct unix_who who;
	uint64_t fds; /* how many it carries */
	const void *name; /* of the sender */
	size_t name_len;
	const void *data;
	size_t len;
};

struct unix_socket {
	uint64_t type;	   /* SOCK_* */
	uint64_t listens;  /* with a backlog of: */
	uint64_t backlog;
	uint64_t down;	   /* 1: doesn't receive, 2: doesn't send */
	uint64_t error;	   /* that it was left with unread data is still to be told */
	uint64_t accepted; /* its name is that of who it was accepted by */
	uint64_t pair;	   /* id + 1 of what it is made together with; 0: nothing */
	uint64_t peer;	   /* id + 1 of what its datagrams go to; 0: nothing */
	uint64_t ghost;	   /* what it is connected to has been closed */
	struct unix_name name, peer_name;
	char *path; /* where its name is found; "": nowhere */
	uint64_t mode, uid, gid; /* of that */
	struct unix_who maker;	 /* SO_PEERCRED */
	struct unix_who peer_maker; /* its peer's; of one that waits: who holds it */
	struct unix_option options[UNIX_OPTIONS_MAX];
	size_t option_count;
	unsigned char *filter;
	size_t filter_len;
	struct fvm_buf queue; /* messages */
	uint64_t message_count;
	uint64_t *carried; /* ids, of all messages */
	size_t carried_count;
	uint64_t *waiting; /* ids of who waits to be accepted */
	size_t waiting_count;
	/* at the source */
	uint32_t peer_ino; /* 0: it is closed, or waits to be accepted */
	uint32_t *waiting_inos; /* 0: it is closed */
	bool has_peer, waits;
	const char *not_now; /* what can't be captured of it at this moment; NULL: nothing */
	bool looked; /* into its queue */
	const char *refusal; /* what can't be captured of it; NULL: nothing */
	/* in the new world */
	int node; /* what its name leads to, + 1; 0: nothing */
	bool joined;
};

/* ---- at the source ---- */

struct unix_diag {
	uint32_t state, peer, down, waiting_count;
	bool has_peer;
	uint32_t backlog, queued;
	bool has_file;
	uint32_t file_ino;
	uint32_t waiting[512]; /* as many as fit an answer */
};

/** vin_asker_find() - a way to ask about the network namespace of @sock, kept for the next
 *  Return: descriptor of sock_diag(7), @all's; or negative errno */
int vin_asker_find(struct vin_files *all, int sock);

/** unix_ask() - what sock_diag(7) says of a socket. Return: 0 or negative errno */
int unix_ask(struct vin_files *all, const struct vin_open *o, struct unix_diag *ret,
	     struct fvm_error *err);

/** unix_look() - the look of the kind: all but who is who */
int unix_look(struct vin_files *all, struct vin_open *o, struct fvm_error *err);

/** unix_peek() - the queue of @o, whose processes are stopped, and what it carries */
int unix_peek(struct vin_open *o, struct unix_socket *s, struct fvm_error *err);

/** unix_peek_first() - what the first message in the queue carries, while the processes run: nothing
 *  else can be seen without being noticed */
int unix_peek_first(struct vin_open *o, const struct unix_socket *s, struct fvm_error *err);

/* What of credentials is as the programs count already. */
enum unix_view { UNIX_NOTHING, UNIX_NUMBERS, UNIX_ALL };

/** unix_beside() - have a child with our memory and descriptors do something, that is not ended with
 *  us. Return: 0 or negative errno */
int unix_beside(int (*fn)(void *arg), void *arg);

/** unix_apart() - have a child that shares our descriptors do something, in namespaces of its choice
 *  @fn: returns 0 or negative errno. Return: that, or negative errno */
int unix_apart(int (*fn)(void *arg), void *arg);

/** unix_await() - the end of such a child. Return: as unix_apart() */
int unix_await(pid_t pid);

/** unix_among() - as unix_beside(), born where @pid is, if we may
 *  @view: how it sees credentials; set before @fn runs */
int unix_among(pid_t pid, int (*fn)(void *arg), void *arg, enum unix_view *view);

/** unix_who_inside() - credentials as the processes around @pid count */
void unix_who_inside(pid_t pid, const struct ucred *c, enum unix_view view, struct unix_who *ret);

/** unix_find() - the socket of inode @ino of the tree; NULL: none, or 0 */
const struct vin_open *unix_find(const struct vin_files *all, uint32_t ino);

/* ---- in the image ---- */

void unix_forget(void *its);

void unix_put_message(struct fvm_buf *to, const struct unix_message *m);

/** unix_next_message() - take the next one out of a queue. Return: whether there was one; what is
 *  none sets p->failed */
bool unix_next_message(struct vin_payload *p, struct unix_message *ret);

/** unix_known_option() - whether we ever set it */
bool unix_known_option(uint64_t nr, size_t len);

/** unix_set_options() - as they were */
int unix_set_options(int fd, const struct unix_socket *s, struct fvm_error *err);

/* ---- in the new world ---- */

/** unix_as() - have a child that shares our descriptors do something as @who; pid 0: as we are
 *  @fn: returns 0 or negative errno; changes no memory of ours
 *  Return: what @fn returned, or negative errno */
int unix_as(const struct vin_reopen *r, const struct unix_who *who, int (*fn)(void *arg),
	    void *arg);

/* A name to be given. */
struct unix_place {
	const struct unix_name *name;
	const char *path; /* where its file is to be; "": nowhere */
	uint64_t mode, uid, gid;
};

/** unix_bind() - give a socket a name
 *  @ret_node: what it leads to (O_PATH), the caller's; -1: it is an abstract one */
int unix_bind(const struct vin_reopen *r, int fd, const struct unix_place *place, int *ret_node);

/** unix_reach() - the address by which a bound socket is reached. Return: its length */
socklen_t unix_reach(const struct unix_name *name, int node, struct sockaddr_un *ret);

/** unix_reserve() - a number of ours for what a child is to put there. Return: it, or -errno */
int unix_reserve(void);

/** unix_make_pair() - two that are connected, of which @ret[0] is @s */
int unix_make_pair(const struct vin_reopen *r, const struct unix_socket *s, int ret[2]);

/** unix_open(), unix_fill() - of the kind */
int unix_open(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err);
int unix_fill(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err);

/** unix_refill() - send what was queued in @f */
int unix_refill(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err);

/** unix_of() - what was parsed of a file; NULL: it is no unix socket */
struct unix_socket *unix_of(const struct vin_file *f);

#endif
