//! Bad starts: each says in one line what is wrong and what to do, ends with the code for it, and leaves nothing.

use crate::lab::{Cable, Done, End, Lab, Server, TARGET, run};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: u64 = 1 << 20;

/// The codes of `xshelf --help`.
const PROBLEM: i32 = 1;
const USAGE: i32 = 2;
const ENVIRONMENT: i32 = 3;

fn slot(address: &str, path: &Path) -> String {
    format!("{address}={}", path.display())
}

/// Runs `xshelf serve` on the target's interface with these arguments, and expects it to refuse.
#[track_caller]
fn refuses<S: AsRef<OsStr>>(lab: &Lab, arguments: &[S], code: i32, words: &[&str]) {
    let mut command = lab.xshelf(End::Target, &["serve", "--interface", TARGET]);
    command.args(arguments);
    refuses_command(lab, command, code, words);
    assert!(!lab.xdp_attached(), "a program is still attached");
}

/// Expects a command to refuse: with this code, and with one line that has these words.
#[track_caller]
fn refuses_command(lab: &Lab, command: Command, code: i32, words: &[&str]) -> Done {
    let done = run(command);
    assert_eq!(done.code(), Some(code), "{done}");
    assert!(!done.errors.contains("panicked"), "{done}");
    let said: Vec<&str> = done.errors.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(said.len(), 1, "one line says it\n{done}");
    for word in words {
        assert!(said[0].contains(word), "no '{word}' in it\n{done}");
    }
    assert!(lab.path("").exists());
    done
}

#[test]
fn without_root() {
    let lab = lab! { ..Cable::default() };
    let image = lab.image("disk", MIB);
    fs::set_permissions(&image, fs::Permissions::from_mode(0o666)).unwrap();
    // Built trees lie in homes that others may not enter. Another process copies: a descriptor of ours, open for writing,
    // could be inherited by a child that another test forks just now, and then the copy could not be executed.
    let binary = lab.path("xshelf");
    let mut copy = Command::new("cp");
    copy.arg(env!("CARGO_BIN_EXE_xshelf")).arg(&binary);
    run(copy).well();
    let mut command = Command::new(&binary);
    command.args(["serve", "--interface", TARGET, &slot("7.0", &image)]);
    lab.enter(End::Target, &mut command);
    // Standard groups go first, or they would stay.
    // SAFETY: async-signal-safe, no memory.
    unsafe {
        command.pre_exec(|| {
            match (libc::setgroups(0, std::ptr::null()), libc::setgid(65534), libc::setuid(65534)) {
                (0, 0, 0) => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    refuses_command(&lab, command, ENVIRONMENT, &["CAP_NET_RAW", "root"]);
}

#[test]
fn without_such_an_interface() {
    let lab = lab! { ..Cable::default() };
    let image = lab.image("disk", MIB);
    let command = lab.xshelf(End::Target, &["serve", "--interface", "eth77", &slot("7.0", &image)]);
    refuses_command(&lab, command, ENVIRONMENT, &["eth77", "no such interface", TARGET]);
}

#[test]
fn with_the_interface_down() {
    let lab = lab! { ..Cable::default() };
    lab.ip(End::Target, &["link", "set", TARGET, "down"]);
    refuses(&lab, &[slot("7.0", &lab.image("disk", MIB))], ENVIRONMENT, &[TARGET, "ip link set"]);
}

#[test]
fn with_an_mtu_that_carries_no_sector() {
    let lab = lab! { mtu: 500, queues: 1 };
    refuses(&lab, &[slot("7.0", &lab.image("disk", MIB))], ENVIRONMENT, &[TARGET, "MTU", "500"]);
}

#[test]
fn with_zero_copy_demanded_where_there_is_none() {
    let lab = lab! { ..Cable::default() };
    let image = lab.image("disk", MIB);
    refuses(&lab, &["--mode", "zero-copy", &slot("7.0", &image)], ENVIRONMENT, &[TARGET, "zero-copy"]);
}

#[test]
fn with_a_second_shelf_on_the_interface() {
    let lab = lab! { ..Cable::default() };
    let server = Server::start(&lab, &[slot("7.0", &lab.image("disk0", MIB))]);
    let command =
        lab.xshelf(End::Target, &["serve", "--interface", TARGET, &slot("7.1", &lab.image("disk1", MIB))]);
    refuses_command(&lab, command, ENVIRONMENT, &[TARGET, "XDP"]);
    assert!(lab.xdp_attached(), "the first one lost its program");
    run(lab.xshelf(End::Initiator, &["discover", "ini0"])).well();
    server.stop();
}

#[test]
fn with_no_file_there() {
    let lab = lab! { ..Cable::default() };
    refuses(&lab, &[slot("7.0", &lab.path("nothing"))], ENVIRONMENT, &["7.0", "nothing"]);
}

#[test]
fn with_a_directory_for_a_disk() {
    let lab = lab! { ..Cable::default() };
    refuses(&lab, &[slot("7.0", &lab.path(""))], ENVIRONMENT, &["7.0", "directory"]);
}

#[test]
fn with_a_file_that_another_shelf_serves() {
    let (one, two) = (lab! { ..Cable::default() }, lab! { ..Cable::default() });
    let image = one.image("disk", MIB);
    let server = Server::start(&one, &[slot("7.0", &image)]);
    refuses(&two, &[slot("8.0", &image)], ENVIRONMENT, &["8.0", "disk"]);
    // Readers beside a writer would see its writes half done.
    refuses(&two, &[format!("{},ro", slot("8.0", &image))], ENVIRONMENT, &["8.0", "disk"]);
    server.stop();
    Server::start(&two, &[slot("8.0", &image)]).stop();
}

#[test]
fn with_a_file_that_may_not_be_written() {
    let lab = lab! { ..Cable::default() };
    let image = lab.image("disk", MIB);
    fs::set_permissions(&image, fs::Permissions::from_mode(0o444)).unwrap();
    chown(&image, Some(65534), Some(65534)).unwrap();
    let without_override = |arguments: &[&str]| {
        let mut command = lab.xshelf(End::Target, &["serve", "--interface", TARGET]);
        command.args(arguments);
        // Root writes everywhere unless it lacks CAP_DAC_OVERRIDE, as under the unit.
        // SAFETY: async-signal-safe, no memory.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_CAPBSET_DROP, 1, 0, 0, 0);
                Ok(())
            });
        }
        command
    };
    refuses_command(&lab, without_override(&[&slot("7.0", &image)]), ENVIRONMENT, &["7.0", "disk", "ro"]);
    let read_only = format!("{},ro", slot("7.0", &image));
    Server::start_command(&lab, without_override(&[&read_only])).stop();
}

#[test]
fn with_a_size_that_is_no_number_of_sectors() {
    let lab = lab! { ..Cable::default() };
    refuses(&lab, &[slot("7.0", &lab.image("odd", MIB + 100))], ENVIRONMENT, &["7.0", "odd", "512"]);
    refuses(&lab, &[slot("7.0", &lab.image("none", 0))], ENVIRONMENT, &["7.0", "none"]);
}

#[test]
fn with_one_slot_twice() {
    let lab = lab! { ..Cable::default() };
    let (a, b) = (lab.image("a", MIB), lab.image("b", MIB));
    refuses(&lab, &[slot("7.0", &a), slot("7.0", &b)], USAGE, &["7.0", "given before"]);
}

#[test]
fn with_one_file_in_two_slots() {
    let lab = lab! { ..Cable::default() };
    let image = lab.image("disk", MIB);
    let link = lab.path("link");
    std::os::unix::fs::symlink(&image, &link).unwrap();
    refuses(&lab, &[slot("7.0", &image), slot("7.1", &link)], USAGE, &["7.0", "7.1"]);
}

#[test]
fn with_an_address_that_linux_cannot_reach() {
    let lab = lab! { ..Cable::default() };
    for address in ["4095.0", "65535.0", "7.255"] {
        refuses(&lab, &[slot(address, &lab.image("disk", MIB))], USAGE, &[address]);
    }
}

#[test]
fn with_a_typing_mistake_in_the_file() {
    let lab = lab! { ..Cable::default() };
    let image = lab.image("disk", MIB);
    let file = lab.path("xshelf.toml");
    let text = format!(
        "[[interface]]\nname = \"{TARGET}\"\n[[slot]]\naddress = \"7.0\"\npath = \"{}\"\nread-olny = true\n",
        image.display()
    );
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let words = ["xshelf.toml:6", "read-olny", "read-only"];
    refuses_command(&lab, lab.xshelf(End::Target, &["serve", "--config", file]), USAGE, &words);
    let checked = run(lab.xshelf(End::Target, &["check", file]));
    assert_eq!(checked.code(), Some(PROBLEM), "{checked}");
    assert!(words.iter().all(|word| checked.output.contains(word)), "{checked}");
}

#[test]
fn with_no_configuration_file_there() {
    let lab = lab! { ..Cable::default() };
    let file = lab.path("missing.toml");
    let file = file.to_str().unwrap();
    for arguments in [&["serve", "--config", file][..], &["check", file]] {
        refuses_command(&lab, lab.xshelf(End::Target, arguments), ENVIRONMENT, &["missing.toml"]);
    }
}

#[test]
fn with_io_uring_forbidden() {
    let lab = lab! { ..Cable::default() };
    let image = lab.image("disk", MIB);
    let mut command = lab.xshelf(End::Target, &["serve", "--interface", TARGET, &slot("7.0", &image)]);
    // Four instructions: is it io_uring_setup? then EPERM, else let it pass. Container runtimes do the same.
    let filter = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        filter(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        filter(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
        filter(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        filter(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    // SAFETY: prctl is async-signal-safe; the program is owned by the closure and of the length given.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            match libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    refuses_command(&lab, command, ENVIRONMENT, &["io_uring", "seccomp"]);
    assert!(!lab.xdp_attached());
}

#[test]
fn with_too_little_lockable_memory() {
    let lab = lab! { ..Cable::default() };
    let image = lab.image("disk", MIB);
    let mut command = lab.xshelf(End::Target, &["serve", "--interface", TARGET, &slot("7.0", &image)]);
    // SAFETY: async-signal-safe; the limit is on this stack.
    unsafe {
        command.pre_exec(|| {
            let little = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
            libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const little);
            for capability in [14, 24] {
                // CAP_IPC_LOCK and CAP_SYS_RESOURCE: either would lift the limit.
                libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
            }
            Ok(())
        });
    }
    refuses_command(&lab, command, ENVIRONMENT, &["LimitMEMLOCK"]);
    assert!(!lab.xdp_attached());
}

/// A block device made of a file.
struct Loop {
    device: PathBuf,
    mounted: Option<PathBuf>,
}

impl Loop {
    fn new(image: &Path, options: &[&str]) -> Option<Self> {
        let mut command = Command::new("losetup");
        command.args(options).args(["--find", "--show"]).arg(image);
        let done = run(command);
        if !done.status.success() {
            println!("SKIPPED: no loop devices here: {}", done.errors.trim());
            return None;
        }
        Some(Self { device: done.output.trim().into(), mounted: None })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Some(at) = &self.mounted {
            let _ = Command::new("umount").arg(at).status();
        }
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

#[test]
fn with_a_block_device_that_is_mounted() {
    let lab = lab! { ..Cable::default() };
    let image = lab.image("disk", 16 * MIB);
    let Some(mut device) = Loop::new(&image, &[]) else { return };
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.arg("-q").arg(&device.device);
    run(mkfs).well();
    let at = lab.path("mounted");
    fs::create_dir(&at).unwrap();
    let mut mount = Command::new("mount");
    mount.arg(&device.device).arg(&at);
    run(mount).well();
    device.mounted = Some(at);
    refuses(&lab, &[slot("7.0", &device.device)], ENVIRONMENT, &["7.0", "mounted on"]);
}

#[test]
fn with_a_block_device_that_is_read_only() {
    let lab = lab! { ..Cable::default() };
    let Some(device) = Loop::new(&lab.image("disk", MIB), &["--read-only"]) else { return };
    refuses(&lab, &[slot("7.0", &device.device)], ENVIRONMENT, &["7.0", "ro"]);
    Server::start(&lab, &[format!("{},ro", slot("7.0", &device.device))]).stop();
}

#[test]
fn a_block_device_that_is_free_is_served_and_verified() {
    let lab = lab! { ..Cable::default() };
    let Some(device) = Loop::new(&lab.image("disk", 4 * MIB), &[]) else { return };
    let server = Server::start(&lab, &[slot("7.0", &device.device)]);
    let arguments = ["bench", "ini0", "7.0", "--mode", "verify", "--destroy-data", "--seconds", "1"];
    run(lab.xshelf(End::Initiator, &arguments)).well();
    server.stop();
}

/// A disk that reads and writes nothing smaller than 4096 bytes, behind commands that begin and end anywhere: in one unit
/// several hosts' worth of sectors, each of which has to survive the others' writes.
#[test]
fn a_disk_of_large_sectors_is_served_sector_by_sector() {
    let lab = lab! { ..Cable::default() };
    let Some(device) = Loop::new(&lab.image("disk", 4 * MIB), &["--sector-size", "4096"]) else { return };
    let whole = format!("7.0={},length=2M", device.device.display());
    let part = format!("7.1={},offset=2M", device.device.display());
    let server = Server::start(&lab, &[whole, part]);
    for sectors in ["1", "3", "7", "8", "13", "16"] {
        let mut arguments = vec!["bench", "ini0", "7.0", "7.1", "--mode", "verify", "--destroy-data"];
        arguments.extend(["--seconds", "0.5", "--depth", "32", "--sectors", sectors]);
        run(lab.xshelf(End::Initiator, &arguments)).well();
    }
    let log = server.stop();
    assert!(!log.contains("ERROR"), "{log}");
}
