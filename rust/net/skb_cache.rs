// SPDX-License-Identifier: GPL-2.0

//! A cache of skbs that readers have emptied, for the next messages.
//!
//! To allocate an skb and to free it again costs more than everything else in the fast lane. So an
//! skb that a reader has emptied goes back to the CPU that allocated it, where the next writer
//! finds it.
//!
//! Which skb is used next depends on where its memory is cached. If the reader runs on the same
//! CPU, the skb that was emptied last is the best: its memory is in that CPU's caches ([`Stack`]).
//! If the reader runs on another CPU, the skb that was emptied last is the worst: its memory is in
//! the caches of that other CPU, and each cache line has to be fetched from there. So large skbs
//! that another CPU has emptied are used in the order in which they came, and only while there are
//! so many that the oldest is in neither CPU's second-level cache any more ([`Ring`]).
//!
//! Pages of TCP's account that a reader no longer needs also stay with the reader's CPU, and not
//! with each socket. A CPU keeps [`PAGES_KEPT`] of them at most, and takes none while TCP has more
//! pages than `min`, the first value of `net.ipv4.tcp_mem`.
//!
//! A CPU keeps [`SMALL_KEPT`] small, [`LARGE_KEPT`] large and [`PAGED_KEPT`] paged skbs at most,
//! and besides [`LARGE_FROM_AFAR`] large and [`PAGED_FROM_AFAR`] paged ones that other CPUs have
//! emptied. They belong to no socket, and so they are charged to TCP as a whole
//! (`net.ipv4.tcp_mem`, `mem` in `/proc/net/sockstat`). The charge of a CPU is the most that the
//! CPU has kept since its skbs were last freed. The charge does not grow while TCP has more than
//! half of `min`: instead, what one CPU keeps is freed, at most once in a jiffy. The shrinker frees
//! what all CPUs keep when memory is short.
//!
//! With `init_on_free` nothing is kept, because data that was read must not stay in memory.
//!
//! # Races
//!
//! A slot is emptied by `xchg()` and filled by `cmpxchg()` without a lock, so that an skb has one
//! holder at any time, whichever CPU and context access the slot. An skb that is put into a slot
//! while the shrinker runs may stay uncharged until the next charge of that slot or the next run of
//! the shrinker.
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

use super::{
    percpu::this_cpu,
    skb::{
        Size,
        Skb, //
    },
    tcp::tcp_jiffies32,
};

/// How many small skbs, of 2 KiB each, a CPU keeps.
const SMALL_KEPT: usize = 16;
/// How many large skbs, of 32 KiB each, a CPU keeps: as much as a stream of such writes moves in
/// one turn of the scheduler.
const LARGE_KEPT: usize = 192;
/// How many paged skbs, of 64 KiB each, a CPU keeps.
const PAGED_KEPT: usize = 64;
/// How many large skbs that another CPU has emptied a CPU keeps: a quarter more than
/// [`MOST_DISTANCE`] takes.
const LARGE_FROM_AFAR: usize = MOST_DISTANCE / 4 * 5 / Size::Large.whole();
/// How many paged skbs that another CPU has emptied a CPU keeps.
const PAGED_FROM_AFAR: usize = MOST_DISTANCE / 4 * 5 / Size::Paged.whole();
/// How many bytes of other skbs must have come from other CPUs, at least and at most, before an skb
/// from there is used again.
const LEAST_DISTANCE: usize = 1 << 20;
const MOST_DISTANCE: usize = 4 << 20;
/// How many pages of TCP's account a CPU keeps, besides those that the kernel lets a CPU hold back
/// (`net.core.mem_pcpu_rsv`, whose default is this many, too).
const PAGES_KEPT: u32 = 256;
/// How many slots an operation checks before it gives up.
const MAX_PROBES: u32 = 4;

/// A place for one skb, which is null while it is empty.
type Slot = Atomic<*mut bindings::sk_buff>;

/// At most `N` skbs, each of which takes `PAGES` pages at most.
struct Slots<const N: usize, const PAGES: isize> {
    /// How many slots, from the first on, are charged to TCP.
    charged: Atomic<u32>,
    slots: [Slot; N],
}

/// A stack of skbs: the skb that came last is used first.
///
/// `top` is only a hint, and a wrong value does no harm: the slot itself shows whether there is an
/// skb in it.
#[repr(C, align(64))]
struct Stack<const N: usize, const PAGES: isize> {
    /// The index of the first free slot, as far as known.
    top: Atomic<u32>,
    all: Slots<N, PAGES>,
}

/// A ring of skbs: the skb that came first is used first, but not before there are [`Ring::least`].
///
/// `head` and `tail` are only hints, as `top` of a [`Stack`] is. Their cache lines are apart, since
/// two CPUs write them.
#[repr(C, align(64))]
struct Ring<const N: usize, const PAGES: isize> {
    /// How many skbs have been taken, modulo 2^32.
    head: Atomic<u32>,
    /// How many skbs must be in the ring for one to be taken.
    least: u32,
    /// How many skbs have been put, modulo 2^32.
    tail: Line<Atomic<u32>>,
    all: Slots<N, PAGES>,
}

/// Something in a cache line of its own.
#[repr(C, align(64))]
struct Line<T>(T);

impl<const N: usize, const PAGES: isize> Slots<N, PAGES> {
    /// Creates empty slots.
    fn new() -> Self {
        Self {
            charged: Atomic::new(0),
            slots: [const { Atomic::new(null_mut()) }; N],
        }
    }

    /// Takes the skb out of the slot `at`, if there is such a slot and an skb in it.
    #[inline(always)]
    fn take(&self, at: u32) -> Option<Skb> {
        take_from(self.slots.get(at as usize)?)
    }

    /// Puts an skb into the slot `at`, or gives the skb back if there is no such slot or the slot
    /// is full.
    #[inline(always)]
    fn put(&self, at: u32, skb: Skb) -> Result<(), Skb> {
        let Some(slot) = self.slots.get(at as usize) else {
            return Err(skb);
        };
        let raw = skb.into_raw();

        if slot.cmpxchg(null_mut(), raw, Release).is_ok() {
            return Ok(());
        }
        // SAFETY: `cmpxchg()` failed, so the skb is in no slot, and `raw` is still our only
        // reference. `raw` comes from an `Skb`, so it is not null.
        Err(unsafe { Skb::from_raw(NonNull::new_unchecked(raw)) })
    }

    /// Returns whether the slot `at` is charged to TCP, if necessary after charging it.
    #[inline(always)]
    fn is_charged(&self, at: u32) -> bool {
        at < self.charged.load(Relaxed) || self.charge(at)
    }

    /// Charges TCP for the slots up to and including `at`. Returns false and charges nothing if TCP
    /// would then have more than half of the `min` of `tcp_mem`.
    #[cold]
    fn charge(&self, at: u32) -> bool {
        let (was, want) = (self.charged.load(Relaxed), at.wrapping_add(1));
        let more = PAGES.saturating_mul(want.saturating_sub(was) as isize);

        let (all, low) = tcp_pages();
        if all.saturating_add(more) > low / 2 {
            free_some();
            return false;
        }
        // If another context changes `charged` first, the slot may stay uncharged, but no longer
        // than until the shrinker runs.
        if more != 0 && self.charged.cmpxchg(was, want, Relaxed).is_ok() {
            charge_tcp(more);
        }
        true
    }

    /// Uncharges TCP for all slots, which have been emptied.
    fn uncharge(&self) {
        let slots = self.charged.xchg(0, Relaxed);
        charge_tcp(PAGES.saturating_mul(slots as isize).saturating_neg());
    }
}

impl<const N: usize, const PAGES: isize> Stack<N, PAGES> {
    /// Creates an empty stack.
    fn new() -> Self {
        Self {
            top: Atomic::new(0),
            all: Slots::new(),
        }
    }

    /// Takes an skb from the stack.
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
        let skb = self.all.take(at)?;

        self.top.store(at, Relaxed);
        Some(skb)
    }

    /// Takes an skb out of one of the slots below `top`.
    #[cold]
    #[inline(never)]
    fn search(&self, top: u32) -> Option<Skb> {
        // TRUNCATE: `N` is a few hundred.
        let top = top.min(N as u32);
        let end = top.saturating_sub(MAX_PROBES);

        for at in (end..top).rev() {
            let skb = self.take_at(at);
            if skb.is_some() {
                return skb;
            }
        }
        // None of the checked slots had an skb, so the next call checks slots further down.
        self.top.store(end, Relaxed);
        None
    }

    /// Puts an skb on the stack, or gives the skb back if there is no free slot within reach or TCP
    /// cannot be charged with one more.
    #[inline(always)]
    fn push(&self, skb: Skb) -> Result<(), Skb> {
        let top = self.top.load(Relaxed);

        if top < self.all.charged.load(Relaxed) {
            // The hint is mostly right.
            self.put_at(top, skb)
                .or_else(|skb| self.find_place(top, skb))
        } else {
            self.find_place(top, skb)
        }
    }

    /// Puts an skb into the slot `at`, or gives the skb back if there is no such slot or the slot
    /// is full.
    #[inline(always)]
    fn put_at(&self, at: u32, skb: Skb) -> Result<(), Skb> {
        self.all.put(at, skb)?;
        self.top.store(at.wrapping_add(1), Relaxed);
        Ok(())
    }

    /// Uncharges TCP for all slots of the stack, which have been emptied.
    fn uncharge(&self) {
        self.top.store(0, Relaxed);
        self.all.uncharge();
    }

    /// Puts an skb into one of the slots from `top` on, or gives the skb back.
    #[cold]
    #[inline(never)]
    fn find_place(&self, top: u32, mut skb: Skb) -> Result<(), Skb> {
        // TRUNCATE: `N` is a few hundred.
        let end = top.saturating_add(MAX_PROBES).min(N as u32);

        for at in top..end {
            if !self.all.is_charged(at) {
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

impl<const N: usize, const PAGES: isize> Ring<N, PAGES> {
    /// Creates an empty ring, of which nothing is taken before it has `least` skbs.
    fn new(least: usize) -> Self {
        Self {
            head: Atomic::new(0),
            // TRUNCATE: `N` is a few hundred.
            least: least.min(N) as u32,
            tail: Line(Atomic::new(0)),
            all: Slots::new(),
        }
    }

    /// Takes the oldest skb, if there are enough.
    #[inline(always)]
    fn get(&self) -> Option<Skb> {
        let head = self.head.load(Relaxed);
        let there = self.tail.0.load(Relaxed).wrapping_sub(head);

        if there < self.least {
            return None;
        }
        self.get_at(head, there)
    }

    /// Takes the skb at `head`, behind which the hints say there are `there` skbs.
    #[inline(never)]
    fn get_at(&self, head: u32, there: u32) -> Option<Skb> {
        // TRUNCATE: `N` is a few hundred.
        if there > N as u32 {
            // Tasks that were interrupted between reading and writing the hints may have set
            // `head` past `tail`.
            self.head.store(self.tail.0.load(Relaxed), Relaxed);
            return None;
        }
        self.head.store(head.wrapping_add(1), Relaxed);
        self.all.take(head % N as u32)
    }

    /// Uncharges TCP for all slots of the ring, which have been emptied.
    fn uncharge(&self) {
        self.head.store(self.tail.0.load(Relaxed), Relaxed);
        self.all.uncharge();
    }

    /// Puts an skb behind the others, or gives the skb back if there is no room or TCP cannot be
    /// charged with one more.
    #[inline(never)]
    fn put(&self, skb: Skb) -> Result<(), Skb> {
        let tail = self.tail.0.load(Relaxed);
        // TRUNCATE: `N` is a few hundred.
        let at = tail % N as u32;

        if tail.wrapping_sub(self.head.load(Relaxed)) >= N as u32 || !self.all.is_charged(at) {
            return Err(skb);
        }
        // If the slot is full, `tail` is wrong, and must go on all the same, or the ring would stay
        // as it is.
        self.tail.0.store(tail.wrapping_add(1), Relaxed);
        self.all.put(at, skb)
    }
}

/// Returns how many pages all of TCP has, and the `min` of `net.ipv4.tcp_mem`.
fn tcp_pages() -> (isize, isize) {
    // SAFETY: `tcp_memory_allocated()` has no requirements. `sysctl_mem` points to a static array
    // of words. A sysctl may change them, so the read is volatile.
    unsafe {
        (
            bindings::tcp_memory_allocated(),
            addr_of!(bindings::tcp_prot.sysctl_mem)
                .read()
                .read_volatile(),
        )
    }
}

/// Charges TCP with `pages` pages, or uncharges TCP if the number is negative.
fn charge_tcp(pages: isize) {
    // SAFETY: `tcp_memory_allocated_add()` has no requirements. TRUNCATE: All that the CPUs keep is
    // far fewer pages than an `i32` can count.
    unsafe { bindings::tcp_memory_allocated_add(pages as i32) };
}

/// What one CPU keeps, in cache lines of its own.
#[repr(C, align(128))]
struct Kept {
    /// Skbs of [`Size::Small`].
    small: Stack<SMALL_KEPT, { Size::Small.pages() }>,
    /// Skbs of [`Size::Large`].
    large: Stack<LARGE_KEPT, { Size::Large.pages() }>,
    /// Skbs of [`Size::Paged`].
    paged: Stack<PAGED_KEPT, { Size::Paged.pages() }>,
    /// Skbs of [`Size::Large`] that another CPU has emptied.
    large_from_afar: Ring<LARGE_FROM_AFAR, { Size::Large.pages() }>,
    /// Skbs of [`Size::Paged`] that another CPU has emptied.
    paged_from_afar: Ring<PAGED_FROM_AFAR, { Size::Paged.pages() }>,
    /// How many pages TCP is charged with that belong to no socket.
    pages: Atomic<u32>,
}

impl Kept {
    /// Creates an empty set, in which skbs from other CPUs are used after `distance` bytes of such
    /// skbs.
    fn new(distance: usize) -> Self {
        Self {
            small: Stack::new(),
            large: Stack::new(),
            paged: Stack::new(),
            large_from_afar: Ring::new(distance / Size::Large.whole()),
            paged_from_afar: Ring::new(distance / Size::Paged.whole()),
            pages: Atomic::new(0),
        }
    }

    /// Keeps an skb of [`Size::Paged`], or gives back an skb of no known size. `afar` says whether
    /// another CPU than the one whose `self` is has emptied it.
    #[inline(never)]
    fn put_paged(&self, mut skb: Skb, afar: bool) -> Result<(), Skb> {
        if !skb.recycle_pages() {
            Err(skb)
        } else if afar {
            self.paged_from_afar.put(skb)
        } else {
            self.paged.push(skb)
        }
    }

    /// Returns for how many slots `f` returns true.
    fn count(&self, f: fn(&Slot) -> bool) -> usize {
        let all: [&[Slot]; 5] = [
            &self.small.all.slots,
            &self.large.all.slots,
            &self.paged.all.slots,
            &self.large_from_afar.all.slots,
            &self.paged_from_afar.all.slots,
        ];

        all.into_iter().flatten().filter(|slot| f(slot)).count()
    }

    /// Frees all skbs, and uncharges TCP for all that was kept. Returns how many skbs were freed.
    fn free(&self) -> usize {
        let freed = self.count(free);

        self.small.uncharge();
        self.large.uncharge();
        self.paged.uncharge();
        self.large_from_afar.uncharge();
        self.paged_from_afar.uncharge();
        charge_tcp((self.pages.xchg(0, Relaxed) as isize).saturating_neg());
        freed
    }

    /// Returns whether anything that this CPU keeps is charged to TCP.
    fn is_charged(&self) -> bool {
        self.small.all.charged.load(Relaxed)
            | self.large.all.charged.load(Relaxed)
            | self.paged.all.charged.load(Relaxed)
            | self.large_from_afar.all.charged.load(Relaxed)
            | self.paged_from_afar.all.charged.load(Relaxed)
            | self.pages.load(Relaxed)
            != 0
    }
}

/// The array of what each CPU keeps, by the CPU's number. The pointer is null while there is no
/// cache, and with `init_on_free`.
static KEPT: Atomic<*mut Kept> = Atomic::new(null_mut());

/// Returns what all CPUs keep, by the CPU's number. The slice is empty while there is no cache, and
/// with `init_on_free`.
fn kept() -> &'static [Kept] {
    let first = KEPT.load(Acquire);
    if first.is_null() {
        return &[];
    }
    // SAFETY: `first` is the beginning of an array of `nr_cpu_ids()` elements, made by
    // `Registration::new`. The array lives until the registration is dropped. Only the hooks, the
    // shrinker and that `drop` call this function, and the hooks and the shrinker are gone before
    // the array is freed.
    unsafe { core::slice::from_raw_parts(first, nr_cpu_ids() as usize) }
}

/// Takes the skb out of a slot.
#[inline(always)]
fn take_from(slot: &Slot) -> Option<Skb> {
    if slot.load(Relaxed).is_null() {
        return None;
    }
    let skb = NonNull::new(slot.xchg(null_mut(), Acquire))?;
    // SAFETY: `Slots::put` put the skb there and gave up its reference, and `xchg()` took the skb
    // out, so nobody else has a reference.
    Some(unsafe { Skb::from_raw(skb) })
}

/// Returns an empty skb of size `size`, from the cache of this CPU if there is one. This function
/// may be called in any context but a hard interrupt.
///
/// Returns `None` if there is no memory.
#[inline(always)]
pub(crate) fn get(size: Size) -> Option<Skb> {
    here()
        .and_then(|kept| match size {
            Size::Small => kept.small.pop(),
            Size::Large => kept.large_from_afar.get().or_else(|| kept.large.pop()),
            Size::Paged => kept.paged_from_afar.get().or_else(|| kept.paged.pop()),
        })
        .or_else(|| Skb::new(size))
}

/// Keeps an skb that nobody needs any more, or frees the skb.
#[inline(always)]
pub(crate) fn put(mut skb: Skb) {
    let size = skb.recycle();
    let owner = skb.cpu();

    if let Some(kept) = kept().get(owner) {
        let afar = owner != this_cpu();
        // An skb for which there is no place is freed.
        let _ = match size {
            Some(Size::Small) => kept.small.push(skb),
            Some(Size::Large) if afar => kept.large_from_afar.put(skb),
            Some(Size::Large) => kept.large.push(skb),
            _ => kept.put_paged(skb, afar),
        };
    }
}

/// Returns what this CPU keeps.
#[inline(always)]
fn here() -> Option<&'static Kept> {
    kept().get(this_cpu())
}

/// Returns how many bytes of skbs must have come from other CPUs before one of them is used again:
/// enough to replace all that the second-level caches of two CPUs hold, twice. If the size of the
/// caches is not known, this is [`MOST_DISTANCE`]. May sleep.
fn distance() -> usize {
    // SAFETY: `tcp_friends_l2_size()` takes `cpus_read_lock()`: this context may sleep, and holds no
    // lock, since it is that of the module's initialization.
    match unsafe { bindings::tcp_friends_l2_size() } as usize {
        0 => MOST_DISTANCE,
        size => size.saturating_mul(4).clamp(LEAST_DISTANCE, MOST_DISTANCE),
    }
}

/// Keeps `pages` pages that a socket was charged with and no longer needs. From here on they belong
/// to no socket, but TCP is still charged with them. Returns whether there was a place for them.
#[inline(always)]
pub(super) fn put_pages(pages: u32) -> bool {
    here().is_some_and(|kept| {
        let was = kept.pages.load(Relaxed);
        // The sum does not wrap: the pages come from a socket's account, whose bytes fit in an
        // `i32`.
        let now = was.wrapping_add(pages);

        now <= PAGES_KEPT && kept.pages.cmpxchg(was, now, Relaxed).is_ok()
    })
}

/// Takes `pages` pages of those that this CPU keeps, for a socket to be charged with. Returns
/// whether there were enough.
#[inline(always)]
pub(super) fn get_pages(pages: u32) -> bool {
    here().is_some_and(|kept| {
        let was = kept.pages.load(Relaxed);

        was.checked_sub(pages)
            .is_some_and(|now| kept.pages.cmpxchg(was, now, Relaxed).is_ok())
    })
}

/// Frees the skb in a slot. Returns whether there was one.
#[inline(never)]
fn free(slot: &Slot) -> bool {
    take_from(slot).is_some()
}

/// Frees all cached skbs, and uncharges TCP for all that was kept. Returns how many skbs were
/// freed.
fn free_all() -> usize {
    kept().iter().map(Kept::free).sum()
}

/// Frees what one CPU keeps, but no more than that in a jiffy, since this may be called with a
/// spinlock held. Called when a slot cannot be charged: most of what is charged may be of slots
/// that were needed once, or on other CPUs.
fn free_some() {
    /// When this function has freed something last, in jiffies.
    static LAST: Atomic<u32> = Atomic::new(0);
    let (now, last) = (tcp_jiffies32(), LAST.load(Relaxed));

    if now != last && LAST.cmpxchg(last, now, Relaxed).is_ok() {
        let cpus = kept();
        // A CPU after the other is freed, as jiffies pass.
        if let Some(kept) = (now as usize)
            .checked_rem(cpus.len())
            .and_then(|cpu| cpus.get(cpu))
        {
            kept.free();
        }
    }
}

/// Frees all that is kept if TCP now has more pages than the `min` of `tcp_mem`: the limit may have
/// been lowered, or others may have taken much since. Code that runs seldom may call this function,
/// in any context but a hard interrupt.
pub(crate) fn shrink() {
    let (all, low) = tcp_pages();
    if all > low && kept().iter().any(Kept::is_charged) {
        free_all();
    }
}

/// Returns how many objects the shrinker can free.
///
/// # Safety
///
/// The requirements are those of `shrinker.count_objects`.
unsafe extern "C" fn count(
    _: *mut bindings::shrinker,
    _: *mut bindings::shrink_control,
) -> c_ulong {
    let is_full = |slot: &Slot| !slot.load(Relaxed).is_null();

    match kept().iter().map(|kept| kept.count(is_full)).sum() {
        // Without skbs there may still be a charge. The shrinker calls `scan` only for a count that
        // is not 0, and `scan` uncharges TCP.
        0 if kept().iter().any(Kept::is_charged) => 1,
        slots => slots,
    }
}

/// Frees all that is kept, and returns how many skbs that were.
///
/// # Safety
///
/// The requirements are those of `shrinker.scan_objects`.
unsafe extern "C" fn scan(_: *mut bindings::shrinker, _: *mut bindings::shrink_control) -> c_ulong {
    free_all()
}

/// The cache, which keeps skbs and pages for as long as this value lives.
///
/// # Invariants
///
/// The shrinker is registered.
pub(crate) struct Registration {
    shrinker: NonNull<bindings::shrinker>,
    /// The array to which [`KEPT`] points. The field only keeps the array alive.
    _kept: KVVec<Kept>,
}

// SAFETY: A registration can only be dropped, which any thread may do.
unsafe impl Send for Registration {}
// SAFETY: A shared reference to a registration gives access to nothing.
unsafe impl Sync for Registration {}

impl Registration {
    /// Creates the cache and registers the shrinker. May sleep.
    pub(crate) fn new() -> Result<Self> {
        let (cpus, distance) = (nr_cpu_ids() as usize, distance());
        let mut all = KVVec::with_capacity(cpus, GFP_KERNEL)?;
        for _ in 0..cpus {
            all.push(Kept::new(distance), GFP_KERNEL)?;
        }
        // SAFETY: The name is a valid string without format directives, and this context may sleep.
        let shrinker = unsafe { bindings::shrinker_alloc(0, c"tcp_friends".as_char_ptr()) };
        let shrinker = NonNull::new(shrinker).ok_or(ENOMEM)?;

        // SAFETY: `want_init_on_free()` has no requirements.
        if !unsafe { bindings::want_init_on_free() } {
            KEPT.store(all.as_mut_ptr(), Release);
        }
        // SAFETY: The shrinker was just allocated, and nobody else has a reference to it.
        unsafe {
            (*shrinker.as_ptr()).count_objects = Some(count);
            (*shrinker.as_ptr()).scan_objects = Some(scan);
            (*shrinker.as_ptr()).seeks = bindings::DEFAULT_SEEKS as i32;
            bindings::shrinker_register(shrinker.as_ptr());
        }
        // INVARIANT: `shrinker_register()` has just registered the shrinker.
        Ok(Self {
            shrinker,
            _kept: all,
        })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the shrinker is registered. `shrinker_free()` waits until
        // the shrinker no longer runs.
        unsafe { bindings::shrinker_free(self.shrinker.as_ptr()) };
        // The hooks are gone already, so nobody puts another skb into the cache.
        free_all();
        KEPT.xchg(null_mut(), Full);
    }
}
