# Real software in VMs of ordinary users: with one id for all ("single"), and with subordinate ids
# ("many"), where services' accounts are real. What is run is in tests/e2e/software/.
# limit: 1200
# test-limit: 500
load helper

setup_file() {
	e2e_setup_file
	[ "$(id -u)" = 0 ] || return 0
	user_make single no-ranges
	user_make many
	cp -r tests/e2e/software "$E2E/software"
	chmod -R a+rX "$E2E/software"
}

setup() {
	needs_user single
	needs_packages
	[ "$(stat -c %a /dev/net/tun 2>/dev/null)" = 666 ] ||
		skip "needs /dev/net/tun for users"
}
teardown() {
	local user name
	for user in single many; do
		for name in $(as_user $user fvm ls --names 2>/dev/null); do
			as_user $user fvm -q rm --force "$name"
		done
	done
}

needs_ranges() {
	needs_command newuidmap newgidmap
	grep -q ^fvmt-many: /etc/subuid || skip "needs subordinate ids for new users"
}

packages() {
	expect 0 as_user "$1" fvm -q run --rm --root -- sh "$E2E/software/packages.sh"
	says "test is successful"
	[ ! -e /opt/e2e.db ]
}

database() {
	local user=$1 own=/var/lib/postgresql
	# its own "test -O" is true with one id, and then it is not given away
	[ "$user" = many ] || own=
	as_user "$user" fvm -q run --keep --name pg --root -- sh -ec 'apt-get -qq update
		DEBIAN_FRONTEND=noninteractive apt-get -qqy install --no-install-recommends \
			postgresql postgresql-contrib >/dev/null 2>&1'
	# the distribution's own scripts, which ask whose the data are
	expect 0 as_user "$user" fvm -q run --name pg --root -- sh -ec 'v=$(ls /usr/lib/postgresql | tail -n 1)
		pg_createcluster $v e2e --start >/dev/null 2>&1; pg_lsclusters -h | grep -c " e2e .*online postgres"
		stat -c %U $1 /var/lib/postgresql/$v/e2e /var/lib/postgresql/$v/e2e/base
		pg_dropcluster --stop $v e2e' sh $own
	equal "${lines[*]}" "1 ${own:+postgres }postgres postgres"
	as_user "$user" fvm -q run -d --name pg --root -- sh "$E2E/software/database.sh"
	wait_until 60 as_user "$user" fvm exec --user postgres pg psql -Atqc 'select 1'
	as_user "$user" fvm exec --user postgres pg pgbench -q -i postgres 2>/dev/null
	expect 0 as_user "$user" fvm exec --user postgres pg pgbench -c 4 -t 50 postgres
	says "number of failed transactions: 0"
	equal "$(as_user "$user" fvm exec --user postgres pg psql -Atc 'select count(*) from pgbench_history' postgres)" 200
	as_user "$user" fvm stop pg
}

@test "packages come, are installed again and go, with one id" { packages single; }

@test "packages come, are installed again and go, with subordinate ids" {
	needs_ranges
	packages many
}

@test "a database works under load, with one id" { database single; }

@test "a database works under load, with subordinate ids" {
	needs_ranges
	database many
}

@test "what node, python and git install, build and pack works for users" {
	expect 0 as_user single fvm -q run --rm --root -- sh "$E2E/software/languages.sh"
	says "python 42 /opt/e2e-venv/"
	says "git 10"
}
