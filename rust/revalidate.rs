// SPDX-License-Identifier: GPL-2.0

//! Now and then the wire is asked whether it still lets us.
//!
//! A firewall's rule, a route or a connection tracker's time-out has no cheap
//! test. So a connection that moves data lets one transmission take the wire
//! every `net.ipv4.tcp_friends_revalidate_ms`, and moves no more until the wire has
//! carried it. Where that is dropped on its way, it stays in flight, and by
//! invariant 2 all that comes after it waits behind it; where the wire does not
//! even take it, it stays in the write queue. Either way the connection stands
//! still as it would without friends.
//!
//! Each direction asks for itself. No lock is taken here.

use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

use crate::{
    abstractions::{
        tcp_jiffies32,
        Tcp, //
    },
    hold::{
        may_go,
        Go, //
    },
    namespace::Namespace,
};

/// When one direction of a connection asked the wire, and what became of it.
///
/// Written only by who has the sender to itself.
pub(crate) struct Question {
    /// When the wire last carried something for this, in jiffies.
    answered: Atomic<u32>,
    /// It has been asked since, and has not carried anything yet.
    open: Atomic<bool>,
    /// `snd_nxt` when it was asked.
    nxt: Atomic<u32>,
}

impl Question {
    /// Just answered: the handshake took the wire.
    pub(crate) fn new() -> Self {
        Self {
            answered: Atomic::new(tcp_jiffies32()),
            open: Atomic::new(false),
            nxt: Atomic::new(0),
        }
    }

    /// Whether it is time to ask, or the answer is still out.
    #[inline]
    pub(crate) fn is_due(&self, namespace: &Namespace) -> bool {
        passed(
            tcp_jiffies32(),
            self.answered.load(Relaxed),
            namespace.revalidate(),
        )
    }

    /// The question being due: whether what `s` has to send must take the wire now,
    /// to ask, or because the wire has refused since it was asked, as a firewall's
    /// rule for what leaves makes it do.
    ///
    /// Where the wire would transmit nothing anyway, the question is put off to
    /// the next move. The caller has the sender to itself and has found that
    /// nothing is in flight (invariant 2), so that `snd_nxt` tells whether the
    /// wire has carried anything: meanwhile nothing is moved. `mss` is in bytes,
    /// `nonagle` of `TCP_NAGLE_*`.
    pub(crate) fn is_for_wire(&self, s: &mut Tcp<'_>, mss: u32, nonagle: u32) -> bool {
        if self.open.load(Relaxed) && s.snd_nxt() != self.nxt.load(Relaxed) {
            self.open.store(false, Relaxed);
            self.answered.store(tcp_jiffies32(), Relaxed);
            return false;
        }
        let open = would_transmit(s, mss, nonagle);
        self.nxt.store(s.snd_nxt(), Relaxed);
        self.open.store(open, Relaxed);
        open
    }
}

/// Whether `interval` has passed since `last`; 0 never does.
const fn passed(now: u32, last: u32, interval: u32) -> bool {
    interval != 0 && now.wrapping_sub(last) >= interval
}

/// Whether the wire would transmit something: data that cork does not hold back,
/// within the window.
fn would_transmit(s: &mut Tcp<'_>, mss: u32, nonagle: u32) -> bool {
    let window = s.snd_wnd();
    s.send_head().is_some_and(|head| {
        let len = head.len();
        len != 0
            && window >= len.min(mss)
            && may_go(len, mss, head.is_last(), nonagle) != Go::Nothing
    })
}

#[kernel::macros::kunit_tests(tcp_friends_revalidate)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_passes() {
        assert!(!passed(1249, 1000, 250));
        assert!(passed(1250, 1000, 250));
    }

    #[test]
    fn jiffies_wrap() {
        assert!(!passed(9, u32::MAX - 9, 20));
        assert!(passed(10, u32::MAX - 9, 20));
    }

    #[test]
    fn none_never_passes() {
        assert!(!passed(5000, 1000, 0));
    }
}
