//! What goes wrong on the wire, in the rings and in the disks, apart from single commands that fail.
//!
//! Not here: crashes (`life`), commands that fail (`disk`).
//! Invariant: everything that is broken is planned to be well again.

use super::{Event, World};
use crate::limits;
use crate::net::memory::{Transmission, Visibility};
use crate::sim::luck::{MICRO, MILLI, Nanos, SECOND};
use crate::sim::request;
use crate::sim::totals::Kind;

/// Searches for all slots that come in one millisecond: twice what one host may ask at once.
const FLOOD: u32 = 2 * limits::WILDCARD_RATE.burst;

/// Something that is broken and becomes well again; a queue or a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mischief {
    /// A TX ring is served slowly, or not at all.
    Transmission(usize),
    /// Its completions are held back.
    Completions(usize),
    /// What it received is held back.
    Receptions(usize),
    /// A disk is stuck.
    Disk(usize),
}

/// What is broken now, of a process.
#[derive(Debug, Default)]
pub(super) struct Broken(Vec<Mischief>);

impl Broken {
    /// Whether what a queue receives is held back.
    pub(super) fn rx_held(&self, queue: usize) -> bool {
        self.0.contains(&Mischief::Receptions(queue))
    }

    /// Another process has other rings.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

impl World {
    /// Breaks something for a while.
    pub(super) fn mischief(&mut self) {
        if self.healed.is_some() {
            return;
        }
        let again = 10 * MICRO + self.luck.about(self.shape.mischief);
        self.plan(again, Event::Mischief);
        if self.luck.permille(1) {
            return self.flood();
        }
        let queue = self.luck.index(self.shape.queues.len());
        let slot = self.luck.index(self.slots.len());
        let what = match self.luck.below(8) {
            0 | 1 => Mischief::Transmission(queue),
            2 | 3 => Mischief::Completions(queue),
            4 | 5 => Mischief::Receptions(queue),
            _ => Mischief::Disk(slot),
        };
        if self.broken.0.contains(&what) {
            // Some of what is held back comes through.
            let some = self.luck.index(4);
            if let Some(life) = &mut self.life {
                match what {
                    Mischief::Completions(q) if self.luck.permille(500) => {
                        life.lanes[q].wire.complete_newest(some);
                    }
                    Mischief::Completions(q) => {
                        life.lanes[q].wire.complete(some);
                    }
                    Mischief::Receptions(q) => life.reveal(q, some),
                    _ => {}
                }
            }
            return;
        }
        let mut lasts = self.luck.about(self.luck.pick(&[100 * MICRO, 100 * MICRO, MILLI, 5 * MILLI]));
        let luck = std::rc::Rc::clone(&self.luck);
        match (what, &mut self.life) {
            (Mischief::Transmission(q), Some(life)) => {
                luck.count(Kind::TxSlow);
                let how = match luck.below(4) {
                    0 => Transmission::Refused,
                    1 => Transmission::Down(libc::ENETDOWN),
                    _ => Transmission::Budget(luck.among(1, 3) as usize),
                };
                life.lanes[q].wire.set_transmission(how);
            }
            (Mischief::Completions(q), Some(life)) => {
                luck.count(Kind::TxHeld);
                life.lanes[q].wire.set_completions(Visibility::Held);
            }
            (Mischief::Receptions(q), Some(life)) => {
                life.lanes[q].wire.set_receptions(Visibility::Held);
            }
            (Mischief::Disk(slot), _) => {
                luck.count(Kind::Stuck);
                lasts = luck.about(match luck.below(100) {
                    0 => SECOND,
                    1..=5 => 20 * MILLI,
                    _ => MILLI,
                });
                luck.trace(|| format!("the disk of slot {slot} is stuck for {} ms", lasts / MILLI));
                self.slots[slot].disk.borrow_mut().stick(luck.now() + lasts);
                self.reschedule_disks();
            }
            (_, None) => return,
        }
        self.broken.0.push(what);
        self.plan(lasts, Event::Relief(what));
    }

    /// One that is no host of ours asks for all slots, again and again.
    fn flood(&mut self) {
        let port = self.luck.index(self.shape.ports.len());
        for _ in 0..FLOOD {
            let mut frame = self.frame();
            request::search(self.shape.ports[port].mac, &mut frame);
            let queue = self.luck.pick(&self.shape.ports[port].queues);
            let after = self.luck.below(MILLI);
            self.plan(after, Event::Arrive { port, queue, sent: None, frame });
        }
    }

    /// Something is well again.
    pub(super) fn relieve(&mut self, mischief: Mischief) {
        let Some(at) = self.broken.0.iter().position(|m| *m == mischief) else { return };
        self.broken.0.swap_remove(at);
        match mischief {
            Mischief::Transmission(q) => {
                if let Some(life) = &mut self.life {
                    life.lanes[q].wire.set_transmission(Transmission::Open);
                }
            }
            Mischief::Completions(q) => {
                if let Some(life) = &mut self.life {
                    life.lanes[q].wire.set_completions(Visibility::AtOnce);
                }
            }
            Mischief::Receptions(q) => self.heal_rx(q),
            Mischief::Disk(_) => {}
        }
    }

    /// A frame goes on its way to the target, and what the wire does to it.
    pub(super) fn wire_to_target(
        &mut self,
        port: usize,
        queue: usize,
        sent: Option<u32>,
        mut frame: Vec<u8>,
    ) {
        let luck = std::rc::Rc::clone(&self.luck);
        let wire = self.shape.wire;
        if luck.permille(wire.garbage) {
            luck.count(Kind::Garbage);
            let mut garbage = self.frame();
            let address = self.shape.slots[luck.index(self.slots.len())].address;
            request::garbage(&luck, self.shape.ports[port].mac, address, &mut garbage);
            self.plan(luck.about(wire.mean), Event::Arrive { port, queue, sent: None, frame: garbage });
        }
        if luck.permille(wire.loss) {
            luck.count(Kind::Lost);
            return self.spare.push(frame);
        }
        if luck.permille(wire.corrupt) && !self.corrupt(&mut frame) {
            return self.spare.push(frame);
        }
        if luck.permille(wire.cut) {
            luck.count(Kind::Truncated);
            self.cut_frames += 1;
            frame.truncate(luck.index(frame.len()));
        }
        let mut copies = 1;
        if luck.permille(wire.double) {
            luck.count(Kind::Doubled);
            copies = 2;
        }
        for copy in 0..copies {
            let mut after = luck.about(if copy == 0 { wire.mean } else { wire.mean * 4 });
            if luck.permille(wire.delay) {
                luck.count(Kind::Delayed);
                after = self.long_delay();
            }
            let due = luck.now() + after;
            if due < self.latest[port] {
                luck.count(Kind::Reordered);
            }
            self.latest[port] = self.latest[port].max(due);
            if let Some(sent) = sent {
                let id = self.sent[sent as usize].request;
                self.requests[id as usize].alive += 1;
            }
            let frame = if copy + 1 < copies { frame.clone() } else { std::mem::take(&mut frame) };
            self.plan(after, Event::Arrive { port, queue, sent, frame });
        }
    }

    /// How long a frame takes that a switch forgot about.
    pub(super) fn long_delay(&self) -> Nanos {
        self.luck.about(self.luck.pick(&[MILLI, 10 * MILLI, SECOND]))
    }

    /// Corrupts a frame; false when its receiver's checksum drops it, as it nearly always does. What is left is caught by
    /// the first checks, or concerns nobody: a frame that passes for another one is beyond any target.
    fn corrupt(&mut self, frame: &mut [u8]) -> bool {
        let luck = &self.luck;
        match luck.below(4) {
            0 => {
                luck.count(Kind::Refused);
                // Another EtherType or none of ours; a group for a source; the R flag.
                let (at, bit) = luck.pick(&[(6, 0x01), (12, 0x10), (13, 0x40), (0, 0x40)]);
                if at == 0 && frame[..6] == [0xff; 6] {
                    frame[6] |= 1;
                } else {
                    frame[at] ^= bit;
                }
                true
            }
            1 if frame.len() == crate::limits::MIN_FRAME
                && frame[12..14] == [0x88, 0xa2]
                && frame[19] == 0 =>
            {
                luck.count(Kind::Padding);
                // What is behind the arguments of the longest of these commands.
                let last = frame.len() - 1;
                frame[last] ^= 0x80;
                true
            }
            _ => {
                luck.count(Kind::Corrupt);
                false
            }
        }
    }
}
