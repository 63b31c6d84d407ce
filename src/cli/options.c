/*
 * One parser for all commands. getopt_long() would do, but it can't be made from our tables
 * without a copy, keeps its state in globals, and its messages name neither command nor fix.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "common/nearest.h"

static void print_help(const struct cli_command *c)
{
	printf("usage: fvm %s%s%s%s\n\n%s\n", c->name, c->options ? " [OPTION..]" : "",
	       c->operands ? " " : "", c->operands ? c->operands : "", c->summary);
	if (c->text)
		printf("\n%s\n", c->text);
	if (c->options)
		printf("\n");
	for (const struct cli_option *o = c->options; o && o->name; o++) {
		char left[64];
		char letter[8] = "    ";
		if (cli_letter(o))
			snprintf(letter, sizeof(letter), "-%c, ", o->key);
		snprintf(left, sizeof(left), "  %s--%s%s%s", letter, o->name, o->arg ? " " : "",
			 o->arg ? o->arg : "");
		printf("%-30s %s\n", left, o->help);
	}
	printf("\nMore: man fvm-%s\n", c->name);
}

static int usage(const struct cli_command *c, const char *what, const char *name)
{
	fprintf(stderr, "fvm %s: ", c->name);
	fprintf(stderr, "%s%s", what, name);
	fprintf(stderr, "\nfvm %s: usage: fvm %s%s%s%s (see fvm %s --help)\n", c->name, c->name,
		c->options ? " [OPTION..]" : "", c->operands ? " " : "",
		c->operands ? c->operands : "", c->name);
	return -2;
}

static const struct cli_option *find_long(const struct cli_command *c, const char *name, size_t len)
{
	for (const struct cli_option *o = c->options; o && o->name; o++) {
		if (strlen(o->name) == len && strncmp(o->name, name, len) == 0)
			return o;
	}
	return NULL;
}

static const struct cli_option *find_short(const struct cli_command *c, char letter)
{
	for (const struct cli_option *o = c->options; o && o->name; o++) {
		if (o->key == letter)
			return o;
	}
	return NULL;
}

static int unknown_option(const struct cli_command *c, const char *arg, size_t len)
{
	struct fvm_nearest near = { 0 };
	char text[160];
	for (const struct cli_option *o = c->options; o && o->name; o++)
		fvm_nearest_try(&near, arg, len, o->name);
	snprintf(text, sizeof(text), near.word ? "%.*s; did you mean --%s?" : "%.*s", (int)len, arg,
		 near.word);
	return usage(c, "unknown option --", text);
}

/* Whether the option @arg has the next word as its argument. */
static bool takes_next(const struct cli_command *c, const char *arg)
{
	const struct cli_option *o = NULL;
	if (arg[1] == '-') {
		o = find_long(c, arg + 2, strlen(arg + 2));
		return o && o->arg;
	}
	for (arg++; *arg && (o = find_short(c, *arg)) && !o->arg; arg++)
		;
	return o && o->arg && arg[1] == '\0';
}

struct walk {
	const struct cli_command *command;
	int argc, at;
	char **argv;
	cli_option_fn fn;
	void *into;
};

static int give(struct walk *w, const struct cli_option *o, const char *value)
{
	if (o->arg && !value) {
		if (w->at + 1 >= w->argc)
			return usage(w->command, "an argument is missing after --", o->name);
		value = w->argv[++w->at];
	}
	struct fvm_error err = { 0 };
	if (w->fn(w->into, o->key, value, &err) < 0) {
		fprintf(stderr, "fvm %s: option --%s: %s\n", w->command->name, o->name, err.text);
		if (err.hint[0])
			fprintf(stderr, "fvm %s: %s\n", w->command->name, err.hint);
		return -2;
	}
	return 0;
}

static int long_option(struct walk *w, const char *arg)
{
	const char *equals = strchr(arg, '=');
	size_t len = equals ? (size_t)(equals - arg) : strlen(arg);
	const struct cli_option *o = find_long(w->command, arg, len);
	if (!o)
		return unknown_option(w->command, arg, len);
	if (equals && !o->arg)
		return usage(w->command, "no argument is taken by --", o->name);
	return give(w, o, equals ? equals + 1 : NULL);
}

static int short_options(struct walk *w, const char *letters)
{
	for (; *letters; letters++) {
		const struct cli_option *o = find_short(w->command, *letters);
		if (!o) {
			char text[2] = { *letters, '\0' };
			return usage(w->command, "unknown option -", text);
		}
		const char *value = o->arg && letters[1] ? letters + 1 : NULL;
		int r = give(w, o, value);
		if (r < 0 || o->arg)
			return r;
	}
	return 0;
}

/* The operand of the usage line that stands at @index, without the dots behind it. */
static void operand_name(const struct cli_command *c, int index, char *to, size_t room)
{
	const char *at = c->operands ? c->operands : "";
	for (;; at += strcspn(at, " ")) {
		at += strspn(at, " ");
		if (*at != '[' || strncmp(at, "[VM:]", 5) == 0) /* "[--]", "[PATH..]" */
			index--;
		if (!*at || index < 0)
			break;
	}
	snprintf(to, room, "%.*s", (int)strcspn(at, " ."), at);
}

static int check_count(const struct cli_command *c, int count)
{
	char name[64];
	operand_name(c, count, name, sizeof(name));
	if (count < c->min_operands)
		return usage(c, *name ? name : "something", " is missing");
	if (c->max_operands >= 0 && count > c->max_operands)
		return usage(c, "too many arguments", "");
	return 0;
}

int cli_parse(const struct cli_command *command, int argc, char **argv, cli_option_fn fn,
	      void *into)
{
	struct walk w = { command, argc, 1, argv, fn, into };
	int kept = 0; /* operands moved to argv[1..kept], behind us */
	for (; w.at < argc; w.at++) {
		char *arg = argv[w.at];
		int r = 0;
		if (strcmp(arg, "--help") == 0 ||
		    (strcmp(arg, "-h") == 0 && !find_short(command, 'h'))) {
			print_help(command);
			return -1;
		}
		if (strcmp(arg, "--") == 0) {
			w.at++;
			break;
		}
		if (arg[0] != '-' || arg[1] == '\0') {
			if (!command->anywhere)
				break;
			argv[1 + kept++] = arg;
			continue;
		}
		r = arg[1] == '-' ? long_option(&w, arg + 2) : short_options(&w, arg + 1);
		if (r < 0)
			return r;
	}
	/* the kept operands go right before the rest */
	int first = w.at - kept;
	memmove(argv + first, argv + 1, (size_t)kept * sizeof(*argv));
	int r = check_count(command, argc - first);
	return r < 0 ? r : first;
}

int cli_globals_take(const struct cli_command *command, struct cli *cli, int argc, char **argv)
{
	int kept = 1, at = 1;
	for (; at < argc; at++) {
		const char *arg = argv[at];
		bool option = arg[0] == '-' && arg[1] != '\0', json = strcmp(arg, "--json") == 0;
		bool quiet = strcmp(arg, "--quiet") == 0;
		if (strcmp(arg, "--") == 0 || (!option && !command->anywhere))
			break; /* what follows is not ours */
		if ((json || quiet) && !find_long(command, arg + 2, strlen(arg + 2))) {
			cli->json |= json;
			cli->quiet |= quiet;
			continue;
		}
		argv[kept++] = argv[at];
		if (option && takes_next(command, arg) && at + 1 < argc)
			argv[kept++] = argv[++at];
	}
	memmove(argv + kept, argv + at, (size_t)(argc - at + 1) * sizeof(*argv));
	return argc - (at - kept);
}

int cli_parse_number(const char *text, const char *what, int least, int *ret, struct fvm_error *err)
{
	char *end;
	long n = strtol(text, &end, 10);
	if (*end || end == text || n < least || n > 1 << 30)
		return fvm_error_say(err, EINVAL, "'%.80s' is no number of a %s", text, what);
	*ret = (int)n;
	return 0;
}

int cli_exit_parse(int r)
{
	return r == -1 ? 0 : CLI_FAILED;
}
