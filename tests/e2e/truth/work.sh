#!/bin/sh
# The work: what an administrator's afternoon leaves on a machine. It must do the same each time.
set -e
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
umask 022
apt() { apt-get -qq -y --no-install-recommends "$@" >/dev/null; }

# packages: accounts, units, alternatives, set-id bits, capabilities, triggers, conffiles
apt install dbus cron sudo iputils-ping nginx-light man-db hello less
apt install --reinstall hostname login
apt purge hello tzdata
apt remove less
dpkg-divert --quiet --local --rename --add /usr/bin/nproc 2>/dev/null
update-alternatives --quiet --install /usr/bin/greet greet /usr/bin/yes 10

# accounts
useradd --create-home --shell /bin/bash --groups sudo anna
usermod --password 'no*hash' anna
chage --lastday 19000 anna
groupadd --system team
echo 'anna ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/anna
chmod 440 /etc/sudoers.d/anna

# every kind of file, new; on the root file system and on another one
kinds() {
	mkdir -p "$1/dir" "$1/sticky"
	cd "$1"
	echo data >plain
	ln plain second
	ln plain dir/third
	ln -s plain link
	ln link second-link
	mkfifo -m 640 pipe
	chgrp team dir
	chmod 2775 dir
	chmod 1777 sticky
	setfacl -m u:anna:rw,g:team:r plain
	setfacl -m d:u:anna:rwx,u:anna:rwx dir
	: >dir/inherits
	mkdir dir/inherits-too
	cp /usr/bin/true capable
	setcap cap_net_bind_service,cap_net_raw+ep capable
	cp /usr/bin/true setuid
	chown anna setuid
	chmod 4755 setuid
	truncate -s 64M sparse
	printf middle | dd of=sparse bs=1 seek=30000000 conv=notrunc status=none
	dd if=/dev/zero of=tail-hole bs=64k count=4 seek=4 status=none
	truncate -s 1M tail-hole
	fallocate -l 1M set-aside
	touch -d '2001-02-03 04:05:06.123456789 UTC' old
	touch -h -d 2002-01-01 link
	echo x >"new
line"
	echo x >"$(printf 'bad\377name')"
	mkdir -p "$(printf '%0200d/%0200d/%0200d' 1 2 3)"
	chmod 000 old
}
kinds /opt/new
setfattr -n user.note -v 'a note' plain
setfattr -n user.note -v 'of a directory' dir
kinds /srv/new

# what the machine had already
cd /opt/had
mv tree moved
rm -r gone again
mkdir again
echo new >again/new
rm dirfile
mkdir dirfile
echo x >dirfile/x
rm -r filedir
echo x >filedir
echo more >>text
chmod 600 mode
chown daemon:mail owner
setfacl -m u:daemon:r acl
setfacl -b unacl
setcap -r uncap
setcap cap_chown+ep cap
setfattr -x user.gone attr
setfattr -n user.new -v 1 attr
printf y | dd of=big bs=1 seek=20000000 conv=notrunc status=none
rm victim2
ln -sf elsewhere sym
mkfifo x
mv x fifo
: >emptied
rm ro/f
rmdir ro
cp --preserve=all text text.new
mv text.new text2
mv ex1 t
mv ex2 ex1
mv t ex2
chmod 0700 .
sed -i s/old/new/ /etc/fvm-settings
