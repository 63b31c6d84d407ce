"""Data through "ssh vm", whose every byte is known:  ssh_client.py DIRECTORY

To a cat at the other end and back, through a forwarded port and back, and from the other end alone.
"""
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time

import busy
from busy import enough, same, steps

busy.place = sys.argv[1]
steps.update(cat=0, port=0, stream=0)


def block(i):
    return hashlib.sha256(b"%d" % i).digest() * 1000


def back_and_forth(name, write, read):
    i = 0
    while not enough():
        write(block(i))
        same(read(len(block(i))), block(i), name)
        i += 1
        steps[name] = i


def cat():
    """With its status and what it says on the other channel at the end."""
    p = subprocess.Popen(["ssh", "vm", "cat; echo over >&2; exit 7"], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    busy.part(port).start()

    def write(data):
        p.stdin.write(data)
        p.stdin.flush()
    back_and_forth("cat", write, p.stdout.read)
    p.stdin.close()
    same(p.stderr.read(), b"over\n", "the end")
    same([p.wait()], [7], "the status")


def echo(listener):
    connection, _ = listener.accept()
    while data := connection.recv(65536):
        connection.sendall(data)


def port():
    listener = socket.create_server(("127.0.0.1", 2400))
    threading.Thread(target=echo, args=(listener,), daemon=True).start()
    until = time.monotonic() + 60
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", 2300))
            break
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
    back_and_forth("port", connection.sendall, connection.makefile("rb").read)


def stream():
    p = subprocess.Popen(["ssh", "-o", "ClearAllForwardings=yes", "vm", "seq 1000000000"],
                         stdout=subprocess.PIPE)
    i = 1
    while not enough():
        same(p.stdout.readline(), b"%d\n" % i, "stream")
        steps["stream"] = i
        i += 1
        if i % 1000 == 0:
            time.sleep(0.01)
    p.kill()


threads = [busy.part(f) for f in (cat, stream)]
for t in threads:
    t.start()
busy.tell_steps(lambda: min(steps.values()))
busy.await_parts(threads)
busy.tell_result()
os._exit(0)
