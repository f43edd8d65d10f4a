//! Tags, the table of outstanding requests, retransmission and the recognition of late and duplicate replies.
//!
//! Not here: bytes (`wire`), clocks (the time is passed in as nanoseconds since the start), what a request means
//! to whoever sent it. Pure.
//! Invariant: every transmission has a tag of its own, a reply is attributed to exactly the transmission it
//! answers, and a request completes at most once.

use super::wire::{Ask, Reply, TAG_OURS};
use crate::protocol::{Address, Mac};

/// Nanoseconds since the run began.
pub type Nanos = u64;

/// Nanoseconds of one millisecond.
pub const MILLISECOND: Nanos = 1_000_000;
/// Nanoseconds of one second.
pub const SECOND: Nanos = 1_000_000_000;

/// When to send again and when to give up.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Shortest time before a request is sent again.
    pub rto_min: Nanos,
    /// Longest time between two transmissions of a request; also bounds the back-off.
    pub rto_max: Nanos,
    /// Time before a request is sent again while no round trip was measured yet.
    pub rto_first: Nanos,
    /// Time after which a request that was never answered has failed.
    pub deadline: Nanos,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            rto_min: 20 * MILLISECOND,
            rto_max: 2 * SECOND,
            rto_first: 250 * MILLISECOND,
            deadline: 30 * SECOND,
        }
    }
}

/// Smoothed round-trip time and its deviation (RFC 6298, section 2). Every transmission has its own tag, so every
/// answer is a true sample, also one to a request that was sent again.
#[derive(Clone, Copy, Debug, Default)]
struct RoundTrip {
    smoothed: Nanos,
    deviation: Nanos,
}

impl RoundTrip {
    fn sample(&mut self, rtt: Nanos) {
        if self.smoothed == 0 {
            self.smoothed = rtt.max(1);
            self.deviation = rtt / 2;
        } else {
            self.deviation = (3 * self.deviation + self.smoothed.abs_diff(rtt)) / 4;
            self.smoothed = ((7 * self.smoothed + rtt) / 8).max(1);
        }
    }

    fn timeout(&self, patience: &Patience) -> Nanos {
        if self.smoothed == 0 {
            patience.rto_first
        } else {
            (self.smoothed + 4 * self.deviation).clamp(patience.rto_min, patience.rto_max)
        }
    }
}

/// Somebody requests are sent to.
#[derive(Clone, Copy, Debug)]
struct Peer {
    address: Address,
    mac: Mac,
    round_trip: RoundTrip,
}

/// Names a peer of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerId(usize);

/// Names an outstanding request; reused once the request is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(u32);

impl Slot {
    /// As an index below the session's capacity.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Names a request for good; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(u64);

/// A request as the session sees it.
#[derive(Clone, Copy, Debug)]
struct Request {
    id: RequestId,
    peer: usize,
    ask: Ask,
    first_sent: Nanos,
    resend_at: Nanos,
    transmissions: u32,
    serial: u32,
}

/// One transmission, in a log indexed by its serial number.
#[derive(Clone, Copy, Debug)]
struct Transmission {
    serial: u32,
    slot: u32,
    id: u64,
    sent: Nanos,
    peer: u16,
    command: u8,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unused,
    Waiting,
    Answered,
}

/// What a request to be sent looks like on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sending {
    /// Where it is kept.
    pub slot: Slot,
    /// Its tag.
    pub tag: u32,
}

/// A request that its first good or bad answer completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// Where it was kept; free again.
    pub slot: Slot,
    /// Which one it was.
    pub id: RequestId,
    /// What it asked for.
    pub ask: Ask,
    /// Time from its first transmission to this answer.
    pub latency: Nanos,
    /// Copies that were sent and not answered: they may still be executed.
    pub unanswered: u32,
}

/// What a reply turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It completes a request.
    Completes(Completed),
    /// It answers another copy of a request that is over.
    Late(RequestId),
    /// The transmission it answers was answered before.
    Duplicate,
    /// Its tag is nobody's: none of ours still known.
    Unexpected,
    /// It comes from another MAC address than the request went to. The request stays outstanding.
    WrongSource,
    /// It carries another shelf.slot than the request. The request stays outstanding.
    WrongAddress,
    /// It carries another command than the request. The request stays outstanding.
    WrongCommand,
    /// Its tag says that it is for somebody else on this host: a kernel initiator, or an announcement.
    Foreign,
}

/// What happened to an overdue request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// Send it again under this tag.
    Resend(Sending),
    /// It is over; nobody answered before the deadline.
    GaveUp {
        /// Where it was kept; free again.
        slot: Slot,
        /// Which one it was.
        id: RequestId,
        /// What it asked for.
        ask: Ask,
        /// How often it was sent.
        transmissions: u32,
    },
}

/// Outstanding requests to some peers.
#[derive(Debug)]
pub struct Session {
    patience: Patience,
    peers: Vec<Peer>,
    requests: Vec<Option<Request>>,
    free: Vec<u32>,
    log: Vec<Transmission>,
    serial: u32,
    next_id: u64,
}

impl Session {
    /// A session for up to `capacity` outstanding requests, whose tags begin at `serial`. It remembers the last
    /// `memory` transmissions (at least four times the capacity, rounded up to a power of two); a reply to an older
    /// one is unexpected instead of late.
    #[must_use]
    pub fn new(patience: Patience, capacity: usize, memory: usize, serial: u32) -> Self {
        let capacity = capacity.clamp(1, 1 << 20);
        let memory = memory.clamp(4 * capacity, 1 << 24).next_power_of_two();
        let unused =
            Transmission { serial: 0, slot: 0, id: 0, sent: 0, peer: 0, command: 0, state: State::Unused };
        Self {
            patience,
            peers: Vec::new(),
            requests: vec![None; capacity],
            free: (0..capacity as u32).rev().collect(),
            log: vec![unused; memory],
            serial: serial & !TAG_OURS,
            next_id: 0,
        }
    }

    /// Adds somebody to send to; replies count only from `mac`, or from anybody if that is broadcast.
    pub fn add_peer(&mut self, address: Address, mac: Mac) -> PeerId {
        self.peers.push(Peer { address, mac, round_trip: RoundTrip::default() });
        PeerId(self.peers.len() - 1)
    }

    /// Requests outstanding.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.requests.len() - self.free.len()
    }

    /// Begins a request; `None` when as many as the capacity allows are outstanding.
    pub fn begin(&mut self, now: Nanos, peer: PeerId, ask: Ask) -> Option<(Sending, RequestId)> {
        let slot = self.free.pop()?;
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let timeout = self.peers.get(peer.0).map_or(self.patience.rto_first, |p| self.timeout_of(p));
        let serial = self.transmit(now, slot, id, peer.0, ask);
        self.requests[slot as usize] = Some(Request {
            id,
            peer: peer.0,
            ask,
            first_sent: now,
            resend_at: now + timeout,
            transmissions: 1,
            serial,
        });
        Some((Sending { slot: Slot(slot), tag: serial | TAG_OURS }, id))
    }

    /// Whether `sending` is still the newest transmission of an outstanding request. One that waited for room on
    /// the wire must not leave once it is not.
    #[must_use]
    pub fn is_current(&self, sending: Sending) -> bool {
        let request = self.requests.get(sending.slot.index()).and_then(Option::as_ref);
        request.is_some_and(|r| r.serial | TAG_OURS == sending.tag)
    }

    /// Takes a reply.
    pub fn reply(&mut self, now: Nanos, reply: &Reply<'_>) -> Verdict {
        let tag = reply.tag();
        if tag & TAG_OURS == 0 {
            return Verdict::Foreign;
        }
        let serial = tag & !TAG_OURS;
        let mask = self.log.len() - 1;
        let entry = &mut self.log[serial as usize & mask];
        if entry.state == State::Unused || entry.serial != serial {
            return Verdict::Unexpected;
        }
        let Some(peer) = self.peers.get_mut(usize::from(entry.peer)) else { return Verdict::Unexpected };
        if peer.address != reply.header.address && !peer.address.is_wildcard() {
            return Verdict::WrongAddress;
        }
        if peer.mac != reply.source && peer.mac != Mac::BROADCAST {
            return Verdict::WrongSource;
        }
        if entry.command != u8::from(reply.header.command) {
            return Verdict::WrongCommand;
        }
        if entry.state == State::Answered {
            return Verdict::Duplicate;
        }
        entry.state = State::Answered;
        peer.round_trip.sample(now.saturating_sub(entry.sent));
        let (slot, id) = (entry.slot, RequestId(entry.id));
        match self.requests[slot as usize] {
            Some(request) if request.id == id => {
                self.requests[slot as usize] = None;
                self.free.push(slot);
                Verdict::Completes(Completed {
                    slot: Slot(slot),
                    id,
                    ask: request.ask,
                    latency: now.saturating_sub(request.first_sent),
                    unanswered: request.transmissions - 1,
                })
            }
            _ => Verdict::Late(id),
        }
    }

    /// Puts the slots of requests that are overdue into `overdue`; call [`Session::expire`] for each.
    pub fn overdue(&self, now: Nanos, overdue: &mut Vec<Slot>) {
        for (slot, request) in self.requests.iter().enumerate() {
            if request.is_some_and(|r| r.resend_at <= now) {
                overdue.push(Slot(slot as u32));
            }
        }
    }

    /// Sends an overdue request again, under a new tag and with twice the patience, or gives it up. `None` when it
    /// is not outstanding any more.
    pub fn expire(&mut self, now: Nanos, slot: Slot) -> Option<Overdue> {
        let request = (*self.requests.get(slot.index())?)?;
        if now.saturating_sub(request.first_sent) >= self.patience.deadline {
            self.requests[slot.index()] = None;
            self.free.push(slot.0);
            let Request { id, ask, transmissions, .. } = request;
            return Some(Overdue::GaveUp { slot, id, ask, transmissions });
        }
        let serial = self.transmit(now, slot.0, request.id, request.peer, request.ask);
        let base = self.timeout_of(&self.peers[request.peer]);
        let backed_off = base.saturating_mul(1 << request.transmissions.min(20)).min(self.patience.rto_max);
        // The deadline is met to the timer's precision, not to the next resend's.
        let resend_at = (now + backed_off).min(request.first_sent + self.patience.deadline).max(now + 1);
        self.requests[slot.index()] =
            Some(Request { resend_at, transmissions: request.transmissions + 1, serial, ..request });
        Some(Overdue::Resend(Sending { slot, tag: serial | TAG_OURS }))
    }

    /// The request kept at `slot`, if it is outstanding.
    #[must_use]
    pub fn ask(&self, slot: Slot) -> Option<Ask> {
        self.requests.get(slot.index())?.map(|r| r.ask)
    }

    /// Gives up whatever is outstanding to `peer` at once; the slots go to `dropped`.
    pub fn abandon(&mut self, peer: PeerId, dropped: &mut Vec<Slot>) {
        for (slot, request) in self.requests.iter_mut().enumerate() {
            if request.is_some_and(|r| r.peer == peer.0) {
                *request = None;
                self.free.push(slot as u32);
                dropped.push(Slot(slot as u32));
            }
        }
    }

    /// The time after which a request to this peer is sent again, at present.
    #[must_use]
    pub fn timeout(&self, peer: PeerId) -> Nanos {
        self.peers.get(peer.0).map_or(self.patience.rto_first, |p| self.timeout_of(p))
    }

    fn timeout_of(&self, peer: &Peer) -> Nanos {
        peer.round_trip.timeout(&self.patience)
    }

    fn transmit(&mut self, now: Nanos, slot: u32, id: RequestId, peer: usize, ask: Ask) -> u32 {
        let mask = self.log.len() - 1;
        // An entry that is still the newest copy of an outstanding request must stay; the log is larger than
        // the table, so that one that need not stay is found.
        loop {
            let serial = self.serial;
            self.serial = (serial + 1) & !TAG_OURS;
            let old = self.log[serial as usize & mask];
            let request = self.requests[old.slot as usize];
            let newest = old.state == State::Waiting && request.is_some_and(|r| r.serial == old.serial);
            if !newest {
                self.log[serial as usize & mask] = Transmission {
                    serial,
                    slot,
                    id: id.0,
                    sent: now,
                    peer: peer as u16,
                    command: ask.command().into(),
                    state: State::Waiting,
                };
                return serial;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initiator::wire::{Arrival, HEADER_ROOM, Route, Width};
    use proptest::prelude::*;
    use std::collections::HashMap;

    const TARGET: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const HOST: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const SLOT: Address = Address { shelf: 7, slot: 3 };
    const READ: Ask = Ask::Read { lba: 1, count: 1, width: Width::Lba48 };

    fn session() -> (Session, PeerId) {
        let mut session = Session::new(Patience::default(), 4, 16, 100);
        let peer = session.add_peer(SLOT, TARGET);
        (session, peer)
    }

    /// A good reply to the request with this tag.
    fn reply_bytes(source: Mac, address: Address, tag: u32, ask: Ask) -> Vec<u8> {
        let route = Route { source, destination: HOST, vlan: None };
        let mut bytes = vec![0; HEADER_ROOM];
        let n = route.emit(address, tag, ask, &mut bytes);
        bytes.truncate(n);
        bytes[14] = 0x18;
        bytes
    }

    fn take(s: &mut Session, now: Nanos, source: Mac, address: Address, tag: u32, ask: Ask) -> Verdict {
        let bytes = reply_bytes(source, address, tag, ask);
        let arrival = Arrival { bytes: &bytes, length: bytes.len(), vlan: None };
        s.reply(now, &Reply::parse(arrival).unwrap())
    }

    fn good(s: &mut Session, now: Nanos, tag: u32) -> Verdict {
        take(s, now, TARGET, SLOT, tag, READ)
    }

    fn resend(s: &mut Session, now: Nanos, slot: Slot) -> Sending {
        match s.expire(now, slot) {
            Some(Overdue::Resend(sending)) => sending,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tags_keep_away_from_a_kernel_initiator() {
        let (mut s, peer) = session();
        let (sending, _) = s.begin(0, peer, READ).unwrap();
        assert_ne!(sending.tag & TAG_OURS, 0);
        assert_eq!(good(&mut s, 1, 0), Verdict::Foreign, "an announcement");
        assert_eq!(good(&mut s, 1, sending.tag & !TAG_OURS), Verdict::Foreign);
    }

    #[test]
    fn an_answer_completes_its_request_once() {
        let (mut s, peer) = session();
        let (sending, id) = s.begin(10, peer, READ).unwrap();
        let done = Completed { slot: sending.slot, id, ask: READ, latency: 90, unanswered: 0 };
        assert_eq!(good(&mut s, 100, sending.tag), Verdict::Completes(done));
        assert_eq!(s.outstanding(), 0);
        assert_eq!(good(&mut s, 101, sending.tag), Verdict::Duplicate);
        assert_eq!(good(&mut s, 101, sending.tag + 1), Verdict::Unexpected);
    }

    #[test]
    fn a_wrong_reply_leaves_the_request_outstanding() {
        let (mut s, peer) = session();
        let (sending, _) = s.begin(0, peer, READ).unwrap();
        let other = Address { shelf: 7, slot: 4 };
        assert_eq!(take(&mut s, 1, HOST, SLOT, sending.tag, READ), Verdict::WrongSource);
        assert_eq!(take(&mut s, 1, TARGET, other, sending.tag, READ), Verdict::WrongAddress);
        assert_eq!(take(&mut s, 1, TARGET, SLOT, sending.tag, Ask::Config), Verdict::WrongCommand);
        assert_eq!(s.outstanding(), 1);
        assert!(matches!(good(&mut s, 2, sending.tag), Verdict::Completes(_)));
    }

    #[test]
    fn any_copy_completes_and_the_others_are_late() {
        let (mut s, peer) = session();
        let (first, id) = s.begin(0, peer, READ).unwrap();
        let second = resend(&mut s, 250 * MILLISECOND, first.slot);
        let third = resend(&mut s, 750 * MILLISECOND, first.slot);
        assert_eq!((first.slot, first.slot), (second.slot, third.slot));
        assert!(first.tag != second.tag && second.tag != third.tag);
        assert!(!s.is_current(first) && !s.is_current(second) && s.is_current(third));
        match good(&mut s, 760 * MILLISECOND, second.tag) {
            Verdict::Completes(done) => {
                assert_eq!((done.id, done.unanswered, done.latency), (id, 2, 760 * MILLISECOND));
            }
            other => panic!("{other:?}"),
        }
        assert!(!s.is_current(third), "a copy that still waits to leave must not");
        assert_eq!(good(&mut s, SECOND, first.tag), Verdict::Late(id));
        assert_eq!(good(&mut s, SECOND, first.tag), Verdict::Duplicate);
        assert_eq!(good(&mut s, SECOND, third.tag), Verdict::Late(id));
    }

    #[test]
    fn a_late_reply_does_not_complete_the_next_request_of_the_slot() {
        let (mut s, peer) = session();
        let (first, id) = s.begin(0, peer, READ).unwrap();
        let second = resend(&mut s, SECOND, first.slot);
        assert!(matches!(good(&mut s, SECOND, second.tag), Verdict::Completes(_)));
        let (next, _) = s.begin(SECOND, peer, READ).unwrap();
        assert_eq!(next.slot, first.slot);
        assert_eq!(good(&mut s, SECOND, first.tag), Verdict::Late(id));
        assert_eq!(s.outstanding(), 1);
    }

    #[test]
    fn resends_back_off_to_the_deadline() {
        let (mut s, peer) = session();
        let (sending, id) = s.begin(0, peer, READ).unwrap();
        let (mut now, mut at, mut overdue) = (0, Vec::new(), Vec::new());
        loop {
            s.overdue(now, &mut overdue);
            for slot in overdue.drain(..) {
                match s.expire(now, slot).unwrap() {
                    Overdue::Resend(_) => at.push(now / MILLISECOND),
                    Overdue::GaveUp { slot, id: gone, ask, transmissions } => {
                        assert_eq!((slot, gone, ask), (sending.slot, id, READ));
                        assert_eq!(at[..4], [250, 750, 1750, 3750]);
                        assert_eq!(at[4] - at[3], 2000, "bounded");
                        assert_eq!(transmissions as usize, at.len() + 1);
                        assert_eq!(now, 30 * SECOND);
                        assert_eq!(s.outstanding(), 0);
                        return;
                    }
                }
            }
            now += MILLISECOND;
        }
    }

    #[test]
    fn the_timeout_follows_the_round_trip_within_its_bounds() {
        let (mut s, peer) = session();
        let mut now = 0;
        assert_eq!(s.timeout(peer), 250 * MILLISECOND);
        let mut trip = |s: &mut Session, rtt| {
            let (sending, _) = s.begin(now, peer, READ).unwrap();
            now += rtt;
            assert!(matches!(good(s, now, sending.tag), Verdict::Completes(_)));
        };
        for _ in 0..50 {
            trip(&mut s, 50_000);
        }
        assert_eq!(s.timeout(peer), 20 * MILLISECOND);
        for _ in 0..50 {
            trip(&mut s, 300 * MILLISECOND);
        }
        assert!((300 * MILLISECOND..400 * MILLISECOND).contains(&s.timeout(peer)), "{}", s.timeout(peer));
        for _ in 0..50 {
            trip(&mut s, 9 * SECOND);
        }
        assert_eq!(s.timeout(peer), 2 * SECOND);
    }

    #[test]
    fn late_answers_are_measured_too() {
        // Were they not, a target slower than the timeout would be sent everything twice for ever.
        let (mut s, peer) = session();
        let mut now = 0;
        for _ in 0..50 {
            let (first, _) = s.begin(now, peer, READ).unwrap();
            now += s.timeout(peer).min(SECOND);
            let second = resend(&mut s, now, first.slot);
            now += SECOND;
            assert!(matches!(good(&mut s, now, first.tag), Verdict::Completes(_)));
            assert!(matches!(good(&mut s, now + 1, second.tag), Verdict::Late(_)));
        }
        assert!(s.timeout(peer) > SECOND, "{}", s.timeout(peer));
    }

    #[test]
    fn a_full_table_refuses() {
        let (mut s, peer) = session();
        for _ in 0..4 {
            assert!(s.begin(0, peer, READ).is_some());
        }
        assert!(s.begin(0, peer, READ).is_none());
        let mut dropped = Vec::new();
        s.abandon(peer, &mut dropped);
        assert_eq!((dropped.len(), s.outstanding()), (4, 0));
    }

    #[test]
    fn an_old_request_survives_the_wrap_of_the_log() {
        let (mut s, peer) = session();
        let (old, id) = s.begin(0, peer, READ).unwrap();
        for n in 0..1000 {
            let (sending, _) = s.begin(n, peer, READ).unwrap();
            assert!(matches!(good(&mut s, n + 1, sending.tag), Verdict::Completes(_)));
        }
        match good(&mut s, 2000, old.tag) {
            Verdict::Completes(done) => assert_eq!(done.id, id),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn serial_numbers_wrap() {
        let mut s = Session::new(Patience::default(), 4, 16, u32::MAX);
        let peer = s.add_peer(SLOT, TARGET);
        for n in 0..100 {
            let (sending, _) = s.begin(n, peer, READ).unwrap();
            assert_ne!(sending.tag & TAG_OURS, 0);
            assert!(matches!(good(&mut s, n, sending.tag), Verdict::Completes(_)));
        }
    }

    proptest! {
        /// Whatever the network loses, repeats and reorders: each request completes at most once, each transmission
        /// is answered at most once, and the number of unanswered copies is what the caller can count itself.
        #[test]
        fn replies_are_attributed_exactly(script in proptest::collection::vec((0u8..8, 0usize..64), 1..400)) {
            let mut s = Session::new(Patience::default(), 8, 4096, 7);
            let peer = s.add_peer(SLOT, TARGET);
            let mut now = 0;
            let mut copies: Vec<(u32, RequestId)> = Vec::new();
            let mut live: HashMap<RequestId, (Slot, u32)> = HashMap::new();
            let mut answered: Vec<u32> = Vec::new();
            for (action, pick) in script {
                now += MILLISECOND;
                match action {
                    0..=2 => {
                        if let Some((sending, id)) = s.begin(now, peer, READ) {
                            copies.push((sending.tag, id));
                            prop_assert!(live.insert(id, (sending.slot, 1)).is_none());
                        } else {
                            prop_assert_eq!(live.len(), 8);
                        }
                    }
                    3 => {
                        let Some((&id, &(slot, n))) = live.iter().next() else { continue };
                        let sending = resend(&mut s, now, slot);
                        copies.push((sending.tag, id));
                        live.insert(id, (slot, n + 1));
                    }
                    _ => {
                        if copies.is_empty() { continue }
                        let (tag, id) = copies[pick % copies.len()];
                        let fresh = !answered.contains(&tag);
                        answered.push(tag);
                        match good(&mut s, now, tag) {
                            Verdict::Completes(done) => {
                                prop_assert!(fresh);
                                let (slot, n) = live.remove(&id).unwrap();
                                prop_assert_eq!((done.slot, done.id, done.unanswered), (slot, id, n - 1));
                            }
                            Verdict::Late(late) => {
                                prop_assert!(fresh && late == id && !live.contains_key(&id));
                            }
                            Verdict::Duplicate => prop_assert!(!fresh),
                            other => prop_assert!(false, "{:?}", other),
                        }
                    }
                }
                prop_assert_eq!(s.outstanding(), live.len());
            }
        }
    }
}
