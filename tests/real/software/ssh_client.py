"""Data through "ssh vm", whose every byte is known:  ssh_client.py DIRECTORY

To a cat at the other end and back, through a forwarded port and back, and from the other end alone.
Writes DIRECTORY/steps until DIRECTORY/enough is there, then "well" or what was wrong to
DIRECTORY/result.
"""
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
import traceback

place = sys.argv[1]
steps = {"cat": 0, "port": 0, "stream": 0}
wrong = []


def enough():
    return bool(wrong) or os.path.exists(place + "/enough")


def block(i):
    return hashlib.sha256(b"%d" % i).digest() * 1000


def same(a, b, what):
    if a != b:
        raise ValueError(f"{what}: {a[:40]!r} is not {b[:40]!r}")


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
    threading.Thread(target=run, args=(port,), daemon=True).start()

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


def run(function):
    try:
        function()
    except BaseException:
        wrong.append(function.__name__ + ": " + traceback.format_exc())


def tell(name, words):
    with open(f"{place}/{name}.new", "w") as file:
        file.write(words + "\n")
    os.rename(f"{place}/{name}.new", f"{place}/{name}")


threads = [threading.Thread(target=run, args=(f,), daemon=True) for f in (cat, stream)]
for t in threads:
    t.start()
while not enough():
    time.sleep(0.05)
    tell("steps", str(min(steps.values())))
for t in threads:
    t.join(60)
    if t.is_alive():
        wrong.append("a session does not end")
tell("result", wrong[0] if wrong else "well")
os._exit(0)
