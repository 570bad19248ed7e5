// SPDX-License-Identifier: GPL-2.0

//! The mark of a segment that opens a connection, or asks the wire, and what a request for a
//! connection says.
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
    }, //
};

use super::{
    namespace::Net,
    sock::Sock, //
};

/// The last token that was given.
static TOKEN: Atomic<u64> = Atomic::new(0);

/// This bit of a token tells a segment that asks the wire from one that opens a connection.
const ASKS: u64 = 1 << 63;

fn next_token() -> u64 {
    TOKEN.fetch_add(1, Relaxed).wrapping_add(1)
}

/// Before the first token is given: segments may have outlived the module that was there before.
pub(super) fn begin_tokens() {
    // SAFETY: No requirements.
    TOKEN.store(unsafe { bindings::get_random_u64() }, Relaxed);
}

/// Who connects, or asks the wire (`struct tcp_friends_mark`).
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    /// Never used before, and never again.
    token: u64,
    /// The initial sequence number of the end that connects; of a segment that asks, the low half
    /// of the cookie of the namespace that it is for.
    pub(crate) isn: u32,
    /// The number of the device by which the segment has come to a socket, in the socket's
    /// namespace; else 0.
    pub(crate) came_by: c_int,
}

impl PartialEq for Mark {
    /// Whether it is of one connection, however each has come.
    fn eq(&self, other: &Self) -> bool {
        self.token == other.token && self.isn == other.isn
    }
}

impl Mark {
    fn new(token: u64, isn: u32) -> Self {
        Self {
            token,
            isn,
            came_by: 0,
        }
    }

    /// That of a SYN to be.
    pub(super) fn of_syn(isn: u32) -> Self {
        Self::new(next_token() & !ASKS, isn)
    }

    /// That of a segment that asks whether the wire carries it to `net`. The low `bits` of its
    /// number are those of `low`.
    pub(crate) fn of_question(net: &Net, low: u64, bits: u32) -> Self {
        let number = next_token() << bits | low & !(!0 << bits);

        Self::new(number | ASKS, Self::address(net))
    }

    fn address(net: &Net) -> u32 {
        // TRUNCATE: They are given in turn, so that those of one time differ in these bits.
        net.cookie() as u32
    }

    /// The number of the question, if that is what it is the mark of. It is not 0.
    pub(crate) fn question(&self) -> Option<u64> {
        (self.token & ASKS != 0).then_some(self.token)
    }

    /// Whether the question is for `net`.
    pub(crate) fn is_for(&self, net: &Net) -> bool {
        self.isn == Self::address(net)
    }

    /// # Safety
    ///
    /// `mark` is null or valid.
    pub(super) unsafe fn from_raw(mark: *const bindings::tcp_friends_mark) -> Option<Self> {
        // SAFETY: By the function's safety requirements.
        unsafe { mark.as_ref() }.map(|mark| Self::new(mark.token, mark.isn))
    }

    /// Marks that segment. Returns whether there was the memory for that.
    ///
    /// # Safety
    ///
    /// `skb` is valid, and only the caller has it.
    pub(super) unsafe fn put_on(&self, skb: *mut bindings::sk_buff) -> bool {
        // SAFETY: By the function's safety requirements; the extension is as large as the mark.
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

    /// The mark of a segment that a socket has received, if it has one.
    ///
    /// # Safety
    ///
    /// `skb` is null or valid.
    pub(super) unsafe fn of(skb: *const bindings::sk_buff) -> Option<Self> {
        if skb.is_null() {
            return None;
        }
        // SAFETY: By the function's safety requirements; an extension is valid for as long as its
        // skb. The number stays when TCP clears the skb's pointer to the device.
        let (mark, came_by) = unsafe {
            (
                Self::from_raw(bindings::tcp_friends_marked(skb)),
                (*skb).__bindgen_anon_4.headers.as_ref().skb_iif,
            )
        };
        mark.map(|mark| Self { came_by, ..mark })
    }
}

/// A segment that opens a connection, and may be marked.
pub(crate) struct Opening(*mut bindings::sk_buff);

impl Opening {
    /// # Safety
    ///
    /// `skb` is valid, and only the caller has it.
    pub(super) unsafe fn new(skb: *mut bindings::sk_buff) -> Self {
        Self(skb)
    }

    /// Marks it. Returns whether there was the memory for that.
    pub(crate) fn mark(self, mark: Mark) -> bool {
        // SAFETY: By the requirements of `new`.
        unsafe { mark.put_on(self.0) }
    }
}

/// The end of a connection that did not open it: where, and with whom.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// The namespace's cookie.
    net: u64,
    local: (IpAddr, u16),
    remote: (IpAddr, u16),
}

fn plain(addr: SocketAddr) -> (IpAddr, u16) {
    (addr.ip().to_canonical(), addr.port())
}

impl End {
    /// That of an established socket.
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
    /// # Safety
    ///
    /// `req` is a valid request of TCP for `'a`.
    pub(super) unsafe fn from_raw(req: *const bindings::request_sock) -> Self {
        // CAST: It is the first member. SAFETY: By the function's safety requirements.
        Self(unsafe { &*req.cast() })
    }

    /// The namespace that it has arrived in.
    pub(crate) fn net(&self) -> &'a Net {
        // SAFETY: The request is valid, and so is its listener's namespace.
        unsafe { Net::from_raw(addr_of!((*self.common()).skc_net.net).read()) }
    }

    fn common(&self) -> *const bindings::sock_common {
        addr_of!(self.0.req.req.__req_common)
    }

    /// The initial sequence number of the end that connects.
    pub(crate) fn isn(&self) -> u32 {
        self.0.rcv_isn
    }

    /// What [`End::of`] will say of the socket that is made of it.
    pub(crate) fn end(&self) -> End {
        let common = self.common();
        // SAFETY: The request is valid; which of the addresses are set is told by its operations.
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
        // SAFETY: The ports' member of the unions.
        let (num, dport) = unsafe {
            (
                (*common).__bindgen_anon_3.__bindgen_anon_1.skc_num,
                u16::from_be((*common).__bindgen_anon_3.__bindgen_anon_1.skc_dport),
            )
        };
        End {
            net: self.net().cookie(),
            local: (local.to_canonical(), num),
            remote: (remote.to_canonical(), dport),
        }
    }
}

/// # Safety
///
/// `addr` is valid.
unsafe fn v6(addr: *const bindings::in6_addr) -> IpAddr {
    // SAFETY: By the function's safety requirements; all members of the union are as large.
    IpAddr::from(unsafe { (*addr).in6_u.u6_addr8 })
}
