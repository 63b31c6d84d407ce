/* Package lists, accounts, units and settings as a VM left them, read by "diff --meaning". The
 * first byte says which file it is; up to a line "--" it is the host's, then the VM's. */
#include <stdint.h>
#include <string.h>

#include "fvm/changes.h"
#include "fvm/meaning.h"
#include "temporary.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const files[] = {
	"var/lib/dpkg/status",
	"etc/passwd",
	"etc/group",
	"etc/systemd/system/x.service",
	"etc/app.conf",
	"usr/lib/node_modules/x/package.json",
	"usr/lib/python3/dist-packages/x-1.dist-info/METADATA",
	"etc/shadow",
};

static void put(int top, const char *path, const char *text, size_t len)
{
	char dir[128];
	const char *slash = strrchr(path, '/');
	memcpy(dir, path, (size_t)(slash - path));
	dir[slash - path] = '\0';
	scoped_fd at = fvm_mkdir_nofollow(top, dir, 0755);
	if (at >= 0)
		(void)fvm_write_file_atomic(at, slash + 1, text, len, false);
}

static int take(const struct fvm_change *c, void *arg)
{
	return fvm_meaning_take(arg, c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct fvm_scan_options options = { .whole_trees = true };
	if (size < 2)
		return 0;
	const char *path = files[data[0] % FVM_COUNT(files)], *text = (const char *)data + 1;
	const char *split = memmem(text, size - 1, "\n--\n", 4);
	scoped_fd base = temporary_anew("base");
	int layer = temporary_anew("layer");
	if (split)
		put(base, path, text, (size_t)(split - text));
	put(layer, path, split ? split + 4 : text,
	    split ? size - 5 - (size_t)(split - text) : size - 1);
	struct fvm_stack s = {
		.key = "root", .mount_point = "/", .base = base, .layers = &layer, .count = 1
	};
	const struct fvm_fact *facts;
	size_t count;
	struct fvm_meaning *m = fvm_meaning_new();
	if (m && fvm_stack_scan(&s, &options, take, m, NULL) == 0)
		(void)fvm_meaning_facts(m, &facts, &count);
	fvm_meaning_free(m);
	close(layer);
	return 0;
}
