/*
 * Print a complete inventory of chosen directories and of the machine. Two of them, before and
 * after, are compared by diff(1): no line may differ that a test does not expect.
 *
 *   inventory [-s] [-x] [-T] [-b] [-c CACHE] [-e EXCLUDED]... [ROOT..]
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/tools/inventory.h"

static int usage(void)
{
	fputs("usage: inventory [-s] [-x] [-T] [-b] [-c CACHE] [-e EXCLUDED].. [ROOT..]\n"
	      "  -s           the system too: mounts, links, nftables, cgroups, namespaces, IPC\n"
	      "  -x           stay in the file system of each root\n"
	      "  -T           without times of modification\n"
	      "  -b           with blocks used\n"
	      "  -c CACHE     keep digests in this file\n"
	      "  -e EXCLUDED  leave out this path and what is below\n",
	      stderr);
	return 2;
}

void inventory_name(const char *name)
{
	for (const unsigned char *c = (const unsigned char *)name; *c; c++) {
		if (*c <= ' ' || *c == '\\' || *c == 127)
			printf("\\x%02x", *c);
		else
			putchar(*c);
	}
}

int main(int argc, char **argv)
{
	const char *exclude[64];
	struct inventory_options options = { .exclude = exclude };
	bool system = false;
	int c;
	while ((c = getopt(argc, argv, "sxTbc:e:")) != -1) {
		if (c == 's')
			system = true;
		else if (c == 'x')
			options.one_fs = true;
		else if (c == 'T')
			options.no_times = true;
		else if (c == 'b')
			options.blocks = true;
		else if (c == 'c')
			options.cache = optarg;
		else if (c == 'e' && options.exclude_count < 64)
			exclude[options.exclude_count++] = optarg;
		else
			return usage();
	}
	if (options.cache)
		inventory_cache_load(options.cache);
	int r = system ? inventory_system() : 0;
	for (; optind < argc; optind++)
		r |= inventory_files(argv[optind], &options);
	if (options.cache && inventory_cache_save(options.cache) < 0) {
		fprintf(stderr, "inventory: write %s: %s\n", options.cache, strerror(errno));
		r = 1;
	}
	return r;
}
