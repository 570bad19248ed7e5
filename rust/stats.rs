// SPDX-License-Identifier: GPL-2.0

//! What is counted: per namespace and CPU, and per pair.

use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

use crate::{
    abstractions::{
        trace,
        Member,
        Sock, //
    },
    moving::Moved, //
};

/// Why something took the wire. Each is a counter of `/proc/net/tcp_friends_stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Wire {
    /// Something is in flight on the wire (invariant 2).
    InFlight,
    /// Urgent data is under way, either side.
    Urgent,
    /// A FIN, which only the wire carries.
    Fin,
    /// The caller wants a segment on the wire: a tail loss probe.
    Probe,
    /// An ACK is owed for what came by the wire, and a segment can carry it.
    Ack,
    /// The peer's state does not take data this way (closed, shut down).
    PeerState,
    /// The peer has something out of order, or expects another byte.
    Sequence,
    /// The peer has found another friend, or lost us, meanwhile.
    Parted,
    /// The peer's spinlock was taken by somebody else, and we may not wait.
    Contended,
    /// The sender asked for a rate that is not to be exceeded.
    Paced,
    /// Somebody captures packets on the loopback device.
    Capture,
    /// A queueing discipline, a classifier or an XDP program governs the loopback device, or it is
    /// down.
    Traffic,
    /// A BPF program of the sender's or the receiver's cgroup judges packets.
    Cgroup,
    /// Connection tracking is on: it would lose sight of a stream that goes past it.
    Conntrack,
    /// Netfilter has hooks, and the administrator wants it to see all (strict mode).
    Netfilter,
    /// An IPsec policy has a say in the route of either end.
    Ipsec,
    /// Either end has no route, or another one than what lies between them.
    Route,
    /// A raw socket of the receiver's namespace sees the segments of TCP.
    Raw,
    /// The receiver judges, or is told of, the IP headers of what it receives, or sends options of
    /// IP.
    Headers,
    /// The sender has a filter, judges, or is told of, the IP headers of the ACKs that it would
    /// receive, or sends options of IP; or a raw socket of its namespace, which is not the
    /// receiver's, would see the ACKs.
    Sender,
    /// A BPF program asked to be called for what the wire does with segments.
    Bpf,
    /// The wire is asked now and then whether the connection is still allowed.
    Revalidate,
    /// The peer's socket has a filter.
    Filter,
    /// A time stamp of a segment was asked for.
    Timestamp,
    /// An skb of a shape that a receive queue does not expect.
    Shape,
    /// No memory for the peer's account, for cutting an skb, or for copying one's pages.
    Memory,
    /// What a tenant is told in place of a reason that is not its own: see [`Wire::told`].
    Path,
}

impl Wire {
    /// How many reasons there are.
    pub(crate) const COUNT: usize = Wire::Path as usize + 1;

    /// All reasons, in the order of their counters.
    pub(crate) const ALL: [(Wire, &'static CStr); Self::COUNT] = [
        (Wire::InFlight, c"in_flight"),
        (Wire::Urgent, c"urgent"),
        (Wire::Fin, c"fin"),
        (Wire::Probe, c"probe"),
        (Wire::Ack, c"ack"),
        (Wire::PeerState, c"peer_state"),
        (Wire::Sequence, c"sequence"),
        (Wire::Parted, c"parted"),
        (Wire::Contended, c"contended"),
        (Wire::Paced, c"paced"),
        (Wire::Capture, c"capture"),
        (Wire::Traffic, c"traffic_control"),
        (Wire::Cgroup, c"cgroup"),
        (Wire::Conntrack, c"conntrack"),
        (Wire::Netfilter, c"netfilter"),
        (Wire::Ipsec, c"ipsec"),
        (Wire::Route, c"route"),
        (Wire::Raw, c"raw"),
        (Wire::Headers, c"headers"),
        (Wire::Sender, c"sender"),
        (Wire::Bpf, c"bpf"),
        (Wire::Revalidate, c"revalidate"),
        (Wire::Filter, c"filter"),
        (Wire::Timestamp, c"timestamp"),
        (Wire::Shape, c"shape"),
        (Wire::Memory, c"memory"),
        (Wire::Path, c"path"),
    ];
}

impl Wire {
    /// Its name in `/proc` and in tracepoints.
    pub(crate) fn name(self) -> &'static CStr {
        Self::ALL.get(self as usize).map_or(c"", |(_, name)| name)
    }

    /// What the sender's namespace is told of a direction of a pair that crosses, unless it is
    /// the host's own.
    ///
    /// What the stream itself or the sender's own socket gives for a reason is named. The
    /// rest may come from the host, from a device or a namespace on the way, or from the
    /// other end's socket, memory and cgroup. A tenant need not know who watches it, nor what
    /// another tenant's program does, so all of these have one name.
    pub(crate) fn told(self) -> Self {
        match self {
            Self::Paced | Self::Sender | Self::Shape => self,
            _ => self.told_of_stream(),
        }
    }

    /// The same, for the namespace of the receiver: what its own socket gives for a reason is
    /// named.
    pub(crate) fn told_to_receiver(self) -> Self {
        match self {
            Self::PeerState | Self::Filter | Self::Timestamp | Self::Headers | Self::Raw => self,
            _ => self.told_of_stream(),
        }
    }

    /// The same, where it is not known which direction it was: what both ends see in their
    /// segments is named.
    pub(crate) fn told_of_stream(self) -> Self {
        match self {
            Self::InFlight
            | Self::Urgent
            | Self::Fin
            | Self::Probe
            | Self::Ack
            | Self::Revalidate => self,
            _ => Self::Path,
        }
    }

    /// What the namespace of `sock`, whose view `member` is, is told of what `sock` transmits.
    pub(crate) fn told_by(self, sock: &Sock, member: &Member<'_>) -> Self {
        if is_told_all(sock, member) {
            self
        } else {
            self.told()
        }
    }
}

/// A counter.
#[derive(Clone, Copy)]
pub(crate) enum Counter {
    /// Pairs formed, or about to be.
    Paired,
    /// Of these, those that came to nothing.
    Unformed,
    /// Pairs dissolved.
    Parted,
    /// Bytes moved by friends.
    Bytes,
    /// Skbs moved by friends.
    Skbs,
    /// Times that a sender found its friend full.
    Full,
    /// Times that a reader pulled what had waited.
    Pulled,
    /// ACKs that were sent since a friend that waits could not be reached.
    Nudged,
    /// SYNs that were marked.
    Offered,
    /// Pairs formed by a mark; each is counted at both ends.
    Crossed,
    /// Transmissions that were left to the wire.
    Wire(Wire),
}

impl Counter {
    const FIXED: usize = 10;

    /// How many counters there are.
    pub(crate) const COUNT: usize = Self::FIXED + Wire::COUNT;

    /// Its place.
    pub(crate) const fn index(self) -> usize {
        match self {
            Counter::Paired => 0,
            Counter::Unformed => 1,
            Counter::Parted => 2,
            Counter::Bytes => 3,
            Counter::Skbs => 4,
            Counter::Full => 5,
            Counter::Pulled => 6,
            Counter::Nudged => 7,
            Counter::Offered => 8,
            Counter::Crossed => 9,
            Counter::Wire(why) => Self::FIXED + why as usize,
        }
    }
}

/// What one end of a pair has moved to the other.
///
/// Written by who has that end to itself, read by anybody.
pub(crate) struct Sent {
    bytes: Atomic<u64>,
    skbs: Atomic<u64>,
}

impl Sent {
    const fn none() -> Self {
        Self {
            bytes: Atomic::new(0),
            skbs: Atomic::new(0),
        }
    }

    /// Bytes of payload.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Skbs.
    pub(crate) fn skbs(&self) -> u64 {
        self.skbs.load(Relaxed)
    }
}

/// What one pair has done.
pub(crate) struct Tally {
    /// By the number of the side.
    sent: [Sent; 2],
    /// How often either end took the wire, by reason.
    wire: [Atomic<u32>; Wire::COUNT],
}

impl Tally {
    /// Nothing yet.
    pub(crate) const fn new() -> Self {
        Self {
            sent: [const { Sent::none() }; 2],
            wire: [const { Atomic::new(0) }; Wire::COUNT],
        }
    }

    /// What that side has moved.
    pub(crate) fn sent(&self, side: usize) -> &Sent {
        &self.sent[side & 1]
    }

    /// How often either end took the wire for that reason.
    pub(crate) fn wire(&self, why: Wire) -> u32 {
        self.wire[why as usize].load(Relaxed)
    }
}

/// Something of `sock`, whose view `member` is, was moved. The caller has the socket
/// to itself.
#[inline(always)]
pub(crate) fn moved(sock: &Sock, member: &Member<'_>, moved: &Moved) {
    if cfg!(tcp_friends_without = "counters") {
        return;
    }
    let namespace = member.namespace();
    let sent = member.sent();
    let bytes = u64::from(moved.bytes);

    let skbs = u64::from(moved.skbs);

    // No branch for bytes that were appended: adding zero costs as much.
    sent.bytes.store(sent.bytes().wrapping_add(bytes), Relaxed);
    sent.skbs.store(sent.skbs().wrapping_add(skbs), Relaxed);
    namespace.count(Counter::Bytes, bytes);
    namespace.count(Counter::Skbs, skbs);
    trace::moved(sock, moved.bytes, moved.skbs);
}

/// Whether the namespace of `sock`, whose view `member` is, may know every reason: the
/// connection is all its own, or it is the host's.
pub(crate) fn is_told_all(sock: &Sock, member: &Member<'_>) -> bool {
    !member.crosses() || sock.net().is_host()
}

/// What `sock`, of that pair, has to transmit takes the wire. Any context. Its tracepoint,
/// which is the host's, tells the reason as it is.
pub(crate) fn fell(sock: &Sock, member: &Member<'_>, why: Wire) {
    let told = why.told_by(sock, member);

    member.namespace().count(Counter::Wire(told), 1);
    member.tally().wire[why as usize].fetch_add(1, Relaxed);
    trace::wire(sock, why.name());
}

#[kernel::macros::kunit_tests(tcp_friends_stats)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_at_their_place() {
        for (i, (why, _)) in Wire::ALL.iter().enumerate() {
            assert_eq!(*why as usize, i);
        }
        assert_eq!(Wire::InFlight.name(), c"in_flight");
        assert_eq!(Wire::Memory.name(), c"memory");
    }

    #[test]
    fn a_tenant_is_not_told_who_watches() {
        for why in [
            Wire::Capture,
            Wire::Traffic,
            Wire::Cgroup,
            Wire::Conntrack,
            Wire::Netfilter,
            Wire::Ipsec,
        ] {
            assert_eq!(why.told(), Wire::Path);
            assert_eq!(why.told_to_receiver(), Wire::Path);
            assert_eq!(why.told_of_stream(), Wire::Path);
        }
    }

    #[test]
    fn a_tenant_is_told_of_its_own_socket_only() {
        assert_eq!(Wire::Paced.told(), Wire::Paced);
        assert_eq!(Wire::Paced.told_to_receiver(), Wire::Path);
        assert_eq!(Wire::Sender.told(), Wire::Sender);
        assert_eq!(Wire::Sender.told_to_receiver(), Wire::Path);
        assert_eq!(Wire::Filter.told(), Wire::Path);
        assert_eq!(Wire::Filter.told_to_receiver(), Wire::Filter);
        assert_eq!(Wire::Filter.told_of_stream(), Wire::Path);
        assert_eq!(Wire::InFlight.told_to_receiver(), Wire::InFlight);
    }

    #[test]
    fn no_two_counters_share_a_place() {
        let fixed = [
            Counter::Paired,
            Counter::Unformed,
            Counter::Parted,
            Counter::Bytes,
            Counter::Skbs,
            Counter::Full,
            Counter::Pulled,
            Counter::Nudged,
            Counter::Offered,
            Counter::Crossed,
        ];
        for (i, counter) in fixed.iter().enumerate() {
            assert_eq!(counter.index(), i);
        }
        assert_eq!(Counter::Wire(Wire::ALL[0].0).index(), fixed.len());
        assert_eq!(
            Counter::Wire(Wire::ALL[Wire::ALL.len() - 1].0).index(),
            Counter::COUNT - 1
        );
    }
}
