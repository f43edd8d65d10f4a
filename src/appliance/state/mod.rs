//! What hosts have set on the slots over the wire, kept so that it outlives the process.
//!
//! Read in this order: `record` is one slot's state as a file, `store` brings it to stable storage, `simulated` is a
//! file system to try that on, `memory` is what there is without a directory, `lasting` goes from one start in place to the
//! next, and `clerk` is the thread that workers send their changes to.
//! Not here: what may be set, and by whom (`shelf`).
//! Invariant: after a crash at any moment, each slot has a state that was saved whole: the last one that was reported as
//! kept, or one that was on its way after it.

pub mod clerk;
pub mod lasting;
pub mod memory;
pub mod record;
pub mod simulated;
pub mod store;
