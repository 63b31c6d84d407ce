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
mkdir -p "$stage/bin" "$stage/libexec/fvm"
cp "$build/src/cli/fvm" "$stage/bin/"
cp "$build/src/cli/fvm-changes" "$stage/libexec/fvm/"
PATH=$stage/bin:$PATH

tidy() {
	fvm -q rm --force tour >/dev/null 2>&1 || :
	rm -rf -- "$FVM_HOME"
}
trap tidy EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() {
	printf '$ %s\n' "$*"
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
show fvm run --name tour --root --keep -- sh -c "$install"
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
say "Next: fvm run bash, change what you like, then fvm diff, fvm commit or fvm rm."
