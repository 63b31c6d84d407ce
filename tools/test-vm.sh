#!/bin/bash
# Run the tests in KVM guests of a stock Debian 12: its own kernel (6.1) and, where it can be had,
# the newer one of backports. There systemd is PID 1, cgroup v2 and AppArmor are real.
#
#   tools/test-vm.sh RESULT
#
# The image is made once by mmdebstrap from the mirror that this machine uses, and kept in
# build-vm/ until its list of packages or its set-up changes. The tree goes in as a tar archive on
# a second disk and is built there; results come out by the serial console, line by line
# (tests/vm/guest.sh). Nothing is written to the image.
# Environment: VM_SECONDS limits the whole (default 3600), VM_KERNELS="6.1 newer" chooses,
# VM_TESTS="unit e2e" the stages, TESTS the bats files; VM_COMMAND runs that in a built tree instead;
# VM_EMULATE=1 goes on without KVM. RESULT gets "passed failed skipped".
set -u
cd "$(dirname "$0")/.." || exit 1
result=$1
dir=$PWD/build-vm
suite=bookworm
limit=${VM_SECONDS:-3600}
started=$(date +%s)

say() { printf 'test-vm: %s\n' "$*"; }

give_up() { # STATUS COUNTS REASON
	say "$3"
	echo "$2" >"$result"
	exit "$1"
}

# What the guest needs: all that this tree needs, but for what only lint and fuzzing use.
packages() {
	tools/deps.sh --list build run test | cut -d'|' -f1 |
		grep -vE '^(clang|clang-.*|libclang.*|shellcheck|mandoc|fish|zsh)$'
	printf '%s\n' apparmor apparmor-utils ca-certificates dbus git init iproute2 kmod less libpam-systemd \
		linux-image-amd64 make nftables passwd python3 rsync sudo systemd-resolved \
		systemd-timesyncd udev
}

# The mirror of Debian proper that apt uses here, or nothing.
mirror() {
	# shellcheck disable=SC2016  # apt's own words
	apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
		sed -n 's/^Debian Debian //p' | sort | uniq -c | sort -rn | awk 'NR == 1 { print $2 }'
}

reachable() { # URI SUITE
	local to
	to=$(mktemp) || return 1
	/usr/lib/apt/apt-helper download-file "${1%/}/dists/$2/InRelease" "$to" >/dev/null 2>&1
	local status=$?
	rm -f "$to"
	return $status
}

# Fill $1 with a Debian, and make an image of it.
build_image() {
	local uri=$1 root=$dir/root sources=$dir/sources.list
	printf 'deb %s %s main\n' "$uri" "$suite" >"$sources"
	reachable "$uri" "$suite-updates" && printf 'deb %s %s-updates main\n' "$uri" "$suite" >>"$sources"
	local newer=()
	if reachable "$uri" "$suite-backports"; then
		printf 'deb %s %s-backports main\n' "$uri" "$suite" >>"$sources"
		# shellcheck disable=SC2016  # mmdebstrap's own words
		newer=(--customize-hook='rm -f "$1/etc/resolv.conf"; cp /etc/resolv.conf "$1/etc/"; chroot "$1" apt-get install -y -q --no-install-recommends -t '"$suite"'-backports linux-image-amd64')
	else
		say "the mirror has no $suite-backports: only the kernel of $suite is tested"
	fi
	rm -rf --one-file-system "$root" && rm -f "$dir/image" "$dir"/vmlinuz-* "$dir"/initrd.img-*
	say "making the guest's image, once: some minutes"
	# shellcheck disable=SC2016  # mmdebstrap's own words
	mmdebstrap --quiet --mode=root --variant=apt --include="$(packages | paste -sd,)" \
		"${newer[@]}" \
		--customize-hook='tests/vm/setup.sh "$1"' \
		"$suite" "$root" "$sources" >"$dir/mmdebstrap.log" 2>&1 || {
		tail -20 "$dir/mmdebstrap.log"
		return 1
	}
	cp "$root"/boot/vmlinuz-* "$root"/boot/initrd.img-* "$dir/" || return 1
	mke2fs -q -t ext4 -d "$root" -L fvm-guest -m 0 "$dir/image.new" 12G || return 1
	rm -rf --one-file-system "$root"
	mv "$dir/image.new" "$dir/image"
}

image() {
	local key uri
	key=$({
		packages
		cat tests/vm/setup.sh
	} | sha256sum | cut -c1-16)
	[ -e "$dir/image" ] && [ "$(cat "$dir/key" 2>/dev/null)" = "$key" ] && return 0
	[ "$(id -u)" = 0 ] || give_up 0 "0 0 1" "skipped: making the image needs root: sudo make test-vm"
	uri=$(mirror)
	[ "$uri" ] || give_up 0 "0 0 1" "skipped: apt knows no Debian mirror here"
	mkdir -p "$dir"
	build_image "$uri" || return 1
	echo "$key" >"$dir/key"
}

# boot KERNEL SECONDS: run the suite under one kernel; its lines go to the terminal and a log
boot() {
	local version=$1 seconds=$2 log=$dir/console-$1.log
	printf 'VM_TESTS=%q\nTESTS=%q\nVM_COMMAND=%q\nVM_SECONDS=%d\nSLOWER=%d\n' \
		"${VM_TESTS:-unit e2e}" "${TESTS:-}" "${VM_COMMAND:-}" $((seconds - 60)) "$slower" \
		>"$dir/tree/vm-settings"
	git ls-files -z -co --exclude-standard | xargs -0 tar -cf "$dir/tree.tar" --ignore-failed-read \
		-C "$dir/tree" vm-settings -C "$PWD" 2>/dev/null
	say "kernel $version, at most $seconds s"
	# shellcheck disable=SC2086  # some words
	timeout -k 10 "$seconds" qemu-system-x86_64 $accel -m 3072 -smp 2 -no-reboot \
		-display none -monitor none -serial stdio -snapshot \
		-kernel "$dir/vmlinuz-$version" -initrd "$dir/initrd.img-$version" \
		-append 'root=/dev/vda rw console=ttyS0,115200 quiet systemd.show_status=0 panic=-1' \
		-drive "file=$dir/image,format=raw,if=virtio,cache=unsafe" \
		-drive "file=$dir/tree.tar,format=raw,if=virtio,readonly=on" \
		-nic user,model=virtio-net-pci -device virtio-rng-pci </dev/null 2>&1 |
		sed -u 's/\r//g' | tee "$log" | sed -un 's/^FVM-VM[: ] \?/  /p'
	local counts
	counts=$(sed -n 's/^FVM-VM counts \([0-9]* [0-9]* [0-9]*\)$/\1/p' "$log" | tail -n 1)
	if ! grep -q '^FVM-VM done' "$log"; then
		say "the guest did not finish; the end of $log:"
		tail -n 15 "$log" | sed 's/^/    /'
		failed=$((failed + 1))
	fi
	read -r p f s <<<"${counts:-0 0 0}"
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

# A /dev/kvm can be there that boots special kernels only (para-virtualized KVM without help of the
# processor): stock kernels then need emulation, which is some twenty times slower.
if [ -r /dev/kvm ] && [ -w /dev/kvm ] && grep -qwE 'vmx|svm' /proc/cpuinfo; then
	accel='-accel kvm -cpu host' slower=1
elif [ "${VM_EMULATE:-}" ]; then
	say "no KVM for stock kernels here: emulating, which is some twenty times slower"
	accel='-accel tcg,thread=multi -cpu max' slower=10
else
	give_up 0 "0 0 1" "skipped: /dev/kvm is missing, closed or can't boot stock kernels (VM_EMULATE=1 emulates)"
fi

image || give_up 1 "0 1 0" "the guest's image could not be made"
mkdir -p "$dir/tree"

passed=0 failed=0 skipped=0
there=0
kernels=()
for kernel in $(find "$dir" -name 'vmlinuz-*' -printf '%f\n' | sed 's/^vmlinuz-//' | sort -V); do
	there=$((there + 1))
	case $kernel in 6.1.*) kind=6.1 ;; *) kind=newer ;; esac
	case " ${VM_KERNELS:-6.1 newer} " in *" $kind "*) kernels+=("$kernel") ;; esac
done
for ((number = 0; number < ${#kernels[@]}; number++)); do
	left=$((limit - $(date +%s) + started))
	if [ $left -lt 180 ]; then
		say "kernel ${kernels[number]}: skipped, no time left"
		skipped=$((skipped + 1))
		continue
	fi
	boot "${kernels[number]}" $((left / (${#kernels[@]} - number)))
done
if [ $there -lt 2 ]; then
	say "newer kernel: skipped, none in the image"
	skipped=$((skipped + 1))
fi
echo "$passed $failed $skipped" >"$result"
[ $failed = 0 ]
