//! How an appliance ended, and how that is said.
//!
//! Not here: ending it (`start`).
//! Invariant: an end is clean only if every request was answered and every chunk came home.

use crate::appliance::serve::recovery::Keepsake;
use crate::appliance::serve::watch::Watch;
use crate::protocol::Address;
use crate::worker::{Lingering, Report, Shared};
use std::collections::BTreeMap;
use std::time::Duration;

/// Slots with commands that a device has not answered, and may carry out at any time.
#[derive(Debug)]
pub struct Held {
    /// The worker that owned them.
    pub worker: Lingering,
    /// The slots; of a worker that did not say, all it had.
    pub slots: Vec<Address>,
}

impl Held {
    pub(super) fn of(worker: Lingering, reports: &[Report], shared: &Shared) -> Self {
        let slots = match reports.iter().find(|report| report.worker == worker.worker) {
            Some(report) => report.busy.iter().map(|(address, _)| *address).collect(),
            None => {
                let owned = shared.routes.all().filter(|(_, route)| route.worker == worker.worker);
                owned.map(|(address, _)| address).collect()
            }
        };
        Self { worker, slots }
    }
}

/// How an appliance ended.
#[derive(Debug)]
pub struct Stopped {
    /// Chunks there are.
    pub expected: usize,
    /// Chunks that were found again.
    pub counted: usize,
    /// Tokens that were dropped on the way; anything but 0 is a defect.
    pub leaked: u64,
    /// Chunks in requests that had not ended.
    pub requests: usize,
    /// Chunks of frames that had not been sent.
    pub unsent: usize,
    /// Slots with commands that had not ended, and how many.
    pub busy: Vec<(String, usize)>,
    /// Whether everything in flight had ended.
    pub drained: bool,
    /// Threads that died.
    pub died: usize,
    /// Workers that are not gone before their device answers.
    pub held: Vec<Held>,
    /// Slots that were not served because of another target.
    pub refused: Vec<Address>,
    /// Slots that another target answers for, served or not.
    pub contested: Vec<Address>,
    /// What its slots were known by.
    pub known: BTreeMap<Address, Keepsake>,
    /// What was said of the counters.
    pub watch: Watch,
    /// How long was waited at most.
    pub patience: Duration,
    /// Interfaces that were served on.
    pub interfaces: Vec<String>,
    /// What was counted, in words.
    pub totals: String,
    /// What else went wrong.
    pub problems: Vec<String>,
    /// Whether the disk with the state directory does not answer.
    pub state_hangs: bool,
}

impl Stopped {
    /// Whether every request was answered and no frame was lost.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.drained && self.died == 0 && self.leaked == 0 && self.counted == self.expected
    }

    /// Says how it went, and if it is the end of the process, that too.
    pub fn log(&self, last: bool) {
        for problem in &self.problems {
            tracing::error!("{problem}");
        }
        for (slot, commands) in &self.busy {
            tracing::error!(
                "slot {slot} still had {commands} command{} in flight after {} s; {} may hang",
                if *commands == 1 { "" } else { "s" },
                self.patience.as_secs(),
                if self.state_hangs { "its device or the state directory" } else { "its device" }
            );
        }
        if !self.drained && self.busy.is_empty() {
            tracing::error!(
                "{} chunks of frames could not be sent within {} s",
                self.unsent,
                self.patience.as_secs()
            );
        }
        if self.drained && self.unsent > 0 {
            tracing::warn!(
                "{} chunks of frames were not sent, because their port is down; hosts repeat what they asked",
                self.unsent
            );
        }
        tracing::info!("handled: {}", self.totals);
        let (counted, expected) = (self.counted, self.expected);
        if counted == expected && self.leaked == 0 {
            tracing::info!("frames conserved: {counted} of {expected}");
        } else if self.leaked == 0 && !self.drained && counted < expected {
            // A worker that ends takes no more mail.
            tracing::warn!(
                "{counted} of {expected} frames found; the others were on their way between workers"
            );
        } else {
            tracing::error!(
                "frames lost: {counted} of {expected} found, {} dropped; this is a defect, please report it",
                self.leaked
            );
        }
        if last && !self.held.is_empty() {
            tracing::error!(
                "the kernel keeps {} threads of this process until their device answers; it cannot be killed before",
                self.held.len()
            );
        }
        if last {
            tracing::info!("stopped; XDP program taken off {}", self.interfaces.join(", "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_clean_only_if_every_chunk_came_home() {
        let stopped = || Stopped {
            expected: 10,
            counted: 10,
            leaked: 0,
            requests: 0,
            unsent: 0,
            busy: vec![],
            drained: true,
            died: 0,
            held: vec![],
            refused: vec![],
            contested: vec![],
            known: BTreeMap::new(),
            watch: Watch::default(),
            patience: Duration::from_secs(10),
            interfaces: vec![],
            totals: String::new(),
            problems: vec![],
            state_hangs: false,
        };
        assert!(stopped().is_clean());
        for unclean in [
            Stopped { counted: 9, ..stopped() },
            Stopped { leaked: 1, ..stopped() },
            Stopped { drained: false, ..stopped() },
            Stopped { died: 1, ..stopped() },
        ] {
            assert!(!unclean.is_clean(), "{unclean:?}");
        }
    }
}
