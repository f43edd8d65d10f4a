//! The rules of a configuration, wherever it was written: of single values, and between them.
//!
//! Not here: reading text (`file`, `quick`), nor anything that asks the machine (`appliance::check`).
//! Invariant: a broken rule is noted as a mistake; whoever serves a [`Config`] asks first whether there are any.

use super::keys;
use super::mistake::{Mistakes, Place, Wrong, did_you_mean};
use super::{Config, Cores, HugePages, Interface, Memory, Mode, Queues, Rivals, Slot, Workers, window_end};
use crate::appliance::control;
use crate::limits;
use crate::protocol::{Address, Mac};
use crate::shelf::{AtaText, ReservedAnswer};
use std::collections::HashMap;
use std::hash::Hash;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// A value with the key that gave it and where it stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given<T> {
    pub value: T,
    pub key: String,
    pub place: Place,
}

/// An interface as it was read; a value that could not be read is missing.
#[derive(Clone, Debug)]
pub(super) struct DraftInterface {
    pub name: Option<Given<String>>,
    pub mode: Mode,
    pub queues: Queues,
}

/// A slot as it was read.
#[derive(Clone, Debug)]
pub(super) struct DraftSlot {
    pub address: Option<Given<Address>>,
    pub path: Option<Given<PathBuf>>,
    pub read_only: bool,
    pub write_back: Option<Given<bool>>,
    pub serial: Option<Given<AtaText<20>>>,
    pub model: Option<AtaText<40>>,
    pub vlan: u16,
    pub config_string: Vec<u8>,
    pub worker: Option<Given<u16>>,
    pub firmware: Option<AtaText<8>>,
    pub wwn: Option<Given<u64>>,
    pub offset: u64,
    pub length: Option<u64>,
    pub allow: Vec<Mac>,
    pub reserved_answer: ReservedAnswer,
    pub rivals: Rivals,
    pub buffers: Option<u16>,
}

impl DraftSlot {
    /// Where what is served ends in the backing.
    fn end(&self) -> u64 {
        window_end(self.offset, self.length)
    }
}

/// Everything that was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Draft {
    pub interfaces: Vec<DraftInterface>,
    pub slots: Vec<DraftSlot>,
    pub count: Option<Given<u16>>,
    pub cores: Option<Given<Cores>>,
    pub spin_us: Option<u16>,
    pub memory: Memory,
    pub state_dir: Option<PathBuf>,
    pub control: control::Place,
}

/// What to do when there is no interface, or no slot: depends on where they would be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remedies {
    pub interface: &'static str,
    pub slot: &'static str,
}

impl Draft {
    /// Checks everything between the values and builds the configuration: whole if no rule was broken, else what could
    /// be read of it. Without `remedies` it does not ask for what is missing: that may stand in the part of a file that
    /// could not be parsed.
    pub fn finish(self, remedies: Option<Remedies>, mistakes: &mut Mistakes) -> Config {
        if let Some(remedies) = remedies {
            if self.interfaces.is_empty() {
                mistakes.error(None, "", Wrong::new("there is no interface to serve on", remedies.interface));
            }
            if self.slots.is_empty() {
                mistakes.error(None, "", Wrong::new("there is no slot to serve", remedies.slot));
            }
        }
        self.check_duplicates(mistakes);
        for slot in &self.slots {
            if let (true, Some(given @ Given { value: true, .. })) = (slot.read_only, &slot.write_back) {
                mistakes.warning(
                    Some(&given.place),
                    &given.key,
                    Wrong::new("write-back has no effect on a read-only slot", "remove one of the two"),
                );
            }
        }
        self.check_workers(mistakes);
        self.build()
    }

    fn check_duplicates(&self, mistakes: &mut Mistakes) {
        let names = self.interfaces.iter().filter_map(|i| i.name.as_ref());
        twice(names, mistakes, |name, first| {
            Wrong::new(format!("{name} was named before ({first})"), "name each interface once")
        });
        let addresses = self.slots.iter().filter_map(|s| s.address.as_ref());
        twice(addresses, mistakes, |address, first| {
            Wrong::new(format!("slot {address} was given before ({first})"), "give each slot its own address")
        });
        self.check_shared_paths(mistakes);
        let serials = self.slots.iter().filter_map(|s| s.serial.as_ref());
        twice(serials, mistakes, |serial, first| {
            let what = format!("serial {serial} belongs to another slot already ({first})");
            Wrong::new(what, "give each slot its own: multipath takes equal serials for one disk")
        });
        let wwns = self.slots.iter().filter_map(|s| s.wwn.as_ref().filter(|wwn| wwn.value != 0));
        twice(wwns, mistakes, |wwn, first| {
            let what = format!("WWN {wwn:016x} belongs to another slot already ({first})");
            Wrong::new(what, "give each slot its own: multipath takes equal names for one disk")
        });
    }

    /// Several slots may serve parts of one backing, but none a byte of another's.
    fn check_shared_paths(&self, mistakes: &mut Mistakes) {
        let mut seen: HashMap<&Path, Vec<(&Given<PathBuf>, &DraftSlot)>> = HashMap::new();
        for slot in &self.slots {
            let Some(path) = &slot.path else { continue };
            let others = seen.entry(&path.value).or_default();
            let clash = others.iter().find(|(_, o)| slot.offset < o.end() && o.offset < slot.end());
            if let Some((first, _)) = clash {
                let name = path.value.display();
                let what = format!("{name} is served by another slot already ({})", first.place.brief());
                let remedy = "serve each backing once, or parts of it (offset, length) that do not overlap";
                mistakes.error(Some(&path.place), &path.key, Wrong::new(what, remedy));
            }
            others.push((path, slot));
        }
    }

    fn check_workers(&self, mistakes: &mut Mistakes) {
        let Some(count) = &self.count else { return };
        for worker in self.slots.iter().filter_map(|s| s.worker.as_ref()) {
            if worker.value >= count.value {
                let what = format!("there is no worker {}: the count is {}", worker.value, count.value);
                let remedy = format!("use 0 to {}, or raise the count", count.value.saturating_sub(1));
                mistakes.error(Some(&worker.place), &worker.key, Wrong::new(what, remedy));
            }
        }
        let cores = self.cores.as_ref().map_or(usize::MAX, |c| match &c.value {
            Cores::All => usize::MAX,
            Cores::First(n) => usize::from(*n),
            Cores::These(list) => list.len(),
        });
        if cores < usize::from(count.value) {
            let what = format!("{} workers share {cores} CPUs", count.value);
            let remedy = "expect less, not more, from it; lower the count or name more cores";
            mistakes.warning(Some(&count.place), &count.key, Wrong::new(what, remedy));
        }
    }

    /// Leaves out what lacks a value; that has been noted as a mistake by whoever read it.
    fn build(self) -> Config {
        let interfaces = self.interfaces.into_iter().filter_map(|i| {
            let name = i.name?;
            let (mode, queues, place, key) = (i.mode, i.queues, name.place, name.key);
            Some(Interface { name: name.value, mode, queues, place, key })
        });
        let slots = self.slots.into_iter().filter_map(|s| {
            let path = s.path?;
            Some(Slot {
                address: s.address?.value,
                path: path.value,
                read_only: s.read_only,
                write_back: !s.read_only && s.write_back.is_some_and(|w| w.value),
                serial: s.serial.map(|s| s.value),
                model: s.model,
                vlan: s.vlan,
                config_string: s.config_string,
                worker: s.worker.map(|w| w.value),
                firmware: s.firmware,
                wwn: s.wwn.map(|w| w.value),
                offset: s.offset,
                length: s.length,
                allow: s.allow,
                reserved_answer: s.reserved_answer,
                rivals: s.rivals,
                buffers: s.buffers,
                place: path.place,
                key: path.key,
            })
        });
        let mut slots: Vec<Slot> = slots.collect();
        slots.sort_by_key(|slot| slot.address);
        Config {
            interfaces: interfaces.collect(),
            slots,
            workers: Workers {
                count: self.count.map(|c| c.value),
                cores: self.cores.map_or(Cores::All, |c| c.value),
                spin_us: self.spin_us,
            },
            memory: self.memory,
            state_dir: self.state_dir,
            control: self.control,
        }
    }
}

/// Notes every value that was given before, and says where.
fn twice<'a, T: Eq + Hash + 'a>(
    given: impl Iterator<Item = &'a Given<T>>,
    mistakes: &mut Mistakes,
    say: impl Fn(&T, &str) -> Wrong,
) {
    let mut seen: HashMap<&T, &Given<T>> = HashMap::new();
    for one in given {
        if let Some(first) = seen.get(&one.value) {
            mistakes.error(Some(&one.place), &one.key, say(&one.value, &first.place.brief()));
        } else {
            seen.insert(&one.value, one);
        }
    }
}

/// `SHELF.SLOT`, without those that initiators cannot reach.
pub(in crate::appliance) fn address(text: &str) -> Result<Address, Wrong> {
    let remedy = "write SHELF.SLOT as in \"7.0\": shelf 0-65534 but not 4095, slot 0-254";
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let Some((shelf, slot)) = text.split_once('.').filter(|(a, b)| digits(a) && digits(b)) else {
        return Err(Wrong::new(format!("'{text}' is no address"), remedy));
    };
    let Some(shelf) = shelf.parse::<u16>().ok().filter(|s| !limits::RESERVED_SHELVES.contains(s)) else {
        let what = match shelf.parse::<u32>() {
            Ok(4095) => "Linux ignores shelf 4095".to_owned(),
            Ok(65535) => "shelf 65535 means every shelf".to_owned(),
            _ => format!("there is no shelf {shelf}"),
        };
        return Err(Wrong::new(what, "use a shelf from 0 to 65534 other than 4095"));
    };
    let Some(slot) = slot.parse::<u8>().ok().filter(|s| *s <= limits::MAX_SLOT) else {
        let what = if slot.parse::<u32>() == Ok(255) {
            "slot 255 means every slot".to_owned()
        } else {
            format!("there is no slot {slot}")
        };
        return Err(Wrong::new(what, format!("use a slot from 0 to {}", limits::MAX_SLOT)));
    };
    Ok(Address { shelf, slot })
}

/// A name the kernel could have given to an interface (net/core/dev.c, dev_valid_name).
pub(in crate::appliance) fn interface_name(name: &str) -> Result<String, Wrong> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(bad) {
        return Err(Wrong::new(
            format!("'{}' cannot be the name of an interface", name.escape_debug()),
            "use a name that `ip link` shows (1 to 15 bytes)",
        ));
    }
    Ok(name.to_owned())
}

/// The text of an IDENTIFY field of `N` characters.
pub(super) fn identify_text<const N: usize>(text: &str) -> Result<AtaText<N>, Wrong> {
    let remedy = || format!("use 1 to {N} printable ASCII characters");
    if text.is_empty() {
        return Err(Wrong::new("it is empty", remedy()));
    }
    if let Some(c) = text.chars().find(|c| !matches!(c, ' '..='~')) {
        return Err(Wrong::new(format!("'{}' is not printable ASCII", c.escape_debug()), remedy()));
    }
    if text.len() > N {
        return Err(Wrong::new(format!("it has {} characters", text.len()), remedy()));
    }
    // The field is filled up with spaces, so those at the ends would not be what initiators show.
    if text.trim_matches(' ') != text {
        return Err(Wrong::new("it starts or ends with a space", "remove the space"));
    }
    text.parse().map_err(|e| Wrong::new(format!("{e}"), remedy()))
}

/// VLANs a slot can be on; 0 is untagged.
pub(super) const VLANS: RangeInclusive<u16> = 0..=4094;

/// A config string (AoEr11, section 3.2).
pub(super) fn config_string(text: &str) -> Result<Vec<u8>, Wrong> {
    if text.len() > limits::CONFIG_STRING {
        let what = format!("it has {} bytes", text.len());
        return Err(Wrong::new(what, format!("use at most {}", limits::CONFIG_STRING)));
    }
    Ok(text.as_bytes().to_vec())
}

/// A world wide name; 0 for none.
pub(super) fn wwn(text: &str) -> Result<u64, Wrong> {
    let remedy = "write 16 hexadecimal digits, or none";
    if text == "none" {
        return Ok(0);
    }
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    if digits.len() != 16 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Wrong::new(format!("'{}' is no world wide name", text.escape_debug()), remedy));
    }
    match u64::from_str_radix(digits, 16) {
        Ok(0) | Err(_) => Err(Wrong::new("it is all zeroes, which means that there is none", remedy)),
        Ok(wwn) => Ok(wwn),
    }
}

/// Bytes, as text: `1G`, `2048s`, `512`.
pub(super) fn bytes(text: &str) -> Result<i128, Wrong> {
    let wrong = || {
        Wrong::new(
            format!("'{}' is no number of bytes", text.escape_debug()),
            "write bytes as 4096, 64K, 1G or 2T (powers of 1024), or sectors of 512 bytes as 2048s",
        )
    };
    let number = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit: i128 = match &text[number.len()..] {
        "" => 1,
        "s" => limits::SECTOR as i128,
        "K" | "k" => 1 << 10,
        "M" | "m" => 1 << 20,
        "G" | "g" => 1 << 30,
        "T" | "t" => 1 << 40,
        _ => return Err(wrong()),
    };
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: i128 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).ok_or_else(wrong)
}

/// Where a slot begins in its backing, in bytes.
pub(super) fn offset(bytes: i128) -> Result<u64, Wrong> {
    let bytes = within(bytes, &(0..=keys::MAX_BYTES))?;
    let below = bytes - bytes % SECTOR;
    if below != bytes {
        let remedy = format!("use {below} or {}", below + SECTOR);
        return Err(Wrong::new(format!("{bytes} is no multiple of {SECTOR} bytes"), remedy));
    }
    Ok(bytes)
}

/// How much of its backing a slot serves, in bytes.
pub(super) fn length(bytes: i128) -> Result<u64, Wrong> {
    if bytes == 0 {
        return Err(Wrong::new("it is 0", "leave it out to serve all behind the offset"));
    }
    offset(bytes)
}

const SECTOR: u64 = limits::SECTOR as u64;

/// The address of one host, in any usual spelling.
pub(in crate::appliance) fn mac(text: &str) -> Result<Mac, Wrong> {
    let wrong = |what: &str, remedy: &str| Wrong::new(format!("'{}' {what}", text.escape_debug()), remedy);
    // vblade takes digits without colons; switches print three groups of four.
    let plain: String = text.chars().filter(|c| *c != '.').collect();
    let parsed = if plain.len() == 12 && plain.is_ascii() {
        let pairs: Vec<&str> = (0..6).map(|i| &plain[2 * i..2 * i + 2]).collect();
        pairs.join(":").parse()
    } else {
        text.parse()
    };
    let mac: Mac =
        parsed.map_err(|_| wrong("is no MAC address", "write it as 02:00:00:00:00:01 or 020000000001"))?;
    if mac.is_group() {
        return Err(wrong("is the address of a group of hosts", "name each host by its own address"));
    }
    if mac == Mac::default() {
        return Err(wrong("is nobody's address", "name hosts by what `ip link` shows on them"));
    }
    Ok(mac)
}

/// A list of hosts, each once.
pub(super) fn allow<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Vec<Mac>, Wrong> {
    let mut list = Vec::new();
    for text in texts {
        let mac = mac(text)?;
        if list.contains(&mac) {
            return Err(Wrong::new(format!("{mac} is named twice"), "name each host once"));
        }
        list.push(mac);
    }
    if list.len() > limits::MAC_LIST {
        let what = format!("it names {} hosts", list.len());
        return Err(Wrong::new(what, format!("name at most {}", limits::MAC_LIST)));
    }
    Ok(list)
}

/// The words for [`ReservedAnswer`].
pub(super) const RESERVED_ANSWERS: [(&str, ReservedAnswer); 2] =
    [("aoe", ReservedAnswer::Aoe), ("ata", ReservedAnswer::Ata)];

/// The words for [`Rivals`].
pub(super) const RIVALS: [(&str, Rivals); 3] =
    [("refuse", Rivals::Refuse), ("alarm", Rivals::Alarm), ("ignore", Rivals::Ignore)];

/// A path; in a file it has to be absolute.
pub(super) fn absolute(path: &Path) -> Result<(), Wrong> {
    if path.is_absolute() {
        Ok(())
    } else {
        Err(Wrong::new(
            format!("'{}' is a relative path, which would depend on where xshelf is started", path.display()),
            "write it from / on",
        ))
    }
}

/// A number within its range.
pub(super) fn within<T: TryFrom<i128> + PartialOrd + std::fmt::Display>(
    number: i128,
    range: &RangeInclusive<T>,
) -> Result<T, Wrong> {
    T::try_from(number).ok().filter(|n| range.contains(n)).ok_or_else(|| {
        let remedy = format!("use {} to {}", range.start(), range.end());
        Wrong::new(format!("{number} is out of range"), remedy)
    })
}

/// One word out of several.
pub(super) fn word<T: Copy>(text: &str, words: &[(&'static str, T)]) -> Result<T, Wrong> {
    if let Some((_, value)) = words.iter().find(|(w, _)| *w == text) {
        return Ok(*value);
    }
    let list: Vec<String> = words.iter().map(|(w, _)| format!("\"{w}\"")).collect();
    let remedy = match did_you_mean(text, words.iter().map(|(w, _)| *w)) {
        Some(near) => format!("did you mean \"{near}\"? It is one of {}", list.join(", ")),
        None => format!("use one of {}", list.join(", ")),
    };
    Err(Wrong::new(format!("'{text}' is not known here"), remedy))
}

/// The words for [`Mode`].
pub(super) const MODES: [(&str, Mode); 4] = [
    ("auto", Mode::Auto),
    ("zero-copy", Mode::ZeroCopy),
    ("native", Mode::Native),
    ("generic", Mode::Generic),
];

/// The words for [`HugePages`].
pub(super) const HUGE_PAGES: [(&str, HugePages); 2] =
    [("try", HugePages::Try), ("require", HugePages::Require)];

/// Queues from a number of them.
pub(super) fn first_queues(number: i128) -> Result<Queues, Wrong> {
    within(number, &(1..=QUEUES.end() + 1)).map(Queues::First)
}

/// Queues from text: `all` or a list.
pub(super) fn queues(text: &str) -> Result<Queues, Wrong> {
    if text == "all" {
        return Ok(Queues::All);
    }
    match super::numbers::parse_list(text, "queue", &QUEUES) {
        Ok(list) => Ok(Queues::These(list)),
        Err(wrong) if text.bytes().any(|b| b.is_ascii_digit()) => Err(wrong),
        Err(wrong) => Err(Wrong::new(wrong.what, "write \"all\", a number, or a list as \"0-3,6\"")),
    }
}

/// Queue numbers that can be asked for.
pub(super) const QUEUES: RangeInclusive<u16> = 0..=(QUEUE_COUNT - 1);

/// The most that can be served of one port.
const QUEUE_COUNT: u16 = crate::net::steer::QUEUES as u16;

/// Cores from a number of them.
pub(super) fn first_cores(number: i128) -> Result<Cores, Wrong> {
    within(number, &(1..=keys::CPUS.end() + 1)).map(Cores::First)
}

/// Cores from a list.
pub(super) fn cores(text: &str) -> Result<Cores, Wrong> {
    super::numbers::parse_list(text, "CPU", &keys::CPUS).map(Cores::These)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_that_initiators_cannot_reach_are_refused() {
        assert_eq!(address("7.0"), Ok(Address { shelf: 7, slot: 0 }));
        assert_eq!(address("65534.254"), Ok(Address { shelf: 65534, slot: 254 }));
        for (bad, says) in [
            ("4095.0", "shelf 4095"),
            ("65535.0", "every shelf"),
            ("65536.0", "no shelf 65536"),
            ("7.255", "every slot"),
            ("7.256", "no slot 256"),
            ("7", "no address"),
            ("7.", "no address"),
            ("e7.0", "no address"),
            ("+7.0", "no address"),
            ("7.0.0", "no address"),
            ("99999999999999999999.0", "no shelf"),
        ] {
            let wrong = address(bad).unwrap_err();
            assert!(wrong.what.contains(says), "{bad}: {wrong:?}");
        }
    }

    #[test]
    fn identify_texts_fit_their_field() {
        assert!(identify_text::<20>(&"x".repeat(20)).is_ok());
        for bad in ["", &"x".repeat(21), "ü", "a\tb", " a", "a "] {
            assert!(identify_text::<20>(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bytes_are_counted_in_powers_of_1024_or_in_sectors() {
        for (text, want) in [
            ("0", 0),
            ("512", 512),
            ("63s", 63 * 512),
            ("4K", 4096),
            ("1m", 1 << 20),
            ("3G", 3 << 30),
            ("2T", 2 << 40),
        ] {
            assert_eq!(bytes(text).and_then(offset), Ok(want), "{text}");
        }
        for bad in [
            "",
            "K",
            "-1",
            "+1",
            "1.5G",
            "1 G",
            "1GB",
            "1P",
            "0x200",
            "s",
            "1S",
            "١",
            "9".repeat(40).as_str(),
        ] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(offset(513).unwrap_err().remedy, "use 512 or 1024");
        assert!(bytes("131072T").and_then(offset).is_ok() && bytes("131073T").and_then(offset).is_err());
        assert!(length(0).unwrap_err().remedy.contains("leave it out"));
        assert!(length(100).is_err() && offset(-512).is_err());
        assert_eq!(length(512), Ok(512));
    }

    #[test]
    fn world_wide_names_have_sixteen_digits() {
        assert_eq!(wwn("none"), Ok(0));
        assert_eq!(wwn("0x5000C500a1b2c3d4"), Ok(0x5000_c500_a1b2_c3d4));
        assert_eq!(wwn("3000000000000001"), Ok(0x3000_0000_0000_0001));
        for bad in [
            "",
            "0",
            "None",
            "0x",
            "0000000000000000",
            "300000000000001",
            "30000000000000011",
            "+300000000000001",
        ] {
            assert!(wwn(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_named_in_every_usual_way_and_once() {
        let want = Mac([2, 0, 0, 0, 0, 0xa1]);
        for good in ["02:00:00:00:00:a1", "02-00-00-00-00-A1", "0200000000A1", "0200.0000.00a1"] {
            assert_eq!(mac(good), Ok(want), "{good}");
        }
        for (bad, says) in [
            ("", "no MAC"),
            ("02:00:00:00:00", "no MAC"),
            ("02:00:00:00:00:g1", "no MAC"),
            ("02000000000g", "no MAC"),
            ("+2000000000a", "no MAC"),
            ("ööööööööö", "no MAC"),
            ("ff:ff:ff:ff:ff:ff", "group"),
            ("010000000000", "group"),
            ("00:00:00:00:00:00", "nobody"),
        ] {
            assert!(mac(bad).unwrap_err().what.contains(says), "{bad}");
        }
        assert_eq!(allow(["02:00:00:00:00:a1", "020000000001"]).unwrap().len(), 2);
        assert_eq!(
            allow(["02:00:00:00:00:a1", "0200000000A1"]).unwrap_err().what,
            "02:00:00:00:00:a1 is named twice"
        );
        let many: Vec<String> = (0..256).map(|i| format!("0200000000{i:02x}")).collect();
        assert!(allow(many.iter().map(String::as_str)).unwrap_err().what.contains("256 hosts"));
        assert_eq!(allow(many[1..].iter().map(String::as_str)).unwrap().len(), 255);
    }

    #[test]
    fn interface_names_are_those_of_the_kernel() {
        for good in ["eth0", "enp3s0f1np1", "a", "x.100", "123456789012345"] {
            assert!(interface_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "a:1", "1234567890123456", "a\n"] {
            assert!(interface_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn words_are_suggested() {
        assert_eq!(word("native", &MODES), Ok(Mode::Native));
        let wrong = word("zerocopy", &MODES).unwrap_err();
        assert!(wrong.remedy.starts_with("did you mean \"zero-copy\"?"), "{wrong:?}");
        assert!(word("fast", &MODES).unwrap_err().remedy.starts_with("use one of \"auto\""));
    }

    #[test]
    fn queues_are_all_or_some() {
        assert_eq!(queues("all"), Ok(Queues::All));
        assert_eq!(queues("0-1,3"), Ok(Queues::These(vec![0, 1, 3])));
        assert!(queues("every").unwrap_err().remedy.contains("all"));
        assert_eq!(first_queues(4), Ok(Queues::First(4)));
        assert!(first_queues(0).is_err() && first_queues(-1).is_err() && first_queues(257).is_err());
    }

    proptest! {
        #[test]
        fn no_value_panics(text in "\\PC{0,20}|[0-9a-fx:.-]{10,20}|[0-9]{1,40}[sKMGT]?") {
            let _ = (mac(&text), wwn(&text), bytes(&text).and_then(length));
        }

        #[test]
        fn an_accepted_address_is_one_that_the_protocol_accepts(text in "[0-9.]{0,12}") {
            if let Ok(ours) = address(&text) {
                prop_assert_eq!(text.parse::<Address>(), Ok(ours));
            }
        }
    }
}
