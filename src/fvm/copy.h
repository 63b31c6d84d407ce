/*
 * fvm/copy - files carried into a running VM, out of it, or from one to another
 *
 * Theory of operation
 *   One side walks a tree and writes it to a pipe as records, the other makes it again. Inside a VM
 *   that is a session of PID 1 which executes nothing: so it works whatever the VM's programs have
 *   become, sees the VM's files by the VM's own paths, and has the rights of the user it runs as.
 *   The receiver believes nothing: names are single components, lengths are checked, every name is
 *   looked up below a descriptor without following a link, and a file comes into being under a
 *   temporary name, which replaces what was there. Of modes only the permissions and the sticky
 *   bit pass. What is no file, directory or link is left out with a note.
 *   Holes stay holes. Hard links become separate files; extended attributes are not carried.
 */
#ifndef FVM_COPY_H
#define FVM_COPY_H

#include <limits.h>

#include "fvm/init.h"

enum fvm_copy_flags {
	FVM_COPY_OWNERS = 1, /* give files to the owners they had */
	FVM_COPY_STDIO = 2,  /* outside only: one file from stdin, or to stdout; path is ignored */
};

struct fvm_copy {
	int fd; /* the pipe; taken over and closed */
	unsigned int flags;
	/* something to tell, which the copy goes on after; may be NULL */
	void (*note)(void *arg, const struct fvm_error *err);
	/* @bytes of contents so far; may be NULL */
	void (*progress)(void *arg, uint64_t bytes);
	void *arg;
	bool noted; /* something could not be copied */
	/* receiving: the path that was asked for; the stream may have no other name. NULL: any */
	const char *source;
};

/** fvm_copy_send() - write what is at @path to copy->fd; a path that ends in "/." means the
 * contents Return: 0 or negative errno (-EPIPE: the receiver has gone, and knows why) */
int fvm_copy_send(struct fvm_copy *copy, const char *path, struct fvm_error *err);

/** fvm_copy_receive() - make what comes from copy->fd at @path, or in it if it is a directory
 *  Return: 0 or negative errno (-EPIPE: the sender has gone, and knows why) */
int fvm_copy_receive(struct fvm_copy *copy, const char *path, struct fvm_error *err);

/** fvm_copy_name() - what the receiver is to call @path: its last component; "" for the contents of
 *  a directory */
void fvm_copy_name(const char *path, char name[NAME_MAX + 1]);

/** fvm_copy_helper() - the side inside a VM: argv is a path and the flags as a number; the stream
 * is stdin or stdout, notes and errors go to stderr as struct fvm_error. Return: exit status */
int fvm_copy_helper(const struct fvm_command *c);

/* ---- the stream ---- */

#define FVM_COPY_MAGIC 0x31435646u /* "FVC1" */
#define FVM_COPY_PIECE 65536u

enum fvm_copy_type { FVM_COPY_FILE = 1, FVM_COPY_DIR, FVM_COPY_LINK, FVM_COPY_UP, FVM_COPY_DONE };

struct fvm_copy_record { /* then the name, then a link's target, neither with its NUL */
	uint32_t magic, type, mode, uid, gid, mtime_ns;
	int64_t mtime_s;
	uint32_t name_len, target_len;
};

struct fvm_copy_piece { /* of a file, in order; len 0 ends it: offset is its size */
	uint64_t offset;
	uint32_t len, failed; /* failed: the file could not be read to its end */
};

#endif
