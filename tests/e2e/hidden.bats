# What was hidden when the VM made a change counts, not what policies hide today.
load helper

HOST=/opt/fvm-e2e-hidden

setup() {
	needs_root
	mkdir -p $HOST/s/deep "$E2E/policies"
	echo secret >$HOST/s/file
	echo two >$HOST/s/gone
	echo three >$HOST/s/deep/er
	export FVM_POLICY_PATH=$E2E/policies
	printf '[vm]\nhide = %s/s\n' $HOST >"$E2E/policies/p.policy"
	printf '[match]\nprogram = dash\n[vm]\nhide = %s/s\n' $HOST >"$E2E/policies/dash.policy"
}

teardown() {
	commits_remove
	rm -rf $HOST
}

# hidden_vm NAME CMD..: in_vm with a shell from which $HOST/s is hidden; from sh nothing is
hidden_vm() {
	local name=$1
	shift
	fvm -q run --net none --name "$name" -- dash -c "$*"
}

@test "what was made where something was hidden is new, and stays so when nothing is hidden any more" {
	fvm create a --net none --policy p
	in_vm a "test ! -e $HOST/s && mkdir $HOST/s && echo mine >$HOST/s/file"
	printf '[vm]\n' >"$E2E/policies/p.policy"
	equal "$(fvm -q diff a $HOST)" "$(printf 'A %s\n' $HOST/s $HOST/s/file)"
	expect 0 fvm diff --patch a $HOST
	fails says secret
	expect 125 fvm commit a
	says "hidden from the VM"
	in_vm a "rm $HOST/s/file; rm -r $HOST/s"
	expect 125 fvm commit a
	says "conflict: $HOST/s: "
	equal "$(xargs <$HOST/s/file)" secret
}

@test "what was seen and changed is shown and committed, also when a policy hides it today" {
	fvm create a --net none --policy p
	printf '[vm]\n' >"$E2E/policies/p.policy"
	in_vm a "echo changed >$HOST/s/file; rm $HOST/s/gone; echo new >$HOST/s/new"
	printf '[vm]\nhide = %s/s\n' $HOST >"$E2E/policies/p.policy"
	equal "$(fvm -q diff a $HOST)" "$(printf '%s\n' "M $HOST/s/file" "D $HOST/s/gone" "A $HOST/s/new")"
	fvm commit a
	equal "$(cd $HOST/s && cat file new && echo *)" "$(printf 'changed\nnew\ndeep file new')"
	fvm undo
	equal "$(cd $HOST/s && cat file gone && echo *)" "$(printf 'secret\ntwo\ndeep file gone')"
}

@test "of two programs in one VM each is judged by what it could see" {
	in_vm a "echo changed >$HOST/s/file; rm $HOST/s/gone"
	hidden_vm a "test ! -e $HOST/s/deep && mkdir $HOST/s/deep && echo mine >$HOST/s/deep/er"
	equal "$(fvm -q diff a $HOST)" \
		"$(printf '%s\n' "A $HOST/s/deep" "A $HOST/s/deep/er" "M $HOST/s/file" "D $HOST/s/gone")"
	expect 125 fvm commit a
	says "refused: $HOST/s/deep: "
	fails says "$HOST/s/file"
	fvm commit a $HOST/s/file $HOST/s/gone
	equal "$(cat $HOST/s/file $HOST/s/deep/er | xargs) $(cd $HOST/s && echo *)" "changed three deep file"
	# the other way round: made while hidden, gone on with when it no longer was
	hidden_vm b "mkdir $HOST/s; echo mine >$HOST/s/file"
	in_vm b "echo more >>$HOST/s/file"
	equal "$(fvm -q diff b $HOST)" "$(printf 'A %s\n' $HOST/s $HOST/s/file)"
	expect 0 fvm commit --force b
	says "hidden from the VM"
	equal "$(cat $HOST/s/file)" changed
}

@test "a tree with something hidden in it is not deleted with it" {
	hidden_vm a "rm -r $HOST"
	equal "$(fvm -q diff a $HOST)" "D $HOST"
	expect 125 fvm commit a
	says "refused: $HOST: the host has something in it that was hidden from the VM"
	fvm commit --force a
	equal "$(cat $HOST/s/file)" secret
	hidden_vm b "rm -r $HOST; echo file >$HOST"
	expect 125 fvm commit b
	says "refused: $HOST: "
	fvm commit --force b
	equal "$(cat $HOST/s/file)" secret
}

@test "a clone knows what its origin could see" {
	fvm create a --net none --policy p
	in_vm a "mkdir $HOST/s && echo mine >$HOST/s/file"
	fvm clone a b
	fvm start a
	fvm clone a c
	fvm snapshot a t
	fvm stop a
	fvm rollback a t
	printf '[vm]\n' >"$E2E/policies/p.policy"
	local vm
	for vm in a b c; do
		in_vm $vm "test \$(cat $HOST/s/file) = mine"
		expect 125 fvm commit $vm
		says "hidden from the VM"
	done
}

@test "an ordinary user's VM remembers, too" {
	needs_user hidden
	as_user hidden sh -c 'mkdir -p ~/s; echo secret >~/s/file'
	printf '[vm]\nhide = ~/s\n' >"$E2E/u.policy"
	chmod 644 "$E2E/u.policy"
	as_user hidden fvm create a --net none --policy "$E2E/u.policy"
	as_user hidden fvm -q run --net none --name a -- sh -c 'mkdir ~/s; echo mine >~/s/file'
	printf '[vm]\n' >"$E2E/u.policy"
	equal "$(as_user hidden fvm -q diff a | cut -d' ' -f1 | xargs)" "A A"
	expect 125 as_user hidden fvm commit a
	says "hidden from the VM"
}

@test "a damaged record is told, and nothing is guessed" {
	in_vm a "echo changed >$HOST/s/file"
	printf 'fvm-hide 1\n@12\n/x' >"$FVM_HOME/vms/a/hidden"
	expect 125 fvm commit a
	says "what was hidden"
	expect 125 in_vm a true
	rm "$FVM_HOME/vms/a/hidden"
	fvm commit a
}
