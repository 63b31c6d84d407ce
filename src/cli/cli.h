/*
 * cli - the command line: one file and one table per subcommand
 *
 * Theory of operation
 *   Two programs share this folder. "fvm" is what every start runs, so it links next to nothing;
 *   "fvm-changes" (in libexec) has the commands that need libarchive, zstd or libcrypto, and "fvm"
 *   executes it for them. Which command lives where is the list in main.c.
 *   Each command is a struct cli_command: its words, its options as a table, its function. --help,
 *   the hidden "fvm __commands" (which the completions and the manuals are tested against) and the
 *   parser all read that table, so that they can't disagree.
 *   Options stand before the first operand, or anywhere when `anywhere` is set. "--" ends them.
 *
 *   Exit status: of the program run; else 0, or 125 for any failure of fvm's own (also bad
 *   usage); 126 not executable; 127 not found. Results go to stdout, all else to stderr.
 */
#ifndef FVM_CLI_H
#define FVM_CLI_H

#include <stdbool.h>
#include <jansson.h>

#include "common/common.h"

#define CLI_FAILED	   125
#define CLI_NOT_EXECUTABLE 126
#define CLI_NOT_FOUND	   127

struct cli_option {
	int key;	    /* the short letter, or a value above 127: it has none */
	const char *name;   /* long name without dashes */
	const char *arg;    /* name of its argument, or NULL: it takes none */
	const char *help;   /* one line */
};

static inline bool cli_letter(const struct cli_option *o)
{
	return o->key > ' ' && o->key < 127;
}

/* What all commands get. */
struct cli {
	bool json;	    /* --json */
	bool quiet;	    /* -q: no progress, no next steps */
};

struct cli_command;

/* One option as it is met: @value is NULL without argument. Return: 0, or -EINVAL with @err set */
typedef int (*cli_option_fn)(void *into, int key, const char *value, struct fvm_error *err);

struct cli_command {
	const char *name;
	const char *operands; /* "[--] VM [PATH..]" for the usage line */
	const char *summary;  /* one line for the list of commands */
	const char *text;     /* more for --help, or NULL */
	const struct cli_option *options; /* ends with a NULL name; may be NULL */
	bool anywhere;	      /* options may follow operands */
	int min_operands, max_operands; /* -1: any number */
	int (*main)(const struct cli *cli, int argc, char **argv); /* returns the exit status */
};

/**
 * cli_parse() - go through argv[1..] by the command's table
 * @into: passed to @fn
 * Return: index of the first operand (argv is permuted when the table says anywhere);
 *         -1 when --help was printed (exit 0); -2 on bad usage, which was reported (exit 125)
 */
int cli_parse(const struct cli_command *command, int argc, char **argv, cli_option_fn fn,
	      void *into);

/** cli_globals_take() - take --json and --quiet out of the options behind a command's name, where
 *  @command has none of that name. Return: the new @argc */
int cli_globals_take(const struct cli_command *command, struct cli *cli, int argc, char **argv);

/** cli_parse_number() - an operand that is the number, at least @least, of a @what: "process"
 *  Return: 0, or -EINVAL */
int cli_parse_number(const char *text, const char *what, int least, int *ret,
		     struct fvm_error *err);

/** cli_exit_parse() - exit status for a negative result of cli_parse() */
int cli_exit_parse(int r);

/** cli_fail() - print @err and return CLI_FAILED */
int cli_fail(const struct fvm_error *err);

/** cli_print_json() - print and release @value, indented, to stdout. Return: exit status */
int cli_print_json(json_t *value);

/** cli_say() - a line for the person on stderr, unless quiet */
void cli_say(const struct cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/** cli_say_still() - how long a command held a running VM; nothing when it did not (snapshot.c) */
void cli_say_still(const struct cli *cli, const char *name, long long still_ns);

/** cli_say_natives() - a line for each native directory of @vm; @what: what becomes of its files, as
 *  in "what is in it stays in the VM" (commit.c) */
struct fvm_vm;
void cli_say_natives(const struct cli *cli, const struct fvm_vm *vm, const char *what);

/* A progress bar on stderr when that is a terminal, nothing otherwise. */
struct cli_progress {
	const char *what;
	long long first_ms, started_ms, printed_ms; /* the first thing; this one; last shown */
	bool on;
};
void cli_progress_start(struct cli_progress *p, const struct cli *cli, const char *what);
/** cli_progress_next() - the same bar goes on with something else */
void cli_progress_next(struct cli_progress *p, const char *what);
/** @total 0: unknown, and with @done 0 there is nothing to count; @unit: "files", or "B" for sizes
 *  with binary prefixes */
void cli_progress_show(struct cli_progress *p, unsigned long long done, unsigned long long total,
		       const char *unit);
void cli_progress_end(struct cli_progress *p);
/** cli_progress_bytes() - an fvm_progress_fn whose @bar is a struct cli_progress */
void cli_progress_bytes(unsigned long long done, unsigned long long total, void *bar);

/** cli_time_ago() - "3 minutes ago" for a time in ns since 1970, in a static buffer */
const char *cli_time_ago(long long ns);
/** cli_size() - "1.5 GiB", in @buf */
const char *cli_size(unsigned long long bytes, char buf[24]);

/** cli_exec_changes() - become fvm-changes with @argv. Return: CLI_FAILED, said why, if that failed */
int cli_exec_changes(char **argv);

/** cli_main() - find the command in @table and run it; what both programs' main() call */
int cli_main(const struct cli_command *const *table, const char *const *elsewhere, int argc,
	     char **argv);

#endif
