#!/bin/sh
# Inside a VM, as its root: packages with accounts, units, triggers and set-id programs come, are
# installed again, and go; what dpkg knows stays sound all the time.
set -e
export DEBIAN_FRONTEND=noninteractive
apt() { apt-get -qqy --no-install-recommends "$@" >/tmp/apt.out 2>&1 || { tail -n 20 /tmp/apt.out; exit 1; }; }
apt update
apt install nginx-light dbus man-db cron sqlite3
nginx -t 2>&1
id messagebus
getent passwd www-data man
stat -c 'helper %U:%G %a' /usr/lib/dbus-1.0/dbus-daemon-launch-helper
man -w man
sqlite3 /opt/e2e.db 'create table t (x); insert into t values (1), (2); select sum(x) from t; pragma integrity_check'
apt install --reinstall nginx-light dbus man-db cron hostname
apt install --only-upgrade perl-base dpkg
dpkg --audit
apt purge nginx-light nginx nginx-common cron
apt autoremove --purge
dpkg --audit
[ ! -e /usr/sbin/nginx ]
[ ! -e /etc/nginx ]
