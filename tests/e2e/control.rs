//! The control socket of a running shelf: what `xshelf status` tells, to whom, and how it ends.

use crate::frames::{self, Raw};
use crate::lab::{Done, End, Lab, Server, TARGET, run};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::time::Duration;

/// A guard, far beyond what anything takes.
const GUARD: Duration = Duration::from_secs(180);

/// What a shelf answers whose control socket is the lab's.
fn ask(lab: &Lab, arguments: &[&str]) -> Done {
    let control = lab.path("control").display().to_string();
    run(lab.xshelf(End::Target, &[arguments, &["--control", &control]].concat()))
}

fn json(lab: &Lab) -> Value {
    let done = ask(lab, &["status", "--json"]);
    serde_json::from_str(&done.output).unwrap_or_else(|e| panic!("{e}\n{done}"))
}

#[test]
fn status_tells_what_is_served_and_what_hosts_have_set() {
    let lab = lab! { mtu: 9000, queues: 1 };
    let disks = [lab.image("disk0", 1 << 20), lab.image("disk1", 2 << 20)];
    let socket = lab.path("control");
    let arguments = [
        "--workers".into(),
        "2".into(),
        "--control".into(),
        socket.display().to_string(),
        format!("7.0={},config-string=label", disks[0].display()),
        format!("7.1={},write-back", disks[1].display()),
    ];
    // What a shelf that was killed has left is no hindrance.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let server = Server::start(&lab, &arguments);
    let kind = fs::symlink_metadata(&socket).unwrap();
    assert!(kind.file_type().is_socket());
    assert_eq!(kind.permissions().mode() & 0o777, 0o600);

    let done = ask(&lab, &["status"]).well();
    for want in [
        "all is well\n",
        &format!("port {TARGET}  link up, MTU 9000, 16 sectors in a frame\n  native copy"),
        "slot 7.0  serving for ",
        &format!("\n  {}  1.0 MiB (2048 sectors), ", disks[0].display()),
        "durable: yes (each write is synced)",
        "durable: no (write-back, only after a flush)",
        "config string \"label\"",
        "worker 0  CPU ",
        &format!("queues {TARGET}:0"),
    ] {
        assert!(done.output.contains(want), "{want}\n{done}");
    }

    // Set Config String (AoEr11, section 3.2), and a mask of this host alone.
    let wire = Raw::open(&lab, End::Initiator);
    let mut frame = frames::head([0xff; 6], wire.mac, 0, 7, 1, 1, 77);
    frame.extend([0, 0, 0, 0, 0, 0x13, 0, 4]);
    frame.extend(b"mine");
    wire.send(&frame);
    wire.receive(GUARD, |f| frames::is_response(f) && frames::tag_of(f) == 77).expect("an answer");
    let mut frame = frames::head([0xff; 6], wire.mac, 0, 7, 0, 2, 78);
    frame.extend([0, 1, 0, 1, 0, 1]);
    frame.extend(wire.mac);
    wire.send(&frame);
    wire.receive(GUARD, |f| frames::is_response(f) && frames::tag_of(f) == 78).expect("an answer");
    let status = json(&lab);
    let slot = |n: usize, key: &str| status["slots"][n][key].clone();
    assert_eq!((slot(0, "address"), slot(0, "mask")), ("7.0".into(), 1.into()), "{status:#}");
    assert_eq!((slot(1, "config_string"), slot(1, "reserved")), ("mine".into(), 0.into()), "{status:#}");
    assert_eq!((slot(0, "config_string"), slot(1, "mask")), ("label".into(), 0.into()), "{status:#}");
    assert_eq!((slot(0, "in_flight"), slot(0, "health")), (0.into(), "unknown".into()), "{status:#}");
    assert_eq!(status["counters"]["changes"], 2, "{status:#}");
    assert_eq!(status["process"], server.process(), "{status:#}");
    let done = ask(&lab, &["slot", "7.0", "recover"]).well();
    assert!(done.output.starts_with("slot 7.0 serves: "), "{done}");
    let done = ask(&lab, &["slot", "9.9", "recover"]);
    assert_eq!((done.code(), done.errors.as_str()), (Some(1), "xshelf: there is no slot 9.9 here\n"));

    // A link that is down is no status of a shelf that does well.
    lab.ip(End::Initiator, &["link", "set", "ini0", "down"]);
    let until = std::time::Instant::now() + GUARD;
    let done = loop {
        let done = ask(&lab, &["status"]);
        if done.code() == Some(1) {
            break done;
        }
        assert!(std::time::Instant::now() < until, "{done}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(done.output.contains("NOT ALL IS WELL") && done.output.contains("link DOWN"), "{done}");

    server.stop();
    assert!(!socket.exists());
    let done = ask(&lab, &["status"]);
    assert_eq!(done.code(), Some(4), "{done}");
    assert_eq!(done.errors.lines().count(), 1, "{done}");
    assert!(
        done.errors.starts_with(&format!("xshelf: no xshelf answers at {}: ", socket.display())),
        "{done}"
    );
}

#[test]
fn a_control_socket_that_was_asked_for_and_cannot_be_had_stops_the_start() {
    let lab = lab! { mtu: 1500, queues: 1 };
    let slot = format!("7.0={}", lab.image("disk", 1 << 20).display());
    let start = |control: &str, runtime: &PathBuf| {
        let arguments = ["serve", "--interface", TARGET, "--control", control, &slot];
        let mut command = lab.xshelf(End::Target, &arguments);
        command.env("RUNTIME_DIRECTORY", runtime);
        command
    };
    let nowhere = lab.path("no/such/directory");
    let done = run(start(nowhere.to_str().unwrap(), &nowhere));
    assert_eq!(done.code(), Some(3), "{done}");
    assert!(done.errors.contains("cannot listen on the control socket") && !lab.xdp_attached(), "{done}");
    assert!(!done.errors.contains("serving"), "it never began: {done}");
    // Where systemd gives it a directory it is there; and where it is not wanted, nothing is.
    let runtime = lab.path("runtime");
    fs::create_dir(&runtime).unwrap();
    let command = |more: &[&str]| {
        let arguments = [&["serve", "--interface", TARGET, &slot], more].concat();
        let mut command = lab.xshelf(End::Target, &arguments);
        command.env("RUNTIME_DIRECTORY", &runtime);
        command
    };
    let server = Server::start_command(&lab, command(&[]));
    assert!(runtime.join("control").exists());
    server.stop();
    let server = Server::start_command(&lab, command(&["--control", "none"]));
    assert_eq!(fs::read_dir(&runtime).unwrap().count(), 0);
    server.stop();
    // One in the usual place that cannot be had is a warning.
    let mut other = command(&[]);
    other.env("RUNTIME_DIRECTORY", &nowhere);
    let log = Server::start_command(&lab, other).stop();
    assert!(log.contains("no control socket, so `xshelf status` does not reach this shelf: "), "{log}");
}
