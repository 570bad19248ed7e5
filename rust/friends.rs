// SPDX-License-Identifier: GPL-2.0

//! TCP friends: same-host TCP without the wire.
//!
//! If both ends of a connection are on this host, their two sockets are paired when the connection
//! is established, and become *friends*. From then on, the data that one socket has to transmit is
//! *moved* from its write queue straight to the peer's receive queue.
//! Both sequence spaces advance as if the data had been sent, received and acknowledged.
//! Everything above and below that step stays TCP's own. The *wire* is the ordinary path of TCP
//! through segments, IP and the loopback device, or through other devices between namespaces.
//!
//! ```text
//!  tcp_sendmsg() -> write queue == friends: move the skb ==> receive queue -> tcp_recvmsg()
//!                       |                                        ^
//!                       +-- the wire: segment, IP, lo, softirq --+   always legal
//! ```
//!
//! # The four invariants
//!
//! S is the sender and P is its peer, the receiver. Every function that moves data or takes a
//! lock names the invariants that it relies on.
//!
//! 1. *Exact sequence.* After the bytes `[a, b)` have been moved from S to P,
//!    `S.snd_una == S.snd_nxt == b` and `P.rcv_nxt == b`. An skb is in exactly one queue: S's
//!    write queue or P's receive queue. Moving an skb moves a value of type [`net::Skb`]. Data is
//!    moved only by a context that has exclusive access to both sockets. Data for a socket that
//!    is owned by user, for more than a read in place, waits in S's write queue.
//! 2. *One path at a time.* Data is moved only when S has nothing in flight on the wire and P has
//!    nothing out of order. Otherwise the wire carries the data.
//! 3. *The wire is always legal.* Either end may put a segment on the wire at any moment, and the
//!    other end accepts that segment. The windows of both ends are therefore kept in step as well.
//! 4. *Dissolving a pair is clearing a pointer.* Because of the first three invariants, nothing
//!    has to be drained or converted.
//!
//! # Where things are
//!
//! Folders and files are listed from the bottom up. Each uses only those listed before it.
//!
//! - [`net`] wraps the kernel's TCP in safe interfaces, and defines the lock order. It knows
//!   nothing about friends.
//! - [`stats`] names the reasons to take the wire and the counters. [`netns`] holds the module's
//!   state of a network namespace.
//! - [`pair`] handles two sockets that are friends. [`pair::form`] forms and dissolves the pair.
//!   [`pair::eligible`] decides whether the two must take the wire, and names the reason.
//!   [`pair::revalidate`] asks the wire from time to time whether it still carries the connection.
//!   [`pair::window`] keeps both windows in step, and [`pair::rcvbuf`] lets the receive buffer
//!   grow. [`pair::room`] makes a writer wait until its reader has made room. [`pair::end`] holds
//!   the state of each end. [`pair::path`] knows the devices that the segments of a pair between
//!   namespaces would pass, and [`pair::crossing`] lists all such pairs.
//! - [`cross`] finds the two ends of pairs between network namespaces. [`cross::handshake`] does so
//!   by the mark of a SYN. [`cross::proposals`] holds the sockets that wait for an answer.
//! - [`datapath`] moves bytes from one end to the other. [`datapath::xmit`] moves what a sender
//!   has in its write queue. [`datapath::pull`] moves what a sender had to leave in the write queue
//!   until its peer had read, or was released by its owner. Both use [`datapath::transfer`].
//!   [`datapath::send`] and [`datapath::recv`] are fast paths for plain calls, which do not need
//!   the write queue. [`datapath::send_large`] copies large writes without holding a spinlock. A
//!   large read owns its socket while it copies, but lets the friend queue data.
//! - [`show`] writes `/proc/net/tcp_friends` and `/proc/net/tcp_friends_stat`, and [`sysctl`]
//!   does what a write to a sysctl asks for. [`establish`] finds the two ends of all other pairs.

use kernel::prelude::*;

mod cross;
mod datapath;
mod establish;
mod net;
mod netns;
mod pair;
mod show;
mod stats;
mod sysctl;

use cross::{
    handshake,
    proposals, //
};
use datapath::{
    pull,
    recv,
    send,
    send_large,
    xmit, //
};
use net::{
    skb_cache,
    Arrival,
    Caller,
    Change,
    Destination,
    Device,
    DevicesRegistration,
    Hooks,
    HooksRegistration,
    Mark,
    NamespaceRegistration,
    Opening,
    Owned,
    Process,
    Rcu,
    Read,
    Request,
    Sock,
    Source,
    Spinlocked,
    Watcher,
    Write,
    Xmit, //
};
use netns::Namespace;
use pair::{
    form,
    Member, //
};

module! {
    type: Friends,
    name: "tcp_friends",
    authors: ["TCP friends maintainers"],
    description: "Same-host TCP without the wire",
    license: "GPL",
}

/// The loaded module.
///
/// Dropping the module dissolves all pairs first. The fields are dropped after that in the order
/// of their declaration, so the hooks are the first of them.
struct Friends {
    _hooks: HooksRegistration,
    _devices: DevicesRegistration,
    _namespaces: NamespaceRegistration<Namespace>,
    // The handlers of the sysctls use the proposals, so this field is dropped after `_namespaces`.
    _offers: proposals::Registration,
    _cache: skb_cache::Registration,
}

impl Drop for Friends {
    fn drop(&mut self) {
        establish::stop();
    }
}

impl kernel::Module for Friends {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let cache = skb_cache::Registration::new()?;
        let offers = proposals::Registration::new()?;
        let namespaces = NamespaceRegistration::new()?;
        let devices = DevicesRegistration::new::<Self>()?;
        let friends = Self {
            _hooks: HooksRegistration::new::<Self>(),
            _devices: devices,
            _namespaces: namespaces,
            _offers: offers,
            _cache: cache,
        };

        // `net.ipv4.tcp_friends_cross` may have been switched on before the hooks were registered.
        handshake::apply_switch();
        Ok(friends)
    }
}

impl Watcher for Friends {
    fn changed(change: &Change) {
        handshake::device_changed(change);
    }
}

impl Hooks for Friends {
    fn established(sock: &Sock, arrival: Arrival, mark: Option<Mark>, rcu: Rcu<'_>) {
        establish::established(sock, arrival, mark, rcu);
    }

    #[inline]
    fn xmit(
        sock: &Sock,
        caller: Caller<'_>,
        mss: u32,
        nonagle: u32,
        probe: bool,
        rcu: Rcu<'_>,
    ) -> Xmit {
        xmit::xmit(sock, caller, mss, nonagle, probe, rcu)
    }

    #[inline]
    fn read(sock: &Sock, caller: Caller<'_>, rcu: Rcu<'_>) -> Read {
        pull::read(sock, caller, rcu)
    }

    fn released(sock: &Sock, locked: Spinlocked<'_>, rcu: Rcu<'_>) -> Read {
        pull::released(sock, locked, rcu)
    }

    #[inline]
    fn send(sock: &Sock, from: Source<'_>, process: Process<'_>, rcu: Rcu<'_>) -> Write {
        if cfg!(tcp_friends_without = "send") {
            return Write::Tcp;
        }
        send::send(sock, from, process, rcu)
    }

    fn send_owned(sock: &Sock, from: Source<'_>, owned: Owned<'_>, rcu: Rcu<'_>) -> usize {
        if cfg!(tcp_friends_without = "large") {
            return 0;
        }
        send_large::send_owned(sock, from, owned, rcu)
    }

    #[inline]
    fn recv(
        sock: &Sock,
        to: Destination<'_>,
        len: usize,
        process: Process<'_>,
        rcu: Rcu<'_>,
    ) -> (usize, bool) {
        if cfg!(tcp_friends_without = "recv") {
            return (0, false);
        }
        recv::recv(sock, to, len, process, rcu)
    }

    fn detach(sock: &Sock, rcu: Rcu<'_>) {
        if let Some(member) = Member::of(sock, rcu) {
            form::unpair(&member);
        } else {
            handshake::withdraw(sock);
        }
    }

    fn hop(mark: Mark, device: Device<'_>) {
        handshake::hop(mark, device);
    }

    fn syn(sock: &Sock, syn: Opening, rcu: Rcu<'_>) {
        handshake::syn(sock, syn, rcu);
    }

    fn synack(request: &Request<'_>, offered: Option<Mark>, synack: Opening) {
        handshake::synack(request, offered, synack);
    }
}
