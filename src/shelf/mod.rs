//! The shelf: which frames are admitted, what a slot answers, and in which order its commands run.
//!
//! Not here: memory ownership, queues, disks (`worker` has those). Everything is a function over bytes and state.
//! Invariant: a request that is admitted ends in a [`Decision`], and nothing in here panics on any frame.
#![forbid(unsafe_code)]

pub mod admit;
pub mod command;
pub mod identify;
pub mod order;
pub mod reply;
pub mod routes;
pub mod slot;
pub mod smart;
pub mod state;

pub use admit::{Admitted, Refusal, admit};
pub use command::{Access, Io};
pub use order::{Order, Turn};
pub use routes::{Route, Routes, RoutesError};
pub use slot::{AtaText, Decision, Health, Path, ReservedAnswer, Slot, SlotFacts, TextError};
pub use state::{ConfigString, MacList, SlotState};
