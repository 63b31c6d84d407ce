#!/usr/bin/env bats
# MariaDB with asynchronous I/O of the kernel's (innodb_use_native_aio), written to all the time.
# limit: 900
# test-limit: 600
load helper

setup_file() {
	e2e_setup_file
	base mariadb-server
}

ask() { fvm exec "$1" mariadb -Ne "$2"; }
answers() { ask "$1" 'select 1' >/dev/null 2>&1; }
acknowledged() { fvm exec "$1" sh -c 'wc -l </root/told'; }
same() { [ "$(ask "$1" 'select count(*), max(id) from t.log' | tr '\t' ' ')" = "$2 $2" ]; }

@test "each transaction that mariadb acknowledged is there, once" {
	vm
	fvm exec one install -d -o mysql /run/mysqld
	behind one mariadbd-safe --user=mysql
	wait_until 60 answers one
	equal "$(ask one 'select @@innodb_use_native_aio')" 1
	ask one 'create database t; create table t.log (id bigint primary key)'
	# each transaction is acknowledged by a line of its number
	behind one sh -c 'i=0; while [ ! -e /root/enough ]; do i=$((i + 1))
		echo "begin; insert into t.log values ($i); commit; select $i;"
		[ $((i % 50)) != 0 ] || sleep 0.02; done | mariadb -N -n >/root/told; echo over >/root/over'
	wait_until 60 further acknowledged one 100
	travels acknowledged
	local vm told
	for vm in one two; do
		fvm exec "$vm" touch /root/enough
		wait_until 120 fvm exec "$vm" test -e /root/over
		told=$(fvm exec "$vm" tail -n 1 /root/told)
		equal "$(acknowledged "$vm")" "$told"
		same "$vm" "$told"
		ask "$vm" 'check table t.log' | grep -qw OK
	done
}
