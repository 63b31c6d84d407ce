#!/bin/sh
# clang-tidy is silent on every C file of the build. A file that passed is looked at again only
# when it, a header of it, or .clang-tidy changed: what was preprocessed is the key.
#
#   check-tidy.sh SOURCE BUILDDIR [FILE..]     only these: absolute names, or as seen from BUILDDIR
set -u
cd "$1" || exit 1
source=$PWD
build=$(cd "$2" && pwd -P)
stamps=$build/tidy
mkdir -p "$stamps"

# One file: prints what clang-tidy says and returns 1, or leaves a stamp.
tidy_one() {
	file=$(cd "$build" && realpath --relative-to=. "$1")
	command=$(jq -r --arg f "$file" 'first(.[] | select(.file == $f)).command' \
		"$build/compile_commands.json" | sed 's/ -o [^ ]*\.o / /; s/ -M[A-Z]* [^ ]*//g; s/ -MD//')
	if [ -z "$command" ]; then
		echo "check-tidy: $1 is no file of the build"
		return 1
	fi
	key=$({
		cat "$source/.clang-tidy"
		cd "$build" && eval "$command -E -P -w" 2>/dev/null
	} | sha256sum | cut -d' ' -f1)
	[ -e "$stamps/$key" ] && return 0
	if (cd "$build" && clang-tidy --quiet -p . "$file" 2>&1) >"$stamps/log.$$"; then
		: >"$stamps/$key"
		status=0
	else
		grep -v 'warnings generated\|^$' "$stamps/log.$$"
		status=1
	fi
	rm -f "$stamps/log.$$"
	return $status
}

if [ "${3-}" ]; then
	status=0
	shift 2
	for file in "$@"; do
		tidy_one "$file" || status=1
	done
	exit $status
fi

jq -r '.[].file' "$build/compile_commands.json" | sort -u |
	xargs -r -P "$(nproc)" -n 4 "$0" "$source" "$build"
