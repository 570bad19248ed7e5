// SPDX-License-Identifier: GPL-2.0

//! Network devices. This file shows whether anybody watches or governs the packets that pass a
//! device, and reports that a device goes away, changes its namespace or gets an upper device.
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
    prelude::*, //
};

use super::{
    context::Rcu,
    netns::Net, //
};

/// A network device (`struct net_device`).
///
/// # Invariants
///
/// The device is valid for `'a`, which is part of an RCU read-side critical section.
#[derive(Clone, Copy)]
pub(crate) struct Device<'a>(NonNull<bindings::net_device>, PhantomData<&'a ()>);

impl<'a> Device<'a> {
    /// Wraps a C device.
    ///
    /// # Safety
    ///
    /// `dev` is valid, and is freed no sooner than a grace period after the critical section of
    /// `_rcu` began.
    pub(crate) unsafe fn new(dev: NonNull<bindings::net_device>, _rcu: Rcu<'a>) -> Self {
        // INVARIANT: By the function's safety requirements, the device is valid for `'a`.
        Self(dev, PhantomData)
    }

    /// Returns whether `self` and `other` are one device.
    pub(crate) fn is(self, other: Device<'_>) -> bool {
        self.0 == other.0
    }

    /// Returns a number that identifies the device for as long as the device exists. The number is
    /// not 0.
    pub(crate) fn id(self) -> usize {
        self.0.addr().get()
    }

    /// Returns whether the device is the loopback device of its namespace.
    pub(crate) fn is_loopback(self) -> bool {
        // SAFETY: By the type invariants, the device is valid, and so is its namespace.
        unsafe { addr_of!((*self.net()).loopback_dev).read_volatile() == self.0.as_ptr() }
    }

    /// Returns whether the device needs no queue (`IFF_NO_QUEUE`): a packet that leaves through
    /// such a device has arrived elsewhere before the call that sends the packet returns.
    pub(crate) fn needs_no_queue(self) -> bool {
        // SAFETY: By the type invariants, the device is valid.
        let flags = unsafe {
            Flags::priv_flags_raw(addr_of!(
                (*self.0.as_ptr()).__bindgen_anon_1.__bindgen_anon_1
            ))
        };

        flags & NO_QUEUE != 0
    }

    /// Returns whether the device is registered, so that the notification of its unregistration is
    /// still to come.
    pub(crate) fn is_registered(self) -> bool {
        // SAFETY: By the type invariants, the device is valid.
        let state = unsafe { addr_of!((*self.0.as_ptr()).reg_state).read_volatile() };

        state == bindings::netdev_reg_state_NETREG_REGISTERED as u8
    }

    /// Returns the C device.
    pub(crate) fn raw(self) -> *mut bindings::net_device {
        self.0.as_ptr()
    }

    /// Returns the namespace that the device is in.
    pub(crate) fn namespace(self) -> &'a Net {
        // SAFETY: By the type invariants, the device is valid for `'a`, and a namespace outlives
        // its devices.
        unsafe { Net::from_raw(self.net()) }
    }

    fn net(self) -> *mut bindings::net {
        // SAFETY: By the type invariants, the device is valid.
        unsafe { addr_of!((*self.0.as_ptr()).nd_net.net).read_volatile() }
    }

    /// Returns zero if nobody captures packets on this device, or on all devices of its namespace
    /// at once.
    ///
    /// Each check of this kind returns a word and not a `bool`, so that a caller can combine
    /// several checks with `|`.
    #[inline(always)]
    pub(crate) fn taps(self) -> usize {
        self.own_taps() | self.namespace().taps_of_all()
    }

    /// Returns zero if nobody captures packets on this device alone.
    #[inline(always)]
    pub(crate) fn own_taps(self) -> usize {
        let dev = self.0.as_ptr();
        // SAFETY: By the type invariants, the device is valid, so its list heads are initialised.
        unsafe {
            list_entries(addr_of!((*dev).ptype_all)) | list_entries(addr_of!((*dev).ptype_specific))
        }
    }

    /// Returns zero if the device is up and no queueing discipline, classifier or XDP program that
    /// runs in the stack governs what passes the device.
    #[inline(always)]
    pub(crate) fn governors(self) -> usize {
        // SAFETY: By the type invariants, the device is valid, in an RCU read-side critical
        // section.
        self.programs() | unsafe { queue(self.0.as_ptr()) }
    }

    /// Returns zero if no classifier, and no XDP program that runs in the stack, governs what
    /// passes the device.
    #[inline(always)]
    pub(crate) fn programs(self) -> usize {
        let dev = self.0.as_ptr();
        // SAFETY: By the type invariants, the device is valid. The pointers to the programs are
        // only compared with null and never dereferenced.
        unsafe {
            #[cfg(CONFIG_NET_XGRESS)]
            let classifiers = addr_of!((*dev).tcx_egress).read_volatile().addr()
                | addr_of!((*dev).tcx_ingress).read_volatile().addr();
            #[cfg(not(CONFIG_NET_XGRESS))]
            let classifiers = 0;
            classifiers | addr_of!((*dev).xdp_prog).read_volatile().addr()
        }
    }

    /// Returns zero if no XDP program runs in the driver, whether or not a BPF link attached the
    /// program.
    #[inline(always)]
    pub(crate) fn driver_programs(self) -> usize {
        // SAFETY: By the type invariants, the device is valid. The pointers to the program and to
        // the link are only compared with null and never dereferenced.
        unsafe {
            let states = addr_of!((*self.0.as_ptr()).xdp_state);

            addr_of!((*states)[DRV].prog).read_volatile().addr()
                | addr_of!((*states)[DRV].link).read_volatile().addr()
        }
    }

    /// Returns zero if no administrator has put a queueing discipline on the device, which has none
    /// by default. A discipline of an administrator has a handle.
    #[inline(always)]
    pub(crate) fn queues(self) -> usize {
        // SAFETY: By the type invariants, the device is valid, in an RCU read-side critical
        // section. A device always has a discipline at its root, which is freed a grace period
        // after its replacement.
        unsafe {
            let root = addr_of!((*self.0.as_ptr()).qdisc).read_volatile();

            (*root).handle as usize
        }
    }

    /// Returns zero if netfilter has no ingress or egress hook on the device itself.
    pub(crate) fn hooks(self) -> usize {
        // SAFETY: By the type invariants, the device is valid. The pointers to the hooks are only
        // compared with null and never dereferenced.
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

    /// Returns zero if [`Device::own_taps`], [`Device::programs`] and [`Device::driver_programs`]
    /// all return zero.
    #[inline(always)]
    pub(crate) fn watchers(self) -> usize {
        self.own_taps() | self.programs() | self.driver_programs()
    }
}

use bindings::net_device__bindgen_ty_1__bindgen_ty_1 as Flags;

const NO_QUEUE: c_ulong = bindings::netdev_priv_flags_IFF_NO_QUEUE as c_ulong;

const DRV: usize = bindings::bpf_xdp_mode_XDP_MODE_DRV as usize;

impl Net {
    /// Returns zero if nobody captures the packets of all devices of this namespace at once.
    #[inline(always)]
    pub(crate) fn taps_of_all(&self) -> usize {
        let net = self.raw();
        // SAFETY: By the type invariants, the namespace is valid.
        let (all, specific) = unsafe {
            (
                addr_of!((*net).ptype_all.next).read_volatile(),
                addr_of!((*net).ptype_specific.next).read_volatile(),
            )
        };
        // The `next` pointer of an empty list points to the list's own head, and that of any other
        // list points into a `packet_type`. Only the two heads lie one `list_head` apart, as they
        // follow each other here: a `packet_type` is larger, so two handlers lie further apart. One
        // comparison therefore shows whether both lists are empty.
        all.addr().wrapping_add(size_of::<bindings::list_head>()) ^ specific.addr()
    }
}

const _: () = assert!(
    offset_of!(bindings::net, ptype_specific)
        == offset_of!(bindings::net, ptype_all) + size_of::<bindings::list_head>()
        && size_of::<bindings::packet_type>() > size_of::<bindings::list_head>()
);

/// Returns zero if the device is up and what leaves through the device need not queue.
///
/// # Safety
///
/// `dev` is a valid device, and the caller is in an RCU read-side critical section.
#[inline(always)]
unsafe fn queue(dev: *const bindings::net_device) -> usize {
    // SAFETY: By the function's safety requirements, the device is valid. A device has at least one
    // transmit queue, and that queue always has a discipline, which is freed a grace period after
    // its replacement. `enqueue` is empty for a discipline that has no queue.
    unsafe {
        let qdisc = addr_of!((*(*dev)._tx).qdisc).read_volatile();
        (*qdisc).enqueue.map_or(0, |enqueue| enqueue as usize)
    }
}

/// Returns zero if the list is empty. One pointer shows this.
///
/// # Safety
///
/// `head` is an initialised list head.
#[inline(always)]
unsafe fn list_entries(head: *const bindings::list_head) -> usize {
    // SAFETY: By the function's safety requirements, `head` is valid.
    unsafe { addr_of!((*head).next).read_volatile() }.addr() ^ head.addr()
}

/// A change of a network device: the device goes away, leaves its namespace, or gets an upper
/// device, as a port of a bridge does.
#[derive(Clone, Copy)]
pub(crate) struct Change {
    device: *mut bindings::net_device,
    /// The new upper device; null if the device goes away or leaves its namespace.
    upper: *mut bindings::net_device,
}

impl Change {
    /// Returns the device. The pointer may only be compared.
    pub(crate) fn device(&self) -> *mut bindings::net_device {
        self.device
    }

    /// Returns the new upper device, or null if the device goes away or leaves its namespace. The
    /// pointer may only be compared.
    pub(crate) fn upper(&self) -> *mut bindings::net_device {
        self.upper
    }
}

/// A type that is notified of changes of network devices.
pub(crate) trait Watcher {
    /// Handles a change. The caller holds `rtnl_mutex`. May sleep.
    fn changed(change: &Change);
}

/// The registration of a [`Watcher`], which is notified of changes until this value is dropped.
///
/// # Invariants
///
/// The boxed notifier block is registered.
pub(crate) struct Registration(NonNull<bindings::notifier_block>);

// SAFETY: The only operation on a value is to drop it, which any thread may do.
unsafe impl Send for Registration {}
// SAFETY: No operation is possible through a shared reference.
unsafe impl Sync for Registration {}

impl Registration {
    /// Registers `T`, which is notified of changes from now on. May sleep.
    pub(crate) fn new<T: Watcher>() -> Result<Self> {
        let block = NonNull::from(KBox::leak(KBox::new(
            bindings::notifier_block {
                notifier_call: Some(event::<T>),
                ..Default::default()
            },
            GFP_KERNEL,
        )?));
        // SAFETY: The block lives until it is unregistered, either below or in `drop`.
        let ret = to_result(unsafe { bindings::register_netdevice_notifier(block.as_ptr()) });
        if ret.is_err() {
            // SAFETY: The registration failed, so the C side does not use the block, which came
            // from a `KBox`.
            drop(unsafe { KBox::from_raw(block.as_ptr()) });
        }
        // INVARIANT: `ret` is `Ok` only if the block has just been registered.
        ret.map(|()| Self(block))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, the block is registered and boxed. Nobody uses it after
        // the unregistration.
        unsafe {
            bindings::unregister_netdevice_notifier(self.0.as_ptr());
            drop(KBox::from_raw(self.0.as_ptr()));
        }
    }
}

const UNREGISTER: c_ulong = bindings::netdev_cmd_NETDEV_UNREGISTER as c_ulong;
const CHANGEUPPER: c_ulong = bindings::netdev_cmd_NETDEV_CHANGEUPPER as c_ulong;
const DONE: c_int = bindings::NOTIFY_DONE as c_int;

/// Handles an event of the notifier chain.
///
/// # Safety
///
/// The caller follows the contract of `notifier_block.notifier_call` for network devices.
unsafe extern "C" fn event<T: Watcher>(
    _: *mut bindings::notifier_block,
    event: c_ulong,
    info: *mut c_void,
) -> c_int {
    // SAFETY: The C side passes a `netdev_notifier_info` with every event.
    let device = unsafe { (*info.cast::<bindings::netdev_notifier_info>()).dev };
    let upper = match event {
        // The C side also sends this event when a device moves to another namespace.
        UNREGISTER => null_mut(),
        CHANGEUPPER => {
            // SAFETY: The C side passes a `netdev_notifier_changeupper_info` with this event.
            let info = unsafe { &*info.cast::<bindings::netdev_notifier_changeupper_info>() };
            if !info.linking {
                return DONE;
            }
            info.upper_dev
        }
        _ => return DONE,
    };
    T::changed(&Change { device, upper });
    DONE
}
