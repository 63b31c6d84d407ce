/*
 * Make processes: "forks COUNT PROGRAM" forks, executes PROGRAM without arguments, and waits, one
 * after the other. fork(2), not vfork(2): what a shell does.
 */
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	for (int i = atoi(argv[1]); i > 0; i--) {
		int status;
		pid_t pid = fork();
		if (pid == 0) {
			execl(argv[2], argv[2], (char *)NULL);
			_exit(127);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
			return 1;
	}
	return 0;
}
