#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Measure real programs over the wire and over friends, inside the guest.

Each row of the table is measured in turn over the wire, over friends and, if the
program can, over AF_UNIX, as often as --rounds says. A run counts only when
/proc/net/tcp_friends_stat proves it: friends moved its bytes, or, over the wire, none.
A server stays up for all runs of its program, because it is decided when a connection
is made whether it has friends.

The last line is the table as JSON. The status is 1 when a bound is missed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

SYSCTL = Path("/proc/sys/net/ipv4/tcp_friends")
COUNTERS = Path("/proc/net/tcp_friends_stat")
WORK = Path("/tmp/apps")
POSTGRES = WORK / "postgres"

# Friends must move this part of the bytes that a run of friends sends. It is less than
# all, because now and then a segment takes the wire by design.
MOVED_AT_LEAST = 0.9

# A run takes this many seconds. main() sets it.
SECONDS = 2


def die(message):
    sys.exit(f"apps: {message}")


def output(command, what, **options):
    """Return what a command says. It must succeed, and in time: with lost data it hangs."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=120, check=False, **options)  # fmt: skip
    except subprocess.TimeoutExpired:
        die(f"{what} did not end within 120 s.")
    if done.returncode:
        said = done.stdout.strip().splitlines() or ["nothing"]
        die(f"{what} failed (status {done.returncode}); it said: {said[-1]}")
    return done.stdout


def field(text, start, what):
    """Return what follows 'start' in one of the lines."""
    for line in text.splitlines():
        if line.strip().startswith(start):
            return line.strip()[len(start) :].split()[0]
    die(f"{what} did not tell '{start}'.")


class Server:
    """A server while its program is measured."""

    def __init__(self, port, *command):
        self.name = Path(command[0]).name
        self.port = port
        self.command = command

    def said(self):
        return (self.log.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]

    def listens(self):
        return output(["ss", "-Hltn", f"sport = :{self.port}"], "ss")

    def __enter__(self):
        self.log = WORK / f"{self.name}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        for _ in range(300):
            if self.listens():
                return self
            if self.process.poll() is not None:
                die(f"{self.name} ended at once; it said: {self.said()}")
            time.sleep(0.1)
        die(f"{self.name} does not listen after 30 s; it said: {self.said()}")

    def __exit__(self, *error):
        # Each of the servers takes an interrupt for a request to end.
        self.process.send_signal(2)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            die(f"{self.name} does not end within 30 s; it said: {self.said()}")


# A row's run() takes 'wire', 'friends' or 'unix'. It returns the rate, and the bytes
# that the row's connections carried, or are known to have carried at least.


class Netperf:
    # The control connection has friends, too, and carries a message each way. A busy
    # host allows few transactions. These bytes must not hide that the transactions
    # moved none.
    control = 2 * 656

    def __init__(self, test, unit, bound, *options):
        self.name = test
        self.unit = unit
        self.bound = bound
        self.options = options

    def run(self, _):
        keys = "THROUGHPUT,LOCAL_BYTES_SENT,LOCAL_BYTES_RECVD"
        text = output(["netperf", "-4", "-H", "127.0.0.1", "-t", self.name, "-l", str(SECONDS),
                       "-P", "0", "--", *self.options, "-k", keys], f"netperf {self.name}")  # fmt: skip
        rate, *sent = (float(field(text, f"{key}=", "netperf")) for key in keys.split(","))
        return rate, sum(sent) + self.control


class FriendsBench:
    unit = "1/s"

    def __init__(self, name, bound, *options):
        self.name = name
        self.bound = bound
        self.options = options

    def run(self, column):
        # The wire has nothing to poll on the loopback device, and is faster without.
        busy = ["--busy-poll", "200"] if column == "friends" else []
        text = output(["/src/build/bench/friends-bench", "--transport", "tcp", "--test", "rr",
                       "--count", "10000000", "--time", str(SECONDS * 1000), "--reps", "1",
                       "--json", *self.options, *busy], "friends-bench")  # fmt: skip
        answer = json.loads(text)
        return 1e9 / answer["value"], answer["payload"]


class Redis:
    unit = "1/s"
    # redis-benchmark sends and gets these bytes, by the protocol: three bytes of data,
    # and a key of 16.
    bytes = {"GET": 36 + 9, "SET": 45 + 5}

    def __init__(self, command, clients, bound):
        self.name = f"{command} -c {clients}"
        self.command = command
        self.clients = clients
        self.bound = bound
        self.count = 0

    def benchmark(self, count):
        text = output(["redis-benchmark", "-h", "127.0.0.1", "-t", self.command.lower(), "-n",
                       str(count), "-c", str(self.clients), "--csv"], "redis-benchmark")  # fmt: skip
        return float(field(text, f'"{self.command}","', "redis-benchmark").split('"')[0])

    def run(self, _):
        # redis-benchmark takes no seconds, only a number, which is equal for all runs.
        if not self.count:
            output(["redis-cli", "set", "key:__rand_int__", "xxx"], "redis-cli")
            self.count = round(self.benchmark(2000) * SECONDS)
            return self.run(_)
        return self.benchmark(self.count), self.count * self.bytes[self.command]


class Nginx:
    unit = "1/s"

    def __init__(self, kib, connections, bound):
        self.name = f"{kib} KiB, {connections} conns"
        self.path = f"/{kib}k"
        self.connections = connections
        self.bound = bound
        (WORK / self.path[1:]).write_bytes(b"n" * (kib << 10))

    def run(self, _):
        text = output(["wrk", "-t", "1", "-c", str(self.connections), "-d", f"{SECONDS}s", "-s",
                       str(WORK / "wrk.lua"), f"http://127.0.0.1:8080{self.path}"], "wrk")  # fmt: skip
        requests, got, us, errors = map(int, field(text, "counted=", "wrk").split(","))
        if errors:
            die(f"wrk, {self.name}: {errors} of {requests} requests failed.")
        request = f"GET {self.path} HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"
        return requests * 1e6 / us, got + requests * len(request)


class Pgbench:
    unit = "1/s"
    # A query, a row's description, the row, and the completion are at least so many
    # bytes.
    bytes = 57 + 34 + 12 + 14 + 6

    def __init__(self, clients):
        self.name = f"-S -c {clients}"
        self.bound = None
        self.unix = True
        self.clients = clients

    def run(self, column):
        host = str(POSTGRES) if column == "unix" else "127.0.0.1"
        text = output(["pgbench", "-n", "-S", "-h", host, "-U", "postgres", "-c", str(self.clients),
                       "-T", str(SECONDS), "postgres"], "pgbench")  # fmt: skip
        count = int(field(text, "number of transactions actually processed:", "pgbench"))
        # pgbench prints no rate if the seconds sufficed only for its connections.
        rate = float(field(text, "tps =", "pgbench")) if count else 0
        return rate, count * self.bytes


def netperf():
    with Server(12865, "netserver", "-D", "-4", "-L", "127.0.0.1"):
        yield Netperf("TCP_RR", "1/s", 1.8)
        yield Netperf("TCP_STREAM", "Mbit/s", 1.3, "-m", "16384", "-M", "16384")


def friends_bench():
    yield FriendsBench("rr, busy poll, pinned", 4, "--cpus", "0,1")
    yield FriendsBench("rr, busy poll", 4)


def redis():
    with Server(6379, "redis-server", "--bind", "127.0.0.1", "--save", "", "--dir", str(WORK)):
        for clients, bound in ((1, 1.15), (50, 1.6)):
            for command in ("GET", "SET"):
                yield Redis(command, clients, bound)


def nginx():
    (WORK / "nginx.conf").write_text(f"""
        daemon off; user root; pid {WORK}/nginx.pid; error_log stderr;
        worker_processes 1;
        events {{ worker_connections 1024; }}
        http {{
            access_log off; sendfile on; tcp_nopush on;
            keepalive_requests 1000000000; keepalive_timeout 1h;
            server {{ listen 127.0.0.1:8080; root {WORK}; }}
        }}""")
    (WORK / "wrk.lua").write_text("""
        done = function(summary)
            local e = summary.errors
            io.write(string.format("counted=%d,%d,%d,%d\\n", summary.requests, summary.bytes,
                summary.duration, e.connect + e.read + e.write + e.status + e.timeout))
        end""")
    with Server(8080, "nginx", "-e", "stderr", "-c", str(WORK / "nginx.conf")):
        yield Nginx(1, 32, 1.5)
        yield Nginx(100, 8, 1.9)


def postgres():
    # postgres refuses to run as root. The packages' own cluster wants a password.
    user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups"]
    programs = next(Path("/usr/lib/postgresql").glob("*/bin"))
    data = POSTGRES / "data"
    POSTGRES.mkdir()
    output(["chown", "postgres", str(POSTGRES)], "chown")
    output([*user, programs / "initdb", "-D", data, "-A", "trust", "--no-sync"], "initdb", cwd="/")
    (data / "postgresql.auto.conf").write_text(f"""
        listen_addresses = '127.0.0.1'
        unix_socket_directories = '{POSTGRES}'
        fsync = off
        autovacuum = off""")
    with Server(5432, *user, str(programs / "postgres"), "-D", str(data)):
        output(["pgbench", "-q", "-i", "-h", str(POSTGRES), "-U", "postgres", "postgres"],
               "pgbench -i")  # fmt: skip
        for clients in (1, 8):
            yield Pgbench(clients)


PROGRAMS = {
    "netperf": netperf,
    "friends-bench": friends_bench,
    "redis": redis,
    "nginx": nginx,
    "postgres": postgres,
}


def counted():
    """Return the bytes that friends moved, and the pairs ever made."""
    counters = dict(line.split() for line in COUNTERS.read_text().splitlines())
    return int(counters["bytes"]), int(counters["pairs_total"])


def measure(row, what, column):
    """Run once, prove the run, and return the rate and the part of its bytes that friends moved."""
    SYSCTL.write_text("1" if column == "friends" else "0")
    before = counted()
    rate, carried = row.run(column)
    moved, pairs = (now - then for now, then in zip(counted(), before, strict=True))
    if rate <= 0 or carried <= 0:
        die(f"{what}: nothing was done over {column} in {SECONDS} s.")
    if column != "friends" and (moved or pairs):
        die(f"{what}: friends moved {moved} bytes of a run that had none.")
    if column == "friends" and (not pairs or moved < MOVED_AT_LEAST * carried):
        die(f"{what}: friend path not taken: {pairs} pairs moved {moved} of {carried:.0f} bytes.")
    return rate, moved / carried


def number(value):
    return "-" if value is None else f"{value:,.0f}"


def measure_row(program, row, rounds):
    what = f"{program} {row.name}"
    columns = ["wire", "friends", *(["unix"] if getattr(row, "unix", False) else [])]
    rates = {column: [] for column in columns}
    moved = []
    for _ in range(rounds):
        for column in columns:
            rate, part = measure(row, what, column)
            rates[column].append(round(rate, 1))
            if column == "friends":
                moved.append(part)
    medians = {column: statistics.median(values) for column, values in rates.items()}
    # Each ratio is that of one round, because the host's other work comes and goes, and
    # slows both.
    ratio = statistics.median(
        friends / wire for friends, wire in zip(rates["friends"], rates["wire"], strict=True)
    )
    missed = row.bound is not None and ratio < row.bound
    print(
        f"{program:<14}{row.name:<22}{row.unit:<7}{number(medians['wire']):>10}"
        f"{number(medians['friends']):>10}{ratio:>14.2f}"
        f"{'-' if row.bound is None else f'{row.bound:.2f}':>7}{'!' if missed else ' '}"
        f"{number(medians.get('unix')):>9}{min(moved):>9.0%}",
        flush=True,
    )
    return {
        "program": program, "test": row.name, "unit": row.unit, **medians,
        "ratio": round(ratio, 3), "bound": row.bound, "met": not missed,
        "moved": round(min(moved), 3), "runs": rates,
    }  # fmt: skip


def main():
    global SECONDS

    parser = argparse.ArgumentParser(prog="apps.guest.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("programs", nargs="*")
    args = parser.parse_args()
    SECONDS = args.seconds
    if not SYSCTL.exists():
        die("this kernel has no net.ipv4.tcp_friends; the module is not loaded.")
    WORK.mkdir()
    print(f"{'':<43}{'wire':>10}{'friends':>10}{'friends/wire':>14}{'bound':>7}"
          f"{'AF_UNIX':>10}{'moved':>9}", flush=True)  # fmt: skip
    rows = []
    for name in args.programs or PROGRAMS:
        rows += [measure_row(name, row, args.rounds) for row in PROGRAMS[name]()]
    print(
        f"\nMedians of {args.rounds} runs of {SECONDS} s, in turn, on two virtual processors; more is better."
        "\nfriends/wire: the median of the ratios of two runs in succession. moved: by friends, of"
        "\nthe bytes that the program sent (postgres: of what it must have sent), in the run"
        "\nthat had the least. !: the bound is missed."
    )
    runs = [values for row in rows for values in row["runs"].values()]
    if sum(max(values) > 1.5 * min(values) for values in runs) * 2 > len(runs):
        print("\nThe runs differ by half or more among themselves: this host is too busy now for"
              "\nfigures by the clock.")  # fmt: skip
    print()
    missed = [row for row in rows if not row["met"]]
    for row in missed:
        print(f"apps: bound missed: {row['program']} {row['test']}: friends/wire is"
              f" {row['ratio']:.2f}, and should be {row['bound']:.2f}.")  # fmt: skip
    print(json.dumps(rows))
    sys.exit(bool(missed))


main()
