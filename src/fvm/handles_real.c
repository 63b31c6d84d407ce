/* What a file or socket of a VM's program is on this host: by its mounts and layers, by /proc/net.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/disk.h"
#include "fvm/handles.h"
#include "fvm/plan.h"

#define TABLE_MAX (64U << 20)

struct mount {
	int id;
	char *root, *point, *type; /* in the text of mountinfo */
	char *device;
};

struct socket_line {
	uint64_t inode;
	const char *table;
	const char *line; /* in that table's text */
};

struct fvm_reals {
	const struct fvm_vm *vm;
	struct fvm_strv layers; /* paths of their "fs", the workspace first */
	int *fs;		/* the same, open; < 0: not there */
	pid_t pid;
	char net[64]; /* whose sockets these are */
	char *mounts_text;
	struct mount *mounts;
	size_t mount_count;
	char *tables[10];
	struct socket_line *sockets;
	size_t socket_count;
};

static const char *const tables[] = { "tcp",  "tcp6", "udp",	"udp6",	   "raw",
				      "raw6", "unix", "packet", "netlink", "icmp" };

/* ---- layers ---- */

static int add_layer(struct fvm_reals *r, int dir, const char *top, const char *shown)
{
	scoped_fd layer = fvm_open_nofollow(dir, top, O_RDONLY | O_DIRECTORY);
	int *fs = realloc(r->fs, (r->layers.count + 1) * sizeof(*fs));
	if (!fs)
		return -ENOMEM;
	r->fs = fs;
	fs[r->layers.count] = layer < 0 ? -1 : fvm_disk_open(layer);
	int e = fvm_strv_addf(&r->layers, "%s/fs", shown);
	if (e < 0)
		fvm_fd_closep(&fs[r->layers.count]);
	return e;
}

static int add_layers(struct fvm_reals *r)
{
	char path[PATH_MAX], top[128];
	const struct fvm_config *c = &r->vm->config;
	snprintf(path, sizeof(path), "%s/vms/%s/workspace", r->vm->store->path, c->name);
	int e = add_layer(r, r->vm->dir, "workspace", path);
	for (size_t i = c->layers.count; e == 0 && i-- > 0;) {
		snprintf(top, sizeof(top), "layers/%.60s", c->layers.items[i]);
		snprintf(path, sizeof(path), "%s/%s", r->vm->store->path, top);
		e = add_layer(r, r->vm->store->dir, top, path);
	}
	return e;
}

struct fvm_reals *fvm_reals_open(const struct fvm_vm *vm)
{
	struct fvm_reals *r = calloc(1, sizeof(*r));
	if (!r)
		return NULL;
	r->vm = vm;
	if (add_layers(r) < 0) {
		fvm_reals_free(r);
		return NULL;
	}
	return r;
}

void fvm_reals_forget(struct fvm_reals *r)
{
	for (size_t i = 0; i < FVM_COUNT(tables); i++)
		free(fvm_take_ptr(&r->tables[i]));
	free(fvm_take_ptr(&r->sockets));
	r->socket_count = 0;
}

static void forget_mounts(struct fvm_reals *r)
{
	free(fvm_take_ptr(&r->mounts_text));
	free(fvm_take_ptr(&r->mounts));
	r->mount_count = 0;
}

void fvm_reals_free(struct fvm_reals *r)
{
	if (!r)
		return;
	fvm_strv_each(&r->layers, i)
		fvm_fd_closep(&r->fs[i]);
	free(r->fs);
	fvm_strv_free(&r->layers);
	fvm_reals_forget(r);
	forget_mounts(r);
	free(r);
}

/* ---- mounts ---- */

/* "ID PARENT DEVICE ROOT POINT OPTIONS .. - TYPE SOURCE OPTIONS" */
static bool mount_split(char *line, struct mount *ret)
{
	char *fields[5], *at = line;
	for (size_t i = 0; i < FVM_COUNT(fields); i++) {
		fields[i] = strsep(&at, " ");
		if (!at)
			return false;
	}
	char *type = strstr(at, " - ");
	if (!type)
		return false;
	type += 3;
	type[strcspn(type, " ")] = '\0';
	fvm_unoctal(fields[3]);
	fvm_unoctal(fields[4]);
	*ret = (struct mount){ atoi(fields[0]), fields[3], fields[4], type, fields[2] };
	return true;
}

static int read_mounts(struct fvm_reals *r)
{
	char path[40];
	forget_mounts(r);
	snprintf(path, sizeof(path), "/proc/%d/mountinfo", r->pid);
	if (fvm_read_file(AT_FDCWD, path, TABLE_MAX, &r->mounts_text, NULL) < 0)
		return 0; /* it is gone */
	for (char *at = r->mounts_text, *line; (line = strsep(&at, "\n"));) {
		struct mount m;
		if (!mount_split(line, &m))
			continue;
		struct mount *more =
			realloc(r->mounts, fvm_room(r->mount_count + 1) * sizeof(*more));
		if (!more)
			return -ENOMEM;
		r->mounts = more;
		r->mounts[r->mount_count++] = m;
	}
	return 0;
}

static const struct mount *find_mount(const struct fvm_reals *r, int id, const char *path)
{
	const struct mount *best = NULL;
	for (size_t i = 0; i < r->mount_count; i++) {
		const struct mount *m = &r->mounts[i];
		if (id ? m->id == id
		       : fvm_path_below(path, m->point) &&
				    (!best || strlen(m->point) >= strlen(best->point)))
			best = m;
	}
	return best;
}

/* Whether there is something of the VM's at @path, "KEY/upper/etc/x". Return: 1 a file, 0 no */
static bool layer_has(int fs, const char *path)
{
	struct stat st;
	scoped_fd fd = fs < 0 ? -1 : fvm_open_nofollow(fs, path, O_PATH);
	return fd >= 0 && fstat(fd, &st) == 0 && !(S_ISCHR(st.st_mode) && st.st_rdev == 0);
}

static void overlay_file(const struct fvm_reals *r, const struct mount *m, const char *below,
			 struct fvm_buf *ret)
{
	char key[256], path[PATH_MAX];
	if (fvm_mount_key(m->point, key, sizeof(key)) < 0)
		return;
	fvm_strv_each(&r->layers, i) {
		if (snprintf(path, sizeof(path), "%s/upper%s", key, below) >= (int)sizeof(path))
			return;
		if (!layer_has(r->fs[i], path))
			continue;
		fvm_buf_printf(ret, "%s/%s", r->layers.items[i], path);
		return;
	}
	fvm_buf_printf(ret, "%s%s", m->point[1] ? m->point : "", below[0] ? below : "/");
}

static const char *below_mount(const struct mount *m, const char *path)
{
	if (!fvm_path_below(path, m->point))
		return NULL;
	const char *below = m->point[1] ? path + strlen(m->point) : path;
	return below[0] == '/' && !below[1] ? "" : below;
}

void fvm_reals_file(struct fvm_reals *r, int mnt_id, const char *path, struct fvm_buf *ret)
{
	static const char gone[] = " (deleted)";
	size_t len = strlen(path);
	const struct mount *m = find_mount(r, mnt_id, path);
	const char *below = m ? below_mount(m, path) : NULL;
	bool deleted = len > strlen(gone) && strcmp(path + len - strlen(gone), gone) == 0;
	if (!m || !below)
		return;
	if (strcmp(m->type, "overlay") == 0 && !deleted)
		overlay_file(r, m, below, ret);
	else if (strcmp(m->root, "/") == 0 || strcmp(m->type, "overlay") == 0)
		fvm_buf_printf(ret, "%s %s of the VM%s", m->type, m->device,
			       deleted ? ", without a name" : "");
	else /* a directory or file of the host's, bound */
		fvm_buf_printf(ret, "%s%s on %s %s", m->root, below, m->type, m->device);
}

/* ---- sockets ---- */

static void put_address(const char *hex, struct fvm_buf *to)
{
	unsigned int word[4], port;
	char text[INET6_ADDRSTRLEN];
	if (sscanf(hex, "%8x%8x%8x%8x:%x", &word[0], &word[1], &word[2], &word[3], &port) == 5)
		fvm_buf_printf(to, "[%s]:%u", inet_ntop(AF_INET6, word, text, sizeof(text)), port);
	else if (sscanf(hex, "%8x:%x", &word[0], &port) == 2)
		fvm_buf_printf(to, "%s:%u", inet_ntop(AF_INET, word, text, sizeof(text)), port);
}

static const char *tcp_state(unsigned int state)
{
	static const char *const names[] = { "",	   "established", "connecting",
					     "connecting", "closing",	  "closing",
					     "closed",	   "closed",	  "half closed",
					     "closing",	   "listening",	  "closing" };
	return state < FVM_COUNT(names) ? names[state] : "";
}

static bool parse_inet(const char *line, bool tcp, uint64_t *ret_inode, struct fvm_buf *to)
{
	char local[48], remote[48];
	unsigned int state;
	if (sscanf(line, " %*[0-9]: %47[0-9A-F:] %47[0-9A-F:] %x %*s %*s %*s %*u %*u %" SCNu64,
		   local, remote, &state, ret_inode) != 4)
		return false;
	put_address(local, to);
	if (strspn(remote, "0:") != strlen(remote)) {
		fvm_buf_puts(to, " to ");
		put_address(remote, to);
	}
	if (tcp && state != 1)
		fvm_buf_printf(to, " %s", tcp_state(state));
	return true;
}

static bool parse_unix(const char *line, uint64_t *ret_inode, struct fvm_buf *to)
{
	static const char *const types[] = { "", "stream", "datagram", "", "", "packets" };
	unsigned int type, flags;
	int name = 0;
	if (sscanf(line, "%*x: %*x %*x %x %x %*x %" SCNu64 "%n", &flags, &type, ret_inode, &name) !=
	    3)
		return false;
	fvm_buf_puts(to, type < FVM_COUNT(types) ? types[type] : "");
	fvm_buf_puts(to, flags & 0x10000 ? " listening" : "");
	if (line[name] == ' ')
		fvm_buf_puts(to, line + name);
	return true;
}

bool fvm_sockets_parse(const char *table, const char *line, uint64_t *ret_inode, struct fvm_buf *to)
{
	if (strcmp(table, "unix") == 0)
		return parse_unix(line, ret_inode, to);
	if (strcmp(table, "packet") == 0)
		return sscanf(line, "%*x %*d %*d %*x %*d %*d %*u %*u %" SCNu64, ret_inode) == 1;
	if (strcmp(table, "netlink") == 0)
		return sscanf(line, "%*x %*d %*u %*x %*d %*d %*u %*d %*d %" SCNu64, ret_inode) == 1;
	return parse_inet(line, strncmp(table, "tcp", 3) == 0, ret_inode, to);
}

static int add_sockets(struct fvm_reals *r, const char *table, char *text)
{
	for (char *at = text, *line; (line = strsep(&at, "\n"));) {
		struct socket_line s = { .table = table, .line = line };
		scoped_buf ignored = { 0 };
		if (!fvm_sockets_parse(table, line, &s.inode, &ignored))
			continue;
		struct socket_line *more =
			realloc(r->sockets, fvm_room(r->socket_count + 1) * sizeof(*more));
		if (!more)
			return -ENOMEM;
		r->sockets = more;
		r->sockets[r->socket_count++] = s;
	}
	return 0;
}

static int by_inode(const void *a, const void *b)
{
	const struct socket_line *x = a, *y = b;
	return (x->inode > y->inode) - (x->inode < y->inode);
}

static int read_sockets(struct fvm_reals *r)
{
	char path[64];
	fvm_reals_forget(r);
	for (size_t i = 0; i < FVM_COUNT(tables); i++) {
		snprintf(path, sizeof(path), "/proc/%d/net/%s", r->pid, tables[i]);
		if (fvm_read_file(AT_FDCWD, path, TABLE_MAX, &r->tables[i], NULL) < 0)
			r->tables[i] = NULL; /* not of this kernel, or it is gone */
		else if (add_sockets(r, tables[i], r->tables[i]) < 0)
			return -ENOMEM;
	}
	if (r->socket_count)
		qsort(r->sockets, r->socket_count, sizeof(*r->sockets), by_inode);
	return 0;
}

const char *fvm_reals_socket(struct fvm_reals *r, uint64_t inode, struct fvm_buf *ret)
{
	const struct socket_line key = { .inode = inode };
	const struct socket_line *s =
		r->socket_count ? bsearch(&key, r->sockets, r->socket_count, sizeof(key), by_inode)
				: NULL;
	uint64_t same;
	if (!s)
		return "socket";
	(void)fvm_sockets_parse(s->table, s->line, &same, ret);
	return s->table;
}

int fvm_reals_process(struct fvm_reals *r, pid_t pid)
{
	char path[40], net[sizeof(r->net)];
	r->pid = pid;
	int e = read_mounts(r);
	if (e < 0)
		return e;
	snprintf(path, sizeof(path), "/proc/%d/ns/net", pid);
	ssize_t n = readlink(path, net, sizeof(net) - 1);
	net[n < 0 ? 0 : n] = '\0';
	if (r->sockets && n > 0 && strcmp(net, r->net) == 0)
		return 0;
	memcpy(r->net, net, sizeof(net));
	return read_sockets(r);
}
