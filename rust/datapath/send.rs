// SPDX-License-Identifier: GPL-2.0

//! The fast lane of a writer, which is the hook in `tcp_sendmsg()`: bytes go from the program's
//! memory into the peer's receive queue, and never enter the write queue.
//!
//! The fast lane takes a whole call or nothing, because TCP owns the socket for the whole of a
//! write, so that no other task's bytes get in between. It takes plain writes only: nothing is
//! queued before the bytes, the socket is not corked, the peer has room, no task owns the peer for
//! more than a read in place, and the sender is free, or owned by the caller ([`send_owned`]). All
//! other writes are left to `tcp_sendmsg_locked()` and [`xmit`](crate::datapath::xmit).
//!
//! # Locks
//!
//! The writer waits for the peer's spinlock, and then tries the sender's spinlock, so it holds no
//! spinlock while it waits. Two sockets that send to each other at the same moment may each find
//! the other's spinlock taken, and then both writes are left to TCP. Both spinlocks are held while
//! the bytes, fewer than [`LARGE`](send_large::LARGE), are copied, or their pages become part of an
//! skb (sendfile, splice). If a page of the program's memory is not present, nothing is written.
//! Large writes are copied without a spinlock: [`send_large`].
//!
//! # Races
//!
//! The fast lane has the races of [`xmit`](crate::datapath::xmit). Either socket may also have been
//! closed, reused or paired anew before its spinlock was taken, so the fast lane checks with both
//! spinlocks held that the sockets are still a pair.

use crate::{
    datapath::{
        send_large,
        transfer::{
            written_and_moved,
            Moved,
            Stop,
            CLOCK_MIN_LEN, //
        },
    },
    net::{
        segments_of,
        skb_cache,
        Held,
        Owned,
        Process,
        Rcu,
        Size,
        Skb,
        Sock,
        Source,
        Tcp,
        Write, //
    },
    pair::{
        eligible,
        room::{
            self,
            Full, //
        },
        tally,
        window,
        Member, //
    },
};

/// The last skb of the receive queue is filled up if it has room for the whole write, or for this
/// many bytes.
const WORTH_FILLING: usize = 4096;

/// Writes all of `from`, or nothing (hook).
///
/// Relies on invariants 1 and 2, which [`eligible::may_bypass_write_queue`] establishes, and
/// restores invariants 1 and 3. Takes and releases both spinlocks.
#[inline]
pub(crate) fn send(
    sock: &Sock,
    mut from: Source<'_>,
    mut process: Process<'_>,
    rcu: Rcu<'_>,
) -> Write {
    let Some(member) = Member::of(sock, rcu) else {
        return Write::Tcp;
    };
    let peer = member.peer();
    if send_large::is_large(&from, &member) {
        return send_large::send(sock, from, member, process);
    }

    let mut peer_guard = process.lock(peer);
    peer_guard.incoming_cpu_update();
    let Held::Free(mut peer_locked) = peer_guard.held_beside_reader(member.peer_end().being_read())
    else {
        return Write::Tcp;
    };
    let mut p = peer_locked.tcp();
    let Some(mut guard) = peer_locked.try_lock_peer(sock) else {
        return Write::Tcp;
    };
    let Held::Free(locked) = guard.held() else {
        return Write::Tcp;
    };
    let mut s = locked.tcp();
    let want = from.len();

    if !write(sock, &mut from, &member, &mut s, &mut p) {
        return refused(sock, &from, &member, &s, &mut p);
    }
    drop(guard);
    p.data_ready(rcu);
    drop(peer_guard);

    Write::Done(want)
}

/// Returns what becomes of a write that [`write`] has refused: it waits for room if room is all
/// that it lacks. The caller has exclusive access to both sockets.
#[cold]
#[inline(never)]
fn refused(
    sock: &Sock,
    from: &Source<'_>,
    member: &Member<'_>,
    s: &Tcp<'_>,
    p: &mut Tcp<'_>,
) -> Write {
    let waits = !eligible::has_room(p.sock())
        && eligible::may_bypass_write_queue(sock, s, p, member)
        && room::full(sock, from, member, p) == Full::Wait;

    if waits {
        Write::Full
    } else {
        Write::Tcp
    }
}

/// Writes all of `from`, which is not large ([`send_large::is_large`]), or nothing, to `sock`,
/// which the caller owns. `member` is the view of `sock`. Returns the number of bytes written.
///
/// Relies on the invariants that [`send`] relies on. Takes and releases the peer's spinlock.
pub(crate) fn send_owned(
    sock: &Sock,
    mut from: Source<'_>,
    mut owned: Owned<'_>,
    member: &Member<'_>,
) -> usize {
    let mut s = owned.tcp();
    let mut guard = owned.lock_peer(member.peer());

    guard.incoming_cpu_update();
    let Held::Free(locked) = guard.held_beside_reader(member.peer_end().being_read()) else {
        return 0;
    };
    let mut p = locked.tcp();
    let want = from.len();

    if !write(sock, &mut from, member, &mut s, &mut p) {
        return 0;
    }
    p.data_ready(member.rcu());
    want
}

/// Writes all of `from`, which is not large, or nothing. Returns whether the bytes were written.
/// `member` is the view of `sock`, which is the socket of `s`. The readers of `p` are not woken.
///
/// The caller has exclusive access to both sockets. Relies on invariants 1 and 2, which
/// [`eligible::may_bypass_write_queue`] establishes, and restores invariants 1 and 3.
#[inline(always)]
fn write(
    sock: &Sock,
    from: &mut Source<'_>,
    member: &Member<'_>,
    s: &mut Tcp<'_>,
    p: &mut Tcp<'_>,
) -> bool {
    if !eligible::may_bypass_write_queue(sock, s, p, member)
        || !(eligible::has_room(member.peer()) || member.peer_end().growth().grow(p))
    {
        return false;
    }
    let want = from.len();
    if want >= CLOCK_MIN_LEN as usize {
        p.refresh_mstamp();
    }
    let (seq, mss) = (s.write_seq(), s.mss_cache());
    let moved = if from.splices() {
        deliver_pages(from, want, seq, mss, p, member)
    } else {
        deliver(from, want, seq, mss, p)
    };
    let Some(moved) = moved else {
        return false;
    };
    tally::moved(sock, member, moved.bytes, moved.skbs);
    written_and_moved(s, &moved);
    window::follow(s, p);
    true
}

/// Appends `want` bytes, which start at sequence number `seq`, to the receive queue of `p`: all of
/// them, or none if there is no memory or a page of the program's memory is not present.
///
/// The caller has exclusive access to the receiver `p`, whose `rcv_nxt` advances past the bytes.
/// The sender's sequence numbers are left to the caller.
#[inline(always)]
fn deliver(
    from: &mut Source<'_>,
    want: usize,
    seq: u32,
    mss: u32,
    p: &mut Tcp<'_>,
) -> Option<Moved> {
    let mut size = Size::linear(want);
    // The number of these bytes that the last skb takes.
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
        // The reader is behind, so more bytes will come.
        size = Size::Large;
    }
    deliver_new(from, want, first, size, seq, mss, p)
}

/// Does the part of [`deliver`] that needs a new skb of `size`, after `first` bytes have been
/// copied behind the last skb. Fewer than [`LARGE`](send_large::LARGE) bytes are left, so one skb
/// takes them.
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
    let Some(mut skb) = skb_cache::get(size) else {
        from.revert(first);
        return None;
    };

    if !p.rmem_schedule_new(skb.truesize()) || skb.fill(from, rest).is_err() {
        skb_cache::put(skb);
        from.revert(first);
        return None;
    }
    let mut segments = 0;
    if first != 0 {
        segments = segments_of(first as u32, mss);
        p.receive_tail()?.append(first, segments).ok()?;
    }
    skb.set_seq(seq.wrapping_add(first as u32));
    let new = skb.segments(mss);
    p.receive_reusable(skb, new).ok()?;
    Some(moved(want, segments.wrapping_add(new), 1))
}

/// Does what [`deliver`] does, but without a copy: the pages of the bytes become part of the last
/// skb of the receive queue, or of a new one. `member` is the view of the sender.
#[inline(never)]
fn deliver_pages(
    from: &mut Source<'_>,
    want: usize,
    seq: u32,
    mss: u32,
    p: &mut Tcp<'_>,
    member: &Member<'_>,
) -> Option<Moved> {
    if let Some(tail) = p.receive_tail() {
        let being_read = member.peer_end().being_read();

        if let Some(segments) = tail.append_pages(from, want, mss, being_read) {
            return Some(moved(want, segments, 0));
        }
    }
    let (mut skb, bytes) = Skb::of_pages(from, want)?;

    if bytes != want || !p.rmem_schedule_new(skb.truesize()) {
        skb_cache::put(skb);
        from.revert(bytes);
        return None;
    }
    skb.set_seq(seq);
    let segments = skb.segments(mss);
    p.receive_reusable(skb, segments).ok()?;
    Some(moved(want, segments, 1))
}

/// Returns the result of a write that has moved `bytes` bytes, which are fewer than
/// [`LARGE`](send_large::LARGE).
#[inline(always)]
fn moved(bytes: usize, segments: u32, skbs: u32) -> Moved {
    Moved {
        // TRUNCATE: `bytes` is less than `LARGE`.
        bytes: bytes as u32,
        skbs,
        segments,
        stop: Stop::Empty,
    }
}
