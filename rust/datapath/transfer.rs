// SPDX-License-Identifier: GPL-2.0

//! The move itself: skbs leave the head of one socket's write queue and join the other's
//! receive queue.
//!
//! Whoever calls has exclusive access to both sockets: it owns them or holds their spinlocks
//! while no task owns them. No lock is taken here.
//!
//! Nobody is woken here either: a wake-up may run what reads the socket at once, and must find
//! both in a state that is complete. The callers wake when they have settled everything.

use crate::{
    abstractions::{
        tcp_jiffies32,
        Lied,
        Member,
        Tcp, //
    },
    fence::{
        self,
        Fence, //
    },
    half::Pushing,
    hold::{
        may_go,
        Go, //
    },
    revalidate::Ask,
    stats::{
        self,
        Counter,
        Wire, //
    },
    window,
};

/// `ICSK_TIME_PROBE0`: the zero-window probe timer, which also ends a cork.
const PROBE0: u8 = kernel::bindings::ICSK_TIME_PROBE0 as u8;

/// An skb of fewer bytes does not make the receiver read the clock. It does so
/// to see how fast its buffer is read, to let the buffer grow
/// (`tcp_rcv_space_adjust()`); for small skbs the clock would cost more than the
/// rest of the move.
pub(crate) const MEASURED: u32 = 4096;

/// Why no more was moved.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The write queue is empty.
    Empty,
    /// What is left is held back by cork, or is still being filled.
    Held,
    /// The receiver is full.
    Full,
    /// A task owns the receiver, and looks for us when it lets go.
    Busy,
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

    /// Whether the receiver has to be woken.
    pub(crate) fn wakes(&self) -> bool {
        self.skbs != 0 || self.stop == Stop::Full
    }
}

/// Moves from `s` to `p` whatever may go, where `fenced` is the answer of [`fence::sender`] and
/// `member` the sender's view of the pair.
///
/// `mss` is in bytes, `nonagle` of `TCP_NAGLE_*`. The caller has exclusive access to both.
///
/// Relies on invariants 1 and 2, which the fences establish; keeps 3: where the wire is taken,
/// the sender knows the largest window that the receiver can offer, if that can be.
pub(crate) fn between(
    s: &mut Tcp<'_>,
    p: &mut Tcp<'_>,
    member: &Member<'_>,
    mss: u32,
    nonagle: u32,
    fenced: Fence,
) -> Moved {
    let moved = match fenced
        .and_then(|()| fence::receiver(s, p, member))
        .and_then(|()| ask(s, p, member, mss, nonagle))
    {
        Ok(None) => {
            let mut moved = move_all(s, p, mss, nonagle);
            while moved.stop == Stop::Full && member.peer_half().growth().grow(p) {
                moved.add(&move_all(s, p, mss, nonagle));
            }
            moved
        }
        Ok(Some(stop)) => Moved::none(stop),
        Err(why) => Moved::none(Stop::Wire(why)),
    };
    match moved.stop {
        Stop::Full => {
            // Nobody reads now: whoever does so later takes the receiver's lock first, and sees
            // that we wait.
            member.half().set_waits(true);
            window::shut(s, p);
            // It grows with the congestion window otherwise, which friends do not open.
            s.grow_send_buffer(p.sock().receive_buffer());
            member.namespace().count(Counter::Full, 1);
        }
        Stop::Wire(why) => {
            if why != Wire::PeerState && window::is_known(s, p) {
                window::renew(s, p);
            }
            // It will echo the time stamp of what came by the wire last, long ago perhaps: that
            // is no sample of a round trip.
            p.set_rcv_rtt_last_tsecr(s.ts_recent());
        }
        Stop::Empty | Stop::Held | Stop::Busy => (),
    }
    if moved.skbs != 0 {
        stats::moved(s.sock(), member, &moved);
    }
    moved
}

/// From time to time something has to be looked at, and the wire to be asked. Says why nothing
/// may be moved now, if that is so. Context and invariants as for [`between`].
fn ask(
    s: &mut Tcp<'_>,
    p: &mut Tcp<'_>,
    member: &Member<'_>,
    mss: u32,
    nonagle: u32,
) -> Result<Option<Stop>, Wire> {
    let question = member.question();

    if member.half().question().is_quiet() {
        return Ok(None);
    }
    member.half().look(s);
    if !question.is_due(member.namespace()) {
        return Ok(None);
    }
    // The wire needs a window.
    window::renew(s, p);
    match question.ask(s, member.namespace(), mss, nonagle) {
        Ask::Wire => Err(Wire::Revalidate),
        // What the wire would not transmit now is not moved past it.
        Ask::Window => Ok(Some(Stop::Full)),
        Ask::Nothing | Ask::Data => Ok(None),
    }
}

/// Moves what `s` has left in its write queue, on behalf of whoever has found that it waits;
/// `member` is its view of the pair. What has to take the wire is transmitted, and what has to
/// wait gets the probe timer.
///
/// The caller has exclusive access to both. It relies on the same invariants as [`between`], and
/// keeps the same. The receiver is not woken.
pub(crate) fn fetch(s: &mut Tcp<'_>, p: &mut Tcp<'_>, member: &Member<'_>) -> Moved {
    let (mss, nonagle) = (s.mss_cache(), s.nonagle());
    let fenced = fence::sender(s, member);
    let moved = between(s, p, member, mss, nonagle, fenced);

    if moved.skbs != 0 {
        member.peer_namespace().count(Counter::Pulled, 1);
    }
    let answer = match moved.stop {
        Stop::Empty | Stop::Busy => Pushing::Not,
        Stop::Held | Stop::Full => Pushing::Waits,
        Stop::Wire(why) => {
            stats::fell(s.sock(), member, why);
            member.half().takes_wire(s);
            Pushing::ToWire
        }
    };
    member
        .half()
        .set_waits(answer != Pushing::Not && moved.stop != Stop::Held);
    settle(s, &moved);
    if answer != Pushing::Not {
        member.half().push(s, answer);
    }
    moved
}

/// No more skbs are moved with both spinlocks held, and no more bytes copied for that: what is left
/// takes the wire.
const AT_ONCE: u32 = 256;
const COPIED_AT_ONCE: u32 = 128 * 1024;

/// Moves skbs until something stops it.
///
/// Relies on invariants 1 and 2, and restores 1: between two skbs nobody else
/// sees either socket, so the sender's numbers are written once at the end.
/// Restores 3 by [`window::follow`].
fn move_all(s: &mut Tcp<'_>, p: &mut Tcp<'_>, mss: u32, nonagle: u32) -> Moved {
    let mut moved = Moved::none(Stop::Empty);
    let mut copied = 0u32;

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
            // The FIN takes the wire, but not what stands before it.
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
        if !fence::has_room(p.sock()) {
            break Stop::Full;
        }
        if moved.skbs == AT_ONCE || copied >= COPIED_AT_ONCE {
            break Stop::Wire(Wire::Contended);
        }
        if head.is_zerocopy() {
            copied = copied.wrapping_add(head.len());
            if !head.own_pages() {
                break Stop::Wire(Wire::Memory);
            }
        }
        let len = head.segment().len();
        if len >= MEASURED {
            p.refresh_mstamp();
        }
        let Ok(mut skb) = head.take_for(p) else {
            break Stop::Wire(Wire::Memory);
        };
        let segments = skb.set_segments(mss);
        if let Err(Lied) = p.receive(skb) {
            break Stop::Wire(Wire::Sequence);
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
    if s.lsndtime() != now {
        another_jiffy(s.reborrow());
    }
    // Else each skb would look like the first after a long pause, and cost the congestion window.
    s.set_lsndtime(now);
    // A reply: once there are enough, TCP delays ACKs (tcp_event_data_sent()).
    if now.wrapping_sub(s.lrcvtime()) < s.ato() {
        s.inc_pingpong();
    }
    // The peer lives: keepalive may wait.
    s.set_rcv_tstamp(now);
}

/// Something is sent for the first time in this jiffy. What is moved is acknowledged at once, so
/// that a sender is busy in those jiffies in which it moves something.
#[cold]
#[inline(never)]
fn another_jiffy(mut s: Tcp<'_>) {
    // Else its clock runs already.
    if s.chrono_type() == 0 {
        s.add_busy_jiffy();
    }
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
        Stop::Full | Stop::Busy => (),
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
