/*
 * fvm/frames - the directories a scan stands in, from a mount's root down (internal to the scan)
 *
 * Theory of operation
 *   A frame is one directory of the merged view: the layers that have it (its levels, the highest
 *   first, down to the first that hides what is below), and the base's. frames_push() reads and
 *   sorts the names of all levels; equal names stand beside each other and make one group.
 *
 *     names of a frame:   bin(0)  bin(2)  etc(1)  lib(BASE)  ...      (level in brackets)
 *                         `--- group --'
 *
 *   Trees may be nested deeper than there are descriptors. Beyond a window of the last frames only
 *   every window-th keeps its directories open; the others are opened again, from the nearest open
 *   ancestor, when the scan comes back to them, and must still be the same inodes.
 */
#ifndef FVM_FRAMES_H
#define FVM_FRAMES_H

#include "fvm/changes.h"

#define FVM_LEVEL_BASE UINT16_MAX

struct fvm_level {
	int fd;
	size_t layer;	 /* index into the stack's layers */
	bool xwhiteouts; /* entries may be whiteouts in the form of xattrs */
	dev_t dev;
	ino_t ino;
};

struct fvm_name {
	union {
		const char *text;
		size_t offset; /* only while names are being read */
	};
	uint16_t level; /* index into levels, or FVM_LEVEL_BASE */
};

struct fvm_frame {
	size_t path_len; /* length of the path up to and with this directory */
	struct fvm_level *levels;
	size_t level_count;
	int base;      /* O_PATH; -1: the base has no such directory */
	bool has_base; /* also while closed */
	bool hidden;   /* nothing of the base shines through: names of the base are listed too */
	bool closed;
	dev_t base_dev;
	ino_t base_ino;
	struct stat now; /* with the wished owner */
	char *arena;	 /* the names' bytes */
	struct fvm_name *names;
	size_t name_count, next;
};

struct fvm_frames {
	struct fvm_frame *items;
	size_t count, room;
	size_t window; /* frames kept open; set before the first push */
	char *dents;   /* buffer for getdents64() */
};

void fvm_frames_free(struct fvm_frames *f);

/**
 * fvm_frames_push() - enter a directory and read its names
 * @frame: levels (with descriptors), base, hidden, now, path_len are set; taken over in any case
 * Frames may move in memory: pointers got from fvm_frames_top() are no longer valid.
 * Return: 0 or -errno
 */
int fvm_frames_push(struct fvm_frames *f, const struct fvm_frame *frame);

/**
 * fvm_frames_top() - the frame to go on with, its directories open
 * @path: the scan's path, for opening closed frames again
 * Return: 0, -ESTALE (the tree changed meanwhile) or another -errno
 */
int fvm_frames_top(struct fvm_frames *f, const char *path, struct fvm_frame **ret);

/** fvm_frames_pop() - leave the top frame */
void fvm_frames_pop(struct fvm_frames *f);

#endif
