//! The client against the real binary: it finds nothing wrong where nothing is, also across SIGKILL, and finds what was
//! damaged behind its back.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use xshelf_torment::{Cable, Client, End, INITIATOR, Lab, Options, Shelf, program};

#[test]
fn kills_lose_nothing_and_damage_is_seen() {
    let lab = match Lab::new("xshelf-torment", Cable::default()) {
        Ok(lab) => lab,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    let (a, b) = (lab.image("a", 2 << 20), lab.image("b", 2 << 20));
    let state = lab.path("state");
    let arguments = [
        format!("7.0={}", a.display()),
        format!("7.1={},write-back", b.display()),
        "--state-dir".to_owned(),
        state.display().to_string(),
    ];
    let mut shelf = Shelf::start(&lab, &program("xshelf", "XSHELF_BIN"), &arguments);
    let options = Options {
        sectors: 4096,
        write_back: vec![1],
        settings: Some(Duration::from_millis(2)),
        ..Options::default()
    };
    let mut client = lab
        .within(End::Initiator, move || {
            Client::new(INITIATOR, &["7.0".parse().unwrap(), "7.1".parse().unwrap()], options)
        })
        .unwrap();
    for _ in 0..3 {
        let enough = client.tally().writes + 300;
        client.run_while(|tally| tally.writes < enough).unwrap();
        shelf.kill();
        client.run_for(Duration::from_millis(20)).unwrap();
        shelf = Shelf::start(&lab, &program("xshelf", "XSHELF_BIN"), &arguments);
    }
    let enough = client.tally().settings + 10;
    client.run_while(|tally| tally.settings < enough).unwrap();
    let report = client.check_all().unwrap();
    let tally = client.tally();
    println!("{report}\n{tally:?}");
    assert!(report.is_clean(), "{report}\n{}", shelf.log());
    assert!(report.sectors == 8192 && report.written > 300 && report.settings == 6, "{report:?}");
    assert!(tally.errors == 0 && tally.reads > 0 && tally.flushes > 0, "{tally:?}");
    assert!(tally.retransmissions > 0, "nothing was in flight when it was killed: {tally:?}");

    // Behind its back: a sector of zeroes where something was written.
    let file = File::options().read(true).write(true).open(&a).unwrap();
    let mut sector = [0; 512];
    let at = (0..4096).map(|n| n * 512).find(|at| {
        file.read_exact_at(&mut sector, *at).unwrap();
        sector != [0; 512]
    });
    file.write_all_at(&[0; 512], at.unwrap()).unwrap();
    let report = client.check_all().unwrap();
    assert!(report.lost == 1 && report.bad == 0, "{report}");
    sector[300] ^= 1;
    file.write_all_at(&sector, at.unwrap()).unwrap();
    let report = client.check_all().unwrap();
    assert!(report.lost == 0 && report.bad == 1, "{report}");
    shelf.stop();
}
