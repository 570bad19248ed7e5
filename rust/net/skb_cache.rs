// SPDX-License-Identifier: GPL-2.0

//! Spent skbs, kept for the next message.
//!
//! Making an skb and freeing it again costs more than all else that the fast lane
//! does. So what a reader has emptied goes back to the CPU that made it, where the
//! next writer finds it.
//!
//! The pages of TCP's account that a reader needs no more stay with its CPU likewise,
//! [`PAGES_KEPT`] at most, and not with each socket; none while TCP has more than what
//! `tcp_mem` calls low.
//!
//! A CPU keeps [`SMALL_KEPT`], [`LARGE_KEPT`] and [`PAGED_KEPT`] at most. They are no socket's,
//! and so are charged to TCP as a whole (`net.ipv4.tcp_mem`, `mem` in `/proc/net/sockstat`):
//! for each CPU the most that it has kept since the shrinker last ran, which does not
//! grow while TCP has more than half of what `tcp_mem` calls low. The shrinker frees
//! them all when memory is short.
//!
//! With `init_on_free` nothing is kept: what was read must not stay in memory.
//!
//! # Races
//!
//! A slot is emptied by `xchg()` and filled by `cmpxchg()`, so that an skb has one
//! holder at any time, whoever looks from whatever CPU and context. No lock. What is
//! put into a slot while the shrinker runs may be charged one turn later.
//!
//! C header: [`include/linux/shrinker.h`](srctree/include/linux/shrinker.h)

use core::ptr::{
    addr_of,
    null_mut,
    NonNull, //
};

use kernel::{
    bindings,
    cpu::nr_cpu_ids,
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Full,
        Relaxed,
        Release, //
    },
};

use super::skb::{
    Size,
    Skb, //
};

/// Small ones that a CPU keeps, of 2 KiB each.
const SMALL_KEPT: usize = 16;
/// Large ones, of 32 KiB each: what a stream of such writes moves in one turn of the scheduler.
const LARGE_KEPT: usize = 192;
/// Paged ones, of 64 KiB each.
const PAGED_KEPT: usize = 64;
/// Pages of TCP's account, beside those that the kernel lets a CPU hold back
/// (`net.core.mem_pcpu_rsv`, as many by default).
const PAGES_KEPT: u32 = 256;
/// How many slots are looked at before one gives up.
const LOOKS: u32 = 4;

type Slot = Atomic<*mut bindings::sk_buff>;

/// A stack of `N` that take at most `PAGES` pages each.
///
/// Its top is only a hint, which nobody minds being wrong: a slot tells by itself
/// whether there is an skb in it.
#[repr(C, align(64))]
struct Stack<const N: usize, const PAGES: isize> {
    top: Atomic<u32>,
    /// How many slots, from the bottom, are charged to TCP.
    charged: Atomic<u32>,
    slots: [Slot; N],
}

impl<const N: usize, const PAGES: isize> Stack<N, PAGES> {
    fn new() -> Self {
        Self {
            top: Atomic::new(0),
            charged: Atomic::new(0),
            slots: [const { Atomic::new(null_mut()) }; N],
        }
    }

    #[inline(always)]
    fn pop(&self) -> Option<Skb> {
        let top = self.top.load(Relaxed);

        // The hint is mostly right.
        self.take_at(top.wrapping_sub(1))
            .or_else(|| self.search(top))
    }

    /// Takes the skb out of the slot `at`, if there is such a slot and an skb in it.
    #[inline(always)]
    fn take_at(&self, at: u32) -> Option<Skb> {
        let skb = take_from(self.slots.get(at as usize)?)?;

        self.top.store(at, Relaxed);
        Some(skb)
    }

    /// Takes an skb out of one of the few slots below `top`.
    #[cold]
    #[inline(never)]
    fn search(&self, top: u32) -> Option<Skb> {
        // TRUNCATE: `N` is a few hundred.
        let top = top.min(N as u32);
        let end = top.saturating_sub(LOOKS);

        for at in (end..top).rev() {
            let skb = self.take_at(at);
            if skb.is_some() {
                return skb;
            }
        }
        // None of these slots has an skb, so the next call looks further down.
        self.top.store(end, Relaxed);
        None
    }

    /// Puts an skb on the stack, or gives it back if no slot is free.
    #[inline(always)]
    fn push(&self, skb: Skb) -> Result<(), Skb> {
        let top = self.top.load(Relaxed);

        if top < self.charged.load(Relaxed) {
            // The hint is mostly right.
            self.put_at(top, skb)
                .or_else(|skb| self.find_place(top, skb))
        } else {
            self.find_place(top, skb)
        }
    }

    /// Puts an skb into the slot `at`, or gives it back if there is no such slot or it is full.
    #[inline(always)]
    fn put_at(&self, at: u32, skb: Skb) -> Result<(), Skb> {
        let Some(slot) = self.slots.get(at as usize) else {
            return Err(skb);
        };
        let raw = skb.into_raw();

        if slot.cmpxchg(null_mut(), raw, Release).is_ok() {
            self.top.store(at.wrapping_add(1), Relaxed);
            return Ok(());
        }
        // SAFETY: `cmpxchg()` failed, so the skb is in no slot and `raw` is its only reference;
        // `raw` comes from an `Skb`, so it is not null.
        Err(unsafe { Skb::from_raw(NonNull::new_unchecked(raw)) })
    }

    /// Puts an skb into one of the few slots from `top` on, or gives it back.
    #[cold]
    #[inline(never)]
    fn find_place(&self, top: u32, mut skb: Skb) -> Result<(), Skb> {
        // TRUNCATE: `N` is a few hundred.
        let end = top.saturating_add(LOOKS).min(N as u32);

        for at in top..end {
            if at >= self.charged.load(Relaxed) && !self.charge(at) {
                return Err(skb);
            }
            match self.put_at(at, skb) {
                Ok(()) => return Ok(()),
                Err(back) => skb = back,
            }
        }
        // A task that was interrupted between reading and writing the hint may have set it below
        // slots that are full. The hint goes up past these, or the slots above them would not be
        // used again before the shrinker empties them.
        self.top.store(end, Relaxed);
        Err(skb)
    }
}

impl<const N: usize, const PAGES: isize> Stack<N, PAGES> {
    /// Charges TCP with the slots up to `at`, unless it has much already.
    #[cold]
    fn charge(&self, at: u32) -> bool {
        let (was, want) = (self.charged.load(Relaxed), at.wrapping_add(1));
        let more = PAGES.saturating_mul(want.saturating_sub(was) as isize);

        let (all, low) = tcp_pages();
        if all.saturating_add(more) > low / 2 {
            return false;
        }
        // If somebody was faster a slot may stay uncharged, until the shrinker runs.
        if more != 0 && self.charged.cmpxchg(was, want, Relaxed).is_ok() {
            charge_tcp(more);
        }
        true
    }

    /// Takes the charge back; the slots have been emptied.
    fn uncharge(&self) {
        self.top.store(0, Relaxed);
        let slots = self.charged.xchg(0, Relaxed);
        charge_tcp(PAGES.saturating_mul(slots as isize).saturating_neg());
    }
}

/// The pages that all of TCP has, and how many of them it calls low.
fn tcp_pages() -> (isize, isize) {
    // SAFETY: No requirements; the limits are an array of words that a sysctl may change.
    unsafe {
        (
            bindings::tcp_memory_allocated(),
            addr_of!(bindings::tcp_prot.sysctl_mem)
                .read()
                .read_volatile(),
        )
    }
}

/// Charges TCP with so many pages, or takes them back.
fn charge_tcp(pages: isize) {
    // SAFETY: No requirements. TRUNCATE: What all CPUs keep is far less.
    unsafe { bindings::tcp_memory_allocated_add(pages as i32) };
}

/// What one CPU keeps, in cache lines of its own.
#[repr(C, align(128))]
struct Kept {
    small: Stack<SMALL_KEPT, { Size::Small.pages() }>,
    large: Stack<LARGE_KEPT, { Size::Large.pages() }>,
    paged: Stack<PAGED_KEPT, { Size::Paged.pages() }>,
    /// Pages that TCP is charged with and no socket has.
    pages: Atomic<u32>,
}

impl Kept {
    fn new() -> Self {
        Self {
            small: Stack::new(),
            large: Stack::new(),
            paged: Stack::new(),
            pages: Atomic::new(0),
        }
    }

    /// Keeps an skb of [`Size::Paged`], or gives back any other.
    #[inline(never)]
    fn keep_pages(&self, mut skb: Skb) -> Result<(), Skb> {
        if skb.recycle_pages() {
            self.paged.push(skb)
        } else {
            Err(skb)
        }
    }

    fn is_charged(&self) -> bool {
        self.small.charged.load(Relaxed)
            | self.large.charged.load(Relaxed)
            | self.paged.charged.load(Relaxed)
            | self.pages.load(Relaxed)
            != 0
    }
}

/// Each CPU's, by its number; null while there are none.
static KEPT: Atomic<*mut Kept> = Atomic::new(null_mut());

/// All CPUs'.
fn kept() -> &'static [Kept] {
    let first = KEPT.load(Acquire);
    if first.is_null() {
        return &[];
    }
    // SAFETY: It is the beginning of that many, made by `Registration::new`. They live until its
    // `drop`, which comes after the hooks and the shrinker are gone, who alone call this.
    unsafe { core::slice::from_raw_parts(first, nr_cpu_ids() as usize) }
}

#[inline(always)]
fn take_from(slot: &Slot) -> Option<Skb> {
    if slot.load(Relaxed).is_null() {
        return None;
    }
    let skb = NonNull::new(slot.xchg(null_mut(), Acquire))?;
    // SAFETY: It was put there by `keep`, and we took it out: nobody else has it.
    Some(unsafe { Skb::from_raw(skb) })
}

/// An empty skb of that size, in any context but an interrupt.
///
/// `None` if there is no memory.
#[inline(always)]
pub(crate) fn take(size: Size) -> Option<Skb> {
    here()
        .and_then(|kept| match size {
            Size::Small => kept.small.pop(),
            Size::Large => kept.large.pop(),
            Size::Paged => kept.paged.pop(),
        })
        .or_else(|| Skb::new(size))
}

/// Keeps an skb that nobody needs any more, or frees it.
#[inline(always)]
pub(crate) fn keep(mut skb: Skb) {
    let size = skb.recycle();

    if let Some(kept) = kept().get(skb.cpu()) {
        // What finds no place is freed.
        let _ = match size {
            Some(Size::Small) => kept.small.push(skb),
            Some(Size::Large) => kept.large.push(skb),
            _ => kept.keep_pages(skb),
        };
    }
}

/// What this CPU keeps.
#[inline(always)]
fn here() -> Option<&'static Kept> {
    // SAFETY: No requirements; a stale answer does no harm.
    let cpu = unsafe { bindings::raw_smp_processor_id() };

    kept().get(cpu as usize)
}

/// Keeps so many pages that a socket was charged with and needs no more; from here on
/// they are nobody's, and still TCP's. Says whether there was a place.
#[inline(always)]
pub(super) fn keep_pages(pages: u32) -> bool {
    here().is_some_and(|kept| {
        let was = kept.pages.load(Relaxed);
        // Of an skb, so they do not wrap.
        let now = was.wrapping_add(pages);

        now <= PAGES_KEPT && kept.pages.cmpxchg(was, now, Relaxed).is_ok()
    })
}

/// Takes so many of them, for a socket to be charged with.
#[inline(always)]
pub(super) fn take_pages(pages: u32) -> bool {
    here().is_some_and(|kept| {
        let was = kept.pages.load(Relaxed);

        was.checked_sub(pages)
            .is_some_and(|now| kept.pages.cmpxchg(was, now, Relaxed).is_ok())
    })
}

/// For how many slots, of all CPUs, `f` says yes.
fn count_slots(f: fn(&Slot) -> bool) -> usize {
    let mut n = 0usize;
    for kept in kept() {
        n = n.wrapping_add(kept.small.slots.iter().filter(|slot| f(slot)).count());
        n = n.wrapping_add(kept.large.slots.iter().filter(|slot| f(slot)).count());
        n = n.wrapping_add(kept.paged.slots.iter().filter(|slot| f(slot)).count());
    }
    n
}

/// Frees the skb in that slot; whether there was one.
#[inline(never)]
fn free(slot: &Slot) -> bool {
    take_from(slot).is_some()
}

/// Frees what is kept; returns how many that were.
fn free_all() -> usize {
    let freed = count_slots(free);

    for kept in kept() {
        kept.small.uncharge();
        kept.large.uncharge();
        kept.paged.uncharge();
        charge_tcp((kept.pages.xchg(0, Relaxed) as isize).saturating_neg());
    }
    freed
}

/// Frees what is kept if TCP has more than it calls low by now: a limit was lowered, or
/// others took much since. For seldom called places; any context but an interrupt.
pub(crate) fn relieve() {
    let (all, low) = tcp_pages();
    if all > low && kept().iter().any(Kept::is_charged) {
        free_all();
    }
}

/// # Safety
///
/// As `shrinker.count_objects`.
unsafe extern "C" fn count(
    _: *mut bindings::shrinker,
    _: *mut bindings::shrink_control,
) -> c_ulong {
    match count_slots(|slot| !slot.load(Relaxed).is_null()) {
        // So that the rest of the account is given back, too.
        0 if kept().iter().any(Kept::is_charged) => 1,
        slots => slots,
    }
}

/// # Safety
///
/// As `shrinker.scan_objects`.
unsafe extern "C" fn scan(_: *mut bindings::shrinker, _: *mut bindings::shrink_control) -> c_ulong {
    free_all()
}

/// Spent skbs are kept for as long as this lives.
///
/// # Invariants
///
/// The shrinker is registered.
pub(crate) struct Registration {
    shrinker: NonNull<bindings::shrinker>,
    /// Only held: found by [`KEPT`].
    _kept: KVVec<Kept>,
}

// SAFETY: It is only dropped, which any thread may do.
unsafe impl Send for Registration {}
// SAFETY: Nothing can be done with a shared reference.
unsafe impl Sync for Registration {}

impl Registration {
    /// Begins to keep them. May sleep.
    pub(crate) fn new() -> Result<Self> {
        let cpus = nr_cpu_ids() as usize;
        let mut all = KVVec::with_capacity(cpus, GFP_KERNEL)?;
        for _ in 0..cpus {
            all.push(Kept::new(), GFP_KERNEL)?;
        }
        // SAFETY: A name without a format's directives. May sleep.
        let shrinker = unsafe { bindings::shrinker_alloc(0, c"tcp_friends".as_char_ptr()) };
        let shrinker = NonNull::new(shrinker).ok_or(ENOMEM)?;

        // SAFETY: No requirements.
        if !unsafe { bindings::want_init_on_free() } {
            KEPT.store(all.as_mut_ptr(), Release);
        }
        // SAFETY: It was just allocated and nobody else has it.
        unsafe {
            (*shrinker.as_ptr()).count_objects = Some(count);
            (*shrinker.as_ptr()).scan_objects = Some(scan);
            (*shrinker.as_ptr()).seeks = bindings::DEFAULT_SEEKS as i32;
            bindings::shrinker_register(shrinker.as_ptr());
        }
        // INVARIANT: Just registered.
        Ok(Self {
            shrinker,
            _kept: all,
        })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is registered. Waits until it does not run any more.
        unsafe { bindings::shrinker_free(self.shrinker.as_ptr()) };
        // The hooks are gone already: nobody keeps another one.
        free_all();
        KEPT.xchg(null_mut(), Full);
    }
}
