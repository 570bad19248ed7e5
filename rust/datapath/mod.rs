// SPDX-License-Identifier: GPL-2.0

//! Moves bytes from one socket of a pair to the other.

pub(crate) mod pull;
pub(crate) mod recv;
pub(crate) mod send;
pub(crate) mod send_large;
pub(crate) mod transfer;
pub(crate) mod xmit;
