#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Turn the runs of cache.guest.py and the counts of misses.c into a table.

usage: cache.report.py KIB[,KIB...] DIRECTORY OUT

DIRECTORY has the files runs.N and counts.N of each boot N. The medians of the boots
count. OUT gets them as JSON.
"""

import json
import statistics
import sys
from pathlib import Path

TRANSPORTS = ["wire", "friends", "unix"]


def lines_of_boot(runs, counts, sizes):
    """Return {(kib, transport, test, size): lines for an operation}."""
    named = [line.split() for line in runs.splitlines() if line.startswith(tuple(TRANSPORTS))]
    misses = [[int(count) for count in line.split()] for line in counts.splitlines()]
    if len(misses) != len(named) or not named:
        sys.exit(f"cache: {len(named)} runs, but {len(misses)} counts.")
    found = {}
    pairs = zip(named[::2], named[1::2], misses[::2], misses[1::2], strict=True)
    for few, many, less, more in pairs:
        for kib, before, after in zip(sizes, less, more, strict=True):
            # A difference of two counts may be a little less than nothing.
            lines = max(0, (after - before) / (int(many[3]) - int(few[3])))
            found[kib, few[0], few[1], int(few[2])] = lines
    return found


def main():
    sizes, directory, out = [int(kib) for kib in sys.argv[1].split(",")], *sys.argv[2:4]
    boots = [
        lines_of_boot(
            runs.read_text(encoding="ascii"),
            runs.with_name(runs.name.replace("runs", "counts")).read_text(encoding="ascii"),
            sizes,
        )
        for runs in Path(directory).glob("runs.*")
    ]
    value = {key: statistics.median(boot[key] for boot in boots) for key in boots[0]}
    rows = [
        {"mode": "misses", "kib": kib, "transport": transport, "test": test,
         "size": size, "value": round(lines, 1), "unit": "lines"}
        for (kib, transport, test, size), lines in value.items()
    ]  # fmt: skip
    with open(out, "w", encoding="ascii") as file:
        json.dump(rows, file, indent=1)
        file.write("\n")
    of = f" (medians of {len(boots)} boots)" if len(boots) > 1 else ""
    print(f"\nLines brought into a cache for an operation, one virtual processor{of}:\n")
    print(" " * 17 + "".join(f"{f'cache of {kib} KiB':>33}" for kib in sizes))
    print(f"  {'test':<8}{'size':>7}" + "".join(f"{t:>11}" for t in TRANSPORTS) * len(sizes))
    for test, size in dict.fromkeys(key[2:] for key in value):
        row = [value[kib, t, test, size] for kib in sizes for t in TRANSPORTS]
        print(f"  {test:<8}{size:>7}" + "".join(f"{v:>11,.0f}" for v in row))
    print()


main()
