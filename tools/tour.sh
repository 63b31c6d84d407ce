#!/bin/sh
# A first look: a real package goes into a VM of this machine, is seen by nobody else, and goes.
#
#   tools/tour.sh BUILDDIR
#
# Every line shown after "$" is what is run. The VM lives in a store of its own under /tmp, so
# that nothing of the caller's is touched; whatever fails, it is removed at the end.
set -eu
build=$(cd "$1" && pwd)
package=hello

FVM_HOME=$(mktemp -d "${TMPDIR:-/tmp}/fvm-tour.XXXXXX")
export FVM_HOME
stage=$FVM_HOME/programs
"$(dirname "$0")/stage.sh" "$build" "$stage"
PATH=$stage/bin:$PATH

tidy() {
	fvm -q rm --force tour >/dev/null 2>&1 || :
	fvm -q prune --all >/dev/null 2>&1 || :
	rm -rf -- "$FVM_HOME"
}
trap tidy EXIT
trap 'exit 130' INT TERM

bold='' plain=''
if [ -t 1 ]; then
	bold=$(printf '\033[1m') plain=$(printf '\033[0m')
fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

# As somebody would type it: what has blanks in quotes.
show() {
	printf '$'
	for word in "$@"; do
		case $word in *[!A-Za-z0-9_./=:-]*) word="'$word'" ;; esac
		printf ' %s' "$word"
	done
	echo
	"$@"
}

# Some machines have no package lists yet: then they are fetched, inside the VM too.
install="apt-get install -y -q $package"
apt-cache show "$package" >/dev/null 2>&1 || install="apt-get update -q && $install"

if [ -e "/usr/bin/$package" ]; then
	echo "tour: $package is installed on this machine already, so it would show nothing:" >&2
	echo "tour: remove it, or try: fvm run --root bash" >&2
	exit 1
fi

say "Install a package in a virtual machine of this machine"
# shellcheck disable=SC2086  # words of one command
case $install in
*'&&'*) show fvm run --name tour --root --keep -- sh -c "$install" ;;
*) show fvm run --name tour --root --keep -- $install ;;
esac
say "It runs there .."
show fvm run --name tour "$package"
say ".. and is not on this machine"
show ls -l "/usr/bin/$package" || :
[ ! -e "/usr/bin/$package" ]
say "What the installation changed, by meaning and by path"
show fvm diff --meaning tour
show fvm diff --stat tour
say "Throw it away: nothing is left"
show fvm rm --force tour
show fvm ls
[ -z "$(fvm --json ls | tr -d '[:space:][]')" ]
say "Next"
echo "make install puts fvm where your shell finds it; until then it is $build/src/cli/fvm."
echo "fvm run bash, change what you like, then fvm diff, fvm commit or fvm rm: see the README's tour."
