"""Clients of a redis that know each answer beforehand:  redis_client.py PORT DIRECTORY

Writes DIRECTORY/steps until DIRECTORY/enough is there, then "well" or what was wrong to
DIRECTORY/result.
"""
import os
import socket
import sys
import threading
import time
import traceback

port, place = int(sys.argv[1]), sys.argv[2]
steps = {}
wrong = []


def enough():
    return bool(wrong) or os.path.exists(place + "/enough")


class Connection:
    def __init__(self):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.file = self.socket.makefile("rb")

    def send(self, *words):
        words = [str(w).encode() for w in words]
        self.socket.sendall(b"*%d\r\n" % len(words) +
                            b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))

    def answer(self):
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return None if rest == b"-1" else [self.answer() for _ in range(int(rest))]
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest.decode()
        raise ValueError(f"an answer: {line!r}")

    def ask(self, *words):
        self.send(*words)
        return self.answer()


def same(a, b):
    if a != b:
        raise ValueError(f"{a!r} is not {b!r}")


def counter(c, i):
    same(c.ask("INCR", "mine"), i + 1)


def pipelined(c, i):
    for k in range(100):
        c.send("SET", f"p{k}", f"{i}-{k}" * 50)
        c.send("GET", f"p{k}")
    for k in range(100):
        same(c.answer(), "OK")
        same(c.answer(), f"{i}-{k}" * 50)


def together(c, i):
    for words in ("MULTI",), ("LPUSH", "l", i), ("RPOP", "l"), ("LLEN", "l"):
        c.send(*words)
    same([c.answer() for _ in range(4)], ["OK", "QUEUED", "QUEUED", "QUEUED"])
    same(c.ask("EXEC"), [1, str(i), 0])


def gives(c, i):
    c.ask("RPUSH", "queue", i)
    while c.ask("LLEN", "queue") > 10 and not enough():
        time.sleep(0.01)


def takes(c, i):
    got = None
    while got is None and not enough():
        got = c.ask("BLPOP", "queue", 1)
    if got is not None:
        same(got, ["queue", str(i)])


def run(function):
    i = 0
    try:
        connection = Connection()
        while not enough():
            function(connection, i)
            i += 1
            steps[function.__name__] = i
    except BaseException:
        wrong.append(function.__name__ + ": " + traceback.format_exc())


def tell(name, words):
    with open(f"{place}/{name}.new", "w") as file:
        file.write(words + "\n")
    os.rename(f"{place}/{name}.new", f"{place}/{name}")


workers = [counter, pipelined, together, gives, takes]
threads = [threading.Thread(target=run, args=(w,), daemon=True) for w in workers]
for t in threads:
    t.start()
while not enough():
    time.sleep(0.05)
    tell("steps", str(min(steps.get(w.__name__, 0) for w in workers)))
for t in threads:
    t.join(60)
    if t.is_alive():
        wrong.append("a client hangs")
tell("result", wrong[0] if wrong else "well")
