//! The guard: sees to it that nobody else on the wire answers for the addresses of our slots.
//!
//! Hosts take two targets with one address for two paths to one disk, and spread their frames over both: the data of
//! both are lost. So each address is asked for before it is served, and watched afterwards.
//!
//! Not here: the XDP program that notices answers of others (`net::steer`), or what a slot answers.
//! Invariant: until it is decided that a slot may be served, nobody but another guard gets an answer for it.

mod sentry;
mod wire;

pub use sentry::{Rival, Sight, Site, Ward};
