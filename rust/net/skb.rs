// SPDX-License-Identifier: GPL-2.0

//! Socket buffers of TCP's write queue.
//!
//! Invariant 1 of the design is ownership here: an [`Skb`] value is in no
//! queue. [`Head::take`] gets one from a write queue, [`Received::eat`] from a
//! receive queue, and `spent` has empty ones; [`Tcp::receive`] takes them over.
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
    page::PAGE_SIZE,
    types::NotThreadSafe, //
};

use super::{
    mark::Mark,
    sock::{
        Lied,
        Sock,
        Tcp, //
    },
    spent,
};
use crate::moving::segments_of;

/// TCP's control block in an skb (`TCP_SKB_CB()`).
///
/// # Safety
///
/// `skb` is valid and belongs to TCP.
unsafe fn tcp_cb(skb: *mut bindings::sk_buff) -> *mut bindings::tcp_skb_cb {
    // SAFETY: By the function's safety requirements; `cb` has room for it.
    unsafe { addr_of!((*skb).cb).cast_mut().cast() }
}

/// Which bytes an skb holds.
///
/// # Safety
///
/// As [`tcp_cb`].
#[inline]
unsafe fn segment(skb: *mut bindings::sk_buff) -> Segment {
    // SAFETY: By the function's safety requirements.
    unsafe {
        let cb = tcp_cb(skb);
        Segment {
            seq: (*cb).seq,
            end_seq: (*cb).end_seq,
        }
    }
}

/// What kind of packet it was (`ETH_P_*`); 0 if it was none.
///
/// # Safety
///
/// `skb` is valid.
#[inline]
unsafe fn protocol(skb: *mut bindings::sk_buff) -> u16 {
    // SAFETY: By the function's safety requirements; the headers' member of the union.
    unsafe { (*skb).__bindgen_anon_4.headers.as_ref() }.protocol
}

/// Copies `len` bytes behind the linear part, which does not grow yet.
///
/// # Safety
///
/// `skb` is valid, nobody else uses it, its data are not shared, and it has room.
#[inline(always)]
unsafe fn copy_behind(
    skb: *mut bindings::sk_buff,
    from: &mut Source<'_>,
    len: usize,
) -> Result<(), Fault> {
    // SAFETY: By the function's safety requirements there are `len` bytes to be written.
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
        unsafe { segment(self.raw()) }
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

    /// Marks what is sent of it first. Returns whether there was the memory for that.
    pub(crate) fn mark(&mut self, mark: Mark) -> bool {
        // SAFETY: By the type invariants the skb is valid, and the queue is ours.
        unsafe { mark.put_on(self.raw()) }
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

/// `TCPHDR_FIN`, RFC 9293 section 3.1.
const FIN: u16 = 0x01;
/// `TCPHDR_SYN`.
const SYN: u16 = 0x02;
/// `TCPHDR_PSH`.
const PSH: u16 = 0x08;
/// `TCPHDR_ACK`.
const ACK: u16 = 0x10;

impl Skb {
    /// Notes for how many segments of `mss` bytes it stands (`tcp_skb_pcount()`),
    /// and returns that.
    pub(crate) fn set_segments(&mut self, mss: u32) -> u32 {
        let raw = self.0.as_ptr();
        // SAFETY: By the type invariants the skb is valid.
        let len = unsafe { addr_of!((*raw).len).read() };
        let segments = segments_of(len, mss);
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

    /// Gives it to C.
    pub(super) fn into_raw(self) -> *mut bindings::sk_buff {
        ManuallyDrop::new(self).0.as_ptr()
    }
}

impl Skb {
    /// # Safety
    ///
    /// The caller has the only reference, and gives it up; the skb is in no queue
    /// and charged to nobody.
    pub(super) unsafe fn from_raw(skb: NonNull<bindings::sk_buff>) -> Self {
        // INVARIANT: By the function's safety requirements.
        Self(skb)
    }

    /// A new one, empty. Does not sleep, and leaves the kernel's reserves alone, also for
    /// who may use them: it will be used again by others.
    pub(super) fn new(size: Size) -> Option<Self> {
        let gfp = bindings::GFP_NOWAIT | 1 << bindings::___GFP_NOMEMALLOC_BIT;

        if size == Size::Paged {
            return Self::new_paged(gfp);
        }
        // SAFETY: No requirements.
        let skb =
            unsafe { bindings::__alloc_skb(size.room() as u32, gfp, 0, bindings::NUMA_NO_NODE) };
        // INVARIANT: Nobody else has it yet.
        NonNull::new(skb).map(Self)
    }

    /// Allocates an empty skb of [`Size::Paged`]. Fails if there are no pages of that order.
    fn new_paged(gfp: bindings::gfp_t) -> Option<Self> {
        // SAFETY: `__alloc_skb()` has no requirements.
        let skb = unsafe { bindings::__alloc_skb(0, gfp, 0, bindings::NUMA_NO_NODE) };
        // INVARIANT: The skb was just allocated, so nobody else has a reference to it.
        let skb = NonNull::new(skb).map(Self)?;
        let all = (0..PAGES).all(|i| {
            // SAFETY: By the type invariants the skb is valid and ours alone. An skb has room for
            // more fragments than `PAGES`.
            unsafe { bindings::skb_add_page(skb.raw(), i as i32, ORDER, gfp) }
        });

        all.then_some(skb)
    }

    /// Returns whether the memory of the payload is [`PAGES`] pages of [`ORDER`] to which nobody
    /// else has a reference, neither a pipe nor another skb.
    #[inline(always)]
    fn has_own_pages(&self) -> bool {
        let raw = self.0.as_ptr();
        // SAFETY: By the type invariants the skb is valid. Only fragments that it has are checked.
        unsafe {
            usize::from((*bindings::skb_shinfo(raw)).nr_frags) == PAGES
                && (0..PAGES).all(|i| bindings::skb_frag_is_own(raw, i as i32, ORDER))
        }
    }

    /// Puts `len` bytes into an empty skb of [`Size::Paged`]. Each page gets as many of them,
    /// because no fragment may be empty.
    #[inline(always)]
    pub(crate) fn fill_pages(&mut self, from: &mut Source<'_>, len: usize) -> Result<(), Fault> {
        let raw = self.0.as_ptr();
        let mut done = 0usize;

        if len > PAGED || !self.has_own_pages() {
            return Err(Fault);
        }
        for i in 0..PAGES {
            let now = len.saturating_sub(done).min(len.div_ceil(PAGES));
            // SAFETY: By the type invariants the skb is valid and ours alone. It has own pages, as
            // was checked above, so that each address is that of `PIECE` bytes which nobody else
            // reads or writes, and `now` is no more. TRUNCATE: `PIECE` fits in a `u32`.
            let copied = unsafe {
                bindings::skb_frag_size_set(raw, i as i32, now as u32);
                from.copy(core::slice::from_raw_parts_mut(
                    bindings::skb_frag_address(raw, i as i32).cast::<MaybeUninit<u8>>(),
                    now,
                ))
            };
            if copied.is_err() {
                if done != 0 {
                    from.give_back(done);
                }
                return Err(Fault);
            }
            done = done.saturating_add(now);
        }
        // SAFETY: By the type invariants the skb is valid and ours alone. TRUNCATE: `len` is at most
        // `PAGED`.
        unsafe {
            (*raw).len = len as u32;
            (*raw).data_len = len as u32;
        }
        Ok(())
    }

    /// Bytes of memory that it takes.
    #[inline]
    pub(crate) fn truesize(&self) -> u32 {
        // SAFETY: By the type invariants the skb is valid.
        unsafe { addr_of!((*self.0.as_ptr()).truesize).read() }
    }

    /// The C skb.
    pub(super) fn raw(&self) -> *mut bindings::sk_buff {
        self.0.as_ptr()
    }

    /// The CPU that made it.
    #[inline]
    pub(super) fn cpu(&self) -> usize {
        // SAFETY: By the type invariants the skb is valid; the headers' member of the union.
        unsafe {
            (*self.0.as_ptr())
                .__bindgen_anon_4
                .headers
                .as_ref()
                .alloc_cpu
                .into()
        }
    }

    /// Puts `len` bytes into an empty one that has room for them, and is not [`Size::Paged`].
    #[inline(always)]
    pub(crate) fn fill(&mut self, from: &mut Source<'_>, len: usize) -> Result<(), Fault> {
        // SAFETY: By the type invariants the skb is valid and ours alone; the caller says that it
        // has room. TRUNCATE: So it has.
        unsafe {
            copy_behind(self.0.as_ptr(), from, len)?;
            bindings::__skb_put(self.0.as_ptr(), len as u32);
        }
        Ok(())
    }

    /// What it holds starts at `seq`. Returns how many bytes that are.
    #[inline(always)]
    pub(crate) fn number(&mut self, seq: u32) -> u32 {
        let raw = self.0.as_ptr();
        // SAFETY: By the type invariants the skb is valid and ours alone; the control block is
        // TCP's from here on.
        unsafe {
            let len = addr_of!((*raw).len).read();
            let cb = tcp_cb(raw);

            (*cb).seq = seq;
            (*cb).end_seq = seq.wrapping_add(len);
            (*cb).tcp_flags = ACK | PSH;
            len
        }
    }

    /// Empties the skb and returns its size, if [`Skb::new`] could have allocated it and it is not
    /// of [`Size::Paged`].
    #[inline(always)]
    pub(super) fn recycle(&mut self) -> Option<Size> {
        let raw = self.0.as_ptr();
        // SAFETY: By the type invariants the skb is valid and ours alone; where its data are nobody
        // else's either, they may be written again.
        unsafe {
            let size = match bindings::skb_end_offset(raw) as usize {
                end if end == Size::Small.room() => Size::Small,
                end if end == Size::Large.room() => Size::Large,
                _ => return None,
            };
            if protocol(raw) != 0
                || addr_of!((*raw).data_len).read() != 0
                || !bindings::skb_is_ordinary(raw)
                || bindings::skb_headroom(raw) != 0
            {
                return None;
            }
            bindings::__skb_trim(raw, 0);
            // A segment that was merged into it may have left its marks here.
            addr_of_mut!((*raw).cb).write_bytes(0, 1);
            Some(size)
        }
    }

    /// Empties the skb if it is of [`Size::Paged`]. Returns whether it is.
    pub(super) fn recycle_pages(&mut self) -> bool {
        let raw = self.0.as_ptr();
        // SAFETY: By the type invariants the skb is valid and ours alone. Where nobody else has a
        // reference to its pages either, they may be written again.
        unsafe {
            if protocol(raw) != 0
                || bindings::skb_headlen(raw) != 0
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
        // SAFETY: By the type invariants ours is the only reference.
        unsafe { bindings::__kfree_skb(self.0.as_ptr()) };
    }
}

/// How much an empty skb holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// One buffer of 2 KiB, including `struct skb_shared_info`.
    Small,
    /// One buffer of 32 KiB, including `struct skb_shared_info`.
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
// No processor has pages of more than 64 KiB.
const _: () = assert!(PAGE_SIZE <= PIECE);

impl Size {
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

    /// Bytes of payload that it has room for.
    #[inline]
    pub(crate) fn room(self) -> usize {
        let whole = match self {
            Size::Small => 2 << 10,
            Size::Large => 32 << 10,
            Size::Paged => return PAGED,
        };
        // SAFETY: No requirements.
        unsafe { bindings::skb_with_overhead(whole) as usize }
    }

    /// Returns the size of the skb that the first of `len` bytes go into. At most a quarter of an
    /// skb of [`Size::Paged`] stays empty.
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

/// The bytes that a writer wants to send. None is lost: what is not taken is
/// there for the next to ask.
///
/// `kernel::iov` has the same, with assertions; nothing may panic here.
///
/// # Invariants
///
/// The iterator is a valid one for writes of a program (`ITER_SOURCE`), and nobody
/// else's for `'a`.
pub(crate) struct Source<'a>(NonNull<bindings::iov_iter>, PhantomData<&'a mut ()>);

/// Where a reader wants its bytes.
///
/// # Invariants
///
/// The iterator is a valid one for reads of a program (`ITER_DEST`), and nobody
/// else's for `'a`.
pub(crate) struct Destination<'a>(NonNull<bindings::iov_iter>, PhantomData<&'a mut ()>);

/// A page of the caller's memory is not there, and may not be waited for.
pub(crate) struct Fault;

/// Page faults are not handled until it is dropped: a copy from or to the
/// caller's memory stops short instead.
struct NoFaults(NotThreadSafe);

impl NoFaults {
    fn new() -> Self {
        // SAFETY: Undone by `drop`.
        unsafe { bindings::pagefault_disable() };
        Self(NotThreadSafe)
    }
}

impl Drop for NoFaults {
    fn drop(&mut self) {
        // SAFETY: `new` disabled them.
        unsafe { bindings::pagefault_enable() };
    }
}

/// How many bytes an iterator has left (`iov_iter_count()`).
///
/// # Safety
///
/// `iter` is valid.
#[inline]
unsafe fn left(iter: NonNull<bindings::iov_iter>) -> usize {
    // SAFETY: By the function's safety requirements; every kind of iterator has the field.
    unsafe {
        addr_of!(
            (*iter.as_ptr())
                .__bindgen_anon_1
                .__bindgen_anon_1
                .as_ref()
                .count
        )
        .read()
    }
}

impl<'a> Source<'a> {
    /// # Safety
    ///
    /// `msg` is valid and the caller's alone for `'a`, and its iterator is a source.
    pub(super) unsafe fn new(msg: *mut bindings::msghdr) -> Self {
        // SAFETY: By the function's safety requirements; it is a field of a valid structure.
        let iter = unsafe { NonNull::new_unchecked(addr_of_mut!((*msg).msg_iter)) };
        // INVARIANT: By the function's safety requirements.
        Self(iter, PhantomData)
    }

    /// How many bytes are left.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        // SAFETY: By the type invariants.
        unsafe { left(self.0) }
    }

    /// Takes as many bytes as `to` holds, or none.
    #[inline(always)]
    fn copy(&mut self, to: &mut [MaybeUninit<u8>]) -> Result<(), Fault> {
        let want = to.len();
        let _no_faults = NoFaults::new();
        // SAFETY: By the type invariants; the slice is valid for writes of its length.
        let copied = unsafe {
            bindings::copy_from_iter_inatomic(to.as_mut_ptr().cast(), want, self.0.as_ptr())
        };

        if copied == want {
            return Ok(());
        }
        self.give_back(copied);
        Err(Fault)
    }

    /// The last `bytes` that were taken have not been.
    #[cold]
    pub(crate) fn give_back(&mut self, bytes: usize) {
        // SAFETY: By the type invariants; the caller says that it was advanced by so many.
        unsafe { bindings::iov_iter_revert(self.0.as_ptr(), bytes) };
    }
}

impl<'a> Destination<'a> {
    /// The last `bytes` that were written have not been.
    #[cold]
    pub(crate) fn give_back(&mut self, bytes: usize) {
        // SAFETY: By the type invariants; the caller says that it was advanced by so many.
        unsafe { bindings::iov_iter_revert(self.0.as_ptr(), bytes) };
    }

    /// # Safety
    ///
    /// `msg` is valid and the caller's alone for `'a`, and its iterator is a
    /// destination.
    pub(super) unsafe fn new(msg: *mut bindings::msghdr) -> Self {
        // SAFETY: By the function's safety requirements; it is a field of a valid structure.
        let iter = unsafe { NonNull::new_unchecked(addr_of_mut!((*msg).msg_iter)) };
        // INVARIANT: By the function's safety requirements.
        Self(iter, PhantomData)
    }
}

/// An skb of a socket's receive queue, still in it.
///
/// # Invariants
///
/// `skb` is in the receive queue of `sock`, whose state the holder has to itself
/// for `'a` (it borrows a [`Tcp`]).
pub(crate) struct Received<'a> {
    sock: &'a Sock,
    skb: NonNull<bindings::sk_buff>,
    _borrow: PhantomData<&'a mut ()>,
}

impl<'a> Received<'a> {
    /// # Safety
    ///
    /// `skb` is in the receive queue of `sock`, and that queue is the caller's
    /// alone for `'a`.
    pub(super) unsafe fn new(sock: &'a Sock, skb: NonNull<bindings::sk_buff>) -> Self {
        // INVARIANT: By the function's safety requirements.
        Self {
            sock,
            skb,
            _borrow: PhantomData,
        }
    }

    fn raw(&self) -> *mut bindings::sk_buff {
        self.skb.as_ptr()
    }

    /// Which bytes it holds.
    #[inline]
    pub(crate) fn segment(&self) -> Segment {
        // SAFETY: By the type invariants the skb is valid and TCP's.
        unsafe { segment(self.raw()) }
    }

    /// Bytes of payload.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        // SAFETY: By the type invariants the skb is valid.
        unsafe { addr_of!((*self.raw()).len).read() as usize }
    }

    /// Whether a friend brought it and nothing else: it has no time stamp, no
    /// FIN, and was no packet.
    #[inline]
    pub(crate) fn is_from_friend(&self) -> bool {
        // SAFETY: By the type invariants the skb is valid and TCP's.
        unsafe {
            let cb = tcp_cb(self.raw());
            protocol(self.raw()) == 0
                && (*cb).tcp_flags & (FIN | SYN) == 0
                && bindings::tcp_skb_cb::has_rxtstamp_raw(cb) == 0
        }
    }

    /// How many bytes can be appended to it.
    #[inline(always)]
    pub(crate) fn room(&self) -> usize {
        // SAFETY: By the type invariants the skb is valid. Where there are fragments there is no
        // room, and a clone's holder may append too.
        unsafe {
            if bindings::skb_cloned(self.raw()) {
                return 0;
            }
            bindings::skb_tailroom(self.raw()).max(0).unsigned_abs() as usize
        }
    }

    /// Copies `len` bytes, for which there is room, behind those that it has. They are not
    /// part of it before [`Received::append`].
    #[inline(always)]
    pub(crate) fn copy_behind(&mut self, from: &mut Source<'_>, len: usize) -> Result<(), Fault> {
        // SAFETY: By the type invariants the skb is valid, and nobody else touches it.
        unsafe { copy_behind(self.raw(), from, len) }
    }

    /// The next `len` bytes of the stream, which were copied there, are received. It is the
    /// last of the queue. They stand for `segments` segments.
    ///
    /// If it does not end at `rcv_nxt` the connection is reset: [`Lied`].
    #[inline(always)]
    pub(crate) fn append(self, len: usize, segments: u32) -> Result<(), Lied> {
        // SAFETY: By the type invariants the receive queue is ours, and the caller says that it is
        // the last, and has room. TRUNCATE: There was room for them.
        unsafe {
            if !bindings::tcp_friends_rcv_more(self.sock.raw(), self.raw(), len as u32, segments) {
                return Err(Lied);
            }
            bindings::__skb_put(self.raw(), len as u32);
        }
        Ok(())
    }

    /// Copies `len` bytes from `offset` on, or none. It has as many.
    #[inline]
    pub(crate) fn copy(
        &self,
        to: &mut Destination<'_>,
        offset: usize,
        len: usize,
    ) -> Result<(), Fault> {
        // SAFETY: By the type invariants of `to`.
        let before = unsafe { left(to.0) };
        let _no_faults = NoFaults::new();
        // SAFETY: By the type invariants the skb is valid, and has the bytes as the caller says.
        // Its first `len - data_len` bytes are at `data`.
        let whole = unsafe {
            let skb = self.raw();
            if addr_of!((*skb).data_len).read() == 0 {
                let data = addr_of!((*skb).data).read().add(offset);
                bindings::_copy_to_iter(data.cast(), len, to.0.as_ptr()) == len
            } else {
                bindings::skb_copy_datagram_iter(skb, offset as i32, to.0.as_ptr(), len as i32) == 0
            }
        };
        if whole {
            return Ok(());
        }
        // SAFETY: By the type invariants of `to`; it was just advanced by what it has less now.
        unsafe { bindings::iov_iter_revert(to.0.as_ptr(), before.saturating_sub(left(to.0))) };
        Err(Fault)
    }

    /// Takes it out of the queue and off the reader's account.
    #[inline(always)]
    pub(crate) fn eat(self) -> Skb {
        // SAFETY: By the type invariants it is in that queue, which is ours, and charged to the
        // socket as all that is there.
        unsafe {
            let queue = addr_of_mut!((*self.sock.raw()).sk_receive_queue);

            bindings::__skb_unlink(self.raw(), queue);
            uncharge(self.sock, self.skb)
        }
    }

    /// Whether it is the end of the stream, perhaps with data before that.
    #[inline(always)]
    pub(crate) fn is_end(&self) -> bool {
        // SAFETY: By the type invariants the skb is valid and TCP's.
        unsafe { (*tcp_cb(self.raw())).tcp_flags & FIN != 0 }
    }

    /// Whether it is the last of the queue.
    #[inline(always)]
    pub(crate) fn is_last(&self) -> bool {
        // SAFETY: By the type invariants it is in that queue, which is ours.
        unsafe {
            core::ptr::addr_eq(
                (*self.raw()).__bindgen_anon_1.__bindgen_anon_1.next,
                addr_of!((*self.sock.raw()).sk_receive_queue),
            )
        }
    }

    /// Whether it has nothing but bytes that a program can read.
    #[inline(always)]
    pub(crate) fn is_plain(&self) -> bool {
        // SAFETY: By the type invariants the skb is valid and TCP's.
        unsafe {
            (*tcp_cb(self.raw())).tcp_flags & (FIN | SYN) == 0
                && bindings::skb_frags_readable(self.raw())
        }
    }

    /// The one behind it.
    #[inline]
    pub(crate) fn next(self) -> Option<Received<'a>> {
        // SAFETY: By the type invariants it is in that queue, which is ours; the last one's next
        // is the queue's head.
        unsafe {
            if self.is_last() {
                return None;
            }
            let next = (*self.raw()).__bindgen_anon_1.__bindgen_anon_1.next;

            Some(Received::new(self.sock, NonNull::new_unchecked(next)))
        }
    }

    /// Whether its bytes can be copied to a program: not where they are a device's.
    #[inline(always)]
    pub(crate) fn is_readable(&self) -> bool {
        // SAFETY: By the type invariants the skb is valid and TCP's.
        unsafe {
            (*tcp_cb(self.raw())).tcp_flags & SYN == 0 && bindings::skb_frags_readable(self.raw())
        }
    }
}

/// Takes an skb that has been read off its reader's account, as `tcp_eat_recv_skb()` does.
/// Whatever its destructor is, it calls `sock_rfree()` and no more.
///
/// # Safety
///
/// `skb` is charged to `sock`, whose state the caller has to itself; it is in no queue any
/// more, and nobody else has it.
#[inline(always)]
unsafe fn uncharge(sock: &Sock, skb: NonNull<bindings::sk_buff>) -> Skb {
    let raw = skb.as_ptr();
    // SAFETY: By the function's safety requirements.
    unsafe {
        sock.rfree(addr_of!((*raw).truesize).read());
        let owner = &mut (*raw).__bindgen_anon_3.__bindgen_anon_1;
        owner.destructor = None;
        (*raw).sk = core::ptr::null_mut();
    }
    // INVARIANT: It is in no queue and charged to nobody.
    Skb(skb)
}

/// An skb that was made here, and that TCP has read and unlinked, is used again.
///
/// # Safety
///
/// As for [`uncharge`].
pub(super) unsafe fn read_by_tcp(sock: &Sock, skb: NonNull<bindings::sk_buff>) {
    // SAFETY: By the function's safety requirements.
    spent::keep(unsafe { uncharge(sock, skb) });
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
