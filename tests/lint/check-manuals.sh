#!/bin/sh
# Manuals are valid mdoc; each page of a program or command has EXIT STATUS and EXAMPLES.
set -eu
cd "$1"
status=0
for page in man/*.[1-8]; do
	[ -e "$page" ] || continue
	# "unknown architecture" and the like can't be: what is left is real
	if ! out=$(mandoc -T lint -W warning "$page" 2>&1); then
		printf '%s\n' "$out"
		status=1
	fi
	case $page in
	*.1)
		for section in NAME SYNOPSIS DESCRIPTION 'EXIT STATUS' EXAMPLES 'SEE ALSO'; do
			grep -q "^\.Sh $section\$" "$page" || {
				echo "$page: there is no section $section"
				status=1
			}
		done
		;;
	esac
done
# every page that is named exists
grep -ho '^\.Xr fvm[a-z-]* [1-8]' man/*.[1-8] | sort -u | while read -r _ name section; do
	[ -e "man/$name.$section" ] || echo "man/: $name($section) is named but not there"
done | {
	! grep .
} || status=1
exit $status
