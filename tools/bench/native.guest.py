#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Run tools/bench/native.module in User Mode Linux, as its init.

Prints one JSON object a line, {mode, cpus, transport, test, size, value, unit}.
As in guest.py, the counters of friends say which way the bytes have taken.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

BENCH = Path("/proc/native_bench")
SYSCTL = Path("/proc/sys/net/ipv4/tcp_friends")
COUNTERS = Path("/proc/net/tcp_friends_stat")
SYMBOLS = Path("/src/build/native/symbols")
MODULES = ["/src/build/module-um/tcp_friends.ko", "/src/build/native/native_bench.ko"]

TRANSPORTS = ["wire", "friends", "unix"]

# The operations that are timed.
COUNTS = {
    ("rr", 1): 2000,
    ("rr", 1024): 2000,
    ("rr", 4096): 2000,
    ("rr", 16384): 1000,
    ("rr", 65536): 400,
    ("rr", 262144): 200,
    ("stream", 1): 100000,
    ("stream", 1024): 50000,
    ("stream", 4096): 20000,
    ("stream", 16384): 8000,
    ("stream", 65536): 3000,
    ("stream", 262144): 1000,
    ("crr", 1): 200,
}

# Friends must move this part of the bytes that a run of friends sends.
MOVED_AT_LEAST = 0.9


class BenchError(Exception):
    """A measurement that is none."""


def counted():
    counters = dict(line.split() for line in COUNTERS.read_text().splitlines())
    return int(counters["bytes"]), int(counters["pairs_total"])


def check_path(transport, what, moved, pairs, payload):
    if transport != "friends" and (moved or pairs):
        raise BenchError(f"{what}: friends moved {moved} bytes of a run of {transport}.")
    if transport == "friends" and (not pairs or moved < MOVED_AT_LEAST * payload):
        raise BenchError(f"{what}: {pairs} pairs moved {moved} of {payload} bytes.")


def run(args, transport, test, size):
    """Return the processor's cycles per operation."""
    count = max(1, round(COUNTS[test, size] * args.scale))
    warmup = count // 10
    SYSCTL.write_text("1" if transport == "friends" else "0")
    name = "unix" if transport == "unix" else "tcp"
    before = counted()
    try:
        BENCH.write_text(f"{name} {test} {size} {count} {warmup} 0 {args.cpus - 1}")
    except OSError as error:
        raise BenchError(f"{transport} {test} {size}: {error.strerror}.") from error
    moved, pairs = (now - then for now, then in zip(counted(), before, strict=True))
    payload = (count + warmup) * size * (1 if test == "stream" else 2)
    check_path(transport, f"{test} {size}", moved, pairs, payload)
    return int(BENCH.read_text()) / count


def measure(args):
    only = [word for word in args.only.split(",") if word]
    cells = [c for c in COUNTS if not only or c[0] in only or f"{c[0]}:{c[1]}" in only]
    if not cells:
        raise BenchError(f"--only {args.only} leaves nothing to measure.")
    for test, size in cells:
        transports = args.transports.split(",")
        values = {transport: [] for transport in transports}
        for _ in range(args.reps):
            for transport in transports:
                values[transport].append(run(args, transport, test, size))
        for transport in transports:
            row = {
                "mode": "cycles",
                "cpus": args.cpus,
                "transport": transport,
                "test": test,
                "size": size,
                "value": round(statistics.median(values[transport]), 1),
                "unit": "cycles/op",
            }
            print(json.dumps(row), flush=True)
            if args.verbose:
                print("#", transport, test, size, *map(round, values[transport]), flush=True)


def options():
    parser = argparse.ArgumentParser(prog="native", description=__doc__.splitlines()[0])
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--only", default="", metavar="TEST[:SIZE],...")
    parser.add_argument("--reps", type=int, default=9)
    parser.add_argument("--scale", type=float, default=1)
    parser.add_argument("--sysctl", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--transports", default=",".join(TRANSPORTS))
    parser.add_argument("--symbols", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    # The kernel appends words of its own.
    return parser.parse_known_args()[0]


def prepare(args):
    """Do what the kernel leaves to the first process."""
    for kind, where in ("proc", "/proc"), ("sysfs", "/sys"):
        subprocess.run(["mount", "-t", kind, kind, where], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for module in MODULES:
        subprocess.run(["insmod", module], check=True)
    # Closed connections of crr stay a minute.
    Path("/proc/sys/net/ipv4/tcp_max_tw_buckets").write_text("262144")
    if args.symbols:
        SYMBOLS.write_text(Path("/proc/kallsyms").read_text())
    for word in args.sysctl:
        name, value = word.split("=", 1)
        Path("/proc/sys", name.replace(".", "/")).write_text(value.replace(",", " "))


def main():
    args = options()
    try:
        prepare(args)
        measure(args)
        print("done", flush=True)
    except (BenchError, OSError, subprocess.CalledProcessError) as error:
        print(f"native: {error}", flush=True)


if os.getpid() != 1:
    sys.exit("native: start this by tools/bench/native.")
os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
try:
    main()
finally:
    # The kernel panics if its first process ends.
    ctypes.CDLL(None).reboot(0x4321FEDC)
