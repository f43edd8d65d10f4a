//! Slots whose disks fail, hang and vanish: what hosts get, what `xshelf status` and the log say, and how they come back. The
//! slot beside them serves all the time, and nothing that was acknowledged is lost.

use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};
use xshelf::appliance::control::report::{Report as Status, SlotReport};
use xshelf_torment::{Cable, Client, End, FaultDisk, INITIATOR, Lab, Loop, Options, Shelf, TARGET, program};

/// A guard against hangs, far beyond what anything takes.
const GUARD: Duration = Duration::from_secs(180);
const SECTORS: u32 = 2048;

struct World {
    shelf: Shelf,
    control: PathBuf,
    lab: Rc<Lab>,
}

impl World {
    /// A shelf with these slots; the rest is in `lab`, which ends after the disks that are mounted in it.
    fn new(lab: &Rc<Lab>, slots: &[String]) -> Self {
        let control = lab.path("control");
        let mut arguments = vec!["--control".to_owned(), control.display().to_string()];
        arguments.extend_from_slice(slots);
        let shelf = Shelf::start(lab, &program("xshelf", "XSHELF_BIN"), &arguments);
        Self { shelf, control, lab: Rc::clone(lab) }
    }

    fn ask(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(program("xshelf", "XSHELF_BIN"));
        command.args(arguments).arg("--control").arg(&self.control).output().unwrap()
    }

    /// What `xshelf status` tells, and its exit code.
    fn status(&self) -> (Status, i32) {
        let done = self.ask(&["status", "--json"]);
        let status = serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}: {done:?}"));
        (status, done.status.code().unwrap())
    }

    fn slot(&self, address: &str) -> SlotReport {
        let slots = self.status().0.slots;
        slots.into_iter().find(|slot| slot.address == address).unwrap()
    }

    /// Waits until a slot is as wanted.
    #[track_caller]
    fn until(&self, address: &str, wanted: impl Fn(&SlotReport) -> bool) -> SlotReport {
        let until = Instant::now() + GUARD;
        loop {
            let slot = self.slot(address);
            if wanted(&slot) {
                return slot;
            }
            assert!(Instant::now() < until, "never: {slot}\n{}", self.shelf.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    fn until_condition(&self, address: &str, condition: &str) -> SlotReport {
        self.until(address, |slot| slot.condition == condition)
    }

    /// How often it was said in the log.
    fn said(&self, words: &str) -> usize {
        self.shelf.said().matches(words).count()
    }

    /// Waits until the service manager has been told such a status.
    #[track_caller]
    fn until_status(&mut self, wanted: impl Fn(&str) -> bool) {
        let until = Instant::now() + GUARD;
        while !wanted(self.shelf.status()) {
            assert!(Instant::now() < until, "never: {}", self.shelf.status());
        }
    }

    /// Waits until it was said so often; the log follows within the shelf's next round.
    #[track_caller]
    fn until_said(&self, words: &str, times: usize) {
        let until = Instant::now() + GUARD;
        while self.said(words) < times && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(self.said(words), times, "{words}\n{}", self.shelf.said());
    }

    fn client(&self, address: &str, write_back: bool) -> Client {
        let addresses = [address.parse().unwrap()];
        let write_back = if write_back { vec![0] } else { vec![] };
        let options = Options { sectors: SECTORS, write_back, ..Options::default() };
        self.lab.within(End::Initiator, move || Client::new(INITIATOR, &addresses, options)).unwrap()
    }
}

/// Lets a client write so many more sectors' worth of requests.
#[track_caller]
fn write(client: &mut Client, more: u64) {
    let enough = client.tally().writes + more;
    let until = Instant::now() + GUARD;
    client.run_while(|tally| tally.writes < enough && Instant::now() < until).unwrap();
    assert!(client.tally().writes >= enough, "{:?}", client.tally());
}

#[track_caller]
fn clean(client: &mut Client) {
    let report = client.check_all().unwrap();
    assert!(report.is_clean() && report.written > 0, "{report}");
}

/// A lab with a disk that fails, or why there is none.
fn lab(files: &[&str]) -> Result<(Rc<Lab>, FaultDisk), String> {
    if std::fs::metadata("/dev/fuse").is_err() {
        return Err("no /dev/fuse here".into());
    }
    let lab = Lab::new("xshelf-recovery", Cable::default())?;
    let files: Vec<String> = files.iter().map(|name| format!("{name}={}", SECTORS * 512)).collect();
    // Where there is FUSE it can be mounted, or something is wrong.
    let disk = FaultDisk::mount(&program("faultdisk", "FAULTDISK_BIN"), &lab.path("mnt"), &files).unwrap();
    Ok((Rc::new(lab), disk))
}

macro_rules! lab {
    ($($file:literal),*) => {
        match lab(&[$($file),*]) {
            Ok(made) => made,
            Err(why) => return println!("SKIPPED: {why}"),
        }
    };
}

/// The slot beside the others.
fn neighbour(lab: &Lab) -> String {
    format!("7.9={}", lab.image("beside", u64::from(SECTORS) * 512).display())
}

#[test]
fn a_disk_that_fails_writes_is_served_again_when_it_takes_them() {
    let (lab, mut disk) = lab!("disk0", "disk1");
    let device = Loop::attach(&disk.path("disk1"), true);
    let slots = [
        format!("7.0={}", disk.path("disk0").display()),
        format!("7.1={}", device.path().display()),
        neighbour(&lab),
    ];
    let world = World::new(&lab, &slots);
    let mut beside = world.client("7.9", false);
    for (address, file) in [("7.0", "disk0"), ("7.1", "disk1")] {
        let mut client = world.client(address, false);
        write(&mut client, 200);
        assert_eq!(world.status().1, 0);
        disk.tell(&format!("fail {file} write,fsync EIO"));
        let until = Instant::now() + GUARD;
        client.run_while(|tally| tally.errors < 20 && Instant::now() < until).unwrap();
        let slot = world.until(address, |slot| slot.condition == "failed" && slot.next.is_some());
        assert_eq!(slot.why.as_deref(), Some("a write failed: Input/output error (os error 5)"), "{slot}");
        assert_eq!(world.status().1, 1);
        // As long as the disk does not flush, it is not served, however often that is tried.
        world.until(address, |slot| slot.next.as_ref().is_some_and(|next| next.contains("flushing it: ")));
        write(&mut beside, 100);
        assert_eq!(world.slot("7.9").condition, "serving");
        disk.tell(&format!("heal {file}"));
        world.until_condition(address, "serving");
        // What was answered before may still lie in the socket.
        client.drain().unwrap();
        let before = client.tally().errors;
        write(&mut client, 200);
        assert_eq!(client.tally().errors, before, "it serves as before");
        clean(&mut client);
        // Said once, and not for each frame.
        assert_eq!(world.said(&format!("slot {address}: a write failed: ")), 1, "{}", world.shelf.said());
        world.until_said(&format!("slot {address}: {} is served again", world.slot(address).path), 1);
        assert_eq!(world.status().1, 0);
    }
    clean(&mut beside);
    world.shelf.stop();
}

#[test]
fn a_write_back_slot_that_failed_waits_for_the_administrator() {
    let (lab, mut disk) = lab!("disk0");
    let slots = [format!("7.0={},write-back", disk.path("disk0").display()), neighbour(&lab)];
    let world = World::new(&lab, &slots);
    let mut client = world.client("7.0", true);
    write(&mut client, 50);
    disk.tell("fail disk0 fsync EIO times 1");
    let until = Instant::now() + GUARD;
    client.run_while(|tally| tally.errors < 5 && Instant::now() < until).unwrap();
    let waits =
        |slot: &SlotReport| slot.next.as_ref().is_some_and(|next| next.contains("`xshelf slot 7.0 recover`"));
    let slot = world.until("7.0", waits);
    assert_eq!(
        (slot.condition.as_str(), slot.why.as_deref()),
        ("failed", Some("a flush failed: Input/output error (os error 5)"))
    );
    // The disk is well again; but what was acknowledged may be lost, and nobody has said that this does not matter.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(world.slot("7.0").condition, "failed");
    assert_eq!(world.said("it does not recover by itself"), 1, "{}", world.shelf.said());
    let done = world.ask(&["slot", "7.0", "recover"]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    world.until_condition("7.0", "serving");
    client.drain().unwrap();
    let before = client.tally().errors;
    write(&mut client, 100);
    assert_eq!(client.tally().errors, before);
    // It holds for one failure, not for the next.
    disk.tell("fail disk0 fsync EIO times 1");
    client.run_while(|tally| tally.errors < before + 5 && Instant::now() < until).unwrap();
    world.until("7.0", waits);
    world.shelf.stop();
}

#[test]
fn a_disk_that_hangs_is_seen_and_its_neighbour_is_served() {
    let (lab, mut disk) = lab!("disk0");
    let slots = [format!("7.0={}", disk.path("disk0").display()), neighbour(&lab)];
    let mut world = World::new(&lab, &slots);
    let (mut client, mut beside) = (world.client("7.0", false), world.client("7.9", false));
    write(&mut client, 50);
    disk.tell("hang disk0");
    let waiting = std::thread::spawn(move || {
        write(&mut client, 100);
        client
    });
    let slot = world.until_condition("7.0", "hung");
    assert!(slot.in_flight > 0 && slot.for_s >= 5, "{slot}");
    assert_eq!(world.status().1, 1);
    write(&mut beside, 100);
    assert_eq!(world.slot("7.9").condition, "serving");
    world.until_said(" has not answered a command for ", 1);
    world.until_status(|status| status.starts_with("SLOTS IN TROUBLE: 7.0 hung; serving 7.0 7.9 "));
    disk.tell("unhang disk0");
    let mut client = waiting.join().unwrap();
    world.until_condition("7.0", "serving");
    world.until_said(" answers again, after ", 1);
    world.until_status(|status| status.starts_with("serving 7.0 7.9 "));
    assert_eq!(world.said(" has not answered a command for "), 1, "{}", world.shelf.said());
    assert_eq!(client.tally().errors, 0, "nothing was answered falsely");
    clean(&mut client);
    clean(&mut beside);
    world.shelf.stop();
}

#[test]
fn a_disk_that_vanishes_is_served_again_when_it_is_back() {
    let (lab, disk) = lab!("disk0");
    let mount = disk.path("");
    // Two slots of one disk, which one claim keeps.
    let path = disk.path("disk0").display().to_string();
    let half = SECTORS / 2;
    let slots = [format!("7.0={path},length={half}s"), format!("7.1={path},offset={half}s"), neighbour(&lab)];
    let world = World::new(&lab, &slots);
    let mut beside = world.client("7.9", false);
    // The file system ends under it: every request fails from now on, and there is nothing at the path.
    drop(disk);
    for address in ["7.0", "7.1"] {
        let slot = world.until(address, |slot| {
            slot.condition == "gone"
                && slot.next.as_ref().is_some_and(|next| next.contains("it is looked for"))
        });
        assert!(slot.why.is_some(), "{slot}");
    }
    write(&mut beside, 100);
    assert_eq!(world.said("its device is gone: "), 2, "{}", world.shelf.said());
    // Another disk, of half the size, in its place is not taken for it.
    let binary = program("faultdisk", "FAULTDISK_BIN");
    let small = FaultDisk::mount(&binary, &mount, &[format!("disk0={}", half * 512)]).unwrap();
    world.until("7.0", |slot| slot.next.as_ref().is_some_and(|next| next.contains(" bytes")));
    assert_eq!(world.slot("7.0").condition, "gone");
    drop(small);
    let back = FaultDisk::mount(&binary, &mount, &[format!("disk0={}", SECTORS * 512)]).unwrap();
    for address in ["7.0", "7.1"] {
        world.until_condition(address, "serving");
        let addresses = [address.parse().unwrap()];
        let options = Options { sectors: half, ..Options::default() };
        let client = world.lab.within(End::Initiator, move || Client::new(INITIATOR, &addresses, options));
        let mut client = client.unwrap();
        write(&mut client, 100);
        assert_eq!(client.tally().errors, 0);
        clean(&mut client);
    }
    world.until_said(" is served again after ", 2);
    clean(&mut beside);
    world.shelf.stop();
    drop(back);
}

#[test]
fn a_loop_device_that_loses_its_backing_is_let_go_and_taken_back_under_its_number() {
    let lab = match Lab::new("xshelf-recovery", Cable::default()) {
        Ok(lab) => Rc::new(lab),
        Err(why) => return println!("SKIPPED: {why}"),
    };
    let image = lab.image("image", u64::from(SECTORS) * 512);
    let device = Loop::attach(&image, true);
    let losetup = |arguments: &[&str]| {
        let done = Command::new("losetup").args(arguments).output().unwrap();
        assert!(done.status.success(), "losetup {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let name = device.path().display().to_string();
    let slots = [format!("7.0={name}"), neighbour(&lab)];
    let world = World::new(&lab, &slots);
    let mut client = world.client("7.0", false);
    write(&mut client, 100);
    clean(&mut client);
    // As long as somebody has it open it stays attached. Without a size it is as a disk that was pulled out; and the
    // kernel detaches it when xshelf lets go of it.
    losetup(&["--detach", &name]);
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    let data = std::fs::read(&image).unwrap();
    file.set_len(0).unwrap();
    losetup(&["--set-capacity", &name]);
    world.until_condition("7.0", "gone");
    let until = Instant::now() + GUARD;
    let attached =
        || std::fs::metadata(format!("/sys/block/{}/loop", name.trim_start_matches("/dev/"))).is_ok();
    while attached() {
        assert!(Instant::now() < until, "it is still held\n{}", world.shelf.said());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(world.slot("7.9").condition, "serving");
    std::fs::write(&image, &data).unwrap();
    losetup(&["--direct-io=on", &name, &image.display().to_string()]);
    world.until_condition("7.0", "serving");
    write(&mut client, 100);
    clean(&mut client);
    world.shelf.stop();
}

#[test]
fn a_slot_that_failed_has_failed_still_after_a_new_start_in_place() {
    let (lab, mut disk) = lab!("disk0");
    let slots = [format!("7.0={}", disk.path("disk0").display()), neighbour(&lab)];
    let world = World::new(&lab, &slots);
    let mut client = world.client("7.0", false);
    write(&mut client, 50);
    disk.tell("fail disk0 write,fsync EIO");
    let until = Instant::now() + GUARD;
    client.run_while(|tally| tally.errors < 5 && Instant::now() < until).unwrap();
    let before = world.until_condition("7.0", "failed");
    // Another address of its port asks for that.
    world.lab.ip(End::Target, &["link", "set", TARGET, "address", "02:00:00:00:be:ef"]);
    world.until_said("started again: ", 1);
    let after = world.slot("7.0");
    assert_eq!((&after.condition, &after.why), (&before.condition, &before.why), "{after}");
    assert_eq!(world.slot("7.9").condition, "serving");
    disk.tell("heal disk0");
    world.until_condition("7.0", "serving");
    world.shelf.stop();
}

#[test]
fn no_slot_is_opened_again_while_its_disk_may_still_carry_out_what_it_was_sent_before() {
    let (lab, mut disk) = lab!("disk0");
    // Two slots of one file: the claim is that of both, and not of what is under way to one of them.
    let path = disk.path("disk0").display().to_string();
    let half = SECTORS / 2;
    let slots = [format!("7.0={path},length={half}s"), format!("7.1={path},offset={half}s"), neighbour(&lab)];
    let world = World::new(&lab, &slots);
    let mut client = world.client("7.0", false);
    write(&mut client, 50);
    disk.tell("hang disk0");
    let until = Instant::now() + GUARD;
    client.run_while(|_| world.slot("7.0").in_flight == 0 && Instant::now() < until).unwrap();
    world.lab.ip(End::Target, &["link", "set", TARGET, "address", "02:00:00:00:be:ef"]);
    world.until_said("slot 7.0: its device has not answered all it was sent", 1);
    world.until_said("started again: serving 7.9 ", 1);
    assert!(FaultDisk::number(&disk.tell("stats"), "held") > 0, "{}", world.shelf.said());
    let done = world.ask(&["slot", "7.0", "recover"]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.starts_with("xshelf: slot 7.0 is not served before its device has answered"), "{done:?}");
    disk.tell("unhang disk0");
    world.until_said("slot 7.0: the device has answered; starting again in place", 1);
    world.until_said("started again: serving 7.0 7.1 7.9 ", 1);
    world.shelf.stop();
}

#[test]
fn a_device_that_hangs_when_it_is_opened_again_keeps_no_other_slot_waiting() {
    let (lab, mut disk) = lab!("disk0");
    let slots = [format!("7.0={}", disk.path("disk0").display()), neighbour(&lab)];
    let world = World::new(&lab, &slots);
    let mut client = world.client("7.0", false);
    write(&mut client, 50);
    clean(&mut client);
    // Nothing is in flight: that it hangs shows only when it is opened again.
    assert_eq!(world.slot("7.0").in_flight, 0);
    disk.tell("hang disk0");
    let link = world.lab.ip(End::Target, &["-br", "link", "show", TARGET]);
    let before = link.split_whitespace().nth(2).unwrap().to_owned();
    let move_to = |address: &str| world.lab.ip(End::Target, &["link", "set", TARGET, "address", address]);
    move_to("02:00:00:00:be:01");
    world.until_said("disk0 does not answer whoever opens it", 1);
    world.until_said("started again: serving 7.9 ", 1);
    assert!(FaultDisk::number(&disk.tell("stats"), "held") > 0, "{}", world.shelf.said());
    let (status, code) = world.status();
    assert_eq!((status.slots[0].condition.as_str(), code), ("serving", 1), "{status}");
    assert!(status.alarm.is_some_and(|alarm| alarm.contains("not served for now: 7.0")));
    // Nor when that happens again, while whoever opened it still waits.
    move_to("02:00:00:00:be:02");
    world.until_said("started again: serving 7.9 ", 2);
    disk.tell("unhang disk0");
    world.until_said("disk0 can be opened again", 1);
    world.until_said("started again: serving 7.0 7.9 ", 1);
    // By the address that its hosts know.
    move_to(&before);
    world.until_said("started again: serving 7.0 7.9 ", 2);
    write(&mut client, 50);
    clean(&mut client);
    world.shelf.stop();
}

#[test]
fn a_state_directory_that_fails_or_hangs_keeps_no_slot_from_a_new_start() {
    let (lab, mut disk) = lab!("unused");
    let directory = disk.path("unused").parent().unwrap().display().to_string();
    let mut world = World::new(&lab, &["--state-dir".to_owned(), directory, neighbour(&lab)]);
    let link = world.lab.ip(End::Target, &["-br", "link", "show", TARGET]);
    let before = link.split_whitespace().nth(2).unwrap().to_owned();
    let mut client = world.client("7.9", false);
    write(&mut client, 50);
    let move_to = |address: &str, times: usize| {
        world.lab.ip(End::Target, &["link", "set", TARGET, "address", address]);
        world.until_said("started again: serving 7.9 ", times);
    };
    disk.tell("fail / create,rename,fsync,open EIO");
    move_to("02:00:00:00:be:01", 1);
    disk.tell("heal");
    disk.tell("hang / all");
    move_to("02:00:00:00:be:02", 2);
    move_to(&before, 3);
    write(&mut client, 50);
    clean(&mut client);
    disk.tell("unhang");
    assert_eq!(world.said("nothing is served"), 0, "{}", world.shelf.said());
    // As before the first of them, and not that it starts again.
    world.until_status(|status| status.starts_with("serving 7.9"));
    world.shelf.stop();
}

#[test]
fn a_write_back_slot_whose_disk_did_not_answer_to_the_end_promises_nothing() {
    let (lab, mut disk) = lab!("disk0");
    let slots = [format!("7.0={},write-back", disk.path("disk0").display()), neighbour(&lab)];
    let world = World::new(&lab, &slots);
    let mut client = world.client("7.0", true);
    write(&mut client, 50);
    disk.tell("hang disk0");
    let until = Instant::now() + GUARD;
    client.run_while(|_| world.slot("7.0").in_flight == 0 && Instant::now() < until).unwrap();
    world.lab.ip(End::Target, &["link", "set", TARGET, "address", "02:00:00:00:be:ef"]);
    world.until_said("started again: serving 7.9 ", 1);
    // What was in flight may have been a flush that fails now, and nobody hears of it.
    disk.tell("unhang disk0");
    world.until_said("started again: serving 7.0 [durable: no", 1);
    world.until_said("slot 7.0: whether a flush of its device failed meanwhile is not known", 1);
    let waits =
        |slot: &SlotReport| slot.next.as_ref().is_some_and(|next| next.contains("`xshelf slot 7.0 recover`"));
    assert_eq!(world.until("7.0", waits).condition, "failed");
    assert_eq!(world.ask(&["slot", "7.0", "recover"]).status.code(), Some(0));
    world.until_condition("7.0", "serving");
    world.shelf.stop();
}
