//! What the commands found, as tables for people and as JSON for programs.
//!
//! Not here: finding it. JSON: one object per run, with the field names of the `Serialize` types below; fields are
//! added, never renamed or removed. Addresses are `"7.0"`, MAC addresses `"02:00:00:00:00:01"`, times
//! microseconds, rates per second, MB/s are 10^6 bytes per second.
//! Invariant: text and JSON are made from the same values.

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
}
