#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2034,SC2154,SC2317,SC2329
# fuzz.sh [SECONDS]: random programs under attack for so long, half of them over IPv6, from
# a seed that is printed; FRIENDS_SEED is the seed instead.

. "$(dirname "$0")/lib/common.sh"

SECONDS_EACH=$((${1:-${FRIENDS_SECONDS:-12}} / 2))

programs()
{
	local seed=${FRIENDS_SEED:-$(date +%s)} rc=0

	# What was begun when the time is over is brought to its end, and then the memory
	# must come back.
	timeout "$((SECONDS_EACH + $(patience 200)))" \
		fuzz -s "$seed" -t "$SECONDS_EACH" "$@" >"$TMP/fuzz" 2>&1 || rc=$?
	check_err "$rc" "fuzz -s $seed $* failed, with status $rc"
	# The marks of comments are for whoever runs it alone.
	sed 's/^# //' "$TMP/fuzz"
}

friends_ipv4()
{
	need_friends || return
	programs
}

friends_ipv6()
{
	need_friends || return
	programs -6
}

wire_ipv4()
{
	programs -w
}

wire_ipv6()
{
	programs -w -6
}

run_tests friends_ipv4 friends_ipv6 wire_ipv4 wire_ipv6
