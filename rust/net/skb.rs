// SPDX-License-Identifier: GPL-2.0

//! Socket buffers in and between the queues of TCP sockets.
//!
//! Invariant 1 of the design is ownership here: an skb that is held as an [`Skb`] value is in no
//! queue. [`Head::take`] gets a value from a write queue, [`Received::unlink`] gets one from a
//! receive queue, and `skb_cache` provides empty ones. [`Tcp::receive`] takes the value over again.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

use core::{
    marker::PhantomData,
    mem::{
        ManuallyDrop,
        MaybeUninit, //
    },
    ptr::{
        addr_of,
        addr_of_mut,
        NonNull, //
    },
};

use kernel::{
    bindings,
    page::PAGE_SIZE, //
};

use super::{
    iov::{
        Destination,
        Fault,
        NoFaults,
        Source, //
    },
    lock::BeingRead,
    mark::Mark,
    receive::OutOfSequence,
    skb_cache,
    sock::Sock,
    tcp::Tcp, //
};

/// Returns TCP's control block in an skb (`TCP_SKB_CB()`).
///
/// # Safety
///
/// `skb` must be valid and belong to TCP.
unsafe fn tcp_cb(skb: *mut bindings::sk_buff) -> *mut bindings::tcp_skb_cb {
    // SAFETY: By the function's safety requirements `skb` is valid. Its `cb` field has room for
    // TCP's control block.
    unsafe { addr_of!((*skb).cb).cast_mut().cast() }
}

/// Returns which bytes of a stream an skb holds.
///
/// # Safety
///
/// `skb` must be valid and belong to TCP.
#[inline]
unsafe fn segment(skb: *mut bindings::sk_buff) -> Segment {
    // SAFETY: By the function's safety requirements `skb` is valid and has TCP's control block.
    unsafe {
        let cb = tcp_cb(skb);
        Segment {
            seq: (*cb).seq,
            end_seq: (*cb).end_seq,
        }
    }
}

/// Returns the protocol of the packet that an skb was (`ETH_P_*`), or 0 if the skb was no packet.
///
/// # Safety
///
/// `skb` must be valid.
#[inline]
unsafe fn protocol(skb: *mut bindings::sk_buff) -> u16 {
    // SAFETY: By the function's safety requirements `skb` is valid. `headers` is the member of the
    // union that contains `protocol`.
    unsafe { (*skb).__bindgen_anon_4.headers.as_ref() }.protocol
}

/// Copies `len` bytes behind the linear part of an skb, without extending the linear part.
///
/// # Safety
///
/// `skb` must be valid, nobody else may use it, its data must not be shared, and it must have room
/// for `len` bytes.
#[inline(always)]
unsafe fn copy_behind(
    skb: *mut bindings::sk_buff,
    from: &mut Source<'_>,
    len: usize,
) -> Result<(), Fault> {
    // SAFETY: By the function's safety requirements `len` bytes at the tail may be written, and
    // nobody else accesses them.
    from.copy(unsafe {
        core::slice::from_raw_parts_mut(
            bindings::skb_tail_pointer(skb).cast::<MaybeUninit<u8>>(),
            len,
        )
    })
}

/// The bytes `[seq, end_seq)` of a stream.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    /// The sequence number of the first byte.
    pub(crate) seq: u32,
    /// The sequence number after the last byte. A FIN takes one number.
    pub(crate) end_seq: u32,
}

impl Segment {
    /// Returns how many sequence numbers the segment covers.
    pub(crate) fn len(&self) -> u32 {
        self.end_seq.wrapping_sub(self.seq)
    }
}

/// Returns how many segments of at most `mss` bytes are needed for `len` bytes.
#[inline]
pub(crate) fn segments_of(len: u32, mss: u32) -> u32 {
    // In most cases one segment is enough, and a division is expensive.
    if len <= mss {
        1
    } else {
        len.saturating_add(mss.saturating_sub(1))
            .checked_div(mss)
            .unwrap_or(1)
    }
}

/// The first skb of a socket's write queue, which is still in that queue.
///
/// # Invariants
///
/// `skb` is the head of the write queue of `sock`, and the holder has exclusive access to the state
/// of `sock` for `'a` (the value borrows a [`Tcp`](super::Tcp)).
pub(crate) struct Head<'a> {
    sock: &'a Sock,
    skb: NonNull<bindings::sk_buff>,
    _borrow: PhantomData<&'a mut ()>,
}

impl<'a> Head<'a> {
    /// Creates a [`Head`] from the first skb of a write queue.
    ///
    /// # Safety
    ///
    /// `skb` must be the head of the write queue of `sock`, and the caller must have exclusive
    /// access to the state of `sock` for `'a`.
    pub(super) unsafe fn new(sock: &'a Sock, skb: NonNull<bindings::sk_buff>) -> Self {
        // INVARIANT: By the function's safety requirements `skb` is the head of the write queue,
        // and access to the state of `sock` is exclusive for `'a`.
        Self {
            sock,
            skb,
            _borrow: PhantomData,
        }
    }

    /// Returns the C skb.
    pub(super) fn raw(&self) -> *mut bindings::sk_buff {
        self.skb.as_ptr()
    }

    /// Returns which bytes of the stream the skb holds.
    pub(crate) fn segment(&self) -> Segment {
        // SAFETY: By the type invariants the skb is in a TCP write queue, so it is valid and
        // belongs to TCP.
        unsafe { segment(self.raw()) }
    }

    /// Returns how many bytes of payload the skb has.
    pub(crate) fn len(&self) -> u32 {
        // SAFETY: By the type invariants the skb is in a queue, so it is valid.
        unsafe { addr_of!((*self.raw()).len).read() }
    }

    /// Returns how many bytes of memory the skb takes.
    pub(crate) fn truesize(&self) -> u32 {
        // SAFETY: By the type invariants the skb is in a queue, so it is valid.
        unsafe { addr_of!((*self.raw()).truesize).read() }
    }

    /// Returns whether the skb is the last of the write queue, and so the only one.
    pub(crate) fn is_last(&self) -> bool {
        // SAFETY: By the type invariants the skb is in the write queue of `sock`.
        unsafe { bindings::tcp_skb_is_last(self.sock.raw(), self.raw()) }
    }

    /// Returns the flags of the TCP header (`TCPHDR_*`, RFC 9293 section 3.1).
    pub(crate) fn tcp_flags(&self) -> u16 {
        // SAFETY: By the type invariants the skb is in a TCP write queue, so it is valid and
        // belongs to TCP.
        unsafe { (*tcp_cb(self.raw())).tcp_flags }
    }

    /// Returns whether somebody waits for a time stamp of this skb that only the wire can give.
    pub(crate) fn wants_timestamp(&self) -> bool {
        // SAFETY: By the type invariants the skb is in a TCP write queue, so it is valid and
        // belongs to TCP.
        unsafe {
            (*bindings::skb_shinfo(self.raw())).tx_flags != 0
                || bindings::tcp_skb_cb::txstamp_ack_raw(tcp_cb(self.raw())) != 0
        }
    }

    /// Returns whether the skb's pages still belong to the sending program (`MSG_ZEROCOPY`).
    pub(crate) fn is_zerocopy(&self) -> bool {
        // SAFETY: By the type invariants the skb is in a queue, so it is valid.
        unsafe { bindings::skb_zcopy(self.raw()) }
    }

    /// Returns whether some of the payload is in the linear part, which coalescing would mistake
    /// for the linear part of a packet.
    pub(crate) fn has_linear_data(&self) -> bool {
        // SAFETY: By the type invariants the skb is in a queue, so it is valid.
        unsafe { bindings::skb_headlen(self.raw()) != 0 }
    }

    /// Gives a zero-copy skb pages of its own and notifies the sending program that the program's
    /// pages are free, as reception on the loopback device does.
    ///
    /// Returns whether there was enough memory for the new pages.
    pub(crate) fn copy_user_pages(&mut self) -> bool {
        // SAFETY: By the type invariants the skb is in the write queue of `sock`, and we have
        // exclusive access to the state of `sock`. `GFP_ATOMIC` is allowed in every context.
        unsafe {
            bindings::tcp_downgrade_zcopy_pure(self.sock.raw(), self.raw()) == 0
                && bindings::skb_orphan_frags_rx(self.raw(), bindings::GFP_ATOMIC) == 0
        }
    }

    /// Cuts the skb so that it holds `len` bytes. The rest, which is at least a FIN, follows as a
    /// new skb.
    ///
    /// Returns whether there was enough memory for the new skb.
    pub(crate) fn split(&mut self, len: u32, mss: u32) -> bool {
        // SAFETY: By the type invariants the skb is in the write queue of `sock`, and we have
        // exclusive access to the state of `sock`. `GFP_ATOMIC` is allowed in every context.
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

    /// Prevents TCP from appending anything to the skb, as `MSG_EOR` does.
    pub(crate) fn end_record(&mut self) {
        // SAFETY: By the type invariants the skb is in a TCP write queue, so it is valid and
        // belongs to TCP, and we have exclusive access to that queue.
        unsafe { bindings::tcp_skb_cb::set_eor_raw(tcp_cb(self.raw()), 1) };
    }

    /// Marks the first segment that is sent from this skb. Returns whether there was enough memory.
    pub(crate) fn mark(&mut self, mark: Mark) -> bool {
        // SAFETY: By the type invariants the skb is valid, and we have exclusive access to the
        // queue that it is in.
        unsafe { mark.put_on(self.raw()) }
    }

    /// Takes the skb out of the queue and uncharges it from the sender.
    pub(crate) fn take(self) -> Skb {
        let size = self.truesize() as i32;
        // SAFETY: By the type invariants we have exclusive access to the sender's account. The skb
        // is charged there with its truesize: only a zero-copy skb would be charged with less, and
        // a zero-copy skb is never taken.
        unsafe { bindings::sk_mem_uncharge(self.sock.raw(), size) };
        self.unlink()
    }

    /// Takes the skb out of the queue, uncharges it from the sender, and makes its size ready to be
    /// charged to `receiver`. The pages come from the sender's account where both sockets draw on
    /// one account.
    ///
    /// Gives the skb back, still queued, if the receiver's account takes no more.
    pub(crate) fn take_for(self, receiver: &mut Tcp<'_>) -> Result<Skb, Self> {
        if receiver.sock().shares_account(self.sock) && receiver.take_over_pages(self.sock, &self) {
            Ok(self.unlink())
        } else if receiver.rmem_schedule(&self) {
            Ok(self.take())
        } else {
            Err(self)
        }
    }

    /// Takes the skb out of the queue. The caller takes care of what the skb was charged to.
    fn unlink(self) -> Skb {
        let size = self.truesize() as i32;
        // SAFETY: By the type invariants the skb is in the write queue of `sock`, and we have
        // exclusive access to the state of `sock`.
        unsafe {
            bindings::tcp_unlink_write_queue(self.raw(), self.sock.raw());
            bindings::sk_wmem_queued_add(self.sock.raw(), -size);
        }
        // INVARIANT: The skb is in no queue now, so we have the only reference, and the callers
        // have taken care of what the skb was charged to.
        Skb(self.skb)
    }
}

/// An skb that is in no queue and charged to nobody.
///
/// # Invariants
///
/// The holder has the only reference to the skb, which is in no queue and charged to nobody.
pub(crate) struct Skb(NonNull<bindings::sk_buff>);

/// `TCPHDR_FIN` of RFC 9293 section 3.1.
const FIN: u16 = 0x01;
/// `TCPHDR_SYN`.
const SYN: u16 = 0x02;
/// `TCPHDR_PSH`.
const PSH: u16 = 0x08;
/// `TCPHDR_ACK`.
const ACK: u16 = 0x10;

impl Skb {
    /// Returns for how many segments of `mss` bytes the skb stands.
    pub(crate) fn segments(&self, mss: u32) -> u32 {
        segments_of(self.len(), mss)
    }

    /// Returns how many bytes of payload the skb has.
    #[inline]
    pub(super) fn len(&self) -> u32 {
        // SAFETY: By the type invariants we have a reference to the skb, so it is valid.
        unsafe { addr_of!((*self.0.as_ptr()).len).read() }
    }

    /// Returns which bytes of a stream the skb holds.
    #[inline]
    pub(super) fn segment(&self) -> Segment {
        // SAFETY: By the type invariants we have a reference to the skb, so it is valid. Its
        // control block is TCP's: the skb comes from a queue of TCP, or `Skb::set_seq` was called.
        unsafe { segment(self.0.as_ptr()) }
    }

    /// Passes the reference to C.
    pub(super) fn into_raw(self) -> *mut bindings::sk_buff {
        ManuallyDrop::new(self).0.as_ptr()
    }
}

impl Skb {
    /// Creates an [`Skb`] from a C skb.
    ///
    /// # Safety
    ///
    /// The caller must have the only reference and give it up. The skb must be in no queue and
    /// charged to nobody.
    pub(super) unsafe fn from_raw(skb: NonNull<bindings::sk_buff>) -> Self {
        // INVARIANT: By the function's safety requirements this is the only reference, and the skb
        // is in no queue and charged to nobody.
        Self(skb)
    }

    /// Allocates an empty skb. Does not sleep, and does not use the kernel's memory reserves even
    /// if the caller may use them, because others will use the skb again.
    pub(super) fn new(size: Size) -> Option<Self> {
        let gfp = bindings::GFP_NOWAIT | 1 << bindings::___GFP_NOMEMALLOC_BIT;

        if size == Size::Paged {
            return Self::new_paged(gfp);
        }
        // SAFETY: `__alloc_skb()` has no requirements.
        let skb =
            unsafe { bindings::__alloc_skb(size.room() as u32, gfp, 0, bindings::NUMA_NO_NODE) };
        // INVARIANT: The skb was just allocated, so nobody else has a reference, no queue has it,
        // and nobody is charged with it.
        NonNull::new(skb).map(Self)
    }

    /// Allocates an empty skb of [`Size::Paged`]. Fails if there are no pages of that order.
    fn new_paged(gfp: bindings::gfp_t) -> Option<Self> {
        // SAFETY: `__alloc_skb()` has no requirements.
        let skb = unsafe { bindings::__alloc_skb(0, gfp, 0, bindings::NUMA_NO_NODE) };
        // INVARIANT: The skb was just allocated, so nobody else has a reference, no queue has it,
        // and nobody is charged with it.
        let skb = NonNull::new(skb).map(Self)?;
        let all = (0..PAGES).all(|i| {
            // SAFETY: By the type invariants the skb is valid and we have the only reference. An
            // skb has room for more fragments than `PAGES`.
            unsafe { bindings::skb_add_page(skb.raw(), i as i32, ORDER, gfp) }
        });

        all.then_some(skb)
    }

    /// Returns whether the memory of the payload is [`PAGES`] pages of [`ORDER`] to which nobody
    /// else has a reference, neither a pipe nor another skb.
    #[inline(always)]
    fn has_own_pages(&self) -> bool {
        let raw = self.0.as_ptr();
        // SAFETY: By the type invariants we have a reference to the skb, so it is valid. Only
        // fragments that the skb has are checked.
        unsafe {
            usize::from((*bindings::skb_shinfo(raw)).nr_frags) == PAGES
                && (0..PAGES).all(|i| bindings::skb_frag_is_own(raw, i as i32, ORDER))
        }
    }

    /// Puts `len` bytes into an empty skb of [`Size::Paged`]. Each page gets as many, because no
    /// fragment may be empty.
    #[inline(always)]
    pub(crate) fn fill_pages(&mut self, from: &mut Source<'_>, len: usize) -> Result<(), Fault> {
        let raw = self.0.as_ptr();
        let mut done = 0usize;

        if len > PAGED || !self.has_own_pages() {
            return Err(Fault);
        }
        for i in 0..PAGES {
            let now = len.saturating_sub(done).min(len.div_ceil(PAGES));
            // SAFETY: By the type invariants the skb is valid and we have the only reference.
            // Nobody else has a reference to its pages, and each page has at least `now` bytes.
            // TRUNCATE: `now` is at most `PAGED`.
            let copied = unsafe {
                bindings::skb_frag_size_set(raw, i as i32, now as u32);
                from.copy(core::slice::from_raw_parts_mut(
                    bindings::skb_frag_address(raw, i as i32).cast::<MaybeUninit<u8>>(),
                    now,
                ))
            };
            if copied.is_err() {
                if done != 0 {
                    from.revert(done);
                }
                return Err(Fault);
            }
            done = done.saturating_add(now);
        }
        // SAFETY: By the type invariants the skb is valid and we have the only reference.
        // TRUNCATE: `len` is at most `PAGED`.
        unsafe {
            (*raw).len = len as u32;
            (*raw).data_len = len as u32;
        }
        Ok(())
    }

    /// Makes the pages of the next `want` bytes of `from`, but at most [`PAGED`] bytes, part of a
    /// new skb, without a copy. Returns the skb and the number of these bytes.
    ///
    /// Returns `None` if there is no memory, or if a page cannot be part of an skb.
    #[inline(never)]
    pub(crate) fn of_pages(from: &mut Source<'_>, want: usize) -> Option<(Self, usize)> {
        let skb = skb_cache::get(Size::Small)?;
        let raw = skb.raw();
        // SAFETY: By the type invariants the skb is valid and we have the only reference.
        let bytes = unsafe {
            // Without this, the checksum of the bytes would be computed.
            (*raw)
                .__bindgen_anon_4
                .headers
                .as_mut()
                .set_ip_summed(bindings::CHECKSUM_UNNECESSARY as u8);
            from.splice(raw, want.min(PAGED))
        };
        // SAFETY: By the type invariants the skb is valid and we have the only reference. Others
        // may have references to its pages, and may write to them.
        unsafe { (*bindings::skb_shinfo(raw)).flags |= bindings::SKBFL_SHARED_FRAG as u8 };
        (bytes != 0).then_some((skb, bytes))
    }

    /// Returns how many bytes of memory the skb takes.
    #[inline]
    pub(crate) fn truesize(&self) -> u32 {
        // SAFETY: By the type invariants we have a reference to the skb, so it is valid.
        unsafe { addr_of!((*self.0.as_ptr()).truesize).read() }
    }

    /// Returns the C skb.
    pub(super) fn raw(&self) -> *mut bindings::sk_buff {
        self.0.as_ptr()
    }

    /// Returns the CPU that allocated the skb.
    #[inline]
    pub(super) fn cpu(&self) -> usize {
        // SAFETY: By the type invariants we have a reference to the skb, so it is valid. `headers`
        // is the member of the union that contains `alloc_cpu`.
        unsafe {
            (*self.0.as_ptr())
                .__bindgen_anon_4
                .headers
                .as_ref()
                .alloc_cpu
                .into()
        }
    }

    /// Puts `len` bytes into an empty skb, which must have room for them and must not be of
    /// [`Size::Paged`].
    #[inline(always)]
    pub(crate) fn fill(&mut self, from: &mut Source<'_>, len: usize) -> Result<(), Fault> {
        // SAFETY: By the type invariants the skb is valid and we have the only reference. The
        // caller guarantees that the skb has room for `len` bytes. TRUNCATE: The room of an skb
        // fits in a `u32`.
        unsafe {
            copy_behind(self.0.as_ptr(), from, len)?;
            bindings::__skb_put(self.0.as_ptr(), len as u32);
        }
        Ok(())
    }

    /// Numbers the skb's bytes from `seq` on. Returns how many bytes the skb has.
    #[inline(always)]
    pub(crate) fn set_seq(&mut self, seq: u32) -> u32 {
        let raw = self.0.as_ptr();
        // SAFETY: By the type invariants the skb is valid and we have the only reference. Its
        // control block is TCP's from here on.
        unsafe {
            let len = addr_of!((*raw).len).read();
            let cb = tcp_cb(raw);

            (*cb).seq = seq;
            (*cb).end_seq = seq.wrapping_add(len);
            (*cb).tcp_flags = ACK | PSH;
            len
        }
    }

    /// Empties the skb and returns its size if [`Skb::new`] could have allocated it, and if the
    /// size is not [`Size::Paged`].
    #[inline(always)]
    pub(super) fn recycle(&mut self) -> Option<Size> {
        let raw = self.0.as_ptr();
        // SAFETY: By the type invariants the skb is valid and we have the only reference. If the
        // skb was never cloned, its data are not shared either, and may be overwritten.
        unsafe {
            let size = match bindings::skb_end_offset(raw) as usize {
                end if end == Size::Small.room() => Size::Small,
                end if end == Size::Large.room() => Size::Large,
                _ => return None,
            };
            if addr_of!((*raw).data_len).read() != 0 {
                self.drop_pages(size)?;
            }
            if protocol(raw) != 0
                || !bindings::skb_is_ordinary(raw)
                || bindings::skb_headroom(raw) != 0
            {
                return None;
            }
            bindings::__skb_trim(raw, 0);
            // A segment that was merged into the skb may have left its state in the control block.
            addr_of_mut!((*raw).cb).write_bytes(0, 1);
            Some(size)
        }
    }

    /// Drops the pages of an skb that [`Skb::of_pages`] has made. Fails if the skb is another one,
    /// or if a clone shares its pages.
    #[inline(never)]
    fn drop_pages(&mut self, size: Size) -> Option<()> {
        let raw = self.0.as_ptr();
        let shared = bindings::SKBFL_SHARED_FRAG as u8;
        // SAFETY: By the type invariants the skb is valid, we have the only reference, and nobody is
        // charged with it, so `sk` is null. The flags belong to us alone, too, once there is no
        // clone. `___pskb_trim()` drops one reference to each page, and sets the `truesize` of an
        // skb without `sk` to what it was before it had pages.
        unsafe {
            let flags = addr_of_mut!((*bindings::skb_shinfo(raw)).flags);

            if size != Size::Small || bindings::skb_cloned(raw) || flags.read() != shared {
                return None;
            }
            flags.write(0);
            if !bindings::skb_is_ordinary(raw) || bindings::___pskb_trim(raw, 0) != 0 {
                // The flag keeps others from writing to these pages.
                flags.write(shared);
                return None;
            }
        }
        Some(())
    }

    /// Empties the skb if it is of [`Size::Paged`]. Returns whether it is.
    pub(super) fn recycle_pages(&mut self) -> bool {
        let raw = self.0.as_ptr();
        // SAFETY: By the type invariants the skb is valid and we have the only reference. If
        // nobody else has a reference to its pages, these may be overwritten.
        unsafe {
            if protocol(raw) != 0
                || bindings::skb_headlen(raw) != 0
                // Whoever is charged with the skb is charged with all of its pages.
                || (self.truesize() as usize) < PAGED
                || !bindings::skb_is_ordinary(raw)
                || bindings::skb_headroom(raw) != 0
                || !self.has_own_pages()
            {
                return false;
            }
            addr_of_mut!((*raw).len).write(0);
            addr_of_mut!((*raw).data_len).write(0);
            addr_of_mut!((*raw).cb).write_bytes(0, 1);
            true
        }
    }
}

impl Drop for Skb {
    fn drop(&mut self) {
        // SAFETY: By the type invariants we have the only reference.
        unsafe { bindings::__kfree_skb(self.0.as_ptr()) };
    }
}

/// The size of an empty skb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// A buffer of 2 KiB, including `struct skb_shared_info`.
    Small,
    /// A buffer of 32 KiB, including `struct skb_shared_info`.
    Large,
    /// [`PAGED`] bytes in [`PAGES`] fragments.
    Paged,
}

/// How many bytes of payload an skb of [`Size::Paged`] has room for.
const PAGED: usize = 64 << 10;
/// The size of one of its pages in bytes: 32 KiB, like that of the pages that TCP copies a writer's
/// bytes to, unless the processor's pages are larger.
const PIECE: usize = if PAGE_SIZE > 32 << 10 {
    PAGED
} else {
    32 << 10
};
/// How many pages it has.
const PAGES: usize = PAGED / PIECE;
/// The order of these pages.
const ORDER: u32 = (PIECE / PAGE_SIZE).trailing_zeros();

/// No processor that Rust for Linux supports has pages of more than 64 KiB.
const _: () = assert!(PAGE_SIZE <= PIECE);

impl Size {
    /// Returns how many bytes of memory the payload of an skb of this size has, including
    /// `struct skb_shared_info` if it is in one buffer.
    pub(super) const fn whole(self) -> usize {
        match self {
            Size::Small => 2 << 10,
            Size::Large => 32 << 10,
            Size::Paged => PAGED,
        }
    }

    /// Returns how many pages of TCP's account the memory of an skb of this size takes.
    pub(super) const fn pages(self) -> isize {
        let whole = match self {
            Size::Small => 2 << 10,
            // `struct sk_buff` comes on top.
            Size::Large => (32 << 10) + 1,
            Size::Paged => PAGED + 1,
        };

        // TRUNCATE: There are few of them.
        usize::div_ceil(whole, PAGE_SIZE) as isize
    }

    /// Returns how many bytes of payload an empty skb of this size has room for.
    #[inline]
    pub(crate) fn room(self) -> usize {
        let whole = match self {
            Size::Small => 2 << 10,
            Size::Large => 32 << 10,
            Size::Paged => return PAGED,
        };
        // SAFETY: `SKB_WITH_OVERHEAD()` only computes a number.
        unsafe { bindings::skb_with_overhead(whole) as usize }
    }

    /// Returns the size for the first of `len` bytes. At most a quarter of an skb of
    /// [`Size::Paged`] stays empty.
    #[inline]
    pub(crate) fn of(len: usize) -> Self {
        if len < PAGED / 4 * 3 {
            Size::linear(len)
        } else {
            Size::Paged
        }
    }

    /// Returns the smallest size that holds `len` bytes in one buffer, or the largest such size if
    /// none does.
    #[inline]
    pub(crate) fn linear(len: usize) -> Self {
        if len <= Size::Small.room() {
            Size::Small
        } else {
            Size::Large
        }
    }
}

/// An skb of a socket's receive queue, which is still in that queue.
///
/// # Invariants
///
/// `skb` is in the receive queue of `sock`, and the holder has exclusive access to the state of
/// `sock` for `'a` (the value borrows a [`Tcp`]).
pub(crate) struct Received<'a> {
    sock: &'a Sock,
    skb: NonNull<bindings::sk_buff>,
    _borrow: PhantomData<&'a mut ()>,
}

impl<'a> Received<'a> {
    /// Creates a [`Received`] from an skb of a receive queue.
    ///
    /// # Safety
    ///
    /// `skb` must be in the receive queue of `sock`, and the caller must have exclusive access to
    /// the state of `sock` for `'a`.
    pub(super) unsafe fn new(sock: &'a Sock, skb: NonNull<bindings::sk_buff>) -> Self {
        // INVARIANT: By the function's safety requirements `skb` is in the receive queue, and
        // access to the state of `sock` is exclusive for `'a`.
        Self {
            sock,
            skb,
            _borrow: PhantomData,
        }
    }

    /// Returns the C skb.
    fn raw(&self) -> *mut bindings::sk_buff {
        self.skb.as_ptr()
    }

    /// Returns which bytes of the stream the skb holds.
    #[inline]
    pub(crate) fn segment(&self) -> Segment {
        // SAFETY: By the type invariants the skb is in a TCP receive queue, so it is valid and
        // belongs to TCP.
        unsafe { segment(self.raw()) }
    }

    /// Returns how many bytes of payload the skb has.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        // SAFETY: By the type invariants the skb is in a queue, so it is valid.
        unsafe { addr_of!((*self.raw()).len).read() as usize }
    }

    /// Returns whether everything in the skb came from a friend: the skb has no time stamp and no
    /// FIN, and it was no packet.
    #[inline]
    pub(crate) fn is_from_friend(&self) -> bool {
        // SAFETY: By the type invariants the skb is in a TCP receive queue, so it is valid and
        // belongs to TCP.
        unsafe {
            let cb = tcp_cb(self.raw());
            protocol(self.raw()) == 0
                && (*cb).tcp_flags & (FIN | SYN) == 0
                && bindings::tcp_skb_cb::has_rxtstamp_raw(cb) == 0
        }
    }

    /// Returns how many bytes can be appended to the skb.
    #[inline(always)]
    pub(crate) fn room(&self) -> usize {
        // SAFETY: By the type invariants the skb is in a queue, so it is valid. An skb with
        // fragments has no tailroom, and behind cloned data the holder of the clone may append,
        // too.
        unsafe {
            if bindings::skb_cloned(self.raw()) {
                return 0;
            }
            bindings::skb_tailroom(self.raw()).max(0).unsigned_abs() as usize
        }
    }

    /// Copies `len` bytes, for which there must be room, behind the bytes of the skb. The new bytes
    /// are no part of the skb before [`Received::append`] is called.
    #[inline(always)]
    pub(crate) fn copy_behind(&mut self, from: &mut Source<'_>, len: usize) -> Result<(), Fault> {
        // SAFETY: By the type invariants the skb is valid, and nobody else accesses it. The caller
        // guarantees that the skb has room for `len` bytes and is not cloned ([`Received::room`]).
        unsafe { copy_behind(self.raw(), from, len) }
    }

    /// Receives the next `len` bytes of the stream, which [`Received::copy_behind`] has copied, as
    /// a part of this skb. They stand for `segments` segments. The skb must be the last of the
    /// queue.
    ///
    /// Resets the connection and returns [`OutOfSequence`] if the skb does not end at `rcv_nxt`.
    #[inline(always)]
    pub(crate) fn append(self, len: usize, segments: u32) -> Result<(), OutOfSequence> {
        let end_seq = self.segment().end_seq;
        // TRUNCATE: The room of an skb fits in a `u32`.
        let len = len as u32;
        // SAFETY: By the type invariants we have exclusive access to the state of `sock` for `'a`,
        // which outlives this function. The `Tcp` of `sock` is borrowed by this value meanwhile.
        let mut tcp = unsafe { Tcp::new(self.sock) };

        tcp.receive_more(end_seq, len, segments)?;
        // SAFETY: By the type invariants we have exclusive access to the receive queue. The caller
        // guarantees that the skb is the last of the queue and has room for `len` bytes.
        unsafe {
            (*tcp_cb(self.raw())).end_seq = end_seq.wrapping_add(len);
            bindings::__skb_put(self.raw(), len);
        }
        Ok(())
    }

    /// Returns whether pages may become part of the skb: it has nothing but pages that friends have
    /// sent, it is not cloned, and nobody walks its pages in order to read the socket in place.
    #[inline]
    fn takes_pages(&self, being_read: &BeingRead) -> bool {
        let raw = self.raw();
        // SAFETY: By the type invariants the skb is in a queue, so it is valid.
        unsafe {
            (*bindings::skb_shinfo(raw)).flags == bindings::SKBFL_SHARED_FRAG as u8
                && (*raw).data_len == (*raw).len
                && !bindings::skb_cloned(raw)
                && bindings::skb_frags_readable(raw)
                && !being_read.names(self.sock)
                && self.is_from_friend()
        }
    }

    /// Makes the pages of the next `len` bytes of `from` a part of this skb, and receives these
    /// bytes as the next ones of the stream. Returns how many segments they stand for. Does nothing
    /// and returns `None` if the skb takes no pages or has no room for so many fragments, or if
    /// there is no memory.
    ///
    /// The skb must be the last of the queue, and end where these bytes begin. `being_read` is the
    /// one of the receiver.
    #[inline]
    pub(crate) fn append_pages(
        self,
        from: &mut Source<'_>,
        len: usize,
        mss: u32,
        being_read: &BeingRead,
    ) -> Option<u32> {
        let (raw, end_seq) = (self.raw(), self.segment().end_seq);
        // SAFETY: By the type invariants we have exclusive access to the state of `sock` for `'a`,
        // which outlives this function. The `Tcp` of `sock` is borrowed by this value meanwhile.
        let mut tcp = unsafe { Tcp::new(self.sock) };

        // TRUNCATE: The second condition bounds `len`.
        if end_seq != tcp.rcv_nxt()
            || self.len().saturating_add(len) > PAGED
            || !self.takes_pages(being_read)
            || !tcp.rmem_schedule_new(len as u32)
        {
            return None;
        }
        // SAFETY: By the type invariants the skb is in the receive queue, and the socket's spinlock
        // or its owner gives exclusive access to it. `takes_pages` has found that there is no clone,
        // and that the owner, if there is one, does not read in place.
        let taken = unsafe { from.splice(raw, len) };

        if taken != len {
            // SAFETY: `splice` has just taken `taken` bytes. Access to the skb, which is not cloned,
            // is still exclusive: by the type invariants it is for all of `'a`.
            unsafe { self.take_back(from, taken) };
            return None;
        }
        let segments = segments_of(len as u32, mss);

        // SAFETY: By the type invariants access to the socket's state is exclusive. The bytes have
        // been scheduled, and are part of the skb's truesize.
        unsafe { self.sock.charge_more(len as u32) };
        tcp.receive_more(end_seq, len as u32, segments).ok()?;
        // SAFETY: By the type invariants we have exclusive access to the receive queue.
        unsafe { (*tcp_cb(raw)).end_seq = end_seq.wrapping_add(len as u32) };
        Some(segments)
    }

    /// Gives the last `bytes` bytes of the skb back to `from`.
    ///
    /// # Safety
    ///
    /// [`Source::splice`] has just taken these bytes from `from`, and nothing has been done with them
    /// since. Nobody else accesses the skb, which is not cloned.
    #[cold]
    unsafe fn take_back(&self, from: &mut Source<'_>, bytes: usize) {
        let raw = self.raw();

        if bytes == 0 {
            return;
        }
        // SAFETY: By the type invariants and the function's safety requirements the skb is valid
        // and has these bytes in fragments of its own. What is cut off an skb that is not cloned
        // needs no memory, so nothing fails. TRUNCATE: `bytes` is at most `PAGED`.
        unsafe {
            bindings::___pskb_trim(raw, (*raw).len.wrapping_sub(bytes as u32));
            (*raw).truesize = (*raw).truesize.wrapping_sub(bytes as u32);
        }
        from.revert(bytes);
    }

    /// Copies `len` bytes from `offset` on, or none. The skb must have that many bytes.
    #[inline]
    pub(crate) fn copy(
        &self,
        to: &mut Destination<'_>,
        offset: usize,
        len: usize,
    ) -> Result<(), Fault> {
        let before = to.left();
        let _no_faults = NoFaults::new();
        // SAFETY: By the type invariants the skb is valid. The caller guarantees that the skb has
        // these bytes. Its first `len - data_len` bytes are at `data`, and `data_len` is 0 in the
        // first branch.
        let whole = unsafe {
            let skb = self.raw();
            if addr_of!((*skb).data_len).read() == 0 {
                let data = addr_of!((*skb).data).read().add(offset);
                bindings::_copy_to_iter(data.cast(), len, to.raw()) == len
            } else {
                bindings::skb_copy_datagram_iter(skb, offset as i32, to.raw(), len as i32) == 0
            }
        };
        if whole {
            return Ok(());
        }
        to.revert(before.saturating_sub(to.left()));
        Err(Fault)
    }

    /// Takes the skb out of the queue and uncharges it from the reader.
    #[inline(always)]
    pub(crate) fn unlink(self) -> Skb {
        // SAFETY: By the type invariants the skb is in the receive queue of `sock`, to whose state
        // we have exclusive access. Everything in a receive queue is charged to its socket.
        unsafe {
            let queue = addr_of_mut!((*self.sock.raw()).sk_receive_queue);

            bindings::__skb_unlink(self.raw(), queue);
            uncharge(self.sock, self.skb)
        }
    }

    /// Returns whether the skb ends the stream with a FIN, which data may precede.
    #[inline(always)]
    pub(crate) fn has_fin(&self) -> bool {
        // SAFETY: By the type invariants the skb is in a TCP receive queue, so it is valid and
        // belongs to TCP.
        unsafe { (*tcp_cb(self.raw())).tcp_flags & FIN != 0 }
    }

    /// Returns whether the skb is the last of the queue.
    #[inline(always)]
    pub(crate) fn is_last(&self) -> bool {
        // SAFETY: By the type invariants the skb is in the receive queue of `sock`, to which we
        // have exclusive access.
        unsafe {
            core::ptr::addr_eq(
                (*self.raw()).__bindgen_anon_1.__bindgen_anon_1.next,
                addr_of!((*self.sock.raw()).sk_receive_queue),
            )
        }
    }

    /// Returns whether the skb has nothing but bytes that a program can read: no FIN, no SYN, and
    /// no memory of a device.
    #[inline(always)]
    pub(crate) fn is_plain(&self) -> bool {
        // SAFETY: By the type invariants the skb is in a TCP receive queue, so it is valid and
        // belongs to TCP.
        unsafe {
            (*tcp_cb(self.raw())).tcp_flags & (FIN | SYN) == 0
                && bindings::skb_frags_readable(self.raw())
        }
    }

    /// Returns the next skb of the queue.
    #[inline]
    pub(crate) fn next(self) -> Option<Received<'a>> {
        // SAFETY: By the type invariants the skb is in the receive queue of `sock`, to whose state
        // we have exclusive access for `'a`. The `next` of the last skb is the queue's head; the
        // `next` of any other is an skb of this queue.
        unsafe {
            if self.is_last() {
                return None;
            }
            let next = (*self.raw()).__bindgen_anon_1.__bindgen_anon_1.next;

            Some(Received::new(self.sock, NonNull::new_unchecked(next)))
        }
    }

    /// Returns whether the bytes can be copied to a program. Bytes in a device's memory cannot.
    #[inline(always)]
    pub(crate) fn is_readable(&self) -> bool {
        // SAFETY: By the type invariants the skb is in a TCP receive queue, so it is valid and
        // belongs to TCP.
        unsafe {
            (*tcp_cb(self.raw())).tcp_flags & SYN == 0 && bindings::skb_frags_readable(self.raw())
        }
    }
}

/// A part of an skb of a receive queue.
#[derive(Clone, Copy)]
struct Piece {
    skb: NonNull<bindings::sk_buff>,
    /// The first byte, if it is in the linear part of the skb; otherwise null.
    data: *const u8,
    offset: usize,
    len: usize,
}

/// The bytes that a read returns, in place at the head of a receive queue.
///
/// # Invariants
///
/// When the value was made, the pieces were of the first skbs of a receive queue, which hold plain
/// data. If a piece has `data`, its skb has no fragments.
pub(super) struct InPlace {
    pieces: [Option<Piece>; MOST_PIECES],
    bytes: usize,
}

/// The fewest bytes that are worth it to read in place.
pub(crate) const LEAST_IN_PLACE: usize = 8 << 10;
/// The most bytes that are read in place, in one RCU read-side critical section.
const MOST_IN_PLACE: usize = 128 << 10;

/// The most skbs of which one read in place takes bytes.
const MOST_PIECES: usize = 3;

impl InPlace {
    /// Finds what a read of `want` bytes from `p` returns. Returns `None` unless these are
    /// [`LEAST_IN_PLACE`] bytes at least and [`MOST_IN_PLACE`] at most, in no more than
    /// [`MOST_PIECES`] skbs, and also if TCP must read some of them.
    #[inline]
    pub(super) fn find(p: &mut Tcp<'_>, want: usize) -> Option<Self> {
        let mut seq = p.copied_seq();
        let ready = p.rcv_nxt().wrapping_sub(seq) as usize;

        if !(LEAST_IN_PLACE..=MOST_IN_PLACE).contains(&ready.min(want)) {
            return None;
        }
        // INVARIANT: There are no pieces yet.
        let mut found = Self {
            pieces: [const { None }; MOST_PIECES],
            bytes: 0,
        };
        let mut at = p.receive_head()?;

        for slot in &mut found.pieces {
            // A segment that was sent again may begin before the end of the one before it.
            let offset = seq.wrapping_sub(at.segment().seq) as usize;
            let len = at
                .len()
                .saturating_sub(offset)
                .min(want.saturating_sub(found.bytes));

            if len == 0 || !at.is_plain() {
                return None;
            }
            // SAFETY: By the type invariants of `Received` the skb is valid. If it has no
            // fragments, all its bytes are at `data`, and `offset` is less than its length.
            let data = unsafe {
                if addr_of!((*at.raw()).data_len).read() == 0 {
                    addr_of!((*at.raw()).data).read().add(offset).cast_const()
                } else {
                    core::ptr::null()
                }
            };
            // INVARIANT: The skb is the next one of the queue, and was found to be plain.
            *slot = Some(Piece {
                skb: at.skb,
                data,
                offset,
                len,
            });
            found.bytes = found.bytes.saturating_add(len);
            if found.bytes == want || at.is_last() {
                return Some(found);
            }
            // TRUNCATE: `len` is at most the length of an skb.
            seq = seq.wrapping_add(len as u32);
            at = at.next()?;
        }
        None
    }

    /// Returns the number of bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies all bytes to `to`, or none if a page of the program's memory is not present.
    ///
    /// # Safety
    ///
    /// The skbs are still in the queue: no reader has removed one since [`InPlace::find`].
    pub(super) unsafe fn copy(&self, to: &mut Destination<'_>) -> Result<(), Fault> {
        let before = to.left();
        let _no_faults = NoFaults::new();
        let whole = self.pieces.iter().flatten().all(|piece| {
            // SAFETY: By the type invariants and the function's safety requirements the skb is in
            // the queue, and its `len` bytes from `offset` on do not change. Linear data are at
            // `data`. An skb with fragments gets no more of them meanwhile
            // ([`Received::takes_pages`]).
            unsafe {
                if piece.data.is_null() {
                    bindings::skb_copy_datagram_iter(
                        piece.skb.as_ptr(),
                        piece.offset as i32,
                        to.raw(),
                        piece.len as i32,
                    ) == 0
                } else {
                    bindings::_copy_to_iter(piece.data.cast(), piece.len, to.raw()) == piece.len
                }
            }
        });

        if whole {
            return Ok(());
        }
        to.revert(before.saturating_sub(to.left()));
        Err(Fault)
    }
}

/// Uncharges an skb, which has been read, from its reader, as `tcp_eat_recv_skb()` does. This
/// function clears the skb's destructor instead of calling it, because every possible destructor
/// only calls `sock_rfree()`.
///
/// # Safety
///
/// `skb` must be charged to `sock`, and the caller must have exclusive access to the state of
/// `sock`. `skb` must not be in a queue any more, and nobody else may have a reference to it.
#[inline(always)]
unsafe fn uncharge(sock: &Sock, skb: NonNull<bindings::sk_buff>) -> Skb {
    let raw = skb.as_ptr();
    // SAFETY: By the function's safety requirements `skb` is charged to `sock`, and we have
    // exclusive access to both. TCP charges an skb with its truesize.
    unsafe {
        sock.rfree(addr_of!((*raw).truesize).read());
        let owner = &mut (*raw).__bindgen_anon_3.__bindgen_anon_1;
        owner.destructor = None;
        (*raw).sk = core::ptr::null_mut();
    }
    // INVARIANT: By the function's safety requirements this is the only reference. The skb is in no
    // queue, and it is charged to nobody now.
    Skb(skb)
}

/// Passes an skb to the cache for reuse. The skb was allocated by [`Skb::new`], and TCP has read
/// and unlinked it.
///
/// # Safety
///
/// `skb` must be charged to `sock`, and the caller must have exclusive access to the state of
/// `sock`. `skb` must not be in a queue any more, and nobody else may have a reference to it.
pub(super) unsafe fn recycle_read(sock: &Sock, skb: NonNull<bindings::sk_buff>) {
    // SAFETY: The safety requirements of this function are those of `uncharge`.
    skb_cache::put(unsafe { uncharge(sock, skb) });
}

/// How the segment that established a connection came in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Over the loopback device.
    Loopback,
    /// Over another device, or no segment came in.
    Elsewhere,
}

impl Arrival {
    /// Returns how `skb` came in.
    ///
    /// # Safety
    ///
    /// `skb` must be null or valid.
    pub(super) unsafe fn of(skb: *const bindings::sk_buff) -> Self {
        // SAFETY: By the function's safety requirements `skb` is null or valid.
        let iif = match unsafe { skb.as_ref() } {
            // SAFETY: `headers` is the member of the union that contains `skb_iif`.
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
