// SPDX-License-Identifier: GPL-2.0

//! The fast lane of large writes: the bytes are copied into skbs while no spinlock is
//! held, and only to queue these the two sockets are locked. So a writer and a reader on two
//! processors copy at the same time.
//!
//! A call of [`AT_ONCE`] bytes at most for which there is room goes without owning the socket, as
//! a whole or not at all ([`send`]). All others own it for the whole call, as TCP does, and come
//! here in `tcp_sendmsg_locked()` as often as there is room ([`send_owned`]); what is left is
//! TCP's. What was copied and may not go after all is given back to the program's iterator.
//!
//! # Locks
//!
//! The peer's spinlock is waited for; the sender's own one is tried then, unless it is owned.
//!
//! # Races
//!
//! Those of [`fast_send`](crate::fast_send). Two tasks that write to one socket at the same
//! moment copy at the same moment; which of them is first is decided by who has the locks first,
//! and the bytes get their numbers then.

use kernel::warn_on;

use crate::{
    abstractions::{
        keep,
        relieve,
        take,
        Held,
        Lied,
        Member,
        Owned,
        Process,
        Rcu,
        Size,
        Skb,
        SlockGuard,
        Sock,
        Source,
        Tcp, //
    },
    fast_send::may_pass,
    fence,
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

/// So many bytes are copied at once, in one RCU critical section, at most.
const AT_ONCE: usize = kernel::bindings::TCP_FRIENDS_AT_ONCE as usize;

/// The most skbs that hold [`AT_ONCE`] bytes: one of [`Size::Paged`], then less than makes another
/// one, in two linear skbs.
const SKBS: usize = 3;

/// Filled skbs, in order, that are in no queue.
struct Batch {
    skbs: [Option<Skb>; SKBS],
    bytes: usize,
    truesize: u32,
}

impl Batch {
    /// An empty one.
    const fn new() -> Self {
        Self {
            skbs: [const { None }; SKBS],
            bytes: 0,
            truesize: 0,
        }
    }

    /// Copies at most `want` bytes: as many as there is memory for and pages are there.
    #[inline(always)]
    fn fill(&mut self, from: &mut Source<'_>, want: usize) {
        for slot in &mut self.skbs {
            let left = want.saturating_sub(self.bytes);
            if left == 0 {
                break;
            }
            let size = Size::of(left);
            let Some(mut skb) = take(size) else {
                break;
            };
            let bytes = left.min(size.room());
            let filled = if size == Size::Paged {
                skb.fill_pages(from, bytes)
            } else {
                skb.fill(from, bytes)
            };
            if filled.is_err() {
                keep(skb);
                break;
            }
            self.bytes = self.bytes.saturating_add(bytes);
            self.truesize = self.truesize.saturating_add(skb.truesize());
            *slot = Some(skb);
        }
    }

    /// Queues all, behind what the receiver has, or none. The caller has exclusive access to
    /// both sockets.
    ///
    /// Relies on invariants 1 and 2, which the fences establish, and restores 1 and 3. The
    /// receiver is not woken.
    #[inline(always)]
    fn commit(
        &mut self,
        sock: &Sock,
        s: &mut Tcp<'_>,
        p: &mut Tcp<'_>,
        member: &Member<'_>,
    ) -> usize {
        if self.bytes == 0
            || !may_pass(sock, s, p, member)
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
            let len = skb.number(seq);
            let segments = skb.set_segments(mss);

            seq = seq.wrapping_add(len);
            if let Err(Lied) = p.receive_made(skb) {
                break;
            }
            moved.add(&Moved {
                bytes: len,
                skbs: 1,
                segments,
                stop: Stop::Empty,
            });
        }
        stats::moved(sock, member, &moved);
        written_and_moved(s, &moved);
        window::follow(s, p);
        moved.bytes as usize
    }

    /// What was not queued is given back to the program, and its skbs are kept for the next.
    #[inline(always)]
    fn give_back(&mut self, from: &mut Source<'_>, moved: usize) {
        if moved != self.bytes {
            self.give_back_rest(from, moved);
        }
    }

    #[cold]
    #[inline(never)]
    fn give_back_rest(&mut self, from: &mut Source<'_>, moved: usize) {
        self.skbs.iter_mut().filter_map(Option::take).for_each(keep);
        from.give_back(self.bytes.saturating_sub(moved));
        relieve();
    }
}

/// How many of `want` bytes, [`AT_ONCE`] at most, the receiver has room for: one skb more than
/// fills its buffer, as for all that it receives ([`fence::has_room`](crate::fence::has_room)). A guess without its lock.
#[inline(always)]
fn room_for(peer: &Sock, want: usize) -> usize {
    let room = Size::Paged.room();

    if !fence::has_room(peer) {
        return 0;
    }
    if want <= room {
        return want;
    }
    let free = peer.receive_buffer().saturating_sub(peer.receive_memory());
    // An skb of that many bytes takes hardly more memory than that.
    let skbs = (free.max(0).unsigned_abs() as usize / (room + room / 8)).saturating_add(1);

    want.min(skbs.saturating_mul(room)).min(AT_ONCE)
}

/// Writes all of `from`, which has [`LARGE`] at least and [`AT_ONCE`] at most, and returns how
/// many bytes that were; 0 if TCP must write them.
///
/// Takes both spinlocks, and gives them back.
pub(crate) fn send(
    sock: &Sock,
    mut from: Source<'_>,
    member: Member<'_>,
    process: Process<'_>,
) -> usize {
    let want = from.len();
    let peer = member.peer();

    // What is sure to be refused is not copied first.
    if sock.seems_to_queue()
        || peer.seems_owned()
        || !member.nobody_waits()
        || room_for(peer, want) < want
    {
        return 0;
    }
    write(sock, &mut from, want, &member, Writer::Task(process))
}

/// Writes some bytes of `from` to `sock`, which its caller owns (hook). Returns how many; 0 if
/// TCP must write what is left.
///
/// Takes the peer's spinlock, and gives it back.
pub(crate) fn send_owned(
    sock: &Sock,
    mut from: Source<'_>,
    owned: Owned<'_>,
    rcu: Rcu<'_>,
) -> usize {
    let Some(member) = Member::of(sock, rcu) else {
        return 0;
    };
    let peer = member.peer();
    let want = room_for(peer, from.len());

    // What is sure to be refused is not copied first.
    if owned.tcp().write_queue() != 0 || peer.seems_owned() || !member.nobody_waits() || want == 0 {
        return 0;
    }
    write(sock, &mut from, want, &member, Writer::Owner(owned))
}

/// Who writes.
enum Writer<'a> {
    /// A task that has not locked the socket: its call is all or nothing.
    Task(Process<'a>),
    /// The socket's owner.
    Owner(Owned<'a>),
}

/// Writes `want` bytes, or as many as there is memory for if the owner does. Returns how many.
///
/// Takes the spinlocks that the caller has not, and gives them back.
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
    batch.give_back(from, moved);
    // What was not queued has been kept for other writes, so that every place is empty, and to
    // drop them would only look at each.
    if cfg!(CONFIG_RUST_DEBUG_ASSERTIONS) {
        warn_on!(batch.skbs.iter().any(Option::is_some));
    }
    core::mem::forget(batch);
    moved
}

/// Takes the spinlocks, queues, and wakes the reader.
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
    let Held::Free(mut peer_locked) = peer_guard.held() else {
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
