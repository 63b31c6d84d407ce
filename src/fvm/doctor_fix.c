#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fvm/doctor_fix.h"

static const char docker_userns[] =
	"the container forbids them: docker run --security-opt seccomp=unconfined --security-opt "
	"apparmor=unconfined --security-opt systempaths=unconfined --device /dev/net/tun";
#define MODULE_REFUSES "a security module refuses it; its log says which rule"
#define CONTAINER_RIGHTS                                                                           \
	"the container forbids it: docker run --cap-add SYS_ADMIN --cap-add NET_ADMIN "            \
	"--security-opt seccomp=unconfined --security-opt apparmor=unconfined"

const char *fvm_fix_userns(const struct fvm_kernel *k, int error)
{
	if (k->max_user_namespaces == 0)
		return "none are allowed here: sysctl -w user.max_user_namespaces=10000";
	if (error == ENOSPC)
		return "as many as are allowed are in use, here or around us: raise "
		       "user.max_user_namespaces (sysctl -w), or end some";
	if (error == EUSERS)
		return "they are 32 deep at most: start the VM further outside";
	if (k->debian_restricts)
		return "sysctl -w kernel.unprivileged_userns_clone=1";
	if (k->apparmor_restricts && (error == EACCES || error == EPERM))
		return "install contrib/apparmor/fvm: see the finding on AppArmor";
	if (error == EINVAL)
		return "use a kernel with CONFIG_USER_NS";
	if (k->container)
		return docker_userns;
	if (error == ENOSYS)
		return "a filter over us refuses them; run it without";
	return "none can be made in a chroot; elsewhere " MODULE_REFUSES;
}

void fvm_userns_hint(int error, struct fvm_error *err)
{
	struct fvm_kernel k = { 0 };
	fvm_kernel_rules(&k);
	const char *fix = fvm_fix_userns(&k, error);
	/* longer than a hint may be */
	if (fix == docker_userns)
		fvm_error_hint(err, "the container forbids them; fvm doctor names the options of "
				    "docker run that allow them");
	else
		fvm_error_hint(err, "%s; fvm doctor tells more", fix);
}

/* ---- by errno ---- */

enum where { ANYWHERE, CONTAINER, HOST };

/* The first row that fits; error 0 fits all. */
static const struct remedy {
	const char *id;
	int error;
	enum where where;
	const char *fix;
} remedies[] = {
	{ "userns-mount", ENOSPC, ANYWHERE, "sysctl -w user.max_mnt_namespaces=10000" },
	{ "userns-mount", 0, CONTAINER, "the container forbids it, see user namespaces" },
	{ "userns-mount", 0, HOST, MODULE_REFUSES },
	{ "overlay", ENODEV, ANYWHERE, "modprobe overlay" },
	{ "overlay", EPERM, CONTAINER, CONTAINER_RIGHTS },
	{ "overlay", EACCES, CONTAINER, CONTAINER_RIGHTS },
	{ "overlay", EPERM, HOST, MODULE_REFUSES },
	{ "overlay", EACCES, HOST, MODULE_REFUSES },
	{ "overlay", EROFS, ANYWHERE, "set FVM_HOME to a directory that can be written" },
	{ "overlay", ENOSPC, ANYWHERE, "its file system is full: fvm prune; or set FVM_HOME" },
	{ "overlay", 0, CONTAINER,
	  "in a container, put FVM_HOME on a volume; its own root is an overlay already" },
	{ "overlay", 0, HOST, "set FVM_HOME to a directory on ext4, xfs, btrfs" },
	{ "overlay-userns", ENODEV, ANYWHERE, "modprobe overlay" },
	{ "overlay-userns", EPERM, ANYWHERE,
	  "see user namespaces; if these are right, " MODULE_REFUSES },
	{ "overlay-userns", EACCES, ANYWHERE,
	  "set FVM_HOME to a directory of yours that you can write" },
	{ "overlay-userns", EROFS, ANYWHERE, "set FVM_HOME to a directory that can be written" },
	{ "overlay-userns", 0, ANYWHERE,
	  "set FVM_HOME to a directory on ext4, xfs, btrfs or (6.6) tmpfs" },
	{ "veth", EPERM, CONTAINER, "docker run --cap-add NET_ADMIN" },
	{ "veth", EPERM, HOST, "root lacks CAP_NET_ADMIN here; start it with all capabilities" },
	{ "veth", ENOSPC, ANYWHERE, "sysctl -w user.max_net_namespaces=10000" },
	{ "veth", 0, ANYWHERE, "modprobe veth" },
	{ "nft", EPERM, CONTAINER, "docker run --cap-add NET_ADMIN" },
	{ "nft", EPERM, HOST, "root lacks CAP_NET_ADMIN here; start it with all capabilities" },
	{ "nft", ENOSPC, ANYWHERE, "sysctl -w user.max_net_namespaces=10000" },
	{ "nft", 0, ANYWHERE, "modprobe nf_tables nft_chain_nat nft_masq" },
	{ "seccomp", EINVAL, ANYWHERE, "use a kernel with CONFIG_SECCOMP_FILTER" },
	{ "seccomp", 0, CONTAINER,
	  "the container's filter refuses it: --security-opt seccomp=unconfined" },
	{ "seccomp", 0, HOST, "use a kernel with CONFIG_SECCOMP_FILTER, without a filter over it" },
	{ "notify", EBUSY, ANYWHERE, "inside a VM, which hears of such calls itself" },
	{ "notify", EINVAL, ANYWHERE, "use a kernel from 5.0 on" },
	{ "notify", 0, CONTAINER,
	  "the container's filter refuses it: --security-opt seccomp=unconfined" },
	{ "notify", 0, HOST, "use a kernel from 5.0 on, without a filter over it" },
};

const char *fvm_fix_of(const char *id, int error, bool container)
{
	for (size_t i = 0; i < FVM_COUNT(remedies); i++) {
		const struct remedy *r = &remedies[i];
		bool here = r->where == ANYWHERE || container == (r->where == CONTAINER);
		if (here && strcmp(r->id, id) == 0 && (r->error == 0 || r->error == error))
			return r->fix;
	}
	return "";
}

/* ---- devices ---- */

/* From the file alone: name services may be asked by programs of their own only. */
static bool group_name(gid_t gid, char ret[33])
{
	scoped_free char *text = NULL;
	unsigned int id;
	if (fvm_read_file(AT_FDCWD, "/etc/group", 1 << 20, &text, NULL) < 0)
		return false;
	for (const char *line = text; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (sscanf(line, "%32[^:\n]:%*[^:\n]:%u", ret, &id) == 2 && id == gid)
			return true;
	}
	return false;
}

/* Who may open it, and who else could. */
static void say_rights(const char *path, const struct stat *st, char *ret, size_t size)
{
	const bool by_group = (st->st_mode & 060) == 060 && st->st_gid != 0;
	char group[33];
	if (by_group && group_name(st->st_gid, group))
		snprintf(ret, size,
			 "root and group %s may open it: usermod -aG %s USER, who then logs in "
			 "again",
			 group, group);
	else
		snprintf(ret, size, "only uid %u may open it: chmod 666 %s (until the next boot)",
			 st->st_uid, path);
}

void fvm_fix_device(const char *path, const char *module, const struct stat *st, int error,
		    bool container, char *ret, size_t size)
{
	if (error == EACCES && st)
		say_rights(path, st, ret, size);
	else if (container)
		snprintf(ret, size, "docker run --device %s", path);
	else if (error == EPERM)
		snprintf(ret, size, "a device cgroup refuses it: DeviceAllow=%s rw in the unit",
			 path);
	else if (error == EACCES)
		snprintf(ret, size, "a directory above it may not be entered: chmod 755 /dev");
	else
		snprintf(ret, size, "modprobe %s", module);
}
