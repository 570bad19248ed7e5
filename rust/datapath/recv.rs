// SPDX-License-Identifier: GPL-2.0

//! The fast lane of a reader: what is in the receive queue goes to its memory without the
//! socket being owned. The hook in `tcp_recvmsg()`.
//!
//! A reader that owns its socket makes its friend wait until it lets go. One that only
//! holds the spinlock makes it wait for as long as the copy takes. So large reads, of
//! `TCP_FRIENDS_LARGE` bytes, are TCP's own, and all others come here. A reader that finds
//! nothing waits without either (C side).
//!
//! It reads a whole call or nothing: what one call returns is contiguous, whoever else reads.
//! And only what is plain: no mark, no time stamp. Everything else is for
//! `tcp_recvmsg_locked()`, also the end of the stream.
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
        Held,
        Member,
        Process,
        Rcu,
        Read,
        Sock,
        Tcp, //
    },
    moving::MEASURED,
    read, window,
};

/// Reads from `sock` into `to` what a call for `len` bytes returns (hook). Returns how many
/// bytes; 0 if TCP must do it.
///
/// Relies on invariant 1: what is in the receive queue is in sequence. Takes the reader's
/// spinlock, and gives it back.
#[inline]
pub(crate) fn recv(
    sock: &Sock,
    mut to: Destination<'_>,
    len: usize,
    mut process: Process<'_>,
    rcu: Rcu<'_>,
) -> usize {
    let Some(member) = Member::of(sock, rcu) else {
        return 0;
    };
    let mut guard = process.lock(sock);
    let Held::Free(locked) = guard.held() else {
        return 0;
    };
    let caller = Caller::Softirq(locked);
    let mut p = caller.tcp();
    if !p.reads_plainly() {
        return 0;
    }
    let copied = match read_first(&mut p, &mut to, len) {
        Some(copied) => copied,
        None => read_some(p.reborrow(), to, len),
    };
    if copied == 0 {
        return 0;
    }

    // It looks at the clock that is read for larger ones alone.
    if copied >= MEASURED as usize {
        p.rcv_space_adjust();
    }
    // What was read was taken off the account atomically; see the races of `transmit`.
    smp_mb_after_atomic();
    if member.peer_half().waits() {
        tell(caller, copied, rcu);
    } else if p.ack_scheduled() || window::offered(&p) == 0 {
        p.cleanup_rbuf(copied);
    }
    copied
}

/// Reads what the call returns if the first skb of the queue has it all, as it mostly does; 0
/// if a page of the caller's is not there.
#[inline(always)]
fn read_first(p: &mut Tcp<'_>, to: &mut Destination<'_>, len: usize) -> Option<usize> {
    let seq = p.copied_seq();
    let head = p.receive_head()?;
    let offset = seq.wrapping_sub(head.segment().seq) as usize;
    let left = head.len().saturating_sub(offset);
    let now = left.min(len);

    if now == 0 || !head.is_plain() || now != len && !head.is_last() {
        return None;
    }
    if head.copy(to, offset, now).is_err() {
        return Some(0);
    }
    if now == left {
        keep(head.eat());
    }
    // TRUNCATE: An skb has so many.
    p.set_copied_seq(seq.wrapping_add(now as u32));
    Some(now)
}

/// Reads what the call returns, from however many skbs.
#[inline(never)]
fn read_some(mut p: Tcp<'_>, mut to: Destination<'_>, len: usize) -> usize {
    let copied = copy(&mut p, &mut to, len);

    eat(&mut p, copied);
    copied
}

/// Copies `len` bytes, or all that there are, which stay in the queue. Nothing if a page of the
/// caller's is not there, or TCP must read something of it.
fn copy(p: &mut Tcp<'_>, to: &mut Destination<'_>, len: usize) -> usize {
    let mut seq = p.copied_seq();
    let mut copied = 0;
    let mut at = p.receive_head();

    while let Some(skb) = at {
        let offset = seq.wrapping_sub(skb.segment().seq) as usize;
        let left = skb.len().saturating_sub(offset);
        let now = left.min(len.saturating_sub(copied));

        if now == 0 && !skb.is_end() || !skb.is_readable() || skb.copy(to, offset, now).is_err() {
            to.give_back(copied);
            return 0;
        }
        copied = copied.saturating_add(now);
        // TRUNCATE: An skb has so many.
        seq = seq.wrapping_add(now as u32);
        if copied == len || skb.is_end() {
            break;
        }
        at = skb.next();
    }
    copied
}

/// Takes so many bytes out of the queue, which has them.
fn eat(p: &mut Tcp<'_>, bytes: usize) {
    let mut rest = bytes;

    while rest != 0 {
        let seq = p.copied_seq();
        let Some(head) = p.receive_head() else {
            return;
        };
        let left = head
            .len()
            .saturating_sub(seq.wrapping_sub(head.segment().seq) as usize);
        let now = left.min(rest);

        // The end of the stream is for TCP to pass.
        if now == left && !head.is_end() {
            keep(head.eat());
        } else if now == 0 {
            return;
        }
        rest = rest.saturating_sub(now);
        // TRUNCATE: An skb has so many.
        p.set_copied_seq(seq.wrapping_add(now as u32));
    }
}

/// The other end waits: it is helped, or hears of the room. TCP itself would ask us only when
/// little is left of the window.
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
