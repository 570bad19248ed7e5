// SPDX-License-Identifier: GPL-2.0

//! The growth of a receive buffer that a peer keeps full, as with a stream of small messages.
//!
//! TCP lets a receive buffer grow with the bytes that are read in a round trip, less the bytes that
//! are still queued after it (`tcp_rcv_space_adjust()`). A friend refills the receive queue as soon
//! as there is room, so even the fastest reader always leaves much in the queue, and TCP's rule
//! seldom applies. Therefore a buffer that is found full doubles if its reader reads half of the
//! buffer in a round trip. A buffer doubles up to [`MOST`], and beyond that grows by TCP's rule
//! alone.
//!
//! A round trip through the loopback device takes less than a tick of TCP's timestamps. Receivers
//! on the wire therefore count up to a tick as the round trip, and so does this file. The buffer of
//! a reader that reads less than half of it in that time does not double.
//!
//! No lock is taken here.

use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

use crate::{
    net::Tcp,
    pair::{
        eligible,
        Member, //
    },
};

/// The size in bytes up to which a full buffer doubles. A larger queue would be evicted from a
/// processor's second-level cache between the copy into the queue and the copy out of the queue.
const MOST: i32 = 1 << 20;

/// The shortest round trip that counts, in microseconds: a tick of TCP's timestamps.
const ROUND_TRIP: u32 = 1000;

/// When a receiver was last found full, and how far its reader had read by then.
pub(crate) struct Growth {
    /// The receiver's `copied_seq` at that time.
    seq: Atomic<u32>,
    /// The time in microseconds, modulo 2^32.
    at: Atomic<u32>,
}

/// Lets the receive buffer of `p` grow by TCP's rule, after data was read. `member` is the view of
/// `p`.
///
/// While the writer waits for this reader ([`room`](super::room)), the queue is emptied often, and
/// a larger buffer would only be evicted from the cache. Then TCP measures anew from here.
#[inline(always)]
pub(crate) fn adjust(p: &mut Tcp<'_>, member: &Member<'_>) {
    if member.peer_end().room().sets_pace(p) {
        p.restart_rcv_space();
    } else {
        p.rcv_space_adjust();
    }
}

impl Growth {
    /// Creates the state of a receiver that has read nothing yet.
    pub(crate) fn new(copied_seq: u32) -> Self {
        Self {
            seq: Atomic::new(copied_seq),
            at: Atomic::new(0),
        }
    }

    /// Lets the buffer of `p`, which is full, grow if the reader has earned that. Returns whether
    /// the buffer has grown and `p` has room now. The caller has exclusive access to `p`.
    #[cold]
    #[inline(never)]
    pub(crate) fn grow(&self, p: &mut Tcp<'_>) -> bool {
        let size = p.sock().receive_buffer();

        p.refresh_mstamp();
        // TRUNCATE: Only differences modulo 2^32 are used.
        let (seq, at) = (p.copied_seq(), p.mstamp() as u32);
        let read = seq.wrapping_sub(self.seq.load(Relaxed));
        let time = at.wrapping_sub(self.at.load(Relaxed));

        self.seq.store(seq, Relaxed);
        self.at.store(at, Relaxed);
        size < MOST
            && !p.sock().is_short_of_memory()
            && is_earned(read, time, size.unsigned_abs())
            && p.grow_receive_buffer(size.saturating_mul(2).min(MOST))
            && eligible::has_room(p.sock())
    }
}

/// Returns whether a reader that has read `read` bytes in `time` microseconds reads half of a
/// buffer of `size` bytes in a round trip.
const fn is_earned(read: u32, time: u32, size: u32) -> bool {
    let longer = if time > ROUND_TRIP { time } else { ROUND_TRIP };

    read as u64 * ROUND_TRIP as u64 >= size as u64 / 2 * longer as u64
}

#[kernel::macros::kunit_tests(tcp_friends_growth)]
mod tests {
    use super::*;

    #[test]
    fn half_in_a_round_trip_is_enough() {
        assert!(is_earned(500, ROUND_TRIP, 1000));
        assert!(!is_earned(499, ROUND_TRIP, 1000));
        assert!(is_earned(500, 1, 1000));
    }

    #[test]
    fn slow_readers_earn_nothing() {
        assert!(!is_earned(128 << 10, 20_000, 128 << 10));
        assert!(is_earned(2 << 20, 20_000, 128 << 10));
    }
}
