//! The line that says what is served: one sentence for the log and for systemd's status.
//!
//! Not here: finding any of it out.
//! Invariant: every slot, interface, worker and CPU is named, and nothing is claimed that is not so.

use crate::appliance::config::List;
use crate::net::xsk::Pages;
use crate::protocol::Address;
use crate::storage::device::Durability;
use std::fmt;

/// An interface that is served on.
#[derive(Clone, Debug)]
pub(super) struct PortLine {
    /// Its name, the rung in force, and why better ones are not.
    pub standing: String,
    /// Sectors of one command.
    pub sectors: u8,
    /// Its queues that are served.
    pub queues: Vec<u16>,
}

/// A slot that is served.
#[derive(Clone, Debug)]
pub(super) struct SlotLine {
    /// Its address.
    pub address: Address,
    /// When its writes are durable.
    pub durability: Durability,
}

/// What is served.
#[derive(Clone, Debug)]
pub(super) struct Serving {
    pub slots: Vec<SlotLine>,
    pub ports: Vec<PortLine>,
    /// CPU of each worker.
    pub cpus: Vec<u16>,
    /// Bytes of frame memory.
    pub memory: u64,
    /// What it is made of.
    pub pages: Pages,
}

impl fmt::Display for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("serving ")?;
        // Slots of equal durability side by side say it once.
        let mut rest = &self.slots[..];
        let mut comma = "";
        while let [first, ..] = rest {
            let run = rest.iter().take_while(|slot| slot.durability == first.durability).count();
            f.write_str(comma)?;
            for (i, slot) in rest[..run].iter().enumerate() {
                write!(f, "{}{}", if i == 0 { "" } else { " " }, slot.address)?;
            }
            match first.durability {
                Durability::ReadOnly => f.write_str(" [read-only]")?,
                durability => write!(f, " [durable: {durability}]")?,
            }
            comma = ", ";
            rest = &rest[run..];
        }
        for (i, port) in self.ports.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { " on " } else { ", and on " }, port.standing)?;
            let (sectors, queues) = (port.sectors, List(&port.queues));
            let s = if sectors == 1 { "" } else { "s" };
            let q = if port.queues.len() == 1 { "" } else { "s" };
            write!(f, ", {sectors} sector{s} per frame, queue{q} {queues}")?;
        }
        let mut cpus = self.cpus.clone();
        cpus.sort_unstable();
        cpus.dedup();
        let (workers, cpus) = (self.cpus.len(), List(&cpus));
        write!(f, "; {workers} worker{} on CPU {cpus}", if workers == 1 { "" } else { "s" })?;
        write!(f, "; {} MiB of frame memory in {}", self.memory.div_ceil(1 << 20), self.pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sentence_names_everything() {
        let slot = |slot, durability| SlotLine { address: Address { shelf: 7, slot }, durability };
        let port = |standing: &str, sectors, queues: &[u16]| PortLine {
            standing: standing.to_owned(),
            sectors,
            queues: queues.to_vec(),
        };
        let serving = Serving {
            slots: vec![
                slot(0, Durability::EachWrite),
                slot(1, Durability::EachWrite),
                slot(2, Durability::Ram),
                slot(3, Durability::ReadOnly),
            ],
            ports: vec![port("eth1: native copy (no zero-copy: why)", 16, &[0, 1]), port("eth2: x", 1, &[0])],
            cpus: vec![3, 2, 3],
            memory: 38 << 20,
            pages: Pages::Plain,
        };
        assert_eq!(
            serving.to_string(),
            "serving 7.0 7.1 [durable: yes (each write is synced)], 7.2 [durable: no (RAM)], 7.3 [read-only] on eth1: native copy (no zero-copy: why), \
             16 sectors per frame, queues 0-1, and on eth2: x, 1 sector per frame, queue 0; 3 workers on CPU 2-3; \
             38 MiB of frame memory in plain pages"
        );
    }
}
