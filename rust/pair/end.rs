// SPDX-License-Identifier: GPL-2.0

//! What a pair keeps for each of its two ends, as the sender of one direction.
//!
//! Unless a field says otherwise it is written by whoever has exclusive access to that
//! end's socket. No lock is taken here.

use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

use crate::{
    abstractions::{
        tcp_jiffies32,
        Sock,
        Tcp, //
    },
    growth::Growth,
    revalidate::Question,
};

/// One end of a pair.
pub(crate) struct Half {
    /// It has something in its write queue that could not be moved, and whoever can move it
    /// shall do so.
    waiting: Atomic<bool>,
    /// The task that owns this end is releasing it: it holds this end's spinlock and tries the
    /// other end's. Written with this end's spinlock held.
    releasing: Atomic<bool>,
    /// Whether its write queue is being pushed, and what its transmission answers then.
    pushing: Atomic<i8>,
    /// What it had received when its oldest segment in flight was sent (`rcv_nxt`).
    acked: Atomic<u32>,
    /// The route that was last found fit ([`Sock::route_id`]).
    route: Atomic<usize>,
    /// The device that the route led to when the pair was formed; 0 is none.
    home: Atomic<usize>,
    /// How many bytes it had sent when its rate was last looked at, modulo 2^32.
    sampled: Atomic<u32>,
    /// When that was, in jiffies.
    sampled_at: Atomic<u32>,
    question: Question,
    /// Of its receive buffer: written by who has exclusive access to both ends.
    growth: Growth,
}

/// No route: the numbers of routes are addresses.
const NO_ROUTE: usize = 1;

/// What the transmission of a socket answers while its write queue is pushed by somebody who
/// has both sockets.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub(crate) enum Pushing {
    /// It is not being pushed: it has to look.
    Not = 0,
    /// What is there takes the wire.
    ToWire = 1,
    /// What is there waits, and needs the probe timer.
    Waits = 2,
}

impl Half {
    /// For `sock`, of which nothing has been moved yet, and which asks the wire every
    /// `interval` jiffies.
    pub(crate) fn new(sock: &Sock, interval: u32) -> Self {
        Self {
            waiting: Atomic::new(false),
            releasing: Atomic::new(false),
            pushing: Atomic::new(Pushing::Not as i8),
            acked: Atomic::new(sock.peek_rcv_nxt()),
            route: Atomic::new(NO_ROUTE),
            home: Atomic::new(0),
            sampled: Atomic::new(0),
            sampled_at: Atomic::new(tcp_jiffies32()),
            question: Question::new(interval),
            growth: Growth::new(sock.peek_copied_seq()),
        }
    }

    /// Whether it waits for the other end to read, or to be let go.
    #[inline(always)]
    pub(crate) fn waits(&self) -> bool {
        self.waiting.load(Relaxed)
    }

    /// From now on it waits, or not any more.
    #[inline(always)]
    pub(crate) fn set_waits(&self, waits: bool) {
        self.waiting.store(waits, Relaxed);
    }

    /// Whether the task that releases this end tries the spinlock of the other end. The caller
    /// holds that spinlock: so the task has not got it yet, and will look at both ends once it
    /// has, or send an ACK if it gives up.
    pub(crate) fn is_releasing(&self) -> bool {
        self.releasing.load(Relaxed)
    }

    /// The task that releases this end begins to try the spinlock of the other end, or ends doing
    /// so. The caller holds the spinlock of this end.
    pub(crate) fn set_releasing(&self, releasing: bool) {
        self.releasing.store(releasing, Relaxed);
    }

    /// Whether the wire still lets it.
    #[inline(always)]
    pub(crate) fn question(&self) -> &Question {
        &self.question
    }

    /// How its receive buffer grows.
    pub(crate) fn growth(&self) -> &Growth {
        &self.growth
    }

    /// The route that was last found fit.
    #[inline(always)]
    pub(crate) fn route(&self) -> usize {
        self.route.load(Relaxed)
    }

    /// No route is known to be fit from now on: a route is known by its address, at which another
    /// one may be later.
    pub(crate) fn forget_route(&self) {
        self.route.store(NO_ROUTE, Relaxed);
    }

    /// That route is fit, which is not 0.
    pub(crate) fn set_route(&self, id: usize) {
        self.route.store(id, Relaxed);
    }

    /// The device that the route led to when the pair was formed.
    pub(crate) fn home(&self) -> usize {
        self.home.load(Relaxed)
    }

    /// It leads to that device now, as the pair is formed.
    pub(crate) fn set_home(&self, device: usize) {
        self.home.store(device, Relaxed);
    }

    /// What a transmission answers now.
    pub(crate) fn pushing(&self) -> Pushing {
        match self.pushing.load(Relaxed) {
            1 => Pushing::ToWire,
            2 => Pushing::Waits,
            _ => Pushing::Not,
        }
    }

    /// Lets TCP transmit what `s`, the socket of this end, has in its write queue, or arm its
    /// probe timer, as `answer` says. The caller has `s` to itself, and may have the other
    /// end, too: so the hook must not look at it again.
    pub(crate) fn push(&self, s: &mut Tcp<'_>, answer: Pushing) {
        self.pushing.store(answer as i8, Relaxed);
        s.push_pending_frames();
        self.pushing.store(Pushing::Not as i8, Relaxed);
    }

    /// `s`, the socket of this end, is about to transmit on the wire.
    pub(crate) fn takes_wire(&self, s: &Tcp<'_>) {
        if s.packets_out() == 0 {
            self.acked.store(s.rcv_nxt(), Relaxed);
        }
    }

    /// What it had received when its oldest segment in flight was sent, if there is one: no
    /// segment of it acknowledges less.
    pub(crate) fn acked(&self) -> u32 {
        self.acked.load(Relaxed)
    }

    /// From time to time, with exclusive access to `s`, the socket of this end: what TCP
    /// learns from ACKs and routes, and TCP_INFO tells. Its route is looked at anew.
    pub(crate) fn look(&self, s: &mut Tcp<'_>) {
        s.refresh_mss();
        self.forget_route();

        // TRUNCATE: Only differences count.
        let sent = s.bytes_sent() as u32;
        let bytes = sent.wrapping_sub(self.sampled.load(Relaxed));
        let now = tcp_jiffies32();
        let time = now.wrapping_sub(self.sampled_at.load(Relaxed));

        if time == 0 {
            return;
        }
        self.sampled.store(sent, Relaxed);
        self.sampled_at.store(now, Relaxed);
        if bytes != 0 && time <= LONGEST {
            s.set_rate_delivered(bytes.div_ceil(s.mss_cache().max(1)));
            s.set_rate_interval_us(time.saturating_mul(US_PER_JIFFY));
        }
    }
}

const US_PER_JIFFY: u32 = 1_000_000 / kernel::bindings::HZ;

/// A pause is no sample of a rate: two seconds, in jiffies.
const LONGEST: u32 = 2 * kernel::bindings::HZ;
