// SPDX-License-Identifier: GPL-2.0

//! The windows of both ends, which are kept in step without a segment (invariant 3).
//!
//! While data is moved from the sender S to its peer P, the right edge that P last offered does not
//! move. P's window shrinks from the left, and the window that S knows shrinks by as many bytes.
//! [`Tcp::receive`] shrinks P's window, and sets `rcv_wup` to `rcv_nxt`; without that, P would
//! take a probe for new data and not answer. When little is left of the window, P offers a new
//! window, and S learns the new window. When P is full, the window is shut on both sides, so that
//! TCP handles a full receiver as usual (zero-window probes, TCP_USER_TIMEOUT).
//!
//! No lock is taken here.

use crate::net::{
    seq::before,
    Tcp, //
};

/// Returns what is left of a window of `wnd` bytes that was offered at `wup`, when `nxt` is the
/// next byte expected (`tcp_receive_window()`).
#[inline]
pub(crate) const fn left(wup: u32, wnd: u32, nxt: u32) -> u32 {
    let edge = wup.wrapping_add(wnd);
    if before(edge, nxt) {
        0
    } else {
        edge.wrapping_sub(nxt)
    }
}

/// Returns whether so little is `left` of an offer that a new offer is worth the work.
///
/// `aim` is the window in bytes that the receiver aims at. The limit is a quarter of `aim`, because
/// unread data may leave no more than half of `aim` to be offered.
#[inline]
pub(crate) const fn is_nearly_used(left: u32, aim: u32) -> bool {
    left <= aim / 4
}

/// Returns what is left of the window that `p` last offered.
#[inline]
pub(crate) fn offered(p: &Tcp<'_>) -> u32 {
    left(p.rcv_wup(), p.rcv_wnd(), p.rcv_nxt())
}

/// Lets `p` offer a window of `wnd` bytes from `rcv_nxt` on.
fn offer(p: &mut Tcp<'_>, wnd: u32) {
    let nxt = p.rcv_nxt();
    let edge = nxt.wrapping_add(wnd);

    p.set_rcv_wup(nxt);
    p.set_rcv_wnd(wnd);
    if before(p.rcv_mwnd_seq(), edge) {
        p.set_rcv_mwnd_seq(edge);
    }
}

/// Returns the window that `p` would offer now.
///
/// Without window scaling, `__tcp_select_window()` starts from the last offer, and never leaves a
/// zero window if `rcv_ssthresh` is less than a segment. TCP itself seldom gets into that state,
/// but [`shut`] leads there. If half of the buffer is free, the result is then `rcv_ssthresh`, the
/// window that the receiver aims at.
fn select(p: &mut Tcp<'_>) -> u32 {
    match p.select_window() {
        0 if is_stuck(p) => p.rcv_ssthresh(),
        wnd => wnd,
    }
}

/// Returns whether `p` offers a zero window although half of its receive buffer is free.
fn is_stuck(p: &Tcp<'_>) -> bool {
    let sock = p.sock();
    p.rcv_wnd() == 0 && sock.receive_memory() <= sock.receive_buffer() / 2
}

/// Opens the zero window of `p` if TCP would not open the window by itself. The caller has
/// exclusive access to `p`.
///
/// Returns whether the window was opened, so that `p` has to send a window update.
pub(crate) fn reopen(p: &mut Tcp<'_>) -> bool {
    if !is_stuck(p) || p.select_window() != 0 {
        return false;
    }
    let wnd = p.rcv_ssthresh();

    offer(p, wnd);
    wnd != 0
}

/// Sets the window that `s` knows. The header prediction is cleared, because a prediction holds
/// only for the window with which it was made.
#[inline]
fn set_snd_wnd(s: &mut Tcp<'_>, wnd: u32) {
    s.set_snd_wnd(wnd);
    s.set_pred_flags(0);
}

/// Lets `s` learn the window of `wnd` bytes that the peer offers.
#[inline]
fn learn(s: &mut Tcp<'_>, wnd: u32) {
    set_snd_wnd(s, wnd);
    if wnd > s.max_window() {
        s.set_max_window(wnd);
        s.sync_mss();
    }
}

/// Brings the windows of both sockets into step after data was moved from `s` to `p`. If the last
/// offer is nearly used up, `p` makes a new offer. The caller has exclusive access to both sockets.
#[inline(always)]
pub(crate) fn follow(s: &mut Tcp<'_>, p: &mut Tcp<'_>) {
    let mut wnd = offered(p);

    if is_nearly_used(wnd, p.rcv_ssthresh()) {
        wnd = wider(s, p.reborrow(), wnd);
    }
    learn(s, wnd);
}

/// Lets `p` offer more than the `wnd` bytes that are left of its last offer, if `p` can. Returns
/// the window that is offered after that.
///
/// TCP bounds the segments of `s` by half of the largest window that `s` has seen. On the wire, the
/// buffer of a receiver that reads what comes soon has room for two of the largest segments. The
/// receive buffers of friends grow later ([`rcvbuf`](crate::pair::rcvbuf)), so the largest window
/// is raised here, and segments become as large as on the wire.
#[inline(never)]
fn wider(s: &mut Tcp<'_>, mut p: Tcp<'_>, wnd: u32) -> u32 {
    if s.max_window() < TWO_SEGMENTS && p.sock().has_growing_receive_buffer() {
        s.set_max_window(TWO_SEGMENTS);
        s.sync_mss();
    }
    let new = select(&mut p);

    if new > wnd {
        offer(&mut p, new);
        new
    } else {
        wnd
    }
}

/// The size of two of the largest segments of the loopback device, in bytes.
const TWO_SEGMENTS: u32 = 2 * 65536;

/// Returns whether `p` has received all that `s` ever sent, so that no data on its way needs the
/// current window. An ACK on its way may carry an older window, which `s` then knows until its
/// probe timer fires. The caller has exclusive access to both sockets.
pub(crate) fn is_known(s: &Tcp<'_>, p: &Tcp<'_>) -> bool {
    s.packets_out() == 0 && s.snd_una() == s.snd_nxt() && p.rcv_nxt() == s.snd_nxt()
}

/// Makes the largest offer that `p` can make now, and lets `s` learn the offer, before something
/// takes the wire. The caller has exclusive access to both sockets, and nothing is in flight.
pub(crate) fn renew(s: &mut Tcp<'_>, p: &mut Tcp<'_>) {
    let left = offered(p);
    let new = select(p);

    if new > left {
        offer(p, new);
    }
    learn(s, new.max(left));
    admit_fin(s);
}

/// Lets the sender `s` transmit a FIN without data although the window is zero.
///
/// A receiver with a zero window accepts such a FIN, so the FIN must not wait for a window. A
/// reader that has read everything and waits for the end of file would not cause a window update.
/// The caller has exclusive access to the sender.
fn admit_fin(s: &mut Tcp<'_>) {
    if s.snd_wnd() == 0 && s.send_head().is_some_and(|head| head.len() == 0) {
        set_snd_wnd(s, 1);
    }
}

/// Shuts the window on both sides, because `p` has no room. The caller has exclusive access to both
/// sockets. Nothing is in flight, so no segment on its way can fall outside the shut window.
pub(crate) fn shut(s: &mut Tcp<'_>, p: &mut Tcp<'_>) {
    aim_at_a_segment(p);
    offer(p, 0);
    set_snd_wnd(s, 0);
}

/// Lets `p` aim at a window of one segment at least, so that TCP can open a zero window by itself:
/// nothing calls [`reopen`] once the pair is dissolved. The caller has exclusive access to `p`.
pub(crate) fn aim_at_a_segment(p: &mut Tcp<'_>) {
    let segment = p.window_clamp().min(p.rcv_mss().into());

    if p.rcv_ssthresh() < segment {
        p.set_rcv_ssthresh(segment);
    }
}

#[kernel::macros::kunit_tests(tcp_friends_window)]
mod tests {
    use super::*;

    #[test]
    fn left_shrinks_from_the_left() {
        assert_eq!(left(1000, 500, 1000), 500);
        assert_eq!(left(1000, 500, 1200), 300);
        assert_eq!(left(1000, 500, 1500), 0);
    }

    #[test]
    fn left_is_never_negative() {
        assert_eq!(left(1000, 500, 1501), 0);
        assert_eq!(left(1000, 0, 1001), 0);
    }

    #[test]
    fn left_wraps() {
        assert_eq!(left(u32::MAX - 9, 20, u32::MAX), 11);
        assert_eq!(left(u32::MAX - 9, 20, 5), 5);
        assert_eq!(left(u32::MAX - 9, 20, 11), 0);
    }

    #[test]
    fn a_quarter_is_worn() {
        assert!(!is_nearly_used(251, 1000));
        assert!(is_nearly_used(250, 1000));
        assert!(is_nearly_used(0, 0));
    }
}
