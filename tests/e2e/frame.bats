# The command line before any VM: what every command has, and how mistakes are told.
load helper

@test "help lists the commands and ends with 0" {
	expect 0 fvm --help
	says "run "
	expect 0 fvm
	expect 0 fvm run --help
	says "usage: fvm run"
}

@test "an unknown command is named, with status 125" {
	expect 125 fvm no-such-command
	says "no-such-command"
}

@test "an unknown option is named, with the usage and status 125" {
	expect 125 fvm ls --no-such-option
	says "--no-such-option"
	says "usage: fvm ls"
}

@test "version prints one line, and JSON when asked" {
	expect 0 fvm version
	equal "${#lines[@]}" 1
	expect 0 fvm --json version
	jq -e .version <<<"$output"
}

@test "the program that starts VMs loads few libraries: each costs every start" {
	needs_command readelf
	run readelf -d "$E2E_STAGE/bin/fvm"
	says libcrypto
	[[ $output != *libarchive* && $output != *libzstd* ]]
}

@test "an empty store lists nothing" {
	equal "$(fvm --json ls | jq length)" 0
}

@test "a thrown-away VM passes its program's status on and leaves nothing" {
	needs_root
	expect 0 fvm run --rm true
	expect 7 fvm run --rm -- sh -c 'exit 7'
	expect 127 fvm run --rm no-such-program
	equal "$(fvm --json ls | jq length)" 0
	assert_clean
}

@test "a thrown-away VM of an ordinary user does the same" {
	needs_user
	expect 0 as_user one fvm run --rm true
	expect 7 as_user one fvm run --rm -- sh -c 'exit 7'
	equal "$(as_user one fvm --json ls | jq length)" 0
}

@test "what a VM writes is not on the host" {
	needs_root
	host_inventory before /etc/passwd /etc/hostname /usr/local
	expect 0 fvm run --name writer --keep -- sh -c 'echo changed >>/etc/passwd; rm /etc/hostname; mkdir /usr/local/new'
	host_inventory after /etc/passwd /etc/hostname /usr/local
	assert_same_inventory before after
	expect 0 fvm rm writer
	assert_clean
}
