/*
 * Make or change many files, the same ones each time.
 *
 *   files make DIR COUNT BYTES   COUNT files below DIR, 100 in each directory, BYTES long each;
 *                                the text of each is its number, over and over
 *   files append DIR COUNT       one line more in each of them
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PER_DIRECTORY = 100, BYTES_MAX = 65536 };

static int write_one(int dir, int number, int flags, size_t bytes)
{
	static char text[BYTES_MAX + 16];
	char name[32];
	size_t len = 0;
	snprintf(name, sizeof(name), "d%d/f%d", number / PER_DIRECTORY, number);
	while (len < bytes)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%d\n", number);
	int fd = openat(dir, name, O_WRONLY | flags, 0644);
	if (fd < 0 || write(fd, text, bytes) != (ssize_t)bytes || close(fd) < 0) {
		fprintf(stderr, "files: %s: %s\n", name, strerror(errno));
		return -1;
	}
	return 0;
}

static int make_all(int dir, int count, size_t bytes)
{
	char name[32];
	for (int i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "d%d", i / PER_DIRECTORY);
		if (i % PER_DIRECTORY == 0 && mkdirat(dir, name, 0755) < 0 && errno != EEXIST)
			return -1;
		if (write_one(dir, i, O_CREAT | O_TRUNC, bytes) < 0)
			return -1;
	}
	return 0;
}

static int append_all(int dir, int count)
{
	for (int i = 0; i < count; i++) {
		if (write_one(dir, i, O_APPEND, 8) < 0)
			return -1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	int count = atoi(argv[3]), bytes = argc > 4 ? atoi(argv[4]) : 0;
	bool make = strcmp(argv[1], "make") == 0;
	if (count < 0 || bytes < 0 || bytes > BYTES_MAX)
		return 2;
	if (make && mkdir(argv[2], 0755) < 0 && errno != EEXIST)
		return 1;
	int dir = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return 1;
	return (make ? make_all(dir, count, (size_t)bytes) : append_all(dir, count)) < 0;
}
