/*
 * fvm/start_priv - one start under way: what the files start*.c share
 */
#ifndef FVM_START_PRIV_H
#define FVM_START_PRIV_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "fvm/build.h"
#include "fvm/cgroup.h"
#include "fvm/disk.h"
#include "fvm/hide.h"
#include "fvm/idmap_user.h"
#include "fvm/net.h"
#include "fvm/net_user.h"
#include "fvm/root_user.h"
#include "fvm/skeleton.h"
#include "fvm/standins.h"
#include "fvm/start.h"

/* What PID 1 waits for, in this order. */
enum start_step {
	START_MAPPED = 'm', /* its user namespace has ids */
	START_GO = 'g',	    /* its world is built, its network connected, and all is noted */
};

/* The net thread: start_net.c. */
struct start_net {
	pthread_t thread;
	pid_t tid;
	sem_t prepared, cloned, mounted;
	bool running;
	bool heard;	      /* past start_net_heard() */
	bool abandoned;	      /* no PID 1 came */
	atomic_bool stopping; /* others have failed, and end PID 1 under its hands */
	bool ended_init;      /* it failed by itself, and so PID 1 had to end */
	bool needs_relay;
	bool noted; /* start_note_running() has been done */
	int result;
	struct fvm_error err;
};

/* The thread that waits for a user's builder, and how far that is: start_user.c. */
struct start_builder {
	struct fvm_ahead *ahead, *own; /* the thread, and it if it is ours to free */
	sem_t spaced;		       /* by the builder: it has its namespaces, or has failed */
	sem_t planned; /* by the starter: there is a plan, or abandoned is set */
	sem_t cloned;  /* by the builder: it makes no copy of our memory any more */
	bool running, abandoned;
	int net; /* its network namespace, if slirp.c has work with it */
};

/* All that one start needs; lives in the starter's memory, which the builder shares. */
struct start {
	struct fvm_vm *vm;
	const struct fvm_start_options *options;
	struct fvm_plan plan;
	struct fvm_accounts accounts;
	struct fvm_hide hide;
	int hide_shared; /* held by PID 1, too */
	int hide_kept;	 /* by the network's keeper */
	struct fvm_binds binds;
	struct fvm_natives natives;
	struct fvm_idmap map;
	struct fvm_cgroups cgroups;
	struct fvm_net net;
	struct start_net net_thread;
	enum fvm_disk disk;
	struct fvm_running running;
	struct fvm_error err; /* the builder's */
	bool has_cgroup, has_net;
	char *resolv; /* /etc/resolv.conf for the VM, NULL: the host's */

	int alive, slot, run_dir, control, log, status, watchdog;
	int go[2];  /* to PID 1: a byte for each enum start_step; its end: somebody died */
	int spaces; /* eventfd: its namespaces are made; a count for each who waits */
	int world;  /* see struct fvm_started */
	int report[2];
	int ended[2];
	int prove[2];
	struct fvm_bait *bait;
	int client[2];
	int trace[2];	/* over which the tracer gets its listener */
	int trace_file; /* the supervisor's, which is the tracer where there is one */

	bool supervised; /* rootless, or some base is unmapped (base.h) */

	/* start_user.c */
	struct start_builder builder;
	bool guess; /* the skeleton is compared later, while the builder mounts */
	struct fvm_user_ids ids;
	struct fvm_net_user net_user;
	struct fvm_slirp slirp;
	int late[2]; /* between supervisor and slirp.c where the network may be late; else -1 */
	struct fvm_trees trees;
	struct fvm_skeleton skeleton;
	struct fvm_standins *standins;
	size_t standin_count;
	char *owned; /* text of skeleton.owned; NULL: root's VM */
	size_t owned_len;
	int supervisor[2]; /* over which the supervisor gets its listener */
	int owners;	   /* for the supervisor, too */
	int guard[2];	   /* hangs up when the supervisor ends */
	pid_t supervisor_pid;
	pid_t init;
	int pidfd;
	int userns; /* PID 1's */
};

/* ---- start.c ---- */

/** start_note_running() - state.json: once the builder has no more to say of mounts */
int start_note_running(struct start *s, struct fvm_error *err);

/** start_look() - what the host is, and what of it this configuration hides */
int start_look(const struct fvm_config *c, const char *store, struct fvm_plan *ret_plan,
	       struct fvm_hide *ret_hide, struct fvm_error *err);

/* ---- start_plan.c: the same ahead ---- */

/** start_take_lookout() - what fvm_lookout_begin() has led to. Return: false, and nothing: it was
 *  not begun, has failed, was used already, or is for another configuration */
bool start_take_lookout(struct start *s);

/* ---- start_ids.c: for whom, and as whom ---- */

/** start_find_account() - s->accounts of whom the VM is for; before there are threads */
void start_find_account(struct start *s);
/** start_take_slot() - a slot whose ids nobody of this host has, and s->map for it */
int start_take_slot(struct start *s, struct fvm_error *err);

/* ---- start_take.c: what there has to be before PID 1 ---- */

/** start_take() - what does not depend on the plan: the alive lock, cgroups, a slot with its
 * network and disk; an ordinary user's builder, which begins */
int start_take(struct start *s, struct fvm_error *err);
/** start_take_planned() - what does: a user's skeleton and disk; files, pipes, bait, tracer */
int start_take_planned(struct start *s, struct fvm_error *err);

/* ---- start_build.c: the builder, and its steps for start_user.c ---- */

/** start_build() - root's builder, for fvm_spawn_shared(). @arg: struct start. Return: 0 or 1 */
int start_build(void *arg);
/** start_make_init() - clone PID 1 into namespaces of its own; it waits to be let go */
int start_make_init(struct start *s);
/** start_map_ids() - write the maps of PID 1's user namespace, and let it go on */
int start_map_ids(struct start *s);
/** start_let() - PID 1 may do the next step. Return: 0 or negative errno */
int start_let(const struct start *s, enum start_step step);
/** start_await_spaces() - until PID 1 has all its namespaces. Return: 0, or -ESRCH: it died */
int start_await_spaces(const struct start *s);
/** start_build_world() - see build.h */
int start_build_world(struct start *s);

/* ---- start_inside.c: PID 1 ---- */

/** start_inside() - be PID 1, from clone3() on; see fvm_init_main() */
_Noreturn void start_inside(const struct start *s);

/* ---- start_net.c: nat beside everything else, in a thread ---- */

/** start_net_begin() - addresses, rules, ports: under way from here on; needs the slot */
int start_net_begin(struct start *s, struct fvm_error *err);
/** start_net_heard() - wait for that; the thread sleeps now, so that a copy of our memory is sound.
 *  Return: 0 (also without nat), or negative errno: the thread has the error */
int start_net_heard(struct start *s);
/** start_net_prepared() - the same, with the thread's error, and its end */
int start_net_prepared(struct start *s, struct fvm_error *err);
/** start_net_connect() - PID 1 is there: the thread connects it */
void start_net_connect(struct start *s);
/** start_net_mounted() - the VM's own trees are: the thread may note what runs */
void start_net_mounted(struct start *s);
/** start_net_end() - wait for the thread. Return: 0 (also without nat), or its error */
int start_net_end(struct start *s, struct fvm_error *err);
/** start_net_abandon() - after a failure: end the thread wherever it is. PID 1 may still live */
void start_net_abandon(struct start *s);

/* ---- start_user.c: a rootless VM; and what any with a supervisor needs ---- */

/** start_user_take() - skeleton, plan of the overlays, sockets */
int start_user_take(struct start *s, struct fvm_error *err);
/** start_unmapped_take() - the same for root's where a base is unmapped */
int start_unmapped_take(struct start *s, struct fvm_error *err);
/** start_standins() - servers for the network's mounts that need one (standins.h); without FUSE
 *  there are none, and what is closed to strangers stays so */
int start_standins(struct start *s, struct fvm_error *err);
/** start_supervisor() - @proc: the host's /proc, O_PATH */
int start_supervisor(struct start *s, int proc);
/** start_user_hand_over() - all is well: let the supervisor begin */
int start_user_hand_over(struct start *s, struct fvm_error *err);
/** start_user_begin() - let the builder make its namespaces, while the rest is planned */
int start_user_begin(struct start *s, struct fvm_error *err);
/** start_user_build() - all is planned: let it build the world, and see to it that the skeleton is
 *  as the host is. Return: what fvm_spawn_shared() does, or -ESTALE: begin anew */
int start_user_build(struct start *s);
/** start_user_go() - PID 1 has been let go: what may be late */
void start_user_go(const struct start *s);
/** start_user_abandon() - after a failure: end the builder wherever it is */
void start_user_abandon(struct start *s);
/** start_user_filter() - what its sessions ask the supervisor about: enum fvm_filter_flags */
unsigned int start_user_filter(const struct start *s);
void start_user_free(struct start *s);

#endif
