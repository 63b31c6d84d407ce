#!/bin/sh
# All .c files are laid out as .clang-format says; "make format" does it. Headers are laid out by
# hand: their aligned comments are tables, which the tool would break.
set -eu
cd "$1"
bad=$(git ls-files -co --exclude-standard '*.c' | xargs -r clang-format --dry-run --Werror 2>&1 |
	grep 'error:' | cut -d: -f1 | sort | uniq -c) || :
[ -z "$bad" ] && exit 0
printf '%s\n' "$bad" | sed 's/$/: run make format/'
exit 1
