# What does the first write to a large file of the host cost in a VM? One byte is written in the
# middle of a file of 1 GiB that is in the page cache; the kernel, or for somebody else's file the
# supervisor of an ordinary user's VM, makes a copy first. Timed inside, starts not counted.
#
# overlay   the kernel's own overlay file system, mounted by hand, without any VM: the floor
# cp        cp --reflink=auto of the file, and the write
# fvm       in a VM; second: the next write, to the copy
# Of the ordinary user: own is a file of his, adopted one that another owns and he may only read.
# shellcheck shell=sh
. bench/lib.sh
rounds_of 5
WARM_UP=1

host=$BENCH_DIR/host
mkdir -p "$host"
file=$host/large
mib=$(sized 1024 8)
tr '\0' x </dev/zero | head -c $((mib * 1048576)) >"$file"
sync

# one byte in the middle of FILE, timed
cat >"$BENCH_DIR/bin/first" <<EOF
exec $TIMER -1 dd if=/dev/zero of=\$1 bs=1 count=1 seek=$((mib * 524288)) conv=notrunc
EOF
cat >"$BENCH_DIR/bin/second" <<EOF
dd if=/dev/zero of=\$1 bs=1 count=1 conv=notrunc 2>/dev/null
exec sh $BENCH_DIR/bin/first \$1
EOF
# what the last round left on its way to the disk is none of this round's business
cat >"$BENCH_DIR/bin/overlay" <<EOF
set -e
d=\$(mktemp -d $BENCH_DIR/overlay.XXXXXX)
mkdir \$d/upper \$d/work \$d/root
mount -t overlay -o lowerdir=$host,upperdir=\$d/upper,workdir=\$d/work,volatile overlay \$d/root
sh $BENCH_DIR/bin/first \$d/root/large || :
umount \$d/root
rm -rf \$d
EOF
cat >"$BENCH_DIR/bin/copy" <<EOF
d=\$(mktemp -d \$2/copy.XXXXXX)
$TIMER -1 cp --reflink=auto \$1 \$d/large
rm -rf \$d
EOF
in="sh $BENCH_DIR/bin"

as_user() {
	own=/home/$BENCH_USER/large
	cp "$file" "$own" && chown "$BENCH_USER:" "$own" || return 1
	sync
	set -- cp "$AS_USER $in/copy $own /home/$BENCH_USER" \
		own "$AS_USER fvm run --rm $in/first $own" \
		own-second "$AS_USER fvm run --rm $in/second $own" \
		adopted "$AS_USER fvm run --root --rm $in/first $file" \
		adopted-second "$AS_USER fvm run --root --rm $in/second $file"
	turns_inside fvm/write/user/ "$@"
}

if is_root; then
	turns_inside fvm/write/root/ overlay "$in/overlay" cp "$in/copy $file $BENCH_DIR" \
		fvm "$FVM run --rm $in/first $file" fvm-second "$FVM run --rm $in/second $file"
	if bench_user; then as_user; else skip "fvm/write/user: no ordinary user could be made"; fi
else
	skip "fvm/write/root: needs root"
	turns_inside fvm/write/user/ cp "$in/copy $file $BENCH_DIR" \
		own "$FVM run --rm $in/first $file" own-second "$FVM run --rm $in/second $file"
fi
exit $BENCH_STATUS
