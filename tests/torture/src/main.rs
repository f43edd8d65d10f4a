//! The command line of the tortures: one of them, as long as you like.

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use xshelf::initiator::contact;
use xshelf_shim::fate::Faults;
use xshelf_torment::program;
use xshelf_torture::hang::{self, Eighth};
use xshelf_torture::{Common, Failed, flap, kill, press, wire, yank};

/// Tortures the real xshelf between network namespaces (root). It says what it did, and when something is wrong, what and
/// the command that repeats it.
#[derive(Parser)]
struct Arguments {
    /// The xshelf to torture [default: XSHELF_BIN, or the one beside this program]
    #[arg(long, global = true)]
    binary: Option<PathBuf>,
    /// Repeats the choices of another run [default: a new one]
    #[arg(long, global = true)]
    seed: Option<u64>,
    #[command(subcommand)]
    torture: Torture,
}

#[derive(Clone, Subcommand)]
enum Torture {
    /// SIGKILL and a new start under verified load, again and again, on eight slots
    Kill {
        /// How often
        #[arg(long, default_value_t = 500)]
        cycles: u32,
    },
    /// Verified load on a wire that loses, repeats, reorders and delays frames, beside the same on a good one
    Wire {
        /// Of load on the bad wire
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// Of one round of that
        #[arg(long, default_value_t = 60)]
        round: u64,
        /// What the wire does to frames, each way
        #[arg(long, default_value = wire::FAULTS)]
        faults: Faults,
    },
    /// One of eight disks hangs: the latency of the other seven, against the same run without the hang
    Hang {
        /// Runs with and without
        #[arg(long, default_value_t = 5)]
        pairs: u32,
        /// Seconds of the hang
        #[arg(long, default_value_t = 30)]
        hang: u64,
        /// A loop device hangs, and not a file
        #[arg(long)]
        device: bool,
        /// Nobody uses the eighth slot in the run without the hang
        #[arg(long)]
        idle: bool,
    },
    /// Two of eight disks vanish under verified load
    Yank {
        /// How often
        #[arg(long, default_value_t = 10)]
        times: u32,
    },
    /// The link goes down and up under verified load
    Flap {
        /// How often
        #[arg(long, default_value_t = 100)]
        flaps: u32,
    },
    /// Memory is short, and then files, under verified load
    Press {
        /// Of each
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
}

fn run(torture: &Torture, common: &Common) -> Result<String, Failed> {
    match *torture {
        Torture::Kill { cycles } => kill::run(common, cycles).map(|o| o.to_string()),
        Torture::Wire { seconds, round, faults } => {
            wire::run(common, wire::Options { seconds, round, faults }).map(|o| o.to_string())
        }
        Torture::Hang { pairs, hang, device, idle } => {
            let eighth = if device { Eighth::Device } else { Eighth::File };
            hang::run(common, hang::Options { pairs, hang, eighth, idle }).map(|o| o.to_string())
        }
        Torture::Yank { times } => yank::run(common, times).map(|o| o.to_string()),
        Torture::Flap { flaps } => flap::run(common, flaps).map(|o| o.to_string()),
        Torture::Press { seconds } => press::run(common, seconds).map(|o| o.to_string()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let binary = arguments.binary.clone().unwrap_or_else(|| program("xshelf", "XSHELF_BIN"));
    let faultdisk = program("faultdisk", "FAULTDISK_BIN");
    let given = arguments.seed;
    let seed = given.unwrap_or_else(|| contact::random() & 0xffff_ffff);
    let again = {
        let words = std::env::args().map(|word| if word.contains(' ') { format!("'{word}'") } else { word });
        let words = words.collect::<Vec<_>>().join(" ");
        if given.is_some() { words } else { format!("{words} --seed {seed}") }
    };
    println!("{again}");
    match run(&arguments.torture, &Common { binary, faultdisk, seed }) {
        Ok(outcome) => {
            println!("{outcome}\nxshelf ended with 0, all frames conserved; seed {seed}");
            ExitCode::SUCCESS
        }
        Err(Failed::Skipped(why)) => {
            println!("SKIPPED: {why}");
            ExitCode::from(77)
        }
        Err(Failed::Wrong(what)) => {
            println!("FAILED: {what}\nrepeat it with: {again}");
            ExitCode::FAILURE
        }
    }
}
