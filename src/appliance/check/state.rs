//! What can be said of the state directory and what it keeps of the slots, without locking it.
//!
//! Not here: who may set what (`shelf`), or how it is kept (`appliance::state`).
//! Invariant: nothing is made, locked or changed there.

use crate::appliance::config::{Config, Mistakes, Wrong};
use crate::appliance::state::store::{self, Unreadable};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use std::io;
use std::path::Path;

const KEY: &str = "state-dir";

/// Checks the state directory of a configuration, if it has one. `root` tells whether this process has all rights, so that
/// a missing one is the directory's fault and not the caller's.
pub fn judge(config: &Config, root: bool, mistakes: &mut Mistakes) {
    let Some(directory) = &config.state_dir else { return };
    match survey(directory, root) {
        Ok(true) => {}
        Ok(false) => return,
        Err(Refused::Error(wrong)) => return mistakes.error(None, KEY, wrong),
        Err(Refused::OutOfSight) => return mistakes.warning(None, KEY, out_of_sight(directory)),
    }
    for slot in &config.slots {
        match store::look(directory, slot.address) {
            Ok(_) => {}
            Err(e) if !root && matches!(&e.why, Unreadable::Io(e) if denied(e)) => {
                return mistakes.warning(None, KEY, out_of_sight(directory));
            }
            Err(e) => {
                let what = format!("{}: {}", e.file.display(), e.why);
                mistakes.error(Some(&slot.place), &slot.key, Wrong::new(what, store::RESTORE));
            }
        }
    }
}

enum Refused {
    Error(Wrong),
    OutOfSight,
}

fn out_of_sight(directory: &Path) -> Wrong {
    Wrong::new(format!("{} is out of this user's sight", directory.display()), "check it as root")
}

fn denied(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::PermissionDenied
}

/// Whether the directory is there; `false` if it would be made.
fn survey(directory: &Path, root: bool) -> Result<bool, Refused> {
    let refuse = |what: String, remedy| Err(Refused::Error(Wrong::new(what, remedy)));
    let name = directory.display();
    let (writable, there) = match std::fs::metadata(directory) {
        Ok(meta) if meta.is_dir() => (directory, true),
        Ok(_) => return refuse(format!("{name} is no directory"), "name another one"),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let above = directory.parent().filter(|above| above.is_dir());
            let Some(above) = above else {
                return refuse(
                    format!("{name} is not there, nor is the directory above it"),
                    "make that one",
                );
            };
            (above, false)
        }
        Err(e) if denied(&e) && !root => return Err(Refused::OutOfSight),
        Err(e) => return refuse(format!("{name}: {e}"), "name another one"),
    };
    match accessat(CWD, writable, Access::WRITE_OK, AtFlags::EACCESS) {
        Ok(()) => Ok(there),
        Err(e) => Err(unwritable(writable, &e.into(), root)),
    }
}

fn unwritable(directory: &Path, e: &io::Error, root: bool) -> Refused {
    if denied(e) && !root {
        return Refused::OutOfSight;
    }
    let what = format!("nothing can be kept in {}: {e}", directory.display());
    Refused::Error(Wrong::new(what, "name a directory that can be written"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appliance::state::store::{DirectoryStore, Store as _};
    use crate::shelf::SlotState;

    fn judged(directory: &Path, root: bool) -> Vec<String> {
        let text = format!(
            "state-dir = \"{}\"\n[[interface]]\nname = \"eth1\"\n[[slot]]\naddress = \"7.0\"\npath = \"/a\"\n\
             [[slot]]\naddress = \"7.1\"\npath = \"/b\"\n",
            directory.display()
        );
        let (config, mut mistakes) = Config::from_file("x.toml", text.as_bytes());
        judge(&config.unwrap(), root, &mut mistakes);
        mistakes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_directory_that_serves_or_would_be_made_is_well() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        assert_eq!(judged(&state, true), [""; 0]);
        assert!(!state.exists(), "a check makes nothing");
        std::fs::create_dir(&state).unwrap();
        assert_eq!(judged(&state, true), [""; 0]);
        let file = std::fs::File::open(&state).unwrap();
        let mut store = DirectoryStore::in_directory(file.into(), &state).unwrap();
        store.save("7.1".parse().unwrap(), &SlotState::with_config_string(b"a")).unwrap();
        // As left by a crash; that of a running shelf looks the same, and stays.
        std::fs::write(state.join("7.1.state.new"), "half").unwrap();
        assert_eq!(judged(&state, true), [""; 0]);
        assert!(state.join("7.1.state.new").exists(), "a check removes nothing");
    }

    #[test]
    fn what_would_stop_a_start_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let one = |directory: &Path| {
            let mistakes = judged(directory, true);
            assert_eq!(mistakes.len(), 1, "{mistakes:?}");
            mistakes[0].clone()
        };
        assert!(one(&state.join("deeper")).contains("error: state-dir: "));
        assert!(
            one(&state.join("deeper"))
                .ends_with("is not there, nor is the directory above it; make that one")
        );
        std::fs::write(&state, "").unwrap();
        assert!(one(&state).ends_with("state is no directory; name another one"));
        std::fs::remove_file(&state).unwrap();
        std::fs::create_dir(&state).unwrap();
        std::fs::write(state.join("7.1.state"), "half").unwrap();
        let said = one(&state);
        assert!(said.starts_with("x.toml:9:8: error: slot[1].path: "), "{said}");
        assert!(said.contains("7.1.state: it does not end with its checksum"), "{said}");
        assert!(said.ends_with(store::RESTORE), "{said}");
    }

    #[test]
    fn what_only_root_could_tell_is_a_warning() {
        let of = |code, root| match unwritable(Path::new("/s"), &io::Error::from_raw_os_error(code), root) {
            Refused::OutOfSight => None,
            Refused::Error(wrong) => Some(wrong.what),
        };
        assert_eq!(of(libc::EACCES, false), None);
        let denied = "nothing can be kept in /s: Permission denied (os error 13)";
        assert_eq!(of(libc::EACCES, true).as_deref(), Some(denied));
        let read_only = "nothing can be kept in /s: Read-only file system (os error 30)";
        assert_eq!(of(libc::EROFS, false).as_deref(), Some(read_only));
    }
}
