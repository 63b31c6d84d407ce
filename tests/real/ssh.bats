#!/usr/bin/env bats
# ssh sessions with their server: data both ways with new keys all the time, a terminal, a port.
# limit: 900
# test-limit: 600
load helper

setup_file() {
	e2e_setup_file
	base openssh-server openssh-client tmux
}

steps() { fvm exec "$1" cat /root/steps 2>/dev/null; }
screen() { fvm exec "$1" tmux -L real "${@:2}"; }
shows() { screen "$1" capture-pane -p | grep -qF -- "$2"; }

@test "ssh sessions go on, through new keys, with a terminal and a forwarded port" {
	vm
	fvm exec one sh -ec 'mkdir -p /run/sshd /root/.ssh; rm -f /root/.ssh/*; chmod 700 /root/.ssh; cd /root/.ssh
		ssh-keygen -qt ed25519 -N "" -f id; cp id.pub authorized_keys
		ssh-keygen -qt ed25519 -N "" -f host; printf "[127.0.0.1]:2200 " | cat - host.pub >known_hosts
		printf "%s\n" "Host vm" "HostName 127.0.0.1" "Port 2200" "User root" "IdentityFile ~/.ssh/id" \
			"RekeyLimit 2M" "ServerAliveInterval 1" "ServerAliveCountMax 2" "LocalForward 2300 127.0.0.1:2400" >config'
	behind one /usr/sbin/sshd -De -f /dev/null -p 2200 -h /root/.ssh/host -o ListenAddress=127.0.0.1 \
		-o ClientAliveInterval=1 -o ClientAliveCountMax=2 -o PermitRootLogin=yes
	wait_until 60 fvm exec one ssh -o ClearAllForwardings=yes vm true
	behind one sh -c 'cd; exec python3 /opt/real/ssh_client.py .'
	screen one -f /dev/null new-session -d -x 80 -y 24 'ssh -tt -o ClearAllForwardings=yes vm bash --norc'
	wait_until 60 shows one bash-
	screen one send-keys 'x=forty; cat' Enter
	screen one send-keys 'before' Enter
	wait_until 60 further steps one 3
	travels steps
	local vm
	for vm in one two; do
		screen "$vm" send-keys 'after' Enter
		wait_until 60 shows "$vm" after
		shows "$vm" before
		screen "$vm" send-keys C-c
		screen "$vm" send-keys 'echo $x-two; tty' Enter
		wait_until 60 shows "$vm" forty-two
		shows "$vm" /dev/pts/
		screen "$vm" resize-window -x 97 -y 30
		screen "$vm" send-keys 'stty size; exit 5' Enter
		wait_until 60 fails screen "$vm" list-sessions
		fvm exec "$vm" touch /root/enough
		wait_until 90 fvm exec "$vm" test -e /root/result
		equal "$(fvm exec "$vm" cat /root/result)" well
	done
}
