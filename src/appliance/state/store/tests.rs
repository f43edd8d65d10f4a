use super::super::record::tests::states;
use super::super::simulated::{Fault, SimulatedDirectory, SimulatedStore};
use super::*;
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt as _;

const A: Address = Address { shelf: 7, slot: 0 };
const B: Address = Address { shelf: 7, slot: 254 };
const FAULTS: [Fault; 5] =
    [Fault::NoRoom, Fault::Broken, Fault::Short, Fault::CrashBefore, Fault::CrashAfter];

fn state(text: &str) -> SlotState {
    SlotState::with_config_string(text.as_bytes())
}

fn open(directory: &SimulatedDirectory) -> SimulatedStore {
    RecordStore::open(directory.clone(), Path::new("/state")).unwrap()
}

/// Every way to choose, one after the other.
#[derive(Default)]
struct Choices {
    made: Vec<(usize, usize)>,
    at: usize,
}

impl Choices {
    fn choose(&mut self, n: usize) -> usize {
        if self.at == self.made.len() {
            self.made.push((0, n));
        }
        self.at += 1;
        self.made[self.at - 1].0
    }

    /// The next way; `false` after the last.
    fn next(&mut self) -> bool {
        self.at = 0;
        while let Some((choice, n)) = self.made.pop() {
            if choice + 1 < n {
                self.made.push((choice + 1, n));
                return true;
            }
        }
        false
    }
}

#[test]
fn what_is_saved_is_loaded() {
    let directory = SimulatedDirectory::default();
    let mut store = open(&directory);
    assert_eq!(store.load(A).unwrap(), None);
    store.save(A, &state("a")).unwrap();
    store.save(B, &state("b")).unwrap();
    store.save(A, &state("c")).unwrap();
    assert_eq!(store.load(A).unwrap(), Some(state("c")));
    assert_eq!(store.load(B).unwrap(), Some(state("b")));
    assert_eq!(directory.names(), ["7.0.state", "7.254.state"]);
    assert_eq!(open(&directory).load(A).unwrap(), Some(state("c")));
}

/// Each step of a save, each fault there, each thing a crash may then do: all of them.
#[test]
fn a_crash_leaves_the_old_or_the_new_state_whatever_step_it_meets() {
    let old_and_new =
        [(None, state("new")), (Some(state("old")), state("new")), (Some(state("old")), state(""))];
    let (mut outcomes, mut failed, mut crashed) = (0, 0, 0);
    for (old, new) in &old_and_new {
        for fault in FAULTS {
            for step in 0.. {
                let mut choices = Choices::default();
                let mut met = false;
                loop {
                    let directory = SimulatedDirectory::default();
                    let mut store = open(&directory);
                    if let Some(old) = old {
                        store.save(A, old).unwrap();
                    }
                    let first = directory.steps();
                    directory.fail(first + step, fault);
                    let saved = store.save(A, new);
                    met |= directory.steps() > first + step;
                    let dies = matches!(fault, Fault::CrashBefore | Fault::CrashAfter);
                    let unsure = match &saved {
                        Ok(()) => false,
                        Err(_) if dies => true,
                        Err(e) => {
                            failed += 1;
                            // One fault does not hinder the old one from being put back.
                            assert!(!e.unsettled, "{e}");
                            assert_eq!(store.load(A).unwrap(), *old, "step {step}, {fault:?}");
                            assert!(
                                !directory.names().iter().any(|name| name.ends_with(ASIDE)),
                                "{fault:?} {step}"
                            );
                            false
                        }
                    };
                    drop(store);
                    directory.crash(|n| choices.choose(n));
                    let found = open(&directory).load(A).unwrap();
                    crashed += u32::from(unsure);
                    let expected = if saved.is_ok() { Some(new) } else { old.as_ref() };
                    assert!(
                        found.as_ref() == expected || unsure && found.as_ref() == Some(new),
                        "step {step}, {fault:?}: {saved:?}, then {found:?}"
                    );
                    assert!(!directory.names().iter().any(|name| name.ends_with(ASIDE)));
                    // And it works again.
                    let mut store = open(&directory);
                    store.save(A, &state("next")).unwrap();
                    assert_eq!(open(&directory).load(A).unwrap(), Some(state("next")));
                    outcomes += 1;
                    if !choices.next() {
                        break;
                    }
                }
                if !met {
                    assert!(step >= 5, "a save has five steps at least");
                    break;
                }
            }
        }
    }
    assert!(outcomes > 200 && failed > 100 && crashed > 100, "{outcomes} {failed} {crashed}");
}

/// The process is killed at each step of a save, another one starts and reads what is there; then the power fails.
#[test]
fn what_a_start_has_read_no_power_failure_takes_back() {
    let mut changed = 0;
    for fault in [Fault::CrashBefore, Fault::CrashAfter] {
        for step in 0..5 {
            let mut choices = Choices::default();
            loop {
                let directory = SimulatedDirectory::default();
                let mut store = open(&directory);
                store.save(A, &state("old")).unwrap();
                directory.fail(directory.steps() + step, fault);
                let saved = store.save(A, &state("new"));
                assert!(saved.is_err(), "step {step}, {fault:?}");
                directory.restart();
                let read = open(&directory).load(A).unwrap();
                changed += u32::from(read == Some(state("new")));
                directory.crash(|n| choices.choose(n));
                assert_eq!(open(&directory).load(A).unwrap(), read, "step {step}, {fault:?}");
                if !choices.next() {
                    break;
                }
            }
        }
    }
    assert!(changed > 0);
}

#[test]
fn what_cannot_be_put_back_is_owed_and_settled_later() {
    for old in [None, Some(state("old"))] {
        let directory = SimulatedDirectory::default();
        let mut store = open(&directory);
        if let Some(old) = &old {
            store.save(A, old).unwrap();
        }
        // Make, write, sync, rename; then the name is not brought to the disk, and neither is that of the old one.
        let first = directory.steps();
        for step in 4..30 {
            directory.fail(first + step, Fault::Broken);
        }
        let e = store.save(A, &state("new")).unwrap_err();
        assert!(e.unsettled);
        assert!(e.to_string().contains("7.0.state cannot be brought to the disk with its name: "), "{e}");
        assert!(e.to_string().contains("may hold what was refused"), "{e}");
        // It never tells of what it refused.
        assert_eq!(store.load(A).unwrap(), old);
        assert!(!store.settle());
        // Nor does a save that fails early make it forget what it owes.
        assert!(store.save(A, &state("newer")).unwrap_err().unsettled);
        assert_eq!(store.load(A).unwrap(), old);
        while !store.settle() {}
        directory.crash(|_| 0);
        assert_eq!(open(&directory).load(A).unwrap(), old);

        let first = directory.steps();
        for step in 4..9 {
            directory.fail(first + step, Fault::Broken);
        }
        let mut store = open(&directory);
        store.save(A, &state("new")).unwrap_err();
        while store.save(A, &state("newest")).is_err() {}
        assert!(store.settle());
        directory.crash(|_| 0);
        assert_eq!(open(&directory).load(A).unwrap(), Some(state("newest")));
    }
}

#[test]
fn no_room_leaves_what_was_and_room_mends_it() {
    let directory = SimulatedDirectory::default();
    let mut store = open(&directory);
    store.save(A, &state("old")).unwrap();
    let one = record::encode(&state("old")).len();
    for room in [one, one + 1, 2 * one - 1] {
        directory.set_room(Some(room));
        let e = store.save(A, &state("new")).unwrap_err();
        assert_eq!((e.step, e.unsettled), (Step::Write, false));
        assert_eq!(
            e.to_string(),
            "/state/7.0.state cannot be written: No space left on device (os error 28); make room there"
        );
        assert_eq!(store.load(A).unwrap(), Some(state("old")));
        assert_eq!(directory.names(), ["7.0.state"]);
    }
    directory.set_room(Some(2 * one));
    store.save(A, &state("new")).unwrap();
    assert_eq!(store.load(A).unwrap(), Some(state("new")));
}

#[test]
fn a_file_that_was_left_is_in_nobodys_way() {
    let directory = SimulatedDirectory::default();
    let mut store = open(&directory);
    // The write fails, and so does the removal.
    let first = directory.steps();
    directory.fail(first + 1, Fault::NoRoom);
    directory.fail(first + 2, Fault::Broken);
    assert_eq!(store.save(A, &state("a")).unwrap_err().step, Step::Write);
    assert_eq!(directory.names(), ["7.0.state.new"]);
    store.save(A, &state("b")).unwrap();
    assert_eq!(directory.names(), ["7.0.state"]);
    assert_eq!(store.load(A).unwrap(), Some(state("b")));
}

proptest! {
    /// Many saves, many faults, and a crash at the end, wherever it falls.
    #[test]
    fn after_a_crash_each_slot_has_what_was_kept_last_or_came_after_it(
        saves in proptest::collection::vec((any::<bool>(), states()), 1..8),
        faults in proptest::collection::btree_map(0u64..60, prop::sample::select(&FAULTS[..]), 0..8),
        seed in any::<u64>(),
    ) {
        let directory = SimulatedDirectory::default();
        let mut store = open(&directory);
        for (step, fault) in faults {
            directory.fail(step, fault);
        }
        let mut kept: BTreeMap<Address, Option<SlotState>> = [(A, None), (B, None)].into();
        // What else a file may hold, for no answer could be given, or an old state is owed.
        let mut open_ends: BTreeMap<Address, Vec<SlotState>> = BTreeMap::new();
        for (which, state) in saves {
            let address = if which { A } else { B };
            match store.save(address, &state) {
                Ok(()) => {
                    kept.insert(address, Some(state));
                    open_ends.remove(&address);
                }
                Err(e) => {
                    let dead = e.source.to_string().contains("gone") || store.load(address).is_err();
                    if e.unsettled || dead {
                        open_ends.entry(address).or_default().push(state);
                    } else {
                        open_ends.remove(&address);
                    }
                    if dead {
                        break;
                    }
                }
            }
            prop_assert_eq!(&store.load(address).unwrap(), &kept[&address]);
        }
        let mut random = seed;
        directory.crash(|n| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) as usize % n
        });
        let mut store = open(&directory);
        for (address, kept) in kept {
            let found = store.load(address).unwrap();
            let also = open_ends.get(&address).map(Vec::as_slice).unwrap_or_default();
            prop_assert!(
                found == kept || found.as_ref().is_some_and(|found| also.contains(found)),
                "{address}: {found:?}, not {kept:?} nor one of {also:?}"
            );
        }
    }
}

// ---- a directory of this machine ---------------------------------------------------------------------------------

fn real(path: &Path) -> DirectoryStore {
    DirectoryStore::in_directory(std::fs::File::open(path).unwrap().into(), path).unwrap()
}

#[test]
fn a_real_directory_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("7.9.state.new"), "half of it").unwrap();
    std::fs::write(dir.path().join("notes"), "somebody's").unwrap();
    let mut store = real(dir.path());
    assert_eq!(store.load(A).unwrap(), None);
    store.save(A, &state("a")).unwrap();
    store.save(A, &state("b")).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["7.0.state", "notes"]);
    let file = dir.path().join("7.0.state");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(record::decode(&std::fs::read(&file).unwrap()), Ok(state("b")));
    assert_eq!(real(dir.path()).load(A).unwrap(), Some(state("b")));
}

#[test]
fn what_cannot_be_read_is_no_empty_state() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("7.0.state");
    let mut store = real(dir.path());
    let say = |store: &mut DirectoryStore| store.load(A).unwrap_err().to_string();
    for (content, said) in [
        (&b""[..], ": it does not end with its checksum"),
        (b"format = 1\n", ": it does not end with its checksum"),
        (&[b'#'; record::MOST_BYTES + 1], ": it is longer than 24576 bytes"),
    ] {
        std::fs::write(&file, content).unwrap();
        let text = say(&mut store);
        assert!(text.starts_with(&format!("{}{said}", file.display())), "{text}");
        assert!(
            text.contains("; bring the file back from a copy, or remove it: that forgets the config string")
        );
    }
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    assert!(say(&mut store).contains("it is no regular file"));
    std::fs::remove_dir(&file).unwrap();
    std::os::unix::fs::symlink("/dev/null", &file).unwrap();
    assert!(say(&mut store).starts_with(&format!("{}: ", file.display())));
    std::fs::remove_file(&file).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert!(say(&mut store).contains("it is no regular file"), "a pipe does not make it hang");
}
