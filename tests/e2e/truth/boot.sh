#!/bin/sh
# A machine of its own: DIR becomes the root of the namespaces that we were started in, PROGRAMS are
# seen at /opt/fvm, /srv is another file system. Says "up" on the FIFO, and stays as its PID 1.
#
#   boot.sh DIR PROGRAMS FIFO
set -e
exec 3>"$3"
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount --bind "$2" opt/fvm
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs srv
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
	: >"dev/$device"
	mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
touch -d 2020-01-01 srv
pivot_root . mnt
cd /
umount -l /mnt
echo up >&3
exec 3>&-
exec sleep infinity
