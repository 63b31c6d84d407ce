#include <errno.h>
#include <string.h>

#include "fvm/ids.h"

#define KEEP UINT32_MAX

void fvm_ids_init(struct fvm_ids *ids, uint32_t uid, uint32_t gid)
{
	for (int i = 0; i < FVM_ID_KINDS; i++) {
		ids->uid[i] = uid;
		ids->gid[i] = gid;
	}
}

/* Whether @id is among the first @kinds of @of, which is where an ordinary task may go. */
static bool among(const uint32_t *of, int kinds, uint32_t id)
{
	for (int i = 0; i < kinds; i++) {
		if (of[i] == id)
			return true;
	}
	return false;
}

static int set_all(uint32_t *of, uint32_t id, bool privileged)
{
	if (id == KEEP)
		return -EINVAL;
	if (privileged) {
		for (int i = 0; i < FVM_ID_KINDS; i++)
			of[i] = id;
		return 0;
	}
	if (id != of[FVM_ID_REAL] && id != of[FVM_ID_SAVED])
		return -EPERM;
	of[FVM_ID_EFFECTIVE] = of[FVM_ID_FS] = id;
	return 0;
}

static int set_two(uint32_t *of, uint32_t real, uint32_t effective, bool privileged)
{
	uint32_t old = of[FVM_ID_REAL];
	if (!privileged && ((real != KEEP && !among(of, FVM_ID_SAVED, real)) ||
			    (effective != KEEP && !among(of, FVM_ID_FS, effective))))
		return -EPERM;
	if (real != KEEP)
		of[FVM_ID_REAL] = real;
	if (effective != KEEP)
		of[FVM_ID_EFFECTIVE] = effective;
	if (real != KEEP || (effective != KEEP && effective != old))
		of[FVM_ID_SAVED] = of[FVM_ID_EFFECTIVE];
	of[FVM_ID_FS] = of[FVM_ID_EFFECTIVE];
	return 0;
}

static int set_three(uint32_t *of, const uint32_t a[3], bool privileged)
{
	for (int i = 0; i < 3 && !privileged; i++) {
		if (a[i] != KEEP && !among(of, FVM_ID_FS, a[i]))
			return -EPERM;
	}
	for (int i = 0; i < 3; i++) {
		if (a[i] != KEEP)
			of[i] = a[i];
	}
	of[FVM_ID_FS] = of[FVM_ID_EFFECTIVE];
	return 0;
}

static int64_t set_fs(uint32_t *of, uint32_t id, bool privileged)
{
	uint32_t old = of[FVM_ID_FS];
	if (id != KEEP && (privileged || among(of, FVM_ID_KINDS, id)))
		of[FVM_ID_FS] = id;
	return old;
}

int64_t fvm_ids_set(struct fvm_ids *ids, bool group, enum fvm_id_call call, const uint32_t a[3])
{
	uint32_t *of = group ? ids->gid : ids->uid;
	bool privileged = ids->uid[FVM_ID_EFFECTIVE] == 0;
	switch (call) {
	case FVM_SET:
		return set_all(of, a[0], privileged);
	case FVM_SETRE:
		return set_two(of, a[0], a[1], privileged);
	case FVM_SETRES:
		return set_three(of, a, privileged);
	default:
		return set_fs(of, a[0], privileged);
	}
}

static bool uniform(const uint32_t *of, int kinds, uint32_t id)
{
	for (int i = 0; i < kinds; i++) {
		if (of[i] != id)
			return false;
	}
	return true;
}

enum fvm_id_outcome fvm_ids_outcome(const struct fvm_ids *ids, uint32_t uid, uint32_t gid)
{
	if (uniform(ids->uid, FVM_ID_KINDS, uid) && uniform(ids->gid, FVM_ID_KINDS, gid))
		return FVM_IDS_TRUE;
	uint32_t to = ids->uid[FVM_ID_REAL];
	/* root who may still take on any group needs no namespace for one */
	if (to != uid && uniform(ids->uid, FVM_ID_KINDS, to))
		return FVM_IDS_NEST;
	return FVM_IDS_LIE;
}
