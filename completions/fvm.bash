# bash completion for fvm: asks fvm itself, so that it knows every command and option there is.
# shellcheck shell=bash

# From the hidden table of commands (see fvm __commands):
#   _fvm_words commands          all commands
#   _fvm_words options COMMAND   a line "--NAME LETTER ARGUMENT" for each of its options
#   _fvm_words operands COMMAND  its operands
_fvm_words() {
	"${FVM_PROGRAM:-fvm}" __commands 2>/dev/null | awk -F'\t' -v kind="$1" -v command="${2-}" '
		$1 != "" { here = $1 == command }
		kind == "commands" && $1 != "" { print $1 }
		kind == "operands" && $1 != "" && here { print $3 }
		kind == "options" && $1 == "" && here { print $2, $3, $4 }'
}

_fvm_vms() { "${FVM_PROGRAM:-fvm}" ls --names 2>/dev/null; }

# _fvm_values NAME WORD: what an argument or operand of that name may be
_fvm_values() {
	case $1 in
	*'|'*[a-z]*) compgen -W "${1//|/ }" -- "$2" ;;
	*VM:*) compgen -S : -W "$(_fvm_vms)" -- "$2"; compgen -f -- "$2" ;;
	VM*) compgen -W "$(_fvm_vms)" -- "$2" ;;
	CMD*) compgen -c -- "$2" ;;
	PATH* | FILE* | DIR* | S[[]*) compgen -f -- "$2" ;;
	USER*) compgen -u -- "$2" ;;
	SIG*) compgen -A signal -- "$2"; compgen -A signal -- "SIG$2" ;;
	esac
}

# _fvm_operand INDEX OPERANDS: the name of that operand; the last one's when it has dots
_fvm_operand() {
	local name last='' n=0
	# shellcheck disable=SC2086  # one word for each operand
	for name in $2; do
		[ "$name" = '[--]' ] && continue
		[ $n = "$1" ] && break
		case $name in *..*) last=$name ;; *) last= ;; esac
		name=
		n=$((n + 1))
	done
	name=${name:-$last}
	case $name in '[VM:]'*) ;; *) name=${name#[} ;; esac
	printf '%s\n' "$name"
}

_fvm() {
	local word=${COMP_WORDS[COMP_CWORD]} command='' i
	COMPREPLY=()
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		-*) ;;
		*) command=${COMP_WORDS[i]}; break ;;
		esac
	done
	if [ -z "$command" ]; then
		mapfile -t COMPREPLY < <(compgen -W "$(_fvm_words commands) help --json --quiet --debug --help --version" -- "$word")
		return
	fi
	if [ "$command" = help ]; then
		mapfile -t COMPREPLY < <(compgen -W "$(_fvm_words commands)" -- "$word")
		return
	fi
	local -A takes=()
	local options=() name letter argument operands
	while read -r name letter argument; do
		options+=("$name")
		[ "$letter" = - ] || options+=("-$letter")
		[ -z "$argument" ] || takes[$name]=$argument takes[-$letter]=$argument
	done < <(_fvm_words options "$command")
	operands=$(_fvm_words operands "$command")

	# what stands between the command and here: options with their arguments, and operands
	local count=0 over='' wanted='' at=0
	for ((i++; i < COMP_CWORD; i++)); do
		wanted=
		case $over${COMP_WORDS[i]} in
		-- | over--) over=over ;;
		-*)
			wanted=${takes[${COMP_WORDS[i]}]-}
			[ "$command ${COMP_WORDS[i]}" = 'run --name' ] && wanted=VM
			[ "${COMP_WORDS[i + 1]-}" = '=' ] && i=$((i + 1)) # "--net=nat" is three words
			[ "$wanted" ] && [ $((i + 1)) -lt "$COMP_CWORD" ] && i=$((i + 1)) wanted=
			;;
		*)
			case ${COMP_WORDS[i]} in :) continue ;; esac # "VM:PATH" is three, too
			[ "${COMP_WORDS[i - 1]}" = : ] && continue
			case $(_fvm_operand $count "$operands") in CMD*) [ $at = 0 ] && at=$i ;; esac
			count=$((count + 1))
			# options of a command that is run are its own
			case $operands in *CMD*) over=over ;; esac
			;;
		esac
	done
	[ "$word" = '=' ] && word=
	if [ "$wanted" ]; then
		mapfile -t COMPREPLY < <(_fvm_values "$wanted" "$word")
	elif [ -z "$over" ] && [[ $word == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "${options[*]} --help" -- "$word")
	elif [ $at -gt 0 ] && declare -F _command_offset >/dev/null; then
		_command_offset "$at"
	elif [ $at -gt 0 ] || [ "$word" = : ] || [ "${COMP_WORDS[COMP_CWORD - 1]}" = : ]; then
		mapfile -t COMPREPLY < <(compgen -f -- "${word#:}")
	else
		wanted=$(_fvm_operand $count "$operands")
		case $wanted in *VM:*) compopt -o nospace 2>/dev/null ;; esac
		mapfile -t COMPREPLY < <(_fvm_values "$wanted" "$word")
	fi
}

complete -o filenames -F _fvm fvm
