/* A board: a page of a file, on which programs write, and those who are made of them again. */
#ifndef FVM_TESTS_BOARD_H
#define FVM_TESTS_BOARD_H

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define BOARD_BYTES 4096

/* @path: as mkstemp(3) takes it. Return: MAP_FAILED when there can be none */
static void *board_open(char *path)
{
	int fd = mkstemp(path);
	if (fd < 0 || ftruncate(fd, BOARD_BYTES) < 0)
		return MAP_FAILED;
	void *board = mmap(NULL, BOARD_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return board;
}

static int board_close(void *board, const char *path)
{
	munmap(board, BOARD_BYTES);
	return unlink(path);
}

#endif
