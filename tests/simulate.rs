//! Worlds of the simulator (`src/sim`): the same ones every time, fresh ones, and as many as anybody asks for
//! (`make simulate SEEDS=n [FROM=k]`, or one world again: `make simulate SEED=k`).
//!
//! Not here: what happens in a world.
//! Invariant: a world that fails is told with the one line that makes it again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use indicatif::{ProgressBar, ProgressStyle};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use xshelf::sim::{self, Kind, Totals};

/// Worlds after which everything that a world can do must have happened.
const ENOUGH: u64 = 200;

/// Lives through the worlds of seeds `from` to `from + seeds - 1`; what happened in all of them, or what the first of those
/// that failed says.
fn run(from: u64, seeds: u64, bar: &ProgressBar) -> Result<Totals, String> {
    let leaked = xshelf::frame::leaked();
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let totals = Mutex::new(Totals::default());
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= seeds || failed.load(Ordering::Relaxed) {
                        return;
                    }
                    let seed = from.wrapping_add(at);
                    // Not an end of the run, but one of the world: the line that makes it again is wanted all the same.
                    let lived = std::panic::catch_unwind(|| sim::simulate(seed));
                    let why = match lived {
                        Ok(Ok(lived)) => {
                            totals.lock().unwrap().merge(&lived);
                            bar.inc(1);
                            continue;
                        }
                        Ok(Err(violation)) => violation.to_string(),
                        Err(_) => format!("make simulate SEED={seed}    # it panicked, see above"),
                    };
                    failures.lock().unwrap().push((at, why));
                    failed.store(true, Ordering::Relaxed);
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    if let Some((_, why)) = failures.into_iter().next() {
        return Err(why);
    }
    assert_eq!(
        xshelf::frame::leaked(),
        leaked,
        "tokens were dropped somewhere in seeds {from} to {}",
        from + seeds
    );
    Ok(totals.into_inner().unwrap())
}

fn report(totals: &Totals, from: u64, seeds: u64, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    println!("{totals}");
    println!(
        "{seeds} seeds from {from}: {:.1} seeds a second, {:.2} virtual hours in {seconds:.0} s",
        seeds as f64 / seconds,
        totals.virtual_nanos as f64 / 3.6e12,
    );
    let missing: Vec<_> = totals.missing().map(Kind::name).collect();
    assert!(seeds < ENOUGH || missing.is_empty(), "never happened in {seeds} worlds: {}", missing.join(", "));
    assert!(
        totals.get(Kind::Requests) >= seeds * sim::REQUESTS as u64,
        "worlds with fewer than {} requests",
        sim::REQUESTS
    );
}

fn worlds(from: u64, seeds: u64) {
    let began = Instant::now();
    let totals = run(from, seeds, &ProgressBar::hidden()).unwrap_or_else(|why| panic!("\n{why}\n"));
    report(&totals, from, seeds, began);
}

fn fresh() -> u64 {
    let from = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
    println!("the first fresh seed: {from}");
    from
}

/// So few that a debug build has time for them.
#[test]
fn a_few_worlds() {
    worlds(1, 6);
    worlds(fresh(), 6);
}

#[test]
#[ignore = "takes long in a debug build: tests/run.sh simulate"]
fn the_same_worlds() {
    worlds(1, ENOUGH);
}

#[test]
#[ignore = "takes long in a debug build: tests/run.sh simulate"]
fn fresh_worlds() {
    // Fewer than make sure of everything that is rare: nobody could do anything about bad luck.
    worlds(fresh(), ENOUGH * 3 / 4);
}

#[test]
fn a_seed_is_always_the_same_world() {
    for seed in [1, 77, 12_345] {
        assert_eq!(sim::simulate(seed).unwrap(), sim::simulate(seed).unwrap(), "seed {seed}");
    }
}

/// `make simulate`: SEED for one world, or SEEDS of them FROM some seed.
#[test]
#[ignore = "runs as long as it is told to: make simulate SEEDS=n"]
fn many() {
    let number = |name: &str| {
        let value = std::env::var(name).ok().filter(|value| !value.is_empty());
        value.map(|value| value.parse::<u64>().unwrap_or_else(|_| panic!("{name}={value} is no number")))
    };
    let one = number("SEED");
    let seeds = if one.is_some() { 1 } else { number("SEEDS").unwrap_or(1000) };
    let from = one.or(number("FROM")).unwrap_or(1);
    let style = "{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left";
    let bar = ProgressBar::new(seeds).with_style(ProgressStyle::with_template(style).unwrap());
    let began = Instant::now();
    let result = run(from, seeds, &bar);
    bar.finish_and_clear();
    match result {
        Ok(totals) => report(&totals, from, seeds, began),
        Err(why) => panic!("\n{why}\n"),
    }
}
