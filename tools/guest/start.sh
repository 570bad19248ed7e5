#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# start.sh RUNDIR QEMU-ARGUMENTS...: packs the initramfs of one run, and becomes
# qemu. It runs in the build root, for tools/vm.

set -euo pipefail

run=$1
shift
init=$run/init.d
mkdir -p "$init/bin"
cp /usr/bin/busybox "$init/bin/"
for a in cat cp grep ln mkdir mount reboot sh switch_root; do
	ln -sf busybox "$init/bin/$a"
done
cp /src/tools/guest/init /src/tools/guest/main.sh "$init/"
cp "$run/job" "$init/"
(cd "$init" && find . | cpio --quiet -o -H newc) >"$run/initrd"
rm -r "$init"
exec qemu-system-x86_64 "$@"
