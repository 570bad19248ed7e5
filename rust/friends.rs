// SPDX-License-Identifier: GPL-2.0

//! TCP friends: same-host TCP without the wire.
//!
//! Two sockets of one connection whose ends are both on this host are paired
//! when the connection is established. From then on what one has to transmit
//! is moved from its write queue straight to the other's receive queue, and
//! both sequence spaces advance as if it had been sent, received and
//! acknowledged. All above and below that step is TCP's own.
//!
//! ```text
//!  tcp_sendmsg() -> write queue == friends: move the skb ==> receive queue -> tcp_recvmsg()
//!                       |                                        ^
//!                       +-- the wire: segment, IP, lo, softirq --+   always legal
//! ```
//!
//! # The four invariants
//!
//! Every function that moves data or takes a lock names those that it relies on.
//!
//! 1. *Exact sequence.* After `[a, b)` has been moved from S to P,
//!    `S.snd_una == S.snd_nxt == b` and `P.rcv_nxt == b`; an skb is in exactly one
//!    queue: S's write queue or P's receive queue. A move of an skb is a move of a
//!    value of type [`abstractions::Skb`]. Nobody moves anything unless both sockets
//!    are its own: what is for a socket that a task owns waits in the write queue.
//! 2. *One path at a time.* Data is moved only when nothing of S is in flight on
//!    the wire and P has nothing out of order. Otherwise the wire carries it.
//! 3. *The wire is always legal.* At any moment either end may put a segment on
//!    the wire and the other accepts it: the windows are in step too.
//! 4. *Unfriending is clearing a pointer.* By the first three nothing has to be
//!    drained or converted.
//!
//! # Who does what
//!
//! - [`pairing`]: who becomes friends; [`crossing`]: and in other namespaces.
//! - [`transmit`]: the sender moves what it has.
//! - [`fast_send`], [`fast_recv`]: the plain calls, without the write queue and
//!   without owning a socket; [`bulk_send`]: large writes, copied without a spinlock.
//! - [`read`]: the reader, or who lets go of a socket, fetches what waited.
//! - [`moving`]: the step that both share.
//! - [`fence`]: who must take the wire, and why.
//! - [`growth`]: the receive buffer of a stream of small messages.
//! - [`half`]: what each end keeps.
//! - [`revalidate`]: now and then the wire is asked whether it still lets us.
//! - [`hold`]: what cork and Nagle keep back.
//! - [`window`], [`seq`]: the arithmetic.
//! - [`namespace`], [`stats`], [`listing`]: the switch, the counters, the connections.
//! - [`abstractions`]: the kernel, behind safe interfaces; the lock order.

use kernel::prelude::*;

#[path = "net/mod.rs"]
mod abstractions;
#[path = "datapath/send_large.rs"]
mod bulk_send;
#[path = "cross/handshake.rs"]
mod crossing;
#[path = "datapath/recv.rs"]
mod fast_recv;
#[path = "datapath/send.rs"]
mod fast_send;
#[path = "pair/eligible.rs"]
mod fence;
#[path = "pair/rcvbuf.rs"]
mod growth;
#[path = "pair/end.rs"]
mod half;
#[path = "net/nagle.rs"]
mod hold;
#[path = "show.rs"]
mod listing;
#[path = "datapath/transfer.rs"]
mod moving;
#[path = "netns.rs"]
mod namespace;
#[path = "establish.rs"]
mod pairing;
#[path = "datapath/pull.rs"]
mod read;
#[path = "pair/revalidate.rs"]
mod revalidate;
#[path = "net/seq.rs"]
mod seq;
mod stats;
#[path = "datapath/xmit.rs"]
mod transmit;
#[path = "pair/window.rs"]
mod window;

use abstractions::{
    Arrival,
    Caller,
    Destination,
    Device,
    DevicesRegistration,
    Hooks,
    HooksRegistration,
    Mark,
    Member,
    NamespaceRegistration,
    OffersRegistration,
    Opening,
    Owned,
    Process,
    Rcu,
    Read,
    Request,
    Sock,
    Source,
    SpentRegistration,
    Spinlocked,
    Xmit, //
};

module! {
    type: Friends,
    name: "tcp_friends",
    authors: ["TCP friends maintainers"],
    description: "Same-host TCP without the wire",
    license: "GPL",
}

/// The loaded module. Pairs go first, then the hooks: fields are dropped in order.
struct Friends {
    _hooks: HooksRegistration,
    _devices: DevicesRegistration,
    _namespaces: NamespaceRegistration,
    // Sysctls look there.
    _offers: OffersRegistration,
    _spent: SpentRegistration,
}

impl Drop for Friends {
    fn drop(&mut self) {
        pairing::stop();
    }
}

impl kernel::Module for Friends {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let spent = SpentRegistration::new()?;
        let offers = OffersRegistration::new()?;
        let namespaces = NamespaceRegistration::new()?;
        let devices = DevicesRegistration::new()?;
        let friends = Self {
            _hooks: HooksRegistration::new::<Self>()?,
            _devices: devices,
            _namespaces: namespaces,
            _offers: offers,
            _spent: spent,
        };

        // It may have been switched on already.
        crossing::switched();
        Ok(friends)
    }
}

impl Hooks for Friends {
    fn established(sock: &Sock, arrival: Arrival, mark: Option<Mark>, rcu: Rcu<'_>) {
        pairing::established(sock, arrival, mark, rcu);
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
        transmit::xmit(sock, caller, mss, nonagle, probe, rcu)
    }

    #[inline]
    fn read(sock: &Sock, caller: Caller<'_>, rcu: Rcu<'_>) -> Read {
        read::read(sock, caller, rcu)
    }

    fn released(sock: &Sock, locked: Spinlocked<'_>, rcu: Rcu<'_>) -> Read {
        read::released(sock, locked, rcu)
    }

    #[inline]
    fn send(sock: &Sock, from: Source<'_>, process: Process<'_>, rcu: Rcu<'_>) -> usize {
        fast_send::send(sock, from, process, rcu)
    }

    fn send_owned(sock: &Sock, from: Source<'_>, owned: Owned<'_>, rcu: Rcu<'_>) -> usize {
        bulk_send::send_owned(sock, from, owned, rcu)
    }

    #[inline]
    fn recv(
        sock: &Sock,
        to: Destination<'_>,
        len: usize,
        process: Process<'_>,
        rcu: Rcu<'_>,
    ) -> usize {
        fast_recv::recv(sock, to, len, process, rcu)
    }

    fn gone(sock: &Sock, rcu: Rcu<'_>) {
        if let Some(member) = Member::of(sock, rcu) {
            pairing::part(&member);
        } else {
            crossing::withdrawn(sock);
        }
    }

    fn hop(mark: Mark, device: Device<'_>) {
        crossing::hop(mark, device);
    }

    fn syn(sock: &Sock, syn: Opening, rcu: Rcu<'_>) {
        crossing::syn(sock, syn, rcu);
    }

    fn synack(request: &Request<'_>, offered: Option<Mark>, synack: Opening) {
        crossing::synack(request, offered, synack);
    }
}
