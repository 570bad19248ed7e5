// SPDX-License-Identifier: GPL-2.0

//! The buffers grow with the stream.
//!
//! TCP lets a receive buffer grow with what is read in a round trip
//! (`tcp_rcv_space_adjust()`), up to `net.ipv4.tcp_rmem`. Between friends there is
//! no round trip to be measured, and a buffer that stays small makes the writer
//! queue what the reader has to pull. So a buffer that is full doubles, if its
//! reader has read half of it since it last did: one that does not read gets no
//! more.
//!
//! The send buffer grows with the congestion window (`tcp_sndbuf_expand()`), which friends
//! do not open. By the loopback device, whose segments are large, there is enough of it to
//! begin with; between containers it is what ten of theirs need. So it becomes as large as
//! the receive buffer that has just grown.
//!
//! No lock is taken here.

use kernel::sync::atomic::Relaxed;

use crate::{
    abstractions::{
        Member,
        Tcp, //
    },
    fence,
};

/// Whether `p`, the peer of `member`, takes one more skb, be it that the buffers grow.
/// `s` is the sender; the caller has the state of both to itself.
#[inline(always)]
pub(crate) fn has_room(s: &mut Tcp<'_>, p: &mut Tcp<'_>, member: &Member<'_>) -> bool {
    fence::has_room(p.sock())
        || (grow(s.reborrow(), p.reborrow(), *member) && fence::has_room(p.sock()))
}

/// Doubles the receive buffer, if it may grow and its reader has earned it.
#[cold]
#[inline(never)]
fn grow(mut s: Tcp<'_>, mut p: Tcp<'_>, member: Member<'_>) -> bool {
    let size = p.sock().receive_buffer();
    let read = p.copied_seq();
    let since = member.peer_grown().load(Relaxed);

    if !earned(read.wrapping_sub(since), size.unsigned_abs()) {
        return false;
    }
    member.peer_grown().store(read, Relaxed);
    let Some(size) = p.grow_receive_buffer(size.saturating_mul(2)) else {
        return false;
    };
    s.grow_send_buffer(size);
    true
}

/// Whether a reader that has read so many bytes since its buffer of `size` bytes
/// last grew may have a larger one.
const fn earned(read: u32, size: u32) -> bool {
    read >= size / 2
}

#[kernel::macros::kunit_tests(tcp_friends_growth)]
mod tests {
    use super::*;

    #[test]
    fn half_is_enough() {
        assert!(earned(500, 1000));
        assert!(!earned(499, 1000));
    }
}
