#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2034,SC2154,SC2317,SC2329
# A connection between two namespaces over veth must have the same segments with
# friends on, with friends off, and without the module.

. "$(dirname "$0")/lib/common.sh"

ROUNDS=$(scaled 100)
# A busy machine adds segments by delayed ACKs. So the least of several runs
# counts.
TRIES=4

# Prints the segments that both ends received and sent so far.
segments_now()
{
	local ns

	for ns in "$a" "$b"; do
		tcp_stat "$ns" 'InSegs|OutSegs'
	done
}

# count_segments STATE ARG...: runs $ROUNDS requests and responses. The array
# that STATE names gets the segments in and out at both ends, the least of all
# runs so far.
count_segments()
{
	local -n least=$1
	local now=() before=() k

	shift
	mapfile -t before < <(segments_now)
	between -r "$ROUNDS" -z 100 "$@" || return
	mapfile -t now < <(segments_now)
	for k in 0 1 2 3; do
		now[k]=$((now[k] - before[k]))
		[ -n "${least[k]:-}" ] && [ "${least[k]}" -le "${now[k]}" ] ||
			least[k]=${now[k]}
	done
}

friends_on()
{
	friends_set "$a" 1
	friends_set "$b" 1
}

friends_off()
{
	friends_set "$a" 0
	friends_set "$b" 0
}

same()
{
	local on=() off=() absent=() i

	need_friends_ko || return
	setup_veth
	for ((i = 0; i < TRIES; i++)); do
		friends_off
		count_segments off "$@" || return
		friends_on
		count_segments on "$@" || return
		no_friends
		rmmod tcp_friends
		check_err $? "rmmod failed"
		count_segments absent "$@"
		insmod "$KO"
		check_err $? "insmod failed"
		((RET == 0)) || return
		[ "${on[*]}" = "${off[*]}" ] && [ "${on[*]}" = "${absent[*]}" ] &&
			break
	done
	[ "${on[*]}" = "${off[*]}" ]
	check_err $? "segments with friends on: ${on[*]}, off: ${off[*]}"
	[ "${on[*]}" = "${absent[*]}" ]
	check_err $? "segments with friends on: ${on[*]}, no module: ${absent[*]}"
	log_info "segments in and out at both ends: ${on[*]}"
}

same_ipv4()
{
	same -a 192.0.2.2
}

same_ipv6()
{
	same -6 -a 2001:db8::2
}

# The comparison relies on this: the wire alone gives the same counts each time.
repeat()
{
	local first=() second=() i

	setup_veth
	friends_off
	for ((i = 0; i < TRIES; i++)); do
		count_segments first -a 192.0.2.2 || return
		count_segments second -a 192.0.2.2 || return
		[ "${first[*]}" = "${second[*]}" ] && break
	done
	[ "${first[*]}" = "${second[*]}" ]
	check_err $? "segments on the wire: once ${first[*]}, once ${second[*]}"
}

run_tests repeat same_ipv4 same_ipv6
