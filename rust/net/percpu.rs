// SPDX-License-Identifier: GPL-2.0

//! Counters that each CPU has for itself.
//!
//! C header: [`include/linux/percpu.h`](srctree/include/linux/percpu.h)

use core::ptr::NonNull;

use kernel::{
    bindings,
    cpu::nr_cpu_ids,
    prelude::*, //
};

/// `N` counters a CPU. They only go up.
///
/// # Invariants
///
/// The pointer is a per-CPU allocation of `[u64; N]`.
pub(crate) struct PerCpuCounters<const N: usize>(NonNull<c_void>);

// SAFETY: Each CPU adds to its own, with `this_cpu_add()`; a sum may be read from anywhere.
unsafe impl<const N: usize> Send for PerCpuCounters<N> {}
// SAFETY: As above.
unsafe impl<const N: usize> Sync for PerCpuCounters<N> {}

impl<const N: usize> PerCpuCounters<N> {
    /// Allocates them, all zero. May sleep.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: No requirements but the context, which may sleep.
        let ptr = unsafe { bindings::alloc_percpu(size_of::<[u64; N]>(), align_of::<u64>()) };
        // INVARIANT: Just allocated with that size.
        Ok(Self(NonNull::new(ptr).ok_or(ENOMEM)?))
    }

    fn at(&self, index: usize) -> Option<*mut u64> {
        // A `__percpu` pointer is an offset and not an address: nothing may be derived from what
        // it points at.
        (index < N).then(|| self.0.as_ptr().cast::<u64>().wrapping_add(index))
    }

    /// Adds to this CPU's. In any context.
    #[inline]
    pub(crate) fn add(&self, index: usize, val: u64) {
        if let Some(ptr) = self.at(index) {
            // SAFETY: By the type invariants it is a per-CPU `u64`; `this_cpu_add()` is safe
            // against preemption and interrupts.
            unsafe { bindings::this_cpu_add_u64(ptr, val) };
        }
    }

    /// The sum over all CPUs; not a snapshot while others add.
    pub(crate) fn sum(&self, index: usize) -> u64 {
        let Some(ptr) = self.at(index) else {
            return 0;
        };
        let mut sum = 0u64;
        let mut cpu = -1i32;
        loop {
            // SAFETY: No requirements.
            let next = unsafe { bindings::next_possible_cpu(cpu) };
            if next >= nr_cpu_ids() {
                return sum;
            }
            // SAFETY: By the type invariants; the CPU is a possible one. A word that another CPU
            // may be adding to is read volatile.
            let val = unsafe {
                bindings::per_cpu_ptr(ptr.cast(), next)
                    .cast::<u64>()
                    .read_volatile()
            };
            sum = sum.wrapping_add(val);
            cpu = next as i32;
        }
    }
}

impl<const N: usize> Drop for PerCpuCounters<N> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is our allocation.
        unsafe { bindings::free_percpu(self.0.as_ptr()) };
    }
}
