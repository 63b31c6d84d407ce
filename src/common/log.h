/*
 * common/log - what a loop or a main() tells, once, where it deals with it
 *
 * Error: we gave up. Warning: we went on. Info: an operator would ask. Debug: we would.
 * Lines go to stderr as "PROGRAM: text"; the level is the program's one piece of global state.
 */
#ifndef FVM_COMMON_LOG_H
#define FVM_COMMON_LOG_H

enum fvm_log_level { FVM_LOG_ERROR, FVM_LOG_WARN, FVM_LOG_INFO, FVM_LOG_DEBUG };

extern enum fvm_log_level fvm_log_level;

void fvm_log(enum fvm_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) fvm_log(FVM_LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  fvm_log(FVM_LOG_WARN, __VA_ARGS__)
#define log_info(...)  fvm_log(FVM_LOG_INFO, __VA_ARGS__)
#define log_debug(...) fvm_log(FVM_LOG_DEBUG, __VA_ARGS__)

#endif
