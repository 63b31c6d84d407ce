#!/bin/bash
# Run .ci/run of a fresh clone on a Debian 12 that has git and make and nothing else: what the
# tests need but tools/deps.sh does not name, and what they suppose of this machine, shows here.
#
#   sudo tools/test-bare.sh [COMMAND]
#
# The root is made by debootstrap below /var/tmp and entered by pivot_root, with namespaces and
# cgroups of its own: neither side sees the other's processes, mounts and network. slirp4netns is
# its way out; apt's sources, settings and keys, proxies, kernel and devices are this machine's.
# COMMAND (default: .ci/run as CI runs it) runs in a clone of what is committed here.
# Environment: BARE_ROOT=DIR makes the root there and keeps it, or goes on in what is there.
# All else is removed at the end, also after a failure or ^C; the status is 0 if COMMAND's was.
set -u

die() {
	printf 'test-bare: %s\n' "$*" >&2
	exit 125
}

# ---- inside: the first process of the new namespaces ----

# Cgroup file systems as they are mounted here, of the new cgroup namespace
mount_cgroups() {
	local target type options
	while read -r target type options; do
		case $type:$options in
		tmpfs:*) mount -t tmpfs -o mode=755 cgroup "$1$target" && continue ;;
		cgroup:*name=*) options=none,name=${options##*name=} ;;
		cgroup:*) options=${target##*/} ;;
		cgroup2:*) options=nsdelegate ;;
		esac
		mkdir -p "$1$target" && mount -t "$type" -o "$options" cgroup "$1$target" || return 1
		[ "$type" = cgroup ] || { mkdir -p "$1$target/init" && echo $$ >"$1$target/init/cgroup.procs"; }
	done < <(findmnt -rno TARGET,FSTYPE,OPTIONS -t tmpfs,cgroup,cgroup2 | grep '^/sys/fs/cgroup')
}

# What a machine that has started has mounted; devices are nodes with the modes that udev gives
mount_all() {
	mount --bind "$1" "$1" && mount -t proc proc "$1/proc" && mount -t sysfs sysfs "$1/sys" &&
		mount -t tmpfs -o nosuid,mode=755 dev "$1/dev" && cp -ax /dev/. "$1/dev/" &&
		chmod 666 "$1/dev/fuse" "$1/dev/net/tun" &&
		mount -t devpts -o nosuid,noexec,gid=5,mode=620,ptmxmode=666 devpts "$1/dev/pts" &&
		mount -t tmpfs -o nosuid,nodev,mode=1777 shm "$1/dev/shm" &&
		mount -t tmpfs -o nosuid,nodev,mode=755 run "$1/run" && mkdir -m 1777 "$1/run/lock" &&
		mount_cgroups "$1"
}

inside() {
	local root=$1 variables
	echo bare >/proc/sys/kernel/hostname
	mount_all "$root" || die "cannot mount what belongs into $root"
	{ mkdir -p "$root/.old" && cd "$root" && pivot_root . .old && umount -l /.old && rmdir /.old; } ||
		die "cannot enter $root"
	for _ in $(seq 100); do grep -q eth0 /proc/net/route && break; sleep 0.1; done
	mapfile -t variables < <(env | grep -iE '^(https?|all|no)_proxy=')
	# shellcheck disable=SC2016  # of the shell in there, which stays as the one that reaps
	exec env -i "${variables[@]}" HOME=/root USER=root LOGNAME=root SHELL=/bin/bash LANG=C.UTF-8 \
		TERM=dumb PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin bash -c '
		cd && { [ -d fvm ] || git clone -q /srv/fvm.git fvm; } && cd fvm &&
		git fetch -q origin HEAD && git reset -q --hard FETCH_HEAD || exit
		bash -c "$1" </dev/null
		exit' bash "$2"
}

# ---- outside ----

# What apt needs here to reach its mirror
copy_apt() {
	local from
	rm -f "$1/etc/apt/sources.list"
	for from in /etc/apt/{sources.list,sources.list.d,trusted.gpg.d,keyrings,auth.conf.d} \
		/usr/share/keyrings /etc/ssl/certs; do
		[ ! -e "$from" ] || { mkdir -p "$1${from%/*}" && cp -a "$from" "$1${from%/*}/"; } || return 1
	done
	apt-config dump | sed -n '/^Acquire::/p' >"$1/etc/apt/apt.conf.d/90machine"
}

make_root() {
	# shellcheck disable=SC2016  # apt's own words
	mirror=$(apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' |
		sed -n 's/^Debian Debian //p' | sort | uniq -c | sort -rn | awk 'NR == 1 { print $2 }')
	echo "test-bare: making a Debian 12 with git and make in $1"
	debootstrap --variant=minbase --include=git,make,ca-certificates bookworm "$1" \
		"${mirror:?apt knows no Debian mirror here}" >"$work/log" 2>&1 ||
		{ tail -n 20 "$work/log" && die "debootstrap failed"; }
	copy_apt "$1" || die "cannot copy apt's settings"
	# a user of the one world is nobody in the other: their tests end all processes of their users
	sed -i 's/^\([UG]ID_MIN[[:space:]]*\)1000$/\130000/' "$1/etc/login.defs"
	echo nameserver 10.0.2.3 >"$1/etc/resolv.conf" && echo bare >"$1/etc/hostname" &&
		echo '127.0.0.1 localhost bare' >"$1/etc/hosts"
}

hierarchies() { findmnt -rno TARGET -t "$1" | grep '^/sys/fs/cgroup'; }

# A cgroup of ours in each hierarchy, for the process that calls
enter_cgroups() {
	local dir file
	for dir in $(hierarchies cgroup,cgroup2); do
		mkdir "$dir/$cgroup" || return 1
		for file in cpuset.cpus cpuset.mems; do
			[ ! -e "$dir/$file" ] || [ ! -e "$dir/tasks" ] || cat "$dir/$file" >"$dir/$cgroup/$file"
		done
		echo "$BASHPID" >"$dir/$cgroup/cgroup.procs" || return 1
	done
}

cgroups_gone() {
	find /sys/fs/cgroup -depth -type d \( -name "$cgroup" -o -path "*/$cgroup/*" \) -exec rmdir {} \;
	[ -z "$(find /sys/fs/cgroup -maxdepth 2 -name "$cgroup")" ]
}

finish() {
	trap '' INT TERM
	# the first process of the PID namespace dies with its parent, and all others with it
	for pid in $slirp $space; do kill -KILL "$pid"; done
	wait 2>/dev/null
	for _ in $(seq 100); do cgroups_gone 2>/dev/null && break; sleep 0.1; done
	rm -rf --one-file-system -- "$work"
}

main() {
	[ "$(id -u)" = 0 ] || die "making a root needs root: sudo make test-bare"
	for program in debootstrap slirp4netns; do
		command -v $program >/dev/null || die "needs the program $program: make deps"
	done
	work=$(mktemp -d /var/tmp/fvm-bare.XXXXXX) || exit 125
	root=${BARE_ROOT:-$work/root} cgroup=fvm-bare-$$ space='' slirp=''
	trap finish EXIT
	trap 'exit 130' INT TERM
	[ -d "$root/etc" ] || make_root "$root"
	rm -rf "$root/srv/fvm.git" && git clone -q --bare --no-local . "$root/srv/fvm.git" || exit 125
	(enter_cgroups && exec unshare --mount --propagation private --pid --fork --kill-child --ipc \
		--uts --net --cgroup tools/test-bare.sh --inside "$root" "$1") </dev/null &
	space=$!
	while [ "$(readlink /proc/$space/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
	# of v2 a cgroup with processes in it hands out no controllers
	for dir in $(hierarchies cgroup2); do
		mkdir -p "$dir/$cgroup/init" && echo "$space" >"$dir/$cgroup/init/cgroup.procs"
	done
	slirp4netns --configure --mtu=1500 --disable-host-loopback "$space" eth0 >"$work/slirp.log" 2>&1 &
	slirp=$!
	wait "$space"
	status=$? space=
	return $status
}

cd "$(dirname "$0")/.." || exit 1
[ "${1-}" != --inside ] || inside "$2" "$3"
main "${1:-CI=true exec bash .ci/run}"
