/*
 * Accounts: lines of fields between colons, found by their first.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fvm/meaning_priv.h"

#define FIELDS 9

/* "name" -> "the rest of the line" */
static int read_lines(char *text, struct fvm_records *r)
{
	int e = 0;
	for (char *line; e == 0 && (line = fvm_line_next(&text));) {
		char *colon = strchr(line, ':');
		if (!colon || line[0] == '#')
			continue;
		*colon = '\0';
		e = fvm_records_add(r, line, colon + 1);
	}
	return e;
}

/* Cuts a copy of @line at its colons; missing fields are empty. */
static void split(const char *line, char copy[1024], const char *fields[FIELDS])
{
	snprintf(copy, 1024, "%s", line ? line : "");
	char *p = copy;
	for (size_t i = 0; i < FIELDS; i++) {
		fields[i] = p ? p : "";
		char *colon = p ? strchr(p, ':') : NULL;
		if (colon)
			*colon++ = '\0';
		p = colon;
	}
}

enum { USER_UID = 1, USER_GID, USER_NAME, USER_HOME, USER_SHELL };

static int tell_user(struct fvm_meaning *m, const char *key, const char *was, const char *now,
		     void *arg)
{
	char old_text[1024], new_text[1024], from[1100], to[1100];
	const char *old[FIELDS], *new[FIELDS];
	(void)arg;
	split(was, old_text, old);
	split(now, new_text, new);
	snprintf(from, sizeof(from), "uid %s, %s, %s", old[USER_UID], old[USER_HOME],
		 old[USER_SHELL]);
	snprintf(to, sizeof(to), "uid %s, %s, %s", new[USER_UID], new[USER_HOME], new[USER_SHELL]);
	/* another gid or full name alone is no news here: the patch shows it */
	if (was && now && strcmp(from, to) == 0)
		return 0;
	int r = fvm_fact_add(m, "user",
			     !was  ? FVM_FACT_ADDED
			     : now ? FVM_FACT_CHANGED
				   : FVM_FACT_REMOVED,
			     key, was ? from : NULL, now ? to : NULL);
	if (now && strcmp(new[USER_UID], "0") == 0 && strcmp(key, "root") != 0)
		fvm_fact_alarm(m);
	return r;
}

/* Groups whose members can become root, or nearly. */
static bool is_powerful(const char *group)
{
	static const char *const names[] = { "root", "sudo", "wheel",  "adm",  "disk", "docker",
					     "lxd",  "kvm",  "shadow", "kmem", "staff" };
	for (size_t i = 0; i < FVM_COUNT(names); i++) {
		if (strcmp(group, names[i]) == 0)
			return true;
	}
	return false;
}

static int tell_group(struct fvm_meaning *m, const char *key, const char *was, const char *now,
		      void *arg)
{
	enum { GID = 1, MEMBERS };
	char old_text[1024], new_text[1024], from[1100], to[1100];
	const char *old[FIELDS], *new[FIELDS];
	(void)arg;
	split(was, old_text, old);
	split(now, new_text, new);
	snprintf(from, sizeof(from), "gid %s%s%s", old[GID], old[MEMBERS][0] ? ": " : "",
		 old[MEMBERS]);
	snprintf(to, sizeof(to), "gid %s%s%s", new[GID], new[MEMBERS][0] ? ": " : "", new[MEMBERS]);
	if (was && now && strcmp(from, to) == 0)
		return 0;
	int r = fvm_fact_add(m, "group",
			     !was  ? FVM_FACT_ADDED
			     : now ? FVM_FACT_CHANGED
				   : FVM_FACT_REMOVED,
			     key, was ? from : NULL, now ? to : NULL);
	if (now && was && is_powerful(key))
		fvm_fact_alarm(m);
	return r;
}

static const char *password_state(const char *hash)
{
	if (hash[0] == '\0')
		return "none needed";
	return hash[0] == '!' || hash[0] == '*' ? "locked" : "set";
}

/* Says that it changed, never what it is. */
static int tell_password(struct fvm_meaning *m, const char *key, const char *was, const char *now,
			 void *arg)
{
	char old_text[1024], new_text[1024];
	const char *old[FIELDS], *new[FIELDS];
	(void)arg;
	if (!now)
		return 0;
	split(was, old_text, old);
	split(now, new_text, new);
	const char *from = was ? password_state(old[0]) : "locked", *to = password_state(new[0]);
	if ((was && strcmp(old[0], new[0]) == 0) ||
	    (strcmp(from, to) == 0 && strcmp(to, "locked") == 0))
		return 0;
	int r = fvm_fact_add(m, "password", FVM_FACT_CHANGED, key, from,
			     strcmp(from, to) == 0 ? "another" : to);
	if (strcmp(to, "none needed") == 0)
		fvm_fact_alarm(m);
	return r;
}

int fvm_meaning_accounts(struct fvm_meaning *m, const struct fvm_change *c)
{
	static const struct {
		const char *path;
		int (*fn)(struct fvm_meaning *, const char *, const char *, const char *, void *);
	} files[] = {
		{ "/etc/passwd", tell_user },
		{ "/etc/group", tell_group },
		{ "/etc/shadow", tell_password },
	};
	for (size_t i = 0; i < FVM_COUNT(files); i++) {
		scoped_sides sides = { 0 };
		scoped_records was = { 0 }, now = { 0 };
		if (strcmp(c->path, files[i].path) != 0 || c->kind == FVM_META)
			continue;
		int r = fvm_sides_read(c, FVM_MEANING_TEXT_MAX, &sides);
		if (r < 0 || sides.binary)
			return r;
		r = read_lines(sides.was, &was);
		if (r == 0)
			r = read_lines(sides.now, &now);
		return r < 0 ? r : fvm_records_compare(&was, &now, files[i].fn, m, NULL);
	}
	return 0;
}
