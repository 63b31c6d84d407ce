#!/bin/sh
# The work that is done inside and outside of VMs, and timed there: prepare, do, clean up. The last
# line is what "timer -1" prints.
#
#   workload.sh KIND DIR     DIR has src/, tree/, tree.tar as bench/fvm/inside.sh makes them
set -eu
kind=$1 dir=$2
tools=$(dirname "$0")
quick=${BENCH_QUICK:-}
sized() { if [ "$quick" ]; then echo "$2"; else echo "$1"; fi; }
timed() { "$tools/bench-timer" -1 "$@"; }

# Without optimisation: the compiler then asks the system for as much in a third of the time.
compile() {
	make -s -C "$dir/src/programs" clean >/dev/null
	line=$(timed make -s -j "$(nproc)" -C "$dir/src/programs" zstd MOREFLAGS="-O0 -g0")
	make -s -C "$dir/src/programs" clean >/dev/null
	echo "$line"
}

git_status() { timed git -c safe.directory='*' -C "$dir/tree" status --porcelain; }

# As many rows in one transaction, and then one transaction for each row.
sqlite_rows() {
	rm -f "$dir/db"
	timed sqlite3 "$dir/db" "create table t (id integer primary key, k integer, v text);
		create index i on t (k);
		with recursive n (i) as (select 1 union all select i + 1 from n where i < $(sized 400000 2000))
		insert into t select i, (i * 7919) % 1000003, 'value of row ' || i from n;"
	rm -f "$dir/db"
}
sqlite_commits() {
	rm -f "$dir/db"
	{
		echo "create table t (id integer primary key, v text);"
		i=0
		while [ $i -lt "$(sized 200 5)" ]; do
			echo "insert into t (v) values ('$i');"
			i=$((i + 1))
		done
	} >"$dir/load.sql"
	timed sqlite3 "$dir/db" ".read $dir/load.sql"
	rm -f "$dir/db" "$dir/load.sql"
}

processes() { timed "$tools/bench-forks" "$(sized 1000 20)" /bin/true; }

create() {
	rm -rf "$dir/new"
	timed "$tools/bench-files" make "$dir/new" "$(sized 20000 100)" 1024
	rm -rf "$dir/new"
}

# Reads of what the host has.
find_tree() { timed find "$dir/tree" -type f -size +100k; }

untar() {
	rm -rf "$dir/out"
	mkdir "$dir/out"
	timed tar -xf "$dir/tree.tar" -C "$dir/out"
	rm -rf "$dir/out"
}
delete() {
	rm -rf "$dir/out"
	mkdir "$dir/out"
	tar -xf "$dir/tree.tar" -C "$dir/out"
	timed rm -rf "$dir/out"
}

"$kind"
