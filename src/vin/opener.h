/*
 * vin/opener - another self of this process, that is root of the programs' user namespace
 *
 * Theory of operation
 *   Who replays for a VM is root of the machine: he traces, and is shown filters. But files that he
 *   makes have to belong to the VM's ids, and sockets have to remember them. A second process,
 *   which shares our memory and descriptors, enters the user namespace and becomes its root. It runs
 *   what it is asked to while we wait, so nothing else of ours is running then.
 *   It ends with us. What it calls must not return into our frames nor leave locks taken; errno is
 *   ours.
 * Sources: clone(2), setns(2), user_namespaces(7).
 */
#ifndef VIN_OPENER_H
#define VIN_OPENER_H

#include <sys/types.h>

#include "common/common.h"

struct vin_opener;

/** vin_become_root() - enter the user namespace of @within (pidfd, or of the namespace) as its root,
 *  this thread alone. Return: 0 or -errno */
int vin_become_root(int within);

/** vin_be_root() - root of the user namespace that we have all rights in. Return: 0 or -errno */
int vin_be_root(void);

/** vin_opener_start() - one in the user namespace that process @within is in; *@ret is NULL when
 * that is ours: nobody else is needed. Return: 0 or -errno */
int vin_opener_start(pid_t within, struct vin_opener **ret, struct fvm_error *err);

/** vin_opener_do() - have @fn run by it; by ourselves when @o is NULL
 *  Return: what @fn did, or -EPIPE (it is gone) */
int vin_opener_do(struct vin_opener *o, int (*fn)(void *arg), void *arg);

/** vin_opener_end() - @o may be NULL */
void vin_opener_end(struct vin_opener *o);

#endif
