/*
 * fvm/meaning_priv - what the kinds of meaning share
 */
#ifndef FVM_MEANING_PRIV_H
#define FVM_MEANING_PRIV_H

#include "fvm/meaning.h"
#include "fvm/sides.h"

#define FVM_MEANING_TEXT_MAX (64UL << 20)

/* A kind looks at every change, and quickly passes over those that don't concern it. */
typedef int (*fvm_meaning_fn)(struct fvm_meaning *m, const struct fvm_change *c);

int fvm_meaning_packages(struct fvm_meaning *m, const struct fvm_change *c);
int fvm_meaning_modules(struct fvm_meaning *m, const struct fvm_change *c); /* pip, npm */
int fvm_meaning_accounts(struct fvm_meaning *m, const struct fvm_change *c);
int fvm_meaning_units(struct fvm_meaning *m, const struct fvm_change *c);
int fvm_meaning_settings(struct fvm_meaning *m, const struct fvm_change *c);
int fvm_meaning_powers(struct fvm_meaning *m, const struct fvm_change *c); /* set-id, caps */
int fvm_meaning_places(struct fvm_meaning *m, const struct fvm_change *c);

/** fvm_fact_add() - add a fact; strings are copied, @from and @to may be NULL. 0 or -ENOMEM */
int fvm_fact_add(struct fvm_meaning *m, const char *kind, enum fvm_fact_change change,
		 const char *name, const char *from, const char *to);

/** fvm_fact_alarm() - mark the fact that was added last */
void fvm_fact_alarm(struct fvm_meaning *m);

/** fvm_fact_change() - a change of a file in terms of facts */
enum fvm_fact_change fvm_fact_change(const struct fvm_change *c);

/* A text as a sorted table of keys and values: one record per line or paragraph. */
struct fvm_record {
	char *key, *value; /* borrowed */
	size_t order;
};
struct fvm_records {
	struct fvm_record *list;
	size_t count, room;
};
void fvm_records_free(struct fvm_records *r);
#define scoped_records __attribute__((cleanup(fvm_records_free))) struct fvm_records
/** fvm_records_add() - Return: 0 or -ENOMEM */
int fvm_records_add(struct fvm_records *r, char *key, char *value);

/** fvm_records_compare() - sort both and call @fn for each key that one lacks (its value is NULL
 *  then) or whose values differ. Of equal keys in one table the last counts. */
int fvm_records_compare(struct fvm_records *was, struct fvm_records *now,
			int (*fn)(struct fvm_meaning *m, const char *key, const char *was,
				  const char *now, void *arg),
			struct fvm_meaning *m, void *arg);

/** fvm_line_next() - cut the next line off *@text. Return: it, NUL-terminated, or NULL at the end
 */
char *fvm_line_next(char **text);

#endif
