// SPDX-License-Identifier: GPL-2.0

//! Network devices: who watches or governs what passes them, those that a
//! connection passes, and how that changes.
//!
//! C header: [`include/linux/netdevice.h`](srctree/include/linux/netdevice.h)

use core::{
    marker::PhantomData,
    mem::offset_of,
    ptr::{
        addr_of,
        null_mut,
        NonNull, //
    },
};

use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

use super::{
    namespace::{
        filters,
        Net, //
    },
    sock::Rcu, //
};

/// A network device (`struct net_device`).
///
/// # Invariants
///
/// The device is valid for `'a`, an RCU read-side critical section.
#[derive(Clone, Copy)]
pub(crate) struct Device<'a>(NonNull<bindings::net_device>, PhantomData<&'a ()>);

impl<'a> Device<'a> {
    /// # Safety
    ///
    /// `dev` is valid, and freed no sooner than a grace period after `_rcu`'s critical
    /// section began.
    pub(super) unsafe fn new(dev: NonNull<bindings::net_device>, _rcu: Rcu<'a>) -> Self {
        // INVARIANT: By the function's safety requirements.
        Self(dev, PhantomData)
    }

    /// Whether this is the same device.
    pub(crate) fn is(self, other: Device<'_>) -> bool {
        self.0 == other.0
    }

    /// A number by which it is known for as long as it is there, and which is not 0.
    pub(crate) fn id(self) -> usize {
        self.0.addr().get()
    }

    fn is_loopback(self) -> bool {
        // SAFETY: By the type invariants it is valid, and so is its namespace.
        unsafe { addr_of!((*self.net()).loopback_dev).read_volatile() == self.0.as_ptr() }
    }

    /// Whether it has that private flag.
    fn is_a(self, flag: c_ulong) -> bool {
        // SAFETY: By the type invariants it is valid.
        let flags = unsafe {
            Flags::priv_flags_raw(addr_of!(
                (*self.0.as_ptr()).__bindgen_anon_1.__bindgen_anon_1
            ))
        };

        flags & flag != 0
    }

    /// The namespace that it is in.
    pub(crate) fn namespace(self) -> &'a Net {
        // SAFETY: By the type invariants it is valid, and a namespace goes after its devices.
        unsafe { Net::from_raw(self.net()) }
    }

    fn net(self) -> *mut bindings::net {
        // SAFETY: By the type invariants.
        unsafe { addr_of!((*self.0.as_ptr()).nd_net.net).read_volatile() }
    }

    /// Zero if nobody captures packets here, or on all devices of its namespace.
    #[inline(always)]
    pub(crate) fn taps(self) -> usize {
        // SAFETY: A device's namespace is valid.
        self.own_taps() | unsafe { taps_of_all(self.net()) }
    }

    /// Zero if nobody captures packets here.
    #[inline(always)]
    fn own_taps(self) -> usize {
        let dev = self.0.as_ptr();
        // SAFETY: By the type invariants the device is valid.
        unsafe {
            list_entries(addr_of!((*dev).ptype_all)) | list_entries(addr_of!((*dev).ptype_specific))
        }
    }

    /// Zero if no queueing discipline, classifier or XDP program has a say, and the
    /// device is up.
    #[inline(always)]
    pub(crate) fn governors(self) -> usize {
        // SAFETY: By the type invariants the device is valid, and RCU is held.
        self.programs() | unsafe { queue(self.0.as_ptr()) }
    }

    /// Zero if no classifier has a say, and no XDP program that runs in the stack.
    #[inline(always)]
    fn programs(self) -> usize {
        let dev = self.0.as_ptr();
        // SAFETY: By the type invariants the device is valid; of the programs only whether there
        // are any is of interest.
        unsafe {
            #[cfg(CONFIG_NET_XGRESS)]
            let classifiers = addr_of!((*dev).tcx_egress).read_volatile().addr()
                | addr_of!((*dev).tcx_ingress).read_volatile().addr();
            #[cfg(not(CONFIG_NET_XGRESS))]
            let classifiers = 0;
            classifiers | addr_of!((*dev).xdp_prog).read_volatile().addr()
        }
    }

    /// Zero if no XDP program runs in the driver, be it by a link of BPF or not.
    #[inline(always)]
    fn driver_programs(self) -> usize {
        // SAFETY: As above.
        unsafe {
            let states = addr_of!((*self.0.as_ptr()).xdp_state);

            addr_of!((*states)[DRV].prog).read_volatile().addr()
                | addr_of!((*states)[DRV].link).read_volatile().addr()
        }
    }

    /// Zero if nobody has put a queueing discipline where there is none by itself.
    #[inline(always)]
    fn queues(self) -> usize {
        // SAFETY: By the type invariants the device is valid. It always has a discipline at its
        // root, that is freed a grace period after it was replaced; one that an administrator has
        // put there has a handle.
        unsafe {
            let root = addr_of!((*self.0.as_ptr()).qdisc).read_volatile();

            (*root).handle as usize
        }
    }

    /// Zero if netfilter has no hook on the device itself, for what comes in or leaves.
    pub(crate) fn hooks(self) -> usize {
        // SAFETY: By the type invariants the device is valid; only whether there are hooks is of
        // interest.
        unsafe {
            #[cfg(CONFIG_NETFILTER_INGRESS)]
            let ingress = addr_of!((*self.0.as_ptr()).nf_hooks_ingress)
                .read_volatile()
                .addr();
            #[cfg(not(CONFIG_NETFILTER_INGRESS))]
            let ingress = 0;
            #[cfg(CONFIG_NETFILTER_EGRESS)]
            let egress = addr_of!((*self.0.as_ptr()).nf_hooks_egress)
                .read_volatile()
                .addr();
            #[cfg(not(CONFIG_NETFILTER_EGRESS))]
            let egress = 0;
            ingress | egress
        }
    }

    /// Zero if [`Device::own_taps`], [`Device::programs`] and [`Device::driver_programs`]
    /// all are.
    #[inline(always)]
    fn watchers(self) -> usize {
        self.own_taps() | self.programs() | self.driver_programs()
    }
}

use bindings::net_device__bindgen_ty_1__bindgen_ty_1 as Flags;

const NO_QUEUE: c_ulong = bindings::netdev_priv_flags_IFF_NO_QUEUE as c_ulong;

const DRV: usize = bindings::bpf_xdp_mode_XDP_MODE_DRV as usize;

/// Zero if nobody captures packets on all devices.
///
/// # Safety
///
/// `net` is a valid namespace.
#[inline(always)]
unsafe fn taps_of_all(net: *const bindings::net) -> usize {
    // SAFETY: By the function's safety requirements.
    let (all, specific) = unsafe {
        (
            addr_of!((*net).ptype_all.next).read_volatile(),
            addr_of!((*net).ptype_specific.next).read_volatile(),
        )
    };
    // Each points to its own list, or to the place of a list in a `packet_type`. One after the
    // other, as the lists are here, are only the former: handlers lie further apart.
    all.addr().wrapping_add(size_of::<bindings::list_head>()) ^ specific.addr()
}

const _: () = assert!(
    offset_of!(bindings::net, ptype_specific)
        == offset_of!(bindings::net, ptype_all) + size_of::<bindings::list_head>()
        && size_of::<bindings::packet_type>() > size_of::<bindings::list_head>()
);

/// Zero if what leaves through a device need not queue, and the device is up.
///
/// # Safety
///
/// `dev` is a valid device, in an RCU read-side critical section.
#[inline(always)]
unsafe fn queue(dev: *const bindings::net_device) -> usize {
    // SAFETY: By the function's safety requirements. A device has one transmit queue at least,
    // which always has a discipline, that is freed a grace period after it was replaced; `enqueue`
    // is empty where there is no queue.
    unsafe {
        let qdisc = addr_of!((*(*dev)._tx).qdisc).read_volatile();
        (*qdisc).enqueue.map_or(0, |enqueue| enqueue as usize)
    }
}

/// Zero if the list is empty. That is told by one pointer.
///
/// # Safety
///
/// `head` is an initialised list head.
#[inline(always)]
unsafe fn list_entries(head: *const bindings::list_head) -> usize {
    // SAFETY: By the function's safety requirements.
    unsafe { addr_of!((*head).next).read_volatile() }.addr() ^ head.addr()
}

/// A few different pointers.
///
/// # Invariants
///
/// `len` is `N` at most.
struct Few<T, const N: usize> {
    all: [*mut T; N],
    len: usize,
}

impl<T, const N: usize> Few<T, N> {
    const fn new() -> Self {
        // INVARIANT: It is 0.
        Self {
            all: [null_mut(); N],
            len: 0,
        }
    }

    #[inline(always)]
    fn known(&self) -> &[*mut T] {
        // SAFETY: By the type invariants there are `len` places.
        unsafe { self.all.get_unchecked(..self.len) }
    }

    fn has(&self, one: *mut T) -> bool {
        self.known().contains(&one)
    }

    /// Returns whether it has `one` now.
    fn add(&mut self, one: *mut T) -> bool {
        if self.has(one) {
            return true;
        }
        let Some(slot) = self.all.get_mut(self.len) else {
            return false;
        };
        *slot = one;
        // INVARIANT: There is a place with the number `len`.
        self.len = self.len.wrapping_add(1);
        true
    }

    fn into_known(self) -> impl Iterator<Item = *mut T> {
        self.all.into_iter().take(self.len)
    }
}

/// How often a device with that place has gone or got a master: who has noted a device, and
/// finds another number later, knows that it may not be there any more. Nobody has to be
/// looked for who has noted it, so that a device which is on no path goes at no cost.
///
/// Several devices share a place. When one of them goes the others are doubted, for the
/// moment between a SYN and the ACK of its answer.
static CHANGES: [Atomic<u64>; PLACES] = [const { Atomic::new(0) }; PLACES];

const PLACES: usize = 1024;

fn changes(dev: *mut bindings::net_device) -> &'static Atomic<u64> {
    // Devices are a few KiB each, on pages.
    &CHANGES[(dev.addr() >> 5 ^ dev.addr() >> 12 ^ dev.addr() >> 22) % PLACES]
}

/// The devices that a connection's segments pass, either way.
///
/// It holds no reference to any. Until a pair has it the pointers are compared only. A pair
/// gets it if no device has gone since ([`Path::changes`]), and who keeps it is told when
/// one goes ([`Registration`]), and then has to forget the path before that returns.
///
/// # Invariants
///
/// Once a pair has it, the devices and their namespaces are valid for as long as their going
/// was not told.
pub(crate) struct Path {
    devices: Few<bindings::net_device, { Path::DEVICES }>,
    /// The namespaces in which these are.
    nets: Few<bindings::net, { Path::NETS }>,
    /// By these its segments have come to a socket.
    received: Few<bindings::net_device, 4>,
    /// What [`Path::changes`] was when each device was noted.
    since: u64,
    /// There were more.
    broken: bool,
}

// SAFETY: The pointers are compared, or used as the type invariants have it, by any thread.
unsafe impl Send for Path {}
// SAFETY: As above.
unsafe impl Sync for Path {}

impl Path {
    /// So many it has at most.
    pub(super) const DEVICES: usize = 8;
    /// So many namespaces.
    pub(super) const NETS: usize = 4 + 1;

    /// No device yet.
    pub(crate) fn new() -> Self {
        // INVARIANT: There is none.
        Self {
            devices: Few::new(),
            nets: Few::new(),
            received: Few::new(),
            since: 0,
            broken: false,
        }
    }

    /// It passes this device.
    pub(crate) fn add(&mut self, device: Device<'_>) {
        let dev = device.0.as_ptr();
        if self.devices.has(dev) {
            return;
        }
        // SAFETY: By the type invariants of `Device` it is valid.
        let state = unsafe { addr_of!((*dev).reg_state).read_volatile() };
        // Its going is told a grace period after it is not registered any more, and RCU is held: so
        // if it is, and it goes, the number is another one from then on.
        self.since = self.since.wrapping_add(changes(dev).load(Relaxed));
        let added = state == bindings::netdev_reg_state_NETREG_REGISTERED as u8
            && device.is_a(NO_QUEUE)
            && self.nets.add(device.net())
            && self.devices.add(dev);
        self.broken |= !added;
    }

    /// Whether it passes this device.
    pub(crate) fn passes(&self, device: Device<'_>) -> bool {
        self.devices.has(device.0.as_ptr())
    }

    /// Zero if netfilter has no hook on one of its devices.
    ///
    /// # Safety
    ///
    /// As for `taps`.
    #[cold]
    #[inline(never)]
    unsafe fn hooks(&self, rcu: Rcu<'_>) -> usize {
        // SAFETY: By the function's safety requirements.
        unsafe { self.each(rcu) }.fold(0, |sum, device| sum | device.hooks())
    }

    /// A segment has come by this device to a socket. In the end it has to be one of those that
    /// it passes, or somebody receives who is not noticed.
    pub(crate) fn received_by(&mut self, device: Device<'_>) {
        if device.is_loopback() {
            // Nothing is forwarded to that one.
            self.add(device);
        }
        self.broken |= !self.received.add(device.0.as_ptr());
    }

    /// Whether it is another one, or none, after that.
    pub(super) fn is_changed(&self, by: &Change) -> bool {
        self.devices.has(by.device) && !self.devices.has(by.upper)
    }

    /// Whether all its devices are known.
    pub(crate) fn is_whole(&self) -> bool {
        !self.broken
            && self.devices.len != 0
            && self
                .received
                .known()
                .iter()
                .all(|&dev| self.devices.has(dev))
    }

    /// Whether these are the same devices, met in the same order.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.devices.known() == other.devices.known() && self.nets.known() == other.nets.known()
    }

    #[inline(always)]
    fn noted(&self) -> impl Iterator<Item = *mut bindings::net_device> + '_ {
        self.devices.known().iter().copied()
    }

    /// Its devices.
    ///
    /// # Safety
    ///
    /// As for `taps`.
    #[inline(always)]
    unsafe fn each<'a>(&'a self, _rcu: Rcu<'a>) -> impl Iterator<Item = Device<'a>> {
        self.noted().map(|dev| {
            // SAFETY: By the function's safety requirements and the type invariants.
            Device(unsafe { NonNull::new_unchecked(dev) }, PhantomData)
        })
    }

    /// The addresses of its devices, which only tell them from others.
    pub(super) fn addrs(&self) -> impl Iterator<Item = usize> + '_ {
        self.noted().map(|dev| dev.addr())
    }

    /// The addresses of the namespaces that it passes and of the host's, likewise only to compare.
    pub(super) fn net_addrs(&self) -> impl Iterator<Item = usize> + '_ {
        self.all_nets().into_known().map(|net| net.addr())
    }

    /// The host's namespace, which governs all, and then the others in which devices are.
    #[inline(never)]
    fn all_nets(&self) -> Few<bindings::net, { 1 + Path::NETS }> {
        let mut all = Few::new();

        all.add(Net::host().raw());
        for &net in self.nets.known() {
            all.add(net);
        }
        all
    }

    /// The namespaces that it passes, and the host's.
    ///
    /// # Safety
    ///
    /// As for `taps`.
    pub(super) unsafe fn namespaces<'a>(
        &'a self,
        _rcu: Rcu<'a>,
    ) -> impl Iterator<Item = &'a Net> + 'a {
        self.all_nets().into_known().map(|net| {
            // SAFETY: By the function's safety requirements and the type invariants; the host's
            // never goes.
            unsafe { Net::from_raw(net) }
        })
    }

    /// How often its devices have changed so far, with those that share their places.
    pub(super) fn changes(&self) -> u64 {
        self.noted().fold(0, |sum: u64, dev| {
            sum.wrapping_add(changes(dev).load(Relaxed))
        })
    }

    /// How often they had when they were noted.
    pub(super) fn since(&self) -> u64 {
        self.since
    }

    /// Zero if nobody captures packets on its way.
    ///
    /// # Safety
    ///
    /// The path was not forgotten before the critical section of `rcu` began.
    pub(super) unsafe fn taps(&self, rcu: Rcu<'_>) -> usize {
        // SAFETY: By the type invariants and the function's safety requirements: whoever takes a
        // device away has the path forgotten, and then waits for a grace period.
        unsafe {
            let of_all = self
                .nets
                .known()
                .iter()
                .fold(0, |sum, &net| sum | taps_of_all(net));

            self.each(rcu).fold(of_all, |sum, dev| sum | dev.own_taps())
        }
    }

    /// Zero if nobody governs what goes its way. Whether its devices are up, the wire finds
    /// out when it is asked.
    ///
    /// # Safety
    ///
    /// As for `taps`.
    pub(super) unsafe fn governors(&self, rcu: Rcu<'_>) -> usize {
        // SAFETY: As above.
        unsafe {
            self.each(rcu).fold(0, |sum, device| {
                sum | device.programs() | device.driver_programs() | device.queues()
            })
        }
    }

    /// Whether netfilter has a hook on one of its devices, or for any packet of a namespace
    /// that it passes.
    ///
    /// # Safety
    ///
    /// As for `taps`.
    pub(super) unsafe fn is_filtered(&self, rcu: Rcu<'_>) -> bool {
        // SAFETY: As above.
        unsafe { self.nets.known().iter().any(|&net| filters(net, rcu)) || self.hooks(rcu) != 0 }
    }

    /// Whether [`Path::taps`] or [`Path::governors`] is not zero.
    ///
    /// # Safety
    ///
    /// As for `taps`.
    #[inline(always)]
    pub(super) unsafe fn is_watched(&self, rcu: Rcu<'_>) -> bool {
        let mut sum = 0;

        // SAFETY: As above.
        unsafe {
            // A branch for each: the compiler would unroll a sum, which costs more for so few.
            if self.nets.known().iter().any(|&net| taps_of_all(net) != 0) {
                return true;
            }
            for dev in self.each(rcu) {
                sum |= dev.watchers() | dev.queues();
            }
        }
        sum != 0
    }
}

/// A device goes, or leaves its namespace; or comes below another one, as a port comes to
/// a bridge.
#[derive(Clone, Copy)]
pub(crate) struct Change {
    device: *mut bindings::net_device,
    /// The other one; null if the device goes.
    upper: *mut bindings::net_device,
}

impl Change {
    /// The address of the device.
    pub(super) fn addr(&self) -> usize {
        self.device.addr()
    }
}

/// Changes of devices are told for as long as this lives.
///
/// # Invariants
///
/// The boxed block is registered.
pub(crate) struct Registration(NonNull<bindings::notifier_block>);

// SAFETY: It is only dropped, which any thread may do.
unsafe impl Send for Registration {}
// SAFETY: Nothing can be done with a shared reference.
unsafe impl Sync for Registration {}

impl Registration {
    /// Begins to tell. May sleep.
    pub(crate) fn new() -> Result<Self> {
        let block = NonNull::from(KBox::leak(KBox::new(
            bindings::notifier_block {
                notifier_call: Some(event),
                ..Default::default()
            },
            GFP_KERNEL,
        )?));
        // SAFETY: The block lives until it is unregistered, in `drop`.
        let ret = to_result(unsafe { bindings::register_netdevice_notifier(block.as_ptr()) });
        if ret.is_err() {
            // SAFETY: C did not keep it.
            drop(unsafe { KBox::from_raw(block.as_ptr()) });
        }
        // INVARIANT: Just registered.
        ret.map(|()| Self(block))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is registered; nobody uses it afterwards.
        unsafe {
            bindings::unregister_netdevice_notifier(self.0.as_ptr());
            drop(KBox::from_raw(self.0.as_ptr()));
        }
    }
}

const UNREGISTER: c_ulong = bindings::netdev_cmd_NETDEV_UNREGISTER as c_ulong;
const CHANGEUPPER: c_ulong = bindings::netdev_cmd_NETDEV_CHANGEUPPER as c_ulong;
const DONE: c_int = bindings::NOTIFY_DONE as c_int;

/// # Safety
///
/// As `notifier_block.notifier_call` of network devices.
unsafe extern "C" fn event(
    _: *mut bindings::notifier_block,
    event: c_ulong,
    info: *mut c_void,
) -> c_int {
    // SAFETY: The C side passes that with every event.
    let device = unsafe { (*info.cast::<bindings::netdev_notifier_info>()).dev };
    let upper = match event {
        // Also told when a device goes to another namespace.
        UNREGISTER => null_mut(),
        CHANGEUPPER => {
            // SAFETY: That is what the C side passes with this one.
            let info = unsafe { &*info.cast::<bindings::netdev_notifier_changeupper_info>() };
            if !info.linking {
                return DONE;
            }
            info.upper_dev
        }
        _ => return DONE,
    };
    // Before pairs are looked for: see `Path::changes`.
    changes(device).fetch_add(1, Relaxed);
    crate::crossing::device_changed(&Change { device, upper });
    DONE
}
