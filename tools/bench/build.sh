#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Build the bench program with the build root's compiler, for the guest:
# build/bench/friends-bench, when it is missing or older than its source.

. "$(dirname "$0")/../lib.sh"

SOURCE=tools/bench/friends-bench.c
PROGRAM=build/bench/friends-bench

# A file of this name is always complete.
compile()
{
	"$TOP/tools/root" -- gcc -O2 -Wall -Wextra -Werror -o "$PROGRAM.part" "$SOURCE" &&
		mv "$TOP/$PROGRAM.part" "$TOP/$PROGRAM"
}

if [ ! "$TOP/$PROGRAM" -nt "$TOP/$SOURCE" ]; then
	mkdir -p "$BUILD/bench"
	step "Building the bench program" compile ||
		die "$SOURCE does not compile; look at the messages above."
fi
