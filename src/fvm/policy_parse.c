/* The text of a policy, and the table of keys that reading and merging go by. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fvm/bind.h"
#include "fvm/native.h"
#include "fvm/policy.h"

#define LINE_MAX_BYTES 4096

enum kind { K_NET, K_BOOL, K_SIZE, K_CPUS, K_COUNT, K_PATH, K_BIND, K_NATIVE, K_ENV };

static const struct key {
	const char *name;
	enum kind kind;
	size_t offset;
} keys[] = {
#define KEY(name, kind, member)                                                                    \
	{                                                                                          \
		name, kind, offsetof(struct fvm_config, member)                                    \
	}
	KEY("net", K_NET, net), /* first: see fvm_policy_given() */
	KEY("private-networks", K_BOOL, private_networks),
	KEY("secrets", K_BOOL, secrets),
	KEY("io-uring", K_BOOL, io_uring),
	KEY("i386-sockets", K_BOOL, i386_sockets),
	KEY("memory", K_SIZE, memory_bytes),
	KEY("disk", K_SIZE, disk_bytes),
	KEY("cpus", K_CPUS, cpu_percent),
	KEY("pids", K_COUNT, pids),
	KEY("connections", K_COUNT, connections),
	KEY("hide", K_PATH, hide),
	KEY("show", K_PATH, show),
	KEY("direct", K_PATH, direct),
	KEY("read-only", K_PATH, read_only),
	KEY("bind", K_BIND, binds),
	KEY("native", K_NATIVE, native),
	KEY("device", K_PATH, devices),
	KEY("env", K_ENV, env),
#undef KEY
};

void fvm_policy_free(struct fvm_policy *p)
{
	free(p->name);
	free(p->path);
	free(p->summary);
	fvm_strv_free(&p->programs);
	fvm_config_free(&p->vm);
	*p = (struct fvm_policy){ 0 };
}

static void *member(const struct fvm_config *c, const struct key *k)
{
	return (char *)(uintptr_t)c + k->offset;
}

static bool is_list(const struct key *k)
{
	return k->kind == K_PATH || k->kind == K_BIND || k->kind == K_NATIVE || k->kind == K_ENV;
}

/* Limits that depend on the host's cgroups. */
static bool is_soft(const struct key *k)
{
	return k->offset == offsetof(struct fvm_config, memory_bytes) || k->kind == K_CPUS ||
	       k->offset == offsetof(struct fvm_config, pids);
}

/* ---- values ---- */

static int read_bool(bool *to, const char *value, struct fvm_error *err)
{
	static const char *const words[] = { "no", "yes", "false", "true", "off", "on" };
	for (size_t i = 0; i < FVM_COUNT(words); i++) {
		if (strcmp(value, words[i]) == 0) {
			*to = i & 1;
			return 0;
		}
	}
	return fvm_error_set(err, EBADMSG, "'%.40s' is neither yes nor no", value);
}

static int read_net(enum fvm_net_mode *to, const char *value, struct fvm_error *err)
{
	static const char *const words[] = { "nat", "none", "host" };
	for (size_t i = 0; i < FVM_COUNT(words); i++) {
		if (strcmp(value, words[i]) == 0) {
			*to = (enum fvm_net_mode)i;
			return 0;
		}
	}
	return fvm_error_set(err, EBADMSG, "'%.40s' is none of nat, none, host", value);
}

static int read_size(uint64_t *to, const char *value, struct fvm_error *err)
{
	if (fvm_size_parse(value, to) == 0 && *to > 0)
		return 0;
	return fvm_error_set(err, EBADMSG, "'%.40s' is not a size such as 512M", value);
}

static int read_number(double low, double high, const char *value, double *to,
		       struct fvm_error *err)
{
	char *end;
	double n = strtod(value, &end);
	/* strtod() also takes "nan", "0x10" and "inf" */
	if (*end || end == value || strspn(value, "0123456789.") != strlen(value) ||
	    !(n >= low && n <= high))
		return fvm_error_set(err, EBADMSG, "'%.40s' is not a number from %g to %g", value,
				     low, high);
	*to = n;
	return 0;
}

static int read_cpus(uint32_t *to, const char *value, struct fvm_error *err)
{
	double n = 0;
	int r = read_number(0.01, 10000, value, &n, err);
	if (r == 0)
		*to = (uint32_t)(n * 100 + 0.5);
	return r;
}

static int read_count(uint32_t *to, const char *value, struct fvm_error *err)
{
	double n = 0;
	int r = read_number(1, 4194304, value, &n, err);
	if (r == 0 && n != (double)(uint32_t)n)
		r = fvm_error_set(err, EBADMSG, "'%.40s' is not a whole number", value);
	if (r == 0)
		*to = (uint32_t)n;
	return r;
}

static int read_path(struct fvm_strv *to, const char *value, struct fvm_error *err)
{
	const char *path = value + (value[0] == '-');
	if (path[0] != '/' && strncmp(path, "~/", 2) != 0)
		return fvm_error_set(err, EBADMSG, "'%.80s' begins with neither / nor ~/", value);
	int r = fvm_path_check(path + (path[0] == '~'), err);
	if (r < 0)
		return r;
	return fvm_strv_add(to, value);
}

static int read_bind(struct fvm_strv *to, const char *value, struct fvm_error *err)
{
	scoped_bind bind = { 0 };
	const char *text = value + (value[0] == '-');
	int r = fvm_bind_parse(text[0] == '~' ? text + 1 : text, &bind, err);
	return r < 0 ? r : fvm_strv_add(to, value);
}

static int read_native(struct fvm_strv *to, const char *value, struct fvm_error *err)
{
	scoped_native native = { 0 };
	const char *text = value + (value[0] == '-');
	int r = fvm_native_parse(text[0] == '~' ? text + 1 : text, &native, err);
	return r < 0 ? fvm_error_wrap(err, -EBADMSG, "'%.80s'", value) : fvm_strv_add(to, value);
}

static int read_env(struct fvm_strv *to, const char *value, struct fvm_error *err)
{
	const char *equals = strchr(value, '=');
	if (!equals || equals == value || value[strcspn(value, " \t=")] != '=')
		return fvm_error_set(err, EBADMSG, "'%.80s' is not of the form NAME=VALUE", value);
	return fvm_strv_add(to, value);
}

static int read_value(struct fvm_config *c, const struct key *k, const char *value,
		      struct fvm_error *err)
{
	void *to = member(c, k);
	if (is_soft(k) && value[0] == '-') {
		c->soft_limits = true;
		value++;
	}
	switch (k->kind) {
	case K_NET:
		return read_net(to, value, err);
	case K_BOOL:
		return read_bool(to, value, err);
	case K_SIZE:
		return read_size(to, value, err);
	case K_CPUS:
		return read_cpus(to, value, err);
	case K_COUNT:
		return read_count(to, value, err);
	case K_PATH:
		return read_path(to, value, err);
	case K_BIND:
		return read_bind(to, value, err);
	case K_NATIVE:
		return read_native(to, value, err);
	case K_ENV:
		return read_env(to, value, err);
	}
	return fvm_error_set(err, EBADMSG, "a key of unknown kind");
}

/* ---- lines ---- */

enum section { S_NONE, S_POLICY, S_MATCH, S_VM };

struct parser {
	struct fvm_policy *policy;
	enum section section;
	bool seen[S_VM + 1];
};

static char *trim(char *text)
{
	text += strspn(text, " \t");
	size_t n = strlen(text);
	while (n && (text[n - 1] == ' ' || text[n - 1] == '\t'))
		text[--n] = '\0';
	return text;
}

static int open_section(struct parser *p, const char *line, struct fvm_error *err)
{
	static const char *const names[] = { "", "[policy]", "[match]", "[vm]" };
	for (int i = S_POLICY; i <= S_VM; i++) {
		if (strcmp(line, names[i]) != 0)
			continue;
		if (p->seen[i])
			return fvm_error_set(err, EBADMSG, "%s stands there twice", line);
		p->seen[i] = true;
		p->section = (enum section)i;
		return 0;
	}
	return fvm_error_set(err, EBADMSG, "'%.40s' is none of [policy], [match], [vm]", line);
}

static int vm_key(struct fvm_policy *p, const char *name, const char *value, struct fvm_error *err)
{
	for (size_t i = 0; i < FVM_COUNT(keys); i++) {
		if (strcmp(keys[i].name, name) != 0)
			continue;
		if ((p->given & 1U << i) && !is_list(&keys[i]))
			return fvm_error_set(err, EBADMSG, "'%s' stands there twice", name);
		p->given |= 1U << i;
		return read_value(&p->vm, &keys[i], value, err);
	}
	return fvm_error_set(err, EBADMSG, "there is no key '%.40s' in [vm]", name);
}

static int take_key(struct parser *p, const char *name, const char *value, struct fvm_error *err)
{
	struct fvm_policy *to = p->policy;
	if (!*name || !*value)
		return fvm_error_set(err, EBADMSG, "a %s is missing", *name ? "value" : "key");
	if (p->section == S_VM)
		return vm_key(to, name, value, err);
	if (p->section == S_MATCH && strcmp(name, "program") == 0)
		return fvm_strv_add(&to->programs, value);
	if (p->section == S_POLICY && strcmp(name, "summary") == 0) {
		if (to->summary)
			return fvm_error_set(err, EBADMSG, "'summary' stands there twice");
		to->summary = strdup(value);
		return to->summary ? 0 : -ENOMEM;
	}
	if (p->section == S_NONE)
		return fvm_error_set(err, EBADMSG, "'%.40s' stands before any [section]", name);
	return fvm_error_set(err, EBADMSG, "there is no key '%.40s' in this section", name);
}

static int take_line(struct parser *p, char *line, struct fvm_error *err)
{
	line = trim(line);
	if (!*line || *line == '#' || *line == ';')
		return 0;
	for (const char *c = line; *c; c++) {
		if ((unsigned char)*c < ' ' && *c != '\t')
			return fvm_error_set(err, EBADMSG, "a control character");
	}
	if (*line == '[')
		return open_section(p, line, err);
	char *equals = strchr(line, '=');
	if (!equals)
		return fvm_error_set(err, EBADMSG, "'%.40s' is not of the form KEY = VALUE", line);
	*equals = '\0';
	return take_key(p, trim(line), trim(equals + 1), err);
}

static int parse(struct parser *p, const char *text, size_t len, struct fvm_error *err)
{
	char line[LINE_MAX_BYTES];
	unsigned int number = 0;
	for (const char *end = text + len; text < end;) {
		const char *newline = memchr(text, '\n', (size_t)(end - text));
		size_t n = (size_t)((newline ? newline : end) - text);
		int r = 0;
		number++;
		if (n >= sizeof(line) || memchr(text, '\0', n)) {
			r = fvm_error_set(err, EBADMSG, "%s",
					  n >= sizeof(line) ? "the line is too long"
							    : "a NUL byte");
		} else {
			memcpy(line, text, n);
			line[n && text[n - 1] == '\r' ? n - 1 : n] = '\0';
			r = take_line(p, line, err);
		}
		if (r == -ENOMEM)
			return fvm_error_set(err, ENOMEM, "read it");
		if (r < 0)
			return fvm_error_wrap(err, -EBADMSG, "line %u", number);
		text += n + (newline ? 1 : 0);
	}
	return 0;
}

int fvm_policy_parse(const char *text, size_t len, struct fvm_policy *ret, struct fvm_error *err)
{
	scoped_policy policy = { 0 };
	struct parser p = { .policy = &policy };
	int r = parse(&p, text, len, err);
	if (r < 0)
		return r;
	*ret = policy;
	policy = (struct fvm_policy){ 0 };
	return 0;
}

/* ---- merging ---- */

static void copy_value(struct fvm_config *to, const struct fvm_config *from, const struct key *k)
{
	static const size_t sizes[] = {
		[K_NET] = sizeof(enum fvm_net_mode), [K_BOOL] = sizeof(bool),
		[K_SIZE] = sizeof(uint64_t),	     [K_CPUS] = sizeof(uint32_t),
		[K_COUNT] = sizeof(uint32_t),
	};
	memcpy(member(to, k), member(from, k), sizes[k->kind]);
	if (k->kind == K_NET)
		to->net_given = true;
	if (is_soft(k))
		to->soft_limits |= from->soft_limits;
	if (strcmp(k->name, "secrets") == 0)
		to->no_secrets = !from->secrets;
}

uint32_t fvm_policy_given(const struct fvm_config *config)
{
	static const struct fvm_config none = { 0 };
	uint32_t given = config->net_given ? 1 : 0;
	for (size_t i = 1; i < FVM_COUNT(keys); i++) {
		bool set = false;
		if (keys[i].kind == K_BOOL)
			set = *(const bool *)member(config, &keys[i]);
		else if (keys[i].kind == K_SIZE)
			set = *(const uint64_t *)member(config, &keys[i]) != 0;
		else if (!is_list(&keys[i]))
			set = memcmp(member(config, &keys[i]), member(&none, &keys[i]),
				     sizeof(uint32_t)) != 0;
		given |= set ? 1U << i : 0;
	}
	return given;
}

int fvm_policy_merge(const struct fvm_policy *p, struct fvm_config *into, uint32_t *taken)
{
	for (size_t i = 0; i < FVM_COUNT(keys); i++) {
		if (!(p->given & 1U << i))
			continue;
		if (is_list(&keys[i])) {
			int r = fvm_strv_copy(member(into, &keys[i]), member(&p->vm, &keys[i]));
			if (r < 0)
				return r;
		} else if (!(*taken & 1U << i)) {
			copy_value(into, &p->vm, &keys[i]);
			*taken |= 1U << i;
		}
	}
	return 0;
}
