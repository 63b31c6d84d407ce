#!/bin/sh
# project.sh DIRECTORY FILES: a C project of so many files, for make -j.
set -e
mkdir -p "$1"
cd "$1"
awk -v files="$2" 'BEGIN {
	for (i = 0; i < files; i++) {
		c = "part" i ".c"
		print "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>" >c
		for (f = 0; f < 100; f++)
			printf "static unsigned f%d(unsigned x, char *s) { switch (x %% 5) { case 0: return x * %du;\n" \
				"case 1: s[x %% 16]++; return s[1]; default: return strlen(s) + x %% %du; } }\n",
				f, i + f, f + 3 >c
		printf "unsigned part%d(unsigned x) { char s[17] = \"abcdefghijklmnop\"; return 0", i >c
		for (f = 0; f < 100; f++)
			printf "\n + f%d(x + %du, s)", f, f >c
		print ";\n}" >c
		close(c)
		declared = declared "unsigned part" i "(unsigned);\n"
		sum = sum " sum += part" i "(" i ");\n"
	}
	print "#include <stdio.h>\n" declared "int main(void) {\n unsigned sum = 0;" >"main.c"
	print sum " printf(\"%u\\n\", sum);\n}" >"main.c"
}'
cat >Makefile <<'END'
objects := $(patsubst %.c,%.o,$(wildcard *.c))
program: $(objects)
	gcc -o $@ $^
	ar rcD lib.a $^
%.o: %.c
	gcc -pipe -O2 -c -o $@ $<
	@echo $@ >>done
END
