//! What can be said of a slot's backing without opening it.
//!
//! Not here: opening (`storage::device`), which alone can tell whether somebody else has it.
//! Invariant: nothing is opened, so a device that spins up, locks or has side effects is left in peace.

use crate::appliance::config::{Mistakes, Slot, Wrong};
use crate::limits::SECTOR;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// What was found at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// What it is.
    pub kind: Kind,
    /// Its size, where it could be told.
    pub bytes: Option<u64>,
    /// What tells it from others: a device number for a block device, file system and inode for a file.
    pub identity: (u64, u64),
    /// Whether this process could open it for reading.
    pub readable: bool,
    /// Whether this process could open it for writing; false too on a read-only file system or device.
    pub writable: bool,
    /// Whether it lies in memory (tmpfs, ramfs).
    pub ram: bool,
    /// Who uses it already: mount points and devices built upon it.
    pub users: Vec<String>,
}

/// What a backing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A block device.
    Block,
    /// Anything else; its name.
    Other(&'static str),
}

/// Magic numbers of file systems in memory (include/uapi/linux/magic.h).
const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;
const HUGETLBFS: i64 = 0x9584_58f6;

/// Looks at a path.
///
/// # Errors
/// What the kernel says to stat.
pub fn survey(path: &Path) -> io::Result<Backing> {
    use rustix::fs::{Access, AtFlags, CWD, accessat, statfs};
    let meta = std::fs::metadata(path)?;
    let kind = match meta.file_type() {
        t if t.is_file() => Kind::File,
        t if t.is_block_device() => Kind::Block,
        t if t.is_dir() => Kind::Other("a directory"),
        t if t.is_char_device() => Kind::Other("a character device"),
        t if t.is_fifo() => Kind::Other("a pipe"),
        _ => Kind::Other("neither a file nor a block device"),
    };
    let allowed = |access| accessat(CWD, path, access, AtFlags::EACCESS).is_ok();
    let mut backing = Backing {
        kind,
        bytes: (kind == Kind::File).then_some(meta.size()),
        identity: (meta.dev(), meta.ino()),
        readable: allowed(Access::READ_OK),
        writable: allowed(Access::WRITE_OK),
        ram: false,
        users: Vec::new(),
    };
    match kind {
        Kind::File => backing.ram = statfs(path).is_ok_and(|s| [TMPFS, RAMFS, HUGETLBFS].contains(&s.f_type)),
        Kind::Block => survey_block(&mut backing, meta.rdev()),
        Kind::Other(_) => {}
    }
    Ok(backing)
}

/// Sysfs knows size, write protection and holders; the mount table knows mounts.
fn survey_block(backing: &mut Backing, device: u64) {
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let directory = Path::new("/sys/dev/block").join(&number);
    let read = |file: &str| std::fs::read_to_string(directory.join(file)).ok();
    // In units of 512 bytes whatever the device's own are (Documentation/ABI/stable/sysfs-block).
    backing.bytes = read("size").and_then(|s| s.trim().parse::<u64>().ok()).map(|n| n.saturating_mul(512));
    backing.writable &= read("ro").is_none_or(|s| s.trim() == "0");
    backing.identity = (u64::MAX, device);
    if let Ok(holders) = std::fs::read_dir(directory.join("holders")) {
        backing.users.extend(holders.flatten().map(|h| h.file_name().to_string_lossy().into_owned()));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    backing.users.extend(mounts_of(&mounts, &number).map(|at| format!("the mount at {at}")));
}

/// Mount points of a device in the text of mountinfo (proc(5)).
fn mounts_of<'a>(mountinfo: &'a str, number: &'a str) -> impl Iterator<Item = &'a str> {
    mountinfo.lines().filter_map(move |line| {
        let mut fields = line.split(' ');
        (fields.nth(2)? == number).then(|| fields.nth(1)).flatten()
    })
}

/// Checks what was found for a slot against what the slot wants. `root` tells whether this process has all rights, so
/// that a missing one is the file's fault and not the caller's.
pub fn judge(slot: &Slot, found: &io::Result<Backing>, root: bool, mistakes: &mut Mistakes) {
    let path = slot.path.display();
    let (place, key) = (Some(&slot.place), &slot.key);
    let mut error = |what: String, remedy: &str| mistakes.error(place, key, Wrong::new(what, remedy));
    let backing = match found {
        Ok(backing) => backing,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return error(
                format!("{path} does not exist"),
                "correct the path, or make it (truncate -s 1G FILE)",
            );
        }
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied && !root => {
            let wrong = Wrong::new(format!("{path} is out of this user's sight"), "check it as root");
            return mistakes.warning(place, key, wrong);
        }
        Err(e) => return error(format!("{path}: {e}"), "correct the path"),
    };
    if let Kind::Other(what) = backing.kind {
        return error(format!("{path} is {what}"), "name a block device or a regular file");
    }
    match backing.bytes {
        Some(0) => error(format!("{path} is empty"), "give it a size (truncate -s 1G FILE)"),
        Some(bytes) if slot.offset >= bytes => error(
            format!("{path} has {bytes} bytes, so there is nothing behind offset {}", slot.offset),
            "lower the offset",
        ),
        Some(bytes) if slot.length.is_some_and(|length| length > bytes - slot.offset) => error(
            format!(
                "{path} has {bytes} bytes, {} behind offset {}; length {} is more",
                bytes - slot.offset,
                slot.offset,
                slot.length.unwrap_or_default()
            ),
            "lower offset or length, or enlarge it",
        ),
        Some(bytes) if slot.length.is_none() && bytes % SECTOR as u64 != 0 => {
            let remedy = format!("make it {} bytes (truncate -s)", bytes.next_multiple_of(SECTOR as u64));
            error(format!("{path} has {bytes} bytes, which is no multiple of {SECTOR}"), &remedy);
        }
        _ => {}
    }
    let denied = if !backing.readable {
        Some(("readable", "check it as root"))
    } else if !slot.read_only && !backing.writable {
        Some(("writable", "make it writable, or the slot read-only"))
    } else {
        None
    };
    match denied {
        Some((what, remedy)) if root => error(format!("{path} is not {what}"), remedy),
        Some((what, _)) => {
            let wrong = Wrong::new(format!("{path} is not {what} for this user"), "check it as root");
            mistakes.warning(place, key, wrong);
        }
        None => {}
    }
    if !backing.users.is_empty() {
        let what = format!("{path} is in use by {}", backing.users.join(", "));
        let wrong = Wrong::new(what, "unmount or release it first: two writers destroy each other's data");
        mistakes.error(place, key, wrong);
    }
    if backing.ram {
        let wrong = Wrong::new(
            format!("{path} lies in memory: acknowledged writes do not survive a power failure or reboot"),
            "use a disk for data that matters",
        );
        mistakes.warning(place, key, wrong);
    }
    if slot.write_back {
        let wrong = Wrong::new(
            "write-back: a power failure loses acknowledged writes, and Linux initiators never ask for a flush",
            "leave write-back out for data that matters",
        );
        mistakes.warning(place, key, wrong);
    }
}

/// Checks that no two slots serve the same bytes under different names.
pub fn judge_shared(found: &[(&Slot, io::Result<Backing>)], mistakes: &mut Mistakes) {
    for (i, (slot, backing)) in found.iter().enumerate() {
        let Ok(backing) = backing else { continue };
        let earlier = found[..i].iter().find(|(other, b)| {
            b.as_ref().is_ok_and(|b| b.identity == backing.identity) && slot.overlaps(other)
        });
        if let Some((first, _)) = earlier {
            // The same text is a mistake of the configuration itself.
            if first.path != slot.path {
                let what = format!(
                    "{} is the same as {} of slot {}",
                    slot.path.display(),
                    first.path.display(),
                    first.address
                );
                let remedy = "serve each backing once, or parts of it (offset, length) that do not overlap";
                let wrong = Wrong::new(what, remedy);
                mistakes.error(Some(&slot.place), &slot.key, wrong);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appliance::config::{Config, Quick};
    use std::path::PathBuf;

    fn slot(options: &str) -> Slot {
        let quick = Quick {
            interfaces: vec!["eth1".into()],
            slots: vec![format!("7.0=/x{options}").into()],
            ..Quick::default()
        };
        Config::from_arguments(&quick).0.unwrap().slots.remove(0)
    }

    fn good() -> Backing {
        Backing {
            kind: Kind::Block,
            bytes: Some(1 << 20),
            identity: (1, 2),
            readable: true,
            writable: true,
            ram: false,
            users: vec![],
        }
    }

    fn verdict(options: &str, found: io::Result<Backing>, root: bool) -> Vec<String> {
        let mut mistakes = Mistakes::default();
        judge(&slot(options), &found, root, &mut mistakes);
        mistakes.iter().map(|m| format!("{}: {}", m.severity.word(), m.what)).collect()
    }

    #[test]
    fn a_backing_is_judged_by_what_the_slot_wants() {
        let os = |n| io::Error::from_raw_os_error(n);
        for (options, found, root, want) in [
            ("", Ok(good()), true, vec![]),
            ("", Err(os(2)), true, vec!["error: /x does not exist"]),
            ("", Err(os(13)), false, vec!["warning: /x is out of this user's sight"]),
            (
                "",
                Ok(Backing { kind: Kind::Other("a directory"), ..good() }),
                true,
                vec!["error: /x is a directory"],
            ),
            ("", Ok(Backing { bytes: Some(0), ..good() }), true, vec!["error: /x is empty"]),
            (
                "",
                Ok(Backing { bytes: Some(1000), ..good() }),
                true,
                vec!["error: /x has 1000 bytes, which is no multiple of 512"],
            ),
            ("", Ok(Backing { bytes: None, ..good() }), true, vec![]),
            (
                ",offset=1M",
                Ok(good()),
                true,
                vec!["error: /x has 1048576 bytes, so there is nothing behind offset 1048576"],
            ),
            (
                ",offset=512K,length=1025s",
                Ok(good()),
                true,
                vec!["error: /x has 1048576 bytes, 524288 behind offset 524288; length 524800 is more"],
            ),
            (",offset=512K,length=1024s", Ok(good()), true, vec![]),
            (",length=1s", Ok(Backing { bytes: Some(1000), ..good() }), true, vec![]),
            ("", Ok(Backing { writable: false, ..good() }), true, vec!["error: /x is not writable"]),
            (
                "",
                Ok(Backing { writable: false, ..good() }),
                false,
                vec!["warning: /x is not writable for this user"],
            ),
            (",ro", Ok(Backing { writable: false, ..good() }), true, vec![]),
            (",ro", Ok(Backing { readable: false, ..good() }), true, vec!["error: /x is not readable"]),
            (
                "",
                Ok(Backing { users: vec!["dm-0".into(), "the mount at /".into()], ..good() }),
                true,
                vec!["error: /x is in use by dm-0, the mount at /"],
            ),
            (
                ",write-back",
                Ok(Backing { ram: true, ..good() }),
                true,
                vec![
                    "warning: /x lies in memory: acknowledged writes do not survive a power failure or reboot",
                    "warning: write-back: a power failure loses acknowledged writes, and Linux initiators never ask \
                     for a flush",
                ],
            ),
        ] {
            assert_eq!(verdict(options, found, root), want, "{options}");
        }
    }

    #[test]
    fn the_same_backing_under_two_names_is_found() {
        let (a, mut b) = (slot(""), slot(""));
        b.path = PathBuf::from("/link-to-x");
        b.address.slot = 1;
        let mut mistakes = Mistakes::default();
        judge_shared(&[(&a, Ok(good())), (&b, Ok(good()))], &mut mistakes);
        assert_eq!(mistakes.iter().next().unwrap().what, "/link-to-x is the same as /x of slot 7.0");
        let a = slot(",length=512K");
        for (offset, mistakes_then) in [(512 << 10, 0), (511 << 10, 1)] {
            b.offset = offset;
            let mut mistakes = Mistakes::default();
            judge_shared(&[(&a, Ok(good())), (&b, Ok(good()))], &mut mistakes);
            assert_eq!(mistakes.iter().count(), mistakes_then, "{offset}");
        }
    }

    #[test]
    fn files_are_surveyed_without_opening_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk");
        std::fs::write(&file, [0; 1024]).unwrap();
        let backing = survey(&file).unwrap();
        assert_eq!((backing.kind, backing.bytes), (Kind::File, Some(1024)));
        assert!(backing.readable && backing.writable && backing.users.is_empty());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(survey(&link).unwrap().identity, backing.identity);
        assert_eq!(survey(dir.path()).unwrap().kind, Kind::Other("a directory"));
        assert_eq!(survey(Path::new("/dev/null")).unwrap().kind, Kind::Other("a character device"));
        assert!(survey(&dir.path().join("none")).is_err());
    }

    #[test]
    fn mounts_are_found_by_device_number() {
        let text =
            "36 35 98:0 / /mnt/a rw,noatime - ext4 /dev/x rw\n37 35 98:01 /sub /mnt/b rw - ext4 /dev/x rw\n";
        assert_eq!(mounts_of(text, "98:0").collect::<Vec<_>>(), ["/mnt/a"]);
        assert_eq!(mounts_of("", "98:0").count(), 0);
    }
}
