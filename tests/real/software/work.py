"""Threads, processes, pools, pipes and sockets in one python, each looking at what it gets.

    work.py DIRECTORY
"""
import asyncio
import hashlib
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import time

import busy
from busy import enough, same, steps, wrong

busy.place = sys.argv[1]

chain = b""


def digests(i):
    """Each follows from the one before; the hash of all is known at the end."""
    global chain
    for _ in range(1000):
        chain = hashlib.sha256(chain).digest()


memory = {}


def objects(i):
    """Many small objects with links to one another: what an allocator and a collector see."""
    memory[i % 20000] = [i, str(i) * 5, (i, memory.get((i - 1) % 20000))[:1]]
    j = (i * 7919) % 20000
    if j in memory:
        same(memory[j][1], str(memory[j][0]) * 5, "an object")


cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def through_cat(i):
    line = b"%d %s\n" % (i, os.urandom(1000).hex().encode())
    cat.stdin.write(line)
    cat.stdin.flush()
    same(cat.stdout.readline(), line, "through cat")


def short_lives(i):
    got = subprocess.run(["sh", "-c", f"echo $(({i} + 1)); exit {i % 100}"], stdout=subprocess.PIPE)
    same((int(got.stdout), got.returncode), (i + 1, i % 100), "a short life")


def square(x):
    return x * x


pool = multiprocessing.get_context("fork").Pool(3)


def pooled(i):
    same(pool.map(square, range(i, i + 50)), [x * x for x in range(i, i + 50)], "the pool")


lines = queue.Queue(10)


def gives(i):
    lines.put(i)


def takes(i):
    same(lines.get(timeout=300), i, "the queue")


def clock(i):
    """Sleeps as long as it says, by the monotonic clock, and no clock goes back."""
    before, wall = time.monotonic(), time.time()
    time.sleep(0.01)
    if time.monotonic() - before < 0.01 or time.time() < wall - 1:
        raise ValueError("a clock goes wrong")


alarms = 0


def alarm(number, frame):
    global alarms
    alarms += 1


async def echo(reader, writer):
    while data := await reader.readline():
        writer.write(data)
        await writer.drain()
    writer.close()


async def talk(port, name):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    i = 0
    while not enough():
        line = b"%d %s\n" % (i, name.encode() * 100)
        writer.write(line)
        await writer.drain()
        same(await reader.readline(), line, "a connection")
        i += 1
        steps["connection " + name] = i
    writer.close()


async def connections():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await asyncio.gather(*(talk(port, name) for name in "abc"))
    server.close()


def talks():
    asyncio.run(connections())


workers = [digests, objects, through_cat, short_lives, pooled, gives, takes, clock]
threads = [busy.over_and_over(f) for f in workers] + [busy.part(talks)]
signal.signal(signal.SIGALRM, alarm)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
for t in threads:
    t.start()
# the least that anyone has done: nobody stands still
busy.tell_steps(lambda: min([alarms, *(steps.get(f.__name__, 0) for f in workers),
                             *(steps.get("connection " + c, 0) for c in "abc")]))
signal.setitimer(signal.ITIMER_REAL, 0)
if not wrong:
    # who gives or takes has nobody to wait for any more
    busy.await_parts(threads[:5] + threads[7:])
    again = b""
    for _ in range(1000 * steps["digests"]):
        again = hashlib.sha256(again).digest()
    if again != chain:
        wrong.append("the digest of all is another")
busy.tell_result()
os._exit(0)
