#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2034,SC2154,SC2317,SC2329
# A capture must see the data of friends on the wire. A capture that begins in
# mid-stream sees every byte from there on, in sequence. Friends go on when the
# capture has ended.

. "$(dirname "$0")/lib/common.sh"

# contiguous FILE: prints where a direction of the capture is not contiguous.
# tcpdump loses packets while it begins and sets its filter, so the first 0.3 s
# are skipped.
contiguous()
{
	tcpdump -r "$1" -nn -S -tt 2>/dev/null | awk '
		NR == 1 { begin = $1 }
		$1 < begin + 0.3 { next }
		match($0, /seq [0-9]+:[0-9]+/) {
			split(substr($0, RSTART + 4, RLENGTH - 4), seq, ":")
			from = $3
			if (from in next_seq) {
				gap = (seq[1] - next_seq[from]) % 2 ^ 32
				if (gap < 0)
					gap += 2 ^ 32
				# On a busy machine some segments are sent
				# again.
				if (gap >= 2 ^ 31)
					next
				if (gap) {
					printf "%s went on at %s, not at %s\n",
						from, seq[1], next_seq[from]
					bad = 1
				}
			}
			next_seq[from] = seq[2]
			count[from]++
		}
		END {
			for (from in count) {
				directions++
				if (count[from] < 20)
					few = 1
			}
			if (directions != 2 || few)
				print "too few segments were captured"
			exit bad || directions != 2 || few
		}'
}

# capture WANT_FRIENDS ARG...: runs one test. The arguments are friends_xfer's.
capture()
{
	local friends=$1 ns='' bytes segments out msg dump

	shift
	[ "$friends" = 0 ] || need_friends || return
	setup_ns ns
	friends_set "$ns" "$friends"
	xfer_start "$ns" -r 0 -z 1000 -i 2 "$@" || return
	if [ "$friends" = 1 ]; then
		within 2000 stat_at_least "$ns" bytes 50000
		check_err $? "vacuous: friends move nothing before the capture"
	else
		sleep 0.2
	fi

	out=$TMP/tcpdump.log
	: >"$out"
	ip netns exec "$ns" tcpdump -i lo -U -w "$TMP/lo.pcap" -B 32768 \
		2>"$out" &
	dump=$!
	within 5000 grep -q 'listening on' "$out"
	check_err $? "tcpdump did not start: $(cat "$out")"
	bytes=$(friends_stat "$ns" bytes)
	sleep "$(slow && echo 5 || echo 1)"
	# On a busy machine that time may have been too short for a verdict.
	segments=$(tcp_stat "$ns" OutSegs)
	within 10000 segments_at_least "$ns" $((segments + 100))
	check_err $? "the connection stands still under the capture"
	stat_is "$ns" bytes "$bytes"
	check_err $? "friends moved bytes behind the capture's back"
	kill -INT "$dump"
	wait "$dump"
	grep -q '^0 packets dropped by kernel' "$out"
	check_err $? "tcpdump lost packets, so it cannot tell"

	if [ "$friends" = 1 ]; then
		bytes=$(friends_stat "$ns" bytes)
		within 3000 stat_at_least "$ns" bytes $((bytes + 50000))
		check_err $? "friends do not go on after the capture"
	fi
	xfer_end "$XFER_PID" "$XFER_OUT"
	msg=$(contiguous "$TMP/lo.pcap")
	check_err $? "$(head -n 3 <<<"$msg" | tr '\n' ' ')"
}

wire_ipv4()
{
	capture 0
}

wire_ipv6()
{
	capture 0 -6
}

friends_ipv4()
{
	capture 1
}

friends_ipv6()
{
	capture 1 -6
}

require_command tcpdump

run_tests wire_ipv4 friends_ipv4 wire_ipv6 friends_ipv6
