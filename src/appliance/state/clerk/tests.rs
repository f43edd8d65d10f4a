use super::super::memory::Memory;
use super::super::simulated::{Fault, SimulatedDirectory};
use super::super::store::{LoadError, RecordStore, StoreError};
use super::*;
use std::path::Path;
use std::sync::mpsc::SyncSender;

const A: Address = Address { shelf: 7, slot: 0 };
const B: Address = Address { shelf: 8, slot: 1 };
/// No verdict depends on it: only a test that would hang for ever meets it.
const HANG: Duration = Duration::from_secs(60);

fn state(text: &str) -> SlotState {
    SlotState::with_config_string(text.as_bytes())
}

/// What became visible to others, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Widened(Address, Box<SlotState>, Box<SlotState>),
    Narrowed(Address, Box<SlotState>),
    Answered(WorkerId, Control),
}

fn widened(address: Address, old: SlotState, new: SlotState) -> Seen {
    Seen::Widened(address, Box::new(old), Box::new(new))
}

fn narrowed(address: Address, state: SlotState) -> Seen {
    Seen::Narrowed(address, Box::new(state))
}

struct Hook(mpsc::Sender<Seen>);

impl MaskHook for Hook {
    fn widen(&mut self, address: Address, old: &SlotState, new: &SlotState) {
        self.0.send(widened(address, old.clone(), new.clone())).unwrap();
    }

    fn narrow(&mut self, address: Address, state: &SlotState) {
        self.0.send(narrowed(address, state.clone())).unwrap();
    }
}

struct Office {
    clerk: Clerk,
    errands: SyncSender<Errand>,
    seen: Receiver<Seen>,
}

impl Office {
    fn open(store: impl Store + Send + 'static) -> Self {
        let (errands, receiver) = mpsc::sync_channel(16);
        let (sender, seen) = mpsc::channel();
        let hook = Hook(sender.clone());
        let slots = [(A, state("at first")), (B, SlotState::default())];
        let clerk = Clerk::start(receiver, store, hook, slots, move |worker, control| {
            sender.send(Seen::Answered(worker, control)).unwrap();
            Ok(())
        });
        Self { clerk: clerk.unwrap(), errands, seen }
    }

    fn save(&self, address: Address, state: &SlotState) {
        let (worker, slot) = (WorkerId(address.shelf), address.slot.into());
        self.errands.send(Errand::Save { worker, slot, address, state: Box::new(state.clone()) }).unwrap();
    }

    fn next(&self) -> Seen {
        self.seen.recv_timeout(HANG).unwrap()
    }

    /// Ends it, and gives what was not looked at.
    fn close(self) -> (Closed, Vec<Seen>) {
        drop(self.errands);
        (self.clerk.close(HANG), self.seen.iter().collect())
    }
}

fn answered(address: Address, kept: bool) -> Seen {
    Seen::Answered(WorkerId(address.shelf), Control::Saved { slot: address.slot.into(), kept })
}

fn simulated(directory: &SimulatedDirectory) -> impl Store + Send + use<> {
    RecordStore::open(directory.clone(), Path::new("/state")).unwrap()
}

#[test]
fn a_change_is_kept_then_let_pass_then_answered_and_others_are_kept_out_once_it_is_in_force() {
    let directory = SimulatedDirectory::default();
    let office = Office::open(simulated(&directory));
    office.save(A, &state("one"));
    assert_eq!(office.next(), widened(A, state("at first"), state("one")));
    // It is on the disk when the answer is given.
    assert_eq!(office.next(), answered(A, true));
    assert_eq!(simulated(&directory).load(A).unwrap(), Some(state("one")));
    office.errands.send(Errand::InForce { address: A }).unwrap();
    assert_eq!(office.next(), narrowed(A, state("one")));
    office.save(A, &state("two"));
    office.save(B, &state("three"));
    let rest = [
        widened(A, state("one"), state("two")),
        answered(A, true),
        widened(B, state(""), state("three")),
        answered(B, true),
    ];
    assert_eq!(office.close(), (Closed::Done, rest.to_vec()));
    directory.crash(|_| 0);
    assert_eq!(simulated(&directory).load(A).unwrap(), Some(state("two")));
}

#[test]
fn a_change_that_cannot_be_kept_changes_nothing() {
    let directory = SimulatedDirectory::default();
    let office = Office::open(simulated(&directory));
    directory.set_room(Some(10));
    for _ in 0..2 {
        office.save(A, &state("one"));
        assert_eq!(office.next(), answered(A, false));
    }
    directory.set_room(None);
    office.save(A, &state("two"));
    assert_eq!(office.next(), widened(A, state("at first"), state("two")));
    assert_eq!(office.close(), (Closed::Done, vec![answered(A, true)]));
}

#[test]
fn what_a_failed_change_has_left_is_put_right_at_the_end_at_the_latest() {
    let directory = SimulatedDirectory::default();
    let office = Office::open(simulated(&directory));
    office.save(A, &state("old"));
    assert!(matches!(office.next(), Seen::Widened(..)));
    assert_eq!(office.next(), answered(A, true));
    let first = directory.steps();
    // The new one gets the name, that does not reach the disk, and the old one cannot be put back.
    directory.fail(first + 4, Fault::Broken);
    directory.fail(first + 5, Fault::NoRoom);
    office.save(A, &state("new"));
    assert_eq!(office.next(), answered(A, false));
    assert_eq!(office.close(), (Closed::Done, vec![]));
    directory.crash(|_| 0);
    assert_eq!(simulated(&directory).load(A).unwrap(), Some(state("old")));
}

#[test]
fn without_a_directory_everything_is_kept_until_the_end() {
    let office = Office::open(Memory::default());
    office.save(B, &state("one"));
    assert_eq!(office.next(), widened(B, state(""), state("one")));
    assert_eq!(office.close(), (Closed::Done, vec![answered(B, true)]));
}

#[test]
fn an_answer_waits_until_its_worker_has_room() {
    let (errands, receiver) = mpsc::sync_channel(1);
    let (answers, seen) = mpsc::sync_channel(1);
    let busy = Mutex::new(3);
    let clerk = Clerk::start(receiver, Memory::default(), (), [(A, state(""))], move |_, control| {
        let mut busy = busy.lock().unwrap();
        if *busy > 0 {
            *busy -= 1;
            return Err(control);
        }
        answers.send(control).unwrap();
        Ok(())
    });
    let clerk = clerk.unwrap();
    let state = Box::new(state("one"));
    errands.send(Errand::Save { worker: WorkerId(0), slot: 5, address: A, state }).unwrap();
    assert_eq!(seen.recv_timeout(HANG).unwrap(), Control::Saved { slot: 5, kept: true });
    drop(errands);
    assert_eq!(clerk.close(HANG), Closed::Done);
}

/// A disk that answers only when it is told to.
struct Hung(Receiver<()>, mpsc::Sender<()>);

impl Store for Hung {
    fn save(&mut self, _: Address, _: &SlotState) -> Result<(), StoreError> {
        self.1.send(()).unwrap();
        self.0.recv().unwrap();
        Ok(())
    }

    fn load(&mut self, _: Address) -> Result<Option<SlotState>, LoadError> {
        Ok(None)
    }

    fn settle(&mut self) -> bool {
        true
    }
}

#[test]
fn a_hanging_disk_does_not_hang_the_end() {
    let (let_go, hangs) = mpsc::channel();
    let (reached, at_the_disk) = mpsc::channel();
    let office = Office::open(Hung(hangs, reached));
    office.save(B, &state("one"));
    at_the_disk.recv_timeout(HANG).unwrap();
    assert!(!office.clerk.is_dead());
    drop(office.errands);
    assert_eq!(office.clerk.close(Duration::from_millis(10)), Closed::Hanging(B));
    let_go.send(()).unwrap();
}

#[test]
fn a_worker_that_does_not_go_does_not_hang_the_end() {
    let office = Office::open(Memory::default());
    assert_eq!(office.clerk.close(Duration::from_millis(10)), Closed::Waiting);
    drop(office.errands);
}

#[test]
fn a_clerk_that_died_is_seen() {
    struct Broken;
    impl MaskHook for Broken {
        fn widen(&mut self, _: Address, _: &SlotState, _: &SlotState) {
            panic!("on purpose");
        }
        fn narrow(&mut self, _: Address, _: &SlotState) {}
    }
    let (errands, receiver) = mpsc::sync_channel(1);
    let clerk = Clerk::start(receiver, Memory::default(), Broken, [(A, state(""))], |_, _| Ok(())).unwrap();
    errands
        .send(Errand::Save { worker: WorkerId(0), slot: 0, address: A, state: Box::new(state("one")) })
        .unwrap();
    let since = Instant::now();
    while !clerk.is_dead() {
        assert!(since.elapsed() < HANG);
        std::thread::yield_now();
    }
    assert_eq!(clerk.close(HANG), Closed::Died);
}
