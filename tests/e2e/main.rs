//! The real binary between network namespaces: it serves in one, an initiator asks from the other.
//!
//! Needs root, and says `SKIPPED:` where the machine does not let it. Every test makes namespaces of its own, with
//! the process id in their names, and takes them away again also when it fails.
//!
//! ```text
//!   namespace …-t                         namespace …-i
//!   xshelf serve ── tgt0 ════ veth ════ ini0 ── xshelf discover, bench, probe; raw frames of these tests
//! ```

// A test that cannot go on panics; helpers of tests are no exception (clippy.toml exempts only the tests themselves).
#![allow(clippy::unwrap_used)]

#[macro_use]
mod lab;
#[path = "../conformance/case.rs"]
mod case;
mod changes;
mod conformance;
mod control;
mod differences;
mod differential;
mod frames;
mod guard;
mod import;
mod network;
mod serve;
mod starts;
mod state;
mod windows;
