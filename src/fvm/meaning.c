#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "fvm/meaning_priv.h"

struct fvm_meaning {
	struct fvm_fact *facts;
	size_t count, room;
};

/* The kinds, and in which order their facts are told. */
static const fvm_meaning_fn kinds[] = {
	fvm_meaning_packages, fvm_meaning_modules,  fvm_meaning_accounts, fvm_meaning_units,
	fvm_meaning_powers,   fvm_meaning_settings, fvm_meaning_places,
};

static const char *const order[] = {
	"package",     "rpm database",	 "python package", "npm package",   "kernel",
	"user",	       "group",		 "password",	   "sudo rule",	    "SSH key",
	"set-id",      "capabilities",	 "unit",	   "enabled",	    "init script",
	"cron job",    "autostart",	 "D-Bus service",  "polkit rule",   "log-in rule",
	"device rule", "kernel module",	 "kernel setting", "preloaded",	    "library path",
	"certificate", "package source", "shell start-up", "mount",	    "name resolution",
	"time zone",   "alternative",	 "command",	   "desktop entry", "setting",
};

/* Where a file's mere presence means something. */
static const struct place {
	const char *kind;
	const char *below;   /* the path begins so */
	const char *pattern; /* fnmatch() of the rest; "" is the path itself */
	bool alarming;
} places[] = {
	{ "autostart", "/etc/xdg/autostart/", "*.desktop", false },
	{ "certificate", "/etc/ssl/certs/", "*", true },
	{ "certificate", "/usr/local/share/ca-certificates/", "*", true },
	{ "command", "/usr/local/bin/", "*", false },
	{ "command", "/usr/local/sbin/", "*", false },
	{ "cron job", "/etc/cron.", "*/*", false },
	{ "cron job", "/etc/crontab", "", false },
	{ "cron job", "/var/spool/cron/", "*", false },
	{ "cron job", "/var/spool/cron/crontabs/", "*", false },
	{ "D-Bus service", "/usr/share/dbus-1/", "*services/*.service", false },
	{ "D-Bus service", "/etc/dbus-1/", "*.d/*.conf", false },
	{ "desktop entry", "/usr/share/applications/", "*.desktop", false },
	{ "device rule", "/etc/udev/rules.d/", "*", false },
	{ "device rule", "/usr/lib/udev/rules.d/", "*", false },
	{ "init script", "/etc/init.d/", "*", false },
	{ "kernel", "/boot/vmlinuz", "*", false },
	{ "kernel module", "/etc/modprobe.d/", "*", false },
	{ "kernel module", "/etc/modules", "", false },
	{ "kernel module", "/etc/modules-load.d/", "*", false },
	{ "library path", "/etc/ld.so.conf", "", false },
	{ "library path", "/etc/ld.so.conf.d/", "*", false },
	{ "log-in rule", "/etc/pam.d/", "*", true },
	{ "log-in rule", "/etc/security/", "*", true },
	{ "mount", "/etc/fstab", "", false },
	{ "name resolution", "/etc/hosts", "", false },
	{ "name resolution", "/etc/nsswitch.conf", "", false },
	{ "name resolution", "/etc/resolv.conf", "", false },
	{ "package source", "/etc/apt/sources.list", "", true },
	{ "package source", "/etc/apt/sources.list.d/", "*", true },
	{ "package source", "/etc/apt/trusted.gpg", "*", true },
	{ "package source", "/etc/yum.repos.d/", "*", true },
	{ "polkit rule", "/etc/polkit-1/", "rules.d/*", true },
	{ "polkit rule", "/usr/share/polkit-1/", "rules.d/*", true },
	{ "preloaded", "/etc/ld.so.preload", "", true },
	{ "rpm database", "/usr/lib/sysimage/rpm/", "rpmdb.sqlite", false },
	{ "rpm database", "/var/lib/rpm/", "rpmdb.sqlite", false },
	{ "rpm database", "/var/lib/rpm/", "Packages*", false },
	{ "shell start-up", "/etc/bash.bashrc", "", false },
	{ "shell start-up", "/etc/environment", "", false },
	{ "shell start-up", "/etc/profile", "", false },
	{ "shell start-up", "/etc/profile.d/", "*", false },
	{ "shell start-up", "/home/", "*/.[a-z]*rc", false },
	{ "shell start-up", "/home/", "*/.*profile", false },
	{ "shell start-up", "/root/", ".*rc", false },
	{ "shell start-up", "/root/", ".*profile", false },
	{ "SSH key", "/home/", "*/.ssh/authorized_keys*", true },
	{ "SSH key", "/root/.ssh/", "authorized_keys*", true },
	{ "sudo rule", "/etc/sudoers", "", true },
	{ "sudo rule", "/etc/sudoers.d/", "*", true },
	{ "time zone", "/etc/localtime", "", false },
};

int fvm_meaning_places(struct fvm_meaning *m, const struct fvm_change *c)
{
	const struct stat *st = c->now ? c->now : c->was;
	if (S_ISDIR(st->st_mode) || c->kind == FVM_META)
		return 0;
	for (size_t i = 0; i < FVM_COUNT(places); i++) {
		const struct place *p = &places[i];
		size_t len = strlen(p->below);
		if (strncmp(c->path, p->below, len) != 0)
			continue;
		if (fnmatch(p->pattern, c->path + len, FNM_PATHNAME | FNM_PERIOD) != 0)
			continue;
		int r = fvm_fact_add(m, p->kind, fvm_fact_change(c), c->path, NULL, NULL);
		if (p->alarming)
			fvm_fact_alarm(m);
		return r;
	}
	return 0;
}

/* ---- the collection ---- */

struct fvm_meaning *fvm_meaning_new(void)
{
	return calloc(1, sizeof(struct fvm_meaning));
}

static void fact_free(struct fvm_fact *f)
{
	free(f->name);
	free(f->from);
	free(f->to);
}

void fvm_meaning_free(struct fvm_meaning *m)
{
	if (!m)
		return;
	for (size_t i = 0; i < m->count; i++)
		fact_free(&m->facts[i]);
	free(m->facts);
	free(m);
}

int fvm_meaning_take(struct fvm_meaning *m, const struct fvm_change *c)
{
	int r = 0;
	for (size_t i = 0; i < FVM_COUNT(kinds) && r == 0; i++)
		r = kinds[i](m, c);
	return r;
}

static char *copy(const char *text, bool *failed)
{
	char *s = text ? strdup(text) : NULL;
	*failed |= text && !s;
	return s;
}

int fvm_fact_add(struct fvm_meaning *m, const char *kind, enum fvm_fact_change change,
		 const char *name, const char *from, const char *to)
{
	if (m->count == m->room) {
		size_t room = m->room ? m->room * 2 : 64;
		struct fvm_fact *facts = realloc(m->facts, room * sizeof(*facts));
		if (!facts)
			return -ENOMEM;
		m->facts = facts;
		m->room = room;
	}
	bool failed = false;
	struct fvm_fact *f = &m->facts[m->count];
	*f = (struct fvm_fact){ .kind = kind, .change = change };
	f->name = copy(name, &failed);
	f->from = copy(from, &failed);
	f->to = copy(to, &failed);
	if (failed) {
		fact_free(f);
		return -ENOMEM;
	}
	m->count++;
	return 0;
}

void fvm_fact_alarm(struct fvm_meaning *m)
{
	if (m->count > 0)
		m->facts[m->count - 1].alarming = true;
}

enum fvm_fact_change fvm_fact_change(const struct fvm_change *c)
{
	if (!c->was)
		return FVM_FACT_ADDED;
	return c->now ? FVM_FACT_CHANGED : FVM_FACT_REMOVED;
}

static size_t rank(const char *kind)
{
	size_t i = 0;
	while (i < FVM_COUNT(order) && strcmp(order[i], kind) != 0)
		i++;
	return i;
}

static int compare_facts(const void *a, const void *b)
{
	const struct fvm_fact *x = a, *y = b;
	size_t rank_x = rank(x->kind), rank_y = rank(y->kind);
	if (rank_x != rank_y)
		return rank_x < rank_y ? -1 : 1;
	int r = strcmp(x->name, y->name);
	return r ? r : (int)x->change - (int)y->change; /* removed before added */
}

static bool same_text(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool replaces(const struct fvm_fact *old, const struct fvm_fact *new)
{
	return old->change == FVM_FACT_REMOVED &&
	       new->change == FVM_FACT_ADDED &&strcmp(old->kind, new->kind) == 0 &&
	       strcmp(old->name, new->name) == 0;
}

/* What went and came again is a change, or, with the same value, nothing. */
static void merge(struct fvm_meaning *m)
{
	size_t kept = 0;
	for (size_t i = 0; i < m->count; i++) {
		struct fvm_fact f = m->facts[i];
		if (i + 1 < m->count && replaces(&f, &m->facts[i + 1])) {
			struct fvm_fact *new = &m->facts[++i];
			f.change = FVM_FACT_CHANGED;
			f.alarming |= new->alarming;
			free(f.to);
			f.to = new->to;
			new->to = NULL;
			fact_free(new);
			if (f.from && same_text(f.from, f.to)) {
				fact_free(&f);
				continue;
			}
		}
		m->facts[kept++] = f;
	}
	m->count = kept;
}

int fvm_meaning_facts(struct fvm_meaning *m, const struct fvm_fact **ret, size_t *ret_count)
{
	if (m->count)
		qsort(m->facts, m->count, sizeof(*m->facts), compare_facts);
	merge(m);
	*ret = m->facts;
	*ret_count = m->count;
	return 0;
}

/* ---- tables of keys and values ---- */

void fvm_records_free(struct fvm_records *r)
{
	free(r->list);
	*r = (struct fvm_records){ 0 };
}

int fvm_records_add(struct fvm_records *r, char *key, char *value)
{
	if (r->count == r->room) {
		size_t room = r->room ? r->room * 2 : 64;
		struct fvm_record *list = realloc(r->list, room * sizeof(*list));
		if (!list)
			return -ENOMEM;
		r->list = list;
		r->room = room;
	}
	r->list[r->count] = (struct fvm_record){ key, value, r->count };
	r->count++;
	return 0;
}

static int compare_records(const void *a, const void *b)
{
	const struct fvm_record *x = a, *y = b;
	int r = strcmp(x->key, y->key);
	return r ? r : x->order < y->order ? -1 : x->order > y->order;
}

static void records_sort(struct fvm_records *r)
{
	size_t kept = 0;
	if (r->count)
		qsort(r->list, r->count, sizeof(*r->list), compare_records);
	for (size_t i = 0; i < r->count; i++) {
		if (i + 1 == r->count || strcmp(r->list[i].key, r->list[i + 1].key) != 0)
			r->list[kept++] = r->list[i];
	}
	r->count = kept;
}

int fvm_records_compare(struct fvm_records *was, struct fvm_records *now,
			int (*fn)(struct fvm_meaning *m, const char *key, const char *was,
				  const char *now, void *arg),
			struct fvm_meaning *m, void *arg)
{
	records_sort(was);
	records_sort(now);
	size_t i = 0, j = 0;
	int r = 0;
	while (r == 0 && i < was->count && j < now->count) {
		const struct fvm_record *a = &was->list[i], *b = &now->list[j];
		int side = strcmp(a->key, b->key);
		if (side < 0)
			r = fn(m, a->key, a->value, NULL, arg);
		else if (side > 0)
			r = fn(m, b->key, NULL, b->value, arg);
		else if (strcmp(a->value, b->value) != 0)
			r = fn(m, a->key, a->value, b->value, arg);
		i += side <= 0;
		j += side >= 0;
	}
	for (; r == 0 && i < was->count; i++)
		r = fn(m, was->list[i].key, was->list[i].value, NULL, arg);
	for (; r == 0 && j < now->count; j++)
		r = fn(m, now->list[j].key, NULL, now->list[j].value, arg);
	return r;
}

char *fvm_line_next(char **text)
{
	char *line = *text;
	if (!line || *line == '\0')
		return NULL;
	char *end = strchr(line, '\n');
	if (end)
		*end = '\0';
	*text = end ? end + 1 : NULL;
	return line;
}
