// SPDX-License-Identifier: GPL-2.0

//! Counts what the friends of a pair do, for the pair and for the sender's namespace.

use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

use crate::{
    net::{
        trace,
        Sock, //
    },
    pair::Member,
    stats::{
        Counter,
        Fallback, //
    },
};

/// The amount of data that one end of a pair has moved to the other end.
///
/// The fields are written by a context with exclusive access to the end that moves, and are read by
/// any context.
pub(crate) struct Sent {
    bytes: Atomic<u64>,
    skbs: Atomic<u64>,
}

impl Sent {
    /// Creates the counters of an end that has moved nothing yet.
    pub(crate) const fn none() -> Self {
        Self {
            bytes: Atomic::new(0),
            skbs: Atomic::new(0),
        }
    }

    /// Returns the number of bytes of payload.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Returns the number of skbs.
    pub(crate) fn skbs(&self) -> u64 {
        self.skbs.load(Relaxed)
    }
}

/// The number of times that either end of a pair took the wire, by reason.
pub(crate) struct Fallbacks([Atomic<u32>; Fallback::COUNT]);

impl Fallbacks {
    /// Creates counters that are all zero.
    pub(crate) const fn new() -> Self {
        Self([const { Atomic::new(0) }; Fallback::COUNT])
    }

    /// Returns how often either end took the wire for the reason `why`.
    pub(crate) fn of(&self, why: Fallback) -> u32 {
        self.0[why as usize].load(Relaxed)
    }

    fn add(&self, why: Fallback) {
        self.0[why as usize].fetch_add(1, Relaxed);
    }
}

/// Counts data of `sock` that was moved: `bytes` bytes, as `skbs` new skbs. `member` is the view of
/// `sock`. The caller has exclusive access to `sock`.
#[inline(always)]
pub(crate) fn moved(sock: &Sock, member: &Member<'_>, bytes: u32, skbs: u32) {
    if cfg!(tcp_friends_without = "counters") {
        return;
    }
    let namespace = member.namespace();
    let sent = member.end().sent();

    trace::moved(sock, bytes, skbs);
    let (bytes, skbs) = (u64::from(bytes), u64::from(skbs));
    // Bytes that were appended to an skb add zero skbs, which costs as much as a branch would.
    sent.bytes.store(sent.bytes().wrapping_add(bytes), Relaxed);
    sent.skbs.store(sent.skbs().wrapping_add(skbs), Relaxed);
    namespace.count(Counter::Bytes, bytes);
    namespace.count(Counter::Skbs, skbs);
}

/// Returns whether the namespace of `sock` is shown every reason, because the whole connection lies
/// within that namespace, or because that namespace is the host's. `member` is the view of `sock`.
pub(crate) fn is_shown_all(sock: &Sock, member: &Member<'_>) -> bool {
    !member.crosses() || sock.net().is_host()
}

/// Counts that data of `sock` takes the wire for the reason `why`. `member` is the view of `sock`.
/// May be called in any context. The tracepoint belongs to the host, and so shows the true reason.
pub(crate) fn fell_back(sock: &Sock, member: &Member<'_>, why: Fallback) {
    let shown = if is_shown_all(sock, member) {
        why
    } else {
        why.shown_to_sender()
    };

    member.namespace().counters().fell_back(shown);
    member.fallbacks().add(why);
    trace::fallback(sock, why.name());
}
