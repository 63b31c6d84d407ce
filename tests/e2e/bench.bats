# The benchmarks still run: small, once each, and they leave nothing. Their figures are not looked at.
# limit: 600
load helper

# runs FILE [COMPONENT]: bench/COMPONENT/FILE.sh, fvm's unless said, in its short form, measuring something and failing nowhere
runs() {
	needs_root
	needs_command jq
	[ -x "$E2E_BUILD/bench/bench-timer" ] || skip "needs the build directory"
	run env -u FVM_HOME TMPDIR="$E2E" BENCH_QUICK=1 bench/run.sh "$E2E_BUILD" "bench/${2:-fvm}/$1.sh"
	[ "$status" = 0 ]
	[[ $output =~ ${2:-fvm}/$1/ ]]
	[[ $output != *"failed"* ]]
	[ -z "$(find "$E2E" -maxdepth 1 -name 'fvm-bench*')" ]
}

@test "bench/fvm/start.sh runs" { runs start; }
@test "bench/fvm/inside.sh runs" { runs inside; }
@test "bench/fvm/many.sh runs" { runs many; }
@test "bench/fvm/stored.sh runs" { runs stored; }
@test "bench/fvm/write.sh runs" { runs write; }
@test "bench/fvm/changes.sh runs" { runs changes; }
@test "bench/fvm/trace.sh runs" { runs trace; }
@test "bench/vin/freeze.sh runs" { runs freeze vin; }
@test "bench/vin/calls.sh runs" { runs calls vin; }
