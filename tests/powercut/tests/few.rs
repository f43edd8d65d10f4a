//! A few power cuts with every run of the tests; `make powercut` makes many.

use std::os::unix::fs::MetadataExt;
use xshelf_powercut::{Plan, run};

#[test]
fn nothing_acknowledged_is_lost_when_the_power_is_cut() {
    if std::fs::metadata("/dev/fuse").is_err() {
        return println!("SKIPPED: no /dev/fuse here");
    }
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return println!("SKIPPED: mounts and network namespaces need root");
    }
    let totals = run(&Plan::new(5, 4711), |_| {}).unwrap();
    println!("{totals}");
    assert!(totals.loss.is_none(), "{totals}");
    assert!(totals.cuts == 5 && totals.dropped > 0 && totals.torn > 0, "{totals}");
    assert!(
        totals.written > 0 && totals.tally.trims > 0 && totals.tally.settings > 0 && totals.tally.flushes > 0,
        "{totals}"
    );
}
