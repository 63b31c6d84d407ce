/*
 * Keyrings of a thread and of a process, keyrings(7), with the keys that may be read: those of type
 * "user". Others (logon, asymmetric, nested rings) are refused: nobody is shown what is in them.
 * A key gets another number; its name, rights and bytes stay, its time limit does not. The
 * session's keyring is not the program's but its login's: it is the one of who restores.
 */
#include <errno.h>
#include <linux/keyctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "vin/traits.h"

#define RINGS	  2
#define KEYS_MAX  1024
#define TEXT_SIZE 4096
#define KEY_SIZE  32767 /* the longest payload that the kernel takes */

static const int32_t rings[RINGS] = { KEY_SPEC_THREAD_KEYRING, KEY_SPEC_PROCESS_KEYRING };

static int ask(struct vin_steps *s, struct fvm_error *err)
{
	(void)err;
	for (int i = 0; i < RINGS; i++)
		VIN_STEP(s, NULL, SYS_keyctl, KEYCTL_GET_KEYRING_ID, (uint64_t)rings[i], 0);
	return 0;
}

/* One call of keyctl(2) that fills a buffer. @ret_len: its length as the kernel tells it */
static int tell(struct vin_steps *s, int what, int64_t key, void *to, size_t room, size_t *ret_len,
		struct fvm_error *err)
{
	vin_steps_rewind(s);
	uint64_t at = vin_steps_data(s, NULL, room);
	VIN_STEP(s, "keyctl", SYS_keyctl, (uint64_t)what, (uint64_t)key, at, room);
	int r = vin_steps_run(s, err);
	if (r < 0)
		return r;
	size_t len = (size_t)s->calls[s->ran - 1].result;
	if (len > room)
		return fvm_error_set(err, E2BIG, "read key %lld", (long long)key);
	memcpy(to, vin_steps_told(s, at), len);
	vin_steps_rewind(s);
	*ret_len = len;
	return 0;
}

/* "type;uid;gid;perm;name" */
static int put_key(struct vin_steps *s, int32_t key, struct fvm_buf *to, struct fvm_error *err)
{
	char about[TEXT_SIZE + 1] = { 0 }, bytes[KEY_SIZE];
	unsigned int rights;
	int name = 0;
	size_t len = 0;
	int r = tell(s, KEYCTL_DESCRIBE, key, about, TEXT_SIZE, &len, err);
	if (r < 0)
		return r;
	if (sscanf(about, "user;%*d;%*d;%x;%n", &rights, &name) != 1 || name == 0)
		return fvm_error_say(err, ENOTSUP,
				     "process %d holds a key that can't be read: %.*s", s->t->pid,
				     (int)strcspn(about, ";"), about);
	r = tell(s, KEYCTL_READ, key, bytes, sizeof(bytes), &len, err);
	vin_put_string(to, about + name);
	vin_put_u64(to, rights);
	vin_put_blob(to, bytes, r == 0 ? len : 0);
	return r;
}

static int put_ring(struct vin_steps *s, int64_t ring, struct fvm_buf *to, struct fvm_error *err)
{
	int32_t keys[KEYS_MAX] = { 0 };
	size_t len = 0;
	int r = tell(s, KEYCTL_READ, ring, keys, sizeof(keys), &len, err);
	if (r < 0)
		return r;
	vin_put_u64(to, len / sizeof(keys[0]));
	for (size_t i = 0; r == 0 && i < len / sizeof(keys[0]); i++)
		r = put_key(s, keys[i], to, err);
	return r;
}

static int put(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
	       struct fvm_error *err)
{
	int r = 0;
	for (int i = 0; r == 0 && i < RINGS; i++) {
		vin_put_u64(to, told[i].result > 0);
		if (told[i].result > 0)
			r = put_ring(s, told[i].result, to, err);
	}
	return r;
}

/* What one call points to lies together: type, name, bytes. */
static int replay_key(struct vin_steps *s, int32_t ring, struct vin_payload *from)
{
	static const char type[8] = "user";
	size_t name_len, len;
	const char *name = vin_get_blob(from, &name_len);
	uint64_t rights = vin_get_u64(from);
	const void *bytes = vin_get_blob(from, &len);
	if (!bytes || !name || name_len >= TEXT_SIZE || memchr(name, '\0', name_len) || len == 0 ||
	    len > KEY_SIZE || rights > UINT32_MAX)
		return -EBADMSG;
	char all[sizeof(type) + TEXT_SIZE + KEY_SIZE] = { 0 };
	memcpy(all, type, sizeof(type));
	memcpy(all + sizeof(type), name, name_len);
	memcpy(all + sizeof(type) + TEXT_SIZE, bytes, len);
	uint64_t at = vin_steps_data(s, all, sizeof(type) + TEXT_SIZE + len);
	VIN_STEP(s, "add_key", SYS_add_key, at, at + sizeof(type), at + sizeof(type) + TEXT_SIZE,
		 len, (uint64_t)ring);
	int r = vin_steps_run(s, NULL);
	if (r < 0)
		return r;
	uint64_t key = s->ran > 0 ? (uint64_t)s->calls[s->ran - 1].result : 0;
	vin_steps_rewind(s);
	VIN_STEP(s, "keyctl(KEYCTL_SETPERM)", SYS_keyctl, KEYCTL_SETPERM, key, rights);
	r = vin_steps_run(s, NULL);
	vin_steps_rewind(s);
	return r;
}

static int replay(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from,
		  struct fvm_error *err)
{
	(void)told;
	int r = vin_steps_run(s, err);
	for (int i = 0; r == 0 && i < RINGS; i++) {
		uint64_t there = vin_get_u64(from), count = there ? vin_get_u64(from) : 0;
		if (from->failed || there > 1 || count > KEYS_MAX)
			return -EBADMSG;
		if (there)
			VIN_STEP(s, "keyctl(KEYCTL_GET_KEYRING_ID)", SYS_keyctl,
				 KEYCTL_GET_KEYRING_ID, (uint64_t)rings[i], 1);
		r = vin_steps_run(s, err);
		for (uint64_t k = 0; r == 0 && k < count; k++)
			r = replay_key(s, rings[i], from);
		if (r < 0 && r != -EBADMSG)
			return fvm_error_set(err, -r, "add a key");
	}
	return r;
}

const struct vin_trait vin_keyrings = {
	.name = "keyrings", .ask = ask, .put = put, .replay = replay
};
