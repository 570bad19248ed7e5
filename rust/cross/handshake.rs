// SPDX-License-Identifier: GPL-2.0

//! Friends across namespaces: who is the other end, where an address does not tell.
//!
//! ```text
//!  client                                                    server
//!    | SYN, marked: makes an offer                             |
//!    |--- veth -- bridge -- NAT -- veth ---------------------->| it has arrived: at this end,
//!    |    each device is noted                                 | seen with these addresses
//!    |                               SYN-ACK, marked likewise  |
//!    |<--------------------------------------------------------|
//!    | established: the offer stays, since it was answered     |
//!    |--- ACK ------------------------------------------------>| established: accepts the offer
//! ```
//!
//! A mark is a number that is given once, on an skb extension that only this kernel can
//! have made; it is lost where a segment leaves the host or passes through user space.
//! The two ends need not agree on addresses: the server's end says which it sees when
//! the SYN arrives, and by those its child finds the offer. Sequence numbers are
//! compared besides, as for any pair, so that what splices two connections is never
//! taken for one.
//!
//! Both namespaces have `net.ipv4.tcp_friends` on, and the host's administrator
//! `net.ipv4.tcp_friends_cross`.
//!
//! Locks: those of [`offers`], and of the ways of crossing pairs.

use kernel::sync::{
    atomic::{
        Atomic,
        Relaxed, //
    },
    rcu, //
};

use crate::{
    abstractions::{
        offers,
        one_at_a_time,
        part_crossing,
        tell_crosses,
        Arrival,
        Change,
        Device,
        End,
        Mark,
        Opening,
        Rcu,
        Request,
        Sock, //
    },
    pairing,
    revalidate,
    stats::Counter, //
};

/// `net.ipv4.tcp_friends_cross`.
static CROSS: Atomic<i8> = Atomic::new(0);

/// The sysctl's byte.
pub(crate) fn switch() -> &'static Atomic<i8> {
    &CROSS
}

fn on() -> bool {
    CROSS.load(Relaxed) != 0 && !pairing::stopped()
}

/// The sysctl was written, or the hooks are there now. May sleep.
///
/// Switched off, connections go on over the wire (invariant 4).
pub(crate) fn switched() {
    one_at_a_time(|| {
        let on = on();

        tell_crosses(on);
        if !on {
            // Who still saw it on has made its offer, or formed its pair, when this returns.
            rcu::synchronize_rcu();
            offers::withdraw_all();
            part_crossing(None, pairing::part);
        }
    });
}

/// A device goes, or gets a master that segments have not passed so far: pairs whose path it is
/// on part (invariant 4). An offer that passed it finds that out when it is accepted. May
/// sleep; `rtnl_mutex` is held.
pub(crate) fn device_changed(by: &Change) {
    part_crossing(Some(by), pairing::part);
}

/// A segment with that mark passes a device (hook).
pub(crate) fn hop(mark: Mark, device: Device<'_>) {
    match mark.question() {
        Some(question) => {
            if mark.is_for(device.namespace()) {
                revalidate::arrived(question);
            }
        }
        None => offers::passes(mark, device),
    }
}

/// `sock`, which the caller owns, sends its SYN (hook).
pub(crate) fn syn(sock: &Sock, syn: Opening, rcu: Rcu<'_>) {
    let net = sock.net();
    let Some(namespace) = net.state() else {
        return;
    };
    if !on()
        || !namespace.on()
        || sock.has_own_rules()
        || sock.opens_fast()
        || sock.has_ipsec(rcu)
        // An address finds the other end, unless it is made into another one on its way.
        || (sock.leads_to_loopback(rcu) && !net.tracks_connections(rcu))
    {
        return;
    }
    let Some(mark) = offers::make(sock, sock.isn()) else {
        return;
    };
    if syn.mark(mark) {
        namespace.count(Counter::Offered, 1);
    } else {
        offers::withdraw(sock);
    }
}

/// A listener answers a SYN, the mark of which is `offered` (hook). What either end sends again is
/// not marked: it may go another way, and who stands there would get a say for nothing.
pub(crate) fn synack(request: &Request<'_>, offered: Option<Mark>, synack: Opening) {
    let Some(namespace) = request.net().state() else {
        return;
    };
    if !on() || !namespace.on() {
        return;
    }
    let mark = offered.filter(|&mark| {
        mark.isn == request.isn() && offers::arrived(mark, request.end(), request.net())
    });
    if let Some(mark) = mark {
        // Without memory for it the client takes its offer back.
        synack.mark(mark);
    }
}

/// The end that connects is established, by a segment with that mark. What was not
/// answered by another end of this host is taken back.
pub(crate) fn opened(sock: &Sock, by: Option<Mark>, rcu: Rcu<'_>) {
    if !by.is_some_and(|mark| offers::is_answered(sock, mark, rcu)) {
        offers::withdraw(sock);
    }
}

/// `sock` has an offer, and a friend without it.
pub(crate) fn withdrawn(sock: &Sock) {
    offers::withdraw(sock);
}

/// Whether `sock`, a child that is established by a segment that came as `arrival`, has
/// accepted an offer, and has a friend now.
pub(crate) fn accept(sock: &Sock, arrival: Arrival, rcu: Rcu<'_>) -> bool {
    // The next byte that it expects is the one after the SYN.
    let isn = sock.peek_rcv_nxt().wrapping_sub(1);

    on() && offers::accept(End::of(sock), isn, rcu, |other, mut path| {
        if arrival == Arrival::Loopback {
            // No segment is forwarded to that one.
            if let Some(lo) = sock.net().loopback(rcu) {
                path.add(lo);
            }
        }
        path.is_whole() && pairing::join(sock, &other, Some(path), rcu)
    })
    .unwrap_or(false)
}

/// `sock` transmits, and has no friend. Once the other end has acknowledged more than the
/// SYN it has made its child, and either accepted the offer or never will.
#[cold]
pub(crate) fn expire(sock: &Sock) {
    if offers::is_late(sock) {
        offers::withdraw(sock);
    }
}
