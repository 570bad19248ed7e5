// SPDX-License-Identifier: GPL-2.0

//! The hooks through which TCP calls the module: the trait [`Hooks`], and the C functions that call
//! an implementation of this trait.
//!
//! C header: [`include/net/tcp_friends.h`](srctree/include/net/tcp_friends.h)

use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

use kernel::{
    bindings,
    prelude::*, //
};

use super::{
    context::Rcu,
    device::Device,
    iov::{
        Destination,
        Source,
        Wish, //
    },
    lock::{
        Owned,
        Process,
        Spinlocked, //
    },
    mark::{
        Mark,
        Opening,
        Request, //
    },
    skb::{
        self,
        Arrival, //
    },
    sock::Sock,
    tcp::Tcp, //
};

/// How the caller of a hook has locked the socket.
pub(crate) enum Caller<'a> {
    /// The caller owns the socket, in process context.
    Owner(Owned<'a>),
    /// The caller holds the socket's spinlock, in softirq or at the end of `release_sock()`.
    Spinlocked(Spinlocked<'a>),
}

impl<'a> Caller<'a> {
    /// Returns the socket's TCP state.
    pub(crate) fn tcp(&self) -> Tcp<'a> {
        match self {
            Caller::Owner(own) => own.tcp(),
            Caller::Spinlocked(own) => own.tcp(),
        }
    }

    /// Finds out which kind of lock the caller holds.
    ///
    /// # Safety
    ///
    /// The caller has locked `sock` for `'a`, as its owner or by its spinlock.
    unsafe fn new(sock: &'a Sock) -> Self {
        // A caller with bottom halves off may hold the spinlock, and must never wait for another
        // one.
        //
        // SAFETY: `in_softirq()` has no requirements.
        if unsafe { bindings::in_softirq() } {
            // SAFETY: By the function's safety requirements, the caller has locked the socket. An
            // owner that has bottom halves off for another reason has exclusive access to the
            // socket's state, too.
            Caller::Spinlocked(unsafe { Spinlocked::new(sock) })
        } else {
            // SAFETY: With bottom halves on, only the owner of a socket has locked that socket.
            Caller::Owner(unsafe { Owned::new(sock) })
        }
    }
}

/// The outcome of a transmission.
pub(crate) enum Xmit {
    /// TCP must transmit what is left in the write queue.
    Wire,
    /// All data that may be sent now has been moved: TCP transmits nothing and arms no probe timer.
    Done,
    /// Data waits in the write queue and nothing is in flight, so TCP arms its probe timer.
    Pending,
}

/// Whether an ACK must notify the friend of a socket, after data was read from the socket or its
/// owner has released it.
#[derive(PartialEq, Eq)]
pub(crate) enum Read {
    /// TCP decides whether the window needs an ACK.
    Tcp,
    /// The friend needs no ACK.
    Done,
    /// The friend waits and could not be reached here, so TCP sends an ACK.
    Ack,
}

/// The outcome of a write to a socket that the caller has not locked.
pub(crate) enum Write {
    /// All bytes were written: this many.
    Done(usize),
    /// No byte was written. TCP must write, and calls [`Hooks::send_owned`] once it owns the
    /// socket.
    NeedsOwner,
    /// No byte was written. The caller must wait for room, without a lock, and then call this hook
    /// again with a write that does not wait (`MSG_DONTWAIT`).
    Full,
    /// No byte was written, and TCP must write.
    Tcp,
}

/// The module's side of the hooks.
///
/// All hooks run in an RCU read-side critical section and must not sleep.
pub(crate) trait Hooks {
    /// Handles `sock`, which the caller has locked and a segment has just established. The segment
    /// came in as `arrival` and had the mark `mark`, if any.
    fn established(sock: &Sock, arrival: Arrival, mark: Option<Mark>, rcu: Rcu<'_>);

    /// Transmits from the write queue of `sock`, which `caller` has locked and which has a friend.
    ///
    /// `mss` is in bytes, and `nonagle` is of `TCP_NAGLE_*`. `probe` is true if the caller wants a
    /// segment on the wire in any case.
    fn xmit(
        sock: &Sock,
        caller: Caller<'_>,
        mss: u32,
        nonagle: u32,
        probe: bool,
        rcu: Rcu<'_>,
    ) -> Xmit;

    /// Handles a read from `sock`, which `caller` has locked and which has a friend.
    fn read(sock: &Sock, caller: Caller<'_>, rcu: Rcu<'_>) -> Read;

    /// Handles the release of `sock` by its owner. The friend of `sock` has found `sock` owned by
    /// user meanwhile.
    fn released(sock: &Sock, locked: Spinlocked<'_>, rcu: Rcu<'_>) -> Read;

    /// Writes all of `from`, or nothing, to `sock`, which has a friend and is not locked.
    fn send(sock: &Sock, from: Source<'_>, process: Process<'_>, rcu: Rcu<'_>) -> Write;

    /// Writes some bytes of `from` to `sock`, which the caller owns.
    ///
    /// Returns the number of bytes written, or 0 if TCP must write what is left.
    fn send_owned(sock: &Sock, from: Source<'_>, owned: Owned<'_>, rcu: Rcu<'_>) -> usize;

    /// Reads what a `recv()` of `len` bytes returns from `sock`, which has a friend and is not
    /// locked.
    ///
    /// Returns the number of bytes read, or 0 if TCP must do the read, and whether the caller now
    /// owns the socket, and must release it.
    fn recv(
        sock: &Sock,
        to: Destination<'_>,
        len: usize,
        process: Process<'_>,
        rcu: Rcu<'_>,
    ) -> (usize, bool);

    /// Detaches `sock`, which the caller has locked and which may no longer have a friend.
    fn detach(sock: &Sock, rcu: Rcu<'_>);

    /// Handles a segment with the mark `mark` that passes `device`.
    fn hop(mark: Mark, device: Device<'_>);

    /// Handles the SYN that `sock`, which the caller owns, is about to send. The hook may mark
    /// `syn`.
    fn syn(sock: &Sock, syn: Opening, rcu: Rcu<'_>);

    /// Handles the answer to a SYN with the mark `offered`. The hook may mark `synack`.
    fn synack(request: &Request<'_>, offered: Option<Mark>, synack: Opening);
}

/// Switches the hooks for marks on or off. May sleep.
pub(crate) fn enable_mark_hooks(on: bool) {
    // SAFETY: The caller may sleep, so the context is a task's.
    unsafe { bindings::tcp_friends_cross(on) };
}

/// The C functions that call the hooks of a `T`.
struct Adapter<T>(PhantomData<T>);

impl<T: Hooks> Adapter<T> {
    /// Calls [`Hooks::established`].
    ///
    /// # Safety
    ///
    /// The caller follows the contract of `tcp_friends_ops.established`.
    unsafe extern "C" fn established(
        sk: *mut bindings::sock,
        skb: *mut bindings::sk_buff,
    ) -> c_int {
        // SAFETY: The C side passes a full TCP socket that it has locked, and runs in an RCU
        // read-side critical section.
        let (sock, rcu) = unsafe { (Sock::from_raw(sk), Rcu::new()) };
        // SAFETY: The C side passes null, or the segment that was received, which is valid.
        let (arrival, mark) = unsafe { (Arrival::of(skb), Mark::of(skb)) };
        T::established(sock, arrival, mark, rcu);
        0
    }

    /// Calls [`Hooks::xmit`].
    ///
    /// # Safety
    ///
    /// The caller follows the contract of `tcp_friends_ops.xmit`.
    unsafe extern "C" fn xmit(
        sk: *mut bindings::sock,
        mss_now: c_uint,
        nonagle: c_int,
        push_one: c_int,
    ) -> c_int {
        // SAFETY: The C side passes a full TCP socket that it has locked, and runs in an RCU
        // read-side critical section.
        let (sock, rcu) = unsafe { (Sock::from_raw(sk), Rcu::new()) };
        // SAFETY: `tcp_write_xmit()` runs with the socket locked.
        let caller = unsafe { Caller::new(sock) };
        // `push_one` is 2 for a tail loss probe.
        match T::xmit(sock, caller, mss_now, nonagle as u32, push_one == 2, rcu) {
            Xmit::Wire => bindings::TCP_FRIENDS_WIRE as i32,
            Xmit::Done => bindings::TCP_FRIENDS_DONE as i32,
            Xmit::Pending => bindings::TCP_FRIENDS_PENDING as i32,
        }
    }

    /// Calls [`Hooks::released`] or [`Hooks::read`]. Returns whether the friend needs no segment.
    ///
    /// # Safety
    ///
    /// The caller follows the contract of `tcp_friends_ops.read`.
    unsafe extern "C" fn read(sk: *mut bindings::sock, released: bool) -> c_int {
        // SAFETY: The C side passes a full TCP socket that it has locked, and runs in an RCU
        // read-side critical section.
        let (sock, rcu) = unsafe { (Sock::from_raw(sk), Rcu::new()) };

        if released {
            // SAFETY: `tcp_release_cb()` runs in the owner's context, with the socket's spinlock
            // held.
            let locked = unsafe { Spinlocked::new(sock) };
            return (T::released(sock, locked, rcu) == Read::Done).into();
        }
        // A kernel user may read in its callback. It must not be given more data meanwhile, which
        // it would handle before the data that it reads now. So its friend learns of the room by
        // an ACK.
        if !sock.has_plain_data_ready() {
            return 0;
        }
        // SAFETY: `__tcp_cleanup_rbuf()` runs with the socket locked.
        match T::read(sock, unsafe { Caller::new(sock) }, rcu) {
            Read::Tcp => 0,
            Read::Done => 1,
            Read::Ack => {
                // SAFETY: The C side has locked the socket until this call returns, and `T::read`
                // has dropped its view of the socket.
                unsafe { Caller::new(sock) }.tcp().send_ack();
                1
            }
        }
    }

    /// Calls [`Hooks::send_owned`] if the caller owns the socket, else [`Hooks::send`].
    ///
    /// # Safety
    ///
    /// The caller follows the contract of `tcp_friends_ops.send`.
    unsafe extern "C" fn send(
        sk: *mut bindings::sock,
        msg: *mut bindings::msghdr,
        owned: bool,
    ) -> c_int {
        // SAFETY: The C side passes the message of a write, which it does not change meanwhile.
        match unsafe { Wish::of(msg) } {
            Wish::Plain => (),
            Wish::Notice if owned => (),
            // TCP counts the notice before it calls this hook for the owner.
            Wish::Notice => return bindings::TCP_FRIENDS_OWN,
            Wish::Other => return 0,
        }
        // SAFETY: The C side passes a full TCP socket that its caller keeps alive, and runs in an
        // RCU read-side critical section.
        let (sock, rcu) = unsafe { (Sock::from_raw(sk), Rcu::new()) };
        // SAFETY: The C side passes the message of a write, whose iterator is a source, and has
        // exclusive access to the message.
        let from = unsafe { Source::new(msg) };

        if owned {
            // SAFETY: The C side holds lock_sock() until this call returns, with bottom halves on.
            let owned = unsafe { Owned::new(sock) };
            // TRUNCATE: One call writes few bytes, see `send_large`.
            return T::send_owned(sock, from, owned, rcu) as c_int;
        }
        // SAFETY: The C side may take the socket lock next, which sleeps, so the context is a
        // task's, with bottom halves on and no socket's spinlock held.
        match T::send(sock, from, unsafe { Process::new() }, rcu) {
            // TRUNCATE: One call writes few bytes, see `send_large`.
            Write::Done(bytes) => bytes as c_int,
            Write::NeedsOwner => bindings::TCP_FRIENDS_OWN,
            Write::Full => bindings::TCP_FRIENDS_FULL,
            Write::Tcp => 0,
        }
    }

    /// Calls [`Hooks::recv`].
    ///
    /// # Safety
    ///
    /// The caller follows the contract of `tcp_friends_ops.recv`.
    unsafe extern "C" fn recv(
        sk: *mut bindings::sock,
        msg: *mut bindings::msghdr,
        len: usize,
    ) -> c_int {
        // SAFETY: The C side passes a full TCP socket that its caller keeps alive, and runs in an
        // RCU read-side critical section. The C side may take the socket lock next, which sleeps,
        // so the context is a task's, with bottom halves on and no socket's spinlock held.
        let (sock, rcu, process) = unsafe { (Sock::from_raw(sk), Rcu::new(), Process::new()) };
        // SAFETY: The C side passes the message of a read, whose iterator is a destination, and has
        // exclusive access to the message.
        let to = unsafe { Destination::new(msg) };

        // TRUNCATE: One call reads few bytes, see `InPlace`.
        match T::recv(sock, to, len, process, rcu) {
            (bytes, false) => bytes as c_int,
            (bytes, true) => !(bytes as c_int),
        }
    }

    /// Takes back an skb that this module made and TCP has read. Returns whether the skb was taken.
    ///
    /// # Safety
    ///
    /// The caller follows the contract of `tcp_friends_ops.recycle`.
    unsafe extern "C" fn recycle(sk: *mut bindings::sock, skb: *mut bindings::sk_buff) -> c_int {
        let Some(skb) = NonNull::new(skb) else {
            return 0;
        };
        if cfg!(tcp_friends_without = "recycle") {
            return 0;
        }
        // SAFETY: The C side passes a full TCP socket that it has locked, and an skb that it has
        // just unlinked. The skb is charged to that socket and has the destructor of friends' skbs.
        unsafe { skb::recycle_read(Sock::from_raw(sk), skb) };
        1
    }

    /// Calls [`Hooks::detach`].
    ///
    /// # Safety
    ///
    /// The caller follows the contract of `tcp_friends_ops.detach`.
    unsafe extern "C" fn detach(sk: *mut bindings::sock) -> c_int {
        // SAFETY: The C side passes a full TCP socket that it has locked, and runs in an RCU
        // read-side critical section.
        let (sock, rcu) = unsafe { (Sock::from_raw(sk), Rcu::new()) };
        T::detach(sock, rcu);
        0
    }

    /// Calls [`Hooks::hop`].
    ///
    /// # Safety
    ///
    /// The caller follows the contract of `tcp_friends_ops.hop`.
    unsafe extern "C" fn hop(
        mark: *const bindings::tcp_friends_mark,
        dev: *mut bindings::net_device,
    ) -> c_int {
        // SAFETY: The C side passes the mark of a segment, and runs in an RCU read-side critical
        // section.
        let (mark, rcu) = unsafe { (Mark::from_raw(mark), Rcu::new()) };

        if let (Some(mark), Some(dev)) = (mark, NonNull::new(dev)) {
            // SAFETY: A segment passes the device, so the device is freed a grace period from now
            // or later.
            T::hop(mark, unsafe { Device::new(dev, rcu) });
        }
        0
    }

    /// Calls [`Hooks::syn`].
    ///
    /// # Safety
    ///
    /// The caller follows the contract of `tcp_friends_ops.syn`.
    unsafe extern "C" fn syn(sk: *mut bindings::sock, skb: *mut bindings::sk_buff) -> c_int {
        // SAFETY: The C side passes a full TCP socket that it owns, and runs in an RCU read-side
        // critical section.
        let (sock, rcu) = unsafe { (Sock::from_raw(sk), Rcu::new()) };
        // SAFETY: The C side passes the socket's SYN before the SYN is sent, so the C side has
        // exclusive access to it.
        T::syn(sock, unsafe { Opening::new(skb) }, rcu);
        0
    }

    /// Calls [`Hooks::synack`].
    ///
    /// # Safety
    ///
    /// The caller follows the contract of `tcp_friends_ops.synack`.
    unsafe extern "C" fn synack(
        req: *mut bindings::request_sock,
        syn: *const bindings::sk_buff,
        skb: *mut bindings::sk_buff,
    ) -> c_int {
        // SAFETY: The C side passes a valid request of TCP, the request's SYN, and the answer. The
        // answer has not been sent yet, so the C side has exclusive access to it.
        let (request, offered, synack) =
            unsafe { (Request::from_raw(req), Mark::of(syn), Opening::new(skb)) };
        T::synack(&request, offered, synack);
        0
    }

    const OPS: bindings::tcp_friends_ops = bindings::tcp_friends_ops {
        established: Some(Self::established),
        xmit: Some(Self::xmit),
        read: Some(Self::read),
        send: Some(Self::send),
        recv: Some(Self::recv),
        recycle: Some(Self::recycle),
        detach: Some(Self::detach),
        hop: Some(Self::hop),
        syn: Some(Self::syn),
        synack: Some(Self::synack),
    };
}

/// The registration of the hooks. No hook runs any more once the registration is dropped.
///
/// # Invariants
///
/// The operations are registered.
pub(crate) struct Registration(());

impl Registration {
    /// Registers the hooks of `T`. May sleep. This module calls the function once.
    pub(crate) fn new<T: Hooks>() -> Self {
        // SAFETY: The operations live as long as the module, which unregisters them in `drop`. The
        // functions follow the contract of `struct tcp_friends_ops`.
        unsafe { bindings::tcp_friends_register(&Adapter::<T>::OPS) };
        // INVARIANT: The operations have just been registered.
        Self(())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, the operations are registered. The call waits for a grace
        // period, which it may do because a module is unloaded in process context.
        unsafe { bindings::tcp_friends_unregister() };
    }
}
