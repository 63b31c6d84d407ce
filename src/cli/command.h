/*
 * cli/command - a command for a VM from the options that run, exec and enter share
 *
 * Theory of operation
 *   Who: the caller; with --root uid 0; with --user whoever has that name in the VM's own
 *   /etc/passwd, which is looked up through its layers, so that it works before the VM runs.
 *   Where: the caller's working directory, unless --workdir.
 *   Environment: the caller's, less what names a socket that is cut off inside (bus, display,
 *   agents), less what looks like a secret unless the VM has --secrets or no network, plus HOME,
 *   USER, LOGNAME, SHELL, PATH and XDG_RUNTIME_DIR of who it is, FVM_VM and debian_chroot with the
 *   VM's name (Debian's prompt shows the latter), the VM's own --env, and the command's.
 */
#ifndef FVM_CLI_COMMAND_H
#define FVM_CLI_COMMAND_H

#include "cli/cli.h"
#include "fvm/init.h"
#include "fvm/store.h"

enum { OPT_ROOT = 200, OPT_USER, OPT_ENV, OPT_WORKDIR };

struct cli_command_options {
	bool root;
	const char *user; /* NAME, UID or UID:GID */
	const char *workdir;
	struct fvm_strv env; /* "K=V", or "K": as the caller has it, also if it is a secret */
	bool tty, no_tty;
};

#define CLI_COMMAND_OPTIONS                                                                        \
	{ OPT_ROOT, "root", NULL, "as the VM's root (default for root)" },                         \
		{ OPT_USER, "user", "USER|UID[:GID]", "as USER of the VM" },                       \
		{ OPT_ENV, "env", "K=V", "set an environment variable; K alone passes yours on" }, \
		{ OPT_WORKDIR, "workdir", "DIR", "working directory (default: yours)" },           \
		{ 't', "tty", NULL, "give it a terminal" },                                        \
	{                                                                                          \
		'T', "no-tty", NULL, "give it no terminal"                                         \
	}

/** cli_command_option() - take one of CLI_COMMAND_OPTIONS. Return: 1 done, 0 not ours, -EINVAL */
int cli_command_option(struct cli_command_options *o, int key, const char *value,
		       struct fvm_error *err);
void cli_command_options_free(struct cli_command_options *o);

/**
 * cli_command_make() - fill @ret for @argv (empty: the user's shell) in @vm
 * Stdio is decided by fvm_client_stdio() unless @detached.
 */
int cli_command_make(const struct fvm_vm *vm, const struct cli_command_options *o, bool detached,
		     int argc, char **argv, struct fvm_command *ret, struct fvm_error *err);

/* Whether cli_exec_in() follows the command, and what it prints when it does not. */
enum cli_exec { CLI_EXEC_FOLLOW, CLI_EXEC_PRINT_SESSION, CLI_EXEC_PRINT_NAME };

/** cli_exec_in() - run it in the running @vm. Return: exit status of fvm */
int cli_exec_in(const struct cli *cli, const struct fvm_vm *vm, const struct cli_command_options *o,
		enum cli_exec how, int argc, char **argv);

/** cli_need_awake() - that @vm runs and is not paused. Return: 0, or -ESRCH and what to do */
int cli_need_awake(const struct fvm_vm *vm, struct fvm_error *err);

/** cli_follow() - carry a session that was started or attached to until it ends or is left
 *  @session: its number for the message on leaving; 0: the only one. Return: exit status */
int cli_follow(const struct cli *cli, const struct fvm_vm *vm, int sock, bool terminal,
	       int session);

/** cli_exec_failure() - print @err of a command that wasn't executed; 127, 126 or 125 */
int cli_exec_failure(const struct fvm_error *err);

#endif
