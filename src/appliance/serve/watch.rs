//! Says once what the counters show and somebody should know: scarcity, disk errors, defects.
//!
//! Not metrics: who wants numbers reads the counters.
//! Invariant: one line for each reason in the life of a process, however often it happens.

use crate::limits;
use crate::net::xsk::statistics;
use crate::worker::{Counter, Counters};
use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// What has been said already.
#[derive(Debug, Default)]
pub struct Watch {
    said: BTreeSet<&'static str>,
}

/// Frames that the kernel dropped before any worker saw them, over all sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kernel {
    /// There was no room on RX.
    ring_full: u64,
    /// There was no chunk on FILL, or the frame was longer than can be.
    refused: u64,
}

impl Kernel {
    /// Of these sockets; what cannot be asked is left out.
    pub fn of<'a>(sockets: impl Iterator<Item = BorrowedFd<'a>>) -> Self {
        sockets.filter_map(|socket| statistics(socket).ok()).fold(Self::default(), |sum, s| Self {
            ring_full: sum.ring_full.wrapping_add(s.rx_ring_full),
            refused: sum.refused.wrapping_add(s.rx_dropped),
        })
    }

    fn nonzero(self) -> impl Iterator<Item = (&'static str, u64)> {
        [(RING_FULL, self.ring_full), (REFUSED, self.refused)].into_iter().filter(|(_, n)| *n > 0)
    }
}

const RING_FULL: &str = "kernel-drop-rx-ring";
const REFUSED: &str = "kernel-drop-no-memory";

/// What to say of frames that the kernel dropped.
fn of_kernel(name: &str) -> &'static str {
    match name {
        RING_FULL => {
            "frames come faster than a worker takes them, so the kernel drops some (hosts repeat them); more workers share \
             the slots, and CPUs of their own make them faster"
        }
        _ => {
            "the kernel has no memory to receive into, so it drops frames (hosts repeat them); raise memory.frames-per-queue"
        }
    }
}

/// What to say of a counter that is no longer 0, if anything.
fn meaning(counter: Counter, requests: usize) -> Option<String> {
    Some(match counter {
        Counter::DropRequests => format!(
            "a worker holds {requests} requests, and drops what comes beyond (hosts repeat it); more workers hold more{}",
            if requests < limits::REQUESTS { ", and so does more memory.frames-per-queue" } else { "" }
        ),
        Counter::DropShare => format!(
            "a host has more commands in flight than is left for the others, or one of its slots more than for the host's other \
             slots, so some of its frames are dropped (it repeats them). A worker holds {requests} commands and \
             memory.runs-per-worker buffers for transfers of more than 7 sectors: more workers hold more, and lower buffers of \
             the slots let a host have less in flight"
        ),
        Counter::DropRuns => {
            "no buffer is left for transfers of more than 7 sectors, so frames are dropped (hosts \
             repeat them); raise memory.runs-per-worker"
                .to_owned()
        }
        Counter::DropHandOver => {
            "a worker gets frames faster than it takes them, so some are dropped (hosts repeat \
             them); more workers share the slots"
                .to_owned()
        }
        Counter::DropWildcards => {
            "too many requests to all slots at once, so some are dropped (hosts repeat them)".to_owned()
        }
        Counter::DropTooOften => format!(
            "a host sends more than {} requests to all slots a second, so some are dropped; something is wrong with it",
            1_000_000 / limits::WILDCARD_RATE.every.as_micros()
        ),
        Counter::DropChanges => format!(
            "hosts change the config string, mask or reservation of one slot more than {} times before the first change is \
             on disk, so some are dropped (hosts repeat them)",
            limits::CHANGES
        ),
        Counter::DropOversized => {
            "frames came in more pieces than can be; is the MTU of a host larger than ours?".to_owned()
        }
        Counter::DiskErrors => "a backing failed a command; the kernel log may say why".to_owned(),
        Counter::Defects => "something happened that cannot; this is a defect, please report it".to_owned(),
        _ => return None,
    })
}

impl Watch {
    /// What is new, as lines for the log; the flag tells an error from a warning. A worker holds so many `requests`.
    pub(super) fn look(
        &mut self,
        counters: &[Arc<Counters>],
        kernel: Kernel,
        requests: usize,
    ) -> Vec<(bool, String)> {
        let mut lines = Vec::new();
        for (name, _) in kernel.nonzero() {
            if self.said.insert(name) {
                lines.push((false, format!("{name}: {}", of_kernel(name))));
            }
        }
        for counter in counters.iter().flat_map(|c| c.nonzero()).map(|(counter, _)| counter) {
            let Some(text) = meaning(counter, requests) else { continue };
            if self.said.insert(counter.name()) {
                let error = matches!(counter, Counter::DiskErrors | Counter::Defects);
                lines.push((error, format!("{}: {text}", counter.name())));
            }
        }
        lines
    }
}

/// The sums of all workers and of the kernel that are not 0, as text.
pub(super) fn totals(counters: &[Arc<Counters>], kernel: Kernel) -> String {
    let sum = |counter| counters.iter().map(|c| c.get(counter)).fold(0, u64::wrapping_add);
    let all = Counter::ALL.iter().map(|&c| (c.name(), sum(c))).filter(|(_, n)| *n > 0);
    let words: Vec<String> = all.chain(kernel.nonzero()).map(|(name, n)| format!("{name} {n}")).collect();
    if words.is_empty() { "nothing came".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Kernel = Kernel { ring_full: 0, refused: 0 };

    #[test]
    fn each_reason_is_said_once_over_all_workers_and_what_to_change() {
        let counters = [Arc::new(Counters::default()), Arc::new(Counters::default())];
        let mut watch = Watch::default();
        let mut look = |kernel, requests| watch.look(&counters, kernel, requests);
        counters[0].count(Counter::Received);
        assert_eq!(look(NONE, 1024), []);
        counters[0].count(Counter::DropRuns);
        counters[1].count(Counter::DropRuns);
        counters[1].count(Counter::Defects);
        let lines = look(NONE, 1024);
        assert_eq!(lines.len(), 2);
        assert!(!lines[0].0 && lines[0].1.starts_with("drop-runs: no buffer is left"), "{lines:?}");
        assert!(lines[1].0 && lines[1].1.starts_with("defects: "), "{lines:?}");
        counters[0].count(Counter::DropRuns);
        assert_eq!(look(NONE, 1024), []);
        counters[0].count(Counter::DropRequests);
        counters[0].count(Counter::DropShare);
        let lines = look(NONE, 32);
        assert!(
            lines[0].1.contains("holds 32 requests") && lines[0].1.contains("frames-per-queue"),
            "{lines:?}"
        );
        assert!(lines[1].1.starts_with("drop-share: a host has more commands"), "{lines:?}");
        for (kernel, words) in [
            (Kernel { ring_full: 1, ..NONE }, "kernel-drop-rx-ring: frames come faster"),
            (Kernel { refused: 1, ..NONE }, "raise memory.frames-per-queue"),
        ] {
            let lines = look(kernel, 32);
            assert!(lines.len() == 1 && !lines[0].0 && lines[0].1.contains(words), "{lines:?}");
            assert_eq!(look(kernel, 32), []);
        }
    }

    #[test]
    fn totals_are_over_all_workers_and_the_kernel() {
        let counters = [Arc::new(Counters::default()), Arc::new(Counters::default())];
        assert_eq!(totals(&counters, NONE), "nothing came");
        counters[0].add(Counter::Received, 2);
        counters[1].add(Counter::Received, 3);
        counters[1].add(Counter::DropRunt, 1);
        assert_eq!(totals(&counters, NONE), "received 5, drop-runt 1");
        let kernel = Kernel { refused: 7, ..NONE };
        assert_eq!(totals(&counters, kernel), "received 5, drop-runt 1, kernel-drop-no-memory 7");
    }
}
