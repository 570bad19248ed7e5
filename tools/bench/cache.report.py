#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Turn the runs of cache.guest.py and the counts of misses.c into a table.

usage: cache.report.py KIB RUNS COUNTS OUT

OUT gets the same figures as JSON.
"""

import json
import sys

TRANSPORTS = ["wire", "friends", "unix"]


def main():
    kib, runs, counts, out = sys.argv[1:5]
    with open(runs, encoding="ascii") as file:
        named = [line.split() for line in file if line.startswith(tuple(TRANSPORTS))]
    with open(counts, encoding="ascii") as file:
        misses = [int(line.split()[1]) for line in file]
    if len(misses) != len(named) or not named:
        sys.exit(f"cache: {len(named)} runs, but {len(misses)} counts.")
    value = {}
    pairs = zip(named[::2], named[1::2], misses[::2], misses[1::2], strict=True)
    for few, many, less, more in pairs:
        # A difference of two counts may be a little less than nothing.
        value[tuple(few[:3])] = max(0, (more - less) / (int(many[3]) - int(few[3])))
    rows = [
        {"mode": "misses", "kib": int(kib), "transport": transport, "test": test,
         "size": int(size), "value": round(lines, 1), "unit": "lines"}
        for (transport, test, size), lines in value.items()
    ]  # fmt: skip
    with open(out, "w", encoding="ascii") as file:
        json.dump(rows, file, indent=1)
        file.write("\n")
    print(f"\nLines brought into a cache of {kib} KiB for an operation, one virtual processor:\n")
    print(f"  {'test':<8}{'size':>7}" + "".join(f"{t:>12}" for t in TRANSPORTS))
    for test, size in dict.fromkeys(key[1:] for key in value):
        row = [value[t, test, size] for t in TRANSPORTS]
        print(f"  {test:<8}{size:>7}" + "".join(f"{v:>12,.0f}" for v in row))
    print()


main()
