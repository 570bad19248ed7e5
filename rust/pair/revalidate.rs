// SPDX-License-Identifier: GPL-2.0

//! Now and then the wire is asked whether it still lets us.
//!
//! A firewall's rule, a route or a connection tracker's time-out has no cheap
//! test. So a connection that moves data lets one transmission take the wire
//! every `net.ipv4.tcp_friends_revalidate_ms`, and moves no more until the wire has
//! carried it. Where that is dropped on its way, it stays in flight, and by
//! invariant 2 all that comes after it waits behind it; where the wire does not
//! even take it, it stays in the write queue. Either way the connection stands
//! still as it would without friends.
//!
//! Each direction asks for itself. No lock is taken here.
//!
//! An ACK alone is no answer where the ends are in two namespaces. Whoever may make packets in the
//! receiver's can put there what was dropped on its way, and the receiver acknowledges that. So
//! what asks is marked, and only what this kernel has handed over into that namespace answers.

use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

use crate::{
    abstractions::{
        tcp_jiffies32,
        Mark,
        Member,
        Tcp, //
    },
    hold::{
        may_go,
        Go, //
    },
    namespace::{
        self,
        Namespace, //
    },
};

/// When one direction of a connection asked the wire, and what became of it.
///
/// Written only by who has the sender to itself.
pub(crate) struct Question {
    /// When the wire was asked last and has carried something, in jiffies.
    answered: Atomic<u32>,
    /// No question is due before [`LOOK_EVERY`] has passed since, in jiffies.
    looked: Atomic<u32>,
    /// When it was asked after that.
    asked: Atomic<u32>,
    /// `snd_nxt` then.
    nxt: Atomic<u32>,
    /// The mark's number of what asks; 0 if that is not marked.
    number: Atomic<u64>,
    /// It has been asked, and has not carried anything yet as far as is known.
    open: Atomic<bool>,
}

/// The last questions that have arrived, each in the place of its direction. Directions that share
/// a place, and ask at the same moment, ask again one after the other.
static ARRIVED: [Atomic<u64>; PLACES] = [const { Atomic::new(0) }; PLACES];

/// The low bits of a question's number are its direction's place.
const PLACE_BITS: u32 = 12;
const PLACES: usize = 1 << PLACE_BITS;

fn place(number: u64) -> &'static Atomic<u64> {
    // TRUNCATE: Of the low bits only.
    &ARRIVED[number as usize % PLACES]
}

/// The question with that number has arrived where it is for. In any context.
pub(crate) fn arrived(number: u64) {
    place(number).store(number, Relaxed);
}

/// What a question that is due wants.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// It is answered.
    Nothing,
    /// What is next must take the wire.
    Wire,
    /// The same, but the wire would transmit nothing now: the window is shut.
    Window,
    /// There is nothing to ask with: no data, or cork holds it back.
    Data,
}

impl Question {
    /// Just answered: the handshake took the wire. The interval is in jiffies.
    pub(crate) fn new(interval: u32) -> Self {
        let now = tcp_jiffies32();

        Self {
            answered: Atomic::new(now),
            looked: Atomic::new(last_look(now, 0, interval)),
            asked: Atomic::new(0),
            nxt: Atomic::new(0),
            number: Atomic::new(0),
            open: Atomic::new(false),
        }
    }

    /// Whether what asked, which was acknowledged, has arrived, as far as that can be seen.
    fn has_arrived(&self) -> bool {
        let number = self.number.load(Relaxed);

        number == 0 || place(number).load(Relaxed) == number
    }

    /// Whether it is neither time to ask nor to look at anything else that is looked at from
    /// time to time.
    #[inline(always)]
    pub(crate) fn is_quiet(&self) -> bool {
        cfg!(tcp_friends_without = "questions")
            || !passed(
                tcp_jiffies32().wrapping_sub(self.looked.load(Relaxed)),
                LOOK_EVERY,
            )
    }
}

/// The question of one direction, whose sender's view of the pair `member` is: it knows who
/// decides how often it is asked.
#[derive(Clone, Copy)]
pub(crate) struct Asker<'a> {
    question: &'a Question,
    member: Member<'a>,
}

impl<'a> Asker<'a> {
    /// That of `member`.
    #[inline(always)]
    pub(crate) fn new(question: &'a Question, member: Member<'a>) -> Self {
        Self { question, member }
    }

    /// Whether it is time to ask, or the answer is still out.
    #[inline(always)]
    pub(crate) fn is_due(self, namespace: &Namespace) -> bool {
        !cfg!(tcp_friends_without = "questions")
            && passed(
                tcp_jiffies32().wrapping_sub(self.question.looked.load(Relaxed)),
                LOOK_EVERY,
            )
            && self.has_come(namespace)
    }

    /// The same, asked only when it may be so: an administrator may have set another
    /// interval meanwhile, of the sender's namespace or of whoever else has a say.
    #[cold]
    #[inline(never)]
    fn has_come(self, namespace: &Namespace) -> bool {
        let now = tcp_jiffies32();
        let interval = namespace::interval(namespace, &self.member);
        let since = now.wrapping_sub(self.question.answered.load(Relaxed));

        if passed(since, interval) || self.question.open.load(Relaxed) {
            return true;
        }
        self.question
            .looked
            .store(last_look(now, since, interval), Relaxed);
        false
    }

    /// What the question, which is due, wants of the sender.
    ///
    /// Once it is asked no more is moved until the wire has carried it: it may have
    /// refused to, as a firewall's rule for what leaves makes it do. The caller has
    /// the sender to itself and has found that nothing is in flight (invariant 2),
    /// so `snd_nxt` tells. `mss` is in bytes, `nonagle` of `TCP_NAGLE_*`. The sender's
    /// window is the largest that the peer can offer.
    pub(crate) fn ask(self, s: &mut Tcp<'_>, namespace: &Namespace, mss: u32, nonagle: u32) -> Ask {
        let question = self.question;

        if question.open.load(Relaxed) {
            if s.snd_nxt() == question.nxt.load(Relaxed) {
                return Ask::Wire;
            }
            question.open.store(false, Relaxed);
            if question.has_arrived() {
                // The answer is as old as the question.
                question
                    .answered
                    .store(question.asked.load(Relaxed), Relaxed);
                if !self.is_due(namespace) {
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

    /// Marks what is next, where that is seen to arrive, and returns the mark's number; else 0.
    /// Without the memory for a mark it is asked again. The caller has the sender to itself.
    #[cold]
    #[inline(never)]
    fn mark(self, s: &mut Tcp<'_>) -> u64 {
        let Some(net) = self.member.seen_to_arrive_in() else {
            return 0;
        };
        // Any number would do that is another one for others, mostly; addresses are multiples of
        // a cache line.
        let addr = core::ptr::from_ref(self.question).addr() as u64;
        let mark = Mark::of_question(net, addr >> 6 ^ addr >> 18, PLACE_BITS);

        if let Some(mut head) = s.send_head() {
            head.mark(mark);
        }
        mark.question().unwrap_or(0)
    }
}

/// In jiffies: so long after the interval was changed, everybody knows.
const LOOK_EVERY: u32 = kernel::bindings::HZ / 4;

/// What is to be taken for the time of the last look, so that [`LOOK_EVERY`] has passed when what
/// is left of `interval` has, of which `since` has.
const fn last_look(now: u32, since: u32, interval: u32) -> u32 {
    let left = interval.wrapping_sub(since);

    if interval == 0 || left > LOOK_EVERY {
        now
    } else {
        now.wrapping_add(left).wrapping_sub(LOOK_EVERY)
    }
}

/// Whether `interval` has passed where `since` has; 0 never does.
const fn passed(since: u32, interval: u32) -> bool {
    interval != 0 && since >= interval
}

/// Whether the wire would transmit something at once. What does not fit a window
/// that will not get wider is cut, since TCP would wait; without the memory for
/// that, it does.
fn would_transmit(s: &mut Tcp<'_>, mss: u32, nonagle: u32) -> Ask {
    let window = s.snd_wnd();
    let Some(mut head) = s.send_head() else {
        return Ask::Data;
    };
    let len = head.len();

    if len == 0 || may_go(len, mss, head.is_last(), nonagle) == Go::Nothing {
        return Ask::Data;
    }
    if window < len.min(mss) {
        if window == 0 {
            return Ask::Window;
        }
        if head.cut(window, mss) {
            // Or tcp_grow_skb() would make it whole again.
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
