/*
 * cli/paths - paths that were typed, as the VM sees them
 */
#ifndef FVM_CLI_PATHS_H
#define FVM_CLI_PATHS_H

#include "common/common.h"

/**
 * cli_paths_make() - absolute paths from operands
 *
 * Relative ones start at the working directory. "." and ".." are taken out; directories that are
 * symlinks on the host are resolved (a change of /bin/x is found under /usr/bin/x), links
 * of root and of the caller, that is, as no one else decides what is meant. The last
 * component is left as it is, because it may be the symlink itself that changed.
 * Return: 0, -EINVAL, -ENOMEM
 */
int cli_paths_make(int count, char **paths, struct fvm_strv *ret, struct fvm_error *err);

#endif
