// SPDX-License-Identifier: GPL-2.0

//! What is counted, per namespace and CPU.

/// Why something took the wire. Each is a counter of `/proc/net/tcp_friends`.
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
}

impl Wire {
    /// All reasons, in the order of their counters.
    pub(crate) const ALL: [(Wire, &'static str); 19] = [
        (Wire::InFlight, "in_flight"),
        (Wire::Urgent, "urgent"),
        (Wire::Fin, "fin"),
        (Wire::Probe, "probe"),
        (Wire::Ack, "ack"),
        (Wire::PeerState, "peer_state"),
        (Wire::Sequence, "sequence"),
        (Wire::Parted, "parted"),
        (Wire::Contended, "contended"),
        (Wire::Paced, "paced"),
        (Wire::Capture, "capture"),
        (Wire::Traffic, "traffic_control"),
        (Wire::Cgroup, "cgroup"),
        (Wire::Conntrack, "conntrack"),
        (Wire::Revalidate, "revalidate"),
        (Wire::Filter, "filter"),
        (Wire::Timestamp, "timestamp"),
        (Wire::Shape, "shape"),
        (Wire::Memory, "memory"),
    ];
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
    /// ACKs that a reader sent because its friend was busy.
    Nudged,
    /// Transmissions that were left to the wire.
    Wire(Wire),
}

impl Counter {
    const FIXED: usize = 8;

    /// How many counters there are.
    pub(crate) const COUNT: usize = Self::FIXED + Wire::ALL.len();

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
            Counter::Wire(why) => Self::FIXED + why as usize,
        }
    }
}

#[kernel::macros::kunit_tests(tcp_friends_stats)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_at_their_place() {
        for (i, (why, _)) in Wire::ALL.iter().enumerate() {
            assert_eq!(*why as usize, i);
        }
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
