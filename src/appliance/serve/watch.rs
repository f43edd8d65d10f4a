//! Says once what the counters show and somebody should know: scarcity, disk errors, defects.
//!
//! Not metrics: who wants numbers reads the counters.
//! Invariant: one line for each reason in the life of a process, however often it happens.

use crate::limits;
use crate::worker::{Counter, Counters};
use std::sync::Arc;

/// What has been said already.
#[derive(Debug, Default)]
pub struct Watch {
    said: Vec<Counter>,
}

/// What to say of a counter that is no longer 0, if anything.
fn meaning(counter: Counter) -> Option<String> {
    Some(match counter {
        Counter::DropRequests => format!(
            "a worker holds {} requests, and drops what comes beyond (hosts repeat it); more workers hold more",
            limits::REQUESTS
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
    /// What is new, as lines for the log; the flag tells an error from a warning.
    pub fn look(&mut self, counters: &[Arc<Counters>]) -> Vec<(bool, String)> {
        let mut lines = Vec::new();
        for counter in counters.iter().flat_map(|c| c.nonzero()).map(|(counter, _)| counter) {
            if self.said.contains(&counter) {
                continue;
            }
            if let Some(text) = meaning(counter) {
                let error = matches!(counter, Counter::DiskErrors | Counter::Defects);
                lines.push((error, format!("{}: {text}", counter.name())));
                self.said.push(counter);
            }
        }
        lines
    }
}

/// The sums of all workers that are not 0, as text.
pub(super) fn totals(counters: &[Arc<Counters>]) -> String {
    let sum = |counter| counters.iter().map(|c| c.get(counter)).fold(0, u64::wrapping_add);
    let all = Counter::ALL.iter().map(|&c| (c.name(), sum(c))).filter(|(_, n)| *n > 0);
    let words: Vec<String> = all.map(|(name, n)| format!("{name} {n}")).collect();
    if words.is_empty() { "nothing came".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_said_once_over_all_workers() {
        let counters = [Arc::new(Counters::default()), Arc::new(Counters::default())];
        let mut watch = Watch::default();
        counters[0].count(Counter::Received);
        assert_eq!(watch.look(&counters), []);
        counters[0].count(Counter::DropRuns);
        counters[1].count(Counter::DropRuns);
        counters[1].count(Counter::Defects);
        let lines = watch.look(&counters);
        assert_eq!(lines.len(), 2);
        assert!(!lines[0].0 && lines[0].1.starts_with("drop-runs: no buffer is left"), "{lines:?}");
        assert!(lines[1].0 && lines[1].1.starts_with("defects: "), "{lines:?}");
        counters[0].count(Counter::DropRuns);
        assert_eq!(watch.look(&counters), []);
    }

    #[test]
    fn totals_are_over_all_workers() {
        let counters = [Arc::new(Counters::default()), Arc::new(Counters::default())];
        assert_eq!(totals(&counters), "nothing came");
        counters[0].add(Counter::Received, 2);
        counters[1].add(Counter::Received, 3);
        counters[1].add(Counter::DropRunt, 1);
        assert_eq!(totals(&counters), "received 5, drop-runt 1");
    }
}
