// SPDX-License-Identifier: GPL-2.0

//! Look-ups and walks in TCP's table of established sockets.
//!
//! A walk holds the lock of one bucket at a time. TCP takes that lock inside a socket's spinlock,
//! so a walk may only try to take a socket's spinlock.
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
    context::{
        cond_resched,
        Rcu, //
    },
    lock::Trying,
    netns::Net,
    sock::Sock, //
};

/// Returns the socket with the reversed addresses and ports in the namespace of `sock`: the other
/// end of the connection, if that end is on this host.
///
/// Addresses prove nothing by themselves, so the caller compares sequence numbers, too.
pub(crate) fn find_other_end(sock: &Sock, _rcu: Rcu<'_>) -> Option<ARef<Sock>> {
    let raw = sock.raw();
    let net = sock.net().raw();
    // The look-up takes the addresses of a packet that the other end would receive: the packet's
    // source is the local address of `sock`, and the packet comes in over the loopback device.
    let dif = bindings::LOOPBACK_IFINDEX as i32;

    // SAFETY: `raw` is a valid, hashed socket, so its addresses do not change. The look-ups must
    // run in an RCU read-side critical section, which `_rcu` proves, and return a counted reference
    // or null.
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

    // SAFETY: The look-up returned a reference, so the socket is valid, whatever its kind.
    if !unsafe { bindings::sk_fullsock(found.as_ptr()) } {
        // SAFETY: This gives back the reference that the look-up returned, and `sock_gen_put()`
        // handles sockets of all kinds.
        unsafe { bindings::sock_gen_put(found.as_ptr()) };
        return None;
    }
    // SAFETY: `found` is a full socket of TCP's table, and this passes on the look-up's reference.
    Some(unsafe { Sock::from_counted(found) })
}

/// The IPv6 look-up, if the kernel has IPv6.
struct V6;

impl V6 {
    /// Looks up an IPv6 socket.
    ///
    /// # Safety
    ///
    /// The caller follows the contract of `__inet6_lookup_established()`.
    #[cfg(CONFIG_IPV6)]
    unsafe fn lookup(
        net: *mut bindings::net,
        saddr: *const bindings::in6_addr,
        sport: u16,
        daddr: *const bindings::in6_addr,
        hnum: u16,
        dif: i32,
    ) -> *mut bindings::sock {
        // SAFETY: By the function's safety requirements, the arguments are valid.
        unsafe { bindings::__inet6_lookup_established(net, saddr, sport, daddr, hnum, dif, 0) }
    }

    /// Returns null: a kernel without IPv6 has no such socket.
    ///
    /// # Safety
    ///
    /// The function has no safety requirements.
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

/// The largest number of sockets that are shown while a bucket's lock is held. The number is
/// bounded because a namespace may have a table of its own with a single bucket
/// (`net.ipv4.tcp_child_ehash_entries`).
pub(crate) const AT_ONCE: usize = 64;

/// The largest number of sockets for which [`for_each_established`] does something while a bucket's
/// lock is held. Doing so takes less time than showing a socket.
const DONE_AT_ONCE: usize = 512;

/// Calls `f` for each full socket of the namespace `net` in the table, with the lock of the
/// socket's bucket held and bottom halves off. TCP takes that lock inside a socket's spinlock, so
/// `f` may only try to take a socket's spinlock. May sleep, but `f` must not sleep.
///
/// `f` returns whether there was something to do for the socket. A long bucket is walked several
/// times, so there must be nothing left to do when `f` is called for the socket again. The walk may
/// miss sockets that come or go meanwhile.
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
        cond_resched();
    }
}

/// Returns the table that the sockets of `net` are in.
fn table(net: &Net) -> *mut bindings::inet_hashinfo {
    // SAFETY: The namespace is valid, and has a table for as long as it lives.
    unsafe { (*net.raw()).ipv4.tcp_death_row.hashinfo }
}

/// Returns the first bucket from `from` on that has a socket of any namespace, or `None` if all
/// buckets up to the last one are empty. May sleep.
pub(crate) fn filled_bucket(net: &Net, from: u32) -> Option<u32> {
    let hashinfo = table(net);
    // SAFETY: The table is valid, and its size never changes.
    let mask = unsafe { (*hashinfo).ehash_mask };

    (from..=mask).find(|&bucket| {
        if bucket % 1024 == 0 {
            cond_resched();
        }
        // SAFETY: The number of the bucket is not larger than the mask, so the table has the
        // bucket. Other CPUs may change the word that is read, which is never dereferenced.
        !is_nulls(unsafe {
            addr_of!((*(*hashinfo).ehash.add(bucket as usize)).chain.first).read_volatile()
        })
    })
}

/// Returns whether the bucket has a socket of any namespace at `place`.
pub(crate) fn has_place(net: &Net, bucket: u32, place: usize) -> bool {
    !walk(net, bucket, |at, _, _, _| at < place)
}

/// Calls `f` for each full socket of the namespace among the [`AT_ONCE`] sockets of the bucket from
/// the place `from` on. `f` is called with the bucket's lock held and bottom halves off.
pub(crate) fn in_bucket(net: &Net, bucket: u32, from: usize, mut f: impl FnMut(&Sock, Rcu<'_>)) {
    walk(net, bucket, |at, sock, _, rcu| {
        if let Some(sock) = sock.filter(|_| at >= from) {
            f(sock, rcu);
        }
        at.wrapping_sub(from).wrapping_add(1) != AT_ONCE
    });
}

/// Walks the bucket, with its lock held and bottom halves off, for as long as `f` returns true. `f`
/// gets the place of each socket, and the socket itself if it is a full socket of the namespace.
/// Returns false if `f` ended the walk.
fn walk(
    net: &Net,
    bucket: u32,
    mut f: impl FnMut(usize, Option<&Sock>, &mut Trying<'_>, Rcu<'_>) -> bool,
) -> bool {
    let hashinfo = table(net);
    let mut goes_on = true;
    // SAFETY: The table is valid, and its locks are taken with bottom halves off everywhere. The
    // number of the bucket is cut to the table's size, so the table has the bucket. A socket leaves
    // the bucket only with the lock held, so all sockets that the walk meets are valid.
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
            // The node is the field `skc_nulls_node` of the socket.
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

/// Returns whether `node` is the end of a chain, which is an odd number in place of a pointer.
fn is_nulls(node: *mut bindings::hlist_nulls_node) -> bool {
    node.addr() & 1 != 0
}
