#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2034,SC2154,SC2317,SC2329
# Everything that governs the wire governs friends: firewalls, traffic control, connection tracking
# and the loopback device itself. Most tests set it up in mid-stream.

. "$(dirname "$0")/lib/common.sh"

# Prints the bytes that have arrived at the connections of $ns so far.
received()
{
	ip netns exec "$ns" ss -Htin state established | awk '
		{ for (i = 1; i <= NF; i++) if (sub(/^bytes_received:/, "", $i)) n += $i }
		END { printf "%d\n", n }'
}

arrived()
{
	[ "$(received)" -ge "$1" ]
}

# enter FRIENDS: makes a namespace, $ns, with friends (1) or without (0).
enter()
{
	FRIENDS=$1
	[ "$FRIENDS" = 0 ] || need_friends || return
	ns=''
	setup_ns ns
	friends_set "$ns" "$FRIENDS"
}

# Friends revalidate at this interval here, in ms.
INTERVAL=$(slow && echo 1000 || echo 200)

# ask_every MS: sets the interval of revalidation.
ask_every()
{
	[ "$FRIENDS" = 0 ] ||
		ip netns exec "$ns" sysctl -q -w net.ipv4.tcp_friends_revalidate_ms="$1"
	check_err $? "net.ipv4.tcp_friends_revalidate_ms cannot be set"
}

# begin FRIENDS [ARG]...: starts a request and a response every other ms, and checks that bytes
# arrive.
begin()
{
	enter "$1" || return
	run_rounds "${@:2}"
}

# Does what begin() does, in the namespace that enter() made. The arguments are friends_xfer's.
run_rounds()
{
	ask_every "$INTERVAL"
	xfer_start "$ns" -r 0 -z 1000 -i 2 "$@" || return
	if [ "$FRIENDS" = 1 ]; then
		within 2000 stat_at_least "$ns" bytes 50000
		check_err $? "vacuous: friends move nothing at first"
	fi
	goes_on "at first"
}

goes_on()
{
	within 10000 arrived $(($(received) + 20000)) >/dev/null
	check_err $? "nothing moves $1"
}

# Checks that nothing moves. The wire lets nothing pass, and friends notice it within an interval.
stands_still()
{
	local bytes before

	sleep "$(slow && echo 1.2 || echo 0.4)"
	before=$(friends_stat "$ns" bytes)
	bytes=$(received)
	sleep "$(slow && echo 0.5 || echo 0.3)"
	[ "$(received)" -eq "$bytes" ] && stat_is "$ns" bytes "$before"
	check_err $? "$(($(received) - bytes)) bytes passed $1"
}

# Checks that friends move more data.
friends_again()
{
	[ "$FRIENDS" = 1 ] || return 0
	within 10000 stat_at_least "$ns" bytes \
		$(($(friends_stat "$ns" bytes) + 20000))
	check_err $? "friends do not go on $1"
}

# by_wire REASON WHAT: checks that only the wire moves data, and that fallbacks are counted under
# REASON.
by_wire()
{
	local bytes

	sleep 0.2
	bytes=$(friends_stat "$ns" bytes)
	goes_on "with $2"
	[ "$FRIENDS" = 1 ] || return 0
	stat_is "$ns" bytes "$bytes"
	check_err $? "friends went past $2"
	stat_at_least "$ns" "wire_$1" 1
	check_err $? "no transmission was left to the wire for $2"
}

end()
{
	xfer_end "$XFER_PID" "$XFER_OUT"
}

nft_in()
{
	ip netns exec "$ns" nft "$@"
}

tc_in()
{
	ip netns exec "$ns" tc "$@"
}

# A rule that drops is added to a live connection, and removed.
firewall()
{
	begin "$@" || return
	nft_in -f - <<-END
		table inet t {
			chain out {
				type filter hook output priority 0
				tcp dport $XFER_PORT drop
				tcp sport $XFER_PORT drop
			}
		}
	END
	check_err $? "nft failed"
	stands_still "a rule that drops"
	nft_in delete table inet t
	goes_on "without the rule"
	friends_again "without the rule"
	end
}

# A tracker that is there before the connection follows the stream, and does not let it time out
# while the stream is used.
conntrack()
{
	enter "$1" || return
	ip netns exec "$ns" sysctl -q -w net.netfilter.nf_conntrack_tcp_loose=0 \
		net.netfilter.nf_conntrack_tcp_timeout_established=2
	check_err $? "sysctl of the tracker failed"
	nft_in -f - <<-END
		table inet t {
			chain in {
				type filter hook input priority 0
				ct state new tcp flags & (syn | ack) == syn accept
				meta l4proto tcp ct state != established drop
			}
		}
	END
	check_err $? "nft failed"
	xfer_start "$ns" -r 0 -z 1000 -i 2 "${@:2}" || return
	sleep 3
	by_wire conntrack "a tracker"
	nft_in delete table inet t
	friends_again "without the tracker"
	end
}

# A tracker that is added in mid-stream picks the stream up from the segments that revalidate, or
# from all segments of the wire, and does not let the stream time out.
conntrack_later()
{
	local i

	begin "$@" || return
	ip netns exec "$ns" sysctl -q -w \
		net.netfilter.nf_conntrack_tcp_timeout_established=2
	check_err $? "sysctl of the tracker failed"
	nft_in -f - <<-END
		table inet t {
			chain in {
				type filter hook input priority 0
				meta l4proto tcp ct state invalid drop
			}
		}
	END
	check_err $? "nft failed"
	sleep "$(slow && echo 6 || echo 4)"
	goes_on "with a tracker for long"
	friends_again "with a tracker for long"
	for i in ipv4 ipv6; do
		ip netns exec "$ns" conntrack -L -f "$i" -p tcp 2>/dev/null
	done | grep ESTABLISHED | grep -q "dport=$XFER_PORT "
	check_err $? "the tracker does not follow"
	nft_in delete table inet t
	friends_again "without the tracker"
	end
}

lo_down()
{
	begin "$@" || return
	ip -n "$ns" link set lo down
	stands_still "while lo is down"
	ip -n "$ns" link set lo up
	goes_on "when lo is up again"
	friends_again "when lo is up again"
	end
}

# The action of a classifier drops each packet.
classifier()
{
	begin "$@" || return
	# TCP probes twice a second for data that was dropped before it left, and gives up after
	# tcp_retries2 probes.
	ip netns exec "$ns" sysctl -q -w net.ipv4.tcp_retries2=255
	check_err $? "sysctl failed"
	tc_in qdisc add dev lo clsact &&
		tc_in filter add dev lo egress matchall action drop
	check_err $? "tc failed"
	stands_still "a classifier that drops"
	tc_in qdisc del dev lo clsact
	goes_on "without the classifier"
	friends_again "without the classifier"
	end
}

# A classifier that only looks at packets sees all of them.
classifier_passes()
{
	begin "$@" || return
	tc_in qdisc add dev lo clsact &&
		tc_in filter add dev lo ingress matchall action ok
	check_err $? "tc failed"
	by_wire traffic_control "a classifier"
	tc_in qdisc del dev lo clsact
	friends_again "without the classifier"
	end
}

# An XDP program is attached. On lo these programs run in the stack only.
xdp()
{
	begin "$@" || return
	bpf_begin "$ns" generic lo
	by_wire traffic_control "an XDP program"
	bpf_end
	friends_again "without the XDP program"
	end
}

queueing()
{
	begin "$@" || return
	tc_in qdisc replace dev lo root netem delay 1ms
	check_err $? "tc failed"
	by_wire traffic_control "a queueing discipline"
	tc_in qdisc del dev lo root
	friends_again "without the queueing discipline"
	end
}

# By default, policies do not apply to the loopback device. This makes them apply.
policies_for_lo()
{
	ip netns exec "$ns" sysctl -q -w net.ipv4.conf.lo.disable_xfrm=0 \
		net.ipv4.conf.lo.disable_policy=0
	check_err $? "sysctl failed"
}

# policy out|in ARG...: adds an IPsec policy.
policy()
{
	ip -n "$ns" xfrm policy add src 127.0.0.0/8 dst 127.0.0.0/8 proto tcp \
		dir "$1" "${@:2}"
	check_err $? "ip xfrm failed"
}

# The policy lets nothing out.
ipsec_block()
{
	begin "$@" || return
	policies_for_lo
	policy out action block
	stands_still "a policy that blocks"
	ip -n "$ns" xfrm policy flush
	goes_on "without the policy"
	friends_again "without the policy"
	end
}

# From now on, all TCP between local addresses is encrypted.
encrypt()
{
	policies_for_lo
	ip -n "$ns" xfrm state add src 127.0.0.1 dst 127.0.0.1 proto esp spi 1 \
		mode transport aead 'rfc4106(gcm(aes))' \
		0x0123456789abcdef0123456789abcdef01234567 128
	check_err $? "ip xfrm failed"
	policy in tmpl proto esp mode transport level use
	policy out tmpl proto esp mode transport
}

# Prints the number of bytes that were encrypted.
encrypted()
{
	ip -n "$ns" -s xfrm state |
		awk '/^[ \t]*[0-9]+\(bytes\)/ { n = $1 + 0 } END { print n + 0 }'
}

# The policy requires all data to be encrypted.
ipsec_transport()
{
	begin "$@" || return
	encrypt
	# Friends notice the policy when they revalidate next.
	sleep "$(slow && echo 1.5 || echo 0.5)"
	by_wire ipsec "a policy"
	[ "$(encrypted)" -gt 20000 ]
	check_err $? "vacuous: next to nothing was encrypted"
	ip -n "$ns" xfrm policy flush
	friends_again "without the policy"
	end
}

# The policy is there before the connection, and friends never revalidate.
ipsec_first()
{
	enter "$1" || return
	ask_every 0
	encrypt
	xfer_start "$ns" -r 0 -z 1000 -i 2 || return
	goes_on "with a policy"
	stat_is "$ns" bytes 0
	check_err $? "friends moved $(friends_stat "$ns" bytes) bytes"
	[ "$(encrypted)" -gt 20000 ]
	check_err $? "vacuous: next to nothing was encrypted"
	end
}

SMACK=/sys/fs/smackfs

# smack_rules ACCESS: sets what Smack lets the client's label do to the server's, and vice versa.
smack_rules()
{
	printf 'Client Server %s\n' "$1" >"$SMACK/load2" &&
		printf 'Server Client %s\n' "$1" >"$SMACK/load2"
	check_err $? "a rule cannot be set"
}

# Mounts Smack's files, and lets the client and the server communicate.
need_smack()
{
	[ -e "$SMACK/load2" ] || mount -t smackfs smackfs "$SMACK" 2>/dev/null
	if [ ! -e "$SMACK/load2" ]; then
		retmsg="this kernel runs without Smack"
		RET=$ksft_skip
		return 1
	fi
	smack_rules rw
}

# A security module that judges each packet by the labels of both sockets (security_sock_rcv_skb())
# changes its decision. Packets of this address carry no label, and get the client's.
security()
{
	need_smack || return
	enter "$1" || return
	ip -n "$ns" address add 192.0.2.9/32 dev lo
	check_err $? "the address cannot be set"
	echo "192.0.2.9/32 Client" >"$SMACK/netlabel"
	check_err $? "the address cannot be labelled"
	run_rounds -a 192.0.2.9 -L Server -M Client || return
	smack_rules -
	stands_still "a security module that forbids it"
	smack_rules rw
	goes_on "when it is allowed"
	friends_again "when it is allowed"
	end
}

# Packets of other addresses carry their label as an IP option (CIPSO), and take the wire.
labelled_friends()
{
	need_smack || return
	enter 1 || return
	xfer_start "$ns" -r 0 -z 1000 -i 2 -L Server -M Client || return
	by_wire sender "labels"
	stat_at_least "$ns" pairs 1
	check_err $? "vacuous: there are no friends"
	stat_is "$ns" bytes 0
	check_err $? "friends went past labels at first"
	end
}

# Streams that are full, in both directions, revalidate, too.
stream_asks()
{
	local asked

	enter 1 || return
	ask_every "$INTERVAL"
	xfer_start "$ns" || return
	within 2000 stat_at_least "$ns" bytes 50000
	check_err $? "vacuous: friends move nothing"
	asked=$(friends_stat "$ns" wire_revalidate)
	# Each of the two directions revalidates by itself.
	within 4000 stat_at_least "$ns" wire_revalidate $((asked + 4))
	check_err $? "the wire was asked $(friends_stat "$ns" wire_revalidate) times"
	nft_in "add table inet t; add chain inet t out { type filter hook output priority 0; };
		add rule inet t out tcp dport $XFER_PORT drop;
		add rule inet t out tcp sport $XFER_PORT drop"
	check_err $? "nft failed"
	stands_still "a rule that drops"
	nft_in delete table inet t
	goes_on "without the rule"
	friends_again "without the rule"
	end
}

# The receiver is nearly always full, and has a large buffer, so its window is often closed. The
# room that the receiver frees is not for data that a rule denies.
slow_reader()
{
	local out=$TMP/slow

	enter "$1" || return
	ask_every "$INTERVAL"
	ip netns exec "$ns" python3 - >"$out" 2>&1 <<-END &
		import socket, threading, time
		listener = socket.socket()
		listener.setsockopt(socket.SOL_SOCKET, 33, 2 << 20) # SO_RCVBUFFORCE
		listener.bind(("127.0.0.1", 0))
		listener.listen()
		print("port", listener.getsockname()[1], flush=True)
		client = socket.create_connection(listener.getsockname())
		server = listener.accept()[0]
		def write():
		    while True:
		        client.sendall(bytes(65536))
		threading.Thread(target=write, daemon=True).start()
		while True:
		    server.recv(16384)
		    time.sleep(0.01)
	END
	XFER_PID=$!
	within 20000 grep -q '^port' "$out"
	check_err $? "python3 did not start: $(cat "$out")"
	XFER_PORT=$(awk '$1 == "port" { print $2 }' "$out")
	within 5000 arrived 3000000
	check_err $? "the receiver does not fill up"
	if [ "$FRIENDS" = 1 ]; then
		stat_at_least "$ns" full 1
		check_err $? "vacuous: the receiver was never full"
	fi
	nft_in "add table inet t; add chain inet t out { type filter hook output priority 0; };
		add rule inet t out tcp dport $XFER_PORT drop"
	check_err $? "nft failed"
	stands_still "a rule that drops"
	nft_in delete table inet t
	goes_on "without the rule"
	friends_again "without the rule"
	kill "$XFER_PID"
	wait "$XFER_PID"
}

slow_reader_wire()
{
	slow_reader 0
}

slow_reader_friends()
{
	slow_reader 1
}

# At 0 friends never revalidate. Each namespace has its own interval. Invalid values are refused.
interval()
{
	local asked value

	enter 1 || return
	[ "$(ip netns exec "$ns" sysctl -n net.ipv4.tcp_friends_revalidate_ms)" = 1000 ]
	check_err $? "the default is not 1000 ms"
	for value in -1 86400001 x; do
		! ip netns exec "$ns" sysctl -q -w \
			net.ipv4.tcp_friends_revalidate_ms="$value" 2>/dev/null
		check_err $? "'$value' was taken"
	done
	ask_every 0
	xfer_start "$ns" -r 0 -z 1000 -i 2 || return
	sleep 1.5
	stat_is "$ns" wire_revalidate 0
	check_err $? "the wire was asked though the interval is 0"
	ask_every 100
	within 2000 stat_at_least "$ns" wire_revalidate 10
	check_err $? "the wire was not asked every 100 ms"
	friends_again "between"
	end
}

TESTS=()
for governor in firewall conntrack conntrack_later classifier classifier_passes queueing xdp; do
	for family in 4 6; do
		for path in wire friends; do
			f=${path/wire/0}
			f=${f/friends/1}
			eval "${governor}_${path}_ipv$family()
			{
				$governor $f$([ $family = 4 ] || echo ' -6')
			}"
			TESTS+=("${governor}_${path}_ipv$family")
		done
	done
done

ipsec_block_wire()
{
	ipsec_block 0
}

ipsec_block_friends()
{
	ipsec_block 1
}

ipsec_transport_wire()
{
	ipsec_transport 0
}

ipsec_transport_friends()
{
	ipsec_transport 1
}

ipsec_first_wire()
{
	ipsec_first 0
}

ipsec_first_friends()
{
	ipsec_first 1
}

security_wire()
{
	security 0
}

security_friends()
{
	security 1
}

# lo loses ::1 when it goes down, so there are no variants for IPv6.
lo_down_wire_ipv4()
{
	lo_down 0
}

lo_down_friends_ipv4()
{
	lo_down 1
}

require_command nft
require_command tc
require_command python3

run_tests "${TESTS[@]}" lo_down_wire_ipv4 lo_down_friends_ipv4 stream_asks \
	ipsec_block_wire ipsec_block_friends ipsec_transport_wire ipsec_transport_friends \
	ipsec_first_wire ipsec_first_friends security_wire security_friends labelled_friends \
	slow_reader_wire slow_reader_friends interval
