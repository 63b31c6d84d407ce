"""Clients of a redis that know each answer beforehand:  redis_client.py PORT DIRECTORY"""
import socket
import sys
import time

import busy
from busy import enough, same, steps

port, busy.place = int(sys.argv[1]), sys.argv[2]


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


def counter(c, i):
    same(c.ask("INCR", "mine"), i + 1, "the counter")


def pipelined(c, i):
    for k in range(100):
        c.send("SET", f"p{k}", f"{i}-{k}" * 50)
        c.send("GET", f"p{k}")
    for k in range(100):
        same(c.answer(), "OK", "SET")
        same(c.answer(), f"{i}-{k}" * 50, "GET")


def together(c, i):
    for words in ("MULTI",), ("LPUSH", "l", i), ("RPOP", "l"), ("LLEN", "l"):
        c.send(*words)
    same([c.answer() for _ in range(4)], ["OK", "QUEUED", "QUEUED", "QUEUED"],
         "a transaction")
    same(c.ask("EXEC"), [1, str(i), 0], "EXEC")


def gives(c, i):
    c.ask("RPUSH", "queue", i)
    while c.ask("LLEN", "queue") > 10 and not enough():
        time.sleep(0.01)


def takes(c, i):
    got = None
    while got is None and not enough():
        got = c.ask("BLPOP", "queue", 1)
    if got is not None:
        same(got, ["queue", str(i)], "BLPOP")


workers = [counter, pipelined, together, gives, takes]
threads = [busy.over_and_over(w, lambda: (Connection(),)) for w in workers]
for t in threads:
    t.start()
busy.tell_steps(lambda: min(steps.get(w.__name__, 0) for w in workers))
busy.await_parts(threads)
busy.tell_result()
