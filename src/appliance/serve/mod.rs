//! `xshelf serve`: from the command line to a running appliance, and from a signal to its end.
//!
//! Not here: how it is put together (`start`), or the rules of a configuration (`config`).
//! Invariant: whatever stops a start or a run is one plain line on standard error and a non-zero exit code.

mod describe;
mod monitor;
mod ports;
mod recovery;
mod service;
pub mod slots;
pub mod start;
mod watch;

use service::Service;
use start::StartError;

use super::config::{Config, Mistake, Mistakes, Quick, Severity};
use super::control::Place;
use super::control::server::{Claimed, Server, ServerError};
use super::keeper::{DirectKeeper, Keeper};
use super::signals::Signals;
use super::{log, notify};
use crate::exit::Exit;
use crate::limits;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  xshelf serve --interface eth1 7.0=/dev/nvme0n1
      shelf 7, slot 0; Linux hosts see /dev/etherd/e7.0
  xshelf serve --interface eth1 --interface eth2 7.0=disk.img 7.1=/dev/sdb,ro 8.0=/dev/sdc
      two ports, two shelves, three slots, one of them read-only
  xshelf serve --interface eth1 --workers 4 --cores 2-5 7.0=/dev/nvme0n1,serial=A1,model=fast
      four workers on CPUs 2 to 5; names that hosts see
  xshelf serve --config /etc/xshelf/xshelf.toml
      all of it from a file; check it first: xshelf check FILE

A slot is SHELF.SLOT=PATH[,OPTION]... with these options:
  ro, read-only        refuse writes
  write-back           acknowledge writes before they are durable; a power failure loses them
  serial=, model=, firmware=
                       what IDENTIFY says: up to 20, 40 and 8 printable ASCII characters
  wwn=HEX              world wide name, 16 digits, or none [default: made of the serial]
  offset=, length=     serve a part: bytes, or 64K, 1G, 2T, or sectors as 2048s
  vlan=N               answer on this VLAN only (0: untagged)
  mask=MAC+MAC...      answer these hosts only; also written allow=
  config-string=TEXT   what the slot answers to a query of its config string, until a host sets one
  reserved-answer=     what a host hears that a reservation shuts out: aoe (error 6) or ata (41/04)
  rivals=              when another target has the same address: refuse to serve it, alarm only,
                       or ignore it and do not ask
  buffers=N            requests the slot says it can queue, 2 to 1024 [default: 64]
  worker=N             the worker that owns the slot
A comma within a path or a value is written twice: 7.0=/srv/a,,b.img is /srv/a,b.img.
An equals sign needs nothing.

Config strings, masks and reservations that hosts set on a slot are kept in the state directory, as
SHELF.SLOT.state, before the host is answered, and hold after a restart. Remove the file while
xshelf is stopped to forget them. Without such a directory they end with the process.

The first SIGTERM or SIGINT stops it: requests in flight are answered (10 s at most), the XDP
program is taken off. The second ends it at once. Under systemd it says READY=1, STATUS= and
WATCHDOG=1.

Needs root, or CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF and rights on the backings.

Exit codes: 0 stopped by a signal, everything answered; 1 stopped by a failure, or with requests
unanswered; 2 command line or configuration wrong; 3 the machine or the network does not allow it
(no such interface, link down, no root, path missing or busy, every address taken by another target).";

/// Serve disks and files as ATA over Ethernet.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Slots to serve; see below
    #[arg(value_name = "SHELF.SLOT=PATH[,OPTION]...")]
    pub slots: Vec<OsString>,

    /// Take everything from this file; `xshelf check --keys` explains it
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["slots", "interfaces", "read_only", "mode",
        "queues", "workers", "cores", "spin_us", "state_dir", "control"])]
    pub config: Option<PathBuf>,

    /// Interface to serve on; may be given several times
    #[arg(short, long = "interface", value_name = "IF")]
    pub interfaces: Vec<String>,

    /// Every slot is read-only
    #[arg(long)]
    pub read_only: bool,

    /// How frames reach us: auto, zero-copy, native or generic [default: auto, the best there is]
    #[arg(long, value_name = "MODE")]
    pub mode: Option<String>,

    /// Receive queues to serve: all, so many, or a list such as 0-3,6 (queue 2 alone: 2-2) [default: all]
    #[arg(long, value_name = "QUEUES")]
    pub queues: Option<String>,

    /// Worker threads [default: one for each queue, at most one for each CPU]
    #[arg(long, value_name = "N")]
    pub workers: Option<String>,

    /// CPUs for them: so many, or a list such as 2-5 (CPU 2 alone: 2-2) [default: all this process may use]
    #[arg(long, value_name = "CORES")]
    pub cores: Option<String>,

    /// Microseconds a worker looks for work before it sleeps [default: 50 on isolated CPUs, else 0]
    #[arg(long, value_name = "US")]
    pub spin_us: Option<String>,

    /// Directory for what hosts set on slots; see below [default: $STATE_DIRECTORY, else none]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Control socket, for `xshelf status`, or none [default: $RUNTIME_DIRECTORY/control, else
    /// /run/xshelf/IF.sock]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// What to log: error, warn, info, debug, trace, or MODULE=LEVEL,... [default: $XSHELF_LOG, else info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

/// What ended a run, or kept it from beginning.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log filter.
    #[error(transparent)]
    Log(#[from] log::BadFilter),
    /// The configuration cannot be read.
    #[error("{}: {source}; name a configuration file that this user can read", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The configuration is wrong.
    #[error("{}", lines(.0))]
    Config(Mistakes),
    /// Signals cannot be caught.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    /// It could not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The control socket that was asked for cannot be made.
    #[error(transparent)]
    Control(#[from] ServerError),
    /// Something failed while it served.
    #[error("{0}")]
    Run(String),
}

/// One line for each mistake; `main` puts the program's name before the first.
fn lines(mistakes: &Mistakes) -> String {
    let lines: Vec<String> = mistakes.iter().map(Mistake::to_line).collect();
    lines.join("\nxshelf: ")
}

impl Error {
    /// The exit code for it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Log(_) | Self::Config(_) => Exit::Usage,
            Self::Read { .. } | Self::Signals(_) | Self::Control(_) => Exit::Environment,
            Self::Start(e) => e.exit(),
            Self::Run(_) => Exit::Problem,
        }
    }
}

impl Args {
    /// The configuration that these arguments give or name.
    ///
    /// # Errors
    /// [`Error::Read`] and [`Error::Config`].
    pub fn configuration(&self, keeper: &dyn Keeper) -> Result<Config, Error> {
        let (config, mistakes) = match &self.config {
            Some(file) => {
                let text = keeper.read(file).map_err(|source| Error::Read { file: file.clone(), source })?;
                Config::from_file(&file.display().to_string(), &text)
            }
            None => Config::from_arguments(&Quick {
                interfaces: self.interfaces.clone(),
                slots: self.slots.clone(),
                read_only: self.read_only,
                mode: self.mode.clone(),
                queues: self.queues.clone(),
                workers: self.workers.clone(),
                cores: self.cores.clone(),
                spin_us: self.spin_us.clone(),
                state_dir: self.state_dir.clone(),
                control: self.control.clone(),
            }),
        };
        match config {
            Some(mut config) => {
                for warning in mistakes.iter().filter(|m| m.severity == Severity::Warning) {
                    tracing::warn!("{warning}");
                }
                // systemd.exec(5); several directories are separated by colons, and the first is ours.
                config.state_dir = config.state_dir.or_else(|| {
                    let all = std::env::var_os("STATE_DIRECTORY")?;
                    std::env::split_paths(&all).next().filter(|p| p.is_absolute())
                });
                Ok(config)
            }
            None => Err(Error::Config(mistakes)),
        }
    }
}

/// How often the workers are looked after while nothing happens.
const ROUND: Duration = Duration::from_secs(1);

/// What people ask how it is. In the usual place it is a convenience: serving does without.
fn convenience(
    made: Result<Option<Server>, ServerError>,
    config: &Config,
) -> Result<Option<Server>, ServerError> {
    match (made, &config.control) {
        (Ok(made), _) => Ok(made),
        (Err(e), Place::At(_)) => Err(e),
        (Err(e), _) => {
            tracing::warn!("no control socket, so `xshelf status` does not reach this shelf: {e}");
            Ok(None)
        }
    }
}

/// Serves until a signal.
///
/// # Errors
/// [`Error`]; requests that could not be finished at the end are none, but [`Exit::Problem`].
pub fn run(args: &Args) -> Result<Exit, Error> {
    log::start(args.log.as_deref())?;
    let keeper = DirectKeeper;
    let config = args.configuration(&keeper)?;
    let mut signals = Signals::catch(Exit::Problem.code()).map_err(Error::Signals)?;
    // Before any host hears of a slot: whoever named a socket that cannot be has no shelf that comes and goes.
    let first = config.interfaces.first().map_or("", |interface| &interface.name);
    let claimed = match config.control.path(first).map(|path| Claimed::new(&path)).transpose() {
        Err(e) if matches!(config.control, Place::At(_)) => return Err(e.into()),
        claimed => claimed,
    };
    let mut service = Service::start(&config, &keeper)?;
    // A start that fails says in one line why, and nothing of what serving would do without.
    let listen = |claimed| Server::start(claimed, Arc::clone(service.overview()));
    let control = convenience(claimed.and_then(|claimed| claimed.map(listen).transpose()), &config)?;
    let mut status = service.status();
    notify::ready(&status);

    let watchdog = notify::watchdog();
    let mut said_alive = Instant::now();
    let mut dead = Vec::new();
    while dead.is_empty() && !signals.wait(watchdog.map_or(ROUND, |w| w.min(ROUND))) {
        service.look();
        if let Some(control) = &control {
            control.show(service.overview());
            while let Some(order) = control.order() {
                service.obey(&order);
            }
        }
        let now = service.status();
        if now != status {
            notify::status(&now);
            status = now;
        }
        dead = service.dead_workers();
        if dead.is_empty() && watchdog.is_some_and(|w| said_alive.elapsed() >= w / 2) {
            notify::alive();
            said_alive = Instant::now();
        }
    }
    drop(control);
    let patience = Duration::from_secs(limits::STOP_SECONDS);
    tracing::info!("stopping: requests in flight have {} s to end", patience.as_secs());
    notify::stopping("stopping");
    let clean = service.stop(patience);
    if !dead.is_empty() {
        let names: Vec<String> = dead.iter().map(|w| w.0.to_string()).collect();
        return Err(Error::Run(format!(
            "worker {} died, which is a defect; please report it with the log before this",
            names.join(", ")
        )));
    }
    Ok(if clean { Exit::Ok } else { Exit::Problem })
}
