#!/bin/sh
# counter.sh FILE: counts on the terminal and in FILE.
n=0
while :; do
	n=$((n + 1))
	echo "$n of many"
	echo $n >"$1.new" && mv "$1.new" "$1"
	sleep 0.01
done
