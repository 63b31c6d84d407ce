/*
 * vin/search - names of files of which only the inode is known
 *
 * Theory of operation
 *   Who watches a file (inotify, fanotify) keeps no name of it, and the kernel tells its file
 *   system, inode and handle only; of an open file it tells the name by which it was opened, which
 *   may be gone while another one is left (link(2)). What is sought is found, in this order:
 *     open    among the programs' open files: it may have no name any more
 *     handle  open_by_handle_at(2) leads to it, for the host's root on most file systems
 *     walk    breadth first through the mounts of that file system, beginning with the directories
 *             that the programs have open or stand in; all that is sought is found in one walk. Of
 *             most entries only the number that readdir(3) tells is looked at
 *   A name that was found is tried: name_to_handle_at(2) has to give the same handle, which is of
 *   one inode and never of another one later.
 * Limits: a walk ends after VIN_WALK_MAX entries; what is below a directory that the caller may not
 * read is not found. On a file system without handles (before Linux 6.5, overlays) number and device
 * of stat(2) have to do.
 * Sources: name_to_handle_at(2), proc_pid_fdinfo(5), proc_pid_mountinfo(5).
 */
#ifndef VIN_SEARCH_H
#define VIN_SEARCH_H

#include "vin/files.h"

#define VIN_WALK_MAX 400000

struct vin_sought {
	struct vin_mark mark;
	pid_t pid;   /* whose mounts to look in */
	bool found;  /* by its name, or: */
	char *name;
	size_t file; /* id of the open file that it is, when it has no name */
};

struct vin_sought_list { /* starts as { 0 } */
	struct vin_sought *list;
	size_t count;
};

void vin_sought_free(struct vin_sought_list *s);

/**
 * vin_search() - find what all marks of inodes in @f are of; what is not found has no name
 * @before: what an earlier search found, which is tried first; may be NULL
 * Return: 0, or negative errno
 */
int vin_search(const struct vin_files *f, const struct vin_sought_list *before,
	       struct vin_sought_list *ret);

/** vin_sought_find() - what was found of @mark; NULL: nothing */
const struct vin_sought *vin_sought_find(const struct vin_sought_list *s,
					 const struct vin_mark *mark);

/** vin_sought_any() - whether names are to be searched for because of @o */
bool vin_sought_any(const struct vin_files *f, const struct vin_open *o);

/** vin_sought_name() - the name that was found of an open file; NULL: none */
const char *vin_sought_name(const struct vin_sought_list *s, const struct vin_open *o);

#endif
