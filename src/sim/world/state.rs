//! The state of slots - strings, masks, reservations - and the store of production over a directory that forgets.
//!
//! Not here: what a slot makes of a change (`shelf`), or how it becomes a file (`appliance::state`).
//! Invariant: what is kept is what the store said it kept last; after a crash a slot comes up with that, with what was being
//! saved, or with what a failed save said it could not take back.

use super::{Event, World};
use crate::appliance::state::simulated::{Fault, SimulatedDirectory, SimulatedStore};
use crate::appliance::state::store::{RecordStore, Store};
use crate::protocol::Mac;
use crate::shelf::{MacList, SlotState};
use crate::sim::luck::{MICRO, MILLI};
use crate::sim::totals::Kind;
use crate::worker::{Control, Errand};
use std::collections::VecDeque;
use std::path::Path;

#[derive(Debug, Default)]
struct Kept {
    state: SlotState,
    /// What else it may come up with after a crash.
    unsettled: Vec<SlotState>,
    /// Every config string that was ever in force, in order.
    strings: Vec<String>,
    /// Every mask list and every reservation that ever was.
    lists: Vec<(MacList, MacList)>,
    /// Saves that failed.
    failures: u32,
    /// How many of them are certainly over, as hosts know it.
    floor: u32,
}

impl Kept {
    /// This is in force, or may be.
    fn remember(&mut self, state: &SlotState) {
        self.strings.push(String::from_utf8_lossy(&state.config_string).into_owned());
        self.lists.push((state.mask.clone(), state.reserved.clone()));
    }
}

/// The states of all slots.
#[derive(Debug)]
pub(super) struct States {
    directory: SimulatedDirectory,
    store: Option<SimulatedStore>,
    slots: Vec<Kept>,
    errands: VecDeque<Errand>,
    /// Answers that a worker had no room for.
    unsaid: Option<Control>,
}

impl States {
    pub(super) fn new(slots: usize) -> Self {
        let new =
            || Kept { strings: vec![String::new()], lists: vec![Default::default()], ..Kept::default() };
        Self {
            directory: SimulatedDirectory::default(),
            store: None,
            slots: (0..slots).map(|_| new()).collect(),
            errands: VecDeque::new(),
            unsaid: None,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.errands.is_empty()
    }

    /// How many config strings of a slot are certainly over.
    pub(super) fn floor(&self, slot: usize) -> u32 {
        self.slots[slot].floor
    }

    /// Whether a save of a slot ever failed.
    pub(super) fn has_failed(&self, slot: usize) -> bool {
        self.slots[slot].failures > 0
    }

    /// Whether a mask list, or a reservation, was ever in force.
    pub(super) fn had_list(&self, slot: usize, reserved: bool, list: &[Mac]) -> bool {
        let lists = self.slots[slot].lists.iter();
        lists.map(|(mask, hosts)| if reserved { hosts } else { mask }).any(|kept| kept.as_slice() == list)
    }

    pub(super) fn was_kept(&self, slot: usize, string: &str) -> bool {
        self.slots[slot].strings.iter().any(|kept| kept == string)
    }

    /// A host was told this string; one that asked when `floor` were over sees none of those.
    pub(super) fn seen(&mut self, slot: usize, string: &str, floor: Option<u32>) -> Result<(), String> {
        let kept = &mut self.slots[slot];
        let place = kept.strings.iter().rposition(|s| s == string).ok_or("a string that was never kept")?;
        match floor {
            Some(floor) if (place as u32) < floor => {
                let certain = kept.strings.get(floor as usize).cloned().unwrap_or_default();
                Err(format!("sees the string {string}, and {certain} had been answered before it asked"))
            }
            Some(_) => Ok(()),
            None => {
                // Of a string that was set twice it cannot be told which of the two was answered.
                let first = kept.strings.iter().position(|s| s == string).unwrap_or(place);
                kept.floor = kept.floor.max(first as u32);
                Ok(())
            }
        }
    }
}

impl World {
    /// A worker has an errand.
    pub(super) fn errand(&mut self, errand: Errand) {
        if matches!(errand, Errand::InForce { .. }) {
            return;
        }
        self.states.errands.push_back(errand);
        if self.states.errands.len() == 1 {
            self.plan_save();
        }
    }

    fn plan_save(&mut self) {
        let after = 20 * MICRO + self.luck.about(self.luck.pick(&[100 * MICRO, MILLI, 20 * MILLI]));
        let life = self.lives;
        self.plan(after, Event::Save { life });
    }

    /// The store does its next errand.
    pub(super) fn save(&mut self, life: u64) -> Result<(), String> {
        if life != self.lives || self.life.is_none() {
            return Ok(());
        }
        let Some(Errand::Save { worker, slot: number, address, state }) =
            self.states.errands.front().cloned()
        else {
            return Ok(());
        };
        let Some(slot) = self.shape.slot_at(address) else { return Err(format!("a save for {address}")) };
        let states = &mut self.states;
        let Some(store) = states.store.as_mut() else { return Err("a save without a store".into()) };
        let saved = match states.unsaid.take() {
            Some(saved) => saved,
            None => {
                self.luck.count(Kind::Saves);
                if self.luck.permille(self.shape.save_faults) {
                    let fault = self.luck.pick(&[Fault::NoRoom, Fault::Broken, Fault::Short]);
                    states.directory.fail(states.directory.steps() + self.luck.below(8), fault);
                }
                let kept = &mut states.slots[slot];
                let saved = store.save(address, &state);
                if self.luck.permille(200) && store.settle() {
                    kept.unsettled.clear();
                }
                match &saved {
                    Ok(()) => {
                        kept.unsettled.clear();
                        kept.remember(&state);
                        kept.state = *state;
                    }
                    Err(e) => {
                        self.luck.count(Kind::SaveFaults);
                        kept.failures += 1;
                        if e.unsettled {
                            kept.unsettled.push(*state);
                        }
                    }
                }
                self.luck.trace(|| format!("state of slot {slot} saved: {saved:?}"));
                Control::Saved { slot: number, kept: saved.is_ok() }
            }
        };
        let told = self.life.as_ref().is_some_and(|life| life.command(worker, saved));
        if !told {
            self.states.unsaid = Some(saved);
            self.plan(MILLI, Event::Save { life });
            return Ok(());
        }
        self.wake_if_rung();
        self.states.errands.pop_front();
        if !self.states.errands.is_empty() {
            self.plan_save();
        }
        Ok(())
    }

    /// The process is gone, perhaps in the middle of a save.
    pub(super) fn crash_states(&mut self, power: bool) {
        let states = &mut self.states;
        if let (Some(Errand::Save { address, state, .. }), None) = (states.errands.front(), &states.unsaid) {
            if let (true, Some(slot), Some(store)) =
                (self.luck.permille(700), self.shape.slot_at(*address), states.store.as_mut())
            {
                self.luck.count(Kind::SavesCut);
                let fault = self.luck.pick(&[Fault::CrashBefore, Fault::CrashAfter]);
                states.directory.fail(states.directory.steps() + self.luck.below(7), fault);
                let saved = store.save(*address, state);
                let kept = &mut states.slots[slot];
                if saved.is_ok() {
                    kept.unsettled.clear();
                    kept.state = (**state).clone();
                    kept.remember(state);
                } else {
                    kept.unsettled.push((**state).clone());
                }
            }
        }
        states.store = None;
        states.errands.clear();
        states.unsaid = None;
        if power {
            states.directory.crash(|n| self.luck.index(n));
        } else {
            states.directory.restart();
        }
    }

    /// The states that a process starts with.
    pub(super) fn load(&mut self) -> Result<Vec<SlotState>, String> {
        let states = &mut self.states;
        let path = Path::new("/state");
        let mut store = RecordStore::open(states.directory.clone(), path).map_err(|e| e.to_string())?;
        let mut all = Vec::new();
        for (kept, shape) in states.slots.iter_mut().zip(&self.shape.slots) {
            let found =
                store.load(shape.address).map_err(|e| format!("a state is lost: {e}"))?.unwrap_or_default();
            if found != kept.state {
                if !kept.unsettled.contains(&found) {
                    return Err(format!(
                        "slot {} comes up with the state {found:?}, and {:?} was kept",
                        shape.address, kept.state
                    ));
                }
                kept.remember(&found);
                kept.state = found.clone();
            }
            // What a failed save has left stands on the disk, or does not; this start has seen which.
            kept.unsettled.clear();
            all.push(found);
        }
        states.store = Some(store);
        Ok(all)
    }
}
