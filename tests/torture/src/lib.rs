//! The real xshelf where it hurts: on a bad wire, killed again and again, beside a hung disk, with disks and links that
//! vanish, short of memory.
//!
//! Not here: the client that remembers (`tests/torment`), the wire (`tests/shim`).
//! Invariant: a run that returns well has compared every byte that was acknowledged, and xshelf has ended with 0 and all
//! its frame memory.

pub mod bench;
pub mod disks;
pub mod flap;
pub mod hang;
pub mod kill;
pub mod load;
pub mod press;
pub mod wire;
pub mod yank;

use std::path::PathBuf;
use std::time::Instant;
use xshelf_torment::{FaultDisk, Lab};

/// What every run needs to know.
#[derive(Clone, Debug)]
pub struct Common {
    /// The xshelf that is tortured.
    pub binary: PathBuf,
    /// The program of the disk that fails (`tests/faultdisk`).
    pub faultdisk: PathBuf,
    /// Repeats the choices of another run. What the machine does in between nobody can repeat.
    pub seed: u64,
}

impl Common {
    /// The disk that fails, with these files. Without FUSE there is none here; whatever else keeps it from being mounted is
    /// a fault.
    ///
    /// # Errors
    /// Why there is none.
    pub fn disk(&self, lab: &Lab, files: &[String]) -> Result<FaultDisk, Failed> {
        if !std::path::Path::new("/dev/fuse").exists() {
            return Err(Failed::Skipped("no /dev/fuse here".into()));
        }
        FaultDisk::mount(&self.faultdisk, &lab.path("mnt"), files).map_err(Failed::Wrong)
    }
}

/// Why a run did not end well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// It cannot be done on this machine, and why.
    Skipped(String),
    /// Something is wrong, and what.
    Wrong(String),
}

impl From<String> for Failed {
    fn from(what: String) -> Self {
        Self::Wrong(what)
    }
}

/// Says now and then how far it is, on standard error.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    said: Instant,
}

impl Progress {
    /// Begins now.
    #[must_use]
    pub fn new() -> Self {
        Self { began: Instant::now(), said: Instant::now() }
    }

    /// Says `words`, but not more often than each ten seconds.
    pub fn say(&mut self, words: impl FnOnce() -> String) {
        if self.said.elapsed().as_secs() >= 10 {
            self.said = Instant::now();
            eprintln!("{:5.0} s: {}", self.began.elapsed().as_secs_f64(), words());
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// The middle one of some figures.
#[must_use]
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let n = figures.len();
    match n {
        0 => f64::NAN,
        _ => (figures[(n - 1) / 2] + figures[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 100.0]), 3.0);
        assert!(median(Vec::new()).is_nan());
    }
}
