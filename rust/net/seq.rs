// SPDX-License-Identifier: GPL-2.0

//! Comparison of sequence numbers, which wrap (RFC 9293 section 3.4).

/// Returns whether `a` comes before `b`.
pub(crate) const fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Returns whether `low <= x <= high`, for numbers that are less than 2^31 apart.
pub(crate) const fn between(x: u32, low: u32, high: u32) -> bool {
    !before(x, low) && !before(high, x)
}

#[kernel::macros::kunit_tests(tcp_friends_seq)]
mod tests {
    use super::*;

    #[test]
    fn before_is_strict() {
        assert!(before(1, 2));
        assert!(!before(2, 2));
        assert!(!before(3, 2));
    }

    #[test]
    fn before_wraps() {
        assert!(before(u32::MAX, 0));
        assert!(before(u32::MAX - 10, 10));
        assert!(!before(10, u32::MAX - 10));
    }

    #[test]
    fn between_includes_its_ends() {
        assert!(between(5, 5, 5));
        assert!(between(5, 5, 9));
        assert!(between(9, 5, 9));
        assert!(!between(10, 5, 9));
        assert!(!between(4, 5, 9));
    }

    #[test]
    fn between_wraps() {
        assert!(between(0, u32::MAX - 1, 1));
        assert!(!between(2, u32::MAX - 1, 1));
        assert!(!between(u32::MAX - 2, u32::MAX - 1, 1));
    }
}
