//! Brings the state of slots to stable storage, one file for each slot, whole or not at all.
//!
//! ```text
//! write aside ─► fsync it ─► rename over the old one ─► fsync the directory ─► kept
//!      └──────────┴──────────────┴─► remove it              └─► put the old one back
//! ```
//!
//! Not here: what a file holds (`record`), or whose turn it is (`clerk`).
//! Invariant: a save that succeeds holds from then on; one that fails leaves what was before, and where not even that could
//! be had on the disk, it is owed ([`Store::settle`]). After a crash a slot has what was before or what was being
//! saved.

use super::record::{self, RecordError};
use crate::protocol::Address;
use crate::shelf::SlotState;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// One directory of a file system: what [`RecordStore`] asks of it. Names are in that directory.
pub trait Directory {
    /// A file that is being written.
    type File;

    /// The names of all there is.
    ///
    /// # Errors
    /// What the kernel says.
    fn list(&mut self) -> io::Result<Vec<OsString>>;

    /// The content of a file, but no more than so many bytes; `None` if there is no such file.
    ///
    /// # Errors
    /// What the kernel says; `InvalidInput` if it is no regular file.
    fn read(&mut self, name: &str, most: usize) -> io::Result<Option<Vec<u8>>>;

    /// Makes a file that was not there.
    ///
    /// # Errors
    /// What the kernel says; `AlreadyExists` if something has that name.
    fn create(&mut self, name: &str) -> io::Result<Self::File>;

    /// Writes behind what was written, and says how much.
    ///
    /// # Errors
    /// What the kernel says.
    fn write(&mut self, file: &mut Self::File, bytes: &[u8]) -> io::Result<usize>;

    /// Brings the content of a file to stable storage.
    ///
    /// # Errors
    /// What the kernel says; the content is lost then, whatever a second call says.
    fn sync(&mut self, file: &mut Self::File) -> io::Result<()>;

    /// Gives a file another name, and takes it from the one that had it, in one step.
    ///
    /// # Errors
    /// What the kernel says.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the kernel says.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// Brings the names to stable storage.
    ///
    /// # Errors
    /// What the kernel says.
    fn sync_directory(&mut self) -> io::Result<()>;
}

/// Where the state of slots is kept.
pub trait Store {
    /// Keeps this state of a slot; it is on stable storage on return.
    ///
    /// # Errors
    /// [`StoreError`]; what was kept before holds.
    fn save(&mut self, address: Address, state: &SlotState) -> Result<(), StoreError>;

    /// The state that is kept of a slot, if any is.
    ///
    /// # Errors
    /// [`LoadError`] if something is kept, but cannot be read.
    fn load(&mut self, address: Address) -> Result<Option<SlotState>, LoadError>;

    /// Tries again to put back what a failed save has replaced. Returns whether nothing is owed any more.
    fn settle(&mut self) -> bool;
}

impl<S: Store + ?Sized> Store for Box<S> {
    fn save(&mut self, address: Address, state: &SlotState) -> Result<(), StoreError> {
        (**self).save(address, state)
    }

    fn load(&mut self, address: Address) -> Result<Option<SlotState>, LoadError> {
        (**self).load(address)
    }

    fn settle(&mut self) -> bool {
        (**self).settle()
    }
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Making the new file.
    Create,
    /// Writing to it.
    Write,
    /// Bringing it to stable storage.
    Sync,
    /// Putting it in the place of the old one.
    Rename,
    /// Bringing its name to stable storage.
    SyncDirectory,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Create => "made",
            Self::Write => "written",
            Self::Sync => "brought to the disk",
            Self::Rename => "renamed",
            Self::SyncDirectory => "brought to the disk with its name",
        })
    }
}

/// A state that could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be {step}: {source}; {}{}", file.display(), remedy(source), owed(*unsettled))]
pub struct StoreError {
    /// The file.
    pub file: PathBuf,
    /// What failed.
    pub step: Step,
    /// What the kernel said.
    pub source: io::Error,
    /// Whether the file may hold what was refused; see [`Store::settle`].
    pub unsettled: bool,
}

fn remedy(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT) => "make room there",
        Some(Errno::ROFS) => {
            "the file system is read-only: see the kernel's log for why, and mount it for writing again"
        }
        Some(Errno::ACCESS | Errno::PERM) => "let this user write there",
        _ => "see the kernel's log for what is wrong with its disk",
    }
}

fn owed(unsettled: bool) -> &'static str {
    if unsettled {
        "; the file may hold what was refused, and if power fails before that is put right, it holds after a restart"
    } else {
        ""
    }
}

/// What to do about a file that cannot be read.
pub const RESTORE: &str = "bring the file back from a copy, or remove it: that forgets the config string, the mask and \
                           the reservation that hosts have set, so that everybody may write to the slot";

/// A state that is kept and cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}; {RESTORE}", file.display())]
pub struct LoadError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong.
    pub why: Unreadable,
}

/// Why a state cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The kernel does not give it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no state.
    #[error(transparent)]
    Record(#[from] RecordError),
}

fn understand(bytes: io::Result<Option<Vec<u8>>>) -> Result<Option<SlotState>, Unreadable> {
    match bytes? {
        Some(bytes) => Ok(Some(record::decode(&bytes)?)),
        None => Ok(None),
    }
}

/// The state that a directory keeps of a slot, if any; changes nothing, and needs no lock.
///
/// # Errors
/// [`LoadError`] if something is kept, but cannot be read.
pub fn look(directory: &Path, address: Address) -> Result<Option<SlotState>, LoadError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let name = file_name(address);
    let open = rustix::fs::open(directory, flags, Mode::empty()).map_err(io::Error::from);
    let bytes = open.and_then(|fd| RealDirectory(fd).read(&name, record::MOST_BYTES + 1));
    understand(bytes).map_err(|why| LoadError { file: directory.join(name), why })
}

/// The name of the file of a slot.
#[must_use]
pub fn file_name(address: Address) -> String {
    format!("{address}.state")
}

/// End of the name of a file that is being written.
const ASIDE: &str = ".state.new";

/// Files in a directory.
#[derive(Debug)]
pub struct RecordStore<D> {
    directory: D,
    /// Its name, for messages.
    path: PathBuf,
    /// What files should hold (`None`: there should be none) that a failed save has left with something else.
    owed: BTreeMap<Address, Option<Vec<u8>>>,
}

/// Files in a directory of this machine.
pub type DirectoryStore = RecordStore<RealDirectory>;

impl DirectoryStore {
    /// A store in a directory that is open; a lock on that holds as long as the store. `path` is its name, for
    /// messages.
    ///
    /// # Errors
    /// What the kernel says; `PermissionDenied` or `ReadOnlyFilesystem` when nothing could be kept there.
    pub fn in_directory(directory: OwnedFd, path: &Path) -> io::Result<Self> {
        rustix::fs::accessat(&directory, ".", rustix::fs::Access::WRITE_OK, AtFlags::EACCESS)?;
        Self::open(RealDirectory(directory), path)
    }
}

impl<D: Directory> RecordStore<D> {
    /// A store in this directory; removes what a crash has left there unfinished, and makes sure of the rest.
    ///
    /// # Errors
    /// When the directory cannot be listed, or brought to stable storage.
    pub fn open(mut directory: D, path: &Path) -> io::Result<Self> {
        for name in directory.list()? {
            if let Some(name) = name.to_str().filter(|name| name.ends_with(ASIDE)) {
                // One that stays harms nobody: `write_aside` removes it too.
                let _ = directory.remove(name);
            }
        }
        // A process that was killed may have replaced a file and not come to this: hosts will be told what is there now, so a
        // power failure may not bring back what was there before.
        directory.sync_directory()?;
        Ok(Self { directory, path: path.to_owned(), owed: BTreeMap::new() })
    }

    /// Puts these bytes in the place of what has this name.
    fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), (Step, io::Error)> {
        let aside = format!("{name}.new");
        let replaced = self
            .write_aside(&aside, bytes)
            .and_then(|()| self.directory.rename(&aside, name).map_err(|e| (Step::Rename, e)));
        if let Err(e) = replaced {
            let _ = self.directory.remove(&aside);
            return Err(e);
        }
        self.directory.sync_directory().map_err(|e| (Step::SyncDirectory, e))
    }

    fn write_aside(&mut self, aside: &str, bytes: &[u8]) -> Result<(), (Step, io::Error)> {
        let mut created = self.directory.create(aside);
        if created.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::AlreadyExists) {
            // Left by a save that failed and could not remove it.
            created = self.directory.remove(aside).and_then(|()| self.directory.create(aside));
        }
        let mut file = created.map_err(|e| (Step::Create, e))?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = match self.directory.write(&mut file, rest) {
                Ok(0) => return Err((Step::Write, io::ErrorKind::WriteZero.into())),
                Ok(written) => written,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
                Err(e) => return Err((Step::Write, e)),
            };
            rest = rest.get(written..).unwrap_or_default();
        }
        self.directory.sync(&mut file).map_err(|e| (Step::Sync, e))
    }

    /// Makes a file hold what it held before; returns whether that is on stable storage.
    fn put_back(&mut self, name: &str, before: Option<&[u8]>) -> bool {
        match before {
            Some(bytes) => self.put(name, bytes).is_ok(),
            None => {
                let gone = self.directory.remove(name);
                let gone = gone.is_ok() || gone.is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
                gone && self.directory.sync_directory().is_ok()
            }
        }
    }
}

impl<D: Directory> Store for RecordStore<D> {
    fn save(&mut self, address: Address, state: &SlotState) -> Result<(), StoreError> {
        let name = file_name(address);
        let before = match self.owed.get(&address) {
            Some(owed) => Ok(owed.clone()),
            None => self.directory.read(&name, record::MOST_BYTES + 1),
        };
        let Err((step, source)) = self.put(&name, &record::encode(state)) else {
            self.owed.remove(&address);
            return Ok(());
        };
        // Once it has the name, it is there for whoever starts next, though it may be gone after a crash.
        let mut unsettled = self.owed.contains_key(&address);
        if step == Step::SyncDirectory {
            unsettled = match before {
                Ok(before) if self.put_back(&name, before.as_deref()) => {
                    self.owed.remove(&address);
                    false
                }
                Ok(before) => {
                    self.owed.insert(address, before);
                    true
                }
                Err(_) => true,
            };
        }
        Err(StoreError { file: self.path.join(name), step, source, unsettled })
    }

    fn load(&mut self, address: Address) -> Result<Option<SlotState>, LoadError> {
        let name = file_name(address);
        let bytes = match self.owed.get(&address) {
            Some(owed) => Ok(owed.clone()),
            None => self.directory.read(&name, record::MOST_BYTES + 1),
        };
        understand(bytes).map_err(|why| LoadError { file: self.path.join(name), why })
    }

    fn settle(&mut self) -> bool {
        for (address, before) in std::mem::take(&mut self.owed) {
            if !self.put_back(&file_name(address), before.as_deref()) {
                self.owed.insert(address, before);
            }
        }
        self.owed.is_empty()
    }
}

/// A directory of this machine.
#[derive(Debug)]
pub struct RealDirectory(OwnedFd);

impl Directory for RealDirectory {
    type File = OwnedFd;

    fn list(&mut self) -> io::Result<Vec<OsString>> {
        use std::os::unix::ffi::OsStringExt as _;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            names.push(OsString::from_vec(entry?.file_name().to_bytes().to_vec()));
        }
        Ok(names)
    }

    fn read(&mut self, name: &str, most: usize) -> io::Result<Option<Vec<u8>>> {
        use std::io::Read as _;
        // Not to hang on a pipe, nor to follow a link to somewhere else.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.0, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
        if !kind.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        let mut bytes = Vec::new();
        std::fs::File::from(file).take(most as u64).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn create(&mut self, name: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?)
    }

    fn write(&mut self, file: &mut OwnedFd, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(file, bytes)?)
    }

    fn sync(&mut self, file: &mut OwnedFd) -> io::Result<()> {
        Ok(rustix::fs::fsync(file)?)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, from, &self.0, to)?)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }
}

#[cfg(test)]
mod tests;
