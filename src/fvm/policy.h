/*
 * fvm/policy - files that say what VMs, or VMs of certain programs, may use
 *
 * Theory of operation
 *   A policy is a file NAME.policy of sections, keys and values, as in .desktop and unit files:
 *
 *     # what it is for
 *     [policy]
 *     summary = Coding agents: the network, but no secrets
 *     [match]
 *     program = claude*
 *     [vm]
 *     net = nat
 *     hide = ~/Documents
 *
 *   One value a line; a list has a line per element. '#' or ';' begins a comment where a line
 *   begins. What is not known, said twice, or no value of its kind is an error with its line: a
 *   policy that is half understood protects half.
 *   The keys of [vm] are the table in policy_parse.c, and fvm-policy(5).
 *   "~/" is every home in hide and show, and the caller's in other paths. A '-' before a path
 *   stands for "if it is there", one before memory, cpus or pids for "if the host can".
 *
 *   Files are looked for in ~/.config/fvm/policy.d, /etc/fvm/policy.d, and where the shipped ones
 *   are; a name found in one hides the same name in the later ones. FVM_POLICY_PATH (directories,
 *   with ':' between) stands in for the shipped ones.
 *
 *   What holds in the end, the strongest first:
 *     the command line > policies named there, the last first > those of ~/.config that match the
 *     program > those of /etc that do > the shipped ones that do
 *   A single value is the strongest one's; lists are joined. Policies are read anew at each start
 *   and are not written into the VM's configuration. One that is named by its path may not lie in
 *   a directory that the VM writes through (--direct, --bind).
 */
#ifndef FVM_POLICY_H
#define FVM_POLICY_H

#include "fvm/config.h"

enum fvm_policy_origin { FVM_POLICY_NAMED, FVM_POLICY_USER, FVM_POLICY_SYSTEM, FVM_POLICY_SHIPPED };

struct fvm_policy {
	char *name; /* file name without ".policy" */
	char *path;
	enum fvm_policy_origin origin;
	char *summary;		  /* or NULL */
	struct fvm_strv programs; /* shell patterns; one with a slash is for the whole path */
	struct fvm_config vm;	  /* values of the keys given */
	uint32_t given;		  /* bit per row of the table of keys */
};

void fvm_policy_free(struct fvm_policy *p);
#define scoped_policy __attribute__((cleanup(fvm_policy_free))) struct fvm_policy

/**
 * fvm_policy_parse() - read the text of a policy (parser of outside bytes)
 * Name, path and origin of *@ret stay empty. Return: 0, -ENOMEM, or -EBADMSG with the line
 */
int fvm_policy_parse(const char *text, size_t len, struct fvm_policy *ret, struct fvm_error *err);

/** fvm_policy_merge() - values that @p gives into @into, where a stronger one has not been given
 *  @taken: bit per key that was; updated. Return: 0 or -ENOMEM */
int fvm_policy_merge(const struct fvm_policy *p, struct fvm_config *into, uint32_t *taken);

/** fvm_policy_given() - bits of the single values that the command line gave */
uint32_t fvm_policy_given(const struct fvm_config *config);

/** fvm_policy_load() - a policy by name, or by path if there is a slash in it
 *  Return: 0, -ENOENT with the names there are, -EBADMSG, ... */
int fvm_policy_load(const char *name, struct fvm_policy *ret, struct fvm_error *err);

/** fvm_policy_matches() - whether it is for @program (a name, or a path) */
bool fvm_policy_matches(const struct fvm_policy *p, const char *program);

/**
 * fvm_policy_apply() - @config with all policies that apply merged in
 * @program:  first word of the command to be run; NULL: only named policies apply
 * @ret:      starts empty; to be used for a start, never to be saved
 * @ret_used: names of the policies, strongest first; may be NULL
 */
int fvm_policy_apply(const struct fvm_config *config, const char *program, struct fvm_config *ret,
		     struct fvm_strv *ret_used, struct fvm_error *err);

#endif
