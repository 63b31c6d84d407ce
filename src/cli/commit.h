/*
 * cli/commit - how commit and undo show what they do
 */
#ifndef FVM_CLI_COMMIT_H
#define FVM_CLI_COMMIT_H

#include "cli/cli.h"
#include "fvm/commit.h"

struct commit_view { /* the argument of the library's call-backs */
	const struct cli *cli;
	struct cli_progress progress;
	bool yes;	  /* do not ask */
	const char *name; /* of the VM */
	json_t *entries;  /* list of planned changes, or NULL: they are printed */
};

/** commit_list_entry() - one planned change: a line, or an object in the view's list */
void commit_list_entry(void *arg, char kind, const char *path, uint64_t size, bool merged);
void commit_progress(void *arg, const char *what, uint64_t done, uint64_t total);
/** commit_ask() - yes unless a person at a terminal says something else */
bool commit_ask(struct commit_view *view, const char *question);
void commit_print_problems(const struct fvm_problems *problems);
void commit_print_services(const struct cli *cli, const struct fvm_strv *services);
json_t *commit_result_json(const struct fvm_commit_result *result);

#endif
