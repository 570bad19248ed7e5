#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Turn rows of tools/bench/containers.guest.py on standard input into a table and a verdict.

usage: containers.report.py containers.json

Exits with 1 when a bound is exceeded.
"""

import json
import os
import sys

# Friends may cost at most this part of the wire, and of friends on the loopback device.
OF_WIRE = {
    ("rr", 1): 0.50,
    ("stream", 1024): 0.25,
    ("stream", 4096): 0.25,
    ("stream", 65536): 0.70,
    ("crr", 1): 1.03,
}
OF_LOCAL = {("rr", 1): 1.02}
# A connection without friends may cost so much more, in percent, when other connections
# may have friends.
OTHERS = 0.5


def main():
    rows = [json.loads(line) for line in sys.stdin]
    value = {(r["where"], r["path"], r["test"], r["size"]): r["value"] for r in rows}
    if not rows:
        sys.exit("containers: there are no figures.")
    with open(sys.argv[1] + ".part", "w", encoding="ascii") as out:
        out.write("[\n" + ",\n".join("  " + json.dumps(row) for row in rows) + "\n]\n")
    os.replace(sys.argv[1] + ".part", sys.argv[1])

    missed = []

    def judged(what, ratio, bound):
        bad = bound is not None and ratio > bound
        if bad:
            missed.append(f"{what} is {ratio:.3f} (bound {bound})")
        return f"{ratio:>9.3f}{f' {bound:.2f}' if bound is not None else '':<5}{'!' if bad else ' '}"

    print("\nInstructions of the guest per operation, between two containers:\n")
    print(f"  {'':<8}{'test':<8}{'size':>7}{'wire':>10}{'friends':>10}{'friends/wire':>14}"
          f"{'local':>10}{'friends/local':>14}{'AF_UNIX':>10}")  # fmt: skip
    for where in dict.fromkeys(key[0] for key in value):
        for test, size in dict.fromkeys(key[2:] for key in value if key[1] == "wire"):
            wire, friends, local, unix = (
                value[where, path, test, size] for path in ("wire", "friends", "local", "unix")
            )
            name = f"{where} {test} {size}"
            print(f"  {where:<8}{test:<8}{size:>7}{wire:>10,.0f}{friends:>10,.0f}"
                  + judged(f"{name}: friends/wire", friends / wire, OF_WIRE.get((test, size)))
                  + f"{local:>9,.0f}"
                  + judged(f"{name}: friends/local", friends / local, OF_LOCAL.get((test, size)))
                  + f"{unix:>9,.0f}")  # fmt: skip

    print("\nAnd for who is no friend, on the same way:\n")
    print(f"  {'':<8}{'test':<8}{'size':>7}{'cross off':>12}{'cross on':>12}")
    for where, path, test, size in value:
        if path != "other_off":
            continue
        off, on = value[where, path, test, size], value[where, "other_on", test, size]
        more = 100 * (on - off) / off
        bad = more > OTHERS
        if bad:
            missed.append(f"{where} {test} {size}: dearer by {more:.2f} % for others (bound {OTHERS})")
        print(f"  {where:<8}{test:<8}{size:>7}{off:>12,.1f}{on:>12,.1f} {more:+.3f} %{' !' if bad else ''}")
    print()
    for what in missed:
        print(f"containers: bound missed: {what}.")
    sys.exit(bool(missed))


main()
