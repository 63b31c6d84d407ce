#!/bin/sh
# The commands of one VM's life, silent, until one fails: life.sh DIR [OPTION..], where DIR is made
# and removed, and the options are those of run and create.
set -u
dir=$1
shift
rm -rf "$dir" && mkdir "$dir" && echo old >"$dir/old" || exit 1
fvm -q run --rm "$@" true &&
	fvm -q create "$@" one &&
	fvm -q start one &&
	fvm -q exec one sh -c "echo 1 >$dir/new; rm $dir/old; mkdir $dir/sub; ln -s new $dir/link" &&
	fvm -q stop one &&
	fvm -q diff one "$dir" | grep -q "$dir/new" &&
	fvm -q snapshot one tag &&
	fvm -q clone one two &&
	fvm -q run --name two sh -c "grep -q 1 $dir/new && echo 2 >$dir/new" &&
	fvm -q export two "$dir.tar" &&
	fvm -q import "$dir.tar" three &&
	fvm -q run --name three grep -q 2 "$dir/new" &&
	fvm -q commit one "$dir" &&
	grep -q 1 "$dir/new" && [ ! -e "$dir/old" ] &&
	fvm -q undo &&
	grep -q old "$dir/old" && [ ! -e "$dir/new" ] &&
	fvm -q rm one two three
status=$?
rm -rf "$dir" "$dir.tar"
exit $status
