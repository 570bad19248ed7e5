// SPDX-License-Identifier: GPL-2.0

//! Types that are evidence of how a TCP socket is locked.
//!
//! C header: [`include/net/sock.h`](srctree/include/net/sock.h)

use core::{
    marker::PhantomData,
    ptr::{
        addr_of,
        addr_of_mut,
        null_mut, //
    },
};

use kernel::{
    bindings,
    processor::cpu_relax,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    types::NotThreadSafe, //
};

use super::{
    iov::Destination,
    skb::InPlace,
    sock::Sock,
    tcp::Tcp, //
};

/// Evidence of process context, with bottom halves on and no spinlock of a socket held.
///
/// # Invariants
///
/// For all of `'a`, the current context is a task with bottom halves on that holds no spinlock of
/// a socket, except while a guard that was made from this value is alive.
pub(crate) struct Process<'a>(PhantomData<&'a ()>, NotThreadSafe);

impl Process<'_> {
    /// Creates evidence of process context.
    ///
    /// # Safety
    ///
    /// For the lifetime of the returned value, the caller is a task with bottom halves on that
    /// holds no spinlock of a socket, except while a guard that was made from the value is alive.
    pub(super) unsafe fn new() -> Self {
        // INVARIANT: The function's safety requirements are the type's invariants.
        Self(PhantomData, NotThreadSafe)
    }

    /// Takes the spinlock of `sock`, and waits for it if necessary: the task holds no other
    /// socket's spinlock.
    ///
    /// The guard keeps the mutable borrow, so the task cannot wait for a second spinlock.
    #[inline]
    pub(crate) fn lock<'s>(&'s mut self, sock: &'s Sock) -> SlockGuard<'s> {
        // SAFETY: By the type invariants bottom halves are on and no socket's spinlock is held: the
        // mutable borrow excludes another guard.
        unsafe { SlockGuard::wait(sock) }
    }
}

/// Evidence that bottom halves are off. The context may hold a lock that TCP takes while it holds
/// a socket's spinlock, so it must not wait for such a spinlock.
///
/// # Invariants
///
/// Bottom halves are off for all of `'a`.
pub(crate) struct Trying<'a>(PhantomData<&'a ()>, NotThreadSafe);

impl Trying<'_> {
    /// Creates evidence that bottom halves are off.
    ///
    /// # Safety
    ///
    /// Bottom halves are off for the lifetime of the returned value.
    pub(super) unsafe fn new() -> Self {
        // INVARIANT: By the function's safety requirements bottom halves are off for the value's
        // lifetime.
        Self(PhantomData, NotThreadSafe)
    }

    /// Takes the spinlock of `sock` if no other context holds it. Never waits.
    pub(crate) fn lock<'s>(&'s mut self, sock: &'s Sock) -> Option<SlockGuard<'s>> {
        SlockGuard::try_lock(sock)
    }
}

/// A socket that the current task owns, with bottom halves on and no spinlock of a socket held.
///
/// # Invariants
///
/// For all of `'a`, the current context is a task that owns the socket (`lock_sock()`). Bottom
/// halves are on and the task holds no spinlock of a socket, except while a guard that was made
/// from this value is alive.
pub(crate) struct Owned<'a>(&'a Sock, NotThreadSafe);

/// A socket whose spinlock is held while no other task owns the socket, unless that task only reads
/// data in place.
///
/// # Invariants
///
/// Bottom halves are off for all of `'a`. Either the current context holds `sk_lock.slock` for
/// `'a` and `sk_lock.owned` is 0 or the owner is a [`Reading`], or the current context is the owner
/// of the socket, as in the last part of `release_sock()`, where the owner holds the spinlock
/// again.
pub(crate) struct Spinlocked<'a>(&'a Sock, NotThreadSafe);

/// A socket whose spinlock is held while a task owns the socket, so that its state must not be
/// accessed.
///
/// # Invariants
///
/// The current context holds `sk_lock.slock` for `'a`, and `sk_lock.owned` is 1.
pub(crate) struct Busy<'a>(&'a Sock, NotThreadSafe);

/// The socket whose owner is a [`Reading`]; null if there is none. Written with the spinlock of
/// that socket held.
pub(crate) struct BeingRead(Atomic<*mut bindings::sock>);

impl BeingRead {
    /// Creates the state of a socket that nobody reads in place.
    pub(crate) fn new() -> Self {
        Self(Atomic::new(null_mut()))
    }

    /// Returns whether the owner of `sock` is a [`Reading`]. Without the spinlock the result is a
    /// guess.
    #[inline]
    pub(crate) fn names(&self, sock: &Sock) -> bool {
        core::ptr::eq(self.0.load(Relaxed), sock.raw())
    }
}

/// A socket that the current task owns while it copies data from the receive queue, without the
/// spinlock. The ownership keeps other readers away, and all who would close the socket, as in a
/// `recv()` of TCP. But friends may queue more data meanwhile, with the spinlock held.
///
/// # Invariants
///
/// The current task owns the socket, and `being_read` names the socket. The task holds no socket's
/// spinlock, bottom halves are on, and it accesses no state of the socket, but only data of skbs
/// that are in the receive queue.
pub(crate) struct Reading<'a> {
    sock: &'a Sock,
    being_read: &'a BeingRead,
    _not_thread_safe: NotThreadSafe,
}

impl<'a> Reading<'a> {
    /// Takes the spinlock, calls `f`, and gives up the ownership, unless something has come up that
    /// the owner must do in `release_sock()`.
    #[inline(always)]
    fn finish(self, f: impl FnOnce(&mut Tcp<'_>)) -> Finished<'a> {
        // SAFETY: By the type invariants this task holds no socket's spinlock, and bottom halves
        // are on.
        let guard = unsafe { SlockGuard::wait(self.sock) };

        // SAFETY: The guard holds the spinlock, and by the type invariants this task owns the
        // socket. So access is exclusive until the guard is dropped.
        f(&mut unsafe { Tcp::new(self.sock) });
        self.being_read.0.store(null_mut(), Relaxed);
        // SAFETY: By the type invariants this task owns the socket, and the guard holds its
        // spinlock.
        if unsafe { bindings::sock_try_disown(self.sock.raw()) } {
            return Finished::Released(guard);
        }
        drop(guard);
        // SAFETY: By the type invariants this task owns the socket, bottom halves are on, and the
        // spinlock has been released. `being_read` is clear, so nobody else accesses the socket.
        Finished::Owned(unsafe { Owned::new(self.sock) })
    }
}

/// What the task may do that was a [`Reading`].
pub(crate) enum Finished<'a> {
    /// The task owns the socket no longer, and holds its spinlock.
    Released(SlockGuard<'a>),
    /// The task still owns the socket, and must release it (`release_sock()`).
    Owned(Owned<'a>),
}

/// What a context that has just taken a socket's spinlock may do with the socket.
pub(crate) enum Held<'a> {
    /// No task owns the socket, or its owner only reads in place, so the context has exclusive
    /// access to the socket's state.
    Free(Spinlocked<'a>),
    /// A task owns the socket, so the context can only make that task look for data when it
    /// releases the socket ([`Busy::defer_to_release`]).
    Busy(Busy<'a>),
}

/// A guard that holds a socket's spinlock, with bottom halves off, until it is dropped.
///
/// # Invariants
///
/// The current context holds `sk_lock.slock` of `sock`, with bottom halves off. If `bh` is true,
/// this guard has disabled them once more than they were before.
pub(crate) struct SlockGuard<'a> {
    sock: &'a Sock,
    bh: bool,
    _not_thread_safe: NotThreadSafe,
}

impl<'a> SlockGuard<'a> {
    /// Takes the spinlock of `sock` and disables bottom halves. Waits if necessary.
    ///
    /// # Safety
    ///
    /// The current context holds no socket's spinlock, so that waiting for the spinlock of `sock`
    /// cannot deadlock, and bottom halves are on.
    #[inline]
    unsafe fn wait(sock: &'a Sock) -> Self {
        // SAFETY: `sock` is valid. By the function's safety requirements this context holds no
        // socket's spinlock yet.
        unsafe {
            bindings::slock_lock_bh(sock.raw());
        }
        // INVARIANT: `slock_lock_bh()` took the spinlock and disabled bottom halves.
        Self {
            sock,
            bh: true,
            _not_thread_safe: NotThreadSafe,
        }
    }

    /// Records the current CPU as the one that brings data to the socket (`SO_INCOMING_CPU`).
    pub(crate) fn incoming_cpu_update(&mut self) {
        // SAFETY: `sock` is valid, and the field is written with `WRITE_ONCE()`.
        unsafe { bindings::sk_incoming_cpu_update(self.sock.raw()) };
    }

    /// Checks whether a task owns the socket, and returns the access that the spinlock gives.
    pub(crate) fn held(&mut self) -> Held<'_> {
        // SAFETY: `sock` is valid. `sk_lock.owned` does not change while the spinlock is held, as
        // by this guard: `lock_sock()` takes a free socket only if its spinlock is free, too.
        if unsafe { bindings::sock_owned_by_user_nocheck(self.sock.raw()) } {
            // INVARIANT: The returned value borrows the guard, which holds the spinlock, and a task
            // owns the socket.
            Held::Busy(Busy(self.sock, NotThreadSafe))
        } else {
            // INVARIANT: The returned value borrows the guard, which holds the spinlock with bottom
            // halves off. No task owns the socket, and none can become its owner before the
            // spinlock is released.
            Held::Free(Spinlocked(self.sock, NotThreadSafe))
        }
    }

    /// Does what [`SlockGuard::held`] does, but counts a socket as free if its owner only reads
    /// data in place, as `being_read` of that socket says, and nobody else would be called for new
    /// data or has queued a segment meanwhile.
    #[inline]
    pub(crate) fn held_beside_reader(&mut self, being_read: &BeingRead) -> Held<'_> {
        // SAFETY: `sock` is valid. `sk_lock.owned` and the backlog do not change while the spinlock
        // is held, as by this guard.
        let is_busy = unsafe {
            bindings::sock_owned_by_user_nocheck(self.sock.raw())
                && (!being_read.names(self.sock)
                    || !self.sock.has_plain_data_ready()
                    || !(*self.sock.raw()).sk_backlog.tail.is_null())
        };

        if is_busy {
            // INVARIANT: The returned value borrows the guard, which holds the spinlock, and a task
            // owns the socket.
            Held::Busy(Busy(self.sock, NotThreadSafe))
        } else {
            // INVARIANT: The returned value borrows the guard, which holds the spinlock with bottom
            // halves off. If a task owns the socket, it is a `Reading`: `being_read` names the
            // socket from when its owner has become a `Reading` until it is none any more, and both
            // happen with the spinlock held.
            Held::Free(Spinlocked(self.sock, NotThreadSafe))
        }
    }

    /// Makes the current task the owner of the socket, releases the spinlock, and copies what a
    /// read of `want` bytes returns to `to`. Then takes the spinlock again, removes these bytes
    /// from the queue, and gives up the ownership.
    ///
    /// Returns the number of bytes, 0 if a page of the program's memory is not present. Returns the
    /// guard instead if the task may not become the owner, or if the bytes are not in place
    /// ([`InPlace::find`]).
    #[inline(always)]
    pub(crate) fn read_in_place(
        self,
        being_read: &'a BeingRead,
        want: usize,
        to: &mut Destination<'_>,
    ) -> Result<(usize, Finished<'a>), Self> {
        let sock = self.sock;
        // SAFETY: `sock` is valid. `sk_lock.owned` does not change while the spinlock is held, as
        // by this guard: `lock_sock()` takes a free socket only if its spinlock is free, too.
        if !self.bh || unsafe { bindings::sock_owned_by_user_nocheck(sock.raw()) } {
            return Err(self);
        }
        // SAFETY: The guard holds the spinlock, and no task owns the socket. So access is exclusive
        // until the guard is dropped.
        let Some(found) = InPlace::find(&mut unsafe { Tcp::new(sock) }, want) else {
            return Err(self);
        };
        // SAFETY: The guard holds the spinlock, and no task owns the socket.
        unsafe { bindings::sock_own(sock.raw()) };
        being_read.0.store(sock.raw(), Relaxed);
        // INVARIANT: The current task owns the socket, and `being_read` was set with the spinlock
        // held. Dropping `self` releases the spinlock and enables bottom halves. `bh` is true, so
        // the guard was made by `SlockGuard::wait`, whose caller held no socket's spinlock, with
        // bottom halves on. A second spinlock that was tried since has been released, because its
        // guard borrowed this one.
        let reading = Reading {
            sock,
            being_read,
            _not_thread_safe: NotThreadSafe,
        };
        drop(self);
        // SAFETY: The task owns the socket, so no other reader has removed an skb since
        // `InPlace::find`. Who has exclusive access beside a `Reading` only adds skbs and bytes.
        let copied = unsafe { found.copy(to) }.map_or(0, |()| found.bytes());

        Ok((copied, reading.finish(|p| p.eat(copied))))
    }

    /// Takes the spinlock of `peer` if no other context holds it. Never waits.
    ///
    /// Callers have bottom halves off: they hold a [`Spinlocked`] or a [`Trying`].
    #[inline(always)]
    fn try_lock(peer: &'a Sock) -> Option<Self> {
        // SAFETY: `peer` is valid, and the callers have bottom halves off.
        let taken = unsafe { bindings::bh_trylock_sock(peer.raw()) };

        // No guard may be created before the lock was taken, since dropping a guard releases it.
        if !taken {
            return None;
        }
        // INVARIANT: `bh_trylock_sock()` took the spinlock, and bottom halves were off before.
        Some(Self {
            sock: peer,
            bh: false,
            _not_thread_safe: NotThreadSafe,
        })
    }
}

impl Drop for SlockGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants this context holds the spinlock, and this guard has
        // disabled bottom halves if `bh` is true.
        unsafe {
            if self.bh {
                bindings::slock_unlock_bh(self.sock.raw());
            } else {
                bindings::bh_unlock_sock(self.sock.raw());
            }
        }
    }
}

impl<'a> Owned<'a> {
    /// Creates evidence that the current task owns `sock`.
    ///
    /// # Safety
    ///
    /// The current task owns `sock` for `'a`, in process context. Bottom halves are on and the task
    /// holds no spinlock of a socket, except while a guard that was made from this value is alive.
    pub(super) unsafe fn new(sock: &'a Sock) -> Self {
        // INVARIANT: The function's safety requirements are the type's invariants.
        Self(sock, NotThreadSafe)
    }

    /// Returns whether segments wait in the backlog until the owner releases the socket.
    pub(crate) fn has_backlog(&self) -> bool {
        // SAFETY: The socket is valid. Other contexts change the pointer, but it is only compared
        // with null here.
        !unsafe { addr_of!((*self.0.raw()).sk_backlog.tail).read_volatile() }.is_null()
    }

    /// Makes the owner check, when it releases the socket, for data that can be moved
    /// (`tcp_release_cb()`).
    pub(crate) fn defer_to_release(&mut self) {
        defer_to_release(self.0);
    }

    /// Takes the spinlock of `peer`, and waits for it if necessary: the owner holds no spinlock.
    ///
    /// The guard keeps the mutable borrow, so the owner cannot take a second spinlock.
    pub(crate) fn lock_peer<'s>(&'s mut self, peer: &'s Sock) -> SlockGuard<'s> {
        // SAFETY: By the type invariants bottom halves are on and no socket's spinlock is held: the
        // mutable borrow excludes another guard.
        unsafe { SlockGuard::wait(peer) }
    }

    /// Returns the TCP state of the socket.
    pub(crate) fn tcp(&self) -> Tcp<'a> {
        // SAFETY: By the type invariants the current context owns the socket for `'a`.
        unsafe { Tcp::new(self.0) }
    }
}

impl<'a> Spinlocked<'a> {
    /// Creates evidence of exclusive access to `sock` with bottom halves off.
    ///
    /// # Safety
    ///
    /// Bottom halves are off for all of `'a`. Either the current context holds the spinlock of
    /// `sock` for `'a` and no task but a [`Reading`] owns the socket, or the current context is the
    /// owner.
    pub(super) unsafe fn new(sock: &'a Sock) -> Self {
        // INVARIANT: The function's safety requirements are the type's invariants.
        Self(sock, NotThreadSafe)
    }

    /// Takes the spinlock of `peer` if no other context holds it. Never waits, since the current
    /// context may hold the spinlock of its own socket.
    pub(crate) fn try_lock_peer<'s>(&'s mut self, peer: &'s Sock) -> Option<SlockGuard<'s>> {
        SlockGuard::try_lock(peer)
    }

    /// Tries to take the spinlock of `peer` up to `times` times, or until `in_vain` returns true,
    /// which means that the holder will not release the spinlock meanwhile.
    ///
    /// Other holders release the spinlock within some microseconds, unless their processor is taken
    /// from them. The number of attempts is bounded, since the current context holds a spinlock
    /// itself: two contexts without a bound would wait for each other.
    pub(crate) fn keep_trying_peer<'s>(
        &'s mut self,
        peer: &'s Sock,
        times: u32,
        in_vain: impl Fn() -> bool,
    ) -> Option<SlockGuard<'s>> {
        for _ in 0..times {
            let guard = SlockGuard::try_lock(peer);
            if guard.is_some() || in_vain() {
                return guard;
            }
            cpu_relax();
        }
        None
    }

    /// Returns the TCP state of the socket.
    pub(crate) fn tcp(&self) -> Tcp<'a> {
        // SAFETY: By the type invariants the current context holds the spinlock while no task owns
        // the socket, or is the owner itself.
        unsafe { Tcp::new(self.0) }
    }
}

impl Busy<'_> {
    /// Makes the owner check, when it releases the socket, for data that can be moved
    /// (`tcp_release_cb()`). The owner cannot have released the socket yet, since it needs
    /// the spinlock for that.
    pub(crate) fn defer_to_release(&mut self) {
        defer_to_release(self.0);
    }
}

/// Sets the flag that `tcp_release_cb()` checks.
fn defer_to_release(sock: &Sock) {
    // SAFETY: The socket is valid, and all contexts change the flags atomically.
    unsafe {
        bindings::set_bit(
            bindings::tsq_enum_TCP_FRIEND_DEFERRED as usize,
            addr_of_mut!((*sock.raw()).sk_tsq_flags),
        )
    };
}
