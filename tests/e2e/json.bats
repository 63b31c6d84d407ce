# What --json prints is what docs/json.md promises: every field is in the table of its command.
load helper

# documented COMMAND: the output of the last run has no field that docs/json.md does not name
documented() {
	local section field
	section=$(awk -v c="$1" '/^## / { on = $2 == c } on' "$BATS_TEST_DIRNAME/../../docs/json.md")
	for field in $(jq -r 'if type == "array" then .[] else . end | keys[]' <<<"$output" | sort -u); do
		grep -qF "\`$field\`" <<<"$section" || {
			echo "docs/json.md, $1: no $field" >&2
			return 1
		}
	done
}

@test "ls, inspect, ps and stats of a running VM" {
	needs_root
	expect 0 fvm -q run -d --name shown --net none sleep 60
	output=$(fvm --json ls) && documented ls
	equal "$(jq -r '.[0].state' <<<"$output")" running
	output=$(fvm --json inspect shown) && documented inspect
	output=$(fvm --json ps shown) && documented ps
	output=$(fvm --json stats shown) && documented stats
}

@test "diff of a stopped VM" {
	needs_root
	expect 0 fvm -q run --name changed --keep --net none -- sh -c 'echo x >/etc/new; echo y >>/etc/passwd; rm /etc/hostname'
	output=$(fvm --json diff changed) && documented diff
	jq -e 'type == "array" and length == 3' <<<"$output"
	output=$(fvm --json diff --stat changed) && documented diff
	output=$(fvm --json diff --patch changed) && documented diff
}

@test "version" {
	output=$(fvm --json version)
	jq -e '.version | type == "string"' <<<"$output"
}
