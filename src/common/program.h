/*
 * common/program - fvm is two programs: the one that each start needs, and fvm-changes
 */
#ifndef FVM_COMMON_PROGRAM_H
#define FVM_COMMON_PROGRAM_H

/** fvm_exec_part() - become fvm-changes with @argv. Return: negative errno if that failed */
int fvm_exec_part(char **argv);

#endif
