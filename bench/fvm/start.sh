# How long is the whole life of a VM that runs true, from the command to the prompt, and what do
# others take that confine a program on the same machine? As root and as an ordinary user.
#
# fvm gives a writable copy of every file, a network with NAT, an init, limits where asked; the
# peers are set to the nearest they have. unshare alone is the floor: namespaces and no file.
# shellcheck shell=sh
. bench/lib.sh

bwrap="bwrap --unshare-all --dev-bind / / --dev /dev --proc /proc true"

# crun wants a bundle: this machine's root, read-only, and the namespaces that "crun spec" lists.
crun_bundle() {
	mkdir -p "$BENCH_DIR/bundle" && (cd "$BENCH_DIR/bundle" && crun spec) || return 1
	jq '.root = {path: "/", readonly: true} | .process.terminal = false | .process.args = ["true"]
		| del(.linux.resources)' "$BENCH_DIR/bundle/config.json" >"$BENCH_DIR/bundle/new" &&
		mv "$BENCH_DIR/bundle/new" "$BENCH_DIR/bundle/config.json"
}

as_root() {
	set -- true "true" \
		unshare "unshare --fork --mount --pid --ipc --uts --net --cgroup --mount-proc true" \
		fvm "$FVM run --rm true" \
		fvm-no-network "$FVM run --rm --net none true"
	have bwrap && set -- "$@" bwrap "$bwrap"
	have firejail && set -- "$@" firejail "firejail --quiet --noprofile --net=none true"
	have crun && crun_bundle &&
		set -- "$@" crun "crun --cgroup-manager=disabled run -b $BENCH_DIR/bundle fvm-bench"
	have systemd-nspawn && set -- "$@" nspawn \
		"systemd-nspawn -q -D / --volatile=yes --register=no --keep-unit --private-network true"
	turns fvm/start/root/ "$@"
}

as_user() {
	TURNS_AS=$AS_USER
	set -- true true \
		unshare "unshare --user --map-root-user --fork --mount --pid --ipc --uts --net --mount-proc true" \
		fvm "fvm run --rm true" \
		fvm-no-network "fvm run --rm --net none true"
	have bwrap && set -- "$@" bwrap "$bwrap"
	have firejail && set -- "$@" firejail "firejail --quiet --noprofile --net=none true"
	turns fvm/start/user/ "$@"
}

if [ "$(id -u)" = 0 ]; then
	as_root
	if bench_user; then as_user; else skip "fvm/start/user: no ordinary user could be made"; fi
else
	skip "fvm/start/root: needs root"
	AS_USER="env FVM_HOME=$FVM_HOME PATH=$BENCH_DIR/bin:/usr/bin:/bin"
	as_user
fi
