//! The guard's frames: a config query that says who asks, and the claim that answers it before anything is served.
//!
//! Not here: when one is sent and what follows from it (`sentry`), or the socket (`patrol`).
//! Invariant: a claim advertises no buffers, so that no initiator takes it for a target (AoEr11, section 3.2; Linux never
//! attaches to fewer than two), and no input makes the reader panic.
//!
//! To any target the query is a plain config read: what follows the header of such a read is ignored, and there the guard
//! says who it is. A target that serves answers like any other, and that is all the guard has to know.

use crate::limits::{AOE_HEADER, CONFIG_SECTION, ETHERNET, MIN_FRAME};
use crate::net::steer::GUARD_TAG;
use crate::protocol::aoe::VERSION;
use crate::protocol::config::{Config, ConfigCommand};
use crate::protocol::ethernet::ETHERTYPE_AOE;
use crate::protocol::{Address, Command, Ethernet, Flags, Header, Mac};

/// What an xshelf says of a slot in its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stance {
    /// It will serve it, unless somebody else does.
    Asks,
    /// It serves it, or is about to, whoever else does.
    Holds,
    /// It does not serve it, because somebody else does.
    Watches,
}

impl Stance {
    const ALL: [Self; 3] = [Self::Asks, Self::Holds, Self::Watches];

    const fn word(self) -> &'static str {
        match self {
            Self::Asks => "asks",
            Self::Holds => "holds",
            Self::Watches => "watches",
        }
    }
}

/// A stance and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What it says.
    pub stance: Stance,
    /// The lowest address of its ports, by which two that ask at once find out who goes on.
    pub lowest: Mac,
}

const TITLE: &str = "xshelf-guard/1";

impl Claim {
    fn text(self) -> String {
        format!("{TITLE} {} {}", self.stance.word(), self.lowest)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(text).ok()?.split(' ');
        let (title, stance, lowest) = (words.next()?, words.next()?, words.next()?);
        let stance = Stance::ALL.into_iter().find(|s| s.word() == stance)?;
        (title == TITLE && words.next().is_none()).then_some(Self { stance, lowest: lowest.parse().ok()? })
    }
}

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Another xshelf asks whose the slot is.
    Query(Claim),
    /// Another xshelf answers that it asks or holds.
    Claim(Claim),
    /// A target answers.
    Answer,
}

/// A frame that matters to the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Who sent it.
    pub source: Mac,
    /// The slot it is about; no wildcard.
    pub slot: Address,
    /// What it says.
    pub word: Word,
}

fn frame(ethernet: Ethernet, header: Header, claim: Claim) -> Vec<u8> {
    let text = claim.text();
    let argument = ethernet.len() + AOE_HEADER;
    let string = argument + CONFIG_SECTION;
    let mut bytes = vec![0; (string + text.len()).max(MIN_FRAME)];
    ethernet.emit(&mut bytes);
    header.emit(&mut bytes[ethernet.len()..]);
    Config {
        buffer_count: 0,
        firmware: 0,
        sectors: 0,
        version: VERSION,
        command: ConfigCommand::Read,
        length: text.len() as u16,
    }
    .emit(&mut bytes[argument..]);
    bytes[string..string + text.len()].copy_from_slice(text.as_bytes());
    bytes
}

fn ethernet(source: Mac, destination: Mac, vlan: u16) -> Ethernet {
    Ethernet { destination, source, tag: (vlan != 0).then_some(vlan), ethertype: ETHERTYPE_AOE }
}

/// Asks everybody on a VLAN (0 for none) whose a slot is.
#[must_use]
pub fn query(source: Mac, slot: Address, vlan: u16, claim: Claim) -> Vec<u8> {
    let header = Header::request(slot, Command::Config, GUARD_TAG);
    frame(ethernet(source, Mac::BROADCAST, vlan), header, claim)
}

/// Answers such a query, when nothing is served yet.
#[must_use]
pub fn answer(source: Mac, to: Mac, slot: Address, vlan: u16, claim: Claim) -> Vec<u8> {
    let header = Header::request(slot, Command::Config, GUARD_TAG).response(slot, None);
    frame(ethernet(source, to, vlan), header, claim)
}

/// Reads a frame without its VLAN tag; `None` when it does not matter.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<Heard> {
    let ethernet = Ethernet::parse(bytes)?;
    if ethernet.ethertype != ETHERTYPE_AOE || ethernet.tag.is_some() || ethernet.source.is_group() {
        return None;
    }
    let header = Header::parse(bytes.get(ETHERNET..)?)?;
    if header.address.is_wildcard() {
        return None;
    }
    let ours = header.command == Command::Config && header.tag == GUARD_TAG.to_be_bytes();
    let claim = || {
        let argument = bytes.get(ETHERNET + AOE_HEADER..).filter(|_| ours)?;
        let config = Config::parse(argument)?;
        let end = CONFIG_SECTION + usize::from(config.length);
        // A target that serves advertises buffers.
        Claim::parse(argument.get(CONFIG_SECTION..end)?).filter(|_| config.buffer_count == 0)
    };
    let word = if header.flags.contains(Flags::RESPONSE) {
        claim().map_or(Word::Answer, Word::Claim)
    } else {
        Word::Query(claim().filter(|_| header.version == VERSION)?)
    };
    Some(Heard { source: ethernet.source, slot: header.address, word })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::VLAN_TAG;
    use proptest::prelude::*;

    const SLOT: Address = Address { shelf: 7, slot: 3 };
    const HERE: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const THERE: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const LOWEST: Mac = Mac([0, 1, 2, 3, 4, 5]);

    #[test]
    fn what_is_said_is_understood() {
        for stance in Stance::ALL {
            let claim = Claim { stance, lowest: LOWEST };
            let asked = query(HERE, SLOT, 0, claim);
            assert_eq!(read(&asked), Some(Heard { source: HERE, slot: SLOT, word: Word::Query(claim) }));
            let answered = answer(THERE, HERE, SLOT, 0, claim);
            assert_eq!(read(&answered), Some(Heard { source: THERE, slot: SLOT, word: Word::Claim(claim) }));
            assert_eq!((asked[..6].to_vec(), answered[..6].to_vec()), (vec![0xff; 6], HERE.0.to_vec()));
            assert!(asked.len() >= 60 && answered[14] == 0x18 && answered[24..26] == [0, 0]);
            // On a VLAN the same with a tag in it.
            let mut tagged = query(HERE, SLOT, 5, claim);
            assert_eq!(tagged.drain(12..12 + VLAN_TAG).collect::<Vec<_>>(), [0x81, 0, 0, 5]);
            assert_eq!(tagged, asked);
        }
    }

    #[test]
    fn every_other_response_is_that_of_a_target() {
        let claim = Claim { stance: Stance::Asks, lowest: LOWEST };
        let answered = Some(Heard { source: THERE, slot: SLOT, word: Word::Answer });
        // Buffers, another tag, command, version or text, an error, and nothing behind the header.
        for (at, value) in [(25, 1), (23, 0), (19, 0), (32, b'X'), (14, 0x1c), (31, 3)] {
            let mut bytes = answer(THERE, HERE, SLOT, 0, claim);
            bytes[at] = value;
            let want = if at == 14 { Some(Word::Claim(claim)) } else { Some(Word::Answer) };
            assert_eq!(read(&bytes).map(|h| h.word), want, "byte {at}");
        }
        assert_eq!(read(&answer(THERE, HERE, SLOT, 0, claim)[..24]), answered);
        let mut vblade = answer(THERE, HERE, SLOT, 0, claim);
        vblade[14] = 8;
        vblade[20..24].fill(0);
        assert_eq!(read(&vblade), answered);
    }

    #[test]
    fn requests_of_hosts_do_not_matter() {
        let claim = Claim { stance: Stance::Asks, lowest: LOWEST };
        for (at, value) in [(14, 0), (14, 0x20), (19, 0), (23, 0), (32, b'X'), (16, 0xff), (6, 3), (12, 8)] {
            let mut bytes = query(HERE, SLOT, 0, claim);
            bytes[at] = value;
            if at == 16 {
                bytes[17] = 0xff;
            }
            assert_eq!(read(&bytes), None, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..128), aoe: bool, length: u16) {
            if aoe && bytes.len() > 32 {
                bytes[12..16].copy_from_slice(&[0x88, 0xa2, 0x18, 0]);
                bytes[19] = 1;
                bytes[20..24].copy_from_slice(&GUARD_TAG.to_be_bytes());
                bytes[30..32].copy_from_slice(&length.to_be_bytes());
            }
            let _ = read(&bytes);
        }

        #[test]
        fn a_cut_claim_is_no_claim(cut in 0usize..68) {
            let claim = Claim { stance: Stance::Holds, lowest: LOWEST };
            let whole = query(HERE, SLOT, 0, claim);
            prop_assert_eq!(read(&whole[..cut.min(whole.len() - 1)]), None);
        }
    }
}
