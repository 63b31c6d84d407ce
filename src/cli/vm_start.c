#include "cli/vm_start.h"

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
	return fvm_vm_start(vm, options, ret, err);
}
