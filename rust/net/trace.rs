// SPDX-License-Identifier: GPL-2.0

//! Tracepoints of friends. A tracepoint is a NOP while it is disabled.
//!
//! C header: [`include/trace/events/tcp_friends.h`](srctree/include/trace/events/tcp_friends.h)

use kernel::prelude::*;

use super::sock::Sock;

/// The tracepoints that C defines.
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
        /// `sk` is a full TCP socket.
        pub(super) unsafe fn pair(sk: *const bindings::sock);

        /// # Safety
        ///
        /// `sk` is a full TCP socket.
        pub(super) unsafe fn unpair(sk: *const bindings::sock);

        /// # Safety
        ///
        /// `sk` is a full TCP socket, `reason` ends with a zero byte.
        pub(super) unsafe fn wire(sk: *const bindings::sock, reason: *const c_char);
    }

    /// Hits the tracepoint `move`. This is what [`declare_trace!`] expands to, written by hand
    /// because `move` is a keyword of Rust.
    ///
    /// # Safety
    ///
    /// `sk` is a full TCP socket.
    #[inline(always)]
    pub(super) unsafe fn moved(sk: *const bindings::sock, bytes: c_uint, skbs: c_uint) {
        #[cfg(CONFIG_TRACEPOINTS)]
        {
            // SAFETY: The static key of a tracepoint may be read in any context.
            let traced = unsafe {
                kernel::jump_label::static_branch_unlikely!(
                    bindings::__tracepoint_move,
                    bindings::tracepoint,
                    key
                )
            };

            if traced {
                // SAFETY: By the function's safety requirements, `sk` is a full TCP socket.
                unsafe { bindings::rust_do_trace_move(sk, bytes, skbs) };
            }
        }
        #[cfg(not(CONFIG_TRACEPOINTS))]
        let _ = (sk, bytes, skbs);
    }
}

/// Traces that `sock` and another socket have become friends.
#[inline(always)]
pub(crate) fn pair(sock: &Sock) {
    // SAFETY: By the type invariants of `Sock`, `sock.raw()` points at a full TCP socket.
    unsafe { event::pair(sock.raw()) };
}

/// Traces that the pair of `sock` and its friend was dissolved.
#[inline(always)]
pub(crate) fn unpair(sock: &Sock) {
    // SAFETY: By the type invariants of `Sock`, `sock.raw()` points at a full TCP socket.
    unsafe { event::unpair(sock.raw()) };
}

/// Traces that `sock` has something to transmit that takes the wire, for `reason`.
#[inline(always)]
pub(crate) fn wire(sock: &Sock, reason: &CStr) {
    // SAFETY: By the type invariants of `Sock`, `sock.raw()` points at a full TCP socket. A
    // `CStr` ends with a zero byte.
    unsafe { event::wire(sock.raw(), reason.as_char_ptr()) };
}

/// Traces that `bytes` bytes of `sock` were moved to its friend, as `skbs` new skbs.
#[inline(always)]
pub(crate) fn moved(sock: &Sock, bytes: u32, skbs: u32) {
    // SAFETY: By the type invariants of `Sock`, `sock.raw()` points at a full TCP socket.
    unsafe { event::moved(sock.raw(), bytes, skbs) };
}
