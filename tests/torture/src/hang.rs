//! One of eight disks hangs: what that costs the hosts of the other seven, against the same run without the hang.
//!
//! Not here: what the eighth slot answers meanwhile (the end-to-end tests).
//! Invariant: both runs of a pair differ in the hang only, and which of them comes first changes from pair to pair.

use crate::bench::{Bench, Reported};
use crate::disks::Disks;
use crate::{Common, Failed, median};
use std::fmt;
use std::time::Duration;
use xshelf::initiator::pattern::Random;
use xshelf_torment::{Cable, FaultDisk, Lab, Shelf};

/// What the slot is that hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eighth {
    /// The file of the disk that fails.
    File,
    /// A loop device over it.
    Device,
}

/// How often, how long, and what.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Pairs of runs.
    pub pairs: u32,
    /// Seconds of the hang, and of each run.
    pub hang: u64,
    /// What hangs.
    pub eighth: Eighth,
    /// Nobody uses the eighth slot in the run without the hang, as nobody gets anything done on it in the other: what is
    /// left between them is the hang alone. Otherwise its load takes some of the CPU from the others there.
    pub idle: bool,
}

/// A pair: with the hang and without.
#[derive(Clone, Debug)]
struct Pair {
    hung: Reported,
    calm: Reported,
    /// Requests to the eighth slot that ended well, during and after the hang, and without one.
    eighth: [u64; 2],
    /// Share of a CPU that xshelf used, in percent, with the hang and without.
    cpu: [f64; 2],
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    options: Options,
    pairs: Vec<Pair>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { pairs, hang, eighth, idle } = self.options;
        let what = if eighth == Eighth::File { "a file" } else { "a loop device" };
        writeln!(
            f,
            "eighth slot: {what} that hangs {hang} s, or {}; 70 % reads on the other seven for that time, {pairs} pairs, \
             latencies in ms",
            if idle { "is not used" } else { "is used like the others, but less" }
        )?;
        writeln!(
            f,
            "pair  p99 read hung  calm   p99 write hung  calm   longest hung  calm   IOPS hung  calm   CPU % hung  calm   eighth slot's requests"
        )?;
        for (n, pair) in self.pairs.iter().enumerate() {
            let Pair { hung, calm, eighth, cpu } = pair;
            let ms = |us: f64| format!("{:.2}", us / 1000.0);
            writeln!(
                f,
                "{:4}  {:>13} {:>5}   {:>14} {:>5}   {:>12} {:>5}   {:>9.0} {:>5.0}   {:>10.0} {:>5.0}   {} {}",
                n + 1,
                ms(hung.p99("reads")),
                ms(calm.p99("reads")),
                ms(hung.p99("writes")),
                ms(calm.p99("writes")),
                ms(longest(hung)),
                ms(longest(calm)),
                hung.iops(),
                calm.iops(),
                cpu[0],
                cpu[1],
                eighth[0],
                eighth[1],
            )?;
        }
        let of = |figure: &dyn Fn(&Reported) -> f64| {
            let all =
                |which: fn(&Pair) -> &Reported| median(self.pairs.iter().map(|p| figure(which(p))).collect());
            let ratio = median(self.pairs.iter().map(|p| figure(&p.hung) / figure(&p.calm)).collect());
            (all(|p| &p.hung), all(|p| &p.calm), ratio)
        };
        let (reads, writes) = (of(&|r| r.p99("reads")), of(&|r| r.p99("writes")));
        write!(
            f,
            "median p99 of the seven: reads {:.2} ms with the hang, {:.2} ms without, ratio {:.2}; writes {:.2} ms, {:.2} ms, \
             ratio {:.2}; no request failed, none waited for the hang",
            reads.0 / 1000.0,
            reads.1 / 1000.0,
            reads.2,
            writes.0 / 1000.0,
            writes.1 / 1000.0,
            writes.2
        )
    }
}

fn longest(reported: &Reported) -> f64 {
    reported.max("reads").max(reported.max("writes"))
}

/// Runs the pairs.
///
/// # Errors
/// What is wrong, or why it cannot be done here.
pub fn run(common: &Common, options: Options) -> Result<Outcome, Failed> {
    let lab = Lab::new("xshelf-torture-hang", Cable::default()).map_err(Failed::Skipped)?;
    let files = ["eighth=64M".to_owned()];
    let mut disk = common.disk(&lab, &files)?;
    let mut disks = Disks::default();
    for _ in 0..7 {
        disks.file(&lab, 64 << 20, "");
    }
    let file = disk.path("eighth");
    match options.eighth {
        Eighth::File => disks.add(&file.display().to_string()),
        Eighth::Device => disks.device(&file),
    }
    let mut arguments = disks.arguments.clone();
    arguments.extend(["--workers", "2", "--control", "none"].map(str::to_owned));
    let shelf = Shelf::try_start(&lab, &common.binary, &arguments)?;
    let mut random = Random::new(common.seed);
    // Holes are filled, and everything is warm.
    let mut seed = || (random.next() >> 32).to_string();
    let fill =
        ["--mode", "write", "--access", "sequential", "--destroy-data", "--seconds", "1", "--seed", &seed()];
    Bench::start(&lab, &common.binary, &disks.addresses, &fill)?.end()?.well()?;
    let mut outcome = Outcome { options, pairs: Vec::new() };
    for n in 0..options.pairs {
        let mut one = |hangs: bool| {
            let before = cpu_time(shelf.pid())?;
            let (load, answered) = one(&lab, common, &disks.addresses, &mut disk, options, hangs, &seed())?;
            Ok::<_, Failed>((load, answered, (cpu_time(shelf.pid())? - before) * 100.0 / options.hang as f64))
        };
        let hang_first = n % 2 == 0;
        let (first, second) = (one(hang_first)?, one(!hang_first)?);
        let ((hung, a, x), (calm, b, y)) = if hang_first { (first, second) } else { (second, first) };
        eprintln!(
            "pair {} of {}: p99 of reads {:.2} ms with the hang, {:.2} ms without",
            n + 1,
            options.pairs,
            hung.p99("reads") / 1000.0,
            calm.p99("reads") / 1000.0
        );
        outcome.pairs.push(Pair { hung, calm, eighth: [a, b], cpu: [x, y] });
    }
    shelf.stop_well()?;
    Ok(outcome)
}

/// CPU time that a process has used, in seconds.
fn cpu_time(pid: u32) -> Result<f64, String> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    // Behind the name in parentheses, from the third field on; utime and stime are the 14th and 15th (proc(5)).
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    // Hundredths of a second on every Linux.
    Ok(ticks as f64 / 100.0)
}

/// One run: the load on the seven, and how many requests to the eighth ended well.
fn one(
    lab: &Lab,
    common: &Common,
    slots: &[String],
    disk: &mut FaultDisk,
    options: Options,
    hangs: bool,
    seed: &str,
) -> Result<(Reported, u64), Failed> {
    let seconds = options.hang;
    let (time, patience) = (format!("{seconds}s"), format!("{}s", seconds + 60));
    let (seven, eighth) = slots.split_at(7);
    // Few at once, so that its load is no burden for the others where it does not hang.
    let verify =
        ["--mode", "verify", "--destroy-data", "--depth", "2", "--span", "16M", "--deadline", &patience];
    let other = if hangs || !options.idle {
        Some(Bench::start(lab, &common.binary, eighth, &[&verify[..], &["--seconds", &patience]].concat())?)
    } else {
        None
    };
    std::thread::sleep(Duration::from_secs(1));
    if hangs {
        disk.tell("hang eighth");
        // Its requests are at the disk, and hang.
        std::thread::sleep(Duration::from_millis(200));
    }
    let mix = ["--mode", "mix", "--reads", "70", "--destroy-data", "--depth", "4", "--sectors", "8"];
    let load = ["--seconds", &time, "--deadline", &patience, "--seed", seed];
    let load = Bench::start(lab, &common.binary, seven, &[mix.as_slice(), &load].concat())?.end();
    // All of the seven have had their answers by now, or they would not have ended well: none waited for this.
    let released = if hangs { FaultDisk::number(&disk.tell("unhang eighth"), "released") } else { 0 };
    let other = other.inspect(Bench::interrupt).map(Bench::end).transpose()?;
    let load = load?;
    load.well()?;
    other.iter().try_for_each(Reported::well)?;
    if hangs && other.is_some() && released == 0 {
        return Err(Failed::Wrong(
            "nothing was at the eighth disk while it hung, so nothing was shown".into(),
        ));
    }
    let answered = other.map_or(0, |o| o.requests("reads") + o.requests("writes"));
    Ok((load, answered))
}
