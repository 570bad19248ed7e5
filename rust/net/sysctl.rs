// SPDX-License-Identifier: GPL-2.0

//! Sysctls of a network namespace, below `net.ipv4`.
//!
//! C header: [`include/linux/sysctl.h`](srctree/include/linux/sysctl.h)

use core::ptr::addr_of;

use kernel::{
    bindings,
    prelude::*,
    sync::atomic::Atomic, //
};

use super::netns::{
    Net,
    PerNet,
    Slot, //
};

/// The memory that holds the value of a sysctl.
pub(crate) enum Value<'a> {
    /// A byte, whose value is 255 at max.
    Byte(&'a Atomic<i8>),
    /// A word of 32 bits.
    Word(&'a Atomic<u32>),
}

/// A sysctl of a module that keeps a `T` for each namespace.
pub(crate) struct Sysctl<T> {
    /// The name of the sysctl below `net.ipv4`.
    pub(crate) name: &'static CStr,
    /// The largest value. The smallest value is 0.
    pub(crate) max: u32,
    /// Whether only the initial network namespace has the sysctl.
    pub(crate) is_init_net_only: bool,
    /// Returns the memory that holds the value.
    pub(crate) value: fn(&T) -> Value<'_>,
    /// Called after the value was written. May sleep.
    pub(crate) written: fn(&T, &Net),
}

/// The smallest value of each sysctl.
static MIN: u32 = 0;

/// Appends to `tables` the C description of each sysctl of the namespace whose state is `slot`.
/// May sleep.
pub(super) fn tables<T: PerNet>(
    slot: *mut Slot<T>,
    is_host: bool,
    tables: &mut KVec<bindings::ctl_table>,
) -> Result {
    for sysctl in T::SYSCTLS.iter().filter(|s| is_host || !s.is_init_net_only) {
        tables.push(
            bindings::ctl_table {
                procname: sysctl.name.as_char_ptr(),
                data: slot.cast(),
                maxlen: size_of::<u32>() as c_int,
                mode: 0o644,
                proc_handler: Some(handle::<T>),
                extra1: core::ptr::from_ref(sysctl).cast_mut().cast(),
                ..Default::default()
            },
            GFP_KERNEL,
        )?;
    }
    Ok(())
}

/// Reads or writes a sysctl (`ctl_table.proc_handler`).
///
/// # Safety
///
/// The caller meets the requirements of `ctl_table.proc_handler`, and [`tables`] has made `table`
/// for this `T`.
unsafe extern "C" fn handle<T: PerNet>(
    table: *const bindings::ctl_table,
    dir: c_int,
    buffer: *mut c_void,
    lenp: *mut usize,
    ppos: *mut bindings::loff_t,
) -> c_int {
    // SAFETY: By the function's safety requirements, `tables` has set `data` to a slot and
    // `extra1` to a sysctl. Both the slot and its namespace live while handlers run, and the
    // sysctl is static.
    let (slot, sysctl, net) = unsafe {
        let slot = &*(*table).data.cast::<Slot<T>>();

        (
            slot,
            &*(*table).extra1.cast::<Sysctl<T>>(),
            Net::from_raw(slot.net),
        )
    };
    let with = |data: *mut c_void, len: usize| bindings::ctl_table {
        procname: sysctl.name.as_char_ptr(),
        mode: 0o644,
        data,
        maxlen: len as c_int,
        extra1: addr_of!(MIN).cast_mut().cast(),
        extra2: addr_of!(sysctl.max).cast_mut().cast(),
        ..Default::default()
    };
    // SAFETY: The arguments that C has passed are passed on, and `maxlen` is the size of the memory
    // at `data`.
    let ret = unsafe {
        match (sysctl.value)(&slot.state) {
            Value::Byte(byte) => {
                let table = with(byte.as_ptr().cast(), size_of::<u8>());

                bindings::proc_dou8vec_minmax(&table, dir, buffer, lenp, ppos)
            }
            Value::Word(word) => {
                let table = with(word.as_ptr().cast(), size_of::<u32>());

                bindings::proc_douintvec_minmax(&table, dir, buffer, lenp, ppos)
            }
        }
    };
    if ret == 0 && dir != 0 {
        (sysctl.written)(&slot.state, net);
    }
    ret
}
