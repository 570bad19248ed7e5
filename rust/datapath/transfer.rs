// SPDX-License-Identifier: GPL-2.0

//! Performs the move itself: skbs leave the head of one socket's write queue and join the other
//! socket's receive queue.
//!
//! The caller has exclusive access to both sockets: it owns each socket, or holds the socket's
//! spinlock while no task owns it. No lock is taken here.
//!
//! Readers are not woken here either: a wake-up may run a reader of the socket at once, and the
//! reader must find both sockets in a complete state. The callers wake the readers when both
//! sockets are complete.

use crate::{
    net::{
        nagle::{
            allowed,
            Allowed, //
        },
        tcp_jiffies32,
        OutOfSequence,
        Tcp, //
    },
    pair::{
        eligible::{
            self,
            Eligibility, //
        },
        revalidate::Ask,
        room,
        tally,
        window,
        Member,
        Pushing, //
    },
    stats::{
        Counter,
        Fallback, //
    },
};

/// `ICSK_TIME_PROBE0`: the zero-window probe timer, which also ends a cork.
const PROBE0: u8 = kernel::bindings::ICSK_TIME_PROBE0 as u8;

/// The size, in bytes, of the smallest skb for which the receiver reads the clock. The clock shows
/// how fast the receive buffer is read, so that the buffer can grow (`tcp_rcv_space_adjust()`). For
/// smaller skbs the clock would cost more than the rest of the move.
pub(crate) const CLOCK_MIN_LEN: u32 = 4096;

/// The reason why no more was moved.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The write queue is empty.
    Empty,
    /// Cork holds back what is left, or the writer is still filling it.
    Held,
    /// The receiver is full.
    Full,
    /// A task owns the other socket, or the sender's owner has a backlog to process. The task looks
    /// for data to move when it releases its socket.
    OwnedByUser,
    /// The next data must take the wire.
    Fallback(Fallback),
}

/// The result of a move.
pub(crate) struct Moved {
    /// Bytes of payload.
    pub(crate) bytes: u32,
    /// Skbs.
    pub(crate) skbs: u32,
    /// Segments that the wire would have made of these bytes.
    pub(crate) segments: u32,
    /// Why the move ended.
    pub(crate) stop: Stop,
}

impl Moved {
    /// Returns the result of a move that has moved nothing, for the reason `stop`.
    pub(crate) const fn none(stop: Stop) -> Self {
        Self {
            bytes: 0,
            skbs: 0,
            segments: 0,
            stop,
        }
    }

    /// Adds the result of a later move, whose reason to stop counts.
    pub(crate) fn add(&mut self, more: &Moved) {
        self.bytes = self.bytes.wrapping_add(more.bytes);
        self.skbs = self.skbs.wrapping_add(more.skbs);
        self.segments = self.segments.wrapping_add(more.segments);
        self.stop = more.stop;
    }

    /// Returns whether the readers of the receiver have to be woken.
    pub(crate) fn wakes(&self) -> bool {
        self.skbs != 0 || self.stop == Stop::Full
    }
}

/// Moves all data that may be moved from `s` to `p`. `eligible` is the result of
/// [`eligible::sender`], and `member` is the sender's view of the pair.
///
/// `mss` is in bytes, and `nonagle` holds `TCP_NAGLE_*` bits. The caller has exclusive access to
/// both sockets.
///
/// Relies on invariants 1 and 2, which [`eligible::sender`] and [`eligible::receiver`] establish.
/// Keeps invariant 3: a sender that takes the wire knows the largest window that the receiver can
/// offer, if possible.
pub(crate) fn transfer(
    s: &mut Tcp<'_>,
    p: &mut Tcp<'_>,
    member: &Member<'_>,
    mss: u32,
    nonagle: u32,
    eligible: Eligibility,
) -> Moved {
    let moved = match eligible
        .and_then(|()| eligible::receiver(s, p, member))
        .and_then(|()| ask(s, p, member, mss, nonagle))
    {
        Ok(None) => {
            let mut moved = move_all(s, p, mss, nonagle);
            while moved.stop == Stop::Full && member.peer_end().growth().grow(p) {
                moved.add(&move_all(s, p, mss, nonagle));
            }
            moved
        }
        Ok(Some(stop)) => Moved::none(stop),
        Err(why) => Moved::none(Stop::Fallback(why)),
    };
    match moved.stop {
        Stop::Full => {
            // No task reads now. A task that reads later takes the receiver's lock first, and then
            // sees that the sender waits.
            member.end().set_waiting(true);
            room::left_to_tcp(s, p, member);
            window::shut(s, p);
            // The send buffer otherwise grows with the congestion window, which friends do not
            // open.
            s.grow_send_buffer(p.sock().receive_buffer());
            member.namespace().count(Counter::Full, 1);
        }
        Stop::Fallback(why) => {
            if why != Fallback::PeerState && window::is_known(s, p) {
                window::renew(s, p);
            }
            // The sender's next segment echoes the time stamp of the last segment that it received
            // by the wire, perhaps long ago. The receiver must not take that echo for a sample of
            // the round trip.
            p.set_rcv_rtt_last_tsecr(s.ts_recent());
        }
        Stop::Empty | Stop::Held | Stop::OwnedByUser => (),
    }
    if moved.skbs != 0 {
        tally::moved(s.sock(), member, moved.bytes, moved.skbs);
    }
    moved
}

/// Updates, from time to time, what TCP otherwise learns from ACKs and routes, and revalidates the
/// connection by asking the wire.
///
/// Returns `Ok(None)` if data may be moved now, and otherwise why nothing may be moved. The caller
/// has exclusive access to both sockets. Like [`transfer`], relies on invariants 1 and 2, and keeps
/// invariant 3.
fn ask(
    s: &mut Tcp<'_>,
    p: &mut Tcp<'_>,
    member: &Member<'_>,
    mss: u32,
    nonagle: u32,
) -> Result<Option<Stop>, Fallback> {
    let question = member.question();

    if member.end().question().is_not_due() {
        return Ok(None);
    }
    member.end().refresh(s);
    if !question.is_due() {
        return Ok(None);
    }
    // The wire needs the largest window that the receiver can offer.
    window::renew(s, p);
    match question.ask(s, mss, nonagle) {
        Ask::Wire => Err(Fallback::Revalidate),
        // Data that the wire would not transmit now must not be moved past the wire.
        Ask::Window => Ok(Some(Stop::Full)),
        Ask::Nothing | Ask::Data => Ok(None),
    }
}

/// Moves what the sender `s` has left in its write queue, on behalf of a caller that has found the
/// sender waiting; `member` is the sender's view of the pair. Transmits data that must take the
/// wire, and arms the probe timer for data that has to wait.
///
/// The caller has exclusive access to both sockets. Like [`transfer`], relies on invariants 1 and
/// 2, and keeps invariant 3. The readers of `p` are not woken.
pub(crate) fn pull(s: &mut Tcp<'_>, p: &mut Tcp<'_>, member: &Member<'_>) -> Moved {
    let (mss, nonagle) = (s.mss_cache(), s.nonagle());
    let eligible = eligible::sender(s, member);
    let moved = transfer(s, p, member, mss, nonagle, eligible);

    if moved.skbs != 0 {
        member.peer_namespace().count(Counter::Pulled, 1);
    }
    let answer = match moved.stop {
        Stop::Empty | Stop::OwnedByUser => Pushing::Not,
        Stop::Held | Stop::Full => Pushing::Waits,
        Stop::Fallback(why) => {
            tally::fell_back(s.sock(), member, why);
            member.end().note_fallback(s);
            Pushing::ToWire
        }
    };
    member
        .end()
        .set_waiting(answer != Pushing::Not && moved.stop != Stop::Held);
    settle(s, &moved);
    if answer != Pushing::Not {
        member.end().push(s, answer);
    }
    moved
}

/// The most skbs that are moved with both spinlocks held; what is left takes the wire.
const MAX_SKBS: u32 = 256;
/// Once this many bytes have been copied with both spinlocks held, what is left takes the wire.
const MAX_COPIED: u32 = 128 * 1024;

/// Moves skbs until a reason to [`Stop`] occurs.
///
/// Relies on invariants 1 and 2, and restores invariant 1: no other context sees either socket
/// between two skbs, so the sender's sequence numbers are written once, at the end. Restores
/// invariant 3 by [`window::follow`].
fn move_all(s: &mut Tcp<'_>, p: &mut Tcp<'_>, mss: u32, nonagle: u32) -> Moved {
    let mut moved = Moved::none(Stop::Empty);
    let mut copied = 0u32;

    moved.stop = loop {
        let Some(mut head) = s.send_head() else {
            break Stop::Empty;
        };
        if head.len() == 0 && head.segment().len() == 0 {
            // The writer of this skb waits for memory, or for a page of its buffer.
            break Stop::Held;
        }
        match eligible::skb(&head) {
            Ok(()) => (),
            // The FIN takes the wire, but the data before the FIN is moved.
            Err(_) if eligible::is_data_and_fin(&head) && head.split(head.len(), mss) => continue,
            Err(why) => break Stop::Fallback(why),
        }
        match allowed(head.len(), mss, head.is_last(), nonagle) {
            Allowed::All => (),
            Allowed::Nothing => break Stop::Held,
            Allowed::Bytes(len) => {
                if !head.split(len, mss) {
                    break Stop::Fallback(Fallback::Memory);
                }
            }
        }
        if !eligible::has_room(p.sock()) {
            break Stop::Full;
        }
        if moved.skbs == MAX_SKBS || copied >= MAX_COPIED {
            break Stop::Fallback(Fallback::Contended);
        }
        if head.is_zerocopy() {
            copied = copied.wrapping_add(head.len());
            if !head.copy_user_pages() {
                break Stop::Fallback(Fallback::Memory);
            }
        }
        let len = head.segment().len();
        if len >= CLOCK_MIN_LEN {
            p.refresh_mstamp();
        }
        let Ok(skb) = head.take_for(p) else {
            break Stop::Fallback(Fallback::Memory);
        };
        let segments = skb.segments(mss);
        if let Err(OutOfSequence) = p.receive(skb, segments) {
            break Stop::Fallback(Fallback::Sequence);
        }
        moved.bytes = moved.bytes.wrapping_add(len);
        moved.skbs = moved.skbs.wrapping_add(1);
        moved.segments = moved.segments.wrapping_add(segments);
    };

    if moved.skbs != 0 {
        sent_and_acknowledged(s, &moved);
        window::follow(s, p);
    }
    moved
}

/// Advances the sender's sequence numbers as if the moved bytes had been sent and acknowledged
/// (invariant 1), and updates what TCP_INFO shows.
#[inline(always)]
fn sent_and_acknowledged(s: &mut Tcp<'_>, moved: &Moved) {
    let now = tcp_jiffies32();
    let nxt = s.snd_nxt().wrapping_add(moved.bytes);

    s.set_snd_nxt(nxt);
    s.set_snd_una(nxt);
    // A difference to `snd_una` would look like urgent data (`tcp_urg_mode()`).
    s.set_snd_up(nxt);
    s.set_bytes_sent(s.bytes_sent().wrapping_add(moved.bytes.into()));
    s.set_bytes_acked(s.bytes_acked().wrapping_add(moved.bytes.into()));
    s.set_segs_out(s.segs_out().wrapping_add(moved.segments));
    s.set_data_segs_out(s.data_segs_out().wrapping_add(moved.segments));
    s.set_delivered(s.delivered().wrapping_add(moved.segments));
    if s.lsndtime() != now {
        another_jiffy(s.reborrow());
    }
    // Otherwise each skb would look like the first one after a long pause, which costs congestion
    // window.
    s.set_lsndtime(now);
    // This is a reply. After enough replies, TCP delays ACKs (`tcp_event_data_sent()`).
    if now.wrapping_sub(s.lrcvtime()) < s.ato() {
        s.inc_pingpong();
    }
    // The peer is alive, so the keepalive probe may wait.
    s.set_rcv_tstamp(now);
}

/// Counts this jiffy as busy, since data is sent for the first time in it. Moved data is
/// acknowledged at once, so a sender is busy in those jiffies in which it moves data.
#[cold]
#[inline(never)]
fn another_jiffy(mut s: Tcp<'_>) {
    // If one of the sender's clocks (`TCP_CHRONO_*`) runs already, that clock counts the jiffy.
    if s.chrono_type() == 0 {
        s.add_busy_jiffy();
    }
}

/// Advances the sender's sequence numbers for bytes that a program has just written and that were
/// moved at once. The sender's window is left to the caller. The caller has exclusive access to the
/// sender.
#[inline(always)]
pub(crate) fn written_and_moved(s: &mut Tcp<'_>, moved: &Moved) {
    s.advance_write_seq(moved.bytes);
    sent_and_acknowledged(s, moved);
    probe_answered(s);
}

/// Completes a move on the sender's side: updates what TCP_INFO shows, and wakes tasks that wait
/// for room to send. The receiver's lock is not needed. The caller has exclusive access to the
/// sender.
pub(crate) fn settle(s: &mut Tcp<'_>, moved: &Moved) {
    if moved.stop == Stop::Full {
        s.chrono_start_rwnd_limited();
    }
    if moved.skbs == 0 {
        return;
    }
    match moved.stop {
        Stop::Full | Stop::OwnedByUser => (),
        Stop::Empty => s.chrono_stop_busy(),
        Stop::Held | Stop::Fallback(_) => s.chrono_stop_rwnd_limited(),
    }
    probe_answered(s);
    s.check_space();
}

/// Cancels a probe timer that was armed for data that has been moved now, so that data which is
/// held back next gets the timer's full time. The caller has exclusive access to the sender.
#[inline(always)]
fn probe_answered(s: &mut Tcp<'_>) {
    if s.icsk_pending() == PROBE0 {
        s.set_icsk_pending(0);
        s.set_icsk_backoff(0);
        s.set_icsk_probes_out(0);
        s.set_icsk_probes_tstamp(0);
    }
}
