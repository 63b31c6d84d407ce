/* Queues of messages of System V. MSG_COPY reads a message and leaves it where it is. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>

#include "vin/ipc.h"

#ifndef MSG_COPY
#define MSG_COPY 040000
#endif

enum field { KEY, ID, MODE, BYTES, COUNT, LSPID, LRPID, UID, GID, CUID, CGID };

struct message {
	long type;
	char text[];
};

struct queue {
	struct vin_ipc_perm perm;
	uint64_t room, count; /* bytes it may hold; messages */
	const unsigned char *messages;
	size_t len;
};

static int check(const int64_t *f, struct fvm_error *err)
{
	if (f[BYTES] + f[COUNT] * 16 <= VIN_IPC_MESSAGES_MAX)
		return 0;
	return fvm_error_say(err, EOPNOTSUPP,
			     "the SysV message queue %d can't be captured: %lld bytes are queued "
			     "in it",
			     (int)f[ID], (long long)f[BYTES]);
}

static int put_messages(struct fvm_buf *to, int id, int64_t count, size_t room)
{
	scoped_free struct message *m = malloc(sizeof(*m) + room + 1);
	if (!m)
		return -ENOMEM;
	for (long i = 0; i < count; i++) {
		ssize_t n = msgrcv(id, m, room, i, MSG_COPY | IPC_NOWAIT);
		if (n < 0)
			return errno == ENOSYS ? -EOPNOTSUPP : -errno;
		vin_put_u64(to, (uint64_t)m->type);
		vin_put_blob(to, m->text, (size_t)n);
	}
	return 0;
}

static int put_queue(struct vin_ipc_visit *v, const struct vin_ipc_perm *perm, const int64_t *f)
{
	struct msqid_ds ds;
	scoped_buf one = { 0 }, messages = { 0 };
	if (msgctl(perm->id, IPC_STAT, &ds) < 0)
		return -errno;
	vin_put_u64(&one, VIN_IPC_IS_MESSAGES);
	vin_ipc_put_perm(&one, perm);
	vin_put_u64(&one, ds.msg_qbytes);
	vin_put_u64(&one, (uint64_t)f[COUNT]);
	int r = put_messages(&messages, perm->id, f[COUNT], (size_t)f[BYTES]);
	vin_put_blob(&one, messages.data ? messages.data : "", messages.len);
	vin_put_blob(v->to, one.data, one.len);
	v->to->failed |= one.failed || messages.failed;
	return r;
}

static int capture_one(struct vin_ipc_visit *v, const int64_t *f, struct fvm_error *err)
{
	const struct vin_ipc_perm perm = { (int32_t)f[KEY],	    (int)f[ID],
					   (uint32_t)f[UID],	    (uint32_t)f[GID],
					   (uint32_t)f[CUID],	    (uint32_t)f[CGID],
					   (uint32_t)f[MODE] & 0777 };
	int r = check(f, err);
	if (r < 0 || v->look)
		return r;
	r = put_queue(v, &perm, f);
	if (r == -EOPNOTSUPP)
		return fvm_error_say(
			err, EOPNOTSUPP,
			"SysV messages can't be captured: this kernel was built without "
			"CONFIG_CHECKPOINT_RESTORE");
	return r < 0 ? fvm_error_set(err, -r, "read the SysV message queue %d", perm.id) : 0;
}

static int capture(struct vin_ipc_visit *v, struct fvm_error *err)
{
	return vin_sysvipc_each("msg", v, capture_one, err);
}

/* ---- anew ---- */

static int get(const void *arg)
{
	const struct queue *q = arg;
	return fvm_nerr(msgget(q->perm.key, IPC_CREAT | IPC_EXCL | (int)q->perm.mode));
}

static int set(const struct queue *q, uint64_t room)
{
	struct msqid_ds ds = { .msg_perm = { .uid = q->perm.uid, .gid = q->perm.gid },
			       .msg_qbytes = room };
	ds.msg_perm.mode = (unsigned short)q->perm.mode;
	return msgctl(q->perm.id, IPC_SET, &ds) < 0 ? -errno : 0;
}

/* The next message; NULL when there is none. */
static const void *next(struct vin_payload *p, uint64_t *ret_type, size_t *ret_len)
{
	if (p->at == p->end)
		return NULL;
	*ret_type = vin_get_u64(p);
	return vin_get_blob(p, ret_len);
}

static int send_all(const struct queue *q)
{
	struct vin_payload p = { .at = q->messages, .end = q->messages + q->len };
	scoped_free struct message *m = malloc(sizeof(*m) + q->len + 1);
	uint64_t type;
	size_t len;
	if (!m)
		return -ENOMEM;
	for (const void *text; (text = next(&p, &type, &len));) {
		m->type = (long)type;
		memcpy(m->text, text, len);
		if (msgsnd(q->perm.id, m, len, IPC_NOWAIT) < 0)
			return -errno;
	}
	return 0;
}

static int fill(const struct queue *q)
{
	struct msqid_ds ds;
	int r = vin_ipc_make(&q->perm, "msg_next_id", get, q);
	if (r >= 0)
		r = msgctl(q->perm.id, IPC_STAT, &ds) < 0 ? -errno : 0;
	/* what is queued may be more than what fits by now */
	if (r == 0 && ds.msg_qbytes < q->len)
		r = set(q, q->len);
	if (r == 0)
		r = send_all(q);
	return r < 0 ? r : set(q, q->room);
}

static int parse(struct vin_payload *p, struct queue *q)
{
	int r = vin_ipc_get_perm(p, &q->perm);
	q->room = vin_get_u64(p);
	q->count = vin_get_u64(p);
	q->messages = vin_get_blob(p, &q->len);
	if (r < 0 || vin_get_done(p) < 0)
		return -EBADMSG;
	struct vin_payload all = { .at = q->messages, .end = q->messages + q->len };
	uint64_t count = 0, type;
	for (size_t len; next(&all, &type, &len); count++) {
		if (all.failed || type == 0 || type > INT64_MAX)
			return -EBADMSG;
	}
	return all.failed || count != q->count ? -EBADMSG : 0;
}

static int make(struct vin_payload *p, bool look, struct fvm_error *err)
{
	struct queue q;
	int r = parse(p, &q);
	if (r < 0 || look)
		return r;
	r = fill(&q);
	return r < 0 ? fvm_error_set(err, -r, "make the SysV message queue %d", q.perm.id) : 0;
}

const struct vin_ipc_kind vin_ipc_messages = {
	.name = "a SysV message queue",
	.capture = capture,
	.make = make,
};
