// SPDX-License-Identifier: GPL-2.0

//! The path of a connection: the devices that the segments of the connection pass.
//!
//! The functions here take no lock.

use core::ptr::{
    null_mut,
    NonNull, //
};

use kernel::{
    bindings,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

use crate::net::{
    Change,
    Device,
    Net,
    Rcu, //
};

/// A set of at most `N` pointers.
///
/// # Invariants
///
/// `len`, the number of pointers, is at most `N`.
struct PointerSet<T, const N: usize> {
    all: [*mut T; N],
    len: usize,
}

impl<T, const N: usize> PointerSet<T, N> {
    const fn new() -> Self {
        // INVARIANT: `len` is 0, which is at most `N`.
        Self {
            all: [null_mut(); N],
            len: 0,
        }
    }

    #[inline(always)]
    fn known(&self) -> &[*mut T] {
        // SAFETY: By the type invariants `len` is at most `N`, the length of the array.
        unsafe { self.all.get_unchecked(..self.len) }
    }

    fn has(&self, one: *mut T) -> bool {
        self.known().contains(&one)
    }

    /// Adds `one`, unless the set is full. Returns whether the set has `one` now.
    fn add(&mut self, one: *mut T) -> bool {
        if self.has(one) {
            return true;
        }
        let Some(slot) = self.all.get_mut(self.len) else {
            return false;
        };
        *slot = one;
        // INVARIANT: The array has an element with the index `len`, so `len + 1` is at most `N`.
        self.len = self.len.wrapping_add(1);
        true
    }

    fn into_known(self) -> impl Iterator<Item = *mut T> {
        self.all.into_iter().take(self.len)
    }
}

/// How often the devices that share a place in this table have gone or got a master.
///
/// If a path has noted a device, and the number is another one later, the device may have gone. So
/// no proposal has to be searched when a device goes, and a device that is on no path goes at no
/// cost.
///
/// When one of the devices that share a place goes, proposals whose paths have another of these
/// devices are refused as well. This concerns only the time between a SYN and the ACK of its
/// SYN-ACK. It is rare even on a host that starts and stops many containers, because there are many
/// places.
static CHANGES: [Atomic<u64>; PLACES] = [const { Atomic::new(0) }; PLACES];

/// The table takes 64 KiB.
const PLACES: usize = 8192;

fn changes(dev: *mut bindings::net_device) -> &'static Atomic<u64> {
    // A device takes a few KiB, on pages of memory, so its address is folded.
    &CHANGES[(dev.addr() >> 5 ^ dev.addr() >> 12 ^ dev.addr() >> 22) % PLACES]
}

/// Counts `change`, by which a device goes or gets a master, for [`Path::changes`].
pub(crate) fn device_changes(change: &Change) {
    changes(change.device()).fetch_add(1, Relaxed);
}

/// The devices that the segments of a connection pass, in either direction.
///
/// A path holds no reference to its devices. While a proposal has the path, the pointers are only
/// compared. A pair gets the path only if no device has gone since the device was noted
/// ([`Path::changes`]). When a device goes, a notifier
/// ([`DevicesRegistration`](crate::net::DevicesRegistration)) reports that, and whoever keeps the
/// path must forget the path before the notifier returns.
///
/// # Invariants
///
/// Once a pair has the path, the devices and their namespaces are valid for as long as no notifier
/// has reported that they go.
pub(crate) struct Path {
    devices: PointerSet<bindings::net_device, { Path::DEVICES }>,
    /// The namespaces of the devices.
    nets: PointerSet<bindings::net, { Path::NETS }>,
    /// The devices through which segments have reached a socket.
    received: PointerSet<bindings::net_device, 4>,
    /// The sum of the counts of changes, each read when its device was noted.
    since: u64,
    /// Whether a device could not be added, so that the path is incomplete.
    incomplete: bool,
}

// SAFETY: Any thread may compare the pointers, or dereference them while the type invariants
// guarantee that they are valid.
unsafe impl Send for Path {}
// SAFETY: A shared reference only lets a thread compare the pointers, or dereference them while the
// type invariants guarantee that they are valid; nothing is changed through it.
unsafe impl Sync for Path {}

impl Path {
    /// The largest number of devices.
    pub(crate) const DEVICES: usize = 8;
    /// The largest number of namespaces.
    pub(crate) const NETS: usize = 4 + 1;

    /// Returns a path without devices.
    pub(crate) fn new() -> Self {
        // INVARIANT: The path has no device and no namespace, so there is none to be valid.
        Self {
            devices: PointerSet::new(),
            nets: PointerSet::new(),
            received: PointerSet::new(),
            since: 0,
            incomplete: false,
        }
    }

    /// Adds `device`, which a segment of the connection passes.
    pub(crate) fn add(&mut self, device: Device<'_>) {
        let dev = device.raw();
        if self.devices.has(dev) {
            return;
        }
        // The kernel reports that a device goes one grace period after the device ceased to be
        // registered. This is a read-side critical section: if the device is still registered and
        // goes later, the count changes after it is read here.
        self.since = self.since.wrapping_add(changes(dev).load(Relaxed));
        let added = device.is_registered()
            && device.needs_no_queue()
            && self.nets.add(device.namespace().raw())
            && self.devices.add(dev);
        self.incomplete |= !added;
    }

    /// Returns whether `device` is on the path.
    pub(crate) fn passes(&self, device: Device<'_>) -> bool {
        self.devices.has(device.raw())
    }

    /// Returns zero if netfilter has no hook on any device of the path.
    ///
    /// # Safety
    ///
    /// The path was not forgotten before the read-side critical section of `rcu` began.
    #[cold]
    #[inline(never)]
    unsafe fn hooks(&self, rcu: Rcu<'_>) -> usize {
        // SAFETY: By the safety requirements of this function, which are those of `each`.
        unsafe { self.each(rcu) }.fold(0, |sum, device| sum | device.hooks())
    }

    /// Notes that a segment has reached a socket through `device`. In the end `device` has to be on
    /// the path ([`Path::is_whole`]): otherwise somebody who receives segments would be missed.
    pub(crate) fn note_receiving_device(&mut self, device: Device<'_>) {
        if device.is_loopback() {
            // No segment is forwarded to the loopback device, so the `hop` hook does not add it.
            self.add(device);
        }
        self.incomplete |= !self.received.add(device.raw());
    }

    /// Returns whether the change `by` makes the path another one, or ends it: a device of the path
    /// goes, or gets a master that is not on the path.
    pub(crate) fn is_changed(&self, by: &Change) -> bool {
        self.devices.has(by.device()) && !self.devices.has(by.upper())
    }

    /// Returns whether all devices of the path are known.
    pub(crate) fn is_whole(&self) -> bool {
        !self.incomplete
            && self.devices.len != 0
            && self
                .received
                .known()
                .iter()
                .all(|&dev| self.devices.has(dev))
    }

    /// Returns whether `other` has equal devices and namespaces, met in equal order.
    pub(crate) fn has_equal_devices(&self, other: &Self) -> bool {
        self.devices.known() == other.devices.known() && self.nets.known() == other.nets.known()
    }

    #[inline(always)]
    fn noted(&self) -> impl Iterator<Item = *mut bindings::net_device> + '_ {
        self.devices.known().iter().copied()
    }

    /// Iterates over the devices of the path.
    ///
    /// # Safety
    ///
    /// The path was not forgotten before the read-side critical section of `rcu` began.
    #[inline(always)]
    unsafe fn each<'a>(&'a self, rcu: Rcu<'a>) -> impl Iterator<Item = Device<'a>> {
        self.noted().map(move |dev| {
            // SAFETY: By the safety requirements of this function the path was not forgotten when
            // the section of `rcu` began, so the device was valid then by the type invariants.
            // Whoever takes a device away has the path forgotten, and then waits for a grace
            // period, so the device is valid during the section. A device that was added is not
            // null.
            unsafe { Device::new(NonNull::new_unchecked(dev), rcu) }
        })
    }

    /// Iterates over the namespaces of the devices.
    ///
    /// # Safety
    ///
    /// The path was not forgotten before the read-side critical section of `_rcu` began.
    #[inline(always)]
    unsafe fn each_net<'a>(&'a self, _rcu: Rcu<'a>) -> impl Iterator<Item = &'a Net> {
        self.nets.known().iter().map(|&net| {
            // SAFETY: By the safety requirements of this function the path was not forgotten when
            // the section of `_rcu` began, so the namespace was valid then by the type invariants.
            // Whoever takes a device away from the namespace has the path forgotten, and then waits
            // for a grace period, so the namespace is valid during the section.
            unsafe { Net::from_raw(net) }
        })
    }

    /// Returns the addresses of the devices, which are only to be compared.
    pub(crate) fn addrs(&self) -> impl Iterator<Item = usize> + '_ {
        self.noted().map(|dev| dev.addr())
    }

    /// Returns the addresses of the namespaces that the path passes and of the host's namespace,
    /// which are only to be compared.
    pub(crate) fn net_addrs(&self) -> impl Iterator<Item = usize> + '_ {
        self.all_nets().into_known().map(|net| net.addr())
    }

    /// Returns the host's namespace, which governs every path, and then the other namespaces of the
    /// devices.
    #[inline(never)]
    fn all_nets(&self) -> PointerSet<bindings::net, { 1 + Path::NETS }> {
        let mut all = PointerSet::new();

        all.add(Net::host().raw());
        for &net in self.nets.known() {
            all.add(net);
        }
        all
    }

    /// Iterates over the host's namespace and the other namespaces that the path passes.
    ///
    /// # Safety
    ///
    /// The path was not forgotten before the read-side critical section of `_rcu` began.
    pub(crate) unsafe fn namespaces<'a>(
        &'a self,
        _rcu: Rcu<'a>,
    ) -> impl Iterator<Item = &'a Net> + 'a {
        self.all_nets().into_known().map(|net| {
            // SAFETY: The host's namespace never goes. The other namespaces were valid when the
            // section of `_rcu` began, by the safety requirements of this function and the type
            // invariants. Whoever takes a device away from a namespace has the path forgotten, and
            // then waits for a grace period, so the namespaces are valid during the section.
            unsafe { Net::from_raw(net) }
        })
    }

    /// Returns how often the devices of the path, and the devices that share their places in the
    /// table of counts, have changed so far.
    pub(crate) fn changes(&self) -> u64 {
        self.noted().fold(0, |sum: u64, dev| {
            sum.wrapping_add(changes(dev).load(Relaxed))
        })
    }

    /// Returns the sum of the counts of changes, each read when its device was noted.
    pub(crate) fn since(&self) -> u64 {
        self.since
    }

    /// Returns zero if no packet socket captures packets on the path.
    ///
    /// # Safety
    ///
    /// The path was not forgotten before the read-side critical section of `rcu` began.
    pub(crate) unsafe fn taps(&self, rcu: Rcu<'_>) -> usize {
        // SAFETY: By the safety requirements of this function, which are those of `each` and
        // `each_net`.
        unsafe {
            let of_all = self
                .each_net(rcu)
                .fold(0, |sum, net| sum | net.taps_of_all());

            self.each(rcu).fold(of_all, |sum, dev| sum | dev.own_taps())
        }
    }

    /// Returns zero if no queueing discipline, classifier or XDP program governs what passes the
    /// devices of the path. Whether the devices are up is not checked here: the wire shows that
    /// when the pair is revalidated.
    ///
    /// # Safety
    ///
    /// The path was not forgotten before the read-side critical section of `rcu` began.
    pub(crate) unsafe fn governors(&self, rcu: Rcu<'_>) -> usize {
        // SAFETY: By the safety requirements of this function, which are those of `each`.
        unsafe {
            self.each(rcu).fold(0, |sum, device| {
                sum | device.programs() | device.driver_programs() | device.queues()
            })
        }
    }

    /// Returns whether netfilter has a hook on a device of the path, or for any packet of a
    /// namespace that the path passes.
    ///
    /// # Safety
    ///
    /// The path was not forgotten before the read-side critical section of `rcu` began.
    pub(crate) unsafe fn is_filtered(&self, rcu: Rcu<'_>) -> bool {
        // SAFETY: By the safety requirements of this function, which are those of `each_net` and
        // `hooks`.
        unsafe { self.each_net(rcu).any(|net| net.filters(rcu)) || self.hooks(rcu) != 0 }
    }

    /// Returns whether [`Path::taps`] or [`Path::governors`] is not zero.
    ///
    /// # Safety
    ///
    /// The path was not forgotten before the read-side critical section of `rcu` began.
    #[inline(always)]
    pub(crate) unsafe fn is_watched(&self, rcu: Rcu<'_>) -> bool {
        let mut sum = 0;

        // SAFETY: By the safety requirements of this function, which are those of `each` and
        // `each_net`.
        unsafe {
            // Each namespace gets a branch: the compiler would unroll a sum, which costs more for
            // so few namespaces.
            if self.each_net(rcu).any(|net| net.taps_of_all() != 0) {
                return true;
            }
            for dev in self.each(rcu) {
                sum |= dev.watchers() | dev.queues();
            }
        }
        sum != 0
    }
}
