#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
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

/* ---- one account ---- */

void fvm_account_free(struct fvm_account *a)
{
	free(a->text);
	*a = (struct fvm_account){ 0 };
}

/* "name:x:uid:gid:comment:home:shell", of which @ret->text holds the memory. */
static bool take_line(char *line, struct fvm_account *ret)
{
	enum { NAME, UID = 2, GID, ABOUT, HOME, SHELL, COUNT };
	char *end, *fields[COUNT];
	if (!fvm_account_fields(line, fields, COUNT) || !fields[NAME][0])
		return false;
	ret->uid = (uid_t)strtoul(fields[UID], &end, 10);
	if (*end || end == fields[UID])
		return false;
	ret->gid = (gid_t)strtoul(fields[GID], NULL, 10);
	ret->name = fields[NAME];
	ret->about = fields[ABOUT];
	ret->home = fields[HOME];
	ret->shell = fields[SHELL];
	return true;
}

static void take_group(char *line, struct fvm_account *ret)
{
	char *end;
	gid_t gid = (gid_t)strtoul(line, &end, 10);
	if (*end != ':' || ret->group_count == FVM_COUNT(ret->groups))
		return;
	ret->groups[ret->group_count].gid = gid;
	ret->groups[ret->group_count++].name = end[1] ? end + 1 : NULL;
}

int fvm_account_find(uid_t uid, struct fvm_account *ret)
{
	scoped_account a = { 0 };
	if (fvm_read_file(AT_FDCWD, "/etc/passwd", DATABASE_LIMIT, &a.text, NULL) == 0) {
		for (char *save = NULL, *line = strtok_r(a.text, "\n", &save); line;
		     line = strtok_r(NULL, "\n", &save)) {
			if (!take_line(line, &a) || a.uid != uid)
				continue;
			*ret = a;
			a = (struct fvm_account){ 0 };
			return 0;
		}
	}
	return fvm_account_ask(NULL, uid, ret);
}

/* ---- asking ---- */

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

static _Noreturn void ask(const char *whom, int answer)
{
	char program[] = "fvm-changes", command[] = FVM_ACCOUNT_ANSWER;
	char *argv[] = { program, command, (char *)(uintptr_t)whom, NULL };
	if (dup2(answer, STDOUT_FILENO) >= 0)
		(void)fvm_exec_part(argv);
	_exit(127);
}

/* Return: what it said, as a string to free(), or NULL */
static char *ask_and_hear(const char *whom)
{
	int ends[2], status;
	scoped_free char *buf = malloc(ANSWER_LIMIT);
	if (!buf || pipe2(ends, O_CLOEXEC) < 0)
		return NULL;
	pid_t child = fork();
	if (child == 0)
		ask(whom, ends[1]);
	close(ends[1]);
	size_t len = child > 0 ? hear(ends[0], buf, ANSWER_LIMIT - 1) : 0;
	close(ends[0]);
	if (child > 0) {
		(void)kill(child, SIGKILL);
		while (waitpid(child, &status, 0) < 0 && errno == EINTR)
			;
	}
	buf[len] = '\0';
	return len ? fvm_take_ptr(&buf) : NULL;
}

int fvm_account_ask(const char *name, uid_t uid, struct fvm_account *ret)
{
	scoped_account a = { 0 };
	scoped_buf whom = { 0 };
	if (name)
		fvm_buf_printf(&whom, "=%s", name);
	else
		fvm_buf_printf(&whom, "%u", uid);
	a.text = whom.failed ? NULL : ask_and_hear(whom.data);
	char *save = NULL, *line = a.text ? strtok_r(a.text, "\n", &save) : NULL;
	if (!line || !take_line(line, &a) || (!name && a.uid != uid))
		return -ENOENT;
	while ((line = strtok_r(NULL, "\n", &save)))
		take_group(line, &a);
	*ret = a;
	a = (struct fvm_account){ 0 };
	return 0;
}

/* ---- records of it ---- */

/* It becomes the name of a file. */
static bool fit(const char *name)
{
	return name[0] && name[0] != '.' && !strchr(name, '/') && strlen(name) < NAME_LIMIT;
}

static int add_file(struct fvm_accounts *a, const char *name, const char *text)
{
	int r = fvm_strv_add(&a->files, name);
	return r < 0 ? r : fvm_strv_add(&a->files, text);
}

/* One record, by name and by number. */
static void add_record(struct fvm_accounts *a, const char *kind, const char *name, unsigned int id,
		       json_t *record)
{
	char file[NAME_LIMIT + 16];
	scoped_free char *text = record ? json_dumps(record, JSON_COMPACT) : NULL;
	json_decref(record);
	snprintf(file, sizeof(file), "%s.%s", name, kind);
	if (!text || add_file(a, file, text) < 0)
		return;
	snprintf(file, sizeof(file), "%u.%s", id, kind);
	(void)add_file(a, file, text);
}

static void add_group(struct fvm_accounts *a, const char *user, gid_t gid, const char *name)
{
	char file[2 * NAME_LIMIT + 16];
	snprintf(file, sizeof(file), "%s:%s.membership", user, name);
	/* its name says it all; some versions pass over an empty one */
	if (add_file(a, file, "{}") == 0 && !fvm_account_in_file("/etc/group", gid))
		add_record(a, "group", name, gid,
			   json_pack("{s:s, s:I, s:[s]}", "groupName", name, "gid", (json_int_t)gid,
				     "members", user));
}

void fvm_accounts_find(uid_t uid, struct fvm_accounts *ret)
{
	scoped_account a = { 0 };
	*ret = (struct fvm_accounts){ 0 };
	if (fvm_account_in_file("/etc/passwd", uid) || fvm_account_ask(NULL, uid, &a) < 0 ||
	    !fit(a.name))
		return;
	add_record(ret, "user", a.name, uid,
		   json_pack("{s:s, s:I, s:I, s:s, s:s, s:s}", "userName", a.name, "uid",
			     (json_int_t)uid, "gid", (json_int_t)a.gid, "homeDirectory", a.home,
			     "shell", a.shell[0] ? a.shell : "/bin/sh", "realName", a.about));
	for (size_t i = 0; i < a.group_count; i++) {
		ret->gids[ret->gid_count++] = a.groups[i].gid;
		if (a.groups[i].name && fit(a.groups[i].name))
			add_group(ret, a.name, a.groups[i].gid, a.groups[i].name);
	}
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
