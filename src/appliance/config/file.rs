//! Reads a configuration file (TOML 1.0) and remembers where every value stood.
//!
//! Not serde: that stops at the first mistake. Not here: the rules of values (`rules`).
//! Invariant: every key of the file is either read or reported, and reading never stops early.

use super::keys::{self, Table};
use super::mistake::{Mistakes, Place, Wrong, did_you_mean, line_and_column};
use super::rules::{self, Draft, DraftInterface, DraftSlot, Given, Remedies};
use super::{Config, Cores, Memory, Queues, numbers};
use crate::appliance::control;
use std::path::PathBuf;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

const REMEDIES: Remedies =
    Remedies { interface: "add [[interface]] with a name", slot: "add [[slot]] with an address and a path" };

/// Reads a file; see [`Config::survey`].
pub(super) fn read(file: &str, bytes: &[u8]) -> (Option<Config>, Mistakes) {
    let mut mistakes = Mistakes::default();
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => {
            let good = String::from_utf8_lossy(&bytes[..e.valid_up_to()]);
            let (line, column) = line_and_column(&good, good.len());
            let place = Place::File { file: file.to_owned(), line, column };
            let wrong = Wrong::new("the file is not UTF-8 text from here on", "save it as UTF-8");
            mistakes.error(Some(&place), "", wrong);
            return (None, mistakes);
        }
    };
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader { file, text, complete: errors.is_empty(), mistakes };
    for error in &errors {
        let place = reader.place(error.span().map_or(0, |span| span.start));
        let remedy = if error.message().contains("duplicate key") {
            "give it once"
        } else {
            "correct the TOML (see https://toml.io)"
        };
        reader.mistakes.error(Some(&place), "", Wrong::new(error.message(), remedy));
    }
    // What follows from a line that could not be parsed is noise.
    let bad_lines: Vec<Option<usize>> =
        reader.mistakes.iter().map(|m| m.place.as_ref().and_then(Place::line)).collect();
    let syntax = std::mem::take(&mut reader.mistakes);
    let draft = reader.document(document.get_ref());
    let remedies = reader.complete.then_some(REMEDIES);
    let mut mistakes = reader.mistakes;
    mistakes.retain(|m| m.place.is_none() || !bad_lines.contains(&m.place.as_ref().and_then(Place::line)));
    mistakes.append(syntax);
    let config = draft.finish(remedies, &mut mistakes);
    mistakes.sort();
    (Some(config), mistakes)
}

/// A table of the file, with its key's path.
struct At<'t, 'i> {
    path: String,
    place: Place,
    entries: &'t DeTable<'i>,
}

impl At<'_, '_> {
    fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    /// Whether all of the file could be parsed.
    complete: bool,
    mistakes: Mistakes,
}

impl Reader<'_> {
    fn place(&self, byte: usize) -> Place {
        let (line, column) = line_and_column(self.text, byte);
        Place::File { file: self.file.to_owned(), line, column }
    }

    fn document(&mut self, document: &DeTable<'_>) -> Draft {
        let top = At { path: String::new(), place: self.place(0), entries: document };
        self.unknown_keys(&top, &keys::TOP);
        let mut draft = Draft {
            state_dir: self
                .string(&top, "state-dir", |s| rules::absolute(s.as_ref()).map(|()| PathBuf::from(s)))
                .map(|given| given.value),
            control: self
                .string(&top, "control-socket", |s| match s {
                    "none" => Ok(control::Place::None),
                    path => rules::absolute(path.as_ref()).map(|()| control::Place::At(PathBuf::from(path))),
                })
                .map(|given| given.value)
                .unwrap_or_default(),
            ..Draft::default()
        };
        for at in self.array_of_tables(&top, "interface") {
            self.unknown_keys(&at, &keys::INTERFACE);
            draft.interfaces.push(self.interface(&at));
        }
        for at in self.array_of_tables(&top, "slot") {
            self.unknown_keys(&at, &keys::SLOT);
            draft.slots.push(self.slot(&at));
        }
        if let Some(at) = self.table(&top, "workers") {
            self.unknown_keys(&at, &keys::WORKERS);
            draft.count = self.integer(&at, "count", |n| rules::within(n, &keys::WORKER_COUNT));
            draft.cores = self.value(&at, "cores", "a number or a list of CPUs", |value| match value {
                DeValue::Integer(_) => Some(integer_of(value)?.and_then(rules::first_cores)),
                DeValue::String(text) => Some(rules::cores(text)),
                DeValue::Array(_) => Some(list_of(value, "CPU", &keys::CPUS)?.map(Cores::These)),
                _ => None,
            });
            let spin = self.integer(&at, "spin-us", |n| rules::within(n, &keys::SPIN_US));
            draft.spin_us = spin.map(|given| given.value);
        }
        if let Some(at) = self.table(&top, "memory") {
            self.unknown_keys(&at, &keys::MEMORY);
            draft.memory = self.memory(&at);
        }
        draft
    }

    fn interface(&mut self, at: &At<'_, '_>) -> DraftInterface {
        let name = self.string(at, "name", rules::interface_name);
        self.require(at, "name", "name = \"eth1\"");
        let mode = self.string(at, "mode", |s| rules::word(s, &rules::MODES));
        let expected = "\"all\", a number, or a list of queues";
        let queues = self.value(at, "queues", expected, |value| match value {
            DeValue::Integer(_) => Some(integer_of(value)?.and_then(rules::first_queues)),
            DeValue::String(text) => Some(rules::queues(text)),
            DeValue::Array(_) => Some(list_of(value, "queue", &rules::QUEUES)?.map(Queues::These)),
            _ => None,
        });
        DraftInterface {
            name,
            mode: mode.map(|given| given.value).unwrap_or_default(),
            queues: queues.map(|given| given.value).unwrap_or_default(),
        }
    }

    fn slot(&mut self, at: &At<'_, '_>) -> DraftSlot {
        let address = self.string(at, "address", rules::address);
        self.require(at, "address", "address = \"7.0\"");
        let path = self.string(at, "path", |s| {
            let path = PathBuf::from(s);
            rules::absolute(&path).map(|()| path)
        });
        self.require(at, "path", "path = \"/dev/…\"");
        DraftSlot {
            address,
            path,
            read_only: self.boolean(at, "read-only").is_some_and(|given| given.value),
            write_back: self.boolean(at, "write-back"),
            serial: self.string(at, "serial", rules::identify_text),
            model: self.string(at, "model", rules::identify_text).map(|given| given.value),
            vlan: self
                .integer(at, "vlan", |n| rules::within(n, &rules::VLANS))
                .map_or(0, |given| given.value),
            config_string: self
                .string(at, "config-string", rules::config_string)
                .map(|given| given.value)
                .unwrap_or_default(),
            worker: self.integer(at, "worker", |n| rules::within(n, &(0..=keys::WORKER_COUNT.end() - 1))),
            firmware: self.string(at, "firmware", rules::identify_text).map(|given| given.value),
            wwn: self.string(at, "wwn", rules::wwn),
            offset: self.bytes(at, "offset", rules::offset).unwrap_or_default(),
            length: self.bytes(at, "length", rules::length),
            allow: self
                .value(at, "allow", "a list of MAC addresses in quotes", |value| {
                    let texts: Option<Vec<&str>> =
                        value.as_array()?.iter().map(|item| item.get_ref().as_str()).collect();
                    Some(rules::allow(texts?))
                })
                .map(|given| given.value)
                .unwrap_or_default(),
            reserved_answer: self
                .string(at, "reserved-answer", |s| rules::word(s, &rules::RESERVED_ANSWERS))
                .map(|given| given.value)
                .unwrap_or_default(),
            rivals: self
                .string(at, "rivals", |s| rules::word(s, &rules::RIVALS))
                .map(|given| given.value)
                .unwrap_or_default(),
            buffers: self
                .integer(at, "buffers", |n| rules::within(n, &keys::BUFFERS))
                .map(|given| given.value),
        }
    }

    fn memory(&mut self, at: &At<'_, '_>) -> Memory {
        let default = Memory::default();
        let frames = self.integer(at, "frames-per-queue", |n| rules::within(n, &keys::FRAMES_PER_QUEUE));
        let runs = self.integer(at, "runs-per-worker", |n| rules::within(n, &keys::RUNS_PER_WORKER));
        let huge = self.string(at, "huge-pages", |s| rules::word(s, &rules::HUGE_PAGES));
        Memory {
            frames_per_queue: frames.map_or(default.frames_per_queue, |given| given.value),
            runs_per_worker: runs.map_or(default.runs_per_worker, |given| given.value),
            huge_pages: huge.map_or(default.huge_pages, |given| given.value),
        }
    }

    /// Reports every key that is none of this table's.
    fn unknown_keys(&mut self, at: &At<'_, '_>, table: &Table) {
        let tables = if at.path.is_empty() { keys::TABLES.map(|t| t.name()).to_vec() } else { Vec::new() };
        let known: Vec<&str> = table.names().chain(tables.into_iter().filter(|t| !t.is_empty())).collect();
        for (key, _) in at.entries {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let elsewhere = keys::TABLES.iter().find(|t| t.names().any(|n| n == name));
            let remedy = if let Some(near) = did_you_mean(name, known.iter().copied()) {
                format!("did you mean {near}?")
            } else if let Some(other) = elsewhere {
                match other.header {
                    "" => "it belongs before the first table".to_owned(),
                    header => format!("it belongs in {header}"),
                }
            } else {
                format!("remove it; known here: {}", known.join(", "))
            };
            let place = self.place(key.span().start);
            let what = if table.header.is_empty() {
                "there is no such key".to_owned()
            } else {
                format!("there is no such key in {}", table.header)
            };
            self.mistakes.error(Some(&place), at.key(name), Wrong::new(what, remedy));
        }
    }

    /// Reports a key that has to be there.
    fn require(&mut self, at: &At<'_, '_>, name: &str, example: &str) {
        if self.complete && !at.entries.contains_key(name) {
            let wrong = Wrong::new("it is missing", format!("add {example}"));
            self.mistakes.error(Some(&at.place), at.key(name), wrong);
        }
    }

    fn array_of_tables<'t, 'i>(&mut self, top: &At<'t, 'i>, name: &str) -> Vec<At<'t, 'i>> {
        let Some(value) = top.entries.get(name) else { return Vec::new() };
        let wrong = || Wrong::new(format!("{name} has to be a list of tables"), format!("write [[{name}]]"));
        let DeValue::Array(array) = value.get_ref() else {
            let place = self.place(value.span().start);
            self.mistakes.error(Some(&place), name, wrong());
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (i, item) in array.iter().enumerate() {
            let place = self.place(item.span().start);
            let path = format!("{name}[{i}]");
            match item.get_ref() {
                DeValue::Table(entries) => tables.push(At { path, place, entries }),
                _ => self.mistakes.error(Some(&place), path, wrong()),
            }
        }
        tables
    }

    fn table<'t, 'i>(&mut self, top: &At<'t, 'i>, name: &str) -> Option<At<'t, 'i>> {
        let value = top.entries.get(name)?;
        let place = self.place(value.span().start);
        if let DeValue::Table(entries) = value.get_ref() {
            return Some(At { path: name.to_owned(), place, entries });
        }
        let wrong = Wrong::new(format!("{name} has to be one table"), format!("write [{name}] once"));
        self.mistakes.error(Some(&place), name, wrong);
        None
    }

    fn string<T>(
        &mut self,
        at: &At<'_, '_>,
        name: &str,
        rule: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Given<T>> {
        self.value(at, name, "text in quotes", |value| value.as_str().map(&rule))
    }

    fn boolean(&mut self, at: &At<'_, '_>, name: &str) -> Option<Given<bool>> {
        self.value(at, name, "true or false, without quotes", |value| value.as_bool().map(Ok))
    }

    fn bytes(
        &mut self,
        at: &At<'_, '_>,
        name: &str,
        rule: impl Fn(i128) -> Result<u64, Wrong>,
    ) -> Option<u64> {
        let given = self.value(at, name, "a number of bytes, or text such as \"1G\"", |value| match value {
            DeValue::Integer(_) => Some(integer_of(value)?.and_then(&rule)),
            DeValue::String(text) => Some(rules::bytes(text).and_then(&rule)),
            _ => None,
        });
        given.map(|given| given.value)
    }

    fn integer<T>(
        &mut self,
        at: &At<'_, '_>,
        name: &str,
        rule: impl Fn(i128) -> Result<T, Wrong>,
    ) -> Option<Given<T>> {
        self.value(at, name, "a whole number, without quotes", |value| {
            Some(integer_of(value)?.and_then(&rule))
        })
    }

    /// Reads one value; `rule` says `None` when it is of a type that is not `expected`.
    fn value<'i, T>(
        &mut self,
        at: &At<'_, 'i>,
        name: &str,
        expected: &str,
        rule: impl Fn(&DeValue<'i>) -> Option<Result<T, Wrong>>,
    ) -> Option<Given<T>> {
        let value: &Spanned<DeValue<'i>> = at.entries.get(name)?;
        let place = self.place(value.span().start);
        let result = rule(value.get_ref()).unwrap_or_else(|| {
            let what = format!("it is of type {}", value.get_ref().type_str());
            Err(Wrong::new(what, format!("write {expected}")))
        });
        match result {
            Ok(value) => Some(Given { value, key: at.key(name), place }),
            Err(wrong) => {
                self.mistakes.error(Some(&place), at.key(name), wrong);
                None
            }
        }
    }
}

/// `None` when it is not an integer, an error when it is one that no key can take.
fn integer_of(value: &DeValue<'_>) -> Option<Result<i128, Wrong>> {
    let integer = value.as_integer()?;
    Some(
        i128::from_str_radix(integer.as_str(), integer.radix())
            .map_err(|_| Wrong::new(format!("{integer} is out of range"), "use a smaller number")),
    )
}

/// `None` when it is not an array of integers.
fn list_of(
    value: &DeValue<'_>,
    what: &str,
    allowed: &std::ops::RangeInclusive<u16>,
) -> Option<Result<Vec<u16>, Wrong>> {
    let mut list = Vec::new();
    for item in value.as_array()? {
        let pushed = integer_of(item.get_ref())?.and_then(|n| {
            let n = u32::try_from(n)
                .map_err(|_| Wrong::new(format!("{n} is no {what} number"), "use numbers from 0 on"))?;
            numbers::push(&mut list, n, what, allowed)
        });
        if let Err(wrong) = pushed {
            return Some(Err(wrong));
        }
    }
    if list.is_empty() {
        return Some(Err(Wrong::new(
            "the list is empty",
            format!("name at least one {what}, or leave it out"),
        )));
    }
    Some(Ok(list))
}

#[cfg(test)]
mod tests {
    use super::super::{HugePages, Mode, Rivals, Severity};
    use super::*;
    use crate::protocol::Mac;
    use crate::shelf::ReservedAnswer;
    use proptest::prelude::*;

    fn lines(text: &str) -> Vec<String> {
        read("x.toml", text.as_bytes()).1.iter().map(ToString::to_string).collect()
    }

    const GOOD: &str = "\
[[interface]]
name = \"eth1\"
[[slot]]
address = \"7.0\"
path = \"/dev/sdb\"
";

    #[test]
    fn the_smallest_file_gets_the_defaults() {
        let (config, mistakes) = read("x.toml", GOOD.as_bytes());
        assert_eq!(mistakes, Mistakes::default());
        let config = config.unwrap();
        assert_eq!(config.interfaces[0].name, "eth1");
        assert_eq!(config.interfaces[0].mode, Mode::Auto);
        assert_eq!(config.interfaces[0].queues, Queues::All);
        assert_eq!(config.slots[0].address.to_string(), "7.0");
        assert!(!config.slots[0].read_only && !config.slots[0].write_back);
        assert_eq!(config.workers, Default::default());
        assert_eq!(config.memory, Memory::default());
        assert_eq!(config.slots[0].place.line(), Some(5));
        assert_eq!(config.slots[0].key, "slot[0].path");
        let slot = &config.slots[0];
        assert_eq!((slot.firmware, slot.wwn, slot.buffers), (None, None, None));
        assert_eq!((slot.offset, slot.length, slot.end()), (0, None, u64::MAX));
        assert!(slot.allow.is_empty());
        assert_eq!((slot.reserved_answer, slot.rivals), (ReservedAnswer::Aoe, Rivals::Refuse));
    }

    #[test]
    fn every_key_is_read() {
        let text = r#"
state-dir = "/var/lib/xshelf"
control-socket = "/run/x/y"
[[interface]]
name = "eth1"
mode = "native"
queues = [0, 2]
[[interface]]
name = "eth2"
queues = 3
[[interface]]
name = "eth3"
queues = "0-1"
[[slot]]
address = "8.0"
path = "/b"
read-only = true
serial = "A1"
model = "disk of mine"
vlan = 12
config-string = "für uns"
worker = 1
firmware = "F1"
wwn = "0x5000c500a1b2c3d4"
offset = 1_048_576
length = "3G"
allow = ["02:00:00:00:00:01", "020000000002"]
reserved-answer = "ata"
rivals = "alarm"
buffers = 16
[[slot]]
address = "7.9"
path = "/a"
write-back = true
[workers]
count = 2
cores = "0-1,3"
spin-us = 50
[memory]
frames-per-queue = 1_024
runs-per-worker = 0x40
huge-pages = "require"
"#;
        let (config, mistakes) = read("x.toml", text.as_bytes());
        assert_eq!(mistakes, Mistakes::default());
        let config = config.unwrap();
        assert_eq!(config.state_dir, Some(PathBuf::from("/var/lib/xshelf")));
        let queues: Vec<&Queues> = config.interfaces.iter().map(|i| &i.queues).collect();
        assert_eq!(queues, [&Queues::These(vec![0, 2]), &Queues::First(3), &Queues::These(vec![0, 1])]);
        assert_eq!(config.interfaces[0].mode, Mode::Native);
        // By address, not as written.
        assert_eq!(config.slots[0].address.to_string(), "7.9");
        assert!(config.slots[0].write_back);
        let slot = &config.slots[1];
        assert!(slot.read_only);
        assert_eq!(slot.serial.unwrap().padded(), b"A1                  ");
        assert_eq!(slot.model.unwrap().to_string(), "disk of mine");
        assert_eq!((slot.vlan, slot.config_string.as_slice()), (12, "für uns".as_bytes()));
        assert_eq!(slot.worker, Some(1));
        assert_eq!(slot.firmware.unwrap().to_string(), "F1");
        assert_eq!(slot.wwn, Some(0x5000_c500_a1b2_c3d4));
        assert_eq!((slot.offset, slot.length), (1 << 20, Some(3 << 30)));
        assert_eq!(slot.end(), (1 << 20) + (3 << 30));
        assert_eq!(slot.allow, [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])]);
        assert_eq!((slot.reserved_answer, slot.rivals), (ReservedAnswer::Ata, Rivals::Alarm));
        assert_eq!(slot.buffers, Some(16));
        assert_eq!(config.workers.count, Some(2));
        assert_eq!(config.workers.cores, Cores::These(vec![0, 1, 3]));
        assert_eq!(config.workers.spin_us, Some(50));
        assert_eq!(
            config.memory,
            Memory { frames_per_queue: 1024, runs_per_worker: 64, huge_pages: HugePages::Require }
        );
        // Every key of the reference occurs above, so that one listed and not read would fail as unread here.
        for table in keys::TABLES {
            for name in table.names() {
                assert!(text.contains(&format!("\n{name} =")), "{name}");
                let renamed = text.replace(&format!("\n{name} ="), &format!("\n{name}-zz-zz-zz ="));
                assert!(lines(&renamed).iter().any(|l| l.contains("no such key")), "{name}");
            }
        }
    }

    #[test]
    fn every_mistake_is_reported_at_once_and_in_order() {
        let text = r#"color = "red"
state-dir = "var"
[[interface]]
name = "eth1"
mode = "zerocopy"
queues = 0
[[interface]]
name = "eth1"
[[slot]]
address = 7.0
path = "/dev/sdb"
readonly = true
[[slot]]
address = "4095.1"
path = "/dev/sdb"
serial = "123456789012345678901"
write-back = "yes"
[[slot]]
model = "naïve"
worker = -1
state-dir = "/x"
[workers]
cores = "0-3,2"
spin-us = 1.5
[memory]
frames-per-queue = 1
"#;
        let want = [
            "1:1: error: color: there is no such key; remove it; known here: state-dir, control-socket, interface, slot, \
             workers, memory",
            "2:13: error: state-dir: 'var' is a relative path, which would depend on where xshelf is started; \
             write it from / on",
            "5:8: error: interface[0].mode: 'zerocopy' is not known here; did you mean \"zero-copy\"? It is one \
             of \"auto\", \"zero-copy\", \"native\", \"generic\"",
            "6:10: error: interface[0].queues: 0 is out of range; use 1 to 256",
            "8:8: error: interface[1].name: eth1 was named before (line 4); name each interface once",
            "10:11: error: slot[0].address: it is of type float; write text in quotes",
            "12:1: error: slot[0].readonly: there is no such key in [[slot]]; did you mean read-only?",
            "14:11: error: slot[1].address: Linux ignores shelf 4095; use a shelf from 0 to 65534 other than 4095",
            "15:8: error: slot[1].path: /dev/sdb is served by another slot already (line 11); serve each backing \
             once, or parts of it (offset, length) that do not overlap",
            "16:10: error: slot[1].serial: it has 21 characters; use 1 to 20 printable ASCII characters",
            "17:14: error: slot[1].write-back: it is of type string; write true or false, without quotes",
            "18:1: error: slot[2].address: it is missing; add address = \"7.0\"",
            "18:1: error: slot[2].path: it is missing; add path = \"/dev/…\"",
            "19:9: error: slot[2].model: 'ï' is not printable ASCII; use 1 to 40 printable ASCII characters",
            "20:10: error: slot[2].worker: -1 is out of range; use 0 to 255",
            "21:1: error: slot[2].state-dir: there is no such key in [[slot]]; it belongs before the first table",
            "23:9: error: workers.cores: CPU 2 is named twice; name each once",
            "24:11: error: workers.spin-us: it is of type float; write a whole number, without quotes",
            "26:20: error: memory.frames-per-queue: 1 is out of range; use 64 to 262144",
        ];
        let got = lines(text);
        for (got, want) in got.iter().zip(want) {
            assert_eq!(got, &format!("x.toml:{want}"));
        }
        assert_eq!(got.len(), want.len());
        assert!(Config::from_file("x.toml", text.as_bytes()).0.is_none());
    }

    #[test]
    fn duplicates_between_slots_are_found() {
        let text = format!(
            "{GOOD}serial = \"A\"\n[[slot]]\naddress = \"7.0\"\npath = \"/c\"\nserial = \"A\"\n\
             [workers]\ncount = 1\n[[slot]]\naddress = \"7.2\"\npath = \"/d\"\nworker = 1\n"
        );
        let got = lines(&text);
        assert_eq!(got.len(), 3, "{got:?}");
        assert!(
            got[0].starts_with("x.toml:8:11: error: slot[1].address: slot 7.0 was given before (line 4)")
        );
        assert!(got[1].starts_with("x.toml:10:10: error: slot[1].serial: serial A belongs"));
        assert!(got[2].starts_with("x.toml:16:10: error: slot[2].worker: there is no worker 1"));
    }

    #[test]
    fn mistakes_in_options_of_slots_are_reported() {
        let got = lines(&format!(
            "{GOOD}firmware = \"123456789\"\nwwn = 5\noffset = \"1X\"\nlength = 0\nallow = \"02:00:00:00:00:01\"\n\
             reserved-answer = \"scsi\"\nrivals = \"alarms\"\nbuffers = 1\n[[slot]]\naddress = \"7.1\"\n\
             path = \"/dev/sdc\"\nwwn = \"none\"\noffset = 100\nlength = true\n\
             allow = [\"02:00:00:00:00:01\", \"02-00-00-00-00-01\"]\n[[slot]]\naddress = \"7.2\"\n\
             path = \"/dev/sdd\"\nwwn = \"none\"\nallow = [\"ff:ff:ff:ff:ff:ff\"]\n[[slot]]\n\
             address = \"7.3\"\npath = \"/dev/sde\"\nallow = [1]\n"
        ));
        let want = [
            "6:12: error: slot[0].firmware: it has 9 characters; use 1 to 8 printable ASCII characters",
            "7:7: error: slot[0].wwn: it is of type integer; write text in quotes",
            "8:10: error: slot[0].offset: '1X' is no number of bytes; write bytes as ",
            "9:10: error: slot[0].length: it is 0; leave it out to serve all behind the offset",
            "10:9: error: slot[0].allow: it is of type string; write a list of MAC addresses in quotes",
            "11:19: error: slot[0].reserved-answer: 'scsi' is not known here; use one of \"aoe\", \"ata\"",
            "12:10: error: slot[0].rivals: 'alarms' is not known here; did you mean \"alarm\"?",
            "13:11: error: slot[0].buffers: 1 is out of range; use 2 to 1024",
            "18:10: error: slot[1].offset: 100 is no multiple of 512 bytes; use 0 or 512",
            "19:10: error: slot[1].length: it is of type boolean; write a number of bytes, or text such as \"1G\"",
            "20:9: error: slot[1].allow: 02:00:00:00:00:01 is named twice; name each host once",
            "25:9: error: slot[2].allow: 'ff:ff:ff:ff:ff:ff' is the address of a group of hosts; name each host",
            "29:9: error: slot[3].allow: it is of type array; write a list of MAC addresses in quotes",
        ];
        for (got, want) in got.iter().zip(want) {
            assert!(got.starts_with(&format!("x.toml:{want}")), "{got}\n{want}");
        }
        assert_eq!(got.len(), want.len(), "{got:#?}");
    }

    #[test]
    fn slots_share_a_backing_only_in_parts_that_do_not_overlap() {
        let part =
            |n: u8, window: &str| format!("[[slot]]\naddress = \"7.{n}\"\npath = \"/dev/sdb\"\n{window}\n");
        let interface = "[[interface]]\nname = \"eth1\"\n";
        let (first, second, rest) =
            ("length = \"1G\"", "offset = \"1G\"\nlength = \"1G\"", "offset = \"2G\"");
        let good = [part(2, rest), part(0, first), part(1, second)].concat();
        assert_eq!(lines(&format!("{interface}{good}")), Vec::<String>::new());
        // Each of them meets the last sector of one before it.
        for (window, line) in [("offset = \"2097151s\"\nlength = 512", 9), ("offset = \"2T\"", 5), ("", 5)] {
            let got = lines(&format!("{interface}{good}{}", part(3, window)));
            assert_eq!(got.len(), 1, "{got:?}");
            let want = format!(
                "x.toml:18:8: error: slot[3].path: /dev/sdb is served by another slot already (line {line});"
            );
            assert!(got[0].starts_with(&want), "{got:?}\n{want}");
        }
    }

    #[test]
    fn equal_world_wide_names_are_refused_but_several_may_have_none() {
        let slots = |a: &str, b: &str| {
            lines(&format!(
                "{GOOD}wwn = \"{a}\"\n[[slot]]\naddress = \"7.1\"\npath = \"/c\"\nwwn = \"{b}\"\n"
            ))
        };
        assert_eq!(slots("none", "none"), Vec::<String>::new());
        let got = slots("3000000000000abc", "0x3000000000000ABC");
        assert_eq!(got.len(), 1);
        assert!(
            got[0].starts_with("x.toml:10:7: error: slot[1].wwn: WWN 3000000000000abc belongs to another")
        );
    }

    #[test]
    fn single_brackets_are_explained() {
        let got = lines(
            "[interface]\nname = \"eth1\"\n[[workers]]\ncount = 1\n[[slot]]\naddress = \"1.1\"\npath = \"/a\"",
        );
        assert_eq!(
            got[0],
            "x.toml:1:1: error: interface: interface has to be a list of tables; write [[interface]]"
        );
        assert_eq!(got[1], "x.toml:3:1: error: workers: workers has to be one table; write [workers] once");
    }

    #[test]
    fn an_empty_file_lacks_both() {
        assert_eq!(
            lines(""),
            [
                "error: there is no interface to serve on; add [[interface]] with a name",
                "error: there is no slot to serve; add [[slot]] with an address and a path"
            ]
        );
    }

    #[test]
    fn syntax_errors_do_not_hide_the_rest_nor_invent_more() {
        let got = lines(
            "[[interface]]\nname = \"eth1\n[[slot]]\naddress = \"7.0\"\npath = \"/a\"\nserial = \"\"\n",
        );
        assert!(got[0].starts_with("x.toml:2:"), "{got:?}");
        assert!(
            got.iter().any(|l| l.starts_with("x.toml:6:10: error: slot[0].serial: it is empty")),
            "{got:?}"
        );
        assert!(got.iter().all(|l| !l.contains("missing") && !l.contains("no interface")), "{got:?}");
        let got = lines(&GOOD.replace("[[slot]]", "[[slot]]\npath = \"/q\""));
        assert_eq!(got.len(), 1, "{got:?}");
        assert!(got[0].starts_with("x.toml:6:1: error: duplicate key"), "{got:?}");
    }

    #[test]
    fn bytes_that_are_no_text_are_located() {
        let (config, mistakes) = read("x.toml", b"a = 1\nb = \"\xff\"\n");
        assert!(config.is_none());
        let line = mistakes.iter().next().unwrap().to_string();
        assert!(line.starts_with("x.toml:2:6: error: the file is not UTF-8"), "{line}");
    }

    #[test]
    fn a_contradiction_is_a_warning() {
        let (config, mistakes) =
            read("x.toml", format!("{GOOD}read-only = true\nwrite-back = true\n").as_bytes());
        assert!(!config.unwrap().slots[0].write_back);
        assert_eq!(mistakes.count(Severity::Warning), 1);
        assert!(!mistakes.refuse());
    }

    proptest! {
        #[test]
        fn no_text_panics_and_a_refusal_says_why(text in "(\\[\\[slot\\]\\]|\\[workers\\]|address|path|count| = |\"7.0\"|\"/a\"|[0-9]|\n|\\PC){0,30}") {
            let (config, mistakes) = Config::from_file("x.toml", text.as_bytes());
            prop_assert_eq!(config.is_none(), mistakes.refuse());
        }
    }
}
