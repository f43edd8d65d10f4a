//! What to serve, on what, and how: one validated value, from a file or from the command line.
//!
//! Not here: whether the machine can do it (`appliance::check`, `appliance::serve`).
//! Invariant: both ways of writing a configuration obey the same rules, and every broken rule is reported at once.

mod file;
pub mod keys;
mod mistake;
mod numbers;
mod quick;
pub(super) mod rules;

pub use mistake::{Mistake, Mistakes, Place, Severity, Wrong};
pub use numbers::{List, parse_list};
pub use quick::Quick;

pub use crate::net::ladder::Mode;

use crate::appliance::control;
use crate::limits;
use crate::protocol::{Address, Mac};
use crate::shelf::{AtaText, ReservedAnswer};
use std::path::PathBuf;

/// A configuration that obeys all rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where to serve; not empty, each name once.
    pub interfaces: Vec<Interface>,
    /// What to serve; not empty, by ascending address, each address once. No two slots share a byte of one path.
    pub slots: Vec<Slot>,
    /// The threads.
    pub workers: Workers,
    /// Sizes of the frame memory.
    pub memory: Memory,
    /// Where what hosts set on slots is kept; absolute, or as given on the command line.
    pub state_dir: Option<PathBuf>,
    /// Where it is asked how it is; absolute, or as given on the command line.
    pub control: control::Place,
}

/// One interface to serve on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// A name the kernel accepts; whether it exists is another question.
    pub name: String,
    /// Which rung to take.
    pub mode: Mode,
    /// Which receive queues to serve.
    pub queues: Queues,
    /// Where its name was configured.
    pub place: Place,
    /// The name's key there, such as `interface[0].name`; empty on the command line.
    pub key: String,
}

/// Which receive queues of an interface to serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Queues {
    /// All it has.
    #[default]
    All,
    /// The first so many, at least 1.
    First(u16),
    /// These; not empty, each once.
    These(Vec<u16>),
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// What initiators address; neither reserved nor a wildcard.
    pub address: Address,
    /// The backing: absolute, or as given on the command line.
    pub path: PathBuf,
    /// Refuse writes, and open for reading only.
    pub read_only: bool,
    /// Acknowledge writes before they are durable; never together with `read_only`.
    pub write_back: bool,
    /// Serial number in IDENTIFY, if one was given.
    pub serial: Option<AtaText<20>>,
    /// Model name in IDENTIFY, if one was given.
    pub model: Option<AtaText<40>>,
    /// VLAN it answers on, 0 to 4094; 0 means untagged.
    pub vlan: u16,
    /// Its config string; at most [`limits::CONFIG_STRING`] bytes.
    pub config_string: Vec<u8>,
    /// The worker that is to own it, if one was named.
    pub worker: Option<u16>,
    /// Firmware in IDENTIFY, if one was given.
    pub firmware: Option<AtaText<8>>,
    /// World wide name in IDENTIFY, if one was given; 0 for none.
    pub wwn: Option<u64>,
    /// First byte of the backing that is served; a multiple of 512, at most [`keys::MAX_BYTES`].
    pub offset: u64,
    /// Bytes that are served, a multiple of 512, 512 to [`keys::MAX_BYTES`]; `None` for all behind `offset`.
    pub length: Option<u64>,
    /// Who may talk to it; empty for everybody. Each once, at most [`limits::MAC_LIST`]. Hosts can narrow it by the
    /// mask they set on the wire, and cannot widen it.
    pub allow: Vec<Mac>,
    /// What a command is answered with that a reservation forbids.
    pub reserved_answer: ReservedAnswer,
    /// What to do when another target claims its address.
    pub rivals: Rivals,
    /// Requests it says it can queue, if that was given; within [`keys::BUFFERS`].
    pub buffers: Option<u16>,
    /// Where its path was configured.
    pub place: Place,
    /// The path's key there, such as `slot[0].path`; empty on the command line.
    pub key: String,
}

/// What to do when another target on the wire answers for the address of a slot of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rivals {
    /// Do not begin to serve the slot, and raise an alarm if it happens later.
    #[default]
    Refuse,
    /// Serve it all the same, and raise the alarm.
    Alarm,
    /// Neither ask nor watch.
    Ignore,
}

/// The threads that serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workers {
    /// How many; `None` for one for each queue, but not more than there are CPUs.
    pub count: Option<u16>,
    /// Where they may run.
    pub cores: Cores,
    /// Microseconds to look for work before sleeping; `None` for adaptive.
    pub spin_us: Option<u16>,
}

/// Which CPUs the workers use; always within the inherited affinity mask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cores {
    /// All of the mask.
    #[default]
    All,
    /// The first so many of the mask, at least 1.
    First(u16),
    /// These; not empty, each once. One outside the mask stops the start.
    These(Vec<u16>),
}

/// Sizes of the frame memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Chunks of each queue to receive into; within [`keys::FRAMES_PER_QUEUE`].
    pub frames_per_queue: u32,
    /// Runs of each worker; within [`keys::RUNS_PER_WORKER`].
    pub runs_per_worker: u32,
    /// Whether to lie in 2 MiB pages.
    pub huge_pages: HugePages,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            frames_per_queue: limits::RECEIVE_CHUNKS,
            runs_per_worker: limits::RUNS,
            huge_pages: HugePages::Try,
        }
    }
}

/// Whether frame memory lies in 2 MiB pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// If there are enough.
    #[default]
    Try,
    /// Or not at all.
    Require,
}

impl Slot {
    /// Where what is served ends in the backing; `u64::MAX` when it is served to its end.
    #[must_use]
    pub fn end(&self) -> u64 {
        window_end(self.offset, self.length)
    }

    /// Whether two slots would serve some byte both, if they had one backing.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }
}

/// Where a part of a backing ends.
fn window_end(offset: u64, length: Option<u64>) -> u64 {
    length.map_or(u64::MAX, |length| offset.saturating_add(length))
}

impl Config {
    /// Reads a configuration file. `file` is its name for messages, `text` what is in it. The mistakes hold
    /// warnings even where there is a configuration.
    #[must_use]
    pub fn from_file(file: &str, text: &[u8]) -> (Option<Self>, Mistakes) {
        let (config, mistakes) = Self::survey(file, text);
        (config.filter(|_| !mistakes.refuse()), mistakes)
    }

    /// Reads a configuration file as [`Config::from_file`], and gives what could be read of it even where mistakes forbid
    /// serving it: there may be more to be found wrong with that.
    #[must_use]
    pub fn survey(file: &str, text: &[u8]) -> (Option<Self>, Mistakes) {
        file::read(file, text)
    }

    /// Reads what was given on the command line instead of a file.
    #[must_use]
    pub fn from_arguments(quick: &Quick) -> (Option<Self>, Mistakes) {
        quick::read(quick)
    }
}
