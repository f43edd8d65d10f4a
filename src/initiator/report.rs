//! What the commands found, as tables for people and as JSON for programs.
//!
//! Not here: finding it. JSON: one object per run, with the field names of the `Serialize` types below; fields are
//! added, never renamed or removed. Addresses are `"7.0"`, MAC addresses `"02:00:00:00:00:01"`, times
//! microseconds, rates per second, MB/s are 10^6 bytes per second.
//! Invariant: text and JSON are made from the same values.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::io::{self, Write};

/// A table with aligned columns.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings; those that begin with a blank are of columns of numbers, aligned right.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|&h| h.to_owned()).collect()] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Writes it.
    ///
    /// # Errors
    /// When `out` cannot be written to.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let Some(headings) = self.rows.first() else { return Ok(()) };
        let right: Vec<bool> = headings.iter().map(|h| h.starts_with(' ')).collect();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.trim_start().chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..headings.len()).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, &width), &right) in row.iter().zip(&widths).zip(&right) {
                let cell = cell.trim_start();
                if !line.is_empty() {
                    line.push_str("  ");
                }
                line += &if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A size as a person reads it: 64 MiB, 1.5 TiB.
#[must_use]
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            let decimals = if value.fract() < 0.05 || unit == "B" { 0 } else { 1 };
            return format!("{value:.decimals$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} PiB")
}

/// Microseconds as a person reads them: 87 µs, 4.20 ms, 1.50 s.
#[must_use]
pub fn microseconds(us: f64) -> String {
    if us < 10.0 {
        format!("{us:.1} µs")
    } else if us < 1000.0 {
        format!("{us:.0} µs")
    } else if us < 1_000_000.0 {
        format!("{:.2} ms", us / 1000.0)
    } else {
        format!("{:.2} s", us / 1_000_000.0)
    }
}

/// Writes `value` as JSON and ends the line.
///
/// # Errors
/// When `out` cannot be written to.
pub fn json(value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// Text that may hold anything, printable.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// What `xshelf discover` found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Discovery {
    /// Where.
    pub interface: String,
    /// In which VLAN; null for none.
    pub vlan: Option<u16>,
    /// Who answered, by address and MAC address.
    pub targets: Vec<DiscoveredTarget>,
    /// Addresses that more than one MAC address answers for.
    pub shared_addresses: Vec<SharedAddress>,
}

/// One answer: a shelf.slot at a MAC address.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DiscoveredTarget {
    /// shelf.slot
    pub address: String,
    /// The MAC address it answers from.
    pub mac: String,
    /// Size in bytes; null when IDENTIFY DEVICE failed.
    pub bytes: Option<u64>,
    /// Model, IDENTIFY DEVICE words 27-46.
    pub model: Option<String>,
    /// Serial number, words 10-19.
    pub serial: Option<String>,
    /// Firmware, words 23-26.
    pub firmware: Option<String>,
    /// Most sectors of one command.
    pub sectors_per_frame: u8,
    /// Requests the target says it can queue.
    pub buffer_count: u16,
    /// Config string, bytes other than printable ASCII as escapes.
    pub config_string: String,
    /// Why IDENTIFY DEVICE failed; null when it did not.
    pub error: Option<String>,
}

/// An address several MAC addresses answer for.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SharedAddress {
    /// shelf.slot
    pub address: String,
    /// Who answers.
    pub macs: Vec<String>,
    /// Whether they are different disks (serial, model or size differ), so that data is at risk.
    pub conflict: bool,
    /// The same for a person.
    pub text: String,
}

impl Discovery {
    /// Writes it for a person.
    ///
    /// # Errors
    /// When `out` cannot be written to.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&[
            "ADDRESS",
            "MAC",
            " SIZE",
            " SECTORS/FRAME",
            " BUFFERS",
            "MODEL",
            "SERIAL",
            "FIRMWARE",
            "CONFIG STRING",
        ]);
        for t in &self.targets {
            let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
            table.row(vec![
                t.address.clone(),
                t.mac.clone(),
                t.bytes.map_or_else(|| "?".to_owned(), size),
                t.sectors_per_frame.to_string(),
                t.buffer_count.to_string(),
                known(&t.model),
                known(&t.serial),
                known(&t.firmware),
                if t.config_string.is_empty() { "-".to_owned() } else { t.config_string.clone() },
            ]);
        }
        table.write(out)?;
        for t in &self.targets {
            if let Some(error) = &t.error {
                writeln!(out, "{} at {}: IDENTIFY DEVICE: {error}", t.address, t.mac)?;
            }
        }
        for shared in &self.shared_addresses {
            writeln!(out, "{}", shared.text)?;
        }
        Ok(())
    }
}

/// What `xshelf bench` measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Bench {
    /// Where.
    pub interface: String,
    /// In which VLAN; null for none.
    pub vlan: Option<u16>,
    /// read, write, mix or verify.
    pub mode: String,
    /// random or sequential.
    pub access: String,
    /// Requests outstanding for each slot, as asked for.
    pub depth: usize,
    /// How long requests were made, in seconds.
    pub seconds: f64,
    /// Repeats choices and data.
    pub seed: u64,
    /// Slot by slot.
    pub slots: Vec<BenchSlot>,
    /// Reads of all slots.
    pub reads: Direction,
    /// Writes of all slots.
    pub writes: Direction,
    /// Replies that completed nothing.
    pub stray_replies: StrayReplies,
    /// Frames that came in while the socket's buffer was full.
    pub socket_drops: u64,
    /// CPU time of this process's load loop, in percent of one CPU.
    pub initiator_cpu_percent: f64,
    /// Whether it was stopped by a signal before its time.
    pub interrupted: bool,
    /// The first wrong sectors of a verification.
    pub mismatches: Vec<BadSector>,
    /// Whether no request failed and no sector was wrong; the exit code says the same.
    pub ok: bool,
}

/// One slot.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BenchSlot {
    /// shelf.slot
    pub address: String,
    /// The MAC address used.
    pub mac: String,
    /// Most sectors of one request.
    pub sectors_per_request: u8,
    /// Requests outstanding at most: the depth, or what the target can queue if that is less.
    pub window: usize,
    /// Bytes of the slot that were used, from its beginning.
    pub span_bytes: u64,
    /// Reads.
    pub reads: Direction,
    /// Writes.
    pub writes: Direction,
    /// Requests sent again.
    pub retransmits: u64,
    /// Requests the target failed, or did not answer.
    pub errors: Vec<ErrorCount>,
    /// Why the slot was left alone before the end; null when it was not.
    pub left: Option<String>,
    /// What a verification found.
    pub verify: Option<VerifySlot>,
}

/// Requests of one direction.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Direction {
    /// Completed well in the time.
    pub requests: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Requests in a second.
    pub iops: f64,
    /// 10^6 bytes in a second.
    pub mb_per_second: f64,
    /// From the first transmission to the answer; null without any request.
    pub latency_us: Option<Latency>,
}

/// A distribution of latencies in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// Smallest.
    pub min: f64,
    /// Mean.
    pub mean: f64,
    /// Half of all are not longer.
    pub p50: f64,
    /// 90 % are not longer.
    pub p90: f64,
    /// 99 % are not longer.
    pub p99: f64,
    /// 99.9 % are not longer.
    pub p99_9: f64,
    /// Longest.
    pub max: f64,
}

impl Latency {
    /// Of a histogram of nanoseconds; `None` when it is empty.
    #[must_use]
    pub fn of(nanoseconds: &Histogram<u64>) -> Option<Self> {
        let us = |ns: u64| (ns as f64 / 100.0).round() / 10.0;
        let quantile = |q| us(nanoseconds.value_at_quantile(q));
        (!nanoseconds.is_empty()).then(|| Self {
            min: us(nanoseconds.min()),
            mean: us(nanoseconds.mean() as u64),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
            max: us(nanoseconds.max()),
        })
    }
}

/// An error and how often it happened.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ErrorCount {
    /// Code and name: `ATA 41/10 (address not found)`, `AoE error 2 (bad argument)`, `no answer`.
    pub error: String,
    /// How often.
    pub count: u64,
}

/// Replies that completed nothing.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct StrayReplies {
    /// To another copy of a request that was answered.
    pub late: u64,
    /// To a copy that was answered before.
    pub duplicate: u64,
    /// With a tag of ours that nobody knows (any more).
    pub unexpected: u64,
    /// From another MAC address than asked.
    pub wrong_source: u64,
    /// From another shelf.slot than asked.
    pub wrong_address: u64,
    /// With another command than asked.
    pub wrong_command: u64,
    /// Too short to be read.
    pub malformed: u64,
}

/// What a verification found in one slot.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct VerifySlot {
    /// Sectors that hold data of this run.
    pub sectors_written: u64,
    /// Sectors compared, over all reads.
    pub sectors_checked: u64,
    /// Sectors of the final pass.
    pub sectors_read_back: u64,
    /// Comparisons that failed.
    pub bad_sectors: u64,
    /// Sectors that were not rewritten any more, because copies of a write to them were never answered and might
    /// still have been executed.
    pub quarantined_sectors: u64,
    /// Sectors whose content is unknown because a write failed.
    pub unknown_sectors: u64,
}

/// A sector that is not what was written.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BadSector {
    /// shelf.slot
    pub address: String,
    /// Which sector.
    pub lba: u64,
    /// Offset of the first wrong byte.
    pub offset: usize,
    /// What that byte should be.
    pub expected: u8,
    /// What it is.
    pub got: u8,
    /// How many bytes of the sector are wrong.
    pub wrong_bytes: usize,
    /// The same for a person, with what the sector looks like.
    pub text: String,
}

impl Bench {
    /// Writes it for a person.
    ///
    /// # Errors
    /// When `out` cannot be written to.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&[
            "SLOT", "OP", " SECTORS", " WINDOW", " IOPS", " MB/S", " MIN", " P50", " P90", " P99", " P99.9",
            " MAX", " RESENT", " ERRORS",
        ]);
        let mut add = |who: [String; 3], op: &str, d: &Direction, counts: [String; 2]| {
            let [slot, sectors, window] = who;
            let latency =
                d.latency_us.map_or([None; 6], |l| [l.min, l.p50, l.p90, l.p99, l.p99_9, l.max].map(Some));
            let mut row = vec![slot, op.to_owned(), sectors, window];
            row.extend([format!("{:.0}", d.iops), format!("{:.1}", d.mb_per_second)]);
            row.extend(latency.map(|us| us.map_or_else(|| "-".to_owned(), microseconds)));
            row.extend(counts);
            table.row(row);
        };
        let used = |d: &Direction| d.latency_us.is_some();
        for slot in &self.slots {
            let who =
                || [slot.address.clone(), slot.sectors_per_request.to_string(), slot.window.to_string()];
            let errors: u64 = slot.errors.iter().map(|e| e.count).sum();
            let mut counts = [slot.retransmits.to_string(), errors.to_string()];
            if used(&slot.reads) || !used(&slot.writes) {
                add(who(), "read", &slot.reads, std::mem::take(&mut counts));
            }
            if used(&slot.writes) {
                // Counts are the slot's, not the direction's: they stand in its first line.
                add(who(), "write", &slot.writes, counts);
            }
        }
        if self.slots.len() > 1 {
            let all = || ["all".to_owned(), String::new(), String::new()];
            if used(&self.reads) {
                add(all(), "read", &self.reads, Default::default());
            }
            if used(&self.writes) {
                add(all(), "write", &self.writes, Default::default());
            }
        }
        table.write(out)?;
        writeln!(
            out,
            "{} on {} for {:.1} s, depth {}, seed {}; the initiator used {:.0} % of a CPU",
            self.mode, self.interface, self.seconds, self.depth, self.seed, self.initiator_cpu_percent
        )?;
        for slot in &self.slots {
            for e in &slot.errors {
                writeln!(out, "{}: {}: {}", slot.address, e.error, e.count)?;
            }
            if let Some(left) = &slot.left {
                writeln!(out, "{}: {left}", slot.address)?;
            }
        }
        let s = self.stray_replies;
        let strays = [
            (s.late, "late (to another copy of a request that was answered)"),
            (s.duplicate, "duplicate (to a copy that was answered before)"),
            (s.unexpected, "unexpected (nobody knows the tag)"),
            (s.wrong_source, "from another MAC address than asked"),
            (s.wrong_address, "from another shelf.slot than asked"),
            (s.wrong_command, "with another command than asked"),
            (s.malformed, "too short to be read"),
        ];
        for (count, what) in strays.into_iter().filter(|(count, _)| *count > 0) {
            writeln!(out, "replies {what}: {count}")?;
        }
        if self.socket_drops > 0 {
            writeln!(
                out,
                "{} frames lost here, in the socket's buffer: this process was too slow",
                self.socket_drops
            )?;
        }
        self.write_verification(out)
    }

    fn write_verification(&self, out: &mut dyn Write) -> io::Result<()> {
        for slot in &self.slots {
            let Some(v) = slot.verify else { continue };
            writeln!(
                out,
                "{}: {} sectors written, {} comparisons, {} sectors in the final pass, {} bad",
                slot.address, v.sectors_written, v.sectors_checked, v.sectors_read_back, v.bad_sectors
            )?;
            if v.quarantined_sectors > 0 {
                writeln!(
                    out,
                    "{}: {} sectors were not rewritten any more: a write to them was sent again and not every copy \
                     was answered, so that one might still have been executed",
                    slot.address, v.quarantined_sectors
                )?;
            }
            if v.unknown_sectors > 0 {
                writeln!(
                    out,
                    "{}: {} sectors were not checked: a write to them failed",
                    slot.address, v.unknown_sectors
                )?;
            }
        }
        for bad in &self.mismatches {
            writeln!(out, "BAD {}", bad.text)?;
        }
        if self.mode == "verify" {
            let told = self.mismatches.len() as u64;
            let all: u64 = self.slots.iter().filter_map(|s| s.verify).map(|v| v.bad_sectors).sum();
            if all > told {
                writeln!(out, "BAD and {} more", all - told)?;
            }
            writeln!(out, "verification {}", if self.ok { "passed" } else { "FAILED" })?;
        }
        Ok(())
    }
}

/// What `xshelf probe` found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Probe {
    /// Where.
    pub interface: String,
    /// In which VLAN; null for none.
    pub vlan: Option<u16>,
    /// MTU of the interface here.
    pub mtu: u32,
    /// shelf.slot
    pub address: String,
    /// Whether no finding is a problem; the exit code says the same.
    pub healthy: bool,
    /// What is wrong or worth knowing.
    pub findings: Vec<Finding>,
    /// MAC address by MAC address that answers for the slot.
    pub paths: Vec<ProbePath>,
}

/// Something wrong or worth knowing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A name for programs; see [`super::probe`] for all of them.
    pub code: &'static str,
    /// Whether it is a problem, rather than a remark.
    pub problem: bool,
    /// The same for a person, with what to do.
    pub text: String,
}

/// One MAC address a slot answers from.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ProbePath {
    /// The MAC address.
    pub mac: String,
    /// Model, IDENTIFY DEVICE words 27-46.
    pub model: Option<String>,
    /// Serial number, words 10-19.
    pub serial: Option<String>,
    /// Size in bytes.
    pub bytes: Option<u64>,
    /// Why IDENTIFY DEVICE failed; null when it did not.
    pub error: Option<String>,
    /// Most sectors of one command, as the target says.
    pub sectors_per_frame: u8,
    /// Requests the target says it can queue.
    pub buffer_count: u16,
    /// Queries sent to everybody.
    pub queries: u32,
    /// Those it answered.
    pub queries_answered: u32,
    /// Reads of growing size: does the way from the target to here carry the replies?
    pub replies: Vec<ProbeStep>,
    /// IDENTIFY DEVICE with growing payload: does the way from here to the target carry the requests?
    pub requests: Vec<ProbeStep>,
    /// Longest reply that arrived, in bytes with the Ethernet header.
    pub largest_reply_bytes: usize,
    /// Longest request that was answered, in bytes with the Ethernet header.
    pub largest_request_bytes: usize,
}

/// Frames of one size.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ProbeStep {
    /// Sectors read, or sectors of payload (rounded down).
    pub sectors: usize,
    /// Bytes of the frame that is tested, with the Ethernet header.
    pub frame_bytes: usize,
    /// Requests sent.
    pub sent: u32,
    /// Those answered well.
    pub answered: u32,
    /// Shortest round trip in microseconds; null when nothing came back.
    pub rtt_us: Option<f64>,
    /// How the target failed the request; null when it did not.
    pub error: Option<String>,
}

impl Probe {
    /// Writes it for a person.
    ///
    /// # Errors
    /// When `out` cannot be written to.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} on {}, MTU {}", self.address, self.interface, self.mtu)?;
        for path in &self.paths {
            let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
            writeln!(
                out,
                "\n{}: {}, serial {}, {}, {} sectors per frame, {} buffers, {} of {} queries answered",
                path.mac,
                known(&path.model),
                known(&path.serial),
                path.bytes.map_or_else(|| "size unknown".to_owned(), size),
                path.sectors_per_frame,
                path.buffer_count,
                path.queries_answered,
                path.queries
            )?;
            let mut table =
                Table::new(&["", " SECTORS", " FRAME BYTES", " SENT", " ANSWERED", " RTT", "RESULT"]);
            let steps = path.replies.iter().map(|s| ("reply", s));
            for (what, step) in steps.chain(path.requests.iter().map(|s| ("request", s))) {
                table.row(vec![
                    what.to_owned(),
                    step.sectors.to_string(),
                    step.frame_bytes.to_string(),
                    step.sent.to_string(),
                    step.answered.to_string(),
                    step.rtt_us.map_or_else(|| "-".to_owned(), microseconds),
                    match &step.error {
                        Some(error) => error.clone(),
                        None if step.answered == step.sent => "ok".to_owned(),
                        None if step.answered == 0 => "no answer".to_owned(),
                        None => format!("{} lost", step.sent - step.answered),
                    },
                ]);
            }
            table.write(out)?;
        }
        writeln!(out)?;
        for finding in &self.findings {
            writeln!(out, "{}  {}", if finding.problem { "PROBLEM" } else { "NOTE   " }, finding.text)?;
        }
        let problems = self.findings.iter().filter(|f| f.problem).count();
        match problems {
            0 => writeln!(out, "healthy: the path carries what the target advertises"),
            1 => writeln!(out, "1 problem found"),
            n => writeln!(out, "{n} problems found"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_well() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (64 << 20, "64 MiB"),
            (3 << 29, "1.5 GiB"),
            (1000 << 30, "1000 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (us, text) in [(0.5, "0.5 µs"), (87.4, "87 µs"), (4200.0, "4.20 ms"), (1_500_000.0, "1.50 s")] {
            assert_eq!(microseconds(us), text);
        }
    }

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["NAME", " COUNT", "REST"]);
        table.row(vec!["µ".into(), "7".into(), "x".into()]);
        table.row(vec!["longer".into(), "12345".into(), String::new()]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        let want = "NAME    COUNT  REST\nµ           7  x\nlonger  12345\n";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }

    #[test]
    fn the_field_names_of_a_discovery_are_a_promise() {
        let report = Discovery {
            interface: "eth1".into(),
            vlan: None,
            targets: vec![DiscoveredTarget { address: "7.0".into(), ..DiscoveredTarget::default() }],
            shared_addresses: vec![SharedAddress::default()],
        };
        let value = serde_json::to_value(&report).unwrap();
        let names =
            |v: &serde_json::Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(names(&value), "interface shared_addresses targets vlan");
        assert_eq!(
            names(&value["targets"][0]),
            "address buffer_count bytes config_string error firmware mac model sectors_per_frame serial"
        );
        assert_eq!(names(&value["shared_addresses"][0]), "address conflict macs text");
    }

    fn bench() -> Bench {
        let direction = Direction {
            requests: 10,
            bytes: 10 * 8192,
            iops: 10.0,
            mb_per_second: 0.08,
            latency_us: Some(Latency { min: 1.0, max: 9.0, ..Latency::default() }),
        };
        Bench {
            interface: "eth1".into(),
            mode: "verify".into(),
            slots: vec![BenchSlot {
                address: "7.0".into(),
                reads: direction.clone(),
                writes: direction,
                retransmits: 3,
                errors: vec![ErrorCount { error: "ATA 41/10 (address not found)".into(), count: 2 }],
                verify: Some(VerifySlot { bad_sectors: 3, quarantined_sectors: 8, ..VerifySlot::default() }),
                ..BenchSlot::default()
            }],
            mismatches: vec![BadSector { text: "7.0 LBA 5: …".into(), ..BadSector::default() }],
            stray_replies: StrayReplies { late: 4, ..StrayReplies::default() },
            ..Bench::default()
        }
    }

    #[test]
    fn the_field_names_of_a_bench_are_a_promise() {
        let value = serde_json::to_value(bench()).unwrap();
        let names =
            |v: &serde_json::Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(
            names(&value),
            "access depth initiator_cpu_percent interface interrupted mismatches mode ok reads seconds seed slots \
             socket_drops stray_replies vlan writes"
        );
        let slot = &value["slots"][0];
        assert_eq!(
            names(slot),
            "address errors left mac reads retransmits sectors_per_request span_bytes verify window writes"
        );
        assert_eq!(names(&slot["reads"]), "bytes iops latency_us mb_per_second requests");
        assert_eq!(names(&slot["reads"]["latency_us"]), "max mean min p50 p90 p99 p99_9");
        assert_eq!(
            names(&slot["verify"]),
            "bad_sectors quarantined_sectors sectors_checked sectors_read_back sectors_written unknown_sectors"
        );
        assert_eq!(
            names(&value["stray_replies"]),
            "duplicate late malformed unexpected wrong_address wrong_command wrong_source"
        );
        assert_eq!(names(&value["mismatches"][0]), "address expected got lba offset text wrong_bytes");
    }

    #[test]
    fn a_bench_tells_errors_strays_and_bad_sectors() {
        let mut out = Vec::new();
        bench().write(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for line in [
            "7.0: ATA 41/10 (address not found): 2",
            "replies late (to another copy of a request that was answered): 4",
            "BAD 7.0 LBA 5: …",
            "BAD and 2 more",
            "verification FAILED",
        ] {
            assert!(text.lines().any(|l| l == line), "{line:?} is missing:\n{text}");
        }
        assert!(text.contains("8 sectors were not rewritten any more"), "{text}");
    }

    #[test]
    fn latencies_are_microseconds_with_one_decimal() {
        let mut histogram = Histogram::new(3).unwrap();
        assert!(Latency::of(&histogram).is_none());
        for us in 1..=1000u64 {
            histogram.record(us * 1000).unwrap();
        }
        let l = Latency::of(&histogram).unwrap();
        assert!((l.p50 - 500.0).abs() < 1.0 && (l.p99 - 990.0).abs() < 1.0 && (l.max - 1000.0).abs() < 1.0);
        assert!((l.min - 1.0).abs() < 0.1, "{}", l.min);
    }

    #[test]
    fn the_field_names_of_a_probe_are_a_promise() {
        let path = ProbePath {
            replies: vec![ProbeStep { sent: 5, answered: 3, ..ProbeStep::default() }],
            ..ProbePath::default()
        };
        let finding = Finding { code: "loss", problem: true, text: "two of five".into() };
        let probe = Probe { findings: vec![finding], paths: vec![path], ..Probe::default() };
        let value = serde_json::to_value(&probe).unwrap();
        let names =
            |v: &serde_json::Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(names(&value), "address findings healthy interface mtu paths vlan");
        assert_eq!(names(&value["findings"][0]), "code problem text");
        assert_eq!(
            names(&value["paths"][0]),
            "buffer_count bytes error largest_reply_bytes largest_request_bytes mac model queries \
             queries_answered replies requests sectors_per_frame serial"
        );
        assert_eq!(names(&value["paths"][0]["replies"][0]), "answered error frame_bytes rtt_us sectors sent");
        let mut out = Vec::new();
        probe.write(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains("2 lost\n") && text.ends_with("PROBLEM  two of five\n1 problem found\n"),
            "{text}"
        );
    }
}
