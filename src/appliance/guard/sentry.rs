//! What the guard decides: whom it asks and answers, which slots are not to be served, and when to raise the alarm.
//!
//! Not here: sockets, threads and clocks (`patrol`); time and frames come in, [`Order`]s go out.
//! Invariant: of two that ask for one slot and hear each other, however their starts overlap, exactly one goes on, and
//! whoever has decided to go on never yields any more.
//!
//! ```text
//!   begin         + 20 ms        + 40 ms        + 60 ms
//!   ├── ask ───────┼── ask ───────┼── ask ───────┤ decide ── ready ───── each minute: ask
//!   answers to others: "asks, lowest address"    "holds"     the target itself answers
//! ```
//!
//! Whoever hears another ask begins again and waits ten times as long each time.
//!
//! Both the question and its answer carry the lowest address, so that one frame in either direction tells its receiver who
//! goes on. One whose window is over says that it holds the slot, and to that the other yields whatever its address: so it
//! does not matter that it is too late for the first one to be told. One that was held up itself asks once more before it
//! decides, for meanwhile another may have asked in vain and decided.

use super::wire::{Claim, Heard, Stance, Word};
use crate::appliance::config::Rivals;
use crate::limits;
use crate::protocol::{Address, Mac};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How often it is asked at the beginning.
const ASKS: u32 = 3;
/// How long an answer is waited for after each time: a target answers within a millisecond, and a start should not be held
/// up. One that answers later is heard until the first frame is served, and noticed after that.
const WAIT: Duration = Duration::from_millis(20);
/// How long once another guard has been heard, which may be as slow to hear us.
const PATIENT: Duration = Duration::from_millis(250);
/// How long it waits for a link that was there before the XDP program was attached: many cards reset for that.
const LINK: Duration = Duration::from_secs(5);
/// How long it is quiet after the start when nothing follows from an answer but the alarm: a wire where an address is
/// known to be taken twice, or where a test listens, need not hear the question before the announcement.
const QUIET: Duration = Duration::from_secs(10);
/// How often each slot is asked for while it is served, in seconds.
const ROUND: u64 = 60;
/// How long somebody is taken to be there who was heard: two rounds and a half, since a frame may get lost.
const PRESENT: Duration = Duration::from_secs(150);
/// After how long an alarm is repeated if it goes on.
const REPEAT: Duration = Duration::from_secs(3600);
/// Rounds without an answer after which a rival is taken to be gone.
const SILENT_ROUNDS: u32 = 2;

/// An interface to guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// Its address.
    pub mac: Mac,
    /// Whether it had a carrier before the XDP program was attached.
    pub linked: bool,
}

/// A slot to guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ward {
    /// Its address.
    pub slot: Address,
    /// Its VLAN, 0 for none.
    pub vlan: u16,
    /// What to do when somebody else answers for it.
    pub rivals: Rivals,
}

/// How somebody else came to notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It has the address in its configuration, and does not serve it.
    Asks,
    /// It answers for the address.
    Answers,
}

/// Somebody else who has to do with an address of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// The slot.
    pub slot: Address,
    /// Who.
    pub mac: Mac,
    /// The interface it was heard on first.
    pub interface: String,
    /// The worst of what was noticed.
    pub sight: Sight,
    /// When it was heard first, since the guard's beginning.
    pub first: Duration,
    /// When it was heard last.
    pub last: Duration,
    /// How often it was heard.
    pub times: u64,
}

/// How urgent a line for the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Good to know.
    Info,
    /// Somebody has to act.
    Error,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Ask for a slot on an interface.
    Ask {
        /// Number of the interface.
        site: usize,
        /// The slot.
        slot: Address,
        /// Its VLAN.
        vlan: u16,
        /// What to say with it.
        claim: Claim,
    },
    /// Answer somebody who asked.
    Answer {
        /// Number of the interface.
        site: usize,
        /// Who asked.
        to: Mac,
        /// For which slot.
        slot: Address,
        /// Its VLAN.
        vlan: u16,
        /// What to say.
        claim: Claim,
    },
    /// Log a line.
    Say(Level, String),
    /// It is decided: all but these may be served.
    Decided {
        /// The slots that may not, in order.
        refused: Vec<Address>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Not decided.
    Probing,
    /// Served, or about to be.
    Served,
    /// Not served because of a rival; so many rounds it did not answer.
    Refused { silent: u32, gone: bool },
}

/// What keeps a slot from being served, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Objection {
    /// Another one asks, whose lowest address is lower.
    Lower { lowest: Mac, mac: Mac, site: usize },
    /// Somebody answers for it.
    Answers { mac: Mac, site: usize },
}

#[derive(Debug)]
struct Slot {
    ward: Ward,
    standing: Standing,
    objection: Option<Objection>,
}

#[derive(Debug)]
struct Known {
    rival: Rival,
    said: Option<(Sight, Duration)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits for links to come back.
    Waiting,
    /// Asks; how often it has, the last time when, and when it looked last.
    Asking { asked: u32, last: Duration, looked: Duration, decided: bool },
    /// Looks out. All seconds up to this one are done.
    Guarding { second: u64 },
}

/// The guard of all slots on all interfaces.
#[derive(Debug)]
pub struct Sentry {
    sites: Vec<Site>,
    lowest: Mac,
    slots: BTreeMap<Address, Slot>,
    /// Those that are not served because of a rival.
    refused: Vec<Address>,
    phase: Phase,
    /// Whether another was heard that asks too.
    patient: bool,
    /// Whether what was decided to be served is.
    serving: bool,
    /// Whether there was a carrier at the last look, by site.
    linked: Vec<bool>,
    /// Sites whose link came up, when to ask there next, and how often that was done.
    fresh: Vec<(usize, Duration, u32)>,
    known: BTreeMap<(Address, Mac), Known>,
    /// Whether it was said that there are too many to remember.
    crowded: bool,
}

impl Sentry {
    /// Begins at the time 0 of all others given to it. `patient` waits for answers as if another guard had been heard.
    #[must_use]
    pub fn new(sites: Vec<Site>, wards: &[Ward], patient: bool) -> Self {
        let slot = |ward: &Ward| Slot { ward: *ward, standing: Standing::Probing, objection: None };
        Self {
            lowest: sites.iter().map(|site| site.mac).min().unwrap_or_default(),
            linked: vec![false; sites.len()],
            sites,
            slots: wards.iter().map(|ward| (ward.slot, slot(ward))).collect(),
            refused: Vec::new(),
            phase: Phase::Waiting,
            patient,
            serving: false,
            fresh: Vec::new(),
            known: BTreeMap::new(),
            crowded: false,
        }
    }

    fn is_own(&self, mac: Mac) -> bool {
        self.sites.iter().any(|site| site.mac == mac)
    }

    /// What to say of a slot to those who ask, or with a question of our own.
    fn claim(&self, slot: &Slot) -> Claim {
        let stance = match (slot.standing, slot.ward.rivals) {
            // It is served in any case, so let the others yield.
            (Standing::Probing, Rivals::Alarm | Rivals::Ignore) | (Standing::Served, _) => Stance::Holds,
            (Standing::Probing, Rivals::Refuse) => Stance::Asks,
            (Standing::Refused { .. }, _) => Stance::Watches,
        };
        Claim { stance, lowest: self.lowest }
    }

    fn ask(&self, slot: &Slot, sites: impl Iterator<Item = usize>, orders: &mut Vec<Order>) {
        let claim = self.claim(slot);
        let Ward { slot, vlan, .. } = slot.ward;
        orders.extend(sites.map(|site| Order::Ask { site, slot, vlan, claim }));
    }

    /// How long an answer is waited for.
    const fn wait(&self) -> Duration {
        if self.patient { PATIENT } else { WAIT }
    }

    /// A pause of ours longer than this before the decision may have cost others their answers.
    fn stall(&self) -> Duration {
        self.wait() * 4 / 5
    }

    /// Another one asks, too: it is worth waiting for it.
    fn take_time(&mut self) {
        if let Phase::Asking { asked, decided: false, .. } = &mut self.phase {
            if !std::mem::replace(&mut self.patient, true) {
                *asked = 0;
            }
        }
    }

    fn linked_sites(&self) -> impl Iterator<Item = usize> + '_ {
        self.linked.iter().enumerate().filter(|(_, linked)| **linked).map(|(site, _)| site)
    }

    /// Time passes; `linked` says which sites have a carrier.
    pub fn tick(&mut self, now: Duration, linked: &[bool]) -> Vec<Order> {
        let mut orders = Vec::new();
        for (site, (was, is)) in self.linked.iter_mut().zip(linked).enumerate() {
            if *is && !*was && self.phase != Phase::Waiting {
                self.fresh.retain(|(fresh, ..)| *fresh != site);
                self.fresh.push((site, now, 0));
            }
            *was = *is;
        }
        if self.phase == Phase::Waiting && self.slots.values().all(|slot| slot.ward.rivals == Rivals::Alarm) {
            // The start need not wait.
            self.decide(now, &mut orders);
            self.fresh = self.linked_sites().map(|site| (site, now + QUIET, 0)).collect();
            self.phase = Phase::Guarding { second: (now + QUIET).as_secs() };
        }
        if self.phase == Phase::Waiting {
            let back = self.sites.iter().zip(&self.linked).all(|(site, linked)| *linked || !site.linked);
            if back || now >= LINK {
                self.phase = Phase::Asking { asked: 0, last: now, looked: now, decided: false };
            }
        }
        if let Phase::Asking { .. } = self.phase {
            self.probe(now, &mut orders);
        }
        if let Phase::Guarding { second } = self.phase {
            self.phase = Phase::Guarding { second: self.round(now, second, &mut orders) };
        }
        self.welcome(now, &mut orders);
        orders
    }

    /// Asks and decides at the beginning.
    fn probe(&mut self, now: Duration, orders: &mut Vec<Order>) {
        let Phase::Asking { mut asked, mut last, looked, mut decided } = self.phase else { return };
        if now.saturating_sub(looked) > self.stall() && !decided {
            asked = asked.min(ASKS - 1);
        }
        let waited = asked == 0 || now >= last + self.wait();
        let over = waited && asked == ASKS;
        if waited && !over {
            (asked, last) = (asked + 1, now);
            for slot in self.slots.values() {
                self.ask(slot, self.linked_sites(), orders);
            }
        }
        // Without a carrier nobody can be heard.
        if !decided && (over || !self.linked.contains(&true)) {
            decided = true;
            self.decide(now, orders);
        }
        self.phase = if over {
            Phase::Guarding { second: now.as_secs() }
        } else {
            Phase::Asking { asked, last, looked: now, decided }
        };
    }

    fn decide(&mut self, now: Duration, orders: &mut Vec<Order>) {
        let mut refused = Vec::new();
        for slot in self.slots.values_mut() {
            slot.standing = match (slot.objection, slot.ward.rivals) {
                (Some(_), Rivals::Refuse) => {
                    refused.push(slot.ward.slot);
                    Standing::Refused { silent: 0, gone: false }
                }
                _ => Standing::Served,
            };
        }
        self.alarm_of_all(now, orders);
        self.refused.clone_from(&refused);
        orders.push(Order::Decided { refused });
    }

    /// Frames are served from now on. Before, the start may be given up yet, and who answered late, too: nobody is to be
    /// told then that a slot is served here.
    pub fn serves(&mut self, now: Duration) -> Vec<Order> {
        let mut orders = Vec::new();
        if !std::mem::replace(&mut self.serving, true) {
            self.alarm_of_all(now, &mut orders);
        }
        orders
    }

    fn alarm_of_all(&mut self, now: Duration, orders: &mut Vec<Order>) {
        let seen: Vec<(Address, Mac)> = self.known.keys().copied().collect();
        for (slot, mac) in seen {
            self.alarm(now, slot, mac, orders);
        }
    }

    /// Asks for the slots whose turn came in the seconds since `second`; returns the last that is done.
    fn round(&mut self, now: Duration, second: u64, orders: &mut Vec<Order>) -> u64 {
        let current = now.as_secs();
        // A process that was stopped for long does not ask for all it has missed.
        let first = (second + 1).max(current.saturating_sub(ROUND - 1));
        let count = self.slots.len() as u64;
        let linked = self.linked.contains(&true);
        for turn in (first..=current).map(|second| second % ROUND) {
            // Spread over the round.
            for slot in
                self.slots.values_mut().zip(0..).filter(|(_, i)| i * ROUND / count == turn).map(|(s, _)| s)
            {
                let Standing::Refused { silent, gone } = &mut slot.standing else { continue };
                if !linked {
                    continue;
                }
                if *silent >= SILENT_ROUNDS && !*gone {
                    *gone = true;
                    let slot = slot.ward.slot;
                    let line = format!(
                        "slot {slot}: nobody else answers for it any more; restart xshelf to serve it"
                    );
                    orders.push(Order::Say(Level::Info, line));
                }
                *silent = silent.saturating_add(1);
            }
            for (slot, _) in self.slots.values().zip(0..).filter(|(_, i)| i * ROUND / count == turn) {
                self.ask(slot, self.linked_sites(), orders);
            }
        }
        current.max(second)
    }

    /// Asks for all slots where a link came up: whoever is there has not been heard before.
    fn welcome(&mut self, now: Duration, orders: &mut Vec<Order>) {
        let mut fresh = std::mem::take(&mut self.fresh);
        for (site, next, asked) in fresh.iter_mut().filter(|(_, next, _)| *next <= now) {
            (*next, *asked) = (now + PATIENT, *asked + 1);
            for slot in self.slots.values().filter(|_| self.linked.get(*site) == Some(&true)) {
                self.ask(slot, std::iter::once(*site), orders);
            }
        }
        fresh.retain(|(_, _, asked)| *asked < ASKS);
        self.fresh = fresh;
    }

    /// When [`Sentry::tick`] is to be called next at the latest.
    #[must_use]
    pub fn due(&self, now: Duration) -> Duration {
        let next = match self.phase {
            Phase::Waiting => now + PATIENT,
            Phase::Asking { last, looked, .. } => (last + self.wait()).min(looked + self.stall() / 2),
            Phase::Guarding { .. } => Duration::from_secs(now.as_secs() + 1),
        };
        let fresh = self.fresh.iter().map(|(_, next, _)| *next).min();
        next.min(fresh.unwrap_or(next))
    }

    /// A frame came in on a site, on this VLAN (0 for none).
    pub fn hear(&mut self, now: Duration, site: usize, vlan: u16, heard: Heard) -> Vec<Order> {
        let mut orders = Vec::new();
        let Heard { source, slot: address, word } = heard;
        if self.is_own(source) {
            return orders;
        }
        let Some(slot) = self.slots.get(&address).filter(|slot| slot.ward.vlan == vlan) else {
            return orders;
        };
        if let Word::Query(_) = word {
            let claim = self.claim(slot);
            if claim.stance != Stance::Watches {
                orders.push(Order::Answer { site, to: source, slot: address, vlan, claim });
            }
        }
        match word {
            Word::Query(Claim { stance: Stance::Watches, .. }) | Word::Claim(Claim { stance: Stance::Watches, .. }) => {
                self.sighted(now, address, source, site, Sight::Asks, &mut orders);
            }
            Word::Query(Claim { stance: Stance::Asks, lowest })
            | Word::Claim(Claim { stance: Stance::Asks, lowest })
                // Ours comes back only from a target that echoes the question.
                if lowest != self.lowest =>
            {
                self.take_time();
                if lowest < self.lowest {
                    self.object(address, Objection::Lower { lowest, mac: source, site });
                }
                self.sighted(now, address, source, site, Sight::Asks, &mut orders);
            }
            _ => {
                self.object(address, Objection::Answers { mac: source, site });
                self.sighted(now, address, source, site, Sight::Answers, &mut orders);
            }
        }
        orders
    }

    /// The XDP program of a site saw a frame about one of our slots, on the slot's VLAN.
    pub fn event(&mut self, now: Duration, site: usize, slot: Address, mac: Mac, sight: Sight) -> Vec<Order> {
        let mut orders = Vec::new();
        if !self.is_own(mac) && self.slots.contains_key(&slot) {
            if sight == Sight::Answers {
                self.object(slot, Objection::Answers { mac, site });
            }
            self.sighted(now, slot, mac, site, sight, &mut orders);
        }
        orders
    }

    fn object(&mut self, slot: Address, objection: Objection) {
        if let Some(slot) =
            self.slots.get_mut(&slot).filter(|s| matches!(s.standing, Standing::Probing | Standing::Served))
        {
            slot.objection = slot.objection.max(Some(objection));
        }
    }

    fn sighted(
        &mut self,
        now: Duration,
        slot: Address,
        mac: Mac,
        site: usize,
        sight: Sight,
        orders: &mut Vec<Order>,
    ) {
        if !self.known.contains_key(&(slot, mac)) && self.known.len() >= limits::RIVALS {
            let stale = |known: &Known| now.saturating_sub(known.rival.last) > REPEAT;
            self.known.retain(|_, known| !stale(known));
            if self.known.len() >= limits::RIVALS {
                if !self.crowded {
                    self.crowded = true;
                    let line = format!(
                        "more than {} others answer for slots of this xshelf, or somebody forges their frames; those \
                         beyond are not logged",
                        limits::RIVALS
                    );
                    orders.push(Order::Say(Level::Error, line));
                }
                return;
            }
        }
        let interface = self.sites.get(site).map_or_else(String::new, |site| site.name.clone());
        let known = self.known.entry((slot, mac)).or_insert_with(|| Known {
            rival: Rival { slot, mac, interface, sight, first: now, last: now, times: 0 },
            said: None,
        });
        known.rival.last = now;
        known.rival.times += 1;
        if sight == Sight::Answers {
            known.rival.sight = sight;
            if let Some(Slot { standing: Standing::Refused { silent, gone }, .. }) = self.slots.get_mut(&slot)
            {
                *silent = 0;
                if std::mem::take(gone) {
                    // It is news that it is back.
                    known.said = None;
                }
            }
        }
        self.alarm(now, slot, mac, orders);
    }

    /// Says what there is to say of a rival, unless that was said within the hour or may prove to be untrue yet.
    fn alarm(&mut self, now: Duration, slot: Address, mac: Mac, orders: &mut Vec<Order>) {
        let Some(Slot { standing, objection, ward }) = self.slots.get(&slot) else { return };
        let Some(Known { rival, said }) = self.known.get_mut(&(slot, mac)) else { return };
        let news = said.is_none_or(|(before, at)| {
            (before == Sight::Asks && rival.sight == Sight::Answers) || now.saturating_sub(at) >= REPEAT
        });
        let early = match standing {
            Standing::Probing => true,
            Standing::Served => !self.serving,
            Standing::Refused { .. } => false,
        };
        if early || !news {
            return;
        }
        *said = Some((rival.sight, now));
        let (interface, sight) = (&rival.interface, rival.sight);
        let rule = match ward.vlan {
            0 => String::new(),
            vlan => format!(" (VLAN {vlan})"),
        };
        let found = format!("slot {slot}: {mac} on {interface}{rule}");
        let line = match (standing, sight) {
            (Standing::Refused { .. }, Sight::Answers) => format!(
                "{found} answers for this address, so it is not served here: hosts would take both for paths to one \
                 disk and corrupt the data of both; stop the other target or give one of them another address, then \
                 restart xshelf. If it is the same disk, and meant so: rivals = \"alarm\" for this slot"
            ),
            (Standing::Refused { .. }, Sight::Asks) => match objection {
                Some(Objection::Lower { mac: other, .. }) if *other == mac => format!(
                    "{found} is another xshelf with this address that started at the same moment; the one with the \
                     lowest MAC address serves it, and this one does not; give one of them another address"
                ),
                _ => format!(
                    "{found} is another xshelf with this address in its configuration; give it another address"
                ),
            },
            (_, Sight::Answers) => format!(
                "{found} answers for this address, too, which is served here: hosts take both for paths to one disk \
                 and corrupt the data of both; stop one of them at once, or give it another address"
            ),
            (_, Sight::Asks) => format!(
                "{found} is another xshelf with this address in its configuration; it is served here and, unless \
                 told otherwise, not there; give one of them another address"
            ),
        };
        orders.push(Order::Say(Level::Error, line));
    }

    /// Everybody else who has been heard, by slot.
    #[must_use]
    pub fn rivals(&self) -> Vec<Rival> {
        self.known.values().map(|known| known.rival.clone()).collect()
    }

    /// Whether an answer came too late for the decision: another serves a slot that was taken to be ours alone.
    #[must_use]
    pub fn is_belied(&self) -> bool {
        self.slots.values().any(|slot| {
            slot.standing == Standing::Served
                && slot.ward.rivals == Rivals::Refuse
                && matches!(slot.objection, Some(Objection::Answers { .. }))
        })
    }

    /// What is wrong, in a few words; `None` if nothing is.
    #[must_use]
    pub fn status(&self, now: Duration) -> Option<String> {
        let names = |slots: BTreeSet<Address>| {
            let names: Vec<String> = slots.iter().map(Address::to_string).collect();
            (!names.is_empty()).then(|| names.join(" "))
        };
        let contested = self.known.values().map(|known| &known.rival).filter(|rival| {
            rival.sight == Sight::Answers
                && now.saturating_sub(rival.last) <= PRESENT
                && self.slots.get(&rival.slot).is_some_and(|slot| slot.standing == Standing::Served)
        });
        let contested = names(contested.map(|rival| rival.slot).collect());
        let refused = names(self.refused.iter().copied().collect());
        let parts: Vec<String> = [
            contested.map(|slots| format!("ALARM: another target answers for {slots}")),
            refused.map(|slots| format!("not served because another target has the address: {slots}")),
        ]
        .into_iter()
        .flatten()
        .collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

#[cfg(test)]
mod tests;
