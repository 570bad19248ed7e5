#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2034,SC2154,SC2317,SC2329
# These tests run connections through injected faults: allocations of pages and of
# slabs fail, and user pages cannot be copied. Every byte must arrive, no connection
# may stall, and nothing of the faults may be left when they have ended.
#
# The faults hit the threads of friends_xfer alone, or everybody, softirqs too. The
# kernel log must not report them: it would hold a backtrace for each, as if there
# was a mistake. So verbose is 0, and the page allocator fails before the place
# where it warns. Only slabs that sockets use fail: kmemleak and debugobjects stop
# for good when they get no memory.

. "$(dirname "$0")/lib/common.sh"

DEBUGFS=/sys/kernel/debug
# The number of faults is limited, so that they end whatever happens to this script.
TIMES=100000
# An skb is made of a head, and of data of some sizes.
SKB_CACHES="skbuff_head_cache skbuff_fclone_cache skbuff_small_head"
DATA_CACHES="kmalloc-1k kmalloc-2k kmalloc-4k kmalloc-8k"
# Pairs are allocated from this cache.
PAIR_CACHE=kmalloc-512

# need_faults KIND...: skips the calling test if the kernel cannot inject these
# faults.
need_faults()
{
	local kind

	for kind in "$@"; do
		[ -w "$DEBUGFS/$kind/probability" ] && continue
		RET=$ksft_skip retmsg="this kernel has no fault injection ($kind)"
		return 1
	done
}

put()
{
	echo "$1" >"$2"
	check_err $? "$2 cannot be set to $1"
}

# Restores the settings that the kernel booted with.
reset()
{
	local dir file

	for dir in "$DEBUGFS"/fail{slab,_page_alloc,_usercopy}; do
		[ -e "$dir" ] || continue
		put 0 "$dir/probability"
		put N "$dir/task-filter"
		put 1 "$dir/times"
		put 2 "$dir/verbose"
		[ ! -e "$dir/cache-filter" ] || put N "$dir/cache-filter"
		[ ! -e "$dir/min-order" ] || put 1 "$dir/min-order"
		[ ! -e "$dir/ignore-gfp-wait" ] || put Y "$dir/ignore-gfp-wait"
	done
	for file in /sys/kernel/slab/*/failslab; do
		[ ! -w "$file" ] || put 0 "$file"
	done
}

# only_in_caches CACHE...: restricts the faults of failslab to these caches.
only_in_caches()
{
	local cache

	put Y "$DEBUGFS/failslab/cache-filter"
	for cache in "$@"; do
		put 1 "/sys/kernel/slab/$cache/failslab"
	done
}

# faults_on KIND PERCENT [NAME=VALUE]...: starts to inject faults.
faults_on()
{
	local dir=$DEBUGFS/$1 percent=$2 setting

	shift 2
	defer reset
	for setting in verbose=0 times="$TIMES" task-filter=Y "$@"; do
		put "${setting#*=}" "$dir/${setting%%=*}"
	done
	# The probability is set last, because it is the switch.
	put "$percent" "$dir/probability"
}

faults_off()
{
	put 0 "$DEBUGFS/$1/probability"
}

injected()
{
	echo $((TIMES - $(<"$DEBUGFS/$1/times")))
}

# moved PATH: prints the bytes so far, moved by friends or by the loopback device.
moved()
{
	local net=/proc/$XFER_PID/net name value rest

	# Without friends_xfer there is nothing to print.
	[ -e "$net" ] || return
	while read -r name value rest; do
		case $1.$name in
		friends.bytes | wire.lo:) echo "$value" ;;
		esac
	done <"$net/$([ "$1" = friends ] && echo tcp_friends_stat || echo dev)"
}

# up_to VALUE SECONDS FUNCTION ARG: waits until the function prints VALUE or more.
# While all processors are busy, each process takes long to start, so this starts
# only one each time (busywait would start more).
up_to()
{
	local value=$1 end=$((SECONDS + $(patience "$2"))) now

	shift 2
	until now=$("$@") && ((now >= value)); do
		[ -n "$now" ] && ((SECONDS < end)) || return
		sleep 0.1
	done
}

# refused FILE...: prints how many calls of friends_xfer ended with an error.
refused()
{
	awk '$1 == "connections" { n += $NF } END { print n + 0 }' "$@"
}

# through PATH KIND PERCENT FAULTS [NAME=VALUE]...: connections of both families
# move data while FAULTS faults are injected, and go on after the faults. REFUSED is
# the number of calls that ended with an error.
through()
{
	local path=$1 kind=$2 percent=$3 faults=$4 ns='' family bytes during
	local pids=() outs=() i

	shift 4
	setup_ns ns
	friends_set "$ns" "$([ "$path" = friends ] && echo 1 || echo 0)"
	for family in '' -6; do
		# shellcheck disable=SC2086
		xfer_start "$ns" $family -F -n 4 -s $RANDOM || return
		pids+=("$XFER_PID") outs+=("$XFER_OUT")
	done
	up_to 1000000 10 moved "$path"
	check_err $? "vacuous: nothing moves before the faults"

	faults_on "$kind" "$percent" "$@"
	bytes=$(moved "$path")
	up_to "$(scaled "$faults")" 20 injected "$kind"
	check_err $? "vacuous: only $(injected "$kind") faults were injected"
	up_to $((bytes + 1000000)) 20 moved "$path"
	check_err $? "nothing moves while there are faults"
	during=$(($(moved "$path") - bytes))
	faults_off "$kind"

	bytes=$(moved "$path")
	up_to $((bytes + 4000000)) 20 moved "$path"
	check_err $? "the $path does not go on after the faults"
	for i in 0 1; do
		xfer_end "${pids[i]}" "${outs[i]}"
	done
	within 2000 stat_is "$ns" pairs 0
	check_err $? "pairs are left at the end"
	REFUSED=$(refused "${outs[@]}")
	log_info "$friends_name.${FUNCNAME[2]}: $(injected "$kind") faults, $during bytes meanwhile, $REFUSED errors, wire_memory $(friends_stat "$ns" wire_memory)"
}

copies()
{
	need_faults fail_usercopy || return
	through "$1" fail_usercopy 10 8000
	# The kernel can wait for memory, but must report this fault to the program.
	((RET)) || [ "$REFUSED" -gt 0 ]
	check_err $? "vacuous: no call ended with EFAULT"
}

slabs()
{
	need_faults failslab || return
	# shellcheck disable=SC2086
	only_in_caches $SKB_CACHES $DATA_CACHES
	through "$1" failslab 10 4000 ignore-gfp-wait=N
}

slabs_of_all()
{
	need_faults failslab || return
	# shellcheck disable=SC2086
	only_in_caches $SKB_CACHES
	through "$1" failslab 5 4000 ignore-gfp-wait=N task-filter=N
}

pages()
{
	need_faults fail_page_alloc || return
	through "$1" fail_page_alloc 40 4000 ignore-gfp-wait=N min-order=0
}

friends_copies()
{
	need_friends || return
	copies friends
}

friends_slabs()
{
	need_friends || return
	slabs friends
}

friends_slabs_of_all()
{
	need_friends || return
	slabs_of_all friends
}

friends_pages()
{
	need_friends || return
	pages friends
}

wire_copies()
{
	copies wire
}

wire_slabs()
{
	slabs wire
}

wire_slabs_of_all()
{
	slabs_of_all wire
}

wire_pages()
{
	pages wire
}

# Some sockets that should become friends find no memory for a pair, and take the
# wire.
friends_pairing()
{
	local n=16 ns='' pairs path

	need_friends || return
	need_faults failslab || return
	setup_ns ns
	friends_set "$ns" 1
	only_in_caches "$PAIR_CACHE"
	faults_on failslab 50 task-filter=N ignore-gfp-wait=Y
	xfer_start "$ns" -F -n "$n" -s "$RANDOM" || return
	faults_off failslab
	pairs=$(friends_stat "$ns" pairs)
	[ "$pairs" -gt 0 ] && [ "$pairs" -lt "$n" ]
	check_err $? "vacuous: $pairs pairs of $n after $(injected failslab) faults"
	for path in friends wire; do
		up_to $(($(moved "$path") + 1000000)) 20 moved "$path"
		check_err $? "nothing moves by $path"
	done
	xfer_end "$XFER_PID" "$XFER_OUT"
	within 2000 stat_is "$ns" pairs 0
	check_err $? "pairs are left at the end"
	log_info "$friends_name.${FUNCNAME[0]}: $(injected failslab) faults, $pairs pairs of $n"
}

run_tests friends_copies friends_slabs friends_slabs_of_all friends_pages \
	friends_pairing wire_copies wire_slabs wire_slabs_of_all wire_pages
