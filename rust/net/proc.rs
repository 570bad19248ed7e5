// SPDX-License-Identifier: GPL-2.0

//! A file below `/proc/net` with a line for each socket in a namespace's table of established
//! sockets. A read goes through a few sockets of one bucket at a time.
//!
//! C headers: [`include/linux/proc_fs.h`](srctree/include/linux/proc_fs.h),
//! [`include/linux/seq_file_net.h`](srctree/include/linux/seq_file_net.h)

use core::{
    marker::PhantomData,
    ptr::{
        addr_of,
        null_mut, //
    },
};

use kernel::{
    bindings,
    prelude::*,
    seq_file::SeqFile, //
};

use super::{
    context::cond_resched,
    ehash::{
        filled_bucket,
        has_place,
        in_bucket,
        AT_ONCE, //
    },
    netns::{
        Net,
        PerNet, //
    },
};

/// The number of low bits that hold the place of a socket in its bucket.
///
/// Position 0 of the file is the head line. Any other position has the number of a bucket above
/// these bits; the bits themselves hold the place in the bucket, plus 1.
const PLACE_BITS: u32 = 32;

/// Returns the bucket of the position `pos` and the place in that bucket, or `None` for the head
/// line.
fn decode(pos: bindings::loff_t) -> Option<(u32, usize)> {
    let pos = u64::try_from(pos).ok()?.checked_sub(1)?;

    // TRUNCATE: The position was made of a bucket and a place of 32 bits each.
    Some(((pos >> PLACE_BITS) as u32, pos as u32 as usize))
}

/// Returns the position of the first place of `bucket`.
fn first_of(bucket: u32) -> bindings::loff_t {
    (i64::from(bucket) << PLACE_BITS).wrapping_add(1)
}

/// The C functions that call an implementation `T` of [`PerNet`].
struct Adapter<T>(PhantomData<T>);

impl<T: PerNet> Adapter<T> {
    const OPS: bindings::seq_operations = bindings::seq_operations {
        start: Some(start),
        next: Some(next),
        stop: Some(stop),
        show: Some(show::<T>),
    };
}

/// Makes the file [`PerNet::SOCKETS`] of the namespace, and returns whether the file exists now.
/// May sleep.
///
/// # Safety
///
/// `net` is a namespace that is being set up. The caller removes the file before the module's state
/// of the namespace is freed.
pub(super) unsafe fn create<T: PerNet>(net: *mut bindings::net) -> bool {
    let ops = &Adapter::<T>::OPS;

    // SAFETY: By the function's safety requirements, the namespace is valid. The operations are
    // static, and each open file gets the private data that seq_file_net() needs.
    let entry = unsafe {
        bindings::proc_create_net_data(
            T::SOCKETS.as_char_ptr(),
            0o444,
            (*net).proc_net,
            ops,
            size_of::<bindings::seq_net_private>() as c_uint,
            null_mut(),
        )
    };
    !entry.is_null()
}

/// Returns the namespace of an open file.
///
/// # Safety
///
/// `seq` is a file that [`create`] made, and is open for `'a`.
unsafe fn net<'a>(seq: *mut bindings::seq_file) -> &'a Net {
    // SAFETY: By the function's safety requirements, the file is open for `'a`, and keeps its
    // namespace alive.
    unsafe { Net::from_raw(bindings::seq_file_net(seq)) }
}

/// Returns the pointer that `show` is called with at `*pos`, or null if there is no socket at this
/// position or behind it. Passes over the buckets that have no socket from this place on, and sets
/// `*pos` accordingly.
///
/// # Safety
///
/// `seq` is an open file that [`create`] made, and `pos` is its position.
unsafe fn at(seq: *mut bindings::seq_file, pos: *mut bindings::loff_t) -> *mut c_void {
    // SAFETY: By the function's safety requirements, the file is open and `pos` is valid.
    let (net, pos) = unsafe { (net(seq), &mut *pos) };
    // `show` finds the socket by the position, so the pointer only has to differ from null.
    let somewhere = core::ptr::without_provenance_mut(1);

    let from = match decode(*pos) {
        None => return somewhere,
        Some((bucket, 0)) => bucket,
        Some((bucket, place)) if has_place(net, bucket, place) => {
            cond_resched();
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

/// Begins a read at the position `*pos`.
///
/// # Safety
///
/// The caller follows the contract of `seq_operations.start`.
unsafe extern "C" fn start(
    seq: *mut bindings::seq_file,
    pos: *mut bindings::loff_t,
) -> *mut c_void {
    // SAFETY: By the function's safety requirements, the file is open and `pos` is its position.
    unsafe { at(seq, pos) }
}

/// Goes on to the next position.
///
/// # Safety
///
/// The caller follows the contract of `seq_operations.next`.
unsafe extern "C" fn next(
    seq: *mut bindings::seq_file,
    _v: *mut c_void,
    pos: *mut bindings::loff_t,
) -> *mut c_void {
    // SAFETY: By the function's safety requirements, the file is open and `pos` is its position.
    unsafe {
        *pos = match *pos {
            0 => first_of(0),
            pos => pos.wrapping_add(AT_ONCE as i64),
        };
        at(seq, pos)
    }
}

/// Does nothing: no lock is held between two positions.
///
/// # Safety
///
/// The caller follows the contract of `seq_operations.stop`.
unsafe extern "C" fn stop(_seq: *mut bindings::seq_file, _v: *mut c_void) {}

/// Writes the head line, or the lines of some sockets of one bucket.
///
/// # Safety
///
/// The caller follows the contract of `seq_operations.show`.
unsafe extern "C" fn show<T: PerNet>(seq: *mut bindings::seq_file, _v: *mut c_void) -> c_int {
    // This returns whether the buffer is full, as `seq_has_overflowed()` does.
    //
    // SAFETY: By the function's safety requirements, the file is open. The caller holds
    // `seq_file.lock`, so nobody else changes these fields.
    let is_full = || unsafe { addr_of!((*seq).count).read() == addr_of!((*seq).size).read() };
    // SAFETY: By the function's safety requirements, the file is open. The caller holds
    // `seq_file.lock`, so nobody else changes the index.
    let (net, pos, seq) = unsafe { (net(seq), (*seq).index, SeqFile::from_raw(seq)) };

    match decode(pos) {
        None => T::show_head(seq),
        Some((bucket, from)) => in_bucket(net, bucket, from, |sock, rcu| {
            // A line that does not fit need not be written: the C side then calls this function
            // again with a larger buffer.
            if !is_full() {
                T::show_socket(seq, sock, rcu);
            }
        }),
    }
    0
}
