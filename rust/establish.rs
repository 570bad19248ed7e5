// SPDX-License-Identifier: GPL-2.0

//! Finds the two ends of a connection in one namespace over the loopback device, and pairs them.
//! [`handshake`] finds the ends of all other connections.
//!
//! The end that is established last forms the pair. That is the passive end, except with Fast
//! Open, where the child exists before the client is established. No other file decides which
//! socket is a socket's peer.
//!
//! # Locks
//!
//! The caller of the hook has locked the hook's socket. The other end is not locked; see
//! [`form`].

use crate::{
    cross::{
        handshake,
        proposals, //
    },
    net::{
        find_other_end,
        for_each_namespace,
        Arrival,
        Mark,
        Rcu,
        Sock,
        State, //
    },
    netns::Namespace,
    pair::form,
    sysctl, //
};

/// Returns whether `sock` is the end that is established last, which has to look for the other end.
fn is_last(sock: &Sock) -> bool {
    match sock.state() {
        // A child that completes its handshake. In a simultaneous open the socket has a descriptor
        // and neither end is a child, so such a connection stays on the wire.
        State::SynRecv => !sock.has_socket(),
        // A client that is established after the child (Fast Open).
        State::Established => sock.used_fast_open(),
        _ => false,
    }
}

/// Pairs `sock`, which became established, with the other end of its connection (hook).
///
/// The segment that established `sock` came as `arrival` and has the mark `mark`. The caller has
/// locked `sock`.
///
/// Relies on no invariant, since neither end has moved anything at this moment.
pub(crate) fn established(sock: &Sock, arrival: Arrival, mark: Option<Mark>, rcu: Rcu<'_>) {
    if proposals::is_made_by(sock) {
        handshake::client_established(sock, mark, rcu);
    }
    let Some(namespace) = Namespace::of(sock.net()) else {
        return;
    };
    if form::stopped() || !namespace.on() || !is_last(sock) || sock.has_conflicting_feature() {
        return;
    }
    if handshake::accept(sock, arrival, rcu) || arrival != Arrival::Loopback {
        return;
    }
    if let Some(other) = find_other_end(sock, rcu) {
        if proposals::is_made_by(&other) {
            // The SYN of `other` has lost its mark, so its proposal cannot be accepted any more.
            handshake::withdraw(&other);
        }
        form::pair(sock, &other, None, rcu);
    }
}

/// Forms no more pairs from now on, and dissolves all pairs. May sleep.
///
/// The hooks must be on for as long as there are pairs. A socket that closes without the `detach`
/// hook has left the table of established sockets before this function looks for the socket
/// there, so that nothing would dissolve its pair.
pub(crate) fn stop() {
    form::stop();
    handshake::apply_switch();
    for_each_namespace(|net| {
        if let Some(namespace) = Namespace::of(net) {
            sysctl::unpair_all(namespace, net);
        }
    });
}
