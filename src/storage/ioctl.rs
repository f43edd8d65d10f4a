//! The ioctls of block devices that no safe crate wraps.
//!
//! Not a place for decisions: each function is one call with its arguments checked by type.
//! Invariant: all `unsafe` of `device` and `health` is here; what the kernel fills in is sized by type.
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

/// Bytes of NVMe's SMART / Health log page.
pub(super) const HEALTH_LOG: usize = 512;
/// How long a device may take for an answer about itself, in milliseconds.
const PATIENCE_MS: u32 = 10_000;

/// `struct nvme_passthru_cmd` (linux/nvme_ioctl.h).
#[repr(C)]
#[derive(Default)]
struct NvmeCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    words_2_3: [u32; 2],
    metadata: u64,
    address: u64,
    metadata_bytes: u32,
    bytes: u32,
    words_10_15: [u32; 6],
    timeout_ms: u32,
    result: u32,
}
const _: () = assert!(size_of::<NvmeCommand>() == 72);

/// `NVME_IOCTL_ADMIN_CMD`: `_IOWR('N', 0x41, struct nvme_passthru_cmd)`.
const NVME_ADMIN: c_ulong = 3 << 30 | 72 << 16 | (b'N' as c_ulong) << 8 | 0x41;

/// The SMART / Health log page of the controller of an NVMe device.
pub(super) fn nvme_health_log(device: BorrowedFd<'_>) -> io::Result<[u8; HEALTH_LOG]> {
    let mut log = [0; HEALTH_LOG];
    let mut command = NvmeCommand {
        opcode: 0x02, // Get Log Page
        namespace: u32::MAX,
        address: log.as_mut_ptr() as u64,
        bytes: HEALTH_LOG as u32,
        // Dwords less one, and the page.
        words_10_15: [(HEALTH_LOG as u32 / 4 - 1) << 16 | 0x02, 0, 0, 0, 0, 0],
        timeout_ms: PATIENCE_MS,
        ..NvmeCommand::default()
    };
    // SAFETY: the kernel reads and writes one such structure, and writes at most `bytes` at `address`, which is that long;
    // both outlive the call.
    match unsafe { libc::ioctl(device.as_raw_fd(), NVME_ADMIN as _, &raw mut command) } {
        0 => Ok(log),
        status if status > 0 => Err(io::Error::other(format!("NVMe status {status:#x}"))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `struct sg_io_hdr` (scsi/sg.h).
#[repr(C)]
struct SgCommand {
    interface: i32,
    direction: i32,
    command_bytes: u8,
    most_sense: u8,
    pieces: u16,
    bytes: u32,
    data: *mut u8,
    command: *const u8,
    sense: *mut u8,
    timeout_ms: u32,
    flags: u32,
    id: i32,
    user: *mut u8,
    status: u8,
    masked_status: u8,
    message_status: u8,
    sense_bytes: u8,
    host_status: u16,
    driver_status: u16,
    residue: i32,
    duration: u32,
    info: u32,
}

const SG_IO: c_ulong = 0x2285;
const SG_DXFER_NONE: i32 = -1;

/// Sends an ATA PASS-THROUGH (16) without data to a SCSI disk. Gives the sense, in which the registers are.
pub(super) fn ata_command(device: BorrowedFd<'_>, command: &[u8; 16]) -> io::Result<Vec<u8>> {
    let mut sense = [0u8; 64];
    let mut request = SgCommand {
        interface: i32::from(b'S'),
        direction: SG_DXFER_NONE,
        command_bytes: command.len() as u8,
        most_sense: sense.len() as u8,
        pieces: 0,
        bytes: 0,
        data: std::ptr::null_mut(),
        command: command.as_ptr(),
        sense: sense.as_mut_ptr(),
        timeout_ms: PATIENCE_MS,
        flags: 0,
        id: 0,
        user: std::ptr::null_mut(),
        status: 0,
        masked_status: 0,
        message_status: 0,
        sense_bytes: 0,
        host_status: 0,
        driver_status: 0,
        residue: 0,
        duration: 0,
        info: 0,
    };
    // SAFETY: the kernel reads and writes one such structure, reads `command_bytes` at `command` and writes at most
    // `most_sense` at `sense`, which are that long; there is no data. All outlive the call.
    if unsafe { libc::ioctl(device.as_raw_fd(), SG_IO as _, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    if request.host_status != 0 {
        return Err(io::Error::other(format!("the controller says {:#x}", request.host_status)));
    }
    Ok(sense[..usize::from(request.sense_bytes).min(sense.len())].to_vec())
}
