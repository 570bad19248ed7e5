// SPDX-License-Identifier: GPL-2.0

//! Socket buffers of TCP's write queue.
//!
//! Invariant 1 of the design is ownership here: an [`Skb`] value is in no
//! queue; [`Head::take`] is the only way to get one, and giving it to
//! [`Tcp::receive`](super::Tcp::receive) or
//! [`Busy::add_backlog`](super::Busy::add_backlog) the way to be rid of it.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr::{
        addr_of,
        NonNull, //
    },
};

use kernel::bindings;

use super::sock::{
    Sock,
    Tcp, //
};

/// TCP's control block in an skb (`TCP_SKB_CB()`).
///
/// # Safety
///
/// `skb` is valid and belongs to TCP.
unsafe fn tcp_cb(skb: *mut bindings::sk_buff) -> *mut bindings::tcp_skb_cb {
    // SAFETY: By the function's safety requirements; `cb` has room for it.
    unsafe { addr_of!((*skb).cb).cast_mut().cast() }
}

/// The bytes `[seq, end_seq)` of a stream.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    /// The first byte's number.
    pub(crate) seq: u32,
    /// The number after the last byte's; a FIN takes one.
    pub(crate) end_seq: u32,
}

impl Segment {
    /// How many bytes.
    pub(crate) fn len(&self) -> u32 {
        self.end_seq.wrapping_sub(self.seq)
    }
}

/// The first skb of a socket's write queue, still in it.
///
/// # Invariants
///
/// `skb` is the head of the write queue of `sock`, whose state the holder has
/// to itself for `'a` (it borrows a [`Tcp`](super::Tcp)).
pub(crate) struct Head<'a> {
    sock: &'a Sock,
    skb: NonNull<bindings::sk_buff>,
    _borrow: PhantomData<&'a mut ()>,
}

impl<'a> Head<'a> {
    /// # Safety
    ///
    /// `skb` is the head of the write queue of `sock`, and that queue is the
    /// caller's alone for `'a`.
    pub(super) unsafe fn new(sock: &'a Sock, skb: NonNull<bindings::sk_buff>) -> Self {
        // INVARIANT: By the function's safety requirements.
        Self {
            sock,
            skb,
            _borrow: PhantomData,
        }
    }

    /// The C skb.
    pub(super) fn raw(&self) -> *mut bindings::sk_buff {
        self.skb.as_ptr()
    }

    /// Which bytes it holds.
    pub(crate) fn segment(&self) -> Segment {
        // SAFETY: By the type invariants the skb is valid and TCP's.
        unsafe {
            let cb = tcp_cb(self.raw());
            Segment {
                seq: (*cb).seq,
                end_seq: (*cb).end_seq,
            }
        }
    }

    /// Bytes of payload.
    pub(crate) fn len(&self) -> u32 {
        // SAFETY: By the type invariants the skb is valid.
        unsafe { addr_of!((*self.raw()).len).read() }
    }

    /// Bytes of memory that it takes.
    pub(crate) fn truesize(&self) -> u32 {
        // SAFETY: By the type invariants the skb is valid.
        unsafe { addr_of!((*self.raw()).truesize).read() }
    }

    /// Whether it is the write queue's only one.
    pub(crate) fn is_last(&self) -> bool {
        // SAFETY: By the type invariants it is in that queue.
        unsafe { bindings::tcp_skb_is_last(self.sock.raw(), self.raw()) }
    }

    /// The header's flags (`TCPHDR_*`, RFC 9293 section 3.1).
    pub(crate) fn tcp_flags(&self) -> u16 {
        // SAFETY: By the type invariants the skb is valid and TCP's.
        unsafe { (*tcp_cb(self.raw())).tcp_flags }
    }

    /// Whether somebody waits for a time stamp that only the wire can give.
    pub(crate) fn wants_timestamp(&self) -> bool {
        // SAFETY: By the type invariants the skb is valid and TCP's.
        unsafe {
            (*bindings::skb_shinfo(self.raw())).tx_flags != 0
                || bindings::tcp_skb_cb::txstamp_ack_raw(tcp_cb(self.raw())) != 0
        }
    }

    /// Whether its pages are still the sender's (`MSG_ZEROCOPY`).
    pub(crate) fn is_zerocopy(&self) -> bool {
        // SAFETY: By the type invariants the skb is valid.
        unsafe { bindings::skb_zcopy(self.raw()) }
    }

    /// Whether some of the payload is in the linear part, which coalescing
    /// would take for a packet's.
    pub(crate) fn has_linear_data(&self) -> bool {
        // SAFETY: By the type invariants the skb is valid.
        unsafe { bindings::skb_headlen(self.raw()) != 0 }
    }

    /// Gives a zero-copy one pages of its own, and tells the sender that its own
    /// are free, as reception on the loopback device does.
    ///
    /// Returns whether there was memory for that.
    pub(crate) fn own_pages(&mut self) -> bool {
        // SAFETY: By the type invariants it is in the write queue of `sock`, which is ours.
        unsafe { bindings::tcp_friends_own_pages(self.sock.raw(), self.raw()) == 0 }
    }

    /// Cuts it so that it holds `len` bytes; the rest, at least a FIN, follows as a new skb.
    ///
    /// Returns whether there was memory for that.
    pub(crate) fn cut(&mut self, len: u32, mss: u32) -> bool {
        // SAFETY: By the type invariants it is in the write queue of `sock`, which is ours;
        // `GFP_ATOMIC` suits every context.
        unsafe {
            bindings::tcp_fragment(
                self.sock.raw(),
                bindings::tcp_queue_TCP_FRAG_IN_WRITE_QUEUE,
                self.raw(),
                len,
                mss,
                bindings::GFP_ATOMIC,
            ) == 0
        }
    }

    /// Nothing is appended to it any more (as with `MSG_EOR`).
    pub(crate) fn end_record(&mut self) {
        // SAFETY: By the type invariants the skb is valid and TCP's, and the queue is ours.
        unsafe { bindings::tcp_skb_cb::set_eor_raw(tcp_cb(self.raw()), 1) };
    }

    /// Takes it out of the queue and off the sender's account.
    pub(crate) fn take(self) -> Skb {
        let size = self.truesize() as i32;
        // SAFETY: By the type invariants the sender's account is ours, and the skb is charged there
        // with its true size (it is not a zero-copy one, which would be charged with less: such a
        // one is never taken).
        unsafe { bindings::sk_mem_uncharge(self.sock.raw(), size) };
        self.unlink()
    }

    /// The same, and its size is ready to be charged to `receiver`, from the
    /// sender's account where both draw on the same one.
    ///
    /// Gives it back, still queued, if the receiver's account takes no more.
    pub(crate) fn take_for(self, receiver: &mut Tcp<'_>) -> Result<Skb, Self> {
        if receiver.sock().shares_account(self.sock) && receiver.borrow_pages(self.sock, &self) {
            Ok(self.unlink())
        } else if receiver.rmem_schedule(&self) {
            Ok(self.take())
        } else {
            Err(self)
        }
    }

    fn unlink(self) -> Skb {
        let size = self.truesize() as i32;
        // SAFETY: By the type invariants it is in the write queue of `sock`, which is ours.
        unsafe {
            bindings::tcp_unlink_write_queue(self.raw(), self.sock.raw());
            bindings::sk_wmem_queued_add(self.sock.raw(), -size);
        }
        // INVARIANT: It is in no queue now; the callers took care of what it was charged to.
        Skb(self.skb)
    }
}

/// An skb that is in no queue and charged to nobody.
///
/// # Invariants
///
/// The holder has the only reference.
pub(crate) struct Skb(NonNull<bindings::sk_buff>);

/// `TCPHDR_ACK`, RFC 9293 section 3.1.
const ACK: u16 = 0x10;

impl Skb {
    /// Notes for how many segments of `mss` bytes it stands (`tcp_skb_pcount()`),
    /// and returns that.
    pub(crate) fn set_segments(&mut self, mss: u32) -> u32 {
        let raw = self.0.as_ptr();
        // SAFETY: By the type invariants the skb is valid.
        let len = unsafe { addr_of!((*raw).len).read() };
        // Mostly it is one, and a division is dear.
        let segments = if len <= mss {
            1
        } else {
            len.saturating_add(mss.saturating_sub(1))
                .checked_div(mss)
                .unwrap_or(1)
        };
        // SAFETY: By the type invariants the skb is ours alone, and TCP's; it is the member of the
        // union that a sender uses.
        unsafe {
            (*tcp_cb(raw))
                .__bindgen_anon_1
                .__bindgen_anon_1
                .tcp_gso_segs = segments as u16;
        }
        segments
    }

    /// From here on it does not claim to be a segment.
    pub(super) fn clear_ack_flag(&mut self) {
        // SAFETY: By the type invariants the skb is ours alone, and TCP's.
        unsafe { (*tcp_cb(self.0.as_ptr())).tcp_flags &= !ACK };
    }

    /// Gives it to C.
    pub(super) fn into_raw(self) -> *mut bindings::sk_buff {
        ManuallyDrop::new(self).0.as_ptr()
    }
}

impl Drop for Skb {
    fn drop(&mut self) {
        // SAFETY: By the type invariants ours is the only reference.
        unsafe { bindings::__kfree_skb(self.0.as_ptr()) };
    }
}

/// An skb with the next bytes of a stream, that C made and takes back unless it
/// is converted into an [`Skb`].
///
/// # Invariants
///
/// The skb is valid, in no queue, charged to nobody, and nobody else has it for
/// `'a`.
pub(crate) struct Fresh<'a>(NonNull<bindings::sk_buff>, PhantomData<&'a mut ()>);

impl Fresh<'_> {
    /// # Safety
    ///
    /// `skb` is valid, in no queue, charged to nobody, and the caller's alone
    /// for the lifetime of the returned value.
    pub(super) unsafe fn new(skb: NonNull<bindings::sk_buff>) -> Self {
        // INVARIANT: By the function's safety requirements.
        Self(skb, PhantomData)
    }

    /// The C skb.
    pub(super) fn raw(&self) -> *mut bindings::sk_buff {
        self.0.as_ptr()
    }

    /// Bytes of payload.
    pub(crate) fn len(&self) -> u32 {
        // SAFETY: By the type invariants the skb is valid.
        unsafe { addr_of!((*self.raw()).len).read() }
    }
}

impl From<Fresh<'_>> for Skb {
    fn from(fresh: Fresh<'_>) -> Self {
        // INVARIANT: By those of `Fresh`; that it was taken is told to C by the hook's answer.
        Skb(fresh.0)
    }
}

/// How the segment that established a connection came in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Over the loopback device.
    Loopback,
    /// Over another one, or there was none.
    Elsewhere,
}

impl Arrival {
    /// # Safety
    ///
    /// `skb` is null or valid.
    pub(super) unsafe fn of(skb: *const bindings::sk_buff) -> Self {
        // SAFETY: By the function's safety requirements.
        let iif = match unsafe { skb.as_ref() } {
            // SAFETY: The headers' member of the union, where `skb_iif` is.
            Some(skb) => unsafe { skb.__bindgen_anon_4.headers.as_ref() }.skb_iif,
            None => 0,
        };
        if iif == bindings::LOOPBACK_IFINDEX as i32 {
            Arrival::Loopback
        } else {
            Arrival::Elsewhere
        }
    }
}
