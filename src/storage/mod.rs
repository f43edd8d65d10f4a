//! The storage port: reads, writes, flushes and discards of files and devices, by number, in bytes.
//!
//! Not here: ATA, slots, frames. `uring` is the kernel's side, `device` opens and measures what it serves,
//! `memory` is the double.
//! Invariant: a job accepted by `submit` comes back from `reap` exactly once, with its buffer, whatever happens;
//! and it succeeded only if every byte was transferred (and is durable, where that was asked for).

pub mod device;
pub mod health;
mod ioctl;
pub mod memory;
pub mod trial;
pub mod uring;

pub use device::Device;
pub use memory::MemoryStorage;
pub use uring::UringStorage;

use crate::frame::Buffer;

/// Number of a file or device of one worker's storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(pub u16);

/// The caller's name for a job; comes back with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u32);

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Fill the buffer from the file.
    Read,
    /// Write the buffer to the file. Durable before completion unless the file was opened as write-back.
    Write,
    /// As [`Verb::Write`], but durable before completion even where the file was opened as write-back.
    WriteThrough,
    /// Make every write completed before durable.
    Flush,
    /// Free the range: it reads as zeroes afterwards, durably where writes are. The buffer is not touched, and may be
    /// none. Only where [`Device::trims`].
    Discard,
}

impl Verb {
    /// Whether bytes move between buffer and file.
    #[must_use]
    pub const fn transfers(self) -> bool {
        matches!(self, Self::Read | Self::Write | Self::WriteThrough)
    }

    /// Whether bytes move from buffer to file.
    #[must_use]
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::WriteThrough)
    }
}

/// One transfer. `offset` and `len` are bytes; `at` is where the data starts in the buffer.
#[derive(Debug)]
#[must_use = "a job is submitted, or its buffer is taken back"]
pub struct Job {
    /// The caller's name for it.
    pub ticket: Ticket,
    /// Where to.
    pub file: FileId,
    /// What.
    pub verb: Verb,
    /// First byte in what is served of the file; 0 for a flush.
    pub offset: u64,
    /// The memory, owned by the storage until the job is done.
    pub buffer: Buffer,
    /// First byte in the buffer.
    pub at: u32,
    /// Bytes; 0 for a flush.
    pub len: u32,
}

/// Why a job failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The kernel said so; the value is the errno.
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    Errno(i32),
    /// The flush behind a write or discard failed, or the writing of a unit of which only a part was to be discarded: more
    /// than the job's own bytes may be lost. The value is the errno.
    #[error("making it durable: {}", std::io::Error::from_raw_os_error(*.0))]
    Unsynced(i32),
    /// Nothing was written, because the rest of the unit that the device writes as a whole could not be read; the value is
    /// the errno.
    #[error("reading the rest of the unit: {}", std::io::Error::from_raw_os_error(*.0))]
    Unread(i32),
    /// Nothing more could be transferred: the file is shorter than it was.
    #[error("the file ended early")]
    Short,
}

impl Failure {
    /// Whether the device has vanished: nothing of it can be read or written any more, also not at another place.
    #[must_use]
    pub const fn is_gone(self) -> bool {
        matches!(
            self.errno(),
            // The device, its driver's end of it, its medium, and our registration of it.
            Some(libc::ENODEV | libc::ENXIO | libc::ESHUTDOWN | libc::ENOMEDIUM | libc::EBADF)
            // The file on its server (NFS), and the server of the file system (FUSE).
            | Some(libc::ESTALE | libc::ENOTCONN | libc::ECONNABORTED)
        )
    }

    /// Whether there was no room for what was to be written: nothing that was there before is damaged.
    #[must_use]
    pub const fn is_full(self) -> bool {
        // Not of a flush after a discard: what it could not write may be anything.
        matches!(self, Self::Errno(libc::ENOSPC | libc::EDQUOT | libc::EFBIG))
    }

    /// What the kernel said; `None` where it did not.
    #[must_use]
    pub const fn errno(self) -> Option<i32> {
        match self {
            Self::Errno(errno) | Self::Unsynced(errno) | Self::Unread(errno) => Some(errno),
            Self::Short => None,
        }
    }
}

/// A job that ended.
#[derive(Debug)]
#[must_use = "a completion returns a buffer and obliges to an answer"]
pub struct Done {
    /// The name given at submit.
    pub ticket: Ticket,
    /// The memory given at submit.
    pub buffer: Buffer,
    /// How it ended.
    pub result: Result<(), Failure>,
}

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Something happened, or may have.
    Event,
    /// The time was up.
    Timeout,
}

/// The storage of one worker, used by that worker only.
pub trait Storage {
    /// Accepts a job; it starts at the latest with the next [`Storage::turn`].
    ///
    /// # Errors
    /// Gives the job back when no more can be in flight.
    fn submit(&mut self, job: Job) -> Result<(), Job>;

    /// Hands what was submitted to the kernel and lets it run completions, without blocking.
    fn turn(&mut self);

    /// Takes up to `most` completions. Returns how many.
    fn reap(&mut self, most: usize, sink: &mut dyn FnMut(Done)) -> usize;

    /// Jobs accepted and not yet reaped.
    fn in_flight(&self) -> usize;

    /// The buffer of a write that is accepted and not yet reaped, to be read: the storage only reads it as well. `None` when
    /// there is no such write, and for a job that is no write unless it has ended.
    fn lent(&self, ticket: Ticket) -> Option<&Buffer>;

    /// So many bytes of the file are served from now on, because it has grown or shrunk: jobs beyond fail with
    /// [`Failure::Short`], jobs up to there no longer do.
    fn resized(&mut self, file: FileId, bytes: u64);

    /// What can be behind a file's number.
    type Backing: Send + 'static
    where
        Self: Sized;

    /// Puts another backing behind a file's number, or none; jobs for a number without fail with EBADF. Gives the one that
    /// was there: closing it can take as long as it likes, so drop it where that stalls nobody.
    ///
    /// # Errors
    /// Gives the new one back, and keeps the old one, when jobs of the file are in flight or the kernel refuses.
    fn replace(
        &mut self,
        file: FileId,
        new: Option<Self::Backing>,
    ) -> Result<Option<Self::Backing>, Option<Self::Backing>>
    where
        Self: Sized;
}

/// A storage that can put its worker to sleep.
pub trait Sleep {
    /// Sleeps until a completion, a descriptor that is watched, or the end of `timeout`. Returns at once when
    /// completions are there already.
    fn sleep(&mut self, timeout: std::time::Duration) -> Woken;

    /// Lets the end of it wait until the kernel has answered all that it has, as long as a device takes for that. Nothing
    /// can be carried out late then, once it has ended.
    fn end_patiently(&mut self);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart() {
        for (failure, gone, full) in [
            (Failure::Errno(libc::ENODEV), true, false),
            (Failure::Errno(libc::ENXIO), true, false),
            (Failure::Errno(libc::EBADF), true, false),
            (Failure::Errno(libc::ENOMEDIUM), true, false),
            (Failure::Errno(libc::ESTALE), true, false),
            (Failure::Errno(libc::ENOTCONN), true, false),
            (Failure::Errno(libc::ECONNABORTED), true, false),
            (Failure::Errno(libc::ESHUTDOWN), true, false),
            (Failure::Unsynced(libc::ENODEV), true, false),
            (Failure::Errno(libc::ENOSPC), false, true),
            (Failure::Errno(libc::EDQUOT), false, true),
            (Failure::Errno(libc::EFBIG), false, true),
            (Failure::Unsynced(libc::ENOSPC), false, false),
            (Failure::Unread(libc::EIO), false, false),
            (Failure::Unread(libc::ENXIO), true, false),
            (Failure::Errno(libc::EIO), false, false),
            (Failure::Errno(libc::ETIMEDOUT), false, false),
            (Failure::Errno(libc::EROFS), false, false),
            (Failure::Short, false, false),
        ] {
            assert_eq!((failure.is_gone(), failure.is_full()), (gone, full), "{failure:?}");
        }
    }
}
