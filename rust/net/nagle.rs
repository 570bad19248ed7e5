// SPDX-License-Identifier: GPL-2.0

//! The data that TCP_CORK, MSG_MORE and Nagle's algorithm hold back.
//!
//! This file does what `tcp_nagle_test()` and `tcp_mss_split_point()` do, for a sender with
//! nothing in flight, as invariant 2 requires for a move. Nagle's algorithm
//! (RFC 9293 section 3.7.4) holds nothing back from such a sender: only a cork does.

/// `TCP_NAGLE_CORK`: the socket is corked, or the call had MSG_MORE.
const CORK: u32 = kernel::bindings::TCP_NAGLE_CORK;
/// `TCP_NAGLE_PUSH`: queued data is pushed, whatever other bits are set.
const PUSH: u32 = kernel::bindings::TCP_NAGLE_PUSH;

/// How much of an skb may be passed to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// The whole skb.
    All,
    /// This many bytes, which are whole segments; the rest is held back.
    Bytes(u32),
    /// No byte of the skb.
    Nothing,
}

/// Returns how much of an skb of `len` bytes may be passed to the peer, where a full segment has
/// `mss` bytes.
///
/// `last` is true if no skb follows in the write queue. `nonagle` has the caller's
/// `TCP_NAGLE_*` bits.
pub(crate) const fn allowed(len: u32, mss: u32, last: bool, nonagle: u32) -> Allowed {
    if !last || nonagle & PUSH != 0 || nonagle & CORK == 0 || mss == 0 {
        return Allowed::All;
    }
    match len % mss {
        0 => Allowed::All,
        partial if partial == len => Allowed::Nothing,
        partial => Allowed::Bytes(len - partial),
    }
}

/// Returns the cork and push bits of `nonagle`.
///
/// The result is zero if bytes that are the only ones in the write queue may be passed to the peer
/// at once, however few they are.
pub(crate) const fn corked_or_pushed(nonagle: u32) -> u32 {
    nonagle & (CORK | PUSH)
}

#[kernel::macros::kunit_tests(tcp_friends_nagle)]
mod tests {
    use super::*;

    const OFF: u32 = kernel::bindings::TCP_NAGLE_OFF;

    #[test]
    fn without_cork_all_goes() {
        assert_eq!(allowed(1, 1460, true, 0), Allowed::All);
        assert_eq!(allowed(1, 1460, true, OFF), Allowed::All);
    }

    #[test]
    fn cork_holds_a_partial_segment() {
        assert_eq!(allowed(1, 1460, true, CORK), Allowed::Nothing);
        assert_eq!(allowed(1459, 1460, true, CORK | OFF), Allowed::Nothing);
    }

    #[test]
    fn cork_lets_full_segments_go() {
        assert_eq!(allowed(1460, 1460, true, CORK), Allowed::All);
        assert_eq!(allowed(1461, 1460, true, CORK), Allowed::Bytes(1460));
        assert_eq!(allowed(4000, 1460, true, CORK), Allowed::Bytes(2920));
    }

    #[test]
    fn what_is_followed_goes() {
        assert_eq!(allowed(1, 1460, false, CORK), Allowed::All);
    }

    #[test]
    fn push_wins() {
        assert_eq!(allowed(1, 1460, true, CORK | PUSH), Allowed::All);
    }

    #[test]
    fn few_bytes_go_alone_unless_corked() {
        assert_eq!(corked_or_pushed(0), 0);
        assert_eq!(corked_or_pushed(OFF), 0);
        assert_ne!(corked_or_pushed(CORK), 0);
        assert_ne!(corked_or_pushed(OFF | PUSH), 0);
    }

    #[test]
    fn no_mss_holds_nothing() {
        assert_eq!(allowed(1, 0, true, CORK), Allowed::All);
    }
}
