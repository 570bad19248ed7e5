// SPDX-License-Identifier: GPL-2.0

//! Network namespaces, and the state that a module keeps for each namespace.
//!
//! C header: [`include/net/net_namespace.h`](srctree/include/net/net_namespace.h)

use core::{
    marker::PhantomData,
    ptr::{
        addr_of,
        NonNull, //
    },
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
    types::Opaque, //
};

use super::{
    context::Rcu,
    device::Device,
    proc,
    sysctl::{
        self,
        Sysctl, //
    },
};

/// A network namespace (`struct net`).
///
/// # Invariants
///
/// The value is a valid, initialised `struct net`.
#[repr(transparent)]
pub(crate) struct Net(Opaque<bindings::net>);

impl Net {
    /// Wraps a C namespace.
    ///
    /// # Safety
    ///
    /// `ptr` points to a namespace that stays alive for `'a`.
    pub(crate) unsafe fn from_raw<'a>(ptr: *mut bindings::net) -> &'a Self {
        // CAST: [`Net`] is a transparent wrapper of `struct net`.
        // SAFETY: By the function's safety requirements, the namespace is valid for `'a`.
        unsafe { &*ptr.cast() }
    }

    /// Returns the C namespace.
    pub(crate) fn raw(&self) -> *mut bindings::net {
        self.0.get()
    }

    /// Returns the state that the module keeps for this namespace.
    ///
    /// Returns `None` while the namespace is being set up or taken down.
    pub(crate) fn state<T: PerNet>(&self) -> Option<&T> {
        // SAFETY: Only hooks and handlers call this function. Both are registered after the
        // per-namespace operations and unregistered before these, so the id of the pointer is
        // valid. The caller finds the namespace through its sockets, handlers or devices, and the
        // pointer's place lives for as long as the namespace has any of them. The slot that the
        // pointer leads to is freed a grace period after `exit`.
        unsafe {
            let slot = Slot::<T>::pointer(self.raw())
                .cast::<*const Slot<T>>()
                .read_volatile();
            slot.as_ref().map(|slot| &slot.state)
        }
    }

    /// Returns the loopback device of the namespace, which exists for as long as there are sockets.
    #[inline(always)]
    pub(crate) fn loopback<'a>(&'a self, rcu: Rcu<'a>) -> Option<Device<'a>> {
        // SAFETY: By the type invariants, the namespace is valid.
        let lo = unsafe { addr_of!((*self.raw()).loopback_dev).read_volatile() };

        // SAFETY: The device is valid if the pointer is not null, and the device is freed a grace
        // period after it is gone.
        Some(unsafe { Device::new(NonNull::new(lo)?, rcu) })
    }

    /// Returns a number that no other namespace ever has.
    pub(crate) fn cookie(&self) -> u64 {
        // SAFETY: By the type invariants, the namespace is valid; the cookie was set when the
        // namespace was made.
        unsafe { (*self.raw()).net_cookie }
    }

    /// Returns the namespace that the host began with.
    pub(crate) fn host() -> &'static Self {
        // SAFETY: `init_net` is initialised long before a module is loaded, and is never freed.
        unsafe { Self::from_raw(core::ptr::addr_of_mut!(bindings::init_net)) }
    }

    /// Returns whether this is the namespace that the host began with.
    pub(crate) fn is_host(&self) -> bool {
        core::ptr::eq(self, Self::host())
    }

    /// Returns the namespace's device with the interface index `index`.
    pub(crate) fn device<'a>(&'a self, index: c_int, rcu: Rcu<'a>) -> Option<Device<'a>> {
        // SAFETY: By the type invariants, the namespace is valid, and `rcu` proves an RCU read-side
        // critical section.
        let dev = unsafe { bindings::dev_get_by_index_rcu(self.raw(), index) };

        // SAFETY: The look-up returns null or a valid device, which is freed a grace period after
        // it is gone.
        Some(unsafe { Device::new(NonNull::new(dev)?, rcu) })
    }
}

/// The state that a module keeps for each namespace, and the files and sysctls that the module has
/// there.
pub(crate) trait PerNet: Sized + Send + Sync + 'static {
    /// The name of the file below `/proc/net` that [`PerNet::show`] writes.
    const FILE: &'static CStr;
    /// The name of the file below `/proc/net` with a line for each established socket.
    const SOCKETS: &'static CStr;
    /// The sysctls below `net.ipv4`.
    const SYSCTLS: &'static [Sysctl<Self>];

    /// Returns where the C side stores the id of the per-namespace pointer. No two types share this
    /// variable.
    fn id() -> &'static Atomic<u32>;

    /// Makes the state of a namespace that is being set up. May sleep.
    fn new() -> Result<Self>;

    /// Writes the file [`PerNet::FILE`]. May sleep.
    fn show(&self, seq: &SeqFile);

    /// Writes the first line of [`PerNet::SOCKETS`].
    fn show_head(seq: &SeqFile);

    /// Writes the line of `sock`, if `sock` has a line. The caller holds the lock of the socket's
    /// bucket in the table of established sockets.
    fn show_socket(seq: &SeqFile, sock: &super::Sock, rcu: Rcu<'_>);

    /// Handles the removal of the namespace `net` or the unloading of the module. From now on, no
    /// connection is established in the namespace, or none that the module is notified of. May
    /// sleep.
    fn gone(&self, net: &Net);
}

/// The allocation that the per-namespace pointer leads to.
pub(super) struct Slot<T> {
    pub(super) state: T,
    pub(super) net: *mut bindings::net,
    tables: KVec<bindings::ctl_table>,
    header: *mut bindings::ctl_table_header,
    rcu: Opaque<bindings::callback_head>,
}

impl<T: PerNet> Slot<T> {
    /// Sets up the state of a namespace.
    ///
    /// # Safety
    ///
    /// The caller follows the contract of `pernet_operations.init`.
    unsafe extern "C" fn init(net: *mut bindings::net) -> c_int {
        // SAFETY: By the function's safety requirements, `net` is a namespace that is being set up,
        // or that existed before the operations were registered.
        match unsafe { Self::create(net) } {
            Ok(()) => 0,
            Err(err) => err.to_errno(),
        }
    }

    /// Makes the state, the sysctls and the files of a namespace.
    ///
    /// # Safety
    ///
    /// `net` is a namespace that is being set up, or that existed before the operations were
    /// registered.
    unsafe fn create(net: *mut bindings::net) -> Result {
        let slot = KBox::into_raw(KBox::new(
            Self {
                state: T::new()?,
                net,
                tables: KVec::new(),
                header: core::ptr::null_mut(),
                rcu: Opaque::uninit(),
            },
            GFP_KERNEL,
        )?);
        // SAFETY: By the function's safety requirements, the namespace is valid.
        let is_host = unsafe { Net::from_raw(net) }.is_host();
        // SAFETY: The slot was just allocated, and nobody else uses it yet. The slot lives until a
        // grace period after `destroy`. The sysctl tables are registered once all of them are in
        // place.
        let (has_tables, proc) = unsafe {
            Self::pointer(net).write_volatile(slot);
            let has_tables = sysctl::tables(slot, is_host, &mut (*slot).tables).is_ok();
            if has_tables {
                (*slot).header = bindings::register_net_sysctl_sz(
                    net,
                    c"net/ipv4".as_char_ptr(),
                    (*slot).tables.as_ptr(),
                    (*slot).tables.len(),
                );
            }
            let stat = bindings::proc_create_net_single(
                T::FILE.as_char_ptr(),
                0o444,
                (*net).proc_net,
                Some(Self::show),
                core::ptr::null_mut(),
            );
            (has_tables, [!stat.is_null(), proc::create::<T>(net)])
        };
        // SAFETY: The slot was allocated above, and is freed only after `destroy`.
        if !has_tables || unsafe { (*slot).header.is_null() } || proc != [true; 2] {
            // SAFETY: The pointer of the namespace was set above, and `proc` says which files were
            // made.
            unsafe { Self::destroy(net, proc) };
            return Err(ENOMEM);
        }
        Ok(())
    }

    /// Removes the files and sysctls of a namespace, and frees its state after a grace period.
    ///
    /// # Safety
    ///
    /// `net` is a namespace whose pointer was set by `create`, and `proc` says which of its files
    /// exist.
    unsafe fn destroy(net: *mut bindings::net, proc: [bool; 2]) {
        // SAFETY: By the function's safety requirements, the namespace and its slot are valid. The
        // calls that unregister files and sysctls wait for the handlers that still run.
        unsafe {
            let slot = Self::pointer(net).read_volatile();

            for (there, name) in proc.into_iter().zip([T::FILE, T::SOCKETS]) {
                if there {
                    bindings::remove_proc_entry(name.as_char_ptr(), (*net).proc_net);
                }
            }
            if !(*slot).header.is_null() {
                bindings::unregister_net_sysctl_table((*slot).header);
            }
            (*slot).state.gone(Net::from_raw(net));
            Self::pointer(net).write_volatile(core::ptr::null_mut());
            // A hook that has found the state through a socket may still use the state.
            bindings::call_rcu((*slot).rcu.get(), Some(Self::free));
        }
    }

    /// Frees a slot.
    ///
    /// # Safety
    ///
    /// `head` is the field `rcu` of a slot that nobody can reach any more.
    unsafe extern "C" fn free(head: *mut bindings::callback_head) {
        // SAFETY: By the function's safety requirements, `head` is in a slot, and `Opaque` is
        // transparent. The slot came from `KBox::into_raw()` in `create`.
        unsafe {
            let slot = kernel::container_of!(Opaque::cast_from(head), Self, rcu);

            drop(KBox::from_raw(slot.cast_mut()));
        }
    }

    /// Takes down the state of a namespace.
    ///
    /// # Safety
    ///
    /// The caller follows the contract of `pernet_operations.exit`.
    unsafe extern "C" fn exit(net: *mut bindings::net) {
        // SAFETY: `init` succeeded for this namespace, so `create` has set its pointer and made
        // both files.
        unsafe { Self::destroy(net, [true; 2]) };
    }

    /// Returns where the pointer of a namespace is stored.
    ///
    /// # Safety
    ///
    /// `net` is a valid namespace, and the module's per-namespace operations are registered.
    unsafe fn pointer(net: *mut bindings::net) -> *mut *mut Self {
        // SAFETY: By the function's safety requirements, the namespace and the id are valid. The C
        // side allocated room for one pointer, and zeroed it.
        unsafe { bindings::net_generic(net, T::id().load(Relaxed)).cast() }
    }

    /// Writes the file [`PerNet::FILE`].
    ///
    /// # Safety
    ///
    /// The caller follows the contract of the `show` function of `proc_create_net_single()`.
    unsafe extern "C" fn show(seq: *mut bindings::seq_file, _v: *mut c_void) -> c_int {
        // SAFETY: The C side passes a file that was opened for one namespace, and the file keeps
        // that namespace alive.
        let (net, seq) = unsafe {
            (
                Net::from_raw(bindings::seq_file_single_net(seq)),
                SeqFile::from_raw(seq),
            )
        };
        if let Some(state) = net.state::<T>() {
            state.show(seq);
        }
        0
    }
}

/// Calls `f` for each namespace. Meanwhile, no namespace is added to the list or removed from it.
/// May sleep, and so may `f`.
pub(crate) fn for_each_namespace(f: impl Fn(&Net)) {
    // SAFETY: The list of namespaces changes only while `net_rwsem` is held for writing. This
    // function holds it for reading, so the entries are namespaces that stay alive.
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

/// The registration of the per-namespace state. Dropping it removes the state from all namespaces.
///
/// # Invariants
///
/// The boxed operations are registered.
pub(crate) struct Registration<T>(NonNull<bindings::pernet_operations>, PhantomData<T>);

// SAFETY: The only operation on a value is to drop it, which any thread may do.
unsafe impl<T> Send for Registration<T> {}
// SAFETY: No operation is possible through a shared reference.
unsafe impl<T> Sync for Registration<T> {}

impl<T: PerNet> Registration<T> {
    /// Makes the state of every namespace that exists now or is set up later. May sleep.
    pub(crate) fn new() -> Result<Self> {
        let ops = KBox::new(
            bindings::pernet_operations {
                init: Some(Slot::<T>::init),
                exit: Some(Slot::<T>::exit),
                id: T::id().as_ptr(),
                size: size_of::<*mut Slot<T>>(),
                ..Default::default()
            },
            GFP_KERNEL,
        )?;
        let ops = NonNull::from(KBox::leak(ops));
        // SAFETY: The operations live until they are unregistered, either below or in `drop`.
        let ret = to_result(unsafe { bindings::register_pernet_subsys(ops.as_ptr()) });
        if ret.is_err() {
            // SAFETY: The registration failed, so the C side does not use the operations, which
            // came from a `KBox`.
            drop(unsafe { KBox::from_raw(ops.as_ptr()) });
            // `init` may have succeeded for some namespaces. Callbacks that are code of this module
            // free the state of these namespaces, so the callbacks must finish first.
            rcu::rcu_barrier();
        }
        // INVARIANT: `ret` is `Ok` only if the operations have just been registered.
        ret.map(|()| Self(ops, PhantomData))
    }
}

impl<T> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, the operations are registered and boxed. Nobody uses them
        // after the unregistration.
        unsafe {
            bindings::unregister_pernet_subsys(self.0.as_ptr());
            drop(KBox::from_raw(self.0.as_ptr()));
        }
        // RCU callbacks that are code of this module free pairs and the state of namespaces, so the
        // callbacks must finish before the module goes away.
        rcu::rcu_barrier();
    }
}
