/*
 * What counts for nothing: every session writes there, and nobody wants it committed or a VM kept
 * for it. The table is short on purpose: what is missing here is shown, what is wrong is hidden.
 */
#include <string.h>

#include "fvm/changes.h"

/* with all that lies below */
static const char *const trees[] = {
	"/run", "/tmp", "/var/tmp", "/var/cache", "/var/log", "/var/run", "/dev", "/proc", "/sys",
};

/* last components, anywhere in a home directory */
static const char *const histories[] = {
	".bash_history",      ".zsh_history",	  ".sh_history",    ".ash_history",
	".histfile",	      ".lesshst",	  ".viminfo",	    ".python_history",
	".node_repl_history", ".sqlite_history",  ".mysql_history", ".psql_history",
	".rediscli_history",  ".irb_history",	  ".wget-hsts",	    ".Xauthority",
	".ICEauthority",      ".xsession-errors", "fish_history",
};

static bool is_below(const char *path, const char *top)
{
	size_t len = strlen(top);
	return strncmp(path, top, len) == 0 && (path[len] == '\0' || path[len] == '/');
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

bool fvm_path_is_noise(const char *path)
{
	for (size_t i = 0; i < FVM_COUNT(trees); i++) {
		if (is_below(path, trees[i]))
			return true;
	}
	const char *inside = inside_home(path);
	if (!inside)
		return false;
	if (is_cache(inside))
		return true;
	const char *slash = strrchr(inside, '/');
	const char *last = slash ? slash + 1 : inside;
	for (size_t i = 0; i < FVM_COUNT(histories); i++) {
		if (strcmp(last, histories[i]) == 0)
			return true;
	}
	return false;
}
