// SPDX-License-Identifier: GPL-2.0

//! Offers: sockets that connect, and have marked their SYN.
//!
//! An offer stands in a table for as long as its socket may yet find a friend by it.
//! The segments carry only a number, so what they say of a socket that has gone
//! meanwhile finds nothing; and who removes an offer removes it from the table and
//! nowhere else.
//!
//! `tcp_sock.friend` of a socket with an offer holds no pointer, but the number by which
//! the offer is found ([`Slot`]). So the `gone` hook is called for it, and an offer is
//! never older than its socket.
//!
//! # Locks
//!
//! Each bucket has a spinlock, taken with bottom halves off. Inside it, nothing but the
//! ways of pairs that cross ([`crossings`](super::crossings)) are locked. No lock of a
//! socket is needed or taken: the field is changed by `cmpxchg()`, as by everybody.

use core::{
    ops::Deref,
    pin::Pin,
    ptr::{
        null_mut,
        NonNull, //
    },
};

use kernel::{
    bindings, new_spinlock,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Acquire,
            Atomic,
            Full,
            Release, //
        },
        rcu, SpinLock,
    },
};

use super::{
    crossings,
    device::{
        Device,
        Path, //
    },
    friend::Slot,
    mark::{
        begin_tokens,
        End,
        Mark, //
    },
    namespace::Net,
    sock::{
        Rcu,
        Sock, //
    },
};

const BUCKETS: usize = 256;

/// A socket that connects, and what its segments have met.
struct Offer {
    mark: Mark,
    /// Not counted: it lives for as long as the offer.
    sock: NonNull<Sock>,
    /// Where its SYN has arrived, if that end wants a friend.
    end: Option<End>,
    /// The answer has come back, still marked: nobody on its way has a say that is not noted.
    answered: bool,
    path: Path,
    next: Option<KBox<Offer>>,
}

// SAFETY: The socket is used with the bucket's lock held only, by any thread.
unsafe impl Send for Offer {}

/// So many offers stand in one bucket at most: their numbers can be chosen
/// (`TCP_QUEUE_SEQ`), and each is compared with the lock held.
const LONGEST: usize = 64;

#[derive(Default)]
struct Chain {
    first: Option<KBox<Offer>>,
    len: usize,
}

impl Chain {
    fn find(&mut self, f: impl Fn(&Offer) -> bool) -> Option<&mut Offer> {
        let mut at = self.first.as_deref_mut();
        while let Some(offer) = at {
            if f(offer) {
                return Some(offer);
            }
            at = offer.next.as_deref_mut();
        }
        None
    }

    fn take(&mut self, f: impl Fn(&Offer) -> bool) -> Option<KBox<Offer>> {
        let mut link = &mut self.first;
        while link.as_deref().is_some_and(|offer| !f(offer)) {
            link = &mut link.as_mut()?.next;
        }
        let mut taken = link.take()?;
        *link = taken.next.take();
        self.len = self.len.wrapping_sub(1);
        Some(taken)
    }

    fn put(&mut self, mut offer: KBox<Offer>) {
        offer.next = self.first.take();
        self.first = Some(offer);
        self.len = self.len.wrapping_add(1);
    }
}

type Table = [SpinLock<Chain>; BUCKETS];

/// Null without a [`Registration`].
static TABLE: Atomic<*mut Table> = Atomic::new(null_mut());

/// Bottom halves are off for as long as it lives.
pub(super) struct BhOff;

impl BhOff {
    /// Switches them off.
    pub(super) fn new() -> Self {
        // SAFETY: Given back in `drop`; interrupts are on wherever this is used.
        unsafe { bindings::local_bh_disable() };
        Self
    }
}

impl Drop for BhOff {
    fn drop(&mut self) {
        // SAFETY: As above.
        unsafe { bindings::local_bh_enable() };
    }
}

/// Calls `f` with the bucket of that initial sequence number locked.
fn with<R>(isn: u32, f: impl FnOnce(&mut Chain) -> R) -> Option<R> {
    let table = NonNull::new(TABLE.load(Acquire))?;
    // SAFETY: It is freed once no hook, no sysctl and no notifier runs any more, which are all that
    // calls this.
    let bucket = unsafe { table.as_ref() }.get(hash(isn))?;
    // Locals go in the other order, so that the lock is given back with bottom halves off; a
    // temporary of the last expression would outlive both.
    let _off = BhOff::new();
    let mut chain = bucket.lock();

    Some(f(&mut chain))
}

/// They are chosen at random (RFC 6528).
fn hash(isn: u32) -> usize {
    (isn ^ isn >> 16) as usize % BUCKETS
}

/// Makes an offer for `sock`, which the caller owns, and returns the mark of its SYN.
/// Not if it has one, or a friend, or there are too many or no memory; that is charged to the cgroup of
/// the calling task.
pub(crate) fn make(sock: &Sock, isn: u32) -> Option<Mark> {
    let mark = Mark::of_syn(isn);
    let offer = KBox::new(
        Offer {
            mark,
            sock: NonNull::from(sock),
            end: None,
            answered: false,
            path: Path::new(),
            next: None,
        },
        GFP_ATOMIC | __GFP_NOWARN | (GFP_KERNEL_ACCOUNT & !GFP_KERNEL),
    )
    .ok()?;

    with(isn, |chain| {
        (chain.len < LONGEST && Slot::of(sock).offer(isn)).then(|| {
            chain.put(offer);
            mark
        })
    })?
}

/// Takes back the offer of `sock`, if it has one. Any context but an interrupt.
pub(crate) fn withdraw(sock: &Sock) {
    let Some(isn) = Slot::of(sock).offered() else {
        return;
    };
    with(isn, |chain| {
        if chain.take(|offer| offer.sock == sock.into()).is_some() {
            Slot::of(sock).take_back(isn);
        }
    });
}

/// Takes back all. Any context but an interrupt.
pub(crate) fn withdraw_all() {
    for isn in 0..BUCKETS as u32 {
        with(isn, |chain| {
            while let Some(offer) = chain.take(|_| true) {
                // SAFETY: An offer is never older than its socket, which goes through `withdraw`,
                // and so the lock, before it is freed.
                let sock = unsafe { offer.sock.as_ref() };

                Slot::of(sock).take_back(offer.mark.isn);
            }
        });
    }
}

/// A segment with that mark passes a device.
pub(crate) fn passes(mark: Mark, device: Device<'_>) {
    with(mark.isn, |chain| {
        if let Some(offer) = chain.find(|offer| offer.mark == mark) {
            offer.path.add(device);
        }
    });
}

/// The SYN with that mark has arrived at that end, in `net`. Returns whether it was the mark
/// of an offer that there is, and that has not arrived elsewhere before: a copy of the SYN
/// may reach somebody else who listens at the same address.
pub(crate) fn arrived(mark: Mark, end: End, net: &Net) -> bool {
    let _guard = rcu::read_lock();
    // SAFETY: The guard lives until the end of the function.
    let rcu = unsafe { Rcu::new() };
    let Some(device) = net.device(mark.came_by, rcu) else {
        return false;
    };
    with(mark.isn, |chain| {
        let offer = chain.find(|offer| offer.mark == mark)?;
        if offer.end.is_some_and(|known| known != end) {
            return None;
        }
        offer.end = Some(end);
        offer.path.received_by(device);
        Some(())
    })
    .flatten()
    .is_some()
}

/// Whether `sock` has an offer, which has arrived, and that segment answers it.
pub(crate) fn is_answered(sock: &Sock, by: Mark, rcu: Rcu<'_>) -> bool {
    let Some(device) = sock.net().device(by.came_by, rcu) else {
        return false;
    };
    with(by.isn, |chain| {
        let offer = chain.find(|offer| offer.mark == by)?;
        offer.path.received_by(device);
        offer.answered = offer.sock == sock.into() && offer.end.is_some();
        Some(offer.answered)
    })
    .flatten()
    .unwrap_or(false)
}

/// Whether `sock` has an offer, and the other end has acknowledged more than its SYN.
pub(crate) fn is_late(sock: &Sock) -> bool {
    Slot::of(sock)
        .offered()
        .is_some_and(|isn| sock.peek_snd_una().wrapping_sub(isn) > 1)
}

/// Takes the offer that has arrived at that end and was answered, and calls `f` for its socket and
/// its path, with the bucket locked.
pub(crate) fn accept<R>(
    end: End,
    isn: u32,
    _rcu: Rcu<'_>,
    f: impl FnOnce(ARef<Sock>, Path) -> R,
) -> Option<R> {
    with(isn, |chain| {
        let offer = chain
            .take(|offer| offer.mark.isn == isn && offer.end == Some(end) && offer.answered)?;
        // SAFETY: As in `withdraw_all`.
        let sock = unsafe { offer.sock.as_ref() };
        let counted = sock.get_unless_gone();

        Slot::of(sock).take_back(isn);
        Some(f(counted?, KBox::into_inner(offer).path))
    })?
}

/// Offers can be made for as long as this lives.
pub(crate) struct Registration(Pin<KBox<Table>>);

impl Registration {
    /// Lets offers be made. May sleep.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: The module is being loaded, which is once; no hook, no sysctl and no notifier is
        // there yet.
        unsafe { crossings::init() };
        let table = KBox::pin_init(
            pin_init::pin_init_array_from_fn(|_| new_spinlock!(Chain::default(), "tcp_friends")),
            GFP_KERNEL,
        )?;

        begin_tokens();
        TABLE.store(core::ptr::from_ref(table.deref()).cast_mut(), Release);
        Ok(Self(table))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // All hooks are gone, and what they left was taken back before.
        TABLE.xchg(null_mut(), Full);
        let _ = &self.0;
    }
}
