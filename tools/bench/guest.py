#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Run the bench inside the guest: the whole matrix in one boot.

Prints one JSON object a line, {mode, transport, test, size, value, unit}, as
soon as it is measured. Every TCP run is checked against the counters of
/proc/net/tcp_friends_stat: a figure of friends counts only when friends moved its
bytes, a figure of the wire only when they moved none.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

PROGRAM = Path("/src/build/bench/friends-bench")
SYSCTL = Path("/proc/sys/net/ipv4/tcp_friends")
COUNTERS = Path("/proc/net/tcp_friends_stat")

REPETITIONS = 5

# These are the operations in the timed part of a repetition, equal for all transports.
# In the deterministic mode they are 20 to 150 million instructions on the wire. That is
# long enough that a stream's start on its fresh connection does not count. (The wire
# still has two states at 256 KiB, a tenth apart: see friends-bench.c.)
COUNTS = {
    ("rr", 1): 1000,
    ("rr", 1024): 1000,
    ("rr", 4096): 1000,
    ("rr", 16384): 800,
    ("rr", 65536): 400,
    ("rr", 262144): 200,
    ("stream", 1): 8000,
    ("stream", 1024): 8000,
    ("stream", 4096): 8000,
    ("stream", 16384): 4000,
    ("stream", 65536): 2000,
    ("stream", 262144): 800,
    ("crr", 1): 500,
    ("connect", 1): 500,
}

# By the clock, a repetition has as many operations as take this long, but at most ten
# times as many as in COUNTS.
WALL_MS = 150

# A variant is a test done in another way: the test, the options, the sizes, and the
# transports. A stream sets TCP_NODELAY, as most programs and run-times do that write
# small messages. 'stream-nagle' does not set it, so the wire gathers small writes into
# segments of 64 KiB. That is a different thing, and is shown beside the stream.
TCP = ["wire", "friends"]
SOCKETS = ["wire", "friends", "unix"]
VARIANTS = {
    "stream-nagle": ("stream", [], [1, 1024, 4096, 16384, 65536, 262144], TCP),
    "stream-more": ("stream", ["--nodelay", "--by", "more"], [4096, 65536], SOCKETS),
    "stream-cork": ("stream", ["--nodelay", "--by", "cork"], [4096, 65536], TCP),
    "stream-sendfile": ("stream", ["--nodelay", "--by", "sendfile"], [4096, 65536], SOCKETS),
    "stream-splice": ("stream", ["--nodelay", "--by", "splice"], [4096, 65536], SOCKETS),
    "stream-zerocopy": ("stream", ["--nodelay", "--by", "zerocopy"], [4096, 65536], TCP),
    "rr-uring": ("rr", ["--by", "uring"], [1, 16384], SOCKETS),
    "stream-uring": ("stream", ["--nodelay", "--by", "uring"], [4096, 65536], SOCKETS),
    "stream-uring-zc": ("stream", ["--nodelay", "--by", "uring-zerocopy"], [4096, 65536], TCP),
    "rr-busy-poll": ("rr", ["--busy-poll", "200"], [1, 1024], TCP),
}
CELLS = [*COUNTS, *((name, size) for name, v in VARIANTS.items() for size in v[2])]
TRANSPORTS = {
    "rr": ["wire", "friends", "unix", "pipe"],
    "stream": ["wire", "friends", "unix", "pipe"],
    "crr": SOCKETS,
    "connect": SOCKETS,
    **{name: v[3] for name, v in VARIANTS.items()},
}

# Friends must move this part of the bytes that a run of friends sends. It is less than
# all, because now and then a segment takes the wire by design.
MOVED_AT_LEAST = 0.9


def die(message):
    sys.exit(f"bench: {message}")


def counted():
    """Return the bytes that friends moved in this namespace, and the pairs ever made."""
    if not COUNTERS.exists():
        return 0, 0
    counters = dict(line.split() for line in COUNTERS.read_text().splitlines())
    return int(counters["bytes"]), int(counters["pairs_total"])


def check_path(transport, what, moved, pairs, payload):
    if transport == "wire" and (moved or pairs):
        die(f"{what}: friends moved {moved} bytes of a run over the wire.")
    if transport == "friends" and not pairs:
        die(f"{what}: no two sockets became friends.")
    if transport == "friends" and moved < MOVED_AT_LEAST * payload:
        die(f"{what}: friend path not taken: {moved} of {payload} bytes were moved by friends.")


def run(args, transport, test, size, reps):
    """Run the program once, and return the value of each repetition."""
    tcp = transport in ("wire", "friends")
    if tcp and SYSCTL.exists():
        SYSCTL.write_text("1" if transport == "friends" else "0")
    nodelay = ["--nodelay"] if tcp and test == "stream" else []
    program_test, more, *_ = VARIANTS.get(test, (test, nodelay))
    count = round(COUNTS[program_test, size] * args.scale)
    if args.mode == "insn":
        length = ["--count", str(count), "--warmup", "200"]
    else:
        length = ["--count", str(10 * count), "--warmup", "0", "--time", str(round(WALL_MS * args.scale))]
    command = [
        PROGRAM,
        "--transport", "tcp" if tcp else transport,
        "--test", program_test,
        "--size", str(size),
        *more,
        *length,
        "--reps", str(reps),
        "--mode", args.mode,
        "--json",
    ]  # fmt: skip
    before = counted()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        die(f"{transport} {test} {size} failed (status {done.returncode}).")
    answer = json.loads(done.stdout)
    moved, pairs = (now - then for now, then in zip(counted(), before, strict=True))
    check_path(transport, f"{test} {size}", moved, pairs, answer["payload"])
    return answer["reps"]


def unsteady(values):
    """Return whether the repetitions differ by more than half, by the clock."""
    return max(values) > 1.5 * min(values)


def measure(args, transports, test, size):
    """Return the repetitions of each transport. By the clock, the transports alternate."""
    if args.mode == "insn":
        return {t: run(args, t, test, size, args.reps) for t in transports}
    values = {t: [] for t in transports}
    for _ in range(args.reps):
        for transport in transports:
            values[transport] += run(args, transport, test, size, 1)
    return values


def emit(args, transport, test, size, values):
    row = {
        "mode": args.mode,
        "transport": transport,
        "test": test,
        "size": size,
        "value": round(statistics.median(values), 1),
        "unit": "insn/op" if args.mode == "insn" else "ns/op",
    }
    print(json.dumps(row), flush=True)
    if args.verbose:
        print("#", transport, test, size, *values, flush=True)


def prepare(args):
    if not PROGRAM.exists():
        die(f"{PROGRAM} is not built; start this by tools/bench/bench.")
    if args.friends and not SYSCTL.exists():
        die("this kernel has no net.ipv4.tcp_friends; load the module, or give --no-friends.")
    # Closed connections of crr stay a minute. All of them must have room, so that the
    # kernel never has to drop one (and report that).
    Path("/proc/sys/net/ipv4/tcp_max_tw_buckets").write_text("262144")


def options():
    parser = argparse.ArgumentParser(prog="guest", description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=["insn", "wall"])
    parser.add_argument("--no-friends", dest="friends", action="store_false",
                        help="leave the friends rows out")  # fmt: skip
    parser.add_argument("--quick", action="store_true",
                        help="fewer operations and repetitions: for a look, not for a quote")  # fmt: skip
    parser.add_argument("--only", default="", metavar="TEST[:SIZE],...",
                        help="these tests only")  # fmt: skip
    parser.add_argument("--reps", type=int, default=0, help="repetitions, 5 by default")
    parser.add_argument("--verbose", action="store_true", help="every repetition, after a '#'")
    args = parser.parse_args()
    args.reps = args.reps or (3 if args.quick else REPETITIONS)
    args.scale = 0.4 if args.quick else 1
    return args


def main():
    args = options()
    prepare(args)
    only = [word for word in args.only.split(",") if word]
    cells = [c for c in CELLS if not only or c[0] in only or f"{c[0]}:{c[1]}" in only]
    if not cells:
        die(f"--only {args.only} leaves nothing to measure.")
    rows = wild = 0
    for test, size in cells:
        transports = [t for t in TRANSPORTS[test] if args.friends or t != "friends"]
        for transport, values in measure(args, transports, test, size).items():
            emit(args, transport, test, size, values)
            rows += 1
            wild += unsteady(values)
    if args.mode == "wall" and wild * 4 > rows:
        print(f"bench: {wild} of {rows} figures by the clock differ by half or more between their"
              " repetitions: the host is too busy for them to mean anything.")  # fmt: skip


main()
