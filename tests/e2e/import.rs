//! Moving from vblade: what its command lines serve, xshelf serves from what `import` makes of them.
//!
//! Both are asked the same by raw frames; the answers are compared field by field, as far as an initiator looks at
//! them: size, buffer count, data, and who is answered at all.

use crate::frames::{BROADCAST, Raw, head, is_response, query, tag_of};
use crate::lab::{Cable, End, INITIATOR, Server, TARGET, run};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long an answer may take before the question is repeated.
const MOMENT: Duration = Duration::from_millis(300);
/// How often: a guard against hangs.
const TIMES: u32 = 200;
const SECTOR: usize = 512;

struct Vblade(Child);

impl Drop for Vblade {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a host learns of a slot.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    sectors: u64,
    buffers: u16,
    first: Vec<u8>,
    last: Vec<u8>,
    /// Whether a stranger is answered.
    strangers: bool,
    /// Whether the answer to a write is an error: of AoE or of ATA.
    refuses_writes: bool,
}

fn ata(raw: &Raw, slot: u8, flags: u8, command: u8, lba: u64, data: &[u8], tag: u32) -> Vec<u8> {
    let mut frame = head(BROADCAST, raw.mac, 0, 7, slot, 0, tag);
    frame.extend([flags, 0, 1, command]);
    frame.extend(&lba.to_le_bytes()[..6]);
    frame.extend([0, 0]);
    frame.extend(data);
    frame
}

/// Asks until there is an answer.
#[track_caller]
fn ask(raw: &Raw, frame: &[u8]) -> Vec<u8> {
    for _ in 0..TIMES {
        raw.send(frame);
        if let Some(answer) = raw.receive(MOMENT, |f| is_response(f) && tag_of(f) == tag_of(frame)) {
            return answer;
        }
    }
    panic!("no answer");
}

/// Whether a host is answered that nobody knows. It asks before us, so its answer is there before ours.
#[track_caller]
fn answers_strangers(raw: &Raw, slot: u8) -> bool {
    for _ in 0..TIMES {
        raw.send(&query(BROADCAST, [2, 0, 0, 0, 0, 0x99], 7, slot, 5));
        raw.send(&query(BROADCAST, raw.mac, 7, slot, 6));
        if let Some(answer) = raw.receive(MOMENT, |f| is_response(f) && [5, 6].contains(&tag_of(f))) {
            return tag_of(&answer) == 5;
        }
    }
    panic!("no answer");
}

#[track_caller]
fn look(raw: &Raw, slot: u8) -> Seen {
    let config = ask(raw, &query(BROADCAST, raw.mac, 7, slot, 1));
    let page = &ask(raw, &ata(raw, slot, 0, 0xec, 0, &[], 2))[36..];
    let sectors = u64::from_le_bytes(page[200..208].try_into().unwrap());
    let read = |lba, tag| ask(raw, &ata(raw, slot, 0x40, 0x24, lba, &[], tag))[36..][..SECTOR].to_vec();
    let (first, last) = (read(0, 3), read(sectors - 1, 4));
    let strangers = answers_strangers(raw, slot);
    // What is there is written again, so that both find the same.
    let written = ask(raw, &ata(raw, slot, 0x41, 0x34, 0, &first, 7));
    Seen {
        sectors,
        buffers: u16::from_be_bytes([config[24], config[25]]),
        strangers,
        refuses_writes: written[14] & 0x04 != 0 || written[27] & 0x01 != 0,
        first,
        last,
    }
}

#[test]
fn what_vblade_served_is_served_from_its_command_lines() {
    let lab = lab! { ..Cable::default() };
    if Command::new("vblade").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        println!("SKIPPED: there is no vblade here");
        return;
    }
    let image = |name: &str, sectors: u32| {
        let path = lab.path(name);
        let bytes: Vec<u8> =
            (0..sectors).flat_map(|n| n.to_be_bytes().into_iter().cycle().take(SECTOR)).collect();
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let (a, b) = (image("a", 64), image("b", 16));
    let raw = Raw::open(&lab, End::Initiator);
    let mac: Vec<String> = raw.mac.iter().map(|b| format!("{b:02X}")).collect();
    let mac = mac.concat();
    // Two parts of one file; the rest of options on another.
    let lines = [
        format!("vblade -s -o 8 -l 16 7 0 {TARGET} {a}"),
        format!("vblade -b 24 -o 0x18 7 1 {TARGET} {a}"),
        format!("vblade -rd -m 020000000077,{mac} 7 2 {TARGET} {b}"),
    ];
    let vblades: Vec<Vblade> = lines
        .iter()
        .map(|line| {
            let mut words = line.split(' ');
            let mut command = Command::new(words.next().unwrap());
            command.args(words).stdout(Stdio::null()).stderr(Stdio::null());
            lab.enter(End::Target, &mut command);
            Vblade(command.spawn().unwrap())
        })
        .collect();
    let mut want: Vec<Seen> = (0..3).map(|slot| look(&raw, slot)).collect();
    drop(vblades);
    let sectors: Vec<u64> = want.iter().map(|seen| seen.sectors).collect();
    assert_eq!(sectors, [16, 40, 16], "the test asks vblade for what it means to");
    assert_eq!(want[0].first[..4], 8u32.to_be_bytes());
    assert_eq!(want[1].last[..4], 63u32.to_be_bytes());
    let strangers: Vec<bool> = want.iter().map(|seen| seen.strangers).collect();
    assert_eq!(strangers, [true, true, false]);

    let (script, toml) = (lab.path("rc.local"), lab.path("xshelf.toml"));
    fs::write(&script, lines.join("\n")).unwrap();
    let arguments = ["import".as_ref(), script.as_os_str(), "-o".as_ref(), toml.as_os_str()];
    let import = run(lab.xshelf(End::Target, &arguments)).well();
    assert!(import.errors.ends_with("3 slots, 0 warnings, 2 notes\n"), "{import}");
    let serve = lab.xshelf(End::Target, &["serve".as_ref(), "--config".as_ref(), toml.as_os_str()]);
    let server = Server::start_command(&lab, serve);
    // vblade advertises 16 where it is not told.
    for at in [0, 2] {
        want[at].buffers = 64;
    }
    for (slot, want) in want.iter().enumerate() {
        assert_eq!(&look(&raw, slot as u8), want, "7.{slot}, asked on {INITIATOR}");
    }
    server.stop();
}
