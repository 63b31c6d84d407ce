#!/bin/sh
# The lists of packages in tools/deps.sh are sorted, without a package twice in one list.
set -eu
cd "$1"
awk -v q="'" '
	$0 ~ "^[a-z]+=" q "$" { name = $0; sub("=.*", "", name); last = ""; next }
	$0 == q { name = ""; next }
	name != "" {
		if ($0 <= last) { print "tools/deps.sh: " name ": " $0 " is out of order or there twice"; bad = 1 }
		last = $0
	}
	END { exit bad }' tools/deps.sh
