// SPDX-License-Identifier: GPL-2.0

//! The view that one of the two sockets has of its pair.

use core::ptr::NonNull;

use kernel::{
    bindings,
    sync::atomic::Relaxed, //
};

use super::{
    field::FriendField,
    path::Path,
    revalidate::Revalidator,
    tally::Fallbacks,
    Checks,
    End,
    Pair,
    Side,
    ALL,
    LOOPBACK,
    PATH, //
};
use crate::{
    net::{
        Device,
        Net,
        Rcu,
        Sock, //
    },
    netns::{
        shorter,
        Namespace, //
    },
};

/// One socket's view of its pair, inside an RCU read-side critical section.
///
/// *This end* is the end whose view it is, and the *peer* is the other end. The path of a
/// *crossing* pair has other devices than the loopback device.
///
/// # Invariants
///
/// `tagged` is what the `friend` field of this end's socket holds while the two sockets of `pair`
/// are friends.
#[derive(Clone, Copy)]
pub(crate) struct Member<'a> {
    pair: &'a Pair,
    tagged: *mut bindings::tcp_friend,
}

impl<'a> Member<'a> {
    /// Returns the view that `sock` has of its pair, if `sock` has a friend.
    pub(crate) fn of(sock: &Sock, _rcu: Rcu<'a>) -> Option<Self> {
        let tagged = sock.friend_field().load(Relaxed);
        if tagged.addr() & FriendField::PROPOSAL != 0 {
            return None;
        }
        let pair = NonNull::new(tagged.map_addr(|addr| addr & !Side::MASK).cast::<Pair>())?;
        // INVARIANT: The `friend` field of `sock` held `tagged`, and no proposal.
        Some(Self {
            // SAFETY: Without its tag, the field points to a pair, which is freed a grace period
            // after the field was cleared; the critical section lasts for `'a`. The address
            // dependency orders the read of the pointer before all reads through the pointer.
            pair: unsafe { pair.as_ref() },
            tagged,
        })
    }

    /// Returns the view of the end that formed `pair`.
    pub(crate) fn of_side_a(pair: &'a Pair, _rcu: Rcu<'a>) -> Self {
        // INVARIANT: The field of side A holds this value while the sockets of `pair` are friends.
        Self {
            pair,
            tagged: pair.tagged(Side::A),
        }
    }

    #[inline(always)]
    fn ours(&self) -> usize {
        self.tagged.addr() & Side::MASK
    }

    #[inline(always)]
    fn theirs(&self) -> usize {
        self.ours() ^ Side::MASK
    }

    /// Returns the critical section in which the pair was found.
    pub(crate) fn rcu(&self) -> Rcu<'a> {
        // SAFETY: `of` or `first` was given an `Rcu<'a>`, so by the type invariants of `Rcu` the
        // current context is in a critical section for all of `'a`.
        unsafe { Rcu::new() }
    }

    /// Returns the state of this end's namespace.
    pub(crate) fn namespace(&self) -> &'a Namespace {
        self.end().namespace()
    }

    /// Returns the state of the peer's namespace.
    pub(crate) fn peer_namespace(&self) -> &'a Namespace {
        self.peer_end().namespace()
    }

    /// Returns whether something else than the loopback device lies between the ends.
    pub(crate) fn crosses(&self) -> bool {
        self.pair.crossing.is_some()
    }

    /// Returns what has to be checked before each move.
    #[inline(always)]
    pub(crate) fn checks(&self) -> Checks {
        match (self.pair.checks.load(Relaxed), &self.pair.crossing) {
            (LOOPBACK, _) => Checks::Loopback,
            (PATH, Some(crossing)) if !crossing.checks_all() => Checks::Path,
            _ => Checks::All,
        }
    }

    /// Returns, for a crossing pair, the state of the host's namespace and of each namespace that
    /// the path passes from end to end; nothing for other pairs.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &'a Namespace> + 'a {
        let mut all = [None; 1 + Path::NETS];

        if let Some(crossing) = &self.pair.crossing {
            // SAFETY: The pair was found in the critical section of `self.rcu()`, and a path is
            // forgotten when its pair is dissolved, so the path was not forgotten before that
            // section began.
            let nets = unsafe { crossing.path().namespaces(self.rcu()) };

            for (place, net) in all.iter_mut().zip(nets) {
                *place = Namespace::of(net);
            }
        }
        all.into_iter().flatten()
    }

    /// Returns whether the pair is in strict mode, in which no data that netfilter could see is
    /// moved past netfilter.
    ///
    /// A crossing pair is in strict mode if the host, or any namespace that the pair passes, is in
    /// strict mode, so that no namespace decides about the packets of another one.
    pub(crate) fn is_strict(&self) -> bool {
        self.namespace().is_strict() || self.namespaces().any(Namespace::is_strict)
    }

    /// Returns the interval, in jiffies, at which this end asks the wire; 0 means never.
    ///
    /// For a crossing pair, the result is the shortest interval of the host and of the namespaces
    /// that the pair passes: the setting of a namespace makes the check stricter for that
    /// namespace, and never laxer for another one.
    pub(crate) fn interval(&self) -> u32 {
        self.namespaces()
            .map(Namespace::revalidate)
            .fold(self.namespace().revalidate(), shorter)
    }

    /// Requires [`Checks::All`] before each move from now on. Returns whether that is new.
    pub(crate) fn check_all(&self) -> bool {
        let new = self.pair.checks.load(Relaxed) != ALL;

        self.pair.checks.store(ALL, Relaxed);
        new
    }

    /// Returns what `f` returns for the path of a crossing pair, and the default value for other
    /// pairs.
    #[inline(always)]
    fn on_path<R: Default>(&self, f: impl FnOnce(&Path, Rcu<'a>) -> R) -> R {
        self.pair
            .crossing
            .as_ref()
            .map_or(R::default(), |crossing| f(crossing.path(), self.rcu()))
    }

    /// Returns zero if nobody captures packets on the path of a crossing pair.
    pub(crate) fn taps(&self) -> usize {
        // SAFETY: The pair was found in the critical section of `rcu`, and a path is forgotten when
        // its pair is dissolved, so the path was not forgotten before that section began.
        self.on_path(|path, rcu| unsafe { path.taps(rcu) })
    }

    /// Returns zero if no qdisc, classifier or XDP program governs the path of a crossing pair.
    pub(crate) fn governors(&self) -> usize {
        // SAFETY: The pair was found in the critical section of `rcu`, and a path is forgotten when
        // its pair is dissolved, so the path was not forgotten before that section began.
        self.on_path(|path, rcu| unsafe { path.governors(rcu) })
    }

    /// Returns whether [`Self::taps`] or [`Self::governors`] is not zero, for a pair whose
    /// [checks](Self::checks) are [`Checks::Path`].
    #[inline(always)]
    pub(crate) fn is_watched(&self) -> bool {
        // SAFETY: The pair was found in the critical section of `rcu`, and a path is forgotten when
        // its pair is dissolved, so the path was not forgotten before that section began.
        self.on_path(|path, rcu| unsafe { path.is_watched(rcu) })
    }

    /// Returns the peer's socket.
    pub(crate) fn peer(&self) -> &'a Sock {
        self.peer_end().sock()
    }

    /// Returns whether `sock`, the socket of this end, still has the peer for a friend, and has not
    /// got another friend since.
    ///
    /// The answer stays true only while the caller owns `sock` or holds its spinlock.
    #[inline(always)]
    pub(crate) fn still_paired(&self, sock: &Sock) -> bool {
        sock.friend_field().load(Relaxed) == self.tagged
    }

    /// Returns whether the peer still has this end for a friend, and has not got another friend
    /// since.
    ///
    /// The answer stays true only while the caller holds the peer's spinlock.
    #[inline(always)]
    pub(crate) fn peer_still_paired(&self) -> bool {
        let other = self.tagged.map_addr(|addr| addr ^ Side::MASK);
        self.peer().friend_field().load(Relaxed) == other
    }

    /// Returns the namespace in which the `hop` hook sees the marked segments of this end arrive,
    /// if segments of this end leave its namespace.
    pub(crate) fn marked_arrival_net(&self) -> Option<&'a Net> {
        let leaves = !core::ptr::eq(self.namespace(), self.peer_namespace());

        (self.crosses() && leaves).then(|| self.peer().net())
    }

    /// Returns what the pair keeps for this end as a sender.
    #[inline(always)]
    pub(crate) fn end(&self) -> &'a End {
        &self.pair.ends[self.ours()]
    }

    /// Returns what the pair keeps for the peer as a sender.
    #[inline(always)]
    pub(crate) fn peer_end(&self) -> &'a End {
        &self.pair.ends[self.theirs()]
    }

    /// Returns whether `device` is on the path of a crossing pair.
    pub(crate) fn passes(&self, device: Device<'_>) -> bool {
        self.on_path(|path, _| path.passes(device))
    }

    /// Returns whether neither end waits for the other ([`End::is_waiting`]).
    #[inline(always)]
    pub(crate) fn nobody_waits(&self) -> bool {
        !(self.end().is_waiting() | self.peer_end().is_waiting())
    }

    /// Returns whether netfilter has a hook for what passes the path of a crossing pair.
    pub(crate) fn is_filtered(&self) -> bool {
        // SAFETY: The pair was found in the critical section of `rcu`, and a path is forgotten when
        // its pair is dissolved, so the path was not forgotten before that section began.
        self.on_path(|path, rcu| unsafe { path.is_filtered(rcu) })
    }

    /// Returns the question whether the wire still carries what this end sends.
    #[inline(always)]
    pub(crate) fn question(&self) -> Revalidator<'a> {
        Revalidator::new(self.end().question(), *self)
    }

    /// Returns how often either end took the wire, by reason.
    pub(crate) fn fallbacks(&self) -> &'a Fallbacks {
        &self.pair.fallbacks
    }

    /// Returns the peer's view of the pair.
    pub(crate) fn peer_view(&self) -> Self {
        // INVARIANT: The tags of the two sides differ in this bit only, so this is what the peer's
        // field holds while the sockets are friends.
        Self {
            pair: self.pair,
            tagged: self.tagged.map_addr(|addr| addr ^ Side::MASK),
        }
    }

    /// Returns whether this end formed the pair, which is true for one of the two ends.
    pub(crate) fn is_side_a(&self) -> bool {
        self.ours() == Side::A as usize
    }

    /// Dissolves the pair. Both sockets continue on the wire.
    ///
    /// Returns whether this call, and not an earlier one, dissolved the pair.
    pub(crate) fn dissolve(&self) -> bool {
        self.pair.dissolve()
    }
}
