//! Cuts the power of an xshelf again and again, with a progress bar, and says what that came to.
//!
//! Not here: how (`lib`). Invariant: it ends with 0 only when nothing was lost and there was something to lose.

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};
use xshelf_powercut::{Plan, present, run};

/// Cuts the power of a running xshelf under verified load, again and again, and reads back all it has acknowledged (root).
#[derive(Debug, Parser)]
struct Arguments {
    /// How often
    #[arg(long, default_value_t = 200)]
    cuts: u64,
    /// Repeat the choices of an earlier run [default: a new one, which is printed]
    #[arg(long)]
    seed: Option<u64>,
    /// The xshelf to torment [default: XSHELF_BIN, or the one beside this program]
    #[arg(long, value_name = "PATH")]
    xshelf: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |t| t.as_nanos() as u64 & 0xffff_ffff);
    let mut plan = Plan::new(arguments.cuts, arguments.seed.unwrap_or(now));
    if let Some(path) = arguments.xshelf {
        plan.xshelf = path;
    }
    if let Err(why) = present(&plan.xshelf).and_then(|()| present(&plan.faultdisk)) {
        eprintln!("powercut: {why}");
        return ExitCode::from(2);
    }
    println!("seed {} ({} cuts of {})", plan.seed, plan.cuts, plan.xshelf.display());
    let bar = ProgressBar::new(plan.cuts);
    let style = "{bar:40} {pos}/{len} cuts, {eta} left  {msg}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    let on_terminal = std::io::stderr().is_terminal();
    let done = run(&plan, |totals| {
        let message = format!(
            "{} writes acknowledged, {} dropped, {} torn",
            totals.tally.writes, totals.dropped, totals.torn
        );
        if on_terminal {
            bar.set_message(message);
            bar.set_position(totals.cuts);
        } else if totals.cuts % 20 == 0 {
            println!("{:5} cuts: {message}", totals.cuts);
        }
    });
    bar.finish_and_clear();
    match done {
        Ok(totals) => {
            println!("{totals}");
            let idle = [totals.dropped, totals.torn, totals.tally.writes, totals.tally.settings].contains(&0);
            if totals.loss.is_some() {
                println!("FAILED: something acknowledged was lost");
                return ExitCode::FAILURE;
            }
            if idle {
                println!("FAILED: nothing was dropped, torn or acknowledged, so nothing was shown");
                return ExitCode::FAILURE;
            }
            println!("nothing acknowledged was lost");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("powercut: cannot run: {why}");
            ExitCode::from(2)
        }
    }
}
