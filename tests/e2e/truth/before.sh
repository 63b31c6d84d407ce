#!/bin/sh
# What both machines have before the work: its packages, fetched; and files of every kind to change.
set -e
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
apt() { apt-get -qq -y --no-install-recommends "$@" >/dev/null; }
echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/fast
apt update
apt install acl attr libcap2-bin
apt --download-only install dbus cron sudo iputils-ping nginx-light man-db hello less
apt --download-only --reinstall install hostname login
dpkg -s tzdata >/dev/null 2>&1 || apt install tzdata
echo 0123456789abcdef0123456789abcdef >/etc/machine-id

mkdir -p /opt/had
cd /opt/had
mkdir -p tree/a/b gone/x again/old filedir/sub ro ex2
for i in 1 2 3; do
	echo $i | tee tree/a/$i gone/x/$i again/old/$i >/dev/null
done
ln tree/a/1 tree/a/b/one
for name in dirfile filedir/sub/z text mode owner acl unacl attr linked victim fifo emptied ro/f \
	text2 ex1 ex2/2; do
	echo $name >$name
done
ln linked linked2
ln victim victim2
ln -s to sym
setfacl -m u:mail:rwx unacl
cp /usr/bin/true uncap
setcap cap_net_raw+ep uncap
cp --preserve=all uncap cap
setfattr -n user.gone -v 1 attr
truncate -s 40M big
printf x | dd of=big bs=1 seek=10000000 conv=notrunc status=none
chmod 555 ro
echo old=1 >/etc/fvm-settings
find . -print0 | xargs -0 touch -h -d '2010-10-10 10:10:10.987654321'
