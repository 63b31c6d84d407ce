/*
 * fvm/doctor - what this host offers VMs, what is missing, and how to get it
 *
 * Theory of operation
 *   A table of checks (doctor.c) judges what was found (kernel.h, cgroup.h, the mounts, helper
 *   programs). Each belongs to VMs of root, of ordinary users, or both, and is either needed or
 *   wanted: VMs of a kind can run when nothing they need is missing. A finding names what was seen,
 *   what it costs to do without, and the command that provides it.
 */
#ifndef FVM_DOCTOR_H
#define FVM_DOCTOR_H

#include "fvm/cgroup.h"
#include "fvm/kernel.h"
#include "fvm/plan.h"

enum fvm_doctor_for { FVM_FOR_ROOT = 1, FVM_FOR_USERS = 2, FVM_FOR_ALL = 3 };

struct fvm_finding {
	const char *id;	  /* stable: for --json */
	const char *what; /* "idmapped mounts" */
	enum fvm_doctor_for for_whom;
	bool needed; /* without it VMs of that kind do not start */
	bool good;
	char found[160];   /* what was seen */
	char without[160]; /* what that costs; "" when good */
	char fix[400];	   /* a command or a sentence; "" when there is none */
};

struct fvm_doctor {
	struct fvm_kernel kernel;
	struct fvm_cgroup_host cgroups;
	struct fvm_plan plan;
	char store[1024];
	struct fvm_finding *findings;
	size_t count;
	bool root_works, users_work;
};

/** fvm_doctor_examine() - look at everything; changes nothing. Return: 0 or -ENOMEM... */
int fvm_doctor_examine(const char *store, struct fvm_doctor *ret, struct fvm_error *err);

void fvm_doctor_free(struct fvm_doctor *d);

#endif
