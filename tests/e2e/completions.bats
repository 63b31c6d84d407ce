# The shells' completions, asked as the shells ask them.
load helper

setup() {
	HERE=$PWD/completions
	fvm -q create --net none some-vm
}

# bash_says LINE: what bash offers at its end
bash_says() {
	bash --norc --noprofile -c '. "$1"; read -ra COMP_WORDS <<<"$2"
		[ "${2% }" = "$2" ] || COMP_WORDS+=("")
		COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$2
		_fvm; printf "%s\n" "${COMPREPLY[@]}"' - "$HERE/fvm.bash" "$1"
}

# zsh_says LINE: what zsh shows when the tabulator key is pressed after it
zsh_says() {
	zsh -f -c '
		zmodload zsh/zpty
		zpty shell zsh -f -i
		zpty -w shell "PROMPT= TERM=dumb; fpath=($1 \$fpath); autoload -U compinit; compinit -u -d $3/zcompdump"
		zpty -w shell "zstyle \":completion:*\" list-prompt \"\"; setopt AUTO_LIST LIST_ROWS_FIRST; LISTMAX=0; echo re\"\"ady"
		zpty -r shell out "*ready*"
		zpty -n -w shell "$2"$'"'\t'"'
		sleep 0.7
		while zpty -rt shell out; do print -rn -- "$out"; done
		zpty -d shell' - "$HERE" "$1" "$E2E" | tr -d '\r' |
		sed 's/\x1b\[[?0-9;]*[a-zA-Z]/ /g'
}

fish_says() { HOME=$E2E fish --no-config -c 'source $argv[1]; complete -C $argv[2]' "$HERE/fvm.fish" "$1"; }

has() { grep -qE -- "(^|[[:space:]])$1([[:space:]]|$)" <<<"$2" || { printf 'no %s in:\n%s\n' "$1" "$2" >&2; return 1; }; }

# asks SHELL: the same of all of them
asks() {
	local says=${1}_says got
	got=$($says "fvm co")
	has commit "$got"
	got=$($says "fvm exec so")
	has some-vm "$got"
	got=$($says "fvm run --ne")
	has --net "$got"
	got=$($says "fvm run --net ")
	has nat "$got" && has none "$got" && has host "$got"
	got=$($says "fvm help un")
	has undo "$got"
	got=$($says "fvm diff --m")
	has --meaning "$got"
	# each operand is what the usage line says; a command to run is completed as one
	got=$($says "fvm stop first some")
	has some-vm "$got"
	got=$($says "fvm run --name so")
	has some-vm "$got"
	got=$($says "fvm exec some-vm mkdi")
	has mkdir "$got"
	got=$($says "fvm run --net none mkdi")
	has mkdir "$got"
	got=$($says "fvm cp so")
	has some-vm:? "$got"
	got=$($says "fvm exec some-vm cat /etc/passw")
	has /etc/passwd "$got"
	got=$($says "fvm rename some-vm so")
	fails grep -q some-vm <<<"$got"
	# its options are its own
	got=$($says "fvm run mkdir --n")
	fails grep -q -e --net <<<"$got"
}

@test "bash completes commands, VMs, options and their values" { asks bash; }

@test "fish completes commands, VMs, options and their values" {
	needs_command fish
	asks fish
}

@test "zsh completes commands, VMs, options and their values" {
	needs_command zsh
	# it completes what is the only choice, and lists others
	has "fvm commit" "$(zsh_says 'fvm commi')"
	has "fvm exec some-vm" "$(zsh_says 'fvm exec so')"
	has "fvm diff --meaning" "$(zsh_says 'fvm diff --m')"
	has "fvm help undo" "$(zsh_says 'fvm help un')"
	has nat "$(zsh_says 'fvm run --net ')"
	has "fvm stop first some-vm" "$(zsh_says 'fvm stop first some')"
	has "fvm run --name some-vm" "$(zsh_says 'fvm run --name so')"
	has "fvm exec some-vm mkdir" "$(zsh_says 'fvm exec some-vm mkdi')"
	has "fvm run --net none mkdir" "$(zsh_says 'fvm run --net none mkdi')"
	has "fvm run mkdir --parents" "$(zsh_says 'fvm run mkdir --paren')"
	has "fvm cp some-vm:" "$(zsh_says 'fvm cp so')"
	has "fvm kill -s HUP" "$(zsh_says 'fvm kill -s HU')"
}
