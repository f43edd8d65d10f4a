//! Where the state of slots is kept when no directory is given: in memory, for as long as the process runs.
//!
//! Not durable: who wants that gives a state directory (`store`).
//! Invariant: what an appliance keeps here, the next one in the same process finds.

use super::store::{LoadError, Store, StoreError};
use crate::protocol::Address;
use crate::shelf::SlotState;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The states; a clone is another way to the same.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<BTreeMap<Address, SlotState>>>);

impl Memory {
    fn states(&self) -> std::sync::MutexGuard<'_, BTreeMap<Address, SlotState>> {
        // What is in it is whole at any moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Memory {
    fn save(&mut self, address: Address, state: &SlotState) -> Result<(), StoreError> {
        self.states().insert(address, state.clone());
        Ok(())
    }

    fn load(&mut self, address: Address) -> Result<Option<SlotState>, LoadError> {
        Ok(self.states().get(&address).cloned())
    }

    fn settle(&mut self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_one_finds_what_was_kept() {
        let memory = Memory::default();
        let (slot, other) = (Address { shelf: 7, slot: 0 }, Address { shelf: 7, slot: 1 });
        let state = SlotState::with_config_string(b"mine");
        assert!(memory.clone().load(slot).unwrap().is_none());
        memory.clone().save(slot, &state).unwrap();
        assert_eq!(memory.clone().load(slot).unwrap(), Some(state));
        assert!(memory.clone().load(other).unwrap().is_none() && memory.clone().settle());
    }
}
