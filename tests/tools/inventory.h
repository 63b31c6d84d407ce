/*
 * tests/inventory - all that is on a machine, as lines that diff(1) can compare
 *
 * Theory of operation
 *   inventory_files() walks chosen roots by descriptor, in sorted order, and prints one line per
 *   path: type, mode, owner, links, size, mtime, extended attributes, digest or target. Other
 *   names of a file seen before are printed as "=FIRST NAME", so that hard links count.
 *   inventory_system() prints what is no file: mounts, network links, nftables, cgroups, foreign
 *   namespaces, System V IPC objects, loop devices.
 *   Digests are kept in a cache by device, inode, size, mtime and ctime. The last can't be set
 *   back by anybody, so that a cached digest is as good as a fresh one.
 */
#ifndef FVM_TESTS_INVENTORY_H
#define FVM_TESTS_INVENTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#define INVENTORY_DIGEST 65 /* hexadecimal SHA-256 and NUL */

struct inventory_options {
	const char *cache;    /* file that keeps digests, or NULL */
	const char **exclude; /* absolute paths left out with all below them */
	size_t exclude_count;
	bool one_fs;	      /* do not cross into other file systems */
	bool no_times;	      /* leave mtime out */
	bool blocks;	      /* print blocks used: sparse files differ */
};

/** inventory_files() - print everything at and below @root. Return: 0, or 1 after a message */
int inventory_files(const char *root, const struct inventory_options *options);

/** inventory_system() - print what is no file. Return: 0 */
int inventory_system(void);

/** inventory_nft() - print tables, chains, sets and rules of nftables. Return: 0 */
int inventory_nft(void);

/** inventory_name() - print a name with control characters, spaces and backslashes as \xNN */
void inventory_name(const char *name);

/** inventory_cache_load() / _save() - digests from and to @path */
void inventory_cache_load(const char *path);
int inventory_cache_save(const char *path);

/** inventory_digest() - SHA-256 of the open file @fd in hexadecimal, by the cache where it has it
 *  Return: 0 or negative errno */
int inventory_digest(int fd, const struct stat *st, char ret[INVENTORY_DIGEST]);

#endif
