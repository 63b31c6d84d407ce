#!/bin/bash
# Every command has a manual page; --help, page and the completions of three shells have the same
# options as the program's own table, and no page tells of an option that no program has.
#
#   check-docs.sh SOURCE BUILDDIR
set -u
cd "$1" || exit 1
FVM_PROGRAM=$(cd "$2" && pwd)/src/cli/fvm
export FVM_PROGRAM
table=$("$FVM_PROGRAM" __commands) || exit 1
status=0

complain() {
	printf '%s\n' "$*"
	status=1
}

options_of() { # COMMAND: "--long letter" of each
	printf '%s\n' "$table" | awk -F'\t' -v c="$1" '$1 != "" { here = $1 == c; next } here { print $2, $3 }'
}

# The file of man/ whose NAME section has fvm-COMMAND.
page_of() {
	local page
	for page in man/*.1; do
		awk -v name="fvm-$1" '
			/^\.Sh SYNOPSIS/ { exit 1 }
			$1 == ".Nm" && $2 == name { found = 1; exit }
			END { exit !found }' "$page" && echo "$page" && return
	done
}

# Long and short options that a page describes.
options_in_page() {
	sed -n 's/^\.It \(Fl .*\)/\1/p; s/^\.Op \(Fl .*\)/\1/p' "$1" | tr ' ' '\n' | grep -E '^-[a-z]' | sed 's/^/-/' |
		grep -vx -e --json | sort -u
}

# ---- pages and --help ----
commands=$(printf '%s\n' "$table" | awk -F'\t' '$1 != "" { print $1 }')
declare -A described=()
for command in $commands; do
	page=$(page_of "$command")
	if [ -z "$page" ]; then
		complain "$command: no page of man/ has it in its NAME section"
		continue
	fi
	described[$page]+=" $command"
	help=$("$FVM_PROGRAM" "$command" --help) || complain "$command --help fails"
	page_options=$(options_in_page "$page")
	while read -r long letter; do
		[ "$long" ] || continue
		grep -qxe "$long" <<<"$page_options" || complain "$page: no $long of fvm $command"
		grep -qwe "$long" <<<"$help" || complain "fvm $command --help: no $long"
		[ "$letter" = - ] || grep -qE "^\.It Fl $letter( Ar [^ ]+)? , Fl $long( |\$)" <<<"$(sed 's/Fl -/Fl --/g' "$page")" ||
			complain "$page: no -$letter beside $long of fvm $command"
	done <<<"$(options_of "$command")"
done

# Nothing stale, in pages all of whose commands are there already.
for page in "${!described[@]}"; do
	all=
	for command in ${described[$page]}; do
		all+=$(options_of "$command")$'\n'
	done
	[ "$(awk '/^\.Sh SYNOPSIS/ { exit } $1 == ".Nm" { n++ } END { print n }' "$page")" = \
		"$(wc -w <<<"${described[$page]}")" ] || continue
	for option in $(options_in_page "$page"); do
		grep -qe "^$option " <<<"$all" || complain "$page: $option is an option of none of:${described[$page]}"
	done
done

# ---- completions ----
# The functions are called by their shell's name: in_bash, in_zsh, in_fish.
# shellcheck source=/dev/null
. completions/fvm.bash
# shellcheck disable=SC2317
in_bash() { # COMMAND: what is offered after "fvm COMMAND -"
	COMP_WORDS=(fvm "$1" -)
	COMP_CWORD=2
	_fvm
	printf '%s\n' "${COMPREPLY[@]}"
}
# shellcheck disable=SC2317
in_zsh() {
	zsh -fc '. completions/_fvm && _fvm_options "$1"' - "$1" | sed 's/^\*//; s/\[.*//'
}
# shellcheck disable=SC2317,SC2016
in_fish() {
	fish --no-config -c 'source completions/fvm.fish; complete -C "fvm $argv[1] -"' "$1" | cut -f1
}
for shell in bash zsh fish; do
	command -v $shell >/dev/null || continue
	for command in $commands; do
		offered=$(in_$shell "$command")
		while read -r long letter; do
			[ "$long" ] || continue
			grep -qxe "$long" <<<"$offered" || complain "$shell: $long is not offered for fvm $command"
			[ "$letter" = - ] || grep -qxe "-$letter" <<<"$offered" ||
				complain "$shell: -$letter is not offered for fvm $command"
		done <<<"$(options_of "$command")"
	done
done
offered=$(COMP_WORDS=(fvm '') COMP_CWORD=1 && _fvm && printf '%s\n' "${COMPREPLY[@]}")
for command in $commands; do
	grep -qxe "$command" <<<"$offered" || complain "bash: the command $command is not offered"
done

# ---- examples: what is shown to be typed is understood ----
# Lines "$ fvm .." of manuals and README, and commands of fvm between backticks of the README: the
# command is there, and so is each option before "--" or the command to run.
# shellcheck disable=SC2016
check_examples='
	FNR == NR { if ($1 != "") { here = $1; known[here] = 1; operands[here] = $3 }
		else { option[here, $2] = option[here, "-" $3] = 1; takes[here, $2] = takes[here, "-" $3] = $4 != "" }
		next }
	{
		count = split($0, word, " ")
		for (at = 2; at <= count && word[at] ~ /^(--json|-q|--debug)$/; at++)
			;
		command = word[at]
		if (command ~ /^(help|--help|--version|\[?COMMAND|[.]+)$/ || at > count) next
		if (!known[command]) { print "there is no command of: " $0; next }
		for (at++; at <= count && word[at] != "--" && word[at] !~ /^[|>]/; at++) {
			if (word[at] !~ /^-./) { if (operands[command] ~ /CMD/ && seen++ >= (operands[command] ~ /^VM/)) break; continue }
			name = word[at]
			sub(/=.*/, "", name)
			if (name !~ /^(--json|--quiet|--help)$/ && !option[command, name]) print "there is no " name " in: " $0
			if (takes[command, name] && word[at] !~ /=/) at++
		}
		seen = 0
	}'
# shellcheck disable=SC2016  # backticks of the page
bad=$({
	sed -n 's/^\$ \(fvm .*\)/\1/p' man/*.[1-8] README.md
	grep -ho '`fvm [^`]*`' README.md docs/*.md | tr -d '`'
} | sed 's/ *[|#].*//' | awk -F'\t' "$check_examples" <(printf '%s\n' "$table") -)
[ -z "$bad" ] || complain "$bad"

# ---- the tests that docs/security.md names, and the letters of its table ----
# shellcheck disable=SC2016
lettered='^- ([A-Za-z ]+) `([a-z_]+)`: (.*)$'
while IFS=$'\t' read -r file title; do
	grep -qF "@test \"$title\"" "tests/e2e/$file.bats" ||
		complain "docs/security.md: tests/e2e/$file.bats has no test '$title'"
done < <(sed -nE "s/$lettered/\\2\\t\\3/p" docs/security.md)
known=$(sed -nE "s/$lettered/\\1/p" docs/security.md | tr ' ' '\n' | sort -u)
used=$(awk '/^\| channel \| VM to host/ { on = 1; next } on && !/^\|/ { exit } on' docs/security.md |
	cut -d'|' -f3- | grep -o '[A-Za-z]' | sort -u)
[ "$known" = "$used" ] ||
	complain "docs/security.md: letters of the table and of the list differ: $(comm -3 <(echo "$known") <(echo "$used") | tr -d '\n')"

exit $status
