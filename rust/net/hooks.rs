// SPDX-License-Identifier: GPL-2.0

//! Where TCP asks us.
//!
//! C header: [`include/net/tcp_friends.h`](srctree/include/net/tcp_friends.h)

use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

use kernel::{
    bindings,
    error::to_result,
    prelude::*, //
};

use super::{
    device::Device,
    mark::{
        Mark,
        Opening,
        Request, //
    },
    skb::{
        self,
        Arrival,
        Destination,
        Source, //
    },
    sock::{
        Owned,
        Process,
        Rcu,
        Sock,
        Spinlocked,
        Tcp, //
    },
};

/// How the caller of a hook holds the socket.
pub(crate) enum Caller<'a> {
    /// As its owner, in process context.
    Task(Owned<'a>),
    /// By its spinlock, in softirq or at the end of `release_sock()`.
    Softirq(Spinlocked<'a>),
}

impl<'a> Caller<'a> {
    /// The socket's TCP state.
    pub(crate) fn tcp(&self) -> Tcp<'a> {
        match self {
            Caller::Task(own) => own.tcp(),
            Caller::Softirq(own) => own.tcp(),
        }
    }

    /// # Safety
    ///
    /// `sock` is locked by the caller for `'a`, one way or the other.
    unsafe fn new(sock: &'a Sock) -> Self {
        // With bottom halves off we may hold the spinlock, and never wait for another.
        //
        // SAFETY: No requirements.
        if unsafe { bindings::in_softirq() } {
            // SAFETY: The socket is ours. A task that owns it and has bottom halves off for
            // another reason has its state to itself as well.
            Caller::Softirq(unsafe { Spinlocked::new(sock) })
        } else {
            // SAFETY: A socket is locked with bottom halves on only by its owner.
            Caller::Task(unsafe { Owned::new(sock) })
        }
    }
}

/// What became of a transmission.
pub(crate) enum Xmit {
    /// Let TCP transmit what is left.
    Wire,
    /// Nothing is left, or what is left was never sent by the wire's rules.
    Done,
    /// Something waits and nothing is in flight, so that TCP arms its probe
    /// timer.
    Pending,
}

/// Whether the friend of a socket that has been read, or let go, must be told by an ACK.
pub(crate) enum Read {
    /// TCP shall judge.
    Tcp,
    /// The friend needs none.
    Done,
    /// The friend waits and could not be reached here.
    Ack,
}

impl Read {
    fn answer(self) -> c_int {
        match self {
            Read::Tcp => bindings::TCP_FRIENDS_READ_TCP as c_int,
            Read::Done => bindings::TCP_FRIENDS_READ_DONE as c_int,
            Read::Ack => bindings::TCP_FRIENDS_READ_ACK as c_int,
        }
    }
}

/// The module's side of the hooks. All run in an RCU read-side critical section
/// and must not sleep.
pub(crate) trait Hooks {
    /// `sock` became established; the segment that did it came as `arrival`, with that
    /// mark. The caller has locked the socket.
    fn established(sock: &Sock, arrival: Arrival, mark: Option<Mark>, rcu: Rcu<'_>);

    /// Transmit from the write queue of `caller`, which has a friend.
    ///
    /// `mss` is in bytes, `nonagle` of `TCP_NAGLE_*`; `probe` if the caller
    /// wants a segment on the wire whatever happens.
    fn xmit(
        sock: &Sock,
        caller: Caller<'_>,
        mss: u32,
        nonagle: u32,
        probe: bool,
        rcu: Rcu<'_>,
    ) -> Xmit;

    /// Data was read from `sock`, which has a friend.
    fn read(sock: &Sock, caller: Caller<'_>, rcu: Rcu<'_>) -> Read;

    /// `sock`, which has a friend that found it owned, is let go by its owner.
    fn released(sock: &Sock, locked: Spinlocked<'_>, rcu: Rcu<'_>) -> Read;

    /// Write all of `from` to `sock`, which has a friend and is not locked.
    ///
    /// Returns how many bytes: all, or 0 if TCP must write them.
    fn send(sock: &Sock, from: Source<'_>, process: Process<'_>, rcu: Rcu<'_>) -> usize;

    /// Write some bytes of `from` to `sock`, which has a friend and is owned.
    ///
    /// Returns how many, 0 if TCP must write what is left.
    fn send_owned(sock: &Sock, from: Source<'_>, owned: Owned<'_>, rcu: Rcu<'_>) -> usize;

    /// Read what a `recv()` of `len` bytes returns from `sock`, which has a friend and is not
    /// locked.
    ///
    /// Returns how many bytes, 0 if TCP must do it.
    fn recv(
        sock: &Sock,
        to: Destination<'_>,
        len: usize,
        process: Process<'_>,
        rcu: Rcu<'_>,
    ) -> usize;

    /// `sock`, locked by the caller, is no longer fit for a friend.
    fn gone(sock: &Sock, rcu: Rcu<'_>);

    /// A segment with that mark passes a device.
    fn hop(mark: Mark, device: Device<'_>);

    /// `sock`, which the caller owns, sends its SYN.
    fn syn(sock: &Sock, syn: Opening, rcu: Rcu<'_>);

    /// A SYN is answered, the mark of which is `offered`.
    fn synack(request: &Request<'_>, offered: Option<Mark>, synack: Opening);
}

/// Whether the hooks for marks are to be called. May sleep.
pub(crate) fn tell_crosses(on: bool) {
    // SAFETY: In process context, as whoever may sleep is.
    unsafe { bindings::tcp_friends_cross(on) };
}

/// The C functions for a `T`.
struct Adapter<T>(PhantomData<T>);

impl<T: Hooks> Adapter<T> {
    /// # Safety
    ///
    /// As `tcp_friends_ops.established`.
    unsafe extern "C" fn established(sk: *mut bindings::sock, skb: *mut bindings::sk_buff) {
        // SAFETY: The C side passes a full TCP socket that it has locked, and holds RCU.
        let (sock, rcu) = unsafe { (Sock::from_raw(sk), Rcu::new()) };
        // SAFETY: The C side passes null or the segment that was received.
        let (arrival, mark) = unsafe { (Arrival::of(skb), Mark::of(skb)) };
        T::established(sock, arrival, mark, rcu);
    }

    /// # Safety
    ///
    /// As `tcp_friends_ops.xmit`.
    unsafe extern "C" fn xmit(
        sk: *mut bindings::sock,
        mss_now: c_uint,
        nonagle: c_int,
        push_one: c_int,
    ) -> c_int {
        // SAFETY: The C side passes a full TCP socket that it has locked, and holds RCU.
        let (sock, rcu) = unsafe { (Sock::from_raw(sk), Rcu::new()) };
        // SAFETY: `tcp_write_xmit()` runs with the socket locked.
        let caller = unsafe { Caller::new(sock) };
        // push_one is 2 for a tail loss probe.
        match T::xmit(sock, caller, mss_now, nonagle as u32, push_one == 2, rcu) {
            Xmit::Wire => bindings::TCP_FRIENDS_WIRE as i32,
            Xmit::Done => bindings::TCP_FRIENDS_DONE as i32,
            Xmit::Pending => bindings::TCP_FRIENDS_PENDING as i32,
        }
    }

    /// # Safety
    ///
    /// As `tcp_friends_ops.read`.
    unsafe extern "C" fn read(sk: *mut bindings::sock) -> c_int {
        // SAFETY: The C side passes a full TCP socket that it has locked, and holds RCU.
        let (sock, rcu) = unsafe { (Sock::from_raw(sk), Rcu::new()) };
        // SAFETY: `__tcp_cleanup_rbuf()` runs with the socket locked.
        T::read(sock, unsafe { Caller::new(sock) }, rcu).answer()
    }

    /// # Safety
    ///
    /// As `tcp_friends_ops.released`.
    unsafe extern "C" fn released(sk: *mut bindings::sock) -> c_int {
        // SAFETY: The C side passes a full TCP socket, and holds RCU.
        let (sock, rcu) = unsafe { (Sock::from_raw(sk), Rcu::new()) };
        // SAFETY: `tcp_release_cb()` runs with the spinlock held, in the owner's context.
        T::released(sock, unsafe { Spinlocked::new(sock) }, rcu).answer()
    }

    /// # Safety
    ///
    /// As `tcp_friends_ops.send`.
    unsafe extern "C" fn send(
        sk: *mut bindings::sock,
        msg: *mut bindings::msghdr,
        owned: bool,
    ) -> c_int {
        // SAFETY: The C side passes a full TCP socket that its caller holds, and holds RCU.
        let (sock, rcu) = unsafe { (Sock::from_raw(sk), Rcu::new()) };
        // SAFETY: The C side passes the message of a write.
        let from = unsafe { Source::new(msg) };

        // TRUNCATE: No more than TCP_FRIENDS_AT_ONCE.
        (if owned {
            // SAFETY: The C side holds lock_sock() until this returns, with bottom halves on.
            T::send_owned(sock, from, unsafe { Owned::new(sock) }, rcu)
        } else {
            // SAFETY: The C side is about to sleep for the socket's lock, so its context is a
            // task's.
            T::send(sock, from, unsafe { Process::new() }, rcu)
        }) as c_int
    }

    /// # Safety
    ///
    /// As `tcp_friends_ops.recv`.
    unsafe extern "C" fn recv(
        sk: *mut bindings::sock,
        msg: *mut bindings::msghdr,
        len: usize,
    ) -> c_int {
        // SAFETY: As for `send`.
        let (sock, rcu, process) = unsafe { (Sock::from_raw(sk), Rcu::new(), Process::new()) };
        // SAFETY: The C side passes the message of a read.
        let to = unsafe { Destination::new(msg) };

        // TRUNCATE: Fewer than TCP_FRIENDS_LARGE.
        T::recv(sock, to, len, process, rcu) as c_int
    }

    /// # Safety
    ///
    /// As `tcp_friends_ops.spent`.
    unsafe extern "C" fn spent(sk: *mut bindings::sock, skb: *mut bindings::sk_buff) -> bool {
        let Some(skb) = NonNull::new(skb) else {
            return false;
        };
        // SAFETY: The C side passes a full TCP socket that it has locked, and an skb that it has
        // just unlinked, charged to that socket and with our destructor.
        unsafe { skb::read_by_tcp(Sock::from_raw(sk), skb) };
        true
    }

    /// # Safety
    ///
    /// As `tcp_friends_ops.gone`.
    unsafe extern "C" fn gone(sk: *mut bindings::sock) {
        // SAFETY: The C side passes a full TCP socket that it has locked, and holds RCU.
        let (sock, rcu) = unsafe { (Sock::from_raw(sk), Rcu::new()) };
        T::gone(sock, rcu);
    }

    /// # Safety
    ///
    /// As `tcp_friends_ops.hop`.
    unsafe extern "C" fn hop(
        mark: *const bindings::tcp_friends_mark,
        dev: *mut bindings::net_device,
    ) {
        // SAFETY: The C side passes the mark of a segment, and holds RCU.
        let (mark, rcu) = unsafe { (Mark::from_raw(mark), Rcu::new()) };

        if let (Some(mark), Some(dev)) = (mark, NonNull::new(dev)) {
            // SAFETY: The device passes segments, so it is freed a grace period from now or later.
            T::hop(mark, unsafe { Device::new(dev, rcu) });
        }
    }

    /// # Safety
    ///
    /// As `tcp_friends_ops.syn`.
    unsafe extern "C" fn syn(sk: *mut bindings::sock, skb: *mut bindings::sk_buff) {
        // SAFETY: The C side passes a full TCP socket that it owns, and holds RCU.
        let (sock, rcu) = unsafe { (Sock::from_raw(sk), Rcu::new()) };
        // SAFETY: And its SYN, before it is sent.
        T::syn(sock, unsafe { Opening::new(skb) }, rcu);
    }

    /// # Safety
    ///
    /// As `tcp_friends_ops.synack`.
    unsafe extern "C" fn synack(
        req: *mut bindings::request_sock,
        syn: *const bindings::sk_buff,
        skb: *mut bindings::sk_buff,
    ) {
        // SAFETY: The C side passes a request of TCP, its SYN, and the answer before it is sent.
        let (request, offered, synack) =
            unsafe { (Request::from_raw(req), Mark::of(syn), Opening::new(skb)) };
        T::synack(&request, offered, synack);
    }

    const OPS: bindings::tcp_friends_ops = bindings::tcp_friends_ops {
        established: Some(Self::established),
        xmit: Some(Self::xmit),
        read: Some(Self::read),
        released: Some(Self::released),
        send: Some(Self::send),
        recv: Some(Self::recv),
        spent: Some(Self::spent),
        gone: Some(Self::gone),
        hop: Some(Self::hop),
        syn: Some(Self::syn),
        synack: Some(Self::synack),
    };
}

/// Registered hooks; none runs any more once this is dropped.
///
/// # Invariants
///
/// The operations are registered.
pub(crate) struct Registration(&'static bindings::tcp_friends_ops);

impl Registration {
    /// Registers `T`. May sleep.
    pub(crate) fn new<T: Hooks>() -> Result<Self> {
        let ops = &Adapter::<T>::OPS;

        // SAFETY: The operations live as long as the module, which unregisters them in `drop`; the
        // functions keep to the contract of `struct tcp_friends_ops`.
        to_result(unsafe { bindings::tcp_friends_register(ops) })?;
        // INVARIANT: Just registered.
        Ok(Self(ops))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is registered. Waits for a grace period, in process
        // context, as a module is unloaded.
        unsafe { bindings::tcp_friends_unregister(self.0) };
    }
}
