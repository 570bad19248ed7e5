// SPDX-License-Identifier: GPL-2.0

//! Finds the two ends of crossing pairs: pairs whose segments would pass other devices than the
//! loopback device, mostly because the two ends are in different network namespaces.
//!
//! # Lock order
//!
//! The spinlock of [`crossing`](crate::pair::crossing) is taken inside the spinlocks of
//! [`proposals`], and no other lock is taken inside the former. A socket's spinlock may be held
//! outside of both, and so may `rtnl_mutex`, which the kernel holds when its notifier reports a
//! change of a device.
//!
//! A mutex ([`one_at_a_time`](crate::pair::crossing::one_at_a_time)) is held while
//! `net.ipv4.tcp_friends_cross` takes effect. The mutex is outermost of all these locks;
//! `rtnl_mutex` is not taken inside the mutex, nor the mutex inside `rtnl_mutex`.

pub(crate) mod handshake;
pub(crate) mod proposals;
