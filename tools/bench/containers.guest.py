#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Measure TCP between two containers, inside the guest: over a bridge, and through NAT.

There are three network namespaces. The client and the server each have a veth to the
bridge of the host's namespace. For NAT, the client has a veth to the host's namespace
instead, which leads a published port to the server and hides the client behind its own
address.

Prints one JSON object a line, {where, path, test, size, value, unit}. Every run is
checked against the counters of /proc/net/tcp_friends_stat.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

PROGRAM = "/src/build/bench/friends-bench"
COUNTS = {
    ("rr", 1): 1000,
    ("rr", 1024): 1000,
    ("stream", 1024): 8000,
    ("stream", 4096): 8000,
    ("stream", 16384): 2000,
    ("stream", 65536): 2000,
    ("crr", 1): 500,
}
# Connections without friends are measured by their data, and by the segments that open
# and close them.
OTHERS = [("rr", 1), ("stream", 16384), ("crr", 1)]
MOVED_AT_LEAST = 0.9
# Connections cost more until each port has one in TIME_WAIT; see nonlocal.guest.py.
UNCOUNTED = {("crr", 1): 8}


def die(message):
    sys.exit(f"containers: {message}")


def shell(command):
    if subprocess.run(command, shell=True, check=False).returncode:
        die(f"'{command}' failed.")


def attach(name, host_end, mac, address):
    """Make a container's device, whose other end is in the namespace host."""
    shell(f"ip -n {name} link add eth0 address 02:00:00:00:00:0{mac} type veth"
          f" peer name {host_end} netns host")  # fmt: skip
    shell(f"ip -n {name} address add {address}/24 dev eth0 && ip -n {name} link set eth0 up")
    shell(f"ip -n host link set {host_end} up")


def know(name, address, mac, device="eth0"):
    """Make a neighbour known, so that nothing is sent by itself."""
    shell(f"ip -n {name} neighbour replace {address} lladdr {mac} dev {device} nud permanent")


def setup(where):
    shell("sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
    for name in ("host", "client", "server"):
        shell(f"ip netns add {name} && ip -n {name} link set lo up")
        shell(f"ip netns exec {name} sysctl -q -w net.ipv6.conf.all.disable_ipv6=1"
              " net.ipv6.conf.default.disable_ipv6=1 net.ipv4.tcp_max_tw_buckets=262144")  # fmt: skip
    shell("ip -n host link add br0 address 02:00:00:00:01:00 type bridge forward_delay 0")
    shell("ip -n host link set br0 up")
    attach("server", "veth_s", 2, "192.0.2.2")
    shell("ip -n host link set veth_s master br0")
    if where == "bridge":
        attach("client", "veth_c", 1, "192.0.2.1")
        shell("ip -n host link set veth_c master br0")
        know("client", "192.0.2.2", "02:00:00:00:00:02")
        know("server", "192.0.2.1", "02:00:00:00:00:01")
        return []
    attach("client", "veth_c", 1, "198.51.100.1")
    shell("ip -n host link set veth_c address 02:00:00:00:01:01")
    shell("ip -n host address add 198.51.100.254/24 dev veth_c")
    shell("ip -n host address add 192.0.2.254/24 dev br0")
    shell("ip -n client route add default via 198.51.100.254")
    shell("ip netns exec host sysctl -q -w net.ipv4.ip_forward=1")
    know("client", "198.51.100.254", "02:00:00:00:01:01")
    know("host", "198.51.100.1", "02:00:00:00:00:01", "veth_c")
    know("host", "192.0.2.2", "02:00:00:00:00:02", "br0")
    know("server", "192.0.2.254", "02:00:00:00:01:00")
    shell("""ip netns exec host nft -f - <<END
        table ip t {
            chain pre {
                type nat hook prerouting priority -100
                ip daddr 198.51.100.254 tcp dport 5001 dnat to 192.0.2.2
            }
            chain post {
                type nat hook postrouting priority 100
                oifname br0 masquerade
            }
        }
END""")
    return ["--port", "5001", "--published", "198.51.100.254"]


def switch(friends, cross):
    for name in ("client", "server"):
        shell(f"ip netns exec {name} sysctl -q -w net.ipv4.tcp_friends={int(friends)}")
    shell(f"sysctl -q -w net.ipv4.tcp_friends_cross={int(cross)}")


def counted():
    """Return the bytes that friends moved in both namespaces, and the pairs ever made."""
    moved = pairs = 0
    for name in ("client", "server"):
        text = subprocess.run(
            ["ip", "netns", "exec", name, "cat", "/proc/net/tcp_friends_stat"],
            stdout=subprocess.PIPE, check=True, text=True,
        ).stdout  # fmt: skip
        values = dict(line.split() for line in text.splitlines())
        moved += int(values["bytes"])
        pairs += int(values["pairs_total"])
    return moved, pairs


def run(args, options, path, cell):
    test, size = cell
    times = 3 if path.startswith("other") else 1
    uncounted = UNCOUNTED.get(cell, 0) if path.startswith("other") else 0
    command = [
        PROGRAM, "--transport", "unix" if path == "unix" else "tcp", "--test", test,
        "--size", str(size), "--count", str(COUNTS[cell]), "--warmup", "200",
        "--reps", str(uncounted + times * args.reps), "--mode", "insn", "--json",
        *options, *(["--nodelay"] if test == "stream" and path != "unix" else []),
    ]  # fmt: skip
    before = counted()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    what = f"{path} {test} {size}"
    if done.returncode:
        die(f"{what} failed (status {done.returncode}).")
    answer = json.loads(done.stdout)
    moved, pairs = (now - then for now, then in zip(counted(), before, strict=True))
    if path == "friends" and (not pairs or moved < MOVED_AT_LEAST * answer["payload"]):
        die(f"{what}: friends moved {moved} of {answer['payload']} bytes, in {pairs} pairs.")
    if path not in ("friends", "local") and (moved or pairs):
        die(f"{what}: friends moved {moved} bytes, in {pairs} pairs.")
    return answer["reps"][uncounted:]


def emit(where, path, cell, values):
    print(json.dumps({
        "where": where, "path": path, "test": cell[0], "size": cell[1],
        "value": round(statistics.median(values), 1), "unit": "insn/op",
    }), flush=True)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(prog="containers.guest.py")
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("where", choices=["bridge", "nat"])
    args = parser.parse_args()
    if not Path("/proc/sys/net/ipv4/tcp_friends_cross").exists():
        die("this kernel has no net.ipv4.tcp_friends_cross; load the module.")

    published = setup(args.where)
    across = ["--netns", "/run/netns/client,/run/netns/server", "--address", "192.0.2.2", *published]
    # Connections without friends come first, so that friends cannot affect what they
    # cost.
    for cell in OTHERS:
        values = {False: [], True: []}
        # The two alternate, because the tables of trackers and connections fill.
        for cross in (False, True, True, False):
            switch(False, cross)
            values[cross] += run(args, across, f"other {cross}", cell)
        for cross, both in values.items():
            emit(args.where, f"other_{'on' if cross else 'off'}", cell, both)
    for path in ("wire", "friends"):
        switch(True, path == "friends")
        for cell in COUNTS:
            emit(args.where, path, cell, run(args, across, path, cell))
    switch(False, False)
    # These run in one namespace, and over AF_UNIX, as in a directory that containers
    # share.
    shell("sysctl -q -w net.ipv4.tcp_friends=1")
    for path in ("local", "unix"):
        for cell in COUNTS:
            emit(args.where, path, cell, run(args, [], path, cell))


main()
