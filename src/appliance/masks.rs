//! Who may talk to each slot, brought into the XDP programs of all ports.
//!
//! Not the judge: a slot's owner checks every frame itself, at once and exactly. This keeps frames of others from user
//! space.
//! Invariant: whoever may talk to a slot by the list in force or by the one that is about to be passes at any moment;
//! what cannot be told a program leaves the slot open there.

use crate::appliance::state::clerk::MaskHook;
use crate::net::steer::{SlotMaps, SteerError};
use crate::protocol::{Address, Mac};
use crate::shelf::SlotState;
use std::collections::{BTreeMap, BTreeSet};

/// Who may talk to a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Talkers {
    /// Any host.
    Everybody,
    /// These; if there are none, nobody.
    Only(BTreeSet<Mac>),
}

impl Talkers {
    /// Combines the list of the configuration and the one hosts have set over the wire. An empty list forbids nobody;
    /// where both have entries, a host has to be in both.
    #[must_use]
    pub fn of(allow: &[Mac], mask: &[Mac]) -> Self {
        let set = |list: &[Mac]| list.iter().copied().collect::<BTreeSet<_>>();
        match (allow, mask) {
            ([], []) => Self::Everybody,
            (list, []) | ([], list) => Self::Only(set(list)),
            (allow, mask) => Self::Only(&set(allow) & &set(mask)),
        }
    }

    /// Whether this host may.
    #[must_use]
    pub fn include(&self, mac: Mac) -> bool {
        match self {
            Self::Everybody => true,
            Self::Only(list) => list.contains(&mac),
        }
    }
}

/// One change of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Allow(Mac),
    Disallow(Mac),
    Masked(bool),
}

/// What the programs hold of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    masked: bool,
    hosts: BTreeSet<Mac>,
}

impl Held {
    /// Whether frames of this host pass.
    #[cfg(test)]
    fn passes(&self, mac: Mac) -> bool {
        !self.masked || self.hosts.contains(&mac)
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Allow(mac) => drop(self.hosts.insert(mac)),
            Step::Disallow(mac) => drop(self.hosts.remove(&mac)),
            Step::Masked(masked) => self.masked = masked,
        }
    }
}

/// The steps after which all of `next` pass, besides those who do now.
fn to_widen(held: &Held, next: &Talkers) -> Vec<Step> {
    match next {
        _ if !held.masked => Vec::new(),
        Talkers::Everybody => vec![Step::Masked(false)],
        Talkers::Only(hosts) => hosts.difference(&held.hosts).map(|mac| Step::Allow(*mac)).collect(),
    }
}

/// The steps after which only those of `next` pass. They pass in between, too, if they do now.
fn to_narrow(held: &Held, next: &Talkers) -> Vec<Step> {
    let nobody = BTreeSet::new();
    let (masked, hosts) = match next {
        Talkers::Everybody => (false, &nobody),
        Talkers::Only(hosts) => (true, hosts),
    };
    // Open first, close last.
    let mut steps: Vec<Step> = hosts.difference(&held.hosts).map(|mac| Step::Allow(*mac)).collect();
    if held.masked != masked {
        steps.push(Step::Masked(masked));
    }
    steps.extend(held.hosts.difference(hosts).map(|mac| Step::Disallow(*mac)));
    steps
}

/// Where a mask can be put: the program of one port.
pub trait Gate {
    /// Makes a slot and its VLAN known.
    ///
    /// # Errors
    /// What the kernel says.
    fn set_slot(&self, slot: Address, vlan: u16) -> Result<(), SteerError>;
    /// Closes a slot to all but those allowed, or opens it.
    ///
    /// # Errors
    /// What the kernel says.
    fn set_masked(&self, slot: Address, masked: bool) -> Result<(), SteerError>;
    /// Allows a host.
    ///
    /// # Errors
    /// What the kernel says, that there is no room among it.
    fn allow(&self, slot: Address, mac: Mac) -> Result<(), SteerError>;
    /// Takes that back.
    ///
    /// # Errors
    /// What the kernel says.
    fn disallow(&self, slot: Address, mac: Mac) -> Result<(), SteerError>;
}

impl Gate for SlotMaps {
    fn set_slot(&self, slot: Address, vlan: u16) -> Result<(), SteerError> {
        self.set_slot(slot, vlan)
    }
    fn set_masked(&self, slot: Address, masked: bool) -> Result<(), SteerError> {
        self.set_masked(slot, masked)
    }
    fn allow(&self, slot: Address, mac: Mac) -> Result<(), SteerError> {
        self.allow(slot, mac)
    }
    fn disallow(&self, slot: Address, mac: Mac) -> Result<(), SteerError> {
        self.disallow(slot, mac)
    }
}

/// One slot, for [`MaskMaps::add`].
#[derive(Clone, Copy, Debug)]
pub struct Resident<'a> {
    /// Its address.
    pub slot: Address,
    /// Its VLAN, 0 for none.
    pub vlan: u16,
    /// The list of the configuration.
    pub allow: &'a [Mac],
    /// The list hosts have set.
    pub mask: &'a [Mac],
}

/// What is known of a slot.
#[derive(Debug)]
struct Entry {
    allow: Vec<Mac>,
    held: Held,
}

/// The masks of all slots in the programs of all ports.
#[derive(Debug)]
pub struct MaskMaps<G = SlotMaps> {
    ports: Vec<G>,
    slots: BTreeMap<Address, Entry>,
    /// Slots that are open in the programs for want of room there, ever.
    opened: u64,
}

impl<G: Gate> MaskMaps<G> {
    /// For these ports; no slot is known yet.
    #[must_use]
    pub const fn new(ports: Vec<G>) -> Self {
        Self { ports, slots: BTreeMap::new(), opened: 0 }
    }

    /// Makes a slot known, with its lists. To be called before sockets are inserted.
    pub fn add(&mut self, resident: Resident<'_>) {
        let Resident { slot, vlan, allow, mask } = resident;
        if let Err(error) = self.ports.iter().try_for_each(|port| port.set_slot(slot, vlan)) {
            self.full(slot, &error);
            // Not known there, it is open there.
            return;
        }
        self.slots.insert(slot, Entry { allow: allow.to_vec(), held: Held::default() });
        self.narrow(slot, mask);
    }

    /// A new list of hosts for a slot is about to come into force: from now on they pass, too. Nothing may be promised to
    /// them before.
    pub fn widen(&mut self, slot: Address, mask: &[Mac]) {
        self.change(slot, mask, to_widen);
    }

    /// This list of hosts is in force for a slot: only they pass, as far as the configuration allows them.
    pub fn narrow(&mut self, slot: Address, mask: &[Mac]) {
        self.change(slot, mask, to_narrow);
    }

    fn change(&mut self, slot: Address, mask: &[Mac], steps: fn(&Held, &Talkers) -> Vec<Step>) {
        let Some(entry) = self.slots.get_mut(&slot) else { return };
        for step in steps(&entry.held, &Talkers::of(&entry.allow, mask)) {
            // Recorded in any case: whatever reached some of the ports has to be taken back from them.
            entry.held.apply(step);
            let result = self.ports.iter().try_for_each(|port| match step {
                Step::Allow(mac) => port.allow(slot, mac),
                Step::Disallow(mac) => port.disallow(slot, mac),
                Step::Masked(masked) => port.set_masked(slot, masked),
            });
            if let Err(error) = result {
                self.open(slot);
                self.full(slot, &error);
                return;
            }
        }
    }

    /// Takes a slot's mask off all ports.
    fn open(&mut self, slot: Address) {
        let Some(entry) = self.slots.get_mut(&slot) else { return };
        let held = std::mem::take(&mut entry.held);
        for port in &self.ports {
            if let Err(error) = port.set_masked(slot, false) {
                tracing::error!(
                    "slot {slot}: its mask cannot be taken off the XDP program: {error}; restart xshelf"
                );
            }
            for mac in &held.hosts {
                // What stays behind takes room and does no harm.
                let _ = port.disallow(slot, *mac);
            }
        }
    }

    fn full(&mut self, slot: Address, error: &SteerError) {
        self.opened += 1;
        if self.opened == 1 {
            tracing::warn!(
                "slot {slot}: the XDP program cannot hold its mask ({error}); frames of hosts that it keeps out \
                 are dropped later, which costs time and nothing else (said once, other slots may be affected)"
            );
        }
    }

    /// How often a mask did not fit into the programs.
    #[must_use]
    pub const fn opened(&self) -> u64 {
        self.opened
    }
}

impl MaskHook for MaskMaps {
    fn widen(&mut self, slot: Address, _: &SlotState, new: &SlotState) {
        // What the old one admits is what the programs hold.
        self.widen(slot, &new.mask);
    }

    fn narrow(&mut self, slot: Address, state: &SlotState) {
        self.narrow(slot, &state.mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::io;

    const SLOT: Address = Address { shelf: 7, slot: 0 };

    fn mac(n: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, n])
    }

    fn macs(list: &[u8]) -> Vec<Mac> {
        list.iter().copied().map(mac).collect()
    }

    /// A port's maps with room for so many hosts; checks after each change that nobody is stopped who must pass.
    #[derive(Debug, Default)]
    struct Port {
        room: usize,
        slots: RefCell<BTreeMap<Address, Held>>,
        must_pass: RefCell<Vec<Talkers>>,
    }

    impl Port {
        fn with(&self, slot: Address, step: Step) -> Result<(), SteerError> {
            let mut slots = self.slots.borrow_mut();
            let used: usize = slots.values().map(|held| held.hosts.len()).sum();
            let held = slots.entry(slot).or_default();
            if matches!(step, Step::Allow(mac) if !held.hosts.contains(&mac)) && used >= self.room {
                let source = io::Error::from_raw_os_error(libc::E2BIG);
                return Err(SteerError::Kernel { interface: "eth1".into(), what: "allow", source });
            }
            held.apply(step);
            for talkers in self.must_pass.borrow().iter() {
                for n in 0..8 {
                    assert!(!talkers.include(mac(n)) || held.passes(mac(n)), "{n} is stopped by {step:?}");
                }
            }
            Ok(())
        }
        fn passing(&self, slot: Address) -> Vec<u8> {
            let slots = self.slots.borrow();
            (0..8).filter(|n| slots.get(&slot).is_none_or(|held| held.passes(mac(*n)))).collect()
        }
    }

    impl Gate for &Port {
        fn set_slot(&self, slot: Address, _: u16) -> Result<(), SteerError> {
            self.slots.borrow_mut().entry(slot).or_default();
            Ok(())
        }
        fn set_masked(&self, slot: Address, masked: bool) -> Result<(), SteerError> {
            self.with(slot, Step::Masked(masked))
        }
        fn allow(&self, slot: Address, mac: Mac) -> Result<(), SteerError> {
            self.with(slot, Step::Allow(mac))
        }
        fn disallow(&self, slot: Address, mac: Mac) -> Result<(), SteerError> {
            self.with(slot, Step::Disallow(mac))
        }
    }

    #[test]
    fn both_lists_count_and_an_empty_one_does_not() {
        let of = |a: &[u8], b: &[u8]| Talkers::of(&macs(a), &macs(b));
        let only = |list: &[u8]| Talkers::Only(macs(list).into_iter().collect());
        assert_eq!(of(&[], &[]), Talkers::Everybody);
        assert_eq!(of(&[1, 2], &[]), only(&[1, 2]));
        assert_eq!(of(&[], &[3, 1]), only(&[1, 3]));
        assert_eq!(of(&[1, 2], &[2, 3]), only(&[2]));
        // They have nobody in common: nobody may, which is not everybody.
        assert_eq!(of(&[1], &[2]), only(&[]));
        assert!(!of(&[1], &[2]).include(mac(1)) && of(&[], &[]).include(mac(1)));
    }

    fn list() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0u8..8, 0..6)
    }

    proptest! {
        #[test]
        fn old_and_new_pass_until_the_new_list_is_in_force(
            allow in list(), first in list(), changes in prop::collection::vec((list(), any::<bool>()), 1..6), room in 0usize..12,
        ) {
            let ports = [Port { room, ..Port::default() }, Port { room: 6, ..Port::default() }];
            let mut maps = MaskMaps::new(ports.iter().collect::<Vec<_>>());
            let allow = macs(&allow);
            let must_pass = |lists: &[&[u8]]| {
                for port in &ports {
                    *port.must_pass.borrow_mut() =
                        lists.iter().map(|list| Talkers::of(&allow, &macs(list))).collect();
                }
            };
            must_pass(&[&first]);
            maps.add(Resident { slot: SLOT, vlan: 0, allow: &allow, mask: &macs(&first) });
            let mut now = first;
            for (next, kept) in changes {
                must_pass(&[&now]);
                maps.widen(SLOT, &macs(&next));
                // Both pass, wherever they may be let through now.
                for port in &ports {
                    let passing = port.passing(SLOT);
                    for n in 0..8 {
                        let may = [&now, &next].iter().any(|list| Talkers::of(&allow, &macs(list)).include(mac(n)));
                        prop_assert!(!may || passing.contains(&n));
                    }
                }
                // It could not be stored: the old one stands.
                if kept {
                    now = next;
                }
                must_pass(&[&now]);
                let before = maps.opened();
                maps.narrow(SLOT, &macs(&now));
                let talkers = Talkers::of(&allow, &macs(&now));
                let all: Vec<u8> = (0..8).collect();
                let want: Vec<u8> = all.iter().copied().filter(|n| talkers.include(mac(*n))).collect();
                for port in &ports {
                    let open = maps.opened() > before || talkers == Talkers::Everybody;
                    prop_assert_eq!(&port.passing(SLOT), if open { &all } else { &want });
                    // Nothing is left behind that takes room.
                    let hosts = if open { 0 } else { want.len() };
                    prop_assert_eq!(port.slots.borrow()[&SLOT].hosts.len(), hosts);
                }
            }
        }
    }

    #[test]
    fn the_clerk_changes_the_list_of_hosts_and_not_that_of_the_configuration() {
        // As the clerk calls it.
        let mut maps: MaskMaps = MaskMaps::new(Vec::new());
        maps.add(Resident { slot: SLOT, vlan: 0, allow: &[mac(1)], mask: &[] });
        let state =
            |list: &[u8]| SlotState { mask: macs(list).into_iter().collect(), ..SlotState::default() };
        MaskHook::widen(&mut maps, SLOT, &state(&[]), &state(&[1, 2]));
        MaskHook::narrow(&mut maps, SLOT, &state(&[1, 2]));
        let held = &maps.slots[&SLOT].held;
        assert!(held.masked && held.hosts.iter().copied().eq([mac(1)]), "{held:?}");
        MaskHook::narrow(&mut maps, SLOT, &state(&[2]));
        assert!(maps.slots[&SLOT].held.hosts.is_empty() && maps.opened() == 0);
    }

    #[test]
    fn what_does_not_fit_leaves_its_slot_open_and_others_closed() {
        let port = Port { room: 3, ..Port::default() };
        let mut maps = MaskMaps::new(vec![&port]);
        let slot = |slot| Address { shelf: 7, slot };
        let add = |maps: &mut MaskMaps<_>, n, list: &[u8]| {
            maps.add(Resident { slot: slot(n), vlan: 0, allow: &macs(list), mask: &[] });
        };
        add(&mut maps, 0, &[1, 2]);
        add(&mut maps, 1, &[3, 4]);
        assert_eq!((port.passing(slot(0)), port.passing(slot(1)).len(), maps.opened()), (vec![1, 2], 8, 1));
        add(&mut maps, 2, &[5]);
        assert_eq!(port.passing(slot(2)), [5]);
        // Room came: the next change closes it.
        maps.narrow(slot(0), &[mac(1)]);
        maps.narrow(slot(1), &[mac(3)]);
        assert_eq!((port.passing(slot(0)), port.passing(slot(1)), maps.opened()), (vec![1], vec![3], 1));
        // A slot that was never added stops nobody.
        maps.widen(slot(9), &[mac(1)]);
        maps.narrow(slot(9), &[mac(1)]);
        assert_eq!(port.passing(slot(9)).len(), 8);
    }
}
