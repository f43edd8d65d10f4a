//! Verified load over a wire that loses, repeats, reorders and delays, beside the same over a good one.
//!
//! Not here: the wire (`tests/shim`).
//! Invariant: what the wire loses by itself, or the load, ends the run: then its figures say nothing.

use crate::bench::{Bench, Reported};
use crate::disks::Disks;
use crate::{Common, Failed, median};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use xshelf::initiator::pattern::Random;
use xshelf_shim::fate::Faults;
use xshelf_shim::{Direction, Ends, Report};
use xshelf_torment::{Cable, End, Lab, Shelf, WIRE};

/// What the wire does unless told otherwise.
pub const FAULTS: &str = "loss=0.05,duplicate=0.05,reorder=0.05,delay=0.02,hold=20ms";
/// What else a frame may meet on its way, beyond what the wire holds it back: a busy machine.
const MARGIN: Duration = Duration::from_millis(60);

/// How long, and how bad.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Of load on the bad wire, in all.
    pub seconds: u64,
    /// Of one round on the bad wire; beside it the good one has half of that.
    pub round: u64,
    /// Of the bad wire, both ways.
    pub faults: Faults,
}

/// What came of one round.
#[derive(Clone, Debug)]
struct Round {
    bench: Reported,
    wire: Report,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    seconds: u64,
    bad: Vec<Round>,
    good: Vec<Round>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |rounds: &[Round], of: &dyn Fn(&Round) -> u64| rounds.iter().map(of).sum::<u64>();
        let both = |of: fn(&Direction) -> u64| move |r: &Round| of(&r.wire.there) + of(&r.wire.back);
        writeln!(
            f,
            "{} s of verified load on the bad wire: {} frames, of which {} lost, {} repeated, {} overtaken, {} delayed; \
             by the wire itself 0; {} requests sent again",
            self.seconds,
            sum(&self.bad, &both(|d| d.counts.frames)),
            sum(&self.bad, &both(|d| d.counts.lost)),
            sum(&self.bad, &both(|d| d.counts.duplicated)),
            sum(&self.bad, &both(|d| d.counts.overtaken)),
            sum(&self.bad, &both(|d| d.counts.delayed)),
            sum(&self.bad, &|r| r.bench.resent()),
        )?;
        let verified = |what: &'static str| move |r: &Round| r.bench.verified(what);
        writeln!(
            f,
            "{} comparisons of a sector, {} of them in the reading of everything at the end of a round: 0 bad bytes",
            sum(&self.bad, &verified("sectors_checked")),
            sum(&self.bad, &verified("sectors_read_back")),
        )?;
        let middle = |rounds: &[Round], of: fn(&Reported) -> f64| {
            median(rounds.iter().map(|r| of(&r.bench)).collect())
        };
        let (bad, good) = (middle(&self.bad, Reported::megabytes), middle(&self.good, Reported::megabytes));
        let ratios = self.bad.iter().zip(&self.good).map(|(b, g)| b.bench.megabytes() / g.bench.megabytes());
        write!(
            f,
            "throughput, median of {} pairs: {bad:.1} MB/s, {:.0} IOPS on the bad wire; {good:.1} MB/s, {:.0} IOPS on \
             the good one ({} sent again); median ratio {:.2}",
            self.bad.len(),
            middle(&self.bad, Reported::iops),
            middle(&self.good, Reported::iops),
            sum(&self.good, &|r| r.bench.resent()),
            median(ratios.collect()),
        )
    }
}

/// Runs pairs of rounds, and changes the order within a pair from one to the next.
///
/// # Errors
/// What is wrong, or why it cannot be done here.
pub fn run(common: &Common, options: Options) -> Result<Outcome, Failed> {
    let lab = Lab::with_wire("xshelf-torture-wire", Cable::default()).map_err(Failed::Skipped)?;
    let mut disks = Disks::default();
    for _ in 0..3 {
        disks.file(&lab, 64 << 20, "");
    }
    disks.new_device(&lab, 64 << 20);
    let mut random = Random::new(common.seed);
    let mut arguments = disks.arguments.clone();
    arguments.extend(["--workers", "2", "--control", "none"].map(str::to_owned));
    let shelf = Shelf::try_start(&lab, &common.binary, &arguments)?;
    let mut outcome = Outcome::default();
    while outcome.seconds < options.seconds {
        let seconds = options.round.min(options.seconds - outcome.seconds);
        let mut one = |bad: bool| {
            let (seconds, faults) =
                if bad { (seconds, options.faults) } else { (seconds.div_ceil(2), Faults::NONE) };
            round(&lab, common, &disks.addresses, seconds, faults, &mut random)
        };
        let bad_first = outcome.bad.len() % 2 == 0;
        let (first, second) = (one(bad_first)?, one(!bad_first)?);
        let (b, g) = if bad_first { (first, second) } else { (second, first) };
        outcome.seconds += seconds;
        eprintln!(
            "{:5} s: bad wire {:.1} MB/s, {} resent; good wire {:.1} MB/s, {} resent",
            outcome.seconds,
            b.bench.megabytes(),
            b.bench.resent(),
            g.bench.megabytes(),
            g.bench.resent()
        );
        outcome.bad.push(b);
        outcome.good.push(g);
    }
    shelf.stop_well()?;
    Ok(outcome)
}

fn round(
    lab: &Lab,
    common: &Common,
    slots: &[String],
    seconds: u64,
    faults: Faults,
    random: &mut Random,
) -> Result<Round, Failed> {
    let mut ends = lab.within(End::Wire, || Ends::open(WIRE)).map_err(|e| e.to_string())?;
    let stop = Arc::new(AtomicBool::new(false));
    let (until, seed) = (Arc::clone(&stop), random.next() >> 32);
    let wire = lab.beside(End::Wire, move || ends.run([faults; 2], seed, &until));
    let (time, seed) = (format!("{seconds}s"), (random.next() >> 32).to_string());
    let settle = format!("{}ms", faults.hold / 1_000_000 + MARGIN.as_millis() as u64);
    let arguments = ["--mode", "verify", "--destroy-data", "--depth", "16", "--span", "64M"];
    let times = ["--seconds", &time, "--settle", &settle, "--rto-max", "200ms", "--seed", &seed];
    let bench = Bench::start(lab, &common.binary, slots, &[arguments.as_slice(), &times].concat())?.end();
    stop.store(true, Ordering::Relaxed);
    let wire =
        wire.join().map_err(|_| "the wire panicked".to_owned())?.map_err(|e| format!("the wire: {e}"))?;
    let bench = bench?;
    bench.well()?;
    let refused = wire.there.refused + wire.back.refused;
    if wire.own_losses() + refused + bench.own_losses() > 0 {
        return Err(Failed::Wrong(format!(
            "frames were lost that nobody wanted to lose: {wire:?}\n{bench:?}"
        )));
    }
    for way in [&wire.there.counts, &wire.back.counts] {
        let wanted = [
            (faults.loss, way.lost),
            (faults.duplicate, way.duplicated),
            (faults.reorder, way.reordered.min(way.overtaken)),
            (faults.delay, way.delayed),
        ];
        if wanted.iter().any(|&(chance, count)| (chance > 0.0) != (count > 0)) {
            return Err(Failed::Wrong(format!("not every fault happened that should: {wire:?}")));
        }
    }
    Ok(Round { bench, wire })
}
