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
//! are held while the bytes are copied, fewer than [`LARGE`]; a page of the
//! caller's that is not there is brought before it is tried again (C side). Large
//! writes are copied without a lock: [`bulk_send`].
//!
//! # Races
//!
//! As in [`transmit`](crate::transmit). Either socket may have been closed, reused
//! or paired anew before its lock was taken, so with both held it is asked whether
//! they still are a pair.

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
    bulk_send::{
        self,
        LARGE, //
    },
    fence, growth,
    moving::{
        segments_of,
        written_and_moved,
        Moved,
        Stop,
        MEASURED, //
    },
    stats, window,
};

/// The last skb of the receiver's queue is filled up if it has room for all that
/// is written, or for so many bytes.
const WORTH_FILLING: usize = 4096;

/// So many bytes are copied at once, in one RCU critical section, at most.
pub(crate) const AT_ONCE: usize = kernel::bindings::TCP_FRIENDS_AT_ONCE as usize;

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
    if from.len() >= LARGE {
        return bulk_send::send(sock, from, member, process);
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

    if !member.still_paired(sock)
        || !member.peer_still_paired()
        || !fence::may_pass(sock, &member)
        || !fence::is_clear(&s, &p, &member)
        || member.question().is_due(member.namespace())
        || !growth::has_room(&mut s, &mut p, &member)
    {
        return Ok(0);
    }

    let seq = s.write_seq();
    let mss = s.mss_cache();
    let want = from.len();
    if want >= MEASURED as usize {
        p.refresh_mstamp();
    }
    let Some(mut moved) = deliver(&mut from, want, seq, mss, &mut p)? else {
        return Ok(0);
    };
    if (moved.bytes as usize) < want {
        moved = deliver_more(from.reborrow(), want, seq, mss, p.reborrow(), moved);
    }
    stats::moved(sock, &member, &moved);
    written_and_moved(&mut s, &moved);
    window::follow(&mut s, &mut p);
    drop(guard);
    p.data_ready(rcu);
    drop(peer_guard);

    Ok(moved.bytes as usize)
}

/// Puts at most `want` bytes, which start at `seq`, behind what the receiver has,
/// as many as an skb takes. Nothing if there is no memory.
///
/// The caller has the receiver to itself. Its `rcv_nxt` moves past the bytes; the
/// sender's numbers are left to the caller.
#[inline(always)]
fn deliver(
    from: &mut Source<'_>,
    want: usize,
    seq: u32,
    mss: u32,
    p: &mut Tcp<'_>,
) -> Result<Option<Moved>, Fault> {
    let mut size = Size::of(want);

    if let Some(tail) = p.receive_tail() {
        let room = tail.room();
        if room >= want.min(WORTH_FILLING) && tail.is_from_friend() && tail.segment().end_seq == seq
        {
            let bytes = want.min(room);
            let segments = segments_of(bytes as u32, mss);
            tail.append(from, bytes, segments)?;
            return Ok(Some(some(bytes, segments, 0)));
        }
        // The reader is behind: more will come.
        size = Size::Large;
    }

    let Some(mut skb) = take(size) else {
        return Ok(None);
    };
    let bytes = want.min(size.room());
    if !p.rmem_schedule_new(&skb) {
        drop(skb);
        return Ok(None);
    }
    if let Err(fault) = skb.fill(from, bytes) {
        keep(skb);
        return Err(fault);
    }
    skb.number(seq);
    let segments = skb.set_segments(mss);
    p.receive(skb);
    Ok(Some(some(bytes, segments, 1)))
}

/// The rest of `want` bytes, as far as there is room and memory and the pages are
/// there, as [`deliver`].
#[inline(never)]
fn deliver_more(
    mut from: Source<'_>,
    want: usize,
    seq: u32,
    mss: u32,
    mut p: Tcp<'_>,
    mut moved: Moved,
) -> Moved {
    loop {
        let left = want.saturating_sub(moved.bytes as usize);
        if left == 0 || !fence::has_room(p.sock()) {
            return moved;
        }
        match deliver(&mut from, left, seq.wrapping_add(moved.bytes), mss, &mut p) {
            Ok(Some(some)) => moved.add(&some),
            Ok(None) | Err(Fault) => return moved,
        }
    }
}

/// TRUNCATE: No skb holds more.
#[inline(always)]
fn some(bytes: usize, segments: u32, skbs: u32) -> Moved {
    Moved {
        bytes: bytes as u32,
        skbs,
        segments,
        stop: Stop::Empty,
    }
}
