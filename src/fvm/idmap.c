#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/accounts.h"
#include "fvm/idmap.h"

#define LOW_IDS	     65536U
#define OWNERS_LOOKS 512 /* of a directory; some tenths of a millisecond */

static void add_id(uint32_t *ids, size_t *count, unsigned long id)
{
	if (id < LOW_IDS || id >= UINT32_MAX || *count == FVM_IDMAP_EXTRAS)
		return;
	size_t at = 0;
	while (at < *count && ids[at] < id)
		at++;
	if (at < *count && ids[at] == id)
		return;
	memmove(ids + at + 1, ids + at, (*count - at) * sizeof(*ids));
	ids[at] = (uint32_t)id;
	(*count)++;
}

/* name:x:UID:GID:... or name:x:GID:...; only the numbers matter, so no name service is asked */
static void add_database(const char *path, struct fvm_idmap *map, bool users)
{
	scoped_free char *text = NULL;
	if (fvm_read_file(AT_FDCWD, path, 4 << 20, &text, NULL) < 0)
		return;
	for (char *save = NULL, *line = strtok_r(text, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save)) {
		char *end, *fields[4];
		if (!fvm_account_fields(line, fields, 4))
			continue;
		unsigned long id = strtoul(fields[2], &end, 10);
		if (*end)
			continue;
		if (users)
			add_id(map->uids, &map->uid_count, id);
		add_id(map->gids, &map->gid_count, users ? strtoul(fields[3], NULL, 10) : id);
	}
}

/* Who owns what lies in a directory, as far as it is its own file system's: nothing is mounted or
 * waited for. */
static void add_owners(struct fvm_idmap *map, const char *path)
{
	scoped_dir d = fvm_dir_take(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	struct dirent *e;
	struct statx st;
	for (int i = 0; d && i < OWNERS_LOOKS && (e = readdir(d)); i++) {
		if (strcmp(e->d_name, "..") == 0 ||
		    statx(dirfd(d), e->d_name,
			  AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC,
			  STATX_UID | STATX_GID, &st) < 0)
			continue;
		add_id(map->uids, &map->uid_count, st.stx_uid);
		add_id(map->gids, &map->gid_count, st.stx_gid);
	}
}

static void add_caller(struct fvm_idmap *map)
{
	gid_t groups[256];
	int n = getgroups(FVM_COUNT(groups), groups);
	for (int i = 0; i < n; i++)
		add_id(map->gids, &map->gid_count, groups[i]);
	const char *uid = getenv("SUDO_UID"), *gid = getenv("SUDO_GID");
	if (uid)
		add_id(map->uids, &map->uid_count, strtoul(uid, NULL, 10));
	if (gid)
		add_id(map->gids, &map->gid_count, strtoul(gid, NULL, 10));
}

void fvm_idmap_plan(uint32_t base, struct fvm_idmap *ret)
{
	/* the last one is where the caller works */
	static const char *const places[] = { "/home", "/srv", "." };
	ret->base = base;
	ret->uid_count = ret->gid_count = 0;
	add_database("/etc/passwd", ret, true);
	add_database("/etc/group", ret, false);
	for (size_t i = 0; i < FVM_COUNT(places); i++)
		add_owners(ret, places[i]);
	add_caller(ret);
}

void fvm_idmap_add(struct fvm_idmap *map, uid_t uid, gid_t gid)
{
	add_id(map->uids, &map->uid_count, uid);
	add_id(map->gids, &map->gid_count, gid);
}

bool fvm_idmap_collides(const struct fvm_idmap *map, uint32_t span)
{
	for (size_t i = 0; i < map->uid_count; i++) {
		if (map->uids[i] - map->base < span)
			return true;
	}
	for (size_t i = 0; i < map->gid_count; i++) {
		if (map->gids[i] - map->base < span)
			return true;
	}
	return false;
}

static int write_map(pid_t pid, const char *which, const struct fvm_idmap *map, const uint32_t *ids,
		     size_t count)
{
	char path[64], text[FVM_IDMAP_EXTRAS * 40];
	uint32_t base = map->base;
	int n;
	if (map->same > 1) /* a line must lie in one line of the map above */
		n = snprintf(text, sizeof(text), "0 0 1\n1 1 %u\n", map->same - 1);
	else
		n = snprintf(text, sizeof(text), "0 %u %u\n", base, map->same ? 1 : LOW_IDS);
	for (size_t i = 0; i < count; i++)
		n += snprintf(text + n, sizeof(text) - (size_t)n, "%u %u 1\n", ids[i],
			      base + LOW_IDS + (uint32_t)i);
	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, which);
	return fvm_write_file(AT_FDCWD, path, text);
}

int fvm_idmap_write(const struct fvm_idmap *map, pid_t pid)
{
	int r = write_map(pid, "uid_map", map, map->uids, map->uid_count);
	return r < 0 ? r : write_map(pid, "gid_map", map, map->gids, map->gid_count);
}

static uint32_t host_id(uint32_t base, const uint32_t *ids, size_t count, uint32_t id)
{
	if (id < LOW_IDS)
		return base + id;
	for (size_t i = 0; i < count; i++) {
		if (ids[i] == id)
			return base + LOW_IDS + (uint32_t)i;
	}
	return UINT32_MAX;
}

uint32_t fvm_idmap_uid(const struct fvm_idmap *map, uint32_t id)
{
	if (map->same)
		return id < map->same ? id : 0;
	return host_id(map->base, map->uids, map->uid_count, id);
}

uint32_t fvm_idmap_gid(const struct fvm_idmap *map, uint32_t id)
{
	if (map->same)
		return id < map->same ? id : 0;
	return host_id(map->base, map->gids, map->gid_count, id);
}

bool fvm_idmap_is_stranger(const struct fvm_idmap *map, uint32_t uid, uint32_t gid)
{
	return uid - map->base >= LOW_IDS + map->uid_count ||
	       gid - map->base >= LOW_IDS + map->gid_count;
}
