# What --json prints is what docs/json.md promises: every field is in the table of its command.
load helper

# documented COMMAND [FIELD]: no object of the last output, or of the FIELD of it, has a field that
# docs/json.md does not name under COMMAND; and there is at least one
documented() {
	local section fields field
	section=$(awk -v c="$1" '/^## / { on = index(", " substr($0, 4) ", ", ", " c ", ") } on' \
		"$BATS_TEST_DIRNAME/../../docs/json.md")
	fields=$(jq -r "${2:-.}"' | if type == "array" then .[] else . end | keys[]' <<<"$output" | sort -u)
	[ -n "$fields" ] || {
		printf 'nothing to look at:\n%s\n' "$output" >&2
		return 1
	}
	for field in $fields; do
		grep -qE "[\`{ ]${field}[\`,}]" <<<"$section" || {
			echo "docs/json.md, $1: no $field" >&2
			return 1
		}
	done
}

# json COMMAND..: its output, which is one JSON value, and nothing on the standard error output
json() {
	output=$(fvm --json "$@" 2>"$E2E/stderr") || return 1
	jq -e . <<<"$output" >/dev/null
	equal "$(cat "$E2E/stderr")" ""
}

@test "ls, inspect, ps, stats, sessions and the end of a VM that runs" {
	needs_root
	json run -d --name shown --net none sleep 60
	documented "run --detach"
	json ls && documented ls
	equal "$(jq -r '.[0].state' <<<"$output")" running
	json inspect shown && documented inspect
	json ps shown && documented ps
	json stats shown && documented stats
	json handles shown && documented handles && documented handles '.[].origin'
	json rebind shown "$(fvm --json ps shown | jq '.[1].pid')" 0 /dev/zero && documented rebind
	json attach --list shown && documented "attach --list"
	fvm kill shown
	output=$(fvm --json wait shown) || :
	documented wait
}

@test "diff, commit, undo and reset" {
	needs_root
	mkdir -p "$E2E/commit"
	echo one >"$E2E/commit/text"
	json create changed && documented create
	expect 0 fvm -q run --name changed --keep --net none -- sh -c "echo x >/etc/new; echo y >>/etc/passwd
		rm /etc/hostname; echo two >$E2E/commit/text; head -c 99 /dev/zero >$E2E/commit/zeros
		useradd -u 4321 fvm-json; chmod u+s /etc/new"
	json diff changed && documented diff
	json diff --stat changed && documented diff
	json diff --patch changed && documented diff
	json diff --meaning changed && documented "diff --meaning"
	json commit --dry-run changed "$E2E/commit" && documented commit && documented commit .changes
	json commit changed "$E2E/commit" && documented commit
	json undo --ls && documented "undo --ls"
	json undo --dry-run && documented undo && documented undo .changes
	json undo && documented undo
	echo three >"$E2E/commit/text"
	expect 125 fvm --json commit changed "$E2E/commit"
	output=$(sed -n '/^{/,$p' <<<"$output")
	documented commit && documented commit .problems
	json reset changed /etc/new && documented reset
	json reset changed && documented reset
}

@test "snapshots, clones, images, traces" {
	needs_root
	expect 0 fvm -q run --keep --trace --name a --net none -- touch /opt/new
	json who a /opt/new && documented who
	json trace a && documented trace
	json trace --counts a
	equal "$(jq -r 'keys[]' <<<"$output" | xargs)" "bind connect create delete exec meta open rename write"
	json snapshot a t && documented snapshot
	json snapshot --ls a && documented snapshot
	json clone a b && documented clone
	json export a "$E2E/a.tar" || equal "$output" ""
	json import "$E2E/a.tar" c && documented import
}

@test "what is told of the host, and of the program" {
	json doctor && documented doctor && documented doctor .findings
	json prune --dry-run && documented prune
	json version
	jq -e '.version | type == "string"' <<<"$output"
}
