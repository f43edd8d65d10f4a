//! How often each thing happened that a simulation is for: a run in which one of them never happened proves nothing of it.
//!
//! Not here: what of it is right (`check`).
//! Invariant: a number only grows, and totals of several worlds add up.

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// A thing that happens in a world.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Kind { $($(#[doc = $doc])+ $name,)+ }

        impl Kind {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its name in a report.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

kinds! {
    /// Requests that hosts made, copies not counted.
    Requests = "requests",
    /// Of these: reads.
    Reads = "reads",
    /// Of these: writes.
    Writes = "writes",
    /// Of these: writes with FUA.
    ForcedWrites = "FUA writes",
    /// Of these: VERIFY.
    Verifies = "verifies",
    /// Of these: TRIM.
    Trims = "trims",
    /// Of these: FLUSH.
    Flushes = "flushes",
    /// Of these: IDENTIFY.
    Identifies = "identifies",
    /// Of these: reads of the config string.
    ConfigReads = "config reads",
    /// Of these: changes of the config string.
    ConfigSets = "config sets",
    /// Of these: edits of the mask list.
    MaskEdits = "mask edits",
    /// Of these: reservations and releases.
    Reservations = "reservations",
    /// Of these: to more than one slot.
    Wildcards = "wildcards",
    /// Of these: behind the end of the slot.
    BeyondEnd = "beyond the end",
    /// Of these: up to the very last sector.
    LastSector = "last sector",
    /// Of these: answered well.
    Good = "answered well",
    /// Of these: answered with an error.
    Failed = "answered with an error",
    /// Copies sent with a new tag.
    Retransmits = "retransmits",
    /// Copies sent with the same tag.
    SameTag = "same-tag retransmits",
    /// Answers to a tag that its host had given up.
    StaleReplies = "answers to old tags",
    /// Requests of hosts that a reservation kept out.
    ReservedOut = "kept out by a reservation",
    /// Frames that the wire lost.
    Lost = "frames lost",
    /// Frames that the wire delivered twice.
    Doubled = "frames doubled",
    /// Frames that came later than one sent after them.
    Reordered = "frames reordered",
    /// Frames that the wire kept for long.
    Delayed = "frames kept for long",
    /// Frames corrupted and dropped by the receiver's checksum.
    Corrupt = "frames corrupted",
    /// Frames corrupted so that they have to be refused.
    Refused = "corrupt frames to refuse",
    /// Frames corrupted in their padding.
    Padding = "corrupt padding",
    /// Frames cut short.
    Truncated = "frames cut short",
    /// Frames that nobody in his right mind sends.
    Garbage = "garbage frames",
    /// Frames that found no chunk in FILL.
    FillEmpty = "FILL empty",
    /// Frames that found no room in RX.
    RxFull = "RX full",
    /// Frames that found the port or the process down.
    PortDown = "port down",
    /// Received pieces held back.
    RxHeld = "RX held back",
    /// Times that a TX ring was not served, or slowly.
    TxSlow = "TX slow",
    /// Completions held back.
    TxHeld = "completions held back",
    /// Commands that the storage took only later.
    StorageFull = "storage full",
    /// Disks that became stuck.
    Stuck = "disks stuck",
    /// Commands that took long.
    Slow = "slow commands",
    /// Reads that failed.
    ReadFaults = "reads failed",
    /// Writes that failed, but not for want of room.
    WriteFaults = "writes failed",
    /// Writes that found no room.
    NoRoom = "writes without room",
    /// Flushes that failed.
    FlushFaults = "flushes failed",
    /// TRIMs that failed.
    TrimFaults = "trims failed",
    /// Losses that the page cache told to another command than the one that had them.
    ToldAnother = "losses told to another",
    /// Commands that ended short.
    Short = "transfers cut short",
    /// EIO.
    Eio = "EIO",
    /// ETIMEDOUT.
    Etimedout = "ETIMEDOUT",
    /// ENODEV.
    Enodev = "ENODEV",
    /// Units that were read, changed and written.
    Rmw = "units read, changed, written",
    /// Workers that were away for long.
    Stalls = "workers stalled",
    /// Processes killed.
    Kills = "processes killed",
    /// Power cuts.
    PowerCuts = "power cuts",
    /// Requests in flight at one of these.
    InFlight = "requests in flight then",
    /// Writes torn between sectors then.
    Torn512 = "writes torn at 512",
    /// Writes torn between blocks of 4,096 then.
    Torn4096 = "writes torn at 4096",
    /// Sectors that lost what was never flushed then.
    Forgotten = "sectors that lost unflushed data",
    /// Saves of state under way then.
    SavesCut = "saves of state cut",
    /// Saves of state that failed.
    SaveFaults = "saves of state failed",
    /// Saves of state.
    Saves = "saves of state",
    /// Commands that waited for an overlapping one.
    Parked = "parked overlaps",
    /// Writes recognised as copies of one in flight.
    Duplicates = "duplicates",
    /// Frames handed over between workers.
    HandedOver = "handed over",
    /// Payloads copied.
    Copies = "payloads copied",
    /// Dropped: as many requests as the worker can hold.
    DropRequests = "dropped, no request left",
    /// Dropped: no run left.
    DropRuns = "dropped, no run left",
    /// Dropped: hand-over ring full.
    DropHandOver = "dropped, hand-over full",
    /// Dropped: wildcard not passed on.
    DropWildcards = "wildcards not passed on",
    /// Dropped: wildcards of one host that came too often.
    DropTooOften = "wildcards too often",
    /// Dropped: a host's or a slot's share was used up.
    DropShare = "dropped, share used up",
    /// Slots that got another backing after a failure.
    Recovered = "slots recovered",
    /// Slots that failed, or whose device was gone.
    SlotsFailed = "slots failed",
    /// Dropped: too many changes.
    DropChanges = "dropped, too many changes",
    /// Dropped: too many pieces.
    DropOversized = "dropped, too many pieces",
    /// Answers and announcements to wildcards and of slots.
    Announcements = "announcements",
    /// Sectors whose content was checked by order of arrival.
    CheckedByOrder = "sectors checked by arrival",
    /// Sectors whose content was checked from end to end.
    CheckedEndToEnd = "sectors checked end to end",
    /// Turns of workers.
    Turns = "worker turns",
    /// Worlds of careful hosts.
    Careful = "worlds of careful hosts",
    /// Worlds of careless hosts.
    Careless = "worlds of careless hosts",
}

/// All numbers of one or more worlds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    numbers: Vec<u64>,
    /// Virtual time, in nanoseconds.
    pub virtual_nanos: u64,
}

impl Default for Totals {
    fn default() -> Self {
        Self { numbers: vec![0; Kind::ALL.len()], virtual_nanos: 0 }
    }
}

impl Totals {
    /// Adds to one.
    pub fn add(&mut self, kind: Kind, n: u64) {
        self.numbers[kind as usize] += n;
    }

    /// One.
    #[must_use]
    pub fn get(&self, kind: Kind) -> u64 {
        self.numbers[kind as usize]
    }

    /// Adds those of another world.
    pub fn merge(&mut self, other: &Self) {
        for (sum, n) in self.numbers.iter_mut().zip(&other.numbers) {
            *sum += n;
        }
        self.virtual_nanos += other.virtual_nanos;
    }

    /// What never happened.
    pub fn missing(&self) -> impl Iterator<Item = Kind> + '_ {
        Kind::ALL.iter().copied().filter(|&kind| self.get(kind) == 0)
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for row in Kind::ALL.chunks(3) {
            for &kind in row {
                write!(f, "  {:<32}{:>12}", kind.name(), self.get(kind))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
