#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <jansson.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fvm/accounts.h"

#define DATABASE_LIMIT (16 << 20)
#define ANSWER_LIMIT   65536
#define NAME_LIMIT     200
#define PATIENCE_MS    3000

void fvm_accounts_free(struct fvm_accounts *a)
{
	fvm_strv_free(&a->files);
	a->gid_count = 0;
}

bool fvm_account_fields(char *line, char **ret, size_t count)
{
	for (size_t i = 0; i < count; i++)
		ret[i] = strsep(&line, ":");
	return ret[count - 1] != NULL;
}

bool fvm_account_in_file(const char *path, unsigned long id)
{
	scoped_free char *text = NULL;
	if (fvm_read_file(AT_FDCWD, path, DATABASE_LIMIT, &text, NULL) < 0)
		return false;
	for (char *save = NULL, *line = strtok_r(text, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save)) {
		char *end, *fields[4];
		if (fvm_account_fields(line, fields, 4) && strtoul(fields[2], &end, 10) == id &&
		    *end == '\0' && end != fields[2])
			return true;
	}
	return false;
}

/* ---- the child: its answer goes over a pipe, as "name\0text\0" each ---- */

struct answer {
	struct fvm_buf text;
	gid_t gids[FVM_ACCOUNT_GROUPS];
	int count;
};

/* It becomes the name of a file. */
static bool fit(const char *name)
{
	return name[0] && name[0] != '.' && !strchr(name, '/') && strlen(name) < NAME_LIMIT;
}

static void answer_add(struct answer *a, const char *name, const char *text)
{
	fvm_buf_add(&a->text, name, strlen(name) + 1);
	fvm_buf_add(&a->text, text, strlen(text) + 1);
}

/* One record, by name and by number. */
static void answer_record(struct answer *a, const char *kind, const char *name, unsigned int id,
			  json_t *record)
{
	char file[NAME_LIMIT + 16];
	char *text = record ? json_dumps(record, JSON_COMPACT) : NULL;
	if (text) {
		snprintf(file, sizeof(file), "%s.%s", name, kind);
		answer_add(a, file, text);
		snprintf(file, sizeof(file), "%u.%s", id, kind);
		answer_add(a, file, text);
	}
	free(text);
	json_decref(record);
}

static void answer_groups(struct answer *a, const char *user)
{
	char file[2 * NAME_LIMIT + 16];
	for (int i = 0; i < a->count; i++) {
		const struct group *gr = getgrgid(a->gids[i]);
		if (!gr || !fit(gr->gr_name))
			continue;
		snprintf(file, sizeof(file), "%s:%s.membership", user, gr->gr_name);
		/* its name says it all; some versions pass over an empty one */
		answer_add(a, file, "{}");
		if (!fvm_account_in_file("/etc/group", a->gids[i]))
			answer_record(a, "group", gr->gr_name, gr->gr_gid,
				      json_pack("{s:s, s:I, s:[s]}", "groupName", gr->gr_name,
						"gid", (json_int_t)gr->gr_gid, "members", user));
	}
}

static int answer_write(const struct answer *a, int fd)
{
	int r = fvm_write_all(fd, &a->count, sizeof(a->count));
	if (r == 0)
		r = fvm_write_all(fd, a->gids, sizeof(a->gids));
	return r == 0 && a->text.data ? fvm_write_all(fd, a->text.data, a->text.len) : r;
}

static int ask(uid_t uid, int fd)
{
	struct answer a = { .count = FVM_ACCOUNT_GROUPS };
	const struct passwd *pw = getpwuid(uid);
	if (!pw || !fit(pw->pw_name))
		return 1;
	char name[NAME_LIMIT];
	strcpy(name, pw->pw_name);
	json_t *record = json_pack("{s:s, s:I, s:I, s:s, s:s, s:s}", "userName", name, "uid",
				   (json_int_t)uid, "gid", (json_int_t)pw->pw_gid, "homeDirectory",
				   pw->pw_dir, "shell", pw->pw_shell[0] ? pw->pw_shell : "/bin/sh",
				   "realName", pw->pw_gecos ? pw->pw_gecos : "");
	gid_t primary = pw->pw_gid;
	/* who is in more groups than there is room for is in the first of them */
	if (getgrouplist(name, primary, a.gids, &a.count) < 0)
		a.count = FVM_ACCOUNT_GROUPS;
	answer_record(&a, "user", name, uid, record);
	answer_groups(&a, name);
	return a.text.failed || answer_write(&a, fd) < 0;
}

/* ---- the caller ---- */

/* All that comes until the end or until patience is. Return: bytes */
static size_t hear(int fd, char *buf, size_t size)
{
	size_t len = 0;
	struct pollfd p = { .fd = fd, .events = POLLIN };
	while (len < size && poll(&p, 1, PATIENCE_MS) > 0) {
		ssize_t n = read(fd, buf + len, size - len);
		if (n == 0)
			return len;
		if (n < 0 && errno != EINTR)
			break;
		len += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static void take_answer(const char *buf, size_t len, struct fvm_accounts *ret)
{
	int count;
	size_t at = sizeof(count) + sizeof(ret->gids);
	if (len < at || buf[len - 1] != '\0')
		return;
	memcpy(&count, buf, sizeof(count));
	memcpy(ret->gids, buf + sizeof(count), sizeof(ret->gids));
	ret->gid_count = count < 0 || count > FVM_ACCOUNT_GROUPS ? 0 : (size_t)count;
	for (; at < len; at += strlen(buf + at) + 1) {
		if (fvm_strv_add(&ret->files, buf + at) < 0)
			return;
	}
}

void fvm_accounts_find(uid_t uid, struct fvm_accounts *ret)
{
	int ends[2], status;
	*ret = (struct fvm_accounts){ 0 };
	if (fvm_account_in_file("/etc/passwd", uid) || pipe2(ends, O_CLOEXEC) < 0)
		return;
	scoped_free char *buf = malloc(ANSWER_LIMIT);
	pid_t child = buf ? fork() : -1;
	if (child == 0)
		_exit(ask(uid, ends[1]));
	close(ends[1]);
	if (child > 0)
		take_answer(buf, hear(ends[0], buf, ANSWER_LIMIT), ret);
	close(ends[0]);
	if (child <= 0)
		return;
	(void)kill(child, SIGKILL);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
}

int fvm_accounts_put(const struct fvm_accounts *a, int run)
{
	if (!a->files.count)
		return 0;
	if (mkdirat(run, "userdb", 0755) < 0 && errno != EEXIST)
		return -errno;
	scoped_fd dir = fvm_open_nofollow(run, "userdb", O_RDONLY | O_DIRECTORY);
	if (dir == -ELOOP || dir == -ENOTDIR)
		return 0; /* the VM's own doing */
	int r = dir < 0 ? dir : 0;
	for (size_t i = 0; r == 0 && i + 1 < a->files.count; i += 2) {
		scoped_fd fd = fvm_create_beneath(dir, a->files.items[i],
						  O_WRONLY | O_TRUNC | O_NOFOLLOW, 0644);
		r = fd < 0 ? fd
			   : fvm_write_all(fd, a->files.items[i + 1],
					   strlen(a->files.items[i + 1]));
	}
	return r;
}

bool fvm_accounts_readable(void)
{
	scoped_free char *text = NULL;
	if (fvm_read_file(AT_FDCWD, "/etc/nsswitch.conf", 65536, &text, NULL) < 0)
		return false;
	for (char *save = NULL, *line = strtok_r(text, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save)) {
		if (strncmp(line, "passwd:", 7) == 0)
			return strstr(line, "systemd") != NULL;
	}
	return false;
}
