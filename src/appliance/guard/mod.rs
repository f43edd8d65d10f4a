//! The guard: sees to it that nobody else on the wire answers for the addresses of our slots.
//!
//! Hosts take two targets with one address for two paths to one disk, and spread their frames over both: the data of
//! both are lost. So each address is asked for before it is served, and watched afterwards: by asking again each minute,
//! and by the XDP program, which tells of answers that are not ours.
//!
//! Not here: the XDP program, or what a slot answers.
//! Invariant: until it is decided that a slot may be served, nobody but another guard gets an answer for it.

mod patrol;
mod sentry;
mod wire;

pub use patrol::{Guard, GuardError};
pub use sentry::{Rival, Sight, Ward};
