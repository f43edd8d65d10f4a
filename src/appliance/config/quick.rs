//! Reads a configuration from the command line: `--interface eth1 7.0=disk.img,ro`.
//!
//! Not here: the options of other subcommands, nor the rules of values (`rules`).
//! Invariant: any path can be written (`,,` stands for a comma), and no argument is ignored.

use super::mistake::{Mistakes, Place, Wrong, did_you_mean};
use super::rules::{self, Draft, DraftInterface, DraftSlot, Given, Remedies};
use super::{Config, Cores, Memory, Queues, Rivals, keys};
use crate::appliance::control;
use crate::shelf::ReservedAnswer;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

const REMEDIES: Remedies = Remedies {
    interface: "add --interface NAME",
    slot: "add SHELF.SLOT=PATH, as in 7.0=disk.img, or --config FILE",
};

/// What the command line says, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quick {
    /// Names of interfaces.
    pub interfaces: Vec<String>,
    /// `SHELF.SLOT=PATH[,OPTION]…`
    pub slots: Vec<OsString>,
    /// Every slot is read-only.
    pub read_only: bool,
    /// Mode of every interface.
    pub mode: Option<String>,
    /// Queues of every interface.
    pub queues: Option<String>,
    /// Number of workers.
    pub workers: Option<String>,
    /// CPUs of workers.
    pub cores: Option<String>,
    /// Spin in microseconds.
    pub spin_us: Option<String>,
    /// State directory.
    pub state_dir: Option<PathBuf>,
    /// Control socket, or `none`.
    pub control: Option<PathBuf>,
}

/// The options of a slot that stand alone, for suggestions.
const FLAGS: [&str; 3] = ["ro", "read-only", "write-back"];
/// The options of a slot that take a value.
const VALUES: [&str; 14] = [
    "serial",
    "model",
    "firmware",
    "wwn",
    "offset",
    "length",
    "vlan",
    "mask",
    "allow",
    "config-string",
    "reserved-answer",
    "rivals",
    "buffers",
    "worker",
];

/// Reads it; see [`Config::from_arguments`].
pub(super) fn read(quick: &Quick) -> (Option<Config>, Mistakes) {
    let mut mistakes = Mistakes::default();
    let option = |name: &str, value: &Option<String>| -> Option<Given<String>> {
        let value = value.clone()?;
        let place = Place::Argument(format!("{name} {value}"));
        Some(Given { value, key: String::new(), place })
    };
    let (mode, queues) = (option("--mode", &quick.mode), option("--queues", &quick.queues));
    let (count, cores) = (option("--workers", &quick.workers), option("--cores", &quick.cores));
    let spin_us = option("--spin-us", &quick.spin_us);

    let mode = apply(mode, &mut mistakes, |s| rules::word(s, &rules::MODES));
    let queues = apply(queues, &mut mistakes, |s| match whole_number(s) {
        Some(n) => rules::first_queues(n),
        None => rules::queues(s),
    });
    let mode = mode.map(|given| given.value).unwrap_or_default();
    let queues = queues.map_or(Queues::All, |given| given.value);
    let mut draft = Draft {
        count: apply(count, &mut mistakes, |s| number(s).and_then(|n| rules::within(n, &keys::WORKER_COUNT))),
        cores: apply(cores, &mut mistakes, cores_of),
        spin_us: apply(spin_us, &mut mistakes, |s| number(s).and_then(|n| rules::within(n, &keys::SPIN_US)))
            .map(|given| given.value),
        memory: Memory::default(),
        state_dir: quick.state_dir.clone(),
        control: quick.control.clone().map_or(control::Place::Usual, control::Place::of),
        ..Draft::default()
    };
    for name in &quick.interfaces {
        let given = option("--interface", &Some(name.clone()));
        let name = apply(given, &mut mistakes, rules::interface_name);
        draft.interfaces.push(DraftInterface { name, mode, queues: queues.clone() });
    }
    for text in &quick.slots {
        let place = Place::Argument(text.to_string_lossy().into_owned());
        match slot(text, &place, &mut mistakes) {
            Ok(mut slot) => {
                slot.read_only |= quick.read_only;
                draft.slots.push(slot);
            }
            Err(wrong) => mistakes.error(Some(&place), "", wrong),
        }
    }
    // An argument that could not be read is not missing.
    let complete = draft.slots.len() == quick.slots.len();
    let config = draft.finish(complete.then_some(REMEDIES), &mut mistakes);
    ((!mistakes.refuse()).then_some(config), mistakes)
}

/// Applies a rule to the text of an option and notes what it finds.
fn apply<T>(
    given: Option<Given<String>>,
    mistakes: &mut Mistakes,
    rule: impl Fn(&str) -> Result<T, Wrong>,
) -> Option<Given<T>> {
    let Given { value, key, place } = given?;
    match rule(&value) {
        Ok(value) => Some(Given { value, key, place }),
        Err(wrong) => {
            mistakes.error(Some(&place), key, wrong);
            None
        }
    }
}

fn whole_number(text: &str) -> Option<i128> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn number(text: &str) -> Result<i128, Wrong> {
    whole_number(text).ok_or_else(|| Wrong::new(format!("'{text}' is no whole number"), "write digits only"))
}

/// `4` is a number of CPUs; `0-3`, `0,2` and `4-4` are lists.
fn cores_of(text: &str) -> Result<Cores, Wrong> {
    match whole_number(text) {
        Some(n) => rules::first_cores(n),
        None => rules::cores(text),
    }
}

/// Splits at single commas; two commas are one comma of the text.
fn split(text: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = text.iter().peekable();
    while let Some(&byte) = bytes.next() {
        if byte == b',' && bytes.next_if(|next| **next == b',').is_none() {
            parts.push(Vec::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(byte);
        }
    }
    parts
}

/// Reads `SHELF.SLOT=PATH[,OPTION]…`. What is wrong with single options goes to `mistakes`.
fn slot(text: &OsStr, place: &Place, mistakes: &mut Mistakes) -> Result<DraftSlot, Wrong> {
    let bytes = text.as_bytes();
    let Some(equals) = bytes.iter().position(|b| *b == b'=') else {
        return Err(Wrong::new("there is no '=' in it", "write SHELF.SLOT=PATH, as in 7.0=disk.img"));
    };
    let address = rules::address(&String::from_utf8_lossy(&bytes[..equals]))?;
    let mut parts = split(&bytes[equals + 1..]).into_iter();
    let path = parts.next().unwrap_or_default();
    if path.is_empty() {
        return Err(Wrong::new(
            "there is no path behind the '='",
            "write SHELF.SLOT=PATH, as in 7.0=disk.img",
        ));
    }
    let given = |value| Given { value, key: String::new(), place: place.clone() };
    let mut slot = DraftSlot {
        address: Some(Given { value: address, key: String::new(), place: place.clone() }),
        path: Some(Given {
            value: PathBuf::from(OsString::from_vec(path)),
            key: String::new(),
            place: place.clone(),
        }),
        read_only: false,
        write_back: None,
        serial: None,
        model: None,
        vlan: 0,
        config_string: Vec::new(),
        worker: None,
        firmware: None,
        wwn: None,
        offset: 0,
        length: None,
        allow: Vec::new(),
        reserved_answer: ReservedAnswer::default(),
        rivals: Rivals::default(),
        buffers: None,
    };
    let mut seen: Vec<String> = Vec::new();
    for part in parts {
        let part = String::from_utf8_lossy(&part).into_owned();
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (part.as_str(), None),
        };
        let name = match name {
            "ro" => "read-only",
            "mask" => "allow",
            other => other,
        };
        if seen.iter().any(|s| s == name) {
            let wrong = Wrong::new(format!("option {name} is given twice"), "give it once");
            mistakes.error(Some(place), "", wrong);
            continue;
        }
        seen.push(name.to_owned());
        let result = match (name, value) {
            ("read-only", None) => {
                slot.read_only = true;
                Ok(())
            }
            ("write-back", None) => {
                slot.write_back = Some(given(true));
                Ok(())
            }
            ("serial", Some(v)) => rules::identify_text(v).map(|text| {
                slot.serial = Some(Given { value: text, key: String::new(), place: place.clone() });
            }),
            ("model", Some(v)) => rules::identify_text(v).map(|text| slot.model = Some(text)),
            ("vlan", Some(v)) => {
                number(v).and_then(|n| rules::within(n, &rules::VLANS)).map(|vlan| slot.vlan = vlan)
            }
            ("config-string", Some(v)) => rules::config_string(v).map(|text| slot.config_string = text),
            ("firmware", Some(v)) => rules::identify_text(v).map(|text| slot.firmware = Some(text)),
            ("wwn", Some(v)) => rules::wwn(v).map(|wwn| {
                slot.wwn = Some(Given { value: wwn, key: String::new(), place: place.clone() });
            }),
            ("offset", Some(v)) => rules::bytes(v).and_then(rules::offset).map(|bytes| slot.offset = bytes),
            ("length", Some(v)) => {
                rules::bytes(v).and_then(rules::length).map(|bytes| slot.length = Some(bytes))
            }
            ("allow", Some(v)) => rules::allow(v.split('+')).map(|list| slot.allow = list),
            ("reserved-answer", Some(v)) => {
                rules::word(v, &rules::RESERVED_ANSWERS).map(|answer| slot.reserved_answer = answer)
            }
            ("rivals", Some(v)) => rules::word(v, &rules::RIVALS).map(|rivals| slot.rivals = rivals),
            ("buffers", Some(v)) => number(v)
                .and_then(|n| rules::within(n, &keys::BUFFERS))
                .map(|buffers| slot.buffers = Some(buffers)),
            ("worker", Some(v)) => number(v).and_then(|n| {
                let n = rules::within(n, &(0..=keys::WORKER_COUNT.end() - 1))?;
                slot.worker = Some(Given { value: n, key: String::new(), place: place.clone() });
                Ok(())
            }),
            ("read-only" | "write-back", Some(_)) => {
                Err(Wrong::new(format!("{name} takes no value"), format!("write {name} alone")))
            }
            (name, None) if VALUES.contains(&name) => {
                Err(Wrong::new(format!("{name} needs a value"), format!("write {name}=VALUE")))
            }
            _ => {
                let options = || FLAGS.into_iter().chain(VALUES);
                let remedy = match did_you_mean(name, options()) {
                    Some(near) => format!("did you mean {near}? A comma within a path is written ,,"),
                    None => {
                        let all: Vec<&str> = options().collect();
                        format!("use {}; a comma within a path is written ,,", all.join(", "))
                    }
                };
                Err(Wrong::new(format!("there is no option '{name}'"), remedy))
            }
        };
        // Within an option the message needs its name, which a file has in its key.
        if let Err(Wrong { what, remedy }) = result {
            let what = if what.contains(name) { what } else { format!("{name}: {what}") };
            mistakes.error(Some(place), "", Wrong { what, remedy });
        }
    }
    Ok(slot)
}

#[cfg(test)]
mod tests {
    use super::super::Mode;
    use super::*;
    use crate::protocol::Mac;
    use proptest::prelude::*;

    fn quick(slots: &[&str]) -> Quick {
        Quick {
            interfaces: vec!["eth1".into()],
            slots: slots.iter().map(OsString::from).collect(),
            ..Quick::default()
        }
    }

    fn lines(quick: &Quick) -> Vec<String> {
        read(quick).1.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn several_interfaces_shelves_and_options() {
        let mut q = quick(&[
            "8.1=/dev/nvme0n1,ro,serial=A1,model=big = disk,vlan=5,config-string=a,,b,worker=1",
            "7.0=disk.img,write-back",
        ]);
        q.interfaces.push("eth2".into());
        q.mode = Some("native".into());
        q.queues = Some("2".into());
        q.workers = Some("2".into());
        q.cores = Some("0-1".into());
        q.spin_us = Some("0".into());
        q.state_dir = Some("/tmp/s".into());
        q.control = Some("c.sock".into());
        let (config, mistakes) = read(&q);
        assert_eq!(mistakes, Mistakes::default());
        let config = config.unwrap();
        assert_eq!(config.interfaces.len(), 2);
        assert!(config.interfaces.iter().all(|i| i.mode == Mode::Native && i.queues == Queues::First(2)));
        assert_eq!(config.slots[0].path, PathBuf::from("disk.img"));
        assert!(config.slots[0].write_back && !config.slots[0].read_only);
        let slot = &config.slots[1];
        assert!(slot.read_only);
        assert_eq!(slot.serial.unwrap().to_string(), "A1");
        assert_eq!(slot.model.unwrap().to_string(), "big = disk");
        assert_eq!((slot.vlan, slot.config_string.as_slice()), (5, b"a,b".as_slice()));
        assert_eq!(slot.worker, Some(1));
        assert_eq!(config.workers.cores, Cores::These(vec![0, 1]));
        assert_eq!(config.workers.spin_us, Some(0));
        assert_eq!(config.control, control::Place::At("c.sock".into()));
        q.control = Some("none".into());
        assert_eq!(read(&q).0.unwrap().control, control::Place::None);
    }

    #[test]
    fn every_option_of_a_slot_is_read() {
        let (config, mistakes) = read(&quick(&[
            "7.0=/a,firmware=F1,wwn=0x5000c500a1b2c3d4,offset=2048s,length=1G,mask=02:00:00:00:00:01+0200.0000.0002,\
             reserved-answer=ata,rivals=alarm,buffers=1024",
            "7.1=/a,offset=2G,allow=020000000003,wwn=none",
        ]));
        assert_eq!(mistakes, Mistakes::default());
        let slots = config.unwrap().slots;
        let slot = &slots[0];
        assert_eq!(slot.firmware.unwrap().to_string(), "F1");
        assert_eq!(slot.wwn, Some(0x5000_c500_a1b2_c3d4));
        assert_eq!((slot.offset, slot.length), (1 << 20, Some(1 << 30)));
        assert_eq!(slot.allow, [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])]);
        assert_eq!((slot.reserved_answer, slot.rivals), (ReservedAnswer::Ata, Rivals::Alarm));
        assert_eq!(slot.buffers, Some(1024));
        assert_eq!((slots[1].offset, slots[1].length, slots[1].wwn), (2 << 30, None, Some(0)));
        assert_eq!(slots[1].allow, [Mac([2, 0, 0, 0, 0, 3])]);
        // What is listed for suggestions is what is read: alone, with a value, and nothing else.
        for name in FLAGS {
            assert_eq!(lines(&quick(&[&format!("7.0=/a,{name}")])), Vec::<String>::new());
        }
        for name in VALUES {
            let got = lines(&quick(&[&format!("7.0=/a,{name}")]));
            assert!(got.len() == 1 && got[0].contains(" needs a value"), "{got:?}");
            let got = lines(&quick(&[&format!("7.0=/a,{name}=1")]));
            assert!(got.iter().all(|l| !l.contains("no option")), "{got:?}");
        }
        let known: Vec<&str> = FLAGS.into_iter().chain(VALUES).collect();
        for name in keys::SLOT.names().filter(|n| !["address", "path"].contains(n)) {
            assert!(known.contains(&name), "the file has {name}");
        }
    }

    #[test]
    fn commas_and_equals_in_paths_can_be_written() {
        let (config, mistakes) = read(&quick(&["7.0=/a=b/c,,d,,,ro", "7.1=,,,,x,model=a,,b"]));
        assert_eq!(mistakes, Mistakes::default());
        let config = config.unwrap();
        assert_eq!(config.slots[0].path, PathBuf::from("/a=b/c,d,"));
        assert!(config.slots[0].read_only);
        assert_eq!(config.slots[1].path, PathBuf::from(",,x"));
        assert_eq!(config.slots[1].model.unwrap().to_string(), "a,b");
    }

    #[test]
    fn a_path_need_not_be_utf8() {
        let mut q = quick(&[]);
        q.slots.push(OsString::from_vec(b"7.0=/a\xff".to_vec()));
        let config = read(&q).0.unwrap();
        assert_eq!(config.slots[0].path.as_os_str().as_bytes(), b"/a\xff");
    }

    #[test]
    fn read_only_for_all_slots() {
        let mut q = quick(&["7.0=a", "7.1=b,ro"]);
        q.read_only = true;
        assert!(read(&q).0.unwrap().slots.iter().all(|s| s.read_only));
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let mut q = quick(&[
            "disk.img",
            "7.0=",
            "4095.0=a",
            "7.1=b,readonly",
            "7.2=b,serial",
            "7.3=c,ro=1,ro",
            "7.4=d,worker=x",
            "7.5=e,model=ü",
            "7.5=f",
            "7.6=g,mask=02:00:00:00:00:01,allow=020000000002",
            "7.7=h,mask=01:00:00:00:00:01,offset=1,length=0,wwn=1,rivals=x,reserved-answer=x,buffers=0",
        ]);
        q.interfaces.push("eth1".into());
        q.mode = Some("fast".into());
        q.queues = Some("0".into());
        q.workers = Some("0".into());
        q.cores = Some("1-0".into());
        q.spin_us = Some("2000".into());
        let got = lines(&q);
        let want = [
            "argument '--mode fast': error: 'fast' is not known here; use one of",
            "argument '--queues 0': error: 0 is out of range; use 1 to 256",
            "argument '--workers 0': error: 0 is out of range; use 1 to 256",
            "argument '--cores 1-0': error: the range 1-0 runs backwards; write 0-1",
            "argument '--spin-us 2000': error: 2000 is out of range; use 0 to 1000",
            "argument 'disk.img': error: there is no '=' in it; write SHELF.SLOT=PATH, as in 7.0=disk.img",
            "argument '7.0=': error: there is no path behind the '='",
            "argument '4095.0=a': error: Linux ignores shelf 4095",
            "argument '7.1=b,readonly': error: there is no option 'readonly'; did you mean read-only?",
            "argument '7.2=b,serial': error: serial needs a value; write serial=VALUE",
            "argument '7.3=c,ro=1,ro': error: read-only takes no value; write read-only alone",
            "argument '7.3=c,ro=1,ro': error: option read-only is given twice; give it once",
            "argument '7.4=d,worker=x': error: worker: 'x' is no whole number; write digits only",
            "argument '7.5=e,model=ü': error: model: 'ü' is not printable ASCII",
            "argument '7.6=g,mask=02:00:00:00:00:01,allow=020000000002': error: option allow is given twice;",
            "argument '7.7=h,mask=01:00:00:00:00:01,offset=1,length=0,wwn=1,rivals=x,reserved-answer=x,buffers=0': \
             error: allow: '01:00:00:00:00:01' is the address of a group",
            "argument '7.7=h,mask=01:00:00:00:00:01,offset=1,length=0,wwn=1,rivals=x,reserved-answer=x,buffers=0': \
             error: offset: 1 is no multiple of 512 bytes; use 0 or 512",
            "argument '7.7=h,mask=01:00:00:00:00:01,offset=1,length=0,wwn=1,rivals=x,reserved-answer=x,buffers=0': \
             error: length: it is 0; leave it out",
            "argument '7.7=h,mask=01:00:00:00:00:01,offset=1,length=0,wwn=1,rivals=x,reserved-answer=x,buffers=0': \
             error: wwn: '1' is no world wide name; write 16",
            "argument '7.7=h,mask=01:00:00:00:00:01,offset=1,length=0,wwn=1,rivals=x,reserved-answer=x,buffers=0': \
             error: rivals: 'x' is not known here; use one of \"refuse\", \"alarm\"",
            "argument '7.7=h,mask=01:00:00:00:00:01,offset=1,length=0,wwn=1,rivals=x,reserved-answer=x,buffers=0': \
             error: reserved-answer: 'x' is not known here",
            "argument '7.7=h,mask=01:00:00:00:00:01,offset=1,length=0,wwn=1,rivals=x,reserved-answer=x,buffers=0': \
             error: buffers: 0 is out of range; use 2 to 1024",
            "argument '--interface eth1': error: eth1 was named before (argument '--interface eth1')",
            "argument '7.5=f': error: slot 7.5 was given before (argument '7.5=e,model=ü')",
            "argument '7.2=b,serial': error: b is served by another slot already (argument '7.1=b,readonly')",
        ];
        for (got, want) in got.iter().zip(want) {
            assert!(got.starts_with(want), "{got}\n{want}");
        }
        assert_eq!(got.len(), want.len(), "{got:#?}");
    }

    #[test]
    fn nothing_at_all_lacks_both() {
        let got = lines(&Quick::default());
        assert_eq!(got.len(), 2);
        assert!(got[0].contains("--interface NAME") && got[1].contains("--config FILE"), "{got:?}");
    }

    proptest! {
        #[test]
        fn any_path_can_be_written(path in "[a-z,=/. ü]{1,20}", ro in any::<bool>()) {
            let text = format!("7.0={}{}", path.replace(',', ",,"), if ro { ",ro" } else { "" });
            let (config, mistakes) = read(&quick(&[&text]));
            let config = config.ok_or_else(|| TestCaseError::fail(format!("{mistakes:?}")))?;
            prop_assert_eq!(&config.slots[0].path, &PathBuf::from(&path));
            prop_assert_eq!(config.slots[0].read_only, ro);
        }

        #[test]
        fn no_argument_panics(text in "\\PC{0,30}") {
            let (config, mistakes) = read(&quick(&[&text]));
            prop_assert_eq!(config.is_none(), mistakes.refuse());
        }
    }
}
