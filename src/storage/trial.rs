//! Tries a backing that failed, before anything is promised of it again: its first and last sector are read, and what it has
//! in its caches is flushed. Nothing is written.
//!
//! Not for a thread that serves frames: a device that hangs does not come back from here.
//! Invariant: a success says that this descriptor, whose record of errors began when it was opened, had none.

#![forbid(unsafe_code)]

use super::device::Device;
use crate::limits::SECTOR;
use rustix::fs::{Advice, fadvise, fdatasync};
use rustix::io::{Errno, pread};
use std::io;
use std::os::fd::AsFd as _;

/// As much as the largest unit of O_DIRECT, at an address that suits it.
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// Why a backing is not served again.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct TrialError {
    /// What was tried.
    pub what: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

/// Tries a backing that was opened for that.
///
/// # Errors
/// [`TrialError`]
pub fn test(device: &Device) -> Result<(), TrialError> {
    let failed = |what| move |source: io::Error| TrialError { what, source };
    if device.alignment().is_none() {
        // A write that failed may still be in the page cache, where reads find it and a loss of memory does not: from here on
        // they are to tell what is on the disk. That is advice, and refused where there is no such cache.
        let _ = fadvise(device, 0, None, Advice::DontNeed);
    }
    let unit =
        device.alignment().map_or(SECTOR as u64, |alignment| u64::from(alignment.offset)).max(SECTOR as u64);
    let last = (device.start() + device.size()).saturating_sub(1) / unit * unit;
    for (at, what) in
        [(device.start() / unit * unit, "reading its first sector"), (last, "reading its last sector")]
    {
        read(device, at, unit).map_err(failed(what))?;
    }
    if !device.read_only() {
        fdatasync(device.as_fd()).map_err(|e| failed("flushing it")(e.into()))?;
    }
    Ok(())
}

fn read(device: &Device, at: u64, bytes: u64) -> io::Result<()> {
    let mut page = Box::new(Page([0; 4096]));
    // A unit has 4096 bytes at most; more than that is not read.
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(page.0.len());
    loop {
        match pread(device.as_fd(), &mut page.0[..bytes], at) {
            Ok(n) if n >= SECTOR => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::device::{Options, open};

    #[test]
    fn a_file_is_tried_at_both_ends() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = directory.path().join("a");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(3 * 4096 + 512).unwrap();
        for read_only in [false, true] {
            let device = open(&path, Options { read_only, ..Options::default() }).unwrap();
            test(&device).unwrap();
        }
        let device = open(&path, Options { offset: 512, length: Some(512), ..Options::default() }).unwrap();
        test(&device).unwrap();
        file.set_len(512).unwrap();
        assert_eq!(test(&device).unwrap_err().source.kind(), io::ErrorKind::UnexpectedEof);
    }
}
