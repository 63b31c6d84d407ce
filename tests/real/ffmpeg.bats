#!/usr/bin/env bats
# ffmpeg, whose vector registers are live all the time.
# limit: 900
# test-limit: 600
load helper

setup_file() {
	e2e_setup_file
	base ffmpeg
}

frames() { fvm exec "$1" sed -n 's/^frame=//p' /root/film.mkv.progress 2>/dev/null | tail -n 1; }

@test "an encoder writes the same film, bit by bit" {
	vm
	fvm exec one sh -c 'cat >/root/encode' <<-'END'
		# encode FILE: a film that is noise in part, by several threads, to the same bytes each time
		exec ffmpeg -nostdin -v error -progress "$1.progress" -f lavfi \
			-i "testsrc2=size=640x360:rate=25:duration=24,noise=alls=20:allf=t:all_seed=1" -f lavfi \
			-i "sine=frequency=440:beep_factor=4:duration=24" -c:v libx264 -threads 3 -preset medium \
			-c:a aac -flags +bitexact -fflags +bitexact "$1"
	END
	fvm exec one sh /root/encode /root/reference.mkv
	behind one sh -c 'cd; sh encode film.mkv >log 2>&1; echo $? >status'
	wait_until 60 further frames one 0
	travels frames
	local vm
	for vm in one two; do
		wait_until 200 fvm exec "$vm" test -s /root/status
		equal "$(fvm exec "$vm" cat /root/status)" 0
		fvm exec "$vm" cmp /root/reference.mkv /root/film.mkv
		fvm exec "$vm" ffmpeg -nostdin -v error -i /root/film.mkv -f null - 2>&1 | fails grep .
	done
}
