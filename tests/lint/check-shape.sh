#!/bin/sh
# What STYLE 8 says of size: a .c file at most 1000 lines, a header 400, a function 150, a line
# 100 columns (a tab is 8; 108 in a header, where comments are aligned by hand), and no space at a
# line's end.
set -eu
cd "$1"
status=0
for file in $(git ls-files -co --exclude-standard '*.c' '*.h'); do
	case $file in *.c) limit=1000 columns=100 ;; *) limit=400 columns=108 ;; esac
	awk -v file="$file" -v limit="$limit" -v columns="$columns" '
		{
			column = 0
			for (i = 1; i <= length($0); i++)
				column = substr($0, i, 1) == "\t" ? column + 8 - column % 8 : column + 1
			if (column > columns) { print file ":" NR ": " column " columns"; bad = 1 }
			if ($0 ~ /[ \t]$/) { print file ":" NR ": space at the end"; bad = 1 }
		}
		/^{/ { start = NR }
		/^}/ {
			if (start && NR - start > 150) {
				print file ":" start ": a function of " NR - start " lines"; bad = 1
			}
			start = 0
		}
		END {
			if (NR > limit) { print file ": " NR " lines, at most " limit; bad = 1 }
			exit bad
		}' "$file" || status=1
done
exit $status
