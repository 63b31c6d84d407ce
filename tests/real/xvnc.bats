#!/usr/bin/env bats
# An X server with xterms and a GTK program: drawn, typed and clicked after the hops as before.
# SHOTS=DIRECTORY keeps the pictures.
# limit: 1500
# test-limit: 900
load helper

setup_file() {
	e2e_setup_file
	base tigervnc-standalone-server xterm xfonts-base fonts-dejavu-core xdotool imagemagick \
		python3-gi gir1.2-gtk-3.0 python3-gi-cairo python3-pil
}

display() { fvm exec --env DISPLAY=:7 --workdir /root "$@"; }
show() { display -d one sh -c 'exec "$@" >>/root/log 2>&1' - "$@" >/dev/null; }
steps() { fvm exec "$1" sh -c 'cat /root/count /root/frames 2>/dev/null | sort -n | head -n 1'; }
has() { [ "$(fvm exec "$1" cat "/root/$2" 2>/dev/null)" = "$3" ]; }

# shot VM CODE: CODE finds in a picture of the screen what it should
shot() {
	display "$1" import -window root shot.png
	fvm cp "$1:/root/shot.png" "$E2E/shot-$1.png"
	[ -z "${SHOTS:-}" ] || cp "$E2E/shot-$1.png" "$SHOTS/xvnc-$1.png"
	fvm exec "$1" /usr/bin/python3 -c "from PIL import Image
image = Image.open('/root/shot.png').convert('RGB')
at = image.getpixel
$2"
}

@test "windows go on, are drawn, take keys and clicks" {
	vm
	show Xvnc :7 -geometry 900x700 -depth 24 -SecurityTypes None -localhost -rfbport 5907
	wait_until 60 display one xdotool getdisplaygeometry
	show xterm -geometry 60x20+0+0 -fn fixed -bg '#102030' -fg white -e sh /opt/real/counter.sh /root/count
	show xterm -geometry 60x10+0+350 -fn fixed -bg '#203010' -fg white -T typing -e bash --norc
	show env NO_AT_BRIDGE=1 GSETTINGS_BACKEND=memory /usr/bin/python3 /opt/real/window.py /root
	wait_until 120 further steps one 10
	wait_until 60 display one xdotool search --onlyvisible --name typing
	travels steps
	local vm
	for vm in one two; do
		shot "$vm" 'assert at((520, 100)) in ((0, 255, 0), (255, 0, 0)), at((520, 100))
terminal = set(image.crop((5, 5, 300, 250)).getdata())
assert (16, 32, 48) in terminal and (255, 255, 255) in terminal, terminal
assert (32, 48, 16) in set(image.crop((5, 355, 300, 450)).getdata())
assert at((850, 600)) == (0, 0, 0), at((850, 600))'
		display "$vm" sh -c 'xdotool mousemove 200 420
			xdotool windowfocus --sync "$(xdotool search --onlyvisible --name typing)"
			xdotool type --delay 20 "echo typed-\$((40 + 2)) >typed"; xdotool key Return'
		wait_until 60 has "$vm" typed typed-42
		display "$vm" sh -c 'xdotool windowfocus --sync "$(xdotool search --onlyvisible --name picture)"
			xdotool type --delay 20 words; xdotool mousemove 600 237 click 1'
		wait_until 60 has "$vm" entry words
		wait_until 60 has "$vm" clicks 1
		goes_on "$vm" steps
		shot "$vm" 'assert at((520, 100)) in ((0, 0, 255), (255, 0, 0)), at((520, 100))'
		# and whoever wants to look at it from elsewhere still can
		fvm exec "$vm" /usr/bin/python3 -c 'import socket
assert socket.create_connection(("127.0.0.1", 5907), 60).recv(12).startswith(b"RFB 003")'
	done
}
