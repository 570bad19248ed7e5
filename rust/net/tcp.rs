// SPDX-License-Identifier: GPL-2.0

//! The state of a TCP connection, in a context that has exclusive access to it.
//!
//! C headers: [`include/linux/tcp.h`](srctree/include/linux/tcp.h),
//! [`include/net/tcp.h`](srctree/include/net/tcp.h)

use core::ptr::{
    addr_of,
    addr_of_mut,
    NonNull, //
};

use kernel::{
    bindings,
    types::NotThreadSafe, //
};

use super::{
    skb::{
        Head,
        Received, //
    },
    skb_cache,
    sock::Sock, //
};

/// The TCP state of a socket, in a context that has exclusive access to it.
///
/// # Invariants
///
/// For all of `'a`, the current context owns the socket, or holds its spinlock while no task but a
/// [`Reading`](super::lock::Reading) owns the socket. So no other context writes the fields of the
/// state, and none reads them except where the C side uses `READ_ONCE()`.
pub(crate) struct Tcp<'a>(&'a Sock, NotThreadSafe);

impl<'a> Tcp<'a> {
    /// Creates a view of the TCP state of `sock`.
    ///
    /// # Safety
    ///
    /// For all of `'a`, the current context owns `sock`, or holds its spinlock while no task but a
    /// [`Reading`](super::lock::Reading) owns `sock`.
    pub(super) unsafe fn new(sock: &'a Sock) -> Self {
        // INVARIANT: The function's safety requirements are the type's invariants.
        Self(sock, NotThreadSafe)
    }
}

/// Defines accessors of `struct tcp_sock` fields: getters, and setters that use `WRITE_ONCE()`.
macro_rules! fields {
    ($(#[$meta:meta])* $get:ident / $set:ident: $ty:ty = $($field:ident).+; $($rest:tt)*) => {
        fields! { $(#[$meta])* $get: $ty = $($field).+; }
        fields! {
            /// Sets the field with `WRITE_ONCE()`.
            / $set: $ty = $($field).+;
        }
        fields! { $($rest)* }
    };
    ($(#[$meta:meta])* / $set:ident: $ty:ty = $($field:ident).+; $($rest:tt)*) => {
        $(#[$meta])*
        pub(crate) fn $set(&mut self, val: $ty) {
            // SAFETY: By the type invariants only the current context writes the field.
            unsafe { addr_of_mut!((*self.0.tp()).$($field).+).write_volatile(val) }
        }

        fields! { $($rest)* }
    };
    ($(#[$meta:meta])* $get:ident: $ty:ty = $($field:ident).+; $($rest:tt)*) => {
        $(#[$meta])*
        pub(crate) fn $get(&self) -> $ty {
            // SAFETY: By the type invariants no other context writes the field.
            unsafe { addr_of!((*self.0.tp()).$($field).+).read() }
        }

        fields! { $($rest)* }
    };
    () => {};
}

impl<'a> Tcp<'a> {
    fields! {
        /// The oldest byte that is not acknowledged.
        snd_una / set_snd_una: u32 = snd_una;
        /// The next byte to send.
        snd_nxt / set_snd_nxt: u32 = snd_nxt;
        /// The urgent pointer; equal to `snd_una` when there is nothing urgent.
        snd_up / set_snd_up: u32 = snd_up;
        /// The window that the peer offers, in bytes from `snd_una`.
        snd_wnd / set_snd_wnd: u32 = snd_wnd;
        /// The expected header of the next segment (header prediction); 0 if there is none.
        / set_pred_flags: u32 = pred_flags;
        /// The largest window that the peer has ever offered.
        max_window / set_max_window: u32 = max_window;
        /// Number of segments in flight on the wire.
        packets_out: u32 = packets_out;
        /// Maximum segment size in bytes, less the size of the options.
        mss_cache: u32 = mss_cache;
        /// The next byte that the program will write.
        write_seq: u32 = write_seq;
        /// The next byte that is expected from the peer.
        rcv_nxt: u32 = rcv_nxt;
        /// The next byte that the program will read.
        copied_seq / set_copied_seq: u32 = copied_seq;
        /// State of the pending ACK (`ICSK_ACK_*`).
        ack_pending: u8 = inet_conn.icsk_ack.pending;
        /// Value of `rcv_nxt` when the window was last offered.
        rcv_wup / set_rcv_wup: u32 = rcv_wup;
        /// The window that was last offered, in bytes from `rcv_wup`.
        rcv_wnd / set_rcv_wnd: u32 = rcv_wnd;
        /// The window that the receiver aims at (`tcp_grow_window()`).
        rcv_ssthresh / set_rcv_ssthresh: u32 = rcv_ssthresh;
        /// The largest window that may be offered (`TCP_WINDOW_CLAMP`, `SO_RCVBUF`).
        window_clamp: u32 = window_clamp;
        /// The right-most window edge that was ever offered.
        rcv_mwnd_seq / set_rcv_mwnd_seq: u32 = rcv_mwnd_seq;
        /// Urgent data that was received and not yet passed on; 0 if none.
        urg_data: u16 = urg_data;
        /// The receiver's estimate of the segment size.
        rcv_mss: u16 = inet_conn.icsk_ack.rcv_mss;
        /// Time when data was last received, in jiffies.
        lrcvtime: u32 = inet_conn.icsk_ack.lrcvtime;
        /// Number of replies that were sent soon after data came in; enough of them make TCP delay
        /// ACKs.
        pingpong / set_pingpong: u8 = inet_conn.icsk_ack.pingpong;
        /// The timer that runs (`ICSK_TIME_*`), 0 if none. A timer that fires while the field is 0
        /// does nothing.
        icsk_pending / set_icsk_pending: u8 = inet_conn.icsk_pending;
        /// Backoff of the timer, as an exponent.
        / set_icsk_backoff: u8 = inet_conn.icsk_backoff;
        /// Number of unanswered zero-window probes.
        / set_icsk_probes_out: u8 = inet_conn.icsk_probes_out;
        /// Time when zero-window probing began, in jiffies; 0 if it has not.
        / set_icsk_probes_tstamp: u32 = inet_conn.icsk_probes_tstamp;
        /// Number of bytes sent (RFC 4898).
        bytes_sent / set_bytes_sent: u64 = bytes_sent;
        /// Number of bytes acknowledged (RFC 4898).
        bytes_acked / set_bytes_acked: u64 = bytes_acked;
        /// Number of segments sent.
        segs_out / set_segs_out: u32 = segs_out;
        /// Number of data segments sent.
        data_segs_out / set_data_segs_out: u32 = data_segs_out;
        /// Number of data segments delivered.
        delivered / set_delivered: u32 = delivered;
        /// The peer's time stamp that this socket's segments echo (RFC 7323).
        ts_recent: u32 = rx_opt.ts_recent;
        /// The echoed time stamp that was last used as a sample of the receiver's round-trip time.
        / set_rcv_rtt_last_tsecr: u32 = rcv_rtt_last_tsecr;
        /// TCP's clock in microseconds, as last read by [`Tcp::refresh_mstamp`].
        mstamp: u64 = tcp_mstamp;
        /// Time when data was last sent, in jiffies.
        lsndtime / set_lsndtime: u32 = lsndtime;
        /// The state of the sender that TCP_INFO's clock counts now (`TCP_CHRONO_*`); 0 if none.
        chrono_type: u8 = chrono_type;
        /// Number of segments in the last rate sample; [`Tcp::set_rate_interval_us`] sets its
        /// duration.
        / set_rate_delivered: u32 = rate_delivered;
        /// Duration of the last rate sample in microseconds.
        / set_rate_interval_us: u32 = rate_interval_us;
        /// Time when the last ACK was received, in jiffies.
        / set_rcv_tstamp: u32 = rcv_tstamp;
    }

    /// Returns the socket.
    pub(crate) fn sock(&self) -> &'a Sock {
        self.0
    }

    /// Reborrows the state for a function that takes [`Tcp`] by value, so that the original can
    /// stay in a register.
    #[inline(always)]
    pub(crate) fn reborrow(&mut self) -> Tcp<'_> {
        // INVARIANT: The returned value has the invariants of `self`, which stays borrowed
        // meanwhile.
        Tcp(self.0, NotThreadSafe)
    }

    /// Returns the socket's Nagle and cork bits (`TCP_NAGLE_*`).
    pub(crate) fn nonagle(&self) -> u32 {
        // SAFETY: By the type invariants no other context writes the bits.
        u32::from(unsafe { bindings::tcp_sock::nonagle_raw(self.0.tp()) })
    }

    /// Counts one more reply that was sent soon after data came in
    /// (`inet_csk_inc_pingpong_cnt()`).
    #[inline(always)]
    pub(crate) fn inc_pingpong(&mut self) {
        if let Some(more) = self.pingpong().checked_add(1) {
            self.set_pingpong(more);
        }
    }

    /// Returns for how long an ACK is delayed, in jiffies; 0 before the first data.
    pub(crate) fn ato(&self) -> u32 {
        // SAFETY: By the type invariants no other context writes the bits.
        unsafe {
            bindings::inet_connection_sock__bindgen_ty_2::ato_raw(addr_of!(
                (*self.0.tp()).inet_conn.icsk_ack
            ))
        }
    }

    /// Returns zero if the out-of-order queue is empty.
    #[inline(always)]
    pub(crate) fn ofo_queue(&self) -> usize {
        // SAFETY: By the type invariants no other context changes the tree.
        unsafe { addr_of!((*self.0.tp()).out_of_order_queue.rb_node).read() }.addr()
    }

    /// Returns zero if the write queue is empty.
    #[inline(always)]
    pub(crate) fn write_queue(&self) -> usize {
        // SAFETY: By the type invariants no other context changes the queue. The `next` pointer of
        // an empty queue points to the queue's head.
        unsafe {
            let head = addr_of!((*self.0.raw()).sk_write_queue);

            (*head).__bindgen_anon_1.__bindgen_anon_1.next.addr() ^ head.addr()
        }
    }

    /// Returns the first skb of the write queue (`tcp_send_head()`).
    pub(crate) fn send_head(&mut self) -> Option<Head<'_>> {
        // SAFETY: By the type invariants the current context has exclusive access to the queue. The
        // skb stays there while the returned value borrows `self`.
        unsafe {
            let skb = NonNull::new(bindings::tcp_send_head(self.0.raw()))?;
            Some(Head::new(self.0, skb))
        }
    }

    /// Returns the window that the socket would offer now, in bytes.
    pub(crate) fn select_window(&mut self) -> u32 {
        // SAFETY: By the type invariants the current context has exclusive access to the state, as
        // `__tcp_select_window()` requires.
        unsafe { bindings::__tcp_select_window(self.0.raw()) }
    }

    /// Reads the clock into `tcp_mstamp`.
    pub(crate) fn refresh_mstamp(&mut self) {
        // SAFETY: By the type invariants only the current context writes the fields.
        unsafe { bindings::tcp_mstamp_refresh(self.0.tp()) };
    }

    /// Moves the pages that `sender` has accounted for `head` from the sender's account to this
    /// socket's, if the sender's account has enough for the size of `head`, rounded up to whole
    /// pages. `head` is in the write queue of `sender`, and the memory of both sockets is accounted
    /// in one place ([`Sock::shares_account`]).
    ///
    /// Only whole pages are moved, since accounts are kept in pages, and a socket gives back those
    /// that are left in its account when the socket is destroyed.
    ///
    /// Returns whether `head` is off the sender's account and may be charged to this socket
    /// (`sk_forward_alloc`).
    pub(super) fn take_over_pages(&mut self, sender: &Sock, head: &Head<'_>) -> bool {
        let size = head.truesize();
        let Some(pages) = size.checked_next_multiple_of(bindings::PAGE_SIZE as u32) else {
            return false;
        };
        let (size, pages) = (size as i32, pages as i32);
        // SAFETY: By the type invariants the current context has exclusive access to this socket's
        // account. It has exclusive access to the sender's account, too, since a `Head` exists only
        // with exclusive access to the sender's state. Other contexts read both with `READ_ONCE()`.
        unsafe {
            let theirs = addr_of_mut!((*sender.raw()).sk_forward_alloc);
            let ours = addr_of_mut!((*self.0.raw()).sk_forward_alloc);
            let left = theirs.read().wrapping_add(size).wrapping_sub(pages);
            let have = ours.read();

            // After `tcp_collapse()` the receive queue may have been charged more than the account
            // had: then the pages are not enough.
            //
            // A sender that has reserved memory (SO_RESERVE_MEM) keeps what it has reserved.
            if left < 0
                || have >= size
                || have < size.wrapping_sub(pages)
                || addr_of!((*sender.raw()).sk_reserved_mem).read_volatile() != 0
            {
                return false;
            }
            theirs.write_volatile(left);
            ours.write_volatile(have.wrapping_add(pages));
        }
        true
    }

    /// Schedules memory for `head`, which is about to be queued to this socket. Fails if the limit
    /// of the protocol or of the cgroup is reached, even if the sender may use memory reserves.
    pub(super) fn rmem_schedule(&mut self, head: &Head<'_>) -> bool {
        // SAFETY: By the type invariants the current context has exclusive access to
        // `sk_forward_alloc`.
        unsafe { bindings::__sk_rmem_schedule(self.0.raw(), head.truesize() as i32, false) }
    }

    /// Schedules memory for skbs that are in no queue, of `size` bytes in all, as
    /// [`Tcp::rmem_schedule`] does for one. Takes the pages that this CPU keeps, if there are
    /// enough ([`skb_cache`]).
    #[inline(always)]
    pub(crate) fn rmem_schedule_new(&mut self, size: u32) -> bool {
        // TRUNCATE: `size` is the size of a few skbs.
        let size = size as i32;
        // SAFETY: By the type invariants no other context writes `sk_forward_alloc`.
        let have = unsafe { addr_of!((*self.0.raw()).sk_forward_alloc).read() };

        size <= have || self.reborrow().rmem_schedule_pages(size, have)
    }

    /// Schedules memory where `have`, the rest of the account, is less than `size`; few calls of
    /// [`Tcp::rmem_schedule_new`] need this part.
    #[inline(always)]
    fn rmem_schedule_pages(self, size: i32, have: i32) -> bool {
        const PAGE: u32 = bindings::PAGE_SIZE as u32;
        // CAST: The difference is positive, and skbs have few pages.
        let pages = (size.wrapping_sub(have) as u32).wrapping_add(PAGE - 1) / PAGE;

        // SAFETY: By the type invariants only the current context writes `sk_forward_alloc`.
        // Other contexts read it with `READ_ONCE()`.
        unsafe {
            if self.0.has_plain_account() && skb_cache::get_pages(pages) {
                addr_of_mut!((*self.0.raw()).sk_forward_alloc)
                    .write_volatile(have.wrapping_add(pages.wrapping_mul(PAGE) as i32));
                return true;
            }
        }
        // A charge with bottom halves off may exceed a cgroup's `memory.max`. So where memory is
        // short the write is left to TCP, which charges it to the sender: the sender can wait for
        // memory.
        if !self.0.has_plain_account() && self.0.is_short_of_memory() {
            return false;
        }
        // SAFETY: By the type invariants the current context has exclusive access to the account.
        unsafe { bindings::__sk_rmem_schedule(self.0.raw(), size, false) }
    }

    /// Returns the first skb of the receive queue.
    #[inline]
    pub(crate) fn receive_head(&mut self) -> Option<Received<'_>> {
        // SAFETY: By the type invariants the current context has exclusive access to the queue. The
        // skb stays there while the returned value borrows `self`.
        unsafe {
            let queue = addr_of!((*self.0.raw()).sk_receive_queue);
            let skb = NonNull::new(bindings::skb_peek(queue))?;
            Some(Received::new(self.0, skb))
        }
    }

    /// Returns the last skb of the receive queue.
    #[inline]
    pub(crate) fn receive_tail(&mut self) -> Option<Received<'_>> {
        // SAFETY: By the type invariants the current context has exclusive access to the queue, and
        // the skb stays there while the returned value borrows `self`. `prev` is never null: in an
        // empty queue `prev` points to the queue's head, which has its links where an skb has its
        // links.
        unsafe {
            let queue = addr_of!((*self.0.raw()).sk_receive_queue);
            let skb = (*queue).__bindgen_anon_1.__bindgen_anon_1.prev;
            if core::ptr::addr_eq(skb, queue) {
                return None;
            }
            Some(Received::new(self.0, NonNull::new_unchecked(skb)))
        }
    }

    /// Returns whether a read takes whatever is queued and reports nothing but the bytes: there is
    /// no urgent mark, and the program has set none of `SO_RCVLOWAT`, `SO_PEEK_OFF`, `TCP_INQ` and
    /// time stamps.
    #[inline]
    pub(crate) fn reads_plainly(&self) -> bool {
        // SAFETY: The socket is valid. The fields are single words, which are read as volatile, and
        // a bit that is only written with the socket locked.
        unsafe {
            self.urg_data() == 0
                && addr_of!((*self.0.raw()).sk_rcvlowat).read_volatile() <= 1
                && addr_of!((*self.0.raw()).sk_peek_off).read_volatile() < 0
                && bindings::tcp_sock::recvmsg_inq_raw(self.0.tp()) == 0
                && !self.0.wants_receive_timestamps()
        }
    }

    /// Returns whether an ACK is scheduled (`inet_csk_ack_scheduled()`).
    #[inline]
    pub(crate) fn ack_scheduled(&self) -> bool {
        u32::from(self.ack_pending()) & bindings::inet_csk_ack_state_t_ICSK_ACK_SCHED != 0
    }

    /// Lets the receive buffer grow with the reader's speed, after data was read.
    #[inline]
    pub(crate) fn rcv_space_adjust(&mut self) {
        // SAFETY: By the type invariants the current context has exclusive access to the state.
        unsafe { bindings::tcp_rcv_space_adjust(self.0.raw()) };
    }

    /// Lets [`Tcp::rcv_space_adjust`] measure the reader's speed from what has been read so far.
    #[inline]
    pub(crate) fn restart_rcv_space(&mut self) {
        let tp = self.0.tp();
        // SAFETY: By the type invariants only the current context accesses the fields.
        unsafe {
            (*tp).rcvq_space.seq = (*tp).copied_seq;
            (*tp).rcvq_space.time = (*tp).tcp_mstamp;
        }
    }

    /// Grows the receive buffer to `size` bytes, but not beyond the limit of `tcp_rmem`, and the
    /// largest window that may be offered with it, as `tcp_rcvbuf_grow()` does.
    ///
    /// Returns whether the buffer grew. A buffer does not grow if the program has set its size, if
    /// the administrator has switched growth off, or if memory is short.
    pub(crate) fn grow_receive_buffer(&mut self, size: i32) -> bool {
        let (sk, tp) = (self.0.raw(), self.0.tp());
        // SAFETY: By the type invariants only the current context writes the fields. Other contexts
        // read them with `READ_ONCE()`. The namespace outlives the socket, and its sysctls are
        // single words, which are read as volatile.
        unsafe {
            let ipv4 = addr_of!((*self.0.net().raw()).ipv4);

            if !self.0.has_growing_receive_buffer() || bindings::tcp_under_memory_pressure(sk) {
                return false;
            }
            let most = addr_of!((*ipv4).sysctl_tcp_rmem[2]).read_volatile();
            let size = size.min(most);
            if size <= addr_of!((*sk).sk_rcvbuf).read() {
                return false;
            }
            addr_of_mut!((*sk).sk_rcvbuf).write_volatile(size);
            addr_of_mut!((*tp).window_clamp)
                .write_volatile(bindings::tcp_win_from_space(sk, size) as u32);
            true
        }
    }

    /// Grows the send buffer to `size` bytes, but not beyond the limit of `tcp_wmem`
    /// (`tcp_sndbuf_expand()`).
    ///
    /// The buffer does not grow if the program has set its size, or if memory is short
    /// (`tcp_should_expand_sndbuf()`).
    pub(crate) fn grow_send_buffer(&mut self, size: i32) {
        let sk = self.0.raw();
        // SAFETY: By the type invariants only the current context writes the field. Other contexts
        // read it with `READ_ONCE()`. The namespace outlives the socket, and its sysctl is a
        // single word, which is read as volatile.
        unsafe {
            if u32::from((*sk).sk_userlocks) & bindings::SOCK_SNDBUF_LOCK != 0
                || bindings::tcp_under_memory_pressure(sk)
            {
                return;
            }
            let ipv4 = addr_of!((*self.0.net().raw()).ipv4);
            let size = size.min(addr_of!((*ipv4).sysctl_tcp_wmem[2]).read_volatile());
            if size > addr_of!((*sk).sk_sndbuf).read() {
                addr_of_mut!((*sk).sk_sndbuf).write_volatile(size);
            }
        }
    }

    /// Notifies the peer of the room that a read of `copied` bytes made, if the peer has to know
    /// (`tcp_cleanup_rbuf()`). The hook for reads may run in this call.
    pub(crate) fn cleanup_rbuf(&mut self, copied: usize) {
        // SAFETY: By the type invariants the socket is locked, as `tcp_cleanup_rbuf()` requires. No
        // `Head` or `Received` borrows the state while the hook runs.
        unsafe { bindings::tcp_cleanup_rbuf(self.0.raw(), copied as i32) };
    }

    /// Advances `write_seq` by `bytes`, as `tcp_sendmsg()` does for bytes that it queues.
    pub(crate) fn advance_write_seq(&mut self, bytes: u32) {
        // SAFETY: By the type invariants only the current context writes the field. Other contexts
        // read it with `READ_ONCE()`.
        unsafe {
            let seq = addr_of_mut!((*self.0.tp()).write_seq);
            seq.write_volatile(seq.read().wrapping_add(bytes));
        }
    }

    /// Wakes the waiting writers, if there is enough room to send.
    pub(crate) fn check_space(&mut self) {
        // SAFETY: By the type invariants the socket is locked, as `tcp_check_space()` requires.
        unsafe { bindings::tcp_check_space(self.0.raw()) };
    }

    /// Checks whether the MTU of the route has changed, and updates `mss_cache`
    /// (`tcp_current_mss()`).
    pub(crate) fn refresh_mss(&mut self) {
        // SAFETY: By the type invariants the current context has exclusive access to the state.
        unsafe { bindings::tcp_current_mss(self.0.raw()) };
    }

    /// Updates `mss_cache` after a growth of `max_window`, which bounds the size of segments
    /// (`tcp_sync_mss()`).
    #[cold]
    pub(crate) fn sync_mss(&mut self) {
        // SAFETY: By the type invariants the current context has exclusive access to the state.
        unsafe {
            let pmtu = addr_of!((*self.0.tp()).inet_conn.icsk_pmtu_cookie).read();

            bindings::tcp_sync_mss(self.0.raw(), pmtu);
        }
    }

    /// Adds one jiffy to the time for which TCP_INFO counts the sender as busy.
    pub(crate) fn add_busy_jiffy(&mut self) {
        const BUSY: usize = bindings::tcp_chrono_TCP_CHRONO_BUSY as usize - 1;
        // SAFETY: By the type invariants only the current context writes the field.
        unsafe {
            let stat = addr_of_mut!((*self.0.tp()).chrono_stat[BUSY]);

            stat.write_volatile(stat.read().wrapping_add(1));
        }
    }

    /// Ends the time for which TCP_INFO counts the sender as busy, if the write queue and the
    /// retransmit queue are empty.
    pub(crate) fn chrono_stop_busy(&mut self) {
        // SAFETY: By the type invariants the current context has exclusive access to the state.
        unsafe { bindings::tcp_chrono_stop(self.0.raw(), bindings::tcp_chrono_TCP_CHRONO_BUSY) };
    }

    /// Begins the time for which TCP_INFO counts the sender as limited by the peer's window.
    pub(crate) fn chrono_start_rwnd_limited(&mut self) {
        // SAFETY: By the type invariants the current context has exclusive access to the state.
        unsafe {
            bindings::tcp_chrono_start(self.0.raw(), bindings::tcp_chrono_TCP_CHRONO_RWND_LIMITED)
        };
    }

    /// Ends the time for which TCP_INFO counts the sender as limited by the peer's window.
    pub(crate) fn chrono_stop_rwnd_limited(&mut self) {
        // SAFETY: By the type invariants the current context has exclusive access to the state.
        unsafe {
            bindings::tcp_chrono_stop(self.0.raw(), bindings::tcp_chrono_TCP_CHRONO_RWND_LIMITED)
        };
    }

    /// Returns whether data that came by the wire has not been acknowledged yet.
    pub(crate) fn owes_ack(&self) -> bool {
        self.rcv_wup() != self.rcv_nxt()
    }

    /// Sends an ACK. If bottom halves are off, the peer receives the ACK once they are
    /// on again.
    pub(crate) fn send_ack(&mut self) {
        // The ACK has a time stamp.
        self.refresh_mstamp();
        // SAFETY: By the type invariants the socket is locked, as `__tcp_send_ack()` requires. With
        // bottom halves on no spinlock is held, and the peer may receive the ACK and put a segment
        // into this socket's backlog before the call returns. No `Head` or `Received` borrows the
        // state meanwhile.
        unsafe { bindings::__tcp_send_ack(self.0.raw(), self.rcv_nxt(), 0) };
    }

    /// Lets TCP transmit what is left in the write queue, as after an ACK. The hook for
    /// transmissions may run again in this call.
    pub(crate) fn push_pending_frames(&mut self) {
        // SAFETY: By the type invariants the socket is locked, as `tcp_push_pending_frames()`
        // requires. No `Head` or `Received` borrows the state while the hook runs.
        unsafe { bindings::tcp_push_pending_frames(self.0.raw()) };
    }
}

/// The number of jiffies in a second. In the bindings `HZ` is what programs see, since bindgen
/// takes the first of the two definitions.
pub(crate) const HZ: u32 = bindings::CONFIG_HZ;

/// Returns TCP's clock, which counts jiffies (`tcp_jiffies32`).
pub(crate) fn tcp_jiffies32() -> u32 {
    // SAFETY: `jiffies` is a word that only the timer tick writes. TRUNCATE: The C macro truncates
    // the value, too.
    unsafe { addr_of!(bindings::jiffies).read_volatile() as u32 }
}
