//! Reads how vblade was started: the files of `/etc/vblade.conf.d` (vblade-persistence(5): shell variables, one disk a
//! file), `/etc/vblade.conf` of Red Hat's init script (`INTERFACE SHELF SLOT PATH [MAC,MAC]`, one disk a line),
//! command lines of vblade and vbladed in scripts, and the directories of vblade-persist.
//!
//! Options are those of vblade(8) and of main() in its aoe.c, version 25; getopt(3) takes them anywhere in the line.
//! Invariant: each line is taken, or remarked on.

use super::found::{Export, Found, Spot};
use super::shell::{self, Word};
use crate::appliance::config::rules;
use crate::protocol::Mac;

/// Reads one file.
pub(super) fn read(file: &str, text: &str, found: &mut Found) {
    let spot = |line| Spot { file: file.to_owned(), line };
    let commands = match shell::commands(text) {
        Ok(commands) => commands,
        Err(unended) => {
            let remedy = "end it: vblade's start scripts skip such a file too";
            return found.warn(&spot(unended.line), "the quote that begins here never ends", remedy);
        }
    };
    let mut variables = Variables::default();
    for command in commands {
        let Some(first) = command.first() else { continue };
        let at = spot(first.line);
        let assignments = if first.text == "export" { &command[1..] } else { &command[..] };
        if !assignments.is_empty() && assignments.iter().all(|w| w.assignment().is_some()) {
            for (name, value) in assignments.iter().filter_map(Word::assignment) {
                variables.set(name, value, &spot, found);
            }
        } else if !is_vblade(&first.text) && is_row(&command) {
            row(&at, &command, found);
        } else if let Some(name) = command.iter().position(|w| is_vblade(&w.text)) {
            if name > 0 {
                let words: Vec<&str> = command.iter().take(name).map(|w| w.text.as_str()).collect();
                let what = format!("'{}' before it has no counterpart", words.join(" "));
                found.warn(&at, what, "nothing to do: the unit sets what all of xshelf runs with");
            }
            invocation(&at, &command[name + 1..], found);
        } else {
            let words: Vec<&str> = command.iter().map(|w| w.text.as_str()).collect();
            let what = format!("'{}' is nothing that vblade knows", words.join(" ").escape_debug());
            found.warn(&at, what, "if it belongs to a disk, add that by hand");
        }
    }
    variables.finish(&spot, found);
}

fn is_vblade(word: &str) -> bool {
    matches!(word.rsplit('/').next(), Some("vblade" | "vbladed"))
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_row(command: &[Word]) -> bool {
    matches!(command, [_, shelf, slot, _] | [_, shelf, slot, _, _] if digits(&shelf.text) && digits(&slot.text))
}

/// `INTERFACE SHELF SLOT PATH [MAC,MAC]`
fn row(at: &Spot, words: &[Word], found: &mut Found) {
    let [interface, shelf, slot, path, rest @ ..] = words else { return };
    let mut arguments = vec![shelf.clone(), slot.clone(), interface.clone(), path.clone()];
    if let Some(macs) = rest.first() {
        arguments.extend([Word::plain("-m", macs.line), macs.clone()]);
    }
    invocation(at, &arguments, found);
}

/// What a file of `vblade.conf.d` sets.
#[derive(Default)]
struct Variables {
    netif: Option<Word>,
    shelf: Option<Word>,
    slot: Option<Word>,
    filename: Option<Word>,
    options: Option<Word>,
}

impl Variables {
    fn set(&mut self, name: &str, value: Word, spot: &impl Fn(usize) -> Spot, found: &mut Found) {
        let at = spot(value.line);
        // Debian's vblade-persist-convert writes `Shelf=`, which nothing reads.
        let lower = name.to_ascii_lowercase();
        let variable = match lower.as_str() {
            "netif" => &mut self.netif,
            "shelf" => &mut self.shelf,
            "slot" => &mut self.slot,
            "filename" => &mut self.filename,
            "options" => &mut self.options,
            "ionice" | "ioschedulingclass" | "ioschedulingpriority" => {
                let what =
                    format!("{name} has no counterpart: all slots share the workers and their priority");
                return found.warn(&at, what, "nothing to do, or set IOSchedulingClass= in the unit");
            }
            _ => return found.warn(&at, format!("vblade reads no variable '{name}'"), "nothing to do"),
        };
        if lower != name {
            found.note(
                &at,
                format!("{name} is taken as {lower}"),
                "nothing to do; vblade itself does not read it",
            );
        }
        *variable = Some(value).filter(|v| !v.text.is_empty());
    }

    fn finish(self, spot: &impl Fn(usize) -> Spot, found: &mut Found) {
        let all = [&self.netif, &self.shelf, &self.slot, &self.filename, &self.options];
        let Some(line) = all.iter().filter_map(|v| v.as_ref().map(|w| w.line)).min() else { return };
        let at = spot(line);
        let named = [
            ("netif", &self.netif),
            ("shelf", &self.shelf),
            ("slot", &self.slot),
            ("filename", &self.filename),
        ];
        let missing: Vec<&str> = named.iter().filter(|(_, v)| v.is_none()).map(|(name, _)| *name).collect();
        let (Some(netif), Some(shelf), Some(slot), Some(filename)) =
            (self.netif, self.shelf, self.slot, self.filename)
        else {
            let why = format!("there is no {}", missing.join(", no "));
            return found.leave_out(&at, "its disk", why, "set it; vblade skips such a file too");
        };
        let mut arguments = vec![shelf, slot, netif, filename];
        if let Some(options) = self.options {
            arguments.extend(options.text.split_whitespace().map(|text| options.part(text)));
        }
        invocation(&at, &arguments, found);
    }
}

/// Reads one directory of vblade-persist: files with a value each. `Err` names what is missing.
pub(super) fn persisted(
    directory: &str,
    value: impl Fn(&str) -> Option<String>,
    macs: &[String],
    found: &mut Found,
) {
    let at = Spot { file: directory.to_owned(), line: 0 };
    let mut arguments = Vec::new();
    for name in ["SHELF", "SLOT", "NETIF", "SOURCE"] {
        let text = value(name).unwrap_or_default();
        let Some(line) = text.lines().next().map(str::trim).filter(|l| !l.is_empty()) else {
            let why = format!("env/{name} is missing or empty");
            return found.leave_out(&at, "its disk", why, "add it; vblade-persist does not start it either");
        };
        arguments.push(Word::plain(line, 0));
    }
    if !macs.is_empty() {
        arguments.extend([Word::plain("-m", 0), Word::plain(macs.join(","), 0)]);
    }
    invocation(&at, &arguments, found);
}

/// What vblade is told: `[OPTION]... SHELF SLOT INTERFACE PATH`, in any order that getopt(3) takes.
fn invocation(at: &Spot, arguments: &[Word], found: &mut Found) {
    let mut operands: Vec<&Word> = Vec::new();
    let mut options: Vec<(char, &str)> = Vec::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if word.expands {
            let what = format!("'{}' takes a shell to tell what it is", word.text.escape_debug());
            return found.leave_out(at, "its disk", what, "write what it stands for");
        }
        if word.text == "--" {
            operands.extend(words);
            break;
        }
        let Some(mut letters) = word.text.strip_prefix('-').filter(|l| !l.is_empty()) else {
            operands.push(word);
            continue;
        };
        while let Some(option) = letters.chars().next() {
            letters = &letters[option.len_utf8()..];
            if !"bmol".contains(option) {
                options.push((option, ""));
                continue;
            }
            let value =
                if letters.is_empty() { words.next().map(|w| w.text.as_str()) } else { Some(letters) };
            let Some(value) = value else {
                return found.leave_out(at, "its disk", format!("-{option} lacks its value"), "add it");
            };
            options.push((option, value));
            letters = "";
        }
    }
    let [shelf, slot, interface, path] = operands[..] else {
        let why = format!("there are {} words, not shelf, slot, interface and path", operands.len());
        return found.leave_out(at, "its disk", why, "write these four");
    };
    // vblade takes the digits in front (atoi), so `07` is 7.
    let Some(address) = found.address(at, &shelf.text, &slot.text) else { return };
    let of = address.to_string();
    let Some(path) = found.path(at, &of, &path.text) else { return };
    let mut export = Export::new(at.clone(), address, path);
    (export.interfaces, export.vlan) = found.place(at, std::slice::from_ref(&interface.text));
    for (option, value) in options {
        match option {
            'd' => {}
            's' => export.synced = true,
            'r' => export.read_only = true,
            'b' => match number(value) {
                Some(count) => export.buffers = Some(found.buffers(at, count)),
                None => found.warn(at, format!("-b {value} is no number"), "set `buffers` by hand"),
            },
            'm' => {
                let Some(allow) = macs(at, &of, value, found) else { return };
                export.editable = true;
                for mac in allow {
                    if !export.allow.contains(&mac) {
                        export.allow.push(mac);
                    }
                }
            }
            'o' | 'l' => {
                let Some(sectors) = number(value).filter(|n| option == 'o' || *n > 0) else {
                    let why = format!("-{option} {value} is no number of sectors");
                    return found.leave_out(at, &of, why, "correct it");
                };
                let Some(bytes) = found.bytes(at, &of, sectors) else { return };
                if option == 'o' {
                    export.offset = bytes;
                } else {
                    export.length = Some(bytes);
                }
            }
            other => {
                let what = format!("vblade has no option -{}", other.escape_debug());
                found.warn(at, what, "nothing to do: vblade would not have started");
            }
        }
    }
    found.add(export);
}

/// The hosts of `-m`. `None` when none of them can be made out: without a list, everybody could use the disk.
fn macs(at: &Spot, of: &str, list: &str, found: &mut Found) -> Option<Vec<Mac>> {
    let mut allow = Vec::new();
    for text in list.split(',').map(str::trim).filter(|t| !t.is_empty()) {
        // Two digits each, with or without a colon behind them.
        let plain: String = text.chars().filter(|c| *c != ':').collect();
        match rules::mac(text).or_else(|wrong| rules::mac(&plain).map_err(|_| wrong)) {
            Ok(mac) => allow.push(mac),
            Err(wrong) => found.warn(at, wrong.what, wrong.remedy),
        }
    }
    if allow.is_empty() {
        let why = "no host of -m can be made out, and without a list everybody could use it";
        found.leave_out(at, of, why, "correct the addresses");
        return None;
    }
    Some(allow)
}

/// A number as strtoll(3) reads it with base 0: decimal, 0x, or octal behind a 0.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::super::found::{Loss, Remark};
    use super::*;

    fn found(text: &str) -> Found {
        let mut found = Found::default();
        read("v.conf", text, &mut found);
        found
    }

    fn remarks(found: &Found) -> Vec<String> {
        found.remarks.iter().map(ToString::to_string).collect()
    }

    fn one(text: &str) -> Export {
        let mut found = found(text);
        assert_eq!(found.exports.len(), 1, "{found:?}");
        assert!(found.remarks.iter().all(|r| r.loss == Loss::Note), "{found:?}");
        found.exports.remove(0)
    }

    #[test]
    fn the_example_of_vblade_persistence_5_is_taken() {
        let text = "# This is a POSIX shell fragment\n\nshelf=14\nslot=2\nnetif=ens3\nfilename=/dev/mapper/export\n\
                    options='-r -m 11:22:33:44:55:66,22:33:44:55:66:77 -o 8'\nionice='--class best-effort --classdata 7'\n";
        let found = found(text);
        let export = &found.exports[0];
        assert_eq!(
            (export.address.to_string().as_str(), export.path.as_str()),
            ("14.2", "/dev/mapper/export")
        );
        assert_eq!((export.spot.line, export.interfaces.as_slice()), (3, ["ens3".to_owned()].as_slice()));
        assert!(export.read_only && !export.synced);
        assert_eq!((export.offset, export.length), (8 * 512, None));
        // The first of the two is the address of a group, which no host has.
        assert_eq!(export.allow, [Mac([0x22, 0x33, 0x44, 0x55, 0x66, 0x77])]);
        let got = remarks(&found);
        assert_eq!(got.len(), 2, "{got:?}");
        assert!(got[0].starts_with("v.conf:8: warning: ionice has no counterpart"), "{got:?}");
        assert!(
            got[1].starts_with("v.conf:3: warning: '11:22:33:44:55:66' is the address of a group"),
            "{got:?}"
        );
    }

    #[test]
    fn every_option_has_its_equal() {
        let export = one("vblade -b 32 -d -s -o 0x10 -l 0100 7 3 eth1 /dev/sdb");
        assert_eq!((export.buffers, export.synced, export.read_only), (Some(32), true, false));
        assert_eq!((export.offset, export.length), (16 * 512, Some(64 * 512)));
        let export =
            one("/usr/sbin/vbladed 07 3 eth1.12 /dev/sdb -rdb8 -m02:00:00:00:00:01,020000:000002 -l1 &");
        assert_eq!((export.buffers, export.read_only, export.length), (Some(8), true, Some(512)));
        assert_eq!(export.allow, [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])]);
        assert_eq!((export.interfaces, export.vlan), (vec!["eth1".to_owned()], 12));
        assert_eq!(export.address.to_string(), "7.3");
    }

    #[test]
    fn the_table_of_an_init_script_is_taken() {
        let found = found(
            "# network_device shelf slot file/disk/partition mac[,mac[,mac]]\n\
             # eth0 0 0 /dev/sdb 00:11:22:33:44:55\n\
             eth0 0 1 /srv/disk1   # a file\n\
             eth0\t0\t2\t/dev/sdb 00:11:22:33:44:55,00:11:22:33:44:56\n\
             eth0 0 3 /srv/vblade\n",
        );
        assert_eq!(remarks(&found), Vec::<String>::new());
        let got: Vec<(String, &str, usize, usize)> = found
            .exports
            .iter()
            .map(|e| (e.address.to_string(), e.path.as_str(), e.allow.len(), e.spot.line))
            .collect();
        let want = [("0.1", "/srv/disk1", 0, 3), ("0.2", "/dev/sdb", 2, 4), ("0.3", "/srv/vblade", 0, 5)];
        assert_eq!(got, want.map(|(address, path, hosts, line)| (address.to_owned(), path, hosts, line)));
    }

    #[test]
    fn what_cannot_be_taken_is_told_with_its_line() {
        let found = found(
            "modprobe aoe\nvblade 4095 0 eth0 /a\nvblade 0 255 eth0 /a\nvblade 0 0 eth0 a.img\nvblade 0 0 eth0\n\
             vblade -x 0 1 eth0 /b\nvblade -o -1 0 2 eth0 /c\nvblade -l 0 0 2 eth0 /c\nvblade 0 2 eth0 $DISK\n\
             vblade -m zz 0 2 eth0 /c\nvblade -b many 0 3 eth0 /d\nvblade -b 1 0 4 eth0 /e\nnice -n 5 vblade 0 5 eth0 /f\n\
             vblade 0 6 eth0/1 /g\nvblade 0 7 eth0 /h -m\nvblade -l 0xffffffffffffffff 0 8 eth0 /i\n\
             COLOR=red\n",
        );
        let want = [
            "1: warning: 'modprobe aoe' is nothing that vblade knows; ",
            "2: warning: 4095.0 is left out: Linux ignores shelf 4095; use a shelf from",
            "3: warning: 0.255 is left out: slot 255 means every slot; use a slot",
            "4: warning: 0.0 is left out: 'a.img' is a relative path; write it from / on",
            "5: warning: its disk is left out: there are 3 words, not shelf, slot, interface and path;",
            "6: warning: vblade has no option -x; nothing to do",
            "7: warning: 0.2 is left out: -o -1 is no number of sectors; correct it",
            "8: warning: 0.2 is left out: -l 0 is no number of sectors; correct it",
            "9: warning: its disk is left out: '$DISK' takes a shell to tell what it is;",
            "10: warning: 'zz' is no MAC address; ",
            "10: warning: 0.2 is left out: no host of -m can be made out, and without a list everybody",
            "11: warning: -b many is no number; set `buffers` by hand",
            "12: warning: a slot queues 2 to 1024 requests, not 1; 2 is taken; ",
            "13: warning: 'nice -n 5' before it has no counterpart; ",
            "14: warning: 'eth0/1' cannot be the name of an interface; ",
            "15: warning: its disk is left out: -m lacks its value; add it",
            "16: warning: 0.8 is left out: no disk has 18446744073709551615 sectors; ",
            "17: warning: vblade reads no variable 'COLOR'; ",
        ];
        let got = remarks(&found);
        for (got, want) in got.iter().zip(want) {
            assert!(got.starts_with(&format!("v.conf:{want}")), "{got}\n{want}");
        }
        assert_eq!(got.len(), want.len(), "{got:#?}");
        let taken: Vec<String> = found.exports.iter().map(|e| e.address.to_string()).collect();
        assert_eq!(taken, ["0.1", "0.3", "0.4", "0.5", "0.6"]);
    }

    #[test]
    fn a_file_that_vblade_skips_is_skipped() {
        let got = remarks(&found("shelf=1\nslot=2\nfilename=/a\n"));
        assert_eq!(got.len(), 1, "{got:?}");
        assert!(got[0].starts_with("v.conf:1: warning: its disk is left out: there is no netif;"), "{got:?}");
        let got = remarks(&found("shelf=1\nslot='2\nnetif=eth0\nfilename=/a\n"));
        assert_eq!(
            got,
            [
                "v.conf:2: warning: the quote that begins here never ends; end it: vblade's start scripts skip such a file too"
            ]
        );
        assert_eq!(remarks(&found("# shelf=\n\n")), Vec::<String>::new());
    }

    #[test]
    fn what_vblade_persist_convert_writes_is_taken() {
        let found = found(
            "#\n# Created by vblade-persist-convert\n#\nShelf=1\nSlot=2\nNetIf=eth0\nFilename=/dev/vg/a\n\
                           Options=\"-m 001122334455\"\n# IOSchedulingClass=\n",
        );
        assert_eq!(found.exports[0].allow, [Mac([0, 0x11, 0x22, 0x33, 0x44, 0x55])]);
        assert!(found.remarks.iter().all(|r: &Remark| r.loss == Loss::Note) && found.remarks.len() == 5);
    }

    #[test]
    fn one_disk_on_two_interfaces_is_one_slot() {
        let mut found = found("eth0 1 1 /a\neth1 1 1 /a\neth0 1 1 /b\neth0 1 2 /a\neth1 1 3 /c\n");
        let got = remarks(&found);
        assert!(
            got[0].starts_with("v.conf:3: warning: 1.1 is left out: v.conf:1 has the same address"),
            "{got:?}"
        );
        assert!(
            got[1].starts_with("v.conf:4: warning: 1.2 is left out: v.conf:1 serves the same bytes of /a")
        );
        assert_eq!(found.exports.len(), 2);
        found.finish(&[]);
        assert_eq!(found.interfaces, ["eth0", "eth1"]);
        let got = remarks(&found);
        assert!(got[2].starts_with("v.conf:5: warning: 1.3 was served on eth1 only;"), "{got:?}");
        assert!(got[3].starts_with("note: writes to 1.1, 1.3 were acknowledged before"), "{got:?}");
        assert_eq!(got.len(), 4);
    }
}
