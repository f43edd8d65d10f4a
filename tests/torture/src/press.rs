//! Memory and file descriptors run short under verified load.
//!
//! ```text
//!   cgroup with a limit just above what xshelf uses
//!   ┌────────────────────────────────────────────────┐
//!   │ xshelf     a hog: takes more than there is, is │
//!   │            killed by the kernel, and comes back│
//!   └────────────────────────────────────────────────┘
//! ```
//!
//! Not here: frame memory, which xshelf has from the start.
//! Invariant: the limit and the cgroup are gone when it is over.

use crate::disks::Disks;
use crate::load::{Load, Sofar};
use crate::{Common, Failed, Progress};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use xshelf::initiator::pattern::Random;
use xshelf_torment::{Cable, Lab, Options, Shelf};

/// What xshelf and the hog may use beyond what xshelf does after the start: so much that the kernel finds the hog to be
/// the better one to kill, whose score is that of the whole cgroup and what it uses itself.
const SLACK: u64 = 24 << 20;
/// What the hog takes: more than there is.
const HOG: u64 = 64 << 20;

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Bursts of the hog, and those it did not survive.
    pub bursts: u32,
    /// See `bursts`.
    pub killed: u32,
    /// How often the limit was hit.
    pub hit: u64,
    /// What the client did while memory was short.
    pub memory: Sofar,
    /// What it did while no file could be opened.
    pub files: Sofar,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "memory: {} bursts of a hog in the same cgroup, of which the kernel killed {}; the limit was hit {} times",
            self.bursts, self.killed, self.hit
        )?;
        writeln!(f, "{}", self.memory)?;
        writeln!(f, "no file may be opened half of the time:")?;
        write!(f, "{}", self.files)
    }
}

/// A cgroup of our own for memory, of either version.
#[derive(Debug)]
struct Cgroup {
    path: PathBuf,
    /// The files with the limit, the usage, and how often the limit was hit.
    names: [&'static str; 3],
}

impl Cgroup {
    fn new() -> Result<Self, Failed> {
        let name = format!("xshelf-torture-{}", std::process::id());
        let (one, two) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let (base, names) = if one.join("memory.limit_in_bytes").exists() {
            (one, ["memory.limit_in_bytes", "memory.usage_in_bytes", "memory.failcnt"])
        } else {
            // The controller may have to be handed down first; that it cannot be shows below.
            let _ = fs::write(two.join("cgroup.subtree_control"), "+memory");
            (two, ["memory.max", "memory.current", "memory.events"])
        };
        let path = base.join(name);
        let made = fs::create_dir(&path).map_err(|e| format!("no cgroup for memory here: {e}"));
        made.map_err(Failed::Skipped)?;
        let cgroup = Self { path, names };
        // What is swapped out is not short; one of the two is there.
        for (name, value) in [("memory.swap.max", "0"), ("memory.swappiness", "0")] {
            let _ = fs::write(cgroup.path.join(name), value);
        }
        if cgroup.path.join(names[0]).exists() {
            Ok(cgroup)
        } else {
            Err(Failed::Skipped("no cgroup for memory here".into()))
        }
    }

    fn add(&self, pid: u32) -> Result<(), String> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).map_err(|e| format!("cgroup.procs: {e}"))
    }

    fn limit(&self, bytes: u64) -> Result<(), String> {
        let name = self.names[0];
        fs::write(self.path.join(name), bytes.to_string()).map_err(|e| format!("{name}: {e}"))
    }

    fn usage(&self) -> u64 {
        let text = fs::read_to_string(self.path.join(self.names[1])).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    fn hit(&self) -> u64 {
        let text = fs::read_to_string(self.path.join(self.names[2])).unwrap_or_default();
        // A number alone, or a line `max NUMBER` among others.
        let line = text.lines().find_map(|l| l.strip_prefix("max ")).unwrap_or(&text);
        line.trim().parse().unwrap_or(0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that was killed leaves it a moment later.
        let until = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.path).is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Presses memory for `seconds`, then file descriptors for as long.
///
/// # Errors
/// What is wrong, or why it cannot be done here.
pub fn run(common: &Common, seconds: u64) -> Result<Outcome, Failed> {
    let lab = Lab::new("xshelf-torture-press", Cable::default()).map_err(Failed::Skipped)?;
    let cgroup = Cgroup::new()?;
    let mut disks = Disks::default();
    for _ in 0..3 {
        disks.file(&lab, 16 << 20, "");
    }
    disks.file(&lab, 16 << 20, ",write-back");
    disks.new_device(&lab, 16 << 20);
    let mut arguments = disks.arguments.clone();
    arguments.extend(["--workers", "2", "--control", "none", "--state-dir"].map(str::to_owned));
    arguments.push(lab.path("state").display().to_string());
    let mut shelf = Shelf::spawn(&lab, &common.binary, &arguments);
    cgroup.add(shelf.pid())?;
    shelf.ready()?;
    let mut random = Random::new(common.seed);
    let mut options = || Options {
        seed: random.next() >> 32,
        write_back: vec![3],
        settings: Some(Duration::from_millis(20)),
        ..Options::default()
    };
    let mut load = Load::begin(&lab, &disks.addresses, options(), 20_000)?;
    // Once it has touched what it needs.
    std::thread::sleep(Duration::from_millis(500));
    cgroup.limit(cgroup.usage() + SLACK)?;
    let (until, mut progress) = (Instant::now() + Duration::from_secs(seconds), Progress::new());
    let (mut bursts, mut killed) = (0, 0);
    while Instant::now() < until {
        bursts += 1;
        killed += u32::from(!hog(&cgroup)?);
        load = load.still()?;
        progress.say(|| format!("{bursts} bursts, {} writes acknowledged", load.sofar().tally.writes));
    }
    let hit = cgroup.hit();
    let memory = load.end().map_err(|e| format!("{e}\n{}", shelf.said()))?;
    memory.without_errors()?;
    cgroup.limit(1 << 40)?;
    if killed == 0 || hit == 0 {
        return Err(Failed::Wrong(format!(
            "memory was not short: {bursts} bursts, {killed} killed, limit hit {hit} times"
        )));
    }

    // A new client, whose first look takes what is there now; it needs slots of zeroes to begin with.
    shelf.stop_well()?;
    for n in 0..5 {
        let image = lab.path(&format!("disk-{n}"));
        let emptied = fs::File::options().write(true).open(&image).and_then(|f| {
            f.set_len(0)?;
            f.set_len(16 << 20)
        });
        emptied.map_err(|e| format!("{}: {e}", image.display()))?;
    }
    let shelf = Shelf::try_start(&lab, &common.binary, &arguments)?;
    let mut load = Load::begin(&lab, &disks.addresses, options(), 20_000)?;
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        let before = limit_files(shelf.pid(), next_file(shelf.pid())?)?;
        std::thread::sleep(Duration::from_millis(200));
        limit_files(shelf.pid(), before)?;
        std::thread::sleep(Duration::from_millis(200));
        load = load.still()?;
    }
    let files = load.end().map_err(|e| format!("{e}\n{}", shelf.said()))?;
    shelf.stop_well()?;
    if files.tally.errors > 0 || files.tally.refused == 0 {
        return Err(Failed::Wrong(format!(
            "without new files data must be served, and settings refused: {} and {} errors",
            files.tally.errors, files.tally.refused
        )));
    }
    Ok(Outcome { bursts, killed, hit, memory, files })
}

/// Takes memory in the cgroup, and lets it go. Whether it survived.
fn hog(cgroup: &Cgroup) -> Result<bool, String> {
    // tail keeps what it may have to print. The kernel is to choose it, and not xshelf.
    let script = format!(
        "echo 1000 >/proc/self/oom_score_adj; echo $$ >{}/cgroup.procs; head -c {HOG} /dev/zero | tail -c {HOG} >/dev/null",
        cgroup.path.display()
    );
    let mut sh = Command::new("sh");
    sh.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    sh.status().map(|status| status.success()).map_err(|e| format!("sh: {e}"))
}

/// The lowest number that no descriptor of a process has: the next one would get it.
fn next_file(pid: u32) -> Result<u64, String> {
    let directory = format!("/proc/{pid}/fd");
    let entries = fs::read_dir(&directory).map_err(|e| format!("{directory}: {e}"))?;
    let open: Vec<u64> = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect();
    Ok((0..).find(|n| !open.contains(n)).unwrap_or(0))
}

/// No descriptor of this number or above for a process; returns what was so before.
fn limit_files(pid: u32, files: u64) -> Result<u64, String> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let call = |new: *const libc::rlimit, old: *mut libc::rlimit| {
        // SAFETY: each pointer is null or leads to one rlimit, which lives through the call.
        match unsafe { libc::prlimit(pid as libc::pid_t, libc::RLIMIT_NOFILE, new, old) } {
            0 => Ok(()),
            _ => Err(format!("prlimit: {}", std::io::Error::last_os_error())),
        }
    };
    call(std::ptr::null(), &raw mut limit)?;
    let before = limit.rlim_cur;
    // The hard limit stays: not even root may raise it everywhere.
    limit.rlim_cur = files.min(limit.rlim_max);
    call(&raw const limit, std::ptr::null_mut())?;
    Ok(before)
}
