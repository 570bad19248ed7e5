#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2034,SC2154,SC2317,SC2329
# stress.sh [ROUNDS]: each round starts 8 connections with bulk data both ways,
# unloads and loads the module, toggles friends twice and ends the connections.
# Every byte must arrive, no connection may be lost, and the memory must come
# back.

. "$(dirname "$0")/lib/common.sh"

ROUNDS=${1:-${FRIENDS_ROUNDS:-$(slow && echo 2 || echo 3)}}

# moment MS: sleeps for a random time of less than MS ms.
moment()
{
	sleep "$(printf '0.%03d' $((RANDOM % $1)))"
}

one_round()
{
	local ns=$1 family=$2 pid out

	friends_set "$ns" 1
	check_err $? "the sysctl cannot be set"
	# shellcheck disable=SC2086
	xfer_start "$ns" $family -n 8 -s $RANDOM || return
	pid=$XFER_PID out=$XFER_OUT
	within 2000 stat_is "$ns" pairs 8
	check_err $? "$(friends_stat "$ns" pairs) pairs, not 8"
	within 5000 stat_at_least "$ns" bytes 1000000
	check_err $? "vacuous: friends move nothing"
	moment 100

	rmmod tcp_friends
	check_err $? "rmmod failed"
	moment 50
	insmod "$KO"
	check_err $? "insmod failed"
	friends_set "$ns" 1

	# These connections are friends when friends are switched off.
	# shellcheck disable=SC2086
	xfer_start "$ns" $family -n 2 -s $RANDOM || return
	within 2000 stat_is "$ns" pairs 2
	check_err $? "$(friends_stat "$ns" pairs) pairs after insmod, not 2"
	moment 50
	friends_set "$ns" 0
	stat_is "$ns" pairs 0
	check_err $? "pairs are left after the switch"
	moment 50
	friends_set "$ns" 1
	moment 50
	friends_set "$ns" 0
	friends_set "$ns" 1
	xfer_end "$pid" "$out"
	xfer_end "$XFER_PID" "$XFER_OUT"
	within 2000 stat_is "$ns" pairs 0
	check_err $? "pairs are left at the end"
}

# Frees the skb cache of the module, which is no leak.
drop_spent()
{
	echo 2 >/proc/sys/vm/drop_caches
}

# These functions print the sockets, the pages of TCP memory, and the KiB of
# unreclaimable slab.
sockets()
{
	awk '$1 == "TCP:" { for (i = 2; i < NF; i++) if ($i == "alloc") print $(i + 1) }' \
		/proc/net/sockstat
}

pages()
{
	awk '$1 == "TCP:" { for (i = 2; i < NF; i++) if ($i == "mem") print $(i + 1) }' \
		/proc/net/sockstat
}

slab()
{
	awk '$1 == "SUnreclaim:" { print $2 }' /proc/meminfo
}

at_most()
{
	[ "$("$1")" -le "$2" ]
}

rounds()
{
	local ns='' i sockets_before pages_before slab_before cpus

	need_friends_ko || return
	setup_ns ns
	# The first rounds fill caches, which keep what they hold.
	one_round "$ns" ''
	one_round "$ns" -6
	sleep 1
	drop_spent
	sockets_before=$(sockets)
	pages_before=$(pages)
	slab_before=$(slab)
	for ((i = 1; i <= ROUNDS && RET == 0; i++)); do
		one_round "$ns" "$( ((i % 2)) || echo -6)"
		((RET == 0)) || retmsg="round $i: $retmsg"
		((i % 20)) || log_info "$i of $ROUNDS rounds"
	done
	((RET == 0)) || return

	drop_spent
	within 5000 at_most sockets "$sockets_before"
	check_err $? "$(sockets) sockets, $sockets_before before"
	# Each CPU may hold 1 MiB of TCP's memory back.
	cpus=$(nproc)
	within 5000 at_most pages $((pages_before + 256 * cpus))
	check_err $? "$(pages) pages of TCP memory, $pages_before before"
	# A leak of 100 sockets of 2 KiB in a round would be ten times as large.
	within 5000 at_most slab $((slab_before + 8192 + 20 * ROUNDS))
	check_err $? "$(slab) KiB of slab, $slab_before before"
	log_info "$ROUNDS rounds: sockets $sockets_before -> $(sockets), TCP pages $pages_before -> $(pages), slab $slab_before -> $(slab) KiB"
}

# On the debug kernel, kmemleak finds objects that nothing points to.
no_leak()
{
	local f=/sys/kernel/debug/kmemleak found

	need_friends_ko || return
	if [ ! -w "$f" ]; then
		RET=$ksft_skip retmsg="this kernel has no kmemleak"
		return
	fi
	# kmemleak reports only objects that are 5 s old.
	sleep 6
	echo scan >"$f"
	echo scan >"$f"
	found=$(cat "$f")
	[ -z "$found" ]
	check_err $? "kmemleak found unreferenced objects"
	# tools/vm would take kmemleak's words for a splat, but this test
	# reports the leak.
	[ -z "$found" ] || echo "${found//unreferenced object/leaked}" | head -n 100
}

run_tests rounds no_leak
