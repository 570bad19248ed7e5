// SPDX-License-Identifier: GPL-2.0

//! The field `tcp_sock.friend`, which points to the socket's pair or holds the number of the
//! proposal that the socket has made.

use kernel::{
    bindings,
    sync::atomic::{
        Atomic,
        Full,
        Relaxed, //
    },
};

use crate::{
    net::Sock, //
};

/// The `friend` field of a socket that may have a proposal in place of a pair.
pub(crate) struct FriendField<'a>(&'a Atomic<*mut bindings::tcp_friend>);

impl<'a> FriendField<'a> {
    /// The bit that is set in the field if it holds a proposal.
    pub(super) const PROPOSAL: usize = 2;

    /// Returns the `friend` field of `sock`.
    pub(crate) fn of(sock: &'a Sock) -> Self {
        Self(sock.friend_field())
    }

    fn encode(isn: u32) -> *mut bindings::tcp_friend {
        // TRUNCATE: Proposals are made on 64-bit systems only, where `usize` has room for all bits.
        core::ptr::without_provenance_mut((u64::from(isn) << 32) as usize | Self::PROPOSAL)
    }

    /// Stores that the socket has a proposal with the initial sequence number `isn`.
    ///
    /// Returns whether the proposal was stored. It is not if the socket has a proposal or a friend
    /// already, or if a pointer has no room for the number.
    pub(crate) fn propose(&self, isn: u32) -> bool {
        cfg!(CONFIG_64BIT)
            && self
                .0
                .cmpxchg(core::ptr::null_mut(), Self::encode(isn), Full)
                .is_ok()
    }

    /// Clears the field if it holds the proposal with the initial sequence number `isn`.
    pub(crate) fn take_back(&self, isn: u32) {
        let _ = self
            .0
            .cmpxchg(Self::encode(isn), core::ptr::null_mut(), Full);
    }

    /// Returns the initial sequence number of the socket's proposal, if the socket has one.
    pub(crate) fn proposal(&self) -> Option<u32> {
        let addr = self.0.load(Relaxed).addr();

        // TRUNCATE: `encode` puts the 32 bits of the number into the upper half.
        (addr & Self::PROPOSAL != 0).then_some((addr as u64 >> 32) as u32)
    }
}
