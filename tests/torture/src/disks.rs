//! What slots are made of: files, and loop devices over files.
//!
//! Not here: disks that fail.
//! Invariant: addresses are given from 7.0 on, in the order in which slots are added.

use std::path::Path;
use xshelf_torment::{Lab, Loop};

/// Some slots of shelf 7, from slot 0 on.
#[derive(Debug, Default)]
pub struct Disks {
    /// As arguments of `serve`.
    pub arguments: Vec<String>,
    /// As arguments of `bench`.
    pub addresses: Vec<String>,
    /// Those behind which a loop device is.
    loops: Vec<Loop>,
}

impl Disks {
    /// Anything, with its options.
    pub fn add(&mut self, what: &str) {
        let address = format!("7.{}", self.addresses.len());
        self.arguments.push(format!("{address}={what}"));
        self.addresses.push(address);
    }

    /// A file that is not allocated, with options such as `,write-back`.
    pub fn file(&mut self, lab: &Lab, bytes: u64, options: &str) {
        let file = lab.image(&format!("disk-{}", self.addresses.len()), bytes);
        self.add(&format!("{}{options}", file.display()));
    }

    /// Two parts of one file.
    pub fn parts(&mut self, lab: &Lab, bytes: u64) {
        let file = lab.image(&format!("disk-{}", self.addresses.len()), 2 * bytes);
        self.add(&format!("{},length={bytes}", file.display()));
        self.add(&format!("{},offset={bytes}", file.display()));
    }

    /// A loop device over a file, which is read and written around the page cache.
    pub fn device(&mut self, file: &Path) {
        let device = Loop::attach(file, true);
        self.add(&device.path().display().to_string());
        self.loops.push(device);
    }

    /// The same over a new file that is not allocated.
    pub fn new_device(&mut self, lab: &Lab, bytes: u64) {
        self.device(&lab.image(&format!("disk-{}", self.addresses.len()), bytes));
    }
}
