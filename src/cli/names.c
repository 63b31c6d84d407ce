#include <errno.h>

#include "cli/names.h"

static bool is_in(const struct fvm_store *store, const char *name, unsigned int states)
{
	scoped_vm vm = { .dir = -1, .lock = -1 };
	if (states == 0)
		return true;
	return fvm_vm_open(store, name, FVM_NO_LOCK, &vm, NULL) == 0 &&
	       (states & 1u << fvm_vm_state(&vm));
}

static int take_all(const struct fvm_store *store, unsigned int states, struct fvm_strv *ret,
		    struct fvm_error *err)
{
	scoped_strv every = { 0 };
	int r = fvm_store_list(store, &every, err);
	for (size_t i = 0; r == 0 && i < every.count; i++) {
		if (is_in(store, every.items[i], states) && fvm_strv_add(ret, every.items[i]) < 0)
			r = fvm_error_set(err, ENOMEM, "list the VMs");
	}
	return r;
}

int cli_names_take(const struct cli_command *command, const struct fvm_store *store, bool all,
		   unsigned int states, int count, char **names, struct fvm_strv *ret,
		   struct fvm_error *err)
{
	if (all && count > 0)
		return fvm_error_say(err, EINVAL, "%s: either name VMs, or give --all",
				     command->name);
	if (all)
		return take_all(store, states, ret, err);
	if (count == 0)
		return fvm_error_say(err, EINVAL, "%s: VM is missing: name one, or give --all",
				     command->name);
	for (int i = 0; i < count; i++) {
		if (fvm_strv_add(ret, names[i]) < 0)
			return fvm_error_set(err, ENOMEM, "list the VMs");
	}
	return 0;
}
