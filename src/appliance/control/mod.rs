//! The control socket: what a running shelf tells, and takes orders by.
//!
//! ```text
//! xshelf status, xshelf slot ── one line of JSON ─► server (a thread of its own) ── one line of JSON ─► and the end
//!                                                     │ reads what workers post and the appliance notes (overview)
//!                                                     └ passes orders on to the appliance's own loop, and waits for its word
//! ```
//!
//! Not here: carrying an order out (`serve`), or anything a worker would wait for.
//! Invariant: whatever comes by the socket, a worker is neither asked nor kept waiting; a request is bounded, and what is
//! not understood gets an answer that says so.

pub mod client;
pub mod overview;
pub mod report;
pub mod server;

use crate::protocol::Address;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where the sockets of shelves are that were not told otherwise.
pub const DIRECTORY: &str = "/run/xshelf";

/// What systemd calls the directory of a service below /run (systemd.exec(5), RuntimeDirectory=).
const VARIABLE: &str = "RUNTIME_DIRECTORY";

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Request {
    /// How everything is.
    Status,
    /// Let a slot serve again that promises nothing any more, although what was acknowledged last may be lost.
    Recover {
        /// The slot, as SHELF.SLOT.
        slot: String,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// How everything is.
    Status(Box<report::Report>),
    /// It is done, or begun.
    Done {
        /// What was done.
        text: String,
    },
    /// It is not.
    Refused {
        /// Why not, and what to do.
        text: String,
    },
}

/// An order for the appliance's own loop, and where its answer goes.
#[derive(Debug)]
pub struct Order {
    /// The slot to recover.
    pub slot: Address,
    /// After that nobody waits for the answer any more, and it is not carried out.
    pub until: std::time::Instant,
    /// Takes the answer.
    pub reply: std::sync::mpsc::SyncSender<Answer>,
}

/// Where the control socket of a shelf is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Where people look for it; the shelf serves without it, too.
    #[default]
    Usual,
    /// There, or the start fails.
    At(PathBuf),
    /// Nowhere.
    None,
}

impl Place {
    /// From a word of the configuration: a path, or `none`.
    #[must_use]
    pub fn of(word: PathBuf) -> Self {
        if word.as_os_str() == "none" { Self::None } else { Self::At(word) }
    }

    /// The path, for a shelf that serves on this interface first; `None` where there is to be none.
    #[must_use]
    pub fn path(&self, interface: &str) -> Option<PathBuf> {
        match self {
            Self::None => None,
            Self::At(path) => Some(path.clone()),
            Self::Usual => Some(usual(std::env::var_os(VARIABLE), interface)),
        }
    }
}

/// `control` in the first of systemd's directories, or one named after the interface in [`DIRECTORY`].
fn usual(runtime: Option<std::ffi::OsString>, interface: &str) -> PathBuf {
    let first = runtime.and_then(|all| std::env::split_paths(&all).next()).filter(|path| path.is_absolute());
    match first {
        Some(directory) => directory.join("control"),
        None => PathBuf::from(DIRECTORY).join(format!("{interface}.sock")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_place_is_systemds_or_one_of_the_interface() {
        assert_eq!(usual(None, "eth1"), PathBuf::from("/run/xshelf/eth1.sock"));
        assert_eq!(usual(Some("/run/a:/run/b".into()), "eth1"), PathBuf::from("/run/a/control"));
        assert_eq!(usual(Some("".into()), "eth1"), PathBuf::from("/run/xshelf/eth1.sock"));
        assert_eq!(Place::of("none".into()).path("eth1"), None);
        assert_eq!(Place::of("/x".into()).path("eth1"), Some("/x".into()));
    }

    #[test]
    fn requests_and_answers_are_what_programs_may_rely_on() {
        let text = |request: &Request| serde_json::to_string(request).unwrap();
        assert_eq!(text(&Request::Status), r#"{"ask":"status"}"#);
        let recover = Request::Recover { slot: "7.0".into() };
        assert_eq!(text(&recover), r#"{"ask":"recover","slot":"7.0"}"#);
        assert_eq!(serde_json::from_str::<Request>(&text(&recover)).unwrap(), recover);
        let done = Answer::Done { text: "it is".into() };
        assert_eq!(serde_json::to_string(&done).unwrap(), r#"{"answer":"done","text":"it is"}"#);
    }
}
