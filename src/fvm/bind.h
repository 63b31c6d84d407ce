/*
 * fvm/bind - parts of the host that a VM shares: written through, or read
 *
 * Theory of operation
 *   --bind S[:D][:ro]  the host's S is seen at D (S itself if not given), written through
 *   --direct P         the same as --bind P
 *   read-only = P      (policies) the VM's own view of P, which it can not change
 *   ':' and '\' in a path are written "\:" and "\\".
 *
 *   A bind is a hole in the VM's confinement by the user's wish, so what would make it a larger one
 *   than it looks is refused before anything starts: system directories as a whole, a store, kernel
 *   file systems, paths of which one lies below the other with another meaning, hidden paths. What
 *   is bound is idmapped, so that files get the owner on the host that they have inside; nosuid,
 *   nodev always. A socket or FIFO of the host below it stays connected: that is what the manual
 *   says of it.
 */
#ifndef FVM_BIND_H
#define FVM_BIND_H

#include "fvm/config.h"

struct fvm_bind {
	char *source; /* absolute path on the host */
	char *target; /* absolute path in the VM */
	bool read_only;
};

void fvm_bind_free(struct fvm_bind *b);
#define scoped_bind __attribute__((cleanup(fvm_bind_free))) struct fvm_bind

/** fvm_path_check() - that a path is absolute and has no "." or ".." nor empty component (a last
 *  slash is fine). Return: 0 or -EINVAL with the reason */
int fvm_path_check(const char *path, struct fvm_error *err);

/** fvm_path_take() - the first part of an option's value: up to a ':' that is not written "\:", or
 *  the end. @to: room for all of @text. Return: what follows the ':', or NULL at the end */
const char *fvm_path_take(const char *text, char *to);

/** fvm_path_cut_slash() - without the slash at its end; "/" stays */
void fvm_path_cut_slash(char *path);

/** fvm_bind_parse() - read "S[:D][:ro]". Return: 0, -ENOMEM or -EINVAL with an example */
int fvm_bind_parse(const char *text, struct fvm_bind *ret, struct fvm_error *err);

struct fvm_binds {
	struct fvm_bind *items; /* sorted by target: what is above comes first */
	size_t count;
};

void fvm_binds_free(struct fvm_binds *b);
#define scoped_binds __attribute__((cleanup(fvm_binds_free))) struct fvm_binds

/**
 * fvm_binds_list() - binds, direct and read-only paths of a configuration, checked together
 * @store: the store in use, which can't be bound
 * read-only paths have no source. Return: 0, or -EINVAL with the two that disagree
 * Paths are taken literally; what they are is seen when they are mounted.
 */
int fvm_binds_list(const struct fvm_config *config, const char *store, struct fvm_binds *ret,
		   struct fvm_error *err);

struct fvm_hide;

/** fvm_binds_check() - that nothing hidden would be seen through a bind. Return: 0 or -EINVAL */
int fvm_binds_check(const struct fvm_binds *binds, const struct fvm_hide *hide,
		    struct fvm_error *err);

/** fvm_bind_check_real() - what its source led to when it was opened, as @real: may that be shared?
 */
int fvm_bind_check_real(const struct fvm_bind *b, const char *real, const char *store,
			const struct fvm_hide *hide, struct fvm_error *err);

#endif
