#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2034,SC2154,SC2317,SC2329
# These tests check friends across namespaces: containers $a and $b at a bridge of the host $h.
# Everything between the two governs them. Without a path inside this host, there are no friends.

. "$(dirname "$0")/lib/common.sh"

# This is set in a test's second variant, which takes the wire.
WIRE=''

# cross VALUE: sets net.ipv4.tcp_friends_cross until the test ends.
cross()
{
	need_friends || return
	[ -z "$WIRE" ] || set -- 0
	sysctl -q -w net.ipv4.tcp_friends_cross="$1"
	check_err $? "net.ipv4.tcp_friends_cross cannot be set"
	defer sysctl -q -w net.ipv4.tcp_friends_cross=0
}

# Friends revalidate at this interval here, in ms.
INTERVAL=$(slow && echo 1000 || echo 200)

willing()
{
	local ns

	for ns in "$@"; do
		friends_set "$ns" 1
		ip netns exec "$ns" sysctl -q -w \
			net.ipv4.tcp_friends_revalidate_ms="$INTERVAL"
		check_err $? "sysctl failed in $ns"
	done
}

# attach NS NAME ADDRESS [ADDRESS6]: connects the container NS to the bridge of $h. The host's end
# is called NAME.
attach()
{
	local bridge=${BRIDGE:-br0}

	ip -n "$1" link add eth0 address "$(printf '02:00:00:00:00:%02x' "${3##*.}")" \
		type veth peer name "$2" netns "$h"
	ip -n "$h" link set "$2" master "$bridge"
	ip -n "$h" link set "$2" up
	ip -n "$1" address add "$3/24" dev eth0
	[ -z "${4:-}" ] || ip -n "$1" address add "$4/64" dev eth0 nodad
	ip -n "$1" link set eth0 up
}

bridge()
{
	local name=${BRIDGE:-br0}

	ip -n "$h" link add "$name" type bridge forward_delay 0
	ip -n "$h" link set "$name" up
}

# sees FROM ADDRESS: checks that ADDRESS answers a ping from FROM.
sees()
{
	within 5000 ip netns exec "$1" ping -q -c 1 -W 1 "$2" >/dev/null
	check_err $? "$2 is not seen from $1"
}

setup_bridge()
{
	h='' a='' b=''
	setup_ns h a b
	bridge
	attach "$a" veth_a 192.0.2.1 2001:db8::1
	attach "$b" veth_b 192.0.2.2 2001:db8::2
	sees "$a" 192.0.2.2
	sees "$a" 2001:db8::2
}

# Sets up two containers at a bridge, which are willing to become friends.
begin_at_bridge()
{
	cross 1 || return
	setup_bridge
	willing "$a" "$b"
}

# friends_are N: checks that N connections between $a and $b have become friends, and have moved
# bytes.
friends_are()
{
	local ns

	[ -z "$WIRE" ] || { no_friends; return; }
	for ns in "$a" "$b"; do
		within 2000 stat_at_least "$ns" crossed "$1"
		check_err $? "$(friends_stat "$ns" crossed) of $1 crossed in $ns"
		stat_at_least "$ns" bytes 1
		check_err $? "vacuous: friends moved nothing from $ns"
	done
}

# Prints the bytes that have arrived in $a and $b.
received()
{
	local ns

	for ns in "$a" "$b"; do
		ip netns exec "$ns" ss -Htin state established
	done | awk '{ for (i = 1; i <= NF; i++) if (sub(/^bytes_received:/, "", $i)) n += $i }
		END { printf "%d\n", n }'
}

arrived()
{
	[ "$(received)" -ge "$1" ]
}

moved()
{
	echo $(($(friends_stat "$a" bytes) + $(friends_stat "$b" bytes)))
}

moved_at_least()
{
	[ -n "$WIRE" ] || [ "$(moved)" -ge "$1" ]
}

goes_on()
{
	within 10000 arrived $(($(received) + 20000)) >/dev/null
	check_err $? "nothing moves $1"
}

friends_again()
{
	within 10000 moved_at_least $(($(moved) + 20000))
	check_err $? "friends do not go on $1"
}

stands_still()
{
	local bytes before

	sleep "$(slow && echo 1.2 || echo 0.4)"
	before=$(moved)
	bytes=$(received)
	sleep "$(slow && echo 0.5 || echo 0.3)"
	[ "$(received)" -eq "$bytes" ] && [ "$(moved)" -eq "$before" ]
	check_err $? "$(($(received) - bytes)) bytes passed $1"
}

# by_wire REASON WHAT: checks that only the wire moves data. The containers see that something on
# their path is the reason, but not what it is.
by_wire()
{
	local bytes ns

	sleep 0.2
	bytes=$(moved)
	goes_on "with $2"
	[ "$(moved)" -eq "$bytes" ]
	check_err $? "friends went past $2"
	[ $(($(friends_stat "$a" wire_path) + $(friends_stat "$b" wire_path))) -ge 1 ]
	check_err $? "no transmission was left to the wire for $2"
	for ns in "$a" "$b"; do
		stat_is "$ns" "wire_$1" 0 &&
			! ip netns exec "$ns" grep -q "$1" /proc/net/tcp_friends
		check_err $? "$ns is told of $2"
	done
}

# interval NS|host MS: sets the interval of revalidation.
interval()
{
	if [ "$1" = host ]; then
		sysctl -q -w net.ipv4.tcp_friends_revalidate_ms="$2"
	else
		ip netns exec "$1" sysctl -q -w net.ipv4.tcp_friends_revalidate_ms="$2"
	fi
	check_err $? "sysctl failed"
}

# mode NS|host 0|1|2: sets net.ipv4.tcp_friends.
mode()
{
	if [ "$1" = host ]; then
		sysctl -q -w net.ipv4.tcp_friends="$2"
	else
		friends_set "$1" "$2"
	fi
	check_err $? "sysctl failed"
}

# talk [ADDRESS [ARG...]]: starts a request and a response every other ms between $a and $b, over
# friends. Further arguments are friends_xfer's.
talk()
{
	XFER_OUT=$(mktemp "$TMP/xfer.XXXXXX")
	friends_xfer -t "$XFER_STALL" -S "/run/netns/$b" -C "/run/netns/$a" \
		-a "${1:-192.0.2.2}" -r 0 -z 1000 -i 2 "${@:2}" >"$XFER_OUT" 2>&1 &
	XFER_PID=$!
	within 5000 grep -q '^port' "$XFER_OUT"
	check_err $? "friends_xfer did not start: $(cat "$XFER_OUT")"
	XFER_PORT=$(awk '$1 == "port" { print $2 }' "$XFER_OUT")
	within 2000 moved_at_least 50000
	check_err $? "vacuous: friends move nothing at first"
	goes_on "at first"
}

end()
{
	xfer_end "$XFER_PID" "$XFER_OUT"
}

# ---- which connections become friends ---------------------------------------

bulk()
{
	begin_at_bridge || return
	between -n 4 -b "$(scaled 8000000)" -a 192.0.2.2
	friends_are 4
	between -6 -n 4 -b "$(scaled 8000000)" -a 2001:db8::2
	friends_are 8
}

requests()
{
	local i

	begin_at_bridge || return
	between -r "$(scaled 2000)" -a 192.0.2.2
	for ((i = 0; i < 20; i++)); do
		between -r 1 -a 192.0.2.2
	done
	friends_are 21
	stat_is "$a" pairs 0
	check_err $? "$(friends_stat "$a" pairs) pairs are left"
}

sends_from()
{
	[ "$(ip netns exec "$a" ss -Htmn state established | grep -o 'tb[0-9]*' |
		sort -t b -k 2 -n | tail -n 1 | tr -d tb)" -ge "$1" ]
}

# TCP lets the send buffer of a stream grow.
send_buffer()
{
	begin_at_bridge || return
	XFER_OUT=$(mktemp "$TMP/xfer.XXXXXX")
	nice -n 19 friends_xfer -t "$XFER_STALL" -S "/run/netns/$b" -C "/run/netns/$a" \
		-a 192.0.2.2 >"$XFER_OUT" 2>&1 &
	XFER_PID=$!
	within 5000 grep -q '^port' "$XFER_OUT"
	check_err $? "friends_xfer did not start: $(cat "$XFER_OUT")"
	within 20000 sends_from 200000
	check_err $? "the send buffer stays small: $(ip netns exec "$a" ss -Htmn)"
	end
	friends_are 1
}

# The host and each container can refuse.
refused()
{
	begin_at_bridge || return
	sysctl -q -w net.ipv4.tcp_friends_cross=0
	between -r 100 -a 192.0.2.2
	sysctl -q -w net.ipv4.tcp_friends_cross=1
	friends_set "$a" 0
	between -r 100 -a 192.0.2.2
	friends_set "$a" 1
	friends_set "$b" 0
	between -r 100 -a 192.0.2.2
	no_friends
	friends_set "$b" 1
	between -r 100 -a 192.0.2.2
	friends_are 1
	[ -e /proc/sys/net/ipv4/tcp_friends_cross ] &&
		! ip netns exec "$a" test -e /proc/sys/net/ipv4/tcp_friends_cross
	check_err $? "a container has the host's switch"
}

# no_pairs NS: checks that no pairs are left.
no_pairs()
{
	stat_is "$1" pairs 0
	check_err $? "$(friends_stat "$1" pairs) pairs are left in $1"
}

switched_off()
{
	local switch

	begin_at_bridge || return
	for switch in "$a" "$b" host; do
		talk
		if [ "$switch" = host ]; then
			sysctl -q -w net.ipv4.tcp_friends_cross=0
		else
			friends_set "$switch" 0
		fi
		no_pairs "$a"
		no_pairs "$b"
		goes_on "after it was switched off in $switch"
		end
		willing "$a" "$b"
		sysctl -q -w net.ipv4.tcp_friends_cross=1
	done
}

# The module is unloaded, and loaded again.
unloaded()
{
	need_friends_ko || return
	begin_at_bridge || return
	talk
	rmmod tcp_friends
	check_err $? "rmmod failed"
	goes_on "without the module"
	insmod "$KO"
	check_err $? "insmod failed"
	end
	sysctl -q -w net.ipv4.tcp_friends_cross=1
	willing "$a" "$b"
	between -r 100 -a 192.0.2.2
	friends_are 1
}

# Fifty containers are connected, each to the next.
fifty()
{
	local n i all=() pids=() rc=0

	cross 1 || return
	n=$(slow && echo 8 || echo 50)
	h=''
	setup_ns h
	bridge
	for ((i = 1; i <= n; i++)); do
		eval "c$i=''"
		setup_ns "c$i"
		eval "all+=(\"\$c$i\")"
		attach "${all[-1]}" "veth_$i" "192.0.2.$i"
	done
	willing "${all[@]}"
	for ((i = 0; i < n; i++)); do
		sees "${all[i]}" "192.0.2.$(((i + 1) % n + 1))"
	done
	for ((i = 0; i < n; i++)); do
		friends_xfer -t "$XFER_STALL" -S "/run/netns/${all[(i + 1) % n]}" \
			-C "/run/netns/${all[i]}" -a "192.0.2.$(((i + 1) % n + 1))" \
			-n 2 -b 100000 >"$TMP/fifty.$i" 2>&1 &
		pids+=($!)
	done
	for i in "${!pids[@]}"; do
		wait "${pids[i]}" || { rc=1; cat "$TMP/fifty.$i"; }
	done
	check_err "$rc" "a transfer failed"
	for ((i = 0; i < n; i++)); do
		stat_is "${all[i]}" crossed "$([ -n "$WIRE" ] && echo 0 || echo 4)"
		check_err $? "$(friends_stat "${all[i]}" crossed) crossed in container $i"
	done
}

# Tenants have the same addresses, at bridges of their own. Each connection must reach its own
# tenant. There are FRIENDS_CONNECTIONS connections, by default a few thousand.
tenants()
{
	local count out all ways ns sum=0

	count=${FRIENDS_CONNECTIONS:-$(slow && echo 600 || echo 5000)}
	setup_tenants || return
	out=$(command tenants 192.0.2.2 "$count" "${ways[@]}" 2>&1)
	check_err $? "$out"
	for ns in "${all[@]}"; do
		sum=$((sum + $(friends_stat "$ns" crossed)))
	done
	if [ -n "$WIRE" ]; then
		[ "$sum" = 0 ]
		check_err $? "$sum ends have become friends"
		return
	fi
	# A few connections may become friends too late, or find no memory for a pair.
	[ "$sum" -ge $((2 * count - count / 50)) ] && [ "$sum" -le $((2 * count)) ]
	check_err $? "$sum ends of $count connections have become friends"
}

# Sets ${all[@]} to the tenants' namespaces, and ${ways[@]} to what the program tenants needs to
# know of them.
setup_tenants()
{
	local n i k ns

	all=() ways=()
	cross 1 || return
	n=$(slow && echo 3 || echo 6)
	h=''
	setup_ns h
	for ((i = 0; i < n; i++)); do
		eval "s$i='' c$i=''"
		setup_ns "s$i" "c$i"
		eval "all+=(\"\$s$i\" \"\$c$i\")"
		ip -n "$h" link add "br$i" type bridge forward_delay 0
		ip -n "$h" link set "br$i" up
		for k in 0 1; do
			ns=${all[2 * i + k]}
			BRIDGE=br$i attach "$ns" "veth_$i.$k" "192.0.2.$((2 - k))"
			ways+=("/run/netns/$ns")
		done
		sees "$ns" 192.0.2.2
	done
	willing "${all[@]}"
}

# teardown N: prints how long it takes to delete a namespace that has N devices, in ms. One of them
# is the far end of a device here. It was made first, so it is deleted last.
teardown()
{
	local ns=teardown-$$ i start

	[ -e "$TMP/never" ] || mkfifo "$TMP/never"
	ip netns add "$ns"
	ip link add "going$$" type veth peer name far netns "$ns" || return
	for ((i = 0; i < $1; i++)); do
		echo "link add type dummy"
	done | ip -n "$ns" -batch - || return
	start=$(timestamp_ms)
	ip netns del "$ns"
	while [ -e "/sys/class/net/going$$" ]; do
		read -rt 0.002 <>"$TMP/never"
	done
	echo $(($(timestamp_ms) - start))
}

# shortest N: prints the shortest time of some rounds of teardown.
shortest()
{
	local i

	for ((i = 0; i < ${FRIENDS_ROUNDS:-5}; i++)); do
		teardown "$1" || return
	done | sort -n | tee -a "$TMP/teardowns" | head -n 1
}

# Devices that are on no pair's path are deleted as fast beside FRIENDS_CONNECTIONS pairs, by
# default a few thousand, as beside none. This is measured by the clock: the shortest of a few
# rounds counts.
many_devices()
{
	local count devices before beside all ways sum=0 ns

	count=${FRIENDS_CONNECTIONS:-$(slow && echo 500 || echo 3000)}
	devices=${FRIENDS_DEVICES:-$(slow && echo 50 || echo 300)}
	setup_tenants || return
	for ns in "${all[@]}"; do
		ip netns exec "$ns" sysctl -q -w net.ipv4.ip_local_port_range='2000 65000'
	done
	teardown 10 >/dev/null
	check_err $? "devices cannot be made"
	before=$(shortest "$devices")
	mkfifo "$TMP/hold"
	command tenants --hold 192.0.2.2 "$count" "${ways[@]}" <"$TMP/hold" >"$TMP/tenants" 2>&1 &
	TENANTS=$!
	exec 9>"$TMP/hold"
	within "$((20000 + count * 10))" grep -q '^made' "$TMP/tenants"
	check_err $? "the tenants' connections are not there: $(cat "$TMP/tenants")"
	for ns in "${all[@]}"; do
		sum=$((sum + $(friends_stat "$ns" pairs)))
	done
	[ "$sum" -ge $((2 * count - count / 50)) ]
	check_err $? "vacuous: $sum ends of $count connections have friends"
	beside=$(shortest "$devices")
	log_info "$friends_name.many_devices: $devices devices go in $before ms beside no pairs, in $beside ms beside $((sum / 2)): $(tr '\n' ' ' <"$TMP/teardowns")"
	# A few hundred ms cannot be measured to a per cent.
	[ "$beside" -le $((before + before / 10 + ${FRIENDS_SLACK:-40})) ]
	check_err $? "$devices devices go in $before ms beside no pairs, in $beside ms beside $((sum / 2))"
	exec 9>&-
	wait "$TENANTS"
	check_err $? "$(cat "$TMP/tenants")"
}

# siblings KIND MODE: the containers' devices are above one device, not at a bridge.
siblings()
{
	local kind=$1 mode=$2

	cross 1 || return
	h='' a='' b=''
	setup_ns h a b
	ip -n "$h" link add low type dummy
	ip -n "$h" link set low up
	ip -n "$h" link add link low name sib_a type "$kind" mode "$mode"
	ip -n "$h" link add link low name sib_b type "$kind" mode "$mode"
	check_err $? "there is no $kind"
	ip -n "$h" link set sib_a netns "$a"
	ip -n "$h" link set sib_b netns "$b"
	ip -n "$a" address add 192.0.2.1/24 dev sib_a
	ip -n "$b" address add 192.0.2.2/24 dev sib_b
	ip -n "$a" link set sib_a up
	ip -n "$b" link set sib_b up
	sees "$a" 192.0.2.2
	willing "$a" "$b"
	between -n 2 -b "$(scaled 2000000)" -a 192.0.2.2
	friends_are 2
}

# The device below gets what one macvlan sends to another, and may hand copies to others.
macvlan()
{
	WIRE=1 siblings macvlan bridge || return
	cross 1
	unmarked "the device below macvlans"
}

# A macvlan gives what is addressed to a group of receivers to all its siblings, not by the device
# below. Here the siblings are ports of bridges, which take a port for their end of a wire.
macvlan_to_a_group()
{
	local group=01:00:5e:01:02:03 ns

	WIRE=1 siblings macvlan bridge || return
	cross 1
	for ns in "$a" "$b"; do
		ip -n "$h" link add link low name port type macvlan mode bridge
		ip -n "$h" link set port netns "$ns"
		ip -n "$ns" link add br0 type bridge mcast_snooping 0 forward_delay 0
		ip -n "$ns" link set port master br0
		ip -n "$ns" link set port up
		ip -n "$ns" link set br0 up
		ip netns exec "$ns" sysctl -q -w net.ipv4.conf.all.rp_filter=0 \
			net.ipv4.conf.br0.rp_filter=0
		ip netns exec "$ns" nft 'table bridge t { chain c {
			type filter hook prerouting priority 0; meta pkttype set host; }; }'
		check_err $? "nft failed"
	done
	ip -n "$a" neigh replace 192.0.2.2 lladdr "$group" dev sib_a nud permanent
	ip -n "$b" neigh replace 192.0.2.1 lladdr "$group" dev sib_b nud permanent
	sees "$a" 192.0.2.2
	unmarked "a group of macvlans"
}

ipvlan()
{
	siblings ipvlan l2
}

ipvlan_l3()
{
	siblings ipvlan l3
}

# The host itself is the client, and then the server.
host()
{
	local a b

	begin_at_bridge || return
	ip -n "$h" address add 192.0.2.254/24 dev br0
	willing "$h"
	sees "$h" 192.0.2.2
	a=$h
	between -n 2 -b "$(scaled 2000000)" -a 192.0.2.2
	friends_are 2
	a=$b b=$h
	between -n 2 -b "$(scaled 2000000)" -a 192.0.2.254
	friends_are 4
}

# ---- NAT --------------------------------------------------------------------

# $a is at a veth of $h, $b is at a bridge of $h, and $h routes between them.
setup_routed()
{
	cross 1 || return
	h='' a='' b=''
	setup_ns h a b
	ip -n "$h" link add veth_a type veth peer name eth0 netns "$a"
	ip -n "$h" address add 192.0.2.254/24 dev veth_a
	ip -n "$h" link set veth_a up
	ip -n "$a" address add 192.0.2.1/24 dev eth0
	ip -n "$a" link set eth0 up
	ip -n "$a" route add default via 192.0.2.254
	ip -n "$h" link add br0 type bridge forward_delay 0
	ip -n "$h" address add 198.51.100.254/24 dev br0
	ip -n "$h" link set br0 up
	ip -n "$h" link add veth_b type veth peer name eth0 netns "$b"
	ip -n "$h" link set veth_b master br0
	ip -n "$h" link set veth_b up
	ip -n "$b" address add 198.51.100.2/24 dev eth0
	ip -n "$b" link set eth0 up
	ip netns exec "$h" sysctl -q -w net.ipv4.ip_forward=1
	check_err $? "sysctl failed"
	willing "$a" "$b"
}

routed()
{
	setup_routed || return
	ip -n "$b" route add default via 198.51.100.254
	sees "$a" 198.51.100.2
	between -n 4 -b "$(scaled 4000000)" -a 198.51.100.2
	friends_are 4
}

# The host routes in a table of its own, that of a VRF.
vrf()
{
	setup_routed || return
	ip -n "$b" route add default via 198.51.100.254
	ip -n "$h" link add vrf0 type vrf table 10
	check_err $? "there is no VRF"
	ip -n "$h" link set vrf0 up
	ip -n "$h" link set veth_a master vrf0
	ip -n "$h" link set br0 master vrf0
	sees "$a" 198.51.100.2
	between -n 2 -b "$(scaled 2000000)" -a 198.51.100.2
	friends_are 2
}

# A port of the host leads to $b, and $b sees the host in place of $a. Segments that the tracker
# takes for invalid are dropped.
nat()
{
	setup_routed || return
	ip netns exec "$h" nft -f - <<-END
		table ip t {
			chain pre {
				type nat hook prerouting priority -100
				ip daddr 192.0.2.254 tcp dport 5001 dnat to 198.51.100.2
			}
			chain post {
				type nat hook postrouting priority 100
				oifname br0 masquerade
			}
			chain passed {
				type filter hook forward priority 0
				ct state invalid counter drop
			}
		}
	END
	check_err $? "nft failed"
	published -n 4 -b "$(scaled 4000000)"
	friends_are 4
	published -r "$(scaled 4000)" -i 1 -z 500
	friends_are 5
	! ip netns exec "$h" nft list table ip t | grep 'invalid counter packets [1-9]'
	check_err $? "the tracker took segments for invalid ones"
}

# published ARG...: runs between() through the published port.
published()
{
	between -p 5001 -a 198.51.100.2 -A 192.0.2.254 "$@"
}

# strict_tracker NS CHAIN: makes the tracker of NS forget a connection that is silent for two
# seconds, and drops what the tracker does not know.
strict_tracker()
{
	ip netns exec "$1" nft -f - <<-END
		table ip t {
			chain $2 {
				type filter hook $2 priority 0; policy drop
				ct state established accept
				ct state new tcp flags & (syn | ack) == syn accept
			}
		}
	END
	check_err $? "nft failed"
	ip netns exec "$1" sysctl -q -w net.netfilter.nf_conntrack_tcp_loose=0 \
		net.netfilter.nf_conntrack_tcp_timeout_established=2
	check_err $? "sysctl failed"
}

# friends_for_long NS: checks that friends outlive the tracker's time.
friends_for_long()
{
	sleep 6
	goes_on "after the tracker's time"
	friends_again "after the tracker's time"
	ip netns exec "$1" conntrack -L -p tcp 2>/dev/null |
		grep ESTABLISHED | grep -q "dport=$XFER_PORT "
	check_err $? "the tracker has lost them"
}

# A connection is reset, which the tracker does not notice, and a new one has its ports.
ports_again()
{
	setup_routed || return
	ip -n "$b" route add default via 198.51.100.254
	strict_tracker "$h" forward
	ip netns exec "$h" sysctl -q -w \
		net.netfilter.nf_conntrack_tcp_timeout_established=600
	ip netns exec "$b" python3 - >"$TMP/server" 2>&1 <<-END &
		import socket
		listener = socket.create_server(("198.51.100.2", 5001))
		print("ready", flush=True)
		while True:
		    s = listener.accept()[0]
		    try:
		        while data := s.recv(1000):
		            s.sendall(data)
		    except ConnectionResetError:
		        pass
	END
	within 20000 grep -q ready "$TMP/server"
	check_err $? "python3 did not start: $(cat "$TMP/server")"
	ip netns exec "$a" python3 - >"$TMP/client" 2>&1 <<-END
		import socket, struct, time
		for i in range(4):
		    s = socket.socket()
		    s.settimeout($(patience 10))
		    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
		    s.bind(("192.0.2.1", 40000))
		    s.connect(("198.51.100.2", 5001))
		    until = time.monotonic() + $INTERVAL / 1000 * 4
		    while time.monotonic() < until:
		        s.sendall(b"x" * 100)
		        n = 0
		        while n < 100:
		            n += len(s.recv(100 - n))
		        time.sleep(0.001)
		    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
		    s.close()
	END
	check_err $? "the client ended with: $(tail -n 1 "$TMP/client")"
	friends_are 4
}

tracker()
{
	setup_routed || return
	ip -n "$b" route add default via 198.51.100.254
	strict_tracker "$h" forward
	talk 198.51.100.2
	friends_for_long "$h"
	end
}

# Both ends and the tracker are in one container.
tracker_at_home()
{
	local a b

	cross 1 || return
	a=''
	setup_ns a
	b=$a
	strict_tracker "$a" input
	strict_tracker "$a" output
	willing "$a"
	talk 127.0.0.1
	friends_for_long "$a"
	end
}

# A port of the host leads the host's own programs to $b.
nat_of_the_host()
{
	local a

	begin_at_bridge || return
	ip -n "$h" address add 192.0.2.254/24 dev br0
	ip netns exec "$h" nft -f - <<-END
		table ip t {
			chain out {
				type nat hook output priority -100
				ip daddr 192.0.2.254 tcp dport 5001 dnat to 192.0.2.2
			}
			chain post {
				type nat hook postrouting priority 100
				oifname br0 masquerade
			}
		}
	END
	check_err $? "nft failed"
	willing "$h"
	a=$h
	between -p 5001 -a 192.0.2.2 -A 192.0.2.254 -n 2 -b "$(scaled 2000000)"
	friends_are 2
}

# published_by_ipvs PORT: IPVS leads this port of the host to $b.
published_by_ipvs()
{
	setup_routed || return
	ip -n "$b" route add default via 198.51.100.254
	ip netns exec "$h" ipvsadm -A -t "192.0.2.254:$1" -s rr &&
		ip netns exec "$h" ipvsadm -a -t "192.0.2.254:$1" \
			-r "198.51.100.2:$1" -m
	check_err $? "ipvsadm failed"
}

ipvs()
{
	published_by_ipvs 5001 || return
	published -n 4 -b "$(scaled 4000000)"
	friends_are 4
	published -r "$(scaled 2000)" -i 1 -z 500
	friends_are 5
}

# ---- proxies ----------------------------------------------------------------

# A program of $a talks to a proxy beside it, which knows where $b is.
sidecar()
{
	local n=4

	begin_at_bridge || return
	cat >"$TMP/haproxy.cfg" <<-END
		global
			log stdout format raw local0 err
		defaults
			mode tcp
			timeout connect 10s
			timeout client 60s
			timeout server 60s
			option splice-auto
		listen service
			bind 127.0.0.1:5001
			server one 192.0.2.2:5001
	END
	ip netns exec "$a" haproxy -db -f "$TMP/haproxy.cfg" >"$TMP/haproxy" 2>&1 &
	PROXY=$!
	within 10000 listens "$a" 5001
	check_err $? "haproxy did not start: $(cat "$TMP/haproxy")"
	between -p 5001 -a 192.0.2.2 -A 127.0.0.1 -n "$n" -b "$(scaled 2000000)"
	between -p 5001 -a 192.0.2.2 -A 127.0.0.1 -r "$(scaled 1000)" -z 700
	kill "$PROXY"
	wait "$PROXY" 2>/dev/null
	[ -n "$WIRE" ] || friends_are $((n + 1))
	# In both variants, the program is a friend of the proxy beside it.
	[ $(($(friends_stat "$a" pairs_total) - $(friends_stat "$a" crossed))) = $((n + 1)) ]
	check_err $? "not all of $((n + 1)) were friends of the proxy beside them"
}

# listens NS PORT: checks that a socket listens.
listens()
{
	[ -n "$(ip netns exec "$1" ss -Htln "sport = $2")" ]
}

# A proxy of the host takes what goes to $b, under the address of $b, and changes it. If $a took $b
# for its peer, $a would see what $b has sent.
tproxy()
{
	setup_routed || return
	willing "$h"
	ip -n "$b" route add default via 198.51.100.254
	ip -n "$h" rule add fwmark 1 lookup 100
	ip -n "$h" route add local default dev lo table 100
	ip netns exec "$h" nft -f - <<-END
		table ip t {
			chain pre {
				type filter hook prerouting priority mangle
				iifname veth_a tcp dport 5001 tproxy to :5002 meta mark set 1 accept
				iifname veth_a tcp dport 5001 drop
			}
		}
	END
	check_err $? "nft failed"
	ip netns exec "$h" python3 - >"$TMP/proxy" 2>&1 <<-END &
		import socket
		listener = socket.socket()
		listener.setsockopt(socket.IPPROTO_IP, 19, 1) # IP_TRANSPARENT
		listener.bind(("0.0.0.0", 5002))
		listener.listen()
		print("ready", flush=True)
		while True:
		    client = listener.accept()[0]
		    server = socket.create_connection(client.getsockname())
		    while data := client.recv(1000):
		        server.sendall(data.upper())
		        client.sendall(server.recv(1000).title())
	END
	within 20000 grep -q ready "$TMP/proxy"
	check_err $? "python3 did not start: $(cat "$TMP/proxy")"
	ip netns exec "$b" python3 - >"$TMP/server" 2>&1 <<-END &
		import socket
		listener = socket.create_server(("198.51.100.2", 5001))
		print("ready", flush=True)
		while True:
		    s = listener.accept()[0]
		    while data := s.recv(1000):
		        s.sendall(b"from b " + data)
	END
	within 20000 grep -q ready "$TMP/server"
	check_err $? "python3 did not start: $(cat "$TMP/server")"
	ip netns exec "$a" python3 - >"$TMP/client" 2>&1 <<-END
		import socket
		for i in range($(scaled 40)):
		    s = socket.create_connection(("198.51.100.2", 5001))
		    for k in range(20):
		        s.sendall(b"request %d\n" % k)
		        assert s.recv(1000) == b"From B Request %d\n" % k
		    s.close()
	END
	check_err $? "the client ended with: $(tail -n 1 "$TMP/client")"
	[ -n "$WIRE" ] || stat_at_least "$a" crossed "$(scaled 40)"
	check_err $? "$(friends_stat "$a" crossed) of $(scaled 40) were friends of the proxy"
	stat_is "$h" crossed $(($(friends_stat "$a" crossed) + $(friends_stat "$b" crossed)))
	check_err $? "$a and $b were friends past the proxy"
}

# ---- what observes and governs the wire -------------------------------------

# A capture runs at each device of the path in turn.
capture()
{
	local where

	begin_at_bridge || return
	talk
	for where in "$a eth0" "$h veth_a" "$h br0" "$h veth_b" "$b any" "$h any"; do
		# shellcheck disable=SC2086
		set -- $where
		ip netns exec "$1" tcpdump -i "$2" -w /dev/null tcp 2>"$TMP/tcpdump" &
		DUMP=$!
		within 10000 grep -q listening "$TMP/tcpdump"
		check_err $? "tcpdump did not start"
		by_wire capture "a capture at $2"
		kill "$DUMP"
		wait "$DUMP"
		friends_again "without the capture at $2"
	done
	end
}

# A bridge floods frames to devices that have no part in the connection. A capture there need not
# see what friends move.
bystander()
{
	local c=''

	begin_at_bridge || return
	setup_ns c
	attach "$c" veth_c 192.0.2.3
	sees "$c" 192.0.2.1
	ip -n "$h" link set br0 type bridge fdb_flush
	check_err $? "the bridge does not forget"
	talk
	ip netns exec "$c" tcpdump -i eth0 -w /dev/null tcp 2>"$TMP/tcpdump" &
	DUMP=$!
	within 10000 grep -q listening "$TMP/tcpdump"
	check_err $? "tcpdump did not start"
	friends_again "with a capture that they do not pass"
	kill "$DUMP"
	wait "$DUMP"
	end
}

# eavesdrops NS ADDRESS: a third tenant listens at ADDRESS, that of $b, and answers nothing.
eavesdrops()
{
	ip netns exec "$1" nft 'table ip t { chain c {
		type filter hook output priority 0; ip protocol tcp drop; }; }'
	check_err $? "nft failed"
	ip netns exec "$1" python3 - >"$TMP/eavesdropper" 2>&1 <<-END &
		import socket, time
		listener = socket.create_server(("$2", 5001))
		print("ready", flush=True)
		time.sleep(10000)
	END
	EAVESDROPPER=$!
	within 20000 grep -q ready "$TMP/eavesdropper"
	check_err $? "python3 did not start: $(cat "$TMP/eavesdropper")"
	friends_set "$1" 1
}

# no_say DEVICE ADDRESS WHAT: checks that $c, whose device is DEVICE, does not affect the friends $a
# and $b, although $c gets WHAT.
no_say()
{
	local crossed syns

	crossed=$(friends_stat "$a" crossed)
	syns=$(tcp_stat "$c" InSegs)
	between -p 5001 -n 8 -b 20000 -a "$2"
	friends_are $((crossed + 8))
	[ -z "${HEARS:-}" ] || [ "$(tcp_stat "$c" InSegs)" -gt "$syns" ]
	check_err $? "vacuous: no SYN has reached the third one by $3"
	talk "$2" -p 5001
	ip netns exec "$c" tcpdump -i "$1" -w /dev/null tcp 2>"$TMP/tcpdump" &
	DUMP=$!
	within 10000 grep -q listening "$TMP/tcpdump"
	check_err $? "tcpdump did not start"
	friends_again "with a capture of the third one, which gets $3"
	kill "$DUMP"
	wait "$DUMP"
	ip -n "$c" link del "$1"
	friends_again "when the third one's device is gone, which got $3"
	stat_is "$a" pairs 1
	check_err $? "the third one has parted them by $3"
	end
}

# floods: makes the bridge flood all that is for $b.
floods()
{
	command bridge -n "$h" link set dev veth_b learning off
	check_err $? "the bridge does not stop learning"
	ip -n "$h" link set br0 type bridge fdb_flush
	check_err $? "the bridge does not forget"
}

# A device without ARP receives what the bridge floods.
third_without_arp()
{
	local c=''

	begin_at_bridge || return
	setup_ns c
	attach "$c" veth_c 192.0.2.3
	ip -n "$c" link set eth0 arp off
	floods
	no_say eth0 192.0.2.2 "what a bridge floods"
}

# listen_below_bridge ADDRESS: gives $c a bridge of its own, with the addresses of $b, above the
# device that is at the bridge of $h.
listen_below_bridge()
{
	setup_ns c
	attach "$c" veth_c 192.0.2.3
	# Otherwise the bridge would send $c what is for $b, and $b would get nothing by the wire,
	# either.
	command bridge -n "$h" link set dev veth_c learning off
	ip -n "$c" address flush dev eth0
	ip -n "$c" link add br_c address 02:00:00:00:00:02 type bridge forward_delay 0
	ip -n "$c" link set eth0 master br_c
	ip -n "$c" link set br_c arp off up
	ip -n "$c" address add "$1/24" dev br_c
	ip -n "$c" neigh replace 192.0.2.1 lladdr 02:00:00:00:00:01 dev br_c
	eavesdrops "$c" "$1"
}

third_below_bridge()
{
	local c='' HEARS=1

	begin_at_bridge || return
	listen_below_bridge 192.0.2.2
	floods
	no_say eth0 192.0.2.2 "what a bridge floods"
}

# The host copies what comes from $a to the third tenant.
third_by_dup()
{
	local c='' HEARS=1

	begin_at_bridge || return
	listen_below_bridge 192.0.2.2
	ip netns exec "$h" nft -f - <<-END
		table netdev t {
			chain c {
				type filter hook ingress device veth_a priority 0
				tcp dport 5001 dup to veth_c
			}
		}
	END
	check_err $? "nft failed"
	no_say eth0 192.0.2.2 "what a rule copies"
}

# The host routes, and sends a copy to the third tenant as if to a gateway.
third_by_tee()
{
	local c='' HEARS=1

	setup_routed || return
	ip -n "$b" route add default via 198.51.100.254
	setup_ns c
	ip -n "$h" link add veth_c type veth peer name eth0 netns "$c"
	ip -n "$h" address add 203.0.113.254/24 dev veth_c
	ip -n "$h" link set veth_c up
	ip -n "$c" address add 203.0.113.2/24 dev eth0
	ip -n "$c" link set eth0 up
	ip -n "$c" address add 198.51.100.2/32 dev eth0
	ip -n "$c" route add default via 203.0.113.254
	eavesdrops "$c" 198.51.100.2
	if ! ip netns exec "$h" nft -f - 2>/dev/null <<-END
		table ip t {
			chain c {
				type filter hook prerouting priority 0
				iifname veth_a tcp dport 5001 dup to 203.0.113.2 device veth_c
			}
		}
	END
	then
		retmsg="this kernel has no CONFIG_NFT_DUP_IPV4"
		RET=$ksft_skip
		return
	fi
	no_say eth0 198.51.100.2 "what a rule copies"
}

# A generic XDP program redirects all that comes from $a to $b and to a third namespace, which
# answers in place of $b. The connection works, but its ends do not become friends: the third
# namespace gets data only for as long as the program is there.
third_by_program()
{
	local c='' crossed

	begin_at_bridge || return
	setup_ns c
	attach "$c" veth_c 192.0.2.3
	ip -n "$c" address flush dev eth0
	ip -n "$c" link set eth0 address 02:00:00:00:00:02
	ip -n "$c" address add 192.0.2.2/24 dev eth0
	willing "$c"
	# $b and $c have one Ethernet address, and the bridge must not learn it at $b's port.
	ip -n "$b" link set eth0 down
	answers_in "$c"
	crossed=$(friends_stat "$a" crossed)
	bpf_begin "$h" spread veth_a veth_b veth_c
	echoes
	check_err $? "the third namespace does not answer what the program sends it"
	[ "$(friends_stat "$a" crossed)" = "$crossed" ]
	check_err $? "friends with the third one, by what a program has sent it"
	bpf_end
	echoes
	check_err $? "the third one does not answer what the bridge sends it"
	[ "$(friends_stat "$a" crossed)" -gt "$crossed" ]
	check_err $? "vacuous: the third one is nobody's friend by the bridge, either"
}

# answers_in NS: starts a server in NS, at $b's address, that sends back what it gets.
answers_in()
{
	ip netns exec "$1" python3 - >"$TMP/server" 2>&1 <<-END &
		import socket
		listener = socket.create_server(("192.0.2.2", 5001))
		print("ready", flush=True)
		while True:
		    connection, _ = listener.accept()
		    while data := connection.recv(65536):
		        connection.sendall(data)
	END
	within 20000 grep -q ready "$TMP/server"
	check_err $? "python3 did not start: $(cat "$TMP/server")"
}

# $a writes to the server at $b's address, and gets the same bytes back.
echoes()
{
	ip netns exec "$a" timeout 20 python3 -c 'import socket
connection = socket.create_connection(("192.0.2.2", 5001))
for i in range(10):
    connection.sendall(b"x" * 1000)
    assert len(connection.recv(1000, socket.MSG_WAITALL)) == 1000'
}

# The first SYN of a connection from $a to $b goes to a third namespace, by a neighbour entry of $a.
# Only what is sent again gets to $b. The third namespace is no part of the connection then. If it
# were part of the path, $a would learn of captures there.
third_by_neighbour()
{
	local c='' crossed

	begin_at_bridge || return
	setup_ns c
	attach "$c" veth_c 192.0.2.3
	talk 192.0.2.2
	end
	crossed=$(friends_stat "$a" crossed)
	ip netns exec "$c" nft 'table ip t { chain c {
		type filter hook prerouting priority 0; tcp dport 5001 counter; }; }'
	check_err $? "nft failed"
	answers_in "$b"
	ip -n "$a" neigh replace 192.0.2.2 lladdr 02:00:00:00:00:03 dev eth0 nud permanent
	ip netns exec "$a" python3 - >"$TMP/client" 2>&1 <<-END &
		import socket
		connection = socket.create_connection(("192.0.2.2", 5001))
		for i in range(100):
		    connection.sendall(b"x" * 1000)
		    connection.recv(1000, socket.MSG_WAITALL)
		print("done", flush=True)
	END
	within 20000 counted "$c" 't c' 1
	check_err $? "vacuous: no SYN has reached the third one"
	ip -n "$a" neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent
	within 20000 grep -q "^done" "$TMP/client"
	check_err $? "the connection does not go on: $(cat "$TMP/client")"
	[ "$(friends_stat "$a" crossed)" = "$crossed" ]
	check_err $? "friends by way of the third one, which had the first SYN"
}

# counted NS 'TABLE CHAIN' N: checks that rules of that chain, of family ip, counted N packets.
counted()
{
	# shellcheck disable=SC2086
	[ "$(ip netns exec "$1" nft list chain ip $2 |
		awk '{ for (i = 1; i < NF; i++) if ($i == "packets") n += $(i + 1) }
			END { printf "%d\n", n }')" -ge "$3" ]
}

# forge_fin ID: $a sends the host two FINs of $b's connection. Their sequence numbers are half of
# all numbers apart, so that one of them is outside the window, wherever the window is.
forge_fin()
{
	ip netns exec "$a" python3 - "$1" <<-END
		import socket, struct, sys

		def checksum(data):
		    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
		    while total >> 16:
		        total = (total & 0xffff) + (total >> 16)
		    return ~total & 0xffff

		source, to = (socket.inet_aton(a) for a in ("192.0.2.2", "192.0.2.254"))
		pseudo = source + to + struct.pack("!BBH", 0, 6, 20)
		header = struct.pack("!BBHHHBBH", 0x45, 0, 40, int(sys.argv[1]), 0, 64, 6, 0) + source + to
		s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
		for number in 0x12345678, 0x92345678:
		    segment = struct.pack("!HHIIBBHHH", 6000, 7000, number, 0x9abcdef0,
		                          5 << 4, 0x11, 500, 0, 0)
		    sum_of = checksum(pseudo + segment)
		    segment = segment[:16] + struct.pack("!H", sum_of) + segment[18:]
		    s.sendto(header + segment, ("192.0.2.254", 0))
	END
	check_err $? "nothing could be forged"
}

# $a makes its own SYN-ACK, which is marked, look like one of a connection between the host and $b.
# The host's tracker must go on checking the windows of that connection.
third_in_tracker()
{
	local c='' mac

	begin_at_bridge || return
	setup_ns c
	attach "$c" veth_c 192.0.2.3
	willing "$c"
	ip -n "$h" address add 192.0.2.254/24 dev br0
	mac=$(ip -n "$h" -j link show br0 | jq -r '.[0].address')
	ip netns exec "$h" nft -f - <<-END
		table ip t {
			chain answers {
				type filter hook prerouting priority -300
				ip saddr 192.0.2.254 tcp flags & (syn | ack) == syn | ack counter
			}
			chain before {
				type filter hook prerouting priority 0
				ip id 1 ct state invalid counter drop
			}
			chain after {
				type filter hook prerouting priority 0
				ip id 2 ct state invalid counter drop
			}
		}
	END
	check_err $? "nft failed"
	ip netns exec "$h" python3 -c 'import socket, time
listener = socket.create_server(("192.0.2.254", 7000))
connection = listener.accept()
time.sleep(10000)' &
	# The client connects once the host listens.
	ip netns exec "$b" python3 - >"$TMP/client" 2>&1 <<-END &
		import socket, time
		for i in range(200):
		    s = socket.socket()
		    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
		    s.bind(("192.0.2.2", 6000))
		    try:
		        s.connect(("192.0.2.254", 7000))
		        break
		    except OSError:
		        s.close()
		        time.sleep(0.1)
		print("ready", flush=True)
		time.sleep(10000)
	END
	within 20000 grep -q ready "$TMP/client"
	check_err $? "not connected: $(cat "$TMP/client")"
	forge_fin 1
	within 2000 counted "$h" 't before' 1
	check_err $? "vacuous: the tracker does not check windows at first"

	ip -n "$a" neigh replace 192.0.2.2 lladdr "$mac" dev eth0 nud permanent
	ip netns exec "$a" nft 'table ip t { chain c { type filter hook output priority 0
		tcp sport 9 ip saddr set 192.0.2.254
		tcp sport 9 ip daddr set 192.0.2.2
		tcp sport 9 tcp dport set 6000
		tcp sport 9 tcp sport set 7000; }; }'
	check_err $? "nft failed in $a"
	ip netns exec "$a" python3 - >"$TMP/server" 2>&1 <<-END &
		import socket, time
		listener = socket.create_server(("192.0.2.1", 9))
		print("ready", flush=True)
		time.sleep(10000)
	END
	within 20000 grep -q ready "$TMP/server"
	check_err $? "python3 did not start: $(cat "$TMP/server")"
	ip netns exec "$c" timeout 3 python3 -c 'import socket
socket.create_connection(("192.0.2.1", 9))' 2>/dev/null
	stat_at_least "$c" offered 1
	check_err $? "vacuous: no SYN of the third one was marked"
	within 2000 counted "$h" 't answers' 1
	check_err $? "vacuous: no SYN-ACK has reached the host"
	forge_fin 2
	within 2000 counted "$h" 't after' 1
	check_err $? "the tracker checks no windows of somebody else's connection any more"
}

# The host drops what $a sends. $b puts bytes of its own into the stream in place of the segment
# that revalidates, and acknowledges them. $b must get nothing of $a's for that.
question_answered_by_receiver()
{
	local after total forged ns silence

	begin_at_bridge || return
	# A sender that is silent for so long waits for the wire. Friends would go on for much
	# longer.
	silence=$(slow && echo 0.5 || echo 0.1)
	for ns in "$a" "$b"; do
		interval "$ns" "$(slow && echo 10000 || echo 1000)"
	done
	ip netns exec "$b" python3 - >"$TMP/server" 2>&1 <<-END &
		import os, socket, struct, sys, time

		# ETH_P_ALL also captures what leaves.
		capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
		listener = socket.create_server(("192.0.2.2", 5001))
		raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
		print("ready", flush=True)
		connection, (_, port) = listener.accept()
		# The initial sequence numbers of both ends.
		numbers = {}
		while len(numbers) < 2:
		    frame = capture.recv(100)
		    ip = frame[14:]
		    if frame[12:14] != b"\x08\x00" or ip[9] != 6:
		        continue
		    sport, dport, seq, ack, _, flags = struct.unpack("!HHIIBB", ip[20:34])
		    if flags & 2 and 5001 in (sport, dport):
		        numbers[sport] = seq + 1
		capture.close()
		connection.sendall(b"+")

		def checksum(data):
		    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
		    while total >> 16:
		        total = (total & 0xffff) + (total >> 16)
		    return ~total & 0xffff

		def forge(at, data):
		    source, to = (socket.inet_aton(a) for a in ("192.0.2.1", "192.0.2.2"))
		    pseudo = source + to + struct.pack("!BBH", 0, 6, 20 + len(data))
		    segment = struct.pack("!HHIIBBHHH", port, 5001, (numbers[port] + at) & 0xffffffff,
		                          (numbers[5001] + 1) & 0xffffffff, 5 << 4, 0x18, 500, 0, 0) + data
		    sum_of = checksum(pseudo + segment)
		    segment = segment[:16] + struct.pack("!H", sum_of) + segment[18:]
		    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0, 64, 6, 0)
		    raw.sendto(header + source + to + segment, ("192.0.2.2", 0))

		connection.settimeout($silence)
		received, forged, after, rule = 0, 0, 0, False
		began = time.monotonic()
		while forged < 10 and time.monotonic() < began + 100:
		    rule = rule or os.path.exists("$TMP/rule")
		    try:
		        data = connection.recv(100000)
		    except TimeoutError:
		        if rule:
		            forge(received, b"X" * 1000)
		            forged += 1
		        continue
		    if not data:
		        break
		    received += len(data)
		    if forged:
		        after += data.count(b"a")
		print("after", after, received, forged, flush=True)
		time.sleep(10000)
	END
	within 20000 grep -q ready "$TMP/server"
	check_err $? "python3 did not start: $(cat "$TMP/server")"
	# Each write waits until the one before is acknowledged.
	ip netns exec "$a" python3 - >"$TMP/client" 2>&1 <<-END &
		import fcntl, socket, struct, termios, time

		connection = socket.create_connection(("192.0.2.2", 5001))
		connection.recv(1)
		for i in range(1, 10 ** 9):
		    connection.sendall(b"a" * 1000)
		    while struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0]:
		        time.sleep(0.001)
		    with open("$TMP/acked", "w") as acked:
		        print(i * 1000, file=acked)
		    time.sleep(0.001)
	END
	within 20000 stat_at_least "$a" bytes 100000
	check_err $? "vacuous: friends move nothing at first: $(cat "$TMP/client" "$TMP/server")"
	ip netns exec "$h" nft "table netdev t { chain c {
		type filter hook ingress device veth_a priority 0; policy drop; }; }"
	check_err $? "nft failed"
	touch "$TMP/rule"
	within 100000 grep -q '^after' "$TMP/server"
	check_err $? "the receiver did not come to its end: $(cat "$TMP/server")"
	read -r _ after total forged < <(grep '^after' "$TMP/server")
	within 2000 acked_to "$((total - 1000))" && [ "$forged" -ge 10 ]
	check_err $? "vacuous: of $total bytes, 1000 of which were forged $forged times, $(cat "$TMP/acked") are acknowledged"
	[ "$after" = 0 ]
	check_err $? "$after of the sender's bytes went past the host's rule"
}

acked_to()
{
	[ "$(cat "$TMP/acked")" -ge "$1" ]
}

shaping()
{
	local where

	begin_at_bridge || return
	talk
	for where in 'tbf rate 1gbit burst 1mb latency 50ms' 'fq maxrate 1gbit'; do
		# shellcheck disable=SC2086
		ip netns exec "$h" tc qdisc replace dev veth_a root $where
		check_err $? "tc failed"
		by_wire traffic_control "a rate"
		ip netns exec "$h" tc qdisc del dev veth_a root
		friends_again "without a rate"
	done
	for where in "$a eth0" "$h veth_b" "$b eth0"; do
		# shellcheck disable=SC2086
		set -- $where
		ip netns exec "$1" tc qdisc replace dev "$2" root netem delay 1ms
		check_err $? "tc failed"
		by_wire traffic_control "netem at $2"
		ip netns exec "$1" tc qdisc del dev "$2" root
		friends_again "without netem at $2"
		ip netns exec "$1" tc qdisc add dev "$2" clsact &&
			ip netns exec "$1" tc filter add dev "$2" egress matchall action ok
		check_err $? "tc failed"
		by_wire traffic_control "a classifier at $2"
		ip netns exec "$1" tc qdisc del dev "$2" clsact
		friends_again "without the classifier at $2"
	done
	end
}

xdp_programs()
{
	local where

	begin_at_bridge || return
	talk
	for where in "$a generic eth0" "$h driver veth_b" "$b driver eth0" "$h generic br0"; do
		# shellcheck disable=SC2086
		set -- $where
		bpf_begin "$@"
		by_wire traffic_control "an XDP program at $3"
		bpf_end
		friends_again "without the XDP program at $3"
	done
	end
}

# BPF programs are attached to the cgroup of both ends' sockets.
cgroup()
{
	local role group=/sys/fs/cgroup/tcp-friends-containers-$$

	begin_at_bridge || return
	mkdir "$group"
	check_err $? "there are no cgroups"
	defer rmdir "$group"
	echo "$BASHPID" >"$group/cgroup.procs"
	talk
	echo "$BASHPID" >/sys/fs/cgroup/cgroup.procs
	for role in egress ingress; do
		bpf_begin "" "$role" "$group"
		by_wire cgroup "a program of the cgroup, $role"
		bpf_end
		friends_again "without the program, $role"
	done
	end
}

firewall()
{
	begin_at_bridge || return
	talk
	ip netns exec "$h" nft -f - <<-END
		table bridge t {
			chain passed {
				type filter hook forward priority 0
				tcp dport $XFER_PORT drop
				tcp sport $XFER_PORT drop
			}
		}
	END
	check_err $? "nft failed"
	stands_still "the bridge's rule that drops"
	ip netns exec "$h" nft delete table bridge t
	goes_on "without the rule"
	friends_again "without the rule"
	end
}

# A cable is pulled, and a port is taken off the bridge.
cable()
{
	begin_at_bridge || return
	talk
	ip -n "$h" link set veth_b down
	stands_still "a device that is down"
	ip -n "$h" link set veth_b up
	goes_on "when the device is up again"
	friends_again "when the device is up again"
	ip -n "$h" link set veth_b nomaster
	stands_still "a port that is taken away"
	ip -n "$h" link set veth_b master br0
	goes_on "when the port is back"
	friends_again "when the port is back"
	end
}

# The shortest interval of revalidation of the host and both ends applies, also to existing pairs.
# The others have set 0, which means never.
strictest()
{
	local who ns

	begin_at_bridge || return
	defer sysctl -q -w net.ipv4.tcp_friends_revalidate_ms=1000
	for who in host "$a" "$b" "$h"; do
		for ns in host "$a" "$b" "$h"; do
			interval "$ns" 0
		done
		talk
		ip -n "$h" link set veth_b down
		sleep "$(slow && echo 3 || echo 1)"
		friends_again "though nobody asks the wire"
		interval "$who" "$INTERVAL"
		sleep 0.4
		stands_still "a device that is down, though $who wants the wire asked"
		ip -n "$h" link set veth_b up
		goes_on "when the device is up again"
		friends_again "when the device is up again"
		end
	done
	# The host has its default interval.
	interval host 1000
	interval "$h" 0
	interval "$a" 0
	interval "$b" 0
	talk
	ip -n "$h" link set veth_b down
	sleep 1.2
	stands_still "a device that is down, though nobody has told the host otherwise"
	ip -n "$h" link set veth_b up
	goes_on "when the device is up again"
	end
}

# strict_hook NS FAMILY HOOK...: checks that nothing goes past that hook in strict mode.
strict_hook()
{
	local in=$1 family=$2

	ip netns exec "$in" nft -f - <<-END
		table $family t {
			chain c {
				type filter hook ${*:3} priority 0
			}
		}
	END
	check_err $? "nft failed"
	by_wire netfilter "a hook of $*"
	ip netns exec "$in" nft delete table "$family" t
	friends_again "without the hook of $*"
}

# Strict mode of the host, of either end, or of what is between them applies at each device and in
# each namespace.
strict()
{
	local who was

	begin_at_bridge || return
	was=$(sysctl -n net.ipv4.tcp_friends)
	defer sysctl -q -w net.ipv4.tcp_friends="$was"
	mode host 1
	talk
	ip netns exec "$h" nft 'table ip t { chain c { type filter hook forward priority 0; }; }'
	check_err $? "nft failed"
	friends_again "past a hook, though nobody is strict"
	ip netns exec "$h" nft delete table ip t
	for who in host "$a" "$b" "$h"; do
		mode "$who" 2
		friends_again "in strict mode of $who"
		strict_hook "$h" bridge forward
		mode "$who" 1
	done
	mode host 2
	strict_hook "$a" ip postrouting
	strict_hook "$b" ip6 prerouting
	strict_hook "$h" ip forward
	strict_hook "$h" bridge prerouting
	strict_hook "$h" inet prerouting
	strict_hook "$h" netdev ingress device veth_a
	strict_hook "$h" netdev egress device veth_b
	strict_hook "$b" netdev ingress device eth0
	end
}

# The host's tracepoint, and the files of its own namespace, show that the host captures.
told()
{
	local tracing=/sys/kernel/tracing was

	begin_at_bridge || return
	[ -e "$tracing/events" ] || mount -t tracefs nodev "$tracing"
	mkdir "$tracing/instances/friends-told-$$"
	check_err $? "no instance of tracefs"
	defer rmdir "$tracing/instances/friends-told-$$"
	tracing=$tracing/instances/friends-told-$$
	echo 1 >"$tracing/events/tcp_friends/tcp_friends_fallback/enable"
	talk
	ip netns exec "$h" tcpdump -i br0 -w /dev/null tcp 2>"$TMP/tcpdump" &
	DUMP=$!
	within 10000 grep -q listening "$TMP/tcpdump"
	check_err $? "tcpdump did not start"
	by_wire capture "a capture of the host"
	ip netns exec "$a" grep -q 'wire:path wire:path' /proc/net/tcp_friends
	check_err $? "the list: $(ip netns exec "$a" cat /proc/net/tcp_friends)"
	grep -q capture "$tracing/trace"
	check_err $? "the tracepoint does not tell of the capture"
	kill "$DUMP"
	wait "$DUMP"
	echo 0 >"$tracing/events/enable"
	end

	# One end is in the host's own namespace.
	was=$(sysctl -n net.ipv4.tcp_friends)
	defer sysctl -q -w net.ipv4.tcp_friends="$was"
	mode host 1
	ip link add "told$$" type veth peer name told netns "$b"
	defer ip link del "told$$"
	ip address add 203.0.113.1/24 dev "told$$"
	ip -n "$b" address add 203.0.113.2/24 dev told
	ip link set "told$$" up
	ip -n "$b" link set told up
	within 5000 ping -q -c 1 -W 1 203.0.113.2 >/dev/null
	check_err $? "203.0.113.2 is not seen from the host"
	XFER_OUT=$(mktemp "$TMP/xfer.XXXXXX")
	friends_xfer -t "$XFER_STALL" -S "/run/netns/$b" -C /proc/1/ns/net -a 203.0.113.2 \
		-r 0 -z 1000 -i 2 >"$XFER_OUT" 2>&1 &
	XFER_PID=$!
	within 5000 grep -q '^path\|^port' "$XFER_OUT"
	check_err $? "friends_xfer did not start: $(cat "$XFER_OUT")"
	within 5000 stat_at_least "$b" pairs 1
	check_err $? "vacuous: they are no friends"
	tcpdump -i "told$$" -w /dev/null tcp 2>"$TMP/tcpdump" &
	DUMP=$!
	within 10000 grep -q listening "$TMP/tcpdump"
	sleep 0.5
	grep -q '203.0.113.2.*wire:capture wire:capture' /proc/net/tcp_friends
	check_err $? "the host is not told of its capture: $(cat /proc/net/tcp_friends)"
	grep -q '^wire_capture [1-9]' /proc/net/tcp_friends_stat
	check_err $? "the host's counters do not tell of its capture"
	ip netns exec "$b" grep -q 'wire:path wire:path' /proc/net/tcp_friends &&
		stat_is "$b" wire_capture 0
	check_err $? "the container is told of the host's capture"
	kill "$DUMP"
	wait "$DUMP"
	end
}

# Both ports move to another bridge, where a capture must see everything.
rebridged()
{
	begin_at_bridge || return
	talk
	BRIDGE=br1 bridge
	ip -n "$h" link set veth_a master br1
	ip -n "$h" link set veth_b master br1
	goes_on "by another bridge"
	no_pairs "$a"
	no_pairs "$b"
	end
	between -n 2 -b 100000 -a 192.0.2.2
	[ -n "$WIRE" ] || friends_are 3
}

# A macvlan is put above the bridge. Nothing looks for captures at a macvlan, so the pair ends.
macvlan_above()
{
	begin_at_bridge || return
	talk
	ip -n "$h" link add link br0 name above type macvlan mode source
	check_err $? "there is no macvlan"
	goes_on "below a macvlan"
	no_pairs "$a"
	no_pairs "$b"
	end
}

# ---- how a pair ends --------------------------------------------------------

# The device is deleted, and a new one has its address.
device_deleted()
{
	begin_at_bridge || return
	talk
	ip -n "$h" link del veth_b
	no_pairs "$a"
	stands_still "a device that is gone"
	attach "$b" veth_b 192.0.2.2 2001:db8::2
	goes_on "when there is a device again"
	end
}

device_is_gone()
{
	! ip -n "$h" link show "$1" >/dev/null 2>&1
}

# The namespace has no name any more. It is freed with its last socket, and its devices with it.
namespace_deleted()
{
	local bytes

	begin_at_bridge || return
	talk
	ip netns del "$b"
	sleep "$(slow && echo 3 || echo 1)"
	bytes=$(ip netns exec "$a" ss -Htin state established |
		grep -o 'bytes_received:[0-9]*')
	sleep 0.5
	[ "$bytes" != "$(ip netns exec "$a" ss -Htin state established |
		grep -o 'bytes_received:[0-9]*')" ]
	check_err $? "nothing moves without the name"
	[ -n "$WIRE" ] || stat_is "$a" pairs 1
	check_err $? "they are no friends any more without the name"
	! device_is_gone veth_b
	check_err $? "vacuous: the namespace has not outlived its name"
	end
	no_pairs "$a"
	within 10000 device_is_gone veth_b
	check_err $? "the namespace is held by somebody"
}

# A container is killed, and the other end notices it.
killed()
{
	local out=$TMP/killed rc

	begin_at_bridge || return
	ip netns exec "$b" python3 - >"$out" 2>&1 <<-END &
		import socket, time
		listener = socket.create_server(("192.0.2.2", 5001))
		print("ready", flush=True)
		peer = listener.accept()[0]
		while True:
		    peer.sendall(peer.recv(1000))
	END
	SERVER=$!
	within 20000 grep -q ready "$out"
	check_err $? "python3 did not start: $(cat "$out")"
	ip netns exec "$a" python3 - >"$TMP/client" 2>&1 <<-END &
		import socket
		s = socket.create_connection(("192.0.2.2", 5001))
		while True:
		    s.sendall(b"x" * 1000)
		    n = 0
		    while n < 1000:
		        got = len(s.recv(1000 - n))
		        if got == 0:
		            raise SystemExit(7)
		        n += got
	END
	CLIENT=$!
	within 20000 arrived 50000 && within 2000 moved_at_least 50000
	check_err $? "vacuous: friends move nothing"
	kill -KILL "$SERVER"
	wait "$SERVER" 2>/dev/null
	ip netns del "$b"
	wait "$CLIENT"
	rc=$?
	[ "$rc" = 7 ] || grep -q 'ConnectionResetError\|BrokenPipeError' "$TMP/client"
	check_err $? "the client ended with $rc: $(tail -n 1 "$TMP/client")"
	no_pairs "$a"
}

# ---- where the mark is lost -------------------------------------------------

# unmarked WHAT [ARG...]: checks a connection without friends. The arguments are friends_xfer's.
unmarked()
{
	[ $# -gt 1 ] || set -- "$1" -a 192.0.2.2
	between -n 2 -b "$(scaled 1000000)" "${@:2}"
	stat_is "$a" crossed 0 && stat_is "$b" crossed 0
	check_err $? "friends by way of $1"
	stat_at_least "$a" offered 2
	check_err $? "vacuous: no SYN was marked"
}

# SYNs are queued to user space, or would be, if a program read the queue.
queued()
{
	begin_at_bridge || return
	ip netns exec "$h" nft -f - <<-END
		table bridge t {
			chain passed {
				type filter hook forward priority 0
				tcp flags & (syn | ack) == syn queue flags bypass to 0
			}
		}
	END
	check_err $? "nft failed"
	unmarked "a queue to user space"
}

# A program reads from one device and writes to another.
injected()
{
	cross 1 || return
	h='' a='' b=''
	setup_ns h a b
	bridge
	attach "$a" veth_a 192.0.2.1
	attach "$b" veth_b 192.0.2.2
	ip -n "$h" link set veth_a nomaster
	ip -n "$h" link set veth_b nomaster
	ip netns exec "$h" python3 - >"$TMP/injector" 2>&1 <<-END &
		import select, socket
		ports = []
		for name in "veth_a", "veth_b":
		    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
		    s.bind((name, 0))
		    s.setsockopt(263, 23, 1) # PACKET_IGNORE_OUTGOING
		    ports.append(s)
		print("ready", flush=True)
		while True:
		    for s in select.select(ports, [], [])[0]:
		        ports[1 - ports.index(s)].send(s.recv(70000))
	END
	within 20000 grep -q ready "$TMP/injector"
	check_err $? "python3 did not start: $(cat "$TMP/injector")"
	for ns in "$a" "$b"; do
		# Otherwise what the program reads would have no checksum yet.
		ip netns exec "$ns" ethtool -K eth0 tx off tso off gso off gro off >/dev/null
		check_err $? "ethtool failed"
	done
	sees "$a" 192.0.2.2
	willing "$a" "$b"
	unmarked "a program that injects"
}

# The path encrypts the data.
encrypted()
{
	local ns dir

	begin_at_bridge || return
	for ns in "$a" "$b"; do
		for dir in '1 2' '2 1'; do
			# shellcheck disable=SC2086
			set -- $dir
			ip -n "$ns" xfrm state add src "192.0.2.$1" dst "192.0.2.$2" \
				proto esp spi "$1" mode transport aead 'rfc4106(gcm(aes))' \
				0x0123456789abcdef0123456789abcdef01234567 128
			check_err $? "ip xfrm failed"
		done
	done
	ip -n "$a" xfrm policy add src 192.0.2.1 dst 192.0.2.2 dir out \
		tmpl proto esp mode transport
	ip -n "$b" xfrm policy add src 192.0.2.2 dst 192.0.2.1 dir out \
		tmpl proto esp mode transport
	check_err $? "ip xfrm failed"
	between -n 2 -b "$(scaled 1000000)" -a 192.0.2.2
	no_friends
}

# A SYN proxy answers in place of the server, with sequence numbers of its own.
synproxy()
{
	setup_routed || return
	ip -n "$b" route add default via 198.51.100.254
	ip netns exec "$h" sysctl -q -w net.netfilter.nf_conntrack_tcp_loose=0
	ip netns exec "$h" nft -f - <<-END
		table ip t {
			chain pre {
				type filter hook prerouting priority raw
				tcp flags & (syn | ack) == syn notrack
			}
			chain passed {
				type filter hook forward priority 0
				ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm
				ct state invalid drop
			}
		}
	END
	check_err $? "nft failed"
	unmarked "a SYN proxy" -a 198.51.100.2
}

# A program reads from one TAP device and writes to another.
tap()
{
	cross 1 || return
	h='' a='' b=''
	setup_ns h a b
	bridge
	attach "$a" veth_a 192.0.2.1
	BRIDGE=br1 bridge
	BRIDGE=br1 attach "$b" veth_b 192.0.2.2
	ip netns exec "$h" python3 - >"$TMP/taps" 2>&1 <<-END &
		import fcntl, os, select, struct
		taps = []
		for name in b"tap_a", b"tap_b":
		    fd = os.open("/dev/net/tun", os.O_RDWR)
		    # TUNSETIFF, IFF_TAP | IFF_NO_PI
		    fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", name, 0x1002))
		    taps.append(fd)
		print("ready", flush=True)
		while True:
		    for fd in select.select(taps, [], [])[0]:
		        try:
		            os.write(taps[1 - taps.index(fd)], os.read(fd, 70000))
		        except OSError:
		            pass # The other one is not up yet.
	END
	within 20000 grep -q ready "$TMP/taps"
	check_err $? "python3 did not start: $(cat "$TMP/taps")"
	ip -n "$h" link set tap_a master br0 up
	ip -n "$h" link set tap_b master br1 up
	sees "$a" 192.0.2.2
	willing "$a" "$b"
	unmarked "TAP devices"
}

# A helper of the tracker reads the data, and may rewrite it.
helper()
{
	setup_routed || return
	ip -n "$b" route add default via 198.51.100.254
	ip netns exec "$h" nft -f - <<-END
		table ip t {
			ct helper ftp {
				type "ftp" protocol tcp
			}
			chain pre {
				type filter hook prerouting priority 0
				tcp dport 5001 ct helper set "ftp"
			}
		}
	END
	check_err $? "nft failed"
	unmarked "a helper of the tracker" -p 5001 -a 198.51.100.2
	# Without the helper the tracker does not prevent friends.
	between -p 5003 -b 100000 -a 198.51.100.2
	friends_are 1
}

# IPVS has a helper of its own for this port.
ipvs_helper()
{
	published_by_ipvs 21 || return
	unmarked "a helper of IPVS" -p 21 -a 198.51.100.2 -A 192.0.2.254
}

# tunnel ARG...: tests a connection through a tunnel.
tunnel()
{
	begin_at_bridge || return
	ip -n "$a" link add tun type "$@" local 192.0.2.1 remote 192.0.2.2 &&
		ip -n "$b" link add tun type "$@" local 192.0.2.2 remote 192.0.2.1
	check_err $? "there are no tunnels of this kind"
	ip -n "$a" address add 203.0.113.1/24 dev tun
	ip -n "$b" address add 203.0.113.2/24 dev tun
	ip -n "$a" link set tun up
	ip -n "$b" link set tun up
	sees "$a" 203.0.113.2
	unmarked "a tunnel" -a 203.0.113.2
}

ipip()
{
	tunnel ipip
}

gre()
{
	tunnel gre
}

vxlan()
{
	tunnel vxlan id 5 dstport 4789
}

# The module would not notice VLAN devices, so the mark does not pass below them.
vlan()
{
	begin_at_bridge || return
	ip -n "$a" link add link eth0 name eth0.5 type vlan id 5
	ip -n "$b" link add link eth0 name eth0.5 type vlan id 5
	check_err $? "there are no VLAN devices"
	ip -n "$a" address add 203.0.113.1/24 dev eth0.5
	ip -n "$b" address add 203.0.113.2/24 dev eth0.5
	ip -n "$a" link set eth0.5 up
	ip -n "$b" link set eth0.5 up
	sees "$a" 203.0.113.2
	unmarked "a VLAN" -a 203.0.113.2
}

require_command nft
require_command tc
require_command tcpdump
require_command python3
require_command conntrack
require_command ethtool
require_command ipvsadm
require_command haproxy

# These tests must have the same result over the wire.
BOTH=(bulk requests send_buffer fifty tenants ipvlan ipvlan_l3 host routed vrf nat
	nat_of_the_host ipvs ports_again tracker tracker_at_home sidecar tproxy firewall
	cable rebridged device_deleted namespace_deleted killed)
WIRES=()
for test in "${BOTH[@]}"; do
	eval "wire_$test()
	{
		local WIRE=1

		$test
	}"
	WIRES+=("wire_$test")
done

run_tests "${BOTH[@]}" "${WIRES[@]}" refused switched_off unloaded many_devices macvlan macvlan_to_a_group macvlan_above \
	capture bystander third_without_arp third_below_bridge third_by_dup third_by_tee \
	third_by_program third_by_neighbour third_in_tracker question_answered_by_receiver told \
	strictest strict shaping xdp_programs cgroup queued injected tap encrypted synproxy helper ipvs_helper ipip \
	gre vxlan vlan
