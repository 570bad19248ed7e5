// SPDX-License-Identifier: GPL-2.0

//! Who becomes friends.
//!
//! The end that is established last pairs the two. That is the passive one,
//! except with Fast Open, where the child is there before the client hears of
//! it. Only here is it decided who a socket's peer is.
//!
//! Locks: the hook's socket is locked by the caller. The other end is not, and
//! is only looked at: what is read of it is one word at a time, and each move
//! checks under both locks what it relies on (invariants 1 and 2).

use kernel::sync::{
    atomic::{
        Atomic,
        Relaxed, //
    },
    rcu, //
};

use crate::{
    abstractions::{
        find_other_end,
        for_each_namespace,
        relieve,
        trace,
        Arrival,
        Member,
        Pair,
        Rcu,
        Sock,
        State, //
    },
    seq::between,
    stats::Counter,
};

/// Whether what `a` has received from the connection's other end fits what `b`
/// has sent.
fn heard(a: &Sock, b: &Sock) -> bool {
    between(a.peek_rcv_nxt(), b.peek_snd_una(), b.peek_snd_nxt())
}

/// Whether `sock` is the end that is established last, in whose hands it is to
/// look for the other.
fn is_last(sock: &Sock) -> bool {
    match sock.state() {
        // A child that completes its handshake. In a simultaneous open there is a descriptor, and
        // neither end is a child: these stay on the wire.
        State::SynRecv => !sock.has_socket(),
        // The client.
        State::Established => sock.opened_fast(),
        _ => false,
    }
}

/// A socket became established (hook; the caller has locked it).
///
/// It relies on no invariant: at this moment neither end has moved anything.
pub(crate) fn established(sock: &Sock, arrival: Arrival, rcu: Rcu<'_>) {
    let Some(namespace) = sock.net().state() else {
        return;
    };
    if STOPPED.load(Relaxed)
        || !namespace.on()
        || arrival != Arrival::Loopback
        || !is_last(sock)
        || sock.has_own_rules()
    {
        return;
    }
    let Some(other) = find_other_end(sock, rcu) else {
        return;
    };
    // Connected to itself, or with an end that is not ready or has rules of its own.
    if other.is(sock)
        || !matches!(other.state(), State::Established | State::SynRecv)
        || other.has_own_rules()
    {
        return;
    }
    // An address can be taken twice with NAT or raw sockets in between: both streams must fit.
    if !heard(sock, &other) || !heard(&other, sock) {
        return;
    }
    relieve();
    namespace.count(Counter::Paired, 1);
    if Pair::form(sock, other, namespace, rcu) {
        trace::pair(sock);
    } else {
        namespace.count(Counter::Unformed, 1);
    }
}

/// The module leaves.
static STOPPED: Atomic<bool> = Atomic::new(false);

/// Pairs nobody any more, and parts all who are. May sleep.
///
/// For as long as there are pairs the hooks must be on: a socket that closes without
/// the `gone` hook has left the table of established ones before anybody looks for it
/// there, and nothing would part its pair.
pub(crate) fn stop() {
    STOPPED.store(true, Relaxed);
    // Who has not seen that has formed its pair when this returns.
    rcu::synchronize_rcu();
    for_each_namespace(|net| {
        if let Some(namespace) = net.state() {
            namespace.part_all(net);
        }
    });
}

/// Ends the friendship. Any context; invariant 4.
pub(crate) fn part(member: &Member<'_>) {
    if member.dissolve() {
        member.namespace().count(Counter::Parted, 1);
        trace::unpair(member.peer());
    }
}
