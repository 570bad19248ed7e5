// SPDX-License-Identifier: GPL-2.0

//! The module's state of a network namespace: what its sysctls are set to, and its counters.

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        barrier::{
            smp_mb,
            Read, //
        },
    },
    time::msecs_to_jiffies, //
};

use crate::{
    net::{
        tcp_jiffies32,
        Net,
        HZ, //
    },
    stats::{
        Counter,
        Counters, //
    },
};

/// The default interval at which the wire is asked, in ms.
const REVALIDATE_MS: u32 = 1000;

/// The number of writers of a namespace that may wait for room in vain in one second. As many may
/// wait at the same time.
const MOST_IN_VAIN: i32 = 8;

/// The value of `net.ipv4.tcp_friends` for strict mode.
pub(crate) const STRICT: i8 = 2;

/// Returns the shorter of two intervals. An interval of 0 means never, so 0 is the longest.
pub(crate) const fn shorter(a: u32, b: u32) -> u32 {
    // Subtracting 1 keeps the order of the intervals, and makes 0 the largest value.
    if a.wrapping_sub(1) < b.wrapping_sub(1) {
        a
    } else {
        b
    }
}

/// Converts `ms` to jiffies. The result is at least 1 unless `ms` is 0.
pub(crate) fn jiffies(ms: u32) -> u32 {
    // TRUNCATE: The sysctl is a day at most.
    msecs_to_jiffies(ms) as u32
}

/// The module's state of one network namespace.
pub(crate) struct Namespace {
    /// 1 if new connections may become friends, 2 (strict mode) if moved data must not pass by a
    /// netfilter hook either, 0 if friends are switched off.
    pub(crate) switch: Atomic<i8>,
    /// The interval at which the wire is asked, in ms.
    pub(crate) revalidate_ms: Atomic<u32>,
    /// `revalidate_ms` in jiffies.
    pub(crate) revalidate: Atomic<u32>,
    /// How many writers have begun to wait for room since `waits_since`, without those whose
    /// readers have made room at once.
    waits: Atomic<i32>,
    /// When the second of which `waits` counts the writers began, in jiffies.
    waits_since: Atomic<u32>,
    counters: Counters,
}

impl Namespace {
    /// Creates the state of a namespace in which friends are switched off and all counters are
    /// zero. May sleep.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            switch: Atomic::new(0),
            revalidate_ms: Atomic::new(REVALIDATE_MS),
            revalidate: Atomic::new(jiffies(REVALIDATE_MS)),
            waits: Atomic::new(0),
            waits_since: Atomic::new(tcp_jiffies32()),
            counters: Counters::new()?,
        })
    }

    /// Returns the state of `net`, or `None` while the namespace is being set up or torn down.
    pub(crate) fn of(net: &Net) -> Option<&Self> {
        net.state()
    }

    /// Returns the interval, in jiffies, at which a connection that moves data asks the wire; 0
    /// means never.
    pub(crate) fn revalidate(&self) -> u32 {
        self.revalidate.load(Relaxed)
    }

    /// Returns whether new connections may become friends.
    pub(crate) fn on(&self) -> bool {
        self.switch.load(Relaxed) != 0
    }

    /// Returns whether the namespace is in strict mode, in which no data that netfilter could see
    /// is moved past netfilter.
    #[inline]
    pub(crate) fn is_strict(&self) -> bool {
        self.switch.load(Relaxed) == STRICT
    }

    /// Charges a writer of the namespace that begins to wait for room, and returns whether it may:
    /// too many may have waited in vain in this second ([`MOST_IN_VAIN`]). May be called in any
    /// context.
    ///
    /// A new second begins with the first charge after the last one is over. What is taken back of
    /// the charges of the last second counts in the new one, so up to twice as many may wait.
    pub(crate) fn begin_wait(&self) -> bool {
        let now = tcp_jiffies32();

        if now.wrapping_sub(self.waits_since.load(Relaxed)) >= HZ {
            self.waits_since.store(now, Relaxed);
            self.waits.store(0, Relaxed);
        }
        if self.waits.fetch_add(1, Relaxed) >= MOST_IN_VAIN {
            self.waits.fetch_sub(1, Relaxed);
            return false;
        }
        true
    }

    /// Takes the charge of [`Self::begin_wait`] back, for a writer that has not waited in vain. May
    /// be called in any context.
    pub(crate) fn end_wait(&self) {
        self.waits.fetch_sub(1, Relaxed);
    }

    /// Adds `val` to a counter. May be called in any context.
    #[inline]
    pub(crate) fn count(&self, counter: Counter, val: u64) {
        self.counters.add(counter, val);
    }

    /// Returns the counters of the namespace.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns the number of pairs ever formed.
    pub(crate) fn pairs_total(&self) -> u64 {
        self.counters
            .sum(Counter::Paired)
            .saturating_sub(self.counters.sum(Counter::FormFailed))
    }

    /// Returns the number of pairs now, which is never less than the number of pairs that exist
    /// from the beginning of the call to its end. A pair is counted as formed before it is formed,
    /// and so before it is counted as gone, and the pairs that are gone are summed first.
    pub(crate) fn pairs(&self) -> u64 {
        let gone = self
            .counters
            .sum(Counter::Dissolved)
            .wrapping_add(self.counters.sum(Counter::FormFailed));

        // This barrier pairs with the fully ordered `cmpxchg()` that forms a pair, or with the
        // barrier where forming the pair failed. Either lies between counting the pair as formed
        // and counting the pair as gone. So each pair in `gone` is also in the next sum.
        smp_mb(Read);
        self.counters.sum(Counter::Paired).saturating_sub(gone)
    }
}

#[kernel::macros::kunit_tests(tcp_friends_namespace)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_interval_counts() {
        assert_eq!(shorter(50, 250), 50);
        assert_eq!(shorter(250, 50), 50);
    }

    #[test]
    fn never_is_the_longest_interval() {
        assert_eq!(shorter(0, 250), 250);
        assert_eq!(shorter(250, 0), 250);
        assert_eq!(shorter(0, 0), 0);
    }
}
