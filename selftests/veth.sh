#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2034,SC2154,SC2317,SC2329
# Two sockets that are connected between two namespaces over veth never become
# friends, unless net.ipv4.tcp_friends_cross is set.

. "$(dirname "$0")/lib/common.sh"

bulk()
{
	setup_veth
	friends_set "$a" 1
	friends_set "$b" 1
	between -n 4 -b "$(scaled 8000000)" -a 192.0.2.2
	between -6 -n 4 -b "$(scaled 8000000)" -a 2001:db8::2
	no_friends
}

# Requests and responses go over one connection, then over one connection each.
requests()
{
	local i

	setup_veth
	friends_set "$a" 1
	friends_set "$b" 1
	between -r "$(scaled 2000)" -a 192.0.2.2
	between -6 -r "$(scaled 2000)" -z 1024 -a 2001:db8::2
	for ((i = 0; i < 20; i++)); do
		between -r 1 -a 192.0.2.2
	done
	no_friends
}

# Meanwhile a connection within the server's namespace, at the same address, has
# friends.
among_friends()
{
	local pid out

	need_friends || return
	setup_veth
	friends_set "$a" 1
	friends_set "$b" 1
	xfer_start "$b" -a 192.0.2.2 -p 5001 || return
	pid=$XFER_PID out=$XFER_OUT
	within 2000 stat_is "$b" pairs 1
	check_err $? "the connection within a namespace did not pair"
	between -p 5002 -a 192.0.2.2 -b "$(scaled 1000000)"
	stat_is "$a" pairs_total 0
	check_err $? "pairs in the client's namespace"
	stat_is "$b" pairs_total 1
	check_err $? "more pairs than one in the server's namespace"
	xfer_end "$pid" "$out"
}

# Friends are on in one namespace, and off in the other.
one_side_on()
{
	need_friends || return
	setup_veth
	friends_set "$a" 1
	between -b "$(scaled 1000000)" -a 192.0.2.2
	no_friends
	friends_set "$a" 0
	friends_set "$b" 1
	between -b "$(scaled 1000000)" -a 192.0.2.2
	no_friends
}

run_tests bulk requests among_friends one_side_on
