//! `xshelf status` and `xshelf slot`: what people ask a running shelf, and tell it.
//!
//! Not here: the answers (`report`), or who gives them (`server`).
//! Invariant: the shelf that was meant is asked: one that was named, or the only one there is.

use super::{Answer, DIRECTORY, Request};
use crate::exit::Exit;
use crate::protocol::Address;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long an answer may take: the shelf looks for orders once a second, and a busy machine delays that.
const PATIENCE: Duration = Duration::from_secs(15);
/// Most bytes of an answer; 65,000 slots take about half of it.
const ANSWER: u64 = 64 << 20;

const STATUS_EXAMPLES: &str = "\
Examples:
  xshelf status                            the shelf that runs here
  xshelf status --json                     the same for programs
  xshelf status --control /run/b.sock      the one with this control socket

A slot is serving; or failed (a write or flush failed: it takes no more writes, reads are tried), gone
(its device has vanished: hosts get errors at once), or hung (its device does not answer).

Exit codes: 0 all is well; 1 a slot is failed, gone or hung, a port has no link or is not served, or
another target has an address; 2 usage, or there are several shelves; 3 not permitted; 4 no xshelf
answered.";

/// Tell how a running shelf is: its ports, slots, workers and counters.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = STATUS_EXAMPLES)]
pub struct StatusArgs {
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,

    /// The control socket of the shelf [default: the only one in /run/xshelf]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
}

const SLOT_EXAMPLES: &str = "\
Examples:
  xshelf slot 7.0 recover      serve 7.0 again, although writes that were acknowledged may be lost

A slot whose writes are durable one by one has lost nothing that was acknowledged: it recovers by
itself as soon as its device works again. A write-back slot, or one in memory, may have lost
acknowledged writes, of which its hosts know nothing: it waits for this command. Check the file
systems of its hosts first. Its device is opened, compared and tested as for any other slot; the log
and `xshelf status` say how that ends.

Exit codes: 0 the shelf has begun to recover it; 1 the shelf refused; 2 usage, or there are several
shelves; 3 not permitted; 4 no xshelf answered.";

/// Tell a running shelf what to do with a slot.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = SLOT_EXAMPLES)]
pub struct SlotArgs {
    /// The slot, as SHELF.SLOT
    #[arg(value_name = "SLOT")]
    pub slot: Address,

    /// What to do with it
    #[arg(value_name = "ACTION")]
    pub action: Action,

    /// The control socket of the shelf [default: the only one in /run/xshelf]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
}

/// What can be done with a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Action {
    /// Serve it again, although acknowledged writes may be lost.
    Recover,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens there.
    #[error("no xshelf answers at {}: {source}; is it running? `systemctl status xshelf` tells", path.display())]
    Nobody {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Nobody listens in the usual place.
    #[error(
        "no xshelf with a control socket in {DIRECTORY}; if one runs with another, name it with --control PATH"
    )]
    None,
    /// More than one does.
    #[error("several shelves run here; name one with --control PATH: {0}")]
    Several(String),
    /// Not by this user.
    #[error("{}: {source}; only the user that xshelf runs as may ask it: try sudo", path.display())]
    NotPermitted {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It answered with something else.
    #[error("{}: its answer cannot be understood ({what}); is it of another version?", path.display())]
    Strange {
        /// Where.
        path: PathBuf,
        /// What is strange.
        what: String,
    },
    /// The report cannot be written.
    #[error("cannot write the report: {0}")]
    Write(#[from] io::Error),
}

impl Error {
    /// The exit code for it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Nobody { .. } | Self::None => Exit::NoAnswer,
            Self::Several(_) => Exit::Usage,
            Self::NotPermitted { .. } | Self::Write(_) => Exit::Environment,
            Self::Strange { .. } => Exit::Problem,
        }
    }
}

/// Runs `xshelf status` and prints to standard output.
///
/// # Errors
/// [`Error`]; that not all is well is none, but [`Exit::Problem`].
pub fn status(args: &StatusArgs) -> Result<Exit, Error> {
    let out = &mut io::stdout().lock();
    let (path, answer) = ask(args.control.as_deref(), Path::new(DIRECTORY), &Request::Status)?;
    let report = match answer {
        Answer::Status(report) => report,
        Answer::Done { text } | Answer::Refused { text } => return Err(Error::Strange { path, what: text }),
    };
    let text = if args.json {
        let mut text = serde_json::to_string_pretty(&report).map_err(io::Error::from)?;
        text.push('\n');
        text
    } else {
        report.to_string()
    };
    print(out, &text)?;
    Ok(if report.is_well() { Exit::Ok } else { Exit::Problem })
}

/// Runs `xshelf slot` and prints to standard output.
///
/// # Errors
/// [`Error`]; that the shelf refuses is none, but [`Exit::Problem`].
pub fn slot(args: &SlotArgs) -> Result<Exit, Error> {
    let out = &mut io::stdout().lock();
    let Action::Recover = args.action;
    let request = Request::Recover { slot: args.slot.to_string() };
    let (path, answer) = ask(args.control.as_deref(), Path::new(DIRECTORY), &request)?;
    match answer {
        Answer::Done { text } => {
            print(out, &format!("{text}\n"))?;
            Ok(Exit::Ok)
        }
        Answer::Refused { text } => {
            eprintln!("xshelf: {text}");
            Ok(Exit::Problem)
        }
        Answer::Status(_) => Err(Error::Strange { path, what: "a status".to_owned() }),
    }
}

/// Writes all of it. Whoever closed our output early wants no more of it, and has the exit code all the same.
fn print(out: &mut impl Write, text: &str) -> io::Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Asks the shelf at `path`, or else the only one that listens in `directory`.
fn ask(path: Option<&Path>, directory: &Path, request: &Request) -> Result<(PathBuf, Answer), Error> {
    let (path, stream) = match path {
        Some(path) => (path.to_path_buf(), connect(path)?),
        None => find(directory)?,
    };
    let answer = converse(stream, request).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData => Error::Strange { path: path.clone(), what: e.to_string() },
        _ => Error::Nobody { path: path.clone(), source: e },
    })?;
    Ok((path, answer))
}

fn connect(path: &Path) -> Result<UnixStream, Error> {
    UnixStream::connect(path).map_err(|source| {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Error::NotPermitted { path, source },
            _ => Error::Nobody { path, source },
        }
    })
}

fn find(directory: &Path) -> Result<(PathBuf, UnixStream), Error> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            return Err(Error::NotPermitted { path: directory.to_path_buf(), source: e });
        }
        Err(_) => return Err(Error::None),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut found = Vec::new();
    let mut denied = None;
    for path in paths {
        match connect(&path) {
            Ok(stream) => found.push((path, stream)),
            Err(e @ Error::NotPermitted { .. }) => denied = Some(e),
            // What a shelf that was killed left behind, or no socket.
            Err(_) => {}
        }
    }
    if found.len() > 1 {
        let names: Vec<String> = found.iter().map(|(path, _)| path.display().to_string()).collect();
        return Err(Error::Several(names.join(", ")));
    }
    found.pop().ok_or(denied.unwrap_or(Error::None))
}

fn converse(mut stream: UnixStream, request: &Request) -> io::Result<Answer> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut answer = Vec::new();
    stream.take(ANSWER).read_to_end(&mut answer)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&answer).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// Answers each connection with this.
    fn shelf(path: &Path, answer: &'static str) {
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                // One that only looks who is there asks nothing.
                let mut buffer = [0; 1024];
                if client.read(&mut buffer).unwrap_or(0) > 0 {
                    client.write_all(answer.as_bytes()).unwrap();
                }
            }
        });
    }

    #[test]
    fn the_only_shelf_is_found_and_of_several_none_is_guessed() {
        let directory = tempfile::tempdir().unwrap();
        let ask = || ask(None, directory.path(), &Request::Status);
        assert!(matches!(ask(), Err(Error::None)));
        let stale = directory.path().join("stale.sock");
        drop(UnixListener::bind(&stale).unwrap());
        std::fs::write(directory.path().join("note"), "no socket").unwrap();
        assert_eq!(ask().unwrap_err().exit(), Exit::NoAnswer);
        let first = directory.path().join("a.sock");
        shelf(&first, "{\"answer\":\"done\",\"text\":\"x\"}\n");
        let (path, answer) = ask().unwrap();
        assert_eq!((path, answer), (first.clone(), Answer::Done { text: "x".into() }));
        let second = directory.path().join("b.sock");
        shelf(&second, "");
        let error = ask().unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
        let names = format!("{}, {}", first.display(), second.display());
        assert!(error.to_string().ends_with(&names), "{error}");
    }

    #[test]
    fn who_wants_no_more_of_a_report_is_no_failure() {
        struct Closed(io::ErrorKind);
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(print(&mut Closed(io::ErrorKind::BrokenPipe), "x").is_ok());
        assert!(print(&mut Closed(io::ErrorKind::StorageFull), "x").is_err());
    }

    #[test]
    fn answers_that_are_none_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        for (name, answer, exit) in [("a", "", Exit::NoAnswer), ("b", "nonsense\n", Exit::Problem)] {
            let path = directory.path().join(name);
            shelf(&path, answer);
            let error = ask(Some(&path), Path::new("/nowhere"), &Request::Status).unwrap_err();
            assert_eq!(error.exit(), exit, "{error}");
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
    }
}
