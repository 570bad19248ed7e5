// SPDX-License-Identifier: GPL-2.0

//! The sysctls of a network namespace (`net.ipv4.tcp_friends`,
//! `net.ipv4.tcp_friends_revalidate_ms`) and of the host (`net.ipv4.tcp_friends_cross`): what
//! happens when they are written.

use kernel::{
    prelude::*,
    seq_file::SeqFile,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        rcu, //
    },
};

use crate::{
    cross::handshake,
    net::{
        for_each_established,
        Net,
        PerNet,
        Rcu,
        Sock,
        Sysctl,
        Trying,
        Value, //
    },
    netns::{
        jiffies,
        Namespace,
        STRICT, //
    },
    pair::{
        crossing::update_modes,
        form,
        Member, //
    },
    show, //
};

const DAY_MS: u32 = 24 * 60 * 60 * 1000;

impl PerNet for Namespace {
    const FILE: &'static CStr = c"tcp_friends_stat";
    const SOCKETS: &'static CStr = c"tcp_friends";
    const SYSCTLS: &'static [Sysctl<Self>] = &[
        Sysctl {
            name: c"tcp_friends",
            max: STRICT as u32,
            is_init_net_only: false,
            value: |namespace| Value::Byte(&namespace.switch),
            written: switched,
        },
        Sysctl {
            name: c"tcp_friends_revalidate_ms",
            max: DAY_MS,
            is_init_net_only: false,
            value: |namespace| Value::Word(&namespace.revalidate_ms),
            written: |namespace, _| interval_set(namespace),
        },
        Sysctl {
            name: c"tcp_friends_cross",
            max: 1,
            is_init_net_only: true,
            value: |_| Value::Byte(handshake::switch()),
            written: |_, _| handshake::apply_switch(),
        },
    ];

    fn id() -> &'static Atomic<u32> {
        static ID: Atomic<u32> = Atomic::new(0);

        &ID
    }

    fn new() -> Result<Self> {
        Namespace::new()
    }

    /// Writes one line for each counter, with the counter's name and value.
    fn show(&self, seq: &SeqFile) {
        show::counters(self, seq);
    }

    fn show_head(seq: &SeqFile) {
        show::head(seq);
    }

    fn show_socket(seq: &SeqFile, sock: &Sock, rcu: Rcu<'_>) {
        show::line(seq, sock, rcu);
    }

    /// Dissolves the last pairs.
    fn gone(&self, net: &Net) {
        unpair_all(self, net);
    }
}

/// Handles a write to the sysctl `tcp_friends_revalidate_ms`.
fn interval_set(namespace: &Namespace) {
    let ms = namespace.revalidate_ms.load(Relaxed);
    namespace.revalidate.store(jiffies(ms), Relaxed);
}

/// Handles a write to the sysctl `tcp_friends`. May sleep.
///
/// When friends are switched off, live connections continue on the wire (invariant 4).
fn switched(namespace: &Namespace, net: &Net) {
    update_modes(net);
    if !namespace.on() {
        // When this returns, every context that still saw the switch on has formed its pair.
        rcu::synchronize_rcu();
        unpair_all(namespace, net);
    } else if namespace.is_strict() {
        // When this returns, every context that still saw the previous mode has formed its
        // pair.
        rcu::synchronize_rcu();
        for_all(namespace, net, &|_, member, _| member.check_all());
    }
}

/// Dissolves all pairs that exist now. May sleep.
pub(crate) fn unpair_all(namespace: &Namespace, net: &Net) {
    for_all(namespace, net, &|sock, member, trying| {
        form::renew_windows_and_unpair(sock, member, trying);
        true
    });
}

/// Calls `f` for each socket that has a friend now, under the conditions of
/// [`for_each_established`]. May sleep.
#[inline(never)]
fn for_all(
    namespace: &Namespace,
    net: &Net,
    f: &dyn Fn(&Sock, &Member<'_>, &mut Trying<'_>) -> bool,
) {
    if namespace.pairs() == 0 {
        return;
    }
    for_each_established(net, |sock: &Sock, trying: &mut Trying<'_>, rcu: Rcu<'_>| {
        Member::of(sock, rcu).is_some_and(|member| f(sock, &member, trying))
    });
}
