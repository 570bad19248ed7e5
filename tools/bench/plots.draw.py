#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Draw the deterministic rows of bench.json as pictures.

usage: plots.draw.py bench.json FOLDER

Writes FOLDER/bench-rr.svg and FOLDER/bench-stream.svg, which show the instructions for
an operation, relative to AF_UNIX, over the size of a message.
"""

import json
import os
import sys

import matplotlib

matplotlib.use("svg")
# Equal figures must give equal files.
matplotlib.rcParams["svg.hashsalt"] = "tcp_friends"

import matplotlib.pyplot as plt  # noqa: E402

TITLES = {"rr": "Request and response", "stream": "Stream, TCP_NODELAY"}
STYLES = {
    "wire": ("TCP, loopback", "tab:red", "o"),
    "friends": ("TCP, friends", "tab:green", "s"),
    "unix": ("AF_UNIX", "tab:blue", "^"),
    "pipe": ("pipe", "tab:gray", "v"),
}


def size_name(size):
    return f"{size} B" if size < 1024 else f"{size // 1024} KiB"


def draw(rows, test, path):
    value = {(r["transport"], r["size"]): r["value"] for r in rows if r["test"] == test}
    sizes = sorted({size for _, size in value})
    if len(sizes) < 2:
        sys.exit(f"plots: {test} was measured at {len(sizes)} sizes; run tools/bench/bench whole.")
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for transport, (label, colour, marker) in STYLES.items():
        axes.plot(
            range(len(sizes)),
            [value[transport, size] / value["unix", size] for size in sizes],
            label=label, color=colour, marker=marker,
        )  # fmt: skip
    axes.set_title(f"{TITLES[test]}: instructions, AF_UNIX = 1 (less is better)")
    axes.set_xticks(range(len(sizes)), [size_name(size) for size in sizes])
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.4)
    axes.legend()
    figure.savefig(path + ".part", format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    os.replace(path + ".part", path)


def main():
    with open(sys.argv[1], encoding="ascii") as file:
        rows = [row for row in json.load(file) if row["mode"] == "insn"]
    for test in TITLES:
        draw(rows, test, f"{sys.argv[2]}/bench-{test}.svg")


main()
