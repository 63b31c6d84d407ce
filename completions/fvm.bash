# bash completion for fvm: asks fvm itself, so that it knows every command and option there is.
# shellcheck shell=bash

# _fvm_words KIND COMMAND [OPTION]: from the hidden table of commands (see fvm __commands)
#   commands           all commands
#   options COMMAND    its options
#   argument C OPTION  the name of OPTION's argument
#   operands COMMAND   its operands
_fvm_words() {
	"${FVM_PROGRAM:-fvm}" __commands 2>/dev/null | awk -F'\t' -v kind="$1" -v command="${2-}" -v option="${3-}" '
		$1 != "" { here = $1 == command }
		kind == "commands" && $1 != "" { print $1 }
		kind == "operands" && $1 != "" && here { print $3 }
		kind == "options" && $1 == "" && here {
			print $2
			if ($3 != "-") print "-" $3
		}
		kind == "argument" && $1 == "" && here && (option == $2 || option == "-" $3) { print $4 }'
}

# _fvm_values NAME WORD: what an argument or operand of that name may be
_fvm_values() {
	case $1 in
	*'|'*[a-z]*)
		local IFS='|'
		# shellcheck disable=SC2086  # one word for each alternative
		compgen -W "${1//|/$'\n'}" -- "$2"
		;;
	VM*) compgen -W "$("${FVM_PROGRAM:-fvm}" ls --names 2>/dev/null)" -- "$2" ;;
	PATH* | FILE* | DIR* | S[[]* | CMD*) compgen -f -- "$2" ;;
	USER*) compgen -u -- "$2" ;;
	SIG*) compgen -A signal -- "SIG$2" ;;
	esac
}

_fvm() {
	local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command='' i
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
	local argument=''
	case $previous in -*) argument=$(_fvm_words argument "$command" "$previous") ;; esac
	if [ -n "$argument" ]; then
		mapfile -t COMPREPLY < <(_fvm_values "$argument" "$word")
		return
	fi
	case $word in
	-*)
		mapfile -t COMPREPLY < <(compgen -W "$(_fvm_words options "$command") --help" -- "$word")
		return
		;;
	esac
	# the next operand's name; what follows the last one is files
	local operands
	operands=$(_fvm_words operands "$command")
	case $operands in
	*VM*) mapfile -t COMPREPLY < <(_fvm_values VM "$word"; [ $((COMP_CWORD - i)) -gt 1 ] && compgen -f -- "$word") ;;
	'') ;;
	*) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
	esac
}

complete -o filenames -F _fvm fvm
