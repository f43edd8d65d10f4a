//! What was found in the configuration of another target, brought together and written as ours.
//!
//! Not here: reading any format (`vblade`, `ggaoed`).
//! Invariant: the text written obeys all rules of a configuration whenever there is a slot in it, and whatever of the
//! input is not in it has been remarked on.

use crate::appliance::config::{keys, rules};
use crate::limits::{self, SECTOR};
use crate::protocol::{Address, Mac};
use std::fmt::{self, Write as _};
use std::path::Path;

/// A line of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    /// The file, as it was named.
    pub file: String,
    /// Line, from 1; 0 for the whole file.
    pub line: usize,
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// How much of the meaning is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Nothing that must be acted on: taken, and it means something slightly else here.
    Note,
    /// Something has no counterpart, or could not be taken.
    Warning,
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remark {
    /// Where; `None` for what concerns all.
    pub spot: Option<Spot>,
    /// How bad.
    pub loss: Loss,
    /// What it is.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(spot) = &self.spot {
            write!(f, "{spot}: ")?;
        }
        let word = match self.loss {
            Loss::Note => "note",
            Loss::Warning => "warning",
        };
        write!(f, "{word}: {}; {}", self.what, self.remedy)
    }
}

/// One disk of the other target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Export {
    /// Where it stood.
    pub spot: Spot,
    /// Its address, which initiators can reach.
    pub address: Address,
    /// An absolute path.
    pub path: String,
    /// Interfaces it was served on; empty if on all.
    pub interfaces: Vec<String>,
    /// Its VLAN.
    pub vlan: u16,
    /// Whether writes were refused.
    pub read_only: bool,
    /// Whether a write was on the disk before it was acknowledged.
    pub synced: bool,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: Option<u64>,
    /// Who may talk to it.
    pub allow: Vec<Mac>,
    /// Whether hosts could add to that list over the wire.
    pub editable: bool,
    /// Requests it said it could queue.
    pub buffers: Option<u16>,
}

impl Export {
    /// A whole disk, for everybody.
    pub fn new(spot: Spot, address: Address, path: String) -> Self {
        Self {
            spot,
            address,
            path,
            interfaces: Vec::new(),
            vlan: 0,
            read_only: false,
            synced: false,
            offset: 0,
            length: None,
            allow: Vec::new(),
            editable: false,
            buffers: None,
        }
    }

    fn end(&self) -> u64 {
        self.length.map_or(u64::MAX, |length| self.offset.saturating_add(length))
    }
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// The disks, in the order of the input.
    pub exports: Vec<Export>,
    /// Interfaces that were served on whatever disks there are.
    pub interfaces: Vec<String>,
    /// What there is to tell.
    pub remarks: Vec<Remark>,
    /// The files that were read, in that order.
    pub files: Vec<String>,
}

/// Stands for an interface that nothing named; the kernel will not find it, and the start says so.
const UNNAMED: &str = "CHANGE-ME";

impl Found {
    /// Something that is not in the output as it was in the input.
    pub fn warn(&mut self, spot: &Spot, what: impl Into<String>, remedy: impl Into<String>) {
        self.remark(Some(spot), Loss::Warning, what.into(), remedy.into());
    }

    /// Something that was taken, and is worth knowing.
    pub fn note(&mut self, spot: &Spot, what: impl Into<String>, remedy: impl Into<String>) {
        self.remark(Some(spot), Loss::Note, what.into(), remedy.into());
    }

    fn remark(&mut self, spot: Option<&Spot>, loss: Loss, what: String, remedy: String) {
        let (what, remedy) = (one_line(&what), one_line(&remedy));
        let remark = Remark { spot: spot.cloned(), loss, what, remedy };
        // A setting of many devices that has no counterpart in general is told of once for each line.
        if !self.remarks.contains(&remark) {
            self.remarks.push(remark);
        }
    }

    /// Names of interfaces as ours: a VLAN device becomes its parent and the VLAN. The VLAN is the same for all.
    pub fn place(&mut self, spot: &Spot, names: &[String]) -> (Vec<String>, u16) {
        let mut parents: Vec<String> = Vec::new();
        let mut vlan = None;
        for name in names {
            if let Err(wrong) = rules::interface_name(name) {
                self.warn(spot, wrong.what, wrong.remedy);
                continue;
            }
            let (parent, tag) = match name.rsplit_once('.').map(|(parent, tag)| (parent, tag.parse::<u16>()))
            {
                Some((parent, Ok(tag))) if (1..=4094).contains(&tag) && !parent.is_empty() => (parent, tag),
                _ => (name.as_str(), 0),
            };
            if *vlan.get_or_insert(tag) != tag {
                let what =
                    format!("a slot is on one VLAN, and {name} is on another than the interfaces before");
                self.warn(spot, what, "give it a second address there, or serve it untagged");
                continue;
            }
            if tag != 0 {
                let what = format!("{name} is taken for VLAN {tag} of {parent}");
                self.note(
                    spot,
                    what,
                    "make sure of it (`ip -d link show`); the NIC must leave tags in the frames",
                );
            }
            if !parents.iter().any(|p| p == parent) {
                parents.push(parent.to_owned());
            }
        }
        (parents, vlan.unwrap_or(0))
    }

    /// `address` as we can serve it.
    pub fn address(&mut self, spot: &Spot, shelf: &str, slot: &str) -> Option<Address> {
        let text = format!("{shelf}.{slot}");
        rules::address(&text).map_err(|wrong| self.leave_out(spot, &text, wrong.what, wrong.remedy)).ok()
    }

    /// A path as we can serve it.
    pub fn path(&mut self, spot: &Spot, of: &str, path: &str) -> Option<String> {
        if path.starts_with('/') {
            return Some(path.to_owned());
        }
        let what = format!("'{}' is a relative path", path.escape_debug());
        self.leave_out(spot, of, what, "write it from / on");
        None
    }

    /// Sectors as bytes.
    pub fn bytes(&mut self, spot: &Spot, of: &str, sectors: u64) -> Option<u64> {
        let bytes = sectors.checked_mul(SECTOR as u64).filter(|bytes| *bytes <= keys::MAX_BYTES);
        if bytes.is_none() {
            self.leave_out(spot, of, format!("no disk has {sectors} sectors"), "correct it");
        }
        bytes
    }

    /// The buffer count as ours.
    pub fn buffers(&mut self, spot: &Spot, count: u64) -> u16 {
        let (low, high) = (*keys::BUFFERS.start(), *keys::BUFFERS.end());
        let taken = u16::try_from(count).unwrap_or(high).clamp(low, high);
        if u64::from(taken) != count {
            let what = format!("a slot queues {low} to {high} requests, not {count}; {taken} is taken");
            self.warn(spot, what, "expect no difference");
        }
        taken
    }

    /// Says that a disk is not in the output.
    pub fn leave_out(&mut self, spot: &Spot, of: &str, why: impl fmt::Display, remedy: impl Into<String>) {
        self.warn(spot, format!("{of} is left out: {why}"), remedy);
    }

    /// Adds a disk, unless it contradicts those before.
    pub fn add(&mut self, export: Export) {
        let of = export.address.to_string();
        if let Some(first) = self.exports.iter_mut().find(|e| e.address == export.address) {
            let same =
                Export { spot: first.spot.clone(), interfaces: first.interfaces.clone(), ..export.clone() };
            if *first == same {
                // One disk over two interfaces takes two processes of vblade, and one slot here.
                for name in export.interfaces {
                    if !first.interfaces.contains(&name) {
                        first.interfaces.push(name);
                    }
                }
                return;
            }
            let why = format!("{} has the same address and is not the same", first.spot);
            return self.leave_out(&export.spot, &of, why, "give each disk its own address");
        }
        let shared =
            // As paths: //x is /x.
            |e: &&Export| Path::new(&e.path) == Path::new(&export.path) && e.offset < export.end() && export.offset < e.end();
        if let Some(first) = self.exports.iter().find(shared) {
            let why = format!("{} serves the same bytes of {}", first.spot, first.path);
            return self.leave_out(&export.spot, &of, why, "serve each byte in one slot only");
        }
        if export.allow.len() > limits::MAC_LIST {
            let why = format!("it allows {} hosts", export.allow.len());
            return self.leave_out(&export.spot, &of, why, format!("allow {} at most", limits::MAC_LIST));
        }
        self.exports.push(export);
    }

    /// What can only be said when everything is read. `given` interfaces stand in place of those found.
    pub fn finish(&mut self, given: &[String]) {
        let mut all: Vec<String> = Vec::new();
        if given.is_empty() {
            for name in self.interfaces.iter().chain(self.exports.iter().flat_map(|e| &e.interfaces)) {
                if !all.contains(name) {
                    all.push(name.clone());
                }
            }
            for export in self.exports.clone() {
                if !export.interfaces.is_empty() && all.iter().any(|name| !export.interfaces.contains(name)) {
                    let on = export.interfaces.join(", ");
                    let what = format!(
                        "{} was served on {on} only; xshelf serves each slot on all interfaces",
                        export.address
                    );
                    let remedy = "if hosts elsewhere must not see it: `allow`, `vlan`, or a second xshelf with a \
                                  configuration of its own";
                    self.warn(&export.spot, what, remedy);
                }
            }
        } else {
            all = given.to_vec();
        }
        if all.is_empty() && !self.exports.is_empty() {
            let what = format!("no interface is named: the file says {UNNAMED}");
            let remedy = "put the name of yours in its place, or run this again with --interface IF";
            self.remark(None, Loss::Warning, what, remedy.into());
            all.push(UNNAMED.into());
        }
        self.interfaces = all;
        let volatile: Vec<String> = self
            .exports
            .iter()
            .filter(|e| !e.synced && !e.read_only)
            .map(|e| e.address.to_string())
            .collect();
        if !volatile.is_empty() {
            let what = format!(
                "writes to {} were acknowledged before they were on the disk; now they are on it first",
                volatile.join(", ")
            );
            let remedy =
                "write-back = true brings back the old way, which loses acknowledged writes when power fails";
            self.remark(None, Loss::Note, what, remedy.into());
        }
        let open = self.exports.iter().filter(|e| e.editable).map(|e| e.address.to_string());
        let open: Vec<String> = open.collect();
        if !open.is_empty() {
            let what = format!(
                "hosts can narrow the list of {} by the mask they set, and no longer widen it",
                open.join(", ")
            );
            self.remark(None, Loss::Note, what, "add hosts to `allow`".into());
        }
        self.sort();
    }

    /// Puts the remarks in the order of the files and their lines; those on everything come last.
    fn sort(&mut self) {
        let files = &self.files;
        self.remarks.sort_by_key(|r| match &r.spot {
            Some(spot) => (files.iter().position(|f| *f == spot.file).unwrap_or(files.len()), spot.line),
            None => (usize::MAX, 0),
        });
    }

    /// The configuration file. `source` says where it is from.
    pub fn to_toml(&self, source: &str) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# Made by `xshelf import` from {}.", one_line(source));
        out.push_str("# Before it serves: xshelf check FILE. What each key means: xshelf check --keys.\n");
        let lost: Vec<&Remark> = self.remarks.iter().filter(|r| r.loss == Loss::Warning).collect();
        if !lost.is_empty() {
            out.push_str("#\n# Not in it, or not as it was:\n");
            for remark in lost {
                let at = remark.spot.as_ref().map(|s| format!("{s}: ")).unwrap_or_default();
                let _ = writeln!(out, "#   {}", one_line(&format!("{at}{}; {}", remark.what, remark.remedy)));
            }
        }
        for name in &self.interfaces {
            let _ = write!(out, "\n[[interface]]\nname = {}\n", quoted(name));
        }
        for e in &self.exports {
            let _ = write!(out, "\n# {}\n[[slot]]\n", one_line(&e.spot.to_string()));
            let _ = writeln!(out, "address = \"{}\"\npath = {}", e.address, quoted(&e.path));
            if e.read_only {
                out.push_str("read-only = true\n");
            }
            if e.offset != 0 {
                let _ = writeln!(out, "offset = \"{}s\"", e.offset / SECTOR as u64);
            }
            if let Some(length) = e.length {
                let _ = writeln!(out, "length = \"{}s\"", length / SECTOR as u64);
            }
            if e.vlan != 0 {
                let _ = writeln!(out, "vlan = {}", e.vlan);
            }
            if !e.allow.is_empty() {
                let list: Vec<String> = e.allow.iter().map(|mac| format!("\"{mac}\"")).collect();
                let _ = writeln!(out, "allow = [{}]", list.join(", "));
            }
            if let Some(buffers) = e.buffers {
                let _ = writeln!(out, "buffers = {buffers}");
            }
        }
        out
    }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Text for one line of a comment or of a terminal: without control characters.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
