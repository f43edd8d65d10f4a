//! `xshelf import`: writes our configuration from that of vblade or ggaoed.
//!
//! Not here: whether this machine can serve it (`appliance::check`).
//! Invariant: what is written obeys the rules of a configuration, and what could not be taken over is told, with its
//! line. Nothing of the input is changed.

mod found;
mod ggaoed;
mod shell;
mod vblade;

use super::config::rules;
use super::keeper::{DirectKeeper, Keeper};
use crate::exit::Exit;
use found::{Found, Loss};
use ggaoed::World;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  xshelf import /etc/vblade.conf.d                   the disks of Debian's vblade, to the terminal
  xshelf import /etc/vblade.conf.d -o xshelf.toml    into a file; then: xshelf check xshelf.toml
  xshelf import /etc/vblade.conf                     lines of INTERFACE SHELF SLOT PATH [MAC,...]
  xshelf import /etc/rc.local                        command lines of vblade, vbladed in a script
  ps -C vblade -o args= | xshelf import /dev/stdin   what runs now
  xshelf import /var/lib/vblade-persist/vblades      directories of vblade-persist
  xshelf import /etc/ggaoed.conf --interface eth1    ggaoed, on this interface

The configuration goes to standard output or FILE. To standard error goes a line for each setting
that has no counterpart (warning) or means something else here (note), with file, line and what to
do. Names of interfaces such as eth1.7 become VLAN 7 of eth1. What ggaoed keeps in its state
directory (config strings, masks, reservations) is not taken. Nothing is started or stopped.

Exit codes: 0 all is taken, 1 written, but something has no counterpart (warnings), 2 nothing could
be taken, or FILE exists, 3 a file cannot be read or written.";

/// Write a configuration from that of vblade or ggaoed.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What to read; of a directory, the files that end in .conf, or those of vblade-persist
    #[arg(value_name = "FILE | DIRECTORY", required = true)]
    pub sources: Vec<PathBuf>,

    /// Whose configuration it is [default: what it looks like]
    #[arg(long, value_name = "TARGET")]
    pub from: Option<Target>,

    /// Write to this file, which must not exist
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Overwrite it
    #[arg(long, requires = "output")]
    pub force: bool,

    /// Serve on this interface instead of those found; may be given several times
    #[arg(short, long = "interface", value_name = "IF")]
    pub interfaces: Vec<String>,
}

/// Another target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// vblade, vbladed and what starts them
    Vblade,
    /// ggaoed
    Ggaoed,
}

/// What keeps a configuration from being written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A source cannot be read.
    #[error("{}: {source}; name what this user can read", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A source is no text.
    #[error("{} is not UTF-8 text from line {line} on; name the configuration of vblade or ggaoed", path.display())]
    NotText {
        /// What.
        path: PathBuf,
        /// Where.
        line: usize,
    },
    /// An interface cannot be.
    #[error("--interface {name}: {what}; {remedy}")]
    Interface {
        /// Its name.
        name: String,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// There is nothing in it.
    #[error("nothing to serve in {0}; name the configuration of vblade or ggaoed")]
    Nothing(String),
    /// The output is there already.
    #[error("{} exists; name another file, or overwrite it with --force", .0.display())]
    Exists(PathBuf),
    /// The output cannot be written.
    #[error("{}: {source}; name a file that this user can write", path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    /// The exit code for it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::NotText { .. } | Self::Interface { .. } | Self::Nothing(_) | Self::Exists(_) => Exit::Usage,
            Self::Read { .. } | Self::Write { .. } => Exit::Environment,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// See [`Error`]; then nothing was written. A setting without a counterpart is none, but [`Exit::Problem`].
pub fn run(args: &Args) -> Result<Exit, Error> {
    let mut found = Found::default();
    let mut given: Vec<String> = Vec::new();
    for name in &args.interfaces {
        rules::interface_name(name).map_err(|wrong| Error::Interface {
            name: name.clone(),
            what: wrong.what,
            remedy: wrong.remedy,
        })?;
        if !given.contains(name) {
            given.push(name.clone());
        }
    }
    let world = world();
    for source in &args.sources {
        read_source(source, args.from, &world, &mut found)?;
    }
    found.finish(&given);
    for remark in &found.remarks {
        eprintln!("{remark}");
    }
    let names: Vec<String> = args.sources.iter().map(|s| s.display().to_string()).collect();
    if found.exports.is_empty() {
        return Err(Error::Nothing(names.join(", ")));
    }
    write(&found.to_toml(&names.join(", ")), args)?;
    let count = |loss| found.remarks.iter().filter(|r| r.loss == loss).count();
    let (warnings, notes) = (count(Loss::Warning), count(Loss::Note));
    let number = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    eprintln!(
        "{}, {}, {}",
        number(found.exports.len(), "slot"),
        number(warnings, "warning"),
        number(notes, "note")
    );
    Ok(if warnings > 0 { Exit::Problem } else { Exit::Ok })
}

/// What ggaoed would ask this machine. What cannot be read is not there.
fn world() -> World {
    let mut interfaces: Vec<String> = fs::read_dir("/sys/class/net")
        .map(|all| all.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
        .unwrap_or_default();
    interfaces.sort();
    World { interfaces, ethers: fs::read_to_string("/etc/ethers").unwrap_or_default() }
}

/// Reads a file, or a directory of them.
fn read_source(source: &Path, from: Option<Target>, world: &World, found: &mut Found) -> Result<(), Error> {
    let failed = |source: &Path| {
        let path = source.to_owned();
        |error| Error::Read { path, source: error }
    };
    if !source.is_dir() {
        let bytes = DirectKeeper.read(source).map_err(failed(source))?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
            let line = good.iter().filter(|b| **b == b'\n').count() + 1;
            Error::NotText { path: source.to_owned(), line }
        })?;
        read_text(&source.display().to_string(), &text, from, world, found);
        return Ok(());
    }
    let list = |directory: &Path| -> Result<Vec<PathBuf>, Error> {
        let entries: io::Result<Vec<_>> = fs::read_dir(directory).and_then(Iterator::collect);
        let mut paths: Vec<PathBuf> =
            entries.map_err(failed(directory))?.iter().map(fs::DirEntry::path).collect();
        paths.sort();
        Ok(paths)
    };
    for path in list(source)? {
        if path.join("env").is_dir() {
            let value = |name: &str| fs::read_to_string(path.join("env").join(name)).ok();
            let macs = if path.join("macs").is_dir() { list(&path.join("macs"))? } else { Vec::new() };
            let macs: Vec<String> =
                macs.iter().filter_map(|p| Some(p.file_name()?.to_str()?.to_owned())).collect();
            found.files.push(path.display().to_string());
            vblade::persisted(&path.display().to_string(), value, &macs, found);
        } else if path.extension().is_some_and(|e| e == "conf") && path.is_file() {
            read_source(&path, from, world, found)?;
        }
    }
    Ok(())
}

/// Translates the text of one file, on a machine with these interfaces: our configuration, and the number of slots in it.
#[must_use]
pub fn translate(text: &str, from: Option<Target>, interfaces: &[&str]) -> (String, usize) {
    let interfaces = interfaces.iter().map(|name| (*name).to_owned()).collect();
    let mut found = Found::default();
    read_text("text", text, from, &World { interfaces, ethers: String::new() }, &mut found);
    found.finish(&[]);
    (found.to_toml("text"), found.exports.len())
}

fn read_text(file: &str, text: &str, from: Option<Target>, world: &World, found: &mut Found) {
    found.files.push(file.to_owned());
    let looks_like = if ggaoed::is(text) { Target::Ggaoed } else { Target::Vblade };
    match from.unwrap_or(looks_like) {
        Target::Vblade => vblade::read(file, text, found),
        Target::Ggaoed => ggaoed::read(file, text, world, found),
    }
}

fn write(text: &str, args: &Args) -> Result<(), Error> {
    let Some(output) = &args.output else {
        let to = |source| Error::Write { path: "standard output".into(), source };
        return io::stdout().lock().write_all(text.as_bytes()).map_err(to);
    };
    let to = |source| Error::Write { path: output.clone(), source };
    if args.force {
        // Whole or not at all: a configuration that is half there may be valid.
        let mut aside = output.clone().into_os_string();
        aside.push(".new");
        let aside = PathBuf::from(aside);
        return fs::write(&aside, text).and_then(|()| fs::rename(&aside, output)).map_err(|source| {
            // What is left of it is of no use; the error to tell is the first one.
            let _ = fs::remove_file(&aside);
            to(source)
        });
    }
    match fs::OpenOptions::new().write(true).create_new(true).open(output) {
        Ok(mut file) => file.write_all(text.as_bytes()).map_err(to),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(Error::Exists(output.clone())),
        Err(e) => Err(to(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appliance::config::{Config, Mistakes};
    use proptest::prelude::*;

    fn world() -> World {
        World { interfaces: vec!["eth0".into(), "eth1".into()], ethers: String::new() }
    }

    fn import(text: &str, from: Option<Target>) -> Found {
        let mut found = Found::default();
        read_text("x.conf", text, from, &world(), &mut found);
        found.finish(&[]);
        found
    }

    fn config(text: &str) -> Config {
        let found = import(text, None);
        let toml = found.to_toml("x.conf");
        let (config, mistakes) = Config::from_file("x.toml", toml.as_bytes());
        assert_eq!(mistakes, Mistakes::default(), "{toml}");
        config.unwrap()
    }

    #[test]
    fn what_is_written_is_what_was_read() {
        let config = config(
            "vblade -r -b 24 -m 02:00:00:00:00:01,020000000002 -o 8 -l 16 7 3 eth1.9 '/srv/a \"b\"\\c\td'\n\
             vblade 7 4 eth1 /dev/sdb\n",
        );
        let names: Vec<&str> = config.interfaces.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(names, ["eth1"]);
        let slot = &config.slots[0];
        assert_eq!(
            (slot.address.to_string().as_str(), slot.path.to_str()),
            ("7.3", Some("/srv/a \"b\"\\c\td"))
        );
        assert_eq!((slot.read_only, slot.buffers, slot.vlan), (true, Some(24), 9));
        assert_eq!((slot.offset, slot.length, slot.allow.len()), (4096, Some(8192), 2));
        let slot = &config.slots[1];
        assert_eq!((slot.read_only, slot.write_back, slot.buffers, slot.vlan), (false, false, None, 0));
        assert_eq!((slot.offset, slot.length, slot.allow.len()), (0, None, 0));
    }

    #[test]
    fn a_file_without_interface_names_one_to_change() {
        let found = import("[a]\nshelf = 1\nslot = 0\npath = /a\n", None);
        let toml = found.to_toml("a\nb");
        assert!(toml.starts_with("# Made by `xshelf import` from a b.\n"), "{toml}");
        assert!(toml.contains("\n#   no interface is named: the file says CHANGE-ME;"), "{toml}");
        let (config, mistakes) = Config::from_file("x.toml", toml.as_bytes());
        assert_eq!(mistakes, Mistakes::default());
        assert_eq!(config.unwrap().interfaces[0].name, "CHANGE-ME");
        let mut found = Found::default();
        read_text("x.conf", "vblade 1 0 eth0 /a\nvblade 1 1 eth1 /b", None, &world(), &mut found);
        found.finish(&["eth9".to_owned()]);
        assert_eq!(found.interfaces, ["eth9"]);
        assert!(found.remarks.iter().all(|r| r.loss == Loss::Note), "{found:?}");
    }

    #[test]
    fn the_target_can_be_named() {
        let says = |text: &str, from, what: &str| {
            import(text, Some(from)).remarks.iter().any(|r| r.what.contains(what))
        };
        assert!(says("shelf=1\n", Target::Ggaoed, "before any group"));
        assert!(says("[a]\n", Target::Vblade, "nothing that vblade knows"));
    }

    /// Pieces of both formats, some of them whole disks.
    const PIECES: [&str; 62] = [
        "[c]\nshelf = 1\nslot = 2\npath = /a\n",
        "[d]\nshelf = 1\nslot = 3\npath = /b\n",
        "eth0 7 1 /a\n",
        "vblade -o 8 7 2 eth1 /b\n",
        "vblade -m 020000000001 -l 8 7 1 eth0.7 /b ",
        "shelf=3 slot=4 netif=eth1 filename=/c\n",
        "[defaults]\n",
        "[acls]\n",
        "[a]\n",
        "[b]\n",
        "[eth0]\n",
        "shelf = ",
        "slot = ",
        "path = ",
        "uuid = ",
        "interfaces = ",
        "accept = ",
        "deny = ",
        "queue-length = ",
        "foo = ",
        "read-only = ",
        "mtu = ",
        "shelf=",
        "slot=",
        "filename=",
        "netif=",
        "options=",
        "vblade ",
        "-m ",
        "-o ",
        "-l ",
        "-b ",
        "-r ",
        "-s ",
        "-",
        "eth0 ",
        "eth1 ",
        "eth0.7 ",
        "eth1.4095 ",
        "/a ",
        "/b ",
        "/c\\ d",
        "0 ",
        "1 ",
        "7 ",
        "255 ",
        "4095 ",
        "99999999999999999999 ",
        "\n",
        "\n",
        "\n",
        "0:1:0:0:0:1,",
        "02:00:00:00:00:03,",
        "foo,",
        "true",
        "'",
        "\"",
        "*",
        "$x",
        "\\",
        "ü",
        "\u{1}",
    ];

    proptest! {
        #[test]
        fn no_input_panics_and_every_output_obeys_the_rules(
            pieces in proptest::collection::vec(proptest::sample::select(&PIECES[..]), 0..60),
            known in 0..3usize,
        ) {
            let from = [None, Some(Target::Vblade), Some(Target::Ggaoed)][known];
            let text = pieces.concat();
            let found = import(&text, from);
            let toml = found.to_toml(&text);
            let (config, mistakes) = Config::from_file("x.toml", toml.as_bytes());
            if found.exports.is_empty() {
                prop_assert!(config.is_none());
            } else {
                prop_assert_eq!(mistakes, Mistakes::default(), "{}", toml);
                prop_assert_eq!(config.map(|c| c.slots.len()), Some(found.exports.len()));
            }
        }

        #[test]
        fn lines_of_vblade_are_taken(
            shelf in 0..4095u16, slot in 0..255u8, path in "/[a-zA-Z0-9/_-]{1,12}", options in "(-[rsd]{1,3} ){0,2}",
            buffers in proptest::option::of(2..=1024u16), offset in 0..1u64 << 40, length in 1..1u64 << 40,
        ) {
            let buffers_text = buffers.map(|b| format!("-b{b} ")).unwrap_or_default();
            let text = format!("vblade {options}{buffers_text}-o {offset} -l {length} {shelf} {slot} eth0 {path}");
            let slot = &config(&text).slots[0];
            prop_assert_eq!(slot.path.to_str(), Some(path.as_str()));
            prop_assert_eq!((slot.offset, slot.length), (offset * 512, Some(length * 512)));
            prop_assert_eq!((slot.buffers, slot.read_only), (buffers, options.contains('r')));
        }
    }
}
