//! What everything in a world shares: the clock, the one stream of choices, the totals, and what went wrong first.
//!
//! Not a clock or a generator of the machine: both start at what the seed says and move only when the world says so.
//! Invariant: the same seed gives the same choices, on any machine and in any build.

use super::totals::{Kind, Totals};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

/// Nanoseconds of virtual time.
pub type Nanos = u64;
/// One microsecond.
pub const MICRO: Nanos = 1_000;
/// One millisecond.
pub const MILLI: Nanos = 1_000_000;
/// One second.
pub const SECOND: Nanos = 1_000_000_000;

/// Lines of the trace that a failure shows: the last ones, and the last ones of the sector that it is about.
const TRACE: usize = 30;

/// Something that happened, and to which sectors of which slot.
#[derive(Debug)]
struct Line {
    text: String,
    place: Option<(usize, std::ops::Range<u64>)>,
}

/// Shared by all parts of one world.
#[derive(Debug)]
pub struct Luck {
    state: Cell<u64>,
    now: Cell<Nanos>,
    totals: RefCell<Totals>,
    wrong: RefCell<Option<String>>,
    trace: Option<RefCell<VecDeque<Line>>>,
    focus: Cell<Option<(usize, u64)>>,
}

/// SplitMix64 (Steele, Lea, Flood 2014): its output function.
#[must_use]
pub const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Luck {
    /// The luck of this seed; with a trace of what happened last if that is wanted.
    #[must_use]
    pub fn new(seed: u64, traced: bool) -> Self {
        Self {
            state: Cell::new(mix(seed ^ 0x7863_6865_6c66_2121)),
            now: Cell::new(0),
            totals: RefCell::default(),
            wrong: RefCell::new(None),
            trace: traced.then(RefCell::default),
            focus: Cell::new(None),
        }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.now.get()
    }

    /// It is so late now.
    pub fn set_now(&self, now: Nanos) {
        self.now.set(now);
    }

    /// Any number.
    pub fn next(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        mix(state)
    }

    /// A number below `n`, which is at least 1.
    pub fn below(&self, n: u64) -> u64 {
        // The bias of a remainder is far below what anybody could notice here.
        self.next() % n.max(1)
    }

    /// A number of this range, both ends included.
    pub fn among(&self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// As [`Luck::below`], to index with.
    pub fn index(&self, n: usize) -> usize {
        self.below(n as u64) as usize
    }

    /// True in so many of 1,000 cases.
    pub fn permille(&self, n: u64) -> bool {
        n > 0 && self.below(1000) < n
    }

    /// One of these, which are not none.
    pub fn pick<T: Copy>(&self, of: &[T]) -> T {
        of[self.index(of.len())]
    }

    /// A time around this one: mostly shorter, sometimes several times as long.
    pub fn about(&self, mean: Nanos) -> Nanos {
        let part = self.below(1024);
        match self.below(8) {
            0 => mean * 2 + mean * part / 256,
            1 | 2 => mean + mean * part / 1024,
            _ => mean * part / 1024,
        }
    }

    /// Counts a thing that happened.
    pub fn count(&self, kind: Kind) {
        self.totals.borrow_mut().add(kind, 1);
    }

    /// Counts things that happened.
    pub fn add(&self, kind: Kind, n: u64) {
        self.totals.borrow_mut().add(kind, n);
    }

    /// What was counted.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals.borrow().clone()
    }

    /// Something is wrong; only the first is kept.
    pub fn blame(&self, what: impl FnOnce() -> String) {
        let mut wrong = self.wrong.borrow_mut();
        if wrong.is_none() {
            *wrong = Some(what());
        }
    }

    /// What went wrong first, if anything did.
    #[must_use]
    pub fn wrong(&self) -> Option<String> {
        self.wrong.borrow().clone()
    }

    /// Notes what happened, where that is wanted.
    pub fn trace(&self, what: impl FnOnce() -> String) {
        self.note(None, what);
    }

    /// Notes what happened to sectors of a slot.
    pub fn trace_at(&self, slot: usize, sectors: std::ops::Range<u64>, what: impl FnOnce() -> String) {
        self.note(Some((slot, sectors)), what);
    }

    fn note(&self, place: Option<(usize, std::ops::Range<u64>)>, what: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            let now = self.now.get();
            let text = format!("{:>6}.{:06} ms  {}", now / MILLI, now % MILLI, what());
            trace.borrow_mut().push_back(Line { text, place });
        }
    }

    /// What went wrong is about this sector of this slot.
    pub fn focus(&self, slot: usize, sector: u64) {
        self.focus.set(Some((slot, sector)));
    }

    /// What happened last, and before that to the sector that this is about.
    #[must_use]
    pub fn traced(&self) -> Vec<String> {
        let Some(trace) = &self.trace else { return Vec::new() };
        let trace = trace.borrow();
        let last = trace.len().saturating_sub(TRACE);
        let focus = self.focus.get();
        let about = |line: &&Line| match (&line.place, focus) {
            (Some((slot, sectors)), Some((at, sector))) => {
                *slot == at && (sectors.is_empty() || sectors.contains(&sector))
            }
            (None, Some(_)) => line.text.contains("process") || line.text.contains("power"),
            _ => false,
        };
        let mut early: Vec<_> = trace.range(..last).rev().filter(about).take(TRACE).collect();
        early.reverse();
        early.into_iter().chain(trace.range(last..)).map(|line| line.text.clone()).collect()
    }
}
