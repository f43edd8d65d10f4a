//! Start and stop of the real binary on a veth pair: what it says, what it leaves, what it refuses. Needs root.
#![allow(clippy::expect_used, clippy::unwrap_used)] // A helper of a test may panic as well as the test.

mod namespace;

use namespace::{INITIATOR, Station, TARGET, alone, eventually, ip, veth};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A directory with image files of 1 MiB, not in memory.
fn images(names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    for name in names {
        std::fs::File::create(dir.path().join(name)).unwrap().set_len(1 << 20).unwrap();
    }
    dir
}

/// A running binary and what it says; killed when the test ends before it does.
struct Served(Child, tempfile::TempDir);

impl Served {
    fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let runtime = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(runtime.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_xshelf"))
            .arg("serve")
            .args(arguments)
            .env_remove("JOURNAL_STREAM")
            .env_remove("NOTIFY_SOCKET")
            .env("RUNTIME_DIRECTORY", runtime.path())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary runs");
        Self(child, runtime)
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Whether it has ended; who waits for it hears of it all the same.
    fn has_ended(&self) -> bool {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let looks = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(rustix::process::Pid::from_child(&self.0)), looks).unwrap().is_some()
    }

    /// What it has said on standard error.
    fn log(&self) -> String {
        std::fs::read_to_string(self.1.path().join("log")).unwrap()
    }

    /// Waits for its end: exit code and standard error.
    fn end(&mut self) -> (i32, String) {
        let code = self.0.wait().unwrap().code().expect("it exits by itself");
        (code, self.log())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Both fail when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs it where it is to refuse: one line, this exit code.
fn refused(arguments: &[&str], code: i32) -> String {
    let (exit, text) = Served::start(arguments, &[]).end();
    assert_eq!(exit, code, "{text}");
    assert!(text.starts_with("xshelf: "), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

fn has_program(interface: &str) -> bool {
    let shown = Command::new("ip").args(["-d", "link", "show", "dev", interface]).output().expect("ip");
    String::from_utf8_lossy(&shown.stdout).contains("prog/xdp")
}

/// The addresses that announce themselves, as far as there are `count` of them. One that ends instead has failed.
fn announced(served: &Served, station: &Station, count: usize) -> Vec<String> {
    let mut addresses = Vec::new();
    while addresses.len() < count {
        let mut frame = None;
        eventually("it announces itself", || {
            assert!(!served.has_ended(), "it has ended:\n{}", served.log());
            frame = station.take();
            frame.is_some()
        });
        let frame = frame.unwrap();
        if frame[14] == 0x10 && frame[20..24] == xshelf::net::steer::GUARD_TAG.to_be_bytes() {
            // Before that it asks whether somebody else has the address.
            continue;
        }
        // A response of Query Config with tag 0, to everybody (AoEr11, section 3.2).
        assert_eq!(
            (&frame[..6], frame[14], frame[19], &frame[20..24]),
            (&[0xff; 6][..], 0x18, 1, &[0; 4][..])
        );
        addresses.push(format!("{}.{}", u16::from_be_bytes([frame[16], frame[17]]), frame[18]));
    }
    addresses.sort();
    addresses
}

#[test]
fn a_start_announces_and_a_stop_accounts_for_every_frame() {
    alone(|| {
        veth(9000, 1, 1);
        let dir = images(&["a", "b"]);
        let slot = |address: &str, name: &str| format!("{address}={}", dir.path().join(name).display());
        let (a, b) = (slot("7.0", "a"), format!("{},ro", slot("8.3", "b")));
        // Twice: the first one leaves nothing that hinders the second.
        for workers in ["1", "3"] {
            let station = Station::on(INITIATOR);
            let mut served = Served::start(&["--interface", TARGET, "--workers", workers, &a, &b], &[]);
            assert_eq!(announced(&served, &station, 2), ["7.0", "8.3"]);
            assert!(has_program(TARGET));
            served.signal(rustix::process::Signal::TERM);
            let (code, text) = served.end();
            assert_eq!(code, 0, "{text}");
            assert!(!has_program(TARGET), "{text}");
            let serving =
                text.lines().find(|l| l.contains(" serving ")).expect("a line that says what is served");
            for want in [
                "serving 7.0 [durable: yes (",
                "8.3 [read-only]",
                &format!(" on {TARGET}: native copy"),
                "zero-copy: ",
                "16 sectors per frame",
                &format!("; {workers} worker"),
            ] {
                assert!(serving.contains(want), "{want}: {serving}");
            }
            let conserved =
                text.lines().find_map(|l| l.split_once("frames conserved: ")).expect("conservation").1;
            let (found, of) = conserved.split_once(" of ").expect("N of N");
            assert_eq!(found, of);
            assert!(!text.contains('\u{1b}'), "colours without a terminal: {text}");
        }
    });
}

#[test]
fn a_port_with_fewer_queues_to_transmit_serves_by_those() {
    alone(|| {
        // Worker 1 receives from queue 1, which the kernel binds and never transmits from.
        ip(&format!(
            "link add {TARGET} numrxqueues 2 numtxqueues 1 type veth peer name {INITIATOR} numrxqueues 1 numtxqueues 2"
        ));
        for name in [TARGET, INITIATOR] {
            ip(&format!("link set dev {name} addrgenmode none up"));
        }
        let dir = images(&["a", "b"]);
        let slot = |address: &str, name: &str, worker: u8| {
            format!("{address}={},worker={worker}", dir.path().join(name).display())
        };
        let (a, b) = (slot("7.0", "a", 0), slot("7.1", "b", 1));
        let station = Station::on(INITIATOR);
        let mut served =
            Served::start(&["--interface", TARGET, "--mode", "native", "--workers", "2", &a, &b], &[]);
        assert_eq!(announced(&served, &station, 2), ["7.0", "7.1"]);
        served.signal(rustix::process::Signal::TERM);
        let (code, text) = served.end();
        assert_eq!(code, 0, "{text}");
        let text = refused(&["--interface", TARGET, "--mode", "native", "--queues", "1-1", &a], 3);
        assert!(text.contains("can only receive"), "{text}");
    });
}

#[test]
fn systemd_is_told() {
    alone(|| {
        veth(1500, 1, 1);
        let dir = images(&["a"]);
        let socket = dir.path().join("notify");
        let notices = UnixDatagram::bind(&socket).unwrap();
        // Only guards against a hang.
        notices.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let next = || {
            let mut buffer = [0; 4096];
            let n = notices.recv(&mut buffer).expect("a notice");
            String::from_utf8_lossy(&buffer[..n]).into_owned()
        };
        let slot = format!("7.0={}", dir.path().join("a").display());
        let environment = [
            ("NOTIFY_SOCKET", socket.to_str().unwrap()),
            ("WATCHDOG_USEC", "100000"),
            ("JOURNAL_STREAM", "1:2"),
        ];
        let mut served = Served::start(&["--interface", TARGET, &slot], &environment);
        let ready = next();
        assert!(ready.starts_with("READY=1\nSTATUS=serving 7.0 ["), "{ready}");
        assert_eq!(next(), "WATCHDOG=1\n");
        assert_eq!(next(), "WATCHDOG=1\n");
        served.signal(rustix::process::Signal::INT);
        let stopping = std::iter::repeat_with(next).find(|n| !n.starts_with("WATCHDOG=1")).unwrap();
        assert!(stopping.starts_with("STOPPING=1\n"), "{stopping}");
        let (code, text) = served.end();
        assert_eq!(code, 0, "{text}");
        // For the journal: a priority, and neither clock nor colour.
        assert!(text.lines().all(|l| l.starts_with("<6>") || l.starts_with("<4>")), "{text}");
        assert!(text.contains("<6>serving 7.0 ["), "{text}");
    });
}

#[test]
fn what_cannot_be_served_is_refused_and_leaves_nothing() {
    alone(|| {
        veth(1500, 1, 1);
        let dir = images(&["a", "b"]);
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (a, b) = (format!("7.0={}", path("a")), format!("7.1={}", path("b")));
        let on = ["--interface", TARGET];
        let refused = |rest: &[&str], code| {
            let text = refused(rest, code);
            assert!(!has_program(TARGET), "{text}");
            text
        };

        let text = refused(&["--interface", "none0", &a], 3);
        assert!(text.contains("none0: no such interface; there is ") && text.contains(TARGET), "{text}");
        let text = refused(&[on[0], on[1], &a, &format!("7.1={}", path("none"))], 3);
        assert!(text.contains(&format!("slot 7.1: {} does not exist", path("none"))), "{text}");
        let text = refused(&[on[0], on[1], &a, &format!("7.1={}", path("a"))], 2);
        assert!(text.contains("served by another slot already"), "{text}");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(path("a"), &link).unwrap();
        let text = refused(&[on[0], on[1], &a, &format!("7.1={}", link.display())], 2);
        assert!(text.contains("is the same as") && text.contains("of slot 7.0"), "{text}");
        // Found out only after the program was attached.
        let text = refused(&[on[0], on[1], "--queues", "0-1", &a], 3);
        assert!(text.contains(&format!("{TARGET}: queue 1 cannot be served")), "{text}");
        let text = refused(&[on[0], on[1], "--mode", "zero-copy", &a], 3);
        assert!(text.contains("zero-copy") && text.contains("veth"), "{text}");
        let text = refused(&[on[0], on[1], &format!("{a},worker=1")], 2);
        assert!(text.contains("slot 7.0 asks for worker 1, but there are 1"), "{text}");
        let text = refused(&[on[0], on[1], "--cores", "1023-1023", &a], 3);
        assert!(text.contains("core 1023 is not among the CPUs"), "{text}");
        let text = refused(&[on[0], on[1], &format!("{a},vlan=5")], 3);
        assert!(text.contains(&format!("ethtool -K {TARGET} rxvlan off")), "{text}");
        let text = refused(&[on[0], on[1], "--state-dir", "/nowhere/at/all", &a], 3);
        assert!(text.contains("state directory /nowhere/at/all"), "{text}");

        ip(&format!("link set dev {TARGET} mtu 500"));
        let text = refused(&[on[0], on[1], &a], 3);
        assert!(text.contains("MTU 500 does not carry one sector"), "{text}");
        ip(&format!("link set dev {TARGET} mtu 1500 down"));
        let text = refused(&[on[0], on[1], &a], 3);
        assert!(text.contains(&format!("ip link set dev {TARGET} up")), "{text}");
        ip(&format!("link set dev {TARGET} up"));

        // After all this it can still be served; and then not twice.
        let state = dir.path().join("state").display().to_string();
        let station = Station::on(INITIATOR);
        let mut served = Served::start(&[on[0], on[1], "--state-dir", &state, &a], &[]);
        assert_eq!(announced(&served, &station, 1), ["7.0"]);
        let text = self::refused(&[on[0], on[1], &b], 3);
        assert!(text.contains("another XDP program is attached"), "{text}");
        let text = self::refused(&["--interface", INITIATOR, &format!("7.1={}", path("a"))], 3);
        assert!(text.contains(&format!("slot 7.1: {} is ", path("a"))), "{text}");
        let text = self::refused(&["--interface", INITIATOR, "--state-dir", &state, &b], 3);
        assert!(text.contains("another xshelf uses it"), "{text}");
        served.signal(rustix::process::Signal::TERM);
        let (code, text) = served.end();
        assert_eq!(code, 0, "{text}");
    });
}

#[test]
fn a_configuration_file_and_arguments_serve_alike() {
    alone(|| {
        veth(1500, 2, 2);
        let dir = images(&["a"]);
        let image = dir.path().join("a").display().to_string();
        let file = dir.path().join("x.toml");
        let text = format!(
            "[[interface]]\nname = \"{TARGET}\"\nqueues = 1\n[[slot]]\naddress = \"7.0\"\npath = \"{image}\"\n\
             serial = \"S\"\n[workers]\ncount = 1\n"
        );
        std::fs::write(&file, text).unwrap();
        let slot = format!("7.0={image},serial=S");
        let ways: [&[&str]; 2] = [
            &["--config", file.to_str().unwrap()],
            &["--interface", TARGET, "--queues", "1", "--workers", "1", &slot],
        ];
        let lines = ways.map(|arguments| {
            let station = Station::on(INITIATOR);
            let mut served = Served::start(arguments, &[]);
            announced(&served, &station, 1);
            served.signal(rustix::process::Signal::TERM);
            let (code, text) = served.end();
            assert_eq!(code, 0, "{text}");
            let line = text.lines().find_map(|l| l.split_once(" serving ")).expect("serving").1;
            line.to_owned()
        });
        assert_eq!(lines[0], lines[1]);
        assert!(lines[0].contains("queue 0; 1 worker"), "{}", lines[0]);
    });
}

#[test]
fn an_interface_that_goes_away_is_said_once_and_ends_nothing() {
    alone(|| {
        veth(1500, 1, 1);
        let dir = images(&["a"]);
        let slot = format!("7.0={}", dir.path().join("a").display());
        let station = Station::on(INITIATOR);
        let mut served = Served::start(&["--interface", TARGET, &slot], &[]);
        announced(&served, &station, 1);
        run(&["ip", "link", "del", TARGET]).unwrap();
        // It looks once a second.
        std::thread::sleep(std::time::Duration::from_secs(4));
        served.signal(rustix::process::Signal::TERM);
        let (code, text) = served.end();
        assert_eq!(code, 0, "{text}");
        assert_eq!(text.matches("nothing is served there: the interface was removed").count(), 1, "{text}");
        assert!(text.contains("frames conserved: "), "{text}");
    });
}

#[test]
fn a_killed_process_leaves_no_program_behind() {
    alone(|| {
        veth(1500, 1, 1);
        let dir = images(&["a"]);
        let slot = format!("7.0={}", dir.path().join("a").display());
        for _ in 0..2 {
            let station = Station::on(INITIATOR);
            let served = Served::start(&["--interface", TARGET, &slot], &[]);
            announced(&served, &station, 1);
            assert!(has_program(TARGET));
            served.signal(rustix::process::Signal::KILL);
            drop(served);
            eventually("the program is gone with its process", || !has_program(TARGET));
        }
    });
}

/// A file system of its own in a file, which can be frozen: what is written to it then hangs, as on a dead disk.
struct Freezer {
    dir: tempfile::TempDir,
    frozen: bool,
}

impl Freezer {
    /// `None`, with the reason said, where that cannot be had.
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let freezer = Self { dir, frozen: false };
        let image = freezer.dir.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let (image, at) = (image.display().to_string(), freezer.at());
        std::fs::create_dir(&at).unwrap();
        for command in [&["mkfs.ext4", "-q", "-F", &image][..], &["mount", "-o", "loop", &image, &at]] {
            if let Err(e) = run(command) {
                println!("SKIPPED: no file system to freeze: {e}");
                return None;
            }
        }
        std::fs::File::create(freezer.dir.path().join("at/disk")).unwrap().set_len(1 << 20).unwrap();
        Some(freezer)
    }

    fn at(&self) -> String {
        self.dir.path().join("at").display().to_string()
    }

    fn freeze(&mut self) {
        run(&["fsfreeze", "--freeze", &self.at()]).unwrap();
        self.frozen = true;
    }

    fn thaw(&mut self) {
        if std::mem::take(&mut self.frozen) {
            run(&["fsfreeze", "--unfreeze", &self.at()]).unwrap();
        }
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.thaw();
        // Busy as long as a killed process is on its way out.
        for _ in 0..100 {
            if run(&["umount", &self.at()]).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn run(command: &[&str]) -> Result<(), String> {
    let output = Command::new(command[0])
        .args(&command[1..])
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .map_err(|e| format!("{}: {e}", command[0]))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// An ATA command for sector 0 of slot 7.0: a write (34h) of one sector, or a read (24h).
fn command(write: bool) -> Vec<u8> {
    let mut frame = namespace::request(namespace::TARGET_MAC, 7, 24);
    (frame[18], frame[19]) = (0, 0);
    frame.extend([if write { 0x41 } else { 0x40 }, 0, 1, if write { 0x34 } else { 0x24 }]);
    // The read is of another sector, so that it does not wait for the write.
    frame.extend([if write { 0 } else { 9 }, 0, 0, 0, 0, 0, 0, 0]);
    if write {
        frame.extend([0x5a; 512]);
    }
    frame
}

/// A binary whose device hangs. The device has to answer before the kernel lets the process go.
struct Hung {
    freezer: Freezer,
    served: Served,
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.freezer.thaw();
        // Gone before its file system is; that it has ended already is no matter.
        let _ = self.served.0.kill();
        let _ = self.served.0.wait();
    }
}

/// Serves a slot whose device takes no writes, with one write in flight, and asks it to stop. `None` is a test skipped.
fn hung() -> Option<Hung> {
    veth(1500, 1, 1);
    let mut freezer = Freezer::new()?;
    let station = Station::on(INITIATOR);
    let slot = format!("7.0={}/disk", freezer.at());
    let served = Served::start(&["--interface", TARGET, &slot], &[]);
    announced(&served, &station, 1);
    freezer.freeze();
    station.send(&command(true));
    station.send(&command(false));
    // Frames are taken in order, so the write is in flight when the read is answered.
    let answer = station.expect();
    assert_eq!((answer[14], answer[27], answer.len()), (0x18, 0x40, 36 + 512));
    served.signal(rustix::process::Signal::TERM);
    Some(Hung { freezer, served })
}

#[test]
fn a_device_that_hangs_is_named_when_the_patience_ends() {
    alone(|| {
        let Some(mut hung) = hung() else { return };
        eventually("it names the slot", || hung.served.log().contains("slot 7.0 still had 1 command"));
        hung.freezer.thaw();
        let (code, text) = hung.served.end();
        assert_eq!(code, 1, "{text}");
        // They are accounted for, though one is with the disk.
        let conserved =
            text.lines().find_map(|l| l.split_once("frames conserved: ")).expect("conservation").1;
        let (found, of) = conserved.split_once(" of ").expect("N of N");
        assert_eq!(found, of);
    });
}

#[test]
fn the_second_signal_ends_it_at_once() {
    alone(|| {
        let Some(mut hung) = hung() else { return };
        eventually("it stops", || hung.served.log().contains("stopping: "));
        hung.served.signal(rustix::process::Signal::TERM);
        let status = format!("/proc/{}/status", hung.served.0.id());
        // The kernel keeps the shell of the process as long as the disk hangs, and nothing runs in it any more.
        eventually("its main thread has ended", || {
            std::fs::read_to_string(&status).is_ok_and(|s| s.contains("State:\tZ"))
        });
        hung.freezer.thaw();
        let (code, text) = hung.served.end();
        assert_eq!(code, 1, "{text}");
        assert!(!text.contains("frames"), "{text}");
        eventually("the program is gone with its process", || !has_program(TARGET));
    });
}

#[test]
fn a_state_directory_that_hangs_is_named_and_keeps_no_slot_from_serving() {
    alone(|| {
        veth(1500, 1, 1);
        let Some(freezer) = Freezer::new() else { return };
        let images = images(&["a"]);
        let station = Station::on(INITIATOR);
        let slot = format!("7.0={}", images.path().join("a").display());
        let state = format!("{}/state", freezer.at());
        let served = Served::start(&["--interface", TARGET, "--state-dir", &state, &slot], &[]);
        let mut hung = Hung { freezer, served };
        announced(&hung.served, &station, 1);
        hung.freezer.freeze();
        let mut set = namespace::request(namespace::TARGET_MAC, 7, 24);
        (set[18], set[19]) = (0, 1);
        set.extend([0, 0, 0, 0, 0, 4, 0, 1, b'x']);
        station.send(&set);
        for write in [true, false] {
            station.send(&command(write));
            let answer = station.expect();
            assert_eq!((answer[14], answer[19], answer[27]), (0x18, 0, 0x40), "the disk is served meanwhile");
        }
        hung.served.signal(rustix::process::Signal::TERM);
        eventually("it names the slot and what hangs", || {
            hung.served.log().contains("slot 7.0: the disk with the state directory does not answer")
        });
        assert_eq!(station.take(), None, "what is not kept is not answered");
        hung.freezer.thaw();
        let (code, text) = hung.served.end();
        assert_eq!(code, 1, "{text}");
        let busy =
            "slot 7.0 still had 1 command in flight after 10 s; its device or the state directory may hang";
        assert!(text.contains(busy), "{text}");
        let conserved =
            text.lines().find_map(|l| l.split_once("frames conserved: ")).expect("conservation").1;
        let (found, of) = conserved.split_once(" of ").expect("N of N");
        assert_eq!(found, of);
    });
}

#[test]
fn check_says_what_serve_would_say_and_attaches_nothing() {
    alone(|| {
        veth(9000, 2, 1);
        let dir = images(&["a"]);
        let image = dir.path().join("a").display().to_string();
        let check = |arguments: &[&str]| {
            let output =
                Command::new(env!("CARGO_BIN_EXE_xshelf")).arg("check").args(arguments).output().unwrap();
            assert!(!has_program(TARGET));
            (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let slot = format!("7.0={image}");
        let (code, text) = check(&["--interface", TARGET, &slot]);
        assert_eq!(code, 0, "{text}");
        for want in [
            "driver        veth",
            "zero-copy                   no: veth has no zero-copy",
            "native copy with segments   possible: 16 sectors per frame, 2 queues",
            "verdict       can be served on; tried first: native copy with segments",
            "io_uring      works",
            &format!("slot 7.0: {image}, every write durable"),
        ] {
            assert!(text.contains(want), "{want}\n{text}");
        }
        let (code, text) = check(&["--interface", TARGET, "--json", &slot, "7.1=/none,vlan=3"]);
        assert_eq!(code, 1);
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["ok"], false);
        assert_eq!(report["interfaces"][0]["mtu"], 9000);
        let said: Vec<_> =
            report["mistakes"].as_array().unwrap().iter().map(|m| m["what"].as_str().unwrap()).collect();
        assert!(said.contains(&"/none does not exist"), "{said:?}");
        assert!(said.iter().any(|s| s.contains("takes VLAN tags out of frames")), "{said:?}");

        // A file says the same, with the place.
        let file = dir.path().join("x.toml");
        let text = format!(
            "[[interface]]\nname = \"{TARGET}\"\nqueues = 3\n[[slot]]\naddress = \"7.0\"\npath = \"{image}\"\n\
             [workers]\ncores = [0, 1023]\n"
        );
        std::fs::write(&file, text).unwrap();
        let (code, text) = check(&[file.to_str().unwrap()]);
        assert_eq!(code, 1);
        assert!(
            text.contains("x.toml:2:8: error: interface[0].name: tgt0: queue 2 cannot be served"),
            "{text}"
        );
        assert!(text.contains("error: workers.cores: core 1023 is not among the CPUs"), "{text}");

        // What somebody else has attached is in the way, and check says so.
        let station = Station::on(INITIATOR);
        let mut served = Served::start(&["--interface", TARGET, &slot], &[]);
        announced(&served, &station, 1);
        let output =
            Command::new(env!("CARGO_BIN_EXE_xshelf")).args(["check", "-i", TARGET]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("cannot be served on now: tgt0: another XDP program is attached"), "{text}");
        served.signal(rustix::process::Signal::TERM);
        assert_eq!(served.end().0, 0);
    });
}
