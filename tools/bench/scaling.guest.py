#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Measure many connections at once, inside the guest.

usage: scaling.guest.py [--quick] [--reps N] pairs
       scaling.guest.py [--quick] [--reps N] idle wire|friends

pairs: measures each number of pairs of processes in PAIRS, by the clock. idle: measures
one busy connection beside each number of idle connections in IDLE, in instructions, and
the memory that the idle ones take.

Prints one JSON object a line for tools/bench/scaling.report.py. A figure of friends
counts only when friends moved its bytes and the idle connections are pairs, one
of the wire only when there is no pair at all.
"""

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = Path("/src/build/bench/friends-bench")
SYSCTL = Path("/proc/sys/net/ipv4/tcp_friends")
COUNTERS = Path("/proc/net/tcp_friends_stat")
LIST = Path("/proc/net/tcp_friends")
TCP_MEM = Path("/proc/sys/net/ipv4/tcp_mem")

PAIRS = [1, 2, 4, 8, 16]
CELLS = [("rr", 1), ("stream", 1024), ("stream", 16384)]
TRANSPORTS = ["wire", "friends", "unix"]
# One repetition by the clock should take about WALL_MS. After TIMEOUT seconds it is
# lost.
WALL_MS = 300
TIMEOUT = 120

IDLE = [0, 1000, 10000, 50000]
IDLE_OPERATIONS = 2000
# In the last row, tcp_mem is so many times the kernel's default.
MORE_TCP_MEM = 4

# Friends must move this part of the bytes that a run of friends sends. It is less than
# all, because now and then a segment takes the wire by design.
MOVED_AT_LEAST = 0.9


def die(message):
    sys.exit(f"scaling: {message}")


def fields(path):
    """Return the numbers of a file of lines 'name number' or 'name: number kB'."""
    lines = (line.split() for line in Path(path).read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines}


def switch(transport):
    if transport != "unix":
        SYSCTL.write_text(str(int(transport == "friends")))


def bench(transport, test, size, *more):
    """Run the program once, and check that its bytes went the way they should."""
    command = [PROGRAM, "--transport", "unix" if transport == "unix" else "tcp", "--test", test,
               "--size", str(size), "--json", *map(str, more)]  # fmt: skip
    if test == "stream" and transport != "unix":
        command.append("--nodelay")
    what = f"{transport} {test} {size}"
    before = fields(COUNTERS)
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        die(f"{what} failed (status {done.returncode}).")
    answer = json.loads(done.stdout)
    after = fields(COUNTERS)
    moved = after["bytes"] - before["bytes"]
    met = after["pairs_total"] - before["pairs_total"]
    if transport == "friends" and moved < MOVED_AT_LEAST * answer["payload"]:
        die(f"{what}: friend path not taken: {moved} of {answer['payload']} bytes were moved"
            f" by friends, and {met} pairs were made.")  # fmt: skip
    if transport != "friends" and (moved or met):
        die(f"{what}: friends moved {moved} bytes that are not theirs.")
    return answer


def emit(**row):
    print(json.dumps(row), flush=True)


def pairs(args):
    """Alternate numbers of pairs and transports, so that the host's other work falls on all."""
    for test, size in CELLS:
        # This finds how many operations one pair does in that time, undisturbed, so
        # that all numbers of pairs do as many in all.
        count = dict.fromkeys(TRANSPORTS, 0)
        for transport in 3 * TRANSPORTS:
            switch(transport)
            answer = bench(transport, test, size, "--time", args.ms, "--reps", 1,
                           "--count", 1000000, "--timeout", TIMEOUT)  # fmt: skip
            count[transport] = max(count[transport], answer["count"])
        values = {(n, transport): [] for n in PAIRS for transport in TRANSPORTS}
        for _ in range(args.reps):
            for (n, transport), ns in values.items():
                switch(transport)
                each = max(16, count[transport] // n)
                answer = bench(transport, test, size, "--pairs", n, "--count", each,
                               "--reps", 1, "--timeout", TIMEOUT)  # fmt: skip
                ns.append(answer["value"])
        for (n, transport), ns in values.items():
            emit(part="pairs", cpus=os.cpu_count(), test=test, size=size, pairs=n,
                 transport=transport, value=round(statistics.median(ns), 1),
                 unit="ns/op", least=min(ns), most=max(ns))  # fmt: skip


def tcp(name):
    """Return a number of TCP's line of sockstat: 'inuse' sockets, or 'mem', the charged pages."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        words = line.split()
        if words[0] == "TCP:":
            return int(words[words.index(name) + 1])
    return die("/proc/net/sockstat does not tell of TCP.")


def hold(n):
    """Open n idle connections, which stay open. The holder is stopped, not waited for.

    Otherwise its own round trips, which come after, would be in the figures.
    """
    before = tcp("inuse")
    holder = subprocess.Popen([PROGRAM, "--transport", "tcp", "--test", "rr", "--idle", str(n),
                               "--count", str(1 << 32), "--warmup", "0", "--reps", "1",
                               "--timeout", "86400"], start_new_session=True)  # fmt: skip
    # There are a listener, both ends of each connection, and one connection of the
    # holder's own.
    while tcp("inuse") < before + 1 + 2 * (n + 1):
        if holder.poll() is not None:
            die(f"{n} idle connections could not be opened.")
        time.sleep(0.1)
    os.killpg(holder.pid, signal.SIGSTOP)
    # This waits until freed memory is free, and no timer is left.
    time.sleep(5)
    return holder


def check_pairs(transport, idle):
    now = fields(COUNTERS)["pairs"]
    if transport == "friends" and now < idle:
        die(f"of {idle} idle connections only {now} are pairs of friends.")
    if transport == "wire" and now:
        die(f"there are {now} pairs of friends beside the connections of the wire.")


def read_list():
    """Read the list of connections, as a program reads it. Return their number and the ms.

    One process may keep a processor for as long as the longest of the reads.
    """
    lines = 0
    longest = 0
    start = last = time.monotonic_ns()
    with LIST.open("rb", buffering=0) as file:
        while part := file.read(4096):
            lines += part.count(b"\n")
            now = time.monotonic_ns()
            longest = max(longest, now - last)
            last = now
    return {"list_lines": lines - 1, "list_ms": (last - start) / 1e6,
            "list_read_ms": longest / 1e6}  # fmt: skip


def idle_row(args, n, free, tcp_mem):
    slab = fields("/proc/meminfo")["Slab"] - free
    charged = tcp("mem")
    check_pairs(args.transport, n)
    answer = bench(args.transport, "rr", 1, "--count", IDLE_OPERATIONS, "--warmup", 300,
                   "--reps", args.reps, "--mode", "insn")  # fmt: skip
    check_pairs(args.transport, n)
    listed = read_list()
    if listed["list_lines"] != fields(COUNTERS)["pairs"]:
        die(f"{LIST} has {listed['list_lines']} lines, which is not the number of pairs.")
    emit(part="idle", transport=args.transport, test="rr", size=1, idle=n, tcp_mem=tcp_mem,
         value=answer["value"], unit="insn/op", slab_kib=slab, charged_pages=charged,
         **listed)  # fmt: skip


def idle(args):
    most = max(args.idle)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most + 1000, most + 1000))
    switch(args.transport)
    # What the first connections leave behind must not count as the idle ones' memory.
    bench(args.transport, "rr", 1, "--count", 200)
    free = fields("/proc/meminfo")["Slab"]
    holders = []
    opened = 0
    for n in args.idle:
        if n > opened:
            holders.append(hold(n - opened))
            opened = n
        idle_row(args, n, free, 1)
    limits = [MORE_TCP_MEM * int(word) for word in TCP_MEM.read_text().split()]
    TCP_MEM.write_text(" ".join(map(str, limits)))
    idle_row(args, most, free, MORE_TCP_MEM)
    for holder in holders:
        os.killpg(holder.pid, signal.SIGKILL)


def main():
    parser = argparse.ArgumentParser(prog="scaling.guest.py")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--reps", type=int, default=0)
    parser.add_argument("part", choices=["pairs", "idle"])
    parser.add_argument("transport", nargs="?", choices=["wire", "friends"])
    args = parser.parse_args()
    args.reps = args.reps or (3 if args.quick else 5)
    args.ms = WALL_MS // (3 if args.quick else 1)
    args.idle = IDLE[:-1] if args.quick else IDLE
    if not SYSCTL.exists():
        die("this kernel has no net.ipv4.tcp_friends; load the module.")
    if args.part == "pairs":
        pairs(args)
    elif args.transport:
        idle(args)
    else:
        die("idle needs wire or friends.")


main()
