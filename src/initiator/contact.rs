//! Finding targets: Query Config to an address, IDENTIFY DEVICE to whoever answered.
//!
//! Not here: printing it (`discover`), loading it (`load`).
//! Invariant: what is returned was answered to a request of this very call.

use super::Error;
use super::identify::Disk;
use super::session::{MILLISECOND, Nanos, Overdue, Patience, SECOND, Session, Verdict};
use super::socket::Port;
use super::wire::{Argument, Ask, Failure, HEADER_ROOM, Reply, Route, TAG_OURS};
use crate::protocol::aoe::{Flags, VERSION};
use crate::protocol::{Address, Command, Mac};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// IDENTIFY requests in flight at once.
const WINDOW: usize = 16;

/// Somebody who answered a Query Config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its shelf and slot.
    pub address: Address,
    /// The MAC address it answers from.
    pub mac: Mac,
    /// Requests it says it can queue.
    pub buffer_count: u16,
    /// Its firmware number.
    pub firmware: u16,
    /// Most sectors of one command: as advertised, but 2 for 0 (AoEr11, section 3.2).
    pub sectors: u8,
    /// Its config string.
    pub config_string: Vec<u8>,
    /// Queries it answered.
    pub answered: u32,
    /// Answers beyond the first to the same query.
    pub repeated: u32,
}

/// The time since a run began.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Begins now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the beginning.
    #[must_use]
    pub fn now(&self) -> Nanos {
        Nanos::try_from(self.0.elapsed().as_nanos()).unwrap_or(Nanos::MAX)
    }
}

/// A number nobody can guess: tags begin there, so that two processes on a host do not use the same.
#[must_use]
pub fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// When a query is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// After the whole time: somebody else may answer, too.
    TimeIsUp,
    /// Shortly after the first answer.
    Answered,
}

/// Sends `rounds` queries for `address` within `wait`, to the broadcast MAC address, and collects who answers;
/// sorted by address, then MAC.
///
/// # Errors
/// When the interface fails.
pub fn query(
    port: &mut Port,
    address: Address,
    wait: Duration,
    rounds: u32,
    until: Until,
) -> Result<Vec<Target>, Error> {
    let route = Route { source: port.mac(), destination: Mac::BROADCAST, vlan: port.vlan() };
    let first_tag = random() as u32 & 0x3fff_ffff | TAG_OURS;
    let rounds = rounds.max(1);
    let clock = Clock::start();
    let wait = Nanos::try_from(wait.as_nanos()).unwrap_or(Nanos::MAX);
    let mut end = wait;
    let mut sent = 0;
    let mut targets: Vec<(Target, Vec<u32>)> = Vec::new();
    loop {
        let now = clock.now();
        if now >= end {
            break;
        }
        if sent < rounds && now >= wait / Nanos::from(rounds) * Nanos::from(sent) {
            let mut frame = [0; HEADER_ROOM];
            let length = route.emit(address, first_tag + sent, Ask::Config, &mut frame);
            if port.send(&[&frame[..length]])? == 1 {
                sent += 1;
            }
        }
        for i in 0..port.receive(true)? {
            let Ok(reply) = Reply::parse(port.arrival(i)) else { continue };
            let round = reply.tag().wrapping_sub(first_tag);
            let Argument::Config(config, string) = reply.argument else { continue };
            let good = round < sent
                && reply.header.version == VERSION
                && !reply.header.flags.contains(Flags::ERROR)
                && reply.header.command == Command::Config
                && address.covers(reply.header.address);
            if !good {
                continue;
            }
            let known =
                targets.iter_mut().find(|(t, _)| t.address == reply.header.address && t.mac == reply.source);
            if let Some((target, rounds)) = known {
                if rounds.contains(&round) {
                    target.repeated += 1;
                } else {
                    target.answered += 1;
                    rounds.push(round);
                }
            } else {
                let target = Target {
                    address: reply.header.address,
                    mac: reply.source,
                    buffer_count: config.buffer_count,
                    firmware: config.firmware,
                    sectors: if config.sectors == 0 { 2 } else { config.sectors },
                    config_string: string.to_owned(),
                    answered: 1,
                    repeated: 0,
                };
                targets.push((target, vec![round]));
                if until == Until::Answered {
                    end = end.min(clock.now() + 50 * MILLISECOND);
                }
            }
        }
    }
    targets.sort_by_key(|(t, _)| (t.address, t.mac));
    Ok(targets.into_iter().map(|(t, _)| t).collect())
}

/// What came of one IDENTIFY DEVICE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identified {
    /// The disk, or why it is not known.
    pub disk: Result<Disk, Failure>,
    /// Answers beyond the first to the same request.
    pub repeated: u32,
}

/// Asks each of `targets` what it is, sending again for up to `patience`; in their order.
///
/// # Errors
/// When the interface fails.
pub fn identify(
    port: &mut Port,
    targets: &[(Address, Mac)],
    patience: Duration,
) -> Result<Vec<Identified>, Error> {
    let deadline = Nanos::try_from(patience.as_nanos()).unwrap_or(SECOND);
    let patience =
        Patience { rto_first: (deadline / 5).min(250 * MILLISECOND), deadline, ..Patience::default() };
    let mut session = Session::new(patience, WINDOW, 0, random() as u32);
    let peers: Vec<_> = targets.iter().map(|&(address, mac)| session.add_peer(address, mac)).collect();
    let unknown = Identified { disk: Err(Failure::Silent), repeated: 0 };
    let mut results = vec![unknown; targets.len()];
    let mut kept_for = [0; WINDOW];
    let (mut next, mut done) = (0, 0);
    let (clock, mut overdue, mut outbox) = (Clock::start(), Vec::new(), Vec::new());
    let mut linger = None;
    loop {
        let now = clock.now();
        while next < targets.len() {
            let Some((sending, _)) = session.begin(now, peers[next], Ask::Identify) else { break };
            kept_for[sending.slot.index()] = next;
            outbox.push(sending);
            next += 1;
        }
        session.overdue(now, &mut overdue);
        for slot in overdue.drain(..) {
            match session.expire(now, slot) {
                Some(Overdue::Resend(sending)) => outbox.push(sending),
                Some(Overdue::GaveUp { .. }) => done += 1,
                None => {}
            }
        }
        for sending in outbox.drain(..) {
            let (address, mac) = targets[kept_for[sending.slot.index()]];
            let route = Route { source: port.mac(), destination: mac, vlan: port.vlan() };
            let mut frame = [0; HEADER_ROOM];
            let length = route.emit(address, sending.tag, Ask::Identify, &mut frame);
            // What the kernel does not take now is lost like any other frame, and sent again.
            port.send(&[&frame[..length]])?;
        }
        // A second answer to the same request comes, if at all, right behind the first.
        let all = done == targets.len();
        if all && now >= *linger.get_or_insert(now + 10 * MILLISECOND) {
            return Ok(results);
        }
        for i in 0..port.receive(true)? {
            let Ok(reply) = Reply::parse(port.arrival(i)) else { continue };
            match session.reply(clock.now(), &reply) {
                Verdict::Completes(completed) => {
                    done += 1;
                    let page = reply.result(Ask::Identify);
                    results[kept_for[completed.slot.index()]].disk =
                        page.and_then(|page| Disk::parse(page).ok_or(Failure::Cut));
                }
                Verdict::Duplicate => {
                    let from = (reply.header.address, reply.source);
                    if let Some(i) = targets.iter().position(|t| *t == from) {
                        results[i].repeated += 1;
                    }
                }
                _ => {}
            }
        }
    }
}
