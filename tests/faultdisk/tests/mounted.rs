//! The disk, mounted: what the kernel sends it for each way to write durably, what is left after a cut, and every fault.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;
use xshelf_torment::{FaultDisk, Loop};

/// One with two files of 64 KiB, `a` around the page cache and `b` through it.
fn disk() -> Option<(FaultDisk, TempDir)> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        println!("SKIPPED: mounting needs root");
        return None;
    }
    if fs::metadata("/dev/fuse").is_err() {
        println!("SKIPPED: no /dev/fuse here");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let files = ["a=64K".to_owned(), "b=64K,cached".to_owned()];
    let binary = Path::new(env!("CARGO_BIN_EXE_faultdisk"));
    Some((FaultDisk::mount(binary, &directory.path().join("mnt"), &files).unwrap(), directory))
}

fn open(disk: &FaultDisk, name: &str, flags: i32) -> File {
    File::options().read(true).write(true).custom_flags(flags).open(disk.path(name)).unwrap()
}

/// Requests so far, and changes that a cut may undo.
fn counts(disk: &mut FaultDisk) -> [u64; 4] {
    let said = disk.tell("stats");
    ["writes", "dsync_writes", "fsyncs", "pending"].map(|name| FaultDisk::number(&said, name))
}

#[test]
fn only_a_sync_makes_a_write_durable_and_the_kernel_does_not_always_send_one() {
    let Some((mut disk, _directory)) = disk() else { return };
    let plain = open(&disk, "a", 0);
    plain.write_all_at(&[1; 4096], 0).unwrap();
    assert_eq!(counts(&mut disk), [1, 0, 0, 1]);
    plain.sync_data().unwrap();
    assert_eq!(counts(&mut disk), [1, 0, 1, 0]);
    // Linux sends no FSYNC behind a write of a file that is opened with FOPEN_DIRECT_IO, but says O_DSYNC with it.
    open(&disk, "a", libc::O_DSYNC).write_all_at(&[2; 4096], 0).unwrap();
    let [writes, dsync, fsyncs, pending] = counts(&mut disk);
    assert_eq!([writes, dsync], [2, 1]);
    // A kernel that sends one would do well.
    assert_eq!(pending, if fsyncs == 1 { 1 } else { 0 });
    plain.sync_data().unwrap();
    // Through the page cache both come, and only the FSYNC makes it durable here.
    let before = counts(&mut disk)[2];
    open(&disk, "b", libc::O_DSYNC).write_all_at(&[3; 4096], 0).unwrap();
    let [writes, _, fsyncs, pending] = counts(&mut disk);
    assert_eq!([writes, fsyncs - before, pending], [3, 1, 0]);
    open(&disk, "b", 0).write_all_at(&[4; 4096], 0).unwrap();
    assert_eq!(counts(&mut disk)[3], 1);
}

#[test]
fn a_loop_device_over_it_has_a_volatile_cache_and_flushes_it() {
    let Some((mut disk, _directory)) = disk() else { return };
    for (name, direct) in [("a", true), ("b", false)] {
        let device = Loop::attach(&disk.path(name), direct);
        let number = device.path().file_name().unwrap().to_str().unwrap();
        let cache = fs::read_to_string(format!("/sys/block/{number}/queue/write_cache")).unwrap();
        assert_eq!(cache.trim(), "write back");
        let before = counts(&mut disk);
        let file = File::options().write(true).custom_flags(libc::O_DSYNC).open(device.path()).unwrap();
        file.write_all_at(&[1; 4096], 4096).unwrap();
        let after = counts(&mut disk);
        assert!(after[0] > before[0] && after[2] > before[2], "{before:?} {after:?}");
        assert_eq!(after[3], 0, "{name}");
        drop(file);
        let mut content = [0; 4096];
        File::open(disk.path(name)).unwrap().read_exact_at(&mut content, 4096).unwrap();
        assert_eq!(content, [1; 4096]);
    }
}

#[test]
fn a_cut_drops_what_is_not_flushed_and_kills_what_is_open() {
    let Some((mut disk, _directory)) = disk() else { return };
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..30 {
        for name in ["a", "b"] {
            fs::write(disk.path("new"), b"whole").unwrap();
            File::open(disk.path("new")).unwrap().sync_all().unwrap();
            File::open(disk.path("")).unwrap().sync_all().unwrap();
            fs::write(disk.path("new.aside"), b"unsynced").unwrap();
            let file = open(&disk, name, 0);
            file.write_all_at(&[1; 1024], 0).unwrap();
            file.sync_all().unwrap();
            file.write_all_at(&[2; 512], 0).unwrap();
            disk.tell(&format!("cut {seed}"));
            let path = disk.path(name);
            let in_the_dark = thread::spawn(move || File::open(path).map(|_| ()));
            disk.tell("on");
            // It may have come before the power was back or after.
            let _ = in_the_dark.join().unwrap();
            let mut content = [0; 1024];
            assert_eq!(file.read_at(&mut content, 0).unwrap_err().raw_os_error(), Some(libc::EIO));
            assert!(file.write_at(&[3; 512], 0).is_err() && file.sync_all().is_err());
            open(&disk, name, 0).read_exact_at(&mut content, 0).unwrap();
            assert_eq!(content[512..], [1; 512]);
            let first = content[0];
            assert!((first == 1 || first == 2) && content[..512].iter().all(|b| *b == first));
            if first == 1 {
                lost += 1
            } else {
                kept += 1
            }
            assert_eq!(fs::read(disk.path("new")).unwrap(), b"whole");
            let aside = fs::read(disk.path("new.aside"));
            assert!(aside.as_ref().map_or_else(
                |e| e.kind() == ErrorKind::NotFound,
                |content| content.is_empty() || content == b"unsynced"
            ));
            let _ = fs::remove_file(disk.path("new.aside"));
        }
    }
    assert!(lost > 5 && kept > 5, "{lost} {kept}");
    let said = disk.tell("stats");
    assert_eq!(FaultDisk::number(&said, "cuts"), 60);
    assert!(FaultDisk::number(&said, "names") > 5, "{said}");
}

#[test]
fn files_hang_fail_are_cut_short_and_fill_up() {
    let Some((mut disk, _directory)) = disk() else { return };
    let file = open(&disk, "a", 0);
    disk.tell("hang a");
    let (path, other) = (disk.path("a"), disk.path("b"));
    let hanging = thread::spawn(move || fs::read(path).map(|content| content.len()));
    while FaultDisk::number(&disk.tell("stats"), "held") == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(fs::read(other).unwrap().len(), 64 << 10, "the others do not hang");
    assert!(!hanging.is_finished());
    disk.tell("unhang a");
    assert_eq!(hanging.join().unwrap().unwrap(), 64 << 10);

    disk.tell("fail a write ETIMEDOUT after 1 times 1");
    let errors: Vec<_> =
        (0..3).map(|_| file.write_at(&[1; 512], 0).err().and_then(|e| e.raw_os_error())).collect();
    assert_eq!(errors, [None, Some(libc::ETIMEDOUT), None]);
    disk.tell("fail a fsync EIO");
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    disk.tell("fail / create ENOSPC");
    assert_eq!(File::create(disk.path("c")).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    disk.tell("heal");
    file.sync_all().unwrap();

    disk.tell("fail a write,read SHORT times 2");
    assert_eq!(file.write_at(&[1; 4096], 0).unwrap(), 2048);
    assert_eq!(file.read_at(&mut [0; 4096], 0).unwrap(), 2048);
    disk.tell("full 4096");
    let mut new = File::create(disk.path("c")).unwrap();
    new.write_all(&[1; 4096]).unwrap();
    assert_eq!(new.write(&[1; 4096]).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    disk.tell("full off");
    new.write_all(&[1; 4096]).unwrap();
    let mut content = Vec::new();
    File::open(disk.path("c")).unwrap().read_to_end(&mut content).unwrap();
    assert_eq!(content, [1; 8192]);
    disk.tell("resize a 1024");
    assert_eq!(fs::metadata(disk.path("a")).unwrap().len(), 1024);
}
