//! The store of a process, over all its starts in place: opened once, and read once for each slot.
//!
//! Not here: keeping anything (`store`).
//! Invariant: a start in place neither opens the directory nor waits for its disk; a slot comes up with what was kept last,
//! and where the store was lost nothing is kept any more, and each change is refused.

use super::store::{LoadError, Step, Store, StoreError, file_name};
use crate::protocol::Address;
use crate::shelf::SlotState;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A way to the store; a clone is another way to the same one.
#[derive(Clone)]
pub struct Lasting {
    /// Its name, for messages.
    directory: PathBuf,
    /// Until its disk does not answer.
    store: Option<Arc<Mutex<Box<dyn Store + Send>>>>,
    /// What is kept of each slot that was read or saved.
    kept: Arc<Mutex<BTreeMap<Address, Option<SlotState>>>>,
}

impl Lasting {
    /// The store of this directory.
    #[must_use]
    pub fn new(directory: PathBuf, store: impl Store + Send + 'static) -> Self {
        Self { directory, store: Some(Arc::new(Mutex::new(Box::new(store)))), kept: Arc::default() }
    }

    /// Whoever was saving last still waits for the disk, and has the store: nobody else waits for that.
    pub fn abandon(&mut self) {
        self.store = None;
    }

    fn lost(&self) -> io::Error {
        let text = format!(
            "the disk of {} has not answered before; when it does, start xshelf again",
            self.directory.display()
        );
        io::Error::new(io::ErrorKind::TimedOut, text)
    }
}

fn lock<T: ?Sized>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in it is whole at any moment; a store that panicked in the middle has said nothing.
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store for Lasting {
    fn save(&mut self, address: Address, state: &SlotState) -> Result<(), StoreError> {
        let Some(store) = &self.store else {
            let file = self.directory.join(file_name(address));
            return Err(StoreError { file, step: Step::Create, source: self.lost(), unsettled: false });
        };
        lock(store).save(address, state)?;
        lock(&self.kept).insert(address, Some(state.clone()));
        Ok(())
    }

    fn load(&mut self, address: Address) -> Result<Option<SlotState>, LoadError> {
        if let Some(kept) = lock(&self.kept).get(&address) {
            return Ok(kept.clone());
        }
        let Some(store) = &self.store else {
            let file = self.directory.join(file_name(address));
            return Err(LoadError { file, why: self.lost().into() });
        };
        let kept = lock(store).load(address)?;
        lock(&self.kept).insert(address, kept.clone());
        Ok(kept)
    }

    fn settle(&mut self) -> bool {
        self.store.as_ref().is_none_or(|store| lock(store).settle())
    }
}

#[cfg(test)]
mod tests {
    use super::super::simulated::{Fault, SimulatedDirectory};
    use super::super::store::RecordStore;
    use super::*;
    use std::path::Path;

    const A: Address = Address { shelf: 7, slot: 0 };
    const B: Address = Address { shelf: 7, slot: 1 };

    #[test]
    fn the_next_start_reads_no_disk_and_without_one_nothing_is_kept() {
        let directory = SimulatedDirectory::default();
        let store = RecordStore::open(directory.clone(), Path::new("/state")).unwrap();
        let (mine, other) = (SlotState::with_config_string(b"mine"), SlotState::with_config_string(b"other"));
        let mut first = Lasting::new("/state".into(), store);
        assert_eq!(first.load(A).unwrap(), None);
        first.save(A, &mine).unwrap();
        // What a save has refused is not in force, and comes up in no later start.
        directory.fail(directory.steps() + 2, Fault::Broken);
        assert!(first.save(A, &other).is_err());
        let mut next = first.clone();
        drop(first);
        // From here on the directory answers nothing.
        directory.fail(directory.steps(), Fault::CrashBefore);
        assert!(next.save(A, &other).is_err());
        assert_eq!(next.load(A).unwrap(), Some(mine.clone()));
        assert!(next.load(B).is_err());
        directory.restart();
        assert_eq!(next.load(B).unwrap(), None);
        next.abandon();
        assert_eq!((next.load(A).unwrap(), next.load(B).unwrap()), (Some(mine), None));
        let error = next.save(B, &other).unwrap_err();
        assert!(!error.unsettled && error.to_string().contains("start xshelf again"), "{error}");
        assert!(next.load(Address { shelf: 7, slot: 2 }).is_err() && next.settle());
    }
}
