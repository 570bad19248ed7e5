// SPDX-License-Identifier: GPL-2.0

//! The number of this CPU, and per-CPU counters.
//!
//! C header: [`include/linux/percpu.h`](srctree/include/linux/percpu.h)

use core::ptr::NonNull;

use kernel::{
    bindings,
    cpu::nr_cpu_ids,
    prelude::*, //
};

/// Returns the number of this CPU. The task may move to another CPU meanwhile, so the caller must
/// be content with a stale number.
#[inline(always)]
pub(crate) fn this_cpu() -> usize {
    // SAFETY: `raw_smp_processor_id()` has no requirements.
    unsafe { bindings::raw_smp_processor_id() as usize }
}

/// `N` counters for each CPU. A counter only increases.
///
/// # Invariants
///
/// The pointer refers to a per-CPU allocation of `[u64; N]` that this value owns.
pub(crate) struct PerCpuCounters<const N: usize>(NonNull<c_void>);

// SAFETY: The allocation may be used and freed by any thread.
unsafe impl<const N: usize> Send for PerCpuCounters<N> {}
// SAFETY: Each CPU changes only its own counters, with `this_cpu_add()`, and any thread may read
// the counters of all CPUs.
unsafe impl<const N: usize> Sync for PerCpuCounters<N> {}

impl<const N: usize> PerCpuCounters<N> {
    /// Allocates the counters, all of which are zero. May sleep.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: `alloc_percpu()` only requires a context that may sleep, as this function does.
        let ptr = unsafe { bindings::alloc_percpu(size_of::<[u64; N]>(), align_of::<u64>()) };
        // INVARIANT: `ptr` was just allocated with the size and alignment of `[u64; N]`.
        Ok(Self(NonNull::new(ptr).ok_or(ENOMEM)?))
    }

    /// Returns the `__percpu` pointer to a counter, or `None` if there is no such counter.
    fn at(&self, index: usize) -> Option<*mut u64> {
        // A `__percpu` pointer is an offset and not an address. There is no memory at the pointer
        // itself, so the code must not derive anything from it and uses wrapping arithmetic.
        (index < N).then(|| self.0.as_ptr().cast::<u64>().wrapping_add(index))
    }

    /// Adds `val` to a counter of this CPU. May be called in any context.
    #[inline]
    pub(crate) fn add(&self, index: usize, val: u64) {
        if let Some(ptr) = self.at(index) {
            // SAFETY: By the type invariants, `ptr` refers to a per-CPU `u64`. `this_cpu_add()` is
            // safe against preemption and interrupts.
            unsafe { bindings::this_cpu_add_u64(ptr, val) };
        }
    }

    /// Returns the sum of a counter over all CPUs. The sum is no snapshot while other CPUs add.
    pub(crate) fn sum(&self, index: usize) -> u64 {
        let Some(ptr) = self.at(index) else {
            return 0;
        };
        let mut sum = 0u64;
        let mut cpu = -1i32;
        loop {
            // SAFETY: `next_possible_cpu()` has no requirements.
            let next = unsafe { bindings::next_possible_cpu(cpu) };
            if next >= nr_cpu_ids() {
                return sum;
            }
            // SAFETY: By the type invariants, `ptr` refers to a per-CPU `u64`, and `next` is a
            // possible CPU. The word is read volatile, because its CPU may add to it.
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
        // SAFETY: By the type invariants, this value owns the allocation.
        unsafe { bindings::free_percpu(self.0.as_ptr()) };
    }
}
