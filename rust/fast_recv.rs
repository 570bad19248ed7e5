// SPDX-License-Identifier: GPL-2.0

//! The fast lane of a reader: what a friend brought goes to its memory without the
//! socket being owned. The hook in `tcp_recvmsg()`.
//!
//! A reader that owns its socket makes its friend use the backlog. One that only
//! holds the spinlock makes it wait for as long as the copy takes. So large reads, of
//! `TCP_FRIENDS_LARGE` bytes, own the socket (C side takes it), and all others do
//! not. A reader that finds nothing waits without either (C side).
//!
//! It reads only what is plain: no mark, no time stamp, no FIN, nothing that came by
//! the wire. Everything else is for `tcp_recvmsg_locked()`.
//!
//! # Locks
//!
//! The reader's spinlock. After a read TCP is asked whether the other end must be
//! told, and so [`read`](crate::read), as in softirq: it only tries the sender's.

use crate::{
    abstractions::{
        keep,
        smp_mb_after_atomic,
        Caller,
        Destination,
        Fault,
        Held,
        Member,
        Owned,
        Process,
        Rcu,
        Read,
        Sock, //
    },
    fast_send::AT_ONCE,
    moving::MEASURED,
    read, window,
};

/// Reads some bytes, at most `len`, from `sock` into `to` (hook).
///
/// Returns how many: 0 if they must come the ordinary way, or there are none.
///
/// Takes the reader's spinlock, and gives it back.
#[inline]
pub(crate) fn recv(
    sock: &Sock,
    to: Destination<'_>,
    len: usize,
    mut process: Process<'_>,
    rcu: Rcu<'_>,
) -> Result<usize, Fault> {
    let Some(member) = Member::of(sock, rcu) else {
        return Ok(0);
    };
    let mut guard = process.lock(sock);
    let Held::Free(locked) = guard.held() else {
        return Ok(0);
    };
    read_some(Caller::Softirq(locked), &member, to, len, rcu)
}

/// The same for a reader that owns its socket, which takes no lock: others may use
/// the other end, and copy, meanwhile.
#[inline(never)]
pub(crate) fn recv_owned(
    sock: &Sock,
    to: Destination<'_>,
    len: usize,
    owned: Owned<'_>,
    rcu: Rcu<'_>,
) -> Result<usize, Fault> {
    let Some(member) = Member::of(sock, rcu) else {
        return Ok(0);
    };
    read_some(Caller::Task(owned), &member, to, len, rcu)
}

/// Reads for a caller that has the socket to itself.
///
/// Relies on invariant 1: what is in the receive queue is acknowledged.
#[inline(always)]
fn read_some(
    caller: Caller<'_>,
    member: &Member<'_>,
    mut to: Destination<'_>,
    len: usize,
    rcu: Rcu<'_>,
) -> Result<usize, Fault> {
    let mut p = caller.tcp();
    if !p.reads_plainly() {
        return Ok(0);
    }

    let most = len.min(AT_ONCE);
    let mut copied = 0;
    while copied < most {
        let seq = p.copied_seq();
        let Some(head) = p.receive_head() else {
            break;
        };
        let offset = seq.wrapping_sub(head.segment().seq) as usize;
        let left = head.len().saturating_sub(offset);
        if left == 0 || !head.is_from_friend() {
            break;
        }
        let now = left.min(most - copied);
        if let Err(fault) = head.copy(&mut to, offset, now) {
            if copied == 0 {
                return Err(fault);
            }
            break;
        }
        if now == left {
            keep(head.eat());
        }
        copied += now;
        // TRUNCATE: An skb has so many.
        p.set_copied_seq(seq.wrapping_add(now as u32));
    }
    if copied == 0 {
        return Ok(0);
    }
    // It looks at the clock that is read for larger ones alone.
    if copied >= MEASURED as usize {
        p.rcv_space_adjust();
    }
    // What was read was taken off the account atomically; see the races of `transmit`.
    smp_mb_after_atomic();
    if member.peer_waiting().is_set() {
        tell(caller, copied, rcu);
    } else if p.ack_scheduled() || window::offered(&p) <= p.rcv_mss().into() {
        p.cleanup_rbuf(copied);
    } else if member.peer().peek_snd_wnd() == 0 {
        tell(caller, copied, rcu);
    }
    Ok(copied)
}

/// The other end waits for room, or knows of none: it is helped, or hears of it. TCP
/// itself would ask us only when little is left of the window.
#[cold]
#[inline(never)]
fn tell(caller: Caller<'_>, copied: usize, rcu: Rcu<'_>) {
    let mut p = caller.tcp();

    match read::read(p.sock(), caller, rcu) {
        Read::Done => (),
        Read::Tcp => p.cleanup_rbuf(copied),
        Read::Ack => p.send_ack(),
    }
}
