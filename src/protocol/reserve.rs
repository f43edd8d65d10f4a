//! Reserve/Release: the argument header and its list (AoEr11, section 3.4).
//!
//! Not here: the reservation a slot holds (`shelf`).
//! Invariant: the count is read as it stands; whoever uses it compares it with the frame.

use super::Mac;

/// What to do with the reservation (RCmd).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReserveCommand {
    /// 0: read it.
    Read,
    /// 1: replace it, for one who is on it or when there is none. An empty list releases.
    Set,
    /// 2: replace it in any case.
    ForceSet,
    /// Anything else.
    Unknown(u8),
}

/// Bytes of the argument header.
pub const HEADER: usize = 2;
/// Bytes of one address.
pub const ENTRY: usize = 6;

/// The argument header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// What to do.
    pub command: ReserveCommand,
    /// Addresses that follow.
    pub count: u8,
}

impl Reserve {
    /// Reads the argument header behind the AoE header; `None` when it is not all there.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (&[command, count], _) = bytes.split_first_chunk()?;
        let command = match command {
            0 => ReserveCommand::Read,
            1 => ReserveCommand::Set,
            2 => ReserveCommand::ForceSet,
            other => ReserveCommand::Unknown(other),
        };
        Some(Self { command, count })
    }

    /// Writes the argument header; does nothing when `bytes` is too short for it.
    pub fn emit(&self, bytes: &mut [u8]) {
        let command = match self.command {
            ReserveCommand::Read => 0,
            ReserveCommand::Set => 1,
            ReserveCommand::ForceSet => 2,
            ReserveCommand::Unknown(other) => other,
        };
        if let Some(header) = bytes.get_mut(..HEADER) {
            header.copy_from_slice(&[command, self.count]);
        }
    }
}

/// The addresses in `bytes`, in order; what is left over at the end is ignored.
pub fn addresses(bytes: &[u8]) -> impl Iterator<Item = Mac> + '_ {
    bytes.chunks_exact(ENTRY).map(|m| Mac([m[0], m[1], m[2], m[3], m[4], m[5]]))
}

/// Writes one address of a list. Does nothing when `bytes` is too short for it.
pub fn emit_entry(mac: Mac, bytes: &mut [u8]) {
    if let Some(entry) = bytes.get_mut(..ENTRY) {
        entry.copy_from_slice(&mac.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_lists_are_read_and_written() {
        for b in 0..=255u8 {
            let mut out = [0; 2];
            Reserve::parse(&[b, 7, 1]).unwrap().emit(&mut out);
            assert_eq!(out, [b, 7]);
        }
        assert_eq!(Reserve::parse(&[1]), None);
        let list: Vec<_> = addresses(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 3, 9]).collect();
        assert_eq!(list, [Mac([2, 0, 0, 0, 0, 2]), Mac([2, 0, 0, 0, 0, 3])], "a rest is ignored");
        let mut entry = [0; 6];
        emit_entry(Mac([1, 2, 3, 4, 5, 6]), &mut entry);
        assert_eq!(entry, [1, 2, 3, 4, 5, 6]);
        emit_entry(Mac([1, 2, 3, 4, 5, 6]), &mut entry[..5]);
    }
}
