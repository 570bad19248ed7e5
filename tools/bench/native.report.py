#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Turn lines of native.guest.py on standard input into native.json and a table.

usage: native.report.py native.json
"""

import json
import os
import sys

COLUMNS = ["wire", "friends", "unix"]

TEXT = """
Cycles are ticks of the processor's time stamp counter. Each figure is a median, and the transports
took turns. What User Mode Linux is not:
 - Static keys are branches, static calls are indirect calls, and so is each call within the kernel
   (its code model is large). All transports pay for that, friends also for their hooks.
 - There are no system calls in a figure, since two kernel threads talk. A program pays for two
   more an operation, over each transport alike.
 - To clear and to set the interrupt flag is a store, and a switch of threads is a switch of stacks.
   What a machine needs besides is in no figure.
 - The size of the second-level cache is not known there, so the module assumes the largest.
 - A CPU without work polls ("nohlt"). On a machine that lets it sleep, a wake-up costs more.
 - The guest's memory is on huge pages where the host permits that.
"""


def number(value):
    return "-" if value is None else f"{value:,.0f}"


def main():
    path = sys.argv[1]
    rows = [json.loads(line) for line in sys.stdin if line.startswith("{")]
    if not rows:
        sys.exit("native: nothing was measured.")
    with open(path + ".part", "w", encoding="ascii") as out:
        out.write("[\n" + ",\n".join("  " + json.dumps(row) for row in rows) + "\n]\n")
    os.replace(path + ".part", path)
    value = {(r["cpus"], r["test"], r["size"], r["transport"]): r["value"] for r in rows}
    for cpus in dict.fromkeys(r["cpus"] for r in rows):
        print(f"\nCycles per operation, {cpus} CPU{'s' * (cpus > 1)}:\n")
        print(f"  {'test':<8}{'size':>7}" + "".join(f"{c:>12}" for c in COLUMNS)
              + f"{'friends/wire':>14}{'friends/unix':>14}")  # fmt: skip
        for test, size in dict.fromkeys((r["test"], r["size"]) for r in rows):
            row = [value.get((cpus, test, size, c)) for c in COLUMNS]
            if None in row:
                print(f"  {test:<8}{size:>7}" + "".join(f"{number(v):>12}" for v in row))
                continue
            wire, friends, unix = row
            print(f"  {test:<8}{size:>7}" + "".join(f"{number(v):>12}" for v in row)
                  + f"{friends / wire:>14.3f}{friends / unix:>14.3f}")  # fmt: skip
    print(TEXT)


main()
