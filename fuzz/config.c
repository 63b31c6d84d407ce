/* config.json, which may come with an import: what is read is printed and read again, the same. */
#include <stdlib.h>
#include <string.h>

#include "fvm/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	scoped_config config = { 0 };
	scoped_config again = { 0 };
	if (fvm_config_parse((const char *)data, len, &config, NULL) < 0)
		return 0;
	scoped_free char *text = fvm_config_print(&config);
	if (!text || fvm_config_parse(text, strlen(text), &again, NULL) < 0)
		abort();
	scoped_free char *second = fvm_config_print(&again);
	if (!second || strcmp(text, second) != 0)
		abort();
	return 0;
}
