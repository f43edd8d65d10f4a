//! What hosts set on a slot over the wire: on the disk before it is answered, there again after a kill, and as it was
//! where it could not be kept.

use crate::frames::{self, Raw};
use crate::lab::{Cable, End, Lab, Server, TARGET, run};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long an answer may take before it counts as missing: a guard, far beyond what it takes.
const ANSWER: Duration = Duration::from_secs(30);
/// How long nothing may come before it counts as silence.
const SILENCE: Duration = Duration::from_millis(300);

const FRIEND: [u8; 6] = [2, 0, 0, 0, 0, 0xaa];
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 0xbb];

const CONFIG: u8 = 1;
const MASK: u8 = 2;
const RESERVE: u8 = 3;

const SET: u8 = 3;
const FORCE_SET: u8 = 4;

/// A host, for requests to shelf 7.
struct Host {
    raw: Raw,
    shelf: [u8; 6],
    tag: u32,
}

impl Host {
    fn new(lab: &Lab) -> Self {
        Self { raw: Raw::open(lab, End::Initiator), shelf: Raw::open(lab, End::Target).mac, tag: 0 }
    }

    /// Sends a request and says its tag.
    fn send(&mut self, from: [u8; 6], slot: u8, command: u8, argument: &[u8]) -> u32 {
        self.tag += 1;
        let mut frame = frames::head(self.shelf, from, 0, 7, slot, command, self.tag);
        frame.extend(argument);
        self.raw.send(&frame);
        self.tag
    }

    fn answer(&self, tag: u32, patience: Duration) -> Option<Vec<u8>> {
        self.raw.receive(patience, |frame| frames::is_response(frame) && frames::tag_of(frame) == tag)
    }

    #[track_caller]
    fn ask(&mut self, slot: u8, command: u8, argument: &[u8]) -> Vec<u8> {
        let tag = self.send(self.raw.mac, slot, command, argument);
        self.answer(tag, ANSWER).unwrap_or_else(|| panic!("no answer to command {command} of slot {slot}"))
    }

    /// A config command; the error of the answer, and the string in it.
    #[track_caller]
    fn config(&mut self, slot: u8, command: u8, string: &[u8]) -> (u8, Vec<u8>) {
        let answer = self.ask(slot, CONFIG, &config_argument(command, string));
        (error(&answer), string_of(&answer))
    }

    #[track_caller]
    fn config_string(&mut self, slot: u8) -> Vec<u8> {
        let (error, string) = self.config(slot, 0, b"");
        assert_eq!(error, 0);
        string
    }

    /// Adds hosts to the mask, or only reads it; the mask error of the answer, and the list.
    #[track_caller]
    fn mask(&mut self, slot: u8, add: &[[u8; 6]]) -> (u8, Vec<[u8; 6]>) {
        let mut argument = vec![0, u8::from(!add.is_empty()), 0, add.len() as u8];
        for mac in add {
            argument.extend([0, 1]);
            argument.extend(mac);
        }
        let answer = self.ask(slot, MASK, &argument);
        assert_eq!(error(&answer), 0);
        let count = if answer[26] == 0 { usize::from(answer[27]) } else { 0 };
        (answer[26], (0..count).map(|i| mac_at(&answer, 28 + 8 * i + 2)).collect())
    }

    /// A reservation command; the error of the answer, and the list in it.
    #[track_caller]
    fn reserve(&mut self, slot: u8, command: u8, hosts: &[[u8; 6]]) -> (u8, Vec<[u8; 6]>) {
        let mut argument = vec![command, hosts.len() as u8];
        argument.extend(hosts.iter().flatten());
        let answer = self.ask(slot, RESERVE, &argument);
        (error(&answer), (0..usize::from(answer[25])).map(|i| mac_at(&answer, 26 + 6 * i)).collect())
    }

    /// Reads a sector; the AoE error of the answer.
    #[track_caller]
    fn read(&mut self, slot: u8) -> u8 {
        error(&self.ask(slot, 0, &[0x40, 0, 1, 0x24, 0, 0, 0, 0, 0, 0, 0, 0]))
    }
}

fn config_argument(command: u8, string: &[u8]) -> Vec<u8> {
    let mut argument = vec![0, 0, 0, 0, 0, command];
    argument.extend((string.len() as u16).to_be_bytes());
    argument.extend(string);
    argument
}

fn error(answer: &[u8]) -> u8 {
    assert_eq!(answer[14] & 0x04 != 0, answer[15] != 0, "the flag says whether there is an error");
    answer[15]
}

fn string_of(answer: &[u8]) -> Vec<u8> {
    let len = usize::from(u16::from_be_bytes([answer[30], answer[31]]));
    answer[32..32 + len].to_vec()
}

fn mac_at(answer: &[u8], at: usize) -> [u8; 6] {
    answer[at..at + 6].try_into().unwrap()
}

/// A shelf with some slots.
struct Shelf {
    lab: Lab,
    slots: Vec<String>,
}

impl Shelf {
    fn new(lab: Lab, slots: u8) -> Self {
        let slot = |n: u8| format!("7.{n}={}", lab.image(&format!("disk{n}"), 1 << 20).display());
        let slots = (0..slots).map(slot).collect();
        Self { lab, slots }
    }

    fn state(&self) -> PathBuf {
        self.lab.path("state")
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["--state-dir".to_owned(), self.state().display().to_string()];
        arguments.extend(self.slots.iter().cloned());
        arguments
    }

    #[track_caller]
    fn serve(&self) -> Server {
        Server::start(&self.lab, &self.arguments())
    }

    /// Starts it where it cannot; the one line it says.
    #[track_caller]
    fn refuse(&self) -> String {
        let mut arguments = vec!["serve".to_owned(), "--interface".to_owned(), TARGET.to_owned()];
        arguments.extend(self.arguments());
        let done = run(self.lab.xshelf(End::Target, &arguments));
        assert_eq!((done.code(), done.errors.lines().count()), (Some(3), 1), "{done}");
        done.errors
    }
}

#[track_caller]
fn kill(server: Server) -> String {
    server.signal(libc::SIGKILL);
    let (status, log) = server.end();
    assert!(!status.success());
    log
}

#[test]
fn what_hosts_set_is_there_after_a_kill() {
    let shelf = Shelf::new(lab! { ..Cable::default() }, 3);
    let mut host = Host::new(&shelf.lab);
    let us = host.raw.mac;
    let binary: Vec<u8> = (0..1024).map(|n| (n % 256) as u8).collect();

    let server = shelf.serve();
    assert_eq!(host.config(0, SET, b"node-a"), (0, b"node-a".to_vec()));
    assert_eq!(host.config(1, FORCE_SET, &binary), (0, binary.clone()));
    assert_eq!(host.mask(0, &[us, FRIEND]), (0, vec![us, FRIEND]));
    assert_eq!(host.reserve(1, 1, &[FRIEND]), (0, vec![FRIEND]));
    assert_eq!(host.read(1), 6);
    kill(server);

    let mut names: Vec<_> =
        fs::read_dir(shelf.state()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["7.0.state", "7.1.state"]);

    let server = shelf.serve();
    let log = server.log();
    assert!(log.contains("slot 7.0: by its mask, only 2 hosts may talk to it\n"), "{log}");
    assert!(log.contains("slot 7.1: it is reserved: only 1 host may use it\n"), "{log}");
    assert!(!log.contains("in memory, so config strings"), "{log}");
    assert!(!log.contains("slot 7.2"), "{log}");
    assert_eq!(host.config_string(0), b"node-a");
    assert_eq!(host.config(0, SET, b"node-b"), (4, b"node-a".to_vec()), "it is still taken");
    assert_eq!(host.config_string(1), binary);
    assert_eq!(host.mask(0, &[]), (0, vec![us, FRIEND]));
    let strange = host.send(STRANGER, 0, CONFIG, &config_argument(0, b""));
    assert_eq!(host.answer(strange, SILENCE), None, "the mask keeps it out");
    assert_eq!(host.reserve(1, 0, &[]), (0, vec![FRIEND]));
    assert_eq!((host.read(0), host.read(1), host.read(2)), (0, 6, 0));
    // What was taken back stays so.
    assert_eq!(host.reserve(1, 2, &[]), (0, vec![]));
    assert_eq!(host.config(1, FORCE_SET, b""), (0, vec![]));
    kill(server);

    let server = shelf.serve();
    assert_eq!(host.reserve(1, 0, &[]), (0, vec![]));
    assert_eq!((host.config_string(1), host.read(1)), (vec![], 0));
    server.stop();
    // Who wants a slot as it was removes its file.
    fs::remove_file(shelf.state().join("7.0.state")).unwrap();
    let server = shelf.serve();
    assert_eq!((host.config_string(0), host.mask(0, &[])), (vec![], (0, vec![])));
    server.stop();
}

/// Over two workers, without waiting for one another; the clerk has room for all.
#[test]
fn changes_of_many_slots_at_once_are_all_kept() {
    const SLOTS: u8 = 40;
    let mut shelf = Shelf::new(lab! { queues: 2, ..Cable::default() }, SLOTS);
    shelf.slots.extend(["--workers".to_owned(), "2".to_owned()]);
    let mut host = Host::new(&shelf.lab);
    let us = host.raw.mac;
    let server = shelf.serve();
    let string = |slot: u8, n: u8| format!("slot {slot}, {n}").into_bytes();
    // Three of each: the second and the third wait behind the first.
    let mut waiting = BTreeMap::new();
    for n in 0..3 {
        for slot in 0..SLOTS {
            let tag = host.send(us, slot, CONFIG, &config_argument(FORCE_SET, &string(slot, n)));
            waiting.insert(tag, string(slot, n));
        }
    }
    while !waiting.is_empty() {
        let ours = |f: &[u8]| frames::is_response(f) && waiting.contains_key(&frames::tag_of(f));
        let answer = host.raw.receive(ANSWER, ours).expect("an answer to each set");
        let expected = waiting.remove(&frames::tag_of(&answer)).unwrap();
        assert_eq!((error(&answer), string_of(&answer)), (0, expected));
    }
    kill(server);
    let server = shelf.serve();
    for slot in 0..SLOTS {
        assert_eq!(host.config_string(slot), string(slot, 2));
    }
    server.stop();
}

#[test]
fn a_configured_string_holds_until_a_host_sets_one() {
    let mut shelf = Shelf::new(lab! { ..Cable::default() }, 1);
    shelf.slots[0].push_str(",config-string=configured");
    let mut host = Host::new(&shelf.lab);
    let server = shelf.serve();
    assert_eq!(host.config_string(0), b"configured");
    kill(server);
    let server = shelf.serve();
    assert_eq!(host.config(0, SET, b"mine"), (4, b"configured".to_vec()));
    assert_eq!(host.config(0, FORCE_SET, b"mine"), (0, b"mine".to_vec()));
    kill(server);
    let server = shelf.serve();
    let log = server.log();
    assert!(
        log.contains("slot 7.0: its config string is the one that was kept, not that of the conf"),
        "{log}"
    );
    assert_eq!(host.config_string(0), b"mine");
    server.stop();
}

#[test]
fn without_a_directory_it_ends_with_the_process() {
    let shelf = Shelf::new(lab! { ..Cable::default() }, 1);
    let mut host = Host::new(&shelf.lab);
    let server = Server::start(&shelf.lab, &shelf.slots);
    assert_eq!(host.config(0, SET, b"node-a"), (0, b"node-a".to_vec()));
    assert_eq!(host.config_string(0), b"node-a");
    let log = server.stop();
    assert_eq!(log.matches("no state directory: config strings, masks and reservations").count(), 1, "{log}");
    let server = Server::start(&shelf.lab, &shelf.slots);
    assert_eq!(host.config_string(0), b"");
    server.stop();
}

#[test]
fn a_damaged_state_is_never_taken_for_an_empty_one() {
    let shelf = Shelf::new(lab! { ..Cable::default() }, 2);
    let mut host = Host::new(&shelf.lab);
    let us = host.raw.mac;
    let server = shelf.serve();
    assert_eq!(host.mask(1, &[us]), (0, vec![us]));
    server.stop();
    let file = shelf.state().join("7.1.state");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let line = shelf.refuse();
    for words in [
        &format!("slot 7.1: {}: it does not end with its checksum", file.display()),
        "; bring the file back from a copy, or remove it: that forgets the config string, the mask and the reservation",
    ] {
        assert!(line.contains(words), "{line}");
    }
    let edited = String::from_utf8(whole.clone()).unwrap().replace(&mac_text(us), &mac_text(FRIEND));
    fs::write(&file, edited).unwrap();
    assert!(shelf.refuse().contains("so it is damaged or was edited"));
    fs::write(&file, whole).unwrap();
    let server = shelf.serve();
    assert_eq!(host.mask(1, &[]), (0, vec![us]));
    server.stop();
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Killed in the middle of 200 sets over 4 slots, again and again: each slot then has a string that was sent, the last
/// one acknowledged or a later one.
#[test]
fn killed_while_hosts_set_config_strings() {
    const SETS: usize = 200;
    let shelf = Shelf::new(lab! { ..Cable::default() }, 4);
    let mut host = Host::new(&shelf.lab);
    // Of each slot: how many were sent, and the number of the last one acknowledged.
    let (mut sent, mut acknowledged) = ([0usize; 4], [0usize; 4]);
    let string = |slot: usize, number: usize| match number {
        0 => Vec::new(),
        // Of many lengths, so that a file is now longer, now shorter than the one it replaces.
        n => format!("slot {slot} set {n} {}", "x".repeat(n * 37 % 1000)).into_bytes(),
    };
    let (mut total, mut kills, mut lost) = (0, 0, 0);
    let mut random = 42u64;
    while total < SETS {
        let server = shelf.serve();
        for slot in 0..4 {
            let found = host.config_string(slot as u8);
            let number = (acknowledged[slot]..=sent[slot]).find(|n| found == string(slot, *n));
            let number = number.unwrap_or_else(|| {
                panic!(
                    "slot {slot}: {} of {:?}, sent {sent:?}",
                    String::from_utf8_lossy(&found),
                    acknowledged
                )
            });
            lost += sent[slot] - number;
            acknowledged[slot] = number;
            sent[slot] = number;
        }
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let round = 5 + (random >> 33) as usize % 30;
        let mut waiting: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
        let taken =
            |waiting: &mut BTreeMap<u32, (usize, usize)>, answer: &[u8], acknowledged: &mut [usize; 4]| {
                let (slot, number) = waiting.remove(&frames::tag_of(answer)).unwrap();
                assert_eq!((error(answer), string_of(answer)), (0, string(slot, number)));
                acknowledged[slot] = number;
            };
        for n in 0..round {
            let slot = n % 4;
            while waiting.values().any(|(other, _)| *other == slot) {
                let answer = host
                    .raw
                    .receive(ANSWER, |f| frames::is_response(f) && waiting.contains_key(&frames::tag_of(f)))
                    .expect("an answer to a set");
                taken(&mut waiting, &answer, &mut acknowledged);
            }
            sent[slot] += 1;
            let argument = config_argument(FORCE_SET, &string(slot, sent[slot]));
            let tag = host.send(host.raw.mac, slot as u8, CONFIG, &argument);
            waiting.insert(tag, (slot, sent[slot]));
            total += 1;
        }
        kill(server);
        kills += 1;
        // Answers that were on the way count, too.
        while let Some(answer) =
            host.raw.receive(SILENCE, |f| frames::is_response(f) && waiting.contains_key(&frames::tag_of(f)))
        {
            taken(&mut waiting, &answer, &mut acknowledged);
        }
    }
    println!("{total} sets, {kills} kills, {lost} sets that were not acknowledged and are not there");
    let server = shelf.serve();
    for slot in 0..4 {
        let found = host.config_string(slot as u8);
        assert!((acknowledged[slot]..=sent[slot]).any(|n| found == string(slot, n)), "slot {slot}");
    }
    server.stop();
}

/// Runs a test in a thread with mounts of its own, which end with it.
fn with_own_mounts(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: only this thread's view of mounts and its working directory part from the others'.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0, "unshare");
            shell("mount", &["--make-rprivate", "/"]);
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

#[track_caller]
fn shell(program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    run(command).well();
}

/// A file that takes all the room there is.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    while let Ok(n) = file.write(&[0xff; 4096]) {
        assert!(n > 0);
    }
}

#[test]
fn a_full_disk_refuses_changes_and_keeps_what_was() {
    let shelf = Shelf::new(lab! { ..Cable::default() }, 1);
    with_own_mounts(|| {
        let mut host = Host::new(&shelf.lab);
        let us = host.raw.mac;
        fs::create_dir(shelf.state()).unwrap();
        shell("mount", &["-t", "tmpfs", "-o", "size=64k", "none", shelf.state().to_str().unwrap()]);
        let server = shelf.serve();
        assert_eq!(server.log().matches("/state: it is in memory, so config strings").count(), 1);
        assert_eq!(host.config(0, SET, b"old"), (0, b"old".to_vec()));
        assert_eq!(host.reserve(0, 1, &[us]), (0, vec![us]));

        let filler = shelf.state().join("filler");
        fill(&filler);
        for _ in 0..3 {
            assert_eq!(host.config(0, FORCE_SET, b"new"), (3, b"old".to_vec()));
            assert_eq!(host.mask(0, &[us]), (1, vec![]));
            assert_eq!(host.reserve(0, 2, &[FRIEND]), (3, vec![us]));
        }
        assert_eq!(host.config_string(0), b"old");
        assert_eq!((host.mask(0, &[]), host.reserve(0, 0, &[])), ((0, vec![]), (0, vec![us])));
        assert_eq!(host.read(0), 0, "the disk itself is served");
        let log = server.log();
        let said = "7.0.state cannot be written: No space left on device (os error 28); make room there";
        assert_eq!(log.matches(said).count(), 1, "{log}");
        kill(server);

        // As it was, though there is no room yet; nor is anything left that takes the room.
        let server = shelf.serve();
        assert_eq!((host.config_string(0), host.reserve(0, 0, &[])), (b"old".to_vec(), (0, vec![us])));
        assert_eq!(host.config(0, FORCE_SET, b"new"), (3, b"old".to_vec()));
        fs::remove_file(&filler).unwrap();
        assert_eq!(host.config(0, FORCE_SET, b"new"), (0, b"new".to_vec()));
        let log = server.stop();
        assert!(log.contains("slot 7.0: what hosts set is kept again"), "{log}");
        let server = shelf.serve();
        assert_eq!(host.config_string(0), b"new");
        server.stop();
    });
}

#[test]
fn a_directory_on_a_read_only_file_system_is_refused() {
    let shelf = Shelf::new(lab! { ..Cable::default() }, 1);
    with_own_mounts(|| {
        fs::create_dir(shelf.state()).unwrap();
        shell("mount", &["-t", "tmpfs", "-o", "ro", "none", shelf.state().to_str().unwrap()]);
        let file = shelf.lab.path("xshelf.toml");
        let text =
            format!("state-dir = \"{}\"\n[[interface]]\nname = \"{TARGET}\"\n", shelf.state().display());
        let disk = shelf.lab.image("disk", 1 << 20);
        fs::write(&file, format!("{text}[[slot]]\naddress = \"7.0\"\npath = \"{}\"\n", disk.display()))
            .unwrap();
        let check = run(shelf.lab.xshelf(End::Target, &["check", file.to_str().unwrap()]));
        let wrong =
            format!("error: state-dir: nothing can be kept in {}: Read-only", shelf.state().display());
        assert!(check.code() == Some(1) && check.output.contains(&wrong), "{check}");
        let line = shelf.refuse();
        assert!(
            line.contains(
                "/state: Read-only file system (os error 30); name a directory that this user can write"
            ),
            "{line}"
        );
    });
}
