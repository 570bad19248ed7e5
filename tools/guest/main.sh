#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The guest's process 1 after guest/init: settings, the module, the command,
# and its status back to the host. tools/vm wrote what to do into 'job'.

# CMD, MODULE, FRIENDS, DEBUG, TTY_SIZE, TTY_TERM
CMD=() MODULE='' FRIENDS=1 DEBUG='' TTY_SIZE='' TTY_TERM=dumb
# shellcheck source=/dev/null
. /run/vm/job

OUT=/dev/vport0p1
STATUS=/dev/vport0p2

# No shutdown of services here: nothing is written that has to last.
off()
{
	echo "$1" >"$STATUS"
	exec busybox reboot -f
}

settings()
{
	ip link set lo up
	# getaddrinfo() takes a host with loopback addresses alone for one
	# without a network (AI_ADDRCONFIG), and netperf then gives up.
	ip link set dummy0 up
	ip address add 192.0.2.1/24 dev dummy0
	ip address add 2001:db8::1/64 dev dummy0 nodad
	hostname vm
	ulimit -n 65536
	ulimit -c 0
	# What distributions set and programs expect.
	echo '0 2147483647' >/proc/sys/net/ipv4/ping_group_range
	export HOME=/root LC_ALL=C.UTF-8 IN_VM=1 TERM=$TTY_TERM
	export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
	unset BOOT_IMAGE
	cd /src || off 1
}

# The reason of a failed insmod, in one sentence.
insmod_reason()
{
	local symbol

	symbol=$(dmesg | sed -n 's/.*tcp_friends: Unknown symbol \([^ ]*\).*/\1/p' | tail -n 1)
	if [ -n "$symbol" ]; then
		echo "this kernel lacks the hooks (it has no symbol $symbol); boot one with patches/ applied, or give --no-module."
	elif dmesg | grep -q 'tcp_friends: .*version magic\|tcp_friends: disagrees about'; then
		echo "it was built for another kernel; remove ${MODULE%/*} and try again."
	else
		echo "insmod says '$1'; the kernel log has more."
	fi
}

load_module()
{
	local msg

	[ -n "$MODULE" ] || return 0
	export FRIENDS_KO=$MODULE
	if ! msg=$(insmod "$MODULE" 2>&1); then
		echo "vm: ${MODULE##*/} cannot be loaded: $(insmod_reason "${msg##*: }")"
		return 1
	fi
	if ! sysctl -q -w "net.ipv4.tcp_friends=$FRIENDS"; then
		echo "vm: ${MODULE##*/} is loaded, but net.ipv4.tcp_friends cannot be set to $FRIENDS."
		return 1
	fi
}

# Everything but this shell and process $1, so that pipes and sockets close.
kill_all()
{
	local p

	for p in /proc/[0-9]*; do
		p=${p#/proc/}
		[ "$p" = 1 ] || [ "$p" = "${1:-}" ] ||
			kill -KILL "$p" 2>/dev/null
	done
}

# What the module leaves behind, into the kernel log. It is unloaded first, so
# that what only it still knows of counts too; its symbols are kept for the
# backtraces. The first scan notes the contents, the second reports what is
# unchanged, unreferenced and 5 s old.
leak_scan()
{
	local f=/sys/kernel/debug/kmemleak line n=0 i

	[ -n "$DEBUG" ] && [ -w "$f" ] || return 0
	grep '\[tcp_friends\]$' /proc/kallsyms | sort >/run/vm/symbols
	[ -n "$MODULE" ] && rmmod tcp_friends 2>/dev/null
	echo scan >"$f"
	sleep 6
	echo scan >"$f"
	mapfile -t address < <(sed 's/^/0x/; s/ .*//' /run/vm/symbols)
	mapfile -t symbol < <(sed 's/^[^ ]* [^ ]* //; s/\t.*//' /run/vm/symbols)
	while IFS= read -r line && [ $((n += 1)) -le 200 ]; do
		if [[ $line =~ ^\ *(0xffffffff[0-9a-f]+)$ ]]; then
			for ((i = ${#address[@]} - 1; i >= 0; i--)); do
				[ $((BASH_REMATCH[1])) -ge $((address[i])) ] || continue
				line+=" (${symbol[i]})"
				break
			done
		fi
		echo "$line" >/dev/kmsg
	done <"$f"
}

# The port is no terminal: a pseudo terminal beside it is.
interactive()
{
	local rows cols

	read -r rows cols <<<"$TTY_SIZE"
	cat >/run/vm/shell <<-END
	stty rows ${rows:-24} cols ${cols:-80}
	export PS1='\u@\h:\w# '
	cd /src
	exec bash --norc -i
	END
	# Its stderr goes to the console, thus to the kernel log's file.
	socat "FILE:$OUT" "EXEC:bash /run/vm/shell,pty,setsid,ctty,stderr,sane"
}

settings
rc=0
if [ ${#CMD[@]} = 0 ]; then
	load_module >/run/vm/msg || cat /run/vm/msg >"$OUT"
	interactive
	rc=$?
	kill_all
else
	# A pipe, not the port itself: that one can be opened only once, and
	# programs do open /dev/stdout.
	exec 3> >(exec cat >"$OUT")
	cat=$!
	if load_module >&3 2>&1; then
		setsid -- "${CMD[@]}" </dev/null >&3 2>&1 3>&-
		rc=$?
	else
		rc=1
	fi
	exec 3>&-
	# Daemons left behind hold the pipe open.
	kill_all "$cat"
	wait "$cat"
fi
leak_scan
off "$rc"
