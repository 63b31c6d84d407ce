#!/bin/sh
# Install the Debian packages that the named purposes need; do nothing, quickly, when all are there.
#
#   tools/deps.sh [--list|--check] build|run|test|bench|vm ..
#
# As root apt-get is called as it is, else by sudo. On a system without dpkg the lists are what
# to look for under that system's own names: nothing is installed, and what is missing shows in
# the build.
set -eu

# One package a line, sorted. "a|b": the first that is installed, or a.
build='
gcc
libarchive-dev
libc6-dev
libcmocka-dev
libjansson-dev
libmnl-dev
libseccomp-dev
libssl-dev
libxxhash-dev
libzstd-dev
linux-libc-dev
meson
ninja-build
pkg-config|pkgconf
'
# What a VM uses when it is there: the network of ordinary users, their uid ranges.
run='
passt
slirp4netns
uidmap
'
test='
acl
attr
bats
bindfs
binutils
btrfs-progs
bubblewrap
busybox-static
clang
clang-format
clang-tidy
crun
curl
dbus-daemon
debootstrap
dpkg-dev
e2fsprogs
fish
gocryptfs
iproute2
iptables
jq
less
libcap2-bin
libclang-rt-dev
libnss-systemd
libnss-wrapper
mandoc
mount
netavark
nftables
patch
podman
procps
python3-dbus
python3-firewall
python3-gi
python3-nftables
shellcheck
squashfs-tools
strace
sudo
tmux
ufw
util-linux
vim
xfsprogs
zsh
zstd
'
bench='
bubblewrap
crun
firejail
git
jq
rsync
sqlite3
strace
systemd-container
'
vm='
e2fsprogs
mmdebstrap
qemu-system-x86
qemu-utils
'

say() { printf 'deps: %s\n' "$*" | fold -s -w 96 >&2; }

list_of() {
	case $1 in
	build) echo "$build" ;;
	run) echo "$run" ;;
	test) echo "$test" ;;
	bench) echo "$bench" ;;
	vm) echo "$vm" ;;
	*) say "there is no purpose '$1'; there are: build run test bench vm"; exit 2 ;;
	esac
}

# The lines of $1 of which no alternative is installed, each as its first alternative.
missing_of() {
	names=$(echo "$1" | tr '|' ' ')
	# shellcheck disable=SC2086  # one argument for each name
	installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $names 2>/dev/null |
		sed -n 's/^installed //p' | tr '\n' ' ')
	for line in $1; do
		found=
		for name in $(echo "$line" | tr '|' ' '); do
			case " $installed " in *" $name "*) found=1 ;; esac
		done
		[ "$found" ] || echo "${line%%|*}"
	done
}

# All that apt-get and dpkg say goes to follow(), progress too, by a descriptor of its own that is
# made behind sudo, which closes those it does not know. Not 1: apt keeps it from what it runs, and
# maintainer scripts that write fail.
apt() {
	# shellcheck disable=SC2086,SC2016  # $sudo is empty or one word; of the inner shell
	$sudo env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 sh -c 'exec apt-get "$@" 3>&1' apt-get \
		-q -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o APT::Status-Fd=3 -o Dpkg::Use-Pty=0 \
		-o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@" </dev/null 2>&1
}

# What takes its time is one line of a terminal; everything is kept in $log for who has to repair.
follow() {
	ended=1
	while IFS= read -r line; do
		case $line in
		dlstatus:*) what=downloading ;;
		pmstatus:*) what=installing ;;
		ended:*) ended=${line#ended:} && continue ;;
		*) printf '%s\n' "$line" >>"$log" && continue ;;
		esac
		line=${line#*:*:}
		[ ! -t 2 ] || printf '\r\033[Kdeps: %s, %s %%' "$what" "${line%%[.:]*}" >&2
	done
	[ ! -t 2 ] || printf '\r\033[K' >&2
	return "$ended"
}

# A mirror that is being written, or a network that comes and goes, passes: three tries.
install() {
	log=$(mktemp "${TMPDIR:-/tmp}/fvm-deps.XXXXXX")
	trap 'rm -f -- "$log"' EXIT
	trap 'exit 130' INT TERM
	for try in 1 2 3; do
		: >"$log"
		if { { apt update && apt install -y --no-install-recommends "$@"; } && printf '\nended:0\n'; } | follow; then
			say "done: $(sed -n 's/^\(.* newly installed\),.*/\1/p; s/^Need to get \(.*\)\.$/, \1/p' "$log" |
				tr -d '\n')"
			return 0
		fi
		say "try $try of 3 to install failed: $(sed -n 's/^E: //p' "$log" | tail -n 1)"
		sleep $((try * 5))
	done
	tail -n 30 "$log" >&2
	say "apt-get could not install: $*"
	say "its own message is above; once that is repaired, run the same command again"
	return 1
}

main() {
	mode=install
	case ${1-} in
	--list | --check) mode=${1#--}; shift ;;
	esac
	wanted=$(for purpose in "$@"; do list_of "$purpose"; done | sed '/^$/d' | sort -u)
	if [ "$mode" = list ]; then
		echo "$wanted"
		return 0
	fi
	if ! command -v dpkg-query >/dev/null; then
		say "no dpkg here, so nothing is installed; these are needed, by Debian's names:"
		echo "$wanted" | tr '\n' ' ' | fold -s -w 96 | sed 's/^/deps:   /' >&2
		echo >&2
		return 0
	fi
	missing=$(missing_of "$wanted")
	[ "$missing" ] || return 0
	# shellcheck disable=SC2086  # one argument for each name
	set -- $missing
	if [ "$mode" = check ]; then
		say "missing: $*"
		return 1
	fi
	sudo=
	if [ "$(id -u)" != 0 ]; then
		sudo=sudo
		if ! command -v sudo >/dev/null; then
			say "packages are missing, you are not root, and there is no sudo; as root, run:"
			say "  apt-get install --no-install-recommends $*"
			return 1
		fi
	fi
	say "installing $# packages and what they need: $*"
	# the password is asked for before there is a line of progress
	[ -z "$sudo" ] || sudo true
	install "$@"
}

main "$@"
