#include <errno.h>
#include <stdlib.h>

#include "cli/diff.h"
#include "fvm/meaning.h"
#include "fvm/restarts.h"

struct meaning_state {
	struct fvm_meaning *meaning;
	struct fvm_strv paths; /* what running services may have open */
};

static void print_part(struct diff *d, const char *before, const char *text)
{
	if (text) {
		fputs(before, d->out);
		diff_quoted(d->out, "", text);
	}
}

/* "+ package hello 2.10-3", "~ package bash 5.2-1 -> 5.2-2", "+ set-id /usr/bin/x (user 0:0) !" */
static void print_fact(struct diff *d, const struct fvm_fact *f)
{
	static const char marks[] = "-+~";
	static const char *const colors[] = { "\033[31m", "\033[32m", "\033[33m" };
	fprintf(d->out, "%s%c%s %s ", d->color ? colors[f->change] : "", marks[f->change],
		d->color ? "\033[m" : "", f->kind);
	diff_quoted(d->out, "", f->name);
	if (f->from || f->to)
		putc(':', d->out);
	print_part(d, " ", f->from);
	print_part(d, f->from ? " -> " : " ", f->to);
	fprintf(d->out, "%s\n", f->alarming ? " (!)" : "");
}

static void json_fact(struct diff *d, const struct fvm_fact *f)
{
	static const char *const changes[] = { "removed", "added", "changed" };
	json_t *item = json_pack("{s:s, s:s, s:o?}", "kind", f->kind, "change", changes[f->change],
				 "name", diff_json_name(f->name));
	if (f->from)
		json_object_set_new(item, "from", diff_json_name(f->from));
	if (f->to)
		json_object_set_new(item, "to", diff_json_name(f->to));
	if (f->alarming)
		json_object_set_new(item, "alarming", json_true());
	diff_json(d, item);
}

static int meaning_change(struct diff *d, const struct fvm_change *c)
{
	struct meaning_state *s = d->state;
	if (!s) {
		s = d->state = calloc(1, sizeof(*s));
		if (!s || !(s->meaning = fvm_meaning_new()))
			return -ENOMEM;
	}
	int r = c->from ? 0 : fvm_meaning_take(s->meaning, c);
	if (r == 0 && fvm_restarts_concerns(c))
		r = fvm_strv_add(&s->paths, c->from ? c->from : c->path);
	return r;
}

static int print_restarts(struct diff *d, struct fvm_strv *paths)
{
	scoped_strv services = { 0 };
	int r = fvm_restarts_find(paths, false, &services);
	fvm_strv_each(&services, i) {
		const struct fvm_fact f = {
			.kind = "restart after commit",
			.change = FVM_FACT_CHANGED,
			.name = services.items[i],
		};
		if (d->cli->json)
			json_fact(d, &f);
		else
			print_fact(d, &f);
	}
	return r;
}

static int meaning_end(struct diff *d)
{
	struct meaning_state *s = d->state;
	const struct fvm_fact *facts;
	size_t count;
	if (!s)
		return 0;
	int r = fvm_meaning_facts(s->meaning, &facts, &count);
	for (size_t i = 0; r == 0 && i < count; i++) {
		if (d->cli->json)
			json_fact(d, &facts[i]);
		else
			print_fact(d, &facts[i]);
	}
	if (r == 0)
		r = print_restarts(d, &s->paths);
	fvm_meaning_free(s->meaning);
	fvm_strv_free(&s->paths);
	free(s);
	d->state = NULL;
	return r;
}

const struct diff_view diff_meaning = {
	.change = meaning_change,
	.end = meaning_end,
	.whole_trees = true,
	.waits = true,
};
