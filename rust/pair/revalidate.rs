// SPDX-License-Identifier: GPL-2.0

//! Revalidation: from time to time, the wire is asked whether it still carries the connection.
//!
//! A firewall rule, a route or the time-out of a connection tracker has no cheap test. Therefore a
//! connection that moves data lets one transmission take the wire every
//! `net.ipv4.tcp_friends_revalidate_ms`, and moves no more data until the wire has carried this
//! transmission. If the segment is dropped on its way, it stays in flight, and all later data waits
//! behind the segment because of invariant 2. If the wire refuses the segment, its data stays in
//! the write queue. In both cases the connection stands still, as it would without friends.
//!
//! Each direction of a connection has its own question, in one of four states:
//!
//! ```text
//!       the interval has passed      the next transmission takes the wire
//! idle -------------------------> due ----------------------------------> asked
//!  ^                              ^ ^                                      | |
//!  |                              | | acknowledged, but mark not arrived   | |
//!  |                              | +--------------------------------------+ |
//!  |                              |                                          |
//!  | the interval has not         | the interval has                         |
//!  | passed since the question    | passed since the question                |
//!  +---------------------------answered <------------------------------------+
//!                                        acknowledged, and mark (if any) arrived
//! ```
//!
//! A due question stays due while there is nothing to transmit, or the window is zero. An asked
//! question stays asked, and every transmission takes the wire, while the wire refuses the segment.
//!
//! An ACK alone is no answer if the ends are in two namespaces. Whoever may create packets in the
//! receiver's namespace can put a segment there that was dropped on its way, and the receiver
//! acknowledges that segment. Therefore the segment that asks is marked, and the wire has answered
//! only if this kernel has handed the marked segment over into the receiver's namespace.
//!
//! No lock is taken here.

use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

use crate::{
    net::{
        nagle::{
            allowed,
            Allowed, //
        },
        tcp_jiffies32,
        Mark,
        Tcp,
        HZ, //
    },
    pair::Member, //
};

/// When one direction of a connection asked the wire, and whether the wire has answered.
///
/// The fields are written only with exclusive access to the sender.
pub(crate) struct Question {
    /// When the last question that was answered had been asked, in jiffies.
    answered: Atomic<u32>,
    /// The time recorded for the last look at the interval ([`last_look`]), in jiffies: no question
    /// is due before [`LOOK_EVERY`] has passed since then.
    checked_at: Atomic<u32>,
    /// When the latest question was asked, in jiffies.
    asked: Atomic<u32>,
    /// The sender's `snd_nxt` when the latest question was asked.
    nxt: Atomic<u32>,
    /// The number in the mark of the segment that asks; 0 if its arrival cannot be seen.
    number: Atomic<u64>,
    /// Whether the wire has been asked and is not known to have carried the segment yet.
    open: Atomic<bool>,
}

/// The numbers of the last questions that have arrived, each in the place of its direction.
/// Directions that share a place and ask at the same moment ask again, one after the other.
static ARRIVED: [Atomic<u64>; PLACES] = [const { Atomic::new(0) }; PLACES];

/// How many low bits of a question's number are the place of its direction.
const PLACE_BITS: u32 = 12;
const PLACES: usize = 1 << PLACE_BITS;

fn place(number: u64) -> &'static Atomic<u64> {
    // TRUNCATE: Only the low bits select the place.
    &ARRIVED[number as usize % PLACES]
}

/// Notes that the question `number` has arrived in the receiver's namespace. May be called in any
/// context.
pub(crate) fn arrived(number: u64) {
    place(number).store(number, Relaxed);
}

/// What a question that is due needs from the sender.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Nothing: the question is answered.
    Nothing,
    /// The next transmission must take the wire.
    Wire,
    /// The next transmission must take the wire, which cannot transmit now: the window is zero.
    Window,
    /// There is nothing to ask with: no data is queued, or the cork holds the data back.
    Data,
}

impl Question {
    /// Creates a question that has just been answered, since the handshake took the wire.
    /// `interval` is in jiffies.
    pub(crate) fn new(interval: u32) -> Self {
        let now = tcp_jiffies32();

        Self {
            answered: Atomic::new(now),
            checked_at: Atomic::new(last_look(now, 0, interval)),
            asked: Atomic::new(0),
            nxt: Atomic::new(0),
            number: Atomic::new(0),
            open: Atomic::new(false),
        }
    }

    /// Returns whether the segment that asked, which was acknowledged, has arrived in the
    /// receiver's namespace. A segment whose arrival cannot be seen counts as arrived.
    fn has_arrived(&self) -> bool {
        let number = self.number.load(Relaxed);

        number == 0 || place(number).load(Relaxed) == number
    }

    /// Returns whether no periodic work is due: neither a look at the question, nor the rest of
    /// what is checked_at at from time to time ([`End::look`](crate::pair::End::look)).
    #[inline(always)]
    pub(crate) fn is_not_due(&self) -> bool {
        cfg!(tcp_friends_without = "questions")
            || !passed(
                tcp_jiffies32().wrapping_sub(self.checked_at.load(Relaxed)),
                LOOK_EVERY,
            )
    }
}

/// The question of one direction, with the sender's view of the pair, which knows the namespaces
/// that decide how often the wire is asked.
#[derive(Clone, Copy)]
pub(crate) struct Revalidator<'a> {
    question: &'a Question,
    member: Member<'a>,
}

impl<'a> Revalidator<'a> {
    /// Combines `question` with the view `member` of its sender.
    #[inline(always)]
    pub(crate) fn new(question: &'a Question, member: Member<'a>) -> Self {
        Self { question, member }
    }

    /// Returns whether it is time to ask the wire, or the wire has not answered yet.
    #[inline(always)]
    pub(crate) fn is_due(self) -> bool {
        !cfg!(tcp_friends_without = "questions")
            && passed(
                tcp_jiffies32().wrapping_sub(self.question.checked_at.load(Relaxed)),
                LOOK_EVERY,
            )
            && self.is_due_now()
    }

    /// The part of [`Revalidator::is_due`] that runs once [`LOOK_EVERY`] has passed. It reads the
    /// interval anew, because an administrator may have changed the interval of the sender's
    /// namespace, or of another namespace that has a say.
    #[cold]
    #[inline(never)]
    fn is_due_now(self) -> bool {
        let now = tcp_jiffies32();
        let interval = self.member.interval();
        let since = now.wrapping_sub(self.question.answered.load(Relaxed));

        if passed(since, interval) || self.question.open.load(Relaxed) {
            return true;
        }
        self.question
            .checked_at
            .store(last_look(now, since, interval), Relaxed);
        false
    }

    /// Asks the wire if possible, and returns what the question, which is due, needs from the
    /// sender `s`.
    ///
    /// Once the wire is asked, no more data is moved until the wire has carried the segment. The
    /// wire may refuse to transmit the segment, for instance because of a firewall rule for
    /// outgoing packets. The caller has exclusive access to the sender and has found nothing in
    /// flight (invariant 2), so an advanced `snd_nxt` shows that the wire has carried the segment.
    ///
    /// `mss` is in bytes, and `nonagle` holds the `TCP_NAGLE_*` bits. The caller has set the
    /// sender's window to the largest that the peer can offer.
    pub(crate) fn ask(self, s: &mut Tcp<'_>, mss: u32, nonagle: u32) -> Ask {
        let question = self.question;

        if question.open.load(Relaxed) {
            if s.snd_nxt() == question.nxt.load(Relaxed) {
                return Ask::Wire;
            }
            question.open.store(false, Relaxed);
            if question.has_arrived() {
                // The answer is as old as its question.
                question
                    .answered
                    .store(question.asked.load(Relaxed), Relaxed);
                if !self.is_due() {
                    return Ask::Nothing;
                }
            }
        }
        let would = would_transmit(s, mss, nonagle);
        if would == Ask::Wire {
            question.asked.store(tcp_jiffies32(), Relaxed);
            question.nxt.store(s.snd_nxt(), Relaxed);
            question.number.store(self.mark(s), Relaxed);
            question.open.store(true, Relaxed);
        }
        would
    }

    /// Marks the first skb of the write queue if its arrival can be seen, and returns the number in
    /// the mark. Returns 0 if the arrival cannot be seen.
    ///
    /// If there is no memory for the mark, the number never arrives, and the wire is asked again.
    /// The caller has exclusive access to the sender.
    #[cold]
    #[inline(never)]
    fn mark(self, s: &mut Tcp<'_>) -> u64 {
        let Some(net) = self.member.marked_arrival_net() else {
            return 0;
        };
        // The low bits only have to differ between most directions. They are made from the address
        // of the question, and from its higher bits, because addresses are multiples of a cache
        // line.
        let addr = core::ptr::from_ref(self.question).addr() as u64;
        let mark = Mark::of_question(net, addr >> 6 ^ addr >> 18, PLACE_BITS);

        if let Some(mut head) = s.send_head() {
            head.mark(mark);
        }
        mark.question().unwrap_or(0)
    }
}

/// How often a direction looks at its interval, in jiffies. A changed interval is known everywhere
/// after this time.
const LOOK_EVERY: u32 = HZ / 4;

/// Returns the time to record for a look at `now`, when `since` of `interval` has passed.
///
/// If the rest of the interval is shorter than [`LOOK_EVERY`], the returned time lies so far back
/// that [`LOOK_EVERY`] is over when the interval is.
const fn last_look(now: u32, since: u32, interval: u32) -> u32 {
    let left = interval.wrapping_sub(since);

    if interval == 0 || left > LOOK_EVERY {
        now
    } else {
        now.wrapping_add(left).wrapping_sub(LOOK_EVERY)
    }
}

/// Returns whether `interval` is over when `since` has passed. An interval of 0 is never over.
const fn passed(since: u32, interval: u32) -> bool {
    interval != 0 && since >= interval
}

/// Returns whether the wire would transmit something at once.
///
/// An skb that does not fit the window is cut, because TCP would wait for a wider window, which
/// will not come. If there is no memory for the cut, TCP does wait.
fn would_transmit(s: &mut Tcp<'_>, mss: u32, nonagle: u32) -> Ask {
    let window = s.snd_wnd();
    let Some(mut head) = s.send_head() else {
        return Ask::Data;
    };
    let len = head.len();

    if len == 0 || allowed(len, mss, head.is_last(), nonagle) == Allowed::Nothing {
        return Ask::Data;
    }
    if window < len.min(mss) {
        if window == 0 {
            return Ask::Window;
        }
        if head.split(window, mss) {
            // Without the end of a record, tcp_grow_skb() would make the skb whole again.
            head.end_record();
        }
    }
    Ask::Wire
}

#[kernel::macros::kunit_tests(tcp_friends_revalidate)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_passes() {
        assert!(!passed(249, 250));
        assert!(passed(250, 250));
    }

    #[test]
    fn a_short_interval_is_looked_at_earlier() {
        assert_eq!(last_look(1000, 0, 10 * LOOK_EVERY), 1000);
        assert_eq!(last_look(1000, 0, 0), 1000);
        assert_eq!(last_look(1000, 1, 2), 1001u32.wrapping_sub(LOOK_EVERY));
    }

    #[test]
    fn none_never_passes() {
        assert!(!passed(4000, 0));
    }
}
