// SPDX-License-Identifier: GPL-2.0

//! The table of established sockets.
//!
//! C header: [`include/net/inet_hashtables.h`](srctree/include/net/inet_hashtables.h)

use core::ptr::{
    addr_of,
    NonNull, //
};

use kernel::{
    bindings,
    sync::aref::ARef, //
};

use super::{
    namespace::Net,
    sock::{
        Rcu,
        Sock,
        Trying, //
    },
};

/// The socket with the reversed addresses and ports, in the same namespace: the
/// other end of the connection if that is on this host.
///
/// Addresses prove nothing by themselves; the caller compares sequence numbers.
pub(crate) fn find_other_end(sock: &Sock, _rcu: Rcu<'_>) -> Option<ARef<Sock>> {
    let raw = sock.raw();
    let net = sock.net().raw();
    // A packet of the other end has our addresses the other way round; it comes in on lo.
    let dif = bindings::LOOPBACK_IFINDEX as i32;

    // SAFETY: `raw` is a valid, hashed socket, so its addresses do not change. The look-ups want
    // RCU, which `_rcu` stands for, and return a counted reference or null.
    let found = unsafe {
        let common = addr_of!((*raw).__sk_common);
        let ports = (*common).__bindgen_anon_3.__bindgen_anon_1;
        let sport = (*raw.cast::<bindings::inet_sock>()).inet_sport;
        let hnum = u16::from_be(ports.skc_dport);
        let v6_daddr = addr_of!((*common).skc_v6_daddr);

        if u32::from((*common).skc_family) == bindings::AF_INET6
            && !bindings::ipv6_addr_v4mapped(v6_daddr)
        {
            V6::lookup(
                net,
                addr_of!((*common).skc_v6_rcv_saddr),
                sport,
                v6_daddr,
                hnum,
                dif,
            )
        } else {
            let addrs = (*common).__bindgen_anon_1.__bindgen_anon_1;
            bindings::__inet_lookup_established(
                net,
                addrs.skc_rcv_saddr,
                sport,
                addrs.skc_daddr,
                hnum,
                dif,
                0,
            )
        }
    };
    let found = NonNull::new(found)?;

    // SAFETY: We hold a reference, of whatever kind of socket it is.
    if !unsafe { bindings::sk_fullsock(found.as_ptr()) } {
        // SAFETY: As above; this knows all kinds.
        unsafe { bindings::sock_gen_put(found.as_ptr()) };
        return None;
    }
    // SAFETY: A full socket of TCP's table, and the reference is ours to give.
    Some(unsafe { Sock::from_counted(found) })
}

/// The IPv6 look-up, where the kernel has IPv6.
struct V6;

impl V6 {
    /// # Safety
    ///
    /// As `__inet6_lookup_established()`.
    #[cfg(CONFIG_IPV6)]
    unsafe fn lookup(
        net: *mut bindings::net,
        saddr: *const bindings::in6_addr,
        sport: u16,
        daddr: *const bindings::in6_addr,
        hnum: u16,
        dif: i32,
    ) -> *mut bindings::sock {
        // SAFETY: By the function's safety requirements.
        unsafe { bindings::__inet6_lookup_established(net, saddr, sport, daddr, hnum, dif, 0) }
    }

    #[cfg(not(CONFIG_IPV6))]
    unsafe fn lookup(
        _net: *mut bindings::net,
        _saddr: *const bindings::in6_addr,
        _sport: u16,
        _daddr: *const bindings::in6_addr,
        _hnum: u16,
        _dif: i32,
    ) -> *mut bindings::sock {
        core::ptr::null_mut()
    }
}

/// Calls `f` for each full socket of the namespace in the table, as [`in_bucket`].
///
/// Sockets that come or go meanwhile may be missed.
pub(crate) fn for_each_established(net: &Net, mut f: impl FnMut(&Sock, &mut Trying<'_>, Rcu<'_>)) {
    let mut next = 0;

    while let Some(bucket) = filled_bucket(net, next) {
        in_bucket(net, bucket, &mut f);
        next = bucket.saturating_add(1);
    }
}

/// The table that a namespace's sockets are in.
fn table(net: &Net) -> *mut bindings::inet_hashinfo {
    // SAFETY: A namespace has a table for as long as it lives.
    unsafe { (*net.raw()).ipv4.tcp_death_row.hashinfo }
}

/// The first bucket from `from` on that has something in it, of any namespace, or
/// `None` if there is none up to the last. May sleep.
pub(crate) fn filled_bucket(net: &Net, from: u32) -> Option<u32> {
    let hashinfo = table(net);
    // SAFETY: The table is valid; its size never changes.
    let mask = unsafe { (*hashinfo).ehash_mask };

    (from..=mask).find(|&bucket| {
        if bucket % 1024 == 0 {
            // SAFETY: The caller may sleep.
            unsafe { bindings::cond_resched() };
        }
        // SAFETY: The bucket is one of the table's. A word that may change under us.
        !is_nulls(unsafe {
            addr_of!((*(*hashinfo).ehash.add(bucket as usize)).chain.first).read_volatile()
        })
    })
}

/// Calls `f` for each full socket of the namespace in that bucket, with the bucket's
/// lock held and bottom halves off. TCP takes that inside a socket's lock, which `f` may
/// therefore only try.
pub(crate) fn in_bucket(
    net: &Net,
    bucket: u32,
    mut f: impl FnMut(&Sock, &mut Trying<'_>, Rcu<'_>),
) {
    let hashinfo = table(net);
    // SAFETY: The table is valid, and its lock is taken with bottom halves off everywhere. The
    // number is cut to the table's size, so it is a bucket's.
    unsafe {
        let bucket = bucket & (*hashinfo).ehash_mask;
        let first = addr_of!((*(*hashinfo).ehash.add(bucket as usize)).chain.first);
        let lock = bindings::inet_ehash_lockp(hashinfo, bucket);

        bindings::rcu_read_lock();
        bindings::local_bh_disable();
        bindings::spin_lock(lock);
        let mut node = first.read_volatile();
        while !is_nulls(node) {
            // The node is the socket's `skc_nulls_node`.
            let sk = node
                .byte_sub(core::mem::offset_of!(
                    bindings::sock,
                    __sk_common.__bindgen_anon_6
                ))
                .cast::<bindings::sock>();

            if bindings::sk_fullsock(sk) && core::ptr::eq(bindings::sock_net(sk), net.raw()) {
                f(Sock::from_raw(sk), &mut Trying::new(), Rcu::new());
            }
            node = addr_of!((*node).next).read_volatile();
        }
        bindings::spin_unlock(lock);
        bindings::local_bh_enable();
        bindings::rcu_read_unlock();
    }
}

/// The end of a chain is an odd number in place of a pointer.
fn is_nulls(node: *mut bindings::hlist_nulls_node) -> bool {
    node.addr() & 1 != 0
}
