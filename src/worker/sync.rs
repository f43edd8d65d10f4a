//! The synchronisation primitives that `bell` and `post` are written against.
//!
//! Not an abstraction of its own: `tests/loom` puts loom's model of the same names in its place.

pub use crossbeam::queue::ArrayQueue;
pub use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
