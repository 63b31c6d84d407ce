/* What a VM's processes use now, and which they are, as the cgroups tell it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fvm/cgroup.h"

#define V1_UNLIMITED (1ULL << 60) /* v1 says "no limit" as the largest multiple of a page */

/* A file of one number; "max" is 0: no limit. */
static bool number_read(const char *dir, const char *file, uint64_t *ret)
{
	char path[FVM_CGROUP_PATH + 64];
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "%s/%s", dir, file);
	if (fvm_read_file(AT_FDCWD, path, 4096, &text, NULL) < 0)
		return false;
	uint64_t value = strncmp(text, "max", 3) == 0 ? 0 : strtoull(text, NULL, 10);
	*ret = value >= V1_UNLIMITED ? 0 : value;
	return true;
}

/* A file of lines "KEY NUMBER". */
static bool key_read(const char *dir, const char *file, const char *key, uint64_t *ret)
{
	char path[FVM_CGROUP_PATH + 64];
	size_t len = strlen(key);
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "%s/%s", dir, file);
	if (fvm_read_file(AT_FDCWD, path, 65536, &text, NULL) < 0)
		return false;
	for (char *save, *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
		if (strncmp(l, key, len) == 0 && l[len] == ' ') {
			*ret = strtoull(l + len, NULL, 10);
			return true;
		}
	}
	return false;
}

static void memory_stats(const struct fvm_cgroups *g, struct fvm_cgroup_stats *s)
{
	const char *v1 = g->v1[FVM_CG_MEMORY];
	if (g->v2[0] && number_read(g->v2, "memory.current", &s->memory_bytes)) {
		s->has_memory = true;
		(void)number_read(g->v2, "memory.peak", &s->memory_peak_bytes);
		(void)number_read(g->v2, "memory.max", &s->memory_limit_bytes);
		(void)key_read(g->v2, "memory.stat", "inactive_file", &s->memory_cache_bytes);
	} else if (v1[0] && number_read(v1, "memory.usage_in_bytes", &s->memory_bytes)) {
		s->has_memory = true;
		(void)number_read(v1, "memory.max_usage_in_bytes", &s->memory_peak_bytes);
		(void)number_read(v1, "memory.limit_in_bytes", &s->memory_limit_bytes);
		(void)key_read(v1, "memory.stat", "total_inactive_file", &s->memory_cache_bytes);
	}
}

static void cpu_stats(const struct fvm_cgroups *g, struct fvm_cgroup_stats *s)
{
	uint64_t us;
	const char *v1 = g->v1[FVM_CG_CPUACCT];
	if (g->v2[0] && key_read(g->v2, "cpu.stat", "usage_usec", &us)) {
		s->has_cpu = true;
		s->cpu_ns = us * 1000;
	} else if (v1[0]) {
		s->has_cpu = number_read(v1, "cpuacct.usage", &s->cpu_ns);
	}
}

static void pids_stats(const struct fvm_cgroups *g, struct fvm_cgroup_stats *s)
{
	const char *dir = g->v1[FVM_CG_PIDS];
	if (g->v2[0] && number_read(g->v2, "pids.current", &s->pids))
		dir = g->v2;
	else if (!dir[0] || !number_read(dir, "pids.current", &s->pids))
		return;
	s->has_pids = true;
	(void)number_read(dir, "pids.max", &s->pids_limit);
}

/* v2: "8:0 rbytes=1 wbytes=2 rios=.."; v1: "8:0 Read 1" and "8:0 Write 2", one a line. */
static void io_add(char *line, struct fvm_cgroup_stats *s)
{
	static const char *const reads[] = { "rbytes=", "Read " };
	static const char *const writes[] = { "wbytes=", "Write " };
	for (size_t i = 0; i < FVM_COUNT(reads); i++) {
		const char *at = strstr(line, reads[i]);
		if (at)
			s->io_read_bytes += strtoull(at + strlen(reads[i]), NULL, 10);
		at = strstr(line, writes[i]);
		if (at)
			s->io_write_bytes += strtoull(at + strlen(writes[i]), NULL, 10);
	}
}

static void io_stats(const struct fvm_cgroups *g, struct fvm_cgroup_stats *s)
{
	char path[FVM_CGROUP_PATH + 64];
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "%s/io.stat", g->v2);
	if (!g->v2[0] || fvm_read_file(AT_FDCWD, path, 1 << 20, &text, NULL) < 0) {
		const char *v1 = g->v1[FVM_CG_IO];
		snprintf(path, sizeof(path), "%s/blkio.throttle.io_service_bytes_recursive", v1);
		if (!v1[0] || fvm_read_file(AT_FDCWD, path, 1 << 20, &text, NULL) < 0)
			return;
	}
	s->has_io = true;
	for (char *save, *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save))
		io_add(l, s);
}

int fvm_cgroup_stats(const struct fvm_cgroups *g, struct fvm_cgroup_stats *ret)
{
	struct fvm_cgroup_stats s = { 0 };
	memory_stats(g, &s);
	cpu_stats(g, &s);
	pids_stats(g, &s);
	io_stats(g, &s);
	*ret = s;
	return s.has_memory || s.has_cpu || s.has_pids || s.has_io ? 0 : -ENODEV;
}

/* ---- members ---- */

struct pids {
	pid_t *items;
	size_t count, cap;
};

static int pids_add(struct pids *p, const char *text)
{
	while (*text) {
		char *end;
		long pid = strtol(text, &end, 10);
		if (end == text)
			break;
		if (p->count == p->cap) {
			size_t cap = p->cap ? p->cap * 2 : 64;
			pid_t *items = realloc(p->items, cap * sizeof(*items));
			if (!items)
				return -ENOMEM;
			p->items = items;
			p->cap = cap;
		}
		if (pid > 0) /* 0: not visible in our pid namespace */
			p->items[p->count++] = (pid_t)pid;
		text = end + (*end == '\n');
	}
	return 0;
}

/* The VM's own cgroups below count too. A threaded one lists only threads: -EOPNOTSUPP, and its
 * processes stand in the domain above it. @dir is closed. */
static int pids_below(int dir, struct pids *p, int depth)
{
	scoped_free char *text = NULL;
	int r = fvm_read_file(dir, "cgroup.procs", 64 << 20, &text, NULL);
	scoped_dir d = fvm_dir_take(dir);
	if (!d)
		return -errno;
	if (r == 0)
		r = pids_add(p, text);
	if (r == -EOPNOTSUPP)
		r = 0;
	for (struct dirent *e; r == 0 && depth > 0 && (e = fvm_dir_next(d));) {
		if (e->d_type != DT_DIR)
			continue;
		int sub = openat(dirfd(d), e->d_name,
				 O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (sub >= 0)
			r = pids_below(sub, p, depth - 1);
	}
	return r;
}

/* The first hierarchy that has the VM knows all its processes. */
int fvm_cgroup_pids(const struct fvm_cgroups *g, pid_t **ret, size_t *ret_count)
{
	for (int i = -1; i < FVM_CG_COUNT; i++) {
		const char *path = i < 0 ? g->v2 : g->v1[i];
		int dir = path[0] ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
		if (dir < 0)
			continue;
		struct pids p = { 0 };
		int r = pids_below(dir, &p, 64);
		if (r < 0) {
			free(p.items);
			return r;
		}
		*ret = p.items;
		*ret_count = p.count;
		return 0;
	}
	return -ENODEV;
}
