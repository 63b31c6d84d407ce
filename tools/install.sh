#!/bin/sh
# Put the built files in place, or take exactly those away again.
#
#   tools/install.sh install|uninstall BUILDDIR PREFIX DESTDIR
set -eu
mode=$1 build=$2 prefix=$3 destdir=$4

case $prefix in
/*) ;;
*) echo "install: PREFIX must be an absolute path, not '$prefix'" >&2; exit 2 ;;
esac
meson configure "$build" -Dprefix="$prefix" >/dev/null
ninja -C "$build" --quiet

# What is installed is known by installing it into an empty place.
uninstall() {
	scratch=$(mktemp -d)
	trap 'rm -rf -- "$scratch"' EXIT
	meson install -C "$build" --no-rebuild --quiet --destdir "$scratch" >/dev/null
	(cd "$scratch" && find . ! -type d) | while IFS= read -r file; do
		rm -f -- "$destdir/$file"
	done
	# directories that carry our name are ours; the others belong to the system
	(cd "$scratch" && find . -depth -type d) | while IFS= read -r dir; do
		case $dir in
		*/fvm | */fvm/*) rmdir --ignore-fail-on-non-empty -- "$destdir/$dir" 2>/dev/null || : ;;
		esac
	done
	echo "removed; VMs in /var/lib/fvm and ~/.local/share/fvm were left: fvm rm takes those"
}

case $mode in
install)
	meson install -C "$build" --no-rebuild --quiet ${destdir:+--destdir "$destdir"}
	echo "installed under $destdir$prefix"
	;;
uninstall) uninstall ;;
*) echo "install: there is no '$mode'" >&2; exit 2 ;;
esac
