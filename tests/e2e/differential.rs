//! The shelf and Debian's vblade, the target that most initiators were made with: the same requests to both, and every
//! difference between their answers has to be one that is known, with its reason (`differences.rs`).
//!
//! Requests are generated from a seed: all commands, boundaries, counts, lengths, flags, wildcards, versions, short and
//! long frames. `XSHELF_DIFFERENTIAL=n` plays n of them, `XSHELF_SEED=s` others.

use crate::case::{self, sector};
use crate::differences::{ENTRIES, Pair, Request};
use crate::frames::{self, Raw};
use crate::lab::{Cable, End, Lab, Server, TARGET};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub const PORT: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const HOST: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OTHERS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0xaa], [2, 0, 0, 0, 0, 0xbb]];
pub const SECTORS: u64 = 2048;
/// A slot of the shelf's own that answers after everything before it.
const MARK: (u16, u8) = (9, 9);
/// How long an answer may take before it counts as missing: a guard, far beyond what it takes.
const ANSWER: Duration = Duration::from_secs(20);
/// Requests of a run, unless told otherwise, at MTU 1500; half of that at MTU 9000.
const REQUESTS: usize = 2000;
/// After so many requests both start from the same state again, and their disks are compared.
const ROUND: usize = 100;

/// Numbers that a seed decides (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.roll() % n as u64) as usize
    }

    fn percent(&mut self, n: usize) -> bool {
        self.below(100) < n
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.roll() as u8).collect()
    }
}

/// One target, in namespaces of its own.
struct Side {
    lab: Lab,
    wire: Raw,
    image: PathBuf,
    marks: u32,
}

impl Side {
    fn new(mtu: u32) -> Option<Self> {
        let lab = Lab::new(Cable { mtu, queues: 1 })?;
        lab.as_in_the_cases();
        let image = lab.image("disk", SECTORS * 512);
        let wire = Raw::open(&lab, End::Initiator);
        let side = Self { lab, wire, image, marks: 0 };
        side.fill();
        Some(side)
    }

    fn fill(&self) {
        static CONTENT: OnceLock<Vec<u8>> = OnceLock::new();
        let content = CONTENT.get_or_init(|| (0..SECTORS).flat_map(sector).collect());
        OpenOptions::new().write(true).open(&self.image).unwrap().write_all_at(content, 0).unwrap();
    }

    /// Takes what the slot answered until the mark comes, which is asked for here; `None` when it does not come in time,
    /// or nobody is alive to answer.
    fn mark(
        &mut self,
        (shelf, slot): (u16, u8),
        patience: Duration,
        mut alive: impl FnMut() -> bool,
    ) -> Option<Vec<Vec<u8>>> {
        self.marks += 1;
        let tag = 0x4d00_0000 | self.marks;
        self.wire.send(&frames::query(PORT, HOST, shelf, slot, tag));
        let until = Instant::now() + patience;
        let mut came = Vec::new();
        while Instant::now() < until && alive() {
            let Some(frame) = self.wire.next(until.min(Instant::now() + Duration::from_millis(50))) else {
                continue;
            };
            if is_answer(&frame) && frames::tag_of(&frame) == tag {
                return Some(came);
            }
            came.extend(Some(frame).filter(|frame| is_answer(frame) && frame[16..19] != [0, 9, 9]));
        }
        None
    }
}

fn is_answer(frame: &[u8]) -> bool {
    frame.len() >= 24 && frame[12..14] == [0x88, 0xa2] && frames::is_response(frame)
}

fn is_spoken(frame: &[u8]) -> bool {
    frame[19] == 1 && frames::tag_of(frame) == 0
}

struct Shelf {
    side: Side,
    server: Server,
}

impl Shelf {
    fn start(mut side: Side) -> Self {
        let config = side.lab.path("xshelf.toml");
        let mark = side.lab.image("mark", 512);
        let mut text = format!("state-dir = \"{}\"\n", side.lab.path("state").display());
        let _ = writeln!(text, "[[interface]]\nname = \"{TARGET}\"\n[workers]\ncount = 1");
        for (address, path) in [("7.3", &side.image), ("9.9", &mark)] {
            let _ = writeln!(text, "[[slot]]\naddress = \"{address}\"\npath = \"{}\"", path.display());
        }
        fs::write(&config, text).unwrap();
        let command = side.lab.xshelf(End::Target, &["serve", "--config", config.to_str().unwrap()]);
        let server = Server::start_command(&side.lab, command);
        side.mark(MARK, ANSWER, || true).unwrap();
        Self { side, server }
    }

    /// What it answers. `patient`: what it does may take longer than the mark.
    fn ask(&mut self, frame: &[u8], patient: bool) -> Vec<Vec<u8>> {
        self.side.wire.send(frame);
        let mut came = match self.side.mark(MARK, ANSWER, || true) {
            Some(came) => came,
            None => panic!("the shelf does not answer after {}\n{}", case::hex(frame), self.server.log()),
        };
        came.retain(|frame| !is_spoken(frame));
        let until = Instant::now() + if patient { ANSWER } else { Duration::from_millis(1) };
        while !patient || came.is_empty() {
            let Some(next) = self.side.wire.next(until) else { break };
            came.extend(
                Some(next).filter(|next| is_answer(next) && !is_spoken(next) && next[16..19] != [0, 9, 9]),
            );
        }
        came
    }
}

struct Vblade {
    side: Side,
    child: Child,
    /// What it said when it came.
    announcement: Vec<u8>,
}

impl Vblade {
    fn start(side: Side) -> Self {
        let (child, announcement) = Self::run(&side);
        Self { side, child, announcement }
    }

    fn run(side: &Side) -> (Child, Vec<u8>) {
        let mut command = Command::new("vblade");
        command.args(["7", "3", TARGET]).arg(&side.image).stdout(Stdio::null()).stderr(Stdio::null());
        side.lab.enter(End::Target, &mut command);
        let child = command.spawn().unwrap();
        // It announces itself first of all; what came before is of the one before.
        let announcement =
            side.wire.receive(ANSWER, |frame| frame[..6] == frames::BROADCAST && is_answer(frame));
        (child, announcement.unwrap_or_else(|| panic!("vblade does not start")))
    }

    /// Another one, with nothing set.
    fn restart(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        (self.child, self.announcement) = Self::run(&self.side);
    }

    /// What it answers; `None` when it ended, or answers nobody any more.
    fn ask(&mut self, frame: &[u8], patience: Duration) -> Option<Vec<Vec<u8>>> {
        self.side.wire.send(frame);
        // It works one request after the other, so what has not come before the mark does not come.
        let child = &mut self.child;
        self.side.mark((7, 3), patience, || matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Vblade {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const READS: [u8; 5] = [0x20, 0x24, 0x20, 0x24, 0x25];
const WRITES: [u8; 5] = [0x30, 0x34, 0x30, 0x34, 0xca];
const REST: [u8; 30] = [
    0xec, 0xec, 0xec, 0xec, 0xe7, 0xe7, 0xea, 0xea, 0xe5, 0xe5, 0xb0, 0x40, 0x42, 0xc4, 0x29, 0xc5, 0x39,
    0x3d, 0xef, 0x06, 0x90, 0x91, 0xc6, 0xe0, 0x27, 0xf8, 0x2f, 0xf5, 0x99, 0x00,
];

/// Makes one request.
fn generate(dice: &mut Dice, most: u8) -> Vec<u8> {
    let to = match dice.below(100) {
        0..86 => PORT,
        86..96 => frames::BROADCAST,
        96..98 => OTHERS[0],
        _ => [1, 0, 0x5e, 0, 0, 1],
    };
    let wild = dice.percent(12);
    let from = match dice.below(100) {
        // The shelf counts wildcards for each host, and takes only so many.
        _ if wild => [2, 0, 0, 1, dice.roll() as u8, dice.roll() as u8],
        0..75 => HOST,
        75..95 => dice.of(&OTHERS),
        95..98 => [2, 0, 0, 2, 0, dice.roll() as u8],
        98 => [0xff; 6],
        _ => [1, 0, 0x5e, 0, 0, 7],
    };
    let (shelf, slot) = match dice.below(3) {
        0 if wild => (0xffff, 0xff),
        1 if wild => (7, 0xff),
        _ if wild => (0xffff, 3),
        _ if dice.percent(4) => (dice.of(&[7, 8, 0x0703]), dice.of(&[2, 4])),
        _ => (7, 3),
    };
    let version = if dice.percent(4) { dice.roll() as u8 & 0xf0 } else { 0x10 };
    let flags = if dice.percent(6) { dice.roll() as u8 & 0x0f } else { 0 };
    let command = match dice.below(100) {
        0..62 => 0,
        62..80 => 1,
        80..86 => 2,
        86..95 => 3,
        _ => dice.of(&[4, 5, 0x42, 0xf0, 0xf3, 0xff]),
    };
    let mut frame = frames::head(to, from, 0, shelf, slot, command, dice.roll() as u32 | 1);
    frame[14] = version | flags;
    frame[15] = if dice.percent(4) { dice.roll() as u8 } else { 0 };
    match command {
        0 => ata(dice, most, &mut frame),
        1 => config(dice, &mut frame),
        2 => mask(dice, &mut frame),
        3 => reserve(dice, &mut frame),
        _ => frame.extend(dice.bytes(36)),
    }
    if dice.percent(4) {
        let longest = frame.len().min(64);
        frame.truncate(14 + dice.below(longest - 13));
    } else if dice.percent(5) {
        let n = dice.below(200);
        frame.extend(dice.bytes(n));
    } else if dice.percent(60) {
        frame.resize(frame.len().max(60), 0);
    }
    let longest = if most > 2 { 9014 } else { 1514 };
    frame.truncate(longest);
    frame
}

fn ata(dice: &mut Dice, most: u8, frame: &mut Vec<u8>) {
    let opcode = match dice.below(10) {
        0..3 => dice.of(&READS),
        3..6 => dice.of(&WRITES),
        6..9 => dice.of(&REST),
        _ => dice.roll() as u8,
    };
    let takes_data = WRITES.contains(&opcode) || [0xc5, 0x35, 0x39, 0x3d].contains(&opcode);
    let wide = [0x24, 0x34, 0x25, 0x35, 0x29, 0x39, 0x3d, 0x42, 0xea].contains(&opcode);
    let mut aflags = if wide { 0x40 } else { 0 } | u8::from(takes_data);
    if dice.percent(12) {
        aflags = dice.roll() as u8;
    }
    let count = match dice.below(20) {
        0 => 0,
        1 => most + 1,
        2 => 255,
        3 => dice.roll() as u8,
        4..7 => most,
        _ => 1,
    };
    let lba = match dice.below(12) {
        0 => SECTORS,
        1 => SECTORS - 1,
        2 => SECTORS - 2,
        3 => dice.of(&[SECTORS + 1, (1 << 28) - 1, 1 << 28, (1 << 48) - 1, (1 << 48) - 2]),
        4 => 0,
        _ => dice.roll() % SECTORS,
    };
    let lba = if wide { lba } else { lba | dice.of(&[0, 0xe << 28, 0x1234 << 32]) };
    let feature = if opcode == 0xb0 {
        dice.of(&[0xd0, 0xd4, 0xd5, 0xda, 0])
    } else {
        dice.of(&[0, 0, 0, 1, 2, 3, 0xaa])
    };
    let lba = if opcode == 0xb0 && dice.percent(80) { 0x00c2_4f00 } else { lba };
    frame.extend([aflags, feature, count, opcode]);
    frame.extend(&lba.to_le_bytes()[..6]);
    frame.extend(if dice.percent(5) { [0x5a, 0xa5] } else { [0, 0] });
    let bytes = 512 * usize::from(count.min(most));
    if opcode == 0x06 {
        // One range, inside the disk or not.
        frame.extend(&lba.to_le_bytes()[..6]);
        frame.extend([dice.roll() as u8 & 15, 0]);
        frame.resize(36 + 512, 0);
    } else if takes_data {
        let n = match dice.below(20) {
            0 => bytes.saturating_sub(1),
            1 => 0,
            2 => bytes + 77,
            _ => bytes,
        };
        frame.extend(dice.bytes(n));
    } else if dice.percent(5) {
        let n = dice.below(1400);
        frame.extend(dice.bytes(n));
    }
}

fn config(dice: &mut Dice, frame: &mut Vec<u8>) {
    let long: Vec<u8> = (0..1025).map(|i| (i % 250) as u8).collect();
    let texts: [&[u8]; 8] = [
        b"",
        b"a",
        b"host-a",
        b"host-b",
        b"host-a",
        b"host",
        &long[..1024],
        if dice.percent(20) { &long } else { b"b" },
    ];
    let command = dice.of(&[0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5, 5, 9]);
    let text = dice.of(&texts);
    let length = match dice.below(16) {
        0 => dice.of(&[1025, 0xffff, 200]),
        1 => text.len() as u16 + 7,
        _ => text.len() as u16,
    };
    let junk = if dice.percent(10) { dice.bytes(5) } else { vec![0; 5] };
    frame.extend(&junk);
    frame.push(command | if dice.percent(10) { 0x20 } else { 0 });
    frame.extend(length.to_be_bytes());
    frame.extend(text);
    if command == 5 {
        let new = dice.of(&texts[..5]);
        frame.extend((new.len() as u16).to_be_bytes());
        frame.extend(new);
    }
}

fn mask(dice: &mut Dice, frame: &mut Vec<u8>) {
    // Two frames kill vblade, so no address is taken off that may be on its list.
    let directives: Vec<(u8, [u8; 6])> = match dice.below(12) {
        0 => vec![(1, HOST)],
        1 => vec![(1, HOST), (1, OTHERS[0])],
        2 => vec![(0, OTHERS[1]), (1, HOST), (1, HOST)],
        3 => vec![(1, HOST), (1, OTHERS[0]), (1, OTHERS[1])],
        4 => vec![(2, [2, 9, 9, 9, 9, 9])],
        5 => vec![(1, HOST), (9, OTHERS[0])],
        6 => vec![(7, OTHERS[0])],
        _ => vec![],
    };
    let command = if directives.is_empty() { dice.of(&[0, 0, 1, 9]) } else { 1 };
    frame.extend([if dice.percent(20) { 0x5a } else { 0 }, command, if dice.percent(10) { 1 } else { 0 }]);
    frame.push(directives.len() as u8);
    for (directive, mac) in directives {
        frame.extend([0, directive]);
        frame.extend(mac);
    }
}

fn reserve(dice: &mut Dice, frame: &mut Vec<u8>) {
    let mut hosts: Vec<[u8; 6]> =
        [HOST, OTHERS[0], OTHERS[1]].into_iter().filter(|_| dice.percent(50)).collect();
    if dice.percent(15) {
        hosts.push(HOST);
    }
    let count = if dice.percent(12) { dice.of(&[200, 255, 20]) } else { hosts.len() as u8 };
    frame.extend([dice.of(&[0, 0, 1, 1, 1, 2, 2, 9]), count]);
    hosts.iter().for_each(|host| frame.extend(host));
}

/// Requests that a run begins with, so that rare differences come up in every one.
fn directed(most: u8) -> Vec<Vec<u8>> {
    let request = |command, argument: &[u8]| {
        let mut frame = frames::head(PORT, HOST, 0, 7, 3, command, 0x0100_0001);
        frame.extend(argument);
        frame.resize(frame.len().max(60), 0);
        frame
    };
    let ata = |aflags, feature, count, opcode, lba: u64, data: usize| {
        let mut argument = vec![aflags, feature, count, opcode];
        argument.extend(&lba.to_le_bytes()[..6]);
        argument.extend([0; 2]);
        argument.resize(12 + data, 0x5a);
        request(0, &argument)
    };
    let from_other = |mut frame: Vec<u8>| {
        frame[6..12].copy_from_slice(&OTHERS[0]);
        frame
    };
    let mut wild_set = request(1, &[0, 0, 0, 0, 0, 4, 0, 1, b'w']);
    wild_set[16..19].fill(0xff);
    let mut over = request(2, &[0, 1, 0, 40, 0, 1, 2, 0, 0, 0, 0, 2]);
    over.truncate(36);
    vec![
        ata(0, 0, 7, 0xe5, 0, 0),
        ata(0, 0, 3, 0xec, 0, 0),
        ata(0x01, 0, 1, 0x20, 5, 0),
        ata(0x40, 0, 1, 0x34, 5, 512),
        ata(0x40, 0, most + 1, 0x24, 5, 0),
        ata(0x41, 0, 2, 0x34, 5, 512),
        ata(0x41, 0, 0, 0x34, 5, 0),
        ata(0, 0, 0, 0xe7, 0, 0),
        ata(0x40, 0, 0, 0xea, 0, 0),
        ata(0x01, 1, 1, 0x06, 0, 512),
        // Longer than what follows its header, but not than the frame.
        request(1, &[0, 0, 0, 0, 0, 4, 0, 40, b'x']),
        request(1, &[0, 0, 0, 0, 0, 3, 0xff, 0xff]),
        request(1, &[0, 0, 0, 0, 0, 5, 0, 0, 0, 1, b'z']),
        request(1, &[0, 0, 0, 0, 0, 9, 0, 0]),
        wild_set,
        request(3, &[9, 0]),
        request(3, &[1, 200]),
        from_other(request(3, &[1, 1, 2, 0, 0, 0, 0, 0xaa])),
        request(3, &[1, 200]),
        request(3, &[2, 0]),
        request(3, &[1, 2, 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 2]),
        over,
        // What kills vblade: an address, and the same one off again.
        request(2, &[0, 1, 0, 1, 0, 1, 2, 0, 0, 0, 0, 2]),
        request(2, &[0, 1, 0, 2, 0, 1, 2, 0, 0, 0, 0, 2, 0, 2, 2, 0, 0, 0, 0, 2]),
        request(2, &[0, 1, 0, 2, 0, 1, 2, 0, 0, 0, 0, 2, 0, 9, 2, 0, 0, 0, 0, 3]),
        request(2, &[0, 1, 0, 3, 0, 1, 2, 0, 0, 0, 0, 2, 0, 1, 2, 0, 0, 0, 0, 3, 0, 1, 2, 0, 0, 0, 0, 4]),
    ]
}

struct Both {
    shelf: Shelf,
    vblade: Vblade,
    most: u8,
}

impl Both {
    /// A request of our own, which is answered.
    fn tell(&mut self, command: u8, argument: &[u8]) {
        let mut frame = frames::head(PORT, HOST, 0, 7, 3, command, 0x5e70_0000);
        frame.extend(argument);
        frame.resize(frame.len().max(60), 0);
        let ours = self.shelf.ask(&frame, true);
        let theirs = if command == 2 { None } else { self.vblade.ask(&frame, ANSWER) };
        for answers in std::iter::once(ours).chain(theirs) {
            assert!(answers.len() == 1 && answers[0][14] == 0x18, "{answers:02x?} to {}", case::hex(&frame));
        }
    }

    /// Gives both the state of fresh ones: nothing set; where it may have changed, nobody listed, and the disk as it was.
    fn renew(&mut self, masks: bool, disks: bool) {
        if masks {
            // The host is on every list that is made here. vblade takes nobody off its list without dying.
            let hosts = [HOST, OTHERS[0], OTHERS[1], [2, 0, 0, 0, 0, 3], [2, 0, 0, 0, 0, 4]];
            let mut off = vec![0, 1, 0, hosts.len() as u8];
            hosts.iter().for_each(|host| off.extend([0, 2].iter().chain(host)));
            self.tell(2, &off);
            self.vblade.restart();
        }
        self.tell(1, &[0, 0, 0, 0, 0, 4, 0, 0]);
        self.tell(3, &[2, 0]);
        if disks {
            self.shelf.side.fill();
            self.vblade.side.fill();
        }
    }

    /// Whether somebody has reserved the slot.
    fn is_reserved(&mut self) -> bool {
        let mut frame = frames::head(PORT, HOST, 0, 7, 3, 3, 0x5e70_0001);
        frame.resize(60, 0);
        self.shelf.ask(&frame, true)[0][25] != 0
    }

    fn disks_are_equal(&self) -> bool {
        let read = |path: &Path| fs::read(path).unwrap();
        read(&self.shelf.side.image) == read(&self.vblade.side.image)
    }

    /// Sends one request to both. Counts each difference that is known, and says what is left.
    fn compare(&mut self, frame: &[u8], counts: &mut HashMap<&'static str, usize>) -> Result<(), String> {
        let request = Request::new(frame, self.most);
        // A wildcard is not answered with an error, so those whom a reservation keeps out hear nothing.
        let silent = request.meant_to_be_silent() || (request.is_wild() && self.is_reserved());
        let ours = self.shelf.ask(frame, !silent);
        // After an edit of its list it may live and answer nobody.
        let theirs =
            self.vblade.ask(frame, if request.edits_mask() { Duration::from_secs(2) } else { ANSWER });
        let mut pair =
            Pair { died: theirs.is_none(), theirs: theirs.unwrap_or_default(), ours, renew: false };
        let before = (pair.ours.clone(), pair.theirs.clone());
        for entry in ENTRIES {
            if (entry.explains)(&request, &mut pair) {
                *counts.entry(entry.name).or_default() += 1;
            }
        }
        let alike = !pair.died && pair.ours == pair.theirs;
        // Where one has changed what the other has not, they must not go on from there.
        let changed =
            before.0 != before.1 && request.changes() && (pair.renew || before.0.len() != before.1.len());
        if changed || pair.renew || request.edits_mask() {
            self.renew(request.edits_mask(), request.is_for_disk());
        }
        if alike {
            return Ok(());
        }
        let say = |frames: &[Vec<u8>]| frames.iter().map(|f| case::hex(f)).collect::<Vec<_>>().join(" | ");
        Err(format!(
            "request {}\n  shelf  {}\n  vblade {}\n  left   {}\n   after {}",
            case::hex(frame),
            say(&before.0),
            say(&before.1),
            say(&pair.ours),
            say(&pair.theirs)
        ))
    }
}

fn vblade_is_there() -> bool {
    let mut command = Command::new("vblade");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status() {
        Ok(_) => true,
        Err(e) => {
            println!("SKIPPED: vblade: {e} (apt-get install vblade)");
            false
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

#[test]
fn every_difference_from_vblade_is_known() {
    if !vblade_is_there() {
        return;
    }
    let (requests, seed) =
        (number("XSHELF_DIFFERENTIAL", REQUESTS as u64) as usize, number("XSHELF_SEED", 1));
    println!("seed {seed}, {requests} requests at MTU 1500, {} at MTU 9000", requests / 2);
    let mut counts: HashMap<&'static str, usize> = HashMap::new();
    let mut unknown = Vec::new();
    for (mtu, most, requests) in [(1500, 2, requests), (9000, 16, requests / 2)] {
        let (Some(one), Some(other)) = (Side::new(mtu), Side::new(mtu)) else { return };
        let mut both = Both { shelf: Shelf::start(one), vblade: Vblade::start(other), most };
        if both.vblade.announcement[14] == 0x08 {
            *counts.entry("announcement").or_default() += 1;
        }
        let mut dice = Dice(seed ^ u64::from(mtu) << 32);
        let first = directed(most).into_iter();
        let all = first.chain(std::iter::repeat_with(|| generate(&mut dice, most)));
        for (i, frame) in all.take(requests).enumerate() {
            if let Err(why) = both.compare(&frame, &mut counts) {
                unknown.push(format!("MTU {mtu}, request {i}: {why}"));
                if unknown.len() > 20 {
                    break;
                }
                both.renew(true, true);
            }
            if i % ROUND == ROUND - 1 {
                if !both.disks_are_equal() {
                    unknown.push(format!("MTU {mtu}: the disks differ after request {i}"));
                }
                both.renew(true, true);
            }
        }
        let Both { shelf, vblade, .. } = both;
        drop(vblade);
        shelf.server.stop();
    }
    for entry in ENTRIES {
        println!("{:>6}  {} ({})", counts.get(entry.name).unwrap_or(&0), entry.name, entry.rule);
    }
    assert!(
        unknown.is_empty(),
        "seed {seed}: {} unknown differences:\n{}",
        unknown.len(),
        unknown.join("\n")
    );
    if requests >= REQUESTS {
        let never: Vec<_> =
            ENTRIES.iter().map(|e| e.name).filter(|name| !counts.contains_key(name)).collect();
        assert!(never.is_empty(), "seed {seed}: these differences did not show: {never:?}");
    }
    if std::env::var_os("XSHELF_UPDATE").is_some() {
        let text = document(Some((&counts, seed, requests)));
        fs::write(path(), text).unwrap();
    }
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/differences-from-vblade.md")
}

/// The document; without counts it has the lines that have none.
fn document(run: Option<(&HashMap<&'static str, usize>, u64, usize)>) -> String {
    let mut text = String::from(HEAD);
    if let Some((_, seed, requests)) = run {
        let _ = writeln!(
            text,
            "The counts are of one run: seed {seed}, {requests} requests at MTU 1500 and {} at MTU 9000.\n",
            requests / 2
        );
    }
    text.push_str("| difference | vblade | xshelf, and why | rule | count |\n|---|---|---|---|---|\n");
    for entry in ENTRIES {
        let count = run.map(|(counts, ..)| counts.get(entry.name).copied().unwrap_or(0).to_string());
        let (name, theirs, ours, rule) = (entry.name, entry.theirs, entry.ours, entry.rule);
        let _ = writeln!(text, "| {name} | {theirs} | {ours} | {rule} | {} |", count.unwrap_or_default());
    }
    text
}

const HEAD: &str = "# Where xshelf answers otherwise than vblade\n\n\
    Thousands of generated requests go to xshelf and to vblade (Debian's vblade 25), and every difference between the\n\
    answers, to the byte, has to be one of these; a difference that no longer shows has to leave the table. The rules are\n\
    those of [conformance.md](conformance.md). `tests/e2e/differential.rs` is the test, `XSHELF_DIFFERENTIAL=100000` and\n\
    `XSHELF_SEED=2` give it more and other requests, and `XSHELF_UPDATE=1` writes this table.\n\n";

#[test]
fn the_table_of_differences_is_in_the_docs() {
    let without_counts = |text: &str| -> Vec<String> {
        let rows = text.lines().filter(|line| !line.starts_with("The counts are"));
        let rows = rows.map(|line| match line.starts_with("| ") && !line.starts_with("| difference") {
            true => line
                .trim_end_matches(" |")
                .trim_end_matches(|c: char| c.is_ascii_digit())
                .trim_end()
                .to_owned(),
            false => line.to_owned(),
        });
        rows.filter(|line| !line.is_empty()).collect()
    };
    let text = fs::read_to_string(path()).unwrap_or_default();
    let other = "it is written by XSHELF_UPDATE=1 cargo test --test e2e differen";
    assert_eq!(without_counts(&text), without_counts(&document(None)), "{}: {other}", path().display());
    let rules = fs::read_to_string(path().with_file_name("conformance.md")).unwrap();
    for entry in ENTRIES {
        assert!(
            rules.contains(&format!("| {} | ", entry.rule)),
            "{}: there is no rule {}",
            entry.name,
            entry.rule
        );
    }
}
