/* tmpfiles.d of a VM, which root's builder reads before it has pivoted: nothing may get out of the
 * /run that it fills. Input: etc/passwd, a line "--", and the list. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "fvm/tmpfiles.h"
#include "temporary.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint32_t same(const void *arg, uint32_t id)
{
	(void)arg;
	return id;
}

/* In reach of the list's author: "OUT" in it is a path beside /run. */
static void write_list(int etc, const char *text)
{
	scoped_buf list = { 0 };
	for (const char *out; (out = strstr(text, "OUT")); text = out + 3) {
		fvm_buf_add(&list, text, (size_t)(out - text));
		fvm_buf_printf(&list, "%s/outside", temporary_path);
	}
	fvm_buf_puts(&list, text);
	if (!list.failed)
		(void)fvm_write_file_atomic(etc, "tmpfiles.d/0.conf", list.data, list.len, false);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	scoped_free char *text = strndup((const char *)data, size);
	scoped_buf list = { 0 };
	if (!text)
		return 0;
	scoped_fd root = temporary_anew("root"), run = temporary_anew("run");
	scoped_fd outside = temporary_anew("outside");
	char *split = strstr(text, "\n--\n");
	if (outside < 0 || mkdirat(root, "etc", 0755) < 0 ||
	    mkdirat(root, "etc/tmpfiles.d", 0755) < 0)
		abort();
	scoped_fd etc = openat(root, "etc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (split) {
		*split = '\0';
		(void)fvm_write_file_atomic(etc, "passwd", text, strlen(text), false);
	}
	write_list(etc, split ? split + 4 : text);
	if (fvm_tmpfiles_collect(root, &list) == 0 && list.data)
		fvm_tmpfiles_apply(run, list.data, same, same, NULL);
	if (!temporary_is_empty("outside"))
		abort();
	return 0;
}
