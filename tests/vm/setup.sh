#!/bin/sh
# Make a freshly installed Debian in $1 one that boots, has a network, and runs the tests.
set -eu
root=$1

echo fvm-guest >"$root/etc/hostname"
echo '127.0.0.1 localhost fvm-guest' >"$root/etc/hosts"
echo '/dev/vda / ext4 defaults 0 1' >"$root/etc/fstab"
chroot "$root" passwd -d root >/dev/null

mkdir -p "$root/etc/systemd/network"
cat >"$root/etc/systemd/network/80-dhcp.network" <<'END'
[Match]
Type=ether

[Network]
DHCP=ipv4
END
chroot "$root" systemctl -q enable systemd-networkd systemd-resolved
ln -sf /run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"

# the tests start when all else has; what they print goes to the console
cat >"$root/etc/systemd/system/fvm-tests.service" <<'END'
[Unit]
Description=The tests of fvm
After=network-online.target
Wants=network-online.target

[Service]
Type=simple
ExecStart=/bin/sh -c 'mkdir -p /root/fvm && cd /root/fvm && tar -xf /dev/vdb && exec tests/vm/guest.sh'
ExecStopPost=/bin/systemctl --no-block poweroff
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
# as in a login: nothing of the service manager's own confinement
KillMode=process
Delegate=yes
TasksMax=infinity
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
END
chroot "$root" systemctl -q enable fvm-tests
chroot "$root" systemctl -q mask serial-getty@ttyS0.service apt-daily.timer apt-daily-upgrade.timer \
	systemd-time-wait-sync.service
rm -rf "$root/var/cache/apt/archives"/*.deb
