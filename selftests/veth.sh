#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2034,SC2154,SC2317,SC2329
# A connection between two namespaces over veth is never a friend, and is the
# same connection, segment by segment, with friends as without.

. "$(dirname "$0")/common.sh"

ROUNDS=$(scaled 100)

setup_veth()
{
	a='' b=''
	setup_ns a b
	ip -n "$a" link add veth0 type veth peer name veth0 netns "$b"
	ip -n "$a" address add 192.0.2.1/24 dev veth0
	ip -n "$b" address add 192.0.2.2/24 dev veth0
	ip -n "$a" address add 2001:db8::1/64 dev veth0 nodad
	ip -n "$b" address add 2001:db8::2/64 dev veth0 nodad
	ip -n "$a" link set veth0 up
	ip -n "$b" link set veth0 up
	busywait "$(patience 5000)" ip netns exec "$a" \
		ping -q -c 1 -W 1 192.0.2.2 >/dev/null
	check_err $? "the namespaces do not see each other"
	busywait "$(patience 5000)" ip netns exec "$a" \
		ping -q -c 1 -W 1 2001:db8::2 >/dev/null
	check_err $? "the namespaces do not see each other by IPv6"
}

# between ARG...: friends_xfer from $a to $b.
between()
{
	local out rc

	out=$(friends_xfer -t "$XFER_STALL" \
		-S "/run/netns/$b" -C "/run/netns/$a" "$@" 2>&1)
	rc=$?
	check_err "$rc" "friends_xfer: $(tr '\n' ' ' <<<"$out")"
	return "$rc"
}

no_friends()
{
	local ns name

	for ns in "$a" "$b"; do
		for name in pairs pairs_total bytes skbs; do
			stat_is "$ns" "$name" 0
			check_err $? "$name is $(friends_stat "$ns" "$name") in $ns"
		done
	done
}

bulk()
{
	setup_veth
	friends_set "$a" 1
	friends_set "$b" 1
	between -n 4 -b "$(scaled 8000000)" -a 192.0.2.2
	between -6 -n 4 -b "$(scaled 8000000)" -a 2001:db8::2
	no_friends
}

# The same ports and addresses as a friend connection within each end.
among_friends()
{
	local pid out

	need_friends || return
	setup_veth
	friends_set "$a" 1
	friends_set "$b" 1
	xfer_start "$b" -a 192.0.2.2 -p 5001 || return
	pid=$XFER_PID out=$XFER_OUT
	busywait "$(patience 2000)" stat_is "$b" pairs 1
	check_err $? "the connection within a namespace did not pair"
	between -p 5002 -a 192.0.2.2 -b "$(scaled 1000000)"
	stat_is "$a" pairs_total 0
	check_err $? "pairs in the client's namespace"
	stat_is "$b" pairs_total 1
	check_err $? "more pairs than one in the server's namespace"
	xfer_end "$pid" "$out"
}

# One namespace on, the other off.
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

# Segments in and out so far at both ends.
segments_now()
{
	local ns

	for ns in "$a" "$b"; do
		tcp_stat "$ns" 'InSegs|OutSegs'
	done
}

# Segments in and out at both ends, of $ROUNDS requests and responses. A busy
# machine brings delayed ACKs into it: the least of some runs tells.
segments()
{
	local i k now=() best=() before=()

	for i in 1 2 3; do
		mapfile -t before < <(segments_now)
		between -r "$ROUNDS" -z 100 "$@" || return
		mapfile -t now < <(segments_now)
		for k in 0 1 2 3; do
			now[k]=$((now[k] - before[k]))
			[ "$i" = 1 ] || [ "${now[k]}" -lt "${best[k]}" ] &&
				best[k]=${now[k]}
		done
	done
	SEGMENTS="${best[*]}"
}

same_segments()
{
	local on off absent

	need_friends || return
	setup_veth
	friends_set "$a" 0
	friends_set "$b" 0
	segments "$@" || return
	off=$SEGMENTS
	friends_set "$a" 1
	friends_set "$b" 1
	segments "$@" || return
	on=$SEGMENTS
	no_friends
	[ "$on" = "$off" ]
	check_err $? "segments with friends on: $on, off: $off"

	KO=$(friends_ko)
	if [ -n "$KO" ]; then
		rmmod tcp_friends
		check_err $? "rmmod failed"
		segments "$@"
		absent=$SEGMENTS
		insmod "$KO"
		check_err $? "insmod failed"
		[ "$on" = "$absent" ]
		check_err $? "segments with friends on: $on, no module: $absent"
	fi
	log_info "segments in and out at both ends: $on"
}

same_segments_ipv4()
{
	same_segments -a 192.0.2.2
}

same_segments_ipv6()
{
	same_segments -6 -a 2001:db8::2
}

# What the comparison stands on: the wire alone gives the same each time.
segments_repeat()
{
	local first

	setup_veth
	friends_set "$a" 0
	friends_set "$b" 0
	segments -a 192.0.2.2 || return
	first=$SEGMENTS
	segments -a 192.0.2.2 || return
	[ "$SEGMENTS" = "$first" ]
	check_err $? "segments on the wire: once $first, once $SEGMENTS"
}

run_tests bulk among_friends one_side_on segments_repeat \
	same_segments_ipv4 same_segments_ipv6
