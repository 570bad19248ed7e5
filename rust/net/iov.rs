// SPDX-License-Identifier: GPL-2.0

//! The memory that a program writes from or reads into.
//!
//! C header: [`include/linux/uio.h`](srctree/include/linux/uio.h)

use core::{
    marker::PhantomData,
    mem::MaybeUninit,
    ptr::{
        addr_of,
        addr_of_mut,
        NonNull, //
    },
};

use kernel::{
    bindings,
    types::NotThreadSafe, //
};

/// The bytes that a writer wants to send. No byte is lost: the bytes that one caller does not take
/// stay in the iterator for the next caller.
///
/// `kernel::iov` provides a source, too, but its methods contain assertions, and this code must not
/// panic.
///
/// # Invariants
///
/// The iterator is valid and is the source of a program's write (`ITER_SOURCE`), and nobody else
/// uses it for `'a`.
pub(crate) struct Source<'a> {
    iter: NonNull<bindings::iov_iter>,
    /// The flags of the write (`MSG_*`).
    flags: u32,
    _borrow: PhantomData<&'a mut ()>,
}

/// The memory that a reader wants its bytes in.
///
/// # Invariants
///
/// The iterator is valid and is the destination of a program's read (`ITER_DEST`), and nobody else
/// uses it for `'a`.
pub(crate) struct Destination<'a>(NonNull<bindings::iov_iter>, PhantomData<&'a mut ()>);

/// The error that a page of the caller's memory is not present, and that the context must not wait
/// for the page.
pub(crate) struct Fault;

/// A guard that disables page faults until it is dropped: a copy from or to the caller's memory
/// stops at a page that is not present.
pub(super) struct NoFaults(NotThreadSafe);

impl NoFaults {
    /// Disables page faults for the current task.
    pub(super) fn new() -> Self {
        // SAFETY: `drop` undoes this in the same task, because `NotThreadSafe` keeps the guard
        // there.
        unsafe { bindings::pagefault_disable() };
        Self(NotThreadSafe)
    }
}

impl Drop for NoFaults {
    fn drop(&mut self) {
        // SAFETY: `new` has disabled page faults in this task, and this call undoes that.
        unsafe { bindings::pagefault_enable() };
    }
}

/// Returns how many bytes an iterator has left (`iov_iter_count()`).
///
/// # Safety
///
/// `iter` must be valid.
#[inline]
unsafe fn left(iter: NonNull<bindings::iov_iter>) -> usize {
    // SAFETY: By the function's safety requirements `iter` is valid. Every kind of iterator has
    // `count`.
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

/// What a write wants.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nothing unusual: the write has bytes, no control message, and no flag but `MSG_DONTWAIT`,
    /// `MSG_NOSIGNAL` and `MSG_SPLICE_PAGES`.
    Plain,
    /// The same, and a notice that its pages are free again (`MSG_ZEROCOPY`). Since the bytes are
    /// copied, TCP gives this notice when the write returns.
    Notice,
    /// Something that only TCP can do.
    Other,
}

impl Wish {
    /// Returns what a write of the message `msg` wants.
    ///
    /// # Safety
    ///
    /// `msg` must be valid, and nobody may change it meanwhile.
    #[inline(always)]
    pub(super) unsafe fn of(msg: *const bindings::msghdr) -> Self {
        const USUAL: u32 =
            bindings::MSG_DONTWAIT | bindings::MSG_NOSIGNAL | bindings::MSG_SPLICE_PAGES;
        // SAFETY: By the function's safety requirements `msg` is valid.
        let (flags, has_control, left) = unsafe {
            (
                (*msg).msg_flags & !USUAL,
                (*msg).msg_controllen != 0,
                left(NonNull::from(&(*msg).msg_iter)),
            )
        };

        if has_control || left == 0 {
            return Wish::Other;
        }
        match flags {
            0 => Wish::Plain,
            bindings::MSG_ZEROCOPY => Wish::Notice,
            _ => Wish::Other,
        }
    }
}

impl<'a> Source<'a> {
    /// Creates a [`Source`] from the message of a write.
    ///
    /// # Safety
    ///
    /// `msg` must be valid, nobody but the caller may use it for `'a`, and its iterator must be a
    /// source.
    pub(super) unsafe fn new(msg: *mut bindings::msghdr) -> Self {
        // SAFETY: By the function's safety requirements `msg` is valid, so a pointer to its field
        // is not null.
        let iter = unsafe { NonNull::new_unchecked(addr_of_mut!((*msg).msg_iter)) };
        // SAFETY: By the function's safety requirements `msg` is valid.
        let flags = unsafe { (*msg).msg_flags };
        // INVARIANT: By the function's safety requirements the iterator is a valid source, and
        // nobody else uses it for `'a`.
        Self {
            iter,
            flags,
            _borrow: PhantomData,
        }
    }

    /// Returns whether the pages may become part of an skb, so that no byte has to be copied.
    #[inline]
    pub(crate) fn splices(&self) -> bool {
        self.flags & bindings::MSG_SPLICE_PAGES != 0
    }

    /// Returns whether the write may sleep until there is room, as it does without `MSG_DONTWAIT`
    /// and `O_NONBLOCK`.
    pub(crate) fn may_wait(&self) -> bool {
        self.flags & bindings::MSG_DONTWAIT == 0
    }

    /// Returns the C iterator.
    fn raw(&mut self) -> *mut bindings::iov_iter {
        self.iter.as_ptr()
    }

    /// Returns how many bytes are left.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        // SAFETY: By the type invariants the iterator is valid, and nobody else uses it.
        unsafe { left(self.iter) }
    }

    /// Takes as many bytes as `to` holds, or none.
    #[inline(always)]
    pub(super) fn copy(&mut self, to: &mut [MaybeUninit<u8>]) -> Result<(), Fault> {
        let want = to.len();
        let _no_faults = NoFaults::new();
        // SAFETY: By the type invariants the iterator is a valid source. The slice is valid for
        // writes of its length.
        let copied = unsafe {
            bindings::copy_from_iter_inatomic(to.as_mut_ptr().cast(), want, self.iter.as_ptr())
        };

        if copied == want {
            return Ok(());
        }
        self.revert(copied);
        Err(Fault)
    }

    /// Makes the pages of the next `want` bytes part of `skb`, without a copy. Returns the number
    /// of bytes taken, which is less if `skb` has no room for so many fragments, or if a page cannot
    /// be part of an skb.
    ///
    /// # Safety
    ///
    /// `skb` must be valid, and nobody else may access it.
    #[inline]
    pub(super) unsafe fn splice(&mut self, skb: *mut bindings::sk_buff, want: usize) -> usize {
        let before = self.len();
        // SAFETY: By the type invariants the iterator is a valid source, and by the function's
        // safety requirements the skb is valid. CAST: No iterator has more than `isize::MAX` bytes.
        let taken = unsafe { bindings::skb_splice_from_iter(skb, self.raw(), want as isize) };
        let taken = taken.max(0).unsigned_abs();

        // The C function does not give back the bytes of a page that cannot be part of an skb.
        if before.saturating_sub(self.len()) != taken {
            self.revert(before.saturating_sub(self.len()).saturating_sub(taken));
        }
        taken
    }

    /// Gives back the last `bytes` bytes that were taken, as if they had not been taken.
    #[cold]
    pub(crate) fn revert(&mut self, bytes: usize) {
        // SAFETY: By the type invariants the iterator is valid. The caller guarantees that at least
        // `bytes` bytes were taken from it.
        unsafe { bindings::iov_iter_revert(self.iter.as_ptr(), bytes) };
    }
}

impl<'a> Destination<'a> {
    /// Returns for how many bytes there is still room.
    #[inline]
    pub(super) fn left(&self) -> usize {
        // SAFETY: By the type invariants the iterator is valid, and nobody else uses it.
        unsafe { left(self.0) }
    }

    /// Returns the C iterator.
    pub(super) fn raw(&mut self) -> *mut bindings::iov_iter {
        self.0.as_ptr()
    }

    /// Gives back the room of the last `bytes` bytes that were written, as if they had not been
    /// written.
    #[cold]
    pub(crate) fn revert(&mut self, bytes: usize) {
        // SAFETY: By the type invariants the iterator is valid. The caller guarantees that at least
        // `bytes` bytes were written to it.
        unsafe { bindings::iov_iter_revert(self.0.as_ptr(), bytes) };
    }

    /// Creates a [`Destination`] from the message of a read.
    ///
    /// # Safety
    ///
    /// `msg` must be valid, nobody but the caller may use it for `'a`, and its iterator must be a
    /// destination.
    pub(super) unsafe fn new(msg: *mut bindings::msghdr) -> Self {
        // SAFETY: By the function's safety requirements `msg` is valid, so a pointer to its field
        // is not null.
        let iter = unsafe { NonNull::new_unchecked(addr_of_mut!((*msg).msg_iter)) };
        // INVARIANT: By the function's safety requirements the iterator is a valid destination, and
        // nobody else uses it for `'a`.
        Self(iter, PhantomData)
    }
}
