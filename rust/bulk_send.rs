// SPDX-License-Identifier: GPL-2.0

//! The fast lane of large writes: the bytes are copied into skbs while no lock is
//! held, and only to queue these the two sockets are locked, as in
//! [`fast_send`](crate::fast_send). So a writer and a reader on two processors copy
//! at the same time. If what is queued may not go after all, it is given back to the
//! program's iterator, and goes the ordinary way.
//!
//! The other end copies large reads as its socket's owner (C side), so the peer is
//! often found owned: then the skbs go to its backlog.
//!
//! # Locks
//!
//! As in `fast_send`: the peer's spinlock is waited for, the sender's own one tried.
//!
//! # Races
//!
//! Those of `fast_send`. Two tasks that write to one socket at the same moment copy
//! at the same moment; which of them is first is decided by who has the locks first,
//! and the bytes get their numbers then.

use crate::{
    abstractions::{
        keep,
        relieve,
        take,
        Busy,
        Fault,
        Held,
        Member,
        Process,
        Size,
        Skb,
        Sock,
        Source,
        Spinlocked,
        Tcp, //
    },
    fast_send::AT_ONCE,
    fence, growth,
    moving::{
        written_and_moved,
        Moved,
        Stop, //
    },
    stats, window,
};

/// From so many bytes on a write is large. Below, most fill up an skb that is there
/// already, and a copy with bottom halves off is short.
pub(crate) const LARGE: usize = kernel::bindings::TCP_FRIENDS_LARGE as usize;

/// Skbs for [`AT_ONCE`] bytes.
const SKBS: usize = 5;

/// `N` filled skbs at most, in order, that are in no queue.
struct Batch<const N: usize> {
    skbs: [Option<Skb>; N],
    bytes: usize,
}

impl<const N: usize> Batch<N> {
    /// Copies at most [`AT_ONCE`] bytes; as many as there is memory for and pages
    /// are there.
    #[inline(always)]
    fn fill(from: &mut Source<'_>) -> Result<Self, Fault> {
        let mut batch = Batch {
            skbs: [const { None }; N],
            bytes: 0,
        };
        let want = from.len().min(AT_ONCE);

        for slot in &mut batch.skbs {
            let left = want.saturating_sub(batch.bytes);
            if left == 0 {
                break;
            }
            let size = Size::of(left);
            let Some(mut skb) = take(size) else {
                break;
            };
            let bytes = left.min(size.room());
            if skb.fill(from, bytes).is_err() {
                keep(skb);
                if batch.bytes == 0 {
                    return Err(Fault);
                }
                break;
            }
            batch.bytes = batch.bytes.saturating_add(bytes);
            *slot = Some(skb);
        }
        Ok(batch)
    }

    /// Those that `queue` does not take are kept for the next message. It is given
    /// each with the number of its first byte and says how many segments it stands for.
    #[inline(always)]
    fn queue(&mut self, seq: u32, mut queue: impl FnMut(Skb) -> Result<u32, Skb>) -> Moved {
        let mut moved = Moved::none(Stop::Empty);
        let mut full = false;

        for slot in &mut self.skbs {
            let Some(mut skb) = slot.take() else {
                break;
            };
            let len = skb.number(seq.wrapping_add(moved.bytes));
            if !full {
                match queue(skb) {
                    Ok(segments) => {
                        moved.add(&Moved {
                            bytes: len,
                            skbs: 1,
                            segments,
                            stop: Stop::Empty,
                        });
                        continue;
                    }
                    Err(back) => skb = back,
                }
                full = true;
            }
            keep(skb);
        }
        moved
    }
}

/// Writes some bytes of `from`, which has [`LARGE`] at least.
///
/// Returns how many: 0 if they must go the ordinary way.
///
/// Relies on invariants 1 and 2, which the fences establish, and restores 1 and
/// 3. Takes both spinlocks, and gives them back.
#[inline(never)]
pub(crate) fn send(
    sock: &Sock,
    mut from: Source<'_>,
    member: Member<'_>,
    mut process: Process<'_>,
) -> Result<usize, Fault> {
    // What is sure to be refused is not copied first.
    if sock.seems_to_queue() || !fence::may_pass(sock, &member) {
        Ok(0)
    } else if from.len() <= Size::Large.room() {
        send_batch::<1>(sock, &mut from, &member, &mut process)
    } else {
        send_batch::<SKBS>(sock, &mut from, &member, &mut process)
    }
}

#[inline(always)]
fn send_batch<const N: usize>(
    sock: &Sock,
    from: &mut Source<'_>,
    member: &Member<'_>,
    process: &mut Process<'_>,
) -> Result<usize, Fault> {
    let mut batch = Batch::<N>::fill(from)?;
    let moved = commit(sock, &mut batch, member, process);

    // Also those that found no room or no lock.
    let rest = batch.bytes.saturating_sub(moved.bytes as usize);
    if rest != 0 {
        batch.queue(0, Err);
        from.give_back(rest);
        relieve();
    }
    Ok(moved.bytes as usize)
}

/// Queues as many of the skbs as may go.
#[inline(always)]
fn commit<const N: usize>(
    sock: &Sock,
    batch: &mut Batch<N>,
    member: &Member<'_>,
    process: &mut Process<'_>,
) -> Moved {
    let nothing = Moved::none(Stop::Empty);
    let mut peer_guard = process.lock(member.peer());
    peer_guard.incoming_cpu_update();
    let Some((mut held, mut guard)) = peer_guard.held_and_try(sock) else {
        return nothing;
    };
    let Held::Free(own) = guard.held() else {
        return nothing;
    };
    let mut s = own.tcp();

    if !member.still_paired(sock)
        || !member.peer_still_paired()
        || !fence::may_pass(sock, member)
        || !fence::sender_is_clear(&s, member)
        || member.question().is_due(member.namespace())
    {
        return nothing;
    }
    let moved = match &mut held {
        Held::Free(peer) => to_queue(&mut s, peer, batch, member),
        Held::Busy(peer) => to_backlog(&mut s, peer, batch, member),
    };
    if moved.bytes != 0 {
        stats::moved(sock, member, &moved);
    }
    moved
}

/// The peer is the caller's.
#[inline(always)]
fn to_queue<const N: usize>(
    s: &mut Tcp<'_>,
    peer: &mut Spinlocked<'_>,
    batch: &mut Batch<N>,
    member: &Member<'_>,
) -> Moved {
    let mut p = peer.tcp();
    if !fence::receiver_is_clear(s, &p) {
        return Moved::none(Stop::Empty);
    }
    let mss = s.mss_cache();

    p.refresh_mstamp();
    let moved = batch.queue(s.write_seq(), |mut skb| {
        if !growth::has_room(s, &mut p, member) {
            return Err(skb);
        }
        if !p.rmem_schedule_new(&skb) {
            return Err(skb);
        }
        let segments = skb.set_segments(mss);
        p.receive(skb);
        Ok(segments)
    });
    if moved.bytes != 0 {
        written_and_moved(s, &moved);
        window::follow(s, &mut p);
        p.data_ready(member.rcu());
    }
    moved
}

/// A task owns the peer, and queues what is in the backlog when it lets go.
#[inline(never)]
fn to_backlog<const N: usize>(
    s: &mut Tcp<'_>,
    peer: &mut Busy<'_>,
    batch: &mut Batch<N>,
    member: &Member<'_>,
) -> Moved {
    // What is in the backlog is charged when its owner lets go, whatever the limits say then. Where
    // they are near, the ordinary way charges the writer first.
    if peer.under_memory_pressure() || fence::busy_receiver(s, peer, member.peer()).is_err() {
        return Moved::none(Stop::Empty);
    }
    let mss = s.mss_cache();
    let moved = batch.queue(s.write_seq(), |mut skb| {
        if !fence::has_room(member.peer()) {
            return Err(skb);
        }
        let segments = skb.set_segments(mss);
        peer.add_backlog(skb);
        Ok(segments)
    });
    if moved.bytes != 0 {
        written_and_moved(s, &moved);
        window::consume(s, moved.bytes);
    }
    moved
}
