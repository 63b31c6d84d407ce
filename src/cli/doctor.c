#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "fvm/doctor.h"
#include "fvm/store.h"

static const char *verdict(const struct fvm_finding *f)
{
	if (f->good)
		return "ok";
	return f->needed ? "MISSING" : "less";
}

static void print_part(const struct fvm_doctor *d, enum fvm_doctor_for whom, const char *title)
{
	printf("\n%s\n", title);
	for (size_t i = 0; i < d->count; i++) {
		const struct fvm_finding *f = &d->findings[i];
		if (f->for_whom != whom)
			continue;
		printf("  %-8s %-22s %s\n", verdict(f), f->what, f->found);
		if (f->without[0])
			printf("  %-8s %-22s without: %s\n", "", "", f->without);
		if (f->fix[0])
			printf("  %-8s %-22s fix: %s\n", "", "", f->fix);
	}
}

static void print(const struct fvm_doctor *d)
{
	printf("VMs of root can %s.\n", d->root_works	      ? "run"
					: d->kernel.full_root ? "NOT run"
							      : "not be judged from here");
	printf("VMs of ordinary users can %srun.\n", d->users_work ? "" : "NOT ");
	print_part(d, FVM_FOR_ALL, "For all VMs");
	print_part(d, FVM_FOR_ROOT, "For VMs of root");
	print_part(d, FVM_FOR_USERS, "For VMs of ordinary users");
}

static json_t *to_json(const struct fvm_doctor *d)
{
	static const char *const whom[] = { "", "root", "users", "all" };
	json_t *list = json_array();
	for (size_t i = 0; i < d->count; i++) {
		const struct fvm_finding *f = &d->findings[i];
		json_array_append_new(list,
				      json_pack("{s:s, s:s, s:s, s:b, s:b, s:s, s:s, s:s}", "name",
						f->id, "what", f->what, "for", whom[f->for_whom],
						"needed", f->needed, "ok", f->good, "found",
						f->found, "without", f->without, "fix", f->fix));
	}
	return json_pack("{s:b, s:b, s:s, s:s, s:i, s:o}", "root_works", d->root_works,
			 "users_work", d->users_work, "kernel", d->kernel.release, "inside",
			 d->kernel.inside, "landlock", d->kernel.landlock_abi, "findings", list);
}

static int doctor_main(const struct cli *cli, int argc, char **argv)
{
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	struct fvm_doctor d = { 0 };
	struct fvm_error err = { 0 };
	int first = cli_parse(&cli_doctor, argc, argv, NULL, NULL);
	if (first < 0)
		return cli_exit_parse(first);
	/* a store that can't be opened is a finding, too */
	bool has_store = fvm_store_open(&store, &err) == 0;
	if (!has_store)
		fvm_error_print("fvm", &err);
	if (fvm_doctor_examine(has_store ? store.path : "/tmp", &d, &err) < 0)
		return cli_fail(&err);
	int status = has_store && (d.root_works || d.users_work) ? 0 : CLI_FAILED;
	if (cli->json) {
		int r = cli_print_json(to_json(&d));
		status = status ? status : r;
	} else {
		print(&d);
	}
	fvm_doctor_free(&d);
	return status;
}

const struct cli_command cli_doctor = {
	.name = "doctor",
	.summary = "Tell what this host offers VMs, what is missing, and how to get it.",
	.text = "Exits with 0 when VMs of some kind can run here.",
	.max_operands = 0,
	.main = doctor_main,
};
