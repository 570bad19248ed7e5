// SPDX-License-Identifier: GPL-2.0

//! The move itself: skbs leave the head of one socket's write queue and join
//! the other's receive queue, or its backlog if a task owns it.
//!
//! Whoever calls has the sender's state to itself and holds the receiver as
//! [`Place`] says; `fence` has been asked. No lock is taken here.

use crate::{
    abstractions::{
        tcp_jiffies32,
        Busy,
        Sock,
        Tcp, //
    },
    fence,
    hold::{
        may_go,
        Go, //
    },
    stats::Wire,
    window,
};

/// `ICSK_TIME_PROBE0`: the zero-window probe timer, which also ends a cork.
const PROBE0: u8 = kernel::bindings::ICSK_TIME_PROBE0 as u8;

/// An skb of fewer bytes does not make the receiver read the clock. It does so
/// to see how fast its buffer is read, to let the buffer grow
/// (`tcp_rcv_space_adjust()`); for small skbs the clock would cost more than the
/// rest of the move.
pub(crate) const MEASURED: u32 = 4096;

/// Where the receiver takes data.
pub(crate) enum Place<'a> {
    /// Its receive queue: the caller has all of its state.
    Queue(Tcp<'a>),
    /// Its backlog: a task owns it, the caller holds its spinlock.
    Backlog(Busy<'a>),
}

/// Why no more was moved.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The write queue is empty.
    Empty,
    /// What is left is held back by cork, or is still being filled.
    Held,
    /// The receiver is full.
    Full,
    /// What is next must take the wire.
    Wire(Wire),
}

/// What was moved.
pub(crate) struct Moved {
    /// Bytes of payload.
    pub(crate) bytes: u32,
    /// Skbs.
    pub(crate) skbs: u32,
    /// Segments that the wire would have made of them.
    pub(crate) segments: u32,
    /// Why it ended.
    pub(crate) stop: Stop,
}

impl Moved {
    /// Nothing was.
    pub(crate) const fn none(stop: Stop) -> Self {
        Self {
            bytes: 0,
            skbs: 0,
            segments: 0,
            stop,
        }
    }

    /// And more, after it.
    pub(crate) fn add(&mut self, more: &Moved) {
        self.bytes = self.bytes.wrapping_add(more.bytes);
        self.skbs = self.skbs.wrapping_add(more.skbs);
        self.segments = self.segments.wrapping_add(more.segments);
        self.stop = more.stop;
    }
}

/// Moves from `s` to `peer` whatever may go.
///
/// `mss` is in bytes, `nonagle` of `TCP_NAGLE_*`.
///
/// Relies on invariants 1 and 2, and restores 1: between two skbs nobody else
/// sees either socket, so the sequence numbers are written once at the end.
/// Restores 3 by [`window::follow`] and [`window::consume`].
pub(crate) fn move_all(
    s: &mut Tcp<'_>,
    peer: &Sock,
    place: &mut Place<'_>,
    mss: u32,
    nonagle: u32,
) -> Moved {
    let mut moved = Moved::none(Stop::Empty);
    moved.stop = loop {
        let Some(mut head) = s.send_head() else {
            break Stop::Empty;
        };
        if head.len() == 0 && head.segment().len() == 0 {
            // Its writer waits for memory, or for a page of its buffer.
            break Stop::Held;
        }
        match fence::skb(&head) {
            Ok(()) => (),
            // The FIN takes the wire, but not what stands before it: that would have to wait for
            // a window which a busy peer cannot tell.
            Err(_) if fence::is_data_and_fin(&head) && head.cut(head.len(), mss) => continue,
            Err(why) => break Stop::Wire(why),
        }
        match may_go(head.len(), mss, head.is_last(), nonagle) {
            Go::All => (),
            Go::Nothing => break Stop::Held,
            Go::Some(len) => {
                if !head.cut(len, mss) {
                    break Stop::Wire(Wire::Memory);
                }
            }
        }
        if !fence::has_room(peer) {
            break Stop::Full;
        }
        if head.is_zerocopy() && !head.own_pages() {
            break Stop::Wire(Wire::Memory);
        }
        let len = head.segment().len();
        let segments;
        match place {
            Place::Queue(p) => {
                if len >= MEASURED {
                    p.refresh_mstamp();
                }
                let Ok(mut skb) = head.take_for(p) else {
                    break Stop::Wire(Wire::Memory);
                };
                segments = skb.set_segments(mss);
                p.receive(skb);
            }
            Place::Backlog(b) => {
                let mut skb = head.take();

                segments = skb.set_segments(mss);
                b.add_backlog(skb);
            }
        }
        moved.bytes = moved.bytes.wrapping_add(len);
        moved.skbs = moved.skbs.wrapping_add(1);
        moved.segments = moved.segments.wrapping_add(segments);
    };

    if moved.skbs != 0 {
        sent_and_acknowledged(s, &moved);
        match place {
            Place::Queue(p) => window::follow(s, p),
            Place::Backlog(_) => window::consume(s, moved.bytes),
        }
    }
    moved
}

/// For how many segments of at most `mss` bytes `len` bytes stand.
#[inline]
pub(crate) fn segments_of(len: u32, mss: u32) -> u32 {
    // Mostly it is one, and a division is dear.
    if len <= mss {
        1
    } else {
        len.saturating_add(mss.saturating_sub(1))
            .checked_div(mss)
            .unwrap_or(1)
    }
}

/// The sender's sequence numbers, as if what was moved had been sent and
/// acknowledged (invariant 1), and what TCP_INFO tells of it.
#[inline(always)]
fn sent_and_acknowledged(s: &mut Tcp<'_>, moved: &Moved) {
    let now = tcp_jiffies32();
    let nxt = s.snd_nxt().wrapping_add(moved.bytes);

    s.set_snd_nxt(nxt);
    s.set_snd_una(nxt);
    // Else the difference would look like urgent data: tcp_urg_mode().
    s.set_snd_up(nxt);
    s.set_bytes_sent(s.bytes_sent().wrapping_add(moved.bytes.into()));
    s.set_bytes_acked(s.bytes_acked().wrapping_add(moved.bytes.into()));
    s.set_segs_out(s.segs_out().wrapping_add(moved.segments));
    s.set_data_segs_out(s.data_segs_out().wrapping_add(moved.segments));
    s.set_delivered(s.delivered().wrapping_add(moved.segments));
    // Else each skb would look like the first after a long pause, and cost the congestion window.
    s.set_lsndtime(now);
    // A reply: once there are enough, TCP delays ACKs (tcp_event_data_sent()).
    if now.wrapping_sub(s.lrcvtime()) < s.ato() {
        s.inc_pingpong();
    }
    // The peer lives: keepalive may wait.
    s.set_rcv_tstamp(now);
}

/// What a program has just written was moved at once: the sender's numbers, without
/// its window. The caller has the sender to itself.
#[inline(always)]
pub(crate) fn written_and_moved(s: &mut Tcp<'_>, moved: &Moved) {
    s.wrote(moved.bytes);
    sent_and_acknowledged(s, moved);
    probe_answered(s);
}

/// After a move, with no lock of the receiver needed: who waits for room to send
/// is woken. The caller has the sender to itself.
pub(crate) fn settle(s: &mut Tcp<'_>, moved: &Moved) {
    if moved.stop == Stop::Full {
        s.chrono_start_rwnd_limited();
    }
    if moved.skbs == 0 {
        return;
    }
    match moved.stop {
        Stop::Full => (),
        Stop::Empty => s.chrono_stop_busy(),
        Stop::Held | Stop::Wire(_) => s.chrono_stop_rwnd_limited(),
    }
    probe_answered(s);
    s.check_space();
}

/// A probe timer was armed for what has gone now. What is held back next gets
/// its full time. The caller has the sender to itself.
#[inline(always)]
fn probe_answered(s: &mut Tcp<'_>) {
    if s.icsk_pending() == PROBE0 {
        s.set_icsk_pending(0);
        s.set_icsk_backoff(0);
        s.set_icsk_probes_out(0);
        s.set_icsk_probes_tstamp(0);
    }
}
