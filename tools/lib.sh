# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# The tools source this file. It says where things are kept, shows long steps,
# and reports errors.

set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/tcp-friends
BUILD=$TOP/build
# Only this file names the kernel series that patches/ fits.
KERNEL_SERIES=$(cat "$TOP/patches/KERNEL")
ME=${0##*/}
export TOP CACHE BUILD KERNEL_SERIES

# die MESSAGE: prints one sentence, and exits with a status other than 0.
die()
{
	echo "$ME: $*" >&2
	exit 1
}

note()
{
	echo "$ME: $*" >&2
}

need_root()
{
	[ "$(id -u)" = 0 ] ||
		die "must run as root (it makes a build root and mounts in it); try again with sudo."
}

# need_space MEGABYTES: fails if the cache's file system has less free space.
need_space()
{
	local free

	mkdir -p "$CACHE" 2>/dev/null ||
		die "cannot make the cache folder $CACHE; set XDG_CACHE_HOME to a folder that can be written."
	free=$(df --output=avail -m "$CACHE" | tail -n 1)
	[ "$free" -ge "$1" ] ||
		die "$CACHE has $free MiB free and this step needs $1 MiB; free some space or set XDG_CACHE_HOME to a larger disk."
}

# key_of FILE...: prints a hash of the files, for the names of what is cached.
key_of()
{
	cat -- "$@" | sha256sum | cut -c1-12
}

# lock NAME: waits for the lock, so that two runs do not make one thing at once.
# The lock is held until unlock, or until the process and all children that have
# its descriptor have ended.
lock()
{
	mkdir -p "$CACHE/lock"
	exec {LOCK_FD}>"$CACHE/lock/$1"
	flock -n "$LOCK_FD" && return
	note "another run is making $1; waiting for it."
	flock "$LOCK_FD"
}

unlock()
{
	exec {LOCK_FD}>&-
}

elapsed()
{
	local s=$((SECONDS - $1))

	printf '%d:%02d' $((s / 60)) $((s % 60))
}

# step 'what it does' CMD...: runs CMD with its output in a log, shows that CMD
# is alive, and how long it took. If CMD fails, step shows the end of the log.
step()
{
	local what=$1 start=$SECONDS log rc=0 pid tick=0

	shift
	mkdir -p "$CACHE/log"
	log=$CACHE/log/$(tr -cs 'A-Za-z0-9.\n' - <<<"$what" | cut -c1-60).log
	if [ -t 2 ]; then
		printf '  %-52s' "$what" >&2
	else
		echo "  $what ..." >&2
	fi
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	trap 'kill -TERM $pid 2>/dev/null || :; exit 130' INT TERM
	while kill -0 "$pid" 2>/dev/null; do
		sleep 0.2
		tick=$((tick + 1))
		if [ -t 2 ] && [ $((tick % 5)) = 0 ]; then
			printf '\r  %-52s %s ' "$what" "$(elapsed "$start")" >&2
		elif [ ! -t 2 ] && [ $((tick % 300)) = 0 ]; then
			echo "  $what ... $(elapsed "$start")" >&2
		fi
	done
	wait "$pid" || rc=$?
	trap - INT TERM
	if [ "$rc" != 0 ]; then
		[ -t 2 ] && echo >&2
		tail -n 25 "$log" >&2
		note "'$what' failed after $(elapsed "$start"); the whole log is in $log"
		return "$rc"
	fi
	if [ -t 2 ]; then
		printf '\r  %-52s %s done\n' "$what" "$(elapsed "$start")" >&2
	else
		echo "  $what: done in $(elapsed "$start")" >&2
	fi
}

# pkg_versions ROOT REGEX: prints the versions of the root's packages of these
# names.
pkg_versions()
{
	awk -v want="^($2)\$" '
		$1 == "Package:" { name = $2 }
		$1 == "Version:" && name ~ want { print name, $2 }' \
		"$1/var/lib/dpkg/status"
}
