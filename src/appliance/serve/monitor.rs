//! Notices what changes while it is served: the size and the health of backings, MTU and carrier of ports. The
//! workers are told, and so is the log.
//!
//! Not here: what a worker makes of it (it announces and answers by it), counters (`watch`), or ports that have to be
//! opened again (`ports`). Changes between two looks that undo each other are not noticed.
//! Invariant: nothing that a device or file system may keep waiting runs in the caller's thread; and what a worker has no
//! room for is told with a later look, never forgotten.

use super::start::Causes;
use crate::appliance::control::overview::SlotNote;
use crate::appliance::keeper::{Examiner, Keeper};
use crate::frame::{PortId, WorkerId};
use crate::limits;
use crate::limits::SECTOR;
use crate::net::nic::{Link, NicError};
use crate::protocol::Address;
use crate::shelf::Health;
use crate::storage::Failure;
use crate::storage::device::{Device, Gauge};
use crate::storage::health::{Condition, Patient, Report};
use crate::worker::{Control, Shared};
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};
use tracing::Level;

/// How often sizes are looked at.
const SIZES: Duration = Duration::from_secs(1);
/// How often disks are asked for their health.
const HEALTH: Duration = Duration::from_secs(60);
/// Commands that may wait for a worker before it is given more: its ring has to have room for the answers it waits for.
pub(super) const WAITING: usize = 8;

/// What is said when disks may not be asked.
const FORBIDDEN: &str = "what disks say of their health is not known, for asking them takes CAP_SYS_RAWIO (NVMe: \
                         CAP_SYS_ADMIN); with it, hosts are told by SMART, and this log";

/// A line for the log.
type Line = (Level, String);

/// What a thread found out about a slot, named by its place in the list.
#[derive(Debug)]
enum Finding {
    /// Its backing has so many bytes now.
    Size { slot: usize, bytes: Result<u64, i32> },
    /// Its disk says this now.
    Health { slot: usize, report: Report },
}

/// A slot, and what is known of it.
#[derive(Debug)]
struct Seen {
    address: Address,
    path: PathBuf,
    worker: WorkerId,
    /// Its number with that worker.
    number: u16,
    sectors: u64,
    told_sectors: u64,
    report: Report,
    told_health: Health,
    /// As the status has them.
    durable: String,
    access: String,
    /// When it came into the condition that it is in.
    since: Instant,
    /// What happens next, or what to do.
    next: Option<String>,
    /// It was said that it cannot be measured.
    unmeasured: bool,
    handles: Handles,
}

/// What a thread looks at, unless it was taken away.
type Held<T> = Arc<Mutex<Option<T>>>;

/// What the threads have of a backing.
#[derive(Debug, Default)]
struct Handles {
    gauge: Held<Gauge>,
    patient: Held<Patient>,
}

impl Handles {
    /// Gives the threads another backing to look at.
    fn adopt(&self, device: &Device) -> io::Result<()> {
        *lock(&self.gauge) = Some(device.gauge()?);
        *lock(&self.patient) = device.patient()?;
        Ok(())
    }

    /// Lets go of the backing; false if a thread still waits for its answer.
    fn release(&self) -> bool {
        release(&self.gauge) & release(&self.patient)
    }
}

fn lock<T>(held: &Mutex<Option<T>>) -> MutexGuard<'_, Option<T>> {
    // What is in it is whole at any moment.
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

fn release<T>(held: &Mutex<Option<T>>) -> bool {
    match held.try_lock() {
        Ok(mut held) => *held = None,
        Err(TryLockError::Poisoned(held)) => *held.into_inner() = None,
        Err(TryLockError::WouldBlock) => return false,
    }
    true
}

/// A port, and what is known of it.
#[derive(Debug)]
struct SeenPort {
    name: String,
    link: Link,
    /// Workers that are still to announce their slots there.
    owing: Vec<WorkerId>,
}

/// The watcher of an appliance.
#[derive(Debug)]
pub(super) struct Monitor {
    slots: Vec<Seen>,
    ports: Vec<SeenPort>,
    findings: Receiver<Finding>,
    /// Slots whose backing was found to be gone, by their place in the list, with the errno.
    vanished: Vec<(usize, i32)>,
    /// It was said that disks may not be asked for their health.
    said_forbidden: bool,
    /// The threads end when these are dropped, or as soon as what they wait for lets them.
    _threads: Vec<Sender<()>>,
}

/// A slot to watch: its owner, its number with it, and its backing.
pub(super) struct Place<'a> {
    pub address: Address,
    pub worker: WorkerId,
    pub number: u16,
    pub device: &'a Device,
}

impl Monitor {
    /// Begins to watch these slots, and these ports, of which the links are as given.
    ///
    /// # Errors
    /// When no descriptor or no thread is to be had.
    pub fn start(
        slots: &[Place<'_>],
        ports: impl Iterator<Item = (String, Link)>,
        keeper: &dyn Keeper,
    ) -> io::Result<Self> {
        let (found, findings) = channel();
        let mut gauges = Vec::new();
        let mut patients = Vec::new();
        let mut seen = Vec::new();
        for (n, place) in slots.iter().enumerate() {
            let device = place.device;
            let handles = Handles::default();
            handles.adopt(device)?;
            if device.patient()?.is_some() {
                patients.push((n, Arc::clone(&handles.patient), Report::default()));
            }
            gauges.push((n, Arc::clone(&handles.gauge), Ok(device.size())));
            let sectors = device.size() / SECTOR as u64;
            seen.push(Seen {
                address: place.address,
                path: device.path().to_path_buf(),
                worker: place.worker,
                number: place.number,
                sectors,
                told_sectors: sectors,
                report: Report::default(),
                told_health: Health::Unknown,
                durable: device.durability().to_string(),
                access: device.access().to_string(),
                since: Instant::now(),
                next: None,
                unmeasured: false,
                handles,
            });
        }
        let mut threads = Vec::new();
        let tell = found.clone();
        threads.push(thread("xshelf-size", SIZES, move || measure(&mut gauges, &tell))?);
        if !patients.is_empty() {
            let examiner = keeper.examiner();
            threads.push(thread("xshelf-health", HEALTH, move || ask(&mut patients, &examiner, &found))?);
        }
        let ports = ports.map(|(name, link)| SeenPort { name, link, owing: Vec::new() }).collect();
        Ok(Self {
            slots: seen,
            ports,
            findings,
            vanished: Vec::new(),
            said_forbidden: false,
            _threads: threads,
        })
    }

    /// Looks at the ports (`link` tells of one, by its name), takes what the threads found, tells the workers, and returns what should be logged.
    pub fn look(&mut self, shared: &Shared, link: impl Fn(&str) -> Result<Link, NicError>) -> Vec<Line> {
        let mut lines = Vec::new();
        while let Ok(finding) = self.findings.try_recv() {
            match finding {
                Finding::Size { slot, bytes: Err(errno) } if Failure::Errno(errno).is_gone() => {
                    self.vanished.push((slot, errno));
                }
                Finding::Size { slot, bytes } => {
                    lines.extend(self.slots.get_mut(slot).and_then(|s| s.sized(bytes)))
                }
                Finding::Health { report: Report { forbidden: true, .. }, .. } => {
                    if !std::mem::replace(&mut self.said_forbidden, true) {
                        lines.push((Level::INFO, FORBIDDEN.to_owned()));
                    }
                }
                Finding::Health { slot, report } => {
                    lines.extend(self.slots.get_mut(slot).and_then(|s| s.said(report)));
                }
            }
        }
        for (port, seen) in shared.ports.iter().zip(&mut self.ports) {
            let now = match link(&seen.name) {
                Ok(now) => now,
                // That its program is gone is seen and said elsewhere.
                Err(NicError::Missing { .. }) => {
                    port.set_running(false);
                    continue;
                }
                Err(e) => {
                    tracing::debug!("{}", Causes(&e));
                    continue;
                }
            };
            port.set_running(now.running);
            let before = port.sectors();
            if now.mtu != seen.link.mtu {
                port.set_mtu(now.mtu);
            }
            let (said, announce) = compare(&seen.name, seen.link, now, before, port.sectors());
            lines.extend(said);
            if announce {
                seen.owing = (0..shared.posts.len() as u16).map(WorkerId).collect();
            }
            seen.link = now;
        }
        self.tell(shared);
        lines
    }

    /// Slots whose backing was found to be gone since this was asked last, by their place in the list, with the errno.
    pub fn vanished(&mut self) -> Vec<(usize, i32)> {
        std::mem::take(&mut self.vanished)
    }

    /// Bytes of a slot, as last measured.
    pub fn bytes(&self, slot: usize) -> u64 {
        self.slots.get(slot).map_or(0, |seen| seen.sectors * SECTOR as u64)
    }

    /// Lets go of a slot's backing; false if it has to be tried again, because a thread waits for its answer.
    pub fn release(&self, slot: usize) -> bool {
        self.slots.get(slot).is_none_or(|seen| seen.handles.release())
    }

    /// Watches another backing of a slot from now on, of the same size.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn adopt(&mut self, slot: usize, device: &Device) -> io::Result<()> {
        let Some(seen) = self.slots.get_mut(slot) else { return Ok(()) };
        seen.durable = device.durability().to_string();
        seen.access = device.access().to_string();
        seen.handles.adopt(device)
    }

    /// What the status is to say of a slot besides: since when it is in its condition, and what comes next.
    pub fn remark(&mut self, slot: usize, since: Instant, next: Option<String>) {
        if let Some(seen) = self.slots.get_mut(slot) {
            (seen.since, seen.next) = (since, next);
        }
    }

    /// What the status says of each slot, in order.
    pub fn notes(&self) -> Vec<SlotNote> {
        let note = |seen: &Seen| SlotNote {
            sectors: seen.sectors,
            durable: seen.durable.clone(),
            access: seen.access.clone(),
            health: match seen.health() {
                Health::Unknown => "unknown",
                Health::Good => "good",
                Health::Failing => "failing",
            },
            since: seen.since,
            next: seen.next.clone(),
        };
        self.slots.iter().map(note).collect()
    }

    /// Tells the workers what they do not know yet.
    fn tell(&mut self, shared: &Shared) {
        let give = |worker: WorkerId, command| {
            let post = shared.posts.get(usize::from(worker.0));
            post.is_some_and(|post| post.commands() < WAITING && post.command(command).is_ok())
        };
        for slot in &mut self.slots {
            let (worker, number) = (slot.worker, slot.number);
            let resized = Control::Resized { slot: number, sectors: slot.sectors };
            if slot.sectors != slot.told_sectors && give(worker, resized) {
                slot.told_sectors = slot.sectors;
            }
            let health = slot.health();
            if health != slot.told_health && give(worker, Control::Health { slot: number, health }) {
                slot.told_health = health;
            }
        }
        for (id, port) in (0..).map(PortId).zip(&mut self.ports) {
            port.owing.retain(|worker| !give(*worker, Control::AnnounceOn(id)));
        }
    }
}

impl Seen {
    fn health(&self) -> Health {
        match self.report.condition {
            Condition::Unknown => Health::Unknown,
            Condition::Good => Health::Good,
            Condition::Failing => Health::Failing,
        }
    }

    /// Notes another size.
    fn sized(&mut self, bytes: Result<u64, i32>) -> Option<Line> {
        let (address, path) = (self.address, self.path.display());
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(errno) => {
                self.unmeasured = true;
                let e = io::Error::from_raw_os_error(errno);
                let text =
                    format!("slot {address}: {path} cannot be measured any more: {e}; check the device");
                return Some((Level::ERROR, text));
            }
        };
        let unmeasured = std::mem::take(&mut self.unmeasured);
        let before = std::mem::replace(&mut self.sectors, bytes / SECTOR as u64);
        let now = self.sectors;
        let hint = format!("Linux sees it when e{address} is opened next, or with aoe-revalidate e{address}");
        let line = |what: &str| {
            format!("slot {address}: {path} has {now} sectors now, {before} before{what}; {hint}")
        };
        Some(match now.cmp(&before) {
            // It was gone, which is told elsewhere.
            std::cmp::Ordering::Equal if !unmeasured => return None,
            // It could not be measured for a while, and nothing has become of it.
            std::cmp::Ordering::Equal => {
                (Level::INFO, format!("slot {address}: {path} can be measured again, and has its size"))
            }
            std::cmp::Ordering::Greater => (Level::INFO, line("")),
            std::cmp::Ordering::Less => (
                Level::WARN,
                line(", and hosts that use what was behind get errors; make it longer again if they do"),
            ),
        })
    }

    /// Notes what its disk says; a line if that is news.
    fn said(&mut self, report: Report) -> Option<Line> {
        // Who no longer answers is as it was.
        if report.condition == Condition::Unknown || report == self.report {
            return None;
        }
        let before = std::mem::replace(&mut self.report, report);
        let (address, path) = (self.address, self.path.display());
        let why = if self.report.remarks.is_empty() {
            String::new()
        } else {
            format!(": {}", self.report.remarks.join(", "))
        };
        Some(match self.report.condition {
            Condition::Failing => {
                let text = format!(
                    "slot {address}: {path} says that it is failing{why}; save its data and replace it"
                );
                (Level::ERROR, text)
            }
            _ if !self.report.remarks.is_empty() => {
                (Level::WARN, format!("slot {address}: {path} says that it is well, but{why}"))
            }
            _ if before.condition == Condition::Unknown => {
                (Level::DEBUG, format!("slot {address}: {path} says that it is well"))
            }
            _ => (Level::INFO, format!("slot {address}: {path} says that it is well again")),
        })
    }
}

/// What to say of a port that was `old` and is `new`, and carried `before` and carries `after` sectors in a frame; and
/// whether its slots are to be announced there.
fn compare(name: &str, old: Link, new: Link, before: u8, after: u8) -> (Vec<Line>, bool) {
    let mut lines = Vec::new();
    if new.mtu != old.mtu {
        let text = format!("{name}: the MTU is {} now, {} before", new.mtu, old.mtu);
        lines.push(if !limits::carries_a_sector(new.mtu) {
            let remedy = format!("raise it: ip link set dev {name} mtu 1500 (or 9000)");
            (Level::ERROR, format!("{text}, which does not carry one sector; {remedy}"))
        } else if after == before {
            (Level::INFO, format!("{text}; frames carry up to {after} sectors, as before"))
        } else {
            (
                Level::INFO,
                format!("{text}; frames carry up to {after} sectors, {before} before, and hosts are told"),
            )
        });
    }
    match (old.running, new.running) {
        (true, false) => {
            lines.push((Level::WARN, format!("{name}: the link is down; no host reaches us there")))
        }
        (false, true) => {
            lines.push((Level::INFO, format!("{name}: the link is up; hosts are told what is served")))
        }
        _ => {}
    }
    let came = new.running && !old.running;
    (lines, new.running && (came || after != before))
}

/// Does something at once and then each time the period is over, until the sender that is returned is dropped.
fn thread(name: &str, period: Duration, mut work: impl FnMut() + Send + 'static) -> io::Result<Sender<()>> {
    let (alive, ended) = channel::<()>();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        loop {
            work();
            match ended.recv_timeout(period) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    })?;
    Ok(alive)
}

/// Measures all backings, and tells of those that are not as they were.
fn measure(gauges: &mut [(usize, Held<Gauge>, Result<u64, i32>)], found: &Sender<Finding>) {
    for (slot, gauge, last) in gauges {
        let Some(now) = lock(gauge).as_ref().map(Gauge::size) else { continue };
        let now = now.map_err(|e| e.raw_os_error().unwrap_or(0));
        if now != *last {
            last.clone_from(&now);
            // Nobody listens any more: the end.
            let _ = found.send(Finding::Size { slot: *slot, bytes: now });
        }
    }
}

/// Asks all disks, and tells of those that do not say the same as before.
fn ask(patients: &mut [(usize, Held<Patient>, Report)], examiner: &Examiner, found: &Sender<Finding>) {
    for (slot, patient, last) in patients {
        let Some(now) = lock(patient).as_ref().map(examiner) else { continue };
        if now != *last {
            last.clone_from(&now);
            let _ = found.send(Finding::Health { slot: *slot, report: now });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Mac;

    const LINK: Link = Link { mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 9000, running: true };

    fn seen() -> Seen {
        Seen {
            address: Address { shelf: 7, slot: 3 },
            path: "/srv/a".into(),
            worker: WorkerId(0),
            number: 0,
            sectors: 2048,
            told_sectors: 2048,
            report: Report::default(),
            told_health: Health::Unknown,
            durable: "yes".to_owned(),
            access: "direct".to_owned(),
            since: Instant::now(),
            next: None,
            unmeasured: false,
            handles: Handles::default(),
        }
    }

    #[test]
    fn ports_are_announced_on_when_hosts_can_hear_and_something_is_new() {
        let down = Link { running: false, ..LINK };
        let small = Link { mtu: 1500, ..LINK };
        for (old, new, sectors, levels, announce) in [
            (LINK, LINK, (16, 16), &[][..], false),
            (LINK, down, (16, 16), &[Level::WARN][..], false),
            (down, down, (16, 16), &[], false),
            (down, LINK, (16, 16), &[Level::INFO], true),
            (LINK, small, (16, 2), &[Level::INFO], true),
            (small, LINK, (2, 16), &[Level::INFO], true),
            (LINK, Link { mtu: 8999, ..LINK }, (16, 16), &[Level::INFO], false),
            (LINK, Link { mtu: 500, ..LINK }, (16, 1), &[Level::ERROR], true),
            (LINK, Link { running: false, ..small }, (16, 2), &[Level::INFO, Level::WARN], false),
            (down, small, (16, 2), &[Level::INFO, Level::INFO], true),
        ] {
            let (lines, told) = compare("eth1", old, new, sectors.0, sectors.1);
            let said: Vec<Level> = lines.iter().map(|(level, _)| *level).collect();
            assert_eq!((&said[..], told), (levels, announce), "{old:?} {new:?}: {lines:?}");
            assert!(lines.iter().all(|(_, text)| text.starts_with("eth1: ")), "{lines:?}");
        }
    }

    #[test]
    fn a_new_size_is_said_with_the_old_one() {
        let mut slot = seen();
        let (level, text) = slot.sized(Ok(4096 * 512 + 100)).unwrap();
        assert_eq!((level, slot.sectors, slot.told_sectors), (Level::INFO, 4096, 2048));
        assert!(
            text.starts_with("slot 7.3: /srv/a has 4096 sectors now, 2048 before; Linux sees it"),
            "{text}"
        );
        assert!(text.contains("aoe-revalidate e7.3"));
        let (level, text) = slot.sized(Ok(0)).unwrap();
        assert_eq!((level, slot.sectors), (Level::WARN, 0), "{text}");
        let (level, text) = slot.sized(Err(libc::EIO)).unwrap();
        assert_eq!((level, slot.sectors), (Level::ERROR, 0), "what was known holds");
        assert!(text.contains("/srv/a cannot be measured any more: Input/output error"), "{text}");
        assert_eq!(slot.sized(Ok(0)).unwrap().0, Level::INFO);
    }

    #[test]
    fn health_is_said_when_it_changes() {
        let mut slot = seen();
        let report = |condition, remarks: &[&'static str]| Report {
            condition,
            remarks: remarks.to_vec(),
            forbidden: false,
        };
        for (report, level, health) in [
            (report(Condition::Unknown, &[]), None, Health::Unknown),
            (report(Condition::Good, &[]), Some(Level::DEBUG), Health::Good),
            (report(Condition::Good, &[]), None, Health::Good),
            (report(Condition::Good, &["it is hot"]), Some(Level::WARN), Health::Good),
            (report(Condition::Failing, &["it is worn"]), Some(Level::ERROR), Health::Failing),
            (report(Condition::Unknown, &[]), None, Health::Failing),
            (report(Condition::Failing, &["it is worn"]), None, Health::Failing),
            (report(Condition::Failing, &["it is worn", "it is hot"]), Some(Level::ERROR), Health::Failing),
            (report(Condition::Good, &[]), Some(Level::INFO), Health::Good),
        ] {
            let remarks = report.remarks.clone();
            let line = slot.said(report);
            assert_eq!((line.as_ref().map(|l| l.0), slot.health()), (level, health), "{line:?}");
            if let Some((_, text)) = line {
                assert!(text.starts_with("slot 7.3: /srv/a says that it is "), "{text}");
                assert!(remarks.iter().all(|r| text.contains(r)), "{text}");
            }
        }
    }

    #[test]
    fn what_has_not_changed_is_not_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let set = |bytes| std::fs::File::options().write(true).open(&path).unwrap().set_len(bytes).unwrap();
        std::fs::write(&path, [0; 4096]).unwrap();
        let device = crate::storage::device::open(&path, Default::default()).unwrap();
        let (sender, findings) = channel();
        let gauge = Arc::new(Mutex::new(Some(device.gauge().unwrap())));
        let mut gauges = [(5, Arc::clone(&gauge), Ok(device.size()))];
        measure(&mut gauges, &sender);
        assert!(findings.try_recv().is_err());
        set(4096 + 511);
        measure(&mut gauges, &sender);
        assert!(findings.try_recv().is_err(), "no whole sector");
        set(8192);
        measure(&mut gauges, &sender);
        measure(&mut gauges, &sender);
        let found: Vec<Finding> = findings.try_iter().collect();
        assert!(matches!(found[..], [Finding::Size { slot: 5, bytes: Ok(8192) }]), "{found:?}");
        // What was let go is not looked at.
        assert!(release(&gauge));
        set(4096);
        measure(&mut gauges, &sender);
        assert!(findings.try_recv().is_err());
    }

    #[test]
    fn what_a_worker_has_no_room_for_is_told_with_a_later_look() {
        use crate::frame::{Layout, Region, WorkerShare};
        use crate::shelf::Routes;
        use crate::worker::{Mail, Port, WorkerPost};
        use std::cell::Cell;
        let layout = Layout::plan(&[WorkerShare { receive: vec![], runs: 1, own: 1 }]).unwrap();
        let shared = Shared {
            region: std::sync::Arc::new(Region::heap(layout.chunks())),
            ports: vec![Port::new("p0".into(), LINK.mac, LINK.mtu, u32::MAX, 3)],
            queues: vec![],
            routes: Routes::new(std::iter::empty()).unwrap(),
            posts: (0..2).map(|_| WorkerPost::for_worker(layout.chunks(), 20).unwrap()).collect(),
            layout,
        };
        let (found, findings) = channel();
        let slots = (0..20).map(|number| Seen { number, worker: WorkerId(1), ..seen() }).collect();
        let ports = vec![SeenPort { name: "p0".into(), link: LINK, owing: vec![] }];
        let mut monitor =
            Monitor { slots, ports, findings, vanished: vec![], said_forbidden: false, _threads: vec![] };
        let now = Cell::new(LINK);
        let link = |name: &str| {
            assert_eq!(name, "p0");
            Ok(now.get())
        };
        let told = |worker: usize| {
            let mut told = Vec::new();
            while let Some(mail) = shared.posts[worker].take() {
                shared.posts[worker].dealt_with(1);
                let Mail::Command(command) = mail else { panic!("{mail:?}") };
                told.push(command);
            }
            told
        };
        assert!(monitor.look(&shared, link).is_empty());
        assert!(told(0).is_empty() && told(1).is_empty(), "nothing has changed");
        for slot in 0..20 {
            found.send(Finding::Size { slot, bytes: Ok(512) }).unwrap();
            let report = Report { condition: Condition::Failing, ..Report::default() };
            found.send(Finding::Health { slot, report }).unwrap();
        }
        found.send(Finding::Size { slot: 99, bytes: Ok(512) }).unwrap();
        now.set(Link { mtu: 1500, ..LINK });
        assert_eq!(monitor.look(&shared, link).len(), 41);
        assert_eq!((shared.ports[0].sectors(), shared.ports[0].is_running()), (2, true));
        assert_eq!(told(0), [Control::AnnounceOn(PortId(0))]);
        let mut all = told(1);
        assert_eq!(all.len(), WAITING, "its ring has room left for others");
        // A stuck worker is not filled up.
        monitor.tell(&shared);
        monitor.tell(&shared);
        assert_eq!(shared.posts[1].commands(), WAITING);
        for _ in 0..9 {
            all.extend(told(1));
            assert!(monitor.look(&shared, link).is_empty(), "said once");
        }
        let sized = |n| Control::Resized { slot: n, sectors: 1 };
        let ill = |n| Control::Health { slot: n, health: Health::Failing };
        let mut want: Vec<Control> = (0..20).flat_map(|n| [sized(n), ill(n)]).collect();
        want.push(Control::AnnounceOn(PortId(0)));
        assert_eq!(all, want, "each once, and in the end all");
        // Two disks that may not be asked are said once, and nobody is told.
        for slot in 0..2 {
            let report = Report { forbidden: true, ..Report::default() };
            found.send(Finding::Health { slot, report }).unwrap();
        }
        assert_eq!(monitor.look(&shared, link), [(Level::INFO, FORBIDDEN.to_owned())]);
        assert!(told(1).is_empty());
        // An interface that is gone is nobody's news here.
        let gone = |name: &str| Err(NicError::Missing { name: name.into(), others: vec![] });
        assert!(monitor.look(&shared, gone).is_empty() && told(0).is_empty());
        assert!(!shared.ports[0].is_running());
        now.set(Link { running: false, ..now.get() });
        shared.ports[0].set_running(true);
        assert_eq!(monitor.look(&shared, link).len(), 1);
        assert!(!shared.ports[0].is_running() && told(0).is_empty());
    }

    #[test]
    fn a_thread_ends_with_its_owner() {
        let (sender, ticks) = channel();
        let alive =
            thread("xshelf-test", Duration::from_millis(1), move || sender.send(()).unwrap()).unwrap();
        for _ in 0..3 {
            ticks.recv().unwrap();
        }
        drop(alive);
        // Ends only with the thread, which owns the sender.
        while ticks.recv().is_ok() {}
    }
}
