#!/bin/sh
# Write samples of this release's store files to tests/data/VERSION: what every later fvm must read.
#
#   tests/data/make-samples.sh FVM DIRECTORY
#
# Run once per release, by root, with the release's own fvm; the samples of older releases stay as
# they are. tests/fvm/test_samples.c reads them, and refuses them with a higher number in them.
set -eu
fvm=$1 out=$2
FVM_HOME=$(mktemp -d /tmp/fvm-samples.XXXXXX)
export FVM_HOME
host=$(mktemp -d /opt/fvm-samples.XXXXXX)
trap '"$fvm" -q rm --force sample >/dev/null 2>&1 || :; rm -rf -- "$FVM_HOME" "$host"' EXIT
mkdir -p "$out"

"$fvm" create sample --memory 64M --hide /opt/hidden -p 127.0.0.1:8080:80 --pids 50
"$fvm" -q run --net none --trace --name sample -- sh -c 'echo one >/opt/fvm-sample; rm /etc/hostname'
"$fvm" snapshot sample tag
"$fvm" -q run --net none --name sample -- sh -c 'echo two >/opt/fvm-sample'
"$fvm" diff sample >/dev/null
"$fvm" export sample "$out/export.tar"
echo one >"$host/file"
"$fvm" -q run --net none --name sample -- sh -c "echo two >$host/file; mkdir $host/new; echo x >$host/new/x"
"$fvm" commit sample "$host"
cp "$FVM_HOME/commits/1/journal" "$FVM_HOME/commits/1/state" "$FVM_HOME/vms/sample/hidden" "$out/"
cp "$FVM_HOME/format" "$out/format"
cp "$FVM_HOME/vms/sample/config.json" "$FVM_HOME/vms/sample/stamps" "$out/"
head -n 3 "$FVM_HOME/vms/sample/trace" >"$out/trace"
printf 'fvm-owners 1\nmap u 0 1000 1\nmap g 0 1000 1\nown 12:34 0 root/opt/link\n' >"$out/owners"
