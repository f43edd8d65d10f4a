//! What is known of a running shelf, for whoever asks, while it serves.
//!
//! Not here: looking after anything (`serve`), or how it is said (`report`).
//! Invariant: what workers post is read where they post it, and nothing here makes them wait; what the appliance notes
//! is at most as old as its last round.

use super::report::{PortReport, Report, SlotReport, WorkerReport};
use crate::appliance::state::clerk::MaskHook;
use crate::frame::WorkerId;
use crate::limits;
use crate::protocol::Address;
use crate::shelf::{Condition, SlotState, Why};
use crate::worker::{Board, Cell, Counter, Counters, Parcel, Shared};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What hosts have set on each slot, as it was kept last.
#[derive(Clone, Debug, Default)]
pub struct States(Arc<Mutex<BTreeMap<Address, SlotState>>>);

impl States {
    /// The states at the start.
    #[must_use]
    pub fn new(states: impl IntoIterator<Item = (Address, SlotState)>) -> Self {
        Self(Arc::new(Mutex::new(states.into_iter().collect())))
    }

    /// Hears of each change, on the way to `hook`.
    pub fn witness<H: MaskHook>(&self, hook: H) -> Witness<H> {
        Witness { states: self.clone(), hook }
    }
}

/// Notes what is kept, and passes it on.
#[derive(Debug)]
pub struct Witness<H> {
    states: States,
    hook: H,
}

impl<H: MaskHook> MaskHook for Witness<H> {
    fn widen(&mut self, address: Address, old: &SlotState, new: &SlotState) {
        lock(&self.states.0).insert(address, new.clone());
        self.hook.widen(address, old, new);
    }

    fn narrow(&mut self, address: Address, state: &SlotState) {
        self.hook.narrow(address, state);
    }
}

/// What does not change of a slot.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its address.
    pub address: Address,
    /// Its owner.
    pub worker: WorkerId,
    /// Its number with it.
    pub number: u16,
    /// What is behind it.
    pub path: String,
}

/// What the appliance notes of a slot.
#[derive(Clone, Debug)]
pub struct SlotNote {
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// When its writes are durable.
    pub durable: String,
    /// How the page cache is dealt with.
    pub access: String,
    /// What its device says of its health.
    pub health: &'static str,
    /// When it came into the condition that it is in.
    pub since: Instant,
    /// What happens next, or what to do.
    pub next: Option<String>,
}

/// What the appliance notes of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortNote {
    /// How frames reach us, and why not by a better way.
    pub mode: String,
    /// Why nothing is served there, if that is so.
    pub trouble: Option<String>,
}

/// What the appliance notes.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// What somebody has to do something about.
    pub alarm: Option<String>,
    /// Of each interface, in order.
    pub ports: Vec<PortNote>,
    /// Of each slot, in order.
    pub slots: Vec<SlotNote>,
}

/// All of it.
#[derive(Debug)]
pub struct Overview {
    started: Instant,
    shared: Arc<Shared>,
    places: Vec<Place>,
    cpus: Vec<u16>,
    /// Receive queues, each with its worker.
    queues: Vec<(WorkerId, String)>,
    counters: Vec<Arc<Counters>>,
    boards: Vec<Arc<Board>>,
    states: States,
    notes: Mutex<Notes>,
    service: Mutex<Service>,
}

/// What is known of the service as a whole.
#[derive(Clone, Debug, Default)]
struct Service {
    /// Whether what this tells of has ended, and nothing else is served yet.
    waiting: bool,
    /// What is configured and not served.
    missing: Vec<String>,
}

/// What an [`Overview`] is made of: everything by worker is in their order.
#[derive(Debug)]
pub struct Parts {
    /// What the workers share.
    pub shared: Arc<Shared>,
    /// The slots.
    pub places: Vec<Place>,
    /// The CPU of each worker.
    pub cpus: Vec<u16>,
    /// Receive queues as INTERFACE:QUEUE, each with its worker.
    pub queues: Vec<(WorkerId, String)>,
    /// The counters of each worker.
    pub counters: Vec<Arc<Counters>>,
    /// The board of each worker.
    pub boards: Vec<Arc<Board>>,
    /// What hosts have set.
    pub states: States,
}

impl Overview {
    /// The overview of a shelf that begins to serve now.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { shared, places, cpus, queues, counters, boards, states } = parts;
        let (started, notes, service) = (Instant::now(), Mutex::default(), Mutex::default());
        Self { started, shared, places, cpus, queues, counters, boards, states, notes, service }
    }

    /// The slots, in order.
    #[must_use]
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// What the owner of a slot has posted of it.
    #[must_use]
    pub fn cell(&self, place: &Place) -> Option<&Cell> {
        self.boards.get(usize::from(place.worker.0))?.slot(place.number)
    }

    /// Takes the backings that are on their way to workers or from them, when those have ended.
    pub fn parcels(&self) -> impl Iterator<Item = Parcel> + '_ {
        self.places.iter().filter_map(|place| self.cell(place)).flat_map(Cell::empty)
    }

    /// Notes all of this instead of what was noted before.
    pub fn note(&self, notes: Notes) {
        *lock(&self.notes) = notes;
    }

    /// Notes what is configured and not served; and whether what this tells of has ended (`waiting` for another one).
    pub fn note_service(&self, waiting: bool, missing: Vec<String>) {
        *lock(&self.service) = Service { waiting, missing };
    }

    /// Whether there is such a slot.
    #[must_use]
    pub fn serves(&self, slot: Address) -> bool {
        self.places.iter().any(|place| place.address == slot)
    }

    /// The slots that do not serve, and what that was seen by.
    pub fn failed(&self) -> impl Iterator<Item = (Address, Why)> + '_ {
        self.places.iter().filter_map(|place| Some((place.address, self.cell(place)?.condition().why()?)))
    }

    /// How everything is now.
    #[must_use]
    pub fn report(&self) -> Report {
        let now = Instant::now();
        let notes = lock(&self.notes).clone();
        let Service { waiting, missing } = lock(&self.service).clone();
        let states = lock(&self.states.0);
        let slots = self
            .places
            .iter()
            .enumerate()
            .map(|(at, place)| self.slot(place, notes.slots.get(at), states.get(&place.address), now));
        let mut slots: Vec<SlotReport> = slots.collect();
        if waiting {
            slots.iter_mut().for_each(|slot| slot.condition = "waiting".to_owned());
        }
        drop(states);
        let ports = self.shared.ports.iter().enumerate().map(|(at, port)| {
            let PortNote { mode, trouble } = notes.ports.get(at).cloned().unwrap_or_default();
            let (mtu, sectors) = (port.mtu(), port.sectors());
            PortReport { name: port.name.clone(), mode, link: port.is_running(), mtu, sectors, trouble }
        });
        let workers = (0u16..).zip(&self.cpus).map(|(worker, &cpu)| {
            let id = WorkerId(worker);
            let slots = self.places.iter().filter(|place| place.worker == id);
            let queues = self.queues.iter().filter(|(owner, _)| *owner == id);
            WorkerReport {
                worker,
                cpu,
                slots: slots.map(|place| place.address.to_string()).collect(),
                queues: queues.map(|(_, name)| name.clone()).collect(),
            }
        });
        let alarms: Vec<String> = missing.into_iter().chain(notes.alarm).collect();
        let sum = |counter| self.counters.iter().map(|c| c.get(counter)).fold(0, u64::wrapping_add);
        let counters = Counter::ALL.iter().map(|&c| (c.name().to_owned(), sum(c)));
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            uptime_s: now.saturating_duration_since(self.started).as_secs(),
            alarm: (!alarms.is_empty()).then(|| alarms.join("; ")),
            ports: ports.collect(),
            slots,
            workers: workers.collect(),
            counters: counters.filter(|(_, n)| *n > 0).collect(),
        }
    }

    fn slot(
        &self,
        place: &Place,
        note: Option<&SlotNote>,
        state: Option<&SlotState>,
        now: Instant,
    ) -> SlotReport {
        let cell = self.cell(place);
        let condition = cell.map_or(Condition::Serving, Cell::condition);
        let waited = cell.map_or(std::time::Duration::ZERO, Cell::waited);
        let hung = waited >= limits::HUNG && condition == Condition::Serving;
        let since = note.map_or(self.started, |note| note.since);
        let why = match condition.why() {
            Some(why) => Some(why.to_string()),
            None => hung.then(|| "its device has not answered a command that long".to_owned()),
        };
        SlotReport {
            address: place.address.to_string(),
            path: place.path.clone(),
            sectors: note.map_or(0, |note| note.sectors),
            durable: note.map_or(String::new(), |note| note.durable.clone()),
            access: note.map_or(String::new(), |note| note.access.clone()),
            condition: if hung { "hung".to_owned() } else { condition.to_string() },
            for_s: if hung { waited } else { now.saturating_duration_since(since) }.as_secs(),
            why,
            next: note.and_then(|note| note.next.clone()),
            health: note.map_or("unknown", |note| note.health).to_owned(),
            in_flight: cell.map_or(0, Cell::in_flight),
            config_string: state
                .map_or(String::new(), |state| String::from_utf8_lossy(&state.config_string).into_owned()),
            mask: state.map_or(0, |state| state.mask.len()),
            reserved: state.map_or(0, |state| state.reserved.len()),
            worker: place.worker.0,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in it is whole at any moment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
