#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Turn lines of tools/bench/guest.py on standard input into bench.json and tables.

usage: report bench.json
"""

import json
import os
import sys

# Only these tests are in bench.json. The tables also show the others.
TESTS = ["rr", "stream", "crr", "connect"]
COLUMNS = ["wire", "friends", "unix", "pipe"]
TITLES = {
    "insn": "Instructions of the guest per operation, both processes and the kernel "
    "(deterministic, one vCPU)",
    "wall": "Nanoseconds per operation (wall clock, two vCPUs; only the ratios mean anything)",
}


def number(value):
    return "-" if value is None else f"{value:,.0f}"


def ratio(a, b):
    return "-" if a is None or b is None else f"{a / b:.3f}"


def table(rows, mode):
    value = {(r["test"], r["size"], r["transport"]): r["value"] for r in rows if r["mode"] == mode}
    cells = list(dict.fromkeys((test, size) for test, size, _ in value))
    lines = [["test", "size", *COLUMNS, "friends/wire", "friends/unix"]]
    for test, size in cells:
        # AF_UNIX and a pipe have no Nagle algorithm, so their stream is beside both streams of TCP.
        twin = "stream" if test == "stream-nagle" else test
        wire, friends, unix, pipe = (
            value.get((test, size, c), value.get((twin, size, c)) if c in COLUMNS[2:] else None)
            for c in COLUMNS
        )
        lines.append(
            [test, str(size), *map(number, (wire, friends, unix, pipe))]
            + [ratio(friends, wire), ratio(friends, unix)]
        )
    print(f"\n{TITLES[mode]}:\n")
    for line in lines:
        print(f"  {line[0]:<16}{line[1]:>7}" + "".join(f"{word:>14}" for word in line[2:]))


def main():
    path = sys.argv[1]
    rows = [json.loads(line) for line in sys.stdin if line.startswith("{")]
    if not rows:
        sys.exit("bench: nothing was measured.")
    with open(path + ".part", "w", encoding="ascii") as out:
        kept = ("  " + json.dumps(row) for row in rows if row["test"] in TESTS)
        out.write("[\n" + ",\n".join(kept) + "\n]\n")
    os.replace(path + ".part", path)
    for mode in TITLES:
        if any(row["mode"] == mode for row in rows):
            table(rows, mode)
    print("\nstream sets TCP_NODELAY, stream-nagle does not.")
    print("rr-busy-poll sets SO_BUSY_POLL; stream-more, -cork, -sendfile, -splice and"
          "\n-zerocopy write each message so; -uring sends and receives with io_uring, and"
          "\n-uring-zc sends with its zero-copy.\n")  # fmt: skip


main()
