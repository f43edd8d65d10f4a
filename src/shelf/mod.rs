//! The shelf: which frames are admitted, what a slot answers, and in which order its commands run.
//!
//! Not here: memory ownership, queues, disks (`worker` has those). Everything is a function over bytes and state.
//! Invariant: a request that is admitted ends in a [`Decision`], and nothing in here panics on any frame.
//!
//! The order of checks, for every frame (AoEr11, sections 2 and 3). A refusal is silence, and each has a counter of its
//! own (`worker::Counter`); the XDP program makes some of these checks before, and never a stricter one.
//!
//! | # | what | refused | where |
//! |---|---|---|---|
//! | 1 | 24 bytes, EtherType 88A2 behind at most one tag | `Runt`, `NotAoe` | [`admit()`] |
//! |   | R flag clear, version 1 | `Response`, `Version` | [`admit()`] |
//! |   | source a single host, and not us; destination us or everybody | `GroupSource`, `OwnSource`, `ForeignDestination` | [`admit()`] |
//! | 2 | shelf and slot are ours, wildcards included | `OtherAddress` | [`Routes`] |
//! |   | VLAN of the frame is that of the slot | `OtherVlan` | [`Slot::decide`] |
//! | 3 | source on the lists of those who may talk to the slot | `Masked` | [`Slot::decide`] |
//! | 4 | a failed slot answers config and reads; what would promise something gets ATA status 61/04, and of a disk that is gone whatever needs it | - | [`Slot::decide`] |
//! | 5 | the argument header is all there | `Runt` | [`Slot::decide`] |
//! | 6 | the command is known: else AoE error 1, and silence to a wildcard | `Wildcard` | [`Slot::decide`] |
//! |   | ATA: reservation, opcode, count, data, range, read-only | `Wildcard` | [`Slot::decide`], [`command::decode`] |
//! | 7 | the reply, in place: addresses exchanged, R set, real shelf and slot, same tag, 60 bytes at least | `NoRoom` | [`reply`] |
#![forbid(unsafe_code)]

pub mod admit;
pub mod command;
pub mod condition;
pub mod identify;
pub mod order;
pub mod reply;
pub mod routes;
pub mod slot;
pub mod smart;
pub mod state;

pub use admit::{Admitted, Refusal, admit};
pub use command::{Access, Io};
pub use condition::{Condition, Tried, Why};
pub use order::{Order, Turn};
pub use routes::{Route, Routes, RoutesError};
pub use slot::{AtaText, Decision, Health, Path, ReservedAnswer, Slot, SlotFacts, TextError};
pub use state::{ConfigString, MacList, SlotState};
