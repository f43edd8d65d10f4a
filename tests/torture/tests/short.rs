//! A short piece of each torture, the same each time.

use std::path::PathBuf;
use xshelf_torture::{Common, Failed, kill, wire};

/// The binary: XSHELF_BIN, or that of the same build.
fn common() -> Common {
    let beside = || std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("xshelf");
    Common { binary: std::env::var_os("XSHELF_BIN").map_or_else(beside, PathBuf::from), seed: 1 }
}

#[track_caller]
fn well<T: std::fmt::Display>(done: Result<T, Failed>) -> Option<T> {
    match done {
        Ok(outcome) => {
            println!("{outcome}");
            Some(outcome)
        }
        Err(Failed::Skipped(why)) => {
            println!("SKIPPED: {why}");
            None
        }
        Err(Failed::Wrong(what)) => panic!("{what}"),
    }
}

#[test]
fn kills_under_load_lose_nothing() {
    let Some(outcome) = well(kill::run(&common(), 6)) else { return };
    assert!(outcome.busy > 0 && outcome.load.tally.settings > 0, "{outcome:?}");
    assert!(outcome.load.sectors >= 8 * 16384 && outcome.load.settings >= 24, "{outcome:?}");
}

#[test]
fn a_bad_wire_damages_nothing() {
    let options = wire::Options { seconds: 3, round: 3, faults: wire::FAULTS.parse().unwrap() };
    well(wire::run(&common(), options));
}
