// SPDX-License-Identifier: GPL-2.0

//! The crossing pairs: pairs whose ends are in different namespaces, or whose segments pass other
//! devices than the loopback device. The pairs are listed by their paths, so that a pair can be
//! dissolved when a device of its path goes or the administrator switches crossing pairs off.
//!
//! Pairs with equal paths share one [`SharedPath`]. One tree orders the paths by their devices; a
//! new pair finds its path there. Another tree orders them by device and by namespace; the paths
//! that pass a device or a namespace are found there. So the cost of removing a device depends on
//! the pairs that pass the device, not on the number of all pairs. Functions that search or change
//! a tree are not inlined, since they are large and seldom called.
//!
//! # Locks
//!
//! One spinlock protects both trees and the lists of pairs. The spinlock is taken with bottom
//! halves off, and no other lock is taken inside it. Only forming and dissolving a crossing pair
//! and setting the mode of a namespace take the spinlock. [`unpair_crossing`], which dissolves many
//! pairs, looks at [`AT_ONCE`] paths and pairs at most before it releases the spinlock for others.
//! [`one_at_a_time`] takes a mutex, which is outermost.

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
    path::Path,
    Member,
    Pair, //
};
use crate::{
    net::{
        cond_resched,
        BhOff,
        Change,
        Net,
        Rcu, //
    },
    netns::Namespace, //
};

/// The largest number of pairs and paths that are looked at before the spinlock is released.
const AT_ONCE: usize = 32;

/// A path, and the list of the pairs that have the path.
struct SharedPath {
    path: Path,
    /// Whether everything has to be checked before a move, because a namespace that the path
    /// passes, or the host's namespace, is in strict mode. Written with the spinlock held.
    checks_all: Atomic<bool>,
    /// The first pair of the list, null if there is none. The spinlock protects this cell.
    first: Cell<*const Crossing>,
}

// SAFETY: `Path` is `Send`. The cell, and what the pointer in it leads to, are only used with the
// spinlock held, by any thread.
unsafe impl Send for SharedPath {}
// SAFETY: `Path` is `Sync`, and `checks_all` is atomic. The cell is only used with the spinlock
// held, so no two threads use it at a time.
unsafe impl Sync for SharedPath {}

impl SharedPath {
    fn addr(this: &Arc<Self>) -> usize {
        Arc::as_ptr(this).addr()
    }

    /// Returns the keys by which the path is found in [`SharedPaths::by_place`].
    fn places(&self) -> impl Iterator<Item = u64> + '_ {
        Iterator::chain(self.path.addrs(), self.path.net_addrs()).map(|addr| addr as u64)
    }

    /// Sets `checks_all` by the modes that the namespaces of the path are in now.
    ///
    /// # Safety
    ///
    /// The spinlock is held, and the path is in the trees.
    #[inline(never)]
    unsafe fn update(&self) {
        let _guard = rcu::read_lock();
        // SAFETY: `_guard` keeps the read-side critical section open until the end of the function.
        // When a device of the path goes, the notifier that reports that takes the path out of the
        // trees before the notifier returns, with the spinlock held. The spinlock is held here, and
        // the path is in the trees, so it was not forgotten.
        let strict = unsafe { self.path.namespaces(Rcu::new()) }
            .filter_map(Namespace::of)
            .any(Namespace::is_strict);

        self.checks_all.store(strict, Relaxed);
    }

    /// Returns the number by which `path` is searched. PointerSet other paths have an equal number.
    fn hash(path: &Path) -> u64 {
        path.addrs().fold(0, |hash: u64, addr| {
            // The factor is 2^64 divided by the golden ratio: an odd number whose bits look random.
            (hash ^ addr as u64)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29)
        })
    }
}

/// A tree of paths, ordered by a number, and by the addresses of the paths where the numbers are
/// equal.
type Tree = RBTree<(u64, usize), Arc<SharedPath>>;
type Node = RBTreeNodeReservation<(u64, usize), Arc<SharedPath>>;

/// Returns the first path with `number` in `tree` whose address is `from` or higher.
fn next(tree: &Tree, number: u64, from: usize) -> Option<Arc<SharedPath>> {
    let cursor = tree.cursor_lower_bound(&(number, from))?;
    let (&(found, _), shared) = cursor.current();

    (found == number).then(|| shared.clone())
}

/// Puts `shared` into `tree` by `number`.
#[inline(never)]
fn put(tree: &mut Tree, number: u64, node: Node, shared: &Arc<SharedPath>) {
    tree.insert(node.into_node((number, SharedPath::addr(shared)), shared.clone()));
}

/// Takes `shared`, which was put there by `number`, out of `tree`.
#[inline(never)]
fn remove(tree: &mut Tree, number: u64, shared: &Arc<SharedPath>) {
    tree.remove(&(number, SharedPath::addr(shared)));
}

/// The largest number of tree nodes of one path: one in [`SharedPaths::by_path`], and one in
/// [`SharedPaths::by_place`] for each device, for each namespace and for the host's namespace.
const NODES: usize = 1 + Path::DEVICES + Path::NETS + 1;

/// The tree nodes for one path, allocated before the spinlock is taken.
struct Nodes([Option<Node>; NODES]);

impl Nodes {
    #[inline(never)]
    fn new(shared: &SharedPath) -> Result<Self, AllocError> {
        let mut nodes = [const { None }; NODES];
        let wanted = shared.places().count().saturating_add(1);

        for node in nodes.iter_mut().take(wanted) {
            let new = Node::new(GFP_ATOMIC | __GFP_NOWARN);
            *node = Some(new.map_err(|_| AllocError)?);
        }
        Ok(Self(nodes))
    }
}

/// The paths of all crossing pairs. A path is in both trees for as long as the path has a pair.
struct SharedPaths {
    /// The paths by [`SharedPath::hash`].
    by_path: Tree,
    /// The paths by the address of each device and each namespace.
    by_place: Tree,
}

impl SharedPaths {
    fn new() -> Self {
        Self {
            by_path: Tree::new(),
            by_place: Tree::new(),
        }
    }

    #[inline(never)]
    fn find(&self, path: &Path) -> Option<Arc<SharedPath>> {
        let hash = SharedPath::hash(path);
        let mut from = 0;

        loop {
            let shared = next(&self.by_path, hash, from)?;
            if shared.path.has_equal_devices(path) {
                return Some(shared);
            }
            from = SharedPath::addr(&shared).wrapping_add(1);
        }
    }

    #[inline(never)]
    fn insert(&mut self, shared: &Arc<SharedPath>, Nodes(nodes): Nodes) {
        let mut nodes = nodes.into_iter().flatten();

        if let Some(node) = nodes.next() {
            put(
                &mut self.by_path,
                SharedPath::hash(&shared.path),
                node,
                shared,
            );
        }
        for (place, node) in shared.places().zip(nodes) {
            put(&mut self.by_place, place, node, shared);
        }
        // SAFETY: A reference to the trees exists only while the spinlock is held (see `with`), and
        // `shared` was put into both trees just now.
        unsafe { shared.update() };
    }

    fn remove(&mut self, shared: &Arc<SharedPath>) {
        remove(&mut self.by_path, SharedPath::hash(&shared.path), shared);
        for place in shared.places() {
            remove(&mut self.by_place, place, shared);
        }
    }
}

kernel::sync::global_lock! {
    // SAFETY: `init` initialises the lock before a hook, a notifier or a sysctl handler can run.
    unsafe(uninit) static SHARED_PATHS: SpinLock<Option<SharedPaths>> = None;
}

kernel::sync::global_lock! {
    // SAFETY: `init` initialises the lock before a hook, a notifier or a sysctl handler can run.
    unsafe(uninit) static SWITCHING: Mutex<()> = ();
}

/// Calls `f` with the mutex held, so that only one such call runs at a time. May sleep.
pub(crate) fn one_at_a_time<R>(f: impl FnOnce() -> R) -> R {
    let _guard = SWITCHING.lock();

    f()
}

/// Initialises the spinlock and the mutex.
///
/// # Safety
///
/// This function is called once, before any other function of this file.
pub(crate) unsafe fn init() {
    // SAFETY: By the safety requirements of this function each lock is initialised once, before its
    // first use.
    unsafe {
        SHARED_PATHS.init();
        SWITCHING.init();
    }
}

/// Calls `f` with the spinlock of the trees held.
fn with<R>(f: impl FnOnce(&mut SharedPaths) -> R) -> R {
    // Locals are dropped in reverse order, so the spinlock is released while bottom halves are
    // still off.
    let _off = BhOff::new();
    let mut paths = SHARED_PATHS.lock();

    f(paths.get_or_insert_with(SharedPaths::new))
}

/// What a crossing pair has in addition to an ordinary pair: its path, and its place in the list of
/// the pairs with that path.
///
/// # Invariants
///
/// While `linked` is true, this value is in the list of the pairs with the path `shared`, and
/// `shared` is in the trees. The spinlock protects this invariant and the cells.
pub(crate) struct Crossing {
    shared: Arc<SharedPath>,
    /// The value of [`Path::since`] of this pair's own path.
    since: u64,
    linked: Cell<bool>,
    /// The pair that owns this value, set when this value is linked.
    pair: Cell<*const Pair>,
    prev: Cell<*const Crossing>,
    next: Cell<*const Crossing>,
}

// The memory that each crossing pair takes beside the pair itself, and the memory that all pairs
// with equal paths take once.
const _: () = assert!(size_of::<Crossing>() <= 64 && size_of::<SharedPath>() <= 256);

impl Crossing {
    /// Returns a new value for a pair with `path`, which is in no list yet. Takes the spinlock.
    pub(crate) fn new(path: Path) -> Result<KBox<Self>, AllocError> {
        let since = path.since();
        let shared = match with(|paths| paths.find(&path)) {
            Some(shared) => shared,
            None => Arc::new(
                SharedPath {
                    path,
                    checks_all: Atomic::new(false),
                    first: Cell::new(null_mut()),
                },
                GFP_ATOMIC | __GFP_NOWARN,
            )?,
        };

        KBox::new(
            Self {
                shared,
                since,
                linked: Cell::new(false),
                pair: Cell::new(null_mut()),
                prev: Cell::new(null_mut()),
                next: Cell::new(null_mut()),
            },
            GFP_ATOMIC | __GFP_NOWARN,
        )
    }

    /// Returns the path of the pair.
    #[inline(always)]
    pub(crate) fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Returns whether everything has to be checked before a move, because of the path.
    #[inline(always)]
    pub(crate) fn checks_all(&self) -> bool {
        self.shared.checks_all.load(Relaxed)
    }

    /// Puts this value into the list of its path, and calls `publish`, which makes the sockets
    /// point to the pair. If `publish` returns false, this value is taken out of the list again.
    /// Nothing is put there if a device of the path has changed since the device was noted, or if
    /// there is no memory. Returns whether this value is in the list. Takes the spinlock.
    ///
    /// The race with the notifier that reports that a device goes: the notifier changes the count
    /// of the device, and then takes the spinlock to search the pairs. If the notifier has taken
    /// the spinlock first, the count differs here, and no socket ever points to the pair. Otherwise
    /// the notifier finds the pair, whose sockets point to it by then, and can dissolve the pair
    /// before the removal of the device waits for a grace period.
    ///
    /// # Safety
    ///
    /// `pair` owns this value and was just made. If this function returns true, `pair` is not freed
    /// before [`Crossing::unlink`] was called.
    #[inline(never)]
    pub(crate) unsafe fn link(&self, pair: *const Pair, publish: &mut dyn FnMut() -> bool) -> bool {
        let mut nodes = None;

        loop {
            let linked = with(|paths| {
                if self.shared.path.changes() != self.since {
                    return Some(false);
                }
                let first = self.shared.first.get();
                if first.is_null() {
                    paths.insert(&self.shared, nodes.take()?);
                }
                self.pair.set(pair);
                self.next.set(first);
                // SAFETY: `first` is null or in the list. A pair is taken out of the list, with the
                // spinlock held, before it is freed, so what is in the list is valid now.
                if let Some(next) = unsafe { first.as_ref() } {
                    next.prev.set(self);
                }
                // INVARIANT: The spinlock is held, and `self` becomes the head of the list of
                // `shared` below. `shared` is in the trees: it had a pair, or was inserted above.
                self.linked.set(true);
                self.shared.first.set(self);
                let published = publish();
                if !published {
                    self.unlink_locked(paths);
                }
                Some(published)
            });
            if let Some(linked) = linked {
                return linked;
            }
            // The path has no other pair: the path is new, or all its pairs were dissolved after
            // `new` had found it. So the path needs tree nodes.
            match Nodes::new(&self.shared) {
                Ok(new) => nodes = Some(new),
                Err(_) => return false,
            }
        }
    }

    /// Takes this value out of the list, if this value is there. Takes the spinlock.
    pub(crate) fn unlink(&self) {
        with(|paths| self.unlink_locked(paths));
    }

    fn unlink_locked(&self, paths: &mut SharedPaths) {
        if !self.linked.replace(false) {
            return;
        }
        let (prev, next) = (self.prev.replace(null_mut()), self.next.replace(null_mut()));
        // SAFETY: By the type invariants this value was in the list, so its neighbours are there. A
        // pair is taken out of the list, with the spinlock held, before it is freed, so the
        // neighbours are valid.
        unsafe {
            match prev.as_ref() {
                Some(prev) => prev.next.set(next),
                None => self.shared.first.set(next),
            }
            if let Some(next) = next.as_ref() {
                next.prev.set(prev);
            }
        }
        if self.shared.first.get().is_null() {
            paths.remove(&self.shared);
        }
    }
}

/// Makes all paths that pass `net` follow the mode of `net`, which was just set; if `net` is the
/// host's namespace, these are all paths. A path that is inserted meanwhile reads the mode itself.
/// May sleep. Takes the spinlock for one path at a time.
pub(crate) fn update_modes(net: &Net) {
    // Paths below this address have read the mode.
    let mut from = 0;

    while with(|paths| {
        let shared = next(&paths.by_place, net.raw().addr() as u64, from)?;

        // SAFETY: `with` holds the spinlock, and `shared` was just found in a tree; a path is in both
        // trees or in none.
        unsafe { shared.update() };
        from = SharedPath::addr(&shared).wrapping_add(1);
        Some(())
    })
    .is_some()
    {
        cond_resched();
    }
}

/// Takes each crossing pair out of its list, and calls `part` for the pair. With `changed`, only
/// pairs whose path is another one after that change are taken. May sleep. Takes the spinlock for
/// a few pairs at a time, and calls `part` without the spinlock.
pub(crate) fn unpair_crossing(changed: Option<&Change>, part: impl Fn(&Member<'_>)) {
    // Paths of the device below this address have been looked at.
    let mut from = 0;

    loop {
        let guard = rcu::read_lock();
        let mut chosen: *const Crossing = null_mut();
        let all = with(|paths| {
            let mut left = AT_ONCE;

            while left != 0 {
                left = left.wrapping_sub(1);
                let shared = match changed {
                    None => paths
                        .by_path
                        .cursor_front()
                        .map(|at| at.current().1.clone()),
                    Some(change) => next(&paths.by_place, change.device().addr() as u64, from),
                };
                let Some(shared) = shared else {
                    return true;
                };
                if changed.is_some_and(|change| !shared.path.is_changed(change)) {
                    from = SharedPath::addr(&shared).wrapping_add(1);
                    continue;
                }
                while left != 0 {
                    // SAFETY: A pair is taken out of the list, with the spinlock held, before it is
                    // freed. So what is in the list is valid for as long as the spinlock is held.
                    let Some(crossing) = (unsafe { shared.first.get().as_ref() }) else {
                        break;
                    };
                    crossing.unlink_locked(paths);
                    // `crossing` is not linked any more, so nobody else uses its cell `next`.
                    crossing.next.set(chosen);
                    chosen = crossing;
                    left = left.wrapping_sub(1);
                }
            }
            false
        });
        // SAFETY: A pair, and the crossing that the pair owns, are freed a grace period after they
        // were taken out of the list, or later. `guard` has kept the read-side critical section
        // open since before that.
        while let Some(crossing) = unsafe { chosen.as_ref() } {
            chosen = crossing.next.get();
            if let Some(pair) = NonNull::new(crossing.pair.get().cast_mut()) {
                // SAFETY: The pair is freed together with `crossing`, a grace period after it was
                // taken out of the list, or later. `guard` keeps the read-side critical section
                // open until after this call, for the pair and for the `Rcu`.
                part(&Member::of_side_a(unsafe { pair.as_ref() }, unsafe {
                    Rcu::new()
                }));
            }
        }
        drop(guard);
        if all {
            return;
        }
        cond_resched();
    }
}
