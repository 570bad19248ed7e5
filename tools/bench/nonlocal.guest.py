#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Measure what connections that are not local cost, inside the guest.

Two network namespaces are joined by veth, so no two sockets become friends. UDP between
the two and AF_UNIX are measured, too, because nothing of theirs is changed either.

Prints one JSON object a line, {state, transport, test, size, value, unit}.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

PROGRAM = Path("/src/build/bench/friends-bench")
COUNTERS = Path("/proc/net/tcp_friends_stat")

# These are the operations in the timed part of a repetition, and the repetitions for
# each of --reps. A kernel's other work costs much where it falls, now and then. Many
# short repetitions, of which the median counts, can tell a twentieth of a percent. (At
# 1 KiB the wire's stream is no measure: it gathers the writes into segments, or does
# not, by chance.) Connections are first, because earlier tests affect them.
CELLS = {
    ("tcp", "crr", 1): (2000, 1),
    ("tcp", "rr", 1): (1000, 3),
    ("tcp", "rr", 1024): (1000, 3),
    ("tcp", "stream", 16384): (2000, 3),
    ("udp", "rr", 1): (1000, 3),
    ("unix", "rr", 1): (1500, 5),
    ("unix", "stream", 1024): (6000, 3),
}

# These repetitions come before those that count. Connections cost half a percent more
# until each of the 14,000 ports that connect() takes first has one in TIME_WAIT on the
# other side, and stay so.
UNCOUNTED = {("tcp", "crr", 1): 8}


def die(message):
    sys.exit(f"nonlocal: {message}")


def shell(command):
    if subprocess.run(command, shell=True, check=False).returncode:
        die(f"'{command}' failed.")


def widen_neighbour_table(name):
    """Give the kernel's table of neighbours 1024 buckets, which it keeps.

    It begins with eight. Two neighbours that share one of them cost each packet more than
    most hooks do, and many boots had such two by chance.
    """
    entries = "".join(
        f"neighbour add 198.18.{n >> 8}.{n & 255} lladdr 02:00:00:00:00:03 dev veth0 nud permanent\n"
        for n in range(600)
    )
    fill = ["ip", "-n", name, "-batch", "-"]
    if subprocess.run(fill, input=entries, text=True, check=False).returncode:
        die("the table of neighbours could not be filled.")
    shell(f"ip -n {name} neighbour flush dev veth0 nud permanent")


def join():
    """Join the namespaces client and server. Neighbours are known, so nothing is sent by itself."""
    shell("sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
    shell("ip netns add client && ip netns add server")
    shell("ip -n client link add veth0 address 02:00:00:00:00:01 type veth"
          " peer name veth0 address 02:00:00:00:00:02 netns server")  # fmt: skip
    for name, own, other, mac in (("client", 1, 2, 2), ("server", 2, 1, 1)):
        shell(f"ip netns exec {name} sysctl -q -w net.ipv6.conf.all.disable_ipv6=1"
              " net.ipv4.tcp_max_tw_buckets=262144")  # fmt: skip
        shell(f"ip -n {name} link set lo up && ip -n {name} link set veth0 up")
        shell(f"ip -n {name} address add 192.0.2.{own}/24 dev veth0")
        widen_neighbour_table(name)
        shell(f"ip -n {name} neighbour replace 192.0.2.{other}"
              f" lladdr 02:00:00:00:00:0{mac} dev veth0 nud permanent")  # fmt: skip


def switch(state):
    # The states have the same past: the loopback device gets a neighbour, for example.
    local = f"{PROGRAM} --transport tcp --test rr --count 100 --reps 1 >/dev/null"
    shell(local)
    if state in ("off", "on", "met"):
        shell("insmod /src/build/module-patched/tcp_friends.ko")
        for where in ("", "ip netns exec client", "ip netns exec server"):
            shell(f"{where} sysctl -q -w net.ipv4.tcp_friends={int(state != 'off')}")
    if state == "met":
        shell(local)


def pairs():
    """Return the pairs ever formed between the namespaces."""
    if not COUNTERS.exists():
        return 0
    total = 0
    for name in ("client", "server"):
        text = subprocess.run(["ip", "netns", "exec", name, "cat", COUNTERS],
                              stdout=subprocess.PIPE, check=True, text=True).stdout  # fmt: skip
        total += int(dict(line.split() for line in text.splitlines())["pairs_total"])
    return total


def run(cell, reps):
    transport, test, size = cell
    count, times = CELLS[cell]
    uncounted = UNCOUNTED.get(cell, 0)
    command = [PROGRAM, "--transport", transport, "--test", test, "--size", str(size),
               "--count", str(count), "--warmup", "300", "--reps", str(uncounted + times * reps),
               "--mode", "insn", "--json"]  # fmt: skip
    if transport != "unix":
        command += ["--netns", "/run/netns/client,/run/netns/server", "--address", "192.0.2.2"]
    if (transport, test) == ("tcp", "stream"):
        command.append("--nodelay")
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        die(f"{' '.join(map(str, cell))} failed (status {done.returncode}).")
    return json.loads(done.stdout)["reps"][uncounted:]


def main():
    parser = argparse.ArgumentParser(prog="nonlocal.guest.py")
    parser.add_argument("--reps", type=int, default=7)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("state", choices=["vanilla", "absent", "off", "on", "met"])
    args = parser.parse_args()

    join()
    switch(args.state)
    for cell in CELLS:
        values = run(cell, args.reps)
        if args.verbose:
            print("#", args.state, *cell, *values, flush=True)
        transport, test, size = cell
        print(json.dumps({
            "state": args.state, "transport": transport, "test": test, "size": size,
            "value": round(statistics.median(values), 1), "unit": "insn/op",
        }), flush=True)  # fmt: skip
    if pairs():
        die("two sockets in different namespaces became friends.")


main()
