//! Reads `ggaoed.conf`: groups of `key = value` as GLib's GKeyFile has them (ggaoed.conf(5), and parse_defaults(),
//! parse_acls(), parse_device() and parse_netif() in ggaoed.c, version 1.1).
//!
//! Not here: what ggaoed keeps in its state directory (config strings, masks, reservations).
//! Invariant: each key is taken, or remarked on.

use super::found::{Export, Found, Spot};
use crate::protocol::Mac;

/// What ggaoed asks the machine.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    /// Names of the interfaces there are, for patterns.
    pub interfaces: Vec<String>,
    /// The text of `/etc/ethers` (ethers(5)).
    pub ethers: String,
}

/// Whether a text is of this format: its first line of substance opens a group.
pub(super) fn is(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    lines.find(|l| !l.is_empty() && !l.starts_with('#')).is_some_and(|l| l.starts_with('['))
}

#[derive(Debug)]
struct Entry<'a> {
    key: &'a str,
    value: String,
    /// As it was written: a list keeps its escapes until it is split.
    raw: &'a str,
    line: usize,
}

#[derive(Debug, Default)]
struct Group<'a> {
    name: &'a str,
    line: usize,
    /// Each key once: the last one holds.
    entries: Vec<Entry<'a>>,
}

impl Group<'_> {
    fn get(&self, key: &str) -> Option<&Entry<'_>> {
        self.entries.iter().find(|e| e.key == key)
    }
}

/// Reads one file.
pub(super) fn read(file: &str, text: &str, world: &World, found: &mut Found) {
    let spot = |line| Spot { file: file.to_owned(), line };
    let groups = groups(text, &spot, found);
    let mut reader =
        Reader { spot: &spot, world, found, acls: Vec::new(), queue_length: None, listen: Vec::new() };
    for group in groups.iter().filter(|g| g.name == "defaults") {
        reader.defaults(group);
    }
    for group in groups.iter().filter(|g| g.name == "acls") {
        for entry in &group.entries {
            let hosts = reader.hosts(entry);
            reader.acls.push((entry.key.to_owned(), hosts));
        }
    }
    for group in groups.iter().filter(|g| !matches!(g.name, "defaults" | "acls")) {
        // What ggaoed takes for a disk is what has a shelf.
        if group.get("shelf").is_some() {
            reader.device(group);
        } else {
            reader.interface(group);
        }
    }
    let what = "config strings, masks and reservations that hosts have set are not taken: ggaoed keeps them in its \
                state directory";
    reader.found.note(
        &spot(0),
        what,
        "set `config-string` and `allow` by hand, or let the hosts set them again",
    );
}

fn groups<'a>(text: &'a str, spot: &impl Fn(usize) -> Spot, found: &mut Found) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut current = None;
    for (i, line) in text.lines().enumerate() {
        let (number, line) = (i + 1, line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            // A group that is opened again goes on.
            current = groups.iter().position(|g| g.name == name).or_else(|| {
                groups.push(Group { name, line: number, entries: Vec::new() });
                Some(groups.len() - 1)
            });
            continue;
        }
        let Some((key, raw)) =
            line.split_once('=').map(|(k, v)| (k.trim(), v.trim())).filter(|(k, _)| !k.is_empty())
        else {
            let what = format!("'{}' is neither a group nor KEY = VALUE", line.escape_debug());
            found.warn(&spot(number), what, "correct it: ggaoed does not start with it");
            continue;
        };
        let Some(group) = current.and_then(|at: usize| groups.get_mut(at)) else {
            found.warn(&spot(number), format!("{key} stands before any group"), "put it into one");
            continue;
        };
        let entry = Entry { key, value: unescape(raw), raw, line: number };
        match group.entries.iter_mut().find(|e| e.key == key) {
            Some(before) => {
                found.warn(
                    &spot(before.line),
                    format!("{key} is set again in line {number}"),
                    "remove one of them",
                );
                *before = entry;
            }
            None => group.entries.push(entry),
        }
    }
    groups
}

/// What stands for other characters in a value.
fn unescape(raw: &str) -> String {
    let mut out = String::new();
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('s') => out.push(' '),
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some(c) => out.push(c),
                None => {}
            },
            c => out.push(c),
        }
    }
    out
}

/// The parts of a list, which commas separate; `\,` is none.
fn parts(raw: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in raw.chars() {
        match parts.last_mut() {
            Some(part) if c != ',' || escaped => part.push(c),
            _ => parts.push(String::new()),
        }
        escaped = c == '\\' && !escaped;
    }
    parts.iter().map(|p| unescape(p).trim().to_owned()).filter(|p| !p.is_empty()).collect()
}

/// What the buffers of sockets and delays are to us.
const NO_COUNTERPART: [(&str, &str); 7] = [
    ("ring-buffer-size", "nothing to do; the size of ours is `frames-per-queue`"),
    ("send-buffer-size", "nothing to do"),
    ("receive-buffer-size", "nothing to do; the size of ours is `frames-per-queue`"),
    ("buffers", "nothing to do"),
    ("tx-ring-bug", "nothing to do"),
    ("max-delay", "nothing to do: requests are not merged, and none waits for another"),
    ("merge-delay", "nothing to do: requests are not merged, and none waits for another"),
];

struct Reader<'a, S> {
    spot: &'a S,
    world: &'a World,
    found: &'a mut Found,
    /// Named lists of hosts; `None` for one that is not known whole.
    acls: Vec<(String, Hosts)>,
    queue_length: Option<u16>,
    /// Interfaces of `[defaults]`.
    listen: Vec<String>,
}

/// A list of hosts.
#[derive(Clone, Debug, Default)]
struct Hosts {
    macs: Vec<Mac>,
}

impl<S: Fn(usize) -> Spot> Reader<'_, S> {
    fn at(&self, entry: &Entry<'_>) -> Spot {
        (self.spot)(entry.line)
    }

    fn no_counterpart(&mut self, entry: &Entry<'_>) {
        let at = self.at(entry);
        let remedy = NO_COUNTERPART.iter().find(|(key, _)| *key == entry.key).map(|(_, remedy)| *remedy);
        match (entry.key, remedy) {
            (key, Some(remedy)) => self.found.warn(&at, format!("{key} has no counterpart"), remedy),
            ("mtu", _) => {
                let remedy = format!("set it on the interface: `xshelf-nic-setup IF --mtu {}`", entry.value);
                self.found.warn(&at, "mtu has no counterpart: the interface's own is taken", remedy);
            }
            (key, None) => {
                let what = format!("'{}' is no key that ggaoed reads here", key.escape_debug());
                self.found.warn(&at, what, "nothing to do");
            }
        }
    }

    fn defaults(&mut self, group: &Group<'_>) {
        for entry in &group.entries {
            let at = self.at(entry);
            match entry.key {
                "queue-length" => self.queue_length = self.queue_length(entry),
                "interfaces" => {
                    let names = self.names(entry);
                    let (parents, vlan) = self.found.place(&at, &names);
                    if vlan == 0 {
                        self.found.interfaces = parents;
                    }
                    self.listen = names;
                }
                "direct-io" => self.direct_io(entry),
                "trace-io" => self.trace_io(entry),
                "pid-file" | "control-socket" => {
                    let what = format!("{} has no counterpart: xshelf stays in the foreground", entry.key);
                    self.found.warn(&at, what, "nothing to do: systemd follows it by itself");
                }
                "state-directory" => {
                    let remedy = "`state-dir`, which systemd sets, must be another directory";
                    self.found.warn(&at, "what is in the state directory is not taken", remedy);
                }
                _ => self.no_counterpart(entry),
            }
        }
    }

    /// What belongs to an interface is set on it; a disk lacks its shelf.
    fn interface(&mut self, group: &Group<'_>) {
        if group.get("path").or(group.get("uuid")).is_some() {
            let of = format!("[{}]", group.name);
            let at = (self.spot)(group.line);
            return self.found.leave_out(
                &at,
                &of,
                "there is no shelf",
                "add it; ggaoed takes it for an interface",
            );
        }
        for entry in &group.entries {
            self.no_counterpart(entry);
        }
    }

    fn device(&mut self, group: &Group<'_>) {
        let at = (self.spot)(group.line);
        let of = format!("[{}]", group.name);
        let text = |key: &str| group.get(key).map(|e| e.value.clone()).unwrap_or_default();
        let Some(address) = self.found.address(&at, &text("shelf"), &text("slot")) else { return };
        let path = match (group.get("path"), group.get("uuid")) {
            (Some(path), None) => path.value.clone(),
            (None, Some(uuid)) => {
                let path = format!("/dev/disk/by-uuid/{}", uuid.value);
                let here = self.at(uuid);
                self.found.note(
                    &here,
                    format!("uuid is taken as {path}"),
                    "make sure that this is the disk you mean",
                );
                path
            }
            (Some(_), Some(_)) => {
                return self.found.leave_out(&at, &of, "it has a path and a uuid", "keep one of them");
            }
            (None, None) => return self.found.leave_out(&at, &of, "it has no path", "add it"),
        };
        let Some(path) = self.found.path(&at, &of, &path) else { return };
        let mut export = Export::new(at.clone(), address, path);
        export.buffers = self.queue_length;
        let (mut accept, mut deny) = (None, None);
        let mut names = self.listen.clone();
        for entry in &group.entries {
            match entry.key {
                "shelf" | "slot" | "path" | "uuid" => {}
                "read-only" => export.read_only = self.flag(entry),
                "queue-length" => export.buffers = self.queue_length(entry),
                "interfaces" => names = self.names(entry),
                "direct-io" => self.direct_io(entry),
                "trace-io" => self.trace_io(entry),
                "accept" => accept = Some((self.at(entry), self.hosts(entry))),
                "deny" => deny = Some((self.at(entry), self.hosts(entry))),
                "broadcast" => {
                    let here = self.at(entry);
                    if self.flag(entry) && group.get("accept").is_some() {
                        let what = "broadcast has no counterpart: the hosts of `allow` are told one by one";
                        self.found.warn(&here, what, "nothing to do");
                    }
                }
                _ => self.no_counterpart(entry),
            }
        }
        (export.interfaces, export.vlan) = self.found.place(&at, &names);
        if let Some((here, hosts)) = &accept {
            if hosts.macs.is_empty() {
                let why = "no host of accept can be made out, and without a list everybody could use it";
                return self.found.leave_out(here, &of, why, "write the addresses");
            }
            export.allow.clone_from(&hosts.macs);
        }
        if let Some((here, hosts)) = &deny {
            if export.allow.is_empty() {
                let what =
                    format!("{of}: deny has no counterpart: these hosts may use the slot now, as all others");
                self.found.warn(here, what, "list those that may use it in `allow`");
            } else {
                export.allow.retain(|mac| !hosts.macs.contains(mac));
                if export.allow.is_empty() {
                    let why = "it denies every host that it accepts";
                    return self.found.leave_out(here, &of, why, "correct one of the two");
                }
            }
        }
        self.found.add(export);
    }

    fn flag(&mut self, entry: &Entry<'_>) -> bool {
        match entry.value.as_str() {
            "true" | "1" => true,
            "false" | "0" => false,
            other => {
                let what = format!(
                    "{} = {} is neither true nor false; false is taken",
                    entry.key,
                    other.escape_debug()
                );
                let at = self.at(entry);
                self.found.warn(&at, what, "correct it");
                false
            }
        }
    }

    fn direct_io(&mut self, entry: &Entry<'_>) {
        if !self.flag(entry) {
            let at = self.at(entry);
            let what =
                "direct-io = false has no counterpart: the page cache is left out wherever that is possible";
            self.found.warn(&at, what, "nothing to do");
        }
    }

    fn trace_io(&mut self, entry: &Entry<'_>) {
        if self.flag(entry) {
            let at = self.at(entry);
            let what = "trace-io has no counterpart: single requests are not logged";
            self.found.warn(
                &at,
                what,
                "`tcpdump -e ether proto 0x88a2` shows what the kernel still sees of them",
            );
        }
    }

    fn queue_length(&mut self, entry: &Entry<'_>) -> Option<u16> {
        let at = self.at(entry);
        match entry.value.parse() {
            Ok(count) => Some(self.found.buffers(&at, count)),
            Err(_) => {
                let what = format!("queue-length = {} is no number", entry.value.escape_debug());
                self.found.warn(&at, what, "set `buffers` by hand");
                None
            }
        }
    }

    /// Names of interfaces; patterns become what there is on this machine.
    fn names(&mut self, entry: &Entry<'_>) -> Vec<String> {
        let at = self.at(entry);
        let mut names: Vec<String> = Vec::new();
        for part in parts(entry.raw) {
            let here: Vec<String> = if part.contains(['*', '?']) {
                let all = self.world.interfaces.iter().filter(|name| matches(&part, name));
                let here: Vec<String> = all.cloned().collect();
                let found = if here.is_empty() { "nothing".to_owned() } else { here.join(", ") };
                let what = format!("the pattern {} is {found} on this machine", part.escape_debug());
                self.found.warn(&at, what, "patterns have no counterpart: name each interface");
                here
            } else {
                vec![part]
            };
            for name in here {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }

    /// The hosts of a list: addresses, names of lists before, names of `/etc/ethers`.
    fn hosts(&mut self, entry: &Entry<'_>) -> Hosts {
        let at = self.at(entry);
        let mut hosts = Hosts::default();
        for part in parts(entry.raw) {
            let list = self.acls.iter().find(|(name, _)| *name == part).map(|(_, hosts)| hosts.clone());
            let found = match ether_aton(&part) {
                Some(mac) => Hosts { macs: vec![mac] },
                None => match list {
                    Some(list) => list,
                    None => self.ethers(&part, &at),
                },
            };
            for mac in found.macs {
                if mac.is_group() || mac == Mac::default() {
                    self.found.warn(&at, format!("{mac} is no host"), "name each host by its own address");
                } else if !hosts.macs.contains(&mac) {
                    hosts.macs.push(mac);
                }
            }
        }
        hosts
    }

    fn ethers(&mut self, name: &str, at: &Spot) -> Hosts {
        let line = self.world.ethers.lines().find_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let mac = ether_aton(words.next()?)?;
            (words.next()? == name).then_some(mac)
        });
        match line {
            Some(mac) => Hosts { macs: vec![mac] },
            None => {
                let what = format!(
                    "'{}' is no address, no list before this line, and not in /etc/ethers",
                    name.escape_debug()
                );
                self.found.warn(at, what, "write its address");
                Hosts::default()
            }
        }
    }
}

/// An address as ether_aton(3) reads it: one or two digits each, colons between.
fn ether_aton(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts
            .next()
            .filter(|p| (1..=2).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(Mac(mac))
}

/// Whether a pattern of `*` and `?` matches all of a name.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // The last star, and how much of the name it has taken: it takes more when the rest does not fit.
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match &mut star {
                Some((at, taken)) => {
                    *taken += 1;
                    (p, n) = (*at + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> World {
        World {
            interfaces: ["lo", "eth0", "eth1", "vif1.0", "vlan7"].map(str::to_owned).to_vec(),
            ethers: "# hosts\n0:30:48:69:41:3a somehost\n00:30:48:69:41:3b other # rack 2\n".into(),
        }
    }

    fn found(text: &str) -> Found {
        let mut found = Found::default();
        read("g.conf", text, &world(), &mut found);
        found
    }

    /// Without the note on the state directory, which comes last.
    fn remarks(found: &Found) -> Vec<String> {
        let mut all: Vec<String> = found.remarks.iter().map(ToString::to_string).collect();
        assert!(all.pop().unwrap().starts_with("g.conf: note: config strings, masks and reservations"));
        all
    }

    const GOOD: &str = "\
# Sample configuration
[defaults]
queue-length = 16
interfaces = eth0, eth1
direct-io = true

[acls]
foo = 00:C0:4F:A1:66:94, 00:1B:21:0A:AA:22
bar = foo, somehost, 0:e:c:3e:3b:b

[testdev]
path = /dev/aoetest
shelf = 1
slot = 1
queue-length = 128
read-only = true
accept = bar, 00:30:48:69:41:3B
deny = foo

[other]
path = /srv/a\\sb.img
shelf = 1
slot = 2
broadcast = false
";

    #[test]
    fn a_configuration_of_the_manual_is_taken() {
        let found = found(GOOD);
        assert_eq!(remarks(&found), Vec::<String>::new());
        assert_eq!(found.interfaces, ["eth0", "eth1"]);
        let (a, b) = (&found.exports[0], &found.exports[1]);
        assert_eq!(
            (a.address.to_string().as_str(), a.path.as_str(), a.spot.line),
            ("1.1", "/dev/aoetest", 11)
        );
        assert!(a.read_only && !b.read_only);
        assert_eq!((a.buffers, b.buffers), (Some(128), Some(16)));
        let allowed: Vec<String> = a.allow.iter().map(ToString::to_string).collect();
        assert_eq!(allowed, ["00:30:48:69:41:3a", "00:0e:0c:3e:3b:0b", "00:30:48:69:41:3b"]);
        assert_eq!((b.path.as_str(), b.allow.len()), ("/srv/a b.img", 0));
    }

    #[test]
    fn a_disk_that_accepts_nobody_is_not_opened_to_everybody() {
        for list in ["", ",", "none", "nobody"] {
            let text = format!("[acls]\nnone =\n[a]\nshelf = 1\nslot = 1\npath = /a\naccept = {list}\n");
            let found = found(&text);
            assert_eq!(found.exports, [], "{list}");
            assert!(found.remarks.iter().any(|r| r.what.starts_with("[a] is left out: ")), "{found:?}");
        }
    }

    #[test]
    fn what_has_no_counterpart_is_told_with_its_line() {
        let found = found(
            "early = 1\n[defaults]\ninterfaces = vif*, eth?, zz*\ndirect-io = false\ntrace-io = true\npid-file = /p\n\
             control-socket = /c\nstate-directory = /s\nring-buffer-size = 0\nmax-delay = 0.1\nmtu = 9000\nnonsense\n\
             queue-length = 65535\n[eth1]\nmtu = 4200\ncolor = red\n[a]\nshelf = 1\nslot = 1\nuuid = 12-34\n\
             deny = somehost\nbroadcast = maybe\nqueue-length = x\npath-x = 1\n[b]\nshelf = 1\nslot = 2\npath = /b\n\
             accept = nobody\n[c]\nshelf = 1\nslot = 3\npath = /c\naccept = somehost\ndeny = somehost\n[d]\npath = /d\n\
             slot = 1\n[e]\nshelf = -1\nslot = 1\n[f]\nshelf = 1\nslot = 4\n[g]\nshelf = 1\nslot = 5\npath = /g\n\
             uuid = 1\n[h]\nshelf = 1\nslot = 6\npath = h\n[i]\nshelf = 1\nslot = 7\nslot = 8\npath = /i\n\
             accept = somehost, 01:00:00:00:00:00\nbroadcast = true\ninterfaces = eth1\n",
        );
        let want = [
            "1: warning: early stands before any group; ",
            "12: warning: 'nonsense' is neither a group nor KEY = VALUE; ",
            "56: warning: slot is set again in line 57; ",
            "3: warning: the pattern vif* is vif1.0 on this machine; ",
            "3: warning: the pattern eth? is eth0, eth1 on this machine; ",
            "3: warning: the pattern zz* is nothing on this machine; ",
            "4: warning: direct-io = false has no counterpart",
            "5: warning: trace-io has no counterpart",
            "6: warning: pid-file has no counterpart",
            "7: warning: control-socket has no counterpart",
            "8: warning: what is in the state directory is not taken",
            "9: warning: ring-buffer-size has no counterpart",
            "10: warning: max-delay has no counterpart",
            "11: warning: mtu has no counterpart: the interface's own is taken; set it on the interface: \
             `xshelf-nic-setup IF --mtu 9000`",
            "13: warning: a slot queues 2 to 1024 requests, not 65535; 1024 is taken; ",
            "15: warning: mtu has no counterpart",
            "16: warning: 'color' is no key that ggaoed reads here; ",
            "20: note: uuid is taken as /dev/disk/by-uuid/12-34; ",
            "22: warning: broadcast = maybe is neither true nor false; false is taken; ",
            "23: warning: queue-length = x is no number; ",
            "24: warning: 'path-x' is no key that ggaoed reads here; ",
            "21: warning: [a]: deny has no counterpart: these hosts may use the slot now",
            "29: warning: 'nobody' is no address, no list before this line, and not in /etc/ethers; ",
            "29: warning: [b] is left out: no host of accept can be made out, and without a list everybody",
            "35: warning: [c] is left out: it denies every host that it accepts; ",
            "36: warning: [d] is left out: there is no shelf; ",
            "39: warning: -1.1 is left out: '-1.1' is no address; ",
            "42: warning: [f] is left out: it has no path; ",
            "45: warning: [g] is left out: it has a path and a uuid; ",
            "50: warning: [h] is left out: 'h' is a relative path; ",
            "59: warning: 01:00:00:00:00:00 is no host; ",
            "60: warning: broadcast has no counterpart",
        ];
        let got = remarks(&found);
        for (got, want) in got.iter().zip(want) {
            assert!(got.starts_with(&format!("g.conf:{want}")), "{got}\n{want}");
        }
        assert_eq!(got.len(), want.len(), "{got:#?}");
        let taken: Vec<String> = found.exports.iter().map(|e| e.address.to_string()).collect();
        assert_eq!(taken, ["1.1", "1.8"]);
        assert_eq!(found.exports[0].buffers, None, "one that cannot be read is not the default");
    }

    #[test]
    fn vlan_devices_become_vlans() {
        let found = found("[d]\nshelf=1\nslot=1\npath=/a\ninterfaces=eth0.7,eth1.7,eth1.8\n");
        let export = &found.exports[0];
        assert_eq!(
            (export.interfaces.as_slice(), export.vlan),
            (["eth0", "eth1"].map(str::to_owned).as_slice(), 7)
        );
        let got = remarks(&found);
        assert_eq!(got.len(), 3);
        assert!(got[2].contains("warning: a slot is on one VLAN, and eth1.8 is on another"), "{got:?}");
    }

    #[test]
    fn patterns_match_as_in_glib() {
        for (pattern, name, want) in [
            ("*", "", true),
            ("eth*", "eth0", true),
            ("eth?", "eth10", false),
            ("*0", "eth100", true),
            ("e*h*1", "eth0.1", true),
            ("", "a", false),
            ("?", "ü", true),
            ("a*b", "acd", false),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn the_format_is_recognized_by_its_groups() {
        assert!(is("# a\n\n  [defaults]\nx = 1\n"));
        assert!(!is("# a\n\nshelf=1\n[defaults]\n") && !is(""));
    }
}
