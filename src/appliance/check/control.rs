//! What can be said of a control socket that was asked for, without listening there.
//!
//! Not here: listening (`appliance::control`), or whether a running shelf has it: that may be the one that was asked about.
//! Invariant: nothing is made or changed there.

use crate::appliance::config::{Config, Mistakes, Wrong};
use crate::appliance::control::Place;
use std::io::ErrorKind::{NotFound, PermissionDenied};
use std::os::unix::fs::FileTypeExt as _;

const KEY: &str = "control-socket";

/// Checks the control socket of a configuration that names one.
pub fn judge(config: &Config, mistakes: &mut Mistakes) {
    let Place::At(path) = &config.control else { return };
    let name = path.display();
    let wrong = match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => return,
        Ok(_) => {
            Wrong::new(format!("{name} is there already and no socket"), "remove it, or name another path")
        }
        Err(e) if e.kind() == PermissionDenied => {
            let what = format!("{name} is out of this user's sight");
            return mistakes.warning(None, KEY, Wrong::new(what, "check it as root"));
        }
        Err(e) if e.kind() == NotFound && path.parent().is_some_and(std::path::Path::is_dir) => return,
        Err(e) => {
            Wrong::new(format!("{name} cannot be made: {e}"), "name a path in a directory that is there")
        }
    };
    mistakes.error(None, KEY, wrong);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_stop_the_start_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let socket = directory.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        for (path, says) in [
            (directory.path().join("new"), None),
            (socket, None),
            (file.clone(), Some("is there already and no socket")),
            (directory.path().join("none/x"), Some("cannot be made: No such file")),
            (file.join("x"), Some("cannot be made: Not a directory")),
        ] {
            let text = format!(
                "control-socket = \"{}\"\n[[interface]]\nname = \"eth1\"\n[[slot]]\naddress = \"7.0\"\npath = \"/a\"\n",
                path.display()
            );
            let config = Config::from_file("x", text.as_bytes()).0.unwrap();
            let mut mistakes = Mistakes::default();
            judge(&config, &mut mistakes);
            let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
            match says {
                None => assert_eq!(lines, [""; 0]),
                Some(says) => assert!(lines.len() == 1 && lines[0].contains(says), "{lines:?}"),
            }
        }
    }
}
