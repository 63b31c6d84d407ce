/*
 * Run a program to which the kernel refuses chosen system calls, as an older kernel does or as the
 * filter of a container does. All that the program starts is refused them, too.
 *
 *   refuse [-e ERROR] CALL[:ARG=VALUE|:ARG&BITS].. [-e ERROR CALL..].. -- COMMAND..
 *
 * ERROR is a number, or one of those below; ENOSYS until another is named. CALL is a name or a
 * number, refused always, or with all those arguments (counted from 0): "clone:0&0x10000000",
 * "socket:0=16:2=12". Needs CAP_SYS_ADMIN: without NO_NEW_PRIVS set-uid programs stay what they
 * are. Status: the command's; 125 when it could not be run.
 */
#include <errno.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Names that the library of Debian 12 does not have, all with one number on all machines. */
static const struct {
	const char *name;
	int number;
} newer[] = {
	{ "cachestat", 451 },	      { "fchmodat2", 452 },	   { "map_shadow_stack", 453 },
	{ "futex_wake", 454 },	      { "futex_wait", 455 },	   { "futex_requeue", 456 },
	{ "statmount", 457 },	      { "listmount", 458 },	   { "lsm_get_self_attr", 459 },
	{ "lsm_set_self_attr", 460 }, { "lsm_list_modules", 461 }, { "mseal", 462 },
	{ "setxattrat", 463 },	      { "getxattrat", 464 },	   { "listxattrat", 465 },
	{ "removexattrat", 466 },     { "open_tree_attr", 467 },   { "file_getattr", 468 },
	{ "file_setattr", 469 },
};

static const struct {
	const char *name;
	int code;
} errors[] = {
	{ "ENOSYS", ENOSYS }, { "EPERM", EPERM },   { "EPROTONOSUPPORT", EPROTONOSUPPORT },
	{ "EINVAL", EINVAL }, { "ENOENT", ENOENT }, { "EOPNOTSUPP", EOPNOTSUPP },
	{ "EACCES", EACCES }, { "ENODEV", ENODEV }, { "EAFNOSUPPORT", EAFNOSUPPORT },
};

static int give_up(const char *what, const char *why)
{
	fprintf(stderr, "refuse: %s: %s\n", what, why);
	exit(125);
}

static int error_code(const char *text)
{
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		if (strcmp(errors[i].name, text) == 0)
			return errors[i].code;
	}
	return atoi(text) > 0 ? atoi(text) : give_up(text, "no such error here");
}

static int call_number(const char *name)
{
	for (size_t i = 0; i < sizeof(newer) / sizeof(newer[0]); i++) {
		if (strcmp(newer[i].name, name) == 0)
			return newer[i].number;
	}
	int number =
		name[0] >= '0' && name[0] <= '9' ? atoi(name) : seccomp_syscall_resolve_name(name);
	return number == __NR_SCMP_ERROR ? give_up(name, "no such call") : number;
}

/* "0=16" or "0&0x10000000" */
static struct scmp_arg_cmp condition(const char *text)
{
	char *end;
	unsigned int arg = (unsigned int)strtoul(text, &end, 0);
	unsigned long value = strtoul(end + (*end != '\0'), NULL, 0);
	struct scmp_arg_cmp c = { .arg = arg, .op = SCMP_CMP_EQ, .datum_a = value };
	if (*end == '&') {
		c.op = SCMP_CMP_MASKED_EQ;
		c.datum_b = value;
	} else if (*end != '=') {
		(void)give_up(text, "ARG=VALUE or ARG&BITS is expected");
	}
	return c;
}

static void refuse(scmp_filter_ctx filter, char *what, int code)
{
	struct scmp_arg_cmp conditions[6];
	unsigned int count = 0;
	char *save, *name = strtok_r(what, ":", &save);
	if (!name)
		(void)give_up("a call", "is expected");
	for (char *c; count < 6 && (c = strtok_r(NULL, ":", &save)); count++)
		conditions[count] = condition(c);
	int r = seccomp_rule_add_array(filter, SCMP_ACT_ERRNO((unsigned int)code),
				       call_number(name), count, conditions);
	if (r < 0)
		(void)give_up(name, strerror(-r));
}

int main(int argc, char **argv)
{
	int code = ENOSYS, i;
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
	if (!filter || seccomp_attr_set(filter, SCMP_FLTATR_CTL_NNP, 0) < 0)
		return give_up("make a filter", strerror(errno));
	for (i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
		if (strcmp(argv[i], "-e") == 0 && i + 1 < argc)
			code = error_code(argv[++i]);
		else
			refuse(filter, argv[i], code);
	}
	if (i + 1 >= argc)
		return give_up("what to run", "usage: refuse [-e ERROR] CALL.. -- COMMAND..");
	int r = seccomp_load(filter);
	if (r < 0)
		return give_up("load the filter", strerror(-r));
	execvp(argv[i + 1], argv + i + 1);
	return give_up(argv[i + 1], strerror(errno));
}
