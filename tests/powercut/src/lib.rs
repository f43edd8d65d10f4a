//! Cuts the power of an xshelf under verified load, again and again, and reads back everything it acknowledged.
//!
//! ```text
//! client ─► xshelf ─┬─► loop device, direct ───► file ─┐
//!                   ├─► loop device, cached ───► file ─┤
//!                   ├─► loop device of 4096 ───► file ─┤
//!                   ├─► file, direct ──────────────────┼─► faultdisk: volatile until FSYNC
//!                   ├─► file, through the page cache ──┤
//!                   ├─► loop and file with write-back ─┤
//!                   └─► state directory ───────────────┘
//! ```
//! A cut: the disk drops and tears what is not flushed and answers nobody; xshelf is killed with SIGKILL; the disk comes
//! back with what survived; loop devices are made anew; xshelf starts; the client reads every sector and every setting.
//!
//! Not here: what a disk loses (`tests/faultdisk`), what may be there afterwards (`tests/torment`).
//! Invariant: nothing that was acknowledged before the cut is missing, or the run fails.

use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use xshelf::initiator::pattern::Random;
use xshelf::protocol::Address;
use xshelf_torment::{
    Cable, Client, End, FaultDisk, INITIATOR, Lab, Loop, Options, Report, Shelf, Tally, program,
};

/// What a slot stores on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backing {
    Loop { direct: bool, sector: u32 },
    File { cached: bool },
}

/// The slots, and whether they are write-back.
const SLOTS: [(Backing, bool); 7] = [
    (Backing::Loop { direct: true, sector: 512 }, false),
    (Backing::Loop { direct: false, sector: 512 }, false),
    (Backing::Loop { direct: true, sector: 4096 }, false),
    (Backing::File { cached: false }, false),
    (Backing::File { cached: true }, false),
    (Backing::Loop { direct: true, sector: 512 }, true),
    (Backing::File { cached: true }, true),
];

/// Sectors of a slot.
const SECTORS: u32 = 4096;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How often the power is cut.
    pub cuts: u64,
    /// Of all choices.
    pub seed: u64,
    /// The binary.
    pub xshelf: PathBuf,
    /// The disk.
    pub faultdisk: PathBuf,
}

impl Plan {
    /// So many cuts of the xshelf that XSHELF_BIN names, or that was built with this program.
    #[must_use]
    pub fn new(cuts: u64, seed: u64) -> Self {
        Self {
            cuts,
            seed,
            xshelf: program("xshelf", "XSHELF_BIN"),
            faultdisk: program("faultdisk", "FAULTDISK_BIN"),
        }
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Of all choices.
    pub seed: u64,
    /// Cuts done.
    pub cuts: u64,
    /// What the client did.
    pub tally: Tally,
    /// Sectors read back.
    pub sectors: u64,
    /// Of those, sectors that a write was acknowledged of.
    pub written: u64,
    /// Config strings, masks and reservations read back.
    pub settings: u64,
    /// Writes that were not flushed, and dropped.
    pub dropped: u64,
    /// Writes that were not flushed, and survived.
    pub kept: u64,
    /// Writes of which a part survived.
    pub torn: u64,
    /// Changes of names that were not synced, and forgotten.
    pub names: u64,
    /// Time it took.
    pub time: Duration,
    /// What was lost with the last cut, if anything was.
    pub loss: Option<String>,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { writes, trims, reads, flushes, settings, retransmissions, errors, refused, unknown } =
            self.tally;
        writeln!(f, "seed {}: {} power cuts in {:.0} s", self.seed, self.cuts, self.time.as_secs_f64())?;
        writeln!(
            f,
            "  acknowledged: {writes} writes, {trims} TRIMs, {flushes} flushes, {settings} config strings, masks and reservations"
        )?;
        writeln!(
            f,
            "  in flight at the cuts: {unknown}; sent again {retransmissions}, answered with an error {}",
            errors + refused
        )?;
        writeln!(
            f,
            "  the disk dropped {} writes that were not flushed, tore {}, kept {}; forgot {} changes of names",
            self.dropped, self.torn, self.kept, self.names
        )?;
        write!(
            f,
            "  compared: {} sectors after cuts ({} of them written), {reads} reads under load, {} settings",
            self.sectors, self.written, self.settings
        )?;
        if let Some(loss) = &self.loss {
            write!(f, "\nLOST with cut {}:\n{loss}", self.cuts)?;
        }
        Ok(())
    }
}

/// Everything that runs.
struct Rig {
    // Dropped in this order: what uses comes before what is used.
    shelf: Option<Shelf>,
    loops: Vec<Loop>,
    disk: FaultDisk,
    lab: Lab,
    xshelf: PathBuf,
    arguments: Vec<String>,
}

impl Rig {
    fn new(plan: &Plan) -> Result<Self, String> {
        let lab = Lab::new("xshelf-powercut", Cable { queues: 2, ..Cable::default() })?;
        let files: Vec<String> = SLOTS
            .iter()
            .enumerate()
            .map(|(n, (backing, _))| {
                let direct =
                    matches!(backing, Backing::Loop { direct: true, .. } | Backing::File { cached: false });
                format!("disk{n}={}{}", u64::from(SECTORS) * 512, if direct { "" } else { ",cached" })
            })
            .collect();
        let disk = FaultDisk::mount(&plan.faultdisk, &lab.path("mnt"), &files)?;
        let mut arguments = Vec::new();
        for (n, (backing, write_back)) in SLOTS.iter().enumerate() {
            let path = match backing {
                Backing::Loop { .. } => lab.path(&format!("loop{n}")),
                Backing::File { .. } => disk.path(&format!("disk{n}")),
            };
            let option = if *write_back { ",write-back" } else { "" };
            arguments.push(format!("7.{n}={}{option}", path.display()));
        }
        arguments.extend(["--state-dir".to_owned(), disk.path("").display().to_string()]);
        let mut rig =
            Self { shelf: None, loops: Vec::new(), disk, lab, xshelf: plan.xshelf.clone(), arguments };
        rig.power_up()?;
        Ok(rig)
    }

    /// Attaches the loop devices and starts xshelf.
    fn power_up(&mut self) -> Result<(), String> {
        for (n, (backing, _)) in SLOTS.iter().enumerate() {
            if let Backing::Loop { direct, sector } = backing {
                let device = Loop::with_sectors(&self.disk.path(&format!("disk{n}")), *direct, *sector);
                let link = self.lab.path(&format!("loop{n}"));
                let _ = fs::remove_file(&link);
                symlink(device.path(), &link).map_err(|e| format!("{}: {e}", link.display()))?;
                self.loops.push(device);
            }
        }
        self.shelf = Some(Shelf::try_start(&self.lab, &self.xshelf, &self.arguments)?);
        Ok(())
    }

    /// Lets the client run for a while and cuts the power in the middle of it. Returns what the disk says.
    fn cut(&mut self, client: &mut Client, random: &mut Random) -> Result<String, String> {
        let Some(mut shelf) = self.shelf.take() else { return Err("it does not run".into()) };
        // Counted in answers and not in time, so that a slow machine does as much; now and then it comes with the first.
        let most = if random.below(8) == 0 { 3 } else { 1200 };
        let enough = client.tally().writes + random.below(most);
        let moment = Duration::from_micros(random.below(3_000));
        let dark = Duration::from_micros(random.below(20_000));
        let command = format!("cut {}", random.next() >> 1);
        let (disk, now) = (&mut self.disk, AtomicBool::new(false));
        let said = thread::scope(|scope| {
            let cutter = scope.spawn(|| {
                while !now.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_micros(100));
                }
                thread::sleep(moment);
                let said = disk.tell(&command);
                // The machine is dead from here on; that its CPU runs on for a moment must not matter.
                thread::sleep(dark);
                shelf.shoot();
                disk.tell("on");
                said
            });
            let run = client.run_while(|tally| {
                if tally.writes >= enough {
                    now.store(true, Ordering::Relaxed);
                }
                !cutter.is_finished()
            });
            now.store(true, Ordering::Relaxed);
            let said = cutter.join().map_err(|_| "the cut itself failed".to_owned())?;
            run.map_err(|e| e.to_string())?;
            Ok::<_, String>(said)
        })?;
        shelf.end();
        client.power_cut().map_err(|e| e.to_string())?;
        self.loops.clear();
        Ok(said)
    }
}

/// Runs it. `progress` is told after each cut, with what the client found.
///
/// # Errors
/// Why it could not run at all; a loss is in the totals.
pub fn run(plan: &Plan, mut progress: impl FnMut(&Totals)) -> Result<Totals, String> {
    let start = Instant::now();
    let mut rig = Rig::new(plan)?;
    let addresses: Vec<Address> = (0..SLOTS.len() as u8).map(|slot| Address { shelf: 7, slot }).collect();
    let options = Options {
        seed: plan.seed,
        sectors: SECTORS,
        write_back: (0..SLOTS.len()).filter(|n| SLOTS[*n].1).collect(),
        trims: 4,
        settings: Some(Duration::from_millis(2)),
        ..Options::default()
    };
    let mut client = rig
        .lab
        .within(End::Initiator, move || Client::new(INITIATOR, &addresses, options))
        .map_err(|e| e.to_string())?;
    let mut random = Random::new(plan.seed);
    let mut totals = Totals { seed: plan.seed, ..Totals::default() };
    while totals.cuts < plan.cuts && totals.loss.is_none() {
        let said = rig.cut(&mut client, &mut random)?;
        totals.cuts += 1;
        totals.dropped += FaultDisk::number(&said, "dropped");
        totals.kept += FaultDisk::number(&said, "kept");
        totals.torn += FaultDisk::number(&said, "torn");
        totals.names += FaultDisk::number(&said, "names");
        totals.loss = match rig.power_up() {
            Ok(()) => read_back(&mut client, &mut totals),
            Err(why) => Some(format!("it does not start again: {why}")),
        };
        totals.tally = client.tally();
        totals.time = start.elapsed();
        progress(&totals);
    }
    Ok(totals)
}

fn read_back(client: &mut Client, totals: &mut Totals) -> Option<String> {
    let report: Report = match client.check_all() {
        Ok(report) => report,
        Err(e) => return Some(format!("not everything can be read: {e}")),
    };
    totals.sectors += report.sectors;
    totals.written += report.written;
    totals.settings += report.settings;
    (!report.is_clean()).then(|| report.to_string())
}

/// Whether a program is there to be run.
///
/// # Errors
/// A line that says how to get it.
pub fn present(path: &Path) -> Result<(), String> {
    if path.is_file() {
        Ok(())
    } else {
        Err(format!("{} is not there; build it with `cargo build --workspace`", path.display()))
    }
}
