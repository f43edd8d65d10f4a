//! `xshelf check`: whether a configuration is right and this machine can serve it, without serving.
//!
//! Not here: the rules of a configuration (`config`), or anything that changes the machine.
//! Invariant: an error is what makes `serve` refuse to start here and now; a warning is what it would start with
//! although it may not be meant. What only root could tell is a warning for others.

pub mod backing;
mod control;
pub mod interface;
pub mod machine;
mod state;

use super::config::{
    Config, Cores, Interface, List, Mistake, Mistakes, Mode, Place, Queues, Quick, Severity, Slot, keys,
};
use super::keeper::{DirectKeeper, Keeper};
use super::serve::start::{self, StartError};
use super::topology;
use crate::exit::Exit;
use crate::limits;
use crate::net::nic::NicError;
use backing::Backing;
use machine::Machine;
use serde::Serialize;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  xshelf check /etc/xshelf/xshelf.toml             every mistake in it, and what this machine lacks
  xshelf check --document-only deploy/xshelf.toml  the text alone, for another machine
  xshelf check --json /etc/xshelf/xshelf.toml      the same for programs
  xshelf check --keys                              every key of the file, with values and default
  xshelf check --interface eth1                    modes eth1 offers, and why not better ones
  xshelf check --interface eth1 7.0=/dev/nvme0n1   the same, and what serve would say to that slot

Errors are what `xshelf serve` would refuse to start with here and now. Warnings are what it
would start with, although it may not be what is meant. No disk is opened, and nothing is bound
or changed.

Exit codes: 0 no error (there may be warnings), 1 errors, 2 usage, 3 the file cannot be read, or
there is no such interface.";

/// Check a configuration file, or what an interface offers.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The configuration to check; with --interface: slots, as for `xshelf serve`
    #[arg(value_name = "FILE | SLOT...", required_unless_present_any = ["keys", "interfaces"])]
    pub what: Vec<OsString>,

    /// Report on this interface and this machine; may be given several times
    #[arg(short, long = "interface", value_name = "IF", conflicts_with = "document_only")]
    pub interfaces: Vec<String>,

    /// Check the text alone, not whether this machine has what it names
    #[arg(long)]
    pub document_only: bool,

    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,

    /// Explain every key of the configuration file
    #[arg(long, conflicts_with_all = ["what", "document_only", "json", "interfaces"])]
    pub keys: bool,
}

/// What keeps a check from being made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{}: {source}; name a configuration file that this user can read", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// More than one file.
    #[error("one configuration file at a time; slots are checked with --interface IF")]
    Several,
    /// The interface cannot be asked.
    #[error("{}", start::Causes(.0))]
    Nic(#[from] NicError),
    /// The report cannot be written.
    #[error("cannot write the report: {0}")]
    Write(#[from] io::Error),
}

impl Error {
    /// The exit code for it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Several => Exit::Usage,
            _ => Exit::Environment,
        }
    }
}

/// Runs the command and prints to standard output.
///
/// # Errors
/// See [`Error`]; mistakes in the file are none, but [`Exit::Problem`].
pub fn run(args: &Args) -> Result<Exit, Error> {
    run_to(args, &mut io::stdout().lock())
}

/// Runs the command, with the report to `out`.
///
/// # Errors
/// As [`run`].
pub fn run_to(args: &Args, out: &mut dyn Write) -> Result<Exit, Error> {
    if !args.interfaces.is_empty() {
        return report_interfaces(args, out);
    }
    let path = match &args.what[..] {
        [] => {
            out.write_all(keys::reference().as_bytes())?;
            return Ok(Exit::Ok);
        }
        [path] => &PathBuf::from(path),
        _ => return Err(Error::Several),
    };
    let text = DirectKeeper.read(path).map_err(|source| Error::Read { file: path.clone(), source })?;
    let file = path.display().to_string();
    let (config, mut mistakes) = Config::survey(&file, &text);
    if let (Some(config), false) = (&config, args.document_only) {
        judge_machine(config, &Machine::survey(), &mut mistakes);
        mistakes.sort();
    }
    let config = config.filter(|_| !mistakes.refuse());
    let report = Report::new(file, config.as_ref(), &mistakes);
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        report.write(config.as_ref(), &mistakes, out)?;
    }
    Ok(if mistakes.refuse() { Exit::Problem } else { Exit::Ok })
}

/// Checks a configuration against the machine: all of it, so that its mistakes and the machine's come in one report.
fn judge_machine(config: &Config, machine: &Machine, mistakes: &mut Mistakes) {
    machine.judge(mistakes);
    let root = rustix::process::geteuid().is_root();
    let found: Vec<(&Slot, io::Result<Backing>)> =
        config.slots.iter().map(|slot| (slot, backing::survey(&slot.path))).collect();
    for (slot, backing) in &found {
        backing::judge(slot, backing, root, mistakes);
    }
    backing::judge_shared(&found, mistakes);
    state::judge(config, root, mistakes);
    control::judge(config, mistakes);

    let cores = topology::cores(&config.workers.cores, &machine.cpus);
    if let Err(e) = &cores {
        mistakes.error(None, "workers.cores", interface::wrong(e));
    }
    let mut queues = Vec::new();
    for wanted in &config.interfaces {
        match judge_interface(wanted, config) {
            Ok(found) => queues.push(found),
            Err(errors) => {
                for e in errors {
                    mistakes.error(Some(&wanted.place), &wanted.key, interface::wrong(&e));
                }
            }
        }
    }
    // Without knowing all queues nothing can be said of workers and memory, nor from a part of a configuration.
    if mistakes.refuse() || queues.len() < config.interfaces.len() || cores.is_err() {
        return;
    }
    let layout =
        start::place(config, &queues, &machine.cpus).and_then(|topology| start::lay_out(config, &topology));
    match layout {
        Ok(layout) => {
            let bytes = u64::from(layout.chunks()) * limits::CHUNK as u64;
            machine.judge_memory(bytes, config.memory.huge_pages, mistakes);
        }
        Err(e) => mistakes.error(None, "workers", interface::wrong(&e)),
    }
}

/// The queues of an interface that would be served, by what its facts say of the first mode to be tried; or all that
/// is wrong with it.
fn judge_interface(wanted: &Interface, config: &Config) -> Result<Vec<u16>, Vec<StartError>> {
    let facts = DirectKeeper.facts(&wanted.name).map_err(|e| vec![e.into()])?;
    let mut errors = start::obstacles(&facts, &config.slots);
    let offers = interface::offers(&facts);
    let first = offers.iter().find(|offer| offer.refused.is_none());
    match start::choose_queues(wanted, &facts, first.map_or(facts.queues, |offer| offer.queues)) {
        Ok(queues) if errors.is_empty() => return Ok(queues),
        Ok(_) => {}
        Err(e) => errors.push(e),
    }
    Err(errors)
}

/// Reports on interfaces and the machine, and on slots if some are named.
fn report_interfaces(args: &Args, out: &mut dyn Write) -> Result<Exit, Error> {
    let mut reports = Vec::new();
    for name in &args.interfaces {
        reports.push(interface::Report::new(&DirectKeeper.facts(name)?));
    }
    let machine = Machine::survey();
    let (config, mistakes) = if args.what.is_empty() {
        let mut mistakes = Mistakes::default();
        machine.judge(&mut mistakes);
        (None, mistakes)
    } else {
        let (interfaces, slots) = (args.interfaces.clone(), args.what.clone());
        let (config, mut mistakes) = Config::from_arguments(&Quick { interfaces, slots, ..Quick::default() });
        if let Some(config) = &config {
            judge_machine(config, &machine, &mut mistakes);
        }
        (config, mistakes)
    };
    let fine = reports.iter().all(interface::Report::can_serve) && !mistakes.refuse();
    if args.json {
        let lines: Vec<Line<'_>> = mistakes.iter().map(Line::new).collect();
        let whole =
            serde_json::json!({ "ok": fine, "interfaces": reports, "machine": machine, "mistakes": lines });
        serde_json::to_writer_pretty(&mut *out, &whole).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        for report in &reports {
            writeln!(out, "interface {}", report.interface)?;
            report.write(out)?;
        }
        writeln!(out, "machine")?;
        machine.write(out)?;
        for slot in config.iter().flat_map(|config| &config.slots) {
            write_slot(slot, out)?;
        }
        for mistake in &mistakes {
            writeln!(out, "{mistake}")?;
        }
    }
    Ok(if fine { Exit::Ok } else { Exit::Problem })
}

/// The report as JSON has it.
#[derive(Debug, Serialize)]
struct Report<'a> {
    file: String,
    ok: bool,
    errors: usize,
    warnings: usize,
    mistakes: Vec<Line<'a>>,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    severity: &'static str,
    line: Option<usize>,
    column: Option<usize>,
    key: &'a str,
    what: &'a str,
    remedy: &'a str,
}

impl<'a> Line<'a> {
    fn new(mistake: &'a Mistake) -> Self {
        let (line, column) = match &mistake.place {
            Some(Place::File { line, column, .. }) => (Some(*line), Some(*column)),
            _ => (None, None),
        };
        let Mistake { severity, key, what, remedy, .. } = mistake;
        Self { severity: severity.word(), line, column, key, what, remedy }
    }
}

impl<'a> Report<'a> {
    fn new(file: String, config: Option<&Config>, mistakes: &'a Mistakes) -> Self {
        Self {
            file,
            ok: config.is_some() && !mistakes.refuse(),
            errors: mistakes.count(Severity::Error),
            warnings: mistakes.count(Severity::Warning),
            mistakes: mistakes.iter().map(Line::new).collect(),
        }
    }

    fn write(&self, config: Option<&Config>, mistakes: &Mistakes, out: &mut dyn Write) -> io::Result<()> {
        for mistake in mistakes {
            writeln!(out, "{mistake}")?;
        }
        if let Some(config) = config.filter(|_| self.ok) {
            describe(config, out)?;
        }
        let count = |n: usize, word| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
        let (errors, warnings) = (count(self.errors, "error"), count(self.warnings, "warning"));
        writeln!(out, "{}: {errors}, {warnings}", self.file)
    }
}

/// What would be served, in a few lines.
fn describe(config: &Config, out: &mut dyn Write) -> io::Result<()> {
    for interface in &config.interfaces {
        let queues = match &interface.queues {
            Queues::All => "all queues".to_owned(),
            Queues::First(1) => "the first queue".to_owned(),
            Queues::First(n) => format!("the first {n} queues"),
            Queues::These(list) => format!("queues {}", List(list)),
        };
        let mode = match interface.mode {
            Mode::Auto => "best mode the NIC offers".to_owned(),
            mode => format!("{mode} mode only"),
        };
        writeln!(out, "interface {}: {mode}, {queues}", interface.name)?;
    }
    for slot in &config.slots {
        write_slot(slot, out)?;
    }
    let workers = match config.workers.count {
        Some(n) => n.to_string(),
        None => "one for each queue, at most one for each core".to_owned(),
    };
    let cores = match &config.workers.cores {
        Cores::All => "all this process may use".to_owned(),
        Cores::First(n) => format!("the first {n}"),
        Cores::These(list) => List(list).to_string(),
    };
    writeln!(out, "workers: {workers}; cores: {cores}")
}

fn write_slot(slot: &Slot, out: &mut dyn Write) -> io::Result<()> {
    let access = match (slot.read_only, slot.write_back) {
        (true, _) => "read-only",
        (false, true) => "write-back",
        (false, false) => "every write durable",
    };
    write!(out, "slot {}: {}, {access}", slot.address, slot.path.display())?;
    if slot.vlan != 0 {
        write!(out, ", VLAN {}", slot.vlan)?;
    }
    match (slot.offset, slot.length) {
        (0, None) => {}
        (offset, None) => write!(out, ", from byte {offset} on")?,
        (offset, Some(length)) => write!(out, ", {length} bytes from byte {offset} on")?,
    }
    match slot.allow.len() {
        0 => {}
        1 => write!(out, ", for one host")?,
        hosts => write!(out, ", for {hosts} hosts")?,
    }
    writeln!(out)
}
