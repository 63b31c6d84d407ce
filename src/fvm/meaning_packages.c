#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fvm/meaning_priv.h"

#if defined(__x86_64__)
#define FVM_DEB_ARCH ":amd64"
#elif defined(__aarch64__)
#define FVM_DEB_ARCH ":arm64"
#else
#define FVM_DEB_ARCH ":"
#endif

/* ---- dpkg ---- */

/* The value of "@name: value", or NULL */
static char *field(char *line, const char *name)
{
	size_t len = strlen(name);
	if (strncmp(line, name, len) != 0 || line[len] != ':')
		return NULL;
	for (line += len + 1; *line == ' ';)
		line++;
	return line;
}

struct paragraph {
	char *package, *version, *architecture, *status;
};

/* Installed packages as "name:architecture" -> version; @keys owns the keys. */
static int paragraph_end(struct fvm_records *r, struct fvm_strv *keys, struct paragraph *p)
{
	int e = 0;
	const char *state = p->status ? strrchr(p->status, ' ') : NULL;
	if (p->package && p->version && state && strcmp(state, " not-installed") != 0 &&
	    strcmp(state, " config-files") != 0) {
		e = fvm_strv_addf(keys, "%s:%s", p->package,
				  p->architecture ? p->architecture : "all");
		if (e == 0)
			e = fvm_records_add(r, keys->items[keys->count - 1], p->version);
	}
	*p = (struct paragraph){ 0 };
	return e;
}

static int read_status(char *text, struct fvm_records *r, struct fvm_strv *keys)
{
	struct paragraph p = { 0 };
	int e = 0;
	for (char *line; e == 0 && (line = fvm_line_next(&text));) {
		char *value;
		if (line[0] == '\0')
			e = paragraph_end(r, keys, &p);
		else if ((value = field(line, "Package")))
			p.package = value;
		else if ((value = field(line, "Version")))
			p.version = value;
		else if ((value = field(line, "Architecture")))
			p.architecture = value;
		else if ((value = field(line, "Status")))
			p.status = value;
	}
	return e < 0 ? e : paragraph_end(r, keys, &p);
}

static int tell_package(struct fvm_meaning *m, const char *key, const char *was, const char *now,
			void *arg)
{
	(void)arg;
	enum fvm_fact_change change = !was  ? FVM_FACT_ADDED
				      : now ? FVM_FACT_CHANGED
					    : FVM_FACT_REMOVED;
	/* the machine's own architecture goes without saying */
	char name[256];
	snprintf(name, sizeof(name), "%s", key);
	char *colon = strrchr(name, ':');
	if (colon && (strcmp(colon, ":all") == 0 || strcmp(colon, FVM_DEB_ARCH) == 0))
		*colon = '\0';
	return fvm_fact_add(m, "package", change, name, was, now);
}

int fvm_meaning_packages(struct fvm_meaning *m, const struct fvm_change *c)
{
	scoped_sides sides = { 0 };
	scoped_records was = { 0 }, now = { 0 };
	scoped_strv keys = { 0 };
	if (strcmp(c->path, "/var/lib/dpkg/status") != 0 || c->kind == FVM_META)
		return 0;
	int r = fvm_sides_read(c, FVM_MEANING_TEXT_MAX, &sides);
	if (r < 0 || sides.binary)
		return r;
	r = read_status(sides.was, &was, &keys);
	if (r == 0)
		r = read_status(sides.now, &now, &keys);
	return r < 0 ? r : fvm_records_compare(&was, &now, tell_package, m, NULL);
}

/* ---- pip and npm: one directory each ---- */

/* ".../site-packages/NAME-VERSION.dist-info" */
static int python_package(struct fvm_meaning *m, const struct fvm_change *c)
{
	const char *last = strrchr(c->path, '/') + 1;
	size_t len = strlen(last);
	static const char *const ends[] = { ".dist-info", ".egg-info" };
	for (size_t i = 0; i < FVM_COUNT(ends); i++) {
		size_t end_len = strlen(ends[i]);
		if (len <= end_len || strcmp(last + len - end_len, ends[i]) != 0)
			continue;
		char text[512];
		snprintf(text, sizeof(text), "%.*s", (int)(len - end_len), last);
		char *dash = strchr(text, '-');
		if (dash)
			*dash++ = '\0';
		bool gone = c->kind == FVM_DELETED;
		return fvm_fact_add(m, "python package", fvm_fact_change(c), text,
				    gone ? dash : NULL, gone ? NULL : dash);
	}
	return 0;
}

static char *json_version(const char *text, size_t len)
{
	json_error_t error;
	json_t *root = text ? json_loadb(text, len, 0, &error) : NULL;
	const char *version = json_string_value(json_object_get(root, "version"));
	char *copy = version ? strdup(version) : NULL;
	json_decref(root);
	return copy;
}

/* ".../lib/node_modules/[@SCOPE/]NAME/package.json"; what lies in a package's own node_modules
 * belongs to it */
static int npm_package(struct fvm_meaning *m, const struct fvm_change *c, const char *name)
{
	scoped_sides sides = { 0 };
	const char *slash = strchr(name, '/');
	if (slash && name[0] == '@')
		slash = strchr(slash + 1, '/');
	if (!slash || strcmp(slash, "/package.json") != 0)
		return 0;
	int r = fvm_sides_read(c, 1 << 20, &sides);
	if (r < 0 || sides.binary)
		return r;
	char text[512];
	snprintf(text, sizeof(text), "%.*s", (int)(slash - name), name);
	scoped_free char *was = json_version(sides.was, sides.was_len);
	scoped_free char *now = json_version(sides.now, sides.now_len);
	if (was && now && strcmp(was, now) == 0)
		return 0;
	return fvm_fact_add(m, "npm package", fvm_fact_change(c), text, was, now);
}

int fvm_meaning_modules(struct fvm_meaning *m, const struct fvm_change *c)
{
	static const char node[] = "/lib/node_modules/";
	if (c->kind == FVM_META)
		return 0;
	const char *at = strstr(c->path, node);
	if (at)
		return npm_package(m, c, at + sizeof(node) - 1);
	if (strstr(c->path, "-packages/"))
		return python_package(m, c);
	return 0;
}
