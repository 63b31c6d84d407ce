#!/bin/sh
# Inside a VM, as its root: what node, python and git install, build and pack.
set -e
export HOME=/root DEBIAN_FRONTEND=noninteractive
if command -v npm >/dev/null; then
	mkdir -p /opt/e2e-js
	cd /opt/e2e-js
	npm install --silent --no-audit --no-fund express >/dev/null
	node -e 'console.log("node", typeof require("express")())'
fi

apt-get -qq update
apt-get -qqy install --no-install-recommends python3-venv python3-pip python3-setuptools python3-wheel \
	git >/dev/null 2>&1
mkdir -p /opt/e2e-pkg/demo
cd /opt/e2e-pkg
echo 'def f(): return 42' >demo/__init__.py
cat >pyproject.toml <<'END'
[project]
name = "demo"
version = "1"
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
END
/usr/bin/python3 -m venv --system-site-packages /opt/e2e-venv
/opt/e2e-venv/bin/pip -q wheel --no-index --no-build-isolation --no-deps -w /opt/e2e-wheels .
/opt/e2e-venv/bin/pip -q install --no-index /opt/e2e-wheels/demo-*.whl
cd /
/opt/e2e-venv/bin/python -c 'import demo; print("python", demo.f(), demo.__file__)'

git init -q /opt/e2e-git
cd /opt/e2e-git
git config user.email a@b
git config user.name n
for i in 1 2 3 4 5 6 7 8 9 10; do
	echo $i >f$i
	git add .
	git commit -qm "$i"
done
git gc -q
git fsck --strict
git clone -q /opt/e2e-git /opt/e2e-clone
echo "git $(git -C /opt/e2e-clone log --oneline | wc -l)"
