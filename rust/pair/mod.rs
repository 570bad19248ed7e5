// SPDX-License-Identifier: GPL-2.0

//! The pair, and the field `tcp_sock.friend`, which points to the pair.
//!
//! # Lifetime
//!
//! A [`Pair`] holds a reference to both sockets. The `friend` fields of both
//! sockets point to the pair, and each is tagged with the side of its socket.
//! Hooks read the field and use the pair inside one RCU read-side critical
//! section. The pair is freed, and the references are put, one grace period
//! after the pair was dissolved. So a pair keeps a closed socket for one grace
//! period and no longer.
//!
//! # Races
//!
//! Every change of a field is a fully ordered `cmpxchg()`, so no lock is needed
//! and any context may dissolve a pair.
//!
//! - *Two contexts dissolve one pair.* The field of side A is the token: the
//!   context that changes it from the pair to null hands the pair to RCU, and no
//!   other context does.
//! - *A pair is dissolved while it is being formed.* [`Pair::form`] sets the
//!   field of side A, then that of side B, and then reads that of side A again.
//!   A dissolving context clears the field of side A, then that of side B. If
//!   the field of side B is not set until then, `form` finds the field of side A
//!   cleared and clears that of side B. All of `form` runs in one critical
//!   section, so the pair cannot be freed before that.
//! - *A socket closes while it is being paired.* `tcp_set_state(TCP_CLOSE)` sets
//!   the state and, after a full barrier, reads the field. `form` sets the
//!   fields and then reads both states. At least one of the two sees what the
//!   other has written.
//! - *A socket gets rules of its own while it is being paired*, for instance an
//!   upper-layer protocol. The side that sets the rule then calls
//!   `__tcp_friends_detach()`, which reads the field after a full barrier. `form`
//!   sets the fields and then checks for such rules again. At least one of the
//!   two sees what the other has written.
//! - *A socket is reused.* `tcp_disconnect()` goes through `TCP_CLOSE` and so
//!   clears the field, under the socket lock. A hook that still uses the old
//!   pair calls [`Member::peer_still_paired`] with the peer's spinlock held.

use kernel::{
    bindings,
    prelude::*,
    sync::atomic::{
        Atomic,
        Full,
        Relaxed, //
    },
    types::Opaque, //
};

use crate::{
    net::{
        Rcu,
        Sock,
        State, //
    },
    netns::Namespace, //
};

pub(crate) mod crossing;
pub(crate) mod eligible;
pub(crate) mod end;
mod field;
pub(crate) mod form;
mod member;
pub(crate) mod path;
pub(crate) mod rcvbuf;
pub(crate) mod revalidate;
pub(crate) mod room;
pub(crate) mod tally;
pub(crate) mod window;

pub(crate) use end::{
    End,
    Pushing, //
};
pub(crate) use field::FriendField;
pub(crate) use member::Member;

use crossing::Crossing;
use path::Path;
use tally::Fallbacks;

/// One of the two ends of a pair.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The end that formed the pair.
    A = 0,
    /// The end that existed already.
    B = 1,
}

impl Side {
    const MASK: usize = 1;
}

/// Two sockets of one connection.
///
/// # Invariants
///
/// The two sockets are distinct, and each is referenced until the pair is freed.
#[repr(C)]
pub(crate) struct Pair {
    /// The ends, indexed by [`Side`].
    ends: [End; 2],
    /// What has to be checked before each move: [`LOOPBACK`], [`PATH`] or [`ALL`].
    checks: Atomic<i8>,
    /// How often either end took the wire.
    fallbacks: Fallbacks,
    /// The path between the ends, unless it is the loopback device.
    crossing: Option<KBox<Crossing>>,
    rcu: Opaque<bindings::callback_head>,
}

/// Value of `Pair::checks`: nothing besides the loopback device.
const LOOPBACK: i8 = 0;
/// Value of `Pair::checks`: the path, and not the loopback device.
const PATH: i8 = 1;
/// Value of `Pair::checks`: everything, because a namespace is in strict mode, or has tracked the
/// connection and has seen no mark.
const ALL: i8 = 2;

/// What has to be checked before each move of a pair.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checks {
    /// The loopback device only.
    Loopback,
    /// The path only.
    Path,
    /// Everything.
    All,
}

// A pair takes no more memory than this, besides the data that is queued.
const _: () = assert!(size_of::<Pair>() <= 512);

// The lowest bit of the pointer is the side, and the next bit shows a proposal in its place.
const _: () = assert!(align_of::<Pair>() > Side::MASK | FriendField::PROPOSAL);

impl Pair {
    /// Returns what the `friend` field of the socket on `side` holds.
    fn tagged(&self, side: Side) -> *mut bindings::tcp_friend {
        // CAST: The C side never dereferences the pointer.
        core::ptr::from_ref(self)
            .cast::<bindings::tcp_friend>()
            .cast_mut()
            .map_addr(|addr| addr | side as usize)
    }

    fn set(&self, side: Side) -> bool {
        self.ends[side as usize]
            .sock()
            .friend_field()
            .cmpxchg(core::ptr::null_mut(), self.tagged(side), Full)
            .is_ok()
    }

    fn clear(&self, side: Side) -> bool {
        self.ends[side as usize]
            .sock()
            .friend_field()
            .cmpxchg(self.tagged(side), core::ptr::null_mut(), Full)
            .is_ok()
    }

    /// Makes friends of `a`, which the caller has locked, and `b`. If `all` is true, everything
    /// has to be checked before each move ([`Checks::All`]).
    ///
    /// Returns whether `a` and `b` became friends. They do not if they are one socket, if either
    /// has a friend or a proposal already, is closed or has rules of its own, if a device of `path`
    /// has gone or got a master, or if there is no memory. If another context has dissolved the
    /// new pair meanwhile, this returns true, because the sockets had become friends.
    pub(crate) fn form(
        a: &Sock,
        b: &Sock,
        namespaces: [&Namespace; 2],
        path: Option<Path>,
        all: bool,
        rcu: Rcu<'_>,
    ) -> bool {
        if a.is_same(b) {
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
            // INVARIANT: `a` and `b` are distinct, as checked at the top, and `End::new()` takes a
            // reference to each.
            Self {
                ends: [
                    End::new(a, namespaces[0], rcu),
                    End::new(b, namespaces[1], rcu),
                ],
                checks: Atomic::new(match (all, &crossing) {
                    (true, _) => ALL,
                    (false, Some(_)) => PATH,
                    (false, None) => LOOPBACK,
                }),
                fallbacks: Fallbacks::new(),
                crossing,
                rcu: Opaque::uninit(),
            },
            GFP_ATOMIC | __GFP_NOWARN,
        ) else {
            return false;
        };
        let raw = KBox::into_raw(pair);
        // SAFETY: The pair was just allocated. Once a socket points to the pair, it is freed a
        // grace period after it is dissolved, that is after the critical section of `rcu`.
        let this = unsafe { &*raw };

        let mut both = false;
        let mut publish = || {
            let first = this.set(Side::A);

            both = first && this.set(Side::B);
            first
        };
        let published = match &this.crossing {
            // SAFETY: The pair at `raw` owns `crossing` and was just made. `dissolve` calls
            // `unlink` before it hands the pair to RCU.
            Some(crossing) => unsafe { crossing.link(raw, &mut publish) },
            None => publish(),
        };
        if !published {
            // SAFETY: `raw` came from `KBox::into_raw()`. No field points to the pair and the pair
            // is in no list, so nothing else refers to it.
            drop(unsafe { KBox::from_raw(raw) });
            return false;
        }
        if !both {
            return !this.dissolve();
        }
        if this.ends[0].sock().friend_field().load(Relaxed) != this.tagged(Side::A) {
            // Another context has dissolved the pair meanwhile, perhaps before the field of side
            // B was set, so that this field was not cleared.
            this.clear(Side::B);
            return true;
        }
        if this
            .ends
            .iter()
            .map(End::sock)
            .any(|s| s.state() == State::Close || s.has_conflicting_feature())
        {
            return !this.dissolve();
        }
        // SAFETY: `tcp_friends_paired()` has no requirements and may be called in any context.
        unsafe { bindings::tcp_friends_paired() };
        true
    }

    fn unlink(&self) {
        if let Some(crossing) = &self.crossing {
            crossing.unlink();
        }
    }

    /// Dissolves the pair. Both sockets continue on the wire.
    ///
    /// Returns whether this call, and not an earlier one, dissolved the pair.
    fn dissolve(&self) -> bool {
        if !self.clear(Side::A) {
            return false;
        }
        self.clear(Side::B);
        self.unlink();
        // SAFETY: This call has cleared the field of side A, which only one context does for a
        // pair, so the pair is handed to RCU once. The pair came from `KBox::into_raw()` in `form`,
        // and only `free` frees it now.
        unsafe { bindings::call_rcu(self.rcu.get(), Some(Self::free)) };
        true
    }

    /// Frees a pair and puts the references to its sockets.
    ///
    /// # Safety
    ///
    /// `head` is the field `rcu` of a pair that nothing refers to any more.
    unsafe extern "C" fn free(head: *mut bindings::callback_head) {
        // SAFETY: By the function's safety requirements, `head` is the field `rcu` of a pair;
        // `Opaque` is transparent.
        let pair = unsafe { kernel::container_of!(Opaque::cast_from(head), Pair, rcu) };
        // SAFETY: By the function's safety requirements nothing else refers to the pair, which came
        // from `KBox::into_raw()` in `form`. Putting the sockets may free them, which softirq may
        // do.
        drop(unsafe { KBox::from_raw(pair.cast_mut()) });
    }
}
