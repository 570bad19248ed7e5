// SPDX-License-Identifier: GPL-2.0

//! The fast lane of a writer: bytes go from its memory into the reader's receive
//! queue, and never stand in the write queue. The hook in `tcp_sendmsg()`.
//!
//! It takes a whole call or nothing: for TCP owns the socket for all of a write, so that no
//! other task's bytes get in between. And it takes only what is plain: nothing queued before
//! it, no cork, room at the peer, nobody who owns either socket. Everything else is for
//! `tcp_sendmsg_locked()` and [`transmit`](crate::transmit).
//!
//! # Locks
//!
//! The peer's spinlock is waited for, then the sender's own one is tried: a sender
//! holds nothing when it waits. So two that send to each other at the same moment
//! may both find the other's lock taken, and both leave it to TCP. Both locks
//! are held while the bytes are copied, fewer than [`LARGE`]; where a page of the
//! caller's is not there nothing is written. Large writes are copied without a lock:
//! [`bulk_send`].
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
    fence,
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

/// Writes all of `from` (hook), and returns how many bytes that were; 0 if TCP must write them.
///
/// Relies on invariants 1 and 2, which the fences establish, and restores 1 and
/// 3. Takes both spinlocks, and gives them back.
#[inline]
pub(crate) fn send(
    sock: &Sock,
    mut from: Source<'_>,
    mut process: Process<'_>,
    rcu: Rcu<'_>,
) -> usize {
    let Some(member) = Member::of(sock, rcu) else {
        return 0;
    };
    let peer = member.peer();
    if from.len() >= LARGE {
        return bulk_send::send(sock, from, member, process);
    }

    let mut peer_guard = process.lock(peer);
    peer_guard.incoming_cpu_update();
    let Held::Free(mut peer_locked) = peer_guard.held() else {
        return 0;
    };
    let mut p = peer_locked.tcp();
    let Some(mut guard) = peer_locked.try_lock_peer(sock) else {
        return 0;
    };
    let Held::Free(locked) = guard.held() else {
        return 0;
    };
    let mut s = locked.tcp();

    if !may_pass(sock, &s, &p, &member)
        || !(fence::has_room(peer) || member.peer_half().growth().grow(&mut p))
    {
        return 0;
    }

    let want = from.len();
    if want >= MEASURED as usize {
        p.refresh_mstamp();
    }
    let Some(moved) = deliver(&mut from, want, s.write_seq(), s.mss_cache(), &mut p) else {
        return 0;
    };
    stats::moved(sock, &member, &moved);
    written_and_moved(&mut s, &moved);
    window::follow(&mut s, &mut p);
    drop(guard);
    p.data_ready(rcu);
    drop(peer_guard);

    want
}

/// Whether bytes that are written now may go past the write queue. The caller has exclusive
/// access to both sockets.
///
/// Establishes invariant 2.
#[inline(always)]
pub(crate) fn may_pass(sock: &Sock, s: &Tcp<'_>, p: &Tcp<'_>, member: &Member<'_>) -> bool {
    member.still_paired(sock)
        && member.peer_still_paired()
        && member.nobody_waits()
        && fence::is_clear(s, p, member)
        && member.half().question().is_quiet()
}

/// Puts `want` bytes, which start at `seq`, behind what the receiver has: all, or none if there
/// is no memory or a page of the caller's is not there.
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
) -> Option<Moved> {
    let mut size = Size::linear(want);
    // Of these, how many the last skb takes.
    let mut first = 0;

    if let Some(mut tail) = p.receive_tail() {
        let room = tail.room();
        if room >= want.min(WORTH_FILLING) && tail.is_from_friend() && tail.segment().end_seq == seq
        {
            first = want.min(room);
            tail.copy_behind(from, first).ok()?;
            if first == want {
                let segments = segments_of(want as u32, mss);
                tail.append(want, segments).ok()?;
                return Some(moved(want, segments, 0));
            }
        }
        // The reader is behind: more will come.
        size = Size::Large;
    }
    deliver_new(from, want, first, size, seq, mss, p)
}

/// The part of [`deliver`] that needs an skb of that size, where `first` bytes have been copied
/// behind the last one already. Fewer than [`LARGE`] are left, so that one skb takes them.
#[inline(always)]
fn deliver_new(
    from: &mut Source<'_>,
    want: usize,
    first: usize,
    size: Size,
    seq: u32,
    mss: u32,
    p: &mut Tcp<'_>,
) -> Option<Moved> {
    let rest = want.saturating_sub(first);
    let Some(mut skb) = take(size) else {
        from.give_back(first);
        return None;
    };

    if !p.rmem_schedule_new(skb.truesize()) || skb.fill(from, rest).is_err() {
        keep(skb);
        from.give_back(first);
        return None;
    }
    let mut segments = 0;
    if first != 0 {
        segments = segments_of(first as u32, mss);
        p.receive_tail()?.append(first, segments).ok()?;
    }
    skb.number(seq.wrapping_add(first as u32));
    segments = segments.wrapping_add(skb.set_segments(mss));
    p.receive_made(skb).ok()?;
    Some(moved(want, segments, 1))
}

/// TRUNCATE: Fewer than [`LARGE`].
#[inline(always)]
fn moved(bytes: usize, segments: u32, skbs: u32) -> Moved {
    Moved {
        bytes: bytes as u32,
        skbs,
        segments,
        stop: Stop::Empty,
    }
}
