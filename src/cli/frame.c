/* What stands around every command: global options, the list of commands, messages, progress. */
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "common/nearest.h"

/* Where fvm-changes lies: beside us in a build tree, in libexec when installed. */
int cli_exec_changes(char **argv)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n > 0) {
		self[n] = '\0';
		*strrchr(self, '/') = '\0';
		static const char *const places[] = { "", "/../libexec/fvm" };
		for (size_t i = 0; i < FVM_COUNT(places); i++) {
			scoped_buf path = { 0 };
			fvm_buf_printf(&path, "%s%s/fvm-changes", self, places[i]);
			if (path.data)
				execv(path.data, argv);
		}
	}
	struct fvm_error err = { 0 };
	fvm_error_set(&err, errno, "start fvm-changes, the part of fvm for this command");
	fvm_error_hint(&err, "install fvm whole: make install");
	return cli_fail(&err);
}

static int go_on_elsewhere(const char *command)
{
	char program[] = "fvm-changes";
	char *argv[] = { program, (char *)command, NULL };
	fflush(stdout);
	return cli_exec_changes(argv);
}

static void print_list(const char *title, const struct cli_command *const *table)
{
	printf("%s\n", title);
	for (; *table; table++)
		printf("  %-12s %s\n", (*table)->name, (*table)->summary);
}

/* The hidden command that lets fvm-changes go on with the list that fvm began. */
#define MORE_COMMANDS "__more"

static int print_commands(const struct cli_command *const *table, const char *const *elsewhere)
{
	printf("usage: fvm [--json] [-q] [--debug] COMMAND [ARG..]\n\n"
	       "Virtual machines of this machine: they start from what it is now, keep what they\n"
	       "change to themselves, and leave nothing behind.\n\n");
	print_list("VMs and what runs in them", table);
	if (elsewhere)
		return go_on_elsewhere(MORE_COMMANDS);
	return 0;
}

static int print_more_commands(const struct cli_command *const *table)
{
	print_list("\nWhat VMs changed, and VMs as files", table);
	printf("\nfvm COMMAND --help tells more of one; fvm(7) explains the whole.\n");
	return 0;
}

/*
 * For tests and completions, tab-separated: a line "NAME SUMMARY OPERANDS" for each command, and
 * below it one for each option, which starts with a tab: "--NAME LETTER ARGUMENT HELP".
 */
static int print_tables(const struct cli_command *const *table, const char *const *elsewhere)
{
	for (; *table; table++) {
		printf("%s\t%s\t%s\n", (*table)->name, (*table)->summary,
		       (*table)->operands ? (*table)->operands : "");
		for (const struct cli_option *o = (*table)->options; o && o->name; o++)
			printf("\t--%s\t%c\t%s\t%s\n", o->name, cli_letter(o) ? o->key : '-',
			       o->arg ? o->arg : "", o->help);
	}
	return elsewhere ? go_on_elsewhere("__commands") : 0;
}

static int no_such_command(const struct cli_command *const *table, const char *const *elsewhere,
			   const char *name)
{
	struct fvm_nearest near = { 0 };
	if (name[0] == '-') {
		fprintf(stderr,
			"fvm: unknown option %s; before the command stand --json, -q and --debug\n",
			name);
		return CLI_FAILED;
	}
	for (; *table; table++)
		fvm_nearest_try(&near, name, strlen(name), (*table)->name);
	for (; elsewhere && *elsewhere; elsewhere++)
		fvm_nearest_try(&near, name, strlen(name), *elsewhere);
	if (near.word)
		fprintf(stderr, "fvm: there is no command '%s'; did you mean '%s'?\n", name,
			near.word);
	else
		fprintf(stderr, "fvm: there is no command '%s'; fvm --help lists them\n", name);
	return CLI_FAILED;
}

static int run_command(const struct cli_command *c, struct cli *cli, int argc, char **argv)
{
	argc = cli_globals_take(c, cli, argc, argv);
	int status = c->main(cli, argc, argv);
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	struct fvm_error err = { 0 };
	fvm_error_set(&err, errno, "write to the standard output");
	return cli_fail(&err);
}

static bool is_help(const char *word)
{
	return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
}

static bool listed(const char *const *names, const char *name)
{
	for (; names && *names; names++) {
		if (strcmp(*names, name) == 0)
			return true;
	}
	return false;
}

/* Global options stand before the command. Return: index of the command, or -1 */
static int global_options(struct cli *cli, int argc, char **argv)
{
	int i = 1;
	for (; i < argc && argv[i][0] == '-'; i++) {
		if (strcmp(argv[i], "--json") == 0)
			cli->json = true;
		else if (strcmp(argv[i], "-q") == 0 || strcmp(argv[i], "--quiet") == 0)
			cli->quiet = true;
		else if (strcmp(argv[i], "--debug") == 0)
			fvm_log_level = FVM_LOG_DEBUG;
		else
			break;
	}
	return i;
}

int cli_main(const struct cli_command *const *table, const char *const *elsewhere, int argc,
	     char **argv)
{
	static char help[] = "--help";
	struct cli cli = { 0 };
	int at = global_options(&cli, argc, argv);
	if (at >= argc) {
		int r = print_commands(table, elsewhere);
		return argc == 1 ? r : CLI_FAILED;
	}
	const char *name = argv[at];
	if (is_help(name) && at + 1 >= argc)
		return print_commands(table, elsewhere);
	if (is_help(name)) { /* "help run" is "run --help" */
		argv[at] = argv[at + 1];
		argv[at + 1] = help;
		name = argv[at];
		argv[argc = at + 2] = NULL;
	}
	if (strcmp(name, "--version") == 0)
		name = "version";
	if (strcmp(name, "__commands") == 0)
		return print_tables(table, elsewhere);
	if (strcmp(name, MORE_COMMANDS) == 0)
		return print_more_commands(table);
	if (listed(elsewhere, name))
		return cli_exec_changes(argv);
	for (const struct cli_command *const *c = table; *c; c++) {
		if (strcmp((*c)->name, name) == 0)
			return run_command(*c, &cli, argc - at, argv + at);
	}
	return no_such_command(table, elsewhere, name);
}

int cli_fail(const struct fvm_error *err)
{
	fvm_error_print("fvm", err);
	return CLI_FAILED;
}

int cli_print_json(json_t *value)
{
	int r = value ? json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY) : -1;
	json_decref(value);
	putchar('\n');
	return r < 0 || fflush(stdout) != 0 ? CLI_FAILED : 0;
}

void cli_say(const struct cli *cli, const char *fmt, ...)
{
	if (cli->quiet)
		return;
	va_list ap;
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

void cli_progress_start(struct cli_progress *p, const struct cli *cli, const char *what)
{
	*p = (struct cli_progress){
		.what = what,
		.first_ms = fvm_clock_ms(),
		.on = !cli->quiet && !cli->json && isatty(STDERR_FILENO),
	};
	p->started_ms = p->first_ms;
}

void cli_progress_next(struct cli_progress *p, const char *what)
{
	p->what = what;
	p->started_ms = p->on ? fvm_clock_ms() : 0;
}

void cli_progress_show(struct cli_progress *p, unsigned long long done, unsigned long long total,
		       const char *unit)
{
	if (!p->on)
		return;
	long long now = fvm_clock_ms();
	bool counted = done || total;
	bool first = !counted && p->printed_ms < p->started_ms;
	if (now - p->first_ms < 300 || (now - p->printed_ms < 100 && !first))
		return;
	p->printed_ms = now;
	char a[24], b[24], bar[21] = "                    ";
	bool bytes = strcmp(unit, "B") == 0;
	if (bytes) {
		cli_size(done, a);
		cli_size(total, b);
	} else {
		snprintf(a, sizeof(a), "%llu", done);
		snprintf(b, sizeof(b), "%llu", total);
	}
	if (!counted) {
		fprintf(stderr, "\r%s ..\033[K", p->what);
		return;
	}
	if (total == 0) {
		fprintf(stderr, "\r%s: %s%s%s\033[K", p->what, a, bytes ? "" : " ",
			bytes ? "" : unit);
		return;
	}
	memset(bar, '#', (size_t)(done < total ? done * 20 / total : 20));
	long long left =
		done ? (now - p->started_ms) * (long long)(total - done) / (long long)done : 0;
	fprintf(stderr, "\r%s [%s] %s of %s%s%s, %lld s left\033[K", p->what, bar, a, b,
		bytes ? "" : " ", bytes ? "" : unit, left / 1000);
}

void cli_progress_bytes(unsigned long long done, unsigned long long total, void *bar)
{
	cli_progress_show(bar, done, total, "B");
}

void cli_progress_end(struct cli_progress *p)
{
	/* or another process of ours has shown it */
	if (p->on && (p->printed_ms || fvm_clock_ms() - p->first_ms >= 300))
		fputs("\r\033[K", stderr);
	p->on = false;
}

const char *cli_time_ago(long long ns)
{
	static char text[40];
	static const struct {
		long long seconds;
		const char *unit;
	} units[] = {
		{ 365LL * 86400, "year" }, { 30LL * 86400, "month" }, { 7LL * 86400, "week" },
		{ 86400, "day" },	   { 3600, "hour" },	      { 60, "minute" },
		{ 1, "second" },
	};
	long long ago = time(NULL) - ns / 1000000000;
	for (size_t i = 0; i < FVM_COUNT(units); i++) {
		long long n = ago / units[i].seconds;
		if (n < 1)
			continue;
		snprintf(text, sizeof(text), "%lld %s%s ago", n, units[i].unit, n > 1 ? "s" : "");
		return text;
	}
	return "just now";
}

const char *cli_size(unsigned long long bytes, char buf[24])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
	double value = (double)bytes;
	size_t i = 0;
	for (; value >= 1024 && i + 1 < FVM_COUNT(units); i++)
		value /= 1024;
	snprintf(buf, 24, i == 0 ? "%.0f %s" : "%.1f %s", value, units[i]);
	return buf;
}
