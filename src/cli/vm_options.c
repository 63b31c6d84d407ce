#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "cli/vm_options.h"
#include "fvm/native.h"
#include "fvm/net.h"
#include "fvm/store.h"

static int word(const char *const *words, const char *value, int *ret, struct fvm_error *err)
{
	for (int i = 0; words[i]; i++) {
		if (strcmp(words[i], value) == 0) {
			*ret = i;
			return 1;
		}
	}
	scoped_buf all = { 0 };
	for (int i = 0; words[i]; i++)
		fvm_buf_printf(&all, "%s%s", i ? ", " : "", words[i]);
	fvm_error_hint(err, "it can be: %s", all.data ? all.data : "");
	return fvm_error_set(err, EINVAL, "'%s' is none of what it can be", value);
}

static int size(const char *value, uint64_t *ret, struct fvm_error *err)
{
	int r = fvm_size_parse(value, ret);
	if (r == 0 && *ret > 0)
		return 1;
	fvm_error_set(err, EINVAL, "'%s' is not a size", value);
	fvm_error_hint(err, "give a number with K, M, G or T, as in 512M");
	return -EINVAL;
}

static int cpus(const char *value, uint32_t *ret, struct fvm_error *err)
{
	char *end;
	double n = strtod(value, &end);
	if (*end || end == value || !(n >= 0.01 && n <= 10000)) {
		fvm_error_hint(err, "give a number from 0.01 on, as in 1.5");
		return fvm_error_set(err, EINVAL, "'%s' is not a number of processors", value);
	}
	*ret = (uint32_t)(n * 100 + 0.5);
	return 1;
}

static int count(const char *value, uint32_t *ret, struct fvm_error *err)
{
	char *end;
	unsigned long n = strtoul(value, &end, 10);
	if (*end || end == value || n == 0 || n > INT_MAX || value[0] == '-')
		return fvm_error_set(err, EINVAL, "'%s' is not a number above 0", value);
	*ret = (uint32_t)n;
	return 1;
}

static int add(struct fvm_strv *list, const char *value, struct fvm_error *err)
{
	return fvm_strv_add(list, value) < 0 ? fvm_error_set(err, ENOMEM, "remember it") : 1;
}

/* Paths are kept absolute: a VM is started from anywhere. */
static int add_path(struct fvm_strv *list, const char *value, struct fvm_error *err)
{
	if (value[0] == '/')
		return add(list, value, err);
	if (value[0] == '\0' || value[0] == ':') /* else it would be the working directory */
		return fvm_error_set(err, EINVAL, "'%s' has no path", value);
	char here[PATH_MAX];
	if (!getcwd(here, sizeof(here)))
		return fvm_error_set(err, errno, "find the working directory");
	return fvm_strv_addf(list, "%s/%s", here, value) < 0
		       ? fvm_error_set(err, ENOMEM, "remember it")
		       : 1;
}

/* Checked at once, as a wrong one would only be seen at a start. */
static int native(struct fvm_strv *list, const char *value, struct fvm_error *err)
{
	scoped_native parsed = { 0 };
	int r = add_path(list, value, err);
	if (r < 0)
		return r;
	r = fvm_native_parse(list->items[list->count - 1], &parsed, err);
	return r < 0 ? r : 1;
}

static int port(struct fvm_strv *list, const char *value, struct fvm_error *err)
{
	struct fvm_port parsed;
	int r = fvm_port_parse(value, &parsed, err);
	return r < 0 ? r : add(list, value, err);
}

static int hostname(char **to, const char *value, struct fvm_error *err)
{
	if (fvm_name_check(value, NULL) < 0)
		return fvm_error_set(err, EINVAL, "'%s' can't be a host name", value);
	free(*to);
	*to = strdup(value);
	return *to ? 1 : fvm_error_set(err, ENOMEM, "remember it");
}

int cli_vm_option(struct fvm_config *c, int key, const char *value, struct fvm_error *err)
{
	static const char *const nets[] = { "nat", "none", "host", NULL };
	static const char *const inits[] = { "fvm", "systemd", NULL };
	int which = 0, r;
	switch (key) {
	case OPT_NET:
		r = word(nets, value, &which, err);
		c->net = (enum fvm_net_mode)which;
		c->net_given = true;
		return r;
	case OPT_INIT:
		r = word(inits, value, &which, err);
		c->init = (enum fvm_init_kind)which;
		return r;
	case 'p':
		return port(&c->ports, value, err);
	case OPT_MEMORY:
		return size(value, &c->memory_bytes, err);
	case OPT_DISK:
		return size(value, &c->disk_bytes, err);
	case OPT_CPUS:
		return cpus(value, &c->cpu_percent, err);
	case OPT_PIDS:
		return count(value, &c->pids, err);
	case OPT_CONNECTIONS:
		return count(value, &c->connections, err);
	case OPT_DEVICE:
		return add(&c->devices, value, err);
	case OPT_BIND:
		return add_path(&c->binds, value, err);
	case OPT_HIDE:
		return add_path(&c->hide, value, err);
	case OPT_DIRECT:
		return add_path(&c->direct, value, err);
	case OPT_NATIVE:
		return native(&c->native, value, err);
	case OPT_POLICY:
		return strchr(value, '/') ? add_path(&c->policies, value, err)
					  : add(&c->policies, value, err);
	case OPT_HOSTNAME:
		return hostname(&c->hostname, value, err);
	case OPT_SECRETS:
		c->secrets = true;
		return 1;
	case OPT_IO_URING:
		c->io_uring = true;
		return 1;
	default:
		return 0;
	}
}

void cli_vm_option_clear(struct fvm_config *c, int key)
{
	const struct {
		int key;
		struct fvm_strv *list;
	} lists[] = {
		{ 'p', &c->ports },	      { OPT_DEVICE, &c->devices },
		{ OPT_BIND, &c->binds },      { OPT_HIDE, &c->hide },
		{ OPT_DIRECT, &c->direct },   { OPT_NATIVE, &c->native },
		{ OPT_POLICY, &c->policies },
	};
	for (size_t i = 0; i < FVM_COUNT(lists); i++) {
		if (lists[i].key == key)
			fvm_strv_free(lists[i].list);
	}
}

/* Names that can be said and typed: "calm-otter". */
static void make_up_name(char *to, size_t room)
{
	static const char *const first[] = { "brave", "bright", "calm",	 "clear", "early", "fair",
					     "fresh", "gentle", "green", "keen",  "light", "merry",
					     "mild",  "quick",	"quiet", "swift" };
	static const char *const second[] = { "badger", "crane", "falcon", "finch", "fox", "hare",
					      "heron",	"lark",	 "lynx",   "otter", "owl", "raven",
					      "robin",	"stoat", "swan",   "wren" };
	unsigned char dice[4];
	if (getrandom(dice, sizeof(dice), 0) != sizeof(dice))
		memset(dice, 0, sizeof(dice));
	snprintf(to, room, "%s-%s-%02x%02x", first[dice[0] & 15], second[dice[1] & 15], dice[2],
		 dice[3]);
}

int cli_vm_new(const struct fvm_store *store, struct fvm_config *c, const char *name,
	       struct fvm_error *err)
{
	static const char hex[] = "0123456789abcdef";
	unsigned char id[32];
	if (name && fvm_name_check(name, err) < 0)
		return -EINVAL;
	if (name)
		strcpy(c->name, name);
	else
		make_up_name(c->name, sizeof(c->name));
	if (getrandom(id, sizeof(id), 0) != sizeof(id))
		return fvm_error_set(err, errno, "get random bytes");
	for (size_t i = 0; i < sizeof(id); i++)
		c->id[i] = hex[id[i] & 15];
	c->created_ns = fvm_now_ns();
	c->rootless = store->rootless;
	return 0;
}
