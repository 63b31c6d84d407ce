#!/usr/bin/env bats
# Accounts that no file of the host has: they come from a name service (here nss_wrapper, which
# only fvm gets to see) that a VM can't reach; and ids so large that no range has them.

load helper

uid=1000500000 gid=1000500001 project=1000500002

setup_file() {
	e2e_setup_file
	{ cat /etc/passwd && echo "ldapann:x:$uid:$gid:Ann \"L\" Dap:$E2E/ann:/bin/bash"; } >"$E2E/passwd"
	{ cat /etc/group && echo "ldapstaff:x:$gid:" && echo "ldapproj:x:$project:ldapann"; } >"$E2E/group"
	chmod 0644 "$E2E/passwd" "$E2E/group"
	mkdir "$E2E/ann" && chown $uid:$gid "$E2E/ann"
}

teardown() {
	cd /
	vms_remove
	wait_until 30 idle_user $uid
	rm -rf "$E2E/ann/.local" "$E2E"/ann/[a-z]*
}

needs_service() {
	needs_root
	grep -q '^passwd:.*systemd' /etc/nsswitch.conf || skip "needs nss-systemd in /etc/nsswitch.conf"
	[ "$(LD_PRELOAD=libnss_wrapper.so NSS_WRAPPER_PASSWD=$E2E/passwd NSS_WRAPPER_GROUP=$E2E/group \
		id -u ldapann 2>/dev/null)" = $uid ] || skip "needs libnss-wrapper"
}

served() {
	env LD_PRELOAD=libnss_wrapper.so NSS_WRAPPER_PASSWD="$E2E/passwd" NSS_WRAPPER_GROUP="$E2E/group" "$@"
}

as_ann() {
	(cd "$E2E/ann" && setpriv --reuid $uid --regid $gid --groups $gid,$project --inh-caps=-all \
		env -i HOME="$E2E/ann" TERM=dumb PATH="$E2E_STAGE/bin:/usr/bin:/bin" "$@")
}

# Inside, the wrapper would answer in the service's place.
asked='unset LD_PRELOAD; getent passwd ldapann; id -un; id -gn; getent group ldapproj'
answer="ldapann:x:$uid:$gid:Ann \"L\" Dap:"

@test "a user of a name service is himself in his VM, and that is no change" {
	needs_service
	as_ann unshare --user --map-root-user true 2>/dev/null || skip "needs user namespaces for ordinary users"
	expect 0 as_ann env "LD_PRELOAD=libnss_wrapper.so" "NSS_WRAPPER_PASSWD=$E2E/passwd" \
		"NSS_WRAPPER_GROUP=$E2E/group" fvm -q run --net none --keep --name own sh -c "$asked; touch ~/mine; stat -c %U:%G ~/mine"
	says "$answer"
	equal "${lines[1]} ${lines[2]} ${lines[4]}" "ldapann ldapstaff ldapann:ldapstaff"
	says "ldapproj:x:$project:"
	expect 0 as_ann fvm diff own "$E2E/ann"
	equal "${lines[0]}" "A $E2E/ann/mine"
	expect 0 as_ann fvm diff own
	equal "$output" "no changes"
	as_ann fvm -q rm own
}

@test "root by sudo, and --user, know the account and its groups" {
	needs_service
	expect 0 served env SUDO_UID=$uid SUDO_GID=$gid fvm -q run --net none --keep --name own sh -c "$asked
		touch $E2E/ann/its && chown ldapann:ldapproj $E2E/ann/its && su ldapann -c 'id -Gn'"
	says "$answer"
	says "ldapstaff ldapproj"
	expect 0 served fvm -q run --net none --keep --name own --user ldapann sh -c "$asked; id -Gn; echo \$HOME"
	says "ldapstaff ldapproj"
	says "$E2E/ann"
	expect 0 fvm -q commit own "$E2E/ann"
	equal "$(stat -c %u:%g "$E2E/ann/its")" $uid:$project
	equal "$(fvm diff own | grep -c -e passwd -e group -e /run)" 0
	fvm -q undo
}

@test "without the service the VM starts as ever, without the name" {
	needs_root
	expect 0 env SUDO_UID=$uid SUDO_GID=$gid fvm run --rm --net none sh -c "getent passwd $uid; id -un"
	equal "$output" root
	expect 125 fvm run --rm --net none --user ldapann true
	says "no user 'ldapann'"
}

@test "a name service that does not answer costs some seconds, once" {
	needs_root
	local from=$SECONDS
	# what looks at the pipe hangs
	mkfifo "$E2E/hangs"
	expect 0 timeout 30 env SUDO_UID=$uid LD_PRELOAD=libnss_wrapper.so NSS_WRAPPER_PASSWD="$E2E/hangs" \
		NSS_WRAPPER_GROUP="$E2E/hangs" fvm run --rm --net none true
	[ $((SECONDS - from)) -lt 15 ]
}

@test "files of very large owners keep them: start, chown, diff, commit" {
	needs_root
	local big=1000500000 other=2000200123
	mkdir -p "$E2E/work" && cd "$E2E/work"
	echo one >a && chown $big:$big a
	echo two >b && chown $other:$other b
	expect 0 fvm -q run --net none --keep --name big sh -c "stat -c %u:%g a b && echo 1 >>a && echo 2 >>b &&
		cp a c && chown $other:$big c"
	equal "$output" "$(printf '%s\n' $big:$big $other:$other)"
	expect 0 fvm diff big "$E2E/work"
	equal "${lines[*]:0:3}" "M $E2E/work/a M $E2E/work/b A $E2E/work/c"
	expect 0 fvm -q commit big "$E2E/work"
	equal "$(stat -c %u:%g a b c | paste -sd' ')" "$big:$big $other:$other $other:$big"
}

@test "no VM gets a range of ids in which somebody of this host lies" {
	needs_root
	local base
	mkdir -p "$E2E/taken" && cd "$E2E/taken"
	fvm -q create --net none t
	fvm start t
	base=$(awk 'NR == 1 { print $2 }' "/proc/$(fvm --json inspect t | jq .init_pid)/uid_map")
	fvm stop t
	touch x && chown $((base + 17)) x
	fvm start t
	[ "$(awk 'NR == 1 { print $2 }' "/proc/$(fvm --json inspect t | jq .init_pid)/uid_map")" != "$base" ]
	expect 0 fvm exec t stat -c %u "$E2E/taken/x"
	equal "$output" $((base + 17))
}
