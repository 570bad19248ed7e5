# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
# The shell tests source this file, which continues with the kernel's own
# net/lib.sh. A test is a function that ends with RET and retmsg set by
# check_err.

# The folder above this one is that of the selftests.
friends_dir=$(dirname "$(dirname "$(readlink -e "${BASH_SOURCE[0]}")")")
friends_name=$(basename "$0" .sh)

# In a kernel tree the programs are beside the scripts, and the library is in
# the folder above.
for friends_bin in "${FRIENDS_BUILD:-}" "$friends_dir" \
		"$friends_dir/../build/selftests"; do
	[ -x "$friends_bin/friends_xfer" ] && break
done
for friends_lib in "$friends_dir/../lib.sh" "$friends_bin/net/lib.sh"; do
	[ -e "$friends_lib" ] && break
done
if [ ! -x "$friends_bin/friends_xfer" ] || [ ! -e "$friends_lib" ]; then
	echo "$0: the selftests are not built; see selftests/build."
	exit 1
fi
# shellcheck source=/dev/null
. "$friends_lib"

PATH=$friends_bin:$PATH

slow()
{
	[ "${FRIENDS_SLOW:-}" = 1 ]
}

# scaled N prints an amount of work, and patience MS the longest time that
# something may take. Both depend on how fast the kernel is.
scaled()
{
	slow && echo $((($1 + 7) / 8)) || echo "$1"
}

patience()
{
	slow && echo $(($1 * 10)) || echo "$1"
}

# This replaces the library's function, which starts a process each time.
timestamp_ms()
{
	echo $((${EPOCHREALTIME/[!0-9]/} / 1000))
}

# within MS CMD...: waits until CMD succeeds, as the library's busywait does,
# but leaves the processor to others in between.
within()
{
	loopy_wait 'sleep 0.05' "$(patience "$1")" "${@:2}"
}

# After this many seconds without a byte, friends_xfer reports a stall.
XFER_STALL=$(slow && echo 200 || echo 20)

# Prints the path of the file that the loaded module came from. The build ID
# identifies the file. Without a build ID, the newest file for this kernel's
# release is taken. A wrong file may crash the kernel.
friends_ko()
{
	local note=/sys/module/tcp_friends/notes/.note.gnu.build-id ko id best=

	if [ -n "${FRIENDS_KO:-}" ]; then
		echo "$FRIENDS_KO"
		return
	fi
	[ -e "$note" ] && id=$(od -An -v -tx1 "$note" | tr -d ' \n')
	for ko in "$friends_dir"/../build/module-*/tcp_friends.ko \
			"$(modinfo -n tcp_friends 2>/dev/null)"; do
		[ -f "$ko" ] || continue
		if [ -n "${id:-}" ]; then
			od -An -v -tx1 "$ko" | tr -d ' \n' | grep -qF "$id" ||
				continue
		elif [ "$(modinfo -F vermagic "$ko" | cut -d' ' -f1)" != \
				"$(uname -r)" ]; then
			continue
		fi
		[ -z "$best" ] || [ "$ko" -nt "$best" ] && best=$ko
	done
	[ -n "$best" ] && readlink -e "$best"
}

friends_loaded()
{
	[ -e /proc/net/tcp_friends_stat ]
}

# need_friends || return: skips the calling test if the module is not loaded.
need_friends()
{
	friends_loaded && return
	retmsg="the module tcp_friends is not loaded"
	RET=$ksft_skip
	[ -n "${FRIENDS_REQUIRED:-}" ] && RET=$ksft_fail
	return 1
}

need_friends_ko()
{
	need_friends || return
	KO=$(friends_ko) && return
	retmsg="the module's file is not known (FRIENDS_KO)"
	RET=$ksft_skip
	return 1
}

# friends_set NS 0|1: switches friends off or on. It does nothing without the
# module.
friends_set()
{
	friends_loaded || return 0
	ip netns exec "$1" sysctl -q -w net.ipv4.tcp_friends="$2"
}

# friends_stat NS COUNTER: prints the counter, or 0 if it does not exist.
friends_stat()
{
	ip netns exec "$1" awk -v name="$2" '
		$1 == name { value = $2 }
		END { print value + 0 }' /proc/net/tcp_friends_stat 2>/dev/null ||
		echo 0
}

# stat_at_least NS COUNTER VALUE, stat_is NS COUNTER VALUE: conditions for
# busywait.
stat_at_least()
{
	[ "$(friends_stat "$1" "$2")" -ge "$3" ]
}

stat_is()
{
	[ "$(friends_stat "$1" "$2")" -eq "$3" ]
}

# tcp_stat NS NAME[|NAME]...: prints columns of Tcp: in /proc/net/snmp, in the
# order of that file.
tcp_stat()
{
	ip netns exec "$1" awk -v names="^($2)\$" '
		$1 != "Tcp:" { next }
		!n { while (++i <= NF) if ($i ~ names) column[++n] = i; next }
		{ for (i = 1; i <= n; i++) print $column[i] }' /proc/net/snmp
}

segments_at_least()
{
	[ "$(tcp_stat "$1" OutSegs)" -ge "$2" ]
}

# xfer_start NS ARG...: starts friends_xfer in the background. XFER_PID is its
# process, XFER_OUT its output, and XFER_PORT the port of its server. It runs at
# a low priority, because its threads would starve the script that watches them.
xfer_start()
{
	local ns=$1

	shift
	XFER_OUT=$(mktemp "$TMP/xfer.XXXXXX")
	ip netns exec "$ns" nice -n 19 friends_xfer -t "$XFER_STALL" \
		"$@" >"$XFER_OUT" 2>&1 &
	XFER_PID=$!
	if ! within 5000 grep -q '^port' "$XFER_OUT"; then
		check_err 1 "friends_xfer did not start: $(cat "$XFER_OUT")"
		return 1
	fi
	XFER_PORT=$(awk '$1 == "port" { print $2 }' "$XFER_OUT")
}

# xfer_end PID OUT: ends friends_xfer, and checks that it succeeded.
xfer_end()
{
	local rc=0

	kill -TERM "$1" 2>/dev/null
	wait "$1" || rc=$?
	check_err "$rc" "friends_xfer: $(grep -v '^port' "$2" | tr '\n' ' ')"
	return "$rc"
}

# Sets up two namespaces, $a and $b, joined by veth.
setup_veth()
{
	a='' b=''
	setup_ns a b
	ip -n "$a" link add veth0 type veth peer name veth0 netns "$b"
	ip -n "$a" address add 192.0.2.1/24 dev veth0
	ip -n "$b" address add 192.0.2.2/24 dev veth0
	ip -n "$a" address add 2001:db8::1/64 dev veth0 nodad
	ip -n "$b" address add 2001:db8::2/64 dev veth0 nodad
	ip -n "$a" link set veth0 up
	ip -n "$b" link set veth0 up
	within 5000 ip netns exec "$a" \
		ping -q -c 1 -W 1 192.0.2.2 >/dev/null
	check_err $? "the namespaces do not see each other"
	within 5000 ip netns exec "$a" \
		ping -q -c 1 -W 1 2001:db8::2 >/dev/null
	check_err $? "the namespaces do not see each other by IPv6"
}

# between ARG...: runs friends_xfer from $a to $b.
between()
{
	local out rc

	out=$(friends_xfer -t "$XFER_STALL" \
		-S "/run/netns/$b" -C "/run/netns/$a" "$@" 2>&1)
	rc=$?
	check_err "$rc" "friends_xfer: $(tr '\n' ' ' <<<"$out")"
	return "$rc"
}

# bpf_begin NS ROLE WHERE [TO...]: attaches a BPF program; see bpf_pass.c. NS is
# empty for a program of a cgroup, because ip netns exec hides cgroups.
bpf_begin()
{
	${1:+ip netns exec "$1"} bpf_pass "${@:2}" >"$TMP/bpf" 2>&1 &
	BPF=$!
	within 5000 grep -q attached "$TMP/bpf"
	check_err $? "$(cat "$TMP/bpf")"
}

bpf_end()
{
	kill "$BPF"
	wait "$BPF" 2>/dev/null
}

no_friends()
{
	local ns name

	for ns in "$a" "$b"; do
		for name in pairs pairs_total bytes skbs; do
			stat_is "$ns" "$name" 0
			check_err $? "$name is $(friends_stat "$ns" "$name") in $ns"
		done
	done
}

friends_cleanup()
{
	local pids

	pids=$(jobs -p)
	# shellcheck disable=SC2086
	[ -n "$pids" ] && kill -KILL $pids 2>/dev/null
	wait 2>/dev/null
	cleanup_all_ns
	rm -rf "$TMP"
}

# Appends the counters of this test's namespaces to the file FRIENDS_COUNTERS,
# if it is set. selftests/run adds them up.
friends_tell()
{
	local ns

	[ -n "${FRIENDS_COUNTERS:-}" ] && friends_loaded || return 0
	for ns in "${NS_LIST[@]}"; do
		ip netns exec "$ns" cat /proc/net/tcp_friends_stat \
			>>"$FRIENDS_COUNTERS" 2>/dev/null
	done
}

# wanted NAME: tests whether NAME matches one of the names and globs in
# FRIENDS_TESTS.
wanted()
{
	local p

	[ -n "${FRIENDS_TESTS:-}" ] || return 0
	set -f
	for p in $FRIENDS_TESTS; do
		# shellcheck disable=SC2053
		[[ $1 == $p ]] && break
	done
	set +f
	# shellcheck disable=SC2053
	[[ $1 == $p ]]
}

# run_tests TEST...: runs the wanted tests, or prints their names with --list,
# and exits.
run_tests()
{
	local test name

	[ "${LIST:-}" = 1 ] || trap friends_cleanup EXIT
	for test in "$@"; do
		name=$friends_name.$test
		wanted "$name" || continue
		if [ "${LIST:-}" = 1 ]; then
			echo "$name"
			continue
		fi
		RET=0
		retmsg=
		in_defer_scope "$test"
		log_test "$name"
		friends_tell
		# Each test has namespaces of its own.
		cleanup_all_ns
	done
	[ "${LIST:-}" = 1 ] && exit 0
	exit "$EXIT_STATUS"
}

if [ "${1:-}" = --list ]; then
	LIST=1
	shift
else
	TMP=$(mktemp -d)
fi
