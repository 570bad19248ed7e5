#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2034,SC2154,SC2317,SC2329
# These tests do what attacks.c cannot do by itself: they allocate skbs from the memory reserves,
# and they need a kernel that was booted to leave nothing in freed memory. Both affect the whole
# machine.

. "$(dirname "$0")/lib/common.sh"

FAILSLAB=/sys/kernel/debug/failslab
CACHE=/sys/kernel/slab/skbuff_small_head/failslab
PORT=10809

put()
{
	echo "$1" >"$2"
	check_err $? "$2 cannot be set to $1"
}

no_faults()
{
	put 0 "$FAILSLAB/probability"
	put 0 "$CACHE"
	put N "$FAILSLAB/cache-filter"
	put Y "$FAILSLAB/ignore-gfp-wait"
	put 2 "$FAILSLAB/verbose"
	put 1 "$FAILSLAB/times"
}

no_disk()
{
	nbd-client -d /dev/nbd0 >/dev/null 2>&1
	kill "$SERVER" 2>/dev/null
	wait "$SERVER" 2>/dev/null
}

listens()
{
	ip netns exec "$1" ss -Hltn "sport = $PORT" | grep -q .
}

direct()
{
	dd "$@" bs=256K status=none
	check_err $? "dd $* failed"
}

# The sender of a block device may use the memory reserves (PF_MEMALLOC). It does so here, since
# every second allocation fails. Such an skb must never wait in the backlog of a socket that may not
# use the reserves: the kernel stops then (BUG_ON() in __sk_backlog_rcv()).
reserves()
{
	local friends=$1 ns='' before size

	[ "$friends" = 0 ] || need_friends || return
	if [ ! -w "$FAILSLAB/probability" ] || [ ! -w "$CACHE" ] || [ ! -b /dev/nbd0 ] ||
			! command -v nbd-server >/dev/null || ! command -v nbd-client >/dev/null; then
		RET=$ksft_skip retmsg="this kernel has no failslab, or there is no network block device"
		return
	fi
	setup_ns ns
	friends_set "$ns" "$friends"
	size=$(scaled 64)
	head -c "${size}M" /dev/urandom >"$TMP/data"
	truncate -s "${size}M" "$TMP/disk"
	ip netns exec "$ns" nbd-server -d -C /dev/null "127.0.0.1@$PORT" "$TMP/disk" \
		>"$TMP/nbd" 2>&1 &
	SERVER=$!
	defer no_disk
	within 5000 listens "$ns"
	check_err $? "nbd-server: $(cat "$TMP/nbd")"
	ip netns exec "$ns" nbd-client -nonetlink 127.0.0.1 "$PORT" /dev/nbd0 \
		>"$TMP/client" 2>&1
	check_err $? "nbd-client: $(tail -n 1 "$TMP/client")"
	((RET)) && return
	if [ "$friends" = 1 ]; then
		before=$(friends_stat "$ns" bytes)
		direct if="$TMP/data" of=/dev/nbd0 oflag=direct count=4
		stat_at_least "$ns" bytes $((before + 500000))
		check_err $? "vacuous: friends do not carry what goes to the device"
	fi

	defer no_faults
	put 1 "$CACHE"
	put Y "$FAILSLAB/cache-filter"
	put N "$FAILSLAB/ignore-gfp-wait"
	put 0 "$FAILSLAB/verbose"
	put 1000000 "$FAILSLAB/times"
	put 50 "$FAILSLAB/probability"
	direct if="$TMP/data" of=/dev/nbd0 oflag=direct
	put 0 "$FAILSLAB/probability"
	[ "$(<"$FAILSLAB/times")" -lt 999900 ]
	check_err $? "vacuous: only $((1000000 - $(<"$FAILSLAB/times"))) faults were injected"
	direct if=/dev/nbd0 of="$TMP/again" iflag=direct
	cmp -s "$TMP/data" "$TMP/again"
	check_err $? "what was written to the device is not what is read from it"
}

reserves_wire()
{
	reserves 0
}

reserves_friends()
{
	reserves 1
}

# Prints the number of pages that TCP is charged with.
pages()
{
	awk '$1 == "TCP:" { for (i = 2; i < NF; i++) if ($i == "mem") print $(i + 1) }' \
		/proc/net/sockstat
}

# If memory is cleared when it is freed (init_on_free=1), the skb cache keeps nothing. So after a
# burst the shrinker has nothing to take.
kept()
{
	local friends=$1 ns='' before after

	[ "$friends" = 0 ] || need_friends || return
	if ! grep -qw init_on_free=1 /proc/cmdline; then
		RET=$ksft_skip retmsg="the kernel was not booted with init_on_free=1"
		return
	fi
	setup_ns ns
	friends_set "$ns" "$friends"
	before=$(pages)
	xfer_start "$ns" -f -n 4 -b "$(scaled 4000000)" || return
	wait "$XFER_PID"
	check_err $? "friends_xfer: $(grep -v '^port' "$XFER_OUT" | tr '\n' ' ')"
	[ "$friends" = 0 ] || [ "$(friends_stat "$ns" bytes)" -gt 0 ]
	check_err $? "vacuous: friends moved nothing"
	after=$(pages)
	# Each processor holds back up to 1 MiB, for friends and for the wire.
	[ "$after" -le $((before + 256 * $(nproc))) ]
	check_err $? "TCP is charged with $after pages, and was with $before"
	echo 2 >/proc/sys/vm/drop_caches
	[ "$(pages)" -gt $((after - 16)) ]
	check_err $? "TCP was charged with $after pages, and with $(pages) after the shrinker ran"
}

kept_wire()
{
	kept 0
}

kept_friends()
{
	kept 1
}

run_tests reserves_wire reserves_friends kept_wire kept_friends
