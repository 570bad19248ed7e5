// SPDX-License-Identifier: GPL-2.0

//! The reader pulls what waited for room: the hook in `__tcp_cleanup_rbuf()`.
//!
//! # Locks
//!
//! The caller has the reader. The sender's spinlock is taken here, as in
//! [`transmit`](crate::transmit) the peer's. If a task owns the sender, nothing
//! of it may be touched: an ACK tells it of the room, which it finds in its
//! backlog when it lets go, and then it transmits itself. What the reader moves to the
//! sender meanwhile makes that ACK an old one, which TCP drops: so the pair remembers
//! it ([`fence::owes_room`]), and who moves sends another one after that. So a sender
//! that was told that its friend is full always hears of room while they are friends,
//! and the probe timer is needed for nothing.

use crate::{
    abstractions::{
        smp_mb_after_atomic,
        Caller,
        Held,
        Member,
        Rcu,
        Read,
        SlockGuard,
        Sock,
        Tcp, //
    },
    fence,
    moving::{
        move_all,
        settle,
        Place,
        Stop, //
    },
    revalidate::Ask,
    stats::{
        self,
        Counter,
        Wire, //
    },
    window,
};

/// Data was read from `sock` (hook).
#[inline]
pub(crate) fn read(sock: &Sock, caller: Caller<'_>, rcu: Rcu<'_>) -> Read {
    let Some(member) = Member::of(sock, rcu) else {
        return Read::Tcp;
    };
    let mut p = caller.tcp();
    // What was read was taken off the account atomically; see the races of `transmit`.
    smp_mb_after_atomic();
    if !member.peer_waiting().is_set() {
        // The sender looks at our memory by itself. Only a window that is all but shut is told, as
        // TCP would, lest the sender finds it shut when it goes back to the wire (invariant 3).
        return if window::offered(&p) <= p.rcv_mss().into() {
            tell(&mut p)
        } else {
            if member.peer().peek_snd_wnd() == 0 {
                catch_up(caller, &member);
            }
            Read::Done
        };
    }
    if !fence::has_room(sock) {
        // There is more to read, and we shall be asked again. A sender that is on the wire needs
        // what TCP tells it meanwhile; one that found us full has shut the window.
        return if p.rcv_wnd() == 0 {
            Read::Done
        } else {
            Read::Tcp
        };
    }
    match caller {
        Caller::Task(mut own) => pull(p, own.lock_peer(member.peer()), &member),
        Caller::Softirq(mut own) => match own.try_lock_peer(member.peer()) {
            Some(guard) => pull(p, guard, &member),
            None => Read::Tcp,
        },
    }
}

/// What a sender moved to our backlog it took off the window that it knew of, which may
/// have been less than we offer: without an ACK it would know of none. It is told here,
/// if nobody owns it. The caller has the reader.
#[cold]
#[inline(never)]
fn catch_up(caller: Caller<'_>, member: &Member<'_>) {
    let p = caller.tcp();

    match caller {
        Caller::Task(mut own) => agree(&p, own.lock_peer(member.peer()), member),
        Caller::Softirq(mut own) => {
            if let Some(guard) = own.try_lock_peer(member.peer()) {
                agree(&p, guard, member);
            }
        }
    }
}

/// The sender, whose spinlock is held and given back on return, knows the window that
/// the reader offers.
///
/// Relies on invariant 2, which is looked for, and restores 3.
fn agree(p: &Tcp<'_>, mut guard: SlockGuard<'_>, member: &Member<'_>) {
    let Held::Free(spinlocked) = guard.held() else {
        return;
    };
    let mut s = spinlocked.tcp();

    if member.peer_still_paired() && window::is_known(&s, p) {
        window::agree(&mut s, p);
    }
}

/// The sender, on the wire, hears of room by ACKs.
fn tell(p: &mut Tcp<'_>) -> Read {
    if window::reopen(p) {
        Read::Ack
    } else {
        Read::Tcp
    }
}

/// Leaves what the sender holds to the wire. The caller has both to itself, and
/// nothing is in flight.
fn leave(s: &mut Tcp<'_>, p: &mut Tcp<'_>) -> Read {
    window::renew(s, p);
    s.push_pending_frames();
    Read::Done
}

/// Moves what the sender holds, with its spinlock held, which is given back on
/// return. The caller has the reader `p`.
///
/// Relies on invariants 1 and 2, which the fences establish; keeps 3.
fn pull(mut p: Tcp<'_>, mut guard: SlockGuard<'_>, member: &Member<'_>) -> Read {
    // As the sender sees it.
    let turned = member.turned();
    let namespace = turned.namespace();

    if !member.peer_still_paired() {
        return Read::Tcp;
    }
    let Held::Free(spinlocked) = guard.held() else {
        // One ACK is enough: its owner works it off when it lets go, and transmits.
        if member.peer_waiting().is_told() {
            return Read::Done;
        }
        member.peer_waiting().set_told();
        member.namespace().count(Counter::Nudged, 1);
        return Read::Ack;
    };
    let mut s = spinlocked.tcp();

    match fence::sender(&s, &turned).and_then(|()| fence::receiver(&s, &p)) {
        Ok(()) => (),
        // What the friend moved last is still in our backlog, and must be queued first. When we let
        // go it is, and then there is something to read, so we shall be asked again.
        Err(Wire::Sequence) => return Read::Done,
        // The wire carries the ACK that we wait for together with data.
        Err(Wire::Ack) => return leave(&mut s, &mut p),
        // The sender is on the wire, where ACKs tell it of the window.
        Err(_) => return tell(&mut p),
    }
    member.peer_waiting().clear();

    let (mss, nonagle) = (s.mss_cache(), s.nonagle());
    let question = member.peer_question();
    if question.is_due(namespace) {
        // The wire needs a window.
        window::renew(&mut s, &mut p);
        match question.ask(&mut s, namespace, mss, nonagle, true) {
            Ask::Wire => return leave(&mut s, &mut p),
            // What the wire would not transmit now is not moved past it. There is more to read, or
            // TCP opens the window.
            Ask::Window => {
                member.peer_waiting().set();
                return tell(&mut p);
            }
            Ask::Nothing | Ask::Data => (),
        }
    }
    let sock = p.sock();
    let mut place = Place::Queue(p);
    let moved = move_all(&mut s, sock, &mut place, mss, nonagle);
    let Place::Queue(back) = place else {
        return Read::Tcp;
    };
    p = back;

    if moved.skbs != 0 {
        member.namespace().count(Counter::Pulled, 1);
        stats::moved(s.sock(), &turned, &moved);
        // Others may wait for this socket besides the task that reads it now.
        p.data_ready(member.rcu());
        if fence::owes_room(s.sock(), &turned) {
            // What was moved may have overtaken the ACK.
            s.send_ack();
        }
    }
    match moved.stop {
        Stop::Full => {
            member.peer_waiting().set();
            window::shut(&mut s, &mut p);
        }
        Stop::Wire(why) => {
            stats::fell(s.sock(), &turned, why);
            window::renew(&mut s, &mut p);
        }
        Stop::Empty | Stop::Held => window::follow(&mut s, &mut p),
    }
    settle(&mut s, &moved);
    if moved.stop != Stop::Empty {
        // A FIN, for instance, behind what was just moved; and what has to wait needs the probe
        // timer again, which went with what it was armed for.
        s.push_pending_frames();
    }
    Read::Done
}
