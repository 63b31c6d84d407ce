#!/usr/bin/env bats
# What compiles while it runs, and has threads of its own making: node, Java, Go.
# limit: 1500
# test-limit: 600
load helper

setup_file() {
	e2e_setup_file
	base nodejs default-jdk-headless golang-go
}

steps() { fvm exec "$1" cat /root/steps 2>/dev/null; }

# well: the program's last word in both VMs, when it is told that it is enough
well() {
	local vm
	for vm in one two; do
		goes_on "$vm" steps
		fvm exec "$vm" touch /root/enough
		wait_until 120 fvm exec "$vm" test -e /root/result
		equal "$(fvm exec "$vm" cat /root/result)" well
	done
}

@test "node's loop, workers, server and children go on" {
	vm
	behind one sh -c 'cd; exec /usr/bin/node /opt/real/work.js'
	wait_until 60 further steps one 10
	travels steps
	well
}

@test "Java's threads, collector and compiled code go on" {
	vm
	fvm exec one sh -ec 'cd /root; cp /opt/real/Work.java .; javac Work.java'
	behind one sh -c 'cd; exec java -Xmx256m Work'
	wait_until 60 further steps one 10
	travels steps
	well
}

@test "a Go server answers its clients, and collects what they leave" {
	vm
	fvm exec one sh -ec 'cd /root; export GOCACHE=/tmp/go HOME=/root; go build -o work /opt/real/work.go; rm -rf /tmp/go'
	behind one sh -c 'cd; exec ./work'
	wait_until 60 further steps one 10
	travels steps
	well
}
