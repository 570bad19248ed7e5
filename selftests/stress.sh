#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2034,SC2154,SC2317,SC2329
# stress.sh [ROUNDS]: start 8 connections with bulk data both ways, rmmod,
# insmod, toggle twice, finish. Every byte arrives, no connection is lost, and
# the memory comes back.

. "$(dirname "$0")/lib/common.sh"

ROUNDS=${1:-${FRIENDS_ROUNDS:-$(slow && echo 2 || echo 3)}}

# A moment of random length, up to $1 ms.
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

	# Some that are friends when the switch is thrown.
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

# What the module keeps for the next messages is no leak.
drop_spent()
{
	echo 2 >/proc/sys/vm/drop_caches
}

# Sockets, pages of TCP memory, KiB of unreclaimable slab.
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
	# What the first rounds leave in caches stays there.
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
	# 100 sockets of 2 KiB a round would be ten times this.
	within 5000 at_most slab $((slab_before + 8192 + 20 * ROUNDS))
	check_err $? "$(slab) KiB of slab, $slab_before before"
	log_info "$ROUNDS rounds: sockets $sockets_before -> $(sockets), TCP pages $pages_before -> $(pages), slab $slab_before -> $(slab) KiB"
}

# On the debug kernel kmemleak looks for what nobody points to.
no_leak()
{
	local f=/sys/kernel/debug/kmemleak found

	need_friends_ko || return
	if [ ! -w "$f" ]; then
		RET=$ksft_skip retmsg="this kernel has no kmemleak"
		return
	fi
	# Objects count when they are 5 s old.
	sleep 6
	echo scan >"$f"
	echo scan >"$f"
	found=$(cat "$f")
	[ -z "$found" ]
	check_err $? "kmemleak found unreferenced objects"
	# Not in the words that tools/vm takes for a splat: it tells by itself.
	[ -z "$found" ] || echo "${found//unreferenced object/leaked}" | head -n 100
}

run_tests rounds no_leak
