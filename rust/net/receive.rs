// SPDX-License-Identifier: GPL-2.0

//! Receiving what a friend brings: the receiver's half of what `__tcp_transmit_skb()` and
//! `tcp_data_queue()` do for a segment in sequence, except for the ACK.
//!
//! C headers: [`include/linux/tcp.h`](srctree/include/linux/tcp.h),
//! [`include/net/tcp.h`](srctree/include/net/tcp.h)

use core::ptr::{
    addr_of,
    addr_of_mut, //
};

use kernel::bindings;

use super::{
    context::Rcu,
    seq,
    skb::Skb,
    skb_cache,
    tcp::{
        tcp_jiffies32,
        Tcp,
        HZ, //
    },
};

/// The error for a friend's bytes that do not start at `rcv_nxt`: the connection was reset.
pub(crate) struct OutOfSequence;

/// The length in bytes from which an skb is measured as received segments are. For a smaller one,
/// that would cost more than all else that is done here.
const MEASURED: u32 = 4096;

/// A tick of TCP's time stamps in microseconds (`TCP_TS_HZ`), eight times, as estimates of a round
/// trip are kept.
const TICK: u32 = 1000 << 3;

/// `TCP_ATO_MIN`, in jiffies, which is no constant for bindgen.
const ATO_MIN: u32 = if HZ >= 100 { HZ / 25 } else { 4 };

impl Tcp<'_> {
    /// Queues `skb`, which stands for `segments` segments, as received and acknowledged, and moves
    /// `rcv_nxt` past it. The memory of `skb` has been scheduled for this socket. The caller wakes
    /// the readers ([`Tcp::data_ready`]).
    ///
    /// The skb is not merged with the last one, since an skb of a write queue is as large as the
    /// sender's size goal permits.
    ///
    /// An skb that does not start at `rcv_nxt` is freed, and the connection is reset:
    /// [`OutOfSequence`].
    #[inline(always)]
    pub(crate) fn receive(&mut self, skb: Skb, segments: u32) -> Result<(), OutOfSequence> {
        self.receive_with(skb, segments, None)
    }

    /// Queues an skb that comes from [`skb_cache`](super::skb_cache), as [`Tcp::receive`] does, so
    /// that it can be reused once it has been read.
    #[inline(always)]
    pub(crate) fn receive_reusable(
        &mut self,
        skb: Skb,
        segments: u32,
    ) -> Result<(), OutOfSequence> {
        self.receive_with(skb, segments, Some(bindings::tcp_friends_rfree))
    }

    /// Does the work of [`Tcp::receive`]. The queued skb gets `destructor`, if there is one, which
    /// must do what `sock_rfree()` does.
    #[inline(always)]
    fn receive_with(
        &mut self,
        skb: Skb,
        segments: u32,
        destructor: Option<unsafe extern "C" fn(*mut bindings::sk_buff)>,
    ) -> Result<(), OutOfSequence> {
        let (sk, segment, len) = (self.sock().raw(), skb.segment(), skb.len());

        self.expect(segment.seq)?;
        self.received(segment.end_seq, segments);
        let raw = skb.into_raw();
        // SAFETY: By the type invariants the current context has exclusive access to the receive
        // queue and to the account. The skb was held as an `Skb`: nobody else has a reference, it
        // is in no queue and charged to no socket. Its size has been scheduled for this socket.
        unsafe {
            bindings::sk_check_scheduled(sk, (*raw).truesize as i32);
            // The receiver has not used the sender's memory reserves.
            bindings::sk_buff::set_pfmemalloc_raw(raw, 0);
            let headers = (*raw).__bindgen_anon_4.headers.as_mut();
            headers.set_ip_summed(bindings::CHECKSUM_UNNECESSARY as u8);
            bindings::tcp_add_receive_queue(sk, raw);
            bindings::skb_set_owner_r(raw, sk);
            if destructor.is_some() {
                (*raw).__bindgen_anon_3.__bindgen_anon_1.destructor = destructor;
            }
            if len >= MEASURED {
                self.measure(len);
                bindings::tcp_grow_window(sk, raw, true);
            }
        }
        Ok(())
    }

    /// Counts `len` bytes that were appended to the last skb of the receive queue, which ends at
    /// `seq`, as [`Tcp::receive`] does. They stand for `segments` segments.
    #[inline(always)]
    pub(super) fn receive_more(
        &mut self,
        seq: u32,
        len: u32,
        segments: u32,
    ) -> Result<(), OutOfSequence> {
        self.expect(seq)?;
        self.received(seq.wrapping_add(len), segments);
        Ok(())
    }

    /// Checks that a friend's bytes, which start at `seq`, are those that the socket expects next.
    ///
    /// The bytes are in sequence, since both ends were compared under their locks (invariant 1 of
    /// the design). If they are not, nothing may be queued, and the connection is reset.
    #[inline(always)]
    fn expect(&mut self, seq: u32) -> Result<(), OutOfSequence> {
        if seq != self.rcv_nxt() {
            self.reset();
            return Err(OutOfSequence);
        }
        Ok(())
    }

    /// Resets the connection and counts that as `TcpExtTCPAbortOnData`.
    #[cold]
    #[inline(never)]
    fn reset(&mut self) {
        let sk = self.sock().raw();
        // SAFETY: By the type invariants the socket is locked, as `tcp_send_active_reset()` and
        // `tcp_done_with_error()` require.
        unsafe {
            bindings::tcp_count_out_of_sequence(sk);
            bindings::tcp_send_active_reset(
                sk,
                bindings::sk_rst_reason_SK_RST_REASON_TCP_ABORT_ON_DATA,
            );
            bindings::tcp_done_with_error(sk, bindings::ECONNRESET as i32);
        }
    }

    /// Counts the bytes from `rcv_nxt` to `end_seq`, in `segments` segments, as received and
    /// acknowledged.
    #[inline(always)]
    fn received(&mut self, end_seq: u32, segments: u32) {
        let tp = self.sock().tp();
        // SAFETY: By the type invariants only the current context writes the fields, and `tp` is
        // valid. Other contexts read `rcv_nxt` with `READ_ONCE()`.
        unsafe {
            let rcv_nxt = (*tp).rcv_nxt;

            (*tp).segs_in = (*tp).segs_in.wrapping_add(segments);
            (*tp).data_segs_in = (*tp).data_segs_in.wrapping_add(segments);
            (*tp).inet_conn.icsk_ack.lrcvtime = tcp_jiffies32();
            bindings::tcp_update_wl(tp, rcv_nxt);
            // As tcp_rcv_nxt_update(). A friend has no TCP-AO.
            (*tp).bytes_received = (*tp)
                .bytes_received
                .wrapping_add(end_seq.wrapping_sub(rcv_nxt).into());
            addr_of_mut!((*tp).rcv_nxt).write_volatile(end_seq);
            // The bytes count as acknowledged from here on. So they are old, and a probe that
            // sends the last one again is answered.
            (*tp).rcv_wnd = bindings::tcp_receive_window(tp);
            (*tp).rcv_wup = end_seq;
        }
        if self.ato() == 0 {
            self.received_first();
        }
    }

    /// Does what `tcp_event_data_recv()` does for the first data of a connection.
    ///
    /// Between friends there is no round trip to be measured, and it would take less than a tick of
    /// TCP's time stamps. So the receive buffer's growth is computed with a tick.
    #[cold]
    #[inline(never)]
    fn received_first(&mut self) {
        let tp = self.sock().tp();
        // SAFETY: By the type invariants only the current context writes the fields, and `tp` is
        // valid.
        unsafe {
            bindings::tcp_incr_quickack(self.sock().raw(), bindings::TCP_MAX_QUICKACKS);
            bindings::inet_connection_sock__bindgen_ty_2::set_ato_raw(
                addr_of_mut!((*tp).inet_conn.icsk_ack),
                ATO_MIN,
            );
            if (*tp).rcv_rtt_est.rtt_us == 0 {
                (*tp).rcv_rtt_est.rtt_us = TICK - 1;
            }
        }
    }

    /// Updates the receiver's estimates of the segment size and of the round trip, after `len`
    /// bytes in one skb.
    ///
    /// The round trip is measured as by `tcp_rcv_rtt_measure()`, but for the window that the
    /// receiver aims at, since next to nothing may be left of the window that it has offered.
    fn measure(&mut self, len: u32) {
        let tp = self.sock().tp();
        // SAFETY: By the type invariants only the current context writes the fields, and `tp` is
        // valid.
        unsafe {
            if len > u32::from((*tp).inet_conn.icsk_ack.rcv_mss) {
                // TRUNCATE: `advmss` has 16 bits.
                (*tp).inet_conn.icsk_ack.rcv_mss = len.min((*tp).advmss.into()) as u16;
            }
            let est = addr_of_mut!((*tp).rcv_rtt_est);
            if (*est).time != 0 {
                if seq::before((*tp).rcv_nxt, (*est).seq) {
                    return;
                }
                // TRUNCATE: tcp_stamp_us_delta() and tcp_rcv_rtt_update() truncate, too.
                let sample = ((*tp).tcp_mstamp.saturating_sub((*est).time) as u32).max(1) << 3;
                if (*est).rtt_us == 0 || sample < (*est).rtt_us {
                    (*est).rtt_us = sample;
                }
            }
            (*est).seq = (*tp)
                .rcv_nxt
                .wrapping_add((*tp).rcv_wnd.max((*tp).rcv_ssthresh));
            (*est).time = (*tp).tcp_mstamp;
        }
    }

    /// Removes `bytes` bytes from the receive queue, which holds at least as many.
    pub(crate) fn eat(&mut self, bytes: usize) {
        let mut rest = bytes;

        while rest != 0 {
            let seq = self.copied_seq();
            let Some(head) = self.receive_head() else {
                return;
            };
            let left = head
                .len()
                .saturating_sub(seq.wrapping_sub(head.segment().seq) as usize);
            let now = left.min(rest);

            // TCP must process the end of the stream.
            if now == left && !head.has_fin() {
                skb_cache::put(head.unlink());
            } else if now == 0 {
                return;
            }
            rest = rest.saturating_sub(now);
            // TRUNCATE: `now` is at most the length of an skb.
            self.set_copied_seq(seq.wrapping_add(now as u32));
        }
    }

    /// Wakes the waiting readers after data was queued, if there is enough data (`SO_RCVLOWAT`).
    ///
    /// In most cases nobody waits, and little more is done than to find that out.
    #[inline]
    pub(crate) fn data_ready(&mut self, _rcu: Rcu<'_>) {
        const DEAD: usize = 1 << bindings::sock_flags_SOCK_DEAD;
        const FASYNC: usize = 1 << bindings::sock_flags_SOCK_FASYNC;
        let sk = self.sock().raw();
        // SAFETY: By the type invariants the socket is locked, and `_rcu` is evidence of an RCU
        // read-side critical section; the callbacks require both. The fields are single words,
        // which are read as volatile.
        unsafe {
            let flags = addr_of!((*sk).__sk_common.__bindgen_anon_5.skc_flags).read_volatile();

            if flags & DEAD != 0 {
                return;
            }
            if !self.sock().has_plain_data_ready()
                || addr_of!((*sk).sk_rcvlowat).read_volatile() != 1
            {
                bindings::tcp_data_ready(sk);
            } else if flags & FASYNC != 0 || bindings::sk_has_sleeper(sk) {
                bindings::sock_def_readable(sk);
            }
        }
    }
}
