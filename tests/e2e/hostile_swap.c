/*
 * hostile_swap A B [A B]..: exchanges each A with its B, again and again, until it is killed, so
 * that whoever looks at a name twice finds two different things.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef RENAME_EXCHANGE
#define RENAME_EXCHANGE 2
#endif

int main(int argc, char **argv)
{
	for (unsigned long n = 0;; n++) {
		for (int i = 1; i + 1 < argc; i += 2)
			(void)syscall(SYS_renameat2, AT_FDCWD, argv[i], AT_FDCWD, argv[i + 1],
				      RENAME_EXCHANGE);
		if (n == 0) {
			puts("ready");
			fflush(stdout);
		}
	}
}
