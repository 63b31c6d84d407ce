#!/bin/bash
# What is read from outside is told in docs/security.md, "Who reads what", with the fuzz target that
# tries its parser: each file of src/fvm, src/vin and src/cli that reads text, JSON, an archive or netlink stands in that
# table, each target named there is in fuzz/ with seeds, and each target of fuzz/ is named.
#
#   check-parsers.sh SOURCE
set -u
cd "$1" || exit 1
status=0

complain() {
	printf '%s\n' "$*"
	status=1
}

table=$(awk '/^## / { here = /Who reads what/ } here && /^\|/' docs/security.md)
[ "$table" ] || complain 'docs/security.md: no table "Who reads what"'

readers='\<(fvm_read_file|json_loadb?|getline|fgets|sscanf|archive_read_open_fd|mnl_attr_for_each)\('
while read -r file; do
	grep -qwF "$(basename "$file" .c)" <<<"$table" || complain "$file: reads something, and is not in the table"
done < <(grep -lE "$readers" src/fvm/*.c src/vin/*.c src/cli/*.c)

targets=$(awk -F'|' 'NR > 2 { print $5 }' <<<"$table" | tr -d '`,' | tr ' ' '\n' | grep -v '^-*$' | sort -u)
for name in $targets; do
	[ -f "fuzz/$name.c" ] || complain "docs/security.md: there is no fuzz/$name.c"
	compgen -G "fuzz/corpus/$name/*" >/dev/null || complain "fuzz/corpus/$name: no seeds"
done
for file in fuzz/*.c; do
	grep -qx "$(basename "$file" .c)" <<<"$targets" || complain "$file: not in the table of docs/security.md"
done
exit $status
