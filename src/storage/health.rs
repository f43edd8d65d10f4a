//! Asks a disk what it says of its own health: NVMe's SMART / Health log, ATA's SMART RETURN STATUS.
//!
//! Not for files, partitions of anything else, or what is built of several disks: they cannot say. Nor for disks behind
//! USB, whose adapters may not survive the question.
//! Invariant: only a device that said so is failing; what cannot be asked, or does not answer, is unknown.

use super::ioctl;
use std::os::fd::{AsFd, OwnedFd};

/// Which language a disk speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tongue {
    /// NVMe.
    Nvme,
    /// ATA, behind a controller of its own or a SAS one.
    Ata,
}

/// A disk to be asked. Holds the claim on it as long as it lives.
#[derive(Debug)]
pub struct Patient {
    pub(super) file: OwnedFd,
    pub(super) tongue: Tongue,
}

/// What a disk is, by its own words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// It did not say.
    #[default]
    Unknown,
    /// Well.
    Good,
    /// Failing, or about to.
    Failing,
}

/// What a disk says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How it is.
    pub condition: Condition,
    /// Why, and what else its owner should know.
    pub remarks: Vec<&'static str>,
    /// Whether it was not asked, because this process may not.
    pub forbidden: bool,
}

/// Asks a disk. It may take its time, and one that hangs does not answer at all: never call it where frames are served.
/// Needs CAP_SYS_ADMIN (NVMe) or CAP_SYS_RAWIO (ATA); without, nothing is known.
#[must_use]
pub fn examine(patient: &Patient) -> Report {
    let file = patient.file.as_fd();
    let report = match patient.tongue {
        Tongue::Nvme => ioctl::nvme_health_log(file).map(|log| nvme(&log)),
        Tongue::Ata => ioctl::ata_command(file, &RETURN_STATUS).map(|sense| ata(&sense)),
    };
    report.unwrap_or_else(|e| {
        let forbidden = e.kind() == std::io::ErrorKind::PermissionDenied;
        Report { forbidden, ..Report::default() }
    })
}

/// The SMART / Health log page (NVM Express Base Specification, section 5.16.1.3).
fn nvme(log: &[u8; ioctl::HEALTH_LOG]) -> Report {
    let [warning, _, _, spare, least_spare, used, ..] = *log;
    let mut remarks = Vec::new();
    for (bit, remark) in [
        (0, "its spare blocks run out"),
        (2, "its reliability is degraded by errors"),
        (3, "it can only be read any more"),
        (4, "the backup of its volatile memory has failed"),
        (5, "its persistent memory can only be read any more"),
    ] {
        if warning & 1 << bit != 0 {
            remarks.push(remark);
        }
    }
    if spare < least_spare && warning & 1 == 0 {
        remarks.push("its spare blocks run out");
    }
    let condition = if remarks.is_empty() { Condition::Good } else { Condition::Failing };
    // No failure: a hot disk cools down, and a worn one goes on until its spare blocks run out.
    if warning & 2 != 0 {
        remarks.push("its temperature is out of range");
    }
    if used >= 100 {
        remarks.push("it has been written as much as it was made for");
    }
    Report { condition, remarks, forbidden: false }
}

/// SMART RETURN STATUS by ATA PASS-THROUGH (16) (SAT-3, section 12.2.2): no data, and the registers in the sense.
const RETURN_STATUS: [u8; 16] = [0x85, 3 << 1, 1 << 5, 0, 0xda, 0, 0, 0, 0, 0, 0x4f, 0, 0xc2, 0, 0xb0, 0];

/// The answer to it, out of the sense: the middle and high bytes of the address are as they were when all is well, and
/// these others when a threshold is exceeded (ACS-2, section 7.48.8). A disk whose SMART is off refuses.
fn ata(sense: &[u8]) -> Report {
    let condition = match registers(sense) {
        Some([0x4f, 0xc2]) => Condition::Good,
        Some([0xf4, 0x2c]) => Condition::Failing,
        _ => Condition::Unknown,
    };
    let failing = condition == Condition::Failing;
    let remarks = if failing { vec!["a SMART threshold is exceeded"] } else { Vec::new() };
    Report { condition, remarks, forbidden: false }
}

/// Bits 15 to 8 and 23 to 16 of the address that an ATA command returned without an error (SAT-3, section 12.2.5).
fn registers(sense: &[u8]) -> Option<[u8; 2]> {
    /// ERR and DF.
    const BAD: u8 = 0x21;
    match sense.first()? & 0x7f {
        // Fixed format: information holds error, status, device and count, command-specific what is left.
        0x70 => match *sense.get(..14)? {
            // Only with "ATA pass through information available"; anything else is the sense of something else.
            [_, _, _, _, status, _, _, _, _, _, mid, high, 0, 0x1d] if status & BAD == 0 => Some([mid, high]),
            _ => None,
        },
        // Descriptor format: one descriptor after the other, each with its length.
        0x72 => {
            let mut left = sense.get(8..8 + usize::from(*sense.get(7)?))?;
            while let [kind, length, ..] = *left {
                let (this, next) = left.split_at_checked(2 + usize::from(length))?;
                if kind == 9 {
                    return match *this {
                        [_, _, _, _, _, _, _, _, _, mid, _, high, _, status, ..] if status & BAD == 0 => {
                            Some([mid, high])
                        }
                        _ => None,
                    };
                }
                left = next;
            }
            None
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nvme_fails_by_its_warnings_and_its_spare() {
        let log = |warning, spare, least, used| {
            let mut log = [0; ioctl::HEALTH_LOG];
            log[..6].copy_from_slice(&[warning, 0x2c, 0x01, spare, least, used]);
            nvme(&log)
        };
        assert_eq!(log(0, 100, 10, 3), Report { condition: Condition::Good, ..Report::default() });
        for (report, condition, words) in [
            (log(0, 10, 10, 3), Condition::Good, &[][..]),
            (log(0, 9, 10, 3), Condition::Failing, &["spare blocks"][..]),
            (log(1, 9, 10, 3), Condition::Failing, &["spare blocks"]),
            (log(1, 100, 10, 3), Condition::Failing, &["spare blocks"]),
            (log(2, 100, 10, 3), Condition::Good, &["temperature"]),
            (log(4, 100, 10, 3), Condition::Failing, &["reliability"]),
            (log(8, 100, 10, 3), Condition::Failing, &["only be read"]),
            (log(0x10, 100, 10, 3), Condition::Failing, &["volatile memory"]),
            (log(0x20, 100, 10, 3), Condition::Failing, &["persistent memory"]),
            (log(0, 100, 10, 99), Condition::Good, &[]),
            (log(0, 100, 10, 255), Condition::Good, &["made for"]),
            (
                log(0x0e, 0, 10, 100),
                Condition::Failing,
                &["reliability", "read", "spare", "temperature", "made"],
            ),
        ] {
            assert_eq!((report.condition, report.remarks.len()), (condition, words.len()), "{report:?}");
            assert!(report.remarks.iter().zip(words).all(|(r, w)| r.contains(w)), "{report:?}");
        }
    }

    /// Sense data as libata and SAS controllers return it, in both formats.
    fn descriptor(mid: u8, high: u8, status: u8) -> Vec<u8> {
        let head = [0x72, 1, 0, 0x1d, 0, 0, 0, 14];
        let registers = [9, 12, 0, 0, 0, 0, 0, 0, 0, mid, 0, high, 0xa0, status];
        [&head[..], &registers].concat()
    }

    fn fixed(mid: u8, high: u8, status: u8) -> Vec<u8> {
        vec![0x70, 0, 1, 0, status, 0xa0, 0, 10, 0, 0, mid, high, 0, 0x1d, 0, 0, 0, 0]
    }

    #[test]
    fn ata_says_it_with_two_registers() {
        for make in [descriptor, fixed] {
            for (mid, high, status, want) in [
                (0x4f, 0xc2, 0x50, Condition::Good),
                (0xf4, 0x2c, 0x50, Condition::Failing),
                (0xf4, 0xc2, 0x50, Condition::Unknown),
                (0, 0, 0x50, Condition::Unknown),
                (0x4f, 0xc2, 0x51, Condition::Unknown),
                (0xf4, 0x2c, 0x51, Condition::Unknown),
                (0xf4, 0x2c, 0x70, Condition::Unknown),
            ] {
                let sense = make(mid, high, status);
                assert_eq!(ata(&sense).condition, want, "{sense:x?}");
                // Cut short it says nothing, and nothing is read beyond.
                for end in 0..14 {
                    assert_eq!(ata(&sense[..end]).condition, Condition::Unknown, "{end}");
                }
            }
        }
        // Another descriptor before it is passed over.
        let good = descriptor(0x4f, 0xc2, 0x50);
        let two = [&[0x72, 1, 0, 0x1d, 0, 0, 0, 14 + 4][..], &[2, 2, 0, 0], &good[8..]].concat();
        assert_eq!(ata(&two).condition, Condition::Good);
        assert_eq!(ata(&two[..12]).condition, Condition::Unknown);
        // The sense of a refusal (ILLEGAL REQUEST) is no answer, though the bytes may look like one.
        let mut refusal = fixed(0xf4, 0x2c, 0x50);
        refusal[12..14].copy_from_slice(&[0x20, 0]);
        assert_eq!(ata(&refusal).condition, Condition::Unknown);
        assert_eq!(ata(&[0; 64]).condition, Condition::Unknown);
    }
}
