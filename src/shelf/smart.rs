//! The pages that SMART returns (ATA8-ACS, section 7.52 and annex A).
//!
//! Not here: the status itself, which travels in registers (`command`), or asking a device for its health (`appliance`).
//! Invariant: nothing is made up: there are no attributes and no log entries, only what a host needs to see that.

use crate::limits::SECTOR;

/// Revision of the structure of the data page.
const REVISION: u16 = 0x0010;
/// Address of the log directory.
const DIRECTORY: u8 = 0x00;
/// Address of the summary of the error log.
const ERRORS: u8 = 0x01;
/// Revision of the directory and of the summary.
const LOG_REVISION: u8 = 0x01;

/// Makes the sum of all bytes 0, as these pages have it.
fn seal(mut page: [u8; SECTOR]) -> [u8; SECTOR] {
    let sum = page.iter().fold(0u8, |sum, &b| sum.wrapping_add(b));
    page[SECTOR - 1] = page[SECTOR - 1].wrapping_sub(sum);
    page
}

/// SMART READ DATA: no attribute, no off-line collection, no self-test; the error log can be read.
#[must_use]
pub fn data() -> [u8; SECTOR] {
    let mut page = [0; SECTOR];
    page[..2].copy_from_slice(&REVISION.to_le_bytes());
    // Bit 0: device error logging is supported.
    page[370] = 1;
    seal(page)
}

/// SMART READ LOG; `None` for a log there is not.
#[must_use]
pub fn log(address: u8) -> Option<[u8; SECTOR]> {
    let mut page = [0; SECTOR];
    match address {
        DIRECTORY => {
            page[0] = LOG_REVISION;
            // One page of the error log, and no other log.
            page[2 * usize::from(ERRORS)] = 1;
            Some(page)
        }
        ERRORS => {
            page[0] = LOG_REVISION;
            Some(seal(page))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_their_sums_and_no_content() {
        let sum = |page: &[u8; SECTOR]| page.iter().fold(0u8, |sum, &b| sum.wrapping_add(b));
        let page = data();
        assert_eq!((sum(&page), page[0], page[370]), (0, 0x10, 1));
        assert!(page[2..362].iter().all(|&b| b == 0), "no attribute");
        assert_eq!(sum(&log(ERRORS).unwrap()), 0);
        assert_eq!(log(DIRECTORY).unwrap()[..4], [1, 0, 1, 0]);
        assert_eq!(log(6), None);
    }
}
