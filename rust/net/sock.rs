// SPDX-License-Identifier: GPL-2.0

//! TCP sockets, and the evidence of how they are locked.
//!
//! C headers: [`include/net/sock.h`](srctree/include/net/sock.h),
//! [`include/linux/tcp.h`](srctree/include/linux/tcp.h)

use core::{
    marker::PhantomData,
    net::SocketAddr,
    ptr::{
        addr_of,
        addr_of_mut,
        NonNull, //
    },
};

use kernel::{
    bindings,
    processor::cpu_relax,
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    },
    types::{
        NotThreadSafe,
        Opaque, //
    },
};

use super::{
    device::Device,
    friend::Slot,
    namespace::Net,
    skb::{
        Head,
        Received,
        Skb, //
    },
    spent, //
};
use crate::hold::may_not_go_alone;

/// Evidence that an RCU read-side critical section lasts for `'a`.
///
/// # Invariants
///
/// The current context is in an RCU read-side critical section for all of `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Rcu<'a>(PhantomData<&'a ()>, NotThreadSafe);

impl Rcu<'_> {
    /// # Safety
    ///
    /// The caller is in an RCU read-side critical section for all of the
    /// lifetime of the returned value.
    pub(super) unsafe fn new() -> Self {
        // INVARIANT: By the function's safety requirements.
        Self(PhantomData, NotThreadSafe)
    }
}

/// The states of a connection that matter here, RFC 9293 section 3.3.2.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Data flows both ways.
    Established,
    /// A passive end that waits for the handshake's last ACK.
    SynRecv,
    /// We have sent a FIN; the peer may still send.
    FinWait,
    /// The peer has sent a FIN; we may still send.
    CloseWait,
    /// Gone.
    Close,
    /// Anything else.
    Other,
}

/// A full TCP socket (`struct tcp_sock`).
///
/// What a shared reference offers are snapshots that need no lock.
///
/// # Invariants
///
/// The value is a valid `struct tcp_sock` of protocol TCP, not a request or
/// time-wait socket, and is reference counted.
#[repr(transparent)]
pub(crate) struct Sock(Opaque<bindings::tcp_sock>);

// SAFETY: `sock_hold()` and `sock_put()` are the socket's own reference count; a socket is not
// freed before its last reference is put.
unsafe impl AlwaysRefCounted for Sock {
    fn inc_ref(&self) {
        // SAFETY: `self` is a valid socket that somebody holds a reference to.
        unsafe { bindings::sock_hold(self.raw()) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: By the safety requirements there is a reference to put.
        unsafe { bindings::sock_put(obj.as_ptr().cast()) };
    }
}

impl Sock {
    /// # Safety
    ///
    /// `ptr` points at a full TCP socket that stays alive for `'a`.
    pub(super) unsafe fn from_raw<'a>(ptr: *mut bindings::sock) -> &'a Self {
        // CAST: `struct sock` is the first member of `struct tcp_sock`, `Sock` is transparent.
        // SAFETY: By the function's safety requirements.
        unsafe { &*ptr.cast() }
    }

    /// Takes over a reference.
    ///
    /// # Safety
    ///
    /// `ptr` points at a full TCP socket and the caller gives up one reference.
    pub(super) unsafe fn from_counted(ptr: NonNull<bindings::sock>) -> ARef<Self> {
        // SAFETY: By the function's safety requirements.
        unsafe { ARef::from_raw(ptr.cast()) }
    }

    /// A reference of its own, unless the last one was put.
    pub(super) fn get_unless_gone(&self) -> Option<ARef<Self>> {
        // SAFETY: `self` is a valid socket; if there was a reference there is one more, which is
        // ours to give.
        unsafe {
            bindings::sock_hold_not_zero(self.raw()).then(|| ARef::from_raw(NonNull::from(self)))
        }
    }

    /// The C socket.
    pub(super) fn raw(&self) -> *mut bindings::sock {
        self.0.get().cast()
    }

    /// The C TCP socket.
    pub(super) fn tp(&self) -> *mut bindings::tcp_sock {
        self.0.get()
    }

    /// The connection's state (`sk_state`), with `READ_ONCE()`.
    #[inline(always)]
    pub(crate) fn state(&self) -> State {
        // SAFETY: `self` is a valid socket; a volatile read of one byte.
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

    /// Its own address and port.
    pub(crate) fn local(&self) -> SocketAddr {
        let sk = self.raw();
        // SAFETY: `self` is a valid socket whose addresses do not change while it is connected;
        // `inet_sport` is a word.
        unsafe {
            let common = addr_of!((*sk).__sk_common);
            let port =
                u16::from_be(addr_of!((*sk.cast::<bindings::inet_sock>()).inet_sport).read());
            let v4 = (*common).__bindgen_anon_1.__bindgen_anon_1.skc_rcv_saddr;

            address(common, v4, addr_of!((*common).skc_v6_rcv_saddr), port)
        }
    }

    /// The other end's.
    pub(crate) fn remote(&self) -> SocketAddr {
        let sk = self.raw();
        // SAFETY: As above.
        unsafe {
            let common = addr_of!((*sk).__sk_common);
            let port = u16::from_be((*common).__bindgen_anon_3.__bindgen_anon_1.skc_dport);
            let v4 = (*common).__bindgen_anon_1.__bindgen_anon_1.skc_daddr;

            address(common, v4, addr_of!((*common).skc_v6_daddr), port)
        }
    }

    /// The number of its inode; 0 if it has none.
    pub(crate) fn inode(&self) -> u64 {
        // SAFETY: `self` is a valid socket; an aligned word.
        unsafe { addr_of!((*self.raw()).sk_ino).read_volatile() }
    }

    /// The socket's network namespace.
    pub(crate) fn net(&self) -> &Net {
        // SAFETY: `self` is a valid socket, and its namespace outlives it.
        unsafe { Net::from_raw(bindings::sock_net(self.raw())) }
    }

    /// Whether this is the same socket.
    pub(crate) fn is(&self, other: &Sock) -> bool {
        core::ptr::eq(self, other)
    }

    /// Whether the reader shut its side down (`RCV_SHUTDOWN`).
    pub(crate) fn receive_shutdown(&self) -> bool {
        // SAFETY: `self` is a valid socket; a volatile read of one byte.
        let bits = unsafe { addr_of!((*self.raw()).sk_shutdown).read_volatile() };
        u32::from(bits) & bindings::RCV_SHUTDOWN != 0
    }

    /// Whether a task holds a descriptor of it: a child that nobody has
    /// accepted yet has none.
    pub(crate) fn has_socket(&self) -> bool {
        // SAFETY: `self` is a valid socket; a volatile read of a pointer.
        !unsafe { addr_of!((*self.raw()).sk_socket).read_volatile() }.is_null()
    }

    /// Whether the SYN carried data or asked for Fast Open (RFC 7413), so that
    /// the passive end was made before this one was established.
    pub(crate) fn opened_fast(&self) -> bool {
        // SAFETY: `self` is a valid socket; bits that were set before it was established.
        unsafe {
            bindings::tcp_sock::syn_data_raw(self.tp()) != 0
                || bindings::tcp_sock::syn_fastopen_raw(self.tp()) != 0
        }
    }

    /// Whether the SYN that it is about to send carries data or asks for Fast Open. The
    /// caller owns the socket.
    pub(crate) fn opens_fast(&self) -> bool {
        // SAFETY: `self` is a valid socket, and its owner's is the pointer; only whether there is
        // one is of interest.
        !unsafe { addr_of!((*self.tp()).fastopen_req).read() }.is_null()
    }

    /// Whether its route leads to the loopback device, and through no IPsec policy.
    /// The caller owns the socket.
    pub(crate) fn leads_to_loopback(&self, _rcu: Rcu<'_>) -> bool {
        self.route(|dst| {
            // SAFETY: A cached route is valid under RCU, and has a device.
            unsafe {
                (*(*dst).__bindgen_anon_1.dev).flags & bindings::net_device_flags_IFF_LOOPBACK != 0
            }
        })
    }

    /// Whether IPsec has a say in its route, as far as the wire has found out (`xfrm`), or
    /// it has a policy of its own (`IP_XFRM_POLICY`).
    pub(crate) fn has_ipsec(&self, _rcu: Rcu<'_>) -> bool {
        #[cfg(CONFIG_XFRM)]
        {
            // SAFETY: `self` is a valid socket; only whether there are policies is of interest.
            let own = unsafe {
                let policy = addr_of!((*self.raw()).sk_policy);

                addr_of!((*policy)[0]).read_volatile().addr()
                    | addr_of!((*policy)[1]).read_volatile().addr()
            };
            own != 0
                || self.route(|dst| {
                    // SAFETY: A cached route is valid under RCU.
                    unsafe { !addr_of!((*dst).xfrm).read_volatile().is_null() }
                })
        }
        #[cfg(not(CONFIG_XFRM))]
        false
    }

    fn route(&self, f: impl FnOnce(*const bindings::dst_entry) -> bool) -> bool {
        let dst = self.cached_route();

        !dst.is_null() && f(dst)
    }

    fn cached_route(&self) -> *mut bindings::dst_entry {
        // SAFETY: `self` is a valid socket; a pointer, read volatile.
        unsafe { addr_of!((*self.raw()).sk_dst_cache).read_volatile() }
    }

    /// Which route it transmits by; 0 if the next segment has to look for one, as after
    /// `SO_MARK`, `SO_BINDTODEVICE` or whatever else may change it.
    #[inline(always)]
    pub(crate) fn route_id(&self) -> usize {
        self.cached_route().addr()
    }

    /// The device that its route leads to, if it has one.
    pub(crate) fn route_device<'a>(&self, rcu: Rcu<'a>) -> Option<Device<'a>> {
        let dst = NonNull::new(self.cached_route())?;

        // SAFETY: A cached route is valid under RCU, and so is its device.
        unsafe {
            Some(Device::new(
                NonNull::new((*dst.as_ptr()).__bindgen_anon_1.dev)?,
                rcu,
            ))
        }
    }

    /// Zero if no raw socket of its namespace sees the segments of TCP.
    #[inline(always)]
    pub(crate) fn raw_listeners(&self) -> usize {
        // SAFETY: `self` is a valid socket, and its namespace outlives it; a word that others
        // change atomically.
        unsafe {
            let net = bindings::sock_net(self.raw());

            addr_of!((*net).ipv4.tcp_friends_raw.counter).read_volatile() as u32 as usize
        }
    }

    /// Zero unless a BPF program wants to be called for what the wire does with its segments
    /// (`BPF_SOCK_OPS_RTT_CB_FLAG`, header options).
    #[inline(always)]
    pub(crate) fn bpf_callbacks(&self) -> usize {
        const PER_SEGMENT: u32 = bindings::BPF_SOCK_OPS_RTT_CB_FLAG
            | bindings::BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG
            | bindings::BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG
            | bindings::BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;

        #[cfg(CONFIG_BPF)]
        // SAFETY: `self` is a valid socket; a volatile read of one byte.
        return unsafe {
            usize::from(addr_of!((*self.tp()).bpf_sock_ops_cb_flags).read_volatile())
                & PER_SEGMENT as usize
        };
        #[cfg(not(CONFIG_BPF))]
        0
    }

    /// Zero unless what it receives is judged by its IP header, or an option of that is to be
    /// told: IP_MINTTL, IPV6_MINHOPCOUNT, IPV6_RECVHOPLIMIT and its like; or what it sends has
    /// options of IP (IP_OPTIONS, IPV6_DSTOPTS and its like), which whoever receives it may
    /// refuse.
    #[inline(always)]
    pub(crate) fn wants_headers(&self, _rcu: Rcu<'_>) -> usize {
        let inet = self.raw().cast::<bindings::inet_sock>();
        // SAFETY: `self` is a valid socket of IPv4 or IPv6; single bytes and words, read volatile.
        // What `pinet6` leads to is part of the socket; options are valid under RCU.
        unsafe {
            let options = addr_of!((*inet).inet_opt).read_volatile();
            let mut headers = usize::from(addr_of!((*inet).min_ttl).read_volatile());

            // Who takes them back leaves empty ones.
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

    /// Whether it has marked its SYN, and no friend yet.
    pub(crate) fn has_offer(&self) -> bool {
        Slot::of(self).offered().is_some()
    }

    /// The initial sequence number of one that is about to send its SYN.
    pub(crate) fn isn(&self) -> u32 {
        // SAFETY: `self` is a valid socket; set before it connects.
        unsafe { addr_of!((*self.tp()).snd_una).read_volatile() }
    }

    /// Whether somebody else already has a say in this socket's byte stream:
    /// MPTCP, MD5 or AO signatures, an upper-layer protocol, TCP_REPAIR.
    pub(crate) fn has_own_rules(&self) -> bool {
        let tp = self.tp();

        #[cfg(CONFIG_MPTCP)]
        // SAFETY: `self` is a valid socket; a volatile read of one byte.
        if unsafe { addr_of!((*tp).is_mptcp).read_volatile() } {
            return true;
        }
        #[cfg(CONFIG_TCP_MD5SIG)]
        // SAFETY: `self` is a valid socket; only whether the pointer is set is of interest.
        if !unsafe { addr_of!((*tp).md5sig_info).read_volatile() }.is_null() {
            return true;
        }
        #[cfg(CONFIG_TCP_AO)]
        // SAFETY: As above.
        if !unsafe { addr_of!((*tp).ao_info).read_volatile() }.is_null() {
            return true;
        }
        // SAFETY: As above.
        unsafe {
            bindings::tcp_sock::repair_raw(tp) != 0
                || !addr_of!((*tp).inet_conn.icsk_ulp_ops)
                    .read_volatile()
                    .is_null()
        }
    }

    /// Whether a classic or extended BPF filter stands before its receive queue
    /// (`SO_ATTACH_FILTER`, `SO_ATTACH_BPF`).
    pub(crate) fn has_filter(&self) -> bool {
        // SAFETY: `self` is a valid socket; only whether the pointer is set is of interest.
        !unsafe { addr_of!((*self.raw()).sk_filter).read_volatile() }.is_null()
    }

    /// Whether a BPF program of its cgroup judges the packets that it sends
    /// (`BPF_CGROUP_INET_EGRESS`).
    pub(crate) fn cgroup_judges_sent(&self) -> bool {
        // SAFETY: `self` is a valid socket, and keeps its cgroup.
        unsafe { bindings::sk_cgroup_bpf_egress(self.raw()) }
    }

    /// Whether one judges those that it receives (`BPF_CGROUP_INET_INGRESS`).
    pub(crate) fn cgroup_judges_received(&self) -> bool {
        // SAFETY: As above.
        unsafe { bindings::sk_cgroup_bpf_ingress(self.raw()) }
    }

    /// Whether it wants a time stamp of each segment that it receives
    /// (`SO_TIMESTAMP`, `SO_TIMESTAMPING`).
    pub(crate) fn wants_receive_timestamps(&self) -> bool {
        // SAFETY: `self` is a valid socket.
        unsafe {
            addr_of!((*self.raw()).sk_tsflags).read_volatile() != 0
                || bindings::sock_flag(self.raw(), bindings::sock_flags_SOCK_RCVTSTAMP)
        }
    }

    /// Zero unless a write is no plain one: it wants time stamps or callbacks of BPF, or
    /// signals when there is room (`O_ASYNC`), for which `tcp_sendmsg()` keeps account; or it
    /// must fail, since an error is pending or we are shut down; or the socket has a filter or
    /// options for which ACKs matter ([`Sock::has_filter`], [`Sock::wants_headers`]).
    #[inline(always)]
    pub(crate) fn odd_writer(&self, rcu: Rcu<'_>) -> usize {
        const FLAGS: usize =
            1 << bindings::sock_flags_SOCK_RCVTSTAMP | 1 << bindings::sock_flags_SOCK_FASYNC;
        // SAFETY: `self` is a valid socket; single words, read volatile.
        unsafe {
            addr_of!((*self.raw()).sk_tsflags).read_volatile() as usize
                | usize::from(addr_of!((*self.raw()).sk_bpf_cb_flags).read_volatile())
                | self.bpf_callbacks()
                | self.wants_headers(rcu)
                | addr_of!((*self.raw()).sk_filter).read_volatile().addr()
                | addr_of!((*self.raw()).__sk_common.__bindgen_anon_5.skc_flags).read_volatile()
                    & FLAGS
                | addr_of!((*self.raw()).sk_err).read_volatile() as u32 as usize
                | usize::from(addr_of!((*self.raw()).sk_shutdown).read_volatile())
                    & bindings::SEND_SHUTDOWN as usize
        }
    }

    /// Zero unless the receiving end is not simply established, a filter or a raw socket
    /// stands beside its receive queue, or it wants time stamps, headers or callbacks:
    /// [`Sock::state`], [`Sock::has_filter`], [`Sock::raw_listeners`],
    /// [`Sock::wants_receive_timestamps`], [`Sock::wants_headers`] and
    /// [`Sock::bpf_callbacks`] at once.
    #[inline(always)]
    pub(crate) fn odd_receiver(&self, rcu: Rcu<'_>) -> usize {
        const FLAGS: usize = 1 << bindings::sock_flags_SOCK_RCVTSTAMP;
        // SAFETY: `self` is a valid socket; single words, read volatile.
        unsafe {
            usize::from(
                addr_of!((*self.raw()).__sk_common.skc_state).read_volatile()
                    ^ bindings::TCP_ESTABLISHED as u8,
            ) | addr_of!((*self.raw()).sk_filter).read_volatile().addr()
                | self.raw_listeners()
                | self.wants_headers(rcu)
                | self.bpf_callbacks()
                | addr_of!((*self.raw()).sk_tsflags).read_volatile() as usize
                | addr_of!((*self.raw()).__sk_common.__bindgen_anon_5.skc_flags).read_volatile()
                    & FLAGS
        }
    }

    /// Whether the memory of both is accounted in the same places (cgroup,
    /// protocol), so that an skb may change hands without either hearing of it.
    pub(super) fn shares_account(&self, other: &Sock) -> bool {
        // SAFETY: Both are valid sockets; words that are set when a socket is made or accepted.
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

    /// The next byte expected (`rcv_nxt`), with `READ_ONCE()`.
    pub(crate) fn peek_rcv_nxt(&self) -> u32 {
        // SAFETY: `self` is a valid socket; an aligned word.
        unsafe { addr_of!((*self.tp()).rcv_nxt).read_volatile() }
    }

    /// The next byte to be read (`copied_seq`), with `READ_ONCE()`.
    pub(crate) fn peek_copied_seq(&self) -> u32 {
        // SAFETY: `self` is a valid socket; an aligned word.
        unsafe { addr_of!((*self.tp()).copied_seq).read_volatile() }
    }

    /// The oldest byte not acknowledged (`snd_una`), with `READ_ONCE()`.
    pub(crate) fn peek_snd_una(&self) -> u32 {
        // SAFETY: `self` is a valid socket; an aligned word.
        unsafe { addr_of!((*self.tp()).snd_una).read_volatile() }
    }

    /// The next byte to send (`snd_nxt`), with `READ_ONCE()`.
    pub(crate) fn peek_snd_nxt(&self) -> u32 {
        // SAFETY: `self` is a valid socket; an aligned word.
        unsafe { addr_of!((*self.tp()).snd_nxt).read_volatile() }
    }

    /// Whether what is written next would have to stand in the write queue, as far as can
    /// be seen without a lock: a task owns the socket, something is queued, or it is
    /// corked.
    pub(crate) fn seems_to_queue(&self) -> bool {
        // SAFETY: `self` is a valid socket. A pointer and bits that change under us, where any
        // value will do.
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
                || may_not_go_alone(u32::from(bindings::tcp_sock::nonagle_raw(self.tp()))) != 0
        }
    }

    /// Whether a task owns it, as far as can be seen without a lock.
    pub(crate) fn seems_owned(&self) -> bool {
        // SAFETY: `self` is a valid socket. A word that changes under us.
        unsafe { bindings::sock_owned_by_user_nocheck(self.raw()) }
    }

    /// Bytes of memory that what it has received and not read takes.
    #[inline]
    pub(crate) fn receive_memory(&self) -> i32 {
        // SAFETY: `self` is a valid socket; a single word.
        unsafe { bindings::sk_rmem_alloc_get(self.raw()) }
    }

    /// The limit for [`Sock::receive_memory`] in bytes (`SO_RCVBUF`).
    #[inline]
    pub(crate) fn receive_buffer(&self) -> i32 {
        // SAFETY: `self` is a valid socket; an aligned word.
        unsafe { addr_of!((*self.raw()).sk_rcvbuf).read_volatile() }
    }

    /// Whether its receive buffer may grow: it was not set (`SO_RCVBUF`), and
    /// `net.ipv4.tcp_moderate_rcvbuf` is on.
    pub(crate) fn has_growing_receive_buffer(&self) -> bool {
        // SAFETY: `self` is a valid socket, whose namespace outlives it; words of their own.
        unsafe {
            u32::from(addr_of!((*self.raw()).sk_userlocks).read_volatile())
                & bindings::SOCK_RCVBUF_LOCK
                == 0
                && addr_of!((*self.net().raw()).ipv4.sysctl_tcp_moderate_rcvbuf).read_volatile()
                    != 0
        }
    }

    /// Whether TCP is short of memory for it, or its cgroup has passed `memory.max`.
    #[cold]
    pub(crate) fn is_short_of_memory(&self) -> bool {
        // SAFETY: `self` is a valid socket, whose cgroup lives as long.
        unsafe { bindings::tcp_is_short_of_memory(self.raw()) }
    }

    /// The rate that it asked for at most, in bytes a second
    /// (`SO_MAX_PACING_RATE`); the largest value is no limit.
    pub(crate) fn max_pacing_rate(&self) -> usize {
        // SAFETY: `self` is a valid socket; an aligned word.
        unsafe { addr_of!((*self.raw()).sk_max_pacing_rate).read_volatile() }
    }

    /// Whether its memory is charged to a cgroup. A word that is set when a socket is made or
    /// accepted.
    #[cfg(CONFIG_MEMCG)]
    #[inline(always)]
    pub(crate) fn has_cgroup(&self) -> bool {
        // SAFETY: `self` is a valid socket.
        unsafe { !addr_of!((*self.raw()).sk_memcg).read_volatile().is_null() }
    }

    /// Whether its memory is charged to a cgroup: there are none.
    #[cfg(not(CONFIG_MEMCG))]
    #[inline(always)]
    pub(crate) fn has_cgroup(&self) -> bool {
        false
    }

    /// Whether its account is only with the protocol: no cgroup has a part in it, and
    /// nothing is reserved (`SO_RESERVE_MEM`).
    #[inline(always)]
    fn has_plain_account(&self) -> bool {
        // SAFETY: `self` is a valid socket; words that are set when a socket is made or accepted,
        // and by its owner.
        unsafe {
            let sk = self.raw();

            !self.has_cgroup()
                && addr_of!((*sk).sk_reserved_mem).read_volatile() == 0
                && bindings::sock_common::skc_bypass_prot_mem_raw(addr_of!((*sk).__sk_common)) == 0
        }
    }

    /// What it took for `size` bytes is its own again (`sk_mem_uncharge()`).
    ///
    /// A page is kept for the next message while all of TCP has less than half of
    /// what `net.ipv4.tcp_mem` calls low, so that what all idle sockets keep stays bounded
    /// by that. More go to what this CPU keeps. To give them back and to take them again
    /// costs more than the rest of the account.
    ///
    /// # Safety
    ///
    /// The caller has the socket's state to itself.
    #[inline]
    unsafe fn mem_uncharge(&self, size: u32) {
        const PAGE: i32 = bindings::PAGE_SIZE as i32;
        let sk = self.raw();
        // SAFETY: By the function's safety requirements the account is ours; others read it with
        // `READ_ONCE()`. TRUNCATE: The size of an skb.
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
                && spent::keep_pages(left.unsigned_abs() / PAGE as u32)
            {
                // TRUNCATE: Less than a page.
                account.write_volatile((left.unsigned_abs() % PAGE as u32) as i32);
            } else {
                bindings::sk_mem_reclaim(sk);
            }
        }
    }

    /// An skb of its receive queue was taken off it: it is not charged any more
    /// (`sock_rfree()`).
    ///
    /// # Safety
    ///
    /// The caller has the socket's state to itself, and such an skb of `size` bytes
    /// was charged to it.
    #[inline]
    pub(super) unsafe fn rfree(&self, size: u32) {
        // SAFETY: `self` is a valid socket. TRUNCATE: The size of an skb.
        unsafe {
            bindings::atomic_sub(
                size as i32,
                addr_of_mut!((*self.raw()).sk_backlog.rmem_alloc),
            );
        }
        // SAFETY: By the function's safety requirements.
        unsafe { self.mem_uncharge(size) };
    }
}

/// One of the two addresses of a socket, whichever family it is of.
///
/// # Safety
///
/// `common` is a valid socket's, `v6` one of its addresses.
unsafe fn address(
    common: *const bindings::sock_common,
    v4: u32,
    v6: *const bindings::in6_addr,
    port: u16,
) -> SocketAddr {
    // SAFETY: By the function's safety requirements; all members of the union are bytes.
    unsafe {
        if u32::from((*common).skc_family) == bindings::AF_INET6 {
            let octets = (*v6).in6_u.u6_addr8;

            SocketAddr::from((octets, port))
        } else {
            SocketAddr::from((v4.to_ne_bytes(), port))
        }
    }
}

/// Evidence of a task that may sleep: bottom halves are on, and it holds no
/// socket's spinlock.
///
/// # Invariants
///
/// That is so for all of `'a`, but while a guard made here lives.
pub(crate) struct Process<'a>(PhantomData<&'a ()>, NotThreadSafe);

impl Process<'_> {
    /// # Safety
    ///
    /// The caller is in such a context for the lifetime of the returned value.
    pub(super) unsafe fn new() -> Self {
        // INVARIANT: By the function's safety requirements.
        Self(PhantomData, NotThreadSafe)
    }

    /// Takes a socket's spinlock. Waits for it: we hold none.
    ///
    /// The unique borrow sees to it that a second one cannot be waited for.
    #[inline]
    pub(crate) fn lock<'s>(&'s mut self, sock: &'s Sock) -> SlockGuard<'s> {
        // SAFETY: By the type invariants no socket's spinlock is held.
        unsafe { SlockGuard::wait(sock) }
    }
}

/// Evidence that bottom halves are off, where a lock may be held that TCP takes inside a
/// socket's spinlock: so none of these may be waited for.
///
/// # Invariants
///
/// Bottom halves are off for all of `'a`.
pub(crate) struct Trying<'a>(PhantomData<&'a ()>, NotThreadSafe);

impl Trying<'_> {
    /// # Safety
    ///
    /// Bottom halves are off for the lifetime of the returned value.
    pub(super) unsafe fn new() -> Self {
        // INVARIANT: By the function's safety requirements.
        Self(PhantomData, NotThreadSafe)
    }

    /// Takes a socket's spinlock if nobody has it. Never waits.
    pub(crate) fn lock<'s>(&'s mut self, sock: &'s Sock) -> Option<SlockGuard<'s>> {
        SlockGuard::try_one(sock)
    }
}

/// A socket that the current task owns, with bottom halves on and no spinlock
/// of a socket held.
///
/// # Invariants
///
/// `lock_sock()` is held by the current context for `'a`, in process context.
pub(crate) struct Owned<'a>(&'a Sock, NotThreadSafe);

/// A socket whose spinlock is held and that no task owns.
///
/// # Invariants
///
/// `sk_lock.slock` is held by the current context for `'a` and
/// `sk_lock.owned` is 0; or the owner itself has its spinlock back, as in the last part of
/// `release_sock()`.
pub(crate) struct Spinlocked<'a>(&'a Sock, NotThreadSafe);

/// A socket whose spinlock is held while a task owns it: nothing of it may be touched.
///
/// # Invariants
///
/// `sk_lock.slock` is held by the current context for `'a` and
/// `sk_lock.owned` is 1.
pub(crate) struct Busy<'a>(&'a Sock, NotThreadSafe);

/// How a socket whose spinlock was just taken was found.
pub(crate) enum Held<'a> {
    /// Nobody owns it: all of it may be used.
    Free(Spinlocked<'a>),
    /// A task owns it: it can be told to look for us when it lets go.
    Busy(Busy<'a>),
}

/// Keeps a socket's spinlock, and bottom halves off, until it is dropped.
///
/// # Invariants
///
/// `sk_lock.slock` of `sock` is held by the current context; bottom halves are
/// disabled, once more than they were before if `bh`.
pub(crate) struct SlockGuard<'a> {
    sock: &'a Sock,
    bh: bool,
    _not_thread_safe: NotThreadSafe,
}

impl<'a> SlockGuard<'a> {
    /// # Safety
    ///
    /// The current context holds no spinlock of a socket, so that waiting for this
    /// one cannot deadlock, and bottom halves are on.
    #[inline]
    unsafe fn wait(sock: &'a Sock) -> Self {
        // SAFETY: `sock` is valid; by the function's safety requirements.
        unsafe {
            bindings::slock_lock_bh(sock.raw());
        }
        // INVARIANT: It was just taken, and bottom halves disabled with it.
        Self {
            sock,
            bh: true,
            _not_thread_safe: NotThreadSafe,
        }
    }

    /// The current CPU brings the socket data (`SO_INCOMING_CPU`).
    pub(crate) fn incoming_cpu_update(&mut self) {
        // SAFETY: `sock` is valid; the field is written under the spinlock, that we hold.
        unsafe { bindings::sk_incoming_cpu_update(self.sock.raw()) };
    }

    /// What may be done with the socket.
    pub(crate) fn held(&mut self) -> Held<'_> {
        // SAFETY: `sock` is valid; `sk_lock.owned` changes only under the spinlock, that we hold.
        if unsafe { bindings::sock_owned_by_user_nocheck(self.sock.raw()) } {
            // INVARIANT: The spinlock is held for as long as the guard is borrowed.
            Held::Busy(Busy(self.sock, NotThreadSafe))
        } else {
            // INVARIANT: As above, and nobody can become owner before it is given back.
            Held::Free(Spinlocked(self.sock, NotThreadSafe))
        }
    }

    /// Only for who has bottom halves off: it holds a spinlock, or is [`Trying`].
    #[inline(always)]
    fn try_one(peer: &'a Sock) -> Option<Self> {
        // SAFETY: `peer` is valid; bottom halves are off.
        let taken = unsafe { bindings::bh_trylock_sock(peer.raw()) };

        // A guard may only come into being once the lock is ours: dropping it gives the lock back.
        if !taken {
            return None;
        }
        // INVARIANT: It was taken; bottom halves were off before.
        Some(Self {
            sock: peer,
            bh: false,
            _not_thread_safe: NotThreadSafe,
        })
    }
}

impl Drop for SlockGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the lock is held and bottom halves were disabled.
        unsafe {
            if self.bh {
                bindings::slock_unlock_bh(self.sock.raw());
            } else {
                bindings::bh_unlock_sock(self.sock.raw());
            }
        }
    }
}

impl<'a> Owned<'a> {
    /// # Safety
    ///
    /// The current task owns `sock` for `'a`, in process context.
    pub(super) unsafe fn new(sock: &'a Sock) -> Self {
        // INVARIANT: By the function's safety requirements.
        Self(sock, NotThreadSafe)
    }

    /// Whether segments wait until the owner lets go.
    pub(crate) fn has_backlog(&self) -> bool {
        // SAFETY: The socket is valid; a pointer that others change, of which only whether it is
        // set is of interest.
        !unsafe { addr_of!((*self.0.raw()).sk_backlog.tail).read_volatile() }.is_null()
    }

    /// The owner shall look what there is to be moved when it lets go
    /// (`tcp_friends_released()`).
    pub(crate) fn look_when_released(&mut self) {
        look_when_released(self.0);
    }

    /// Takes the peer's spinlock. Waits for it: we hold no spinlock ourselves.
    ///
    /// The unique borrow sees to it that a second one cannot be taken.
    pub(crate) fn lock_peer<'s>(&'s mut self, peer: &'s Sock) -> SlockGuard<'s> {
        // SAFETY: By the type invariants no socket's spinlock is held.
        unsafe { SlockGuard::wait(peer) }
    }

    /// The socket's TCP state.
    pub(crate) fn tcp(&self) -> Tcp<'a> {
        // INVARIANT: The owner has the state to itself.
        Tcp(self.0, NotThreadSafe)
    }
}

impl<'a> Spinlocked<'a> {
    /// # Safety
    ///
    /// The current context holds the spinlock of `sock` for `'a`, and no task
    /// owns it, or its owner is the current context.
    pub(super) unsafe fn new(sock: &'a Sock) -> Self {
        // INVARIANT: By the function's safety requirements.
        Self(sock, NotThreadSafe)
    }

    /// Takes the peer's spinlock if nobody has it. Never waits, since we hold
    /// a spinlock ourselves.
    pub(crate) fn try_lock_peer<'s>(&'s mut self, peer: &'s Sock) -> Option<SlockGuard<'s>> {
        SlockGuard::try_one(peer)
    }

    /// Tries to take the peer's spinlock `times` times, or until `in_vain` says that whoever holds
    /// it will not give it back meanwhile. Other holders do so within some microseconds, unless
    /// their processor is taken from them. Never waits without a bound, since we hold a spinlock
    /// ourselves: two that did so would wait for each other.
    pub(crate) fn keep_trying_peer<'s>(
        &'s mut self,
        peer: &'s Sock,
        times: u32,
        in_vain: impl Fn() -> bool,
    ) -> Option<SlockGuard<'s>> {
        for _ in 0..times {
            let guard = SlockGuard::try_one(peer);
            if guard.is_some() || in_vain() {
                return guard;
            }
            cpu_relax();
        }
        None
    }

    /// The socket's TCP state.
    pub(crate) fn tcp(&self) -> Tcp<'a> {
        // INVARIANT: With the spinlock held and no owner, the state is ours.
        Tcp(self.0, NotThreadSafe)
    }
}

impl Busy<'_> {
    /// Its owner shall look what there is to be moved when it lets go
    /// (`tcp_friends_released()`). It has yet to do so, since we hold the spinlock.
    pub(crate) fn look_when_released(&mut self) {
        look_when_released(self.0);
    }
}

/// Sets the flag that `tcp_release_cb()` looks at.
fn look_when_released(sock: &Sock) {
    // SAFETY: The socket is valid; the flags are changed atomically by everybody.
    unsafe {
        bindings::set_bit(
            bindings::tsq_enum_TCP_FRIEND_DEFERRED as usize,
            addr_of_mut!((*sock.raw()).sk_tsq_flags),
        )
    };
}

/// The TCP state of a socket, in a context that has it to itself.
///
/// # Invariants
///
/// The current context owns the socket or holds its spinlock while nobody owns
/// it, for `'a`: nobody else writes these fields, and nobody reads them except
/// where the C side uses `READ_ONCE()`.
pub(crate) struct Tcp<'a>(&'a Sock, NotThreadSafe);

/// Accessors of `struct tcp_sock` fields: a getter, and a setter that is a
/// `WRITE_ONCE()` where one is named.
macro_rules! fields {
    ($(#[$meta:meta])* $get:ident / $set:ident: $ty:ty = $($field:ident).+; $($rest:tt)*) => {
        fields! { $(#[$meta])* $get: $ty = $($field).+; }
        fields! {
            /// Sets it, with `WRITE_ONCE()`.
            / $set: $ty = $($field).+;
        }
        fields! { $($rest)* }
    };
    ($(#[$meta:meta])* / $set:ident: $ty:ty = $($field:ident).+; $($rest:tt)*) => {
        $(#[$meta])*
        pub(crate) fn $set(&mut self, val: $ty) {
            // SAFETY: By the type invariants the field is ours to write.
            unsafe { addr_of_mut!((*self.0.tp()).$($field).+).write_volatile(val) }
        }

        fields! { $($rest)* }
    };
    ($(#[$meta:meta])* $get:ident: $ty:ty = $($field:ident).+; $($rest:tt)*) => {
        $(#[$meta])*
        pub(crate) fn $get(&self) -> $ty {
            // SAFETY: By the type invariants nobody writes the field now.
            unsafe { addr_of!((*self.0.tp()).$($field).+).read() }
        }

        fields! { $($rest)* }
    };
    () => {};
}

impl<'a> Tcp<'a> {
    fields! {
        /// The oldest byte not acknowledged.
        snd_una / set_snd_una: u32 = snd_una;
        /// The next byte to send.
        snd_nxt / set_snd_nxt: u32 = snd_nxt;
        /// The urgent pointer; equal to `snd_una` when there is nothing urgent.
        snd_up / set_snd_up: u32 = snd_up;
        /// The window that the peer offers, in bytes from `snd_una`.
        snd_wnd / set_snd_wnd: u32 = snd_wnd;
        /// The header of the next segment as it is expected; 0 is none.
        / set_pred_flags: u32 = pred_flags;
        /// The largest window seen from the peer.
        max_window / set_max_window: u32 = max_window;
        /// Segments in flight on the wire.
        packets_out: u32 = packets_out;
        /// Maximum segment size in bytes, options taken off.
        mss_cache: u32 = mss_cache;
        /// The next byte to be written.
        write_seq: u32 = write_seq;
        /// The next byte expected.
        rcv_nxt: u32 = rcv_nxt;
        /// The next byte to be read.
        copied_seq / set_copied_seq: u32 = copied_seq;
        /// What is to be acknowledged (`ICSK_ACK_*`).
        ack_pending: u8 = inet_conn.icsk_ack.pending;
        /// `rcv_nxt` when the window was last offered.
        rcv_wup / set_rcv_wup: u32 = rcv_wup;
        /// The window offered, in bytes from `rcv_wup`.
        rcv_wnd / set_rcv_wnd: u32 = rcv_wnd;
        /// The window that the receiver aims at (`tcp_grow_window()`).
        rcv_ssthresh / set_rcv_ssthresh: u32 = rcv_ssthresh;
        /// The largest window that may be offered (`TCP_WINDOW_CLAMP`, `SO_RCVBUF`).
        window_clamp: u32 = window_clamp;
        /// The right-most window edge ever offered.
        rcv_mwnd_seq / set_rcv_mwnd_seq: u32 = rcv_mwnd_seq;
        /// Urgent data received and not yet passed on; 0 if none.
        urg_data: u16 = urg_data;
        /// Receiver's estimate of the segment size.
        rcv_mss: u16 = inet_conn.icsk_ack.rcv_mss;
        /// When data was last received, in jiffies.
        lrcvtime: u32 = inet_conn.icsk_ack.lrcvtime;
        /// How often a reply went out soon after data came in: what makes TCP delay ACKs.
        pingpong / set_pingpong: u8 = inet_conn.icsk_ack.pingpong;
        /// Which timer runs (`ICSK_TIME_*`), 0 if none; one that fires with 0 here does nothing.
        icsk_pending / set_icsk_pending: u8 = inet_conn.icsk_pending;
        / set_icsk_backoff: u8 = inet_conn.icsk_backoff;
        / set_icsk_probes_out: u8 = inet_conn.icsk_probes_out;
        / set_icsk_probes_tstamp: u32 = inet_conn.icsk_probes_tstamp;
        /// Bytes sent, RFC 4898.
        bytes_sent / set_bytes_sent: u64 = bytes_sent;
        /// Bytes acknowledged, RFC 4898.
        bytes_acked / set_bytes_acked: u64 = bytes_acked;
        /// Segments sent.
        segs_out / set_segs_out: u32 = segs_out;
        /// Data segments sent.
        data_segs_out / set_data_segs_out: u32 = data_segs_out;
        /// Data segments delivered.
        delivered / set_delivered: u32 = delivered;
        /// The peer's time stamp that its segments echo (RFC 7323).
        ts_recent: u32 = rx_opt.ts_recent;
        /// The echo of a time stamp that was last taken for a sample of the receiver's round
        /// trip.
        / set_rcv_rtt_last_tsecr: u32 = rcv_rtt_last_tsecr;
        /// The clock in microseconds, as it was last read ([`Tcp::refresh_mstamp`]).
        mstamp: u64 = tcp_mstamp;
        /// When data was last sent, in jiffies.
        lsndtime / set_lsndtime: u32 = lsndtime;
        /// What TCP_INFO's clock for the sender counts now (`TCP_CHRONO_*`); 0 is nothing.
        chrono_type: u8 = chrono_type;
        /// Segments of the last sample of the rate, in [`Tcp::set_rate_interval_us`].
        / set_rate_delivered: u32 = rate_delivered;
        /// The time that sample took.
        / set_rate_interval_us: u32 = rate_interval_us;
        /// When the last ACK was received, in jiffies.
        / set_rcv_tstamp: u32 = rcv_tstamp;
    }

    /// The socket.
    pub(crate) fn sock(&self) -> &'a Sock {
        self.0
    }

    /// The same for a while, to be given away: who takes it by value leaves the original
    /// in a register.
    #[inline(always)]
    pub(crate) fn reborrow(&mut self) -> Tcp<'_> {
        // INVARIANT: Those of the original, which is borrowed meanwhile.
        Tcp(self.0, NotThreadSafe)
    }

    /// The socket's Nagle and cork bits (`TCP_NAGLE_*`).
    pub(crate) fn nonagle(&self) -> u32 {
        // SAFETY: By the type invariants nobody writes the bits now.
        u32::from(unsafe { bindings::tcp_sock::nonagle_raw(self.0.tp()) })
    }

    /// One reply more that went out soon after data came in (`inet_csk_inc_pingpong_cnt()`).
    #[inline(always)]
    pub(crate) fn inc_pingpong(&mut self) {
        if let Some(more) = self.pingpong().checked_add(1) {
            self.set_pingpong(more);
        }
    }

    /// How long an ACK is delayed, in jiffies; 0 before the first data.
    pub(crate) fn ato(&self) -> u32 {
        // SAFETY: By the type invariants nobody writes the bits now.
        unsafe {
            bindings::inet_connection_sock__bindgen_ty_2::ato_raw(addr_of!(
                (*self.0.tp()).inet_conn.icsk_ack
            ))
        }
    }

    /// Zero if nothing was received out of order.
    #[inline(always)]
    pub(crate) fn ofo_queue(&self) -> usize {
        // SAFETY: By the type invariants nobody changes the tree now.
        unsafe { addr_of!((*self.0.tp()).out_of_order_queue.rb_node).read() }.addr()
    }

    /// Zero if the write queue is empty.
    #[inline(always)]
    pub(crate) fn write_queue(&self) -> usize {
        // SAFETY: By the type invariants nobody changes the queue now; its head is where an empty
        // one points.
        unsafe {
            let head = addr_of!((*self.0.raw()).sk_write_queue);

            (*head).__bindgen_anon_1.__bindgen_anon_1.next.addr() ^ head.addr()
        }
    }

    /// The first skb of the write queue (`tcp_send_head()`).
    pub(crate) fn send_head(&mut self) -> Option<Head<'_>> {
        // SAFETY: By the type invariants the queue is ours; the skb stays there while the returned
        // value borrows `self`.
        unsafe {
            let skb = NonNull::new(bindings::tcp_send_head(self.0.raw()))?;
            Some(Head::new(self.0, skb))
        }
    }

    /// The window that it would offer now, in bytes.
    pub(crate) fn select_window(&mut self) -> u32 {
        // SAFETY: By the type invariants the state is ours, as `__tcp_select_window()` wants.
        unsafe { bindings::__tcp_select_window(self.0.raw()) }
    }

    /// Reads the clock into `tcp_mstamp`.
    pub(crate) fn refresh_mstamp(&mut self) {
        // SAFETY: By the type invariants the fields are ours to write.
        unsafe { bindings::tcp_mstamp_refresh(self.0.tp()) };
    }

    /// Takes over the pages that `sender` has accounted for `head`, if it has
    /// whole ones: accounts are kept in pages, of which a socket gives back
    /// what it has left when it is destroyed. Both draw on the same account.
    ///
    /// Returns whether the skb is off the sender's account and may be charged
    /// here (`sk_forward_alloc`).
    pub(super) fn borrow_pages(&mut self, sender: &Sock, head: &Head<'_>) -> bool {
        let size = head.truesize();
        let Some(pages) = size.checked_next_multiple_of(bindings::PAGE_SIZE as u32) else {
            return false;
        };
        let (size, pages) = (size as i32, pages as i32);
        // SAFETY: By the type invariants our account is ours. The sender's is too, since whoever
        // has a `Head` has the sender's state. Others read them with `READ_ONCE()`.
        unsafe {
            let theirs = addr_of_mut!((*sender.raw()).sk_forward_alloc);
            let ours = addr_of_mut!((*self.0.raw()).sk_forward_alloc);
            let left = theirs.read().wrapping_add(size).wrapping_sub(pages);
            let have = ours.read();

            // A receive queue that was collapsed (`tcp_collapse()`) may have taken more than there
            // was: then the pages are not enough.
            //
            // What the sender has reserved (SO_RESERVE_MEM) stays its own.
            if left < 0
                || have >= size
                || have < size.wrapping_sub(pages)
                || addr_of!((*sender.raw()).sk_reserved_mem).read_volatile() != 0
            {
                return false;
            }
            theirs.write_volatile(left);
            ours.write_volatile(have.wrapping_add(pages));
        }
        true
    }

    /// Schedules memory for an skb about to be queued; fails if the protocol's
    /// or the cgroup's limit is reached, also where the sender may use the memory reserves.
    pub(super) fn rmem_schedule(&mut self, head: &Head<'_>) -> bool {
        // SAFETY: By the type invariants `sk_forward_alloc` is ours.
        unsafe { bindings::__sk_rmem_schedule(self.0.raw(), head.truesize() as i32, false) }
    }

    /// [`Tcp::rmem_schedule`] for skbs that are in no queue, of `size` bytes in all, from the
    /// pages that this CPU keeps if it has enough.
    #[inline(always)]
    pub(crate) fn rmem_schedule_new(&mut self, size: u32) -> bool {
        // TRUNCATE: The size of a few skbs.
        let size = size as i32;
        // SAFETY: By the type invariants `sk_forward_alloc` is ours.
        let have = unsafe { addr_of!((*self.0.raw()).sk_forward_alloc).read() };

        size <= have || self.reborrow().rmem_schedule_pages(size, have)
    }

    /// The part of it that few need, where `have` is less than `size`.
    #[inline(always)]
    fn rmem_schedule_pages(self, size: i32, have: i32) -> bool {
        const PAGE: u32 = bindings::PAGE_SIZE as u32;
        // CAST: It is positive, and skbs have few pages.
        let pages = (size.wrapping_sub(have) as u32).wrapping_add(PAGE - 1) / PAGE;

        // SAFETY: By the type invariants `sk_forward_alloc` is ours; others read it with
        // `READ_ONCE()`.
        unsafe {
            if self.0.has_plain_account() && spent::take_pages(pages) {
                addr_of_mut!((*self.0.raw()).sk_forward_alloc)
                    .write_volatile(have.wrapping_add(pages.wrapping_mul(PAGE) as i32));
                return true;
            }
        }
        // What is charged with bottom halves off passes a cgroup's `memory.max`. Where that is near
        // it is for the sender, who can wait for memory: TCP charges what it writes to its account.
        if !self.0.has_plain_account() && self.0.is_short_of_memory() {
            return false;
        }
        // SAFETY: By the type invariants the account is ours.
        unsafe { bindings::__sk_rmem_schedule(self.0.raw(), size, false) }
    }

    /// The first skb of the receive queue.
    #[inline]
    pub(crate) fn receive_head(&mut self) -> Option<Received<'_>> {
        // SAFETY: By the type invariants the queue is ours; the skb stays there while the returned
        // value borrows `self`.
        unsafe {
            let queue = addr_of!((*self.0.raw()).sk_receive_queue);
            let skb = NonNull::new(bindings::skb_peek(queue))?;
            Some(Received::new(self.0, skb))
        }
    }

    /// The last one.
    #[inline]
    pub(crate) fn receive_tail(&mut self) -> Option<Received<'_>> {
        // SAFETY: As above. The last of an empty queue is its head, in whose place an skb has the
        // same links, and never null.
        unsafe {
            let queue = addr_of!((*self.0.raw()).sk_receive_queue);
            let skb = (*queue).__bindgen_anon_1.__bindgen_anon_1.prev;
            if core::ptr::addr_eq(skb, queue) {
                return None;
            }
            Some(Received::new(self.0, NonNull::new_unchecked(skb)))
        }
    }

    /// Whether a read takes whatever is there, and no more is to be told of it: no urgent
    /// mark, no `SO_RCVLOWAT`, no `SO_PEEK_OFF`, no `TCP_INQ`, no time stamps.
    #[inline]
    pub(crate) fn reads_plainly(&self) -> bool {
        // SAFETY: The socket is valid; single words, read volatile, and a bit that is written
        // with the socket locked.
        unsafe {
            self.urg_data() == 0
                && addr_of!((*self.0.raw()).sk_rcvlowat).read_volatile() <= 1
                && addr_of!((*self.0.raw()).sk_peek_off).read_volatile() < 0
                && bindings::tcp_sock::recvmsg_inq_raw(self.0.tp()) == 0
                && !self.0.wants_receive_timestamps()
        }
    }

    /// Whether an ACK is to be sent (`inet_csk_ack_scheduled()`).
    #[inline]
    pub(crate) fn ack_scheduled(&self) -> bool {
        u32::from(self.ack_pending()) & bindings::inet_csk_ack_state_t_ICSK_ACK_SCHED != 0
    }

    /// After data was read: lets the receive buffer grow with the reader's speed.
    #[inline]
    pub(crate) fn rcv_space_adjust(&mut self) {
        // SAFETY: By the type invariants the state is ours.
        unsafe { bindings::tcp_rcv_space_adjust(self.0.raw()) };
    }

    /// Lets the receive buffer be `size` bytes, but no more than `tcp_rmem` allows;
    /// the window follows (`tcp_rcvbuf_grow()`).
    ///
    /// Returns whether it grew: not where the program or the administrator has set it, or
    /// memory is short.
    pub(crate) fn grow_receive_buffer(&mut self, size: i32) -> bool {
        let (sk, tp) = (self.0.raw(), self.0.tp());
        // SAFETY: By the type invariants the fields are ours to write, others use `READ_ONCE()`.
        // The namespace outlives the socket; its sysctls are single words, read volatile.
        unsafe {
            let ipv4 = addr_of!((*self.0.net().raw()).ipv4);

            if !self.0.has_growing_receive_buffer() || bindings::tcp_under_memory_pressure(sk) {
                return false;
            }
            let most = addr_of!((*ipv4).sysctl_tcp_rmem[2]).read_volatile();
            let size = size.min(most);
            if size <= addr_of!((*sk).sk_rcvbuf).read() {
                return false;
            }
            addr_of_mut!((*sk).sk_rcvbuf).write_volatile(size);
            addr_of_mut!((*tp).window_clamp)
                .write_volatile(bindings::tcp_win_from_space(sk, size) as u32);
            true
        }
    }

    /// Lets the send buffer be `size` bytes, but no more than `tcp_wmem` allows
    /// (`tcp_sndbuf_expand()`).
    ///
    /// Not where the program has set its size, or memory is short
    /// (`tcp_should_expand_sndbuf()`).
    pub(crate) fn grow_send_buffer(&mut self, size: i32) {
        let sk = self.0.raw();
        // SAFETY: By the type invariants the field is ours to write, others use `READ_ONCE()`. The
        // namespace outlives the socket; its sysctl is a single word, read volatile.
        unsafe {
            if u32::from((*sk).sk_userlocks) & bindings::SOCK_SNDBUF_LOCK != 0
                || bindings::tcp_under_memory_pressure(sk)
            {
                return;
            }
            let ipv4 = addr_of!((*self.0.net().raw()).ipv4);
            let size = size.min(addr_of!((*ipv4).sysctl_tcp_wmem[2]).read_volatile());
            if size > addr_of!((*sk).sk_sndbuf).read() {
                addr_of_mut!((*sk).sk_sndbuf).write_volatile(size);
            }
        }
    }

    /// After `copied` bytes were read: tells the other end of the room, if it has
    /// to know. The hook may run in it; nothing here is borrowed meanwhile.
    pub(crate) fn cleanup_rbuf(&mut self, copied: usize) {
        // SAFETY: By the type invariants the socket is locked, as it wants.
        unsafe { bindings::tcp_cleanup_rbuf(self.0.raw(), copied as i32) };
    }

    /// Takes `bytes` for written: what `tcp_sendmsg()` does for what it queues.
    pub(crate) fn wrote(&mut self, bytes: u32) {
        // SAFETY: By the type invariants the field is ours to write; others use `READ_ONCE()`.
        unsafe {
            let seq = addr_of_mut!((*self.0.tp()).write_seq);
            seq.write_volatile(seq.read().wrapping_add(bytes));
        }
    }

    /// Queues an skb as received: `rcv_nxt` moves past it. Its size is ready to be charged
    /// here.
    ///
    /// If it does not start at `rcv_nxt` it is freed, and the connection reset: [`Lied`].
    pub(crate) fn receive(&mut self, skb: Skb) -> Result<(), Lied> {
        // SAFETY: By the type invariants the receive queue is ours; the skb is in no queue and
        // charged to nobody, and `tcp_friends_rcv()` takes it over.
        if unsafe { bindings::tcp_friends_rcv(self.0.raw(), skb.into_raw()) } {
            Ok(())
        } else {
            Err(Lied)
        }
    }

    /// [`Tcp::receive`] for an skb that was made here, and can be used again once it has been
    /// read.
    pub(crate) fn receive_made(&mut self, skb: Skb) -> Result<(), Lied> {
        let raw = skb.raw();

        self.receive(skb)?;
        // SAFETY: It is in the receive queue now, which is ours, and was charged there with
        // `sock_rfree()` for a destructor, which the new one calls.
        unsafe {
            let owner = &mut (*raw).__bindgen_anon_3.__bindgen_anon_1;

            owner.destructor = Some(bindings::tcp_friends_rfree);
        }
        Ok(())
    }

    /// After data was queued: wakes who waits for it, if there is enough of it
    /// (`SO_RCVLOWAT`).
    #[inline]
    pub(crate) fn data_ready(&mut self, _rcu: Rcu<'_>) {
        // SAFETY: By the type invariants the socket is locked, as the callback wants; `_rcu` is the
        // critical section that it is called in.
        unsafe { bindings::tcp_friends_data_ready(self.0.raw()) };
    }

    /// Wakes who waits for room to send, if there is enough of it.
    pub(crate) fn check_space(&mut self) {
        // SAFETY: By the type invariants the socket is locked, as `tcp_check_space()` wants.
        unsafe { bindings::tcp_check_space(self.0.raw()) };
    }

    /// Looks whether the route has another MTU by now (`tcp_current_mss()`).
    pub(crate) fn refresh_mss(&mut self) {
        // SAFETY: By the type invariants the state is ours.
        unsafe { bindings::tcp_current_mss(self.0.raw()) };
    }

    /// The peer's largest window has grown, by which segments are bounded (`tcp_sync_mss()`).
    #[cold]
    pub(crate) fn sync_mss(&mut self) {
        // SAFETY: By the type invariants the state is ours.
        unsafe {
            let pmtu = addr_of!((*self.0.tp()).inet_conn.icsk_pmtu_cookie).read();

            bindings::tcp_sync_mss(self.0.raw(), pmtu);
        }
    }

    /// One jiffy more for which TCP_INFO counts the sender as busy.
    pub(crate) fn add_busy_jiffy(&mut self) {
        const BUSY: usize = bindings::tcp_chrono_TCP_CHRONO_BUSY as usize - 1;
        // SAFETY: By the type invariants the state is ours.
        unsafe {
            let stat = addr_of_mut!((*self.0.tp()).chrono_stat[BUSY]);

            stat.write_volatile(stat.read().wrapping_add(1));
        }
    }

    /// Ends the time for which TCP_INFO counts the sender as busy, if both its
    /// queues are empty.
    pub(crate) fn chrono_stop_busy(&mut self) {
        // SAFETY: By the type invariants the state is ours.
        unsafe { bindings::tcp_chrono_stop(self.0.raw(), bindings::tcp_chrono_TCP_CHRONO_BUSY) };
    }

    /// Begins the time for which TCP_INFO counts the sender as limited by its
    /// peer's window.
    pub(crate) fn chrono_start_rwnd_limited(&mut self) {
        // SAFETY: By the type invariants the state is ours.
        unsafe {
            bindings::tcp_chrono_start(self.0.raw(), bindings::tcp_chrono_TCP_CHRONO_RWND_LIMITED)
        };
    }

    /// Ends that time.
    pub(crate) fn chrono_stop_rwnd_limited(&mut self) {
        // SAFETY: By the type invariants the state is ours.
        unsafe {
            bindings::tcp_chrono_stop(self.0.raw(), bindings::tcp_chrono_TCP_CHRONO_RWND_LIMITED)
        };
    }

    /// Whether something that came by the wire has not been acknowledged yet.
    pub(crate) fn owes_ack(&self) -> bool {
        self.rcv_wup() != self.rcv_nxt()
    }

    /// Sends an ACK. With bottom halves off it goes when they are on again.
    pub(crate) fn send_ack(&mut self) {
        // SAFETY: By the type invariants the socket is locked, as `__tcp_send_ack()` wants. With bottom
        // halves on no spinlock is held, and the peer may receive it, and move something to our
        // backlog, before it returns; nothing here is borrowed meanwhile.
        unsafe { bindings::__tcp_send_ack(self.0.raw(), self.rcv_nxt(), 0) };
    }

    /// Lets TCP transmit what is left in the write queue, as after an ACK.
    pub(crate) fn push_pending_frames(&mut self) {
        // SAFETY: By the type invariants the socket is locked, as `tcp_push_pending_frames()`
        // wants. The hook may run again in it; nothing here is borrowed meanwhile.
        unsafe { bindings::tcp_push_pending_frames(self.0.raw()) };
    }
}

/// What a friend brought was not the next bytes: the connection was reset.
pub(crate) struct Lied;

/// TCP's clock of the last jiffy (`tcp_jiffies32`).
pub(crate) fn tcp_jiffies32() -> u32 {
    // SAFETY: `jiffies` is a word that only the timer tick writes. TRUNCATE: as the C macro does.
    unsafe { addr_of!(bindings::jiffies).read_volatile() as u32 }
}

/// A full barrier after an atomic read-modify-write (`smp_mb__after_atomic()`).
pub(crate) fn smp_mb_after_atomic() {
    // SAFETY: A barrier has no requirements.
    unsafe { bindings::smp_mb__after_atomic() };
}
