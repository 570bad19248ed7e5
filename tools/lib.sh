# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Sourced by the tools: where things are kept, how a long step is shown, and
# how an error is told.

set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/tcp-friends
BUILD=$TOP/build
# The kernel series that patches/ fits; it stands in that one file.
KERNEL_SERIES=$(cat "$TOP/patches/KERNEL")
ME=${0##*/}
export TOP CACHE BUILD KERNEL_SERIES

# One sentence, non-zero status.
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

# need_space MEGABYTES: in the cache's file system.
need_space()
{
	local free

	mkdir -p "$CACHE" 2>/dev/null ||
		die "cannot make the cache folder $CACHE; set XDG_CACHE_HOME to a folder that can be written."
	free=$(df --output=avail -m "$CACHE" | tail -n 1)
	[ "$free" -ge "$1" ] ||
		die "$CACHE has $free MiB free and this step needs $1 MiB; free some space or set XDG_CACHE_HOME to a larger disk."
}

# A hash of files and words, for the names of what is cached.
key_of()
{
	cat -- "$@" | sha256sum | cut -c1-12
}

# Wait for the lock NAME, so that two runs do not make the same thing at once.
# The lock goes with the process. Its descriptor is closed for daemons by
# 'step' (a left-over child must not hold it).
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

# step 'what it does' CMD...: run CMD with its output in a log, show that it
# lives, and how long it took. On failure show the end of the log.
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

# pkg_versions ROOT REGEX: the versions of the root's packages of these names.
pkg_versions()
{
	awk -v want="^($2)\$" '
		$1 == "Package:" { name = $2 }
		$1 == "Version:" && name ~ want { print name, $2 }' \
		"$1/var/lib/dpkg/status"
}
