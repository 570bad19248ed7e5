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
    may_reschedule,
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

/// So many sockets are shown with a bucket's lock held. A namespace may have a table of its own
/// with one bucket (`net.ipv4.tcp_child_ehash_entries`).
pub(crate) const AT_ONCE: usize = 64;

/// For so many something is done, which takes less.
const DONE_AT_ONCE: usize = 512;

/// Calls `f` for each full socket of the namespace in the table, with the lock of its bucket held
/// and bottom halves off. TCP takes that lock inside a socket's, which `f` may therefore only try.
/// May sleep, but not in `f`.
///
/// `f` returns whether there was something to do, which must not be there when it is called again:
/// a long bucket is gone through several times. Sockets that come or go meanwhile may be missed.
pub(crate) fn for_each_established(
    net: &Net,
    mut f: impl FnMut(&Sock, &mut Trying<'_>, Rcu<'_>) -> bool,
) {
    let mut next = 0;

    while let Some(bucket) = filled_bucket(net, next) {
        let mut left = DONE_AT_ONCE;
        let is_through = walk(net, bucket, |_, sock, trying, rcu| {
            if sock.is_some_and(|sock| f(sock, trying, rcu)) {
                left = left.wrapping_sub(1);
            }
            left != 0
        });

        next = bucket.saturating_add(is_through.into());
        may_reschedule();
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
            may_reschedule();
        }
        // SAFETY: The bucket is one of the table's. A word that may change under us.
        !is_nulls(unsafe {
            addr_of!((*(*hashinfo).ehash.add(bucket as usize)).chain.first).read_volatile()
        })
    })
}

/// Whether there is a socket at that place of the bucket, of any namespace.
pub(crate) fn is_filled_to(net: &Net, bucket: u32, place: usize) -> bool {
    !walk(net, bucket, |at, _, _, _| at < place)
}

/// Calls `f` for each full socket of the namespace among the [`AT_ONCE`] of that bucket from that
/// place on, as [`for_each_established`].
pub(crate) fn in_bucket(net: &Net, bucket: u32, from: usize, mut f: impl FnMut(&Sock, Rcu<'_>)) {
    walk(net, bucket, |at, sock, _, rcu| {
        if let Some(sock) = sock.filter(|_| at >= from) {
            f(sock, rcu);
        }
        at.wrapping_sub(from).wrapping_add(1) != AT_ONCE
    });
}

/// Goes through that bucket, with its lock held and bottom halves off, for as long as `f` returns
/// true. It is given the place of each socket, and the socket if it is a full one of the
/// namespace. Returns whether it has come to the end.
fn walk(
    net: &Net,
    bucket: u32,
    mut f: impl FnMut(usize, Option<&Sock>, &mut Trying<'_>, Rcu<'_>) -> bool,
) -> bool {
    let hashinfo = table(net);
    let mut goes_on = true;
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
        let mut place = 0usize;
        while goes_on && !is_nulls(node) {
            // The node is the socket's `skc_nulls_node`.
            let sk = node
                .byte_sub(core::mem::offset_of!(
                    bindings::sock,
                    __sk_common.__bindgen_anon_6
                ))
                .cast::<bindings::sock>();
            let is_ours =
                bindings::sk_fullsock(sk) && core::ptr::eq(bindings::sock_net(sk), net.raw());

            goes_on = f(
                place,
                is_ours.then(|| Sock::from_raw(sk)),
                &mut Trying::new(),
                Rcu::new(),
            );
            place = place.wrapping_add(1);
            node = addr_of!((*node).next).read_volatile();
        }
        bindings::spin_unlock(lock);
        bindings::local_bh_enable();
        bindings::rcu_read_unlock();
    }
    goes_on
}

/// The end of a chain is an odd number in place of a pointer.
fn is_nulls(node: *mut bindings::hlist_nulls_node) -> bool {
    node.addr() & 1 != 0
}
