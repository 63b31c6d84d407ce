#!/usr/bin/env bats
# What a VM's programs hold besides files and sockets goes with them: a tunnel, what a terminal of
# theirs has not shown yet, what they watch.
# shellcheck disable=SC2016,SC2154  # the VM's shell expands; status and output are set by expect
load helper

setup() {
	needs_root
	needs_command python3
	FILE=$E2E/vm.fvm
}
teardown() {
	vms_remove
	rm -f "$FILE"
}

# In a VM: the file /said has that line.
has_said() { fvm exec "$1" grep -qx "$2" /said; }

has_no_tunnel() { ! fvm exec "$1" ip link show work0 2>/dev/null; }

hop() {
	fvm checkpoint "$1" "$FILE"
	fvm rm "$1"
	fvm restore "$FILE" "$2" >/dev/null
	rm "$FILE"
}

@test "a tunnel is the same device, with its addresses, and its program reads on" {
	needs_device /dev/net/tun
	fvm run -d --root --net none --device /dev/net/tun --name t0 python3 -uc '
import fcntl, os, struct, sys
sys.stdout = open("/said", "w", buffering=1)
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454ca, struct.pack("16sH22x", b"work0", 0x1001))
print("open")
while True:
	packet = os.read(tun, 2000)
	if packet[0] == 0x45 and packet[9] == 17:
		print(packet[28:].decode())
' >/dev/null
	wait_until 60 has_said t0 open
	fvm exec t0 sh -c 'ip link set work0 mtu 1280 up && ip addr add 198.18.0.1/24 dev work0'
	fvm exec t0 bash -c 'printf before >/dev/udp/198.18.0.2/9'
	wait_until 60 has_said t0 before
	fvm checkpoint --check t0
	fvm clone --live t0 t1
	fvm snapshot --live t1 here
	fvm rollback --force t1 here
	fvm clone --live t1 t2
	# a file gives no devices of the host
	fvm checkpoint t1 "$FILE"
	expect 125 fvm restore "$FILE" t3
	says 'whoever makes the VM again has to give it /dev/net/tun'
	fvm exec t2 bash -c 'printf after >/dev/udp/198.18.0.2/9'
	wait_until 60 has_said t2 after
	expect 0 fvm exec t2 ip -o link show work0
	says 'mtu 1280'
	# and it goes with its program
	fvm exec t2 pkill python3
	wait_until 60 has_no_tunnel t2
}

@test "lines that were typed at a program's own terminal, and half a one, are read afterwards" {
	fvm run -d --net none --name p0 python3 -uc '
import os, pty, time, tty
master, slave = pty.openpty()
os.write(master, b"first\nsecond\nthi")
os.write(slave, b"shown\n")
open("/said", "w").write("open\n")
while not os.path.exists("/go"):
	time.sleep(0.01)
os.write(master, b"rd\n")
lines = [os.read(slave, 100).decode() for i in range(3)]
open("/said", "a").write("".join(lines))
while True:
	time.sleep(10)
' >/dev/null
	wait_until 60 has_said p0 open
	hop p0 p1
	fvm exec p1 touch /go
	wait_until 60 has_said p1 third
	has_said p1 first
	has_said p1 second
}

@test "who is asked for what can't be captured is named before anything stops" {
	fvm run -d --net none --name r0 python3 -uc '
import ctypes, time
fd = ctypes.CDLL(None).syscall(323, 1)
open("/said", "w").write("open\n" if fd > 0 else "none\n")
while True:
	time.sleep(10)
' >/dev/null
	wait_until 60 has_said r0 '.*'
	has_said r0 open || skip "needs userfaultfd for everybody"
	expect 125 fvm checkpoint --check r0
	says userfaultfd
	expect 125 fvm checkpoint r0 "$FILE"
	says userfaultfd
	[ ! -e "$FILE" ]
	fvm exec r0 true
}
