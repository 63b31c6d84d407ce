#!/bin/sh
# The names of the kernel's system calls, by number, as its headers have them: a C header with one
# table for 64-bit and one for 32-bit programs.
#   usage: syscall-names.sh OUTPUT COMPILER..
set -eu
output=$1
shift

# table NAME HEADER COMPILER..
table() {
	name=$1 header=$2
	shift 2
	printf 'static const char *const %s[] = {\n' "$name"
	printf '#include <%s>\n' "$header" | "$@" -E -dM -x c - |
		awk '$1 == "#define" && $2 ~ /^__NR_/ && $3 ~ /^[0-9]+$/ {
			printf "\t[%d] = \"%s\",\n", $3, substr($2, 6)
		}' | sort -t '[' -k 2n
	printf '};\n'
}

{
	table names_64 asm/unistd_64.h "$@"
	table names_32 asm/unistd_32.h "$@"
} >"$output.new"
grep -q '"read"' "$output.new"
mv "$output.new" "$output"
