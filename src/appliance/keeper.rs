//! The keeper: everything that needs privilege goes through it.
//!
//! Not here: what is done with what it gives; measuring a file that is open, or serving frames, needs no privilege.
//! Invariant: nobody else in `serve` opens a path or asks the kernel about an interface.

use crate::frame::QueueId;
use crate::initiator::{self, socket};
use crate::net::ladder::{self, EstablishError, LadderError, Mode, Rung, Standing};
use crate::net::nic;
use crate::net::steer::{Steer, SteerError};
use crate::net::xsk::{Umem, XskError, XskQueue};
use crate::storage::device::{self, Identity, OpenError, Options};
use crate::storage::health::{self, Patient, Report};
use rustix::fs::{FlockOperation, OFlags};
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// Most bytes of a file that is read whole; a configuration of 65,000 slots takes less.
const FILE_BYTES: u64 = 16 << 20;

/// Asks a disk for its health, from a thread that may wait for the answer.
pub type Examiner = Box<dyn Fn(&Patient) -> Report + Send>;

/// Opens backings, from a thread that may wait for a device.
pub trait Opener: Send + Sync {
    /// As [`Keeper::claim`].
    ///
    /// # Errors
    /// [`OpenError`]
    fn claim(&self, path: &Path, options: Options) -> Result<OwnedFd, OpenError>;

    /// As [`Keeper::open_again`].
    ///
    /// # Errors
    /// [`OpenError`]
    fn open_again(
        &self,
        claimed: BorrowedFd<'_>,
        path: &Path,
        options: Options,
    ) -> Result<OwnedFd, OpenError>;
}

/// What needs privilege. In-process today ([`DirectKeeper`]); every answer is plain data, a descriptor, or descriptors
/// with what is known of them, so that a small privileged process can give it as well.
pub trait Keeper {
    /// Reads a configuration or state file.
    ///
    /// # Errors
    /// What the kernel says, and `FileTooLarge` beyond 16 MiB.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Which backing a path leads to.
    ///
    /// # Errors
    /// [`OpenError`]
    fn identify(&self, path: &Path) -> Result<Identity, OpenError>;

    /// Opens a backing and claims it for this process.
    ///
    /// # Errors
    /// [`OpenError`]
    fn claim(&self, path: &Path, options: Options) -> Result<OwnedFd, OpenError>;

    /// Opens a backing once more that `claimed` holds, for another slot that serves another part of it.
    ///
    /// # Errors
    /// [`OpenError`]
    fn open_again(
        &self,
        claimed: BorrowedFd<'_>,
        path: &Path,
        options: Options,
    ) -> Result<OwnedFd, OpenError>;

    /// Makes the state directory if need be, and locks it; the lock ends with the descriptor.
    ///
    /// # Errors
    /// What the kernel says; `WouldBlock` when another process has locked it.
    fn lock_directory(&self, path: &Path) -> io::Result<OwnedFd>;

    /// Facts about an interface.
    ///
    /// # Errors
    /// [`nic::NicError`]
    fn facts(&self, interface: &str) -> Result<nic::Facts, nic::NicError>;

    /// What of an interface may have changed.
    ///
    /// # Errors
    /// [`nic::NicError`]
    fn link(&self, interface: &str) -> Result<nic::Link, nic::NicError>;

    /// Who opens backings that come back.
    fn opener(&self) -> Arc<dyn Opener>;

    /// Who asks disks for their health.
    fn examiner(&self) -> Examiner;

    /// Attaches the XDP program in the best mode that is allowed.
    ///
    /// # Errors
    /// [`LadderError`]; nothing is attached then.
    fn establish(
        &self,
        facts: &nic::Facts,
        mode: Mode,
    ) -> Result<(Steer, Standing), LadderError<EstablishError>>;

    /// Attaches the XDP program of a port again that somebody else has detached, or replaced by another.
    ///
    /// # Errors
    /// [`SteerError`]; it may be tried again.
    fn reattach(&self, steer: &mut Steer, facts: &nic::Facts) -> Result<(), SteerError>;

    /// Opens a packet socket for Query Config on an interface, tagged with this VLAN if one is named.
    ///
    /// # Errors
    /// [`initiator::Error`]
    fn listen(&self, interface: &str, vlan: Option<u16>) -> Result<socket::Port, initiator::Error>;

    /// Binds an AF_XDP socket to a receive queue.
    ///
    /// # Errors
    /// [`XskError`]
    fn bind(
        &self,
        umem: &Umem,
        id: QueueId,
        facts: &nic::Facts,
        queue: u32,
        rung: Rung,
    ) -> Result<XskQueue, XskError>;
}

/// Does it itself, with the rights of this process.
#[derive(Clone, Copy, Debug)]
pub struct DirectKeeper;

impl Opener for DirectKeeper {
    fn claim(&self, path: &Path, options: Options) -> Result<OwnedFd, OpenError> {
        device::claim(path, options)
    }

    fn open_again(
        &self,
        claimed: BorrowedFd<'_>,
        path: &Path,
        options: Options,
    ) -> Result<OwnedFd, OpenError> {
        device::open_again(claimed, path, options)
    }
}

impl Keeper for DirectKeeper {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(FILE_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 16 MiB"));
        }
        Ok(bytes)
    }

    fn identify(&self, path: &Path) -> Result<Identity, OpenError> {
        device::identity(path)
    }

    fn claim(&self, path: &Path, options: Options) -> Result<OwnedFd, OpenError> {
        device::claim(path, options)
    }

    fn open_again(
        &self,
        claimed: BorrowedFd<'_>,
        path: &Path,
        options: Options,
    ) -> Result<OwnedFd, OpenError> {
        device::open_again(claimed, path, options)
    }

    fn lock_directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &Path| rustix::fs::open(path, flags, rustix::fs::Mode::empty());
        match rustix::fs::mkdir(path, rustix::fs::Mode::from_raw_mode(0o700)) {
            Ok(()) => {
                // What is kept in a directory is lost with it, if power fails before its name is on the disk.
                let above = path.parent().filter(|above| !above.as_os_str().is_empty());
                rustix::fs::fsync(open(above.unwrap_or(Path::new(".")))?)?;
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        let directory = open(path)?;
        rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
        Ok(directory)
    }

    fn facts(&self, interface: &str) -> Result<nic::Facts, nic::NicError> {
        nic::facts(interface)
    }

    fn link(&self, interface: &str) -> Result<nic::Link, nic::NicError> {
        nic::link(interface)
    }

    fn opener(&self) -> Arc<dyn Opener> {
        Arc::new(*self)
    }

    fn examiner(&self) -> Examiner {
        Box::new(health::examine)
    }

    fn establish(
        &self,
        facts: &nic::Facts,
        mode: Mode,
    ) -> Result<(Steer, Standing), LadderError<EstablishError>> {
        ladder::establish(facts, mode)
    }

    fn reattach(&self, steer: &mut Steer, facts: &nic::Facts) -> Result<(), SteerError> {
        steer.reattach(facts)
    }

    fn listen(&self, interface: &str, vlan: Option<u16>) -> Result<socket::Port, initiator::Error> {
        let options =
            socket::Options { vlan, headers_only: true, config_only: true, ..socket::Options::default() };
        socket::Port::open(interface, options)
    }

    fn bind(
        &self,
        umem: &Umem,
        id: QueueId,
        facts: &nic::Facts,
        queue: u32,
        rung: Rung,
    ) -> Result<XskQueue, XskError> {
        umem.bind(id, facts, queue, rung)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_is_made_once_and_locked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let lock = DirectKeeper.lock_directory(&path).unwrap();
        assert_eq!(DirectKeeper.lock_directory(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        let _lock = DirectKeeper.lock_directory(&path).unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(DirectKeeper.lock_directory(&file).is_err());
    }

    #[test]
    fn files_are_read_up_to_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "a = 1").unwrap();
        assert_eq!(DirectKeeper.read(&path).unwrap(), b"a = 1");
        std::fs::File::create(&path).unwrap().set_len(FILE_BYTES + 1).unwrap();
        assert_eq!(DirectKeeper.read(&path).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        // Endless, and still bounded.
        assert!(DirectKeeper.read(Path::new("/dev/zero")).is_err());
    }
}
