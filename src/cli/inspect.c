#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "fvm/native.h"
#include "fvm/net.h"
#include "fvm/state.h"
#include "fvm/watchdog.h"

static json_t *left_out(const struct fvm_running *r)
{
	json_t *list = json_array();
	for (size_t i = 0; i < r->left_out_count; i++)
		json_array_append_new(list, json_pack("{s:s, s:s}", "path", r->left_out[i].path,
						      "why", r->left_out[i].why));
	return list;
}

static void add_running(json_t *root, const struct fvm_vm *vm)
{
	scoped_running r = { 0 };
	if (fvm_running_load(vm, &r, NULL) < 0)
		return;
	json_t *mounts = json_array();
	fvm_strv_each(&r.keys, i) {
		char path[4096];
		if (fvm_mount_point(r.keys.items[i], path, sizeof(path)) == 0)
			json_array_append_new(mounts, json_string(path));
	}
	json_t *policies = json_array();
	fvm_strv_each(&r.policies, i)
		json_array_append_new(policies, json_string(r.policies.items[i]));
	json_t *running = json_pack("{s:i, s:I, s:s, s:s, s:s, s:I, s:o, s:o, s:o}", "init_pid",
				    (int)r.init_pid, "started", (json_int_t)r.started_ns, "address",
				    r.address4, "address6", r.address6, "cgroup", r.cgroup,
				    "uid_base", (json_int_t)r.uid_base, "mounts", mounts,
				    "left_out", left_out(&r), "policy", policies);
	uint32_t connections;
	if (!vm->config.rootless && fvm_net_connections(r.slot, &connections) == 0)
		json_object_set_new(running, "connections", json_integer(connections));
	json_object_update(root, running);
	json_decref(running);
}

static json_t *natives(const struct fvm_vm *vm)
{
	json_t *list = json_array();
	scoped_strv paths = { 0 };
	if (fvm_natives_find(vm, &paths) == 0) {
		fvm_strv_each(&paths, i)
			json_array_append_new(list, json_string(paths.items[i]));
	}
	return list;
}

static json_t *watchdog(const struct fvm_vm *vm)
{
	struct fvm_watchdog_record r;
	if (fvm_watchdog_load(vm, &r) < 0)
		return json_null();
	json_t *event = r.event ? json_string(fvm_watchdog_event_name(r.event)) : json_null();
	json_t *at = r.event ? json_integer(r.at_ns) : json_null();
	return json_pack("{s:i, s:s, s:i, s:i, s:b, s:o, s:o}", "seconds", (int)r.what.seconds,
			 "action", fvm_watchdog_action_name(r.what.action), "restarts",
			 (int)r.restarts, "restores", (int)r.restores, "notifies", r.notifies,
			 "event", event, "at", at);
}

/* The configuration as it is stored, the state, the layers, and what only a running VM has. */
static json_t *inspect(const struct fvm_vm *vm)
{
	scoped_free char *text = fvm_config_print(&vm->config);
	json_t *config = text ? json_loads(text, 0, NULL) : NULL;
	json_t *layers = json_array();
	fvm_strv_each(&vm->config.layers, i)
		json_array_append_new(layers, json_string(vm->config.layers.items[i]));
	json_array_append_new(layers, json_string("workspace"));
	json_t *policy = json_array();
	fvm_strv_each(&vm->config.policies, i)
		json_array_append_new(policy, json_string(vm->config.policies.items[i]));
	json_t *root = json_pack("{s:s, s:s, s:s, s:I, s:n, s:s, s:s++, s:o, s:o, s:o}", "name",
				 vm->config.name, "id", vm->config.id, "state",
				 fvm_state_name(fvm_vm_state(vm)), "created",
				 (json_int_t)vm->config.created_ns, "init_pid", "address", "",
				 "directory", vm->store->path, "/vms/", vm->config.name, "layers",
				 layers, "policy", policy, "config", config ? config : json_null());
	json_object_set_new(root, "native", natives(vm));
	json_object_set_new(root, "watchdog", watchdog(vm));
	add_running(root, vm);
	return root;
}

static int inspect_main(const struct cli *cli, int argc, char **argv)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	struct fvm_error err = { 0 };
	(void)cli; /* its output is JSON either way */
	int first = cli_parse(&cli_inspect, argc, argv, NULL, NULL);
	if (first < 0)
		return cli_exit_parse(first);
	if (fvm_store_open(&store, &err) < 0)
		return cli_fail(&err);
	json_t *all = json_array();
	int status = 0;
	for (int i = first; i < argc; i++) {
		scoped_vm vm = { .dir = -1, .lock = -1 };
		err = (struct fvm_error){ 0 };
		if (fvm_vm_open(&store, argv[i], FVM_NO_LOCK, &vm, &err) < 0)
			status = cli_fail(&err);
		else
			json_array_append_new(all, inspect(&vm));
	}
	if (argc - first == 1) {
		json_t *one = json_incref(json_array_get(all, 0));
		json_decref(all);
		return one ? cli_print_json(one) : status;
	}
	return cli_print_json(all) ? CLI_FAILED : status;
}

const struct cli_command cli_inspect = {
	.name = "inspect",
	.operands = "VM..",
	.summary = "Print all that is known of VMs, as JSON.",
	.min_operands = 1,
	.max_operands = -1,
	.main = inspect_main,
};
