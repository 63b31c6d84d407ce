/*
 * seccomp-gen - src/fvm/seccomp.def -> filter programs as C arrays, at build time
 *
 * Theory of operation
 *   For each variant (io_uring or not, ...) and each architecture of this machine the lines that
 *   apply are grouped by system call number and sorted. The program is a binary search over the
 *   numbers; its leaves try the lines of one call in order. What no line is about falls through
 *   to ALLOW having looked at nothing but architecture and number: the kernel sees that when the
 *   filter is installed and skips it for these calls from then on. check_free() does what the
 *   kernel does, and the build fails where it would not see it.
 *   Names become numbers by libseccomp, which keeps those tables. The code is ours: libseccomp
 *   tests an argument once in a rule only, and by 64 bits where the kernel looks at 32.
 *   x32 calls, and other architectures than the two, do not exist (ENOSYS).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <sys/socket.h>

#include <seccomp.h>

#include "fvm/seccomp_lines.h"

static const struct line lines[] = {
#include "fvm/seccomp.def"
};

#define LINES (sizeof(lines) / sizeof(lines[0]))

struct program {
	struct sock_filter code[2048];
	size_t len;
};

/* All lines of one call, in the order of the file. */
struct group {
	unsigned int nr;
	const struct line *lines[16];
	size_t count;
};

static void die(const char *what, const char *name)
{
	fprintf(stderr, "seccomp-gen: %s%s\n", what, name);
	exit(1);
}

static struct sock_filter *emit(struct program *p, unsigned int code, uint32_t k, size_t jt,
				size_t jf)
{
	if (p->len == sizeof(p->code) / sizeof(p->code[0]) || jt > 255 || jf > 255)
		die("a program is too long", "");
	p->code[p->len] = (struct sock_filter)BPF_JUMP((unsigned short)code, k, (unsigned char)jt,
						       (unsigned char)jf);
	return &p->code[p->len++];
}

static void emit_load(struct program *p, size_t offset)
{
	emit(p, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void emit_ret(struct program *p, uint32_t action)
{
	emit(p, BPF_RET | BPF_K, action, 0, 0);
}

static size_t arg_offset(unsigned int arg, bool high)
{
	bool big = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__;
	return offsetof(struct seccomp_data, args) + 8 * (size_t)arg + (high != big ? 4 : 0);
}

/* ---- one line ---- */

/* Jumps that leave a line when a test fails; their targets are known at its end. */
struct exits {
	size_t at[16];
	bool when_true[16];
	size_t count;
};

static void leave(struct program *p, struct exits *x, uint32_t value, bool when_true)
{
	x->at[x->count] = p->len;
	x->when_true[x->count++] = when_true;
	emit(p, BPF_JMP | BPF_JEQ | BPF_K, value, 0, 0);
}

static void emit_test(struct program *p, const struct test *t, struct exits *x)
{
	emit_load(p, arg_offset(t->arg, false));
	switch (t->op) {
	case T_EQ:
		leave(p, x, t->value, false);
		break;
	case T_NE:
		leave(p, x, t->value, true);
		break;
	case T_BITS:
		emit(p, BPF_ALU | BPF_AND | BPF_K, t->mask, 0, 0);
		leave(p, x, t->value, false);
		break;
	case T_NOT_NULL: /* low word not zero: on, past the other word */
		emit(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 2);
		emit_load(p, arg_offset(t->arg, true));
		leave(p, x, 0, true);
		break;
	default:
		die("a test of unknown kind", "");
	}
}

static uint32_t action_of(const struct line *l)
{
	return l->kind == L_NOTIFY ? (uint32_t)SECCOMP_RET_USER_NOTIF
				   : SECCOMP_RET_ERRNO | (uint32_t)l->error;
}

static void emit_line(struct program *p, const struct line *l)
{
	struct exits x = { .count = 0 };
	for (size_t i = 0; i < LINE_TESTS && l->tests[i].op; i++)
		emit_test(p, &l->tests[i], &x);
	emit_ret(p, action_of(l));
	for (size_t i = 0; i < x.count; i++) {
		struct sock_filter *jump = &p->code[x.at[i]];
		size_t skip = p->len - x.at[i] - 1;
		if (skip > 255)
			die("too many tests: ", l->call);
		if (x.when_true[i])
			jump->jt = (unsigned char)skip;
		else
			jump->jf = (unsigned char)skip;
	}
}

/* ---- the search ---- */

static void emit_leaf(struct program *p, const struct group *g)
{
	emit(p, BPF_JMP | BPF_JEQ | BPF_K, g->nr, 1, 0);
	emit_ret(p, SECCOMP_RET_ALLOW);
	for (size_t i = 0; i < g->count; i++)
		emit_line(p, g->lines[i]);
	if (g->lines[g->count - 1]->tests[0].op)
		emit_ret(p, SECCOMP_RET_ALLOW);
}

static void emit_tree(struct program *p, const struct group *groups, size_t n)
{
	if (n == 0) {
		emit_ret(p, SECCOMP_RET_ALLOW);
		return;
	}
	if (n == 1) {
		emit_leaf(p, groups);
		return;
	}
	struct program *low = calloc(1, sizeof(*low));
	if (!low)
		die("out of memory", "");
	emit_tree(low, groups, n / 2);
	if (low->len <= 255) {
		emit(p, BPF_JMP | BPF_JGE | BPF_K, groups[n / 2].nr, low->len, 0);
	} else { /* farther than a condition can jump */
		emit(p, BPF_JMP | BPF_JGE | BPF_K, groups[n / 2].nr, 0, 1);
		emit(p, BPF_JMP | BPF_JA, (uint32_t)low->len, 0, 0);
	}
	for (size_t i = 0; i < low->len; i++)
		emit(p, low->code[i].code, low->code[i].k, low->code[i].jt, low->code[i].jf);
	free(low);
	emit_tree(p, groups + n / 2, n - n / 2);
}

/* ---- lines of a variant, by number ---- */

/*
 * What libseccomp 2.5 does not tell: calls newer than it (from 424 on all architectures have the
 * same numbers), and i386's direct socket(), for which it gives a name of its own for socketcall.
 */
static int resolve(uint32_t arch, const char *name)
{
	static const struct {
		const char *name;
		int nr;
		uint32_t arch; /* 0: any */
	} known[] = {
		{ "fchmodat2", 452, 0 },
		{ "removexattrat", 466, 0 },
		{ "setxattrat", 463, 0 },
		{ "socket", 359, SCMP_ARCH_X86 },
	};
	int nr = seccomp_syscall_resolve_name_arch(arch, name);
	for (size_t i = 0; nr < 0 && i < sizeof(known) / sizeof(known[0]); i++) {
		if (strcmp(known[i].name, name) == 0 && (!known[i].arch || known[i].arch == arch))
			return known[i].nr;
	}
	return nr;
}

static struct group *find_group(struct group *groups, size_t *n, unsigned int nr)
{
	for (size_t i = 0; i < *n; i++) {
		if (groups[i].nr == nr)
			return &groups[i];
	}
	groups[*n] = (struct group){ .nr = nr };
	return &groups[(*n)++];
}

static int compare_groups(const void *a, const void *b)
{
	const struct group *g = a, *h = b;
	return (g->nr > h->nr) - (g->nr < h->nr);
}

static size_t collect(struct group *groups, uint32_t arch, unsigned int flags)
{
	bool on = true;
	size_t n = 0;
	for (size_t i = 0; i < LINES; i++) {
		const struct line *l = &lines[i];
		if (l->kind == L_IF)
			on = !!(flags & l->flag) == l->wanted;
		else if (l->kind == L_END)
			on = true;
		if (!on || !l->call)
			continue;
		int nr = resolve(arch, l->call);
		if (nr < 0)
			continue;
		struct group *g = find_group(groups, &n, (unsigned int)nr);
		if (g->count == sizeof(g->lines) / sizeof(g->lines[0]))
			die("too many lines for ", l->call);
		g->lines[g->count++] = l;
	}
	qsort(groups, n, sizeof(*groups), compare_groups);
	return n;
}

/* ---- architectures ---- */

static const struct arch {
	uint32_t scmp, audit;
	bool x32; /* numbers from 0x40000000 up are another architecture's */
} archs[] = {
#if defined(__x86_64__)
	{ SCMP_ARCH_X86_64, AUDIT_ARCH_X86_64, true },
	{ SCMP_ARCH_X86, AUDIT_ARCH_I386, false },
#elif defined(__aarch64__)
	{ SCMP_ARCH_AARCH64, AUDIT_ARCH_AARCH64, false },
	{ SCMP_ARCH_ARM, AUDIT_ARCH_ARM, false },
#else
#error "add the audit numbers of this architecture here"
#endif
};

static void emit_arch(struct program *p, const struct arch *a, unsigned int flags)
{
	static struct group groups[LINES];
	struct program *body = calloc(1, sizeof(*body));
	if (!body)
		die("out of memory", "");
	memset(groups, 0, sizeof(groups));
	emit_load(body, offsetof(struct seccomp_data, nr));
	if (a->x32) {
		emit(body, BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1);
		emit_ret(body, SECCOMP_RET_ERRNO | ENOSYS);
	}
	emit_tree(body, groups, collect(groups, a->scmp, flags));
	emit(p, BPF_JMP | BPF_JEQ | BPF_K, a->audit, 1, 0);
	emit(p, BPF_JMP | BPF_JA, (uint32_t)body->len, 0, 0);
	for (size_t i = 0; i < body->len; i++)
		emit(p, body->code[i].code, body->code[i].k, body->code[i].jt, body->code[i].jf);
	free(body);
}

/* ---- what the kernel's seccomp_is_const_allow() finds ---- */

static bool is_free(const struct program *p, uint32_t arch, uint32_t nr)
{
	uint32_t value = 0;
	for (size_t pc = 0; pc < p->len; pc++) {
		const struct sock_filter *c = &p->code[pc];
		switch (c->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			if (c->k == offsetof(struct seccomp_data, nr))
				value = nr;
			else if (c->k == offsetof(struct seccomp_data, arch))
				value = arch;
			else
				return false;
			break;
		case BPF_JMP | BPF_JA:
			pc += c->k;
			break;
		case BPF_JMP | BPF_JEQ | BPF_K:
			pc += value == c->k ? c->jt : c->jf;
			break;
		case BPF_JMP | BPF_JGE | BPF_K:
			pc += value >= c->k ? c->jt : c->jf;
			break;
		case BPF_RET | BPF_K:
			return c->k == SECCOMP_RET_ALLOW;
		default:
			return false;
		}
	}
	return false;
}

static void check_free(const struct program *p, const struct arch *a, unsigned int flags)
{
	static struct group groups[LINES];
	memset(groups, 0, sizeof(groups));
	size_t n = collect(groups, a->scmp, flags);
	for (unsigned int nr = 0; nr < 1024; nr++) {
		const struct group key = { .nr = nr };
		bool ours = bsearch(&key, groups, n, sizeof(*groups), compare_groups) != NULL;
		if (is_free(p, a->audit, nr) == ours)
			die(ours ? "a call with a line is allowed" : "a call without a line costs",
			    "");
	}
}

static void print_variant(FILE *out, unsigned int flags)
{
	struct program *p = calloc(1, sizeof(*p));
	if (!p)
		die("out of memory", "");
	emit_load(p, offsetof(struct seccomp_data, arch));
	for (size_t i = 0; i < sizeof(archs) / sizeof(archs[0]); i++)
		emit_arch(p, &archs[i], flags);
	emit_ret(p, SECCOMP_RET_ERRNO | ENOSYS);
	for (size_t i = 0; i < sizeof(archs) / sizeof(archs[0]); i++)
		check_free(p, &archs[i], flags);
	fprintf(out, "static const struct sock_filter code_%u[] = {\n", flags);
	for (size_t i = 0; i < p->len; i++)
		fprintf(out, "\t{ 0x%02x, %u, %u, 0x%08x },\n", p->code[i].code, p->code[i].jt,
			p->code[i].jf, p->code[i].k);
	fprintf(out, "};\n");
	free(p);
}

/* A flag that stands on another means nothing without it. */
static unsigned int meaning(unsigned int flags)
{
	if (!(flags & FVM_FILTER_ROOTLESS))
		flags &= ~(unsigned int)(FVM_FILTER_ONE_UID | FVM_FILTER_LATE_NET);
	if (!(flags & FVM_FILTER_ONE_UID))
		flags &= ~(unsigned int)FVM_FILTER_OWNERS;
	return flags;
}

int main(int argc, char **argv)
{
	FILE *out = argc == 2 ? fopen(argv[1], "we") : NULL;
	if (!out)
		die("usage: seccomp-gen FILE", "");
	fprintf(out, "/* made by tools/seccomp-gen.c from src/fvm/seccomp.def */\n");
	for (unsigned int flags = 0; flags < FVM_FILTER_VARIANTS; flags++) {
		if (meaning(flags) == flags)
			print_variant(out, flags);
	}
	fprintf(out, "static const struct fvm_filter filters[FVM_FILTER_VARIANTS] = {\n");
	for (unsigned int flags = 0; flags < FVM_FILTER_VARIANTS; flags++) {
		unsigned int same = meaning(flags);
		fprintf(out, "\t{ code_%u, sizeof(code_%u) / sizeof(code_%u[0]), %s },\n", same,
			same, same, flags & FVM_FILTER_ROOTLESS ? "true" : "false");
	}
	fprintf(out, "};\n");
	return fclose(out) == 0 ? 0 : 1;
}
