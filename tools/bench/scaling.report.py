#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Turn rows of tools/bench/scaling.guest.py on standard input into tables and a verdict.

usage: scaling.report.py scaling.json

Exits with 1 when a bound is exceeded.
"""

import json
import os
import sys

TRANSPORTS = ["wire", "friends", "unix"]
# An operation of friends may cost so much more beside idle connections, in percent, or
# so much more than the wire's.
BOUND = 1
# An idle pair may take so many bytes more than an idle connection of the wire.
BOUND_BYTES = 512


def row_of(words, widths):
    return "  " + "".join(f"{word:>{width}}" for word, width in zip(words, widths, strict=True))


def pairs(rows):
    cells = list(dict.fromkeys((r["cpus"], r["test"], r["size"]) for r in rows))
    numbers = list(dict.fromkeys(r["pairs"] for r in rows))
    ns = {(r["cpus"], r["test"], r["size"], r["pairs"], r["transport"]): r["value"] for r in rows}
    if len(ns) != len(cells) * len(numbers) * len(TRANSPORTS):
        sys.exit("scaling: some of the runs of pairs gave no figure.")

    print("\nOperations per second of all pairs together, and how many times those of one pair"
          "\n(by the clock of a virtual machine: only the ratios mean anything):\n")  # fmt: skip
    widths = [6, 7, 7, 6] + [16] * len(TRANSPORTS) + [14]
    print(row_of(["vCPUs", "test", "size", "pairs", *TRANSPORTS, "friends/wire"], widths))
    for cell in cells:
        for n in numbers:
            words = [*map(str, cell), str(n)]
            for transport in TRANSPORTS:
                now, one = ns[*cell, n, transport], ns[*cell, numbers[0], transport]
                words.append(f"{1e9 / now:,.0f} x{one / now:.2f}")
            words.append(f"{ns[*cell, n, 'wire'] / ns[*cell, n, 'friends']:.2f}")
            print(row_of(words, widths))
    wild = sum(r["most"] > 1.5 * r["least"] for r in rows)
    if wild * 4 > len(rows):
        print(f"\nscaling: {wild} of {len(rows)} figures by the clock differ by half or more between"
              " their repetitions: the host is too busy for them to mean much.")  # fmt: skip


def idle(rows):
    of = {(r["idle"], r["tcp_mem"], r["transport"]): r for r in rows}
    states = list(dict.fromkeys(key[:2] for key in of))
    if len(of) != 2 * len(states):
        sys.exit("scaling: some of the runs beside idle connections gave no figure.")

    print("\nInstructions of the guest per round trip of 1 byte, beside idle connections, and what"
          "\nan idle one takes of memory (both ends) and of net.ipv4.tcp_mem, in bytes:\n")  # fmt: skip
    widths = [7, 9, 16, 16, 14, 9, 8, 15, 9]
    print(row_of(["idle", "tcp_mem", "wire", "friends", "memory: wire", "friends", "a pair",
                  "charged: wire", "friends"], widths))  # fmt: skip
    broken = []
    base = {t: of[*states[0], t]["value"] for t in TRANSPORTS[:2]}
    for state in states:
        n, tcp_mem = state
        wire, friends = (of[*state, t] for t in TRANSPORTS[:2])
        more = {r["transport"]: 100 * (r["value"] / base[r["transport"]] - 1) for r in (wire, friends)}
        dear = more["friends"] > BOUND + max(0, more["wire"])
        words = [f"{n:,}", f"x{tcp_mem}", f"{wire['value']:,.0f} {more['wire']:+.2f}%",
                 f"{friends['value']:,.0f} {more['friends']:+.2f}{'!' if dear else '%'}"]  # fmt: skip
        if dear:
            broken.append(f"a round trip of friends is {more['friends']:.2f} % dearer beside {n:,}"
                          f" idle connections than beside none (bound {BOUND} %)")  # fmt: skip
        if n:
            each = [1024 * r["slab_kib"] / n for r in (wire, friends)]
            pair = each[1] - each[0]
            fat = pair > BOUND_BYTES
            words += [f"{each[0]:,.0f}", f"{each[1]:,.0f}", f"{pair:,.0f}{'!' if fat else ''}"]
            words += [f"{4096 * r['charged_pages'] / n:,.0f}" for r in (wire, friends)]
            if fat:
                broken.append(f"a pair takes {pair:,.0f} bytes (bound {BOUND_BYTES})")
        else:
            words += ["-"] * 5
        print(row_of(words, widths))
    for n, tcp_mem in states:
        friends = of[n, tcp_mem, "friends"]
        if n and tcp_mem == 1:
            print(f"\n/proc/net/tcp_friends, {friends['list_lines']:,} lines:"
                  f" {friends['list_ms']:,.2f} ms at 1 ns an instruction, no read of 4 KiB"
                  f" more than {friends['list_read_ms']:,.2f} ms", end="")  # fmt: skip
    print()
    if broken:
        print()
    for what in broken:
        print(f"scaling: {what}.")
    return not broken


def main():
    rows = [json.loads(line) for line in sys.stdin]
    if not rows:
        sys.exit("scaling: nothing was measured.")
    with open(sys.argv[1] + ".part", "w", encoding="ascii") as out:
        out.write("[\n" + ",\n".join("  " + json.dumps(row) for row in rows) + "\n]\n")
    os.replace(sys.argv[1] + ".part", sys.argv[1])
    good = True
    for part, show in (("pairs", pairs), ("idle", idle)):
        of_part = [row for row in rows if row["part"] == part]
        if of_part:
            good &= show(of_part) is not False
    print()
    sys.exit(not good)


main()
