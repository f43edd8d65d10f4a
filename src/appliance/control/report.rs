//! How a running shelf is: for people as text, for programs as JSON.
//!
//! Not here: finding any of it out (`overview`).
//! Invariant: whatever is not as it should be makes [`Report::is_well`] false and is seen in the text; text from hosts or
//! file names is shown without control characters.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The version that runs.
    pub version: String,
    /// Its process.
    pub process: u32,
    /// Seconds since it serves.
    pub uptime_s: u64,
    /// What somebody has to do something about, beyond what is said of ports and slots.
    pub alarm: Option<String>,
    /// Its interfaces.
    pub ports: Vec<PortReport>,
    /// Its slots.
    pub slots: Vec<SlotReport>,
    /// Its threads.
    pub workers: Vec<WorkerReport>,
    /// What it counted over all workers, but for zeros.
    pub counters: BTreeMap<String, u64>,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortReport {
    /// Its name.
    pub name: String,
    /// How frames reach us, and why not by a better way.
    pub mode: String,
    /// Whether it has a link.
    pub link: bool,
    /// Bytes.
    pub mtu: u32,
    /// Sectors in a frame.
    pub sectors: u8,
    /// Why nothing is served there, if that is so.
    pub trouble: Option<String>,
}

/// A slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotReport {
    /// SHELF.SLOT.
    pub address: String,
    /// What is behind it.
    pub path: String,
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// When its writes are durable.
    pub durable: String,
    /// How the page cache is dealt with.
    pub access: String,
    /// `serving`, `failed` (promises nothing), `gone` (no device), `hung` (the device does not answer), or `waiting`: nothing
    /// is served for the moment.
    pub condition: String,
    /// Seconds since that was noticed; of `hung` since the oldest command was given.
    pub for_s: u64,
    /// What it was seen by, if it does not serve.
    pub why: Option<String>,
    /// What happens next, or what to do.
    pub next: Option<String>,
    /// What its device says of its health: `unknown`, `good` or `failing`.
    pub health: String,
    /// Commands at the disk, or waiting for others.
    pub in_flight: u32,
    /// The label that hosts ask for.
    pub config_string: String,
    /// Hosts on its mask list; 0 when it has none.
    pub mask: usize,
    /// Hosts it is reserved for; 0 when it is not.
    pub reserved: usize,
    /// The worker that owns it.
    pub worker: u16,
}

/// A thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// Its number.
    pub worker: u16,
    /// Its CPU.
    pub cpu: u16,
    /// Its slots.
    pub slots: Vec<String>,
    /// Its queues, as INTERFACE:QUEUE.
    pub queues: Vec<String>,
}

impl SlotReport {
    /// Whether it does what it should.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.condition == "serving"
    }
}

impl PortReport {
    /// Whether hosts can reach us there.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.link && self.trouble.is_none()
    }
}

impl Report {
    /// Whether everything is as it should be. A disk that says it is failing is: it serves.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.alarm.is_none()
            && self.ports.iter().all(PortReport::is_well)
            && self.slots.iter().all(SlotReport::is_well)
    }
}

/// A time in words, in the two largest units.
struct Span(u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.0;
        match s {
            0..=59 => write!(f, "{s} s"),
            60..=3599 => write!(f, "{} min {} s", s / 60, s % 60),
            3600..=86_399 => write!(f, "{} h {} min", s / 3600, s / 60 % 60),
            _ => write!(f, "{} d {} h", s / 86_400, s / 3600 % 24),
        }
    }
}

/// A size in words.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut unit = 0;
        let mut size = self.0 as f64;
        while size >= 1024.0 && unit + 1 < UNITS.len() {
            size /= 1024.0;
            unit += 1;
        }
        let digits = usize::from(unit > 0 && size < 100.0);
        write!(f, "{size:.digits$} {}", UNITS[unit])
    }
}

/// Text that others chose, on one line.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            c if c.is_control() => write!(f, "{}", c.escape_default()),
            c => write!(f, "{c}"),
        })
    }
}

fn hosts(n: usize) -> String {
    format!("{n} host{}", if n == 1 { "" } else { "s" })
}

impl fmt::Display for SlotReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}  {} for {}", self.address, self.condition, Span(self.for_s))?;
        if let Some(why) = &self.why {
            write!(f, ": {}", Shown(why))?;
        }
        if let Some(next) = &self.next {
            write!(f, "; {}", Shown(next))?;
        }
        let (bytes, path) = (self.sectors.saturating_mul(512), Shown(&self.path));
        write!(f, "\n  {path}  {} ({} sectors), {}", Size(bytes), self.sectors, self.access)?;
        write!(f, ", durable: {}, health {}", self.durable, self.health)?;
        write!(f, "\n  {} in flight, worker {}", self.in_flight, self.worker)?;
        if !self.config_string.is_empty() {
            write!(f, ", config string \"{}\"", Shown(&self.config_string))?;
        }
        if self.mask > 0 {
            write!(f, ", mask of {}", hosts(self.mask))?;
        }
        if self.reserved > 0 {
            write!(f, ", reserved for {}", hosts(self.reserved))?;
        }
        writeln!(f)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let well = if self.is_well() { "all is well" } else { "NOT ALL IS WELL" };
        writeln!(f, "xshelf {}, process {}, up {}: {well}", self.version, self.process, Span(self.uptime_s))?;
        if let Some(alarm) = &self.alarm {
            writeln!(f, "{}", Shown(alarm))?;
        }
        for port in &self.ports {
            let link = if port.link { "up" } else { "DOWN" };
            let s = if port.sectors == 1 { "" } else { "s" };
            write!(
                f,
                "port {}  link {link}, MTU {}, {} sector{s} in a frame",
                port.name, port.mtu, port.sectors
            )?;
            writeln!(f, "\n  {}", Shown(&port.mode))?;
            if let Some(trouble) = &port.trouble {
                writeln!(f, "  NOT SERVED: {}", Shown(trouble))?;
            }
        }
        self.slots.iter().try_for_each(|slot| slot.fmt(f))?;
        for worker in &self.workers {
            write!(f, "worker {}  CPU {}", worker.worker, worker.cpu)?;
            for (what, list) in [("slots", &worker.slots), ("queues", &worker.queues)] {
                let list = if list.is_empty() { "none".to_owned() } else { list.join(" ") };
                write!(f, ", {what} {list}")?;
            }
            writeln!(f)?;
        }
        self.counters.iter().try_for_each(|(name, n)| writeln!(f, "{name} {n}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let slot = SlotReport {
            address: "7.0".into(),
            path: "/srv/a".into(),
            sectors: 4096,
            durable: "yes (each write is synced)".into(),
            access: "direct".into(),
            condition: "serving".into(),
            for_s: 61,
            health: "unknown".into(),
            in_flight: 3,
            config_string: "a\u{1b}[2Jb".into(),
            mask: 1,
            reserved: 2,
            ..SlotReport::default()
        };
        let port = PortReport {
            name: "eth1".into(),
            mode: "native copy (zero-copy: no driver)".into(),
            link: true,
            mtu: 9000,
            sectors: 16,
            trouble: None,
        };
        Report {
            version: "1.2.3".into(),
            process: 42,
            uptime_s: 90_000,
            alarm: None,
            ports: vec![port],
            slots: vec![slot],
            workers: vec![WorkerReport {
                worker: 0,
                cpu: 2,
                slots: vec!["7.0".into()],
                queues: vec!["eth1:0".into()],
            }],
            counters: [("received".to_owned(), 9)].into(),
        }
    }

    #[test]
    fn the_text_has_it_all() {
        assert_eq!(
            report().to_string(),
            "xshelf 1.2.3, process 42, up 1 d 1 h: all is well\n\
             port eth1  link up, MTU 9000, 16 sectors in a frame\n  native copy (zero-copy: no driver)\n\
             slot 7.0  serving for 1 min 1 s\n  /srv/a  2.0 MiB (4096 sectors), direct, \
             durable: yes (each write is synced), health unknown\n  3 in flight, worker 0, \
             config string \"a\\u{1b}[2Jb\", mask of 1 host, reserved for 2 hosts\n\
             worker 0  CPU 2, slots 7.0, queues eth1:0\nreceived 9\n"
        );
    }

    #[test]
    fn whatever_is_wrong_is_not_well_and_is_seen() {
        type Fault = fn(&mut Report);
        let all: [(Fault, &str); 6] = [
            (|r| r.slots[0].condition = "failed".into(), "slot 7.0  failed for"),
            (|r| r.slots[0].condition = "gone".into(), "slot 7.0  gone for"),
            (|r| r.slots[0].condition = "hung".into(), "slot 7.0  hung for"),
            (|r| r.ports[0].link = false, "port eth1  link DOWN"),
            (|r| r.ports[0].trouble = Some("detached".into()), "NOT SERVED: detached"),
            (|r| r.alarm = Some("ALARM: another".into()), "\nALARM: another\n"),
        ];
        for (break_it, want) in all {
            let mut broken = report();
            break_it(&mut broken);
            assert!(!broken.is_well(), "{want}");
            let text = broken.to_string();
            assert!(text.contains("NOT ALL IS WELL") && text.contains(want), "{text}");
        }
        assert!(report().is_well());
    }

    #[test]
    fn sizes_and_times_are_readable() {
        for (bytes, text) in [(0, "0 B"), (512, "512 B"), (1 << 20, "1.0 MiB"), (u64::MAX, "16384 PiB")] {
            assert_eq!(Size(bytes).to_string(), text);
        }
        for (s, text) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (7260, "2 h 1 min"), (90_000, "1 d 1 h")]
        {
            assert_eq!(Span(s).to_string(), text);
        }
    }

    #[test]
    fn json_goes_both_ways() {
        let report = report();
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
