// SPDX-License-Identifier: GPL-2.0

//! The mark of a segment that opens a connection or revalidates a pair, and the request for a
//! connection that a marked SYN makes.
//!
//! C headers: [`include/net/tcp_friends_mark.h`](srctree/include/net/tcp_friends_mark.h),
//! [`include/net/request_sock.h`](srctree/include/net/request_sock.h)

use core::{
    net::{
        IpAddr,
        SocketAddr, //
    },
    ptr::addr_of, //
};

use kernel::{
    bindings,
    ffi::c_int,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

use super::{
    netns::Net,
    sock::Sock, //
};

/// The last token that was used.
static TOKEN: Atomic<u64> = Atomic::new(0);

/// The bit of a token that is set for a segment that asks the wire, and clear for one that opens a
/// connection.
const ASKS: u64 = 1 << 63;

/// Returns a token that was not used before.
fn next_token() -> u64 {
    TOKEN.fetch_add(1, Relaxed).wrapping_add(1)
}

/// Sets a random start for the tokens. The module calls this before it uses the first token, since
/// marked segments may have outlived a previously loaded instance of the module.
pub(crate) fn begin_tokens() {
    // SAFETY: `get_random_u64()` has no requirements.
    TOKEN.store(unsafe { bindings::get_random_u64() }, Relaxed);
}

/// The mark of a segment that opens a connection or asks the wire (`struct tcp_friends_mark`). It
/// identifies the connection or the question.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    /// A number that was never used before, and is never used again.
    token: u64,
    /// The initial sequence number of the end that connects. In the mark of a segment that asks the
    /// wire, this is the low half of the cookie of the namespace that the question is for.
    pub(crate) isn: u32,
    /// The index of the device through which a socket received the segment, in the socket's
    /// namespace; 0 for a segment that no socket has received.
    pub(crate) came_by: c_int,
}

impl PartialEq for Mark {
    /// Returns whether both marks are of one connection, through whichever device each has come.
    fn eq(&self, other: &Self) -> bool {
        self.token == other.token && self.isn == other.isn
    }
}

impl Mark {
    /// Makes the mark of a segment that no socket has received.
    fn new(token: u64, isn: u32) -> Self {
        Self {
            token,
            isn,
            came_by: 0,
        }
    }

    /// Makes the mark for a SYN that is about to be sent.
    pub(crate) fn of_syn(isn: u32) -> Self {
        Self::new(next_token() & !ASKS, isn)
    }

    /// Makes the mark for a segment that asks whether the wire still carries segments to `net`. The
    /// low `bits` of the question's number are those of `low`.
    pub(crate) fn of_question(net: &Net, low: u64, bits: u32) -> Self {
        let number = next_token() << bits | low & !(!0 << bits);

        Self::new(number | ASKS, Self::address(net))
    }

    /// Returns the number that stands for `net` in the mark of a question.
    fn address(net: &Net) -> u32 {
        // TRUNCATE: Cookies are given in turn, so the cookies of one time differ in the low bits.
        net.cookie() as u32
    }

    /// Returns the number of the question if the mark is that of a question. The number is not 0.
    pub(crate) fn question(&self) -> Option<u64> {
        (self.token & ASKS != 0).then_some(self.token)
    }

    /// Returns whether the question is for `net`.
    pub(crate) fn is_for(&self, net: &Net) -> bool {
        self.isn == Self::address(net)
    }

    /// Copies a C mark, if there is one.
    ///
    /// # Safety
    ///
    /// `mark` is null or valid.
    pub(super) unsafe fn from_raw(mark: *const bindings::tcp_friends_mark) -> Option<Self> {
        // SAFETY: By the function's safety requirements, `mark` is null or valid.
        unsafe { mark.as_ref() }.map(|mark| Self::new(mark.token, mark.isn))
    }

    /// Marks the segment `skb`. Returns whether there was enough memory for the mark.
    ///
    /// # Safety
    ///
    /// `skb` is valid, and the caller has exclusive access to it.
    pub(super) unsafe fn put_on(&self, skb: *mut bindings::sk_buff) -> bool {
        // SAFETY: By the function's safety requirements, `skb` is valid. The extension is as large
        // as the mark.
        unsafe {
            let ext = bindings::skb_ext_add(skb, bindings::skb_ext_id_SKB_EXT_TCP_FRIENDS)
                .cast::<bindings::tcp_friends_mark>();

            if ext.is_null() {
                return false;
            }
            (*ext).token = self.token;
            (*ext).isn = self.isn;
        }
        true
    }

    /// Returns the mark of a segment that a socket has received, if the segment has one.
    ///
    /// # Safety
    ///
    /// `skb` is null or valid.
    pub(super) unsafe fn of(skb: *const bindings::sk_buff) -> Option<Self> {
        if skb.is_null() {
            return None;
        }
        // SAFETY: By the function's safety requirements, `skb` is valid, and an extension is valid
        // for as long as its skb. `skb_iif` stays when TCP clears the skb's pointer to the device.
        let (mark, came_by) = unsafe {
            (
                Self::from_raw(bindings::tcp_friends_marked(skb)),
                (*skb).__bindgen_anon_4.headers.as_ref().skb_iif,
            )
        };
        mark.map(|mark| Self { came_by, ..mark })
    }
}

/// A segment that opens a connection, and that may be marked.
pub(crate) struct Opening(*mut bindings::sk_buff);

impl Opening {
    /// Wraps a C segment.
    ///
    /// # Safety
    ///
    /// `skb` is valid, and the caller has exclusive access to it.
    pub(super) unsafe fn new(skb: *mut bindings::sk_buff) -> Self {
        Self(skb)
    }

    /// Marks the segment. Returns whether there was enough memory for the mark.
    pub(crate) fn mark(self, mark: Mark) -> bool {
        // SAFETY: By the safety requirements of `new`, the segment is valid and the caller has
        // exclusive access to it.
        unsafe { mark.put_on(self.0) }
    }
}

/// The passive end of a connection: its namespace, its own address and port, and the address and
/// port that it sees as its peer's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The cookie of the namespace.
    net: u64,
    local: (IpAddr, u16),
    remote: (IpAddr, u16),
}

/// Returns an address and a port, with an IPv4-mapped address as the IPv4 address.
fn plain(addr: SocketAddr) -> (IpAddr, u16) {
    (addr.ip().to_canonical(), addr.port())
}

impl Endpoint {
    /// Returns the endpoint of an established socket.
    pub(crate) fn of(sock: &Sock) -> Self {
        Self {
            net: sock.net().cookie(),
            local: plain(sock.local()),
            remote: plain(sock.remote()),
        }
    }
}

/// A request for a connection (`struct tcp_request_sock`), whose SYN has arrived.
pub(crate) struct Request<'a>(&'a bindings::tcp_request_sock);

impl<'a> Request<'a> {
    /// Wraps a C request.
    ///
    /// # Safety
    ///
    /// `req` is a valid request of TCP for `'a`.
    pub(super) unsafe fn from_raw(req: *const bindings::request_sock) -> Self {
        // CAST: The `request_sock` is the first member of a `tcp_request_sock`.
        // SAFETY: By the function's safety requirements, the request is valid for `'a`.
        Self(unsafe { &*req.cast() })
    }

    /// Returns the namespace that the request has arrived in.
    pub(crate) fn net(&self) -> &'a Net {
        // SAFETY: The request is valid, and so is the namespace of its listener.
        unsafe { Net::from_raw(addr_of!((*self.common()).skc_net.net).read()) }
    }

    /// Returns the part of the request that a socket has, too.
    fn common(&self) -> *const bindings::sock_common {
        addr_of!(self.0.req.req.__req_common)
    }

    /// Returns the initial sequence number of the end that connects.
    pub(crate) fn isn(&self) -> u32 {
        self.0.rcv_isn
    }

    /// Returns what [`Endpoint::of`] will return for the socket that is made of the request.
    pub(crate) fn end(&self) -> Endpoint {
        let common = self.common();
        // SAFETY: The request is valid, and its operations show which of its addresses are set.
        let (local, remote) = unsafe {
            let v4 = (*common).__bindgen_anon_1.__bindgen_anon_1;

            if (*self.0.req.req.rsk_ops).family == bindings::AF_INET6 as c_int {
                (
                    v6(addr_of!((*common).skc_v6_rcv_saddr)),
                    v6(addr_of!((*common).skc_v6_daddr)),
                )
            } else {
                (
                    IpAddr::from(v4.skc_rcv_saddr.to_ne_bytes()),
                    IpAddr::from(v4.skc_daddr.to_ne_bytes()),
                )
            }
        };
        // SAFETY: The request is valid, and the ports are set in these members of the unions.
        let (num, dport) = unsafe {
            (
                (*common).__bindgen_anon_3.__bindgen_anon_1.skc_num,
                u16::from_be((*common).__bindgen_anon_3.__bindgen_anon_1.skc_dport),
            )
        };
        Endpoint {
            net: self.net().cookie(),
            local: (local.to_canonical(), num),
            remote: (remote.to_canonical(), dport),
        }
    }
}

/// Converts a C address.
///
/// # Safety
///
/// `addr` is valid.
unsafe fn v6(addr: *const bindings::in6_addr) -> IpAddr {
    // SAFETY: By the function's safety requirements, the address is valid. All members of the union
    // have one size.
    IpAddr::from(unsafe { (*addr).in6_u.u6_addr8 })
}
