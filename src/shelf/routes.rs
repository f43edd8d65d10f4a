//! Which worker owns which slot.
//!
//! Not the slots themselves: those live with their owner.
//! Invariant: an address has at most one owner, and it does not change while workers run.

use crate::frame::WorkerId;
use crate::limits;
use crate::protocol::Address;

/// Where an exactly addressed request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The owner.
    pub worker: WorkerId,
    /// The slot's number with its owner.
    pub slot: u16,
}

/// The slots cannot be dealt out like that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoutesError {
    /// Two slots have the same address.
    #[error("slot {0} is given twice")]
    Twice(Address),
    /// An address no Linux initiator would accept.
    #[error("slot {0} cannot be addressed: use a shelf other than 4095 and 65535, and a slot from 0 to 254")]
    Unaddressable(Address),
}

#[derive(Clone, Debug)]
struct Shelf {
    number: u16,
    slots: Box<[Option<Route>; limits::MAX_SLOT as usize + 1]>,
}

/// The owners of all slots, shared by all workers.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// Few, so a search costs less than a table of 65,536.
    shelves: Vec<Shelf>,
}

impl Routes {
    /// Enters slots with their owners; a worker's slots are numbered in the order given.
    ///
    /// # Errors
    /// [`RoutesError`] names the address.
    pub fn new(slots: impl IntoIterator<Item = (Address, WorkerId)>) -> Result<Self, RoutesError> {
        let mut routes = Self::default();
        let mut next = Vec::new();
        for (address, worker) in slots {
            if limits::RESERVED_SHELVES.contains(&address.shelf) || address.slot > limits::MAX_SLOT {
                return Err(RoutesError::Unaddressable(address));
            }
            let at = match routes.shelves.iter().position(|s| s.number == address.shelf) {
                Some(at) => at,
                None => {
                    routes.shelves.push(Shelf {
                        number: address.shelf,
                        slots: Box::new([None; limits::MAX_SLOT as usize + 1]),
                    });
                    routes.shelves.len() - 1
                }
            };
            let w = usize::from(worker.0);
            if next.len() <= w {
                next.resize(w + 1, 0);
            }
            let entry = &mut routes.shelves[at].slots[usize::from(address.slot)];
            if entry.replace(Route { worker, slot: next[w] }).is_some() {
                return Err(RoutesError::Twice(address));
            }
            next[w] += 1;
        }
        Ok(routes)
    }

    /// The owner of an exact address.
    #[must_use]
    pub fn find(&self, address: Address) -> Option<Route> {
        let shelf = self.shelves.iter().find(|s| s.number == address.shelf)?;
        *shelf.slots.get(usize::from(address.slot))?
    }

    /// The shelves that have slots.
    pub fn shelves(&self) -> impl Iterator<Item = u16> + '_ {
        self.shelves.iter().map(|s| s.number)
    }

    /// All slots with their owners.
    pub fn all(&self) -> impl Iterator<Item = (Address, Route)> + '_ {
        self.shelves.iter().flat_map(|s| {
            (0..=limits::MAX_SLOT).filter_map(move |slot| {
                s.slots[usize::from(slot)].map(|route| (Address { shelf: s.number, slot }, route))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(shelf: u16, slot: u8) -> Address {
        Address { shelf, slot }
    }

    #[test]
    fn slots_are_found_and_numbered_by_owner() {
        let (a, b) = (WorkerId(0), WorkerId(1));
        let routes = Routes::new([(at(7, 0), a), (at(7, 254), b), (at(65534, 3), a)]).unwrap();
        assert_eq!(routes.find(at(65534, 3)), Some(Route { worker: a, slot: 1 }));
        assert_eq!(routes.find(at(7, 254)), Some(Route { worker: b, slot: 0 }));
        for none in [at(7, 1), at(8, 0), at(7, 255), at(0xffff, 0)] {
            assert_eq!(routes.find(none), None, "{none}");
        }
        assert_eq!(routes.shelves().collect::<Vec<_>>(), [7, 65534]);
        assert_eq!(routes.all().count(), 3);
    }

    #[test]
    fn an_address_is_given_once_and_can_be_reached() {
        assert!(matches!(
            Routes::new([(at(7, 0), WorkerId(0)), (at(7, 0), WorkerId(1))]),
            Err(RoutesError::Twice(_))
        ));
        for bad in [at(0x0fff, 0), at(0xffff, 0), at(7, 255)] {
            assert_eq!(Routes::new([(bad, WorkerId(0))]).err(), Some(RoutesError::Unaddressable(bad)));
        }
    }
}
