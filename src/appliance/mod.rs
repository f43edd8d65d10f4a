//! The appliance: configuration, checks, start and stop.
//!
//! Not here: anything a single frame goes through. It names every other module, and none names it.
//! Invariant: what was started is stopped, in reverse order, whatever failed in between.

pub mod check;
pub mod config;
pub mod control;
pub mod guard;
pub mod import;
pub mod keeper;
pub mod log;
pub mod masks;
pub mod notify;
pub mod serve;
pub mod signals;
pub mod state;
pub mod topology;
