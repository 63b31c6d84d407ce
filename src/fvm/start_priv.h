/*
 * fvm/start_priv - one start under way: what start.c and start_user.c share
 */
#ifndef FVM_START_PRIV_H
#define FVM_START_PRIV_H

#include "fvm/build.h"
#include "fvm/cgroup.h"
#include "fvm/disk.h"
#include "fvm/hide.h"
#include "fvm/idmap_user.h"
#include "fvm/net.h"
#include "fvm/root_user.h"
#include "fvm/skeleton.h"
#include "fvm/start.h"

/* All that one start needs; lives in the starter's memory, which the builder shares. */
struct start {
	struct fvm_vm *vm;
	const struct fvm_start_options *options;
	struct fvm_plan plan;
	struct fvm_hide hide;
	struct fvm_binds binds;
	struct fvm_idmap map;
	struct fvm_cgroups cgroups;
	struct fvm_net net;
	enum fvm_disk disk;
	struct fvm_running running;
	struct fvm_error err; /* the builder's */
	bool has_cgroup, has_net;
	char *resolv; /* /etc/resolv.conf for the VM, NULL: the host's */

	int alive, slot, run_dir, control, log, status;
	int go[2]; /* closed by the builder: PID 1 may go; a byte: it must end */
	int report[2];
	int prove[2];
	struct fvm_bait *bait;
	int client[2];
	int trace[2]; /* over which the tracer gets its listener */

	/* rootless: start_user.c */
	struct fvm_user_ids ids;
	struct fvm_trees trees;
	struct fvm_skeleton skeleton;
	char *owned; /* text of skeleton.owned; NULL: one id only */
	size_t owned_len;
	int supervisor[2]; /* over which the supervisor gets its listener */
	int owners;	   /* for the supervisor, too */
	int guard[2];	   /* hangs up when the supervisor ends */
	pid_t supervisor_pid;
	pid_t init;
	int pidfd;
};

/* ---- start.c: steps of the builder, which both ways have ---- */

/** start_make_init() - clone PID 1 into namespaces of its own; it waits to be let go */
int start_make_init(struct start *s);
/** start_build_world() - see build.h */
int start_build_world(struct start *s);

/* ---- start_user.c: a rootless VM ---- */

/** start_user_take() - skeleton, plan of the overlays, sockets */
int start_user_take(struct start *s, struct fvm_error *err);
/** start_user_hand_over() - all is well: let the supervisor begin */
int start_user_hand_over(struct start *s, struct fvm_error *err);
/** start_user_builder() - the builder, for fvm_spawn_shared(); @arg: struct start */
int start_user_builder(void *arg);
/** start_user_inside() - PID 1, last of all: filter on, listener to the supervisor */
int start_user_inside(const struct start *s, struct fvm_error *err);
void start_user_free(struct start *s);

#endif
