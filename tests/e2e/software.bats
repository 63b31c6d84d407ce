# Real software in real VMs: packages with maintainer scripts, builds, databases. Where nobody else
# uses the machine (CI set), the host's files are compared before and after, every path with content.
# limit: 1200
# test-limit: 400
load helper

setup_file() {
	e2e_setup_file
	# before the inventory: an account comes and goes with changes of /etc
	[ "$(id -u)" != 0 ] || user_make one
	[ -z "${CI:-}" ] || host_inventory before
}

teardown_file() {
	local status=0
	if [ -n "${CI:-}" ]; then
		host_inventory after
		assert_same_inventory before after || status=1
	fi
	e2e_teardown_file || status=1
	return $status
}

setup() {
	SOFTWARE=$PWD/tests/e2e/software
	needs_root
	export DEBIAN_FRONTEND=noninteractive
}

@test "packages with users, units and triggers install, reinstall, upgrade and go" {
	needs_packages
	expect 0 fvm -q run --rm -- sh "$SOFTWARE/packages.sh"
	says "helper root:messagebus 4754"
	says "test is successful"
	fvm -q run --keep --name pkg -- sh -ec '
		apt-get -qq update
		apt-get -qqy install --no-install-recommends nginx-light cron >/dev/null 2>&1'
	# it stays between runs, and the configuration of a package is a change like any other
	expect 0 fvm -q run --name pkg -- sh -ec 'nginx -v; getent passwd www-data; id messagebus || :'
	says nginx
	fvm diff --name-only pkg >"$E2E/paths"
	grep -qx /etc/nginx/nginx.conf "$E2E/paths"
	[ ! -e /etc/nginx/nginx.conf ]
}

@test "an upgrade of what the host has is tried without the host noticing" {
	needs_packages
	expect 0 fvm -q run --keep --name up -- sh -ec '
		apt-get -qq update
		apt-get -qqy -o Dpkg::Options::=--force-confold upgrade >/dev/null
		dpkg --audit; apt-get -s upgrade | grep -c ^Inst || :'
	equal "${lines[-1]}" 0
}

@test "a database server runs in a detached VM and answers from another exec" {
	needs_packages
	fvm -q run --keep --name db -- sh -ec 'apt-get -qq update
		apt-get -qqy install --no-install-recommends redis-server postgresql >/dev/null'
	fvm start db
	fvm exec -d db redis-server --port 6400 --dir /tmp
	wait_until 30 fvm exec db redis-cli -p 6400 set key value
	equal "$(fvm exec db redis-cli -p 6400 get key)" value
	fvm exec db sh -ec 'pg_lsclusters -h | grep -q . || pg_createcluster 15 main >/dev/null
		pg_ctlcluster 15 main start || pg_ctlcluster 15 main status'
	fvm exec --user postgres db psql -qc 'create table t as select generate_series(1, 1000) n'
	equal "$(fvm exec --user postgres db psql -Atc 'select sum(n) from t')" 500500
	# what it answered from inside is not to be had from the host
	if exec 9<>/dev/tcp/127.0.0.1/6400; then return 1; fi 2>/dev/null
	fvm stop db
	equal "$(fvm --json ls | jq -r '.[] | select(.name == "db") | .state')" stopped
	# and it is all there when it is started again
	fvm start db
	fvm exec db sh -ec 'install -d -o postgres /var/run/postgresql; pg_ctlcluster 15 main start'
	wait_until 30 fvm exec --user postgres db psql -Atc 'select count(*) from t'
	# under load into a file and out of it: nothing is lost, and nothing done twice
	fvm exec --user postgres db sh -ec 'createdb bench; pgbench -qi bench' 2>/dev/null
	fvm exec -d --user postgres db sh -c 'pgbench -c 4 -T 8 bench >/tmp/bench.out 2>&1; echo over >>/tmp/bench.out' >/dev/null
	fvm exec -d db redis-server --port 6400 --dir /tmp >/dev/null
	fvm exec -d db sh -c 'sleep 1; redis-benchmark -p 6400 -n 100000 -c 10 -t incr -q >/tmp/redis.out; echo over >>/tmp/redis.out' >/dev/null
	sleep 3
	fvm checkpoint db "$E2E/db.fvm"
	fvm restore "$E2E/db.fvm" db2
	rm "$E2E/db.fvm"
	wait_until 30 fvm exec db2 grep -q over /tmp/bench.out
	wait_until 30 fvm exec db2 grep -q over /tmp/redis.out
	fvm exec db2 grep -q 'failed transactions: 0' /tmp/bench.out
	equal "$(fvm exec db2 sed -n 's/^number of transactions actually processed: //p' /tmp/bench.out)" \
		"$(fvm exec --user postgres db2 psql -Atc 'select count(*) from pgbench_history' bench)"
	equal "$(fvm exec db2 redis-cli -p 6400 get counter:__rand_int__)" 100000
}

@test "a source package is configured, built and installed" {
	needs_packages
	expect 0 fvm -q run --keep --name src -- sh -ec '
		sed -i "s/^Types: deb$/Types: deb deb-src/" /etc/apt/sources.list.d/*.sources
		sed -i "s/^deb \(.*\)/deb \1\ndeb-src \1/" /etc/apt/sources.list 2>/dev/null || :
		apt-get -qq update
		cd /usr/src && apt-get -qqy source hello >/dev/null 2>&1
		cd hello-*/ && ./configure >/dev/null && make -s -j2 >/dev/null 2>&1 && make -s install >/dev/null
		/usr/local/bin/hello'
	says "Hello, world!"
	[ ! -e /usr/local/bin/hello ]
	expect 0 fvm diff --name-only src
	says /usr/local/bin/hello
}

@test "what node, python and git install, build and pack works as outside" {
	needs_packages
	expect 0 fvm -q run --rm -- sh "$SOFTWARE/languages.sh"
	[ -z "$(command -v npm)" ] || says "node function"
	says "python 42 /opt/e2e-venv/"
	says "git 10"
}

@test "two VMs serve the same database under load and do not see each other" {
	needs_packages
	fvm -q run --keep --name pg1 -- sh -ec 'apt-get -qq update
		apt-get -qqy install --no-install-recommends postgresql postgresql-contrib >/dev/null 2>&1'
	fvm clone pg1 pg2
	local vm
	for vm in pg1 pg2; do
		fvm -q run -d --name $vm -- sh "$SOFTWARE/database.sh"
	done
	for vm in pg1 pg2; do
		wait_until 30 fvm exec --user postgres $vm psql -Atqc 'select 1'
		fvm exec --user postgres $vm pgbench -q -i postgres 2>/dev/null
	done
	local jobs=()
	for vm in pg1 pg2; do
		fvm exec --user postgres $vm pgbench -c 4 -t 100 postgres >"$E2E/$vm" 2>&1 3>&- &
		jobs+=($!)
	done
	wait "${jobs[@]}"
	for vm in pg1 pg2; do
		grep -q "number of failed transactions: 0" "$E2E/$vm"
		equal "$(fvm exec --user postgres $vm psql -Atc 'select count(*) from pgbench_history' postgres)" 400
	done
	# killed, it recovers from its log as after a power cut
	fvm kill pg1
	fvm stop pg2
	fvm -q run -d --name pg1 -- sh "$SOFTWARE/database.sh"
	wait_until 30 fvm exec --user postgres pg1 psql -Atqc 'select 1'
	equal "$(fvm exec --user postgres pg1 psql -Atc 'select count(*) from pgbench_history' postgres)" 400
}

@test "one installs as root and then runs as oneself in the same VM" {
	needs_packages
	user_make one
	fvm -q run --keep --name own -- sh -ec 'apt-get -qq update; apt-get -qqy install hello >/dev/null'
	expect 0 fvm -q run --name own --user fvmt-one -- sh -c 'hello; id -un; echo $HOME; touch ~/mine'
	says "Hello, world!"
	says "fvmt-one"
	says "/home/fvmt-one"
	[ ! -e /home/fvmt-one/mine ]
}
