#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Check whether any figure of friends is worse than it was.

usage: compare bench.json expected.json [--update]

The kept figures are ratios of friends to AF_UNIX in one boot (to the wire for
connections). Kernels are built differently from day to day, and both figures move.
Of what a cache misses, the kept figures are friends' own, since AF_UNIX mostly
misses nothing.
"""

import json
import sys

TOLERANCE = 0.01
# What misses a cache as large as a queue depends on where memory happens to be: single
# boots gave 620 to 1160 lines, and medians of three 927 to 1009.
TOLERANCE_LINES = 0.16
# So few lines are next to nothing: a message of 64 KiB has 1,024 lines.
FEW_LINES = 50


def lines(rows):
    return {
        f"{row['test']} {row['size']} lines into {row['kib']} KiB": row["value"]
        for row in rows
        if row["transport"] == "friends"
    }


def figures(path):
    with open(path, encoding="ascii") as file:
        rows = json.load(file)
    missed = [row for row in rows if row["mode"] == "misses"]
    return lines(missed) if missed else ratios(rows)


def bounds(name, was):
    """Return what is better, and what is worse than expected."""
    if " lines into " in name:
        room = max(FEW_LINES, was * TOLERANCE_LINES)
        return was - room, was + room
    return was * (1 - TOLERANCE), was * (1 + TOLERANCE)


def ratios(rows):
    rows = [row for row in rows if row["mode"] == "insn"]
    value = {(row["test"], row["size"], row["transport"]): row["value"] for row in rows}
    found = {}
    for test, size, transport in value:
        if transport != "friends":
            continue
        peer = "wire" if test in ("crr", "connect") else "unix"
        found[f"{test} {size} friends/{peer}"] = round(
            value[test, size, "friends"] / value[test, size, peer], 4
        )
    return found


def main():
    now = figures(sys.argv[1])
    if "--update" in sys.argv[3:]:
        with open(sys.argv[2], "w", encoding="ascii") as out:
            json.dump(now, out, indent=2)
            out.write("\n")
        return
    with open(sys.argv[2], encoding="ascii") as file:
        expected = json.load(file)
    bad = []
    for name, was in expected.items():
        better, worse = bounds(name, was)
        if name not in now:
            bad.append(f"{name} was not measured")
        elif now[name] > worse:
            bad.append(f"{name}: {now[name]:.4f}, was {was:.4f}, may be {worse:.4f}")
        elif now[name] < better:
            print(f"bench-check: {name}: {now[name]:.4f}, better than {was:.4f};"
                  " keep it with tools/bench/check --update.")  # fmt: skip
    for what in bad:
        print(f"bench-check: worse: {what}.")
    print(f"bench-check: {len(expected) - len(bad)} of {len(expected)} as expected.")
    sys.exit(bool(bad))


main()
