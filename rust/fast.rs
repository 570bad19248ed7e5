// SPDX-License-Identifier: GPL-2.0

//! The fast lane: a few bytes go from the writer to the reader's queue without
//! ever standing in the write queue. The hook in `tcp_sendmsg_locked()`.
//!
//! The message has been copied into an skb of its own; where the lane refuses
//! it, TCP sends it the ordinary way. So it takes only what is plain: nothing
//! queued before it, no cork, room at the peer.
//!
//! Locks and races: as in [`transmit`](crate::transmit). The caller owns the
//! sender in process context.

use kernel::sync::atomic::Relaxed;

use crate::{
    abstractions::{
        Caller,
        Fresh,
        Held,
        Member,
        Rcu,
        Skb,
        Sock,
        Tcp, //
    },
    fence,
    hold::may_go_alone,
    moving::{
        probe_answered,
        sent_and_acknowledged,
        Moved,
        Stop, //
    },
    stats::Counter,
    window,
};

/// Whether the writer's next bytes overtake nothing, and may be moved. The caller
/// has it to itself, and until it lets go the answer stays true but for watchers.
fn is_plain(s: &mut Tcp<'_>, member: &Member<'_>) -> bool {
    may_go_alone(s.nonagle())
        && s.send_head().is_none()
        && !s.failed_or_shut()
        && !s.owes_ack()
        && !s.sock().wants_receive_timestamps()
        && fence::sender(s, member.rcu()).is_ok()
        && !member.question().is_due(member.namespace())
}

/// Whether [`send`] would probably take a message (hook): asked before it is
/// copied.
#[inline]
pub(crate) fn may_send(sock: &Sock, caller: Caller<'_>, rcu: Rcu<'_>) -> bool {
    let (Some(member), Caller::Task(own)) = (Member::of(sock, rcu), caller) else {
        return false;
    };
    !member.waiting().load(Relaxed)
        && is_plain(&mut own.tcp(), &member)
        && fence::has_room(member.peer())
}

/// It is taken: no way back to the ordinary one.
fn sealed(skb: Fresh<'_>, s: &Tcp<'_>, moved: &mut Moved) -> Skb {
    let mut skb = Skb::from(skb);

    moved.segments = skb.set_segments(s.mss_cache());
    skb
}

/// Gives the peer the next bytes of the stream (hook), for whom [`may_send`] was
/// asked since the caller owns the sender.
///
/// Gives them back if they must go the ordinary way.
///
/// Relies on invariants 1 and 2, which the fences establish, and restores 1 and
/// 3. Takes the peer's spinlock.
#[inline]
pub(crate) fn send<'a>(
    sock: &Sock,
    caller: Caller<'_>,
    skb: Fresh<'a>,
    rcu: Rcu<'_>,
) -> Result<(), Fresh<'a>> {
    let (Some(member), Caller::Task(mut own)) = (Member::of(sock, rcu), caller) else {
        return Err(skb);
    };
    let mut s = own.tcp();
    let bytes = skb.len();
    // An skb without a byte has no place in a receive queue.
    if bytes == 0
        || fence::watchers(sock, member.rcu()).is_err()
        || member.question().is_due(member.namespace())
    {
        return Err(skb);
    }

    let mut moved = Moved {
        bytes,
        skbs: 1,
        segments: 0,
        stop: Stop::Empty,
    };
    let peer = member.peer();
    let mut guard = own.lock_peer(peer);

    if !member.peer_still_paired() || !fence::has_room(peer) {
        return Err(skb);
    }
    guard.incoming_cpu_update();
    match guard.held() {
        Held::Free(spinlocked) => {
            let mut p = spinlocked.tcp();
            if fence::receiver(&s, &p).is_err() || !p.rmem_schedule_fresh(&skb) {
                return Err(skb);
            }
            let skb = sealed(skb, &s, &mut moved);

            s.wrote(bytes);
            sent_and_acknowledged(&mut s, &moved);
            p.receive(skb);
            window::follow(&mut s, &mut p);
            p.data_ready();
        }
        Held::Busy(mut busy) => {
            if fence::busy_receiver(&busy, peer).is_err() {
                return Err(skb);
            }
            let skb = sealed(skb, &s, &mut moved);

            s.wrote(bytes);
            sent_and_acknowledged(&mut s, &moved);
            busy.add_backlog(skb);
            window::consume(&mut s, bytes);
        }
    }
    drop(guard);
    probe_answered(&mut s);
    member.namespace().count(Counter::Bytes, bytes.into());
    member.namespace().count(Counter::Skbs, 1);
    Ok(())
}
