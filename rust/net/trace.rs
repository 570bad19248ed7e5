// SPDX-License-Identifier: GPL-2.0

//! Tracepoints of friends. A tracepoint is a NOP while it is disabled.
//!
//! C header: [`include/trace/events/tcp_friends.h`](srctree/include/trace/events/tcp_friends.h)

use kernel::prelude::*;

use super::sock::Sock;

/// The tracepoints that C defines. All have the same arguments.
mod event {
    use kernel::{
        bindings,
        ffi::{
            c_char,
            c_uint, //
        },
        tracepoint::declare_trace, //
    };

    declare_trace! {
        /// # Safety
        ///
        /// `sk` is a full TCP socket, `reason` ends with a zero byte.
        pub(super) unsafe fn tcp_friends_pair(
            sk: *const bindings::sock, reason: *const c_char, bytes: c_uint, skbs: c_uint
        );

        /// # Safety
        ///
        /// `sk` is a full TCP socket, `reason` ends with a zero byte.
        pub(super) unsafe fn tcp_friends_unpair(
            sk: *const bindings::sock, reason: *const c_char, bytes: c_uint, skbs: c_uint
        );

        /// # Safety
        ///
        /// `sk` is a full TCP socket, `reason` ends with a zero byte.
        pub(super) unsafe fn tcp_friends_fallback(
            sk: *const bindings::sock, reason: *const c_char, bytes: c_uint, skbs: c_uint
        );

        /// # Safety
        ///
        /// `sk` is a full TCP socket, `reason` ends with a zero byte.
        pub(super) unsafe fn tcp_friends_move(
            sk: *const bindings::sock, reason: *const c_char, bytes: c_uint, skbs: c_uint
        );
    }
}

/// Traces that `sock` and another socket have become friends.
#[inline(always)]
pub(crate) fn pair(sock: &Sock) {
    // SAFETY: By the type invariants of `Sock`, `sock.raw()` points at a full TCP socket.
    unsafe { event::tcp_friends_pair(sock.raw(), c"".as_char_ptr(), 0, 0) };
}

/// Traces that the pair of `sock` and its friend was dissolved.
#[inline(always)]
pub(crate) fn unpair(sock: &Sock) {
    // SAFETY: By the type invariants of `Sock`, `sock.raw()` points at a full TCP socket.
    unsafe { event::tcp_friends_unpair(sock.raw(), c"".as_char_ptr(), 0, 0) };
}

/// Traces that `sock` has something to transmit that takes the wire, for `reason`.
#[inline(always)]
pub(crate) fn fallback(sock: &Sock, reason: &CStr) {
    // SAFETY: By the type invariants of `Sock`, `sock.raw()` points at a full TCP socket. A
    // `CStr` ends with a zero byte.
    unsafe { event::tcp_friends_fallback(sock.raw(), reason.as_char_ptr(), 0, 0) };
}

/// Traces that `bytes` bytes of `sock` were moved to its friend, as `skbs` new skbs.
#[inline(always)]
pub(crate) fn moved(sock: &Sock, bytes: u32, skbs: u32) {
    // SAFETY: By the type invariants of `Sock`, `sock.raw()` points at a full TCP socket.
    unsafe { event::tcp_friends_move(sock.raw(), c"".as_char_ptr(), bytes, skbs) };
}
