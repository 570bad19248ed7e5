#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# This is the part of 'tools/kselftests' inside the guest. It runs each test
# with friends off, then on, and prints a table of both results.

cd /src/build/kselftests/net || exit
VERBOSE=''
if [ "${1:-}" = --verbose ]; then
	VERBOSE=1
	shift
fi
PATTERNS=("$@")
TMP=$(mktemp -d)
export FRIENDS COUNTED=$TMP/counted

# Friends are off in a new namespace, and many tests make their own. So the
# tests find an 'ip' that switches friends on in each namespace that it makes,
# and keeps the counters of each namespace that it deletes.
mkdir "$TMP/bin"
cat >"$TMP/bin/ip" <<END
#!/bin/bash
ip=$(command -v ip)
case "\$1 \$2" in
'netns add' | 'netns attach')
	"\$ip" "\$@" || exit
	exec nsenter --net=/run/netns/\$3 sysctl -q net.ipv4.tcp_friends=\$FRIENDS
	;;
'netns del' | 'netns delete')
	nsenter --net=/run/netns/\$3 cat /proc/net/tcp_friends_stat 2>/dev/null >>\$COUNTED
	;;
esac
exec "\$ip" "\$@"
END
chmod +x "$TMP/bin/ip"
PATH=$TMP/bin:$PATH

# pair SERVER CLIENT: runs two processes, and fails if either of them fails. If
# the server never ends, its output must contain the word in EXPECT.
# shellcheck disable=SC2317,SC2329
pair()
{
	local server=$1 client=$2 pid rc=0 i

	$server >"$TMP/server" 2>&1 &
	pid=$!
	for i in {1..100}; do
		[ -z "$(ss -Hltn)" ] || break
		sleep 0.1
	done
	$client || rc=$?
	if [ -n "${EXPECT:-}" ]; then
		for i in {1..100}; do
			grep -q "$EXPECT" "$TMP/server" && break
			sleep 0.1
		done
		kill "$pid"
		grep -q "$EXPECT" "$TMP/server" || rc=1
	else
		wait "$pid" || rc=$?
	fi
	cat "$TMP/server"
	return "$rc"
}

# shellcheck disable=SC2317,SC2329
both()
{
	"$@" -4 && "$@" -6
}

# shellcheck disable=SC2317,SC2329
zerocopy()
{
	local a f

	# The loopback device copies, and the sender is notified of it: -Z 0.
	for f in '-4 127.0.0.1' '-6 ::1'; do
		a=${f#* } f=${f% *}
		pair "./msg_zerocopy $f -t 2 -S $a -D $a -r tcp" \
			"./msg_zerocopy $f -t 1 -S $a -D $a $1 tcp" || return
	done
}

# shellcheck disable=SC2317,SC2329
uring_zerocopy()
{
	local m

	for m in 1 2 3; do
		pair './msg_zerocopy -4 -t 2 -S 127.0.0.1 -D 127.0.0.1 -r tcp' \
			"./io_uring_zerocopy_tx -4 -t 1 -D 127.0.0.1 -m $m -n 1 tcp" || return
	done
}

# A slow machine's time stamps are late, so only their arrival counts. Nobody
# accepts in this test, so friends make pairs and yet move nothing.
# shellcheck disable=SC2317,SC2329
txtimestamp()
{
	both ./txtimestamp -t 1000000 -L "$@" localhost
}

# shellcheck disable=SC2317,SC2329
mmapped()
{
	EXPECT='SHA256 is correct' pair 'stdbuf -oL ./tcp_mmap -s -z -i -4 -H 127.0.0.1' \
		"./tcp_mmap -z -i -4 -H 127.0.0.1 $*"
}

# mptcp_connect sends a file both ways; what arrives must be the file.
# shellcheck disable=SC2317,SC2329
connect()
{
	local a

	head -c 4000000 /dev/urandom >"$TMP/sent"
	for a in 127.0.0.1 ::1; do
		pair "$TMP/listen $* $a" "$TMP/call $* $a" || return
		cmp "$TMP/sent" "$TMP/got.listen" && cmp "$TMP/sent" "$TMP/got.call" || return
	done
}
for i in listen call; do
	cat >"$TMP/$i" <<-END
	#!/bin/sh
	exec ./mptcp/mptcp_connect -t 30 $([ $i = call ] || echo -l) "\$@" <$TMP/sent >$TMP/got.$i
	END
	chmod +x "$TMP/$i"
done

# one FRIENDS LOG CMD...: runs CMD in a namespace of its own. It sets RESULT,
# PAIRS, BYTES and WIRE.
one()
{
	local log=$2 rc=0 f

	FRIENDS=$1
	shift 2
	: >"$COUNTED"
	ip netns add kselftest
	ip -n kselftest link set lo up
	(
		# The shell in the namespace needs these functions.
		export -f pair both zerocopy uring_zerocopy txtimestamp mmapped connect
		export TMP
		timeout -k 5 240 nsenter --net=/run/netns/kselftest bash -c '"$@"' bash "$@"
	) >"$log" 2>&1 </dev/null || rc=$?
	# A test that timed out has left things that must not disturb the next
	# test.
	for f in /run/netns/*; do
		[ -e "$f" ] || continue
		ip netns pids "${f##*/}" | xargs -r kill -KILL
		ip netns del "${f##*/}" 2>/dev/null
	done
	case $rc in
	0) RESULT=pass ;;
	4) RESULT=skip ;;
	124 | 137) RESULT='time out' ;;
	*) RESULT="fail $rc" ;;
	esac
	# If the harness reports cases, the cases count.
	sed -nE 's/^((not )?ok) [0-9]+ (- )?/\1 /p' "$log" | sort >"$log.cases"
	if [ -s "$log.cases" ]; then
		RESULT+=" $(awk '/# *SKIP/ { s++; next } /^not/ { f++; next } { p++ }
			END { printf "%d/%d/%d", p, f, s }' "$log.cases")"
	fi
	PAIRS=$(awk '$1 == "pairs_total" { n += $2 } END { print n + 0 }' "$COUNTED")
	# WIRE says why, if friends were made and moved nothing.
	WIRE=$(awk '/^wire_/ { n[$1] += $2 }
		END { for (w in n) if (n[w]) printf " %s=%d", substr(w, 6), n[w] }' "$COUNTED")
	BYTES=$(awk '$1 == "bytes" { n += $2 } END { print n + 0 }' "$COUNTED")
}

N=0 DIFFERENT=0 USED=0
ROW='%-26s %-18s %-18s %7s %11s %s\n'

# check NAME CMD...: runs a test with friends off and on, and compares the
# results.
check()
{
	local name=$1 off p

	shift
	for p in "${PATTERNS[@]:-*}"; do
		# shellcheck disable=SC2053
		[[ $name == $p ]] && break
	done || return 0
	# shellcheck disable=SC2053
	[[ $name == $p ]] || return 0
	N=$((N + 1))
	one 0 "$TMP/off" "$@"
	off=$RESULT
	[ "$PAIRS" = 0 ] || off+=" with $PAIRS pairs"
	one 1 "$TMP/on" "$@"
	[ "$PAIRS" = 0 ] || USED=$((USED + 1))
	# shellcheck disable=SC2059
	printf "$ROW" "$name" "$off" "$RESULT" "$PAIRS" "$BYTES" "$WIRE"
	if [ "$off" != "$RESULT" ] || ! cmp -s "$TMP/off.cases" "$TMP/on.cases"; then
		DIFFERENT=$((DIFFERENT + 1))
		echo "# $name differs:"
		diff "$TMP/off" "$TMP/on" | tail -n 40 | sed 's/^/#   /'
	fi
	if [ -n "$VERBOSE" ]; then
		sed 's/^/#   off: /' "$TMP/off"
		sed 's/^/#   on:  /' "$TMP/on"
	fi
}

ulimit -n 40000
# shellcheck disable=SC2059
printf "$ROW" test 'friends off' 'friends on' pairs bytes ' left to the wire'
# With an emulated processor, each cipher takes a minute, so two must do.
check tls ./tls -V{12,13}_chacha -V13_sm4_{gcm,ccm} -V{12,13}_aes_ccm \
	-V{12,13}_aes_gcm_256 -V13_nopad -V12_aria_gcm{,_256}
check tcp_inq both ./tcp_inq
check tcp_mmap mmapped
check tcp_fastopen_backup_key ./tcp_fastopen_backup_key.sh
check fin_ack_lat ./fin_ack_lat.sh
check msg_zerocopy zerocopy '-z -Z 0'
check msg_zerocopy-copy zerocopy
check msg_zerocopy.sh ./msg_zerocopy.sh
check io_uring_zerocopy_tx uring_zerocopy
check txtimestamp txtimestamp
check txtimestamp-cmsg txtimestamp -C
check txtimestamp-nodata txtimestamp -n
check rxtimestamp ./rxtimestamp --tcp
check sk_so_peek_off ./sk_so_peek_off
check sk_connect_zero_addr ./sk_connect_zero_addr
check sk_bind_sendto_listen ./sk_bind_sendto_listen
check socket ./socket
check getsockopt_iter ./getsockopt_iter
check so_netns_cookie ./so_netns_cookie
check so_incoming_cpu ./so_incoming_cpu
check tcp_port_share ./tcp_port_share
check bind_bhash ./bind_bhash.sh
check bind_timewait ./bind_timewait
check bind_wildcard ./bind_wildcard
check ip_local_port_range ./ip_local_port_range.sh
check reuseaddr_conflict ./reuseaddr_conflict
check reuseaddr_ports_exhausted ./reuseaddr_ports_exhausted.sh
check reuseport_addr_any ./reuseport_addr_any.sh
check reuseport_bpf ./reuseport_bpf
check reuseport_bpf_cpu ./reuseport_bpf_cpu
check reuseport_bpf_numa ./reuseport_bpf_numa
check reuseport_dualstack ./reuseport_dualstack
check stress_reuseport_listen ./stress_reuseport_listen.sh
for m in poll mmap sendfile splice; do
	check "mptcp_connect-tcp-$m" connect -s TCP -m "$m"
done
check mptcp_connect-mptcp connect -s MPTCP
check mptcp_connect-peek connect -s TCP -P saveWithPeek
check mptcp_inq-tcp ./mptcp/mptcp_inq -t tcp -r tcp
check mptcp_inq ./mptcp/mptcp_inq
check mptcp_sockopt ./mptcp/mptcp_sockopt
for f in 4 6; do
	check "tcp_ao/self-connect_ipv$f" "./tcp_ao/self-connect_ipv$f"
	check "tcp_ao/connect_ipv$f" "./tcp_ao/connect_ipv$f"
done
echo "$N tests, $DIFFERENT differ; $USED of them made friends"
rm -rf "$TMP"
[ "$N" -gt 0 ] && [ "$DIFFERENT" = 0 ]
