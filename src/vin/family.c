#include <errno.h>
#include <stdlib.h>

#include "vin/family.h"

#include "vin/blank.h"
#include "vin/files.h"

#define NUMBER_MAX (1 << 22) /* the kernel's PID_MAX_LIMIT */
#define FIELDS	   11

void vin_family_free(struct vin_family *f)
{
	free(f->members);
	*f = (struct vin_family){ 0 };
}

const struct vin_member *vin_family_find(const struct vin_family *f, pid_t number)
{
	for (size_t i = 0; i < f->count; i++) {
		if (f->members[i].number == number)
			return &f->members[i];
	}
	return NULL;
}

void vin_family_put(struct fvm_buf *to, const struct vin_family *f)
{
	vin_put_u64(to, f->hole);
	vin_put_u64(to, (uint64_t)f->highest);
	vin_put_u64(to, f->count);
	for (size_t i = 0; i < f->count; i++) {
		const struct vin_member *m = &f->members[i];
		const uint64_t fields[FIELDS] = { (uint64_t)m->number,
						  (uint64_t)m->parent,
						  (uint64_t)m->group,
						  (uint64_t)m->session,
						  m->zombie,
						  m->leader_gone,
						  (uint64_t)m->exit_code,
						  m->threads,
						  m->terminal,
						  (uint64_t)m->foreground,
						  m->shares };
		for (size_t j = 0; j < FIELDS; j++)
			vin_put_u64(to, fields[j]);
	}
}

static bool is_number(uint64_t n)
{
	return n == 0 || (n > 1 && n < NUMBER_MAX);
}

/* Return: whether it may stand behind those that are there */
static bool fits(const struct vin_family *f, const uint64_t *field)
{
	for (size_t i = 0; i < 4; i++) {
		if (!is_number(field[i]))
			return false;
	}
	if (!is_number(field[9]) || field[8] > VIN_FILES_MAX || (field[8] && field[0] != field[3]))
		return false;
	const pid_t number = (pid_t)field[0], parent = (pid_t)field[1];
	const struct vin_member *p = vin_family_find(f, parent);
	if (number == 0 || vin_family_find(f, number) || (parent && (!p || p->zombie)))
		return false;
	/* only what there is can be shared */
	if (field[10] > VIN_SHARES_ALL || (field[10] && (!p || field[4])))
		return false;
	return field[4] <= 1 && field[5] <= 1 && field[6] <= 0xffff &&
	       (field[4] == 1) == (field[7] == 0) && field[7] < NUMBER_MAX;
}

int vin_family_get(struct vin_payload *p, struct vin_family *ret)
{
	struct vin_family f = { .hole = vin_get_u64(p) };
	const uint64_t highest = vin_get_u64(p);
	const uint64_t count = vin_get_u64(p);
	if (p->failed || !is_number(highest) || count == 0 ||
	    count > (uint64_t)(p->end - p->at) / (FIELDS * sizeof(uint64_t)) || f.hole % 4096 ||
	    f.hole < 1 << 20 || f.hole > VIN_ARCH_END - VIN_HOLE_SIZE)
		return -EBADMSG;
	f.highest = (pid_t)highest;
	f.members = calloc(count, sizeof(*f.members));
	if (!f.members)
		return -ENOMEM;
	while (!p->failed && f.count < count) {
		uint64_t field[FIELDS];
		for (size_t j = 0; j < FIELDS; j++)
			field[j] = vin_get_u64(p);
		if (!fits(&f, field))
			p->failed = true;
		f.members[f.count++] = (struct vin_member){
			.number = (pid_t)field[0],
			.parent = (pid_t)field[1],
			.group = (pid_t)field[2],
			.session = (pid_t)field[3],
			.zombie = field[4] != 0,
			.leader_gone = field[5] != 0,
			.exit_code = (int)field[6],
			.threads = (size_t)field[7],
			.terminal = (size_t)field[8],
			.foreground = (pid_t)field[9],
			.shares = (unsigned)field[10],
		};
	}
	if (vin_get_done(p) < 0) {
		vin_family_free(&f);
		return -EBADMSG;
	}
	*ret = f;
	return 0;
}
