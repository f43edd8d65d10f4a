//! A short piece of each torture, the same each time.

use xshelf_torment::program;
use xshelf_torture::hang::{self, Eighth};
use xshelf_torture::{Common, Failed, flap, kill, press, wire, yank};

fn common() -> Common {
    Common {
        binary: program("xshelf", "XSHELF_BIN"),
        faultdisk: program("faultdisk", "FAULTDISK_BIN"),
        seed: 1,
    }
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
    let Some(outcome) = well(kill::run(&common(), 5)) else { return };
    assert!(outcome.busy > 0 && outcome.load.tally.settings > 0, "{outcome:?}");
    assert!(outcome.load.sectors >= 8 * 16384 && outcome.load.settings >= 24, "{outcome:?}");
}

#[test]
fn a_bad_wire_damages_nothing() {
    let options = wire::Options { seconds: 2, round: 2, faults: wire::FAULTS.parse().unwrap() };
    well(wire::run(&common(), options));
}

#[test]
fn a_hung_disk_does_not_hang_the_others() {
    for eighth in [Eighth::File, Eighth::Device] {
        well(hang::run(&common(), hang::Options { pairs: 1, hang: 1, eighth, idle: false }));
    }
}

#[test]
fn disks_that_vanish_take_no_others_with_them() {
    well(yank::run(&common(), 1));
}

#[test]
fn a_link_that_goes_down_and_up_loses_nothing() {
    let Some(outcome) = well(flap::run(&common(), 5)) else { return };
    assert!(outcome.flaps.iter().all(|n| *n > 0), "{outcome:?}");
}

#[test]
fn short_of_memory_and_files_it_serves_on() {
    well(press::run(&common(), 1));
}
