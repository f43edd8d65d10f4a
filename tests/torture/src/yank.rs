//! Disks vanish under verified load: the file system behind a file slot and behind a loop device is killed. The other slots
//! must not notice.
//!
//! Not here: disks that come back (the end-to-end tests).
//! Invariant: what was read from the vanishing disks before was right, and after that is an error and never data.

use crate::bench::Bench;
use crate::disks::Disks;
use crate::load::{Load, Sofar};
use crate::{Common, Failed, Progress};
use std::fmt;
use std::time::Duration;
use xshelf::initiator::pattern::Random;
use xshelf_torment::{Cable, Lab, Options, Shelf};

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What the client of the other slots did, each time.
    pub others: Vec<Sofar>,
    /// Comparisons made on the disks that vanished, before they did.
    pub compared: u64,
    /// Requests to them that failed.
    pub failed: u64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |of: fn(&Sofar) -> u64| self.others.iter().map(of).sum::<u64>();
        writeln!(
            f,
            "two of eight disks vanished {} times; on them {} comparisons of a sector, 0 bad, and {} requests failed",
            self.others.len(),
            self.compared,
            self.failed
        )?;
        write!(
            f,
            "on the other six {} writes and {} settings acknowledged, {} reads and {} sectors compared: 0 lost, 0 bad, 0 \
             errors",
            sum(|s| s.tally.writes),
            sum(|s| s.tally.settings),
            sum(|s| s.tally.reads),
            sum(|s| s.sectors)
        )
    }
}

/// Lets them vanish `times` times.
///
/// # Errors
/// What is wrong, or why it cannot be done here.
pub fn run(common: &Common, times: u32) -> Result<Outcome, Failed> {
    let mut random = Random::new(common.seed);
    let mut outcome = Outcome::default();
    let mut progress = Progress::new();
    for n in 1..=times {
        one(common, &mut random, &mut outcome)?;
        progress.say(|| format!("{n} of {times} times"));
    }
    Ok(outcome)
}

fn one(common: &Common, random: &mut Random, outcome: &mut Outcome) -> Result<(), Failed> {
    let lab = Lab::new("xshelf-torture-yank", Cable::default()).map_err(Failed::Skipped)?;
    let files = ["file=16M".to_owned(), "device=16M".to_owned()];
    let mut disk = common.disk(&lab, &files)?;
    let mut disks = Disks::default();
    for _ in 0..5 {
        disks.file(&lab, 16 << 20, "");
    }
    disks.new_device(&lab, 16 << 20);
    disks.add(&disk.path("file").display().to_string());
    disks.device(&disk.path("device"));
    let mut arguments = disks.arguments.clone();
    arguments.extend(["--workers", "2", "--control", "none", "--state-dir"].map(str::to_owned));
    arguments.push(lab.path("state").display().to_string());
    let shelf = Shelf::try_start(&lab, &common.binary, &arguments)?;
    let (others, vanishing) = disks.addresses.split_at(6);
    let options = Options {
        seed: random.next() >> 32,
        settings: Some(Duration::from_millis(20)),
        ..Options::default()
    };
    let load = Load::begin(&lab, others, options, 20_000)?;
    let seed = (random.next() >> 32).to_string();
    let verify = ["--mode", "verify", "--destroy-data", "--depth", "8", "--seconds", "60", "--seed", &seed];
    let bench = Bench::start(&lab, &common.binary, vanishing, &verify)?;
    std::thread::sleep(Duration::from_millis(500 + random.below(1000)));
    disk.kill();
    let before = load.sofar().tally.writes;
    // It ends by itself: slots that answer nothing but errors are left alone.
    let bench = bench.end()?;
    std::thread::sleep(Duration::from_millis(random.below(500)));
    let load = load.still()?.end().map_err(|e| format!("{e}\n{}", shelf.said()))?;
    shelf.stop_well()?;
    load.without_errors()?;
    if load.tally.writes == before {
        return Err(Failed::Wrong(
            "no write to the other slots was acknowledged after the disks vanished".into(),
        ));
    }
    if bench.verified("bad_sectors") > 0 || bench.errors() == 0 || bench.verified("sectors_checked") == 0 {
        return Err(Failed::Wrong(format!("the disks that vanished were not as they should be: {bench:?}")));
    }
    outcome.others.push(load);
    outcome.compared += bench.verified("sectors_checked");
    outcome.failed += bench.errors();
    Ok(())
}
