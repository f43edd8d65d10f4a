//! What slots are made of: files, and loop devices over files.
//!
//! Not here: disks that fail.
//! Invariant: a loop device is detached when its [`Loop`] is dropped and nobody has it open any more.

use crate::Failed;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use xshelf_torment::Lab;

/// A loop device over a file.
#[derive(Debug)]
pub struct Loop {
    path: PathBuf,
}

impl Loop {
    /// Attaches one, with the file's page cache left out of the way.
    ///
    /// # Errors
    /// There are none to be had here.
    pub fn over(file: &Path) -> Result<Self, Failed> {
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show", "--direct-io=on"]).arg(file).stdin(Stdio::null());
        let done = losetup.output().map_err(|e| Failed::Skipped(format!("losetup: {e}")))?;
        let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        if !done.status.success() {
            return Err(Failed::Skipped(format!("no loop devices here: {said}")));
        }
        Ok(Self { path: String::from_utf8_lossy(&done.stdout).trim().into() })
    }

    /// As in /dev.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).stderr(Stdio::null()).status();
    }
}

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
    fn add(&mut self, what: &str) {
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

    /// A loop device over a file that is not allocated.
    ///
    /// # Errors
    /// There are none to be had here.
    pub fn device(&mut self, lab: &Lab, bytes: u64, options: &str) -> Result<(), Failed> {
        let device = Loop::over(&lab.image(&format!("disk-{}", self.addresses.len()), bytes))?;
        self.add(&format!("{}{options}", device.path().display()));
        self.loops.push(device);
        Ok(())
    }
}
