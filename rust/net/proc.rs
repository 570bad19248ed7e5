// SPDX-License-Identifier: GPL-2.0

//! `/proc/net/tcp_friends`: a line for each connection, of a namespace's table of
//! established sockets, read a few of a bucket at a time.
//!
//! C headers: [`include/linux/proc_fs.h`](srctree/include/linux/proc_fs.h),
//! [`include/linux/seq_file_net.h`](srctree/include/linux/seq_file_net.h)

use core::ptr::{
    addr_of,
    null_mut, //
};

use kernel::{
    bindings,
    prelude::*,
    seq_file::SeqFile, //
};

use super::{
    ehash::{
        filled_bucket,
        in_bucket,
        is_filled_to,
        AT_ONCE, //
    },
    may_reschedule,
    namespace::Net,
};
use crate::listing;

/// Position 0 of the file is the head. Any other has a bucket's number above these bits, and in them
/// a place in the bucket and 1.
const PLACE_BITS: u32 = 32;

/// The bucket of that position, and the place in it; `None` for the head.
fn decode(pos: bindings::loff_t) -> Option<(u32, usize)> {
    let pos = u64::try_from(pos).ok()?.checked_sub(1)?;

    // TRUNCATE: So it was made.
    Some(((pos >> PLACE_BITS) as u32, pos as u32 as usize))
}

/// The position of that bucket's first place.
fn first_of(bucket: u32) -> bindings::loff_t {
    (i64::from(bucket) << PLACE_BITS).wrapping_add(1)
}

static OPS: bindings::seq_operations = bindings::seq_operations {
    start: Some(start),
    next: Some(next),
    stop: Some(stop),
    show: Some(show),
};

/// Makes the file `name` of the namespace. Returns whether it is there now. May sleep.
///
/// # Safety
///
/// `net` is a namespace being made, and who makes this removes it before our state of
/// the namespace is freed.
pub(super) unsafe fn create(name: &CStr, net: *mut bindings::net) -> bool {
    // SAFETY: By the function's safety requirements; the operations are static, and each open
    // file gets what seq_file_net() wants.
    let entry = unsafe {
        bindings::proc_create_net_data(
            name.as_char_ptr(),
            0o444,
            (*net).proc_net,
            addr_of!(OPS),
            size_of::<bindings::seq_net_private>() as c_uint,
            null_mut(),
        )
    };
    !entry.is_null()
}

/// The namespace of an open file.
///
/// # Safety
///
/// `seq` is a file of ours, open for `'a`.
unsafe fn net<'a>(seq: *mut bindings::seq_file) -> &'a Net {
    // SAFETY: By the function's safety requirements; an open file keeps its namespace alive.
    unsafe { Net::from_raw(bindings::seq_file_net(seq)) }
}

/// What `show` is given at `*pos`: null if nothing is there or behind it. Buckets with nothing in
/// them, from the place on, are passed over.
///
/// # Safety
///
/// `seq` is a file of ours, `pos` its position.
unsafe fn at(seq: *mut bindings::seq_file, pos: *mut bindings::loff_t) -> *mut c_void {
    // SAFETY: By the function's safety requirements.
    let (net, pos) = unsafe { (net(seq), &mut *pos) };
    // It is the position that tells where it is.
    let somewhere = core::ptr::without_provenance_mut(1);

    let from = match decode(*pos) {
        None => return somewhere,
        Some((bucket, 0)) => bucket,
        Some((bucket, place)) if is_filled_to(net, bucket, place) => {
            may_reschedule();
            return somewhere;
        }
        Some((bucket, _)) => bucket.saturating_add(1),
    };
    match filled_bucket(net, from) {
        Some(bucket) => {
            *pos = first_of(bucket);
            somewhere
        }
        None => null_mut(),
    }
}

/// # Safety
///
/// As `seq_operations.start`.
unsafe extern "C" fn start(
    seq: *mut bindings::seq_file,
    pos: *mut bindings::loff_t,
) -> *mut c_void {
    // SAFETY: By the function's safety requirements.
    unsafe { at(seq, pos) }
}

/// # Safety
///
/// As `seq_operations.next`.
unsafe extern "C" fn next(
    seq: *mut bindings::seq_file,
    _v: *mut c_void,
    pos: *mut bindings::loff_t,
) -> *mut c_void {
    // SAFETY: By the function's safety requirements.
    unsafe {
        *pos = match *pos {
            0 => first_of(0),
            pos => pos.wrapping_add(AT_ONCE as i64),
        };
        at(seq, pos)
    }
}

/// # Safety
///
/// As `seq_operations.stop`.
unsafe extern "C" fn stop(_seq: *mut bindings::seq_file, _v: *mut c_void) {}

/// # Safety
///
/// As `seq_operations.show`.
unsafe extern "C" fn show(seq: *mut bindings::seq_file, _v: *mut c_void) -> c_int {
    // As `seq_has_overflowed()`.
    //
    // SAFETY: By the function's safety requirements the file is open; `seq_file.lock`, which the
    // caller holds, keeps others from it.
    let is_full = || unsafe { addr_of!((*seq).count).read() == addr_of!((*seq).size).read() };
    // SAFETY: By the function's safety requirements the file is open; its lock, which the caller
    // holds, keeps others from the index.
    let (net, pos, seq) = unsafe { (net(seq), (*seq).index, SeqFile::from_raw(seq)) };

    match decode(pos) {
        None => listing::head(seq),
        Some((bucket, from)) => in_bucket(net, bucket, from, |sock, rcu| {
            // What does not fit is asked for again, with a larger buffer.
            if !is_full() {
                listing::line(seq, sock, rcu);
            }
        }),
    }
    0
}
