#!/usr/bin/env bats
# System calls refused one by one, as older kernels and the filters of containers do: what is newer
# than 6.1 must not be missed, and what a VM can't do without is named. The VM has the same filter.
# limit: 400

load helper

# What the kernel has got since 6.1, and older calls that we have another way for.
newer="cachestat fchmodat2 map_shadow_stack futex_wake statmount listmount lsm_get_self_attr
	lsm_list_modules mseal setxattrat getxattrat listxattrat removexattrat open_tree_attr
	file_getattr file_setattr"
replaced="clone3 close_range faccessat2 fsopen fsconfig fsmount fspick
	pidfd_send_signal landlock_create_ruleset landlock_restrict_self execveat copy_file_range
	io_uring_setup userfaultfd process_madvise memfd_create memfd_secret process_mrelease
	quotactl_fd statx name_to_handle_at epoll_pwait2 keyctl rseq membarrier"
needed="openat2 open_tree move_mount mount_setattr pidfd_open pivot_root setns unshare seccomp"

setup_file() {
	e2e_setup_file
	install -m 0755 "$BATS_TEST_DIRNAME/life.sh" "$E2E/life"
}

# under REFUSED CMD..: with those calls refused; REFUSED is one or more words
under() {
	local refused=$1
	shift
	# shellcheck disable=SC2086  # words
	timeout -k 5 60 refuse $refused -- "$@"
}

# The same as an ordinary user.
user_under() {
	# shellcheck disable=SC2016  # of the inner shell
	under "$1" bash -c '. "$1/helper.bash" && shift && as_user one "$@"' bash \
		"$BATS_TEST_DIRNAME" "${@:2}"
}

# lives WHO DIR CALL..: a VM's life goes well without each of them
lives() {
	local who=$1 dir=$2 call
	shift 2
	for call in "$@"; do
		"$who" "$call" bash "$E2E/life" "$dir" --net none >"$E2E/out" 2>&1 && continue
		echo "without $call:" && cat "$E2E/out"
		return 1
	done
}

# named WHO CALL..: without it a start fails with 125, a word why and a way to more; nothing stays
named() {
	local who=$1 call
	shift
	for call in "$@"; do
		expect 125 "$who" "$call" fvm run --name gone true || return 1
		says "Function not implemented" && says "fvm doctor" || return 1
		expect 125 fvm inspect gone || return 1
		[ "$call" = seccomp ] || {
			output=$("$who" "$call" fvm doctor 2>&1) || :
			says "$call: Function not implemented" || return 1
		}
	done
}

@test "root's VMs live without any call that is newer than Linux 6.1" {
	needs_root
	# shellcheck disable=SC2086
	lives under "$E2E/dir" "$newer" $newer
}

@test "root's VMs live without older calls that can be replaced, one by one" {
	needs_root
	# shellcheck disable=SC2086
	lives under "$E2E/dir" $replaced
}

@test "users' VMs live without any call that is newer than Linux 6.1" {
	needs_user
	# shellcheck disable=SC2086
	lives user_under /home/fvmt-one/dir "$newer"
}

@test "users' VMs live without older calls that can be replaced, one by one" {
	needs_user
	# shellcheck disable=SC2086
	lives user_under /home/fvmt-one/dir $replaced
}

@test "what root's VMs can't do without is named" {
	needs_root
	# shellcheck disable=SC2086
	named under $needed
}

@test "what users' VMs can't do without is named" {
	needs_user
	# shellcheck disable=SC2086
	named user_under $needed
}

# The rules of docker's own profile that concern us, for who has not CAP_SYS_ADMIN.
docker="-e EPERM mount umount2 pivot_root setns unshare:0&0x10000000 unshare:0&0x20000
	clone:0&0x10000000 clone:0&0x20000 open_tree move_mount fsopen fsmount mount_setattr
	keyctl add_key bpf perf_event_open quotactl_fd userfaultfd -e ENOSYS clone3"

@test "under a container's filter a start says what forbids it, and how to be allowed" {
	needs_user
	expect 125 under "$docker" fvm run --rm true
	says "fvm doctor"
	expect 125 user_under "$docker" fvm run --rm true
	says "fvm doctor"
	expect 125 user_under "$docker" fvm doctor
	says "MISSING  user namespaces"
	equal "$(fvm ls -q)" ""
}

# netfilter's socket, by family and protocol
@test "without nf_tables root's VMs are refused their network with the module to load" {
	needs_root
	local error
	# as long as the last VM's table stands, the next one's address may be in it already
	wait_until 30 eval '! nft list table inet fvm >/dev/null 2>&1'
	for error in EPROTONOSUPPORT EPERM ENOENT; do
		expect 125 under "-e $error socket:0=16:2=12" fvm run --rm true
		says nf_tables
		says "--net none"
	done
	expect 0 under "-e EPROTONOSUPPORT socket:0=16:2=12" fvm run --rm --net none true
}
