//! The synchronisation primitives that `ledger` is written against.
//!
//! Not an abstraction of its own: `tests/loom` puts loom's model of the same names in its place.

pub use std::sync::atomic::{AtomicU8, Ordering};
