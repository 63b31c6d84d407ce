#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fvm/restarts.h"

bool fvm_restarts_concerns(const struct fvm_change *c)
{
	if (!c->was || !S_ISREG(c->was->st_mode) || c->kind == FVM_META)
		return false;
	return strncmp(c->path, "/usr/", 5) == 0 || strncmp(c->path, "/etc/", 5) == 0 ||
	       strncmp(c->path, "/opt/", 5) == 0 || strncmp(c->path, "/lib", 4) == 0;
}

static int compare_strings(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool has(char *const *sorted, size_t count, const char *path)
{
	return bsearch(&path, sorted, count, sizeof(void *), compare_strings) != NULL;
}

/* "12:pids:/system.slice/ssh.service" or "0::/system.slice/ssh.service/x": the service's name */
static bool service_of(const char *pid, char ret[256])
{
	char path[64];
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "/proc/%.20s/cgroup", pid);
	if (fvm_read_file(AT_FDCWD, path, 1 << 16, &text, NULL) < 0)
		return false;
	char *end = strstr(text, ".service");
	if (!end || !strstr(text, "/system.slice/"))
		return false;
	while (end[8] && end[8] != '\n' && strstr(end + 8, ".service"))
		end = strstr(end + 8, ".service");
	char *begin = end;
	while (begin > text && begin[-1] != '/' && begin[-1] != '\n')
		begin--;
	size_t len = (size_t)(end - begin) + strlen(".service");
	if (len >= 256)
		return false;
	memcpy(ret, begin, len);
	ret[len] = '\0';
	return true;
}

/* Whether @service's own configuration is among the paths. */
static bool configured_by(char *const *sorted, size_t count, const char *service)
{
	char name[256], dir[300];
	snprintf(name, sizeof(name), "%.*s", (int)(strlen(service) - strlen(".service")), service);
	char *at = strchr(name, '@'); /* an instance is configured by its template's name */
	if (at)
		*at = '\0';
	static const char *const patterns[] = { "/etc/default/%s", "/etc/%s.conf",
						"/etc/systemd/system/%s.service",
						"/usr/lib/systemd/system/%s.service" };
	for (size_t i = 0; i < FVM_COUNT(patterns); i++) {
		const char *percent = strchr(patterns[i], '%');
		snprintf(dir, sizeof(dir), "%.*s%s%s", (int)(percent - patterns[i]), patterns[i],
			 name, percent + 2);
		if (has(sorted, count, dir))
			return true;
	}
	size_t len = (size_t)snprintf(dir, sizeof(dir), "/etc/%s/", name);
	for (size_t i = 0; i < count; i++) {
		if (strncmp(sorted[i], dir, len) == 0)
			return true;
	}
	return false;
}

/* "7f..-7f.. r-xp 00000000 fe:00 1234    /usr/sbin/sshd" */
static bool maps_any(char *const *sorted, size_t count, const char *pid)
{
	char path[64], last[4096] = "";
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "/proc/%.20s/maps", pid);
	if (fvm_read_file(AT_FDCWD, path, 64 << 20, &text, NULL) < 0)
		return false;
	char *save = NULL;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *file = strchr(line, '/');
		if (!file || strcmp(file, last) == 0)
			continue;
		snprintf(last, sizeof(last), "%s", file);
		if (has(sorted, count, file))
			return true;
	}
	return false;
}

static int look_at(const char *pid, char *const *sorted, size_t count, struct fvm_strv *ret)
{
	char service[256];
	if (!service_of(pid, service) || fvm_strv_has(ret, service))
		return 0;
	if (!configured_by(sorted, count, service) && !maps_any(sorted, count, pid))
		return 0;
	return fvm_strv_add(ret, service);
}

int fvm_restarts_find(const struct fvm_strv *paths, struct fvm_strv *ret)
{
	if (paths->count == 0)
		return 0;
	scoped_free char **sorted = calloc(paths->count, sizeof(char *));
	DIR *proc = opendir("/proc");
	int r = sorted ? 0 : -ENOMEM;
	if (r == 0) {
		memcpy(sorted, paths->items, paths->count * sizeof(char *));
		qsort(sorted, paths->count, sizeof(char *), compare_strings);
	}
	for (struct dirent *e; r == 0 && proc && (e = readdir(proc));) {
		if (isdigit((unsigned char)e->d_name[0]))
			r = look_at(e->d_name, sorted, paths->count, ret);
	}
	if (proc)
		closedir(proc);
	if (ret->count)
		qsort(ret->items, ret->count, sizeof(char *), compare_strings);
	return r;
}
