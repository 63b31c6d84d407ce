/*
 * Which services want a restart: units whose processes map, or were started from, a file that was
 * replaced, and units named like a directory of /etc in which something changed. The unit is read
 * from the process' cgroup. Only a hint: what can't be read is not looked at.
 */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fvm/commit.h"

#define PATHS_MAX 20000

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool listed(const struct fvm_strv *sorted, const char *path)
{
	return sorted->count > 0 &&
	       bsearch(&path, sorted->items, sorted->count, sizeof(*sorted->items), compare);
}

/* "nginx.service" from ".../system.slice/nginx.service"; "" when it is in no unit. */
static void unit_of(const char *pid, char *ret, size_t size)
{
	char path[300], line[4096];
	*ret = '\0';
	snprintf(path, sizeof(path), "/proc/%s/cgroup", pid);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		char *end = strstr(line, ".service");
		if (!end || (end[8] != '\n' && end[8] != '/'))
			continue;
		end[8] = '\0';
		char *slash = strrchr(line, '/');
		const char *name = slash ? slash + 1 : line;
		if (strlen(name) < size)
			strcpy(ret, name);
		break;
	}
	if (f)
		fclose(f);
}

/* A replaced file is still mapped as "/path (deleted)", or under the area's name by now. */
static bool maps_one(const char *pid, const struct fvm_strv *sorted)
{
	char path[300], *line = NULL;
	size_t size = 0;
	bool found = false;
	snprintf(path, sizeof(path), "/proc/%s/maps", pid);
	FILE *f = fopen(path, "re");
	while (f && !found && getline(&line, &size, f) > 0) {
		char *file = strchr(line, '/');
		if (!file)
			continue;
		file[strcspn(file, "\n")] = '\0';
		char *deleted = strstr(file, " (deleted)");
		if (deleted)
			*deleted = '\0';
		found = listed(sorted, file) || strstr(file, "/commits/") ||
			strstr(file, "/.fvm-commit-");
	}
	free(line);
	if (f)
		fclose(f);
	return found;
}

/* /etc/nginx/conf.d/x: is "nginx" the unit's name, or its beginning up to '@' or '-'? */
static bool configures(const struct fvm_strv *paths, const char *unit)
{
	size_t len = strcspn(unit, ".@");
	fvm_strv_each(paths, i) {
		const char *path = paths->items[i];
		if (strncmp(path, "/etc/", 5) != 0 && !strstr(path, "/systemd/system/"))
			continue;
		const char *name =
			strncmp(path, "/etc/", 5) == 0 ? path + 5 : strrchr(path, '/') + 1;
		if (strncmp(name, "default/", 8) == 0)
			name += 8;
		size_t n = strcspn(name, "/.@");
		if (n == len && strncmp(name, unit, n) == 0)
			return true;
	}
	return false;
}

int fvm_commit_services(const struct fvm_strv *paths, struct fvm_strv *ret)
{
	scoped_strv sorted = { 0 };
	int r = paths->count > PATHS_MAX ? 0 : fvm_strv_copy(&sorted, paths);
	if (sorted.count > 0)
		qsort(sorted.items, sorted.count, sizeof(*sorted.items), compare);
	DIR *proc = opendir("/proc");
	for (struct dirent *e = proc ? readdir(proc) : NULL; r == 0 && e; e = readdir(proc)) {
		char unit[256];
		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		unit_of(e->d_name, unit, sizeof(unit));
		if (!*unit || fvm_strv_has(ret, unit))
			continue;
		if (configures(&sorted, unit) || maps_one(e->d_name, &sorted))
			r = fvm_strv_add(ret, unit);
	}
	if (proc)
		closedir(proc);
	return r;
}
