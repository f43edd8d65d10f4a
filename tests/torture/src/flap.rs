//! The link goes down and up at random moments, at either end, under verified load.
//!
//! Not here: links that are removed (the end-to-end tests).
//! Invariant: both ends are up when it is over, and everything is compared then.

use crate::disks::Disks;
use crate::load::{Load, Sofar};
use crate::{Common, Failed, Progress};
use std::fmt;
use std::time::Duration;
use xshelf::initiator::pattern::Random;
use xshelf_torment::{Cable, End, INITIATOR, Lab, Options, Shelf, TARGET};

/// Longest time down, and up, in milliseconds.
const DOWN: u64 = 300;
const UP: u64 = 700;

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// How often the target's end and the initiator's went down.
    pub flaps: [u32; 2],
    /// What the client did.
    pub load: Sofar,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [target, initiator] = self.flaps;
        writeln!(
            f,
            "the link went down {target} times at the target and {initiator} times at the initiator"
        )?;
        write!(f, "{}", self.load)
    }
}

/// Lets it go down `flaps` times.
///
/// # Errors
/// What is wrong, or why it cannot be done here.
pub fn run(common: &Common, flaps: u32) -> Result<Outcome, Failed> {
    let lab = Lab::new("xshelf-torture-flap", Cable::default()).map_err(Failed::Skipped)?;
    let mut disks = Disks::default();
    for _ in 0..3 {
        disks.file(&lab, 16 << 20, "");
    }
    disks.new_device(&lab, 16 << 20);
    let mut arguments = disks.arguments.clone();
    arguments.extend(["--workers", "2", "--control", "none", "--state-dir"].map(str::to_owned));
    arguments.push(lab.path("state").display().to_string());
    let shelf = Shelf::try_start(&lab, &common.binary, &arguments)?;
    let mut random = Random::new(common.seed);
    let options = Options {
        seed: random.next() >> 32,
        settings: Some(Duration::from_millis(20)),
        retransmit: Duration::from_millis(40),
        ..Options::default()
    };
    let mut load = Load::begin(&lab, &disks.addresses, options, 20_000)?;
    let mut progress = Progress::new();
    let mut count = [0; 2];
    for n in 1..=flaps {
        std::thread::sleep(Duration::from_millis(random.below(UP)));
        let which = random.below(2) as usize;
        let (end, interface) = [(End::Target, TARGET), (End::Initiator, INITIATOR)][which];
        count[which] += 1;
        lab.ip(end, &["link", "set", interface, "down"]);
        std::thread::sleep(Duration::from_millis(random.below(DOWN)));
        lab.ip(end, &["link", "set", interface, "up"]);
        load = load.still()?;
        progress.say(|| format!("{n} of {flaps} flaps, {} writes acknowledged", load.sofar().tally.writes));
    }
    let load = load.end().map_err(|e| format!("{e}\n{}", shelf.said()))?;
    shelf.stop_well()?;
    load.without_errors()?;
    Ok(Outcome { flaps: count, load })
}
