#!/usr/bin/env bats
# Headless Chromium with a busy page, looked at and used through DevTools.
# limit: 1500
# test-limit: 900
load helper

setup_file() {
	e2e_setup_file
	base chromium python3-websocket python3-pil fonts-dejavu-core
}

devtools() { fvm exec "$1" /usr/bin/python3 /opt/real/devtools.py "${@:2}"; }
steps() { devtools "$1" 'steps()' 2>/dev/null; }

is_blue() { [ "$(devtools "$1" box.style.background)" = "rgb(32, 32, 224)" ]; }

# What the page draws: its canvas has all colours in turn at the left, one green at the right
shot_shows_page() {
	devtools "$1" --shot /root/shot.png
	fvm cp "$1:/root/shot.png" "$E2E/shot-$1.png"
	[ -z "${SHOTS:-}" ] || cp "$E2E/shot-$1.png" "$SHOTS/chromium-$1.png"
	fvm exec "$1" /usr/bin/python3 -c 'from PIL import Image
image = Image.open("/root/shot.png").convert("RGB")
assert image.size[0] >= 640 and image.size[1] >= 441, image.size
at = image.getpixel
assert at((630, 310)) == (16, 192, 48), at((630, 310))
assert at((50, 400)) == (224, 32, 32), at((50, 400))
assert at((300, 440)) == (32, 64, 96), at((300, 440))
left = at((100, 100))
assert max(left) == 255 and min(left) == 0, left
assert len(set(image.crop((330, 20, 640, 80)).getdata())) > 10'
}

@test "a page with a worker, storage, drawing and requests goes on" {
	vm
	behind one /usr/bin/python3 /opt/real/web.py /opt/real/page.html
	behind one sh -c 'exec chromium --headless --no-sandbox --disable-gpu --remote-debugging-port=9222 \
		--window-size=800,600 --user-data-dir=/root/profile http://127.0.0.1:8000/ >/root/log 2>&1'
	wait_until 120 further steps one 3
	travels steps
	local vm
	for vm in one two; do
		equal "$(devtools "$vm" 'wrong.join("; ")')" ""
		shot_shows_page "$vm"
		# and it takes orders: a click at the red box paints it blue
		devtools "$vm" --click 50 400
		wait_until 60 is_blue "$vm"
		equal "$(devtools "$vm" 'fetched > 0 && localStorage.stored == stored')" True
	done
}
