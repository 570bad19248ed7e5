// SPDX-License-Identifier: GPL-2.0

//! The state that a pair keeps for each of its two ends, as the sender of one direction.
//!
//! A field is written with exclusive access to the end's socket, unless the comment of the field
//! says otherwise. No lock is taken in this file.

use core::ptr::NonNull;

use kernel::sync::{
    aref::ARef,
    atomic::{
        Atomic,
        Relaxed, //
    },
};

use crate::{
    net::{
        tcp_jiffies32,
        BeingRead,
        Rcu,
        Sock,
        Tcp,
        HZ, //
    },
    netns::Namespace,
    pair::{
        rcvbuf::Growth,
        revalidate::Question,
        room::Room,
        tally::Sent, //
    },
};

/// One end of a pair.
///
/// # Invariants
///
/// `namespace` is valid in every RCU read-side critical section in which the pair can be found.
#[repr(C)]
pub(crate) struct End {
    /// The socket, with a reference held.
    sock: ARef<Sock>,
    /// The state of the socket's namespace.
    namespace: NonNull<Namespace>,
    /// Whether the write queue has something that could not be moved. Any context that can move
    /// the queued data then has to do so.
    waiting: Atomic<bool>,
    /// Whether the task that owns this end is releasing its socket, and so holds this end's
    /// spinlock and tries that of the other end. Written with this end's spinlock held.
    releasing: Atomic<bool>,
    /// Whether the write queue is being pushed, and what the `xmit` hook then returns, as
    /// [`Pushing`].
    pushing: Atomic<i8>,
    /// The end's `rcv_nxt` when its oldest segment in flight was sent.
    acked: Atomic<u32>,
    /// Whether this end waits for room. Written with exclusive access to the other end.
    room: Room,
    /// Names the socket while it is owned by a task that reads from it in place.
    being_read: BeingRead,
    /// The route ([`Sock::route_id`]) that was last found to lead where the friends are.
    route: Atomic<usize>,
    /// The device that the route led to when the pair was formed; 0 if there was none.
    first_device: Atomic<usize>,
    /// The number of bytes sent, modulo 2^32, when the rate was last sampled.
    sampled: Atomic<u32>,
    /// The time when the rate was last sampled, in jiffies.
    sampled_at: Atomic<u32>,
    question: Question,
    sent: Sent,
    /// The growth of the receive buffer. Written with exclusive access to both ends.
    growth: Growth,
}

/// Value of `End::route` for no route. A route is known by its address, and no route has this one.
const NO_ROUTE: usize = 1;

/// What the `xmit` hook returns for a socket while its write queue is pushed by a context that has
/// exclusive access to both sockets.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub(crate) enum Pushing {
    /// The write queue is not being pushed, so the hook has to check by itself.
    Not = 0,
    /// The queued data takes the wire.
    ToWire = 1,
    /// The queued data waits, and needs the probe timer.
    Waits = 2,
}

impl End {
    /// Creates the end for `sock`, from and to which nothing has been moved yet. The state
    /// `namespace` of its namespace was found in the critical section of `_rcu`.
    pub(crate) fn new(sock: &Sock, namespace: &Namespace, _rcu: Rcu<'_>) -> Self {
        // INVARIANT: The state of a namespace is freed a grace period after the last pair of the
        // namespace was dissolved, so it is valid wherever the pair can be found.
        Self {
            sock: sock.into(),
            namespace: namespace.into(),
            sent: Sent::none(),
            waiting: Atomic::new(false),
            releasing: Atomic::new(false),
            pushing: Atomic::new(Pushing::Not as i8),
            acked: Atomic::new(sock.peek_rcv_nxt()),
            room: Room::new(),
            being_read: BeingRead::new(),
            route: Atomic::new(NO_ROUTE),
            first_device: Atomic::new(0),
            sampled: Atomic::new(0),
            sampled_at: Atomic::new(tcp_jiffies32()),
            question: Question::new(namespace.revalidate()),
            growth: Growth::new(sock.peek_copied_seq()),
        }
    }

    /// Returns the socket.
    #[inline(always)]
    pub(crate) fn sock(&self) -> &Sock {
        &self.sock
    }

    /// Returns the state of the socket's namespace.
    #[inline(always)]
    pub(crate) fn namespace(&self) -> &Namespace {
        // SAFETY: The pair was found in a critical section that still lasts, so by the type
        // invariants `namespace` is valid.
        unsafe { self.namespace.as_ref() }
    }

    /// Returns the counters of what this end has moved to the other end.
    #[inline(always)]
    pub(crate) fn sent(&self) -> &Sent {
        &self.sent
    }

    /// Returns whether this end waits for the other end to read, or to be released by its owner.
    #[inline(always)]
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Relaxed)
    }

    /// Sets whether this end waits for the other end.
    #[inline(always)]
    pub(crate) fn set_waiting(&self, waits: bool) {
        self.waiting.store(waits, Relaxed);
    }

    /// Returns whether the task that releases this end is trying the spinlock of the other end.
    ///
    /// The caller holds the spinlock of the other end, so the task has not got it yet. The task
    /// will check both ends once it has that spinlock, or send an ACK if it gives up.
    pub(crate) fn is_releasing(&self) -> bool {
        self.releasing.load(Relaxed)
    }

    /// Sets whether the task that releases this end is trying the spinlock of the other end. The
    /// caller holds the spinlock of this end.
    pub(crate) fn set_releasing(&self, releasing: bool) {
        self.releasing.store(releasing, Relaxed);
    }

    /// Returns what this end keeps while it waits for room.
    #[inline(always)]
    pub(crate) fn room(&self) -> &Room {
        &self.room
    }

    /// Returns what says whether the socket is being read in place.
    #[inline(always)]
    pub(crate) fn being_read(&self) -> &BeingRead {
        &self.being_read
    }

    /// Returns the question whether the wire still carries what this end sends.
    #[inline(always)]
    pub(crate) fn question(&self) -> &Question {
        &self.question
    }

    /// Returns the growth of this end's receive buffer.
    pub(crate) fn growth(&self) -> &Growth {
        &self.growth
    }

    /// Returns the route that was last found to lead where the friends are.
    #[inline(always)]
    pub(crate) fn route(&self) -> usize {
        self.route.load(Relaxed)
    }

    /// Forgets the route, so that the next move checks the socket's route again. A route is known
    /// by its address, and another route may later be at that address.
    pub(crate) fn forget_route(&self) {
        self.route.store(NO_ROUTE, Relaxed);
    }

    /// Stores that the route `id`, which is not 0, leads where the friends are.
    pub(crate) fn set_route(&self, id: usize) {
        self.route.store(id, Relaxed);
    }

    /// Returns the device that the route led to when the pair was formed; 0 if there was none.
    pub(crate) fn first_device(&self) -> usize {
        self.first_device.load(Relaxed)
    }

    /// Stores the device that the route leads to while the pair is being formed.
    pub(crate) fn set_first_device(&self, device: usize) {
        self.first_device.store(device, Relaxed);
    }

    /// Returns what the `xmit` hook has to return now.
    pub(crate) fn pushing(&self) -> Pushing {
        match self.pushing.load(Relaxed) {
            1 => Pushing::ToWire,
            2 => Pushing::Waits,
            _ => Pushing::Not,
        }
    }

    /// Lets TCP transmit what `s`, the socket of this end, has in its write queue, or arm the probe
    /// timer of `s`, as `answer` says.
    ///
    /// The caller has exclusive access to `s`, and may have exclusive access to the other end, too.
    /// So the `xmit` hook, which TCP calls inside, must not check the other end again.
    pub(crate) fn push(&self, s: &mut Tcp<'_>, answer: Pushing) {
        self.pushing.store(answer as i8, Relaxed);
        s.push_pending_frames();
        self.pushing.store(Pushing::Not as i8, Relaxed);
    }

    /// Stores `rcv_nxt` for [`Self::acked`], as `s`, the socket of this end, is about to take the
    /// wire. The value does not change while a segment is in flight.
    pub(crate) fn note_fallback(&self, s: &Tcp<'_>) {
        if s.packets_out() == 0 {
            self.acked.store(s.rcv_nxt(), Relaxed);
        }
    }

    /// Returns what this end had received when its oldest segment in flight was sent, if there is
    /// one. No segment of this end acknowledges less.
    pub(crate) fn acked(&self) -> u32 {
        self.acked.load(Relaxed)
    }

    /// Updates what TCP learns from ACKs and routes and reports in TCP_INFO, and forgets the route,
    /// so that the next move checks it again.
    ///
    /// Called from time to time, with exclusive access to `s`, the socket of this end.
    pub(crate) fn refresh(&self, s: &mut Tcp<'_>) {
        s.refresh_mss();
        self.forget_route();

        // TRUNCATE: Only differences modulo 2^32 are used.
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

const US_PER_JIFFY: u32 = 1_000_000 / HZ;

/// The longest time, in jiffies, over which a rate is sampled: two seconds. A longer time includes
/// a pause, which says nothing about the rate.
const LONGEST: u32 = 2 * HZ;
