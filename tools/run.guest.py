#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Measure TCP with friends off and on, for 'make run', inside the guest.

Runs netperf with friends off and on. Runs the same operations by one program over the
wire, friends, AF_UNIX and a pipe. Prints the evidence below both tables.

The status is 0 only when everything ran, friends moved the data of the runs
with friends on, and none of the runs with friends off.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = "/src/build/bench/friends-bench"
SYSCTL = Path("/proc/sys/net/ipv4/tcp_friends")
COUNTERS = Path("/proc/net/tcp_friends_stat")
SNMP = Path("/proc/net/snmp")

SEGMENTS = "segments on the wire"
ROUNDS = 5
SECONDS = 1
# netperf by default sends as much as the socket buffer's 16 KiB. The size is given here, for
# receiving too, so that the twin has the same size.
STREAM_SIZE = 16384
# Friends must move this part of the bytes that a run with friends on sends. It is less than all,
# because now and then a segment takes the wire by design.
MOVED_AT_LEAST = 0.9


class Test:
    """One row of each table."""

    def __init__(self, netperf, unit, twin, size, twins, options=()):
        self.netperf = netperf
        self.unit = unit
        self.twin = twin
        self.size = size
        self.twins = twins
        self.options = list(options)
        self.netperfs = {column: [] for column in ("wire", "friends")}
        self.results = {column: [] for column in ("wire", "friends", *twins)}

    def rate(self, ns):
        """Return what netperf would print for the twin's nanoseconds per operation."""
        per_second = 1e9 / ns
        return per_second * self.size * 8 / 1e6 if self.twin == "stream" else per_second


TESTS = [
    Test("TCP_RR", "transactions/s", "rr", 1, ["unix", "pipe"]),
    Test("TCP_STREAM", "Mbit/s", "stream", STREAM_SIZE, ["unix", "pipe"],
         ["-m", str(STREAM_SIZE), "-M", str(STREAM_SIZE)]),
    Test("TCP_CRR", "connections/s", "crr", 1, ["unix"]),
]  # fmt: skip


def die(message):
    sys.exit(f"run: {message}")


def counters():
    """Return the counters of /proc/net/tcp_friends_stat, and the segments that TCP sent."""
    values = {}
    if COUNTERS.exists():
        for line in COUNTERS.read_text().splitlines():
            name, value = line.split()
            values[name] = int(value)
    names, numbers = (
        line.split()[1:] for line in SNMP.read_text().splitlines() if line.startswith("Tcp:")
    )
    values[SEGMENTS] = int(numbers[names.index("OutSegs")])
    return values


class Evidence:
    """How much the counters grew, over all runs with friends off or on."""

    def __init__(self):
        self.grown = {}

    def add(self, test, before, after, payload):
        grown = {name: value - before.get(name, 0) for name, value in after.items()}
        grown[f"{SEGMENTS}, {test}"] = grown.pop(SEGMENTS)
        grown["payload"] = payload
        for name, value in grown.items():
            self.grown[name] = self[name] + value

    def __getitem__(self, name):
        return self.grown.get(name, 0)

    def names(self, start):
        return [name for name, value in self.grown.items() if name.startswith(start) and value]


def netperf(test):
    """Return the rate, and the bytes that the connections carried both ways."""
    keys = "THROUGHPUT,LOCAL_BYTES_SENT,LOCAL_BYTES_RECVD"
    done = subprocess.run(
        ["netperf", "-4", "-H", "127.0.0.1", "-t", test.netperf, "-l", str(SECONDS),
         "-P", "0", "--", *test.options, "-k", keys],
        stdout=subprocess.PIPE, text=True, timeout=120, check=False,
    )  # fmt: skip
    if done.returncode:
        die(f"netperf {test.netperf} failed (status {done.returncode}): {done.stdout.strip()}")
    values = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    sent, received = (int(float(values[f"LOCAL_BYTES_{way}"])) for way in ("SENT", "RECVD"))
    return float(values["THROUGHPUT"]), sent + received


def switch(friends):
    if SYSCTL.exists():
        SYSCTL.write_text("1" if friends else "0")


def measure_netperf(test, friends, evidence):
    switch(friends)
    before = counters()
    rate, payload = netperf(test)
    after = counters()
    evidence.add(test.netperf, before, after, payload)
    moved = after.get("bytes", 0) - before.get("bytes", 0)
    if friends and moved < MOVED_AT_LEAST * payload:
        die(f"{test.netperf} with friends on: friends moved {moved} of {payload} bytes.")
    if not friends and moved:
        die(f"{test.netperf} with friends off: friends moved {moved} bytes all the same.")
    return rate


def measure_tcp(test, friends):
    """Measure the twin over TCP. Friends move all that it sends, or the wire does."""
    switch(friends)
    before = counters().get("bytes", 0)
    rate = measure_twin(test, "tcp")
    moved = counters().get("bytes", 0) - before
    if friends != bool(moved):
        die(f"the twin of {test.netperf}: friends moved {moved} bytes.")
    return rate


def measure_twin(test, transport):
    done = subprocess.run(
        [PROGRAM, "--transport", transport, "--test", test.twin, "--size", str(test.size),
         "--time", str(SECONDS * 500), "--count", "1000000", "--reps", "1", "--json"],
        stdout=subprocess.PIPE, check=False,
    )  # fmt: skip
    if done.returncode:
        die(f"the {transport} twin of {test.netperf} failed (status {done.returncode}).")
    return test.rate(json.loads(done.stdout)["value"])


def start_netserver():
    subprocess.run(["netserver", "-4", "-L", "127.0.0.1"], stdout=subprocess.DEVNULL, check=True)
    for _ in range(100):
        if subprocess.run(["ss", "-Hltn", "sport = :12865"], stdout=subprocess.PIPE,
                          check=True).stdout:  # fmt: skip
            return
        time.sleep(0.1)
    die("netserver does not listen.")


def number(value):
    return "-" if value is None else f"{value:,.0f}"


def ratio(a, b):
    return "-" if a is None or b is None else f"{a / b:.2f}"


def print_table(columns, ratios, results):
    """Print a column for each of columns, {name: key}, and for each pair of keys in ratios."""
    names = dict(zip(columns.values(), columns))
    head = [*columns, *(f"{names[a]}/{names[b]}" for a, b in ratios)]
    print("\n" + " " * 27 + "".join(f"{word:>{max(10, len(word) + 2)}}" for word in head))
    for test in TESTS:
        rates = {
            key: statistics.median(values) for key, values in results(test).items() if values
        }
        words = [number(rates.get(key)) for key in columns.values()]
        words += [ratio(rates.get(a), rates.get(b)) for a, b in ratios]
        print(
            f"{test.netperf:<11} {test.unit:<15}"
            + "".join(f"{w:>{max(10, len(h) + 2)}}" for h, w in zip(head, words))
        )


def print_tables():
    print("\nnetperf over 127.0.0.1, with net.ipv4.tcp_friends 0 and 1:")
    print_table(
        {"wire": "wire", "friends": "friends"}, [("friends", "wire")], lambda test: test.netperfs
    )
    print("\nThe same operations, all by tools/bench/friends-bench:")
    print_table(
        {"wire": "wire", "friends": "friends", "AF_UNIX": "unix", "pipe": "pipe"},
        [("friends", "wire"), ("friends", "unix")],
        lambda test: test.results,
    )
    print(
        f"\nMedians of {ROUNDS} runs of {SECONDS} s, in turn; more is better. 1 byte there and back"
        f"\n(RR, CRR), writes and reads of {STREAM_SIZE} bytes (STREAM). By the clock of a virtual"
        f"\nmachine: the ratios count, and only within a table."
    )


def print_evidence(off, on):
    rows = [
        ("bytes that netperf counted", "payload"),
        ("bytes moved by friends", "bytes"),
        ("skbs moved by friends", "skbs"),
        ("pairs made", "pairs_total"),
        *((name, name) for name in off.names(SEGMENTS)),
        *((name.replace("wire_", "fallbacks: "), name) for name in on.names("wire_")),
    ]
    print(f"\n{'Evidence, all runs of netperf together':<42}{'friends off':>16}{'friends on':>16}")
    for text, name in rows:
        print(f"  {text:<40}{off[name]:>16,}{on[name]:>16,}")
    print(
        "\nSegments are Tcp OutSegs of /proc/net/snmp: also the handshakes, the FINs, and"
        "\nnetperf's control connection."
    )


def main():
    parser = argparse.ArgumentParser(prog="run.guest.py")
    parser.add_argument("--no-friends", dest="friends", action="store_false")
    args = parser.parse_args()
    if args.friends and not SYSCTL.exists():
        die("this kernel has no net.ipv4.tcp_friends; the module is not loaded.")
    began = time.monotonic()
    # Every connection that TCP_CRR leaves in TIME_WAIT must have room.
    Path("/proc/sys/net/ipv4/tcp_max_tw_buckets").write_text("262144")
    start_netserver()
    off, on = Evidence(), Evidence()
    for test in TESTS:
        start = time.monotonic()
        for _ in range(ROUNDS):
            test.netperfs["wire"].append(measure_netperf(test, False, off))
            test.results["wire"].append(measure_tcp(test, False))
            if args.friends:
                test.netperfs["friends"].append(measure_netperf(test, True, on))
                test.results["friends"].append(measure_tcp(test, True))
            for transport in test.twins:
                test.results[transport].append(measure_twin(test, transport))
        print(f"  {test.netperf}: {ROUNDS} rounds in {time.monotonic() - start:.0f} s", flush=True)
    print_tables()
    every = [
        values
        for test in TESTS
        for values in (*test.netperfs.values(), *test.results.values())
        if values
    ]
    if sum(max(values) > 1.5 * min(values) for values in every) * 2 > len(every):
        print("\nThe runs differ by half or more among themselves: this host is too busy now for"
              "\nfigures by the clock. 'make bench' counts instructions, on any host.")  # fmt: skip
    if args.friends:
        print_evidence(off, on)
        if not on["pairs_total"]:
            die("no pair was made with friends on.")
    print(f"\nMeasured in {time.monotonic() - began:.0f} s.")


main()
