// SPDX-License-Identifier: GPL-2.0

//! Network namespaces, and what each shows and lets be set under `/proc`.
//!
//! C headers: [`include/net/net_namespace.h`](srctree/include/net/net_namespace.h),
//! [`include/linux/sysctl.h`](srctree/include/linux/sysctl.h),
//! [`include/linux/proc_fs.h`](srctree/include/linux/proc_fs.h)

use core::ptr::{
    addr_of,
    NonNull, //
};

use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    seq_file::SeqFile,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        rcu, //
    },
    types::Opaque,
};

use super::{
    device::Device,
    proc,
    sock::Rcu, //
};
use crate::{
    crossing,
    namespace::Namespace, //
};

/// A network namespace (`struct net`).
///
/// # Invariants
///
/// The value is a valid `struct net`, initialised.
#[repr(transparent)]
pub(crate) struct Net(Opaque<bindings::net>);

/// Where C keeps the number of our per-namespace pointer.
static ID: Atomic<u32> = Atomic::new(0);

const NAME: &CStr = c"tcp_friends";

/// The file with the counters.
const STAT: &CStr = c"tcp_friends_stat";

/// Bounds of the sysctls.
static OFF: u32 = 0;
static ON: u32 = 1;
static STRICT: u32 = 2;
static DAY_MS: u32 = 24 * 60 * 60 * 1000;

impl Net {
    /// # Safety
    ///
    /// `ptr` points at a namespace that stays alive for `'a`.
    pub(super) unsafe fn from_raw<'a>(ptr: *mut bindings::net) -> &'a Self {
        // CAST: Transparent. SAFETY: By the function's safety requirements.
        unsafe { &*ptr.cast() }
    }

    /// The C namespace.
    pub(super) fn raw(&self) -> *mut bindings::net {
        self.0.get()
    }

    /// Our state of this namespace.
    ///
    /// `None` while the namespace is being made or taken down.
    pub(crate) fn state(&self) -> Option<&Namespace> {
        // SAFETY: Hooks and handlers, which are all that runs here, are registered after the
        // per-namespace operations and unregistered before, so the number is valid. Its place lives
        // for as long as the namespace has sockets, handlers and devices, by which it is found, and
        // what it leads to for a grace period longer than `exit`.
        unsafe {
            let slot = bindings::net_generic(self.raw(), ID.load(Relaxed))
                .cast::<*const Slot>()
                .read_volatile();
            slot.as_ref().map(|slot| &slot.state)
        }
    }

    /// Its loopback device: it has one while there are sockets.
    #[inline(always)]
    pub(crate) fn loopback<'a>(&'a self, rcu: Rcu<'a>) -> Option<Device<'a>> {
        // SAFETY: The namespace is valid.
        let lo = unsafe { addr_of!((*self.raw()).loopback_dev).read_volatile() };

        // SAFETY: It is null or valid, and freed a grace period after it is gone.
        Some(unsafe { Device::new(NonNull::new(lo)?, rcu) })
    }

    /// A number that no other namespace ever has.
    pub(crate) fn cookie(&self) -> u64 {
        // SAFETY: The namespace is valid; set when it was made.
        unsafe { (*self.raw()).net_cookie }
    }

    /// The one that the host began with.
    pub(crate) fn host() -> &'static Self {
        // SAFETY: `init_net` is initialised long before a module is loaded, and never goes.
        unsafe { Self::from_raw(core::ptr::addr_of_mut!(bindings::init_net)) }
    }

    /// Whether it is that one.
    pub(crate) fn is_host(&self) -> bool {
        core::ptr::eq(self, Self::host())
    }

    /// Its device with that number.
    pub(crate) fn device<'a>(&'a self, index: c_int, rcu: Rcu<'a>) -> Option<Device<'a>> {
        // SAFETY: The namespace is valid, and RCU is held.
        let dev = unsafe { bindings::dev_get_by_index_rcu(self.raw(), index) };

        // SAFETY: What is found so is freed a grace period after it is gone.
        Some(unsafe { Device::new(NonNull::new(dev)?, rcu) })
    }

    /// Whether connection tracking is on, for either kind of address.
    #[cfg(CONFIG_NETFILTER)]
    #[inline(always)]
    pub(crate) fn tracks_connections(&self, _rcu: Rcu<'_>) -> bool {
        const OUT: usize = bindings::nf_inet_hooks_NF_INET_LOCAL_OUT as usize;

        // SAFETY: The namespace is valid; the arrays of hooks are freed a grace period after they
        // were replaced, and RCU is held.
        unsafe {
            let nf = addr_of!((*self.raw()).nf);
            let v4 = addr_of!((*nf).hooks_ipv4[OUT]).read_volatile();
            let v6 = addr_of!((*nf).hooks_ipv6[OUT]).read_volatile();

            v4.addr() | v6.addr() != 0 && (has_tracker(v4) || has_tracker(v6))
        }
    }

    /// Whether netfilter has a hook where the loopback device's packets pass: as they leave,
    /// come in, and arrive, and on the device itself.
    #[inline(never)]
    pub(crate) fn filters_loopback(&self, rcu: Rcu<'_>) -> bool {
        // SAFETY: The namespace is valid.
        let hooked = unsafe { is_hooked(self.raw(), &OF_THIS_HOST, rcu) };

        hooked || self.loopback(rcu).is_none_or(|lo| lo.hooks() != 0)
    }

    /// Whether netfilter has a hook for packets of any device of this namespace, bridges
    /// and packets that are forwarded included.
    pub(crate) fn filters(&self, rcu: Rcu<'_>) -> bool {
        // SAFETY: The namespace is valid.
        unsafe { filters(self.raw(), rcu) }
    }

    /// Whether connection tracking is on: there is none.
    #[cfg(not(CONFIG_NETFILTER))]
    #[inline(always)]
    pub(crate) fn tracks_connections(&self, _rcu: Rcu<'_>) -> bool {
        false
    }
}

/// Where packets pass that this host sends to itself.
const OF_THIS_HOST: [c_uint; 4] = [
    bindings::nf_inet_hooks_NF_INET_PRE_ROUTING,
    bindings::nf_inet_hooks_NF_INET_LOCAL_IN,
    bindings::nf_inet_hooks_NF_INET_LOCAL_OUT,
    bindings::nf_inet_hooks_NF_INET_POST_ROUTING,
];

/// Whether netfilter has a hook there, for IPv4 or IPv6.
///
/// # Safety
///
/// `net` is a valid namespace.
#[cfg(CONFIG_NETFILTER)]
unsafe fn is_hooked(net: *const bindings::net, places: &[c_uint], _rcu: Rcu<'_>) -> bool {
    places.iter().any(|&place| {
        // SAFETY: By the function's safety requirements the namespace is valid, and the places are
        // of its arrays, which are freed a grace period after they were replaced; RCU is held.
        unsafe {
            let nf = addr_of!((*net).nf);
            let (v4, v6) = (
                addr_of!((*nf).hooks_ipv4[place as usize]).read_volatile(),
                addr_of!((*nf).hooks_ipv6[place as usize]).read_volatile(),
            );

            has_hook(v4) || has_hook(v6)
        }
    })
}

/// There is no netfilter.
///
/// # Safety
///
/// None.
#[cfg(not(CONFIG_NETFILTER))]
unsafe fn is_hooked(_net: *const bindings::net, _places: &[c_uint], _rcu: Rcu<'_>) -> bool {
    false
}

/// Whether there is any hook but those of `br_netfilter`. These stand in each namespace that
/// has a bridge, and have no say of their own: they take what a bridge forwards past the
/// hooks of IPv4 and IPv6, which are asked for besides.
///
/// # Safety
///
/// `hooks` is null or an array of hooks, in an RCU read-side critical section.
#[cfg(CONFIG_NETFILTER)]
unsafe fn has_hook(hooks: *const bindings::nf_hook_entries) -> bool {
    if hooks.is_null() {
        return false;
    }
    // SAFETY: By the function's safety requirements; as in `has_tracker`.
    unsafe {
        let ops = bindings::nf_hook_entries_get_hook_ops(hooks);

        (0..usize::from((*hooks).num_hook_entries)).any(|i| !is_of_br_netfilter(&**ops.add(i)))
    }
}

/// Told by all that is known of `br_nf_ops`, since its functions have no names here. Tables
/// and programs have a type or data of their own.
#[cfg(CONFIG_NETFILTER)]
fn is_of_br_netfilter(ops: &bindings::nf_hook_ops) -> bool {
    const PRE_ROUTING: c_uint = bindings::nf_inet_hooks_NF_INET_PRE_ROUTING;
    const LOCAL_IN: c_uint = bindings::nf_inet_hooks_NF_INET_LOCAL_IN;
    const FORWARD: c_uint = bindings::nf_inet_hooks_NF_INET_FORWARD;
    const POST_ROUTING: c_uint = bindings::nf_inet_hooks_NF_INET_POST_ROUTING;
    const BRIDGE: c_uint = bindings::NFPROTO_BRIDGE;
    const IPV4: c_uint = bindings::NFPROTO_IPV4;
    const IPV6: c_uint = bindings::NFPROTO_IPV6;

    ops.hook_ops_type() == bindings::nf_hook_ops_type_NF_HOOK_OP_UNDEFINED
        && ops.priv_.is_null()
        && matches!(
            (c_uint::from(ops.pf), ops.hooknum, ops.priority),
            // NF_BR_PRI_BRNF, NF_BR_PRI_LAST, NF_IP_PRI_FIRST.
            (BRIDGE, PRE_ROUTING | FORWARD, 0)
                | (BRIDGE, LOCAL_IN | POST_ROUTING, c_int::MAX)
                | (IPV4 | IPV6, PRE_ROUTING, c_int::MIN)
        )
}

/// Whether netfilter has a hook for packets of any device of that namespace.
///
/// # Safety
///
/// `net` is a valid namespace.
pub(super) unsafe fn filters(net: *const bindings::net, rcu: Rcu<'_>) -> bool {
    const FORWARD: c_uint = bindings::nf_inet_hooks_NF_INET_FORWARD;

    #[cfg(CONFIG_NETFILTER_FAMILY_BRIDGE)]
    // SAFETY: By the function's safety requirements the namespace is valid; the arrays are freed a
    // grace period after they were replaced, and RCU is held.
    let of_bridges = unsafe {
        let all = addr_of!((*net).nf.hooks_bridge);

        (0..bindings::nf_inet_hooks_NF_INET_NUMHOOKS as usize)
            .any(|place| has_hook(addr_of!((*all)[place]).read_volatile()))
    };
    #[cfg(not(CONFIG_NETFILTER_FAMILY_BRIDGE))]
    let of_bridges = false;

    // SAFETY: By the function's safety requirements.
    of_bridges || unsafe { is_hooked(net, &OF_THIS_HOST, rcu) || is_hooked(net, &[FORWARD], rcu) }
}

/// Whether the connection tracker is among the hooks of packets that leave. It is
/// told by its priority (`NF_IP_PRI_CONNTRACK`, the same for IPv6), for which
/// another hook would be mistaken.
///
/// # Safety
///
/// `hooks` is null or an array of hooks, in an RCU read-side critical section.
#[cfg(CONFIG_NETFILTER)]
#[cold]
unsafe fn has_tracker(hooks: *const bindings::nf_hook_entries) -> bool {
    if hooks.is_null() {
        return false;
    }
    // SAFETY: By the function's safety requirements. Behind the hooks stand as many pointers to
    // their descriptions, which are valid for as long as the array (as `nfnetlink_hook` has it).
    unsafe {
        let ops = bindings::nf_hook_entries_get_hook_ops(hooks);

        (0..usize::from((*hooks).num_hook_entries))
            .any(|i| (**ops.add(i)).priority == bindings::nf_ip_hook_priorities_NF_IP_PRI_CONNTRACK)
    }
}

/// The sysctls: C wants an array.
#[repr(C)]
struct Tables {
    switch: bindings::ctl_table,
    revalidate: bindings::ctl_table,
    /// Only the host's own namespace has it.
    cross: bindings::ctl_table,
}

impl Tables {
    const COUNT: usize = size_of::<Self>() / size_of::<bindings::ctl_table>();
}

/// What the namespace's pointer leads to.
struct Slot {
    state: Namespace,
    net: *mut bindings::net,
    tables: Tables,
    header: *mut bindings::ctl_table_header,
    rcu: Opaque<bindings::callback_head>,
}

impl Slot {
    /// # Safety
    ///
    /// As `pernet_operations.init`.
    unsafe extern "C" fn init(net: *mut bindings::net) -> c_int {
        // SAFETY: By the function's safety requirements.
        match unsafe { Self::create(net) } {
            Ok(()) => 0,
            Err(err) => err.to_errno(),
        }
    }

    /// # Safety
    ///
    /// `net` is a namespace being made, or one that we are being told of.
    unsafe fn create(net: *mut bindings::net) -> Result {
        let slot = KBox::into_raw(KBox::new(
            Self {
                state: Namespace::new()?,
                net,
                tables: Tables {
                    switch: bindings::ctl_table {
                        procname: NAME.as_char_ptr(),
                        data: core::ptr::null_mut(),
                        maxlen: 1,
                        mode: 0o644,
                        proc_handler: Some(Self::switch),
                        extra1: addr_of!(OFF).cast_mut().cast(),
                        extra2: addr_of!(STRICT).cast_mut().cast(),
                        ..Default::default()
                    },
                    revalidate: bindings::ctl_table {
                        procname: c"tcp_friends_revalidate_ms".as_char_ptr(),
                        data: core::ptr::null_mut(),
                        maxlen: size_of::<u32>() as c_int,
                        mode: 0o644,
                        proc_handler: Some(Self::revalidate),
                        extra1: addr_of!(OFF).cast_mut().cast(),
                        extra2: addr_of!(DAY_MS).cast_mut().cast(),
                        ..Default::default()
                    },
                    cross: bindings::ctl_table {
                        procname: c"tcp_friends_cross".as_char_ptr(),
                        data: crossing::switch().as_ptr().cast(),
                        maxlen: 1,
                        mode: 0o644,
                        proc_handler: Some(Self::cross),
                        extra1: addr_of!(OFF).cast_mut().cast(),
                        extra2: addr_of!(ON).cast_mut().cast(),
                        ..Default::default()
                    },
                },
                header: core::ptr::null_mut(),
                rcu: Opaque::uninit(),
            },
            GFP_KERNEL,
        )?);
        // SAFETY: Just allocated, and nobody else knows it yet; it lives until `exit`.
        let proc = unsafe {
            (*slot).tables.switch.data = (*slot).state.switch().as_ptr().cast();
            (*slot).tables.revalidate.data = (*slot).state.revalidate_ms().as_ptr().cast();
            Self::pointer(net).write_volatile(slot);
            (*slot).header = bindings::register_net_sysctl_sz(
                net,
                c"net/ipv4".as_char_ptr(),
                addr_of!((*slot).tables).cast(),
                Tables::COUNT - usize::from(!Net::from_raw(net).is_host()),
            );
            let stat = bindings::proc_create_net_single(
                STAT.as_char_ptr(),
                0o444,
                (*net).proc_net,
                Some(Self::show),
                core::ptr::null_mut(),
            );
            [!stat.is_null(), proc::create(NAME, net)]
        };
        // SAFETY: As above.
        if unsafe { (*slot).header.is_null() } || proc != [true; 2] {
            // SAFETY: What was made is taken back.
            unsafe { Self::destroy(net, proc) };
            return Err(ENOMEM);
        }
        Ok(())
    }

    /// # Safety
    ///
    /// `net` is a namespace whose pointer was set by `create`.
    unsafe fn destroy(net: *mut bindings::net, proc: [bool; 2]) {
        // SAFETY: By the function's safety requirements; the unregistering calls wait for who is
        // inside the handlers.
        unsafe {
            let slot = Self::pointer(net).read_volatile();

            for (there, name) in proc.into_iter().zip([STAT, NAME]) {
                if there {
                    bindings::remove_proc_entry(name.as_char_ptr(), (*net).proc_net);
                }
            }
            if !(*slot).header.is_null() {
                bindings::unregister_net_sysctl_table((*slot).header);
            }
            // No connection is established any more here, or without the hooks: these are the last.
            (*slot).state.part_all(Net::from_raw(net));
            Self::pointer(net).write_volatile(core::ptr::null_mut());
            // Who has found a pair that had an end here may still count that it has moved.
            bindings::call_rcu((*slot).rcu.get(), Some(Self::free));
        }
    }

    /// # Safety
    ///
    /// `head` is the field `rcu` of a slot that nobody can reach any more.
    unsafe extern "C" fn free(head: *mut bindings::callback_head) {
        // SAFETY: By the function's safety requirements; `Opaque` is transparent. It came from
        // `KBox::into_raw()` in `create`.
        unsafe {
            let slot = kernel::container_of!(Opaque::cast_from(head), Slot, rcu);

            drop(KBox::from_raw(slot.cast_mut()));
        }
    }

    /// # Safety
    ///
    /// As `pernet_operations.exit`.
    unsafe extern "C" fn exit(net: *mut bindings::net) {
        // SAFETY: `init` succeeded for this namespace.
        unsafe { Self::destroy(net, [true; 2]) };
    }

    /// # Safety
    ///
    /// `net` is a namespace, and our operations are registered.
    unsafe fn pointer(net: *mut bindings::net) -> *mut *mut Self {
        // SAFETY: By the function's safety requirements; C allocated room for one pointer, zeroed.
        unsafe { bindings::net_generic(net, ID.load(Relaxed)).cast() }
    }

    /// # Safety
    ///
    /// As `ctl_table.proc_handler`.
    unsafe extern "C" fn switch(
        table: *const bindings::ctl_table,
        dir: c_int,
        buffer: *mut c_void,
        lenp: *mut usize,
        ppos: *mut bindings::loff_t,
    ) -> c_int {
        // SAFETY: The C side's arguments are passed on; the table's data is one byte.
        let ret = unsafe { bindings::proc_dou8vec_minmax(table, dir, buffer, lenp, ppos) };
        if ret == 0 && dir != 0 {
            // SAFETY: The table is the field of a `Slot` that lives while handlers run.
            let slot = unsafe { &*kernel::container_of!(table.cast_mut(), Slot, tables.switch) };
            // SAFETY: So does its namespace.
            slot.state.switched(unsafe { Net::from_raw(slot.net) });
        }
        ret
    }

    /// # Safety
    ///
    /// As `ctl_table.proc_handler`.
    unsafe extern "C" fn revalidate(
        table: *const bindings::ctl_table,
        dir: c_int,
        buffer: *mut c_void,
        lenp: *mut usize,
        ppos: *mut bindings::loff_t,
    ) -> c_int {
        // SAFETY: The C side's arguments are passed on; the table's data is one word.
        let ret = unsafe { bindings::proc_douintvec_minmax(table, dir, buffer, lenp, ppos) };
        if ret == 0 && dir != 0 {
            // SAFETY: The table is the field of a `Slot` that lives while handlers run.
            let slot =
                unsafe { &*kernel::container_of!(table.cast_mut(), Slot, tables.revalidate) };
            slot.state.revalidate_set();
        }
        ret
    }

    /// # Safety
    ///
    /// As `ctl_table.proc_handler`.
    unsafe extern "C" fn cross(
        table: *const bindings::ctl_table,
        dir: c_int,
        buffer: *mut c_void,
        lenp: *mut usize,
        ppos: *mut bindings::loff_t,
    ) -> c_int {
        // SAFETY: The C side's arguments are passed on; the table's data is one byte.
        let ret = unsafe { bindings::proc_dou8vec_minmax(table, dir, buffer, lenp, ppos) };
        if ret == 0 && dir != 0 {
            crossing::switched();
        }
        ret
    }

    /// # Safety
    ///
    /// As the `show` of `proc_create_net_single()`.
    unsafe extern "C" fn show(seq: *mut bindings::seq_file, _v: *mut c_void) -> c_int {
        // SAFETY: The C side passes a file that was opened for one namespace, which it keeps alive.
        let (net, seq) = unsafe {
            (
                Net::from_raw(bindings::seq_file_single_net(seq)),
                SeqFile::from_raw(seq),
            )
        };
        if let Some(state) = net.state() {
            state.show(seq);
        }
        0
    }
}

/// Calls `f` for each namespace, while none is made or taken down. May sleep, and
/// so may `f`.
pub(crate) fn for_each_namespace(f: impl Fn(&Net)) {
    // SAFETY: The list changes only with the semaphore held for writing; we hold it for reading,
    // so that its entries are namespaces that stay alive.
    unsafe {
        let (lock, head) = (
            core::ptr::addr_of_mut!(bindings::net_rwsem),
            core::ptr::addr_of_mut!(bindings::net_namespace_list),
        );

        bindings::down_read(lock);
        let mut at = (*head).next;
        while !core::ptr::eq(at, head) {
            f(Net::from_raw(kernel::container_of!(
                at,
                bindings::net,
                list
            )));
            at = (*at).next;
        }
        bindings::up_read(lock);
    }
}

/// Registered per-namespace state; gone from all namespaces once dropped.
///
/// # Invariants
///
/// The boxed operations are registered.
pub(crate) struct Registration(NonNull<bindings::pernet_operations>);

// SAFETY: It is only dropped, which any thread may do.
unsafe impl Send for Registration {}
// SAFETY: Nothing can be done with a shared reference.
unsafe impl Sync for Registration {}

impl Registration {
    /// Makes the state of every namespace, now and to come. May sleep.
    pub(crate) fn new() -> Result<Self> {
        let ops = KBox::new(
            bindings::pernet_operations {
                init: Some(Slot::init),
                exit: Some(Slot::exit),
                id: ID.as_ptr(),
                size: size_of::<*mut Slot>(),
                ..Default::default()
            },
            GFP_KERNEL,
        )?;
        let ops = NonNull::from(KBox::leak(ops));
        // SAFETY: The operations live until they are unregistered, in `drop`.
        let ret = to_result(unsafe { bindings::register_pernet_subsys(ops.as_ptr()) });
        if ret.is_err() {
            // SAFETY: C did not keep it.
            drop(unsafe { KBox::from_raw(ops.as_ptr()) });
            // What `init` had made of other namespaces is freed by code of this module.
            rcu::rcu_barrier();
        }
        // INVARIANT: Just registered.
        ret.map(|()| Self(ops))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is registered; nobody uses it afterwards.
        unsafe {
            bindings::unregister_pernet_subsys(self.0.as_ptr());
            drop(KBox::from_raw(self.0.as_ptr()));
        }
        // So are pairs and the state of namespaces.
        rcu::rcu_barrier();
    }
}
