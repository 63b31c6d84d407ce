/*
 * One table says which JSON key is which field; reading, writing, copying and freeing go by it.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "fvm/config.h"

#define CONFIG_LIMIT (1024 * 1024)

enum kind { K_NAME, K_ID, K_BOOL, K_I64, K_U64, K_U32, K_STRING, K_LIST, K_ENUM };

static const char *const net_words[] = { "nat", "none", "host", NULL };
static const char *const init_words[] = { "fvm", "systemd", NULL };

static const struct field {
	const char *key;
	enum kind kind;
	size_t offset;
	const char *const *words; /* K_ENUM */
} fields[] = {
#define FIELD(key, kind, member)                                                                   \
	{                                                                                          \
		key, kind, offsetof(struct fvm_config, member), NULL                               \
	}
	FIELD("name", K_NAME, name),
	FIELD("id", K_ID, id),
	FIELD("created_ns", K_I64, created_ns),
	FIELD("first_start_ns", K_I64, first_start_ns),
	FIELD("rootless", K_BOOL, rootless),
	FIELD("throw_away", K_BOOL, throw_away),
	{ "net", K_ENUM, offsetof(struct fvm_config, net), net_words },
	{ "init", K_ENUM, offsetof(struct fvm_config, init), init_words },
	FIELD("ports", K_LIST, ports),
	FIELD("devices", K_LIST, devices),
	FIELD("binds", K_LIST, binds),
	FIELD("native", K_LIST, native),
	FIELD("hide", K_LIST, hide),
	FIELD("read_only", K_LIST, read_only),
	FIELD("show", K_LIST, show),
	FIELD("direct", K_LIST, direct),
	FIELD("env", K_LIST, env),
	FIELD("policies", K_LIST, policies),
	FIELD("net_given", K_BOOL, net_given),
	FIELD("no_secrets", K_BOOL, no_secrets),
	FIELD("secrets", K_BOOL, secrets),
	FIELD("io_uring", K_BOOL, io_uring),
	FIELD("i386_sockets", K_BOOL, i386_sockets),
	FIELD("private_networks", K_BOOL, private_networks),
	FIELD("memory_bytes", K_U64, memory_bytes),
	FIELD("disk_bytes", K_U64, disk_bytes),
	FIELD("cpu_percent", K_U32, cpu_percent),
	FIELD("pids", K_U32, pids),
	FIELD("connections", K_U32, connections),
	FIELD("hostname", K_STRING, hostname),
	FIELD("layers", K_LIST, layers),
	FIELD("pending", K_STRING, pending),
	FIELD("before", K_LIST, before),
#undef FIELD
};

static void *member(const struct fvm_config *c, const struct field *f)
{
	return (char *)(uintptr_t)c + f->offset;
}

static void snapshots_free(struct fvm_config *c)
{
	for (size_t i = 0; i < c->snapshot_count; i++) {
		free(c->snapshots[i].tag);
		fvm_strv_free(&c->snapshots[i].layers);
		free(c->snapshots[i].programs);
	}
	free(c->snapshots);
}

void fvm_config_free(struct fvm_config *c)
{
	for (size_t i = 0; i < FVM_COUNT(fields); i++) {
		if (fields[i].kind == K_LIST)
			fvm_strv_free(member(c, &fields[i]));
		else if (fields[i].kind == K_STRING)
			free(*(char **)member(c, &fields[i]));
	}
	snapshots_free(c);
	*c = (struct fvm_config){ 0 };
}

static int read_list(struct fvm_strv *list, const json_t *value)
{
	if (!json_is_array(value))
		return -EBADMSG;
	size_t i;
	const json_t *item;
	json_array_foreach(value, i, item) {
		if (!json_is_string(item))
			return -EBADMSG;
		int r = fvm_strv_add(list, json_string_value(item));
		if (r < 0)
			return r;
	}
	return 0;
}

static int read_text(char *to, size_t size, const json_t *value)
{
	if (!json_is_string(value) || json_string_length(value) >= size)
		return -EBADMSG;
	memcpy(to, json_string_value(value), json_string_length(value) + 1);
	return 0;
}

static int read_word(int *to, const char *const *words, const json_t *value)
{
	for (int i = 0; json_is_string(value) && words[i]; i++) {
		if (strcmp(words[i], json_string_value(value)) == 0) {
			*to = i;
			return 0;
		}
	}
	return -EBADMSG;
}

static int read_number(void *to, enum kind kind, const json_t *value)
{
	if (!json_is_integer(value))
		return -EBADMSG;
	json_int_t n = json_integer_value(value);
	if (kind != K_I64 && n < 0)
		return -EBADMSG;
	if (kind == K_U32 && n > UINT32_MAX)
		return -EBADMSG;
	if (kind == K_U32)
		*(uint32_t *)to = (uint32_t)n;
	else
		*(int64_t *)to = n;
	return 0;
}

static int read_field(struct fvm_config *c, const struct field *f, const json_t *value)
{
	void *to = member(c, f);
	switch (f->kind) {
	case K_NAME:
		return read_text(to, sizeof(c->name), value);
	case K_ID:
		return read_text(to, sizeof(c->id), value);
	case K_BOOL:
		if (!json_is_boolean(value))
			return -EBADMSG;
		*(bool *)to = json_is_true(value);
		return 0;
	case K_I64:
	case K_U64:
	case K_U32:
		return read_number(to, f->kind, value);
	case K_ENUM:
		return read_word(to, f->words, value);
	case K_LIST:
		return read_list(to, value);
	case K_STRING:
		if (!json_is_string(value))
			return -EBADMSG;
		free(*(char **)to);
		*(char **)to = strdup(json_string_value(value));
		return *(char **)to ? 0 : -ENOMEM;
	}
	return -EBADMSG;
}

/* It becomes a file's name. */
static bool is_programs(const json_t *value)
{
	const char *text = json_string_value(value);
	return text && strlen(text) == FVM_PROGRAMS_NAME &&
	       strspn(text, "0123456789abcdef") == FVM_PROGRAMS_NAME;
}

static int read_snapshot(struct fvm_config *c, const json_t *value)
{
	struct fvm_snapshot *s = &c->snapshots[c->snapshot_count];
	const json_t *tag = json_object_get(value, "tag");
	const json_t *created = json_object_get(value, "created_ns");
	const json_t *programs = json_object_get(value, "programs");
	if (!json_is_string(tag) || !json_is_integer(created) ||
	    (programs && !is_programs(programs)) || json_object_size(value) != (programs ? 4 : 3))
		return -EBADMSG;
	s->tag = strdup(json_string_value(tag));
	s->created_ns = json_integer_value(created);
	c->snapshot_count++; /* from here on it is freed with the rest */
	if (!s->tag ||
	    fvm_config_set_programs(c, c->snapshot_count - 1, json_string_value(programs)) < 0)
		return -ENOMEM;
	return read_list(&s->layers, json_object_get(value, "layers"));
}

static int read_snapshots(struct fvm_config *c, const json_t *value)
{
	if (!json_is_array(value))
		return -EBADMSG;
	c->snapshots = calloc(json_array_size(value) + 1, sizeof(*c->snapshots));
	if (!c->snapshots)
		return -ENOMEM;
	size_t i;
	const json_t *item;
	json_array_foreach(value, i, item) {
		int r = read_snapshot(c, item);
		if (r < 0)
			return r;
	}
	return 0;
}

static const struct field *find_field(const char *key)
{
	for (size_t i = 0; i < FVM_COUNT(fields); i++) {
		if (strcmp(fields[i].key, key) == 0)
			return &fields[i];
	}
	return NULL;
}

static int read_all(struct fvm_config *c, json_t *root, struct fvm_error *err)
{
	const char *key;
	json_t *value;
	json_object_foreach(root, key, value) {
		const struct field *f = find_field(key);
		int r;
		if (f)
			r = read_field(c, f, value);
		else if (strcmp(key, "snapshots") == 0)
			r = read_snapshots(c, value);
		else if (strcmp(key, "format") == 0)
			r = 0;
		else
			return fvm_error_set(err, EBADMSG, "unknown key \"%.60s\"", key);
		if (r < 0)
			return fvm_error_set(err, -r, "key \"%.60s\" has a wrong value", key);
	}
	if (fvm_name_check(c->name, NULL) < 0 || strlen(c->id) != 32)
		return fvm_error_set(err, EBADMSG, "name or id is missing");
	return 0;
}

static int check_format(const json_t *root, struct fvm_error *err)
{
	const json_t *format = json_object_get(root, "format");
	if (!json_is_integer(format))
		return fvm_error_set(err, EBADMSG, "no format number");
	json_int_t n = json_integer_value(format);
	if (n <= FVM_FORMAT && n > 0)
		return 0;
	fvm_error_set(err, EPROTONOSUPPORT, "format %lld, and this fvm knows up to %d",
		      (long long)n, FVM_FORMAT);
	fvm_error_hint(err, "a newer fvm made this VM: use that one");
	return -EPROTONOSUPPORT;
}

int fvm_config_parse(const char *json, size_t len, struct fvm_config *ret, struct fvm_error *err)
{
	json_error_t bad;
	json_t *root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &bad);
	if (!json_is_object(root)) {
		json_decref(root);
		return fvm_error_set(err, EBADMSG, "not JSON at line %d", root ? 1 : bad.line);
	}
	struct fvm_config c = { 0 };
	int r = check_format(root, err);
	if (r == 0)
		r = read_all(&c, root, err);
	json_decref(root);
	if (r < 0)
		fvm_config_free(&c);
	else
		*ret = c;
	return r;
}

static json_t *print_list(const struct fvm_strv *list)
{
	json_t *array = json_array();
	fvm_strv_each(list, i) {
		/* json_string() refuses what is not UTF-8 */
		if (json_array_append_new(array, json_string(list->items[i])) < 0) {
			json_decref(array);
			return NULL;
		}
	}
	return array;
}

static json_t *print_field(const struct fvm_config *c, const struct field *f)
{
	const void *from = member(c, f);
	switch (f->kind) {
	case K_NAME:
	case K_ID:
		return json_string(from);
	case K_BOOL:
		return json_boolean(*(const bool *)from);
	case K_I64:
	case K_U64:
		return json_integer(*(const int64_t *)from);
	case K_U32:
		return json_integer(*(const uint32_t *)from);
	case K_ENUM:
		return json_string(f->words[*(const int *)from]);
	case K_LIST:
		return print_list(from);
	case K_STRING:
		return *(char *const *)from ? json_string(*(char *const *)from) : NULL;
	}
	return NULL;
}

static bool is_default(const json_t *value)
{
	return json_is_false(value) || (json_is_array(value) && json_array_size(value) == 0) ||
	       (json_is_integer(value) && json_integer_value(value) == 0);
}

char *fvm_config_print(const struct fvm_config *c)
{
	json_t *root = json_pack("{s:i}", "format", FVM_FORMAT);
	for (size_t i = 0; i < FVM_COUNT(fields); i++) {
		json_t *value = print_field(c, &fields[i]);
		if (!value && fields[i].kind != K_STRING) {
			json_decref(root);
			return NULL;
		}
		if (value && !is_default(value))
			json_object_set_new(root, fields[i].key, value);
		else
			json_decref(value);
	}
	json_t *snapshots = json_array();
	for (size_t i = 0; i < c->snapshot_count; i++) {
		const struct fvm_snapshot *s = &c->snapshots[i];
		json_array_append_new(snapshots,
				      json_pack("{s:s, s:I, s:o, s:s*}", "tag", s->tag,
						"created_ns", (json_int_t)s->created_ns, "layers",
						print_list(&s->layers), "programs", s->programs));
	}
	if (c->snapshot_count)
		json_object_set(root, "snapshots", snapshots);
	json_decref(snapshots);
	char *text = json_dumps(root, JSON_INDENT(2));
	json_decref(root);
	return text;
}

int fvm_config_load(int dir, struct fvm_config *ret, struct fvm_error *err)
{
	scoped_free char *text = NULL;
	size_t len = 0;
	int r = fvm_read_file(dir, "config.json", CONFIG_LIMIT, &text, &len);
	if (r == 0)
		r = fvm_config_parse(text, len, ret, err);
	return r < 0 ? fvm_error_wrap_at(err, r, dir, "config.json") : 0;
}

int fvm_config_overwrite(int dir, const struct fvm_config *c, struct fvm_error *err)
{
	scoped_free char *text = fvm_config_print(c);
	struct stat st;
	if (!text)
		return fvm_error_set(err, EILSEQ,
				     "write config.json: a path or value in it is not UTF-8");
	scoped_fd fd = fvm_open_nofollow(dir, "config.json", O_WRONLY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return fvm_error_set(err, fd < 0 ? -fd : errno, "open config.json");
	size_t len = strlen(text), size = st.st_size > 0 ? (size_t)st.st_size : 0;
	/* blanks after it are JSON, too; to cut a file costs more than all else here */
	scoped_buf padded = { 0 };
	fvm_buf_add(&padded, text, len);
	while (padded.len < size && !padded.failed)
		fvm_buf_puts(&padded, "\n");
	if (padded.failed)
		return fvm_error_set(err, ENOMEM, "write config.json");
	size_t all = size > len ? size : len;
	ssize_t n = pwrite(fd, padded.data, all, 0);
	return n == (ssize_t)all ? 0 : fvm_error_set(err, n < 0 ? errno : EIO, "write config.json");
}

int fvm_config_save(int dir, const struct fvm_config *c, bool sync, struct fvm_error *err)
{
	scoped_free char *text = fvm_config_print(c);
	if (!text)
		return fvm_error_set(err, EILSEQ,
				     "write config.json: a path or value in it is not UTF-8");
	int r = fvm_write_file_atomic(dir, "config.json", text, strlen(text), sync);
	return r < 0 ? fvm_error_set(err, -r, "write config.json") : 0;
}

int fvm_config_copy(struct fvm_config *to, const struct fvm_config *from)
{
	/* through the text: no second list of fields to keep in step */
	scoped_free char *text = fvm_config_print(from);
	return text ? fvm_config_parse(text, strlen(text), to, NULL) : -ENOMEM;
}

int fvm_name_check(const char *name, struct fvm_error *err)
{
	size_t len = strlen(name);
	bool good = len > 0 && len <= FVM_NAME_MAX && isalnum((unsigned char)name[0]);
	for (size_t i = 0; good && i < len; i++) {
		unsigned char ch = (unsigned char)name[i];
		good = isalnum(ch) || ch == '_' || ch == '.' || ch == '-';
	}
	if (good)
		return 0;
	fvm_error_say(err, EINVAL, "'%.80s' can't be the name of a VM", name);
	fvm_error_hint(err,
		       "use up to %d letters, digits, '.', '_', '-', the first a letter or digit",
		       FVM_NAME_MAX);
	return -EINVAL;
}

int fvm_size_parse(const char *text, uint64_t *ret_bytes)
{
	static const char units[] = "KMGT";
	char *end;
	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	double value = strtod(text, &end);
	double factor = 1;
	if (*end) {
		const char *unit = strchr(units, toupper((unsigned char)*end));
		if (!unit)
			return -EINVAL;
		factor = (double)(1ULL << (10 * (unit - units + 1)));
		end++;
		if (strcmp(end, "iB") == 0 || strcmp(end, "B") == 0)
			end += strlen(end);
	}
	if (*end || errno)
		return -EINVAL;
	if (value * factor >= 9.2e18)
		return -ERANGE;
	*ret_bytes = (uint64_t)(value * factor);
	return 0;
}

static int add_once(struct fvm_strv *to, const struct fvm_strv *from)
{
	fvm_strv_each(from, i) {
		if (!fvm_strv_has(to, from->items[i]) && fvm_strv_add(to, from->items[i]) < 0)
			return -ENOMEM;
	}
	return 0;
}

int fvm_config_layers(const struct fvm_config *c, struct fvm_strv *ret)
{
	int r = add_once(ret, &c->layers);
	if (r == 0)
		r = add_once(ret, &c->before);
	for (size_t i = 0; r == 0 && i < c->snapshot_count; i++)
		r = add_once(ret, &c->snapshots[i].layers);
	return r;
}

int fvm_config_find_snapshot(const struct fvm_config *c, const char *tag)
{
	for (size_t i = 0; i < c->snapshot_count; i++) {
		if (strcmp(c->snapshots[i].tag, tag) == 0)
			return (int)i;
	}
	return -1;
}

int fvm_config_add_snapshot(struct fvm_config *c, const char *tag, int64_t created_ns,
			    const struct fvm_strv *layers)
{
	struct fvm_snapshot *more = realloc(c->snapshots, (c->snapshot_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	c->snapshots = more;
	more += c->snapshot_count;
	*more = (struct fvm_snapshot){ .tag = strdup(tag), .created_ns = created_ns };
	if (!more->tag)
		return -ENOMEM;
	c->snapshot_count++;
	return fvm_strv_copy(&more->layers, layers);
}

int fvm_config_set_programs(struct fvm_config *c, size_t at, const char *programs)
{
	char *copy = programs ? strdup(programs) : NULL;
	if (programs && !copy)
		return -ENOMEM;
	free(c->snapshots[at].programs);
	c->snapshots[at].programs = copy;
	return 0;
}
