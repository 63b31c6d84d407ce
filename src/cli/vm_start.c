#include "cli/vm_start.h"

static void show(void *arg, uint64_t done, uint64_t total)
{
	cli_progress_show(arg, done, total, "directories");
}

int cli_vm_start(struct fvm_vm *vm, const struct fvm_start_options *options,
		 struct fvm_started *ret, struct fvm_error *err)
{
	struct fvm_config *c = &vm->config;
	if (c->first_start_ns == 0) {
		c->first_start_ns = cli_now_ns();
		int r = fvm_config_save(vm->dir, c, !options->throw_away, err);
		if (r < 0)
			return r;
	}
	/* only the first start of a rootless user has anything to show */
	static const struct cli loud = { 0 };
	struct cli_progress bar;
	struct fvm_start_options with = *options;
	const struct fvm_skeleton_progress progress = { show, &bar };
	cli_progress_start(&bar, &loud, "read the host's directories");
	with.progress = &progress;
	int r = fvm_vm_start(vm, &with, ret, err);
	cli_progress_end(&bar);
	return r;
}
