// SPDX-License-Identifier: GPL-2.0

//! The reader fetches what its friend could not move: the hook in `__tcp_cleanup_rbuf()`, and
//! that in `tcp_release_cb()` for whoever lets go of a socket that was found owned.
//!
//! # Locks
//!
//! The caller has the reader. The sender's spinlock is taken here, as in
//! [`transmit`](crate::transmit) the peer's. If a task owns the sender, nothing
//! of it may be touched: its flag is set, and it transmits when it lets go.

use crate::{
    abstractions::{
        smp_mb_after_atomic,
        Caller,
        Held,
        Member,
        Rcu,
        Read,
        SlockGuard,
        Sock,
        Spinlocked,
        Tcp, //
    },
    fence,
    moving::{
        fetch,
        Moved,
        Stop, //
    },
    stats::{
        Counter,
        Wire, //
    },
    window,
};

/// How often the spinlock of a friend is tried: for some microseconds.
const TRIES: u32 = 256;

/// Data was read from `sock` (hook).
#[inline]
pub(crate) fn read(sock: &Sock, caller: Caller<'_>, rcu: Rcu<'_>) -> Read {
    let Some(member) = Member::of(sock, rcu) else {
        return Read::Tcp;
    };
    let mut p = caller.tcp();
    // What was read was taken off the account atomically; see the races of `transmit`.
    smp_mb_after_atomic();
    if !member.peer_half().waits() {
        // The sender looks at our memory by itself. Only a window that is shut is opened, which it
        // would know of otherwise (invariant 3).
        if window::offered(&p) == 0 {
            open(&mut p, caller, &member);
        }
        return Read::Done;
    }
    if !fence::has_room(sock) {
        // There is more to read, and we shall be asked again. A sender that is on the wire needs
        // what TCP tells it meanwhile; one that found us full has shut the window.
        return if p.rcv_wnd() == 0 {
            Read::Done
        } else {
            Read::Tcp
        };
    }
    let fetched = match caller {
        Caller::Task(mut own) => from_peer(&mut p, own.lock_peer(member.peer()), &member),
        Caller::Softirq(mut own) => match own.try_lock_peer(member.peer()) {
            Some(guard) => from_peer(&mut p, guard, &member),
            None => return Read::Tcp,
        },
    };
    match fetched {
        // On the wire ACKs tell it of the window.
        Some(Stop::Wire(_)) => tell(&mut p),
        Some(_) => Read::Done,
        None => Read::Tcp,
    }
}

/// Opens the window of the reader `p` on both sides, if the sender is not owned: what was moved
/// has used it up. The sender's spinlock is taken as the caller may.
#[cold]
#[inline(never)]
fn open(p: &mut Tcp<'_>, caller: Caller<'_>, member: &Member<'_>) {
    match caller {
        Caller::Task(mut own) => renew(p, own.lock_peer(member.peer()), member),
        Caller::Softirq(mut own) => {
            if let Some(guard) = own.try_lock_peer(member.peer()) {
                renew(p, guard, member);
            }
        }
    }
}

/// With the sender's spinlock held, which is given back on return. Relies on invariant 2, which is
/// looked for.
fn renew(p: &mut Tcp<'_>, mut guard: SlockGuard<'_>, member: &Member<'_>) {
    if let Held::Free(spinlocked) = guard.held() {
        let mut s = spinlocked.tcp();

        if member.peer_still_paired() && window::is_known(&s, p) {
            window::renew(&mut s, p);
        }
    }
}

/// `sock`, whose friend has found it owned, is let go by its owner, who has its spinlock (hook).
///
/// Tries the friend's spinlock for a while. Both owners often let go at the same moment, since each
/// has found the other's socket owned: then each has what the other tries, and the second end
/// leaves the work to the first.
///
/// Relies on no invariant, and keeps all.
pub(crate) fn released(sock: &Sock, mut locked: Spinlocked<'_>, rcu: Rcu<'_>) -> Read {
    let Some(member) = Member::of(sock, rcu) else {
        return Read::Tcp;
    };
    let mut p = locked.tcp();
    // Whether the first end's owner is to do the work of both.
    let is_left_to_peer = || !member.is_first() && member.peer_half().is_releasing();

    member.half().set_releasing(true);
    let guard = locked.keep_trying_peer(member.peer(), TRIES, is_left_to_peer);
    member.half().set_releasing(false);
    let Some(guard) = guard else {
        if is_left_to_peer() {
            return Read::Done;
        }
        member.namespace().count(Counter::Nudged, 1);
        return Read::Ack;
    };
    match from_peer(&mut p, guard, &member) {
        None => Read::Tcp,
        Some(_) => Read::Done,
    }
}

/// Lets the sender's bytes go where they can, with its spinlock held, which is given back on
/// return; the caller has the reader `p`, whose view `member` is. Others may wait for this
/// socket besides the task that reads it now, so they are woken. And since whoever has both moves
/// both ways, what the reader has left itself goes the other way.
///
/// Returns why no more was moved; nothing if they are friends no more.
///
/// Relies on invariants 1 and 2, which the fences establish; keeps 3.
fn from_peer(p: &mut Tcp<'_>, mut guard: SlockGuard<'_>, member: &Member<'_>) -> Option<Stop> {
    if !member.peer_still_paired() {
        return None;
    }
    let moved = match guard.held() {
        Held::Busy(mut busy) => {
            busy.look_when_released();
            Moved::none(Stop::Busy)
        }
        Held::Free(spinlocked) => {
            let mut s = spinlocked.tcp();
            let moved = if s.send_head().is_some() {
                fetch(&mut s, p, &member.turned())
            } else if s.packets_out() != 0 {
                // It has gone by the wire.
                Moved::none(Stop::Wire(Wire::InFlight))
            } else {
                member.peer_half().set_waits(false);
                Moved::none(Stop::Empty)
            };
            if member.half().waits() && p.send_head().is_some() && fetch(p, &mut s, member).wakes()
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

/// The sender, on the wire, hears of room by ACKs.
fn tell(p: &mut Tcp<'_>) -> Read {
    if window::reopen(p) {
        Read::Ack
    } else {
        Read::Tcp
    }
}
