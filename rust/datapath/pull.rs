// SPDX-License-Identifier: GPL-2.0

//! Lets a reader fetch what its friend could not move: the hook in `__tcp_cleanup_rbuf()`, and the
//! hook in `tcp_release_cb()` for an owner that releases a socket which the friend found owned.
//!
//! # Locks
//!
//! The caller has exclusive access to the reader. This file takes the sender's spinlock by the
//! rules by which [`xmit`](crate::datapath::xmit) takes the peer's: an owner waits for it, and a
//! caller that holds a spinlock only tries it. If a task owns the sender, no field of the sender
//! may be touched: the sender's flag is set, and its owner transmits when it releases the sender.

use crate::{
    datapath::transfer::{
        pull,
        Moved,
        Stop, //
    },
    net::{
        smp_mb_after_atomic,
        Caller,
        Held,
        Rcu,
        Read,
        SlockGuard,
        Sock,
        Spinlocked,
        Tcp, //
    },
    pair::{
        eligible,
        room,
        window,
        Member, //
    },
    stats::{
        Counter,
        Fallback, //
    },
};

/// The number of times that the spinlock of a friend is tried, which takes some microseconds.
const TRIES: u32 = 256;

/// Fetches what the friend of `sock` has waiting, after data was read from `sock` (hook).
#[inline]
pub(crate) fn read(sock: &Sock, caller: Caller<'_>, rcu: Rcu<'_>) -> Read {
    let Some(member) = Member::of(sock, rcu) else {
        return Read::Tcp;
    };
    let mut p = caller.tcp();
    // The read data was uncharged atomically. The barrier orders that before the check of the
    // waiting flag; see the races in `xmit.rs`.
    smp_mb_after_atomic();
    if member.peer_end().room().is_awaited() {
        room::has_read(&mut p, &member);
    }
    if !member.peer_end().is_waiting() {
        // A sender that does not wait checks the receive buffer itself. Only a zero window has to
        // be opened here, since the wire would have reported that to the sender (invariant 3).
        if window::offered(&p) == 0 {
            open(&mut p, caller, &member);
        }
        return Read::Done;
    }
    if !eligible::has_room(sock) {
        // More data is left to read, so this hook runs again. A sender that took the wire needs
        // TCP's window updates meanwhile; a sender that found the receiver full has shut the
        // window.
        return if p.rcv_wnd() == 0 {
            Read::Done
        } else {
            Read::Tcp
        };
    }
    let fetched = match caller {
        Caller::Owner(mut own) => pull_locked(&mut p, own.lock_peer(member.peer()), &member),
        Caller::Spinlocked(mut own) => match own.try_lock_peer(member.peer()) {
            Some(guard) => pull_locked(&mut p, guard, &member),
            None => return Read::Tcp,
        },
    };
    match fetched {
        // A sender on the wire learns the window from ACKs.
        Some(Stop::Fallback(_)) => window_update(&mut p),
        Some(_) => Read::Done,
        None => Read::Tcp,
    }
}

/// Opens the window of the reader `p` on both sides, unless a task owns the sender: moved data has
/// used up the window. Takes the sender's spinlock in the way that `caller` permits.
#[cold]
#[inline(never)]
fn open(p: &mut Tcp<'_>, caller: Caller<'_>, member: &Member<'_>) {
    match caller {
        Caller::Owner(mut own) => renew_locked(p, own.lock_peer(member.peer()), member),
        Caller::Spinlocked(mut own) => {
            if let Some(guard) = own.try_lock_peer(member.peer()) {
                renew_locked(p, guard, member);
            }
        }
    }
}

/// Opens the window of the reader `p` on both sides with the sender's spinlock held, and releases
/// that spinlock on return. Does nothing if a task owns the sender. Relies on invariant 2, which
/// [`window::is_known`] checks.
fn renew_locked(p: &mut Tcp<'_>, mut guard: SlockGuard<'_>, member: &Member<'_>) {
    if let Held::Free(spinlocked) = guard.held() {
        let mut s = spinlocked.tcp();

        if member.peer_still_paired() && window::is_known(&s, p) {
            window::renew(&mut s, p);
        }
    }
}

/// Moves what waits between `sock` and its friend when the owner of `sock` releases it, after the
/// friend has found `sock` owned (hook). The owner holds the spinlock of `sock`.
///
/// Tries the friend's spinlock up to [`TRIES`] times. Both owners often release their sockets at
/// the same moment, since each has found the other's socket owned. Then each owner holds the
/// spinlock that the other one tries, and the owner of the second end leaves the work to the owner
/// of the first end.
///
/// Relies on no invariant, and keeps all of them.
pub(crate) fn released(sock: &Sock, mut locked: Spinlocked<'_>, rcu: Rcu<'_>) -> Read {
    let Some(member) = Member::of(sock, rcu) else {
        return Read::Tcp;
    };
    let mut p = locked.tcp();
    // Returns whether the owner of the first end does the work of both owners.
    let is_left_to_peer = || !member.is_side_a() && member.peer_end().is_releasing();

    member.end().set_releasing(true);
    let guard = locked.keep_trying_peer(member.peer(), TRIES, is_left_to_peer);
    member.end().set_releasing(false);
    let Some(guard) = guard else {
        if is_left_to_peer() {
            return Read::Done;
        }
        member.namespace().count(Counter::Nudged, 1);
        return Read::Ack;
    };
    match pull_locked(&mut p, guard, &member) {
        None => Read::Tcp,
        Some(_) => Read::Done,
    }
}

/// Moves the sender's bytes with the sender's spinlock held, and releases that spinlock on return.
/// The caller has exclusive access to the reader `p`, and `member` is the view of `p`. Wakes the
/// readers of `p`, since other tasks than the one that reads now may wait for data. Data that waits
/// in the write queue of `p` is moved to the sender, since the caller has exclusive access to both
/// sockets.
///
/// Returns why no more was moved, or `None` if the sockets are no longer friends.
///
/// Relies on invariants 1 and 2, which [`eligible::sender`] and [`eligible::receiver`] establish.
/// Keeps invariant 3.
fn pull_locked(p: &mut Tcp<'_>, mut guard: SlockGuard<'_>, member: &Member<'_>) -> Option<Stop> {
    if !member.peer_still_paired() {
        return None;
    }
    let moved = match guard.held() {
        Held::Busy(mut busy) => {
            busy.defer_to_release();
            Moved::none(Stop::OwnedByUser)
        }
        Held::Free(spinlocked) => {
            let mut s = spinlocked.tcp();
            let moved = if s.send_head().is_some() {
                pull(&mut s, p, &member.peer_view())
            } else if s.packets_out() != 0 {
                // The wire has taken the data.
                Moved::none(Stop::Fallback(Fallback::InFlight))
            } else {
                member.peer_end().set_waiting(false);
                Moved::none(Stop::Empty)
            };
            if member.end().is_waiting()
                && p.send_head().is_some()
                && pull(p, &mut s, member).wakes()
            {
                s.data_ready(member.rcu());
            }
            moved
        }
    };
    drop(guard);
    if moved.wakes() {
        p.data_ready(member.rcu());
    }
    Some(moved.stop)
}

/// Opens a window that TCP would not open again by itself. Returns [`Read::Ack`] if the window was
/// opened, since a sender on the wire learns of room from ACKs.
fn window_update(p: &mut Tcp<'_>) -> Read {
    if window::reopen(p) {
        Read::Ack
    } else {
        Read::Tcp
    }
}
