/*
 * Units, what starts them, and programs with more rights than their caller.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <linux/capability.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fvm/meaning_priv.h"

static const char *below_any(const char *path, const char *const *tops, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		size_t len = strlen(tops[i]);
		if (strncmp(path, tops[i], len) == 0)
			return path + len;
	}
	return NULL;
}

static bool is_unit_name(const char *name)
{
	static const char *const types[] = { ".service", ".socket", ".timer", ".target",
					     ".path",	 ".mount",  ".slice", ".automount" };
	const char *dot = strrchr(name, '.');
	for (size_t i = 0; dot && i < FVM_COUNT(types); i++) {
		if (strcmp(dot, types[i]) == 0)
			return true;
	}
	return false;
}

/* "multi-user.target.wants/nginx.service" */
static int tell_enabled(struct fvm_meaning *m, const struct fvm_change *c, const char *rel)
{
	char by[256];
	const char *slash = strchr(rel, '/'), *dot = slash;
	while (dot > rel && *dot != '.')
		dot--;
	if (strncmp(dot, ".wants/", 7) != 0 && strncmp(dot, ".requires/", 10) != 0)
		return 0;
	snprintf(by, sizeof(by), "by %.*s", (int)(dot - rel), rel);
	bool gone = c->kind == FVM_DELETED;
	return fvm_fact_add(m, "enabled", fvm_fact_change(c), slash + 1, gone ? by : NULL,
			    gone ? NULL : by);
}

static int tell_unit(struct fvm_meaning *m, const struct fvm_change *c, const char *name)
{
	scoped_sides sides = { 0 };
	bool masked = false;
	if (c->now && S_ISLNK(c->now->st_mode)) {
		int r = fvm_sides_read(c, 4096, &sides);
		if (r < 0)
			return r;
		masked = sides.now && strcmp(sides.now, "/dev/null") == 0;
	}
	return fvm_fact_add(m, "unit", masked ? FVM_FACT_CHANGED : fvm_fact_change(c), name, NULL,
			    masked ? "masked" : NULL);
}

static int tell_alternative(struct fvm_meaning *m, const struct fvm_change *c, const char *name)
{
	scoped_sides sides = { 0 };
	int r = fvm_sides_read(c, 4096, &sides);
	if (r < 0)
		return r;
	/* manuals follow the program they belong to */
	const char *target = sides.now ? sides.now : sides.was;
	if (target && strncmp(target, "/usr/share/man/", 15) == 0)
		return 0;
	return fvm_fact_add(m, "alternative", fvm_fact_change(c), name, sides.was, sides.now);
}

int fvm_meaning_units(struct fvm_meaning *m, const struct fvm_change *c)
{
	static const char *const tops[] = {
		"/etc/systemd/system/",		  "/usr/lib/systemd/system/",
		"/usr/local/lib/systemd/system/", "/etc/systemd/user/",
		"/usr/lib/systemd/user/",
	};
	static const char *const alternatives[] = { "/etc/alternatives/" };
	const struct stat *st = c->now ? c->now : c->was;
	if (S_ISDIR(st->st_mode) || c->kind == FVM_META)
		return 0;
	const char *rel = below_any(c->path, tops, FVM_COUNT(tops));
	if (rel && strchr(rel, '/'))
		return tell_enabled(m, c, rel);
	if (rel && is_unit_name(rel))
		return tell_unit(m, c, rel);
	rel = below_any(c->path, alternatives, 1);
	if (rel && S_ISLNK(st->st_mode))
		return tell_alternative(m, c, rel);
	return 0;
}

/* ---- set-id bits and capabilities ---- */

/* By bit: include/uapi/linux/capability.h */
static const char *const cap_names[] = {
	"chown",
	"dac_override",
	"dac_read_search",
	"fowner",
	"fsetid",
	"kill",
	"setgid",
	"setuid",
	"setpcap",
	"linux_immutable",
	"net_bind_service",
	"net_broadcast",
	"net_admin",
	"net_raw",
	"ipc_lock",
	"ipc_owner",
	"sys_module",
	"sys_rawio",
	"sys_chroot",
	"sys_ptrace",
	"sys_pacct",
	"sys_admin",
	"sys_boot",
	"sys_nice",
	"sys_resource",
	"sys_time",
	"sys_tty_config",
	"mknod",
	"lease",
	"audit_write",
	"audit_control",
	"setfcap",
	"mac_override",
	"mac_admin",
	"syslog",
	"wake_alarm",
	"block_suspend",
	"audit_read",
	"perfmon",
	"bpf",
	"checkpoint_restore",
};

/* The names of a file's permitted capabilities; empty when it has none. */
static void read_caps(int dir, const char *name, struct fvm_buf *ret)
{
	char path[320];
	struct vfs_ns_cap_data caps = { 0 };
	fvm_buf_puts(ret, "");
	if (snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dir, name) >= (int)sizeof(path) ||
	    lgetxattr(path, "security.capability", &caps, sizeof(caps)) < (ssize_t)XATTR_CAPS_SZ_2)
		return;
	for (size_t i = 0; i < 64; i++) {
		if (!(le32toh(caps.data[i / 32].permitted) & (1U << (i % 32))))
			continue;
		fvm_buf_puts(ret, ret->len ? "," : "");
		if (i < FVM_COUNT(cap_names))
			fvm_buf_puts(ret, cap_names[i]);
		else
			fvm_buf_printf(ret, "%zu", i);
	}
}

static int tell_caps(struct fvm_meaning *m, const struct fvm_change *c)
{
	scoped_buf was = { 0 }, now = { 0 };
	if (c->was && S_ISREG(c->was->st_mode))
		read_caps(c->base_dir, c->name, &was);
	if (c->now && S_ISREG(c->now->st_mode))
		read_caps(c->layer_dir, c->name, &now);
	if (was.failed || now.failed)
		return -ENOMEM;
	bool had = was.len > 0, has = now.len > 0;
	if (!had && !has)
		return 0;
	/* one that lost its content but kept its capabilities is worth a line too */
	if (had && has && strcmp(was.data, now.data) == 0 && c->kind == FVM_META)
		return 0;
	int r = fvm_fact_add(m, "capabilities",
			     !had  ? FVM_FACT_ADDED
			     : has ? FVM_FACT_CHANGED
				   : FVM_FACT_REMOVED,
			     c->path, had ? was.data : NULL, has ? now.data : NULL);
	if (has)
		fvm_fact_alarm(m);
	return r;
}

static const char *set_id(const struct stat *st)
{
	if (!st || !S_ISREG(st->st_mode))
		return NULL;
	if ((st->st_mode & (S_ISUID | S_IXUSR)) == (S_ISUID | S_IXUSR))
		return st->st_mode & S_ISGID ? "user and group" : "user";
	/* without the execute bit it asks for locking */
	return (st->st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) ? "group" : NULL;
}

static int tell_set_id(struct fvm_meaning *m, const struct fvm_change *c)
{
	char from[64], to[64];
	const char *was = set_id(c->was), *now = set_id(c->now);
	if (!was && !now)
		return 0;
	snprintf(from, sizeof(from), "%s %u:%u", was ? was : "", c->was ? c->was->st_uid : 0,
		 c->was ? c->was->st_gid : 0);
	snprintf(to, sizeof(to), "%s %u:%u", now ? now : "", c->now ? c->now->st_uid : 0,
		 c->now ? c->now->st_gid : 0);
	if (was && now && strcmp(from, to) == 0 && c->kind == FVM_META)
		return 0;
	int r = fvm_fact_add(m, "set-id",
			     !was  ? FVM_FACT_ADDED
			     : now ? FVM_FACT_CHANGED
				   : FVM_FACT_REMOVED,
			     c->path, was ? from : NULL, now ? to : NULL);
	if (now)
		fvm_fact_alarm(m);
	return r;
}

int fvm_meaning_powers(struct fvm_meaning *m, const struct fvm_change *c)
{
	const struct stat *st = c->now ? c->now : c->was;
	if (!S_ISREG(st->st_mode) || !(st->st_mode & 0111))
		return 0;
	int r = tell_set_id(m, c);
	return r < 0 ? r : tell_caps(m, c);
}
