//! Two targets with one address: who serves, who refuses, and who is told.

use crate::frames::{self, BROADCAST, Raw};
use crate::lab::{Cable, End, INITIATOR, Lab, Server, TARGET, run};
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const MIB: u64 = 1 << 20;
const ENVIRONMENT: i32 = 3;
/// The tag by which an xshelf asks whose an address is.
const GUARD_TAG: u32 = 0x9a0e_5e1f;
const GUARD_TEXT: &[u8] = b"xshelf-guard/1 asks ff:ff:ff:ff:ff:fe";
/// How long an answer may take before it counts as missing: a guard, far beyond what it takes.
const ANSWER: Duration = Duration::from_secs(20);
/// How long nothing may come before something is sent again.
const MOMENT: Duration = Duration::from_millis(50);

fn slot(address: &str, path: &Path) -> String {
    format!("{address}={}", path.display())
}

/// `xshelf serve` at one end of the cable.
fn serve(lab: &Lab, end: End, arguments: &[String]) -> Command {
    let interface = if end == End::Target { TARGET } else { INITIATOR };
    let mut command = lab.xshelf(end, &["serve", "--interface", interface]);
    command.args(arguments);
    command
}

/// The lines of the log that raise an alarm about a slot.
fn alarms(log: &str, slot: &str) -> usize {
    let slot = format!("slot {slot}: ");
    log.lines().filter(|line| line.contains("ERROR") && line.contains(&slot)).count()
}

/// The address of an interface, as `ip` and the log write it.
fn mac_of(lab: &Lab, end: End) -> String {
    let mac = Raw::open(lab, end).mac;
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The slots that answer on the other side of the cable, seen from `end`.
fn found(lab: &Lab, end: End) -> Vec<String> {
    let interface = if end == End::Target { TARGET } else { INITIATOR };
    let done = run(lab.xshelf(end, &["discover", interface, "--json"]));
    let json: Value = serde_json::from_str(&done.output).unwrap_or_else(|e| panic!("{e}\n{done}"));
    let targets = json["targets"].as_array().unwrap_or_else(|| panic!("no targets in {json:#}"));
    targets.iter().map(|slot| slot["address"].as_str().unwrap().to_owned()).collect()
}

/// Tags that are taken out on the way are seen by no XDP program.
fn keep_tags(lab: &Lab) {
    for (end, interface) in [(End::Target, TARGET), (End::Initiator, INITIATOR)] {
        let mut ethtool = Command::new("ethtool");
        ethtool.args(["-K", interface, "rxvlan", "off", "txvlan", "off"]);
        lab.enter(end, &mut ethtool);
        run(ethtool).well();
    }
}

/// What an announcement of a slot by somebody else looks like, by somebody who is not there.
fn forged(address: (u16, u8), mac: [u8; 6]) -> Vec<u8> {
    let mut frame = frames::head(BROADCAST, mac, 0x08, address.0, address.1, 1, 0);
    frame.extend([0, 16, 0x40, 0x19, 2, 0x10, 0, 0]);
    frame.resize(60, 0);
    frame
}

/// What another xshelf sends that wants to know whose a slot is.
fn guard_query(from: [u8; 6], slot: u8) -> Vec<u8> {
    let mut frame = frames::head(BROADCAST, from, 0, 7, slot, 1, GUARD_TAG);
    frame.extend([0, 0, 0, 0, 0, 0x10, 0, GUARD_TEXT.len() as u8]);
    frame.extend(GUARD_TEXT);
    frame
}

/// Whether the XDP program keeps this address out of a slot. If so, what another xshelf asks passes by the slot, and the
/// guard answers it with a claim, which has no buffers; else the slot answers, or drops it as it drops all else.
fn kept_out(wire: &Raw, from: [u8; 6], slot: u8) -> Option<bool> {
    wire.send(&guard_query(from, slot));
    let answer = |f: &[u8]| {
        frames::is_response(f) && frames::tag_of(f) == GUARD_TAG && f[..6] == from && f[18] == slot
    };
    Some(wire.receive(MOMENT, answer)?[24..26] == [0, 0])
}

/// One query, which the slot must answer: nothing is lost on this wire.
#[track_caller]
fn answered(wire: &Raw, from: [u8; 6], slot: u8, tag: u32) {
    wire.send(&frames::query(BROADCAST, from, 7, slot, tag));
    let answer = wire.receive(ANSWER, |f| frames::is_response(f) && frames::tag_of(f) == tag);
    let answer = answer.unwrap_or_else(|| panic!("{slot}: no answer to {tag}"));
    assert_eq!(answer[..6], from);
}

#[test]
fn masks_come_to_the_program_after_the_slot_and_go_before_it() {
    let lab = lab! { ..Cable::default() };
    let (a, b) = (lab.image("a", MIB), lab.image("b", MIB));
    let (host, stranger) = ([2, 0, 0, 0, 0, 0x55], [2, 0, 0, 0, 0, 0x66]);
    let fixed = format!("{},mask=02:00:00:00:00:55", slot("7.1", &b));
    let server = Server::start_command(&lab, serve(&lab, End::Target, &[slot("7.0", &a), fixed]));
    let wire = Raw::open(&lab, End::Initiator);
    // AoEr11, section 3.3: edit, with one directive.
    let edit = |directive: u8, mac: [u8; 6], tag: u32| {
        let mut frame = frames::head(BROADCAST, host, 0, 7, 0, 2, tag);
        frame.extend([0, 1, 0, 1, 0, directive]);
        frame.extend(mac);
        frame.resize(60, 0);
        wire.send(&frame);
        let answer =
            wire.receive(ANSWER, |f| frames::is_response(f) && frames::tag_of(f) == tag).expect("an answer");
        assert_eq!((answer[14], answer[26]), (0x18, 0), "accepted");
    };
    let (add, delete) = (1, 2);
    // That of the configuration is there from the beginning.
    let found = |slot| std::iter::repeat_with(|| kept_out(&wire, stranger, slot)).find_map(|found| found);
    assert_eq!(found(1), Some(true));
    answered(&wire, host, 1, 10);
    assert_eq!(found(0), Some(false));
    for round in [20, 30] {
        edit(add, host, round);
        while kept_out(&wire, stranger, 0) != Some(true) {}
        answered(&wire, host, 0, round + 1);
        // Once it is accepted, nothing may stop whom it lets in.
        edit(add, stranger, round + 2);
        answered(&wire, stranger, 0, round + 3);
        edit(delete, stranger, round + 4);
        while kept_out(&wire, stranger, 0) != Some(true) {}
        answered(&wire, host, 0, round + 5);
        // Nobody is in it: everybody may.
        edit(delete, host, round + 6);
        answered(&wire, stranger, 0, round + 7);
    }
    server.stop();
}

#[test]
fn the_second_refuses_its_only_slot() {
    let lab = lab! { ..Cable::default() };
    let (a, b) = (lab.image("a", MIB), lab.image("b", MIB));
    let mut first = Server::start_command(&lab, serve(&lab, End::Target, &[slot("7.0", &a)]));
    let second = run(serve(&lab, End::Initiator, &[slot("7.0", &b)]));
    assert_eq!(second.code(), Some(ENVIRONMENT), "{second}");
    assert_eq!(alarms(&second.errors, "7.0"), 1, "{second}");
    let holder = mac_of(&lab, End::Target);
    for word in [holder.as_str(), INITIATOR, "rivals = \"alarm\"", "no slot can be served", "7.0"] {
        assert!(second.errors.contains(word), "no {word} in it\n{second}");
    }
    // The first one goes on, and knows who it was.
    let intruder = mac_of(&lab, End::Initiator);
    first.until("the first is told", |log, _| alarms(log, "7.0") == 1 && log.contains(&intruder));
    assert_eq!(found(&lab, End::Initiator), ["7.0"]);
    first.stop();
    // With it gone, the second may.
    Server::start_command(&lab, serve(&lab, End::Initiator, &[slot("7.0", &b)])).stop();
}

#[test]
fn an_answer_after_the_decision_starts_over() {
    let lab = lab! { ..Cable::default() };
    let state = format!("--state-dir={}", lab.path("state").display());
    let arguments = [slot("7.0", &lab.image("a", MIB)), state];
    let raw = Raw::open(&lab, End::Initiator);
    // It is decided some milliseconds after the third question. An answer before that is a refusal, and one after the
    // first frame is served an alarm: what is between them has to be found.
    let tries = (21..60).step_by(2).cycle().take(200);
    let log = tries.map(Duration::from_millis).find_map(|wait| {
        let mut server = Server::spawn(&lab, serve(&lab, End::Target, &arguments));
        let asks = |f: &[u8]| !frames::is_response(f) && frames::tag_of(f) == GUARD_TAG;
        for _ in 0..3 {
            raw.receive(ANSWER, asks).expect("a question");
        }
        std::thread::sleep(wait);
        raw.send(&forged((7, 0), [2, 0, 0, 0, 0, 0x77]));
        let served = server.settle().is_none();
        while raw.receive(MOMENT, asks).is_some() {}
        if !served {
            return None;
        }
        // Nothing of the first attempt is in the way of the second: disk, state directory, program, sockets.
        assert_eq!(found(&lab, End::Initiator), ["7.0"]);
        Some(server.stop()).filter(|log| log.contains("asking once more"))
    });
    assert!(log.is_some(), "none of the answers came between decision and service");
    assert!(!lab.xdp_attached());
}

#[test]
fn the_second_serves_its_other_slots() {
    let lab = lab! { ..Cable::default() };
    let (a, b, c) = (lab.image("a", MIB), lab.image("b", MIB), lab.image("c", MIB));
    let first = Server::start_command(&lab, serve(&lab, End::Target, &[slot("7.0", &a)]));
    let arguments = [slot("7.0", &b), slot("7.1", &c), slot("8.0", &lab.image("d", MIB))];
    let mut second = Server::start_command(&lab, serve(&lab, End::Initiator, &arguments));
    assert_eq!(found(&lab, End::Target), ["7.1", "8.0"]);
    second.until("its status says so", |log, status| {
        alarms(log, "7.0") == 1 && status.contains("not served because another target has the address: 7.0;")
    });
    let log = second.stop();
    assert_eq!((alarms(&log, "7.1"), alarms(&log, "8.0")), (0, 0), "{log}");
    first.stop();
}

#[test]
fn the_override_serves_and_both_alarm() {
    let lab = lab! { ..Cable::default() };
    let (a, b) = (lab.image("a", MIB), lab.image("b", MIB));
    let mut first = Server::start_command(&lab, serve(&lab, End::Target, &[slot("7.0", &a)]));
    // Each hears what the other answers to the hosts, long before it asks.
    let alarm = format!("{},rivals=alarm", slot("7.0", &b));
    let mut second = Server::start_command(&lab, serve(&lab, End::Initiator, &[alarm]));
    assert_eq!(
        (found(&lab, End::Target), found(&lab, End::Initiator)),
        (vec!["7.0".into()], vec!["7.0".into()])
    );
    for server in [&mut first, &mut second] {
        server.until("an alarm", |log, status| {
            alarms(log, "7.0") > 0
                && log.contains("stop one of them at once")
                && status.starts_with("ALARM: another target answers for 7.0; ")
        });
    }
    first.stop();
    second.stop();
}

#[test]
fn a_rival_that_comes_later_is_told_once() {
    let lab = lab! { ..Cable::default() };
    keep_tags(&lab);
    let (a, b, c) = (lab.image("a", MIB), lab.image("b", MIB), lab.image("c", MIB));
    let arguments = [slot("7.0", &a), slot("7.1", &b), format!("7.5={},vlan=5", c.display())];
    let mut server = Server::start_command(&lab, serve(&lab, End::Target, &arguments));
    let raw = Raw::open(&lab, End::Initiator);
    let rival = [2, 0, 0, 0, 0, 0x77];
    for _ in 0..5 {
        raw.send(&forged((7, 0), rival));
        // Longer than the program is silent about a slot.
        std::thread::sleep(Duration::from_millis(150));
    }
    // On another VLAN it is another slot.
    raw.send(&forged((7, 5), rival));
    server.until("an alarm", |log, status| {
        alarms(log, "7.0") > 0 && status.starts_with("ALARM: another target answers for 7.0; ")
    });
    raw.send(&forged((7, 1), rival));
    let mut tagged = forged((7, 5), [2, 0, 0, 0, 0, 0x78]);
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    server.until("the next", |log, _| alarms(log, "7.1") > 0);
    raw.send(&tagged);
    server.until("the last", |log, _| alarms(log, "7.5") > 0);
    let log = server.stop();
    assert_eq!((alarms(&log, "7.0"), alarms(&log, "7.1"), alarms(&log, "7.5")), (1, 1, 1), "{log}");
    assert!(
        log.contains("02:00:00:00:00:77 on tgt0") && log.contains("02:00:00:00:00:78 on tgt0 (VLAN 5)"),
        "{log}"
    );
}

#[test]
fn a_slot_is_that_of_its_vlan() {
    let lab = lab! { ..Cable::default() };
    keep_tags(&lab);
    let (a, b) = (lab.image("a", MIB), lab.image("b", MIB));
    let on = |vlan: u16, path: &Path| format!("7.0={},vlan={vlan}", path.display());
    let first = Server::start_command(&lab, serve(&lab, End::Target, &[on(5, &a)]));
    let same = run(serve(&lab, End::Initiator, &[on(5, &b)]));
    assert_eq!(same.code(), Some(ENVIRONMENT), "{same}");
    assert!(same.errors.contains("on ini0 (VLAN 5) answers for this address"), "{same}");
    for vlan in [0, 6] {
        let log = Server::start_command(&lab, serve(&lab, End::Initiator, &[on(vlan, &b)])).stop();
        assert_eq!(alarms(&log, "7.0"), 0, "{log}");
    }
    first.stop();
}

#[test]
fn vblade_is_a_rival_like_any_other() {
    let lab = lab! { ..Cable::default() };
    let (a, b) = (lab.image("a", MIB), lab.image("b", MIB));
    let vblade = |slot: &str| {
        let mut command = Command::new("vblade");
        command.args(["7", slot, INITIATOR]).arg(&b).stdout(Stdio::null()).stderr(Stdio::null());
        lab.enter(End::Initiator, &mut command);
        command.spawn().map(Vblade)
    };
    let Ok(first) = vblade("0") else {
        println!("SKIPPED: there is no vblade here");
        return;
    };
    // It takes a moment until it answers; before that xshelf would rightly serve the slot.
    let raw = Raw::open(&lab, End::Target);
    while raw.receive(MOMENT, |f| frames::is_response(f) && f[18] == 0).is_none() {
        raw.send(&frames::query(BROADCAST, raw.mac, 7, 0, 1));
    }
    let refused = run(serve(&lab, End::Target, &[slot("7.0", &a)]));
    assert_eq!((refused.code(), alarms(&refused.errors, "7.0")), (Some(ENVIRONMENT), 1), "{refused}");
    drop(first);
    let mut server =
        Server::start_command(&lab, serve(&lab, End::Target, &[slot("7.0", &a), slot("7.1", &b)]));
    // It announces itself, in version 0 of the protocol.
    let second = vblade("1").unwrap();
    server.until("the announcement is noticed", |log, _| alarms(log, "7.1") == 1);
    drop(second);
    assert_eq!(alarms(&server.stop(), "7.0"), 0);
}

struct Vblade(Child);

impl Drop for Vblade {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn of_two_at_the_same_moment_one_serves_and_both_alarm() {
    let lab = lab! { ..Cable::default() };
    let (a, b) = (lab.image("a", MIB), lab.image("b", MIB));
    // The later, the nearer to the end of the first one's window, and then beyond it.
    for (round, later) in [0, 0, 0, 240, 500, 730, 770, 900].into_iter().enumerate() {
        let ends = if round % 2 == 0 { [End::Target, End::Initiator] } else { [End::Initiator, End::Target] };
        // Also with the lower address at the other end.
        for (end, low) in [(End::Target, round % 4 < 2), (End::Initiator, round % 4 >= 2)] {
            let (interface, mac) = if end == End::Target { (TARGET, "11") } else { (INITIATOR, "22") };
            let mac = format!("02:00:00:00:{}:{mac}", if low { "01" } else { "02" });
            lab.ip(end, &["link", "set", interface, "address", &mac]);
        }
        let command = |end| serve(&lab, end, &[slot("7.0", if end == End::Target { &a } else { &b })]);
        let mut first = Server::spawn(&lab, command(ends[0]));
        std::thread::sleep(Duration::from_millis(later));
        let mut second = Server::spawn(&lab, command(ends[1]));
        let codes = [first.settle(), second.settle()].map(|status| status.map(|s| s.code()));
        let (mut serves, refuses) = match codes {
            [None, Some(Some(ENVIRONMENT))] => (first, second),
            [Some(Some(ENVIRONMENT)), None] => (second, first),
            _ => panic!("{later} ms: {codes:?}\n{}\n{}", first.log(), second.log()),
        };
        let (_, log) = refuses.end();
        assert_eq!(alarms(&log, "7.0"), 1, "{log}");
        serves.until("the one that serves alarms, too", |log, _| alarms(log, "7.0") > 0);
        serves.stop();
    }
}

#[test]
fn two_ports_on_one_switch_are_no_rivals() {
    let lab = lab! { ..Cable::default() };
    lab.second_cable(9000);
    for arguments in [
        &["link", "add", "br0", "type", "bridge"][..],
        &["link", "set", "ini0", "master", "br0"],
        &["link", "set", "ini1", "master", "br0"],
        &["link", "set", "br0", "up"],
    ] {
        lab.ip(End::Initiator, arguments);
    }
    let image = lab.image("a", MIB);
    let mut command = lab.xshelf(End::Target, &["serve", "--interface", TARGET, "--interface", "tgt1"]);
    command.args([slot("7.0", &image), slot("7.1", &lab.image("b", MIB))]);
    let mut server = Server::start_command(&lab, command);
    let raw = Raw::open(&lab, End::Initiator);
    raw.send(&forged((7, 1), [2, 0, 0, 0, 0, 0x77]));
    // Once this one is told, its own announcements and questions would have been, too.
    server.until("a real one", |log, _| alarms(log, "7.1") > 0);
    let log = server.stop();
    assert_eq!((alarms(&log, "7.0"), alarms(&log, "7.1")), (0, 1), "{log}");
}

#[test]
fn masks_do_not_hide_one_from_the_other() {
    let lab = lab! { ..Cable::default() };
    let (a, b) = (lab.image("a", MIB), lab.image("b", MIB));
    // The same file on two machines: neither lists the other.
    let masked = |path: &Path| format!("{},mask=02:00:00:00:00:55", slot("7.0", path));
    let mut first = Server::start_command(&lab, serve(&lab, End::Target, &[masked(&a)]));
    let second = run(serve(&lab, End::Initiator, &[masked(&b)]));
    assert_eq!(second.code(), Some(ENVIRONMENT), "{second}");
    assert_eq!(alarms(&second.errors, "7.0"), 1, "{second}");
    first.until("the first is told", |log, _| alarms(log, "7.0") == 1);
    // Hosts hear nothing all the same. The host that is listed is answered after they would have been.
    let raw = Raw::open(&lab, End::Initiator);
    raw.send(&frames::query(BROADCAST, raw.mac, 7, 0, 1));
    let listed = [2, 0, 0, 0, 0, 0x55];
    let answer = loop {
        raw.send(&frames::query(BROADCAST, listed, 7, 0, 2));
        if let Some(answer) =
            raw.receive(MOMENT, |f| frames::is_response(f) && matches!(frames::tag_of(f), 1 | 2))
        {
            break answer;
        }
    };
    assert_eq!((frames::tag_of(&answer), &answer[..6]), (2, &listed[..]));
    first.stop();
}

#[test]
fn before_it_serves_only_another_guard_is_answered() {
    let lab = lab! { ..Cable::default() };
    let raw = Raw::open(&lab, End::Initiator);
    let asks = guard_query(raw.mac, 0);
    let image = lab.image("a", MIB);
    // A machine that is busy enough may let this test sleep through the time in which it asks.
    let seen = (0..10).any(|_| {
        while raw.receive(MOMENT, |_| true).is_some() {}
        let mut server = Server::spawn(&lab, serve(&lab, End::Target, &[slot("7.0", &image)]));
        let (mut asked, mut decided, mut served, mut host) = (false, false, false, false);
        while !(served && host) {
            raw.send(&frames::query(BROADCAST, raw.mac, 7, 0, 1));
            raw.send(&asks);
            while let Some(answer) = raw.receive(MOMENT, |f| frames::is_response(f) && frames::tag_of(f) != 0)
            {
                assert_eq!(answer[..6], raw.mac, "to nobody else");
                let buffers = u16::from_be_bytes([answer[24], answer[25]]);
                if frames::tag_of(&answer) == 1 {
                    assert!(buffers >= 2, "a host was answered with a claim");
                    host = true;
                } else if buffers >= 2 {
                    served = true;
                } else if answer[32..].starts_with(b"xshelf-guard/1 holds ") {
                    decided = true;
                } else {
                    assert!(answer[32..].starts_with(b"xshelf-guard/1 asks "), "{answer:02x?}");
                    assert!(!decided && !served && !host, "it asks no more once it has decided");
                    asked = true;
                }
            }
        }
        assert_eq!(server.settle(), None);
        let log = server.stop();
        assert_eq!(alarms(&log, "7.0"), 1, "{log}");
        asked
    });
    assert!(seen, "it never said that it asks");
}
