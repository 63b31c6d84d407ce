/*
 * fvm/init - PID 1 of a VM, the sessions it keeps, and how others talk to it
 *
 * Theory of operation
 *   The starter (start.c) has cloned PID 1 into its namespaces and mounted its world. It then calls
 *   fvm_init_main(), which never returns: not dumpable, no host descriptor left but those named
 *   below, seccomp filter on, one epoll loop. It reaps, forwards signals, starts sessions and
 *   keeps them.
 *
 *   A *session* is one command with its terminal or pipes. The first may come with the start;
 *   others come over the control socket (RUN/vms/NAME/control, SOCK_SEQPACKET, 0600, host side).
 *   One connection carries one request; a session's connection stays open for its stream:
 *
 *     client -> PID 1   struct fvm_msg header, then the payload of its type
 *     FVM_MSG_RUN       a command (packed, see control.c); descriptors 0-2 when it has no terminal
 *     FVM_MSG_ATTACH    session id; output so far (last 64 KiB) comes first
 *     FVM_MSG_STDIN     bytes (empty: end of input)       FVM_MSG_WINCH     struct winsize
 *     FVM_MSG_SIGNAL    int32 signal for the session's foreground group
 *     FVM_MSG_LIST      sessions; FVM_MSG_SHUTDOWN uint32 grace period in ms
 *     FVM_MSG_HOLD      session id; FVM_MSG_ADOPT what FVM_MSG_HELD had told (checkpoint.h)
 *     PID 1 -> client
 *     FVM_MSG_STARTED   int32 session id, int32 pid (VM's)  FVM_MSG_OUTPUT  bytes of the terminal
 *     FVM_MSG_REPLAY    bytes from before attaching
 *     FVM_MSG_EXITED    int32 wait status                   FVM_MSG_ERROR   struct fvm_error
 *     FVM_MSG_SESSIONS  one packed record per session
 *     FVM_MSG_HELD      a session as struct fvm_msg_live and its last output; its descriptor
 *     FVM_MSG_ADOPTED   the descriptor for the programs of a session that was made again
 *
 *   A terminal is a pty pair of the VM's own devpts; PID 1 holds the master, so that a session
 *   outlives the client. Without a terminal, pipes and regular files of the caller are passed as
 *   they are (anything else, and output of root's VMs to a file, is relayed by the client), and
 *   PID 1 has nothing to do with them.
 *   What PID 1 reads of a terminal, or of a detached session's output, also goes to the log,
 *   which is cut to its newer half at 16 MiB.
 *
 *   With `until_first_ends` the VM ends with its first session and PID 1 exits with its status
 *   (128+n for a signal); without, when told to shut down. All others get SIGTERM, then, after the
 *   grace period, SIGKILL from the end of the pid namespace.
 */
#ifndef FVM_INIT_H
#define FVM_INIT_H

#include <sys/ioctl.h>
#include <sys/types.h>

#include "common/common.h"
#include "fvm/watchdog.h"

/* Instead of executing a program of the VM, the session's child does this itself (copy.h). */
enum fvm_helper {
	FVM_HELPER_NONE,
	FVM_HELPER_SEND,
	FVM_HELPER_RECEIVE,
	FVM_HELPER_BLANK, /* vin/become.h; argv is the number it gets, input the socket */
	FVM_HELPER_COUNT
};

/* A command to run in a VM. Ids are the VM's. */
struct fvm_command {
	struct fvm_strv argv; /* empty: the user's shell, as a login shell when login is set */
	enum fvm_helper helper;
	struct fvm_strv env;  /* whole environment */
	char *workdir;	      /* falls back to "/" with a warning when it is not there .. */
	bool workdir_must;    /* .. or this, and then it is an error */
	uid_t uid;
	gid_t gid;
	gid_t groups[64];
	size_t group_count;
	bool terminal;	      /* give it a pty */
	bool detached;	      /* no client: output to the log, stdin is /dev/null */
	bool login;
	struct winsize window;
	int fds[3];	      /* to become 0 to 2; -1: the terminal, or /dev/null (detached: log) */
};

/** fvm_command_free() - release what it holds; its descriptors stay open */
void fvm_command_free(struct fvm_command *c);
#define scoped_command __attribute__((cleanup(fvm_command_free))) struct fvm_command

struct fvm_filter; /* see fvm/seccomp.h */

#define FVM_LOG_CUT (8 << 20) /* cut from the front of a log at a time; a follower knows */

struct fvm_init_args {
	const struct fvm_command *first; /* NULL: none, wait for orders */
	bool until_first_ends;
	int control;	/* listening socket */
	int alive;	/* descriptor that holds byte 1 of the lock; kept open, never passed on */
	int keep;	/* another descriptor to keep open and never pass on (the slot's), or -1 */
	int net;	/* the socket of the host's rules, to keep open likewise, or 0 or -1 */
	int hide;	/* another one: what it hides must stay; or -1 */
	int names;	/* file with name servers, see resolv.h, or 0 or -1 */
	const char *resolv; /* what /etc/resolv.conf says now, or NULL */
	int log;	/* O_RDWR|O_APPEND, or -1 */
	int status;	/* gets "exit N\n" or "signal N\n" at the end; or -1 */
	int ended;	/* write end: gets PID 1's exit status, an int, when nothing else of the VM
			 * runs any more, a while before all its namespaces are gone; or 0 or -1 */
	int report;	/* write end: one struct fvm_error if the first command can't be executed
			 * (code ENOENT -> 127, EACCES/ENOEXEC -> 126), closed once it was */
	int prove;	/* write end for the self-test, or -1: see fvm/prove.h */
	const struct fvm_bait *bait; /* NULL: no self-test */
	int guard;	/* the VM ends when it hangs up (a rootless VM's supervisor); or 0 or -1 */
	int client;	/* connected SOCK_SEQPACKET of the starter for the first session, or -1 */
	const struct fvm_filter *filter;	/* seccomp program without notifications, or NULL */
	/* Supervised (supervisor.h): each session's child puts a filter with notifications on
	 * itself, and sends its listener there; or 0 or -1. @session_filter: enum fvm_filter_flags */
	int supervisor;
	unsigned int session_filter;
	bool session_trace; /* and of what a trace notes (recorder.h) */
	struct fvm_watchdog watchdog; /* of the first command; its record is kept in */
	int watchdog_file;	      /* that; or -1 */
	uid_t plain_uid; /* sessions of this user see owners as the kernel knows them */
	/* when PID 1 is ready before the VM's world is: called to wait for it and enter it, with
	 * the one descriptor that this takes; or NULL */
	int (*enter)(int enter_fd, struct fvm_error *err);
	int enter_fd;
};

/**
 * fvm_init_main() - be PID 1 until the VM ends
 *
 * Called in a process that shares no memory with another, after the pivot. Every descriptor that
 * @args does not name is closed; those of args->first are closed once it was forked.
 */
_Noreturn void fvm_init_main(const struct fvm_init_args *args);

/* ---- the client's side (client.c) ---- */

/** fvm_control_connect() - connect to a running VM. Return: socket, or -ESRCH, ... */
struct fvm_vm;
int fvm_control_connect(const struct fvm_vm *vm, struct fvm_error *err);

/** fvm_control_connect_at() - the same by the run directory. Return: socket or -errno */
int fvm_control_connect_at(int dir);

/**
 * fvm_control_run() - start @command as a new session over a fresh connection
 * Return: 0 once it was executed; or -ENOENT (127), -EACCES, -ENOEXEC (126), ...
 */
int fvm_control_run(int sock, const struct fvm_command *command, int *ret_session,
		    struct fvm_error *err);

/** fvm_control_attach() - attach to session @session, or with 0 to the oldest
 *  @ret_terminal: whether it has a terminal; may be NULL. Return: 0, -ENOENT */
int fvm_control_attach(int sock, int session, bool *ret_terminal, struct fvm_error *err);

/** fvm_control_shutdown() - SIGTERM to all, SIGKILL after @grace_ms; returns at once */
int fvm_control_shutdown(int sock, unsigned int grace_ms, struct fvm_error *err);

/* One session, as told by fvm_control_list(). */
struct fvm_session_info {
	int id;
	pid_t pid;	   /* the VM's */
	bool terminal;
	unsigned int clients; /* attached now */
	char command[128]; /* cut to fit */
};

/** fvm_control_list() - sessions that live now, oldest first; free() *ret */
int fvm_control_list(int sock, struct fvm_session_info **ret, size_t *ret_count,
		     struct fvm_error *err);

/** fvm_exec_status() - 127 or 126 for the error of a command that could not be executed */
int fvm_exec_status(int r);

/**
 * fvm_client_stream() - carry a session until it ends or the user detaches
 * @sock:     connection of the session; -1 when PID 1 relays nothing
 * @pidfd:    PID 1's, or -1; our child's is not reaped
 * @ended:    where PID 1 tells its end (fvm_init_args.ended), which is not read, or -1. With it and
 *            without a @sock there is no *ret_status: the caller reads that, or reaps PID 1
 * @terminal: the session has a terminal: if our stdin is one, too, it gets raw mode, SIGWINCH,
 *            and is restored at the end, also when we are killed by a signal that can be caught.
 *            ^P^Q detaches.
 * @ret_status: wait status of the session
 * Without terminal SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are forwarded; with one,
 * those that would end us detach. What fvm_client_stdio() relays is carried here.
 * Return: 0 ended, 1 detached, or negative errno (-EPIPE: the VM is gone and left no status)
 */
int fvm_client_stream(int sock, int pidfd, int ended, bool terminal, int *ret_status,
		      struct fvm_error *err);

enum fvm_tty { FVM_TTY_AUTO, FVM_TTY_FORCE, FVM_TTY_NEVER };

/**
 * fvm_client_stdio() - decide how a command gets our stdin, stdout and stderr
 *
 * Terminal when stdin and stdout are one (or @tty says so); otherwise pipes and regular files are
 * passed, null devices are the VM's own, and directories, sockets, terminals and devices are
 * relayed through a pipe: a directory or socket handed in would be a way out of the VM.
 */
int fvm_client_stdio(struct fvm_command *command, enum fvm_tty tty, struct fvm_error *err);

#endif
