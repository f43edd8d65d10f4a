//! SIGKILL at random moments under verified load, and a new start at once, again and again.
//!
//! Not here: power cuts: what the kernel has of a killed process is not lost.
//! Invariant: the client keeps its memory over all of them.

use crate::disks::Disks;
use crate::load::{Load, Sofar};
use crate::{Common, Failed, Progress, median};
use std::fmt;
use std::time::{Duration, Instant};
use xshelf::initiator::pattern::Random;
use xshelf_torment::{Cable, Lab, Options, Shelf};

/// Longest life after the first write that it acknowledged, in milliseconds.
const LIFE: u64 = 400;
/// Longest life of one that is not waited for, in milliseconds: some are ready by then.
const YOUTH: u64 = 200;
/// Of so many, one is not waited for.
const EARLY: u64 = 8;

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Deaths, and those of them that were came before it served.
    pub cycles: u32,
    /// See `cycles`.
    pub early: u32,
    /// Deaths of those that had acknowledged writes.
    pub busy: u32,
    /// What the client did.
    pub load: Sofar,
    /// Median time from the start to READY, in seconds.
    pub start: f64,
    /// Of all of it.
    pub seconds: f64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} SIGKILLs in {:.0} s, {} of them while it started, {} with writes acknowledged since it served; \
             median start {:.0} ms",
            self.cycles,
            self.seconds,
            self.early,
            self.busy,
            self.start * 1000.0
        )?;
        write!(f, "{}", self.load)
    }
}

/// Kills it `cycles` times.
///
/// # Errors
/// What is wrong, or why it cannot be done here.
pub fn run(common: &Common, cycles: u32) -> Result<Outcome, Failed> {
    let lab =
        Lab::new("xshelf-torture-kill", Cable { queues: 2, ..Cable::default() }).map_err(Failed::Skipped)?;
    let mut disks = Disks::default();
    for _ in 0..3 {
        disks.file(&lab, 64 << 20, "");
    }
    // What was acknowledged is not on the disk, but neither is it lost with the process.
    disks.file(&lab, 64 << 20, ",write-back");
    disks.parts(&lab, 64 << 20);
    disks.new_device(&lab, 64 << 20);
    disks.new_device(&lab, 64 << 20);
    let state = lab.path("state");
    let mut arguments = disks.arguments.clone();
    arguments.extend(["--workers", "2", "--state-dir"].map(str::to_owned));
    arguments.push(state.display().to_string());
    // The socket that a dead one leaves is in nobody's way.
    arguments.extend(["--control".to_owned(), lab.path("control").display().to_string()]);

    let mut random = Random::new(common.seed);
    let began = Instant::now();
    let mut shelf = Shelf::try_start(&lab, &common.binary, &arguments)?;
    let options = Options {
        seed: random.next() >> 32,
        sectors: 16384,
        write_back: vec![3],
        settings: Some(Duration::from_millis(20)),
        // Short, so that a cycle is not spent waiting for it.
        retransmit: Duration::from_millis(40),
        ..Options::default()
    };
    let mut load = Load::begin(&lab, &disks.addresses, options, 20_000)?;
    let mut progress = Progress::new();
    let (mut early, mut busy, mut starts, mut writes, mut young) = (0, 0, Vec::new(), 0, false);
    for cycle in 1..=cycles {
        std::thread::sleep(Duration::from_millis(random.below(if young { YOUTH } else { LIFE })));
        let sofar = load.sofar();
        busy += u32::from(sofar.tally.writes > writes);
        early += u32::from(!shelf.said().contains(" serving "));
        shelf.kill();
        let spawned = Instant::now();
        shelf = Shelf::spawn(&lab, &common.binary, &arguments);
        // The last one lives.
        young = cycle < cycles && random.below(EARLY) == 0;
        if !young {
            shelf.ready()?;
            starts.push(spawned.elapsed().as_secs_f64());
        }
        writes = load.sofar().tally.writes;
        // Its life begins with the load.
        while !young && load.sofar().tally.writes == writes {
            load = load.still()?;
            std::thread::sleep(Duration::from_millis(1));
        }
        load = load.still()?;
        progress.say(|| {
            format!(
                "{cycle} of {cycles} cycles, {} writes acknowledged, {} settings, {} resent",
                sofar.tally.writes, sofar.tally.settings, sofar.tally.retransmissions
            )
        });
    }
    let load = load.end().map_err(|e| format!("{e}\n{}", shelf.said()))?;
    shelf.stop_well()?;
    load.without_errors()?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(Outcome { cycles, early, busy, load, start: median(starts), seconds })
}
