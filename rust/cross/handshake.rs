// SPDX-License-Identifier: GPL-2.0

//! Finds the peer of a connection whose addresses do not show the peer, mostly because the two
//! ends are in different network namespaces.
//!
//! ```text
//!  client                                                    server
//!    | makes a proposal and marks its SYN                      |
//!    |--- veth -- bridge -- NAT -- veth ---------------------->| the SYN arrives: the proposal
//!    |    each device is added to the path of the proposal     | notes this end's addresses
//!    |                                       marks the SYN-ACK |
//!    |<--------------------------------------------------------|
//!    | established: keeps the proposal, which was answered     |
//!    |--- ACK ------------------------------------------------>| established: accepts the proposal
//! ```
//!
//! A mark holds a number that is never used again, in an skb extension that only this kernel can
//! have made. The mark is lost where a segment leaves the host or passes through user space. The
//! two ends may see different addresses: when the SYN arrives, the server's end notes in the
//! proposal which addresses it sees, and by these addresses its child finds the proposal. Sequence
//! numbers are compared as well, as for any pair, so that two connections that are spliced are
//! never taken for one.
//!
//! Both namespaces must have `net.ipv4.tcp_friends` on, and the host's administrator must have set
//! `net.ipv4.tcp_friends_cross`.
//!
//! Locks: the functions here take the spinlocks of [`proposals`] and of
//! [`crossing`](crate::pair::crossing). [`switched`] also takes the mutex of [`one_at_a_time`].

use kernel::sync::{
    atomic::{
        Atomic,
        Relaxed, //
    },
    rcu, //
};

use crate::{
    cross::proposals,
    net::{
        enable_mark_hooks,
        Arrival,
        Change,
        Device,
        Endpoint,
        Mark,
        Opening,
        Rcu,
        Request,
        Sock, //
    },
    netns::Namespace,
    pair::{
        crossing::{
            one_at_a_time,
            unpair_crossing, //
        },
        form,
        path,
        revalidate, //
    },
    stats::Counter, //
};

/// The value of the sysctl `net.ipv4.tcp_friends_cross`.
static CROSS: Atomic<i8> = Atomic::new(0);

/// Returns the byte that the sysctl `net.ipv4.tcp_friends_cross` sets.
pub(crate) fn switch() -> &'static Atomic<i8> {
    &CROSS
}

fn on() -> bool {
    CROSS.load(Relaxed) != 0 && !form::stopped()
}

/// Puts the sysctl into effect after it was written, after the hooks were registered, and when the
/// module leaves. May sleep.
///
/// When crossing pairs are switched off, their connections go on over the wire (invariant 4).
pub(crate) fn apply_switch() {
    one_at_a_time(|| {
        let on = on();

        enable_mark_hooks(on);
        if !on {
            // Hooks that still saw the sysctl on have made their proposals, or formed their pairs,
            // when this grace period ends.
            rcu::synchronize_rcu();
            proposals::withdraw_all();
            unpair_crossing(None, form::unpair);
        }
    });
}

/// Dissolves the pairs whose path the change `by` affects: a device of the path goes, or gets a
/// master that the segments have not passed so far (invariant 4). A proposal whose path has the
/// device is refused when it is about to become a pair. May sleep; the caller holds `rtnl_mutex`.
pub(crate) fn device_changed(by: &Change) {
    // The count must change before the pairs are searched: `Crossing::link` relies on this order.
    path::device_changes(by);
    unpair_crossing(Some(by), form::unpair);
}

/// Notes that a segment with `mark` passes `device` (hook). A segment that revalidates a pair has
/// arrived when `device` is in the namespace that the mark names; a segment that opens a connection
/// adds `device` to the path of its proposal.
pub(crate) fn hop(mark: Mark, device: Device<'_>) {
    match mark.question() {
        Some(question) => {
            if mark.is_for(device.namespace()) {
                revalidate::arrived(question);
            }
        }
        None => proposals::add_device(mark, device),
    }
}

/// Makes a proposal for `sock`, which is about to send `syn`, and marks `syn` (hook). The caller
/// owns `sock`.
pub(crate) fn syn(sock: &Sock, syn: Opening, rcu: Rcu<'_>) {
    let net = sock.net();
    let Some(namespace) = Namespace::of(net) else {
        return;
    };
    if !on()
        || !namespace.on()
        || sock.has_conflicting_feature()
        || sock.will_use_fast_open()
        || sock.has_ipsec(rcu)
        // On a route to the loopback device the address is enough to find the peer, unless
        // connection tracking may translate the address on the way.
        || (sock.leads_to_loopback(rcu) && !net.tracks_connections(rcu))
    {
        return;
    }
    let Some(mark) = proposals::propose(sock, sock.isn()) else {
        return;
    };
    if syn.mark(mark) {
        namespace.count(Counter::Offered, 1);
    } else {
        proposals::withdraw(sock);
    }
}

/// Marks `synack`, the answer of a listener to a SYN whose mark is `offered`, if the SYN belongs to
/// a proposal (hook).
///
/// Neither end marks a segment that it sends again: such a segment may take another path, and the
/// devices there would get a say in a connection that does not pass them.
pub(crate) fn synack(request: &Request<'_>, offered: Option<Mark>, synack: Opening) {
    let Some(namespace) = Namespace::of(request.net()) else {
        return;
    };
    if !on() || !namespace.on() {
        return;
    }
    let mark = offered.filter(|&mark| {
        mark.isn == request.isn() && proposals::note_arrival(mark, request.end(), request.net())
    });
    if let Some(mark) = mark {
        // If there is no memory for the mark, the client withdraws its proposal.
        synack.mark(mark);
    }
}

/// Withdraws the proposal of `sock`, the end that connects, unless another end of this host has
/// answered the proposal. `by` is the mark of the segment that established `sock`, if that segment
/// has one.
pub(crate) fn client_established(sock: &Sock, by: Option<Mark>, rcu: Rcu<'_>) {
    if !by.is_some_and(|mark| proposals::note_answer(sock, mark, rcu)) {
        proposals::withdraw(sock);
    }
}

/// Withdraws the proposal of `sock`, if `sock` has one: `sock` is no longer fit for a friend, or
/// its peer was found by the address.
pub(crate) fn withdraw(sock: &Sock) {
    proposals::withdraw(sock);
}

/// Accepts the proposal whose SYN has led to `sock`, a child that is established by a segment that
/// came as `arrival`. Returns whether `sock` has a friend now.
pub(crate) fn accept(sock: &Sock, arrival: Arrival, rcu: Rcu<'_>) -> bool {
    // `sock` is just established, so `rcv_nxt` is the sequence number after the SYN.
    let isn = sock.peek_rcv_nxt().wrapping_sub(1);

    on() && proposals::accept(Endpoint::of(sock), isn, rcu, |other, mut path| {
        if arrival == Arrival::Loopback {
            // No segment is forwarded to the loopback device, so the `hop` hook has not added it.
            if let Some(lo) = sock.net().loopback(rcu) {
                path.add(lo);
            }
        }
        path.is_whole() && form::pair(sock, &other, Some(path), rcu)
    })
    .unwrap_or(false)
}

/// Withdraws the proposal of `sock`, which transmits and has no friend, if the proposal is late.
/// Once the other end has acknowledged more than the SYN, it has made its child, which has either
/// accepted the proposal or never will.
#[cold]
pub(crate) fn expire(sock: &Sock) {
    if proposals::is_late(sock) {
        proposals::withdraw(sock);
    }
}
