// SPDX-License-Identifier: GPL-2.0

//! The sender moves what it has: the hook at the top of `tcp_write_xmit()`.
//!
//! # Locks
//!
//! The caller has the sender, by ownership or by its spinlock. The peer's
//! spinlock is taken here: waited for by an owner, tried by who holds a
//! spinlock already. It is held while skbs are moved and readers are woken.
//!
//! # Races
//!
//! - *A task owns the peer.* Then nothing is moved. The bytes stay in the write queue, where
//!   they are charged, and a flag makes the peer's owner look for them when it lets go
//!   ([`read::released`](crate::read::released)). The flag is set and looked at with the
//!   peer's spinlock held, and the owner gives up with the same spinlock held in which it has
//!   looked, so that it is not missed. Where the owner then finds us owned it sets our flag in
//!   turn: so whoever lets go last moves. It only tries our spinlock, for a while. If that fails
//!   it sends an ACK, which makes us transmit, and if that should be lost there is the probe timer.
//! - *The peer closes.* Its state is looked at under its spinlock.
//! - *The peer is parted from us, reused, paired anew.* Asked under its
//!   spinlock; see [`Member::peer_still_paired`].
//! - *The peer reads while we find it full.* It is full under its spinlock, and we say that we
//!   wait before that is given back. It takes its spinlock, or owns itself, to read, and looks
//!   whether we wait afterwards.
//! - *An ACK of ours is overtaken by what we move*, on its way through the loopback
//!   device: the peer drops it as old. If it is for data, that is seen by the peer's `snd_una`
//!   ([`fence`]), and then the wire carries both.
//! - *A segment of the peer's lags behind*, in our backlog or on its way, while we move bytes
//!   past it: it acknowledges less than we know. TCP drops what lags by more than the largest
//!   window (RFC 5961, section 5.2). So an owner with a backlog works that off first, when it lets
//!   go, and nobody gets further ahead than a window of data on its way ([`fence::receiver`]).

use crate::{
    abstractions::{
        Caller,
        Held,
        Member,
        Rcu,
        SlockGuard,
        Sock,
        Tcp,
        Xmit, //
    },
    crossing,
    fence::{
        self,
        Fence, //
    },
    half::Pushing,
    hold::{
        may_go,
        Go, //
    },
    moving::{
        between,
        fetch,
        settle,
        Moved,
        Stop, //
    },
    stats::{
        self,
        Wire, //
    },
};

/// Transmit from the write queue of `sock` (hook).
///
/// `mss` is in bytes, `nonagle` of `TCP_NAGLE_*`, `probe` if a segment is wanted
/// on the wire.
#[inline]
pub(crate) fn xmit(
    sock: &Sock,
    caller: Caller<'_>,
    mss: u32,
    nonagle: u32,
    probe: bool,
    rcu: Rcu<'_>,
) -> Xmit {
    let Some(member) = Member::of(sock, rcu) else {
        crossing::expire(sock);
        return Xmit::Wire;
    };
    match member.half().pushing() {
        Pushing::Not => (),
        Pushing::ToWire => return Xmit::Wire,
        Pushing::Waits => return Xmit::Pending,
    }
    let mut s = caller.tcp();
    let stop = if probe {
        Stop::Wire(Wire::Probe)
    } else if member.half().waits() && s.snd_wnd() == 0 && !fence::has_room(member.peer()) {
        // The reader has not read since, and will see that we wait.
        Stop::Full
    } else if is_held_back(&mut s, mss, nonagle) {
        Stop::Held
    } else {
        go(caller, &member, mss, nonagle).unwrap_or_else(Stop::Wire)
    };
    match stop {
        Stop::Empty => {
            // The fast lane is open again.
            if member.half().waits() {
                member.half().set_waits(false);
            }
            Xmit::Done
        }
        Stop::Held | Stop::Full | Stop::Busy => Xmit::Pending,
        Stop::Wire(why) => {
            // The wire may find the window too small: the reader shall tell of a larger one.
            member.half().set_waits(true);
            member.half().takes_wire(&s);
            stats::fell(sock, &member, why);
            Xmit::Wire
        }
    }
}

/// Whether cork holds back all that there is, so that nobody need be asked: a program
/// that corks writes more at once. The caller has the sender to itself.
fn is_held_back(s: &mut Tcp<'_>, mss: u32, nonagle: u32) -> bool {
    s.send_head().is_some_and(|head| {
        head.is_last()
            && fence::skb(&head).is_ok()
            && may_go(head.len(), mss, true, nonagle) == Go::Nothing
    })
}

/// Whether the wire would find the window too small for what is next, be it a FIN, with
/// nothing in flight whose ACK tells of a larger one. Small skbs are made into one first
/// (`tcp_grow_skb()`). The caller has the sender to itself.
fn is_pinched(s: &Tcp<'_>, mss: u32) -> bool {
    let unsent = s.write_seq().wrapping_sub(s.snd_nxt());

    s.packets_out() == 0 && s.snd_una() == s.snd_nxt() && unsent.min(mss) > s.snd_wnd()
}

/// Takes the peer's lock as the caller may, and moves.
fn go(caller: Caller<'_>, member: &Member<'_>, mss: u32, nonagle: u32) -> Result<Stop, Wire> {
    let (mut owned, mut spinlocked);
    // Also who may move nothing takes the lock, if the wire needs a window.
    let fenced;
    let (mut s, guard) = match caller {
        Caller::Task(own) => {
            owned = own;
            if owned.has_backlog() {
                // What waits there must not lag behind by more than a window.
                owned.look_when_released();
                member.half().set_waits(true);
                return Ok(Stop::Busy);
            }
            let mut s = owned.tcp();
            fenced = fence::sender(&s, member);
            if let Err(why) = fenced {
                if !is_pinched(&s, mss) {
                    return Err(why);
                }
            } else if s.owes_ack() {
                let shape = match s.send_head() {
                    Some(head) if !fence::is_data_and_fin(&head) => fence::skb(&head),
                    _ => Ok(()),
                };
                // What takes the wire takes the ACK along.
                if let Err(why) = shape {
                    if !is_pinched(&s, mss) {
                        return Err(why);
                    }
                }
                // What is moved carries none, and Nagle's algorithm would have the peer wait for it
                // (RFC 9293, section 3.7.4). Bottom halves are on, so the peer has it on return,
                // before it could be overtaken by what is moved.
                s.send_ack();
            }
            (s, owned.lock_peer(member.peer()))
        }
        Caller::Softirq(own) => {
            spinlocked = own;
            let s = spinlocked.tcp();
            fenced = fence::sender(&s, member);
            if let Err(why) = fenced {
                if !is_pinched(&s, mss) {
                    return Err(why);
                }
            } else if s.owes_ack() {
                // An ACK sent here would be overtaken by what is moved, and be out of the window.
                return Err(Wire::Ack);
            }
            let guard = spinlocked.try_lock_peer(member.peer());
            (s, guard.ok_or(fenced.err().unwrap_or(Wire::Contended))?)
        }
    };
    let moved = locked(&mut s, guard, member, mss, nonagle, fenced)?;
    settle(&mut s, &moved);
    match moved.stop {
        Stop::Wire(why) => Err(why),
        stop => Ok(stop),
    }
}

/// Moves with the peer's spinlock held, which is given back on return; nothing if `fenced`
/// says that the sender must take the wire.
///
/// Relies on invariants 1 and 2, which the fences establish; keeps 3.
fn locked(
    s: &mut Tcp<'_>,
    mut guard: SlockGuard<'_>,
    member: &Member<'_>,
    mss: u32,
    nonagle: u32,
    fenced: Fence,
) -> Result<Moved, Wire> {
    if !member.peer_still_paired() {
        return Err(Wire::Parted);
    }
    guard.incoming_cpu_update();
    match guard.held() {
        Held::Free(spinlocked) => {
            let mut p = spinlocked.tcp();
            let moved = between(s, &mut p, member, mss, nonagle, fenced);
            // Whoever has both moves both ways.
            let back = member
                .peer_half()
                .waits()
                .then(|| fetch(&mut p, s, &member.turned()));

            if moved.wakes() {
                p.data_ready(member.rcu());
            }
            if back.is_some_and(|back| back.wakes()) {
                s.data_ready(member.rcu());
            }
            Ok(moved)
        }
        Held::Busy(mut busy) => {
            busy.look_when_released();
            member.half().set_waits(true);
            Ok(Moved::none(Stop::Busy))
        }
    }
}
