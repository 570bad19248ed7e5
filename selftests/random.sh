#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2034,SC2154,SC2317,SC2329
# random.sh [SECONDS]: runs random programs for SECONDS, half of them over IPv6.
# The seed is printed; FRIENDS_SEED sets it.

. "$(dirname "$0")/lib/common.sh"

SECONDS_EACH=$((${1:-${FRIENDS_SECONDS:-12}} / 2))

programs()
{
	local seed=${FRIENDS_SEED:-$(date +%s)} rc=0

	need_friends || return
	# When the time is over, random finishes the programs that it has begun.
	timeout "$((SECONDS_EACH + $(patience 200)))" \
		random -s "$seed" -t "$SECONDS_EACH" "$@" >"$TMP/random" 2>&1 ||
		rc=$?
	check_err "$rc" "random -s $seed $* failed, with status $rc"
	# The marks of comments are meant for a user who runs random alone.
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
