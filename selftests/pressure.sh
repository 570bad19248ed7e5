#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2034,SC2154,SC2317,SC2329
# These tests run streams while all of TCP has little memory (net.ipv4.tcp_mem). The
# streams get slower, but no byte may be lost and none may stall. The whole machine
# shares that memory, so nothing else may run meanwhile. The kernel accounts memory
# only once a processor holds net.core.mem_pcpu_rsv pages, 256 at least, so at first
# nobody reads and more than that is queued.

. "$(dirname "$0")/lib/common.sh"

# ext_stat NS NAME: prints a counter of TcpExt: in /proc/net/netstat.
ext_stat()
{
	ip netns exec "$1" awk -v name="$2" '
		$1 != "TcpExt:" { next }
		!column { for (i = 1; i <= NF; i++) if ($i == name) column = i; next }
		{ print $column }' /proc/net/netstat
}

restore()
{
	sysctl -q -w net.ipv4.tcp_mem="$USUAL"
}

# streams FRIENDS PAGES [ARG]...: runs streams; above PAGES, TCP is under pressure.
streams()
{
	local friends=$1 pages=$2 bytes=0 ns=''

	shift 2
	[ "$friends" = 0 ] || need_friends || return
	setup_ns ns
	friends_set "$ns" "$friends"
	USUAL=$(sysctl -n net.ipv4.tcp_mem)
	defer restore
	sysctl -q -w net.ipv4.tcp_mem="$((pages / 2)) $pages $LIMIT"
	check_err $? "net.ipv4.tcp_mem cannot be set"
	xfer_start "$ns" -f -n 12 -b "$(scaled 1000000)" "$@" || return
	wait "$XFER_PID"
	check_err $? "friends_xfer: $(grep -v '^port' "$XFER_OUT" | tr '\n' ' ')"
	[ "$(ext_stat "$ns" TCPMemoryPressures)" -ge 1 ]
	check_err $? "vacuous: TCP was under no pressure"
	restore
	if [ "$friends" = 1 ]; then
		[ "$(friends_stat "$ns" bytes)" -gt 0 ]
		check_err $? "vacuous: friends moved nothing"
	fi
	# The pressure is over.
	xfer_start "$ns" -b "$(scaled 1000000)" || return
	wait "$XFER_PID"
	check_err $? "afterwards: $(grep -v '^port' "$XFER_OUT" | tr '\n' ' ')"
}

# These tests cause pressure only: buffers do not grow.
LIMIT=1000000

wire_pressed()
{
	streams 0 8
}

friends_pressed()
{
	streams 1 8
}

friends_pressed_ipv6()
{
	streams 1 8 -6
}

# TCP gets not a page more than LIMIT. What comes by the wire is dropped and sent
# again. What friends would move stays where it is.
wire_short()
{
	LIMIT=300
	streams 0 150
}

friends_short()
{
	LIMIT=300
	streams 1 150
}

# Prints the number of pages that TCP is charged with.
pages()
{
	awk '$1 == "TCP:" { for (i = 2; i < NF; i++) if ($i == "mem") print $(i + 1) }' \
		/proc/net/sockstat
}

# The module's skb cache is charged to TCP, and is freed when memory is needed.
# Nothing is sent between the two measurements.
friends_kept()
{
	local ns='' kept

	need_friends || return
	setup_ns ns
	friends_set "$ns" 1
	xfer_start "$ns" -f -n 4 -b "$(scaled 4000000)" || return
	wait "$XFER_PID"
	check_err $? "friends_xfer: $(grep -v '^port' "$XFER_OUT" | tr '\n' ' ')"
	[ "$(friends_stat "$ns" bytes)" -gt 0 ]
	check_err $? "vacuous: friends moved nothing"
	kept=$(pages)
	echo 2 >/proc/sys/vm/drop_caches
	[ "$(pages)" -le $((kept - 100)) ]
	check_err $? "TCP was charged with $kept pages, and with $(pages) after the shrinker ran"
}

run_tests wire_pressed friends_pressed friends_pressed_ipv6 wire_short friends_short \
	friends_kept
