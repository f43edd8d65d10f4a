//! MAC mask list: the argument header and its directives (AoEr11, section 3.3).
//!
//! Not here: the list a slot holds (`shelf`).
//! Invariant: the count is read as it stands; whoever uses it compares it with the frame.

use super::Mac;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What to do with the list (MCmd).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskCommand {
    /// 0: read it.
    Read,
    /// 1: work the directives.
    Edit,
    /// Anything else.
    Unknown(u8),
}

/// Why an edit was refused (MError). The E flag of such a reply is clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MaskError {
    /// 1: something else.
    Unspecified = 1,
    /// 2: a directive that does not exist.
    BadDirective = 2,
    /// 3: no room for one more address.
    ListFull = 3,
}

/// One change of the list (DCmd).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directive {
    /// 0: nothing.
    Nothing,
    /// 1: add an address.
    Add(Mac),
    /// 2: take an address off.
    Delete(Mac),
    /// Anything else.
    Unknown(u8),
}

/// Bytes of one directive.
pub const DIRECTIVE: usize = 8;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Wire {
    reserved: u8,
    command: u8,
    error: u8,
    count: u8,
}

/// The argument header. The reserved byte is ignored in a request and 0 in a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mask {
    /// What to do.
    pub command: MaskCommand,
    /// MError of a reply; 0 when all is well.
    pub error: u8,
    /// Directives that follow; in a reply with an error the index, from 0, of the one that failed.
    pub count: u8,
}

impl Mask {
    /// Reads the argument header behind the AoE header; `None` when it is not all there.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (w, _) = Wire::ref_from_prefix(bytes).ok()?;
        let command = match w.command {
            0 => MaskCommand::Read,
            1 => MaskCommand::Edit,
            other => MaskCommand::Unknown(other),
        };
        Some(Self { command, error: w.error, count: w.count })
    }

    /// Writes the argument header; does nothing when `bytes` is too short for it.
    pub fn emit(&self, bytes: &mut [u8]) {
        let command = match self.command {
            MaskCommand::Read => 0,
            MaskCommand::Edit => 1,
            MaskCommand::Unknown(other) => other,
        };
        let _ = Wire { reserved: 0, command, error: self.error, count: self.count }.write_to_prefix(bytes);
    }
}

/// The directives in `bytes`, in order; what is left over at the end is ignored.
pub fn directives(bytes: &[u8]) -> impl Iterator<Item = Directive> + '_ {
    bytes.chunks_exact(DIRECTIVE).map(|d| {
        let mac = Mac([d[2], d[3], d[4], d[5], d[6], d[7]]);
        match d[1] {
            0 => Directive::Nothing,
            1 => Directive::Add(mac),
            2 => Directive::Delete(mac),
            other => Directive::Unknown(other),
        }
    })
}

/// Writes the entry of a list: a directive that does nothing. Does nothing when `bytes` is too short for it.
pub fn emit_entry(mac: Mac, bytes: &mut [u8]) {
    if let Some(entry) = bytes.get_mut(..DIRECTIVE) {
        entry[..2].fill(0);
        entry[2..].copy_from_slice(&mac.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_directives_are_read_and_written() {
        let bytes = [9, 1, 0, 2, 7, 1, 2, 0, 0, 0, 0, 2, 0, 2, 2, 0, 0, 0, 0, 3, 0];
        let mask = Mask::parse(&bytes).unwrap();
        assert_eq!(mask, Mask { command: MaskCommand::Edit, error: 0, count: 2 });
        let all: Vec<_> = directives(&bytes[4..]).collect();
        assert_eq!(
            all,
            [Directive::Add(Mac([2, 0, 0, 0, 0, 2])), Directive::Delete(Mac([2, 0, 0, 0, 0, 3]))],
            "the reserved byte is ignored, and so is a rest"
        );
        assert_eq!(directives(&[0, 9, 1, 1, 1, 1, 1, 1]).next(), Some(Directive::Unknown(9)));
        let mut out = [0xff; 4];
        Mask { command: MaskCommand::Unknown(7), error: 3, count: 5 }.emit(&mut out);
        assert_eq!(out, [0, 7, 3, 5]);
        assert_eq!(Mask::parse(&[0; 3]), None);
        let mut entry = [0xff; 8];
        emit_entry(Mac([1, 2, 3, 4, 5, 6]), &mut entry);
        assert_eq!(entry, [0, 0, 1, 2, 3, 4, 5, 6]);
        emit_entry(Mac([1, 2, 3, 4, 5, 6]), &mut entry[..7]);
    }
}
