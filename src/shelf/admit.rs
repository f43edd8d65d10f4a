//! The checks every frame passes before a slot sees it, in the order of the protocol.
//!
//! Not here: shelf and slot (`routes`), the VLAN and everything else a slot decides for itself (`slot`).
//! Invariant: a refused frame is never answered, so that two targets cannot answer each other for ever.

use crate::limits;
use crate::protocol::aoe::VERSION;
use crate::protocol::ethernet::ETHERTYPE_AOE;
use crate::protocol::{Ethernet, Flags, Header, Mac};

/// Why a frame is dropped in silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Shorter than its headers.
    Runt,
    /// Another EtherType.
    NotAoe,
    /// A response; answering one could start an endless exchange.
    Response,
    /// A version other than 1.
    Version,
    /// The source is a group address: the answer would go to everybody.
    GroupSource,
    /// The source is one of our own ports.
    OwnSource,
    /// Meant for another host (the port may be promiscuous).
    ForeignDestination,
    /// No slot of ours has this address.
    OtherAddress,
    /// The slot lives on another VLAN.
    OtherVlan,
    /// The sender is not on the list of those who may talk to the slot.
    Masked,
    /// A wildcard address with a command that only an exact one may have (anything that changes something), or one that
    /// only an error would answer.
    Wildcard,
    /// Query Config test without a match: silence is the answer (AoEr11, section 3.2).
    NoMatch,
    /// The reply does not fit the chunk behind where the driver put the frame.
    NoRoom,
}

/// A frame that passed, with its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Ethernet header.
    pub ethernet: Ethernet,
    /// AoE header.
    pub header: Header,
}

impl Admitted {
    /// Where the AoE header starts in the frame, in bytes.
    #[must_use]
    pub const fn header_at(&self) -> usize {
        self.ethernet.len()
    }

    /// Where the argument of the command starts in the frame, in bytes.
    #[must_use]
    pub const fn argument_at(&self) -> usize {
        self.ethernet.len() + limits::AOE_HEADER
    }

    /// Where the data of an ATA command starts in the frame, in bytes.
    #[must_use]
    pub const fn data_at(&self) -> usize {
        self.argument_at() + limits::ATA_SECTION
    }

    /// The VLAN: 0 for untagged and priority-tagged frames.
    #[must_use]
    pub const fn vlan(&self) -> u16 {
        match self.ethernet.tag {
            Some(tci) => tci & 0x0fff,
            None => 0,
        }
    }
}

/// Checks the first bytes of a frame that came in on the port with address `port`; `own` are the addresses of
/// all our ports.
///
/// # Errors
/// The reason to drop the frame.
pub fn admit(frame: &[u8], port: Mac, own: impl IntoIterator<Item = Mac>) -> Result<Admitted, Refusal> {
    let ethernet = Ethernet::parse(frame).ok_or(Refusal::Runt)?;
    if ethernet.ethertype != ETHERTYPE_AOE {
        return Err(Refusal::NotAoe);
    }
    let header = frame.get(ethernet.len()..).and_then(Header::parse).ok_or(Refusal::Runt)?;
    if header.flags.contains(Flags::RESPONSE) {
        return Err(Refusal::Response);
    }
    if header.version != VERSION {
        return Err(Refusal::Version);
    }
    if ethernet.source.is_group() {
        return Err(Refusal::GroupSource);
    }
    if own.into_iter().any(|mac| mac == ethernet.source) {
        return Err(Refusal::OwnSource);
    }
    if ethernet.destination != port && ethernet.destination != Mac::BROADCAST {
        return Err(Refusal::ForeignDestination);
    }
    Ok(Admitted { ethernet, header })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PORT: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OTHER_PORT: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn query() -> Vec<u8> {
        let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xa2, 0x10, 0, 0, 7, 3, 1, 0, 1, 2, 3];
        f.resize(32, 0);
        f
    }

    fn verdict(edit: impl FnOnce(&mut Vec<u8>)) -> Result<Admitted, Refusal> {
        let mut f = query();
        edit(&mut f);
        admit(&f, PORT, [PORT, OTHER_PORT])
    }

    #[test]
    fn a_query_is_admitted() {
        let a = verdict(|_| ()).unwrap();
        assert_eq!((a.header_at(), a.argument_at(), a.data_at(), a.vlan()), (14, 24, 36, 0));
        assert!(verdict(|f| f[..6].fill(0xff)).is_ok(), "broadcast");
        assert!(verdict(|f| f.truncate(24)).is_ok(), "runts of 24 bytes and more are served");
        assert!(verdict(|f| f[14] = 0x13).is_ok(), "reserved flags are ignored");
        assert!(verdict(|f| f[14] = 0x14).is_ok(), "the error flag of a request is ignored");
    }

    #[test]
    fn a_tag_moves_everything_by_four() {
        let a = verdict(|f| {
            f.splice(12..12, [0x81, 0x00, 0x20, 0x05]);
        })
        .unwrap();
        assert_eq!((a.header_at(), a.argument_at(), a.data_at(), a.vlan()), (18, 28, 40, 5));
        let priority = verdict(|f| {
            f.splice(12..12, [0x81, 0x00, 0xe0, 0x00]);
        });
        assert_eq!(priority.unwrap().vlan(), 0, "a priority tag is no VLAN");
    }

    #[test]
    fn each_refusal_has_its_reason() {
        assert_eq!(verdict(|f| f.truncate(23)), Err(Refusal::Runt));
        assert_eq!(verdict(|f| f.truncate(3)), Err(Refusal::Runt));
        assert_eq!(verdict(|f| f[13] = 0xa3), Err(Refusal::NotAoe));
        assert_eq!(verdict(|f| f[14] = 0x18), Err(Refusal::Response));
        assert_eq!(verdict(|f| f[14] = 0x28), Err(Refusal::Response), "the R flag counts before the version");
        assert_eq!(verdict(|f| f[14] = 0x20), Err(Refusal::Version));
        assert_eq!(verdict(|f| f[14] = 0x00), Err(Refusal::Version));
        assert_eq!(verdict(|f| f[6] = 3), Err(Refusal::GroupSource));
        assert_eq!(verdict(|f| f[6..12].fill(0xff)), Err(Refusal::GroupSource));
        assert_eq!(verdict(|f| f[11] = 9), Err(Refusal::OwnSource), "of another port");
        assert_eq!(verdict(|f| f[5] = 7), Err(Refusal::ForeignDestination));
        assert_eq!(verdict(|f| f[0] = 3), Err(Refusal::ForeignDestination), "multicast");
        let double = verdict(|f| {
            f.splice(12..12, [0x81, 0, 0, 5, 0x81, 0, 0, 6]);
        });
        assert_eq!(double, Err(Refusal::NotAoe), "one tag, not two");
    }

    proptest! {
        #[test]
        fn no_frame_panics(frame in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(a) = admit(&frame, PORT, [PORT]) {
                prop_assert!(frame.len() >= a.argument_at());
                prop_assert!(!a.header.flags.contains(Flags::RESPONSE));
            }
        }
    }
}
