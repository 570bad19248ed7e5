#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2034,SC2154,SC2317,SC2329
# These tests unload the module under load, and load it again.

. "$(dirname "$0")/lib/common.sh"

# expect_friends NS N: checks that N connections in NS have friends that move
# data.
expect_friends()
{
	local bytes

	within 2000 stat_is "$1" pairs "$2"
	check_err $? "$(friends_stat "$1" pairs) pairs, not $2"
	bytes=$(friends_stat "$1" bytes)
	within 5000 stat_at_least "$1" bytes $((bytes + 1000000))
	check_err $? "vacuous: no bytes are moved by friends"
}

# expect_wire NS: checks that the connections in NS go on over the wire.
expect_wire()
{
	local segments

	segments=$(tcp_stat "$1" OutSegs)
	within 5000 segments_at_least "$1" $((segments + 50))
	check_err $? "the connections stand still"
}

unload()
{
	rmmod tcp_friends
	check_err $? "rmmod failed"
	[ ! -e /proc/net/tcp_friends ] && [ ! -e /proc/net/tcp_friends_stat ]
	check_err $? "a file of /proc/net outlives the module"
}

load()
{
	insmod "$KO"
	check_err $? "insmod failed"
}

mid_stream()
{
	local ns='' pid out

	need_friends_ko || return
	setup_ns ns
	friends_set "$ns" 1
	xfer_start "$ns" "$@" -n 4 || return
	pid=$XFER_PID out=$XFER_OUT
	expect_friends "$ns" 4
	unload
	expect_wire "$ns"
	load
	friends_set "$ns" 1
	expect_wire "$ns"
	stat_is "$ns" pairs 0
	check_err $? "connections from before the module are pairs"

	# New connections pair, and the old ones stay on the wire.
	xfer_start "$ns" "$@" -n 2 -s 2 || return
	expect_friends "$ns" 2
	xfer_end "$pid" "$out"
	xfer_end "$XFER_PID" "$XFER_OUT"
	within 2000 stat_is "$ns" pairs 0
	check_err $? "pairs are left"
}

mid_stream_ipv4()
{
	mid_stream
}

mid_stream_ipv6()
{
	mid_stream -6
}

# Connections are in several namespaces. Friends are off in one of them.
many_namespaces()
{
	local a='' b='' c='' ns pids=() outs=() i

	need_friends_ko || return
	setup_ns a b c
	friends_set "$a" 1
	friends_set "$b" 1
	for ns in "$a" "$b" "$c"; do
		xfer_start "$ns" -n 2 || return
		pids+=("$XFER_PID")
		outs+=("$XFER_OUT")
	done
	expect_friends "$a" 2
	expect_friends "$b" 2
	stat_is "$c" pairs_total 0
	check_err $? "pairs in a namespace that is off"
	unload
	for ns in "$a" "$b" "$c"; do
		expect_wire "$ns"
	done
	load
	for ns in "$a" "$b" "$c"; do
		[ "$(ip netns exec "$ns" sysctl -n net.ipv4.tcp_friends)" = 0 ]
		check_err $? "a namespace is on after insmod"
	done
	for i in 0 1 2; do
		xfer_end "${pids[i]}" "${outs[i]}"
	done
}

# The namespace is deleted while its connections are friends.
namespace_goes_first()
{
	local ns=''

	need_friends_ko || return
	setup_ns ns
	friends_set "$ns" 1
	xfer_start "$ns" -n 2 || return
	expect_friends "$ns" 2
	ip netns delete "$ns"
	kill -KILL "$XFER_PID"
	wait "$XFER_PID" 2>/dev/null
	unload
	load
}

run_tests mid_stream_ipv4 mid_stream_ipv6 many_namespaces namespace_goes_first
