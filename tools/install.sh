#!/bin/sh
# Put the built files in place, or take exactly those away again.
#
#   tools/install.sh install|uninstall BUILDDIR PREFIX DESTDIR
#
# Directories that were not there before are noted in share/fvm/directories, and go with the files.
set -eu
mode=$1 build=$2 prefix=$3 destdir=$4

case $prefix in
/*) ;;
*) echo "install: PREFIX must be an absolute path, not '$prefix'" >&2; exit 2 ;;
esac
case $destdir in
'' | /*) ;;
*) destdir=$PWD/$destdir ;;
esac
meson configure "$build" -Dprefix="$prefix" >/dev/null
ninja -C "$build" --quiet
noted=$destdir$prefix/share/fvm/directories

# What is installed is known by installing it into an empty place.
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
meson install -C "$build" --no-rebuild --quiet --destdir "$scratch/tree" >/dev/null
(cd "$scratch/tree" && find . ! -type d) >"$scratch/files"
(cd "$scratch/tree" && find . -depth -type d) >"$scratch/directories"

put() {
	# what an earlier installation made is ours still
	while IFS= read -r dir; do
		if [ ! -d "$destdir/$dir" ] || grep -qxFse "$dir" "$noted"; then
			printf '%s\n' "$dir"
		fi
	done <"$scratch/directories" >"$scratch/made"
	meson install -C "$build" --no-rebuild --quiet ${destdir:+--destdir "$destdir"}
	cp "$scratch/made" "$noted"
	chmod 0644 "$noted"
	echo "installed under $destdir$prefix"
}

take_away() {
	cp "$noted" "$scratch/made" 2>/dev/null || : >"$scratch/made"
	rm -f -- "$noted"
	while IFS= read -r file; do
		rm -f -- "$destdir/$file"
	done <"$scratch/files"
	# deepest first; what others put something into stays
	while IFS= read -r dir; do
		rmdir --ignore-fail-on-non-empty -- "$destdir${dir#.}" 2>/dev/null || :
	done <"$scratch/made"
	echo "removed; VMs in /var/lib/fvm and ~/.local/share/fvm were left: fvm rm takes those"
}

case $mode in
install) put ;;
uninstall) take_away ;;
*) echo "install: there is no '$mode'" >&2; exit 2 ;;
esac
