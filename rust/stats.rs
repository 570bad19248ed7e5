// SPDX-License-Identifier: GPL-2.0

//! The reasons to take the wire, and the counters of a namespace, with their names.

use kernel::prelude::*;

use crate::net::PerCpuCounters;

/// Defines an enumeration, each value of which has a name for `/proc` and for tracepoints.
macro_rules! named {
    ($(#[$doc:meta])* enum $type:ident { $($(#[$of:meta])* $value:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub(crate) enum $type {
            $($(#[$of])* $value,)*
        }

        impl $type {
            /// The number of values.
            pub(crate) const COUNT: usize = [$(Self::$value),*].len();

            /// All values with their names, in numerical order.
            pub(crate) const ALL: [(Self, &'static CStr); Self::COUNT] =
                [$((Self::$value, $name)),*];
        }
    };
}

named! {
    /// The reason why data took the wire. Each reason is a counter of `/proc/net/tcp_friends_stat`,
    /// with `wire_` before the reason's name.
    enum Fallback {
        /// Data is in flight on the wire (invariant 2).
        InFlight = c"in_flight",
        /// Urgent data is under way at either end.
        Urgent = c"urgent",
        /// A FIN, which only the wire carries.
        Fin = c"fin",
        /// The caller wants a segment on the wire, for a tail loss probe.
        Probe = c"probe",
        /// The sender owes an ACK for data that came by the wire, and a segment can carry the ACK;
        /// or moved data could overtake an ACK, or a segment of the peer's would lag behind by more
        /// than a window.
        Ack = c"ack",
        /// The peer's state does not permit moving data to the peer (closed, shut down).
        PeerState = c"peer_state",
        /// The peer has data out of order, or expects another sequence number.
        Sequence = c"sequence",
        /// The pair was dissolved meanwhile, or the peer has another friend.
        Parted = c"parted",
        /// Another context holds the peer's spinlock, for which the sender may not wait; or as much
        /// was moved with both spinlocks held as is permitted.
        Contended = c"contended",
        /// The sender has a maximum pacing rate (`SO_MAX_PACING_RATE`).
        Paced = c"paced",
        /// A program captures packets on the loopback device, or on the pair's path.
        Capture = c"capture",
        /// A queueing discipline, a classifier or an XDP program governs the loopback device or the
        /// pair's path, or the loopback device is down.
        Traffic = c"traffic_control",
        /// A BPF program of the sender's or the receiver's cgroup filters packets.
        Cgroup = c"cgroup",
        /// Connection tracking is on, and would lose track of a stream that is moved past it.
        Conntrack = c"conntrack",
        /// Netfilter has hooks, and the administrator wants netfilter to see all data (strict
        /// mode).
        Netfilter = c"netfilter",
        /// An IPsec policy applies to the route of either end.
        Ipsec = c"ipsec",
        /// Either end has no route, or a route that does not lead over the devices between the two
        /// ends.
        Route = c"route",
        /// A raw socket of the receiver's namespace sees the segments of TCP.
        Raw = c"raw",
        /// The receiver checks, or is shown, the IP headers of what it receives, or sends IP
        /// options.
        Headers = c"headers",
        /// The sender has a filter, checks, or is shown, the IP headers of the ACKs that it would
        /// receive, or sends IP options; or a raw socket of the sender's namespace, which is not
        /// the receiver's, would see the ACKs.
        Sender = c"sender",
        /// A BPF program of either end has asked for callbacks for segments on the wire.
        Bpf = c"bpf",
        /// The connection is revalidated: the wire is asked whether it still carries the
        /// connection.
        Revalidate = c"revalidate",
        /// The peer's socket has a filter.
        Filter = c"filter",
        /// Either end has asked for time stamps of segments.
        Timestamp = c"timestamp",
        /// The skb has a shape that a receive queue does not expect.
        Shape = c"shape",
        /// There is no memory to charge to the peer, to cut an skb, or to copy the pages of an skb.
        Memory = c"memory",
        /// The reason that a tenant is shown in place of reasons that are not its own; see
        /// [`Fallback::shown_to_sender`].
        Path = c"path",
    }
}

impl Fallback {
    /// Returns the reason's name in `/proc` and in tracepoints.
    pub(crate) fn name(self) -> &'static CStr {
        Self::ALL.get(self as usize).map_or(c"", |(_, name)| name)
    }

    /// Returns the reason that the sender's namespace is shown for one direction of a pair across
    /// namespaces, unless that namespace is the host's.
    ///
    /// A reason that comes from the stream itself or from the sender's own socket is shown. The
    /// other reasons may come from the host, from a device or a namespace on the path, or from the
    /// other end's socket, memory and cgroup. A tenant need not know who watches it, nor what
    /// another tenant's program does, so all other reasons are shown as [`Fallback::Path`].
    pub(crate) fn shown_to_sender(self) -> Self {
        match self {
            Self::Paced | Self::Sender | Self::Shape => self,
            _ => self.shown_to_both(),
        }
    }

    /// Returns the reason that the receiver's namespace is shown for one direction of a pair across
    /// namespaces. A reason that comes from the stream itself or from the receiver's own socket is
    /// shown; see [`Fallback::shown_to_sender`].
    pub(crate) fn shown_to_receiver(self) -> Self {
        match self {
            Self::PeerState | Self::Filter | Self::Timestamp | Self::Headers | Self::Raw => self,
            _ => self.shown_to_both(),
        }
    }

    /// Returns the reason that either namespace is shown where the direction is not known. A reason
    /// that both ends see in their segments is shown; see [`Fallback::shown_to_sender`].
    pub(crate) fn shown_to_both(self) -> Self {
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
}

named! {
    /// The other counters of a namespace, with their names in `/proc/net/tcp_friends_stat`.
    enum Counter {
        /// Pairs formed, or about to be formed. `pairs_total` is this counter less the next one,
        /// and `pairs` is this counter less the next two.
        Paired = c"",
        /// Pairs that were about to be formed, and were not formed.
        FormFailed = c"",
        /// Pairs dissolved.
        Dissolved = c"",
        /// Bytes moved by friends.
        Bytes = c"bytes",
        /// Skbs moved by friends.
        Skbs = c"skbs",
        /// Times that a sender found its friend full.
        Full = c"full",
        /// Times that a writer waited for room.
        Waited = c"waited",
        /// Times that a receiver got data that had waited in its friend's write queue.
        Pulled = c"pulled",
        /// ACKs that were sent because a friend that waits could not be reached.
        Nudged = c"nudged",
        /// SYNs that were marked.
        Offered = c"offered",
        /// Pairs formed by a mark; each pair is counted in the namespace of each end.
        Crossed = c"crossed",
    }
}

/// The counters of a namespace.
pub(crate) struct Counters(PerCpuCounters<{ Counter::COUNT + Fallback::COUNT }>);

impl Counters {
    /// Creates counters that are all zero. May sleep.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(PerCpuCounters::new()?))
    }

    /// Adds `val` to a counter. May be called in any context.
    #[inline]
    pub(crate) fn add(&self, counter: Counter, val: u64) {
        self.0.add(counter as usize, val);
    }

    /// Counts that data took the wire for the reason `why`. May be called in any context.
    #[inline]
    pub(crate) fn fell_back(&self, why: Fallback) {
        self.0.add(Counter::COUNT + why as usize, 1);
    }

    /// Returns the sum over all CPUs, which is no snapshot while other contexts add.
    #[inline(never)]
    pub(crate) fn sum(&self, counter: Counter) -> u64 {
        self.0.sum(counter as usize)
    }

    /// Returns how often data took the wire for the reason `why`, as a sum over all CPUs, which is
    /// no snapshot while other contexts add.
    #[inline(never)]
    pub(crate) fn fallbacks(&self, why: Fallback) -> u64 {
        self.0.sum(Counter::COUNT + why as usize)
    }
}

#[kernel::macros::kunit_tests(tcp_friends_stats)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_at_their_place() {
        for (i, (why, _)) in Fallback::ALL.iter().enumerate() {
            assert_eq!(*why as usize, i);
        }
        assert_eq!(Fallback::InFlight.name(), c"in_flight");
        assert_eq!(Fallback::Memory.name(), c"memory");
    }

    #[test]
    fn a_tenant_is_not_told_who_watches() {
        for why in [
            Fallback::Capture,
            Fallback::Traffic,
            Fallback::Cgroup,
            Fallback::Conntrack,
            Fallback::Netfilter,
            Fallback::Ipsec,
        ] {
            assert_eq!(why.shown_to_sender(), Fallback::Path);
            assert_eq!(why.shown_to_receiver(), Fallback::Path);
            assert_eq!(why.shown_to_both(), Fallback::Path);
        }
    }

    #[test]
    fn a_tenant_is_told_of_its_own_socket_only() {
        assert_eq!(Fallback::Paced.shown_to_sender(), Fallback::Paced);
        assert_eq!(Fallback::Paced.shown_to_receiver(), Fallback::Path);
        assert_eq!(Fallback::Sender.shown_to_sender(), Fallback::Sender);
        assert_eq!(Fallback::Sender.shown_to_receiver(), Fallback::Path);
        assert_eq!(Fallback::Filter.shown_to_sender(), Fallback::Path);
        assert_eq!(Fallback::Filter.shown_to_receiver(), Fallback::Filter);
        assert_eq!(Fallback::Filter.shown_to_both(), Fallback::Path);
        assert_eq!(Fallback::InFlight.shown_to_receiver(), Fallback::InFlight);
    }
}
