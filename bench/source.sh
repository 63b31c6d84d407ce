# A real project to compile: zstd, 85,000 lines of C, from Debian's source package. Sourced.
# shellcheck shell=sh

# From the mirror that apt has already; kept in the build directory.
source_get() {
	kept=$BENCH_BUILD/bench/source
	[ -d "$kept/zstd" ] && return 0
	rm -rf "$kept" && mkdir -p "$kept/lists/partial" "$kept/cache/archives/partial" || return 1
	for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
		[ -f "$list" ] && sed -n 's/^deb /deb-src /p' "$list"
	done >"$kept/of.list"
	for list in /etc/apt/sources.list.d/*.sources; do
		[ -f "$list" ] && sed 's/^Types:.*/Types: deb-src/' "$list" && echo
	done >"$kept/of.sources"
	for list in "$kept"/of.*; do
		(cd "$kept" && set -- -q -o Dir::Etc::sourcelist="$list" -o Dir::Etc::sourceparts=- \
			-o Dir::State::Lists="$kept/lists" -o Dir::Cache="$kept/cache" \
			-o APT::Sandbox::User=root && apt-get "$@" update &&
			apt-get "$@" source --download-only libzstd) >>"$kept/log" 2>&1
		tar -C "$kept" -xf "$kept"/libzstd_*.orig.tar.?z 2>/dev/null && break
	done
	rm -rf "$kept/lists" "$kept/cache"
	mv "$kept"/zstd-* "$kept/zstd" 2>/dev/null
}

# source_copy DIR: what the workload "compile" wants there. Without a package DIR stays empty.
source_copy() {
	mkdir -p "$1/programs"
	if [ "$QUICK" ]; then
		printf 'zstd: ../a.c\n\tcc -o zstd ../a.c\nclean:\n\trm -f zstd\n' >"$1/programs/Makefile"
		echo 'int main(void) { return 0; }' >"$1/a.c"
	elif source_get; then
		cp -r "$BENCH_BUILD/bench/source/zstd/." "$1/"
	fi
}
