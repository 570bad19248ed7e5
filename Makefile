# SPDX-License-Identifier: GPL-2.0
# This file has the entry points. Kbuild does not read it, because it finds the
# file Kbuild first.

# The tools run make themselves. Variables of this make's command line are not
# meant for them.
unexport MAKEFLAGS MAKEOVERRIDES MFLAGS

.PHONY: help
help:
	@echo 'Targets (the first three set up everything that they need):'
	@echo
	@echo '  run            boot a guest, and compare TCP with friends off and on'
	@echo '  test           every check: lint, KUnit, selftests in a guest'
	@echo '  bench          measure all, into build/bench.json; also between containers'
	@echo '  bench-check    compare with the kept figures, and measure what others pay'
	@echo '  bench-native   cycles of the real processor, by a kernel that is a process of it'
	@echo '  bench-scaling  many pairs at once, and one beside 50,000 idle connections'
	@echo '  bench-apps     redis, nginx, netperf, ... by the clock, against their bounds'
	@echo '  bench-plots    draw build/bench.json: Documentation/bench-*.svg'
	@echo
	@echo '  shell          a root shell in a guest with the module loaded'
	@echo '  test-debug     the selftests on a kernel with KASAN, lockdep, kmemleak'
	@echo '  kselftests     the kernel'\''s own selftests of TCP, with friends off and on'
	@echo '  modules        build the module for your patched kernel: KDIR=<built tree>'
	@echo '  root           the build root (Debian 13: toolchain, qemu, userland)'
	@echo '  kernel         the patched kernel'
	@echo
	@echo '  lint           formatting, lints and checks of all sources'
	@echo '  fmt            format the Rust sources'
	@echo '  rust-analyzer  rust-project.json for the editor'
	@echo '  clean          remove build/ (the cache has what took long, and stays)'
	@echo
	@echo 'Variables: KERNEL_TARBALL=<linux-7.3.x.tar.xz> instead of the source from'
	@echo 'Debian, XDG_CACHE_HOME=<folder> for the cache (~/.cache), which needs 25 GB.'

.PHONY: run
run:
	@tools/run

.PHONY: test
test:
	@tools/test --no-debug

.PHONY: test-debug
test-debug:
	@tools/test debug

.PHONY: kselftests
kselftests:
	@tools/kselftests

.PHONY: bench
bench:
	@tools/bench/bench
	@tools/bench/containers

.PHONY: bench-check
bench-check:
	@tools/bench/check

.PHONY: bench-native
bench-native:
	@tools/bench/native

.PHONY: bench-scaling
bench-scaling:
	@tools/bench/scaling

.PHONY: bench-apps
bench-apps:
	@tools/bench/apps

.PHONY: bench-plots
bench-plots:
	@tools/bench/plots

.PHONY: shell
shell:
	@tools/vm

.PHONY: root
root:
	@tools/root

.PHONY: kernel
kernel:
	@tools/kernel

.PHONY: modules
modules:
ifeq ($(KDIR),)
	@echo 'make modules: KDIR must name a built kernel tree that has patches/ applied.' >&2; exit 1
else
	@test -e '$(KDIR)/Module.symvers' || \
		{ echo "make modules: '$(KDIR)' is not a built kernel tree (no Module.symvers)." >&2; exit 1; }
	@grep -qs '^CONFIG_TCP_FRIENDS=y' '$(KDIR)/.config' '$(KDIR)/include/config/auto.conf' || \
		{ echo "make modules: the kernel of '$(KDIR)' lacks the hooks (no CONFIG_TCP_FRIENDS); apply patches/ to it." >&2; exit 1; }
	@$(MAKE) -C '$(KDIR)' M='$(CURDIR)' LLVM=1 modules
endif

.PHONY: lint
lint:
	@tools/lint

.PHONY: fmt
fmt:
	@tools/lint fmt

.PHONY: rust-analyzer
rust-analyzer:
	@tools/rust-analyzer

.PHONY: clean
clean:
	@rm -rf build rust-project.json
	@find . -path ./build -prune -o \( -name '*.o' -o -name '*.ko' -o -name '*.mod' \
		-o -name '*.mod.c' -o -name '.*.cmd' -o -name '*.bc' -o -name Module.symvers \
		-o -name modules.order \) -type f -exec rm -f {} +
