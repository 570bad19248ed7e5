// SPDX-License-Identifier: GPL-2.0

//! Pairs whose ends are not in one namespace, or whose segments pass other devices than
//! the loopback device: each with its path, to be parted when a device of it goes or the
//! administrator wants no such pairs any more.
//!
//! Pairs that pass the same devices share one [`Way`]. The ways stand in a tree by what
//! devices they have, where a new pair finds its own, and in one by device and by namespace,
//! where those are found that it is on. So a device that goes costs what its own pairs cost, and
//! nothing for the others, however many there are. What goes through a tree is not inlined: it is
//! large, and seldom called.
//!
//! # Locks
//!
//! The spinlock of the trees, taken with bottom halves off, innermost. Only forming and
//! parting such a pair takes it. Who parts many holds it for [`AT_ONCE`] of them at most,
//! and then lets others in. [`one_at_a_time`] has a mutex, outermost.

use core::{
    cell::Cell,
    ptr::{
        null_mut,
        NonNull, //
    },
};

use kernel::{
    alloc::AllocError,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        rcu,
        Arc, //
    },
};

use super::{
    device::{
        Change,
        Path, //
    },
    friend::{
        Member,
        Pair, //
    },
    may_reschedule,
    namespace::Net,
    offers::BhOff,
    sock::Rcu, //
};
use crate::namespace::Namespace;

/// So many pairs or ways are looked at with the lock held.
const AT_ONCE: usize = 32;

/// A path, and the pairs that have it.
struct Way {
    path: Path,
    /// Whether each question has to be asked before a move: a namespace that it passes is in strict
    /// mode, or the host's is. Written with the lock held.
    asks_all: Atomic<bool>,
    /// The first of them, null if there is none. The lock protects it.
    first: Cell<*const Crossing>,
}

// SAFETY: A path may be used by any thread. The cell is used with the lock held.
unsafe impl Send for Way {}
// SAFETY: As above.
unsafe impl Sync for Way {}

impl Way {
    fn addr(this: &Arc<Self>) -> usize {
        Arc::as_ptr(this).addr()
    }

    /// By these it is found in the tree by device and namespace.
    fn places(&self) -> impl Iterator<Item = u64> + '_ {
        Iterator::chain(self.path.addrs(), self.path.net_addrs()).map(|addr| addr as u64)
    }

    /// Looks which modes its namespaces are in.
    ///
    /// # Safety
    ///
    /// The lock is held, and the way is in the trees.
    #[inline(never)]
    unsafe fn look(&self) {
        let _guard = rcu::read_lock();
        // SAFETY: The guard lives until the end of the function. A way is taken out of the trees
        // when a device of its is told to go, so that none was told.
        let strict = unsafe { self.path.namespaces(Rcu::new()) }
            .filter_map(Net::state)
            .any(Namespace::is_strict);

        self.asks_all.store(strict, Relaxed);
    }

    /// By this number it is looked for. Few others have it.
    fn hash(path: &Path) -> u64 {
        path.addrs().fold(0, |hash: u64, addr| {
            // An odd number whose bits look like any (2^64 divided by the golden ratio).
            (hash ^ addr as u64)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29)
        })
    }
}

/// Ways by a number, and among those with the same one by their addresses.
type Tree = RBTree<(u64, usize), Arc<Way>>;
type Node = RBTreeNodeReservation<(u64, usize), Arc<Way>>;

/// The first way of that number from that address on.
fn next(tree: &Tree, number: u64, from: usize) -> Option<Arc<Way>> {
    let cursor = tree.cursor_lower_bound(&(number, from))?;
    let (&(found, _), way) = cursor.current();

    (found == number).then(|| way.clone())
}

/// Puts a way into a tree by that number.
#[inline(never)]
fn put(tree: &mut Tree, number: u64, node: Node, way: &Arc<Way>) {
    tree.insert(node.into_node((number, Way::addr(way)), way.clone()));
}

/// Takes it out again.
#[inline(never)]
fn remove(tree: &mut Tree, number: u64, way: &Arc<Way>) {
    tree.remove(&(number, Way::addr(way)));
}

/// One for itself, and one for each of its devices and namespaces and the host's.
const NODES: usize = 1 + Path::DEVICES + Path::NETS + 1;

/// What stands in the trees for one way.
struct Nodes([Option<Node>; NODES]);

impl Nodes {
    #[inline(never)]
    fn new(way: &Way) -> Result<Self, AllocError> {
        let mut nodes = [const { None }; NODES];
        let wanted = way.places().count().saturating_add(1);

        for node in nodes.iter_mut().take(wanted) {
            let new = Node::new(GFP_ATOMIC | __GFP_NOWARN);
            *node = Some(new.map_err(|_| AllocError)?);
        }
        Ok(Self(nodes))
    }
}

/// All ways that pairs have. A way is in both trees for as long as it has a pair.
struct Ways {
    /// By [`Way::hash`].
    by_path: Tree,
    /// By the address of a device or a namespace.
    by_place: Tree,
}

impl Ways {
    fn new() -> Self {
        Self {
            by_path: Tree::new(),
            by_place: Tree::new(),
        }
    }

    #[inline(never)]
    fn find(&self, path: &Path) -> Option<Arc<Way>> {
        let hash = Way::hash(path);
        let mut from = 0;

        loop {
            let way = next(&self.by_path, hash, from)?;
            if way.path.is(path) {
                return Some(way);
            }
            from = Way::addr(&way).wrapping_add(1);
        }
    }

    #[inline(never)]
    fn insert(&mut self, way: &Arc<Way>, Nodes(nodes): Nodes) {
        let mut nodes = nodes.into_iter().flatten();

        if let Some(node) = nodes.next() {
            put(&mut self.by_path, Way::hash(&way.path), node, way);
        }
        for (place, node) in way.places().zip(nodes) {
            put(&mut self.by_place, place, node, way);
        }
        // SAFETY: Who has the trees has the lock, and it is in them now.
        unsafe { way.look() };
    }

    fn remove(&mut self, way: &Arc<Way>) {
        remove(&mut self.by_path, Way::hash(&way.path), way);
        for place in way.places() {
            remove(&mut self.by_place, place, way);
        }
    }
}

kernel::sync::global_lock! {
    // SAFETY: Initialised before a hook or a notifier can run.
    unsafe(uninit) static WAYS: SpinLock<Option<Ways>> = None;
}

kernel::sync::global_lock! {
    // SAFETY: As above, or a sysctl.
    unsafe(uninit) static SWITCHING: Mutex<()> = ();
}

/// Calls `f` while nobody else does, with the mutex held. May sleep.
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
        WAYS.init();
        SWITCHING.init();
    }
}

/// Calls `f` with the lock of the trees held.
fn with<R>(f: impl FnOnce(&mut Ways) -> R) -> R {
    // Locals go in the other order, so that the lock is given back with bottom halves off.
    let _off = BhOff::new();
    let mut ways = WAYS.lock();

    f(ways.get_or_insert_with(Ways::new))
}

/// What a pair that crosses has besides.
///
/// # Invariants
///
/// While `linked`, it is in the list of its way, which is in the trees then. The lock protects
/// that and the cells.
pub(super) struct Crossing {
    way: Arc<Way>,
    /// What [`Path::changes`] was when the devices were noted.
    since: u64,
    linked: Cell<bool>,
    /// The pair that owns this, once it is linked.
    pair: Cell<*const Pair>,
    prev: Cell<*const Crossing>,
    next: Cell<*const Crossing>,
}

// What it costs beside the pair, and once for all that have the same path.
const _: () = assert!(size_of::<Crossing>() <= 64 && size_of::<Way>() <= 256);

impl Crossing {
    /// In no list yet. Takes the lock.
    pub(super) fn new(path: Path) -> Result<KBox<Self>, AllocError> {
        let since = path.since();
        let way = match with(|ways| ways.find(&path)) {
            Some(way) => way,
            None => Arc::new(
                Way {
                    path,
                    asks_all: Atomic::new(false),
                    first: Cell::new(null_mut()),
                },
                GFP_ATOMIC | __GFP_NOWARN,
            )?,
        };

        KBox::new(
            Self {
                way,
                since,
                linked: Cell::new(false),
                pair: Cell::new(null_mut()),
                prev: Cell::new(null_mut()),
                next: Cell::new(null_mut()),
            },
            GFP_ATOMIC | __GFP_NOWARN,
        )
    }

    /// The devices.
    #[inline(always)]
    pub(super) fn path(&self) -> &Path {
        &self.way.path
    }

    /// Whether each question has to be asked before a move, because of its path.
    #[inline(always)]
    pub(super) fn asks_all(&self) -> bool {
        self.way.asks_all.load(Relaxed)
    }

    /// Puts it into the list, unless a device of its path has gone since it was noted, or there
    /// is no memory; and calls `meet`, which lets the sockets know of the pair. Where that says
    /// no it is taken out again. Returns whether it is in the list. Takes the lock.
    ///
    /// Who tells that a device goes changes the device's number, and then takes the lock to look
    /// for pairs. If that was before, the number tells so here, and no socket ever leads to the
    /// path. Else the pair is found there, and its sockets know of it by then, so that it can be
    /// parted, before the device waits for a grace period.
    ///
    /// # Safety
    ///
    /// `pair` owns this, was just made, and is not freed before `unlink` if this returns true.
    #[inline(never)]
    pub(super) unsafe fn link(&self, pair: *const Pair, meet: &mut dyn FnMut() -> bool) -> bool {
        let mut nodes = None;

        loop {
            let linked = with(|ways| {
                if self.way.path.changes() != self.since {
                    return Some(false);
                }
                let first = self.way.first.get();
                if first.is_null() {
                    ways.insert(&self.way, nodes.take()?);
                }
                self.pair.set(pair);
                self.next.set(first);
                // SAFETY: What is in the list is valid.
                if let Some(next) = unsafe { first.as_ref() } {
                    next.prev.set(self);
                }
                // INVARIANT: So it is.
                self.linked.set(true);
                self.way.first.set(self);
                let met = meet();
                if !met {
                    self.unlink_locked(ways);
                }
                Some(met)
            });
            if let Some(linked) = linked {
                return linked;
            }
            // The first of its way, or all others have gone since it was found.
            match Nodes::new(&self.way) {
                Ok(new) => nodes = Some(new),
                Err(_) => return false,
            }
        }
    }

    /// Takes it out of the list, if it is there. Takes the lock.
    pub(super) fn unlink(&self) {
        with(|ways| self.unlink_locked(ways));
    }

    fn unlink_locked(&self, ways: &mut Ways) {
        if !self.linked.replace(false) {
            return;
        }
        let (prev, next) = (self.prev.replace(null_mut()), self.next.replace(null_mut()));
        // SAFETY: By the type invariants its neighbours are in the list, and so are valid.
        unsafe {
            match prev.as_ref() {
                Some(prev) => prev.next.set(next),
                None => self.way.first.set(next),
            }
            if let Some(next) = next.as_ref() {
                next.prev.set(prev);
            }
        }
        if self.way.first.get().is_null() {
            ways.remove(&self.way);
        }
    }
}

/// The mode of `net` was set: all ways that pass it, or all there are if it is the host's, look at
/// it. One that comes into the trees meanwhile finds the mode by itself. May sleep. Takes the lock
/// for one way at a time.
pub(crate) fn mode_set(net: &Net) {
    // Ways up to this address have looked.
    let mut from = 0;

    while with(|ways| {
        let way = next(&ways.by_place, net.raw().addr() as u64, from)?;

        // SAFETY: The lock is held, and it is in the trees.
        unsafe { way.look() };
        from = Way::addr(&way).wrapping_add(1);
        Some(())
    })
    .is_some()
    {
        may_reschedule();
    }
}

/// Calls `part` for each pair that crosses, or for those whose path is another one after that
/// change. May sleep. Takes the lock for a few at a time, and calls `part` without it.
pub(crate) fn part_crossing(changed: Option<&Change>, part: impl Fn(&Member<'_>)) {
    // Ways of that device up to this address have been looked at.
    let mut from = 0;

    loop {
        let guard = rcu::read_lock();
        let mut chosen: *const Crossing = null_mut();
        let all = with(|ways| {
            let mut left = AT_ONCE;

            while left != 0 {
                left = left.wrapping_sub(1);
                let way = match changed {
                    None => ways.by_path.cursor_front().map(|at| at.current().1.clone()),
                    Some(change) => next(&ways.by_place, change.addr() as u64, from),
                };
                let Some(way) = way else {
                    return true;
                };
                if changed.is_some_and(|change| !way.path.is_changed(change)) {
                    from = Way::addr(&way).wrapping_add(1);
                    continue;
                }
                while left != 0 {
                    // SAFETY: What is in the list is valid for as long as the lock is held.
                    let Some(crossing) = (unsafe { way.first.get().as_ref() }) else {
                        break;
                    };
                    crossing.unlink_locked(ways);
                    // Nobody else uses the cell of what is not linked.
                    crossing.next.set(chosen);
                    chosen = crossing;
                    left = left.wrapping_sub(1);
                }
            }
            false
        });
        // SAFETY: What was in the list is freed a grace period after it was taken out, or later, and
        // RCU is held since before that.
        while let Some(crossing) = unsafe { chosen.as_ref() } {
            chosen = crossing.next.get();
            if let Some(pair) = NonNull::new(crossing.pair.get().cast_mut()) {
                // SAFETY: As above, and for as long as the guard lives.
                part(&Member::first(unsafe { pair.as_ref() }, unsafe {
                    Rcu::new()
                }));
            }
        }
        drop(guard);
        if all {
            return;
        }
        may_reschedule();
    }
}
