/*
 * What root's start can look up before there is a VM.
 *
 * The host's mounts and the secrets to hide depend on a few options only, and to find them takes as
 * long as to make the VM's directory, and to take its locks, slot and cgroups. So a thread does it
 * meanwhile. It is to find nothing but the usual: where it fails, or where policies hide something
 * else, all is looked up again by the starter, which can tell what went wrong.
 */
#include <stdlib.h>
#include <string.h>

#include "fvm/base.h"
#include "fvm/start_priv.h"

struct fvm_lookout {
	pthread_t thread;
	bool joined;
	const struct fvm_store *store;
	const struct fvm_config *config; /* of which nothing changes that hides */
	struct fvm_plan plan;
	struct fvm_hide hide;
	int hide_shared;
	int result;
};

static void *look(void *arg)
{
	struct fvm_lookout *l = arg;
	int r = start_look(l->config, l->store->path, &l->plan, &l->hide, NULL);
	if (r == 0)
		l->hide_shared = fvm_hide_shared(l->store->run, &l->hide, &l->plan);
	l->result = r;
	return NULL;
}

struct fvm_lookout *fvm_lookout_begin(const struct fvm_store *store,
				      const struct fvm_config *config)
{
	struct fvm_lookout *l = calloc(1, sizeof(*l));
	if (!l)
		return NULL;
	*l = (struct fvm_lookout){ .store = store, .config = config, .hide_shared = -1 };
	if (fvm_thread_start_apart(&l->thread, look, l) == 0)
		return l;
	free(l);
	return NULL;
}

static void lookout_join(struct fvm_lookout *l)
{
	if (!l->joined)
		pthread_join(l->thread, NULL);
	l->joined = true;
}

void fvm_lookout_free(struct fvm_lookout *l)
{
	if (!l)
		return;
	lookout_join(l);
	fvm_plan_free(&l->plan);
	fvm_hide_free(&l->hide);
	fvm_fd_closep(&l->hide_shared);
	free(l);
}

static bool same_strings(const struct fvm_strv *a, const struct fvm_strv *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++) {
		if (strcmp(a->items[i], b->items[i]) != 0)
			return false;
	}
	return true;
}

/* All that fvm_hide_plan() asks of them. */
static bool hide_the_same(const struct fvm_config *a, const struct fvm_config *b)
{
	return a->net == b->net && a->secrets == b->secrets && a->no_secrets == b->no_secrets &&
	       same_strings(&a->show, &b->show) && same_strings(&a->hide, &b->hide) &&
	       same_strings(&a->direct, &b->direct) && same_strings(&a->binds, &b->binds);
}

bool start_take_lookout(struct start *s)
{
	struct fvm_lookout *l = s->options->lookout;
	if (!l || l->joined)
		return false;
	lookout_join(l);
	if (l->result < 0 || !hide_the_same(l->config, &s->vm->config))
		return false;
	s->plan = l->plan;
	s->hide = l->hide;
	s->hide_shared = l->hide_shared;
	l->plan = (struct fvm_plan){ 0 };
	l->hide = (struct fvm_hide){ 0 };
	l->hide_shared = -1;
	return true;
}
