//! The ioctls of block devices that no safe crate wraps.
//!
//! Not a place for decisions: each function is one call with its arguments checked by type.
//! Invariant: all `unsafe` of `device` is here; what the kernel fills in is sized by type.
#![allow(unsafe_code)]

use std::ffi::c_ulong;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `BLKGETSIZE64` (linux/fs.h): `_IOR(0x12, 114, size_t)`.
const BLKGETSIZE64: c_ulong = 2 << 30 | (size_of::<usize>() as c_ulong) << 16 | 0x12 << 8 | 114;

/// Bytes of a block device as they are now. Takes no lock, so a device that hangs does not hold the caller.
pub(super) fn size(device: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes = 0u64;
    // SAFETY: the kernel writes one 64-bit number there, whatever the name of the call says.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), BLKGETSIZE64 as _, &raw mut bytes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(bytes) }
}
