#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2034,SC2154,SC2317,SC2329
# These tests check what an administrator sees of friends: the list of connections, the
# tracepoints, and strict mode.

. "$(dirname "$0")/lib/common.sh"

CONNECTIONS=/proc/net/tcp_friends
TRACING=/sys/kernel/tracing

# begin N: starts N connections in a new namespace, $ns, whose friends move data.
begin()
{
	local n=$1

	need_friends || return
	ns=''
	setup_ns ns
	friends_set "$ns" 1
	ip netns exec "$ns" sysctl -q -w net.ipv4.tcp_friends_revalidate_ms=0
	xfer_start "$ns" -n "$n" -r 0 -z 1000 -i 2 "${@:2}" || return
	within 5000 stat_is "$ns" pairs "$n"
	check_err $? "$(friends_stat "$ns" pairs) pairs, not $n"
	within 5000 stat_at_least "$ns" bytes 50000
	check_err $? "vacuous: friends move nothing"
}

list()
{
	ip netns exec "$ns" cat "$CONNECTIONS"
}

# well_formed [N]: checks that each line has the columns that the first line names, and
# that there are N lines, if N is given.
well_formed()
{
	awk -v want="${1:-}" '
		NR == 1 {
			bad = $0 != "local remote inode peer_inode path peer_path" \
				" bytes peer_bytes skbs peer_skbs falls"
			next
		}
		NF != 11 || $1 !~ /:[0-9]+$/ || $2 !~ /:[0-9]+$/ ||
			$5 !~ /^(friends|wire:[a-z_]+)$/ || $6 !~ /^(friends|wire:[a-z_]+)$/ ||
			$7 $8 $9 $10 ~ /[^0-9]/ ||
			$11 !~ /^(-|([a-z_]+=[1-9][0-9]*,)*[a-z_]+=[1-9][0-9]*)$/ {
			print "malformed: " $0
			bad = 1
		}
		END {
			if (want != "" && NR - 1 != want) {
				print NR - 1 " connections, not " want
				bad = 1
			}
			exit bad || !NR
		}'
}

# sum A B: prints the sum of the list's columns A and B.
sum()
{
	list | awk -v a="$1" -v b="$2" 'NR > 1 { n += $a + $b } END { print n + 0 }'
}

paths_are()
{
	[ "$(list | awk 'NR > 1 { print $5; print $6 }' | sort -u)" = "$1" ]
}

connections()
{
	local out inodes before after pid other=''

	begin 4 "$@" || return
	out=$(list | well_formed 4)
	check_err $? "$out"

	# The inodes and ports are those of the sockets.
	inodes=$(ip netns exec "$ns" ss -Htne state established 2>/dev/null |
		grep -o 'ino:[0-9]*' | tr -dc '0-9\n' | sort)
	[ "$(list | awk 'NR > 1 { print $3; print $4 }' | sort)" = "$inodes" ]
	check_err $? "the list has other inodes than ss"
	[ "$(list | awk 'NR > 1' | grep -c ":$XFER_PORT ")" = 4 ]
	check_err $? "the list has other ports than $XFER_PORT"

	# The sums of the list are those of the namespace's counters.
	before=$(friends_stat "$ns" bytes)
	after=$(sum 7 8)
	[ "$after" -ge "$before" ] && [ "$(friends_stat "$ns" bytes)" -ge "$after" ]
	check_err $? "the list's bytes, $after, are not the namespace's"
	before=$(friends_stat "$ns" skbs)
	after=$(sum 9 10)
	[ "$after" -ge "$before" ] && [ "$(friends_stat "$ns" skbs)" -ge "$after" ]
	check_err $? "the list's skbs, $after, are not the namespace's"

	# The list shows which connections take the wire, and why.
	within 2000 paths_are friends
	check_err $? "not on friends: $(list | awk 'NR > 1 { print $5, $6 }' | head -n 1)"
	ip netns exec "$ns" tcpdump -i lo -w /dev/null >/dev/null 2>&1 &
	pid=$!
	within 5000 paths_are wire:capture
	check_err $? "a capture is not told of: $(list | tail -n 1)"
	within 5000 eval "list | grep -q '[ ,]capture=[1-9]'"
	check_err $? "falls for a capture are not counted"
	kill "$pid"
	wait "$pid" 2>/dev/null
	within 5000 paths_are friends
	check_err $? "not on friends without the capture"

	# Other namespaces do not see the connections.
	setup_ns other
	[ "$(ip netns exec "$other" cat "$CONNECTIONS" | wc -l)" = 1 ]
	check_err $? "another namespace sees the connections"
	xfer_end "$XFER_PID" "$XFER_OUT"
	[ "$(list | wc -l)" = 1 ]
	check_err $? "connections are left in the list"
}

connections_ipv4()
{
	connections
}

connections_ipv6()
{
	connections -6
}

# The socket table of a namespace may have a single bucket. The list goes through that
# bucket in parts, as does the code that visits all connections.
one_bucket()
{
	local n=60 out

	need_friends || return
	sysctl -q -w net.ipv4.tcp_child_ehash_entries=1
	check_err $? "sysctl failed"
	defer sysctl -q -w net.ipv4.tcp_child_ehash_entries=0
	begin "$n" -i 100 || return
	[ "$(ip netns exec "$ns" sysctl -n net.ipv4.tcp_ehash_entries)" = 1 ]
	check_err $? "vacuous: the table has more than one bucket"
	out=$(list | well_formed "$n")
	check_err $? "$out"
	[ "$(list | awk 'NR > 1 { print $1, $2 }' | sort -u | wc -l)" = "$n" ]
	check_err $? "a connection is listed twice"
	ip netns exec "$ns" nft 'table ip t { chain c { type filter hook input priority 0; }; }'
	check_err $? "nft failed"
	friends_set "$ns" 2
	within 5000 paths_are wire:netfilter
	check_err $? "strict mode has missed some: $(list | awk '{ print $5 }' | sort | uniq -c)"
	friends_set "$ns" 0
	[ "$(friends_stat "$ns" pairs)" = 0 ]
	check_err $? "$(friends_stat "$ns" pairs) pairs are left"
	xfer_end "$XFER_PID" "$XFER_OUT"
}

# The list is read while connections come and go.
busy_list()
{
	local i out rc=0

	begin 8 || return
	for ((i = 0; i < $(scaled 30); i++)); do
		((i % 5)) || ip netns exec "$ns" friends_xfer -n 4 -b 1000 >/dev/null
		out=$(list | well_formed) || rc=1
	done
	check_err "$rc" "$out"
	# Each of these small reads goes on where the last one ended.
	out=$(ip netns exec "$ns" dd if="$CONNECTIONS" bs=64 status=none | well_formed 8)
	check_err $? "read in pieces: $out"
	xfer_end "$XFER_PID" "$XFER_OUT"
}

# told EVENT PATTERN: prints how many lines of the trace match.
told()
{
	grep -c "tcp_friends_$1: .*:$XFER_PORT .*$2" "$instance/trace"
}

is_told()
{
	[ "$(told "$1" "$2")" -ge "$3" ]
}

events()
{
	local instance=$TRACING/instances/observe-$BASHPID pid

	need_friends || return
	[ -e "$TRACING/events" ] || mount -t tracefs nodev "$TRACING"
	mkdir "$instance"
	check_err $? "no instance of tracefs"
	defer rmdir "$instance"
	echo 20000 >"$instance/buffer_size_kb"
	echo 1 >"$instance/events/tcp_friends/enable"
	check_err $? "no tracepoints"
	begin 2 || return
	is_told pair "" 2
	check_err $? "$(told pair "") times pair for 2 pairs"
	is_told move "bytes=1000 skbs=1" 50
	check_err $? "$(told move "bytes=1000 skbs=1") moves of a message"
	ip netns exec "$ns" tcpdump -i lo -w /dev/null >/dev/null 2>&1 &
	pid=$!
	within 5000 is_told fallback reason=capture 10
	check_err $? "no transmission that took the wire for a capture"
	kill "$pid"
	wait "$pid" 2>/dev/null
	moves_on
	check_err $? "nothing moves after the capture"
	xfer_end "$XFER_PID" "$XFER_OUT"
	within 2000 is_told unpair "" 2
	check_err $? "$(told unpair "") times unpair for 2 pairs"
	# A FIN behind data in flight, or by which the wire is asked, is told as that.
	is_told fallback reason=fin 2
	check_err $? "$(told fallback reason=fin) FINs on the wire"
	echo 0 >"$instance/events/tcp_friends/enable"
}

# moves_on and stands check whether friends move data or not.
moves_on()
{
	within 5000 stat_at_least "$ns" bytes $(($(friends_stat "$ns" bytes) + 20000))
}

stands()
{
	local bytes

	sleep 0.2
	bytes=$(friends_stat "$ns" bytes)
	sleep 0.3
	stat_is "$ns" bytes "$bytes"
}

# With net.ipv4.tcp_friends at 1, friends go past a netfilter hook without rules. With
# 2, they do not, wherever the hook is.
strict()
{
	local hook

	begin 2 || return
	for hook in 'inet output' 'inet input' 'inet prerouting' 'inet postrouting' \
			'netdev ingress device lo' 'netdev egress device lo'; do
		ip netns exec "$ns" nft -f - <<-END
			table ${hook%% *} t {
				chain c {
					type filter hook ${hook#* } priority 0
				}
			}
		END
		check_err $? "nft failed"
		moves_on
		check_err $? "not strict, and yet a hook of $hook stops friends"
		friends_set "$ns" 2
		stands
		check_err $? "strict, and friends go past a hook of $hook"
		stat_at_least "$ns" wire_netfilter 1
		check_err $? "wire_netfilter is not counted"
		paths_are wire:netfilter
		check_err $? "the list does not tell of netfilter"
		ip netns exec "$ns" nft delete table "${hook%% *}" t
		moves_on
		check_err $? "strict, and friends do not go on without the hook"
		friends_set "$ns" 1
	done
	# No packet on lo passes the forward hook.
	ip netns exec "$ns" nft 'table inet t { chain c { type filter hook forward priority 0; }; }'
	check_err $? "nft failed"
	friends_set "$ns" 2
	moves_on
	check_err $? "strict, and friends do not go past a hook that they do not pass"
	stat_is "$ns" pairs 2
	check_err $? "strict mode has parted friends"
	! ip netns exec "$ns" sysctl -q -w net.ipv4.tcp_friends=3 2>/dev/null
	check_err $? "net.ipv4.tcp_friends can be 3"
	xfer_end "$XFER_PID" "$XFER_OUT"
}

# The administrator's program shows what the files contain.
program()
{
	local friends=$friends_dir/../tools/friends out pid elsewhere watch

	begin 3 || return
	if [ ! -x "$friends" ] || ! command -v python3 >/dev/null; then
		retmsg="tools/friends or python3 is not here"
		RET=$ksft_skip
		return
	fi
	out=$(ip netns exec "$ns" "$friends" status)
	check_err $? "status: $out"
	grep -qi "on" <<<"$out" && grep -qw 3 <<<"$out"
	check_err $? "status tells: $out"
	out=$(ip netns exec "$ns" "$friends" list --port "$XFER_PORT")
	check_err $? "list: $out"
	[ "$(grep -c friends_xfer <<<"$out")" -ge 3 ]
	check_err $? "list does not name the programs: $out"
	out=$("$friends" list --json --of "$XFER_PID" |
		python3 -c 'import json, sys; print(len(json.load(sys.stdin)))')
	[ "$out" = 3 ]
	check_err $? "list --json --of has $out connections, not 3"
	out=$(ip netns exec "$ns" "$friends" top -d 1 -n 1)
	check_err $? "top: $out"
	grep -q "127.0.0.1:" <<<"$out"
	check_err $? "top shows: $out"

	[ -e "$TRACING/events" ] || mount -t tracefs nodev "$TRACING"
	"$friends" watch --json >"$TMP/watched" 2>&1 &
	pid=$!
	# This watches the host's own namespace, where none of the events happens.
	"$friends" watch --json --of 1 >"$TMP/elsewhere" 2>&1 &
	elsewhere=$!
	for watch in "$pid" "$elsewhere"; do
		within 20000 eval "ls -d $TRACING/instances/tcp_friends-$watch >/dev/null 2>&1"
		check_err $? "watch has no instance of tracefs: $(head -n 3 "$TMP/watched")"
	done
	xfer_end "$XFER_PID" "$XFER_OUT"
	within 5000 grep -q unpair "$TMP/watched"
	check_err $? "watch shows: $(head -n 3 "$TMP/watched")"
	kill -TERM "$pid" "$elsewhere"
	wait "$pid" "$elsewhere"
	! grep -q ":$XFER_PORT\b" "$TMP/elsewhere"
	check_err $? "watch --of shows another namespace: $(head -n 3 "$TMP/elsewhere")"
	[ ! -e "$TRACING/instances/tcp_friends-$pid" ]
	check_err $? "watch has left its instance of tracefs behind"
}

require_command nft
require_command ss
require_command tcpdump

run_tests connections_ipv4 connections_ipv6 one_bucket busy_list events strict program
