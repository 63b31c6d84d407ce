#!/bin/bash
# Runs inside the guest of make test-vm: builds the tree here and runs the tests.
# Lines for the host start with "FVM-VM"; "FVM-VM counts P F S" and "FVM-VM done" end it.
set -u
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=/dev/null
. ./vm-settings
export SLOWER
export HOME=/root USER=root LANG=C.UTF-8 TERM=dumb CI=true
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

tell() { printf 'FVM-VM %s\n' "$*"; }
lines() { sed -u 's/^/FVM-VM: /'; }

tell "$(uname -a)"
tell "systemd: $(timeout 60 systemctl is-system-running --wait)"
systemctl --failed --no-legend | lines
tell "cgroup: $(stat -f -c %T /sys/fs/cgroup), controllers: $(cat /sys/fs/cgroup/cgroup.controllers)"
tell "apparmor: $(cat /sys/module/apparmor/parameters/enabled 2>/dev/null || echo none)"
tell "root: $(findmnt -no FSTYPE,OPTIONS /)"

git init -q . && git add -A >/dev/null 2>&1
if [ "$VM_COMMAND" ]; then
	{ meson setup build && ninja -C build --quiet; } 2>&1 | tail -n 3 | lines
	timeout "$VM_SECONDS" bash -c "$VM_COMMAND" 2>&1 | lines
	status=${PIPESTATUS[0]}
	tell "status $status"
	tell "counts $([ "$status" = 0 ] && echo 1 0 0 || echo 0 1 0)"
	tell "done"
	sync
	exit
fi
# shellcheck disable=SC2086  # one argument for each stage
JOBS=$(nproc) TESTS="${TESTS:-}" timeout "$VM_SECONDS" tools/test.sh $VM_TESTS 2>&1 |
	grep -v '^The Meson\|^Compiler for\|^Dependency\|^Found\|^$' | lines
if read -r p f s <build/results/total; then
	tell "counts $p $f $s"
else
	tell "counts 0 1 0"
fi
tell "done"
sync
