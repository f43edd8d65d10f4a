//! The service from its first start to its end: an appliance, and the next one when its ports need that.
//!
//! ```text
//!            a port is another one              starts
//! appliance ───────────────────────► stop ──┬──────────────► appliance
//!                                           └──► wait ──┘ ▲
//!                                                 └───────┘ tries again
//! ```
//!
//! Not here: how an appliance is put together (`start`), or what has become of a port (`ports`).
//! Invariant: a slot is opened again only when nothing that was sent to its device before can be carried out any more.

use super::slots;
use super::start::{Appliance, Causes, Held, Past, StartError, Stopped, obstacles};
use crate::appliance::config::{Config, Interface, Rivals, Slot};
use crate::appliance::control::overview::Overview;
use crate::appliance::control::{Answer, Order};
use crate::appliance::keeper::Keeper;
use crate::appliance::notify;
use crate::appliance::topology::TopologyError;
use crate::frame::WorkerId;
use crate::net::nic::Facts;
use crate::protocol::Address;
use crate::shelf::{Tried, Why};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

/// How long commands in flight have to end before another appliance is started: hosts wait as long, and more than a disk
/// in good order takes.
const PATIENCE: Duration = Duration::from_secs(3);
/// After how long a start is tried again, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// After how long a slot or an interface is tried again that is there and could not be had, at first and at most.
const SLOTS: Duration = Duration::from_secs(30);
const SELDOM: Duration = Duration::from_secs(1800);

/// What runs.
enum Now {
    Serving(Box<Appliance>),
    /// Nothing, until the next try.
    Waiting {
        why: String,
        next: Instant,
        pause: Duration,
        /// The reasons that were said.
        said: BTreeSet<String>,
    },
}

/// A slot that is not served, though it is configured.
struct LeftOut {
    slot: Slot,
    /// When to try it next.
    next: Instant,
    /// Tells whether it can be had, once that is known.
    probe: Option<Receiver<bool>>,
}

/// An interface that is not served on, though it is configured.
struct Awaited {
    interface: Interface,
    /// When to look at it next.
    next: Instant,
}

/// The service.
pub(super) struct Service<'a> {
    config: &'a Config,
    keeper: &'a dyn Keeper,
    past: Past,
    now: Now,
    /// What the kernel still does for workers of before; their slots stay closed.
    held: Vec<Held>,
    /// Slots that could not be opened when it was started again.
    left_out: Vec<LeftOut>,
    /// Slots that another target had at the first start: they are not begun with in the middle of everything.
    refused: BTreeSet<Address>,
    /// Slots that another target has begun to answer for while they were served: they are not given up.
    contested: BTreeSet<Address>,
    /// Interfaces that could not be served on when it was started again.
    awaited: Vec<Awaited>,
    /// How long is waited now before something is tried again, by its name.
    pauses: BTreeMap<String, Duration>,
    /// Whether an appliance lost frames.
    defective: bool,
    /// How the last appliance is, or was.
    overview: Arc<Overview>,
}

impl<'a> Service<'a> {
    /// Starts it for the first time.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind then.
    pub(super) fn start(config: &'a Config, keeper: &'a dyn Keeper) -> Result<Self, StartError> {
        let mut past = Past::default();
        let appliance = Appliance::start(config, keeper, &mut past)?;
        past.again = true;
        tracing::info!("{appliance}");
        Ok(Self {
            config,
            keeper,
            past,
            overview: appliance.overview(),
            now: Now::Serving(Box::new(appliance)),
            held: Vec::new(),
            left_out: Vec::new(),
            refused: BTreeSet::new(),
            contested: BTreeSet::new(),
            awaited: Vec::new(),
            pauses: BTreeMap::new(),
            defective: false,
        })
    }

    /// What is served, and before that what is wrong, in one line.
    pub(super) fn status(&self) -> String {
        let now = match &self.now {
            Now::Serving(appliance) => appliance.status(),
            Now::Waiting { why, .. } => format!("nothing is served: {why}"),
        };
        self.missing().into_iter().chain([now]).collect::<Vec<_>>().join("; ")
    }

    /// What is configured and not served.
    fn missing(&self) -> Vec<String> {
        let held = self.held.iter().flat_map(|held| &held.slots);
        let mut slots: Vec<Address> =
            held.copied().chain(self.left_out.iter().map(|l| l.slot.address)).collect();
        slots.sort_unstable();
        let slots: Vec<String> = slots.iter().map(Address::to_string).collect();
        let slots = (!slots.is_empty()).then(|| format!("not served for now: {}", slots.join(" ")));
        let refused: Vec<String> = self.refused.iter().map(Address::to_string).collect();
        let refused = (!refused.is_empty())
            .then(|| format!("not served because another target had the address: {}", refused.join(" ")));
        let ports: Vec<&str> = self.awaited.iter().map(|awaited| awaited.interface.name.as_str()).collect();
        let ports = (!ports.is_empty()).then(|| format!("waiting for {}", ports.join(", ")));
        slots.into_iter().chain(refused).chain(ports).collect()
    }

    /// How it is, for whoever asks.
    pub(super) fn overview(&self) -> &Arc<Overview> {
        &self.overview
    }

    /// Carries an order out, and answers it.
    pub(super) fn obey(&mut self, order: &Order) {
        let absent = self.absent(order.slot);
        let answer = match (&mut self.now, absent) {
            (Now::Waiting { why, .. }, _) => Answer::Refused { text: format!("nothing is served: {why}") },
            (Now::Serving(_), Some(text)) => Answer::Refused { text },
            (Now::Serving(appliance), None) => appliance.obey(order.slot),
        };
        // Who asked may not have waited.
        let _ = order.reply.try_send(answer);
    }

    /// Why a slot is not served that is configured, if that is so.
    fn absent(&self, slot: Address) -> Option<String> {
        let why = if self.held.iter().any(|held| held.slots.contains(&slot)) {
            "before its device has answered all it was sent; check the device"
        } else if self.left_out.iter().any(|left| left.slot.address == slot) {
            "until its device can be opened again, which is tried by itself; the log says what is wrong with it"
        } else if self.refused.contains(&slot) {
            "because another target had its address when xshelf was started; start xshelf again"
        } else {
            return None;
        };
        Some(format!("slot {slot} is not served {why}"))
    }

    /// Workers that ended without being told, which is a defect.
    pub(super) fn dead_workers(&self) -> Vec<WorkerId> {
        match &self.now {
            Now::Serving(appliance) => appliance.dead_workers(),
            Now::Waiting { .. } => Vec::new(),
        }
    }

    /// Looks after what runs, and starts it again where that is needed and possible.
    pub(super) fn look(&mut self) {
        match &mut self.now {
            Now::Serving(appliance) => {
                appliance.look(self.keeper);
                if let Some(why) = appliance.worn().map(str::to_owned).or_else(|| self.news()) {
                    self.renew(&why);
                }
            }
            Now::Waiting { next, .. } if *next <= Instant::now() => self.try_again(),
            Now::Waiting { .. } => {}
        }
        let mut missing = self.missing();
        let waiting = match &self.now {
            Now::Serving(_) => false,
            Now::Waiting { why, .. } => {
                missing.insert(0, format!("nothing is served: {why}"));
                true
            }
        };
        self.overview.note_service(waiting, missing);
    }

    /// Why more can be served than is, if so.
    fn news(&mut self) -> Option<String> {
        if let Some(over) = self.held.iter().position(|held| held.worker.is_over()) {
            let slots: Vec<String> = self.held.remove(over).slots.iter().map(Address::to_string).collect();
            return Some(format!("slot {}: the device has answered", slots.join(" ")));
        }
        let (config, keeper, now) = (self.config, self.keeper, Instant::now());
        let mut due =
            self.awaited.iter().filter(|awaited| awaited.next <= now).map(|awaited| &awaited.interface);
        if let Some(back) = due.find(|interface| usable(interface, &config.slots, keeper).is_ok()) {
            return Some(format!("{}: it can be served on again", back.name));
        }
        for LeftOut { slot, next, probe } in &mut self.left_out {
            match probe.as_ref().map(Receiver::try_recv) {
                Some(Ok(true)) => {
                    // It is asked again right before it is opened.
                    *probe = None;
                    return Some(format!(
                        "slot {}: {} can be opened again",
                        slot.address,
                        slot.path.display()
                    ));
                }
                // Its device is a long time in answering.
                Some(Err(TryRecvError::Empty)) => {}
                Some(Ok(false) | Err(TryRecvError::Disconnected)) => *probe = None,
                None if *next <= now => {
                    *next = now + SLOTS;
                    let before = self.past.known.get(&slot.address).cloned();
                    *probe = slots::probe(slot, keeper.opener(), before)
                        .inspect_err(|e| tracing::debug!("slot {}: {e}", slot.address))
                        .ok();
                }
                None => {}
            }
        }
        None
    }

    /// Ends what runs and starts another.
    fn renew(&mut self, why: &str) {
        tracing::warn!(
            "{why}; starting again in place: commands in flight have {} s to end, and hosts repeat the others",
            PATIENCE.as_secs()
        );
        // Whoever asks meanwhile is not told that all is well.
        self.overview.note_service(true, vec![format!("starting again in place: {why}")]);
        notify::status(&format!("starting again in place: {why}"));
        let (next, said) = (Instant::now(), BTreeSet::new());
        let waiting = Now::Waiting { why: why.to_owned(), next, pause: PAUSES.0, said };
        if let Now::Serving(appliance) = std::mem::replace(&mut self.now, waiting) {
            notify::alive();
            let mut stopped = appliance.stop(PATIENCE, false);
            stopped.log(false);
            self.defective |= stopped.drained && !stopped.is_clean();
            self.refused.extend(stopped.refused.drain(..));
            self.contested.extend(stopped.contested.drain(..).filter(|slot| !self.refused.contains(slot)));
            // What has recovered since is well.
            self.past.failed.retain(|slot, _| !self.overview.serves(*slot));
            self.past.failed.extend(self.overview.failed());
            self.past.known.append(&mut stopped.known);
            self.past.watch = std::mem::take(&mut stopped.watch);
            if let (true, Some(archive)) = (stopped.state_hangs, &mut self.past.archive) {
                archive.abandon();
            }
            self.doubt(&stopped);
            for held in stopped.held.drain(..).filter(|held| !held.slots.is_empty()) {
                for slot in &held.slots {
                    tracing::error!(
                        "slot {slot}: its device has not answered all it was sent, so the slot is not served until it \
                         has: what is in flight could be written after newer data; check the device"
                    );
                }
                self.held.push(held);
            }
        }
        // Whatever keeps these from being served may be over; but a device that has not answered yet is not asked again.
        self.left_out.retain(|left| left.probe.is_some());
        self.awaited.clear();
        self.try_again();
        // Also where it is what was said before this.
        notify::status(&self.status());
    }

    /// Of a slot whose device had not answered all when it was let go, nobody will hear whether a flush failed: if that is
    /// what its writes rely on, it promises nothing any more.
    fn doubt(&mut self, stopped: &Stopped) {
        let busy = stopped.busy.iter().filter_map(|(slot, _)| slot.parse().ok());
        let slots: BTreeSet<Address> =
            busy.chain(stopped.held.iter().flat_map(|held| held.slots.iter().copied())).collect();
        for slot in slots {
            if self.past.known.get(&slot).is_some_and(|known| !known.loses_nothing()) {
                tracing::error!(
                    "slot {slot}: whether a flush of its device failed meanwhile is not known, and writes that were \
                     acknowledged may be lost with it: it takes no more writes until `xshelf slot {slot} recover`"
                );
                self.past.failed.entry(slot).or_insert(Why { tried: Tried::Flush, errno: libc::ETIMEDOUT });
            }
        }
    }

    /// Starts an appliance of what can be had.
    fn try_again(&mut self) {
        notify::alive();
        self.held.retain(|held| !held.worker.is_over());
        let started = self.start_again();
        notify::alive();
        match started {
            Ok(appliance) => {
                tracing::info!("started again: {appliance}");
                self.overview = appliance.overview();
                self.now = Now::Serving(Box::new(appliance));
            }
            Err(e) => {
                let reason = Causes(&e).to_string();
                if let Now::Waiting { why, next, pause, said } = &mut self.now {
                    if said.insert(reason.clone()) {
                        tracing::error!("nothing is served: {reason}; trying again every few seconds");
                    }
                    *why = reason;
                    *next = Instant::now() + *pause;
                    *pause = (*pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    /// Of these slots, those whose device lets whoever opens it wait, as one does that hangs: nobody else waits for it.
    fn hanging(&mut self, slots: &[Slot]) -> BTreeSet<Address> {
        let mut asked = Vec::new();
        for slot in slots {
            // One that did not answer the last time is still being asked.
            let before = self.left_out.iter().position(|left| left.slot.address == slot.address);
            let before = before.map(|at| self.left_out.remove(at)).and_then(|left| left.probe);
            let known = self.past.known.get(&slot.address).cloned();
            // Without a thread to ask in there is no other way than to open it.
            let probe = before.or_else(|| slots::probe(slot, self.keeper.opener(), known).ok());
            asked.extend(probe.map(|probe| (slot, probe)));
        }
        let until = Instant::now() + PATIENCE;
        let mut hanging = BTreeSet::new();
        for (slot, probe) in asked {
            let left = until.saturating_duration_since(Instant::now());
            // What else is wrong with it, whoever opens it will say.
            if let Err(RecvTimeoutError::Timeout) = probe.recv_timeout(left) {
                tracing::error!(
                    "slot {}: {} does not answer whoever opens it; the slot is not served until it does - check the device",
                    slot.address,
                    slot.path.display()
                );
                hanging.insert(slot.address);
                self.left_out.push(LeftOut { slot: slot.clone(), next: Instant::now(), probe: Some(probe) });
            }
        }
        hanging
    }

    fn start_again(&mut self) -> Result<Appliance, StartError> {
        let mut config = self.config.clone();
        let (mut away, mut refused, mut closed) = (Vec::new(), Vec::new(), Vec::new());
        config.interfaces.retain(|interface| match usable(interface, &self.config.slots, self.keeper) {
            Ok(()) => true,
            Err(e) => {
                away.push((interface.clone(), e));
                false
            }
        });
        let held: BTreeSet<Address> = self.held.iter().flat_map(|held| held.slots.iter().copied()).collect();
        config.slots.retain(|slot| !held.contains(&slot.address) && !self.refused.contains(&slot.address));
        for slot in config.slots.iter_mut().filter(|slot| self.contested.contains(&slot.address)) {
            if slot.rivals == Rivals::Refuse {
                slot.rivals = Rivals::Alarm;
            }
        }
        let hanging = self.hanging(&config.slots);
        config.slots.retain(|slot| !hanging.contains(&slot.address));
        let appliance = loop {
            if config.interfaces.is_empty() {
                return Err(refused
                    .into_iter()
                    .chain(away)
                    .map(|(_, e)| e)
                    .next()
                    .unwrap_or(StartError::Unsure));
            }
            if config.slots.is_empty() {
                let slots: Vec<String> = self.config.slots.iter().map(|s| s.address.to_string()).collect();
                return Err(closed.pop().map_or(StartError::AllHeld { slots: slots.join(" ") }, |(_, e)| e));
            }
            if config.interfaces.len() < self.config.interfaces.len() {
                // There may be fewer workers than slots ask for, and to be served by another is better than not at all.
                config.slots.iter_mut().for_each(|slot| slot.worker = None);
            }
            let e = match Appliance::start(&config, self.keeper, &mut self.past) {
                Ok(appliance) => break appliance,
                Err(e) => e,
            };
            // There are fewer queues than there were: served by another worker is better than not at all.
            if matches!(e, StartError::Topology(TopologyError::NoSuchWorker { .. }))
                && config.slots.iter().any(|slot| slot.worker.is_some())
            {
                tracing::warn!("{}; slots go to the workers there are", Causes(&e));
                config.slots.iter_mut().for_each(|slot| slot.worker = None);
                continue;
            }
            // The others can do without it.
            if let StartError::Slot(slot) = &e {
                let address = slot.address();
                if let Some(at) = config.slots.iter().position(|slot| slot.address == address) {
                    closed.push((config.slots.remove(at), e));
                    continue;
                }
            }
            let named = |interface: &Interface| e.interface() == Some(interface.name.as_str());
            match config.interfaces.iter().position(named) {
                Some(at) if config.interfaces.len() > 1 => refused.push((config.interfaces.remove(at), e)),
                _ => return Err(e),
            }
        };
        // A slot or an interface that is there and cannot be had is not worth a pause of the others again and again.
        let mut pauses = BTreeMap::new();
        for (slot, e) in closed {
            tracing::error!("{}; the slot is not served until it can be opened", Causes(&e));
            let next = self.next_try(&mut pauses, slot.address.to_string());
            self.left_out.push(LeftOut { slot, next, probe: None });
        }
        for (interface, e) in refused {
            tracing::error!("{}; {} is not served on until it can be", Causes(&e), interface.name);
            let next = self.next_try(&mut pauses, interface.name.clone());
            self.awaited.push(Awaited { interface, next });
        }
        for (interface, e) in away {
            tracing::error!("{}; {} is not served on until then", Causes(&e), interface.name);
            self.awaited.push(Awaited { interface, next: Instant::now() });
        }
        self.pauses = pauses;
        Ok(appliance)
    }

    /// When to try something again that could not be had: after twice the time of before.
    fn next_try(&self, pauses: &mut BTreeMap<String, Duration>, what: String) -> Instant {
        let pause = self.pauses.get(&what).map_or(SLOTS, |before| (*before * 2).min(SELDOM));
        pauses.insert(what, pause);
        Instant::now() + pause
    }

    /// Ends it; says whether all was well to the end.
    pub(super) fn stop(self, patience: Duration) -> bool {
        let clean = match self.now {
            Now::Serving(appliance) => {
                let stopped = appliance.stop(patience, true);
                stopped.log(true);
                stopped.is_clean()
            }
            Now::Waiting { why, .. } => {
                tracing::info!("stopped; nothing was served: {why}");
                true
            }
        };
        let held = self.held.iter().filter(|held| !held.worker.is_over()).count();
        if held > 0 {
            tracing::error!(
                "{held} threads of this process still wait for their device; what it was sent may be carried out later"
            );
        }
        clean && held == 0 && !self.defective
    }
}

/// Whether an interface can be served on now.
fn usable(interface: &Interface, slots: &[Slot], keeper: &dyn Keeper) -> Result<(), StartError> {
    let facts: Facts = keeper.facts(&interface.name)?;
    obstacles(&facts, slots).into_iter().next().map_or(Ok(()), Err)
}
