#!/bin/sh
# Every library that a program of ours is linked with has a licence that Apache-2.0 code may use.
#
#   tools/check-licences.sh BUILDDIR
#
# Looked at are the libraries that are linked in (static) and all that the loader would bring,
# directly or by another library. A library that is not in the table fails: read its licence,
# and add a line or choose another library.
set -eu
build=$1

# soname stem, licence, and words that its package's copyright file must have
table='
ld-linux	LGPL-2.1+	GNU Lesser|LGPL
libacl	LGPL-2.1+	Lesser General Public License
libarchive	BSD-2-Clause	BSD-2-clause
libbz2	bzip2	BSD-variant
libc	LGPL-2.1+	GNU Lesser|LGPL
libcap	BSD-3-Clause	BSD-3
libcom_err	MIT	M.I.T.
libcrypto	Apache-2.0	Apache
libgcc_s	GPL-3+ with the runtime exception	GCC Runtime Library Exception
libgmp	LGPL-3+	LGPL-3
libhogweed	LGPL-3+	LGPL
libicudata	ICU	ICU
libicuuc	ICU	ICU
libjansson	MIT	Expat|MIT|Permission is hereby granted
liblz4	BSD-2-Clause	BSD
liblzma	public domain	PD
libm	LGPL-2.1+	GNU Lesser|LGPL
libmnl	LGPL-2.1+	LGPL
libnettle	LGPL-3+	LGPL
libseccomp	LGPL-2.1	LGPL-2.1
libssl	Apache-2.0	Apache
libstdc++	GPL-3+ with the runtime exception	GCC Runtime Library Exception
libxml2	MIT	MIT
libxxhash	BSD-2-Clause	BSD-2
libz	Zlib	zlib|Zlib
libzstd	BSD-3-Clause	BSD-3-clause|BSD
linux-vdso	-	-
'

programs=$(find "$build/src" -type f -perm -u+x ! -name '*.so*' ! -name '*.p' | sort)
status=0
check() { # soname-stem, file or empty
	line=$(printf '%s\n' "$table" | awk -F'\t' -v s="$1" '$1 == s')
	if [ -z "$line" ]; then
		echo "$1: not in the table of licences (tools/check-licences.sh)"
		status=1
		return 0
	fi
	words=$(printf '%s\n' "$line" | cut -f3)
	[ "$words" != - ] && [ "$2" ] && command -v dpkg-query >/dev/null || return 0
	real=$(readlink -f "$2")
	package=$(dpkg-query -S "$2" "$real" "${real#/usr}" 2>/dev/null | head -n 1 | cut -d: -f1)
	[ "$package" ] && [ -r "/usr/share/doc/$package/copyright" ] || return 0
	if ! grep -qE "$words" "/usr/share/doc/$package/copyright"; then
		echo "$1: the copyright file of $package does not say '$words' any more"
		status=1
	fi
}

# dynamic: name and file of each, stem without ".so.N" and "-2.31"
for program in $programs; do
	ldd "$program" | sed -nE 's/^\t([^ ]+) => ([^ ]+) .*/\1 \2/p; s/^\t(\/[^ ]+) .*/\1 \1/p'
done | sort -u >"$build/libraries"
while read -r name file; do
	name=${name##*/}
	check "$(printf '%s' "${name%%.so*}" | sed 's/-x86-64//; s/-[0-9.]*$//')" "$file"
done <"$build/libraries"

# static: the archives of the system that the link lines name
if command -v jq >/dev/null; then
	grep -hoE '[^ ]*/lib[a-z0-9_+-]+\.a' "$build/build.ninja" | grep '^/' | sort -u |
		while read -r archive; do
			name=${archive##*/}
			echo "${name%.a} $archive"
		done >"$build/archives"
	while read -r name file; do
		check "$name" "$file"
	done <"$build/archives"
fi
exit $status
