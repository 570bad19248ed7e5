// SPDX-License-Identifier: GPL-2.0

//! Who must take the wire, and why.
//!
//! Asked before each move, so each question costs a load or two.

use kernel::warn_on;

use crate::{
    abstractions::{
        Asks,
        Device,
        Head,
        Member,
        Net,
        Sock,
        State,
        Tcp, //
    },
    half::Half,
    hold::may_not_go_alone,
    namespace,
    seq::before,
    stats::Wire,
};

/// `TCPHDR_FIN`, RFC 9293 section 3.1.
const FIN: u16 = 0x01;
/// `TCPHDR_SYN`.
const SYN: u16 = 0x02;

/// Why the wire must be taken, if it must.
pub(crate) type Fence = Result<(), Wire>;

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
#[inline(never)]
pub(crate) fn sender(s: &Tcp<'_>, member: &Member<'_>) -> Fence {
    // So the retransmit queue is empty.
    unless(
        s.packets_out() != 0 || s.snd_una() != s.snd_nxt(),
        Wire::InFlight,
    )?;
    unless(s.snd_up() != s.snd_una(), Wire::Urgent)?;
    // The wire has the clock for it.
    unless(s.sock().max_pacing_rate() != usize::MAX, Wire::Paced)?;
    unless(s.sock().bpf_callbacks() != 0, Wire::Bpf)?;
    hears_acks(s.sock(), member)?;
    route(s.sock(), member.half(), member)?;
    watchers(s.sock(), member)
}

/// Whether nothing of the sender's own is about the ACKs that friends do not send: a filter would
/// judge them, and so would a least TTL; options of IPv6 tell of the last one.
#[inline(never)]
fn hears_acks(sock: &Sock, member: &Member<'_>) -> Fence {
    unless(
        sock.has_filter() || sock.wants_headers(member.rcu()) != 0,
        Wire::Sender,
    )
}

/// Whether `sock`, the socket of the end `half`, would send its segments where friends are. What
/// changes its route (SO_MARK, SO_BINDTODEVICE, IP_TOS, a policy of IPsec) makes it forget it.
#[inline(always)]
fn route(sock: &Sock, half: &Half, member: &Member<'_>) -> Fence {
    if sock.route_id() == half.route() {
        return Ok(());
    }
    new_route(sock, half, member)
}

/// Finds out about the routes of both ends, of which `sock` is the one whose view `member` is, so
/// that the first message need not.
pub(crate) fn learn_routes(sock: &Sock, member: &Member<'_>) {
    // A tracker may translate addresses behind the route, so that its device is not one of the
    // path. The handshake went that way.
    for (end, half) in [(sock, member.half()), (member.peer(), member.peer_half())] {
        half.set_home(end.route_device(member.rcu()).map_or(0, Device::id));
    }
    // What is not fit is told when something has to be moved.
    let _ = new_route(sock, member.half(), member);
    let _ = new_route(member.peer(), member.peer_half(), member);
}

#[cold]
#[inline(never)]
fn new_route(sock: &Sock, half: &Half, member: &Member<'_>) -> Fence {
    let (id, rcu) = (sock.route_id(), member.rcu());

    half.forget_route();
    // The next segment finds one.
    unless(id == 0, Wire::Route)?;
    unless(sock.has_ipsec(rcu), Wire::Ipsec)?;
    let leads_there = sock.route_device(rcu).is_some_and(|device| {
        if member.crosses() {
            member.passes(device) || device.id() == half.home()
        } else {
            sock.net().loopback(rcu).is_some_and(|lo| lo.is(device))
        }
    });
    // It was not replaced meanwhile.
    unless(!leads_there || sock.route_id() != id, Wire::Route)?;
    half.set_route(id);
    Ok(())
}

/// Whether nobody watches or governs what `sock`, whose view `member` is, sends on the
/// wire. They come and go as they like, whoever has the socket.
#[inline(never)]
pub(crate) fn watchers(sock: &Sock, member: &Member<'_>) -> Fence {
    if cfg!(tcp_friends_without = "watchers") {
        return Ok(());
    }
    let (net, rcu) = (sock.net(), member.rcu());

    if member.crosses() {
        unless(member.taps() != 0, Wire::Capture)?;
        unless(member.governors() != 0, Wire::Traffic)?;
        // Where it does not cross the receiver's namespace is this one.
        unless(sock.raw_listeners() != 0, Wire::Sender)?;
    } else {
        let lo = net.loopback(rcu).ok_or(Wire::Traffic)?;

        unless(lo.taps() != 0, Wire::Capture)?;
        unless(lo.governors() != 0, Wire::Traffic)?;
    }
    if member.asks() == Asks::All {
        // Where the pair crosses each tracker has seen the mark, and checks no windows.
        unless(
            !member.crosses() && net.tracks_connections(rcu),
            Wire::Conntrack,
        )?;
        unless(is_filtered(net, member), Wire::Netfilter)?;
    }
    unless(is_judged(sock), Wire::Cgroup)
}

/// Whether a BPF program of its cgroup judges what the socket sends or receives: data one way,
/// and ACKs the other.
#[inline(always)]
fn is_judged(sock: &Sock) -> bool {
    sock.cgroup_judges_sent() || sock.cgroup_judges_received()
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

/// What can be asked of a receiver, of the pair of `member`, without its lock.
#[inline(never)]
fn any_receiver(sock: &Sock, member: &Member<'_>) -> Fence {
    match sock.state() {
        State::Established => (),
        // TCP resets who sends to an end that will not read; it does so for segments.
        State::FinWait if !sock.receive_shutdown() => (),
        _ => return Err(Wire::PeerState),
    }
    unless(sock.has_filter(), Wire::Filter)?;
    unless(is_judged(sock), Wire::Cgroup)?;
    unless(sock.wants_receive_timestamps(), Wire::Timestamp)?;
    unless(sock.wants_headers(member.rcu()) != 0, Wire::Headers)?;
    unless(sock.bpf_callbacks() != 0, Wire::Bpf)?;
    unless(sock.raw_listeners() != 0, Wire::Raw)
}

/// Whether what `sock`, whose view `member` is, writes next would be moved, as far as can
/// be seen without a lock.
pub(crate) fn seen(sock: &Sock, member: &Member<'_>) -> Fence {
    watchers(sock, member)?;
    any_receiver(member.peer(), member)?;
    unless(sock.max_pacing_rate() != usize::MAX, Wire::Paced)?;
    unless(sock.bpf_callbacks() != 0, Wire::Bpf)?;
    hears_acks(sock, member)?;
    unless(sock.peek_snd_una() != sock.peek_snd_nxt(), Wire::InFlight)
}

/// Whether the receiver takes what the sender has next; `member` is the sender's view. The
/// caller has exclusive access to both.
///
/// Establishes the receiver's half of invariant 2.
#[inline(always)]
pub(crate) fn receiver(s: &Tcp<'_>, p: &Tcp<'_>, member: &Member<'_>) -> Fence {
    any_receiver(p.sock(), member)?;
    route(p.sock(), member.peer_half(), member)?;
    unless(
        p.rcv_nxt() != s.snd_nxt() || p.ofo_queue() != 0,
        Wire::Sequence,
    )?;
    // An ACK for it may be on its way, and would be out of the window once it is overtaken.
    unless(before(p.snd_una(), s.rcv_nxt()), Wire::Ack)?;
    // Its segments acknowledge what it had received when they were sent: TCP takes one that
    // lags by more than the largest window for a blind injection.
    unless(
        p.snd_una() != p.snd_nxt()
            && before(
                member.peer_half().acked().wrapping_add(s.max_window()),
                s.write_seq(),
            ),
        Wire::Ack,
    )?;
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
/// Establishes invariant 2. It implies [`sender`] and [`receiver`], as the debug kernel asserts.
#[inline(always)]
pub(crate) fn is_clear(s: &Tcp<'_>, p: &Tcp<'_>, member: &Member<'_>) -> bool {
    let clear = all_clear(s, p, member);

    if cfg!(CONFIG_RUST_DEBUG_ASSERTIONS) && clear {
        let fences = sender(s, member).and_then(|()| receiver(s, p, member));

        // Asked again, since watchers come and go.
        warn_on!(fences.is_err() && all_clear(s, p, member));
    }
    clear
}

#[inline(always)]
fn all_clear(s: &Tcp<'_>, p: &Tcp<'_>, member: &Member<'_>) -> bool {
    receiver_is_clear(s, p, member) && sender_is_clear(s, member)
}

/// The sender's half of [`is_clear`].
#[inline(always)]
fn sender_is_clear(s: &Tcp<'_>, member: &Member<'_>) -> bool {
    let sender = s.sock();
    let una = s.snd_una();

    // A few at a time, or there are not enough registers.
    let numbers = s.packets_out()
        | (una ^ s.snd_nxt())
        | (una ^ s.snd_up())
        | (s.rcv_nxt() ^ s.rcv_wup())
        | may_not_go_alone(s.nonagle());

    numbers == 0
        && (!sender.max_pacing_rate()
            | sender.odd_writer(member.rcu())
            | s.write_queue()
            | (sender.route_id() ^ member.half().route()))
            == 0
        && (cfg!(tcp_friends_without = "watchers") || is_unwatched(sender, member))
}

/// What [`watchers`] asks, for [`is_clear`].
#[inline(always)]
fn is_unwatched(sock: &Sock, member: &Member<'_>) -> bool {
    let way = match member.asks() {
        Asks::Lo => sock
            .net()
            .loopback(member.rcu())
            .is_some_and(|lo| lo.taps() | lo.governors() == 0),
        Asks::Path => !member.is_watched() && sock.raw_listeners() == 0,
        Asks::All => return asked_all(sock, member),
    };

    way && !is_judged(sock)
}

/// The same, of one for which all has to be asked.
#[cold]
#[inline(never)]
fn asked_all(sock: &Sock, member: &Member<'_>) -> bool {
    watchers(sock, member).is_ok()
}

/// The receiver's half of [`is_clear`].
#[inline(always)]
fn receiver_is_clear(s: &Tcp<'_>, p: &Tcp<'_>, member: &Member<'_>) -> bool {
    let receiver = p.sock();
    let una = p.snd_una();
    // The receiver has nothing in flight, and has been sent the ACK of every byte that the sender
    // has received: so no ACK is on its way. If the sender has received more than the receiver
    // has sent, a third party has forged the rest, and the wire has to refuse what follows.
    let numbers = (s.snd_nxt() ^ p.rcv_nxt())
        | (una ^ p.snd_nxt())
        | (una ^ s.rcv_nxt())
        | u32::from(p.urg_data());
    let route = receiver.route_id() ^ member.peer_half().route();

    (numbers as usize | p.ofo_queue() | receiver.odd_receiver(member.rcu()) | route) == 0
        && !is_judged(receiver)
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

/// Whether a receiver takes one more skb: it does until what it holds fills its
/// buffer, as TCP does for segments in its window (`tcp_can_ingest()`).
///
/// So it holds at most one skb more than its buffer. Where TCP is short of memory it is one more
/// than half of it, since there `__tcp_select_window()` offers no more; and where its cgroup has
/// passed `memory.max`, one more than [`LITTLE`]. What is charged with a spinlock held passes that,
/// so that nothing else would hold it back.
#[inline(always)]
pub(crate) fn has_room(sock: &Sock) -> bool {
    // A shift: the size of a buffer is not negative, which the compiler does not know.
    sock.receive_memory() <= sock.receive_buffer() >> 1 && !sock.has_cgroup()
        || has_room_all_told(sock)
}

/// [`has_room`], of a receiver whose memory is charged to a cgroup, or that is half full.
#[cold]
#[inline(never)]
fn has_room_all_told(sock: &Sock) -> bool {
    let (memory, buffer) = (sock.receive_memory(), sock.receive_buffer());
    let always = if sock.has_cgroup() {
        LITTLE.min(buffer / 2)
    } else {
        buffer / 2
    };

    memory <= always || memory <= buffer && !sock.is_short_of_memory()
}

/// So much any receiver takes that has the buffer for it, so that what reads it goes on.
const LITTLE: i32 = 32 * 1024;
