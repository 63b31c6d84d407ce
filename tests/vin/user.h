/* Tests of root that are run once more by an ordinary user, for those that include setjmp.h and
 * cmocka.h before. */
#ifndef FVM_TESTS_VIN_USER_H
#define FVM_TESTS_VIN_USER_H

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/common.h"

/* A copy of this program where an ordinary user finds it: not each clone lies there. */
static int copy_for_user(char *path)
{
	scoped_fd from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	scoped_fd to = mkstemp(path);
	struct stat st;
	if (from < 0 || to < 0 || fstat(from, &st) < 0)
		return -1;
	while (sendfile(to, from, NULL, (size_t)st.st_size) > 0)
		;
	return fchmod(to, 0755);
}

/* All of it again, in a child that @become made somebody else of. Return: how it ended */
static int run_copy_as(void (*become)(void))
{
	char path[] = "/tmp/fvm-vin-XXXXXX";
	int status = 1;
	fflush(NULL);
	if (copy_for_user(path) < 0) {
		(void)unlink(path);
		return 1;
	}
	pid_t pid = fork();
	if (pid == 0) {
		become();
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		execl(path, path, "as-user", NULL);
		_exit(1);
	}
	if (pid > 0 && waitpid(pid, &status, 0) != pid)
		status = 1;
	(void)unlink(path);
	return status;
}

#endif
