// SPDX-License-Identifier: GPL-2.0

//! TCP sockets, and the part of their state that can be read without a lock.
//!
//! C headers: [`include/net/sock.h`](srctree/include/net/sock.h),
//! [`include/linux/tcp.h`](srctree/include/linux/tcp.h)

use core::{
    net::SocketAddr,
    ptr::{
        addr_of,
        addr_of_mut,
        NonNull, //
    },
};

use kernel::{
    bindings,
    sync::{
        aref::{
            ARef,
            AlwaysRefCounted, //
        },
        atomic::Atomic, //
    },
    types::Opaque, //
};

use super::{
    context::{
        smp_mb_after_atomic,
        Rcu, //
    },
    device::Device,
    nagle::corked_or_pushed,
    netns::Net,
    skb_cache, //
};

/// The bit of `sk_tsq_flags` that is set while a writer of the socket waits for room.
const FULL: usize = bindings::tsq_enum_TCP_FRIEND_FULL as usize;

/// The states of a connection that this module distinguishes (RFC 9293 section 3.3.2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Data flows both ways.
    Established,
    /// The passive end waits for the last ACK of the handshake.
    SynRecv,
    /// This end has sent a FIN; the peer may still send (FIN-WAIT-1, FIN-WAIT-2).
    FinWait,
    /// The peer has sent a FIN; this end may still send.
    CloseWait,
    /// The socket is closed.
    Close,
    /// Any other state.
    Other,
}

/// A full TCP socket (`struct tcp_sock`).
///
/// The methods return snapshots, which need no lock unless a method says otherwise.
///
/// # Invariants
///
/// The value is a valid, reference-counted `struct tcp_sock` of protocol TCP. It is neither a
/// request socket nor a time-wait socket.
#[repr(transparent)]
pub(crate) struct Sock(Opaque<bindings::tcp_sock>);

// SAFETY: `sock_hold()` and `sock_put()` change the socket's reference count, and a socket is not
// freed before its last reference is put.
unsafe impl AlwaysRefCounted for Sock {
    fn inc_ref(&self) {
        // SAFETY: `self` is a valid socket, to which somebody holds a reference.
        unsafe { bindings::sock_hold(self.raw()) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: By the function's safety requirements, the caller gives up one reference.
        unsafe { bindings::sock_put(obj.as_ptr().cast()) };
    }
}

impl Sock {
    /// Creates a reference to the socket at `ptr`.
    ///
    /// # Safety
    ///
    /// `ptr` points at a full TCP socket that stays alive for `'a`.
    pub(super) unsafe fn from_raw<'a>(ptr: *mut bindings::sock) -> &'a Self {
        // CAST: `struct sock` is the first member of `struct tcp_sock`, and `Sock` is a
        // transparent wrapper of the latter.
        // SAFETY: By the function's safety requirements, `ptr` is valid for `'a`.
        unsafe { &*ptr.cast() }
    }

    /// Takes over a reference to the socket at `ptr`.
    ///
    /// # Safety
    ///
    /// `ptr` points at a full TCP socket and the caller gives up one reference.
    pub(super) unsafe fn from_counted(ptr: NonNull<bindings::sock>) -> ARef<Self> {
        // SAFETY: By the function's safety requirements, the reference is the caller's to give up.
        unsafe { ARef::from_raw(ptr.cast()) }
    }

    /// Takes a further reference to the socket, unless the last one was already put.
    pub(crate) fn get_unless_gone(&self) -> Option<ARef<Self>> {
        // SAFETY: `self` is a valid socket. If `sock_hold_not_zero()` succeeds, it has taken a
        // reference, which the `ARef` takes over.
        unsafe {
            bindings::sock_hold_not_zero(self.raw()).then(|| ARef::from_raw(NonNull::from(self)))
        }
    }

    /// Returns the socket as a C `struct sock`.
    pub(super) fn raw(&self) -> *mut bindings::sock {
        self.0.get().cast()
    }

    /// Returns the socket as a C `struct tcp_sock`.
    pub(super) fn tp(&self) -> *mut bindings::tcp_sock {
        self.0.get()
    }

    /// Returns the connection's state (`sk_state`), read as by `READ_ONCE()`.
    #[inline(always)]
    pub(crate) fn state(&self) -> State {
        // SAFETY: `self` is a valid socket. The field is one byte, which is read volatile.
        let state = unsafe { addr_of!((*self.raw()).__sk_common.skc_state).read_volatile() };
        match u32::from(state) {
            bindings::TCP_ESTABLISHED => State::Established,
            bindings::TCP_SYN_RECV => State::SynRecv,
            bindings::TCP_FIN_WAIT1 | bindings::TCP_FIN_WAIT2 => State::FinWait,
            bindings::TCP_CLOSE_WAIT => State::CloseWait,
            bindings::TCP_CLOSE => State::Close,
            _ => State::Other,
        }
    }

    /// Returns the socket's own address and port.
    pub(crate) fn local(&self) -> SocketAddr {
        let sk = self.raw();
        // SAFETY: `self` is a valid socket, whose addresses do not change while it is connected.
        // `inet_sport` is a single word.
        unsafe {
            let common = addr_of!((*sk).__sk_common);
            let port =
                u16::from_be(addr_of!((*sk.cast::<bindings::inet_sock>()).inet_sport).read());
            let v4 = (*common).__bindgen_anon_1.__bindgen_anon_1.skc_rcv_saddr;

            address(common, v4, addr_of!((*common).skc_v6_rcv_saddr), port)
        }
    }

    /// Returns the address and port of the other end.
    pub(crate) fn remote(&self) -> SocketAddr {
        let sk = self.raw();
        // SAFETY: `self` is a valid socket, whose addresses do not change while it is connected.
        unsafe {
            let common = addr_of!((*sk).__sk_common);
            let port = u16::from_be((*common).__bindgen_anon_3.__bindgen_anon_1.skc_dport);
            let v4 = (*common).__bindgen_anon_1.__bindgen_anon_1.skc_daddr;

            address(common, v4, addr_of!((*common).skc_v6_daddr), port)
        }
    }

    /// Returns the number of the socket's inode, or 0 if the socket has none.
    pub(crate) fn inode(&self) -> u64 {
        // SAFETY: `self` is a valid socket. The field is an aligned word, which is read volatile.
        unsafe { addr_of!((*self.raw()).sk_ino).read_volatile() }
    }

    /// Returns the socket's network namespace.
    pub(crate) fn net(&self) -> &Net {
        // SAFETY: `self` is a valid socket, and its namespace outlives it.
        unsafe { Net::from_raw(bindings::sock_net(self.raw())) }
    }

    /// Returns whether `self` and `other` are one socket.
    pub(crate) fn is_same(&self, other: &Sock) -> bool {
        core::ptr::eq(self, other)
    }

    /// Returns whether the receiving side is shut down (`RCV_SHUTDOWN`).
    pub(crate) fn receive_shutdown(&self) -> bool {
        // SAFETY: `self` is a valid socket. The field is one byte, which is read volatile.
        let bits = unsafe { addr_of!((*self.raw()).sk_shutdown).read_volatile() };
        u32::from(bits) & bindings::RCV_SHUTDOWN != 0
    }

    /// Returns whether a `struct socket` is attached (`sk_socket`), by which a task has a
    /// descriptor of the socket. A child that was not yet accepted has none.
    pub(crate) fn has_socket(&self) -> bool {
        // SAFETY: `self` is a valid socket. The pointer is read volatile and not dereferenced.
        !unsafe { addr_of!((*self.raw()).sk_socket).read_volatile() }.is_null()
    }

    /// Returns whether the socket's SYN carried data or requested Fast Open (RFC 7413). In that
    /// case the passive end was created before this end was established.
    pub(crate) fn used_fast_open(&self) -> bool {
        // SAFETY: `self` is a valid socket. Both bits were set before it was established.
        unsafe {
            bindings::tcp_sock::syn_data_raw(self.tp()) != 0
                || bindings::tcp_sock::syn_fastopen_raw(self.tp()) != 0
        }
    }

    /// Returns whether the SYN that the socket is about to send carries data or requests Fast
    /// Open. The caller owns the socket.
    pub(crate) fn will_use_fast_open(&self) -> bool {
        // SAFETY: `self` is a valid socket. Only its owner, which is the caller, changes the
        // pointer, and the pointer is not dereferenced.
        !unsafe { addr_of!((*self.tp()).fastopen_req).read() }.is_null()
    }

    /// Returns whether the socket has a cached route and its device is a loopback device. The
    /// caller owns the socket.
    ///
    /// [`Sock::has_ipsec`] checks for IPsec.
    pub(crate) fn leads_to_loopback(&self, _rcu: Rcu<'_>) -> bool {
        self.route(|dst| {
            // SAFETY: The cached route was read in the RCU read-side critical section of `_rcu`, so
            // the route and its device are valid.
            unsafe {
                (*(*dst).__bindgen_anon_1.dev).flags & bindings::net_device_flags_IFF_LOOPBACK != 0
            }
        })
    }

    /// Returns whether IPsec transforms the cached route (`xfrm`), which the wire has looked up,
    /// or whether the socket has a policy of its own (`IP_XFRM_POLICY`).
    pub(crate) fn has_ipsec(&self, _rcu: Rcu<'_>) -> bool {
        #[cfg(CONFIG_XFRM)]
        {
            // SAFETY: `self` is a valid socket. Both pointers are read volatile and not
            // dereferenced.
            let own = unsafe {
                let policy = addr_of!((*self.raw()).sk_policy);

                addr_of!((*policy)[0]).read_volatile().addr()
                    | addr_of!((*policy)[1]).read_volatile().addr()
            };
            own != 0
                || self.route(|dst| {
                    // SAFETY: The cached route was read in the RCU read-side critical section of
                    // `_rcu`, so the route is valid.
                    unsafe { !addr_of!((*dst).xfrm).read_volatile().is_null() }
                })
        }
        #[cfg(not(CONFIG_XFRM))]
        false
    }

    /// Returns what `f` returns for the cached route, or `false` if there is none.
    ///
    /// The caller is in an RCU read-side critical section if `f` dereferences the route.
    fn route(&self, f: impl FnOnce(*const bindings::dst_entry) -> bool) -> bool {
        let dst = self.cached_route();

        !dst.is_null() && f(dst)
    }

    /// Returns the cached route (`sk_dst_cache`), which is null if there is none. Without RCU the
    /// pointer must not be dereferenced.
    fn cached_route(&self) -> *mut bindings::dst_entry {
        // SAFETY: `self` is a valid socket. The pointer is read volatile.
        unsafe { addr_of!((*self.raw()).sk_dst_cache).read_volatile() }
    }

    /// Returns a number that identifies the cached route by which the socket transmits. It is 0
    /// if the next segment has to look a route up, as after `SO_MARK`, `SO_BINDTODEVICE` or
    /// anything else that may change the route.
    #[inline(always)]
    pub(crate) fn route_id(&self) -> usize {
        self.cached_route().addr()
    }

    /// Returns the device of the cached route, if the socket has a cached route.
    pub(crate) fn route_device<'a>(&self, rcu: Rcu<'a>) -> Option<Device<'a>> {
        let dst = NonNull::new(self.cached_route())?;

        // SAFETY: The cached route was read in the RCU read-side critical section of `rcu`, so the
        // route and its device are valid for `'a`.
        unsafe {
            Some(Device::new(
                NonNull::new((*dst.as_ptr()).__bindgen_anon_1.dev)?,
                rcu,
            ))
        }
    }

    /// Returns zero if no raw socket in the socket's namespace sees TCP segments.
    #[inline(always)]
    pub(crate) fn raw_listeners(&self) -> usize {
        // SAFETY: `self` is a valid socket, and its namespace outlives it. The counter is a word
        // that is changed atomically and read volatile.
        unsafe {
            let net = bindings::sock_net(self.raw());

            addr_of!((*net).ipv4.raw_tcp_inuse.counter).read_volatile() as u32 as usize
        }
    }

    /// Returns whether the socket's readers are woken as most are (`sock_def_readable()`), and no
    /// kernel user has set a callback of its own.
    #[inline(always)]
    pub(crate) fn has_plain_data_ready(&self) -> bool {
        // SAFETY: `self` is a valid socket. The field is a word, which is read volatile.
        let callback = unsafe { addr_of!((*self.raw()).sk_data_ready).read_volatile() };

        callback.map(|f| f as usize) == Some(bindings::sock_def_readable as *const () as usize)
    }

    /// Returns zero unless a BPF program has requested callbacks for the socket's segments on
    /// the wire (`BPF_SOCK_OPS_RTT_CB_FLAG`, header options).
    #[inline(always)]
    pub(crate) fn bpf_callbacks(&self) -> usize {
        const PER_SEGMENT: u32 = bindings::BPF_SOCK_OPS_RTT_CB_FLAG
            | bindings::BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG
            | bindings::BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG
            | bindings::BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;

        #[cfg(CONFIG_BPF)]
        // SAFETY: `self` is a valid socket. The field is one byte, which is read volatile.
        return unsafe {
            usize::from(addr_of!((*self.tp()).bpf_sock_ops_cb_flags).read_volatile())
                & PER_SEGMENT as usize
        };
        #[cfg(not(CONFIG_BPF))]
        0
    }

    /// Returns zero unless the socket depends on the IP headers of its segments:
    ///
    /// - it drops what it receives by the TTL or hop limit (`IP_MINTTL`, `IPV6_MINHOPCOUNT`),
    /// - it reports header fields or options to the program (`IPV6_RECVHOPLIMIT` and the like), or
    /// - it sends IP options (`IP_OPTIONS`, `IPV6_DSTOPTS` and the like), because of which the
    ///   receiver may refuse a segment.
    #[inline(always)]
    pub(crate) fn depends_on_ip_headers(&self, _rcu: Rcu<'_>) -> usize {
        let inet = self.raw().cast::<bindings::inet_sock>();
        // SAFETY: `self` is a valid socket of IPv4 or IPv6. The fields are single bytes and words,
        // which are read volatile. `pinet6` points into the socket itself. `_rcu` is the RCU
        // read-side critical section that keeps the options valid.
        unsafe {
            let options = addr_of!((*inet).inet_opt).read_volatile();
            let mut headers = usize::from(addr_of!((*inet).min_ttl).read_volatile());

            // A program that removes the options leaves an empty set of options in place.
            if !options.is_null() {
                headers |= usize::from(addr_of!((*options).opt.optlen).read());
            }
            #[cfg(CONFIG_IPV6)]
            {
                let v6 = addr_of!((*inet).pinet6).read_volatile();
                if !v6.is_null() {
                    headers |= usize::from(addr_of!((*v6).min_hopcount).read_volatile())
                        | usize::from(addr_of!((*v6).rxopt.all).read_volatile())
                        | addr_of!((*v6).opt).read_volatile().addr();
                }
            }
            headers
        }
    }

    /// Returns the field `friend`, which C code only compares with null.
    pub(crate) fn friend_field(&self) -> &Atomic<*mut bindings::tcp_friend> {
        // SAFETY: `self` is a valid TCP socket, and all accesses to the field are atomic.
        unsafe { Atomic::from_ptr(addr_of_mut!((*self.tp()).friend)) }
    }

    /// Returns the initial sequence number of a socket that is about to send its SYN
    /// (`snd_una`).
    pub(crate) fn isn(&self) -> u32 {
        // SAFETY: `self` is a valid socket. The field was set before the SYN is sent.
        unsafe { addr_of!((*self.tp()).snd_una).read_volatile() }
    }

    /// Returns whether another feature already controls the socket's byte stream: MPTCP, MD5 or
    /// AO signatures, an upper-layer protocol, or `TCP_REPAIR`.
    pub(crate) fn has_conflicting_feature(&self) -> bool {
        let tp = self.tp();

        #[cfg(CONFIG_MPTCP)]
        // SAFETY: `self` is a valid socket. The field is one byte, which is read volatile.
        if unsafe { addr_of!((*tp).is_mptcp).read_volatile() } {
            return true;
        }
        #[cfg(CONFIG_TCP_MD5SIG)]
        // SAFETY: `self` is a valid socket. The pointer is read volatile and not dereferenced.
        if !unsafe { addr_of!((*tp).md5sig_info).read_volatile() }.is_null() {
            return true;
        }
        #[cfg(CONFIG_TCP_AO)]
        // SAFETY: `self` is a valid socket. The pointer is read volatile and not dereferenced.
        if !unsafe { addr_of!((*tp).ao_info).read_volatile() }.is_null() {
            return true;
        }
        // SAFETY: `self` is a valid socket. `repair` is a single bit, and the pointer is read
        // volatile and not dereferenced.
        unsafe {
            bindings::tcp_sock::repair_raw(tp) != 0
                || !addr_of!((*tp).inet_conn.icsk_ulp_ops)
                    .read_volatile()
                    .is_null()
        }
    }

    /// Returns whether a classic or extended BPF filter is attached, which runs on each segment
    /// before the segment enters the receive queue (`SO_ATTACH_FILTER`, `SO_ATTACH_BPF`).
    pub(crate) fn has_filter(&self) -> bool {
        // SAFETY: `self` is a valid socket. The pointer is read volatile and not dereferenced.
        !unsafe { addr_of!((*self.raw()).sk_filter).read_volatile() }.is_null()
    }

    /// Returns whether a BPF program of the socket's cgroup filters the packets that the socket
    /// sends (`BPF_CGROUP_INET_EGRESS`).
    pub(crate) fn has_cgroup_egress_filter(&self) -> bool {
        // SAFETY: `self` is a valid socket, which keeps its cgroup alive.
        unsafe { bindings::sk_cgroup_bpf_egress(self.raw()) }
    }

    /// Returns whether a BPF program of the socket's cgroup filters the packets that the socket
    /// receives (`BPF_CGROUP_INET_INGRESS`).
    pub(crate) fn has_cgroup_ingress_filter(&self) -> bool {
        // SAFETY: `self` is a valid socket, which keeps its cgroup alive.
        unsafe { bindings::sk_cgroup_bpf_ingress(self.raw()) }
    }

    /// Returns whether the socket requests a time stamp for each segment that it receives
    /// (`SO_TIMESTAMP`, `SO_TIMESTAMPING`).
    pub(crate) fn wants_receive_timestamps(&self) -> bool {
        // SAFETY: `self` is a valid socket. `sk_tsflags` is a word, which is read volatile, and
        // `sock_flag()` has no further requirements.
        unsafe {
            addr_of!((*self.raw()).sk_tsflags).read_volatile() != 0
                || bindings::sock_flag(self.raw(), bindings::sock_flags_SOCK_RCVTSTAMP)
        }
    }

    /// Returns zero unless a write to the socket needs more than a plain move:
    ///
    /// - the program requests time stamps, BPF callbacks, or signals when there is room
    ///   (`O_ASYNC`), all of which `tcp_sendmsg()` keeps track of,
    /// - the write must fail, because an error is pending or the sending side is shut down, or
    /// - the socket has a filter or IP options, for which ACKs matter ([`Sock::has_filter`],
    ///   [`Sock::depends_on_ip_headers`]).
    #[inline(always)]
    pub(crate) fn writer_exceptions(&self, rcu: Rcu<'_>) -> usize {
        const FLAGS: usize =
            1 << bindings::sock_flags_SOCK_RCVTSTAMP | 1 << bindings::sock_flags_SOCK_FASYNC;
        // SAFETY: `self` is a valid socket. The fields are single words, which are read volatile.
        unsafe {
            addr_of!((*self.raw()).sk_tsflags).read_volatile() as usize
                | usize::from(addr_of!((*self.raw()).sk_bpf_cb_flags).read_volatile())
                | self.bpf_callbacks()
                | self.depends_on_ip_headers(rcu)
                | addr_of!((*self.raw()).sk_filter).read_volatile().addr()
                | addr_of!((*self.raw()).__sk_common.__bindgen_anon_5.skc_flags).read_volatile()
                    & FLAGS
                | addr_of!((*self.raw()).sk_err).read_volatile() as u32 as usize
                | usize::from(addr_of!((*self.raw()).sk_shutdown).read_volatile())
                    & bindings::SEND_SHUTDOWN as usize
        }
    }

    /// Returns zero if the receiver is established, no filter or raw socket sees what the receiver
    /// gets, and the receiver requests no time stamps, headers or callbacks.
    ///
    /// This method combines [`Sock::state`], [`Sock::has_filter`], [`Sock::raw_listeners`],
    /// [`Sock::wants_receive_timestamps`], [`Sock::depends_on_ip_headers`] and
    /// [`Sock::bpf_callbacks`] in one word, so that the caller tests all of them at once.
    #[inline(always)]
    pub(crate) fn receiver_exceptions(&self, rcu: Rcu<'_>) -> usize {
        const FLAGS: usize = 1 << bindings::sock_flags_SOCK_RCVTSTAMP;
        // SAFETY: `self` is a valid socket. The fields are single words, which are read volatile.
        unsafe {
            usize::from(
                addr_of!((*self.raw()).__sk_common.skc_state).read_volatile()
                    ^ bindings::TCP_ESTABLISHED as u8,
            ) | addr_of!((*self.raw()).sk_filter).read_volatile().addr()
                | self.raw_listeners()
                | self.depends_on_ip_headers(rcu)
                | self.bpf_callbacks()
                | addr_of!((*self.raw()).sk_tsflags).read_volatile() as usize
                | addr_of!((*self.raw()).__sk_common.__bindgen_anon_5.skc_flags).read_volatile()
                    & FLAGS
        }
    }

    /// Returns whether both sockets charge their memory to one memory cgroup and either both or
    /// none bypass the protocol's account (`sk_bypass_prot_mem`), so that moving an skb from one
    /// socket to the other changes neither account.
    pub(super) fn shares_account(&self, other: &Sock) -> bool {
        // SAFETY: Both are valid sockets. The fields are words that are set when a socket is
        // created or accepted.
        unsafe {
            #[cfg(CONFIG_MEMCG)]
            if addr_of!((*self.raw()).sk_memcg).read_volatile()
                != addr_of!((*other.raw()).sk_memcg).read_volatile()
            {
                return false;
            }
            let bypass = |sock: &Sock| {
                bindings::sock_common::skc_bypass_prot_mem_raw(addr_of!((*sock.raw()).__sk_common))
            };
            bypass(self) == bypass(other)
        }
    }

    /// Returns the sequence number of the next byte expected (`rcv_nxt`), read as by
    /// `READ_ONCE()`.
    pub(crate) fn peek_rcv_nxt(&self) -> u32 {
        // SAFETY: `self` is a valid socket. The field is an aligned word, which is read volatile.
        unsafe { addr_of!((*self.tp()).rcv_nxt).read_volatile() }
    }

    /// Returns the sequence number of the next byte to be read (`copied_seq`), read as by
    /// `READ_ONCE()`.
    pub(crate) fn peek_copied_seq(&self) -> u32 {
        // SAFETY: `self` is a valid socket. The field is an aligned word, which is read volatile.
        unsafe { addr_of!((*self.tp()).copied_seq).read_volatile() }
    }

    /// Returns the sequence number of the oldest byte not acknowledged (`snd_una`), read as by
    /// `READ_ONCE()`.
    pub(crate) fn peek_snd_una(&self) -> u32 {
        // SAFETY: `self` is a valid socket. The field is an aligned word, which is read volatile.
        unsafe { addr_of!((*self.tp()).snd_una).read_volatile() }
    }

    /// Returns the sequence number of the next byte to send (`snd_nxt`), read as by
    /// `READ_ONCE()`.
    pub(crate) fn peek_snd_nxt(&self) -> u32 {
        // SAFETY: `self` is a valid socket. The field is an aligned word, which is read volatile.
        unsafe { addr_of!((*self.tp()).snd_nxt).read_volatile() }
    }

    /// Returns whether the next write probably has to go through the write queue: the socket is
    /// owned by user, its write queue is not empty, or it is corked or pushed.
    ///
    /// The answer is a hint, because no lock is held.
    pub(crate) fn seems_to_queue(&self) -> bool {
        // SAFETY: `self` is a valid socket. The pointer and the bits may change concurrently. Any
        // value of them is fine, and the pointer is not dereferenced.
        unsafe {
            let head = addr_of!((*self.raw()).sk_write_queue);

            bindings::sock_owned_by_user_nocheck(self.raw())
                || !core::ptr::eq(
                    addr_of!((*head).__bindgen_anon_1.__bindgen_anon_1.next)
                        .read_volatile()
                        .cast_const()
                        .cast(),
                    head,
                )
                || corked_or_pushed(u32::from(bindings::tcp_sock::nonagle_raw(self.tp()))) != 0
        }
    }

    /// Returns whether the socket is probably owned by user. The answer is a hint, because no lock
    /// is held.
    pub(crate) fn seems_owned(&self) -> bool {
        // SAFETY: `self` is a valid socket. The word may change concurrently, and any value of it
        // is fine.
        unsafe { bindings::sock_owned_by_user_nocheck(self.raw()) }
    }

    /// Returns whether a write gives up after some time (`SO_SNDTIMEO`).
    pub(crate) fn has_send_timeout(&self) -> bool {
        // SAFETY: `self` is a valid socket. The field is a word, which is read volatile.
        let timeout = unsafe { addr_of!((*self.raw()).sk_sndtimeo).read_volatile() };

        // `MAX_SCHEDULE_TIMEOUT`
        timeout != isize::MAX
    }

    /// Returns the CPU that last brought data to the socket (`SO_INCOMING_CPU`).
    #[inline]
    pub(crate) fn incoming_cpu(&self) -> i32 {
        // SAFETY: `self` is a valid socket. The field is a word, which is read volatile.
        unsafe {
            addr_of!((*self.raw()).__sk_common.__bindgen_anon_7.skc_incoming_cpu).read_volatile()
        }
    }

    /// Makes the next `tcp_friends_wait_for_room()` of a writer of this socket sleep until
    /// [`Sock::wake_for_room`].
    pub(crate) fn expect_room(&self) {
        // SAFETY: `self` is a valid socket, and all contexts change the flags atomically.
        unsafe { bindings::set_bit(FULL, addr_of_mut!((*self.raw()).sk_tsq_flags)) };
    }

    /// Wakes the writers of this socket that wait for room. May be called in any context.
    pub(crate) fn wake_for_room(&self) {
        // SAFETY: `self` is a valid socket, and all contexts change the flags atomically. The
        // functions may be called in any context.
        unsafe {
            let flags = addr_of_mut!((*self.raw()).sk_tsq_flags);

            bindings::clear_bit(FULL, flags);
            // The bit is clear before the waiters are looked at, as `wake_up_bit()` requires.
            smp_mb_after_atomic();
            bindings::wake_up_bit(flags, FULL as i32);
        }
    }

    /// Returns the memory, in bytes, of the data that was received and not yet read
    /// (`sk_rmem_alloc`).
    #[inline]
    pub(crate) fn receive_memory(&self) -> i32 {
        // SAFETY: `self` is a valid socket. The counter is a single word, which is read atomically.
        unsafe { bindings::sk_rmem_alloc_get(self.raw()) }
    }

    /// Returns the size of the receive buffer, in bytes (`SO_RCVBUF`), which limits
    /// [`Sock::receive_memory`].
    #[inline]
    pub(crate) fn receive_buffer(&self) -> i32 {
        // SAFETY: `self` is a valid socket. The field is an aligned word, which is read volatile.
        unsafe { addr_of!((*self.raw()).sk_rcvbuf).read_volatile() }
    }

    /// Returns whether the receive buffer may grow: the program has not set its size
    /// (`SO_RCVBUF`), and `net.ipv4.tcp_moderate_rcvbuf` is on.
    pub(crate) fn has_growing_receive_buffer(&self) -> bool {
        // SAFETY: `self` is a valid socket, whose namespace outlives it. Each field is read
        // volatile by itself.
        unsafe {
            u32::from(addr_of!((*self.raw()).sk_userlocks).read_volatile())
                & bindings::SOCK_RCVBUF_LOCK
                == 0
                && addr_of!((*self.net().raw()).ipv4.sysctl_tcp_moderate_rcvbuf).read_volatile()
                    != 0
        }
    }

    /// Returns whether TCP is short of memory for the socket, or the socket's memory cgroup or an
    /// ancestor of that cgroup exceeds `memory.max`.
    #[cold]
    pub(crate) fn is_short_of_memory(&self) -> bool {
        // SAFETY: `self` is a valid socket, which keeps its cgroup alive.
        unsafe { bindings::tcp_is_short_of_memory(self.raw()) }
    }

    /// Returns the pacing rate that the program allows at most, in bytes per second
    /// (`SO_MAX_PACING_RATE`). The largest value means that there is no limit.
    pub(crate) fn max_pacing_rate(&self) -> usize {
        // SAFETY: `self` is a valid socket. The field is an aligned word, which is read volatile.
        unsafe { addr_of!((*self.raw()).sk_max_pacing_rate).read_volatile() }
    }

    /// Returns whether the socket's memory is charged to a cgroup, which is decided when a socket
    /// is created or accepted.
    #[cfg(CONFIG_MEMCG)]
    #[inline(always)]
    pub(crate) fn has_cgroup(&self) -> bool {
        // SAFETY: `self` is a valid socket. The pointer is read volatile and not dereferenced.
        unsafe { !addr_of!((*self.raw()).sk_memcg).read_volatile().is_null() }
    }

    /// Returns `false`, because this kernel has no memory cgroups.
    #[cfg(not(CONFIG_MEMCG))]
    #[inline(always)]
    pub(crate) fn has_cgroup(&self) -> bool {
        false
    }

    /// Returns whether the socket's memory is charged to the protocol alone: no cgroup is charged,
    /// nothing is reserved (`SO_RESERVE_MEM`), and the protocol's account is not bypassed
    /// (`sk_bypass_prot_mem`).
    #[inline(always)]
    pub(super) fn has_plain_account(&self) -> bool {
        // SAFETY: `self` is a valid socket. The fields are words that are set when a socket is
        // created or accepted, or by the owner of the socket.
        unsafe {
            let sk = self.raw();

            !self.has_cgroup()
                && addr_of!((*sk).sk_reserved_mem).read_volatile() == 0
                && bindings::sock_common::skc_bypass_prot_mem_raw(addr_of!((*sk).__sk_common)) == 0
        }
    }

    /// Uncharges `size` bytes: they return to the socket's account (`sk_forward_alloc`), as by
    /// `sk_mem_uncharge()`.
    ///
    /// The socket keeps one whole page for the next message while TCP uses no more than half of
    /// the low limit of `net.ipv4.tcp_mem`, so all idle sockets together keep no more than that.
    /// Otherwise the whole pages go to the cache of this CPU if TCP uses no more than the low
    /// limit, the socket has a plain account and the cache has room; or else back to TCP. The page
    /// and the cache exist because giving pages back and charging them again costs more than the
    /// rest of the accounting.
    ///
    /// # Safety
    ///
    /// The caller has exclusive access to the socket's state.
    #[inline]
    unsafe fn mem_uncharge(&self, size: u32) {
        const PAGE: i32 = bindings::PAGE_SIZE as i32;
        let sk = self.raw();
        // SAFETY: By the function's safety requirements, nobody else writes the account; others
        // read it with `READ_ONCE()`. TRUNCATE: `size` is the size of an skb, which fits an `i32`.
        unsafe {
            let account = addr_of_mut!((*sk).sk_forward_alloc);
            let left = account.read().wrapping_add(size as i32);

            account.write_volatile(left);
            if left < PAGE {
                return;
            }
            let all = bindings::sk_memory_allocated(sk);
            let low = bindings::sk_prot_mem_limits(sk, 0);
            if left < 2 * PAGE && all <= low >> 1 {
                return;
            }
            if all <= low
                && self.has_plain_account()
                && skb_cache::put_pages(left.unsigned_abs() / PAGE as u32)
            {
                // TRUNCATE: The remainder is less than a page.
                account.write_volatile((left.unsigned_abs() % PAGE as u32) as i32);
            } else {
                bindings::sk_mem_reclaim(sk);
            }
        }
    }

    /// Charges `size` bytes that were added to an skb of the receive queue, as
    /// `skb_set_owner_r()` does for a whole skb.
    ///
    /// # Safety
    ///
    /// The caller has exclusive access to the socket's state, and has scheduled `size` bytes for
    /// the socket. The skb is charged to the socket, and its truesize has grown by `size`.
    pub(super) unsafe fn charge_more(&self, size: u32) {
        let sk = self.raw();
        // SAFETY: `self` is a valid socket, and the counter is atomic. By the function's safety
        // requirements, nobody else writes the account; others read it with `READ_ONCE()`.
        // TRUNCATE: `size` is at most the size of an skb, which fits an `i32`.
        unsafe {
            bindings::atomic_add(size as i32, addr_of_mut!((*sk).sk_backlog.rmem_alloc));
            let account = addr_of_mut!((*sk).sk_forward_alloc);
            account.write_volatile(account.read().wrapping_sub(size as i32));
        }
    }

    /// Uncharges an skb of `size` bytes that was taken off the receive queue, as `sock_rfree()`
    /// does.
    ///
    /// # Safety
    ///
    /// The caller has exclusive access to the socket's state. An skb of `size` bytes was charged
    /// to the socket and was taken off the socket's receive queue.
    #[inline]
    pub(super) unsafe fn rfree(&self, size: u32) {
        // SAFETY: `self` is a valid socket, and the counter is atomic. TRUNCATE: `size` is the size
        // of an skb, which fits an `i32`.
        unsafe {
            bindings::atomic_sub(
                size as i32,
                addr_of_mut!((*self.raw()).sk_backlog.rmem_alloc),
            );
        }
        // SAFETY: By the function's safety requirements, the caller has exclusive access to the
        // socket's state.
        unsafe { self.mem_uncharge(size) };
    }
}

/// Returns one of the two addresses of a socket, with its port, for either address family.
///
/// # Safety
///
/// `common` is part of a valid socket, and `v6` points at one of the IPv6 addresses of that
/// socket.
unsafe fn address(
    common: *const bindings::sock_common,
    v4: u32,
    v6: *const bindings::in6_addr,
    port: u16,
) -> SocketAddr {
    // SAFETY: By the function's safety requirements, both pointers are valid. Any bytes are a
    // valid value of each member of the union.
    unsafe {
        if u32::from((*common).skc_family) == bindings::AF_INET6 {
            let octets = (*v6).in6_u.u6_addr8;

            SocketAddr::from((octets, port))
        } else {
            SocketAddr::from((v4.to_ne_bytes(), port))
        }
    }
}
