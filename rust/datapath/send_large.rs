// SPDX-License-Identifier: GPL-2.0

//! The fast lane of large writes: the bytes are copied into skbs while no spinlock is held, and the
//! two sockets are locked only to queue these skbs. So a writer and a reader on two processors copy
//! at the same time.
//!
//! A call of at most [`AT_ONCE`] bytes for which the peer has room is written without owning the
//! socket, as a whole or not at all ([`send`]). All other calls own the socket for the whole call,
//! as TCP does. For these calls, `tcp_sendmsg_locked()` calls [`send_owned`] as often as the peer
//! has room, and TCP writes what is left. Bytes that were copied and could not be queued are given
//! back to the program's iterator.
//!
//! # Locks
//!
//! The writer waits for the peer's spinlock, and then tries the sender's spinlock unless it owns
//! the sender.
//!
//! # Races
//!
//! This file has the races of [`send`](crate::datapath::send). Two tasks that write to one socket
//! at the same moment also copy at the same moment. The task that takes the spinlocks first comes
//! first in the stream, since the bytes get their sequence numbers with the spinlocks held.

use kernel::warn_on;

use crate::{
    datapath::{
        send,
        transfer::{
            written_and_moved,
            Moved,
            Stop, //
        },
    },
    net::{
        nagle::corked_or_pushed,
        skb_cache,
        Held,
        OutOfSequence,
        Owned,
        Process,
        Rcu,
        Size,
        Skb,
        SlockGuard,
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

/// The size, in bytes, from which a write is large. Most smaller writes fill up an existing skb,
/// and their copy with bottom halves off is short.
pub(crate) const LARGE: usize = 24 << 10;

/// The size, in bytes, from which a write counts as large while another CPU reads from the peer in
/// place: the reader needs no spinlock while it copies, and shall not have to wait for one either.
const LARGE_BESIDE_READER: usize = 16 << 10;

/// The most bytes that are copied in one RCU read-side critical section.
const AT_ONCE: usize = 128 << 10;

/// The number of skbs that hold [`AT_ONCE`] bytes, at most.
const SKBS: usize = 3;

/// Filled skbs, in the order of the stream, that are in no queue.
struct Batch {
    skbs: [Option<Skb>; SKBS],
    bytes: usize,
    truesize: u32,
}

impl Batch {
    /// Creates an empty batch.
    const fn new() -> Self {
        Self {
            skbs: [const { None }; SKBS],
            bytes: 0,
            truesize: 0,
        }
    }

    /// Copies at most `want` bytes: fewer if there is no memory, or if a page of the program's
    /// memory is not present.
    #[inline(always)]
    fn fill(&mut self, from: &mut Source<'_>, want: usize) {
        for slot in &mut self.skbs {
            let left = want.saturating_sub(self.bytes);
            if left == 0 {
                break;
            }
            let taken = if from.splices() {
                Skb::of_pages(from, left)
            } else {
                copied(from, left)
            };
            let Some((skb, bytes)) = taken else {
                break;
            };
            self.bytes = self.bytes.saturating_add(bytes);
            self.truesize = self.truesize.saturating_add(skb.truesize());
            *slot = Some(skb);
        }
    }

    /// Appends all skbs to the receive queue of `p`, or none of them. Returns the number of bytes
    /// queued. The caller has exclusive access to both sockets.
    ///
    /// Relies on invariants 1 and 2, which [`eligible::may_bypass_write_queue`] establishes, and
    /// restores invariants 1 and 3. The readers of `p` are not woken.
    #[inline(always)]
    fn commit(
        &mut self,
        sock: &Sock,
        s: &mut Tcp<'_>,
        p: &mut Tcp<'_>,
        member: &Member<'_>,
    ) -> usize {
        if self.bytes == 0
            || !eligible::may_bypass_write_queue(sock, s, p, member)
            || room_for(p.sock(), self.bytes) < self.bytes
            || !p.rmem_schedule_new(self.truesize)
        {
            return 0;
        }
        let (mss, mut seq) = (s.mss_cache(), s.write_seq());
        let mut moved = Moved::none(Stop::Empty);

        p.refresh_mstamp();
        for slot in &mut self.skbs {
            let Some(mut skb) = slot.take() else {
                break;
            };
            let len = skb.set_seq(seq);
            let segments = skb.segments(mss);

            seq = seq.wrapping_add(len);
            if let Err(OutOfSequence) = p.receive_reusable(skb, segments) {
                break;
            }
            moved.add(&Moved {
                bytes: len,
                skbs: 1,
                segments,
                stop: Stop::Empty,
            });
        }
        tally::moved(sock, member, moved.bytes, moved.skbs);
        written_and_moved(s, &moved);
        window::follow(s, p);
        moved.bytes as usize
    }

    /// Gives the bytes that were not queued back to the program's iterator, and keeps their skbs
    /// for later writes.
    #[inline(always)]
    fn revert(&mut self, from: &mut Source<'_>, moved: usize) {
        if moved != self.bytes {
            self.revert_rest(from, moved);
        }
    }

    #[cold]
    #[inline(never)]
    fn revert_rest(&mut self, from: &mut Source<'_>, moved: usize) {
        self.skbs
            .iter_mut()
            .filter_map(Option::take)
            .for_each(skb_cache::put);
        from.revert(self.bytes.saturating_sub(moved));
        skb_cache::shrink();
    }
}

/// Copies the next of `want` bytes into an skb from the cache. Returns the skb and the number of
/// bytes copied; `None` if there is no memory, or if a page of the program's memory is not present.
#[inline(always)]
fn copied(from: &mut Source<'_>, want: usize) -> Option<(Skb, usize)> {
    let size = Size::of(want);
    let mut skb = skb_cache::get(size)?;
    let bytes = want.min(size.room());
    let filled = if size == Size::Paged {
        skb.fill_pages(from, bytes)
    } else {
        skb.fill(from, bytes)
    };

    if filled.is_err() {
        skb_cache::put(skb);
        return None;
    }
    Some((skb, bytes))
}

/// Returns whether a task seems to own the peer's socket for more than a read in place. Without the
/// receiver's lock the result is a guess.
#[inline(always)]
fn seems_busy(member: &Member<'_>) -> bool {
    let peer = member.peer();

    peer.seems_owned() && !member.peer_end().being_read().names(peer)
}

/// Returns how many of `want` bytes, but at most [`AT_ONCE`], the receiver has room for. The
/// receiver takes one skb more than fills its buffer, as for all data that it receives
/// ([`eligible::has_room`]). Without the receiver's lock the result is a guess.
#[inline(always)]
fn room_for(peer: &Sock, want: usize) -> usize {
    let room = Size::Paged.room();

    if !eligible::has_room(peer) {
        return 0;
    }
    if want <= room {
        return want;
    }
    let free = peer.receive_buffer().saturating_sub(peer.receive_memory());
    // A paged skb takes hardly more memory than it has room.
    let skbs = (free.max(0).unsigned_abs() as usize / (room + room / 8)).saturating_add(1);

    want.min(skbs.saturating_mul(room)).min(AT_ONCE)
}

/// Returns whether `from` is better written by this file than by [`send`](crate::datapath::send).
#[inline(always)]
pub(crate) fn is_large(from: &Source<'_>, member: &Member<'_>) -> bool {
    from.len() >= LARGE
        || from.len() >= LARGE_BESIDE_READER && member.peer_end().being_read().names(member.peer())
}

/// Writes all of `from`, which [`is_large`], or nothing. A call of more than
/// [`AT_ONCE`] bytes needs the owner.
///
/// Takes and releases both spinlocks.
pub(crate) fn send(
    sock: &Sock,
    mut from: Source<'_>,
    member: Member<'_>,
    mut process: Process<'_>,
) -> Write {
    if cfg!(tcp_friends_without = "large") {
        return Write::Tcp;
    }
    let want = from.len();
    let peer = member.peer();

    // Bytes that are sure to be refused must not be copied first.
    if want > AT_ONCE || sock.seems_to_queue() || seems_busy(&member) || !member.nobody_waits() {
        return Write::NeedsOwner;
    }
    if room_for(peer, want) < want {
        match full(sock, &from, &member, &mut process) {
            Full::HasRoom => (),
            Full::Wait => return Write::Full,
            Full::Tcp => return Write::NeedsOwner,
        }
    }
    match write(sock, &mut from, want, &member, Writer::Task(process)) {
        0 => Write::NeedsOwner,
        bytes => Write::Done(bytes),
    }
}

/// Looks at a friend that seems full for `from` with both spinlocks held, and returns how the write
/// goes on.
///
/// Takes and releases both spinlocks.
#[cold]
#[inline(never)]
fn full(sock: &Sock, from: &Source<'_>, member: &Member<'_>, process: &mut Process<'_>) -> Full {
    let mut peer_guard = process.lock(member.peer());
    let Held::Free(mut peer_locked) = peer_guard.held_beside_reader(member.peer_end().being_read())
    else {
        return Full::Tcp;
    };
    let mut p = peer_locked.tcp();
    let mut guard = peer_locked.try_lock_peer(sock);
    let Some(Held::Free(locked)) = guard.as_mut().map(SlockGuard::held) else {
        return Full::Tcp;
    };

    if !eligible::may_bypass_write_queue(sock, &locked.tcp(), &p, member) {
        return Full::Tcp;
    }
    if room_for(p.sock(), from.len()) >= from.len() {
        return Full::HasRoom;
    }
    room::full(sock, from, member, &mut p)
}

/// Writes some bytes of `from` to `sock`, which the caller owns (hook). Returns the number of bytes
/// written, or 0 if TCP must write what is left.
///
/// Takes and releases the peer's spinlock.
pub(crate) fn send_owned(
    sock: &Sock,
    mut from: Source<'_>,
    owned: Owned<'_>,
    rcu: Rcu<'_>,
) -> usize {
    let Some(member) = Member::of(sock, rcu) else {
        return 0;
    };
    if !is_large(&from, &member) {
        return send::send_owned(sock, from, owned, &member);
    }
    let peer = member.peer();
    let want = room_for(peer, from.len());
    let s = owned.tcp();

    // Bytes that are sure to be refused must not be copied first.
    if s.write_queue() != 0
        || corked_or_pushed(s.nonagle()) != 0
        || seems_busy(&member)
        || !member.nobody_waits()
        || want == 0
    {
        return 0;
    }
    write(sock, &mut from, want, &member, Writer::Owner(owned))
}

/// The context that writes.
enum Writer<'a> {
    /// A task that has not locked the socket: its call is all or nothing.
    Task(Process<'a>),
    /// The socket's owner.
    Owner(Owned<'a>),
}

/// Writes `want` bytes, or fewer if the socket's owner writes and there is no memory for all of
/// them. Returns the number of bytes written.
///
/// Takes and releases the peer's spinlock, and also the sender's unless the caller owns the sender.
#[inline(never)]
fn write(
    sock: &Sock,
    from: &mut Source<'_>,
    want: usize,
    member: &Member<'_>,
    writer: Writer<'_>,
) -> usize {
    let mut batch = Batch::new();

    batch.fill(from, want);
    let all = batch.bytes == want || matches!(writer, Writer::Owner(_));
    let moved = if all {
        queue(sock, &mut batch, member, writer)
    } else {
        0
    };
    batch.revert(from, moved);
    // Every slot of the batch is empty, since skbs that were not queued have been kept for other
    // writes. Dropping the batch would only check each slot.
    if cfg!(CONFIG_RUST_DEBUG_ASSERTIONS) {
        warn_on!(batch.skbs.iter().any(Option::is_some));
    }
    core::mem::forget(batch);
    moved
}

/// Takes the spinlocks, queues the batch, and wakes the reader. Returns the number of bytes queued.
#[inline(always)]
fn queue(sock: &Sock, batch: &mut Batch, member: &Member<'_>, mut writer: Writer<'_>) -> usize {
    let owned = match &writer {
        Writer::Owner(owned) => Some(owned.tcp()),
        Writer::Task(_) => None,
    };
    let mut peer_guard = match &mut writer {
        Writer::Owner(owned) => owned.lock_peer(member.peer()),
        Writer::Task(process) => process.lock(member.peer()),
    };
    peer_guard.incoming_cpu_update();
    let Held::Free(mut peer_locked) = peer_guard.held_beside_reader(member.peer_end().being_read())
    else {
        return 0;
    };
    let mut p = peer_locked.tcp();
    let mut guard = None;
    let mut s = match owned {
        Some(s) => s,
        None => {
            guard = peer_locked.try_lock_peer(sock);
            let Some(Held::Free(locked)) = guard.as_mut().map(SlockGuard::held) else {
                return 0;
            };
            locked.tcp()
        }
    };
    let moved = batch.commit(sock, &mut s, &mut p, member);

    drop(guard);
    if moved != 0 {
        p.data_ready(member.rcu());
    }
    moved
}
