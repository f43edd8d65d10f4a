//! Opens the backings of all slots, and says what each slot tells initiators about itself.
//!
//! Not here: who owns which slot (`topology`), reading or writing.
//! Invariant: either every slot is open and no two share a byte of a backing, or none is.

use super::recovery::Keepsake;
use crate::appliance::config::Slot;
use crate::appliance::control::overview::{Place, States};
use crate::appliance::keeper::{Keeper, Opener};
use crate::appliance::state::store::{LoadError, Store};
use crate::frame::WorkerId;
use crate::limits::{self, SECTOR};
use crate::protocol::Address;
use crate::shelf::{AtaText, SlotFacts, SlotState, TextError};
use crate::storage::device::{self, Device, Durability, Identity, OpenError, Options};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

/// A slot with its backing.
#[derive(Debug)]
pub struct OpenSlot {
    /// What it says about itself.
    pub facts: SlotFacts,
    /// The worker it asked for.
    pub worker: Option<u16>,
    /// Its backing.
    pub device: Device,
}

/// A slot that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// Its backing cannot be opened.
    #[error("slot {address}: {source}")]
    Open {
        /// The slot.
        address: Address,
        /// Why; names the path.
        source: OpenError,
    },
    /// Another slot has the same bytes.
    #[error(
        "slot {address}: {} is the same as {} of slot {first}; serve each backing once, or parts of it (offset and \
         length) that do not overlap",
        path.display(),
        first_path.display()
    )]
    Twice {
        /// The slot.
        address: Address,
        /// Its path.
        path: PathBuf,
        /// The slot that has it.
        first: Address,
        /// The path of that one.
        first_path: PathBuf,
    },
    /// What hosts have set on it cannot be read. To serve it without would let in whom its mask keeps out.
    #[error("slot {address}: {source}")]
    State {
        /// The slot.
        address: Address,
        /// Why not; names the file.
        source: LoadError,
    },
    /// It is not what the slot served before it was started again in the same process.
    #[error("slot {address}: {}: {what}; start xshelf again to serve it all the same", path.display())]
    Changed {
        /// The slot.
        address: Address,
        /// Its path.
        path: PathBuf,
        /// What is different.
        what: String,
    },
    /// IDENTIFY cannot carry what the device says of itself.
    #[error(
        "slot {address}: its device calls itself \"{text}\": {source}; give the slot a serial of its own"
    )]
    Text {
        /// The slot.
        address: Address,
        /// The text.
        text: String,
        /// What is wrong with it.
        source: TextError,
    },
}

impl SlotError {
    /// The slot that cannot be served.
    #[must_use]
    pub fn address(&self) -> Address {
        match self {
            Self::Open { address, .. }
            | Self::Twice { address, .. }
            | Self::State { address, .. }
            | Self::Changed { address, .. }
            | Self::Text { address, .. } => *address,
        }
    }
}

/// Opens all slots.
///
/// # Errors
/// [`SlotError`] of the first slot that cannot be served; those opened before are closed again.
pub fn open(slots: &[Slot], keeper: &dyn Keeper) -> Result<Vec<OpenSlot>, SlotError> {
    // First who is who: a second open of the same backing would only say that it is in use.
    let mut seen: Vec<(Identity, &Slot)> = Vec::new();
    for slot in slots {
        let address = slot.address;
        let identity = keeper.identify(&slot.path).map_err(|source| SlotError::Open { address, source })?;
        if let Some((_, first)) =
            seen.iter().find(|(other, first)| *other == identity && first.overlaps(slot))
        {
            return Err(SlotError::Twice {
                address,
                path: slot.path.clone(),
                first: first.address,
                first_path: first.path.clone(),
            });
        }
        seen.push((identity, slot));
    }
    let mut claims: Vec<(Identity, OwnedFd)> = Vec::new();
    let mut open = Vec::with_capacity(slots.len());
    for (identity, slot) in &seen {
        let device = open_backing(slot, *identity, &seen, &mut claims, keeper)
            .map_err(|source| SlotError::Open { address: slot.address, source })?;
        open.push(describe(slot, device)?);
    }
    Ok(open)
}

/// Compares the slots with what they were before, as far as that is known: hosts know nothing of a new start in the same
/// process, and must not find another disk behind it.
///
/// # Errors
/// [`SlotError::Changed`] of the first slot that has become another.
pub fn compare(slots: &[OpenSlot], before: &BTreeMap<Address, Keepsake>) -> Result<(), SlotError> {
    for OpenSlot { facts, device, .. } in slots {
        let address = facts.address;
        if let Some(what) = before.get(&address).and_then(|known| known.differs(device)) {
            return Err(SlotError::Changed { address, path: device.path().to_path_buf(), what });
        }
    }
    Ok(())
}

/// Tries whether the backing of a slot can be had, and is what it was `before`, in a thread of its own: a device that hangs
/// is a long time in answering.
///
/// # Errors
/// When no thread is to be had.
pub fn probe(slot: &Slot, opener: Arc<dyn Opener>, before: Option<Keepsake>) -> io::Result<Receiver<bool>> {
    let (sender, found) = sync_channel(1);
    let (path, options) = (slot.path.clone(), options(slot));
    std::thread::Builder::new().name("xshelf-probe".into()).spawn(move || {
        let device = opener.claim(&path, options).and_then(|claim| device::measure(claim, &path, options));
        let well = device.is_ok_and(|device| before.is_none_or(|known| known.differs(&device).is_none()));
        // The device is closed again. Nobody listens any more: it was started again meanwhile.
        let _ = sender.send(well);
    })?;
    Ok(found)
}

/// Gives the slots what hosts have set on them in an earlier run. What the configuration says of a config string holds for
/// slots of which nothing is kept. Returns what to say of it once it is served.
///
/// # Errors
/// [`SlotError::State`] of the first slot whose state is kept and cannot be read.
pub fn restore(slots: &mut [OpenSlot], store: &mut dyn Store) -> Result<Vec<String>, SlotError> {
    let mut lines = Vec::new();
    for OpenSlot { facts, .. } in slots {
        let address = facts.address;
        let kept = store.load(address).map_err(|source| SlotError::State { address, source })?;
        let Some(kept) = kept else { continue };
        let configured = std::mem::replace(&mut facts.state, kept).config_string;
        lines.extend(
            about(&facts.state, &configured).into_iter().map(|line| format!("slot {address}: {line}")),
        );
    }
    Ok(lines)
}

/// What people should know of a state that was kept, or wonder why the slot is not as it is configured.
fn about(kept: &SlotState, configured: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    let hosts = |n: usize| format!("{n} host{}", if n == 1 { "" } else { "s" });
    let (mask, reserved) = (hosts(kept.mask.len()), hosts(kept.reserved.len()));
    match (kept.mask.is_empty(), kept.reserved.is_empty()) {
        (true, true) => {}
        (false, true) => lines.push(format!("by its mask, only {mask} may talk to it")),
        (true, false) => lines.push(format!("it is reserved: only {reserved} may use it")),
        (false, false) => {
            lines.push(format!("by its mask, only {mask} may talk to it, and it is reserved for {reserved}"));
        }
    }
    if !configured.is_empty() && kept.config_string.as_slice() != configured {
        lines.push("its config string is the one that was kept, not that of the configuration".into());
    }
    lines
}

/// What hosts have set on each slot.
pub fn states(slots: &[OpenSlot]) -> States {
    States::new(slots.iter().map(|slot| (slot.facts.address, slot.facts.state.clone())))
}

/// Where each slot is: with its owner under the number that `Routes` gives it, which counts up by slot for each of them.
pub fn places(slots: &[OpenSlot], owners: &[WorkerId]) -> Vec<Place> {
    let mut numbers: BTreeMap<WorkerId, u16> = BTreeMap::new();
    let place = |(slot, &worker): (&OpenSlot, &WorkerId)| {
        let next = numbers.entry(worker).or_default();
        let number = *next;
        *next += 1;
        let path = slot.device.path().display().to_string();
        Place { address: slot.facts.address, worker, number, path }
    };
    slots.iter().zip(owners).map(place).collect()
}

/// Opens what a slot serves. A backing of several slots is claimed once, for writing if one of them writes; each of them
/// keeps the claim.
fn open_backing(
    slot: &Slot,
    identity: Identity,
    all: &[(Identity, &Slot)],
    claims: &mut Vec<(Identity, OwnedFd)>,
    keeper: &dyn Keeper,
) -> Result<Device, OpenError> {
    let (path, options) = (&slot.path, options(slot));
    let parts = || all.iter().filter(|(other, _)| *other == identity).map(|(_, slot)| slot);
    if parts().count() == 1 {
        return device::measure(keeper.claim(path, options)?, path, options);
    }
    let duplicate = |claim: &OwnedFd| {
        claim.try_clone().map_err(|source| OpenError::Io {
            path: path.clone(),
            what: "open it for several slots",
            source,
        })
    };
    let claim = match claims.iter().find(|(other, _)| *other == identity) {
        Some((_, claim)) => duplicate(claim)?,
        None => {
            let read_only = parts().all(|s| s.read_only);
            let claim = keeper.claim(path, Options { read_only, ..options })?;
            claims.push((identity, duplicate(&claim)?));
            claim
        }
    };
    let file = keeper.open_again(claim.as_fd(), path, options)?;
    device::measure_part(file, claim, path, options)
}

fn options(slot: &Slot) -> Options {
    Options {
        read_only: slot.read_only,
        write_back: slot.write_back,
        offset: slot.offset,
        length: slot.length,
    }
}

fn describe(slot: &Slot, device: Device) -> Result<OpenSlot, SlotError> {
    let address = slot.address;
    let text = |text: &str| SlotError::Text { address, text: text.to_owned(), source: TextError::NotAscii };
    let own = device.serial();
    let serial = match slot.serial {
        Some(serial) => serial,
        None => own.parse().map_err(|source| SlotError::Text { address, text: own.to_owned(), source })?,
    };
    let facts = SlotFacts {
        vlan: slot.vlan,
        read_only: device.read_only(),
        write_cache: device.durability() == Durability::OnFlush,
        trim: device.trims(),
        rotational: device.rotational().unwrap_or(false),
        physical_block: device.physical_block(),
        misalignment: device.misalignment(),
        serial,
        model: match slot.model {
            Some(model) => model,
            None => MODEL.parse::<AtaText<40>>().map_err(|_| text(MODEL))?,
        },
        firmware: match slot.firmware {
            Some(firmware) => firmware,
            None => FIRMWARE.parse::<AtaText<8>>().map_err(|_| text(FIRMWARE))?,
        },
        wwn: slot.wwn.unwrap_or_else(|| wwn(&serial)),
        buffers: slot.buffers.unwrap_or(limits::BUFFER_COUNT),
        allow: slot.allow.clone(),
        reserved_answer: slot.reserved_answer,
        state: SlotState::with_config_string(&slot.config_string),
        ..SlotFacts::new(address, device.size() / SECTOR as u64)
    };
    Ok(OpenSlot { facts, worker: slot.worker, device })
}

/// The world wide name of a slot that was given none: NAA 3, "locally assigned" (SPC-4, 7.8.6.6), and 60 bits of
/// the serial number's FNV-1a hash, its upper four folded into the lower ones. Hosts find their disks by it, so it has
/// to be the same in every version.
fn wwn(serial: &AtaText<20>) -> u64 {
    let hash = serial.to_string().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    3 << 60 | ((hash >> 60 ^ hash) & ((1 << 60) - 1))
}

/// Model of a slot that has none of its own.
const MODEL: &str = "xshelf";
/// Firmware in IDENTIFY: the version of this program.
const FIRMWARE: &str = env!("CARGO_PKG_VERSION");
const _: () = assert!(FIRMWARE.len() <= 8, "IDENTIFY has 8 characters for the firmware");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appliance::config::{Config, Quick};
    use crate::appliance::keeper::DirectKeeper;
    use crate::appliance::state::simulated::SimulatedDirectory;
    use crate::appliance::state::store::{Directory as _, RecordStore};
    use crate::protocol::Mac;
    use std::path::Path;

    fn slots(arguments: &[String]) -> Vec<Slot> {
        let quick = Quick {
            interfaces: vec!["eth1".into()],
            slots: arguments.iter().map(Into::into).collect(),
            ..Quick::default()
        };
        Config::from_arguments(&quick).0.unwrap().slots
    }

    fn image(dir: &Path, name: &str, bytes: u64) -> String {
        let path = dir.join(name);
        std::fs::File::create(&path).unwrap().set_len(bytes).unwrap();
        path.display().to_string()
    }

    #[test]
    fn a_slot_says_what_its_backing_and_its_configuration_say() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (image(dir.path(), "a", 1 << 20), image(dir.path(), "b", 512));
        let slots = slots(&[format!("7.0={a}"), format!("8.3={b},ro,serial=S,model=M,vlan=5,worker=1")]);
        let open = open(&slots, &DirectKeeper).unwrap();
        let facts = &open[0].facts;
        assert_eq!((facts.address.to_string().as_str(), facts.sectors, facts.vlan), ("7.0", 2048, 0));
        assert_eq!((facts.read_only, facts.model.to_string().as_str()), (false, "xshelf"));
        assert_eq!(facts.firmware.to_string(), FIRMWARE);
        assert!(!facts.serial.to_string().is_empty());
        let facts = &open[1].facts;
        assert_eq!((facts.sectors, facts.vlan, facts.read_only), (1, 5, true));
        assert_eq!((facts.serial.to_string().as_str(), facts.model.to_string().as_str()), ("S", "M"));
        assert_eq!(open[1].worker, Some(1));
    }

    #[test]
    fn a_world_wide_name_follows_from_the_serial_and_never_changes() {
        let of = |serial: &str| wwn(&serial.parse().unwrap());
        // Hosts have these in their tables: a change here breaks their multipath and mounts.
        assert_eq!(of("XS0123456789ABCDEF"), 0x3484_1b61_ec60_1b00);
        assert_eq!(of("A"), 0x3f63_fc4c_8602_22e6);
        let all: Vec<u64> = (0..1000).map(|i| of(&format!("S{i}"))).collect();
        for (i, name) in all.iter().enumerate() {
            assert_eq!(name >> 60, 3);
            assert!(!all[..i].contains(name));
        }
        let dir = tempfile::tempdir().unwrap();
        let a = image(dir.path(), "a", 512);
        let facts = |options: &str| {
            open(&slots(&[format!("7.0={a}{options}")]), &DirectKeeper).unwrap().remove(0).facts
        };
        assert_eq!(facts(",serial=A").wwn, of("A"));
        assert_eq!(facts("").wwn, of(&facts("").serial.to_string()));
        assert_eq!(facts(",wwn=none").wwn, 0);
        let facts = facts(",wwn=5000000000000001,firmware=F,buffers=3,mask=020000000001,reserved-answer=ata");
        assert_eq!(
            (facts.wwn, facts.firmware.to_string().as_str(), facts.buffers),
            (0x5000_0000_0000_0001, "F", 3)
        );
        assert_eq!((facts.allow.len(), facts.reserved_answer), (1, crate::shelf::ReservedAnswer::Ata));
    }

    #[test]
    fn what_hosts_have_set_wins_over_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (image(dir.path(), "a", 512), image(dir.path(), "b", 512));
        let slots = slots(&[format!("7.0={a},config-string=mine"), format!("7.1={b},config-string=also")]);
        let mut disk = SimulatedDirectory::default();
        let same = disk.clone();
        let store = || RecordStore::open(same.clone(), Path::new("/state")).unwrap();
        let restored = || {
            let mut open = open(&slots, &DirectKeeper).unwrap();
            restore(&mut open, &mut store()).map(|_| open.into_iter().map(|slot| slot.facts.state).collect())
        };
        let configured = [&b"mine"[..], b"also"].map(SlotState::with_config_string);
        assert_eq!(restored().unwrap(), configured.to_vec());

        let mut kept = SlotState::default();
        kept.mask.push(Mac([2, 0, 0, 0, 0, 7]));
        store().save(slots[0].address, &kept).unwrap();
        // Also where a host has emptied it.
        assert_eq!(restored().unwrap(), vec![kept, configured[1].clone()]);

        let mut file = disk.create("7.1.state").unwrap();
        disk.write(&mut file, b"format = 1\n").unwrap();
        let error = restored().map(|states: Vec<_>| states).unwrap_err().to_string();
        assert!(
            error.starts_with("slot 7.1: /state/7.1.state: it does not end with its checksum"),
            "{error}"
        );
        assert!(error.ends_with("so that everybody may write to the slot"), "{error}");
    }

    #[test]
    fn a_kept_state_is_told_where_people_would_wonder() {
        let mut kept = SlotState::with_config_string(b"theirs");
        let said = "its config string is the one that was kept, not that of the configuration";
        assert_eq!(about(&kept, b"theirs"), [""; 0]);
        assert_eq!(about(&kept, b""), [""; 0]);
        assert_eq!(about(&kept, b"mine"), [said]);
        kept.mask.push(Mac([2, 0, 0, 0, 0, 7]));
        assert_eq!(about(&kept, b"mine"), ["by its mask, only 1 host may talk to it", said]);
        kept.reserved = kept.mask.clone();
        kept.reserved.push(Mac([2, 0, 0, 0, 0, 8]));
        assert_eq!(
            about(&kept, b""),
            ["by its mask, only 1 host may talk to it, and it is reserved for 2 hosts"]
        );
        kept.mask.clear();
        assert_eq!(about(&kept, b""), ["it is reserved: only 2 hosts may use it"]);
    }

    #[test]
    fn errors_name_slot_and_path() {
        let dir = tempfile::tempdir().unwrap();
        let a = image(dir.path(), "a", 4096);
        let say = |arguments: &[String]| open(&slots(arguments), &DirectKeeper).unwrap_err().to_string();
        let missing = dir.path().join("none").display().to_string();
        assert!(
            say(&[format!("7.0={a}"), format!("7.1={missing}")])
                .starts_with(&format!("slot 7.1: {missing} does not exist; "))
        );
        let odd = image(dir.path(), "odd", 1000);
        assert!(say(&[format!("7.1={odd}")]).starts_with(&format!("slot 7.1: {odd} has 1000 bytes")));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&a, &link).unwrap();
        assert_eq!(
            say(&[format!("7.0={a}"), format!("7.1={}", link.display())]),
            format!(
                "slot 7.1: {} is the same as {a} of slot 7.0; serve each backing once, or parts of it (offset and \
                 length) that do not overlap",
                link.display()
            )
        );
    }

    #[test]
    fn slots_share_a_backing_but_no_byte_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let a = image(dir.path(), "a", 1 << 20);
        let [link, another] = ["link", "another"].map(|name| {
            let link = dir.path().join(name);
            std::os::unix::fs::symlink(&a, &link).unwrap();
            link.display().to_string()
        });
        let mut all =
            slots(&[format!("7.0={a},serial=first"), format!("7.1={link},ro"), format!("7.2={another}")]);
        let mut windows = |parts: [(u64, Option<u64>); 3]| {
            for (slot, (offset, length)) in all.iter_mut().zip(parts) {
                (slot.offset, slot.length) = (offset, length);
            }
            open(&all, &DirectKeeper)
        };
        let parts = [(0, Some(4096)), (8192, None), (4608, Some(512))];
        let held = windows(parts).unwrap();
        let sectors: Vec<u64> = held.iter().map(|s| s.facts.sectors).collect();
        assert_eq!(sectors, [8, 2032, 1]);
        let read_only: Vec<bool> = held.iter().map(|s| s.device.read_only()).collect();
        assert_eq!(read_only, [false, true, false]);
        assert_ne!(held[1].facts.serial, held[2].facts.serial);
        assert_eq!((held[1].facts.misalignment, held[2].facts.misalignment), (0, 512));
        // Nobody else gets it before the last of them is closed.
        let [first, second, last] = <[OpenSlot; 3]>::try_from(held).unwrap();
        drop((first, last));
        assert!(windows(parts).unwrap_err().to_string().contains("used by another program"));
        drop(second);
        drop(windows(parts).unwrap());
        for (parts, first, second) in [
            ([(0, Some(4096)), (4096, None), (4608, Some(512))], "7.1", "7.2"),
            ([(0, None), (8192, None), (4608, Some(512))], "7.0", "7.1"),
            ([(512, Some(512)), (8192, None), (0, Some(1024))], "7.0", "7.2"),
        ] {
            let e = windows(parts).unwrap_err().to_string();
            assert!(
                e.starts_with(&format!("slot {second}: ")) && e.contains(&format!("of slot {first};")),
                "{e}"
            );
        }
    }

    #[test]
    fn a_probe_tells_whether_a_slot_can_be_had_and_claims_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let a = image(dir.path(), "a", 4096);
        let all = slots(&[format!("7.0={a}")]);
        let found = || probe(&all[0], DirectKeeper.opener(), None).unwrap().recv().unwrap();
        assert!(found());
        let held = open(&all, &DirectKeeper).unwrap();
        assert!(!found(), "somebody has it");
        drop(held);
        std::fs::remove_file(&a).unwrap();
        assert!(!found());
    }

    #[test]
    fn a_failed_start_gives_back_what_it_had_claimed() {
        let dir = tempfile::tempdir().unwrap();
        let (a, odd) = (image(dir.path(), "a", 4096), image(dir.path(), "odd", 1000));
        let both = slots(&[format!("7.0={a}"), format!("7.1={odd}")]);
        open(&both, &DirectKeeper).unwrap_err();
        let held = open(&both[..1], &DirectKeeper).unwrap();
        // While it is held, nobody else gets it.
        let e = open(&both[..1], &DirectKeeper).unwrap_err().to_string();
        assert!(e.starts_with(&format!("slot 7.0: {a} is ")), "{e}");
        drop(held);
        open(&both[..1], &DirectKeeper).unwrap();
    }
}
