/*
 * common/fd - descriptors that close themselves, and names looked up once
 *
 * Theory of operation
 *   A name is resolved once, below a directory descriptor; what we hold afterwards stays ours
 *   whatever a guest renames. Every descriptor is close-on-exec from birth.
 *   scoped_fd closes at the end of the scope any value >= 0; fvm_fd_closep() does so before, and
 *   fvm_fd_take() gives it away: both leave -1.
 */
#ifndef FVM_COMMON_FD_H
#define FVM_COMMON_FD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

void fvm_fd_closep(int *fd);
#define scoped_fd __attribute__((cleanup(fvm_fd_closep))) int

/** fvm_fd_take() - pass ownership on; *@fd is -1 afterwards */
int fvm_fd_take(int *fd);

/** fvm_close_range() - close all descriptors from @first to @last, those we know nothing of too */
void fvm_close_range(unsigned int first, unsigned int last);

/** fvm_raise_descriptors() - allow ourselves as many as the hard limit does
 *  @was: the limits before, untouched when they can't be read; may be NULL */
struct rlimit;
void fvm_raise_descriptors(struct rlimit *was);

/** fvm_null_stdio() - descriptors 0 to 2 become /dev/null: out of any terminal's reach */
void fvm_null_stdio(void);

/**
 * fvm_open_beneath() - open @path, which can not lead out of @dir
 * @flags: as open(2); O_CLOEXEC is added. Symlinks are followed while they stay beneath.
 * Return: descriptor, or negative errno (-EXDEV: it leads out)
 */
int fvm_open_beneath(int dir, const char *path, int flags);

/** fvm_open_nofollow() - as fvm_open_beneath(), and no symlink anywhere is followed (-ELOOP) */
int fvm_open_nofollow(int dir, const char *path, int flags);

/** fvm_open_same_mount() - as fvm_open_nofollow(), and no mount is entered (-EXDEV) */
int fvm_open_same_mount(int dir, const char *path, int flags);

/** fvm_create_beneath() - as fvm_open_beneath() with O_CREAT and @mode */
int fvm_create_beneath(int dir, const char *path, int flags, mode_t mode);

/** fvm_write_all() - write @len bytes, however often it takes. Return: 0 or negative errno */
int fvm_write_all(int fd, const void *buf, size_t len);

/** fvm_read_full() - read until @len bytes or end. Return: bytes read, or negative errno */
ssize_t fvm_read_full(int fd, void *buf, size_t len);

/**
 * fvm_read_file() - the whole of a small file as a string
 * @limit:   longest file accepted, in bytes
 * @ret_len: length without the added NUL; may be NULL
 * Return: 0 with *@ret_buf to free(), or negative errno (-EFBIG above @limit)
 */
int fvm_read_file(int dir, const char *path, size_t limit, char **ret_buf, size_t *ret_len);

/** fvm_write_file() - write a string to an existing file such as a cgroup's. Return: 0 or -errno */
int fvm_write_file(int dir, const char *path, const char *text);

/**
 * fvm_write_file_atomic() - replace a file whole: temporary, [fsync,] rename[, fsync of @dir]
 * @sync: whether it must survive a power cut when this returns
 * The temporary is ".NAME.PID.tmp"; its writer holds flock(2) on it.
 * Return: 0 or negative errno; the old file is untouched on failure
 */
int fvm_write_file_atomic(int dir, const char *name, const void *buf, size_t len, bool sync);

/** fvm_remove_leftovers() - delete temporaries in @dir whose writers were killed */
void fvm_remove_leftovers(int dir);

/**
 * fvm_remove_tree() - delete @name below @dir and all it holds, whatever that is
 * Walks by descriptor, follows nothing, crosses no mount, makes mode-000 directories enterable, and
 * holds a few descriptors however deep the tree is.
 * Return: 0 (also when there was nothing), or negative errno (-EBUSY or -EXDEV at a mount point)
 */
int fvm_remove_tree(int dir, const char *name);

/** fvm_remove_tree_told() - the same, calling @fn now and then with the names deleted so far */
typedef void (*fvm_remove_fn)(void *arg, unsigned long long done);
int fvm_remove_tree_told(int dir, const char *name, fvm_remove_fn fn, void *arg);

/** fvm_mkdir_p() - mkdir -p of a relative @path below @dir. Follows symlinks: only for what no VM can
 *  write. Return: 0 or negative errno */
int fvm_mkdir_p(int dir, const char *path, mode_t mode);

/**
 * fvm_mkdir_nofollow() - mkdir -p of a relative @path below @dir that a VM may have filled
 * Return: descriptor (O_PATH) of the last directory, -ELOOP or -ENOTDIR where something else is in
 *         the way, or another negative errno
 */
int fvm_mkdir_nofollow(int dir, const char *path, mode_t mode);

/** fvm_send_fds() - send @len bytes and @n descriptors over a unix socket. Return: 0 or -errno */
int fvm_send_fds(int sock, const void *buf, size_t len, const int *fds, size_t n);

/** fvm_sendv_fds() - the same of a message in @pieces pieces */
struct iovec;
int fvm_sendv_fds(int sock, const struct iovec *iov, size_t pieces, const int *fds, size_t n);

/**
 * fvm_recv_fds() - receive one message and at most @max descriptors (close-on-exec)
 * @ret_n: how many came; those beyond @max are closed
 * Return: message length (0: peer is gone), or negative errno (-EMSGSIZE: longer than @len)
 */
ssize_t fvm_recv_fds(int sock, void *buf, size_t len, int *fds, size_t max, size_t *ret_n);

#endif
