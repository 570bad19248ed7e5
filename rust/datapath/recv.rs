// SPDX-License-Identifier: GPL-2.0

//! The fast lane of a reader, which is the hook in `tcp_recvmsg()`: data goes from the receive
//! queue to the program's memory, and the friend can bring more data meanwhile.
//!
//! A reader that owns its socket as TCP's readers do makes its friend wait until the reader
//! releases the socket. A reader that only holds the spinlock makes its friend wait for as long as
//! the copy takes. So a read of few bytes is made with the spinlock held, and a read of
//! [`LEAST_IN_PLACE`] bytes or more in place
//! ([`SlockGuard::read_in_place`](crate::net::SlockGuard::read_in_place)): the reader owns the
//! socket while it copies, but lets its friend queue data. Reads of [`LARGE`] bytes or more that
//! cannot be made in place are left to TCP. A reader that finds the receive queue empty waits
//! without owning the socket and without the spinlock (in `tcp_friends_wait()` on the C side).
//!
//! The fast lane takes a whole call or nothing, so that the bytes which one call returns are
//! contiguous, whichever other tasks read. It reads plain data only, without an urgent mark and
//! without a time stamp. All other data, and the end of the stream, are left to
//! `tcp_recvmsg_locked()`.
//!
//! # Locks
//!
//! The fast lane takes the reader's spinlock, and a second time after a read in place. After a
//! read, TCP or [`pull::read`] checks whether the friend must be notified. With the reader's
//! spinlock held, [`pull::read`] only tries the sender's spinlock, as in softirq.

use crate::{
    datapath::{
        pull,
        send_large::LARGE,
        transfer::CLOCK_MIN_LEN, //
    },
    net::{
        skb_cache,
        smp_mb_after_atomic,
        Caller,
        Destination,
        Finished,
        Held,
        Process,
        Rcu,
        Read,
        Sock,
        Tcp,
        LEAST_IN_PLACE, //
    },
    pair::{
        rcvbuf,
        room,
        window,
        Member, //
    },
};

/// Reads from `sock` into `to` what a call for `len` bytes returns (hook). Returns the number of
/// bytes read, or 0 if TCP must read.
///
/// Relies on invariant 1: the data in the receive queue is in sequence. Takes and releases the
/// reader's spinlock.
#[inline]
pub(crate) fn recv(
    sock: &Sock,
    mut to: Destination<'_>,
    len: usize,
    mut process: Process<'_>,
    rcu: Rcu<'_>,
) -> (usize, bool) {
    let Some(member) = Member::of(sock, rcu) else {
        return (0, false);
    };
    let mut guard = process.lock(sock);
    let Held::Free(locked) = guard.held() else {
        return (0, false);
    };
    if !locked.tcp().reads_plainly() {
        return (0, false);
    }
    if len >= LEAST_IN_PLACE {
        guard = match guard.read_in_place(member.end().being_read(), len, &mut to) {
            Ok(read) => return have_read_in_place(read, &member),
            Err(guard) => guard,
        };
    }
    let Held::Free(locked) = guard.held() else {
        return (0, false);
    };
    let caller = Caller::Spinlocked(locked);
    let mut p = caller.tcp();
    if len >= LARGE {
        return (0, false);
    }
    let copied = match read_first(&mut p, &mut to, len) {
        Some(copied) => copied,
        None => read_some(p.reborrow(), to, len),
    };
    if copied != 0 {
        have_read(caller, copied, &member);
    }
    (copied, false)
}

/// Does what is left to be done after `copied` bytes were read, with the reader's spinlock held.
/// `member` is the view of the reader.
#[inline(always)]
fn have_read(caller: Caller<'_>, copied: usize, member: &Member<'_>) {
    let mut p = caller.tcp();

    // `tcp_rcv_space_adjust()` uses the clock, which is read for larger skbs only.
    if copied >= CLOCK_MIN_LEN as usize {
        rcvbuf::adjust(&mut p, member);
    }
    // The read data was uncharged atomically. The barrier orders that before the check of the
    // waiting flag; see the races in `xmit.rs`.
    smp_mb_after_atomic();
    if member.peer_end().room().is_awaited() {
        room::has_read(&mut p, member);
    }
    if member.peer_end().is_waiting() {
        notify_peer(caller, copied, member.rcu());
    } else if p.ack_scheduled() || window::offered(&p) == 0 {
        p.cleanup_rbuf(copied);
    }
}

/// Does what is left to be done after a read in place. Returns what [`recv`] returns.
#[inline(always)]
fn have_read_in_place(
    (copied, finished): (usize, Finished<'_>),
    member: &Member<'_>,
) -> (usize, bool) {
    member.peer_end().room().reads_here();
    match finished {
        Finished::Released(mut guard) => {
            if copied != 0 {
                if let Held::Free(locked) = guard.held() {
                    have_read(Caller::Spinlocked(locked), copied, member);
                }
            }
            (copied, false)
        }
        Finished::Owned(owned) => {
            if copied != 0 {
                have_read(Caller::Owner(owned), copied, member);
            }
            (copied, true)
        }
    }
}

/// Reads what the call returns if the first skb of the queue holds all of it, as the first skb
/// mostly does, and returns `None` otherwise. Reads 0 bytes if a page of the program's memory is
/// not present.
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
        skb_cache::put(head.unlink());
    }
    // TRUNCATE: `now` is at most the length of an skb.
    p.set_copied_seq(seq.wrapping_add(now as u32));
    Some(now)
}

/// Reads what the call returns from any number of skbs.
#[inline(never)]
fn read_some(mut p: Tcp<'_>, mut to: Destination<'_>, len: usize) -> usize {
    let copied = copy(&mut p, &mut to, len);

    p.eat(copied);
    copied
}

/// Copies `len` bytes, or all bytes of the queue if there are fewer; the bytes stay in the queue.
/// Copies nothing if a page of the program's memory is not present, or if TCP must read some of the
/// data.
fn copy(p: &mut Tcp<'_>, to: &mut Destination<'_>, len: usize) -> usize {
    let mut seq = p.copied_seq();
    let mut copied = 0;
    let mut at = p.receive_head();

    while let Some(skb) = at {
        let offset = seq.wrapping_sub(skb.segment().seq) as usize;
        let left = skb.len().saturating_sub(offset);
        let now = left.min(len.saturating_sub(copied));

        if now == 0 && !skb.has_fin() || !skb.is_readable() || skb.copy(to, offset, now).is_err() {
            to.revert(copied);
            return 0;
        }
        copied = copied.saturating_add(now);
        // TRUNCATE: `now` is at most the length of an skb.
        seq = seq.wrapping_add(now as u32);
        if copied == len || skb.has_fin() {
            break;
        }
        at = skb.next();
    }
    copied
}

/// Moves the data of a peer that waits, or reports the room to the peer. TCP itself would call the
/// hook only when little is left of the window.
#[cold]
#[inline(never)]
fn notify_peer(caller: Caller<'_>, copied: usize, rcu: Rcu<'_>) {
    let mut p = caller.tcp();

    match pull::read(p.sock(), caller, rcu) {
        Read::Done => (),
        Read::Tcp => p.cleanup_rbuf(copied),
        Read::Ack => p.send_ack(),
    }
}
