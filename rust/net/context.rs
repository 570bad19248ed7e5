// SPDX-License-Identifier: GPL-2.0

//! Evidence of the context that code runs in, and functions that depend on the context.
//!
//! C headers: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h),
//! [`include/linux/bottom_half.h`](srctree/include/linux/bottom_half.h)

use core::marker::PhantomData;

use kernel::{
    bindings,
    types::NotThreadSafe, //
};

/// Evidence that an RCU read-side critical section lasts for `'a`.
///
/// # Invariants
///
/// The current context is in an RCU read-side critical section for all of `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Rcu<'a>(PhantomData<&'a ()>, NotThreadSafe);

impl Rcu<'_> {
    /// Creates evidence of a read-side critical section.
    ///
    /// # Safety
    ///
    /// The caller is in an RCU read-side critical section for the whole lifetime of the returned
    /// value.
    pub(crate) unsafe fn new() -> Self {
        // INVARIANT: By the function's safety requirements the critical section lasts for all of
        // the value's lifetime.
        Self(PhantomData, NotThreadSafe)
    }
}

/// A guard that keeps bottom halves disabled until it is dropped.
pub(crate) struct BhOff(NotThreadSafe);

impl BhOff {
    /// Disables bottom halves.
    pub(crate) fn new() -> Self {
        // SAFETY: `drop` enables bottom halves again. Interrupts are on wherever this guard is
        // used, as `local_bh_enable()` requires.
        unsafe { bindings::local_bh_disable() };
        Self(NotThreadSafe)
    }
}

impl Drop for BhOff {
    fn drop(&mut self) {
        // SAFETY: `new` disabled bottom halves.
        unsafe { bindings::local_bh_enable() };
    }
}

/// Lets another task run, if one waits (`cond_resched()`). May sleep.
pub(crate) fn cond_resched() {
    // SAFETY: The caller may sleep, so it runs in process context and holds no spinlock.
    unsafe { bindings::cond_resched() };
}

/// Returns whether no other task wants this CPU (`single_task_running()`). The answer is a guess,
/// since tasks come and go at any time.
pub(crate) fn is_only_task() -> bool {
    // SAFETY: `single_task_running()` has no requirements.
    unsafe { bindings::single_task_running() }
}

/// Executes a full memory barrier after an atomic read-modify-write (`smp_mb__after_atomic()`).
pub(crate) fn smp_mb_after_atomic() {
    // SAFETY: A memory barrier has no safety requirements.
    unsafe { bindings::smp_mb__after_atomic() };
}
