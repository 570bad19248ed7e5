#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2034,SC2154,SC2317,SC2329
# random.sh [SECONDS]: random programs for so long, half of them over IPv6,
# from a seed that is printed; FRIENDS_SEED is the seed instead.

. "$(dirname "$0")/lib/common.sh"

SECONDS_EACH=$((${1:-${FRIENDS_SECONDS:-12}} / 2))

programs()
{
	local seed=${FRIENDS_SEED:-$(date +%s)} rc=0

	need_friends || return
	# What was begun when the time is over is brought to its end.
	timeout "$((SECONDS_EACH + $(patience 200)))" \
		random -s "$seed" -t "$SECONDS_EACH" "$@" >"$TMP/random" 2>&1 ||
		rc=$?
	check_err "$rc" "random -s $seed $* failed, with status $rc"
	# The marks of comments are for whoever runs it alone.
	sed 's/^# //' "$TMP/random"
}

ipv4()
{
	programs
}

ipv6()
{
	programs -6
}

run_tests ipv4 ipv6
