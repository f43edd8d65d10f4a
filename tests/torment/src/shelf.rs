//! An `xshelf serve` that is started, killed and started again.
//!
//! Not here: what it serves.
//! Invariant: it never outlives its [`Shelf`].

use crate::lab::{End, Lab, TARGET};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// A guard against hangs, no measure of anything.
const GUARD: Duration = Duration::from_secs(120);

/// A running shelf.
#[derive(Debug)]
pub struct Shelf {
    child: Child,
    log: PathBuf,
    /// Bytes of the log that others wrote before.
    before: usize,
    /// What it tells the service manager, which a thread of its own reads: whoever asks to be told has to listen.
    told: Arc<Told>,
    /// What it told of its status, when that was asked for last.
    status: String,
}

impl Shelf {
    /// Starts `binary serve --interface tgt0` with these arguments besides in the target's namespace, and waits until it
    /// says READY. What it says is added to `log` in the lab's directory.
    ///
    /// # Panics
    /// When it ends before, or is not ready in two minutes.
    #[must_use]
    #[track_caller]
    pub fn start<S: AsRef<OsStr>>(lab: &Lab, binary: &Path, arguments: &[S]) -> Self {
        match Self::try_start(lab, binary, arguments) {
            Ok(shelf) => shelf,
            Err(why) => panic!("{why}"),
        }
    }

    /// The same; says why it did not start.
    ///
    /// # Errors
    /// When it ends before it is ready: how, and what it said.
    #[track_caller]
    pub fn try_start<S: AsRef<OsStr>>(lab: &Lab, binary: &Path, arguments: &[S]) -> Result<Self, String> {
        let mut shelf = Self::spawn(lab, binary, arguments);
        shelf.ready()?;
        Ok(shelf)
    }

    /// The same, but waits for nothing; see [`Shelf::ready`].
    ///
    /// # Panics
    /// When there is no such binary.
    #[must_use]
    #[track_caller]
    pub fn spawn<S: AsRef<OsStr>>(lab: &Lab, binary: &Path, arguments: &[S]) -> Self {
        let mut command = Command::new(binary);
        let mut all: Vec<OsString> = ["serve", "--interface", TARGET].map(OsString::from).to_vec();
        all.extend(arguments.iter().map(|a| a.as_ref().to_owned()));
        command.args(&all);
        lab.enter(End::Target, &mut command);
        let log = lab.path("log");
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let before = file.metadata().unwrap().len() as usize;
        let path = lab.path("notify");
        let _ = fs::remove_file(&path);
        let notify = UnixDatagram::bind(&path).unwrap();
        notify.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        // A control socket of its own, unless a test names one: all labs have the same names of interfaces.
        command.env("RUNTIME_DIRECTORY", lab.path(""));
        command.env("NOTIFY_SOCKET", &path).stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", binary.display()));
        let told = Arc::new(Told::default());
        listen(notify, Arc::downgrade(&told));
        Self { child, log, before, told, status: String::new() }
    }

    /// Waits until it says READY.
    ///
    /// # Errors
    /// When it ends before: how, and what it said.
    ///
    /// # Panics
    /// When it is not ready in two minutes.
    #[track_caller]
    pub fn ready(&mut self) -> Result<(), String> {
        let until = Instant::now() + GUARD;
        loop {
            // In this order: it may say so and end.
            let ended = self.child.try_wait().unwrap();
            if self.told.ready.load(Ordering::Relaxed) {
                return Ok(());
            }
            if let Some(status) = ended {
                return Err(format!("it ended before it was ready: {status}\n{}", self.said()));
            }
            assert!(Instant::now() < until, "it does not become ready\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The status that it told the service manager last.
    ///
    /// # Panics
    /// When whoever listens did.
    pub fn status(&mut self) -> &str {
        // Whoever asks in a loop need not do so all the time.
        std::thread::sleep(Duration::from_millis(10));
        self.told.status.lock().unwrap().clone_into(&mut self.status);
        &self.status
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What all shelves of the lab said so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What this one said so far.
    #[must_use]
    pub fn said(&self) -> String {
        let log = self.log();
        log.get(self.before..).unwrap_or_default().to_owned()
    }

    /// Sends SIGKILL and does not wait; see [`Shelf::end`].
    pub fn shoot(&mut self) {
        self.child.kill().unwrap();
    }

    /// Kills it with SIGKILL, and waits until it is gone.
    pub fn kill(mut self) {
        self.shoot();
        self.end();
    }

    /// Stops it as systemd does.
    ///
    /// # Panics
    /// When it does not end with 0.
    #[track_caller]
    pub fn stop(mut self) {
        let status = self.terminate();
        assert_eq!(status.code(), Some(0), "{status}\n{}", self.log());
    }

    /// The same, and says what is not as it should be at the end of a run without faults of the machine: it ends with 0,
    /// has all its frame memory back, and did not panic.
    ///
    /// # Errors
    /// What is wrong, and what it said.
    ///
    /// # Panics
    /// When it does not end in two minutes.
    #[track_caller]
    pub fn stop_well(mut self) -> Result<(), String> {
        let status = self.terminate();
        let said = self.said();
        let frames = said.lines().rev().find_map(|line| line.split_once("frames conserved: "));
        let conserved =
            frames.and_then(|(_, count)| count.split_once(" of ")).is_some_and(|(home, all)| home == all);
        if status.code() == Some(0) && conserved && !said.contains("panicked") {
            return Ok(());
        }
        Err(format!(
            "it ended with {status}, frame memory {}\n{said}",
            if conserved { "conserved" } else { "LOST" }
        ))
    }

    fn terminate(&mut self) -> ExitStatus {
        // SAFETY: the child is ours and not yet waited for, so the number names it and nobody else.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        self.wait()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in two minutes.
    #[track_caller]
    pub fn end(mut self) -> ExitStatus {
        self.wait()
    }

    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + GUARD;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it does not end\n{}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What it has told.
#[derive(Debug, Default)]
struct Told {
    ready: AtomicBool,
    status: Mutex<String>,
}

/// Reads what it tells as long as somebody may want to know.
fn listen(notify: UnixDatagram, told: Weak<Told>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 65536];
        loop {
            let received = notify.recv(&mut buffer);
            let Some(told) = told.upgrade() else { return };
            let Ok(n) = received else { continue };
            let message = String::from_utf8_lossy(&buffer[..n]);
            if let Some(status) = message.lines().find_map(|line| line.strip_prefix("STATUS=")) {
                status.clone_into(&mut told.status.lock().unwrap());
            }
            if message.lines().any(|line| line == "READY=1") {
                told.ready.store(true, Ordering::Relaxed);
            }
        }
    });
}

impl Drop for Shelf {
    fn drop(&mut self) {
        let _ = self.child.kill();
        // A disk that hangs keeps it, and is let go after it where a test has failed: whoever waited here without end would
        // never tell of that.
        let until = Instant::now() + Duration::from_secs(30);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
