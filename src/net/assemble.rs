//! Puts the descriptors of a receive ring together to frames, across calls.
//!
//! Not a ring: it sees one descriptor at a time, whatever it came from (`xsk` or `memory`).
//! Invariant: every chunk that could be adopted leaves again, in a frame or torn; descriptors are never trusted.

use crate::frame::{Chunk, Frame, Piece, QueueId, Region};
use crate::limits;
use arrayvec::ArrayVec;

/// What a descriptor completed.
#[derive(Debug)]
#[must_use = "a frame ends in a reply or in a counted drop"]
pub enum Step {
    /// Nothing yet: more pieces of this frame follow, perhaps only in the next call.
    More,
    /// A whole frame.
    Frame(Frame),
    /// The last piece of a frame that cannot be used; its chunks went to `torn`.
    Torn,
}

/// The frame under way on one receive ring.
#[derive(Debug)]
pub struct Assembler {
    queue: QueueId,
    pieces: ArrayVec<Piece, { limits::MAX_FRAGMENTS }>,
    tearing: bool,
    forged: u64,
    delivered: u64,
}

impl Assembler {
    /// Of the receive ring of this queue.
    #[must_use]
    pub fn new(queue: QueueId) -> Self {
        Self { queue, pieces: ArrayVec::new(), tearing: false, forged: 0, delivered: 0 }
    }

    /// Takes one descriptor: `len` bytes at UMEM address `address`, `more` when the frame goes on behind it.
    ///
    /// A frame is torn when it has more pieces than [`limits::MAX_FRAGMENTS`], or when a descriptor names memory
    /// that was not lent ([`Assembler::forged`] counts those) or reaches past its chunk.
    pub fn take(
        &mut self,
        region: &Region,
        (address, len, more): (u64, u32, bool),
        torn: &mut dyn FnMut(Chunk),
    ) -> Step {
        match region.adopt(address) {
            Ok(chunk) => {
                let offset = (address % limits::CHUNK as u64) as u16;
                if u64::from(offset) + u64::from(len) > limits::CHUNK as u64 {
                    self.forged += 1;
                    self.tear(torn);
                    self.give(chunk, torn);
                } else if self.tearing || self.pieces.is_full() {
                    self.tear(torn);
                    self.give(chunk, torn);
                } else {
                    // Fits: checked against CHUNK above.
                    self.pieces.push(Piece { chunk, offset, len: len as u16 });
                }
            }
            Err(_) => {
                self.forged += 1;
                self.tear(torn);
            }
        }
        if more {
            return Step::More;
        }
        if std::mem::take(&mut self.tearing) {
            return Step::Torn;
        }
        self.delivered += self.pieces.len() as u64;
        let mut pieces = std::mem::take(&mut self.pieces).into_iter();
        match pieces.next() {
            Some(head) => Step::Frame(Frame { queue: self.queue, head, rest: pieces.collect() }),
            None => Step::Torn,
        }
    }

    fn tear(&mut self, torn: &mut dyn FnMut(Chunk)) {
        self.tearing = true;
        for piece in std::mem::take(&mut self.pieces) {
            self.give(piece.chunk, torn);
        }
    }

    fn give(&mut self, chunk: Chunk, torn: &mut dyn FnMut(Chunk)) {
        self.delivered += 1;
        torn(chunk);
    }

    /// Descriptors that named memory which was not lent, or reached past their chunk. Anything but 0 is a defect
    /// of a driver or of ours.
    #[must_use]
    pub fn forged(&self) -> u64 {
        self.forged
    }

    /// Chunks handed out since the start, in frames or torn.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered
    }
}

/// Retires the pieces of a frame whose end never came.
impl Drop for Assembler {
    fn drop(&mut self) {
        for piece in std::mem::take(&mut self.pieces) {
            piece.chunk.retire();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lend(region: &Region, index: u32) -> u64 {
        region.lend(region.mint(index).unwrap())
    }

    fn torn_indices(
        region: &Region,
        assembler: &mut Assembler,
        descriptor: (u64, u32, bool),
    ) -> (Step, Vec<u32>) {
        let mut torn = Vec::new();
        let step = assembler.take(region, descriptor, &mut |chunk| {
            torn.push(chunk.index());
            chunk.retire();
        });
        (step, torn)
    }

    #[test]
    fn a_frame_is_kept_until_its_last_piece() {
        let region = Region::heap(3);
        let addresses: Vec<_> = (0..3).map(|i| lend(&region, i)).collect();
        let mut assembler = Assembler::new(QueueId(7));
        assert!(matches!(
            torn_indices(&region, &mut assembler, (addresses[2] + 476, 3620, true)).0,
            Step::More
        ));
        assert!(matches!(
            torn_indices(&region, &mut assembler, (addresses[0] + 476, 10, true)).0,
            Step::More
        ));
        assert_eq!(assembler.delivered(), 0);
        let (step, torn) = torn_indices(&region, &mut assembler, (addresses[1], 4096, false));
        let Step::Frame(frame) = step else { panic!("{step:?}") };
        assert!(torn.is_empty());
        assert_eq!(frame.queue, QueueId(7));
        assert_eq!(frame.len(), 3620 + 10 + 4096);
        assert_eq!((frame.head.chunk.index(), frame.head.offset, frame.head.len), (2, 476, 3620));
        assert_eq!(assembler.delivered(), 3);
        assert_eq!(assembler.forged(), 0);
        frame.head.chunk.retire();
        frame.rest.into_iter().for_each(|p| p.chunk.retire());
    }

    #[test]
    fn a_frame_of_too_many_pieces_is_torn_whole_and_the_next_one_is_not() {
        let region = Region::heap(limits::MAX_FRAGMENTS as u32 + 2);
        let mut assembler = Assembler::new(QueueId(0));
        let mut torn = Vec::new();
        for i in 0..=limits::MAX_FRAGMENTS as u32 {
            let address = lend(&region, i);
            let last = i == limits::MAX_FRAGMENTS as u32;
            let (step, some) = torn_indices(&region, &mut assembler, (address, 100, !last));
            torn.extend(some);
            assert!(if last { matches!(step, Step::Torn) } else { matches!(step, Step::More) });
        }
        assert_eq!(torn, (0..=limits::MAX_FRAGMENTS as u32).collect::<Vec<_>>());
        let address = lend(&region, limits::MAX_FRAGMENTS as u32 + 1);
        let (step, torn) = torn_indices(&region, &mut assembler, (address, 60, false));
        let Step::Frame(frame) = step else { panic!("{step:?}") };
        assert_eq!((frame.len(), torn), (60, vec![]));
        assert_eq!(assembler.delivered(), limits::MAX_FRAGMENTS as u64 + 2);
        frame.head.chunk.retire();
    }

    #[test]
    fn a_forged_descriptor_tears_its_frame_only() {
        let region = Region::heap(4);
        let addresses: Vec<_> = (0..4).map(|i| lend(&region, i)).collect();
        let mut assembler = Assembler::new(QueueId(0));
        assert!(matches!(torn_indices(&region, &mut assembler, (addresses[0], 100, true)).0, Step::More));
        let (step, torn) = torn_indices(&region, &mut assembler, (1 << 40, 100, true));
        assert!(matches!(step, Step::More));
        assert_eq!(torn, [0]);
        let (step, torn) = torn_indices(&region, &mut assembler, (addresses[1], 100, false));
        assert!(matches!(step, Step::Torn));
        assert_eq!(torn, [1]);
        // Past its chunk.
        let (step, torn) = torn_indices(&region, &mut assembler, (addresses[2] + 4000, 97, false));
        assert!(matches!(step, Step::Torn));
        assert_eq!(torn, [2]);
        assert_eq!(assembler.forged(), 2);
        let (step, _) = torn_indices(&region, &mut assembler, (addresses[3] + 4000, 96, false));
        let Step::Frame(frame) = step else { panic!("{step:?}") };
        assert_eq!(frame.len(), 96);
        frame.head.chunk.retire();
    }

    proptest::proptest! {
        /// Whatever a driver writes into its ring: each chunk that was lent comes out exactly once, the others never.
        #[test]
        fn no_descriptor_loses_or_doubles_a_chunk(
            descriptors in proptest::collection::vec(
                (0..24u64, 0..4096u64, 0..5000u32, proptest::bool::weighted(0.7)), 0..64)
        ) {
            let region = Region::heap(16);
            for i in 0..16 {
                lend(&region, i);
            }
            let mut assembler = Assembler::new(QueueId(0));
            let mut out = Vec::new();
            let mut named = std::collections::BTreeSet::new();
            for (chunk, offset, len, more) in descriptors {
                let first = chunk < 16 && named.insert(chunk as u32);
                let forged = assembler.forged();
                let descriptor = (chunk * 4096 + offset, len, more);
                let (step, torn) = torn_indices(&region, &mut assembler, descriptor);
                out.extend(torn);
                let bad = !first || offset + u64::from(len) > 4096;
                proptest::prop_assert_eq!(assembler.forged() - forged, u64::from(bad));
                match step {
                    Step::More => proptest::prop_assert!(more),
                    Step::Torn => proptest::prop_assert!(!more),
                    Step::Frame(frame) => {
                        proptest::prop_assert!(!more);
                        out.push(frame.head.chunk.index());
                        frame.head.chunk.retire();
                        for piece in frame.rest {
                            proptest::prop_assert!(usize::from(piece.offset) + usize::from(piece.len) <= 4096);
                            out.push(piece.chunk.index());
                            piece.chunk.retire();
                        }
                    }
                }
                proptest::prop_assert_eq!(assembler.delivered(), out.len() as u64);
            }
            // What is not out is in the frame under way, which has at most so many pieces.
            proptest::prop_assert!(named.len() - out.len() <= limits::MAX_FRAGMENTS);
            let once: std::collections::BTreeSet<_> = out.iter().copied().collect();
            proptest::prop_assert_eq!(once.len(), out.len());
            proptest::prop_assert!(once.is_subset(&named));
        }
    }
}
