// SPDX-License-Identifier: GPL-2.0

//! Windows, kept in step without a segment (invariant 3).
//!
//! The right edge that P last offered stays where it is while data is moved: P's
//! window shrinks from the left, and S's idea of it by the same bytes.
//! `tcp_friends_rcv()` sees to the former, and that `rcv_wup` is `rcv_nxt`:
//! without that P would take a probe for new data and not answer. When little is
//! left, P offers a new window and S is told; when P is full the window is shut on
//! both sides, so that what TCP does for a full receiver (zero-window probes,
//! TCP_USER_TIMEOUT) is what happens.

use crate::{
    abstractions::Tcp,
    seq::before, //
};

/// What is left of a window offered as `wnd` bytes at `wup` when `nxt` is
/// expected (`tcp_receive_window()`).
#[inline]
pub(crate) const fn left(wup: u32, wnd: u32, nxt: u32) -> u32 {
    let edge = wup.wrapping_add(wnd);
    if before(edge, nxt) {
        0
    } else {
        edge.wrapping_sub(nxt)
    }
}

/// Whether so little is left of an offer that it is worth the work to make a new
/// one, where the receiver aims at `aim` bytes: what it has received and not read may
/// leave no more than half of that to be offered.
#[inline]
pub(crate) const fn worn(left: u32, aim: u32) -> bool {
    left <= aim / 4
}

/// What is left of the window that `p` offers.
#[inline]
pub(crate) fn offered(p: &Tcp<'_>) -> u32 {
    left(p.rcv_wup(), p.rcv_wnd(), p.rcv_nxt())
}

fn offer(p: &mut Tcp<'_>, wnd: u32) {
    let nxt = p.rcv_nxt();
    let edge = nxt.wrapping_add(wnd);

    p.set_rcv_wup(nxt);
    p.set_rcv_wnd(wnd);
    if before(p.rcv_mwnd_seq(), edge) {
        p.set_rcv_mwnd_seq(edge);
    }
}

/// The window that `p` would offer now.
///
/// Without window scaling `__tcp_select_window()` goes on from the last offer, and
/// never gets away from none where `rcv_ssthresh` is less than a segment. TCP itself
/// seldom gets there; [`shut`] does. So with half the buffer free, it is what the
/// receiver aims at.
fn select(p: &mut Tcp<'_>) -> u32 {
    match p.select_window() {
        0 if is_stuck(p) => p.rcv_ssthresh(),
        wnd => wnd,
    }
}

fn is_stuck(p: &Tcp<'_>) -> bool {
    let sock = p.sock();
    p.rcv_wnd() == 0 && sock.receive_memory() <= sock.receive_buffer() / 2
}

/// Where TCP would not open the window of `p` again by itself, opens it. The
/// caller has `p` to itself.
///
/// Returns whether it did so, and `p` has to tell of it.
pub(crate) fn reopen(p: &mut Tcp<'_>) -> bool {
    if !is_stuck(p) || p.select_window() != 0 {
        return false;
    }
    let wnd = p.rcv_ssthresh();

    offer(p, wnd);
    wnd != 0
}

/// The prediction of headers is for the window that it was made with.
#[inline]
fn set_snd_wnd(s: &mut Tcp<'_>, wnd: u32) {
    s.set_snd_wnd(wnd);
    s.set_pred_flags(0);
}

#[inline]
fn learn(s: &mut Tcp<'_>, wnd: u32) {
    set_snd_wnd(s, wnd);
    if wnd > s.max_window() {
        s.set_max_window(wnd);
        s.sync_mss();
    }
}

/// After data was moved from `s` to `p`: both know the same window again, a new
/// one if the old one is worn. The caller has both to itself.
#[inline(always)]
pub(crate) fn follow(s: &mut Tcp<'_>, p: &mut Tcp<'_>) {
    let mut wnd = offered(p);

    if worn(wnd, p.rcv_ssthresh()) {
        wnd = wider(s, p.reborrow(), wnd);
    }
    learn(s, wnd);
}

/// Offers more than the `wnd` bytes that are left of the last offer, if it can.
/// Returns what is offered then.
///
/// TCP bounds the segments of `s` by half of the largest window that it has seen. On the wire the
/// buffer of a receiver who reads what comes soon has room for two of the largest; friends' buffers
/// grow later ([`growth`](crate::growth)), and segments are as large as there.
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

/// Of the loopback device.
const TWO_SEGMENTS: u32 = 2 * 65536;

/// Whether `p` has all that `s` ever sent, so that no data on its way needs the window that
/// both know now. An ACK on its way may tell of an older one, which then is what `s` knows
/// until its probe timer. The caller has both to itself.
pub(crate) fn is_known(s: &Tcp<'_>, p: &Tcp<'_>) -> bool {
    s.packets_out() == 0 && s.snd_una() == s.snd_nxt() && p.rcv_nxt() == s.snd_nxt()
}

/// Before something takes the wire: the largest offer that `p` can make now.
/// The caller has both to itself, and nothing is in flight.
pub(crate) fn renew(s: &mut Tcp<'_>, p: &mut Tcp<'_>) {
    let left = offered(p);
    let new = select(p);

    if new > left {
        offer(p, new);
    }
    learn(s, new.max(left));
    admit_fin(s);
}

/// A FIN without data is accepted by a receiver with no window, and so must not
/// wait for one: nobody would tell of it who has read all and waits for the end
/// of file. The caller has the sender to itself.
fn admit_fin(s: &mut Tcp<'_>) {
    if s.snd_wnd() == 0 && s.send_head().is_some_and(|head| head.len() == 0) {
        set_snd_wnd(s, 1);
    }
}

/// `p` has no room: the window is shut on both sides. The caller has both to
/// itself, and nothing is in flight, so that no segment can miss it.
pub(crate) fn shut(s: &mut Tcp<'_>, p: &mut Tcp<'_>) {
    aim_at_a_segment(p);
    offer(p, 0);
    set_snd_wnd(s, 0);
}

/// Lets `p` aim at a segment at least, so that TCP can open a window that is shut: once
/// they are parted [`reopen`] is nobody's. The caller has it to itself.
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
        assert!(!worn(251, 1000));
        assert!(worn(250, 1000));
        assert!(worn(0, 0));
    }
}
