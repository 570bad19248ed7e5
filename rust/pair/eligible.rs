// SPDX-License-Identifier: GPL-2.0

//! Decides whether data may be moved or must take the wire, and names the reason.
//!
//! The checks run before each move, so each of them costs a load or two. No lock is taken here.

use kernel::warn_on;

use crate::{
    net::{
        nagle::corked_or_pushed,
        seq::before,
        Device,
        Head,
        Net,
        Sock,
        State,
        Tcp, //
    },
    pair::{
        Checks,
        End,
        Member, //
    },
    stats::Fallback, //
};

/// `TCPHDR_FIN`, RFC 9293 section 3.1.
const FIN: u16 = 0x01;
/// `TCPHDR_SYN`.
const SYN: u16 = 0x02;

/// `Ok` if data may be moved, otherwise the reason why the wire must be taken.
pub(crate) type Eligibility = Result<(), Fallback>;

const fn refuse_if(cond: bool, why: Fallback) -> Eligibility {
    if cond {
        Err(why)
    } else {
        Ok(())
    }
}

/// Checks that the sender may move data. The caller has exclusive access to the sender.
///
/// Establishes the sender's half of invariant 2, for as long as the caller has that access.
#[inline(never)]
pub(crate) fn sender(s: &Tcp<'_>, member: &Member<'_>) -> Eligibility {
    // The retransmit queue is empty if nothing is in flight.
    refuse_if(
        s.packets_out() != 0 || s.snd_una() != s.snd_nxt(),
        Fallback::InFlight,
    )?;
    refuse_if(s.snd_up() != s.snd_una(), Fallback::Urgent)?;
    // Pacing needs a clock, which the wire has.
    refuse_if(s.sock().max_pacing_rate() != usize::MAX, Fallback::Paced)?;
    refuse_if(s.sock().bpf_callbacks() != 0, Fallback::Bpf)?;
    ignores_acks(s.sock(), member)?;
    route(s.sock(), member.end(), member)?;
    watchers(s.sock(), member)
}

/// Checks that no setting of the sender's socket applies to the ACKs that the socket would receive,
/// since friends send none. A socket filter and a minimum TTL would judge these ACKs, and IPv6
/// options would report the header of the last ACK.
#[inline(never)]
fn ignores_acks(sock: &Sock, member: &Member<'_>) -> Eligibility {
    refuse_if(
        sock.has_filter() || sock.depends_on_ip_headers(member.rcu()) != 0,
        Fallback::Sender,
    )
}

/// Checks that the route of `sock`, the socket of the end `half`, leads to the peer.
///
/// Whatever changes the route (SO_MARK, SO_BINDTODEVICE, IP_TOS, an IPsec policy) makes the socket
/// forget its cached route, whose id then no longer matches.
#[inline(always)]
fn route(sock: &Sock, half: &End, member: &Member<'_>) -> Eligibility {
    if sock.route_id() == half.route() {
        return Ok(());
    }
    new_route(sock, half, member)
}

/// Checks the routes of both ends in advance, so that the first message does not have to.
/// `member` is the view of `sock`.
pub(crate) fn learn_routes(sock: &Sock, member: &Member<'_>) {
    // A connection tracker may translate addresses after the route was looked up. The device of
    // the route is then not on the path, but the handshake has used this route, so that device is
    // noted as well.
    for (end, half) in [(sock, member.end()), (member.peer(), member.peer_end())] {
        half.set_first_device(end.route_device(member.rcu()).map_or(0, Device::id));
    }
    // A route that is not fit is reported when data has to be moved.
    let _ = new_route(sock, member.end(), member);
    let _ = new_route(member.peer(), member.peer_end(), member);
}

#[cold]
#[inline(never)]
fn new_route(sock: &Sock, half: &End, member: &Member<'_>) -> Eligibility {
    let (id, rcu) = (sock.route_id(), member.rcu());

    half.forget_route();
    // A socket without a route looks one up for its next segment.
    refuse_if(id == 0, Fallback::Route)?;
    refuse_if(sock.has_ipsec(rcu), Fallback::Ipsec)?;
    let leads_there = sock.route_device(rcu).is_some_and(|device| {
        if member.crosses() {
            member.passes(device) || device.id() == half.first_device()
        } else {
            sock.net().loopback(rcu).is_some_and(|lo| lo.is(device))
        }
    });
    // The route must not have been replaced while it was checked.
    refuse_if(!leads_there || sock.route_id() != id, Fallback::Route)?;
    half.set_route(id);
    Ok(())
}

/// Checks that nobody watches or governs what `sock` would send on the wire. `member` is the view
/// of `sock`.
///
/// Watchers may come and go at any time, even while the caller has exclusive access to the socket.
#[inline(never)]
pub(crate) fn watchers(sock: &Sock, member: &Member<'_>) -> Eligibility {
    if cfg!(tcp_friends_without = "watchers") {
        return Ok(());
    }
    let (net, rcu) = (sock.net(), member.rcu());

    if member.crosses() {
        refuse_if(member.taps() != 0, Fallback::Capture)?;
        refuse_if(member.governors() != 0, Fallback::Traffic)?;
        // Raw sockets of the sender's namespace would see the ACKs. A pair that does not cross has
        // both ends in one namespace, and `any_receiver` checks the raw sockets there.
        refuse_if(sock.raw_listeners() != 0, Fallback::Sender)?;
    } else {
        let lo = net.loopback(rcu).ok_or(Fallback::Traffic)?;

        refuse_if(lo.taps() != 0, Fallback::Capture)?;
        refuse_if(lo.governors() != 0, Fallback::Traffic)?;
    }
    if member.checks() == Checks::All {
        // Every tracker on the path of a pair that crosses has seen the mark, and therefore checks
        // no windows.
        refuse_if(
            !member.crosses() && net.tracks_connections(rcu),
            Fallback::Conntrack,
        )?;
        refuse_if(is_filtered(net, member), Fallback::Netfilter)?;
    }
    refuse_if(has_cgroup_filter(sock), Fallback::Cgroup)
}

/// Returns whether a BPF program of the socket's cgroup judges the packets that the socket sends
/// or receives. Both directions count, because data passes in one of them and ACKs in the other.
#[inline(always)]
fn has_cgroup_filter(sock: &Sock) -> bool {
    sock.has_cgroup_egress_filter() || sock.has_cgroup_ingress_filter()
}

/// Returns whether netfilter must see all packets between the two ends (strict mode) and has a
/// hook on their way. `net` is the namespace of the end whose view `member` is.
fn is_filtered(net: &Net, member: &Member<'_>) -> bool {
    let rcu = member.rcu();

    member.is_strict()
        && if member.crosses() {
            member.is_filtered() || net.filters(rcu) || member.peer().net().filters(rcu)
        } else {
            net.filters_loopback(rcu)
        }
}

/// Checks everything about the receiver `sock`, one of the pair of `member`, that can be checked
/// without its socket lock.
#[inline(never)]
fn any_receiver(sock: &Sock, member: &Member<'_>) -> Eligibility {
    match sock.state() {
        State::Established => (),
        // Data for an end that has shut down reading must take the wire: TCP answers such data with
        // a reset, but only if the data comes as a segment.
        State::FinWait if !sock.receive_shutdown() => (),
        _ => return Err(Fallback::PeerState),
    }
    refuse_if(sock.has_filter(), Fallback::Filter)?;
    refuse_if(has_cgroup_filter(sock), Fallback::Cgroup)?;
    refuse_if(sock.wants_receive_timestamps(), Fallback::Timestamp)?;
    refuse_if(
        sock.depends_on_ip_headers(member.rcu()) != 0,
        Fallback::Headers,
    )?;
    refuse_if(sock.bpf_callbacks() != 0, Fallback::Bpf)?;
    refuse_if(sock.raw_listeners() != 0, Fallback::Raw)
}

/// Checks whether the next data written to `sock` would be moved, as far as that can be seen
/// without a lock. `member` is the view of `sock`.
pub(crate) fn check_unlocked(sock: &Sock, member: &Member<'_>) -> Eligibility {
    watchers(sock, member)?;
    any_receiver(member.peer(), member)?;
    refuse_if(sock.max_pacing_rate() != usize::MAX, Fallback::Paced)?;
    refuse_if(sock.bpf_callbacks() != 0, Fallback::Bpf)?;
    ignores_acks(sock, member)?;
    refuse_if(
        sock.peek_snd_una() != sock.peek_snd_nxt(),
        Fallback::InFlight,
    )
}

/// Checks that the receiver `p` accepts the next data of the sender `s`. `member` is the sender's
/// view. The caller has exclusive access to both sockets.
///
/// Establishes the receiver's half of invariant 2.
#[inline(always)]
pub(crate) fn receiver(s: &Tcp<'_>, p: &Tcp<'_>, member: &Member<'_>) -> Eligibility {
    any_receiver(p.sock(), member)?;
    route(p.sock(), member.peer_end(), member)?;
    refuse_if(
        p.rcv_nxt() != s.snd_nxt() || p.ofo_queue() != 0,
        Fallback::Sequence,
    )?;
    // An ACK of the sender for data of the receiver may be on its way. Data that is moved now would
    // overtake that ACK, which would then be outside the receiver's window.
    refuse_if(before(p.snd_una(), s.rcv_nxt()), Fallback::Ack)?;
    // Segments of the receiver that are in flight acknowledge what the receiver had received when
    // they were sent. The sender takes a segment whose acknowledgment lags by more than the largest
    // window for a blind injection (RFC 5961, section 5.2).
    refuse_if(
        p.snd_una() != p.snd_nxt()
            && before(
                member.peer_end().acked().wrapping_add(s.max_window()),
                s.write_seq(),
            ),
        Fallback::Ack,
    )?;
    refuse_if(p.urg_data() != 0, Fallback::Urgent)
}

/// Returns whether bytes that are written now may bypass the write queue. The caller has exclusive
/// access to both sockets.
///
/// Establishes invariant 2.
#[inline(always)]
pub(crate) fn may_bypass_write_queue(
    sock: &Sock,
    s: &Tcp<'_>,
    p: &Tcp<'_>,
    member: &Member<'_>,
) -> bool {
    member.still_paired(sock)
        && member.peer_still_paired()
        && member.nobody_waits()
        && fast_check(s, p, member)
        && member.end().question().is_not_due()
}

/// Returns whether bytes that are written now may be moved at once: [`sender`] and [`receiver`]
/// give no reason for the wire, nothing is queued before these bytes, the sender is not corked, has
/// no pending error and owes no ACK, and both ends are established. The caller has exclusive access
/// to both sockets.
///
/// All values that must be zero are combined and tested together, because one branch for each
/// would cost as much as the copy of a small write. A caller that gets `false` leaves the write to
/// TCP. The transmission from the write queue then checks [`sender`] and [`receiver`], and counts
/// the reason.
///
/// Establishes invariant 2. A result of `true` implies that [`sender`] and [`receiver`] succeed, as
/// a debug kernel asserts.
#[inline(always)]
pub(crate) fn fast_check(s: &Tcp<'_>, p: &Tcp<'_>, member: &Member<'_>) -> bool {
    let clear = fast_check_once(s, p, member);

    if cfg!(CONFIG_RUST_DEBUG_ASSERTIONS) && clear {
        let eligible = sender(s, member).and_then(|()| receiver(s, p, member));

        // The second check avoids a false warning if a watcher came in between.
        warn_on!(eligible.is_err() && fast_check_once(s, p, member));
    }
    clear
}

#[inline(always)]
fn fast_check_once(s: &Tcp<'_>, p: &Tcp<'_>, member: &Member<'_>) -> bool {
    receiver_is_eligible(s, p, member) && sender_is_eligible(s, member)
}

/// The sender's half of [`fast_check`].
#[inline(always)]
fn sender_is_eligible(s: &Tcp<'_>, member: &Member<'_>) -> bool {
    let sender = s.sock();
    let una = s.snd_una();

    // Only a few values are combined at a time, because there are not enough registers for more.
    let numbers = s.packets_out()
        | (una ^ s.snd_nxt())
        | (una ^ s.snd_up())
        | (s.rcv_nxt() ^ s.rcv_wup())
        | corked_or_pushed(s.nonagle());

    numbers == 0
        && (!sender.max_pacing_rate()
            | sender.writer_exceptions(member.rcu())
            | s.write_queue()
            | (sender.route_id() ^ member.end().route()))
            == 0
        && (cfg!(tcp_friends_without = "watchers") || is_unwatched(sender, member))
}

/// Returns whether [`watchers`] succeeds, in a form that is fast enough for [`fast_check`].
#[inline(always)]
fn is_unwatched(sock: &Sock, member: &Member<'_>) -> bool {
    let way = match member.checks() {
        Checks::Loopback => sock
            .net()
            .loopback(member.rcu())
            .is_some_and(|lo| lo.taps() | lo.governors() == 0),
        Checks::Path => !member.is_watched() && sock.raw_listeners() == 0,
        Checks::All => return all_unwatched(sock, member),
    };

    way && !has_cgroup_filter(sock)
}

/// The part of [`is_unwatched`] for a pair of which everything has to be checked
/// ([`Checks::All`]).
#[cold]
#[inline(never)]
fn all_unwatched(sock: &Sock, member: &Member<'_>) -> bool {
    watchers(sock, member).is_ok()
}

/// The receiver's half of [`fast_check`].
#[inline(always)]
fn receiver_is_eligible(s: &Tcp<'_>, p: &Tcp<'_>, member: &Member<'_>) -> bool {
    let receiver = p.sock();
    let una = p.snd_una();
    // The receiver has nothing in flight, and has the ACK of every byte that the sender has
    // received, so no ACK is on its way. If the sender has received more than the receiver has
    // sent, then a third party has forged the rest, and the wire has to refuse what follows.
    let numbers = (s.snd_nxt() ^ p.rcv_nxt())
        | (una ^ p.snd_nxt())
        | (una ^ s.rcv_nxt())
        | u32::from(p.urg_data());
    let route = receiver.route_id() ^ member.peer_end().route();

    (numbers as usize | p.ofo_queue() | receiver.receiver_exceptions(member.rcu()) | route) == 0
        && !has_cgroup_filter(receiver)
}

/// Checks that this skb may be moved.
pub(crate) fn skb(head: &Head<'_>) -> Eligibility {
    refuse_if(head.tcp_flags() & (FIN | SYN) != 0, Fallback::Fin)?;
    refuse_if(head.has_linear_data(), Fallback::Shape)?;
    refuse_if(head.wants_timestamp(), Fallback::Timestamp)
}

/// Returns whether this skb holds the last bytes of the stream and the FIN.
pub(crate) fn is_data_and_fin(head: &Head<'_>) -> bool {
    head.tcp_flags() & FIN != 0 && head.len() != 0
}

/// Returns whether the receiver `sock` accepts one more skb. A receiver does so until its unread
/// data fills the receive buffer, as TCP does for segments in its window (`tcp_can_ingest()`).
///
/// A receiver therefore holds at most one skb more than its buffer allows. If memory is short
/// ([`Sock::is_short_of_memory`]), the limit is half of the buffer, because
/// `__tcp_select_window()` offers no more then. For a receiver with a cgroup, which may have passed
/// `memory.max`, the limit is then [`MIN_RECEIVE`] at most: a charge that is made with a spinlock
/// held may exceed `memory.max`, so nothing else would stop the sender.
#[inline(always)]
pub(crate) fn has_room(sock: &Sock) -> bool {
    // A shift: the size of a buffer is not negative, which the compiler does not know.
    sock.receive_memory() <= sock.receive_buffer() >> 1 && !sock.has_cgroup()
        || has_room_all_told(sock)
}

/// The part of [`has_room`] for a receiver whose memory is charged to a cgroup, or whose buffer is
/// more than half full.
#[cold]
#[inline(never)]
fn has_room_all_told(sock: &Sock) -> bool {
    let (memory, buffer) = (sock.receive_memory(), sock.receive_buffer());
    let always = if sock.has_cgroup() {
        MIN_RECEIVE.min(buffer / 2)
    } else {
        buffer / 2
    };

    memory <= always || memory <= buffer && !sock.is_short_of_memory()
}

/// The receive memory in bytes up to which every receiver with a large enough buffer accepts data,
/// so that its reader makes progress.
const MIN_RECEIVE: i32 = 32 * 1024;
