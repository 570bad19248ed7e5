// SPDX-License-Identifier: GPL-2.0

//! The fast lane of a writer: bytes go from its memory into the reader's receive
//! queue, and never stand in the write queue. The hook in `tcp_sendmsg()`.
//!
//! It takes only what is plain: nothing queued before it, no cork, room at the
//! peer, nobody who owns either socket. Everything else goes the ordinary way, by
//! `tcp_sendmsg_locked()` and [`transmit`](crate::transmit).
//!
//! # Locks
//!
//! The peer's spinlock is waited for, then the sender's own one is tried: a sender
//! holds nothing when it waits. So two that send to each other at the same moment
//! may both find the other's lock taken, and both go the ordinary way. Both locks
//! are held while the bytes are copied, an skb's worth at most; a page of the
//! caller's that is not there is brought before it is tried again (C side).
//!
//! # Races
//!
//! As in [`transmit`](crate::transmit). Either socket may have been closed, reused
//! or paired anew before its lock was taken, so with both held it is asked whether
//! they still are a pair.

use kernel::sync::atomic::Relaxed;

use crate::{
    abstractions::{
        keep,
        take,
        Fault,
        Held,
        Member,
        Process,
        Rcu,
        Size,
        Sock,
        Source,
        Tcp, //
    },
    fence, growth,
    hold::may_go_alone,
    moving::{
        probe_answered,
        segments_of,
        sent_and_acknowledged,
        Moved,
        Stop,
        MEASURED, //
    },
    stats::Counter,
    window,
};

/// The last skb of the receiver's queue is filled up if it has room for all that
/// is written, or for so many bytes.
const WORTH_FILLING: usize = 4096;

/// Whether the writer's next bytes overtake nothing, and may be moved. The caller
/// has it to itself.
#[inline(always)]
fn is_plain(s: &mut Tcp<'_>, member: &Member<'_>) -> bool {
    may_go_alone(s.nonagle())
        && s.send_head().is_none()
        && !s.failed_or_shut()
        && !s.owes_ack()
        && !s.sock().wants_receive_timestamps()
        && fence::sender(s, member.rcu()).is_ok()
        && !member.question().is_due(member.namespace())
}

/// Writes some bytes of `from` (hook).
///
/// Returns how many: 0 if they must go the ordinary way.
///
/// Relies on invariants 1 and 2, which the fences establish, and restores 1 and
/// 3. Takes both spinlocks, and gives them back.
#[inline]
pub(crate) fn send(
    sock: &Sock,
    mut from: Source<'_>,
    mut process: Process<'_>,
    rcu: Rcu<'_>,
) -> Result<usize, Fault> {
    let Some(member) = Member::of(sock, rcu) else {
        return Ok(0);
    };
    let peer = member.peer();
    if member.waiting().load(Relaxed) {
        return Ok(0);
    }

    let mut peer_guard = process.lock(peer);
    peer_guard.incoming_cpu_update();
    let Held::Free(mut peer_locked) = peer_guard.held() else {
        return Ok(0);
    };
    let mut p = peer_locked.tcp();
    let Some(mut guard) = peer_locked.try_lock_peer(sock) else {
        return Ok(0);
    };
    let Held::Free(locked) = guard.held() else {
        return Ok(0);
    };
    let mut s = locked.tcp();

    if !member.still_paired()
        || !member.peer_still_paired()
        || !is_plain(&mut s, &member)
        || fence::receiver(&s, &p).is_err()
        || !growth::has_room(&mut p, &member)
    {
        return Ok(0);
    }

    let (bytes, segments, skbs) = deliver(&mut from, &mut s, &mut p)?;
    if bytes == 0 {
        return Ok(0);
    }
    // TRUNCATE: No skb holds more.
    let moved = Moved {
        bytes: bytes as u32,
        skbs,
        segments,
        stop: Stop::Empty,
    };
    s.wrote(moved.bytes);
    sent_and_acknowledged(&mut s, &moved);
    window::follow(&mut s, &mut p);
    probe_answered(&mut s);
    drop(guard);
    p.data_ready();
    drop(peer_guard);

    member.namespace().count(Counter::Bytes, moved.bytes.into());
    if skbs != 0 {
        member.namespace().count(Counter::Skbs, skbs.into());
    }
    Ok(bytes)
}

/// Puts the next bytes behind what the receiver has. Returns how many, for how
/// many segments they stand, and how many skbs were needed; nothing if there is no
/// memory.
///
/// The caller has both to itself. `p.rcv_nxt` moves past the bytes, the sender's
/// numbers are left to the caller.
#[inline(always)]
fn deliver(
    from: &mut Source<'_>,
    s: &mut Tcp<'_>,
    p: &mut Tcp<'_>,
) -> Result<(usize, u32, u32), Fault> {
    let want = from.len();
    let mss = s.mss_cache();
    let seq = s.write_seq();
    let mut size = Size::of(want);

    if want >= MEASURED as usize {
        p.refresh_mstamp();
    }
    if let Some(tail) = p.receive_tail() {
        let room = tail.room();
        if room >= want.min(WORTH_FILLING) && tail.is_from_friend() && tail.segment().end_seq == seq
        {
            let len = want.min(room);
            let segments = segments_of(len as u32, mss);
            tail.append(from, len, segments)?;
            return Ok((len, segments, 0));
        }
        // The reader is behind: more will come.
        size = Size::Large;
    }

    let Some(mut skb) = take(size) else {
        return Ok((0, 0, 0));
    };
    let len = want.min(size.room());
    if !p.rmem_schedule_new(&skb) {
        keep(skb);
        return Ok((0, 0, 0));
    }
    if let Err(fault) = skb.fill(from, seq, len) {
        keep(skb);
        return Err(fault);
    }
    let segments = skb.set_segments(mss);
    p.receive(skb);
    Ok((len, segments, 1))
}
