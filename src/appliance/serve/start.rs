//! Puts an appliance together, and takes it apart again.
//!
//! Not here: waiting for a reason to stop (`serve`).
//! Invariant: the order of a start is slots, facts, XDP program, memory, sockets, guard, workers, shelves and sockets into
//! the program, announcement; a stop goes the other way, and a start that fails half-way is a stop from there.

mod error;
mod stopped;

pub(crate) use error::Causes;
pub use error::{StartError, StorageError};
pub use stopped::{Held, Stopped};

use super::describe::{PortLine, Serving, SlotLine};
use super::monitor::{Monitor, Place};
use super::ports::{Fate, Opened, judge};
use super::recovery::{self, Keepsake, Recovery};
use super::slots::{self, OpenSlot};
use super::watch::{self, Kernel, Watch};
use crate::appliance::check::machine;
use crate::appliance::config::{Config, HugePages, Interface, Queues, Rivals, Slot};
use crate::appliance::control::Answer;
use crate::appliance::control::overview::{Notes, Overview, Parts, PortNote, Witness};
use crate::appliance::guard::{Guard, Rival, Sight, Ward};
use crate::appliance::keeper::Keeper;
use crate::appliance::masks::{MaskMaps, Resident};
use crate::appliance::state::clerk::{Clerk, Closed};
use crate::appliance::state::lasting::Lasting;
use crate::appliance::state::memory::Memory;
use crate::appliance::state::store::{DirectoryStore, Store};
use crate::appliance::topology::{self, Tenant, Topology};
use crate::frame::{self, Layout, PortId, WorkerId, WorkerShare};
use crate::limits;
use crate::net::ladder::{Mode, Rung, Standing};
use crate::net::nic::{Facts, NicError};
use crate::net::steer::{Steer, SteerError};
use crate::net::xsk::{Pages, Rings, Umem, XskQueue, is_bound};
use crate::protocol::{Address, Mac};
use crate::shelf::{Routes, Why};
use crate::storage::FileId;
use crate::storage::device::{self, Device, Durability};
use crate::storage::uring::UringStorage;
use crate::worker::{
    self, Board, Control, Counters, Crew, Errands, Plan, QueuePlace, Seat, Shared, SlotPlan, WorkerPost,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tracing::Level;

/// An interface that is served on.
struct OpenPort {
    facts: Facts,
    standing: Standing,
    steer: Steer,
    /// The queues of it that are served.
    queues: Vec<u16>,
    /// Whether those are to be all there are.
    all_queues: bool,
    /// Why nothing is served there now, if that is so.
    trouble: Option<String>,
}

impl OpenPort {
    /// Whether the kernel sends what is put on the TX ring of this queue. Without copies the driver has said so when the
    /// socket was bound.
    fn transmits(&self, queue: u32) -> bool {
        self.standing.rung.zero_copy() || queue < self.facts.transmit_queues
    }

    /// Looks what has become of it, says it, and mends what can be mended: frames are taken again where somebody detached
    /// the XDP program. Returns why it has to be opened again, if so. `bound` tells whether its sockets still belong to it;
    /// `slots` are to be served there.
    fn look(&mut self, keeper: &dyn Keeper, bound: bool, slots: &[Slot]) -> Option<String> {
        let name = self.facts.name.clone();
        let attached = self.steer.attached().is_some();
        let now = match keeper.facts(&name) {
            Ok(now) => now,
            // It has another name now, and is served on all the same.
            Err(NicError::Missing { .. }) if attached => return None,
            Err(NicError::Missing { .. }) => {
                self.suffer("the interface was removed", "it is when it is back");
                return None;
            }
            Err(e) => {
                tracing::debug!("{}", Causes(&e));
                return None;
            }
        };
        // The program that is attached is ours.
        let programs = if attached { Vec::new() } else { now.programs.clone() };
        let obstacle = obstacles(&Facts { programs, ..now.clone() }, slots).into_iter().next();
        let opened = Opened {
            facts: &self.facts,
            standing: &self.standing,
            served: &self.queues,
            all: self.all_queues,
        };
        match judge(opened, &now, attached, bound, obstacle.map(|e| e.to_string())) {
            Fate::Well => {}
            Fate::Away(why) => self.suffer(&why, "it is when that is over"),
            Fate::Other(why) => return Some(why),
            Fate::Detached => match keeper.reattach(&mut self.steer, &now) {
                Ok(()) if self.trouble.take().is_some() => {
                    tracing::info!("{name}: the XDP program is attached again, and hosts are served there");
                }
                Ok(()) => tracing::warn!(
                    "{name}: somebody detached the XDP program or put another in its place; it is attached again"
                ),
                Err(e) => {
                    self.suffer(&Causes(&e).to_string(), "the XDP program is attached again when it can be")
                }
            },
        }
        None
    }

    /// Says why nothing is served there, if that is news, and what will be done.
    fn suffer(&mut self, why: &str, then: &str) {
        let why = why.strip_prefix(&format!("{}: ", self.facts.name)).unwrap_or(why);
        if self.trouble.as_deref() != Some(why) {
            tracing::error!("{}: nothing is served there: {why}; {then}", self.facts.name);
            self.trouble = Some(why.to_owned());
        }
    }
}

/// What an appliance leaves to the one that is started after it in the same process.
#[derive(Default)]
pub struct Past {
    /// Whether there was one.
    pub again: bool,
    /// What hosts have set on slots, where no directory keeps it.
    pub memory: Memory,
    /// The directory that keeps it, once it is open.
    pub archive: Option<Lasting>,
    /// Slots that promised nothing any more, and why: an end and a start mend nothing.
    pub failed: BTreeMap<Address, Why>,
    /// What slots were known by that have been served.
    pub known: BTreeMap<Address, Keepsake>,
    /// What was said of the counters.
    pub watch: Watch,
}

/// A running appliance.
pub struct Appliance {
    crew: Crew,
    shared: Arc<Shared>,
    ports: Vec<OpenPort>,
    serving: Serving,
    /// Of each worker.
    counters: Vec<Arc<Counters>>,
    watch: Watch,
    monitor: Monitor,
    recovery: Recovery,
    overview: Arc<Overview>,
    guard: Guard,
    /// Requests a worker holds at most.
    requests: usize,
    /// The socket of each queue, with its port: how it is with it can be asked of the kernel.
    sockets: Vec<(PortId, OwnedFd)>,
    /// Slots that are not served because of another target.
    refused: Vec<Address>,
    /// A slot on a VLAN, if there is one, as it is configured.
    tagged: Vec<Slot>,
    /// Why it is to be ended and another started, if it is.
    worn: Option<String>,
    /// Has the lock on the state directory.
    clerk: Clerk,
    /// Whether it was found dead, and that was said.
    clerk_lost: bool,
    // Last, so that sockets are closed before their memory is let go.
    _umem: Umem,
}

impl fmt::Display for Appliance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serving.fmt(f)
    }
}

impl Appliance {
    /// Starts everything; slots are announced on return. What it takes from the `past` it gives back when it is stopped.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind then.
    pub fn start(config: &Config, keeper: &dyn Keeper, past: &mut Past) -> Result<Self, StartError> {
        for attempt in 0..ATTEMPTS {
            if let Some(appliance) = Self::try_start(config, keeper, past, attempt)? {
                return Ok(appliance);
            }
            tracing::info!("another target has answered for one of our addresses just now: asking once more");
        }
        Err(StartError::Unsure)
    }

    /// `None` when the guard learned in the last moment that a slot is not ours alone; nothing is left behind then.
    /// From the second attempt on it waits longer for answers.
    fn try_start(
        config: &Config,
        keeper: &dyn Keeper,
        past: &mut Past,
        attempt: u32,
    ) -> Result<Option<Self>, StartError> {
        let (mut store, ephemeral) = open_store(config, keeper, past)?;
        let mut slots = slots::open(&config.slots, keeper)?;
        slots::compare(&slots, &past.known)?;
        let restored = slots::restore(&mut slots, &mut store)?;
        let mut ports = open_ports(config, keeper)?;
        let masks = tell_programs(&ports, &slots)?;
        let served: Vec<Vec<u16>> = ports.iter().map(|port| port.queues.clone()).collect();
        let topology = place(config, &served, &machine::affinity())?;

        let layout = lay_out(config, &topology)?;
        // Where every frame carries a tag, the data behind it is to be aligned.
        let tagged = slots.iter().all(|slot| slot.facts.vlan != 0);
        let headroom = if tagged { limits::TAGGED_HEADROOM } else { limits::UMEM_HEADROOM };
        let umem = Umem::new(layout.chunks(), Rings { headroom, ..Rings::default() })?;
        if config.memory.huge_pages == HugePages::Require && umem.pages() != Pages::Huge {
            return Err(StartError::HugePages { pages: (umem.region().len() as u64).div_ceil(2 << 20) });
        }
        let mut queues: Vec<Vec<XskQueue>> = topology.cpus.iter().map(|_| Vec::new()).collect();
        let mut sockets = Vec::new();
        for seat in &topology.queues {
            let port = &ports[usize::from(seat.port.0)];
            let queue = keeper.bind(&umem, seat.id, &port.facts, seat.index, port.standing.rung)?;
            let socket = descriptor(queue.as_fd())?;
            sockets.push((seat.port, socket));
            queues[usize::from(seat.worker.0)].push(queue);
        }

        // As late as may be, so that little time passes between the answer and the announcement.
        let guard = post_guard(config, &ports, keeper, attempt > 0)?;
        // What another target serves is not in this configuration any more. Queues and CPUs do not depend on slots.
        let refused = guard.refused()?;
        let config = &stand_down(config, &mut slots, &refused)?;
        let topology = place(config, &served, &machine::affinity())?;
        if !past.again {
            warn_of(&slots, &topology, &ports);
        }

        let serving = serving(&slots, &ports, &topology, &umem);
        let shared = Arc::new(share(layout, &umem, &ports, &topology, &slots)?);
        let (monitor, recovery) = watch_over(&slots, &ports, &topology, keeper)?;
        let mut crew = Crew::new(Arc::clone(&shared));
        let states = slots::states(&slots);
        let (errands, clerk) = open_clerk(store, states.witness(masks), &slots, &shared)?;
        let places = slots::places(&slots, &topology.owners);
        let mut boards = Vec::new();
        let counters: Vec<_> = topology.cpus.iter().map(|_| Arc::new(Counters::default())).collect();
        let requests = requests_of(config, &topology);
        let isolated = machine::isolated_cpus();
        for ((id, queues), slots) in (0..).map(WorkerId).zip(queues).zip(deal(slots, &topology)) {
            let cpu = topology.cpus[usize::from(id.0)];
            let alone = isolated.contains(&cpu) && !topology.shared;
            let spin_us = config.workers.spin_us.unwrap_or(if alone { ISOLATED_SPIN_US } else { 0 });
            let seat = Seat { cpu: Some(cpu), spin: Duration::from_micros(spin_us.into()) };
            let (shared, counters) = (Arc::clone(&shared), Arc::clone(&counters[usize::from(id.0)]));
            let plan = Plan { requests, counters, errands: Some(errands.clone()), ..Plan::new(id, shared) };
            boards.push(spawn(&mut crew, plan, queues, slots, seat)?);
        }
        // The clerk ends when no worker can ask it for anything any more.
        drop(errands);

        if guard.is_belied() {
            drop(crew);
            // It has had nothing to do.
            let _ = clerk.close(CLOSING);
            return Ok(None);
        }
        recall(&past.failed, &shared);
        guard.serving();
        // From here on frames come.
        let shelves: BTreeSet<u16> = config.slots.iter().map(|slot| slot.address.shelf).collect();
        for port in &mut ports {
            for shelf in &shelves {
                port.steer.set_shelf(*shelf, true)?;
            }
        }
        for (seat, (_, socket)) in topology.queues.iter().zip(&sockets) {
            ports[usize::from(seat.port.0)].steer.insert(seat.index, socket)?;
        }
        if !past.again {
            restored.iter().for_each(|line| tracing::info!("{line}"));
            ephemeral.iter().for_each(|warning| tracing::warn!("{warning}"));
        }
        crew.tell(Control::Announce);
        let watch = std::mem::take(&mut past.watch);
        let queues = topology.queues.iter();
        let overview = Overview::new(Parts {
            queues: queues
                .map(|seat| {
                    (seat.worker, format!("{}:{}", ports[usize::from(seat.port.0)].facts.name, seat.index))
                })
                .collect(),
            shared: Arc::clone(&shared),
            places,
            cpus: topology.cpus.clone(),
            counters: counters.clone(),
            boards,
            states,
        });
        let appliance = Self {
            crew,
            shared,
            ports,
            serving,
            counters,
            watch,
            monitor,
            recovery,
            overview: Arc::new(overview),
            guard,
            requests,
            sockets,
            refused,
            tagged: config.slots.iter().find(|slot| slot.vlan != 0).cloned().into_iter().collect(),
            worn: None,
            clerk,
            clerk_lost: false,
            _umem: umem,
        };
        appliance.note();
        Ok(Some(appliance))
    }

    /// What it serves, and before that what is wrong with it, in one line.
    #[must_use]
    pub fn status(&self) -> String {
        let trouble = self.ports.iter().filter_map(|port| {
            port.trouble.as_ref().map(|why| format!("{}: nothing is served there: {why}", port.facts.name))
        });
        let trouble = self.recovery.status().into_iter().chain(trouble);
        trouble.chain(self.guard.status()).chain([self.to_string()]).collect::<Vec<_>>().join("; ")
    }

    /// Why it has to be ended and another started, if so: frames miss it, and that cannot be mended while it runs.
    #[must_use]
    pub fn worn(&self) -> Option<&str> {
        self.worn.as_deref()
    }

    /// Everybody else who was heard about the addresses of our slots.
    #[must_use]
    pub fn rivals(&self) -> Vec<Rival> {
        self.guard.rivals()
    }

    /// How it is, for whoever asks; kept up to date by [`Appliance::look`].
    #[must_use]
    pub fn overview(&self) -> Arc<Overview> {
        Arc::clone(&self.overview)
    }

    /// Carries an order out, and answers it.
    pub fn obey(&mut self, slot: Address) -> Answer {
        self.recovery.order(slot)
    }

    /// Notes how it is.
    fn note(&self) {
        let ports = self.ports.iter().map(|port| {
            let standing = port.standing.to_string();
            let mode =
                standing.strip_prefix(&format!("{}: ", port.facts.name)).unwrap_or(&standing).to_owned();
            PortNote { mode, trouble: port.trouble.clone() }
        });
        let alarm = self.guard.status();
        self.overview.note(Notes { alarm, ports: ports.collect(), slots: self.monitor.notes() });
    }

    /// Workers that ended without being told, which is a defect.
    #[must_use]
    pub fn dead_workers(&self) -> Vec<WorkerId> {
        self.crew.dead()
    }

    /// Tells the workers what has changed since the last look, and logs what has come up.
    pub fn look(&mut self, keeper: &dyn Keeper) {
        let mut lines = self.monitor.look(&self.shared, |name| keeper.link(name));
        lines.extend(self.recovery.look(&self.shared, &self.overview, &mut self.monitor));
        for (level, line) in lines {
            match level {
                Level::ERROR => tracing::error!("{line}"),
                Level::WARN => tracing::warn!("{line}"),
                Level::INFO => tracing::info!("{line}"),
                _ => tracing::debug!("{line}"),
            }
        }
        let kernel = Kernel::of(self.sockets.iter().map(|(_, socket)| socket.as_fd()));
        for (error, line) in self.watch.look(&self.counters, kernel, self.requests) {
            if error { tracing::error!("{line}") } else { tracing::warn!("{line}") }
        }
        if self.clerk.is_dead() && !std::mem::replace(&mut self.clerk_lost, true) {
            tracing::error!(
                "the thread that keeps config strings, masks and reservations died, which is a defect; please report it \
                 with the log before this. Disks are served, and nothing of the kind can be set until xshelf is \
                 started again"
            );
        }
        for (id, port) in (0..).map(PortId).zip(&mut self.ports) {
            let bound = self.sockets.iter().filter(|(port, _)| *port == id).all(|(_, s)| is_bound(s.as_fd()));
            if let Some(why) = port.look(keeper, bound, &self.tagged) {
                self.worn.get_or_insert(format!("{}: {why}", port.facts.name));
            }
        }
        self.note();
    }

    /// Takes no new frames, lets what is in flight end for so long, and takes everything down. If it is not the `last`,
    /// another will open the same slots.
    #[must_use]
    pub fn stop(self, patience: Duration, last: bool) -> Stopped {
        let Self {
            crew,
            shared,
            ports,
            counters,
            guard,
            clerk,
            watch,
            monitor,
            recovery,
            overview,
            sockets,
            refused,
            _umem: umem,
            ..
        } = self;
        let mut problems = Vec::new();
        for port in &ports {
            for queue in &port.queues {
                if let Err(e) = port.steer.remove((*queue).into()) {
                    problems.push(Causes(&e).to_string());
                }
            }
        }
        let ended = crew.end(patience, !last);
        // Backings on their way to a worker or from it would keep the next one from them.
        overview.parcels().for_each(recovery::close);
        let closed = clerk.close(CLOSING);
        if let Closed::Hanging(address) = closed {
            problems.push(format!(
                "slot {address}: the disk with the state directory does not answer; the last change of a config string, \
                 mask or reservation was not acknowledged, and may hold after a restart or not"
            ));
        }
        let census: Vec<_> = ended.reports.iter().map(|report| report.census).collect();
        let kernel = Kernel::of(sockets.iter().map(|(_, socket)| socket.as_fd()));
        drop(sockets);
        let contested = contested(&guard);
        // Until now these addresses were ours.
        drop(guard);
        // Nothing reaches their devices any more but what the kernel has already: without a report it may be anything.
        let held: Vec<Held> =
            ended.held.into_iter().map(|worker| Held::of(worker, &ended.reports, &shared)).collect();
        // Whoever still has the memory would keep its queue from the next one: a device that hangs, or somebody who looks at
        // how it was.
        if let Err(e) = umem.close_first_socket() {
            problems.push(format!("cannot let go of a queue: {e}"));
        }
        let mut busy: Vec<_> = ended.reports.iter().flat_map(|report| report.busy.clone()).collect();
        busy.sort_unstable();
        let stopped = Stopped {
            expected: shared.layout.used(),
            counted: census.iter().map(worker::Census::total).sum(),
            leaked: frame::leaked(),
            requests: census.iter().map(|c| c.requests).sum(),
            unsent: census.iter().map(|c| c.waiting + c.transmit).sum(),
            busy: busy.into_iter().map(|(address, commands)| (address.to_string(), commands)).collect(),
            drained: ended.drained,
            died: ended.died.len() + usize::from(closed == Closed::Died),
            held,
            refused,
            contested,
            known: recovery.keepsakes(&monitor),
            watch,
            patience,
            interfaces: ports.iter().map(|port| port.facts.name.clone()).collect(),
            totals: watch::totals(&counters, kernel),
            problems,
            state_hangs: matches!(closed, Closed::Hanging(_)),
        };
        // The program goes with its link.
        drop(ports);
        stopped
    }
}

/// How long a stop waits for the state directory once all workers have ended.
const CLOSING: Duration = Duration::from_secs(2);

/// A place for the state of slots, and a warning if it is not kept there for good.
type Archive = (Box<dyn Store + Send>, Option<String>);

/// Where the state of slots is kept; locked, if that is a directory.
fn open_store(config: &Config, keeper: &dyn Keeper, past: &mut Past) -> Result<Archive, StartError> {
    let Some(path) = &config.state_dir else {
        let warning = "no state directory: config strings, masks and reservations that hosts set are lost when xshelf \
                       ends; give it one with --state-dir, or state-dir in the configuration";
        return Ok((Box::new(past.memory.clone()), Some(warning.to_owned())));
    };
    if let Some(archive) = &past.archive {
        return Ok((Box::new(archive.clone()), None));
    }
    let failed = |source| StartError::StateDirectory { path: path.clone(), source };
    let directory = keeper.lock_directory(path).map_err(failed)?;
    let warning = device::in_memory(&directory).then(|| {
        format!(
            "state directory {}: it is in memory, so config strings, masks and reservations that hosts set are lost \
             when this machine ends",
            path.display()
        )
    });
    let store = DirectoryStore::in_directory(directory, path).map_err(failed)?;
    let archive = past.archive.insert(Lasting::new(path.clone(), store));
    Ok((Box::new(archive.clone()), warning))
}

/// Starts the thread that keeps the state of slots, and gives what workers reach it by.
fn open_clerk(
    store: Box<dyn Store + Send>,
    masks: Witness<MaskMaps>,
    slots: &[OpenSlot],
    shared: &Arc<Shared>,
) -> Result<(Errands, Clerk), StartError> {
    let (errands, receiver) = mpsc::sync_channel(limits::ERRANDS_PER_SLOT * slots.len());
    let states: Vec<_> = slots.iter().map(|slot| (slot.facts.address, slot.facts.state.clone())).collect();
    let shared = Arc::clone(shared);
    let post = move |worker: WorkerId, command| shared.posts[usize::from(worker.0)].command(command);
    let clerk = Clerk::start(receiver, store, masks, states, post);
    Ok((errands, clerk.map_err(|source| StartError::StateThread { source })?))
}

/// How often a start is tried when answers of another target come too late each time.
const ATTEMPTS: u32 = 4;

/// Microseconds of spin where nobody else wants the CPU.
const ISOLATED_SPIN_US: u16 = 50;

fn descriptor(of: impl AsFd) -> Result<OwnedFd, StartError> {
    let failed = |source| StartError::Descriptors { what: "duplicate a socket", source };
    of.as_fd().try_clone_to_owned().map_err(failed)
}

/// Everything in the facts of an interface that keeps these slots from being served there, whatever the mode.
#[must_use]
pub fn obstacles(facts: &Facts, slots: &[Slot]) -> Vec<StartError> {
    let mut found = Vec::new();
    let interface = || facts.name.clone();
    if let Err(e) = facts.require_up() {
        found.push(e.into());
    }
    if !limits::carries_a_sector(facts.mtu) {
        found.push(StartError::Mtu { interface: interface(), mtu: facts.mtu });
    }
    let tagged = slots.iter().find(|slot| slot.vlan != 0);
    if let (Some(slot), Some(true)) = (tagged, facts.strips_vlan) {
        let (slot, vlan) = (slot.address.to_string(), slot.vlan);
        found.push(StartError::StripsVlan { interface: interface(), slot, vlan });
    }
    if !facts.programs.is_empty() {
        let programs = facts.programs.clone();
        found.push(SteerError::Taken { interface: interface(), programs }.into());
    }
    found
}

/// Facts, XDP program and rung of every interface.
fn open_ports(config: &Config, keeper: &dyn Keeper) -> Result<Vec<OpenPort>, StartError> {
    let mut facts = Vec::new();
    for interface in &config.interfaces {
        let found = keeper.facts(&interface.name)?;
        if let Some(obstacle) = obstacles(&found, &config.slots).into_iter().next() {
            return Err(obstacle);
        }
        facts.push(found);
    }
    let mut ports = Vec::new();
    for (interface, facts) in config.interfaces.iter().zip(facts) {
        ports.push(open_port(interface, facts, interface.mode, keeper)?);
    }
    let standings: Vec<(Rung, Mode)> =
        ports.iter().zip(&config.interfaces).map(|(p, i)| (p.standing.rung, i.mode)).collect();
    for i in coming_down(&standings) {
        let port = &mut ports[i];
        tracing::info!(
            "{}: {} is given up, because another interface cannot do it and they share frame memory",
            port.facts.name,
            port.standing.rung
        );
        // First: an interface takes one program.
        port.steer.detach();
        *port = open_port(&config.interfaces[i], port.facts.clone(), Mode::Native, keeper)?;
    }
    let rung = |port: &OpenPort| port.standing.rung;
    match ports.iter().position(|port| !rung(port).shares_umem_with(rung(&ports[0]))) {
        None => Ok(ports),
        Some(other) => Err(StartError::Mixed {
            first: ports[0].facts.name.clone(),
            first_rung: ports[0].standing.rung.to_string(),
            second: ports[other].facts.name.clone(),
            second_rung: ports[other].standing.rung.to_string(),
        }),
    }
}

/// The ports that have to do with copies what they could do without: one frame memory serves all, and it takes its flags
/// from the first socket. A mode that was asked for is not changed.
fn coming_down(ports: &[(Rung, Mode)]) -> Vec<usize> {
    let Some((first, _)) = ports.first() else { return Vec::new() };
    if ports.iter().all(|(rung, _)| rung.shares_umem_with(*first)) {
        return Vec::new();
    }
    let can = |(rung, mode): &(Rung, Mode)| rung.zero_copy() && *mode == Mode::Auto;
    ports.iter().enumerate().filter(|(_, port)| can(port)).map(|(i, _)| i).collect()
}

fn open_port(
    interface: &Interface,
    facts: Facts,
    mode: Mode,
    keeper: &dyn Keeper,
) -> Result<OpenPort, StartError> {
    let (steer, standing) = keeper.establish(&facts, mode)?;
    let queues = choose_queues(interface, &facts, standing.queues)?;
    let all_queues = interface.queues == Queues::All;
    let port = OpenPort { facts, standing, steer, queues, all_queues, trouble: None };
    if port.queues.iter().any(|&queue| port.transmits(queue.into())) {
        return Ok(port);
    }
    Err(StartError::NoTransmitQueue { interface: port.facts.name, queues: port.facts.transmit_queues })
}

/// The queues to serve, of the first `receiving`, which are those that can receive.
///
/// # Errors
/// [`StartError::NoSuchQueue`]
pub fn choose_queues(interface: &Interface, facts: &Facts, receiving: u32) -> Result<Vec<u16>, StartError> {
    let wanted: Vec<u16> = match &interface.queues {
        Queues::All => (0..u16::try_from(receiving).unwrap_or(u16::MAX)).collect(),
        Queues::First(n) => (0..*n).collect(),
        Queues::These(list) => list.clone(),
    };
    match wanted.iter().find(|queue| u32::from(**queue) >= receiving) {
        None => Ok(wanted),
        Some(&queue) => Err(StartError::NoSuchQueue {
            interface: facts.name.clone(),
            queue,
            queues: receiving,
            remedy: if receiving < facts.queues {
                "in the mode in force the others never see a frame, so name fewer"
            } else {
                "name fewer, or give the interface more with ethtool -L"
            },
        }),
    }
}

/// Places workers, queues and slots. `ports` has the queues to serve of each interface, `mask` the CPUs of the inherited
/// affinity.
///
/// # Errors
/// [`StartError`], for wishes the machine cannot fulfil.
pub fn place(config: &Config, ports: &[Vec<u16>], mask: &[u16]) -> Result<Topology, StartError> {
    let queues: Vec<Vec<u32>> =
        ports.iter().map(|queues| queues.iter().map(|q| u32::from(*q)).collect()).collect();
    let tenants: Vec<Tenant> = config
        .slots
        .iter()
        .map(|slot| Tenant { slot: slot.address.to_string(), worker: slot.worker })
        .collect();
    let topology = topology::plan(&queues, &tenants, &config.workers, mask)?;
    // One watch is the worker's own bell.
    let most = limits::WATCHES - 1;
    for worker in (0..topology.cpus.len() as u16).map(WorkerId) {
        let queues = topology.queues.iter().filter(|seat| seat.worker == worker).count();
        if queues > most {
            return Err(StartError::TooManyQueues { worker: worker.0, queues, most });
        }
    }
    Ok(topology)
}

/// Gives every worker its part of the frame memory.
///
/// # Errors
/// [`StartError::Layout`]
pub fn lay_out(config: &Config, topology: &Topology) -> Result<Layout, StartError> {
    let of = |worker: WorkerId| {
        let seats = topology.queues.iter().filter(move |seat| seat.worker == worker);
        WorkerShare {
            receive: seats.map(|seat| (seat.id, config.memory.frames_per_queue)).collect(),
            runs: config.memory.runs_per_worker,
            own: limits::OWN_CHUNKS,
        }
    };
    // Workers are counted in 16 bits.
    let shares: Vec<_> = (0..topology.cpus.len() as u16).map(|w| of(WorkerId(w))).collect();
    Ok(Layout::plan(&shares)?)
}

/// Requests each worker may hold. All of them may have come by one queue; half of what that receives into is left for
/// frames to come, or those of a device that hangs would keep everybody else's from coming in.
fn requests_of(config: &Config, topology: &Topology) -> usize {
    let half = config.memory.frames_per_queue as usize / 2;
    (half / topology.cpus.len().max(1)).clamp(2, limits::REQUESTS)
}

fn share(
    layout: Layout,
    umem: &Umem,
    ports: &[OpenPort],
    topology: &Topology,
    slots: &[OpenSlot],
) -> Result<Shared, StartError> {
    let owners = slots.iter().map(|slot| slot.facts.address).zip(topology.owners.iter().copied());
    let post = |worker: u16| {
        let slots = topology.owners.iter().filter(|owner| owner.0 == worker).count();
        WorkerPost::for_worker(layout.chunks(), slots)
            .map_err(|source| StartError::Descriptors { what: "make the bell of a worker", source })
    };
    Ok(Shared {
        posts: (0..topology.cpus.len() as u16).map(post).collect::<Result<_, _>>()?,
        region: Arc::clone(umem.region()),
        ports: ports
            .iter()
            .map(|port| {
                let (facts, standing) = (&port.facts, &port.standing);
                let name = facts.name.clone();
                let port =
                    worker::Port::new(name, facts.mac, facts.mtu, standing.frame_room, standing.pieces);
                // If its link is not there yet, the monitor sees it come.
                port.set_running(facts.running);
                port
            })
            .collect(),
        queues: topology
            .queues
            .iter()
            .map(|seat| {
                let port = &ports[usize::from(seat.port.0)];
                QueuePlace { port: seat.port, worker: seat.worker, transmits: port.transmits(seat.index) }
            })
            .collect(),
        routes: Routes::new(owners)?,
        layout,
    })
}

/// Lets the guard look out for others with the addresses of our slots.
fn post_guard(
    config: &Config,
    ports: &[OpenPort],
    keeper: &dyn Keeper,
    patient: bool,
) -> Result<Guard, StartError> {
    let ward = |slot: &Slot| Ward { slot: slot.address, vlan: slot.vlan, rivals: slot.rivals };
    let watched = config.slots.iter().filter(|slot| slot.rivals != Rivals::Ignore);
    let wards: Vec<Ward> = watched.map(ward).collect();
    Ok(Guard::start(ports.iter().map(|port| (&port.facts, &port.steer)), &wards, keeper, patient)?)
}

/// Slots that somebody else answers for, too.
fn contested(guard: &Guard) -> Vec<Address> {
    let rivals = guard.rivals().into_iter().filter(|rival| rival.sight == Sight::Answers);
    rivals.map(|rival| rival.slot).collect()
}

/// Takes out the slots that must not be served, and gives the configuration without them.
fn stand_down(config: &Config, slots: &mut Vec<OpenSlot>, refused: &[Address]) -> Result<Config, StartError> {
    let mut config = config.clone();
    config.slots.retain(|slot| refused.binary_search(&slot.address).is_err());
    slots.retain(|slot| refused.binary_search(&slot.facts.address).is_err());
    if slots.is_empty() {
        let names: Vec<String> = refused.iter().map(Address::to_string).collect();
        return Err(StartError::AllTaken { slots: names.join(" ") });
    }
    Ok(config)
}

/// Tells the XDP programs which addresses are ours, which slots, and who may talk to those; gives back what changes that.
fn tell_programs(ports: &[OpenPort], slots: &[OpenSlot]) -> Result<MaskMaps, StartError> {
    let own: Vec<Mac> = ports.iter().map(|port| port.facts.mac).collect();
    let mut maps = Vec::new();
    for port in ports {
        port.steer.set_own(&own)?;
        maps.push(port.steer.slots().share()?);
    }
    let mut masks = MaskMaps::new(maps);
    for OpenSlot { facts, .. } in slots {
        masks.add(Resident {
            slot: facts.address,
            vlan: facts.vlan,
            allow: &facts.allow,
            mask: &facts.state.mask,
        });
    }
    Ok(masks)
}

fn sectors(port: &OpenPort) -> u8 {
    limits::sectors_for(port.facts.mtu, port.standing.frame_room)
}

/// Begins to watch slots and ports.
fn watch_over(
    slots: &[OpenSlot],
    ports: &[OpenPort],
    topology: &Topology,
    keeper: &dyn Keeper,
) -> Result<(Monitor, Recovery), StartError> {
    let mut numbers = vec![0u16; topology.cpus.len()];
    let places: Vec<Place<'_>> = slots
        .iter()
        .zip(&topology.owners)
        .map(|(slot, worker)| {
            // In the order of `deal`.
            let next = &mut numbers[usize::from(worker.0)];
            let number = *next;
            *next += 1;
            Place { address: slot.facts.address, worker: *worker, number, device: &slot.device }
        })
        .collect();
    let links = ports.iter().map(|port| (port.facts.name.clone(), port.facts.link()));
    let failed = |source| StartError::Descriptors { what: "watch over slots and ports", source };
    let monitor = Monitor::start(&places, links, keeper).map_err(failed)?;
    Ok((monitor, Recovery::start(&places, keeper).map_err(failed)?))
}

/// The slots of each worker, in the order that [`Routes`] numbers them.
fn deal(slots: Vec<OpenSlot>, topology: &Topology) -> Vec<Vec<OpenSlot>> {
    let mut hands: Vec<Vec<OpenSlot>> = topology.cpus.iter().map(|_| Vec::new()).collect();
    for (slot, owner) in slots.into_iter().zip(&topology.owners) {
        hands[usize::from(owner.0)].push(slot);
    }
    hands
}

/// Tells the workers which slots had failed before, so that they promise no more than they did.
fn recall(failed: &BTreeMap<Address, Why>, shared: &Shared) {
    for (address, route) in shared.routes.all() {
        let Some(&why) = failed.get(&address) else { continue };
        let post = &shared.posts[usize::from(route.worker.0)];
        if post.command(Control::Failed { slot: route.slot, why }).is_err() {
            // There is room for several commands of each slot.
            tracing::error!(
                "slot {address}: it could not be told that it had failed; this is a defect, please report it"
            );
        }
    }
}

/// Starts a worker that owns these slots; `plan` has none yet.
fn spawn(
    crew: &mut Crew,
    mut plan: Plan,
    queues: Vec<XskQueue>,
    slots: Vec<OpenSlot>,
    seat: Seat,
) -> Result<Arc<Board>, StartError> {
    let mut devices: Vec<Device> = Vec::new();
    for (file, slot) in (0..).map(FileId).zip(slots) {
        // What is in RAM is written nowhere else, so that no error comes late.
        let cached = slot.device.alignment().is_none() && slot.device.durability() != Durability::Ram;
        let unit = slot.device.unit() / limits::SECTOR as u32;
        plan.slots.push(SlotPlan { cached, unit, ..SlotPlan::new(slot.facts, file) });
        devices.push(slot.device);
    }
    let id = plan.id;
    let sockets = queues.iter().map(descriptor).collect::<Result<Vec<_>, _>>()?;
    let board = crew.spawn(plan, queues, seat, move |shared| {
        let region = Arc::clone(&shared.region);
        let mut storage = UringStorage::new(region, limits::REQUESTS, devices)?;
        let bell = shared.posts[usize::from(id.0)].bell().ringer();
        storage.watch_eventfd(bell.as_fd(), BELL_KEY).map_err(StorageError::Watch)?;
        for (key, socket) in (BELL_KEY + 1..).zip(&sockets) {
            storage.watch(socket.as_fd(), key).map_err(StorageError::Watch)?;
        }
        Ok(storage)
    })?;
    Ok(board)
}

/// Key of a worker's own bell among the descriptors that wake it; its queues follow.
const BELL_KEY: u16 = 0;

/// What should be known before trusting it with data; one line for each kind.
fn warn_of(slots: &[OpenSlot], topology: &Topology, ports: &[OpenPort]) {
    let which = |durability: Durability| {
        let slots = slots.iter().filter(|slot| slot.device.durability() == durability);
        let names: Vec<String> = slots.map(|slot| slot.facts.address.to_string()).collect();
        (!names.is_empty()).then(|| names.join(" "))
    };
    if let Some(slots) = which(Durability::Ram) {
        tracing::warn!("slots in memory, whose data do not survive a reboot or power failure: {slots}");
    }
    if let Some(slots) = which(Durability::OnFlush) {
        tracing::warn!(
            "write-back slots: a power failure loses writes that hosts believe to be safe (Linux sends no flush): {slots}"
        );
    }
    if topology.shared {
        tracing::warn!(
            "{} workers share {} CPUs; expect less, not more, from it",
            topology.cpus.len(),
            topology.cpus.iter().collect::<BTreeSet<_>>().len()
        );
    }
    for port in ports {
        if port.queues.len() < port.standing.queues as usize {
            tracing::info!(
                "{}: {} of {} queues are served; the NIC has to steer AoE to them",
                port.facts.name,
                port.queues.len(),
                port.standing.queues
            );
        }
    }
}

fn serving(slots: &[OpenSlot], ports: &[OpenPort], topology: &Topology, umem: &Umem) -> Serving {
    Serving {
        slots: slots
            .iter()
            .map(|slot| SlotLine { address: slot.facts.address, durability: slot.device.durability() })
            .collect(),
        ports: ports
            .iter()
            .map(|port| PortLine {
                standing: port.standing.to_string(),
                sectors: sectors(port),
                queues: port.queues.clone(),
            })
            .collect(),
        cpus: topology.cpus.clone(),
        memory: umem.region().len() as u64,
        pages: umem.pages(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_down_to_what_all_can_do() {
        use Rung::{GenericSegments, NativeSegments, ZeroCopy, ZeroCopySegments};
        let auto = |rungs: &[Rung]| coming_down(&rungs.iter().map(|r| (*r, Mode::Auto)).collect::<Vec<_>>());
        assert_eq!(auto(&[]), [0; 0]);
        assert_eq!(auto(&[ZeroCopy, ZeroCopy]), [0; 0]);
        assert_eq!(auto(&[NativeSegments, GenericSegments]), [0; 0]);
        assert_eq!(auto(&[ZeroCopySegments, NativeSegments, ZeroCopy]), [0, 2]);
        assert_eq!(auto(&[ZeroCopySegments, ZeroCopy]), [0, 1]);
        assert_eq!(coming_down(&[(ZeroCopy, Mode::ZeroCopy), (NativeSegments, Mode::Auto)]), [0; 0]);
    }
}
