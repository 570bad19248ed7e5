// SPDX-License-Identifier: GPL-2.0

//! Pairs whose ends are not in one namespace, or whose segments pass other devices than
//! the loopback device: each with its path, in one list, to be parted when a device of
//! it goes or the administrator wants no such pairs any more.
//!
//! # Locks
//!
//! The list's spinlock, taken with bottom halves off, innermost. Only forming and
//! parting such a pair takes it. [`one_at_a_time`] has a mutex, outermost.

use core::{
    cell::Cell,
    ptr::{
        null_mut,
        NonNull, //
    },
};

use kernel::{
    prelude::*,
    sync::rcu, //
};

use super::{
    device::Path,
    friend::{
        Member,
        Pair, //
    },
    offers::BhOff,
    sock::Rcu, //
};

/// What a pair that crosses has besides.
///
/// # Invariants
///
/// While `linked`, it is in the list, which the lock protects as it does the cells.
pub(super) struct Crossing {
    path: Path,
    /// The pair that owns this, once it is linked.
    pair: Cell<*const Pair>,
    prev: Cell<*const Crossing>,
    next: Cell<*const Crossing>,
    linked: Cell<bool>,
}

// What it costs beside the pair.
const _: () = assert!(size_of::<Crossing>() <= 256);

/// The first of the list.
struct First(*const Crossing);

// SAFETY: What it leads to is used with the lock held.
unsafe impl Send for First {}

kernel::sync::global_lock! {
    // SAFETY: Initialised before a hook or a notifier can run.
    unsafe(uninit) static LIST: SpinLock<First> = First(null_mut());
}

kernel::sync::global_lock! {
    // SAFETY: As above, or a sysctl.
    unsafe(uninit) static SWITCHING: Mutex<()> = ();
}

/// Calls `f` while nobody else does. May sleep.
pub(crate) fn one_at_a_time<R>(f: impl FnOnce() -> R) -> R {
    let _guard = SWITCHING.lock();

    f()
}

/// Prepares the locks.
///
/// # Safety
///
/// Called once, before anything else of this file.
pub(super) unsafe fn init() {
    // SAFETY: By the function's safety requirements.
    unsafe {
        LIST.init();
        SWITCHING.init();
    }
}

impl Crossing {
    /// In no list yet.
    pub(super) fn new(path: Path) -> Self {
        Self {
            path,
            pair: Cell::new(null_mut()),
            prev: Cell::new(null_mut()),
            next: Cell::new(null_mut()),
            linked: Cell::new(false),
        }
    }

    /// The devices.
    #[inline(always)]
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts it into the list.
    ///
    /// # Safety
    ///
    /// `pair` owns this, and calls `unlink` before it is freed.
    pub(super) unsafe fn link(&self, pair: *const Pair) {
        let _off = BhOff::new();
        let mut first = LIST.lock();

        self.pair.set(pair);
        self.next.set(first.0);
        // SAFETY: What is in the list is valid.
        if let Some(next) = unsafe { first.0.as_ref() } {
            next.prev.set(self);
        }
        // INVARIANT: So it is.
        self.linked.set(true);
        first.0 = self;
    }

    /// Takes it out of the list, if it is there.
    pub(super) fn unlink(&self) {
        let _off = BhOff::new();

        self.unlink_locked(&mut LIST.lock());
    }

    fn unlink_locked(&self, first: &mut First) {
        if !self.linked.replace(false) {
            return;
        }
        let (prev, next) = (self.prev.replace(null_mut()), self.next.replace(null_mut()));
        // SAFETY: By the type invariants its neighbours are in the list, and so are valid.
        unsafe {
            match prev.as_ref() {
                Some(prev) => prev.next.set(next),
                None => first.0 = next,
            }
            if let Some(next) = next.as_ref() {
                next.prev.set(prev);
            }
        }
    }
}

/// Calls `part` for each pair of whose path `f` says yes. Any context but an interrupt.
pub(crate) fn for_each_crossing(f: impl Fn(&Path) -> bool, part: impl Fn(&Member<'_>)) {
    let _rcu = rcu::read_lock();
    let mut chosen: *const Crossing = null_mut();
    {
        let _off = BhOff::new();
        let mut first = LIST.lock();
        let mut at = first.0;
        // SAFETY: What is in the list is valid for as long as it is locked.
        while let Some(crossing) = unsafe { at.as_ref() } {
            at = crossing.next.get();
            if f(&crossing.path) {
                crossing.unlink_locked(&mut first);
                // Nobody else uses the cell of what is not linked.
                crossing.next.set(chosen);
                chosen = crossing;
            }
        }
    }
    // SAFETY: What was in the list has a pair that was not dissolved, or is about to be; it is freed
    // a grace period later, and RCU is held since before it was looked for.
    while let Some(crossing) = unsafe { chosen.as_ref() } {
        chosen = crossing.next.get();
        if let Some(pair) = NonNull::new(crossing.pair.get().cast_mut()) {
            // SAFETY: As above.
            part(&Member::first(unsafe { pair.as_ref() }, unsafe {
                Rcu::new()
            }));
        }
    }
}
