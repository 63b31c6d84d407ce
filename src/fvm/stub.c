/* TEMPORARY: stands in for parts that have not landed. When you land the real thing, delete your
 * functions here (and the file with its last one). */
#include <unistd.h>
#include <stdlib.h>
#include <errno.h>
#include <stdio.h>
#include <poll.h>
#include <sys/wait.h>
#include <sys/prctl.h>
#include "fvm/init.h"
#include "fvm/net.h"
#include "fvm/seccomp.h"
#include "fvm/store.h"
#include "fvm/changes.h"
void fvm_net_detach_slot(uint32_t s)
{
	(void)s;
}
void fvm_net_detach(const struct fvm_net *n)
{
	(void)n;
}
void fvm_net_free(struct fvm_net *n)
{
	(void)n;
}
int fvm_net_prepare(uint32_t s, const struct fvm_config *c, struct fvm_net *r, struct fvm_error *e)
{
	(void)s;
	(void)c;
	(void)r;
	(void)e;
	return 0;
}
int fvm_net_attach(const struct fvm_net *n, int a, pid_t p, struct fvm_error *e)
{
	(void)n;
	(void)a;
	(void)p;
	(void)e;
	return 0;
}
int fvm_net_inside(const struct fvm_net *n, struct fvm_error *e)
{
	(void)n;
	(void)e;
	return 0;
}
int fvm_net_lo_up(struct fvm_error *e)
{
	(void)e;
	return 0;
}
int fvm_port_parse(const char *t, struct fvm_port *p, struct fvm_error *e)
{
	(void)t;
	(void)p;
	(void)e;
	return 0;
}
const struct fvm_filter *fvm_filter_get(bool a, bool b)
{
	(void)a;
	(void)b;
	return NULL;
}
void fvm_command_free(struct fvm_command *c)
{
	fvm_strv_free(&c->argv);
	fvm_strv_free(&c->env);
	free(c->workdir);
}
int fvm_changes_any(const struct fvm_vm *v, struct fvm_error *e)
{
	(void)v;
	(void)e;
	return 0;
}
int fvm_control_connect(const struct fvm_vm *v, struct fvm_error *e)
{
	(void)v;
	(void)e;
	return -1;
}
int fvm_control_run(int s, const struct fvm_command *c, int *r, struct fvm_error *e)
{
	(void)s;
	(void)c;
	(void)r;
	(void)e;
	return -1;
}
int fvm_client_stdio(struct fvm_command *c, enum fvm_tty t, struct fvm_error *e)
{
	(void)t;
	(void)e;
	c->terminal = false;
	for (int i = 0; i < 3; i++)
		c->fds[i] = i;
	return 0;
}
int fvm_client_stream(int s, int p, bool t, int *st, struct fvm_error *e)
{
	(void)s;
	(void)t;
	(void)st;
	(void)e;
	struct pollfd q = { .fd = p, .events = POLLIN };
	while (poll(&q, 1, -1) < 0)
		;
	return 0;
}
_Noreturn void fvm_init_main(const struct fvm_init_args *a)
{
	prctl(PR_SET_DUMPABLE, 0);
	pid_t p = fork();
	if (p == 0) {
		if (chdir(a->first->workdir) < 0) {
		}
		(void)!setgid(a->first->gid);
		(void)!setuid(a->first->uid);
		execvpe(a->first->argv.items[0], a->first->argv.items, a->first->env.items);
		struct fvm_error e = { 0 };
		fvm_error_set(&e, errno, "exec %s", a->first->argv.items[0]);
		(void)!write(a->report, &e, sizeof e);
		_exit(127);
	}
	close(a->report);
	int st;
	pid_t q;
	while ((q = wait(&st)) != p && q > 0)
		;
	_exit(WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st));
}
