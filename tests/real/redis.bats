#!/usr/bin/env bats
# Redis under load from several clients, while it saves itself.
# limit: 900
# test-limit: 600
load helper

setup_file() {
	e2e_setup_file
	base redis-server
}

ask() { fvm exec "$1" redis-cli -p 6400 "${@:2}"; }
pongs() { [ "$(ask "$1" ping 2>/dev/null)" = PONG ]; }
counted() { ask "$1" get counter:__rand_int__; }
steps() { fvm exec "$1" cat /root/steps 2>/dev/null; }

@test "redis has counted each request once, and every client got its answers in order" {
	vm
	behind one redis-server --port 6400 --dir /root --appendonly yes --save "2 1" --logfile /root/redis.log
	wait_until 60 pongs one
	behind one sh -c 'cd; while [ ! -e enough ]; do redis-benchmark -p 6400 -n 20000 -c 20 -t incr -q || echo failed
		echo run; done >bench.out 2>&1; echo over >>bench.out'
	behind one sh -c 'cd; exec python3 /opt/real/redis_client.py 6400 .'
	wait_until 60 further steps one 3
	travels counted
	local vm
	for vm in one two; do
		goes_on "$vm" steps
		fvm exec "$vm" touch /root/enough
		wait_until 120 fvm exec "$vm" grep -qx over /root/bench.out
		wait_until 60 fvm exec "$vm" test -e /root/result
		equal "$(fvm exec "$vm" cat /root/result)" well
		fails fvm exec "$vm" grep -iE 'failed|error' /root/bench.out
		equal "$(counted "$vm")" $(($(fvm exec "$vm" grep -cx run /root/bench.out) * 20000))
		# what it wrote meanwhile is whole, and says the same
		fvm exec "$vm" grep -q 'DB saved on disk' /root/redis.log
		ask "$vm" save
		fvm exec "$vm" redis-check-rdb /root/dump.rdb >/dev/null
		local counted
		counted=$(counted "$vm")
		ask "$vm" shutdown nosave
		behind "$vm" redis-server --port 6400 --dir /root --appendonly yes --save ""
		wait_until 60 pongs "$vm"
		equal "$(counted "$vm")" "$counted"
	done
}
