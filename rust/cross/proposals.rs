// SPDX-License-Identifier: GPL-2.0

//! The table of proposals. A proposal is a socket that connects and has marked its SYN.
//!
//! A proposal is in the table for as long as its socket may find a friend by the proposal. Marked
//! segments carry only a number and no pointer: the number of a socket that has gone meanwhile
//! finds nothing, and a proposal has to be removed from the table only.
//!
//! The field `tcp_sock.friend` of a socket with a proposal holds no pointer, but the number by
//! which the proposal is found ([`FriendField`]). Since the field is not null, the `detach` hook is
//! called for the socket, and a proposal never outlives its socket.
//!
//! # Locks
//!
//! Each bucket has a spinlock, which is taken with bottom halves off. Inside a bucket's spinlock,
//! only the spinlock of the paths of crossing pairs ([`crossing`]) is taken. The lock of a
//! socket is neither needed nor taken, since all code changes the field by `cmpxchg()`.

use core::{
    ops::Deref,
    pin::Pin,
    ptr::{
        null_mut,
        NonNull, //
    },
};

use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Acquire,
            Atomic,
            Full,
            Release, //
        },
        rcu,
        SpinLock, //
    },
};

use crate::{
    net::{
        begin_tokens,
        enable_mark_hooks,
        BhOff,
        Device,
        Endpoint,
        Mark,
        Net,
        Rcu,
        Sock, //
    },
    pair::{
        crossing,
        path::Path,
        FriendField, //
    },
};

const BUCKETS: usize = 256;

/// A socket that connects and has marked its SYN, and what its marked segments have met.
struct Proposal {
    mark: Mark,
    /// The socket, without a reference: the socket lives for as long as the proposal.
    sock: NonNull<Sock>,
    /// The end where the SYN has arrived, if that end wants a friend.
    end: Option<Endpoint>,
    /// Whether the SYN-ACK has come back with its mark. The mark shows that everybody who has a say
    /// on the way of the SYN-ACK is noted.
    answered: bool,
    path: Path,
    next: Option<KBox<Proposal>>,
}

// SAFETY: Any thread may use the socket, and does so only with the bucket's spinlock held.
unsafe impl Send for Proposal {}

/// The largest number of proposals in one bucket. The bound is needed because user space can choose
/// initial sequence numbers (`TCP_QUEUE_SEQ`), and each proposal of a bucket is compared with the
/// spinlock held.
const LONGEST: usize = 64;

#[derive(Default)]
struct Chain {
    first: Option<KBox<Proposal>>,
    len: usize,
}

impl Chain {
    fn find(&mut self, f: impl Fn(&Proposal) -> bool) -> Option<&mut Proposal> {
        let mut at = self.first.as_deref_mut();
        while let Some(proposal) = at {
            if f(proposal) {
                return Some(proposal);
            }
            at = proposal.next.as_deref_mut();
        }
        None
    }

    fn take(&mut self, f: impl Fn(&Proposal) -> bool) -> Option<KBox<Proposal>> {
        let mut link = &mut self.first;
        while link.as_deref().is_some_and(|proposal| !f(proposal)) {
            link = &mut link.as_mut()?.next;
        }
        let mut taken = link.take()?;
        *link = taken.next.take();
        self.len = self.len.wrapping_sub(1);
        Some(taken)
    }

    fn put(&mut self, mut proposal: KBox<Proposal>) {
        proposal.next = self.first.take();
        self.first = Some(proposal);
        self.len = self.len.wrapping_add(1);
    }
}

type Table = [SpinLock<Chain>; BUCKETS];

/// The table; null while there is no [`Registration`].
static TABLE: Atomic<*mut Table> = Atomic::new(null_mut());

/// Calls `f` with the bucket of the initial sequence number `isn` locked. Returns `None` if there
/// is no table.
fn with<R>(isn: u32, f: impl FnOnce(&mut Chain) -> R) -> Option<R> {
    let table = NonNull::new(TABLE.load(Acquire))?;
    // SAFETY: The table is freed when no hook, no sysctl handler and no notifier runs any more.
    // Only these call this function, and the module itself before it drops the `Registration`.
    let bucket = unsafe { table.as_ref() }.get(hash(isn))?;
    // Locals are dropped in reverse order, so the spinlock is released while bottom halves are
    // still off. The guard must be a local: a temporary of the last expression would outlive
    // `_off`.
    let _off = BhOff::new();
    let mut chain = bucket.lock();

    Some(f(&mut chain))
}

/// Returns the index of the bucket of `isn`. Initial sequence numbers are chosen at random
/// (RFC 6528).
fn hash(isn: u32) -> usize {
    (isn ^ isn >> 16) as usize % BUCKETS
}

/// Makes a proposal for `sock`, which the caller owns, and returns the mark for its SYN.
///
/// Returns `None` if `sock` has a proposal or a friend already, if its bucket is full, or if there
/// is no memory. The memory is charged to the cgroup of the calling task.
pub(crate) fn propose(sock: &Sock, isn: u32) -> Option<Mark> {
    let mark = Mark::of_syn(isn);
    let proposal = KBox::new(
        Proposal {
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
        (chain.len < LONGEST && FriendField::of(sock).propose(isn)).then(|| {
            chain.put(proposal);
            mark
        })
    })?
}

/// Withdraws the proposal of `sock`, if `sock` has one. May be called in any context but hard
/// interrupt.
pub(crate) fn withdraw(sock: &Sock) {
    let Some(isn) = FriendField::of(sock).proposal() else {
        return;
    };
    with(isn, |chain| {
        if chain
            .take(|proposal| proposal.sock == sock.into())
            .is_some()
        {
            FriendField::of(sock).take_back(isn);
        }
    });
}

/// Withdraws all proposals. May be called in any context but hard interrupt.
pub(crate) fn withdraw_all() {
    for isn in 0..BUCKETS as u32 {
        with(isn, |chain| {
            while let Some(proposal) = chain.take(|_| true) {
                // SAFETY: Before a socket with a proposal is freed, the socket goes through
                // `withdraw`, which takes this bucket's spinlock. The spinlock is held, and the
                // field of the socket shows the proposal until `take_back` below, so the socket is
                // valid until then.
                let sock = unsafe { proposal.sock.as_ref() };

                FriendField::of(sock).take_back(proposal.mark.isn);
            }
        });
    }
}

/// Adds `device`, which a segment with `mark` passes, to the path of the proposal.
pub(crate) fn add_device(mark: Mark, device: Device<'_>) {
    with(mark.isn, |chain| {
        if let Some(proposal) = chain.find(|proposal| proposal.mark == mark) {
            proposal.path.add(device);
        }
    });
}

/// Notes that the SYN with `mark` has arrived at `end`, in `net`. Returns whether `mark` is that of
/// a proposal in the table whose SYN has not arrived at another end before: a copy of the SYN may
/// reach another listener with an equal address.
pub(crate) fn note_arrival(mark: Mark, end: Endpoint, net: &Net) -> bool {
    let _guard = rcu::read_lock();
    // SAFETY: `_guard` keeps the read-side critical section open until the end of the function.
    let rcu = unsafe { Rcu::new() };
    let Some(device) = net.device(mark.came_by, rcu) else {
        return false;
    };
    with(mark.isn, |chain| {
        let proposal = chain.find(|proposal| proposal.mark == mark)?;
        if proposal.end.is_some_and(|known| known != end) {
            return None;
        }
        proposal.end = Some(end);
        proposal.path.note_receiving_device(device);
        Some(())
    })
    .flatten()
    .is_some()
}

/// Notes and returns whether the segment with the mark `by` answers the proposal of `sock`, whose
/// SYN has arrived at another end.
pub(crate) fn note_answer(sock: &Sock, by: Mark, rcu: Rcu<'_>) -> bool {
    let Some(device) = sock.net().device(by.came_by, rcu) else {
        return false;
    };
    with(by.isn, |chain| {
        let proposal = chain.find(|proposal| proposal.mark == by)?;
        proposal.path.note_receiving_device(device);
        proposal.answered = proposal.sock == sock.into() && proposal.end.is_some();
        Some(proposal.answered)
    })
    .flatten()
    .unwrap_or(false)
}

/// Returns whether `sock` has marked its SYN and has no friend yet.
pub(crate) fn is_made_by(sock: &Sock) -> bool {
    FriendField::of(sock).proposal().is_some()
}

/// Returns whether `sock` has a proposal and the other end has acknowledged more than the SYN.
pub(crate) fn is_late(sock: &Sock) -> bool {
    FriendField::of(sock)
        .proposal()
        .is_some_and(|isn| sock.peek_snd_una().wrapping_sub(isn) > 1)
}

/// Takes a proposal out of the table, and calls `f` with its socket and its path, with the bucket
/// locked. The SYN of the proposal has the number `isn`, has arrived at `end`, and was answered.
pub(crate) fn accept<R>(
    end: Endpoint,
    isn: u32,
    _rcu: Rcu<'_>,
    f: impl FnOnce(ARef<Sock>, Path) -> R,
) -> Option<R> {
    with(isn, |chain| {
        let proposal = chain.take(|proposal| {
            proposal.mark.isn == isn && proposal.end == Some(end) && proposal.answered
        })?;
        // SAFETY: Before a socket with a proposal is freed, the socket goes through `withdraw`,
        // which takes this bucket's spinlock. The spinlock is held, and the field of the socket
        // shows the proposal until `take_back` below, so the socket is valid until then.
        let sock = unsafe { proposal.sock.as_ref() };
        let counted = sock.get_unless_gone();

        FriendField::of(sock).take_back(isn);
        Some(f(counted?, KBox::into_inner(proposal).path))
    })?
}

/// The owner of the table: proposals can be made for as long as this value lives.
pub(crate) struct Registration(Pin<KBox<Table>>);

impl Registration {
    /// Allocates the table, so that proposals can be made. May sleep.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: This function runs once, while the module is loaded. No hook, no sysctl and no
        // notifier is registered yet, so no other function of `crossing` has been called.
        unsafe { crossing::init() };
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
        // No hook is registered any more, and the proposals that hooks had made were withdrawn
        // before. `net.ipv4.tcp_friends_cross` is gone, too. It may have been written before the
        // module failed to load.
        enable_mark_hooks(false);
        TABLE.xchg(null_mut(), Full);
        let _ = &self.0;
    }
}
