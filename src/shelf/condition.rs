//! The condition of a slot: what may be promised of the disk behind it.
//!
//! Not here: who notices, or how a slot recovers (`worker`, `appliance::serve`).
//! Invariant: a condition gets worse by what the disk does, and better only when somebody says so who has another, tested
//! way to the disk: never because a command that was tried again happened to succeed.

use std::fmt;

/// What may be promised of the disk behind a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Everything.
    #[default]
    Serving,
    /// Nothing: what was written last may be lost. Writes, flushes and trims get ATA status 61/04, reads are still tried.
    Failed(Why),
    /// There is no disk: whatever needs it gets ATA status 61/04 at once. Config, masks, reservations and IDENTIFY are
    /// answered.
    Gone(Why),
}

/// What it was seen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Why {
    /// What was tried.
    pub tried: Tried,
    /// What the kernel said to that: an errno, or 0 when the backing ended early.
    pub errno: i32,
}

/// What was tried when the disk failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tried {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A flush, by itself or after a trim.
    Flush,
    /// A trim.
    Trim,
    /// A look at its size.
    Look,
    /// To serve it again.
    Reopen,
}

impl Tried {
    const ALL: [Self; 6] = [Self::Read, Self::Write, Self::Flush, Self::Trim, Self::Look, Self::Reopen];
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "a read",
            Self::Write => "a write",
            Self::Flush => "a flush",
            Self::Trim => "a trim",
            Self::Look => "a look at its size",
            Self::Reopen => "opening it again",
        })
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            0 => write!(f, "{} failed: it ended early", self.tried),
            errno => write!(f, "{} failed: {}", self.tried, std::io::Error::from_raw_os_error(errno)),
        }
    }
}

impl fmt::Display for Condition {
    /// The word for log and status.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Serving => "serving",
            Self::Failed(_) => "failed",
            Self::Gone(_) => "gone",
        })
    }
}

impl Condition {
    /// What it was seen by; `None` while all is well.
    #[must_use]
    pub const fn why(self) -> Option<Why> {
        match self {
            Self::Serving => None,
            Self::Failed(why) | Self::Gone(why) => Some(why),
        }
    }

    /// Whether `other` promises less.
    #[must_use]
    pub const fn is_better_than(self, other: Self) -> bool {
        self.rank() < other.rank()
    }

    const fn rank(self) -> u8 {
        match self {
            Self::Serving => 0,
            Self::Failed(_) => 1,
            Self::Gone(_) => 2,
        }
    }

    /// As one number, for a cell that threads share.
    #[must_use]
    pub const fn pack(self) -> u64 {
        match self.why() {
            None => 0,
            Some(why) => self.rank() as u64 | (why.tried as u64) << 8 | (why.errno as u32 as u64) << 32,
        }
    }

    /// From [`Condition::pack`]'s number; any other is a condition, too.
    #[must_use]
    pub fn unpack(number: u64) -> Self {
        let tried = Tried::ALL.get(usize::from((number >> 8) as u8)).copied().unwrap_or(Tried::Look);
        let why = Why { tried, errno: (number >> 32) as u32 as i32 };
        match number as u8 {
            0 => Self::Serving,
            1 => Self::Failed(why),
            _ => Self::Gone(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_survives_being_a_number() {
        assert_eq!(Condition::unpack(Condition::Serving.pack()), Condition::Serving);
        for tried in Tried::ALL {
            for errno in [0, 5, i32::MAX, -1] {
                let why = Why { tried, errno };
                for condition in [Condition::Failed(why), Condition::Gone(why)] {
                    assert_eq!(Condition::unpack(condition.pack()), condition);
                }
            }
        }
    }

    #[test]
    fn words_say_what_failed() {
        let why = Why { tried: Tried::Flush, errno: 5 };
        assert_eq!(why.to_string(), "a flush failed: Input/output error (os error 5)");
        assert_eq!(Why { tried: Tried::Write, errno: 0 }.to_string(), "a write failed: it ended early");
        assert_eq!(
            [Condition::Serving, Condition::Failed(why), Condition::Gone(why)].map(|c| c.to_string()),
            ["serving", "failed", "gone"]
        );
    }

    #[test]
    fn gone_is_worse_than_failed() {
        let why = Why { tried: Tried::Flush, errno: 5 };
        let all = [Condition::Serving, Condition::Failed(why), Condition::Gone(why)];
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate() {
                assert_eq!(a.is_better_than(*b), i < j);
            }
        }
    }
}
