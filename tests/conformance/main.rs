//! The protocol, case by case, against the pure core; and the table of rules against the cases.
//!
//! The cases are in `aoe-vectors.json` (a sample that other targets were held to as well) and `extended.json` (the rest of
//! the protocol, written by `extend.py`). `docs/conformance.md` has a row for each rule. The same cases run against the
//! binary in `tests/e2e`.

// A test that cannot go on panics; helpers of tests are no exception (clippy.toml exempts only the tests themselves).
#![allow(clippy::unwrap_used)]

mod case;
mod core;
mod table;

use case::{Verdict, play};
use std::collections::HashSet;

#[test]
fn every_case_goes_as_the_table_says() {
    let cases = case::all();
    let (mut same, mut alternative, mut deviating) = (0, Vec::new(), Vec::new());
    for case in &cases {
        match play(case, &mut core::Core::new(&case.pre)) {
            Verdict::Same => same += 1,
            Verdict::Alternative => alternative.push(case.id.as_str()),
            Verdict::Deviates(why) => deviating.push(format!("{}: {why}", case.name())),
        }
    }
    println!("same={same} alternative={} deviates={}", alternative.len(), deviating.len());
    println!("another answer that is as good: {}", alternative.join(" "));
    assert!(deviating.is_empty(), "{} cases deviate:\n  {}", deviating.len(), deviating.join("\n  "));
}

#[test]
fn a_wrong_answer_is_noticed() {
    // A judge that takes everything would make every case pass: each byte of an answer counts, and each byte more or less.
    let cases = case::all();
    let find = |id: &str| cases.iter().find(|case| case.id == id).unwrap();
    for id in ["ata-24-good", "cfg-set-loses", "mask-three", "rsv-set-holder", "id-checksum", "vlan-read"] {
        let case = find(id);
        let mut bent = 0;
        for i in 0..60 {
            let mut target =
                Bent { core: core::Core::new(&case.pre), byte: Some(i), left: case.setup_hex.len() };
            bent += usize::from(matches!(play(case, &mut target), Verdict::Deviates(_)));
        }
        // Buffer count and firmware belong to the target; of IDENTIFY the case compares the header and the sum.
        assert!(bent >= 56, "{id}: only {bent} of 60 wrong bytes were noticed");
        let mut target = Bent { core: core::Core::new(&case.pre), byte: None, left: case.setup_hex.len() };
        assert!(matches!(play(case, &mut target), Verdict::Deviates(_)), "{id}: a byte more was not noticed");
    }
}

/// The core, but for one byte of its answer to the request itself; or for one byte more.
struct Bent {
    core: core::Core,
    byte: Option<usize>,
    left: usize,
}

impl case::Target for Bent {
    fn ask(&mut self, frame: &[u8], wanted: usize, or_none: bool) -> Vec<Vec<u8>> {
        let mut frames = self.core.ask(frame, wanted, or_none);
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => frames.iter_mut().for_each(|frame| match self.byte {
                Some(i) => frame[i] ^= 0x80,
                None => frame.push(0),
            }),
        }
        frames
    }

    fn spoken(&mut self, wanted: &dyn Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        self.core.spoken(wanted)
    }

    fn restart(&mut self) {
        self.core.restart();
    }
}

#[test]
fn cases_have_names_of_their_own_and_a_level() {
    let mut ids = HashSet::new();
    for case in case::all() {
        assert!(ids.insert(case.id.clone()), "{} is there twice", case.id);
        assert!(
            ["must", "should", "may"].contains(&case.level.as_str()),
            "{}: level {}",
            case.id,
            case.level
        );
        assert!(!case.rule.is_empty(), "{} is for no rule", case.id);
        assert!(matches!(case.runs.as_deref(), None | Some("core")), "{}: runs {:?}", case.id, case.runs);
        let only_there = case.pre.fault.is_some() || case.pre.store.is_some();
        assert!(
            !only_there || case.runs.is_some(),
            "{}: nobody can make the real one fail like that",
            case.id
        );
        assert!(case.requests().all(|frame| frame.len() < 9019), "{}: a frame that no MTU carries", case.id);
    }
}

#[test]
fn the_extended_cases_are_what_their_script_writes() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/extend.py");
    match std::process::Command::new("python3").args([script, "--check"]).output() {
        Ok(done) => assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr)),
        Err(e) => println!("SKIPPED: python3: {e}"),
    }
}
