//! The guard's thread: leads frames, events and time to the [`Sentry`], and does what it orders.
//!
//! Not here: any decision.
//! Invariant: what has come in is heard before time passes, so that a thread that was held up decides with all it was told.

use super::sentry::{Level, Order, Rival, Sentry, Sight, Site, Ward};
use super::wire;
use crate::appliance::config::Rivals;
use crate::appliance::keeper::Keeper;
use crate::initiator::{self, socket};
use crate::net::nic::{self, Facts};
use crate::net::steer::{EventKind, Events, Steer, SteerError};
use crate::protocol::{Address, Mac};
use crate::worker::{EventFd, Ringer as _};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Batches of frames taken from one socket before the others have their turn.
const BATCHES: usize = 16;

/// Why there can be no guard.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// A socket to ask by.
    #[error("cannot ask whether another target has our addresses: {0}")]
    Socket(#[from] initiator::Error),
    /// What the XDP program tells.
    #[error("cannot watch for answers of other targets: {0}")]
    Events(#[from] SteerError),
    /// The thread, or what wakes it.
    #[error("cannot start the guard: {0}; raise TasksMax or LimitNOFILE")]
    Thread(#[from] io::Error),
    /// It ended before it had decided.
    #[error("the guard ended by itself, which is a defect; please report it with the log before this")]
    Died,
}

/// What the thread shows of itself.
#[derive(Debug, Default)]
struct Shown {
    status: Option<String>,
    rivals: Vec<Rival>,
    belied: bool,
}

/// What the thread is told.
#[derive(Debug)]
struct Told {
    bell: EventFd,
    serving: AtomicBool,
    over: AtomicBool,
}

impl Told {
    fn tell(&self, what: &AtomicBool) {
        what.store(true, Ordering::Release);
        self.bell.wake();
    }
}

/// A running guard; dropping it ends its thread.
#[derive(Debug)]
pub struct Guard {
    told: Arc<Told>,
    shown: Arc<Mutex<Shown>>,
    decided: Receiver<Vec<Address>>,
    thread: Option<JoinHandle<()>>,
}

/// One interface with what is needed to guard it.
struct Post {
    name: String,
    mac: Mac,
    /// By VLAN, 0 for none.
    sockets: BTreeMap<u16, socket::Port>,
    events: Events,
    /// Whether the interface is there no more.
    gone: bool,
}

impl Guard {
    /// Starts to guard slots on interfaces that have the XDP program, and knows these slots. `patient` waits longer for
    /// answers.
    ///
    /// # Errors
    /// [`GuardError`]
    pub fn start<'a>(
        ports: impl Iterator<Item = (&'a Facts, &'a Steer)>,
        wards: &[Ward],
        keeper: &dyn Keeper,
        patient: bool,
    ) -> Result<Self, GuardError> {
        let (mut sites, mut posts) = (Vec::new(), Vec::new());
        for (facts, steer) in ports {
            let (name, mac) = (facts.name.clone(), facts.mac);
            let vlans: BTreeSet<u16> = wards.iter().map(|ward| ward.vlan).collect();
            let listen =
                |vlan| Ok::<_, GuardError>((vlan, keeper.listen(&name, (vlan != 0).then_some(vlan))?));
            let sockets = vlans.into_iter().map(listen).collect::<Result<_, _>>()?;
            sites.push(Site { name: name.clone(), mac, linked: facts.running });
            posts.push(Post { name, mac, sockets, events: steer.events()?, gone: false });
        }
        let alarm = wards.iter().filter(|ward| ward.rivals == Rivals::Alarm);
        let alarm: Vec<String> = alarm.map(|ward| ward.slot.to_string()).collect();
        if !alarm.is_empty() {
            tracing::info!("served even where another target has the address: {}", alarm.join(" "));
        }
        let told =
            Told { bell: EventFd::new()?, serving: AtomicBool::new(false), over: AtomicBool::new(false) };
        let (told, shown) = (Arc::new(told), Arc::new(Mutex::new(Shown::default())));
        let (decide, decided) = sync_channel(1);
        let patrol = Patrol {
            sentry: Sentry::new(sites, wards, patient),
            posts,
            begin: Instant::now(),
            decide,
            told: Arc::clone(&told),
            shown: Arc::clone(&shown),
        };
        let thread = std::thread::Builder::new().name("guard".to_owned()).spawn(move || patrol.run())?;
        Ok(Self { told, shown, decided, thread: Some(thread) })
    }

    /// Waits until it is decided, and gives the slots that must not be served, in order. To be called once.
    ///
    /// # Errors
    /// [`GuardError::Died`]
    pub fn refused(&self) -> Result<Vec<Address>, GuardError> {
        self.decided.recv().map_err(|_| GuardError::Died)
    }

    /// Tells that the slots are served from now on: whoever answers for one of them, too, or did, is an alarm.
    pub fn serving(&self) {
        self.told.tell(&self.told.serving);
    }

    /// Whether somebody has answered since that was decided, for a slot that is about to be served.
    #[must_use]
    pub fn is_belied(&self) -> bool {
        self.shown().belied
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong, in a few words; `None` if nothing is.
    #[must_use]
    pub fn status(&self) -> Option<String> {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            return Some("ALARM: other targets with our addresses are not noticed any more".to_owned());
        }
        self.shown().status.clone()
    }

    /// Everybody else who was heard about our addresses.
    #[must_use]
    pub fn rivals(&self) -> Vec<Rival> {
        self.shown().rivals.clone()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.told.tell(&self.told.over);
        if let Some(thread) = self.thread.take() {
            // A panic has been printed where it happened.
            let _ = thread.join();
        }
    }
}

struct Patrol {
    sentry: Sentry,
    posts: Vec<Post>,
    begin: Instant,
    decide: SyncSender<Vec<Address>>,
    told: Arc<Told>,
    shown: Arc<Mutex<Shown>>,
}

impl Patrol {
    fn run(mut self) {
        loop {
            self.listen();
            let linked: Vec<bool> = self.posts.iter().map(Post::is_linked).collect();
            let orders = self.sentry.tick(self.now(), &linked);
            self.obey(orders);
            if self.told.serving.load(Ordering::Acquire) {
                let orders = self.sentry.serves(self.now());
                self.obey(orders);
            }
            self.show();
            self.sleep();
            if self.told.over.load(Ordering::Acquire) {
                return;
            }
        }
    }

    fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Hears what has come in.
    fn listen(&mut self) {
        for site in 0..self.posts.len() {
            let mut heard = Vec::new();
            let post = &mut self.posts[site];
            for (vlan, socket) in &mut post.sockets {
                for _ in 0..BATCHES {
                    let taken = match socket.receive(false) {
                        Ok(taken) => taken,
                        Err(e) => {
                            lose(&post.name, &mut post.gone, &e);
                            0
                        }
                    };
                    heard.extend(
                        (0..taken).filter_map(|i| wire::read(socket.arrival(i).bytes)).map(|h| (*vlan, h)),
                    );
                    if taken < socket::BATCH {
                        break;
                    }
                }
            }
            let events = post.events.take().unwrap_or_else(|e| {
                tracing::debug!("{e}");
                Vec::new()
            });
            let now = self.now();
            for (vlan, heard) in heard {
                let orders = self.sentry.hear(now, site, vlan, heard);
                self.obey(orders);
            }
            for event in events {
                let sight = match event.kind {
                    EventKind::Rival => Sight::Answers,
                    EventKind::Asks => Sight::Asks,
                };
                let orders = self.sentry.event(now, site, event.slot, event.mac, sight);
                self.obey(orders);
            }
        }
    }

    fn obey(&mut self, orders: Vec<Order>) {
        // By interface and VLAN, so that they leave in as few calls as may be.
        let mut frames: BTreeMap<(usize, u16), Vec<Vec<u8>>> = BTreeMap::new();
        for order in orders {
            match order {
                Order::Ask { site, slot, vlan, claim } => {
                    let source = self.posts[site].mac;
                    frames.entry((site, vlan)).or_default().push(wire::query(source, slot, vlan, claim));
                }
                Order::Answer { site, to, slot, vlan, claim } => {
                    let source = self.posts[site].mac;
                    let frame = wire::answer(source, to, slot, vlan, claim);
                    frames.entry((site, vlan)).or_default().push(frame);
                }
                Order::Say(Level::Info, line) => tracing::info!("{line}"),
                Order::Say(Level::Error, line) => tracing::error!("{line}"),
                // Nobody waits any more when the start was given up.
                Order::Decided { refused } => drop(self.decide.send(refused)),
            }
        }
        for ((site, vlan), frames) in frames {
            self.posts[site].send(vlan, &frames);
        }
    }

    fn show(&self) {
        let shown = Shown {
            status: self.sentry.status(self.now()),
            rivals: self.sentry.rivals(),
            belied: self.sentry.is_belied(),
        };
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
    }

    /// Sleeps until a frame comes, time has passed, or there is something to be told.
    fn sleep(&self) {
        let now = self.now();
        let time = self.sentry.due(now).saturating_sub(now);
        let Ok(time) = Timespec::try_from(time) else { return };
        let mut fds = vec![PollFd::new(&self.told.bell, PollFlags::IN)];
        let there = self.posts.iter().filter(|post| !post.gone);
        fds.extend(
            there
                .flat_map(|p| p.sockets.values())
                .map(|s| PollFd::from_borrowed_fd(s.as_fd(), PollFlags::IN)),
        );
        match poll(&mut fds, Some(&time)) {
            // Before what it was told is looked at. Nothing to read means that it did not ring.
            Ok(_) => drop(rustix::io::read(&self.told.bell, &mut [0; 8])),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => {
                tracing::debug!("the guard cannot sleep: {e}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn lose(name: &str, gone: &mut bool, error: &initiator::Error) {
    if !std::mem::replace(gone, true) {
        tracing::warn!("{name}: it is not watched any more for other targets with our addresses: {error}");
    }
}

impl Post {
    fn is_linked(&self) -> bool {
        !self.gone && nic::has_carrier(&self.name)
    }

    /// Sends what it can; what is lost is asked again.
    fn send(&mut self, vlan: u16, frames: &[Vec<u8>]) {
        let Some(socket) = self.sockets.get_mut(&vlan).filter(|_| !self.gone) else { return };
        let mut rest: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        while !rest.is_empty() {
            match socket.send(&rest) {
                Ok(0) => return,
                Ok(sent) => drop(rest.drain(..sent.min(rest.len()))),
                Err(e) => return lose(&self.name, &mut self.gone, &e),
            }
        }
    }
}
