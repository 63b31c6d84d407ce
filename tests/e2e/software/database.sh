#!/bin/sh
# Inside a VM, as its root: a database server of its own, with data of its own, in the foreground.
set -e
for bin in /usr/lib/postgresql/*/bin; do :; done
install -d -o postgres /opt/e2e-pg /var/run/postgresql
cd /opt
[ -e /opt/e2e-pg/data ] || runuser -u postgres -- "$bin/initdb" -D /opt/e2e-pg/data -A trust >/dev/null
exec runuser -u postgres -- "$bin/postgres" -D /opt/e2e-pg/data
