#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Run the bench program for tools/bench/cache, twice for each figure.

The second run has twice the operations, so that what a process does before and
after them is not counted. Prints "transport test size operations" for each run.
"""

import itertools
import subprocess
import sys
from pathlib import Path

SYSCTL = Path("/proc/sys/net/ipv4/tcp_friends")
COUNTERS = Path("/proc/net/tcp_friends_stat")
PROGRAM = "/src/build/bench/friends-bench"
TOGGLE = "/src/build/profile/toggle"

# Enough for a stream to fill its queue several times.
BYTES = 24 << 20
MOST = 4000


def moved():
    counters = dict(line.split() for line in COUNTERS.read_text().splitlines())
    return int(counters["bytes"])


def run(transport, test, size, count):
    tcp = transport != "unix"
    SYSCTL.write_text("1" if transport == "friends" else "0")
    before = moved()
    subprocess.run([TOGGLE], check=True)
    subprocess.run(
        [PROGRAM, "--transport", "tcp" if tcp else "unix", "--test", test, "--size", str(size),
         *(["--nodelay"] if tcp and test == "stream" else []),
         "--count", str(count), "--warmup", str(count), "--reps", "1"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    subprocess.run([TOGGLE], check=True)
    if (moved() - before > count * size / 2) != (transport == "friends"):
        sys.exit(f"cache: {transport} {test} {size}: friends moved {moved() - before} bytes.")
    print(transport, test, size, 2 * count, flush=True)


def main():
    tests, sizes = sys.argv[1].split(","), [int(size) for size in sys.argv[2].split(",")]
    for test, size in itertools.product(tests, sizes):
        count = max(40, min(MOST, BYTES // size))
        for transport in "wire", "friends", "unix":
            for factor in 1, 2:
                run(transport, test, size, factor * count)


main()
