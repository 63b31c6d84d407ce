#!/usr/bin/env bats
# nginx under wrk: no failed request.
# limit: 900
# test-limit: 600
load helper

setup_file() {
	e2e_setup_file
	base nginx-light wrk
}

served() { fvm exec "$1" sh -c 'wc -l </var/log/nginx/access.log'; }

@test "nginx answers each request of wrk, with what was asked for" {
	vm
	fvm exec one sh -ec 'cd /var/www/html; i=0; while [ $i -lt 50 ]; do
		awk -v i=$i "BEGIN { for (k = 0; k < 100 * i; k++) print i, k; print \"end\", i }" >$i.txt; i=$((i + 1)); done'
	behind one nginx -g 'daemon off; worker_rlimit_nofile 1000;'
	behind one sh -c 'cd; while ! test -s /run/nginx.pid; do sleep 0.1; done
		wrk -t 2 -c 64 -d 3600 --timeout 600 -s /opt/real/wrk.lua http://127.0.0.1/ >wrk.out 2>&1 & echo $! >wrk.pid
		wait; echo over >>wrk.out'
	wait_until 60 further served one 1000
	travels served
	local vm
	for vm in one two; do
		fvm exec "$vm" sh -c 'kill -INT "$(cat /root/wrk.pid)"'
		wait_until 60 fvm exec "$vm" grep -qx over /root/wrk.out
		fails fvm exec "$vm" grep -E 'Socket errors|Non-2xx' /root/wrk.out
		fvm exec "$vm" grep -qx 'wrong bodies: 0' /root/wrk.out
		# those under way when wrk ended are in the log only
		local asked served
		asked=$(fvm exec "$vm" sed -n 's/^ *\([0-9]*\) requests in.*/\1/p' /root/wrk.out)
		served=$(served "$vm")
		[ "$served" -ge "$asked" ] && [ "$served" -le $((asked + 64)) ]
		equal "$(fvm exec "$vm" sh -c 'cut -d " " -f 9 /var/log/nginx/access.log | sort -u')" 200
		fails fvm exec "$vm" grep -E 'alert|emerg|crit' /var/log/nginx/error.log
	done
}
