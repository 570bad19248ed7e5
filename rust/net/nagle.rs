// SPDX-License-Identifier: GPL-2.0

//! What TCP_CORK, MSG_MORE and Nagle's algorithm keep back.
//!
//! `tcp_nagle_test()` and `tcp_mss_split_point()` for a sender with nothing in
//! flight, which by invariant 2 is the only one asked. Nagle's algorithm
//! (RFC 9293 section 3.7.4) then holds nothing back: only cork does.

/// `TCP_NAGLE_CORK`: the socket is corked, or the call had MSG_MORE.
const CORK: u32 = kernel::bindings::TCP_NAGLE_CORK;
/// `TCP_NAGLE_PUSH`: whatever else is set, push.
const PUSH: u32 = kernel::bindings::TCP_NAGLE_PUSH;

/// How much of an skb may be seen by the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Go {
    /// All of it.
    All,
    /// So many bytes, whole segments; the rest is held back.
    Some(u32),
    /// None of it.
    Nothing,
}

/// How much of an skb of `len` bytes may go, where a full segment has `mss`.
///
/// `last` says that nothing follows it in the write queue; `nonagle` are the
/// caller's `TCP_NAGLE_*` bits.
pub(crate) const fn may_go(len: u32, mss: u32, last: bool, nonagle: u32) -> Go {
    if !last || nonagle & PUSH != 0 || nonagle & CORK == 0 || mss == 0 {
        return Go::All;
    }
    match len % mss {
        0 => Go::All,
        partial if partial == len => Go::Nothing,
        partial => Go::Some(len - partial),
    }
}

/// Zero if bytes that nothing stands before and nothing follows yet go at once,
/// however few they are.
pub(crate) const fn may_not_go_alone(nonagle: u32) -> u32 {
    nonagle & (CORK | PUSH)
}

#[kernel::macros::kunit_tests(tcp_friends_hold)]
mod tests {
    use super::*;

    const OFF: u32 = kernel::bindings::TCP_NAGLE_OFF;

    #[test]
    fn without_cork_all_goes() {
        assert_eq!(may_go(1, 1460, true, 0), Go::All);
        assert_eq!(may_go(1, 1460, true, OFF), Go::All);
    }

    #[test]
    fn cork_holds_a_partial_segment() {
        assert_eq!(may_go(1, 1460, true, CORK), Go::Nothing);
        assert_eq!(may_go(1459, 1460, true, CORK | OFF), Go::Nothing);
    }

    #[test]
    fn cork_lets_full_segments_go() {
        assert_eq!(may_go(1460, 1460, true, CORK), Go::All);
        assert_eq!(may_go(1461, 1460, true, CORK), Go::Some(1460));
        assert_eq!(may_go(4000, 1460, true, CORK), Go::Some(2920));
    }

    #[test]
    fn what_is_followed_goes() {
        assert_eq!(may_go(1, 1460, false, CORK), Go::All);
    }

    #[test]
    fn push_wins() {
        assert_eq!(may_go(1, 1460, true, CORK | PUSH), Go::All);
    }

    #[test]
    fn few_bytes_go_alone_unless_corked() {
        assert_eq!(may_not_go_alone(0), 0);
        assert_eq!(may_not_go_alone(OFF), 0);
        assert_ne!(may_not_go_alone(CORK), 0);
        assert_ne!(may_not_go_alone(OFF | PUSH), 0);
    }

    #[test]
    fn no_mss_holds_nothing() {
        assert_eq!(may_go(1, 0, true, CORK), Go::All);
    }
}
