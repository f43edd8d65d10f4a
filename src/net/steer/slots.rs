//! What the XDP program knows of single slots: which are ours, who may talk to them, and who else answers for them.
//!
//! Not the judge: user space checks every frame again, so what is missing here costs speed and not safety.
//! Invariant: a slot that is not masked here stops nobody; whoever masks one has allowed its hosts before.

use super::{SteerError, change};
use crate::protocol::{Address, Mac};
use libbpf_rs::{MapCore as _, MapFlags, MapHandle, RingBuffer, RingBufferBuilder};
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Tag of a config query by which an xshelf asks whose an address is (`STEER_GUARD_TAG`).
pub const GUARD_TAG: u32 = 0x9a0e_5e1f;

const _: () = assert!(GUARD_TAG >> 31 == 1, "Linux ignores answers to such a tag");

/// Bytes of `struct steer_slot`, and where in it is what.
const SLOT: usize = 24;
const SLOT_VLAN: usize = 16;
const SLOT_MASKED: usize = 18;
/// Bytes of `struct steer_event`.
const EVENT: usize = 24;
/// Events taken from the ring in one go: all that fit into it, each with its header of 8 bytes.
const EVENTS: usize = 65536 / (EVENT + 8);

/// The key of a slot.
fn key(slot: Address) -> [u8; 4] {
    ((u32::from(slot.shelf) << 8) | u32::from(slot.slot)).to_ne_bytes()
}

/// The slots of one port's program, and who may talk to them. A copy ([`SlotMaps::share`]) leads to the same.
#[derive(Debug)]
pub struct SlotMaps {
    interface: String,
    slots: MapHandle,
    allowed: MapHandle,
}

impl SlotMaps {
    pub(super) const fn new(interface: String, slots: MapHandle, allowed: MapHandle) -> Self {
        Self { interface, slots, allowed }
    }

    /// A handle for another thread.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn share(&self) -> Result<Self, SteerError> {
        let handle = |map: &MapHandle| {
            change(&self.interface, "duplicate a map of the XDP program", MapHandle::try_from(map))
        };
        let (slots, allowed) = (handle(&self.slots)?, handle(&self.allowed)?);
        Ok(Self { interface: self.interface.clone(), slots, allowed })
    }

    /// The interface, for messages.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Makes a slot known, or says that it lives on another VLAN (0 for none) now. A new one is not masked.
    ///
    /// # Errors
    /// What the kernel says, the map being full among it: then the slot is neither guarded nor masked here.
    pub fn set_slot(&self, slot: Address, vlan: u16) -> Result<(), SteerError> {
        let mut entry = self.entry(slot)?.unwrap_or([0; SLOT]);
        entry[SLOT_VLAN..SLOT_MASKED].copy_from_slice(&vlan.to_ne_bytes());
        self.put(slot, &entry)
    }

    /// Drops frames of hosts that were not allowed, or of nobody.
    ///
    /// # Errors
    /// As [`SlotMaps::set_slot`].
    pub fn set_masked(&self, slot: Address, masked: bool) -> Result<(), SteerError> {
        let mut entry = match self.entry(slot)? {
            Some(entry) => entry,
            // Unknown, it stops nobody.
            None if !masked => return Ok(()),
            None => [0; SLOT],
        };
        entry[SLOT_MASKED] = masked.into();
        self.put(slot, &entry)
    }

    fn entry(&self, slot: Address) -> Result<Option<[u8; SLOT]>, SteerError> {
        let found = self.slots.lookup(&key(slot), MapFlags::ANY);
        let found = change(&self.interface, "look up a slot in the XDP program", found)?;
        Ok(found.and_then(|bytes| bytes.try_into().ok()))
    }

    // When the last event was may be lost by this; then the next one comes early.
    fn put(&self, slot: Address, entry: &[u8; SLOT]) -> Result<(), SteerError> {
        let result = self.slots.update(&key(slot), entry, MapFlags::ANY);
        change(&self.interface, "set a slot in the XDP program", result)
    }

    fn talker(slot: Address, mac: Mac) -> [u8; 12] {
        let mut entry = [0; 12];
        entry[..4].copy_from_slice(&key(slot));
        entry[4..10].copy_from_slice(&mac.0);
        entry
    }

    /// Lets a host talk to a slot, should that be masked.
    ///
    /// # Errors
    /// What the kernel says, the map being full among it.
    pub fn allow(&self, slot: Address, mac: Mac) -> Result<(), SteerError> {
        let result = self.allowed.update(&Self::talker(slot, mac), &[1], MapFlags::ANY);
        change(&self.interface, "allow a host in the XDP program", result)
    }

    /// Takes that back.
    ///
    /// # Errors
    /// What the kernel says; that it was not allowed is none.
    pub fn disallow(&self, slot: Address, mac: Mac) -> Result<(), SteerError> {
        let result = self.allowed.delete(&Self::talker(slot, mac));
        match change(&self.interface, "disallow a host in the XDP program", result) {
            Err(SteerError::Kernel { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// What happened to an address of ours (`enum steer_event_kind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Somebody else answered for it.
    Rival,
    /// Another xshelf asks whose it is.
    Asks,
}

/// What the program saw. After one, there is none of the same slot and kind for 100 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// Whose frame it was; none of our own addresses.
    pub mac: Mac,
    /// The slot.
    pub slot: Address,
    /// VLAN tag control information; 0 without a tag. Its VLAN is that of the slot.
    pub tci: u16,
    /// The interface it came in on.
    pub index: u32,
    /// The receive queue.
    pub queue: u32,
}

impl Event {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let slot = word(8)?;
        Some(Self {
            kind: match word(20)? {
                0 => EventKind::Rival,
                1 => EventKind::Asks,
                _ => return None,
            },
            mac: Mac(bytes.get(..6)?.try_into().ok()?),
            slot: Address { shelf: (slot >> 8) as u16, slot: slot as u8 },
            tci: u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?),
            index: word(12)?,
            queue: word(16)?,
        })
    }
}

/// The events of one port's program.
#[derive(Debug)]
pub struct Events {
    interface: String,
    ring: RingBuffer<'static>,
    taken: Receiver<Event>,
}

impl Events {
    pub(super) fn new(interface: &str, map: &MapHandle) -> Result<Self, SteerError> {
        let (give, taken): (SyncSender<Event>, _) = sync_channel(EVENTS);
        let mut builder = RingBufferBuilder::new();
        let added = builder.add(map, move |bytes| {
            if let Some(event) = Event::parse(bytes) {
                // There is room for all that are taken in one go.
                let _ = give.try_send(event);
            }
            0
        });
        let ring = added.map(drop).and_then(|()| builder.build());
        let ring = change(interface, "read the events of the XDP program", ring)?;
        Ok(Self { interface: interface.to_owned(), ring, taken })
    }

    /// Takes what has come since the last time, without waiting.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn take(&mut self) -> Result<Vec<Event>, SteerError> {
        let result = self.ring.consume_raw_n(EVENTS);
        if result < 0 {
            let source = io::Error::from_raw_os_error(result.saturating_neg());
            let what = "read the events of the XDP program";
            return Err(SteerError::Kernel { interface: self.interface.clone(), what, source });
        }
        Ok(self.taken.try_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::skeleton::types::{steer_slot, steer_talker};
    use super::*;
    use crate::limits;
    use std::mem::offset_of;

    const HEADER: &str = include_str!("../../../bpf/steer.h");

    #[test]
    fn sizes_are_those_of_the_kernel_program() {
        for line in [
            format!("#define STEER_SLOTS {}\n", limits::STEERED_SLOTS),
            format!("#define STEER_ALLOWED {}\n", limits::STEERED_HOSTS),
            format!("#define STEER_GUARD_TAG {GUARD_TAG:#x}\n"),
            format!("#define STEER_EVENT_BYTES {}\n", EVENTS * (EVENT + 8)),
        ] {
            assert!(HEADER.contains(&line), "{line}");
        }
        assert_eq!(size_of::<steer_slot>(), SLOT);
        assert_eq!((offset_of!(steer_slot, vlan), offset_of!(steer_slot, masked)), (SLOT_VLAN, SLOT_MASKED));
        assert_eq!(size_of::<steer_talker>(), 12);
        assert_eq!((offset_of!(steer_talker, slot), offset_of!(steer_talker, mac)), (0, 4));
        // In no map, so that its layout is not among the types; `tests/bpf.rs` reads real ones.
        assert!(HEADER.contains(&format!("_Static_assert(sizeof(struct steer_event) == {EVENT}, ")));
    }

    #[test]
    fn events_that_are_cut_or_of_another_kind_are_none() {
        let mut bytes = [0u8; EVENT];
        bytes[8..12].copy_from_slice(&0x0012_3405u32.to_ne_bytes());
        let event = Event::parse(&bytes).unwrap();
        assert_eq!(event.slot, Address { shelf: 0x1234, slot: 5 });
        for end in 0..EVENT {
            assert_eq!(Event::parse(&bytes[..end]), None, "{end} bytes");
        }
        bytes[20..].copy_from_slice(&2u32.to_ne_bytes());
        assert_eq!(Event::parse(&bytes), None);
    }
}
