//! The protocol, case by case, against the binary: the same files as against the pure core (`tests/conformance`).
//!
//! One process serves all cases that start from the same configuration; between two of them the slot is brought back
//! to what a fresh one is, over the wire and behind its back. A second slot, `MARK`, tells when silence is meant: it is
//! asked after the request, and its answer comes after whatever the request was answered with at once.

use crate::case::{self, Case, Pre, SECTORS, Target, Verdict, is_announcement, play, sector};
use crate::frames::{self, Raw};
use crate::lab::{Cable, End, Lab, Server, TARGET};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const PORT: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 2];
const MARK: (u16, u8) = (9, 9);
/// How long an answer may take before it counts as missing: a guard, far beyond what it takes.
const ANSWER: Duration = Duration::from_secs(20);
/// How long nothing may come behind the mark, which tells silence already.
const NOTHING: Duration = Duration::from_millis(2);
/// Wildcards that a host may send at once, and how often one more (the shelf takes 64 and 16 a second).
const WILDCARDS: usize = 48;
const ANOTHER: Duration = Duration::from_millis(65);

/// A shelf with one configuration.
struct Live {
    lab: Lab,
    pre: Pre,
    wire: Raw,
    server: Option<Server>,
    slots: Vec<(u8, PathBuf)>,
    config: PathBuf,
    spoken: Vec<Vec<u8>>,
    marks: u32,
    wildcards: usize,
}

/// What the configuration of a case is, as far as the shelf is told.
fn configuration(pre: &Pre) -> Pre {
    // Where TRIM can be served it is.
    Pre { trim: None, mtu: Some(pre.mtu.unwrap_or(1500)), ..pre.clone() }
}

impl Live {
    fn new(lab: Lab, pre: &Pre) -> Self {
        lab.as_in_the_cases();
        let sectors = pre.sectors.unwrap_or(SECTORS);
        let numbers = pre.slots.clone().unwrap_or_else(|| vec![3]);
        let slots: Vec<_> =
            numbers.iter().map(|n| (*n, lab.image(&format!("slot{n}"), sectors * 512))).collect();
        let config = lab.path("xshelf.toml");
        let mut text = format!("state-dir = \"{}\"\n", lab.path("state").display());
        let _ = writeln!(text, "[[interface]]\nname = \"{TARGET}\"\n[workers]\ncount = 1");
        let mark = lab.image("mark", 512);
        let _ =
            writeln!(text, "[[slot]]\naddress = \"{}.{}\"\npath = \"{}\"", MARK.0, MARK.1, mark.display());
        for (number, path) in &slots {
            let _ = writeln!(text, "[[slot]]\naddress = \"7.{number}\"\npath = \"{}\"", path.display());
            let quoted = [
                ("serial", &pre.serial),
                ("model", &pre.model),
                ("firmware", &pre.firmware),
                ("wwn", &pre.wwn),
                ("reserved-answer", &pre.reserved_answer),
            ];
            for (key, value) in quoted {
                let _ = value.as_ref().map(|value| writeln!(text, "{key} = \"{value}\""));
            }
            let flags = [("read-only", pre.read_only), ("write-back", pre.write_cache)];
            flags.iter().filter(|(_, on)| *on).for_each(|(key, _)| _ = writeln!(text, "{key} = true"));
            if pre.vlan != 0 {
                let _ = writeln!(text, "vlan = {}", pre.vlan);
            }
            if !pre.allow.is_empty() {
                let _ = writeln!(text, "allow = {:?}", pre.allow);
            }
        }
        fs::write(&config, text).unwrap();
        let wire = Raw::open(&lab, End::Initiator);
        let mut live = Self {
            lab,
            pre: pre.clone(),
            wire,
            server: None,
            slots,
            config,
            spoken: Vec::new(),
            marks: 0,
            wildcards: 0,
        };
        live.fill();
        live.start();
        live
    }

    /// Gives the disks the content of fresh slots.
    fn fill(&self) {
        for (_, path) in &self.slots {
            let sectors = self.pre.sectors.unwrap_or(SECTORS).min(SECTORS);
            let content: Vec<u8> = (0..sectors).flat_map(sector).collect();
            OpenOptions::new().write(true).open(path).unwrap().write_all_at(&content, 0).unwrap();
        }
    }

    fn start(&mut self) {
        let config = self.config.to_str().unwrap();
        let command = self.lab.xshelf(End::Target, &["serve", "--config", config]);
        self.server = Some(Server::start_command(&self.lab, command));
        // Once it answers, it has announced itself.
        let came = self.mark();
        self.spoken.extend(came);
        self.wildcards = 0;
    }

    /// Takes what came until the mark answers; what it is for is in the frames returned.
    fn mark(&mut self) -> Vec<Vec<u8>> {
        self.marks += 1;
        let tag = 0x4d00_0000 | self.marks;
        self.wire.send(&frames::query(PORT, HOST, MARK.0, MARK.1, tag));
        let until = Instant::now() + ANSWER;
        let mut came = Vec::new();
        loop {
            let Some(frame) = self.wire.next(until) else {
                let log = self.server.as_ref().map(Server::log).unwrap_or_default();
                panic!("the shelf does not answer any more\n{log}");
            };
            match address(&frame) {
                Some(MARK) if frames::tag_of(&frame) == tag => return came,
                Some(MARK) | None => {}
                Some(_) => came.push(frame),
            }
        }
    }

    /// Puts aside what the target says on its own.
    fn answers(&mut self, frames: Vec<Vec<u8>>, request: &[u8]) -> Vec<Vec<u8>> {
        let (spoken, answers) = frames.into_iter().partition(|frame| is_announcement(frame, Some(request)));
        self.spoken.extend::<Vec<_>>(spoken);
        answers
    }

    /// A request of our own, to bring the slot back; it has to be answered.
    fn request(&mut self, from: [u8; 6], slot: u8, command: u8, argument: &[u8]) -> Vec<u8> {
        let mut frame = frames::head(PORT, from, 0, 7, slot, command, 0x5e70_0000);
        frame.extend(argument);
        frame.resize(frame.len().max(60), 0);
        if self.pre.vlan != 0 {
            let [high, low] = self.pre.vlan.to_be_bytes();
            frame.splice(12..12, [0x81, 0, high, low]);
        }
        let mut answers = self.ask(&frame, 1, false);
        assert!(!answers.is_empty(), "{} is not answered", case::hex(&frame));
        let mut answer = answers.remove(0);
        if self.pre.vlan != 0 {
            answer.drain(12..16);
        }
        assert_eq!(answer[14], 0x18, "{} to {}", case::hex(&answer), case::hex(&frame));
        answer
    }

    /// Makes the slots fresh again after a case.
    fn renew(&mut self, case: &Case) {
        let mut touched = [false; 4];
        let mut hosts = vec![HOST];
        for frame in case.requests() {
            let at = if frame.get(12..14) == Some(&[0x81, 0]) { 4 } else { 0 };
            let Some(&command) = frame.get(19 + at) else { continue };
            if let Some(touched) = touched.get_mut(usize::from(command)) {
                *touched = true;
            }
            let listed = frame.get(28 + at..).filter(|_| command == 2).unwrap_or_default();
            hosts.extend(listed.chunks_exact(8).filter_map(|entry| <[u8; 6]>::try_from(&entry[2..]).ok()));
            hosts.push(frame[6..12].try_into().unwrap());
        }
        hosts.dedup();
        for slot in self.slots.iter().map(|(number, _)| *number).collect::<Vec<_>>() {
            if touched[2] {
                self.empty_mask(slot, &hosts);
            }
            if touched[1] {
                self.request(HOST, slot, 1, &[0, 0, 0, 0, 0, 4, 0, 0]);
            }
            if touched[3] {
                self.request(HOST, slot, 3, &[2, 0]);
            }
            if touched[0] {
                // SMART is on in a fresh slot.
                self.request(HOST, slot, 0, &[0, 0xd8, 0, 0xb0, 0, 0x4f, 0xc2, 0, 0, 0, 0, 0]);
            }
        }
        if touched[0] {
            self.fill();
        }
        self.spoken.clear();
    }

    /// Empties the mask list of a slot, asking as one of the hosts that may be on it.
    fn empty_mask(&mut self, slot: u8, hosts: &[[u8; 6]]) {
        let mut ask = frames::head(PORT, HOST, 0, 7, slot, 2, 0x5e70_0001);
        ask.resize(60, 0);
        if self.pre.vlan != 0 {
            let [high, low] = self.pre.vlan.to_be_bytes();
            ask.splice(12..12, [0x81, 0, high, low]);
        }
        let listed = hosts.iter().find(|host| {
            ask[6..12].copy_from_slice(*host);
            self.wire.send(&ask);
            !self.mark().is_empty()
        });
        let me = *listed.unwrap_or_else(|| panic!("nobody may talk to the slot any more"));
        loop {
            let answer = self.request(me, slot, 2, &[0; 4]);
            let list: Vec<[u8; 6]> =
                answer[28..].chunks_exact(8).map(|e| e[2..].try_into().unwrap()).collect();
            let list = &list[..usize::from(answer[27])];
            if list.is_empty() {
                return;
            }
            // Oneself last, or the rest would stay.
            let others: Vec<_> = list.iter().filter(|mac| **mac != me).take(180).collect();
            let off = if others.is_empty() { vec![&me] } else { others };
            let mut argument = vec![0, 1, 0, off.len() as u8];
            off.iter().for_each(|mac| argument.extend([0, 2].iter().chain(mac.iter())));
            self.request(me, slot, 2, &argument);
        }
    }

    /// What it has said since it started, with the announcements of its slots.
    fn announced(&mut self) -> Vec<Vec<u8>> {
        let slots = self.slots.len();
        let until = Instant::now() + ANSWER;
        while self.spoken.len() < slots {
            let Some(next) = self.wire.next(until) else { break };
            self.spoken
                .extend(Some(next).filter(|next| address(next).is_some_and(|address| address != MARK)));
        }
        std::mem::take(&mut self.spoken)
    }

    /// Whether the slot says it serves TRIM (IDENTIFY, word 169).
    fn trims(&mut self) -> bool {
        let slot = self.slots[0].0;
        self.request(HOST, slot, 0, &[0, 0, 1, 0xec, 0, 0, 0, 0, 0, 0, 0, 0])[36 + 2 * 169] & 1 != 0
    }
}

/// Shelf and slot of a response.
fn address(frame: &[u8]) -> Option<(u16, u8)> {
    let at = if frame.get(12..14)? == [0x81, 0] { 4 } else { 0 };
    let aoe = frame.get(12 + at..14 + at)? == [0x88, 0xa2] && frame.get(14 + at)? & 0x08 != 0;
    let shelf = u16::from_be_bytes([*frame.get(16 + at)?, *frame.get(17 + at)?]);
    (aoe && frame.len() >= 24 + at).then_some((shelf, *frame.get(18 + at)?))
}

impl Target for Live {
    fn ask(&mut self, frame: &[u8], wanted: usize, or_none: bool) -> Vec<Vec<u8>> {
        if frame.len() > 18 && (frame[16..18] == [0xff, 0xff] || frame[18] == 0xff) {
            self.wildcards += 1;
            if self.wildcards > WILDCARDS {
                std::thread::sleep(ANOTHER);
            }
        }
        self.wire.send(frame);
        let came = self.mark();
        let mut answers = self.answers(came, frame);
        // What the disk does, or the keeper of the state, may end after the mark has answered.
        let grace = match wanted {
            0 => NOTHING,
            // Only what the disk does can come after the mark.
            _ if or_none && frame[19] != 0 => NOTHING,
            _ => ANSWER,
        };
        let until = Instant::now() + grace;
        while wanted == 0 || answers.len() < wanted {
            let Some(next) = self.wire.next(until) else { break };
            if address(&next).is_some_and(|address| address != MARK) {
                let next = self.answers(vec![next], frame);
                answers.extend(next);
            }
        }
        answers
    }

    fn spoken(&mut self, wanted: &dyn Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let until = Instant::now() + ANSWER;
        while !self.spoken.iter().any(|frame| wanted(frame)) {
            let Some(next) = self.wire.next(until) else { break };
            if address(&next).is_some_and(|address| address != MARK) {
                self.spoken.push(next);
            }
        }
        std::mem::take(&mut self.spoken)
    }

    fn restart(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
        self.start();
    }
}

#[derive(Default)]
struct Tally {
    same: usize,
    alternative: Vec<String>,
    deviating: Vec<String>,
    skipped: Vec<String>,
}

fn play_group(lab: Lab, pre: &Pre, cases: &[&Case], tally: &Mutex<Tally>) {
    let mut live = Live::new(lab, pre);
    let (spoken_of, others): (Vec<&Case>, Vec<&Case>) =
        cases.iter().partition(|case| case.request_hex.is_none());
    let trims = live.trims();
    let fresh = live.announced();
    for case in spoken_of.into_iter().chain(others) {
        live.spoken = if case.request_hex.is_none() { fresh.clone() } else { Vec::new() };
        if case.pre.trim == Some(true) && !trims {
            let mut tally = tally.lock().unwrap();
            tally.skipped.push(format!("{}: the file system here does not free parts of files", case.id));
            continue;
        }
        let verdict = play(case, &mut live);
        if case.request_hex.is_some() {
            live.renew(case);
        }
        let mut tally = tally.lock().unwrap();
        match verdict {
            Verdict::Same => tally.same += 1,
            Verdict::Alternative => tally.alternative.push(case.id.clone()),
            Verdict::Deviates(why) => {
                tally.deviating.push(format!("{}: {why}", case.name()));
                if tally.deviating.len() > 20 {
                    break;
                }
            }
        }
    }
    if let Some(server) = live.server.take() {
        server.stop();
    }
}

#[test]
fn every_case_goes_as_against_the_core() {
    let cases: Vec<Case> = case::all().into_iter().filter(|case| case.runs.is_none()).collect();
    let mut groups: HashMap<Pre, Vec<&Case>> = HashMap::new();
    for case in &cases {
        groups.entry(configuration(&case.pre)).or_default().push(case);
    }
    let configurations = groups.len();
    // Several processes share the large ones: they run side by side, and each takes as many wildcards at once.
    let mut groups: Vec<(&Pre, &[&Case])> =
        groups.iter().flat_map(|(pre, cases)| cases.chunks(120).map(move |part| (pre, part))).collect();
    groups.sort_by_key(|(_, cases)| std::cmp::Reverse(cases.len()));
    let (tally, next) = (Mutex::new(Tally::default()), AtomicUsize::new(0));
    let Some(first) = Lab::new(Cable { mtu: 1500, queues: 1 }) else { return };
    drop(first);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((pre, cases)) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mtu = pre.mtu.unwrap_or(1500);
                    let Some(lab) = Lab::new(Cable { mtu, queues: 1 }) else { return };
                    play_group(lab, pre, cases, &tally);
                }
            });
        }
    });
    let Tally { same, alternative, deviating, skipped } = tally.into_inner().unwrap();
    println!(
        "same={same} alternative={} deviates={} skipped={} in {} configurations",
        alternative.len(),
        deviating.len(),
        skipped.len(),
        configurations
    );
    println!("another answer that is as good: {}", alternative.join(" "));
    for why in &skipped {
        println!("SKIPPED: {why}");
    }
    assert!(deviating.is_empty(), "{} cases deviate:\n  {}", deviating.len(), deviating.join("\n  "));
    assert_eq!(same + alternative.len() + skipped.len(), cases.len());
}
