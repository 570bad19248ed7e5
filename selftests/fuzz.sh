#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2034,SC2154,SC2317,SC2329
# fuzz.sh [SECONDS]: runs random programs under attack for SECONDS, half of them over IPv6. The seed
# is printed; FRIENDS_SEED sets it.

. "$(dirname "$0")/lib/common.sh"

SECONDS_EACH=$((${1:-${FRIENDS_SECONDS:-12}} / 2))

programs()
{
	local seed=${FRIENDS_SEED:-$(date +%s)} rc=0

	# When the time is over, fuzz finishes the programs that it has begun. Then the memory must
	# come back.
	timeout "$((SECONDS_EACH + $(patience 200)))" \
		fuzz -s "$seed" -t "$SECONDS_EACH" "$@" >"$TMP/fuzz" 2>&1 || rc=$?
	check_err "$rc" "fuzz -s $seed $* failed, with status $rc"
	# The marks of comments are meant for a user who runs fuzz alone.
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
