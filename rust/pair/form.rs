// SPDX-License-Identifier: GPL-2.0

//! Forms and dissolves pairs.
//!
//! # Locks
//!
//! The caller has locked the socket that it passes. The other end is not locked, and is only
//! read, one word at a time. Each move later checks, under both locks, what it relies on
//! (invariants 1 and 2).

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
    net::{
        seq::between,
        skb_cache,
        trace,
        Held,
        Rcu,
        Sock,
        State,
        Trying, //
    },
    netns::Namespace,
    pair::{
        eligible,
        path::Path,
        window,
        Member,
        Pair, //
    },
    stats::{
        Counter,
        Fallback, //
    },
};

/// Returns whether what `a` has received from the other end of its connection fits what `b` has
/// sent: `rcv_nxt` of `a` then lies between `snd_una` and `snd_nxt` of `b`.
fn fits(a: &Sock, b: &Sock) -> bool {
    between(a.peek_rcv_nxt(), b.peek_snd_una(), b.peek_snd_nxt())
}

/// Makes a pair of `sock`, which the caller has locked, and `other`, which seems to be the other
/// end of its connection. `path` lies between the two; `None` stands for the loopback device.
///
/// Returns whether the two sockets became friends.
pub(crate) fn pair(sock: &Sock, other: &Sock, path: Option<Path>, rcu: Rcu<'_>) -> bool {
    let (Some(ours), Some(theirs)) = (Namespace::of(sock.net()), Namespace::of(other.net())) else {
        return false;
    };
    // A socket that is connected to itself gets no friend, and neither does a connection whose
    // other end is not ready or has rules of its own.
    if other.is_same(sock)
        || !theirs.on()
        || !matches!(other.state(), State::Established | State::SynRecv)
        || other.has_conflicting_feature()
    {
        return false;
    }
    // With NAT or raw sockets in between an address can be in use twice, so the addresses alone
    // prove nothing: the sequence numbers of both directions must fit.
    if !fits(sock, other) || !fits(other, sock) {
        return false;
    }
    // An IPsec policy that the wire finds only later is noticed when the pair revalidates.
    if sock.has_ipsec(rcu) || other.has_ipsec(rcu) {
        // Across namespaces the policy may be the other end's, and only that namespace may know
        // about its own policy.
        let why = if path.is_some() {
            Fallback::Path
        } else {
            Fallback::Ipsec
        };
        ours.counters().fell_back(why);
        return false;
    }
    skb_cache::shrink();
    let crosses = path.is_some();
    // For a pair that crosses, the path shows whether a namespace is in strict mode. A tracker
    // that comes later picks the connection up in its middle, and checks no windows.
    let all = !crosses && (ours.is_strict() || sock.net().tracks_connections(rcu));
    count_both(ours, theirs, Counter::Paired);
    let formed = Pair::form(sock, other, [ours, theirs], path, all, rcu);
    if formed {
        if let Some(member) = Member::of(sock, rcu) {
            // The other end may have been disconnected and reused since it was checked above.
            if fits(sock, other) && fits(other, sock) {
                eligible::learn_routes(sock, &member);
            } else {
                unpair(&member);
            }
        }
        if crosses {
            count_both(ours, theirs, Counter::Crossed);
        }
        trace::pair(sock);
    } else {
        // A context that sums the counters and sees the next count also sees the pair as formed:
        // see `Namespace::pairs`.
        smp_mb(Write);
        count_both(ours, theirs, Counter::FormFailed);
    }
    formed
}

/// Adds one to `counter` in each namespace in which a pair has an end.
fn count_both(ours: &Namespace, theirs: &Namespace, counter: Counter) {
    ours.count(counter, 1);
    if !core::ptr::eq(ours, theirs) {
        theirs.count(counter, 1);
    }
}

/// Whether the module is being unloaded.
static STOPPED: Atomic<bool> = Atomic::new(false);

/// Returns whether the module is being unloaded.
pub(crate) fn stopped() -> bool {
    STOPPED.load(Relaxed)
}

/// Forms no more pairs from now on. When this returns, a hook that has not seen that has formed its
/// pair. May sleep.
pub(crate) fn stop() {
    STOPPED.store(true, Relaxed);
    rcu::synchronize_rcu();
}

/// Dissolves the pair of `sock`, whose view `member` is. `sock` remains in use, on the wire.
pub(crate) fn renew_windows_and_unpair(sock: &Sock, member: &Member<'_>, trying: &mut Trying<'_>) {
    offer_both(sock, member, trying);
    unpair(member);
}

/// Lets both ends offer the largest window that they can, before their pair is dissolved.
///
/// Friends may have left little of the windows that were last offered on the wire, and no window
/// update would come before the next segment.
///
/// If either socket is in use at this moment, both windows stay as they are. A write that finds
/// its window too small then has to wait for the probe timer, once. Tries both spinlocks; relies
/// on invariant 2, which this function checks, and keeps 3.
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
        // A sender with data in its write queue would have to be pushed after a window update, and
        // TCP reports room to such a sender by itself.
        if a.send_head().is_none() {
            window::renew(&mut a, &mut b);
        }
        if b.send_head().is_none() {
            window::renew(&mut b, &mut a);
        }
    }
}

/// Dissolves the pair of `member`. Any context. Relies on invariant 4.
pub(crate) fn unpair(member: &Member<'_>) {
    if member.dissolve() {
        count_both(
            member.namespace(),
            member.peer_namespace(),
            Counter::Dissolved,
        );
        trace::unpair(member.peer());
    }
}
