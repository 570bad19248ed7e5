// SPDX-License-Identifier: GPL-2.0

//! Tracepoints: a NOP each while nobody listens.
//!
//! C header: [`include/trace/events/tcp_friends.h`](srctree/include/trace/events/tcp_friends.h)

use kernel::prelude::*;

use super::sock::Sock;

/// The tracepoints as C has them.
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

    /// What the macro would make of a name that is a keyword.
    ///
    /// # Safety
    ///
    /// `sk` is a full TCP socket.
    #[inline(always)]
    pub(super) unsafe fn moved(sk: *const bindings::sock, bytes: c_uint, skbs: c_uint) {
        #[cfg(CONFIG_TRACEPOINTS)]
        {
            // SAFETY: It is always okay to look at the key of a tracepoint.
            let traced = unsafe {
                kernel::jump_label::static_branch_unlikely!(
                    bindings::__tracepoint_move,
                    bindings::tracepoint,
                    key
                )
            };

            if traced {
                // SAFETY: By the function's safety requirements.
                unsafe { bindings::rust_do_trace_move(sk, bytes, skbs) };
            }
        }
        #[cfg(not(CONFIG_TRACEPOINTS))]
        let _ = (sk, bytes, skbs);
    }
}

/// `sock` and another have become friends.
#[inline(always)]
pub(crate) fn pair(sock: &Sock) {
    // SAFETY: `sock` is a full TCP socket.
    unsafe { event::pair(sock.raw()) };
}

/// `sock` and its friend are so no more.
#[inline(always)]
pub(crate) fn unpair(sock: &Sock) {
    // SAFETY: As above.
    unsafe { event::unpair(sock.raw()) };
}

/// What `sock` has to transmit takes the wire.
#[inline(always)]
pub(crate) fn wire(sock: &Sock, reason: &CStr) {
    // SAFETY: As above.
    unsafe { event::wire(sock.raw(), reason.as_char_ptr()) };
}

/// `bytes` of `sock` went to its friend, as `skbs` new skbs.
#[inline(always)]
pub(crate) fn moved(sock: &Sock, bytes: u32, skbs: u32) {
    // SAFETY: As above.
    unsafe { event::moved(sock.raw(), bytes, skbs) };
}
