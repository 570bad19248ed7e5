// SPDX-License-Identifier: GPL-2.0

//! Who must take the wire, and why.
//!
//! Asked before each move, so each question costs a load or two.

use crate::{
    abstractions::{
        Busy,
        Head,
        Member,
        Net,
        Sock,
        State,
        Tcp, //
    },
    hold::may_not_go_alone,
    namespace,
    seq::before,
    stats::Wire,
};

/// `TCPHDR_FIN`, RFC 9293 section 3.1.
const FIN: u16 = 0x01;
/// `TCPHDR_SYN`.
const SYN: u16 = 0x02;

type Fence = Result<(), Wire>;

const fn unless(fence: bool, why: Wire) -> Fence {
    if fence {
        Err(why)
    } else {
        Ok(())
    }
}

/// Whether the sender may move anything. The caller has it to itself.
///
/// Establishes the sender's half of invariant 2, for as long as the caller has it.
#[inline(always)]
pub(crate) fn sender(s: &Tcp<'_>, member: &Member<'_>) -> Fence {
    // So the retransmit queue is empty.
    unless(
        s.packets_out() != 0 || s.snd_una() != s.snd_nxt(),
        Wire::InFlight,
    )?;
    unless(s.snd_up() != s.snd_una(), Wire::Urgent)?;
    // The wire has the clock for it.
    unless(s.sock().max_pacing_rate() != usize::MAX, Wire::Paced)?;
    watchers(s.sock(), member)
}

/// Whether nobody watches or governs what `sock`, whose view `member` is, sends on the
/// wire. They come and go as they like, whoever has the socket.
#[inline(always)]
pub(crate) fn watchers(sock: &Sock, member: &Member<'_>) -> Fence {
    if cfg!(tcp_friends_without = "watchers") {
        return Ok(());
    }
    let (net, rcu) = (sock.net(), member.rcu());

    if member.crosses() {
        unless(member.taps() != 0, Wire::Capture)?;
        unless(member.governors() != 0, Wire::Traffic)?;
    } else {
        let lo = net.loopback(rcu).ok_or(Wire::Traffic)?;

        unless(lo.taps() != 0, Wire::Capture)?;
        unless(lo.governors() != 0, Wire::Traffic)?;
    }
    if member.asks_all() {
        // Where the pair crosses each tracker has seen the mark, and checks no windows.
        unless(
            !member.crosses() && net.tracks_connections(rcu),
            Wire::Conntrack,
        )?;
        unless(is_filtered(net, member), Wire::Netfilter)?;
    }
    // While this is so the wire's answer is not taken, so that all who move come here.
    unless(sock.has_ipsec(rcu), Wire::Ipsec)?;
    unless(sock.cgroup_judges_sent(), Wire::Cgroup)
}

/// Whether netfilter must see all that passes between these two, of which one is in `net`,
/// and has a hook on the way.
fn is_filtered(net: &Net, member: &Member<'_>) -> bool {
    let rcu = member.rcu();

    namespace::is_strict(member)
        && if member.crosses() {
            member.is_filtered() || net.filters(rcu) || member.peer().net().filters(rcu)
        } else {
            net.filters_loopback(rcu)
        }
}

/// What can be asked of a receiver in any state of its lock. What changes
/// meanwhile, `tcp_friends_backlog_rcv()` has to cope with.
#[inline(always)]
fn any_receiver(sock: &Sock) -> Fence {
    match sock.state() {
        State::Established => (),
        // TCP resets who sends to an end that will not read; it does so for segments.
        State::FinWait if !sock.receive_shutdown() => (),
        _ => return Err(Wire::PeerState),
    }
    unless(sock.has_filter(), Wire::Filter)?;
    unless(sock.cgroup_judges_received(), Wire::Cgroup)?;
    unless(sock.wants_receive_timestamps(), Wire::Timestamp)
}

/// Whether what `sock`, whose view `member` is, writes next would be moved, as far as can
/// be seen without a lock.
pub(crate) fn seen(sock: &Sock, member: &Member<'_>) -> Fence {
    watchers(sock, member)?;
    any_receiver(member.peer())?;
    unless(sock.max_pacing_rate() != usize::MAX, Wire::Paced)?;
    unless(sock.peek_snd_una() != sock.peek_snd_nxt(), Wire::InFlight)
}

/// Whether the receiver takes what the sender has next. The caller has both to
/// itself.
///
/// Establishes the receiver's half of invariant 2.
#[inline(always)]
pub(crate) fn receiver(s: &Tcp<'_>, p: &Tcp<'_>) -> Fence {
    any_receiver(p.sock())?;
    unless(
        p.rcv_nxt() != s.snd_nxt() || p.ofo_queue() != 0,
        Wire::Sequence,
    )?;
    // An ACK for it may be on its way, and would be out of the window once it is overtaken.
    unless(before(p.snd_una(), s.rcv_nxt()), Wire::Ack)?;
    unless(p.urg_data() != 0, Wire::Urgent)
}

/// Whether nothing at all speaks against moving bytes that are written now: no
/// reason of [`sender`] or [`receiver`], nothing queued before them, no cork, no error
/// and no ACK owed. Both ends are established. The caller has both to itself.
///
/// What must be zero is gathered and asked at once: for a small write a branch for
/// each costs as much as the copy. Who finds no here asks again the ordinary way, and
/// counts the reason.
///
/// Establishes invariant 2.
#[inline(always)]
pub(crate) fn is_clear(s: &Tcp<'_>, p: &Tcp<'_>, member: &Member<'_>) -> bool {
    receiver_is_clear(s, p) && sender_is_clear(s, member)
}

/// The sender's half of [`is_clear`].
#[inline(always)]
pub(crate) fn sender_is_clear(s: &Tcp<'_>, member: &Member<'_>) -> bool {
    let sender = s.sock();
    let una = s.snd_una();

    // A few at a time, or there are not enough registers.
    let numbers = s.packets_out()
        | (una ^ s.snd_nxt())
        | (una ^ s.snd_up())
        | (s.rcv_nxt() ^ s.rcv_wup())
        | may_not_go_alone(s.nonagle());

    numbers == 0
        && (!sender.max_pacing_rate() | sender.odd_writer() | s.write_queue()) == 0
        && (cfg!(tcp_friends_without = "watchers") || is_unwatched(sender, member))
}

/// What [`watchers`] asks, for [`is_clear`]. IPsec is found where the question to the wire
/// is due.
#[inline(always)]
fn is_unwatched(sock: &Sock, member: &Member<'_>) -> bool {
    let way = if member.asks_lo() {
        sock.net()
            .loopback(member.rcu())
            .is_some_and(|lo| lo.taps() | lo.governors() == 0)
    } else if member.asks_path() {
        !member.is_watched()
    } else {
        return asked_all(sock, member);
    };

    way && !sock.cgroup_judges_sent()
}

/// The same, of one for which all has to be asked.
#[cold]
#[inline(never)]
fn asked_all(sock: &Sock, member: &Member<'_>) -> bool {
    watchers(sock, member).is_ok()
}

/// The receiver's half of [`is_clear`].
#[inline(always)]
pub(crate) fn receiver_is_clear(s: &Tcp<'_>, p: &Tcp<'_>) -> bool {
    let receiver = p.sock();
    let numbers = (s.snd_nxt() ^ p.rcv_nxt())
        // Negative, as in `before()`.
        | (p.snd_una().wrapping_sub(s.rcv_nxt()) & 1 << 31)
        | u32::from(p.urg_data());

    (numbers as usize | p.ofo_queue() | receiver.odd_receiver()) == 0
        && !receiver.cgroup_judges_received()
}

/// The same for a receiver that a task owns, whose `rcv_nxt` may lag behind by
/// what is in its backlog.
///
/// Nothing of the sender is in flight, so all that it ever sent was either
/// acknowledged, hence received, or moved, hence received or in the backlog,
/// which is in order: invariant 2 holds once the backlog is worked off. Its owner may write
/// `snd_una` meanwhile, which only grows.
pub(crate) fn busy_receiver(s: &Tcp<'_>, p: &Busy<'_>, sock: &Sock) -> Fence {
    any_receiver(sock)?;
    unless(before(sock.peek_snd_una(), s.rcv_nxt()), Wire::Ack)?;
    unless(p.urgent(), Wire::Urgent)
}

/// Whether this skb may be moved.
pub(crate) fn skb(head: &Head<'_>) -> Fence {
    unless(head.tcp_flags() & (FIN | SYN) != 0, Wire::Fin)?;
    unless(head.has_linear_data(), Wire::Shape)?;
    unless(head.wants_timestamp(), Wire::Timestamp)
}

/// Whether this skb is the stream's last bytes and its end.
pub(crate) fn is_data_and_fin(head: &Head<'_>) -> bool {
    head.tcp_flags() & FIN != 0 && head.len() != 0
}

/// Whether the peer of `sock` waits for room, and an ACK of ours that tells of it may be on
/// its way. What is moved meanwhile overtakes it: it is old then, and dropped, so that
/// another one must follow.
///
/// The caller has `sock` to itself, as has who sends that ACK.
pub(crate) fn owes_room(sock: &Sock, member: &Member<'_>) -> bool {
    let waiting = member.peer_waiting();

    waiting.is_set() && member.peer().peek_snd_wnd() == 0 && (waiting.is_told() || has_room(sock))
}

/// Whether a writer to `sock` may go past what waits, on either side, with no ACK to follow.
///
/// The caller has `sock` to itself, or this is a guess.
#[inline(always)]
pub(crate) fn may_pass(sock: &Sock, member: &Member<'_>) -> bool {
    member.nobody_waits() || nobody_is_passed(sock, member)
}

#[cold]
#[inline(never)]
fn nobody_is_passed(sock: &Sock, member: &Member<'_>) -> bool {
    !member.waiting().is_set() && !owes_room(sock, member)
}

/// Whether a receiver takes one more skb: it does until what it holds fills its
/// buffer, as TCP does for segments in its window (`tcp_can_ingest()`).
///
/// So it holds at most one skb more than its buffer.
#[inline(always)]
pub(crate) fn has_room(sock: &Sock) -> bool {
    sock.receive_memory() <= sock.receive_buffer()
}
