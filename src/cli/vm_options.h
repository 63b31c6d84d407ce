/*
 * cli/vm_options - the options that say what a VM is: shared by create, run and import
 */
#ifndef FVM_CLI_VM_OPTIONS_H
#define FVM_CLI_VM_OPTIONS_H

#include "cli/cli.h"
#include "fvm/config.h"

enum {
	OPT_NET = 300,
	OPT_MEMORY,
	OPT_CPUS,
	OPT_PIDS,
	OPT_CONNECTIONS,
	OPT_DISK,
	OPT_DEVICE,
	OPT_BIND,
	OPT_HIDE,
	OPT_DIRECT,
	OPT_NATIVE,
	OPT_POLICY,
	OPT_HOSTNAME,
	OPT_SECRETS,
	OPT_IO_URING,
	OPT_INIT,
};

#define VM_OPTIONS                                                                                 \
	{ OPT_NET, "net", "nat|none|host", "network: own with NAT (default), none, or the host's" }, \
	{ 'p', "publish", "[ADDR:]HOST:GUEST", "forward a port of the host (again: /udp)" },        \
	{ OPT_MEMORY, "memory", "SIZE", "limit of memory, as in 512M" },                            \
	{ OPT_CPUS, "cpus", "N", "limit of processors, as in 1.5" },                                \
	{ OPT_PIDS, "pids", "N", "limit of processes and threads" },                                \
	{ OPT_CONNECTIONS, "connections", "N", "limit of network connections" },                    \
	{ OPT_DISK, "disk", "SIZE", "limit of what it may write" },                                 \
	{ OPT_DEVICE, "device", "PATH", "permit a device of the host, as in /dev/kvm" },            \
	{ OPT_BIND, "bind", "S[:D][:ro]", "show the host's S at D, written through" },              \
	{ OPT_HIDE, "hide", "PATH", "let PATH not be seen" },                                       \
	{ OPT_DIRECT, "direct", "PATH", "write PATH through to the host" },                         \
	{ OPT_NATIVE, "native", "DIR[:empty]", "DIR is a plain directory of the VM's own" },        \
	{ OPT_POLICY, "policy", "FILE|NAME", "apply a policy" },                                    \
	{ OPT_HOSTNAME, "hostname", "NAME", "host name inside (default: the host's)" },             \
	{ OPT_SECRETS, "secrets", NULL, "let keys, tokens and browser profiles be seen" },          \
	{ OPT_IO_URING, "io-uring", NULL, "permit io_uring" },                                      \
	{ OPT_INIT, "init", "fvm|systemd", "what PID 1 is" }

/**
 * cli_vm_option() - put one of VM_OPTIONS into @config
 * Return: 1 done, 0 not one of these, or -EINVAL with @err
 */
int cli_vm_option(struct fvm_config *config, int key, const char *value, struct fvm_error *err);

/** cli_vm_option_clear() - take the list that option @key adds to out of @config */
void cli_vm_option_clear(struct fvm_config *config, int key);

/** cli_vm_new() - a name (made up when @name is NULL), an id and the time for a new VM's @config */
struct fvm_store;
int cli_vm_new(const struct fvm_store *store, struct fvm_config *config, const char *name,
	       struct fvm_error *err);

#endif
