//! The command line of the bad wire.

use clap::Parser;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use xshelf_shim::Ends;
use xshelf_shim::fate::Faults;

/// Carries frames between two interfaces, and treats AoE frames badly: `loss=0.05,duplicate=0.05,reorder=0.02,delay=0.01`
/// (chances of one frame), `depth=16` (frames that may overtake), `hold=20ms` (longest time in the wire). Says
/// "carrying" when it does, and at SIGTERM or SIGINT what it did, as JSON.
#[derive(Parser)]
struct Arguments {
    /// Interface at one end
    left: String,
    /// Interface at the other end
    right: String,
    /// Faults in both directions
    #[arg(long, default_value = "")]
    both: Faults,
    /// Faults from left to right, instead
    #[arg(long)]
    there: Option<Faults>,
    /// Faults from right to left, instead
    #[arg(long)]
    back: Option<Faults>,
    /// Repeats what another run did to its frames
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn run(a: &Arguments) -> io::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let mut ends = Ends::open([&a.left, &a.right])?;
    println!("carrying {} - {}, seed {}", a.left, a.right, a.seed);
    io::stdout().flush()?;
    let report = ends.run([a.there.unwrap_or(a.both), a.back.unwrap_or(a.both)], a.seed, &stop)?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("shim: {e}");
            ExitCode::from(3)
        }
    }
}
