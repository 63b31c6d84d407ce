/*
 * Settings: files of lines "key = value" in /etc, with [sections] or without.
 *
 * No list of programs is needed: a text is taken for settings when most of its lines that say
 * anything have that form. Others are left to the patch.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fvm/meaning_priv.h"

#define SETTINGS_MAX (1 << 20)
#define VALUE_MAX    200 /* longer values are cut where they are told */

static char *strip(char *text)
{
	while (isspace((unsigned char)*text))
		text++;
	size_t len = strlen(text);
	while (len > 0 && isspace((unsigned char)text[len - 1]))
		text[--len] = '\0';
	return text;
}

static bool is_key(const char *key)
{
	if (!isalnum((unsigned char)*key) && *key != '_' && *key != '-')
		return false;
	for (; *key; key++) {
		if (!isalnum((unsigned char)*key) && !strchr("_.-/:[]*", *key))
			return false;
	}
	return true;
}

struct reader {
	struct fvm_records *records;
	struct fvm_strv *keys; /* owns "section.key" */
	const char *section;
	size_t good, bad;
};

static int read_line(struct reader *r, char *line)
{
	line = strip(line);
	size_t len = strlen(line);
	if (len == 0 || line[0] == '#' || line[0] == ';')
		return 0;
	if (line[0] == '[' && line[len - 1] == ']') {
		line[len - 1] = '\0';
		r->section = line + 1;
		return 0;
	}
	char *equals = strchr(line, '=');
	if (strncmp(line, "export ", 7) == 0)
		line += 7;
	if (!equals) {
		r->bad++;
		return 0;
	}
	*equals = '\0';
	line = strip(line);
	if (!is_key(line)) {
		r->bad++;
		return 0;
	}
	r->good++;
	int e = fvm_strv_addf(r->keys, "%s%s%s", r->section ? r->section : "",
			      r->section ? "." : "", line);
	if (e < 0)
		return e;
	return fvm_records_add(r->records, r->keys->items[r->keys->count - 1], strip(equals + 1));
}

/* Return: 0, 1 when the text is none of settings, or -errno */
static int read_settings(char *text, struct fvm_records *records, struct fvm_strv *keys)
{
	struct reader r = { .records = records, .keys = keys };
	for (char *line; (line = fvm_line_next(&text));) {
		int e = read_line(&r, line);
		if (e < 0)
			return e;
	}
	return r.bad > r.good;
}

static const char *cut(const char *value, char buf[VALUE_MAX + 4])
{
	if (!value)
		return NULL;
	snprintf(buf, VALUE_MAX + 4, "%.*s%s", VALUE_MAX, value,
		 strlen(value) > VALUE_MAX ? "..." : "");
	return buf;
}

static int tell_setting(struct fvm_meaning *m, const char *key, const char *was, const char *now,
			void *arg)
{
	const struct fvm_change *c = arg;
	char from[VALUE_MAX + 4], to[VALUE_MAX + 4];
	bool kernel = strstr(c->path, "/sysctl") != NULL;
	scoped_buf name = { 0 };
	fvm_buf_printf(&name, "%s %s", c->path, key);
	if (name.failed)
		return -ENOMEM;
	return fvm_fact_add(m, kernel ? "kernel setting" : "setting",
			    !was  ? FVM_FACT_ADDED
			    : now ? FVM_FACT_CHANGED
				  : FVM_FACT_REMOVED,
			    name.data, cut(was, from), cut(now, to));
}

/* New and deleted files are of interest as a whole, their single lines are not: but for sysctl. */
static bool concerns(const struct fvm_change *c)
{
	const struct stat *st = c->now ? c->now : c->was;
	if (!S_ISREG(st->st_mode) || c->kind == FVM_META)
		return false;
	if (strncmp(c->path, "/etc/sysctl", 11) == 0 ||
	    strncmp(c->path, "/usr/lib/sysctl.d/", 18) == 0)
		return true;
	return c->kind == FVM_CHANGED && strncmp(c->path, "/etc/", 5) == 0;
}

int fvm_meaning_settings(struct fvm_meaning *m, const struct fvm_change *c)
{
	scoped_sides sides = { 0 };
	scoped_records was = { 0 }, now = { 0 };
	scoped_strv keys = { 0 };
	if (!concerns(c))
		return 0;
	int r = fvm_sides_read(c, SETTINGS_MAX, &sides);
	if (r < 0 || sides.binary)
		return r;
	r = read_settings(sides.was, &was, &keys);
	if (r == 0)
		r = read_settings(sides.now, &now, &keys);
	if (r != 0)
		return r < 0 ? r : 0;
	return fvm_records_compare(&was, &now, tell_setting, m, (void *)(uintptr_t)c);
}
