//! How slots get their disks back: after a failed write or flush, and after the device was gone.
//!
//! ```text
//!             reads and flushes well by a new descriptor
//! failed ──────────────────────────────────────────────────► replace ──► serving
//!   │ it has vanished                                         ▲
//!   ▼                        found at its path, the same,     │
//! gone ──► let go by all ──► reads and flushes well ──────────┘
//! ```
//!
//! By itself only where each acknowledged write was durable: then nothing is lost that was promised. Elsewhere a failure may
//! have lost acknowledged writes of which their hosts know nothing, and the slot waits for `xshelf slot … recover`.
//! A write that was answered with an error is never tried again: hosts do that. The new descriptor is used only after
//! every command has ended that was given to the old one, so that no old write can come late.
//!
//! Not here: the worker's part (`worker`, `swap`), or what was seen first (`monitor`).
//! Invariant: nothing that a device may keep waiting runs in the caller's thread; a slot is given only what was compared with
//! the disk it had, and tried, by a descriptor that was opened for it.

use super::monitor::{Monitor, Place, WAITING};
use crate::appliance::control::Answer;
use crate::appliance::control::overview::Overview;
use crate::appliance::keeper::{Keeper, Opener};
use crate::frame::WorkerId;
use crate::limits;
use crate::protocol::Address;
use crate::shelf::{Condition, Tried, Why};
use crate::storage::device::{self, Alignment, Backing, Device, Durability, Identity, OpenError, Options};
use crate::storage::trial::{self, TrialError};
use crate::worker::{Cell, Control, Parcel, Shared};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::Level;

/// The pause between two tries, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// A slot that fails again so soon after it came back is tried less often.
const SOON: Duration = Duration::from_secs(60);
/// After how long a worker is told once more what it has not done.
const REMINDER: Duration = Duration::from_secs(10);

/// A line for the log.
type Line = (Level, String);

/// What the disk of a slot is known by.
#[derive(Clone, Debug)]
struct Known {
    path: PathBuf,
    options: Options,
    identity: Identity,
    backing: Backing,
    serial: String,
    /// Bytes that are served.
    size: u64,
    alignment: Option<Alignment>,
    durability: Durability,
}

impl Known {
    fn of(device: &Device) -> Self {
        Self {
            path: device.path().to_path_buf(),
            options: device.options(),
            identity: device.identity(),
            backing: device.backing(),
            serial: device.serial().to_owned(),
            size: device.size(),
            alignment: device.alignment(),
            durability: device.durability(),
        }
    }

    /// Whether a failure of it loses nothing that was acknowledged.
    fn loses_nothing(&self) -> bool {
        self.durability.holds() || self.durability == Durability::ReadOnly
    }

    /// What makes it another one, if that is so.
    fn is_another(&self, found: &Self) -> Option<String> {
        if found.backing != self.backing {
            Some(format!("it was a {} and is a {} now", self.backing, found.backing))
        } else if found.serial != self.serial {
            Some(format!(
                "it is another disk: its serial number was {} and is {} now",
                self.serial, found.serial
            ))
        } else {
            None
        }
    }

    /// What keeps a device from being served instead, if anything does. A file is known by its path and size only; a block
    /// device by its serial number, too.
    fn differs(&self, new: &Device) -> Option<String> {
        let found = Self::of(new);
        if let Some(what) = self.is_another(&found) {
            Some(what)
        } else if found.size != self.size {
            Some(format!("it is not as it was: it had {} bytes and has {} now", self.size, found.size))
        } else if found.alignment != self.alignment {
            Some("it is not as it was: it wants another alignment".to_owned())
        } else if found.durability != self.durability
            && !(found.durability.holds() && self.durability.holds())
        {
            Some(format!(
                "it is not as it was: durable was \"{}\" and is \"{}\" now",
                self.durability, found.durability
            ))
        } else {
            None
        }
    }
}

/// What an appliance leaves of a slot to the next one in the process: hosts take for their disk whatever is served then.
#[derive(Clone, Debug)]
pub struct Keepsake {
    known: Known,
    /// Its device was gone, so that another number of it says nothing.
    gone: bool,
}

impl Keepsake {
    /// Whether a failure of it loses nothing that was acknowledged.
    #[must_use]
    pub fn loses_nothing(&self) -> bool {
        self.known.loses_nothing()
    }

    /// What keeps a device from being served instead, if anything does. While a slot has its backing open nobody else gets
    /// its number; so the same number is the same one, whatever its size is by now, and a file of another number is another
    /// file that got its name.
    #[must_use]
    pub fn differs(&self, new: &Device) -> Option<String> {
        let Self { known, gone } = self;
        match (*gone, new.identity() == known.identity, new.backing()) {
            (false, true, _) => known.is_another(&Known::of(new)),
            (false, false, Backing::File) => {
                Some("it is another file than the one that was served until now".to_owned())
            }
            _ => known.differs(new),
        }
    }
}

/// Why a try did not bring a slot back.
#[derive(Debug, thiserror::Error)]
enum TryError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{}: {source}", path.display())]
    Trial { path: PathBuf, source: TrialError },
    #[error("{}: {what}; start xshelf again to serve it all the same", path.display())]
    Differs { path: PathBuf, what: String },
    #[error("cannot hold {}: {source}", path.display())]
    Hold { path: PathBuf, source: io::Error },
}

impl TryError {
    /// The errno, if it says that the device has vanished.
    fn gone(&self) -> Option<i32> {
        let source = match self {
            Self::Open(OpenError::Io { source, .. }) | Self::Hold { source, .. } => source,
            Self::Trial { source, .. } => &source.source,
            _ => return None,
        };
        source.raw_os_error().filter(|errno| crate::storage::Failure::Errno(*errno).is_gone())
    }
}

/// How a search ended.
enum Found {
    /// The devices of all that were sought, in their order.
    Devices(Vec<Device>),
    /// It has vanished; the value is an errno.
    Vanished(i32),
}

/// A thread that tries to open what was lost. It ends with success, or soon after this is dropped, as far as the device
/// lets it.
struct Search {
    found: Receiver<Found>,
    /// Why the last try failed.
    last: Arc<Mutex<String>>,
    /// Bytes of the first that is sought.
    size: u64,
    _wanted: Sender<()>,
}

impl Search {
    /// Starts it, for slots that share a backing: by way of `hold` if that is still there, else by their path.
    fn start(
        opener: &Arc<dyn Opener>,
        sought: Vec<Known>,
        hold: Option<OwnedFd>,
        pause: Duration,
    ) -> io::Result<Self> {
        let (sender, found) = sync_channel(1);
        let (wanted, unwanted) = channel();
        let last = Arc::new(Mutex::new(String::new()));
        let (opener, shown) = (Arc::clone(opener), Arc::clone(&last));
        let size = sought.first().map_or(0, |known| known.size);
        std::thread::Builder::new().name("xshelf-recover".into()).spawn(move || {
            let mut pause = pause;
            while unwanted.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                match attempt(&*opener, &sought, hold.as_ref()) {
                    Ok(found) => {
                        // If nobody wants them any more they are closed.
                        let _ = sender.send(found);
                        return;
                    }
                    Err(e) => *lock(&shown) = e.to_string(),
                }
                pause = (pause * 2).clamp(PAUSES.0, PAUSES.1);
            }
        })?;
        Ok(Self { found, last, size, _wanted: wanted })
    }

    fn last(&self) -> String {
        lock(&self.last).clone()
    }
}

fn lock(text: &Mutex<String>) -> MutexGuard<'_, String> {
    // What is in it is whole at any moment.
    text.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One try.
fn attempt(opener: &dyn Opener, sought: &[Known], hold: Option<&OwnedFd>) -> Result<Found, TryError> {
    let Some(hold) = hold else { return claim(opener, sought).map(Found::Devices) };
    let devices = sought.iter().map(|known| part(opener, known, hold)).collect::<Result<_, _>>();
    match devices {
        Ok(devices) => Ok(Found::Devices(devices)),
        Err(e) => e.gone().map(Found::Vanished).ok_or(e),
    }
}

/// Claims a backing by its path, for all slots that serve parts of it.
fn claim(opener: &dyn Opener, sought: &[Known]) -> Result<Vec<Device>, TryError> {
    let Some(first) = sought.first() else { return Ok(Vec::new()) };
    let read_only = sought.iter().all(|known| known.options.read_only);
    let claim = opener.claim(&first.path, Options { read_only, ..first.options })?;
    match sought {
        [known] => Ok(vec![tried(known, device::measure(claim, &known.path, known.options)?)?]),
        _ => sought.iter().map(|known| part(opener, known, &claim)).collect(),
    }
}

/// Opens again what `hold` holds.
fn part(opener: &dyn Opener, known: &Known, hold: &OwnedFd) -> Result<Device, TryError> {
    let Known { path, options, .. } = known;
    let copy = hold.try_clone().map_err(|source| TryError::Hold { path: path.clone(), source })?;
    let file = opener.open_again(hold.as_fd(), path, *options)?;
    tried(known, device::measure_part(file, copy, path, *options)?)
}

fn tried(known: &Known, device: Device) -> Result<Device, TryError> {
    let path = known.path.clone();
    if let Some(what) = known.differs(&device) {
        return Err(TryError::Differs { path, what });
    }
    trial::test(&device).map_err(|source| TryError::Trial { path, source })?;
    Ok(device)
}

/// How far a slot is on its way back.
enum Stage {
    /// It serves, or nothing has been begun yet.
    Well,
    /// It failed, and somebody has to say that it may recover.
    Waiting,
    /// It failed, and its backing is opened again and tried.
    Searching(Search),
    /// Its device is gone, and everybody who has it open is to let go of it; since when the worker knows.
    Leaving(Why, Option<Instant>),
    /// Nobody has its device open any more.
    Out,
    /// The same, and its device is looked for, for it and these others that share it.
    Seeking(Search, Vec<usize>),
    /// The worker has got another device for it, or will: how many it had before, and whether it was told.
    Replacing(u32, bool),
}

/// A slot, and what is known of it.
struct Case {
    address: Address,
    worker: WorkerId,
    number: u16,
    /// Equal for slots that share a backing.
    identity: Identity,
    known: Known,
    /// Keeps the claim, to open the backing again while it is there.
    hold: Option<OwnedFd>,
    /// As it was last seen.
    condition: Condition,
    since: Instant,
    /// It was said that its device does not answer.
    hung: Option<Duration>,
    /// Somebody has said that it may recover whatever was lost.
    ordered: bool,
    stage: Stage,
    /// The pause before the first try, and when it came back last.
    pause: Duration,
    back: Option<Instant>,
    /// Why it did not come back, as far as that was said.
    said: Vec<String>,
}

impl Case {
    /// Whether a failure loses nothing that was acknowledged.
    fn is_safe(&self) -> bool {
        self.known.loses_nothing()
    }

    fn may_recover(&self) -> bool {
        self.is_safe() || self.ordered
    }

    /// The pause before the first try.
    fn next_pause(&mut self) -> Duration {
        let again = self.back.is_some_and(|back| back.elapsed() < SOON);
        self.pause = if again { (self.pause * 2).min(SOON) } else { PAUSES.0 };
        self.pause
    }

    fn is_leaving(&self) -> bool {
        matches!(self.stage, Stage::Leaving(..) | Stage::Out | Stage::Seeking(..))
    }

    /// What comes next, for the status.
    fn next(&self) -> Option<String> {
        let address = self.address;
        let tried = |what: &str, search: &Search| match search.last() {
            last if last.is_empty() => format!("{what} every few seconds"),
            last => format!("{what} every few seconds; the last time: {last}"),
        };
        let ask = || format!("acknowledged writes may be lost: it waits for `xshelf slot {address} recover`");
        match &self.stage {
            Stage::Well => None,
            Stage::Waiting => Some(ask()),
            Stage::Out if !self.may_recover() => Some(ask()),
            Stage::Searching(search) => Some(tried("it is tried", search)),
            Stage::Leaving(..) => Some("its device has not given back all commands yet".to_owned()),
            Stage::Out => Some("it is looked for as soon as all slots have let go of it".to_owned()),
            Stage::Seeking(search, _) => Some(tried("it is looked for", search)),
            Stage::Replacing(..) => {
                Some("it is back, and served as soon as all commands of before have ended".to_owned())
            }
        }
    }
}

/// All slots of an appliance.
pub(super) struct Recovery {
    cases: Vec<Case>,
    opener: Arc<dyn Opener>,
}

impl Recovery {
    /// Looks after these slots, in the order that monitor and overview have them.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn start(slots: &[Place<'_>], keeper: &dyn Keeper) -> io::Result<Self> {
        let case = |place: &Place<'_>| {
            Ok(Case {
                address: place.address,
                worker: place.worker,
                number: place.number,
                identity: place.device.identity(),
                known: Known::of(place.device),
                hold: Some(place.device.hold()?),
                condition: Condition::Serving,
                since: Instant::now(),
                hung: None,
                ordered: false,
                stage: Stage::Well,
                pause: PAUSES.0,
                back: None,
                said: Vec::new(),
            })
        };
        Ok(Self { cases: slots.iter().map(case).collect::<io::Result<_>>()?, opener: keeper.opener() })
    }

    /// Looks how all slots are, and moves on those that do not serve; returns what should be logged.
    pub fn look(&mut self, shared: &Shared, overview: &Overview, monitor: &mut Monitor) -> Vec<Line> {
        let mut lines = Vec::new();
        for (at, errno) in monitor.vanished() {
            self.vanish(at, Why { tried: Tried::Look, errno });
        }
        for at in 0..self.cases.len() {
            let Some(cell) = overview.places().get(at).and_then(|place| overview.cell(place)) else {
                continue;
            };
            let collected = std::iter::from_fn(|| cell.collect()).map(close).count() > 0;
            lines.extend(self.cases[at].note(cell));
            self.advance(at, (shared, overview), collected, monitor, &mut lines);
        }
        self.seek(monitor, &mut lines);
        for (at, case) in self.cases.iter_mut().enumerate() {
            if let Stage::Searching(search) | Stage::Seeking(search, _) = &case.stage {
                let last = search.last();
                if !last.is_empty() && !case.said.contains(&last) {
                    let text = format!(
                        "slot {}: not served again yet: {last}; it is tried every few seconds",
                        case.address
                    );
                    lines.push((Level::WARN, text));
                    case.said.push(last);
                }
            }
            monitor.remark(at, case.since, case.next());
        }
        lines
    }

    /// What each slot is known by, for the appliance after this one.
    pub fn keepsakes(&self, monitor: &Monitor) -> BTreeMap<Address, Keepsake> {
        let keepsake = |(at, case): (usize, &Case)| {
            let gone = case.is_leaving() || matches!(case.condition, Condition::Gone(_));
            let known = Known { size: monitor.bytes(at), ..case.known.clone() };
            (case.address, Keepsake { known, gone })
        };
        self.cases.iter().enumerate().map(keepsake).collect()
    }

    /// The slots that do not serve as they should, in one line.
    pub fn status(&self) -> Option<String> {
        let word = |case: &Case| match (case.condition, case.hung) {
            (Condition::Serving, None) => None,
            (Condition::Serving, Some(_)) => Some(format!("{} hung", case.address)),
            (condition, _) => Some(format!("{} {condition}", case.address)),
        };
        let words: Vec<String> = self.cases.iter().filter_map(word).collect();
        (!words.is_empty()).then(|| format!("SLOTS IN TROUBLE: {}", words.join(", ")))
    }

    /// Somebody says that a slot may recover.
    pub fn order(&mut self, slot: Address) -> Answer {
        let Some(case) = self.cases.iter_mut().find(|case| case.address == slot) else {
            return Answer::Refused { text: format!("there is no slot {slot} here") };
        };
        if case.condition == Condition::Serving {
            return Answer::Done { text: format!("slot {slot} serves: there is nothing to recover from") };
        }
        let text = if case.may_recover() {
            let next = case.next().map_or(String::new(), |next| format!(": {next}"));
            format!("slot {slot} recovers as soon as its device works again{next}")
        } else {
            case.ordered = true;
            tracing::warn!(
                "slot {slot}: it is to recover although acknowledged writes may be lost: somebody has said so"
            );
            format!(
                "slot {slot}: its device is opened and tried from now on; `xshelf status` tells how that ends"
            )
        };
        Answer::Done { text }
    }

    /// The backing of a slot is gone, and so it is for all that share it.
    fn vanish(&mut self, at: usize, why: Why) {
        let Some(identity) = self.cases.get(at).map(|case| case.identity) else { return };
        for case in self.cases.iter_mut().filter(|case| case.identity == identity && !case.is_leaving()) {
            case.stage = Stage::Leaving(why, None);
            case.hold = None;
        }
    }

    /// Moves a slot on, if it is its turn. `collected`: the worker has given a backing back.
    fn advance(
        &mut self,
        at: usize,
        (shared, overview): (&Shared, &Overview),
        collected: bool,
        monitor: &mut Monitor,
        lines: &mut Vec<Line>,
    ) {
        let Some(cell) = overview.places().get(at).and_then(|place| overview.cell(place)) else { return };
        let case = &mut self.cases[at];
        if let (Condition::Gone(why), false) =
            (case.condition, case.is_leaving() || matches!(case.stage, Stage::Replacing(..)))
        {
            return self.vanish(at, why);
        }
        let (worker, slot) = (case.worker, case.number);
        let (failed, may) = (matches!(case.condition, Condition::Failed(_)), case.may_recover());
        let mut found = None;
        match &mut case.stage {
            Stage::Well if failed && !may => {
                case.stage = Stage::Waiting;
                let address = case.address;
                let text = format!(
                    "slot {address}: writes that were acknowledged may be lost, so it does not recover by itself; check \
                     the file systems of its hosts, then: xshelf slot {address} recover"
                );
                lines.push((Level::WARN, text));
            }
            Stage::Well | Stage::Waiting if failed && may => {
                let pause = case.next_pause();
                let known = Known { size: monitor.bytes(at), ..case.known.clone() };
                let hold = case.hold.as_ref().and_then(|hold| hold.try_clone().ok());
                match hold.map(|hold| Search::start(&self.opener, vec![known], Some(hold), pause)) {
                    Some(Ok(search)) => case.stage = Stage::Searching(search),
                    // No thread is left; later there may be one.
                    Some(Err(e)) => tracing::debug!("slot {}: {e}", case.address),
                    // It can only be claimed anew.
                    None => self.vanish(at, Why { tried: Tried::Reopen, errno: libc::EBADF }),
                }
            }
            Stage::Well | Stage::Waiting | Stage::Out => {}
            // It has grown or shrunk, which is known by now and no reason to wait.
            Stage::Searching(search) if search.size != monitor.bytes(at) => case.stage = Stage::Well,
            Stage::Searching(search) => match search.found.try_recv() {
                Ok(Found::Devices(devices)) => found = Some((vec![at], devices)),
                Ok(Found::Vanished(errno)) => self.vanish(at, Why { tried: Tried::Reopen, errno }),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => case.stage = Stage::Well,
            },
            Stage::Leaving(why, told) => {
                let out = monitor.release(at);
                // It was about to get another one, which is gone as well.
                let _ = cell.take().map(close);
                if !matches!(case.condition, Condition::Gone(_)) {
                    tell(shared, worker, Control::Gone { slot, why: *why });
                }
                if told.is_none_or(|told| told.elapsed() > REMINDER)
                    && tell(shared, worker, Control::Release { slot })
                {
                    *told = Some(Instant::now());
                }
                if out && cell.is_bare() {
                    case.stage = Stage::Out;
                }
            }
            Stage::Seeking(search, members) => match search.found.try_recv() {
                Ok(Found::Devices(devices)) => found = Some((std::mem::take(members), devices)),
                // Of a search by path that says nothing more than that it was not there.
                Ok(Found::Vanished(_)) | Err(TryRecvError::Disconnected) => case.stage = Stage::Out,
                Err(TryRecvError::Empty) => {}
            },
            Stage::Replacing(before, told) => {
                *told = *told || tell(shared, worker, Control::Replace { slot });
                if cell.swaps() != *before {
                    (case.stage, case.back, case.ordered) = (Stage::Well, Some(Instant::now()), false);
                    case.said.clear();
                } else if collected {
                    // The kernel did not take it, and the worker has said so.
                    case.stage = if cell.is_bare() { Stage::Out } else { Stage::Well };
                }
            }
        }
        let Some((members, devices)) = found else { return };
        for (at, device) in members.into_iter().zip(devices) {
            self.hand_over(at, device, overview, monitor);
        }
    }

    /// Lays another device out for the worker of a slot.
    fn hand_over(&mut self, at: usize, device: Device, overview: &Overview, monitor: &mut Monitor) {
        let Some(case) = self.cases.get_mut(at) else { return };
        let Some(cell) = overview.places().get(at).and_then(|place| overview.cell(place)) else { return };
        let held = device.hold().and_then(|hold| {
            if case.is_leaving() {
                monitor.adopt(at, &device)?;
            }
            Ok(hold)
        });
        match held {
            Ok(hold) => case.hold = Some(hold),
            // It serves without, and is claimed anew when it fails.
            Err(e) => tracing::debug!("slot {}: {e}", case.address),
        }
        case.known = Known::of(&device);
        case.stage = Stage::Replacing(cell.swaps(), false);
        cell.bring(Box::new(device));
    }

    /// Looks for the devices that everybody has let go of.
    fn seek(&mut self, monitor: &Monitor, lines: &mut Vec<Line>) {
        for at in 0..self.cases.len() {
            if !matches!(self.cases[at].stage, Stage::Out) {
                continue;
            }
            let identity = self.cases[at].identity;
            let members = (0..self.cases.len()).filter(|other| self.cases[*other].identity == identity);
            let members: Vec<usize> = members.collect();
            let ready = |other: &usize| {
                let case = &self.cases[*other];
                matches!(case.stage, Stage::Out) && case.may_recover()
            };
            if !members.iter().all(ready) {
                let case = &mut self.cases[at];
                let text = format!(
                    "writes that were acknowledged may be lost; it waits for: xshelf slot {} recover",
                    case.address
                );
                if !case.may_recover() && !case.said.contains(&text) {
                    lines.push((Level::WARN, format!("slot {}: {text}", case.address)));
                    case.said.push(text);
                }
                continue;
            }
            let sought = members.iter().map(|other| {
                let case = &self.cases[*other];
                Known { size: monitor.bytes(*other), ..case.known.clone() }
            });
            let sought = sought.collect();
            let pause = self.cases[at].next_pause();
            match Search::start(&self.opener, sought, None, pause) {
                Ok(search) => self.cases[at].stage = Stage::Seeking(search, members),
                Err(e) => tracing::debug!("slot {}: {e}", self.cases[at].address),
            }
        }
    }
}

impl Case {
    /// Notes how it is, and says what is new.
    fn note(&mut self, cell: &Cell) -> Vec<Line> {
        // In this order: what a device that vanished has kept waiting ends after the slot is known to have lost it.
        let waited = cell.waited();
        let mut lines = Vec::from_iter(self.note_condition(cell.condition()));
        lines.extend(self.note_wait(waited));
        lines
    }

    /// Notes the condition it is in; what is worse than before its worker has said.
    fn note_condition(&mut self, condition: Condition) -> Option<Line> {
        let (address, path) = (self.address, self.known.path.display());
        let mut line = None;
        if condition != self.condition {
            if condition == Condition::Serving {
                let known = match self.known.backing {
                    Backing::Block => "known by its path, serial number and size",
                    Backing::File => "known by its path and size",
                };
                line = Some((
                    Level::INFO,
                    format!(
                        "slot {address}: {path} is served again after {} s: {known}, its first and last sector can be read, \
                         and what it had cached is flushed",
                        self.since.elapsed().as_secs()
                    ),
                ));
            }
            (self.condition, self.since) = (condition, Instant::now());
        }
        line
    }

    /// Notes how long its device has had the command that it has had longest.
    fn note_wait(&mut self, waited: Duration) -> Option<Line> {
        let (address, path) = (self.address, self.known.path.display());
        match (self.hung, waited >= limits::HUNG) {
            (None, true) => {
                let text = format!(
                    "slot {address}: {path} has not answered a command for {} s; its hosts wait, other slots are served",
                    waited.as_secs()
                );
                self.hung = Some(waited);
                Some((Level::WARN, text))
            }
            (Some(longest), true) => {
                self.hung = Some(longest.max(waited));
                None
            }
            (Some(longest), false) => {
                self.hung = None;
                let text =
                    format!("slot {address}: {path} answers again, after {} s or more", longest.as_secs());
                // One that has vanished has not answered: the kernel has given up on it.
                let gone = matches!(self.condition, Condition::Gone(_));
                (!gone).then_some((Level::INFO, text))
            }
            (None, false) => None,
        }
    }
}

/// Gives a worker a command, unless it has not taken those before.
fn tell(shared: &Shared, worker: WorkerId, command: Control) -> bool {
    let post = shared.posts.get(usize::from(worker.0));
    post.is_some_and(|post| post.commands() < WAITING && post.command(command).is_ok())
}

/// Closes a backing that a worker gave back, where that may take its time.
pub(super) fn close(parcel: Parcel) {
    let closing = std::thread::Builder::new().name("xshelf-close".into()).spawn(move || drop(parcel));
    if let Err(e) = closing {
        tracing::debug!("a backing was closed without a thread of its own: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appliance::keeper::DirectKeeper;
    use std::fs::{self, File};
    use std::path::Path;

    fn image(path: &Path, bytes: u64) {
        File::create(path).unwrap().set_len(bytes).unwrap();
    }

    fn open(path: &Path, options: Options) -> Device {
        device::open(path, options).unwrap()
    }

    #[test]
    fn another_disk_is_told_from_the_one_that_was_lost() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let (a, b) = (directory.path().join("a"), directory.path().join("b"));
        image(&a, 1 << 20);
        image(&b, 1 << 20);
        let known = Known::of(&open(&a, Options::default()));
        assert_eq!(known.differs(&open(&a, Options::default())), None);
        // A file is another one elsewhere: hosts know it by a serial number made of its path.
        let says = |device: Device| known.differs(&device).unwrap();
        assert!(says(open(&b, Options::default())).starts_with("it is another disk: its serial number was "));
        let late = open(&a, Options { write_back: true, ..Options::default() });
        assert!(says(late).contains("durable was \"yes"), "less is promised");
        image(&a, 1 << 19);
        assert_eq!(
            says(open(&a, Options::default())),
            "it is not as it was: it had 1048576 bytes and has 524288 now"
        );
    }

    #[test]
    fn what_is_still_held_is_opened_again_and_what_was_let_go_is_claimed_by_its_path() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = directory.path().join("a");
        image(&path, 1 << 20);
        let old = open(&path, Options::default());
        let (known, hold) = (Known::of(&old), old.hold().unwrap());
        fs::rename(&path, directory.path().join("moved")).unwrap();
        image(&path, 1 << 20);
        let inode = |found: Result<Found, TryError>| match found {
            Ok(Found::Devices(devices)) => match devices[..] {
                [ref device] => device.identity(),
                _ => panic!("{} devices", devices.len()),
            },
            Ok(Found::Vanished(errno)) => panic!("vanished: {errno}"),
            Err(e) => panic!("{e}"),
        };
        let again = inode(attempt(&DirectKeeper, std::slice::from_ref(&known), Some(&hold)));
        assert_eq!(again, old.identity(), "the file that was served, wherever it is now");
        let new = inode(attempt(&DirectKeeper, std::slice::from_ref(&known), None));
        assert_eq!(new, device::identity(&path).unwrap());
        assert_ne!(new, again);
        // Nothing there, and nothing to be read there.
        fs::remove_file(&path).unwrap();
        let error = attempt(&DirectKeeper, std::slice::from_ref(&known), None).err().unwrap();
        assert!(error.to_string().contains(" does not exist") && error.gone().is_none(), "{error}");
        // Parts of one backing share the claim that one of them makes.
        image(&path, 1 << 20);
        let part = |offset, length| {
            Known::of(&open(&path, Options { offset, length: Some(length), ..Options::default() }))
        };
        let sought = [part(0, 4096), part(8192, 4096)];
        let Ok(Found::Devices(devices)) = attempt(&DirectKeeper, &sought, None) else { panic!() };
        assert_eq!(devices.iter().map(Device::start).collect::<Vec<_>>(), [0, 8192]);
        let error = device::open(&path, Options::default()).unwrap_err().to_string();
        assert!(error.contains("used by another program"), "{error}");
        drop(devices);
        open(&path, Options::default());
    }

    #[test]
    fn a_device_that_hangs_and_then_vanishes_is_not_said_to_answer_again() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = directory.path().join("a");
        image(&path, 1 << 20);
        let device = open(&path, Options::default());
        let mut case = Case {
            address: "7.0".parse().unwrap(),
            worker: WorkerId(0),
            number: 0,
            identity: device.identity(),
            known: Known::of(&device),
            hold: None,
            condition: Condition::Serving,
            since: Instant::now(),
            hung: None,
            ordered: false,
            stage: Stage::Well,
            pause: PAUSES.0,
            back: None,
            said: Vec::new(),
        };
        let gone = Condition::Gone(Why { tried: Tried::Read, errno: libc::ENODEV });
        for (end, said) in [(Condition::Serving, true), (gone, false)] {
            assert!(case.note_wait(limits::HUNG).unwrap().1.contains(" has not answered a command for "));
            assert_eq!(case.note_wait(limits::HUNG * 2), None, "it is said once");
            assert_eq!(case.note_condition(end), None);
            let line = case.note_wait(Duration::ZERO);
            assert_eq!(line.is_some_and(|(_, text)| text.contains(" answers again, after ")), said, "{end}");
            assert_eq!((case.hung, case.note_wait(Duration::ZERO)), (None, None));
        }
    }

    #[test]
    fn a_new_start_takes_what_was_served_and_nothing_else() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let (path, other) = (directory.path().join("a"), directory.path().join("b"));
        image(&path, 1 << 20);
        let known = Known::of(&open(&path, Options::default()));
        let keepsake = |gone| Keepsake { known: known.clone(), gone };
        let now = || open(&path, Options::default());
        assert_eq!(keepsake(false).differs(&now()), None);
        // It grew, and nobody has looked since.
        File::options().write(true).open(&path).unwrap().set_len(2 << 20).unwrap();
        assert_eq!(keepsake(false).differs(&now()), None);
        fs::rename(&path, &other).unwrap();
        image(&path, 1 << 20);
        let differs = keepsake(false).differs(&now()).unwrap();
        assert!(differs.starts_with("it is another file "), "{differs}");
        // On a file system that was mounted anew the same file has another number.
        assert_eq!(keepsake(true).differs(&now()), None);
        image(&path, 2 << 20);
        let differs = keepsake(true).differs(&now()).unwrap();
        assert!(differs.starts_with("it is not as it was: it had 1048576 bytes"), "{differs}");
        let differs = keepsake(false).differs(&open(&other, Options::default())).unwrap();
        assert!(
            differs.starts_with("it is another disk: its serial number"),
            "the same file elsewhere: {differs}"
        );
    }

    #[test]
    fn a_search_ends_with_whoever_wants_it() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = directory.path().join("a");
        image(&path, 1 << 20);
        let known = Known::of(&open(&path, Options::default()));
        fs::remove_file(&path).unwrap();
        let opener: Arc<dyn Opener> = Arc::new(DirectKeeper);
        let start = || Search::start(&opener, vec![known.clone()], None, Duration::from_millis(1)).unwrap();
        let search = start();
        while search.last().is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(search.last().contains("does not exist"), "{}", search.last());
        let Search { found, _wanted: wanted, .. } = search;
        drop(wanted);
        // The thread has the other end of it.
        assert!(found.recv().is_err());
        let search = start();
        image(&path, 1 << 20);
        assert!(matches!(search.found.recv(), Ok(Found::Devices(devices)) if devices.len() == 1));
    }
}
