//! Start and stop of the real binary on a veth pair: what it says, what it leaves, what it refuses. Needs root.
#![allow(clippy::expect_used, clippy::unwrap_used)] // A helper of a test may panic as well as the test.

mod namespace;

use namespace::{INITIATOR, Station, TARGET, alone, eventually, ip, veth};
use std::io::Read;
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

/// A running binary; killed when the test ends before it does.
struct Served(Child);

impl Served {
    fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_xshelf"))
            .arg("serve")
            .args(arguments)
            .env_remove("JOURNAL_STREAM")
            .env_remove("NOTIFY_SOCKET")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        Self(child)
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end: exit code and standard error.
    fn end(mut self) -> (i32, String) {
        let mut text = String::new();
        self.0.stderr.take().expect("piped").read_to_string(&mut text).unwrap();
        (self.0.wait().unwrap().code().expect("it exits by itself"), text)
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

/// The addresses that announce themselves, as far as there are `count` of them.
fn announced(station: &Station, count: usize) -> Vec<String> {
    let mut addresses = Vec::new();
    while addresses.len() < count {
        let frame = station.expect();
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
            let served = Served::start(&["--interface", TARGET, "--workers", workers, &a, &b], &[]);
            assert_eq!(announced(&station, 2), ["7.0", "8.3"]);
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
        let served = Served::start(&["--interface", TARGET, &slot], &environment);
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
        let served = Served::start(&[on[0], on[1], "--state-dir", &state, &a], &[]);
        assert_eq!(announced(&station, 1), ["7.0"]);
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
            let served = Served::start(arguments, &[]);
            announced(&station, 1);
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
fn a_killed_process_leaves_no_program_behind() {
    alone(|| {
        veth(1500, 1, 1);
        let dir = images(&["a"]);
        let slot = format!("7.0={}", dir.path().join("a").display());
        for _ in 0..2 {
            let station = Station::on(INITIATOR);
            let served = Served::start(&["--interface", TARGET, &slot], &[]);
            announced(&station, 1);
            assert!(has_program(TARGET));
            served.signal(rustix::process::Signal::KILL);
            drop(served);
            eventually("the program is gone with its process", || !has_program(TARGET));
        }
    });
}
