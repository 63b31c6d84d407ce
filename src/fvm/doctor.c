#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "fvm/accounts.h"
#include "fvm/base.h"
#include "fvm/caps.h"
#include "fvm/doctor.h"
#include "fvm/doctor_fix.h"

void fvm_doctor_free(struct fvm_doctor *d)
{
	fvm_plan_free(&d->plan);
	free(d->findings);
	*d = (struct fvm_doctor){ 0 };
}

/* ---- one judgement ---- */

static void found(struct fvm_finding *f, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
static void found(struct fvm_finding *f, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(f->found, sizeof(f->found), fmt, ap);
	va_end(ap);
}

static void bad(struct fvm_finding *f, const char *without, const char *fix)
{
	f->good = false;
	snprintf(f->without, sizeof(f->without), "%s", without);
	snprintf(f->fix, sizeof(f->fix), "%s", fix);
}

static void tried(struct fvm_finding *f, fvm_tried t, const char *without, const char *fix)
{
	if (t == 0) {
		found(f, "works");
		return;
	}
	found(f, "%s", strerror(t));
	bad(f, without, fix);
}

static void device(const struct fvm_doctor *d, struct fvm_finding *f, const char *path,
		   const char *module, fvm_tried t, const char *without)
{
	struct stat st;
	char fix[sizeof(f->fix)];
	if (t == 0) {
		found(f, "works");
		return;
	}
	found(f, "%s: %s", path, strerror(t));
	fvm_fix_device(path, module, stat(path, &st) == 0 ? &st : NULL, t, d->kernel.container, fix,
		       sizeof(fix));
	bad(f, without, fix);
}

/* ---- user namespaces ---- */

static void check_userns(const struct fvm_doctor *d, struct fvm_finding *f)
{
	const struct fvm_kernel *k = &d->kernel;
	const char *without = "ordinary users can't start VMs";
	if (k->userns == 0) {
		found(f, "works; at most %ld a user", k->max_user_namespaces);
		return;
	}
	found(f, "%s", strerror(k->userns));
	bad(f, without, fvm_fix_userns(k, k->userns));
}

static void check_userns_mount(const struct fvm_doctor *d, struct fvm_finding *f)
{
	const struct fvm_kernel *k = &d->kernel;
	tried(f, k->userns_mount, "ordinary users can't start VMs",
	      k->userns		      ? "see user namespaces"
	      : k->apparmor_restricts ? "install contrib/apparmor/fvm: see the finding on AppArmor"
				      : fvm_fix_of("userns-mount", k->userns_mount, k->container));
}

static void check_apparmor(const struct fvm_doctor *d, struct fvm_finding *f)
{
	bool profile = access("/etc/apparmor.d/fvm", F_OK) == 0;
	if (!d->kernel.apparmor_restricts) {
		found(f, "no rule against user namespaces");
		return;
	}
	found(f, profile ? "user namespaces need a profile; /etc/apparmor.d/fvm is there"
			 : "user namespaces need a profile");
	if (!profile)
		bad(f, "ordinary users can't start VMs",
		    "install -m 644 contrib/apparmor/fvm /etc/apparmor.d/ && "
		    "apparmor_parser -r /etc/apparmor.d/fvm");
}

static void check_selinux(const struct fvm_doctor *d, struct fvm_finding *f)
{
	found(f, d->kernel.selinux ? "on: labels of copied files are the policy's" : "off");
}

/* ---- files ---- */

static void check_overlay(const struct fvm_doctor *d, struct fvm_finding *f)
{
	if (!d->kernel.full_root) {
		found(f, "not tried: needs root");
		return;
	}
	tried(f, d->kernel.overlay, "root's VMs can't start",
	      fvm_fix_of("overlay", d->kernel.overlay, d->kernel.container));
}

static void check_overlay_userns(const struct fvm_doctor *d, struct fvm_finding *f)
{
	const struct fvm_kernel *k = &d->kernel;
	tried(f, k->overlay_userns, "ordinary users can't start VMs",
	      k->userns_mount ? "see mounting in them"
			      : fvm_fix_of("overlay-userns", k->overlay_userns, k->container));
}

static void check_idmap(const struct fvm_doctor *d, struct fvm_finding *f)
{
	if (!d->kernel.full_root) {
		found(f, "not tried: needs root");
		return;
	}
	fvm_tried t = d->kernel.idmap ? d->kernel.idmap : d->kernel.idmap_store;
	size_t unmapped = fvm_bases_unmapped(&d->plan);
	if (t == 0 && unmapped == 0)
		found(f, "works for / and the store: all bases are mapped");
	else if (d->kernel.idmap_store)
		found(f, "%s for the store", strerror(d->kernel.idmap_store));
	else
		found(f, "not for %zu mounts%s: stand-ins and adoption there", unmapped,
		      d->kernel.idmap ? ", / among them" : "");
	if (d->kernel.idmap_store)
		bad(f, "root's VMs can't start",
		    "set FVM_HOME to a directory on ext4, xfs or btrfs");
	else if (unmapped)
		bad(f,
		    "files there show owner nobody until they are changed; first start takes "
		    "longer",
		    "none: those file systems can't map ids");
}

static void check_mounts(const struct fvm_doctor *d, struct fvm_finding *f)
{
	size_t overlaid = 0, read_only = 0, out = 0;
	const char *first = NULL;
	for (size_t i = 0; i < d->plan.count; i++) {
		const struct fvm_mount *m = &d->plan.mounts[i];
		overlaid += m->class == FVM_MOUNT_OVERLAY;
		read_only += m->class == FVM_MOUNT_READ_ONLY;
		out += m->class == FVM_MOUNT_LEFT_OUT;
		if (m->class == FVM_MOUNT_LEFT_OUT && !first)
			first = m->path;
	}
	found(f, "%zu copied on write, %zu read-only, %zu left out%s%.60s%s", overlaid, read_only,
	      out, first ? " (" : "", first ? first : "", first ? " ..)" : "");
}

static void check_store(const struct fvm_doctor *d, struct fvm_finding *f)
{
	struct statfs st;
	if (statfs(d->store, &st) < 0) {
		found(f, "%.100s: %s", d->store, strerror(errno));
		bad(f, "no VM can be kept", "set FVM_HOME to a directory of yours");
		return;
	}
	unsigned long long free_mib = (unsigned long long)st.f_bavail * st.f_bsize >> 20;
	found(f, "%.100s, %llu MiB free", d->store, free_mib);
	if (free_mib < 256)
		bad(f, "little can be changed in a VM", "fvm prune; or set FVM_HOME elsewhere");
}

static void check_overlay_fds(const struct fvm_doctor *d, struct fvm_finding *f)
{
	if (!d->kernel.full_root)
		found(f, "not tried: needs root");
	else
		tried(f, d->kernel.overlay_fds, "layers are given by path, which is as good", "");
}

/* ---- ids ---- */

static bool has_ranges(const char *file, const char *user)
{
	scoped_free char *text = NULL;
	size_t n = strlen(user);
	if (fvm_read_file(AT_FDCWD, file, 1 << 20, &text, NULL) < 0)
		return false;
	for (const char *line = text; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, user, n) == 0 && line[n] == ':')
			return true;
	}
	return false;
}

/* The first id above all that @file gives away, as useradd(8) has it. */
static unsigned long ids_free_from(const char *file, unsigned long least)
{
	scoped_free char *text = NULL;
	unsigned long first, count;
	if (fvm_read_file(AT_FDCWD, file, 1 << 20, &text, NULL) < 0)
		return least;
	for (const char *line = text; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (sscanf(line, "%*[^:\n]:%9lu:%10lu", &first, &count) == 2 &&
		    first + count > least)
			least = first + count;
	}
	return least;
}

static bool in_path(const char *program)
{
	static const char *const dirs[] = { "/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin" };
	char path[128];
	for (size_t i = 0; i < FVM_COUNT(dirs); i++) {
		snprintf(path, sizeof(path), "%s/%s", dirs[i], program);
		if (access(path, X_OK) == 0)
			return true;
	}
	return false;
}

static void check_ranges(const struct fvm_doctor *d, struct fvm_finding *f)
{
	const struct passwd *pw = getpwuid(geteuid());
	const char *user = pw ? pw->pw_name : "you";
	char fix[160];
	(void)d;
	if (!in_path("newuidmap") || !in_path("newgidmap")) {
		found(f, "newuidmap is not installed");
		bad(f, "what programs give to other users is remembered, with limits: man 7 fvm",
		    "apt-get install uidmap");
		return;
	}
	if (geteuid() == 0 ||
	    (has_ranges("/etc/subuid", user) && has_ranges("/etc/subgid", user))) {
		found(f, "newuidmap, and ranges for %.60s", user);
		if (geteuid() == 0)
			found(f,
			      "newuidmap is there; ranges are judged as the user: run it as one");
		return;
	}
	found(f, "newuidmap, but no range for %.60s", user);
	unsigned long from = ids_free_from("/etc/subgid", ids_free_from("/etc/subuid", 100000));
	snprintf(fix, sizeof(fix), "usermod --add-subuids %lu-%lu --add-subgids %lu-%lu %.40s",
		 from, from + 65535, from, from + 65535, user);
	bad(f, "what programs give to other users is remembered, with limits: man 7 fvm", fix);
}

static void check_accounts(const struct fvm_doctor *d, struct fvm_finding *f)
{
	(void)d;
	const struct passwd *pw = getpwuid(geteuid());
	bool in_file = fvm_account_in_file("/etc/passwd", geteuid());
	found(f, !pw	   ? "you have none"
		 : in_file ? "yours is in /etc/passwd"
			   : "yours comes from a name service");
	if (pw && !in_file && !fvm_accounts_readable())
		bad(f, "you are a number in a VM, as it can't reach that service",
		    "apt-get install libnss-systemd; it goes into passwd: of /etc/nsswitch.conf");
}

/* ---- cgroups ---- */

static void list_controllers(const struct fvm_cgroups *g, char *text, size_t size)
{
	static const char *const names[] = { "memory", "cpu",	  "cpu accounts",
					     "pids",   "freezer", "io" };
	size_t n = 0;
	text[0] = '\0';
	for (size_t i = 0; i < FVM_CG_COUNT; i++) {
		const char *version = g->v2_has[i] ? "v2" : g->v1[i][0] ? "v1" : NULL;
		if (version && n + 32 < size)
			n += (size_t)snprintf(text + n, size - n, "%s%s (%s)", n ? ", " : "",
					      names[i], version);
	}
}

static const char *cgroup_fix(const struct fvm_kernel *k)
{
	if (k->full_root && k->container)
		return "give the container its cgroups to write: docker run --privileged, or -v "
		       "/sys/fs/cgroup:/sys/fs/cgroup:rw";
	if (k->full_root)
		return "mount -t cgroup2 cgroup2 /sys/fs/cgroup, with its controllers";
	if (access("/run/systemd/system", F_OK) == 0)
		return "systemd-run --user --scope -p Delegate=yes fvm ..";
	return "have an administrator chown a cgroup of yours to you, its cgroup.procs and "
	       "cgroup.subtree_control too, and start fvm in it";
}

static void check_cgroups(const struct fvm_doctor *d, struct fvm_finding *f)
{
	struct fvm_cgroups g = { 0 };
	char text[140];
	(void)fvm_cgroup_plan_on(&d->cgroups, "doctor", !d->kernel.full_root, &g);
	list_controllers(&g, text, sizeof(text));
	bool memory = g.v2_has[FVM_CG_MEMORY] || g.v1[FVM_CG_MEMORY][0];
	bool pids = g.v2_has[FVM_CG_PIDS] || g.v1[FVM_CG_PIDS][0];
	found(f, "%s", text[0] ? text : "no controller that we may use");
	if (!memory || !pids)
		bad(f, "--memory, --cpus and --pids are refused; pause goes by signals",
		    cgroup_fix(&d->kernel));
}

/* ---- network ---- */

static void check_nat(const struct fvm_doctor *d, struct fvm_finding *f)
{
	const struct fvm_kernel *k = &d->kernel;
	fvm_tried t = k->veth ? k->veth : k->nft;
	if (t == 0)
		found(f, "veth and nf_tables work");
	else
		found(f, "%s: %s", k->veth ? "veth" : "nf_tables", strerror(t));
	if (t)
		bad(f, "root's VMs have only --net none and host",
		    fvm_fix_of(k->veth ? "veth" : "nft", t, k->container));
	else if (k->counts)
		bad(f, "a VM can fill the host's table of connections",
		    "modprobe nft_connlimit nft_limit, before the first VM starts");
}

static void check_user_net(const struct fvm_doctor *d, struct fvm_finding *f)
{
	bool pasta = in_path("pasta"), slirp = in_path("slirp4netns");
	const char *without = "ordinary users' VMs have only --net none and host";
	found(f, "%s%s%s", pasta ? "pasta" : "", pasta && slirp ? " and " : "",
	      slirp   ? "slirp4netns"
	      : pasta ? ""
		      : "neither pasta nor slirp4netns");
	if (!pasta && !slirp)
		bad(f, without, "apt-get install passt slirp4netns");
	else if (d->kernel.tun && d->kernel.tun != EBUSY)
		device(d, f, "/dev/net/tun", "tun", d->kernel.tun, without);
}

static void check_landlock(const struct fvm_doctor *d, struct fvm_finding *f)
{
	found(f, d->kernel.landlock_abi ? "version %d" : "none", d->kernel.landlock_abi);
	if (d->kernel.landlock_abi < FVM_LANDLOCK_SCOPES)
		bad(f, "--net host is refused: abstract sockets could not be guarded",
		    "use a kernel from 6.12 on with landlock in its lsm= list");
}

/* ---- the rest ---- */

static void check_seccomp(const struct fvm_doctor *d, struct fvm_finding *f)
{
	tried(f, d->kernel.seccomp, "no VM is started without it",
	      fvm_fix_of("seccomp", d->kernel.seccomp, d->kernel.container));
}

static void check_notify(const struct fvm_doctor *d, struct fvm_finding *f)
{
	const struct fvm_kernel *k = &d->kernel;
	tried(f, k->seccomp_notify, "ordinary users' VMs can't change the host's files; no --trace",
	      fvm_fix_of("notify", k->seccomp_notify, k->container));
	if (k->seccomp_notify == 0)
		found(f, "works%s%s", k->seccomp_killable ? "" : ", not disturbed by signals",
		      k->seccomp_sync ? "" : ", woken at once");
}

static void check_calls(const struct fvm_doctor *d, struct fvm_finding *f)
{
	const struct fvm_kernel *k = &d->kernel;
	const char *fix = k->container ? "the container's filter refuses it: --security-opt "
					 "seccomp=unconfined"
				       : "use a kernel from 6.1 on, without a filter over it";
	if (k->missing_call) {
		found(f, "%s: %s, kernel %.60s", k->missing_call, strerror(k->missing), k->release);
		bad(f, "no VM can be started", fix);
		return;
	}
	found(f, "all there, kernel %.60s", k->release);
	if (!k->slower_call)
		return;
	found(f, "all that are needed; no %s, kernel %.60s", k->slower_call, k->release);
	snprintf(f->without, sizeof(f->without),
		 "what needs it goes another way, slower, or is refused");
}

static void check_place(const struct fvm_doctor *d, struct fvm_finding *f)
{
	const struct fvm_kernel *k = &d->kernel;
	found(f, "%s%s, %s", k->container ? "inside " : "on the host itself",
	      !k->container  ? ""
	      : k->inside[0] ? k->inside
			     : "a user namespace",
	      k->full_root ? "with all privileges" : "as an ordinary user");
}

static void check_rights(const struct fvm_doctor *d, struct fvm_finding *f)
{
	char missing[FVM_CAPS_TEXT];
	if (!d->kernel.full_root) {
		found(f, "not tried: needs root");
		return;
	}
	if (!fvm_caps_missing(false, missing)) {
		found(f, "all that are needed");
		return;
	}
	found(f, "root has not all that are needed");
	(void)fvm_caps_missing(true, missing);
	bad(f, "root's VMs can't start", "");
	if (d->kernel.container)
		snprintf(f->fix, sizeof(f->fix),
			 "docker run %.300s --security-opt seccomp=unconfined", missing);
	else
		snprintf(f->fix, sizeof(f->fix),
			 "start it as root with all capabilities; it lacks those of %.300s",
			 missing);
}

static void check_fuse(const struct fvm_doctor *d, struct fvm_finding *f)
{
	device(d, f, "/dev/fuse", "fuse", d->kernel.fuse,
	       "published applications are copied as a whole before they start");
}

static void check_kvm(const struct fvm_doctor *d, struct fvm_finding *f)
{
	device(d, f, "/dev/kvm", "kvm_intel, or kvm_amd", d->kernel.kvm,
	       "not used by VMs; make test-vm skips");
}

/* ---- all of them ---- */

static const struct check {
	const char *id, *what;
	enum fvm_doctor_for for_whom;
	bool needed;
	void (*fn)(const struct fvm_doctor *d, struct fvm_finding *f);
} checks[] = {
	{ "place", "where we are", FVM_FOR_ALL, false, check_place },
	{ "calls", "system calls", FVM_FOR_ALL, true, check_calls },
	{ "seccomp", "seccomp filters", FVM_FOR_ALL, true, check_seccomp },
	{ "account", "your account", FVM_FOR_ALL, false, check_accounts },
	{ "store", "the store", FVM_FOR_ALL, false, check_store },
	{ "mounts", "mounts of a VM", FVM_FOR_ALL, false, check_mounts },
	{ "cgroups", "limits by cgroups", FVM_FOR_ALL, false, check_cgroups },
	{ "landlock", "Landlock", FVM_FOR_ALL, false, check_landlock },
	{ "selinux", "SELinux", FVM_FOR_ALL, false, check_selinux },
	{ "rights", "capabilities", FVM_FOR_ROOT, true, check_rights },
	{ "overlay", "overlay", FVM_FOR_ROOT, true, check_overlay },
	{ "idmap", "idmapped mounts", FVM_FOR_ROOT, false, check_idmap },
	{ "overlay-fds", "overlay by descriptor", FVM_FOR_ROOT, false, check_overlay_fds },
	{ "nat", "network with NAT", FVM_FOR_ROOT, false, check_nat },
	{ "userns", "user namespaces", FVM_FOR_USERS, true, check_userns },
	{ "userns-mount", "mounting in them", FVM_FOR_USERS, true, check_userns_mount },
	{ "apparmor", "AppArmor", FVM_FOR_USERS, false, check_apparmor },
	{ "overlay-userns", "overlay in them", FVM_FOR_USERS, true, check_overlay_userns },
	{ "notify", "seccomp notification", FVM_FOR_USERS, false, check_notify },
	{ "ranges", "more than one uid", FVM_FOR_USERS, false, check_ranges },
	{ "user-net", "network of users", FVM_FOR_USERS, false, check_user_net },
	{ "fuse", "FUSE", FVM_FOR_ALL, false, check_fuse },
	{ "kvm", "KVM", FVM_FOR_ALL, false, check_kvm },
};

static void judge(struct fvm_doctor *d)
{
	d->root_works = d->users_work = true;
	for (size_t i = 0; i < d->count; i++) {
		const struct fvm_finding *f = &d->findings[i];
		if (!f->needed || f->good)
			continue;
		d->root_works &= !(f->for_whom & FVM_FOR_ROOT);
		d->users_work &= !(f->for_whom & FVM_FOR_USERS);
	}
	d->root_works &= d->kernel.full_root;
}

int fvm_doctor_examine(const char *store, struct fvm_doctor *ret, struct fvm_error *err)
{
	struct fvm_doctor d = { 0 };
	snprintf(d.store, sizeof(d.store), "%s", store);
	fvm_kernel_probe(store, &d.kernel);
	(void)fvm_cgroup_host(&d.cgroups);
	int r = fvm_plan_make(&d.plan, err);
	if (r == 0)
		r = fvm_bases_ask(&d.plan, err);
	if (r == 0 && d.kernel.full_root)
		r = fvm_bases_map(&d.plan, err);
	if (r < 0)
		return r;
	d.findings = calloc(FVM_COUNT(checks), sizeof(*d.findings));
	if (!d.findings) {
		fvm_doctor_free(&d);
		return fvm_error_set(err, ENOMEM, "examine this host");
	}
	for (; d.count < FVM_COUNT(checks); d.count++) {
		const struct check *c = &checks[d.count];
		struct fvm_finding *f = &d.findings[d.count];
		*f =
			(struct fvm_finding){ c->id, c->what, c->for_whom, c->needed,
					      true,  "",      "",	   "" };
		c->fn(&d, f);
	}
	judge(&d);
	*ret = d;
	return 0;
}
