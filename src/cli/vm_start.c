#include <unistd.h>

#include "cli/vm_start.h"
#include "fvm/lock.h"

static void show(void *arg, uint64_t done, uint64_t total)
{
	cli_progress_show(arg, done, total, "directories");
}

static void show_copy(void *arg, const char *name, uint64_t entries)
{
	struct cli_progress *bar = arg;
	(void)name;
	bar->what = "copy native directories";
	cli_progress_show(bar, entries, 0, "entries");
}

int cli_vm_start(struct fvm_vm *vm, const struct fvm_start_options *options,
		 struct fvm_started *ret, struct fvm_error *err)
{
	struct fvm_config *c = &vm->config;
	if (c->first_start_ns == 0) {
		c->first_start_ns = fvm_now_ns();
		int r = fvm_config_save(vm->dir, c, !options->throw_away, err);
		if (r < 0)
			return r;
	}
	/* only the first start of a rootless user, or with native directories, has this to show */
	static const struct cli loud = { 0 };
	struct cli_progress bar;
	struct fvm_start_options with = *options;
	const struct fvm_skeleton_progress progress = { show, &bar };
	const struct fvm_copy_progress copying = { show_copy, &bar };
	cli_progress_start(&bar, &loud, "read the host's directories");
	with.progress = &progress;
	with.copying = &copying;
	int r = fvm_vm_start(vm, &with, ret, err);
	cli_progress_end(&bar);
	return r;
}

int cli_vm_boot(struct fvm_vm *vm, const struct fvm_net_wish *wish, struct fvm_error *err)
{
	struct fvm_started started = FVM_STARTED_NONE;
	struct fvm_watchdog_record before = { 0 };
	/* who rolls it back when the watchdog wants that does so again later */
	const bool watched =
		wish && fvm_lock_watched(vm->dir) && fvm_watchdog_load(vm, &before) == 0;
	const struct fvm_start_options options = { .user_uid = geteuid(),
						   .user_gid = getegid(),
						   .wish = wish,
						   .watchdog = before.what,
						   .watchdog_goes_on = watched };
	int r = cli_vm_start(vm, &options, &started, err);
	if (r == 0)
		r = fvm_start_wait_exec(&started, err);
	fvm_started_close(&started);
	return r;
}
