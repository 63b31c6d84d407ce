/*
 * Resource limits, getrlimit(2). Hard ones are raised only by who may. A program whose memory is
 * limited to what it has leaves no room for the pages that its calls need (vin/rcall).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "vin/traits.h"

struct limit { /* the kernel's rlimit64 */
	uint64_t soft, hard;
};

/* "VmSize:     1234 kB"; 0 where it is not told. */
static uint64_t told_bytes(const char *status, const char *name)
{
	const char *line = strstr(status, name);
	return line ? strtoull(line + strlen(name), NULL, 10) * 1024 : 0;
}

static int check(pid_t pid, pid_t tid, uint64_t filters, struct fvm_error *err)
{
	static const struct {
		enum __rlimit_resource which;
		const char *name, *line;
	} sizes[] = { { RLIMIT_AS, "RLIMIT_AS", "\nVmSize:" },
		      { RLIMIT_DATA, "RLIMIT_DATA", "\nVmData:" } };
	char path[40];
	scoped_free char *status = NULL;
	(void)filters;
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	if (pid != tid || fvm_read_file(AT_FDCWD, path, 65536, &status, NULL) < 0)
		return 0;
	for (size_t i = 0; i < FVM_COUNT(sizes); i++) {
		struct rlimit limit;
		const uint64_t has = told_bytes(status, sizes[i].line);
		if (has && prlimit(pid, sizes[i].which, NULL, &limit) == 0 &&
		    limit.rlim_cur != RLIM_INFINITY && has + VIN_POST_SIZE > limit.rlim_cur)
			return fvm_error_say(err, ENOTSUP,
					     "process %d can't be captured: its memory is limited "
					     "to %llu KiB (%s), and %u more than it has are needed",
					     pid, (unsigned long long)limit.rlim_cur / 1024,
					     sizes[i].name, (unsigned int)(VIN_POST_SIZE / 1024));
	}
	return 0;
}

static int ask(struct vin_steps *s, struct fvm_error *err)
{
	(void)err;
	for (uint64_t i = 0; i < RLIM_NLIMITS; i++) {
		uint64_t at = vin_steps_data(s, NULL, sizeof(struct limit));
		VIN_STEP(s, "prlimit", SYS_prlimit64, 0, i, 0, at);
	}
	return 0;
}

static int put(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
	       struct fvm_error *err)
{
	(void)err;
	for (int i = 0; i < RLIM_NLIMITS; i++)
		fvm_buf_add(to, vin_steps_told(s, told[i].args[3]), sizeof(struct limit));
	return 0;
}

static int replay(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from,
		  struct fvm_error *err)
{
	(void)err;
	for (uint64_t i = 0; i < RLIM_NLIMITS; i++) {
		struct limit now, want = { 0 };
		memcpy(&now, vin_steps_told(s, told[i].args[3]), sizeof(now));
		want.soft = vin_get_u64(from);
		want.hard = vin_get_u64(from);
		if (from->failed || want.soft > want.hard)
			return -EBADMSG;
		if (memcmp(&now, &want, sizeof(now)) != 0) {
			uint64_t at = vin_steps_data(s, &want, sizeof(want));
			VIN_STEP(s, "prlimit", SYS_prlimit64, 0, i, at, 0);
		}
	}
	return 0;
}

const struct vin_trait vin_limits = {
	.name = "limits", .check = check, .ask = ask, .put = put, .replay = replay
};
