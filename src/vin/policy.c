/*
 * Memory policies of areas, mbind(2): which nodes of the machine their pages are taken from. The
 * process is asked by get_mempolicy(2), address by address; of shared memory its first page speaks
 * for the area. Set before the pages come, so that they are where they belong. What nobody is told:
 * home nodes (set_mempolicy_home_node(2)).
 */
#include <errno.h>
#include <linux/mempolicy.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "vin/mem.h"

#define AT_ONCE	  256
#define MODE_MAX  0xffff
#define NODE_BITS (sizeof(((struct vin_policy *)0)->nodes) * 8)

/* What a call is told, in the process's memory. */
struct told {
	uint64_t mode;
	uint64_t nodes[VIN_POLICY_WORDS];
};

static int add(struct vin_mem *m, const struct vin_policy *p)
{
	struct vin_policy *more =
		realloc(m->policies, fvm_room(m->policy_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	m->policies = more;
	m->policies[m->policy_count++] = *p;
	return 0;
}

/* Where one can't be asked, there is none. */
static int ask_some(const struct vin_post *post, struct vin_thread *t, struct vin_mem *m,
		    size_t first, size_t count, struct fvm_error *err)
{
	scoped_free struct vin_call *calls = calloc(count, sizeof(*calls));
	scoped_free struct told *told = calloc(count, sizeof(*told));
	size_t done = 0;
	if (!calls || !told)
		return fvm_error_set(err, ENOMEM, "ask for memory policies");
	for (size_t i = 0; i < count; i++) {
		const uint64_t at = post->data + i * sizeof(*told);
		calls[i] = (struct vin_call){ SYS_get_mempolicy,
					      { at, at + sizeof(uint64_t), NODE_BITS,
						m->areas[first + i].start, MPOL_F_ADDR } };
	}
	int r = vin_mem_write(post->pid, post->data, told, count * sizeof(*told));
	if (r == 0)
		r = vin_batch(post, t, calls, count, true, &done, err);
	else
		fvm_error_set(err, -r, "write to the memory of process %d", t->pid);
	if (r == 0 && vin_mem_read(post->pid, post->data, told, count * sizeof(*told)) < 0)
		r = fvm_error_set(err, EIO, "read the memory of process %d", t->pid);
	for (size_t i = 0; r == 0 && i < count; i++) {
		const struct vin_area *a = &m->areas[first + i];
		struct vin_policy p = { a->start, a->end, (uint32_t)told[i].mode, { 0 } };
		memcpy(p.nodes, told[i].nodes, sizeof(p.nodes));
		if (calls[i].result == 0 && p.mode != MPOL_DEFAULT && a->kind != VIN_AREA_KERNEL &&
		    add(m, &p) < 0)
			r = fvm_error_set(err, ENOMEM, "ask for memory policies");
	}
	return r;
}

int vin_policies_ask(const struct vin_post *post, struct vin_thread *t, struct vin_mem *m,
		     struct fvm_error *err)
{
	int r = 0;
	m->policy_count = 0;
	for (size_t i = 0; r == 0 && i < m->area_count; i += AT_ONCE) {
		const size_t left = m->area_count - i;
		r = ask_some(post, t, m, i, left < AT_ONCE ? left : AT_ONCE, err);
	}
	return r;
}

void vin_policies_put(struct fvm_buf *to, const struct vin_mem *m)
{
	vin_put_u64(to, m->policy_count);
	for (size_t i = 0; i < m->policy_count; i++) {
		const struct vin_policy *p = &m->policies[i];
		vin_put_u64(to, p->start);
		vin_put_u64(to, p->end);
		vin_put_u64(to, p->mode);
		vin_put_blob(to, p->nodes, sizeof(p->nodes));
	}
}

/* Each is of an area. */
static bool fits(const struct vin_mem *m, const struct vin_policy *p)
{
	for (size_t i = 0; i < m->area_count; i++) {
		if (m->areas[i].start == p->start && m->areas[i].end == p->end)
			return m->areas[i].kind != VIN_AREA_KERNEL;
	}
	return false;
}

int vin_policies_get(struct vin_payload *from, struct vin_mem *m)
{
	const uint64_t count = vin_get_u64(from);
	int r = from->failed || count > m->area_count ? -EBADMSG : 0;
	for (uint64_t i = 0; r == 0 && i < count; i++) {
		struct vin_policy p = { .start = vin_get_u64(from) };
		size_t len;
		p.end = vin_get_u64(from);
		const uint64_t mode = vin_get_u64(from);
		const void *nodes = vin_get_blob(from, &len);
		if (!nodes || len != sizeof(p.nodes) || mode > MODE_MAX || !fits(m, &p))
			return -EBADMSG;
		p.mode = (uint32_t)mode;
		memcpy(p.nodes, nodes, len);
		r = add(m, &p);
	}
	return r;
}

int vin_policies_set(struct vin_blank *b, const struct vin_mem *m, struct fvm_error *err)
{
	const uint64_t at = b->post.data;
	int r = 0;
	for (size_t i = 0; r == 0 && i < m->policy_count; i++) {
		const struct vin_policy *p = &m->policies[i];
		struct vin_call bind = {
			SYS_mbind, { p->start, p->end - p->start, p->mode, at, NODE_BITS, 0 }
		};
		r = vin_mem_write(b->post.pid, at, p->nodes, sizeof(p->nodes));
		r = r < 0 ? fvm_error_set(err, -r, "write to process %d", b->post.pid)
			  : vin_call(&b->post, &b->thread, "mbind", &bind, NULL, err);
	}
	return r;
}
