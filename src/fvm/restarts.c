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

/* ---- what of it configures services ---- */

/* The NAME of NAME.service, of an instance's template, of NAME.conf or of a directory. */
static size_t name_len(const char *text)
{
	return strcspn(text, "/.@");
}

static int add_name(struct fvm_strv *to, const char *text)
{
	return name_len(text) ? fvm_strv_addf(to, "%.*s", (int)name_len(text), text) : 0;
}

static int configured_names(const struct fvm_strv *paths, struct fvm_strv *ret)
{
	static const char *const places[] = { "/etc/default/", "/etc/systemd/system/", "/etc/",
					      "/usr/lib/systemd/system/", "/lib/systemd/system/" };
	int r = 0;
	fvm_strv_each(paths, i) {
		const char *path = paths->items[i];
		for (size_t j = 0; r == 0 && j < FVM_COUNT(places); j++) {
			size_t n = strlen(places[j]);
			if (strncmp(path, places[j], n) == 0)
				r = add_name(ret, path + n);
		}
	}
	fvm_strv_sort(ret);
	return r;
}

/* ---- what a process is, and has mapped ---- */

/*
 * "12:pids:/system.slice/ssh.service" or "0::/system.slice/ssh.service/x": the first that is no
 * slice. Further ones belong to what a service runs inside (containers), those of user.slice to
 * the managers of users.
 */
static bool service_in(const char *line, char ret[256])
{
	const char *at = strchr(line, '/');
	if (!at || strncmp(at, "/user.slice/", 12) == 0)
		return false;
	for (;;) {
		size_t len = strcspn(++at, "/\n");
		if (len > 8 && len < 256 && strncmp(at + len - 8, ".service", 8) == 0) {
			snprintf(ret, 256, "%.*s", (int)len, at);
			return true;
		}
		if (len <= 6 || strncmp(at + len - 6, ".slice", 6) != 0 || at[len] != '/')
			return false;
		at += len;
	}
}

static FILE *open_of(const char *pid, const char *what)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%.20s/%s", pid, what);
	return fopen(path, "re");
}

static bool service_of(const char *pid, char ret[256])
{
	char line[4096];
	bool found = false;
	FILE *f = open_of(pid, "cgroup");
	while (f && !found && fgets(line, sizeof(line), f))
		found = service_in(line, ret);
	if (f)
		fclose(f);
	return found;
}

/* "7f..-7f.. r-xp 00000000 fe:00 1234    /usr/sbin/sshd", of a replaced file with " (deleted)", or
 * under the name that it has in the area of the commit that replaced it. */
static bool is_one_of(const struct fvm_strv *sorted, bool replaced, char *file)
{
	char *deleted = strstr(file, " (deleted)");
	if (deleted)
		*deleted = '\0';
	return fvm_strv_sorted_has(sorted, file) ||
	       (replaced && (strstr(file, "/commits/") || strstr(file, "/.fvm-commit-")));
}

static bool maps_any(const char *pid, const struct fvm_strv *sorted, bool replaced)
{
	char *line = NULL;
	size_t size = 0;
	bool found = false;
	FILE *f = open_of(pid, "maps");
	while (f && !found && getline(&line, &size, f) > 0) {
		char *file = strchr(line, '/');
		if (!file)
			continue;
		file[strcspn(file, "\n")] = '\0';
		found = is_one_of(sorted, replaced, file);
	}
	free(line);
	if (f)
		fclose(f);
	return found;
}

/* ---- all of them ---- */

static bool is_configured(const struct fvm_strv *names, const char *service)
{
	char name[256];
	snprintf(name, sizeof(name), "%.*s", (int)name_len(service), service);
	return fvm_strv_sorted_has(names, name);
}

int fvm_restarts_find(struct fvm_strv *paths, bool replaced, struct fvm_strv *ret)
{
	scoped_strv names = { 0 };
	scoped_dir proc = paths->count ? opendir("/proc") : NULL;
	fvm_strv_sort(paths);
	int r = configured_names(paths, &names);
	for (struct dirent *e; r == 0 && proc && (e = readdir(proc));) {
		char service[256];
		if (!isdigit((unsigned char)e->d_name[0]) || !service_of(e->d_name, service) ||
		    fvm_strv_has(ret, service))
			continue;
		if (is_configured(&names, service) || maps_any(e->d_name, paths, replaced))
			r = fvm_strv_add(ret, service);
	}
	fvm_strv_sort(ret);
	return r;
}
