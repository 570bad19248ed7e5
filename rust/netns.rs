// SPDX-License-Identifier: GPL-2.0

//! A namespace's switches (`net.ipv4.tcp_friends`,
//! `net.ipv4.tcp_friends_revalidate_ms`) and counters (`/proc/net/tcp_friends_stat`).

use kernel::{
    fmt,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        barrier::{
            smp_mb,
            Read, //
        },
        rcu, //
    },
    time::msecs_to_jiffies, //
};

use crate::{
    abstractions::{
        for_each_established,
        mode_set,
        Member,
        Net,
        PerCpuCounters,
        Rcu,
        Sock,
        Trying, //
    },
    pairing,
    stats::{
        Counter,
        Wire, //
    },
};

/// How often the wire is asked unless the administrator says otherwise, in ms.
const REVALIDATE_MS: u32 = 1000;

/// Of the switch: strict mode.
const STRICT: i8 = 2;

/// Whether nothing that netfilter could see is moved past it between these two.
///
/// A pair that crosses obeys whoever is strict of the host and the namespaces that it passes, so
/// that none of them has a say over another's packets.
pub(crate) fn is_strict(member: &Member<'_>) -> bool {
    member.namespace().is_strict() || member.namespaces().any(Namespace::is_strict)
}

/// How often the direction whose sender is in `ours` asks the wire, in jiffies; 0 for never.
///
/// For a pair that crosses it is the shortest of what the host and the namespaces that it passes
/// say: what one of them sets makes it stricter for itself, and never laxer for another.
pub(crate) fn interval(ours: &Namespace, member: &Member<'_>) -> u32 {
    member
        .namespaces()
        .map(Namespace::revalidate)
        .fold(ours.revalidate(), shorter)
}

/// The shorter of two intervals. 0 is never, and so the longest.
const fn shorter(a: u32, b: u32) -> u32 {
    // The longest comes last when one is taken off, and so does 0.
    if a.wrapping_sub(1) < b.wrapping_sub(1) {
        a
    } else {
        b
    }
}

/// At least one, unless there are none.
fn jiffies(ms: u32) -> u32 {
    // TRUNCATE: The sysctl is bounded.
    msecs_to_jiffies(ms) as u32
}

/// The state of one namespace.
pub(crate) struct Namespace {
    switch: Atomic<i8>,
    revalidate_ms: Atomic<u32>,
    /// The same in jiffies.
    revalidate: Atomic<u32>,
    counters: PerCpuCounters<{ Counter::COUNT }>,
}

impl Namespace {
    /// Off, and nothing counted. May sleep.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            switch: Atomic::new(0),
            revalidate_ms: Atomic::new(REVALIDATE_MS),
            revalidate: Atomic::new(jiffies(REVALIDATE_MS)),
            counters: PerCpuCounters::new()?,
        })
    }

    /// The sysctl's byte: 1 when new connections may become friends, 2 if also no hook of
    /// netfilter must be passed by.
    pub(crate) fn switch(&self) -> &Atomic<i8> {
        &self.switch
    }

    /// The word of the sysctl that says how often the wire is asked, in ms.
    pub(crate) fn revalidate_ms(&self) -> &Atomic<u32> {
        &self.revalidate_ms
    }

    /// That sysctl was written.
    pub(crate) fn revalidate_set(&self) {
        let ms = self.revalidate_ms.load(Relaxed);
        self.revalidate.store(jiffies(ms), Relaxed);
    }

    /// How often a connection that moves data asks the wire, in jiffies; 0 for
    /// never.
    pub(crate) fn revalidate(&self) -> u32 {
        self.revalidate.load(Relaxed)
    }

    /// Whether new connections may become friends.
    pub(crate) fn on(&self) -> bool {
        self.switch.load(Relaxed) != 0
    }

    /// Whether nothing that netfilter could see is moved past it.
    #[inline]
    pub(crate) fn is_strict(&self) -> bool {
        self.switch.load(Relaxed) == STRICT
    }

    /// Adds to a counter. In any context.
    #[inline]
    pub(crate) fn count(&self, counter: Counter, val: u64) {
        self.counters.add(counter.index(), val);
    }

    /// The sysctl was written. May sleep.
    ///
    /// Switched off, live connections go on over the wire (invariant 4).
    pub(crate) fn switched(&self, net: &Net) {
        mode_set(net);
        if !self.on() {
            // Who still saw it on has formed its pair when this returns.
            rcu::synchronize_rcu();
            self.part_all(net);
        } else if self.is_strict() {
            // Likewise.
            rcu::synchronize_rcu();
            self.for_all(net, &|_, member, _| member.ask_all());
        }
    }

    /// Parts the pairs that there are now. May sleep.
    pub(crate) fn part_all(&self, net: &Net) {
        self.for_all(net, &|sock, member, trying| {
            pairing::part_in_use(sock, member, trying);
            true
        });
    }

    /// Calls `f` for each socket that has a friend now, as [`for_each_established`]. May sleep.
    #[inline(never)]
    fn for_all(&self, net: &Net, f: &dyn Fn(&Sock, &Member<'_>, &mut Trying<'_>) -> bool) {
        if self.pairs() == 0 {
            return;
        }
        for_each_established(net, |sock: &Sock, trying: &mut Trying<'_>, rcu: Rcu<'_>| {
            Member::of(sock, rcu).is_some_and(|member| f(sock, &member, trying))
        });
    }

    #[inline(never)]
    fn sum(&self, counter: Counter) -> u64 {
        self.counters.sum(counter.index())
    }

    /// Pairs ever formed.
    fn pairs_total(&self) -> u64 {
        self.sum(Counter::Paired)
            .saturating_sub(self.sum(Counter::Unformed))
    }

    /// Pairs now; never fewer than those that were there at the beginning and still are. A pair is
    /// counted before it is formed, and so before it is gone; and who is gone is summed first.
    fn pairs(&self) -> u64 {
        let gone = self
            .sum(Counter::Parted)
            .wrapping_add(self.sum(Counter::Unformed));

        // Pairs with the fully ordered cmpxchg() that forms a pair, or with the barrier where none
        // comes of it: either lies between the count of the pair as formed and its count as gone.
        // So each pair in `gone` is in the next sum.
        smp_mb(Read);
        self.sum(Counter::Paired).saturating_sub(gone)
    }

    /// `/proc/net/tcp_friends_stat`: a name and a number a line.
    pub(crate) fn show(&self, seq: &SeqFile) {
        let line = |name: &dyn fmt::Display, value: u64| seq_print!(seq, "{} {}\n", name, value);

        line(&"pairs", self.pairs());
        line(&"pairs_total", self.pairs_total());
        for (counter, name) in [
            (Counter::Bytes, "bytes"),
            (Counter::Skbs, "skbs"),
            (Counter::Full, "full"),
            (Counter::Pulled, "pulled"),
            (Counter::Nudged, "nudged"),
            (Counter::Offered, "offered"),
            (Counter::Crossed, "crossed"),
        ] {
            line(&name, self.sum(counter));
        }
        for (why, name) in Wire::ALL {
            line(&fmt!("wire_{}", name), self.sum(Counter::Wire(why)));
        }
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
