//! What a sector holds: one number that names the write, spread over all its bytes.
//!
//! Not here: who wrote it (`host`), or what it may hold (`check`).
//! Invariant: 64 words follow from the number, so that a sector of two writes is nobody's; number 0 is zeroes.

use crate::limits::SECTOR;

/// The name of what a sector holds; 0 is zeroes.
pub type Stamp = u64;

/// Fills one sector.
pub fn fill(sector: &mut [u8], stamp: Stamp) {
    for (word, factor) in sector.chunks_exact_mut(8).zip((1u64..).step_by(2)) {
        word.copy_from_slice(&stamp.wrapping_mul(factor).to_le_bytes());
    }
}

/// The name of what this sector holds; `None` when it is no whole sector of one write.
#[must_use]
pub fn read(sector: &[u8]) -> Option<Stamp> {
    let stamp = u64::from_le_bytes(*sector.first_chunk()?);
    let same = sector.chunks_exact(8).zip((1u64..).step_by(2)).fold(0, |differs, (word, factor)| match word
        .first_chunk()
    {
        Some(word) => differs | (u64::from_le_bytes(*word) ^ stamp.wrapping_mul(factor)),
        None => 1,
    });
    (sector.len() == SECTOR && same == 0).then_some(stamp)
}

/// The stamp of one sector of a request: which request, and which sector of it.
#[must_use]
pub const fn of(request: u32, sector: u8) -> Stamp {
    ((request as u64 + 1) << 8) | sector as u64
}

/// The request that a stamp names; `None` for zeroes.
#[must_use]
pub const fn request(stamp: Stamp) -> Option<u32> {
    match (stamp >> 8) as u32 {
        0 => None,
        n => Some(n - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_of_two_writes_is_nobodys() {
        let mut sector = [0; SECTOR];
        assert_eq!(read(&sector), Some(0));
        fill(&mut sector, of(7, 3));
        assert_eq!(read(&sector), Some(of(7, 3)));
        assert_eq!(request(of(7, 3)), Some(7));
        assert_eq!(request(0), None);
        let mut other = [0; SECTOR];
        fill(&mut other, of(8, 3));
        for at in [8, 256, 504] {
            let mut torn = sector;
            torn[at..].copy_from_slice(&other[at..]);
            assert_eq!(read(&torn), None, "{at}");
        }
        assert_eq!(read(&sector[..504]), None);
    }
}
