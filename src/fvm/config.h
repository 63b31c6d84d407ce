/*
 * fvm/config - what is kept of a VM in its config.json
 *
 * Theory of operation
 *   One typed struct, read whole and written whole (temporary, fsync, rename). "format" is the
 *   number of the layout of the VM's directory: an older fvm refuses a newer one, a newer fvm
 *   upgrades an older one in the same rename. Unknown keys are an error that names the key: they
 *   can only come from a newer fvm or from a typing mistake, and both want to be seen.
 *   Sizes are bytes, times nanoseconds since 1970. Lists are kept in the user's order.
 */
#ifndef FVM_CONFIG_H
#define FVM_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/common.h"

#define FVM_FORMAT   1
#define FVM_NAME_MAX 64
#define FVM_PROGRAMS_NAME 64 /* digits of a SHA-256 */

enum fvm_net_mode { FVM_NET_NAT, FVM_NET_NONE, FVM_NET_HOST };
enum fvm_init_kind { FVM_INIT_FVM, FVM_INIT_SYSTEMD };

/* A snapshot: a tag and the frozen layers below it, bottom first. */
struct fvm_snapshot {
	char *tag;
	int64_t created_ns;
	struct fvm_strv layers;
	char *programs; /* what ran in it: see programs.h; NULL: of its files only */
};

struct fvm_config {
	char name[FVM_NAME_MAX + 1];
	char id[33]; /* 128 random bits in hex; survives rename, new for a clone */
	int64_t created_ns;
	int64_t first_start_ns; /* 0: never started; see fvm/stamps.h */
	bool rootless;		/* made by an ordinary user: user.overlay.*, one uid or a few */

	bool throw_away; /* run --rm: whoever finds it ended deletes it */

	/* what the VM's programs may use */
	enum fvm_net_mode net;
	bool net_given; /* by the command line: no policy changes it */
	enum fvm_init_kind init;
	struct fvm_strv ports;	 /* "[ADDR:]HOST:GUEST[/tcp|udp]" */
	struct fvm_strv devices; /* host paths below /dev */
	struct fvm_strv binds;	 /* "S[:D][:ro]" */
	struct fvm_strv native;	 /* "DIR[:empty]": plain directories of the VM's own */
	struct fvm_strv hide;	 /* paths not to be seen */
	struct fvm_strv read_only; /* paths that the VM may not change */
	struct fvm_strv show;	 /* secrets that may be seen all the same */
	struct fvm_strv direct;	 /* paths written through to the host */
	struct fvm_strv env;	 /* "K=V", added to each command's environment */
	struct fvm_strv policies; /* names or paths of policy files, resolved again at each start */
	bool secrets;		 /* --secrets: the secrets' policy does not apply */
	bool no_secrets;	 /* a policy's: it applies without network, too */
	bool io_uring;
	bool soft_limits;      /* by policies: memory, cpus, pids if they can be had; not stored */
	bool i386_sockets;     /* 32-bit programs may make sockets: see seccomp.def */
	bool private_networks;	 /* nat: RFC 1918 and ULA destinations may be reached */
	uint64_t memory_bytes; /* 0: no limit; likewise below */
	uint64_t disk_bytes;
	uint32_t cpu_percent; /* 150 is one and a half CPUs */
	uint32_t pids;
	uint32_t connections; /* nat: open at once; 0: a share of what the host has room for */
	char *hostname; /* NULL: the VM's name */

	/* layers below the workspace, bottom first; ids of store/layers */
	struct fvm_strv layers;
	struct fvm_snapshot *snapshots;
	size_t snapshot_count;

	/* what a command was doing to the layers when this was written; see snapshot.h */
	char *pending; /* "freeze ID", "empty", .., or NULL */
	struct fvm_strv before; /* layers to go back to should a rollback fail */
};

void fvm_config_free(struct fvm_config *c);
#define scoped_config __attribute__((cleanup(fvm_config_free))) struct fvm_config

/** fvm_config_parse() - read JSON text; on failure *@ret is untouched. Return: 0 or -errno
 *  (-EBADMSG: not our JSON; -EPROTONOSUPPORT: made by a newer fvm) */
int fvm_config_parse(const char *json, size_t len, struct fvm_config *ret, struct fvm_error *err);

/** fvm_config_print() - the JSON text of @c, to be freed; NULL when out of memory or when
 *  a string in it is not UTF-8, which JSON can't hold */
char *fvm_config_print(const struct fvm_config *c);

/** fvm_config_load() - read @dir/config.json */
int fvm_config_load(int dir, struct fvm_config *ret, struct fvm_error *err);

/** fvm_config_save() - replace @dir/config.json; @sync: must survive a power cut */
int fvm_config_save(int dir, const struct fvm_config *c, bool sync, struct fvm_error *err);

/** fvm_config_overwrite() - write over an existing @dir/config.json, of a VM that nobody sees yet
 *  and that a power cut may take; makes and deletes no inode */
int fvm_config_overwrite(int dir, const struct fvm_config *c, struct fvm_error *err);

/** fvm_config_layers() - every layer that layers, before and snapshots name, each once */
int fvm_config_layers(const struct fvm_config *c, struct fvm_strv *ret);

/** fvm_config_find_snapshot() - index of snapshot @tag, or -1 */
int fvm_config_find_snapshot(const struct fvm_config *c, const char *tag);

/** fvm_config_add_snapshot() - remember @layers under @tag. Return: 0 or -ENOMEM */
int fvm_config_add_snapshot(struct fvm_config *c, const char *tag, int64_t created_ns,
			    const struct fvm_strv *layers);

/** fvm_config_set_programs() - .. and @programs (NULL: none) with the snapshot at @at */
int fvm_config_set_programs(struct fvm_config *c, size_t at, const char *programs);

/** fvm_config_copy() - deep copy into an empty *@to. Return: 0 or -ENOMEM */
int fvm_config_copy(struct fvm_config *to, const struct fvm_config *from);

/** fvm_name_check() - whether @name can name a VM: [A-Za-z0-9][A-Za-z0-9_.-]*, at most 64.
 *  Return: 0 or -EINVAL with the reason and a proposal in @err */
int fvm_name_check(const char *name, struct fvm_error *err);

/** fvm_size_parse() - "512M", "1.5G", "4096"; binary units K M G T. Return: 0 or -EINVAL, -ERANGE */
int fvm_size_parse(const char *text, uint64_t *ret_bytes);

#endif
