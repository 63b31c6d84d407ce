#!/bin/sh
# All shell scripts and bats files are clean by shellcheck, and bats asks what it seems to ask.
set -eu
cd "$1"
list() { git ls-files -co --exclude-standard -- "$@"; }
{
	list '*.sh' '*.bash' .ci/run
	list tools bench contrib tests | while IFS= read -r file; do
		case $file in *.sh | *.bash | *.bats) continue ;; esac
		if head -n 1 -- "$file" | tr -d '\0' | grep -qE '^#! ?/(usr/)?bin/(env )?(ba)?sh'; then
			printf '%s\n' "$file"
		fi
	done
} | sort -u | xargs -r shellcheck
# bats: variables are set by "run" and helper.bash, and each test is a function of its own
list '*.bats' | xargs -r shellcheck --shell=bats -e SC1091,SC2016,SC2030,SC2031,SC2154,SC2164,SC2034
# in "says a && says b" only the last one can fail a test
if list '*.bats' | xargs -r grep -nE '^[[:space:]]*says .* && says ' | grep -v '||'; then
	echo "check-scripts: a line for each \"says\": the first of several would be asked in vain" >&2
	exit 1
fi
