//! Two network namespaces with a cable between them, or two cables and a namespace for a wire of one's own, and a
//! directory.
//!
//! Not here: what runs in them.
//! Invariant: it is gone with its [`Lab`], whatever happened.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The target's interface, in its namespace.
pub const TARGET: &str = "tgt0";
/// The initiator's interface, in its namespace.
pub const INITIATOR: &str = "ini0";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The ends of the cables to initiator and target in the namespace between, see [`Lab::with_wire`].
pub const WIRE: [&str; 2] = ["wire-i", "wire-t"];

/// The veth pair.
#[derive(Clone, Copy, Debug)]
pub struct Cable {
    /// Of both ends.
    pub mtu: u32,
    /// Receive and transmit queues at both ends.
    pub queues: u32,
}

impl Default for Cable {
    fn default() -> Self {
        Self { mtu: 9000, queues: 1 }
    }
}

/// Which end of the cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where xshelf runs.
    Target,
    /// Where the client runs.
    Initiator,
    /// Between them; only in a lab [`Lab::with_wire`].
    Wire,
}

/// Two namespaces, the cable, and a directory for files.
#[derive(Debug)]
pub struct Lab {
    name: String,
    ends: &'static [End],
    directory: tempfile::TempDir,
}

impl Lab {
    /// Makes one, or says why there can be none here (a line to print behind `SKIPPED: `).
    ///
    /// # Errors
    /// Why not: no root, or no namespaces.
    ///
    /// # Panics
    /// When root can not make what it should.
    pub fn new(name: &str, cable: Cable) -> Result<Self, String> {
        let lab = Self::namespaces(name, &[End::Target, End::Initiator])?;
        lab.cable(cable, (End::Target, TARGET), (End::Initiator, INITIATOR));
        Ok(lab)
    }

    /// One where target and initiator reach each other only if somebody in the namespace between carries their frames
    /// from one end of [`WIRE`] to the other.
    ///
    /// # Errors
    /// As [`Lab::new`].
    ///
    /// # Panics
    /// As [`Lab::new`].
    pub fn with_wire(name: &str, cable: Cable) -> Result<Self, String> {
        let lab = Self::namespaces(name, &[End::Target, End::Initiator, End::Wire])?;
        lab.cable(cable, (End::Target, TARGET), (End::Wire, WIRE[1]));
        lab.cable(cable, (End::Initiator, INITIATOR), (End::Wire, WIRE[0]));
        Ok(lab)
    }

    fn namespaces(name: &str, ends: &'static [End]) -> Result<Self, String> {
        // SAFETY: no arguments, no memory.
        if unsafe { libc::geteuid() } != 0 {
            return Err("network namespaces and AF_XDP need root".into());
        }
        let name = format!("{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // Not /tmp: that may be memory, and then nothing is durable.
        let directory = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in("/var/tmp").unwrap();
        let lab = Self { name, ends, directory };
        for end in lab.ends {
            let done = Command::new("ip").args(["netns", "add", &lab.namespace(*end)]).output().unwrap();
            if !done.status.success() {
                let why = String::from_utf8_lossy(&done.stderr).trim().to_owned();
                return Err(format!("no network namespaces here: {why}"));
            }
        }
        Ok(lab)
    }

    /// Lays a cable between two namespaces, both ends up.
    fn cable(&self, cable: Cable, a: (End, &str), b: (End, &str)) {
        let (mtu, queues) = (cable.mtu.to_string(), cable.queues.to_string());
        let end = ["mtu", &mtu, "numrxqueues", &queues, "numtxqueues", &queues, "netns"];
        let mut add = Command::new("ip");
        add.args(["link", "add", a.1]).args(end).arg(self.namespace(a.0));
        add.args(["type", "veth", "peer", "name", b.1]).args(end).arg(self.namespace(b.0));
        run(add);
        for (end, interface) in [a, b] {
            self.ip(end, &["link", "set", interface, "up"]);
        }
    }

    /// The name of a namespace, as for `ip netns`.
    #[must_use]
    pub fn namespace(&self, end: End) -> String {
        let letter = match end {
            End::Target => 't',
            End::Initiator => 'i',
            End::Wire => 'w',
        };
        format!("{}-{letter}", self.name)
    }

    /// A path for a file that goes with the lab.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// An image of zeros, not allocated.
    ///
    /// # Panics
    /// When there is no room for it.
    #[must_use]
    pub fn image(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    }

    /// Lets a command start in a namespace.
    pub fn enter(&self, end: End, command: &mut Command) {
        let namespace = self.open(end);
        command.stdin(Stdio::null());
        // SAFETY: setns is async-signal-safe, and the descriptor lives as long as the closure that owns it.
        unsafe {
            command.pre_exec(move || setns(&namespace));
        }
    }

    /// Runs something on a thread in a namespace; sockets it opens stay there.
    ///
    /// # Panics
    /// When it does.
    pub fn within<T: Send + 'static>(&self, end: End, f: impl FnOnce() -> T + Send + 'static) -> T {
        self.beside(end, f).join().unwrap()
    }

    /// The same, but goes on at once.
    pub fn beside<T: Send + 'static>(
        &self,
        end: End,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let namespace = self.open(end);
        std::thread::spawn(move || {
            setns(&namespace).unwrap();
            f()
        })
    }

    /// `ip` in a namespace; returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn ip(&self, end: End, arguments: &[&str]) -> String {
        let mut command = Command::new("ip");
        command.args(arguments);
        self.enter(end, &mut command);
        run(command)
    }

    fn open(&self, end: End) -> File {
        let path = Path::new("/run/netns").join(self.namespace(end));
        File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for end in self.ends {
            let name = self.namespace(*end);
            // One that was never made needs no removal.
            let _ = Command::new("ip").args(["netns", "del", &name]).stderr(Stdio::null()).status();
        }
        // With what a killed process has left there.
        let _ = fs::remove_dir_all(self.directory.path());
    }
}

fn setns(namespace: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open; no memory is passed.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs a command to its end; panics unless it ended with 0.
#[track_caller]
fn run(mut command: Command) -> String {
    let done = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}
