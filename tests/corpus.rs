//! Plays the committed corpus of the fuzzers, and some thousand inputs of a fixed seed, as plain tests.
//!
//! Not a fuzzer: `make fuzz` looks for new inputs (tests/fuzz).
#![allow(clippy::expect_used, clippy::unwrap_used, missing_docs)]

#[path = "fuzz/harness.rs"]
mod harness;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

fn replay(target: &str, run: fn(&[u8])) {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut files: Vec<_> =
        std::fs::read_dir(&directory).expect("a corpus").map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "{} has {} files", directory.display(), files.len());
    for file in &files {
        let data = std::fs::read(file).unwrap();
        if let Err(panic) = std::panic::catch_unwind(|| run(&data)) {
            eprintln!("{target}: the input is {}", file.display());
            std::panic::resume_unwind(panic);
        }
    }
    println!("{target}: {} inputs of the corpus", files.len());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config { cases: 512, ..Config::default() }, rng);
    runner
        .run(&proptest::collection::vec(any::<u8>(), 0..600), |data| {
            run(&data);
            Ok(())
        })
        .unwrap();
}

#[test]
fn slot() {
    replay("slot", harness::slot);
}

#[test]
fn worker() {
    replay("worker", harness::worker);
}

#[test]
fn config() {
    replay("config", harness::config);
}

#[test]
fn state() {
    replay("state", harness::state);
}

#[test]
fn import() {
    replay("import", harness::import);
}
