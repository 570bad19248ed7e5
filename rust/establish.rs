// SPDX-License-Identifier: GPL-2.0

//! Who becomes friends: the two ends of a connection in one namespace, over the loopback
//! device. Of others [`crossing`] knows.
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
    barrier::{
        smp_mb,
        Write, //
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
        Held,
        Mark,
        Member,
        Pair,
        Path,
        Rcu,
        Sock,
        State,
        Trying, //
    },
    crossing, fence,
    namespace::Namespace,
    seq::between,
    stats::{
        Counter,
        Wire, //
    },
    window,
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

/// A socket became established (hook; the caller has locked it), by a segment that
/// came as `arrival` and has that mark.
///
/// It relies on no invariant: at this moment neither end has moved anything.
pub(crate) fn established(sock: &Sock, arrival: Arrival, mark: Option<Mark>, rcu: Rcu<'_>) {
    if sock.has_offer() {
        crossing::opened(sock, mark, rcu);
    }
    let Some(namespace) = sock.net().state() else {
        return;
    };
    if stopped() || !namespace.on() || !is_last(sock) || sock.has_own_rules() {
        return;
    }
    if crossing::accept(sock, arrival, rcu) || arrival != Arrival::Loopback {
        return;
    }
    if let Some(other) = find_other_end(sock, rcu) {
        if other.has_offer() {
            // By a SYN that has lost its mark.
            crossing::withdrawn(&other);
        }
        join(sock, &other, None, rcu);
    }
}

/// Makes a pair of `sock`, which the caller has locked, and what seems to be its other
/// end, with that path between them unless it is the loopback device.
///
/// Returns whether they became friends.
pub(crate) fn join(sock: &Sock, other: &Sock, path: Option<Path>, rcu: Rcu<'_>) -> bool {
    let (Some(ours), Some(theirs)) = (sock.net().state(), other.net().state()) else {
        return false;
    };
    // Connected to itself, or with an end that is not ready or has rules of its own.
    if other.is(sock)
        || !theirs.on()
        || !matches!(other.state(), State::Established | State::SynRecv)
        || other.has_own_rules()
    {
        return false;
    }
    // An address can be taken twice with NAT or raw sockets in between: both streams must fit.
    if !heard(sock, other) || !heard(other, sock) {
        return false;
    }
    // Only what the wire says later is heard of by asking it.
    if sock.has_ipsec(rcu) || other.has_ipsec(rcu) {
        // Whose policy it is only the namespace itself may know.
        let why = if path.is_some() {
            Wire::Path
        } else {
            Wire::Ipsec
        };
        ours.count(Counter::Wire(why), 1);
        return false;
    }
    relieve();
    let crosses = path.is_some();
    // Of one that crosses the path tells who is strict. A tracker that comes later picks the
    // connection up, and checks no windows.
    let all = !crosses && (ours.is_strict() || sock.net().tracks_connections(rcu));
    count_both(ours, theirs, Counter::Paired);
    let formed = Pair::form(sock, other, [ours, theirs], path, all, rcu);
    if formed {
        if let Some(member) = Member::of(sock, rcu) {
            // The other end may have begun anew since it was asked.
            if heard(sock, other) && heard(other, sock) {
                fence::learn_routes(sock, &member);
            } else {
                part(&member);
            }
        }
        if crosses {
            count_both(ours, theirs, Counter::Crossed);
        }
        trace::pair(sock);
    } else {
        // A context that sums the counters and sees the next count sees the pair as formed, too:
        // see `Namespace::pairs`.
        smp_mb(Write);
        count_both(ours, theirs, Counter::Unformed);
    }
    formed
}

/// A pair is counted in each namespace that it has an end in.
fn count_both(ours: &Namespace, theirs: &Namespace, counter: Counter) {
    ours.count(counter, 1);
    if !core::ptr::eq(ours, theirs) {
        theirs.count(counter, 1);
    }
}

/// The module leaves.
static STOPPED: Atomic<bool> = Atomic::new(false);

/// Whether it does.
pub(crate) fn stopped() -> bool {
    STOPPED.load(Relaxed)
}

/// Pairs nobody any more, and parts all who are. May sleep.
///
/// For as long as there are pairs the hooks must be on: a socket that closes without
/// the `gone` hook has left the table of established ones before anybody looks for it
/// there, and nothing would part its pair.
pub(crate) fn stop() {
    STOPPED.store(true, Relaxed);
    // Who has not seen that has formed its pair when this returns.
    rcu::synchronize_rcu();
    crossing::switched();
    for_each_namespace(|net| {
        if let Some(namespace) = net.state() {
            namespace.part_all(net);
        }
    });
}

/// Ends the friendship of `sock`, whose view `member` is, and which goes on over the wire.
pub(crate) fn part_in_use(sock: &Sock, member: &Member<'_>, trying: &mut Trying<'_>) {
    offer_both(sock, member, trying);
    part(member);
}

/// What friends have left of the windows that the wire was told of may be little, and
/// nobody would tell it of more before the next segment. So both ends offer what they can.
///
/// Where one is in use just now it stays as it is: less than a write needs costs that
/// write a probe timer, once. Tries both spinlocks; relies on invariant 2, which is looked
/// for, and keeps 3.
fn offer_both(sock: &Sock, member: &Member<'_>, trying: &mut Trying<'_>) {
    let Some(mut guard) = trying.lock(sock) else {
        return;
    };
    let Held::Free(mut locked) = guard.held() else {
        return;
    };
    let mut a = locked.tcp();
    let Some(mut peer_guard) = locked.try_lock_peer(member.peer()) else {
        return;
    };
    let Held::Free(peer_locked) = peer_guard.held() else {
        return;
    };
    let mut b = peer_locked.tcp();

    window::aim_at_a_segment(&mut a);
    window::aim_at_a_segment(&mut b);
    if member.still_paired(sock)
        && member.peer_still_paired()
        && [sock, member.peer()].map(Sock::state) == [State::Established; 2]
        && window::is_known(&a, &b)
        && window::is_known(&b, &a)
    {
        // Who has something queued would have to be pushed, and TCP tells it of room.
        if a.send_head().is_none() {
            window::renew(&mut a, &mut b);
        }
        if b.send_head().is_none() {
            window::renew(&mut b, &mut a);
        }
    }
}

/// Ends the friendship. Any context; invariant 4.
pub(crate) fn part(member: &Member<'_>) {
    if member.dissolve() {
        count_both(member.namespace(), member.peer_namespace(), Counter::Parted);
        trace::unpair(member.peer());
    }
}
