/*
 * What counts for nothing: every session writes there, and nobody wants it committed or a VM kept
 * for it; and what we left ourselves, when we were killed. The table is short on purpose: what is
 * missing here is shown, what is wrong is hidden.
 */
#include <string.h>

#include "fvm/adopt.h"
#include "fvm/changes.h"

/* with all that lies below; with a slash only that: the directory is its package's */
static const char *const trees[] = {
	"/run",	    "/tmp", "/var/tmp", "/var/cache", "/var/log",
	"/var/run", "/dev", "/proc",	"/sys",	      "/var/lib/sudo/lectured/",
};

/* last components, anywhere in a home directory; a '*' at the end stands for anything: what
 * programs write before they rename it, and names with a host's or a version's in them */
static const char *const histories[] = {
	".bash_history*",
	".zsh_history*",
	".zcompdump*",
	".sh_history",
	".ash_history",
	".histfile",
	"fish_history*",
	".lesshst*",
	".lesshsQ",
	"lesshst",
	".viminf*",
	"main.shada*",
	".python_history*",
	"python_history",
	".node_repl_history",
	".sqlite_history",
	".mysql_history",
	".psql_history",
	".gdb_history",
	".rediscli_history",
	".irb_history",
	".Rhistory",
	"search_history",
	".wget-hsts",
	".sudo_as_admin_successful",
	".Xauthority",
	".ICEauthority",
	".xsession-errors*",
};

static bool is_below(const char *path, const char *top)
{
	size_t len = strlen(top);
	return strncmp(path, top, len) == 0 &&
	       (top[len - 1] == '/' || path[len] == '\0' || path[len] == '/');
}

/* The part of @path inside a home directory, or NULL: /root/x gives "x"; /home/u/x gives "u/x",
 * as homes lie at different depths there. */
static const char *inside_home(const char *path)
{
	if (strncmp(path, "/root/", 6) == 0)
		return path + 6;
	return strncmp(path, "/home/", 6) == 0 ? path + 6 : NULL;
}

/* "~/.cache": a component of that name among the first three */
static bool is_cache(const char *inside)
{
	for (int i = 0; i < 3 && inside; i++) {
		if (is_below(inside, ".cache"))
			return true;
		inside = strchr(inside, '/');
		if (inside)
			inside++;
	}
	return false;
}

static bool fits(const char *name, const char *pattern)
{
	size_t len = strcspn(pattern, "*");
	return strncmp(name, pattern, len) == 0 && (pattern[len] == '*' || name[len] == '\0');
}

bool fvm_path_is_noise(const char *path)
{
	for (size_t i = 0; i < FVM_COUNT(trees); i++) {
		if (is_below(path, trees[i]))
			return true;
	}
	const char *slash = strrchr(path, '/');
	const char *last = slash ? slash + 1 : path;
	if (fvm_adopt_leftover(last))
		return true;
	const char *inside = inside_home(path);
	if (!inside)
		return false;
	if (is_cache(inside))
		return true;
	for (size_t i = 0; i < FVM_COUNT(histories); i++) {
		if (fits(last, histories[i]))
			return true;
	}
	return false;
}
