/* Sets of semaphores of System V, with their values. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/sem.h>

#include "vin/ipc.h"

#define COUNT_MAX 65536U
#define VALUE_MAX 32767

enum field { KEY, ID, MODE, COUNT, UID, GID, CUID, CGID };

union argument {
	int val;
	struct semid_ds *buf;
	unsigned short *array;
};

struct set {
	struct vin_ipc_perm perm;
	size_t count;
};

static int capture_one(struct vin_ipc_visit *v, const int64_t *f, struct fvm_error *err)
{
	const struct vin_ipc_perm perm = { (int32_t)f[KEY],	    (int)f[ID],
					   (uint32_t)f[UID],	    (uint32_t)f[GID],
					   (uint32_t)f[CUID],	    (uint32_t)f[CGID],
					   (uint32_t)f[MODE] & 0777 };
	const size_t count = (size_t)f[COUNT];
	scoped_free unsigned short *values = calloc(count + 1, sizeof(*values));
	scoped_buf one = { 0 };
	if (!values)
		return fvm_error_set(err, ENOMEM, "read semaphores");
	if (semctl(perm.id, 0, GETALL, (union argument){ .array = values }) < 0)
		return fvm_error_set(err, errno, "read the SysV semaphores %d", perm.id);
	vin_put_u64(&one, VIN_IPC_IS_SEMAPHORES);
	vin_ipc_put_perm(&one, &perm);
	vin_put_blob(&one, values, count * sizeof(*values));
	vin_put_blob(v->to, one.data, one.len);
	v->to->failed |= one.failed;
	return 0;
}

static int capture(struct vin_ipc_visit *v, struct fvm_error *err)
{
	return vin_sysvipc_each("sem", v, capture_one, err);
}

static int get(const void *arg)
{
	const struct set *s = arg;
	return fvm_nerr(
		semget(s->perm.key, (int)s->count, IPC_CREAT | IPC_EXCL | (int)s->perm.mode));
}

static int fill(const struct set *s, const unsigned short *values)
{
	struct semid_ds ds = { .sem_perm = { .uid = s->perm.uid, .gid = s->perm.gid } };
	int r = vin_ipc_make(&s->perm, "sem_next_id", get, s);
	ds.sem_perm.mode = (unsigned short)s->perm.mode;
	if (r >= 0 && semctl(s->perm.id, 0, SETALL,
			     (union argument){ .array = (unsigned short *)(uintptr_t)values }) < 0)
		r = -errno;
	if (r >= 0 && (s->perm.uid != s->perm.creator_uid || s->perm.gid != s->perm.creator_gid) &&
	    semctl(s->perm.id, 0, IPC_SET, (union argument){ .buf = &ds }) < 0)
		r = -errno;
	return r < 0 ? r : 0;
}

static int make(struct vin_payload *p, bool look, struct fvm_error *err)
{
	struct set s;
	size_t len;
	int r = vin_ipc_get_perm(p, &s.perm);
	const void *blob = vin_get_blob(p, &len);
	if (r < 0 || vin_get_done(p) < 0 || len % 2 || len == 0 || len / 2 > COUNT_MAX)
		return -EBADMSG;
	s.count = len / 2;
	/* it stands in the payload as it comes */
	scoped_free unsigned short *values = malloc(len);
	if (!values)
		return fvm_error_set(err, ENOMEM, "make semaphores");
	memcpy(values, blob, len);
	for (size_t i = 0; i < s.count; i++) {
		if (values[i] > VALUE_MAX)
			return -EBADMSG;
	}
	r = look ? 0 : fill(&s, values);
	return r < 0 ? fvm_error_set(err, -r, "make the SysV semaphores %d", s.perm.id) : 0;
}

const struct vin_ipc_kind vin_ipc_semaphores = {
	.name = "SysV semaphores",
	.capture = capture,
	.make = make,
};
