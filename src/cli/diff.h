/*
 * cli/diff - what the views of "fvm diff" share
 *
 * Theory of operation
 *   diff.c opens the VM, starts the pager and runs the scan. A view is a table of functions that
 *   get each change as it is found and say the rest at the end:
 *
 *     list     one line per change, streamed                    diff.c
 *     stat     lines added and removed, as git does             diff_stat.c
 *     patch    hunks that patch -p1 and git apply take          diff_patch.c
 *     meaning  packages, users, units, ...                      diff_meaning.c
 *
 *   Whatever comes from a VM is quoted (common/quote.h) before it is printed.
 */
#ifndef FVM_CLI_DIFF_H
#define FVM_CLI_DIFF_H

#include <stdio.h>

#include "cli/cli.h"
#include "fvm/sides.h"

struct diff;

struct diff_view {
	/** change() - take one change. Return: as fvm_change_fn */
	int (*change)(struct diff *d, const struct fvm_change *change);
	/** end() - print what was kept until now. May be NULL. Return: 0 or -errno */
	int (*end)(struct diff *d);
	bool whole_trees; /* wants everything below a deleted directory */
	bool waits;	  /* prints only at the end: show progress */
};

struct diff {
	const struct cli *cli;
	const struct diff_view *view;
	const struct fvm_vm *vm;
	const struct fvm_stacks *stacks;
	bool names_only, with_noise, renames, color, terminal;
	FILE *out;
	unsigned long long counts[FVM_RENAMED + 1], seen, natives;
	struct cli_progress progress;
	unsigned long long progress_count;
	void *state; /* the view's own */
	struct fvm_error *err;
};

extern const struct diff_view diff_list, diff_stat, diff_patch, diff_meaning;

/** diff_quoted() - print a name from a VM, quoted when needed, with @before inside the quotes */
void diff_quoted(FILE *out, const char *before, const char *name);

/** diff_json() - print one JSON object as the next element of the array; releases @item */
void diff_json(struct diff *d, json_t *item);

/** diff_json_name() - a name as a JSON string, in C quotes when it is no UTF-8 */
json_t *diff_json_name(const char *name);

/** diff_describe() - a change as a JSON object; NULL when out of memory */
json_t *diff_describe(const struct fvm_change *change);

#define DIFF_TEXT_MAX (16 * 1024 * 1024) /* bytes of a side; more is shown as binary */

#endif
