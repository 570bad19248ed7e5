// SPDX-License-Identifier: GPL-2.0

//! What the module needs of the kernel's TCP, behind safe interfaces.
//!
//! All `unsafe` code of the module is in this folder. What the C side demands
//! of a context is a type here, so that what cannot be proved cannot be called:
//!
//! - [`Rcu`]: an RCU read-side critical section lasts.
//! - [`Process`]: a task that holds no spinlock of a socket.
//! - [`Owned`]: the current task owns the socket (`lock_sock()`), and bottom
//!   halves are on.
//! - [`Spinlocked`]: the socket's spinlock is held and no task owns the socket.
//! - [`Busy`]: the socket's spinlock is held while a task owns the socket, so
//!   that nothing of it may be touched.
//! - [`Trying`]: bottom halves are off, and another lock may be held.
//!
//! # Lock order
//!
//! There is none between two sockets, because nobody ever waits for a second
//! spinlock while holding a first one: [`Owned`] and [`Process`] hold no spinlock
//! and may wait for one; [`Spinlocked`] may only try. So may [`Trying`], who holds
//! a lock of the table of established sockets, which TCP takes inside a spinlock.
//! Nobody takes ownership of a socket here.
//!
//! Innermost are the locks of [`offers`] and, inside them, that of the ways of pairs that
//! cross ([`crossings`]): with the latter held no other is taken. Who tells that a device goes
//! holds `rtnl_mutex` ([`device`]), outside of both; a socket's spinlock may be held outside
//! of them, too.
//! A mutex ([`one_at_a_time`]), outermost of all, is held while `net.ipv4.tcp_friends_cross`
//! takes effect; `rtnl_mutex` is not taken inside it, nor it inside that.
//!
//! `net_rwsem` is held, for reading, by [`for_each_namespace`] alone, as the module
//! leaves: outermost, in process context, with the locks of the table of established
//! sockets inside it.

#[path = "../pair/crossing.rs"]
mod crossings;
mod device;
mod ehash;
#[path = "../pair/mod.rs"]
mod friend;
mod hooks;
mod mark;
#[path = "netns.rs"]
mod namespace;
#[path = "../cross/proposals.rs"]
pub(crate) mod offers;
mod percpu;
mod proc;
mod skb;
mod sock;
#[path = "skb_cache.rs"]
mod spent;
pub(crate) mod trace;

pub(crate) use crossings::{
    mode_set,
    one_at_a_time,
    part_crossing, //
};
pub(crate) use device::{
    Change,
    Device,
    Path,
    Registration as DevicesRegistration, //
};
pub(crate) use ehash::{
    find_other_end,
    for_each_established, //
};
pub(crate) use friend::{
    Asks,
    Member,
    Pair, //
};
pub(crate) use hooks::{
    tell_crosses,
    Caller,
    Hooks,
    Read,
    Registration as HooksRegistration,
    Xmit, //
};
pub(crate) use mark::{
    End,
    Mark,
    Opening,
    Request, //
};
pub(crate) use namespace::{
    for_each_namespace,
    Net,
    Registration as NamespaceRegistration, //
};
pub(crate) use offers::Registration as OffersRegistration;
pub(crate) use percpu::PerCpuCounters;
pub(crate) use skb::{
    Arrival,
    Destination,
    Head,
    Size,
    Skb,
    Source, //
};
pub(crate) use sock::{
    smp_mb_after_atomic,
    tcp_jiffies32,
    Held,
    Lied,
    Owned,
    Process,
    Rcu,
    SlockGuard,
    Sock,
    Spinlocked,
    State,
    Tcp,
    Trying, //
};
pub(crate) use spent::{
    keep,
    relieve,
    take,
    Registration as SpentRegistration, //
};

/// Lets another task run, if one waits (`cond_resched()`). May sleep.
fn may_reschedule() {
    // SAFETY: In process context, with no lock held, as whoever may sleep is.
    unsafe { kernel::bindings::cond_resched() };
}
