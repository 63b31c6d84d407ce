/*
 * tests/faults - what is killed, or fails, at one step of many: see common/fault.h
 *
 * These hooks are in a build for them only (meson -Dfaults=true); a test that needs them is built
 * only there.
 */
#ifndef FVM_TESTS_FAULTS_H
#define FVM_TESTS_FAULTS_H

#include <sys/wait.h>

#include "tests/box.h"

/**
 * faults_at() - run @act in a child
 * @visit:  which visit of any point, counted from 1, does @action ("kill", "enospc", "eio")
 * Return: the child's wait status, 0 when @act returned 0 or more
 */
static inline int faults_at(unsigned int visit, const char *action, int (*act)(const void *arg),
			    const void *arg)
{
	int status;
	pid_t child = fork();
	if (child == 0) {
		char rule[64];
		snprintf(rule, sizeof(rule), "*:%u:%s", visit, action);
		setenv("FVM_FAULT", rule, 1);
		fvm_log_level = FVM_LOG_ERROR;
		_exit(act(arg) < 0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	return status;
}

#endif
