// SPDX-License-Identifier: GPL-2.0

//! `/proc/net/tcp_friends`: a line for each connection, of a namespace's table of
//! established sockets, read a bucket at a time.
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
        in_bucket, //
    },
    namespace::Net,
};
use crate::listing;

/// What `show` is given: 1 for the head, else a bucket's number and this.
const BUCKETS: usize = 2;

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

/// Where the file is at `*pos`: 0 is the head, else a bucket's number and 1. Buckets
/// with nothing in them are passed over.
///
/// # Safety
///
/// `seq` is a file of ours, `pos` its position.
unsafe fn at(seq: *mut bindings::seq_file, pos: *mut bindings::loff_t) -> *mut c_void {
    // SAFETY: By the function's safety requirements.
    let (net, pos) = unsafe { (net(seq), &mut *pos) };
    if *pos == 0 {
        return core::ptr::without_provenance_mut(1);
    }
    match u32::try_from(*pos - 1)
        .ok()
        .and_then(|from| filled_bucket(net, from))
    {
        Some(bucket) => {
            *pos = i64::from(bucket) + 1;
            core::ptr::without_provenance_mut(bucket as usize + BUCKETS)
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
        *pos = (*pos).wrapping_add(1);
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
unsafe extern "C" fn show(seq: *mut bindings::seq_file, v: *mut c_void) -> c_int {
    // As `seq_has_overflowed()`.
    //
    // SAFETY: By the function's safety requirements the file is open; `seq_file.lock`, which the
    // caller holds, keeps others from it.
    let is_full = || unsafe { addr_of!((*seq).count).read() == addr_of!((*seq).size).read() };
    // SAFETY: By the function's safety requirements.
    let (net, seq) = unsafe { (net(seq), SeqFile::from_raw(seq)) };
    match v.addr().checked_sub(BUCKETS) {
        None => listing::head(seq),
        // TRUNCATE: It was made of a bucket's number.
        Some(bucket) => in_bucket(net, bucket as u32, |sock, _, rcu| {
            // What does not fit is asked for again, with a larger buffer.
            if !is_full() {
                listing::line(seq, sock, rcu);
            }
        }),
    }
    0
}
