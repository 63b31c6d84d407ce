/*
 * fvm/state - what is known of a running VM: RUN/vms/NAME/state.json
 *
 * Written by the starter before PID 1 is let go; read by every other command. It is believed only
 * while byte 1 of the VM's lock is held (see store.h), and init_pid only together with its start
 * time from /proc/PID/stat.
 */
#ifndef FVM_STATE_H
#define FVM_STATE_H

#include "fvm/store.h"

struct fvm_left_out {	/* a mount of the host that the VM does not see, or FVM_SKELETON_LEFT */
	char *path;
	char *why;
};

struct fvm_running {
	pid_t init_pid;		/* PID 1 of the VM, in the caller's pid namespace */
	uint64_t init_start;	/* field 22 of /proc/PID/stat, clock ticks since boot */
	pid_t helper_pid;	/* supervisor (rootless), 0 if none */
	pid_t net_pid;		/* who watches over pasta or slirp4netns; 0: none, or later */
	int64_t started_ns;
	uint32_t slot;		/* number of the uid range and of the network address */
	uint32_t uid_base;	/* host uid of the VM's root */
	char address4[16];	/* "" without a network of its own */
	char address6[46];
	char cgroup[384];	/* fvm_cgroups.name: for fvm_cgroup_named(); "" if none */
	char interface[16];	/* host's end of the veth pair, "" if none */
	struct fvm_strv policies; /* names of those that apply, strongest first */
	struct fvm_strv keys;	/* keys of the mounts that are overlaid now */
	struct fvm_left_out *left_out;
	size_t left_out_count;
};

void fvm_running_free(struct fvm_running *r);
#define scoped_running __attribute__((cleanup(fvm_running_free))) struct fvm_running

/** fvm_running_load() - Return: 0, or -ESRCH when the VM is not running */
int fvm_running_load(const struct fvm_vm *vm, struct fvm_running *ret, struct fvm_error *err);
int fvm_running_save(const struct fvm_vm *vm, const struct fvm_running *r, struct fvm_error *err);

/** fvm_running_parse() - read the text of a state.json; on failure *@ret is untouched. Return: 0,
 *  -EBADMSG, or -ENOMEM */
int fvm_running_parse(const char *text, size_t len, struct fvm_running *ret);

/** fvm_running_helper_gone() - wait until the helper of an ended VM, which holds its mounts as long
 *  as it is there, has ended, too. @run_dir: the VM's. Return: whether it has */
bool fvm_running_helper_gone(int run_dir, int timeout_ms);

/** fvm_running_pidfd() - pidfd of PID 1, checked against its start time. Return: fd or -ESRCH */
int fvm_running_pidfd(const struct fvm_running *r);

/**
 * fvm_tidy_stopped() - take away what a VM that stopped by itself left behind
 *
 * Cgroups, published ports, slot, run directory. Called under the VM's lock by whoever finds byte 1
 * free and a run directory still there; does nothing the second time.
 */
void fvm_tidy_stopped(const struct fvm_vm *vm);

/**
 * fvm_tidy_later() - the first, quick half of it: the run-time directory is moved to RUN/ended/VMID
 * so that its name is free at once; fvm_tidy_ended_dir() does the rest, now or after a crash
 * Return: its descriptor, which holds flock(2) so that nobody else begins; -1 if there is none
 */
int fvm_tidy_later(const struct fvm_vm *vm);

/** fvm_tidy_again() - a VM to be thrown away could not be deleted: the next command tries again */
void fvm_tidy_again(const struct fvm_vm *vm);

/**
 * fvm_tidy_ended_dir() - the second half
 * @held: what fvm_tidy_later() returned; -1: take it, unless somebody else has it
 */
void fvm_tidy_ended_dir(const struct fvm_store *store, const char *vm_id, int held);

#endif
