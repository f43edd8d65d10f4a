//! The command line: arguments → subcommand → exit code, and nothing else.

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use xshelf::appliance::control::client;
use xshelf::appliance::{check, import, serve};
use xshelf::exit::Exit;
use xshelf::initiator::{BenchArgs, DiscoverArgs, ProbeArgs, bench, discover, probe};

const EXAMPLES: &str = "\
Examples:
  xshelf serve --interface eth1 7.0=/dev/nvme0n1       a disk for every host on eth1
  xshelf check /etc/xshelf/xshelf.toml                 what is wrong with a configuration, all of it
  xshelf import /etc/vblade.conf.d                     a configuration from that of vblade or ggaoed
  xshelf discover eth1                                 which shelves and slots answer on eth1
  xshelf bench eth1 7.0 --mode read                    how fast a slot is read
  xshelf status                                        how the shelf that runs here is
  xshelf probe eth1 7.0                                is the path to a slot and back healthy

Each subcommand explains itself with examples: xshelf help check";

/// An ATA-over-Ethernet target: AF_XDP in front, io_uring behind.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, disable_help_subcommand = false, after_help = format!("{EXAMPLES}\n\n{}", Exit::HELP))]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Check(check::Args),
    Import(import::Args),
    Discover(DiscoverArgs),
    Bench(BenchArgs),
    Probe(ProbeArgs),
    Status(client::StatusArgs),
    Slot(client::SlotArgs),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(e) => return explain(&e).into(),
    };
    let done = match &arguments.command {
        Command::Serve(args) => serve::run(args).map_err(|e| (e.exit(), e.to_string())),
        Command::Check(args) => check::run(args).map_err(|e| (e.exit(), e.to_string())),
        Command::Import(args) => import::run(args).map_err(|e| (e.exit(), e.to_string())),
        Command::Bench(args) => bench::run(args).map_err(|e| (e.exit(), e.to_string())),
        Command::Probe(args) => probe::run(args).map_err(|e| (e.exit(), e.to_string())),
        Command::Status(args) => client::status(args).map_err(|e| (e.exit(), e.to_string())),
        Command::Slot(args) => client::slot(args).map_err(|e| (e.exit(), e.to_string())),
        Command::Discover(args) => discover::run(args).map_err(|e| (e.exit(), e.to_string())),
    };
    match done {
        Ok(exit) => exit,
        Err((exit, message)) => {
            eprintln!("xshelf: {message}");
            exit
        }
    }
    .into()
}

/// Prints help and version as they are, and a mistake on the command line as one line.
fn explain(e: &clap::Error) -> Exit {
    use clap::error::ErrorKind;
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Whoever closed our output early wants no more of it.
            let _ = e.print();
            Exit::Ok
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = e.print();
            Exit::Usage
        }
        _ => {
            let text = e.render().to_string();
            let words: Vec<&str> = text
                .lines()
                .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
                .flat_map(str::split_whitespace)
                .collect();
            let line = words.join(" ");
            eprintln!("xshelf: {}; see `xshelf help`", line.trim_start_matches("error: "));
            Exit::Usage
        }
    }
}
