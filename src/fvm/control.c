/*
 * Messages between PID 1 and its clients: how they are packed, and the checks when they come in.
 *
 * FVM_MSG_RUN is a struct run_head, then its groups as uint32, then NUL-terminated strings: the
 * working directory (if has_workdir), the arguments, the environment; nothing may be left over.
 * Whoever speaks to PID 1 may do with the VM as he likes, but a broken client must not kill it, so
 * each length is compared with what is really there.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "fvm/init_priv.h"

struct run_head {
	uint32_t uid, gid;
	uint32_t group_count, argc, envc;
	uint8_t terminal, detached, login, has_workdir;
	uint8_t fd_mask, helper, zero[2];
	uint16_t rows, cols, xpixel, ypixel;
};

#define STRINGS_MAX 131072u

void fvm_command_free(struct fvm_command *c)
{
	fvm_strv_free(&c->argv);
	fvm_strv_free(&c->env);
	free(c->workdir);
	c->workdir = NULL;
}

static void pack_strings(struct fvm_buf *b, const struct fvm_strv *v)
{
	fvm_strv_each(v, i)
		fvm_buf_add(b, v->items[i], strlen(v->items[i]) + 1);
}

int fvm_run_pack(const struct fvm_command *c, struct fvm_buf *ret)
{
	struct run_head head = {
		.uid = c->uid,
		.gid = c->gid,
		.group_count = (uint32_t)c->group_count,
		.argc = (uint32_t)c->argv.count,
		.envc = (uint32_t)c->env.count,
		.terminal = c->terminal,
		.detached = c->detached,
		.login = c->login,
		.has_workdir = c->workdir ? 1 + c->workdir_must : 0,
		.helper = (uint8_t)c->helper,
		.rows = c->window.ws_row,
		.cols = c->window.ws_col,
		.xpixel = c->window.ws_xpixel,
		.ypixel = c->window.ws_ypixel,
	};
	if (c->group_count > FVM_COUNT(c->groups) || c->argv.count > STRINGS_MAX ||
	    c->env.count > STRINGS_MAX)
		return -E2BIG;
	for (unsigned int i = 0; i < 3; i++) {
		if (c->fds[i] >= 0)
			head.fd_mask |= (uint8_t)(1u << i);
	}
	fvm_buf_add(ret, &head, sizeof(head));
	for (size_t i = 0; i < c->group_count; i++) {
		uint32_t group = c->groups[i];
		fvm_buf_add(ret, &group, sizeof(group));
	}
	if (c->workdir)
		fvm_buf_add(ret, c->workdir, strlen(c->workdir) + 1);
	pack_strings(ret, &c->argv);
	pack_strings(ret, &c->env);
	if (ret->failed)
		return -ENOMEM;
	return ret->len > FVM_RUN_MAX ? -E2BIG : 0;
}

struct cursor {
	const char *at, *end;
};

static bool take(struct cursor *c, void *into, size_t len)
{
	if ((size_t)(c->end - c->at) < len)
		return false;
	memcpy(into, c->at, len);
	c->at += len;
	return true;
}

static const char *take_string(struct cursor *c)
{
	const char *text = c->at;
	const char *nul = memchr(text, '\0', (size_t)(c->end - text));
	if (!nul)
		return NULL;
	c->at = nul + 1;
	return text;
}

static int take_strings(struct cursor *c, uint32_t count, struct fvm_strv *into)
{
	/* each takes a byte at least: a count beyond that is a lie, and not worth allocating for */
	if (count > STRINGS_MAX || count > (size_t)(c->end - c->at))
		return -EBADMSG;
	if (count == 0)
		return 0;
	into->items = calloc((size_t)count + 1, sizeof(*into->items));
	if (!into->items)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		const char *text = take_string(c);
		if (!text)
			return -EBADMSG;
		into->items[i] = strdup(text);
		if (!into->items[i])
			return -ENOMEM;
		into->count = i + 1;
	}
	return 0;
}

static int take_groups(struct cursor *c, uint32_t count, struct fvm_command *into)
{
	if (count > FVM_COUNT(into->groups))
		return -EBADMSG;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t group;
		if (!take(c, &group, sizeof(group)))
			return -EBADMSG;
		into->groups[i] = group;
	}
	into->group_count = count;
	return 0;
}

static int parse_rest(struct cursor *c, const struct run_head *head, struct fvm_command *into)
{
	int r = take_groups(c, head->group_count, into);
	if (r < 0)
		return r;
	if (head->has_workdir) {
		const char *workdir = take_string(c);
		if (!workdir)
			return -EBADMSG;
		into->workdir_must = head->has_workdir > 1;
		into->workdir = strdup(workdir);
		if (!into->workdir)
			return -ENOMEM;
	}
	r = take_strings(c, head->argc, &into->argv);
	if (r == 0)
		r = take_strings(c, head->envc, &into->env);
	if (r == 0 && c->at != c->end)
		r = -EBADMSG;
	return r;
}

int fvm_run_parse(const void *data, size_t len, struct fvm_command *ret)
{
	struct run_head head;
	struct cursor c = { data, (const char *)data + len };
	if (len > FVM_RUN_MAX || !take(&c, &head, sizeof(head)) || head.fd_mask > 7 ||
	    head.helper >= FVM_HELPER_COUNT || head.zero[0] || head.zero[1])
		return -EBADMSG;
	scoped_command command = {
		.uid = head.uid,
		.gid = head.gid,
		.terminal = head.terminal != 0,
		.detached = head.detached != 0,
		.login = head.login != 0,
		.helper = (enum fvm_helper)head.helper,
		.window = { head.rows, head.cols, head.xpixel, head.ypixel },
	};
	for (unsigned int i = 0; i < 3; i++)
		command.fds[i] = head.fd_mask & 1u << i ? 0 : -1;
	int r = parse_rest(&c, &head, &command);
	if (r < 0)
		return r;
	*ret = command;
	command = (struct fvm_command){ 0 };
	return 0;
}

const void *fvm_msg_check(const void *packet, size_t len, struct fvm_msg *ret,
			  struct fvm_error *err)
{
	struct fvm_msg head;
	if (len < sizeof(head)) {
		fvm_error_set(err, EBADMSG, "read a message of %zu bytes", len);
		return NULL;
	}
	memcpy(&head, packet, sizeof(head));
	if (head.version != FVM_MSG_VERSION) {
		fvm_error_set(err, EPROTONOSUPPORT, "speak to a VM started by another fvm version");
		fvm_error_hint(err, "stop the VM and start it again");
		return NULL;
	}
	if (head.len != len - sizeof(head)) {
		fvm_error_set(err, EBADMSG, "read a message that says %u bytes and has %zu",
			      head.len, len - sizeof(head));
		return NULL;
	}
	*ret = head;
	return (const char *)packet + sizeof(head);
}

int fvm_msg_send_fds(int sock, enum fvm_msg_type type, const void *payload, size_t len,
		     const int *fds, size_t n)
{
	struct fvm_msg head = { FVM_MSG_VERSION, (uint16_t)type, (uint32_t)len };
	const struct iovec iov[] = {
		{ .iov_base = &head, .iov_len = sizeof(head) },
		{ .iov_base = (void *)(uintptr_t)payload, .iov_len = len },
	};
	return fvm_sendv_fds(sock, iov, FVM_COUNT(iov), fds, n);
}

int fvm_msg_send(int sock, enum fvm_msg_type type, const void *payload, size_t len)
{
	return fvm_msg_send_fds(sock, type, payload, len, NULL, 0);
}
