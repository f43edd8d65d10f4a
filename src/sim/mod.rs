//! The simulator: a seed becomes a world of hosts, wires, disks and power cuts around the product's own worker loop.
//!
//! ```text
//! hosts ─► wire: loses, doubles, delays, reorders, corrupts, cuts ─► rings of 2 ─► worker::Worker::turn, 1 to 3 of them
//!   ▲                                                                                  │            │ errands
//!   │   check: one answer, frames conserved, what was read is what arrived before      ▼            ▼
//!   └────────────────────────────────────────────────────── disks that hang, fail, tear    appliance::state over a
//!                                                            and forget at a power cut     directory that forgets
//! ```
//!
//! One thread, no clock and no generator but its own: the same seed is the same world, on any machine. The worker, the shelf
//! and the store of state are those of production; `net::memory` stands for the kernel's rings, `disk` for its disks.
//!
//! | what is checked | where |
//! |---|---|
//! | a read sees what arrived before it at the owner of the slot, a write at a time | `check::Arrivals` |
//! | hosts that are careful see one register for each sector, over power cuts too | `check::History` |
//! | what was answered as durable is there after a power cut | both, and `world` for strings, masks and reservations |
//! | every chunk is somewhere, every frame in one counter, after every turn | `world::life` |
//! | one answer for each copy and slot, none without a request | `world::answers` |
//! | memory that the kernel or a disk has is touched by nobody | `net::memory`, `disk` |
//! | a worker that sleeps is woken for what came | `world::life` |
//! | once faults have healed, everything ends | `world` |
//!
//! Not here: the run over many seeds (`tests/simulate.rs`).
//! Invariant: nothing in here asks the machine for anything that could differ from run to run.

#![forbid(unsafe_code)]

mod check;
mod disk;
mod luck;
mod request;
mod shape;
mod stamp;
pub mod totals;
mod world;

pub use shape::REQUESTS;
pub use totals::{Kind, Totals};

/// A world in which something was wrong.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The seed of the world.
    pub seed: u64,
    /// What was wrong.
    pub what: String,
    /// What happened before, the last things last.
    pub trace: Vec<String>,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.trace {
            writeln!(f, "  {line}")?;
        }
        write!(f, "make simulate SEED={}    # {}", self.seed, self.what)
    }
}

/// Lives through the world of a seed.
///
/// # Errors
/// [`Violation`] says what was wrong first, and shows what happened before: for that the world is lived through again.
pub fn simulate(seed: u64) -> Result<Totals, Box<Violation>> {
    match world::live(seed, false) {
        Ok(totals) => Ok(totals),
        Err(_) => match world::live(seed, true) {
            Err((what, trace)) => Err(Box::new(Violation { seed, what, trace })),
            Ok(_) => Err(Box::new(Violation {
                seed,
                what: "wrong the first time and right the second: the simulator itself is not deterministic"
                    .into(),
                trace: Vec::new(),
            })),
        },
    }
}
