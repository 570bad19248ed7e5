// SPDX-License-Identifier: GPL-2.0

//! Waiting for room: a writer that finds its friend full may sleep until the reader has read half
//! of the receive buffer.
//!
//! If writer and reader share a CPU, the reader cannot read while the writer runs. A writer that
//! finds its friend full would leave its data to TCP, for which the write queue is a second queue,
//! and the bytes would be copied out of both when they are no longer in the CPU's cache. So the
//! writer lets the reader run first. A queue that is emptied so often need not be large: while the
//! waiting works, the receive buffer does not grow by TCP's own rule, but only doubles
//! ([`rcvbuf`](super::rcvbuf)), and so stays within a second-level cache.
//!
//! TCP would accept the data in place of waiting. Therefore a write waits once, and for two jiffies
//! at most. A writer whose reader did not read half of the buffer at once, a few times in a row,
//! does not wait again for a second. And no writer waits in a namespace of which too many writers
//! have waited in vain in the same second
//! ([`Namespace::begin_wait`](crate::netns::Namespace::begin_wait)).
//!
//! A writer on another CPU than the reader does not wait: both copy at the same time, and a wake-up
//! of another CPU costs more than a large queue does.
//!
//! # Locks
//!
//! The state is changed with exclusive access to the receiver, so that a writer that finds its
//! friend full and a reader that makes room never miss each other. No lock is taken here.
//!
//! # Races
//!
//! The writer sleeps without a lock (`tcp_friends_wait_for_room()` on the C side). It sleeps while
//! the bit `TCP_FRIEND_FULL` is set in its socket. The bit is set here, before the writer sleeps,
//! and cleared before the wake-up; `wait_on_bit()` and `wake_up_bit()` order the rest. The C side
//! notices a disconnect. Whatever else may come in between (a reset, the end of the pair, another
//! writer's bytes) is found when the writer, awake again, begins its write anew.

use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

use crate::{
    net::{
        is_only_task,
        this_cpu,
        Sock,
        Source,
        Tcp, //
    },
    pair::Member,
    stats::Counter, //
};

/// The least bytes of a write that waits. A smaller one costs less than the wait.
const LEAST: usize = 4 << 10;

/// The most bytes of a write that waits. A larger one is not made at once in any case.
const MOST: usize = 128 << 10;

/// The most bytes of a write for which every receiver that is not full has room.
const ONE_SKB: usize = 64 << 10;

/// The least size in bytes of a receive buffer for whose reader a writer waits.
const LEAST_BUFFER: i32 = 64 << 10;

/// The time in microseconds within which a reader reads half of the buffer at once: a turn of the
/// scheduler, in which the reader would run in any case if it shares its CPU with the writer.
const AT_ONCE: u32 = 3000;

/// How many times in a row a reader may be late without a pause.
const LATE: i8 = 3;

/// The time in microseconds for which a writer does not wait after waiting has failed.
const PAUSE: u32 = 1_000_000;

/// Whether the writer of one direction waits, or did so with success.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
enum Pace {
    /// The writer has not found its friend full, or did not wait.
    Free = 0,
    /// A writer waits since [`Room::since`], or did wait and was not woken.
    Waits = 1,
    /// The reader has made room after the last wait, at [`Room::since`].
    Works = 2,
    /// The reader was late once too often at [`Room::since`].
    Failed = 3,
}

/// What one direction keeps for the writer that waits for room.
///
/// The fields are written with exclusive access to the receiver.
pub(crate) struct Room {
    pace: Atomic<i8>,
    /// How many times in a row the reader was late.
    late: Atomic<i8>,
    /// The CPU on which the receiver was last read in place; -1 if it was not.
    reader_cpu: Atomic<i16>,
    /// A time in microseconds, modulo 2^32; see [`Pace`].
    since: Atomic<u32>,
}

impl Room {
    /// Creates the state of a direction in which nothing was written yet.
    pub(crate) const fn new() -> Self {
        Self {
            pace: Atomic::new(Pace::Free as i8),
            late: Atomic::new(0),
            reader_cpu: Atomic::new(-1),
            since: Atomic::new(0),
        }
    }

    fn is(&self, pace: Pace) -> bool {
        self.pace.load(Relaxed) == pace as i8
    }

    fn set(&self, pace: Pace) {
        self.pace.store(pace as i8, Relaxed);
    }

    fn begin(&self, pace: Pace, now: u32) {
        self.since.store(now, Relaxed);
        self.set(pace);
    }

    /// Ends a wait in which the reader did not read half of the buffer at once, with `pace` unless
    /// that has happened too often in a row.
    fn end_late(&self, now: u32, pace: Pace) {
        let late = self.late.load(Relaxed);

        if late < LATE {
            self.late.store(late.saturating_add(1), Relaxed);
            self.begin(pace, now);
        } else {
            self.late.store(0, Relaxed);
            self.begin(Pace::Failed, now);
        }
    }

    /// Notes that the receiver was read in place on this CPU.
    #[inline(always)]
    pub(crate) fn reads_here(&self) {
        let here = cpu();

        // The line is written only if the reader has moved, since the writer uses it as well.
        if self.reader_cpu.load(Relaxed) != here {
            self.reader_cpu.store(here, Relaxed);
        }
    }

    /// Returns whether a writer may be waiting for this reader.
    #[inline(always)]
    pub(crate) fn is_awaited(&self) -> bool {
        self.is(Pace::Waits)
    }

    /// Returns whether a writer on this CPU waits for the reader of `p` with success, and did so in
    /// the last second, so that the receive buffer of `p` need not hold more than it does.
    #[inline(always)]
    pub(crate) fn sets_pace(&self, p: &Tcp<'_>) -> bool {
        // Whoever brings data reads the clock. TRUNCATE: Only differences modulo 2^32 are used.
        let time = (p.mstamp() as u32).wrapping_sub(self.since.load(Relaxed));

        self.is(Pace::Works) && p.sock().incoming_cpu() == cpu().into() && time < PAUSE
    }
}

/// Returns the number of this CPU. The task may move to another CPU meanwhile, which does no harm.
fn cpu() -> i16 {
    // TRUNCATE: No kernel has more than 8192 CPUs.
    this_cpu() as i16
}

/// Whether a write that finds its friend full can go on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// The friend has got more room meanwhile.
    HasRoom,
    /// The writer has to wait, without a lock, until the reader wakes it.
    Wait,
    /// The write is left to TCP.
    Tcp,
}

/// Returns whether the write of `from` may wait for a reader of `p` that runs on this CPU, and will
/// go on when half of the receive buffer of `p` is free. `sock` is the socket that is written to.
fn may_wait(sock: &Sock, from: &Source<'_>, p: &Tcp<'_>) -> bool {
    let (receiver, want) = (p.sock(), from.len());
    let (buffer, half) = (receiver.receive_buffer(), receiver.receive_buffer() / 2);

    from.may_wait()
        && (LEAST..=MOST).contains(&want)
        && !sock.has_send_timeout()
        && receiver.has_plain_data_ready()
        && !receiver.is_short_of_memory()
        && buffer >= LEAST_BUFFER
        && receiver.receive_memory() > half
        // An skb takes an eighth more memory than it has room.
        && (want <= ONE_SKB || half.unsigned_abs() as usize >= want.saturating_add(want / 8))
        // The reader of a full queue does not wait for data. If nothing else wants this CPU, the
        // reader has moved to another one, or does something else.
        && !is_only_task()
}

/// Decides what a write of the bytes in `from` does, for which `p`, the friend of `sock`, has no
/// room. The bytes could be moved if there were room. `member` is the view of `sock`.
///
/// The caller has exclusive access to both sockets.
#[cold]
#[inline(never)]
pub(crate) fn full(sock: &Sock, from: &Source<'_>, member: &Member<'_>, p: &mut Tcp<'_>) -> Full {
    let (room, namespace) = (member.end().room(), member.namespace());

    p.refresh_mstamp();
    // TRUNCATE: Only differences modulo 2^32 are used.
    let now = p.mstamp() as u32;
    let time = now.wrapping_sub(room.since.load(Relaxed));

    if room.is(Pace::Waits) && time > AT_ONCE {
        room.end_late(now, Pace::Free);
        // Another writer may still sleep.
        sock.wake_for_room();
    }
    if room.is(Pace::Failed) && now.wrapping_sub(room.since.load(Relaxed)) < PAUSE
        || room.reader_cpu.load(Relaxed) != cpu()
        || !may_wait(sock, from, p)
    {
        return Full::Tcp;
    }
    if member.peer_end().growth().grow(p) {
        return Full::HasRoom;
    }
    // One writer of a socket waits at a time, so that each wait is charged.
    if room.is(Pace::Waits) || !namespace.begin_wait() {
        return Full::Tcp;
    }
    room.begin(Pace::Waits, now);
    sock.expect_room();
    namespace.count(Counter::Waited, 1);
    Full::Wait
}

/// Notes that data of `s` is left in the write queue, because the receiver `p` is full. From now on
/// the receive buffer grows by TCP's rule again, and a writer that waits has waited in vain.
/// `member` is the view of `s`.
///
/// The caller has exclusive access to both sockets.
pub(crate) fn left_to_tcp(s: &Tcp<'_>, p: &mut Tcp<'_>, member: &Member<'_>) {
    let room = member.end().room();

    if room.is(Pace::Works) {
        room.set(Pace::Free);
    } else if room.is(Pace::Waits) {
        p.refresh_mstamp();
        // TRUNCATE: Only differences modulo 2^32 are used.
        room.end_late(p.mstamp() as u32, Pace::Free);
        s.sock().wake_for_room();
    }
}

/// Wakes the writer that waits for `p`, if at least half of its receive buffer is free. `member` is
/// the view of `p`, and [`Room::is_awaited`].
///
/// The caller has exclusive access to the receiver `p`, and has removed what was read from its
/// queue.
#[cold]
#[inline(never)]
pub(crate) fn has_read(p: &mut Tcp<'_>, member: &Member<'_>) {
    let room = member.peer_end().room();

    if p.sock().receive_memory() > p.sock().receive_buffer() / 2 {
        return;
    }
    p.refresh_mstamp();
    // TRUNCATE: Only differences modulo 2^32 are used.
    let now = p.mstamp() as u32;

    if now.wrapping_sub(room.since.load(Relaxed)) <= AT_ONCE {
        member.peer_namespace().end_wait();
        room.late.store(0, Relaxed);
        room.begin(Pace::Works, now);
        // A read that TCP has made has not gone through `rcvbuf::adjust()`.
        p.restart_rcv_space();
    } else {
        room.end_late(now, Pace::Works);
    }
    member.peer().wake_for_room();
}
