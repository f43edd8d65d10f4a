//! A directory in memory that forgets in a crash whatever a disk may forget, and fails when it is told to.
//!
//! Not here: any file system's real behaviour; this one is worse than all of them, but for one thing that all keep: a
//! rename puts a file in the place of another in one step.
//! Invariant: after a crash each name leads to what it led to at the last [`Directory::sync_directory`] or to anything it
//! was given since, and each file holds what was in it at its last [`Directory::sync`], or, if it was written since, a part
//! of that, or zeroes.

use super::store::{Directory, RecordStore};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What happens at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The step fails: no room. If it was a sync, the content is lost.
    NoRoom,
    /// The step fails: the disk. If it was a sync, the content is lost.
    Broken,
    /// The step does half of a write, or is interrupted.
    Short,
    /// The process is gone before the step; everything fails from then on.
    CrashBefore,
    /// The process is gone after the step, and does not know whether it was done.
    CrashAfter,
}

/// A handle on the directory; its clones lead to the same one.
#[derive(Clone, Debug, Default)]
pub struct SimulatedDirectory(Arc<Mutex<Disk>>);

/// A store over it.
pub type SimulatedStore = RecordStore<SimulatedDirectory>;

#[derive(Debug, Default)]
struct Disk {
    files: Vec<Content>,
    /// What each name leads to: first what is on the disk, then all it was given since.
    names: BTreeMap<String, Vec<Option<usize>>>,
    /// Bytes that all files together may have.
    room: Option<usize>,
    faults: BTreeMap<u64, Fault>,
    steps: u64,
    dead: bool,
}

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    on_disk: Vec<u8>,
    /// A sync has failed: the next one says that all is well, and it is not.
    lost: bool,
}

fn gone() -> io::Error {
    io::Error::other("the process is gone")
}

fn missing() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}

impl SimulatedDirectory {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        // A test that panicked meanwhile has failed anyway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Steps taken so far; each call of [`Directory`] that changes something or brings it to the disk is one.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.disk().steps
    }

    /// Lets this happen at a step; the first one is 0.
    pub fn fail(&self, step: u64, fault: Fault) {
        self.disk().faults.insert(step, fault);
    }

    /// Lets all files together have so many bytes; `None` for any number.
    pub fn set_room(&self, bytes: Option<usize>) {
        self.disk().room = bytes;
    }

    /// The names there are now.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let disk = self.disk();
        disk.names
            .iter()
            .filter(|(_, versions)| current(versions).is_some())
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The process ends and another starts, without faults; the machine goes on and has lost nothing.
    pub fn restart(&self) {
        let mut disk = self.disk();
        disk.faults.clear();
        disk.dead = false;
    }

    /// Loses what a crash may lose, and starts again, without faults. `choose(n)` decides among 0 to n-1.
    pub fn crash(&self, mut choose: impl FnMut(usize) -> usize) {
        let mut disk = self.disk();
        for versions in disk.names.values_mut() {
            let kept = versions.get(choose(versions.len())).copied().flatten();
            *versions = vec![kept];
        }
        for file in &mut disk.files {
            if file.now != file.on_disk {
                file.now = match choose(5) {
                    0 => file.on_disk.clone(),
                    1 => file.now.clone(),
                    2 => file.now.get(..file.now.len() / 2).unwrap_or_default().to_vec(),
                    3 => vec![0; file.now.len()],
                    _ => Vec::new(),
                };
                file.on_disk.clone_from(&file.now);
            }
            file.lost = false;
        }
        disk.faults.clear();
        disk.dead = false;
    }
}

fn current(versions: &[Option<usize>]) -> Option<usize> {
    versions.last().copied().flatten()
}

impl Disk {
    fn find(&self, name: &str) -> Option<usize> {
        self.names.get(name).and_then(|versions| current(versions))
    }

    fn name(&mut self, name: &str, file: Option<usize>) {
        self.names.entry(name.to_owned()).or_insert_with(|| vec![None]).push(file);
    }

    /// Whether the step is to be done, and what is said then.
    fn step(&mut self) -> (bool, io::Result<()>, Option<Fault>) {
        if self.dead {
            return (false, Err(gone()), None);
        }
        let fault = self.faults.remove(&self.steps);
        self.steps += 1;
        self.dead = matches!(fault, Some(Fault::CrashBefore | Fault::CrashAfter));
        let error = |code| Err(io::Error::from_raw_os_error(code));
        let (done, said) = match fault {
            None | Some(Fault::Short) => (true, Ok(())),
            Some(Fault::NoRoom) => (false, error(libc::ENOSPC)),
            Some(Fault::Broken) => (false, error(libc::EIO)),
            Some(Fault::CrashBefore) => (false, Err(gone())),
            Some(Fault::CrashAfter) => (true, Err(gone())),
        };
        (done, said, fault)
    }
}

impl Directory for SimulatedDirectory {
    /// The number of a file.
    type File = usize;

    fn list(&mut self) -> io::Result<Vec<OsString>> {
        if self.disk().dead {
            return Err(gone());
        }
        Ok(self.names().into_iter().map(OsString::from).collect())
    }

    fn read(&mut self, name: &str, most: usize) -> io::Result<Option<Vec<u8>>> {
        let disk = self.disk();
        if disk.dead {
            return Err(gone());
        }
        let content = disk.find(name).and_then(|file| disk.files.get(file));
        Ok(content.map(|content| content.now.iter().take(most).copied().collect()))
    }

    fn create(&mut self, name: &str) -> io::Result<usize> {
        let mut disk = self.disk();
        if !disk.dead && disk.find(name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let (done, said, _) = disk.step();
        let file = disk.files.len();
        if done {
            disk.files.push(Content::default());
            disk.name(name, Some(file));
        }
        said.map(|()| file)
    }

    fn write(&mut self, file: &mut usize, bytes: &[u8]) -> io::Result<usize> {
        let mut disk = self.disk();
        let (done, said, fault) = disk.step();
        let named: std::collections::BTreeSet<_> =
            disk.names.values().filter_map(|versions| current(versions)).collect();
        let used: usize =
            named.iter().filter_map(|file| disk.files.get(*file)).map(|file| file.now.len()).sum();
        let left = disk.room.map_or(usize::MAX, |room| room.saturating_sub(used));
        let written =
            bytes.len().min(left).min(if fault == Some(Fault::Short) { bytes.len() / 2 } else { usize::MAX });
        if done && written == 0 {
            let nothing = if left == 0 { libc::ENOSPC } else { libc::EINTR };
            return Err(io::Error::from_raw_os_error(nothing));
        }
        if let Some(content) = disk.files.get_mut(*file).filter(|_| done) {
            content.now.extend(bytes.iter().take(written));
        }
        said.map(|()| written)
    }

    fn sync(&mut self, file: &mut usize) -> io::Result<()> {
        let mut disk = self.disk();
        let (done, said, _) = disk.step();
        let content = disk.files.get_mut(*file).ok_or_else(missing)?;
        content.lost |= !done;
        if !content.lost {
            content.on_disk.clone_from(&content.now);
        }
        said
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        let file = disk.find(from);
        let (done, said, _) = disk.step();
        if done {
            let file = file.ok_or_else(missing)?;
            disk.name(to, Some(file));
            disk.name(from, None);
        }
        said
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        let file = disk.find(name);
        let (done, said, _) = disk.step();
        if done {
            file.ok_or_else(missing)?;
            disk.name(name, None);
        }
        said
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        let mut disk = self.disk();
        let (done, said, _) = disk.step();
        if done {
            for versions in disk.names.values_mut() {
                *versions = vec![current(versions)];
            }
        }
        said
    }
}
