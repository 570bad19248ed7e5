// SPDX-License-Identifier: GPL-2.0

//! Safe interfaces to the kernel's TCP.
//!
//! This folder does not depend on how the rest of the module uses it: it imports nothing from
//! other folders. Each context that C functions require is a type, and a method that needs the
//! context needs a value of that type as the proof:
//!
//! - [`Rcu`]: the current context is in an RCU read-side critical section.
//! - [`Process`]: the current task holds no spinlock of a socket.
//! - [`Owned`]: the current task owns the socket (`lock_sock()`), and bottom halves are on.
//! - [`Spinlocked`]: the current context holds the socket's spinlock, and no other task owns the
//!   socket, unless that task only reads data in place.
//! - [`Busy`](lock::Busy): the current context holds the socket's spinlock while a task owns the
//!   socket, so the current context must not touch the socket's state.
//! - [`Trying`]: bottom halves are off, and the current context may hold another lock.
//!
//! # Lock order
//!
//! The spinlocks of two sockets have no order, because no context waits for a second spinlock
//! while it holds a first one. [`Owned`] and [`Process`] hold no spinlock and may wait for one.
//! [`Spinlocked`] may only try. [`Trying`] may only try, too, because its context holds a lock of
//! the table of established sockets, which TCP takes inside a socket's spinlock.
//!
//! The ownership of a socket is taken only by a reader that holds the socket's spinlock and has
//! seen that no task owns it ([`SlockGuard::read_in_place`]). So nothing is waited for, as by a
//! trylock. The owner takes that spinlock once more to give the ownership up, and no other lock in
//! between.
//!
//! A wake-up, of readers or of a writer that waits for room, takes the lock of a wait queue inside a
//! socket's spinlock. Whoever holds that lock takes no lock of a socket.
//!
//! The size of the second-level cache is read under `cpus_read_lock()`, when the module is loaded
//! and no other lock is held.
//!
//! Only [`for_each_namespace`] holds `net_rwsem`, for reading and in process context. That
//! semaphore is the outermost lock; the locks of the table of established sockets nest inside.

mod context;
mod device;
mod ehash;
mod hooks;
mod iov;
mod lock;
mod mark;
pub(crate) mod nagle;
mod netfilter;
mod netns;
mod percpu;
mod proc;
mod receive;
pub(crate) mod seq;
mod skb;
pub(crate) mod skb_cache;
mod sock;
mod sysctl;
mod tcp;
pub(crate) mod trace;

pub(crate) use context::{
    cond_resched,
    is_only_task,
    smp_mb_after_atomic,
    BhOff,
    Rcu, //
};
pub(crate) use device::{
    Change,
    Device,
    Registration as DevicesRegistration,
    Watcher, //
};
pub(crate) use ehash::{
    find_other_end,
    for_each_established, //
};
pub(crate) use hooks::{
    enable_mark_hooks,
    Caller,
    Hooks,
    Read,
    Registration as HooksRegistration,
    Write,
    Xmit, //
};
pub(crate) use iov::{
    Destination,
    Source, //
};
pub(crate) use lock::{
    BeingRead,
    Finished,
    Held,
    Owned,
    Process,
    SlockGuard,
    Spinlocked,
    Trying, //
};
pub(crate) use mark::{
    begin_tokens,
    Endpoint,
    Mark,
    Opening,
    Request, //
};
pub(crate) use netns::{
    for_each_namespace,
    Net,
    PerNet,
    Registration as NamespaceRegistration, //
};
pub(crate) use percpu::{
    this_cpu,
    PerCpuCounters, //
};
pub(crate) use receive::OutOfSequence;
pub(crate) use skb::{
    segments_of,
    Arrival,
    Head,
    Size,
    Skb,
    LEAST_IN_PLACE, //
};
pub(crate) use sock::{
    Sock,
    State, //
};
pub(crate) use sysctl::{
    Sysctl,
    Value, //
};
pub(crate) use tcp::{
    tcp_jiffies32,
    Tcp,
    HZ, //
};
