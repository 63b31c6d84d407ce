#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "common/log.h"

enum fvm_log_level fvm_log_level = FVM_LOG_WARN;

void fvm_log(enum fvm_log_level level, const char *fmt, ...)
{
	if (level > fvm_log_level)
		return;
	char line[1024];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	fprintf(stderr, "%s: %s%s\n", program_invocation_short_name,
		level == FVM_LOG_WARN ? "warning: " : "", line);
}
