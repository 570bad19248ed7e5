#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2034,SC2154,SC2317,SC2329
# rmmod_busy.sh [ROUNDS]: unloads and loads the module under 1,000 busy connections,
# while some of them begin or end, and captures start and stop. No byte and no
# connection may be lost.

. "$(dirname "$0")/lib/common.sh"

ROUNDS=${1:-${FRIENDS_ROUNDS:-$(slow && echo 25 || echo 100)}}

# The connections are in groups, each with a friends_xfer of its own. Streaming
# groups leave queues full and half read, and sleepers at both ends, but take three
# threads for each connection. Asking groups send requests and responses, with one
# thread for the group. So many of them can begin in each round, as they must: only
# connections that began after insmod are friends.
STREAMING=4
STREAMS=6
ASKING=16
ASKERS=61
NEW_ASKING=4

# Streaming groups get the processor last, and hardly get it on a slow kernel. The
# wire may have lost a segment, and its timers are as slow then.
XFER_STALL=$(slow && echo 300 || echo 60)
PACE=$(slow && echo 24 || echo 1)

# PIDS and OUTS hold the process and the output of each group, and ENDING those of
# the groups that are to end.
PIDS=() OUTS=() ENDING=()
XFERS=0

# moment MS: sleeps for a random time of less than MS ms.
moment()
{
	local ms=$((RANDOM % $1))

	sleep "$((ms / 1000)).$(printf '%03d' $((ms % 1000)))"
}

# begin GROUP: starts the group anew, in place of the one with its number.
begin()
{
	local run=(friends_xfer -S "/run/netns/$ns" -C "/run/netns/$ns"
		-t "$XFER_STALL" -s "$RANDOM")

	((RANDOM % 2)) && run+=(-6)
	if [ "$1" -lt "$STREAMING" ]; then
		run=(chrt --idle 0 "${run[@]}" -n "$STREAMS")
	else
		# Messages are large enough for the captures' filter, and never too
		# large for a buffer.
		run+=(-n "$ASKERS" -r 0 -z $((300 + RANDOM % 4000))
			-i $((PACE * (250 + RANDOM % 500))))
	fi
	OUTS[$1]=$TMP/xfer.$((XFERS++))
	"${run[@]}" >"${OUTS[$1]}" 2>&1 &
	PIDS[$1]=$!
}

# connected GROUP...: waits until the groups are connected. It starts no processes,
# which would take longer than the connections do.
connected()
{
	local i word

	for i in "$@"; do
		[ -s "${OUTS[i]}" ] || within 60000 test -s "${OUTS[i]}"
		read -r word _ <"${OUTS[i]}"
		[ "$word" = port ] && continue
		check_err 1 "friends_xfer did not start: $(cat "${OUTS[i]}")"
	done
}

# end GROUP...: asks the groups to end. They close when what is on its way has
# arrived; see ended.
end()
{
	local i

	connected "$@"
	for i in "$@"; do
		kill -TERM "${PIDS[i]}"
		ENDING+=("${PIDS[i]} ${OUTS[i]}")
	done
}

# ended [all]: checks the groups that have ended, or waits for all and checks them.
ended()
{
	local pair pid out rc rest=()

	for pair in "${ENDING[@]}"; do
		read -r pid out <<<"$pair"
		if [ -z "${1:-}" ] && kill -0 "$pid" 2>/dev/null; then
			rest+=("$pair")
			continue
		fi
		rc=0
		wait "$pid" || rc=$?
		[ "$rc" = 0 ] ||
			check_err 1 "friends_xfer: $rc: $(grep -v '^port' "$out" |
				tr '\n' ' ')"
	done
	ENDING=("${rest[@]}")
}

# tell_streams SIGNAL GROUP: signals all streaming groups but this one.
tell_streams()
{
	local i

	for ((i = 0; i < STREAMING; i++)); do
		[ "$i" = "$2" ] || kill "-$1" "${PIDS[i]}"
	done
}

# look: reads all counters at one moment, into NOW.
look()
{
	local name value

	NOW=()
	: >"$TMP/counters"
	FRIENDS_COUNTERS=$TMP/counters friends_tell
	while read -r name value; do
		NOW[$name]=$value
	done <"$TMP/counters"
	# The counters go with the module, so they are saved here.
	[ -z "${FRIENDS_COUNTERS:-}" ] ||
		cat "$TMP/counters" >>"$FRIENDS_COUNTERS"
}

# Runs captures on lo until $TMP/enough exists. Prints a line for each capture: the
# number of segments with data that it saw.
captures()
{
	local dump log=$TMP/tcpdump.log

	until [ -e "$TMP/enough" ]; do
		: >"$log"
		ip netns exec "$ns" tcpdump -i lo -s 128 -w /dev/null \
			'tcp and greater 300' 2>"$log" &
		dump=$!
		within 5000 grep -q 'listening on' "$log"
		moment 500
		kill -INT "$dump" 2>/dev/null
		wait "$dump"
		awk '/packets? captured/ { n = $1 } END { print n + 0 }' "$log"
		# On a slow kernel a capture takes longer, too, and friends move
		# nothing meanwhile.
		moment "$(slow && echo 12000 || echo 1500)"
	done
}

one_round()
{
	local i first=$RANDOM new=()

	# These groups are replaced. Some are friends, by chance. The last of them
	# streams.
	for ((i = 0; i < NEW_ASKING; i++)); do
		new+=($((STREAMING + (first + i) % ASKING)))
	done
	new+=($((first % STREAMING)))

	# The groups close while the module is unloaded, and one new group connects.
	end "${new[@]}"
	begin "${new[0]}"
	rmmod tcp_friends
	check_err $? "rmmod failed"
	! friends_loaded
	check_err $? "the counters outlive the module"
	insmod "$KO"
	check_err $? "insmod failed"
	friends_set "$ns" 1

	# Beside streams it takes ten times as long to connect, so the streams are
	# stopped.
	tell_streams STOP "${new[NEW_ASKING]}"
	for i in "${new[@]:1}"; do
		begin "$i"
	done
	connected "${new[@]:0:NEW_ASKING}"
	tell_streams CONT "${new[NEW_ASKING]}"
	ended
}

captures_and_rounds()
{
	local ns='' i round captures counts
	local looks=0 friends=0 moved=0 fenced=0 seen=0 segments=0
	local units=/sys/module/kunit/parameters/filter_glob
	local -A NOW

	need_friends_ko || return
	setup_ns ns
	# The module's unit tests take most of the time of insmod.
	if [ -w "$units" ]; then
		echo none >"$units"
		defer eval "echo '*' >$units"
	fi
	friends_set "$ns" 1
	for ((i = 0; i < STREAMING + ASKING; i++)); do
		begin "$i"
	done
	connected "${!PIDS[@]}"
	captures >"$TMP/captures" &
	captures=$!

	for ((round = 1; round <= ROUNDS && RET == 0; round++)); do
		# Reading the counters takes time in which connections go on, so it
		# is not always done.
		if ((round % 4 == 0)); then
			# Groups that began after insmod move data when no capture
			# is there.
			within 2000 stat_at_least "$ns" bytes 1
			look
			looks=$((looks + 1))
			friends=$((friends + NOW[pairs]))
			((NOW[bytes])) && moved=$((moved + 1))
			((NOW[wire_capture])) && fenced=$((fenced + 1))
		else
			moment 50
		fi
		one_round
		((RET == 0)) || retmsg="round $round: $retmsg"
		((round % 10)) || log_info "$round of $ROUNDS rounds"
	done
	touch "$TMP/enough"
	wait "$captures"
	end "${!PIDS[@]}"
	ended all
	((RET == 0)) || return

	within 5000 stat_is "$ns" pairs 0
	check_err $? "pairs are left"
	mapfile -t counts <"$TMP/captures"
	for i in "${counts[@]}"; do
		segments=$((segments + i))
		((i == 0)) || seen=$((seen + 1))
	done
	friends=$((friends / looks))
	log_info "$XFERS groups ended well; on average $friends connections were friends at rmmod"
	log_info "of $looks rounds looked at, friends moved bytes in $moved and made way for a capture in $fenced"
	log_info "${#counts[@]} captures, $seen of which saw $segments segments"
	((friends >= 100))
	check_err $? "vacuous: only $friends connections were friends at rmmod"
	((moved * 2 >= looks))
	check_err $? "vacuous: friends moved bytes in $moved of $looks rounds"
	((fenced * 10 >= looks))
	check_err $? "vacuous: captures met friends in $fenced of $looks rounds"
	((seen * 2 >= ${#counts[@]}))
	check_err $? "$seen of ${#counts[@]} captures saw the connections"
}

require_command tcpdump
require_command chrt

run_tests captures_and_rounds
