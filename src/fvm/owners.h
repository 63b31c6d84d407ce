/*
 * fvm/owners - the owner, mode and device a path of a rootless VM was meant to have
 *
 * Theory of operation
 *   Without privileges every file of a layer belongs to the user, or to one of his subordinate ids.
 *   What a program in the VM asked for beyond that (chown to another id, set-id bits, a device
 *   node) is answered with success and kept here for stat, diff, export and a commit by root:
 *
 *     on the file    xattr user.fvm.owner = "UID:GID[:MODE[:MAJOR.MINOR]]"
 *     in a list      FS/+owners, for what can't carry user.* xattrs: symlinks, FIFOs, sockets
 *
 *     on the file    the same xattr = "host": adopted from the host, whose owner of it has no
 *                    place in the VM and is not known there
 *
 *   UID and GID are decimal, as seen in the VM (which are the host's numbers); MODE is octal and a
 *   whole st_mode when it has type bits: a character device wished for is a regular, empty file
 *   with mode 020644 and its device number. FS is the directory "fs" of a workspace or of a frozen
 *   layer (fvm_disk_open()): no mount key begins with "+", and the list moves with the files. One
 *   line each, appended; the last line of a path counts:
 *
 *     fvm-owners 1                the format, at the top
 *     map u VM HOST COUNT         the ids of the VM's user namespace, once at the top; without
 *     map g VM HOST COUNT         any, all of them are the user's one id
 *     own UID:GID[:...] INO KEY/REL
 *
 *   INO is the inode number in the layer, so that a line does not outlive its file (0: any). REL
 *   is the path below the mount; bytes up to space, 0x7f and backslash stand as \ooo.
 *
 *   A file without a record: its disk id is translated by the map. Where that gives VM root with
 *   one id only, it says nothing: it is then the base file's owner, or for a new file that of the
 *   directory it lies in when this is not root's (the group too), else root. That makes files in
 *   the user's home his own, and those in /var/lib/postgresql postgres'. With a range that holds
 *   for what is the user's on the host, or new; root's files stay root's. But where the base's
 *   owner has no id in the VM, or lies where no skeleton tells who that is, VM root's copy of it
 *   is not root's: nobody has said so. It keeps the base's owner. What is "host" and was moved
 *   away from there has an unknown owner, whom commit refuses to guess.
 *   All of this comes from programs in the VM: a wish to be checked, never a permission.
 */
#ifndef FVM_OWNERS_H
#define FVM_OWNERS_H

#include <stdbool.h>
#include <sys/stat.h>

#include "common/common.h"

#define FVM_OWNER_XATTR	  "user.fvm.owner"
#define FVM_OWNERS_FILE	  "+owners"
#define FVM_OWNERS_HEAD	  "fvm-owners 1\n" /* its first line: the number of its format */

#define FVM_OWNER_OF_HOST "host"
#define FVM_OWNER_UNKNOWN ((uid_t)-1) /* in a struct stat */

struct fvm_owner {
	uid_t uid;
	gid_t gid;
	mode_t mode; /* 0: the inode's */
	dev_t rdev;
	bool has_mode;
};

struct fvm_owners;

/**
 * fvm_owners_load() - read the list of a rootless VM's layer
 * @fs: its directory "fs"
 * Return: 0 with *@ret to be freed by fvm_owners_free() (an empty record when there is no list),
 *         -EBADMSG with the line, or negative errno
 */
int fvm_owners_load(int fs, struct fvm_owners **ret, struct fvm_error *err);

/** fvm_owners_read() - the same from the list's descriptor */
int fvm_owners_read(int list, struct fvm_owners **ret, struct fvm_error *err);
void fvm_owners_free(struct fvm_owners *owners);

/** fvm_owner_parse() - read "UID:GID[:MODE[:MAJOR.MINOR]]". Return: 0 or -EINVAL */
int fvm_owner_parse(const char *text, size_t len, struct fvm_owner *ret);

/** fvm_owner_format() - the inverse; 64 bytes are enough */
void fvm_owner_format(const struct fvm_owner *owner, char *ret, size_t size);

/** fvm_owners_line() - append the line for KEY/REL to @ret, ready for the list */
void fvm_owners_line(struct fvm_buf *ret, const struct fvm_owner *owner, ino_t ino, const char *key,
		     const char *rel);

/**
 * fvm_owners_find() - what the list says of a path with that inode, also when it had another KEY
 * then, as a mount has come or gone since. Return: NULL if nothing; @owners may be NULL
 */
const struct fvm_owner *fvm_owners_find(const struct fvm_owners *owners, const char *key,
					const char *rel, ino_t ino);

/** fvm_owners_maps() - append the list's head and lines of ids, for a list of the same files
 * elsewhere */
void fvm_owners_maps(const struct fvm_owners *owners, struct fvm_buf *ret);

/**
 * fvm_owners_apply() - replace owner, mode and device in @st by the wished ones
 * @dir, @name: the entry in the layer
 * @key, @rel:  its mount and its path below that
 * @base:       the base's entry, NULL if none
 * @parent:     the directory it lies in, with its wished owner; NULL for a mount's root
 */
void fvm_owners_apply(const struct fvm_owners *owners, int dir, const char *name, const char *key,
		      const char *rel, const struct stat *base, const struct stat *parent,
		      struct stat *st);

#endif
