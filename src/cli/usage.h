/*
 * cli/usage - what running VMs use, for stats and top
 *
 * The cgroups tell it where a VM has some; what they don't tell is added up over its processes,
 * which misses those that have ended. CPU use is a rate: of two samples of the same VM.
 */
#ifndef FVM_CLI_USAGE_H
#define FVM_CLI_USAGE_H

#include "cli/cli.h"
#include "fvm/cgroup.h"
#include "fvm/procs.h"
#include "fvm/state.h"

struct cli_usage {
	char name[FVM_NAME_MAX + 1];
	enum fvm_state state;
	pid_t init;
	uint32_t cpu_limit_percent; /* 0: none */
	struct fvm_cgroup_stats stats;
	bool has_disk; /* somebody counts what it has written */
	uint64_t disk_bytes, disk_limit_bytes;
	int64_t at_ns;	    /* monotonic */
	double cpu_percent; /* of one CPU; < 0: not known yet */
};

struct cli_usages {
	struct cli_usage *items;
	size_t count;
};

void cli_usages_free(struct cli_usages *u);
#define scoped_usages __attribute__((cleanup(cli_usages_free))) struct cli_usages

/**
 * cli_usages_take() - a sample of VMs
 * @names:      which, or NULL: all that run
 * @before:     an earlier sample for the rates, or NULL
 * @ret_status: what is wrong with one of @names is printed, the others are taken, and this becomes
 *              fvm's exit status; unchanged when all could be asked. NULL with @names NULL
 * Return: 0, or negative errno when none could be asked
 */
int cli_usages_take(const struct fvm_store *store, const struct fvm_strv *names,
		    const struct cli_usages *before, struct cli_usages *ret, int *ret_status,
		    struct fvm_error *err);

/** cli_clean() - what a VM's programs chose, made harmless for a terminal: @text in at most
 *  @size - 1 bytes of @buf, with ? for control bytes and for what is not UTF-8 */
const char *cli_clean(const char *text, char *buf, size_t size);

/** cli_size_short() - "512M", "1.5G", "-" for what is not known; at most 5 columns */
const char *cli_size_short(bool known, uint64_t bytes, char buf[8]);

/** cli_command_line() - what to show for a process: its command line, or [NAME] */
const char *cli_command_line(const struct fvm_proc *p, char *buf, size_t size);

/** cli_cpu_time() - "1:02.03", "3:04:05" */
const char *cli_cpu_time(uint64_t ns, char buf[24]);

#endif
