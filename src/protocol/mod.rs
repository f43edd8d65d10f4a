//! ATA over Ethernet on the wire: layouts, codes, and how to read and write them.
//!
//! Not here: what a target does with a frame (`shelf`), or where it came from (`net`).
//! Invariant: nothing in here panics on any byte sequence, allocates, or does I/O.
#![forbid(unsafe_code)]

pub mod aoe;
pub mod ata;
pub mod config;
pub mod ethernet;
pub mod mask;
pub mod reserve;

pub use aoe::{Address, AoeError, Command, Flags, Header};
pub use ethernet::{Ethernet, Mac};
