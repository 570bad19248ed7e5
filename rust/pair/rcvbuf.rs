// SPDX-License-Identifier: GPL-2.0

//! The receive buffer of a stream of small messages.
//!
//! TCP lets a receive buffer grow with what is read in a round trip (`tcp_rcv_space_adjust()`),
//! less what is still queued then. A friend fills the queue up as soon as there is room, so that
//! a reader who is as fast as can be always leaves much of it, and the rule seldom applies. So a
//! buffer that is found full doubles if its reader reads half of it in a round trip, up to
//! [`MOST`]; beyond that it grows by TCP's rule alone.
//!
//! By way of the loopback device a round trip takes less than a tick of TCP's time stamps, so that
//! the wire's receivers reckon with up to a tick, and so do we: one who reads less in that time has
//! no more than it began with.
//!
//! No lock is taken here.

use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

use crate::{
    abstractions::Tcp,
    fence, //
};

/// More would be pushed out of a processor's second-level cache between the copy into the queue
/// and the copy out of it, in bytes.
const MOST: i32 = 1 << 20;

/// A tick of TCP's time stamps, in microseconds.
const ROUND_TRIP: u32 = 1000;

/// When a receiver was last found full, and what it had read by then.
pub(crate) struct Growth {
    /// `copied_seq`.
    seq: Atomic<u32>,
    /// In microseconds, modulo 2^32.
    at: Atomic<u32>,
}

impl Growth {
    /// The receiver has read nothing yet.
    pub(crate) fn new(copied_seq: u32) -> Self {
        Self {
            seq: Atomic::new(copied_seq),
            at: Atomic::new(0),
        }
    }

    /// Whether `p`, which is full, takes more now since its buffer has grown. The caller has
    /// exclusive access to it.
    #[cold]
    #[inline(never)]
    pub(crate) fn grow(&self, p: &mut Tcp<'_>) -> bool {
        let size = p.sock().receive_buffer();

        p.refresh_mstamp();
        // TRUNCATE: Only differences count.
        let (seq, at) = (p.copied_seq(), p.mstamp() as u32);
        let read = seq.wrapping_sub(self.seq.load(Relaxed));
        let time = at.wrapping_sub(self.at.load(Relaxed));

        self.seq.store(seq, Relaxed);
        self.at.store(at, Relaxed);
        size < MOST
            && !p.sock().is_short_of_memory()
            && is_earned(read, time, size.unsigned_abs())
            && p.grow_receive_buffer(size.saturating_mul(2).min(MOST))
            && fence::has_room(p.sock())
    }
}

/// Whether whoever has read so many bytes in so many microseconds reads half of a buffer of `size`
/// bytes in a round trip.
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
