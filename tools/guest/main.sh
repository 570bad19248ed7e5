#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# This is the guest's process 1 after guest/init. It makes settings, loads the
# module, runs the command, and sends the status back to the host. tools/vm has
# written to 'job' what to do.

# The file 'job' sets these variables.
CMD=() MODULE='' FRIENDS=1 DEBUG='' TCG_INT3='' TTY_SIZE='' TTY_TERM=dumb
# shellcheck source=/dev/null
. /run/vm/job

OUT=/dev/vport0p1
STATUS=/dev/vport0p2

# No service is shut down here, because nothing that is written has to last.
off()
{
	echo "$1" >"$STATUS"
	exec busybox reboot -f
}

settings()
{
	ip link set lo up
	# getaddrinfo() treats a host that has only loopback addresses as a host
	# without a network (AI_ADDRCONFIG), and netperf then gives up.
	ip link set dummy0 up
	ip address add 192.0.2.1/24 dev dummy0
	ip address add 2001:db8::1/64 dev dummy0 nodad
	hostname vm
	ulimit -n 65536
	ulimit -c 0
	# Distributions set this, and programs expect it.
	echo '0 2147483647' >/proc/sys/net/ipv4/ping_group_range
	export HOME=/root LC_ALL=C.UTF-8 IN_VM=1 TERM=$TTY_TERM
	export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
	unset BOOT_IMAGE
	cd /src || off 1
	if [ -n "$TCG_INT3" ] && ! insmod "$TCG_INT3"; then
		echo "vm: ${TCG_INT3##*/} cannot be loaded; see the messages above." >"$OUT"
		off 1
	fi
}

# insmod_reason MESSAGE: prints the reason of a failed insmod, in one sentence.
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

# kill_all [PID]: kills everything but this shell and PID, so that pipes and
# sockets close.
kill_all()
{
	local p

	for p in /proc/[0-9]*; do
		p=${p#/proc/}
		[ "$p" = 1 ] || [ "$p" = "${1:-}" ] ||
			kill -KILL "$p" 2>/dev/null
	done
}

# Writes what the module leaves behind into the kernel log. The module is
# unloaded first, so that objects that only the module knows of count too. Its
# symbols are kept for the backtraces. The first scan notes the contents. The
# second scan reports what is unchanged, unreferenced and 5 s old.
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

# The port is no terminal, so the shell gets a pseudo terminal beside the port.
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
	# The stderr of socat goes to the console, and thus to the kernel log's
	# file.
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
	# This is a pipe, not the port itself. The port can be opened only once,
	# and programs do open /dev/stdout.
	exec 3> >(exec cat >"$OUT")
	cat=$!
	if load_module >&3 2>&1; then
		setsid -- "${CMD[@]}" </dev/null >&3 2>&1 3>&-
		rc=$?
	else
		rc=1
	fi
	exec 3>&-
	# Daemons that are left behind hold the pipe open.
	kill_all "$cat"
	wait "$cat"
fi
leak_scan
off "$rc"
