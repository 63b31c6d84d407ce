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
# every page of ours that is named exists, as a page or as another name of one
others=$(sed -n "s/^  'fvm[^:]*: \[\(.*\)\],$/\1/p" man/meson.build | tr -d "'," | tr '\n' ' ')
missing=$(cat man/*.[1-8] | sed -n 's/^\.Xr \(fvm[a-z-]*\) \([1-8]\).*/\1.\2/p' | sort -u |
	while read -r name; do
		[ -e "man/$name" ] && continue
		short=${name#fvm-}
		case " $others " in *" ${short%.1} "*) ;; *) echo "$name is named but not there" ;; esac
	done)
if [ "$missing" ]; then
	echo "$missing"
	status=1
fi
# and every page is installed
for page in man/*.[1-8]; do
	grep -q "^  '${page#man/}': " man/meson.build || {
		echo "$page: not in man/meson.build"
		status=1
	}
done
exit $status
