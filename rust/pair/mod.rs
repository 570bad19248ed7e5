// SPDX-License-Identifier: GPL-2.0

//! The pair, and `tcp_sock.friend`, the pointer that leads to it.
//!
//! # Who owns a pair, and for how long
//!
//! A [`Pair`] holds a reference to both sockets. Both sockets' `friend` fields
//! point to it, tagged with which side the socket is. Hooks read the field and
//! use the pair inside one RCU read-side critical section. The pair is freed,
//! and the references are put, one grace period after it was dissolved.
//!
//! # Races
//!
//! All changes of the field are `cmpxchg()`s (fully ordered), so no lock is
//! needed and any context may dissolve a pair.
//!
//! - *Who frees.* Side A's field is the token: whoever takes it from the pair
//!   to null, and nobody else, hands the pair to RCU.
//! - *Dissolved while being formed.* [`Pair::form`] sets A's field, then B's,
//!   then looks at A's again. A dissolver clears A's, then B's. If the
//!   dissolver came before B's field was set, the last look sees A's cleared,
//!   and B's is taken back, all in the critical section that `form` runs in,
//!   before the pair can be freed.
//! - *A socket closes while being paired.* `tcp_set_state(TCP_CLOSE)` sets the
//!   state, then (after a full barrier) reads the field. `form` sets the
//!   field, then reads both states. One of them sees the other.
//! - *A socket gets rules of its own while being paired* (an upper-layer protocol,
//!   for instance). Looked at again after the fields are set. There is no barrier
//!   on the other side, so it may be missed: such a pair only moves what that
//!   protocol writes.
//! - *A socket is reused.* `tcp_disconnect()` goes through `TCP_CLOSE` and so
//!   clears the field, under the socket's lock. A hook that still holds the old
//!   pair asks [`Member::peer_still_paired`] with the peer's spinlock held.
//!
//! So a closed socket's reference is held for one grace period and no longer.

use core::ptr::{
    addr_of_mut,
    NonNull, //
};

use kernel::{
    bindings,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
    },
    types::Opaque,
};

use super::{
    crossings::Crossing,
    device::{
        Device,
        Path, //
    },
    namespace::Net,
    sock::{
        Rcu,
        Sock,
        State, //
    },
};
use crate::{
    half::Half,
    namespace::Namespace,
    revalidate::Asker,
    stats::{
        Sent,
        Tally, //
    },
};

/// Which of the two ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The end that formed the pair.
    A = 0,
    /// The end that was there already.
    B = 1,
}

impl Side {
    const MASK: usize = 1;
}

/// Two sockets of one connection.
///
/// # Invariants
///
/// The sockets are two, and referenced until the pair is freed.
#[repr(C)]
pub(crate) struct Pair {
    socks: [ARef<Sock>; 2],
    /// For each side what it needs as a sender.
    halves: [Half; 2],
    /// What has to be asked besides of the loopback device before each move.
    besides: Atomic<i8>,
    /// What both have done.
    tally: Tally,
    /// For each side the state of its namespace, which outlives every critical section
    /// in which the pair can be found.
    namespaces: [NonNull<Namespace>; 2],
    /// What lies between them, unless it is the loopback device.
    crossing: Option<KBox<Crossing>>,
    rcu: Opaque<bindings::callback_head>,
}

/// [`Pair::besides`]: nothing.
const NOTHING: i8 = 0;
/// Its path, and not the loopback device.
const PATH: i8 = 1;
/// All that there is: a namespace is strict, or has tracked the connection without a
/// mark.
const ALL: i8 = 2;

/// What has to be asked before each move of a pair.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    /// The loopback device only.
    Lo,
    /// The path only.
    Path,
    /// Everything.
    All,
}

// What it costs beside the data queued.
const _: () = assert!(size_of::<Pair>() <= 512);

// The side is the pointer's lowest bit, and the next one tells of an offer.
const _: () = assert!(align_of::<Pair>() > Side::MASK | Slot::OFFER);

/// The field `friend` of a socket that may have an offer in place of a pair.
pub(super) struct Slot<'a>(&'a Atomic<*mut bindings::tcp_friend>);

impl<'a> Slot<'a> {
    /// The bit by which it is known.
    const OFFER: usize = 2;

    /// That of `sock`.
    pub(super) fn of(sock: &'a Sock) -> Self {
        Self(field(sock))
    }

    fn encode(isn: u32) -> *mut bindings::tcp_friend {
        // TRUNCATE: Not where there are offers.
        core::ptr::without_provenance_mut((u64::from(isn) << 32) as usize | Self::OFFER)
    }

    /// Says that the socket has an offer with that initial sequence number. Not if it has
    /// one, or a friend; nor where a pointer has no room for the number.
    pub(super) fn offer(&self, isn: u32) -> bool {
        cfg!(CONFIG_64BIT)
            && self
                .0
                .cmpxchg(core::ptr::null_mut(), Self::encode(isn), Full)
                .is_ok()
    }

    /// Says so no more.
    pub(super) fn take_back(&self, isn: u32) {
        let _ = self
            .0
            .cmpxchg(Self::encode(isn), core::ptr::null_mut(), Full);
    }

    /// The initial sequence number of its offer, if it has one.
    pub(super) fn offered(&self) -> Option<u32> {
        let addr = self.0.load(Relaxed).addr();

        // TRUNCATE: So it was made.
        (addr & Self::OFFER != 0).then_some((addr as u64 >> 32) as u32)
    }
}

/// The field `friend` of a socket.
fn field(sock: &Sock) -> &Atomic<*mut bindings::tcp_friend> {
    // SAFETY: `sock` is a valid TCP socket; everybody uses the field atomically.
    unsafe { Atomic::from_ptr(addr_of_mut!((*sock.tp()).friend)) }
}

impl Pair {
    /// What the field of that side holds.
    fn tagged(&self, side: Side) -> *mut bindings::tcp_friend {
        // CAST: The C side never looks behind the pointer.
        core::ptr::from_ref(self)
            .cast::<bindings::tcp_friend>()
            .cast_mut()
            .map_addr(|addr| addr | side as usize)
    }

    fn set(&self, side: Side) -> bool {
        field(&self.socks[side as usize])
            .cmpxchg(core::ptr::null_mut(), self.tagged(side), Full)
            .is_ok()
    }

    fn clear(&self, side: Side) -> bool {
        field(&self.socks[side as usize])
            .cmpxchg(self.tagged(side), core::ptr::null_mut(), Full)
            .is_ok()
    }

    /// Makes friends of `a`, which the caller has locked, and `b`. With `all`, all that
    /// there is has to be asked before each move.
    ///
    /// Returns whether they became friends: not if either has a friend already
    /// or is closed, or if there is no memory. Where somebody else has parted
    /// them since, they had become friends.
    pub(crate) fn form(
        a: &Sock,
        b: &Sock,
        namespaces: [&Namespace; 2],
        path: Option<Path>,
        all: bool,
        _rcu: Rcu<'_>,
    ) -> bool {
        if a.is(b) {
            return false;
        }
        let crossing = match path {
            Some(path) => match Crossing::new(path) {
                Ok(crossing) => Some(crossing),
                Err(_) => return false,
            },
            None => None,
        };
        let Ok(pair) = KBox::new(
            // INVARIANT: They are two, and referenced.
            Self {
                socks: [a, b].map(ARef::from),
                halves: [
                    Half::new(a, namespaces[0].revalidate()),
                    Half::new(b, namespaces[1].revalidate()),
                ],
                besides: Atomic::new(match (all, &crossing) {
                    (true, _) => ALL,
                    (false, Some(_)) => PATH,
                    (false, None) => NOTHING,
                }),
                tally: Tally::new(),
                namespaces: namespaces.map(NonNull::from),
                crossing,
                rcu: Opaque::uninit(),
            },
            GFP_ATOMIC | __GFP_NOWARN,
        ) else {
            return false;
        };
        let raw = KBox::into_raw(pair);
        // SAFETY: It was just allocated, and is freed a grace period after it is dissolved, that is
        // after the critical section that `_rcu` stands for.
        let this = unsafe { &*raw };

        let mut both = false;
        let mut meet = || {
            let first = this.set(Side::A);

            both = first && this.set(Side::B);
            first
        };
        let met = match &this.crossing {
            // SAFETY: It is the pair's, just made, and taken out by `dissolve`.
            Some(crossing) => unsafe { crossing.link(raw, &mut meet) },
            None => meet(),
        };
        if !met {
            // SAFETY: Nobody else has seen it.
            drop(unsafe { KBox::from_raw(raw) });
            return false;
        }
        if !both {
            return !this.dissolve();
        }
        if field(&this.socks[0]).load(Relaxed) != this.tagged(Side::A) {
            // Dissolved since: B's may not have been there yet to be cleared.
            this.clear(Side::B);
            return true;
        }
        if this
            .socks
            .iter()
            .any(|s| s.state() == State::Close || s.has_own_rules())
        {
            return !this.dissolve();
        }
        // SAFETY: No requirements.
        unsafe { bindings::tcp_friends_met() };
        true
    }

    fn unlink(&self) {
        if let Some(crossing) = &self.crossing {
            crossing.unlink();
        }
    }

    /// Ends the friendship. Both sockets go on over the wire.
    ///
    /// Returns whether this call did it.
    fn dissolve(&self) -> bool {
        if !self.clear(Side::A) {
            return false;
        }
        self.clear(Side::B);
        self.unlink();
        // SAFETY: We took the token, so nobody else hands it to RCU. It was made by
        // `KBox::into_raw()` in `form`.
        unsafe { bindings::call_rcu(self.rcu.get(), Some(Self::free)) };
        true
    }

    /// # Safety
    ///
    /// `head` is the field `rcu` of a pair that nobody can reach any more.
    unsafe extern "C" fn free(head: *mut bindings::callback_head) {
        // SAFETY: By the function's safety requirements; `Opaque` is transparent.
        let pair = unsafe { kernel::container_of!(Opaque::cast_from(head), Pair, rcu) };
        // SAFETY: As above; it came from `KBox::into_raw()`. Putting the sockets may free them,
        // which softirq may do.
        drop(unsafe { KBox::from_raw(pair.cast_mut()) });
    }
}

/// One socket's view of its pair, inside an RCU read-side critical section.
///
/// # Invariants
///
/// `tagged` is what the field of a socket of `pair` holds while it has the other
/// for a friend.
#[derive(Clone, Copy)]
pub(crate) struct Member<'a> {
    pair: &'a Pair,
    tagged: *mut bindings::tcp_friend,
}

impl<'a> Member<'a> {
    /// The pair of `sock`, if it has a friend.
    pub(crate) fn of(sock: &Sock, _rcu: Rcu<'a>) -> Option<Self> {
        let tagged = field(sock).load(Relaxed);
        if tagged.addr() & Slot::OFFER != 0 {
            return None;
        }
        let pair = NonNull::new(tagged.map_addr(|addr| addr & !Side::MASK).cast::<Pair>())?;
        // INVARIANT: The field of `sock` held it.
        Some(Self {
            // SAFETY: The field points to a pair that is freed a grace period after the field was
            // cleared; the critical section lasts for `'a`. The address dependency orders the
            // read of the pointer before what is read through it.
            pair: unsafe { pair.as_ref() },
            tagged,
        })
    }

    /// The view of the end that formed the pair.
    pub(super) fn first(pair: &'a Pair, _rcu: Rcu<'a>) -> Self {
        // INVARIANT: So it is.
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

    /// The critical section that it was found in.
    pub(crate) fn rcu(&self) -> Rcu<'a> {
        // SAFETY: `of` was shown that it lasts for `'a`.
        unsafe { Rcu::new() }
    }

    /// The state of our namespace.
    pub(crate) fn namespace(&self) -> &'a Namespace {
        // SAFETY: A namespace's state is freed a grace period after its last pair was dissolved.
        unsafe { self.pair.namespaces[self.ours()].as_ref() }
    }

    /// The state of the peer's namespace.
    pub(crate) fn peer_namespace(&self) -> &'a Namespace {
        self.turned().namespace()
    }

    /// Whether something else than the loopback device lies between the ends.
    pub(crate) fn crosses(&self) -> bool {
        self.pair.crossing.is_some()
    }

    /// What has to be asked before each move.
    #[inline(always)]
    pub(crate) fn asks(&self) -> Asks {
        match (self.pair.besides.load(Relaxed), &self.pair.crossing) {
            (NOTHING, _) => Asks::Lo,
            (PATH, Some(crossing)) if !crossing.asks_all() => Asks::Path,
            _ => Asks::All,
        }
    }

    /// The state of each namespace that one which crosses passes, from end to end, and of the
    /// host's.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &'a Namespace> + 'a {
        let mut all = [None; 1 + Path::NETS];

        if let Some(crossing) = &self.pair.crossing {
            // SAFETY: A path is forgotten when its pair is dissolved; we are in a critical section
            // in which it was found.
            let nets = unsafe { crossing.path().namespaces(self.rcu()) };

            for (place, net) in all.iter_mut().zip(nets) {
                *place = net.state();
            }
        }
        all.into_iter().flatten()
    }

    /// From now on it has to be. Returns whether that is new.
    pub(crate) fn ask_all(&self) -> bool {
        let new = self.pair.besides.load(Relaxed) != ALL;

        self.pair.besides.store(ALL, Relaxed);
        new
    }

    /// What `f` says of the path of one that crosses.
    #[inline(always)]
    fn way<R: Default>(&self, f: impl FnOnce(&Path, Rcu<'a>) -> R) -> R {
        self.pair
            .crossing
            .as_ref()
            .map_or(R::default(), |crossing| f(crossing.path(), self.rcu()))
    }

    /// Zero if nobody captures packets on the way of one that crosses.
    pub(crate) fn taps(&self) -> usize {
        // SAFETY: A path is forgotten when its pair is dissolved; we are in a critical section in
        // which it was found.
        self.way(|path, rcu| unsafe { path.taps(rcu) })
    }

    /// Zero if nobody governs what goes there.
    pub(crate) fn governors(&self) -> usize {
        // SAFETY: As above.
        self.way(|path, rcu| unsafe { path.governors(rcu) })
    }

    /// Whether either is not zero, of one that [asks](Self::asks) only the path.
    #[inline(always)]
    pub(crate) fn is_watched(&self) -> bool {
        // SAFETY: As above.
        self.way(|path, rcu| unsafe { path.is_watched(rcu) })
    }

    /// The other end.
    pub(crate) fn peer(&self) -> &'a Sock {
        &self.pair.socks[self.theirs()]
    }

    /// Whether `sock`, whose view this is, still has the peer for a friend, and not
    /// another since.
    ///
    /// Only with its spinlock held, or the socket owned, is the answer true for
    /// longer than the moment.
    #[inline(always)]
    pub(crate) fn still_paired(&self, sock: &Sock) -> bool {
        field(sock).load(Relaxed) == self.tagged
    }

    /// Whether the peer still has us for a friend, and not another since.
    ///
    /// Only with the peer's spinlock held is the answer true for longer than
    /// the moment.
    #[inline(always)]
    pub(crate) fn peer_still_paired(&self) -> bool {
        let other = self.tagged.map_addr(|addr| addr ^ Side::MASK);
        field(self.peer()).load(Relaxed) == other
    }

    /// The namespace in which the `hop` hook sees what we send on the wire arrive, if it is marked
    /// and leaves ours.
    pub(crate) fn seen_to_arrive_in(&self) -> Option<&'a Net> {
        let leaves = !core::ptr::eq(self.namespace(), self.peer_namespace());

        (self.crosses() && leaves).then(|| self.peer().net())
    }

    /// What our end needs as a sender.
    #[inline(always)]
    pub(crate) fn half(&self) -> &'a Half {
        &self.pair.halves[self.ours()]
    }

    /// What the peer needs as a sender.
    #[inline(always)]
    pub(crate) fn peer_half(&self) -> &'a Half {
        &self.pair.halves[self.theirs()]
    }

    /// Whether that device is on the path of one that crosses.
    pub(crate) fn passes(&self, device: Device<'_>) -> bool {
        self.way(|path, _| path.passes(device))
    }

    /// Whether neither end waits for the other.
    #[inline(always)]
    pub(crate) fn nobody_waits(&self) -> bool {
        !(self.half().waits() | self.peer_half().waits())
    }

    /// Whether netfilter has a hook for what goes the way of one that crosses.
    pub(crate) fn is_filtered(&self) -> bool {
        // SAFETY: As above.
        self.way(|path, rcu| unsafe { path.is_filtered(rcu) })
    }

    /// Whether the wire still lets us.
    #[inline(always)]
    pub(crate) fn question(&self) -> Asker<'a> {
        Asker::new(self.half().question(), *self)
    }

    /// What both have done.
    pub(crate) fn tally(&self) -> &'a Tally {
        &self.pair.tally
    }

    /// What we have moved.
    #[inline(always)]
    pub(crate) fn sent(&self) -> &'a Sent {
        self.pair.tally.sent(self.ours())
    }

    /// What the peer has moved.
    pub(crate) fn peer_sent(&self) -> &'a Sent {
        self.pair.tally.sent(self.theirs())
    }

    /// The same pair, as the peer sees it.
    pub(crate) fn turned(&self) -> Self {
        // INVARIANT: The peer's field holds it while it has us for a friend.
        Self {
            pair: self.pair,
            tagged: self.tagged.map_addr(|addr| addr ^ Side::MASK),
        }
    }

    /// Whether ours is the end that formed the pair: true of one of the two.
    pub(crate) fn is_first(&self) -> bool {
        self.ours() == Side::A as usize
    }

    /// Ends the friendship; both go on over the wire.
    ///
    /// Returns whether this call did it.
    pub(crate) fn dissolve(&self) -> bool {
        self.pair.dissolve()
    }
}
