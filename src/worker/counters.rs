//! What a worker counts: one number for each thing that happens to a frame, and for each reason to drop one.
//!
//! Not a metrics system: numbers that one thread adds to and any thread may read.
//! Invariant: over all workers, `Received` + `HandedOver` + `WildcardRequests` = the sum of [`Counter::ENDS`] + what is
//! in flight.

use crate::shelf::Refusal;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// A thing that is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Counter { $($(#[doc = $doc])+ $name,)+ }

        impl Counter {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Name in logs and status.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

counters! {
    /// Frames taken from RX rings.
    Received = "received",
    /// Bytes taken from RX rings.
    ReceivedBytes = "received-bytes",
    /// Frames handed over to the worker that owns the slot.
    HandedOver = "handed-over",
    /// Wildcard requests passed on to the owners of slots, once each.
    Wildcards = "wildcards",
    /// Requests of our own making: one for each slot a wildcard covers.
    WildcardRequests = "wildcard-requests",
    /// Replies put on a TX ring, or handed back for it.
    Replies = "replies",
    /// Announcements.
    Announcements = "announcements",
    /// Read commands that went to the disk.
    Reads = "reads",
    /// Bytes read.
    ReadBytes = "read-bytes",
    /// Write commands that went to the disk.
    Writes = "writes",
    /// Bytes written.
    WrittenBytes = "written-bytes",
    /// Flush commands that went to the disk.
    Flushes = "flushes",
    /// Ranges of TRIM commands that went to the disk.
    Trims = "trims",
    /// Changes of a slot's state that were kept.
    Changes = "changes",
    /// Commands that waited for an overlapping one before them.
    Parked = "parked",
    /// Writes that were equal to one in flight, and were answered with it instead of being run again.
    Duplicates = "duplicates",
    /// Payloads copied because they were spread over chunks or misaligned.
    Copies = "copies",
    /// Commands the disk failed.
    DiskErrors = "disk-errors",
    /// Dropped: shorter than its headers.
    DropRunt = "drop-runt",
    /// Dropped: another EtherType.
    DropNotAoe = "drop-not-aoe",
    /// Dropped: a response.
    DropResponse = "drop-response",
    /// Dropped: a version other than 1.
    DropVersion = "drop-version",
    /// Dropped: source is a group address.
    DropGroupSource = "drop-group-source",
    /// Dropped: source is one of our own ports.
    DropOwnSource = "drop-own-source",
    /// Dropped: meant for another host.
    DropForeignDestination = "drop-foreign-destination",
    /// Dropped: no slot has this address.
    DropOtherAddress = "drop-other-address",
    /// Dropped: the slot lives on another VLAN.
    DropOtherVlan = "drop-other-vlan",
    /// Dropped: the sender may not talk to the slot.
    DropMasked = "drop-masked",
    /// Dropped: a command that a wildcard address may not have.
    DropWildcard = "drop-wildcard",
    /// Silent by rule: Query Config test without a match.
    DropNoMatch = "drop-no-match",
    /// Dropped: no room for the reply in the chunk.
    DropNoRoom = "drop-no-room",
    /// Dropped: more pieces than a frame may have.
    DropOversized = "drop-oversized",
    /// Dropped: as many requests as the worker can hold.
    DropRequests = "drop-requests",
    /// Dropped: its host has more than is left for others, or its slot more than is left of the host's part.
    DropShare = "drop-share",
    /// Dropped: no run free for the data.
    DropRuns = "drop-runs",
    /// Dropped: the owner's ring is full.
    DropHandOver = "drop-hand-over",
    /// Dropped: too many wildcard requests at once.
    DropWildcards = "drop-wildcards",
    /// Dropped: too many wildcard requests from one host.
    DropTooOften = "drop-too-often",
    /// Dropped: too many changes of one slot's state at once.
    DropChanges = "drop-changes",
    /// Dropped: the slot is just getting its disk back.
    DropRecovering = "drop-recovering",
    /// Chunks of frames that were not sent when the worker ended, because their port was down. Their frames counted as
    /// replies or announcements before.
    Unsent = "unsent",
    /// A state that cannot be: a defect of ours, to be reported.
    Defects = "defects",
}

impl Counter {
    /// The ways a received frame ends. `Wildcards` is one (answers to it count as `WildcardRequests`), and so is
    /// `HandedOver` (the owner then counts what becomes of it).
    pub const ENDS: &[Self] = &[
        Self::HandedOver,
        Self::Wildcards,
        Self::Replies,
        Self::DropRunt,
        Self::DropNotAoe,
        Self::DropResponse,
        Self::DropVersion,
        Self::DropGroupSource,
        Self::DropOwnSource,
        Self::DropForeignDestination,
        Self::DropOtherAddress,
        Self::DropOtherVlan,
        Self::DropMasked,
        Self::DropWildcard,
        Self::DropNoMatch,
        Self::DropNoRoom,
        Self::DropOversized,
        Self::DropRequests,
        Self::DropShare,
        Self::DropRuns,
        Self::DropHandOver,
        Self::DropTooOften,
        Self::DropChanges,
        Self::DropRecovering,
    ];
}

impl From<Refusal> for Counter {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Runt => Self::DropRunt,
            Refusal::NotAoe => Self::DropNotAoe,
            Refusal::Response => Self::DropResponse,
            Refusal::Version => Self::DropVersion,
            Refusal::GroupSource => Self::DropGroupSource,
            Refusal::OwnSource => Self::DropOwnSource,
            Refusal::ForeignDestination => Self::DropForeignDestination,
            Refusal::OtherAddress => Self::DropOtherAddress,
            Refusal::OtherVlan => Self::DropOtherVlan,
            Refusal::Masked => Self::DropMasked,
            Refusal::Wildcard => Self::DropWildcard,
            Refusal::NoMatch => Self::DropNoMatch,
            Refusal::NoRoom => Self::DropNoRoom,
        }
    }
}

/// The counters of one worker.
#[derive(Debug)]
pub struct Counters([AtomicU64; Counter::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Counter::ALL.len()])
    }
}

impl Counters {
    /// Adds; only the worker itself does.
    pub fn add(&self, counter: Counter, n: u64) {
        // One writer: a load and a store are enough, and cheaper than a locked add.
        let cell = &self.0[counter as usize];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Adds one.
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Reads one.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Ordering::Relaxed)
    }

    /// Reads all that are not 0.
    pub fn nonzero(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        Counter::ALL.iter().map(|&c| (c, self.get(c))).filter(|&(_, n)| n > 0)
    }
}
