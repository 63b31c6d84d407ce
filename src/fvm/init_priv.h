/*
 * fvm/init_priv - what the files of PID 1 and of its clients share
 *
 * Theory of operation
 *   init.c     the loop: signals, reaping, the end
 *   serve.c    connections: one request each, then the session's stream
 *   session.c  sessions: pty, output to a ring, from there to clients and log
 *   child.c    the forked child of a session up to its exec
 *   control.c  messages, packed and checked; also the client's half
 *
 *   The ring of a session is the only buffer of its output: each client has a position in it. Its
 *   pty is read while the slowest client leaves room. One that took nothing for LAG_MS is not
 *   waited for any more and goes on later from what the ring still has: so no client can hold up a
 *   program for ever, and none costs memory.
 *   Whatever is closed while events of one batch are handled is marked dead and freed after it.
 */
#ifndef FVM_INIT_PRIV_H
#define FVM_INIT_PRIV_H

#include <stdint.h>
#include <sys/resource.h>

#include "fvm/init.h"
#include "fvm/resolv.h"

#define FVM_MSG_VERSION	   1
#define FVM_MSG_MAX	   65536u     /* longest payload of one message */
#define FVM_MSG_OUTPUT_MAX 32768u     /* longest piece of output in one message */
#define FVM_RUN_MAX	   (6u << 20) /* longest packed command; beyond FVM_MSG_MAX in a memfd */
#define RING_BYTES	   65536u
#define LAG_MS		   10000

enum fvm_msg_type {
	FVM_MSG_RUN = 1,
	FVM_MSG_ATTACH,
	FVM_MSG_STDIN,
	FVM_MSG_WINCH,
	FVM_MSG_SIGNAL,
	FVM_MSG_LIST,
	FVM_MSG_SHUTDOWN,
	FVM_MSG_HOLD,
	FVM_MSG_ADOPT,
	FVM_MSG_STARTED = 32,
	FVM_MSG_OUTPUT,
	FVM_MSG_EXITED,
	FVM_MSG_ERROR,
	FVM_MSG_SESSIONS,
	FVM_MSG_REPLAY, /* as OUTPUT: what was written before the client attached */
	FVM_MSG_HELD,
	FVM_MSG_ADOPTED,
};

struct fvm_msg { /* header; the payload follows in the same packet */
	uint16_t version;
	uint16_t type;
	uint32_t len; /* of the payload */
};

struct fvm_msg_started {
	int32_t session;
	int32_t pid;
	int32_t terminal;
};

struct fvm_msg_session { /* of FVM_MSG_SESSIONS */
	int32_t id, pid;
	uint32_t terminal, clients;
	char command[128];
};

#define FVM_LIVE_OUTPUT 60000u /* of a session's last output, at most */

enum fvm_live_way { FVM_LIVE_NONE, FVM_LIVE_TERMINAL, FVM_LIVE_PIPE };

/* A session as another PID 1 can take it over; its last output follows. */
struct fvm_msg_live {
	int32_t id, pid;
	uint32_t first;	  /* the VM ends with it */
	uint32_t way;	  /* enum fvm_live_way: how PID 1 gets its output */
	uint32_t number;  /* of its terminal */
	uint32_t uid, gid; /* owner of its terminal or pipe */
	uint32_t output;  /* bytes */
	char command[128];
};

/* ---- control.c ---- */

/** fvm_msg_check() - a packet's header: version, type, length. Return: payload, or NULL with err */
const void *fvm_msg_check(const void *packet, size_t len, struct fvm_msg *ret,
			  struct fvm_error *err);

/** fvm_msg_send() - one message in one packet. Return: 0 or -errno (-EAGAIN: no room) */
int fvm_msg_send(int sock, enum fvm_msg_type type, const void *payload, size_t len);

/** fvm_msg_send_fds() - the same with @n descriptors */
int fvm_msg_send_fds(int sock, enum fvm_msg_type type, const void *payload, size_t len,
		     const int *fds, size_t n);

/** fvm_run_pack() - @c without its descriptors, which of them there are as a mask in it */
int fvm_run_pack(const struct fvm_command *c, struct fvm_buf *ret);

/** fvm_run_parse() - the inverse, on bytes that nobody vouches for
 *  @ret: fds[i] is 0 where a descriptor is to come, -1 elsewhere. Return: 0, -EBADMSG, -ENOMEM */
int fvm_run_parse(const void *data, size_t len, struct fvm_command *ret);

/* ---- connect.c ---- */

/**
 * fvm_control_answer() - what PID 1 answers
 * @ret_packet: holds the answer; the caller frees it
 * @ret:        the payload in it
 * @ret_fd:     the descriptor that came with it, or -1; NULL: none is wanted
 * Return: length of the payload, or negative errno: also what PID 1 says went wrong
 */
ssize_t fvm_control_answer(int sock, enum fvm_msg_type wanted, char **ret_packet, const char **ret,
			   int *ret_fd, struct fvm_error *err);

/* ---- log.c ---- */

#define FVM_LOG_CAP (2 * FVM_LOG_CUT)

/** fvm_logfile_add() - append to the log and cut it to its newer half at FVM_LOG_CAP.
 *  @fd: O_RDWR|O_APPEND, or -1.  Failures (disk full) lose lines, nothing else. */
void fvm_logfile_add(int fd, const void *data, size_t len);

/* ---- child.c ---- */

struct child { /* all descriptors >= 3 */
	const struct fvm_command *command;
	int stdio[3]; /* -1: /dev/null */
	int tty;      /* slave to become the controlling terminal, or -1 */
	int report;   /* gets a struct fvm_error if exec fails, or -1 */
	struct rlimit nofile;
	int supervisor; /* gets the listener of its filter (and gives it other ids), or -1 */
	unsigned int filter; /* enum fvm_filter_flags, with a supervisor */
	bool trace;
};

/** fvm_child_main() - in the forked child: become the command. Uses nothing of the VM but
 *  /dev/null, the working directory and the program. */
_Noreturn void fvm_child_main(const struct child *child);

/* ---- init.c ---- */

struct init;

struct source { /* something epoll watches; the first member of what it belongs to, or within */
	int fd; /* -1: closed */
	uint32_t events; /* watched for; 0: not in the set */
	void (*ready)(struct init *init, struct source *source, uint32_t events);
};

struct session {
	struct source out;  /* pty master, or the pipe of a detached command; -1: none */
	struct source exec; /* report of the child until it has executed */
	int slave;	    /* kept open, so that the master never hangs up before the end */
	int id;
	pid_t pid;
	bool terminal, ended, drained, dead;
	bool again; /* its program may be started again: what it was given is kept */
	int status;	  /* wait status once ended */
	size_t after_end; /* bytes read since it ended */
	char *ring;	  /* RING_BYTES */
	uint64_t end;	  /* bytes of output so far */
	uint64_t logged;  /* of which these are in the log */
	char *input;	  /* typed, but not yet taken by the pty */
	size_t input_len;
	char command[128];
	struct session *next;
};

struct client {
	struct source conn;
	struct session *session; /* NULL until it asked for one */
	uint64_t sent;		 /* position in the session's output */
	uint64_t replay;	 /* what is before this is replayed */
	int64_t stalled_ms;	 /* since when, by served_ms, it takes nothing; 0: it does */
	bool lagging, attached, fresh, joined, dead;
	struct client *next;
};

struct init {
	struct fvm_init_args args; /* its descriptors are ours, all >= 3 */
	int epoll;
	int pts;   /* directory of the VM's devpts, from before anybody ran */
	int spare; /* closed to have one descriptor when there are no more */
	struct source control, signals, guard;
	struct session *sessions, *first;
	struct watchdog *watchdog; /* or NULL */
	struct client *clients;
	int next_id;
	struct rlimit nofile; /* the starter's, for the commands */
	bool ending, many_dead, settled;
	bool control_off; /* out of descriptors: do not listen until something closes */
	int64_t deadline_ms;
	int64_t served_ms, seen_ms;   /* see clients_overdue() */
	int status;		      /* wait status the VM ends with */
	char resolv[FVM_NAMES_BYTES]; /* what we have put into /etc/resolv.conf */
};

/** source_watch() - set what @s is watched for; 0 takes it out. Return: 0 or -errno */
int source_watch(struct init *init, struct source *s, uint32_t events);
/** source_close() - take it out of the set and close it */
void source_close(struct init *init, struct source *s);
/** init_shutdown() - end the VM: SIGTERM now, the rest @grace_ms later */
void init_shutdown(struct init *init, unsigned int grace_ms);

/* ---- renew.c ---- */

/** renew_names() - the host has other name servers: have a child tell the VM's programs */
void renew_names(struct init *init);

/* ---- session.c ---- */

/** session_start() - fork @c as a new session
 *  @report: descriptor that gets the error of exec, taken over; -1: session's own pipe
 *  Return: 0 or negative errno with @err */
int session_start(struct init *init, const struct fvm_command *c, int report, struct session **ret,
		  struct fvm_error *err);
/** session_again() - start @c in a session whose program has ended, with its terminal or pipe */
int session_again(struct init *init, struct session *s, const struct fvm_command *c,
		  struct fvm_error *err);
/** session_new() - one that nobody runs in yet; NULL without memory. @id: 0: the next */
struct session *session_new(struct init *init, const char *command, int id);
/** session_terminal() - open a terminal for it, number @number or, < 0, any
 *  Return: 0 or negative errno with @err */
int session_terminal(const struct init *init, struct session *s, int number,
		     struct fvm_error *err);
/** session_pipe() - a detached command without terminal writes to a pipe that PID 1 copies to the log;
 *  it belongs to @uid and @gid.  Return: 0 or negative errno with @err */
int session_pipe(struct session *s, uid_t uid, gid_t gid, struct fvm_error *err);
/** session_ring() - have a place for its output */
int session_ring(struct session *s, struct fvm_error *err);
void session_append(struct init *init, struct session *s);
struct session *session_by_pid(struct init *init, pid_t pid);
struct session *session_by_id(struct init *init, int id);
void session_ended(struct init *init, struct session *s, int status);
/** session_read() - take output while there is room, give it to clients and log */
void session_read(struct init *init, struct session *s);
void session_input(struct init *init, struct session *s, const void *data, size_t len);
void session_resize(struct session *s, const struct winsize *window, bool redraw);
void session_signal(const struct session *s, int sig);
/** session_check() - free an ended session that nobody waits for */
void session_check(struct init *init, struct session *s);
void session_free(struct init *init, struct session *s);

/* ---- adopt_session.c ---- */

/** session_hold() - answer FVM_MSG_HOLD on @sock. Return: 0 or negative errno with @err */
int session_hold(struct init *init, int sock, const void *payload, size_t len,
		 struct fvm_error *err);
/** fvm_live_parse() - a session as an image tells it; bytes that nobody vouches for
 *  Return: its last output, @ret->output bytes in @payload; NULL: it can't be one */
const void *fvm_live_parse(const void *payload, size_t len, struct fvm_msg_live *ret);

/** session_adopt() - answer FVM_MSG_ADOPT on @sock */
int session_adopt(struct init *init, int sock, const void *payload, size_t len,
		  struct fvm_error *err);

/* ---- watchdog_init.c ---- */

/** watchdog_start() - before the first command starts: get ready to watch it, if that is wanted
 *  Return: 0 or negative errno with @err */
int watchdog_start(struct init *init, const struct fvm_command *command, struct fvm_error *err);
/** watchdog_adopt() - the same for the first session of another PID 1, whose program, @uid's, is to
 *  come: how to start it again is not known */
int watchdog_adopt(struct init *init, uid_t uid, struct fvm_error *err);
/** watchdog_started() - it runs, as init->first */
void watchdog_started(struct init *init);
/** watchdog_keeps() - whether it starts the first command again, and so needs its descriptors */
bool watchdog_keeps(const struct init *init);
/** watchdog_tick() - do what is due. Return: ms until the next time, -1: nothing will be due */
int watchdog_tick(struct init *init);
/** watchdog_ended() - the program of @s has ended. Return: whether it will be started again */
bool watchdog_ended(struct init *init, struct session *s, int status);
/** watchdog_give_up() - the VM is to end: who waits to be started again has ended for good */
void watchdog_give_up(struct init *init);
/** watchdog_signal() - session_signal() on somebody's wish; ends who waits to be started again */
void watchdog_signal(struct init *init, const struct session *s, int sig);

/* ---- serve.c ---- */

int serve_start(struct init *init);
/** client_first() - take over the starter's connection for the first session */
void client_first(struct init *init, int fd);
/** client_push() - send what there is for @c, and the session's end after it */
void client_push(struct init *init, struct client *c);
/** client_room() - how much of the ring may be overwritten for all it cares */
size_t client_room(const struct client *c);
/** clients_exec_result() - tell who asked whether the command was executed (@err NULL: yes) */
void clients_exec_result(struct init *init, struct session *s, const struct fvm_error *err);
/** clients_input() - (stop to) listen to the clients of @s */
void clients_input(struct init *init, struct session *s, bool on);
/** clients_overdue() - give up waiting for clients that stalled. Return: whether any is waited for
 */
bool clients_overdue(struct init *init);

#endif
