#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/common.h"
#include "fvm/orphans.h"

#define FIRST_PID_NAMESPACE 0xeffffffcU /* PROC_PID_INIT_INO of the kernel */
#define CHLD		    (1ULL << (17 - 1))
#define LOOK_MS		    2

bool fvm_orphans_are_reaped(const char *status)
{
	static const char *const fields[] = { "\nSigBlk:", "\nSigIgn:", "\nSigCgt:" };
	bool any = false;
	for (size_t i = 0; i < FVM_COUNT(fields); i++) {
		const char *at = strstr(status, fields[i]);
		if (!at)
			return true; /* nothing is known */
		any |= strtoull(at + strlen(fields[i]), NULL, 16) & CHLD;
	}
	return any;
}

bool fvm_orphans_adopt(void)
{
	struct stat st;
	scoped_free char *status = NULL;
	if (stat("/proc/self/ns/pid", &st) < 0 || st.st_ino == FIRST_PID_NAMESPACE ||
	    fvm_read_file(AT_FDCWD, "/proc/1/status", 65536, &status, NULL) < 0 ||
	    fvm_orphans_are_reaped(status))
		return false;
	return prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0;
}

static bool is_keeper(unsigned long pid)
{
	char path[40];
	scoped_free char *name = NULL;
	snprintf(path, sizeof(path), "/proc/%lu/comm", pid);
	return fvm_read_file(AT_FDCWD, path, 64, &name, NULL) == 0 &&
	       strcmp(name, "fvm-keeper\n") == 0;
}

/* Whether there is a child left that ends with its VM. */
static bool any_left(void)
{
	scoped_free char *pids = NULL;
	if (fvm_read_file(AT_FDCWD, "/proc/thread-self/children", 65536, &pids, NULL) < 0)
		return true;
	for (char *at = pids, *end; *at; at = end) {
		unsigned long pid = strtoul(at, &end, 10);
		if (end == at)
			break;
		if (!is_keeper(pid))
			return true;
	}
	return false;
}

void fvm_orphans_reap(unsigned int timeout_ms)
{
	for (unsigned int ms = 0; ms < timeout_ms; ms += LOOK_MS) {
		pid_t pid;
		/* of all sorts: helpers of our own end without a signal to us */
		while ((pid = waitpid(-1, NULL, WNOHANG | __WALL)) > 0)
			;
		if (pid < 0 || !any_left())
			return;
		fvm_sleep_ms(LOOK_MS);
	}
}
