// SPDX-License-Identifier: GPL-2.0

//! Moves the contents of a sender's write queue: the hook at the top of `tcp_write_xmit()`.
//!
//! # Locks
//!
//! The caller owns the sender or holds its spinlock. This file takes the peer's spinlock: a caller
//! that owns the sender waits for it, and a caller that holds a spinlock already only tries it. The
//! peer's spinlock is held while skbs are moved and readers are woken.
//!
//! # Races
//!
//! - *A task owns the peer.* Then nothing is moved. The bytes stay in the write queue, where they
//!   are charged, and a flag makes the peer's owner look for them when it releases the peer
//!   ([`pull::released`](crate::datapath::pull::released)). The flag is set and read with the
//!   peer's spinlock held, and the owner gives up its ownership before it drops the spinlock with
//!   which it read the flag, so the flag is not missed. If the peer's owner then finds the sender
//!   owned, it sets the sender's flag in turn: the last owner to release its socket moves the
//!   bytes. The peer's owner only tries the sender's spinlock, for a bounded time. If that fails,
//!   it sends an ACK, which makes the sender transmit. If the ACK is lost, the sender's probe timer
//!   fires.
//! - *The peer closes.* The sender checks the peer's state with the peer's spinlock held.
//! - *The pair is dissolved, or the peer is reused or paired anew.* The sender checks this with the
//!   peer's spinlock held; see [`Member::peer_still_paired`].
//! - *The peer reads while the sender finds it full.* The sender finds the peer full with the
//!   peer's spinlock held, and sets its own waiting flag before it drops that spinlock. To read, a
//!   task takes that spinlock or owns the peer, and it checks the sender's waiting flag after the
//!   read.
//! - *Moved data overtakes an ACK of the sender* on its way through the loopback device. The peer
//!   drops that ACK as old. If the ACK is for data, the peer's `snd_una` shows that the ACK is
//!   still on its way ([`eligible`]), and then the wire carries the sender's data, too.
//! - *A segment of the peer lags behind*, in the sender's backlog or on its way, while bytes are
//!   moved past it. Such a segment acknowledges less than the sender's `snd_una`. TCP drops a
//!   segment that lags by more than the largest window (RFC 5961, section 5.2). So an owner with a
//!   backlog processes the backlog first, when it releases the socket, and no sender moves more
//!   than a window past data that the peer has in flight ([`eligible::receiver`]).

use crate::{
    cross::handshake,
    datapath::transfer::{
        pull,
        settle,
        transfer,
        Moved,
        Stop, //
    },
    net::{
        nagle::{
            allowed,
            Allowed, //
        },
        Caller,
        Held,
        Rcu,
        SlockGuard,
        Sock,
        Tcp,
        Xmit, //
    },
    pair::{
        eligible::{
            self,
            Eligibility, //
        },
        tally,
        Member,
        Pushing, //
    },
    stats::Fallback, //
};

/// Handles a transmission from the write queue of `sock` (hook).
///
/// `mss` is in bytes, `nonagle` holds `TCP_NAGLE_*` bits, and `probe` says that the caller wants a
/// segment on the wire.
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
        handshake::expire(sock);
        return Xmit::Wire;
    };
    match member.end().pushing() {
        Pushing::Not => (),
        Pushing::ToWire => return Xmit::Wire,
        Pushing::Waits => return Xmit::Pending,
    }
    let mut s = caller.tcp();
    let stop = if probe {
        Stop::Fallback(Fallback::Probe)
    } else if member.end().is_waiting() && s.snd_wnd() == 0 && !eligible::has_room(member.peer()) {
        // The reader has made no room since, and checks the waiting flag after its next read.
        Stop::Full
    } else if is_held_back(&mut s, mss, nonagle) {
        Stop::Held
    } else {
        lock_peer_and_move(caller, &member, mss, nonagle).unwrap_or_else(Stop::Fallback)
    };
    match stop {
        Stop::Empty => {
            // The write queue is empty, so the next write may take the fast lane again.
            if member.end().is_waiting() {
                member.end().set_waiting(false);
            }
            Xmit::Done
        }
        Stop::Held | Stop::Full | Stop::OwnedByUser => Xmit::Pending,
        Stop::Fallback(why) => {
            // The wire may find the window too small. The flag makes the reader report a larger
            // one.
            member.end().set_waiting(true);
            member.end().note_fallback(&s);
            tally::fell_back(sock, &member, why);
            Xmit::Wire
        }
    }
}

/// Returns whether cork holds back the whole write queue, so that the peer need not be checked: a
/// program that corks its socket writes more at once. The caller has exclusive access to the
/// sender.
fn is_held_back(s: &mut Tcp<'_>, mss: u32, nonagle: u32) -> bool {
    s.send_head().is_some_and(|head| {
        head.is_last()
            && eligible::skb(&head).is_ok()
            && allowed(head.len(), mss, true, nonagle) == Allowed::Nothing
    })
}

/// Returns whether the window is too small for the next segment on the wire, including a FIN, while
/// nothing is in flight whose ACK would report a larger window. The wire merges small skbs into one
/// segment first (`tcp_grow_skb()`). The caller has exclusive access to the sender.
fn lacks_window(s: &Tcp<'_>, mss: u32) -> bool {
    let unsent = s.write_seq().wrapping_sub(s.snd_nxt());

    s.packets_out() == 0 && s.snd_una() == s.snd_nxt() && unsent.min(mss) > s.snd_wnd()
}

/// Takes the peer's spinlock in the way that `caller` permits, and moves data.
fn lock_peer_and_move(
    caller: Caller<'_>,
    member: &Member<'_>,
    mss: u32,
    nonagle: u32,
) -> Result<Stop, Fallback> {
    let (mut owned, mut spinlocked);
    // A sender that must take the wire locks the peer, too, if the wire needs a larger window.
    let eligible;
    let (mut s, guard) = match caller {
        Caller::Owner(own) => {
            owned = own;
            if owned.has_backlog() {
                // A segment in the backlog must not lag behind by more than a window.
                owned.defer_to_release();
                member.end().set_waiting(true);
                return Ok(Stop::OwnedByUser);
            }
            let mut s = owned.tcp();
            eligible = eligible::sender(&s, member);
            if let Err(why) = eligible {
                if !lacks_window(&s, mss) {
                    return Err(why);
                }
            } else if s.owes_ack() {
                let shape = match s.send_head() {
                    Some(head) if !eligible::is_data_and_fin(&head) => eligible::skb(&head),
                    _ => Ok(()),
                };
                // A segment that takes the wire carries the ACK.
                if let Err(why) = shape {
                    if !lacks_window(&s, mss) {
                        return Err(why);
                    }
                }
                // Moved data carries no ACK, and Nagle's algorithm would make the peer wait for one
                // (RFC 9293, section 3.7.4). Bottom halves are on, so the peer has the ACK when
                // `send_ack()` returns, before moved data could overtake the ACK.
                s.send_ack();
            }
            (s, owned.lock_peer(member.peer()))
        }
        Caller::Spinlocked(own) => {
            spinlocked = own;
            let s = spinlocked.tcp();
            eligible = eligible::sender(&s, member);
            if let Err(why) = eligible {
                if !lacks_window(&s, mss) {
                    return Err(why);
                }
            } else if s.owes_ack() {
                // Moved data would overtake an ACK sent here, and the ACK would be out of the
                // window.
                return Err(Fallback::Ack);
            }
            let guard = spinlocked.try_lock_peer(member.peer());
            (
                s,
                guard.ok_or(eligible.err().unwrap_or(Fallback::Contended))?,
            )
        }
    };
    let moved = move_locked(&mut s, guard, member, mss, nonagle, eligible)?;
    settle(&mut s, &moved);
    match moved.stop {
        Stop::Fallback(why) => Err(why),
        stop => Ok(stop),
    }
}

/// Moves data with the peer's spinlock held, and releases that spinlock on return. Moves nothing if
/// `eligible` says that the sender must take the wire.
///
/// Relies on invariants 1 and 2, which [`eligible::sender`] and [`eligible::receiver`] establish.
/// Keeps invariant 3.
fn move_locked(
    s: &mut Tcp<'_>,
    mut guard: SlockGuard<'_>,
    member: &Member<'_>,
    mss: u32,
    nonagle: u32,
    eligible: Eligibility,
) -> Result<Moved, Fallback> {
    if !member.peer_still_paired() {
        return Err(Fallback::Parted);
    }
    guard.incoming_cpu_update();
    match guard.held() {
        Held::Free(spinlocked) => {
            let mut p = spinlocked.tcp();
            let moved = transfer(s, &mut p, member, mss, nonagle, eligible);
            // The caller has exclusive access to both sockets, so the peer's waiting data is moved,
            // too.
            let back = member
                .peer_end()
                .is_waiting()
                .then(|| pull(&mut p, s, &member.peer_view()));

            if moved.wakes() {
                p.data_ready(member.rcu());
            }
            if back.is_some_and(|back| back.wakes()) {
                s.data_ready(member.rcu());
            }
            Ok(moved)
        }
        Held::Busy(mut busy) => {
            busy.defer_to_release();
            member.end().set_waiting(true);
            Ok(Moved::none(Stop::OwnedByUser))
        }
    }
}
