/*
 * fvm/meaning - what changes of files mean to the person who runs the machine
 *
 * Theory of operation
 *   Every change is shown to each kind of the table in meaning.c. A kind knows by the path whether
 *   it is concerned, reads both sides, compares them in its own terms and adds *facts*: package
 *   hello 2.10-3 added, user bob added, unit nginx.service enabled, set-id bit gained by
 * /usr/bin/x. At the end facts are sorted by kind and name; something removed and added under the
 * same name becomes one change. Facts that give somebody power over the machine are marked
 * alarming.
 *
 *   What is read was written by programs in the VM: parsers take any bytes, and names are quoted by
 *   who prints them.
 *   Limits: rpm's database is only said to have changed; listening ports are known of a running VM
 *   alone (fvm inspect); texts above 64 MiB are not looked into.
 */
#ifndef FVM_MEANING_H
#define FVM_MEANING_H

#include "fvm/changes.h"

enum fvm_fact_change { FVM_FACT_REMOVED, FVM_FACT_ADDED, FVM_FACT_CHANGED };

struct fvm_fact {
	const char *kind; /* "package", "user", ...: static text */
	enum fvm_fact_change change;
	bool alarming;
	char *name;
	char *from, *to; /* version, value; NULL: none */
};

struct fvm_meaning;

/** fvm_meaning_new() - an empty collection; NULL when out of memory */
struct fvm_meaning *fvm_meaning_new(void);
void fvm_meaning_free(struct fvm_meaning *m);

/** fvm_meaning_take() - look at one change, from within the call-back that got it.
 *  The scan must have whole_trees set. Return: 0 or -errno */
int fvm_meaning_take(struct fvm_meaning *m, const struct fvm_change *change);

/** fvm_meaning_facts() - sort and merge what was found; valid until fvm_meaning_free() */
int fvm_meaning_facts(struct fvm_meaning *m, const struct fvm_fact **ret, size_t *ret_count);

#endif
