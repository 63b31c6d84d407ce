/*
 * vin/replay_priv - what the files of replay share
 *
 *   replay.c  records, and what is done when all are there
 *   replay_files.c  descriptors of all of them
 *   birth.c   who is whose child, of which session and group, and with which terminal
 *   enter.c   who goes into namespaces of his own
 */
#ifndef VIN_REPLAY_PRIV_H
#define VIN_REPLAY_PRIV_H

#include "vin/early.h"
#include "vin/family.h"
#include "vin/ipc.h"
#include "vin/mem.h"
#include "vin/mounts.h"
#include "vin/namespaces.h"
#include "vin/opener.h"
#include "vin/replay.h"
#include "vin/spaces.h"
#include "vin/thread.h"
#include "vin/users.h"

/* One process, as far as it is made. */
struct actor {
	const struct vin_member *member;
	struct vin_blank blank;
	pid_t session; /* that it is in */
	bool born;
	bool made; /* with its session and children */
	bool mapped;
	struct vin_mem mem;
	struct vin_thread_state *states; /* as many as member->threads, when all have come */
	size_t state_count;
	struct vin_thread *threads; /* but the first */
	size_t thread_count;
	bool signalled; /* SIGCHLD waits for it, as it did */
	void *traits; /* NULL: none came */
	size_t traits_len;
};

struct vin_replay {
	struct vin_replay_options options;
	struct vin_nest nest;
	bool begun;		  /* its first process waits */
	struct vin_opener *opener; /* NULL: we are that ourselves */
	struct vin_ipc_new ipc;
	struct vin_objects objects;
	struct vin_mounts_new mounts;
	struct vin_blocks blocks;
	struct vin_early early;
	struct vin_moved moved;
	struct vin_reopen *files; /* NULL: a bare image */
	int pool;		  /* first number of the files */
	pid_t last;		  /* number of a guest that waits */
	pid_t spare;		  /* a number that is free, as are all above it */
	struct vin_family family;
	struct vin_users users;
	struct vin_namespaces own;
	struct vin_lazy *lazy; /* NULL: memory is there before they run */
	struct actor *actors; /* as the family's members */
	pid_t first; /* PID 1 of a world of its own */
	bool running;
};

/** vin_replay_actor() - the one with a number, or NULL */
struct actor *vin_replay_actor(struct vin_replay *r, pid_t number);

/** vin_replay_finish_files() - vin_reopen_finish() by the opener */
int vin_replay_finish_files(struct vin_replay *r, struct fvm_error *err);

/** vin_actor_call() - one system call by its first thread, which has to succeed */
int vin_actor_call(struct actor *a, const char *name, struct vin_call c, struct fvm_error *err);

/** vin_birth_all() - everybody of the family, each in its session. Return: 0, -EOPNOTSUPP, .. */
int vin_birth_all(struct vin_replay *r, struct fvm_error *err);

/** vin_actors_enter() - all are born: each enters those of its namespaces that are not the world's,
 *  but a user namespace */
int vin_actors_enter(struct vin_replay *r, struct fvm_error *err);

/** vin_actor_enter_users() - and that one, for good: every right outside ends with it */
int vin_actor_enter_users(struct vin_replay *r, struct actor *a, struct fvm_error *err);

/** vin_birth_groups() - process groups, and which of them has its session's terminal; the files
 *  are still in the pool */
int vin_birth_groups(struct vin_replay *r, struct fvm_error *err);

/** vin_actors_meet() - all have their threads: open what leads to them, and finish all files */
int vin_actors_meet(struct vin_replay *r, struct fvm_error *err);

/** vin_actors_place() - descriptors to their own numbers; what processes do by these themselves */
int vin_actors_place(struct vin_replay *r, struct fvm_error *err);

/** vin_birth_zombie() - it ends as it had ended */
int vin_birth_zombie(struct actor *a, struct fvm_error *err);

/** vin_birth_lose_leader() - its first thread ends as it had before the others */
int vin_birth_lose_leader(struct actor *a, struct fvm_error *err);

#endif
