// SPDX-License-Identifier: GPL-2.0

//! The sender moves what it has: the hook at the top of `tcp_write_xmit()`.
//!
//! # Locks
//!
//! The caller has the sender, by ownership or by its spinlock. The peer's
//! spinlock is taken here: waited for by an owner, tried by who holds a
//! spinlock already. It is held while skbs are moved and readers are woken.
//!
//! # Races
//!
//! - *The peer closes.* Its state is looked at under its spinlock. If a task
//!   owns it and closes it, what is in its backlog by then is answered with a
//!   reset, by `tcp_friends_backlog_rcv()`, as TCP answers data after close.
//! - *The peer is parted from us, reused, paired anew.* Asked under its
//!   spinlock; see [`Member::peer_still_paired`].
//! - *The peer reads while we find it full.* We say that we wait, then look
//!   again. It frees memory, then looks whether we wait. Both have a full
//!   barrier in between, so one sees the other.
//! - *An ACK of ours is overtaken by what we move*, on its way through the loopback
//!   device: the peer drops it as old. One for data is seen by the peer's `snd_una`
//!   ([`fence`]), and then the wire carries both; one that tells of room is sent again
//!   behind what was moved ([`fence::owes_room`]).

use kernel::sync::barrier;

use crate::{
    abstractions::{
        Caller,
        Held,
        Member,
        Rcu,
        SlockGuard,
        Sock,
        Tcp,
        Xmit, //
    },
    crossing, fence, growth,
    hold::{
        may_go,
        Go, //
    },
    moving::{
        move_all,
        settle,
        Moved,
        Place,
        Stop, //
    },
    namespace::Namespace,
    revalidate::Ask,
    stats::{
        self,
        Counter,
        Wire, //
    },
    window,
};

/// Transmit from the write queue of `sock` (hook).
///
/// `mss` is in bytes, `nonagle` of `TCP_NAGLE_*`, `probe` if a segment is wanted
/// on the wire.
#[inline]
pub(crate) fn xmit(
    sock: &Sock,
    caller: Caller<'_>,
    mss: u32,
    nonagle: u32,
    probe: bool,
    rcu: Rcu<'_>,
) -> Xmit {
    let Some(member) = Member::of(sock, rcu) else {
        crossing::expire(sock);
        return Xmit::Wire;
    };
    let namespace = member.namespace();
    let stop = if probe {
        Stop::Wire(Wire::Probe)
    } else if member.waiting().is_untold()
        && caller.tcp().snd_wnd() == 0
        && !fence::has_room(member.peer())
    {
        // The reader has not read since, and will see that we wait.
        Stop::Full
    } else if is_held_back(&mut caller.tcp(), mss, nonagle) {
        Stop::Held
    } else {
        go(caller, &member, mss, nonagle, namespace).unwrap_or_else(Stop::Wire)
    };
    match stop {
        Stop::Empty => {
            // The fast lane is open again.
            if member.waiting().is_set() {
                member.waiting().clear();
            }
            Xmit::Done
        }
        Stop::Held | Stop::Full => Xmit::Pending,
        Stop::Wire(why) => {
            // The wire may find the window too small: the reader shall tell of a larger one.
            member.waiting().set();
            stats::fell(sock, &member, why);
            Xmit::Wire
        }
    }
}

/// Whether cork holds back all that there is, so that nobody need be asked: a program
/// that corks writes more at once. The caller has the sender to itself.
fn is_held_back(s: &mut Tcp<'_>, mss: u32, nonagle: u32) -> bool {
    s.send_head().is_some_and(|head| {
        head.is_last()
            && fence::skb(&head).is_ok()
            && may_go(head.len(), mss, true, nonagle) == Go::Nothing
    })
}

/// Whether the wire would find the window too small for what is next, be it a FIN, with
/// nothing in flight whose ACK tells of a larger one. The caller has the sender to itself.
fn is_pinched(s: &mut Tcp<'_>, mss: u32) -> bool {
    let wnd = s.snd_wnd();

    s.packets_out() == 0
        && s.snd_una() == s.snd_nxt()
        && s.send_head()
            .is_some_and(|head| head.len().min(mss).max(1) > wnd)
}

/// Takes the peer's lock as the caller may, and moves.
fn go(
    caller: Caller<'_>,
    member: &Member<'_>,
    mss: u32,
    nonagle: u32,
    namespace: &Namespace,
) -> Result<Stop, Wire> {
    let (mut owned, mut spinlocked);
    // Also who may move nothing takes the lock, if the wire needs a window.
    let fenced;
    let (mut s, guard) = match caller {
        Caller::Task(own) => {
            owned = own;
            let mut s = owned.tcp();
            fenced = fence::sender(&s, member);
            if let Err(why) = fenced {
                if !is_pinched(&mut s, mss) {
                    return Err(why);
                }
            } else if s.owes_ack() {
                if let Some(head) = s.send_head() {
                    if !fence::is_data_and_fin(&head) {
                        // What takes the wire takes the ACK along.
                        fence::skb(&head)?;
                    }
                }
                // What is moved carries none, and Nagle's algorithm would have the peer wait for it
                // (RFC 9293, section 3.7.4). Bottom halves are on, so the peer has it on return,
                // before it could be overtaken by what is moved.
                s.send_ack();
            }
            (s, owned.lock_peer(member.peer()))
        }
        Caller::Softirq(own) => {
            spinlocked = own;
            let mut s = spinlocked.tcp();
            fenced = fence::sender(&s, member);
            if let Err(why) = fenced {
                if !is_pinched(&mut s, mss) {
                    return Err(why);
                }
            } else if s.owes_ack() {
                // An ACK sent here would be overtaken by what is moved, and be out of the window.
                return Err(Wire::Ack);
            }
            let guard = spinlocked.try_lock_peer(member.peer());
            (s, guard.ok_or(fenced.err().unwrap_or(Wire::Contended))?)
        }
    };
    let moved = locked(&mut s, guard, member, mss, nonagle, namespace, fenced)?;
    settle(&mut s, &moved);
    if moved.skbs != 0 {
        stats::moved(s.sock(), member, &moved);
        if fence::owes_room(s.sock(), member) {
            // What was moved may have overtaken the ACK.
            s.send_ack();
        }
    }
    Ok(moved.stop)
}

/// Moves with the peer's spinlock held, which is given back on return; nothing if `fenced`
/// says that the sender must take the wire.
///
/// Relies on invariants 1 and 2, which the fences establish; keeps 3.
fn locked(
    s: &mut Tcp<'_>,
    mut guard: SlockGuard<'_>,
    member: &Member<'_>,
    mss: u32,
    nonagle: u32,
    namespace: &Namespace,
    fenced: Result<(), Wire>,
) -> Result<Moved, Wire> {
    let peer = guard.sock();

    if !member.peer_still_paired() {
        return Err(Wire::Parted);
    }
    guard.incoming_cpu_update();
    let question = member.question();
    let due = question.is_due(namespace);

    match guard.held() {
        Held::Free(spinlocked) => {
            let mut p = spinlocked.tcp();
            let fenced = fenced.and_then(|()| fence::receiver(s, &p));
            if let Err(why) = fenced {
                // The wire needs a window.
                if why != Wire::PeerState && window::is_known(s, &p) {
                    window::renew(s, &mut p);
                }
                return Err(why);
            }
            let full = due && {
                window::renew(s, &mut p);
                match question.ask(s, namespace, mss, nonagle, true) {
                    Ask::Wire => return Err(Wire::Revalidate),
                    // What the wire would not transmit now is not moved past it.
                    Ask::Window => true,
                    Ask::Nothing | Ask::Data => false,
                }
            };
            let mut place = Place::Queue(p);
            let mut moved = if full {
                Moved::none(Stop::Full)
            } else {
                move_all(s, peer, &mut place, mss, nonagle)
            };
            let Place::Queue(mut p) = place else {
                return Ok(moved);
            };
            if !full && moved.stop == Stop::Full && growth::has_room(s, &mut p, member) {
                place = Place::Queue(p);
                moved.add(&move_all(s, peer, &mut place, mss, nonagle));
                let Place::Queue(same) = place else {
                    return Ok(moved);
                };
                p = same;
            }
            if moved.stop == Stop::Full {
                // Nobody reads it now: whoever does so later takes its spinlock first, and sees
                // that we wait.
                member.waiting().set();
                window::shut(s, &mut p);
                namespace.count(Counter::Full, 1);
            } else if let Stop::Wire(_) = moved.stop {
                window::renew(s, &mut p);
            }
            if moved.skbs != 0 || moved.stop == Stop::Full {
                p.data_ready(member.rcu());
            }
            Ok(moved)
        }
        Held::Busy(mut busy) => {
            if let Err(why) = fenced.and_then(|()| fence::busy_receiver(s, &busy, peer)) {
                // The wire needs a window, which only the peer's owner can offer.
                if is_pinched(s, mss) {
                    busy.ack_when_released();
                }
                return Err(why);
            }
            // The window may be no more than what we have left of it, without the peer telling of
            // more: then the question waits until we find the peer free.
            if due && question.ask(s, namespace, mss, nonagle, false) == Ask::Wire {
                return Err(Wire::Revalidate);
            }
            let mut place = Place::Backlog(busy);
            let mut moved = move_all(s, peer, &mut place, mss, nonagle);
            if moved.stop == Stop::Full {
                member.waiting().set();
                barrier::smp_mb(barrier::Full);
                // Its owner may have read between our look and our word.
                moved.add(&move_all(s, peer, &mut place, mss, nonagle));
                if moved.stop == Stop::Full {
                    if let Place::Backlog(busy) = &mut place {
                        busy.ack_when_released();
                        member.waiting().set_told();
                    }
                    window::shut_ours(s);
                    namespace.count(Counter::Full, 1);
                }
            }
            if let Stop::Wire(_) = moved.stop {
                window::admit_fin(s);
            }
            Ok(moved)
        }
    }
}
