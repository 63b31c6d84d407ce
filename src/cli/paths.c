#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/paths.h"

/* Appends @path's components to the absolute path in @to. */
static void add_components(struct fvm_buf *to, const char *path)
{
	while (*path) {
		size_t len = strcspn(path, "/");
		if (len == 2 && path[0] == '.' && path[1] == '.') {
			char *slash = to->data ? strrchr(to->data, '/') : NULL;
			to->len = slash ? (size_t)(slash - to->data) : 0;
			if (to->data)
				to->data[to->len] = '\0';
		} else if (len > 0 && !(len == 1 && path[0] == '.')) {
			fvm_buf_puts(to, "/");
			fvm_buf_add(to, path, len);
		}
		path += len + (path[len] == '/');
	}
}

/* With the directories above resolved, where that can be done. */
static int add_resolved(const char *path, struct fvm_strv *ret)
{
	char real[PATH_MAX];
	scoped_free char *copy = strdup(path);
	if (!copy)
		return -ENOMEM;
	char *slash = strrchr(copy, '/');
	*slash = '\0';
	if (slash == copy || !realpath(copy, real))
		return fvm_strv_add(ret, path);
	return fvm_strv_addf(ret, "%s/%s", strcmp(real, "/") == 0 ? "" : real, slash + 1);
}

static int make_one(const char *typed, struct fvm_strv *ret, struct fvm_error *err)
{
	scoped_buf path = { 0 };
	char cwd[PATH_MAX];
	if (typed[0] == '\0')
		return fvm_error_set(err, EINVAL, "an empty path names nothing");
	if (typed[0] != '/') {
		if (!getcwd(cwd, sizeof(cwd)))
			return fvm_error_set(err, errno, "find the working directory for '%s'",
					     typed);
		add_components(&path, cwd);
	}
	add_components(&path, typed);
	int r = -ENOMEM;
	if (!path.failed)
		r = path.len ? add_resolved(path.data, ret) : fvm_strv_add(ret, "/");
	return r < 0 ? fvm_error_set(err, -r, "take the path '%s'", typed) : 0;
}

int cli_paths_make(int count, char **paths, struct fvm_strv *ret, struct fvm_error *err)
{
	for (int i = 0; i < count; i++) {
		int r = make_one(paths[i], ret, err);
		if (r < 0)
			return r;
	}
	return 0;
}
