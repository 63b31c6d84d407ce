#!/usr/bin/env bats
# PostgreSQL under pgbench: no transaction lost, none doubled.
# limit: 900
# test-limit: 600
load helper

setup_file() {
	e2e_setup_file
	base postgresql postgresql-contrib
}

sql() { fvm exec --user postgres "$1" psql -Atqc "$2" bench; }
transactions() { sql "$1" 'select count(*) from pgbench_history'; }
answers() { fvm exec --user postgres "$1" psql -Atqc 'select 1' postgres >/dev/null 2>&1; }

@test "pgbench's transactions are all there once, and the balances agree" {
	vm
	fvm cp tests/e2e/software/database.sh one:/opt/real/database.sh
	behind one sh /opt/real/database.sh
	wait_until 60 answers one
	fvm exec --user postgres one sh -ec 'createdb bench; pgbench -qi -s 3 bench 2>/dev/null
		psql -qc "create extension amcheck; create table kept (n int)" bench'
	behind --user postgres one sh -c 'cd /tmp; while [ ! -e enough ]; do
		pgbench -n -c 8 -j 4 -t 100 bench; done >bench.out 2>&1; echo over >>bench.out'
	# a session in the middle of a transaction, with a table and a lock of its own
	behind --user postgres one sh -c 'cd /tmp; { echo "begin; create temp table mine as select 42 as n;
		insert into kept values (7); select pg_advisory_lock(77);"; while [ ! -e enough ]; do sleep 0.1; done
		echo "select n + 1 from mine; commit;"; } | psql -Atq bench >session.out 2>&1; echo over >>session.out'
	travels transactions
	local vm
	for vm in one two; do
		equal "$(sql "$vm" 'select pg_try_advisory_lock(77), (select count(*) from kept)')" "f|0"
		fvm exec "$vm" touch /tmp/enough
		wait_until 120 fvm exec "$vm" grep -qx over /tmp/bench.out
		wait_until 60 fvm exec "$vm" grep -qx over /tmp/session.out
		equal "$(fvm exec "$vm" sh -c 'grep . /tmp/session.out | paste -sd " "')" "43 over"
		equal "$(sql "$vm" 'select sum(n) from kept')" 7
		fails fvm exec "$vm" grep -iE 'error|fatal|aborted' /tmp/bench.out
		[ "$(fvm exec "$vm" grep -c '^number of failed transactions: 0 ' /tmp/bench.out)" = \
			"$(fvm exec "$vm" grep -c '^number of transactions actually' /tmp/bench.out)" ]
		equal "$(fvm exec "$vm" sed -n 's|^number of transactions.*: \(.*\)/.*|\1|p' /tmp/bench.out |
			awk '{ n += $1 } END { print n }')" "$(transactions "$vm")"
		equal "$(sql "$vm" 'select count(distinct s) from (select sum(abalance) s from pgbench_accounts
			union all select sum(tbalance) from pgbench_tellers
			union all select sum(bbalance) from pgbench_branches
			union all select sum(delta) from pgbench_history) sums')" 1
		fvm exec --user postgres "$vm" sh -c 'exec /usr/lib/postgresql/*/bin/pg_amcheck --heapallindexed bench'
	done
}
