//! Which whole units of a device lie around and in a range of bytes.
//!
//! Not here: reading or writing them. All numbers are bytes; a unit is a power of two.
//! Invariant: the units around a range begin and end on a multiple of the unit and hold all of it.

#![forbid(unsafe_code)]

use crate::limits;

/// Bytes of a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub offset: u64,
    pub len: u32,
}

impl Span {
    pub const fn new(offset: u64, len: u32) -> Self {
        Self { offset, len }
    }

    pub const fn end(self) -> u64 {
        self.offset + self.len as u64
    }

    const fn between(offset: u64, end: u64) -> Self {
        // Never longer than the range it is cut from, or by less than two units.
        Self { offset, len: end.saturating_sub(offset) as u32 }
    }

    /// All units it touches.
    pub const fn around(self, unit: u32) -> Self {
        let unit = unit as u64;
        Self::between(self.offset / unit * unit, self.end().div_ceil(unit) * unit)
    }

    /// Whether it is made of whole units.
    pub const fn is_whole(self, unit: u32) -> bool {
        self.offset % unit as u64 == 0 && self.len % unit == 0
    }

    /// Cut where whole units begin and end: what lies before, the units, what lies behind. What lies in one unit, and is
    /// less than that, counts as before.
    pub fn cut(self, unit: u32) -> [Self; 3] {
        let size = u64::from(unit);
        let first = self.offset.div_ceil(size) * size;
        let last = (self.end() / size * size).max(first).min(self.end());
        let first = first.min(self.end());
        [Self::between(self.offset, first), Self::between(first, last), Self::between(last, self.end())]
    }

    /// Whether the two have a byte in common.
    pub const fn meets(self, other: Self) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }
}

/// Bytes of a bounce buffer: the most that the units around a job's bytes can be.
pub(super) const BOUNCE: usize = limits::RUN + limits::BOUNCE_UNIT as usize;
const _: () = assert!(
    limits::RUN % limits::BOUNCE_UNIT as usize == 0 && limits::BOUNCE_UNIT as usize >= limits::SECTOR
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_is_cut_into_whole_units_and_the_rest() {
        for unit in [512u32, 1024, 4096] {
            for first in 0..20u64 {
                for sectors in 1..30u32 {
                    let span = Span::new(first * 512, sectors * 512);
                    let around = span.around(unit);
                    assert!(
                        around.is_whole(unit) && around.offset <= span.offset && around.end() >= span.end()
                    );
                    assert!(around.len < span.len + 2 * unit);
                    if span.len as usize <= limits::RUN {
                        assert!(around.len as usize <= BOUNCE);
                    }
                    let [head, middle, tail] = span.cut(unit);
                    assert_eq!(
                        (head.offset, head.end(), middle.end(), tail.end()),
                        (span.offset, middle.offset, tail.offset, span.end()),
                        "{span:?} of {unit}"
                    );
                    assert!(middle.is_whole(unit) || middle.len == 0, "{span:?} of {unit}: {middle:?}");
                    for rest in [head, tail] {
                        assert!(rest.len < unit && rest.around(unit).len <= unit, "{span:?}: {rest:?}");
                    }
                    assert_eq!(span.is_whole(unit), head.len == 0 && tail.len == 0);
                }
            }
        }
    }
}
