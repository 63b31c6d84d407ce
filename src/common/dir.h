/*
 * common/dir - what lies in a directory, read by descriptor
 *
 * Theory of operation
 *   A stream of its own for each reader: dup() would share the position with whoever has the
 *   descriptor. scoped_dir closes at the end of the scope; NULL is no directory and no error.
 */
#ifndef FVM_COMMON_DIR_H
#define FVM_COMMON_DIR_H

#include <dirent.h>

void fvm_dir_closep(DIR **d);
#define scoped_dir __attribute__((cleanup(fvm_dir_closep))) DIR *

/** fvm_dir_open() - read the directory @path below @dir, as fvm_open_nofollow() finds it.
 *  Return: to closedir(), or NULL and errno */
DIR *fvm_dir_open(int dir, const char *path);

/** fvm_dir_take() - read the directory that @fd is, which is taken over, also on failure; @fd < 0
 *  is a failure of openat(2), whose errno stays. Return: to closedir(), or NULL and errno */
DIR *fvm_dir_take(int fd);

/** fvm_dir_next() - the next name but "." and "..". Return: until the next call, or NULL */
struct dirent *fvm_dir_next(DIR *d);

/** fvm_dir_filter() - for scandirat(3): all but "." and ".." */
int fvm_dir_filter(const struct dirent *e);

#endif
