// SPDX-License-Identifier: GPL-2.0

//! The netfilter hooks of a network namespace. This file shows whether a namespace has hooks, or a
//! connection tracker among them, that see the packets of a connection.
//!
//! C headers: [`include/linux/netfilter.h`](srctree/include/linux/netfilter.h),
//! [`include/net/netns/netfilter.h`](srctree/include/net/netns/netfilter.h)

use core::ptr::addr_of;

use kernel::{
    bindings,
    prelude::*, //
};

use super::{
    context::Rcu,
    netns::Net, //
};

impl Net {
    /// Returns whether connection tracking is on for IPv4 or IPv6.
    #[cfg(CONFIG_NETFILTER)]
    #[inline(always)]
    pub(crate) fn tracks_connections(&self, _rcu: Rcu<'_>) -> bool {
        const OUT: usize = bindings::nf_inet_hooks_NF_INET_LOCAL_OUT as usize;

        // SAFETY: By the type invariants, the namespace is valid. The arrays of hooks are freed a
        // grace period after their replacement, and `_rcu` proves an RCU read-side critical
        // section.
        unsafe {
            let nf = addr_of!((*self.raw()).nf);
            let v4 = addr_of!((*nf).hooks_ipv4[OUT]).read_volatile();
            let v6 = addr_of!((*nf).hooks_ipv6[OUT]).read_volatile();

            v4.addr() | v6.addr() != 0 && (has_tracker(v4) || has_tracker(v6))
        }
    }

    /// Returns whether netfilter has a hook that the loopback device's packets pass: when they are
    /// sent or received by this host ([`OF_THIS_HOST`]), or on the device itself.
    #[inline(never)]
    pub(crate) fn filters_loopback(&self, rcu: Rcu<'_>) -> bool {
        // SAFETY: By the type invariants, the namespace is valid.
        let hooked = unsafe { is_hooked(self.raw(), &OF_THIS_HOST, rcu) };

        hooked || self.loopback(rcu).is_none_or(|lo| lo.hooks() != 0)
    }

    /// Returns whether netfilter has a hook for packets of any device of this namespace, including
    /// the packets that pass a bridge or are forwarded.
    pub(crate) fn filters(&self, rcu: Rcu<'_>) -> bool {
        // SAFETY: By the type invariants, the namespace is valid.
        unsafe { filters(self.raw(), rcu) }
    }

    /// Returns `false`: a kernel without netfilter tracks no connections.
    #[cfg(not(CONFIG_NETFILTER))]
    #[inline(always)]
    pub(crate) fn tracks_connections(&self, _rcu: Rcu<'_>) -> bool {
        false
    }
}

/// The hooks that a packet passes when this host sends the packet to itself.
const OF_THIS_HOST: [c_uint; 4] = [
    bindings::nf_inet_hooks_NF_INET_PRE_ROUTING,
    bindings::nf_inet_hooks_NF_INET_LOCAL_IN,
    bindings::nf_inet_hooks_NF_INET_LOCAL_OUT,
    bindings::nf_inet_hooks_NF_INET_POST_ROUTING,
];

/// Returns whether netfilter has a hook at one of `places`, for IPv4 or IPv6.
///
/// # Safety
///
/// `net` is a valid namespace.
#[cfg(CONFIG_NETFILTER)]
unsafe fn is_hooked(net: *const bindings::net, places: &[c_uint], _rcu: Rcu<'_>) -> bool {
    places.iter().any(|&place| {
        // SAFETY: By the function's safety requirements, the namespace is valid. The places are
        // indices of its arrays, which are freed a grace period after their replacement, and `_rcu`
        // proves an RCU read-side critical section.
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

/// Returns `false`: a kernel without netfilter has no hooks.
///
/// # Safety
///
/// The function has no safety requirements.
#[cfg(not(CONFIG_NETFILTER))]
unsafe fn is_hooked(_net: *const bindings::net, _places: &[c_uint], _rcu: Rcu<'_>) -> bool {
    false
}

/// Returns whether `hooks` has any hook other than those of `br_netfilter`.
///
/// Each namespace that has a bridge has the hooks of `br_netfilter`. These hooks decide nothing
/// themselves: they pass what a bridge forwards to the hooks of IPv4 and IPv6, which are checked
/// separately.
///
/// # Safety
///
/// `hooks` is null or a valid array of hooks, and the caller is in an RCU read-side critical
/// section.
#[cfg(CONFIG_NETFILTER)]
unsafe fn has_hook(hooks: *const bindings::nf_hook_entries) -> bool {
    if hooks.is_null() {
        return false;
    }
    // SAFETY: By the function's safety requirements, the array is valid. As many pointers to the
    // hooks' descriptions follow the hooks, and the descriptions are valid for as long as the array
    // (`nfnetlink_hook` relies on this, too).
    unsafe {
        let ops = bindings::nf_hook_entries_get_hook_ops(hooks);

        (0..usize::from((*hooks).num_hook_entries)).any(|i| !is_of_br_netfilter(&**ops.add(i)))
    }
}

/// Returns whether `ops` describes a hook of `br_netfilter`.
///
/// The functions of `br_nf_ops` have no names here, so this compares everything else that is known
/// of these descriptions. Hooks of tables and programs differ by a type or data of their own.
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
            // The priorities are NF_BR_PRI_BRNF, NF_BR_PRI_LAST and NF_IP_PRI_FIRST.
            (BRIDGE, PRE_ROUTING | FORWARD, 0)
                | (BRIDGE, LOCAL_IN | POST_ROUTING, c_int::MAX)
                | (IPV4 | IPV6, PRE_ROUTING, c_int::MIN)
        )
}

/// Returns whether netfilter has a hook for packets of any device of `net`.
///
/// # Safety
///
/// `net` is a valid namespace.
unsafe fn filters(net: *const bindings::net, rcu: Rcu<'_>) -> bool {
    const FORWARD: c_uint = bindings::nf_inet_hooks_NF_INET_FORWARD;

    #[cfg(CONFIG_NETFILTER_FAMILY_BRIDGE)]
    // SAFETY: By the function's safety requirements, the namespace is valid. The arrays of hooks
    // are freed a grace period after their replacement, and `rcu` proves an RCU read-side critical
    // section.
    let of_bridges = unsafe {
        let all = addr_of!((*net).nf.hooks_bridge);

        (0..bindings::nf_inet_hooks_NF_INET_NUMHOOKS as usize)
            .any(|place| has_hook(addr_of!((*all)[place]).read_volatile()))
    };
    #[cfg(not(CONFIG_NETFILTER_FAMILY_BRIDGE))]
    let of_bridges = false;

    // SAFETY: By the function's safety requirements, the namespace is valid.
    of_bridges || unsafe { is_hooked(net, &OF_THIS_HOST, rcu) || is_hooked(net, &[FORWARD], rcu) }
}

/// Returns whether the connection tracker is among the hooks of packets that leave.
///
/// The priority shows the tracker (`NF_IP_PRI_CONNTRACK`, which IPv6 uses, too). Another hook with
/// this priority would be mistaken for the tracker.
///
/// # Safety
///
/// `hooks` is null or a valid array of hooks, and the caller is in an RCU read-side critical
/// section.
#[cfg(CONFIG_NETFILTER)]
#[cold]
unsafe fn has_tracker(hooks: *const bindings::nf_hook_entries) -> bool {
    if hooks.is_null() {
        return false;
    }
    // SAFETY: By the function's safety requirements, the array is valid. As many pointers to the
    // hooks' descriptions follow the hooks, and the descriptions are valid for as long as the array
    // (`nfnetlink_hook` relies on this, too).
    unsafe {
        let ops = bindings::nf_hook_entries_get_hook_ops(hooks);

        (0..usize::from((*hooks).num_hook_entries))
            .any(|i| (**ops.add(i)).priority == bindings::nf_ip_hook_priorities_NF_IP_PRI_CONNTRACK)
    }
}
